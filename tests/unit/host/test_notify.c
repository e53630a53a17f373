/* test_notify.c: what systemd hears, on a socket of our own. */
#include "host/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/macros.h"

static const char *hear(int fd)
{
        static char text[1024];
        ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);

        text[MAX(n, 0)] = '\0';
        return text;
}

static void test_messages(void **state)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        char dir[] = "/tmp/lsv-notify.XXXXXX", pid[16];
        const char *text;
        usec_t before, said, interval = 0;
        int fd;

        (void)state;
        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        assert_false(notify_is_on());
        notify_ready(); /* nobody listens, nothing happens */
        assert_false(notify_is_watchdog_on(&interval));

        assert_non_null(mkdtemp(dir));
        (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s/notify", dir);
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
        assert_int_equal(setenv("NOTIFY_SOCKET", addr.sun_path, 1), 0);
        assert_true(notify_is_on());
        notify_ready();
        assert_string_equal(hear(fd), "READY=1");
        notify_status("2/3 ready\nMAINPID=1");
        assert_string_equal(hear(fd), "STATUS=2/3 ready?MAINPID=1");
        before = time_monotonic();
        notify_reloading();
        text = hear(fd);
        assert_true(starts_with(text, "RELOADING=1\nMONOTONIC_USEC="));
        said = strtoull(strrchr(text, '=') + 1, NULL, 10);
        assert_true(said >= before && said <= time_monotonic());
        notify_stopping();
        assert_string_equal(hear(fd), "STOPPING=1");
        notify_watchdog();
        assert_string_equal(hear(fd), "WATCHDOG=1");
        notify_extend_timeout(30 * USEC_PER_SEC);
        assert_string_equal(hear(fd), "EXTEND_TIMEOUT_USEC=30000000");

        (void)snprintf(pid, sizeof pid, "%d", (int)getpid());
        assert_int_equal(setenv("WATCHDOG_USEC", "5000000", 1), 0);
        assert_int_equal(setenv("WATCHDOG_PID", pid, 1), 0);
        assert_true(notify_is_watchdog_on(&interval));
        assert_int_equal(interval, 5 * USEC_PER_SEC);
        assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0); /* meant for another process */
        assert_false(notify_is_watchdog_on(&interval));
        unsetenv("NOTIFY_SOCKET");
        unsetenv("WATCHDOG_USEC");
        unsetenv("WATCHDOG_PID");
        assert_int_equal(close(fd), 0);
        assert_int_equal(unlink(addr.sun_path), 0);
        assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(test_messages)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
