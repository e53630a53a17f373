/* test_nats_conf.c: where a nats.conf says that clients connect: ours, and those that people wrote. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/nats_conf.h"

static void ours_is_read_again(void **state)
{
        static const char *const listens[][2] = {{"0.0.0.0:4222", "127.0.0.1:4222"},
                                                 {"127.0.0.1:5000", "127.0.0.1:5000"},
                                                 {"[::]:4222", "[::1]:4222"},
                                                 {"10.0.0.5:4222", "10.0.0.5:4222"}};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(listens); i++) {
                const struct nats_conf conf = {.server_name = "hub",
                                               .listen = listens[i][0],
                                               .store_dir = "/var/lib/nats",
                                               .pid_file = "/run/nats.pid",
                                               .users_file = "users.conf",
                                               .tls_cert = "/etc/a.pem",
                                               .tls_key = "/etc/a.key"};
                _cleanup_buffer_ struct buffer text = {0};
                char address[300];

                buffer_init(&text, 0);
                nats_conf_print(&conf, &text);
                assert_int_equal(nats_conf_address(text.data, text.len, address, sizeof(address)), 0);
                assert_string_equal(address, listens[i][1]);
        }
}

static void what_people_write_is_understood_or_refused(void **state)
{
        static const struct {
                const char *text, *address; /* NULL: refused */
        } all[] = {
                {"listen: 4333", "127.0.0.1:4333"},
                {"listen = hub:4333 # x\n", "hub:4333"},
                {"listen '0.0.0.0:4333'\r\n", "127.0.0.1:4333"},
                {"port: 4333\nhost: \"10.0.0.1\"\n", "10.0.0.1:4333"},
                {"net: 10.0.0.1\n", "10.0.0.1:4222"},
                {"host: ::1\nport: 9", "[::1]:9"},
                {"host: \"::\"", "[::1]:4222"},
                {"listen: \"[fe80::1]:4333\"", "[fe80::1]:4333"},
                {"listen: \"10.0.0.1:$PORT\"", NULL},
                {"", NULL},
                {"# listen: \"x:1\"\nserver_name: a", NULL},
                {"cluster {\n  listen: \"0.0.0.0:6222\"\n}\n", NULL},
                {"cluster { name: \"}\" # }\n  listen: \"0.0.0.0:6222\"\n}\nlisten: 5\n", "127.0.0.1:5"},
                {"listening: 5\n", NULL},
                {"listen:", NULL},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
                char address[300] = "";
                int r = nats_conf_address(all[i].text, strlen(all[i].text), address, sizeof(address));

                assert_int_equal(r == 0, all[i].address != NULL);
                if (all[i].address)
                        assert_string_equal(address, all[i].address);
        }
        {
                char small[8] = "";

                assert_int_equal(
                        nats_conf_address("listen: \"hub.example.org:4222\"", 30, small, sizeof(small)),
                        -ENAMETOOLONG);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(ours_is_read_again),
                cmocka_unit_test(what_people_write_is_understood_or_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
