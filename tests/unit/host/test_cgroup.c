/* test_cgroup.c: control groups, against a tree of files that looks like one (limits, figures, names), and against the kernel's own
 * where this machine lets us make groups (entering, killing, removing, and a child that is born into its group). */
#include "host/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/cgroup_private.h"
#include "host/process.h"

static char dir[64];

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static int set_up(void **state)
{
        (void)state;
        (void)snprintf(dir, sizeof dir, "/tmp/lsv-cgroup-XXXXXX");
        return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
        (void)state;
        return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- the tree of files ------------------------------------------------------------------------------------------------ */

static void put(const char *path, const char *text)
{
        _cleanup_free_ char *whole = text_format("%s/%s", dir, path), *folder = strdup(whole);
        FILE *f;

        *strrchr(folder, '/') = '\0';
        assert_int_equal(file_make_dir(folder, 0755), 0);
        f = fopen(whole, "w");
        assert_non_null(f);
        (void)fputs(text, f);
        (void)fclose(f);
}

static const char *get(const char *path)
{
        static char text[4096];
        _cleanup_free_ char *whole = text_format("%s/%s", dir, path);

        if (cgroup_read_file(AT_FDCWD, whole, text, sizeof text) < 0)
                return "not there";
        return text;
}

static void make_tree(const char *unit)
{
        static const char *const files[] = {"cgroup.procs", "cgroup.subtree_control", "ctl/cgroup.procs"};
        char path[128];

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                (void)snprintf(path, sizeof path, "%s/%s", unit, files[i]);
                put(path, "");
        }
}

static void make_group(const char *group)
{
        static const struct {
                const char *file, *text;
        } files[] = {
                {"cgroup.procs", "101\n102\n"},
                {"cgroup.kill", ""},
                {"memory.max", "max\n"},
                {"memory.oom.group", "0\n"},
                {"memory.current", "4096\n"},
                {"memory.events", "low 0\nhigh 7\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n"},
                {"cpu.max", "max 100000\n"},
                {"cpu.weight.nice", "0\n"},
                {"cpu.stat", "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n"},
                {"pids.max", "max\n"},
                {"pids.current", "17\n"},
        };
        char path[256];

        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                (void)snprintf(path, sizeof path, "%s/%s", group, files[i].file);
                put(path, files[i].text);
        }
}

static struct cgroups *open_tree(const char *own)
{
        struct cgroups_spec spec = {.root = dir, .own = own, .is_delegated = true};
        char why[256] = "";
        struct cgroups *c;

        if (cgroups_open(NULL, &spec, why, sizeof why, &c) < 0)
                fail_msg("%s", why);
        return c;
}

static void test_enters_ctl(void **state)
{
        struct cgroups *c;

        (void)state;
        make_tree("s/u.service");
        c = open_tree("/s/u.service");
        assert_string_equal(cgroups_unit(c), "/s/u.service");
        assert_string_equal(get("s/u.service/ctl/cgroup.procs"), "0");
        assert_string_equal(get("s/u.service/cgroup.subtree_control"), "+memory +pids");
        assert_int_equal(cgroups_enable(c, 0), CGROUP_MEMORY | CGROUP_PIDS);
        assert_int_equal(cgroups_enable(c, CGROUP_CPU), CGROUP_ALL);
        assert_string_equal(get("s/u.service/cgroup.subtree_control"), "+cpu");
        assert_int_equal(cgroups_error(c, CGROUP_CPU), 0);
        c = cgroups_free(c);
}

/* Where systemd has put us into ctl already (DelegateSubgroup=), nobody is moved. */
static void test_is_in_ctl(void **state)
{
        struct cgroups *c;

        (void)state;
        make_tree("s/u.service");
        c = open_tree("/s/u.service/ctl");
        assert_string_equal(cgroups_unit(c), "/s/u.service");
        assert_string_equal(get("s/u.service/ctl/cgroup.procs"), "");
        assert_string_equal(get("s/u.service/cgroup.subtree_control"), "+memory +pids");
        c = cgroups_free(c);
}

