/* journal.c: journald's native protocol. */
#include "host/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/buffer.h"
#include "core/event.h"

#define IDENTIFIER "llama-supervisor"

/* Far more than a line (2 KB) and its fields need. What waits in the socket is the sender's memory: this much for a burst. */
enum { ENTRY_BYTES_MAX = 16 * 1024, SEND_BUFFER = 4 * 1024 * 1024 };

struct journal {
        int fd;
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

static void put_subject(const struct journal *j, struct buffer *b, const char *subject)
{
        struct journal_subject s = {.is_instance = true};

        if (!subject)
                return;
        if (j->describe && !j->describe(j->owner, subject, &s))
                s = (struct journal_subject){.is_instance =
                                                     true}; /* was one, mostly: it has just been removed */
        if (s.is_instance)
                put_field(b, "INSTANCE", subject);
        put_field(b, "MODEL", s.is_instance ? s.model : subject);
        for (size_t i = 0; i < ARRAY_SIZE(s.gpus) && s.gpus[i]; i++)
                put_field(b, "GPU_UUID", s.gpus[i]);
}

static int send_entry(const struct journal *j, const struct log_entry *e)
{
        const struct event_kind *kind = event_kind_find(e->event);
        _cleanup_buffer_ struct buffer b;
        char priority[2] = {(char)('0' + (e->level & 7)), '\0'};
        struct iovec part;
        struct msghdr message;

        buffer_init(&b, ENTRY_BYTES_MAX);
        (void)buffer_puts(&b, "");
        put_field(&b, "PRIORITY", priority);
        put_field(&b, "SYSLOG_IDENTIFIER", IDENTIFIER);
        put_subject(j, &b, e->subject);
        put_field(&b, "EVENT", e->event);
        put_field(&b, "MESSAGE_ID", kind ? kind->message_id : NULL);
        /* The subject in front, for who reads plain lines. */
        (void)buffer_printf(&b, "MESSAGE=%s%s%s\n", e->subject ? e->subject : "", e->subject ? ": " : "",
                            e->text);
        if (b.failed)
                return -ENOBUFS;
        part = (struct iovec){.iov_base = b.data, .iov_len = b.len};
        message = (struct msghdr){
                .msg_name = (void *)&j->at, .msg_namelen = sizeof j->at, .msg_iov = &part, .msg_iovlen = 1};
        return sendmsg(j->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int tell_lost(struct journal *j)
{
        char text[96];
        struct log_entry e = {.level = LOG_WARNING, .text = text};
        int r;

        (void)snprintf(text, sizeof text,
                       "%" PRIu64 " line%s before this one could not be written to the journal", j->untold,
                       j->untold == 1 ? "" : "s");
        r = send_entry(j, &e);
        if (r == 0)
                j->untold = 0;
        return r;
}

static enum log_fate on_line(void *owner, const struct log_entry *e)
{
        struct journal *j = owner;
        int r = j->untold ? tell_lost(j) : 0;

        if (r == 0)
                r = send_entry(j, e);
        if (r == 0)
                return LOG_TAKEN;
        if (r != -EAGAIN && r != -ENOBUFS && r != -ENOMEM)
                return LOG_REFUSED; /* nobody listens there: journald is away, or was never there */
        j->untold++;
        return LOG_LOST;
}

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

struct journal *journal_close(struct journal *j)
{
        if (!j)
                return NULL;
        log_set_sink(NULL, NULL);
        (void)close(j->fd);
        free(j);
        return NULL;
}
