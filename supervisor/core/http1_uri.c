/* http1_uri.c: paths, queries, authorities and origins. */
#include "core/http1_uri.h"

#include <arpa/inet.h>
#include <errno.h>

#include "base/text.h"

static int hex_digit(unsigned char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        c = ascii_lower(c);
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that s begins with, decoded; *ret_n is how many bytes it took. -EINVAL for a broken escape. */
static int decode_byte(struct slice s, size_t *ret_n)
{
        int high, low;

        if (s.p[0] != '%') {
                *ret_n = 1;
                return (unsigned char)s.p[0];
        }
        if (s.n < 3)
                return -EINVAL;
        high = hex_digit((unsigned char)s.p[1]);
        low = hex_digit((unsigned char)s.p[2]);
        if (high < 0 || low < 0)
                return -EINVAL;
        *ret_n = 3;
        return high << 4 | low;
}

static bool is_control(int c)
{
        return c < 0x20 || c == 0x7f;
}

static bool is_utf8(const char *s, size_t n)
{
        for (size_t i = 0, step; i < n; i += step) {
                step = text_utf8_sequence((const unsigned char *)s + i, n - i);
                if (step == 0)
                        return false;
        }
        return true;
}

/* "", "." and ".." are not segments that two programs agree on; only the last one may be empty. */
static bool is_good_segment(const char *s, size_t n, bool last)
{
        if (n == 0)
                return last;
        return !(s[0] == '.' && (n == 1 || (n == 2 && s[1] == '.')));
}

int http1_path_normal(struct slice path, char *buf, size_t size)
{
        size_t len = 0, segment = 1, step;
        int high = 0;

        if (path.n == 0 || path.p[0] != '/')
                return -EINVAL;
        for (size_t i = 0; i < path.n; i += step) {
                int c = (unsigned char)path.p[i];

                step = 1;
                if (c == '%')
                        c = decode_byte(slice_sub(path, i, path.n), &step);
                if (c < 0 || is_control(c) || c == '\\' || (c == '/' && step > 1))
                        return -EINVAL;
                if (len + 1 >= size)
                        return -ENOBUFS;
                if (c == '/' && i > 0) {
                        if (!is_good_segment(buf + segment, len - segment, false))
                                return -EINVAL;
                        segment = len + 1;
                }
                high |= c;
                buf[len++] = (char)c;
        }
        if (!is_good_segment(buf + segment, len - segment, true) || (high >= 0x80 && !is_utf8(buf, len)))
                return -EINVAL;
        buf[len] = '\0';
        return (int)len;
}

/* A name or value of a query, "+" is a space. */
static int decode_form(struct slice s, char *buf, size_t size)
{
        size_t len = 0, step;

        for (size_t i = 0; i < s.n; i += step) {
                int c = decode_byte(slice_sub(s, i, s.n), &step);

                if (c < 0 || is_control(c))
                        return -EINVAL;
                if (len + 1 >= size)
                        return -ENOBUFS;
                buf[len++] = c == '+' && step == 1 ? ' ' : (char)c;
        }
        if (size == 0)
                return -ENOBUFS;
        if (!is_utf8(buf, len))
                return -EINVAL;
        buf[len] = '\0';
        return (int)len;
}

/* Compares while decoding, so that a long foreign name costs no room. */
static bool form_name_is(struct slice s, const char *name)
{
        size_t step;

        for (size_t i = 0; i < s.n; i += step) {
                int c = decode_byte(slice_sub(s, i, s.n), &step);

                if (c == '+' && step == 1)
                        c = ' ';
                if (c <= 0 || c != (unsigned char)*name++)
                        return false;
        }
        return *name == '\0';
}

int http1_query_get(struct slice query, const char *name, char *buf, size_t size)
{
        struct slice value = {0};
        bool found = false;

        while (query.n) {
                size_t n = slice_find(query, '&');
                struct slice pair = slice_sub(query, 0, n);
                size_t eq = slice_find(pair, '=');

                query = slice_sub(query, n + 1, query.n);
                if (!form_name_is(slice_sub(pair, 0, eq), name) || pair.n == 0)
                        continue;
                if (found)
                        return -EINVAL;
                found = true;
                value = slice_sub(pair, eq + 1, pair.n);
        }
        return found ? decode_form(value, buf, size) : -ENOENT;
}

int http1_segment_encode(struct slice segment, char *buf, size_t size)
{
        static const char digits[] = "0123456789ABCDEF";
        size_t len = 0;

        for (size_t i = 0; i < segment.n; i++) {
                unsigned char c = (unsigned char)segment.p[i];
                bool plain = (c >= '0' && c <= '9') || (ascii_lower(c) >= 'a' && ascii_lower(c) <= 'z') ||
                             c == '-' || c == '.' || c == '_' || c == '~';

                if (len + (plain ? 1 : 3) >= size)
                        return -ENOBUFS;
                if (plain) {
                        buf[len++] = (char)c;
                        continue;
                }
                buf[len++] = '%';
                buf[len++] = digits[c >> 4];
                buf[len++] = digits[c & 15];
        }
        if (size == 0)
                return -ENOBUFS;
        buf[len] = '\0';
        return (int)len;
}

/* --- authorities ------------------------------------------------------------------------------------------------ */

static int parse_port(struct slice s, int *ret)
{
        int port = 0;

        if (s.n == 0 || s.n > 5)
                return -EINVAL;
        for (size_t i = 0; i < s.n; i++) {
                if (s.p[i] < '0' || s.p[i] > '9')
                        return -EINVAL;
                port = port * 10 + (s.p[i] - '0');
        }
        if (port == 0 || port > 65535)
                return -EINVAL;
        *ret = port;
        return 0;
}

static bool is_ipv6(struct slice s)
{
        char text[INET6_ADDRSTRLEN];
        struct in6_addr address;

        if (s.n == 0 || s.n >= sizeof(text))
                return false;
        memcpy(text, s.p, s.n);
        text[s.n] = '\0';
        return strlen(text) == s.n && inet_pton(AF_INET6, text, &address) == 1;
}

static bool is_name(struct slice s)
{
        for (size_t i = 0; i < s.n; i++) {
                unsigned char c = ascii_lower((unsigned char)s.p[i]);

                if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
                      c == '~'))
                        return false;
        }
        return s.n > 0 && s.n <= 255;
}

