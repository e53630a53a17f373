/* client.c: the control socket's other end. */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/http1.h"
#include "core/http1_build.h"

enum { READ_SIZE = 64 * 1024, STREAMS_MAX = 1024 };

struct connection {
        int fd;
        struct buffer in; /* undecoded */
        int status;
        size_t past; /* X-Log-Lines */
        struct http1_body body;
};

static void connection_finish(struct connection *c)
{
        close_fd(&c->fd);
        c->fd = -1;
        buffer_finish(&c->in);
}

void client_answer_finish(struct client_answer *a)
{
        buffer_finish(&a->body);
}

/* --- waiting ------------------------------------------------------------------------------------------------------ */

static int milliseconds_until(usec_t deadline)
{
        usec_t now = time_monotonic(), left = usec_sub(deadline, now);

        if (deadline == USEC_INFINITY)
                return -1;
        left = (left + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
        return left > INT_MAX ? INT_MAX : (int)left;
}

/* 0, -ETIMEDOUT or -errno. */
static int wait_for(struct pollfd *fds, size_t n, usec_t deadline)
{
        for (;;) {
                int r = poll(fds, n, milliseconds_until(deadline));

                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (time_monotonic() >= deadline)
                        return -ETIMEDOUT;
        }
}

static int connect_until(int fd, const struct sockaddr_un *address, usec_t deadline)
{
        for (;;) {
                struct pollfd none;

                if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
                        return 0;
                /* EAGAIN: the listener's backlog is full. Unix sockets tell nobody when there is room again. */
                if (errno != EAGAIN && errno != EINTR)
                        return -errno;
                if (time_monotonic() >= deadline)
                        return -ETIMEDOUT;
                (void)poll(&none, 0, 20);
        }
}

static int connection_open(struct connection *c, const char *path, usec_t deadline)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        size_t len = strlen(path);

        *c = (struct connection){.fd = -1};
        buffer_init(&c->in, 0);
        if (len >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, path, len);
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return -errno;
        return connect_until(c->fd, &address, deadline);
}

/* --- question and head -------------------------------------------------------------------------------------------- */

