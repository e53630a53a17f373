/* test_http1_body.c: where bodies end: chunked coding split at every place, lengths, EOF, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>

#include "base/buffer.h"
#include "core/http1.h"
#include "core/http1_build.h"

#define S(literal) ((struct slice){literal, sizeof(literal) - 1})

/* Feeds in[0..n) in one piece as callers do, appending the payload; *ret_used counts what was taken. */
static int feed(struct http1_body *b, const char *in, size_t n, struct buffer *data, size_t *ret_used)
{
        char *copy = malloc(n ? n : 1);
        size_t at = 0;
        int r;

        assert_non_null(copy);
        memcpy(copy, in, n);
        do {
                struct slice piece = {0};
                size_t used = 0;

                r = http1_body_feed(b, copy + at, n - at, &used, &piece);
                if (r < 0)
                        break;
                assert_true(used <= n - at);
                assert_true(piece.n == 0 || (piece.p >= copy + at && piece.p + piece.n <= copy + at + used));
                assert_int_equal(buffer_append(data, piece.p, piece.n), 0);
                at += used;
                assert_true(r != HTTP1_MORE || at == n);
        } while (r == HTTP1_AGAIN);
        *ret_used = at;
        free(copy);
        return r;
}

struct outcome {
        int r;
        size_t used;
        struct buffer data;
};

static struct outcome run(enum http1_framing framing, uint64_t length, uint64_t max, struct slice in,
                          size_t first, size_t step)
{
        struct outcome o = {.r = HTTP1_MORE};
        struct http1_body b;
        size_t n = MIN(first, in.n), used;

        buffer_init(&o.data, 0);
        http1_body_init(&b, framing, length, max);
        for (;;) {
                o.r = feed(&b, in.p + o.used, n - o.used, &o.data, &used);
                o.used += used;
                if (o.r != HTTP1_MORE || n == in.n)
                        break;
                n = MIN(n + step, in.n);
        }
        if (o.r < 0)
                assert_non_null(b.reason);
        assert_int_equal(b.total, o.data.len);
        assert_int_equal(http1_body_is_done(&b), o.r == HTTP1_DONE);
        return o;
}

/* The outcome of the whole, after every cut and byte by byte gave the same. Errors need not have taken as much. */
static int chunked(const char *name, struct slice in, uint64_t max, const char *payload, size_t rest)
{
        struct outcome whole = run(HTTP1_CHUNKED, 0, max, in, in.n, in.n);
        int r = whole.r;

        for (size_t cut = 0; cut <= in.n; cut++) {
                struct outcome o = run(HTTP1_CHUNKED, 0, max, in, cut, cut == 0 ? 1 : in.n);

                if (o.r != r || (r >= 0 && (o.used != whole.used || o.data.len != whole.data.len ||
                                            memcmp(o.data.data ? o.data.data : "",
                                                   whole.data.data ? whole.data.data : "", o.data.len) != 0)))
                        fail_msg("%s: whole %d, cut at %zu %d", name, r, cut, o.r);
                buffer_finish(&o.data);
        }
        if (r >= 0 && payload)
                if (whole.data.len != strlen(payload) || in.n - whole.used != rest ||
                    memcmp(whole.data.len ? whole.data.data : "", payload, whole.data.len) != 0)
                        fail_msg("%s: payload '%.*s', rest %zu", name, (int)whole.data.len, whole.data.data,
                                 in.n - whole.used);
        buffer_finish(&whole.data);
        return r;
}

