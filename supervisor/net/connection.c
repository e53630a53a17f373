/* connection.c: one client's connection: reading, deadlines, one request after the other, and closing in order. */
#include "net/server_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static const usec_t LINGER = 2 * USEC_PER_SEC, PEEK_PAUSED = USEC_PER_SEC;

static void conn_settle(struct conn *c);

/* --- ends --------------------------------------------------------------------------------------------------------- */

/* What its reader has not taken, within the server's sum. */
static void conn_account(struct conn *c, size_t queued)
{
        c->server->counts.queued += queued - c->accounted;
        c->accounted = queued;
}

void conn_kill(struct conn *c)
{
        if (c->dead)
                return;
        c->dead = true;
        conn_account(c, 0);
        c->stream = stream_free(c->stream);
        c->timer = timer_free(c->timer);
        list_remove(&c->node);
        address_release(c->address);
        c->server->counts.connections--;
        buffer_finish(&c->in);
        loop_defer(c->server->loop, &c->later);
}

void conn_gone(struct conn *c)
{
        const struct channel_events *on = steal_ptr(c->channel.on);
        struct request *req = steal_ptr(c->req);

        if (on)
                on->on_gone(c->channel.owner, c->slow);
        if (req) {
                req->ended = true;
                request_retire(req);
                if (req->on_gone)
                        req->on_gone(req->gone_owner, req);
        }
        conn_kill(c);
}

/* Everything has been sent. */
static void conn_fin(struct conn *c)
{
        if (c->peer_eof) {
                conn_kill(c);
                return;
        }
        c->lingering = true;
        c->linger_until = usec_add(loop_now(c->server->loop), LINGER);
        stream_shutdown(c->stream);
}

void conn_close(struct conn *c)
{
        if (c->dead || c->closing)
                return;
        c->closing = true;
        if (!stream_queued(c->stream))
                conn_fin(c);
        if (!c->processing)
                conn_settle(c);
}

void conn_refuse(struct conn *c, int status, const char *reason)
{
        conn_refuse_as(c, status, NULL, reason);
}

void conn_refuse_as(struct conn *c, int status, const char *code, const char *reason)
{
        struct request *req = steal_ptr(c->req);
        bool begun = req && req->begun;

        if (!begun && respond_error(c, status, code, reason, req && req->head.method == HTTP1_HEAD) == 0)
                conn_wrote(c);
        if (req) {
                req->ended = true;
                request_retire(req);
                if (req->on_gone)
                        req->on_gone(req->gone_owner, req);
        }
        if (begun)
                conn_kill(c);
        else
                conn_close(c);
}

/* --- deadlines ---------------------------------------------------------------------------------------------------- */

static bool body_is_coming(const struct conn *c)
{
        return c->draining || (c->req && c->req->body_asked && !c->req->body_done);
}

static void conn_set_timer(struct conn *c)
{
        const struct server_limits *limits = &c->server->limits;
        usec_t now = loop_now(c->server->loop), at = USEC_INFINITY;
        bool queued = stream_queued(c->stream) > 0;

        if (c->lingering) {
                timer_set(c->timer, c->linger_until);
                return;
        }
        if (queued)
                at = c->sent_check;
        if (c->closing || c->channel.on)
                ;
        else if (c->more)
                at = now;
        else if (body_is_coming(c))
                at = MIN(at, c->body_check);
        else if (!c->req && c->head_since)
                at = MIN(at, usec_add(c->head_since, limits->head_timeout));
        else if (!c->req && !queued)
                at = MIN(at, usec_add(c->idle_since, limits->idle_timeout));
        if (c->paused)
                at = MIN(at, usec_add(now, PEEK_PAUSED));
        if (c->greeted_until)
                at = MIN(at, c->greeted_until);
        timer_set(c->timer, at);
}

void conn_wrote(struct conn *c)
{
        if (!c->dead)
                conn_account(c, stream_queued(c->stream));
        if (c->dead || c->stuck || !stream_queued(c->stream))
                return;
        c->stuck = true;
        c->sent_mark = stream_progress(c->stream);
        c->sent_at = loop_now(c->server->loop);
        c->sent_check = usec_add(c->sent_at, c->server->limits.write_timeout / 4);
        conn_set_timer(c);
}

void conn_begin_body(struct conn *c)
{
        c->body_graced = false;
        c->body_check = usec_add(loop_now(c->server->loop), c->server->limits.body_grace);
        conn_set_timer(c);
}

