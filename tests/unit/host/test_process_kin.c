/* test_process_kin.c: whose a process is: by group, session, ancestors, also where it has left these; strangers are nobody's. */
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
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/macros.h"
#include "host/cgroup_private.h"
#include "host/process_kin.h"
#include "host/process_proc.h"

enum { FAMILY = 7, OTHERS = 8 };

/* A leader that has a child of its session, one with a session of its own, and a grandchild behind that; ret: their pids. All end with us: each waits for
 * the end of a pipe that only we write to. */
static void spin(int signo)
{
        (void)signo;
        for (;;)
                ;
}

static pid_t start_family(int alive, pid_t ret[3])
{
        int tells[2];
        pid_t pid;
        char byte;

        assert_int_equal(pipe2(tells, O_CLOEXEC), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                pid_t pids[3] = {0};

                (void)setsid();
                (void)signal(SIGUSR1, spin);
                pids[0] = fork();
                if (pids[0] > 0 && (pids[1] = fork()) == 0) {
                        (void)setsid();
                        pids[2] = fork();
                        if (pids[2] > 0)
                                (void)!write(tells[1], pids + 2, sizeof *pids);
                } else if (pids[1] > 0) {
                        (void)!write(tells[1], pids, 2 * sizeof *pids);
                }
                (void)!read(alive, &byte, 1);
                _exit(0);
        }
        /* Two writers, whose order is not known: the one with two pids is told by its length. */
        (void)close(tells[1]);
        for (int i = 0; i < 2; i++) {
                pid_t got[3];
                ssize_t n = read(tells[0], got, sizeof got);

                if (n == 3 * sizeof *got) { /* both in one */
                        bool first = getsid(got[0]) == pid;

                        memcpy(ret, got + !first, 2 * sizeof *got);
                        ret[2] = got[first ? 2 : 0];
                        break;
                }
                assert_true(n == sizeof *got || n == 2 * sizeof *got);
                if (n == sizeof *got)
                        ret[2] = got[0];
                else
                        memcpy(ret, got, 2 * sizeof *got);
        }
        (void)close(tells[0]);
        return pid;
}

struct world {
        int alive[2];
        pid_t leader, of[3], other, of_other[3];
};

static int set_up(void **state)
{
        struct world *w = calloc(1, sizeof *w);

        assert_int_equal(pipe2(w->alive, O_CLOEXEC), 0);
        /* The write end must not be held by those who wait for its end. */
        w->leader = start_family(w->alive[0], w->of);
        w->other = start_family(w->alive[0], w->of_other);
        *state = w;
        return 0;
}

static void end_family(pid_t leader, const pid_t of[3])
{
        (void)kill(leader, SIGKILL);
        for (int i = 0; i < 3; i++)
                (void)kill(of[i], SIGKILL);
        (void)waitpid(leader, NULL, 0);
}

static int tear_down(void **state)
{
        struct world *w = *state;

        end_family(w->leader, w->of);
        end_family(w->other, w->of_other);
        (void)close(w->alive[0]);
        (void)close(w->alive[1]);
        free(w);
        proc_snapshot_free();
        return 0;
}

static void relatives_are_found(void **state)
{
        const struct world *w = *state;
        struct process_kin *k;

        assert_int_not_equal(getsid(w->of[1]), w->leader);
        assert_int_not_equal(getsid(w->of[2]), w->leader);
        assert_int_equal(process_kin_new(&k), 0);
        assert_int_equal(process_kin_of(k, w->leader), PROCESS_KIN_NOBODY); /* nobody is known */
        assert_int_equal(process_kin_add(k, w->other, NULL, OTHERS), 0);
        assert_int_equal(process_kin_of(k, w->leader), PROCESS_KIN_NOBODY);
        assert_int_equal(process_kin_add(k, w->leader, NULL, FAMILY), 0);
        assert_int_equal(process_kin_of(k, w->leader), FAMILY);
        for (int i = 0; i < 3; i++) {
                assert_int_equal(process_kin_of(k, w->of[i]), FAMILY);
                assert_int_equal(process_kin_of(k, w->of_other[i]), OTHERS);
        }
        assert_int_equal(process_kin_of(k, getpid()), PROCESS_KIN_NOBODY);
        assert_int_equal(process_kin_of(k, 0), PROCESS_KIN_NOBODY);
        assert_int_equal(process_kin_of(k, (1 << 22) + 7), PROCESS_KIN_NOBODY);
        k = process_kin_free(k);
        assert_null(process_kin_free(k));
}

struct walk {
        unsigned family, others, most, calls;
};

static bool count(void *arg, pid_t pid, size_t whose)
{
        struct walk *x = arg;

        assert_int_not_equal(pid, getpid());
        x->family += whose == FAMILY;
        x->others += whose == OTHERS;
        return ++x->calls < x->most;
}

