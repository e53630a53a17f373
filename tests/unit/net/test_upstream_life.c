/* test_upstream_life.c: how streamed exchanges end early, and what becomes of their connections. */
#include "net/tale.h"

/* --- ends that we make ---------------------------------------------------------------------------------------------- */

static const char *const phases[] = {
        NULL, /* not even connected */
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
};

static void cancelled_in_every_phase(void **state)
{
        char request[512];
        struct tale t;

        (void)state;
        for (int how = 0; how < 3; how++)
                for (size_t i = 0; i < ARRAY_SIZE(phases); i++) {
                        unsigned told;

                        tale_init(&t, 4);
                        tale_start(&t, NULL);
                        if (phases[i]) {
                                take(&t.s, request, sizeof request);
                                if (phases[i][0])
                                        answer(&t.s, phases[i]);
                                run_for(&t.s, 3000);
                        }
                        if (how == 2)
                                exchange_pause(t.x, true);
                        told = t.heads + t.datas;
                        if (how == 1)
                                t.s.up = upstream_free(t.s.up);
                        else
                                t.x = exchange_cancel(t.x);
                        run_for(&t.s, 3000);
                        assert_int_equal(t.heads + t.datas, told);
                        assert_int_equal(t.ends, 0);
                        if (phases[i])
                                assert_true(peer_sees_end(&t.s)); /* never back to the pool */
                        if (how != 1)
                                assert_int_equal(upstream_running(t.s.up), 0);
                        tale_finish(&t);
                }
}

/* The server notices at once, also when its bytes were not read. */
static void the_server_sees_a_cancel(void **state)
{
        char request[512], c;
        struct tale t;
        usec_t began;
        ssize_t n = -1;

        (void)state;
        tale_init_tcp(&t, 4);
        tale_start(&t, NULL);
        take(&t.s, request, sizeof request);
        answer(&t.s, "HTTP/1.1 200 OK\r\n\r\nabc");
        run_for(&t.s, 3000);
        exchange_pause(t.x, true);
        answer(&t.s, "unread");
        t.x = exchange_cancel(t.x);
        began = time_monotonic();
        while (time_monotonic() - began < 5 * USEC_PER_SEC) {
                run_for(&t.s, 1000);
                n = recv(t.s.peer, &c, 1, MSG_DONTWAIT);
                if (n == 0 || (n < 0 && errno != EAGAIN))
                        break;
        }
        assert_true(n == 0 || errno == ECONNRESET);
        tale_finish(&t);
}

static void ended_from_inside(void **state)
{
        static const enum act acts[] = {ACT_CANCEL, ACT_FREE, ACT_CANCEL_START};
        static const char text[] =
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        char request[512];
        struct tale t;

        (void)state;
        for (int where = 0; where < 3; where++)
                for (size_t a = 0; a < ARRAY_SIZE(acts); a++)
                        for (int dripped = 0; dripped < 2; dripped++) {
                                tale_init(&t, 4);
                                *(where == 0 ? &t.at_head : where == 1 ? &t.at_data : &t.at_end) = acts[a];
                                tale_start(&t, NULL);
                                take(&t.s, request, sizeof request);
                                if (dripped) { /* the head is gathered in a buffer of the exchange */
                                        assert_int_equal(send(t.s.peer, text, 9, MSG_NOSIGNAL), 9);
                                        run_for(&t.s, 2000);
                                        answer(&t.s, text + 9);
                                } else {
                                        answer(&t.s, text);
                                }
                                run_for(&t.s, 5000);
                                assert_int_equal(t.heads, 1);
                                assert_int_equal(t.datas, where > 0);
                                assert_int_equal(t.ends, where == 2);
                                if (acts[a] == ACT_FREE) {
                                        assert_null(t.s.up);
                                        assert_true(peer_sees_end(&t.s));
                                } else if (acts[a] == ACT_CANCEL_START) {
                                        /* In the last callback there was nothing to cancel: the connection is kept. */
                                        if (where < 2)
                                                hang_up(&t.s);
                                        tale_forget(&t);
                                        take(&t.s, request, sizeof request);
                                        answer(&t.s, ok_hi);
                                        tale_end(&t, EXCHANGE_OK);
                                        assert_string_equal(t.got.data, "hi");
                                        assert_int_equal(t.end.reused, where == 2);
                                } else if (where < 2) {
                                        assert_true(peer_sees_end(&t.s));
                                } else {
                                        assert_false(peer_sees_end(&t.s));
                                }
                                tale_finish(&t);
                        }
}

