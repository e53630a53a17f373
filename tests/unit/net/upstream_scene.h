/* upstream_scene.h: the scene of the client's tests: one upstream on its loop, and a peer that the test plays itself, byte by
 * byte, over unix sockets and TCP. The functions are inline so that a test need not use them all. */
#ifndef LSV_TESTS_NET_UPSTREAM_SCENE_H
#define LSV_TESTS_NET_UPSTREAM_SCENE_H

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

/* A body of one piece. */
static inline void set_body(struct exchange_spec *spec, struct iovec *piece, const void *data, size_t len)
{
        *piece = (struct iovec){(void *)data, len};
        spec->body = piece;
        spec->n_body = 1;
}

static const char ok_hi[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

static inline void on_stop(void *owner, usec_t now)
{
        struct scene *s = owner;

        (void)now;
        s->hang = true;
        loop_stop(s->loop);
}

static inline void listen_unix(struct scene *s, int backlog)
{
        s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(s->listener >= 0);
        assert_int_equal(bind(s->listener, &s->at.addr.sa, s->at.len), 0);
        assert_int_equal(listen(s->listener, backlog), 0);
}

static inline void scene_init_quiet(struct scene *s, unsigned max_idle)
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

static inline void scene_init(struct scene *s, unsigned max_idle)
{
        scene_init_quiet(s, max_idle);
        listen_unix(s, 16);
}

static inline void hang_up(struct scene *s)
{
        if (s->peer >= 0)
                (void)close(s->peer);
        s->peer = -1;
}

static inline void scene_finish(struct scene *s)
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

static inline void run_for(struct scene *s, usec_t span)
{
        timer_set(s->stop, time_monotonic() + span);
        loop_run(s->loop);
        s->hang = false;
}

static inline void start(struct scene *s, const struct exchange_spec *spec);

static inline void on_done(void *owner, const struct exchange_answer *answer, usec_t now)
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

static inline struct exchange_spec plain(void)
{
        return (struct exchange_spec){
                .method = SLICE("GET"),
                .target = SLICE("/health"),
                .connect_timeout = 20 * USEC_PER_SEC,
                .first_timeout = 20 * USEC_PER_SEC,
                .timeout = 20 * USEC_PER_SEC,
                .body_max = 1000,
        };
}

static inline void start(struct scene *s, const struct exchange_spec *spec)
{
        struct exchange_spec usual = plain();
        unsigned done = s->done;

        s->began = time_monotonic();
        assert_int_equal(upstream_start(s->up, spec ? spec : &usual, on_done, s, &s->x), 0);
        assert_int_equal(s->done, done);
}

/* Runs until the exchange is done. */
static inline void finish(struct scene *s, enum exchange_result expected)
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
static inline void take(struct scene *s, char *buf, size_t size)
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

static inline void answer(struct scene *s, const char *text)
{
        assert_int_equal(send(s->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* True if the client has closed this connection. */
static inline bool peer_sees_end(struct scene *s)
{
        char c;

        run_for(s, 3000);
        return recv(s->peer, &c, 1, MSG_DONTWAIT) == 0;
}

#endif
