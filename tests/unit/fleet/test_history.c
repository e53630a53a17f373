/* test_history.c: events and states are bounded, and survive a restart and a file cut off in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"
#include "fleet/history.h"

#define DAY (24 * USEC_PER_HOUR)

static char dir[64];
static struct loop *loop;

static int set_up(void **state)
{
        (void)state;
        (void)snprintf(dir, sizeof dir, "/tmp/lsv-history-XXXXXX");
        return mkdtemp(dir) && loop_new(&loop) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
        _cleanup_free_ char *file = text_format("%s/history.jsonl", dir);

        (void)state;
        loop = loop_free(loop);
        (void)unlink(file);
        return rmdir(dir);
}

static struct json_value *read_back(struct history *h, uint64_t since, const char *instance, usec_t now)
{
        struct json_value *v = NULL;
        struct json_writer w;
        struct buffer b;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        history_put(h, since, instance, now, &w);
        assert_int_equal(json_parse(b.data, b.len, &v, NULL), 0);
        buffer_finish(&b);
        return v;
}

static void add(struct history *h, const char *instance, const char *text)
{
        history_add(h, &(struct history_event){.at = DAY,
                                               .kind = "died",
                                               .instance = instance,
                                               .cause = "signal",
                                               .text = text,
                                               .evidence = "{\"signal\":11}"});
}

static void events_survive(void **state)
{
        struct history *h;
        struct json_value *v;

        (void)state;
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        add(h, "a", "first \"quoted\"\n");
        add(h, "b", "second");
        history_state(h, "a", "crashed", DAY);
        history_free(h);
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        add(h, "a", "third");
        v = read_back(h, 0, NULL, DAY);
        assert_int_equal(json_count(json_get(v, "events")), 3);
        assert_string_equal(json_get_string(json_at(json_get(v, "events"), 0), "text"), "first \"quoted\"\n");
        assert_int_equal(json_get_int(json_get(json_at(json_get(v, "events"), 0), "evidence"), "signal", 0),
                         11);
        assert_int_equal(json_get_int(json_at(json_get(v, "events"), 2), "id", 0), 3); /* ids go on */
        assert_int_equal(json_get_int(v, "next", 0), 3);
        assert_string_equal(json_get_string(json_at(json_get(json_get(v, "states"), "a"), 0), "status"),
                            "crashed");
        json_free(v);
        v = read_back(h, 1, "b", DAY);
        assert_int_equal(json_count(json_get(v, "events")), 1);
        json_free(v);
        history_free(h);
}

static void a_line_cut_off_is_left_out(void **state)
{
        _cleanup_free_ char *file = text_format("%s/history.jsonl", dir);
        struct history *h;
        struct json_value *v;
        struct stat st;

        (void)state;
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        add(h, "a", "whole");
        add(h, "a", "cut");
        history_free(h);
        assert_int_equal(stat(file, &st), 0);
        assert_int_equal(truncate(file, st.st_size - 9), 0);
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        v = read_back(h, 0, NULL, DAY);
        assert_int_equal(json_count(json_get(v, "events")), 1);
        json_free(v);
        add(h, "a", "after the crash");
        history_free(h);
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        v = read_back(h, 0, NULL, DAY);
        assert_int_equal(json_count(json_get(v, "events")), 2);
        json_free(v);
        history_free(h);
}

static void both_are_bounded(void **state)
{
        _cleanup_free_ char *file = text_format("%s/history.jsonl", dir);
        struct history *h;
        struct json_value *v;
        struct stat st;

        (void)state;
        assert_int_equal(history_new(loop, dir, 10, &h), 0);
        for (unsigned i = 0; i < 5000; i++) {
                add(h, "a", "again");
                history_state(h, "a", i % 2 ? "ready" : "crashed", DAY + i * USEC_PER_SEC);
        }
        v = read_back(h, 0, NULL, DAY + 5000 * USEC_PER_SEC);
        assert_int_equal(json_count(json_get(v, "events")), 10);
        assert_int_equal(json_count(json_get(json_get(v, "states"), "a")), 1000);
        json_free(v);
        assert_int_equal(stat(file, &st), 0);
        assert_true(st.st_size < 1000000);
        history_free(h);
        assert_int_equal(history_new(loop, dir, 10, &h), 0);
        v = read_back(h, 0, NULL, DAY + 5000 * USEC_PER_SEC);
        assert_int_equal(json_get_int(v, "next", 0), 5000);
        assert_int_equal(json_count(json_get(v, "events")), 10);
        json_free(v);
        history_free(h);
}

static void states_older_than_a_day_go(void **state)
{
        struct history *h;
        struct json_value *v;

        (void)state;
        assert_int_equal(history_new(loop, dir, 10, &h), 0);
        history_state(h, "a", "starting", DAY);
        history_state(h, "a", "ready", 2 * DAY);
        history_state(h, "a", "crashed", 3 * DAY - USEC_PER_SEC);
        v = read_back(h, 0, NULL, 3 * DAY + USEC_PER_SEC);
        /* The one before the window tells the state at its begin. */
        assert_int_equal(json_count(json_get(json_get(v, "states"), "a")), 2);
        assert_string_equal(json_get_string(json_at(json_get(json_get(v, "states"), "a"), 0), "status"),
                            "ready");
        json_free(v);
        history_free(h);
}

static void an_entry_stands_for_its_replicas(void **state)
{
        struct history *h;
        struct json_value *v;

        (void)state;
        assert_int_equal(history_new(loop, dir, 100, &h), 0);
        add(h, "qwen-0", "first");
        add(h, "qwen-coder", "another entry");
        add(h, "qwen-11", "second");
        add(h, "qwen", "long ago it had one instance");
        history_state(h, "qwen-0", "ready", DAY);
        history_state(h, "qwen-coder", "ready", DAY);
        v = read_back(h, 0, "qwen", DAY);
        assert_int_equal(json_count(json_get(v, "events")), 3);
        assert_string_equal(json_get_string(json_at(json_get(v, "events"), 1), "instance"), "qwen-11");
        assert_non_null(json_get(json_get(v, "states"), "qwen-0"));
        assert_null(json_get(json_get(v, "states"), "qwen-coder"));
        json_free(v);
        history_state(h, "qwen", "ready", DAY); /* an instance of that name: it alone is meant */
        v = read_back(h, 0, "qwen", DAY);
        assert_int_equal(json_count(json_get(v, "events")), 1);
        json_free(v);
        history_free(h);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(events_survive, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_line_cut_off_is_left_out, set_up, tear_down),
                cmocka_unit_test_setup_teardown(an_entry_stands_for_its_replicas, set_up, tear_down),
                cmocka_unit_test_setup_teardown(both_are_bounded, set_up, tear_down),
                cmocka_unit_test_setup_teardown(states_older_than_a_day_go, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
