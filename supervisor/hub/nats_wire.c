/* nats_wire.c: the thread around libnats and the two queues between it and the loop. */
#include "hub/nats_wire.h"

#ifdef LSV_HAVE_NATS

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/list.h"
#include "base/secret.h"
#include "base/text.h"
#include "core/backoff.h"
#include "hub/nats_wire_private.h"

#define WAIT_FIRST (100 * USEC_PER_MSEC)
#define WAIT_MOST  (16 * USEC_PER_SEC)
#define STEADY     (10 * USEC_PER_SEC) /* a connection that lived so long was a good one */
#define RECENT     (2 * USEC_PER_SEC)  /* such a complaint is why the connection ended */
#define GOODBYE_MS 1000
#define JOIN       (100 * USEC_PER_MSEC) /* of a thread that is told to end: the loop has others to serve */
#define LAST_WAIT  (3 * USEC_PER_SEC)    /* for those that took longer, when the process ends */
#define FINISH     (5 * USEC_PER_SEC)    /* for libnats to call us for the last time */
enum { WHY_MAX = 320, DISPATCH_MAX = 256, SUB_BUCKETS = 1024 };

static const struct backoff_policy refused = {5 * USEC_PER_SEC, 5 * USEC_PER_MIN, 0.2};

enum order_type { ORDER_PUBLISH, ORDER_SUBSCRIBE, ORDER_DRAIN, ORDER_UNSUBSCRIBE };
struct order {
        struct order *next;
        enum order_type type;
        unsigned epoch;
        uint64_t tag;
        size_t size;
        natsMsg *msg;
        char subject[]; /* of SUBSCRIBE */
};

enum event_type { EVENT_UP, EVENT_DOWN, EVENT_MESSAGE, EVENT_DRAINED, EVENT_COMPLAINT };
struct event {
        struct event *next;
        enum event_type type;
        unsigned epoch;
        uint64_t tag;
        size_t size;
        natsMsg *msg;
        size_t max_payload;
        bool refused;
        usec_t retry_at;
        char text[]; /* why, peer */
};

struct queue {
        void *first, **last; /* of struct order or event, by their first member */
        size_t n, bytes;
};

/* One connection. Freed when libnats has called for the last time. */
struct session {
        struct nats_wire *w;
        unsigned epoch;
        bool closed;          /* on_closed was called */
        char why[WHY_MAX];    /* the last complaint … */
        usec_t complained_at; /* … and when */
        struct nats_session_events events;
        struct list subs, by_tag[SUB_BUCKETS];
        unsigned n_subs;
};

struct sub {
        struct list node, tagged; /* in session.subs and by_tag, as long as it can be named by its tag */
        struct session *session;
        natsSubscription *nats; /* our reference; NULL: given up */
        uint64_t tag;
        bool wants_word;
};

struct nats_wire {
        struct loop *loop;
        struct nats_wire_events events;
        void *owner;
        char **urls;
        size_t n_urls;
        char *name, *user, *credentials_file, *ca_file, *cert_file, *key_file;

        pthread_t thread;
        pthread_mutex_t mu;
        pthread_cond_t cond;  /* for the thread: orders, stop, a connection's end */
        pthread_cond_t space; /* for libnats' threads: the loop took events */
        struct queue orders, arrived;
        bool stop, hurry;
        bool ended, orphan; /* the thread is through; nobody waits for it, so that it frees */
        uint64_t bytes_in, bytes_out;

        /* The loop's alone. */
        int fd;
        struct watch *watch;
        bool up, dispatching, dead;
        unsigned epoch;
        size_t max_payload;
};

/* --- queues ------------------------------------------------------------------------------------------------------- */

static void queue_init(struct queue *q)
{
        q->first = NULL;
        q->last = &q->first;
        q->n = q->bytes = 0;
}

static void queue_put(struct queue *q, void *item, size_t size)
{
        *(void **)item = NULL;
        *q->last = item;
        q->last = item;
        q->n++;
        q->bytes += size;
}

