/* test_logfile.c: following, cutting, skipping, rotating and reading back a log that others write. */
#include "host/logfile.h"

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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/logfile_private.h"

static char dir[64];
static bool own_mounts; /* root, in a mount namespace of its own */

struct scene {
        struct loop *loop;
        struct timer *pace, *tick;
        struct logfile *f;
        int child; /* the child's descriptor */
        struct buffer lines;
        unsigned count, ticks;
        char last[64];
        const char *dir;
};

static void on_pace(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        loop_stop(s->loop);
}

static void on_tick(void *owner, usec_t now)
{
        struct scene *s = owner;

        s->ticks++;
        timer_set(s->tick, now + 10 * USEC_PER_MSEC);
}

static void on_line(void *owner, const char *line, size_t len, usec_t now)
{
        struct scene *s = owner;

        assert_true(now > 0);
        assert_true(len <= LOGFILE_LINE_MAX);
        assert_null(memchr(line, '\n', len));
        s->count++;
        (void)snprintf(s->last, sizeof s->last, "%.*s", (int)MIN(len, (size_t)60), line);
        (void)buffer_append(&s->lines, line, len); /* bounded: a flood fills it and goes on */
        (void)buffer_putc(&s->lines, '\n');
}

static void open_log(struct scene *s, uint64_t rotate_at, unsigned keep)
{
        struct logfile_limits limits = {.rotate_at = rotate_at, .keep = keep};

        assert_int_equal(logfile_open(s->loop, s->dir, "log", &limits, on_line, s, &s->f), 0);
        s->child = fcntl(logfile_fd(s->f), F_DUPFD_CLOEXEC, 3);
        assert_true(s->child >= 0);
}

static void scene_init(struct scene *s, uint64_t rotate_at, unsigned keep)
{
        *s = (struct scene){.child = -1, .dir = dir};
        buffer_init(&s->lines, 8 << 20);
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_pace, s, &s->pace), 0);
        assert_int_equal(timer_new(s->loop, on_tick, s, &s->tick), 0);
        open_log(s, rotate_at, keep);
}

static void close_log(struct scene *s)
{
        close_fd(&s->child);
        s->child = -1;
        s->f = logfile_close(s->f);
}

static void clean(const char *where)
{
        char name[160];

        for (unsigned i = 0; i < 12; i++) {
                (void)snprintf(name, sizeof name, i ? "%s/log.log.%u" : "%s/log.log", where, i);
                (void)unlink(name);
        }
        (void)snprintf(name, sizeof name, "%s/.log.log.tmp", where);
        assert_int_equal(unlink(name), -1); /* never left behind */
}

static void scene_finish(struct scene *s)
{
        close_log(s);
        s->pace = timer_free(s->pace);
        s->tick = timer_free(s->tick);
        s->loop = loop_free(s->loop);
        buffer_finish(&s->lines);
        clean(s->dir);
}

static void pause_ms(struct scene *s, unsigned ms)
{
        timer_set(s->pace, time_monotonic() + ms * USEC_PER_MSEC);
        loop_run(s->loop);
}

static void say_n(struct scene *s, const char *text, size_t len)
{
        assert_int_equal(write(s->child, text, len), len);
}

static void say(struct scene *s, const char *text)
{
        say_n(s, text, strlen(text));
}

static void await_count(struct scene *s, unsigned count)
{
        for (unsigned i = 0; i < 2000 && s->count < count; i++)
                pause_ms(s, 5);
        assert_int_equal(s->count, count);
}

static void await_rotations(struct scene *s, uint64_t count)
{
        for (unsigned i = 0; i < 2000 && logfile_counts(s->f)->rotations < count; i++)
                pause_ms(s, 5);
        assert_int_equal(logfile_counts(s->f)->rotations, count);
}

static const char *heard(struct scene *s)
{
        return s->lines.data ? s->lines.data : "";
}

