/* fake_conn.h: the state of the fake llama-server, its log lines, and what goes out on a connection. Part of
 * fake_llama_server.c, which alone includes it. */
#ifndef FAKE_CONN_H
#define FAKE_CONN_H

#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "fake_model.h"
#include "fake_options.h"

enum {
        KEEP_ALIVE_USEC = 5000000,
        KEEP_ALIVE_MAX = 100,
        HEAD_MAX = 65536,
        SLOTS_MAX = 256,
        LISTENERS_MAX = 4
};

enum job_state { JOB_NONE, JOB_QUEUED, JOB_PROMPT, JOB_DECODE };
enum job_kind { CHAT, COMPLETIONS, NATIVE, MESSAGES };
enum drip { DRIP_NONE, DRIP_SLOW, DRIP_ENDLESS, DRIP_NEVER };

struct conn {
        struct conn *next;
        int fd; /* -1: the client is gone, its job runs on (X-Conversation-Id) */
        char *in, *out;
        size_t in_len, in_cap, out_off, out_len, out_cap;
        unsigned requests;
        bool close_after, gone, dead;
        int64_t idle_at; /* keep-alive ends */
        enum drip drip;
        int64_t drip_at;

        enum job_state job;
        enum job_kind kind;
        bool stream, usage, per_token, progress, ignore_eos, detached, headed, keep, once, in_tail, stopped;
        int slot;
        long id, wanted, done, n_prompt, ping_s, cached;
        int64_t started, decode_from, next_at, sent_at, gone_at;
        char name[33], unique[64]; /* unique: the X-Unique of its request */
        char *text;
        size_t text_len, text_cap;
};

struct slot {
        struct conn *owner;
        bool used, stream, ignore_eos;
        long id_task, n_prompt, max_tokens, n_decoded;
};

static struct model model;
static struct conn *conns;
static struct slot slots[SLOTS_MAX];
static int n_slots, n_ctx_slot, epfd, wakefd, listeners[LISTENERS_MAX], n_listeners, last_port;
static const char *socket_path;
static int64_t started_at, since, flood_at; /* since: when the times of the switches begin to count */
static bool loading = true, router, stopping;
static long next_task, max_seq;
static struct {
        long prompt, cached, predicted, decodes;
        double prompt_s, predicted_s;
} total;
static volatile sig_atomic_t term_signals;

/* --- time, log ------------------------------------------------------------------------------------------------- */

