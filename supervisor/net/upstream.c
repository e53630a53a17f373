/* upstream.c: exchanges with one HTTP/1.1 server over a small pool of connections. */
#include "net/upstream.h"

#include <errno.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/macros.h"
#include "core/http1_build.h"
#include "net/loop_private.h"
#include "net/stream.h"

enum {
        INTERIM_MAX = 8,             /* 1xx heads before the answer */
        BODY_AT_ONCE = 64 * 1024,    /* reserved ahead for an answer that tells its length */
        SPARE_BUFFER_MAX = 64 * 1024 /* a spare exchange keeps no larger buffer than this */
};

/* A connection: idle in the pool, or with one exchange. */
struct link {
        struct list node; /* in upstream.idle, newest last; in no list while it has an exchange */
        struct upstream *upstream;
        struct exchange *exchange;
        struct stream *stream;
        bool reused;
};

struct exchange {
        struct list node; /* in upstream.running */
        struct upstream *upstream;
        struct link *link;
        exchange_done_fn *on_done;
        void *owner;
        struct timer *timer;
        struct deferred late; /* a failure to tell from outside upstream_start */
        enum http1_method method;
        bool fresh, connected, in_body, keep_alive;
        usec_t start, connect_by, first_by, by;
        usec_t connected_after, first_byte_after;
        uint64_t bytes;
        uint64_t sent_before; /* the connection's counter when this exchange got it */
        size_t body_max;
        struct buffer out; /* the request; kept whole for a second try */
        struct buffer head, body;
        struct http1_parser parser;
        struct http1_body decoder;
        unsigned interim;
        int status, error;
        pid_t peer_pid;
};

struct upstream {
        struct loop *loop;
        struct endpoint to;
        char host[ENDPOINT_TEXT_MAX];
        unsigned max_idle, n_idle;
        struct list idle, running;
        struct exchange *spare; /* saves the probes their allocations */
        bool *gone;             /* set while on_done runs: whether it freed us */
        struct upstream_counts counts;
};

static void exchange_connect(struct exchange *x);
static void exchange_on_bytes(struct exchange *x, const char *data, size_t len);
static void exchange_on_end(struct exchange *x, int error);

/* --- connections ------------------------------------------------------------------------------------------------ */

static struct link *link_free(struct link *l)
{
        if (!l)
                return NULL;
        if (!list_is_empty(&l->node)) {
                list_remove(&l->node);
                l->upstream->n_idle--;
        }
        l->stream = stream_free(l->stream);
        free(l);
        return NULL;
}

static void link_on_connect(void *owner, int error);

static void link_on_read(void *owner, const char *data, size_t len)
{
        struct link *l = owner;

        if (l->exchange)
                exchange_on_bytes(l->exchange, data, len);
        else
                (void)link_free(l); /* bytes that nobody asked for */
}

static void link_on_end(void *owner, int error)
{
        struct link *l = owner;

        if (l->exchange)
                exchange_on_end(l->exchange, error);
        else
                (void)link_free(l);
}

static void link_on_drain(void *owner)
{
        (void)owner;
}

static const struct stream_events link_events = {
        .on_connect = link_on_connect,
        .on_read = link_on_read,
        .on_end = link_on_end,
        .on_drain = link_on_drain,
};

static int link_new(struct upstream *u, struct exchange *x, struct link **ret)
{
        struct link *l = calloc(1, sizeof *l);
        int r;

        if (!l)
                return -ENOMEM;
        list_init(&l->node);
        l->upstream = u;
        r = stream_connect(u->loop, &u->to, &link_events, l, &l->stream);
        if (r < 0) {
                free(l);
                return r;
        }
        l->exchange = x;
        u->counts.connects++;
        *ret = l;
        return 0;
}

/* --- the end of an exchange --------------------------------------------------------------------------------------- */

static struct exchange *exchange_free(struct exchange *x)
{
        if (!x)
                return NULL;
        deferred_cancel(&x->late);
        list_remove(&x->node);
        x->timer = timer_free(x->timer);
        buffer_finish(&x->out);
        buffer_finish(&x->head);
        buffer_finish(&x->body);
        free(x);
        return NULL;
}

static void tidy(struct buffer *b)
{
        if (b->cap > SPARE_BUFFER_MAX)
                buffer_finish(b);
        else
                buffer_clear(b);
}

/* Keeps one for the next question, with its timer and buffers. */
static void exchange_recycle(struct upstream *u, struct exchange *x)
{
        if (u->spare) {
                (void)exchange_free(x);
                return;
        }
        timer_set(x->timer, USEC_INFINITY);
        tidy(&x->out);
        tidy(&x->head);
        tidy(&x->body);
        u->spare = x;
}

