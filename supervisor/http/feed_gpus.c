/* feed_gpus.c: the feed's topic "gpus": what GET /api/v1/gpus tells, at once to who subscribes, then after each look at the GPUs, which is
 * once a second while anybody has the topic. A reader that has not taken the last message gets none, and the newest state later. */
#include "fleet/gpus.h"
#include "http/feed_private.h"

static const usec_t INTERVAL = USEC_PER_SEC;

static void tell(struct feed *f, struct activity_watch *x)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "gpus");
        json_key(&w, "gpus");
        fleet_put_gpus(f->fleet, &w);
        json_close_object(&w);
        x->ended = fleet_gpus_number(f->fleet);
        x->tell(x, &text);
}

static void on_timer(void *owner, usec_t now)
{
        struct feed *f = owner;

        if (list_is_empty(&f->gpu_watches))
                return;
        fleet_gpus_hurry(f->fleet);
        LIST_FOREACH(&f->gpu_watches, it)
        {
                struct activity_watch *x = LIST_ENTRY(it, struct activity_watch, node);

                if (x->ended != fleet_gpus_number(f->fleet) && !x->is_behind(x))
                        tell(f, x);
        }
        timer_set(f->gpus_timer, usec_add(now, INTERVAL));
}

int feed_watch_gpus(struct feed *f, struct activity_watch *x)
{
        if (!list_is_empty(&x->node))
                return 0;
        if (!f->gpus_timer) {
                int r = timer_new(f->loop, on_timer, f, &f->gpus_timer);

                if (r < 0)
                        return r;
        }
        if (list_is_empty(&f->gpu_watches))
                timer_set(f->gpus_timer, usec_add(loop_now(f->loop), INTERVAL));
        list_append(&f->gpu_watches, &x->node);
        fleet_gpus_hurry(f->fleet);
        tell(f, x);
        return 0;
}

void feed_unwatch_gpus(struct activity_watch *x)
{
        list_remove(&x->node);
}