/* --- ends that the server makes -------------------------------------------------------------------------------------- */

static void cut_in_the_middle(void **state)
{
        static const struct {
                const char *text, *got;
                int status;
        } rows[] = {
                {"HTTP/1.1 200", "", 0},
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "abc", 200},
                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "abc", 200},
                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "abc", 200},
        };
        char request[512];
        struct tale t;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                tale_init(&t, 1);
                tale_start(&t, NULL);
                take(&t.s, request, sizeof request);
                answer(&t.s, rows[i].text);
                hang_up(&t.s);
                tale_end(&t, EXCHANGE_RESET);
                assert_int_equal(t.end.status, rows[i].status);
                assert_string_equal(t.got.data ? t.got.data : "", rows[i].got);
                assert_int_equal(t.end.bytes, strlen(rows[i].text));
                tale_finish(&t);
        }
}

/* What was good before the fault is told, however the bytes were cut. */
static void broken_framing(void **state)
{
        static const char text[] =
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\nzz\r\n";
        char request[512];
        struct tale t;

        (void)state;
        for (int dripped = 0; dripped < 2; dripped++) {
                tale_init(&t, 1);
                tale_start(&t, NULL);
                take(&t.s, request, sizeof request);
                for (size_t i = 0; i + 1 < sizeof text && !t.ends; i += dripped ? 1 : sizeof text) {
                        (void)send(t.s.peer, text + i, dripped ? 1 : sizeof text - 1, MSG_NOSIGNAL);
                        run_for(&t.s, dripped ? 300 : 5000);
                }
                if (!t.ends)
                        tale_end(&t, EXCHANGE_MALFORMED);
                assert_int_equal(t.end.result, EXCHANGE_MALFORMED);
                assert_string_equal(t.got.data, "abcde");
                assert_true(peer_sees_end(&t.s));
                tale_finish(&t);
        }
}

enum { LONG = 6 * 1024 * 1024 };

/* A request that the server refuses after its first bytes, and then closes: our write fails, its answer counts. */
static void an_early_answer(void **state)
{
        static const char text[] = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo long";
        char request[4096], *body = malloc(LONG);
        struct exchange_spec spec;
        struct tale t;

        (void)state;
        assert_non_null(body);
        memset(body, 'q', LONG);
        for (int tcp = 0; tcp < 2; tcp++)
                for (int closes = 0; closes < 2; closes++)
                        for (int paused = 0; paused < 2; paused++) {
                                if (tcp)
                                        tale_init_tcp(&t, 1);
                                else
                                        tale_init(&t, 1);
                                spec = post(&t, body, LONG);
                                tale_start(&t, &spec);
                                take(&t.s, request, sizeof request);
                                if (paused)
                                        exchange_pause(t.x, true);
                                answer(&t.s, text);
                                if (closes)
                                        hang_up(&t.s); /* with most of the request unread: a reset */
                                if (paused) {
                                        run_for(&t.s, 5000);
                                        assert_int_equal(t.heads, 0);
                                        exchange_pause(t.x, false);
                                }
                                tale_end(&t, EXCHANGE_OK);
                                assert_int_equal(t.status, 413);
                                assert_string_equal(t.got.data, "too long");
                                assert_true(t.end.sent > 0 && t.end.sent < LONG);
                                if (t.s.peer >=
                                    0) { /* the half-sent request leaves the connection unusable */
                                        char *rest = malloc(LONG);
                                        ssize_t n;

                                        assert_non_null(rest);
                                        run_for(&t.s, 3000);
                                        do
                                                n = recv(t.s.peer, rest, LONG, 0);
                                        while (n > 0);
                                        free(rest);
                                        assert_true(n == 0 || errno == ECONNRESET);
                                }
                                tale_finish(&t);
                        }
        free(body);
}

