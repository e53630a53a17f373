/* exchange.c: one request on a connection of the pool: sending it, its deadlines and its end. */
#include <errno.h>
#include <stdlib.h>

#include "base/macros.h"
#include "core/http1_build.h"
#include "net/upstream_private.h"

enum {
        SPARE_BUFFER_MAX = 16 * 1024, /* a spare exchange keeps no larger buffer than this */
        SEND_AT_ONCE = 256 * 1024,    /* of a request: what the socket does not take of it is copied */
        SEND_PIECES = 16,
};

static void exchange_connect(struct exchange *x);

/* --- its end ------------------------------------------------------------------------------------------------------ */

struct exchange *exchange_free(struct exchange *x)
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

/* Kept for the next question, with its timer and buffers. */
static void exchange_recycle(struct exchange *x)
{
        struct upstream *u = x->upstream;

        if (u->n_spares > u->max_idle) {
                (void)exchange_free(x);
                return;
        }
        timer_set(x->timer, USEC_INFINITY);
        tidy(&x->out);
        tidy(&x->head);
        tidy(&x->body);
        list_append(&u->spares, &x->node);
        u->n_spares++;
}

/* Out of the list of those that run, without its connection. */
static void exchange_leave(struct exchange *x, bool reusable)
{
        struct leg *l = steal_ptr(x->leg);

        if (l)
                leg_release(l, reusable, x->keep);
        deferred_cancel(&x->late);
        deferred_cancel(&x->send);
        list_remove(&x->node);
        x->upstream->n_running--;
        if (x->gone)
                *x->gone = true;
        if (x->over)
                *x->over = true;
}

static uint64_t exchange_sent(const struct exchange *x)
{
        return x->connected && x->leg ? stream_sent(x->leg->stream) - x->sent_before : 0;
}

void exchange_finish(struct exchange *x, enum exchange_result result, bool reusable)
{
        struct upstream *u = x->upstream;
        usec_t now = loop_now(u->loop);
        struct exchange_answer answer = {
                .result = result,
                .error = x->error,
                .status = x->status,
                .body = "",
                .peer_pid = x->leg && x->connected ? x->leg->peer_pid : 0,
                .reused = x->leg && x->leg->reused,
                .sent = exchange_sent(x),
                .bytes = x->bytes,
                .connected_after = x->connected_after,
                .first_byte_after = x->first_byte_after,
        };
        bool gone = false;

        exchange_leave(x, reusable);
        if (x->body.data) {
                answer.body = x->body.data;
                answer.body_len = x->body.len;
        }
        if (result == EXCHANGE_OK)
                answer.done_after = MAX(usec_sub(now, x->start), 1);
        else
                u->counts.failures++;
        u->counts.ended[result]++;
        x->ending = true;
        u->gone = &gone;
        x->on_done(x->owner, &answer, now);
        if (gone) {
                (void)exchange_free(x);
                return;
        }
        u->gone = NULL;
        exchange_recycle(x);
}

static void exchange_fail_late(struct exchange *x, int error)
{
        x->error = error;
        loop_defer(x->upstream->loop, &x->late);
}

static void on_late(struct deferred *d)
{
        struct exchange *x = CONTAINER_OF(d, struct exchange, late);

        if (x->held_end) {
                x->held_end = false;
                exchange_on_end(x, x->error);
        } else {
                exchange_finish(x, EXCHANGE_FAILED, false);
        }
}

/* --- deadlines -------------------------------------------------------------------------------------------------- */

static usec_t exchange_due(const struct exchange *x)
{
        usec_t at = x->by;

        if (!x->connected)
                at = MIN(at, x->connect_by);
        if (!x->bytes)
                at = MIN(at, x->first_by);
        else if (x->idle && !x->paused)
                at = MIN(at, usec_add(x->last_byte, x->idle));
        return at;
}

void exchange_set_timer(struct exchange *x)
{
        timer_set(x->timer, exchange_due(x));
}

/* Bytes that came since move the deadline only here: a timer is touched once a span, not once a chunk. */
static void on_deadline(void *owner, usec_t now)
{
        struct exchange *x = owner;

        if (now < exchange_due(x))
                exchange_set_timer(x);
        else if (!x->connected)
                exchange_finish(x, EXCHANGE_TIMEOUT_CONNECT, false);
        else if (!x->bytes)
                exchange_finish(x, EXCHANGE_TIMEOUT_FIRST, false);
        else
                exchange_finish(x, now < x->by ? EXCHANGE_TIMEOUT_IDLE : EXCHANGE_TIMEOUT, false);
}

/* --- the request ------------------------------------------------------------------------------------------------ */

