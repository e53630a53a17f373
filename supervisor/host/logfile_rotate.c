/* logfile_rotate.c: keeps a live log small: copies what was read to NAME.log.1 and punches it out of the live file, in
 * libuv's pool, because both may wait for the disk (ext4 writes a range back before it punches it). */
#include "host/logfile_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

enum { COPY_BUFFER = 128 << 10 };
#define COPY_PAUSE (10 * USEC_PER_SEC) /* between copies of a file that is written faster than it is read */

struct rotation {
        struct rotation *next;
        struct logfile *f; /* NULL once it was closed */
        struct shared_fd *file;
        char *dir, *name;
        uint64_t copy_from, copy_to; /* the same: nothing is copied */
        uint64_t punch_from, punch_to;
        bool align; /* copy_from is in the middle of a line */
        unsigned keep;

        /* Held by the pool while names change, and by who reads live and rotated files as one. Before the renaming the
         * live file is whole; after it what lies before punch_to is in NAME.log.1 or dropped. */
        pthread_mutex_t lock;
        bool renamed;

        int copy_error, punch_error;
};

/* In flight; touched in the loop's thread only. Two that move the same names at once would spoil each other's. */
static struct rotation *rotations;

static struct rotation *find_rotation(const struct logfile *f)
{
        struct rotation *job = rotations;

        while (job && !(streq(job->dir, f->dir) && streq(job->name, f->name)))
                job = job->next;
        return job;
}

static struct rotation *rotation_free(struct rotation *job)
{
        if (!job)
                return NULL;
        (void)shared_fd_unref(job->file);
        (void)pthread_mutex_destroy(&job->lock);
        free(job->dir);
        free(job->name);
        free(job);
        return NULL;
}

static void rotated_name(char *buf, size_t size, const char *name, unsigned i)
{
        (void)snprintf(buf, size, "%s.log.%u", name, i);
}

