/* slice.h: a run of bytes that somebody else owns, not ended by NUL. p may be NULL only when n is 0; what a NULL p means
 * besides "empty" (absent, say) is told by the header that hands the slice out. */
#ifndef LSV_BASE_SLICE_H
#define LSV_BASE_SLICE_H

#include "base/macros.h"

struct slice {
        const char *p;
        size_t n;
};

/* SLICE("literal"): its length is known to the compiler. */
#define SLICE(literal) ((struct slice){"" literal, sizeof(literal) - 1})

/* A C string, NULL is the empty slice. */
static inline struct slice slice_str(const char *s)
{
        return (struct slice){s, s ? strlen(s) : 0};
}

/* 'A'..'Z' to lower case, whatever the locale; other bytes as they are. */
static inline unsigned char ascii_lower(unsigned char c)
{
        return (unsigned)c - 'A' < 26 ? (unsigned char)(c | 0x20) : c;
}

static inline bool slice_eq(struct slice a, struct slice b)
{
        return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* n bytes of both; ASCII letters compare without case. */
bool slice_same_nocase(const char *a, const char *b, size_t n);

/* ASCII letters compare without case. */
static inline bool slice_eq_nocase(struct slice a, struct slice b)
{
        /* Nearly all that are as long differ in their first letter. */
        return a.n == b.n && (!a.n || (((a.p[0] ^ b.p[0]) & ~0x20) == 0 && slice_same_nocase(a.p, b.p, a.n)));
}

static inline bool slice_eq_str(struct slice a, const char *s)
{
        return slice_eq(a, slice_str(s));
}

static inline bool slice_starts_with(struct slice a, struct slice prefix)
{
        return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}

/* The offset of the first c, a.n if there is none. */
static inline size_t slice_find(struct slice a, char c)
{
        const char *at = a.n ? memchr(a.p, c, a.n) : NULL;

        return at ? (size_t)(at - a.p) : a.n;
}

/* Bytes [from, to); both are clipped to what is there. */
static inline struct slice slice_sub(struct slice a, size_t from, size_t to)
{
        to = MIN(to, a.n);
        from = MIN(from, to);
        if (from) /* NULL + 0 is undefined */
                a.p += from;
        return (struct slice){a.p, to - from};
}

/* Without spaces and tabs at both ends (HTTP's OWS). */
static inline struct slice slice_trim(struct slice a)
{
        while (a.n && (a.p[0] == ' ' || a.p[0] == '\t')) {
                a.p++;
                a.n--;
        }
        while (a.n && (a.p[a.n - 1] == ' ' || a.p[a.n - 1] == '\t'))
                a.n--;
        return a;
}

/* A malloc'd C string that the caller frees, NULL without memory. A NUL inside ends it early for C readers. */
static inline char *slice_dup(struct slice a)
{
        char *s = malloc(a.n + 1);

        if (!s)
                return NULL;
        if (a.n)
                memcpy(s, a.p, a.n);
        s[a.n] = '\0';
        return s;
}

#endif
