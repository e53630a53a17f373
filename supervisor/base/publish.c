/* publish.c: O_TMPFILE, fsync, linkat. */
#include "base/publish.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"
#include "base/time.h"

enum { SCRATCH_TRIES = 100 };

bool publish_without_tmpfile;

static int open_scratch(struct publish *p)
{
        static unsigned counter;

        for (unsigned i = 0; i < SCRATCH_TRIES; i++) {
                if (snprintf(p->scratch, sizeof(p->scratch), "%s/.new-%d-%llx-%x", p->dir, (int)getpid(),
                             (unsigned long long)time_realtime(),
                             __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED)) >= (int)sizeof(p->scratch)) {
                        p->scratch[0] = '\0';
                        return -ENAMETOOLONG;
                }
                p->fd = open(p->scratch, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
                if (p->fd >= 0)
                        return 0;
                if (errno != EEXIST)
                        break;
        }
        p->scratch[0] = '\0';
        return -errno;
}

int publish_begin(const char *dir, mode_t mode, struct publish *ret)
{
        struct publish *p = ret;
        int r = 0;

        p->fd = -1;
        p->scratch[0] = '\0';
        if (strlen(dir) >= sizeof(p->dir))
                return -ENAMETOOLONG;
        (void)text_copy(p->dir, sizeof(p->dir), dir);
        if (!publish_without_tmpfile)
                p->fd = open(dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        if (p->fd < 0 && !publish_without_tmpfile && errno != EOPNOTSUPP && errno != EISDIR &&
            errno != EINVAL)
                return -errno;
        if (p->fd < 0)
                r = open_scratch(p);
        if (r == 0 && fchmod(p->fd, mode) < 0) {
                r = -errno;
                publish_end(p);
        }
        return r;
}

int publish_write(struct publish *p, const void *data, size_t len)
{
        const char *at = data;

        while (len) {
                ssize_t n = write(p->fd, at, len);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                at += n;
                len -= (size_t)n;
        }
        return 0;
}

int publish_sync(const char *dir)
{
        _cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int publish_link(struct publish *p, const char *name, bool durable)
{
        char path[PATH_MAX], from[sizeof("/proc/self/fd/") + 12];

        if (snprintf(path, sizeof(path), "%s/%s", p->dir, name) >= (int)sizeof(path))
                return -ENAMETOOLONG;
        if (durable && fsync(p->fd) < 0)
                return -errno;
        (void)snprintf(from, sizeof(from), "/proc/self/fd/%d", p->fd);
        if (linkat(AT_FDCWD, p->scratch[0] ? p->scratch : from, AT_FDCWD, path,
                   p->scratch[0] ? 0 : AT_SYMLINK_FOLLOW) < 0)
                return -errno;
        return 0;
}

void publish_end(struct publish *p)
{
        if (p->scratch[0])
                (void)unlink(p->scratch); /* its first name; what was linked keeps the other one */
        p->scratch[0] = '\0';
        close_fd(&p->fd);
        p->fd = -1;
}

int publish_file(const char *dir, const char *name, mode_t mode, const void *data, size_t len, bool durable)
{
        _cleanup_publish_ struct publish p = {.fd = -1};
        int r = publish_begin(dir, mode, &p);

        if (r == 0)
                r = publish_write(&p, data, len);
        if (r == 0)
                r = publish_link(&p, name, durable);
        return r == 0 && durable ? publish_sync(dir) : r;
}