static void test_without_controllers(void **state)
{
        _cleanup_free_ char *control = text_format("%s/u/cgroup.subtree_control", dir);
        struct cgroups *c;

        (void)state;
        make_tree("u");
        assert_int_equal(unlink(control), 0); /* what cannot be opened cannot be enabled */
        c = open_tree("/u");
        assert_int_equal(cgroups_enable(c, CGROUP_CPU), 0);
        assert_int_equal(cgroups_error(c, CGROUP_MEMORY), -ENOENT);
        assert_int_equal(cgroups_error(c, CGROUP_CPU), -ENOENT);
        c = cgroups_free(c);
}

static void refused(const char *own, bool is_delegated, int error, const char *word)
{
        struct cgroups_spec spec = {.root = dir, .own = own, .is_delegated = is_delegated};
        char why[256] = "";
        struct cgroups *c = NULL;

        assert_int_equal(cgroups_open(NULL, &spec, why, sizeof why, &c), error);
        assert_null(c);
        if (!strstr(why, word))
                fail_msg("\"%s\" is not in \"%s\"", word, why);
}

static void test_not_delegated(void **state)
{
        struct cgroups *c;

        (void)state;
        make_tree("s/u.service");
        refused("/s/u.service", false, -ENODEV, "/s/u.service is not delegated to us");
        refused("/s/gone", true, -ENOENT, "cannot be opened");
        assert_string_equal(get("s/u.service/ctl/cgroup.procs"), ""); /* nothing was touched */
        put("s/u.service/cgroup.procs", "1\n");
        refused("/s/u.service", true, -EBUSY,
                "other processes than ours live in our control group /s/u.service (pid 1)");
        put("s/u.service/cgroup.procs", "");
        c = open_tree("/s/u.service");
        refused("/s/u.service", true, -EBUSY, "another llama-supervisor uses the control group /s/u.service");
        c = cgroups_free(c);
        c = cgroups_free(open_tree("/s/u.service"));
}

