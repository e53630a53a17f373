/* record.c: whole files by rename, in the pool or at once, and the runtime directory's lock. */
#include "host/record.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/list.h"
#include "base/macros.h"

enum { NAME_BYTES = 100 };

struct save {
        struct list list;
        struct loop *loop;
        char *dir, *name;
        char *data, *next; /* next: what came while data was being written */
        size_t len, next_len;
        bool overtaken; /* by record_save_now or record_remove; under `renaming` */
        int error;
};

static struct list saves = {&saves, &saves}; /* under way */
static uint64_t failures;
static int last_failure;

/* Held around each rename and each overtaking, so that a write from the pool never lands on top of a later one. */
static pthread_mutex_t renaming = PTHREAD_MUTEX_INITIALIZER;

static bool is_good_name(const char *name)
{
        size_t n = strlen(name);

        return n > 0 && n <= NAME_BYTES && name[0] != '.' && !strchr(name, '/');
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

static int write_temporary(int dir, const char *name, const char *data, size_t len, bool sync)
{
        _cleanup_close_ int fd = -1;
        int r;

        (void)unlinkat(dir, name, 0);
        fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        r = write_all(fd, data, len);
        if (r == 0 && sync && fsync(fd) < 0)
                r = -errno;
        if (r < 0)
                (void)unlinkat(dir, name, 0);
        return r;
}

static int open_dir(const char *path)
{
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

static int rename_or_unlink(int dir, const char *temporary, const char *name)
{
        int r;

        if (renameat(dir, temporary, dir, name) == 0)
                return 0;
        r = -errno;
        (void)unlinkat(dir, temporary, 0);
        return r;
}

/* In the pool. */
static int save_whole(struct save *s)
{
        _cleanup_close_ int dir = open_dir(s->dir);
        char temporary[NAME_BYTES + 8];
        int r;

        if (dir < 0)
                return dir;
        (void)snprintf(temporary, sizeof temporary, ".%s.tmp", s->name);
        r = write_temporary(dir, temporary, s->data, s->len, true);
        if (r < 0)
                return r;
        (void)pthread_mutex_lock(&renaming);
        if (s->overtaken)
                (void)unlinkat(dir, temporary, 0);
        else
                r = rename_or_unlink(dir, temporary, s->name);
        (void)pthread_mutex_unlock(&renaming);
        if (r == 0)
                (void)fsync(dir); /* the name, too, survives a power cut */
        return r;
}

static void save_work(void *job)
{
        struct save *s = job;

        s->error = save_whole(s);
}

static struct save *save_free(struct save *s)
{
        if (!s)
                return NULL;
        free(s->dir);
        free(s->name);
        free(s->data);
        free(s->next);
        free(s);
        return NULL;
}

static void note_failure(int error)
{
        if (error >= 0)
                return;
        failures++;
        last_failure = error;
}

static void save_done(void *job)
{
        struct save *s = job;
        int r;

        note_failure(s->error);
        if (s->next) {
                free(s->data);
                s->data = steal_ptr(s->next);
                s->len = s->next_len;
                s->overtaken = false;
                s->error = 0;
                if (loop_work(s->loop, save_work, save_done, s) == 0)
                        return;
                list_remove(&s->list);
                r = record_save_now(s->dir, s->name, s->data, s->len); /* it was promised */
                note_failure(r);
                (void)save_free(s);
                return;
        }
        list_remove(&s->list);
        (void)save_free(s);
}

static struct save *find_save(const char *dir, const char *name)
{
        LIST_FOREACH(&saves, it)
        {
                struct save *s = LIST_ENTRY(it, struct save, list);

                if (streq(s->name, name) && streq(s->dir, dir))
                        return s;
        }
        return NULL;
}

static char *copy_of(const void *data, size_t len)
{
        char *p = malloc(len + 1);

        if (p && len)
                memcpy(p, data, len);
        return p;
}

int record_save(struct loop *loop, const char *dir, const char *name, const void *data, size_t len)
{
        struct save *s;
        char *copy;
        int r;

        if (!is_good_name(name))
                return -EINVAL;
        copy = copy_of(data, len);
        if (!copy)
                return -ENOMEM;
        s = find_save(dir, name);
        if (s) {
                free(s->next);
                s->next = copy;
                s->next_len = len;
                return 0;
        }
        s = calloc(1, sizeof *s);
        if (!s) {
                free(copy);
                return -ENOMEM;
        }
        s->loop = loop;
        s->data = copy;
        s->len = len;
        s->dir = strdup(dir);
        s->name = strdup(name);
        r = s->dir && s->name ? loop_work(loop, save_work, save_done, s) : -ENOMEM;
        if (r < 0) {
                (void)save_free(s);
                return r;
        }
        list_append(&saves, &s->list);
        return 0;
}

/* What is under way must not land after what the caller does now. The caller holds `renaming`. */
static void overtake(const char *dir, const char *name)
{
        struct save *s = find_save(dir, name);

        if (!s)
                return;
        s->overtaken = true;
        free(s->next);
        s->next = NULL;
}

int record_save_now(const char *dir_path, const char *name, const void *data, size_t len)
{
        char temporary[NAME_BYTES + 8];
        int r;

        if (!is_good_name(name))
                return -EINVAL;
        _cleanup_close_ int dir = open_dir(dir_path);
        if (dir < 0)
                return dir;
        (void)snprintf(temporary, sizeof temporary, ".%s.now", name);
        r = write_temporary(dir, temporary, data, len, false);
        if (r < 0)
                return r;
        (void)pthread_mutex_lock(&renaming);
        r = rename_or_unlink(dir, temporary, name);
        if (r == 0)
                overtake(dir_path, name);
        (void)pthread_mutex_unlock(&renaming);
        return r;
}

int record_remove(const char *dir_path, const char *name)
{
        int r = 0;

        if (!is_good_name(name))
                return -EINVAL;
        (void)pthread_mutex_lock(&renaming);
        overtake(dir_path, name);
        _cleanup_close_ int dir = open_dir(dir_path);
        if (dir < 0)
                r = dir == -ENOENT ? 0 : dir;
        else if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
                r = -errno;
        (void)pthread_mutex_unlock(&renaming);
        return r;
}

int record_load(const char *dir_path, const char *name, size_t max, char **ret, size_t *ret_len)
{
        _cleanup_free_ char *data = NULL;
        size_t len = 0;
        struct stat st;
        ssize_t n;

        if (!is_good_name(name))
                return -EINVAL;
        _cleanup_close_ int dir = open_dir(dir_path);
        if (dir < 0)
                return dir;
        _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        if ((uint64_t)st.st_size > max)
                return -EFBIG;
        data = malloc((size_t)st.st_size + 1);
        if (!data)
                return -ENOMEM;
        while (len < (size_t)st.st_size) { /* records are replaced, never changed: this is all of it */
                n = read(fd, data + len, (size_t)st.st_size - len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                len += (size_t)n;
        }
        data[len] = '\0';
        *ret_len = len;
        *ret = steal_ptr(data);
        return 0;
}

bool record_is_saving(void)
{
        return !list_is_empty(&saves);
}

uint64_t record_failures(int *ret_last)
{
        if (ret_last)
                *ret_last = last_failure;
        return failures;
}

/* --- the lock ----------------------------------------------------------------------------------------------------- */

/* The holder writes its pid right after it got the lock; when we come in between, we look again. */
static pid_t read_holder(int fd)
{
        const struct timespec pause = {.tv_nsec = 5000000};
        char text[24];
        ssize_t n;
        long pid;

        for (unsigned i = 0; i < 20; i++) {
                n = pread(fd, text, sizeof text - 1, 0);
                text[MAX(n, 0)] = '\0';
                pid = strtol(text, NULL, 10);
                if (pid > 0 && strchr(text, '\n'))
                        return (pid_t)pid;
                (void)nanosleep(&pause, NULL);
        }
        return 0;
}

static int lock_once(const char *dir_path, int *ret_fd, pid_t *ret_holder)
{
        struct stat ours, there;
        char text[24];
        int n;

        _cleanup_close_ int dir = open_dir(dir_path);
        if (dir < 0)
                return dir;
        _cleanup_close_ int fd =
                openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &ours) < 0)
                return -errno;
        if (!S_ISREG(ours.st_mode))
                return -EINVAL;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return -errno;
                *ret_holder = read_holder(fd);
                return -EBUSY;
        }
        /* Somebody may have cleaned the directory between open and flock: then this is a lock on nothing. */
        if (fstatat(dir, "lock", &there, AT_SYMLINK_NOFOLLOW) < 0 || ours.st_ino != there.st_ino ||
            ours.st_dev != there.st_dev)
                return -ESTALE;
        n = snprintf(text, sizeof text, "%d\n", (int)getpid());
        if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
                return errno ? -errno : -EIO;
        *ret_fd = steal_fd(&fd);
        return 0;
}

int lockdir_take(const char *dir, int *ret_fd, pid_t *ret_holder)
{
        int r = -ESTALE;

        for (unsigned i = 0; i < 10 && r == -ESTALE; i++)
                r = lock_once(dir, ret_fd, ret_holder);
        return r;
}

int lockdir_keep(const char *dir_path, int fd)
{
        struct stat ours, there;

        _cleanup_close_ int dir = open_dir(dir_path);
        if (dir < 0)
                return dir;
        /* The lock is the open file's own, so it is had again without a wait if it was ever had. */
        if (fstat(fd, &ours) < 0 || fstatat(dir, "lock", &there, AT_SYMLINK_NOFOLLOW) < 0 ||
            ours.st_ino != there.st_ino || ours.st_dev != there.st_dev || flock(fd, LOCK_EX | LOCK_NB) < 0)
                return -ESTALE;
        return 0;
}
