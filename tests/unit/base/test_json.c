/* test_json.c: the strict scanner against a table in the manner of JSONTestSuite, json-c agreeing with it, and the readers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/json_scan.h"
#include "base/macros.h"

#define TEXT(s) s, sizeof(s) - 1

static const struct {
        const char *text;
        size_t len;
} good[] = {
        {TEXT("{}")},
        {TEXT("[]")},
        {TEXT(" \t\r\n[ ] \n")},
        {TEXT("\"\"")},
        {TEXT("0")},
        {TEXT("-0")},
        {TEXT("123")},
        {TEXT("-1.5e+10")},
        {TEXT("1E5")},
        {TEXT("1e-2")},
        {TEXT("0.25")},
        {TEXT("123456789012345678901234567890")},
        {TEXT("1e999")},
        {TEXT("true")},
        {TEXT("false")},
        {TEXT("null")},
        {TEXT("[null, 1, \"1\", {}]")},
        {TEXT("[[[[[[]]]]]]")},
        {TEXT("{\"a\":1,\"b\":{\"a\":1}}")},
        {TEXT("{\"\":0}")},
        {TEXT("{\"a\":{\"x\":1},\"b\":{\"x\":1}}")},
        {TEXT("[{\"x\":1},{\"x\":1}]")},
        {TEXT("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"")},
        {TEXT("\"\\u0000\"")},
        {TEXT("\"\\u00e9\\uD834\\uDD1E\"")},
        {TEXT("\"\xc3\xa9\xe2\x82\xac\xf0\x9d\x84\x9e\"")},
        {TEXT("\"\x7f\"")},
        {TEXT("\"\xef\xbf\xbf\"")},
        {TEXT("\"\xf4\x8f\xbf\xbf\"")},
        {TEXT("\"/*\"")},
        {TEXT("\"'\"")},
        {TEXT("[1,2 , 3\n]")},
        {TEXT("{\"a\" : 1}")},
        {TEXT("[\"a\\u0020b\"]")},
};

static const struct {
        const char *text;
        size_t len, offset;
        const char *message;
} bad[] = {
        {TEXT(""), 0, "expected a value, found the end of the text"},
        {TEXT("  "), 2, "expected a value, found the end of the text"},
        {TEXT("["), 1, "']' is missing"},
        {TEXT("{"), 1, "'}' is missing"},
        {TEXT("[1"), 2, "']' is missing"},
        {TEXT("{\"a\""), 4, "'}' is missing"},
        {TEXT("{\"a\":"), 5, "'}' is missing"},
        {TEXT("]"), 0, "expected a value"},
        {TEXT("}"), 0, "expected a value"},
        {TEXT("[}"), 1, "expected a value"},
        {TEXT("{]"), 1, "expected a key in double quotes"},
        {TEXT("[1}"), 2, "expected ',' or ']'"},
        {TEXT("{\"a\":1]"), 6, "expected ',' or '}'"},
        {TEXT("[1 2]"), 3, "expected ',' or ']'"},
        {TEXT("[1,]"), 2, "trailing comma"},
        {TEXT("[1,\n ]"), 2, "trailing comma"},
        {TEXT("{\"a\":1,}"), 6, "trailing comma"},
        {TEXT("[,1]"), 1, "expected a value"},
        {TEXT("[1,,2]"), 3, "expected a value"},
        {TEXT("{,}"), 1, "expected a key in double quotes"},
        {TEXT("{a:1}"), 1, "expected a key in double quotes"},
        {TEXT("{'a':1}"), 1, "expected a key in double quotes"},
        {TEXT("{1:1}"), 1, "expected a key in double quotes"},
        {TEXT("{\"a\" 1}"), 5, "expected ':'"},
        {TEXT("{\"a\"::1}"), 5, "expected a value"},
        {TEXT("{\"a\"}"), 4, "expected ':'"},
        {TEXT("['a']"), 1, "strings need double quotes"},
        {TEXT("[a]"), 1, "unknown word (strings need double quotes)"},
        {TEXT("True"), 0, "unknown word (strings need double quotes)"},
        {TEXT("nul"), 0, "unknown word (strings need double quotes)"},
        {TEXT("nulll"), 0, "unknown word (strings need double quotes)"},
        {TEXT("NaN"), 0, "unknown word (strings need double quotes)"},
        {TEXT("Infinity"), 0, "unknown word (strings need double quotes)"},
        {TEXT("-Infinity"), 0, "malformed number"},
        {TEXT("-"), 0, "malformed number"},
        {TEXT("+1"), 0, "expected a value"},
        {TEXT("01"), 0, "number with a leading zero"},
        {TEXT("-01"), 0, "number with a leading zero"},
        {TEXT("1."), 0, "malformed number"},
        {TEXT(".5"), 0, "expected a value"},
        {TEXT("1.e5"), 0, "malformed number"},
        {TEXT("1e"), 0, "malformed number"},
        {TEXT("1e+"), 0, "malformed number"},
        {TEXT("0x10"), 0, "malformed number (durations and sizes are strings: \"5s\", \"24G\")"},
        {TEXT("[5s]"), 1, "malformed number (durations and sizes are strings: \"5s\", \"24G\")"},
        {TEXT("1.2.3"), 0, "malformed number (durations and sizes are strings: \"5s\", \"24G\")"},
        {TEXT("1 2"), 2, "text behind the end of the value"},
        {TEXT("{} x"), 3, "text behind the end of the value"},
        {TEXT("[]]"), 2, "text behind the end of the value"},
        {TEXT("\""), 0, "string without end"},
        {TEXT("\"abc"), 0, "string without end"},
        {TEXT("\"abc\\"), 4, "string without end"},
        {TEXT("\"abc\n\""), 0, "string without end on its line"},
        {TEXT("\"a\tb\""), 2, "control character in a string"},
        {TEXT("\"a\0b\""), 2, "control character in a string"},
        {TEXT("[1\0]"), 2, "expected ',' or ']'"},
        {TEXT("\"\\x\""), 1, "unknown escape"},
        {TEXT("\"\\'\""), 1, "unknown escape"},
        {TEXT("\"\\\0\""), 1, "unknown escape"},
        {TEXT("\"\\u12\""), 1, "malformed \\u escape"},
        {TEXT("\"\\u12G4\""), 1, "malformed \\u escape"},
        {TEXT("\"\\ud800\""), 1, "lone surrogate"},
        {TEXT("\"\\ud800x\""), 1, "lone surrogate"},
        {TEXT("\"\\ud800\\n\""), 1, "lone surrogate"},
        {TEXT("\"\\ud800\\ud800\""), 1, "lone surrogate"},
        {TEXT("\"\\udc00\""), 1, "lone surrogate"},
        {TEXT("\"\\ud834\\udd1\""), 1, "lone surrogate"},
        {TEXT("\"\xff\""), 1, "broken UTF-8"},
        {TEXT("\"\xc0\xaf\""), 1, "broken UTF-8"},
        {TEXT("\"\xe2\x82\""), 1, "broken UTF-8"},
        {TEXT("\"\xed\xa0\x80\""), 1, "broken UTF-8"},
        {TEXT("\"\xf4\x90\x80\x80\""), 1, "broken UTF-8"},
        {TEXT("\"\xf0\x9d\x84"), 1, "broken UTF-8"},
        {TEXT("\xef\xbb\xbf{}"), 0, "byte order mark"},
        {TEXT("\xc2\xa0[]"), 0, "expected a value"},
        {TEXT("[] // x"), 3, "text behind the end of the value"},
        {TEXT("/* x */ []"), 0, "expected a value"},
        {TEXT("{\"a\":1,\"a\":2}"), 7, "duplicate key"},
        {TEXT("{\"a\":1,\"\\u0061\":2}"), 7, "duplicate key"},
        {TEXT("{\"\\/\":1,\"/\":2}"), 8, "duplicate key"},
        {TEXT("{\"\\ud834\\udd1e\":[],\"\xf0\x9d\x84\x9e\":{}}"), 19, "duplicate key"},
        {TEXT("{\"\":1,\"\":2}"), 6, "duplicate key"},
        {TEXT("[{\"x\":{\"a\":[1,2,{}],\"b\":0,\"a\":2}}]"), 26, "duplicate key"},
        {TEXT("{\"a\\u0000\":1}"), 3, "NUL in a key"},
};

