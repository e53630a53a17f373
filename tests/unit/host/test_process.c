/* test_process.c: real little children: spawned, killed, taken over, and their groups. This program is also the child:
 * "facts" prints what a child finds, "spin" burns CPU, "stray" leaves its group. */
#include "host/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include <linux/sched.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/text.h"
#include "host/process_proc.h"

static char self[4096], dir[64];

struct scene {
        struct loop *loop;
        struct timer *guard, *pace;
        struct process *p;
        struct process_exit ended;
        unsigned exits, wanted;
        bool free_on_exit, hung;
        int out;
        char out_path[96];
};

static void on_guard(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->hung = true;
        loop_stop(s->loop);
}

static void on_pace(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        loop_stop(s->loop);
}

static void scene_init(struct scene *s)
{
        static unsigned n;

        *s = (struct scene){.wanted = 1};
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_guard, s, &s->guard), 0);
        assert_int_equal(timer_new(s->loop, on_pace, s, &s->pace), 0);
        timer_set(s->guard, loop_now(s->loop) + 40 * USEC_PER_SEC);
        (void)snprintf(s->out_path, sizeof s->out_path, "%s/out%u", dir, n++);
        s->out = open(s->out_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        assert_true(s->out >= 0);
}

static void scene_finish(struct scene *s)
{
        s->p = process_free(s->p);
        s->guard = timer_free(s->guard);
        s->pace = timer_free(s->pace);
        s->loop = loop_free(s->loop);
        (void)close(s->out);
        (void)unlink(s->out_path);
        process_finish();
        errno = 0;
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* every child was reaped */
        assert_int_equal(errno, ECHILD);
}

static void on_exit_seen(void *owner, const struct process_exit *ended, usec_t now)
{
        struct scene *s = owner;

        assert_true(now > 0);
        s->ended = *ended;
        s->exits++;
        if (s->free_on_exit)
                s->p = process_free(s->p);
        if (s->exits >= s->wanted)
                loop_stop(s->loop);
}

/* Lets the loop turn for so long, and so the time of its turns go on. */
static void pause_ms(struct scene *s, unsigned ms)
{
        timer_set(s->pace, time_monotonic() + ms * USEC_PER_MSEC);
        loop_run(s->loop);
        assert_false(s->hung);
}

static void await_exit(struct scene *s)
{
        loop_run(s->loop);
        assert_false(s->hung);
        assert_int_equal(s->exits, s->wanted);
}

static int start_spec(struct scene *s, const struct process_spec *spec)
{
        return process_spawn(s->loop, spec, on_exit_seen, s, &s->p);
}

static int start(struct scene *s, const char *binary, const char *arg1, const char *arg2)
{
        char *argv[] = {(char *)binary, (char *)arg1, (char *)arg2, NULL}, *envp[] = {NULL};

        return start_spec(
                s, &(struct process_spec){
                           .binary = binary, .argv = argv, .envp = envp, .output = s->out, .umask = 077});
}

static void start_sh(struct scene *s, const char *script)
{
        assert_int_equal(start(s, "/bin/sh", "-c", script), 0);
}

static const char *output(struct scene *s)
{
        static char text[8192];
        ssize_t n = pread(s->out, text, sizeof text - 1, 0);

        text[MAX(n, 0)] = '\0';
        return text;
}

/* Waits until the child has said so much. */
static void await_output(struct scene *s, const char *word)
{
        for (unsigned i = 0; i < 1000 && !strstr(output(s), word); i++)
                pause_ms(s, 10);
        assert_non_null(strstr(output(s), word));
}

static pid_t number_after(struct scene *s, const char *word)
{
        const char *p = strstr(output(s), word);

        assert_non_null(p);
        return (pid_t)strtol(p + strlen(word), NULL, 10);
}

/* Gone, or a zombie that PID 1 has yet to reap. */
static bool is_dead(pid_t pid)
{
        struct proc_stat st;

        return proc_read_stat(pid, &st) < 0 || st.state == 'Z' || st.state == 'X';
}

static bool await_death(struct scene *s, pid_t pid)
{
        for (unsigned i = 0; i < 1000 && !is_dead(pid); i++)
                pause_ms(s, 10);
        return is_dead(pid);
}

static bool kernel_at_least(int major, int minor)
{
        struct utsname u;
        int a = 0, b = 0;

        assert_int_equal(uname(&u), 0);
        (void)sscanf(u.release, "%d.%d", &a, &b);
        return a > major || (a == major && b >= minor);
}

/* --- what a child finds ------------------------------------------------------------------------------------- */