static void one_walk_finds_all(void **state)
{
        const struct world *w = *state;
        struct walk x = {.most = 100};
        struct process_kin *k;

        assert_int_equal(process_kin_new(&k), 0);
        assert_int_equal(process_kin_add(k, w->leader, "/no/such/group", FAMILY), 0);
        assert_int_equal(process_kin_add(k, w->other, NULL, OTHERS), 0);
        assert_int_equal(process_kin_walk(k, 1, count, &x), 0);
        assert_int_equal(x.family, 4);
        assert_int_equal(x.others, 4);
        x = (struct walk){.most = 2};
        assert_int_equal(process_kin_walk(k, 1, count, &x), 0);
        assert_int_equal(x.calls, 2); /* it was told to end */
        process_kin_free(k);
}

/* Its parent may have ended: the group still says whose it is; and so does one that was made below it. */
static void a_control_group_tells(void **state)
{
        const struct world *w = *state;
        _cleanup_free_ char *path = cgroup_of_pid(w->of[2]);
        struct process_kin *k;
        char *slash = path ? strrchr(path, '/') : NULL;

        if (!path)
                skip();
        assert_int_equal(process_kin_new(&k), 0);
        assert_int_equal(process_kin_add(k, w->other, path, OTHERS), 0);
        assert_int_equal(process_kin_of(k, w->of[2]), OTHERS);
        process_kin_free(k);
        if (slash != path) /* else we live in the group of all */
                *slash = '\0';
        assert_int_equal(process_kin_new(&k), 0);
        assert_int_equal(process_kin_add(k, w->other, path, OTHERS), 0);
        assert_int_equal(process_kin_of(k, w->of[2]), OTHERS);
        /* The nearer one is more. */
        assert_int_equal(process_kin_add(k, w->leader, NULL, FAMILY), 0);
        assert_int_equal(process_kin_of(k, w->of[2]), FAMILY);
        process_kin_free(k);
}

/* A server that has left the session works, though its wrapper does nothing: else it would be taken for a wedge. */
static void work_of_far_kin_is_seen(void **state)
{
        const struct world *w = *state;
        usec_t before, after;
        size_t others;
        bool wants;

        assert_int_equal(process_kin_cpu(w->leader, NULL, USEC_PER_SEC, &before, &wants, &others), 0);
        assert_int_equal(others, 3);
        assert_int_equal(kill(w->of[2], SIGUSR1), 0); /* it computes from now on */
        for (usec_t now = 2 * USEC_PER_SEC;; now += USEC_PER_SEC) {
                struct timespec span = {.tv_nsec = 10 * 1000000};

                assert_int_equal(process_kin_cpu(w->leader, NULL, now, &after, &wants, &others), 0);
                if (after > before && wants)
                        break;
                (void)nanosleep(&span, NULL);
        }
        assert_int_equal(process_kin_cpu(w->other, NULL, USEC_PER_MIN, &after, &wants, &others), 0);
        assert_false(wants);
}

/* A tree of files that looks like a group with another below it. */
static struct cgroup *make_group(char dir[64], const char *in_it, const char *below)
{
        static const char *const folders[] = {"", "/u", "/u/instance-x", "/u/instance-x/below"};
        const char *const texts[] = {NULL, NULL, in_it, below};
        struct cgroup *g;
        char path[128];

        for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
                (void)snprintf(path, sizeof path, "%s%s", dir, folders[i]);
                if (i > 0)
                        assert_int_equal(mkdir(path, 0700), 0);
                if (!texts[i])
                        continue;
                (void)snprintf(path, sizeof path, "%s%s/cgroup.procs", dir, folders[i]);
                _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
                assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
        }
        assert_int_equal(cgroup_find(NULL, dir, "/u/instance-x", "x", 0, &g), 0);
        return g;
}

static void remove_group(const char *dir, struct cgroup *g)
{
        static const char *const all[] = {"/u/instance-x/below/cgroup.procs",
                                          "/u/instance-x/below",
                                          "/u/instance-x/cgroup.procs",
                                          "/u/instance-x",
                                          "/u",
                                          ""};
        char path[128];

        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                (void)snprintf(path, sizeof path, "%s%s", dir, all[i]);
                assert_int_equal(remove(path), 0);
        }
        assert_null(cgroup_free(g));
}

