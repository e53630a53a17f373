/* test_tail.c: where a log goes on that is read again. */
#include "cli/tail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/text.h"

static struct tail told(const char *lines)
{
        struct tail t = {0};

        for (const char *p = lines; *p; p++)
                tail_add(&t, p, 1); /* each letter is a line */
        return t;
}

static void check(const char *before, const char *now, bool found, size_t known)
{
        struct tail t = told(before);
        char **lines = NULL, text[2] = "";
        size_t n = 99;

        for (const char *p = now; *p; p++) {
                text[0] = *p;
                assert_int_equal(text_list_add(&lines, text), 0);
        }
        if (tail_find(&t, lines, strlen(now), &n) != found || n != known)
                fail_msg("told \"%s\", now \"%s\": %zu", before, now, n);
        lines = text_list_free(lines);
        tail_finish(&t);
}

static void test_where_it_goes_on(void **state)
{
        (void)state;
        check("abc", "abc", true, 3);
        check("abc", "abcde", true, 3);
        check("abc", "bcde", true, 2); /* the end that was asked for is shorter than what was told */
        check("abc", "cde", true, 1);
        check("abc", "xabcde", true, 4); /* or longer */
        check("abc", "de", false, 0);    /* a gap, or another file */
        check("abc", "", false, 0);
        check("", "", true, 0);
        check("", "ab", true, 0);
        check("abab", "ababab", true, 6); /* who repeats himself is heard once */
        check("aab", "aabab", true, 3);   /* but not by his last word alone */
        check("bcb", "abcbxb", true, 4);
}

static void test_only_the_last_are_kept(void **state)
{
        struct tail t = told("abcdefghijklmnopqrstuvwxyz");

        (void)state;
        assert_int_equal(t.n, TAIL_KEPT);
        assert_string_equal(t.last[0], "k");
        assert_string_equal(t.last[TAIL_KEPT - 1], "z");
        tail_finish(&t);
        check("abcdefghijklmnopqrstuvwxyz", "uvwxyz12", true, 6);
        check("abcdefghijklmnopqrstuvwxyz", "0uvwxyz12", false, 0); /* something else stood before them */
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_where_it_goes_on),
                cmocka_unit_test(test_only_the_last_are_kept),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
