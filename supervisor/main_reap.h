/* main_reap.h: `llama-supervisor reap`: ends what a daemon that is gone has left. Exit codes as those of the CLI. */
#ifndef LSV_MAIN_REAP_H
#define LSV_MAIN_REAP_H

/* argv[0] is "reap". */
int reap_main(int argc, char **argv);

#endif
