/* test_nats_places.c: numbers that find what they were given for, and nothing else, ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "hub/nats_places.h"

static void test_numbers(void **state)
{
        struct places p = {0};
        static char things[1000];
        uint64_t n[1000], again;

        (void)state;
        assert_null(places_get(&p, 0));
        places_drop(&p, 0);
        for (size_t i = 0; i < 1000; i++)
                assert_int_equal(places_put(&p, &things[i], &n[i]), 0);
        for (size_t i = 0; i < 1000; i++)
                assert_ptr_equal(places_get(&p, n[i]), &things[i]);
        /* A place that is given away again has another number, and the old one finds nobody. */
        for (size_t i = 0; i < 1000; i += 2)
                places_drop(&p, n[i]);
        for (size_t i = 0; i < 1000; i++)
                assert_ptr_equal(places_get(&p, n[i]), i % 2 ? &things[i] : NULL);
        for (size_t i = 0; i < 1000; i += 2) {
                assert_int_equal(places_put(&p, &things[i], &again), 0);
                assert_ptr_equal(places_get(&p, again), &things[i]);
                assert_null(places_get(&p, n[i]));
                places_drop(&p, n[i]);
                assert_ptr_equal(places_get(&p, again), &things[i]);
        }
        assert_true(p.cap == 1024);
        places_finish(&p);
}

static void test_bound(void **state)
{
        struct places p = {0};
        uint64_t n = 0;
        int thing = 0;

        (void)state;
        for (size_t i = 0; i < PLACES_MAX; i++)
                assert_int_equal(places_put(&p, &thing, &n), 0);
        assert_int_equal(places_put(&p, &thing, &n), -ENOBUFS);
        places_drop(&p, n);
        assert_int_equal(places_put(&p, &thing, &n), 0);
        assert_ptr_equal(places_get(&p, n), &thing);
        places_finish(&p);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_numbers), cmocka_unit_test(test_bound)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