/* Any local user may open the unit's folder, and lock what he has opened; not what is our lock. */
static void test_a_lock_of_our_own(void **state)
{
        _cleanup_free_ char *unit = text_format("%s/u", dir), *lock = text_format("%s/u/lock", dir);
        int fd = -1, ours = -1;
        struct cgroup *g = NULL;
        struct cgroups *c;
        struct stat st;

        (void)state;
        make_tree("u");
        make_group("u/instance-b");
        fd = cgroup_open_dir(AT_FDCWD, unit);
        assert_true(fd >= 0);
        assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
        assert_int_equal(cgroup_find(NULL, dir, "/u/instance-b", "b", 0, &g), 0);
        assert_false(cgroup_is_watched(g)); /* nobody is at work here, whoever holds the folder */
        c = open_tree("/u");
        assert_true(cgroup_is_watched(g));
        assert_int_equal(stat(lock, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        c = cgroups_free(c);
        assert_false(cgroup_is_watched(g));
        /* What is locked must be there. */
        ours = cgroup_open_dir(AT_FDCWD, lock);
        assert_true(ours >= 0);
        assert_int_equal(flock(ours, LOCK_EX | LOCK_NB), 0);
        refused("/u", true, -EBUSY, "another llama-supervisor uses the control group /u");
        assert_int_equal(rmdir(lock), 0);
        c = cgroups_free(open_tree("/u"));
        g = cgroup_free(g);
        (void)close(ours);
        (void)close(fd);
}

static void test_limits(void **state)
{
        struct cgroup_limits limits = {.memory = 50UL << 20, .cpus = 1.5, .pids = 200, .nice = 7};
        struct cgroups *c;
        struct cgroup *g;
        int errors[3];

        (void)state;
        make_tree("u");
        make_group("u/instance-qwen-0");
        c = open_tree("/u");
        assert_int_equal(cgroup_make(c, "qwen-0", &g), 0);
        assert_string_equal(cgroup_path(g), "/u/instance-qwen-0");
        assert_true(cgroup_fd(g) > 2);
        assert_int_equal(cgroup_limit(g, &limits, errors), 0);
        assert_string_equal(get("u/instance-qwen-0/memory.max"), "52428800");
        assert_string_equal(get("u/instance-qwen-0/memory.oom.group"), "1");
        assert_string_equal(get("u/instance-qwen-0/cpu.max"), "150000 100000");
        assert_string_equal(get("u/instance-qwen-0/cpu.weight.nice"), "7");
        assert_string_equal(get("u/instance-qwen-0/pids.max"), "200");
        limits.cpus = 0.001; /* the kernel takes no quota below a millisecond */
        assert_int_equal(cgroup_limit(g, &limits, errors), 0);
        assert_string_equal(get("u/instance-qwen-0/cpu.max"), "1000 100000");
        limits = (struct cgroup_limits){0};
        assert_int_equal(cgroup_limit(g, &limits, errors), 0);
        assert_string_equal(get("u/instance-qwen-0/memory.max"), "max");
        assert_string_equal(get("u/instance-qwen-0/memory.oom.group"), "0");
        assert_string_equal(get("u/instance-qwen-0/cpu.max"), "max 100000");
        assert_string_equal(get("u/instance-qwen-0/pids.max"), "max");
        g = cgroup_free(g);
        c = cgroups_free(c);
}

static void test_limits_without_controllers(void **state)
{
        struct cgroup_limits limits = {.memory = 1 << 20, .pids = 3}, none = {0};
        struct cgroups *c;
        struct cgroup *g;
        int errors[3];

        (void)state;
        make_tree("u");
        c = open_tree("/u");
        assert_int_equal(cgroup_make(c, "a", &g), 0); /* is made: an empty folder */
        assert_int_equal(cgroup_limit(g, &none, errors), 0);
        assert_int_equal(cgroup_limit(g, &limits, errors), CGROUP_MEMORY | CGROUP_PIDS);
        assert_int_equal(errors[0], -ENOENT);
        assert_int_equal(errors[1], 0);
        assert_int_equal(errors[2], -ENOENT);
        cgroup_retire(c, g);
        assert_string_equal(get("u/instance-a/cgroup.procs"), "not there");
        c = cgroups_free(c);
}

static void test_figures(void **state)
{
        struct cgroup_usage u;
        struct cgroups *c;
        struct cgroup *g;
        uint64_t oom, kills;

        (void)state;
        make_tree("u");
        make_group("u/instance-a");
        make_group("u/instance-a/inner");
        put("u/instance-a/memory.max", "52428800\n");
        c = open_tree("/u");
        assert_int_equal(cgroup_make(c, "a", &g), 0);
        cgroup_read_usage(g, &u);
        assert_int_equal(u.known, CGROUP_ALL);
        assert_int_equal(u.memory, 4096);
        assert_int_equal(u.memory_max, 52428800);
        assert_int_equal(u.oom, 2);
        assert_int_equal(u.oom_kills, 3);
        assert_int_equal(u.cpu_usec, 1234567);
        assert_int_equal(u.pids, 17);
        assert_true(cgroup_read_oom(g, &oom, &kills));
        assert_int_equal(oom, 2);
        assert_int_equal(kills, 3);
        assert_int_equal(cgroup_count(g), 4);
        assert_int_equal(cgroup_kill(g), 0);
        assert_string_equal(get("u/instance-a/cgroup.kill"), "1");
        g = cgroup_free(g);
        assert_int_equal(cgroup_make(c, "empty", &g), 0);
        cgroup_read_usage(g, &u);
        assert_int_equal(u.known, 0);
        assert_false(cgroup_read_oom(g, &oom, &kills));
        assert_int_equal(cgroup_count(g), 0);
        g = cgroup_free(g);
        c = cgroups_free(c);
}

static void test_names(void **state)
{
        static const struct {
                const char *name, *file;
        } rows[] = {
                {"qwen-0", "instance-qwen-0"},
                {"a.b_C", "instance-a.b_C"},
                {"a/b", "instance-a%2Fb"},
                {"..", "instance-.."},
                {"100%", "instance-100%25"},
                {"\xc3\xa4", "instance-%C3%A4"},
                {"new\nline", "instance-new%0Aline"},
        };
        static const char *const wrong[] = {"ctl",          "instance-",    "instance-%",
                                            "instance-a%2", "instance-%2f", "instance-%61",
                                            "instance-a b", "cgroup.procs", "instance-%00",
                                            "instance-%zz", "qwen",         "instance-a%2Fb%"};
        char buf[256], name[64], long_name[300];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                assert_int_equal(cgroup_escape(rows[i].name, buf, sizeof buf), 0);
                assert_string_equal(buf, rows[i].file);
                assert_int_equal(cgroup_unescape(buf, name, sizeof name), 0);
                assert_string_equal(name, rows[i].name);
        }
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
                if (cgroup_unescape(wrong[i], name, sizeof name) == 0)
                        fail_msg("%s was taken for %s", wrong[i], name);
        memset(long_name, 'x', sizeof long_name - 1);
        long_name[sizeof long_name - 1] = '\0';
        assert_int_equal(cgroup_escape(long_name, buf, sizeof buf), -ENAMETOOLONG);
        long_name[85] = '\0';
        memset(long_name, '/', 85); /* 85 * 3 and the prefix are more than a file's name may have */
        assert_int_equal(cgroup_escape(long_name, buf, sizeof buf), -ENAMETOOLONG);
        assert_int_equal(cgroup_escape("abc", buf, 10), -ENAMETOOLONG);
        assert_int_equal(cgroup_escape("abc", buf, strlen("instance-abc")), -ENAMETOOLONG);
        assert_int_equal(cgroup_escape("abc", buf, strlen("instance-abc") + 1), 0);
        assert_int_equal(cgroup_unescape("instance-abc", buf, 3), -ENAMETOOLONG);
}

static void test_list_and_find(void **state)
{
        struct cgroups *c;
        struct cgroup *g = NULL;
        char **names;

        (void)state;
        make_tree("u");
        make_group("u/instance-b");
        make_group("u/instance-a%2F1");
        put("u/instance-file", "no folder");
        put("u/other/cgroup.procs", "");
        c = open_tree("/u");
        assert_int_equal(cgroups_list(c, &names), 0);
        assert_int_equal(text_list_count(names), 2);
        assert_true(streq(names[0], "b") ? streq(names[1], "a/1")
                                         : streq(names[0], "a/1") && streq(names[1], "b"));
        text_list_free(names);
        assert_int_equal(cgroup_find(NULL, cgroups_root(c), "/u/instance-b", "b", 0, &g), 0);
        assert_string_equal(cgroup_path(g), "/u/instance-b");
        g = cgroup_free(g);
        /* A record is a file, and files may lie. */
        assert_int_equal(cgroup_find(NULL, dir, "/u/instance-b", "a", 0, &g), -EINVAL);
        assert_int_equal(cgroup_find(NULL, dir, "/u/other", "other", 0, &g), -EINVAL);
        assert_int_equal(cgroup_find(NULL, dir, "u/instance-b", "b", 0, &g), -EINVAL);
        assert_int_equal(cgroup_find(NULL, dir, "/x/../u/instance-b", "b", 0, &g), -EINVAL);
        assert_int_equal(cgroup_find(NULL, dir, "", "b", 0, &g), -EINVAL);
        assert_int_equal(cgroup_find(NULL, dir, "/v/instance-b", "b", 0, &g), -ENOENT);
        assert_int_equal(cgroup_find(NULL, dir, "/u/instance-c", "c", 0, &g), -ENOENT);
        assert_int_equal(cgroup_find(NULL, dir, "/u/instance-b", "b", getpid(), &g), -ESRCH);
        assert_null(g);
        c = cgroups_free(c);
}

static void test_of_text(void **state)
{
        static const struct {
                const char *text, *path;
        } rows[] = {
                {"0::/a/b\n", "/a/b"},
                {"3:cpu:/x\n0::/a\n", "/a"},
                {"10::/x\n0::/y\n", "/y"},
                {"9:name=systemd:/z\n0::/\n", "/"},
                {"1:cpu:/x\n", NULL},
                {"", NULL},
                {"0::", NULL},
        };
        char text[64];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const char *path = NULL;

                (void)snprintf(text, sizeof text, "%s", rows[i].text);
                assert_int_equal(cgroup_of_text(text, &path), rows[i].path != NULL);
                if (rows[i].path)
                        assert_string_equal(path, rows[i].path);
        }
}