/* A long body goes out of the owner's memory, whole and in order, while the server takes it slowly. */
static void a_long_body(void **state)
{
        char *body = malloc(LONG), *got = malloc(LONG + 4096), request[8192];
        struct exchange_spec spec;
        struct iovec pieces[3];
        size_t total, head;
        struct tale t;

        (void)state;
        assert_non_null(body);
        assert_non_null(got);
        for (size_t i = 0; i < LONG; i++)
                body[i] = (char)('a' + i % 23);
        tale_init(&t, 1);
        spec = post(&t, NULL, 0);
        pieces[0] = (struct iovec){body, 1000};
        pieces[1] = (struct iovec){body + 1000, 300000};
        pieces[2] = (struct iovec){body + 301000, LONG - 301000};
        spec.body = pieces;
        spec.n_body = 3;
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        total = strlen(request);
        memcpy(got, request, total);
        head = (size_t)(strstr(request, "\r\n\r\n") + 4 - request);
        while (total < head + LONG) {
                ssize_t n = recv(t.s.peer, got + total, MIN(100000, LONG + 4096 - total), MSG_DONTWAIT);

                assert_true(time_monotonic() - t.s.began < 20 * USEC_PER_SEC);
                if (n > 0)
                        total += (size_t)n;
                else
                        run_for(&t.s, 1000);
        }
        assert_int_equal(total, head + LONG);
        assert_memory_equal(got + head, body, LONG);
        answer(&t.s, ok_hi);
        tale_end(&t, EXCHANGE_OK);
        assert_int_equal(t.end.sent, total);
        assert_int_equal(upstream_counts(t.s.up)->bytes_out, total);
        assert_false(peer_sees_end(&t.s));
        tale_finish(&t);
        free(body);
        free(got);
}

/* --- kept connections ------------------------------------------------------------------------------------------------ */

static void one_good(struct tale *t, const char *text)
{
        char request[512];

        tale_forget(t);
        tale_start(t, NULL);
        take(&t->s, request, sizeof request);
        answer(&t->s, text);
        tale_end(t, EXCHANGE_OK);
}

/* The server closes as we ask: a GET is asked again, a POST may have been read and is its owner's business. */
static void stale_connections(void **state)
{
        struct exchange_spec spec;
        char request[512];
        struct tale t;

        (void)state;
        for (int reset = 0; reset < 2; reset++) {
                tale_init(&t, 1);
                one_good(&t, ok_hi);
                tale_forget(&t);
                tale_start(&t, NULL);
                take(&t.s, request, sizeof request);
                hang_up(&t.s);
                take(&t.s, request, sizeof request);
                answer(&t.s, ok_hi);
                tale_end(&t, EXCHANGE_OK);
                assert_false(t.end.reused);
                assert_int_equal(upstream_counts(t.s.up)->retried, 1);

                tale_forget(&t);
                spec = post(&t, "x", 1);
                tale_start(&t, &spec);
                if (reset) /* with the request unread in its socket */
                        run_for(&t.s, 2000);
                else
                        take(&t.s, request, sizeof request);
                hang_up(&t.s);
                tale_end(&t, EXCHANGE_STALE);
                assert_true(t.end.reused);
                assert_true(t.end.sent > 0);
                assert_int_equal(t.end.bytes, 0);
                assert_int_equal(t.end.error, reset ? -ECONNRESET : 0);
                assert_int_equal(upstream_counts(t.s.up)->retried, 1);

                /* On a fresh connection the same is no staleness. */
                tale_start(&t, &spec);
                take(&t.s, request, sizeof request);
                hang_up(&t.s);
                tale_end(&t, EXCHANGE_RESET);
                assert_false(t.end.reused);
                tale_finish(&t);
        }
}

