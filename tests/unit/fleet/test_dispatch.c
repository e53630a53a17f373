/* test_dispatch.c: slots promised and given back, over real members with fake llama-servers; nobody sends a request here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "fleet/dispatch.h"
#include "fleet/fleet_world.h"

/* Who asks. What came is counted; what is to be done on a grant or a revocation is set before. */
struct client {
        struct ticket *ticket;
        unsigned granted, refused, revoked;
        enum ticket_refusal why;
        unsigned retry_after;
        char message[256];
        unsigned place;  /* order of the grant */
        bool retries;    /* on_revoke asks again */
        bool ends;       /* on_grant gives back at once */
        bool asks_again; /* on_refuse asks once more */
        char instance[64];
};

static struct fleet *fleet;
static unsigned places;
static bool over; /* the test has ended, maybe in its middle: its clients are gone */

static void took(struct client *c)
{
        c->granted++;
        c->place = ++places;
        (void)snprintf(c->instance, sizeof c->instance, "%s", ticket_instance(c->ticket));
        assert_non_null(ticket_upstream(c->ticket));
}

static void on_grant(void *owner, struct ticket *t)
{
        struct client *c = owner;

        if (over) {
                ticket_done(t, OUTCOME_CANCELLED, USEC_INFINITY);
                return;
        }
        assert_ptr_equal(c->ticket, t);
        took(c);
        if (c->ends) {
                ticket_done(t, OUTCOME_OK, USEC_INFINITY);
                c->ticket = NULL;
        }
}

static void on_refuse(void *owner, struct ticket *t, enum ticket_refusal why, const char *message,
                      unsigned retry_after)
{
        struct client *c = owner;

        if (over)
                return;
        assert_ptr_equal(c->ticket, t);
        c->refused++;
        c->why = why;
        c->retry_after = retry_after;
        (void)snprintf(c->message, sizeof c->message, "%s", message);
        c->ticket = NULL;
}

static void on_revoke(void *owner, struct ticket *t, const char *why)
{
        struct client *c = owner;

        if (over) {
                ticket_done(t, OUTCOME_CANCELLED, USEC_INFINITY);
                return;
        }
        c->revoked++;
        (void)snprintf(c->message, sizeof c->message, "%s", why);
        assert_string_equal(ticket_instance(t), c->instance);
        if (c->retries) {
                if (ticket_retry(t, why, false) == 1)
                        took(c);
                return;
        }
        ticket_done(t, OUTCOME_FAILED, USEC_INFINITY);
        c->ticket = NULL;
}

static const struct ticket_events events = {on_grant, on_refuse, on_revoke};

static int asks_for(struct client *c, struct ticket_spec spec, const char *model)
{
        int r;

        assert_int_equal(dispatch_resolve(fleet, model, &spec.entry), 0);
        r = dispatch_ask(fleet, &spec, &events, c, &c->ticket);
        if (r == 1)
                took(c);
        return r;
}

static int asks(struct client *c, const char *key)
{
        return asks_for(c, (struct ticket_spec){.key = key, .priority = TICKET_NORMAL}, "q");
}

static void ends(struct client *c)
{
        ticket_done(c->ticket, OUTCOME_OK, USEC_INFINITY);
        c->ticket = NULL;
}

static void wait_for(struct world *w, const unsigned *count, unsigned n)
{
        w->until = time_monotonic() + PATIENCE;
        while (*count < n)
                assert_true(turn(w));
}

static void begin(struct world *w, const char *gateway, const char *instances)
{
        w->gateway = gateway;
        write_config(w, instances);
        open_fleet(w);
        fleet = w->fleet;
        places = 0;
        over = false;
}

#define ONE_OF(slots) "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": " slots "}"
#define TWO_OF(slots) "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 2, \"slots\": " slots "}"

static void wait_both(struct world *w)
{
        wait_status(w, "q-0", "ready");
        wait_status(w, "q-1", "ready");
}

/* --- names ---------------------------------------------------------------------------------------------------------- */

static void names_mean_models(void **state)
{
        struct world *w = *state;
        const struct config_instance *e;

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"autostart\": false, \"aliases\": [\"gpt\", "
              "\"x\"]}");
        assert_int_equal(dispatch_resolve(fleet, "q", &e), 0);
        assert_string_equal(e->name, "q");
        assert_int_equal(dispatch_resolve(fleet, "gpt", &e), 0);
        assert_string_equal(e->name, "q");
        assert_int_equal(dispatch_resolve(fleet, NULL, &e), 0); /* the only one there is */
        assert_int_equal(dispatch_resolve(fleet, "gp", &e), -ENOENT);
        write_config(
                w, "{\"name\": \"q\", \"model\": \"m.gguf\", \"autostart\": false},"
                   "{\"name\": \"r\", \"model\": \"m.gguf\", \"autostart\": false, \"aliases\": [\"gpt\"]}");
        reload(w);
        assert_int_equal(dispatch_resolve(fleet, "gpt", &e), 0);
        assert_string_equal(e->name, "r");
        assert_int_equal(dispatch_resolve(fleet, "x", &e), -ENOENT);
        assert_int_equal(dispatch_resolve(fleet, "", &e), -EINVAL);
        w->gateway = "{\"default_model\": \"gpt\"}";
        write_config(
                w, "{\"name\": \"q\", \"model\": \"m.gguf\", \"autostart\": false},"
                   "{\"name\": \"r\", \"model\": \"m.gguf\", \"autostart\": false, \"aliases\": [\"gpt\"]}");
        reload(w);
        assert_int_equal(dispatch_resolve(fleet, NULL, &e), 0);
        assert_string_equal(e->name, "r");
        assert_string_equal(dispatch_model_name(fleet, 0), "q");
        assert_string_equal(dispatch_model_name(fleet, 1), "r");
        assert_null(dispatch_model_name(fleet, 2));
}

