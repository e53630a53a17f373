/* where.h: which configuration and which control socket a client verb is about. Reads files, blocking. */
#ifndef LSV_CLI_WHERE_H
#define LSV_CLI_WHERE_H

#include <stdbool.h>

/* The control socket of the daemon that runs with `config` (NULL: the default one; then a user without a configuration of
 * their own gets the system's daemon if there is one). The file need not be free of errors: a reload of a broken one must
 * reach the daemon that runs with it, so its runtime_dir counts all the same. *ret_note (malloc'd, may be NULL) says
 * what was assumed when the file could not be read. 0 or -ENOMEM; both outputs are malloc'd. */
int where_is_socket(const char *config, char **ret_socket, char **ret_note);

/* The value of the top-level "runtime_dir" as it stands in the text (quotes included), which may be broken JSON behind it;
 * false: not there. For where_is_socket and its test. */
bool where_find_runtime_dir(const char *text, const char **ret, int *ret_len);

#endif
