/* test_record.c: state files are whole or not there, the newest wins, and one daemon holds the directory. */
#include "host/record.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/macros.h"

static char dir[80];
static bool own_mounts;

static void check(const char *name, const char *want)
{
        char *text = NULL;
        size_t len = 0;
        int r = record_load(dir, name, 1 << 20, &text, &len);

        if (!want) {
                assert_int_equal(r, -ENOENT);
                return;
        }
        assert_int_equal(r, 0);
        assert_int_equal(len, strlen(want));
        assert_string_equal(text, want);
        free(text);
}

static char *path_of(const char *name)
{
        static char path[256];

        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        return path;
}

static bool exists(const char *name)
{
        struct stat st;

        return lstat(path_of(name), &st) == 0;
}

static void test_save_now_load_remove(void **state)
{
        char *text = NULL;
        size_t len = 0;
        struct stat st;

        (void)state;
        check("a", NULL);
        assert_int_equal(record_save_now(dir, "a", "one", 3), 0);
        check("a", "one");
        assert_int_equal(stat(path_of("a"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(record_save_now(dir, "a", "", 0), 0);
        check("a", "");
        assert_int_equal(record_save_now(dir, "a", "four", 4), 0);
        assert_int_equal(record_load(dir, "a", 3, &text, &len), -EFBIG);
        assert_null(text);
        assert_int_equal(record_remove(dir, "a"), 0);
        assert_int_equal(record_remove(dir, "a"), 0);
        check("a", NULL);
        assert_int_equal(record_save_now(dir, "../a", "x", 1), -EINVAL);
        assert_int_equal(record_save_now(dir, ".a", "x", 1), -EINVAL);
        assert_int_equal(record_save_now(dir, "", "x", 1), -EINVAL);
        assert_int_equal(record_load(dir, "x/y", 9, &text, &len), -EINVAL);
        assert_int_equal(record_remove(dir, "/etc/passwd"), -EINVAL);
        assert_int_equal(record_save_now("/no/such/dir", "a", "x", 1), -ENOENT);
}

static void test_links_are_not_followed(void **state)
{
        char target[128], *text = NULL;
        size_t len = 0;

        (void)state;
        (void)snprintf(target, sizeof target, "%s/target", dir);
        assert_int_equal(record_save_now(dir, "target", "precious", 8), 0);
        assert_int_equal(symlink(target, path_of("a")), 0);
        assert_int_equal(record_load(dir, "a", 100, &text, &len), -ELOOP);
        assert_int_equal(symlink(target, path_of(".a.now")), 0);
        assert_int_equal(record_save_now(dir, "a", "mine", 4),
                         0); /* replaces the links, not what they lead to */
        check("target", "precious");
        check("a", "mine");
        assert_int_equal(record_remove(dir, "a"), 0);
        assert_int_equal(record_remove(dir, "target"), 0);
        assert_int_equal(mkfifo(path_of("a"), 0600), 0);
        assert_int_equal(record_load(dir, "a", 100, &text, &len), -EINVAL); /* and does not hang */
        assert_int_equal(record_remove(dir, "a"), 0);
}

static void test_newest_wins(void **state)
{
        struct loop *loop = NULL;
        char text[32];

        (void)state;
        assert_int_equal(loop_new(&loop), 0);
        for (unsigned i = 0; i < 500; i++) { /* far more than jobs of the pool: they are coalesced */
                (void)snprintf(text, sizeof text, "number %u", i);
                assert_int_equal(record_save(loop, dir, "a", text, strlen(text)), 0);
                assert_int_equal(record_save(loop, dir, "b", "other", 5), 0);
        }
        loop = loop_free(loop); /* finishes what was promised */
        check("a", "number 499");
        check("b", "other");
        assert_false(exists(".a.tmp"));
        assert_int_equal(record_failures(NULL), 0);
        assert_int_equal(record_remove(dir, "a"), 0);
        assert_int_equal(record_remove(dir, "b"), 0);
}

static void test_a_late_write_does_not_come_back(void **state)
{
        struct loop *loop = NULL;

        (void)state;
        for (unsigned i = 0; i < 50; i++) {
                assert_int_equal(loop_new(&loop), 0);
                assert_int_equal(record_save(loop, dir, "a", "old", 3), 0);
                if (i % 2)
                        assert_int_equal(record_save(loop, dir, "a", "older", 5), 0);
                if (i % 5 == 0)
                        (void)usleep(i * 20); /* now and then the pool is quicker */
                if (i % 3 == 0) {
                        assert_int_equal(record_remove(dir, "a"), 0);
                        loop = loop_free(loop);
                        check("a", NULL);
                } else if (i % 3 == 1) {
                        assert_int_equal(record_save_now(dir, "a", "new", 3), 0);
                        loop = loop_free(loop);
                        check("a", "new");
                } else { /* but what is saved after that does */
                        assert_int_equal(record_remove(dir, "a"), 0);
                        assert_int_equal(record_save(loop, dir, "a", "newest", 6), 0);
                        loop = loop_free(loop);
                        check("a", "newest");
                }
        }
        assert_int_equal(record_remove(dir, "a"), 0);
        assert_false(exists(".a.tmp"));
}

static void test_crash_between_write_and_rename(void **state)
{
        int fd;

        (void)state;
        assert_int_equal(record_save_now(dir, "a", "old", 3), 0);
        /* what a daemon leaves that was killed there */
        fd = open(path_of(".a.now"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_int_equal(write(fd, "half of the n", 13), 13);
        assert_int_equal(close(fd), 0);
        check("a", "old");
        assert_int_equal(record_save_now(dir, "a", "new", 3), 0);
        check("a", "new");
        assert_false(exists(".a.now"));
        assert_int_equal(record_remove(dir, "a"), 0);
}

/* A child that is killed at a random moment leaves the one or the other, never a mixture. */
static void test_killed_while_saving(void **state)
{
        static char as[65536], bs[65536];
        char *text = NULL;
        size_t len = 0;
        pid_t pid;

        (void)state;
        memset(as, 'a', sizeof as);
        memset(bs, 'b', sizeof bs);
        for (unsigned i = 0; i < 30; i++) {
                assert_int_equal(record_save_now(dir, "a", as, sizeof as), 0);
                pid = fork();
                if (pid == 0)
                        for (;;)
                                if (record_save_now(dir, "a", bs, sizeof bs) < 0 ||
                                    record_save_now(dir, "a", as, sizeof as) < 0)
                                        _exit(1);
                assert_true(pid > 0);
                (void)usleep(500 + i * 100);
                assert_int_equal(kill(pid, SIGKILL), 0);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
                assert_int_equal(record_load(dir, "a", 1 << 20, &text, &len), 0);
                assert_int_equal(len, sizeof as);
                assert_true(memcmp(text, as, len) == 0 || memcmp(text, bs, len) == 0);
                free(text);
        }
        assert_int_equal(record_save_now(dir, "a", "x", 1), 0);
        assert_int_equal(record_remove(dir, "a"), 0);
}

static void test_disk_full(void **state)
{
        static char big[256 << 10];
        struct loop *loop = NULL;
        char mnt[96], whole[80];
        uint64_t before = record_failures(NULL);
        int last = 0;

        (void)state;
        if (!own_mounts)
                skip();
        (void)snprintf(mnt, sizeof mnt, "%s/mnt", dir);
        assert_int_equal(mkdir(mnt, 0700), 0);
        assert_int_equal(mount("tmpfs", mnt, "tmpfs", MS_NOSUID | MS_NODEV, "size=128k"), 0);
        (void)snprintf(whole, sizeof whole, "%s", dir);
        (void)snprintf(dir, sizeof dir, "%.60s/mnt", whole); /* at most 64 bytes */
        assert_int_equal(record_save_now(dir, "a", "old", 3), 0);
        assert_int_equal(record_save_now(dir, "a", big, sizeof big), -ENOSPC);
        check("a", "old");
        assert_false(exists(".a.now"));
        assert_int_equal(loop_new(&loop), 0);
        assert_int_equal(record_save(loop, dir, "a", big, sizeof big), 0);
        loop = loop_free(loop);
        check("a", "old");
        assert_false(exists(".a.tmp"));
        assert_int_equal(record_failures(&last), before + 1);
        assert_int_equal(last, -ENOSPC);
        assert_int_equal(record_save_now(dir, "a", "new", 3), 0);
        check("a", "new");
        (void)snprintf(dir, sizeof dir, "%s", whole);
        assert_int_equal(umount(mnt), 0);
        assert_int_equal(rmdir(mnt), 0);
}

/* --- the lock ----------------------------------------------------------------------------------------------------- */

static void test_lock(void **state)
{
        int fd = -1, second = -1, ends[2];
        pid_t holder = 0, pid;
        char c;

        (void)state;
        assert_int_equal(lockdir_take("/no/such/dir", &fd, &holder), -ENOENT);
        assert_int_equal(lockdir_take(dir, &fd, &holder), 0);
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_int_equal(lockdir_take(dir, &second, &holder), -EBUSY);
        assert_int_equal(holder, getpid());
        assert_int_equal(second, -1);
        assert_int_equal(close(fd), 0);
        /* Another process takes it, and dies of SIGKILL: the lock goes with it, its pid in the file means nothing. */
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        pid = fork();
        if (pid == 0) {
                if (lockdir_take(dir, &fd, &holder) == 0)
                        (void)!write(ends[1], "x", 1);
                for (;;)
                        (void)pause();
        }
        assert_int_equal(read(ends[0], &c, 1), 1);
        assert_int_equal(lockdir_take(dir, &second, &holder), -EBUSY);
        assert_int_equal(holder, pid);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(lockdir_take(dir, &fd, &holder), 0);
        assert_int_equal(close(fd), 0);
        assert_int_equal(close(ends[0]), 0);
        assert_int_equal(close(ends[1]), 0);
        assert_int_equal(unlink(path_of("lock")), 0);
        assert_int_equal(symlink("/tmp/elsewhere", path_of("lock")), 0);
        assert_int_equal(lockdir_take(dir, &fd, &holder), -ELOOP);
        assert_int_equal(unlink(path_of("lock")), 0);
}

/* Many at once: one wins, all others are told who. */
static void test_race_for_the_lock(void **state)
{
        int go[2], answers[2];
        pid_t pids[8], told, winner = 0;
        unsigned refused = 0;

        (void)state;
        assert_int_equal(pipe2(go, O_CLOEXEC), 0);
        assert_int_equal(pipe2(answers, O_CLOEXEC), 0);
        for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
                pids[i] = fork();
                if (pids[i] == 0) {
                        pid_t answer = 0;
                        int fd = -1;
                        char c;

                        (void)close(go[1]);
                        (void)!read(go[0], &c, 1); /* until the parent closes it */
                        if (lockdir_take(dir, &fd, &answer) == 0)
                                answer = -getpid();
                        (void)!write(answers[1], &answer, sizeof answer);
                        for (;;)
                                (void)pause();
                }
        }
        assert_int_equal(close(go[1]), 0);
        pid_t said[ARRAY_SIZE(pids)];
        for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
                assert_int_equal(read(answers[0], &told, sizeof told), sizeof told);
                said[i] = told;
                if (told < 0) {
                        assert_int_equal(winner, 0);
                        winner = -told;
                }
        }
        assert_true(winner > 0);
        for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
                refused += said[i] == winner;
        assert_int_equal(refused, ARRAY_SIZE(pids) - 1);
        for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
                assert_int_equal(kill(pids[i], SIGKILL), 0);
                assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
        }
        assert_int_equal(close(go[0]), 0);
        assert_int_equal(close(answers[0]), 0);
        assert_int_equal(close(answers[1]), 0);
        assert_int_equal(unlink(path_of("lock")), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_save_now_load_remove),
                cmocka_unit_test(test_links_are_not_followed),
                cmocka_unit_test(test_newest_wins),
                cmocka_unit_test(test_a_late_write_does_not_come_back),
                cmocka_unit_test(test_crash_between_write_and_rename),
                cmocka_unit_test(test_killed_while_saving),
                cmocka_unit_test(test_disk_full),
                cmocka_unit_test(test_lock),
                cmocka_unit_test(test_race_for_the_lock),
        };
        int r;

        (void)snprintf(dir, sizeof dir, "/tmp/lsv-record.XXXXXX");
        if (!mkdtemp(dir))
                return 1;
        /* Before any thread exists, so that libuv's pool shares it. */
        own_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
        r = cmocka_run_group_tests(tests, NULL, NULL);
        if (rmdir(dir) < 0)
                perror(dir);
        return r;
}
