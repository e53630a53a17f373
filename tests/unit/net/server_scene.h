/* server_scene.h: the scene of the server's tests: one server on its loop, an owner that answers by path, and clients that the
 * test plays itself, byte by byte. The functions are inline so that a test need not use them all. */
#ifndef LSV_TESTS_NET_SERVER_SCENE_H
#define LSV_TESTS_NET_SERVER_SCENE_H

#include "net/server.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "base/macros.h"
#include "net/upstream.h"

enum { BIG = 400000, REQS = 16 };

struct scene {
        struct loop *loop;
        struct server *server;
        struct listener *listener;
        struct server_limits limits;
        struct timer *stop;
        struct endpoint at;
        char dir[64];
        struct request *reqs[REQS]; /* kept by "/later", "/stream", "/body-later" */
        unsigned n_reqs, seen, gone, bodies, drains;
        struct request *gone_req;
        char body[4096];
        size_t body_len;
        char heard[1 << 20];
        size_t heard_len;
        struct upstream *up;
        struct exchange *exchange;
        unsigned exchanges_done;
        bool free_in_gone, answer_later; /* of on_body */
        struct channel *channel;         /* of "/upgrade" */
        struct buffer came;              /* over it; to be freed by the test */
        unsigned channel_drains, channel_gone, channel_slow;
        bool close_channel, abort_channel; /* from inside its next on_read */
        unsigned descriptors;
};

static char big[BIG]; /* filled by scene_new */

/* --- the owner's side --------------------------------------------------------------------------------------------- */

static inline void on_gone(void *owner, struct request *req)
{
        struct scene *s = owner;

        s->gone++;
        s->gone_req = req;
        s->exchange = exchange_cancel(s->exchange);
        /* What comes too late does nothing. */
        request_respond(req, 200, NULL, NULL, "late", 4);
        request_begin(req, 200, NULL, NULL);
        assert_int_equal(request_write(req, "late", 4), -EPIPE);
        request_end(req);
        request_abort(req);
        assert_non_null(request_peer(req));
        assert_int_equal(request_queued(req), 0);
        if (s->free_in_gone)
                s->server = server_free(s->server);
}

static inline void on_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct scene *s = owner;

        s->bodies++;
        assert_true(len < sizeof s->body);
        assert_int_equal(body[len], 0);
        memcpy(s->body, body, len);
        s->body_len = len;
        if (s->answer_later)
                return;
        request_respond(req, 200, "text/plain", NULL, body, len);
}

static inline void on_drain(void *owner, struct request *req)
{
        struct scene *s = owner;

        (void)req;
        s->drains++;
}

static inline void on_answer(void *owner, const struct exchange_answer *answer, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->exchange = NULL;
        s->exchanges_done++;
        request_respond(s->reqs[0], answer->result == EXCHANGE_OK ? 200 : 502, NULL, NULL, answer->body,
                        answer->body_len);
}

static inline void on_channel_read(void *owner, const char *data, size_t len)
{
        struct scene *s = owner;

        assert_true(len > 0);
        assert_int_equal(buffer_append(&s->came, data, len), 0);
        if (s->close_channel)
                s->channel = channel_close(s->channel);
        else if (s->abort_channel)
                s->channel = channel_abort(s->channel);
}

static inline void on_channel_drain(void *owner)
{
        struct scene *s = owner;

        s->channel_drains++;
        assert_int_equal(channel_queued(s->channel), 0);
}

static inline void on_channel_gone(void *owner, bool slow)
{
        struct scene *s = owner;

        s->channel_gone++;
        s->channel_slow += slow;
        s->channel = NULL;
}

static const struct channel_events channel_events = {
        .on_read = on_channel_read, .on_drain = on_channel_drain, .on_gone = on_channel_gone};

static inline void keep(struct scene *s, struct request *req)
{
        assert_true(s->n_reqs < REQS);
        s->reqs[s->n_reqs++] = req;
        request_on_gone(req, on_gone, s);
}

