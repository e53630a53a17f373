/* test_rows.c: instances of the API read, merged with the feed, named, and drawn for people and for programs. */
#include "cli/rows.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

#define NOW UINT64_C(1795168803500000) /* 2026-11-20T10:00:03.5Z */

static const char document[] =
        "{\"instances\": ["
        "{\"name\": \"qwen-0\", \"model\": \"qwen\", \"status\": \"ready\", \"models\": [], \"lastError\": "
        "null, \"retries\": 0,"
        " \"uptime\": 3, \"startedAt\": \"2026-11-20T09:00:00Z\", \"pid\": 4242, \"gpu\": [\"GPU-1\", "
        "\"GPU-2\"],"
        " \"nextRetryAt\": null, \"inFlight\": 1, \"slots\": 4, \"queue\": 0, \"tokensPerSecond\": 41.5, "
        "\"seq\": 17,"
        " \"maxRetries\": 5, \"restarts\": 2, \"wantUp\": true, \"adopted\": false, \"endpoint\": "
        "\"unix:/run/q.sock\","
        " \"stateSince\": \"2026-11-20T09:00:01.000Z\", \"modelPath\": \"/models/qwen2.5-7b.gguf\"},"
        "{\"name\": \"qwen-1\", \"model\": \"qwen\", \"status\": \"starting\", \"lastError\": null, "
        "\"retries\": 1, \"seq\": 3,"
        " \"pid\": 5, \"startedAt\": \"2026-11-20T10:00:00Z\", \"stateSince\": \"2026-11-20T10:00:00.000Z\", "
        "\"maxRetries\": null,"
        " \"modelPath\": \"hf:user/repo:Q4\", \"wantUp\": true},"
        "{\"name\": \"coder\", \"model\": \"coder\", \"status\": \"crashed\", \"retries\": 2, "
        "\"maxRetries\": 5, \"seq\": 9,"
        " \"lastError\": \"died: out of GPU memory (exit code 1 after 3 s)\", \"nextRetryAt\": "
        "\"2026-11-20T10:00:06.250Z\","
        " \"pid\": null, \"modelPath\": \"coder.gguf\", \"wantUp\": true},"
        "{\"name\": \"old\", \"model\": \"old\", \"status\": \"ready\", \"seq\": 1, \"pid\": null, "
        "\"adopted\": true, \"foreign\": true,"
        " \"modelPath\": null, \"models\": [{\"name\": \"somebody's\"}], \"retries\": 0, \"wantUp\": true,"
        " \"startedAt\": \"2026-11-20T10:00:00Z\"}"
        "]}";

static void read_rows(struct rows *rows)
{
        struct json_value *v;

        *rows = (struct rows){0};
        assert_int_equal(json_parse(document, strlen(document), &v, NULL), 0);
        assert_int_equal(rows_fill(rows, v), 0);
        json_free(v);
}

static void reads(void **state)
{
        struct rows rows;

        (void)state;
        read_rows(&rows);
        assert_int_equal(rows.n, 4);
        assert_string_equal(rows.list[0].name, "qwen-0");
        assert_string_equal(rows.list[0].entry, "qwen");
        assert_string_equal(rows.list[0].model, "qwen2.5-7b.gguf");
        assert_string_equal(rows.list[0].gpu, "GPU-1,GPU-2");
        assert_int_equal(rows.list[0].pid, 4242);
        assert_int_equal(rows.list[0].max_retries, 5);
        assert_false(rows.list[0].foreign);
        assert_string_equal(rows.list[1].model, "hf:user/repo:Q4");
        assert_int_equal(rows.list[1].max_retries, -1);
        assert_null(rows.list[1].gpu);
        assert_int_equal(rows.list[2].pid, 0);
        assert_string_equal(rows.list[3].model, "somebody's");
        assert_true(rows.list[3].foreign);
        rows_finish(&rows);
}

