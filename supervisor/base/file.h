/* file.h: whole small files, read by blocking calls: for start-up, reload and the CLI, never for the way of a request.
 * struct file_ops is the same as a table of functions, so that pure rooms (core/config) can be given other files by tests. */
#ifndef LSV_BASE_FILE_H
#define LSV_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct file_facts {
        mode_t mode; /* st_mode */
        uint64_t size;
        uid_t uid;
        int64_t mtime; /* seconds since 1970 */
};

/* At most max bytes of a regular file (or FIFO): -EFBIG when it holds more, -EISDIR, -ENOENT …; NUL-terminated, malloc'd. */
int file_read(const char *path, size_t max, char **ret, size_t *ret_len);
int file_stat(const char *path, struct file_facts *ret);
/* Names in dir that end in `suffix` ("" for all), without "." and hidden ones, sorted bytewise; at most max: -E2BIG. */
int file_list(const char *dir, const char *suffix, size_t max, char ***ret);

/* mkdir -p: parents with 0755, the last one with mode (under our umask). 0 also when it is there; -ENOTDIR, -EACCES … */
int file_make_dir(const char *path, mode_t mode);

struct file_ops {
        int (*read)(void *owner, const char *path, size_t max, char **ret, size_t *ret_len);
        int (*stat)(void *owner, const char *path, struct file_facts *ret);
        int (*list)(void *owner, const char *dir, const char *suffix, size_t max, char ***ret);
        void *owner;
};
extern const struct file_ops file_ops_real;

#endif
