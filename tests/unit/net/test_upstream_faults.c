/* test_upstream_faults.c: what servers do wrong, and exchanges that are cancelled. */
#include "net/upstream_scene.h"

/* --- what servers do wrong -------------------------------------------------------------------------------------- */

static void nobody_there(void **state)
{
        struct scene s;

        (void)state;
        scene_init_quiet(&s, 1);
        start(&s, NULL);
        finish(&s, EXCHANGE_REFUSED); /* no socket file */
        assert_int_equal(s.answer.error, -ENOENT);
        assert_int_equal(s.answer.status, 0);
        assert_int_equal(s.answer.connected_after, 0);
        listen_unix(&s, 1);
        close(s.listener);
        s.listener = -1;
        start(&s, NULL);
        finish(&s, EXCHANGE_REFUSED); /* a stale one */
        assert_int_equal(s.answer.error, -ECONNREFUSED);
        assert_int_equal(upstream_counts(s.up)->failures, 2);
        scene_finish(&s);
}

/* A backlog of one that nobody accepts from. */
static void full_backlog(void **state)
{
        struct exchange_spec spec = plain();
        int fillers[4];
        struct scene s;
        char request[512];

        (void)state;
        scene_init_quiet(&s, 1);
        listen_unix(&s, 0);
        for (unsigned i = 0; i < ARRAY_SIZE(fillers); i++) {
                fillers[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                (void)connect(fillers[i], &s.at.addr.sa, s.at.len);
        }
        spec.connect_timeout = 60000;
        start(&s, &spec);
        finish(&s, EXCHANGE_TIMEOUT_CONNECT);
        assert_in_range(time_monotonic() - s.began, 60000, 10 * USEC_PER_SEC);

        /* Once there is room, the waiting connect gets in. */
        start(&s, NULL);
        run_for(&s, 10000);
        assert_int_equal(s.done, 1);
        for (unsigned i = 0; i < ARRAY_SIZE(fillers); i++)
                close(fillers[i]);
        for (;;) {
                s.peer = accept4(s.listener, NULL, NULL, SOCK_CLOEXEC);
                assert_true(s.peer >= 0);
                run_for(&s, 200000);
                if (recv(s.peer, request, sizeof request, MSG_DONTWAIT) > 0)
                        break;
                hang_up(&s);
        }
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        scene_finish(&s);
}

static void silence_in_every_phase(void **state)
{
        static const struct {
                const char *said;
                enum exchange_result result;
                int status;
        } rows[] = {
                {"", EXCHANGE_TIMEOUT_FIRST, 0},
                {"HTTP/1.1 2", EXCHANGE_TIMEOUT, 0},
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", EXCHANGE_TIMEOUT, 200},
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", EXCHANGE_TIMEOUT, 200},
                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", EXCHANGE_TIMEOUT, 200},
                {"HTTP/1.1 200 OK\r\n\r\nabc", EXCHANGE_TIMEOUT, 200},
        };
        char request[512];
        struct scene s;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct exchange_spec spec = plain();

                scene_init(&s, 1);
                spec.first_timeout = 60000;
                spec.timeout = rows[i].said[0] ? 120000 : 20 * USEC_PER_SEC;
                start(&s, &spec);
                take(&s, request, sizeof request);
                if (rows[i].said[0])
                        answer(&s, rows[i].said);
                finish(&s, rows[i].result);
                assert_int_equal(s.answer.status, rows[i].status);
                assert_int_equal(s.answer.bytes, strlen(rows[i].said));
                assert_in_range(time_monotonic() - s.began, rows[i].said[0] ? 120000 : 60000,
                                10 * USEC_PER_SEC);
                assert_int_equal(s.answer.done_after, 0);
                assert_true(peer_sees_end(&s));
                scene_finish(&s);
        }
}

