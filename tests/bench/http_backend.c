/* http_backend.c: the server behind the gateway's benchmark: as fast as it can be, one thread, so that it is not the bottleneck.
 *
 * It takes llama-server's arguments (of which only --host, --port and --help mean something), so that the daemon can run it as
 * an instance. GET answers 1 KB of JSON, which is also good enough as /health, /v1/models and /props. POST answers 1 KB with the
 * request's number; a body with bench_chunks is answered with that many SSE chunks, one each bench_pause_us, each with the time
 * at which it was written. GET /bench/ids tells how many numbers came, and how many of them more than once.
 * --bench-keep-alive N: a connection ends after N requests, as llama-server's do after 100. */
#include "http_peer.h"

enum { IN_MAX = 1 << 20 };

struct conn {
        int fd;
        char *in;
        size_t len, cap;
        /* a stream that is being written; those are in a queue by the time of their next chunk */
        uint64_t due, pause, left, id;
        unsigned long served;
        struct conn *next, *prev;
};

static struct conn queue = {.next = &queue, .prev = &queue};
static int epoll_fd;
static uint64_t posts, ids_seen, ids_twice;
static unsigned char *seen;
static char plain[4096], sse_head[512], padding[ANSWER_BYTES + 1];
static size_t plain_len;
static unsigned long keep_alive; /* requests of one connection, 0: no bound */

static void leave_queue(struct conn *c)
{
        if (!c->next)
                return;
        c->next->prev = c->prev;
        c->prev->next = c->next;
        c->next = c->prev = NULL;
}

/* By time; all streams have the same pause, so the place is nearly always the end. */
static void join_queue(struct conn *c)
{
        struct conn *at = &queue;

        while (at->prev != &queue && at->prev->due > c->due)
                at = at->prev;
        c->next = at;
        c->prev = at->prev;
        c->prev->next = c;
        at->prev = c;
}

static void hang_up(struct conn *c)
{
        leave_queue(c);
        (void)close(c->fd);
        free(c->in);
        free(c);
}

/* Sockets take these small answers at once; one that does not has a reader who is not there. */
static bool say(struct conn *c, const char *text, size_t len)
{
        if (send(c->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len)
                return true;
        hang_up(c);
        return false;
}

static size_t json_answer(char *to, uint64_t id, bool last)
{
        char head[256], body[ANSWER_BYTES + 1];
        int n, m;

        n = snprintf(
                body, sizeof body,
                "{\"status\":\"ok\",\"total_slots\":1024,\"model_path\":\"bench\"," ID_KEY "%llu,"
                "\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"meta\":{\"n_ctx\":4096}}],\"padding\":\"",
                (unsigned long long)id);
        m = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/json; charset=utf-8\r\n"
                     "%sContent-Length: %d\r\n\r\n",
                     last ? "Connection: close\r\n" : "", ANSWER_BYTES);
        memcpy(to, head, (size_t)m);
        memcpy(to + m, body, (size_t)n);
        memcpy(to + m + n, padding, (size_t)(ANSWER_BYTES - n - 2));
        memcpy(to + m + ANSWER_BYTES - 2, "\"}", 2);
        return (size_t)m + ANSWER_BYTES;
}

static bool answer_ids(struct conn *c)
{
        char body[128], text[256];
        int n = snprintf(body, sizeof body, "{\"posts\":%llu,\"ids\":%llu,\"twice\":%llu}",
                         (unsigned long long)posts, (unsigned long long)ids_seen,
                         (unsigned long long)ids_twice);

        n = snprintf(text, sizeof text,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", n,
                     body);
        return say(c, text, (size_t)n);
}

static void note_id(uint64_t id)
{
        if (!id || id >= IDS_MAX)
                return;
        if (seen[id])
                ids_twice++;
        else
                ids_seen++;
        seen[id] = 1;
}

/* The last answer of a connection has been given. */
static bool ended(struct conn *c)
{
        if (!keep_alive || c->served < keep_alive)
                return false;
        hang_up(c);
        return true;
}

static bool answer_post(struct conn *c, const char *body, size_t len)
{
        uint64_t id = number_after(body, len, ID_KEY), chunks = number_after(body, len, CHUNKS_KEY);
        char text[4096];

        posts++;
        note_id(id);
        if (!chunks)
                return say(c, text, json_answer(text, id, keep_alive && c->served >= keep_alive)) &&
                       !ended(c);
        c->id = id;
        c->left = chunks;
        c->pause = number_after(body, len, PAUSE_KEY) * 1000;
        /* The first ones are spread over one pause, as generations are that did not begin together. */
        c->due = now_ns() + (c->pause ? (id * 0x9e3779b97f4a7c15u >> 11) % c->pause : 0);
        if (!say(c, sse_head, strlen(sse_head)))
                return false;
        join_queue(c);
        return true;
}

/* One token, as llama-server words it. */
static bool write_chunk(struct conn *c)
{
        char body[512], text[600];
        int n, m;

        n = snprintf(body, sizeof body,
                     "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" "
                     "token\"}}],\"created\":"
                     "1795173158,\"id\":\"chatcmpl-HL7KvJb2b8hXgkD9Ww0Qq3nQZ5C8Yq5T\",\"model\":\"bench\","
                     "\"object\":\"chat.completion.chunk\"," TIME_KEY "%llu}\n\n",
                     (unsigned long long)now_ns());
        m = snprintf(text, sizeof text, "%x\r\n%s\r\n", (unsigned)n, body);
        return say(c, text, (size_t)m);
}