static void *queue_take(struct queue *q, size_t *size)
{
        void *item = q->first;

        q->first = *(void **)item;
        if (!q->first)
                q->last = &q->first;
        q->n--;
        q->bytes -= *size;
        return item;
}

static struct order *take_order(struct queue *q)
{
        return q->first ? queue_take(q, &((struct order *)q->first)->size) : NULL;
}

static struct event *take_event(struct queue *q)
{
        return q->first ? queue_take(q, &((struct event *)q->first)->size) : NULL;
}

static void order_free(struct order *o)
{
        natsMsg_Destroy(o->msg);
        free(o);
}

static void event_free(struct event *e)
{
        natsMsg_Destroy(e->msg);
        free(e);
}

/* Under the lock. */
static void post_locked(struct nats_wire *w, struct event *e)
{
        static const uint64_t one = 1;

        queue_put(&w->arrived, e, e->size);
        if (w->arrived.n == 1 && write(w->fd, &one, sizeof(one)) < 0) {
                /* An eventfd at its limit is readable all the same. */
        }
}

static struct event *event_new(enum event_type type, unsigned epoch, const char *text)
{
        size_t len = text ? strlen(text) : 0;
        struct event *e = calloc(1, sizeof(*e) + len + 1);

        if (!e)
                return NULL;
        e->type = type;
        e->epoch = epoch;
        e->size = sizeof(*e) + len;
        if (len)
                memcpy(e->text, text, len + 1);
        return e;
}

/* Threads that were not waited for: what they have to say to their hub may take as long as the process needs to end, and some time more. */
static struct {
        pthread_mutex_t mu;
        pthread_cond_t cond;
        unsigned n;
        bool registered;
} orphans = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void wait_for_orphans(void)
{
        usec_t at = time_realtime() + LAST_WAIT;
        struct timespec t = {.tv_sec = (time_t)(at / USEC_PER_SEC),
                             .tv_nsec = (long)(at % USEC_PER_SEC) * 1000};

        (void)pthread_mutex_lock(&orphans.mu);
        while (orphans.n && pthread_cond_timedwait(&orphans.cond, &orphans.mu, &t) == 0)
                ;
        (void)pthread_mutex_unlock(&orphans.mu);
}

static void orphan_count(int by)
{
        (void)pthread_mutex_lock(&orphans.mu);
        orphans.n += (unsigned)by;
        if (!orphans.registered)
                orphans.registered = atexit(wait_for_orphans) == 0;
        (void)pthread_cond_broadcast(&orphans.cond);
        (void)pthread_mutex_unlock(&orphans.mu);
}

/* --- libnats' threads --------------------------------------------------------------------------------------------- */

static void message(natsConnection *nc, natsSubscription *nats, natsMsg *msg, void *closure)
{
        struct sub *s = closure;
        struct nats_wire *w = s->session->w;
        struct event *e = event_new(EVENT_MESSAGE, s->session->epoch, NULL);

        (void)nc;
        (void)nats;
        if (!e) {
                natsMsg_Destroy(msg);
                return;
        }
        e->tag = s->tag;
        e->msg = msg;
        e->size += (size_t)natsMsg_GetDataLength(msg) + 256;
        (void)pthread_mutex_lock(&w->mu);
        w->bytes_in += (uint64_t)natsMsg_GetDataLength(msg);
        while (!w->stop &&
               (w->arrived.n >= NATS_WIRE_EVENTS_MAX || w->arrived.bytes >= NATS_WIRE_EVENT_BYTES_MAX))
                (void)pthread_cond_wait(&w->space, &w->mu);
        if (w->stop)
                event_free(e);
        else
                post_locked(w, e);
        (void)pthread_mutex_unlock(&w->mu);
}

static void forget_tag(struct sub *s)
{
        list_remove(&s->node);
        list_remove(&s->tagged);
}

