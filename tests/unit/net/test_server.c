/* test_server.c: answers, pipelining, refusals and bodies of the HTTP listener. */
#include "net/server_scene.h"

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void whole_answers(void **state)
{
        static const struct {
                const char *request, *answer;
                bool kept;
        } rows[] = {
                {"GET /hi HTTP/1.1\r\nHost: a\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi",
                 true},
                {"HEAD /hi HTTP/1.1\r\nHost: a\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 2\r\n\r\n", true},
                {"GET /hi HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 2\r\nConnection: "
                 "close\r\n\r\nhi",
                 false},
                {"GET /hi HTTP/1.0\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 2\r\nConnection: "
                 "close\r\n\r\nhi",
                 false},
                {"GET /hi HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 2\r\nConnection: "
                 "keep-alive\r\n\r\nhi",
                 true},
                {"GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", true},
                {"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
                 "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", true},
                {"GET /echo-query?a=1&b HTTP/1.1\r\nHost: a\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na=1&b", true},
        };
        struct scene *s;

        (void)state;
        for (unsigned tcp = 0; tcp < 2; tcp++)
                for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                        int fd;

                        s = scene_new(NULL, tcp ? "127.0.0.1:0" : NULL);
                        fd = client(s);
                        say(fd, rows[i].request);
                        if (rows[i].kept) {
                                hear(s, fd, rows[i].answer);
                                assert_true(still_open(s, fd));
                        } else {
                                assert_false(hear(s, fd, NULL));
                        }
                        assert_string_equal(s->heard, rows[i].answer);
                        assert_int_equal(server_counts(s->server)->requests, 1);
                        assert_int_equal(server_counts(s->server)->accepted, 1);
                        close(fd);
                        run_for(s, 3000);
                        assert_int_equal(server_counts(s->server)->connections, 0);
                        scene_free(s);
                }
}

static void request_byte_by_byte(void **state)
{
        static const char text[] =
                "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n";
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        for (size_t i = 0; i + 1 < sizeof text; i++) {
                say_n(fd, text + i, 1);
                run_for(s, 100);
        }
        hear(s, fd, "\r\n\r\nhi");
        assert_string_equal(s->body, "abcde");
        assert_int_equal(s->seen, 2);
        close(fd);
        scene_free(s);
}