static uint64_t blocks(const char *where, const char *name)
{
        char path[160];
        struct stat st;

        (void)snprintf(path, sizeof path, "%s/%s", where, name);
        return stat(path, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

static uint64_t disk_use(const char *where)
{
        char name[32];
        uint64_t n = blocks(where, "log.log") + blocks(where, ".log.log.tmp");

        for (unsigned i = 1; i < 10; i++) {
                (void)snprintf(name, sizeof name, "log.log.%u", i);
                n += blocks(where, name);
        }
        return n;
}

/* --- lines ------------------------------------------------------------------------------------------------------- */

static void test_lines_come_whole_and_harmless(void **state)
{
        struct scene s;
        char *line;

        (void)state;
        scene_init(&s, 10 << 20, 3);
        say(&s, "first\nsec");
        await_count(&s, 1);
        pause_ms(&s, 120);
        assert_int_equal(s.count, 1); /* a half is no line */
        say(&s, "ond\r\n\n\033[31mred\033[0m\a\n");
        say_n(&s, "nul\0here\xff\n", 10);
        await_count(&s, 5);
        assert_string_equal(heard(&s), "first\nsecond\n\nred?\nnul?here?\n");
        buffer_clear(&s.lines);

        /* 4,095 letters and a euro sign that would be cut in two */
        line = malloc(9001);
        memset(line, 'x', 9000);
        memcpy(line + 4095, "\xe2\x82\xac", 3);
        line[9000] = '\n';
        say_n(&s, line, 9001);
        say(&s, "next\n");
        await_count(&s, 7);
        assert_int_equal(s.lines.len, 4095 + 1 + 5);
        assert_string_equal(s.last, "next");
        assert_true(logfile_counts(s.f)->skipped_bytes >= 9000 - LOGFILE_LINE_MAX);
        assert_int_equal(logfile_counts(s.f)->lines, 7);
        assert_int_equal(logfile_counts(s.f)->errors, 0);
        free(line);
        scene_finish(&s);
}

static void test_bytes_are_counted_once(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 10 << 20, 3);
        for (unsigned i = 0; i < 20; i++) {
                say(&s, "ten bytes.");
                pause_ms(&s, 3);
        }
        say(&s, "\n");
        await_count(&s, 1);
        assert_int_equal(logfile_counts(s.f)->bytes, 201);
        assert_int_equal(logfile_counts(s.f)->skipped_bytes, 0);
        scene_finish(&s);
}

static void test_catch_up_takes_the_last_words(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 10 << 20, 3);
        say(&s, "a\nb\nSegmentation fault");
        assert_int_equal(s.count, 0); /* nothing happens outside of the loop */
        logfile_catch_up(s.f, loop_now(s.loop));
        assert_string_equal(heard(&s), "a\nb\nSegmentation fault\n");
        logfile_note(s.f, "--- started pid %d\n\033[1m", 4242);
        await_count(&s, 5);
        assert_string_equal(s.last, "--- started pid 4242?");
        scene_finish(&s);
}

static void test_note_begins_a_line(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 10 << 20, 3);
        say(&s, "half");
        logfile_note(s.f, "--- %s", "stopped");
        await_count(&s, 2);
        logfile_note(s.f, "--- again");
        await_count(&s, 3);
        assert_string_equal(heard(&s), "half\n--- stopped\n--- again\n");
        scene_finish(&s);
}

static void test_tail_and_mark(void **state)
{
        char line[64], *copy;
        struct scene s;
        unsigned n = 0;

        (void)state;
        scene_init(&s, 10 << 20, 3);
        assert_string_equal(logfile_tail(s.f), "");
        assert_string_equal(logfile_tail_since_mark(s.f), "");
        say(&s, "one\ntwo\n");
        await_count(&s, 2);
        assert_string_equal(logfile_tail(s.f), "one\ntwo");
        logfile_mark(s.f);
        assert_string_equal(logfile_tail_since_mark(s.f), "");
        say(&s, "three\n");
        await_count(&s, 3);
        assert_string_equal(logfile_tail_since_mark(s.f), "three");
        assert_string_equal(logfile_tail(s.f), "one\ntwo\nthree");
        for (; n < 3000; n++) {
                (void)snprintf(line, sizeof line, "line number %u with some text\n", n);
                say(&s, line);
                if (n % 700 == 0) { /* also while the ring is wrapped */
                        await_count(&s, 4 + n);
                        copy = text_dup(logfile_tail(s.f));
                        assert_true(strlen(copy) < LOGFILE_TAIL_BYTES);
                        line[strlen(line) - 1] = '\0';
                        assert_true(ends_with(copy, line));
                        assert_true(starts_with(copy, n ? "line number " : "one\n"));
                        free(copy);
                }
        }
        await_count(&s, 3 + n);
        assert_true(strlen(logfile_tail(s.f)) > LOGFILE_TAIL_BYTES - 100);
        assert_string_equal(logfile_tail(s.f), logfile_tail_since_mark(s.f));
        /* It is what was heard last. */
        assert_memory_equal(logfile_tail(s.f), s.lines.data + s.lines.len - 1 - strlen(logfile_tail(s.f)),
                            strlen(logfile_tail(s.f)));
        scene_finish(&s);
}