static void the_grammar_is_accepted(void **state)
{
        struct json_error e;
        struct json_value *v;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
                struct json_scan scan;

                if (json_check(good[i].text, good[i].len, &e) != 0)
                        fail_msg("refused: %s (%s at %zu)", good[i].text, e.message, e.offset);
                assert_int_equal(json_scan(&scan, good[i].text, good[i].len, 0, 1000, &e), 0);
                assert_int_equal(scan.tokens[0].next, scan.count);
                json_scan_finish(&scan);
                if (json_parse(good[i].text, good[i].len, &v, &e) != 0)
                        fail_msg("json-c refused: %s", good[i].text);
                json_free(v);
        }
}

static void all_else_is_refused_where_it_goes_wrong(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct json_error e = {0}, f = {0};
                struct json_value *v = (void *)1;
                struct json_scan scan;

                if (json_check(bad[i].text, bad[i].len, &e) != -EBADMSG)
                        fail_msg("accepted: %s", bad[i].text);
                if (e.offset != bad[i].offset || !streq(e.message, bad[i].message))
                        fail_msg("%s: %s at %zu, expected %s at %zu", bad[i].text, e.message, e.offset,
                                 bad[i].message, bad[i].offset);
                assert_int_equal(json_scan(&scan, bad[i].text, bad[i].len, 0, 1000, &f), -EBADMSG);
                assert_int_equal(f.offset, e.offset);
                assert_int_equal(scan.count, 0);
                assert_int_equal(json_parse(bad[i].text, bad[i].len, &v, NULL), -EBADMSG);
                assert_ptr_equal(v, (void *)1);
        }
}

