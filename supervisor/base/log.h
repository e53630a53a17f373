/* log.h: the daemon's own log, one line an event on stderr, the subject first.
 * Under systemd (stderr is the journal: JOURNAL_STREAM) a line begins with <n>, else with the wall-clock time.
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

/* subject: an instance's name, or NULL for the daemon itself. */
void log_line(int level, const char *subject, const char *fmt, ...) PRINTF_LIKE(3, 4);

#define log_debug(subject, ...) log_line(LOG_DEBUG, subject, __VA_ARGS__)
#define log_info(subject, ...)  log_line(LOG_INFO, subject, __VA_ARGS__)
#define log_warn(subject, ...)  log_line(LOG_WARNING, subject, __VA_ARGS__)
#define log_err(subject, ...)   log_line(LOG_ERR, subject, __VA_ARGS__)

#endif
