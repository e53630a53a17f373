/* relay.c: a request's way to an instance and the answer's way back. */
#include "fleet/relay.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "core/forward.h"
#include "core/http1_build.h"
#include "core/usage.h"
#include "fleet/private.h"

enum {
        TRACED_LINES_MAX = 20,       /* a second */
        SPARES_MAX = 256,            /* ended ones kept with their timers and memory */
        SPARE_BUFFER_MAX = 8 * 1024, /* but with no more of it than this */
        MESSAGE_MAX = 240,
};

/* For a config without them (values of tests): the table's defaults. */
static const usec_t CONNECT_DEFAULT = 5 * USEC_PER_SEC, FIRST_DEFAULT = 10 * USEC_PER_MIN,
                    IDLE_DEFAULT = 5 * USEC_PER_MIN, TOTAL_DEFAULT = USEC_PER_HOUR;

struct relays {
        struct list running, spares;
        unsigned n_spares, n_traced; /* traced: lines in the second that began then */
        usec_t traced_at;
        struct relay_figures figures;
};

struct relay {
        struct list node; /* in running or spares */
        struct fleet *fleet;
        const struct relay_events *events;
        void *owner;
        struct ticket *ticket;     /* NULL: none any more */
        struct exchange *exchange; /* NULL: it waits, or has ended */
        struct activity_record *record;
        struct timer
                *timer; /* for first_byte and idle once the head is here, and for an end that is told later */
        bool *gone;     /* set while the owner is called: whether that ended us */
        char id[ACTIVITY_ID_MAX], instance[CONFIG_NAME_MAX];

        /* The request. */
        struct buffer copy; /* the strings that method, target and fields point into */
        struct slice method, target;
        struct http1_header *fields;
        size_t n_fields, cap_fields;
        struct buffer lines; /* the header lines of our own */
        bool names_itself;   /* the caller sent an X-Request-Id */
        bool fresh;          /* not on a kept connection again: all of them may have been closed by now */
        const struct iovec *body;
        unsigned n_body;
        usec_t keep_alive;

        /* The answer. */
        struct usage *usage; /* NULL until the first answer, or without memory for it */
        int status;
        bool began, alive, paused, armed; /* alive: the first sign of life came; armed: the timer is set */
        usec_t waited, sent_at, last_life, total_by;
        unsigned tries;

        /* An end that is told from the loop. */
        bool ending;
        enum relay_result result;
        const char *code;
        int end_status;
        unsigned retry_after;
        char message[MESSAGE_MAX];
};

static void relay_try(struct relay *r);

const char *relay_failure_name(enum relay_failure x)
{
        static const char *const names[] = {
                [RELAY_FAIL_REFUSED] = "refused",
                [RELAY_FAIL_RESET] = "reset",
                [RELAY_FAIL_STALE] = "stale",
                [RELAY_FAIL_TIMEOUT_CONNECT] = "timeout_connect",
                [RELAY_FAIL_TIMEOUT_FIRST_BYTE] = "timeout_first_byte",
                [RELAY_FAIL_TIMEOUT_IDLE] = "timeout_idle",
                [RELAY_FAIL_TIMEOUT_TOTAL] = "timeout_total",
                [RELAY_FAIL_MALFORMED] = "malformed",
                [RELAY_FAIL_LOCAL] = "local",
                [RELAY_FAIL_STATUS] = "status",
                [RELAY_FAIL_GONE] = "gone",
        };

        return names[x];
}

static usec_t now_of(const struct relay *r)
{
        return loop_now(r->fleet->loop);
}

static usec_t or_default(usec_t span, usec_t fallback)
{
        return span ? span : fallback;
}

static const struct config_gateway *gateway(const struct relay *r)
{
        return &r->fleet->config->gateway;
}

static void count_failure(struct relay *r, enum relay_failure x)
{
        r->fleet->relays->figures.failures[x]++;
}

/* --- birth and death ----------------------------------------------------------------------------------------------- */

static struct relay *relay_free(struct relay *r)
{
        if (!r)
                return NULL;
        list_remove(&r->node);
        r->timer = timer_free(r->timer);
        buffer_finish(&r->copy);
        buffer_finish(&r->lines);
        free(r->fields);
        free(r->usage);
        free(r);
        return NULL;
}

