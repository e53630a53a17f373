/* test_logbook.c: the newest lines stay, the oldest make room, and the log itself writes into it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/logbook.h"

static void add(const char *text)
{
        logbook_add(text, strlen(text));
}

static void assert_line(uint64_t number, const char *text)
{
        struct slice s = logbook_line(number);

        assert_int_equal(s.n, strlen(text));
        assert_memory_equal(s.p, text, s.n);
}

static void lines_have_numbers(void **state)
{
        uint64_t begin = logbook_end();

        (void)state;
        add("one");
        add("");
        add("two");
        assert_int_equal(logbook_end(), begin + 2);
        assert_line(begin, "one");
        assert_line(begin + 1, "two");
}

static void the_oldest_go_by_number(void **state)
{
        char text[32];

        (void)state;
        for (int i = 0; i < 3 * LOGBOOK_LINES_MAX; i++) {
                (void)snprintf(text, sizeof(text), "line %d", i);
                add(text);
                assert_true(logbook_end() - logbook_first() <= LOGBOOK_LINES_MAX);
        }
        assert_int_equal(logbook_end() - logbook_first(), LOGBOOK_LINES_MAX);
        (void)snprintf(text, sizeof(text), "line %d", 2 * LOGBOOK_LINES_MAX);
        assert_line(logbook_first(), text);
}

/* Each line is still what it was, whatever the lengths of those that came around. */
static void the_oldest_go_by_bytes(void **state)
{
        static unsigned lengths[1 << 16];
        static char text[LOGBOOK_BYTES_MAX];
        uint64_t begin = logbook_end();
        unsigned seed = 1;

        (void)state;
        for (unsigned i = 0; i < 20000; i++) {
                size_t bytes = 0;

                seed = seed * 1103515245 + 12345;
                lengths[i] = 1 + (seed >> 16) % (i % 7 ? 300 : 5000);
                memset(text, 'a' + (int)(i % 26), lengths[i]);
                logbook_add(text, lengths[i]);
                if (i % 97)
                        continue;
                for (uint64_t n = logbook_first() > begin ? logbook_first() : begin; n < logbook_end(); n++) {
                        struct slice s = logbook_line(n);

                        assert_int_equal(s.n, lengths[n - begin]);
                        assert_int_equal(s.p[0], 'a' + (int)((n - begin) % 26));
                        assert_int_equal(s.p[s.n - 1], 'a' + (int)((n - begin) % 26));
                        bytes += s.n;
                }
                assert_true(bytes <= LOGBOOK_BYTES_MAX);
        }
        /* It is used: no more than the longest line and the end of the ring are wasted. */
        {
                size_t bytes = 0;

                for (uint64_t n = logbook_first(); n < logbook_end(); n++)
                        bytes += logbook_line(n).n;
                assert_true(bytes >= LOGBOOK_BYTES_MAX - 2 * 5000 ||
                            logbook_end() - logbook_first() == LOGBOOK_LINES_MAX);
        }
        memset(text, 'x', sizeof(text));
        logbook_add(text, sizeof(text));
        assert_int_equal(logbook_line(logbook_end() - 1).n, LOGBOOK_BYTES_MAX / 4);
}

static void count_news(void *owner)
{
        ++*(unsigned *)owner;
}

static void the_log_writes_into_it(void **state)
{
        uint64_t begin;
        unsigned news = 0;
        int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        char line[256];
        struct slice s;

        (void)state;
        assert_true(saved >= 0 && null >= 0);
        (void)dup2(null, STDERR_FILENO);
        logbook_on_news(count_news, &news);
        begin = logbook_end();
        log_warn("qwen-0", "died of %s\nand \033[31mso on", "SIGSEGV");
        log_debug(NULL, "too quiet to be told");
        log_info(NULL, "listening");
        logbook_on_news(NULL, NULL);
        log_info(NULL, "nobody listens");
        (void)dup2(saved, STDERR_FILENO);
        close(saved);
        close(null);
        assert_int_equal(logbook_end(), begin + 3);
        assert_int_equal(news, 2);
        s = logbook_line(begin);
        (void)snprintf(line, sizeof(line), "%.*s", (int)s.n, s.p);
        assert_int_equal(strlen("2026-11-20T10:00:00.123Z"), strcspn(line, " "));
        assert_string_equal(line + 25, "warning: qwen-0: died of SIGSEGV?and so on");
        s = logbook_line(begin + 1);
        (void)snprintf(line, sizeof(line), "%.*s", (int)s.n, s.p);
        assert_string_equal(line + 25, "listening");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(lines_have_numbers),
                cmocka_unit_test(the_oldest_go_by_number),
                cmocka_unit_test(the_oldest_go_by_bytes),
                cmocka_unit_test(the_log_writes_into_it),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
