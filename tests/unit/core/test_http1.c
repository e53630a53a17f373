/* test_http1.c: heads of requests and answers: what is understood, what is refused, and that the verdict does not hang on how
 * the bytes were cut. */
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

/* Text with NULs in it keeps its length. */
#define S(literal) ((struct slice){literal, sizeof(literal) - 1})
#define GET_HEAD   "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST_HEAD  "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"

/* --- one verdict, however the bytes come ------------------------------------------------------------------------ */

enum {
        ANSWER = 1000
}; /* as a method: parse an answer (to a GET, or to method - ANSWER) instead of a request */

static int parse(int method, struct http1_parser *p, const char *buf, size_t len, void *ret)
{
        if (method >= ANSWER)
                return http1_response_parse(p, buf, len, NULL, (enum http1_method)(method - ANSWER), ret);
        return http1_request_parse(p, buf, len, NULL, ret);
}

/* Feeds `steps` pieces: every call sees a fresh copy of exactly the bytes so far, so that a byte read too far, or a pointer
 * kept from an earlier call, is seen by the address sanitizer. */
static int parse_growing(int method, struct slice in, size_t first, size_t step, const char **ret_reason)
{
        static union {
                struct http1_request req;
                struct http1_response res;
        } out;
        struct http1_parser p;
        int r = 0;

        http1_parser_init(&p);
        for (size_t n = first; r == 0; n += step) {
                char *copy;

                n = MIN(n, in.n);
                copy = malloc(n ? n : 1);
                assert_non_null(copy);
                memcpy(copy, in.p, n);
                r = parse(method, &p, copy, n, &out);
                free(copy);
                if (n == in.n)
                        break;
        }
        *ret_reason = p.reason;
        return r;
}

static int verdict(const char *name, int method, struct slice in)
{
        static union {
                struct http1_request req;
                struct http1_response res;
        } out;
        const char *reason;
        struct http1_parser p;
        int whole, r;

        http1_parser_init(&p);
        whole = parse(method, &p, in.p, in.n, &out);
        if (whole < 0)
                assert_non_null(p.reason);
        if (in.n > 40000)
                return whole;
        r = parse_growing(method, in, 0, 1, &reason);
        if (r != whole || (whole < 0 && reason != p.reason))
                fail_msg("%s: whole %d (%s), byte by byte %d (%s)", name, whole, p.reason ? p.reason : "", r,
                         reason ? reason : "");
        for (size_t cut = 0; cut <= in.n && in.n < 2000; cut++) {
                r = parse_growing(method, in, cut, in.n, &reason);
                if (r != whole)
                        fail_msg("%s: whole %d, cut at %zu %d", name, whole, cut, r);
        }
        return whole;
}

/* --- requests that are refused ---------------------------------------------------------------------------------- */