/* --- slots and the queue ----------------------------------------------------------------------------------------------- */

static void slots_bound_what_runs(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0};
        struct dispatch_figures g;
        struct ticket_progress p;

        begin(w, NULL, ONE_OF("2"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c[0], ""), 1);
        assert_int_equal(asks(&c[1], ""), 1);
        assert_int_equal(asks(&c[2], ""), 0);
        assert_int_equal(asks(&c[3], ""), 0);
        assert_null(ticket_instance(c[2].ticket));
        ticket_progress(c[3].ticket, &p);
        assert_int_equal(p.position, 2);
        assert_int_equal(p.waiting, 2);
        assert_string_equal(p.status, "ready");
        assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
        assert_int_equal(g.leased, 2);
        assert_int_equal(g.slots, 2);
        assert_int_equal(g.waiting, 2);
        ends(&c[1]);
        wait_for(w, &c[2].granted, 1);
        assert_int_equal(c[3].granted, 0);
        ticket_cancel(c[3].ticket); /* its client went away */
        ends(&c[0]);
        ends(&c[2]);
        assert_true(turn(w));
        assert_int_equal(c[3].granted + c[3].refused, 0);
        assert_int_equal(dispatch_figures(fleet, NULL, &g), 0);
        assert_int_equal(g.leased + g.waiting, 0);
        assert_int_equal(g.granted, 3);
        assert_int_equal(dispatch_figures(fleet, "nobody", &g), -ENOENT);
}

static void work_waits_for_a_start(void **state)
{
        struct world *w = *state;
        struct client c[50] = {0};
        struct ticket_progress p;
        unsigned granted = 0;

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 3, \"args\": [\"--load-ms\", \"300\"]}");
        for (unsigned i = 0; i < 50; i++) {
                c[i].ends = true;
                assert_int_equal(asks(&c[i], ""), 0);
        }
        wait_status(w, "q", "starting");
        ticket_progress(c[49].ticket, &p);
        assert_int_equal(p.position, 50);
        assert_string_equal(p.status, "starting");
        w->until = time_monotonic() + PATIENCE;
        while (granted < 50) {
                granted = 0;
                for (unsigned i = 0; i < 50; i++)
                        granted += c[i].granted;
                assert_true(turn(w));
        }
        for (unsigned i = 0; i < 50; i++)
                assert_int_equal(c[i].place, i + 1);
}

static void keys_take_turns_and_classes_go_first(void **state)
{
        struct world *w = *state;
        struct client running = {0}, a[3] = {{.ends = true}, {.ends = true}, {.ends = true}},
                      b = {.ends = true}, high = {.ends = true}, low = {.ends = true};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&running, ""), 1);
        assert_int_equal(asks_for(&low, (struct ticket_spec){.key = "c", .priority = TICKET_LOW}, "q"), 0);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(asks(&a[i], "a"), 0);
        assert_int_equal(asks(&b, "b"), 0);
        assert_int_equal(asks_for(&high, (struct ticket_spec){.key = "a", .priority = TICKET_HIGH}, "q"), 0);
        ends(&running);
        wait_for(w, &low.granted, 1);
        assert_int_equal(high.place, 2);
        assert_int_equal(a[0].place, 3);
        assert_int_equal(b.place, 4);
        assert_int_equal(a[1].place, 5);
        assert_int_equal(a[2].place, 6);
        assert_int_equal(low.place, 7);
}

static void a_full_queue_refuses(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0};
        struct dispatch_figures g;

        begin(w, "{\"queue\": {\"max\": 2}}", ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c[0], ""), 1);
        for (unsigned i = 1; i < 4; i++)
                assert_int_equal(asks(&c[i], ""), 0);
        assert_int_equal(c[3].refused, 0); /* never from inside */
        wait_for(w, &c[3].refused, 1);
        assert_int_equal(c[3].why, REFUSAL_QUEUE_FULL);
        assert_true(c[3].retry_after >= 1);
        assert_non_null(strstr(c[3].message, "2 requests wait for q"));
        assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
        assert_int_equal(g.refused[REFUSAL_QUEUE_FULL], 1);
        ticket_cancel(c[1].ticket);
        ticket_cancel(c[2].ticket);
        ends(&c[0]);
}