/* Nothing holds it any more: kept for the next one, or freed. */
static void relay_recycle(struct relay *r)
{
        struct relays *rs = r->fleet->relays;

        if (r->gone)
                *r->gone = true;
        list_remove(&r->node);
        rs->figures.running--;
        if (rs->n_spares >= SPARES_MAX || r->copy.cap > SPARE_BUFFER_MAX) {
                (void)relay_free(r);
                return;
        }
        if (r->armed)
                timer_set(r->timer, USEC_INFINITY);
        list_append(&rs->spares, &r->node);
        rs->n_spares++;
}

static void on_timer(void *owner, usec_t now);

static int relay_new(struct fleet *f, struct relay **ret)
{
        struct relays *rs = f->relays;
        struct relay *r, kept = {0};
        int e;

        if (rs->n_spares) {
                r = LIST_ENTRY(rs->spares.prev, struct relay, node);
                list_remove(&r->node);
                rs->n_spares--;
                kept = *r;
        } else {
                r = calloc(1, sizeof(*r));
                if (!r)
                        return -ENOMEM;
                e = timer_new(f->loop, on_timer, r, &kept.timer);
                if (e < 0) {
                        free(r);
                        return e;
                }
                buffer_init(&kept.copy, 0);
                buffer_init(&kept.lines, 0);
        }
        *r = (struct relay){.fleet = f,
                            .timer = kept.timer,
                            .copy = kept.copy,
                            .lines = kept.lines,
                            .fields = kept.fields,
                            .cap_fields = kept.cap_fields,
                            .usage = kept.usage};
        buffer_clear(&r->copy);
        list_init(&r->node);
        *ret = r;
        return 0;
}

int relays_new(struct relays **ret)
{
        struct relays *rs = calloc(1, sizeof(*rs));

        if (!rs)
                return -ENOMEM;
        list_init(&rs->running);
        list_init(&rs->spares);
        *ret = rs;
        return 0;
}

struct relays *relays_free(struct relays *rs)
{
        if (!rs)
                return NULL;
        while (!list_is_empty(&rs->running))
                relay_cancel(LIST_ENTRY(rs->running.next, struct relay, node));
        while (!list_is_empty(&rs->spares))
                (void)relay_free(LIST_ENTRY(rs->spares.next, struct relay, node));
        free(rs);
        return NULL;
}

/* --- the request --------------------------------------------------------------------------------------------------- */

static struct slice keep(struct buffer *b, struct slice s)
{
        size_t at = b->len;

        (void)buffer_append(b, s.p, s.n);
        return (struct slice){b->data + at, s.n};
}

static bool is_target(struct slice s)
{
        for (size_t i = 0; i < s.n; i++)
                if (s.p[i] < 0x21 || s.p[i] > 0x7e || s.p[i] == '#')
                        return false;
        return s.n > 0;
}

