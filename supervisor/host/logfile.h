/* logfile.h: the append-only log file of one instance: the child writes it, we follow it.
 *
 * The child holds the file open with O_APPEND and never reopens it, so that its life does not hang on ours. New bytes are
 * noticed by inotify (one shared inotify per loop), read at most 256 KB a turn and file; when a child writes faster
 * than that, the middle is skipped and counted. Rotation while the child lives: what was read is copied to NAME.1 (older
 * ones move up, `keep` of them) and a hole is punched into the live file (FALLOC_FL_PUNCH_HOLE), so its disk use stays bounded
 * although its size grows; while it is down the file is truncated. On a file system without holes: truncated in place
 * (O_APPEND makes that safe), what was written in between is lost and counted.
 * Lines are made harmless (text_harmless) and cut at 4 KB. */
#ifndef LSV_HOST_LOGFILE_H
#define LSV_HOST_LOGFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

struct logfile;

enum { LOGFILE_TAIL_BYTES = 8192, LOGFILE_LINE_MAX = 4096 };

struct logfile_limits {
        uint64_t rotate_at; /* bytes of data in the live file before it is rotated; default 10 MB */
        unsigned keep;      /* rotated files kept; default 3 */
};

struct logfile_counts {
        uint64_t bytes, lines, skipped_bytes, rotations, errors;
};

/* A whole line (without its newline, harmless); not called from inside logfile_open. The text is valid during the call. */
typedef void logfile_line_fn(void *owner, const char *line, size_t len, usec_t now);

/* Opens or creates DIR/NAME.log (mode 0640), refusing symlinks; following begins at its current end. */
int logfile_open(struct loop *loop, const char *dir, const char *name, const struct logfile_limits *limits,
                 logfile_line_fn *on_line, void *owner, struct logfile **ret);
struct logfile *logfile_close(struct logfile *f); /* the file stays on disk */

int logfile_fd(const struct logfile *f); /* O_APPEND, for the child's stdout and stderr; stays ours */
const char *logfile_path(const struct logfile *f);
/* Reads what the child wrote until now (after its death, before explaining it); bounded: the last 256 KB. */
void logfile_catch_up(struct logfile *f, usec_t now);
/* The child is down: rotate by truncation if it is due. */
void logfile_child_is_down(struct logfile *f);
/* A line of ours in the child's log ("--- started pid 4242"). */
void logfile_note(struct logfile *f, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The last lines held in memory, at most LOGFILE_TAIL_BYTES, newline-separated, NUL-terminated; valid until the next turn. */
const char *logfile_tail(const struct logfile *f);
/* Where "this start" began: tail lines before the mark are not of this process. */
void logfile_mark(struct logfile *f);
const char *logfile_tail_since_mark(const struct logfile *f);

/* Reads the last `lines` lines (at most max bytes, at most 1 MB) from disk, rotated files included, harmless. malloc'd
 * in *ret. 0 or -errno. */
int logfile_read_last(const struct logfile *f, unsigned lines, size_t max, char **ret, size_t *ret_len);

const struct logfile_counts *logfile_counts(const struct logfile *f);

#endif
