/* test_index.c: values by name. */
#include "base/index.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/macros.h"

static void empty(void **state)
{
        struct index x = {0};

        (void)state;
        assert_null(index_get(&x, "a"));
        index_clear(&x);
        index_finish(&x);
        assert_null(index_get(&x, ""));
}

static void what_was_put_is_found(void **state)
{
        enum { N = 3000 };
        static char names[N][12];
        static int values[N];
        _cleanup_index_ struct index x = {0};
        size_t cap;

        (void)state;
        for (int i = 0; i < N; i++) {
                (void)snprintf(names[i], sizeof names[i], "n%d", i);
                assert_int_equal(index_put(&x, names[i], values + i), 0);
        }
        for (int i = 0; i < N; i++) {
                char name[12];

                (void)snprintf(name, sizeof name, "n%d", i); /* another string with the same text */
                assert_ptr_equal(index_get(&x, name), values + i);
        }
        assert_null(index_get(&x, "n3000"));
        assert_null(index_get(&x, ""));
        assert_int_equal(index_put(&x, "n7", values), -EEXIST);
        assert_ptr_equal(index_get(&x, "n7"), values + 7);
        assert_int_equal(x.n, N);
        cap = x.cap;
        index_clear(&x);
        assert_null(index_get(&x, "n7"));
        for (int i = 0; i < N; i++)
                assert_int_equal(index_put(&x, names[i], values + i), 0);
        assert_int_equal(x.cap, cap);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(empty),
                cmocka_unit_test(what_was_put_is_found),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
