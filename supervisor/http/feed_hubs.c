/* feed_hubs.c: the feed's topic "hub": what GET /api/v1/hubs tells, when a hub's state changes, and at most once a second when figures alone
 * did. */
#include "base/json.h"
#include "http/feed_private.h"
#include "hub/hubs.h"

static void put(struct feed *f, struct json_writer *w)
{
        json_key(w, "hubs");
        json_open_array(w);
        for (size_t i = 0; f->hubs && i < hubs_count(f->hubs); i++)
                (void)hub_report_put(hubs_report(f->hubs, i), (int64_t)(loop_realtime(f->loop) / 1000),
                                     loop_now(f->loop), w);
        json_close_array(w);
}

static uint64_t number(const struct feed *f)
{
        return f->hubs_number;
}

const struct feed_topic_kind feed_topic_hubs = {"hub", put, number, NULL};

static void on_change(void *owner, const struct hub_report *r, bool figures_only, usec_t now)
{
        struct feed *f = owner;

        (void)r;
        f->hubs_number++;
        feed_topic_changed(&f->hub_topic, figures_only, now);
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