/* The last call for a subscription. */
static void complete(void *closure)
{
        struct sub *s = closure;
        struct session *session = s->session;
        struct nats_wire *w = session->w;
        struct event *e = s->wants_word ? event_new(EVENT_DRAINED, session->epoch, NULL) : NULL;
        natsSubscription *nats;

        /* Our reference is given up once: hang_up and end_sub may want to at this moment. */
        (void)pthread_mutex_lock(&w->mu);
        nats = steal_ptr(s->nats);
        forget_tag(s);
        (void)pthread_mutex_unlock(&w->mu);
        natsSubscription_Destroy(nats);
        (void)pthread_mutex_lock(&w->mu);
        if (e) {
                e->tag = s->tag;
                if (w->stop)
                        event_free(e);
                else
                        post_locked(w, e);
        }
        session->n_subs--;
        (void)pthread_cond_broadcast(&w->cond);
        (void)pthread_mutex_unlock(&w->mu);
        free(s);
}

static void on_closed(void *owner)
{
        struct session *s = owner;
        struct nats_wire *w = s->w;

        (void)pthread_mutex_lock(&w->mu);
        s->closed = true;
        (void)pthread_cond_broadcast(&w->cond);
        (void)pthread_mutex_unlock(&w->mu);
}

static void on_complaint(void *owner, const char *what)
{
        struct session *s = owner;
        struct nats_wire *w = s->w;
        struct event *e = event_new(EVENT_COMPLAINT, s->epoch, what);

        (void)pthread_mutex_lock(&w->mu);
        (void)text_copy(s->why, sizeof(s->why), what);
        s->complained_at = time_monotonic();
        if (e && !w->stop && w->arrived.n < NATS_WIRE_EVENTS_MAX)
                post_locked(w, e);
        else
                free(e);
        (void)pthread_mutex_unlock(&w->mu);
}

/* --- our thread --------------------------------------------------------------------------------------------------- */

/* Under the lock: until the cond, or the time. */
static void wait_until(struct nats_wire *w, usec_t at)
{
        struct timespec t = {.tv_sec = (time_t)(at / USEC_PER_SEC),
                             .tv_nsec = (long)(at % USEC_PER_SEC) * 1000};

        if (at == USEC_INFINITY)
                (void)pthread_cond_wait(&w->cond, &w->mu);
        else
                (void)pthread_cond_timedwait(&w->cond, &w->mu, &t);
}

static struct list *bucket_of(struct session *s, uint64_t tag)
{
        return &s->by_tag[tag * UINT64_C(0x9E3779B97F4A7C15) >> 54];
}

static struct sub *find_sub(struct session *s, uint64_t tag)
{
        LIST_FOREACH(bucket_of(s, tag), it)
        {
                struct sub *sub = LIST_ENTRY(it, struct sub, tagged);

                if (sub->tag == tag)
                        return sub;
        }
        return NULL;
}

static void subscribe(struct session *session, natsConnection *nc, const struct order *o)
{
        struct nats_wire *w = session->w;
        struct sub *s = calloc(1, sizeof(*s));
        natsStatus ns;

        if (!s)
                return;
        s->session = session;
        s->tag = o->tag;
        (void)pthread_mutex_lock(&w->mu);
        list_append(&session->subs, &s->node);
        list_append(bucket_of(session, s->tag), &s->tagged);
        session->n_subs++;
        (void)pthread_mutex_unlock(&w->mu);
        ns = natsConnection_Subscribe(&s->nats, nc, o->subject, message, s);
        if (ns == NATS_OK && natsSubscription_SetOnCompleteCB(s->nats, complete, s) == NATS_OK)
                return;
        /* The connection ends just now. */
        (void)pthread_mutex_lock(&w->mu);
        forget_tag(s);
        session->n_subs--;
        (void)pthread_mutex_unlock(&w->mu);
        if (ns == NATS_OK)
                natsSubscription_Destroy(
                        s->nats); /* s stays: libnats may be calling message() with it, and tells nobody when it is through */
        else
                free(s);
}