static int64_t now_usec(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Blocks when nobody reads, as the real one does. */
static void write_all(int fd, const char *s, size_t n)
{
        while (n > 0) {
                ssize_t w = write(fd, s, n);

                if (w < 0 && errno == EINTR)
                        continue;
                if (w <= 0)
                        return;
                s += w;
                n -= (size_t)w;
        }
}

static void __attribute__((format(printf, 2, 3))) log_line(char level, const char *fmt, ...)
{
        char line[1400];
        int64_t t = now_usec() - started_at;
        int n, m;
        va_list ap;

        if (opt.silent)
                return;
        n = snprintf(line, sizeof(line), "%d.%02d.%03d.%03d %c ", (int)(t / 60000000),
                     (int)(t / 1000000 % 60), (int)(t / 1000 % 1000), (int)(t % 1000), level);
        va_start(ap, fmt);
        m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
        va_end(ap);
        n += MIN(m, (int)sizeof(line) - n - 2);
        line[n++] = '\n';
        write_all(STDERR_FILENO, line, (size_t)n);
}

/* One write a line, so that lines of several servers do not mix. */
static void __attribute__((format(printf, 1, 2))) journal(const char *fmt, ...)
{
        static int fd = -1;
        char line[400];
        va_list ap;
        int n;

        if (!fault.journal)
                return;
        if (fd < 0)
                fd = open(fault.journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        va_start(ap, fmt);
        n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
        va_end(ap);
        n = MIN(n, (int)sizeof(line) - 2);
        line[n++] = '\n';
        write_all(fd, line, (size_t)n);
}

static int64_t keep_alive(void)
{
        return fault.idle_ms == OFF ? KEEP_ALIVE_USEC : fault.idle_ms * 1000;
}

static void __attribute__((noreturn)) die(int code)
{
        log_line('I', "srv    operator(): operator(): cleaning up before exit...");
        log_line('E', "srv  llama_server: exiting due to %s",
                 code == 2 ? "HTTP server error" : "model loading error");
        _exit(1);
}

static void __attribute__((noreturn)) die_of(int signo)
{
        (void)signal(signo, SIG_DFL);
        (void)raise(signo);
        _exit(128 + signo);
}

/* --- output ---------------------------------------------------------------------------------------------------- */

static void append(char **buf, size_t *len, size_t *cap, const char *s, size_t n)
{
        if (*len + n + 1 > *cap) {
                size_t want = MAX(*cap * 2, *len + n + 256);
                char *grown = realloc(*buf, want);

                if (!grown)
                        _exit(1);
                *buf = grown;
                *cap = want;
        }
        memcpy(*buf + *len, s, n);
        *len += n;
        (*buf)[*len] = '\0';
}

struct text {
        char *s;
        size_t len, cap;
};

static void __attribute__((format(printf, 2, 3))) text_add(struct text *t, const char *fmt, ...)
{
        va_list ap;
        char *s;
        int n;

        va_start(ap, fmt);
        n = vasprintf(&s, fmt, ap);
        va_end(ap);
        if (n < 0)
                _exit(1);
        append(&t->s, &t->len, &t->cap, s, (size_t)n);
        free(s);
}

/* A JSON string without its quotes, in static storage (two calls may be alive at once). */
static const char *escaped(const char *s)
{
        static char ring[2][2048];
        static int turn;
        char *out = ring[turn ^= 1], *o = out;

        for (; *s && o < out + sizeof(ring[0]) - 8; s++)
                if (*s == '"' || *s == '\\')
                        o += sprintf(o, "\\%c", *s);
                else if ((unsigned char)*s < 0x20)
                        o += sprintf(o, "\\u%04x", *s);
                else
                        *o++ = *s;
        *o = '\0';
        return out;
}

static void conn_watch(struct conn *c, uint32_t events)
{
        struct epoll_event ev = {.events = events | EPOLLRDHUP, .data.ptr = c};

        if (c->fd >= 0)
                (void)epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev);
}

static void conn_drop(struct conn *c)
{
        if (c->fd >= 0)
                (void)close(c->fd);
        c->fd = -1;
        c->out_len = c->out_off = 0;
        c->dead = true;
}

static void conn_flush(struct conn *c)
{
        while (c->fd >= 0 && c->out_off < c->out_len) {
                size_t n = c->drip == DRIP_SLOW ? 1 : c->out_len - c->out_off;
                ssize_t w = send(c->fd, c->out + c->out_off, n, MSG_NOSIGNAL);

                if (w < 0) {
                        if (errno == EAGAIN)
                                conn_watch(c, EPOLLIN | EPOLLOUT);
                        else
                                c->gone = true;
                        return;
                }
                c->out_off += (size_t)w;
                if (c->drip == DRIP_SLOW) {
                        c->drip_at = now_usec() + 200000;
                        return;
                }
        }
        c->out_len = c->out_off = 0;
        if (c->close_after && !c->job && (c->drip == DRIP_NONE || c->drip == DRIP_SLOW))
                conn_drop(c);
}

static void conn_put(struct conn *c, const char *s, size_t n)
{
        if (c->fd < 0)
                return;
        append(&c->out, &c->out_len, &c->out_cap, s, n);
}

static bool fault_reaches(const char *path)
{
        return now_usec() >= since + MAX(fault.faults_after, 0) &&
               (!fault.only || starts_with(path, fault.only));
}

static const char *reason(int status)
{
        switch (status) {
        case 200:
                return "OK";
        case 400:
                return "Bad Request";
        case 401:
                return "Unauthorized";
        case 404:
                return "Not Found";
        case 429:
                return "Too Many Requests";
        case 500:
                return "Internal Server Error";
        case 501:
                return "Not Implemented";
        case 503:
                return "Service Unavailable";
        default:
                return "Something";
        }
}

static const char JSON_TYPE[] = "application/json; charset=utf-8";

/* extra: header lines between Access-Control-Allow-Origin and Content-Type. */
static void answer_with(struct conn *c, int status, const char *extra, const char *type, const char *body,
                        size_t len, bool head_only, size_t claim)
{
        struct text t = {0};

        if (status / 100 != 2 || c->requests >= KEEP_ALIVE_MAX)
                c->keep = false;
        text_add(&t,
                 "HTTP/1.1 %d %s\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n%sContent-Type: "
                 "%s\r\n"
                 "Content-Length: %zu\r\n%s\r\n%s\r\n",
                 status, reason(status), extra, type, claim,
                 c->keep ? "Keep-Alive: timeout=5, max=100" : "Connection: close",
                 head_only ? "Accept-Ranges: bytes\r\n" : "");
        if (!head_only)
                append(&t.s, &t.len, &t.cap, body, len);
        conn_put(c, t.s, t.len);
        free(t.s);
        if (!c->keep || c->once)
                c->close_after = true;
        c->idle_at = now_usec() + keep_alive();
}

static void answer(struct conn *c, int status, const char *body)
{
        answer_with(c, status, "", JSON_TYPE, body, strlen(body), false, strlen(body));
}

static void answer_error(struct conn *c, int status, const char *type, const char *message)
{
        char body[700];

        (void)snprintf(body, sizeof(body), "{\"error\":{\"code\":%d,\"message\":\"%s\",\"type\":\"%s\"}}",
                       status, message, type);
        if (status == 400)
                log_line('W', "srv    operator(): got exception: %s", body);
        answer(c, status, body);
}

static void chunk(struct conn *c, const char *s, size_t n)
{
        char size[24];

        conn_put(c, size, (size_t)snprintf(size, sizeof(size), "%zx\r\n", n));
        conn_put(c, s, n);
        conn_put(c, "\r\n", 2);
        c->sent_at = now_usec();
}

static void stream_head(struct conn *c)
{
        char head[256];

        if (c->headed)
                return;
        c->headed = true;
        conn_put(c, head,
                 (size_t)snprintf(
                         head, sizeof(head),
                         "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: "
                         "\r\nX-Accel-Buffering: no\r\n"
                         "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\n",
                         c->keep ? "Keep-Alive: timeout=5, max=100" : "Connection: close"));
}

#endif
