/* test_journal.c: what journald hears, on a socket of our own. */
#include "host/journal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/event.h"

struct scene {
        char dir[32];
        struct sockaddr_un at;
        int fd;
        char text[16384];
        struct journal *j;
};

static void listen_there(struct scene *s)
{
        s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_true(s->fd >= 0);
        assert_int_equal(bind(s->fd, (struct sockaddr *)&s->at, sizeof s->at), 0);
}

static int set_up(void **state)
{
        struct scene *s = calloc(1, sizeof *s);

        (void)snprintf(s->dir, sizeof s->dir, "/tmp/lsv-journal.XXXXXX");
        if (!mkdtemp(s->dir))
                return -1;
        s->at.sun_family = AF_UNIX;
        (void)snprintf(s->at.sun_path, sizeof s->at.sun_path, "%s/socket", s->dir);
        listen_there(s);
        *state = s;
        return journal_open(s->at.sun_path, &s->j);
}

static int tear_down(void **state)
{
        struct scene *s = *state;

        s->j = journal_close(s->j);
        (void)close(s->fd);
        (void)unlink(s->at.sun_path);
        (void)rmdir(s->dir);
        free(s);
        return 0;
}

static ssize_t hear(struct scene *s)
{
        ssize_t n = recv(s->fd, s->text, sizeof s->text - 1, MSG_DONTWAIT);

        s->text[MAX(n, 0)] = '\0';
        return n;
}

static bool knows(void *owner, const char *subject, struct journal_subject *ret)
{
        assert_string_equal(owner, "owner");
        if (streq(subject, "stranger"))
                return false;
        *ret = (struct journal_subject){.is_instance = streq(subject, "qwen-0"), .model = "qwen"};
        if (ret->is_instance) {
                ret->gpus[0] = "GPU-1";
                ret->gpus[1] = "GPU-2";
        }
        return true;
}

static void test_fields(void **state)
{
        struct scene *s = *state;
        char wanted[512];

        log_info(NULL, "version %s", "1");
        assert_true(hear(s) > 0);
        assert_string_equal(s->text, "PRIORITY=6\nSYSLOG_IDENTIFIER=llama-supervisor\nMESSAGE=version 1\n");
        log_warn("qwen-0", "no describer yet");
        assert_true(hear(s) > 0);
        assert_string_equal(s->text, "PRIORITY=4\nSYSLOG_IDENTIFIER=llama-supervisor\nINSTANCE=qwen-0\n"
                                     "MESSAGE=qwen-0: no describer yet\n");
        journal_describe(s->j, knows, (void *)"owner");
        log_about(LOG_ERR, &(struct log_about){.subject = "qwen-0", .event = "died"}, "died: %s", "SIGKILL");
        assert_true(hear(s) > 0);
        (void)snprintf(wanted, sizeof wanted,
                       "PRIORITY=3\nSYSLOG_IDENTIFIER=llama-supervisor\nINSTANCE=qwen-0\nMODEL=qwen\nGPU_"
                       "UUID=GPU-1\n"
                       "GPU_UUID=GPU-2\nEVENT=died\nMESSAGE_ID=%s\nMESSAGE=qwen-0: died: SIGKILL\n",
                       event_kind_find("died")->message_id);
        assert_string_equal(s->text, wanted);
        log_info("qwen", "of a model");
        assert_true(hear(s) > 0);
        assert_string_equal(
                s->text,
                "PRIORITY=6\nSYSLOG_IDENTIFIER=llama-supervisor\nMODEL=qwen\nMESSAGE=qwen: of a model\n");
        log_info("stranger", "gone");
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, "INSTANCE=stranger\nMESSAGE=stranger: gone\n"));
        assert_null(strstr(s->text, "MODEL="));
        journal_describe(s->j, NULL, NULL);
        log_debug(NULL, "above the level");
        assert_int_equal(hear(s), -1);
}

/* Nothing that a child or a client says forges a field, or a second line. */
static void test_forgery(void **state)
{
        struct scene *s = *state;

        log_warn("qwen-0", "its log says: %s", "x\nPRIORITY=0\nMESSAGE_ID=0\x1b[31mred");
        assert_true(hear(s) > 0);
        assert_string_equal(s->text, "PRIORITY=4\nSYSLOG_IDENTIFIER=llama-supervisor\nINSTANCE=qwen-0\n"
                                     "MESSAGE=qwen-0: its log says: x?PRIORITY=0?MESSAGE_ID=0red\n");
}

static bool knows_two_lines(void *owner, const char *subject, struct journal_subject *ret)
{
        (void)owner;
        (void)subject;
        *ret = (struct journal_subject){.is_instance = true, .model = "two\nlines"};
        return true;
}

static void test_newlines_are_counted(void **state)
{
        static const char wanted[] = "MODEL\n\x09\0\0\0\0\0\0\0two\nlines\nMESSAGE=a: x\n";
        struct scene *s = *state;
        ssize_t n;

        journal_describe(s->j, knows_two_lines, NULL);
        log_info("a", "x");
        n = hear(s);
        assert_true(n > (ssize_t)sizeof wanted);
        assert_memory_equal(s->text + n - (ssize_t)(sizeof wanted - 1), wanted, sizeof wanted - 1);
}

