/* test_listener.c: listening sockets, caps, and running out of descriptors. */
#include "net/server_scene.h"

/* --- listeners ---------------------------------------------------------------------------------------------------- */

static void unix_listener_file(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        struct listener *l = NULL;
        struct endpoint other;
        char path[128];
        struct stat st;
        mode_t mask;
        int fd;

        (void)state;
        assert_int_equal(stat(s->at.addr.un.sun_path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        (void)snprintf(path, sizeof path, "%s/o", s->dir);
        assert_int_equal(endpoint_from_unix(path, &other), 0);

        /* The mode does not hang on the umask. */
        mask = umask(0777);
        assert_int_equal(server_listen(s->server, &other, 0660, NULL, &l), 0);
        (void)umask(mask);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0660);
        assert_null(listener_tag(l));

        /* Somebody answers: ourselves. */
        assert_int_equal(server_listen(s->server, &other, 0660, NULL, &l), -EADDRINUSE);
        assert_int_equal(server_listen(s->server, &s->at, 0600, NULL, &l), -EADDRINUSE);
        server_stop_listening(s->server);
        assert_int_equal(stat(path, &st), -1);
        assert_int_equal(server_listen(s->server, &other, 0600, NULL, &l), -EINVAL);
        scene_free(s);

        /* A stale file is replaced, a file that is no socket is not touched. */
        s = scene_new(NULL, NULL);
        (void)snprintf(path, sizeof path, "%s/o", s->dir);
        assert_int_equal(endpoint_from_unix(path, &other), 0);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, &other.addr.sa, other.len), 0);
        close(fd);
        assert_int_equal(server_listen(s->server, &other, 0600, NULL, &l), 0);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, &other.addr.sa, other.len), 0);
        close(fd);

        /* The file was replaced by somebody else: it is not ours to unlink. */
        assert_int_equal(unlink(path), 0);
        fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        close(fd);
        server_stop_listening(s->server);
        assert_int_equal(stat(path, &st), 0);
        s->server = server_free(s->server);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(server_new(s->loop, NULL, on_request, s, &s->server), 0);
        assert_int_equal(server_listen(s->server, &other, 0600, NULL, &l), -EEXIST);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink("/nowhere/at/all", path), 0);
        assert_int_equal(server_listen(s->server, &other, 0600, NULL, &l), -EEXIST);
        assert_int_equal(unlink(path), 0);
        scene_free(s);
}

static void tcp_listeners(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        struct listener *l = NULL, *v6 = NULL;
        struct endpoint at, none = {0};
        int fd, r;

        (void)state;
        assert_int_not_equal(s->at.addr.in.sin_port, 0);
        assert_int_equal(server_listen(s->server, &none, 0, NULL, &l), -EINVAL);
        assert_int_equal(server_listen(s->server, &s->at, 0, NULL, &l), -EADDRINUSE);
        assert_int_equal(endpoint_parse("203.0.113.7:0", &at), 0);
        assert_int_equal(server_listen(s->server, &at, 0, NULL, &l), -EADDRNOTAVAIL);

        /* We close first, so TIME_WAIT is ours; the port must be free for the next start all the same. */
        fd = client(s);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_false(hear(s, fd, NULL));
        close(fd);
        run_for(s, 5000);
        s->server = server_free(s->server);
        assert_int_equal(server_new(s->loop, NULL, on_request, s, &s->server), 0);
        assert_int_equal(server_listen(s->server, &s->at, 0, NULL, &l), 0);

        /* IPv6 alone: the same port of IPv4 stays free for the other listener. */
        assert_int_equal(endpoint_parse("[::]:0", &at), 0);
        at.addr.in6.sin6_port = s->at.addr.in.sin_port;
        r = server_listen(s->server, &at, 0, "six", &v6);
        if (r != -EAFNOSUPPORT && r != -EADDRNOTAVAIL) {
                assert_int_equal(r, 0);
                assert_int_equal(endpoint_parse("[::1]:0", &s->at), 0);
                s->at.addr.in6.sin6_port = at.addr.in6.sin6_port;
                fd = client(s);
                forget(s);
                say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
                wait_for(s, &s->n_reqs, 1);
                assert_string_equal(request_peer(s->reqs[0]), "::1");
                assert_string_equal(listener_tag(request_listener(s->reqs[0])), "six");
                close(fd);
        }
        scene_free(s);
}

