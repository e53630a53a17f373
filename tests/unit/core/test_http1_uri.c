/* test_http1_uri.c: paths, queries, authorities and origins, good and hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>

#include "core/http1_uri.h"

static void test_path(void **state)
{
        static const struct {
                struct slice in;
                const char *out; /* NULL: -EINVAL */
        } cases[] = {
                {SLICE("/"), "/"},
                {SLICE("/v1/models"), "/v1/models"},
                {SLICE("/v1/models/"), "/v1/models/"},
                {SLICE("/a%20b%2B+"), "/a b++"},
                {SLICE("/%e2%82%ac"), "/\xe2\x82\xac"},
                {SLICE("/%41%5a"), "/AZ"},
                {SLICE("/..."), "/..."},
                {SLICE("/.hidden/..x/x.."), "/.hidden/..x/x.."},
                {SLICE("/%252e%252e/"), "/%2e%2e/"},
                {SLICE(""), NULL},
                {SLICE("*"), NULL},
                {SLICE("a"), NULL},
                {SLICE("/.."), NULL},
                {SLICE("/../etc/passwd"), NULL},
                {SLICE("/a/../b"), NULL},
                {SLICE("/a/.."), NULL},
                {SLICE("/./a"), NULL},
                {SLICE("/a/."), NULL},
                {SLICE("/%2e%2e/a"), NULL},
                {SLICE("/.%2E/a"), NULL},
                {SLICE("/%2e"), NULL},
                {SLICE("/..%2fa"), NULL},
                {SLICE("/a%2fb"), NULL},
                {SLICE("/a%2Fb"), NULL},
                {SLICE("/a%5cb"), NULL},
                {SLICE("/a\\b"), NULL},
                {SLICE("/a%00"), NULL},
                {SLICE("/a%00.html"), NULL},
                {SLICE("/a%0d%0aX"), NULL},
                {SLICE("/a%1b"), NULL},
                {SLICE("/a%7f"), NULL},
                {SLICE("//"), NULL},
                {SLICE("//a"), NULL},
                {SLICE("/a//b"), NULL},
                {SLICE("/a//"), NULL},
                {SLICE("/%"), NULL},
                {SLICE("/%4"), NULL},
                {SLICE("/%4g"), NULL},
                {SLICE("/%g4"), NULL},
                {SLICE("/%%34"), NULL},
                {SLICE("/%u0041"), NULL},
                {SLICE("/%+1"), NULL},
                {SLICE("/%c0%af"), NULL},       /* overlong slash */
                {SLICE("/%c0%ae%c0%ae"), NULL}, /* overlong dots */
                {SLICE("/%e0%80%af"), NULL},
                {SLICE("/%ff"), NULL},
                {SLICE("/%e2%82"), NULL},
                {SLICE("/%ed%a0%80"), NULL}, /* a surrogate */
        };
        char buf[64];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = http1_path_normal(cases[i].in, buf, sizeof(buf));

                if (cases[i].out ? r < 0 || !streq(buf, cases[i].out) || r != (int)strlen(buf) : r != -EINVAL)
                        fail_msg("%s: %d '%s'", cases[i].in.p, r, r >= 0 ? buf : "");
        }
        assert_int_equal(http1_path_normal(SLICE("/abc"), buf, 5), 4);
        assert_int_equal(http1_path_normal(SLICE("/abc"), buf, 4), -ENOBUFS);
        assert_int_equal(http1_path_normal(SLICE("/"), buf, 0), -ENOBUFS);
        assert_int_equal(http1_path_normal(SLICE("/%61%62"), buf, 4), 3);
}

