/* test_upstream.c: good exchanges, and connections that are kept, closed and tried again. */
#include "net/upstream_scene.h"

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
        struct iovec piece;
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        spec.method = SLICE("POST");
        spec.target = SLICE("/v1/chat/completions?x=1");
        spec.headers = "Content-Type: application/json\r\nAuthorization: Bearer k\r\n";
        set_body(&spec, &piece, "{\"a\":1}", 7);
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
        spec.target = SLICE("/a b");
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

/* What is kept may grow and shrink while it is used: the oldest goes. */
static void pool_changes_its_bound(void **state)
{
        struct scene s;
        char request[512];
        int peers[2];

        (void)state;
        scene_init(&s, 1);
        upstream_set_max_idle(s.up, 2);
        for (int round = 0; round < 2; round++) {
                for (int i = 0; i < 2; i++) {
                        s.peer = round ? peers[!i] : -1; /* the newest is used again first */
                        start(&s, NULL);
                        take(&s, request, sizeof request);
                        peers[round ? !i : i] = s.peer;
                }
                for (int i = 0; i < 2; i++) {
                        s.peer = peers[i];
                        answer(&s, ok_hi);
                        finish(&s, EXCHANGE_OK);
                }
                assert_int_equal(upstream_counts(s.up)->connects, 2);
        }
        upstream_set_max_idle(s.up, 1);
        s.peer = peers[0];
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
        struct iovec piece;
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
        spec.method = SLICE("POST");
        set_body(&spec, &piece, "x", 1);
        start(&s, &spec);
        take(&s, request, sizeof request);
        hang_up(&s);
        finish(&s, EXCHANGE_STALE);
        assert_int_equal(s.answer.bytes, 0);
        assert_true(s.answer.sent > 0 && s.answer.reused);
        assert_int_equal(upstream_counts(s.up)->connects, 3);
        scene_finish(&s);
}

/* A POST of which not one byte could be sent may be sent again. */
static void unsent_post_is_retried(void **state)
{
        struct exchange_spec spec = plain();
        struct iovec piece;
        struct scene s;
        char request[512];

        (void)state;
        scene_init(&s, 1);
        start(&s, NULL);
        take(&s, request, sizeof request);
        answer(&s, ok_hi);
        finish(&s, EXCHANGE_OK);
        hang_up(&s); /* and no turn of the loop tells */
        spec.method = SLICE("POST");
        set_body(&spec, &piece, "x", 1);
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
                cmocka_unit_test(pool_changes_its_bound),
                cmocka_unit_test(words_on_an_idle_connection_close_it),
                cmocka_unit_test(closed_between_two_requests),
                cmocka_unit_test(closed_under_a_reused_request),
                cmocka_unit_test(unsent_post_is_retried),
                cmocka_unit_test(broken_answer_is_not_retried),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
