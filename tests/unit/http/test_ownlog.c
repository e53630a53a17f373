/* test_ownlog.c: lines of the log reach who follows it, in a turn of their own, and whoever is too late is told what it missed. */
#include "http/ownlog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "base/log.h"
#include "base/logbook.h"

static struct {
        struct loop *loop;
        struct ownlog *ownlog;
        bool inside; /* something is being logged */
} h;

struct reader {
        struct ownlog_reader *reader;
        char text[4096];
        unsigned lines;
        bool leaves, logs;
};

static void add(const char *text)
{
        h.inside = true;
        logbook_add(text, strlen(text));
        h.inside = false;
}

static void on_line(void *owner, const char *line, size_t len)
{
        struct reader *x = owner;
        size_t n = strlen(x->text);

        assert_false(h.inside);
        x->lines++;
        (void)snprintf(x->text + n, sizeof(x->text) - n, "%.*s|", (int)len, line);
        if (x->logs && x->lines < 4)
                add("told");
        if (x->leaves)
                x->reader = ownlog_unfollow(x->reader);
}

static void stop(void *owner, usec_t now)
{
        (void)now;
        loop_stop(owner);
}

static void run(void)
{
        struct timer *timer;

        assert_int_equal(timer_new(h.loop, stop, h.loop, &timer), 0);
        timer_set(timer, loop_now(h.loop) + 20 * USEC_PER_MSEC);
        loop_run(h.loop);
        timer_free(timer);
}

static void follow(struct reader *x)
{
        assert_int_equal(ownlog_follow(h.ownlog, on_line, x, &x->reader), 0);
}

static int begin(void **state)
{
        (void)state;
        return loop_new(&h.loop) < 0 || ownlog_new(h.loop, &h.ownlog) < 0;
}

static int end(void **state)
{
        (void)state;
        h.ownlog = ownlog_free(h.ownlog);
        add("nobody is there any more");
        h.loop = loop_free(h.loop);
        return 0;
}

static void news_come_in_order(void **state)
{
        struct reader early = {0}, late = {0};

        (void)state;
        add("before");
        follow(&early);
        add("one");
        follow(&late);
        add("two");
        assert_string_equal(early.text, "");
        run();
        assert_string_equal(early.text, "one|two|");
        assert_string_equal(late.text, "two|");
        add("three");
        run();
        assert_string_equal(late.text, "two|three|");
        ownlog_unfollow(early.reader);
        ownlog_unfollow(late.reader);
}

static void the_end_is_read(void **state)
{
        struct buffer b;

        (void)state;
        add("a");
        add("b");
        buffer_init(&b, 0);
        ownlog_put_last(2, &b);
        assert_string_equal(b.data, "a\nb\n");
        buffer_clear(&b);
        ownlog_put_last(0, &b);
        assert_int_equal(b.len, 0);
        ownlog_put_last(UINT32_MAX, &b);
        assert_true(b.len > 4);
        buffer_finish(&b);
}

static void too_late(void **state)
{
        struct reader x = {0};

        (void)state;
        follow(&x);
        for (int i = 0; i < LOGBOOK_LINES_MAX + 7; i++)
                add(i < 8 ? "old" : "new");
        run();
        assert_int_equal(x.lines, LOGBOOK_LINES_MAX + 1);
        assert_memory_equal(x.text, "--- 7 lines skipped|old|new|", strlen("--- 7 lines skipped|old|new|"));
        ownlog_unfollow(x.reader);
}

/* A reader that leaves in the middle, and one whose own doing is logged. */
static void readers_do_things(void **state)
{
        struct reader leaves = {.leaves = true}, logs = {.logs = true}, stays = {0};

        (void)state;
        follow(&leaves);
        follow(&logs);
        follow(&stays);
        add("one");
        add("two");
        run();
        assert_string_equal(leaves.text, "one|");
        assert_null(leaves.reader);
        assert_string_equal(logs.text, "one|two|told|told|told|");
        assert_string_equal(stays.text, "one|two|told|told|told|");
        ownlog_unfollow(logs.reader);
        ownlog_unfollow(stays.reader);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(news_come_in_order, begin, end),
                cmocka_unit_test_setup_teardown(the_end_is_read, begin, end),
                cmocka_unit_test_setup_teardown(too_late, begin, end),
                cmocka_unit_test_setup_teardown(readers_do_things, begin, end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
