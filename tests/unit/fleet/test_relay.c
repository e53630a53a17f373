/* test_relay.c: requests to instances that the test plays itself: tries, deadlines, cancelling, figures. */
#include "relay_scene.h"

#define OK_HI   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
#define STREAM  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#define PING    "3\r\n:\n\n\r\n"
#define TOKEN   "9\r\ndata: a\n\n\r\n"
#define LAST    "0\r\n\r\n"
#define LOADING "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"

static struct json_value *records(struct scene *s, const char *which)
{
        struct json_value *root = NULL;
        struct json_writer w;
        struct buffer b;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        activity_put(s->fleet.activity, &w, loop_now(s->fleet.loop), 10);
        assert_int_equal(json_parse(b.data, b.len, &root, NULL), 0);
        buffer_finish(&b);
        assert_non_null(json_get(root, which));
        return root;
}

/* A deadline that must not be met by a test that stands still for a moment on a busy machine. */
#define A_WHILE USEC_PER_SEC

/* The outcome of the newest record that ended. */
static void check_outcome(struct scene *s, const char *outcome, int64_t status)
{
        struct json_value *root = records(s, "recent"), *rec = json_at(json_get(root, "recent"), 0);

        assert_string_equal(json_get_string(rec, "outcome"), outcome);
        assert_int_equal(json_get_int(rec, "status", 0), status);
        json_free(root);
}

static void test_forwards(void **state)
{
        static const struct http1_header headers[] = {
                {SLICE("Host"), SLICE("evil")},           {SLICE("Authorization"), SLICE("Bearer ours")},
                {SLICE("X-Conversation-Id"), SLICE("1")}, {SLICE("Content-Type"), SLICE("application/json")},
                {SLICE("traceparent"), SLICE("00-1")},
        };
        struct relay_spec spec;
        struct json_value *root, *rec;
        struct relay_figures f;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.api_key = "sesame";
        spec = scene_spec(&s);
        spec.headers = headers;
        spec.n_headers = ARRAY_SIZE(headers);
        spec.keep_alive = 77;
        assert_int_equal(relay_start(&s.fleet, &spec, &client_events, &s, &s.relay), 0);
        assert_string_equal(relay_instance(s.relay), "qwen-0");
        assert_string_equal(
                place_read(&s, &s.places[0]),
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n"
                "Content-Type: application/json\r\ntraceparent: 00-1\r\nAuthorization: Bearer sesame\r\n"
                "X-Request-Id: req-000000000001\r\n\r\n{\"a\":1}");
        root = records(&s, "running");
        rec = json_at(json_get(root, "running"), 0);
        assert_string_equal(json_get_string(rec, "state"), "running");
        assert_string_equal(json_get_string(rec, "key"), "ann");
        assert_string_equal(json_get_string(rec, "model"), "qwen");
        assert_string_equal(json_get_string(rec, "instance"), "qwen-0");
        json_free(root);

        place_say(&s, &s.places[0],
                  STREAM PING TOKEN
                  "53\r\ndata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3},\"timings\":{"
                  "\"cache_n\":1}}\n\n\r\n" LAST);
        if (!s.ends)
                scene_wait_end(&s);
        assert_int_equal(s.end.result, RELAY_OK);
        assert_int_equal(s.end.status, 200);
        assert_true(s.end.began);
        assert_int_equal(s.heads, 1);
        assert_memory_equal(s.got.data, ":\n\ndata: a\n\ndata: {", 19);
        assert_int_equal(s.heard, s.got.len - 5); /* but for the ping and the empty lines */
        assert_int_equal(s.keep_alive, 77);
        assert_int_equal(s.places[0].served, 1);
        root = records(&s, "recent");
        rec = json_at(json_get(root, "recent"), 0);
        assert_string_equal(json_get_string(rec, "outcome"), "ok");
        assert_int_equal(json_get_int(rec, "tokensIn", 0), 7);
        assert_int_equal(json_get_int(rec, "tokensOut", 0), 3);
        assert_false(json_is_null(json_get(rec, "timeToFirstToken")));
        json_free(root);
        relay_figures(&s.fleet, &f);
        assert_int_equal(f.started, 1);
        assert_int_equal(f.tries, 1);
        assert_int_equal(f.retried, 0);
        assert_int_equal(f.running, 0);
        scene_finish(&s);
}