static int child_facts(void)
{
        char link[256], line[256];
        ssize_t n;
        FILE *f;

        printf("pid %d pgid %d sid %d\n", getpid(), getpgrp(), getsid(0));
        printf("umask %03o\n", umask(0));
        printf("cwd %s\n", getcwd(link, sizeof link) ? link : "?");
        for (unsigned i = 0; i < 1000 && getpriority(PRIO_PROCESS, 0) != 7; i++)
                (void)usleep(10000); /* it is given right after the start, when we may be here already */
        printf("nice %d\n", getpriority(PRIO_PROCESS, 0));
        printf("fds");
        for (int fd = 0; fd < 1024; fd++)
                if (fcntl(fd, F_GETFD) >= 0)
                        printf(" %d", fd);
        n = readlink("/proc/self/fd/0", link, sizeof link - 1);
        link[MAX(n, 0)] = '\0';
        printf("\nstdin %s\n", link);
        f = fopen("/proc/self/status", "re");
        while (f && fgets(line, sizeof line, f))
                if (starts_with(line, "SigBlk") || starts_with(line, "SigIgn"))
                        printf("%s", line);
        if (f)
                fclose(f);
        printf("end\n");
        return fflush(stdout) == 0 ? 0 : 1;
}

_Noreturn static void child_spin(void)
{
        for (volatile unsigned i = 0;; i++)
                continue;
}

/* The leader dies at once; its child, in a group of its own but the same session, sleeps on and ignores SIGTERM. */
static int child_stray(void)
{
        pid_t pid;

        (void)signal(SIGTERM, SIG_IGN);
        pid = fork();
        if (pid == 0) {
                (void)setpgid(0, 0);
                printf("stray %d\n", getpid());
                (void)fflush(stdout);
                for (unsigned i = 0; i < 60; i++)
                        sleep(1);
                return 0;
        }
        return pid < 0;
}

static void test_a_child_finds_what_was_ordered(void **state)
{
        char *argv[] = {self, (char *)"facts", NULL}, *envp[] = {(char *)"ASAN_OPTIONS=detect_leaks=0", NULL};
        sigset_t set, old;
        struct scene s;
        mode_t mask;
        const char *ignored;
        char want[128];
        int leak;

        (void)state;
        scene_init(&s);
        leak = fcntl(s.out, F_DUPFD, 50); /* not close-on-exec */
        (void)signal(SIGPIPE, SIG_IGN);
        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGUSR1);
        (void)sigprocmask(SIG_BLOCK, &set, &old);
        mask = umask(027);
        assert_int_equal(start_spec(&s, &(struct process_spec){.binary = self,
                                                               .argv = argv,
                                                               .envp = envp,
                                                               .cwd = dir,
                                                               .output = s.out,
                                                               .nice = 7,
                                                               .umask = 0137}),
                         0);
        assert_int_equal(umask(mask), 027); /* ours is as it was */
        (void)sigprocmask(SIG_SETMASK, &old, NULL);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)close(leak);
        await_exit(&s);
        assert_int_equal(s.ended.kind, EXIT_CODE);
        assert_int_equal(s.ended.value, 0);
        assert_true(s.ended.max_rss_bytes > 100000);
        (void)snprintf(want, sizeof want, "pid %1$d pgid %1$d sid %1$d\n", (int)process_pid(s.p));
        assert_non_null(strstr(output(&s), want));
        assert_non_null(strstr(output(&s), "umask 137\n"));
        (void)snprintf(want, sizeof want, "cwd %s\n", dir);
        assert_non_null(strstr(output(&s), want));
        assert_non_null(strstr(output(&s), "nice 7\n"));
        assert_non_null(strstr(output(&s), "fds 0 1 2\n"));
        assert_non_null(strstr(output(&s), "stdin /dev/null\n"));
        assert_non_null(strstr(output(&s), "SigBlk:\t0000000000000000\n"));
        ignored = strstr(output(&s), "SigIgn:\t");
        assert_non_null(ignored);
        /* 32 and 33 are the C library's own; its posix_spawn ignores them on the way, and pthread_create takes them back. */
        assert_int_equal(strtoull(ignored + 8, NULL, 16) & ~UINT64_C(0x180000000), 0);
        scene_finish(&s);
}

static void test_the_environment_is_exactly_the_given_one(void **state)
{
        char *argv[] = {(char *)"env", NULL}, *envp[] = {(char *)"A=1", (char *)"B=two words", NULL};
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(setenv("LLAMA_API_KEY", "secret", 1), 0);
        /* A bare name is looked up on our own PATH, which the child does not get. */
        assert_int_equal(start_spec(&s,
                                    &(struct process_spec){
                                            .binary = "env", .argv = argv, .envp = envp, .output = s.out}),
                         0);
        await_exit(&s);
        assert_string_equal(output(&s), "A=1\nB=two words\n");
        unsetenv("LLAMA_API_KEY");
        scene_finish(&s);
}

