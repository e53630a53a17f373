/* relay_scene.h: the relay's scene: a dispatch of values (it defines the functions of dispatch.h, so that the real one is not
 * linked), instances that the test plays itself byte by byte over unix sockets, and a client that notes what it is told. Include it in
 * one file of a test program. The functions are inline so that a test need not use them all. */
#ifndef LSV_TESTS_FLEET_RELAY_SCENE_H
#define LSV_TESTS_FLEET_RELAY_SCENE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "fleet/private.h"
#include "fleet/relay.h"

enum { SCENE_INSTANCES = 3, SCENE_TURNS = 20 };

/* What is expected comes soon; only a failure lasts so long. In milliseconds. */
#define SCENE_PATIENCE 20000

struct place {
        struct endpoint at;
        struct upstream *up;
        int listener, peer;
        char name[16];
        unsigned served, failed, cancelled;
};

struct ticket {
        const struct ticket_events *events;
        void *owner;
        struct place *place; /* NULL: it waits */
        bool tried[SCENE_INSTANCES];
        unsigned tries, refusal;
        char reasons[512];
};

struct scene {
        struct fleet fleet;
        struct config config;
        struct config_instance entry;
        struct timer *stop;
        char dir[64];
        struct place places[SCENE_INSTANCES];
        unsigned n_places;
        bool hold;              /* tickets wait until scene_grant */
        struct ticket *waiting; /* the last one that waits */
        unsigned tickets;       /* open ones */
        size_t heard;
        const char *api_key;
        usec_t keep_alive; /* of the last ticket_done */
        unsigned how;      /* of the last ticket_retry */

        /* The client. */
        struct relay *relay;
        struct buffer got;
        unsigned heads, ends;
        int status;
        struct relay_end end;
        char message[256], instance[64], id[32];
        enum {
                DO_NOTHING,
                CANCEL_IN_HEAD,
                CANCEL_IN_DATA,
                CANCEL_IN_END,
                CANCEL_ID_IN_DATA,
                PAUSE_IN_HEAD,
                PAUSE_IN_DATA,
                AGAIN_IN_END
        } deed;
        unsigned again;
};

static struct scene *the_scene;

/* --- the dispatch -------------------------------------------------------------------------------------------------- */

static inline bool ticket_lease(struct ticket *t)
{
        struct scene *s = the_scene;

        for (unsigned i = 0; i < s->n_places; i++)
                if (!t->tried[i]) {
                        t->tried[i] = true;
                        t->place = s->places + i;
                        t->tries++;
                        return true;
                }
        return false;
}

int dispatch_ask(struct fleet *f, const struct ticket_spec *spec, const struct ticket_events *events,
                 void *owner, struct ticket **ret)
{
        struct ticket *t;

        assert_ptr_equal(f, &the_scene->fleet);
        if (spec->no_wake)
                return -EHOSTDOWN;
        t = calloc(1, sizeof(*t));
        assert_non_null(t);
        t->events = events;
        t->owner = owner;
        the_scene->tickets++;
        *ret = t;
        if (!the_scene->hold && ticket_lease(t))
                return 1;
        the_scene->waiting = t;
        return 0;
}

static inline void ticket_free(struct ticket *t)
{
        assert_true(the_scene->tickets > 0);
        the_scene->tickets--;
        if (the_scene->waiting == t)
                the_scene->waiting = NULL;
        free(t);
}

void ticket_cancel(struct ticket *t)
{
        assert_null(t->place);
        ticket_free(t);
}

const char *ticket_instance(const struct ticket *t)
{
        return t->place ? t->place->name : NULL;
}

struct upstream *ticket_upstream(struct ticket *t)
{
        return t->place ? t->place->up : NULL;
}

const char *ticket_api_key(const struct ticket *t)
{
        assert_non_null(t->place);
        return the_scene->api_key;
}

unsigned ticket_tries(const struct ticket *t)
{
        return t->tries;
}

usec_t ticket_waited(const struct ticket *t, usec_t now)
{
        (void)t;
        (void)now;
        return 123;
}

void ticket_heard(struct ticket *t, size_t n)
{
        assert_non_null(t->place);
        the_scene->heard += n;
}

void ticket_pause(struct ticket *t, bool on)
{
        assert_non_null(t->place);
        (void)on;
}

void ticket_done(struct ticket *t, enum ticket_outcome outcome, usec_t keep_alive)
{
        assert_non_null(t->place);
        t->place->served += outcome == OUTCOME_OK;
        t->place->failed += outcome == OUTCOME_FAILED || outcome == OUTCOME_BROKEN;
        t->place->cancelled += outcome == OUTCOME_CANCELLED;
        the_scene->keep_alive = keep_alive;
        ticket_free(t);
}

bool ticket_has_other(const struct ticket *t)
{
        for (unsigned i = 0; i < the_scene->n_places; i++)
                if (!t->tried[i])
                        return true;
        return false;
}

