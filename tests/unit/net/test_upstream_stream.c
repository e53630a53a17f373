/* test_upstream_stream.c: answers that are handed on as they come: framing, deadlines, back-pressure. */
#include "net/tale.h"

/* --- what is told ------------------------------------------------------------------------------------------------- */

static void every_framing(void **state)
{
        static const struct {
                const char *text, *body;
                bool has_length, closes;
        } rows[] = {
                {"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello", "hello", true,
                 false},
                {"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "2\r\nhe\r\n1;x=y\r\nl\r\n2\r\nlo\r\n0\r\nTrailer: z\r\n\r\n",
                 "hello", false, false},
                {"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\n\r\nhello", "hello", false, true},
                {"HTTP/1.1 204 No Content\r\nContent-Type: text/x\r\n\r\n", "", false, false},
                {"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 0\r\n\r\n", "", true, false},
                {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: no\r\n\r\n"
                 "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nhello",
                 "hello", true, false},
        };
        char request[512];
        struct tale t;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                for (int dripped = 0; dripped < 2; dripped++) {
                        size_t len = strlen(rows[i].text);

                        tale_init(&t, 1);
                        tale_start(&t, NULL);
                        take(&t.s, request, sizeof request);
                        assert_int_equal(upstream_running(t.s.up), 1);
                        for (size_t at = 0; at < len; at += dripped ? 1 : len) {
                                assert_int_equal(t.ends, 0);
                                assert_int_equal(
                                        send(t.s.peer, rows[i].text + at, dripped ? 1 : len, MSG_NOSIGNAL),
                                        dripped ? 1 : len);
                                if (dripped)
                                        run_for(&t.s, 300);
                        }
                        if (rows[i].closes)
                                hang_up(&t.s);
                        if (!t.ends)
                                tale_end(&t, EXCHANGE_OK);
                        assert_int_equal(t.end.result, EXCHANGE_OK);
                        assert_int_equal(t.ends, 1);
                        assert_int_equal(t.heads, 1);
                        assert_string_equal(t.type, "text/x");
                        assert_int_equal(t.has_length, rows[i].has_length);
                        assert_string_equal(t.got.data ? t.got.data : "", rows[i].body);
                        assert_int_equal(t.end.bytes, len);
                        assert_true(t.end.first_byte_after > 0 && t.end.done_after >= t.end.first_byte_after);
                        assert_int_equal(upstream_running(t.s.up), 0);
                        /* What came whole with one read is told with one call, however many chunks it was. */
                        if (!dripped)
                                assert_int_equal(t.datas, rows[i].body[0] != '\0');
                        if (!rows[i].closes)
                                assert_false(peer_sees_end(&t.s));
                        tale_finish(&t);
                }
}

/* Nothing waits for the chunk to be whole. */
static void pieces_are_told_as_they_come(void **state)
{
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        tale_start(&t, NULL);
        take(&t.s, request, sizeof request);
        answer(&t.s, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        run_for(&t.s, 3000);
        assert_int_equal(t.heads, 1);
        assert_int_equal(t.datas, 0);
        answer(&t.s, "b\r\ndata: ");
        run_for(&t.s, 3000);
        assert_string_equal(t.got.data, "data: ");
        answer(&t.s, "12345\r\n3\r\nabc");
        run_for(&t.s, 3000);
        assert_string_equal(t.got.data, "data: 12345abc");
        assert_int_equal(t.datas, 2);
        answer(&t.s, "\r\n0\r\n\r\n");
        tale_end(&t, EXCHANGE_OK);
        tale_finish(&t);
}

static void headers_and_a_body_in_pieces(void **state)
{
        const struct http1_header fields[] = {{SLICE("Content-Type"), SLICE("application/json")},
                                              {SLICE("X-Empty"), {0}}};
        struct iovec body[40];
        struct exchange_spec spec;
        char request[1024], expected[1024];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        spec = post(&t, NULL, 0);
        spec.target = SLICE("/v1/x?y=1");
        spec.fields = fields;
        spec.n_fields = ARRAY_SIZE(fields);
        spec.headers = "Authorization: Bearer k\r\n";
        for (size_t i = 0; i < ARRAY_SIZE(body); i++) /* more than one writev takes, some of them empty */
                body[i] = (struct iovec){(void *)"abc", i % 4};
        spec.body = body;
        spec.n_body = ARRAY_SIZE(body);
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        (void)snprintf(expected, sizeof expected,
                       "POST /v1/x?y=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n"
                       "Content-Type: application/json\r\nX-Empty: \r\nAuthorization: Bearer k\r\n\r\n");
        for (int i = 0; i < 10; i++)
                (void)strcat(expected, "aababc");
        assert_string_equal(request, expected);
        answer(&t.s, ok_hi);
        tale_end(&t, EXCHANGE_OK);
        assert_int_equal(t.end.sent, strlen(expected));
        assert_false(t.end.reused);
        tale_finish(&t);
}

static void bad_deadlines(void **state)
{
        struct exchange_spec spec = plain();
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        spec.idle_timeout = USEC_INFINITY;
        assert_int_equal(upstream_stream(t.s.up, &spec, &tale_events, &t, &t.x), -EINVAL);
        assert_int_equal(upstream_running(t.s.up), 0);
        tale_finish(&t);
}

/* --- deadlines ---------------------------------------------------------------------------------------------------- */

static void each_deadline_has_its_name(void **state)
{
        static const struct {
                const char *said;
                usec_t first, idle, whole;
                enum exchange_result result;
        } rows[] = {
                {"", 60000, 20000, 20 * USEC_PER_SEC, EXCHANGE_TIMEOUT_FIRST},
                {"HTTP/1.1 2", 20 * USEC_PER_SEC, 60000, 20 * USEC_PER_SEC, EXCHANGE_TIMEOUT_IDLE},
                {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 20 * USEC_PER_SEC, 60000, 20 * USEC_PER_SEC,
                 EXCHANGE_TIMEOUT_IDLE},
                {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 0, 60000,
                 20 * USEC_PER_SEC, EXCHANGE_TIMEOUT_IDLE},
                {"HTTP/1.1 200 OK\r\n\r\nabc", 0, 0, 60000, EXCHANGE_TIMEOUT},
        };
        char request[512];
        struct tale t;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct exchange_spec spec = plain();

                tale_init(&t, 1);
                spec.first_timeout = rows[i].first;
                spec.idle_timeout = rows[i].idle;
                spec.timeout = rows[i].whole;
                spec.connect_timeout = 0;
                tale_start(&t, &spec);
                take(&t.s, request, sizeof request);
                if (rows[i].said[0])
                        answer(&t.s, rows[i].said);
                tale_end(&t, rows[i].result);
                assert_in_range(time_monotonic() - t.s.began, 60000, 10 * USEC_PER_SEC);
                assert_int_equal(upstream_counts(t.s.up)->ended[rows[i].result], 1);
                assert_true(peer_sees_end(&t.s));
                tale_finish(&t);
        }
}

