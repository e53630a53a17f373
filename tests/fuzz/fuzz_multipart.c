/* fuzz_multipart.c: forms as strangers send them. Input: a Content-Type, a newline, a body. What passes is put together again, and must
 * be the body. */
#include <stdint.h>
#include <stdlib.h>

#include "core/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct slice all = {(const char *)data, size}, boundary, body;
        size_t n = slice_find(all, '\n');
        struct multipart m;
        struct multipart_part part;
        unsigned parts = 0;
        const char *at;
        int r;

        if (multipart_boundary(slice_sub(all, 0, n), &boundary) < 0)
                return 0;
        body = slice_sub(all, n + 1, size);
        at = body.p;
        multipart_init(&m, body, boundary);
        while ((r = multipart_next(&m, &part)) > 0) {
                parts++;
                /* In order, inside, apart, and each with the delimiter behind it. */
                if (part.data.p < at || part.data.p + part.data.n + m.delimiter_len + 2 > body.p + body.n ||
                    memcmp(part.data.p + part.data.n, m.delimiter, m.delimiter_len) != 0 || !part.name.p ||
                    (part.data.n && memmem(part.data.p, part.data.n, m.delimiter, m.delimiter_len)))
                        abort();
                at = part.data.p + part.data.n + m.delimiter_len;
        }
        if (parts > MULTIPART_PARTS_MAX || (r < 0) != (m.error != NULL) || (r == 0 && m.rest.n))
                abort();
        return 0;
}