/* False when the reader took nothing for too long. */
static bool check_reader(struct conn *c, usec_t now)
{
        usec_t limit = c->server->limits.write_timeout;
        uint64_t sent = stream_progress(c->stream);

        if (sent != c->sent_mark) {
                c->sent_mark = sent;
                c->sent_at = now;
        } else if (now - c->sent_at >= limit) {
                return false;
        }
        c->sent_check = usec_add(now, limit / 4);
        return true;
}

/* False when the body came too slowly since the last look. */
static bool check_body(struct conn *c, usec_t now)
{
        const struct server_limits *limits = &c->server->limits;
        uint64_t due = limits->body_rate * limits->body_window / USEC_PER_SEC;

        if (c->body_graced && c->received - c->body_mark < due)
                return false;
        c->body_graced = true;
        c->body_mark = c->received;
        c->body_check = usec_add(now, limits->body_window);
        return true;
}

static void conn_resume(struct conn *c);

static void on_deadline(void *owner, usec_t now)
{
        struct conn *c = owner;
        struct server_counts *counts = &c->server->counts;
        const struct server_limits *limits = &c->server->limits;
        bool queued = stream_queued(c->stream) > 0;

        if (c->lingering) {
                conn_kill(c);
                return;
        }
        if (queued && now >= c->sent_check && !check_reader(c, now)) {
                counts->timeouts_write++;
                c->slow = true;
                conn_gone(c);
                return;
        }
        if (c->paused && stream_peer_closed(c->stream)) {
                counts->clients_gone += c->req != NULL;
                conn_gone(c);
                return;
        }
        if (c->greeted_until && now >= c->greeted_until) {
                c->greeted_until = 0;
                if (c->server->held)
                        conn_hold(c);
        }
        if (c->dead || c->closing || c->channel.on)
                ;
        else if (c->more)
                conn_resume(c);
        else if (body_is_coming(c)) {
                if (now >= c->body_check && !check_body(c, now)) {
                        counts->timeouts_body++;
                        if (c->draining)
                                conn_kill(c); /* it has its answer */
                        else
                                conn_refuse(c, 408, "the body came too slowly");
                }
        } else if (!c->req && c->head_since) {
                if (now >= usec_add(c->head_since, limits->head_timeout)) {
                        counts->timeouts_head++;
                        counts->tls_failures += !stream_is_ready(c->stream);
                        conn_refuse(c, 408, "the request's head did not come in time");
                }
        } else if (!c->req && !queued && now >= usec_add(c->idle_since, limits->idle_timeout)) {
                counts->timeouts_idle++;
                conn_close(c);
        }
        if (!c->dead)
                conn_set_timer(c);
}

/* --- input -------------------------------------------------------------------------------------------------------- */

static void conn_idle(struct conn *c)
{
        c->idle_since = loop_now(c->server->loop);
        c->head_since = 0;
        http1_parser_init(&c->parser);
}

void conn_use(struct conn *c, size_t n)
{
        c->view += n;
        c->view_len -= n;
}

/* Drops the rest of a body that the owner did not want. */
static bool drain(struct conn *c)
{
        int r = HTTP1_AGAIN;

        while (r == HTTP1_AGAIN) {
                struct slice data;
                size_t used;

                r = http1_body_feed(&c->rest, c->view, c->view_len, &used, &data);
                if (r < 0) {
                        conn_close(c);
                        return false;
                }
                conn_use(c, used);
        }
        if (r == HTTP1_MORE)
                return false;
        c->draining = false;
        conn_idle(c);
        return true;
}

static void move_slice(struct slice *s, const char *from, const char *to)
{
        if (s->p)
                s->p = to + (s->p - from);
}

/* The head was parsed where it lay in the input; its bytes move in with the request. */
static int keep_head(struct request *req, const char *from, size_t len)
{
        struct http1_request *h = &req->head;
        const char *to;
        int r = buffer_append(&req->raw, from, len);

        if (r < 0)
                return r;
        to = req->raw.data;
        move_slice(&h->method_name, from, to);
        move_slice(&h->target, from, to);
        move_slice(&h->path, from, to);
        move_slice(&h->query, from, to);
        move_slice(&h->host, from, to);
        for (size_t i = 0; i < h->n_headers; i++) {
                move_slice(&h->headers[i].name, from, to);
                move_slice(&h->headers[i].value, from, to);
        }
        return 0;
}