/* Gives the connection back to the pool, or closes it. */
static void exchange_let_go(struct exchange *x, bool reusable)
{
        struct upstream *u = x->upstream;
        struct link *l = x->link;

        x->link = NULL;
        if (!l)
                return;
        l->exchange = NULL;
        if (!reusable || u->n_idle >= u->max_idle) {
                (void)link_free(l);
                return;
        }
        l->reused = true;
        list_append(&u->idle, &l->node);
        u->n_idle++;
}

static void exchange_finish(struct exchange *x, enum exchange_result result, bool reusable)
{
        struct upstream *u = x->upstream;
        usec_t now = loop_now(u->loop);
        struct exchange_answer answer = {
                .result = result,
                .error = x->error,
                .status = x->status,
                .body = "",
                .peer_pid = x->peer_pid,
                .bytes = x->bytes,
                .connected_after = x->connected_after,
                .first_byte_after = x->first_byte_after,
        };
        bool gone = false;

        exchange_let_go(x, reusable);
        deferred_cancel(&x->late);
        list_remove(&x->node);
        if (x->body.data) {
                answer.body = x->body.data;
                answer.body_len = x->body.len;
        }
        if (result == EXCHANGE_OK)
                answer.done_after = MAX(usec_sub(now, x->start), 1);
        else
                u->counts.failures++;
        u->gone = &gone;
        x->on_done(x->owner, &answer, now);
        if (gone) {
                (void)exchange_free(x);
                return;
        }
        u->gone = NULL;
        exchange_recycle(u, x);
}

static void on_late_failure(struct deferred *d)
{
        struct exchange *x = CONTAINER_OF(d, struct exchange, late);

        exchange_finish(x, EXCHANGE_FAILED, false);
}

static void exchange_fail_late(struct exchange *x, int error)
{
        x->error = error;
        loop_defer(x->upstream->loop, &x->late);
}

/* --- deadlines -------------------------------------------------------------------------------------------------- */

static void exchange_set_timer(struct exchange *x)
{
        usec_t at = x->by;

        if (!x->connected)
                at = MIN(at, x->connect_by);
        if (!x->first_byte_after)
                at = MIN(at, x->first_by);
        timer_set(x->timer, at);
}

static void on_deadline(void *owner, usec_t now)
{
        struct exchange *x = owner;

        (void)now;
        if (!x->connected)
                exchange_finish(x, EXCHANGE_TIMEOUT_CONNECT, false);
        else if (!x->first_byte_after)
                exchange_finish(x, EXCHANGE_TIMEOUT_FIRST, false);
        else
                exchange_finish(x, EXCHANGE_TIMEOUT, false);
}

/* --- the request ------------------------------------------------------------------------------------------------ */

static void exchange_send(struct exchange *x)
{
        struct iovec iov = {.iov_base = x->out.data, .iov_len = x->out.len};
        struct link *l = x->link;
        int r;

        x->sent_before = stream_sent(l->stream);
        r = stream_write(l->stream, &iov, 1);
        if (r == -ENOMEM)
                exchange_fail_late(x, r);
        else if (r == 0)
                x->upstream->counts.bytes_out += x->out.len;
        /* -EPIPE: on_end comes, and it may mean a second try. */
}

static void link_on_connect(void *owner, int error)
{
        struct link *l = owner;
        struct exchange *x = l->exchange;

        if (error) {
                bool local = error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOBUFS ||
                             error == -EADDRNOTAVAIL || error == -EACCES || error == -EPERM;

                x->error = error;
                if (error == -ETIMEDOUT)
                        exchange_finish(x, EXCHANGE_TIMEOUT_CONNECT, false);
                else
                        exchange_finish(x, local ? EXCHANGE_FAILED : EXCHANGE_REFUSED, false);
                return;
        }
        x->connected = true;
        x->connected_after = MAX(usec_sub(loop_now(x->upstream->loop), x->start), 1);
        x->peer_pid = stream_peer_pid(l->stream);
        exchange_set_timer(x);
        if (stream_read(l->stream, true) < 0) {
                exchange_finish(x, EXCHANGE_FAILED, false);
                return;
        }
        exchange_send(x);
}

static void exchange_connect(struct exchange *x)
{
        struct upstream *u = x->upstream;
        int r;

        x->connected = false;
        r = link_new(u, x, &x->link);
        if (r < 0)
                exchange_fail_late(x, r);
        exchange_set_timer(x);
}

static bool exchange_reuse(struct exchange *x)
{
        struct upstream *u = x->upstream;
        struct link *l;

        if (x->fresh || list_is_empty(&u->idle))
                return false;
        l = LIST_ENTRY(u->idle.prev, struct link, node);
        list_remove(&l->node);
        u->n_idle--;
        u->counts.reused++;
        l->exchange = x;
        x->link = l;
        x->connected = true;
        x->peer_pid = stream_peer_pid(l->stream);
        exchange_set_timer(x);
        exchange_send(x);
        return true;
}

