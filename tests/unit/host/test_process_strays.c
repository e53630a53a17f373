/* test_process_strays.c: what left the session of a child is found and signalled; strangers that look like it are not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/macros.h"
#include "host/process.h"
#include "host/process_proc.h"

#define MARK "LSV_INSTANCE=/run/test/qwen-0"

static char log_path[] = "/tmp/lsv-strays-XXXXXX", other_path[] = "/tmp/lsv-strays-XXXXXX";
static int log_fd = -1, other_fd = -1;
static struct loop *loop;

static void pause_ms(long ms)
{
        struct timespec span = {.tv_nsec = ms * 1000000};

        (void)nanosleep(&span, NULL);
}

/* A process that sleeps, in a session of its own or in ours. */
static pid_t start(const char *mark, int out, int err, bool own_session)
{
        char *argv[] = {(char *)"/bin/sleep", (char *)"100", NULL},
             *envp[] = {(char *)"A=b", (char *)mark, NULL};
        int ready[2];
        char byte;
        pid_t pid;

        assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                if (own_session)
                        (void)setsid();
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)dup2(out, STDOUT_FILENO);
                (void)dup2(err, STDERR_FILENO);
                (void)execve(argv[0], argv, envp);
                _exit(127);
        }
        (void)close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 0); /* it runs the program by now */
        (void)close(ready[0]);
        return pid;
}

static uint64_t born(pid_t pid)
{
        uint64_t at;

        assert_int_equal(process_read_start_time(pid, &at), 0);
        return at;
}

static bool is_running(pid_t pid)
{
        return waitpid(pid, NULL, WNOHANG) == 0;
}

static void expect_killed(pid_t pid)
{
        int status;

        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void end(pid_t pid)
{
        assert_int_equal(kill(pid, SIGKILL), 0);
        expect_killed(pid);
}

/* The snapshot is kept as long as the turn is the same. */
static int signal_strays(pid_t leader, uint64_t since, int signo)
{
        process_finish();
        return process_signal_strays(loop, leader, since, log_path, MARK, signo);
}

static void strays_are_found(void **state)
{
        pid_t leader = start(MARK, log_fd, log_fd, true), stray[3];
        uint64_t since = born(leader);

        (void)state;
        stray[0] = start(MARK, log_fd, log_fd, true);
        stray[1] = start(MARK, log_fd, other_fd, true);
        stray[2] = start(MARK, other_fd, log_fd, true);
        assert_int_equal(signal_strays(leader, since, 0), 3);
        for (unsigned i = 0; i < 3; i++)
                assert_true(is_running(stray[i]));
        end(leader); /* they outlive it, and are found by its number and start time alone */
        assert_int_equal(signal_strays(leader, since, SIGKILL), 3);
        for (unsigned i = 0; i < 3; i++)
                expect_killed(stray[i]);
        assert_int_equal(signal_strays(leader, since, SIGKILL), 0);
}

static void zombies_are_none(void **state)
{
        pid_t leader = start(MARK, log_fd, log_fd, true), stray = start(MARK, log_fd, log_fd, true);
        struct proc_stat st = {0};

        (void)state;
        assert_int_equal(kill(stray, SIGKILL), 0);
        while (proc_read_stat(stray, &st) == 0 && st.state != 'Z')
                pause_ms(5);
        assert_int_equal(signal_strays(leader, born(leader), 0), 0);
        expect_killed(stray);
        end(leader);
}

/* Each of them differs in one thing. */
static void strangers_are_left_alone(void **state)
{
        pid_t older = start(MARK, log_fd, log_fd, true), leader, strangers[7];
        uint64_t since;

        (void)state;
        pause_ms(50); /* start times are told in steps of 10 ms */
        leader = start(MARK, log_fd, log_fd, true);
        since = born(leader);
        assert_true(born(older) < since);
        strangers[0] = start(NULL, log_fd, log_fd, true);     /* a person writes to the log */
        strangers[1] = start(MARK "0", log_fd, log_fd, true); /* another instance's */
        strangers[2] = start("LSV_INSTANCE=/run/test/qwen-", log_fd, log_fd, true);
        strangers[3] = start("X" MARK, log_fd, log_fd, true);
        strangers[4] = start(MARK, other_fd, other_fd, true);                         /* writes elsewhere */
        strangers[5] = start("LSV_INSTANCE=/run/other/qwen-0", log_fd, log_fd, true); /* another daemon's */
        strangers[6] = start("LSV_INSTANCE=", log_fd, log_fd, true);
        assert_int_equal(signal_strays(leader, since, SIGKILL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(strangers); i++)
                assert_true(is_running(strangers[i]));
        assert_true(is_running(older));
        assert_true(is_running(leader)); /* the leader is not its own stray */
        for (size_t i = 0; i < ARRAY_SIZE(strangers); i++)
                end(strangers[i]);
        end(older);
        end(leader);
}

/* Those are told with their group; twice would be once too often for a server that ends hard at the second SIGTERM. */
static void members_are_no_strays(void **state)
{
        pid_t us = getsid(0), member = start(MARK, log_fd, log_fd, false);

        (void)state;
        assert_int_equal(getsid(member), us);
        assert_int_equal(signal_strays(us, 0, 0), 0);
        assert_int_equal(signal_strays(1, born(member), 0), 1);
        end(member);
}

static void without_a_log(void **state)
{
        pid_t stray = start(MARK, log_fd, log_fd, true);

        (void)state;
        assert_int_equal(process_signal_strays(loop, 1, 0, "/tmp/lsv-strays-none", MARK, SIGKILL), 0);
        assert_true(is_running(stray));
        end(stray);
}

static int group_start(void **state)
{
        (void)state;
        log_fd = mkostemp(log_path, O_CLOEXEC);
        other_fd = mkostemp(other_path, O_CLOEXEC);
        return log_fd < 0 || other_fd < 0 || loop_new(&loop) < 0;
}

static int group_end(void **state)
{
        (void)state;
        process_finish();
        loop = loop_free(loop);
        (void)close(log_fd);
        (void)close(other_fd);
        return unlink(log_path) | unlink(other_path);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(strays_are_found),
                cmocka_unit_test(zombies_are_none),
                cmocka_unit_test(strangers_are_left_alone),
                cmocka_unit_test(members_are_no_strays),
                cmocka_unit_test(without_a_log),
        };

        return cmocka_run_group_tests(tests, group_start, group_end);
}