/* A reader that stands still costs lines, never time; it is told how many. */
static void test_a_full_journal(void **state)
{
        struct scene *s = *state;
        uint64_t before = log_lost();
        unsigned heard = 0;

        for (unsigned i = 0; i < 5000; i++)
                log_info(NULL, "line %u", i);
        assert_true(log_lost() > before);
        while (hear(s) > 0)
                heard++;
        assert_int_equal(heard + (log_lost() - before), 5000);
        log_info(NULL, "after");
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, " lines before this one could not be written to the journal\n"));
        assert_int_equal(strtoull(strstr(s->text, "MESSAGE=") + strlen("MESSAGE="), NULL, 10),
                         log_lost() - before);
        assert_non_null(strstr(s->text, "PRIORITY=4\n"));
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, "MESSAGE=after\n"));
        assert_int_equal(hear(s), -1);
}

static void on_beat(void *owner, usec_t now)
{
        (void)now;
        loop_stop(owner);
}

/* Hears all that comes within a while, in order: "line 0", "line 1" … Returns how many. */
static unsigned hear_lines(struct scene *s, struct loop *loop, struct timer *beat, unsigned from,
                           unsigned most)
{
        unsigned n = 0, quiet = 0;

        while (n < most && quiet < 2000) {
                if (hear(s) > 0) {
                        const char *line = strstr(s->text, "MESSAGE=line ");

                        if (!line)
                                break; /* what was lost is told */
                        assert_int_equal(strtoul(line + strlen("MESSAGE=line "), NULL, 10), from + n);
                        n++;
                        quiet = 0;
                        continue;
                }
                quiet++;
                timer_set(beat, time_monotonic() + 5 * USEC_PER_MSEC);
                loop_run(loop);
        }
        return n;
}

/* A burst of one turn is more than the kernel keeps for a reader that has not come to it yet: it waits here. */
static void test_a_burst_waits(void **state)
{
        struct scene *s = *state;
        uint64_t before = log_lost();
        struct timer *beat;
        struct loop *loop;
        unsigned heard;

        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(timer_new(loop, on_beat, loop, &beat), 0);
        assert_int_equal(journal_attach(s->j, loop), 0);
        for (unsigned i = 0; i < JOURNAL_WAITING; i++)
                log_info(NULL, "line %u", i);
        assert_int_equal(log_lost(), before);
        assert_int_equal(hear_lines(s, loop, beat, 0, JOURNAL_WAITING), JOURNAL_WAITING);
        /* There is a bound, and what is beyond it is told between the lines before and after. */
        for (unsigned i = 0; i < 3 * JOURNAL_WAITING + 1000; i++)
                log_info(NULL, "line %u", i);
        assert_true(log_lost() > before);
        heard = hear_lines(s, loop, beat, 0, 3 * JOURNAL_WAITING + 1000);
        assert_true(heard >= JOURNAL_WAITING);
        assert_non_null(strstr(s->text, " lines before this one could not be written to the journal\n"));
        assert_int_equal(strtoull(strstr(s->text, "MESSAGE=") + strlen("MESSAGE="), NULL, 10),
                         log_lost() - before);
        assert_int_equal(heard + log_lost() - before, 3 * JOURNAL_WAITING + 1000);
        /* Its reader goes away: what waited for it is lost, and new lines find their own way. */
        before = log_lost();
        for (unsigned i = 0; i < JOURNAL_WAITING; i++)
                log_info(NULL, "line %u", i);
        assert_int_equal(log_lost(), before);
        (void)close(s->fd);
        (void)unlink(s->at.sun_path);
        log_info(NULL, "to stderr: this line is part of the test");
        assert_true(log_lost() > before);
        listen_there(s);
        log_info(NULL, "back");
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, " before this one could not be written"));
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, "MESSAGE=back\n"));
        /* The end does not wait for who does not read. */
        for (unsigned i = 0; i < JOURNAL_WAITING; i++)
                log_info(NULL, "line %u", i);
        before = log_lost();
        assert_int_equal(journal_attach(s->j, NULL), 0);
        s->j = journal_close(s->j);
        assert_true(log_lost() > before);
        beat = timer_free(beat);
        loop = loop_free(loop);
}

/* journald is restarted: nothing is lost, lines go to stderr meanwhile. */
static void test_the_socket_goes_and_comes(void **state)
{
        struct scene *s = *state;
        uint64_t before = log_lost();

        (void)close(s->fd);
        (void)unlink(s->at.sun_path);
        log_info(NULL, "to stderr: this line is part of the test");
        assert_int_equal(log_lost(), before);
        listen_there(s);
        log_info(NULL, "back");
        assert_true(hear(s) > 0);
        assert_non_null(strstr(s->text, "MESSAGE=back\n"));
}

static void test_nobody_there(void **state)
{
        struct journal *j = NULL;

        (void)state;
        assert_int_equal(journal_open("/nonexistent/journal", &j), -ENOENT);
        assert_null(j);
        assert_null(journal_close(NULL));
        journal_describe(NULL, NULL, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_fields, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_forgery, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_newlines_are_counted, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_a_full_journal, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_a_burst_waits, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_the_socket_goes_and_comes, set_up, tear_down),
                cmocka_unit_test(test_nobody_there),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
