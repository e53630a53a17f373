/* test_wedge.c: what stands still, and what only takes long. */
#include "core/wedge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"

#define S  USEC_PER_SEC
#define MS USEC_PER_MSEC

static const struct wedge_policy policy = {.limit = 20 * S, .blind_limit = 600 * S};

/* A server, looked at once a second. */
struct server {
        struct wedge wedge;
        struct wedge_fact fact;
        usec_t now;
        unsigned asked;
};

static struct server begin(unsigned work)
{
        struct server s = {.fact = {.work = work}, .now = 100 * S};

        wedge_start(&s.wedge);
        return s;
}

/* Seconds until it is declared wedged; -1: not within so many. */
static int run(struct server *s, int seconds, usec_t cpu_a_second, enum wedge_verdict want)
{
        for (int i = 1; i <= seconds; i++) {
                enum wedge_verdict v;

                s->now += S;
                s->fact.cpu += cpu_a_second;
                v = wedge_feed(&s->wedge, &policy, &s->fact, s->now);
                if (v == WEDGE_ASK)
                        s->asked++;
                if (v == want)
                        return i;
                assert_true(v == WEDGE_NONE || v == WEDGE_ASK);
        }
        return -1;
}

static void work_that_stands_still(void **state)
{
        struct server s = begin(1);
        int found = run(&s, 100, 2 * MS, WEDGE_STUCK); /* what its probes cost */

        (void)state;
        assert_in_range(found, 20, 25);
        assert_int_equal(s.asked, 0); /* no slot is free */
}

static void nothing_to_do(void **state)
{
        struct server s = begin(0);

        (void)state;
        assert_int_equal(run(&s, 1000, 0, WEDGE_STUCK), -1);
        s.fact.work = 2; /* our clients are slow; it is done with them */
        s.fact.says_idle = true;
        assert_int_equal(run(&s, 1000, 0, WEDGE_STUCK), -1);
}

static void a_long_prompt(void **state)
{
        struct server s;

        (void)state;
        s = begin(4);
        assert_int_equal(run(&s, 3600, 1800 * MS, WEDGE_STUCK), -1); /* on the CPU */
        s = begin(4);
        assert_int_equal(run(&s, 3600, 15 * MS, WEDGE_STUCK),
                         -1); /* hardly any CPU, but more than probes cost */
        s = begin(4);
        s.fact.uses_gpu = s.fact.gpu_known = s.fact.gpu_active = true;
        assert_int_equal(run(&s, 3600, 0, WEDGE_STUCK), -1);
        /* a machine so full that it hardly gets any CPU: it wants to run whenever one looks */
        s = begin(4);
        s.fact.wants_to_run = true;
        assert_int_equal(run(&s, 3600, MS, WEDGE_STUCK), -1);
        /* the prompts of new builds are counted in /slots */
        s = begin(1);
        for (int i = 0; i < 200; i++) {
                assert_int_equal(run(&s, 18, 0, WEDGE_STUCK), -1);
                s.fact.tokens++;
        }
        /* and then it hangs in it */
        assert_in_range(run(&s, 100, 0, WEDGE_STUCK), 20, 25);
}

static void some_looks_find_a_thread_running(void **state)
{
        struct server s = begin(1);
        int found = -1;

        (void)state;
        /* Half of them, by chance: the thread that answered the probe. */
        for (int i = 1; i < 100 && found < 0; i++) {
                s.fact.wants_to_run = i % 2;
                if (run(&s, 1, 2 * MS, WEDGE_STUCK) > 0)
                        found = i;
        }
        assert_in_range(found, 20, 25);
}

static void a_gpu_that_rests(void **state)
{
        struct server s = begin(1);

        (void)state;
        s.fact.uses_gpu = s.fact.gpu_known = true;
        assert_in_range(run(&s, 100, 2 * MS, WEDGE_STUCK), 20, 25);
        /* of one that nobody can see, nothing is believed for long */
        s = begin(1);
        s.fact.uses_gpu = true;
        assert_in_range(run(&s, 1000, 2 * MS, WEDGE_STUCK), 600, 605);
}

static void bytes_are_life(void **state)
{
        struct server s = begin(1);

        (void)state;
        for (int i = 0; i < 50; i++) {
                s.fact.bytes++;
                assert_int_equal(run(&s, 15, 0, WEDGE_STUCK), -1);
        }
        assert_int_equal(run(&s, 100, 0, WEDGE_STUCK), 20 - 15 + 1);
}

