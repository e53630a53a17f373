/* filewatch.h: says when one of a few small files has changed: looked at once a second, in libuv's pool, by name.
 *
 * By name and not by inotify, since what is watched (keys, certificates) is often a link into a folder that is swapped as a whole
 * (Kubernetes, certbot), which a watch of the file or its folder would miss. A change is told when the next look sees the same
 * again, so that files which belong together, or are written slowly, are told of once: within about two seconds. */
#ifndef LSV_NET_FILEWATCH_H
#define LSV_NET_FILEWATCH_H

#include "net/loop.h"

enum { FILEWATCH_FILES = 2, FILEWATCH_PATH_MAX = 4096 };

struct filewatch;
typedef void filewatch_fn(void *owner, usec_t now);

/* Files as they are now (this first look is made here, so read them after it) are what later looks are compared with; a file that is
 * missing is a state like another. b may be NULL. Paths are copied. 0, -ENAMETOOLONG or -ENOMEM. */
int filewatch_new(struct loop *loop, const char *a, const char *b, filewatch_fn *on_change, void *owner,
                  struct filewatch **ret);
struct filewatch *filewatch_free(struct filewatch *w); /* NULL is fine; fine inside on_change; always NULL */

#endif
