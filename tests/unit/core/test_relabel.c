/* test_relabel.c: lines of somebody else's metrics, good and bad. */
#include "core/relabel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

/* All samples of the text with our labels, one after the other. */
static char *relabelled(const char *text)
{
        struct slice rest = slice_str(text);
        struct relabel_line line;
        struct buffer out;

        buffer_init(&out, 0);
        while (relabel_next(&rest, &line))
                if (line.kind == RELABEL_SAMPLE)
                        (void)relabel_put(&out, &line, SLICE("instance=\"q-0\",model=\"q\""));
        return buffer_steal(&out);
}

static void samples(void **state)
{
        static const struct {
                const char *in, *out; /* "" : passed over */
        } cases[] = {
                {"a 1\n", "a{instance=\"q-0\",model=\"q\"} 1\n"},
                {"llamacpp:x_total 12.5", "llamacpp:x_total{instance=\"q-0\",model=\"q\"} 12.5\n"},
                {"a{} 1\n", "a{instance=\"q-0\",model=\"q\"} 1\n"},
                {"a{le=\"+Inf\",} NaN\n", "a{instance=\"q-0\",model=\"q\",le=\"+Inf\"} NaN\n"},
                {"a{b=\"x\\\"}\\\\\\n\",c=\"\"}\t-1e+06 1700000000000\r\n", ""}, /* a control character */
                {"a{b=\"x\\\"}\\\\\\n\",c=\"\"}\t-1e+06 1700000000000\n",
                 "a{instance=\"q-0\",model=\"q\",b=\"x\\\"}\\\\\\n\",c=\"\"} -1e+06\n"},
                {"a{instance=\"evil\"} 1\n", ""},
                {"a{x=\"1\",model=\"evil\"} 1\n", ""},
                {"a{b=\"x} 1\n", ""},
                {"a{b=x} 1\n", ""},
                {"a{b=\"\\q\"} 1\n", ""},
                {"a{b=\"x\"c=\"y\"} 1\n", ""},
                {"a{b=\"x\"}1\n", ""},
                {"a{b=\"x\"\n", ""},
                {"a\n", ""},
                {"a \n", ""},
                {"a one\n", ""},
                {"a 0x10\n", ""},
                {"a 1e\n", ""},
                {"a infinity\n", ""},
                {"9a 1\n", ""},
                {"a-b 1\n", ""},
                {"\xc3\xa4 1\n", ""},
                {"a 1\033\n", ""},
                {"\n\n# nothing\na 1", "a{instance=\"q-0\",model=\"q\"} 1\n"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *out = relabelled(cases[i].in);

                if (strcmp(out ? out : "", cases[i].out) != 0)
                        fail_msg("%s gave %s", cases[i].in, out);
        }
}

static void comments(void **state)
{
        struct slice rest =
                SLICE("# HELP a of  things\n# TYPE a counter\n#HELP b x\n# TYPE  c  gauge\n# EOF\n");
        struct relabel_line line;

        (void)state;
        assert_true(relabel_next(&rest, &line));
        assert_int_equal(line.kind, RELABEL_HELP);
        assert_true(slice_eq_str(line.name, "a"));
        assert_true(slice_eq_str(line.text, "of  things"));
        assert_true(relabel_next(&rest, &line));
        assert_int_equal(line.kind, RELABEL_TYPE);
        assert_true(slice_eq_str(line.text, "counter"));
        assert_true(relabel_next(&rest, &line));
        assert_true(slice_eq_str(line.name, "c"));
        assert_true(slice_eq_str(line.text, "gauge"));
        assert_false(relabel_next(&rest, &line));
}

static void families(void **state)
{
        static const struct {
                const char *sample, *family, *type;
                bool is;
        } cases[] = {
                {"a", "a", "counter", true},          {"a_sum", "a", "counter", false},
                {"ab", "a", "counter", false},        {"b", "a", "gauge", false},
                {"a_sum", "a", "histogram", true},    {"a_bucket", "a", "histogram", true},
                {"a", "a", "histogram", false},       {"a_bucket", "a", "summary", false},
                {"a", "a", "summary", true},          {"a_count", "a", "summary", true},
                {"a_counted", "a", "summary", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_int_equal(relabel_is_of(slice_str(cases[i].sample), slice_str(cases[i].family),
                                               slice_str(cases[i].type)),
                                 cases[i].is);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(samples),
                cmocka_unit_test(comments),
                cmocka_unit_test(families),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