static void test_query(void **state)
{
        static const struct {
                struct slice query;
                const char *name, *out;
                int error;
        } cases[] = {
                {SLICE("lines=50&follow=1"), "lines", "50", 0},
                {SLICE("lines=50&follow=1"), "follow", "1", 0},
                {SLICE("lines=50&follow"), "follow", "", 0},
                {SLICE("follow="), "follow", "", 0},
                {SLICE("a=b=c"), "a", "b=c", 0},
                {SLICE("a=x+y%20z%2b"), "a", "x y z+", 0},
                {SLICE("%61=1"), "a", "1", 0},
                {SLICE("a+b=1"), "a b", "1", 0},
                {SLICE("&&a=1&&"), "a", "1", 0},
                {SLICE("a=%e2%82%ac"), "a", "\xe2\x82\xac", 0},
                {SLICE("ab=1&a=2"), "a", "2", 0},
                {SLICE("b=%zz&a=2"), "a", "2", 0},
                {SLICE(""), "a", NULL, -ENOENT},
                {SLICE("b=1"), "a", NULL, -ENOENT},
                {SLICE("aa=1"), "a", NULL, -ENOENT},
                {SLICE("A=1"), "a", NULL, -ENOENT},
                {SLICE("&&"), "", NULL, -ENOENT},
                {SLICE("a%00=1"), "a", NULL, -ENOENT},
                {SLICE("a=1&a=1"), "a", NULL, -EINVAL},
                {SLICE("a=1&%61=2"), "a", NULL, -EINVAL},
                {SLICE("a=%"), "a", NULL, -EINVAL},
                {SLICE("a=%1"), "a", NULL, -EINVAL},
                {SLICE("a=%00"), "a", NULL, -EINVAL},
                {SLICE("a=%0a"), "a", NULL, -EINVAL},
                {SLICE("a=%ff"), "a", NULL, -EINVAL},
                {SLICE("a=0123456789abcdef"), "a", NULL, -ENOBUFS},
        };
        char buf[16];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = http1_query_get(cases[i].query, cases[i].name, buf, sizeof(buf));

                if (cases[i].out ? r != (int)strlen(cases[i].out) || !streq(buf, cases[i].out)
                                 : r != cases[i].error)
                        fail_msg("%s: %d", cases[i].query.p, r);
        }
        assert_int_equal(http1_query_get(SLICE("a"), "a", buf, 0), -ENOBUFS);
        assert_int_equal(http1_query_get((struct slice){0}, "a", buf, sizeof(buf)), -ENOENT);
}

static void test_segment(void **state)
{
        char buf[32], back[32] = "/";

        (void)state;
        assert_int_equal(http1_segment_encode(SLICE("qwen-0_a.b~C"), buf, sizeof(buf)), 12);
        assert_string_equal(buf, "qwen-0_a.b~C");
        assert_int_equal(http1_segment_encode(SLICE("a/b?#%\xc3\xa9"), buf, sizeof(buf)), 20);
        assert_string_equal(buf, "a%2Fb%3F%23%25%C3%A9");
        assert_int_equal(http1_segment_encode(SLICE("a b"), buf, 6), 5);
        assert_int_equal(http1_segment_encode(SLICE("a b"), buf, 5), -ENOBUFS);
        assert_int_equal(http1_segment_encode(SLICE(""), buf, 0), -ENOBUFS);
        assert_int_equal(http1_segment_encode(SLICE("x y\xc3\xa9"), buf + 1, sizeof(buf) - 1), 11);
        buf[0] = '/';
        assert_int_equal(http1_path_normal(slice_str(buf), back, sizeof(back)), 6);
        assert_string_equal(back, "/x y\xc3\xa9");
}