static bool begin_request(struct conn *c)
{
        struct server *s = c->server;
        struct request *req;
        int n;

        if (!s->next)
                s->next = request_new(s);
        if (!s->next) {
                conn_refuse(c, 503, "out of memory");
                return false;
        }
        n = http1_request_parse(&c->parser, c->view, c->view_len, NULL, &s->next->head);
        if (n == 0)
                return false;
        if (n < 0) {
                s->counts.bad_requests++;
                conn_refuse(c, -n, c->parser.reason);
                return false;
        }
        /* Whole answers wait for readers who do not take them: in sum as little as one server may hold. */
        if (s->counts.queued > s->limits.queued_max && !c->listener->vital) {
                s->counts.refused_queued++;
                conn_refuse(c, 503, "too much waits for slow readers: try again later");
                return false;
        }
        if (keep_head(s->next, c->view, (size_t)n) < 0) {
                buffer_clear(&s->next->raw);
                conn_refuse(c, 503, "out of memory");
                return false;
        }
        req = steal_ptr(s->next);
        req->conn = c;
        http1_body_init_request(&req->decoder, &req->head, 0);
        conn_use(c, (size_t)n);
        conn_idle(c);
        c->req = req;
        c->greeted_until = 0;
        s->counts.requests++;
        s->on_request(s->owner, req);
        return true;
}

bool conn_is_between(const struct conn *c)
{
        return !c->dead && !c->doomed && !c->req && !c->channel.on && !c->draining && !c->closing &&
               !c->lingering && !c->peer_eof && !stream_queued(c->stream);
}

/* The next request waits where it is, for us or for the program that comes after us. One over TLS cannot be handed on, so what was
 * begun there is finished. */
static bool conn_is_held(const struct conn *c)
{
        return c->server->held && !c->listener->tls && !c->req && !c->draining && !c->channel.on;
}

static void feed_channel(struct conn *c)
{
        const char *data = c->view;
        size_t len = c->view_len;

        conn_use(c, len);
        if (len)
                c->channel.on->on_read(c->channel.owner, data, len);
}

/* One piece of work on the view. True if there may be more to do. */
static bool step(struct conn *c)
{
        if (c->channel.on) {
                feed_channel(c);
                return false;
        }
        if (c->draining)
                return drain(c);
        if (c->req)
                return request_feed(c->req);
        /* A client that sends requests and reads no answers waits here. */
        if (!c->view_len || stream_queued(c->stream) > PIPELINE_QUEUE_MAX || conn_is_held(c))
                return false;
        return begin_request(c);
}

/* Works on the view, then keeps in c->in what is left of it. */
static void conn_process(struct conn *c, bool view_is_in)
{
        unsigned steps = 0;

        c->processing = true;
        c->more = false;
        while (!c->dead && !c->closing && step(c))
                if (++steps >= STEPS_A_TURN) {
                        c->more = true;
                        break;
                }
        c->processing = false;
        if (c->dead)
                return;
        if (c->closing)
                buffer_finish(&c->in);
        else if (view_is_in)
                buffer_consume(&c->in, c->in.len - c->view_len);
        else if (buffer_append(&c->in, c->view, c->view_len) < 0) {
                conn_gone(c);
                return;
        }
        c->view = NULL;
        c->view_len = 0;
        if (!c->in.len && c->in.cap)
                buffer_finish(&c->in); /* idle connections keep no buffer */
        conn_settle(c);
}

static void conn_resume(struct conn *c)
{
        if (c->dead || c->processing)
                return;
        if (c->closing) {
                conn_settle(c);
                return;
        }
        c->view = c->in.data ? c->in.data : "";
        c->view_len = c->in.len;
        conn_process(c, true);
}

static void conn_set_reading(struct conn *c)
{
        bool pause = !c->closing && (c->in.len > INPUT_MAX || conn_is_held(c));

        if (pause == c->paused)
                return;
        c->paused = pause;
        (void)stream_read(c->stream, !pause);
}

void conn_hold(struct conn *c)
{
        if (c->dead || c->closing || c->processing)
                return;
        if (c->server->held && c->listener->tls && conn_is_between(c) && !c->in.len &&
            stream_is_ready(c->stream) && !c->greeted_until)
                conn_close(c);
        else if (!c->server->held)
                conn_continue(c);
        conn_settle(c);
}

/* After any change: reading, the peer's EOF, the next deadline. */
static void conn_settle(struct conn *c)
{
        if (c->dead)
                return;
        if (!c->req && !c->draining && !c->more && c->in.len && !c->head_since &&
            stream_queued(c->stream) <= PIPELINE_QUEUE_MAX)
                c->head_since = loop_now(c->server->loop);
        conn_set_reading(c);
        if (c->peer_eof && !c->req && !c->more && !c->closing) {
                c->closing = true;
                if (!stream_queued(c->stream)) {
                        conn_kill(c);
                        return;
                }
        }
        conn_set_timer(c);
}

static void on_later(struct deferred *d)
{
        struct conn *c = CONTAINER_OF(d, struct conn, later);

        if (c->dead)
                free(c);
        else if (c->doomed)
                conn_gone(c);
        else
                conn_resume(c);
}