static int send_request(struct connection *c, const char *method, const char *target, struct slice body,
                        usec_t deadline)
{
        _cleanup_buffer_ struct buffer b = {0};
        size_t sent = 0;
        char length[24];
        int r;

        buffer_init(&b, 0);
        (void)http1_build_request(&b, slice_str(method), slice_str(target));
        (void)http1_build_header(&b, "Host", "localhost");
        (void)http1_build_header(&b, "User-Agent", "llama-supervisor/" LSV_VERSION);
        (void)http1_build_header(&b, "Accept", "*/*");
        (void)http1_build_header(&b, "Connection", "close");
        (void)snprintf(length, sizeof(length), "%zu", body.n);
        if (streq(method, "POST") || body.n)
                (void)http1_build_header(&b, "Content-Length", length);
        if (body.n)
                (void)http1_build_header(&b, "Content-Type", "application/json");
        (void)http1_build_end(&b);
        (void)buffer_append(&b, body.p, body.n);
        if (b.failed)
                return -EINVAL;
        while (sent < b.len) {
                ssize_t n = send(c->fd, b.data + sent, b.len - sent, MSG_NOSIGNAL);
                struct pollfd fd = {.fd = c->fd, .events = POLLOUT};

                if (n >= 0) {
                        sent += (size_t)n;
                        continue;
                }
                if (errno != EAGAIN && errno != EINTR)
                        return errno == EPIPE ? -ECONNRESET : -errno;
                r = wait_for(&fd, 1, deadline);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* One read of what has come: the number of bytes, 0 at the end, -EAGAIN when there is nothing. */
static ssize_t read_once(struct connection *c)
{
        ssize_t n;
        int r;

        r = buffer_reserve(&c->in, READ_SIZE);
        if (r < 0)
                return r;
        do
                n = recv(c->fd, c->in.data + c->in.len, READ_SIZE, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        c->in.len += (size_t)n;
        c->in.data[c->in.len] = '\0';
        return n;
}

static int read_more(struct connection *c, usec_t deadline, bool *ret_eof)
{
        struct pollfd fd = {.fd = c->fd, .events = POLLIN};
        ssize_t n;
        int r;

        for (;;) {
                r = wait_for(&fd, 1, deadline);
                if (r < 0)
                        return r;
                n = read_once(c);
                if (n == -EAGAIN)
                        continue;
                if (n < 0)
                        return (int)n;
                *ret_eof = n == 0;
                return 0;
        }
}

static size_t past_lines(const struct http1_response *head)
{
        struct slice value;
        size_t n = 0;

        if (http1_header_find(head->headers, head->n_headers, "X-Log-Lines", &value) != 1 || value.n > 6)
                return 0;
        for (size_t i = 0; i < value.n && value.p[i] >= '0' && value.p[i] <= '9'; i++)
                n = n * 10 + (size_t)(value.p[i] - '0');
        return n;
}

static int read_head(struct connection *c, uint64_t body_max, usec_t deadline)
{
        struct http1_parser parser;
        struct http1_response head;
        bool eof;
        int r;

        http1_parser_init(&parser);
        for (;;) {
                r = http1_response_parse(&parser, c->in.data ? c->in.data : "", c->in.len, NULL, HTTP1_GET,
                                         &head);
                if (r < 0)
                        return -EPROTO;
                if (r > 0 && head.status >= 200)
                        break;
                if (r > 0) { /* 1xx: the answer comes behind it */
                        buffer_consume(&c->in, (size_t)r);
                        http1_parser_init(&parser);
                        continue;
                }
                r = read_more(c, deadline, &eof);
                if (r < 0)
                        return r;
                if (eof)
                        return -ECONNRESET;
        }
        c->status = head.status;
        c->past = past_lines(&head);
        http1_body_init_response(&c->body, &head, body_max);
        buffer_consume(&c->in, (size_t)r);
        return 0;
}

/* What can be decoded of c->in goes to `out`. */
static int decode(struct connection *c, struct buffer *out)
{
        size_t used, done = 0;
        struct slice data;
        int r;

        if (http1_body_is_done(&c->body))
                return 0;
        do {
                r = http1_body_feed(&c->body, c->in.data ? c->in.data + done : "", c->in.len - done, &used,
                                    &data);
                if (r < 0)
                        return r;
                done += used;
                if (data.n && buffer_append(out, data.p, data.n) < 0)
                        return -EMSGSIZE;
        } while (r == HTTP1_AGAIN);
        buffer_consume(&c->in, done);
        return 0;
}

static int read_body(struct connection *c, usec_t deadline, struct buffer *out)
{
        bool eof;
        int r;

        for (;;) {
                r = decode(c, out);
                if (r < 0)
                        return r;
                if (http1_body_is_done(&c->body))
                        return 0;
                r = read_more(c, deadline, &eof);
                if (r < 0)
                        return r;
                if (eof)
                        return http1_body_eof(&c->body) < 0 ? -ECONNRESET : 0;
        }
}

int client_request(const char *socket_path, const char *method, const char *target, usec_t timeout,
                   struct client_answer *ret)
{
        return client_send(socket_path, method, target, (struct slice){0}, timeout, ret);
}

int client_send(const char *socket_path, const char *method, const char *target, struct slice content,
                usec_t timeout, struct client_answer *ret)
{
        usec_t deadline = usec_add(time_monotonic(), timeout);
        struct connection c;
        struct buffer body;
        int r;

        buffer_init(&body, CLIENT_ANSWER_MAX);
        r = connection_open(&c, socket_path, deadline);
        if (r == 0)
                r = send_request(&c, method, target, content, deadline);
        if (r == 0)
                r = read_head(&c, CLIENT_ANSWER_MAX, deadline);
        if (r == 0)
                r = read_body(&c, deadline, &body);
        if (r == 0)
                *ret = (struct client_answer){.status = c.status, .body = body};
        else
                buffer_finish(&body);
        connection_finish(&c);
        return r;
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

struct client_stream {
        struct connection c;
        struct buffer text; /* decoded; its first `taken` bytes were handed out */
        struct buffer line; /* the last one handed out */
        size_t taken;
        bool ended;
};

struct client_stream *client_stream_free(struct client_stream *s)
{
        if (!s)
                return NULL;
        connection_finish(&s->c);
        buffer_finish(&s->text);
        buffer_finish(&s->line);
        free(s);
        return NULL;
}

int client_stream_open(const char *socket_path, const char *target, usec_t timeout,
                       struct client_stream **ret, struct client_answer *ret_refusal)
{
        usec_t deadline = usec_add(time_monotonic(), timeout);
        struct client_stream *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        buffer_init(&s->text, 2 * CLIENT_LINE_MAX);
        buffer_init(&s->line, CLIENT_LINE_MAX);
        r = connection_open(&s->c, socket_path, deadline);
        if (r == 0)
                r = send_request(&s->c, "GET", target, (struct slice){0}, deadline);
        if (r == 0)
                r = read_head(&s->c, 0, deadline);
        if (r == 0 && s->c.status != 200) {
                struct buffer body;

                buffer_init(&body, CLIENT_LINE_MAX);
                r = read_body(&s->c, deadline, &body);
                if (r == 0) {
                        *ret_refusal = (struct client_answer){.status = s->c.status, .body = body};
                        r = 1;
                } else {
                        buffer_finish(&body);
                }
        }
        if (r == 0)
                r = decode(&s->c, &s->text);
        if (r != 0) {
                client_stream_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

size_t client_stream_past(const struct client_stream *s)
{
        return s->c.past;
}

bool client_stream_line(struct client_stream *s, char **ret, size_t *ret_len)
{
        size_t left = s->text.len - s->taken, len;
        char *begin = s->text.data ? s->text.data + s->taken : NULL;
        char *end = begin && left ? memchr(begin, '\n', left) : NULL;

        if (!end && (left == 0 || (left <= CLIENT_LINE_MAX && !s->ended))) {
                buffer_consume(&s->text, s->taken);
                s->taken = 0;
                return false;
        }
        len = MIN(end ? (size_t)(end - begin) : left, (size_t)CLIENT_LINE_MAX);
        s->taken += len + (begin + len == end);
        buffer_clear(&s->line);
        if (buffer_append(&s->line, begin, len) < 0)
                return false;
        *ret = s->line.data;
        *ret_len = len;
        return true;
}

int client_stream_pull(struct client_stream *s)
{
        ssize_t n;
        int r;

        if (!http1_body_is_done(&s->c.body)) {
                n = read_once(&s->c);
                if (n == -EAGAIN)
                        return 0;
                if (n < 0)
                        return (int)n;
                if (n == 0 && http1_body_eof(&s->c.body) < 0)
                        return -ECONNRESET;
                if (n > 0) {
                        r = decode(&s->c, &s->text);
                        if (r < 0)
                                return r;
                        if (!http1_body_is_done(&s->c.body))
                                return 0;
                }
        }
        s->ended = true;
        return 1;
}

int client_stream_wait(struct client_stream *const *streams, size_t n, int other_fd, usec_t deadline,
                       size_t *ret)
{
        struct pollfd fds[STREAMS_MAX + 1];
        size_t count = MIN(n, (size_t)STREAMS_MAX);
        int r;

        for (size_t i = 0; i < count; i++)
                fds[i] = (struct pollfd){.fd = streams[i] ? streams[i]->c.fd : -1, .events = POLLIN};
        fds[count] = (struct pollfd){.fd = other_fd, .events = POLLIN};
        r = wait_for(fds, count + 1, deadline);
        if (r < 0)
                return r;
        if (other_fd >= 0 && fds[count].revents) {
                *ret = n;
                return 0;
        }
        for (size_t i = 0; i < count; i++)
                if (fds[i].fd >= 0 && fds[i].revents) {
                        *ret = i;
                        return 0;
                }
        return -EIO;
}
