/* test_cidr.c: nets and who is in them. */
#include "core/cidr.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"

static void who_is_in(void **state)
{
        static const struct {
                const char *net, *address;
                bool in;
        } rows[] = {
                {"10.0.0.5", "10.0.0.5", true},
                {"10.0.0.5", "10.0.0.6", false},
                {"10.0.0.0/24", "10.0.0.255", true},
                {"10.0.0.0/24", "10.0.1.0", false},
                {"10.0.0.0/23", "10.0.1.0", true},
                {"0.0.0.0/0", "8.8.8.8", true},
                {"0.0.0.0/0", "::1", false},
                {"::/0", "8.8.8.8", true},
                {"fd00::/8", "fdff::1", true},
                {"fd00::/8", "fe00::1", false},
                {"::1", "::1", true},
                {"10.0.0.5", "::ffff:10.0.0.5", true},
                {"10.0.0.5/32", "10.0.0.5", true},
                {"10.0.0.5", "unix", false},
                {"10.0.0.5", "", false},
                {"128.0.0.0/1", "200.1.1.1", true},
                {"128.0.0.0/1", "100.1.1.1", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct cidr c;

                assert_int_equal(cidr_parse(rows[i].net, &c), 0);
                if (cidr_has(&c, rows[i].address) != rows[i].in)
                        fail_msg("%s in %s", rows[i].address, rows[i].net);
        }
}

static void refused(void **state)
{
        static const char *const bad[] = {
                "",          "host",        "10.0.0",      "10.0.0.0/33", "10.0.0.1/24", "::1/129",
                "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8x", "10.0.0.0/08", "fd00::1/8",   "10.0.0.0/8/8"};
        struct cidr c;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                if (cidr_parse(bad[i], &c) != -EINVAL)
                        fail_msg("accepted: %s", bad[i]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(who_is_in), cmocka_unit_test(refused)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
