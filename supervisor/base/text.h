/* text.h: strings as people and untrusted programs write them. */
#ifndef LSV_BASE_TEXT_H
#define LSV_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

/* "24G", "512M", "100k", "1.5T", bare bytes "4096"; powers of 1024. 0, -EINVAL or -ERANGE. */
int text_parse_size(const char *s, uint64_t *ret);
/* "22.1 GB", "266 KB": for people (powers of 1024); 16 bytes are enough. Returns buf. */
char *text_size(uint64_t bytes, char *buf, size_t size);

/* In place: ANSI escape sequences are removed, other control characters (C0 but tab, DEL, C1, marks of writing
 * direction) become '?', broken UTF-8 becomes '?' byte by byte. The result is valid UTF-8 and not longer. Returns its length. */
size_t text_harmless_n(char *s, size_t len);
size_t text_harmless(char *s); /* the same on a C string, terminated again */

/* Length of the well-formed UTF-8 sequence that begins at s (RFC 3629), 0 if it is broken; len is at least 1. */
size_t text_utf8_sequence(const unsigned char *s, size_t len);

/* The name in the NULL-ended list that is nearest to `word` (Damerau-Levenshtein distance at most a third of its length,
 * at least 1), NULL if none is near. For "did you mean". */
const char *text_nearest(const char *word, const char *const *names);

/* Instance and key names: 1 to 63 of [A-Za-z0-9._-], beginning with a letter or digit. */
bool text_is_name(const char *s);

/* As much of s as fits with a NUL behind it; NULL is "". Returns buf. snprintf(buf, size, "%s", s) without its price. */
static inline char *text_copy(char *buf, size_t size, const char *s)
{
        size_t n = s ? strnlen(s, size - 1) : 0;

        if (n)
                memcpy(buf, s, n);
        buf[n] = '\0';
        return buf;
}

/* asprintf with the result or NULL; strdup that takes NULL. */
char *text_format(const char *fmt, ...) PRINTF_LIKE(1, 2);
char *text_dup(const char *s);
/* *dst = copy of s, freeing the old one; 0 or -ENOMEM (then *dst is unchanged). */
int text_set(char **dst, const char *s);

/* NULL-ended string arrays. text_list_add appends a copy: 0 or -ENOMEM. text_list_free returns NULL. */
int text_list_add(char ***list, const char *s);
size_t text_list_count(char *const *list);
char **text_list_free(char **list);
bool text_list_equal(char *const *a, char *const *b); /* NULL equals the empty list */

#endif
