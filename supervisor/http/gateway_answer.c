/* gateway_answer.c: the way back: the instance's answer to the client, and what a client that waits is told meanwhile. */
#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "base/log.h"
#include "core/forward.h"
#include "core/http1_build.h"
#include "http/gateway_private.h"
#include "http/respond.h"

static const usec_t PATIENCE = 5 * USEC_PER_SEC; /* until a client that streams is told how it goes */
static const usec_t COMMENT_FAST = 2 * USEC_PER_SEC, COMMENT_SLOW = 5 * USEC_PER_SEC, TICK = USEC_PER_SEC;
enum {
        COMMENT_QUEUED_MAX = 65536,
        CONTENT_TYPE_MAX = 256,
        LINES_MAX = 512,
        LINES_KEPT = 4096, /* of the memory for the lines of a head, from one to the next */
        COMMENT_MAX = 256,
};

/* --- while it waits ---------------------------------------------------------------------------------------------- */

void errand_comment(struct errand *e, const char *text)
{
        char line[COMMENT_MAX];
        int n = snprintf(line, sizeof(line), ": %s\n\n", text);

        if (n < (int)sizeof(line) && request_queued(e->req) < COMMENT_QUEUED_MAX &&
            request_write(e->req, line, (size_t)n) == 0)
                e->gateway->counts.comments++;
}

static void begin_stream(struct errand *e, const struct relay *r, const struct ticket_progress *p)
{
        char lines[LINES_MAX];
        int n;

        n = snprintf(lines, sizeof(lines),
                     "X-Accel-Buffering: no\r\nX-Request-Id: %s\r\nX-Queue-Position: %u\r\n", relay_id(r),
                     p->position);
        if (p->estimate)
                (void)snprintf(lines + n, sizeof(lines) - (size_t)n, "X-Queue-Estimate: %llu\r\n",
                               (unsigned long long)((p->estimate + USEC_PER_SEC - 1) / USEC_PER_SEC));
        respond_begin(e->req, 200, "text/event-stream", lines);
        e->told = TOLD_COMMENTS;
        e->events = true;
}

/* ": queued position=3 estimate=12s status=starting loaded=43%" */
static void tell_progress(struct errand *e, usec_t now)
{
        struct relay *r = e->ensemble ? ensemble_run_waiting(e->ensemble) : e->relay;
        struct ticket_progress p = {.loaded = -1};
        char text[COMMENT_MAX];
        size_t n;

        if (e->handed) {
                submit_tell(e);
                e->comment_at = usec_add(now, COMMENT_SLOW);
                return;
        }
        /* It has its instance, whose own pings come as soon as there is a stream. */
        if (!r || !relay_progress(r, &p))
                return;
        if (e->told == TOLD_NOTHING)
                begin_stream(e, r, &p);
        n = (size_t)snprintf(text, sizeof(text), "queued position=%u", p.position);
        if (p.estimate)
                n += (size_t)snprintf(text + n, sizeof(text) - n, " estimate=%llus",
                                      (unsigned long long)((p.estimate + USEC_PER_SEC - 1) / USEC_PER_SEC));
        if (p.status)
                n += (size_t)snprintf(text + n, sizeof(text) - n, " status=%.32s", p.status);
        if (p.loaded >= 0)
                (void)snprintf(text + n, sizeof(text) - n, " loaded=%d%%", (int)(MIN(p.loaded, 1.0) * 100));
        errand_comment(e, text);
        e->comment_at =
                usec_add(now, p.position != e->position || p.loaded >= 0 ? COMMENT_FAST : COMMENT_SLOW);
        e->position = p.position;
}

void gateway_tick(void *owner, usec_t now)
{
        struct gateway *g = owner;

        LIST_FOREACH(&g->waiting, it)
        {
                struct errand *e = LIST_ENTRY(it, struct errand, node);

                if (now >= e->comment_at)
                        tell_progress(e, now);
        }
        if (!list_is_empty(&g->waiting))
                timer_set(g->tick, usec_add(now, TICK));
}

void errand_wait(struct errand *e)
{
        struct gateway *g = e->gateway;
        usec_t now = loop_now(g->doors->loop);

        if (!e->streams)
                return;
        e->comment_at = usec_add(now, PATIENCE);
        if (list_is_empty(&g->waiting))
                timer_set(g->tick, usec_add(now, TICK));
        list_append(&g->waiting, &e->node);
}

/* --- the head ------------------------------------------------------------------------------------------------------ */

