/* http_load.c: the clients of the gateway's benchmark: one thread, keep-alive connections, each with one request at a time.
 *
 * usage: http_load WHERE OPTIONS...
 *   WHERE              "/path" of a unix socket, or "address:port"
 *   --target PATH      /props?model=bench
 *   --post BYTES       POST with a JSON body of that many bytes that names the model "bench" and the request's number, which the
 *                      answer must give back (else GET)
 *   --chunks N --pause-us U   streams: each POST asks for N chunks, one each U µs; their age is measured
 *   --body TEXT        this body instead, for a server that gives no numbers back
 *   -c N               connections                            -n N   requests and no more (else as long as -s says)
 *   -s SECONDS         how long is measured                   -w SECONDS   before that, not measured
 *   --from ID          the first request's number, 1
 * Prints "begin" when measuring begins and one line of JSON when it has ended. */
#include <getopt.h>

#include "http_peer.h"

enum { IN_CAP = 256 * 1024, SAMPLES_MAX = 8 * 1000 * 1000 };

enum framing { NONE, LENGTH, CHUNKED, CLOSE };

struct client {
        int fd;
        bool connecting, busy, in_body;
        enum framing framing;
        bool closes;
        uint64_t began, id, left; /* left: of the body or of the chunk */
        int status;
        char *in;
        size_t len; /* bytes of `in` */
        size_t scanned;
        const char *out;
        size_t out_len, out_done;
        char *request;
};

static const char *where, *target = "/props?model=bench", *fixed_body;
static size_t post;
static uint64_t chunks, pause_us, max_requests, next_id = 1, started, done, failed, wrong, lost, measured,
                                                events_seen;
static int n_clients = 1, epoll_fd;
static double seconds = 5, warmup = 1;
static uint32_t *samples;
static size_t n_samples;
static bool measuring;
static uint64_t statuses[600];
static struct sockaddr_storage at;
static socklen_t at_len;