static void test_chunked_accepted(void **state)
{
        static const struct {
                struct slice in;
                const char *payload;
                size_t rest;
        } cases[] = {
                {S("0\r\n\r\n"), "", 0},
                {S("0\r\n\r\nGET /"), "", 5},
                {S("5\r\nhello\r\n0\r\n\r\n"), "hello", 0},
                {S("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nX"), "hello world", 1},
                {S("a\r\n0123456789\r\n0\r\n\r\n"), "0123456789", 0},
                {S("A\r\n0123456789\r\n000\r\n\r\n"), "0123456789", 0},
                {S("0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n"), "hello", 0},
                {S("5;name=value;x=\"y z\"\r\nhello\r\n0;last\r\n\r\n"), "hello", 0},
                {S("5;\t\r\nhello\r\n0\r\n\r\n"), "hello", 0},
                {S("2\r\n\r\n\r\n0\r\n\r\n"), "\r\n", 0},
                {S("00000005\r\nhello\r\n000000001\r\n!\r\n00000000\r\n\r\n"), "hello!", 0},
                {S("5\r\n0\r\n\r\n\r\n0\r\n\r\n"), "0\r\n\r\n", 0},
                {S("1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\nZ: \t\xe9\r\n\r\nrest"), "a", 4},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (chunked(cases[i].in.p, cases[i].in, 0, cases[i].payload, cases[i].rest) != HTTP1_DONE)
                        fail_msg("refused: %s", cases[i].in.p);
        /* Cut short anywhere it is not done. */
        for (size_t n = 0; n < cases[3].in.n - 1; n++)
                assert_int_equal(chunked("short", slice_sub(cases[3].in, 0, n), 0, NULL, 0), HTTP1_MORE);
}

static void test_chunked_refused(void **state)
{
        static const struct {
                const char *name;
                struct slice in;
        } cases[] = {
                {"17 digits", S("00000000000000005\r\nhello\r\n0\r\n\r\n")},
                {"2^64", S("10000000000000000\r\n")},
                {"2^64 + 5", S("10000000000000005\r\nhello\r\n0\r\n\r\n")},
                {"no size", S("\r\nhello\r\n0\r\n\r\n")},
                {"only an extension", S(";x\r\nhello\r\n0\r\n\r\n")},
                {"+5", S("+5\r\nhello\r\n0\r\n\r\n")},
                {"-5", S("-5\r\nhello\r\n0\r\n\r\n")},
                {"0x5", S("0x5\r\nhello\r\n0\r\n\r\n")},
                {"5h", S("5h\r\nhello\r\n0\r\n\r\n")},
                {"g", S("g\r\nhello\r\n0\r\n\r\n")},
                {"space before", S(" 5\r\nhello\r\n0\r\n\r\n")},
                {"space behind", S("5 \r\nhello\r\n0\r\n\r\n")},
                {"space before the extension", S("5 ;x\r\nhello\r\n0\r\n\r\n")},
                {"5, then NUL", S("5\0\r\nhello\r\n0\r\n\r\n")},
                {"5_0", S("5_0\r\nhello\r\n0\r\n\r\n")},
                {"LF only", S("5\nhello\n0\n\n")},
                {"LF behind the extension", S("5;x\nhello\r\n0\r\n\r\n")},
                {"CR in the extension", S("5;x\ry\r\nhello\r\n0\r\n\r\n")},
                {"NUL in the extension", S("5;x\0\r\nhello\r\n0\r\n\r\n")},
                {"obs-text in the extension", S("5;x\xe9\r\nhello\r\n0\r\n\r\n")},
                {"CR CR LF", S("5\r\r\nhello\r\n0\r\n\r\n")},
                {"CR X", S("5\rXhello\r\n0\r\n\r\n")},
                {"X LF", S("5X\nhello\r\n0\r\n\r\n")},
                {"LF LF", S("5\n\nhello\r\n0\r\n\r\n")},
                {"X LF after a chunk", S("1\r\na\r\n5X\nhello\r\n0\r\n\r\n")},
                {"data longer than said", S("4\r\nhello\r\n0\r\n\r\n")},
                {"data shorter than said", S("6\r\nhello\r\n0\r\n\r\n")},
                {"no CRLF behind data", S("5\r\nhello0\r\n\r\n")},
                {"LF behind data", S("5\r\nhello\n0\r\n\r\n")},
                {"XX behind data", S("5\r\nhelloXX0\r\n\r\n")},
                {"CR X behind data", S("5\r\nhello\rX0\r\n\r\n")},
                {"X LF behind data", S("5\r\nhelloX\n0\r\n\r\n")},
                {"LF at the end", S("0\r\n\n")},
                {"bytes for the empty line", S("0\r\nX\r\n\r\n")},
                {"CR X at the end", S("0\r\n\rX")},
                {"trailer without name", S("0\r\n: x\r\n\r\n")},
                {"trailer with space before colon", S("0\r\nX : x\r\n\r\n")},
                {"folded trailer", S("0\r\nX: x\r\n y\r\n\r\n")},
                {"trailer with LF", S("0\r\nX: x\n\r\n")},
                {"trailer with bare CR", S("0\r\nX: x\ry\r\n\r\n")},
                {"trailer with NUL", S("0\r\nX: \0\r\n\r\n")},
                {"trailer Content-Length", S("0\r\ncontent-length: 5\r\n\r\n")},
                {"second trailer Content-Length", S("0\r\nX: 1\r\nContent-Length: 5\r\n\r\n")},
                {"trailer Transfer-Encoding", S("0\r\nTransfer-Encoding: chunked\r\n\r\n")},
                {"trailer Host", S("0\r\nHost: b\r\n\r\n")},
                {"trailer Authorization", S("0\r\nAuthorization: Bearer x\r\n\r\n")},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = chunked(cases[i].name, cases[i].in, 0, NULL, 0);

                if (r != -EPROTO)
                        fail_msg("%s: %d", cases[i].name, r);
        }
        /* Only the whole name is forbidden. */
        assert_int_equal(chunked("near", S("0\r\nHosts: 1\r\nContent-Length-: 5\r\n\r\n"), 0, "", 0),
                         HTTP1_DONE);
}

static struct slice fill(struct buffer *b, const char *before, char c, size_t n, const char *after)
{
        buffer_clear(b);
        buffer_puts(b, before);
        for (size_t i = 0; i < n; i++)
                buffer_putc(b, c);
        buffer_puts(b, after);
        return (struct slice){b->data, b->len};
}

static int whole(struct slice in, uint64_t max)
{
        struct outcome o = run(HTTP1_CHUNKED, 0, max, in, in.n, in.n);
        struct outcome slow = run(HTTP1_CHUNKED, 0, max, in, 0, 1);

        assert_int_equal(slow.r, o.r);
        buffer_finish(&slow.data);
        buffer_finish(&o.data);
        return o.r;
}

static void test_chunked_bounds(void **state)
{
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        assert_int_equal(whole(fill(&b, "1;", 'x', HTTP1_CHUNK_LINE_MAX - 4, "\r\na\r\n0\r\n\r\n"), 0),
                         HTTP1_DONE);
        assert_int_equal(whole(fill(&b, "1;", 'x', HTTP1_CHUNK_LINE_MAX - 3, "\r\na\r\n0\r\n\r\n"), 0),
                         -EMSGSIZE);
        assert_int_equal(whole(fill(&b, "0\r\nX: ", 'x', HTTP1_CHUNK_EXTRA_MAX - 7, "\r\n\r\n"), 0),
                         HTTP1_DONE);
        assert_int_equal(whole(fill(&b, "0\r\nX: ", 'x', HTTP1_CHUNK_EXTRA_MAX - 6, "\r\n\r\n"), 0),
                         -EMSGSIZE);
        /* Many short extensions are bounded in sum, while as many plain chunks are fine. */
        buffer_clear(&b);
        for (int i = 0; i < 200; i++)
                buffer_printf(&b, "1;%0100d\r\na\r\n", 0);
        assert_int_equal(whole((struct slice){b.data, b.len}, 0), -EMSGSIZE);
        buffer_clear(&b);
        for (int i = 0; i < 20000; i++)
                buffer_puts(&b, "1\r\na\r\n");
        buffer_puts(&b, "0\r\n\r\n");
        assert_int_equal(whole((struct slice){b.data, b.len}, 20000), HTTP1_DONE);
        assert_int_equal(whole((struct slice){b.data, b.len}, 19999), -EMSGSIZE);
        /* A chunk that cannot fit is told as soon as its size is known. */
        assert_int_equal(whole(S("6\r\n"), 5), -EMSGSIZE);
        assert_int_equal(whole(S("5\r\n"), 5), HTTP1_MORE);
        assert_int_equal(whole(S("3\r\nabc\r\n3\r\n"), 5), -EMSGSIZE);
        assert_int_equal(whole(S("ffffffffffffffff\r\n"), 5), -EMSGSIZE);
        assert_int_equal(whole(S("3\r\nabc\r\nffffffffffffffff\r\nx"), 0), -EMSGSIZE);
        assert_int_equal(whole(S("fffffff;\x01\r\n"), 5), -EPROTO);
}

/* After an error nothing is taken any more, whatever comes. */
static void test_error_stays(void **state)
{
        struct http1_chunked c;
        struct http1_body b;
        struct slice data = {0};
        size_t used = 77;

        (void)state;
        http1_chunked_init(&c);
        assert_int_equal(http1_chunked_feed(&c, "x", 1, &used, &data), -EPROTO);
        assert_int_equal(http1_chunked_feed(&c, "0\r\n\r\n", 5, &used, &data), -EPROTO);
        assert_int_equal(http1_chunked_feed(&c, "", 0, &used, &data), -EPROTO);
        http1_body_init(&b, HTTP1_CHUNKED, 0, 0);
        assert_int_equal(http1_body_feed(&b, "x", 1, &used, &data), -EPROTO);
        assert_int_equal(http1_body_feed(&b, "0\r\n\r\n", 5, &used, &data), -EPROTO);
        assert_int_equal(http1_body_eof(&b), -EPROTO);
        http1_body_init(&b, HTTP1_UNTIL_CLOSE, 0, 2);
        assert_int_equal(http1_body_feed(&b, "abc", 3, &used, &data), -EMSGSIZE);
        assert_int_equal(http1_body_feed(&b, "a", 1, &used, &data), -EPROTO);
        assert_int_equal(http1_body_eof(&b), -EPROTO);
        assert_int_equal(used, 77);
}

static void test_length(void **state)
{
        struct outcome o;
        struct http1_body b;

        (void)state;
        for (size_t cut = 0; cut <= 8; cut++) {
                o = run(HTTP1_LENGTH, 5, 0, S("hellorest"), cut, cut ? 9 : 1);
                assert_int_equal(o.r, HTTP1_DONE);
                assert_int_equal(o.used, 5);
                assert_memory_equal(o.data.data, "hello", 5);
                buffer_finish(&o.data);
        }
        o = run(HTTP1_LENGTH, 5, 0, S("hell"), 4, 4);
        assert_int_equal(o.r, HTTP1_MORE);
        buffer_finish(&o.data);
        o = run(HTTP1_LENGTH, 5, 4, S("hell"), 0, 1);
        assert_int_equal(o.r, -EMSGSIZE);
        buffer_finish(&o.data);
        o = run(HTTP1_LENGTH, INT64_MAX, 0, S("hell"), 4, 4);
        assert_int_equal(o.r, HTTP1_MORE);
        buffer_finish(&o.data);
        o = run(HTTP1_NO_BODY, 0, 0, S("GET"), 3, 3);
        assert_int_equal(o.r, HTTP1_DONE);
        assert_int_equal(o.used, 0);
        buffer_finish(&o.data);
        http1_body_init(&b, HTTP1_LENGTH, 0, 0);
        assert_true(http1_body_is_done(&b));
        http1_body_init(&b, HTTP1_NO_BODY, 99, 0);
        assert_true(http1_body_is_done(&b));
        http1_body_init(&b, HTTP1_LENGTH, 1, 0);
        assert_false(http1_body_is_done(&b));
        assert_int_equal(http1_body_eof(&b), -EPROTO);
        http1_body_init(&b, HTTP1_CHUNKED, 0, 0);
        assert_false(http1_body_is_done(&b));
        assert_int_equal(http1_body_eof(&b), -EPROTO);
        http1_body_init(&b, HTTP1_UNTIL_CLOSE, 0, 0);
        assert_false(http1_body_is_done(&b));
        assert_int_equal(http1_body_eof(&b), 0);
        assert_true(http1_body_is_done(&b));
}

static void test_until_close(void **state)
{
        struct outcome o = run(HTTP1_UNTIL_CLOSE, 0, 9, S("hellorest"), 0, 1);

        (void)state;
        assert_int_equal(o.r, HTTP1_MORE);
        assert_int_equal(o.used, 9);
        buffer_finish(&o.data);
        o = run(HTTP1_UNTIL_CLOSE, 0, 8, S("hellorest"), 0, 1);
        assert_int_equal(o.r, -EMSGSIZE);
        buffer_finish(&o.data);
}

/* Heads give their bodies the framing that they announce. */
static void test_init_from_heads(void **state)
{
        static struct http1_request req;
        static struct http1_response res;
        struct http1_body b;

        (void)state;
        req = (struct http1_request){.framing = HTTP1_LENGTH, .content_length = 3};
        http1_body_init_request(&b, &req, 2);
        assert_true(b.framing == HTTP1_LENGTH && b.left == 3 && b.max == 2 && !b.done);
        res = (struct http1_response){.framing = HTTP1_NO_BODY, .has_length = true, .content_length = 3};
        http1_body_init_response(&b, &res, 0);
        assert_true(b.framing == HTTP1_NO_BODY && b.done && b.max == UINT64_MAX);
}

/* What we chunk we can read, at every cut; sizes are written as printf would. */
static void test_round_trip(void **state)
{
        static const uint64_t sizes[] = {1,   9,    10,         15,         16,        255,
                                         256, 4096, UINT32_MAX, 1ull << 63, UINT64_MAX};
        _cleanup_buffer_ struct buffer b;
        char head[HTTP1_CHUNK_HEAD_MAX], expected[32];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                size_t n = http1_chunk_head(head, sizes[i]);

                snprintf(expected, sizeof(expected), "%lx\r\n", (unsigned long)sizes[i]);
                assert_int_equal(n, strlen(expected));
                assert_memory_equal(head, expected, n);
        }
        assert_int_equal(http1_chunk_head(head, 0), 0);
        buffer_init(&b, 0);
        assert_int_equal(http1_build_chunk(&b, "data: {}\n\n", 10), 0);
        assert_int_equal(http1_build_chunk(&b, "", 0), 0);
        assert_int_equal(http1_build_chunk(&b, "data: [DONE]\n\n", 14), 0);
        assert_int_equal(http1_build_last_chunk(&b), 0);
        assert_int_equal(
                chunked("round trip", (struct slice){b.data, b.len}, 24, "data: {}\n\ndata: [DONE]\n\n", 0),
                HTTP1_DONE);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_chunked_accepted), cmocka_unit_test(test_chunked_refused),
                cmocka_unit_test(test_chunked_bounds),   cmocka_unit_test(test_error_stays),
                cmocka_unit_test(test_length),           cmocka_unit_test(test_until_close),
                cmocka_unit_test(test_init_from_heads),  cmocka_unit_test(test_round_trip),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