/* A head that drips does not push its deadline out. */
static void dripping_head(void **state)
{
        struct exchange_spec spec = plain();
        char request[512];
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        spec.timeout = 100000;
        spec.first_timeout = 0;
        start(&s, &spec);
        take(&s, request, sizeof request);
        answer(&s, "HTTP/1.1 200 OK\r\nA: ");
        while (!s.done) {
                assert_true(time_monotonic() - s.began < 10 * USEC_PER_SEC);
                if (send(s.peer, "a", 1, MSG_NOSIGNAL) != 1)
                        break;
                run_for(&s, 5000);
        }
        assert_int_equal(s.done, 1);
        assert_int_equal(s.answer.result, EXCHANGE_TIMEOUT);
        scene_finish(&s);
}

static void endless_head(void **state)
{
        char request[512], line[64];
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, "HTTP/1.1 200 OK\r\n");
        for (unsigned i = 0; i < 2000 && !s.done; i++) {
                (void)snprintf(line, sizeof line, "X-Header-%u: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", i);
                (void)send(s.peer, line, strlen(line), MSG_NOSIGNAL);
                if (i % 20 == 0)
                        run_for(&s, 500);
        }
        if (!s.done)
                finish(&s, EXCHANGE_MALFORMED);
        assert_int_equal(s.answer.result, EXCHANGE_MALFORMED);
        assert_true(s.answer.bytes < 40000);
        scene_finish(&s);
}

static void rubbish(void **state)
{
        static const char *const answers[] = {
                "SSH-2.0-OpenSSH_9.2\r\n",
                "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
                "HTTP/1.1 101 Switching Protocols\r\n\r\n", /* nobody asked for it */
                "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        };
        char request[512];
        struct scene s;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                scene_init(&s, 1);
                start(&s, NULL);
                take(&s, request, sizeof request);
                answer(&s, answers[i]);
                finish(&s, EXCHANGE_MALFORMED);
                assert_true(peer_sees_end(&s));
                scene_finish(&s);
        }
}

/* The bound itself passes, in all framings; one byte more does not. */
static void body_bound(void **state)
{
        char request[512], text[2048], filler[1002];
        struct scene s;

        (void)state;
        memset(filler, 'b', sizeof filler);
        for (int over = 0; over < 2; over++)
                for (int framing = 0; framing < 3; framing++) {
                        int n = 1000 + over;

                        scene_init(&s, 1);
                        start(&s, NULL);
                        take(&s, request, sizeof request);
                        if (framing == 0)
                                (void)snprintf(text, sizeof text,
                                               "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%.*s", n, n,
                                               filler);
                        else if (framing == 1)
                                (void)snprintf(text, sizeof text,
                                               "HTTP/1.1 200 OK\r\nTransfer-Encoding: "
                                               "chunked\r\n\r\n%x\r\n%.*s\r\n0\r\n\r\n",
                                               (unsigned)n, n, filler);
                        else
                                (void)snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\n\r\n%.*s", n, filler);
                        answer(&s, text);
                        if (framing == 2) {
                                run_for(&s, 2000);
                                hang_up(&s);
                        }
                        if (!s.done)
                                finish(&s, over ? EXCHANGE_MALFORMED : EXCHANGE_OK);
                        assert_int_equal(s.answer.result, over ? EXCHANGE_MALFORMED : EXCHANGE_OK);
                        if (!over)
                                assert_int_equal(s.answer.body_len, 1000);
                        scene_finish(&s);
                }
}

static void no_body_wanted(void **state)
{
        struct exchange_spec spec = plain();
        char request[512];
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        spec.body_max = 0;
        start(&s, &spec);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_MALFORMED);
        hang_up(&s);
        spec.method = SLICE("HEAD");
        start(&s, &spec);
        take(&s, request, sizeof request);
        answer(&s, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n");
        finish(&s, EXCHANGE_OK);
        assert_int_equal(s.answer.body_len, 0);
        scene_finish(&s);
}

