/* test_channel.c: connections that go on in another protocol: what came right behind the request, deadlines, caps, and ends. */
#include "net/server_scene.h"

#define UPGRADE "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"

static const char switching[] =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

static struct scene *scene(const struct server_limits *limits, const char *address)
{
        struct scene *s = scene_new(limits, address);

        buffer_init(&s->came, 0);
        return s;
}

static void end(struct scene *s)
{
        buffer_finish(&s->came);
        scene_free(s);
}

static void wait_for_bytes(struct scene *s, size_t n)
{
        usec_t give_up = time_monotonic() + 20 * USEC_PER_SEC;

        while (s->came.len < n && time_monotonic() < give_up)
                run_for(s, 500);
        assert_int_equal(s->came.len, n);
}

static void put(struct scene *s, const char *text)
{
        struct iovec iov = {(void *)text, strlen(text)};

        assert_int_equal(channel_write(s->channel, &iov, 1), 0);
}

/* In one packet with it, behind an answer in front of it, and in packets of their own. */
static void both_ways(void **state)
{
        static const char *const rows[] = {UPGRADE, UPGRADE "frames",
                                           "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n" UPGRADE "frames"};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct scene *s = scene(NULL, NULL);
                int fd = client(s);
                size_t before = i ? 6 : 0;

                say(fd, rows[i]);
                hear(s, fd, switching);
                wait_for_bytes(s, before);
                if (before)
                        assert_string_equal(s->came.data, "frames");
                say(fd, "GET /hi HTTP/1.1\r\n\r\n"); /* is no HTTP any more */
                wait_for_bytes(s, before + 20);
                assert_int_equal(s->seen, i == 2 ? 2 : 1);
                forget(s);
                put(s, "an ");
                put(s, "answer");
                hear(s, fd, "an answer");
                assert_string_equal(s->heard, "an answer");
                assert_int_equal(server_counts(s->server)->connections, 1);
                close(fd);
                wait_for(s, &s->channel_gone, 1);
                assert_int_equal(s->channel_slow, 0);
                assert_int_equal(server_counts(s->server)->connections, 0);
                end(s);
        }
}