static void sample(uint64_t ns)
{
        if (measuring && n_samples < SAMPLES_MAX)
                samples[n_samples++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static size_t make_request(struct client *c)
{
        size_t size = post + 2048 + (fixed_body ? strlen(fixed_body) : 0), body_len, n;
        char head[512], body[512] = "";

        if (!c->request)
                c->request = malloc(size);
        if (!c->request)
                die("malloc");
        if (fixed_body || post) {
                if (!fixed_body) {
                        n = (size_t)snprintf(body, sizeof body,
                                             "{\"model\":\"bench\",\"stream\":%s," ID_KEY "%llu",
                                             chunks ? "true" : "false", (unsigned long long)c->id);
                        if (chunks)
                                n += (size_t)snprintf(
                                        body + n, sizeof body - n, "," CHUNKS_KEY "%llu," PAUSE_KEY "%llu",
                                        (unsigned long long)chunks, (unsigned long long)pause_us);
                        n += (size_t)snprintf(body + n, sizeof body - n,
                                              ",\"messages\":[{\"role\":\"user\",\"content\":\"");
                        body_len = post > n + 4 ? post : n + 4;
                } else {
                        n = 0;
                        body_len = strlen(fixed_body);
                }
                size = (size_t)snprintf(
                        head, sizeof head,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: http_load\r\nAccept: */*\r\n"
                        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        target, body_len);
                memcpy(c->request, head, size);
                if (fixed_body) {
                        memcpy(c->request + size, fixed_body, body_len);
                } else {
                        memcpy(c->request + size, body, n);
                        memset(c->request + size + n, 'y', body_len - n - 4);
                        memcpy(c->request + size + body_len - 4, "\"}]}", 4);
                }
                return size + body_len;
        }
        return (size_t)snprintf(
                c->request, size,
                "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: http_load\r\nAccept: */*\r\n\r\n", target);
}

static void watch(struct client *c, int op, uint32_t events)
{
        struct epoll_event e = {.events = events, .data.ptr = c};

        if (epoll_ctl(epoll_fd, op, c->fd, &e) < 0)
                die("epoll_ctl");
}

static void open_one(struct client *c)
{
        c->fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                die("socket");
        set_nodelay(c->fd);
        /* A unix connect waits for its place in the backlog; a TCP one is told by epoll. */
        if (at.ss_family == AF_UNIX) {
                struct timespec pause = {.tv_nsec = 1000000};

                while (connect(c->fd, (struct sockaddr *)&at, at_len) < 0) {
                        if (errno != EAGAIN)
                                die(where);
                        (void)nanosleep(&pause, NULL);
                }
        } else if (connect(c->fd, (struct sockaddr *)&at, at_len) < 0 && errno != EINPROGRESS) {
                die(where);
        }
        c->connecting = true;
        c->len = c->scanned = 0;
        c->in_body = false;
        watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void send_rest(struct client *c)
{
        ssize_t n = send(c->fd, c->out + c->out_done, c->out_len - c->out_done, MSG_NOSIGNAL);

        if (n > 0)
                c->out_done += (size_t)n;
        if (c->out_done < c->out_len)
                watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void begin(struct client *c)
{
        if (max_requests && started >= max_requests)
                return;
        started++;
        c->id = next_id++;
        c->out_len = make_request(c);
        c->out = c->request;
        c->out_done = 0;
        c->busy = true;
        c->in_body = false;
        c->began = now_ns();
        send_rest(c);
}

static void again(struct client *c)
{
        (void)close(c->fd);
        c->busy = false;
        open_one(c);
}

static void finish(struct client *c, bool ok)
{
        uint64_t now = now_ns();

        done++;
        c->busy = false;
        if (c->status >= 0 && c->status < 600)
                statuses[c->status]++;
        if (!ok || c->status != 200)
                failed++;
        if (!chunks)
                sample(now - c->began);
        if (measuring)
                measured++;
        if (c->closes)
                again(c);
        else
                begin(c);
}

/* The ages of the chunks in what has come of the body; what may be half a number waits. */
static void look_at_events(struct client *c, const char *data, size_t len)
{
        uint64_t now = now_ns();
        const char *at_key, *end = data + len;

        while ((at_key = memmem(data, (size_t)(end - data), TIME_KEY, sizeof TIME_KEY - 1))) {
                data = at_key + sizeof TIME_KEY - 1;
                sample(now - strtoull(data, NULL, 10));
                if (measuring)
                        events_seen++;
        }
        (void)c;
}

static void drop(struct client *c, size_t n)
{
        c->len -= n;
        memmove(c->in, c->in + n, c->len);
}

static bool read_head(struct client *c)
{
        char *end = memmem(c->in, c->len, "\r\n\r\n", 4), *p;
        size_t head;

        if (!end)
                return false;
        head = (size_t)(end + 4 - c->in);
        end[2] = '\0';
        c->status = atoi(c->in + 9);
        c->framing = CLOSE;
        c->closes = strcasestr(c->in, "\r\nconnection: close") != NULL;
        if ((p = strcasestr(c->in, "\r\ncontent-length:"))) {
                c->framing = LENGTH;
                c->left = strtoull(p + 17, NULL, 10);
        } else if (strcasestr(c->in, "\r\ntransfer-encoding: chunked")) {
                c->framing = CHUNKED;
                c->left = 0;
                /* llama-server closes behind a stream without having said so. */
                c->closes |= strcasestr(c->in, "\r\ncontent-type: text/event-stream") != NULL;
        } else {
                c->closes = true;
        }
        drop(c, head);
        c->in_body = true;
        c->in[c->len] = '\0';
        return true;
}

/* True if the answer is whole. A plain answer is looked at when it is all there. */
static bool read_body(struct client *c)
{
        if (c->framing == LENGTH) {
                if (c->len < c->left)
                        return false;
                if (post && !fixed_body && c->status == 200 && number_after(c->in, c->left, ID_KEY) != c->id)
                        wrong++;
                drop(c, (size_t)c->left);
                return true;
        }
        while (c->framing == CHUNKED) {
                char *eol = memmem(c->in, c->len, "\r\n", 2);
                size_t size, head;

                if (!eol)
                        return false;
                size = strtoull(c->in, NULL, 16);
                head = (size_t)(eol + 2 - c->in);
                if (c->len < head + size + 2)
                        return false;
                if (size && post && !chunks && !fixed_body && c->status == 200) {
                        if (number_after(c->in + head, size, ID_KEY) != c->id)
                                wrong++;
                }
                look_at_events(c, c->in + head, size);
                drop(c, head + size + 2);
                if (!size)
                        return true;
        }
        look_at_events(c, c->in, c->len);
        c->len = 0;
        return false;
}

static void on_event(struct client *c, uint32_t events)
{
        ssize_t n;

        if (events & EPOLLOUT) {
                if (c->connecting) {
                        c->connecting = false;
                        watch(c, EPOLL_CTL_MOD, EPOLLIN);
                        begin(c);
                        return;
                }
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                send_rest(c);
        }
        if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                return;
        n = recv(c->fd, c->in + c->len, IN_CAP - c->len, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
                return;
        if (n <= 0) {
                if (c->busy && c->in_body && c->framing == CLOSE) {
                        c->closes = true;
                        finish(c, true);
                } else if (c->busy) {
                        lost++;
                        failed++;
                        done++;
                        again(c);
                } else if (!max_requests || started < max_requests) {
                        again(c);
                } else {
                        (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
                }
                return;
        }
        c->len += (size_t)n;
        c->in[c->len] = '\0';
        if (!c->busy)
                return;
        if (!c->in_body && !read_head(c))
                return;
        if (read_body(c))
                finish(c, true);
}

static int by_size(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return x < y ? -1 : x > y;
}

static double at_percent(double p)
{
        size_t i = (size_t)((double)n_samples * p / 100);

        return n_samples ? samples[i < n_samples ? i : n_samples - 1] / 1000.0 : 0;
}

static void report(double span)
{
        const char *comma = "";

        qsort(samples, n_samples, sizeof *samples, by_size);
        (void)printf("{\"seconds\":%.3f,\"requests\":%llu,\"done\":%llu,\"failed\":%llu,\"lost\":%llu,"
                     "\"wrong\":%llu,\"chunks\":%llu,"
                     "\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"last_id\":%llu,"
                     "\"status\":{",
                     span, (unsigned long long)measured, (unsigned long long)done, (unsigned long long)failed,
                     (unsigned long long)lost, (unsigned long long)wrong, (unsigned long long)events_seen,
                     at_percent(50), at_percent(90), at_percent(99), at_percent(100),
                     (unsigned long long)next_id - 1);
        for (int i = 0; i < 600; i++)
                if (statuses[i]) {
                        (void)printf("%s\"%d\":%llu", comma, i, (unsigned long long)statuses[i]);
                        comma = ",";
                }
        (void)puts("}}");
        (void)fflush(stdout);
}

static void options(int argc, char **argv)
{
        static const struct option longs[] = {{"target", 1, NULL, 't'},
                                              {"post", 1, NULL, 'p'},
                                              {"chunks", 1, NULL, 'k'},
                                              {"pause-us", 1, NULL, 'u'},
                                              {"body", 1, NULL, 'b'},
                                              {"from", 1, NULL, 'f'},
                                              {0}};
        int o;

        while ((o = getopt_long(argc, argv, "c:n:s:w:", longs, NULL)) != -1)
                switch (o) {
                case 't':
                        target = optarg;
                        break;
                case 'p':
                        post = strtoul(optarg, NULL, 10);
                        break;
                case 'k':
                        chunks = strtoull(optarg, NULL, 10);
                        break;
                case 'u':
                        pause_us = strtoull(optarg, NULL, 10);
                        break;
                case 'b':
                        fixed_body = optarg;
                        break;
                case 'f':
                        next_id = strtoull(optarg, NULL, 10);
                        break;
                case 'c':
                        n_clients = atoi(optarg);
                        break;
                case 'n':
                        max_requests = strtoull(optarg, NULL, 10);
                        break;
                case 's':
                        seconds = atof(optarg);
                        break;
                case 'w':
                        warmup = atof(optarg);
                        break;
                default:
                        exit(2);
                }
        if (optind + 1 != argc || n_clients < 1) {
                (void)fprintf(stderr, "usage: %s [OPTIONS] WHERE\n", argv[0]);
                exit(2);
        }
        where = argv[optind];
}

int main(int argc, char **argv)
{
        struct epoll_event events[256];
        struct client *clients;
        uint64_t begin_at, end_at;

        options(argc, argv);
        many_descriptors();
        at_len = address_of(where, &at);
        samples = malloc(SAMPLES_MAX * sizeof *samples);
        clients = calloc((size_t)n_clients, sizeof *clients);
        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!samples || !clients || epoll_fd < 0)
                die("memory");
        for (int i = 0; i < n_clients; i++) {
                clients[i].in = malloc(IN_CAP + 1);
                if (!clients[i].in)
                        die("malloc");
                open_one(&clients[i]);
        }
        begin_at = now_ns() + (uint64_t)(warmup * 1e9);
        end_at = begin_at + (uint64_t)(seconds * 1e9);
        for (;;) {
                uint64_t now = now_ns();
                int n;

                if (!measuring && now >= begin_at) {
                        measuring = true;
                        begin_at = now;
                        (void)puts("begin");
                        (void)fflush(stdout);
                }
                if (max_requests ? done >= max_requests : now >= end_at) {
                        report((double)(now - begin_at) / 1e9);
                        return 0;
                }
                n = epoll_wait(epoll_fd, events, 256, 50);
                if (n < 0 && errno != EINTR)
                        die("epoll_wait");
                for (int i = 0; i < n; i++)
                        on_event(events[i].data.ptr, events[i].events);
        }
}
