/* feed.c: subjects, versions and the queue of subscribers; the carriers are in feed_socket.c, feed_sse.c and socketio.c. */
#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "core/http1_uri.h"
#include "http/feed_private.h"
#include "http/respond.h"

enum {
        SUBSCRIBERS_A_TURN = 500,
        MESSAGES_A_TURN = 64, /* to one subscriber */
        GONE_MAX = 1024,
        MESSAGES_BURST = 100, /* of a client; then 20 a second */
};

static const usec_t FIGURES_INTERVAL = USEC_PER_SEC;
static const usec_t FIGURES_SLACK = 50 * USEC_PER_MSEC; /* so that many instances share a wake-up */
static const usec_t FRAME_AGE_MAX = USEC_PER_SEC; /* uptime and timestamp are not told older than that */
static const struct feed_times default_times = {
        .ws_ping = 25 * USEC_PER_SEC,
        .sse_keepalive = 15 * USEC_PER_SEC,
        /* The defaults of the reference server, which its clients are told in the handshake. */
        .socketio_ping = 25 * USEC_PER_SEC,
        .socketio_pong = 20 * USEC_PER_SEC,
        .socketio_upgrade = 10 * USEC_PER_SEC,
        .socketio_connect = 45 * USEC_PER_SEC,
};
static const usec_t GONE_KEPT = 10 * USEC_PER_MIN; /* longer than any reader may be frozen */

/* --- subjects ------------------------------------------------------------------------------------------------------ */

static unsigned bucket_of(const char *name)
{
        uint32_t h = 2166136261U; /* FNV-1a */

        for (; *name; name++)
                h = (h ^ (unsigned char)*name) * 16777619U;
        return h % FEED_BUCKETS;
}

static struct subject *subject_new(const char *name)
{
        struct subject *s = calloc(1, sizeof(*s));

        if (!s)
                return NULL;
        list_init(&s->node);
        list_init(&s->held);
        for (int i = 0; i < ENCODINGS; i++)
                buffer_init(&s->frames[i].text, 0);
        s->name = strdup(name);
        if (s->name)
                return s;
        free(s);
        return NULL;
}

static struct subject *subject_free(struct subject *s)
{
        if (!s)
                return NULL;
        list_remove(&s->node);
        list_remove(&s->held);
        for (int i = 0; i < ENCODINGS; i++)
                buffer_finish(&s->frames[i].text);
        free(s->name);
        free(s->last);
        free(s);
        return NULL;
}

static struct subject **find_slot(struct feed *f, const char *name)
{
        struct subject **slot = f->buckets + bucket_of(name);

        while (*slot && !streq((*slot)->name, name))
                slot = &(*slot)->next;
        return slot;
}

static struct subject *find_or_add(struct feed *f, const char *name)
{
        struct subject **slot = find_slot(f, name);

        if (!*slot) {
                *slot = subject_new(name);
                if (*slot)
                        list_append(&f->subjects, &(*slot)->node);
        }
        return *slot;
}

struct subject *feed_find(struct feed *f, const char *instance)
{
        struct subject *s = streq(instance, "*") ? f->aggregate : *find_slot(f, instance);

        return s && !s->gone ? s : NULL;
}

char *feed_no_instance(struct feed *f, const char *name, char *buf, size_t size)
{
        const char *nearest = fleet_nearest(f->fleet, name);

        if (nearest && streq(nearest, name))
                (void)snprintf(buf, size, "\"%s\" has several instances: say which one, as %s-0", name, name);
        else if (nearest)
                (void)snprintf(buf, size, "there is no instance \"%s\": did you mean \"%s\"?", name, nearest);
        else
                (void)snprintf(buf, size, "there is no instance \"%s\"", name);
        return buf;
}

int feed_instance_of(struct feed *f, struct request *req, struct subject **ret)
{
        char name[FEED_NAME_MAX], message[3 * FEED_NAME_MAX];
        struct subject *s;
        int r = http1_query_get(request_head(req)->query, "instance", name, sizeof(name));

        if (r == -ENOENT) {
                *ret = NULL;
                return 0;
        }
        if (r == -EINVAL) {
                f->counts.refused++;
                respond_error_param(req, 400, "instance",
                                    "query parameter \"instance\" is malformed, or there twice");
                return r;
        }
        s = r < 0 ? NULL : feed_find(f, name);
        if (s) {
                *ret = s;
                return 0;
        }
        f->counts.refused++;
        respond_error_param(req, 404, "instance", "%s",
                            r < 0 ? "there is no instance with so long a name"
                                  : feed_no_instance(f, name, message, sizeof(message)));
        return -ENOENT;
}

