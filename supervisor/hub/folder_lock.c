/* folder_lock.c: flock on a file, not on the folder: over NFS only what is open for writing can be locked. */
#include "hub/folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/macros.h"
#include "base/text.h"

enum { PID_SIZE = 24 };

static pid_t holder_of(int fd)
{
        char text[PID_SIZE];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

        text[n > 0 ? n : 0] = '\0';
        return (pid_t)strtol(text, NULL, 10);
}

/* For people: what it says is not asked by anybody who has to decide. Written over in place, always the same length. */
static void sign(int fd)
{
        char text[PID_SIZE];
        int n = snprintf(text, sizeof(text), "%-12d\n", (int)getpid());

        (void)!pwrite(fd, text, (size_t)n, 0);
}

int folder_lock_take(const char *dir, int inherited, int *ret_fd, pid_t *ret_holder)
{
        _cleanup_free_ char *path = text_format("%s/lock", dir);
        _cleanup_close_ int fd = -1, old = inherited;
        struct stat ours, there;

        *ret_holder = 0;
        if (!path)
                return -ENOMEM;
        /* The lock is the open file's own, so it is had again without a wait if it was ever had. */
        if (old >= 0 && fstat(old, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev && flock(old, LOCK_EX | LOCK_NB) == 0) {
                *ret_fd = steal_fd(&old);
                return 0;
        }
        fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return -ENOLCK;
                *ret_holder = holder_of(fd);
                return -EBUSY;
        }
        sign(fd);
        *ret_fd = steal_fd(&fd);
        return 0;
}
