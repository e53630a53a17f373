/* hub_options.h: the options of `hub`. */
#ifndef LSV_CLI_HUB_OPTIONS_H
#define LSV_CLI_HUB_OPTIONS_H

#include "cli/options.h"

struct cli;

extern const struct option_spec cli_hub_options[];
/* What is none of the words that main_hub.c knows. */
int hub_word_main(struct cli *cli); /* what needs no hub but the daemon: `hub status` */
/* hubs.c */
int hub_status_main(struct cli *cli);

#endif