/* --- the kernel's tree --------------------------------------------------------------------------------------------------- */

/* In a process of its own, which lives in a group of its own below that of the test; its exit code is the line that failed. */
#define CHECK(condition)                                                                                     \
        do {                                                                                                 \
                if (!(condition)) {                                                                          \
                        (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                \
                        _exit(1);                                                                            \
                }                                                                                            \
        } while (0)

struct real {
        struct loop *loop;
        struct timer *guard, *pace;
        struct cgroups *c;
        struct process *p;
        struct process_exit ended;
        unsigned exits, outside;
        int out;
};

static void on_guard(void *owner, usec_t now)
{
        const bool in_time = false;

        (void)owner;
        (void)now;
        CHECK(in_time);
}

static void on_pace(void *owner, usec_t now)
{
        (void)now;
        loop_stop(((struct real *)owner)->loop);
}

static void on_ended(void *owner, const struct process_exit *exit, usec_t now)
{
        struct real *x = owner;

        (void)now;
        x->ended = *exit;
        x->exits++;
        loop_stop(x->loop);
}

static void on_outside(void *owner, int error, usec_t now)
{
        struct real *x = owner;

        (void)now;
        CHECK(error > 0);
        x->outside++;
}

static void pause_ms(struct real *x, unsigned ms)
{
        timer_set(x->pace, time_monotonic() + ms * USEC_PER_MSEC);
        loop_run(x->loop);
}

static int start(struct real *x, struct cgroup *g, const char *binary, const char *script)
{
        char *argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL}, *envp[] = {NULL};
        struct process_spec spec = {.binary = binary,
                                    .argv = argv,
                                    .envp = envp,
                                    .output = x->out,
                                    .umask = 077,
                                    .nice = 3,
                                    .cgroup_is_used = cgroup_is_used(g),
                                    .cgroup = cgroup_fd(g)};
        int r = process_spawn(x->loop, &spec, on_ended, x, &x->p);

        if (r == 0)
                process_on_outside(x->p, on_outside);
        return r;
}

