/* journal.c: journald's native protocol. */
#include "host/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "base/buffer.h"
#include "base/list.h"
#include "core/event.h"

#define IDENTIFIER "llama-supervisor"

/* Far more than a line (2 KB) and its fields need; evidence that is longer is in the history alone. What waits in the socket is the sender's memory: this much for a burst. */
enum { ENTRY_BYTES_MAX = 32 * 1024, EVIDENCE_BYTES_MAX = 16 * 1024, SEND_BUFFER = 4 * 1024 * 1024 };

static const usec_t RETRY_FIRST = 5 * USEC_PER_MSEC, RETRY_SLOWEST = 200 * USEC_PER_MSEC,
                    FLUSH_PATIENCE = 100 * USEC_PER_MSEC;

/* One entry that waits. */
struct waiting {
        struct list node;
        size_t len;
        char data[];
};

struct journal {
        int fd;
        struct list waiting; /* the oldest first */
        unsigned n_waiting;
        struct timer *timer; /* NULL: nothing waits */
        struct loop *loop;
        usec_t pause;
        struct sockaddr_un at;
        uint64_t untold; /* lines lost since the last one that got through */
        journal_describe_fn *describe;
        void *owner;
};

/* KEY=value, or, since a value with a newline would begin another field: KEY, newline, its length as 64 bits little-endian, value. */
static void put_field(struct buffer *b, const char *key, const char *value)
{
        size_t n = value ? strlen(value) : 0;
        unsigned char length[8];

        if (n == 0)
                return;
        (void)buffer_puts(b, key);
        if (memchr(value, '\n', n)) {
                for (size_t i = 0; i < sizeof length; i++)
                        length[i] = (unsigned char)((uint64_t)n >> (8 * i));
                (void)buffer_putc(b, '\n');
                (void)buffer_append(b, length, sizeof length);
        } else {
                (void)buffer_putc(b, '=');
        }
        (void)buffer_append(b, value, n);
        (void)buffer_putc(b, '\n');
}

/* The model and the GPUs of an instance are known to the describer; whose line says itself what it is about, is believed. */
static void put_subject(const struct journal *j, struct buffer *b, const struct log_about *about)
{
        struct journal_subject s = {.is_instance = true};

        if (about->subject && j->describe && !j->describe(j->owner, about->subject, &s))
                s = (struct journal_subject){.is_instance =
                                                     true}; /* was one, mostly: it has just been removed */
        if (about->subject && s.is_instance && !about->hub)
                put_field(b, "INSTANCE", about->subject);
        if (about->model || (about->subject && !about->hub))
                put_field(b, "MODEL", about->model ? about->model : s.is_instance ? s.model : about->subject);
        if (about->gpu)
                put_field(b, "GPU_UUID", about->gpu);
        for (size_t i = 0; i < ARRAY_SIZE(s.gpus) && s.gpus[i] && !about->gpu; i++)
                put_field(b, "GPU_UUID", s.gpus[i]);
}

static int put_entry(const struct journal *j, const struct log_entry *e, struct buffer *b)
{
        const struct event_kind *kind = event_kind_find(e->about.event);
        char priority[2] = {(char)('0' + (e->level & 7)), '\0'};
        const char *subject = e->about.subject;

        put_field(b, "PRIORITY", priority);
        put_field(b, "SYSLOG_IDENTIFIER", IDENTIFIER);
        put_subject(j, b, &e->about);
        put_field(b, "HUB", e->about.hub);
        put_field(b, "EVENT", e->about.event);
        put_field(b, "MESSAGE_ID", kind ? kind->message_id : NULL);
        put_field(b, "CAUSE", e->about.cause);
        if (e->about.evidence && strlen(e->about.evidence) <= EVIDENCE_BYTES_MAX)
                put_field(b, "EVIDENCE", e->about.evidence);
        put_field(b, "REQUEST_ID", e->about.request);
        put_field(b, "TRACE_ID", e->about.trace);
        /* The subject in front, for who reads plain lines. */
        (void)buffer_printf(b, "MESSAGE=%s%s%s\n", subject ? subject : "", subject ? ": " : "", e->text);
        return b->failed ? -ENOBUFS : 0;
}

