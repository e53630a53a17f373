/* foreign.h: the end of a foreign library that put handles of its own on our loop (loop_uv). libuv closes handles in later
 * turns, so such a library can free its memory only after them. */
#ifndef LSV_NET_FOREIGN_H
#define LSV_NET_FOREIGN_H

#include "net/loop.h"

/* Call it when the library was told to close everything. Calls fn once, from the loop, as soon as no handle of the loop is being
 * closed any more, those included that the library closes from its own closing callbacks. loop_free still runs it; until
 * then the loop does not sleep. 0, or -ENOMEM (fn will not be called). */
int foreign_when_closed(struct loop *loop, void (*fn)(void *owner), void *owner);

#endif
