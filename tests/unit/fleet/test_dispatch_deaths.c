/* test_dispatch_deaths.c: tries that fail, instances that die, freeze or fail again and again, and what becomes of who was there. */
#include "fleet/dispatch_scene.h"

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

int main(void)
{
        const struct CMUnitTest tests[] = {
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
        };

        if (getenv("LSV_TEST_ONLY"))
                cmocka_set_test_filter(getenv("LSV_TEST_ONLY"));
        return cmocka_run_group_tests(tests, NULL, NULL);
}
