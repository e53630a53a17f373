/* library_private.h: what a walk brings home, shared by library.c (loop) and library_scan.c (pool). */
#ifndef LSV_FLEET_LIBRARY_PRIVATE_H
#define LSV_FLEET_LIBRARY_PRIVATE_H

#include <sys/stat.h>

#include "fleet/library.h"

struct shelf_file {
        char *file, *path, *real; /* relative to the folder; in it; where it really lies */
        dev_t device;
        ino_t inode;
        uint64_t size;
        int64_t mtime; /* nanoseconds */
        bool read;     /* facts or header_error are of this size and time */
        struct gguf facts;
        char *header_error; /* of this file alone */
        char *error;        /* as it is shown, with what follows from other files */
        unsigned parts;
        bool hidden;                       /* a part of another one */
        uint64_t all_size, all_parameters; /* of all parts */
        char **companions;
};

/* One finished walk. */
struct shelf {
        char *dir;
        struct shelf_file *files; /* sorted by file */
        size_t n, cap;
        char *error; /* of the folder itself */
        char **warnings;
        usec_t at, realtime, took; /* at: monotonic */
};

/* Blocks. old: an earlier walk, whose facts are taken over where nothing changed; may be NULL. NULL without memory. */
struct shelf *shelf_scan(const char *dir, const struct shelf *old);
struct shelf *shelf_free(struct shelf *s);

/* "…-00002-of-00004.gguf": 2 and 4; false for another name. */
bool shelf_split_name(const char *file, unsigned *ret_part, unsigned *ret_parts);
/* The name of another part of the same model, malloc'd; NULL without memory. */
char *shelf_part_name(const char *file, unsigned part, unsigned parts);
/* Blocks. A descriptor; -EISDIR, -EINVAL (no regular file), -errno. */
int shelf_open_file(const char *path, struct stat *ret);
/* Blocks. fd: of a regular file. 0; -EBADMSG and others with words. */
int shelf_read_header(int fd, uint64_t size, struct gguf *ret, char *words, size_t words_size);

#endif
