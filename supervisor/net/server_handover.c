/* server_handover.c: the server's part in giving everything to another program: held, quiet, handed on, taken over. */
#include <errno.h>
#include <unistd.h>

#include "net/server_private.h"

void server_set_closing(struct server *s, bool on)
{
        s->closing = on;
}

void server_hold(struct server *s, bool on)
{
        if (s->held == on)
                return;
        s->held = on;
        LIST_FOREACH(&s->listeners, it)
        {
                struct listener *l = LIST_ENTRY(it, struct listener, node);

                if (l->watch && on)
                        (void)watch_set(l->watch, 0);
        }
        LIST_FOREACH(&s->conns, it)
        conn_hold(LIST_ENTRY(it, struct conn, node));
        if (!on)
                server_resume_accepting(s, loop_now(s->loop));
}

static bool begins_over_tls(const struct conn *c)
{
        usec_t now = loop_now(c->server->loop);

        return c->listener->tls && !c->req &&
               ((c->server->held && now < c->greeted_until) ||
                (c->head_since && usec_sub(now, c->head_since) < CONN_TLS_PATIENCE));
}

static bool is_busy(const struct conn *c)
{
        if (c->dead || c->channel.on || c->lingering)
                return false;
        if (c->req)
                return !c->req->standing;
        return c->draining || stream_queued(c->stream) > 0 || begins_over_tls(c);
}

unsigned server_busy(const struct server *s)
{
        unsigned n = 0;

        LIST_FOREACH(&s->conns, it)
        n += is_busy(LIST_ENTRY(it, struct conn, node));
        return n;
}

void server_each_busy(struct server *s, server_busy_fn *fn, void *owner)
{
        usec_t now = loop_now(s->loop);

        LIST_FOREACH(&s->conns, it)
        {
                const struct conn *c = LIST_ENTRY(it, struct conn, node);

                /* It has been idle since its request began, or ended. */
                if (is_busy(c))
                        fn(owner, c->req, c->peer, usec_sub(now, c->idle_since));
        }
}

/* Ends those for which is() holds, as if their clients had gone. What is told of it may end others, so none is remembered while one
 * is told. */
static void end_each(struct server *s, bool (*is)(const struct conn *c))
{
        struct list all;

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
                if (is(c))
                        conn_gone(c);
        }
}

static bool is_standing(const struct conn *c)
{
        return !c->dead && (c->channel.on || (c->req && c->req->standing));
}

void server_end_standing(struct server *s)
{
        end_each(s, is_standing);
}

void server_cut(struct server *s)
{
        end_each(s, is_busy);
}

static bool is_portable(const struct conn *c)
{
        return conn_is_between(c) && !c->listener->tls && c->listener->fd >= 0 && stream_fd(c->stream) >= 0;
}

bool server_is_quiet(const struct server *s)
{
        LIST_FOREACH(&s->conns, it)
        {
                const struct conn *c = LIST_ENTRY(it, struct conn, node);

                if (!c->dead && !is_portable(c))
                        return false;
        }
        return true;
}

void server_each_portable(struct server *s, server_portable_fn *fn, void *owner)
{
        LIST_FOREACH(&s->conns, it)
        {
                const struct conn *c = LIST_ENTRY(it, struct conn, node);

                if (is_portable(c))
                        fn(owner, stream_fd(c->stream), c->listener, c->in.data ? c->in.data : "", c->in.len);
        }
}

int server_adopt(struct server *s, struct listener *l, int fd, const char *bytes, size_t len)
{
        struct endpoint from = {.len = sizeof(from.addr)};
        struct conn *c;
        int r;

        /* ENOTCONN: the client has gone meanwhile. */
        if (s->stopping || l->tls || getpeername(fd, &from.addr.sa, &from.len) < 0) {
                r = s->stopping || l->tls ? -EINVAL : -errno;
                (void)close(fd);
                return r;
        }
        r = listener_admit(l, fd, &from, &c);
        if (r < 0)
                return r;
        s->counts.accepted--; /* it was counted when it came */
        if (len && buffer_append(&c->in, bytes, len) < 0) {
                conn_kill(c);
                return -ENOMEM;
        }
        conn_continue(c);
        return 0;
}