static void refuses_what_is_no_fleet(void **state)
{
        static const char *const bad[] = {"{}",
                                          "[]",
                                          "{\"instances\": 3}",
                                          "{\"instances\": [{}]}",
                                          "{\"instances\": [{\"name\": \"a\"}]}",
                                          "{\"instances\": [7]}"};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct rows rows = {0};
                struct json_value *v;

                assert_int_equal(json_parse(bad[i], strlen(bad[i]), &v, NULL), 0);
                assert_int_equal(rows_fill(&rows, v), -EBADMSG);
                json_free(v);
                rows_finish(&rows);
        }
}

static void names(void **state)
{
        struct rows rows;

        (void)state;
        read_rows(&rows);
        assert_true(rows_match(&rows, &rows.list[0], "qwen-0"));
        assert_true(rows_match(&rows, &rows.list[0], "qwen"));
        assert_true(rows_match(&rows, &rows.list[1], "qwen"));
        assert_true(rows_match(&rows, &rows.list[2], "all"));
        assert_false(rows_match(&rows, &rows.list[2], "qwen"));
        assert_false(rows_match(&rows, &rows.list[1], "qwen-0"));
        assert_string_equal(rows_nearest(&rows, "qwen-2"), "qwen-0");
        assert_string_equal(rows_nearest(&rows, "codr"), "coder");
        assert_null(rows_nearest(&rows, "something"));
        rows_finish(&rows);
}

/* An instance that is called like the entry of others is meant alone. */
static void own_name_wins(void **state)
{
        struct row list[] = {{.name = "a", .entry = "a"}, {.name = "a-1", .entry = "a"}};
        struct rows rows = {.list = list, .n = 2};

        (void)state;
        assert_true(rows_match(&rows, &list[0], "a"));
        assert_false(rows_match(&rows, &list[1], "a"));
}

static void moments(void **state)
{
        (void)state;
        assert_int_equal(rows_moment("2026-11-20T10:00:03.500Z"), NOW);
        assert_int_equal(rows_moment("2026-11-20T10:00:03Z"), NOW - 500000);
        assert_int_equal(rows_moment("2026-11-20T10:00:03.1234567Z"), NOW - 500000 + 123456);
        assert_int_equal(rows_moment(NULL), 0);
        assert_int_equal(rows_moment(""), 0);
        assert_int_equal(rows_moment("2026-11-20"), 0);
        assert_int_equal(rows_moment("2026-11-20T10:00:03+01:00"), 0);
}

static void tries(void **state)
{
        static const struct {
                struct row row;
                const char *text;
        } rows[] = {
                {{.max_retries = 5}, "-"},
                {{.retries = 2, .max_retries = 5}, "2/5"},
                {{.retries = 2, .max_retries = -1}, "2/∞"},
                {{.retries = 1, .max_retries = 5, .next_try = NOW + 2750000}, "1/5, next try in 3 s"},
                {{.retries = 1, .max_retries = 5, .next_try = NOW + 1}, "1/5, next try in 1 s"},
                {{.retries = 1, .max_retries = 5, .next_try = NOW - 1}, "1/5, next try now"},
        };
        char buf[96];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                assert_string_equal(row_tries(&rows[i].row, NOW, buf, sizeof(buf)), rows[i].text);
}

static void the_feed_goes_over_it(void **state)
{
        static const char crash[] =
                "{\"status\": \"crashed\", \"lastError\": \"died\", \"retries\": 1, \"pid\": null,"
                " \"gpu\": [], \"slots\": 4, \"inFlight\": 0, \"startedAt\": null}";
        struct json_value *v;
        struct rows rows;
        bool changed = false;

        (void)state;
        read_rows(&rows);
        assert_int_equal(json_parse(crash, strlen(crash), &v, NULL), 0);
        assert_int_equal(row_update(&rows.list[0], 18, v, &changed), 0);
        assert_true(changed);
        assert_string_equal(rows.list[0].status, "crashed");
        assert_string_equal(rows.list[0].last_error, "died");
        assert_int_equal(rows.list[0].seq, 18);
        assert_int_equal(rows.list[0].pid, 0);
        assert_int_equal(rows.list[0].started, 0);
        assert_string_equal(rows.list[0].model, "qwen2.5-7b.gguf"); /* the feed does not tell it: it stays */
        assert_null(rows.list[0].gpu);
        assert_int_equal(row_update(&rows.list[0], 19, v, &changed), 0);
        assert_false(changed);
        json_free(v);
        rows_finish(&rows);
}

