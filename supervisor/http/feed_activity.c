/* feed_activity.c: the feed's topic "activity": the requests that run, and those that ended since the last message.
 *
 * At once to who subscribes, then at most once a second, and only when something runs or has ended meanwhile. A reader that has
 * not taken the last message gets none, and what it missed with the next one, up to RECENT_MAX ended requests. */
#include "fleet/activity.h"
#include "fleet/relay.h"
#include "http/feed_private.h"

enum { RECENT_MAX = 50 };

static const usec_t INTERVAL = USEC_PER_SEC;

/* How many have ended so far; *ret_running: how many run. */
static uint64_t count_ended(const struct activity *a, unsigned *ret_running)
{
        struct activity_figures figures;
        uint64_t ended = 0;

        *ret_running = 0;
        if (activity_figures(a, NULL, &figures) < 0)
                return 0;
        *ret_running = figures.running;
        for (size_t i = 0; i < ACTIVITY_OUTCOMES && figures.outcomes[i].outcome; i++)
                ended += figures.outcomes[i].count;
        return ended;
}

static void tell(struct feed *f, struct activity_watch *x, uint64_t ended, unsigned recent)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "activity");
        json_key(&w, "activity");
        activity_put(fleet_activity(f->fleet), &w, loop_now(f->loop), recent);
        json_close_object(&w);
        x->watch.told = ended;
        x->watch.tell(&x->watch, &text);
}

static void on_timer(void *owner, usec_t now)
{
        struct feed *f = owner;
        unsigned running;
        uint64_t ended = count_ended(fleet_activity(f->fleet), &running);

        if (list_is_empty(&f->watches))
                return;
        relay_note_positions(f->fleet);
        LIST_FOREACH(&f->watches, it)
        {
                struct activity_watch *x = LIST_ENTRY(it, struct activity_watch, watch.node);

                if ((!running && !x->running && x->watch.told == ended) || x->watch.is_behind(&x->watch))
                        continue;
                tell(f, x, ended, (unsigned)MIN(ended - x->watch.told, (uint64_t)RECENT_MAX));
                x->running = running != 0;
        }
        timer_set(f->activity_timer, usec_add(now, INTERVAL));
}

int feed_watch_activity(struct feed *f, struct activity_watch *x)
{
        unsigned running;
        uint64_t ended;

        if (!list_is_empty(&x->watch.node))
                return 0;
        if (!f->activity_timer) {
                int r = timer_new(f->loop, on_timer, f, &f->activity_timer);

                if (r < 0)
                        return r;
        }
        if (list_is_empty(&f->watches))
                timer_set(f->activity_timer, usec_add(loop_now(f->loop), INTERVAL));
        list_append(&f->watches, &x->watch.node);
        ended = count_ended(fleet_activity(f->fleet), &running);
        x->running = running != 0;
        relay_note_positions(f->fleet);
        tell(f, x, ended, RECENT_MAX);
        return 0;
}

void feed_unwatch_activity(struct activity_watch *x)
{
        list_remove(&x->watch.node);
}
