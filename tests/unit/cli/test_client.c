/* test_client.c: whole answers and streams of a server that answers well, badly, in pieces, too late or not at all. */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#include "base/macros.h"

enum { STEP_MAX = 8 };

/* Answers one connection: waits for the request's head, then sends the steps with a pause between them, then closes (or waits until
 * the client does). */
struct fake {
        char dir[32], path[64];
        int fd;
        pthread_t thread;
        const char *steps[STEP_MAX];
        size_t lengths[STEP_MAX]; /* 0: strlen */
        bool hangs;               /* does not close */
        char request[4096];
};

static void *serve(void *owner)
{
        struct fake *f = owner;
        int fd = accept(f->fd, NULL, NULL);
        size_t len = 0;
        ssize_t n;

        if (fd < 0)
                return NULL;
        while (len < sizeof(f->request) - 1 && !strstr(f->request, "\r\n\r\n") &&
               (n = read(fd, f->request + len, sizeof(f->request) - 1 - len)) > 0)
                len += (size_t)n;
        for (size_t i = 0; i < STEP_MAX && f->steps[i]; i++) {
                size_t size = f->lengths[i] ? f->lengths[i] : strlen(f->steps[i]);

                if (i)
                        (void)poll(NULL, 0, 10);
                for (size_t at = 0; at < size; at += (size_t)n) {
                        n = send(fd, f->steps[i] + at, size - at, MSG_NOSIGNAL);
                        if (n <= 0)
                                break;
                }
        }
        if (f->hangs) {
                char byte;

                (void)!read(fd, &byte, 1);
        }
        (void)close(fd);
        return NULL;
}

static void fake_open(struct fake *f)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        (void)snprintf(f->dir, sizeof(f->dir), "/tmp/lsv-cli-XXXXXX");
        assert_non_null(mkdtemp(f->dir));
        (void)snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
        (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->path);
        f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(f->fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(f->fd, 4), 0);
        assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void fake_close(struct fake *f)
{
        (void)shutdown(f->fd, SHUT_RDWR);
        assert_int_equal(pthread_join(f->thread, NULL), 0);
        (void)close(f->fd);
        (void)unlink(f->path);
        (void)rmdir(f->dir);
}

#define FAKE(...)                                                                                            \
        {                                                                                                    \
                .steps = {__VA_ARGS__},                                                                      \
        }