/* --- the answer ------------------------------------------------------------------------------------------------- */

/* The head, once it is whole: how its body ends. 1: go on, 0: more bytes are needed, < 0: malformed. *ret_used of the
 * bytes belonged to heads. */
static int read_head(struct exchange *x, const char *data, size_t len, size_t *ret_used)
{
        struct http1_response head;
        size_t used = 0;
        int n;

        for (;;) {
                n = http1_response_parse(&x->parser, data + used, len - used, NULL, x->method, &head);
                if (n <= 0) {
                        *ret_used = used;
                        return n;
                }
                used += (size_t)n;
                if (head.status >= 200 || head.status == 101)
                        break;
                if (++x->interim > INTERIM_MAX)
                        return -EPROTO;
                http1_parser_init(&x->parser);
        }
        x->status = head.status;
        x->keep_alive = head.keep_alive && head.status != 101;
        http1_body_init_response(&x->decoder, &head, 0);
        x->decoder.max = x->body_max; /* where 0 means no body */
        if (head.framing == HTTP1_LENGTH && head.content_length <= MIN(x->body_max, BODY_AT_ONCE) &&
            buffer_reserve(&x->body, (size_t)head.content_length) < 0)
                return -ENOMEM;
        *ret_used = used;
        return 1;
}

/* Reusable only when both sides are at the end of a message. */
static void exchange_complete(struct exchange *x, size_t behind)
{
        exchange_finish(x, EXCHANGE_OK,
                        x->keep_alive && !x->fresh && !behind && stream_queued(x->link->stream) == 0);
}

static void exchange_read_body(struct exchange *x, const char *data, size_t len)
{
        int r = http1_body_is_done(&x->decoder) ? HTTP1_DONE : HTTP1_AGAIN;

        while (r == HTTP1_AGAIN) {
                struct slice piece = {NULL, 0};
                size_t used = 0;

                r = http1_body_feed(&x->decoder, data, len, &used, &piece);
                if (r < 0) {
                        exchange_finish(x, EXCHANGE_MALFORMED, false);
                        return;
                }
                if (buffer_append(&x->body, piece.p, piece.n) < 0) {
                        exchange_finish(x, EXCHANGE_FAILED, false);
                        return;
                }
                data += used;
                len -= used;
        }
        if (r == HTTP1_DONE)
                exchange_complete(x, len);
}

static void exchange_on_bytes(struct exchange *x, const char *data, size_t len)
{
        bool gathered = x->head.len > 0;
        size_t used = 0;
        int r;

        x->bytes += len;
        x->upstream->counts.bytes_in += len;
        if (!x->first_byte_after) {
                x->first_byte_after = MAX(usec_sub(loop_now(x->upstream->loop), x->start), 1);
                exchange_set_timer(x);
        }
        if (x->in_body) {
                exchange_read_body(x, data, len);
                return;
        }
        /* Most answers come whole and are read where they lie; a head in pieces is gathered. */
        if (gathered) {
                if (buffer_append(&x->head, data, len) < 0) {
                        exchange_finish(x, EXCHANGE_FAILED, false);
                        return;
                }
                data = x->head.data;
                len = x->head.len;
        }
        r = read_head(x, data, len, &used);
        if (r < 0) {
                exchange_finish(x, r == -ENOMEM ? EXCHANGE_FAILED : EXCHANGE_MALFORMED, false);
                return;
        }
        if (r == 0) {
                if (gathered)
                        buffer_consume(&x->head, used);
                else if (buffer_append(&x->head, data + used, len - used) < 0)
                        exchange_finish(x, EXCHANGE_FAILED, false);
                return;
        }
        x->in_body = true;
        exchange_read_body(x, data + used, len - used);
}

/* A kept connection may be closed by the server just as we use it. A second time cannot be: the next one is fresh. */
static bool may_retry(const struct exchange *x)
{
        bool repeatable = x->method == HTTP1_GET || x->method == HTTP1_HEAD;

        return x->link->reused && !x->bytes && (repeatable || stream_sent(x->link->stream) == x->sent_before);
}

static void exchange_on_end(struct exchange *x, int error)
{
        if (may_retry(x)) {
                exchange_let_go(x, false);
                exchange_connect(x);
                return;
        }
        x->error = error;
        if (!error && x->in_body && http1_body_eof(&x->decoder) == 0)
                exchange_finish(x, EXCHANGE_OK, false);
        else
                exchange_finish(x, EXCHANGE_RESET, false);
}

/* --- public ----------------------------------------------------------------------------------------------------- */

