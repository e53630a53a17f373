/* feed_topic.c: topics of the feed: who has one, and when it is told. */
#include "http/feed_topic.h"

#include "base/json.h"
#include "http/feed_private.h"

static const usec_t INTERVAL = USEC_PER_SEC;

void feed_topic_init(struct feed_topic *t, const struct feed_topic_kind *kind, struct feed *feed)
{
        *t = (struct feed_topic){.kind = kind, .feed = feed};
        list_init(&t->watches);
}

void feed_topic_finish(struct feed_topic *t)
{
        t->timer = timer_free(t->timer);
}

static void tell(struct feed_topic *t, struct feed_watch *x)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", t->kind->name);
        t->kind->put(t->feed, &w);
        json_close_object(&w);
        x->told = t->kind->number(t->feed);
        x->tell(x, &text);
}

static void on_timer(void *owner, usec_t now)
{
        struct feed_topic *t = owner;
        bool behind = false;

        if (list_is_empty(&t->watches))
                return;
        if (t->kind->look)
                t->kind->look(t->feed);
        LIST_FOREACH(&t->watches, it)
        {
                struct feed_watch *x = LIST_ENTRY(it, struct feed_watch, node);

                if (x->told == t->kind->number(t->feed))
                        continue;
                if (x->is_behind(x))
                        behind = true;
                else
                        tell(t, x);
        }
        t->told_at = now;
        if (behind || t->kind->look)
                timer_set(t->timer, usec_add(now, INTERVAL));
}

int feed_topic_watch(struct feed_topic *t, struct feed_watch *x)
{
        if (!list_is_empty(&x->node))
                return 0;
        if (!t->timer) {
                int r = timer_new(t->feed->loop, on_timer, t, &t->timer);

                if (r < 0)
                        return r;
        }
        if (t->kind->look && list_is_empty(&t->watches))
                timer_set(t->timer, usec_add(loop_now(t->feed->loop), INTERVAL));
        list_append(&t->watches, &x->node);
        if (t->kind->look)
                t->kind->look(t->feed);
        tell(t, x);
        return 0;
}

void feed_topic_unwatch(struct feed_watch *x)
{
        list_remove(&x->node);
}

void feed_topic_changed(struct feed_topic *t, bool figures_only, usec_t now)
{
        usec_t at = figures_only ? usec_add(t->told_at, INTERVAL) : now;

        if (!list_is_empty(&t->watches) && at < timer_due(t->timer))
                timer_set(t->timer, at);
}
