/* test_forward.c: what of a client's headers an instance sees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "core/forward.h"

static size_t parse(const char *lines, struct http1_header *ret)
{
        size_t n = 0;

        while (*lines) {
                const char *colon = strchr(lines, ':'), *end = strchr(lines, '\n');

                ret[n].name = (struct slice){lines, (size_t)(colon - lines)};
                ret[n++].value = slice_trim((struct slice){colon + 1, (size_t)(end - colon - 1)});
                lines = end + 1;
        }
        return n;
}

static void check(const char *lines, const char *kept)
{
        struct http1_header in[HTTP1_HEADERS_MAX], expected[HTTP1_HEADERS_MAX];
        size_t n = parse(lines, in), n_expected = parse(kept, expected);

        n = forward_headers(in, n, in);
        assert_int_equal(n, n_expected);
        for (size_t i = 0; i < n; i++) {
                assert_true(slice_eq(in[i].name, expected[i].name));
                assert_true(slice_eq(in[i].value, expected[i].value));
        }
}

static void test_headers(void **state)
{
        (void)state;
        check("", "");
        check("Host: a\nUser-Agent: x\nAccept: */*\nContent-Type: application/json\nContent-Length: 5\n"
              "X-Request-ID: 7\ntraceparent: 00-1\nX-Custom: \n",
              "User-Agent: x\nAccept: */*\nContent-Type: application/json\nX-Request-ID: 7\ntraceparent: "
              "00-1\n"
              "X-Custom:\n");
        /* Each of those that must not go on, in another case. */
        check("CONNECTION: close\nKeep-Alive: 5\nProxy-Connection: x\nTE: trailers\nTrailer: "
              "a\nTransfer-Encoding: chunked\n"
              "Upgrade: h2c\nProxy-Authenticate: a\nProxy-Authorization: b\nHTTP2-Settings: c\nEXPECT: "
              "100-continue\n"
              "authorization: Bearer k\nX-API-KEY: k\ncookie: a=b\nCookie2: a\norigin: http://a\nforwarded: "
              "for=a\n"
              "X-Forwarded-For: \nx-forwarded-proto: https\nX-FORWARDED-ANYTHING: 1\nX-Forwarded: "
              "a\nx-real-ip: 1.2.3.4\n"
              "api-key: k\nX-Goog-Api-Key: k\nsec-websocket-protocol: key.aw\n"
              "x-conversation-id: 4\nACCEPT-encoding: gzip\ncontent-length: 4\nhost: b\n",
              "");
        /* Names that only begin alike. */
        check("X-Forwardedly: a\nHosts: b\nX-Api-Keys: c\nConnections: d\n",
              "X-Forwardedly: a\nHosts: b\nX-Api-Keys: c\nConnections: d\n");
}

static void test_connection_lists(void **state)
{
        (void)state;
        check("X-A: 1\nConnection: keep-alive, x-a , X-B\nx-b: 2\nX-C: 3\nConnection: x-d\nX-D: 4\n",
              "X-C: 3\n");
        check("X-A: 1\nConnection: ,,\n", "X-A: 1\n");
        check("Connection: a\nConnection: a\nConnection: a\nConnection: a\nConnection: a\nConnection: "
              "a\nConnection: a\n"
              "Connection: a\nX-B: 1\n",
              "X-B: 1\n");
        check("Connection: a\nConnection: a\nConnection: a\nConnection: a\nConnection: a\nConnection: "
              "a\nConnection: a\n"
              "Connection: a\nConnection: x-b\nX-B: 1\n",
              "");
}

/* place: NULL when it is left out. */
static void check_place(const char *value, const char *prefix, const char *place)
{
        struct buffer b;
        bool kept;

        buffer_init(&b, 0);
        kept = forward_location(slice_str(value), SLICE("127.0.0.1:8134"), slice_str(prefix), &b);
        assert_int_equal(kept, place != NULL);
        if (place)
                assert_string_equal(b.data, place);
        buffer_finish(&b);
}

static void test_places(void **state)
{
        (void)state;
        check_place("/files/1?a=b#c", "", "/files/1?a=b#c");
        check_place("/files/1", "/upstream/m", "/upstream/m/files/1");
        check_place("http://127.0.0.1:8134/files/1", "", "/files/1");
        check_place("HTTPS://127.0.0.1:8134/files/1", "/upstream/m", "/upstream/m/files/1");
        check_place("//127.0.0.1:8134/files/1", "/upstream/m", "/upstream/m/files/1");
        check_place("http://127.0.0.1:8134", "/upstream/m", "/upstream/m/");
        check_place("http://127.0.0.1:8134?a", "", "/?a");
        check_place("files/1", "/upstream/m", "files/1");
        check_place("?page=2", "/upstream/m", "?page=2");
        check_place("a:b", "", NULL);
        check_place("a/b:c", "", "a/b:c");
        /* Somewhere else, or something else. */
        check_place("http://127.0.0.1:8135/x", "", NULL);
        check_place("http://127.0.0.1/x", "", NULL);
        check_place("http://127.0.0.1:8134@evil.example/x", "", NULL);
        check_place("http://evil.example#127.0.0.1:8134/x", "", NULL);
        check_place("http://127.0.0.1:8134\\@evil.example/x", "", NULL);
        check_place("http://127.0.0.1:8134//evil.example/x", "", NULL);
        check_place("//evil.example/x", "", NULL);
        check_place("/\\evil.example/x", "", NULL);
        check_place("\\\\evil.example/x", "", NULL);
        check_place("http:x", "", NULL);
        check_place("http:/x", "", NULL);
        check_place("javascript:alert(1)", "", NULL);
        check_place("", "", NULL);
}

static void test_kept_back(void **state)
{
        (void)state;
        assert_true(forward_keeps_back(SLICE("WWW-Authenticate")));
        assert_true(forward_keeps_back(SLICE("alt-svc")));
        assert_true(forward_keeps_back(SLICE("Refresh")));
        assert_false(forward_keeps_back(SLICE("WWW-Authenticated")));
        assert_false(forward_keeps_back(SLICE("Location")));
        assert_false(forward_keeps_back(SLICE("")));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_headers),
                cmocka_unit_test(test_connection_lists),
                cmocka_unit_test(test_places),
                cmocka_unit_test(test_kept_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
