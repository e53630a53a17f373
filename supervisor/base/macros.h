/* macros.h: the few idioms that every file uses: clean-up by scope, stealing, and small comparisons. */
#ifndef LSV_BASE_MACROS_H
#define LSV_BASE_MACROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h> /* MIN and MAX, which <uv.h> brings too */
#include <unistd.h>

#define ARRAY_SIZE(a)                   (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define PRINTF_LIKE(fmt, args)          __attribute__((format(printf, fmt, args)))
#define WARN_UNUSED                     __attribute__((warn_unused_result))

static inline void free_ptr(void *p)
{
        free(*(void **)p);
}

static inline void close_fd(const int *fd)
{
        if (*fd >= 0)
                (void)close(*fd);
}

/* _cleanup_free_ char *s = NULL;  _cleanup_close_ int fd = -1; */
#define _cleanup_(f)    __attribute__((cleanup(f)))
#define _cleanup_free_  _cleanup_(free_ptr)
#define _cleanup_close_ _cleanup_(close_fd)

/* Take the value out of a clean-up variable, so that the scope's end leaves it alone. */
static inline int steal_fd(int *fd)
{
        int r = *fd;

        *fd = -1;
        return r;
}
#define steal_ptr(p)                                                                                         \
        ({                                                                                                   \
                __typeof__(p) _stolen = (p);                                                                 \
                (p) = NULL;                                                                                  \
                _stolen;                                                                                     \
        })

static inline bool streq(const char *a, const char *b)
{
        return strcmp(a, b) == 0;
}

/* True also when both are NULL. */
static inline bool streq_ptr(const char *a, const char *b)
{
        return a == b || (a && b && strcmp(a, b) == 0);
}

static inline bool starts_with(const char *s, const char *prefix)
{
        return strncmp(s, prefix, strlen(prefix)) == 0;
}

static inline bool ends_with(const char *s, const char *suffix)
{
        size_t n = strlen(s), m = strlen(suffix);

        return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

#endif
