/* test_freeing.c: when the memory of a GPU counts as free again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/freeing.h"

#define MS USEC_PER_MSEC
#define S  USEC_PER_SEC

static void nothing_is_awaited(void **state)
{
        struct freeing f = {0};

        (void)state;
        assert_true(freeing_is_over(&f, 5000, S));
        freeing_begin(&f, 0, 100, false, S); /* a driver that tells nothing */
        assert_true(freeing_is_over(&f, 0, S));
}

static void half_of_it_is_enough(void **state)
{
        struct freeing f;

        (void)state;
        freeing_begin(&f, 1000, 600, false, S);
        assert_false(freeing_is_over(&f, 1000, S + 100 * MS));
        assert_false(freeing_is_over(&f, 750, S + 200 * MS));
        assert_true(freeing_is_over(&f, 700, S + 300 * MS));
        assert_true(freeing_is_over(
                &f, 1000, S + 400 * MS)); /* somebody else took some: that is not ours to wait for */
}

static void a_wrong_guess_ends_when_nothing_moves(void **state)
{
        struct freeing f;

        (void)state;
        freeing_begin(&f, 1000, 900, false, S);
        assert_false(freeing_is_over(&f, 1000, S + 400 * MS));
        assert_false(freeing_is_over(&f, 950, S + 450 * MS));
        assert_false(freeing_is_over(&f, 950, S + 900 * MS));
        assert_true(freeing_is_over(&f, 950, S + 950 * MS));
}

static void patience_has_an_end(void **state)
{
        struct freeing f;
        usec_t now = S;
        uint64_t used = 100000;

        (void)state;
        freeing_begin(&f, used, 90000, false, now);
        for (; now < 11 * S; now += 100 * MS, used--)
                assert_false(freeing_is_over(&f, used, now));
        assert_true(freeing_is_over(&f, used, now));
}

static void what_the_driver_told_is_waited_for(void **state)
{
        struct freeing f;

        (void)state;
        freeing_begin(&f, 1000, 800, true, S);
        assert_false(freeing_is_over(&f, 1000, S + 100 * MS));
        assert_false(freeing_is_over(&f, 1000, 6 * S)); /* that nothing moves says nothing */
        assert_false(freeing_is_over(&f, 301, 7 * S));
        assert_true(freeing_is_over(&f, 300, 8 * S));
        assert_false(f.is_late);
        freeing_begin(&f, 1000, 800, true, S);
        assert_false(freeing_is_over(&f, 400, 11 * S - 1));
        assert_true(freeing_is_over(&f, 400, 11 * S));
        assert_true(f.is_late);
        assert_true(freeing_is_over(&f, 400, 12 * S));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nothing_is_awaited),
                cmocka_unit_test(half_of_it_is_enough),
                cmocka_unit_test(a_wrong_guess_ends_when_nothing_moves),
                cmocka_unit_test(patience_has_an_end),
                cmocka_unit_test(what_the_driver_told_is_waited_for),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
