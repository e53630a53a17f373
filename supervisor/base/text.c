/* text.c: sizes, harmless text, near names and string lists. */
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

int text_parse_size(const char *s, uint64_t *ret)
{
        static const char units[] = "KMGT";
        uint64_t whole = 0, frac = 0, scale = 1, unit = 1, r, extra;
        const char *p = s, *u;

        if (!isdigit((unsigned char)*p))
                return -EINVAL;
        for (; isdigit((unsigned char)*p); p++)
                if (__builtin_mul_overflow(whole, 10, &whole) ||
                    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
                        return -ERANGE;
        if (*p == '.') {
                if (!isdigit((unsigned char)*++p))
                        return -EINVAL;
                for (; isdigit((unsigned char)*p); p++)
                        if (scale < 1000) {
                                frac = frac * 10 + (uint64_t)(*p - '0');
                                scale *= 10;
                        }
        }
        if (*p) {
                u = strchr(units, toupper((unsigned char)*p));
                if (!u)
                        return -EINVAL;
                unit = UINT64_C(1) << (10 * (u - units + 1));
                p++;
                if (streq(p, "iB") || streq(p, "B"))
                        p += strlen(p);
                if (*p)
                        return -EINVAL;
        } else if (scale > 1) {
                return -EINVAL; /* half a byte */
        }
        extra = frac * unit / scale;
        if (__builtin_mul_overflow(whole, unit, &r) || __builtin_add_overflow(r, extra, &r) ||
            r > (uint64_t)INT64_MAX)
                return -ERANGE;
        *ret = r;
        return 0;
}

char *text_size(uint64_t bytes, char *buf, size_t size)
{
        static const char *const units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
        double v = (double)bytes;
        size_t i = 0;

        while (v >= 1024 && i + 1 < ARRAY_SIZE(units)) {
                v /= 1024;
                i++;
        }
        (void)snprintf(buf, size, i && v < 100 ? "%.1f %s" : "%.0f %s", v, units[i]);
        return buf;
}

size_t text_utf8_sequence(const unsigned char *s, size_t len)
{
        unsigned char c = s[0], lo = 0x80, hi = 0xbf;
        size_t n;

        if (c < 0x80)
                return 1;
        if (c >= 0xc2 && c <= 0xdf)
                n = 2;
        else if (c >= 0xe0 && c <= 0xef)
                n = 3;
        else if (c >= 0xf0 && c <= 0xf4)
                n = 4;
        else
                return 0;
        if (c == 0xe0)
                lo = 0xa0;
        else if (c == 0xed)
                hi = 0x9f;
        else if (c == 0xf0)
                lo = 0x90;
        else if (c == 0xf4)
                hi = 0x8f;
        if (len < n || s[1] < lo || s[1] > hi)
                return 0;
        for (size_t i = 2; i < n; i++)
                if (s[i] < 0x80 || s[i] > 0xbf)
                        return 0;
        return n;
}

/* Length of the ANSI escape sequence at s (s[0] is ESC), ECMA-48: CSI, OSC/DCS/APC/PM/SOS strings, two-byte ones. */
static size_t ansi_sequence(const unsigned char *s, size_t len)
{
        size_t i = 2;

        if (len < 2)
                return 1;
        if (s[1] == '[') {
                while (i < len && s[i] >= 0x20 && s[i] <= 0x3f)
                        i++;
                return i < len && s[i] >= 0x40 && s[i] <= 0x7e ? i + 1 : i;
        }
        if (strchr("]P_^X", s[1])) {
                while (i < len && s[i] != '\a' && s[i] != '\033')
                        i++;
                if (i < len && s[i] == '\033' && i + 1 < len && s[i + 1] == '\\')
                        return i + 2;
                return i < len && s[i] == '\a' ? i + 1 : i;
        }
        return s[1] >= 0x20 && s[1] <= 0x7e ? 2 : 1;
}

/* Controls that a terminal or a reader's eye obeys: C0 but tab, DEL, C1 (U+0080 to U+009F), and the marks that turn the
 * direction of writing (U+202A to U+202E, U+2066 to U+2069). */
static bool is_control(const unsigned char *s, size_t n)
{
        if (n == 1)
                return (s[0] < 0x20 && s[0] != '\t') || s[0] == 0x7f;
        if (n == 2)
                return s[0] == 0xc2 && s[1] < 0xa0;
        return n == 3 && s[0] == 0xe2 &&
               ((s[1] == 0x80 && s[2] >= 0xaa && s[2] <= 0xae) ||
                (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9));
}

size_t text_harmless_n(char *text, size_t len)
{
        unsigned char *s = (unsigned char *)text;
        size_t in = 0, out = 0, n;

        while (in < len) {
                if (s[in] == '\033') {
                        in += ansi_sequence(s + in, len - in);
                        continue;
                }
                n = text_utf8_sequence(s + in, len - in);
                if (n == 0 || is_control(s + in, n)) {
                        s[out++] = '?';
                        in += n ? n : 1;
                        continue;
                }
                memmove(s + out, s + in, n);
                out += n;
                in += n;
        }
        return out;
}

size_t text_harmless(char *s)
{
        size_t n = text_harmless_n(s, strlen(s));

        s[n] = '\0';
        return n;
}

/* Optimal string alignment distance (Damerau-Levenshtein without repeated edits), for words under 64 bytes. */
static size_t edit_distance(const char *a, const char *b)
{
        size_t n = strlen(a), m = strlen(b), d[3][65];

        if (n > 64 || m > 64)
                return SIZE_MAX;
        for (size_t j = 0; j <= m; j++)
                d[0][j] = j;
        for (size_t i = 1; i <= n; i++) {
                size_t *row = d[i % 3], *up = d[(i + 2) % 3], *upup = d[(i + 1) % 3];

                row[0] = i;
                for (size_t j = 1; j <= m; j++) {
                        size_t cost = a[i - 1] != b[j - 1];

                        row[j] = MIN(MIN(up[j] + 1, row[j - 1] + 1), up[j - 1] + cost);
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                row[j] = MIN(row[j], upup[j - 2] + 1);
                }
        }
        return d[n % 3][m];
}

const char *text_nearest(const char *word, const char *const *names)
{
        size_t best = MAX(strlen(word) / 3, (size_t)1) + 1, d;
        const char *r = NULL;

        for (; *names; names++) {
                size_t n = strlen(word), m = strlen(*names);

                /* That many letters are too many or too few: a thousand names are not worth more than a look at each. */
                if ((n > m ? n - m : m - n) >= best)
                        continue;
                d = edit_distance(word, *names);
                if (d < best) {
                        best = d;
                        r = *names;
                }
        }
        return r;
}

bool text_is_name(const char *s)
{
        size_t n = strlen(s);

        if (n < 1 || n > 63 || !isalnum((unsigned char)s[0]))
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char)*s) && !strchr("._-", *s))
                        return false;
        return true;
}

