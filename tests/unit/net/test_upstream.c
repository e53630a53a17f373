/* test_upstream.c: the HTTP client against a peer that this test plays itself, byte by byte, over unix sockets and TCP. */
#include "net/upstream.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/macros.h"

struct scene {
        struct loop *loop;
        struct upstream *up;
        struct exchange *x;
        struct timer *stop;
        struct endpoint at;
        char dir[64];
        int listener, peer;
        unsigned done;
        bool hang;
        struct exchange_answer answer; /* of the last on_done */
        char body[4096];
        usec_t began;
        bool free_upstream, start_again;
};

static const char ok_hi[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

static void on_stop(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->hang = true;
        loop_stop(s->loop);
}

static void listen_unix(struct scene *s, int backlog)
{
        s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(s->listener >= 0);
        assert_int_equal(bind(s->listener, &s->at.addr.sa, s->at.len), 0);
        assert_int_equal(listen(s->listener, backlog), 0);
}

static void scene_init_quiet(struct scene *s, unsigned max_idle)
{
        char path[128];

        *s = (struct scene){.listener = -1, .peer = -1};
        (void)snprintf(s->dir, sizeof s->dir, "/tmp/lsv-upstream-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        (void)snprintf(path, sizeof path, "%s/s", s->dir);
        assert_int_equal(endpoint_from_unix(path, &s->at), 0);
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_stop, s, &s->stop), 0);
        assert_int_equal(upstream_new(s->loop, &s->at, max_idle, &s->up), 0);
}

static void scene_init(struct scene *s, unsigned max_idle)
{
        scene_init_quiet(s, max_idle);
        listen_unix(s, 16);
}

static void hang_up(struct scene *s)
{
        if (s->peer >= 0)
                (void)close(s->peer);
        s->peer = -1;
}

static void scene_finish(struct scene *s)
{
        assert_null(upstream_free(s->up));
        s->stop = timer_free(s->stop);
        assert_null(loop_free(s->loop));
        hang_up(s);
        if (s->listener >= 0)
                (void)close(s->listener);
        (void)unlink(s->at.addr.un.sun_path);
        assert_int_equal(rmdir(s->dir), 0);
}

static void run_for(struct scene *s, usec_t span)
{
        timer_set(s->stop, time_monotonic() + span);
        loop_run(s->loop);
        s->hang = false;
}

static void start(struct scene *s, const struct exchange_spec *spec);

static void on_done(void *owner, const struct exchange_answer *answer, usec_t now)
{
        struct scene *s = owner;

        assert_true(now == loop_now(s->loop));
        s->done++;
        s->x = NULL;
        s->answer = *answer;
        assert_true(answer->body_len < sizeof s->body);
        assert_int_equal(strlen(answer->body), answer->body_len);
        memcpy(s->body, answer->body, answer->body_len + 1);
        s->answer.body = s->body;
        loop_stop(s->loop);
        if (s->free_upstream)
                s->up = upstream_free(s->up);
        if (s->start_again) {
                s->start_again = false;
                start(s, NULL);
        }
}

static struct exchange_spec plain(void)
{
        return (struct exchange_spec){
                .method = "GET",
                .target = "/health",
                .connect_timeout = 20 * USEC_PER_SEC,
                .first_timeout = 20 * USEC_PER_SEC,
                .timeout = 20 * USEC_PER_SEC,
                .body_max = 1000,
        };
}

static void start(struct scene *s, const struct exchange_spec *spec)
{
        struct exchange_spec usual = plain();
        unsigned done = s->done;

        s->began = time_monotonic();
        assert_int_equal(upstream_start(s->up, spec ? spec : &usual, on_done, s, &s->x), 0);
        assert_int_equal(s->done, done);
}

/* Runs until the exchange is done. */
static void finish(struct scene *s, enum exchange_result expected)
{
        unsigned done = s->done;

        timer_set(s->stop, time_monotonic() + 30 * USEC_PER_SEC);
        while (s->done == done && !s->hang)
                loop_run(s->loop);
        timer_set(s->stop, USEC_INFINITY);
        assert_false(s->hang);
        if (s->answer.result != expected)
                fail_msg("result is '%s', not '%s'", exchange_result_text(s->answer.result),
                         exchange_result_text(expected));
}

