/* ws_swarm.c: thousands of WebSocket subscribers in one process, for the benchmarks.
 *
 * ws_swarm HOST PORT PATH COUNT FROZEN: opens COUNT connections, of which the last FROZEN never read after their handshake; prints
 * "open N" when all have had their first frame. Then, for each line "T0" (CLOCK_MONOTONIC ns) on stdin, waits (10 s at most) until
 * every reader had a frame, then for half a second more (what still comes belongs to the same news), and prints "got N p50_us p99_us last_us". Ends at EOF of stdin. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct client {
        int fd;
        bool upgraded, frozen, had_frame;
        long long at; /* when the first frame of this round came */
};

static struct client *clients;
static int count, frozen, epoll_fd;

static long long now_ns(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
        perror(what);
        exit(1);
}

static void open_one(struct client *c, const char *host, int port, const char *path)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        char request[512];
        int n, one = 1;

        (void)inet_pton(AF_INET, host, &a.sin_addr);
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) < 0)
                die("connect");
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                     path, host, port);
        if (write(c->fd, request, (size_t)n) != n)
                die("write");
        (void)fcntl(c->fd, F_SETFL, O_NONBLOCK);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
                die("epoll_ctl");
}

static void read_one(struct client *c)
{
        char buf[65536];
        ssize_t n = read(c->fd, buf, sizeof buf);
        char *body = buf;

        if (n == 0 || (n < 0 && errno != EAGAIN)) {
                (void)fprintf(stderr, "ws_swarm: a connection was closed\n");
                exit(1);
        }
        if (n <= 0)
                return;
        if (!c->upgraded) {
                body = memmem(buf, (size_t)n, "\r\n\r\n", 4);
                if (n < 12 || memcmp(buf + 9, "101", 3) != 0 || !body) {
                        (void)fprintf(stderr, "ws_swarm: no upgrade: %.80s\n", buf);
                        exit(1);
                }
                body += 4;
                c->upgraded = true;
        }
        if (buf + n > body) {
                c->had_frame = true;
                if (!c->at)
                        c->at = now_ns();
        }
}

/* Reads until question() holds for all, or the deadline; returns how many hold. */
static int read_until(long long deadline, bool round)
{
        struct epoll_event events[512];
        int n, done;

        for (;;) {
                done = 0;
                for (int i = 0; i < count; i++)
                        done += round ? clients[i].frozen || clients[i].at : clients[i].had_frame;
                if (done == count || now_ns() > deadline)
                        return done;
                n = epoll_wait(epoll_fd, events, 512, 50);
                for (int i = 0; i < n; i++) {
                        struct client *c = events[i].data.ptr;

                        if (!(c->frozen && round))
                                read_one(c);
                }
        }
}

static int by_time(const void *a, const void *b)
{
        long long x = *(const long long *)a, y = *(const long long *)b;

        return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
        struct rlimit files = {0};
        long long *times, t0;
        int n;

        if (argc != 6)
                return 2;
        count = atoi(argv[4]);
        frozen = atoi(argv[5]);
        (void)getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
        clients = calloc((size_t)count, sizeof *clients);
        times = calloc((size_t)count, sizeof *times);
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        for (int i = 0; i < count; i++) {
                open_one(&clients[i], argv[1], atoi(argv[2]), argv[3]);
                if (i % 200 == 199)
                        (void)read_until(now_ns() + 2000000, false); /* keeps the listen queue short */
        }
        n = read_until(now_ns() + 60000000000LL, false);
        for (int i = count - frozen; i < count; i++) {
                clients[i].frozen = true;
                (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, clients[i].fd, NULL);
        }
        for (int i = 0; i < count; i++)
                clients[i].at = 0; /* what came with the opening is no news */
        (void)printf("open %d\n", n);
        (void)fflush(stdout);
        while (scanf("%lld", &t0) == 1) {
                int got = 0;

                n = read_until(t0 + 10000000000LL, true);
                for (int i = 0; i < count; i++) {
                        if (!clients[i].frozen && clients[i].at)
                                times[got++] = (clients[i].at - t0) / 1000;
                }
                qsort(times, (size_t)got, sizeof *times, by_time);
                /* What still comes belongs to this round. */
                for (long long quiet = now_ns() + 500000000; now_ns() < quiet;) {
                        struct epoll_event events[512];
                        int k = epoll_wait(epoll_fd, events, 512, 20);

                        for (int i = 0; i < k; i++)
                                read_one(events[i].data.ptr);
                }
                for (int i = 0; i < count; i++)
                        clients[i].at = 0;
                if (got)
                        (void)printf("got %d %lld %lld %lld\n", got, times[got / 2], times[got * 99 / 100],
                                     times[got - 1]);
                else
                        (void)printf("got 0 0 0 0\n");
                (void)fflush(stdout);
        }
        return 0;
}