/* --- how it ends ----------------------------------------------------------------------------------------------- */

static void test_exit_code(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        start_sh(&s, "exit 7");
        assert_false(process_has_exited(s.p));
        assert_true(process_is_ours(s.p));
        await_exit(&s);
        assert_true(process_has_exited(s.p));
        assert_int_equal(s.ended.kind, EXIT_CODE);
        assert_int_equal(s.ended.value, 7);
        assert_false(s.ended.core_dumped);
        assert_int_equal(process_signal(s.p, SIGKILL), -ESRCH);
        scene_finish(&s);
}

/* Before the loop has told it. */
static void test_dying_shows_at_once(void **state)
{
        usec_t until = time_monotonic() + 60 * USEC_PER_SEC;
        struct scene s;

        (void)state;
        scene_init(&s);
        start_sh(&s, "exec sleep 1000");
        assert_false(process_is_dying(s.p));
        assert_int_equal(process_signal(s.p, SIGKILL), 0);
        while (!process_is_dying(s.p))
                assert_true(time_monotonic() < until);
        assert_false(process_has_exited(s.p));
        await_exit(&s);
        assert_true(process_is_dying(s.p));
        scene_finish(&s);
}

static void test_signal_and_core(void **state)
{
        struct rlimit core;
        char pattern[64] = "";
        struct scene s;
        FILE *f;

        (void)state;
        scene_init(&s);
        start_sh(&s, "ulimit -c 0; kill -SEGV $$");
        await_exit(&s);
        assert_int_equal(s.ended.kind, EXIT_SIGNAL);
        assert_int_equal(s.ended.value, SIGSEGV);
        assert_false(s.ended.core_dumped);
        scene_finish(&s);

        f = fopen("/proc/sys/kernel/core_pattern", "re");
        if (f) {
                if (!fgets(pattern, sizeof pattern, f))
                        pattern[0] = '\0';
                fclose(f);
        }
        assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
        if (!streq(pattern, "core\n") || core.rlim_max == 0)
                return; /* cores go elsewhere on this machine: a test must not leave one there */
        scene_init(&s);
        char *argv[] = {(char *)"sh", (char *)"-c",
                        (char *)"ulimit -c unlimited || ulimit -c 100000; kill -ABRT $$", NULL};
        char *envp[] = {NULL};
        assert_int_equal(
                start_spec(&s,
                           &(struct process_spec){
                                   .binary = "sh", .argv = argv, .envp = envp, .output = s.out, .cwd = dir}),
                0);
        await_exit(&s);
        assert_int_equal(s.ended.value, SIGABRT);
        assert_true(s.ended.core_dumped);
        char path[96];
        (void)snprintf(path, sizeof path, "%s/core", dir);
        if (unlink(path) < 0) { /* core_uses_pid */
                (void)snprintf(path, sizeof path, "%s/core.%d", dir, (int)process_pid(s.p));
                assert_int_equal(unlink(path), 0);
        }
        scene_finish(&s);
}

static void test_what_cannot_be_run(void **state)
{
        char path[96], *argv[] = {(char *)"true", NULL}, *envp[] = {NULL};
        struct scene s;
        char *old_path;
        int fd;

        (void)state;
        scene_init(&s);
        assert_int_equal(start(&s, "/no/such/binary", NULL, NULL), -ENOENT);
        assert_int_equal(start(&s, "no-such-binary-on-path", NULL, NULL), -ENOENT);
        assert_int_equal(start(&s, "", NULL, NULL), -ENOENT);
        assert_int_equal(start(&s, "build/relative", NULL, NULL), -EINVAL);
        assert_int_equal(start(&s, "/", NULL, NULL), -EACCES);

        (void)snprintf(path, sizeof path, "%s/binary", dir);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        assert_int_equal(write(fd, "not a program", 13), 13);
        assert_int_equal(close(fd), 0);
        assert_int_equal(start(&s, path, NULL, NULL), -EACCES);
        old_path = text_dup(getenv("PATH"));
        assert_int_equal(setenv("PATH", dir, 1), 0);
        assert_int_equal(start(&s, "binary", NULL, NULL), -EACCES);
        assert_int_equal(setenv("PATH", "", 1), 0);
        assert_int_equal(start(&s, "binary", NULL, NULL), -ENOENT);
        assert_int_equal(setenv("PATH", old_path ? old_path : "/bin", 1), 0);
        free(old_path);
        assert_int_equal(chmod(path, 0755), 0);
        assert_int_equal(start(&s, path, NULL, NULL), -ENOEXEC);
        assert_int_equal(start_spec(&s, &(struct process_spec){.binary = "/bin/true",
                                                               .argv = argv,
                                                               .envp = envp,
                                                               .cwd = path,
                                                               .output = s.out}),
                         -ENOTDIR);
        assert_int_equal(start_spec(&s, &(struct process_spec){.binary = "/bin/true",
                                                               .argv = argv,
                                                               .envp = envp,
                                                               .cwd = "/no/such/dir",
                                                               .output = s.out}),
                         -ENOTDIR);
        assert_int_equal(unlink(path), 0);
        assert_null(s.p);
        assert_int_equal(s.exits, 0);
        scene_finish(&s);
}

