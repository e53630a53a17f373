/* test_text.c: what untrusted programs write is made harmless; sizes, spans, names and near words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <time.h>

#include <cmocka.h>
#include <errno.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/text.h"
#include "base/time.h"

static void harmless(void **state)
{
        static const struct {
                const char *in, *out;
        } rows[] = {
                {"plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "plain \xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
                {"a\033[31mred\033[0m", "ared"},
                {"\033]0;title\aafter", "after"},
                {"\033]8;;http://x\033\\link", "link"},
                {"\033Pq#0\033\\x", "x"},
                {"a\033", "a"},
                {"a\033[1;2", "a"},
                {"tab\tstays, bell\agoes\r\n", "tab\tstays, bell?goes??"},
                {"c1 \xc2\x9b"
                 "31m",
                 "c1 ?31m"},
                {"\x9b"
                 "31m",
                 "?31m"},
                {"del\x7f", "del?"},
                {"bidi \xe2\x80\xae"
                 "gpj.exe \xe2\x81\xa6x",
                 "bidi ?gpj.exe ?x"},
                {"broken \xc3(", "broken ?("},
                {"overlong \xc0\xaf", "overlong ??"},
                {"surrogate \xed\xa0\x80", "surrogate ???"},
                {"cut \xe2\x82", "cut ??"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_free_ char *s = strdup(rows[i].in);

                assert_int_equal(text_harmless(s), strlen(rows[i].out));
                assert_string_equal(s, rows[i].out);
        }
}

static void json_strings_carry_no_control(void **state)
{
        struct json_writer w;
        struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_put_string(&w, "\"\\\n\t\x01\x7f\xc2\x9b"
                            "31m\xc3\xa4\xff");
        assert_string_equal(b.data, "\"\\\"\\\\\\n\\t\\u0001\\u007f\\u009b31m\xc3\xa4\xef\xbf\xbd\"");
        buffer_finish(&b);
}

static void sizes(void **state)
{
        char text[16];
        uint64_t v;

        (void)state;
        assert_int_equal(text_parse_size("24G", &v), 0);
        assert_int_equal(v, UINT64_C(24) << 30);
        assert_int_equal(text_parse_size("1.5k", &v), 0);
        assert_int_equal(v, 1536);
        assert_int_equal(text_parse_size("512MiB", &v), 0);
        assert_int_equal(v, 512 << 20);
        assert_int_equal(text_parse_size("", &v), -EINVAL);
        assert_int_equal(text_parse_size("-1", &v), -EINVAL);
        assert_int_equal(text_parse_size("1X", &v), -EINVAL);
        assert_int_equal(text_parse_size("0.5", &v), -EINVAL);
        assert_int_equal(text_parse_size("99999999999T", &v), -ERANGE);
        assert_string_equal(text_size(0, text, sizeof text), "0 B");
        assert_string_equal(text_size(278000, text, sizeof text), "271 KB");
        assert_string_equal(text_size(UINT64_C(23) << 30, text, sizeof text), "23.0 GB");
}

static void spans(void **state)
{
        char text[TIME_SPAN_MAX];
        usec_t v;

        (void)state;
        assert_int_equal(time_parse_span("500ms", &v), 0);
        assert_int_equal(v, 500000);
        assert_int_equal(time_parse_span("1.5s", &v), 0);
        assert_int_equal(v, 1500000);
        assert_int_equal(time_parse_span("0", &v), 0);
        assert_int_equal(v, 0);
        assert_int_equal(time_parse_span("5", &v), -EINVAL);
        assert_int_equal(time_parse_span("s", &v), -EINVAL);
        assert_int_equal(time_parse_span("5 s", &v), -EINVAL);
        assert_int_equal(time_parse_span("99999999999999d", &v), -ERANGE);
        assert_string_equal(time_span(250 * USEC_PER_MSEC, text, sizeof text), "250 ms");
        assert_string_equal(time_span(1500 * USEC_PER_MSEC, text, sizeof text), "1.5 s");
        assert_string_equal(time_span(4 * USEC_PER_HOUR + 12 * USEC_PER_MIN, text, sizeof text), "4h12m");
        assert_int_equal(usec_add(USEC_INFINITY, 1), USEC_INFINITY);
        assert_int_equal(usec_sub(1, 2), 0);
}

static void names(void **state)
{
        static const char *const known[] = {"replicas", "model", "args", NULL};

        (void)state;
        assert_string_equal(text_nearest("replcas", known), "replicas");
        assert_string_equal(text_nearest("modle", known), "model");
        assert_null(text_nearest("xyz", known));
        assert_true(text_is_name("qwen2.5-7b"));
        assert_false(text_is_name(""));
        assert_false(text_is_name(".x"));
        assert_false(text_is_name("a/b"));
        assert_false(text_is_name("0123456789012345678901234567890123456789012345678901234567890123"));
}

/* Of this thread, the least of some tries. */
static uint64_t cpu_of_nearest(const char *word, const char *const *names)
{
        uint64_t least = UINT64_MAX;

        for (unsigned i = 0; i < 7; i++) {
                struct timespec a, b;

                (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
                assert_null(text_nearest(word, names));
                (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
                least = MIN(least, (uint64_t)((b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec));
        }
        return least;
}

/* A name that is far too long or short for the word costs a look, not a distance: a thousand are asked for on the loop. */
static void far_names_cost_nothing(void **state)
{
        enum { N = 1000 };
        static const char *near[N + 1], *far[N + 1];

        (void)state;
        for (unsigned i = 0; i < N; i++) {
                near[i] = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";
                far[i] = "ffffffffffffffffffffffffffffff";
        }
        /* Distances to names of half the length would cost half as much; it is less than a hundredth. */
        assert_true(cpu_of_nearest("wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww", far) * 10 <
                    cpu_of_nearest("wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww", near));
}

static void a_buffer_keeps_its_bound(void **state)
{
        struct buffer b;

        (void)state;
        buffer_init(&b, 4);
        assert_int_equal(buffer_puts(&b, "abcd"), 0);
        assert_int_equal(buffer_puts(&b, "e"), -ENOBUFS);
        assert_true(b.failed);
        assert_string_equal(b.data, "abcd");
        assert_int_equal(buffer_puts(&b, ""), -ENOBUFS); /* stays failed */
        buffer_clear(&b);
        assert_int_equal(buffer_printf(&b, "%d", 12), 0);
        buffer_consume(&b, 1);
        assert_string_equal(b.data, "2");
        buffer_finish(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(harmless),
                cmocka_unit_test(json_strings_carry_no_control),
                cmocka_unit_test(sizes),
                cmocka_unit_test(spans),
                cmocka_unit_test(names),
                cmocka_unit_test(a_buffer_keeps_its_bound),
                cmocka_unit_test(far_names_cost_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
