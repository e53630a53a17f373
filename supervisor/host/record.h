/* record.h: small state files, written whole and renamed, so that a reader sees the old or the new content, never half.
 *
 * record_save_now writes at once without fsync: for runtime_dir, whose content need not survive a power cut, but must be
 * there the moment after a spawn. record_save hands the content to libuv's pool, which also fsyncs; while one save of a
 * name is under way, newer content of it waits and the newest wins. Names are plain file names; files have mode 0600.
 * lockdir_take keeps a second daemon out of a runtime directory. */
#ifndef LSV_HOST_RECORD_H
#define LSV_HOST_RECORD_H

#include <stddef.h>
#include <sys/types.h>

#include "net/loop.h"

/* 0 or -errno; -EINVAL for a name with a slash or a leading dot. */
int record_save_now(const char *dir, const char *name, const char *data, size_t len);
/* Copies data. 0, or -ENOMEM, -EAGAIN (the pool is full; the next save of it brings the newest). A failed write is logged. */
int record_save(struct loop *loop, const char *dir, const char *name, const char *data, size_t len);
/* malloc'd, NUL-terminated; -ENOENT, -EFBIG beyond max. */
int record_load(const char *dir, const char *name, size_t max, char **ret, size_t *ret_len);
int record_remove(const char *dir, const char *name); /* 0 also when it was not there */
/* Saves that wait or run; the daemon's end waits for them by loop_free (work is always finished). */
size_t record_pending(void);

/* Locks runtime_dir/lock (flock) and writes our pid into it; makes the directory when it is missing. -EBUSY: somebody holds
 * it, *ret_holder is their pid (0 unknown). The lock lasts until *ret_fd is closed, also by a crash. */
int lockdir_take(const char *runtime_dir, int *ret_fd, pid_t *ret_holder);

#endif
