/* log.c: bounded, harmless lines on stderr. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/logbook.h"
#include "base/text.h"
#include "base/time.h"

enum { TEXT_MAX_BYTES = 2048, LINE_MAX_BYTES = TEXT_MAX_BYTES + 128 };

static int max_level = LOG_INFO;
static log_sink_fn *sink;
static void *sink_owner;
static uint64_t lost;

void log_set_level(int level)
{
        max_level = level;
}

int log_level(void)
{
        return max_level;
}

int log_level_from_name(const char *name, int *ret)
{
        static const struct {
                const char *name;
                int level;
        } names[] = {
                {"debug", LOG_DEBUG},     {"info", LOG_INFO}, {"notice", LOG_NOTICE},
                {"warning", LOG_WARNING}, {"error", LOG_ERR},
        };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(name, names[i].name)) {
                        *ret = names[i].level;
                        return 0;
                }
        return -EINVAL;
}

/* JOURNAL_STREAM names device and inode of the journal's stream; it is inherited, so it must be compared. */
bool log_is_journal(void)
{
        static int known = -1;
        const char *stream;
        unsigned long long dev, ino;
        struct stat st;

        if (known >= 0)
                return known;
        stream = getenv("JOURNAL_STREAM");
        known = stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
                st.st_dev == dev && st.st_ino == ino;
        return known;
}

/* What snprintf wrote of n bytes, ended by a newline in any case. */
static size_t bounded(char *line, int n)
{
        if (n < LINE_MAX_BYTES)
                return n < 0 ? 0 : (size_t)n;
        line[LINE_MAX_BYTES - 2] = '\n';
        return LINE_MAX_BYTES - 1;
}

/* As people read it: "2026-11-20T10:00:00.123Z warning: qwen-0: text" and a newline. */
static size_t put_text(const struct log_entry *e, char *line)
{
        usec_t now = time_realtime();
        char iso[TIME_ISO_MAX];
        int n;

        (void)time_iso(now, iso, sizeof iso);
        iso[19] = '\0';
        n = snprintf(line, LINE_MAX_BYTES, "%s.%03uZ %s%s%s%s%s%s\n", iso,
                     (unsigned)(now / USEC_PER_MSEC % 1000),
                     e->level <= LOG_ERR       ? "error: "
                     : e->level == LOG_WARNING ? "warning: "
                     : e->level >= LOG_DEBUG   ? "debug: "
                                               : "",
                     e->about.subject ? e->about.subject : "", e->about.subject ? ": " : "", e->text,
                     e->about.trace ? ", trace " : "", e->about.trace ? e->about.trace : "");
        return bounded(line, n);
}

static size_t put_for_journal(const struct log_entry *e, char *line)
{
        const char *subject = e->about.subject;
        int n = snprintf(line, LINE_MAX_BYTES, "<%d>%s%s%s%s%s\n", e->level, subject ? subject : "",
                         subject ? ": " : "", e->text, e->about.trace ? ", trace " : "",
                         e->about.trace ? e->about.trace : "");

        return bounded(line, n);
}

static void write_line(const char *line, size_t len)
{
        /* A journal that stands still must not make us stand still: the socket is filled, and then lines are lost. */
        ssize_t sent = log_is_journal() ? send(STDERR_FILENO, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) : -1;

        if (sent < 0 && log_is_journal() && errno == EAGAIN)
                lost++;
        else if (sent < 0)
                (void)!write(STDERR_FILENO, line, len);
}

static void write_entry(const struct log_entry *e, const char *line, size_t len)
{
        char told[LINE_MAX_BYTES];

        if (log_is_journal())
                write_line(told, put_for_journal(e, told));
        else
                write_line(line, len);
}

static void PRINTF_LIKE(3, 0) put(int level, const struct log_about *about, const char *fmt, va_list ap)
{
        char text[TEXT_MAX_BYTES], line[LINE_MAX_BYTES];
        struct log_entry e = {level, *about, text};
        enum log_fate fate = LOG_REFUSED;
        int saved = errno;
        size_t len;

        (void)vsnprintf(text, sizeof text, fmt, ap);
        text_harmless(text);
        if (sink)
                fate = sink(sink_owner, &e);
        if (fate == LOG_LOST)
                lost++;
        len = put_text(&e, line);
        if (fate == LOG_REFUSED)
                write_entry(&e, line, len);
        logbook_add(line, len ? len - 1 : 0);
        errno = saved;
}

void log_line(int level, const char *subject, const char *fmt, ...)
{
        const struct log_about about = {.subject = subject};
        va_list ap;

        if (level > max_level)
                return;
        va_start(ap, fmt);
        put(level, &about, fmt, ap);
        va_end(ap);
}

void log_about(int level, const struct log_about *about, const char *fmt, ...)
{
        va_list ap;

        if (level > max_level)
                return;
        va_start(ap, fmt);
        put(level, about, fmt, ap);
        va_end(ap);
}

void log_set_sink(log_sink_fn *fn, void *owner)
{
        sink = fn;
        sink_owner = owner;
}

uint64_t log_lost(void)
{
        return lost;
}

void log_add_lost(uint64_t n)
{
        lost += n;
}
