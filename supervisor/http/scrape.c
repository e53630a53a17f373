/* scrape.c: GET /metrics: a snapshot in two turns of the loop, then a slice of text per turn, as fast as the reader takes it. */
#include <errno.h>

#include "base/log.h"
#include "http/doors_private.h"
#include "http/exposition.h"
#include "http/respond.h"

/* A slice is about 0.5 ms of work (measured; ten times as long must not hurt anybody), and everybody who has something to read is
 * served between two: 1,000 instances are about 5 MB and 14 slices. Slice and queue together stay below the server's bound. */
enum { SLICE = 384 * 1024, QUEUE_MAX = 384 * 1024 };

struct scrape {
        struct doors *doors;
        struct request *req;
        struct exposition *exposition;
        struct timer *timer; /* the next step, or the end of patience with a reader */
        usec_t give_up;
        struct buffer text; /* a slice; its memory serves for the next one */
        enum exposition_format format;
        bool begun, waits; /* waits: until the reader has taken what it got */
};

static void scrape_free(struct scrape *s)
{
        s->doors->n_scrapes--;
        exposition_free(s->exposition);
        buffer_finish(&s->text);
        timer_free(s->timer);
        free(s);
}

static void scrape_gone(void *owner, struct request *req)
{
        (void)req;
        scrape_free(owner);
}

/* Half of the metrics must not look like all of them. */
static void scrape_cut(struct scrape *s)
{
        struct request *req = s->req;

        request_on_gone(req, NULL, NULL);
        request_on_drain(req, NULL, NULL);
        scrape_free(s);
        request_abort(req);
}

static void scrape_drained(void *owner, struct request *req)
{
        struct scrape *s = owner;

        (void)req;
        if (!s->waits)
                return;
        s->waits = false;
        timer_set_soon(s->timer);
}

/* The rest of the snapshot, and the head of the answer. */
static void scrape_begin(struct scrape *s)
{
        struct request *req = s->req;
        int r = exposition_gather(s->exposition, s->doors->fleet);

        if (r < 0) {
                request_on_gone(req, NULL, NULL);
                scrape_free(s);
                doors_respond_error(req, 503, "cannot gather the metrics: %s", strerror(-r));
                return;
        }
        s->begun = true;
        respond_begin(req, 200, exposition_content_type(s->format), "Vary: Accept\r\n");
        request_on_drain(req, scrape_drained, s);
        timer_set_soon(s->timer);
}

static void scrape_slice(void *owner, usec_t now)
{
        struct scrape *s = owner;
        struct request *req = s->req;
        bool more;

        if (!s->begun) {
                scrape_begin(s);
                return;
        }
        if (now >= s->give_up) {
                s->doors->counts.scrapes_cut++;
                scrape_cut(s);
                return;
        }
        if (request_queued(req) > QUEUE_MAX) {
                s->waits = true;
                timer_set(s->timer, s->give_up); /* one that drips does not keep its place for ever */
                return;
        }
        buffer_clear(&s->text);
        more = exposition_more(s->exposition, &s->text, SLICE);
        if (s->text.failed || request_write(req, s->text.data, s->text.len) < 0) {
                scrape_cut(s);
                return;
        }
        if (more) {
                timer_set_soon(s->timer);
                return;
        }
        request_on_gone(req, NULL, NULL);
        request_on_drain(req, NULL, NULL);
        scrape_free(s);
        request_end(req);
}

enum exposition_format exposition_wanted(const struct request *req)
{
        const struct http1_request *head = request_head(req);
        struct slice accept = {0};

        (void)http1_header_find(head->headers, head->n_headers, "accept", &accept);
        return exposition_format_of(accept);
}

static void gather(struct doors *d, struct exposition_facts *ret)
{
        *ret = (struct exposition_facts){
                .feed = *feed_counts(d->feed),
                .server = *server_counts(d->server),
                .router_errors = d->counts.errors,
                .busy = d->counts.busy,
                .scrapes_cut = d->counts.scrapes_cut,
                .follow_skipped = d->counts.follow_skipped,
                .followers = d->n_follows,
                .uptime = usec_sub(loop_now(d->loop), d->started),
                .started_realtime = d->started_realtime,
                .realtime = loop_realtime(d->loop),
                .loop_lag = loop_lag_max(d->loop),
                .loop_turn = loop_turn_max(d->loop),
                .loop_delays = *loop_delays(d->loop),
                .log_lost = log_lost(),
                .auth = *auth_counts(d->auth),
                .gateway = *gateway_counts(d->gateway),
                .keys = (unsigned)auth_keys_in_force(d->auth),
                .upgrades = handover_counts(d->handover),
                .hubs = d->hubs,
        };
        ret->tls_reloads = d->counts.tls_reloads;
        ret->tls_reloads_failed = d->counts.tls_reloads_failed;
        ret->n_certificates = doors_tls_certificates(d, ret->certificates, ARRAY_SIZE(ret->certificates));
        memcpy(ret->gate_refused, d->counts.gate_refused, sizeof(ret->gate_refused));
        process_facts_read(&ret->process);
}

static int scrape_new(struct call *call, enum exposition_format format, struct scrape **ret)
{
        struct exposition_facts facts;
        struct scrape *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->doors = call->doors;
        s->req = call->req;
        s->format = format;
        s->give_up = usec_add(loop_now(call->doors->loop), call->doors->scrape_deadline);
        buffer_init(&s->text, 0);
        s->doors->n_scrapes++;
        gather(call->doors, &facts);
        r = exposition_new(call->doors->fleet, &facts, format, &s->exposition);
        if (r == 0)
                r = timer_new(call->doors->loop, scrape_slice, s, &s->timer);
        if (r < 0) {
                scrape_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

void scrape_handle(struct call *call)
{
        enum exposition_format format = exposition_wanted(call->req);
        struct scrape *s;
        int r;

        /* Strangers cannot keep the operator from them. */
        if (call->doors->n_scrapes >= DOORS_SCRAPES_MAX + (call->control ? DOORS_CONTROL_SCRAPES_EXTRA : 0)) {
                call->doors->counts.busy++;
                respond_error_with(call->req, 503, NULL, "Retry-After: 1\r\n",
                                   "too many scrapes run at once");
                return;
        }
        r = scrape_new(call, format, &s);
        if (r < 0) {
                doors_respond_error(call->req, 503, "cannot gather the metrics: %s", strerror(-r));
                return;
        }
        request_on_gone(call->req, scrape_gone, s);
        timer_set_soon(s->timer);
}