static int send_bytes(const struct journal *j, const void *data, size_t len)
{
        struct iovec part = {.iov_base = (void *)data, .iov_len = len};
        struct msghdr message = {
                .msg_name = (void *)&j->at, .msg_namelen = sizeof j->at, .msg_iov = &part, .msg_iovlen = 1};

        return sendmsg(j->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* For later, not for never. */
static bool is_full(int r)
{
        return r == -EAGAIN || r == -ENOBUFS || r == -ENOMEM;
}

/* --- what waits ------------------------------------------------------------------------------------------------------ */

static void drop_first(struct journal *j)
{
        struct waiting *w = LIST_ENTRY(j->waiting.next, struct waiting, node);

        list_remove(&w->node);
        free(w);
        j->n_waiting--;
}

static void drop_all(struct journal *j)
{
        log_add_lost(j->n_waiting);
        j->untold += j->n_waiting;
        while (j->n_waiting)
                drop_first(j);
}

static bool put_aside(struct journal *j, const struct buffer *b)
{
        struct waiting *w;

        /* Lines that were lost are told before those after them. */
        if (!j->timer || j->untold || j->n_waiting >= JOURNAL_WAITING)
                return false;
        w = malloc(sizeof *w + b->len);
        if (!w)
                return false;
        w->len = b->len;
        memcpy(w->data, b->data, b->len);
        list_init(&w->node);
        list_append(&j->waiting, &w->node);
        if (j->n_waiting++ == 0) {
                j->pause = RETRY_FIRST;
                timer_set(j->timer, usec_add(loop_now(j->loop), j->pause));
        }
        return true;
}

/* 0: nothing waits any more. */
static int send_waiting(struct journal *j)
{
        int r = 0;

        while (r == 0 && j->n_waiting) {
                const struct waiting *w = LIST_ENTRY(j->waiting.next, struct waiting, node);

                r = send_bytes(j, w->data, w->len);
                if (r == 0) {
                        j->pause = RETRY_FIRST;
                        drop_first(j);
                }
        }
        if (r < 0 && !is_full(r))
                drop_all(j); /* its reader is gone, and with it what that one had not read */
        return r;
}

/* --- lines ----------------------------------------------------------------------------------------------------------- */

static int tell_lost(struct journal *j)
{
        _cleanup_buffer_ struct buffer b;
        char text[96];
        struct log_entry e = {.level = LOG_WARNING, .text = text};
        int r;

        (void)snprintf(text, sizeof text,
                       "%" PRIu64 " line%s before this one could not be written to the journal", j->untold,
                       j->untold == 1 ? "" : "s");
        buffer_init(&b, ENTRY_BYTES_MAX);
        r = put_entry(j, &e, &b);
        if (r == 0)
                r = send_bytes(j, b.data, b.len);
        if (r == 0)
                j->untold = 0;
        return r;
}

/* Everything before this line. */
static int send_earlier(struct journal *j)
{
        int r = send_waiting(j);

        return r == 0 && j->untold ? tell_lost(j) : r;
}

static void on_timer(void *owner, usec_t now)
{
        struct journal *j = owner;

        if (!is_full(send_earlier(j)))
                return;
        j->pause = MIN(j->pause * 2, RETRY_SLOWEST);
        timer_set(j->timer, usec_add(now, j->pause));
}

static enum log_fate on_line(void *owner, const struct log_entry *e)
{
        _cleanup_buffer_ struct buffer b;
        struct journal *j = owner;
        int r = send_earlier(j);

        buffer_init(&b, ENTRY_BYTES_MAX);
        if (put_entry(j, e, &b) < 0)
                r = -ENOBUFS;
        else if (r == 0)
                r = send_bytes(j, b.data, b.len);
        if (r == 0)
                return LOG_TAKEN;
        if (!is_full(r))
                return LOG_REFUSED; /* nobody listens there: journald is away, or was never there */
        if (!b.failed && put_aside(j, &b))
                return LOG_TAKEN;
        j->untold++;
        return LOG_LOST;
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

static struct journal *current;

int journal_open(const char *path, struct journal **ret)
{
        int size = SEND_BUFFER;
        struct journal *j;

        if (strlen(path) >= sizeof j->at.sun_path)
                return -ENAMETOOLONG;
        if (access(path, W_OK) < 0)
                return -errno;
        j = calloc(1, sizeof *j);
        if (!j)
                return -ENOMEM;
        list_init(&j->waiting);
        j->at.sun_family = AF_UNIX;
        (void)snprintf(j->at.sun_path, sizeof j->at.sun_path, "%s", path);
        j->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (j->fd < 0) {
                int r = -errno;

                free(j);
                return r;
        }
        /* The privileged way goes beyond net.core.wmem_max; both are best effort. */
        if (setsockopt(j->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
                (void)setsockopt(j->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        log_set_sink(on_line, j);
        current = j;
        *ret = j;
        return 0;
}

void journal_describe(struct journal *j, journal_describe_fn *fn, void *owner)
{
        if (!j)
                return;
        j->describe = fn;
        j->owner = owner;
}

int journal_attach(struct journal *j, struct loop *loop)
{
        if (!j)
                return 0;
        j->timer = timer_free(j->timer);
        j->loop = loop;
        return loop ? timer_new(loop, on_timer, j, &j->timer) : 0;
}

void journal_flush(void)
{
        const struct timespec pause = {.tv_nsec = (long)(RETRY_FIRST * 1000)};
        usec_t end = time_monotonic() + FLUSH_PATIENCE;

        while (current && is_full(send_earlier(current)) && time_monotonic() < end)
                (void)nanosleep(&pause, NULL);
}

struct journal *journal_close(struct journal *j)
{
        if (!j)
                return NULL;
        journal_flush();
        log_set_sink(NULL, NULL);
        current = NULL;
        drop_all(j);
        j->timer = timer_free(j->timer);
        (void)close(j->fd);
        free(j);
        return NULL;
}