static void whole_answers(void **state)
{
        static const struct {
                const char *steps[STEP_MAX];
                int status;
                const char *body;
        } rows[] = {
                {{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"}, 200, "{}"},
                {{"HTTP/1.1 200 OK\r\nContent-", "Length: 4\r\n", "\r\n{", "1", "2}"}, 200, "{12}"},
                {{"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r",
                  "\n2\r\nde\r\n0\r\n\r\n"},
                 404,
                 "abcde"},
                {{"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "until", " close"}, 200, "until close"},
                {{"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 202 Accepted\r\nContent-Length: 1\r\n\r\nx"},
                 202,
                 "x"},
                {{"HTTP/1.1 204 No Content\r\n\r\n"}, 204, ""},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct client_answer a = {0};
                struct fake f = {.fd = -1};

                memcpy(f.steps, rows[i].steps, sizeof(f.steps));
                fake_open(&f);
                assert_int_equal(client_request(f.path, "GET", "/api/v1/status", CLIENT_TIMEOUT, &a), 0);
                assert_int_equal(a.status, rows[i].status);
                assert_int_equal(a.body.len, strlen(rows[i].body));
                assert_memory_equal(a.body.data ? a.body.data : "", rows[i].body, a.body.len);
                client_answer_finish(&a);
                fake_close(&f);
        }
}

static void what_is_asked(void **state)
{
        struct fake f = FAKE("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
        struct client_answer a = {0};

        (void)state;
        fake_open(&f);
        assert_int_equal(client_request(f.path, "POST", "/api/v1/instances/a/stop", CLIENT_TIMEOUT, &a), 0);
        client_answer_finish(&a);
        fake_close(&f);
        assert_memory_equal(f.request, "POST /api/v1/instances/a/stop HTTP/1.1\r\n", 40);
        assert_non_null(strstr(f.request, "\r\nHost: localhost\r\n"));
        assert_non_null(strstr(f.request, "\r\nContent-Length: 0\r\n"));
        assert_non_null(strstr(f.request, "\r\nConnection: close\r\n"));
        assert_null(strcasestr(f.request, "content-type"));
}

static void broken_answers(void **state)
{
        static const struct {
                const char *steps[STEP_MAX];
                bool hangs;
                int error;
        } rows[] = {
                {{NULL}, false, -ECONNRESET},
                {{"HTTP/1.1 200 OK\r\nContent-Le"}, false, -ECONNRESET},
                {{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"}, false, -ECONNRESET},
                {{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"}, false, -ECONNRESET},
                {{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}, false, -EPROTO},
                {{"SSH-2.0-OpenSSH_9.2\r\n"}, false, -EPROTO},
                {{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"}, false, -EPROTO},
                {{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nabcde"}, false, -EMSGSIZE},
                {{NULL}, true, -ETIMEDOUT},
                {{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"}, true, -ETIMEDOUT},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct client_answer a = {0};
                struct fake f = {.fd = -1, .hangs = rows[i].hangs};
                usec_t timeout = rows[i].hangs ? 100 * USEC_PER_MSEC : CLIENT_TIMEOUT;

                memcpy(f.steps, rows[i].steps, sizeof(f.steps));
                fake_open(&f);
                assert_int_equal(client_request(f.path, "GET", "/", timeout, &a), rows[i].error);
                assert_null(a.body.data);
                fake_close(&f);
        }
}

static void nobody_there(void **state)
{
        struct fake f = {.fd = -1};
        struct client_answer a = {0};
        struct client_stream *s = NULL;
        char longer[200];

        (void)state;
        assert_int_equal(client_request("/tmp/lsv-cli-none/s", "GET", "/", CLIENT_TIMEOUT, &a), -ENOENT);
        assert_int_equal(client_stream_open("/tmp/lsv-cli-none/s", "/", CLIENT_TIMEOUT, &s, &a), -ENOENT);
        memset(longer, 'x', sizeof(longer));
        longer[0] = '/';
        longer[sizeof(longer) - 1] = '\0';
        assert_int_equal(client_request(longer, "GET", "/", CLIENT_TIMEOUT, &a), -ENAMETOOLONG);
        /* A socket that its daemon left behind. */
        fake_open(&f);
        (void)shutdown(f.fd, SHUT_RDWR);
        assert_int_equal(pthread_join(f.thread, NULL), 0);
        (void)close(f.fd);
        assert_int_equal(client_request(f.path, "GET", "/", CLIENT_TIMEOUT, &a), -ECONNREFUSED);
        (void)unlink(f.path);
        (void)rmdir(f.dir);
}

static int next_line(struct client_stream *s, char **ret)
{
        usec_t deadline = time_monotonic() + CLIENT_TIMEOUT;
        size_t len, which;
        int r, ended = 0;

        for (;;) {
                if (client_stream_line(s, ret, &len)) {
                        assert_int_equal(strlen(*ret), len);
                        return 0;
                }
                if (ended)
                        return ended;
                r = client_stream_wait(&s, 1, -1, deadline, &which);
                assert_int_equal(r, 0);
                assert_int_equal(which, 0);
                ended = client_stream_pull(s);
        }
}

static void lines_of_a_stream(void **state)
{
        struct fake f = FAKE("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "9\r\none\ntwo\nt\r\n",
                             "4\r\nhree\r\n", "6\r\n\n\nlast\r\n", "0\r\n\r\n");
        static const char *const lines[] = {"one", "two", "three", "", "last"};
        struct client_answer refusal = {0};
        struct client_stream *s = NULL;
        char *line;

        (void)state;
        fake_open(&f);
        assert_int_equal(client_stream_open(f.path, "/api/v1/events", CLIENT_TIMEOUT, &s, &refusal), 0);
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                assert_int_equal(next_line(s, &line), 0);
                assert_string_equal(line, lines[i]);
        }
        assert_int_equal(next_line(s, &line), 1);
        assert_null(client_stream_free(s));
        fake_close(&f);
}

static void stream_cut_off(void **state)
{
        struct fake f = FAKE("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n");
        struct client_answer refusal = {0};
        struct client_stream *s = NULL;
        char *line;

        (void)state;
        fake_open(&f);
        assert_int_equal(client_stream_open(f.path, "/", CLIENT_TIMEOUT, &s, &refusal), 0);
        assert_int_equal(next_line(s, &line), 0);
        assert_string_equal(line, "one");
        assert_int_equal(next_line(s, &line), -ECONNRESET);
        client_stream_free(s);
        fake_close(&f);
}

static void stream_refused(void **state)
{
        struct fake f = FAKE("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\n", "full");
        struct client_answer refusal = {0};
        struct client_stream *s = NULL;

        (void)state;
        fake_open(&f);
        assert_int_equal(client_stream_open(f.path, "/", CLIENT_TIMEOUT, &s, &refusal), 1);
        assert_null(s);
        assert_int_equal(refusal.status, 503);
        assert_string_equal(refusal.body.data, "full");
        client_answer_finish(&refusal);
        fake_close(&f);
}

/* A line without an end costs a bounded buffer: it comes in pieces. */
static void endless_line(void **state)
{
        enum { SIZE = 3 * CLIENT_LINE_MAX + 17 };
        static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        char *text = malloc(sizeof(head) + SIZE), *line;
        struct fake f = {.fd = -1, .steps = {text}, .lengths = {sizeof(head) - 1 + SIZE}};
        struct client_answer refusal = {0};
        struct client_stream *s = NULL;
        size_t sum = 0, pieces = 0;

        (void)state;
        memcpy(text, head, sizeof(head) - 1);
        memset(text + sizeof(head) - 1, 'x', SIZE);
        fake_open(&f);
        assert_int_equal(client_stream_open(f.path, "/", CLIENT_TIMEOUT, &s, &refusal), 0);
        while (next_line(s, &line) == 0) {
                assert_true(strlen(line) <= CLIENT_LINE_MAX);
                assert_int_equal(strspn(line, "x"), strlen(line));
                sum += strlen(line);
                pieces++;
        }
        assert_int_equal(sum, SIZE);
        assert_int_equal(pieces, 4);
        client_stream_free(s);
        fake_close(&f);
        free(text);
}

static void wait_has_a_deadline(void **state)
{
        struct fake f = {.fd = -1, .steps = {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"}, .hangs = true};
        struct client_answer refusal = {0};
        struct client_stream *s = NULL, *list[2] = {NULL};
        int fds[2];
        size_t which;

        (void)state;
        fake_open(&f);
        assert_int_equal(pipe(fds), 0);
        assert_int_equal(client_stream_open(f.path, "/", CLIENT_TIMEOUT, &s, &refusal), 0);
        list[1] = s;
        assert_int_equal(client_stream_wait(list, 2, fds[0], time_monotonic() + 30 * USEC_PER_MSEC, &which),
                         -ETIMEDOUT);
        assert_int_equal(write(fds[1], "x", 1), 1);
        assert_int_equal(client_stream_wait(list, 2, fds[0], USEC_INFINITY, &which), 0);
        assert_int_equal(which, 2);
        client_stream_free(s);
        fake_close(&f);
        (void)close(fds[0]);
        (void)close(fds[1]);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(whole_answers),       cmocka_unit_test(what_is_asked),
                cmocka_unit_test(broken_answers),      cmocka_unit_test(nobody_there),
                cmocka_unit_test(lines_of_a_stream),   cmocka_unit_test(stream_cut_off),
                cmocka_unit_test(stream_refused),      cmocka_unit_test(endless_line),
                cmocka_unit_test(wait_has_a_deadline),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