/* The next pieces of the request, from x->given on: the head, then the owner's body. */
static size_t gather(const struct exchange *x, struct iovec iov[SEND_PIECES], unsigned *ret_n)
{
        uint64_t skip = x->given;
        size_t sum = 0;
        unsigned n = 0;

        for (unsigned i = 0; i <= x->n_body_out && n < SEND_PIECES && sum < SEND_AT_ONCE; i++) {
                char *base = i ? x->body_out[i - 1].iov_base : x->out.data;
                size_t len = i ? x->body_out[i - 1].iov_len : x->out.len;

                if (skip >= len) {
                        skip -= len;
                        continue;
                }
                base += skip;
                len = MIN(len - (size_t)skip, SEND_AT_ONCE - sum);
                skip = 0;
                iov[n++] = (struct iovec){base, len};
                sum += len;
        }
        *ret_n = n;
        return sum;
}

/* As much as the kernel takes, and one piece more, which the stream keeps. */
static void exchange_send(struct exchange *x)
{
        while (x->given < x->total && stream_queued(x->leg->stream) == 0) {
                struct iovec iov[SEND_PIECES];
                unsigned n;
                size_t sum = gather(x, iov, &n);
                int r = stream_write(x->leg->stream, iov, n);

                if (r == -ENOMEM)
                        exchange_fail_late(x, r);
                if (r < 0)
                        return; /* -EPIPE: on_end comes, and it may mean a second try */
                x->given += sum;
                x->upstream->counts.bytes_out += sum;
        }
}

/* Requests that came with one batch of events go out one right behind the other: a server that is woken by the first finds the
 * others too, instead of being woken for each (which costs the one who wakes it more than the write itself). */
static void on_send(struct deferred *d)
{
        exchange_send(CONTAINER_OF(d, struct exchange, send));
}

void exchange_on_drain(struct exchange *x)
{
        exchange_send(x);
}

void exchange_on_connect(struct exchange *x, int error)
{
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
        exchange_set_timer(x);
        if (!x->paused && stream_read(x->leg->stream, true) < 0) {
                exchange_finish(x, EXCHANGE_FAILED, false);
                return;
        }
        exchange_send(x);
}

static void exchange_connect(struct exchange *x)
{
        int r;

        deferred_cancel(&x->send);
        x->connected = false;
        x->given = 0;
        x->sent_before = 0;
        r = leg_connect(x->upstream, x, &x->leg);
        if (r < 0)
                exchange_fail_late(x, r);
        exchange_set_timer(x);
}

static bool exchange_reuse(struct exchange *x)
{
        if (x->fresh)
                return false;
        x->leg = leg_reuse(x->upstream, x);
        if (!x->leg)
                return false;
        x->connected = true;
        x->sent_before = stream_sent(x->leg->stream);
        exchange_set_timer(x);
        loop_defer(x->upstream->loop, &x->send);
        return true;
}

/* --- the connection's end --------------------------------------------------------------------------------------- */

/* A server that refuses a long request closes while we still send. Our write fails then, but its answer lies in the socket.
 * False if the exchange ended by it, or was paused. */
static bool read_what_is_left(struct exchange *x)
{
        struct loop *loop = x->upstream->loop;
        bool over = false;

        x->over = &over;
        for (;;) {
                ssize_t n = stream_take(x->leg->stream, loop_scratch(loop), LOOP_SCRATCH_SIZE);

                if (n <= 0)
                        break;
                exchange_on_bytes(x, loop_scratch(loop), (size_t)n);
                if (over)
                        return false;
                if (x->paused) {
                        x->held_end = true;
                        break;
                }
        }
        x->over = NULL;
        return !x->held_end;
}

/* A kept connection may be closed by the server just as we use it. A second time cannot be: the next one is fresh. */
static bool may_retry(const struct exchange *x)
{
        bool repeatable = x->method == HTTP1_GET || x->method == HTTP1_HEAD || x->method == HTTP1_OPTIONS;

        return x->leg->reused && !x->bytes && (repeatable || exchange_sent(x) == 0);
}

void exchange_on_end(struct exchange *x, int error)
{
        x->error = error;
        if (x->paused) {
                x->held_end = true;
                return;
        }
        if (error && !read_what_is_left(x))
                return;
        if (may_retry(x)) {
                x->error = 0;
                x->upstream->counts.retried++;
                leg_release(steal_ptr(x->leg), false, 0);
                exchange_connect(x);
        } else if (!error && x->in_body && http1_body_eof(&x->decoder) == 0) {
                exchange_finish(x, EXCHANGE_OK, false);
        } else {
                exchange_finish(x, x->leg->reused && !x->bytes ? EXCHANGE_STALE : EXCHANGE_RESET, false);
        }
}

/* --- public ----------------------------------------------------------------------------------------------------- */

static void append_field(struct buffer *b, const struct http1_header *h)
{
        char *p;

        if (buffer_reserve(b, h->name.n + h->value.n + 4) < 0)
                return;
        p = mempcpy(b->data + b->len, h->name.p, h->name.n);
        p = mempcpy(p, ": ", 2);
        if (h->value.n)
                p = mempcpy(p, h->value.p, h->value.n);
        p = mempcpy(p, "\r\n", 3);
        b->len = (size_t)(p - 1 - b->data);
}