static void waits_end(void **state)
{
        struct world *w = *state;
        struct client c[3] = {0};
        usec_t begun;

        begin(w, "{\"queue\": {\"timeout\": \"200ms\"}}", ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c[0], ""), 1);
        begun = time_monotonic();
        assert_int_equal(asks(&c[1], ""), 0);
        assert_int_equal(asks_for(&c[2], (struct ticket_spec){.key = "", .timeout = 100 * USEC_PER_SEC}, "q"),
                         0);
        wait_for(w, &c[1].refused, 1);
        assert_true(time_monotonic() - begun >= 199 * USEC_PER_MSEC);
        assert_int_equal(c[1].why, REFUSAL_TIMEOUT);
        assert_non_null(strstr(c[1].message, "nearest instance is ready"));
        assert_int_equal(c[2].refused, 0);
        ticket_cancel(c[2].ticket);
        ends(&c[0]);
}

static void a_line_that_stands_is_shed(void **state)
{
        struct world *w = *state;
        struct client c[12] = {0};
        unsigned shed = 0;

        begin(w, "{\"queue\": {\"shed_target\": \"50ms\", \"shed_interval\": \"100ms\"}}", ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c[0], ""), 1);
        for (unsigned i = 1; i < 12; i++)
                assert_int_equal(asks(&c[i], ""), 0);
        w->until = time_monotonic() + PATIENCE;
        while (shed < 3) {
                shed = 0;
                for (unsigned i = 1; i < 12; i++)
                        shed += c[i].refused;
                assert_true(turn(w));
        }
        assert_int_equal(c[11].why, REFUSAL_SHED); /* the newest */
        assert_int_equal(c[1].refused, 0);
        for (unsigned i = 0; i < 12; i++)
                if (c[i].ticket)
                        ticket_done(c[i].ticket, OUTCOME_CANCELLED, USEC_INFINITY);
}

/* A model that loads makes everybody wait: that is no overload. */
static void a_load_sheds_nobody(void **state)
{
        struct world *w = *state;
        struct client c[8] = {0};

        begin(w, "{\"queue\": {\"shed_target\": \"10ms\", \"shed_interval\": \"100ms\"}}",
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 9, \"args\": [\"--load-ms\", \"600\"]}");
        for (unsigned i = 0; i < 8; i++)
                assert_int_equal(asks(&c[i], ""), 0);
        wait_for(w, &c[7].granted, 1);
        for (unsigned i = 0; i < 8; i++)
                ends(&c[i]);
}

/* …nor was it one while nobody was there: the account begins anew when somebody is. */
static void an_absence_is_no_overload(void **state)
{
        struct world *w = *state;
        struct client c[4] = {{.ends = true}};
        usec_t begun;

        begin(w, "{\"queue\": {\"shed_target\": \"20ms\", \"shed_interval\": \"500ms\"}}",
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 1, "
              "\"restart\": {\"backoff_initial\": \"1s\", \"backoff_max\": \"1s\", \"jitter\": 0}}");
        wait_status(w, "q", "ready");
        for (unsigned i = 0; i < 4; i++)
                assert_int_equal(asks(&c[i], ""), i == 0);
        for (begun = time_monotonic(); time_monotonic() - begun < 100 * USEC_PER_MSEC;)
                (void)turn(w); /* over the target: bad in half a second */
        assert_int_equal(kill(fleet_find(fleet, "q")->pid, SIGKILL), 0);
        wait_for(w, &c[1].granted, 1);
        assert_int_equal(c[3].refused, 0);
        for (unsigned i = 1; i < 4; i++)
                if (c[i].ticket)
                        ticket_done(c[i].ticket, OUTCOME_CANCELLED, USEC_INFINITY);
}

static void a_thousand_at_once_on_four_slots(void **state)
{
        struct world *w = *state;
        static struct client c[1000];
        struct dispatch_figures g;

        memset(c, 0, sizeof c);
        begin(w, NULL, TWO_OF("2"));
        wait_both(w);
        for (unsigned i = 0; i < 1000; i++) {
                char key[8];

                (void)snprintf(key, sizeof key, "k%u", i % 10);
                c[i].ends = i >= 4;
                assert_int_equal(asks(&c[i], key), i < 4);
                assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
                assert_true(g.leased <= 4);
        }
        for (unsigned i = 0; i < 4; i++)
                ends(&c[i]);
        wait_for(w, &places, 1000);
        for (unsigned i = 0; i < 1000; i++) {
                assert_int_equal(c[i].granted, 1);
                assert_int_equal(c[i].refused + c[i].revoked, 0);
        }
        assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
        assert_int_equal(g.granted, 1000);
        assert_int_equal(g.leased + g.waiting, 0);
}

/* --- one instance, no slot, no wake ------------------------------------------------------------------------------------ */

