/* test_inherited.c: sockets that came with the start are found by where they are bound. */
#include "net/inherited.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macros.h"

static char dir[64];

static int bound_at(const char *address, struct endpoint *ret, bool listens)
{
        struct endpoint at, bound = {.len = sizeof bound.addr};
        int fd;

        assert_int_equal(endpoint_parse(address, &at), 0);
        fd = socket(at.addr.sa.sa_family, SOCK_STREAM, 0);
        assert_true(fd >= 0);
        assert_int_equal(bind(fd, &at.addr.sa, at.len), 0);
        if (listens)
                assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(getsockname(fd, &bound.addr.sa, &bound.len), 0);
        *ret = endpoint_is_unix(&at) ? at : bound;
        return fd;
}

static void names(void **state)
{
        char buf[INHERITED_NAME_MAX], tiny[8];

        (void)state;
        assert_string_equal(inherited_name("127.0.0.1:8077", buf, sizeof buf), "lsv-127.0.0.1_8077");
        assert_string_equal(inherited_name("unix:/run/a b\n\x7f\xc3", buf, sizeof buf),
                            "lsv-unix__run_a_b___");
        assert_string_equal(inherited_name("127.0.0.1", tiny, sizeof tiny), "lsv-127");
}

static void by_address(void **state)
{
        struct endpoint one, two, other;
        struct inherited_socket s;
        struct inherited *in;
        int a, b;

        (void)state;
        assert_int_equal(inherited_new(&in), 0);
        a = bound_at("127.0.0.1:0", &one, true);
        b = bound_at("[::1]:0", &two, true);
        /* Names lie: each bears the other's. */
        assert_int_equal(inherited_add(in, a, INHERITED_STORE, "lsv-b"), 0);
        assert_int_equal(inherited_add(in, b, INHERITED_EXEC, "lsv-a"), 0);
        assert_int_equal(fcntl(a, F_GETFD), FD_CLOEXEC);
        assert_true(fcntl(a, F_GETFL) & O_NONBLOCK);
        other = one;
        other.addr.in.sin_port = (in_port_t)(one.addr.in.sin_port ^ 1);
        assert_false(inherited_take(in, &other, "lsv-b", &s));
        assert_true(inherited_take(in, &one, "lsv-x", &s));
        assert_int_equal(s.fd, a);
        assert_int_equal(s.from, INHERITED_STORE);
        assert_true(endpoint_equal(&s.at, &one));
        assert_false(inherited_take(in, &one, "lsv-b", &s));
        assert_true(inherited_take(in, &two, "", &s));
        assert_int_equal(s.from, INHERITED_EXEC);
        assert_false(inherited_take_any(in, &s));
        close(a);
        close(b);
        (void)inherited_free(in);
        assert_false(inherited_take(NULL, &one, "", &s));
}

/* Nobody knows which port the kernel chose: name and address together. */
static void any_port(void **state)
{
        struct endpoint bound, asked, elsewhere;
        struct inherited_socket s;
        struct inherited *in;

        (void)state;
        assert_int_equal(inherited_new(&in), 0);
        assert_int_equal(
                inherited_add(in, bound_at("127.0.0.1:0", &bound, true), INHERITED_STORE, "lsv-127.0.0.1_0"),
                0);
        assert_int_equal(endpoint_parse("127.0.0.1:0", &asked), 0);
        assert_int_equal(endpoint_parse("127.0.0.2:0", &elsewhere), 0);
        assert_false(inherited_take(in, &asked, "lsv-another", &s));
        assert_false(inherited_take(in, &elsewhere, "lsv-127.0.0.1_0", &s));
        assert_true(inherited_take(in, &asked, "lsv-127.0.0.1_0", &s));
        assert_true(endpoint_equal(&s.at, &bound));
        close(s.fd);
        (void)inherited_free(in);
}

static void by_path(void **state)
{
        struct inherited_socket s;
        struct inherited *in;
        struct endpoint at;
        char path[80];

        (void)state;
        (void)snprintf(path, sizeof path, "unix:%s/s", dir);
        assert_int_equal(inherited_new(&in), 0);
        assert_int_equal(inherited_add(in, bound_at(path, &at, true), INHERITED_EXEC, NULL), 0);
        assert_true(inherited_take(in, &at, "", &s));
        assert_int_equal(inherited_add(in, s.fd, INHERITED_EXEC, NULL), 0);
        /* Its file is gone: whoever connects there meets nobody. */
        assert_int_equal(unlink(path + strlen("unix:")), 0);
        assert_false(inherited_take(in, &at, "", &s));
        assert_true(inherited_take_any(in, &s));
        close(s.fd);
        (void)inherited_free(in);
}

static void of_a_unit(void **state)
{
        struct inherited_socket s;
        struct inherited *in;
        struct endpoint a, b;

        (void)state;
        assert_int_equal(inherited_new(&in), 0);
        assert_int_equal(inherited_add(in, bound_at("127.0.0.1:0", &a, true), INHERITED_STORE, "a"), 0);
        assert_int_equal(inherited_add(in, bound_at("127.0.0.1:0", &b, true), INHERITED_UNIT, "b"), 0);
        assert_true(inherited_take_unit(in, &s));
        assert_string_equal(s.name, "b");
        close(s.fd);
        assert_false(inherited_take_unit(in, &s));
        (void)inherited_free(in); /* closes the other */
}

static void what_is_none(void **state)
{
        int fds[4], pair[2];
        struct inherited *in;
        struct endpoint at;
        struct sockaddr_un abstract = {.sun_family = AF_UNIX};

        (void)state;
        assert_int_equal(inherited_new(&in), 0);
        fds[0] = bound_at("127.0.0.1:0", &at, false); /* does not listen */
        fds[1] = socket(AF_INET, SOCK_DGRAM, 0);
        fds[2] = open("/dev/null", O_RDONLY);
        fds[3] = socket(AF_UNIX, SOCK_STREAM, 0); /* without a name in the file system */
        (void)snprintf(abstract.sun_path + 1, sizeof abstract.sun_path - 1, "lsv-unit-%d", (int)getpid());
        assert_int_equal(bind(fds[3], (struct sockaddr *)&abstract, sizeof abstract), 0);
        assert_int_equal(listen(fds[3], 1), 0);
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                assert_int_equal(inherited_add(in, fds[i], INHERITED_UNIT, "x"), -EINVAL);
                assert_int_equal(fcntl(fds[i], F_GETFD), -1); /* closed all the same */
        }
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(inherited_add(in, pair[0], INHERITED_UNIT, "x"), -EINVAL);
        close(pair[1]);
        (void)inherited_free(in);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names),   cmocka_unit_test(by_address), cmocka_unit_test(any_port),
                cmocka_unit_test(by_path), cmocka_unit_test(of_a_unit),  cmocka_unit_test(what_is_none),
        };
        int r;

        (void)snprintf(dir, sizeof dir, "/tmp/lsv-inherited.XXXXXX");
        if (!mkdtemp(dir))
                return 1;
        r = cmocka_run_group_tests(tests, NULL, NULL);
        return rmdir(dir) < 0 ? 1 : r;
}
