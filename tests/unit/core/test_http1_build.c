/* test_http1_build.c: heads that we write: exact bytes, nothing smuggled through a value, and our own parser reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include <errno.h>

#include "core/http1.h"
#include "core/http1_build.h"

static void test_request_round_trip(void **state)
{
        _cleanup_buffer_ struct buffer b;
        static struct http1_request req;
        struct http1_parser p;

        (void)state;
        buffer_init(&b, 0);
        assert_int_equal(http1_build_request(&b, SLICE("POST"), SLICE("/v1/x?y=%20")), 0);
        assert_int_equal(http1_build_header(&b, "Host", "llama"), 0);
        assert_int_equal(http1_build_header_u64(&b, "Content-Length", UINT64_MAX / 2), 0);
        assert_int_equal(http1_build_header_u64(&b, "X-Zero", 0), 0);
        assert_int_equal(http1_build_header_slice(&b, SLICE("X-Empty"), SLICE("")), 0);
        assert_int_equal(http1_build_lines(&b, "A: b\r\nC:\td \xc3\xa9\r\n"), 0);
        assert_int_equal(http1_build_lines(&b, NULL), 0);
        assert_int_equal(http1_build_lines(&b, ""), 0);
        assert_int_equal(http1_build_end(&b), 0);
        assert_string_equal(
                b.data, "POST /v1/x?y=%20 HTTP/1.1\r\nHost: llama\r\nContent-Length: 9223372036854775807\r\n"
                        "X-Zero: 0\r\nX-Empty: \r\nA: b\r\nC:\td \xc3\xa9\r\n\r\n");
        http1_parser_init(&p);
        assert_int_equal(http1_request_parse(&p, b.data, b.len, NULL, &req), (int)b.len);
        assert_int_equal(req.method, HTTP1_POST);
        assert_true(slice_eq_str(req.target, "/v1/x?y=%20"));
        assert_int_equal(req.content_length, INT64_MAX);
        assert_int_equal(req.n_headers, 6);
        assert_true(slice_eq_str(req.headers[5].value, "d \xc3\xa9"));
}

static void test_response_round_trip(void **state)
{
        _cleanup_buffer_ struct buffer b;
        static struct http1_response res;

        (void)state;
        buffer_init(&b, 0);
        for (int status = 100; status <= 999; status++) {
                struct http1_parser p;

                buffer_clear(&b);
                assert_int_equal(http1_build_response(&b, status), 0);
                assert_int_equal(http1_build_header(&b, "Content-Length", "0"), 0);
                assert_int_equal(http1_build_end(&b), 0);
                http1_parser_init(&p);
                assert_int_equal(http1_response_parse(&p, b.data, b.len, NULL, HTTP1_GET, &res), (int)b.len);
                assert_int_equal(res.status, status);
                assert_true(slice_eq_str(res.reason, http1_reason(status)));
        }
        buffer_clear(&b);
        assert_int_equal(http1_build_response(&b, 404), 0);
        assert_string_equal(b.data, "HTTP/1.1 404 Not Found\r\n");
        assert_string_equal(http1_reason(299), "Status");
        /* Every status that the codec or the server answers with has its standard phrase. */
        static const int ours[] = {400, 413, 414, 417, 431, 501, 505, 401, 403, 408, 429, 500, 502, 503, 504};
        for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
                assert_string_not_equal(http1_reason(ours[i]), "Status");
}

static void refuses(int r, struct buffer *b)
{
        assert_int_equal(r, -EINVAL);
        assert_true(b->failed);
        assert_int_equal(b->len, 0);
        /* One look at the end is enough: nothing is appended behind an error. */
        assert_true(http1_build_end(b) < 0);
        assert_int_equal(b->len, 0);
        buffer_clear(b);
}

static void test_splitting_refused(void **state)
{
        static const struct slice values[] = {
                SLICE("a\r\nSet-Cookie: x"), SLICE("a\nb"),  SLICE("a\rb"), SLICE("a\0b"), SLICE("\r\n"),
                SLICE("a\x1b[0m"),           SLICE("a\x7f"), SLICE(" a"),   SLICE("a\t"),  SLICE("a\x0b"),
        };
        static const struct slice names[] = {SLICE(""),    SLICE("A B"),  SLICE("A:"),  SLICE("A\r\nB"),
                                             SLICE("A\n"), SLICE("A\0B"), SLICE("\xe9")};
        static const char *const lines[] = {"A: b",
                                            "A: b\n",
                                            "A: b\r\nC",
                                            "A: b\r\n\r\n",
                                            "\r\n",
                                            "A b\r\n",
                                            ": b\r\n",
                                            "A : b\r\n",
                                            "A: b\rc\r\n",
                                            " A: b\r\n",
                                            "A: b\r\n c\r\n",
                                            "A: \x01\r\n",
                                            "A: b\r\nGET / HTTP/1.1\r\n"};
        static const struct slice targets[] = {SLICE(""),      SLICE("/a b"),  SLICE("/a\r\nX: y"),
                                               SLICE("/a\0"),  SLICE("/\xe9"), SLICE("/a#b"),
                                               SLICE("/\x7f"), SLICE("/\t")};
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
                refuses(http1_build_header_slice(&b, SLICE("X"), values[i]), &b);
                assert_false(http1_is_field_value(values[i]));
        }
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                refuses(http1_build_header_slice(&b, names[i], SLICE("v")), &b);
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
                refuses(http1_build_lines(&b, lines[i]), &b);
        for (size_t i = 0; i < ARRAY_SIZE(targets); i++)
                refuses(http1_build_request(&b, SLICE("GET"), targets[i]), &b);
        refuses(http1_build_request(&b, SLICE("GE T"), SLICE("/")), &b);
        refuses(http1_build_request(&b, SLICE(""), SLICE("/")), &b);
        refuses(http1_build_header(&b, "X", "a\r\nb"), &b);
        refuses(http1_build_header_u64(&b, "X Y", 1), &b);
        refuses(http1_build_response(&b, 99), &b);
        refuses(http1_build_response(&b, 1000), &b);
        refuses(http1_build_response(&b, -1), &b);
        assert_true(http1_is_field_value(SLICE("a\tb \xc3\xa9")));
}

/* The bound of the buffer is an error, not half a line. */
static void test_bounded(void **state)
{
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 20);
        assert_int_equal(http1_build_header(&b, "Name", "12345678"), 0);
        assert_int_equal(b.len, 16);
        assert_int_equal(http1_build_header(&b, "Name", "12345678"), -ENOBUFS);
        assert_int_equal(b.len, 16);
        assert_true(b.failed);
        assert_int_equal(http1_build_chunk(&b, "x", 1), -ENOBUFS);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_request_round_trip),
                cmocka_unit_test(test_response_round_trip),
                cmocka_unit_test(test_splitting_refused),
                cmocka_unit_test(test_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