static void test_out_of_descriptors(void **state)
{
        struct rlimit old, tight;
        struct scene s;
        unsigned refused = 0;
        int r = 0;

        (void)state;
        scene_init(&s);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        /* Whatever the spare descriptors are, it works or it is refused, and no child is left behind. */
        for (rlim_t limit = 3; limit < 40; limit++) {
                tight = (struct rlimit){limit, old.rlim_max};
                assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
                r = start(&s, "/bin/true", NULL, NULL);
                assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
                if (r == 0)
                        break;
                assert_int_equal(r, -EMFILE);
                refused++;
                errno = 0;
                assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
                assert_int_equal(errno, ECHILD);
        }
        assert_int_equal(r, 0);
        assert_true(refused > 2);
        await_exit(&s);
        scene_finish(&s);
}

static void test_ignored_sigchld_is_repaired(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        (void)signal(SIGCHLD, SIG_IGN);
        start_sh(&s, "exit 5");
        await_exit(&s);
        assert_int_equal(s.ended.kind, EXIT_CODE);
        assert_int_equal(s.ended.value, 5);
        scene_finish(&s);
}

static void test_sigkill_is_known_and_free_inside(void **state)
{
        struct scene s;
        usec_t before;

        (void)state;
        scene_init(&s);
        s.free_on_exit = true;
        assert_int_equal(start(&s, "/bin/sleep", "60", NULL), 0);
        pause_ms(&s, 20);
        assert_int_equal(s.exits, 0);
        before = time_monotonic();
        assert_int_equal(process_signal(s.p, SIGKILL), 0);
        await_exit(&s);
        assert_true(time_monotonic() - before < 10 * USEC_PER_SEC);
        assert_int_equal(s.ended.kind, EXIT_SIGNAL);
        assert_int_equal(s.ended.value, SIGKILL);
        assert_null(s.p);
        scene_finish(&s);
}

static void test_two_hundred_at_once(void **state)
{
        char *argv[] = {(char *)"sleep", (char *)"60", NULL}, *envp[] = {NULL};
        struct process *all[200];
        struct scene s;

        (void)state;
        scene_init(&s);
        s.wanted = ARRAY_SIZE(all);
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                assert_int_equal(process_spawn(s.loop,
                                               &(struct process_spec){.binary = "/bin/sleep",
                                                                      .argv = argv,
                                                                      .envp = envp,
                                                                      .output = s.out},
                                               on_exit_seen, &s, &all[i]),
                                 0);
        for (size_t i = 0; i < ARRAY_SIZE(all); i++)
                assert_int_equal(process_signal_group(all[i], SIGKILL), 1);
        await_exit(&s);
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                assert_true(process_has_exited(all[i]));
                assert_int_equal(process_group_count(all[i]), 0);
                all[i] = process_free(all[i]);
        }
        scene_finish(&s);
}

static void test_free_leaves_the_child_alone(void **state)
{
        struct process_exit ended;
        struct scene s;
        uint64_t start_time;
        pid_t pid;

        (void)state;
        scene_init(&s);
        assert_int_equal(start(&s, "/bin/sleep", "60", NULL), 0);
        pid = process_pid(s.p);
        start_time = process_start_time(s.p);
        s.p = process_free(s.p);
        pause_ms(&s, 50);
        assert_int_equal(kill(pid, 0), 0);
        assert_false(is_dead(pid));
        /* As after an upgrade by exec: it is our child still, so we reap it and know how it ended. */
        assert_int_equal(process_adopt(s.loop, pid, start_time, on_exit_seen, &s, &s.p), 0);
        assert_false(process_is_ours(s.p));
        assert_true(process_has_group(s.p));
        assert_int_equal(process_signal_group(s.p, SIGTERM), 1);
        await_exit(&s);
        ended = s.ended;
        assert_int_equal(ended.kind, EXIT_SIGNAL);
        assert_int_equal(ended.value, SIGTERM);
        assert_true(ended.max_rss_bytes > 0);
        scene_finish(&s);
}