static const struct refused {
        const char *name;
        struct slice in;
        int status;
} refused[] = {
        /* smuggling */
        {"CL and TE", S(POST_HEAD "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
        {"TE and CL", S(POST_HEAD "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"), 400},
        {"TE unknown and CL", S(POST_HEAD "Transfer-Encoding: x\r\nContent-Length: 5\r\n\r\n"), 400},
        {"two TE", S(POST_HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
        {"two TE, one identity",
         S(POST_HEAD "Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n"), 400},
        {"TE: xchunked", S(POST_HEAD "Transfer-Encoding: xchunked\r\n\r\n"), 501},
        {"TE: chunkedx", S(POST_HEAD "Transfer-Encoding: chunkedx\r\n\r\n"), 501},
        {"TE: gzip, chunked", S(POST_HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n"), 501},
        {"TE: chunked, identity", S(POST_HEAD "Transfer-Encoding: chunked, identity\r\n\r\n"), 501},
        {"TE: ,chunked", S(POST_HEAD "Transfer-Encoding: ,chunked\r\n\r\n"), 501},
        {"TE: \"chunked\"", S(POST_HEAD "Transfer-Encoding: \"chunked\"\r\n\r\n"), 501},
        {"TE: chunked;x", S(POST_HEAD "Transfer-Encoding: chunked;x\r\n\r\n"), 501},
        {"TE empty", S(POST_HEAD "Transfer-Encoding:\r\n\r\n"), 501},
        {"TE: identity", S(POST_HEAD "Transfer-Encoding: identity\r\n\r\n"), 501},
        {"TE with vertical tab",
         S(POST_HEAD "Transfer-Encoding: \x0b"
                     "chunked\r\n\r\n"),
         400},
        {"TE with obs-text",
         S(POST_HEAD "Transfer-Encoding: \xa0"
                     "chunked\r\n\r\n"),
         501},
        {"TE folded", S(POST_HEAD "Transfer-Encoding:\r\n chunked\r\n\r\n"), 400},
        {"TE with space before colon", S(POST_HEAD "Transfer-Encoding : chunked\r\n\r\n"), 400},
        {"TE in HTTP/1.0", S("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 400},
        {"two CL, equal", S(POST_HEAD "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), 400},
        {"two CL, different", S(POST_HEAD "Content-Length: 5\r\ncontent-length: 6\r\n\r\nhello"), 400},
        {"CL list", S(POST_HEAD "Content-Length: 5, 5\r\n\r\nhello"), 400},
        {"CL: +5", S(POST_HEAD "Content-Length: +5\r\n\r\nhello"), 400},
        {"CL: -1", S(POST_HEAD "Content-Length: -1\r\n\r\n"), 400},
        {"CL: 0x5", S(POST_HEAD "Content-Length: 0x5\r\n\r\nhello"), 400},
        {"CL: 5.0", S(POST_HEAD "Content-Length: 5.0\r\n\r\nhello"), 400},
        {"CL: 5 5", S(POST_HEAD "Content-Length: 5 5\r\n\r\nhello"), 400},
        {"CL: 1e3", S(POST_HEAD "Content-Length: 1e3\r\n\r\n"), 400},
        {"CL: 1_0", S(POST_HEAD "Content-Length: 1_0\r\n\r\n"), 400},
        {"CL in other digits", S(POST_HEAD "Content-Length: \xd9\xa5\r\n\r\n"), 400},
        {"CL empty", S(POST_HEAD "Content-Length:\r\n\r\n"), 400},
        {"CL 2^63", S(POST_HEAD "Content-Length: 9223372036854775808\r\n\r\n"), 400},
        {"CL 2^64", S(POST_HEAD "Content-Length: 18446744073709551616\r\n\r\n"), 400},
        {"CL 2^64+5", S(POST_HEAD "Content-Length: 18446744073709551621\r\n\r\n"), 400},
        {"CL of 20 zeros", S(POST_HEAD "Content-Length: 00000000000000000005\r\n\r\n"), 400},
        {"LF-only lines", S("GET / HTTP/1.1\nHost: a\n\n"), 400},
        {"LF-only header", S("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"), 400},
        {"LF-only end", S(GET_HEAD "\n"), 400},
        {"bare CR in a value", S(GET_HEAD "X: a\rContent-Length: 5\r\n\r\n"), 400},
        {"bare CR in the request line", S("GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"bare CR as line end", S("GET / HTTP/1.1\rHost: a\r\r"), 400},
        {"CR CR LF", S(GET_HEAD "X: y\r\r\n\r\n"), 400},
        {"NUL in a value", S(GET_HEAD "X: a\0b\r\n\r\n"), 400},
        {"NUL in a name", S(GET_HEAD "X\0: a\r\n\r\n"), 400},
        {"NUL in the target", S("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"control byte in a value", S(GET_HEAD "X: a\x01\r\n\r\n"), 400},
        {"escape byte in a value", S(GET_HEAD "X: \x1b[31m\r\n\r\n"), 400},
        {"DEL in a value", S(GET_HEAD "X: a\x7f\r\n\r\n"), 400},
        {"obs-fold", S(GET_HEAD "X: a\r\n b\r\n\r\n"), 400},
        {"obs-fold with tab", S(GET_HEAD "X: a\r\n\tContent-Length: 5\r\n\r\n"), 400},
        {"fold before the first header", S("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400},
        {"line of spaces", S(GET_HEAD "  \r\n\r\n"), 400},
        {"space before colon", S(GET_HEAD "X : a\r\n\r\n"), 400},
        {"tab before colon", S(GET_HEAD "X\t: a\r\n\r\n"), 400},
        {"space in a name", S(GET_HEAD "X Y: a\r\n\r\n"), 400},
        {"empty name", S(GET_HEAD ": a\r\n\r\n"), 400},
        {"no colon", S(GET_HEAD "Content-Length 5\r\n\r\n"), 400},
        {"name in quotes", S(GET_HEAD "\"X\": a\r\n\r\n"), 400},
        {"name with obs-text", S(GET_HEAD "X\xe9: a\r\n\r\n"), 400},
        {"name with slash", S(GET_HEAD "X/Y: a\r\n\r\n"), 400},
        {"name with bracket", S(GET_HEAD "X[0]: a\r\n\r\n"), 400},
        {"two Expect",
         S(POST_HEAD "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"), 400},
        {"Expect unknown", S(POST_HEAD "Expect: 200-ok\r\nContent-Length: 1\r\n\r\n"), 417},
        /* the request line */
        {"HTTP/0.9", S("GET /\r\n\r\n"), 400},
        {"HTTP/0.9 with a word", S("GET / x\r\n\r\n"), 400},
        {"HTTP/2 preface", S("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505},
        {"HTTP/1.2", S("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505},
        {"HTTP/2.1", S("GET / HTTP/2.1\r\nHost: a\r\n\r\n"), 505},
        {"HTTP/0.9 in words", S("GET / HTTP/0.9\r\nHost: a\r\n\r\n"), 505},
        {"HTTP/9.9", S("GET / HTTP/9.9\r\nHost: a\r\n\r\n"), 505},
        {"HTTP/1.10", S("GET / HTTP/1.10\r\nHost: a\r\n\r\n"), 400},
        {"HTTP/01.1", S("GET / HTTP/01.1\r\nHost: a\r\n\r\n"), 400},
        {"HTTP/1", S("GET / HTTP/1\r\nHost: a\r\n\r\n"), 400},
        {"HTTP/1,1", S("GET / HTTP/1,1\r\nHost: a\r\n\r\n"), 400},
        {"http/1.1", S("GET / http/1.1\r\nHost: a\r\n\r\n"), 400},
        {"version with a space behind", S("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"), 400},
        {"two spaces before the target", S("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"two spaces before the version", S("GET /  HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"tab as separator", S("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"no target", S("GET HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"empty target", S("GET  HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"leading space", S(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"leading tab", S("\tGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"two leading CRLF", S("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"leading LF", S("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"leading CRLF and space", S("\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"method not a token", S("G@T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"method with colon", S("GET: / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"method with obs-text", S("G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"CONNECT", S("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), 501},
        {"TLS hello", S("\x16\x03\x01\x02\x00\x01"), 400},
        {"space in the target", S("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"raw UTF-8 in the target", S("GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"fragment", S("GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"fragment in a URI", S("GET http://a/#x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"GET *", S("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"OPTIONS *x", S("OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"target without slash", S("GET index HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"target is a query", S("GET ?x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"authority-form", S("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"other scheme", S("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"file URI", S("GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        /* Host */
        {"no Host", S("GET / HTTP/1.1\r\nX: y\r\n\r\n"), 400},
        {"no headers", S("GET / HTTP/1.1\r\n\r\n"), 400},
        {"two Hosts, equal", S(GET_HEAD "Host: a\r\n\r\n"), 400},
        {"two Hosts, different", S(GET_HEAD "host: b\r\n\r\n"), 400},
        {"two Hosts in HTTP/1.0", S("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), 400},
        {"Host empty", S("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 400},
        {"Host list", S("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"), 400},
        {"Host with space", S("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400},
        {"Host with path", S("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400},
        {"Host with user", S("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"), 400},
        {"Host with fragment", S("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n"), 400},
        {"Host with letters as port", S("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"), 400},
        {"Host with port 0", S("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n"), 400},
        {"Host with port 65536", S("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"), 400},
        {"Host with empty port", S("GET / HTTP/1.1\r\nHost: a:\r\n\r\n"), 400},
        {"Host with obs-text", S("GET / HTTP/1.1\r\nHost: a\xe9\r\n\r\n"), 400},
        {"Host with escape", S("GET / HTTP/1.1\r\nHost: a%00\r\n\r\n"), 400},
        {"Host with open bracket", S("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"), 400},
        {"Host IPv6 without brackets", S("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"), 400},
        {"Host IPv6 with zone", S("GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"), 400},
        {"absolute-URI against Host", S("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"absolute-URI, other port", S("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"absolute-URI, https port", S("GET https://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
        {"absolute-URI with user", S("GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n"), 400},
        {"absolute-URI without Host", S("GET http://a/ HTTP/1.1\r\nX: y\r\n\r\n"), 400},
        {"absolute-URI without authority", S("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"), 400},
};

static void test_refused(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
                int r = verdict(refused[i].name, HTTP1_GET, refused[i].in);

                if (r != -refused[i].status)
                        fail_msg("%s: %d, expected %d", refused[i].name, r, -refused[i].status);
        }
}

/* What is refused must be refused by its own fault: with the fault taken out, the same frame is accepted. */
static void test_frames_are_sound(void **state)
{
        static const struct slice sound[] = {
                S(GET_HEAD "\r\n"),
                S(GET_HEAD "X: a\tb \xe9\r\n\r\n"),
                S(GET_HEAD "X:\r\n\r\n"),
                S(POST_HEAD "Content-Length: 5\r\n\r\n"),
                S(POST_HEAD "Transfer-Encoding: Chunked\r\n\r\n"),
                S(POST_HEAD "Content-Length: 9223372036854775807\r\n\r\n"),
                S(POST_HEAD "Content-Length: 0000000000000000005\r\n\r\n"),
                S(POST_HEAD "Content-Length: \t 5 \t\r\n\r\n"),
                S(POST_HEAD "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n"),
                S("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                S("GET / HTTP/1.0\r\n\r\n"),
                S("GET / HTTP/1.1\r\nHost: [::1]:8077\r\n\r\n"),
                S("GET / HTTP/1.1\r\nHost: a_b-c.d~e.:65535\r\n\r\n"),
                S("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
                S("GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n"),
                S("GET HTTPS://a/x HTTP/1.1\r\nHost: a:443\r\n\r\n"),
                S("M-SEARCH /|\\^{}\"<>` HTTP/1.1\r\nHost: a\r\n\r\n"),
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(sound); i++)
                if (verdict(sound[i].p, HTTP1_GET, sound[i]) != (int)sound[i].n)
                        fail_msg("refused: %s", sound[i].p);
}

/* What can be known early is refused early, so that nobody holds a connection open with it until a deadline. */
static void test_refused_before_the_end(void **state)
{
        static const struct refused cases[] = {
                {"TLS hello", S("\x16"), 400},
                {"space first", S(" "), 400},
                {"LF first", S("\n"), 400},
                {"two CRLF first", S("\r\n\r\n"), 400},
                {"HTTP/0.9", S("GET /\r\n"), 400},
                {"LF line", S("GET / HTTP/1.1\n"), 400},
                {"HTTP/2 preface", S("PRI * HTTP/2.0\r\n"), 505},
                {"CONNECT", S("CONNECT a:443 HTTP/1.1\r\n"), 501},
                {"fold", S(GET_HEAD "X: a\r\n "), 400},
                {"bare CR", S(GET_HEAD "X: a\rb"), 400},
                {"NUL", S(GET_HEAD "X: a\0"), 400},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = verdict(cases[i].name, HTTP1_GET, cases[i].in);

                if (r != -cases[i].status)
                        fail_msg("%s: %d, expected %d", cases[i].name, r, -cases[i].status);
        }
}

/* Every control byte at every place of a head is refused; so is every byte that is no token in a name. */
static void test_every_byte_everywhere(void **state)
{
        static const char head[] = "GET /path?q HTTP/1.1\r\nHost: a\r\nName: value\r\n\r\n";
        const size_t n = sizeof(head) - 1, name = (size_t)(strstr(head, "Name") - head) + 2;
        static struct http1_request req;

        (void)state;
        for (size_t at = 0; at < n; at++)
                for (unsigned c = 0; c < 256; c++) {
                        char copy[sizeof(head)];
                        struct http1_parser p;
                        bool control = (c < 0x20 && c != '\t') || c == 0x7f;
                        int r;

                        memcpy(copy, head, sizeof(head));
                        copy[at] = (char)c;
                        if (c == (unsigned char)head[at])
                                continue;
                        http1_parser_init(&p);
                        r = http1_request_parse(&p, copy, n, NULL, &req);
                        if (control && r > 0)
                                fail_msg("byte 0x%02x at %zu was accepted", c, at);
                        if (control && r == 0)
                                fail_msg("byte 0x%02x at %zu was not refused at once", c, at);
                        if (at == name) {
                                char one = (char)c;
                                bool token = http1_is_token((struct slice){&one, 1});

                                /* A colon there only makes the name shorter. */
                                assert_int_equal(r > 0, token || c == ':');
                        }
                }
}

static void test_tokens(void **state)
{
        size_t n = 0;

        (void)state;
        for (unsigned c = 0; c < 256; c++) {
                char one = (char)c;
                bool expected = (c < 128 && c && strchr("!#$%&'*+-.^_`|~", (int)c)) ||
                                (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

                assert_int_equal(http1_is_token((struct slice){&one, 1}), expected);
                n += expected;
        }
        assert_int_equal(n, 77);
        assert_false(http1_is_token(SLICE("")));
}

/* --- limits ------------------------------------------------------------------------------------------------------ */

static struct slice fill(struct buffer *b, const char *before, char c, size_t n, const char *after)
{
        buffer_clear(b);
        buffer_puts(b, before);
        for (size_t i = 0; i < n; i++)
                buffer_putc(b, c);
        buffer_puts(b, after);
        assert_false(b->failed);
        return (struct slice){b->data, b->len};
}

static void test_limits(void **state)
{
        static const char before[] = GET_HEAD "X: ", after[] = "\r\n\r\n";
        const size_t frame = sizeof(before) - 1 + sizeof(after) - 1;
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        assert_int_equal(verdict("1 MB header", HTTP1_GET, fill(&b, before, 'x', 1 << 20, after)), -431);
        assert_int_equal(verdict("1 MB without a line end", HTTP1_GET, fill(&b, before, 'x', 1 << 20, "")),
                         -431);
        assert_int_equal(
                verdict("1 MB of a name", HTTP1_GET, fill(&b, GET_HEAD, 'x', 1 << 20, ": y\r\n\r\n")), -431);
        assert_int_equal(verdict("head of 16384", HTTP1_GET, fill(&b, before, 'x', 16384 - frame, after)),
                         16384);
        assert_int_equal(verdict("head of 16385", HTTP1_GET, fill(&b, before, 'x', 16385 - frame, after)),
                         -431);
        assert_int_equal(verdict("target of 8192", HTTP1_GET,
                                 fill(&b, "GET /", 'x', 8191, " HTTP/1.1\r\nHost: a\r\n\r\n")),
                         5 + 8191 + 22);
        assert_int_equal(verdict("target of 8193", HTTP1_GET,
                                 fill(&b, "GET /", 'x', 8192, " HTTP/1.1\r\nHost: a\r\n\r\n")),
                         -414);
        assert_int_equal(verdict("target of 1 MB", HTTP1_GET, fill(&b, "GET /", 'x', 1 << 20, "")), -414);
        assert_int_equal(verdict("target of 8 KB and a control byte behind the limit", HTTP1_GET,
                                 fill(&b, "GET /", 'x', 8300, "\x01")),
                         -414);
        assert_int_equal(verdict("method of 10 KB", HTTP1_GET, fill(&b, "", 'X', 10000, "")), -414);
}

/* 0 if all is taken, else the refusal. */
static int with_headers(struct buffer *b, size_t n, int method, const char *start)
{
        int r;

        buffer_clear(b);
        buffer_puts(b, start);
        for (size_t i = 0; i < n; i++)
                buffer_puts(b, "a: b\r\n");
        buffer_puts(b, "\r\n");
        r = verdict("many headers", method, (struct slice){b->data, b->len});
        return r == (int)b->len ? 0 : r;
}

static void test_header_count(void **state)
{
        static const char start[] = GET_HEAD, answer[] = "HTTP/1.1 200 OK\r\n";
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        assert_int_equal(with_headers(&b, HTTP1_HEADERS_MAX - 1, HTTP1_GET, start), 0);
        assert_int_equal(with_headers(&b, HTTP1_HEADERS_MAX, HTTP1_GET, start), -431);
        assert_int_equal(with_headers(&b, 10000, HTTP1_GET, start), -431);
        assert_int_equal(with_headers(&b, HTTP1_HEADERS_MAX, ANSWER, answer), 0);
        assert_int_equal(with_headers(&b, HTTP1_HEADERS_MAX + 1, ANSWER, answer), -EMSGSIZE);
}

static void test_own_limits(void **state)
{
        const struct http1_limits small = {.head_max = 64, .target_max = 4, .body_max = 100};
        static struct http1_request req;
        const struct {
                struct slice in;
                int verdict;
        } cases[] = {
                {S("GET /abc HTTP/1.1\r\nHost: a\r\n\r\n"), 30},
                {S("GET /abcd HTTP/1.1\r\nHost: a\r\n\r\n"), -414},
                {S("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"), 49},
                {S("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n"), -413},
                {S("GET / HTTP/1.1\r\nHost: a\r\nX: 4567890123456789012345678901234567\r\n\r\n"), -431},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct http1_parser p;

                http1_parser_init(&p);
                assert_int_equal(http1_request_parse(&p, cases[i].in.p, cases[i].in.n, &small, &req),
                                 cases[i].verdict);
        }
}

/* A dripped head is looked at once, not once per byte: 16 KB byte by byte would be 134 million looks. */
static void test_drip_remembers(void **state)
{
        _cleanup_buffer_ struct buffer b;
        static struct http1_request req;
        struct http1_parser p;
        size_t behind = 0;

        (void)state;
        buffer_init(&b, 0);
        fill(&b, GET_HEAD "X: ", 'x', 16000, "\r\n\r\n");
        http1_parser_init(&p);
        for (size_t n = 0; n < b.len; n++) {
                assert_int_equal(http1_request_parse(&p, b.data, n, NULL, &req), 0);
                behind = MAX(behind, n - p.pos);
        }
        /* Only a CR whose LF is not there yet is looked at again. */
        assert_true(behind <= 1);
        assert_int_equal(http1_request_parse(&p, b.data, b.len, NULL, &req), (int)b.len);
}

/* --- requests that are understood -------------------------------------------------------------------------------- */

static struct http1_request req; /* of the last accept() */

static void accept_head(const char *text)
{
        struct http1_parser p;
        int r;

        http1_parser_init(&p);
        r = http1_request_parse(&p, text, strlen(text), NULL, &req);
        if (r <= 0)
                fail_msg("%d (%s): %s", r, p.reason ? p.reason : "", text);
        assert_int_equal(r, strstr(text, "\r\n\r\n") + 4 - text);
}

static void assert_slice(struct slice s, const char *expected)
{
        if (!slice_eq_str(s, expected))
                fail_msg("'%.*s', expected '%s'", (int)s.n, s.p, expected);
}

static void test_fields(void **state)
{
        struct slice v = {0};

        (void)state;
        accept_head(
                "POST /v1/x?a=b&c HTTP/1.1\r\nHost: localhost:8077\r\nContent-Length: 12\r\nX-A:  b c \t\r\n"
                "x-a: second\r\nEmpty:\r\n\r\nGET");
        assert_int_equal(req.method, HTTP1_POST);
        assert_slice(req.method_name, "POST");
        assert_slice(req.target, "/v1/x?a=b&c");
        assert_slice(req.path, "/v1/x");
        assert_slice(req.query, "a=b&c");
        assert_slice(req.host, "localhost:8077");
        assert_int_equal(req.minor, 1);
        assert_int_equal(req.framing, HTTP1_LENGTH);
        assert_int_equal(req.content_length, 12);
        assert_true(req.keep_alive);
        assert_false(req.expect_continue);
        assert_false(req.upgrade_websocket);
        assert_int_equal(req.n_headers, 5);
        assert_slice(req.headers[2].name, "X-A");
        assert_slice(req.headers[2].value, "b c");
        assert_int_equal(http1_header_find(req.headers, req.n_headers, "X-a", &v), 2);
        assert_slice(v, "b c");
        assert_int_equal(http1_header_find(req.headers, req.n_headers, "empty", &v), 1);
        assert_slice(v, "");
        assert_int_equal(http1_header_find(req.headers, req.n_headers, "x-", &v), 0);

        accept_head("GET /? HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "/");
        assert_non_null(req.query.p);
        assert_int_equal(req.query.n, 0);
        assert_int_equal(req.framing, HTTP1_NO_BODY);
        accept_head("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "/a%2fb");
        assert_null(req.query.p);
        accept_head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
        assert_int_equal(req.framing, HTTP1_CHUNKED);
        assert_int_equal(req.content_length, 0);
}

static void test_targets(void **state)
{
        (void)state;
        accept_head("GET http://a:80/x?y HTTP/1.1\r\nHost: A\r\n\r\n");
        assert_slice(req.target, "http://a:80/x?y");
        assert_slice(req.path, "/x");
        assert_slice(req.query, "y");
        assert_slice(req.host, "A");
        accept_head("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "/");
        assert_null(req.query.p);
        accept_head("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "/");
        assert_slice(req.query, "q");
        accept_head("GET http://a:99/ HTTP/1.0\r\n\r\n");
        assert_slice(req.host, "a:99");
        accept_head("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "*");
        accept_head("GET / HTTP/1.0\r\n\r\n");
        assert_null(req.host.p);
        accept_head("GET //x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_slice(req.path, "//x");
}

static void test_methods(void **state)
{
        static const char *const names[] = {"GET",   "HEAD",    "POST",  "PUT", "DELETE",
                                            "PATCH", "OPTIONS", "TRACE", "get", "PROPFIND"};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                char text[64];

                snprintf(text, sizeof(text), "%s / HTTP/1.1\r\nHost: a\r\n\r\n", names[i]);
                accept_head(text);
                assert_int_equal(req.method, MIN(i, HTTP1_OTHER));
                assert_slice(req.method_name, names[i]);
        }
}

static void test_connection(void **state)
{
        static const struct {
                const char *rest;
                bool keep_alive;
        } cases[] = {
                {"HTTP/1.1\r\nHost: a\r\n\r\n", true},
                {"HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false},
                {"HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE ,y\r\n\r\n", false},
                {"HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nconnection: close\r\n\r\n", false},
                {"HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true},
                {"HTTP/1.1\r\nHost: a\r\nX-Connection: close\r\n\r\n", true},
                {"HTTP/1.0\r\n\r\n", false},
                {"HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
                {"HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char text[256];

                snprintf(text, sizeof(text), "GET / %s", cases[i].rest);
                accept_head(text);
                assert_int_equal(req.keep_alive, cases[i].keep_alive);
        }
}

static void test_upgrade_and_expect(void **state)
{
        (void)state;
        accept_head(GET_HEAD "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n");
        assert_true(req.upgrade_websocket);
        accept_head(GET_HEAD "Connection: upgrade\r\nUpgrade: h2c, websocket\r\nContent-Length: 0\r\n\r\n");
        assert_true(req.upgrade_websocket);
        accept_head(GET_HEAD "Upgrade: websocket\r\n\r\n");
        assert_false(req.upgrade_websocket);
        accept_head(GET_HEAD "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
        assert_false(req.upgrade_websocket);
        accept_head(POST_HEAD "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_false(req.upgrade_websocket);
        accept_head("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_false(req.upgrade_websocket);
        /* A body behind an upgrade would be read as frames. */
        accept_head(GET_HEAD "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n");
        assert_false(req.upgrade_websocket);
        accept_head(GET_HEAD
                    "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_false(req.upgrade_websocket);

        accept_head(POST_HEAD "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_true(req.expect_continue);
        accept_head(POST_HEAD "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_true(req.expect_continue);
        accept_head(POST_HEAD "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n");
        assert_false(req.expect_continue);
        accept_head("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_false(req.expect_continue);
}

/* 1,000 requests in one buffer are taken off one by one, each where the last ended. */
static void test_pipelined(void **state)
{
        _cleanup_buffer_ struct buffer b;
        size_t at = 0;

        (void)state;
        buffer_init(&b, 0);
        for (int i = 0; i < 1000; i++)
                buffer_printf(&b, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i);
        for (int i = 0; i < 1000; i++) {
                struct http1_parser p;
                char expected[16];
                int r;

                http1_parser_init(&p);
                r = http1_request_parse(&p, b.data + at, b.len - at, NULL, &req);
                assert_true(r > 0);
                snprintf(expected, sizeof(expected), "/%d", i);
                assert_slice(req.path, expected);
                at += (size_t)r;
        }
        assert_int_equal(at, b.len);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

static void test_answers_refused(void **state)
{
        static const struct refused cases[] = {
                {"not HTTP", S("SSH-2.0-OpenSSH_9.2\r\n\r\n"), EPROTO},
                {"another protocol's text", S("220 mail ESMTP\r\n\r\n"), EPROTO},
                {"HTTP/2.0", S("HTTP/2.0 200 OK\r\n\r\n"), EPROTO},
                {"HTTP/1.2", S("HTTP/1.2 200 OK\r\n\r\n"), EPROTO},
                {"lower case", S("http/1.1 200 OK\r\n\r\n"), EPROTO},
                {"no status", S("HTTP/1.1 \r\n\r\n"), EPROTO},
                {"two digits", S("HTTP/1.1 20 OK\r\n\r\n"), EPROTO},
                {"four digits", S("HTTP/1.1 2000 OK\r\n\r\n"), EPROTO},
                {"status 099", S("HTTP/1.1 099 OK\r\n\r\n"), EPROTO},
                {"signed status", S("HTTP/1.1 +20 OK\r\n\r\n"), EPROTO},
                {"two spaces", S("HTTP/1.1  200 OK\r\n\r\n"), EPROTO},
                {"tab", S("HTTP/1.1\t200 OK\r\n\r\n"), EPROTO},
                {"NUL in the phrase", S("HTTP/1.1 200 O\0K\r\n\r\n"), EPROTO},
                {"LF only", S("HTTP/1.1 200 OK\n\n"), EPROTO},
                {"bare CR", S("HTTP/1.1 200 OK\r\nX: y\rz\r\n\r\n"), EPROTO},
                {"leading CRLF", S("\r\nHTTP/1.1 200 OK\r\n\r\n"), EPROTO},
                {"leading space", S(" HTTP/1.1 200 OK\r\n\r\n"), EPROTO},
                {"two CL", S("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n"), EPROTO},
                {"CL and TE", S("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
                 EPROTO},
                {"CL: +2", S("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n"), EPROTO},
                {"CL in a 304", S("HTTP/1.1 304 x\r\nContent-Length: z\r\n\r\n"), EPROTO},
                {"TE: gzip", S("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), EPROTO},
                {"TE in 1.0", S("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), EPROTO},
                {"fold", S("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"), EPROTO},
                {"space before colon", S("HTTP/1.1 200 OK\r\nX : a\r\n\r\n"), EPROTO},
                {"no colon", S("HTTP/1.1 200 OK\r\nX\r\n\r\n"), EPROTO},
        };
        _cleanup_buffer_ struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = verdict(cases[i].name, ANSWER, cases[i].in);

                if (r != -cases[i].status)
                        fail_msg("%s: %d", cases[i].name, r);
        }
        fill(&b, "HTTP/1.1 200 OK\r\nX: ", 'x', 20000, "\r\n\r\n");
        assert_int_equal(verdict("20 KB", ANSWER, (struct slice){b.data, b.len}), -EMSGSIZE);
        fill(&b, "HTTP/1.1 200 ", 'x', 20000, "\r\n\r\n");
        assert_int_equal(verdict("20 KB phrase", ANSWER, (struct slice){b.data, b.len}), -EMSGSIZE);
}

static void test_answers(void **state)
{
        static const struct {
                const char *text;
                enum http1_method to;
                int status;
                enum http1_framing framing;
                uint64_t length;
                bool keep_alive;
        } cases[] = {
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HTTP1_GET, 200, HTTP1_LENGTH, 5, true},
                {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", HTTP1_GET, 200, HTTP1_LENGTH, 0, true},
                {"HTTP/1.1 200\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", HTTP1_GET, 200,
                 HTTP1_LENGTH, 5, false},
                {"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", HTTP1_GET, 200, HTTP1_CHUNKED, 0,
                 true},
                {"HTTP/1.1 503 Service Unavailable\r\n\r\n", HTTP1_GET, 503, HTTP1_UNTIL_CLOSE, 0, false},
                {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", HTTP1_GET, 200, HTTP1_UNTIL_CLOSE, 0,
                 false},
                {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", HTTP1_GET, 200, HTTP1_LENGTH, 1, false},
                {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", HTTP1_GET, 200,
                 HTTP1_LENGTH, 1, true},
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HTTP1_HEAD, 200, HTTP1_NO_BODY, 5, true},
                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP1_HEAD, 200, HTTP1_NO_BODY, 0,
                 true},
                {"HTTP/1.1 200 OK\r\n\r\n", HTTP1_HEAD, 200, HTTP1_NO_BODY, 0, true},
                {"HTTP/1.1 204 No Content\r\n\r\n", HTTP1_GET, 204, HTTP1_NO_BODY, 0, true},
                {"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", HTTP1_GET, 204, HTTP1_NO_BODY, 0,
                 true},
                /* An answer that must have no body but announces one ends the connection: its "body" could be a forged answer. */
                {"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", HTTP1_GET, 204, HTTP1_NO_BODY, 9,
                 false},
                {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP1_GET, 204,
                 HTTP1_NO_BODY, 0, false},
                {"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n", HTTP1_POST, 100, HTTP1_NO_BODY, 9,
                 false},
                {"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", HTTP1_GET, 304, HTTP1_NO_BODY, 9,
                 true},
                {"HTTP/1.1 100 Continue\r\n\r\n", HTTP1_POST, 100, HTTP1_NO_BODY, 0, true},
                {"HTTP/1.1 101 Switching Protocols\r\n\r\n", HTTP1_GET, 101, HTTP1_NO_BODY, 0, true},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct slice in = slice_str(cases[i].text);
                struct http1_parser p;
                static struct http1_response res;

                assert_int_equal(verdict(in.p, ANSWER + (int)cases[i].to, in), (int)in.n);
                http1_parser_init(&p);
                assert_int_equal(http1_response_parse(&p, in.p, in.n, NULL, cases[i].to, &res), (int)in.n);
                assert_int_equal(res.status, cases[i].status);
                assert_int_equal(res.content_length, cases[i].length);
                assert_int_equal(res.has_length, strstr(in.p, "Content-Length") != NULL);
                if (res.framing != cases[i].framing || res.keep_alive != cases[i].keep_alive)
                        fail_msg("framing %d, keep_alive %d: %s", (int)res.framing, res.keep_alive, in.p);
        }
}

/* --- headers ----------------------------------------------------------------------------------------------------- */

static void test_lists(void **state)
{
        struct slice rest = SLICE(" ,, a ,\tb\t, c d,,"), item;
        const struct http1_header headers[] = {{SLICE("Connection"), SLICE("x, Y")},
                                               {SLICE("Other"), SLICE("w")},
                                               {SLICE("CONNECTION"), SLICE("z")}};

        (void)state;
        assert_true(http1_list_next(&rest, &item));
        assert_slice(item, "a");
        assert_true(http1_list_next(&rest, &item));
        assert_slice(item, "b");
        assert_true(http1_list_next(&rest, &item));
        assert_slice(item, "c d");
        assert_false(http1_list_next(&rest, &item));
        assert_true(http1_header_lists(headers, 3, "connection", "y"));
        assert_true(http1_header_lists(headers, 3, "connection", "Z"));
        assert_false(http1_header_lists(headers, 3, "connection", "w"));
        assert_false(http1_header_lists(headers, 2, "connection", "z"));
        assert_true(http1_header_is_hop(SLICE("KEEP-alive")));
        assert_true(http1_header_is_hop(SLICE("TE")));
        assert_false(http1_header_is_hop(SLICE("Content-Type")));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_frames_are_sound),
                cmocka_unit_test(test_refused_before_the_end),
                cmocka_unit_test(test_every_byte_everywhere),
                cmocka_unit_test(test_tokens),
                cmocka_unit_test(test_limits),
                cmocka_unit_test(test_header_count),
                cmocka_unit_test(test_own_limits),
                cmocka_unit_test(test_drip_remembers),
                cmocka_unit_test(test_fields),
                cmocka_unit_test(test_targets),
                cmocka_unit_test(test_methods),
                cmocka_unit_test(test_connection),
                cmocka_unit_test(test_upgrade_and_expect),
                cmocka_unit_test(test_pipelined),
                cmocka_unit_test(test_answers_refused),
                cmocka_unit_test(test_answers),
                cmocka_unit_test(test_lists),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
