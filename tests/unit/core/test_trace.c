/* test_trace.c: traceparent as W3C Trace Context wants it read. */
#include "core/trace.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ID     "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"

static void well_formed(void **state)
{
        static const struct {
                const char *value;
                bool sampled;
        } cases[] = {
                {"00-" ID "-" PARENT "-01", true},  {"00-" ID "-" PARENT "-00", false},
                {"00-" ID "-" PARENT "-ff", true},  {"00-" ID "-" PARENT "-fe", false},
                {"01-" ID "-" PARENT "-01", true},  {"cc-" ID "-" PARENT "-01-what-the-future-brings", true},
                {"cc-" ID "-" PARENT "-03-", true},
        };
        struct trace t;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                if (trace_parse(slice_str(cases[i].value), &t) < 0)
                        fail_msg("%s", cases[i].value);
                assert_string_equal(t.id, ID);
                assert_int_equal(t.sampled, cases[i].sampled);
                assert_int_equal(strlen(t.parent), TRACE_PARENT_MAX - 1);
                assert_memory_equal(t.parent, "00-" ID "-" PARENT, 52);
        }
}

static void others(void **state)
{
        static const char *const cases[] = {
                "",
                "00",
                "00-1",
                ID,
                "ff-" ID "-" PARENT "-01",
                "00-" ID "-" PARENT "-01-more",
                "00-" ID "-" PARENT "-01 ",
                "01-" ID "-" PARENT "-01more",
                "00-00000000000000000000000000000000-" PARENT "-01",
                "00-" ID "-0000000000000000-01",
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01",
                "00-4bf92f3577b34da6a3ce929d0e0e473g-" PARENT "-01",
                "00-" ID "-" PARENT "-0",
                "00-" ID "-" PARENT "-zz",
                "00_" ID "-" PARENT "-01",
                "0x-" ID "-" PARENT "-01",
                "00-" ID "\n" PARENT "-01",
        };
        struct trace t;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                if (trace_parse(slice_str(cases[i]), &t) != -EINVAL)
                        fail_msg("%s", cases[i]);
                assert_string_equal(t.id, "");
                assert_false(t.sampled);
        }
}

static void of_headers(void **state)
{
        const struct http1_header one[] = {{SLICE("Accept"), SLICE("*/*")},
                                           {SLICE("TraceParent"), SLICE("00-" ID "-" PARENT "-01")}},
                                  two[] = {one[1], one[0], one[1]};
        struct trace t;

        (void)state;
        trace_of(one, 2, &t);
        assert_string_equal(t.id, ID);
        assert_true(t.sampled);
        trace_of(one, 1, &t);
        assert_string_equal(t.id, "");
        trace_of(two, 3, &t);
        assert_string_equal(t.id, "");
        assert_false(t.sampled);
        trace_of(NULL, 0, &t);
        assert_string_equal(t.id, "");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(well_formed),
                cmocka_unit_test(others),
                cmocka_unit_test(of_headers),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
