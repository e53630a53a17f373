/* main_hub.h: the verbs of `llama-supervisor hub` that set up, check and keep a NATS hub. They need no daemon, but libnats (blocking,
 * with deadlines) or the hub's files, so they are no verbs of the client; `hub status`, which asks the daemon, is.
 * Exit codes as those of the CLI. */
#ifndef LSV_MAIN_HUB_H
#define LSV_MAIN_HUB_H

#include <stdbool.h>

/* argv[0] is "hub": is it one of ours? What asks the daemon, or is no good, is the CLI's. */
bool hub_is_offline(int argc, char **argv);
int hub_main(int argc, char **argv);

#endif
