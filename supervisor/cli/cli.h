/* cli.h: every verb but `run`: a client of the daemon's control socket (HTTP on runtime_dir/control.sock).
 * Exit codes: 0 done, 1 failed, 2 usage, 3 the daemon does not run. */
#ifndef LSV_CLI_CLI_H
#define LSV_CLI_CLI_H

#include "core/config.h"

/* check_tls: what judges certificates for `check` (no library of the CLI's does); NULL: they are not judged. */
int cli_main(int argc, char **argv, config_tls_check_fn *check_tls);
/* The configuration that `run` reads when none is named: /etc/… for root, else $XDG_CONFIG_HOME/…; malloc'd. */
char *cli_default_config(void);

#endif
