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

                        next = pace_next(after, interval, pace_spread(n * 7));
                        assert_true(next > after);
                        assert_true(next - after <= interval);
                }
}

static void test_moments_are_an_interval_apart(void **state)
{
        usec_t first = pace_next(5, USEC_PER_SEC, pace_spread(30));

        (void)state;
        /* Asked at the moment, or somewhat late: the next one is where it would have been. */
        assert_int_equal(pace_next(first, USEC_PER_SEC, pace_spread(30)), first + USEC_PER_SEC);
        assert_int_equal(pace_next(first + 300000, USEC_PER_SEC, pace_spread(30)), first + USEC_PER_SEC);
        assert_int_equal(pace_next(first + 2500000, USEC_PER_SEC, pace_spread(30)), first + 3 * USEC_PER_SEC);
}

/* All were asked at once, after the daemon had been held up: their next moments lie evenly in the interval. */
static void test_a_crowd_is_spread_again(void **state)
{
        static unsigned at[PACE_MOMENTS];
        enum { CROWD = 1024 };

        (void)state;
        for (uint32_t n = 0; n < CROWD; n++) {
                usec_t next = pace_next(123456789, USEC_PER_SEC, pace_spread(n));

                at[(next - 123456789 - 1) * PACE_MOMENTS / USEC_PER_SEC]++;
        }
        for (size_t i = 0; i < PACE_MOMENTS; i++)
                assert_in_range(at[i], CROWD / PACE_MOMENTS - PACE_TOGETHER,
                                CROWD / PACE_MOMENTS + PACE_TOGETHER);
}

/* Each wake-up costs: a handful share one. The next handful is far from it. */
static void test_a_few_are_together(void **state)
{
        usec_t moments[4];

        (void)state;
        for (uint32_t n = 0; n < ARRAY_SIZE(moments) * PACE_TOGETHER; n++) {
                usec_t moment = pace_next(0, USEC_PER_SEC, pace_spread(n)) % USEC_PER_SEC;

                if (n % PACE_TOGETHER)
                        assert_int_equal(moment, moments[n / PACE_TOGETHER]);
                moments[n / PACE_TOGETHER] = moment;
                for (uint32_t k = 0; k < n / PACE_TOGETHER; k++) {
                        usec_t apart = MAX(moment, moments[k]) - MIN(moment, moments[k]);

                        assert_true(MIN(apart, USEC_PER_SEC - apart) >= USEC_PER_SEC / 10);
                }
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_next_is_later_and_at_most_an_interval_away),
                cmocka_unit_test(test_moments_are_an_interval_apart),
                cmocka_unit_test(test_a_crowd_is_spread_again),
                cmocka_unit_test(test_a_few_are_together),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
