/* buffer.h: a growing run of bytes with a bound. Once an append fails (bound or memory) the buffer stays as it
 * was, `failed` is set, and later appends fail too, so that a writer may check once at its end. */
#ifndef LSV_BASE_BUFFER_H
#define LSV_BASE_BUFFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

struct buffer {
        char *data; /* NUL follows the content when data is not NULL; the content may hold NULs itself */
        size_t len, cap, max;
        bool failed;
};

/* max: bytes of content at most, 0 for "no bound of its own" (SIZE_MAX / 4). */
void buffer_init(struct buffer *b, size_t max);
void buffer_finish(struct buffer *b);
void buffer_clear(struct buffer *b); /* keeps the memory, forgets `failed` */

/* 0, -ENOBUFS (bound) or -ENOMEM. */
int buffer_reserve(struct buffer *b, size_t more);
int buffer_append_slowly(struct buffer *b, const void *data, size_t len);
/* Inline, since heads are made of many small pieces. */
static inline int buffer_append(struct buffer *b, const void *data, size_t len)
{
        if (b->failed || !b->data || len >= b->cap - b->len || len > b->max - b->len)
                return buffer_append_slowly(b, data, len);
        if (len)
                memcpy(b->data + b->len, data, len);
        b->len += len;
        b->data[b->len] = '\0';
        return 0;
}
static inline int buffer_puts(struct buffer *b, const char *s)
{
        return buffer_append(b, s, strlen(s));
}
int buffer_putc(struct buffer *b, char c);
int buffer_printf(struct buffer *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
int buffer_vprintf(struct buffer *b, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

/* Drops the first len bytes. */
void buffer_consume(struct buffer *b, size_t len);
/* The content as a malloc'd string that the caller frees, NULL if the buffer failed; the buffer is empty after. */
char *buffer_steal(struct buffer *b);

#define _cleanup_buffer_ _cleanup_(buffer_finish)

#endif