static void depth_is_bounded(void **state)
{
        char text[2 * JSON_DEPTH_MAX + 8];
        struct json_value *v;
        struct json_error e;

        (void)state;
        memset(text, '[', JSON_DEPTH_MAX);
        memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
        assert_int_equal(json_parse(text, 2 * JSON_DEPTH_MAX, &v, &e), 0);
        json_free(v);
        memset(text, '[', JSON_DEPTH_MAX + 1);
        memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
        assert_int_equal(json_check(text, 2 * JSON_DEPTH_MAX + 2, &e), -EBADMSG);
        assert_string_equal(e.message, "nested too deeply");
        assert_int_equal(e.offset, JSON_DEPTH_MAX);
}

static void many_keys_are_compared_too(void **state)
{
        struct buffer b;
        struct json_error e;
        size_t second = 0;

        (void)state;
        for (int dup = 0; dup < 2; dup++) {
                buffer_init(&b, 0);
                (void)buffer_putc(&b, '{');
                for (int i = 0; i < 5000; i++) {
                        if (i == 4000)
                                second = b.len;
                        (void)buffer_printf(&b, "\"k%d\":%d,", dup && i == 4000 ? 17 : i, i);
                }
                (void)buffer_puts(&b, "\"z\":0}");
                assert_false(b.failed);
                assert_int_equal(json_check(b.data, b.len, &e), dup ? -EBADMSG : 0);
                if (dup)
                        assert_int_equal(e.offset, second);
                buffer_finish(&b);
        }
}

static void tokens_tell_where(void **state)
{
        static const char text[] = "// c\n{\"a\": [1, \"x\\u00e9\"], /* b */ \"b\": {\"c\": null}}";
        struct json_error e;
        struct json_scan s;
        unsigned line, column;
        size_t first, second;
        char out[32];

        (void)state;
        assert_int_equal(json_scan(&s, TEXT(text), 0, 100, &e), -EBADMSG);
        assert_int_equal(json_scan(&s, TEXT(text), JSON_SCAN_COMMENTS, 100, &e), 0);
        assert_int_equal(s.count, 9);
        assert_int_equal(s.tokens[0].type, JSON_OBJECT);
        assert_int_equal(s.tokens[0].count, 2);
        assert_int_equal(s.tokens[2].type, JSON_ARRAY);
        assert_int_equal(s.tokens[2].count, 2);
        assert_int_equal(s.tokens[2].next, 5);
        assert_int_equal(s.tokens[3].type, JSON_NUMBER);
        assert_int_equal(json_scan_string(&s, 4, out), 3);
        assert_string_equal(out, "x\xc3\xa9");
        assert_int_equal(s.tokens[8].type, JSON_NULL);
        json_position(text, s.tokens[5].start, &line, &column);
        assert_int_equal(line, 2);
        assert_int_equal(column, 31);
        json_scan_finish(&s);
        /* A column is a character. */
        json_position("\n\"\xc3\xa9\xe2\x82\xac\"!", 8, &line, &column);
        assert_int_equal(line, 2);
        assert_int_equal(column, 5);
        assert_int_equal(json_scan(&s, TEXT("[1,2,3]"), 0, 3, &e), -EBADMSG);
        assert_string_equal(e.message, "too many values");
        assert_int_equal(json_scan(&s, TEXT("/* x"), JSON_SCAN_COMMENTS, 3, &e), -EBADMSG);
        assert_string_equal(e.message, "comment without end");
        assert_int_equal(json_scan(&s, TEXT("/x"), JSON_SCAN_COMMENTS, 3, &e), -EBADMSG);
        assert_string_equal(e.message, "unexpected character");
        assert_int_equal(
                json_scan(&s, TEXT("{\"a\":{\"a\":1},\"b\":2,\"a\":3}"), JSON_SCAN_DUPLICATES, 20, &e), 0);
        assert_true(json_scan_duplicate(&s, 0, &first, &second));
        assert_int_equal(first, 1);
        assert_int_equal(second, 7);
        assert_false(json_scan_duplicate(&s, 2, &first, &second));
        json_scan_finish(&s);
}

