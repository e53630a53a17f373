/* fuzz_http1.h: what the two HTTP/1.1 fuzz targets check alike. A broken property aborts, which is what a fuzzer looks for. */
#ifndef LSV_TESTS_FUZZ_HTTP1_H
#define LSV_TESTS_FUZZ_HTTP1_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "core/http1.h"
#include "core/http1_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                      \
        do {                                                                                                 \
                if (!(condition)) {                                                                          \
                        fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition);              \
                        abort();                                                                             \
                }                                                                                            \
        } while (0)

/* The next cut behind `at`: every byte in short inputs, else pieces whose sizes hang on the bytes. */
static inline size_t next_cut(const uint8_t *data, size_t size, size_t at)
{
        size_t step = size <= 300 ? 1 : 1 + data[at] % 97;

        return MIN(size, at + step);
}

static inline void must_lie_in(struct slice s, const char *buf, size_t len)
{
        MUST(s.n == 0 || (s.p >= buf && s.p + s.n <= buf + len));
}

static inline void must_be_headers(const struct http1_header *headers, size_t n, const char *buf, size_t len)
{
        MUST(n <= HTTP1_HEADERS_MAX);
        for (size_t i = 0; i < n; i++) {
                must_lie_in(headers[i].name, buf, len);
                must_lie_in(headers[i].value, buf, len);
                MUST(http1_is_token(headers[i].name));
                MUST(http1_is_field_value(headers[i].value));
        }
}

static inline bool same_headers(const struct http1_header *a, size_t na, const struct http1_header *b,
                                size_t nb)
{
        for (size_t i = 0; i < na && na == nb; i++)
                if (!slice_eq(a[i].name, b[i].name) || !slice_eq(a[i].value, b[i].value))
                        return false;
        return na == nb;
}

/* Feeds a piece as callers do; *ret_used counts what was taken, payload goes to `out`. */
static inline int feed_piece(struct http1_body *b, const uint8_t *data, size_t len, struct buffer *out,
                             size_t *ret_used)
{
        const char *in = (const char *)data;
        size_t at = 0;
        int r;

        do {
                struct slice piece = {0};
                size_t used = 0;

                r = http1_body_feed(b, in + at, len - at, &used, &piece);
                if (r < 0)
                        break;
                MUST(used <= len - at);
                must_lie_in(piece, in + at, used);
                MUST(r != HTTP1_MORE || at + used == len);
                MUST(r != HTTP1_AGAIN || used > 0);
                buffer_append(out, piece.p, piece.n);
                at += used;
        } while (r == HTTP1_AGAIN);
        *ret_used = at;
        return r;
}

/* A body says the same whole and in pieces: verdict, payload, and where it ends. */
static inline void must_not_hang_on_cuts(const struct http1_body *fresh, const uint8_t *data, size_t size)
{
        struct http1_body whole = *fresh, cut = *fresh;
        struct buffer a, b;
        size_t used_a = 0, used_b = 0, used;
        int ra, rb = HTTP1_MORE;

        buffer_init(&a, 0);
        buffer_init(&b, 0);
        ra = feed_piece(&whole, data, size, &a, &used_a);
        for (size_t at = 0, to = 0; rb == HTTP1_MORE; at = to, to = next_cut(data, size, at)) {
                rb = feed_piece(&cut, data + at, to - at, &b, &used);
                used_b += used;
                if (to == size)
                        break;
        }
        MUST(rb == ra);
        if (ra >= 0) {
                MUST(used_a == used_b);
                MUST(a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0));
                MUST(whole.total == a.len && whole.total <= whole.max);
                MUST(http1_body_is_done(&whole) == (ra == HTTP1_DONE));
        } else {
                MUST(whole.reason && cut.reason && http1_body_eof(&whole) < 0);
        }
        buffer_finish(&a);
        buffer_finish(&b);
}

#endif