/* Instances that went long ago are forgotten, and the oldest when a program makes and removes them by the thousand. */
static void forget_gone(struct feed *f, usec_t now)
{
        unsigned n = 0;

        for (struct list *it = f->subjects.prev, *before; it != &f->subjects; it = before) {
                struct subject *s = LIST_ENTRY(it, struct subject, node);

                before = it->prev;
                if (!s->gone || s->users)
                        continue;
                if (++n > GONE_MAX || usec_sub(now, s->gone_at) > GONE_KEPT) {
                        *find_slot(f, s->name) = s->next;
                        subject_free(s);
                }
        }
}

/* --- frames -------------------------------------------------------------------------------------------------------- */

static void put_removed(struct json_writer *w, const char *name, usec_t realtime)
{
        json_open_object(w);
        json_string(w, "type", "llama_status_removed");
        json_string(w, "instance", name);
        json_uint(w, "timestamp", realtime / USEC_PER_MSEC);
        json_close_object(w);
}

static void put_message(struct feed *f, struct buffer *out, const struct subject *s,
                        const struct report *report)
{
        struct json_writer w;

        json_begin(&w, out);
        if (report)
                report_put_message(&w, report, loop_realtime(f->loop));
        else
                put_removed(&w, s->name, loop_realtime(f->loop));
}

static void build_frame(struct feed *f, struct subject *s, enum encoding encoding,
                        const struct report *report)
{
        struct buffer *out = &s->frames[encoding].text;

        buffer_clear(out);
        switch (encoding) {
        case ENCODING_SSE:
                if (report)
                        (void)buffer_printf(out, "id: %s:%llu\nevent: llama_status\ndata: ", s->name,
                                            (unsigned long long)report->seq);
                else
                        (void)buffer_puts(out, "event: llama_status_removed\ndata: ");
                put_message(f, out, s, report);
                (void)buffer_puts(out, "\n\n");
                break;
        case ENCODING_SOCKETIO:
                (void)buffer_printf(out, "42[\"%s\",", report ? "llamaStatus" : "llamaStatusRemoved");
                put_message(f, out, s, report);
                (void)buffer_putc(out, ']');
                break;
        default:
                put_message(f, out, s, report);
                break;
        }
        s->frames[encoding].version = s->version;
        s->frames[encoding].built_at = loop_now(f->loop);
}

static const struct report *report_of(struct feed *f, const struct subject *s)
{
        if (s->gone)
                return NULL;
        return s == f->aggregate ? fleet_aggregate(f->fleet) : fleet_find(f->fleet, s->name);
}

struct frame feed_frame(struct feed *f, struct subject *s, enum encoding encoding)
{
        struct buffer *text = &s->frames[encoding].text;

        if (s->frames[encoding].version != s->version || text->failed ||
            usec_sub(loop_now(f->loop), s->frames[encoding].built_at) > FRAME_AGE_MAX)
                build_frame(f, s, encoding, report_of(f, s));
        if (text->failed)
                return (struct frame){NULL, 0};
        return (struct frame){text->data, text->len};
}

/* --- what clients may cost --------------------------------------------------------------------------------------------- */

bool feed_too_fast(usec_t *paid_until, usec_t now)
{
        static const usec_t cost = USEC_PER_SEC / 20;

        *paid_until = usec_add(MAX(*paid_until, now), cost);
        return usec_sub(*paid_until, now) > MESSAGES_BURST * cost;
}

/* --- subscribers --------------------------------------------------------------------------------------------------- */

void subscriber_ready(struct subscriber *sub)
{
        sub->blocked = false;
        if (list_is_empty(&sub->ready))
                list_append(&sub->feed->ready, &sub->ready);
        loop_wake(sub->feed->loop);
}

void subscriber_refresh(struct subscriber *sub)
{
        sub->known = MAX(sub->known, sub->seen);
        sub->seen = 0;
        if (!sub->blocked)
                subscriber_ready(sub);
}

