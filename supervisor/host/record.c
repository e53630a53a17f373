/* record.c: whole files by rename, and the lock of the runtime directory. */
#include "host/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"

struct save {
        struct list node;
        struct loop *loop;
        char *dir, *name, *data;
        size_t len;
        char *next; /* newer content that came while this one was under way */
        size_t next_len;
        int result;
};

static struct list saves = {&saves, &saves}; /* under way, loop thread only */
static size_t n_saves;

static bool is_plain_name(const char *name)
{
        return *name && *name != '.' && !strchr(name, '/');
}

static int write_all(int fd, const char *data, size_t len)
{
        while (len > 0) {
                ssize_t n = write(fd, data, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

/* The temporary name begins with a dot, so that no listing of records takes it for one. */
static int write_file(const char *dir, const char *name, const char *data, size_t len, bool sync)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name), *tmp = text_format("%s/.%s.new", dir, name);
        _cleanup_close_ int fd = -1;
        int r;

        if (!path || !tmp)
                return -ENOMEM;
        if (!is_plain_name(name))
                return -EINVAL;
        (void)unlink(tmp); /* left by a crash, or planted: O_EXCL below never follows it */
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        r = write_all(fd, data, len);
        if (r == 0 && sync && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && rename(tmp, path) < 0)
                r = -errno;
        if (r < 0)
                (void)unlink(tmp);
        return r;
}

int record_save_now(const char *dir, const char *name, const char *data, size_t len)
{
        return write_file(dir, name, data, len, false);
}

static void save_free(struct save *s)
{
        free(s->dir);
        free(s->name);
        free(s->data);
        free(s->next);
        free(s);
}

static void save_work(void *job)
{
        struct save *s = job;

        s->result = write_file(s->dir, s->name, s->data, s->len, true);
}

static void save_done(void *job)
{
        struct save *s = job;

        if (s->result < 0)
                log_warn(NULL, "%s/%s could not be written: %s", s->dir, s->name, strerror(-s->result));
        if (s->next) {
                free(s->data);
                s->data = steal_ptr(s->next);
                s->len = s->next_len;
                if (loop_work(s->loop, save_work, save_done, s) == 0)
                        return;
                log_warn(NULL, "%s/%s could not be queued for writing", s->dir, s->name);
        }
        list_remove(&s->node);
        n_saves--;
        save_free(s);
}

static char *copy_bytes(const char *data, size_t len)
{
        char *copy = malloc(len + 1);

        if (copy) {
                memcpy(copy, data, len);
                copy[len] = '\0';
        }
        return copy;
}

int record_save(struct loop *loop, const char *dir, const char *name, const char *data, size_t len)
{
        char *copy = copy_bytes(data, len);
        struct save *s;
        int r;

        if (!copy)
                return -ENOMEM;
        LIST_FOREACH(&saves, it) {
                s = LIST_ENTRY(it, struct save, node);
                if (streq(s->name, name) && streq(s->dir, dir)) {
                        free(s->next);
                        s->next = copy;
                        s->next_len = len;
                        return 0;
                }
        }
        s = calloc(1, sizeof *s);
        if (!s) {
                free(copy);
                return -ENOMEM;
        }
        list_init(&s->node);
        s->loop = loop;
        s->dir = strdup(dir);
        s->name = strdup(name);
        s->data = copy;
        s->len = len;
        r = s->dir && s->name ? loop_work(loop, save_work, save_done, s) : -ENOMEM;
        if (r < 0) {
                save_free(s);
                return r;
        }
        list_append(&saves, &s->node);
        n_saves++;
        return 0;
}

size_t record_pending(void)
{
        return n_saves;
}

int record_load(const char *dir, const char *name, size_t max, char **ret, size_t *ret_len)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);

        if (!path)
                return -ENOMEM;
        return is_plain_name(name) ? file_read(path, max, ret, ret_len) : -EINVAL;
}

int record_remove(const char *dir, const char *name)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);

        if (!path)
                return -ENOMEM;
        if (!is_plain_name(name))
                return -EINVAL;
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int make_runtime_dir(const char *path)
{
        _cleanup_free_ char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *p = copy + 1; *p; p++)
                if (*p == '/') {
                        *p = '\0';
                        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                                return -errno;
                        *p = '/';
                }
        return mkdir(copy, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int lockdir_take(const char *runtime_dir, int *ret_fd, pid_t *ret_holder)
{
        _cleanup_free_ char *path = text_format("%s/lock", runtime_dir);
        _cleanup_close_ int fd = -1;
        char text[24];
        int r, n;

        if (!path)
                return -ENOMEM;
        r = make_runtime_dir(runtime_dir);
        if (r < 0)
                return r;
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return -errno;
                n = (int)pread(fd, text, sizeof text - 1, 0);
                text[MAX(n, 0)] = '\0';
                *ret_holder = (pid_t)strtol(text, NULL, 10);
                return -EBUSY;
        }
        n = snprintf(text, sizeof text, "%d\n", (int)getpid());
        if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n)
                return -EIO;
        *ret_fd = steal_fd(&fd);
        return 0;
}
