/* upstream.c: one server and the small pool of connections to it. */
#include "net/upstream_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"

/* llama-server closes after 5 s: earlier than that, so that no request meets the close on its way. */
static const usec_t KEEP_MAX = 4 * USEC_PER_SEC;

/* --- connections ------------------------------------------------------------------------------------------------ */

static struct leg *leg_free(struct leg *l)
{
        if (!list_is_empty(&l->node)) {
                list_remove(&l->node);
                l->upstream->n_idle--;
        }
        l->stream = stream_free(l->stream);
        free(l);
        return NULL;
}

static void on_connect(void *owner, int error)
{
        struct leg *l = owner;

        if (error == 0)
                l->peer_pid = stream_peer_pid(l->stream);
        exchange_on_connect(l->exchange, error);
}

static void on_read(void *owner, char *data, size_t len)
{
        struct leg *l = owner;

        if (l->exchange)
                exchange_on_bytes(l->exchange, data, len);
        else
                (void)leg_free(l); /* bytes that nobody asked for */
}

static void on_end(void *owner, int error)
{
        struct leg *l = owner;

        if (l->exchange)
                exchange_on_end(l->exchange, error);
        else
                (void)leg_free(l);
}

static void on_drain(void *owner)
{
        struct leg *l = owner;

        if (l->exchange)
                exchange_on_drain(l->exchange);
}

static const struct stream_events leg_events = {
        .on_connect = on_connect,
        .on_read = on_read,
        .on_end = on_end,
        .on_drain = on_drain,
};

int leg_connect(struct upstream *u, struct exchange *x, struct leg **ret)
{
        struct leg *l = calloc(1, sizeof *l);
        int r;

        if (!l)
                return -ENOMEM;
        list_init(&l->node);
        l->upstream = u;
        l->left = UINT32_MAX;
        r = stream_connect(u->loop, &u->to, &leg_events, l, &l->stream);
        if (r < 0) {
                free(l);
                return r;
        }
        l->exchange = x;
        u->counts.connects++;
        *ret = l;
        return 0;
}

/* The newest: the others may then grow old and go. */
struct leg *leg_reuse(struct upstream *u, struct exchange *x)
{
        struct leg *l;

        if (list_is_empty(&u->idle))
                return NULL;
        l = LIST_ENTRY(u->idle.prev, struct leg, node);
        list_remove(&l->node);
        u->n_idle--;
        u->counts.reused++;
        l->reused = true;
        l->exchange = x;
        return l;
}

void leg_release(struct leg *l, bool reusable, usec_t keep)
{
        struct upstream *u = l->upstream;

        l->exchange = NULL;
        if (!reusable || !l->left || u->n_idle >= u->max_idle) {
                (void)leg_free(l);
                return;
        }
        l->until = usec_add(loop_now(u->loop), MIN(keep, KEEP_MAX));
        list_append(&u->idle, &l->node);
        if (u->n_idle++ == 0)
                timer_set(u->idle_timer, l->until);
}

/* Nearly always they are due in the order of the list; one that the server keeps shorter is met at the next look. */
static void on_idle_timer(void *owner, usec_t now)
{
        struct upstream *u = owner;
        usec_t next = USEC_INFINITY;

        LIST_FOREACH(&u->idle, it)
        {
                struct leg *l = LIST_ENTRY(it, struct leg, node);

                if (l->until <= now)
                        (void)leg_free(l);
                else
                        next = MIN(next, l->until);
        }
        timer_set(u->idle_timer, next);
}

/* --- public ----------------------------------------------------------------------------------------------------- */

int upstream_new(struct loop *loop, const struct endpoint *to, unsigned max_idle, struct upstream **ret)
{
        char host[ENDPOINT_TEXT_MAX];
        struct upstream *u;
        int r;

        if (!to->len)
                return -EINVAL;
        u = calloc(1, sizeof *u);
        if (!u)
                return -ENOMEM;
        r = timer_new(loop, on_idle_timer, u, &u->idle_timer);
        if (r < 0) {
                free(u);
                return r;
        }
        u->loop = loop;
        u->to = *to;
        u->max_idle = max_idle;
        (void)snprintf(u->host, sizeof u->host, "Host: %s\r\n", endpoint_host(to, host, sizeof host));
        list_init(&u->idle);
        list_init(&u->running);
        list_init(&u->spares);
        *ret = u;
        return 0;
}

void upstream_set_max_idle(struct upstream *u, unsigned max_idle)
{
        u->max_idle = max_idle;
        while (u->n_idle > max_idle)
                (void)leg_free(LIST_ENTRY(u->idle.next, struct leg, node));
}

void upstream_close_idle(struct upstream *u)
{
        while (!list_is_empty(&u->idle))
                (void)leg_free(LIST_ENTRY(u->idle.next, struct leg, node));
}

struct upstream *upstream_free(struct upstream *u)
{
        if (!u)
                return NULL;
        if (u->gone)
                *u->gone = true;
        while (!list_is_empty(&u->running))
                (void)exchange_cancel(LIST_ENTRY(u->running.next, struct exchange, node));
        upstream_close_idle(u);
        while (!list_is_empty(&u->spares))
                (void)exchange_free(LIST_ENTRY(u->spares.next, struct exchange, node));
        u->idle_timer = timer_free(u->idle_timer);
        free(u);
        return NULL;
}

const struct upstream_counts *upstream_counts(const struct upstream *u)
{
        return &u->counts;
}

unsigned upstream_running(const struct upstream *u)
{
        return u->n_running;
}