/* Not one byte was sent, so even a POST is sent again, its body from the beginning. */
static void an_unsent_post_is_sent_again(void **state)
{
        struct exchange_spec spec;
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        one_good(&t, ok_hi);
        tale_forget(&t);
        hang_up(&t.s); /* and no turn of the loop tells */
        spec = post(&t, "body", 4);
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        assert_non_null(strstr(request, "\r\n\r\nbody"));
        answer(&t.s, ok_hi);
        tale_end(&t, EXCHANGE_OK);
        assert_int_equal(t.end.sent, strlen(request));
        assert_int_equal(upstream_counts(t.s.up)->retried, 1);
        tale_finish(&t);
}

static void the_server_says_how_long(void **state)
{
        char text[256];
        struct tale t;
        usec_t since;

        (void)state;
        /* Three requests and no more, whether it counts down or not. */
        for (int down = 0; down < 2; down++) {
                tale_init(&t, 1);
                for (int i = 0; i < 3; i++) {
                        (void)snprintf(text, sizeof text,
                                       "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=%d\r\nContent-Length: "
                                       "2\r\n\r\nhi",
                                       down ? 3 - i : 3);
                        one_good(&t, text);
                        assert_int_equal(upstream_counts(t.s.up)->connects, 1);
                        if (i < 2)
                                assert_false(peer_sees_end(&t.s));
                }
                assert_true(peer_sees_end(&t.s));
                tale_finish(&t);
        }
        tale_init(&t, 1);
        one_good(&t, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nhi");
        since = time_monotonic();
        run_for(&t.s, 200000);
        assert_false(peer_sees_end(&t.s));
        while (!peer_sees_end(&t.s))
                assert_true(time_monotonic() - since < 20 * USEC_PER_SEC);
        assert_true(time_monotonic() - since >= 790000);
        tale_finish(&t);
}

/* llama-server closes behind a stream without having said so. */
static void no_request_behind_a_stream(void **state)
{
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        one_good(&t, "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; "
                     "charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
                     "Keep-Alive: timeout=5, max=100\r\n\r\n6\r\ndata:\n\r\n0\r\n\r\n");
        assert_true(peer_sees_end(&t.s));
        hang_up(&t.s);
        one_good(&t, "HTTP/1.1 200 OK\r\nContent-Type: text/event\r\nTransfer-Encoding: "
                     "chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
        assert_false(peer_sees_end(&t.s));
        tale_finish(&t);
}

static void kept_no_longer_than_four_seconds(void **state)
{
        struct tale t;
        usec_t since;

        (void)state;
        tale_init(&t, 1);
        one_good(&t, "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60, max=100\r\nContent-Length: 2\r\n\r\nhi");
        since = time_monotonic();
        while (!peer_sees_end(&t.s))
                assert_true(time_monotonic() - since < 40 * USEC_PER_SEC);
        assert_true(time_monotonic() - since >= 3900000);
        tale_finish(&t);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(cancelled_in_every_phase),
                cmocka_unit_test(the_server_sees_a_cancel),
                cmocka_unit_test(ended_from_inside),
                cmocka_unit_test(cut_in_the_middle),
                cmocka_unit_test(broken_framing),
                cmocka_unit_test(an_early_answer),
                cmocka_unit_test(a_long_body),
                cmocka_unit_test(stale_connections),
                cmocka_unit_test(an_unsent_post_is_sent_again),
                cmocka_unit_test(the_server_says_how_long),
                cmocka_unit_test(no_request_behind_a_stream),
                cmocka_unit_test(kept_no_longer_than_four_seconds),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