static void a_canary_is_asked_when_a_slot_is_free(void **state)
{
        struct server s = begin(1);

        (void)state;
        s.fact.slot_free = true;
        assert_in_range(run(&s, 100, 0, WEDGE_ASK), 9, 13);
        s.fact.canary = CANARY_ASKED;
        assert_int_equal(run(&s, 4, 0, WEDGE_STUCK), -1);
        /* it answers: what stands still is not its inference */
        s.fact.canary = CANARY_ALIVE;
        assert_int_equal(run(&s, 1, 0, WEDGE_STUCK), -1);
        assert_int_equal(wedge_stands(&s.wedge, s.now), 0);
        s.fact.canary = CANARY_NONE;
        /* and again, later */
        assert_in_range(run(&s, 100, 0, WEDGE_ASK), 9, 13);
        s.fact.canary = CANARY_ASKED;
        assert_int_equal(run(&s, 30, 0, WEDGE_STUCK), -1); /* its own deadline decides */
        s.fact.canary = CANARY_SILENT;
        assert_int_equal(run(&s, 5, 0, WEDGE_STUCK), 1);
        /* a server that takes no such question is judged without it */
        s = begin(1);
        s.fact.slot_free = true;
        assert_in_range(run(&s, 100, 0, WEDGE_ASK), 9, 13);
        s.fact.canary = CANARY_REFUSED;
        assert_in_range(run(&s, 100, 0, WEDGE_STUCK), 5, 15);
}

static void a_loop_without_end(void **state)
{
        struct server s = begin(2);

        (void)state;
        s.fact.decodes = true;
        /* It decodes, a token every 4 s … */
        for (int i = 0; i < 20; i++) {
                s.fact.tokens++;
                assert_int_equal(run(&s, 4, S, WEDGE_SPINNING), -1);
        }
        /* … and then none any more, at full speed. */
        assert_in_range(run(&s, 200, S, WEDGE_SPINNING), 34, 42);
        /* While another slot is in its prompt, nothing can be said. */
        s = begin(2);
        s.fact.decodes = true;
        for (int i = 0; i < 20; i++) {
                s.fact.tokens++;
                assert_int_equal(run(&s, 1, S, WEDGE_SPINNING), -1);
        }
        s.fact.decodes = false;
        assert_int_equal(run(&s, 3600, S, WEDGE_SPINNING), -1);
}

/* A laptop that is closed, a virtual machine or a container that is paused, in the middle of a prompt. */
static void what_slept_is_judged_by_what_it_does_afterwards(void **state)
{
        struct server s = begin(2);

        (void)state;
        s.fact.slot_free = true;
        assert_int_equal(run(&s, 30, S, WEDGE_STUCK), -1);
        s.now += 3600 * S;
        assert_int_equal(run(&s, 100, S, WEDGE_STUCK), -1);
        assert_int_equal(s.asked, 0);
        s.now += 3600 * S;
        s.fact.slot_free = false;
        assert_in_range(run(&s, 100, 0, WEDGE_STUCK), 12, 25);
        /* The hours of sleep are no token that took long, and no loop without end. */
        s = begin(1);
        s.fact.decodes = true;
        for (int i = 0; i < 20; i++) {
                s.fact.tokens++;
                assert_int_equal(run(&s, 1, S, WEDGE_SPINNING), -1);
        }
        s.now += 3600 * S;
        assert_int_equal(run(&s, 10, S, WEDGE_SPINNING), -1);
        s.fact.tokens++;
        assert_int_equal(run(&s, 1, S, WEDGE_SPINNING), -1);
        assert_in_range(run(&s, 400, S, WEDGE_SPINNING), 20, 200);
}

static void looks_that_are_rare(void **state)
{
        struct server s = begin(1);
        int looks = 0;

        (void)state;
        while (wedge_feed(&s.wedge, &policy, &s.fact, s.now) != WEDGE_STUCK && looks < 20) {
                s.now += 60 * S;
                looks++;
        }
        assert_in_range(looks, 3, 6);
}

static void what_is_not_judged(void **state)
{
        struct server s = begin(1);
        const struct wedge_policy never = {.blind_limit = 600 * S};

        (void)state;
        s.fact.cpu = USEC_INFINITY; /* not our process */
        for (int i = 0; i < 100; i++)
                assert_int_equal(wedge_feed(&s.wedge, &policy, &s.fact, s.now += S), WEDGE_NONE);
        s.fact.cpu = 0;
        for (int i = 0; i < 100; i++)
                assert_int_equal(wedge_feed(&s.wedge, &never, &s.fact, s.now += S), WEDGE_NONE);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(work_that_stands_still),
                cmocka_unit_test(nothing_to_do),
                cmocka_unit_test(a_long_prompt),
                cmocka_unit_test(some_looks_find_a_thread_running),
                cmocka_unit_test(a_gpu_that_rests),
                cmocka_unit_test(bytes_are_life),
                cmocka_unit_test(a_canary_is_asked_when_a_slot_is_free),
                cmocka_unit_test(a_loop_without_end),
                cmocka_unit_test(what_slept_is_judged_by_what_it_does_afterwards),
                cmocka_unit_test(looks_that_are_rare),
                cmocka_unit_test(what_is_not_judged),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
