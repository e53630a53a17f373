/* test_url.c: the URLs of hubs, taken apart. */
#include "core/url.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void taken_apart(void **state)
{
        struct url u;

        (void)state;
        assert_int_equal(url_parse("wss://happy-otter-123.convex.cloud/api/1/sync?x=1", &u), 0);
        assert_true(slice_eq_str(u.scheme, "wss"));
        assert_true(slice_eq_str(u.authority, "happy-otter-123.convex.cloud"));
        assert_string_equal(u.host, "happy-otter-123.convex.cloud");
        assert_int_equal(u.port, 443);
        assert_true(slice_eq_str(u.path, "/api/1/sync?x=1"));
        assert_true(url_is_secure(&u));
        assert_int_equal(url_parse("http://10.0.0.5:9000", &u), 0);
        assert_int_equal(u.port, 9000);
        assert_int_equal(u.path.n, 0);
        assert_false(url_is_secure(&u));
        assert_int_equal(url_parse("http://[::1]:9000/?q", &u), 0);
        assert_string_equal(u.host, "::1");
        assert_true(u.ipv6);
        assert_true(slice_eq_str(u.path, "/?q"));
        assert_int_equal(url_parse("https://h?q=1", &u), 0);
        assert_true(slice_eq_str(u.authority, "h"));
        assert_int_equal(url_parse("tls://h", &u), 0);
        assert_int_equal(u.port, 0);
        assert_int_equal(url_parse("ws://h", &u), 0);
        assert_int_equal(u.port, 80);
}

static void refused(void **state)
{
        static const char *const bad[] = {
                "",          "h",           "://h",          "http:/h",     "http://",     "http:///x",
                "HTTP://h",  "http://u@h",  "http://u:p@h",  "http://h:0",  "http://h:x",  "http://h/ x",
                "http://h#", "http://h/\n", "http://h/\x7f", "http://[::1", "1http://h/x", "http://h:99999",
        };
        struct url u;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                if (url_parse(bad[i], &u) != -EINVAL)
                        fail_msg("accepted: %s", bad[i]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(taken_apart), cmocka_unit_test(refused)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