/* The name is taken away at once, so that the tag can be subscribed anew. */
static void end_sub(struct session *session, const struct order *o, bool drain)
{
        struct nats_wire *w = session->w;
        natsSubscription *nats = NULL;
        struct sub *s;

        (void)pthread_mutex_lock(&w->mu);
        s = find_sub(session, o->tag);
        if (s) {
                s->wants_word = drain;
                nats = steal_ptr(s->nats);
                forget_tag(s);
        }
        (void)pthread_mutex_unlock(&w->mu);
        if (!nats)
                return;
        /* s may be gone as soon as libnats has ended it. Destroy gives up our reference, not the messages on their way. */
        if (!drain || natsSubscription_Drain(nats) != NATS_OK)
                (void)natsSubscription_Unsubscribe(nats);
        natsSubscription_Destroy(nats);
}

static void carry_out(struct session *s, natsConnection *nc, struct order *o)
{
        switch (o->epoch == s->epoch ? o->type : (enum order_type) - 1) {
        case ORDER_PUBLISH:
                /* What fails was not sent because the connection ends: who waits for an answer has a deadline. */
                (void)natsConnection_PublishMsg(nc, o->msg);
                break;
        case ORDER_SUBSCRIBE:
                subscribe(s, nc, o);
                break;
        case ORDER_DRAIN:
                end_sub(s, o, true);
                break;
        case ORDER_UNSUBSCRIBE:
                end_sub(s, o, false);
                break;
        default:
                break;
        }
        order_free(o);
}

/* Until the connection ends or we do. */
static void serve(struct session *s, natsConnection *nc)
{
        struct nats_wire *w = s->w;

        (void)pthread_mutex_lock(&w->mu);
        for (;;) {
                struct order *o = take_order(&w->orders);

                if (o) {
                        (void)pthread_mutex_unlock(&w->mu);
                        carry_out(s, nc, o);
                        (void)pthread_mutex_lock(&w->mu);
                } else if (w->stop || s->closed) {
                        break;
                } else {
                        wait_until(w, USEC_INFINITY);
                }
        }
        (void)pthread_mutex_unlock(&w->mu);
}

/* Ends the connection and waits for libnats to be done with us; else s is left to it. */
static void hang_up(struct session *s, natsConnection *nc)
{
        struct nats_wire *w = s->w;
        usec_t until;
        bool done;

        (void)pthread_mutex_lock(&w->mu);
        done = s->closed;
        (void)pthread_mutex_unlock(&w->mu);
        if (!done)
                (void)natsConnection_FlushTimeout(nc, GOODBYE_MS);
        natsConnection_Close(nc);
        (void)pthread_mutex_lock(&w->mu);
        /* Our references; complete() comes for each. */
        while (!list_is_empty(&s->subs)) {
                struct sub *sub = LIST_ENTRY(s->subs.next, struct sub, node);
                natsSubscription *nats = steal_ptr(sub->nats);

                forget_tag(sub);
                (void)pthread_mutex_unlock(&w->mu);
                natsSubscription_Destroy(nats);
                (void)pthread_mutex_lock(&w->mu);
        }
        (void)pthread_mutex_unlock(&w->mu);
        natsConnection_Destroy(nc);
        (void)pthread_mutex_lock(&w->mu);
        until = time_monotonic() + FINISH;
        while ((!s->closed || s->n_subs) && time_monotonic() < until)
                wait_until(w, until);
        done = s->closed && !s->n_subs;
        (void)pthread_mutex_unlock(&w->mu);
        if (done)
                free(s);
}

static uint32_t chance(void)
{
        uint32_t v = 0;

        (void)secret_random(&v, sizeof(v));
        return v;
}

static void tell_down(struct nats_wire *w, unsigned epoch, const char *why, bool no, usec_t retry_at)
{
        struct event *e = event_new(EVENT_DOWN, epoch, why);

        (void)pthread_mutex_lock(&w->mu);
        if (e) {
                e->refused = no;
                e->retry_at = retry_at;
                post_locked(w, e);
        }
        (void)pthread_mutex_unlock(&w->mu);
}