void subscriber_join(struct subscriber *sub, struct feed *f, const struct carrier *carrier,
                     struct subject *only, uint64_t mark, unsigned *count)
{
        list_init(&sub->ready);
        sub->feed = f;
        sub->carrier = carrier;
        sub->mark = mark;
        sub->only = only;
        sub->known = f->version;
        sub->status = true;
        if (only)
                only->users++;
        list_append(&f->subscribers, &sub->node);
        f->n_subscribers++;
        f->users[carrier->encoding]++;
        ++*count;
        subscriber_ready(sub);
}

void subscriber_leave(struct subscriber *sub, unsigned *count)
{
        list_remove(&sub->node);
        list_remove(&sub->ready);
        if (sub->only)
                sub->only->users--;
        sub->feed->n_subscribers--;
        sub->feed->users[sub->carrier->encoding]--;
        --*count;
}

static bool wants(const struct subscriber *sub, const struct subject *s)
{
        return s->version > sub->seen && !(s->gone && s->version <= sub->known);
}

/* The first of the list that is newer than what it has seen. */
static struct list *first_unseen(const struct subscriber *sub)
{
        struct list *end = &sub->feed->subjects, *it = end->next;

        if (it == end || LIST_ENTRY(it, struct subject, node)->version > sub->seen)
                return it;
        /* A reader that keeps up has seen all but the last ones. */
        for (it = end; LIST_ENTRY(it->prev, struct subject, node)->version > sub->seen;)
                it = it->prev;
        return it;
}

struct subject *subscriber_next(const struct subscriber *sub)
{
        struct list *end = &sub->feed->subjects;

        if (!sub->status)
                return NULL;
        if (sub->only)
                return wants(sub, sub->only) ? sub->only : NULL;
        for (struct list *it = first_unseen(sub); it != end; it = it->next) {
                struct subject *s = LIST_ENTRY(it, struct subject, node);

                if (wants(sub, s))
                        return s;
        }
        return NULL;
}

void subscriber_told(struct subscriber *sub, const struct subject *s)
{
        sub->seen = s->version;
        sub->feed->counts.messages++;
}

static int tell(struct subscriber *sub, struct subject *s)
{
        struct frame frame = feed_frame(sub->feed, s, sub->carrier->encoding);
        int r = frame.len ? sub->carrier->send(sub, &frame) : 0;

        if (r == 0)
                subscriber_told(sub, s);
        return r;
}

static void serve(struct subscriber *sub)
{
        int r = sub->carrier->flush ? sub->carrier->flush(sub) : 0;

        for (unsigned i = 0; r == 0 && i < MESSAGES_A_TURN; i++) {
                struct subject *s = subscriber_next(sub);

                if (!s)
                        return;
                r = tell(sub, s);
        }
        if (r == 0)
                subscriber_ready(sub); /* the others first */
        else
                sub->blocked = true;
}

static void on_turn(void *owner, usec_t now)
{
        struct feed *f = owner;

        (void)now;
        for (unsigned i = 0; i < SUBSCRIBERS_A_TURN && !list_is_empty(&f->ready); i++) {
                struct subscriber *sub = LIST_ENTRY(f->ready.next, struct subscriber, ready);

                list_remove(&sub->ready);
                serve(sub);
        }
        if (!list_is_empty(&f->ready))
                loop_wake(f->loop);
}

/* Messages that it will not be told, since what changed now is newer. */
static uint64_t count_replaced(const struct subscriber *sub)
{
        const struct feed *f = sub->feed;
        uint64_t n = 0;

        if (!sub->status || sub->seen >= f->notified)
                return 0;
        if (sub->only)
                return sub->only->version > f->notified && sub->only->before > sub->seen;
        for (const struct list *it = f->subjects.prev; it != &f->subjects; it = it->prev) {
                const struct subject *s = LIST_ENTRY(it, const struct subject, node);

                if (s->version <= f->notified)
                        break;
                n += s->before > sub->seen;
        }
        return n;
}

static void notify_subscribers(struct feed *f)
{
        LIST_FOREACH(&f->subscribers, it)
        {
                struct subscriber *sub = LIST_ENTRY(it, struct subscriber, node);

                if (sub->only && !wants(sub, sub->only))
                        continue;
                f->counts.coalesced += count_replaced(sub);
                if (!sub->blocked && list_is_empty(&sub->ready))
                        list_append(&f->ready, &sub->ready);
        }
        f->notified = f->version;
        if (!list_is_empty(&f->ready))
                loop_wake(f->loop);
}