static void one_instance_may_be_meant(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0}, any = {0};
        const struct ticket_spec one = {.instance = "q-1", .key = "", .priority = TICKET_NORMAL};

        begin(w, NULL, TWO_OF("1"));
        wait_both(w);
        assert_int_equal(asks_for(&c[0], (struct ticket_spec){.instance = "q-2", .key = ""}, "q"), -ENOENT);
        assert_int_equal(asks_for(&c[0], one, "q"), 1);
        assert_string_equal(c[0].instance, "q-1");
        assert_int_equal(asks_for(&c[1], one, "q"), 0); /* q-0 is free, but it is not meant */
        assert_int_equal(asks_for(&c[2], one, "q"), 0);
        assert_true(turn(w));
        assert_int_equal(c[1].granted, 0);
        assert_int_equal(asks(&c[3], ""), 1);
        assert_string_equal(c[3].instance, "q-0");
        assert_int_equal(asks(&any, ""), 0);
        /* Whose instance is free: they take turns. */
        ends(&c[0]);
        wait_for(w, &c[1].granted, 1);
        ends(&c[1]);
        wait_for(w, &any.granted, 1);
        assert_string_equal(any.instance, "q-1");
        ends(&any);
        wait_for(w, &c[2].granted, 1);
        ends(&c[2]);
        ends(&c[3]);
}

static void questions_need_no_slot(void **state)
{
        struct world *w = *state;
        struct client busy = {0}, waits = {0}, question = {0}, early = {0}, none = {0};
        const struct ticket_spec no_slot = {.key = "", .ignores_slots = true},
                                 no_wake = {.key = "", .ignores_slots = true, .no_wake = true};

        begin(w, NULL, ONE_OF("1"));
        assert_int_equal(asks_for(&none, no_wake, "q"), -EHOSTDOWN);
        assert_int_equal(asks_for(&early, no_slot, "q"), 0); /* but for an instance it waits */
        wait_for(w, &early.granted, 1);
        ends(&early);
        assert_int_equal(asks(&busy, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(asks_for(&question, no_slot, "q"), 1);
        assert_int_equal(asks_for(&none, no_wake, "q"), 1);
        ends(&question);
        ends(&none);
        assert_true(turn(w));
        assert_int_equal(waits.granted, 0);
        ends(&busy);
        wait_for(w, &waits.granted, 1);
        ends(&waits);
}

static void members_of_an_ensemble_stay_apart(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0};
        int mark;
        const struct ticket_spec spec = {.key = "", .spread = &mark};

        begin(w, NULL, TWO_OF("4"));
        wait_both(w);
        assert_int_equal(asks_for(&c[0], spec, "q"), 1);
        assert_int_equal(asks_for(&c[1], spec, "q"), 1);
        assert_string_not_equal(c[0].instance, c[1].instance);
        assert_int_equal(asks_for(&c[2], spec, "q"), 1); /* nobody else is there: together then */
        for (unsigned i = 0; i < 3; i++)
                ends(&c[i]);
        /* The other one is busy: it is waited for, and others go past. */
        assert_int_equal(asks_for(&c[0], spec, "q"), 1);
        for (unsigned i = 0; i < 4; i++)
                c[1 + i % 3].granted = 0;
        {
                struct client others[4] = {0}, mate = {0}, plain = {0};
                struct ticket_spec there = {.key = "",
                                            .instance = streq(c[0].instance, "q-0") ? "q-1" : "q-0"};

                for (unsigned i = 0; i < 4; i++)
                        assert_int_equal(asks_for(&others[i], there, "q"), 1);
                assert_int_equal(asks_for(&mate, spec, "q"), 0);
                assert_int_equal(asks(&plain, ""), 0);
                wait_for(w, &plain.granted, 1);
                assert_string_equal(plain.instance, c[0].instance);
                assert_int_equal(mate.granted, 0);
                ends(&others[0]);
                wait_for(w, &mate.granted, 1);
                assert_string_equal(mate.instance, there.instance);
                for (unsigned i = 1; i < 4; i++)
                        ends(&others[i]);
                ends(&mate);
                ends(&plain);
                ends(&c[0]);
        }
}

/* --- retries ------------------------------------------------------------------------------------------------------------- */

static void a_retry_meets_somebody_else(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0}, first = {0};
        char tried[64];
        struct dispatch_figures g;

        begin(w, NULL, TWO_OF("1"));
        wait_both(w);
        assert_int_equal(asks(&c, ""), 1);
        (void)snprintf(tried, sizeof tried, "%s", c.instance);
        assert_true(ticket_has_other(c.ticket));
        assert_int_equal(ticket_retry(c.ticket, "HTTP 503", false), 1);
        took(&c);
        assert_string_not_equal(c.instance, tried);
        assert_int_equal(ticket_tries(c.ticket), 2);
        assert_false(ticket_has_other(c.ticket));
        /* Both have failed. */
        assert_int_equal(ticket_retry(c.ticket, "connection reset", false), 0);
        wait_for(w, &c.refused, 1);
        assert_int_equal(c.why, REFUSAL_TRIES);
        assert_non_null(strstr(c.message, "HTTP 503"));
        assert_non_null(strstr(c.message, "connection reset"));
        assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
        assert_int_equal(g.retried, 2);
        assert_int_equal(g.refused[REFUSAL_TRIES], 1);

        /* In front of those that wait, when it has to wait itself. */
        c = (struct client){0};
        assert_int_equal(asks(&first, ""), 1);
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(ticket_retry(c.ticket, "HTTP 503", false), 0);
        c.granted = 0;
        wait_for(w, &waits.granted, 1); /* the one it has failed on is free for others */
        assert_int_equal(c.granted, 0);
        ends(&first);
        wait_for(w, &c.granted, 1);
        assert_string_equal(c.instance, first.instance);
        ends(&c);
        ends(&waits);
}

