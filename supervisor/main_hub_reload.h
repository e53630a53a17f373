/* main_hub_reload.h: telling the servers that have a users file that it changed. */
#ifndef LSV_MAIN_HUB_RELOAD_H
#define LSV_MAIN_HUB_RELOAD_H

#include "main_hub_private.h"

/* Each server of the file, in order; one that cannot be told is named, with the way out, and makes the result CLI_FAILED. With --json: "reloads".
 * *ret_told becomes true when one of this machine was. */
int hub_reload_servers(struct hub_call *c, const char *path, const struct nats_users *u, bool *ret_told);

#endif
