/* loop_private.h: what the rooms of net/ alone may know of the loop; nobody above this floor includes it. */
#ifndef LSV_NET_LOOP_PRIVATE_H
#define LSV_NET_LOOP_PRIVATE_H

#include <uv.h>

#include "base/list.h"
#include "net/loop.h"

uv_loop_t *loop_libuv(struct loop *loop);

/* Every libuv callback begins with it: something happened, so this turn ends with the turn functions. Returns loop_now. */
usec_t loop_note(struct loop *loop);

/* Calls fn at the end of this turn, before the turn functions: for what must not happen inside the caller's own call
 * (an early failure, a free in the middle of a batch). Deferring again before it ran changes nothing. */
struct deferred {
        struct list node;
        void (*fn)(struct deferred *d);
};
void deferred_init(struct deferred *d, void (*fn)(struct deferred *d));
void loop_defer(struct loop *loop, struct deferred *d);
void deferred_cancel(struct deferred *d); /* also of one that is not waiting */

/* One read buffer for all streams: filled by libuv and consumed in the read callback that follows at once. */
enum { LOOP_SCRATCH_SIZE = 64 * 1024 };
char *loop_scratch(struct loop *loop);

#endif