static const char *said(struct real *x)
{
        static char text[8192];
        ssize_t n = pread(x->out, text, sizeof text - 1, 0);

        text[MAX(n, 0)] = '\0';
        return text;
}

static void await_word(struct real *x, const char *word)
{
        while (!strstr(said(x), word))
                pause_ms(x, 5);
}

static void await_exit(struct real *x)
{
        while (!x->exits)
                loop_run(x->loop);
        x->exits = 0;
}

static void open_real(struct real *x)
{
        char why[256] = "", path[128];

        *x = (struct real){0};
        (void)snprintf(path, sizeof path, "%s/out", dir);
        x->out = open(path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
        CHECK(x->out >= 0);
        CHECK(loop_new(&x->loop) == 0);
        CHECK(timer_new(x->loop, on_guard, x, &x->guard) == 0);
        CHECK(timer_new(x->loop, on_pace, x, &x->pace) == 0);
        timer_set(x->guard, loop_now(x->loop) + 60 * USEC_PER_SEC);
        if (cgroups_open(x->loop, &(struct cgroups_spec){0}, why, sizeof why, &x->c) < 0) {
                (void)fprintf(stderr, "%s\n", why);
                _exit(1);
        }
}

static void close_real(struct real *x)
{
        x->p = process_free(x->p);
        x->c = cgroups_free(x->c);
        x->guard = timer_free(x->guard);
        x->pace = timer_free(x->pace);
        x->loop = loop_free(x->loop);
        process_finish();
        (void)close(x->out);
}

static bool is_in(pid_t pid, const char *group)
{
        _cleanup_free_ char *path = cgroup_of_pid(pid);

        return path && ends_with(path, group);
}

/* A child is born into its group, with what a child finds; all that it starts stays there, and ends with it. */
static void whole_life(struct real *x)
{
        struct cgroup *g, *found;
        unsigned n;

        CHECK(is_in(0, "/ctl"));
        CHECK(cgroup_make(x->c, "a", &g) == 0);
        CHECK(start(x, g, "/bin/sh",
                    "cat /proc/self/cgroup; umask; nice; ls -l /proc/self/fd; "
                    "setsid sh -c 'echo far $(cat /proc/self/cgroup); trap \"\" TERM; sleep 1000; :' & echo "
                    "up; wait") == 0);
        await_word(x, "far");
        await_word(x, "up\n");
        CHECK(strstr(said(x), "/instance-a\n"));
        CHECK(strstr(said(x), "0077\n3\n"));
        CHECK(strstr(said(x), " 0 -> /dev/null"));
        CHECK(!strstr(said(x), "pipe:") && !strstr(said(x), "anon_inode"));
        CHECK(getsid(process_pid(x->p)) == process_pid(x->p));
        CHECK(is_in(process_pid(x->p), "/instance-a") && cgroup_has(g, process_pid(x->p)) &&
              !cgroup_has(g, getpid()));
        while ((n = cgroup_count(g)) < 3) /* the shell, the one that left its session, its sleep */
                pause_ms(x, 5);
        CHECK(cgroup_signal(g, SIGCONT, process_pid(x->p)) == (int)n - 1);
        CHECK(cgroup_signal(g, SIGCONT, 0) == (int)n);
        CHECK(cgroup_find(x->loop, NULL, cgroup_path(g), "a", process_pid(x->p), &found) == 0);
        found = cgroup_free(found);
        CHECK(cgroup_find(x->loop, NULL, cgroup_path(g), "a", getpid(), &found) == -ESRCH);
        CHECK(cgroup_remove(g->parent, g->file) == -EBUSY);
        CHECK(cgroup_kill(g) == 0);
        await_exit(x);
        CHECK(x->ended.kind == EXIT_SIGNAL && x->ended.value == SIGKILL && x->outside == 0);
        x->p = process_free(x->p);
        while (cgroup_count(g) > 0)
                pause_ms(x, 5);
        found = NULL;
        cgroup_retire(x->c, g);
        while (cgroup_find(x->loop, NULL, "/", "a", 0, &found) == 0)
                pause_ms(x, 5);
}

static void removal(struct real *x)
{
        _cleanup_free_ char *path = NULL;
        struct cgroup *g;
        char inner[] = "inner";

        CHECK(cgroup_make(x->c, "b", &g) == 0);
        path = text_format("%s%s", cgroups_root(x->c), cgroup_path(g));
        CHECK(mkdirat(cgroup_fd(g), inner, 0755) == 0);
        CHECK(start(x, g, "/bin/sh", "echo b lives; sleep 1000") == 0);
        await_word(x, "b lives\n");
        cgroup_retire(x->c, g); /* somebody lives in it: later */
        CHECK(access(path, F_OK) == 0);
        CHECK(process_signal_group(x->p, SIGKILL) > 0);
        await_exit(x);
        x->p = process_free(x->p);
        while (access(path, F_OK) == 0)
                pause_ms(x, 5);
        /* A name that is used again is not taken away by what is still to do for the old one. */
        CHECK(cgroup_make(x->c, "b", &g) == 0);
        CHECK(start(x, g, "/bin/sh", "echo again; sleep 1000") == 0);
        await_word(x, "again\n");
        cgroup_retire(x->c, g);
        CHECK(cgroup_make(x->c, "b", &g) == 0);
        CHECK(process_signal_group(x->p, SIGKILL) > 0);
        await_exit(x);
        x->p = process_free(x->p);
        pause_ms(x, 200);
        CHECK(access(path, F_OK) == 0);
        cgroup_retire(x->c, g);
        CHECK(access(path, F_OK) < 0);
}

/* Somebody of the last time does not go away: the next one lives beside it all the same, in a group that was killed once. */
static void after_a_kill(struct real *x)
{
        struct process *first;
        struct cgroup *g;

        CHECK(cgroup_make(x->c, "d", &g) == 0 && !cgroup_is_used(g));
        CHECK(start(x, g, "/bin/sh", "echo d lives; sleep 1000") == 0);
        await_word(x, "d lives\n");
        CHECK(cgroup_kill(g) == 0);
        await_exit(x);
        x->p = process_free(x->p);
        while (cgroup_count(g) > 0)
                pause_ms(x, 5);
        CHECK(cgroup_signal(g, 0, 0) == 0);
        /* Its place is taken by one that came another way. */
        g->used = true;
        CHECK(start(x, g, "/bin/sh", "echo d again; sleep 1000") == 0);
        await_word(x, "d again\n");
        first = steal_ptr(x->p);
        g = cgroup_free(g);
        CHECK(cgroup_make(x->c, "d", &g) == 0 && cgroup_is_used(g));
        CHECK(start(x, g, "/bin/sh", "echo d third; exit 3") == 0);
        await_exit(x);
        CHECK(strstr(said(x), "d third") && x->ended.kind == EXIT_CODE && x->ended.value == 3);
        x->p = process_free(x->p);
        CHECK(process_signal_group(first, SIGKILL) > 0);
        await_exit(x);
        first = process_free(first);
        cgroup_retire(x->c, g);
        /* As soon as the last one is gone for good, it is a new one. */
        while (cgroup_make(x->c, "d", &g) == 0 && cgroup_is_used(g)) {
                g = cgroup_free(g);
                pause_ms(x, 5);
        }
        cgroup_retire(x->c, g);
}

/* Somebody of the last time lives in it, and it is frozen: the next one runs all the same, and the loop never stands still. */
static void frozen(struct real *x)
{
        struct process *first;
        struct cgroup *g;
        pid_t guard;

        CHECK(cgroup_make(x->c, "e", &g) == 0 && !cgroup_is_used(g));
        CHECK(start(x, g, "/bin/sh", "echo e lives; sleep 1000") == 0);
        await_word(x, "e lives\n");
        /* A loop that stands still has no timers, and between clone and exec it hears no signal either. */
        guard = fork();
        if (guard == 0) {
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void)sleep(60);
                (void)kill(getppid(), SIGKILL);
                (void)cgroup_write_file(g->fd, "cgroup.freeze", "0");
                _exit(0);
        }
        CHECK(guard > 0);
        CHECK(cgroup_write_file(g->fd, "cgroup.freeze", "1") == 0);
        first = steal_ptr(x->p);
        g = cgroup_free(g);
        CHECK(cgroup_make(x->c, "e", &g) == 0 && cgroup_is_used(g));
        CHECK(start(x, g, "/bin/sh", "echo e again; exit 3") == 0);
        await_exit(x);
        CHECK(strstr(said(x), "e again") && x->ended.kind == EXIT_CODE && x->ended.value == 3);
        x->p = process_free(x->p);
        CHECK(process_signal_group(first, SIGKILL) > 0);
        await_exit(x);
        first = process_free(first);
        cgroup_retire(x->c, g);
        CHECK(kill(guard, SIGKILL) == 0 && waitpid(guard, NULL, 0) == guard);
}

