/* test_event.c: every kind of event has one id for ever, is in the documentation, and every event that the program tells is a kind. */
#include "core/event.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/macros.h"
#include "base/text.h"

static void test_ids(void **state)
{
        (void)state;
        for (const struct event_kind *k = event_kinds; k->name; k++) {
                assert_int_equal(strlen(k->message_id), 32);
                assert_int_equal(strspn(k->message_id, "0123456789abcdef"), 32);
                assert_true(text_is_name(k->name));
                assert_ptr_equal(event_kind_find(k->name), k); /* no name twice */
                for (const struct event_kind *o = event_kinds; o->name; o++)
                        assert_int_equal(streq(o->message_id, k->message_id), o == k);
        }
        assert_null(event_kind_find("no_such_kind"));
        assert_null(event_kind_find(NULL));
}

/* People's rules name them: whoever changes this line breaks them. */
static void test_they_stay(void **state)
{
        (void)state;
        assert_string_equal(event_kind_find("died")->message_id, "a57b48dd6ff84022937686a0bf270461");
        assert_string_equal(event_kind_find("daemon_started")->message_id,
                            "ef503deba6f74b7a8a3afc5354981118");
}

/* "`instance`, `model`, (`cause`)", as the documentation tells the fields of a kind. */
static char *fields_text(const struct event_kind *k)
{
        struct buffer b;

        buffer_init(&b, 0);
        for (const struct event_field_name *f = event_field_names; f->member; f++)
                if (k->fields & f->field)
                        (void)buffer_printf(&b, "%s`%s`", b.len ? ", " : "", f->member);
        for (const struct event_field_name *f = event_field_names; f->member; f++)
                if (k->may & f->field)
                        (void)buffer_printf(&b, "%s(`%s`)", b.len ? ", " : "", f->member);
        if (!b.len)
                (void)buffer_puts(&b, "–");
        return buffer_steal(&b);
}

static void test_are_documented(void **state)
{
        _cleanup_free_ char *page = NULL;
        size_t len, rows = 0, kinds = 0;

        (void)state;
        assert_int_equal(file_read(SOURCE_DIR "/docs/OPERATIONS.md", 1 << 20, &page, &len), 0);
        for (const struct event_kind *k = event_kinds; k->name; k++, kinds++) {
                _cleanup_free_ char *fields = fields_text(k);
                _cleanup_free_ char *row =
                        text_format("\n| `%s` | `%s` | %s | %s | ", k->name, k->message_id, k->about, fields);
                const char *p = strstr(page, row), *cause, *todo;

                if (!p) {
                        fail_msg("docs/OPERATIONS.md has no row: %s", row);
                        return;
                }
                cause = p + strlen(row);
                todo = strstr(cause, " | ");
                /* Both are told, in more than a dash. */
                if (!todo || todo - cause < 5 || strcspn(todo + 3, "|\n") < 5)
                        fail_msg("docs/OPERATIONS.md does not tell cause and what to do: %s", row);
        }
        for (const char *p = strstr(page, "| kind | `MESSAGE_ID` |"); p && *p == '|'; p = strchr(p, '\n') + 1)
                rows++;
        assert_int_equal(rows, kinds + 2); /* the head and the rule below it */
}

/* Each field is in the table of docs/API.md, under both its names. */
static void test_fields_are_documented(void **state)
{
        _cleanup_free_ char *page = NULL;
        size_t len;

        (void)state;
        assert_int_equal(file_read(SOURCE_DIR "/docs/API.md", 1 << 20, &page, &len), 0);
        for (const struct event_field_name *f = event_field_names; f->member; f++) {
                _cleanup_free_ char *row = text_format("| `%s` | `%s` | ", f->journal, f->member);

                if (!strstr(page, row))
                        fail_msg("docs/API.md has no row: %s", row);
        }
}

static void test_fields(void **state)
{
        (void)state;
        assert_true(event_is_known("daemon_started", NULL, NULL, NULL, NULL, NULL, NULL));
        assert_false(event_is_known("no_such_kind", NULL, NULL, NULL, NULL, NULL, NULL));
        assert_true(event_is_known("died", "a", "a", NULL, NULL, "signal", "{}"));
        assert_true(event_is_known("died", "a", "a", NULL, NULL, "signal", NULL));
        assert_false(event_is_known("died", "a", "a", NULL, NULL, NULL, "{}"));
        assert_false(event_is_known("died", "a", "a", "GPU-1", NULL, "signal", "{}"));
        assert_false(event_is_known("hub_up", NULL, NULL, NULL, NULL, NULL, NULL));
        assert_true(event_is_known("hub_up", NULL, NULL, NULL, "spool", NULL, NULL));
        assert_false(event_is_known("hub_up", "spool", "spool", NULL, NULL, NULL, NULL));
}