int ticket_retry(struct ticket *t, const char *why, unsigned how)
{
        struct scene *s = the_scene;
        size_t n = strlen(t->reasons);

        assert_non_null(t->place);
        s->how = how;
        if (how & TRY_STALE)
                t->tried[t->place - s->places] = false; /* it did nothing wrong */
        else
                t->place->failed++;
        (void)snprintf(t->reasons + n, sizeof(t->reasons) - n, "%s%s: %s", n ? "; " : "", t->place->name,
                       why);
        t->place = NULL;
        if (!s->hold && ticket_lease(t))
                return 1;
        s->waiting = t;
        t->refusal = s->hold ? REFUSAL_NONE : REFUSAL_TRIES;
        return 0;
}

void ticket_progress(const struct ticket *t, struct ticket_progress *ret)
{
        assert_null(t->place);
        *ret = (struct ticket_progress){.position = 2, .status = "ready"};
}

const char *ticket_refusal_name(enum ticket_refusal r)
{
        return r == REFUSAL_TRIES ? "tries" : r == REFUSAL_QUEUE_FULL ? "queue_full" : "other";
}

/* What the loop would do at the end of a turn. */
static inline void scene_grant(struct scene *s)
{
        struct ticket *t = s->waiting;

        s->waiting = NULL;
        assert_true(ticket_lease(t));
        t->events->on_grant(t->owner, t);
}

static inline void scene_refuse(struct scene *s, enum ticket_refusal why, const char *message)
{
        struct ticket *t = s->waiting;

        t->events->on_refuse(t->owner, t, why, message, 7);
        ticket_free(t);
}

/* --- the instances -------------------------------------------------------------------------------------------------- */

static inline void place_listen(struct place *p)
{
        p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        assert_true(p->listener >= 0);
        assert_int_equal(bind(p->listener, &p->at.addr.sa, p->at.len), 0);
        assert_int_equal(listen(p->listener, 8), 0);
}

static inline void place_hang_up(struct place *p)
{
        if (p->peer >= 0)
                (void)close(p->peer);
        p->peer = -1;
}

/* Nobody listens there any more. */
static inline void place_close(struct place *p)
{
        place_hang_up(p);
        (void)close(p->listener);
        p->listener = -1;
        (void)unlink(p->at.addr.un.sun_path);
}

static inline void on_stop(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        loop_stop(s->fleet.loop);
}

