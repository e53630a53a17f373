/* feed_hubs.c: the feed's topic "hub": what GET /api/v1/hubs tells, at once to who subscribes, then when a hub's state changes, and at most
 * once a second when figures alone did. A reader that has not taken the last message gets none, and the newest state later. */
#include "http/feed_private.h"
#include "hub/hubs.h"

static const usec_t INTERVAL = USEC_PER_SEC;

static void tell(struct feed *f, struct activity_watch *x)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "hub");
        json_key(&w, "hubs");
        json_open_array(&w);
        for (size_t i = 0; f->hubs && i < hubs_count(f->hubs); i++)
                (void)hub_report_put(hubs_report(f->hubs, i), (int64_t)(loop_realtime(f->loop) / 1000),
                                     loop_now(f->loop), &w);
        json_close_array(&w);
        json_close_object(&w);
        x->ended = f->hubs_number;
        x->tell(x, &text);
}

static void on_timer(void *owner, usec_t now)
{
        struct feed *f = owner;
        bool behind = false;

        LIST_FOREACH(&f->hub_watches, it)
        {
                struct activity_watch *x = LIST_ENTRY(it, struct activity_watch, node);

                if (x->ended == f->hubs_number)
                        continue;
                if (x->is_behind(x))
                        behind = true;
                else
                        tell(f, x);
        }
        f->hubs_told_at = now;
        if (behind)
                timer_set(f->hubs_timer, usec_add(now, INTERVAL));
}

static void on_change(void *owner, const struct hub_report *r, bool figures_only, usec_t now)
{
        struct feed *f = owner;
        usec_t at = figures_only ? usec_add(f->hubs_told_at, INTERVAL) : now;

        (void)r;
        f->hubs_number++;
        if (!list_is_empty(&f->hub_watches) && at < timer_due(f->hubs_timer))
                timer_set(f->hubs_timer, at);
}

int feed_watch_hubs(struct feed *f, struct activity_watch *x)
{
        if (!list_is_empty(&x->node))
                return 0;
        if (!f->hubs_timer) {
                int r = timer_new(f->loop, on_timer, f, &f->hubs_timer);

                if (r < 0)
                        return r;
        }
        list_append(&f->hub_watches, &x->node);
        tell(f, x);
        return 0;
}

void feed_unwatch_hubs(struct activity_watch *x)
{
        list_remove(&x->node);
}

int feed_set_hubs(struct feed *f, struct hubs *hubs)
{
        if (f->hubs)
                hubs_unsubscribe(f->hubs, on_change, f);
        f->hubs = NULL;
        if (hubs) {
                int r = hubs_subscribe(hubs, on_change, f);

                if (r < 0)
                        return r;
        }
        f->hubs = hubs;
        return 0;
}