static void no_connection_in_time(void **state)
{
        struct exchange_spec spec = plain();
        struct tale t;
        int fillers[4];

        (void)state;
        tale_init(&t, 1);
        close(t.s.listener);
        (void)unlink(t.s.at.addr.un.sun_path);
        listen_unix(&t.s, 0);
        for (unsigned i = 0; i < ARRAY_SIZE(fillers); i++) {
                fillers[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                (void)connect(fillers[i], &t.s.at.addr.sa, t.s.at.len);
        }
        spec.connect_timeout = 50000;
        tale_start(&t, &spec);
        exchange_pause(t.x, true); /* a pause has nothing to do with it */
        tale_end(&t, EXCHANGE_TIMEOUT_CONNECT);
        assert_int_equal(t.end.sent, 0);
        assert_int_equal(t.end.connected_after, 0);
        for (unsigned i = 0; i < ARRAY_SIZE(fillers); i++)
                close(fillers[i]);
        tale_finish(&t);
}

/* Bytes move the deadline of silence, not that of the whole. */
static void a_dripping_answer(void **state)
{
        struct exchange_spec spec = plain();
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        spec.idle_timeout = 400 * USEC_PER_MSEC;
        spec.timeout = 1200 * USEC_PER_MSEC;
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        answer(&t.s, "HTTP/1.1 200 OK\r\n\r\n");
        while (!t.ends && time_monotonic() - t.s.began < 20 * USEC_PER_SEC) {
                (void)send(t.s.peer, "x", 1, MSG_NOSIGNAL);
                run_for(&t.s, 20000);
        }
        assert_int_equal(t.ends, 1);
        assert_int_equal(t.end.result, EXCHANGE_TIMEOUT);
        assert_true(t.got.len > 2);
        assert_true(time_monotonic() - t.s.began >= spec.timeout);
        tale_finish(&t);
}

static void silence_of_a_paused_one_is_ours(void **state)
{
        struct exchange_spec spec = plain();
        char request[512];
        struct tale t;
        usec_t resumed;

        (void)state;
        tale_init(&t, 1);
        spec.idle_timeout = 100000;
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        answer(&t.s, "HTTP/1.1 200 OK\r\n\r\nabc");
        t.at_data = ACT_PAUSE;
        run_for(&t.s, 500000);
        assert_int_equal(t.ends, 0);
        assert_int_equal(t.datas, 1);
        resumed = time_monotonic();
        exchange_pause(t.x, false);
        exchange_pause(t.x, false); /* once is enough */
        tale_end(&t, EXCHANGE_TIMEOUT_IDLE);
        assert_in_range(time_monotonic() - resumed, 100000, 10 * USEC_PER_SEC);
        tale_finish(&t);
}

static void a_paused_one_has_an_end_too(void **state)
{
        struct exchange_spec spec = plain();
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        spec.timeout = 100000;
        tale_start(&t, &spec);
        take(&t.s, request, sizeof request);
        answer(&t.s, "HTTP/1.1 200 OK\r\n\r\nabc");
        t.at_head = ACT_PAUSE;
        tale_end(&t, EXCHANGE_TIMEOUT);
        assert_string_equal(t.got.data, "abc"); /* had been read with the head */
        tale_finish(&t);
}

/* --- back-pressure -------------------------------------------------------------------------------------------------- */

enum { FLOOD = 8 * 1024 * 1024 };

static char flood_byte(size_t i)
{
        return (char)('a' + i * 7 % 26 + (i >> 16) % 2);
}

/* A server that writes as fast as it can; what it could send while we were paused is what the kernel holds. */
static void a_fast_server_is_slowed(void **state)
{
        char request[512], piece[16384];
        size_t sent = 0, paused_at = 0;
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        tale_start(&t, NULL);
        take(&t.s, request, sizeof request);
        (void)snprintf(piece, sizeof piece, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", FLOOD);
        answer(&t.s, piece);
        t.at_data = ACT_PAUSE;
        while (sent < FLOOD || !t.ends) {
                size_t n = MIN(sizeof piece, FLOOD - sent), before = t.got.len;
                bool full = false;
                ssize_t k;

                assert_true(time_monotonic() - t.s.began < 20 * USEC_PER_SEC);
                for (size_t i = 0; i < n; i++)
                        piece[i] = flood_byte(sent + i);
                k = n ? send(t.s.peer, piece, n, MSG_NOSIGNAL | MSG_DONTWAIT) : -1;
                if (k > 0)
                        sent += (size_t)k;
                else
                        full = true;
                run_for(&t.s, 200);
                assert_true(t.got.len - before <= 65536); /* one read after each pause */
                if (!full || t.ends)
                        continue;
                /* It stands still: nothing comes until we go on. */
                run_for(&t.s, 1000);
                assert_true(sent - t.got.len < 2 * 1024 * 1024);
                paused_at = t.got.len;
                run_for(&t.s, 1000);
                assert_int_equal(t.got.len, paused_at);
                exchange_pause(t.x, false);
        }
        assert_int_equal(t.end.result, EXCHANGE_OK);
        assert_int_equal(t.got.len, FLOOD);
        for (size_t i = 0; i < FLOOD; i++)
                if (t.got.data[i] != flood_byte(i))
                        fail_msg("byte %zu is wrong", i);
        assert_true(paused_at > 0);
        /* A connection whose exchange ended while paused is read again in the pool. */
        assert_false(peer_sees_end(&t.s));
        hang_up(&t.s);
        run_for(&t.s, 3000);
        t.at_data = ACT_NONE;
        tale_forget(&t);
        tale_start(&t, NULL);
        take(&t.s, request, sizeof request);
        answer(&t.s, ok_hi);
        tale_end(&t, EXCHANGE_OK);
        assert_int_equal(upstream_counts(t.s.up)->connects, 2);
        assert_int_equal(upstream_counts(t.s.up)->reused, 0);
        tale_finish(&t);
}

/* The end of a connection waits, too, and is told after what came before it. */
static void an_end_while_paused(void **state)
{
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        tale_start(&t, NULL);
        take(&t.s, request, sizeof request);
        t.at_head = ACT_PAUSE;
        answer(&t.s, "HTTP/1.1 200 OK\r\n\r\n");
        run_for(&t.s, 5000);
        assert_int_equal(t.heads, 1);
        answer(&t.s, "the rest");
        hang_up(&t.s);
        run_for(&t.s, 5000);
        assert_int_equal(t.datas, 0);
        assert_int_equal(t.ends, 0);
        exchange_pause(t.x, false);
        assert_int_equal(t.datas, 0); /* not from inside */
        tale_end(&t, EXCHANGE_OK);
        assert_string_equal(t.got.data, "the rest");
        tale_finish(&t);
}

static void paused_before_its_connection(void **state)
{
        char request[512];
        struct tale t;

        (void)state;
        tale_init(&t, 1);
        tale_start(&t, NULL);
        exchange_pause(t.x, true);
        take(&t.s, request, sizeof request); /* the request goes out all the same */
        answer(&t.s, ok_hi);
        run_for(&t.s, 5000);
        assert_int_equal(t.heads, 0);
        exchange_pause(t.x, false);
        tale_end(&t, EXCHANGE_OK);
        assert_string_equal(t.got.data, "hi");
        tale_finish(&t);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_framing),
                cmocka_unit_test(pieces_are_told_as_they_come),
                cmocka_unit_test(headers_and_a_body_in_pieces),
                cmocka_unit_test(bad_deadlines),
                cmocka_unit_test(each_deadline_has_its_name),
                cmocka_unit_test(no_connection_in_time),
                cmocka_unit_test(a_dripping_answer),
                cmocka_unit_test(silence_of_a_paused_one_is_ours),
                cmocka_unit_test(a_paused_one_has_an_end_too),
                cmocka_unit_test(a_fast_server_is_slowed),
                cmocka_unit_test(an_end_while_paused),
                cmocka_unit_test(paused_before_its_connection),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