static inline void scene_init(struct scene *s, unsigned n)
{
        *s = (struct scene){.n_places = n};
        the_scene = s;
        (void)snprintf(s->dir, sizeof(s->dir), "/tmp/lsv-relay-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        assert_int_equal(loop_new(&s->fleet.loop), 0);
        assert_int_equal(timer_new(s->fleet.loop, on_stop, s, &s->stop), 0);
        assert_int_equal(activity_new(&s->fleet.activity), 0);
        assert_int_equal(relays_new(&s->fleet.relays), 0);
        s->fleet.config = &s->config;
        s->entry.name = (char *)"qwen";
        buffer_init(&s->got, 0);
        for (unsigned i = 0; i < n; i++) {
                struct place *p = s->places + i;
                char path[128];

                (void)snprintf(path, sizeof(path), "%s/s%u", s->dir, i);
                (void)snprintf(p->name, sizeof(p->name), "qwen-%u", i);
                p->peer = -1;
                assert_int_equal(endpoint_from_unix(path, &p->at), 0);
                place_listen(p);
                assert_int_equal(upstream_new(s->fleet.loop, &p->at, 2, &p->up), 0);
        }
}

static inline void scene_finish(struct scene *s)
{
        s->fleet.relays = relays_free(s->fleet.relays);
        assert_int_equal(s->tickets, 0);
        for (unsigned i = 0; i < s->n_places; i++) {
                s->places[i].up = upstream_free(s->places[i].up);
                if (s->places[i].listener >= 0)
                        place_close(s->places + i);
        }
        s->fleet.activity = activity_free(s->fleet.activity);
        s->stop = timer_free(s->stop);
        assert_null(loop_free(s->fleet.loop));
        assert_int_equal(rmdir(s->dir), 0);
        buffer_finish(&s->got);
}

/* On a busy machine a span may be over before the loop has turned once; what is sent here lies in its sockets at once, so some
 * turns more, and not more time, are what everything that follows from it needs. */
static inline void run_for(struct scene *s, usec_t span)
{
        timer_set(s->stop, time_monotonic() + span);
        loop_run(s->fleet.loop);
        for (unsigned i = 0; i < SCENE_TURNS; i++) {
                timer_set(s->stop, 0);
                loop_run(s->fleet.loop);
        }
}

/* --- the client ------------------------------------------------------------------------------------------------------ */

static inline void scene_ask(struct scene *s);

static inline void client_head(void *owner, struct relay *r, const struct http1_response *head)
{
        struct scene *s = owner;

        s->heads++;
        s->status = head->status;
        (void)snprintf(s->instance, sizeof(s->instance), "%s", relay_instance(r));
        if (s->deed == CANCEL_IN_HEAD) {
                s->relay = NULL;
                relay_cancel(r);
        } else if (s->deed == PAUSE_IN_HEAD) {
                relay_pause(r, true);
        }
}

static inline void client_data(void *owner, struct relay *r, const char *data, size_t len)
{
        struct scene *s = owner;

        assert_true(len > 0);
        assert_int_equal(buffer_append(&s->got, data, len), 0);
        if (s->deed == CANCEL_IN_DATA) {
                s->relay = NULL;
                relay_cancel(r);
        } else if (s->deed == CANCEL_ID_IN_DATA) {
                unsigned ends = s->ends;

                assert_int_equal(relay_cancel_id(&s->fleet, relay_id(r), "enough"), 0);
                assert_int_equal(relay_cancel_id(&s->fleet, relay_id(r), "again"), -ENOENT);
                assert_int_equal(s->ends, ends);
        } else if (s->deed == PAUSE_IN_DATA) {
                relay_pause(r, true);
        }
}

static inline void client_end(void *owner, struct relay *r, const struct relay_end *end)
{
        struct scene *s = owner;

        s->ends++;
        s->end = *end;
        s->relay = NULL;
        (void)snprintf(s->message, sizeof(s->message), "%s", end->message);
        (void)snprintf(s->id, sizeof(s->id), "%s", relay_id(r));
        loop_stop(s->fleet.loop);
        if (s->deed == CANCEL_IN_END)
                relay_cancel(r);
        if (s->deed == AGAIN_IN_END && s->again-- > 0)
                scene_ask(s);
}

static const struct relay_events client_events = {
        .on_head = client_head, .on_data = client_data, .on_end = client_end};

static const struct iovec scene_body[] = {{(void *)"{\"a\":", 5}, {(void *)"1}", 2}};

static inline struct relay_spec scene_spec(struct scene *s)
{
        return (struct relay_spec){.ticket = {.entry = &s->entry, .key = "ann"},
                                   .method = SLICE("POST"),
                                   .target = SLICE("/v1/chat/completions"),
                                   .body = scene_body,
                                   .n_body = 2,
                                   .keep_alive = USEC_INFINITY,
                                   .source = "http",
                                   .path = "/v1/chat/completions",
                                   .peer = "127.0.0.1"};
}

static inline void scene_ask(struct scene *s)
{
        struct relay_spec spec = scene_spec(s);
        unsigned ends = s->ends, heads = s->heads;

        assert_int_equal(relay_start(&s->fleet, &spec, &client_events, s, &s->relay), 0);
        assert_int_equal(s->ends, ends); /* never from inside */
        assert_int_equal(s->heads, heads);
}

/* Runs until the client is told an end. */
static inline void scene_wait_end(struct scene *s)
{
        usec_t until = time_monotonic() + 20 * USEC_PER_SEC;
        unsigned ends = s->ends;

        while (s->ends == ends && time_monotonic() < until)
                run_for(s, 50000);
        assert_int_equal(s->ends, ends + 1);
}

static inline void scene_wait_end_with(struct scene *s, enum relay_result result, int status,
                                       const char *code)
{
        scene_wait_end(s);
        if (s->end.result != result || s->end.status != status || !streq(s->end.code, code))
                fail_msg("result %d, status %d, code %s (%s)", (int)s->end.result, s->end.status, s->end.code,
                         s->message);
}

/* The instance's side: accepts and reads one request. */
static inline char *place_read(struct scene *s, struct place *p)
{
        static char text[4096];
        size_t n = 0;

        for (unsigned i = 0; i < SCENE_PATIENCE; i++) {
                ssize_t got;

                run_for(s, 1000);
                if (p->peer < 0)
                        p->peer = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (p->peer < 0)
                        continue;
                got = recv(p->peer, text + n, sizeof(text) - 1 - n, MSG_DONTWAIT);
                if (got > 0)
                        n += (size_t)got;
                else if (got == 0) /* one that was cancelled before it was sent */
                        place_hang_up(p);
                text[n] = '\0';
                if (n && ends_with(text, "{\"a\":1}"))
                        return text;
        }
        fail_msg("no request came to %s", p->name);
        return NULL;
}

static inline void place_say(struct scene *s, struct place *p, const char *text)
{
        assert_int_equal(send(p->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
        run_for(s, 3000);
}

static inline bool place_sees_end(struct scene *s, struct place *p)
{
        char c;

        for (unsigned i = 0; i < SCENE_PATIENCE; i++) {
                if (recv(p->peer, &c, 1, MSG_DONTWAIT) == 0)
                        return true;
                run_for(s, 1000);
        }
        return false;
}

#endif