/* --- groups ----------------------------------------------------------------------------------------------------- */

static void test_grandchild_outlives_its_leader(void **state)
{
        struct scene s;
        pid_t grandchild;

        (void)state;
        scene_init(&s);
        start_sh(&s, "(trap '' TERM; echo child $(exec sh -c 'echo $PPID'); while :; do sleep 0.05; done) & "
                     "while :; do sleep 0.05; done");
        await_output(&s, "child ");
        pause_ms(&s, 50);
        grandchild = number_after(&s, "child ");
        assert_true(grandchild > 1);
        assert_int_equal(process_signal(s.p, SIGKILL), 0); /* the leader alone */
        await_exit(&s);
        assert_false(is_dead(grandchild));
        assert_true(process_group_count(s.p) >= 1);
        assert_true(process_signal_group(s.p, SIGTERM) >= 1);
        pause_ms(&s, 100);
        assert_false(is_dead(grandchild)); /* it ignores SIGTERM */
        assert_true(process_group_count(s.p) >= 1);
        assert_true(process_signal_group(s.p, SIGKILL) >= 1);
        assert_true(await_death(&s, grandchild));
        for (unsigned i = 0; i < 1000 && process_group_count(s.p) > 0; i++)
                pause_ms(&s, 10);
        assert_int_equal(process_group_count(s.p), 0);
        assert_int_equal(process_signal_group(s.p, SIGKILL), 0);
        scene_finish(&s);
}

static void test_group_is_signalled_with_its_leader(void **state)
{
        struct scene s;
        pid_t child;

        (void)state;
        scene_init(&s);
        start_sh(&s, "sleep 60 & echo child $!; wait; exit 1");
        await_output(&s, "child ");
        child = number_after(&s, "child ");
        pause_ms(&s, 20);
        assert_int_equal(process_group_count(s.p), 1);
        assert_int_equal(process_signal_group(s.p, SIGTERM), 2);
        await_exit(&s);
        assert_int_equal(s.ended.kind, EXIT_SIGNAL);
        assert_true(await_death(&s, child));
        scene_finish(&s);
}

static void test_stray_in_a_group_of_its_own(void **state)
{
        struct scene s;
        pid_t stray;

        (void)state;
        scene_init(&s);
        assert_int_equal(start(&s, self, "stray", NULL), 0);
        await_exit(&s);
        assert_int_equal(s.ended.value, 0);
        await_output(&s, "stray ");
        stray = number_after(&s, "stray ");
        assert_int_not_equal(getpgid(stray), process_pid(s.p));
        assert_int_equal(process_group_count(s.p), 1);
        assert_int_equal(process_signal_group(s.p, SIGKILL), 1);
        assert_true(await_death(&s, stray));
        scene_finish(&s);
}

/* A process with a number of our choice, as a stranger that the kernel gave our dead child's number. */
static pid_t clone_as(pid_t number)
{
        struct clone_args args = {
                .exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&number, .set_tid_size = 1};
        pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

        if (pid == 0) {
                (void)setsid();
                (void)fork(); /* a member of its group, which is no member of ours */
                for (;;)
                        (void)pause();
        }
        return pid;
}

static void test_a_reused_number_is_a_stranger(void **state)
{
        struct process *again = NULL;
        uint64_t old_start, new_start = 0;
        struct scene s;
        pid_t number;

        (void)state;
        scene_init(&s);
        start_sh(&s, "exit 0");
        number = process_pid(s.p);
        old_start = process_start_time(s.p);
        await_exit(&s);
        pause_ms(&s, 50);                 /* start times count in ticks of 10 ms */
        if (clone_as(number) != number) { /* needs CAP_CHECKPOINT_RESTORE */
                scene_finish(&s);
                skip();
        }
        assert_int_equal(process_read_start_time(number, &new_start), 0);
        assert_true(new_start > old_start);
        assert_false(proc_number_is_free(number));
        pause_ms(&s, 50);
        assert_int_equal(process_signal_group(s.p, SIGKILL), 0);
        assert_int_equal(process_group_count(s.p), 0);
        assert_int_equal(process_signal(s.p, SIGKILL), -ESRCH);
        assert_int_equal(process_adopt(s.loop, number, old_start, on_exit_seen, &s, &again), -ESRCH);
        pause_ms(&s, 50);
        assert_int_equal(process_signal_group(s.p, SIGKILL), 0); /* still, now that its child is there too */
        assert_int_equal(process_group_count(s.p), 0);
        assert_int_equal(waitpid(number, NULL, WNOHANG), 0); /* untouched */
        assert_int_equal(kill(-number, SIGKILL), 0);
        assert_int_equal(waitpid(number, NULL, 0), number);
        for (unsigned i = 0; i < 1000 && !proc_number_is_free(number); i++)
                pause_ms(&s, 10); /* PID 1 may reap the stranger's child late */
        assert_true(proc_number_is_free(number));
        scene_finish(&s);
}

