/* listener.c: listening sockets, accepting from them, and the caps on connections. */
#include "net/server_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/text.h"

enum { BACKLOG = 1024, ACCEPTS_A_TURN = 64 };

static const usec_t PAUSE = 100 * USEC_PER_MSEC;

static const char busy_answer[] =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        "Content-Length: 95\r\nConnection: close\r\n\r\n"
        "{\"error\":{\"message\":\"too many "
        "connections\",\"type\":\"unavailable_error\",\"code\":503,\"param\":null}}";

/* --- connections per address -------------------------------------------------------------------------------------- */

/* IPv4 whole, IPv6 by /64: a household or a host has that many addresses to itself. */
static void address_key(const struct endpoint *from, struct in6_addr *ret)
{
        struct in6_addr key = {0};

        if (from->addr.sa.sa_family == AF_INET) {
                key.s6_addr[10] = key.s6_addr[11] = 0xff;
                memcpy(&key.s6_addr[12], &from->addr.in.sin_addr, 4);
        } else {
                memcpy(key.s6_addr, from->addr.in6.sin6_addr.s6_addr, 8);
        }
        *ret = key;
}

static unsigned address_bucket(const struct in6_addr *key)
{
        unsigned h = 2166136261U;

        for (unsigned i = 0; i < sizeof key->s6_addr; i++)
                h = (h ^ key->s6_addr[i]) * 16777619U;
        return (h ^ (h >> 16)) % ADDRESS_BUCKETS;
}

/* One more of it. 0, -EUSERS over the cap, -ENOMEM. */
static int address_take(struct server *s, const struct endpoint *from, struct address **ret)
{
        struct address *a = NULL;
        struct in6_addr key;
        struct list *bucket;

        address_key(from, &key);
        bucket = &s->addresses[address_bucket(&key)];
        LIST_FOREACH(bucket, it)
        {
                struct address *here = LIST_ENTRY(it, struct address, node);

                if (IN6_ARE_ADDR_EQUAL(&here->key, &key))
                        a = here;
        }
        if (!a) {
                a = calloc(1, sizeof *a);
                if (!a)
                        return -ENOMEM;
                a->key = key;
                list_append(bucket, &a->node);
        } else if (a->count >= s->limits.per_address_max) {
                return -EUSERS;
        }
        a->count++;
        *ret = a;
        return 0;
}

static void address_drop(struct address *a)
{
        if (a->count || a->held)
                return;
        list_remove(&a->node);
        free(a);
}

void address_release(struct address *a)
{
        if (!a)
                return;
        a->count--;
        address_drop(a);
}

int request_hold_address(const struct request *req, struct address **ret)
{
        struct server *s = req->server;
        struct address *a;

        if (req->ended)
                return -EPIPE;
        a = req->conn->address;
        if (a && a->held >= s->limits.per_address_max) {
                s->counts.refused_address++;
                return -EUSERS;
        }
        if (a)
                a->held++;
        *ret = a;
        return 0;
}

void address_let_go(struct address *a)
{
        if (!a)
                return;
        a->held--;
        address_drop(a);
}

/* --- accepting ---------------------------------------------------------------------------------------------------- */

/* As far as it goes without waiting: the client has perhaps not even sent its request. */
static void turn_away(const struct listener *l, int fd)
{
        if (!l->tls)
                (void)send(fd, busy_answer, sizeof busy_answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)shutdown(fd, SHUT_WR);
        (void)close(fd);
}

static void pause_accepting(struct server *s)
{
        s->counts.accept_pauses++;
        LIST_FOREACH(&s->listeners, it)
        {
                struct listener *l = LIST_ENTRY(it, struct listener, node);

                if (l->watch)
                        (void)watch_set(l->watch, 0);
        }
        timer_set(s->pause, usec_add(loop_now(s->loop), PAUSE));
}

void server_resume_accepting(void *owner, usec_t now)
{
        struct server *s = owner;

        (void)now;
        if (s->held)
                return;
        LIST_FOREACH(&s->listeners, it)
        {
                struct listener *l = LIST_ENTRY(it, struct listener, node);

                if (l->watch && watch_set(l->watch, WATCH_READ) < 0)
                        timer_set(s->pause, usec_add(loop_now(s->loop), PAUSE));
        }
}