static void bad_binaries(struct real *x)
{
        char path[128];
        struct cgroup *g;
        int fd;

        CHECK(cgroup_make(x->c, "c", &g) == 0);
        CHECK(start(x, g, "/nonexistent/x", "") == -ENOENT);
        CHECK(start(x, g, "/etc/passwd", "") == -EACCES);
        (void)snprintf(path, sizeof path, "%s/text", dir);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
        CHECK(fd >= 0 && write(fd, "no program\n", 11) == 11 && fchmod(fd, 0755) == 0 && close(fd) == 0);
        CHECK(start(x, g, path, "") == 0); /* only exec itself finds out */
        await_exit(x);
        CHECK(x->ended.kind == EXIT_NEVER_RAN && x->ended.value == ENOEXEC);
        x->p = process_free(x->p);
        /* Signalled before it has even come to its session, it is gone all the same. */
        CHECK(start(x, g, "/bin/sh", "sleep 1000") == 0);
        CHECK(process_signal_group(x->p, SIGTERM) >= 1);
        await_exit(x);
        CHECK(x->ended.kind == EXIT_SIGNAL && x->ended.value == SIGTERM);
        x->p = process_free(x->p);
        cgroup_retire(x->c, g);
}

static void forbid_clone3(void)
{
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};

        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void test_body_life(void)
{
        struct real x;

        open_real(&x);
        whole_life(&x);
        removal(&x);
        after_a_kill(&x);
        frozen(&x);
        bad_binaries(&x);
        close_real(&x);
}

