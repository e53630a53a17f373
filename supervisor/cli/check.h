/* check.h: `llama-supervisor check`: reads a configuration as the daemon would and says what it thinks of it. */
#ifndef LSV_CLI_CHECK_H
#define LSV_CLI_CHECK_H

#include "core/config.h"

/* Problems go to stderr, one a line as "FILE:LINE:COLUMN: KEY: MESSAGE", then "FILE: ok, N instances" to stdout; with json
 * one object {"file","ok","instances","errors","warnings","problems":[{"file","line","column","key","message","level"}],"dropped"}
 * to stdout. 0: good, perhaps with warnings; 1: not. */
int check_main(const char *file, bool json, config_tls_check_fn *check_tls);
/* The effective configuration (config_print) to stdout, problems to stderr. 0 or 1. */
int check_print(const char *file);
/* The table of keys as JSON (config_print_keys) to stdout. 0 or 1. */
int check_print_keys(void);

#endif