/* The owner decides later; what comes meanwhile waits. */
static void later(void **state)
{
        struct scene *s = scene(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nfra");
        wait_for(s, &s->n_reqs, 1);
        say(fd, "mes");
        run_for(s, 3000);
        assert_int_equal(request_upgrade(s->reqs[0], "Upgrade: x\r\n", &channel_events, s, &s->channel), 0);
        assert_int_equal(s->came.len, 0);
        assert_int_equal(request_upgrade(s->reqs[0], NULL, &channel_events, s, &s->channel), -EPIPE);
        wait_for_bytes(s, 6);
        assert_string_equal(s->came.data, "frames");
        hear(s, fd, switching);
        assert_int_equal(s->gone, 0);
        close(fd);
        wait_for(s, &s->channel_gone, 1);
        end(s);
}

static void what_cannot_be_upgraded(void **state)
{
        struct scene *s = scene(NULL, NULL);
        int fd = client(s), other = client(s);

        (void)state;
        say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_int_equal(request_upgrade(s->reqs[0], NULL, &channel_events, s, &s->channel), -EINVAL);
        say(other, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
        wait_for(s, &s->n_reqs, 2);
        assert_int_equal(request_upgrade(s->reqs[1], NULL, &channel_events, s, &s->channel), -EINVAL);
        assert_null(s->channel);
        request_respond(s->reqs[1], 400, NULL, NULL, "no", 2);
        hear(s, other, "\r\n\r\nno");
        close(fd);
        close(other);
        end(s);
}

/* The last word arrives, then the end; what the client still says is read and dropped. */
static void closed_by_the_owner(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 4; i++) {
                struct scene *s = scene(NULL, NULL);
                int fd = client(s);
                usec_t began;

                say(fd, UPGRADE);
                hear(s, fd, switching);
                forget(s);
                s->close_channel = i == 1;
                s->abort_channel = i == 2;
                put(s, "bye");
                if (i == 0)
                        s->channel = channel_close(s->channel);
                else if (i == 3)
                        s->channel = channel_abort(s->channel);
                else
                        say(fd, "end it");
                assert_false(hear(s, fd, NULL));
                assert_string_equal(s->heard, "bye");
                if (i < 2)
                        say(fd, "still here");
                assert_int_equal(s->channel_gone, 0);
                assert_null(s->channel);
                close(fd);
                began = time_monotonic();
                while (server_counts(s->server)->connections)
                        run_for(s, 1000);
                assert_true(time_monotonic() - began < USEC_PER_SEC);
                assert_int_equal(s->came.len, i == 1 || i == 2 ? 6 : 0);
                end(s);
        }
}

static void silent_for_long(void **state)
{
        struct server_limits limits = server_limits_default;
        struct scene *s;
        int fd;

        (void)state;
        limits.head_timeout = limits.idle_timeout = limits.body_grace = 30 * USEC_PER_MSEC;
        s = scene(&limits, NULL);
        fd = client(s);
        say(fd, UPGRADE);
        hear(s, fd, switching);
        run_for(s, 150 * USEC_PER_MSEC);
        assert_true(still_open(s, fd)); /* its heartbeat is the owner's business */
        say(fd, "x");
        wait_for_bytes(s, 1);
        close(fd);
        wait_for(s, &s->channel_gone, 1);
        end(s);
}

static void slow_and_frozen_readers(void **state)
{
        struct server_limits limits = server_limits_default;
        struct iovec iov = {big, sizeof big};
        struct scene *s;
        int fd;

        (void)state;
        limits.write_timeout = 100 * USEC_PER_MSEC;
        s = scene(&limits, NULL);
        fd = client(s);
        say(fd, UPGRADE);
        hear(s, fd, switching);
        forget(s);
        assert_int_equal(channel_write(s->channel, &iov, 1), 0);
        assert_true(channel_queued(s->channel) > 0);
        assert_int_equal(s->channel_drains, 0);
        while (s->heard_len < sizeof big) { /* a read now and then is enough */
                ssize_t n = recv(fd, s->heard + s->heard_len, 20000, MSG_DONTWAIT);

                assert_int_not_equal(n, 0);
                s->heard_len += n > 0 ? (size_t)n : 0;
                run_for(s, 10000);
        }
        wait_for(s, &s->channel_drains, 1);
        assert_int_equal(s->channel_gone, 0);
        assert_int_equal(channel_write(s->channel, &iov, 1), 0);
        wait_for(s, &s->channel_gone, 1);
        assert_int_equal(s->channel_slow, 1);
        assert_int_equal(server_counts(s->server)->timeouts_write, 1);
        close(fd);
        end(s);
}

/* The end of the listening concerns it no more than its owner wants; the end of the server does. */
static void ends_of_the_server(void **state)
{
        struct scene *s = scene(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, UPGRADE);
        hear(s, fd, switching);
        server_stop_listening(s->server);
        assert_true(still_open(s, fd));
        say(fd, "x");
        wait_for_bytes(s, 1);
        s->server = server_free(s->server);
        assert_int_equal(s->channel_gone, 1);
        forget(s);
        assert_false(hear(s, fd, NULL));
        close(fd);
        end(s);
}

static bool own_address(struct in_addr *ret)
{
        struct ifaddrs *all;
        bool found = false;

        if (getifaddrs(&all) < 0)
                return false;
        for (struct ifaddrs *a = all; a && !found; a = a->ifa_next)
                if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET && !(a->ifa_flags & IFF_LOOPBACK) &&
                    (a->ifa_flags & IFF_UP)) {
                        *ret = ((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr;
                        found = true;
                }
        freeifaddrs(all);
        return found;
}

/* An address that has its share of channels gets no further connection. */
static void count_against_their_address(void **state)
{
        struct server_limits limits = server_limits_default;
        struct in_addr own;
        struct scene *s;
        int fds[3];

        (void)state;
        if (!own_address(&own)) {
                skip();
                return;
        }
        limits.per_address_max = 2;
        s = scene(&limits, "0.0.0.0:0");
        s->at.addr.in.sin_addr = own;
        for (unsigned i = 0; i < 2; i++) {
                fds[i] = client(s);
                say(fds[i], UPGRADE);
                forget(s);
                hear(s, fds[i], switching);
        }
        fds[2] = client(s);
        forget(s);
        assert_false(hear(s, fds[2], NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 503 "));
        assert_int_equal(server_counts(s->server)->refused_address, 1);
        close(fds[2]);
        close(fds[0]);
        wait_for(s, &s->channel_gone, 1);
        fds[0] = client(s);
        say(fds[0], UPGRADE);
        forget(s);
        hear(s, fds[0], switching);
        close(fds[0]);
        close(fds[1]);
        wait_for(s, &s->channel_gone, 3);
        end(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(both_ways),
                cmocka_unit_test(later),
                cmocka_unit_test(what_cannot_be_upgraded),
                cmocka_unit_test(closed_by_the_owner),
                cmocka_unit_test(silent_for_long),
                cmocka_unit_test(slow_and_frozen_readers),
                cmocka_unit_test(ends_of_the_server),
                cmocka_unit_test(count_against_their_address),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
