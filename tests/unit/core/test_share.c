/* test_share.c: free slots split by weight. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/share.h"

static void one_alone_has_everything(void **state)
{
        struct share_taker t[] = {{.weight = 0.5, .most = 100}};

        (void)state;
        share_split(7, t, 1);
        assert_int_equal(t[0].offered, 7);
        t[0].most = 3;
        share_split(7, t, 1);
        assert_int_equal(t[0].offered, 3);
        share_split(7, t, 0);
}

static void busy_ones_share_by_weight(void **state)
{
        struct share_taker t[] = {{.weight = 3, .most = 100}, {.weight = 1, .most = 100}};

        (void)state;
        share_split(8, t, 2);
        assert_int_equal(t[0].offered, 6);
        assert_int_equal(t[1].offered, 2);
        t[0].most = 1; /* what one may not have, the other gets */
        share_split(8, t, 2);
        assert_int_equal(t[0].offered, 1);
        assert_int_equal(t[1].offered, 7);
}

/* One slot at a time, over and over: the turns are as the weights. */
static void turns_are_as_weights(void **state)
{
        struct share_taker t[] = {
                {.weight = 3, .most = 100}, {.weight = 1, .most = 100}, {.weight = 1, .most = 100}};
        unsigned took[3] = {0};

        (void)state;
        for (unsigned i = 0; i < 500; i++) {
                share_split(1, t, 3);
                assert_int_equal(t[0].offered + t[1].offered + t[2].offered, 1);
                for (unsigned k = 0; k < 3; k++)
                        if (t[k].offered) {
                                t[k].time = share_took(t + k, share_least(t, 3));
                                took[k]++;
                        }
        }
        assert_in_range(took[0], 298, 302);
        assert_in_range(took[1], 98, 102);
}

/* An idle one is offered all, costs the others nothing, and saves up nothing. */
static void idle_ones_save_nothing(void **state)
{
        struct share_taker t[] = {{.weight = 1, .most = 100, .time = 50},
                                  {.weight = 1, .most = 100, .idle = true}};

        (void)state;
        share_split(4, t, 2);
        assert_int_equal(t[0].offered, 4);
        assert_int_equal(t[1].offered, 4);
        t[1].time = share_took(t + 1, share_least(t, 2));
        t[1].idle = false;
        assert_true(t[1].time > 50.9 && t[1].time < 51.1);
        share_split(4, t, 2);
        assert_true(t[0].offered + t[1].offered == 4 && t[1].offered >= 1);
        t[0].idle = t[1].idle = true;
        assert_true(share_least(t, 2) < 50.1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(one_alone_has_everything),
                cmocka_unit_test(busy_ones_share_by_weight),
                cmocka_unit_test(turns_are_as_weights),
                cmocka_unit_test(idle_ones_save_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
