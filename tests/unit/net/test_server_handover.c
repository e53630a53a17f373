/* test_server_handover.c: a server that is held, asked who is busy, and whose connections go on in another one. */
#include "net/server_scene.h"

static void nobody_is_served_while_held(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int known = client(s), late;

        (void)state;
        say(known, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, known, "hi"));
        forget(s);
        server_hold(s->server, true);
        assert_int_equal(server_busy(s->server), 0);
        assert_true(server_is_quiet(s->server));
        say(known, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        late = client(s); /* the kernel takes it */
        say(late, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(still_open(s, known));
        assert_true(still_open(s, late));
        assert_int_equal(s->seen, 1);
        assert_int_equal(server_counts(s->server)->accepted, 1);
        server_hold(s->server, false);
        assert_true(hear(s, known, "hi"));
        forget(s);
        assert_true(hear(s, late, "hi"));
        assert_int_equal(s->seen, 3);
        close(known);
        close(late);
        scene_free(s);
}

/* Nor is what came right behind a request that is being answered. */
static void pipelined_requests_wait(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        server_hold(s->server, true);
        request_respond(s->reqs[0], 200, NULL, NULL, "first", 5);
        assert_true(hear(s, fd, "first"));
        run_for(s, 5000);
        assert_int_equal(s->seen, 1);
        assert_true(server_is_quiet(s->server));
        server_hold(s->server, false);
        assert_true(hear(s, fd, "hi"));
        close(fd);
        scene_free(s);
}

/* A pause of accepting that was under way does not open the door. */
static void held_is_held(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd;

        (void)state;
        server_hold(s->server, true);
        server_hold(s->server, true);
        fd = client(s);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        run_for(s, 20000);
        assert_int_equal(server_counts(s->server)->connections, 0);
        server_hold(s->server, false);
        assert_true(hear(s, fd, "hi"));
        close(fd);
        scene_free(s);
}

static void answers_close_their_connections(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s), other = client(s);

        (void)state;
        server_set_closing(s->server, true);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        assert_non_null(strstr(s->heard, "Connection: close\r\n"));
        assert_non_null(strstr(s->heard, "\r\n\r\nhi"));
        forget(s);
        server_set_closing(s->server, false);
        say(other, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, other, "hi"));
        assert_null(strstr(s->heard, "Connection"));
        close(fd);
        close(other);
        scene_free(s);
}

struct told {
        unsigned n, requests;
        char peer[32];
};

static void note_busy(void *owner, const struct request *req, const char *peer, usec_t age)
{
        struct told *t = owner;

        assert_true(age < 60 * USEC_PER_SEC);
        t->n++;
        t->requests += req != NULL;
        (void)snprintf(t->peer, sizeof t->peer, "%s", peer);
}