/* The caller's own name for it goes on, and ours does not. */
static void test_request_id(void **state)
{
        static const struct http1_header headers[] = {{SLICE("x-request-ID"), SLICE("theirs")}};
        struct relay_spec spec;
        struct scene s;
        const char *text;

        (void)state;
        scene_init(&s, 1);
        spec = scene_spec(&s);
        spec.headers = headers;
        spec.n_headers = 1;
        assert_int_equal(relay_start(&s.fleet, &spec, &client_events, &s, &s.relay), 0);
        text = place_read(&s, &s.places[0]);
        assert_non_null(strstr(text, "x-request-ID: theirs\r\n"));
        assert_null(strstr(text, "req-0"));
        scene_finish(&s);
}

static void test_impossible_requests(void **state)
{
        static const struct {
                struct slice method, target;
                struct http1_header header;
        } cases[] = {
                {SLICE("GE T"), SLICE("/"), {SLICE("a"), SLICE("b")}},
                {SLICE(""), SLICE("/"), {SLICE("a"), SLICE("b")}},
                {SLICE("GET"), SLICE(""), {SLICE("a"), SLICE("b")}},
                {SLICE("GET"), SLICE("/ HTTP/1.1\r\nX: y"), {SLICE("a"), SLICE("b")}},
                {SLICE("GET"), SLICE("/#f"), {SLICE("a"), SLICE("b")}},
                {SLICE("GET"), SLICE("/"), {SLICE("a b"), SLICE("b")}},
                {SLICE("GET"), SLICE("/"), {SLICE("a"), SLICE("b\r\nc: d")}},
        };
        struct relay_spec spec;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                spec = scene_spec(&s);
                spec.method = cases[i].method;
                spec.target = cases[i].target;
                spec.headers = &cases[i].header;
                spec.n_headers = 1;
                assert_int_equal(relay_start(&s.fleet, &spec, &client_events, &s, &s.relay), -EINVAL);
        }
        spec = scene_spec(&s);
        spec.ticket.no_wake = true;
        assert_int_equal(relay_start(&s.fleet, &spec, &client_events, &s, &s.relay), -EHOSTDOWN);
        assert_int_equal(s.tickets, 0);
        scene_finish(&s);
}

/* Nobody listens, it hangs up without a byte, it is busy: the third one answers. */
static void await_failure(struct scene *s)
{
        for (unsigned i = 0; i < SCENE_PATIENCE && !(s->waiting && s->waiting->refusal); i++)
                run_for(s, 1000);
        assert_non_null(s->waiting);
}

static void test_tries_elsewhere(void **state)
{
        struct relay_figures f;
        struct scene s;

        (void)state;
        scene_init(&s, 3);
        place_close(&s.places[0]);
        scene_ask(&s);
        (void)place_read(&s, &s.places[1]);
        place_hang_up(&s.places[1]);
        (void)place_read(&s, &s.places[2]);
        place_say(&s, &s.places[2], OK_HI);
        assert_int_equal(s.ends, 1);
        assert_int_equal(s.end.result, RELAY_OK);
        assert_int_equal(s.end.tries, 3);
        assert_string_equal(s.got.data, "hi");
        relay_figures(&s.fleet, &f);
        assert_int_equal(f.tries, 3);
        assert_int_equal(f.failures[RELAY_FAIL_REFUSED], 1);
        assert_int_equal(f.failures[RELAY_FAIL_RESET], 1);
        assert_int_equal(s.places[0].failed, 1);
        assert_int_equal(s.places[1].failed, 1);
        assert_int_equal(s.places[2].served, 1);

        /* All fail: refused with every reason. */
        place_close(&s.places[1]);
        place_close(&s.places[2]);
        scene_ask(&s);
        await_failure(&s);
        assert_string_equal(
                s.waiting->reasons,
                "qwen-0: connection refused; qwen-1: connection refused; qwen-2: connection refused");
        scene_refuse(&s, REFUSAL_TRIES, s.waiting->reasons);
        assert_int_equal(s.ends, 2);
        assert_int_equal(s.end.result, RELAY_REFUSED);
        assert_int_equal(s.end.status, 502);
        assert_int_equal(s.end.retry_after, 7);
        assert_false(s.end.began);
        check_outcome(&s, "tries", 502);
        scene_finish(&s);
}