/* Its own connection, what it says of itself and to whom pages may show it is not the client's; the rest passes. */
static bool header_passes(const struct http1_response *head, const struct http1_header *h)
{
        static const struct slice ours[] = {
                SLICE("content-length"),
                SLICE("content-type"),
                SLICE("server"),
                SLICE("date"),
                SLICE("set-cookie"),
                SLICE("cache-control"),
                SLICE("vary"),
                SLICE("x-request-id"),
                SLICE("x-llama-instance"),
                SLICE("x-queue-wait"),
                SLICE("clear-site-data"),
                SLICE("strict-transport-security"),
                SLICE("x-content-type-options"),
        };

        if (http1_header_is_hop(h->name) || forward_keeps_back(h->name))
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
                if (slice_eq_nocase(h->name, ours[i]))
                        return false;
        if (h->name.n > 15 && slice_eq_nocase(slice_sub(h->name, 0, 15), SLICE("access-control-")))
                return false;
        for (size_t i = 0; i < head->n_headers; i++) {
                struct slice rest = head->headers[i].value, item;

                if (!slice_eq_nocase(head->headers[i].name, SLICE("connection")))
                        continue;
                while (http1_list_next(&rest, &item))
                        if (slice_eq_nocase(item, h->name))
                                return false;
        }
        return true;
}

/* Not checked here: request_begin does it, for all of them. */
static void put_line(struct buffer *out, struct slice name, struct slice value)
{
        (void)buffer_append(out, name.p, name.n);
        (void)buffer_append(out, ": ", 2);
        (void)buffer_append(out, value.p, value.n);
        (void)buffer_append(out, "\r\n", 2);
}

static bool is_place(struct slice name)
{
        return slice_eq_nocase(name, SLICE("location")) || slice_eq_nocase(name, SLICE("content-location"));
}

/* Where it stands for a client of ours. */
static void put_place(const struct errand *e, const struct relay *r, const struct http1_header *h,
                      struct buffer *out)
{
        const struct report *report = fleet_find(e->gateway->doors->fleet, relay_instance(r));
        char host[ENDPOINT_TEXT_MAX] = "", prefix[ROUTE_NAME_MAX + 16] = "";
        _cleanup_buffer_ struct buffer place = {0};
        struct endpoint at;

        if (report && report->endpoint && endpoint_parse(report->endpoint, &at) == 0)
                (void)endpoint_host(&at, host, sizeof(host));
        if (e->kind == ERRAND_DIRECT)
                (void)snprintf(prefix, sizeof(prefix), "/upstream/%s", e->instance);
        buffer_init(&place, 0);
        if (forward_location(h->value, slice_str(host), slice_str(prefix), &place) && !place.failed)
                put_line(out, h->name, (struct slice){place.data, place.len});
}

static void put_lines(const struct errand *e, const struct relay *r, const struct http1_response *head,
                      struct buffer *out)
{
        char cors[DOORS_CORS_MAX];