/* As under RestrictNamespaces=: the child moves itself. */
static void test_body_without_clone3(void)
{
        struct real x;

        forbid_clone3();
        open_real(&x);
        whole_life(&x);
        removal(&x);
        bad_binaries(&x);
        close_real(&x);
}

/* Its group went away while it was on its way there: it runs, outside, and that is told. */
static void test_body_refused(void)
{
        struct cgroup *g;
        struct real x;

        open_real(&x);
        CHECK(cgroup_make(x.c, "a", &g) == 0);
        CHECK(cgroup_remove(g->parent, g->file) == 0);
        CHECK(start(&x, g, "/bin/sh", "echo up; exec sleep 600") == 0);
        await_word(&x, "up\n");
        while (x.outside == 0) /* of one that is dead already it would not be told */
                pause_ms(&x, 5);
        CHECK(process_signal_group(x.p, SIGKILL) > 0);
        await_exit(&x);
        CHECK(x.ended.kind == EXIT_SIGNAL && x.outside == 1);
        g = cgroup_free(g);
        close_real(&x);
}

static void test_body_alone(void)
{
        struct cgroups *c = NULL;
        char why[256] = "";
        struct real x;
        pid_t pid;
        int status;

        open_real(&x);
        pid = fork();
        if (pid == 0)
                _exit(cgroups_open(NULL, &(struct cgroups_spec){0}, why, sizeof why, &c) == -EBUSY &&
                                      strstr(why, "another llama-supervisor")
                              ? 0
                              : 1);
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        close_real(&x);
        /* The first one is gone, and its lock with it. */
        open_real(&x);
        close_real(&x);
}