static void a_stale_connection_is_nobody_s_fault(void **state)
{
        struct world *w = *state;
        struct client c = {0};
        struct dispatch_seat seat;

        begin(w, "{\"retries\": 3}", ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(ticket_retry(c.ticket, "closed", true), 1); /* the same one again */
        assert_int_equal(ticket_retry(c.ticket, "closed", true), 1);
        assert_int_equal(dispatch_seat(fleet, "q", &seat), 0);
        assert_int_equal(seat.failed, 0);
        assert_int_equal(ticket_retry(c.ticket, "closed", true), 0); /* but it counts as a try */
        wait_for(w, &c.refused, 1);
        assert_int_equal(c.why, REFUSAL_TRIES);
}

/* --- deaths ---------------------------------------------------------------------------------------------------------------- */

static void a_death_gives_its_work_to_others(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0}, waits = {.ends = true};
        unsigned on_dead = 0, revoked = 0;
        bool back = false;

        /* The dead one stays away for a while. */
        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 2, \"slots\": 2, "
              "\"restart\": {\"backoff_initial\": \"100s\", \"backoff_max\": \"100s\"}}");
        wait_both(w);
        for (unsigned i = 0; i < 4; i++) {
                c[i].retries = true;
                assert_int_equal(asks(&c[i], ""), 1);
                on_dead += streq(c[i].instance, "q-0");
        }
        assert_int_equal(on_dead, 2);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(kill(fleet_find(fleet, "q-0")->pid, SIGKILL), 0);
        w->until = time_monotonic() + PATIENCE;
        for (; revoked < 2; assert_true(turn(w))) {
                revoked = 0;
                for (unsigned i = 0; i < 4; i++)
                        revoked += c[i].revoked;
        }
        /* The two stand in front of who waits, and get the next slots. */
        for (unsigned i = 0; i < 4; i++)
                if (!c[i].revoked)
                        ends(&c[i]);
        for (unsigned i = 0; i < 4; i++)
                if (c[i].revoked) {
                        assert_non_null(strstr(c[i].message, "SIGKILL"));
                        wait_for(w, &c[i].granted, 2);
                        assert_string_equal(c[i].instance, "q-1");
                        assert_int_equal(waits.granted, back);
                        back = true;
                        ends(&c[i]);
                        assert_true(turn(w));
                        back = waits.granted;
                }
        wait_for(w, &waits.granted, 1);
}

static void the_only_one_dies_and_comes_back(void **state)
{
        struct world *w = *state;
        struct client c = {.retries = true}, waits = {.ends = true};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(kill(fleet_find(fleet, "q")->pid, SIGKILL), 0);
        wait_for(w, &c.granted, 2); /* the new process is somebody else */
        assert_int_equal(c.revoked, 1);
        ends(&c);
        wait_for(w, &waits.granted, 1);
}

/* Its holder sees the end of the connection before we know of the death: it failed there, but the next process is another one. */
static void who_was_first_to_know_waits_for_the_next_process(void **state)
{
        struct world *w = *state;
        struct client c = {0};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(kill(fleet_find(fleet, "q")->pid, SIGKILL), 0);
        assert_int_equal(ticket_retry(c.ticket, "connection reset", false), 0);
        wait_for(w, &c.granted, 2);
        assert_int_equal(ticket_tries(c.ticket), 2);
        ends(&c);
}

/* It is dead, but the loop has not turned since. */
static void kill_unseen(const char *name)
{
        pid_t pid = fleet_find(fleet, name)->pid;
        usec_t until = time_monotonic() + PATIENCE;
        siginfo_t info = {0};

        assert_int_equal(kill(pid, SIGKILL), 0);
        while (info.si_pid != pid) {
                assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
                assert_true(time_monotonic() < until);
        }
}

static void a_try_on_a_dying_one_is_none(void **state)
{
        struct world *w = *state;
        struct client all[6] = {0}, *c[3];
        const char *victim = all[0].instance;
        struct dispatch_seat seat;
        unsigned n = 0;

        begin(w, "{\"retries\": 1, \"eject\": {\"failures\": 1}}", TWO_OF("3"));
        wait_both(w);
        for (unsigned i = 0; i < 6; i++)
                assert_int_equal(asks(&all[i], ""), 1);
        for (unsigned i = 0; i < 6; i++)
                if (streq(all[i].instance, victim))
                        c[n++] = &all[i];
                else
                        ends(&all[i]);
        assert_int_equal(n, 3);
        victim = c[2]->instance; /* all[0] goes elsewhere */
        kill_unseen(victim);
        assert_int_equal(ticket_retry(c[0]->ticket, "connection refused", TRY_CLOSED | TRY_UNREAD), 1);
        took(c[0]);
        assert_string_not_equal(c[0]->instance, victim);
        assert_int_equal(ticket_tries(c[0]->ticket), 2);
        /* Who had read the request may have died of it. */
        assert_int_equal(ticket_retry(c[1]->ticket, "closed", TRY_CLOSED), 0);
        wait_for(w, &c[1]->refused, 1);
        assert_int_equal(c[1]->why, REFUSAL_TRIES);
        /* That the connection ended in an answer is no fault of the next process, either. */
        ticket_done(c[2]->ticket, OUTCOME_BROKEN, USEC_INFINITY);
        assert_int_equal(dispatch_seat(fleet, victim, &seat), 0);
        assert_int_equal(seat.ejections, 0);
        ends(c[0]);
}