static void cut_short(void **state)
{
        static const char *const answers[] = {
                "",
                "HTTP/1.1 200",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        };
        struct linger reset = {.l_onoff = 1};
        char request[512];
        struct scene s;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                scene_init(&s, 1);
                start(&s, NULL);
                take(&s, request, sizeof request);
                if (answers[i][0])
                        answer(&s, answers[i]);
                hang_up(&s);
                finish(&s, EXCHANGE_RESET);
                assert_int_equal(s.answer.bytes, strlen(answers[i]));
                assert_int_equal(s.answer.error, 0);
                scene_finish(&s);
        }
        /* A unix peer that goes with our bytes unread resets the connection; even a body without length is then cut short. */
        scene_init(&s, 1);
        start(&s, NULL);
        run_for(&s, 3000);
        s.peer = accept4(s.listener, NULL, NULL, SOCK_CLOEXEC);
        answer(&s, "HTTP/1.1 200 OK\r\n\r\nabc");
        run_for(&s, 3000);
        (void)setsockopt(s.peer, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        hang_up(&s);
        finish(&s, EXCHANGE_RESET);
        assert_int_equal(s.answer.error, -ECONNRESET);
        scene_finish(&s);
}

static void no_descriptors(void **state)
{
        struct rlimit before, none;
        struct scene s;
        int next;

        (void)state;
        scene_init(&s, 1);
        run_for(&s, 1000);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        next = fcntl(0, F_DUPFD, 0);
        assert_true(next >= 0);
        close(next);
        none = before;
        none.rlim_cur = (rlim_t)next;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        start(&s, NULL);
        finish(&s, EXCHANGE_FAILED);
        assert_int_equal(s.answer.error, -EMFILE);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        scene_finish(&s);
}

/* --- ends that we make ------------------------------------------------------------------------------------------ */

static void cancelled_in_every_phase(void **state)
{
        static const char *const said[] = {
                NULL, /* not even connected */
                "",
                "HTTP/1.1 2",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        };
        char request[512];
        struct scene s;

        (void)state;
        for (int whole = 0; whole < 2; whole++)
                for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
                        scene_init(&s, 1);
                        start(&s, NULL);
                        if (said[i]) {
                                take(&s, request, sizeof request);
                                if (said[i][0])
                                        answer(&s, said[i]);
                                run_for(&s, 2000);
                        }
                        if (whole)
                                s.up = upstream_free(s.up);
                        else
                                s.x = exchange_cancel(s.x);
                        run_for(&s, 3000);
                        assert_int_equal(s.done, 0);
                        if (said[i])
                                assert_true(peer_sees_end(&s));
                        scene_finish(&s);
                }
}

static void upstream_freed_from_on_done(void **state)
{
        char request[512];
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.free_upstream = true;
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_null(s.up);
        assert_true(peer_sees_end(&s));
        scene_finish(&s);
}

/* A request larger than the socket's buffer goes out in pieces. */
static void large_request(void **state)
{
        enum { SIZE = 3 * 1024 * 1024 };
        struct exchange_spec spec = plain();
        char *body = malloc(SIZE), *got = malloc(65536);
        size_t total = 0;
        struct iovec piece;
        struct scene s;

        (void)state;
        assert_non_null(body);
        assert_non_null(got);
        memset(body, 'q', SIZE);
        scene_init(&s, 1);
        spec.method = SLICE("POST");
        set_body(&spec, &piece, body, SIZE);
        start(&s, &spec);
        take(&s, got, 65536);
        total += strlen(got);
        while (total < SIZE + 60) {
                ssize_t n = recv(s.peer, got, 65536, MSG_DONTWAIT);

                if (n > 0)
                        total += (size_t)n;
                else
                        run_for(&s, 1000);
                assert_true(time_monotonic() - s.began < 15 * USEC_PER_SEC);
                if (n == 0)
                        break;
        }
        assert_in_range(total, SIZE + 60, SIZE + 200);
        assert_int_equal(upstream_counts(s.up)->bytes_out, total);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        scene_finish(&s);
        free(body);
        free(got);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nobody_there),
                cmocka_unit_test(full_backlog),
                cmocka_unit_test(silence_in_every_phase),
                cmocka_unit_test(dripping_head),
                cmocka_unit_test(endless_head),
                cmocka_unit_test(rubbish),
                cmocka_unit_test(body_bound),
                cmocka_unit_test(no_body_wanted),
                cmocka_unit_test(cut_short),
                cmocka_unit_test(no_descriptors),
                cmocka_unit_test(cancelled_in_every_phase),
                cmocka_unit_test(upstream_freed_from_on_done),
                cmocka_unit_test(large_request),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
