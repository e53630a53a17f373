/* tail.h: the last lines that were told of a log, so that a stream of it that is opened anew goes on where the one before ended:
 * the log's end is asked for again, and what of it was told already is found by these lines. Bytes are compared as they came. */
#ifndef LSV_CLI_TAIL_H
#define LSV_CLI_TAIL_H

#include <stdbool.h>
#include <stddef.h>

enum { TAIL_KEPT = 16 };

struct tail {
        char *last[TAIL_KEPT]; /* the oldest first */
        size_t n;
};

/* A line that does not fit into memory makes all before it forgotten: then more is told again, and nothing is lost. */
void tail_add(struct tail *t, const char *line, size_t len);
/* How many of the first of `lines` were told before. false: none of them is known, so that there may be a gap before the first. */
bool tail_find(const struct tail *t, char *const *lines, size_t n, size_t *ret);
void tail_finish(struct tail *t);

#endif