/* Whether the instance can have read all of it tells the dispatch what the try was worth, should it turn out to be dying. */
static void test_what_was_read(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 2);
        place_close(&s.places[0]);
        scene_ask(&s);
        (void)place_read(&s, &s.places[1]);
        assert_int_equal(s.how, TRY_CLOSED | TRY_UNREAD);
        place_hang_up(&s.places[1]);
        await_failure(&s);
        assert_int_equal(s.how, TRY_CLOSED); /* it had read all of it */
        scene_refuse(&s, REFUSAL_TRIES, "x");

        /* Part of it, which is nothing to work on. */
        scene_ask(&s);
        for (unsigned i = 0; i < SCENE_PATIENCE && s.places[1].peer < 0; i++) {
                run_for(&s, 1000);
                s.places[1].peer = accept4(s.places[1].listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        }
        for (unsigned i = 0; i < SCENE_PATIENCE; i++) {
                char some[10];

                if (recv(s.places[1].peer, some, sizeof(some), MSG_DONTWAIT) > 0)
                        break;
                run_for(&s, 1000);
        }
        s.how = 0;
        place_hang_up(&s.places[1]);
        await_failure(&s);
        assert_int_equal(s.how, TRY_CLOSED | TRY_UNREAD);
        scene_refuse(&s, REFUSAL_TRIES, "x");

        /* Sent into the queue of a listener that closes before it took the connection. */
        s.how = 0;
        scene_ask(&s);
        run_for(&s, 20000);
        place_close(&s.places[1]);
        await_failure(&s);
        assert_int_equal(s.how, TRY_CLOSED | TRY_UNREAD);
        scene_refuse(&s, REFUSAL_TRIES, "x");
        scene_finish(&s);
}

/* On a kept connection it is stale as well. */
static void test_what_was_read_of_a_kept_one(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        for (unsigned read = 0; read < 2; read++) {
                scene_ask(&s);
                (void)place_read(&s, &s.places[0]);
                place_say(&s, &s.places[0], OK_HI);
                scene_ask(&s);
                if (read)
                        (void)place_read(&s, &s.places[0]);
                else
                        run_for(&s, 20000);
                place_hang_up(&s.places[0]);
                (void)place_read(&s, &s.places[0]);
                assert_int_equal(s.how, TRY_STALE | TRY_CLOSED | (read ? 0 : TRY_UNREAD));
                place_say(&s, &s.places[0], OK_HI);
                place_hang_up(&s.places[0]);
                run_for(&s, 1000);
        }
        scene_finish(&s);
}

/* Its own 503 goes elsewhere while there are others, and to the client when there is none. */
static void test_own_errors(void **state)
{
        static const struct {
                const char *answer;
                int status;
                bool elsewhere, failed;
        } cases[] = {
                {LOADING, 503, true, true},
                {"HTTP/1.1 500 x\r\nContent-Length: 4\r\n\r\nbusy", 500, true, true},
                {"HTTP/1.1 502 x\r\nContent-Length: 4\r\n\r\nbusy", 502, true, true},
                {"HTTP/1.1 429 x\r\nContent-Length: 4\r\n\r\nbusy", 429, true, false},
                {"HTTP/1.1 501 x\r\nContent-Length: 4\r\n\r\nbusy", 501, false, false},
                {"HTTP/1.1 400 x\r\nContent-Length: 4\r\n\r\nbusy", 400, false, false},
                {"HTTP/1.1 504 x\r\nContent-Length: 4\r\n\r\nbusy", 504, false, true},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct scene s;

                scene_init(&s, 2);
                scene_ask(&s);
                (void)place_read(&s, &s.places[0]);
                place_say(&s, &s.places[0], cases[i].answer);
                if (cases[i].elsewhere) {
                        assert_int_equal(s.heads, 0);
                        assert_true(place_sees_end(&s, &s.places[0]));
                        (void)place_read(&s, &s.places[1]);
                        place_say(&s, &s.places[1], cases[i].answer);
                }
                /* The last one's answer is passed on as it is. */
                assert_int_equal(s.ends, 1);
                assert_int_equal(s.end.result, RELAY_OK);
                assert_int_equal(s.status, cases[i].status);
                assert_string_equal(s.got.data, "busy");
                assert_int_equal(s.end.tries, cases[i].elsewhere ? 2 : 1);
                assert_int_equal(s.places[cases[i].elsewhere].failed, cases[i].failed);
                check_outcome(&s, cases[i].status >= 500 ? "upstream_error" : "client_error",
                              cases[i].status);
                scene_finish(&s);
        }
}

