/* progress.c: what a job tells while it runs: gathered for a moment, in order, bounded, and given to the driver when it takes it. */
#include <errno.h>

#include "base/text.h"
#include "hub/connector.h"

/* The hub keeps what it was told for good. */
static bool appends(const struct job *j)
{
        return j->connector->driver->caps & HUB_CAP_APPENDS;
}

void progress_reset(struct job *j)
{
        buffer_clear(&j->told);
        j->told_offset = j->made = 0;
        j->seq = 0;
        j->gap = false;
        j->told_at = 0;
        j->busy = 0;
        j->tell_at = USEC_INFINITY;
}

static void drop(struct job *j, size_t n)
{
        j->connector->dropped_bytes += n;
}

/* Of a further run the hub is not told again what it has of an earlier one; the next whole character comes first. */
static size_t told_before(const struct job *j, const char *text, size_t len)
{
        size_t n = 0;

        if (!appends(j) || j->made >= j->sent)
                return 0;
        n = (size_t)MIN((uint64_t)len, j->sent - j->made);
        while (n < len && ((unsigned char)text[n] & 0xc0) == 0x80)
                n++;
        return n;
}

void progress_add(struct job *j, const char *text, size_t len)
{
        usec_t now = loop_now(j->connector->hubs->loop);
        size_t skip = told_before(j, text, len);

        j->made += skip;
        text += skip;
        len -= skip;
        if (len == 0)
                return;
        if (j->gap) {
                drop(j, len);
                j->made += len;
                return;
        }
        if (len > CONNECTOR_TOLD_MAX - j->told.len) {
                /* The result has all of it. Who appends may have no hole; the others see by the offset that there is one. */
                if (appends(j)) {
                        j->gap = true;
                        drop(j, len);
                        j->made += len;
                        return;
                }
                drop(j, j->told.len);
                buffer_clear(&j->told);
        }
        if (j->told.len == 0)
                j->told_offset = j->made;
        j->made += len;
        if (buffer_append(&j->told, text, len) < 0) {
                drop(j, len);
                buffer_clear(&j->told);
                j->gap = appends(j);
                return;
        }
        if (j->busy) /* it is asked again at tell_at, not for each word: what is kept is long */
                return;
        if (j->told.len >= CONNECTOR_TELL_AT || usec_sub(now, j->told_at) >= CONNECTOR_TELL_EVERY) {
                progress_flush(j, now);
        } else if (j->tell_at == USEC_INFINITY) {
                j->tell_at = usec_add(j->told_at, CONNECTOR_TELL_EVERY);
                job_arm(j);
        }
}

void progress_flush(struct job *j, usec_t now)
{
        struct connector *c = j->connector;
        struct hub_chunk chunk = {.attempt = j->pub.attempt,
                                  .run = j->pub.run,
                                  .seq = j->seq,
                                  .offset = j->told_offset,
                                  .len = j->told.len};
        int r;

        j->tell_at = USEC_INFINITY;
        if (j->told.len == 0 || !c->link)
                return;
        if (j->wants_text)
                chunk.text = j->told.data;
        else
                chunk.events = j->told.data;
        j->told_at = now;
        r = c->driver->progress(c->link, &j->pub, &chunk);
        if (r == -EAGAIN) {
                /* Kept, and tried again together with what comes, less and less often. */
                j->tell_at = usec_add(now, CONNECTOR_TELL_EVERY << MIN(j->busy, CONNECTOR_BUSY_DOUBLINGS));
                j->busy++;
                job_arm(j);
                return;
        }
        j->busy = 0;
        j->seq++;
        if (r < 0)
                drop(j, j->told.len);
        j->sent = MAX(j->sent, j->told_offset + j->told.len);
        buffer_clear(&j->told);
}