static inline void on_request(void *owner, struct request *req)
{
        const struct http1_request *head = request_head(req);
        struct scene *s = owner;

        s->seen++;
        if (slice_eq_str(head->path, "/hi")) {
                request_respond(req, 200, "text/plain", "X-A: b\r\n", "hi", 2);
        } else if (slice_eq_str(head->path, "/echo-query")) {
                request_respond(req, 200, NULL, NULL, head->query.p, head->query.n);
        } else if (slice_eq_str(head->path, "/big")) {
                request_respond(req, 200, NULL, NULL, big, sizeof big);
        } else if (slice_eq_str(head->path, "/empty")) {
                request_respond(req, 204, NULL, NULL, NULL, 0);
        } else if (slice_eq_str(head->path, "/bad-header")) {
                request_respond(req, 200, NULL, "X: a\r\n\r\nHTTP/1.1 200 OK\r\n", "x", 1);
        } else if (slice_eq_str(head->path, "/body")) {
                request_on_gone(req, on_gone, s);
                assert_int_equal(request_read_body(req, 1000, on_body, s), 0);
                assert_int_equal(request_read_body(req, 1000, on_body, s), -EINVAL);
        } else if (slice_eq_str(head->path, "/free")) {
                s->server = server_free(s->server);
                request_respond(req, 200, NULL, NULL, "x", 1);
        } else if (slice_eq_str(head->path, "/upgrade")) {
                assert_int_equal(request_upgrade(req, "Upgrade: x\r\n", &channel_events, s, &s->channel), 0);
                assert_int_equal(s->came.len, 0);
        } else if (slice_eq_str(head->path, "/nothing")) {
                request_end(req);
        } else if (slice_eq_str(head->path, "/abort")) {
                request_abort(req);
        } else if (slice_eq_str(head->path, "/stream")) {
                request_begin(req, 200, "text/event-stream", NULL);
                keep(s, req);
        } else if (slice_eq_str(head->path, "/relay")) {
                struct exchange_spec spec = {.method = SLICE("GET"),
                                             .target = SLICE("/"),
                                             .timeout = 20 * USEC_PER_SEC,
                                             .body_max = 1000};

                keep(s, req);
                assert_int_equal(upstream_start(s->up, &spec, on_answer, s, &s->exchange), 0);
        } else {
                keep(s, req); /* answered by the test itself */
        }
}

/* --- the scene ---------------------------------------------------------------------------------------------------- */

static inline void on_stop(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        loop_stop(s->loop);
}

static inline void run_for(struct scene *s, usec_t span)
{
        timer_set(s->stop, time_monotonic() + span);
        loop_run(s->loop);
}

static inline unsigned open_descriptors(void)
{
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        (void)closedir(dir);
        return n;
}

static inline struct scene *scene_new(const struct server_limits *limits, const char *address)
{
        struct scene *s = calloc(1, sizeof *s);
        char path[128];

        assert_non_null(s);
        memset(big, 'z', sizeof big);
        /* libuv's first loop opens a signal pipe for the whole process. */
        assert_int_equal(loop_new(&s->loop), 0);
        s->loop = loop_free(s->loop);
        s->descriptors = open_descriptors();
        (void)snprintf(s->dir, sizeof s->dir, "/tmp/lsv-server-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, on_stop, s, &s->stop), 0);
        assert_int_equal(server_new(s->loop, limits, on_request, s, &s->server), 0);
        (void)snprintf(path, sizeof path, "%s/s", s->dir);
        assert_int_equal(endpoint_parse(address ? address : path, &s->at), 0);
        assert_int_equal(server_listen(s->server, &s->at, 0600, "door", &s->listener), 0);
        s->at = *listener_endpoint(s->listener);
        return s;
}

static inline void scene_free(struct scene *s)
{
        s->server = server_free(s->server);
        s->up = upstream_free(s->up);
        s->stop = timer_free(s->stop);
        assert_null(loop_free(s->loop));
        assert_int_equal(rmdir(s->dir), 0);
        assert_int_equal(open_descriptors(), s->descriptors);
        free(s);
}

static inline int client(struct scene *s)
{
        int fd = socket(s->at.addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        assert_int_equal(connect(fd, &s->at.addr.sa, s->at.len), 0);
        return fd;
}

static inline void say_n(int fd, const char *text, size_t len)
{
        assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline void say(int fd, const char *text)
{
        say_n(fd, text, strlen(text));
}

/* Collects what comes in s->heard until `until` is in it (NULL: until EOF). Returns what it ended with: true for `until`,
 * false for EOF. Anything else fails the test after 20 s. */
static inline bool hear(struct scene *s, int fd, const char *until)
{
        usec_t give_up = time_monotonic() + 20 * USEC_PER_SEC;

        while (time_monotonic() < give_up) {
                ssize_t n;

                s->heard[s->heard_len] = '\0';
                if (until && strstr(s->heard, until))
                        return true;
                n = recv(fd, s->heard + s->heard_len, sizeof s->heard - 1 - s->heard_len, MSG_DONTWAIT);
                if (n == 0)
                        return false;
                if (n > 0)
                        s->heard_len += (size_t)n;
                else if (errno == EAGAIN)
                        run_for(s, 500);
                else
                        return false;
        }
        fail_msg("'%s' did not come; heard: '%.300s'", until ? until : "EOF", s->heard);
        return false;
}

static inline void forget(struct scene *s)
{
        s->heard_len = 0;
        s->heard[0] = '\0';
}

static inline unsigned count(const char *text, const char *what)
{
        unsigned n = 0;

        for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
                n++;
        return n;
}

static inline bool still_open(struct scene *s, int fd)
{
        char c;

        run_for(s, 3000);
        return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

static inline void wait_for(struct scene *s, const unsigned *figure, unsigned value)
{
        usec_t give_up = time_monotonic() + 20 * USEC_PER_SEC;

        while (*figure < value) {
                run_for(s, 500);
                assert_true(time_monotonic() < give_up);
        }
}

#endif