/* After the first byte never: not after a head, not in the middle of one. */
static void test_breaks_in_the_middle(void **state)
{
        static const struct {
                const char *answer;
                bool began;
                const char *code;
        } cases[] = {
                {STREAM TOKEN, true, "upstream_broken"},
                {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi", true, "upstream_broken"},
                {"HTTP/1.1 200 OK\r\nContent-Le", false, "upstream_broken"},
                {"H", false, "upstream_broken"},
                {"rubbish\r\n\r\n", false, "upstream_malformed"},
                {STREAM "xyz\r\n", true, "upstream_malformed"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct scene s;

                scene_init(&s, 2);
                scene_ask(&s);
                (void)place_read(&s, &s.places[0]);
                place_say(&s, &s.places[0], cases[i].answer);
                place_hang_up(&s.places[0]);
                if (!s.ends)
                        scene_wait_end(&s);
                assert_int_equal(s.end.result, cases[i].began ? RELAY_BROKEN : RELAY_REFUSED);
                assert_int_equal(s.end.status, 502);
                assert_string_equal(s.end.code, cases[i].code);
                assert_int_equal(s.end.tries, 1);
                assert_non_null(strstr(s.message, "qwen-0"));
                assert_int_equal(s.places[0].failed, 1);
                check_outcome(&s, cases[i].code, cases[i].began ? 200 : 502);
                scene_finish(&s);
        }
}

/* A kept connection that the server closes as we write on it: another try, and nobody's failure. */
static void test_stale_connection(void **state)
{
        struct relay_figures f;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], OK_HI);
        assert_int_equal(s.ends, 1);
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]); /* on the same connection */
        place_hang_up(&s.places[0]);
        /* Not on a kept one again, of which there may be more. */
        assert_non_null(strstr(place_read(&s, &s.places[0]), "\r\nConnection: close\r\n"));
        place_say(&s, &s.places[0], OK_HI);
        assert_int_equal(s.ends, 2);
        assert_int_equal(s.end.result, RELAY_OK);
        assert_int_equal(s.end.tries, 2);
        assert_int_equal(s.places[0].failed, 0);
        relay_figures(&s.fleet, &f);
        assert_int_equal(f.failures[RELAY_FAIL_STALE], 1);
        scene_finish(&s);
}

