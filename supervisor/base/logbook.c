/* logbook.c: a ring of lines in one piece of memory, the oldest of which make room for the newest. */
#include "base/logbook.h"

#include <assert.h>
#include <string.h>

#include "base/macros.h"

struct place {
        uint32_t at, len;
};

static char bytes[LOGBOOK_BYTES_MAX];
static struct place places[LOGBOOK_LINES_MAX];
static uint64_t first, end;
static uint32_t next_at; /* where the next line begins, if there is room behind it */
static logbook_news_fn *on_news;
static void *news_owner;

static struct place *place_of(uint64_t number)
{
        return places + number % LOGBOOK_LINES_MAX;
}

/* Lines lie in the order of their numbers, once around at most: those in the way are the oldest. */
static void make_room(uint32_t from, uint32_t to)
{
        while (first < end && place_of(first)->at < to && place_of(first)->at + place_of(first)->len > from)
                first++;
}

void logbook_add(const char *line, size_t len)
{
        uint32_t n = (uint32_t)MIN(len, (size_t)LOGBOOK_BYTES_MAX / 4);

        if (n == 0)
                return;
        if (next_at + n > LOGBOOK_BYTES_MAX) {
                make_room(next_at, LOGBOOK_BYTES_MAX);
                next_at = 0;
        }
        make_room(next_at, next_at + n);
        if (end - first == LOGBOOK_LINES_MAX)
                first++;
        memcpy(bytes + next_at, line, n);
        *place_of(end++) = (struct place){next_at, n};
        next_at += n;
        if (on_news)
                on_news(news_owner);
}

uint64_t logbook_first(void)
{
        return first;
}

uint64_t logbook_end(void)
{
        return end;
}

struct slice logbook_line(uint64_t number)
{
        assert(number >= first && number < end);
        return (struct slice){bytes + place_of(number)->at, place_of(number)->len};
}

void logbook_on_news(logbook_news_fn *fn, void *owner)
{
        on_news = fn;
        news_owner = owner;
}