/* No descriptor is left: the connection that waits would make the listener readable for ever. */
static void shed_one(struct listener *l)
{
        struct server *s = l->server;
        int fd;

        if (s->reserve >= 0) {
                (void)close(s->reserve);
                fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd >= 0)
                        turn_away(l, fd);
        }
        s->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

int listener_admit(struct listener *l, int fd, const struct endpoint *from, struct conn **ret)
{
        struct server *s = l->server;
        struct address *address = NULL;
        int r;

        if (s->counts.connections >= s->limits.connections_max + (l->vital ? VITAL_EXTRA : 0) ||
            (fd >= s->fd_max && !l->vital)) {
                s->counts.refused_cap++;
                turn_away(l, fd);
                return -EUSERS;
        }
        if (!endpoint_is_unix(&l->at) && !endpoint_is_loopback(from)) {
                if (address_take(s, from, &address) < 0) {
                        s->counts.refused_address++;
                        turn_away(l, fd);
                        return -EUSERS;
                }
        }
        r = conn_new(l, fd, from, address, ret);
        if (r < 0) {
                s->counts.accept_errors++;
                address_release(address);
                return r;
        }
        s->counts.accepted++;
        return 0;
}

static void on_acceptable(void *owner, unsigned events, usec_t now)
{
        struct listener *l = owner;
        struct server *s = l->server;
        struct conn *c;

        (void)events;
        (void)now;
        for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
                struct endpoint from = {.len = sizeof from.addr};
                int fd = accept4(l->fd, &from.addr.sa, &from.len, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0) {
                        (void)listener_admit(l, fd, &from, &c);
                        continue;
                }
                if (errno == EAGAIN || errno == EWOULDBLOCK)
                        return;
                if (errno == EINTR || errno == ECONNABORTED)
                        continue;
                s->counts.accept_errors++;
                if (errno == EMFILE || errno == ENFILE)
                        shed_one(l);
                pause_accepting(s);
                return;
        }
}

/* --- listening sockets ---------------------------------------------------------------------------------------------- */

/* Does anybody answer on the path? A full backlog is an answer, too. */
static bool is_answered(const struct endpoint *at)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        return fd < 0 || connect(fd, &at->addr.sa, at->len) == 0 ||
               (errno != ECONNREFUSED && errno != ENOENT);
}

