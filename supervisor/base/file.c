/* file.c: whole small files. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/macros.h"
#include "base/text.h"

int file_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
        /* O_NONBLOCK so that a FIFO nobody writes to does not hold up a reload. */
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        _cleanup_free_ char *buf = NULL;
        size_t len = 0, cap;
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (S_ISDIR(st.st_mode))
                return -EISDIR;
        if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > max)
                return -EFBIG;
        /* One byte more than the file says, so that the common file is read by one read and one that finds its end. */
        cap = MIN(S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 4096, max + 1);
        buf = malloc(cap + 1);
        if (!buf)
                return -ENOMEM;
        for (;;) {
                n = read(fd, buf + len, cap - len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                len += (size_t)n;
                if (len > max)
                        return -EFBIG;
                if (len == cap) {
                        size_t grown = MIN(cap * 2, max + 1);
                        char *p = realloc(buf, grown + 1);

                        if (!p)
                                return -ENOMEM;
                        buf = p;
                        cap = grown;
                }
        }
        buf[len] = '\0';
        *ret = steal_ptr(buf);
        *ret_len = len;
        return 0;
}

int file_stat(const char *path, struct file_facts *ret)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        *ret = (struct file_facts){
                .mode = st.st_mode, .size = (uint64_t)st.st_size, .uid = st.st_uid, .mtime = st.st_mtime};
        return 0;
}

static int compare_names(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

int file_list(const char *dir, const char *suffix, size_t max, char ***ret)
{
        char **names = NULL;
        struct dirent *e;
        size_t n = 0;
        int r = 0;
        DIR *d = opendir(dir);

        if (!d)
                return -errno;
        while (r == 0) {
                errno = 0;
                e = readdir(d);
                if (!e) {
                        r = -errno;
                        break;
                }
                if (e->d_name[0] == '.' || !ends_with(e->d_name, suffix))
                        continue;
                r = n++ < max ? text_list_add(&names, e->d_name) : -E2BIG;
        }
        (void)closedir(d);
        if (r < 0) {
                text_list_free(names);
                return r;
        }
        if (!names) {
                names = calloc(1, sizeof *names);
                if (!names)
                        return -ENOMEM;
        }
        qsort(names, n, sizeof *names, compare_names);
        *ret = names;
        return 0;
}

static int real_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        (void)owner;
        return file_read(path, max, ret, ret_len);
}

static int real_stat(void *owner, const char *path, struct file_facts *ret)
{
        (void)owner;
        return file_stat(path, ret);
}

static int real_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        (void)owner;
        return file_list(dir, suffix, max, ret);
}

const struct file_ops file_ops_real = {.read = real_read, .stat = real_stat, .list = real_list};

int file_make_dir(const char *path, mode_t mode)
{
        _cleanup_free_ char *copy = strdup(path);
        struct stat st;

        if (!copy)
                return -ENOMEM;
        for (char *p = copy + 1; *copy && *p; p++)
                if (*p == '/') {
                        *p = '\0';
                        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                                return -errno;
                        *p = '/';
                }
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
                return -errno;
        if (stat(copy, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}
