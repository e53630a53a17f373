/* test_options.c: every form of an option, mixed with plain arguments, and what is refused with which words. */
#include "cli/options.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

static const struct option_spec verb[] = {
        {.name = "follow", .letter = 'f', .doc = "go on"},
        {.name = "lines", .letter = 'n', .value = "N", .doc = "how many"},
        {.name = "timeout", .value = "TIME", .doc = "how long"},
        {0},
};
static const struct option_spec common[] = {
        {.name = "socket", .value = "PATH", .doc = "where"},
        {.name = "json", .doc = "as JSON"},
        {0},
};

/* words: separated by one space each. */
static int parse(struct options *o, char *words, bool stop_at_plain, struct buffer *error)
{
        char *args[32], *rest = words, *word;
        size_t n = 0;

        *o = (struct options){.tables = {verb, common}};
        buffer_init(error, 0);
        while ((word = strsep(&rest, " ")))
                if (*word)
                        args[n++] = word;
        return options_parse(o, args, n, stop_at_plain, error);
}

static void every_form(void **state)
{
        static const struct {
                const char *words, *follow, *lines, *socket, *json, *plain[3];
        } rows[] = {
                {"", NULL, NULL, NULL, NULL, {0}},
                {"a b", NULL, NULL, NULL, NULL, {"a", "b"}},
                {"--lines 5 a", NULL, "5", NULL, NULL, {"a"}},
                {"--lines=5 a", NULL, "5", NULL, NULL, {"a"}},
                {"--lines= a", NULL, "", NULL, NULL, {"a"}},
                {"-n 5", NULL, "5", NULL, NULL, {0}},
                {"-n5", NULL, "5", NULL, NULL, {0}},
                {"-fn5", "", "5", NULL, NULL, {0}},
                {"-fn 5 x", "", "5", NULL, NULL, {"x"}},
                {"x -f y --json z", "", NULL, NULL, "", {"x", "y", "z"}},
                {"-n -5", NULL, "-5", NULL, NULL, {0}},
                {"--lines 1 --lines 2", NULL, "2", NULL, NULL, {0}},
                {"--socket=/a=b", NULL, NULL, "/a=b", NULL, {0}},
                {"-- -f --json", NULL, NULL, NULL, NULL, {"-f", "--json"}},
                {"a -- -- b", NULL, NULL, NULL, NULL, {"a", "--", "b"}},
                {"-", NULL, NULL, NULL, NULL, {"-"}},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const char *plain[3] = {rows[i].plain[0], rows[i].plain[1], rows[i].plain[2]};
                char *words = strdup(rows[i].words);
                struct buffer error;
                struct options o;

                assert_true(parse(&o, words, false, &error) >= 0);
                assert_true(streq_ptr(options_get(&o, "follow"), rows[i].follow));
                assert_true(streq_ptr(options_get(&o, "lines"), rows[i].lines));
                assert_true(streq_ptr(options_get(&o, "socket"), rows[i].socket));
                assert_true(streq_ptr(options_get(&o, "json"), rows[i].json));
                assert_null(options_get(&o, "timeout"));
                for (size_t k = 0; k < 3; k++)
                        assert_true(streq_ptr(k < o.n_plain ? o.plain[k] : NULL, plain[k]));
                assert_true(o.n_plain <= 3);
                buffer_finish(&error);
                free(words);
        }
}

static void refused(void **state)
{
        static const struct {
                const char *words, *error;
        } rows[] = {
                {"--lnes 5", "unknown option --lnes; did you mean --lines?"},
                {"--jsn", "unknown option --jsn; did you mean --json?"},
                {"--frobnicate", "unknown option --frobnicate"},
                {"--jsn=x", "unknown option --jsn; did you mean --json?"},
                {"-x", "unknown option -x"},
                {"-fx", "unknown option -x"},
                {"--lines", "--lines needs a value: --lines N"},
                {"-n", "-n needs a value: -n N"},
                {"-fn", "-n needs a value: -n N"},
                {"--json=1", "--json takes no value"},
                {"--follow=", "--follow takes no value"},
                {"--line 5",
                 "unknown option --line; did you mean --lines?"}, /* no abbreviations: they would not last */
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *words = strdup(rows[i].words);
                struct buffer error;
                struct options o;

                assert_int_equal(parse(&o, words, false, &error), -EINVAL);
                assert_string_equal(error.data, rows[i].error);
                buffer_finish(&error);
                free(words);
        }
}

static void stops_at_the_verb(void **state)
{
        char words[] = "--json --socket x status --lines 5";
        struct buffer error;
        struct options o;

        (void)state;
        assert_int_equal(parse(&o, words, true, &error), 3);
        assert_string_equal(options_get(&o, "socket"), "x");
        assert_null(options_get(&o, "lines"));
        assert_int_equal(o.n_plain, 0);
        buffer_finish(&error);
}

static void bounded(void **state)
{
        struct options *o = calloc(1, sizeof(*o));
        char *args[OPTIONS_PLAIN_MAX + 1];
        struct buffer error;

        (void)state;
        buffer_init(&error, 0);
        o->tables[0] = verb;
        for (size_t i = 0; i < ARRAY_SIZE(args); i++)
                args[i] = "-f";
        assert_int_equal(options_parse(o, args, OPTIONS_GIVEN_MAX, false, &error), OPTIONS_GIVEN_MAX);
        assert_int_equal(options_parse(o, args, 1, false, &error), -EINVAL);
        for (size_t i = 0; i < ARRAY_SIZE(args); i++)
                args[i] = "a";
        assert_int_equal(options_parse(o, args, ARRAY_SIZE(args), false, &error), -EINVAL);
        buffer_finish(&error);
        free(o);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_form),
                cmocka_unit_test(refused),
                cmocka_unit_test(stops_at_the_verb),
                cmocka_unit_test(bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
