/* test_scale.c: replicas come when somebody waited, and go when they were not needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/scale.h"

#define S USEC_PER_SEC

static const struct scale_policy policy = {
        .min = 1, .max = 3, .wait = 2 * S, .idle = 60 * S, .cooldown = 30 * S};

/* A story: at `at` seconds the facts are so, and the answer is `by`. */
struct line {
        unsigned at, replicas, up, leased, waited_ms;
        int by;
        unsigned due; /* seconds, 0: not looked at, 1: none */
};

static void tell(const struct line *lines, size_t n)
{
        struct scale s = {0};

        for (size_t i = 0; i < n; i++) {
                const struct line *l = &lines[i];
                struct scale_facts f = {.replicas = l->replicas,
                                        .up = l->up,
                                        .leased = l->leased,
                                        .slots = 4,
                                        .waited = l->waited_ms * USEC_PER_MSEC};
                usec_t due = 7;
                int by = scale_step(&s, &policy, &f, l->at * S, &due);

                if (by != l->by)
                        fail_msg("line %zu: %d, not %d", i, by, l->by);
                if (l->due > 1 && (due < l->due * S || due > l->due * S + USEC_PER_MSEC))
                        fail_msg("line %zu: due %llu", i, (unsigned long long)due);
                if (l->due == 1)
                        assert_true(due == USEC_INFINITY);
        }
}
#define TELL(...) tell((const struct line[]){__VA_ARGS__}, ARRAY_SIZE(((const struct line[]){__VA_ARGS__})))

static void one_more_when_somebody_waited(void **state)
{
        (void)state;
        TELL({100, 1, 1, 4, 500, 0, 0}, {101, 1, 1, 4, 1500, 0, 0}, {102, 1, 1, 4, 2500, 1, 0},
             /* it loads: no third one for it */
             {103, 2, 1, 4, 3500, 0, 0}, {140, 2, 1, 4, 9500, 0, 0},
             /* up, and still not enough: cool by now */
             {141, 2, 2, 8, 2500, 1, 0},
             /* never above max */
             {300, 3, 3, 12, 60000, 0, 1});
        /* not before it is cool */
        TELL({100, 1, 1, 4, 3000, 1, 0}, {101, 2, 2, 8, 3000, 0, 130}, {129, 2, 2, 8, 3000, 0, 130},
             {130, 2, 2, 8, 3000, 1, 0});
        /* looked at again just when the wait is over */
        TELL({100, 1, 1, 4, 1000, 0, 101}, {102, 1, 1, 4, 2001, 1, 0});
}

static void one_less_when_it_was_not_needed(void **state)
{
        (void)state;
        TELL({100, 3, 3, 8, 0, 0, 160}, {159, 3, 3, 8, 0, 0, 160}, {160, 3, 3, 8, 0, -1, 0},
             /* the clock begins anew */
             {161, 2, 2, 0, 0, 0, 221}, {221, 2, 2, 0, 0, -1, 0},
             /* never below min */
             {400, 1, 1, 0, 0, 0, 1}, {900, 1, 1, 0, 0, 0, 1});
        /* one moment of need starts it again */
        TELL({100, 2, 2, 4, 0, 0, 160}, {150, 2, 2, 5, 0, 0, 1}, {151, 2, 2, 4, 0, 0, 211},
             {160, 2, 2, 4, 0, 0, 211}, {211, 2, 2, 4, 0, -1, 0});
        /* and so does one who waits */
        TELL({100, 2, 2, 4, 0, 0, 160}, {150, 2, 2, 4, 10, 0, 0}, {160, 2, 2, 4, 0, 0, 220});
        /* the cool-down counts here too */
        {
                struct scale s = {0};
                struct scale_policy slow = policy;
                struct scale_facts f = {.replicas = 1, .up = 1, .leased = 4, .slots = 4, .waited = 3 * S};
                usec_t due;

                slow.cooldown = 300 * S;
                assert_int_equal(scale_step(&s, &slow, &f, 100 * S, &due), 1);
                f = (struct scale_facts){.replicas = 2, .up = 2, .slots = 4};
                assert_int_equal(scale_step(&s, &slow, &f, 101 * S, &due), 0);
                assert_true(due == 400 * S);
                assert_int_equal(scale_step(&s, &slow, &f, 399 * S, &due), 0);
                assert_int_equal(scale_step(&s, &slow, &f, 400 * S, &due), -1);
        }
}

static void bounds_that_a_reload_changed(void **state)
{
        struct scale s = {.changed_at = 99 * S};
        struct scale_facts f = {.replicas = 0, .slots = 4};
        usec_t due;

        (void)state;
        assert_int_equal(scale_step(&s, &policy, &f, 100 * S, &due), 1);
        f.replicas = 5;
        f.leased = 20;
        assert_int_equal(scale_step(&s, &policy, &f, 100 * S, &due), -1);
}

static void unknown_slots_count_as_one(void **state)
{
        struct scale s = {0};
        struct scale_facts f = {.replicas = 2, .up = 2, .leased = 2};
        usec_t due;

        (void)state;
        assert_int_equal(scale_step(&s, &policy, &f, 100 * S, &due), 0);
        assert_true(due == USEC_INFINITY);
        f.leased = 1;
        assert_int_equal(scale_step(&s, &policy, &f, 100 * S, &due), 0);
        assert_true(due == 160 * S);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_more_when_somebody_waited),
                cmocka_unit_test(one_less_when_it_was_not_needed),
                cmocka_unit_test(bounds_that_a_reload_changed),
                cmocka_unit_test(unknown_slots_count_as_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
