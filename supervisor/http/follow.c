/* follow.c: logs over HTTP, an instance's or our own: the end, and then every new line as it comes, for as long as the client reads.
 * A slow reader costs a bounded queue: what does not fit is counted and skipped, and told to it when it reads again. */
#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "http/doors_private.h"
#include "http/respond.h"

#define LOG_TYPE "text/plain; charset=utf-8"
#define TICK     USEC_PER_SEC
enum { LINES_DEFAULT = 100, LINES_MAX = 10000, QUEUE_MAX = 256 * 1024 };

struct follow {
        struct list node;
        struct doors *doors;
        struct request *req;
        struct follower *follower;    /* of an instance's log, or … */
        struct ownlog_reader *reader; /* … of our own */
        uint64_t skipped;             /* bytes since the last note */
        char name[ROUTE_NAME_MAX];    /* "": our own */
};

static void follow_free(struct follow *x)
{
        fleet_unfollow(x->follower);
        ownlog_unfollow(x->reader);
        list_remove(&x->node);
        x->doors->n_follows--;
        free(x);
}

static void follow_gone(void *owner, struct request *req)
{
        (void)req;
        follow_free(owner);
}

static bool has_room(const struct follow *x, size_t len)
{
        return request_queued(x->req) + len <= QUEUE_MAX;
}

/* True when nothing is owed to the reader: whoever missed bytes hears of it before it gets new ones, once half of the queue is
 * free, so that notes and lines do not take turns at a full one. */
static bool tell_skipped(struct follow *x)
{
        char note[96];
        int n;

        if (x->skipped == 0)
                return true;
        if (request_queued(x->req) > QUEUE_MAX / 2)
                return false;
        n = snprintf(note, sizeof(note), "--- %llu bytes skipped: this reader is too slow\n",
                     (unsigned long long)x->skipped);
        if (request_write(x->req, note, (size_t)n) < 0)
                return false;
        x->skipped = 0;
        return true;
}

/* No new line may ever come, so the note does not wait for one. */
static void follow_tick(void *owner, usec_t now)
{
        struct doors *d = owner;
        bool owing = false;

        LIST_FOREACH(&d->follows, it)
        owing |= !tell_skipped(LIST_ENTRY(it, struct follow, node));
        timer_set(d->follow_timer, owing ? now + TICK : USEC_INFINITY);
}

int follow_init(struct doors *d)
{
        list_init(&d->follows);
        return timer_new(d->loop, follow_tick, d, &d->follow_timer);
}

static void skip(struct follow *x, size_t len)
{
        x->skipped += len;
        x->doors->counts.follow_skipped += len;
        if (timer_due(x->doors->follow_timer) == USEC_INFINITY)
                timer_set(x->doors->follow_timer, loop_now(x->doors->loop) + TICK);
}

static void follow_line(void *owner, const char *line, size_t len)
{
        struct follow *x = owner;
        char text[4096 + 8];

        len = MIN(len, sizeof(text) - 1);
        memcpy(text, line, len);
        text[len] = '\n';
        if (tell_skipped(x) && has_room(x, len + 1) && request_write(x->req, text, len + 1) == 0)
                return;
        skip(x, len + 1);
}

void follow_instance_gone(struct doors *d, const char *name)
{
        static const char note[] = "--- this instance is gone\n";

        LIST_FOREACH(&d->follows, it)
        {
                struct follow *x = LIST_ENTRY(it, struct follow, node);
                struct request *req = x->req;

                if (!streq(x->name, name))
                        continue;
                request_on_gone(req, NULL, NULL);
                follow_free(x);
                (void)request_write(req, note, sizeof(note) - 1);
                request_end(req);
        }
}

void follow_end_all(struct doors *d)
{
        static const char note[] = "--- the supervisor is upgraded: ask again to go on\n";

        while (!list_is_empty(&d->follows)) {
                struct follow *x = LIST_ENTRY(d->follows.next, struct follow, node);
                struct request *req = x->req;

                request_on_gone(req, NULL, NULL);
                follow_free(x);
                (void)request_write(req, note, sizeof(note) - 1);
                request_end(req);
        }
}

