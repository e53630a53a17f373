/* test_server_life.c: streamed answers, clients that go, deadlines, and the ends of the server. */
#include "net/server_scene.h"

/* --- streamed answers --------------------------------------------------------------------------------------------- */

static void streamed(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_int_equal(request_read_body(s->reqs[0], 100, on_body, s), -EINVAL);
        hear(s, fd, "\r\n\r\n"); /* the head does not wait for the first write */
        assert_int_equal(request_write(s->reqs[0], "one", 3), 0);
        assert_int_equal(request_write(s->reqs[0], "", 0), 0);
        assert_int_equal(request_write(s->reqs[0], "seventeen letters", 17), 0);
        request_end(s->reqs[0]);
        hear(s, fd, "0\r\n\r\n");
        assert_string_equal(
                s->heard,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                "3\r\none\r\n11\r\nseventeen letters\r\n0\r\n\r\n");

        forget(s);
        say(fd, "HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 2);
        assert_int_equal(request_write(s->reqs[1], "one", 3), 0);
        request_end(s->reqs[1]);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        assert_true(starts_with(s->heard,
                                "HTTP/1.1 200 OK\r\nContent-Type: "
                                "text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200"));
        close(fd);

        forget(s);
        fd = client(s);
        say(fd, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        wait_for(s, &s->n_reqs, 3);
        assert_int_equal(request_write(s->reqs[2], "one", 3), 0);
        request_end(s->reqs[2]);
        assert_false(hear(s, fd, NULL));
        assert_string_equal(
                s->heard,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\none");
        assert_int_equal(s->gone, 0);
        close(fd);
        scene_free(s);
}

/* Head and first body travel in one segment. */
static void one_write_for_head_and_body(void **state)
{
        static const char *const requests[] = {"GET /hi HTTP/1.1\r\nHost: a\r\n\r\n",
                                               "GET /later HTTP/1.1\r\nHost: a\r\n\r\n"};

        (void)state;
        for (unsigned i = 0; i < 2; i++) {
                struct scene *s = scene_new(NULL, "127.0.0.1:0");
                struct tcp_info info;
                socklen_t len = sizeof info;
                int fd = client(s);

                say(fd, requests[i]);
                if (i == 1) {
                        wait_for(s, &s->n_reqs, 1);
                        request_begin(s->reqs[0], 200, NULL, NULL);
                        assert_int_equal(request_write(s->reqs[0], "hi", 2), 0);
                }
                hear(s, fd, "hi");
                assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
                assert_int_equal(info.tcpi_data_segs_in, 1);
                assert_false(i == 1 && !still_open(s, fd));
                assert_int_equal(recv(fd, s->heard, sizeof s->heard, MSG_DONTWAIT), -1);
                close(fd);
                run_for(s, 3000);
                scene_free(s);
        }
}

static void slow_reader(void **state)
{
        struct server_limits limits = server_limits_default;
        size_t queued_max = 0, taken = 0, got = 0;
        struct scene *s;
        int fd, r = 0;

        (void)state;
        limits.write_buffer_max = 100000;
        s = scene_new(&limits, NULL);
        fd = client(s);
        say(fd, "GET /stream HTTP/1.0\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        request_on_drain(s->reqs[0], on_drain, s);
        for (unsigned i = 0; i < 1000; i++) {
                r = request_write(s->reqs[0], big, 10000);
                if (r < 0)
                        break;
                taken += 10000;
                queued_max = MAX(queued_max, request_queued(s->reqs[0]));
        }
        assert_int_equal(r, -ENOBUFS);
        assert_in_range(queued_max, 80000, 100200);
        assert_int_equal(request_write(s->reqs[0], big, 10000), -ENOBUFS);
        run_for(s, 5000);
        assert_int_equal(s->drains, 0);
        while (!s->drains) {
                ssize_t n = recv(fd, s->heard, sizeof s->heard, MSG_DONTWAIT);

                got += n > 0 ? (size_t)n : 0;
                run_for(s, 200);
        }
        assert_int_equal(request_queued(s->reqs[0]), 0);
        /* One piece larger than the bound is taken when nothing waits. */
        assert_int_equal(request_write(s->reqs[0], big, 300000), 0);
        assert_int_equal(request_write(s->reqs[0], "x", 1), -ENOBUFS);
        taken += 300000;
        request_end(s->reqs[0]);
        for (;;) {
                ssize_t n = recv(fd, s->heard, sizeof s->heard, MSG_DONTWAIT);

                if (n == 0)
                        break;
                got += n > 0 ? (size_t)n : 0;
                run_for(s, 200);
        }
        assert_in_range(got, taken + 20, taken + 200);
        assert_int_equal(s->gone, 0);
        close(fd);
        scene_free(s);
}

/* What is written while older bytes still wait comes behind them, even if the socket had room again. */
static void order_under_pressure(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        char block[10000];
        ssize_t n;

        (void)state;
        say(fd, "GET /stream HTTP/1.0\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        for (unsigned i = 0; i < 60 && request_queued(s->reqs[0]) < 30000; i++) {
                memset(block, 'A' + (int)i, sizeof block);
                assert_int_equal(request_write(s->reqs[0], block, sizeof block), 0);
        }
        assert_true(request_queued(s->reqs[0]) >= 30000);
        while ((n = recv(fd, s->heard + s->heard_len, 4096, MSG_DONTWAIT)) > 0)
                s->heard_len += (size_t)n;
        assert_int_equal(request_write(s->reqs[0], "~", 1), 0);
        request_end(s->reqs[0]);
        assert_false(hear(s, fd, NULL));
        for (size_t i = (size_t)(strstr(s->heard, "\r\n\r\n") + 5 - s->heard); i < s->heard_len; i++)
                assert_true(s->heard[i] >= s->heard[i - 1]);
        assert_int_equal(s->heard[s->heard_len - 1], '~');
        close(fd);
        scene_free(s);
}

static void aborted(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        int fd = client(s);

        (void)state;
        say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_int_equal(request_write(s->reqs[0], "half", 4), 0);
        hear(s, fd, "half\r\n");
        request_abort(s->reqs[0]);
        assert_false(hear(s, fd, NULL));
        assert_null(strstr(s->heard, "0\r\n\r\n"));
        close(fd);

        /* An answer that ends with the connection must not end well. */
        fd = client(s);
        forget(s);
        say(fd, "GET /stream HTTP/1.0\r\n\r\n");
        wait_for(s, &s->n_reqs, 2);
        assert_int_equal(request_write(s->reqs[1], "half", 4), 0);
        hear(s, fd, "half");
        request_abort(s->reqs[1]);
        run_for(s, 5000);
        assert_int_equal(recv(fd, s->heard, 1, MSG_DONTWAIT), -1);
        assert_int_equal(errno, ECONNRESET);
        close(fd);

        fd = client(s);
        say(fd, "GET /abort HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        assert_false(hear(s, fd, NULL));
        assert_string_equal(s->heard, "");
        close(fd);
        assert_int_equal(s->gone, 0);
        scene_free(s);
}

/* --- clients that go ---------------------------------------------------------------------------------------------- */

static void client_goes(void **state)
{
        static const char *const requests[] = {
                "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /later HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc",
        };
        struct linger reset = {.l_onoff = 1};

        (void)state;
        for (unsigned how = 0; how < 3; how++)
                for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
                        struct scene *s = scene_new(NULL, "127.0.0.1:0");
                        int fd = client(s);
                        usec_t began;

                        say(fd, requests[i]);
                        wait_for(s, &s->seen, 1);
                        run_for(s, 2000);
                        assert_int_equal(s->gone, 0);
                        began = time_monotonic();
                        if (how == 0) {
                                assert_int_equal(shutdown(fd, SHUT_WR), 0);
                        } else {
                                if (how == 1)
                                        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
                                close(fd);
                        }
                        wait_for(s, &s->gone, 1);
                        assert_true(time_monotonic() - began < 500 * USEC_PER_MSEC);
                        assert_int_equal(server_counts(s->server)->clients_gone, 1);
                        assert_int_equal(server_counts(s->server)->connections, 0);
                        if (how == 0)
                                close(fd);
                        run_for(s, 2000);
                        assert_int_equal(s->gone, 1);
                        scene_free(s);
                }
}

/* Pipelined bytes pause the reading; the end of the client is still seen, and at once when something is written. */
static void client_goes_behind_a_full_pipeline(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 2; i++) {
                struct scene *s = scene_new(NULL, NULL);
                int fd = client(s);
                usec_t began;

                say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
                wait_for(s, &s->n_reqs, 1);
                for (unsigned j = 0; j < 400; j++) {
                        (void)send(fd, big, 4096, MSG_NOSIGNAL | MSG_DONTWAIT);
                        run_for(s, 100);
                }
                close(fd);
                began = time_monotonic();
                if (i == 1)
                        assert_int_equal(request_write(s->reqs[0], "x", 1), -EPIPE);
                wait_for(s, &s->gone, 1);
                if (i == 1)
                        assert_true(time_monotonic() - began < 300 * USEC_PER_MSEC);
                scene_free(s);
        }
}

/* A client that shut its sending side and then goes for good does not keep its answer waiting. */
static void half_closed_client_goes(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        usec_t began;

        (void)state;
        say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->seen, 1);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        run_for(s, 5000);
        assert_int_equal(server_counts(s->server)->connections, 1);
        close(fd);
        began = time_monotonic();
        while (server_counts(s->server)->connections) {
                run_for(s, 1000);
                assert_true(time_monotonic() - began < 5 * USEC_PER_SEC);
        }
        scene_free(s);
}

/* The owner writes to a client that has just gone, before the loop has told. */
static void write_meets_a_gone_client(void **state)
{
        struct linger reset = {.l_onoff = 1};
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        int fd = client(s), r = 0;

        (void)state;
        say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        run_for(s, 2000);
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
        for (unsigned i = 0; i < 10 && r == 0; i++)
                r = request_write(s->reqs[0], "x", 1);
        assert_int_equal(r, -EPIPE);
        assert_int_equal(s->gone, 0);
        wait_for(s, &s->gone, 1);
        run_for(s, 2000);
        assert_int_equal(s->gone, 1);
        scene_free(s);
}

/* The owner goes on writing until it is told: it must not write into somebody else's request. */
static void a_head_that_cannot_be_sent(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        int fd = client(s);

        (void)state;
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        request_begin(s->reqs[0], 200, NULL, "X: a\001b\r\n");
        (void)request_write(s->reqs[0], "never", 5);
        assert_int_equal(s->gone, 0); /* not from inside */
        hear(s, fd, "HTTP/1.1 500 ");
        wait_for(s, &s->gone, 1);
        assert_ptr_equal(s->gone_req, s->reqs[0]);
        assert_null(strstr(s->heard, "never"));
        close(fd);
        run_for(s, 2000);
        assert_int_equal(s->gone, 1);
        scene_free(s);
}

/* Client and upstream fall in one batch of events: whoever is told first, nothing freed is touched. */
static void client_and_upstream_go_together(void **state)
{
        (void)state;
        for (unsigned order = 0; order < 4; order++) {
                struct scene *s = scene_new(NULL, NULL);
                int pair[2], peer, fd;
                struct endpoint back;
                char path[128], request[256];

                (void)snprintf(path, sizeof path, "%s/back", s->dir);
                assert_int_equal(endpoint_from_unix(path, &back), 0);
                pair[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                assert_int_equal(bind(pair[0], &back.addr.sa, back.len), 0);
                assert_int_equal(listen(pair[0], 4), 0);
                assert_int_equal(upstream_new(s->loop, &back, 1, &s->up), 0);
                fd = client(s);
                say(fd, "GET /relay HTTP/1.1\r\nHost: a\r\n\r\n");
                wait_for(s, &s->n_reqs, 1);
                run_for(s, 2000);
                peer = accept4(pair[0], NULL, NULL, SOCK_CLOEXEC);
                assert_true(peer >= 0);
                assert_true(recv(peer, request, sizeof request, 0) > 0);
                if (order & 2)
                        say(peer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                if (order & 1) {
                        close(fd);
                        close(peer);
                } else {
                        close(peer);
                        close(fd);
                }
                run_for(s, 5000);
                assert_int_equal(s->gone + s->exchanges_done >= 1, 1);
                assert_true(s->gone <= 1 && s->exchanges_done <= 1);
                assert_int_equal(server_counts(s->server)->connections, 0);
                close(pair[0]);
                (void)unlink(path);
                scene_free(s);
        }
}

/* --- deadlines ---------------------------------------------------------------------------------------------------- */

static struct server_limits quick(void)
{
        struct server_limits limits = server_limits_default;

        limits.head_timeout = 100 * USEC_PER_MSEC;
        limits.idle_timeout = 100 * USEC_PER_MSEC;
        limits.write_timeout = 100 * USEC_PER_MSEC;
        limits.body_grace = 100 * USEC_PER_MSEC;
        limits.body_window = 100 * USEC_PER_MSEC;
        limits.body_rate = 1000;
        return limits;
}

static void dripping_head(void **state)
{
        struct server_limits limits = quick();
        struct scene *s;
        usec_t began;
        int fd;

        (void)state;
        limits.idle_timeout = 20 * USEC_PER_SEC;
        s = scene_new(&limits, NULL);
        fd = client(s);
        /* Silence before the first byte is not a slow head. */
        run_for(s, 150000);
        assert_true(still_open(s, fd));
        began = time_monotonic();
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\nA: ");
        while (still_open(s, fd)) {
                assert_true(time_monotonic() - began < 5 * USEC_PER_SEC);
                say(fd, "a");
        }
        assert_true(time_monotonic() - began >= 100 * USEC_PER_MSEC);
        assert_false(hear(s, fd, NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 408 "));
        assert_int_equal(server_counts(s->server)->timeouts_head, 1);
        assert_int_equal(s->seen, 0);
        close(fd);

        /* A head that began while the request before it was being answered counts from that answer on. */
        fd = client(s);
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HT");
        wait_for(s, &s->n_reqs, 1);
        run_for(s, 200000);
        request_respond(s->reqs[0], 200, NULL, NULL, "ok", 2);
        run_for(s, 20000);
        say(fd, "TP/1.1\r\nHost: a\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        assert_int_equal(server_counts(s->server)->timeouts_head, 1);
        close(fd);
        scene_free(s);
}

static void idle_connections(void **state)
{
        struct server_limits limits = quick();
        struct scene *s = scene_new(&limits, NULL);
        int fd = client(s);
        usec_t began = time_monotonic();

        (void)state;
        assert_false(hear(s, fd, NULL));
        assert_string_equal(s->heard, "");
        assert_in_range(time_monotonic() - began, 100 * USEC_PER_MSEC, 5 * USEC_PER_SEC);
        assert_int_equal(server_counts(s->server)->timeouts_idle, 1);
        close(fd);

        fd = client(s);
        run_for(s, 60000);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        began = time_monotonic();
        assert_false(hear(s, fd, NULL));
        assert_in_range(time_monotonic() - began, 90 * USEC_PER_MSEC, 5 * USEC_PER_SEC);
        assert_int_equal(server_counts(s->server)->timeouts_idle, 2);
        close(fd);

        /* A head that came in two pieces leaves no deadline behind. */
        limits.idle_timeout = 20 * USEC_PER_SEC;
        scene_free(s);
        s = scene_new(&limits, NULL);
        fd = client(s);
        say(fd, "GET /hi HT");
        run_for(s, 10000);
        say(fd, "TP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fd, "\r\n\r\nhi");
        run_for(s, 200000);
        assert_true(still_open(s, fd));
        close(fd);

        /* A request that is being answered may take as long as it likes. */
        fd = client(s);
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        run_for(s, 300000);
        assert_int_equal(s->gone, 0);
        request_respond(s->reqs[0], 200, NULL, NULL, "ok", 2);
        forget(s);
        hear(s, fd, "\r\n\r\nok");
        assert_int_equal(server_counts(s->server)->timeouts_idle, 0);
        close(fd);
        scene_free(s);
}

static void slow_body(void **state)
{
        struct server_limits limits = quick();
        struct scene *s = scene_new(&limits, NULL);
        int fd = client(s);
        usec_t began = time_monotonic();

        (void)state;
        /* 20 bytes in 100 ms where 100 are asked for, after 100 ms of grace. */
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n");
        while (!s->gone) {
                assert_true(time_monotonic() - began < 5 * USEC_PER_SEC);
                (void)send(fd, "x", 1, MSG_NOSIGNAL);
                run_for(s, 5000);
        }
        assert_true(time_monotonic() - began >= 200 * USEC_PER_MSEC);
        assert_false(hear(s, fd, NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 408 "));
        assert_int_equal(server_counts(s->server)->timeouts_body, 1);
        close(fd);

        /* Nobody wants the body, and it does not come: it had its answer, so the end is silent. */
        fd = client(s);
        forget(s);
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        assert_false(hear(s, fd, NULL));
        assert_int_equal(count(s->heard, "HTTP/1.1"), 1);
        assert_int_equal(server_counts(s->server)->timeouts_body, 2);
        close(fd);
        scene_free(s);
}

/* Each body has a grace of its own, also one that nobody wants. */
static void next_body_has_its_grace(void **state)
{
        struct server_limits limits = quick();
        struct scene *s;
        int fd;

        (void)state;
        limits.idle_timeout = 20 * USEC_PER_SEC;
        limits.body_grace = 50 * USEC_PER_MSEC;
        limits.body_window = USEC_PER_SEC;
        limits.body_rate = 100;
        s = scene_new(&limits, NULL);
        fd = client(s);
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n");
        say_n(fd, big, 899);
        run_for(s, 100000);
        say_n(fd, big, 1);
        wait_for(s, &s->bodies, 1);
        run_for(s, 1200000); /* the first body's window would have ended, and nearly empty */
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        run_for(s, 20000);
        say_n(fd, big, 900);
        say(fd, "GET /echo-query?last HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(s, fd, "\r\n\r\nlast");
        assert_int_equal(server_counts(s->server)->timeouts_body, 0);
        close(fd);
        scene_free(s);
}

/* Slow, but above the floor. */
static void body_above_the_floor(void **state)
{
        struct server_limits limits = quick();
        struct scene *s;
        int fd;

        (void)state;
        limits.body_rate = 20;
        s = scene_new(&limits, NULL);
        fd = client(s);
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 80\r\n\r\n");
        for (unsigned i = 0; i < 80; i++) {
                say(fd, "x");
                run_for(s, 5000);
        }
        hear(s, fd, "xxx");
        assert_int_equal(s->bodies, 1);
        assert_int_equal(server_counts(s->server)->timeouts_body, 0);
        close(fd);
        scene_free(s);
}

/* Many who ask for much and read nothing: what waits for them is bounded in sum; who reads is served again when they go. */
static void frozen_readers_in_sum(void **state)
{
        struct server_limits limits = server_limits_default;
        struct scene *s;
        int fds[8];
        unsigned n = 0;

        (void)state;
        limits.queued_max = 1024 * 1024;
        s = scene_new(&limits, NULL);
        while (n < ARRAY_SIZE(fds) && server_counts(s->server)->refused_queued == 0) {
                usec_t until = time_monotonic() + 10 * USEC_PER_SEC;
                uint64_t requests = server_counts(s->server)->requests;

                fds[n] = client(s);
                say(fds[n++], "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
                while (server_counts(s->server)->requests == requests &&
                       server_counts(s->server)->refused_queued == 0) {
                        run_for(s, 1000);
                        assert_true(time_monotonic() < until);
                }
        }
        assert_int_equal(server_counts(s->server)->refused_queued, 1);
        while (n > 0)
                close(fds[--n]);
        while (server_counts(s->server)->connections)
                run_for(s, 1000);
        fds[0] = client(s);
        say(fds[0], "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        run_for(s, 20000);
        assert_int_equal(server_counts(s->server)->refused_queued, 1);
        close(fds[0]);
        scene_free(s);
}

static void frozen_reader(void **state)
{
        struct server_limits limits = quick();

        (void)state;
        for (unsigned i = 0; i < 3; i++) {
                struct scene *s = scene_new(&limits, NULL);
                int fd = client(s);
                usec_t began =
                        time_monotonic(); /* before the deadline's own begin, which may be any time after */

                if (i == 0) {
                        say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
                        wait_for(s, &s->seen, 1);
                } else {
                        say(fd, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
                        wait_for(s, &s->n_reqs, 1);
                        assert_int_equal(request_write(s->reqs[0], big, sizeof big), 0);
                }
                while (server_counts(s->server)->connections) {
                        run_for(s, 1000);
                        /* What is written on top is no sign of life. */
                        if (i == 2 && !s->gone)
                                (void)request_write(s->reqs[0], "x", 1);
                        assert_true(time_monotonic() - began < 5 * USEC_PER_SEC);
                }
                assert_true(time_monotonic() - began >= 99 * USEC_PER_MSEC);
                assert_int_equal(server_counts(s->server)->timeouts_write, 1);
                assert_int_equal(s->gone, i > 0);
                close(fd);
                scene_free(s);
        }
}

/* A reader that takes a little at a time is slow, not frozen. */
static void trickling_reader(void **state)
{
        struct server_limits limits = quick();
        struct scene *s = scene_new(&limits, NULL);
        int fd = client(s);
        size_t got = 0;

        (void)state;
        say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        while (got < BIG) {
                ssize_t n = recv(fd, s->heard, 20000, MSG_DONTWAIT);

                assert_int_not_equal(n, 0);
                got += n > 0 ? (size_t)n : 0;
                run_for(s, 15000);
        }
        assert_int_equal(server_counts(s->server)->timeouts_write, 0);
        close(fd);
        scene_free(s);
}

/* --- ends of the server ------------------------------------------------------------------------------------------- */

static void stop_listening(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int idle = client(s), busy = client(s), late;

        (void)state;
        say(busy, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        server_stop_listening(s->server);
        assert_false(hear(s, idle, NULL));
        assert_string_equal(s->heard, "");
        late = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(late, &s->at.addr.sa, s->at.len), -1);
        close(late);
        assert_int_equal(s->gone, 0);
        request_respond(s->reqs[0], 200, NULL, NULL, "done", 4);
        assert_false(hear(s, busy, NULL));
        assert_non_null(strstr(s->heard, "Connection: close\r\n\r\ndone"));
        close(idle);
        close(busy);
        scene_free(s);
}

static void server_freed_with_open_requests(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fds[4];

        (void)state;
        for (unsigned i = 0; i < 4; i++)
                fds[i] = client(s);
        say(fds[0], "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HTTP/1.1\r\n");
        say(fds[1], "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        say(fds[2], "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc");
        say(fds[3], "GET /hi HT");
        wait_for(s, &s->seen, 3);
        s->server = server_free(s->server);
        assert_int_equal(s->gone, 3);
        for (unsigned i = 0; i < 4; i++) {
                forget(s);
                assert_false(hear(s, fds[i], NULL));
                close(fds[i]);
        }
        assert_int_equal(s->gone, 3);
        assert_null(server_free(NULL));
        scene_free(s);
}

static void server_freed_from_its_callbacks(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s), other = client(s);

        (void)state;
        say(other, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        say(fd, "GET /free HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        assert_null(s->server);
        assert_int_equal(s->gone, 1);
        close(fd);
        close(other);
        scene_free(s);

        s = scene_new(NULL, NULL);
        fd = client(s);
        other = client(s);
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        say(other, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 2);
        s->free_in_gone = true;
        close(fd);
        wait_for(s, &s->gone, 2);
        assert_null(s->server);
        close(other);
        scene_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(streamed),
                cmocka_unit_test(one_write_for_head_and_body),
                cmocka_unit_test(slow_reader),
                cmocka_unit_test(order_under_pressure),
                cmocka_unit_test(aborted),
                cmocka_unit_test(client_goes),
                cmocka_unit_test(client_goes_behind_a_full_pipeline),
                cmocka_unit_test(half_closed_client_goes),
                cmocka_unit_test(write_meets_a_gone_client),
                cmocka_unit_test(a_head_that_cannot_be_sent),
                cmocka_unit_test(client_and_upstream_go_together),
                cmocka_unit_test(dripping_head),
                cmocka_unit_test(idle_connections),
                cmocka_unit_test(slow_body),
                cmocka_unit_test(next_body_has_its_grace),
                cmocka_unit_test(body_above_the_floor),
                cmocka_unit_test(frozen_readers_in_sum),
                cmocka_unit_test(frozen_reader),
                cmocka_unit_test(trickling_reader),
                cmocka_unit_test(stop_listening),
                cmocka_unit_test(server_freed_with_open_requests),
                cmocka_unit_test(server_freed_from_its_callbacks),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
