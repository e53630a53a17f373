/* server.c: the server as a whole: its life, limits, counters and the count of connections per address. */
#include "net/server_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { DESCRIPTORS_KEPT_MIN = 64 };

const struct server_limits server_limits_default = {
        .head_timeout = 10 * USEC_PER_SEC,
        .idle_timeout = 75 * USEC_PER_SEC,
        .write_timeout = 60 * USEC_PER_SEC,
        .connections_max = 20000,
        .per_address_max = 256,
        .write_buffer_max = 1024 * 1024,
        .queued_max = 64 * 1024 * 1024,
        .bodies_max = 256 * 1024 * 1024,
        .body_grace = 30 * USEC_PER_SEC,
        .body_window = 10 * USEC_PER_SEC,
        .body_rate = 1024,
        .send_buffer = 128 * 1024,
};

/* The kernel gives the lowest free number, so a number tells how many are taken, detached connections included. */
static int first_kept_descriptor(void)
{
        struct rlimit limit;
        rlim_t n;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT_MAX)
                return INT_MAX;
        n = limit.rlim_cur;
        return (int)(n - MIN(MAX(n / 8, (rlim_t)DESCRIPTORS_KEPT_MIN), n / 2));
}

/* Runs after the deferred calls of all connections and requests, which were queued before it. */
static void server_release(struct deferred *d)
{
        struct server *s = CONTAINER_OF(d, struct server, later);

        while (!list_is_empty(&s->spares))
                (void)request_free(LIST_ENTRY(s->spares.next, struct request, node));
        /* Those that somebody still holds go without the server. */
        for (unsigned i = 0; i < ADDRESS_BUCKETS; i++)
                while (!list_is_empty(&s->addresses[i]))
                        list_remove(s->addresses[i].next);
        (void)request_free(s->next);
        free(s);
}

int server_new(struct loop *loop, const struct server_limits *limits, server_request_fn *on_request,
               void *owner, struct server **ret)
{
        struct server *s = calloc(1, sizeof *s);
        int r;

        if (!s)
                return -ENOMEM;
        s->loop = loop;
        s->limits = limits ? *limits : server_limits_default;
        s->on_request = on_request;
        s->owner = owner;
        list_init(&s->listeners);
        list_init(&s->conns);
        list_init(&s->spares);
        for (unsigned i = 0; i < ADDRESS_BUCKETS; i++)
                list_init(&s->addresses[i]);
        deferred_init(&s->later, server_release);
        s->fd_max = first_kept_descriptor();
        s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (s->reserve < 0) {
                r = -errno;
                free(s);
                return r;
        }
        r = timer_new(loop, server_resume_accepting, s, &s->pause);
        if (r < 0) {
                (void)close(s->reserve);
                free(s);
                return r;
        }
        *ret = s;
        return 0;
}

struct server *server_free(struct server *s)
{
        if (!s || s->dead)
                return NULL;
        s->dead = true;
        s->stopping = true;
        while (!list_is_empty(&s->listeners))
                (void)listener_free(LIST_ENTRY(s->listeners.next, struct listener, node));
        while (!list_is_empty(&s->conns))
                conn_gone(LIST_ENTRY(s->conns.next, struct conn, node));
        s->pause = timer_free(s->pause);
        if (s->reserve >= 0)
                (void)close(s->reserve);
        loop_defer(s->loop, &s->later);
        return NULL;
}

const struct server_counts *server_counts(const struct server *s)
{
        return &s->counts;
}

void server_set_bodies_max(struct server *s, size_t max)
{
        s->limits.bodies_max = max;
}

void server_stop_listening(struct server *s)
{
        s->stopping = true;
        LIST_FOREACH(&s->listeners, it)
        listener_stop(LIST_ENTRY(it, struct listener, node));
        LIST_FOREACH(&s->conns, it)
        {
                struct conn *c = LIST_ENTRY(it, struct conn, node);

                /* Nothing of a request has come yet: it may close without harm. */
                if (!c->req && !c->channel.on && !c->in.len && !c->draining && !c->processing &&
                    !stream_queued(c->stream))
                        conn_close(c);
        }
}

unsigned server_end_marked(struct server *s, uint64_t mark)
{
        struct list all;
        unsigned n = 0;

        /* What is told that it is gone may end other connections, so none is remembered while one is told. */
        list_init(&all);
        while (!list_is_empty(&s->conns)) {
                struct list *node = s->conns.next;

                list_remove(node);
                list_append(&all, node);
        }
        while (!list_is_empty(&all)) {
                struct conn *c = LIST_ENTRY(all.next, struct conn, node);

                list_remove(&c->node);
                list_append(&s->conns, &c->node);
                if (!c->req || c->req->mark != mark)
                        continue;
                conn_gone(c);
                n++;
        }
        return n;
}
