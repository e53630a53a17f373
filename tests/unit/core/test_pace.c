/* test_pace.c: moments an interval apart, spread evenly, whatever the daemon was busy with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/pace.h"

static const usec_t intervals[] = {10 * USEC_PER_MSEC, 999983, USEC_PER_SEC, 3600 * USEC_PER_SEC};

static void test_next_is_later_and_at_most_an_interval_away(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(intervals); i++)
                for (uint32_t n = 0; n < 100; n++) {
                        usec_t interval = intervals[i], after = n * 77777, next;

                        next = pace_next(after, interval, pace_spread(n));
                        assert_true(next > after);
                        assert_true(next - after <= interval);
                }
}

static void test_moments_are_an_interval_apart(void **state)
{
        usec_t first = pace_next(5, USEC_PER_SEC, pace_spread(3));

        (void)state;
        /* Asked at the moment, or somewhat late: the next one is where it would have been. */
        assert_int_equal(pace_next(first, USEC_PER_SEC, pace_spread(3)), first + USEC_PER_SEC);
        assert_int_equal(pace_next(first + 300000, USEC_PER_SEC, pace_spread(3)), first + USEC_PER_SEC);
        assert_int_equal(pace_next(first + 2500000, USEC_PER_SEC, pace_spread(3)), first + 3 * USEC_PER_SEC);
}

/* All were asked at once, after the daemon had been held up: their next moments lie evenly in the interval. */
static void test_a_crowd_is_spread_again(void **state)
{
        static unsigned at[PACE_MOMENTS];
        enum { CROWD = 1000 };

        (void)state;
        for (uint32_t n = 0; n < CROWD; n++) {
                usec_t next = pace_next(123456789, USEC_PER_SEC, pace_spread(n));

                at[(next - 123456789 - 1) * PACE_MOMENTS / USEC_PER_SEC]++;
        }
        for (size_t i = 0; i < PACE_MOMENTS; i++) {
                assert_in_range(at[i], CROWD / PACE_MOMENTS - 3, CROWD / PACE_MOMENTS + 4);
        }
}

static void test_a_few_are_far_apart(void **state)
{
        usec_t moments[8];

        (void)state;
        for (uint32_t n = 0; n < ARRAY_SIZE(moments); n++) {
                moments[n] = pace_next(0, USEC_PER_SEC, pace_spread(n)) % USEC_PER_SEC;
                for (uint32_t k = 0; k < n; k++) {
                        usec_t apart = MAX(moments[n], moments[k]) - MIN(moments[n], moments[k]);

                        assert_true(MIN(apart, USEC_PER_SEC - apart) >= USEC_PER_SEC / PACE_MOMENTS);
                }
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_next_is_later_and_at_most_an_interval_away),
                cmocka_unit_test(test_moments_are_an_interval_apart),
                cmocka_unit_test(test_a_crowd_is_spread_again),
                cmocka_unit_test(test_a_few_are_far_apart),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
