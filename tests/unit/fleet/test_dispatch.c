/* test_dispatch.c: slots promised and given back, over real members with fake llama-servers; requests are sent in one test alone. */
#include "fleet/dispatch_scene.h"

static void on_answered(void *owner, const struct exchange_answer *answer, usec_t now)
{
        (void)now;
        assert_int_equal(answer->result, EXCHANGE_OK);
        ++*(unsigned *)owner;
}

/* Asks twice at the same time; how many connections were ever made. */
static uint64_t two_at_once(struct world *w, struct upstream *u)
{
        struct exchange_spec spec = {
                .method = SLICE("GET"), .target = SLICE("/health"), .timeout = PATIENCE, .body_max = 1000};
        unsigned answered = 0;
        struct exchange *x;

        for (int i = 0; i < 2; i++)
                assert_int_equal(upstream_start(u, &spec, on_answered, &answered, &x), 0);
        wait_for(w, &answered, 2);
        return upstream_counts(u)->connects;
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

/* They keep threads of the server busy, if not slots. */
static void questions_have_a_bound(void **state)
{
        struct world *w = *state;
        struct client c[2 * DISPATCH_QUESTIONS_MAX] = {0}, more = {0}, pinned = {0};
        struct ticket_spec spec = {.key = "", .priority = TICKET_NORMAL, .ignores_slots = true};
        struct dispatch_figures g;
        struct dispatch_seat seat;

        begin(w, NULL, TWO_OF("1"));
        wait_both(w);
        for (unsigned i = 0; i < ARRAY_SIZE(c); i++)
                assert_int_equal(asks_for(&c[i], spec, "q"), 1);
        assert_int_equal(dispatch_seat(fleet, "q-1", &seat), 0);
        assert_int_equal(seat.questions, DISPATCH_QUESTIONS_MAX);
        assert_int_equal(seat.leased, 0);
        assert_int_equal(asks_for(&more, spec, "q"), 0);
        wait_for(w, &more.refused, 1);
        assert_int_equal(more.why, REFUSAL_QUESTIONS);
        assert_int_equal(more.retry_after, 1);
        assert_string_equal(ticket_refusal_name(more.why), "too_many_questions");
        assert_int_equal(dispatch_figures(fleet, "q", &g), 0);
        assert_int_equal(g.refused[REFUSAL_QUESTIONS], 1);
        /* Work is not concerned, and one that ends makes room on its own instance. */
        assert_int_equal(asks(&more, ""), 1);
        ends(&more);
        spec.instance = c[0].instance;
        spec.no_wake = true;
        assert_int_equal(asks_for(&pinned, spec, "q"), 0);
        wait_for(w, &pinned.refused, 1);
        assert_non_null(strstr(pinned.message, c[0].instance));
        ends(&c[0]);
        assert_int_equal(asks_for(&pinned, spec, "q"), 1);
        ends(&pinned);
        for (unsigned i = 1; i < ARRAY_SIZE(c); i++)
                ends(&c[i]);
}

/* An administrator's work does not wait, but others see the slot that it takes. */
static void overbooked_slots_count(void **state)
{
        struct world *w = *state;
        struct client direct[3] = {0}, waits = {0};
        struct ticket_spec spec = {
                .key = "", .priority = TICKET_NORMAL, .instance = "q", .overbooks = true, .no_wake = true};
        struct dispatch_seat seat;

        begin(w, NULL, ONE_OF("2"));
        wait_status(w, "q", "ready");
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(asks_for(&direct[i], spec, "q"), 1);
        assert_int_equal(dispatch_seat(fleet, "q", &seat), 0);
        assert_int_equal(seat.leased, 3);
        assert_int_equal(seat.slots, 2);
        assert_int_equal(seat.questions, 0);
        assert_int_equal(asks(&waits, ""), 0);
        ends(&direct[0]);
        (void)turn(w);
        assert_int_equal(waits.granted, 0);
        ends(&direct[1]);
        wait_for(w, &waits.granted, 1);
        ends(&direct[2]);
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
        assert_int_equal(two_at_once(w, ticket_upstream(kept.ticket)), 2);
        assert_int_equal(two_at_once(w, ticket_upstream(kept.ticket)), 2);
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

int main(void)
{
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
                TEST(questions_have_a_bound),
                TEST(overbooked_slots_count),
                TEST(members_of_an_ensemble_stay_apart),
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