static void a_living_one_is_waited_for_in_vain(void **state)
{
        struct world *w = *state;
        struct client c = {0}, dies = {0};
        struct dispatch_seat seat;

        begin(w, "{\"retries\": 1, \"eject\": {\"failures\": 1}}", TWO_OF("1"));
        wait_both(w);
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(ticket_retry(c.ticket, "connection refused", TRY_CLOSED | TRY_UNREAD), 0);
        assert_int_equal(dispatch_seat(fleet, c.instance, &seat), 0);
        assert_int_equal(seat.ejections, 1);
        wait_for(w, &c.refused, 1);
        assert_int_equal(c.why, REFUSAL_TRIES);
        assert_non_null(strstr(c.message, "connection refused"));

        /* It dies a moment later; and one who gives up meanwhile. */
        for (unsigned i = 0; i < 2; i++) {
                dies = (struct client){0};
                assert_int_equal(asks(&dies, ""), 1);
                assert_int_equal(ticket_retry(dies.ticket, "connection refused", TRY_CLOSED | TRY_UNREAD), 0);
                if (i == 0)
                        ticket_cancel(dies.ticket);
        }
        kill_unseen(dies.instance);
        wait_for(w, &dies.granted, 2);
        ends(&dies);

        /* The daemon stops: nobody waits for anything. */
        dies = (struct client){0};
        wait_both(w);
        assert_int_equal(asks(&dies, ""), 1);
        assert_int_equal(ticket_retry(dies.ticket, "connection refused", TRY_CLOSED | TRY_UNREAD), 0);
        close_fleet(w);
        assert_int_equal(dies.refused, 1);
}

static void a_frozen_one_loses_its_work(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(kill(fleet_find(fleet, "q")->pid, SIGSTOP), 0);
        wait_status(w, "q", "unhealthy");
        assert_int_equal(c.revoked, 0);
        wait_for(w, &c.revoked, 1);
        wait_for(w, &waits.granted, 1);
        ends(&waits);
}

static void who_is_down_is_said(void **state)
{
        struct world *w = *state;
        struct client c[3] = {0}, late = {0};

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"not-there.gguf\"},"
              "{\"name\": \"off\", \"model\": \"m.gguf\", \"autostart\": false}");
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(asks(&c[i], ""), 0); /* it tries: there is hope */
        assert_int_equal(asks_for(&late, (struct ticket_spec){.key = ""}, "off"), 0);
        wait_for(w, &late.refused, 1);
        assert_int_equal(late.why, REFUSAL_DOWN);
        assert_non_null(strstr(late.message, "off is stopped; llama-supervisor start off"));
        for (unsigned i = 0; i < 3; i++) {
                wait_for(w, &c[i].refused, 1);
                assert_int_equal(c[i].why, REFUSAL_DOWN);
                assert_non_null(strstr(c[i].message, "gave up after 3 retries"));
                assert_true(c[i].retry_after > 0);
        }
        assert_string_equal(fleet_find(fleet, "q")->status, "error");
        late = (struct client){0};
        assert_int_equal(asks(&late, ""), 0);
        wait_for(w, &late.refused, 1);
        assert_int_equal(late.why, REFUSAL_DOWN);
}

/* --- ejection -------------------------------------------------------------------------------------------------------------- */

static void who_fails_is_left_alone_but_never_the_last(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0};
        struct dispatch_seat seat;

        begin(w, "{\"eject\": {\"failures\": 2, \"initial\": \"300ms\", \"max\": \"10s\"}}", TWO_OF("4"));
        wait_both(w);
        for (unsigned i = 0; i < 2; i++) {
                assert_int_equal(asks_for(&c[0], (struct ticket_spec){.instance = "q-0", .key = ""}, "q"), 1);
                ticket_done(c[0].ticket, OUTCOME_FAILED, USEC_INFINITY);
        }
        assert_int_equal(dispatch_seat(fleet, "q-0", &seat), 0);
        assert_true(seat.ejected_until > 0);
        assert_int_equal(seat.ejections, 1);
        assert_int_equal(seat.failed, 2);
        for (unsigned i = 0; i < 4; i++) {
                assert_int_equal(asks(&c[i], ""), 1);
                assert_string_equal(c[i].instance, "q-1");
        }
        {
                /* q-1 is full: who comes now waits until the ejection is over, though q-0 has room. */
                struct client waits = {0};

                assert_int_equal(asks(&waits, ""), 0);
                wait_for(w, &waits.granted, 1);
                assert_string_equal(waits.instance, "q-0");
                ends(&waits);
        }
        for (unsigned i = 0; i < 4; i++)
                ends(&c[i]);
        /* Both fail: then both are in. */
        for (unsigned k = 0; k < 4; k++) {
                struct ticket_spec spec = {.instance = k % 2 ? "q-1" : "q-0", .key = ""};

                assert_int_equal(asks_for(&c[0], spec, "q"), 1);
                ticket_done(c[0].ticket, OUTCOME_FAILED, USEC_INFINITY);
        }
        assert_int_equal(dispatch_seat(fleet, "q-1", &seat), 0);
        assert_true(seat.ejected_until > 0);
        assert_int_equal(asks(&c[0], ""), 1);
        ticket_done(c[0].ticket, OUTCOME_CANCELLED, USEC_INFINITY);
        assert_int_equal(dispatch_seat(fleet, c[0].instance, &seat), 0);
        assert_int_equal(seat.cancelled, 1);
}

