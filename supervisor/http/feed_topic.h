/* feed_topic.h: a topic of the feed that tells one state as a whole, like "gpus" and "hub": at once to who subscribes, and again when it has
 * another number than it was told with. A reader that has not taken the last message gets none, and the newest state later.
 *
 * A state that has to be looked at (`look`) is, once a second and only while anybody has the topic. Another one says when it changed:
 * feed_topic_changed, after which it is told at once, or within a second of the last time when only figures did. */
#ifndef LSV_HTTP_FEED_TOPIC_H
#define LSV_HTTP_FEED_TOPIC_H

#include "base/buffer.h"
#include "base/list.h"
#include "net/loop.h"

struct feed;
struct json_writer;

struct feed_topic_kind {
        const char *name;                                   /* "gpus": the type of its messages */
        void (*put)(struct feed *f, struct json_writer *w); /* the other members of the message */
        uint64_t (*number)(const struct feed *f); /* of its state: another one when it has changed */
        void (*look)(struct feed *f);             /* NULL: it says itself when it changes */
};

struct feed_topic {
        const struct feed_topic_kind *kind;
        struct feed *feed;
        struct list watches;
        struct timer *timer; /* NULL until the first one has the topic */
        usec_t told_at;
};

/* Somebody who has a topic; the owner initialises node, and fills in itself and the two functions. */
struct feed_watch {
        struct list node;
        uint64_t told; /* the number of what it was told last */
        void *owner;
        bool (*is_behind)(const struct feed_watch *x); /* it has not taken the last message yet */
        void (*tell)(struct feed_watch *x, struct buffer *text);
};

void feed_topic_init(struct feed_topic *t, const struct feed_topic_kind *kind, struct feed *feed);
void feed_topic_finish(struct feed_topic *t);
/* Tells it at once. 0 or -ENOMEM; twice is as once. */
int feed_topic_watch(struct feed_topic *t, struct feed_watch *x);
void feed_topic_unwatch(struct feed_watch *x); /* who has it not: nothing */
void feed_topic_changed(struct feed_topic *t, bool figures_only, usec_t now);

#endif
