/* forward.c: the headers of a request that an instance may see. */
#include "core/forward.h"

static bool is_left_out(struct slice name)
{
        static const struct slice names[] = {
                SLICE("host"),
                SLICE("content-length"),
                SLICE("expect"),
                SLICE("cookie"),
                SLICE("authorization"),
                SLICE("x-api-key"),
                SLICE("origin"),
                SLICE("forwarded"),
                SLICE("x-real-ip"),
                SLICE("cookie2"),
                SLICE("x-conversation-id"),
                SLICE("accept-encoding"),
                SLICE("x-forwarded"),
                SLICE("api-key"),
                SLICE("x-goog-api-key"),
                SLICE("sec-websocket-protocol"),
        };
        static const struct slice family = SLICE("x-forwarded-");

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (slice_eq_nocase(name, names[i]))
                        return true;
        return slice_eq_nocase(slice_sub(name, 0, family.n), family) || http1_header_is_hop(name);
}

size_t forward_headers(const struct http1_header *headers, size_t n, struct http1_header *out)
{
        struct slice connection[8], more;
        size_t n_connection = 0, kept = 0;

        /* Nearly always there is none, or one that says "keep-alive". */
        for (size_t i = 0; i < n; i++)
                if (slice_eq_nocase(headers[i].name, SLICE("connection"))) {
                        if (n_connection == ARRAY_SIZE(connection))
                                return 0; /* nobody honest sends so many: the request goes without headers */
                        connection[n_connection++] = headers[i].value;
                }
        for (size_t i = 0; i < n; i++) {
                bool listed = false;

                for (size_t k = 0; k < n_connection && !listed; k++) {
                        struct slice rest = connection[k];

                        while (!listed && http1_list_next(&rest, &more))
                                listed = slice_eq_nocase(more, headers[i].name);
                }
                if (!listed && !is_left_out(headers[i].name))
                        out[kept++] = headers[i];
        }
        return kept;
}

bool forward_keeps_back(struct slice name)
{
        static const struct slice names[] = {
                SLICE("www-authenticate"),
                SLICE("proxy-authenticate"),
                SLICE("authentication-info"),
                SLICE("proxy-authentication-info"),
                SLICE("alt-svc"),
                SLICE("refresh"),
                SLICE("nel"),
                SLICE("report-to"),
                SLICE("reporting-endpoints"),
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (slice_eq_nocase(name, names[i]))
                        return true;
        return false;
}

/* "https:" of "https://host/x", "" of a reference without one. RFC 3986 §3.1. */
static struct slice scheme_of(struct slice value)
{
        size_t n = 0;

        while (n < value.n && ((value.p[n] | 32) >= 'a' && (value.p[n] | 32) <= 'z'))
                n++;
        while (n > 0 && n < value.n &&
               (((value.p[n] | 32) >= 'a' && (value.p[n] | 32) <= 'z') ||
                strchr("0123456789+-.", value.p[n])))
                n++;
        return n > 0 && n < value.n && value.p[n] == ':' ? slice_sub(value, 0, n + 1) : (struct slice){0};
}

bool forward_location(struct slice value, struct slice host, struct slice prefix, struct buffer *out)
{
        struct slice scheme = scheme_of(value), authority;
        size_t end = 0;

        if (scheme.n && !slice_eq_nocase(scheme, SLICE("http:")) && !slice_eq_nocase(scheme, SLICE("https:")))
                return false;
        value = slice_sub(value, scheme.n, value.n);
        if (slice_starts_with(value, SLICE("//"))) {
                authority = slice_sub(value, 2, value.n);
                while (end < authority.n && !strchr("/?#\\", authority.p[end]))
                        end++;
                value = slice_sub(authority, end, authority.n);
                if (!slice_eq_nocase(slice_sub(authority, 0, end), host))
                        return false;
                if (value.n == 0 || value.p[0] == '?' || value.p[0] == '#') {
                        (void)buffer_append(out, prefix.p, prefix.n);
                        (void)buffer_putc(out, '/');
                        (void)buffer_append(out, value.p, value.n);
                        return true;
                }
        } else if (scheme.n) {
                return false; /* "http:x" means another thing to each reader */
        }
        /* Browsers read "/\\host" and "//host" alike. */
        if (value.n > 1 && value.p[0] == '/' && (value.p[1] == '/' || value.p[1] == '\\'))
                return false;
        if (value.n && value.p[0] == '\\')
                return false;
        if (value.n && value.p[0] == '/')
                (void)buffer_append(out, prefix.p, prefix.n);
        (void)buffer_append(out, value.p, value.n);
        return value.n > 0;
}
