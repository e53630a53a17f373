/* log.c: bounded, harmless lines on stderr. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"
#include "base/time.h"

static int max_level = LOG_INFO;

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
static bool stderr_is_journal(void)
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

void log_line(int level, const char *subject, const char *fmt, ...)
{
        char text[2048], line[sizeof text + 128];
        int n, saved = errno;
        va_list ap;

        if (level > max_level)
                return;
        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        text_harmless(text);
        if (stderr_is_journal()) {
                n = snprintf(line, sizeof line, "<%d>%s%s%s\n", level, subject ? subject : "",
                             subject ? ": " : "", text);
        } else {
                usec_t now = time_realtime();
                char iso[TIME_ISO_MAX];

                (void)time_iso(now, iso, sizeof iso);
                iso[19] = '\0';
                n = snprintf(line, sizeof line, "%s.%03uZ %s%s%s%s\n", iso,
                             (unsigned)(now / USEC_PER_MSEC % 1000),
                             level <= LOG_ERR       ? "error: "
                             : level == LOG_WARNING ? "warning: "
                             : level >= LOG_DEBUG   ? "debug: "
                                                    : "",
                             subject ? subject : "", subject ? ": " : "", text);
        }
        if (n >= (int)sizeof line) {
                n = (int)sizeof line - 1;
                line[n - 1] = '\n';
        }
        if (n > 0)
                (void)!write(STDERR_FILENO, line, (size_t)n);
        errno = saved;
}
