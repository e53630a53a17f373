/* publish.h: a new file that appears under its name whole, or not at all, and never over another one. Blocking.
 *
 * The content is written into a file without a name (O_TMPFILE) and linked; a name that is taken is -EEXIST, and who has it keeps it. On a file
 * system without such files (NFS) it is a hidden ".new-…" beside it, which is linked and then loses that first name; a crash in between
 * leaves it lying. Nothing else here, nor in the rooms of the spool, removes or renames anything (tests/lint/spool.py). */
#ifndef LSV_BASE_PUBLISH_H
#define LSV_BASE_PUBLISH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

struct publish {
        int fd;                 /* read and written; -1 */
        char scratch[PATH_MAX]; /* "": it has no name yet */
        char dir[PATH_MAX];
};

/* An empty file in the file system of dir; its mode is exactly `mode`. 0 or -errno. */
int publish_begin(const char *dir, mode_t mode, struct publish *ret);
int publish_write(struct publish *p, const void *data, size_t len);
/* Under this name in dir. durable: the content is on the disk before; for the name see publish_sync. 0; -EEXIST (it may be linked under
 * another name then); -errno. */
int publish_link(struct publish *p, const char *name, bool durable);
/* The names in dir are on the disk. */
int publish_sync(const char *dir);
/* Closes it, unless fd was taken (-1). */
void publish_end(struct publish *p);
#define _cleanup_publish_ _cleanup_(publish_end)

/* All of it at once. */
int publish_file(const char *dir, const char *name, mode_t mode, const void *data, size_t len, bool durable);

/* For tests: as on a file system that has no files without a name. */
extern bool publish_without_tmpfile;

#endif