static void test_deadline_connect(void **state)
{
        struct scene s;
        int fillers[16];

        (void)state;
        scene_init(&s, 1);
        s.config.gateway.timeouts.connect = 30 * USEC_PER_MSEC;
        for (size_t i = 0; i < ARRAY_SIZE(fillers); i++) { /* its backlog of 8 is full */
                fillers[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                (void)connect(fillers[i], &s.places[0].at.addr.sa, s.places[0].at.len);
        }
        scene_ask(&s);
        scene_wait_end_with(&s, RELAY_REFUSED, 504, "upstream_timeout_connect");
        assert_string_equal(s.message, "qwen-0 took no connection within 30 ms");
        assert_int_equal(s.places[0].failed, 1);
        for (size_t i = 0; i < ARRAY_SIZE(fillers); i++)
                (void)close(fillers[i]);
        scene_finish(&s);
}

/* No byte at all, and nothing but a head and pings: the server's HTTP thread lives, its inference does not. */
static void test_deadline_first_byte(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 2);
        s.config.gateway.timeouts.first_byte = 60 * USEC_PER_MSEC;
        s.config.gateway.timeouts.idle = 20 * USEC_PER_MSEC; /* begins only with the first token */
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        scene_wait_end_with(&s, RELAY_REFUSED, 504, "upstream_timeout_first_byte");
        assert_string_equal(s.message,
                            "qwen-0 did not begin to answer within 60 ms (gateway.timeouts.first_byte)");
        assert_int_equal(s.end.tries, 1); /* it may be at work on it */
        assert_true(place_sees_end(&s, &s.places[0]));
        place_hang_up(&s.places[0]);

        s.config.gateway.timeouts.first_byte = A_WHILE;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM PING);
        for (unsigned i = 0; i < SCENE_PATIENCE && s.ends < 2; i++)
                place_say(&s, &s.places[0], PING);
        assert_int_equal(s.ends, 2);
        assert_int_equal(s.end.result, RELAY_BROKEN);
        assert_string_equal(s.end.code, "upstream_timeout_first_byte");
        assert_int_equal(s.heard, 0);
        assert_true(s.got.len > 6);
        check_outcome(&s, "upstream_timeout_first_byte", 200);
        scene_finish(&s);
}

/* Tokens move it, pings do not. */
static void test_deadline_idle(void **state)
{
        struct scene s;
        usec_t began;

        (void)state;
        scene_init(&s, 1);
        s.config.gateway.timeouts.idle = A_WHILE;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM);
        began = time_monotonic();
        while (time_monotonic() - began < 2 * A_WHILE)
                place_say(&s, &s.places[0], TOKEN);
        assert_int_equal(s.ends, 0);
        began = time_monotonic();
        while (!s.ends && time_monotonic() - began < 20 * USEC_PER_SEC)
                place_say(&s, &s.places[0], PING);
        assert_int_equal(s.ends, 1);
        assert_in_range(time_monotonic() - began, A_WHILE / 2, 10 * USEC_PER_SEC);
        assert_int_equal(s.end.result, RELAY_BROKEN);
        assert_string_equal(s.end.code, "upstream_timeout_idle");
        assert_string_equal(s.message, "qwen-0 fell silent in its answer for 1 s (gateway.timeouts.idle)");
        assert_int_equal(s.places[0].failed, 1);
        scene_finish(&s);
}

/* A paused relay waits for its reader, not for the instance. */
static void test_idle_rests_while_paused(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.config.gateway.timeouts.idle = A_WHILE;
        s.deed = PAUSE_IN_DATA;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM TOKEN);
        assert_int_equal(s.got.len, 9);
        run_for(&s, 2 * A_WHILE);
        assert_int_equal(s.ends, 0);
        place_say(&s, &s.places[0], TOKEN);
        assert_int_equal(s.got.len, 9); /* it is not read */
        s.deed = DO_NOTHING;
        relay_pause(s.relay, false);
        run_for(&s, 10000);
        assert_int_equal(s.got.len, 18);
        scene_wait_end_with(&s, RELAY_BROKEN, 504, "upstream_timeout_idle");
        scene_finish(&s);
}

/* All of it came with its head, behind which the owner paused: the deadline of an answer that is over must not be met by the next. */
static void test_no_deadline_outlives_its_answer(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.config.gateway.timeouts.first_byte = A_WHILE;
        s.deed = PAUSE_IN_HEAD;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM TOKEN LAST);
        if (!s.ends)
                scene_wait_end(&s);
        assert_int_equal(s.end.result, RELAY_OK);
        run_for(&s, A_WHILE + A_WHILE / 2);
        assert_int_equal(s.ends, 1);
        scene_finish(&s);
}

static void test_deadline_total(void **state)
{
        struct scene s;
        usec_t began = time_monotonic();

        (void)state;
        scene_init(&s, 1);
        s.config.gateway.timeouts.total = A_WHILE;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM);
        while (!s.ends && time_monotonic() - began < 20 * USEC_PER_SEC)
                place_say(&s, &s.places[0], TOKEN);
        assert_int_equal(s.end.result, RELAY_BROKEN);
        assert_string_equal(s.end.code, "upstream_timeout_total");
        assert_true(place_sees_end(&s, &s.places[0]));
        scene_finish(&s);
}