char *text_format(const char *fmt, ...)
{
        char *r = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&r, fmt, ap) < 0)
                r = NULL;
        va_end(ap);
        return r;
}

char *text_dup(const char *s)
{
        return s ? strdup(s) : NULL;
}

int text_set(char **dst, const char *s)
{
        char *copy = NULL;

        if (s && !(copy = strdup(s)))
                return -ENOMEM;
        free(*dst);
        *dst = copy;
        return 0;
}

int text_list_add(char ***list, const char *s)
{
        size_t n = text_list_count(*list);
        char *copy = strdup(s), **grown;

        if (!copy)
                return -ENOMEM;
        grown = reallocarray(*list, n + 2, sizeof *grown);
        if (!grown) {
                free(copy);
                return -ENOMEM;
        }
        grown[n] = copy;
        grown[n + 1] = NULL;
        *list = grown;
        return 0;
}

size_t text_list_count(char *const *list)
{
        size_t n = 0;

        while (list && list[n])
                n++;
        return n;
}

char **text_list_free(char **list)
{
        for (size_t i = 0; list && list[i]; i++)
                free(list[i]);
        free(list);
        return NULL;
}

bool text_list_equal(char *const *a, char *const *b)
{
        size_t n = text_list_count(a);

        if (n != text_list_count(b))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!streq(a[i], b[i]))
                        return false;
        return true;
}