/* --- taking over ------------------------------------------------------------------------------------------------- */

/* A grandchild: its parent says its number and then either exits (PID 1 inherits and reaps) or waits without reaping. */
static pid_t start_foreign(struct scene *s, const char *script, bool parent_stays, pid_t *ret_parent)
{
        int ends[2];
        pid_t parent, pid = 0;

        (void)s;
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        parent = fork();
        assert_true(parent >= 0);
        if (parent == 0) {
                pid = fork();
                if (pid == 0) {
                        (void)setsid();
                        (void)execl("/bin/sh", "sh", "-c", script, (char *)NULL);
                        _exit(127);
                }
                if (write(ends[1], &pid, sizeof pid) != sizeof pid)
                        _exit(1);
                while (parent_stays)
                        (void)pause();
                _exit(0);
        }
        (void)close(ends[1]);
        assert_int_equal(read(ends[0], &pid, sizeof pid), sizeof pid);
        (void)close(ends[0]);
        if (parent_stays)
                *ret_parent = parent;
        else
                assert_int_equal(waitpid(parent, NULL, 0), parent);
        return pid;
}

static void test_adopt_and_learn_the_signal(void **state)
{
        struct scene s;
        uint64_t start_time = 0;
        pid_t pid;

        (void)state;
        scene_init(&s);
        pid = start_foreign(&s, "while :; do sleep 0.05; done", false, NULL);
        assert_int_equal(process_read_start_time(pid, &start_time), 0);
        pause_ms(&s, 50);
        assert_int_equal(process_adopt(s.loop, pid, start_time + 1, on_exit_seen, &s, &s.p), -ESRCH);
        assert_null(s.p);
        assert_int_equal(process_adopt(s.loop, pid, start_time, on_exit_seen, &s, &s.p), 0);
        assert_int_equal(process_pid(s.p), pid);
        assert_int_equal(process_start_time(s.p), start_time);
        assert_false(process_is_ours(s.p));
        assert_true(process_signal_group(s.p, SIGKILL) >= 1);
        await_exit(&s);
        if (kernel_at_least(6, 15)) {
                assert_int_equal(s.ended.kind, EXIT_SIGNAL);
                assert_int_equal(s.ended.value, SIGKILL);
        } else {
                assert_true(s.ended.kind == EXIT_UNKNOWN || s.ended.value == SIGKILL);
        }
        assert_int_equal(process_adopt(s.loop, pid, start_time, on_exit_seen, &s, &s.p), -ESRCH);
        scene_finish(&s);
}

static void test_adopted_zombie_is_dead_and_tells_its_code(void **state)
{
        struct process *again = NULL;
        struct scene s;
        uint64_t start_time = 0;
        pid_t pid, parent = 0;

        (void)state;
        scene_init(&s);
        pid = start_foreign(&s, "trap 'exit 3' TERM; while :; do sleep 0.05; done", true, &parent);
        pause_ms(&s, 200);
        assert_int_equal(process_read_start_time(pid, &start_time), 0);
        assert_int_equal(process_adopt(s.loop, pid, start_time, on_exit_seen, &s, &s.p), 0);
        assert_int_equal(process_signal(s.p, SIGTERM), 0);
        await_exit(&s);
        assert_int_equal(s.ended.kind, EXIT_CODE);
        assert_int_equal(s.ended.value, 3);
        assert_int_equal(kill(pid, 0), 0); /* a zombie still, for its parent sleeps */
        assert_int_equal(process_adopt(s.loop, pid, start_time, on_exit_seen, &s, &again), -ESRCH);
        assert_null(again);
        assert_int_equal(kill(parent, SIGKILL), 0);
        assert_int_equal(waitpid(parent, NULL, 0), parent);
        scene_finish(&s);
}