static void too_many_connections(void **state)
{
        struct server_limits limits = server_limits_default;
        struct scene *s;
        int fds[3];

        (void)state;
        limits.connections_max = 2;
        s = scene_new(&limits, "127.0.0.1:0");
        for (unsigned i = 0; i < 3; i++) {
                fds[i] = client(s);
                run_for(s, 2000);
        }
        assert_false(hear(s, fds[2], NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 503 "));
        assert_int_equal(strlen(strstr(s->heard, "\r\n\r\n") + 4),
                         atoi(strstr(s->heard, "Content-Length: ") + 16));
        assert_int_equal(server_counts(s->server)->refused_cap, 1);
        assert_int_equal(server_counts(s->server)->connections, 2);
        close(fds[0]);
        run_for(s, 3000);
        close(fds[2]);
        fds[2] = client(s);
        say(fds[2], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fds[2], "\r\n\r\nhi");
        close(fds[1]);
        close(fds[2]);
        scene_free(s);
}

/* Loopback is not capped, so this needs another address of this machine. */
static bool own_address(struct in_addr *ret)
{
        struct ifaddrs *all;
        bool found = false;

        if (getifaddrs(&all) < 0)
                return false;
        for (struct ifaddrs *a = all; a && !found; a = a->ifa_next)
                if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET && !(a->ifa_flags & IFF_LOOPBACK) &&
                    (a->ifa_flags & IFF_UP)) {
                        *ret = ((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr;
                        found = true;
                }
        freeifaddrs(all);
        return found;
}

static void per_address_cap(void **state)
{
        struct server_limits limits = server_limits_default;
        struct in_addr own;
        struct scene *s;
        int fds[4], local[3];

        (void)state;
        if (!own_address(&own)) {
                skip();
                return;
        }
        limits.per_address_max = 2;
        s = scene_new(&limits, "0.0.0.0:0");
        s->at.addr.in.sin_addr = own;
        for (unsigned i = 0; i < 3; i++) {
                fds[i] = client(s);
                run_for(s, 2000);
        }
        assert_false(hear(s, fds[2], NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 503 "));
        assert_int_equal(server_counts(s->server)->refused_address, 1);
        /* Others are not concerned, and a place that is given back can be taken again. */
        s->at.addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        for (unsigned i = 0; i < 3; i++) {
                local[i] = client(s);
                say(local[i], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
                forget(s);
                hear(s, local[i], "\r\n\r\nhi");
        }
        for (unsigned i = 0; i < 3; i++)
                close(local[i]);
        s->at.addr.in.sin_addr = own;
        close(fds[0]);
        run_for(s, 3000);
        fds[3] = client(s);
        say(fds[3], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fds[3], "\r\n\r\nhi");
        assert_int_equal(server_counts(s->server)->refused_address, 1);
        close(fds[1]);
        close(fds[2]);
        close(fds[3]);
        scene_free(s);
}

/* What outlives its connection has a count of its own, with the same cap; it goes also when the server went first. */
static void places_at_an_address(void **state)
{
        struct server_limits limits = server_limits_default;
        struct address *held[3] = {NULL}, *mark = (struct address *)&limits;
        struct in_addr own;
        struct scene *s;
        int fds[2];

        (void)state;
        if (!own_address(&own)) {
                skip();
                return;
        }
        limits.per_address_max = 2;
        s = scene_new(&limits, "0.0.0.0:0");
        s->at.addr.in.sin_addr = own;
        for (unsigned i = 0; i < 2; i++) {
                fds[i] = client(s);
                say(fds[i], "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
                wait_for(s, &s->n_reqs, i + 1);
                assert_int_equal(request_hold_address(s->reqs[i], &held[i]), 0);
                assert_non_null(held[i]);
        }
        held[2] = mark;
        assert_int_equal(request_hold_address(s->reqs[0], &held[2]), -EUSERS);
        assert_ptr_equal(held[2], mark);
        assert_int_equal(server_counts(s->server)->refused_address, 1);
        address_let_go(held[1]);
        assert_int_equal(request_hold_address(s->reqs[0], &held[1]), 0);
        for (unsigned i = 0; i < 2; i++)
                close(fds[i]);
        wait_for(s, &s->gone, 2);
        assert_int_equal(request_hold_address(s->reqs[0], &held[2]), -EPIPE);
        /* The connections are gone, the places are not. */
        fds[0] = client(s);
        say(fds[0], "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 3);
        assert_int_equal(request_hold_address(s->reqs[2], &held[2]), -EUSERS);
        address_let_go(held[0]);
        close(fds[0]);
        s->at.addr.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fds[1] = client(s);
        say(fds[1], "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(s, &s->n_reqs, 4);
        held[2] = mark;
        assert_int_equal(request_hold_address(s->reqs[3], &held[2]), 0);
        assert_null(held[2]); /* loopback is not capped */
        address_let_go(NULL);
        close(fds[1]);
        scene_free(s);
        address_let_go(held[1]);
}

/* Clients must not take what probes, logs and new children need, nor lock the operator out. */
static void descriptors_are_kept(void **state)
{
        struct rlimit before, few;
        struct listener *vital;
        struct endpoint own;
        struct scene *s;
        int fds[80], next, fd;
        char path[128];

        (void)state;
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        next = fcntl(0, F_DUPFD, 0);
        close(next);
        few = before;
        few.rlim_cur = (rlim_t)next + 200; /* clients and server are one process here: two a connection */
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        s = scene_new(NULL, "127.0.0.1:0");
        (void)snprintf(path, sizeof path, "%s/own", s->dir);
        assert_int_equal(endpoint_parse(path, &own), 0);
        assert_int_equal(server_listen(s->server, &own, 0600, NULL, &vital), 0);
        listener_set_vital(vital);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
                fds[i] = client(s);
                run_for(s, 1000);
        }
        assert_true(server_counts(s->server)->refused_cap > 0);
        assert_int_equal(server_counts(s->server)->accept_errors, 0);
        assert_false(hear(s, fds[ARRAY_SIZE(fds) - 1], NULL));
        assert_true(starts_with(s->heard, "HTTP/1.1 503 "));

        /* The operator's socket answers all the same, beyond the cap on connections too. */
        s->at = own;
        fd = client(s);
        say(fd, "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fd, "\r\n\r\nhi");
        close(fd);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        scene_free(s);
}

static void vital_beyond_the_cap(void **state)
{
        struct server_limits limits = server_limits_default;
        struct scene *s;
        int fds[70];

        (void)state;
        limits.connections_max = 2;
        s = scene_new(&limits, NULL);
        listener_set_vital(s->listener);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                fds[i] = client(s);
        run_for(s, 20000);
        assert_int_equal(server_counts(s->server)->connections, 66); /* more, and bounded */
        assert_int_equal(server_counts(s->server)->refused_cap, 4);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        scene_free(s);
}

/* The kernel's own table says whether a keep-alive timer (2) runs, and when it is due. */
static void silent_peers_are_asked(void **state)
{
        struct scene *s = scene_new(NULL, "127.0.0.1:0");
        unsigned mine = ntohs(s->at.addr.in.sin_port), found = 0, local, st, timer;
        unsigned long due;
        char line[256];
        FILE *f;
        int fd;

        (void)state;
        fd = client(s);
        say(fd, "GET /later HTTP/1.1\r\nHost: a\r\n\r\n");
        run_for(s, 5000);
        f = fopen("/proc/net/tcp", "re");
        assert_non_null(f);
        while (fgets(line, sizeof line, f))
                if (sscanf(line, " %*d: %*8x:%x %*8x:%*x %x %*x:%*x %x:%lx", &local, &st, &timer, &due) ==
                            4 &&
                    local == mine && st == 1) {
                        found++;
                        assert_int_equal(timer, 2);
                        assert_in_range(due, 1, 6100);
                }
        (void)fclose(f);
        assert_int_equal(found, 1);
        close(fd);
        run_for(s, 3000);
        scene_free(s);
}

static usec_t cpu_time(void)
{
        struct timespec t;

        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
        return (usec_t)t.tv_sec * USEC_PER_SEC + (usec_t)t.tv_nsec / 1000;
}

static void out_of_descriptors(void **state)
{
        struct scene *s = scene_new(NULL, NULL);
        struct rlimit before, none;
        int fds[6], next;
        usec_t cpu;

        (void)state;
        run_for(s, 2000);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                fds[i] = client(s);
        next = fcntl(0, F_DUPFD, 0);
        close(next);
        none = before;
        none.rlim_cur = (rlim_t)next;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        cpu = cpu_time();
        run_for(s, 250000);
        /* The first in line is told, then accepting rests: three times 100 ms at most, no spinning. */
        assert_in_range(server_counts(s->server)->accept_pauses, 1, 3);
        assert_int_equal(server_counts(s->server)->accept_errors, server_counts(s->server)->accept_pauses);
        assert_true(cpu_time() - cpu < 100000);
        assert_true(recv(fds[0], s->heard, 100, MSG_DONTWAIT) > 12);
        assert_true(starts_with(s->heard, "HTTP/1.1 503 "));
        assert_int_equal(server_counts(s->server)->accepted, 0);

        /* And it recovers by itself. */
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
        fds[0] = client(s);
        say(fds[0], "GET /hi HTTP/1.1\r\nHost: a\r\n\r\n");
        forget(s);
        hear(s, fds[0], "\r\n\r\nhi");
        close(fds[0]);
        scene_free(s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(unix_listener_file),     cmocka_unit_test(tcp_listeners),
                cmocka_unit_test(too_many_connections),   cmocka_unit_test(per_address_cap),
                cmocka_unit_test(places_at_an_address),   cmocka_unit_test(out_of_descriptors),
                cmocka_unit_test(descriptors_are_kept),   cmocka_unit_test(vital_beyond_the_cap),
                cmocka_unit_test(silent_peers_are_asked),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
