/* buffer.c: the growing byte run. */
#include "base/buffer.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>

void buffer_init(struct buffer *b, size_t max)
{
        *b = (struct buffer){.max = max && max < SIZE_MAX / 4 ? max : SIZE_MAX / 4};
}

void buffer_finish(struct buffer *b)
{
        free(b->data);
        *b = (struct buffer){.max = b->max};
}

void buffer_clear(struct buffer *b)
{
        b->len = 0;
        b->failed = false;
        if (b->data)
                b->data[0] = '\0';
}

int buffer_reserve(struct buffer *b, size_t more)
{
        size_t cap;
        char *p;

        if (b->failed || more > b->max - b->len) {
                b->failed = true;
                return -ENOBUFS;
        }
        if (b->data && b->len + more + 1 <= b->cap)
                return 0;
        cap = MAX(b->cap ? b->cap * 2 : 64, b->len + more + 1);
        p = realloc(b->data, cap);
        if (!p) {
                b->failed = true;
                return -ENOMEM;
        }
        b->data = p;
        b->cap = cap;
        b->data[b->len] = '\0';
        return 0;
}

int buffer_append_slowly(struct buffer *b, const void *data, size_t len)
{
        int r = buffer_reserve(b, len);

        if (r < 0)
                return r;
        if (len)
                memcpy(b->data + b->len, data, len);
        b->len += len;
        b->data[b->len] = '\0';
        return 0;
}

int buffer_putc(struct buffer *b, char c)
{
        return buffer_append(b, &c, 1);
}

int buffer_vprintf(struct buffer *b, const char *fmt, va_list ap)
{
        va_list again;
        int n, r;

        va_copy(again, ap);
        n = vsnprintf(NULL, 0, fmt, again);
        va_end(again);
        if (n < 0)
                return -EINVAL;
        r = buffer_reserve(b, (size_t)n);
        if (r < 0)
                return r;
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
        b->len += (size_t)n;
        return 0;
}

int buffer_printf(struct buffer *b, const char *fmt, ...)
{
        va_list ap;
        int r;

        va_start(ap, fmt);
        r = buffer_vprintf(b, fmt, ap);
        va_end(ap);
        return r;
}

void buffer_consume(struct buffer *b, size_t len)
{
        len = MIN(len, b->len);
        if (!len)
                return;
        memmove(b->data, b->data + len, b->len - len);
        b->len -= len;
        b->data[b->len] = '\0';
}

char *buffer_steal(struct buffer *b)
{
        char *p;

        if (b->failed || (!b->data && buffer_reserve(b, 0) < 0))
                return NULL;
        p = b->data;
        *b = (struct buffer){.max = b->max};
        return p;
}