/* --- the sources ------------------------------------------------------------------------------------------------------ */

static bool told[64];

/* The literals of the first argument that has one: the kind, or the kinds that it may be. */
static void check_argument(const char *path, const char *from, const char *to, unsigned *count)
{
        for (const char *q = memchr(from, '"', (size_t)(to - from)); q && q < to;
             q = memchr(q, '"', (size_t)(to - q))) {
                const char *end = strchr(q + 1, '"');
                _cleanup_free_ char *kind = strndup(q + 1, (size_t)(end - q - 1));
                const struct event_kind *k = event_kind_find(kind);

                if (!k)
                        fail_msg("%s tells of \"%s\", which core/event.c does not have", path, kind);
                told[k - event_kinds] = true;
                (*count)++;
                q = end + 1;
        }
}

/* One call, from behind its bracket: arguments are split at commas outside of brackets and literals. */
static void check_call(const char *path, const char *p, unsigned *count)
{
        const char *from = p;
        bool has_literal = false;

        for (int depth = 1; *p && depth; p++) {
                if (*p == '"') {
                        if (depth == 1)
                                has_literal = true;
                        for (p++; *p && *p != '"'; p++)
                                p += *p == '\\';
                } else if (*p == '(' || *p == '{') {
                        depth++;
                } else if (*p == ')' || *p == '}') {
                        depth--;
                }
                if ((depth == 1 && *p == ',') || !depth) {
                        if (has_literal) {
                                check_argument(path, from, p, count);
                                return;
                        }
                        from = p + 1;
                }
        }
}

static void check_calls(const char *path, const char *text, unsigned *count)
{
        static const char *const calls[] = {"fleet_tell(", "member_tell(", "demand_tell(", "gpus_tell(",
                                            "doors_tell("};
        /* Those of one file. */
        static const char *const own[] = {"hub/connector.c", "fleet/dynamic.c", "http/auth.c"};

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                for (const char *p = text; (p = strstr(p, calls[i])); p += strlen(calls[i]))
                        if (p > text && (p[-1] == ' ' || p[-1] == '\t'))
                                check_call(path, p + strlen(calls[i]), count);
        for (size_t i = 0; i < ARRAY_SIZE(own); i++)
                for (const char *p = ends_with(path, own[i]) ? text : ""; (p = strstr(p, " tell("));
                     p += strlen(" tell("))
                        check_call(path, p + strlen(" tell("), count);
        for (const char *p = text; (p = strstr(p, "struct history_event")); p++) {
                const char *kind = strstr(p, ".kind = \""), *end = strchr(p, ';');

                if (kind && end && kind < end)
                        check_argument(path, kind, strchr(kind + strlen(".kind = \""), '"') + 1, count);
        }
}

static void test_are_all(void **state)
{
        static const char *const folders[] = {SOURCE_DIR "/supervisor", SOURCE_DIR "/supervisor/fleet",
                                              SOURCE_DIR "/supervisor/http", SOURCE_DIR "/supervisor/hub"};
        unsigned count = 0;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
                char **names = NULL;

                assert_int_equal(file_list(folders[i], ".c", 1000, &names), 0);
                for (char **n = names; n && *n; n++) {
                        _cleanup_free_ char *path = text_format("%s/%s", folders[i], *n), *text = NULL;
                        size_t len;

                        assert_int_equal(file_read(path, 1 << 20, &text, &len), 0);
                        check_calls(path, text, &count);
                }
                text_list_free(names);
        }
        assert_true(count > 30);
        for (const struct event_kind *k = event_kinds; k->name; k++)
                if (!told[k - event_kinds])
                        fail_msg("nobody tells of \"%s\"", k->name);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ids),
                cmocka_unit_test(test_they_stay),
                cmocka_unit_test(test_are_documented),
                cmocka_unit_test(test_fields_are_documented),
                cmocka_unit_test(test_fields),
                cmocka_unit_test(test_are_all),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