/* --- changes ------------------------------------------------------------------------------------------------------- */

/* report: NULL when it is gone. */
static void publish(struct feed *f, struct subject *s, const struct report *report, usec_t now)
{
        s->before = s->version;
        s->version = ++f->version;
        s->sent_at = now;
        list_remove(&s->held);
        if (s != f->aggregate) {
                list_remove(&s->node);
                list_append(&f->subjects, &s->node);
        }
        for (int i = 0; i < ENCODINGS; i++)
                if (f->users[i] && (s != f->aggregate || i == ENCODING_SOCKETIO))
                        build_frame(f, s, (enum encoding)i, report);
}

static void hold(struct feed *f, struct subject *s, usec_t now)
{
        usec_t due = MAX(usec_add(s->sent_at, FIGURES_INTERVAL), usec_add(now, FIGURES_SLACK));

        if (!list_is_empty(&s->held))
                return;
        list_append(&f->held, &s->held);
        if (due < timer_due(f->figures_timer))
                timer_set(f->figures_timer, due);
}

/* What the aggregate says besides the passing of time. */
static char *aggregate_text(const struct report *report)
{
        struct report timeless = *report;
        struct buffer out;
        struct json_writer w;

        timeless.uptime = 0;
        buffer_init(&out, 0);
        json_begin(&w, &out);
        report_put_data(&w, &timeless);
        return buffer_steal(&out);
}

static void change_aggregate(struct feed *f, bool figures_only, usec_t now)
{
        struct subject *a = f->aggregate;
        const struct report *report;
        char *text;

        if (!a->users) { /* whoever comes gets a frame of then */
                a->version = ++f->version;
                return;
        }
        if (figures_only && usec_sub(now, a->sent_at) < FIGURES_INTERVAL) {
                hold(f, a, now);
                return;
        }
        report = fleet_aggregate(f->fleet);
        text = report ? aggregate_text(report) : NULL;
        if (!text || streq_ptr(text, a->last)) {
                free(text);
                list_remove(&a->held);
                return;
        }
        free(a->last);
        a->last = text;
        publish(f, a, report, now);
}

static void tell_gone(struct feed *f, const char *instance)
{
        LIST_FOREACH(&f->subscribers, it)
        {
                struct subscriber *sub = LIST_ENTRY(it, struct subscriber, node);

                if (sub->carrier->gone)
                        sub->carrier->gone(sub, instance);
        }
}

static void on_change(void *owner, const struct fleet_change *changes, size_t n, usec_t now)
{
        struct feed *f = owner;
        bool figures_only = true;

        for (size_t i = 0; i < n; i++) {
                const struct fleet_change *change = changes + i;
                struct subject *s = find_or_add(f, change->report->instance);

                if (!s)
                        continue; /* no memory: the next change tells it */
                figures_only = figures_only && change->figures_only && !change->gone;
                if (change->gone && s->gone)
                        continue;
                s->gone = change->gone;
                s->gone_at = now;
                if (change->figures_only && !change->gone && s->version &&
                    usec_sub(now, s->sent_at) < FIGURES_INTERVAL)
                        hold(f, s, now);
                else
                        publish(f, s, change->gone ? NULL : change->report, now);
                if (change->gone)
                        tell_gone(f, s->name);
        }
        change_aggregate(f, figures_only, now);
        if (!figures_only)
                forget_gone(f, now);
        notify_subscribers(f);
}

static void on_figures_timer(void *owner, usec_t now)
{
        struct feed *f = owner;
        usec_t next = USEC_INFINITY;

        LIST_FOREACH(&f->held, it)
        {
                struct subject *s = LIST_ENTRY(it, struct subject, held);
                usec_t due = usec_add(s->sent_at, FIGURES_INTERVAL);

                if (due > now) {
                        next = MIN(next, MAX(due, usec_add(now, FIGURES_SLACK)));
                } else if (s == f->aggregate) {
                        list_remove(&s->held);
                        change_aggregate(f, false, now);
                } else {
                        const struct report *report = report_of(f, s);

                        list_remove(&s->held);
                        if (report)
                                publish(f, s, report, now);
                }
        }
        timer_set(f->figures_timer, next);
        notify_subscribers(f);
}