static int copy_request(struct relay *r, const struct relay_spec *spec)
{
        size_t bytes = spec->method.n + spec->target.n;

        if (!http1_is_token(spec->method) || !is_target(spec->target))
                return -EINVAL;
        if (spec->n_headers > r->cap_fields) {
                struct http1_header *more = reallocarray(r->fields, spec->n_headers, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                r->fields = more;
                r->cap_fields = spec->n_headers;
        }
        r->n_fields = forward_headers(spec->headers, spec->n_headers, r->fields);
        for (size_t i = 0; i < r->n_fields; i++) {
                if (!http1_is_token(r->fields[i].name) || !http1_is_field_value(r->fields[i].value))
                        return -EINVAL;
                bytes += r->fields[i].name.n + r->fields[i].value.n;
        }
        if (buffer_reserve(&r->copy, bytes) < 0) /* once: the slices point into it */
                return -ENOMEM;
        r->method = keep(&r->copy, spec->method);
        r->target = keep(&r->copy, spec->target);
        for (size_t i = 0; i < r->n_fields; i++) {
                struct http1_header *h = r->fields + i;

                h->name = keep(&r->copy, h->name);
                h->value = keep(&r->copy, h->value);
                r->names_itself |= slice_eq_nocase(h->name, SLICE("x-request-id"));
        }
        r->body = spec->body;
        r->n_body = spec->n_body;
        r->keep_alive = spec->keep_alive;
        return 0;
}

/* --- the end ------------------------------------------------------------------------------------------------------- */

static void let_go(struct relay *r, enum ticket_outcome outcome)
{
        struct ticket *t = steal_ptr(r->ticket);

        r->exchange = exchange_cancel(r->exchange);
        if (!t)
                return;
        r->waited = ticket_waited(t, now_of(r));
        r->tries = ticket_tries(t);
        if (r->instance[0])
                ticket_done(t, outcome, r->keep_alive);
        else
                ticket_cancel(t);
}

/* What the answer was to the client, in one word. */
static const char *outcome_of(const struct relay *r, const char *code)
{
        if (!streq(code, "ok"))
                return code;
        return r->status >= 500 ? "upstream_error" : r->status >= 400 ? "client_error" : "ok";
}

/* Who records a trace wants to find it here, too; but no client fills the log with that. */
static bool may_tell_trace(struct relays *rs, usec_t now)
{
        if (now >= usec_add(rs->traced_at, USEC_PER_SEC)) {
                rs->traced_at = now;
                rs->n_traced = 0;
        }
        if (rs->n_traced < TRACED_LINES_MAX) {
                rs->n_traced++;
                return true;
        }
        rs->figures.lines_left_out++;
        return false;
}

void relay_log_end(struct fleet *f, const struct activity_record *rec)
{
        char wait[TIME_SPAN_MAX], first[TIME_SPAN_MAX], whole[TIME_SPAN_MAX];
        bool traced = rec->trace.sampled && may_tell_trace(f->relays, loop_now(f->loop));
        struct log_about about;

        if (!traced && log_level() < LOG_DEBUG)
                return;
        activity_about(rec, &about);
        log_about(traced ? LOG_INFO : LOG_DEBUG, &about,
                  "%s %s %s: %s (%d), %u tries, waited %s, first token after %s, ended after %s, "
                  "%lld tokens in, %lld out",
                  rec->id, rec->source, rec->path, rec->outcome, rec->status, rec->tries,
                  time_span(usec_sub(rec->granted ? rec->granted : rec->ended, rec->arrived), wait,
                            sizeof(wait)),
                  rec->first_byte ? time_span(usec_sub(rec->first_byte, rec->arrived), first, sizeof(first))
                                  : "-",
                  time_span(usec_sub(rec->ended, rec->arrived), whole, sizeof(whole)),
                  (long long)rec->tokens_in, (long long)rec->tokens_out);
}

/* Closes its record; status: what the client was told, 0 nothing. */
static void end_record(struct relay *r, const char *outcome, int status)
{
        struct activity_record *rec = steal_ptr(r->record);

        rec->status = status;
        rec->tries = r->tries;
        if (r->began && r->usage) {
                struct usage_figures u;

                usage_end(r->usage, &u);
                rec->tokens_in = u.tokens_in;
                rec->tokens_out = u.tokens_out;
                rec->tokens_per_second = u.tokens_per_second;
        }
        activity_end(r->fleet->activity, rec, outcome, now_of(r));
        relay_log_end(r->fleet, rec);
}

/* The lease is given back already; tells the owner. */
static void tell_end(struct relay *r)
{
        struct relay_end end = {.result = r->result,
                                .began = r->began,
                                .status = r->end_status,
                                .code = r->code,
                                .message = r->message,
                                .retry_after = r->retry_after,
                                .tries = r->tries};
        bool gone = false;

        end_record(r, outcome_of(r, r->code), r->began ? r->status : r->end_status);
        r->ending = true; /* a cancel from inside finds nothing left to do */
        r->gone = &gone;
        r->events->on_end(r->owner, r, &end);
        if (!gone) {
                r->gone = NULL;
                relay_recycle(r);
        }
}

static void PRINTF_LIKE(5, 6)
        set_end(struct relay *r, enum relay_result result, int status, const char *code, const char *fmt, ...)
{
        va_list ap;

        r->result = r->began && result == RELAY_REFUSED ? RELAY_BROKEN : result;
        r->end_status = status;
        r->code = code;
        va_start(ap, fmt);
        (void)vsnprintf(r->message, sizeof(r->message), fmt, ap);
        va_end(ap);
}

/* From outside of any callback of ours: the owner hears of it in the next turn. */
static void end_late(struct relay *r)
{
        r->ending = true;
        r->armed = true;
        timer_set(r->timer, 0);
}

/* --- deadlines ------------------------------------------------------------------------------------------------------ */

static usec_t life_due(const struct relay *r)
{
        if (!r->alive)
                return usec_add(r->sent_at, or_default(gateway(r)->timeouts.first_byte, FIRST_DEFAULT));
        return usec_add(r->last_life, or_default(gateway(r)->timeouts.idle, IDLE_DEFAULT));
}

/* Signs of life move the deadline only when it is due: a timer is touched once a span, not once a chunk. */
static void arm(struct relay *r)
{
        if (r->armed || r->paused)
                return;
        r->armed = true;
        timer_set(r->timer, life_due(r));
}

static void end_at_deadline(struct relay *r, enum relay_failure which)
{
        const struct config_gateway *g = gateway(r);
        char span[TIME_SPAN_MAX];

        count_failure(r, which);
        switch (which) {
        case RELAY_FAIL_TIMEOUT_CONNECT:
                set_end(r, RELAY_REFUSED, 504, "upstream_timeout_connect", "%s took no connection within %s",
                        r->instance,
                        time_span(or_default(g->timeouts.connect, CONNECT_DEFAULT), span, sizeof(span)));
                break;
        case RELAY_FAIL_TIMEOUT_FIRST_BYTE:
                set_end(r, RELAY_REFUSED, 504, "upstream_timeout_first_byte",
                        "%s did not begin to answer within %s (gateway.timeouts.first_byte)", r->instance,
                        time_span(or_default(g->timeouts.first_byte, FIRST_DEFAULT), span, sizeof(span)));
                break;
        case RELAY_FAIL_TIMEOUT_IDLE:
                set_end(r, RELAY_REFUSED, 504, "upstream_timeout_idle",
                        "%s fell silent in its answer for %s (gateway.timeouts.idle)", r->instance,
                        time_span(or_default(g->timeouts.idle, IDLE_DEFAULT), span, sizeof(span)));
                break;
        default:
                set_end(r, RELAY_REFUSED, 504, "upstream_timeout_total",
                        "%s did not end its answer within %s (gateway.timeouts.total)", r->instance,
                        time_span(or_default(g->timeouts.total, TOTAL_DEFAULT), span, sizeof(span)));
                break;
        }
        let_go(r, OUTCOME_FAILED);
        tell_end(r);
}

static void on_timer(void *owner, usec_t now)
{
        struct relay *r = owner;

        r->armed = false;
        if (r->ending)
                tell_end(r);
        else if (!r->exchange || r->paused)
                return;
        else if (now < life_due(r))
                arm(r);
        else
                end_at_deadline(r, r->alive ? RELAY_FAIL_TIMEOUT_IDLE : RELAY_FAIL_TIMEOUT_FIRST_BYTE);
}

/* --- the answer ---------------------------------------------------------------------------------------------------- */

/* Nothing of an answer came: elsewhere, if the dispatch still has one. how: TRY_… */
static void try_elsewhere(struct relay *r, enum relay_failure which, const char *why, unsigned how)
{
        count_failure(r, which);
        r->fresh |= which == RELAY_FAIL_STALE;
        r->fleet->relays->figures.retried++;
        r->exchange = exchange_cancel(r->exchange);
        r->tries = ticket_tries(r->ticket);
        r->record->tries = r->tries;
        r->record->state = "waiting";
        r->record->instance[0] = r->instance[0] = '\0';
        if (ticket_retry(r->ticket, why, how) > 0)
                relay_try(r);
}

static void on_head(void *owner, const struct http1_response *head)
{
        struct relay *r = owner;
        char why[32];
        struct slice type = {0};
        bool gone = false;

        if ((head->status == 500 || head->status == 502 || head->status == 503 || head->status == 429) &&
            ticket_has_other(r->ticket)) {
                (void)snprintf(why, sizeof(why), "answered %d", head->status);
                try_elsewhere(r, RELAY_FAIL_STATUS, why, 0);
                return;
        }
        (void)http1_header_find(head->headers, head->n_headers, "content-type", &type);
        if (!r->usage)
                r->usage = malloc(sizeof(*r->usage));
        if (r->usage)
                usage_init(r->usage, slice_eq_nocase(slice_sub(type, 0, 17), SLICE("text/event-stream")));
        r->began = true;
        r->status = r->record->status = head->status;
        arm(r);
        r->gone = &gone;
        r->events->on_head(r->owner, r, head);
        if (!gone)
                r->gone = NULL;
}

static void on_data(void *owner, const char *data, size_t len)
{
        struct relay *r = owner;
        bool gone = false;
        size_t life = r->usage ? usage_feed(r->usage, data, len) : len;

        if (life) {
                r->last_life = now_of(r);
                ticket_heard(r->ticket, life);
                if (!r->alive) {
                        r->alive = true;
                        r->armed = false; /* it stood at first_byte, which may be later than idle */
                        timer_set(r->timer, USEC_INFINITY);
                        arm(r);
                }
        }
        if (r->usage && r->usage->token && !r->record->first_byte)
                r->record->first_byte = now_of(r);
        r->gone = &gone;
        r->events->on_data(r->owner, r, data, len);
        if (!gone)
                r->gone = NULL;
}

static const struct {
        enum relay_failure failure;
        bool elsewhere; /* if not one byte of an answer came */
} endings[EXCHANGE_RESULTS] = {
        [EXCHANGE_REFUSED] = {RELAY_FAIL_REFUSED, true},
        [EXCHANGE_RESET] = {RELAY_FAIL_RESET, true},
        [EXCHANGE_STALE] = {RELAY_FAIL_STALE, true},
        [EXCHANGE_TIMEOUT_CONNECT] = {RELAY_FAIL_TIMEOUT_CONNECT, true},
        [EXCHANGE_TIMEOUT_FIRST] = {RELAY_FAIL_TIMEOUT_FIRST_BYTE, false},
        [EXCHANGE_TIMEOUT_IDLE] = {RELAY_FAIL_TIMEOUT_IDLE, false},
        [EXCHANGE_TIMEOUT] = {RELAY_FAIL_TIMEOUT_TOTAL, false},
        [EXCHANGE_MALFORMED] = {RELAY_FAIL_MALFORMED, false},
        [EXCHANGE_FAILED] = {RELAY_FAIL_LOCAL, false},
};

static void end_whole(struct relay *r)
{
        /* 501 says what the server was not started for: it is well. */
        bool failed = r->status >= 500 && r->status != 501;

        r->result = RELAY_OK;
        r->end_status = r->status;
        r->code = "ok";
        r->message[0] = '\0';
        let_go(r, failed ? OUTCOME_FAILED : OUTCOME_OK);
        tell_end(r);
}

/* A kernel says "reset" instead of "end" when a socket is closed with bytes in it that were never read (unix_release_sock; RFC 9293
 * §3.6.1 for TCP), and "broken pipe" when it was closed before we had sent them all. */
static unsigned how_it_failed(const struct exchange_answer *answer)
{
        bool unread = answer->sent == 0 || answer->error == -ECONNRESET || answer->error == -EPIPE;

        return TRY_CLOSED | (unread ? TRY_UNREAD : 0) |
               (answer->result == EXCHANGE_STALE ? (unsigned)TRY_STALE : 0);
}

static void on_end(void *owner, const struct exchange_answer *answer, usec_t now)
{
        struct relay *r = owner;
        enum relay_failure failure = endings[answer->result].failure;

        (void)now;
        r->exchange = NULL;
        if (answer->result == EXCHANGE_OK) {
                end_whole(r);
                return;
        }
        if (endings[answer->result].elsewhere && !answer->bytes &&
            !(failure == RELAY_FAIL_TIMEOUT_CONNECT && !ticket_has_other(r->ticket))) {
                try_elsewhere(r, failure, exchange_result_text(answer->result), how_it_failed(answer));
                return;
        }
        if (failure >= RELAY_FAIL_TIMEOUT_CONNECT && failure <= RELAY_FAIL_TIMEOUT_TOTAL) {
                end_at_deadline(r, failure);
                return;
        }
        count_failure(r, failure);
        if (failure == RELAY_FAIL_LOCAL)
                set_end(r, RELAY_REFUSED, 503, "local_trouble", "the supervisor could not reach %s: %s",
                        r->instance, answer->error ? strerror(-answer->error) : "out of memory");
        else if (failure == RELAY_FAIL_MALFORMED)
                set_end(r, RELAY_REFUSED, 502, "upstream_malformed", "what %s answered is not HTTP",
                        r->instance);
        else
                set_end(r, RELAY_REFUSED, 502, "upstream_broken",
                        "%s closed the connection in the middle of its answer", r->instance);
        let_go(r, failure == RELAY_FAIL_LOCAL       ? OUTCOME_CANCELLED
                  : failure == RELAY_FAIL_MALFORMED ? OUTCOME_FAILED
                                                    : OUTCOME_BROKEN);
        tell_end(r);
}

static const struct exchange_events upstream_events = {
        .on_head = on_head, .on_data = on_data, .on_end = on_end};

/* --- a try ----------------------------------------------------------------------------------------------------------- */

/* Our own lines: the instance's key, and a name for the request where it has none. */
static void build_lines(struct relay *r)
{
        const char *key = ticket_api_key(r->ticket);

        buffer_clear(&r->lines);
        if (key)
                (void)buffer_printf(&r->lines, "Authorization: Bearer %s\r\n", key);
        if (!r->names_itself) {
                (void)buffer_puts(&r->lines, "X-Request-Id: ");
                (void)buffer_puts(&r->lines, r->id);
                (void)buffer_puts(&r->lines, "\r\n");
        }
}

/* It holds a lease: sends the request. */
static void relay_try(struct relay *r)
{
        const struct config_gateway *g = gateway(r);
        struct upstream *u = ticket_upstream(r->ticket);
        usec_t now = now_of(r), connect, left;
        struct exchange_spec spec;
        int e = -ENOMEM;

        r->fleet->relays->figures.tries++;
        r->tries = r->record->tries = ticket_tries(r->ticket);
        r->record->state = "running";
        if (!r->record->granted)
                r->record->granted = now;
        (void)text_copy(r->instance, sizeof(r->instance), ticket_instance(r->ticket));
        (void)text_copy(r->record->instance, sizeof(r->record->instance), r->instance);
        r->sent_at = now;
        if (!r->total_by)
                r->total_by = usec_add(now, or_default(g->timeouts.total, TOTAL_DEFAULT));
        left = MAX(usec_sub(r->total_by, now), USEC_PER_MSEC);
        connect = or_default(g->timeouts.connect, CONNECT_DEFAULT);
        build_lines(r);
        spec = (struct exchange_spec){
                .method = r->method,
                .target = r->target,
                .fields = r->fields,
                .n_fields = r->n_fields,
                .headers = r->lines.data,
                .body = r->body,
                .n_body = r->n_body,
                .connect_timeout = MIN(connect, left),
                .first_timeout = MIN(or_default(g->timeouts.first_byte, FIRST_DEFAULT), left),
                .timeout = left,
                .fresh = r->fresh,
        };
        if (u && !r->lines.failed)
                e = upstream_stream(u, &spec, &upstream_events, r, &r->exchange);
        if (e < 0) {
                count_failure(r, RELAY_FAIL_LOCAL);
                set_end(r, RELAY_REFUSED, 503, "local_trouble", "the supervisor could not reach %s: %s",
                        r->instance, strerror(-e));
                let_go(r, OUTCOME_CANCELLED);
                end_late(r);
                return;
        }
        if (r->paused) {
                exchange_pause(r->exchange, true);
                ticket_pause(r->ticket, true);
        }
}

static void on_grant(void *owner, struct ticket *t)
{
        (void)t;
        relay_try(owner);
}

static void on_refuse(void *owner, struct ticket *t, enum ticket_refusal why, const char *message,
                      unsigned retry_after)
{
        static const int statuses[TICKET_REFUSALS] = {[REFUSAL_QUEUE_FULL] = 429,
                                                      [REFUSAL_QUESTIONS] = 429,
                                                      [REFUSAL_TRIES] = 502,
                                                      [REFUSAL_REMOVED] = 404};
        struct relay *r = owner;

        r->waited = ticket_waited(t, now_of(r));
        r->ticket = NULL;
        r->retry_after = retry_after;
        set_end(r, RELAY_REFUSED, statuses[why] ? statuses[why] : 503, ticket_refusal_name(why), "%s",
                message ? message : "");
        tell_end(r);
}

static void on_revoke(void *owner, struct ticket *t, const char *why)
{
        struct relay *r = owner;

        size_t n = strlen(r->instance);

        (void)t;
        if (!r->began) {
                /* The reasons of tries are told with the instance's name in front. */
                if (starts_with(why, r->instance) && (why[n] == ' ' || why[n] == ':'))
                        why += why[n] == ':' ? MIN(n + 2, strlen(why)) : n + 1;
                try_elsewhere(r, RELAY_FAIL_GONE, why, 0);
                return;
        }
        count_failure(r, RELAY_FAIL_GONE);
        set_end(r, RELAY_BROKEN, 502, "instance_gone", "%s went in the middle of its answer: %s", r->instance,
                why);
        let_go(r, OUTCOME_CANCELLED);
        tell_end(r);
}

static const struct ticket_events dispatch_events = {
        .on_grant = on_grant, .on_refuse = on_refuse, .on_revoke = on_revoke};

/* --- public -------------------------------------------------------------------------------------------------------- */

static void fill_record(struct activity_record *rec, const struct relay_spec *spec)
{
        rec->source = spec->source;
        rec->streams = spec->streams;
        rec->question = spec->ticket.ignores_slots;
        (void)text_copy(rec->key, sizeof(rec->key), spec->ticket.key);
        (void)text_copy(rec->path, sizeof(rec->path), spec->path);
        (void)text_copy(rec->peer, sizeof(rec->peer), spec->peer);
        trace_of(spec->headers, spec->n_headers, &rec->trace);
}

int relay_start(struct fleet *f, const struct relay_spec *spec, const struct relay_events *events,
                void *owner, struct relay **ret)
{
        struct relay *r;
        int e = relay_new(f, &r), granted;

        if (e < 0)
                return e;
        r->events = events;
        r->owner = owner;
        e = copy_request(r, spec);
        if (e < 0)
                goto fail;
        granted = dispatch_ask(f, &spec->ticket, &dispatch_events, r, &r->ticket);
        if (granted < 0) {
                e = granted;
                goto fail;
        }
        r->record = activity_begin(f->activity,
                                   spec->ticket.shared ? spec->ticket.shared : spec->ticket.entry->name,
                                   loop_now(f->loop), loop_realtime(f->loop));
        if (!r->record) {
                if (granted)
                        ticket_done(r->ticket, OUTCOME_CANCELLED, USEC_INFINITY);
                else
                        ticket_cancel(r->ticket);
                e = -ENOMEM;
                goto fail;
        }
        fill_record(r->record, spec);
        memcpy(r->id, r->record->id, sizeof(r->id));
        list_append(&f->relays->running, &r->node);
        f->relays->figures.running++;
        f->relays->figures.started++;
        *ret = r;
        if (granted)
                relay_try(r);
        return 0;
fail:
        (void)relay_free(r);
        return e;
}

void relay_pause(struct relay *r, bool on)
{
        if (on == r->paused)
                return;
        r->paused = on;
        if (!r->exchange)
                return;
        if (r->ticket)
                ticket_pause(r->ticket, on);
        exchange_pause(r->exchange, on);
        if (!on && r->began) {
                r->last_life = now_of(r); /* its silence until now was ours */
                if (!r->alive)
                        r->sent_at = r->last_life;
                arm(r);
        }
}

void relay_cancel(struct relay *r)
{
        if (r->ticket)
                let_go(r, OUTCOME_CANCELLED);
        if (r->record)
                end_record(r, r->ending ? outcome_of(r, r->code) : "client_gone", r->began ? r->status : 0);
        relay_recycle(r);
}

int relay_cancel_id(struct fleet *f, const char *id, const char *why)
{
        LIST_FOREACH(&f->relays->running, it)
        {
                struct relay *r = LIST_ENTRY(it, struct relay, node);

                if (r->ending || !streq(r->id, id))
                        continue;
                set_end(r, RELAY_CANCELLED, 499, "cancelled", "%s", why);
                let_go(r, OUTCOME_CANCELLED);
                end_late(r);
                return 0;
        }
        return -ENOENT;
}

bool relay_progress(const struct relay *r, struct ticket_progress *ret)
{
        if (!r->ticket || r->instance[0])
                return false;
        ticket_progress(r->ticket, ret);
        return true;
}

void relay_note_positions(struct fleet *f)
{
        LIST_FOREACH(&f->relays->running, it)
        {
                struct relay *r = LIST_ENTRY(it, struct relay, node);
                struct ticket_progress p = {0};

                if (!r->record)
                        continue;
                (void)relay_progress(r, &p);
                r->record->position = p.position;
                r->record->estimate = p.estimate;
        }
}

const char *relay_id(const struct relay *r)
{
        return r->id;
}

void relay_about(const struct relay *r, struct log_about *ret)
{
        *ret = (struct log_about){.request = r->id};
        if (r->record)
                activity_about(r->record, ret);
}

const char *relay_instance(const struct relay *r)
{
        return r->instance[0] ? r->instance : NULL;
}

usec_t relay_waited(const struct relay *r)
{
        return r->ticket ? ticket_waited(r->ticket, now_of(r)) : r->waited;
}

unsigned relay_tries(const struct relay *r)
{
        return r->tries;
}

void relay_figures(struct fleet *f, struct relay_figures *ret)
{
        *ret = f->relays->figures;
}
