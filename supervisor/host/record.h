/* record.h: small state files, written whole under another name and then renamed, so that a reader finds the old one or the
 * new one and never half of one; and the lock that keeps a second daemon out of our runtime directory.
 *
 * Mode 0600, symlinks are refused. A name is at most 100 bytes, without '/' and not beginning with '.'; what is being
 * written is called ".NAME.tmp" or ".NAME.now" and may be left by a killed daemon (the next write takes it away).
 * All but the writing itself happens in the loop's thread. */
#ifndef LSV_HOST_RECORD_H
#define LSV_HOST_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

/* Writes, fsyncs and renames in libuv's pool. The data is copied. While one of the same name is being written, the newest
 * waits and those in between are forgotten, so a record that changes often costs one write at a time.
 * 0: it will be written (a failure then is only counted); -EINVAL (name), -ENOMEM, -EAGAIN (the pool is full). */
int record_save(struct loop *loop, const char *dir, const char *name, const void *data, size_t len);
/* At once, without fsync: for what must be on record before anything else happens (a child was spawned), in a directory
 * that a power cut empties anyway. A record_save of the same name that is still under way is overtaken. 0 or -errno. */
int record_save_now(const char *dir, const char *name, const void *data, size_t len);
/* The content, NUL-terminated and malloc'd: 0; -ENOENT; -EFBIG: more than max bytes; -ELOOP: a symlink; -EINVAL: not a
 * regular file; -errno. */
int record_load(const char *dir, const char *name, size_t max, char **ret, size_t *ret_len);
/* Gone afterwards, also when a record_save of it is under way. 0 (also when there was none) or -errno. */
int record_remove(const char *dir, const char *name);

bool record_is_saving(void); /* something that record_save promised is not on the disk yet */

/* Writes of record_save that failed (disk full, …) since the start, and the last one's -errno. */
uint64_t record_failures(int *ret_last);

/* Locks DIR/lock for as long as *ret_fd is open (close-on-exec: children must not hold it) and writes our pid into it.
 * -EBUSY: another process holds it; *ret_holder is its pid, 0 if it has not written it. */
int lockdir_take(const char *dir, int *ret_fd, pid_t *ret_holder);
/* A lock that an earlier program in this process took: 0 when it is that of DIR and still held (fd stays as it is), -ESTALE otherwise. */
int lockdir_keep(const char *dir, int fd);

#endif