static int build_request(struct exchange *x, const struct exchange_spec *spec)
{
        bool has_body = spec->n_body || (x->method != HTTP1_GET && x->method != HTTP1_HEAD);
        struct buffer *b = &x->out;
        uint64_t body_len = 0;

        for (unsigned i = 0; i < spec->n_body; i++)
                body_len += spec->body[i].iov_len;
        buffer_clear(b);
        (void)http1_build_request(b, spec->method, spec->target);
        (void)buffer_puts(b, x->upstream->host);
        if (has_body)
                (void)http1_build_header_u64(b, "Content-Length", body_len);
        if (x->fresh)
                (void)buffer_puts(b, "Connection: close\r\n");
        for (size_t i = 0; i < spec->n_fields; i++)
                append_field(b, &spec->fields[i]);
        (void)http1_build_lines(b, spec->headers);
        (void)http1_build_end(b);
        if (b->failed)
                return -EINVAL;
        x->body_out = spec->body;
        x->n_body_out = spec->n_body;
        x->total = b->len + body_len;
        return 0;
}

static int exchange_new(struct upstream *u, struct exchange **ret)
{
        struct exchange *x;
        struct buffer out, head, body;
        struct timer *timer;
        int r;

        if (list_is_empty(&u->spares)) {
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
        } else {
                x = LIST_ENTRY(u->spares.prev, struct exchange, node);
                list_remove(&x->node);
                u->n_spares--;
        }
        timer = x->timer;
        out = x->out;
        head = x->head;
        body = x->body;
        *x = (struct exchange){.upstream = u, .timer = timer, .out = out, .head = head, .body = body};
        http1_parser_init(&x->parser);
        list_init(&x->node);
        deferred_init(&x->late, on_late);
        deferred_init(&x->send, on_send);
        *ret = x;
        return 0;
}

static int exchange_start(struct upstream *u, const struct exchange_spec *spec,
                          const struct exchange_events *on, exchange_done_fn *on_done, void *owner,
                          struct exchange **ret)
{
        struct exchange *x;
        int r;

        if (!spec->timeout || spec->timeout == USEC_INFINITY || spec->connect_timeout == USEC_INFINITY ||
            spec->first_timeout == USEC_INFINITY || spec->idle_timeout == USEC_INFINITY)
                return -EINVAL;
        r = exchange_new(u, &x);
        if (r < 0)
                return r;
        x->on = on;
        x->on_done = on_done;
        x->owner = owner;
        x->method = http1_method_of(spec->method);
        x->fresh = spec->fresh || !u->max_idle;
        x->start = loop_now(u->loop);
        x->by = usec_add(x->start, spec->timeout);
        x->connect_by = spec->connect_timeout ? usec_add(x->start, spec->connect_timeout) : x->by;
        x->first_by = spec->first_timeout ? usec_add(x->start, spec->first_timeout) : x->by;
        x->idle = spec->idle_timeout;
        x->body_max = spec->body_max;
        r = build_request(x, spec);
        if (r < 0) {
                exchange_recycle(x);
                return r;
        }
        list_append(&u->running, &x->node);
        u->n_running++;
        u->counts.exchanges++;
        if (!exchange_reuse(x))
                exchange_connect(x);
        *ret = x;
        return 0;
}

int upstream_start(struct upstream *u, const struct exchange_spec *spec, exchange_done_fn *on_done,
                   void *owner, struct exchange **ret)
{
        return exchange_start(u, spec, NULL, on_done, owner, ret);
}

int upstream_stream(struct upstream *u, const struct exchange_spec *spec, const struct exchange_events *on,
                    void *owner, struct exchange **ret)
{
        return exchange_start(u, spec, on, on->on_end, owner, ret);
}

void exchange_pause(struct exchange *x, bool pause)
{
        int r;

        if (x->paused == pause || x->ending)
                return;
        x->paused = pause;
        if (!x->connected)
                return;
        if (pause) {
                (void)stream_read(x->leg->stream, false);
                return;
        }
        x->last_byte = loop_now(x->upstream->loop);
        exchange_set_timer(x);
        if (x->held_end) {
                loop_defer(x->upstream->loop, &x->late);
                return;
        }
        r = stream_read(x->leg->stream, true);
        if (r < 0)
                exchange_fail_late(x, r);
}

struct exchange *exchange_cancel(struct exchange *x)
{
        if (!x || x->ending)
                return NULL;
        exchange_leave(x, false);
        exchange_recycle(x);
        return NULL;
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
        case EXCHANGE_STALE:
                return "kept connection closed before an answer";
        case EXCHANGE_TIMEOUT_CONNECT:
                return "no connection in time";
        case EXCHANGE_TIMEOUT_FIRST:
                return "no answer in time";
        case EXCHANGE_TIMEOUT_IDLE:
                return "silent for too long in the middle of the answer";
        case EXCHANGE_TIMEOUT:
                return "the answer did not end in time";
        case EXCHANGE_MALFORMED:
                return "not an HTTP answer, or one that is too long";
        case EXCHANGE_FAILED:
                return "local trouble (descriptors or memory)";
        }
        return "unknown";
}