static void test_an_endless_line_is_cut(void **state)
{
        struct scene s;
        char *block = malloc(1 << 20);

        (void)state;
        scene_init(&s, 1 << 20, 2);
        memset(block, 'z', 1 << 20);
        for (unsigned i = 0; i < 24; i++) {
                say_n(&s, block, 1 << 20);
                pause_ms(&s, 2);
        }
        for (unsigned i = 0; i < 400 && disk_use(dir) > 6 << 20; i++)
                pause_ms(&s, 10);
        assert_true(disk_use(dir) <= 6 << 20);
        say(&s, "\nafter\n");
        for (unsigned i = 0; i < 2000 && !streq(s.last, "after"); i++)
                pause_ms(&s, 5);
        assert_string_equal(s.last, "after");
        assert_true(starts_with(heard(&s), "zzz"));
        assert_null(strstr(heard(&s), "\nz")); /* its beginning came once, and no piece of its middle */
        assert_true(logfile_counts(s.f)->skipped_bytes > 23 << 20);
        free(block);
        scene_finish(&s);
}

/* --- refusals ---------------------------------------------------------------------------------------------------- */

static void test_what_is_no_log_is_refused(void **state)
{
        struct logfile *f = NULL;
        char path[96], target[96];
        struct scene s;
        struct stat st;

        (void)state;
        scene_init(&s, 1 << 20, 2);
        assert_int_equal(logfile_open(s.loop, dir, "log", NULL, on_line, &s, &f), -EBUSY);
        assert_int_equal(logfile_open(s.loop, dir, "../log", NULL, on_line, &s, &f), -EINVAL);
        assert_int_equal(logfile_open(s.loop, "/no/such/dir", "log", NULL, on_line, &s, &f), -ENOENT);
        (void)snprintf(path, sizeof path, "%s/link.log", dir);
        (void)snprintf(target, sizeof target, "%s/target", dir);
        assert_int_equal(symlink(target, path), 0);
        assert_int_equal(logfile_open(s.loop, dir, "link", NULL, on_line, &s, &f), -ELOOP);
        assert_int_equal(stat(target, &st), -1);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(logfile_open(s.loop, dir, "link", NULL, on_line, &s, &f), -EINVAL);
        assert_int_equal(unlink(path), 0);
        assert_null(f);
        assert_int_equal(fstat(logfile_fd(s.f), &st), 0);
        assert_int_equal(st.st_mode & 07137, 0); /* 0640 at most */
        assert_true(fcntl(logfile_fd(s.f), F_GETFL) & O_APPEND);
        assert_true(fcntl(logfile_fd(s.f), F_GETFD) & FD_CLOEXEC);
        scene_finish(&s);
}

/* A rotation must not write through a link that somebody put in its way. */
static void test_rotation_follows_no_link(void **state)
{
        char path[96], target[96], block[1000];
        struct scene s;
        struct stat st;

        (void)state;
        scene_init(&s, 64 << 10, 2);
        (void)snprintf(target, sizeof target, "%s/target", dir);
        (void)snprintf(path, sizeof path, "%s/.log.log.tmp", dir);
        assert_int_equal(symlink(target, path), 0);
        memset(block, 'q', sizeof block);
        block[999] = '\n';
        for (unsigned i = 0; i < 70; i++)
                say_n(&s, block, sizeof block);
        await_rotations(&s, 1);
        assert_int_equal(stat(target, &st), -1);
        assert_int_equal(logfile_counts(s.f)->errors, 0);
        assert_true(blocks(dir, "log.log.1") > 60000);
        scene_finish(&s);
}

/* --- rotation ------------------------------------------------------------------------------------------------------ */

static void say_numbered(struct scene *s, unsigned *next, unsigned count)
{
        char line[128];

        for (unsigned i = 0; i < count; i++) {
                (void)snprintf(line, sizeof line, "%08u ..................................................\n",
                               (*next)++);
                say(s, line);
        }
}

