/* stream.c: connected byte streams on uv_tcp and uv_pipe. */
#include "net/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/macros.h"
#include "net/loop_private.h"
#include "net/tls.h"

/* How often a full unix backlog is tried again; poll(2) cannot wait for it. */
static const usec_t RETRY_FIRST = 2 * USEC_PER_MSEC, RETRY_MAX = 50 * USEC_PER_MSEC;

enum {
        TLS_PIECE = 16 * 1024,
        TLS_CHATTER_MAX = 64 * 1024,
        TOGETHER_MAX = 8 * 1024, /* pieces of a write that are moved together */
};

struct stream {
        union {
                uv_handle_t handle;
                uv_stream_t stream;
                uv_tcp_t tcp;
                uv_pipe_t pipe;
        } uv;
        uv_write_t write;
        uv_connect_t connect;
        struct deferred
                late; /* tells a connect result, or a write error, from outside the caller's own call */
        struct loop *loop;
        const struct stream_events *on; /* NULL once freed */
        void *owner;
        struct timer *retry; /* only while a unix backlog is full */
        struct endpoint *to; /* the same */
        usec_t retry_span;
        struct buffer writing, pending; /* the bytes of the uv_write under way; what came after it began */
        uint64_t taken;                 /* bytes that the owner wrote */
        int fd, connect_result, error;
        struct tls *tls;    /* NULL: plain */
        size_t tls_chatter; /* bytes that TLS itself wanted to send since all was sent */
        bool is_unix, connect_known, is_writing, ended, broken, tls_begun, tls_ready, shut;
};

static void on_late(struct deferred *d);

static struct stream *stream_alloc(struct loop *loop, bool is_unix, const struct stream_events *events,
                                   void *owner)
{
        struct stream *s = calloc(1, sizeof *s);

        if (!s)
                return NULL;
        if (is_unix)
                (void)uv_pipe_init(loop_libuv(loop), &s->uv.pipe, 0);
        else
                (void)uv_tcp_init(loop_libuv(loop), &s->uv.tcp);
        deferred_init(&s->late, on_late);
        s->loop = loop;
        s->on = events;
        s->owner = owner;
        s->is_unix = is_unix;
        s->fd = -1;
        buffer_init(&s->writing, 0);
        buffer_init(&s->pending, 0);
        return s;
}

static void on_closed(uv_handle_t *handle)
{
        struct stream *s = CONTAINER_OF(handle, struct stream, uv.handle);

        buffer_finish(&s->writing);
        buffer_finish(&s->pending);
        free(s);
}

struct stream *stream_free(struct stream *s)
{
        if (!s)
                return NULL;
        s->on = NULL;
        deferred_cancel(&s->late);
        s->retry = timer_free(s->retry);
        free(s->to);
        s->to = NULL;
        s->fd = -1;
        s->tls = tls_free(s->tls);
        uv_close(&s->uv.handle, on_closed);
        return NULL;
}

static void stream_end(struct stream *s, int error)
{
        if (!s->on || s->broken || (s->ended && !error))
                return;
        s->ended = true;
        s->broken = error != 0;
        (void)uv_read_stop(&s->uv.stream);
        s->on->on_end(s->owner, error);
}

static void on_late(struct deferred *d)
{
        struct stream *s = CONTAINER_OF(d, struct stream, late);

        if (s->connect_known) {
                s->connect_known = false;
                s->on->on_connect(s->owner, s->connect_result);
        } else if (s->error) {
                stream_end(s, s->error);
        }
}

