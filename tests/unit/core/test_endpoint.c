/* test_endpoint.c: every form of address in and out, and what is refused with which error. */
#include "core/endpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

static void accepted_forms(void **state)
{
        static const struct {
                const char *in, *text, *host;
                bool loopback;
        } rows[] = {
                {"unix:/run/a.sock", "unix:/run/a.sock", "localhost", true},
                {"/run/a.sock", "unix:/run/a.sock", "localhost", true},
                {"http://127.0.0.1:8077", "http://127.0.0.1:8077", "127.0.0.1:8077", true},
                {"http://127.0.0.1:8077/", "http://127.0.0.1:8077", "127.0.0.1:8077", true},
                {"HTTP://127.9.8.7:1", "http://127.9.8.7:1", "127.9.8.7:1", true},
                {"localhost:80", "http://127.0.0.1:80", "127.0.0.1:80", true},
                {"LocalHost:80", "http://127.0.0.1:80", "127.0.0.1:80", true},
                {"10.0.0.5:8134", "http://10.0.0.5:8134", "10.0.0.5:8134", false},
                {"0.0.0.0:0", "http://0.0.0.0:0", "0.0.0.0:0", false},
                {"128.0.0.1:65535", "http://128.0.0.1:65535", "128.0.0.1:65535", false},
                {"[::1]:8077", "http://[::1]:8077", "[::1]:8077", true},
                {"http://[::]:8077/", "http://[::]:8077", "[::]:8077", false},
                {"[2001:db8::5]:1", "http://[2001:db8::5]:1", "[2001:db8::5]:1", false},
                {"[::ffff:127.0.0.1]:1", "http://[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", true},
                {"[::ffff:10.0.0.1]:1", "http://[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.1]:1", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char text[ENDPOINT_TEXT_MAX], host[ENDPOINT_TEXT_MAX];
                struct endpoint e, again;

                if (endpoint_parse(rows[i].in, &e) != 0)
                        fail_msg("'%s' is refused", rows[i].in);
                assert_string_equal(endpoint_text(&e, text, sizeof text), rows[i].text);
                assert_string_equal(endpoint_host(&e, host, sizeof host), rows[i].host);
                assert_int_equal(endpoint_is_loopback(&e), rows[i].loopback);
                assert_int_equal(endpoint_is_unix(&e), starts_with(rows[i].text, "unix:"));
                assert_int_equal(endpoint_parse(text, &again), 0);
                assert_true(endpoint_equal(&e, &again));
        }
}

static void refused_forms(void **state)
{
        static const struct {
                const char *in;
                int error;
        } rows[] = {
                {"", -EINVAL},
                {"unix:", -EINVAL},
                {"unix:relative.sock", -EINVAL},
                {"http://", -EINVAL},
                {"http:///", -EINVAL},
                {"http://127.0.0.1", -EINVAL},
                {"http://127.0.0.1:80/path", -EINVAL},
                {"http://127.0.0.1:80//", -EINVAL},
                {"http://user@127.0.0.1:80", -EINVAL},
                {"127.0.0.1", -EINVAL},
                {"127.0.0.1:", -EINVAL},
                {"127.0.0.1:+80", -EINVAL},
                {"127.0.0.1:-1", -EINVAL},
                {"127.0.0.1: 80", -EINVAL},
                {"127.0.0.1:80 ", -EINVAL},
                {" 127.0.0.1:80", -EINVAL},
                {"127.0.0.1:65536", -EINVAL},
                {"127.0.0.1:000080", -EINVAL},
                {"127.0.0.1:0x50", -EINVAL},
                {":80", -EINVAL},
                {"::1:80", -EINVAL},
                {"[::1]", -EINVAL},
                {"[::1]:", -EINVAL},
                {"[::1]80", -EINVAL},
                {"[::1:80", -EINVAL},
                {"[127.0.0.1]:80", -EINVAL},
                {"[localhost]:80", -EINVAL},
                {"[]:80", -EINVAL},
                {"ftp://127.0.0.1:80", -EINVAL},
                {"https://127.0.0.1:80", -EPROTONOSUPPORT},
                {"HTTPS://example.org", -EPROTONOSUPPORT},
                {"example.org:80", -EADDRNOTAVAIL},
                {"127.1:80", -EADDRNOTAVAIL},
                {"256.0.0.1:80", -EADDRNOTAVAIL},
                {"exa mple:80", -EINVAL},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct endpoint e = {.len = 77};
                int r = endpoint_parse(rows[i].in, &e);

                if (r != rows[i].error)
                        fail_msg("'%s' gives %d, not %d", rows[i].in, r, rows[i].error);
                assert_int_equal(e.len, 77);
        }
}

static void unix_path_bound(void **state)
{
        char path[sizeof((struct sockaddr_un *)0)->sun_path + 1], text[ENDPOINT_TEXT_MAX];
        struct endpoint e;

        (void)state;
        memset(path, 'a', sizeof path);
        path[0] = '/';
        path[107] = '\0';
        assert_int_equal(endpoint_from_unix(path, &e), 0);
        assert_string_equal(e.addr.un.sun_path, path);
        assert_string_equal(endpoint_text(&e, text, sizeof text) + strlen("unix:"), path);
        path[107] = 'a';
        path[108] = '\0';
        assert_int_equal(endpoint_from_unix(path, &e), -ENAMETOOLONG);
}

static void equality(void **state)
{
        static const char *const all[] = {"/a",          "/b",      "127.0.0.1:1", "127.0.0.1:2",
                                          "127.0.0.2:1", "[::1]:1", "[::1]:2",     "[::2]:1"};
        struct endpoint none = {0}, a, b;
        char text[ENDPOINT_TEXT_MAX];

        (void)state;
        assert_true(endpoint_equal(&none, &none));
        assert_string_equal(endpoint_text(&none, text, sizeof text), "none");
        assert_false(endpoint_is_loopback(&none));
        assert_false(endpoint_is_unix(&none));
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                assert_int_equal(endpoint_parse(all[i], &a), 0);
                assert_false(endpoint_equal(&a, &none));
                for (size_t j = 0; j < ARRAY_SIZE(all); j++) {
                        assert_int_equal(endpoint_parse(all[j], &b), 0);
                        assert_int_equal(endpoint_equal(&a, &b), i == j);
                }
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(accepted_forms),
                cmocka_unit_test(refused_forms),
                cmocka_unit_test(unix_path_bound),
                cmocka_unit_test(equality),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