/* The peer's side: takes the connection and its request. */
static void take(struct scene *s, char *buf, size_t size)
{
        struct timeval patience = {.tv_sec = 10};
        ssize_t n;

        run_for(s, 2000);
        if (s->peer < 0) {
                (void)setsockopt(s->listener, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
                s->peer = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
                assert_true(s->peer >= 0);
                (void)setsockopt(s->peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
                run_for(s, 2000); /* TCP connects are told by the loop */
        }
        n = recv(s->peer, buf, size - 1, 0);
        assert_true(n > 0);
        buf[n] = '\0';
}

static void answer(struct scene *s, const char *text)
{
        assert_int_equal(send(s->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* True if the client has closed this connection. */
static bool peer_sees_end(struct scene *s)
{
        char c;

        run_for(s, 3000);
        return recv(s->peer, &c, 1, MSG_DONTWAIT) == 0;
}

/* --- what a good exchange looks like ---------------------------------------------------------------------------- */

static void whole_answer(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        assert_string_equal(request, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(s.answer.status, 200);
        assert_string_equal(s.body, "hi");
        assert_int_equal(s.answer.peer_pid, getpid());
        assert_int_equal(s.answer.bytes, strlen(ok_hi));
        assert_true(s.answer.connected_after > 0);
        assert_true(s.answer.first_byte_after >= s.answer.connected_after);
        assert_true(s.answer.done_after >= s.answer.first_byte_after);
        assert_int_equal(upstream_counts(s.up)->exchanges, 1);
        assert_int_equal(upstream_counts(s.up)->failures, 0);
        assert_int_equal(upstream_counts(s.up)->bytes_out, strlen(request));
        scene_finish(&s);
}

static void request_with_body_and_headers(void **state)
{
        struct exchange_spec spec = plain();
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        spec.method = "POST";
        spec.target = "/v1/chat/completions?x=1";
        spec.headers = "Content-Type: application/json\r\nAuthorization: Bearer k\r\n";
        spec.body = "{\"a\":1}";
        spec.body_len = 7;
        start(&s, &spec);
        take(&s, request, sizeof request);
        assert_string_equal(request, "POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: localhost\r\n"
                                     "Content-Length: 7\r\nContent-Type: application/json\r\n"
                                     "Authorization: Bearer k\r\n\r\n{\"a\":1}");
        answer(&s, "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
        finish(&s, EXCHANGE_OK);
        assert_int_equal(s.answer.status, 503);
        assert_string_equal(s.body, "abcdefg");
        scene_finish(&s);
}

static void bad_specs(void **state)
{
        struct exchange_spec spec;
        struct endpoint none = {0};
        struct upstream *u = NULL;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        assert_int_equal(upstream_new(s.loop, &none, 1, &u), -EINVAL);
        spec = plain();
        spec.timeout = 0;
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        spec.timeout = USEC_INFINITY;
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        spec = plain();
        spec.connect_timeout = USEC_INFINITY;
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        spec = plain();
        spec.first_timeout = USEC_INFINITY;
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        spec = plain();
        spec.target = "/a b";
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        spec = plain();
        spec.headers = "A: b\r\n\r\nGET /evil HTTP/1.1\r\n";
        assert_int_equal(upstream_start(s.up, &spec, on_done, &s, &s.x), -EINVAL);
        assert_null(s.x);
        assert_int_equal(upstream_counts(s.up)->connects, 0);
        assert_null(exchange_cancel(NULL));
        assert_null(upstream_free(NULL));
        scene_finish(&s);
}

/* Every way of cutting an answer gives the same. */
static void answer_byte_by_byte(void **state)
{
        static const char text[] =
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        for (size_t i = 0; i + 1 < sizeof text; i++) {
                assert_int_equal(s.done, 0);
                assert_int_equal(send(s.peer, text + i, 1, MSG_NOSIGNAL), 1);
                run_for(&s, 300);
        }
        if (!s.done)
                finish(&s, EXCHANGE_OK);
        assert_int_equal(s.answer.result, EXCHANGE_OK);
        assert_string_equal(s.body, "hello");
        assert_int_equal(s.answer.bytes, strlen(text));
        scene_finish(&s);
}

static void answer_until_close(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, "HTTP/1.0 200 OK\r\n\r\nall of it");
        run_for(&s, 3000);
        assert_int_equal(s.done, 0);
        hang_up(&s);
        finish(&s, EXCHANGE_OK);
        assert_string_equal(s.body, "all of it");
        scene_finish(&s);
}

static void over_tcp(void **state)
{
        struct scene s;
        char request[512], host[ENDPOINT_TEXT_MAX];
        struct endpoint at;

        (void)state;
        scene_init_quiet(&s, 1);
        s.up = upstream_free(s.up);
        assert_int_equal(endpoint_parse("127.0.0.1:0", &at), 0);
        s.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(s.listener, &at.addr.sa, at.len), 0);
        assert_int_equal(listen(s.listener, 4), 0);
        assert_int_equal(getsockname(s.listener, &at.addr.sa, &at.len), 0);
        assert_int_equal(upstream_new(s.loop, &at, 1, &s.up), 0);
        start(&s, NULL);
        take(&s, request, sizeof request);
        assert_non_null(strstr(request, endpoint_host(&at, host, sizeof host)));
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(s.answer.peer_pid, 0);
        hang_up(&s);
        run_for(&s, 3000);

        /* Nobody listens any more. */
        close(s.listener);
        s.listener = -1;
        start(&s, NULL);
        finish(&s, EXCHANGE_REFUSED);
        assert_int_equal(s.answer.error, -ECONNREFUSED);
        scene_finish(&s);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static void kept_connection_is_used_again(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        for (unsigned i = 0; i < 5; i++) {
                start(&s, NULL);
                take(&s, request, sizeof request);
                answer(&s, ok_hi);
                finish(&s, EXCHANGE_OK);
                assert_int_equal(s.answer.peer_pid, getpid());
        }
        assert_int_equal(upstream_counts(s.up)->connects, 1);
        assert_int_equal(upstream_counts(s.up)->reused, 4);
        assert_false(peer_sees_end(&s));
        upstream_close_idle(s.up);
        assert_true(peer_sees_end(&s));
        scene_finish(&s);
}

static void started_again_from_on_done(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        s.start_again = true;
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_non_null(s.x);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(upstream_counts(s.up)->connects, 1);
        scene_finish(&s);
}

static void connections_that_may_not_be_kept(void **state)
{
        static const char *const answers[] = {
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        struct exchange_spec spec;
        struct scene s;
        char request[512];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                scene_init(&s, 1);
                start(&s, NULL);
                take(&s, request, sizeof request);
                answer(&s, answers[i]);
                finish(&s, EXCHANGE_OK);
                assert_string_equal(s.body, "hi");
                assert_true(peer_sees_end(&s));
                scene_finish(&s);
        }
        /* No pool at all, and an exchange that asked for a connection of its own. */
        for (unsigned max_idle = 0; max_idle < 2; max_idle++) {
                scene_init(&s, max_idle);
                spec = plain();
                spec.fresh = max_idle > 0;
                start(&s, &spec);
                take(&s, request, sizeof request);
                assert_non_null(strstr(request, "\r\nConnection: close\r\n"));
                answer(&s, ok_hi);
                finish(&s, EXCHANGE_OK);
                assert_true(peer_sees_end(&s));
                scene_finish(&s);
        }
}

static void fresh_leaves_the_kept_one_alone(void **state)
{
        struct exchange_spec spec = plain();
        struct scene s;
        char request[512];
        int kept;

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        kept = s.peer;
        s.peer = -1;
        spec.fresh = true;
        start(&s, &spec);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(upstream_counts(s.up)->connects, 2);
        hang_up(&s);
        s.peer = kept;
        assert_false(peer_sees_end(&s));
        scene_finish(&s);
}

/* Two at once need two connections; the pool of one keeps one. */
static void pool_is_bounded(void **state)
{
        struct scene s;
        struct exchange *first;
        char request[512];
        int peers[2];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        first = s.x;
        take(&s, request, sizeof request);
        peers[0] = s.peer;
        s.peer = -1;
        start(&s, NULL);
        assert_ptr_not_equal(first, s.x);
        take(&s, request, sizeof request);
        peers[1] = s.peer;
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        s.peer = peers[0];
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(upstream_counts(s.up)->connects, 2);
        assert_true(peer_sees_end(&s));
        s.peer = peers[1];
        assert_false(peer_sees_end(&s));
        close(peers[0]);
        scene_finish(&s);
}

static void words_on_an_idle_connection_close_it(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        answer(&s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_true(peer_sees_end(&s));
        scene_finish(&s);
}

/* The server closed the kept connection and we know it: simply a new one. */
static void closed_between_two_requests(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        hang_up(&s);
        run_for(&s, 3000);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(upstream_counts(s.up)->connects, 2);
        assert_int_equal(upstream_counts(s.up)->reused, 0);
        scene_finish(&s);
}

/* It closes just as we write: a GET is asked again on a fresh connection, once; a POST that was sent is not. */
static void closed_under_a_reused_request(void **state)
{
        struct exchange_spec spec = plain();
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);

        start(&s, NULL);
        take(&s, request, sizeof request); /* on the kept connection */
        hang_up(&s);
        take(&s, request, sizeof request); /* the second try */
        assert_int_equal(s.done, 1);
        assert_int_equal(upstream_counts(s.up)->connects, 2);
        hang_up(&s);
        finish(&s, EXCHANGE_RESET);
        assert_int_equal(upstream_counts(s.up)->connects, 2);

        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        spec.method = "POST";
        spec.body = "x";
        spec.body_len = 1;
        start(&s, &spec);
        take(&s, request, sizeof request);
        hang_up(&s);
        finish(&s, EXCHANGE_RESET);
        assert_int_equal(upstream_counts(s.up)->connects, 3);
        scene_finish(&s);
}

/* A POST of which not one byte could be sent may be sent again. */
static void unsent_post_is_retried(void **state)
{
        struct exchange_spec spec = plain();
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        hang_up(&s); /* and no turn of the loop tells */
        spec.method = "POST";
        spec.body = "x";
        spec.body_len = 1;
        start(&s, &spec);
        take(&s, request, sizeof request);
        assert_non_null(strstr(request, "POST"));
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        assert_int_equal(upstream_counts(s.up)->reused, 1);
        assert_int_equal(upstream_counts(s.up)->connects, 2);
        scene_finish(&s);
}

/* An answer that had begun is not asked for again. */
static void broken_answer_is_not_retried(void **state)
{
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, "H");
        hang_up(&s);
        finish(&s, EXCHANGE_RESET);
        assert_int_equal(s.answer.bytes, 1);
        assert_int_equal(upstream_counts(s.up)->connects, 1);
        assert_int_equal(upstream_counts(s.up)->failures, 1);
        scene_finish(&s);
}

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
        spec.method = "HEAD";
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
        struct scene s;

        (void)state;
        assert_non_null(body);
        assert_non_null(got);
        memset(body, 'q', SIZE);
        scene_init(&s, 1);
        spec.method = "POST";
        spec.body = body;
        spec.body_len = SIZE;
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
                cmocka_unit_test(whole_answer),
                cmocka_unit_test(request_with_body_and_headers),
                cmocka_unit_test(bad_specs),
                cmocka_unit_test(answer_byte_by_byte),
                cmocka_unit_test(answer_until_close),
                cmocka_unit_test(over_tcp),
                cmocka_unit_test(kept_connection_is_used_again),
                cmocka_unit_test(started_again_from_on_done),
                cmocka_unit_test(connections_that_may_not_be_kept),
                cmocka_unit_test(fresh_leaves_the_kept_one_alone),
                cmocka_unit_test(pool_is_bounded),
                cmocka_unit_test(words_on_an_idle_connection_close_it),
                cmocka_unit_test(closed_between_two_requests),
                cmocka_unit_test(closed_under_a_reused_request),
                cmocka_unit_test(unsent_post_is_retried),
                cmocka_unit_test(broken_answer_is_not_retried),
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
