/* feed_sse.c: the feed as server-sent events (GET /api/v1/events, WHATWG HTML "Server-sent events").
 * Last-Event-ID changes nothing: a stream always begins with the whole set, which holds whatever was missed. */
#include <errno.h>

#include "http/feed_private.h"
#include "http/respond.h"

enum {
        QUEUED_MAX =
                16 * 1024, /* with more than that unread, the stream waits and later gets the newest state */
        STREAMS_MAX = 20000,
};

struct sse {
        struct subscriber sub;
        struct request *req;
        struct list beat; /* in feed.sses */
        usec_t due;
};

static struct sse *sse_of(struct subscriber *sub)
{
        return CONTAINER_OF(sub, struct sse, sub);
}

static void sse_free(struct sse *s)
{
        list_remove(&s->beat);
        subscriber_leave(&s->sub, &s->sub.feed->counts.subscribers_sse);
        free(s);
}

/* --- keep-alive ------------------------------------------------------------------------------------------------------- */

static void schedule(struct sse *s, usec_t now)
{
        struct feed *f = s->sub.feed;

        list_remove(&s->beat);
        s->due = usec_add(now, f->times.sse_keepalive);
        list_append(&f->sses, &s->beat); /* all wait equally long */
        if (timer_due(f->sse_timer) == USEC_INFINITY)
                timer_set(f->sse_timer, s->due);
}

static void on_timer(void *owner, usec_t now)
{
        struct feed *f = owner;

        while (!list_is_empty(&f->sses)) {
                struct sse *s = LIST_ENTRY(f->sses.next, struct sse, beat);

                if (s->due > now) {
                        timer_set(f->sse_timer, s->due);
                        return;
                }
                schedule(s, now);
                if (request_queued(s->req) == 0)
                        (void)request_write(s->req, ":\n\n", 3);
        }
}

/* --- the carrier ------------------------------------------------------------------------------------------------------ */

static int sse_send(struct subscriber *sub, const struct frame *frame)
{
        struct sse *s = sse_of(sub);
        int r;

        if (request_queued(s->req) > QUEUED_MAX)
                return -EAGAIN;
        r = request_write(s->req, frame->data, frame->len);
        return r == -ENOBUFS ? -EAGAIN : r;
}

static void sse_end(struct subscriber *sub, enum websocket_code code)
{
        static const char soon[] = "retry: 200\n\n";
        struct sse *s = sse_of(sub);
        struct request *req = s->req;

        sse_free(s);
        /* It begins with another number again when it is back. */
        if (code == WEBSOCKET_RESTART)
                (void)request_write(req, soon, sizeof(soon) - 1);
        request_end(req);
}

static const struct carrier sse_carrier = {.encoding = ENCODING_SSE, .send = sse_send, .end = sse_end};

static void on_drain(void *owner, struct request *req)
{
        struct sse *s = owner;

        (void)req;
        subscriber_ready(&s->sub);
}

static void on_gone(void *owner, struct request *req)
{
        struct sse *s = owner;

        (void)req;
        if (s->sub.blocked)
                s->sub.feed->counts.closed_slow++;
        sse_free(s);
}

void feed_sse(struct feed *f, struct request *req)
{
        static const char retry[] = "retry: 2000\n\n";
        struct subject *only;
        struct sse *s;

        if (feed_instance_of(f, req, &only) < 0)
                return;
        if (f->counts.subscribers_sse >= STREAMS_MAX) {
                f->counts.refused++;
                respond_error_with(req, 503, NULL, "Retry-After: 5\r\n", "too many event streams");
                return;
        }
        s = calloc(1, sizeof(*s));
        if (!s || (!f->sse_timer && timer_new(f->loop, on_timer, f, &f->sse_timer) < 0)) {
                free(s);
                doors_respond_error(req, 503, "not enough memory");
                return;
        }
        s->req = req;
        list_init(&s->beat);
        request_on_gone(req, on_gone, s);
        request_on_drain(req, on_drain, s);
        request_set_standing(req);
        /* A proxy in front must not collect the stream. */
        respond_begin(req, 200, "text/event-stream", "X-Accel-Buffering: no\r\n");
        (void)request_write(req, retry, sizeof(retry) - 1);
        subscriber_join(&s->sub, f, &sse_carrier, only, request_mark(req), &f->counts.subscribers_sse);
        schedule(s, loop_now(f->loop));
}