/* False: this machine lets nobody make groups. */
static bool make_real(char *path, size_t size)
{
        _cleanup_free_ char *root = NULL, *own = cgroup_of_pid(0);

        if (cgroup_find_root(&root) < 0 || !own)
                return false;
        (void)snprintf(path, size, "%s%s/lsv-test-%d", root, strlen(own) > 1 ? own : "", (int)getpid());
        return mkdir(path, 0755) == 0;
}

static void in_real_group(void (*body)(void))
{
        const struct timespec pause = {.tv_nsec = 5000000};
        char path[1024], procs[1200];
        int status, r = -1;
        pid_t pid;

        if (!make_real(path, sizeof path)) {
                print_message(
                        "this machine lets us make no control group of version 2: the files' tree must do\n");
                skip();
        }
        (void)snprintf(procs, sizeof procs, "%s/cgroup.procs", path);
        pid = fork();
        if (pid == 0) {
                CHECK(setxattr(path, geteuid() == 0 ? "trusted.delegate" : "user.delegate", "1", 1, 0) == 0);
                CHECK(cgroup_write_file(AT_FDCWD, procs, "0") == 0);
                body();
                _exit(0);
        }
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        (void)snprintf(procs, sizeof procs, "%s/cgroup.kill", path);
        (void)cgroup_write_file(AT_FDCWD, procs, "1");
        for (unsigned i = 0; i < 2000 && r < 0; i++) {
                r = cgroup_remove(AT_FDCWD, path);
                (void)nanosleep(&pause, NULL);
        }
        assert_int_equal(r, 0);
        assert_int_equal(status, 0);
}

static void test_real_life(void **state)
{
        (void)state;
        in_real_group(test_body_life);
}

static void test_real_without_clone3(void **state)
{
        (void)state;
        in_real_group(test_body_without_clone3);
}

static void test_real_refused(void **state)
{
        (void)state;
        in_real_group(test_body_refused);
}

static void test_real_alone(void **state)
{
        (void)state;
        in_real_group(test_body_alone);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_enters_ctl, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_is_in_ctl, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_without_controllers, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_not_delegated, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_a_lock_of_our_own, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_limits, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_limits_without_controllers, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_figures, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_list_and_find, set_up, tear_down),
                cmocka_unit_test(test_names),
                cmocka_unit_test(test_of_text),
                cmocka_unit_test_setup_teardown(test_real_life, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_real_without_clone3, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_real_refused, set_up, tear_down),
                cmocka_unit_test_setup_teardown(test_real_alone, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
