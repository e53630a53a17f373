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