static void test_adopt_refuses_what_is_no_server(void **state)
{
        struct process *p = NULL;
        struct scene s;
        uint64_t start_time = 0;

        (void)state;
        scene_init(&s);
        assert_int_equal(process_adopt(s.loop, 0, 1, on_exit_seen, &s, &p), -ESRCH);
        assert_int_equal(process_adopt(s.loop, -5, 1, on_exit_seen, &s, &p), -ESRCH);
        assert_int_equal(process_read_start_time(getpid(), &start_time), 0);
        assert_int_equal(process_adopt(s.loop, getpid(), start_time, on_exit_seen, &s, &p), -ESRCH);
        assert_int_equal(process_read_start_time(1, &start_time), 0);
        assert_int_equal(process_adopt(s.loop, 1, start_time, on_exit_seen, &s, &p), -ESRCH);
        assert_int_equal(process_read_start_time(0, &start_time), -ESRCH);
        assert_null(p);
        scene_finish(&s);
}

static void test_member_of_a_strangers_group_is_signalled_alone(void **state)
{
        struct scene s;
        uint64_t start_time = 0;
        char script[160];
        pid_t leader, child;

        (void)state;
        scene_init(&s);
        /* A script that runs the server in its own group, as people do. */
        (void)snprintf(script, sizeof script, "sleep 60 & echo child $! >>%s; while :; do sleep 0.05; done",
                       s.out_path);
        leader = start_foreign(&s, script, false, NULL);
        await_output(&s, "child ");
        child = number_after(&s, "child ");
        assert_int_equal(process_read_start_time(child, &start_time), 0);
        assert_int_equal(process_adopt(s.loop, child, start_time, on_exit_seen, &s, &s.p), 0);
        assert_false(process_has_group(s.p));
        assert_int_equal(process_group_count(s.p), 0);
        assert_int_equal(process_signal_group(s.p, SIGKILL), 1);
        await_exit(&s);
        assert_false(is_dead(leader));
        assert_int_equal(kill(-leader, SIGKILL), 0);
        assert_true(await_death(&s, leader));
        scene_finish(&s);
}

/* --- facts -------------------------------------------------------------------------------------------------------- */

static void test_cpu_and_memory(void **state)
{
        usec_t first = 0, later = 0, after;
        struct scene s;
        uint64_t rss = 0;

        (void)state;
        scene_init(&s);
        assert_int_equal(start(&s, self, "spin", NULL), 0);
        assert_int_equal(process_cpu_time(s.p, &first), 0);
        for (unsigned i = 0; i < 100 && later <= first + 20 * USEC_PER_MSEC; i++) {
                pause_ms(&s, 50);
                assert_int_equal(process_cpu_time(s.p, &later), 0);
        }
        assert_true(later > first + 20 * USEC_PER_MSEC);
        assert_int_equal(process_rss(s.p, &rss), 0);
        assert_true(rss > 100000);
        assert_int_equal(process_signal(s.p, SIGKILL), 0);
        await_exit(&s);
        assert_true(s.ended.user_usec + s.ended.system_usec >= later);
        after = later;
        assert_int_equal(process_cpu_time(s.p, &after), -ESRCH);
        assert_int_equal(process_rss(s.p, &rss), -ESRCH);
        assert_int_equal(after, later); /* untouched on failure */
        scene_finish(&s);
}

/* A script that starts the server and waits does nothing itself. */
static void test_cpu_of_all_behind_a_wrapper(void **state)
{
        usec_t first = 0, later = 0, own = 0;
        bool wants_to_run = false;
        char script[sizeof self + 32];
        struct scene s;

        (void)state;
        scene_init(&s);
        (void)snprintf(script, sizeof script, "'%s' spin & wait", self);
        start_sh(&s, script);
        assert_int_equal(process_look_at_all(s.p, &first, NULL), 0);
        for (unsigned i = 0; i < 600 && (later <= first + 300 * USEC_PER_MSEC || !wants_to_run); i++) {
                pause_ms(&s, 50);
                assert_int_equal(process_look_at_all(s.p, &later, &wants_to_run), 0);
        }
        assert_true(later > first + 300 * USEC_PER_MSEC);
        assert_true(wants_to_run);
        assert_int_equal(process_cpu_time(s.p, &own), 0);
        assert_true(own < later);
        assert_true(process_signal_group(s.p, SIGKILL) > 0);
        await_exit(&s);
        assert_int_equal(process_look_at_all(s.p, &later, NULL), -ESRCH);
        scene_finish(&s);
}