static bool stopping(struct nats_wire *w)
{
        bool stop;

        (void)pthread_mutex_lock(&w->mu);
        stop = w->stop;
        (void)pthread_mutex_unlock(&w->mu);
        return stop;
}

/* Every URL once, beginning anywhere. 0, -EACCES, -EIO with why. */
static int dial(struct nats_wire *w, struct session *s, natsConnection **ret, char *why)
{
        size_t first = chance() % w->n_urls;
        int result = -EIO;

        for (size_t i = 0; i < w->n_urls && !stopping(w); i++) {
                struct nats_dial d = {.url = w->urls[(first + i) % w->n_urls],
                                      .name = w->name,
                                      .user = w->user,
                                      .credentials_file = w->credentials_file,
                                      .ca_file = w->ca_file,
                                      .cert_file = w->cert_file,
                                      .key_file = w->key_file};
                char text[WHY_MAX] = "";
                int r = nats_dial(&d, &s->events, ret, text, sizeof(text));

                if (r >= 0)
                        return 0;
                /* A refusal by one of them says more than the silence of the others. */
                if (result != -EACCES || r == -EACCES)
                        (void)text_copy(why, WHY_MAX, text);
                if (r == -EACCES)
                        result = r;
        }
        return result;
}

static struct session *session_new(struct nats_wire *w, unsigned epoch)
{
        struct session *s = calloc(1, sizeof(*s));

        if (!s)
                return NULL;
        s->w = w;
        s->epoch = epoch;
        s->events = (struct nats_session_events){on_closed, on_complaint, s};
        list_init(&s->subs);
        for (size_t i = 0; i < SUB_BUCKETS; i++)
                list_init(&s->by_tag[i]);
        return s;
}

/* One connection from its first try to its end. Returns how it ended: -EACCES, -EIO; 0: it was a good one. */
static int connection(struct nats_wire *w, unsigned epoch, char *why)
{
        struct session *s = session_new(w, epoch);
        natsConnection *nc = NULL;
        char peer[256] = "";
        struct event *e;
        usec_t began;
        int r = s ? dial(w, s, &nc, why) : -ENOMEM;

        if (r < 0) {
                free(s);
                return r;
        }
        began = time_monotonic();
        (void)natsConnection_GetConnectedUrl(nc, peer, sizeof(peer));
        e = event_new(EVENT_UP, epoch, peer);
        (void)pthread_mutex_lock(&w->mu);
        if (e) {
                e->max_payload = (size_t)natsConnection_GetMaxPayload(nc);
                post_locked(w, e);
        } else {
                s->closed = true;
        }
        (void)pthread_mutex_unlock(&w->mu);
        serve(s, nc);
        (void)pthread_mutex_lock(&w->mu);
        (void)text_copy(why, WHY_MAX,
                        time_monotonic() - s->complained_at < RECENT ? s->why : "the connection was lost");
        (void)pthread_mutex_unlock(&w->mu);
        hang_up(s, nc);
        return time_monotonic() - began >= STEADY ? 0 : -EIO;
}

/* Full jitter. */
static usec_t pause_of(unsigned tries)
{
        usec_t most = WAIT_FIRST << MIN(tries, 20U);

        return MIN(most, WAIT_MOST) / 1024 * (chance() % 1025);
}

static void wire_destroy(struct nats_wire *w);

static void *run(void *arg)
{
        struct nats_wire *w = arg;
        unsigned tries = 0, refusals = 0;
        char why[WHY_MAX] = "";
        bool orphan;

        for (unsigned epoch = 1;; epoch++) {
                usec_t delay, at;
                int r;

                if (stopping(w))
                        break;
                r = connection(w, epoch, why);
                if (r != -EACCES)
                        refusals = 0;
                if (r == 0)
                        tries = 0;
                if (r == -EACCES)
                        delay = backoff_delay(&refused, refusals++, chance());
                else
                        delay = pause_of(tries++);
                at = time_monotonic() + delay;
                tell_down(w, epoch, why, r == -EACCES, at);
                (void)pthread_mutex_lock(&w->mu);
                while (!w->stop && !w->hurry && time_monotonic() < at)
                        wait_until(w, at);
                w->hurry = false;
                (void)pthread_mutex_unlock(&w->mu);
        }
        nats_ReleaseThreadMemory();
        (void)pthread_mutex_lock(&w->mu);
        w->ended = true;
        orphan = w->orphan;
        (void)pthread_mutex_unlock(&w->mu);
        if (orphan) {
                wire_destroy(w);
                orphan_count(-1);
        }
        return NULL;
}

