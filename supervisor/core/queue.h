/* queue.h: the line in front of one model: who is next, who comes when, who has waited too long. Pure.
 *
 * Order. Three classes of priority. A higher class goes first, but a lower one is never starved: whenever QUEUE_SHARE grants in a row
 * passed the classes below over, the next one is theirs (so normal and low together get at least one grant in nine, and low at
 * least one in nine of those). Within a class the keys take turns, and within a key the first comes first: each item gets
 * a turn number when it comes (its key's last one, or the class's present one, plus one), and the smallest is served first. That is
 * self-clocked fair queueing (Golestani 1994) with a cost of one each, in other words round robin. Retries stand before turn one of
 * their class, since they have waited already.
 *
 * Cost. Everything is O(log n) and without allocation, but for one small block for each key that waits: the order lies in a
 * ranking that knows each place, so a position is no walk along the line. 5,000 waiters that look up their position each second
 * are 5,000 × 13 steps.
 *
 * Position. What would be served before it if nobody else came: exact, the shares of the lower classes included (items that may not be
 * served by just any instance are the dispatch's business, and may be overtaken).
 *
 * Estimate. Position × the mean gap between grants (a moving average, 1/8 for the newest, over grants of one unbroken time of
 * waiting), or × the present gap when that is longer already.
 *
 * Shedding. CoDel (RFC 8289): a line is fine when it drains now and then, however long it is for a moment; it is bad when waits stay
 * over `target` for a whole `interval`. Then one item is refused, and the next ones at interval/√count, until waits fall under the
 * target. Two things are not as in a router. What is shed is the newest item of the key that waits with the most, in the lowest
 * class: it has invested the least, it is told at once and can go elsewhere, and a key that floods the line pays for it itself (in
 * a router the oldest packet goes, to tell TCP the sooner; here each client is told by its own refusal). And the wait that counts is
 * that of this key's oldest item, not of who is next: with fair turns and classes, who is next may be young for ever while
 * the others stand (RFC 8290 has one CoDel a flow for the same reason). One item alone is never shed. While nothing can be served
 * at all (a model that loads), waits mean nothing: queue_calm starts the account anew.
 *
 * Items are the caller's, and are in at most one queue. Bounds: `max` items, without the retries, which were counted before. */
#ifndef LSV_CORE_QUEUE_H
#define LSV_CORE_QUEUE_H

#include "base/list.h"
#include "base/time.h"
#include "core/ranking.h"

enum { QUEUE_CLASSES = 3, QUEUE_SHARE = 8 };

struct queue_lane;
struct queue_item {
        struct ranking_node turn, due;
        struct list in_lane;
        struct queue_lane *lane; /* NULL: it does not wait */
        unsigned class;          /* 0 is the highest */
        usec_t since, deadline;  /* deadline may be USEC_INFINITY only where somebody else ends the wait */
};

/* Open, so that it may lie in other structs; its members are its own. */
struct queue {
        struct ranking turns[QUEUE_CLASSES], dues;
        uint64_t now_turn[QUEUE_CLASSES]; /* of the last item served */
        uint64_t seq;
        unsigned passed[QUEUE_CLASSES - 1]; /* grants of class i since one below it was served */
        unsigned count, fronts;             /* fronts: retries among them */
        struct queue_lane **lanes;          /* buckets, from the first item on */
        usec_t last_served, gap;            /* 0: unknown */
        bool unbroken;                      /* somebody has waited ever since last_served */
        struct {
                usec_t first_above, next, since; /* since: 0: not shedding */
                unsigned count, last_count;
        } shed;
};

void queue_init(struct queue *q, uint32_t seed);
void queue_finish(struct queue *q); /* items are forgotten, not freed */

/* 0, -ENOSPC (max items wait), -ENOMEM, -EINVAL (no such class). front: a retry; max does not count for it. deadline: monotonic. */
int queue_put(struct queue *q, struct queue_item *item, unsigned class, const char *key, bool front,
              usec_t deadline, unsigned max, usec_t now);
/* It is served: counts for turns, shares and the rate. Need not be the first (others may have to be passed over). */
void queue_serve(struct queue *q, struct queue_item *item, usec_t now);
/* It goes without being served (cancelled, expired, shed). Safe on one that does not wait. */
void queue_drop(struct queue *q, struct queue_item *item);
static inline bool queue_waits(const struct queue_item *item)
{
        return item->lane != NULL;
}

struct queue_item *queue_first(const struct queue *q); /* the next one to be served, NULL */
/* The first of a class: its retries, if there are any, come before all others of it. NULL. */
struct queue_item *queue_first_of(const struct queue *q, unsigned class);
bool queue_is_front(const struct queue_item *item);
/* Who would be next if this one and all before it were passed over: for a bounded look ahead. NULL at the end. */
struct queue_item *queue_after(const struct queue *q, const struct queue_item *item);
unsigned queue_position(const struct queue *q, const struct queue_item *item); /* from 1 */
usec_t queue_estimate(const struct queue *q, unsigned position, usec_t now);   /* 0: unknown */

usec_t queue_due(const struct queue *q);    /* the first deadline, USEC_INFINITY */
usec_t queue_oldest(const struct queue *q); /* since when that one waits; 0: nobody does */
struct queue_item *queue_expired(const struct queue *q,
                                 usec_t now); /* one that is over; NULL: none (any more) */

struct queue_shedding {
        usec_t target, interval; /* target 0: never */
};
/* Who must be refused now (still in the queue: queue_drop it, then ask again); NULL: nobody (any more). */
struct queue_item *queue_shed(struct queue *q, const struct queue_shedding *policy, usec_t now);
usec_t queue_shed_due(const struct queue *q, const struct queue_shedding *policy); /* when to ask again */
void queue_calm(struct queue *q);

#endif
