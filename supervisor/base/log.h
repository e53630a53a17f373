/* log.h: the daemon's own log, one line an event on stderr, the subject first.
 * Under systemd (stderr is the journal: JOURNAL_STREAM) a line begins with <n>, else with the wall-clock time, and a journal that
 * takes no more is not waited for: the line is lost, and counted.
 * The newest lines stay in memory, too (base/logbook.h).
 * Control bytes in the text are made harmless, a line is bounded (2 KB), so nothing that a child or a client says
 * can forge a second line. Not thread-safe beyond one write(2) a line. A room logs only what it meant to do; rooms
 * below return and stay silent. */
#ifndef LSV_BASE_LOG_H
#define LSV_BASE_LOG_H

#include <syslog.h>

#include "base/macros.h"

/* level: LOG_DEBUG … LOG_ERR of <syslog.h>; lines above it are dropped. Default LOG_INFO. */
void log_set_level(int level);
int log_level(void);
/* "debug" "info" "notice" "warning" "error": 0 or -EINVAL. */
int log_level_from_name(const char *name, int *ret);

/* What a line is about, beside its text; NULL: nothing of the kind. A sink makes fields of them (host/journal.h). */
struct log_about {
        const char *
                subject; /* an instance's or a model's name, told in front of the text; NULL: the daemon itself */
        const char *event; /* the kind of the event that it tells of (core/event.h) */
        const char *model, *gpu, *hub, *cause;
        const char *evidence; /* JSON */
        const char *request;  /* "req-000000000001" */
        const char *trace;    /* the trace id that the client gave its request: 32 hexadecimal digits */
};

/* A line as a sink gets it; all strings are harmless and valid during the call. */
struct log_entry {
        int level;
        struct log_about about;
        const char *text;
};
enum log_fate { LOG_TAKEN, LOG_LOST, LOG_REFUSED }; /* refused: it goes to stderr as without a sink */
typedef enum log_fate log_sink_fn(void *owner, const struct log_entry *entry);
void log_set_sink(log_sink_fn *fn, void *owner); /* NULL: none */
/* stderr is the journal, so that a sink may write to it in better words. */
bool log_is_journal(void);
uint64_t log_lost(void);       /* lines that nobody took */
void log_add_lost(uint64_t n); /* a sink that had taken them could not keep its word */

/* subject: an instance's name, or NULL for the daemon itself. */
void log_line(int level, const char *subject, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The same with more to find it by. */
void log_about(int level, const struct log_about *about, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define log_debug(subject, ...) log_line(LOG_DEBUG, subject, __VA_ARGS__)
#define log_info(subject, ...)  log_line(LOG_INFO, subject, __VA_ARGS__)
#define log_warn(subject, ...)  log_line(LOG_WARNING, subject, __VA_ARGS__)
#define log_err(subject, ...)   log_line(LOG_ERR, subject, __VA_ARGS__)

#endif