static void collect(void *owner, const char *key, struct json_value *v)
{
        (void)v;
        (void)buffer_puts(owner, key);
}

static void values_are_asked_gently(void **state)
{
        static const char text[] =
                "{\"s\":\"text\",\"i\":-5,\"d\":2.5,\"w\":1e3,\"big\":1e300,\"inf\":1e999,\"t\":true,"
                "\"n\":null,\"nul\":\"a\\u0000b\",\"l\":[1,\"two\"],\"o\":{\"z\":\"a/b\"}}";
        struct json_value *v;
        struct buffer keys;
        char *out;

        (void)state;
        assert_int_equal(json_parse(TEXT(text), &v, NULL), 0);
        assert_string_equal(json_get_string(v, "s"), "text");
        assert_null(json_get_string(v, "i"));
        assert_null(json_get_string(v, "none"));
        assert_null(json_get_string(v, "nul")); /* a C string would lie about it */
        assert_int_equal(json_get_int(v, "i", 7), -5);
        assert_int_equal(json_get_int(v, "w", 7), 1000);
        assert_int_equal(json_get_int(v, "d", 7), 7);
        assert_int_equal(json_get_int(v, "big", 7), 7);
        assert_int_equal(json_get_int(v, "s", 7), 7);
        assert_true(json_get_double(v, "d", 0) == 2.5);
        assert_true(json_get_double(v, "i", 0) == -5);
        assert_true(json_get_double(v, "inf", 3) == 3);
        assert_true(json_get_bool(v, "t", false));
        assert_true(json_get_bool(v, "i", true));
        assert_true(json_is_null(json_get(v, "n")));
        assert_int_equal(json_count(json_get(v, "l")), 2);
        assert_string_equal(json_as_string(json_at(json_get(v, "l"), 1)), "two");
        assert_null(json_at(json_get(v, "l"), 2));
        assert_null(json_at(v, 0));
        assert_int_equal(json_count(v), 0);
        assert_null(json_get(NULL, "x"));
        assert_true(json_is_object(json_get(v, "o")));
        assert_false(json_is_array(json_get(v, "o")));
        buffer_init(&keys, 0);
        json_each(v, collect, &keys);
        assert_string_equal(keys.data, "sidwbiginftnnullo");
        json_each(NULL, collect, &keys);
        json_each(json_get(v, "l"), collect, &keys);
        assert_int_equal(keys.len, 17);
        buffer_finish(&keys);
        out = json_print(json_get(v, "o"), false);
        assert_string_equal(out, "{\"z\":\"a/b\"}");
        free(out);
        out = json_print(NULL, false);
        assert_string_equal(out, "null");
        free(out);
        assert_null(json_free(v));
        assert_null(json_free(NULL));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_grammar_is_accepted),
                cmocka_unit_test(all_else_is_refused_where_it_goes_wrong),
                cmocka_unit_test(depth_is_bounded),
                cmocka_unit_test(many_keys_are_compared_too),
                cmocka_unit_test(tokens_tell_where),
                cmocka_unit_test(values_are_asked_gently),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