int http1_authority_parse(struct slice s, struct http1_authority *ret)
{
        struct http1_authority a = {.port = -1};
        struct slice rest;

        if (s.n && s.p[0] == '[') {
                size_t n = slice_find(s, ']');

                a.host = slice_sub(s, 1, n);
                a.ipv6 = true;
                if (n == s.n || !is_ipv6(a.host))
                        return -EINVAL;
                rest = slice_sub(s, n + 1, s.n);
        } else {
                size_t n = slice_find(s, ':');

                a.host = slice_sub(s, 0, n);
                if (!is_name(a.host))
                        return -EINVAL;
                rest = slice_sub(s, n, s.n);
        }
        if (rest.n && (rest.p[0] != ':' || parse_port(slice_sub(rest, 1, rest.n), &a.port) < 0))
                return -EINVAL;
        *ret = a;
        return 0;
}

bool http1_authority_equal(const struct http1_authority *a, const struct http1_authority *b, int default_port)
{
        return slice_eq_nocase(a->host, b->host) &&
               (a->port < 0 ? default_port : a->port) == (b->port < 0 ? default_port : b->port);
}

int http1_origin_parse(struct slice s, struct slice *ret_scheme, struct http1_authority *ret)
{
        size_t n = slice_find(s, ':');
        struct slice scheme = slice_sub(s, 0, n), rest = slice_sub(s, n, s.n);
        int r;

        if (scheme.n == 0 || (unsigned)ascii_lower((unsigned char)scheme.p[0]) - 'a' >= 26)
                return -EINVAL;
        for (size_t i = 1; i < scheme.n; i++) {
                unsigned char c = ascii_lower((unsigned char)scheme.p[i]);

                if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.'))
                        return -EINVAL;
        }
        if (!slice_starts_with(rest, SLICE("://")))
                return -EINVAL;
        r = http1_authority_parse(slice_sub(rest, 3, rest.n), ret);
        if (r < 0)
                return r;
        *ret_scheme = scheme;
        return 0;
}
