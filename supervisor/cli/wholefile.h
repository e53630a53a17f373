/* wholefile.h: files that several programs change: one at a time, written whole and renamed; blocking.
 *
 * The lock is on the file's folder (flock), since the file itself is replaced; it is waited for ten seconds at most. */
#ifndef LSV_CLI_WHOLEFILE_H
#define LSV_CLI_WHOLEFILE_H

#include <stddef.h>
#include <sys/types.h>

/* Takes the lock of the folder that path lies in: 0 with a descriptor to be closed; -EBUSY, -errno with *ret_error (malloc'd). */
int wholefile_lock(const char *path, int *ret_lock, char **ret_error);

/* A file that is there keeps its owner, its group and its mode, but others have no right that `mode` does not give; a new one gets `mode`, and the
 * group `group` (NULL: ours) where root makes it and there is one: then it is group_mode. On failure the old file is still there, whole, and
 * *ret_error (malloc'd) says why. */
struct wholefile_mode {
        mode_t mode, group_mode;
        const char *group;
};
int wholefile_write(const char *path, int lock, const char *data, size_t len, const struct wholefile_mode *as,
                    char **ret_error);

#endif