/* Remembers the first error; on_end follows at the end of this turn. */
static int stream_break(struct stream *s, int error)
{
        if (!s->error) {
                s->error = error;
                loop_defer(s->loop, &s->late);
        }
        return -EPIPE;
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int adopt_fd(struct stream *s, int fd)
{
        int r;

        r = s->is_unix ? uv_pipe_open(&s->uv.pipe, fd) : uv_tcp_open(&s->uv.tcp, fd);
        if (r < 0) {
                (void)close(fd);
                return r;
        }
        s->fd = fd;
        return 0;
}

static void set_nodelay(int fd)
{
        int on = 1;

        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int stream_open(struct loop *loop, int fd, bool is_unix, const struct stream_events *events, void *owner,
                struct stream **ret)
{
        struct stream *s = stream_alloc(loop, is_unix, events, owner);
        int r;

        if (!s) {
                (void)close(fd);
                return -ENOMEM;
        }
        r = adopt_fd(s, fd);
        if (r < 0) {
                (void)stream_free(s);
                return r;
        }
        if (!is_unix)
                set_nodelay(fd);
        *ret = s;
        return 0;
}

static void connect_done(struct stream *s, int result)
{
        s->connect_known = true;
        s->connect_result = result;
        loop_defer(s->loop, &s->late);
}

/* A TCP connect to a port where nobody listens may meet itself, when the kernel chooses that very port as its source. */
static bool met_itself(int fd)
{
        struct endpoint here = {.len = sizeof here.addr}, there = {.len = sizeof there.addr};

        return getsockname(fd, &here.addr.sa, &here.len) == 0 &&
               getpeername(fd, &there.addr.sa, &there.len) == 0 && endpoint_equal(&here, &there);
}

static void on_tcp_connected(uv_connect_t *req, int status)
{
        struct stream *s = CONTAINER_OF(req, struct stream, connect);
        uv_os_fd_t fd;

        if (!s->on)
                return;
        (void)loop_note(s->loop);
        if (status == 0)
                status = uv_fileno(&s->uv.handle, &fd);
        if (status == 0 && met_itself(fd))
                status = -ECONNREFUSED;
        if (status == 0) {
                s->fd = fd;
                set_nodelay(fd);
        }
        s->on->on_connect(s->owner, status);
}

/* Not uv_pipe_connect: it gives up when the backlog is full (EAGAIN). */
static int unix_connect(const struct endpoint *to, int *ret)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return -errno;
        if (connect(fd, &to->addr.sa, to->len) < 0)
                return -errno;
        *ret = steal_fd(&fd);
        return 0;
}

/* 0 when there is a result (to be told), -EAGAIN when the backlog is full. */
static int try_unix(struct stream *s)
{
        int fd = -1, r;

        r = unix_connect(s->to, &fd);
        if (r == -EAGAIN)
                return r;
        if (r == 0)
                r = adopt_fd(s, fd);
        free(s->to);
        s->to = NULL;
        connect_done(s, r);
        return 0;
}

static void on_retry(void *owner, usec_t now)
{
        struct stream *s = owner;

        if (try_unix(s) == 0)
                return;
        s->retry_span = MIN(s->retry_span * 2, RETRY_MAX);
        timer_set(s->retry, usec_add(now, s->retry_span));
}

static int start_unix(struct stream *s, const struct endpoint *to)
{
        int r;

        s->to = malloc(sizeof *s->to);
        if (!s->to)
                return -ENOMEM;
        *s->to = *to;
        if (try_unix(s) == 0)
                return 0;
        r = timer_new(s->loop, on_retry, s, &s->retry);
        if (r < 0)
                return r;
        s->retry_span = RETRY_FIRST;
        timer_set(s->retry, usec_add(loop_now(s->loop), s->retry_span));
        return 0;
}

int stream_connect(struct loop *loop, const struct endpoint *to, const struct stream_events *events,
                   void *owner, struct stream **ret)
{
        struct stream *s = stream_alloc(loop, endpoint_is_unix(to), events, owner);
        int r;

        if (!s)
                return -ENOMEM;
        r = s->is_unix ? start_unix(s, to)
                       : uv_tcp_connect(&s->connect, &s->uv.tcp, &to->addr.sa, on_tcp_connected);
        if (r < 0) {
                (void)stream_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
        struct stream *s = CONTAINER_OF(handle, struct stream, uv.handle);

        (void)suggested;
        *buf = uv_buf_init(loop_scratch(s->loop), LOOP_SCRATCH_SIZE);
}

static void tls_came(struct stream *s, char *data, size_t len);

static void on_uv_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
        struct stream *s = CONTAINER_OF(stream, struct stream, uv.stream);

        if (n == 0 || !s->on)
                return;
        (void)loop_note(s->loop);
        if (n > 0 && s->tls)
                tls_came(s, buf->base, (size_t)n);
        else if (n > 0)
                s->on->on_read(s->owner, buf->base, (size_t)n);
        else
                stream_end(s, n == UV_EOF ? 0 : (int)n);
}

int stream_read(struct stream *s, bool on)
{
        int r;

        if (s->ended || s->fd < 0)
                return -EPIPE;
        if (!on)
                return uv_read_stop(&s->uv.stream);
        r = uv_read_start(&s->uv.stream, on_alloc, on_uv_read);
        return r == UV_EALREADY ? 0 : r;
}

ssize_t stream_take(struct stream *s, char *buf, size_t size)
{
        ssize_t n;

        if (s->fd < 0 || s->tls)
                return 0;
        do {
                n = recv(s->fd, buf, size, MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

/* --- TLS: the bytes of the wire on one side, the owner's on the other ---------------------------------------------- */

static int write_plain(struct stream *s, const struct iovec *iov, unsigned n);

/* Whatever TLS has to say goes out. */
static int tls_send(struct stream *s)
{
        const char *data;
        size_t n = tls_output(s->tls, &data);
        struct iovec iov = {(char *)data, n};
        int r = n ? write_plain(s, &iov, 1) : 0;

        tls_output_done(s->tls);
        return r == -ENOMEM ? stream_break(s, r) : r;
}

/* A plain request ("GET / …") on an address that speaks TLS: its handshake begins with 22. */
static bool is_plain_text(const struct stream *s, const char *data)
{
        return !s->tls_begun && *data >= 'A' && *data <= 'Z';
}

static void tell_plain(struct stream *s)
{
        s->tls = tls_free(s->tls);
        s->on->on_connect(s->owner, -EPROTONOSUPPORT);
}

/* What it answered by itself to what came (handshake, tickets, key updates), bounded: a peer that asks and never reads. */
static bool tls_answer(struct stream *s)
{
        const char *unused;

        s->tls_chatter += tls_output(s->tls, &unused);
        if (tls_send(s) < 0)
                return false;
        if (!stream_queued(s))
                s->tls_chatter = 0;
        if (s->tls_chatter <= TLS_CHATTER_MAX)
                return true;
        stream_end(s, -EPROTO);
        return false;
}

static void tls_came(struct stream *s, char *data, size_t len)
{
        char plain[TLS_PIECE];
        ssize_t n;

        if (is_plain_text(s, data)) {
                tell_plain(s);
                return;
        }
        s->tls_begun = true;
        tls_feed(s->tls, data, len);
        do {
                n = tls_read(s->tls, plain, sizeof plain);
                if (!tls_answer(s))
                        return;
                if (!s->tls_ready && tls_is_ready(s->tls)) {
                        s->tls_ready = true;
                        s->on->on_connect(s->owner, 0);
                }
                if (n > 0 && s->on && s->tls && !s->ended)
                        s->on->on_read(s->owner, plain, (size_t)n);
        } while (n > 0 && s->on && s->tls && !s->ended);
        if (n < 0 && s->on)
                stream_end(s, n == -ESHUTDOWN ? 0 : -EPROTO);
}

int stream_serve_tls(struct stream *s, const struct tls_context *context)
{
        return tls_new(context, &s->tls);
}

bool stream_is_ready(const struct stream *s)
{
        return !s->tls || s->tls_ready;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

size_t stream_queued(const struct stream *s)
{
        return s->pending.len + (s->is_writing ? uv_stream_get_write_queue_size(&s->uv.stream) : 0);
}

uint64_t stream_sent(const struct stream *s)
{
        return s->taken - stream_queued(s);
}

uint64_t stream_progress(const struct stream *s)
{
        int waiting = 0;

        if (s->fd >= 0)
                (void)ioctl(s->fd, SIOCOUTQ, &waiting);
        return stream_sent(s) - (uint64_t)waiting;
}

static void on_written(uv_write_t *req, int status);

static int write_pending(struct stream *s)
{
        struct buffer swap = s->writing;
        uv_buf_t buf;
        int r;

        s->writing = s->pending;
        s->pending = swap;
        buffer_clear(&s->pending);
        buf = uv_buf_init(s->writing.data, (unsigned)s->writing.len);
        r = uv_write(&s->write, &s->uv.stream, &buf, 1, on_written);
        if (r < 0)
                return r;
        s->is_writing = true;
        return 0;
}

static void on_written(uv_write_t *req, int status)
{
        struct stream *s = CONTAINER_OF(req, struct stream, write);

        s->is_writing = false;
        if (!s->on)
                return;
        (void)loop_note(s->loop);
        if (status == 0 && s->pending.len)
                status = write_pending(s);
        if (status < 0) {
                s->error = status;
                buffer_clear(&s->pending);
                stream_end(s, status);
                return;
        }
        if (s->is_writing)
                return;
        /* The slow way is rare: an idle connection keeps no buffers. */
        buffer_finish(&s->writing);
        buffer_finish(&s->pending);
        s->tls_chatter = 0;
        if (s->shut)
                (void)shutdown(s->fd, SHUT_WR);
        s->on->on_drain(s->owner);
}

/* What the socket takes at once. sendmsg(2) costs 200 ns more than send(2), and more than moving a few KB together. */
static ssize_t send_now(struct stream *s, const struct iovec *iov, unsigned n, size_t total)
{
        struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
        const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
        char together[TOGETHER_MAX], *end = together;
        ssize_t sent;

        if (n > 1 && total <= sizeof together)
                for (unsigned i = 0; i < n; i++)
                        end = iov[i].iov_len ? mempcpy(end, iov[i].iov_base, iov[i].iov_len) : end;
        do {
                if (n == 1)
                        sent = send(s->fd, iov->iov_base, iov->iov_len, flags);
                else if (total <= sizeof together)
                        sent = send(s->fd, together, total, flags);
                else
                        sent = sendmsg(s->fd, &msg, flags);
        } while (sent < 0 && errno == EINTR);
        if (sent < 0)
                return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -errno;
        return sent;
}

static int write_plain(struct stream *s, const struct iovec *iov, unsigned n)
{
        size_t total = 0, skip = 0;
        int r;

        if (s->error || s->fd < 0)
                return -EPIPE;
        for (unsigned i = 0; i < n; i++)
                total += iov[i].iov_len;
        if (!s->is_writing) {
                ssize_t sent = send_now(s, iov, n, total);

                if (sent < 0)
                        return stream_break(s, (int)sent);
                skip = (size_t)sent;
        }
        if (skip == total) {
                s->taken += total;
                return 0;
        }
        r = buffer_reserve(&s->pending, total - skip);
        if (r < 0) {
                s->pending.failed = false;
                /* A part of it has gone, so what follows could not be understood. */
                s->taken += skip;
                return skip ? stream_break(s, -ENOMEM) : -ENOMEM;
        }
        s->taken += total;
        for (unsigned i = 0; i < n; i++) {
                size_t jump = MIN(skip, iov[i].iov_len);

                (void)buffer_append(&s->pending, (const char *)iov[i].iov_base + jump, iov[i].iov_len - jump);
                skip -= jump;
        }
        if (!s->is_writing) {
                r = write_pending(s);
                if (r < 0)
                        return stream_break(s, r);
        }
        return 0;
}

int stream_write(struct stream *s, const struct iovec *iov, unsigned n)
{
        int r;

        if (!s->tls)
                return write_plain(s, iov, n);
        if (s->error || s->fd < 0)
                return -EPIPE;
        r = tls_write(s->tls, iov, n);
        if (r == -ENOMEM) /* a part of it may be on its way */
                return stream_break(s, r);
        return r < 0 ? r : tls_send(s);
}

void stream_shutdown(struct stream *s)
{
        if (s->fd < 0)
                return;
        if (s->tls) {
                tls_close(s->tls);
                if (tls_send(s) < 0)
                        return;
                s->shut = stream_queued(s) > 0;
        }
        if (!s->shut)
                (void)shutdown(s->fd, SHUT_WR);
}

void stream_reset_on_close(struct stream *s)
{
        struct linger now = {.l_onoff = 1, .l_linger = 0};

        if (s->fd >= 0)
                (void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

bool stream_peer_closed(const struct stream *s)
{
        struct pollfd p = {.fd = s->fd, .events = POLLRDHUP};

        return s->fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

int stream_fd(const struct stream *s)
{
        return s->fd;
}

pid_t stream_peer_pid(const struct stream *s)
{
        struct ucred cred;
        socklen_t len = sizeof cred;

        if (!s->is_unix || s->fd < 0 || getsockopt(s->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
                return 0;
        return cred.pid;
}

void stream_set_send_buffer(struct stream *s, int bytes)
{
        if (s->fd >= 0)
                (void)setsockopt(s->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}
