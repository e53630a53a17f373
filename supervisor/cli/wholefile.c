/* wholefile.c: lock, write, rename. */
#include "cli/wholefile.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/text.h"
#include "base/time.h"

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

int wholefile_lock(const char *path, int *ret_lock, char **ret_error)
{
        _cleanup_free_ char *copy = text_dup(path);
        const char *folder;
        int r;

        *ret_error = NULL;
        if (!copy)
                return -ENOMEM;
        folder = dirname(copy);
        r = lock_folder(folder, ret_lock);
        return r < 0 ? complain(ret_error, r, folder,
                                r == -EBUSY ? "somebody else has been changing files here for ten seconds"
                                            : strerror(-r))
                     : 0;
}

/* As the file is, or as a new one should be. */
static int set_owner(const char *path, int fd, const struct wholefile_mode *as)
{
        const struct group *group = as->group && geteuid() == 0 ? getgrnam(as->group) : NULL;
        struct stat st;

        if (stat(path, &st) == 0) {
                /* Who may write the folder but is not the owner cannot give it back, and should not take it. */
                if ((st.st_uid != geteuid() || st.st_gid != getegid()) &&
                    fchown(fd, st.st_uid, st.st_gid) < 0)
                        return -errno;
                /* What nobody else may read when it is new is kept from them for good; of another file they keep what they had. */
                return fchmod(fd, st.st_mode & (07770 | (as->mode & 07))) < 0 ? -errno : 0;
        }
        if (group && fchown(fd, (uid_t)-1, group->gr_gid) < 0)
                return -errno;
        return fchmod(fd, group ? as->group_mode : as->mode) < 0 ? -errno : 0;
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

int wholefile_write(const char *path, int lock, const char *data, size_t len, const struct wholefile_mode *as,
                    char **ret_error)
{
        _cleanup_free_ char *temporary = text_format("%s.new", path);
        _cleanup_close_ int fd = -1;
        int r;

        *ret_error = NULL;
        if (!temporary)
                return -ENOMEM;
        /* Left by one that was killed: we hold the lock, so it is nobody's. */
        (void)unlink(temporary);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return complain(ret_error, -errno, temporary, strerror(errno));
        r = set_owner(path, fd, as);
        if (r == 0)
                r = write_all(fd, data, len);
        if (r == 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0) {
                (void)unlink(temporary);
                return complain(ret_error, r, path, strerror(-r));
        }
        (void)fsync(lock);
        return 0;
}