/* The client goes: while it waits, before the head, in the middle; the instance sees it at once. */
static void test_cancel_in_each_phase(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.hold = true;
        scene_ask(&s);
        assert_null(relay_instance(s.relay));
        relay_cancel(s.relay);
        assert_int_equal(s.tickets, 0);
        check_outcome(&s, "client_gone", 0);

        s.hold = false;
        scene_ask(&s);
        relay_cancel(s.relay); /* before the connection is there */
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        relay_cancel(s.relay);
        assert_int_equal(s.tickets, 0);
        assert_true(place_sees_end(&s, &s.places[0]));
        place_hang_up(&s.places[0]);

        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM TOKEN);
        relay_cancel(s.relay);
        assert_true(place_sees_end(&s, &s.places[0]));
        check_outcome(&s, "client_gone", 200);
        assert_int_equal(s.ends, 0);
        assert_int_equal(s.places[0].cancelled, 3);
        assert_int_equal(s.places[0].failed, 0);
        scene_finish(&s);
}

static void test_cancel_by_id(void **state)
{
        struct json_value *root;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        assert_int_equal(relay_cancel_id(&s.fleet, "req-000000000001", "x"), -ENOENT);
        s.hold = true;
        scene_ask(&s);
        assert_int_equal(relay_cancel_id(&s.fleet, "req-000000000001", "an admin did"), 0);
        assert_int_equal(s.ends, 0);
        assert_int_equal(s.tickets, 0);
        scene_wait_end_with(&s, RELAY_CANCELLED, 499, "cancelled");
        assert_string_equal(s.message, "an admin did");
        assert_string_equal(s.id, "req-000000000001");

        s.hold = false;
        s.deed = CANCEL_ID_IN_DATA;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM TOKEN TOKEN);
        if (s.ends < 2)
                scene_wait_end(&s);
        assert_int_equal(s.end.result, RELAY_CANCELLED);
        assert_true(s.end.began);
        assert_true(place_sees_end(&s, &s.places[0]));
        check_outcome(&s, "cancelled", 200);

        /* Its owner goes before it was told. */
        s.deed = DO_NOTHING;
        place_hang_up(&s.places[0]);
        scene_ask(&s);
        assert_int_equal(relay_cancel_id(&s.fleet, relay_id(s.relay), "x"), 0);
        relay_cancel(s.relay);
        run_for(&s, 10000);
        assert_int_equal(s.ends, 2);
        check_outcome(&s, "cancelled", 0);
        root = records(&s, "running");
        assert_int_equal(json_count(json_get(root, "running")), 0);
        json_free(root);
        scene_finish(&s);
}

static void revoke_lease(struct scene *s, const char *why)
{
        struct ticket *t;

        /* The only one there is: its relay holds it. */
        assert_int_equal(s->tickets, 1);
        assert_non_null(s->relay);
        t = steal_ptr(s->waiting);
        assert_non_null(t);
        t->events->on_revoke(t->owner, t, why);
}

/* Its instance goes: elsewhere while nothing came, else broken. */
static void test_revoke(void **state)
{
        struct scene s;
        struct ticket *t;

        (void)state;
        scene_init(&s, 2);
        s.hold = true;
        scene_ask(&s);
        t = s.waiting;
        s.hold = false;
        scene_grant(&s);
        (void)place_read(&s, &s.places[0]);
        s.waiting = t;
        revoke_lease(&s, "it stops");
        assert_true(place_sees_end(&s, &s.places[0]));
        (void)place_read(&s, &s.places[1]);
        place_say(&s, &s.places[1], STREAM TOKEN);
        assert_int_equal(s.heads, 1);
        s.waiting = t;
        revoke_lease(&s, "it stops too");
        assert_int_equal(s.ends, 1);
        assert_int_equal(s.end.result, RELAY_BROKEN);
        assert_string_equal(s.end.code, "instance_gone");
        assert_string_equal(s.message, "qwen-1 went in the middle of its answer: it stops too");
        assert_true(place_sees_end(&s, &s.places[1]));
        scene_finish(&s);
}