/* --- the loop's side ------------------------------------------------------------------------------------------------ */

const char *nats_message_header(const struct nats_message *m, const char *name)
{
        const char *value = NULL;

        return natsMsgHeader_Get(m->own, name, &value) == NATS_OK ? value : NULL;
}

static void hand_over(struct nats_wire *w, struct event *e)
{
        struct nats_message m;
        const char *status;

        switch (e->type) {
        case EVENT_UP:
                w->up = true;
                w->epoch = e->epoch;
                w->max_payload = e->max_payload;
                w->events.on_up(w->owner, e->text, e->max_payload);
                return;
        case EVENT_DOWN:
                w->up = false;
                w->events.on_down(w->owner, e->text, e->refused, e->retry_at);
                return;
        default:
                break;
        }
        if (!w->up || e->epoch != w->epoch)
                return;
        switch (e->type) {
        case EVENT_MESSAGE:
                m = (struct nats_message){.tag = e->tag,
                                          .subject = natsMsg_GetSubject(e->msg),
                                          .reply = natsMsg_GetReply(e->msg),
                                          .data = natsMsg_GetData(e->msg),
                                          .len = (size_t)natsMsg_GetDataLength(e->msg),
                                          .own = e->msg};
                status = m.len ? NULL : nats_message_header(&m, "Status");
                m.status = status ? (int)strtol(status, NULL, 10) : 0;
                w->events.on_message(w->owner, &m);
                break;
        case EVENT_DRAINED:
                w->events.on_drained(w->owner, e->tag);
                break;
        case EVENT_COMPLAINT:
                w->events.on_complaint(w->owner, e->text);
                break;
        default:
                break;
        }
}