static void who_is_busy(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        struct told told = {0};
        int later = client(s), stream = client(s), body = client(s);

        (void)state;
        say(later, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        say(stream, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 2);
        say(body, "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx");
        wait_for(s, &s->seen, 3);
        assert_int_equal(server_busy(s->server), 3);
        request_set_standing(s->reqs[1]);
        assert_int_equal(server_busy(s->server), 2);
        server_hold(s->server, true);
        /* What has begun goes on. */
        say(body, "y");
        assert_true(hear(s, body, "xy"));
        assert_int_equal(server_busy(s->server), 1);
        assert_false(server_is_quiet(s->server));
        server_each_busy(s->server, note_busy, &told);
        assert_int_equal(told.n, 1);
        assert_int_equal(told.requests, 1);
        assert_string_equal(told.peer, "unix");
        server_end_standing(s->server);
        assert_int_equal(s->gone, 1);
        assert_ptr_equal(s->gone_req, s->reqs[1]);
        assert_int_equal(server_busy(s->server), 1);
        server_cut(s->server);
        assert_int_equal(s->gone, 2);
        assert_int_equal(server_busy(s->server), 0);
        run_for(s, 3000);
        assert_true(server_is_quiet(s->server));
        assert_int_equal(server_counts(s->server)->connections, 1);
        close(later);
        close(stream);
        close(body);
        scene_free(s);
}

static void channels_end_as_standing_requests_do(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int fd = client(s);

        (void)state;
        say(fd, "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
        assert_true(hear(s, fd, "\r\n\r\n"));
        assert_int_equal(server_busy(s->server), 0);
        assert_false(server_is_quiet(s->server));
        server_end_standing(s->server);
        assert_int_equal(s->channel_gone, 1);
        assert_true(server_is_quiet(s->server));
        buffer_finish(&s->came);
        close(fd);
        scene_free(s);
}

struct taken {
        int fds[4];
        char bytes[4][256];
        size_t lens[4];
        unsigned n;
        const struct listener *from;
};

static void take(void *owner, int fd, const struct listener *l, const char *bytes, size_t len)
{
        struct taken *t = owner;

        assert_true(t->n < 4 && len < sizeof t->bytes[0]);
        t->fds[t->n] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        memcpy(t->bytes[t->n], bytes, len);
        t->lens[t->n++] = len;
        t->from = l;
}

/* One server ends, the next one has its quiet connections, with what was read of their next requests. */
static void connections_go_on(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        int idle = client(s), half = client(s), busy = client(s), gone = client(s);
        struct taken taken = {0};
        struct listener *next;
        struct endpoint at;
        char path[128];

        (void)state;
        say(idle, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, idle, "hi"));
        forget(s);
        say(half, "GET /hi HTTP/1.1\r\nHo");
        say(busy, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 1);
        say(gone, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, gone, "hi"));
        forget(s);
        run_for(s, 3000);
        server_hold(s->server, true);
        server_each_portable(s->server, take, &taken);
        assert_int_equal(taken.n, 3);
        assert_ptr_equal(taken.from, s->listener);
        close(gone);
        /* It ends as a process does: without a word. */
        s->server = server_free(s->server);
        assert_int_equal(server_new(s->loop, NULL, on_request, s, &s->server), 0);
        (void)snprintf(path, sizeof path, "%s/next", s->dir);
        assert_int_equal(endpoint_from_unix(path, &at), 0);
        assert_int_equal(server_listen(s->server, &at, 0600, NULL, &next), 0);
        for (unsigned i = 0; i < taken.n; i++)
                (void)server_adopt(s->server, next, taken.fds[i], taken.bytes[i], taken.lens[i]);
        assert_int_equal(server_counts(s->server)->accepted, 0);
        say(half, "st: a\r\n\r\n");
        assert_true(hear(s, half, "hi"));
        forget(s);
        say(idle, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, idle, "hi"));
        forget(s);
        run_for(s, 3000);
        assert_int_equal(server_counts(s->server)->connections, 2);
        close(idle);
        close(half);
        close(busy);
        scene_free(s);
}

static void on_a_socket_that_listens(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        struct endpoint bound = {.len = sizeof bound.addr};
        struct listener *l;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), c;

        (void)state;
        assert_int_equal(bind(fd, &(struct sockaddr){.sa_family = AF_INET}, sizeof(struct sockaddr)), 0);
        assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(getsockname(fd, &bound.addr.sa, &bound.len), 0);
        assert_int_equal(server_listen_on(s->server, fd, &bound, true, 0, "given", &l), 0);
        assert_int_equal(listener_fd(l), fd);
        assert_string_equal(listener_tag(l), "given");
        s->at = bound;
        s->at.addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        c = client(s);
        say(c, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_true(hear(s, c, "hi"));
        close(c);
        server_stop_listening(s->server);
        assert_int_equal(listener_fd(l), -1);
        /* Taken over, also when it cannot be used. */
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(server_listen_on(s->server, fd, &bound, true, 0, NULL, &l), -EINVAL);
        assert_int_equal(fcntl(fd, F_GETFD), -1);
        scene_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(nobody_is_served_while_held),
                cmocka_unit_test(pipelined_requests_wait),
                cmocka_unit_test(held_is_held),
                cmocka_unit_test(answers_close_their_connections),
                cmocka_unit_test(who_is_busy),
                cmocka_unit_test(channels_end_as_standing_requests_do),
                cmocka_unit_test(connections_go_on),
                cmocka_unit_test(on_a_socket_that_listens),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