/* --- the feed ------------------------------------------------------------------------------------------------------- */

const struct feed_counts *feed_counts(const struct feed *f)
{
        return &f->counts;
}

void feed_set_times(struct feed *f, const struct feed_times *times)
{
        f->times = *times;
        ws_set_ping_interval(f->ws, times->ws_ping);
}

static int add_subjects(struct feed *f)
{
        for (size_t i = 0; i < fleet_count(f->fleet); i++) {
                struct subject *s = find_or_add(f, fleet_brief(f->fleet, i).instance);

                if (!s)
                        return -ENOMEM;
                s->version = ++f->version;
        }
        f->aggregate = subject_new("*");
        if (!f->aggregate)
                return -ENOMEM;
        f->aggregate->version = ++f->version;
        return 0;
}

unsigned feed_end_marked(struct feed *f, uint64_t mark)
{
        struct list *next;
        unsigned n = 0;

        for (struct list *it = f->subscribers.next; it != &f->subscribers; it = next) {
                struct subscriber *sub = LIST_ENTRY(it, struct subscriber, node);

                next = it->next;
                if (sub->mark != mark)
                        continue;
                sub->carrier->end(sub, WEBSOCKET_POLICY);
                n++;
        }
        return n;
}

static void end_all(struct feed *f, enum websocket_code code)
{
        while (!list_is_empty(&f->subscribers)) {
                struct subscriber *sub = LIST_ENTRY(f->subscribers.next, struct subscriber, node);

                sub->carrier->end(sub, code);
        }
}

void feed_restart(struct feed *f)
{
        end_all(f, WEBSOCKET_RESTART);
}

struct feed *feed_free(struct feed *f)
{
        if (!f)
                return NULL;
        if (f->subscribed)
                fleet_unsubscribe(f->fleet, on_change, f);
        if (f->turning)
                loop_remove_turn(f->loop, on_turn, f);
        end_all(f, WEBSOCKET_GOING_AWAY);
        f->socketio = socketio_free(f->socketio);
        f->ws = ws_free(f->ws);
        f->figures_timer = timer_free(f->figures_timer);
        f->sse_timer = timer_free(f->sse_timer);
        f->log_timer = timer_free(f->log_timer);
        f->activity_timer = timer_free(f->activity_timer);
        (void)feed_set_hubs(f, NULL);
        feed_topic_finish(&f->gpu_topic);
        feed_topic_finish(&f->hub_topic);
        while (!list_is_empty(&f->subjects))
                subject_free(LIST_ENTRY(f->subjects.next, struct subject, node));
        subject_free(f->aggregate);
        free(f);
        return NULL;
}

void feed_on_key(struct feed *f, feed_key_fn *fn, void *owner)
{
        f->on_key = fn;
        f->key_owner = owner;
}

void feed_set_ownlog(struct feed *f, struct ownlog *ownlog)
{
        f->ownlog = ownlog;
}

int feed_new(struct loop *loop, struct fleet *fleet, struct feed **ret)
{
        struct feed *f = calloc(1, sizeof(*f));
        int r;

        if (!f)
                return -ENOMEM;
        f->loop = loop;
        f->fleet = fleet;
        f->times = default_times;
        list_init(&f->subscribers);
        list_init(&f->ready);
        list_init(&f->subjects);
        list_init(&f->held);
        list_init(&f->sses);
        list_init(&f->logs);
        list_init(&f->watches);
        feed_topic_init(&f->gpu_topic, &feed_topic_gpus, f);
        feed_topic_init(&f->hub_topic, &feed_topic_hubs, f);
        r = add_subjects(f);
        if (r >= 0)
                r = timer_new(loop, on_figures_timer, f, &f->figures_timer);
        if (r >= 0)
                r = ws_new(loop, &f->counts.ws, &f->ws);
        if (r >= 0)
                r = socketio_new(f, &f->socketio);
        if (r >= 0)
                r = fleet_subscribe(fleet, on_change, f);
        f->subscribed = r >= 0;
        if (r >= 0)
                r = loop_add_turn(loop, on_turn, f);
        f->turning = r >= 0;
        if (r < 0) {
                feed_free(f);
                return r;
        }
        *ret = f;
        return 0;
}