static bool is_of_instance(const struct call *call)
{
        return call->name[0];
}

static struct follow *follow_new(struct call *call, int *ret_error)
{
        struct follow *x = calloc(1, sizeof(*x));
        int r;

        *ret_error = -ENOMEM;
        if (!x)
                return NULL;
        x->doors = call->doors;
        x->req = call->req;
        (void)snprintf(x->name, sizeof(x->name), "%s", call->name);
        if (is_of_instance(call))
                r = fleet_follow_log(call->doors->fleet, call->name, follow_line, x, &x->follower);
        else
                r = ownlog_follow(call->doors->ownlog, follow_line, x, &x->reader);
        if (r < 0) {
                free(x);
                *ret_error = r;
                return NULL;
        }
        list_append(&call->doors->follows, &x->node);
        call->doors->n_follows++;
        return x;
}

static void answer_no_log(struct call *call, int r)
{
        if (r == -ENOENT)
                call_no_instance(call, call->name);
        else if (r == -ENODATA)
                doors_respond_error(call->req, 404, "%s was started by somebody else: its log is not ours",
                                    call->name);
        else if (r == -ENOMEM)
                doors_respond_error(call->req, 503, "not enough memory to read a log");
        else
                doors_respond_error(call->req, 500, "cannot read the log of %s: %s", call->name,
                                    strerror(-r));
}

static int read_end(struct call *call, bool follows, unsigned lines, char **ret, size_t *ret_len)
{
        struct buffer text;

        if (is_of_instance(call))
                return fleet_read_log(call->doors->fleet, call->name, follows, lines, ret, ret_len);
        buffer_init(&text, 0);
        ownlog_put_last(lines, &text);
        if (text.failed) {
                buffer_finish(&text);
                return -ENOMEM;
        }
        *ret_len = text.len;
        *ret = buffer_steal(&text);
        return 0;
}

static void follow(struct call *call, const char *text, size_t len)
{
        struct doors *d = call->doors;
        size_t lines = 0; /* who comes again knows by it where the past ends */
        struct follow *x;
        char headers[80];
        int r;

        /* Strangers cannot keep the operator from its log. */
        if (d->n_follows >= DOORS_FOLLOWERS_MAX + (call->control ? DOORS_CONTROL_EXTRA : 0)) {
                d->counts.busy++;
                respond_error_with(call->req, 503, NULL, "Retry-After: 5\r\n",
                                   "too many readers follow logs already");
                return;
        }
        x = follow_new(call, &r);
        if (!x) {
                answer_no_log(call, r);
                return;
        }
        request_on_gone(call->req, follow_gone, x);
        request_set_standing(call->req);
        for (size_t i = 0; i < len; i++)
                lines += text[i] == '\n';
        (void)snprintf(headers, sizeof(headers), "X-Accel-Buffering: no\r\nX-Log-Lines: %zu\r\n", lines);
        respond_begin(call->req, 200, LOG_TYPE, headers);
        if (len && request_write(call->req, text, len) < 0)
                skip(x, len);
}

/* Of an instance, or (a route without a name) our own. */
void logs_handle(struct call *call)
{
        _cleanup_free_ char *text = NULL;
        uint64_t lines;
        size_t len = 0;
        bool follows;
        int r;

        if (!call_get_uint(call, "lines", 0, LINES_MAX, LINES_DEFAULT, &lines) ||
            !call_get_bool(call, "follow", &follows))
                return;
        r = read_end(call, follows, (unsigned)lines, &text, &len);
        if (r < 0)
                answer_no_log(call, r);
        else if (!follows || call->head->method == HTTP1_HEAD)
                respond_text(call->req, 200, LOG_TYPE, NULL, text, len);
        else
                follow(call, text, len);
}