static void dispatch(void *owner, unsigned events, usec_t now)
{
        struct nats_wire *w = owner;
        uint64_t count;

        (void)events;
        (void)now;
        if (read(w->fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
                return;
        w->dispatching = true;
        for (unsigned i = 0; !w->dead; i++) {
                struct event *e;

                (void)pthread_mutex_lock(&w->mu);
                if (i == DISPATCH_MAX && w->arrived.n) {
                        /* Others have their turn; the number is not 1 when the next comes, so we call ourselves. */
                        static const uint64_t one = 1;

                        if (write(w->fd, &one, sizeof(one)) < 0)
                                i = 0;
                        else
                                i = DISPATCH_MAX + 1;
                }
                e = i > DISPATCH_MAX ? NULL : take_event(&w->arrived);
                (void)pthread_cond_broadcast(&w->space);
                (void)pthread_mutex_unlock(&w->mu);
                if (!e)
                        break;
                hand_over(w, e);
                event_free(e);
        }
        w->dispatching = false;
        if (w->dead)
                (void)nats_wire_free(w);
}

static void wire_destroy(struct nats_wire *w)
{
        struct order *o;
        struct event *e;

        while ((o = take_order(&w->orders)))
                order_free(o);
        while ((e = take_event(&w->arrived)))
                event_free(e);
        for (size_t i = 0; i < w->n_urls; i++)
                free(w->urls[i]);
        free(w->urls);
        free(w->name);
        free(w->user);
        free(w->credentials_file);
        free(w->ca_file);
        free(w->cert_file);
        free(w->key_file);
        close_fd(&w->fd);
        (void)pthread_cond_destroy(&w->cond);
        (void)pthread_cond_destroy(&w->space);
        (void)pthread_mutex_destroy(&w->mu);
        free(w);
}

static int order(struct nats_wire *w, struct order *o)
{
        int r = 0;

        (void)pthread_mutex_lock(&w->mu);
        if (w->orders.n >= NATS_WIRE_ORDERS_MAX || w->orders.bytes + o->size > NATS_WIRE_ORDER_BYTES_MAX) {
                r = -EAGAIN;
        } else {
                o->epoch = w->epoch;
                w->bytes_out += o->msg ? (uint64_t)natsMsg_GetDataLength(o->msg) : 0;
                queue_put(&w->orders, o, o->size);
                if (w->orders.n == 1)
                        (void)pthread_cond_broadcast(&w->cond);
        }
        (void)pthread_mutex_unlock(&w->mu);
        if (r < 0)
                order_free(o);
        return r;
}

static int order_about(struct nats_wire *w, enum order_type type, uint64_t tag, const char *subject)
{
        size_t len = subject ? strlen(subject) : 0;
        struct order *o;

        if (!w->up)
                return -ENOTCONN;
        o = calloc(1, sizeof(*o) + len + 1);
        if (!o)
                return -ENOMEM;
        o->type = type;
        o->tag = tag;
        o->size = sizeof(*o) + len;
        if (len)
                memcpy(o->subject, subject, len);
        return order(w, o);
}

int nats_wire_publish(struct nats_wire *w, const char *subject, const char *reply,
                      const struct nats_header *headers, size_t n_headers, const void *data, size_t len)
{
        size_t size = len;
        struct order *o;
        natsStatus ns;

        if (!w->up)
                return -ENOTCONN;
        for (size_t i = 0; i < n_headers; i++)
                size += strlen(headers[i].name) + strlen(headers[i].value) + 4;
        if (size + 64 > w->max_payload)
                return -EMSGSIZE;
        o = calloc(1, sizeof(*o) + 1);
        if (!o)
                return -ENOMEM;
        o->type = ORDER_PUBLISH;
        o->size = sizeof(*o) + size + 256;
        ns = natsMsg_Create(&o->msg, subject, reply, data, (int)len);
        for (size_t i = 0; i < n_headers && ns == NATS_OK; i++)
                ns = natsMsgHeader_Set(o->msg, headers[i].name, headers[i].value);
        if (ns != NATS_OK) {
                order_free(o);
                return -ENOMEM;
        }
        return order(w, o);
}

int nats_wire_subscribe(struct nats_wire *w, uint64_t tag, const char *subject)
{
        return order_about(w, ORDER_SUBSCRIBE, tag, subject);
}

int nats_wire_drain(struct nats_wire *w, uint64_t tag)
{
        return order_about(w, ORDER_DRAIN, tag, NULL);
}

void nats_wire_unsubscribe(struct nats_wire *w, uint64_t tag)
{
        (void)order_about(w, ORDER_UNSUBSCRIBE, tag, NULL);
}

unsigned nats_wire_fill(const struct nats_wire *w)
{
        struct nats_wire *m = (struct nats_wire *)w;
        size_t n, bytes;

        (void)pthread_mutex_lock(&m->mu);
        n = w->orders.n * 100 / NATS_WIRE_ORDERS_MAX;
        bytes = w->orders.bytes * 100 / NATS_WIRE_ORDER_BYTES_MAX;
        (void)pthread_mutex_unlock(&m->mu);
        return (unsigned)MAX(n, bytes);
}

static uint64_t figure(const struct nats_wire *w, const uint64_t *of)
{
        struct nats_wire *m = (struct nats_wire *)w;
        uint64_t v;

        (void)pthread_mutex_lock(&m->mu);
        v = *of;
        (void)pthread_mutex_unlock(&m->mu);
        return v;
}

uint64_t nats_wire_bytes_in(const struct nats_wire *w)
{
        return figure(w, &w->bytes_in);
}

uint64_t nats_wire_bytes_out(const struct nats_wire *w)
{
        return figure(w, &w->bytes_out);
}

void nats_wire_hurry(struct nats_wire *w)
{
        (void)pthread_mutex_lock(&w->mu);
        w->hurry = true;
        (void)pthread_cond_broadcast(&w->cond);
        (void)pthread_mutex_unlock(&w->mu);
}

static int copy(struct nats_wire *w, const struct nats_wire_spec *spec)
{
        const struct {
                char **to;
                const char *from;
        } texts[] = {{&w->name, spec->name},           {&w->user, spec->user},
                     {&w->ca_file, spec->ca_file},     {&w->credentials_file, spec->credentials_file},
                     {&w->cert_file, spec->cert_file}, {&w->key_file, spec->key_file}};

        if (!spec->n_urls || spec->n_urls > NATS_WIRE_URLS_MAX)
                return -EINVAL;
        w->urls = calloc(spec->n_urls, sizeof(*w->urls));
        if (!w->urls)
                return -ENOMEM;
        for (size_t i = 0; i < spec->n_urls; i++) {
                if (!starts_with(spec->urls[i], "nats://") && !starts_with(spec->urls[i], "tls://"))
                        return -EINVAL;
                w->urls[i] = text_dup(spec->urls[i]);
                if (!w->urls[i])
                        return -ENOMEM;
                w->n_urls++;
        }
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                *texts[i].to = text_dup(texts[i].from);
                if (texts[i].from && !*texts[i].to)
                        return -ENOMEM;
        }
        return 0;
}

/* libnats' threads are born of ours and have its mask: the process' signals are for the loop. */
static int start(struct nats_wire *w)
{
        sigset_t all, before;
        int r;

        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        r = -pthread_create(&w->thread, NULL, run, w);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}

int nats_wire_new(struct loop *loop, const struct nats_wire_spec *spec, struct nats_wire **ret)
{
        struct nats_wire *w = calloc(1, sizeof(*w));
        pthread_condattr_t attr;
        int r;

        if (!w)
                return -ENOMEM;
        w->loop = loop;
        w->events = *spec->events;
        w->owner = spec->owner;
        queue_init(&w->orders);
        queue_init(&w->arrived);
        (void)pthread_mutex_init(&w->mu, NULL);
        (void)pthread_condattr_init(&attr);
        (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        (void)pthread_cond_init(&w->cond, &attr);
        (void)pthread_cond_init(&w->space, &attr);
        (void)pthread_condattr_destroy(&attr);
        w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = w->fd < 0 ? -errno : copy(w, spec);
        if (r >= 0)
                r = watch_new(loop, w->fd, WATCH_READ, dispatch, w, &w->watch);
        if (r >= 0)
                r = start(w);
        if (r < 0) {
                w->watch = watch_free(w->watch);
                wire_destroy(w);
                return r;
        }
        *ret = w;
        return 0;
}

struct nats_wire *nats_wire_free(struct nats_wire *w)
{
        usec_t at = time_realtime() + JOIN;
        struct timespec t = {.tv_sec = (time_t)(at / USEC_PER_SEC),
                             .tv_nsec = (long)(at % USEC_PER_SEC) * 1000};
        bool joined;

        if (!w)
                return NULL;
        if (w->dispatching) {
                w->dead = true;
                return NULL;
        }
        w->watch = watch_free(w->watch);
        (void)pthread_mutex_lock(&w->mu);
        w->stop = true;
        (void)pthread_cond_broadcast(&w->cond);
        (void)pthread_cond_broadcast(&w->space);
        (void)pthread_mutex_unlock(&w->mu);
        joined = pthread_timedjoin_np(w->thread, NULL, &t) == 0;
        if (!joined) {
                /* It is inside libnats, which tries to connect, or to say goodbye: it ends when that does. */
                (void)pthread_mutex_lock(&w->mu);
                joined = w->ended;
                w->orphan = !joined;
                if (w->orphan)
                        orphan_count(1);
                (void)pthread_detach(w->thread);
                (void)pthread_mutex_unlock(&w->mu);
        }
        if (joined)
                wire_destroy(w);
        return NULL;
}

#endif
