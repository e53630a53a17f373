/* binary.h: the llama-server programs we are told to run: where they are, and what their --help knows.
 *
 * Each binary's --help is run once (15 s at most, clean environment, output into a memfd) and kept until the file changes
 * (inode, size or mtime). A program whose help cannot be read is not refused: it just gets no flags of ours and a TCP
 * port instead of a unix socket. Callbacks come from the loop, never from inside binary_ask. */
#ifndef LSV_HOST_BINARY_H
#define LSV_HOST_BINARY_H

#include "core/help.h"
#include "net/loop.h"

struct binaries;

int binaries_new(struct loop *loop, char *const *env, struct binaries **ret);
struct binaries *binaries_free(struct binaries *b); /* kills a --help that still runs; always NULL */

/* name: absolute path, or looked up on our PATH. 0 and *ret_path, *ret_help (both belong to `b`, valid until the next call
 * with another state of the file); -EINPROGRESS: on_known is called later for everybody; -ENOENT, -EACCES, -ENOEXEC:
 * it cannot be run. */
int binaries_ask(struct binaries *b, const char *name, const char **ret_path, const struct help **ret_help);
/* How many devices (GPUs) the program sees, by its --list-devices; -1: it does not tell. Read once, as --help; none is asked again after half a
 * minute, since a driver may come later. 0; -EINPROGRESS: on_known follows; else as binaries_ask, which must have been answered before. */
int binaries_devices(struct binaries *b, const char *name, int *ret);
bool binaries_is_asking(const struct binaries *b); /* a --help runs */
/* Called when some help became known (also as "knows nothing"). One callback for all. */
typedef void binaries_known_fn(void *owner, usec_t now);
void binaries_on_known(struct binaries *b, binaries_known_fn *fn, void *owner);

/* The absolute path of a program: 0, -ENOENT, -EACCES. malloc'd. */
int binary_find(const char *name, char **ret);

#endif