/* --- stops and reloads --------------------------------------------------------------------------------------------------------- */

static void order(const char *name, enum fleet_verb verb)
{
        char *message;

        assert_int_equal(fleet_order(fleet, name, verb, &message), 0);
        free(message);
}

static void a_stop_waits_for_what_runs(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0};
        usec_t begun;

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        order("q", FLEET_STOP);
        wait_for(w, &waits.refused, 1); /* nobody else is there, and it will not come back */
        assert_int_equal(waits.why, REFUSAL_DOWN);
        begun = time_monotonic();
        while (time_monotonic() - begun < USEC_PER_SEC / 2)
                assert_true(turn(w) || true);
        assert_string_equal(fleet_find(fleet, "q")->status, "draining");
        assert_int_equal(c.revoked, 0);
        begun = time_monotonic();
        ends(&c);
        wait_status(w, "q", "initial");
        assert_true(time_monotonic() - begun < 10 * USEC_PER_SEC); /* stop.drain is 30 s */
}

static void a_stop_does_not_wait_for_ever(void **state)
{
        struct world *w = *state;
        struct client c = {0};

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 1, \"stop\": {\"drain\": \"200ms\"}}");
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        order("q", FLEET_STOP);
        wait_for(w, &c.revoked, 1);
        assert_string_equal(c.message, "q is stopped");
        wait_status(w, "q", "initial");
}

static void a_drain_moves_what_waits_and_can_be_taken_back(void **state)
{
        struct world *w = *state;
        struct client c[2] = {0}, waits = {0}, later = {0};
        struct client *on_0;
        char *message;
        pid_t pid;

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": 2, \"slots\": 1, \"stop\": {\"drain\": "
              "\"1ms\"}}");
        wait_both(w);
        pid = fleet_find(fleet, "q-0")->pid;
        assert_int_equal(asks(&c[0], ""), 1);
        assert_int_equal(asks(&c[1], ""), 1);
        on_0 = streq(c[0].instance, "q-0") ? &c[0] : &c[1];
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(asks(&later, ""), 0);
        order("q-0", FLEET_DRAIN);
        wait_status(w, "q-0", "draining");
        /* Its slot is not given again… */
        ends(on_0 == &c[0] ? &c[1] : &c[0]);
        wait_for(w, &waits.granted, 1);
        assert_string_equal(waits.instance, "q-1");
        for (unsigned i = 0; i < 50; i++)
                assert_true(turn(w));
        assert_int_equal(later.granted, 0);
        assert_int_equal(on_0->revoked, 0); /* …and what runs may run on, whatever stop.drain says */
        order("q-0", FLEET_START);
        assert_string_equal(fleet_find(fleet, "q-0")->status, "ready");
        ends(on_0);
        wait_for(w, &later.granted, 1);
        assert_string_equal(later.instance, "q-0");
        assert_int_equal(fleet_find(fleet, "q-0")->pid, pid);
        /* A limit of its own. */
        assert_int_equal(fleet_drain(fleet, "q-0", 100 * USEC_PER_MSEC, &message), 0);
        free(message);
        wait_for(w, &later.revoked, 1);
        wait_status(w, "q-0", "initial");
        ends(&waits);
}

static void a_stop_shortens_a_drain(void **state)
{
        struct world *w = *state;
        struct client c = {0};

        begin(w, NULL,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 1, \"stop\": {\"drain\": \"100ms\"}}");
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        order("q", FLEET_DRAIN);
        wait_status(w, "q", "draining");
        order("q", FLEET_STOP);
        wait_for(w, &c.revoked, 1);
        wait_status(w, "q", "initial");
}

static void a_restart_keeps_who_waits(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        order("q", FLEET_RESTART);
        wait_status(w, "q", "draining");
        ends(&c);
        wait_for(w, &waits.granted, 1);
        ends(&waits);
}

static void the_end_of_the_daemon_is_said(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0}, late = {0};

        begin(w, NULL, ONE_OF("1"));
        wait_status(w, "q", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        fleet_stop(fleet, on_stopped, w);
        wait_for(w, &waits.refused, 1);
        assert_int_equal(waits.why, REFUSAL_STOPPING);
        assert_int_equal(asks(&late, ""), 0);
        wait_for(w, &late.refused, 1);
        assert_int_equal(late.why, REFUSAL_STOPPING);
        assert_int_equal(c.revoked, 0); /* it may end */
        ends(&c);
}