static void test_boot_id_and_odd_names(void **state)
{
        struct proc_stat st;
        char path[96];
        struct scene s;

        (void)state;
        assert_int_equal(strlen(process_boot_id()), 36);
        /* A program's name may look like the fields that follow it. */
        scene_init(&s);
        (void)snprintf(path, sizeof path, "%s/a) Z 1 1 (", dir);
        assert_int_equal(symlink("/bin/sleep", path), 0);
        assert_int_equal(start(&s, path, "60", NULL), 0);
        assert_int_equal(proc_read_stat(process_pid(s.p), &st), 0);
        assert_int_equal(st.parent, getpid());
        assert_int_equal(st.session, process_pid(s.p));
        assert_int_not_equal(st.state, 'Z');
        assert_int_equal(process_signal(s.p, SIGKILL), 0);
        await_exit(&s);
        assert_int_equal(unlink(path), 0);
        scene_finish(&s);
}

static void stop_at_exit(void *owner, const struct process_exit *ended, usec_t now)
{
        (void)now;
        assert_int_equal(ended->kind, EXIT_CODE);
        loop_stop(owner);
}

/* As the daemon is under systemd: no root, no dumps, children in groups. */
static void spawn_as_the_daemon_does(int group, int out)
{
        char *argv[] = {
                (char *)"sh", (char *)"-c",
                (char *)"i=0; while [ $i -lt 100 ] && ! grep -q 'nice 7' /proc/self/autogroup; do sleep "
                        "0.1; i=$((i + 1)); done; cat /proc/self/autogroup",
                NULL};
        struct process_spec spec = {
                .binary = argv[0], .argv = argv, .envp = environ, .output = out, .nice = 7, .umask = 077};
        struct process *p;
        struct loop *loop;

        spec.cgroup = group;
        spec.cgroup_is_used = true;
        if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0))
                _exit(2);
        if (prctl(PR_SET_DUMPABLE, 0) < 0 || loop_new(&loop) < 0 ||
            process_spawn(loop, &spec, stop_at_exit, loop, &p) < 0)
                _exit(3);
        loop_run(loop);
        _exit(0);
}

static void test_nice_reaches_the_autogroup(void **state)
{
        struct scene s;
        int group, status;
        pid_t pid;

        (void)state;
        if (access("/proc/self/autogroup", F_OK) < 0)
                skip();
        scene_init(&s);
        group = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* it stays outside, which is told */
        assert_true(group > 0);
        pid = fork();
        if (pid == 0)
                spawn_as_the_daemon_does(group, s.out);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_non_null(strstr(output(&s), "nice 7\n"));
        (void)close(group);
        scene_finish(&s);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_child_finds_what_was_ordered),
                cmocka_unit_test(test_the_environment_is_exactly_the_given_one),
                cmocka_unit_test(test_exit_code),
                cmocka_unit_test(test_dying_shows_at_once),
                cmocka_unit_test(test_signal_and_core),
                cmocka_unit_test(test_what_cannot_be_run),
                cmocka_unit_test(test_out_of_descriptors),
                cmocka_unit_test(test_ignored_sigchld_is_repaired),
                cmocka_unit_test(test_sigkill_is_known_and_free_inside),
                cmocka_unit_test(test_two_hundred_at_once),
                cmocka_unit_test(test_free_leaves_the_child_alone),
                cmocka_unit_test(test_grandchild_outlives_its_leader),
                cmocka_unit_test(test_group_is_signalled_with_its_leader),
                cmocka_unit_test(test_stray_in_a_group_of_its_own),
                cmocka_unit_test(test_a_reused_number_is_a_stranger),
                cmocka_unit_test(test_adopt_and_learn_the_signal),
                cmocka_unit_test(test_adopted_zombie_is_dead_and_tells_its_code),
                cmocka_unit_test(test_adopt_refuses_what_is_no_server),
                cmocka_unit_test(test_member_of_a_strangers_group_is_signalled_alone),
                cmocka_unit_test(test_cpu_and_memory),
                cmocka_unit_test(test_cpu_of_all_behind_a_wrapper),
                cmocka_unit_test(test_boot_id_and_odd_names),
                cmocka_unit_test(test_nice_reaches_the_autogroup),
        };
        ssize_t n;
        int r;

        if (argc > 1 && streq(argv[1], "facts"))
                return child_facts();
        if (argc > 1 && streq(argv[1], "spin"))
                child_spin();
        if (argc > 1 && streq(argv[1], "stray"))
                return child_stray();
        n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n <= 0)
                return 1;
        (void)snprintf(dir, sizeof dir, "/tmp/lsv-process.XXXXXX");
        if (!mkdtemp(dir))
                return 1;
        r = cmocka_run_group_tests(tests, NULL, NULL);
        if (rmdir(dir) < 0)
                perror(dir);
        return r;
}
