/* test_table.c: columns aligned, fitted to a terminal, never cut in a pipe; what comes from elsewhere made harmless. */
#include "cli/table.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

static const struct screen pipe_screen = {0};
static const struct screen narrow = {.terminal = true, .width = 30, .height = 24};
static const struct screen coloured = {.terminal = true, .colour = true, .width = 80, .height = 24};

static const struct table_column columns[] = {{.title = "NAME"},
                                              {.title = "MODEL", .flexible = true},
                                              {.title = "PID", .right = true},
                                              {.title = "ERROR"}};

static void fill(struct table *t)
{
        table_init(t, columns, ARRAY_SIZE(columns));
        table_row(t);
        table_put(t, COLOUR_GREEN, "a");
        table_put(t, COLOUR_NONE, "a-model-with-a-long-name.gguf");
        table_printf(t, COLOUR_NONE, "%d", 7);
        table_row(t);
        table_put(t, COLOUR_NONE, "longer");
        table_put(t, COLOUR_NONE, NULL);
        table_put(t, COLOUR_NONE, "1234");
        table_put(t, COLOUR_NONE, "it died");
        table_note(t, COLOUR_RED, "beneath");
}

static char *print(const struct table *t, const struct screen *s, size_t max_lines)
{
        struct buffer out;

        buffer_init(&out, 0);
        assert_int_equal(table_print(t, s, max_lines, &out), 0);
        return buffer_steal(&out);
}

#define ASSERT_PRINTS(t, s, max, ...)                                                                        \
        do {                                                                                                 \
                char *_text = print(t, s, max);                                                              \
                assert_string_equal(_text, "" __VA_ARGS__);                                                  \
                free(_text);                                                                                 \
        } while (0)

static void plain_in_a_pipe(void **state)
{
        struct table t;

        (void)state;
        fill(&t);
        ASSERT_PRINTS(&t, &pipe_screen, 0,
                      "NAME    MODEL                           PID  ERROR\n"
                      "a       a-model-with-a-long-name.gguf     7  -\n"
                      "longer  -                              1234  it died\n"
                      "  beneath\n");
        t.untitled = true;
        t.note_indent = 1;
        ASSERT_PRINTS(&t, &pipe_screen, 0,
                      "a       a-model-with-a-long-name.gguf     7  -\n"
                      "longer  -                              1234  it died\n"
                      "        beneath\n");
        table_finish(&t);
}

static void fitted_to_a_terminal(void **state)
{
        struct screen tiny = {.terminal = true, .width = 12, .height = 24};
        struct table t;

        (void)state;
        fill(&t);
        ASSERT_PRINTS(&t, &narrow, 0,
                      "NAME    MODEL      PID  ERROR\n"
                      "a       a-model…     7  -\n"
                      "longer  -         1234  it di…\n"
                      "  beneath\n");
        /* Too narrow even so: cut at the edge, never wider. */
        ASSERT_PRINTS(&t, &tiny, 0,
                      "NAME    MOD…\n"
                      "a       a-m…\n"
                      "longer  -\n"
                      "  beneath\n");
        for (unsigned width = 1; width < 60; width++) {
                struct screen s = {.terminal = true, .width = width, .height = 24};
                char *text = print(&t, &s, 0), *rest = text, *line;

                while ((line = strsep(&rest, "\n")))
                        assert_true(screen_width(line) <= width);
                free(text);
        }
        table_finish(&t);
}

static void says_what_is_not_shown(void **state)
{
        struct table t;

        (void)state;
        fill(&t);
        ASSERT_PRINTS(&t, &narrow, 4,
                      "NAME    MODEL      PID  ERROR\n"
                      "a       a-model…     7  -\n"
                      "longer  -         1234  it di…\n"
                      "  beneath\n");
        ASSERT_PRINTS(&t, &narrow, 3,
                      "NAME    MODEL      PID  ERROR\n"
                      "a       a-model…     7  -\n"
                      "… and 1 more\n");
        ASSERT_PRINTS(&t, &narrow, 2,
                      "NAME    MODEL      PID  ERROR\n"
                      "… and 2 more\n");
        table_finish(&t);
}

static void colours_take_no_columns(void **state)
{
        struct table t;

        (void)state;
        table_init(&t, columns, 2);
        table_row(&t);
        table_put(&t, COLOUR_GREEN, "a");
        table_put(&t, COLOUR_NONE, "b");
        ASSERT_PRINTS(&t, &coloured, 0,
                      "\033[2mNAME\033[0m  \033[2mMODEL\033[0m\n"
                      "\033[32ma\033[0m     b\n");
        table_finish(&t);
}

static void harmless(void **state)
{
        struct table t;

        (void)state;
        table_init(&t, columns, 2);
        table_row(&t);
        table_put(&t, COLOUR_NONE, "x\033[31my\033]0;title\007z");
        table_put(&t, COLOUR_NONE, "two\nlines\tand\x9b\x01");
        table_note(&t, COLOUR_NONE, "a\nb\r\033[2J");
        ASSERT_PRINTS(&t, &pipe_screen, 0,
                      "NAME  MODEL\n"
                      "xyz   two lines and??\n"
                      "  a b \n");
        table_finish(&t);
}

static void wide_characters(void **state)
{
        struct table t;

        (void)state;
        assert_int_equal(screen_width("añ"), 2);
        assert_int_equal(screen_width("日本"), 4);
        assert_int_equal(screen_width("e\xcc\x81"), 1); /* a combining accent */
        table_init(&t, columns, 2);
        table_row(&t);
        table_put(&t, COLOUR_NONE, "日本");
        table_put(&t, COLOUR_NONE, "b");
        table_row(&t);
        table_put(&t, COLOUR_NONE, "abcde");
        table_put(&t, COLOUR_NONE, "b");
        ASSERT_PRINTS(&t, &pipe_screen, 0,
                      "NAME   MODEL\n"
                      "日本   b\n"
                      "abcde  b\n");
        table_finish(&t);
}

static void cut(void **state)
{
        static const struct {
                const char *text;
                size_t width;
                const char *expected;
                size_t used;
        } rows[] = {
                {"abc", 0, "abc", 3}, {"abc", 3, "abc", 3},    {"abcd", 3, "ab…", 3},
                {"abcd", 1, "…", 1},  {"日本語", 4, "日…", 3}, {"日本語", 6, "日本語", 6},
                {"", 5, "", 0},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct buffer b;

                buffer_init(&b, 0);
                assert_int_equal(screen_put_cut(&b, rows[i].text, rows[i].width), rows[i].used);
                assert_string_equal(b.data ? b.data : "", rows[i].expected);
                buffer_finish(&b);
        }
}

static void no_terminal_no_colour(void **state)
{
        struct screen s;
        int fds[2];

        (void)state;
        assert_int_equal(pipe(fds), 0);
        screen_init(&s, fds[1], false);
        assert_false(s.terminal);
        assert_false(s.colour);
        assert_int_equal(s.width, 0);
        assert_string_equal(screen_begin(&s, COLOUR_RED), "");
        assert_string_equal(screen_end(&s, COLOUR_RED), "");
        (void)close(fds[0]);
        (void)close(fds[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(plain_in_a_pipe),
                cmocka_unit_test(fitted_to_a_terminal),
                cmocka_unit_test(says_what_is_not_shown),
                cmocka_unit_test(colours_take_no_columns),
                cmocka_unit_test(harmless),
                cmocka_unit_test(wide_characters),
                cmocka_unit_test(cut),
                cmocka_unit_test(no_terminal_no_colour),
        };

        (void)setlocale(LC_CTYPE, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
