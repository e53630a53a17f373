/* foreign.c: waits for the closing of other handles by being one of them: each closing callback comes in a turn of its own. */
#include "net/foreign.h"

#include <errno.h>
#include <stdlib.h>
#include <uv.h>

#include "base/macros.h"

struct waiter {
        uv_idle_t uv; /* never started: it only closes */
        uv_loop_t *loop;
        void (*fn)(void *owner);
        void *owner;
};

static void on_waiter_closed(uv_handle_t *handle);

static void count_closing(uv_handle_t *handle, void *arg)
{
        unsigned *n = arg;

        /* Two waiters must not wait for each other. */
        if (uv_is_closing(handle) && handle->close_cb != on_waiter_closed)
                ++*n;
}

static void close_again(struct waiter *w)
{
        (void)uv_idle_init(w->loop, &w->uv);
        uv_close((uv_handle_t *)&w->uv, on_waiter_closed);
}

static void on_waiter_closed(uv_handle_t *handle)
{
        struct waiter *w = CONTAINER_OF((uv_idle_t *)handle, struct waiter, uv);
        unsigned closing = 0;

        uv_walk(w->loop, count_closing, &closing);
        if (closing) {
                close_again(w);
                return;
        }
        w->fn(w->owner);
        free(w);
}

int foreign_when_closed(struct loop *loop, void (*fn)(void *owner), void *owner)
{
        struct waiter *w = calloc(1, sizeof(*w));

        if (!w)
                return -ENOMEM;
        w->loop = loop_uv(loop);
        w->fn = fn;
        w->owner = owner;
        close_again(w);
        return 0;
}