void conn_continue(struct conn *c)
{
        if (!c->dead && !c->processing)
                loop_defer(c->server->loop, &c->later);
}

void conn_request_ended(struct conn *c, bool close_after)
{
        if (c->dead)
                return;
        conn_idle(c);
        if (close_after) {
                conn_close(c);
                return;
        }
        if (c->draining)
                conn_begin_body(c);
        conn_continue(c);
}

/* --- the stream's events ------------------------------------------------------------------------------------------ */

static void on_read(void *owner, char *data, size_t len)
{
        struct conn *c = owner;
        bool view_is_in = c->in.len > 0;

        c->received += len;
        if (c->closing) {
                c->lingered += len;
                if (c->lingered > LINGER_BYTES_MAX)
                        conn_kill(c);
                return;
        }
        if (view_is_in && buffer_append(&c->in, data, len) < 0) {
                conn_gone(c);
                return;
        }
        c->view = view_is_in ? c->in.data : data;
        c->view_len = view_is_in ? c->in.len : len;
        conn_process(c, view_is_in);
}

static void on_end(void *owner, int error)
{
        struct conn *c = owner;

        c->peer_eof = true;
        c->server->counts.clients_gone += c->req != NULL;
        c->server->counts.tls_failures += !c->closing && !stream_is_ready(c->stream);
        if (error || c->req || c->channel.on || c->draining || c->lingering)
                conn_gone(c);
        else if (c->closing) {
                if (!stream_queued(c->stream))
                        conn_kill(c);
        } else
                conn_settle(c);
}

static void on_drain(void *owner)
{
        struct conn *c = owner;
        struct request *req = c->req;

        c->stuck = false;
        conn_account(c, 0);
        if (c->closing) {
                conn_fin(c);
                conn_settle(c);
                return;
        }
        if (c->channel.on) {
                c->channel.on->on_drain(c->channel.owner);
                if (!c->dead)
                        conn_settle(c);
                return;
        }
        if (req && req->on_drain) {
                req->on_drain(req->drain_owner, req);
                if (!c->dead)
                        conn_settle(c);
                return;
        }
        if (!req)
                c->idle_since = loop_now(c->server->loop);
        conn_resume(c);
}

/* The end of a TLS handshake. */
static void on_connect(void *owner, int error)
{
        struct conn *c = owner;

        if (error == 0) {
                c->server->counts.tls_handshakes++;
                conn_idle(c);
                c->greeted_until = usec_add(c->idle_since, CONN_TLS_PATIENCE);
                conn_set_timer(c);
                return;
        }
        c->server->counts.tls_plain++;
        conn_refuse(c, 400, "this address speaks TLS: use https://");
}

static const struct stream_events conn_events = {
        .on_connect = on_connect,
        .on_read = on_read,
        .on_end = on_end,
        .on_drain = on_drain,
};

static void name_peer(struct conn *c, const struct endpoint *from)
{
        switch (from->addr.sa.sa_family) {
        case AF_INET:
                (void)inet_ntop(AF_INET, &from->addr.in.sin_addr, c->peer, sizeof c->peer);
                break;
        case AF_INET6:
                (void)inet_ntop(AF_INET6, &from->addr.in6.sin6_addr, c->peer, sizeof c->peer);
                break;
        default:
                (void)snprintf(c->peer, sizeof c->peer, "unix");
        }
}

/* Takes the descriptor, also when it fails; the address only when it does not. */
int conn_new(struct listener *l, int fd, const struct endpoint *from, struct address *address,
             struct conn **ret)
{
        struct server *s = l->server;
        struct conn *c = calloc(1, sizeof *c);
        int r;

        if (!c) {
                (void)close(fd);
                return -ENOMEM;
        }
        c->server = s;
        c->listener = l;
        deferred_init(&c->later, on_later);
        buffer_init(&c->in, 0);
        r = stream_open(s->loop, fd, endpoint_is_unix(&l->at), &conn_events, c, &c->stream);
        if (r == 0 && l->tls)
                r = stream_serve_tls(c->stream, l->tls);
        if (r == 0)
                r = timer_new(s->loop, on_deadline, c, &c->timer);
        if (r == 0)
                r = stream_read(c->stream, true);
        if (r < 0) {
                c->timer = timer_free(c->timer);
                c->stream = stream_free(c->stream);
                free(c);
                return r;
        }
        name_peer(c, from);
        c->address = address;
        list_append(&s->conns, &c->node);
        s->counts.connections++;
        conn_idle(c);
        if (l->tls)
                c->head_since = loop_now(s->loop);
        conn_set_timer(c);
        *ret = c;
        return 0;
}
