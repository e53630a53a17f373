/* resolve.h: host names to addresses, by getaddrinfo(3) in libuv's pool, so that a slow name server holds nobody up.
 *
 * An address given as a name needs no question and is answered all the same by the callback, never from inside resolve_start. The
 * resolver's own patience (resolv.conf) is the only deadline here: who asks has one of his own and lets go with resolve_cancel. */
#ifndef LSV_NET_RESOLVE_H
#define LSV_NET_RESOLVE_H

#include <netinet/in.h>

#include "core/endpoint.h"
#include "net/loop.h"

enum { RESOLVE_ADDRESSES_MAX = 4, RESOLVE_HOST_MAX = 254 };

struct resolve;

/* n addresses in the order of the system's preference, valid during the call. n is 0 when there are none, and why says it: static text.
 * The question is gone after. */
typedef void resolve_fn(void *owner, const struct endpoint *list, unsigned n, const char *why);

/* 0, -EINVAL (no name at all, too long), -EAGAIN (too much waits in the pool), -ENOMEM. */
int resolve_start(struct loop *loop, const char *host, unsigned port, resolve_fn *fn, void *owner,
                  struct resolve **ret);
/* Nothing is called any more. Takes NULL, always NULL. */
struct resolve *resolve_cancel(struct resolve *r);

#endif