static int write_all(int fd, const char *data, size_t len)
{
        ssize_t n;

        while (len > 0) {
                n = write(fd, data, len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

static int copy_range(const struct rotation *job, int to)
{
        _cleanup_free_ char *buf = malloc(COPY_BUFFER);
        uint64_t at = job->copy_from;
        bool align = job->align;
        const char *data, *nl;
        size_t len;
        ssize_t n;
        int r;

        if (!buf)
                return -ENOMEM;
        while (at < job->copy_to) {
                n = pread(job->file->fd, buf, MIN((uint64_t)COPY_BUFFER, job->copy_to - at), (off_t)at);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : 0; /* shorter by now: somebody truncated it */
                at += (uint64_t)n;
                data = buf;
                len = (size_t)n;
                if (align) {
                        nl = memchr(data, '\n', len);
                        if (!nl)
                                continue;
                        len -= (size_t)(nl + 1 - data);
                        data = nl + 1;
                        align = false;
                }
                r = write_all(to, data, len);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void move_up(const struct rotation *job, int dir, const char *temporary)
{
        char from[96], to[96];

        for (unsigned i = job->keep;; i++) { /* also those of a time when more were kept */
                rotated_name(to, sizeof to, job->name, i);
                if (unlinkat(dir, to, 0) < 0)
                        break;
        }
        for (unsigned i = job->keep; i > 1; i--) {
                rotated_name(from, sizeof from, job->name, i - 1);
                rotated_name(to, sizeof to, job->name, i);
                (void)renameat(dir, from, dir, to);
        }
        rotated_name(to, sizeof to, job->name, 1);
        (void)renameat(dir, temporary, dir, to);
}

static int copy_out(struct rotation *job)
{
        _cleanup_close_ int dir = -1, to = -1;
        char temporary[96];
        int r;

        dir = open(job->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0)
                return -errno;
        (void)snprintf(temporary, sizeof temporary, ".%s.log.tmp", job->name);
        (void)unlinkat(dir, temporary, 0); /* of a daemon that was killed */
        to = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
        if (to < 0)
                return -errno;
        r = copy_range(job, to);
        if (r < 0) {
                (void)unlinkat(dir, temporary, 0);
                return r;
        }
        (void)pthread_mutex_lock(&job->lock);
        move_up(job, dir, temporary);
        job->renamed = true;
        (void)pthread_mutex_unlock(&job->lock);
        return 0;
}

/* In the pool. */
static void rotation_work(void *arg)
{
        struct rotation *job = arg;

        if (job->copy_to > job->copy_from)
                job->copy_error = copy_out(job);
        (void)pthread_mutex_lock(&job->lock);
        job->renamed =
                true; /* also when the copy failed: the hole is punched all the same, or the disk stays full */
        (void)pthread_mutex_unlock(&job->lock);
        /* From 0, so that what an earlier failure left goes too. */
        if (fallocate(job->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)job->punch_to) < 0)
                job->punch_error = -errno;
}

static void truncate_live(struct logfile *f)
{
        struct stat st;

        if (fstat(f->file->fd, &st) < 0 || ftruncate(f->file->fd, 0) < 0) {
                f->counts.errors++;
                return;
        }
        if ((uint64_t)st.st_size > f->read_off)
                f->counts.skipped_bytes += (uint64_t)st.st_size - f->read_off;
        f->data_start = f->read_off = f->scanned = 0;
        f->cutting = false;
}

/* In the loop's thread. */
static void rotation_done(void *arg)
{
        struct rotation *job = arg;
        struct logfile *f = job->f;
        struct stat st;
        bool idle, no_holes = job->punch_error == -EOPNOTSUPP || job->punch_error == -ENOSYS;

        for (struct rotation **p = &rotations; *p; p = &(*p)->next)
                if (*p == job) {
                        *p = job->next;
                        break;
                }
        if (f) {
                f->rotation = NULL;
                f->counts.rotations++;
                f->counts.dropped_bytes += job->punch_to - job->punch_from;
                if (job->copy_error == 0)
                        f->counts.dropped_bytes -= job->copy_to - job->copy_from;
                f->counts.errors += (job->copy_error < 0) + (job->punch_error < 0 && !no_holes);
                f->data_start =
                        MIN(job->punch_to, f->read_off); /* it may have been truncated by hand meanwhile */
                f->skipped_since = false;
                idle = f->down && fstat(f->file->fd, &st) == 0 && (uint64_t)st.st_size == f->read_off;
                if (idle || no_holes || f->scanned > LIVE_SIZE_MAX)
                        truncate_live(f);
        }
        (void)rotation_free(job);
}

static int rotation_start(struct logfile *f, bool copy, usec_t now)
{
        struct rotation *job = calloc(1, sizeof *job);
        uint64_t newest;
        int r;

        if (!job)
                return -ENOMEM;
        (void)pthread_mutex_init(&job->lock, NULL);
        job->dir = strdup(f->dir);
        job->name = strdup(f->name);
        if (!job->dir || !job->name) {
                (void)rotation_free(job);
                return -ENOMEM;
        }
        job->f = f;
        job->file = f->file;
        job->file->refs++;
        job->keep = f->limits.keep;
        job->punch_to = job->copy_to = f->read_off;
        job->copy_from = job->punch_from = f->data_start;
        newest = f->limits.rotate_at + CHUNK;
        if (job->copy_to - job->copy_from > newest) {
                job->copy_from = job->copy_to - newest;
                job->align = true;
        }
        if (!copy)
                job->copy_from = job->copy_to;
        r = loop_work(f->loop, rotation_work, rotation_done, job);
        if (r < 0) {
                (void)rotation_free(job);
                return r;
        }
        f->rotation = job;
        job->next = rotations;
        rotations = job;
        if (copy)
                f->last_copy = now;
        return 0;
}

void rotation_check(struct logfile *f, usec_t now)
{
        bool copy;

        if (f->rotation || find_rotation(f) || f->read_off - f->data_start < f->limits.rotate_at)
                return;
        copy = f->limits.keep > 0 &&
               (!f->skipped_since || f->last_copy == 0 || usec_sub(now, f->last_copy) >= COPY_PAUSE);
        if (rotation_start(f, copy, now) < 0)
                f->counts.errors++; /* the next bytes that come bring us here again */
}

void rotation_attach(struct logfile *f)
{
        struct rotation *job = find_rotation(f);
        struct stat ours, theirs;

        if (!job || job->f || fstat(f->file->fd, &ours) < 0 || fstat(job->file->fd, &theirs) < 0 ||
            ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev)
                return;
        job->f = f;
        f->rotation = job;
        f->data_start = MIN(f->data_start, job->punch_from);
}

void rotation_forget(struct logfile *f)
{
        if (f->rotation)
                f->rotation->f = NULL;
        f->rotation = NULL;
}

uint64_t rotation_hold(struct logfile *f)
{
        if (!f->rotation)
                return f->data_start;
        (void)pthread_mutex_lock(&f->rotation->lock);
        return f->rotation->renamed ? f->rotation->punch_to : f->data_start;
}

void rotation_release(struct logfile *f)
{
        if (f->rotation)
                (void)pthread_mutex_unlock(&f->rotation->lock);
}

int rotation_open(const struct logfile *f, unsigned i)
{
        char name[96], path[PATH_BYTES];
        struct stat st;
        int fd;

        rotated_name(name, sizeof name, f->name, i);
        if ((size_t)snprintf(path, sizeof path, "%s/%s", f->dir, name) >= sizeof path)
                return -ENAMETOOLONG;
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
                (void)close(fd);
                return -EINVAL;
        }
        return fd;
}