static char *drawn(const struct rows *rows, const struct screen *s)
{
        struct buffer out;

        buffer_init(&out, 0);
        assert_int_equal(rows_print(rows, NULL, s, NOW, 0, &out), 0);
        return buffer_steal(&out);
}

static void for_programs(void **state)
{
        static const struct screen pipe_screen = {0};
        struct rows rows;
        char *text;

        (void)state;
        read_rows(&rows);
        text = drawn(&rows, &pipe_screen);
        assert_string_equal(
                text, "NAME    STATE     UPTIME  MODEL             PID  SLOTS  RETRIES  NEXT  UNTIL  ERROR\n"
                      "qwen-0  ready     1h00m   qwen2.5-7b.gguf  4242    1/4  -        -     -      -\n"
                      "qwen-1  starting  3s      hf:user/repo:Q4     5      -  1/∞      -     -      -\n"
                      "coder   crashed   -       coder.gguf          -      -  2/5      3s    -      "
                      "died: out of GPU memory (exit code 1 after 3 s)\n"
                      "old     ready     3s      somebody's          -      -  -        -     -      -\n");
        free(text);
        rows_finish(&rows);
}

static void for_people(void **state)
{
        static const struct screen terminal = {.terminal = true, .width = 80, .height = 24},
                                   wide = {.terminal = true, .width = 100, .height = 24};
        struct rows rows;
        char *text;

        (void)state;
        read_rows(&rows);
        text = drawn(&rows, &terminal);
        assert_string_equal(
                text, "   NAME    STATE        UPTIME  MODEL           PID  SLOTS  RETRIES\n"
                      "●  qwen-0  ready        1h00m   qwen2.5-7b.g…  4242    1/4  -\n"
                      "◐  qwen-1  starting 3s  3s      hf:user/repo…     5      -  1/∞\n"
                      "▲  coder   crashed      -       coder.gguf        -      -  2/5, next try in 3 s\n"
                      "   died: out of GPU memory (exit code 1 after 3 s)\n"
                      "●  old     ready        3s      somebody's        -      -  -\n");
        free(text);
        /* One more column where something comes on demand. */
        rows.list[0].on_demand = true;
        rows.list[0].until = NOW + 90 * USEC_PER_SEC;
        text = drawn(&rows, &wide);
        assert_non_null(strstr(text, "  UNTIL\n"));
        assert_non_null(strstr(text, "  1m30s\n"));
        free(text);
        rows_finish(&rows);
}

static void secrets_of_a_command_line(void **state)
{
        static const char cmdline[] = "llama-server\0--api-key\0hush\0-c\0"
                                      "512\0--hf-token\0hush";
        char *text = rows_command(cmdline, sizeof(cmdline));

        (void)state;
        assert_string_equal(text, "llama-server --api-key *** -c 512 --hf-token ***");
        free(text);
}

static void every_status_has_a_look(void **state)
{
        static const char *const statuses[] = {"initial",  "starting", "ready", "unhealthy", "draining",
                                               "stopping", "crashed",  "error", "idle"};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(statuses); i++)
                assert_string_equal(look_of(statuses[i])->status, statuses[i]);
        assert_string_equal(look_of("new")->symbol, "?");
        assert_string_equal(look_of(NULL)->symbol, "?");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(reads),
                cmocka_unit_test(refuses_what_is_no_fleet),
                cmocka_unit_test(names),
                cmocka_unit_test(own_name_wins),
                cmocka_unit_test(moments),
                cmocka_unit_test(tries),
                cmocka_unit_test(the_feed_goes_over_it),
                cmocka_unit_test(for_programs),
                cmocka_unit_test(for_people),
                cmocka_unit_test(secrets_of_a_command_line),
                cmocka_unit_test(every_status_has_a_look),
        };

        (void)setlocale(LC_CTYPE, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