static void who_asks_where(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        const struct http1_request *head;
        int fd = client(s);

        (void)state;
        say(fd, "GET /later?q HTTP/1.1\r\nHost: a\r\nX-Long: v\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_string_equal(request_peer(s->reqs[0]), "127.0.0.1");
        assert_string_equal(listener_tag(request_listener(s->reqs[0])), "door");
        assert_true(slice_eq_str(request_head(s->reqs[0])->host, "a"));
        /* The head stays readable whatever comes behind it. */
        say(fd, "PUT /hi HTTP/1.1\r\nAccept: zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\r\nHost: "
                "b\r\n\r\n");
        run_for(s, 3000);
        head = request_head(s->reqs[0]);
        assert_true(slice_eq_str(head->method_name, "GET"));
        assert_true(slice_eq_str(head->target, "/later?q"));
        assert_true(slice_eq_str(head->path, "/later"));
        assert_true(slice_eq_str(head->query, "q"));
        assert_true(slice_eq_str(head->host, "a"));
        assert_true(slice_eq_str(head->headers[1].name, "X-Long"));
        assert_true(slice_eq_str(head->headers[1].value, "v"));
        request_respond(s->reqs[0], 200, NULL, NULL, "first", 5);
        hear(s, fd, "\r\n\r\nhi");
        close(fd);
        scene_free(s);

        s = scene_new(NULL, NULL);
        fd = client(s);
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_string_equal(request_peer(s->reqs[0]), "unix");
        close(fd);
        wait_for(s, &s->gone, 1);
        scene_free(s);
}

static void a_header_that_cannot_be_sent(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /bad-header HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        assert_int_equal(count(s->heard, "HTTP/1.1 "), 1);
        assert_non_null(strstr(s->heard, "HTTP/1.1 500 "));
        close(fd);
        scene_free(s);
}

/* --- pipelining --------------------------------------------------------------------------------------------------- */

static void say_many(int fd, int n)
{
        struct buffer text;

        buffer_init(&text, 0);
        for (int i = 0; i < n; i++)
                (void)buffer_printf(&text, "GET /echo-query?n=%d; HTTP/1.1\r\nHost: a\r\n\r\n", i);
        say_n(fd, text.data, text.len);
        buffer_finish(&text);
}

struct pace {
        struct scene *scene;
        unsigned before, most;
};

static void on_turn(void *owner, usec_t now)
{
        struct pace *p = owner;

        (void)now;
        p->most = MAX(p->most, p->scene->seen - p->before);
        p->before = p->scene->seen;
}

static void thousand_pipelined(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        struct pace pace = {.scene = s};
        int fd = client(s);
        char line[64];

        (void)state;
        assert_int_equal(loop_add_turn(s->loop, on_turn, &pace), 0);
        say_many(fd, 1000);
        hear(s, fd, "n=999;");
        loop_remove_turn(s->loop, on_turn, &pace);
        /* One client does not keep the loop to itself. */
        assert_in_range(pace.most, 50, 300);
        assert_int_equal(s->seen, 1000);
        for (int i = 0, at = 0; i < 1000; i++) {
                char *found;

                (void)snprintf(line, sizeof line, "n=%d;", i);
                found = strstr(s->heard + at, line);
                assert_non_null(found);
                at = (int)(found - s->heard);
        }
        assert_int_equal(count(s->heard, "HTTP/1.1 200 OK"), 1000);
        close(fd);
        scene_free(s);
}

/* The same, and the client shuts its sending side at once: all that came before is still answered. */
static void pipelined_then_shut(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say_many(fd, 700);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_false(hear(s, fd, NULL));
        assert_int_equal(count(s->heard, "HTTP/1.1 200 OK"), 700);
        close(fd);
        scene_free(s);
}

static void half_closed_client_gets_all(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        usec_t began;

        (void)state;
        say(fd, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->seen, 1);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        run_for(s, 5000);
        assert_false(hear(s, fd, NULL));
        assert_in_range(s->heard_len, BIG, BIG + 200);
        /* Both have said all there is to say: nothing lingers. */
        began = time_monotonic();
        while (server_counts(s->server)->connections) {
                run_for(s, 1000);
                assert_true(time_monotonic() - began < USEC_PER_SEC);
        }
        close(fd);
        scene_free(s);
}

static void order_is_kept(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        run_for(s, 3000);
        assert_int_equal(s->seen, 1);
        request_respond(s->reqs[0], 200, NULL, NULL, "first", 5);
        assert_int_equal(s->seen, 1); /* not from inside */
        hear(s, fd, "\r\n\r\nhi");
        assert_true(strstr(s->heard, "first") < strstr(s->heard, "\r\n\r\nhi"));

        /* Behind a closing one nothing is looked at. */
        say(fd,
            "GET /hi HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        assert_int_equal(s->seen, 3);
        close(fd);
        scene_free(s);
}

/* Requests without end and no answer read: neither input nor output grows. */
static void pipelining_without_reading(void **state)
{
        static const char text[] = "GET /big HTTP/1.1\r\nHost: a\r\n\r\n";
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        size_t sent = 0, total = 0;

        (void)state;
        for (unsigned refused = 0; refused < 100 && sent < 10000000;) {
                ssize_t n = send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n > 0)
                        sent += (size_t)n;
                else {
                        refused++;
                        run_for(s, 100);
                }
        }
        run_for(s, 10000);
        assert_in_range(s->seen, 1, 4);
        assert_true(sent < 600000);
        /* What was accepted is answered once it is read. */
        while (total < 20 * (size_t)BIG) {
                ssize_t n = recv(fd, s->heard, sizeof s->heard, MSG_DONTWAIT);

                if (n > 0)
                        total += (size_t)n;
                else
                        run_for(s, 200);
        }
        close(fd);
        scene_free(s);
}

/* --- what is refused ---------------------------------------------------------------------------------------------- */

static void refusals(void **state)
{
        static const struct {
                const char *request, *status;
        } rows[] = {
                {"rubbish\r\n\r\n", "400"},
                {"GET /hi\r\n\r\n", "400"},
                {"\x16\x03\x01\x02\r\n\r\n", "400"},
                {"GET /hi HTTP/1.1\r\n\r\n", "400"},
                {"GET /hi HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"},
                {"GET /hi HTTP/1.1\nHost: a\n\n", "400"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: "
                 "chunked\r\n\r\n0\r\n\r\n",
                 "400"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "400"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
                 "400"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "501"},
                {"GET /hi HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
                {"GET /hi HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", "400"},
                {"GET /hi HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", "400"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct scene *s = scene_new(NULL, NULL);
                char line[64];
                int fd = client(s);

                say(fd, rows[i].request);
                say(fd, "GET /hi HTTP/1.1\r\nHost: smuggled\r\n\r\n");
                assert_false(hear(s, fd, NULL));
                (void)snprintf(line, sizeof line, "HTTP/1.1 %s ", rows[i].status);
                if (!starts_with(s->heard, line))
                        fail_msg("row %zu: %.200s", i, s->heard);
                assert_int_equal(count(s->heard, "HTTP/1.1 "), 1);
                assert_non_null(strstr(s->heard, "\r\nConnection: close\r\n"));
                assert_non_null(strstr(s->heard, "\r\nContent-Type: application/json\r\n"));
                assert_non_null(strstr(s->heard, "\r\n\r\n{\"error\":{\"message\":\""));
                (void)snprintf(line, sizeof line, "\",\"type\":\"%s\",\"code\":%s,\"param\":null}}",
                               rows[i].status[0] == '5' ? "server_error" : "invalid_request_error",
                               rows[i].status);
                assert_true(ends_with(s->heard, line));
                assert_int_equal(s->seen, 0);
                assert_int_equal(server_counts(s->server)->bad_requests, 1);
                close(fd);
                scene_free(s);
        }
}

static void heads_too_big(void **state)
{
        static const char *const status[] = {"HTTP/1.1 414 ", "HTTP/1.1 431 ", "HTTP/1.1 431 "};
        char *text = malloc(1100000);

        (void)state;
        assert_non_null(text);
        for (unsigned i = 0; i < ARRAY_SIZE(status); i++) {
                struct scene *s = scene_new(NULL, NULL);
                size_t n = 0, sent = 0;
                int fd = client(s);

                n += (size_t)sprintf(text, i == 0 ? "GET /" : "GET /hi HTTP/1.1\r\nHost: a\r\n");
                if (i == 0)
                        n += (size_t)sprintf(text + n, "%0*d", 9000, 0);
                else if (i == 1)
                        n += (size_t)sprintf(text + n, "A: %0*d\r\n\r\n", 1000000, 0);
                else
                        for (unsigned j = 0; j < 10000; j++)
                                n += (size_t)sprintf(text + n, "H%u: x\r\n", j);
                while (sent < n) {
                        ssize_t r = send(fd, text + sent, n - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                        if (r > 0)
                                sent += (size_t)r;
                        else if (errno == EAGAIN)
                                run_for(s, 200);
                        else
                                break;
                }
                hear(s, fd, "}}");
                assert_true(starts_with(s->heard, status[i]));
                assert_int_equal(s->seen, 0);
                close(fd);
                scene_free(s);
        }
        free(text);
}

/* --- bodies ------------------------------------------------------------------------------------------------------- */

static void bodies(void **state)
{
        static const struct {
                const char *request, *body, *answer;
        } rows[] = {
                {"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "hello",
                 "\r\n\r\nhello"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "",
                 "Content-Length: 0\r\n\r\n"},
                {"POST /body HTTP/1.1\r\nHost: a\r\n\r\n", "", "Content-Length: 0\r\n\r\n"},
                {"GET /body HTTP/1.1\r\nHost: a\r\n\r\n", "", "Content-Length: 0\r\n\r\n"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
                 "chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
                 "hello!", "\r\n\r\nhello!"},
                {"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "",
                 "Content-Length: 0\r\n\r\n"},
        };
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                forget(s);
                say(fd, rows[i].request);
                hear(s, fd, rows[i].answer);
                assert_int_equal(s->bodies, i + 1);
                assert_int_equal(s->body_len, strlen(rows[i].body));
                assert_memory_equal(s->body, rows[i].body, s->body_len);
        }
        assert_int_equal(s->gone, 0);
        close(fd);
        scene_free(s);
}

static void body_refused(void **state)
{
        static const struct {
                const char *head, *body;
                unsigned body_filler;
                const char *status;
        } rows[] = {
                {"Content-Length: 1001", "", 0, "HTTP/1.1 413 "},
                {"Content-Length: 9999999999999", "", 0, "HTTP/1.1 413 "},
                {"Expect: 100-continue\r\nContent-Length: 1001", "", 0, "HTTP/1.1 413 "},
                {"Transfer-Encoding: chunked", "3e9\r\n", 1001, "HTTP/1.1 413 "},
                {"Transfer-Encoding: chunked", "fffffffff\r\n", 0, "HTTP/1.1 413 "},
                {"Transfer-Encoding: chunked", "g\r\n", 0, "HTTP/1.1 400 "},
                {"Transfer-Encoding: chunked", "3\r\nabcd\r\n", 0, "HTTP/1.1 400 "},
                {"Transfer-Encoding: chunked", "3\nabc", 0, "HTTP/1.1 400 "},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct scene *s = scene_new(NULL, NULL);
                int fd = client(s);

                say(fd, "POST /body HTTP/1.1\r\nHost: a\r\n");
                say(fd, rows[i].head);
                say(fd, "\r\n\r\n");
                say(fd, rows[i].body);
                say_n(fd, big, rows[i].body_filler);
                assert_false(hear(s, fd, NULL));
                if (!starts_with(s->heard, rows[i].status))
                        fail_msg("row %zu: %.200s", i, s->heard);
                assert_non_null(strstr(s->heard, "{\"error\":{"));
                assert_int_equal(s->bodies, 0);
                assert_int_equal(s->gone, 1);
                assert_int_equal(server_counts(s->server)->bad_requests, 1);
                close(fd);
                scene_free(s);
        }
}

/* A body of exactly the bound passes. */
static void body_at_its_bound(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        char filler[1001];
        int fd = client(s);

        (void)state;
        memset(filler, 'x', 1000);
        filler[1000] = '\0';
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        say(fd, filler);
        wait_for(s, &s->bodies, 1);
        assert_int_equal(s->body_len, 1000);
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n");
        say(fd, filler);
        say(fd, "\r\n0\r\n\r\n");
        wait_for(s, &s->bodies, 2);
        assert_int_equal(s->body_len, 1000);
        close(fd);
        scene_free(s);
}

static void hundred_continue(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        hear(s, fd, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_string_equal(s->heard, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_int_equal(s->bodies, 0);
        say(fd, "hello");
        hear(s, fd, "\r\n\r\nhello");

        /* Not asked for by the owner: no 100, and nobody knows what the client sends next. */
        forget(s);
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 200 "));
        assert_non_null(strstr(s->heard, "Connection: close"));
        close(fd);

        /* The body is there already: no 100 either. */
        fd = client(s);
        forget(s);
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
        hear(s, fd, "\r\n\r\nhello");
        assert_true(starts_with(s->heard, "HTTP/1.1 200 "));
        close(fd);
        scene_free(s);
}

static void body_asked_for_later(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
        wait_for(s, &s->n_reqs, 1);
        run_for(s, 2000);
        assert_int_equal(request_read_body(s->reqs[0], 100, on_body, s), 0);
        assert_int_equal(s->bodies, 0);
        run_for(s, 2000);
        assert_int_equal(s->bodies, 0);
        say(fd, "loGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        hear(s, fd, "\r\n\r\nhi");
        assert_string_equal(s->body, "hello");

        /* Whole before it is asked for. */
        say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nall");
        wait_for(s, &s->n_reqs, 2);
        run_for(s, 2000);
        assert_int_equal(request_read_body(s->reqs[1], 100, on_body, s), 0);
        assert_int_equal(s->bodies, 1);
        wait_for(s, &s->bodies, 2);
        assert_int_equal(s->body_len, 3);

        /* The owner takes its time behind the body, too. */
        s->answer_later = true;
        say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        wait_for(s, &s->n_reqs, 3);
        assert_int_equal(request_read_body(s->reqs[2], 100, on_body, s), 0);
        run_for(s, 5000);
        assert_int_equal(s->bodies, 3);
        request_respond(s->reqs[2], 200, NULL, NULL, "slow", 4);
        hear(s, fd, "\r\n\r\nslow");

        /* No body at all is allowed. */
        say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n");
        wait_for(s, &s->n_reqs, 4);
        assert_int_equal(request_read_body(s->reqs[3], 0, on_body, s), 0);
        forget(s);
        assert_false(hear(s, fd, NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 413 "));
        assert_int_equal(s->gone, 1);
        close(fd);
        scene_free(s);
}

/* The owner begins its answer while the body still comes, and then the body turns out to be broken: no second answer. */
static void broken_body_behind_an_answer(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "POST /later HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        assert_int_equal(request_read_body(s->reqs[0], 100, on_body, s), 0);
        request_begin(s->reqs[0], 200, NULL, NULL);
        assert_int_equal(request_read_body(s->reqs[0], 100, on_body, s), -EINVAL);
        hear(s, fd, "\r\n\r\n");
        say(fd, "zz\r\n");
        assert_false(hear(s, fd, NULL));
        assert_int_equal(count(s->heard, "HTTP/1.1"), 1);
        assert_null(strstr(s->heard, "error"));
        assert_int_equal(s->gone, 1);
        close(fd);
        scene_free(s);
}

static void unread_bodies(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        /* A small one is dropped, and the connection goes on, even if the body comes late. */
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nGET /smuggled ");
        hear(s, fd, "\r\n\r\nhi");
        say(fd, "HTTP/1GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fd, "\r\n\r\nhi");
        assert_int_equal(s->seen, 2);

        /* A large one, or one of unknown length, costs the connection. */
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n");
        forget(s);
        assert_false(hear(s, fd, NULL));
        assert_non_null(strstr(s->heard, "Connection: close"));
        close(fd);
        fd = client(s);
        say(fd, "POST /hi HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        forget(s);
        assert_false(hear(s, fd, NULL));
        assert_non_null(strstr(s->heard, "Connection: close"));
        close(fd);
        scene_free(s);
}

/* The answer of a refused upload is not lost to a reset although the client goes on sending. */
static void refused_upload_hears_why(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        int fd = client(s);

        (void)state;
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        for (unsigned i = 0; i < 40; i++) {
                say_n(fd, big, 10000);
                run_for(s, 500);
        }
        hear(s, fd, "}}");
        assert_true(starts_with(s->heard, "HTTP/1.1 413 "));
        assert_false(hear(s, fd, NULL));
        assert_int_equal(server_counts(s->server)->connections, 1);
        close(fd);
        run_for(s, 5000);
        assert_int_equal(server_counts(s->server)->connections, 0);
        scene_free(s);
}

/* What comes after a refusal is read and dropped, but not for ever. */
static void endless_refused_upload(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        usec_t began = time_monotonic();
        size_t sent = 0;

        (void)state;
        say(fd, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        while (server_counts(s->server)->connections || !s->gone) {
                ssize_t n = send(fd, big, sizeof big, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n > 0)
                        sent += (size_t)n;
                else
                        run_for(s, 0);
                assert_true(time_monotonic() - began < 15 * USEC_PER_SEC);
        }
        assert_true(sent < 18000000);
        close(fd);
        scene_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(whole_answers),
                cmocka_unit_test(request_byte_by_byte),
                cmocka_unit_test(who_asks_where),
                cmocka_unit_test(a_header_that_cannot_be_sent),
                cmocka_unit_test(thousand_pipelined),
                cmocka_unit_test(pipelined_then_shut),
                cmocka_unit_test(half_closed_client_gets_all),
                cmocka_unit_test(order_is_kept),
                cmocka_unit_test(pipelining_without_reading),
                cmocka_unit_test(refusals),
                cmocka_unit_test(heads_too_big),
                cmocka_unit_test(bodies),
                cmocka_unit_test(body_refused),
                cmocka_unit_test(body_at_its_bound),
                cmocka_unit_test(hundred_continue),
                cmocka_unit_test(body_asked_for_later),
                cmocka_unit_test(broken_body_behind_an_answer),
                cmocka_unit_test(unread_bodies),
                cmocka_unit_test(endless_refused_upload),
                cmocka_unit_test(refused_upload_hears_why),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
