/* test_answers.c: streamed answers whose length is known, answers that break, and the bound on all bodies together. */
#include "server_scene.h"

static struct request *ask(struct scene *s, int fd, const char *head)
{
        unsigned n = s->n_reqs;

        say(fd, head);
        wait_for(s, &s->n_reqs, n + 1);
        return s->reqs[n];
}

static void a_length_that_is_known(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);
        struct request *req = ask(s, fd, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");

        (void)state;
        request_begin_sized(req, 200, "text/plain", "X-A: b\r\n", 5);
        assert_int_equal(request_write(req, "hel", 3), 0);
        assert_int_equal(request_write(req, "lo!", 3), -EMSGSIZE);
        assert_int_equal(request_write(req, "lo", 2), 0);
        request_end(req);
        assert_true(hear(s, fd, "hello"));
        assert_string_equal(s->heard,
                            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nContent-Length: 5\r\n"
                            "\r\nhello");
        /* The connection goes on. */
        forget(s);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, fd, "\r\n\r\nhi"));
        (void)close(fd);
        scene_free(s);
}

static void other_ways_to_tell_a_length(void **state)
{
        static const struct {
                const char *request, *answer;
                int status;
                bool open;
        } rows[] = {
                {"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200,
                 true},
                {"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", 200, true},
                {"GET /x HTTP/1.0\r\n\r\n",
                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", 200, false},
                {"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", 204, true},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct scene *s = scene_new(NULL, NULL);
                int fd = client(s);
                struct request *req = ask(s, fd, rows[i].request);

                request_begin_sized(req, rows[i].status, NULL, NULL, rows[i].status == 204 ? 0 : 5);
                if (rows[i].status != 204)
                        assert_int_equal(request_write(req, "hello", 5), 0);
                request_end(req);
                if (rows[i].open) {
                        assert_true(hear(s, fd, rows[i].answer));
                        assert_true(still_open(s, fd));
                } else {
                        assert_false(hear(s, fd, NULL));
                }
                assert_string_equal(s->heard, rows[i].answer);
                (void)close(fd);
                scene_free(s);
        }
}

static void a_broken_answer_says_all_it_has(void **state)
{
        _cleanup_free_ char *piece = malloc(300000);

        (void)state;
        memset(piece, 'q', 300000);
        /* Chunked, with a length, and ended too early: the last words come, and the end is none. */
        for (unsigned how = 0; how < 3; how++) {
                struct scene *s = scene_new(NULL, NULL);
                int fd = client(s);
                struct request *req = ask(s, fd, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
                unsigned gone = s->gone;

                if (how == 0)
                        request_begin(req, 200, NULL, NULL);
                else
                        request_begin_sized(req, 200, NULL, NULL, 400000);
                /* More than the socket takes at once. */
                assert_int_equal(request_write(req, piece, 300000), 0);
                assert_int_equal(request_write(req, "last words", 10), 0);
                assert_true(request_queued(req) > 0);
                if (how == 2)
                        request_end(req);
                else
                        request_break(req);
                assert_false(hear(s, fd, NULL));
                assert_non_null(strstr(s->heard, "last words"));
                assert_null(strstr(s->heard, "\r\n0\r\n\r\n"));
                assert_int_equal(s->gone, gone);
                (void)close(fd);
                scene_free(s);
        }
        /* A head that still waits goes out, too. */
        {
                struct scene *s = scene_new(NULL, NULL);
                int fd = client(s);
                struct request *req = ask(s, fd, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n");

                request_begin(req, 200, NULL, NULL);
                request_break(req);
                assert_false(hear(s, fd, NULL));
                assert_string_equal(s->heard, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                (void)close(fd);
                scene_free(s);
        }
}

static void bodies_together_are_bounded(void **state)
{
        struct server_limits limits = server_limits_default;
        struct scene *s;
        int one, two, three;

        (void)state;
        limits.bodies_max = 1000;
        s = scene_new(&limits, NULL);
        s->answer_later = true;
        one = client(s);
        two = client(s);
        three = client(s);
        /* One holds 700 bytes; a second of 400 is not begun; one of unknown length is cut at the bound. */
        say(one, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 700\r\n\r\n");
        say_n(one, big, 700);
        wait_for(s, &s->bodies, 1);
        {
                struct request *req =
                        ask(s, two, "POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 400\r\n\r\n");

                assert_int_equal(request_read_body(req, 1000, on_body, s), -ENOBUFS);
                assert_int_equal(server_counts(s->server)->refused_bodies, 1);
                request_respond(req, 503, NULL, NULL, NULL, 0);
                assert_true(hear(s, two, "HTTP/1.1 503 "));
        }
        forget(s);
        say(three, "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n12c\r\n");
        say_n(three, big, 300);
        say(three, "\r\n");
        run_for(s, 3000);
        assert_int_equal(server_counts(s->server)->refused_bodies, 1);
        say(three, "1\r\nz\r\n");
        assert_true(hear(s, three, "too many large bodies"));
        assert_non_null(strstr(s->heard, "HTTP/1.1 503 "));
        assert_int_equal(server_counts(s->server)->refused_bodies, 2);
        wait_for(s, &s->gone, 1);
        /* What has gone makes room again. */
        (void)close(one);
        wait_for(s, &s->gone, 2);
        forget(s);
        (void)close(two);
        two = client(s);
        s->answer_later = false;
        say(two, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        say_n(two, big, 1000);
        assert_true(hear(s, two, "HTTP/1.1 200 "));
        (void)close(two);
        (void)close(three);
        scene_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_length_that_is_known),
                cmocka_unit_test(other_ways_to_tell_a_length),
                cmocka_unit_test(a_broken_answer_says_all_it_has),
                cmocka_unit_test(bodies_together_are_bounded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