/* Whose parents have ended, they are found by the group; each counts once, however it was found; strange lines are nobody. */
static void who_lives_in_the_group_is_kin(void **state)
{
        const struct world *w = *state;
        char dir[64] = "/tmp/lsv-kin-XXXXXX", in_it[128], below[64];
        usec_t cpu;
        size_t others;
        struct cgroup *g;
        bool wants;

        assert_non_null(mkdtemp(dir));
        (void)snprintf(in_it, sizeof in_it, "%d\n%d\n0\n%d\n%d\n", (int)w->leader, (int)w->of[2],
                       (1 << 22) + 7, (int)w->of_other[0]);
        (void)snprintf(below, sizeof below, "%d\n", (int)w->of_other[2]);
        g = make_group(dir, in_it, below);
        assert_int_equal(process_kin_cpu(w->leader, NULL, 1, &cpu, NULL, &others), 0);
        assert_int_equal(others, 3);
        assert_int_equal(process_kin_cpu(w->leader, g, 1, &cpu, NULL, &others), 0);
        assert_int_equal(others, 5);
        /* What one of them does is the member's work. */
        assert_int_equal(kill(w->of_other[2], SIGUSR1), 0);
        do {
                struct timespec span = {.tv_nsec = 10 * 1000000};

                (void)nanosleep(&span, NULL);
                assert_int_equal(process_kin_cpu(w->leader, g, 1, &cpu, &wants, &others), 0);
        } while (!wants || cpu == 0);
        assert_int_equal(process_kin_cpu(w->leader, NULL, 1, &cpu, &wants, &others), 0);
        assert_false(wants);
        remove_group(dir, g);
}

/* Calls of read() that we made; 0: this kernel does not count them. */
static unsigned long count_reads(void)
{
        _cleanup_close_ int fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC);
        char text[512] = "";
        const char *found;

        if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
                return 0;
        found = strstr(text, "syscr: ");
        return found ? strtoul(found + strlen("syscr: "), NULL, 10) : 0;
}

/* Of a thousand members each asks once a second, and thousands of others may live on the machine. */
static void a_machine_full_of_strangers_costs_one_look(void **state)
{
        enum { STRANGERS = 60, ASKED = 10 };
        const struct world *w = *state;
        char dir[64] = "/tmp/lsv-kin-XXXXXX", in_it[64], byte;
        pid_t strangers[STRANGERS];
        unsigned long before, reads;
        struct cgroup *g;
        usec_t cpu;
        size_t others;

        if (!count_reads())
                skip();
        for (int i = 0; i < STRANGERS; i++) {
                strangers[i] = fork();
                assert_true(strangers[i] >= 0);
                if (strangers[i] == 0) {
                        (void)close(w->alive[1]);
                        (void)!read(w->alive[0], &byte, 1);
                        _exit(0);
                }
        }
        assert_non_null(mkdtemp(dir));
        (void)snprintf(in_it, sizeof in_it, "%d\n", (int)w->leader);
        g = make_group(dir, in_it, "");
        before = count_reads();
        assert_int_equal(process_kin_cpu(w->leader, g, USEC_PER_SEC, &cpu, NULL, &others), 0);
        reads = count_reads() - before;
        assert_true(reads >= STRANGERS); /* the look itself: else nothing is proved here */
        before = count_reads();
        for (usec_t i = 0; i < ASKED; i++)
                assert_int_equal(process_kin_cpu(i % 2 ? w->leader : w->other, g,
                                                 USEC_PER_SEC + i * 50 * USEC_PER_MSEC, &cpu, NULL, &others),
                                 0);
        reads = count_reads() - before;
        /* Four of the family, the group's leader, two lists with their ends; and our own count. */
        assert_in_range(reads, ASKED, ASKED * 12);
        /* A second later another look is due. */
        before = count_reads();
        assert_int_equal(process_kin_cpu(w->leader, g, 2 * USEC_PER_SEC, &cpu, NULL, &others), 0);
        assert_true(count_reads() - before >= STRANGERS);
        remove_group(dir, g);
        for (int i = 0; i < STRANGERS; i++) {
                (void)kill(strangers[i], SIGKILL);
                assert_int_equal(waitpid(strangers[i], NULL, 0), strangers[i]);
        }
}

static void a_program_has_a_name(void **state)
{
        char name[4096], small[4];

        (void)state;
        assert_int_equal(process_program(getpid(), name, sizeof name), 0);
        assert_non_null(strstr(name, "kin"));
        assert_int_equal(process_program(getpid(), small, sizeof small), 0);
        assert_int_equal(strlen(small), 3);
        assert_true(process_program((1 << 22) + 7, name, sizeof name) < 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(relatives_are_found, set_up, tear_down),
                cmocka_unit_test_setup_teardown(one_walk_finds_all, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_control_group_tells, set_up, tear_down),
                cmocka_unit_test_setup_teardown(work_of_far_kin_is_seen, set_up, tear_down),
                cmocka_unit_test_setup_teardown(who_lives_in_the_group_is_kin, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_machine_full_of_strangers_costs_one_look, set_up,
                                                tear_down),
                cmocka_unit_test(a_program_has_a_name),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