static void test_waiting(void **state)
{
        struct ticket_progress p;
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.hold = true;
        scene_ask(&s);
        assert_true(relay_progress(s.relay, &p));
        assert_int_equal(p.position, 2);
        assert_int_equal(relay_waited(s.relay), 123);
        assert_int_equal(relay_tries(s.relay), 0);
        relay_pause(s.relay, true); /* holds for the try that comes */
        scene_grant(&s);
        assert_false(relay_progress(s.relay, &p));
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], OK_HI);
        assert_int_equal(s.heads, 0);
        relay_pause(s.relay, false);
        scene_wait_end_with(&s, RELAY_OK, 200, "ok");

        scene_ask(&s);
        scene_refuse(&s, REFUSAL_QUEUE_FULL, "too many wait");
        assert_int_equal(s.ends, 2);
        assert_int_equal(s.end.status, 429);
        assert_string_equal(s.end.code, "queue_full");
        assert_string_equal(s.message, "too many wait");
        check_outcome(&s, "queue_full", 429);
        scene_ask(&s);
        scene_refuse(&s, REFUSAL_TIMEOUT, "too long");
        assert_int_equal(s.end.status, 503);
        scene_ask(&s);
        scene_refuse(&s, REFUSAL_REMOVED, NULL);
        assert_int_equal(s.end.status, 404);
        scene_finish(&s);
}

/* The owner may do anything in a callback. */
static void test_deeds_in_callbacks(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 1);
        s.deed = CANCEL_IN_HEAD;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], OK_HI);
        assert_int_equal(s.heads, 1);
        assert_int_equal(s.got.len, 0);
        place_hang_up(&s.places[0]);

        s.deed = CANCEL_IN_DATA;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], STREAM TOKEN);
        assert_int_equal(s.got.len, 9);
        place_hang_up(&s.places[0]);

        s.deed = CANCEL_IN_END;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        place_say(&s, &s.places[0], OK_HI);
        assert_int_equal(s.ends, 1);

        s.deed = AGAIN_IN_END;
        s.again = 2;
        scene_ask(&s);
        for (unsigned i = 0; i < 3; i++) {
                (void)place_read(&s, &s.places[0]);
                place_say(&s, &s.places[0], OK_HI);
        }
        assert_int_equal(s.ends, 4);
        assert_int_equal(s.tickets, 0);
        /* What still runs is ended with the fleet. */
        s.deed = DO_NOTHING;
        scene_ask(&s);
        (void)place_read(&s, &s.places[0]);
        scene_finish(&s);
        assert_int_equal(s.ends, 4);
}

/* No descriptor for a connection: our trouble, not the instance's. */
static void test_local_trouble(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s, 2);
        s.places[0].up = upstream_free(s.places[0].up);
        scene_ask(&s);
        scene_wait_end_with(&s, RELAY_REFUSED, 503, "local_trouble");
        assert_int_equal(s.places[0].cancelled, 1);
        assert_int_equal(s.places[0].failed, 0);
        scene_finish(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_forwards),
                cmocka_unit_test(test_request_id),
                cmocka_unit_test(test_impossible_requests),
                cmocka_unit_test(test_tries_elsewhere),
                cmocka_unit_test(test_what_was_read),
                cmocka_unit_test(test_what_was_read_of_a_kept_one),
                cmocka_unit_test(test_own_errors),
                cmocka_unit_test(test_breaks_in_the_middle),
                cmocka_unit_test(test_stale_connection),
                cmocka_unit_test(test_deadline_connect),
                cmocka_unit_test(test_deadline_first_byte),
                cmocka_unit_test(test_deadline_idle),
                cmocka_unit_test(test_idle_rests_while_paused),
                cmocka_unit_test(test_no_deadline_outlives_its_answer),
                cmocka_unit_test(test_deadline_total),
                cmocka_unit_test(test_cancel_in_each_phase),
                cmocka_unit_test(test_cancel_by_id),
                cmocka_unit_test(test_revoke),
                cmocka_unit_test(test_waiting),
                cmocka_unit_test(test_deeds_in_callbacks),
                cmocka_unit_test(test_local_trouble),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
