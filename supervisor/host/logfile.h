/* logfile.h: the append-only log file of one instance: the child writes it, we follow it.
 *
 * The child holds the file open with O_APPEND and never reopens it, so that its life does not hang on ours. New bytes are
 * noticed by inotify (one shared inotify per loop), read at most 256 KB per 50 ms and file, 2 MB per 50 ms in all; when a
 * child writes faster than that, the middle is skipped, counted, and a line says so. Without inotify (its limits are per
 * user) the file is looked at four times a second.
 * Rotation while the child lives: what was read is copied to NAME.log.1 (older ones move up, `keep` of them) in libuv's
 * pool, and a hole is punched into the live file (FALLOC_FL_PUNCH_HOLE), so its disk use stays bounded although its size
 * grows; while it is down the file is truncated. On a file system without holes, or beyond 1 TB: truncated in place
 * (O_APPEND makes that safe), what was written in between is lost and counted. Disk full: the copy is dropped, the hole is
 * punched all the same. In a flood one copy in 10 s is made, the rest is passed over.
 * Lines are made harmless (text_harmless) and cut at 4 KB; what was cut off counts as skipped. */
#ifndef LSV_HOST_LOGFILE_H
#define LSV_HOST_LOGFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"
#include "net/loop.h"

struct logfile;

enum { LOGFILE_TAIL_BYTES = 8192, LOGFILE_LINE_MAX = 4096 };

struct logfile_limits {
        uint64_t rotate_at; /* bytes of data in the live file before it is rotated; default 10 MB */
        unsigned keep;      /* rotated files kept; default 3 */
};

struct logfile_counts {
        uint64_t bytes, lines;  /* read */
        uint64_t skipped_bytes; /* written by the child, but not read, or cut off a line */
        uint64_t dropped_bytes; /* not kept on disk by a rotation (flood, disk full) */
        uint64_t rotations, errors;
};

/* A whole line (without its newline, harmless); not called from inside logfile_open. The text is valid during the call,
 * which must not close the file. */
typedef void logfile_line_fn(void *owner, const char *line, size_t len, usec_t now);

/* Opens or creates DIR/NAME.log (mode 0640); following begins at its current end, the tail with what lies before it.
 * limits may be NULL. 0; -ELOOP: a symlink; -EINVAL: not a regular file, or not a name (text_is_name); -EBUSY: opened on
 * this loop already; -errno. */
int logfile_open(struct loop *loop, const char *dir, const char *name, const struct logfile_limits *limits,
                 logfile_line_fn *on_line, void *owner, struct logfile **ret);
struct logfile *logfile_close(struct logfile *f); /* the file stays on disk */

/* O_APPEND, for the child's stdout and stderr; stays ours. Ask anew for each start: logfile_child_is_down may replace it. */
int logfile_fd(const struct logfile *f);
const char *logfile_path(const struct logfile *f);
/* Reads what the child wrote until now (after its death, before explaining it), a last line without newline too; bounded:
 * the last 256 KB. */
void logfile_catch_up(struct logfile *f, usec_t now);
/* The child is down (until the next logfile_mark): rotate by truncation if it is due; a file that was deleted or moved
 * away under us is made anew. */
void logfile_child_is_down(struct logfile *f);
/* A line of ours in the child's log ("--- started pid 4242"), seen by on_line as any other. */
void logfile_note(struct logfile *f, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The last lines held in memory, at most LOGFILE_TAIL_BYTES, newline-separated, NUL-terminated; valid until the next line
 * comes in (not before the next turn, outside of on_line). */
const char *logfile_tail(const struct logfile *f);
/* "This start" begins here: tail lines before the mark are not of this process, and the child is no longer down. */
void logfile_mark(struct logfile *f);
const char *logfile_tail_since_mark(const struct logfile *f);

/* Reads the last `lines` lines (at most max bytes, at most 1 MB) from disk, rotated files included, harmless, each with its
 * newline. malloc'd and NUL-terminated in *ret. 0 or -errno. */
int logfile_read_last(const struct logfile *f, unsigned lines, size_t max, char **ret, size_t *ret_len);
/* The same without lines that on_line has not been given yet: for who listens from this turn on. */
int logfile_read_told(const struct logfile *f, unsigned lines, size_t max, char **ret, size_t *ret_len);

const struct logfile_counts *logfile_counts(const struct logfile *f);

#endif
