/* ownlog.h: the supervisor's own log for those who look from afar: its end, and each new line as it comes.
 * Lines are handed on in a turn of the loop of their own, never from inside whatever was logging, so that a reader may write to
 * its connection. A reader who is told in one turn more than the logbook holds is told how many lines it missed. */
#ifndef LSV_HTTP_OWNLOG_H
#define LSV_HTTP_OWNLOG_H

#include "base/buffer.h"
#include "net/loop.h"

struct ownlog;
struct ownlog_reader;

/* The line has no end, and is valid during the call. May unfollow itself, nobody else. */
typedef void ownlog_line_fn(void *owner, const char *line, size_t len);

int ownlog_new(struct loop *loop, struct ownlog **ret);
struct ownlog *ownlog_free(struct ownlog *o); /* nobody follows any more */

/* The last `lines` that are still there, each ended by a newline, appended; failure marks the buffer. */
void ownlog_put_last(unsigned lines, struct buffer *out);
/* Every line from now on. 0 or -ENOMEM. */
int ownlog_follow(struct ownlog *o, ownlog_line_fn *on_line, void *owner, struct ownlog_reader **ret);
struct ownlog_reader *ownlog_unfollow(struct ownlog_reader *x); /* always NULL */

#endif