static void check_numbered(const char *text, unsigned end, unsigned *ret_first)
{
        unsigned first = (unsigned)strtoul(text, NULL, 10), n = first;

        for (const char *p = text; *p; p = strchr(p, '\n') + 1)
                assert_int_equal(strtoul(p, NULL, 10), n++);
        assert_int_equal(n, end);
        *ret_first = first;
}

/* Who listens from now on is told the rest by on_line. */
static void test_what_was_told(void **state)
{
        unsigned next = 0, first = 0;
        char *text = NULL;
        struct scene s;
        size_t len = 0;

        (void)state;
        scene_init(&s, 128 << 10, 2);
        say_numbered(&s, &next, 20);
        await_count(&s, next);
        say_numbered(&s, &next, 10); /* the loop has not turned since */
        assert_int_equal(logfile_read_told(s.f, 1000, 1 << 20, &text, &len), 0);
        check_numbered(text, 20, &first);
        assert_int_equal(first, 0);
        free(text);
        assert_int_equal(logfile_read_last(s.f, 1000, 1 << 20, &text, &len), 0);
        check_numbered(text, 30, &first);
        free(text);
        await_count(&s, next);
        assert_int_equal(logfile_read_told(s.f, 5, 1 << 20, &text, &len), 0);
        check_numbered(text, 30, &first);
        assert_int_equal(first, 25);
        free(text);
        scene_finish(&s);
}