static void a_removed_model_is_said(void **state)
{
        struct world *w = *state;
        struct client c = {0}, waits = {0}, kept = {0}, kept_waits = {0};

        begin(w, NULL, ONE_OF("1") ", {\"name\": \"k\", \"model\": \"m.gguf\", \"slots\": 1}");
        wait_status(w, "q", "ready");
        wait_status(w, "k", "ready");
        assert_int_equal(asks(&c, ""), 1);
        assert_int_equal(asks(&waits, ""), 0);
        assert_int_equal(asks_for(&kept, (struct ticket_spec){.key = ""}, "k"), 1);
        assert_int_equal(asks_for(&kept_waits, (struct ticket_spec){.key = ""}, "k"), 0);
        write_config(w, "{\"name\": \"k\", \"model\": \"m.gguf\", \"slots\": 2}");
        reload(w);
        wait_for(w, &waits.refused, 1);
        assert_int_equal(waits.why, REFUSAL_REMOVED);
        wait_for(w, &kept_waits.granted, 1); /* the reload gave it a slot more */
        assert_int_equal(kept.revoked, 0);
        ends(&c);
        ends(&kept);
        ends(&kept_waits);
        w->until = time_monotonic() + PATIENCE;
        while (fleet_find(fleet, "q"))
                assert_true(turn(w));
}

/* It died by itself, so that its lease is told a moment later; by then a reload has taken the instance away. */
static void work_for_one_that_is_not_there_any_more(void **state)
{
        struct world *w = *state;
        struct client c = {.retries = true};
        const struct ticket_spec one = {.instance = "q-2", .key = ""};
        const char *entry = "{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": %s, \"slots\": 1, "
                            "\"restart\": {\"backoff_initial\": \"100s\", \"backoff_max\": \"100s\"}}";
        char text[256];

        (void)snprintf(text, sizeof text, entry, "3");
        begin(w, NULL, text);
        for (unsigned i = 0; i < 3; i++) {
                char name[8];

                (void)snprintf(name, sizeof name, "q-%u", i);
                wait_status(w, name, "ready");
        }
        assert_int_equal(asks_for(&c, one, "q"), 1);
        assert_int_equal(kill(fleet_find(fleet, "q-2")->pid, SIGKILL), 0);
        wait_status(w, "q-2", "crashed");
        (void)snprintf(text, sizeof text, entry, "2");
        write_config(w, text);
        reload(w);
        wait_for(w, &c.refused, 1);
        assert_int_equal(c.why, REFUSAL_REMOVED);
        assert_string_equal(c.message, "the instance q-2 is not there any more");
}

static void reports_tell_leases_and_queue(void **state)
{
        struct world *w = *state;
        struct client c[3] = {0};

        begin(w, NULL, ONE_OF("2"));
        wait_status(w, "q", "ready");
        for (unsigned i = 0; i < 3; i++)
                (void)asks(&c[i], "");
        assert_int_equal(fleet_find(fleet, "q")->in_flight, 2);
        assert_int_equal(fleet_find(fleet, "q")->queue, 1);
        assert_int_equal(fleet_aggregate(fleet)->queue, 1);
        for (unsigned i = 0; i < 2; i++)
                ends(&c[i]);
        wait_for(w, &c[2].granted, 1);
        ends(&c[2]);
        assert_int_equal(fleet_find(fleet, "q")->in_flight, 0);
}

static int end(void **state)
{
        over = true;
        return tear_down(state);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, end)
        const struct CMUnitTest tests[] = {
                TEST(names_mean_models),
                TEST(slots_bound_what_runs),
                TEST(work_waits_for_a_start),
                TEST(keys_take_turns_and_classes_go_first),
                TEST(a_full_queue_refuses),
                TEST(waits_end),
                TEST(a_line_that_stands_is_shed),
                TEST(a_load_sheds_nobody),
                TEST(an_absence_is_no_overload),
                TEST(a_thousand_at_once_on_four_slots),
                TEST(one_instance_may_be_meant),
                TEST(questions_need_no_slot),
                TEST(members_of_an_ensemble_stay_apart),
                TEST(a_retry_meets_somebody_else),
                TEST(a_stale_connection_is_nobody_s_fault),
                TEST(a_death_gives_its_work_to_others),
                TEST(the_only_one_dies_and_comes_back),
                TEST(who_was_first_to_know_waits_for_the_next_process),
                TEST(a_try_on_a_dying_one_is_none),
                TEST(a_living_one_is_waited_for_in_vain),
                TEST(a_frozen_one_loses_its_work),
                TEST(who_is_down_is_said),
                TEST(who_fails_is_left_alone_but_never_the_last),
                TEST(a_stop_waits_for_what_runs),
                TEST(a_stop_does_not_wait_for_ever),
                TEST(a_drain_moves_what_waits_and_can_be_taken_back),
                TEST(a_stop_shortens_a_drain),
                TEST(a_restart_keeps_who_waits),
                TEST(the_end_of_the_daemon_is_said),
                TEST(a_removed_model_is_said),
                TEST(work_for_one_that_is_not_there_any_more),
                TEST(reports_tell_leases_and_queue),
        };

        if (getenv("LSV_TEST_ONLY"))
                cmocka_set_test_filter(getenv("LSV_TEST_ONLY"));
        return cmocka_run_group_tests(tests, NULL, NULL);
}
