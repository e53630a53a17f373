/* logfile_private.h: what logfile.c (the file and its lines), logfile_follow.c (when to read) and logfile_rotate.c (keeping
 * it small) share; nobody else includes it. */
#ifndef LSV_HOST_LOGFILE_PRIVATE_H
#define LSV_HOST_LOGFILE_PRIVATE_H

#include "host/logfile.h"

#include "base/list.h"

enum {
        CHUNK = 256 << 10,     /* read at once, and in one window of one file */
        BACKLOG_MAX = 1 << 20, /* unread bytes beyond which the middle is skipped */
        PATH_BYTES = 4096,
};
#define LIVE_SIZE_MAX (UINT64_C(1) << 40) /* far below ext4's 16 TB, which a flood would reach in two days */

struct hub;
struct rotation;

/* The descriptor outlives the log file while a rotation works on it. Counted in the loop's thread only. */
struct shared_fd {
        int fd;
        unsigned refs;
};

struct tail {
        char *ring; /* LOGFILE_TAIL_BYTES, made with the first line; every line ends in '\n' */
        size_t start, len;
        uint64_t end, mark; /* bytes ever put in */
};

struct logfile {
        struct loop *loop;
        struct hub *hub;
        logfile_line_fn *on_line;
        void *owner;
        struct shared_fd *file;
        char *dir, *name, *path;
        struct logfile_limits limits;
        struct logfile_counts counts;
        struct tail tail;

        uint64_t data_start; /* before it: a hole */
        uint64_t read_off;   /* the next line begins here */
        uint64_t scanned;    /* looked at up to here, without finding that line's end */
        bool cutting;        /* inside a line of which the beginning was given out or skipped */
        bool down;

        struct rotation *rotation; /* in flight */
        usec_t last_copy;          /* 0: none yet */
        bool skipped_since;        /* the last rotation */

        /* logfile_follow.c */
        int wd;
        struct list by_wd, ready; /* nodes */
        usec_t hold_until, window_start;
        size_t window_bytes;
        unsigned window_reads;
};

/* --- logfile.c -------------------------------------------------------------------------------------------------- */
/* Reads up to max bytes (at least 2 * LOGFILE_LINE_MAX, at most CHUNK) into `buffer` and gives out the whole lines in them;
 * with `final` also what stands after the last newline. *ret_more: there is more to read. Returns the bytes read. */
size_t logfile_read(struct logfile *f, char *buffer, size_t max, bool final, usec_t now, bool *ret_more);
struct shared_fd *shared_fd_unref(struct shared_fd *file);

/* --- logfile_follow.c ------------------------------------------------------------------------------------------- */
int hub_join(struct logfile *f); /* sets f->hub; -EBUSY, -ENOMEM */
void hub_leave(struct logfile *f);
char *hub_buffer(struct hub *hub);         /* CHUNK bytes, shared by all files of the loop */
void hub_file_replaced(struct logfile *f); /* f->file is another file now */
bool hub_has_path(struct loop *loop, const char *path);

/* --- logfile_rotate.c ------------------------------------------------------------------------------------------- */
void rotation_check(struct logfile *f, usec_t now);
void rotation_attach(
        struct logfile *f); /* to one in flight since before the file was closed and opened again */
void rotation_forget(struct logfile *f); /* f is being freed */
uint64_t rotation_hold(
        struct logfile *f); /* where the live file's data begins; until release the files stay as they are */
void rotation_release(struct logfile *f);
int rotation_open(const struct logfile *f, unsigned i); /* NAME.log.i for reading: descriptor or -errno */

#endif