static void test_rotation_keeps_order_and_bound(void **state)
{
        unsigned next = 0, first = 0;
        char *text = NULL;
        struct scene s;
        struct stat st;
        size_t len = 0;

        (void)state;
        scene_init(&s, 128 << 10, 2);
        for (unsigned i = 0; i < 100; i++) {
                say_numbered(&s, &next, 200); /* 12 KB */
                await_count(&s, next);
                assert_true(disk_use(dir) <= (128 << 10) * 4 + (300 << 10));
                /* Whatever a rotation is doing just now, reading back shows every line once and in order. */
                assert_int_equal(logfile_read_last(s.f, 1000, 1 << 20, &text, &len), 0);
                assert_int_equal(strlen(text), len);
                check_numbered(text, next, &first);
                assert_int_equal(first, next > 1000 ? next - 1000 : 0);
                free(text);
        }
        assert_true(logfile_counts(s.f)->rotations >= 4);
        assert_int_equal(logfile_counts(s.f)->errors, 0);
        assert_int_equal(logfile_counts(s.f)->skipped_bytes, 0);
        assert_int_equal(logfile_counts(s.f)->dropped_bytes, 0);
        assert_int_equal(fstat(s.child, &st), 0);
        assert_int_equal(st.st_size, next * 60); /* the size grows, the disk use does not */
        assert_int_equal(blocks(dir, "log.log.3"), 0);
        assert_true(blocks(dir, "log.log.2") > 0);
        /* all that is kept, across the files */
        assert_int_equal(logfile_read_last(s.f, 1000000, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        assert_true(next - first >= 2 * (128 << 10) / 60);
        free(text);
        assert_int_equal(logfile_read_last(s.f, 1000000, (150 << 10) + 7, &text, &len), 0);
        assert_int_equal(len, 150 << 10); /* whole lines */
        check_numbered(text, next, &first);
        free(text);
        assert_int_equal(logfile_read_last(s.f, 1, 1 << 20, &text, &len), 0);
        assert_int_equal(len, 60);
        check_numbered(text, next, &first);
        free(text);
        assert_int_equal(logfile_read_last(s.f, 0, 1 << 20, &text, &len), 0);
        assert_int_equal(len, 0);
        free(text);

        /* The next daemon finds the data behind the hole and goes on. */
        close_log(&s);
        open_log(&s, 128 << 10, 2);
        assert_true(strlen(logfile_tail(s.f)) > 8000);
        assert_int_equal(logfile_read_last(s.f, 1000000, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        assert_true(next - first >= 2 * (128 << 10) / 60);
        free(text);
        for (unsigned i = 0; i < 30; i++) {
                say_numbered(&s, &next, 200);
                await_count(&s, next);
        }
        assert_int_equal(logfile_read_last(s.f, 1000000, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        free(text);
        scene_finish(&s);
}

static void test_truncated_while_down(void **state)
{
        unsigned next = 0, first = 0;
        struct scene s;
        struct stat st;
        char *text = NULL;
        size_t len = 0;

        (void)state;
        scene_init(&s, 128 << 10, 2);
        say_numbered(&s, &next, 2500);
        logfile_catch_up(s.f, loop_now(s.loop));
        logfile_child_is_down(s.f);
        await_rotations(&s, 1);
        assert_int_equal(fstat(s.child, &st), 0);
        assert_int_equal(st.st_size, 0);
        assert_int_equal(logfile_read_last(s.f, 5000, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        assert_int_equal(first, 0);
        free(text);
        logfile_mark(s.f); /* the next child */
        say_numbered(&s, &next, 2500);
        await_count(&s, next);
        await_rotations(&s, 2);
        assert_int_equal(fstat(s.child, &st), 0);
        assert_int_equal(st.st_size, 2500 * 60); /* it lives: a hole */
        assert_int_equal(logfile_counts(s.f)->skipped_bytes, 0);
        scene_finish(&s);
}

static void test_truncated_by_hand_and_deleted(void **state)
{
        char path[96];
        struct scene s;
        struct stat st;

        (void)state;
        scene_init(&s, 1 << 20, 2);
        say(&s, "a long line before\n");
        await_count(&s, 1);
        assert_int_equal(ftruncate(s.child, 0), 0);
        pause_ms(&s, 30);
        say(&s, "b\n");
        await_count(&s, 2);
        assert_string_equal(s.last, "b");

        (void)snprintf(path, sizeof path, "%s/log.log", dir);
        assert_string_equal(logfile_path(s.f), path);
        assert_int_equal(unlink(path), 0);
        say(&s, "still followed\n");
        await_count(&s, 3);
        logfile_child_is_down(s.f);
        close_fd(&s.child);
        s.child = fcntl(logfile_fd(s.f), F_DUPFD_CLOEXEC, 3);
        say(&s, "in the new one\n");
        await_count(&s, 4);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 15);
        scene_finish(&s);
}

static void test_closed_and_reopened_in_a_rotation(void **state)
{
        unsigned next = 0, first = 0;
        char *text = NULL;
        struct scene s;
        size_t len = 0;

        (void)state;
        scene_init(&s, 64 << 10, 2);
        for (unsigned i = 0; i < 30; i++) {
                say_numbered(&s, &next, 1200);
                logfile_catch_up(s.f, loop_now(s.loop)); /* starts a rotation, if none is in flight */
                close_log(&s);
                open_log(&s, 64 << 10, 2);
                for (unsigned k = 0; k < 20; k++) { /* whatever the pool is doing by now */
                        assert_int_equal(logfile_read_last(s.f, 1000000, 1 << 20, &text, &len), 0);
                        check_numbered(text, next, &first);
                        free(text);
                }
                if (i % 3 == 0)
                        pause_ms(&s, 5);
        }
        pause_ms(&s, 50);
        assert_int_equal(logfile_read_last(s.f, 1000, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        assert_int_equal(first, next - 1000);
        free(text);
        scene_finish(&s);
}

/* --- weight -------------------------------------------------------------------------------------------------------- */

/* About 100 MB/s of lines until killed. */
static pid_t start_flood(int fd)
{
        const struct timespec rest = {.tv_nsec = 9000000};
        pid_t pid = fork();
        char *block;
        size_t n = 0;

        if (pid != 0)
                return pid;
        block = malloc(1 << 20);
        if (!block)
                _exit(1);
        for (unsigned i = 0; n + 100 < 1 << 20; i++)
                n += (size_t)snprintf(block + n, 100,
                                      "flooded line %08u .......................................\n", i);
        for (;;) {
                if (write(fd, block, n) < 0)
                        _exit(1);
                (void)nanosleep(&rest, NULL);
        }
}

static uint64_t size_of(int fd)
{
        struct stat st;

        return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

static void test_a_flood_costs_bounded_disk_and_no_time(void **state)
{
        uint64_t written;
        struct scene s, quiet;
        struct logfile *other = NULL;
        char path[96];
        pid_t pid;
        int fd;

        (void)state;
        scene_init(&s, 1 << 20, 2);
        quiet = (struct scene){.loop = s.loop, .child = -1};
        buffer_init(&quiet.lines, 0);
        assert_int_equal(logfile_open(s.loop, dir, "quiet", NULL, on_line, &quiet, &other), 0);
        fd = logfile_fd(other);
        timer_set(s.tick, loop_now(s.loop));
        pid = start_flood(s.child);
        assert_true(pid > 0);
        for (unsigned i = 0; i < 150; i++) {
                pause_ms(&s, 10);
                /* On a busy machine the pool may be late; but whenever it gets to run, the disk is freed. */
                if (disk_use(dir) > 32 << 20) {
                        assert_int_equal(kill(pid, SIGSTOP), 0);
                        for (unsigned k = 0; k < 3000 && disk_use(dir) > 8 << 20; k++)
                                pause_ms(&s, 10);
                        assert_true(disk_use(dir) <= 8 << 20);
                        assert_int_equal(kill(pid, SIGCONT), 0);
                }
                if (i % 10 == 0)
                        assert_int_equal(write(fd, "ping\n", 5), 5);
        }
        for (unsigned i = 0; i < 1000 && size_of(s.child) < 100 << 20; i++)
                pause_ms(&s, 10); /* a busy machine */
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        written = size_of(s.child);
        assert_true(written >= 100 << 20);
        assert_true(s.ticks > 15); /* 150 at best: nobody waited for the flood */
        for (unsigned i = 0; i < 1000 && quiet.count < 15; i++)
                pause_ms(&s, 10);
        assert_int_equal(quiet.count, 15);
        logfile_catch_up(s.f, loop_now(s.loop));
        assert_true(logfile_counts(s.f)->skipped_bytes > 0);
        assert_true(logfile_counts(s.f)->bytes + logfile_counts(s.f)->skipped_bytes >= written);
        assert_true(logfile_counts(s.f)->bytes < written);
        assert_non_null(strstr(heard(&s), " of output skipped: "));
        /* SIGKILL may have cut the last write, and so the last line. */
        if (!starts_with(s.last, "flooded line") && !starts_with("flooded line", s.last))
                fail_msg("the last line heard: \"%s\"", s.last);
        for (const char *p = heard(&s), *end; (end = strchr(p, '\n')); p = end + 1)
                assert_true(starts_with(p, "--- ") || (starts_with(p, "flooded line") && end - p == 61) ||
                            !end[1]);
        other = logfile_close(other);
        buffer_finish(&quiet.lines);
        (void)snprintf(path, sizeof path, "%s/quiet.log", dir);
        assert_int_equal(unlink(path), 0);
        scene_finish(&s);
}

static void on_turn(void *owner, usec_t now)
{
        (void)now;
        (*(unsigned *)owner)++;
}

static void test_small_writes_do_not_wake_us_each_time(void **state)
{
        unsigned turns = 0;
        struct scene s;
        pid_t pid;

        (void)state;
        scene_init(&s, 10 << 20, 2);
        assert_int_equal(loop_add_turn(s.loop, on_turn, &turns), 0);
        pid = fork();
        if (pid == 0) {
                for (unsigned i = 0; i < 20000; i++)
                        if (write(s.child, "x\n", 2) != 2)
                                _exit(1);
                _exit(0);
        }
        assert_true(pid > 0);
        await_count(&s, 20000);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(logfile_counts(s.f)->bytes, 40000);
        assert_true(turns < 2000); /* some of them from await_count */
        say(&s, "end\n");
        await_count(&s, 20001);
        pause_ms(&s, 120);
        assert_true(s.f->wd >= 0); /* the watch is back: the next line will be known at once */
        say(&s, "end\n");
        await_count(&s, 20002);
        scene_finish(&s);
}

static void test_without_inotify_it_polls(void **state)
{
        struct rlimit old, tight;
        struct scene s;
        int spare;

        (void)state;
        scene_init(&s, 1 << 20, 2);
        close_log(&s);
        spare = fcntl(0, F_DUPFD_CLOEXEC, 0);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
        tight = (struct rlimit){(rlim_t)spare + 1, old.rlim_max}; /* room for the log itself */
        assert_int_equal(close(spare), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        assert_int_equal(logfile_open(s.loop, dir, "log", NULL, on_line, &s, &s.f), 0);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        assert_int_equal(write(logfile_fd(s.f), "seen\n", 5), 5);
        await_count(&s, 1);
        assert_int_equal(write(logfile_fd(s.f), "again\n", 6), 6);
        await_count(&s, 2);
        scene_finish(&s);
}

/* --- file systems -------------------------------------------------------------------------------------------------- */

static void mount_on(char *path, size_t size, const char *type, const char *options)
{
        (void)snprintf(path, size, "%s/mnt", dir);
        assert_int_equal(mkdir(path, 0755), 0);
        assert_int_equal(mount(type, path, type, MS_NOSUID | MS_NODEV, options), 0);
}

static void unmount(const char *path)
{
        assert_int_equal(umount(path), 0);
        assert_int_equal(rmdir(path), 0);
}

static void test_disk_full(void **state)
{
        unsigned next = 0, first = 0;
        char path[96], file[128], *text = NULL, *block;
        struct scene s;
        size_t len = 0;
        int fd;

        (void)state;
        if (!own_mounts)
                skip();
        mount_on(path, sizeof path, "tmpfs", "size=2m");
        scene_init(&s, 1 << 20, 2);
        close_log(&s);
        clean(dir);
        s.dir = path;
        open_log(&s, 256 << 10, 2);
        (void)snprintf(file, sizeof file, "%s/ballast", path);
        fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        block = calloc(1, 1 << 20);
        say_numbered(&s, &next, 4000); /* 240 KB */
        await_count(&s, next);
        while (write(fd, block, 4096) == 4096) /* now it is full, but for what is in the log's last page */
                continue;
        assert_int_equal(errno, ENOSPC);
        assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_CUR) - (60 << 10)), 0);
        say_numbered(&s, &next, 500); /* it fits, a copy does not */
        await_count(&s, next);
        await_rotations(&s, 1);
        assert_true(logfile_counts(s.f)->errors >= 1);
        assert_true(logfile_counts(s.f)->dropped_bytes >= 256 << 10);
        assert_int_equal(blocks(path, "log.log.1"), 0);
        assert_true(blocks(path, "log.log") <= 64 << 10); /* punched all the same */
        for (unsigned i = 0; i < 40; i++) {               /* and life goes on */
                say_numbered(&s, &next, 200);
                await_count(&s, next);
        }
        assert_int_equal(logfile_read_last(s.f, 100, 1 << 20, &text, &len), 0);
        check_numbered(text, next, &first);
        free(text);
        free(block);
        (void)close(fd);
        (void)unlink(file);
        scene_finish(&s);
        unmount(path);
}

static void test_no_holes_there(void **state)
{
        unsigned next = 0;
        struct scene s;
        struct stat st;
        char path[96];

        (void)state;
        if (!own_mounts)
                skip();
        mount_on(path, sizeof path, "ramfs", NULL);
        scene_init(&s, 1 << 20, 2);
        close_log(&s);
        clean(dir);
        s.dir = path;
        open_log(&s, 128 << 10, 2);
        say_numbered(&s, &next, 3000);
        await_count(&s, next);
        await_rotations(&s, 1);
        assert_int_equal(fstat(s.child, &st), 0);
        assert_true(st.st_size < 60000); /* truncated, since it cannot be punched */
        assert_int_equal(logfile_counts(s.f)->errors, 0);
        say(&s, "and on\n");
        await_count(&s, next + 1);
        assert_string_equal(s.last, "and on");
        scene_finish(&s);
        unmount(path);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_lines_come_whole_and_harmless),
                cmocka_unit_test(test_bytes_are_counted_once),
                cmocka_unit_test(test_catch_up_takes_the_last_words),
                cmocka_unit_test(test_note_begins_a_line),
                cmocka_unit_test(test_tail_and_mark),
                cmocka_unit_test(test_an_endless_line_is_cut),
                cmocka_unit_test(test_what_is_no_log_is_refused),
                cmocka_unit_test(test_rotation_follows_no_link),
                cmocka_unit_test(test_what_was_told),
                cmocka_unit_test(test_rotation_keeps_order_and_bound),
                cmocka_unit_test(test_truncated_while_down),
                cmocka_unit_test(test_truncated_by_hand_and_deleted),
                cmocka_unit_test(test_closed_and_reopened_in_a_rotation),
                cmocka_unit_test(test_a_flood_costs_bounded_disk_and_no_time),
                cmocka_unit_test(test_small_writes_do_not_wake_us_each_time),
                cmocka_unit_test(test_without_inotify_it_polls),
                cmocka_unit_test(test_disk_full),
                cmocka_unit_test(test_no_holes_there),
        };
        int r;

        (void)snprintf(dir, sizeof dir, "/tmp/lsv-logfile.XXXXXX");
        if (!mkdtemp(dir))
                return 1;
        /* Before any thread exists, so that libuv's pool shares it. What is mounted vanishes with this process. */
        own_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
        r = cmocka_run_group_tests(tests, NULL, NULL);
        if (rmdir(dir) < 0)
                perror(dir);
        return r;
}
