/* test_liveness.c: what counts as dead, and what does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/liveness.h"

#define S USEC_PER_SEC

static const struct liveness_policy policy = {.failures = 3, .start_attempts = 60, .silence = 600 * S};

static enum liveness_verdict feed(struct liveness *l, enum probe_kind kind, usec_t cpu, bool starting,
                                  usec_t now)
{
        return liveness_feed(l, &policy, &(struct probe_fact){.kind = kind, .cpu = cpu}, starting, now);
}

static void three_refusals_are_a_death(void **state)
{
        struct liveness l;

        (void)state;
        liveness_start(&l, 0);
        assert_int_equal(feed(&l, PROBE_WELL, USEC_INFINITY, false, S), LIVENESS_HEALTHY);
        assert_int_equal(feed(&l, PROBE_REFUSED, 0, false, 2 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_RESET, 0, false, 3 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_WELL, 0, false, 4 * S), LIVENESS_HEALTHY);
        assert_int_equal(feed(&l, PROBE_REFUSED, 0, false, 5 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_WRONG, 0, false, 6 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_RESET, 0, false, 7 * S), LIVENESS_DEAD);
}

static void silence_of_a_working_server_is_no_death(void **state)
{
        struct liveness l;
        usec_t now = 0, cpu = 0;

        (void)state;
        liveness_start(&l, 0);
        /* 9 minutes of a long prompt: every probe times out, its CPU time moves. */
        for (now = 5 * S; now < 540 * S; now += 5 * S) {
                cpu += 4 * S;
                assert_int_equal(feed(&l, PROBE_TIMEOUT, cpu, false, now), LIVENESS_SICK);
                assert_true(now < 10 * S || l.moving);
        }
        assert_int_equal(feed(&l, PROBE_TIMEOUT, cpu + 9 * S, false, 600 * S),
                         LIVENESS_DEAD); /* silent for 10 minutes */
}

static void silence_of_an_idle_server_is_a_death(void **state)
{
        struct liveness l;

        (void)state;
        liveness_start(&l, 0);
        assert_int_equal(feed(&l, PROBE_TIMEOUT, 7 * S, false, 5 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_TIMEOUT, 7 * S, false, 10 * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_TIMEOUT, 7 * S + 1000, false, 15 * S),
                         LIVENESS_DEAD); /* timers are no work */
}

/* failures = 1: one late answer alone cannot tell whether it works, for nobody looked at its CPU time before. */
static void the_first_late_answer_is_measured(void **state)
{
        const struct liveness_policy one = {.failures = 1, .start_attempts = 60, .silence = 600 * S};
        struct probe_fact f = {.kind = PROBE_WELL, .cpu = USEC_INFINITY};
        struct liveness l;

        (void)state;
        liveness_start(&l, 0);
        assert_int_equal(liveness_feed(&l, &one, &f, false, S), LIVENESS_HEALTHY);
        f = (struct probe_fact){.kind = PROBE_TIMEOUT, .cpu = 4 * S};
        assert_int_equal(liveness_feed(&l, &one, &f, false, 5 * S), LIVENESS_SICK);
        f.cpu = 8 * S;
        assert_int_equal(liveness_feed(&l, &one, &f, false, 10 * S), LIVENESS_SICK);
        assert_int_equal(liveness_feed(&l, &one, &f, false, 15 * S), LIVENESS_DEAD);
        /* Somebody else's server: there is no CPU time to look at. */
        liveness_start(&l, 0);
        f.cpu = USEC_INFINITY;
        assert_int_equal(liveness_feed(&l, &one, &f, false, 5 * S), LIVENESS_DEAD);
}

static void bytes_are_a_sign_of_life(void **state)
{
        struct liveness l;
        struct probe_fact f = {.kind = PROBE_TIMEOUT, .cpu = USEC_INFINITY};

        (void)state;
        liveness_start(&l, 0);
        for (unsigned i = 1; i < 20; i++) {
                f.bytes = i * 100;
                assert_int_equal(liveness_feed(&l, &policy, &f, false, i * 5 * S), LIVENESS_SICK);
        }
}

static void a_start_has_its_attempts(void **state)
{
        struct liveness l;

        (void)state;
        liveness_start(&l, 0);
        for (unsigned i = 0; i < 59; i++)
                assert_int_equal(feed(&l, PROBE_REFUSED, USEC_INFINITY, true, i * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_LOADING, USEC_INFINITY, true, 60 * S),
                         LIVENESS_LOADING); /* progress */
        for (unsigned i = 0; i < 59; i++)
                assert_int_equal(feed(&l, PROBE_TIMEOUT, USEC_INFINITY, true, (61 + i) * S), LIVENESS_SICK);
        assert_int_equal(feed(&l, PROBE_REFUSED, USEC_INFINITY, true, 200 * S), LIVENESS_DEAD);
}

static void a_download_uses_no_attempts(void **state)
{
        struct liveness_policy hf = policy;
        struct probe_fact f = {.kind = PROBE_REFUSED};
        struct liveness l;

        (void)state;
        hf.free_start = true;
        liveness_start(&l, 0);
        for (unsigned i = 1; i < 1000; i++) {
                f.cpu = i * S / 2;
                assert_int_equal(liveness_feed(&l, &hf, &f, true, i * S), LIVENESS_SICK);
        }
        for (unsigned i = 0; i < 59; i++) /* what was quiet now and then on the way does not count */
                (void)liveness_feed(&l, &hf, &f, true, (1000 + i) * S);
        assert_int_equal(liveness_feed(&l, &hf, &f, true, 1100 * S), LIVENESS_DEAD); /* it stands still */
}

static void our_own_trouble_says_nothing(void **state)
{
        struct liveness l;

        (void)state;
        liveness_start(&l, 0);
        for (unsigned i = 0; i < 100; i++)
                assert_int_equal(feed(&l, PROBE_LOCAL, USEC_INFINITY, false, i * S), LIVENESS_NONE);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(three_refusals_are_a_death),
                cmocka_unit_test(silence_of_a_working_server_is_no_death),
                cmocka_unit_test(silence_of_an_idle_server_is_a_death),
                cmocka_unit_test(the_first_late_answer_is_measured),
                cmocka_unit_test(bytes_are_a_sign_of_life),
                cmocka_unit_test(a_start_has_its_attempts),
                cmocka_unit_test(a_download_uses_no_attempts),
                cmocka_unit_test(our_own_trouble_says_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