        (void)buffer_puts(out, doors_cors(e->req, cors, sizeof(cors)));
        if (cors[0])
                (void)buffer_puts(
                        out,
                        "Access-Control-Expose-Headers: X-Request-Id, X-Llama-Instance, X-Queue-Wait\r\n");
        (void)buffer_puts(out, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
        for (size_t i = 0; i < head->n_headers; i++)
                if (!header_passes(head, head->headers + i))
                        continue;
                else if (is_place(head->headers[i].name))
                        put_place(e, r, head->headers + i, out);
                else
                        put_line(out, head->headers[i].name, head->headers[i].value);
        put_line(out, SLICE("X-Request-Id"), slice_str(relay_id(r)));
        put_line(out, SLICE("X-Llama-Instance"), slice_str(relay_instance(r)));
        (void)http1_build_header_u64(out, "X-Queue-Wait", relay_waited(r) / USEC_PER_MSEC);
}

static bool is_events(const struct http1_response *head)
{
        struct slice type = {0};

        (void)http1_header_find(head->headers, head->n_headers, "content-type", &type);
        return slice_eq_nocase(slice_trim(slice_sub(type, 0, slice_find(type, ';'))),
                               SLICE("text/event-stream"));
}

static void begin_answer(struct errand *e, struct relay *r, const struct http1_response *head)
{
        struct buffer *lines = &e->gateway->lines;
        char content_type[CONTENT_TYPE_MAX] = "";
        struct slice type = {0};

        if (lines->cap > LINES_KEPT)
                buffer_finish(lines);
        buffer_clear(lines);
        (void)buffer_reserve(lines, LINES_MAX);
        put_lines(e, r, head, lines);
        if (http1_header_find(head->headers, head->n_headers, "content-type", &type) &&
            type.n < sizeof(content_type))
                (void)memcpy(content_type, type.p, type.n);
        if (lines->failed) {
                const struct errand_error error = {.status = 503,
                                                   .message = "not enough memory for the answer"};

                errand_fail(e, &error);
                return;
        }
        if (head->has_length)
                request_begin_sized(e->req, head->status, content_type[0] ? content_type : NULL, lines->data,
                                    head->content_length);
        else
                request_begin(e->req, head->status, content_type[0] ? content_type : NULL, lines->data);
        e->told = TOLD_ANSWER;
}

static void on_head(void *owner, struct relay *r, const struct http1_response *head)
{
        struct errand *e = owner;
        bool events = is_events(head);
        char text[COMMENT_MAX];

        list_remove(&e->node);
        e->status = head->status;
        if (e->kind == ERRAND_CHAT || (e->told == TOLD_COMMENTS && !(events && head->status == 200))) {
                e->collects = true;
                buffer_init(&e->collect, GATEWAY_COLLECT_MAX);
                return;
        }
        e->events = events;
        if (e->told == TOLD_NOTHING) {
                begin_answer(e, r, head);
                return;
        }
        (void)snprintf(text, sizeof(text), "served instance=%s wait=%llums", relay_instance(r),
                       (unsigned long long)(relay_waited(r) / USEC_PER_MSEC));
        errand_comment(e, text);
        e->told = TOLD_ANSWER;
        memset(e->last, '\n', sizeof(e->last));
}

/* --- the body ------------------------------------------------------------------------------------------------------ */

static void on_drain(void *owner, struct request *req)
{
        struct errand *e = owner;

        (void)req;
        if (e->relay && !e->relay_over)
                relay_pause(e->relay, false);
}

static void remember_last(struct errand *e, const char *data, size_t len)
{
        e->last[0] = len > 1 ? data[len - 2] : e->last[1];
        e->last[1] = data[len - 1];
}

static void on_data(void *owner, struct relay *r, const char *data, size_t len)
{
        static const struct errand_error too_long = {
                .status = 502, .code = "answer_too_long", .message = "the answer is too long for this route"};
        struct errand *e = owner;
        struct log_about about;
        int w;

        if (e->collects) {
                if (buffer_append(&e->collect, data, len) < 0)
                        errand_fail(e, &too_long);
                return;
        }
        w = request_write(e->req, data, len);
        if (w == -EPIPE)
                return; /* on_gone follows */
        if (w < 0) {
                relay_about(r, &about);
                log_about(LOG_WARNING, &about, "%s: the answer was cut: %s", relay_id(r), strerror(-w));
                request_break(e->req);
                errand_free(e);
                return;
        }
        if (e->events)
                remember_last(e, data, len);
        if (request_queued(e->req) > GATEWAY_QUEUED_HIGH) {
                request_on_drain(e->req, on_drain, e);
                relay_pause(r, true);
        }
}

/* --- the end -------------------------------------------------------------------------------------------------------- */

/* The instance's own error, which would have been a plain answer, to a client that has the head of a stream. */
static void end_collected(struct errand *e)
{
        struct errand_error error = {.status = e->status >= 400 ? e->status : 502};
        struct json_value *v = NULL;
        const char *said = NULL;

        if (e->status >= 400 && !e->collect.failed &&
            json_parse(e->collect.data ? e->collect.data : "", e->collect.len, &v, NULL) == 0)
                said = json_get_string(json_get(v, "error"), "message");
        if (said && !e->anthropic) {
                errand_put_event(e, e->collect.data, e->collect.len);
                request_end(e->req);
                errand_free(e);
        } else {
                error.message = said               ? said
                                : e->status >= 400 ? "the instance answered with an error"
                                                   : "the instance answered, but not with a stream";
                errand_fail(e, &error);
        }
        (void)json_free(v);
}

static void on_end(void *owner, struct relay *r, const struct relay_end *end)
{
        struct errand *e = owner;
        const struct errand_error error = {.status = end->status,
                                           .code = end->code,
                                           .message = end->message,
                                           .retry_after = end->retry_after};

        (void)r;
        e->relay_over = true;
        if (end->result != RELAY_OK)
                errand_fail(e, &error); /* what was collected of an answer is no answer */
        else if (e->kind == ERRAND_CHAT)
                chat_answer(e);
        else if (e->collects)
                end_collected(e);
        else {
                request_end(e->req);
                errand_free(e);
        }
}

const struct relay_events errand_events = {.on_head = on_head, .on_data = on_data, .on_end = on_end};
