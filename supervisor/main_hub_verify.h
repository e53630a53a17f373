/* main_hub_verify.h: whether a server has read users.conf. It takes the file some time after the signal, and it may refuse it. */
#ifndef LSV_MAIN_HUB_VERIFY_H
#define LSV_MAIN_HUB_VERIFY_H

#include "main_hub_private.h"

/* Whether the options are any good, before something is changed. */
int hub_verify_check(struct hub_call *c);
/* `seed` is the probe's that was put into the file at `path` (core/nats_users.h): who is let in by it knows. Asked are the servers of --url, else, when a
 * server of this machine was told, the one of the nats.conf beside the file, for --timeout (10 s) at most. CLI_FAILED: a server goes on with the old
 * file. What cannot be asked is said, and is no failure. With --json: "servers". */
int hub_verify(struct hub_call *c, const char *path, const char *seed, bool was_told);

#endif
