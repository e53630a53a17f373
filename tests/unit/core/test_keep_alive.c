/* test_keep_alive.c: what a request may say of how long its model stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "core/keep_alive.h"

#define S USEC_PER_SEC

static void what_counts(void **state)
{
        static const struct {
                const char *value;
                usec_t is;
        } cases[] = {
                {"0", 0},
                {"-0", 0},
                {"300", 300 * S},
                {"1.5", 1500000},
                {"3e2", 300 * S},
                {"25e-1", 2500000},
                {"-1", KEEP_ALIVE_FOREVER},
                {"-0.5", KEEP_ALIVE_FOREVER},
                {"\"0\"", 0},
                {"\"5m\"", 300 * S},
                {"\"1h30m\"", 5400 * S},
                {"\"250ms\"", 250000},
                {"\"1.5s\"", 1500000},
                {"\".5s\"", 500000},
                {"\"3us\"", 3},
                {"\"3\xc2\xb5s\"", 3},
                {"\"1000ns\"", 1},
                {"\"+5m\"", 300 * S},
                {"\"-1m\"", KEEP_ALIVE_FOREVER},
                {"\"-1\"", KEEP_ALIVE_FOREVER},
                {"\"600\"", 600 * S},
                {"1e300", KEEP_ALIVE_FOREVER},
                {"9999999999999999999999999999999999999999", KEEP_ALIVE_FOREVER},
                {"1e9999999999", KEEP_ALIVE_FOREVER},
                {"1e-9999999999", 0},
                {"null", KEEP_ALIVE_NONE},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                usec_t v = 42;

                if (keep_alive_parse(slice_str(cases[i].value), &v) < 0)
                        fail_msg("%s is refused", cases[i].value);
                if (v != cases[i].is)
                        fail_msg("%s is %llu", cases[i].value, (unsigned long long)v);
        }
}

static void what_does_not(void **state)
{
        static const char *const bad[] = {
                "",   "\"\"",  "\"",       "-",       "\"-\"",  "true",    "{}",  "[5]",     "\"5\"m",
                "5m", "\"m\"", "\"5x\"",   "\"5 m\"", "\"m5\"", "\"5m \"", "nan", "\"nan\"", "\"inf\"",
                "+5", "0x10",  "\"0x1s\"", "1e",      "e5",     "\"1e3\"", ".",   "\"5mm\"", "\"--5m\"",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                usec_t v = 42;

                if (keep_alive_parse(slice_str(bad[i]), &v) != -EINVAL)
                        fail_msg("%s is taken", bad[i]);
                assert_int_equal(v, 42);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_counts),
                cmocka_unit_test(what_does_not),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
