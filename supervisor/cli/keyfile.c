/* keyfile.c: lock, read, write, rename. */
#include "cli/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/text.h"

#define GROUP "llama-supervisor"

static const usec_t PATIENCE = 10 * USEC_PER_SEC;

static int complain(char **ret_error, int r, const char *path, const char *why)
{
        *ret_error = text_format("%s: %s", path, why);
        return r;
}

/* Two that change it at once would lose one of the changes. */
static int lock_folder(const char *folder, int *ret)
{
        static const struct timespec nap = {.tv_nsec = 20 * 1000 * 1000};
        _cleanup_close_ int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        usec_t until = usec_add(time_monotonic(), PATIENCE);

        if (fd < 0)
                return -errno;
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                if (time_monotonic() > until)
                        return -EBUSY;
                (void)nanosleep(&nap, NULL);
        }
        *ret = steal_fd(&fd);
        return 0;
}

static int read_keys(struct keyfile *f, char **ret_error)
{
        _cleanup_free_ char *text = NULL;
        struct keys_problem problem;
        size_t len = 0;
        int r = file_read(f->path, KEYS_FILE_MAX, &text, &len);

        if (r == -ENOENT) {
                f->is_new = true;
                return keys_new(&f->keys);
        }
        if (r < 0)
                return complain(ret_error, r, f->path, strerror(-r));
        r = keys_load(text, len, &f->keys, &problem);
        if (r == -EBADMSG)
                *ret_error =
                        text_format("%s:%u:%u: %s", f->path, problem.line, problem.column, problem.message);
        return r;
}

int keyfile_open(const char *path, bool for_writing, struct keyfile *ret, char **ret_error)
{
        struct keyfile f = {.lock = -1};
        _cleanup_free_ char *copy = NULL;
        int r = 0;

        *ret_error = NULL;
        f.path = realpath(path, NULL);
        if (!f.path)
                f.path = text_dup(path);
        copy = text_dup(f.path);
        if (!copy)
                r = -ENOMEM;
        if (r == 0 && for_writing) {
                const char *folder = dirname(copy);

                r = lock_folder(folder, &f.lock);
                if (r < 0)
                        (void)complain(ret_error, r, folder,
                                       r == -EBUSY
                                               ? "somebody else has been changing keys here for ten seconds"
                                               : strerror(-r));
        }
        if (r == 0)
                r = read_keys(&f, ret_error);
        if (r < 0) {
                keyfile_finish(&f);
                return r;
        }
        *ret = f;
        return 0;
}

/* As the file is, or as a new one should be. */
static int set_owner(const struct keyfile *f, int fd)
{
        const struct group *group = geteuid() == 0 ? getgrnam(GROUP) : NULL;
        struct stat st;

        if (stat(f->path, &st) == 0) {
                /* Who may write the folder but is not the owner cannot give it back, and should not take it. */
                if ((st.st_uid != geteuid() || st.st_gid != getegid()) &&
                    fchown(fd, st.st_uid, st.st_gid) < 0)
                        return -errno;
                return fchmod(fd, st.st_mode & 07770) < 0 ? -errno : 0;
        }
        if (group && fchown(fd, (uid_t)-1, group->gr_gid) < 0)
                return -errno;
        return fchmod(fd, group ? 0640 : 0600) < 0 ? -errno : 0;
}

static int write_all(int fd, const char *data, size_t len)
{
        while (len) {
                ssize_t n = write(fd, data, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                data += n;
                len -= (size_t)n;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

int keyfile_save(struct keyfile *f, char **ret_error)
{
        _cleanup_free_ char *temporary = text_format("%s.new", f->path);
        _cleanup_buffer_ struct buffer text = {0};
        _cleanup_close_ int fd = -1;
        int r;

        *ret_error = NULL;
        buffer_init(&text, KEYS_FILE_MAX);
        keys_put(f->keys, &text);
        if (!temporary || text.failed)
                return -ENOMEM;
        /* Left by one that was killed: we hold the lock, so it is nobody's. */
        (void)unlink(temporary);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return complain(ret_error, -errno, temporary, strerror(errno));
        r = set_owner(f, fd);
        if (r == 0)
                r = write_all(fd, text.data, text.len);
        if (r == 0 && rename(temporary, f->path) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlink(temporary);
                return complain(ret_error, r, f->path, strerror(-r));
        }
        (void)fsync(f->lock);
        return 0;
}

void keyfile_finish(struct keyfile *f)
{
        if (f->path && f->lock >= 0)
                (void)close(f->lock);
        free(f->path);
        f->path = NULL;
        f->keys = keys_free(f->keys);
}
