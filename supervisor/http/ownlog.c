/* ownlog.c: hands the lines of the logbook on to those who follow it. */
#include "http/ownlog.h"

#include <errno.h>
#include <stdio.h>

#include "base/list.h"
#include "base/logbook.h"

struct ownlog {
        struct loop *loop;
        struct timer *timer; /* armed: somebody may have to be told */
        struct list readers;
};

struct ownlog_reader {
        struct list node;
        ownlog_line_fn *on_line;
        void *owner;
        uint64_t next; /* the line that it is told next */
        bool *freed;   /* while it is being told: whether it left */
};

/* From wherever something is logged. */
static void on_news(void *owner)
{
        struct ownlog *o = owner;

        if (!list_is_empty(&o->readers) && timer_due(o->timer) == USEC_INFINITY)
                timer_set(o->timer, loop_now(o->loop));
}

static void tell(struct ownlog_reader *x, uint64_t end)
{
        bool freed = false;
        char line[4096];

        x->freed = &freed;
        if (x->next < logbook_first()) {
                int n = snprintf(line, sizeof(line), "--- %llu lines skipped",
                                 (unsigned long long)(logbook_first() - x->next));

                x->next = logbook_first();
                x->on_line(x->owner, line, (size_t)n);
        }
        while (!freed && x->next < end) {
                struct slice s;

                /* Whoever is told may log, so that a line may go while it is told. */
                x->next = MAX(x->next, logbook_first());
                if (x->next >= end)
                        break;
                s = logbook_line(x->next++);
                s.n = MIN(s.n, sizeof(line));
                memcpy(line, s.p, s.n);
                x->on_line(x->owner, line, s.n);
        }
        if (!freed)
                x->freed = NULL;
}

static void on_timer(void *owner, usec_t now)
{
        struct ownlog *o = owner;
        uint64_t end = logbook_end(); /* what is logged meanwhile is for the next turn */

        (void)now;
        LIST_FOREACH(&o->readers, it)
        tell(LIST_ENTRY(it, struct ownlog_reader, node), end);
}

void ownlog_put_last(unsigned lines, struct buffer *out)
{
        uint64_t end = logbook_end(), n = MIN(end - logbook_first(), (uint64_t)lines);

        for (uint64_t i = end - n; i < end; i++) {
                struct slice s = logbook_line(i);

                (void)buffer_append(out, s.p, s.n);
                (void)buffer_putc(out, '\n');
        }
}

int ownlog_follow(struct ownlog *o, ownlog_line_fn *on_line, void *owner, struct ownlog_reader **ret)
{
        struct ownlog_reader *x = calloc(1, sizeof(*x));

        if (!x)
                return -ENOMEM;
        x->on_line = on_line;
        x->owner = owner;
        x->next = logbook_end();
        list_append(&o->readers, &x->node);
        *ret = x;
        return 0;
}

struct ownlog_reader *ownlog_unfollow(struct ownlog_reader *x)
{
        if (!x)
                return NULL;
        if (x->freed)
                *x->freed = true;
        list_remove(&x->node);
        free(x);
        return NULL;
}

int ownlog_new(struct loop *loop, struct ownlog **ret)
{
        struct ownlog *o = calloc(1, sizeof(*o));
        int r;

        if (!o)
                return -ENOMEM;
        o->loop = loop;
        list_init(&o->readers);
        r = timer_new(loop, on_timer, o, &o->timer);
        if (r < 0) {
                free(o);
                return r;
        }
        logbook_on_news(on_news, o);
        *ret = o;
        return 0;
}

struct ownlog *ownlog_free(struct ownlog *o)
{
        if (!o)
                return NULL;
        logbook_on_news(NULL, NULL);
        (void)timer_free(o->timer);
        free(o);
        return NULL;
}
