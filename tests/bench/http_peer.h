/* http_peer.h: what the two ends of the gateway's benchmark share: clocks, sockets, and the shape of what they say. */
#ifndef LSV_BENCH_HTTP_PEER_H
#define LSV_BENCH_HTTP_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
        ANSWER_BYTES = 1024, /* of a plain answer's body */
        IDS_MAX = 1 << 22,
};
/* Requests carry their number, answers give it back, chunks of a stream carry the time at which they were written. */
#define ID_KEY     "\"bench_id\":"
#define CHUNKS_KEY "\"bench_chunks\":"
#define PAUSE_KEY  "\"bench_pause_us\":"
#define TIME_KEY   "\"bench_ns\":"

static inline uint64_t now_ns(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline _Noreturn void die(const char *what)
{
        perror(what);
        exit(1);
}

/* The number behind a key, 0 if it is not there. */
static inline uint64_t number_after(const char *text, size_t len, const char *key)
{
        const char *at = memmem(text, len, key, strlen(key));

        return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* "/path" or "address:port"; the family is in *ret. */
static inline socklen_t address_of(const char *where, struct sockaddr_storage *ret)
{
        struct sockaddr_un *un = (struct sockaddr_un *)ret;
        struct sockaddr_in *in = (struct sockaddr_in *)ret;
        char host[64];
        const char *colon = strrchr(where, ':');

        memset(ret, 0, sizeof *ret);
        if (where[0] == '/') {
                if (strlen(where) >= sizeof un->sun_path)
                        goto bad;
                un->sun_family = AF_UNIX;
                (void)strcpy(un->sun_path, where);
                return sizeof *un;
        }
        if (!colon || (size_t)(colon - where) >= sizeof host)
                goto bad;
        memcpy(host, where, (size_t)(colon - where));
        host[colon - where] = '\0';
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)atoi(colon + 1));
        if (inet_pton(AF_INET, host, &in->sin_addr) == 1)
                return sizeof *in;
bad:
        fprintf(stderr, "%s is neither a path nor an address with a port\n", where);
        exit(2);
}

static inline void set_nodelay(int fd)
{
        int on = 1;

        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* not for unix sockets: no matter */
}

static inline void many_descriptors(void)
{
        struct rlimit limit;

        (void)getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

#endif