/* Takes a socket file out of the way on which nobody listens; anything else there stays. */
static int clear_stale(const struct endpoint *at)
{
        const char *path = at->addr.un.sun_path;
        struct stat before, after;

        if (lstat(path, &before) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(before.st_mode))
                return -EEXIST;
        if (is_answered(at))
                return -EADDRINUSE;
        /* Somebody else may have cleared it and bound anew since. */
        if (lstat(path, &after) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (after.st_ino != before.st_ino || after.st_dev != before.st_dev)
                return -EADDRINUSE;
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* Gives the file its mode through a descriptor that cannot have become another file. */
static int set_mode(struct listener *l, mode_t mode)
{
        _cleanup_close_ int fd = open(l->at.addr.un.sun_path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        char self[40];
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISSOCK(st.st_mode))
                return -EEXIST;
        (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        if (chmod(self, mode) < 0)
                return -errno;
        l->dev = st.st_dev;
        l->ino = st.st_ino;
        return 0;
}

static int bind_unix(struct listener *l, mode_t mode)
{
        int r = clear_stale(&l->at);

        if (r < 0)
                return r;
        /* The file is born with the socket's mode less the umask: never wider than asked for, perhaps narrower. */
        if (fchmod(l->fd, mode) < 0 || bind(l->fd, &l->at.addr.sa, l->at.len) < 0)
                return -errno;
        r = set_mode(l, mode);
        if (r < 0)
                (void)unlink(l->at.addr.un.sun_path);
        return r;
}

/* A peer that vanished without a word is noticed after about two minutes, also where nothing is ever sent to it: a log that is
 * followed and stays silent. Accepted sockets inherit it. */
static void set_keepalive(int fd)
{
        int on = 1, idle = 60, interval = 15, count = 4;

        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static void set_options(const struct listener *l)
{
        int size = (int)l->server->limits.send_buffer;

        set_keepalive(l->fd);
        /* Accepted sockets inherit it. */
        if (size)
                (void)setsockopt(l->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static int bind_tcp(struct listener *l)
{
        struct endpoint bound = {.len = sizeof bound.addr};
        int on = 1;

        if (setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
                return -errno;
        set_options(l);
        if (l->at.addr.sa.sa_family == AF_INET6 &&
            setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0)
                return -errno;
        if (bind(l->fd, &l->at.addr.sa, l->at.len) < 0 || getsockname(l->fd, &bound.addr.sa, &bound.len) < 0)
                return -errno;
        l->at = bound;
        return 0;
}

static int listener_start(struct listener *l)
{
        if (listen(l->fd, BACKLOG) < 0)
                return -errno;
        return watch_new(l->server->loop, l->fd, l->server->held ? 0 : WATCH_READ, on_acceptable, l,
                         &l->watch);
}

static int listener_open(struct listener *l, mode_t mode)
{
        int r;

        l->fd = socket(l->at.addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (l->fd < 0)
                return -errno;
        r = endpoint_is_unix(&l->at) ? bind_unix(l, mode) : bind_tcp(l);
        return r < 0 ? r : listener_start(l);
}

static int listener_use(struct listener *l, bool is_ours, mode_t mode)
{
        int r = 0;

        if (!endpoint_is_unix(&l->at))
                set_options(l);
        else if (is_ours)
                r = set_mode(l, mode);
        return r < 0 ? r : listener_start(l);
}

static int listener_new(struct server *s, int fd, const struct endpoint *at, const char *tag,
                        struct listener **ret)
{
        struct listener *l = calloc(1, sizeof *l);

        if (!l)
                return -ENOMEM;
        list_init(&l->node);
        l->server = s;
        l->at = *at;
        l->fd = fd;
        l->tag = text_dup(tag);
        if (tag && !l->tag) {
                free(l);
                return -ENOMEM;
        }
        *ret = l;
        return 0;
}

static int add_listener(struct server *s, struct listener *l, int r, struct listener **ret)
{
        if (r < 0) {
                (void)listener_free(l);
                return r;
        }
        list_append(&s->listeners, &l->node);
        if (ret)
                *ret = l;
        return 0;
}

int server_listen(struct server *s, const struct endpoint *at, mode_t mode, const char *tag,
                  struct listener **ret)
{
        struct listener *l;
        int r;

        if (!at->len || s->stopping)
                return -EINVAL;
        r = listener_new(s, -1, at, tag, &l);
        return r < 0 ? r : add_listener(s, l, listener_open(l, mode), ret);
}

int server_listen_on(struct server *s, int fd, const struct endpoint *bound, bool is_ours, mode_t mode,
                     const char *tag, struct listener **ret)
{
        struct listener *l;
        int r;

        r = bound->len && !s->stopping ? listener_new(s, fd, bound, tag, &l) : -EINVAL;
        if (r < 0) {
                (void)close(fd);
                return r;
        }
        return add_listener(s, l, listener_use(l, is_ours, mode), ret);
}

int listener_fd(const struct listener *l)
{
        return l->fd;
}

void listener_stop(struct listener *l)
{
        const char *path = l->at.addr.un.sun_path;
        struct stat st;

        l->watch = watch_free(l->watch);
        if (l->fd < 0)
                return;
        if (l->ino && lstat(path, &st) == 0 && st.st_ino == l->ino && st.st_dev == l->dev)
                (void)unlink(path);
        (void)close(l->fd);
        l->fd = -1;
}

struct listener *listener_free(struct listener *l)
{
        if (!l)
                return NULL;
        listener_stop(l);
        list_remove(&l->node);
        free(l->tag);
        free(l);
        return NULL;
}

void listener_set_vital(struct listener *l)
{
        l->vital = true;
}

void listener_set_tls(struct listener *l, const struct tls_context *context)
{
        l->tls = context;
}

bool listener_is_tls(const struct listener *l)
{
        return l->tls != NULL;
}

const struct endpoint *listener_endpoint(const struct listener *l)
{
        return &l->at;
}

const char *listener_tag(const struct listener *l)
{
        return l->tag;
}
