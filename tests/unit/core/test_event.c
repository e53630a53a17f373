/* test_event.c: every kind of event has one id for ever, is in the documentation, and every event that the program tells is a kind. */
#include "core/event.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

static void test_are_documented(void **state)
{
        _cleanup_free_ char *page = NULL;
        size_t len, rows = 0, kinds = 0;

        (void)state;
        assert_int_equal(file_read(SOURCE_DIR "/docs/API.md", 1 << 20, &page, &len), 0);
        for (const struct event_kind *k = event_kinds; k->name; k++, kinds++) {
                _cleanup_free_ char *row =
                        text_format("| `%s` | `%s` | %s |\n", k->name, k->message_id, k->about);

                if (!strstr(page, row))
                        fail_msg("docs/API.md has no row: %s", row);
        }
        for (const char *p = strstr(page, "| kind | `MESSAGE_ID` |"); p && *p == '|'; p = strchr(p, '\n') + 1)
                rows++;
        assert_int_equal(rows, kinds + 2); /* the head and the rule below it */
}

/* Each "kind" in a call that tells of an event. */
static void check_calls(const char *path, const char *text, unsigned *count)
{
        static const char *const calls[] = {"member_event(", "member_tell(", "fleet_event(", "log_event(",
                                            "demand_tell("};

        for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
                for (const char *p = text; (p = strstr(p, calls[i])); p++) {
                        const char *end = strchr(p, ';'), *quote = strchr(p, '"');
                        _cleanup_free_ char *kind = NULL;

                        /* A prototype, or a call with a variable: whose values are literals elsewhere. */
                        if (!quote || !end || quote > end)
                                continue;
                        kind = strndup(quote + 1, strcspn(quote + 1, "\""));
                        if (strspn(kind, "abcdefghijklmnopqrstuvwxyz_") != strlen(kind))
                                continue; /* the format, where the kind is a variable */
                        if (!event_kind_find(kind))
                                fail_msg("%s tells of \"%s\", which core/event.c does not have", path, kind);
                        (*count)++;
                }
}

static void test_are_all(void **state)
{
        static const char *const folders[] = {SOURCE_DIR "/supervisor", SOURCE_DIR "/supervisor/fleet",
                                              SOURCE_DIR "/supervisor/http"};
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
        assert_true(count > 20);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_ids),
                cmocka_unit_test(test_they_stay),
                cmocka_unit_test(test_are_documented),
                cmocka_unit_test(test_are_all),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