static void write_due(void)
{
        uint64_t now = now_ns();

        while (queue.next != &queue && queue.next->due <= now) {
                static const char last[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
                struct conn *c = queue.next;

                leave_queue(c);
                if (!write_chunk(c))
                        continue;
                if (--c->left) {
                        c->due += c->pause;
                        join_queue(c);
                } else {
                        (void)say(c, last, sizeof last - 1);
                }
        }
}

/* One request from the front of c->in. False if the connection is gone or more bytes are needed. */
static bool serve(struct conn *c)
{
        const char *end = memmem(c->in, c->len, "\r\n\r\n", 4);
        size_t head, body;
        bool ok;

        if (!end || c->next)
                return false;
        head = (size_t)(end + 4 - c->in);
        body = (size_t)number_after(c->in, head, "\nContent-Length: ");
        if (!body)
                body = (size_t)number_after(c->in, head, "\ncontent-length: ");
        if (c->len < head + body)
                return false;
        c->served++;
        if (memcmp(c->in, "POST", 4) == 0)
                ok = answer_post(c, c->in + head, body);
        else if (memmem(c->in, MIN(head, 64), "/bench/ids", 10))
                ok = answer_ids(c);
        else
                ok = say(c, plain, plain_len);
        if (!ok)
                return false;
        c->len -= head + body;
        memmove(c->in, c->in + head + body, c->len);
        return c->len > 0;
}

static void on_readable(struct conn *c)
{
        ssize_t n;

        if (c->cap - c->len < 16384) {
                c->cap = c->cap ? c->cap * 2 : 32768;
                c->in = c->cap <= IN_MAX ? realloc(c->in, c->cap + 1) : NULL;
                if (!c->in)
                        die("a request's memory");
        }
        n = recv(c->fd, c->in + c->len, c->cap - c->len, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
                return;
        if (n <= 0) {
                hang_up(c);
                return;
        }
        c->len += (size_t)n;
        c->in[c->len] = '\0';
        while (serve(c))
                ;
}

static void on_client(int listener)
{
        int fd;

        while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
                struct conn *c = calloc(1, sizeof *c);
                struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};

                if (!c)
                        die("calloc");
                set_nodelay(fd);
                c->fd = fd;
                if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
                        die("epoll_ctl");
        }
}

static int listen_at(const char *host, const char *port)
{
        struct sockaddr_storage at;
        char where[256];
        socklen_t len;
        int fd, on = 1;

        if (host[0] == '/')
                (void)snprintf(where, sizeof where, "%s", host);
        else
                (void)snprintf(where, sizeof where, "%s:%s", host, port);
        len = address_of(where, &at);
        fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (fd < 0 || bind(fd, (struct sockaddr *)&at, len) < 0 || listen(fd, 4096) < 0)
                die(where);
        return fd;
}

int main(int argc, char **argv)
{
        const char *host = "127.0.0.1", *port = "9931";
        struct epoll_event e = {.events = EPOLLIN}, events[256];
        int listener;

        for (int i = 1; i < argc; i++) {
                if (strcmp(argv[i], "--help") == 0) {
                        (void)puts("--host HOST    ip address to listen, or bind to an UNIX socket if the "
                                   "address ends with .sock\n"
                                   "--port PORT    port to listen\n"
                                   "-m, --model FNAME    model path to load");
                        return 0;
                }
                if (strcmp(argv[i], "--host") == 0 && i + 1 < argc)
                        host = argv[++i];
                else if (strcmp(argv[i], "--port") == 0 && i + 1 < argc)
                        port = argv[++i];
                else if (strcmp(argv[i], "--bench-keep-alive") == 0 && i + 1 < argc)
                        keep_alive = strtoul(argv[++i], NULL, 10);
        }
        many_descriptors();
        (void)prctl(PR_SET_TIMERSLACK, 1UL);
        memset(padding, 'x', sizeof padding);
        plain_len = json_answer(plain, 0, false);
        (void)snprintf(sse_head, sizeof sse_head,
                       "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/event-stream\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n");
        seen = calloc(IDS_MAX, 1);
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!seen || epoll_fd < 0)
                die("memory");
        listener = listen_at(host, port);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e) < 0)
                die("epoll_ctl");
        (void)fprintf(stderr, "listening on %s\n", host);
        for (;;) {
                struct timespec wait = {0};
                int n;

                if (queue.next != &queue) {
                        uint64_t now = now_ns(), span = queue.next->due > now ? queue.next->due - now : 0;

                        wait.tv_sec = (time_t)(span / 1000000000);
                        wait.tv_nsec = (long)(span % 1000000000);
                }
                n = epoll_pwait2(epoll_fd, events, 256, queue.next != &queue ? &wait : NULL, NULL);
                if (n < 0 && errno != EINTR)
                        die("epoll_pwait2");
                for (int i = 0; i < n; i++)
                        if (events[i].data.ptr)
                                on_readable(events[i].data.ptr);
                        else
                                on_client(listener);
                write_due();
        }
}