int upstream_new(struct loop *loop, const struct endpoint *to, unsigned max_idle, struct upstream **ret)
{
        struct upstream *u;

        if (!to->len)
                return -EINVAL;
        u = calloc(1, sizeof *u);
        if (!u)
                return -ENOMEM;
        u->loop = loop;
        u->to = *to;
        u->max_idle = max_idle;
        (void)endpoint_host(to, u->host, sizeof u->host);
        list_init(&u->idle);
        list_init(&u->running);
        *ret = u;
        return 0;
}

void upstream_close_idle(struct upstream *u)
{
        while (!list_is_empty(&u->idle))
                (void)link_free(LIST_ENTRY(u->idle.next, struct link, node));
}

struct exchange *exchange_cancel(struct exchange *x)
{
        if (!x)
                return NULL;
        exchange_let_go(x, false);
        return exchange_free(x);
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
        u->spare = exchange_free(u->spare);
        free(u);
        return NULL;
}

const struct upstream_counts *upstream_counts(const struct upstream *u)
{
        return &u->counts;
}

const char *exchange_result_text(enum exchange_result r)
{
        switch (r) {
        case EXCHANGE_OK:
                return "answered";
        case EXCHANGE_REFUSED:
                return "connection refused";
        case EXCHANGE_RESET:
                return "connection closed before the answer was whole";
        case EXCHANGE_TIMEOUT_CONNECT:
                return "no connection in time";
        case EXCHANGE_TIMEOUT_FIRST:
                return "no answer in time";
        case EXCHANGE_TIMEOUT:
                return "the answer did not end in time";
        case EXCHANGE_MALFORMED:
                return "not an HTTP answer, or one that is too long";
        case EXCHANGE_FAILED:
                return "local trouble (descriptors or memory)";
        }
        return "unknown";
}

static int build_request(struct exchange *x, const struct upstream *u, const struct exchange_spec *spec)
{
        struct buffer *b = &x->out;
        bool has_body = spec->body || (x->method != HTTP1_GET && x->method != HTTP1_HEAD);

        buffer_clear(b);
        (void)http1_build_request(b, slice_str(spec->method), slice_str(spec->target));
        (void)http1_build_header(b, "Host", u->host);
        if (has_body)
                (void)http1_build_header_u64(b, "Content-Length", spec->body_len);
        if (spec->fresh || !u->max_idle)
                (void)http1_build_header(b, "Connection", "close");
        (void)http1_build_lines(b, spec->headers);
        (void)http1_build_end(b);
        if (b->failed)
                return -EINVAL;
        return spec->body_len ? buffer_append(b, spec->body, spec->body_len) : 0;
}

static int exchange_new(struct upstream *u, struct exchange **ret)
{
        struct exchange *x = steal_ptr(u->spare), kept;
        int r;

        if (!x) {
                x = calloc(1, sizeof *x);
                if (!x)
                        return -ENOMEM;
                r = timer_new(u->loop, on_deadline, x, &x->timer);
                if (r < 0) {
                        free(x);
                        return r;
                }
                buffer_init(&x->out, 0);
                buffer_init(&x->head, 0);
                buffer_init(&x->body, 0);
        }
        kept = *x;
        *x = (struct exchange){
                .upstream = u,
                .timer = kept.timer,
                .out = kept.out,
                .head = kept.head,
                .body = kept.body,
        };
        http1_parser_init(&x->parser);
        list_init(&x->node);
        deferred_init(&x->late, on_late_failure);
        *ret = x;
        return 0;
}

int upstream_start(struct upstream *u, const struct exchange_spec *spec, exchange_done_fn *on_done,
                   void *owner, struct exchange **ret)
{
        struct exchange *x;
        int r;

        if (!spec->timeout || spec->timeout == USEC_INFINITY || spec->connect_timeout == USEC_INFINITY ||
            spec->first_timeout == USEC_INFINITY)
                return -EINVAL;
        r = exchange_new(u, &x);
        if (r < 0)
                return r;
        x->on_done = on_done;
        x->owner = owner;
        x->method = http1_method_of(slice_str(spec->method));
        x->fresh = spec->fresh || !u->max_idle;
        x->start = loop_now(u->loop);
        x->by = usec_add(x->start, spec->timeout);
        x->connect_by = spec->connect_timeout ? usec_add(x->start, spec->connect_timeout) : x->by;
        x->first_by = spec->first_timeout ? usec_add(x->start, spec->first_timeout) : x->by;
        x->body_max = spec->body_max;
        r = build_request(x, u, spec);
        if (r < 0) {
                exchange_recycle(u, x);
                return r;
        }
        list_append(&u->running, &x->node);
        u->counts.exchanges++;
        if (!exchange_reuse(x))
                exchange_connect(x);
        *ret = x;
        return 0;
}