static void test_authority(void **state)
{
        static const struct {
                struct slice in;
                const char *host; /* NULL: refused */
                bool ipv6;
                int port;
        } cases[] = {
                {SLICE("localhost"), "localhost", false, -1},
                {SLICE("localhost:8077"), "localhost", false, 8077},
                {SLICE("127.0.0.1:1"), "127.0.0.1", false, 1},
                {SLICE("a:65535"), "a", false, 65535},
                {SLICE("a:00080"), "a", false, 80},
                {SLICE("[::1]"), "::1", true, -1},
                {SLICE("[::1]:8077"), "::1", true, 8077},
                {SLICE("[::ffff:127.0.0.1]:8077"), "::ffff:127.0.0.1", true, 8077},
                {SLICE("my_host.Example."), "my_host.Example.", false, -1},
                {SLICE(""), NULL, false, 0},
                {SLICE(":80"), NULL, false, 0},
                {SLICE("a:"), NULL, false, 0},
                {SLICE("a:0"), NULL, false, 0},
                {SLICE("a:65536"), NULL, false, 0},
                {SLICE("a:000080"), NULL, false, 0},
                {SLICE("a:+80"), NULL, false, 0},
                {SLICE("a:80:80"), NULL, false, 0},
                {SLICE("a:80 "), NULL, false, 0},
                {SLICE("u@a"), NULL, false, 0},
                {SLICE("a b"), NULL, false, 0},
                {SLICE("a,b"), NULL, false, 0},
                {SLICE("a/"), NULL, false, 0},
                {SLICE("a\\b"), NULL, false, 0},
                {SLICE("a%41"), NULL, false, 0},
                {SLICE("a\0b"), NULL, false, 0},
                {SLICE("::1"), NULL, false, 0},
                {SLICE("[]"), NULL, true, 0},
                {SLICE("[::1"), NULL, true, 0},
                {SLICE("::1]"), NULL, true, 0},
                {SLICE("[::1]80"), NULL, true, 0},
                {SLICE("[::1]x80"), NULL, true, 0},
                {SLICE("[::1]:"), NULL, true, 0},
                {SLICE("[::1%lo]"), NULL, true, 0},
                {SLICE("[127.0.0.1]"), NULL, true, 0},
                {SLICE("[::1\0]"), NULL, true, 0},
                {SLICE("[v1.a]"), NULL, true, 0},
        };
        struct http1_authority a = {0}, b = {0};
        char name[257];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int r = http1_authority_parse(cases[i].in, &a);

                if (r != (cases[i].host ? 0 : -EINVAL))
                        fail_msg("%s: %d", cases[i].in.p, r);
                if (cases[i].host) {
                        assert_true(slice_eq_str(a.host, cases[i].host));
                        assert_int_equal(a.ipv6, cases[i].ipv6);
                        assert_int_equal(a.port, cases[i].port);
                }
        }
        memset(name, 'a', sizeof(name));
        assert_int_equal(http1_authority_parse((struct slice){name, 255}, &a), 0);
        assert_int_equal(http1_authority_parse((struct slice){name, 256}, &a), -EINVAL);

        assert_int_equal(http1_authority_parse(SLICE("Local:80"), &a), 0);
        assert_int_equal(http1_authority_parse(SLICE("local"), &b), 0);
        assert_true(http1_authority_equal(&a, &b, 80));
        assert_false(http1_authority_equal(&a, &b, 443));
        assert_int_equal(http1_authority_parse(SLICE("local:81"), &b), 0);
        assert_false(http1_authority_equal(&a, &b, 80));
        assert_int_equal(http1_authority_parse(SLICE("loca1:80"), &b), 0);
        assert_false(http1_authority_equal(&a, &b, 80));
}

static void test_origin(void **state)
{
        static const char *const refused[] = {
                "null",
                "",
                "http://",
                "http:/a",
                "http:a",
                "http:xxa",
                "//a",
                "a",
                "http://a/",
                "http://a/b",
                "http://a?",
                "http://u@a",
                "1http://a",
                "ht tp://a",
                "://a",
                "http://a:0",
                "http://a b",
                "http://a, http://b",
                "http://a http://b",
                "file://",
                "h\xe9://a",
        };
        struct slice scheme = {0};
        struct http1_authority a = {0};

        (void)state;
        assert_int_equal(http1_origin_parse(SLICE("https://Example.org:8443"), &scheme, &a), 0);
        assert_true(slice_eq_str(scheme, "https") && slice_eq_str(a.host, "Example.org") && a.port == 8443);
        assert_int_equal(http1_origin_parse(SLICE("http://[::1]"), &scheme, &a), 0);
        assert_true(slice_eq_str(a.host, "::1") && a.ipv6 && a.port == -1);
        assert_int_equal(http1_origin_parse(SLICE("chrome-extension://abcdef"), &scheme, &a), 0);
        assert_true(slice_eq_str(scheme, "chrome-extension"));
        for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
                if (http1_origin_parse(slice_str(refused[i]), &scheme, &a) != -EINVAL)
                        fail_msg("accepted: %s", refused[i]);
        assert_true(slice_eq_str(scheme, "chrome-extension"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_path),    cmocka_unit_test(test_query),
                cmocka_unit_test(test_segment), cmocka_unit_test(test_authority),
                cmocka_unit_test(test_origin),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
