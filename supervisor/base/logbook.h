/* logbook.h: the newest lines of the daemon's own log, kept in memory for those who look at it from afar.
 *
 * There is one, as there is one log: log.c writes each line into it that it writes at all, whoever takes the line then. A line is
 * "2026-11-20T10:00:00.123Z warning: qwen-0: text", as on stderr, without its end; info has no word. It keeps the last
 * LOGBOOK_LINES_MAX lines, of which no more than LOGBOOK_BYTES_MAX bytes; the oldest go. Lines are numbered from 0, and a number is
 * never used again. Of the loop's thread alone. */
#ifndef LSV_BASE_LOGBOOK_H
#define LSV_BASE_LOGBOOK_H

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

enum { LOGBOOK_LINES_MAX = 2048, LOGBOOK_BYTES_MAX = 256 * 1024 };

/* A line longer than a quarter of the bytes is cut. */
void logbook_add(const char *line, size_t len);
/* The lines there are have the numbers from first to end - 1. */
uint64_t logbook_first(void);
uint64_t logbook_end(void);
/* Of a number that is there; valid until the next logbook_add, so also until the next line of the log. */
struct slice logbook_line(uint64_t number);

/* Called after each line that was added, from wherever something was logged: it may do no more than note that. NULL: nobody. */
typedef void logbook_news_fn(void *owner);
void logbook_on_news(logbook_news_fn *fn, void *owner);

#endif
