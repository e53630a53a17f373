/* queue.c: turns, shares, places, and when the line is too long for too long. */
#include "core/queue.h"

#include <errno.h>
#include <math.h>

#include "base/macros.h"
#include "core/balancer.h"

enum { BUCKETS = 256 };

/* One key's items. It exists as long as one of them waits. */
struct queue_lane {
        struct queue_lane *next; /* in its bucket */
        struct list items[QUEUE_CLASSES];
        uint64_t last_turn[QUEUE_CLASSES];
        uint64_t hash;
        unsigned waiting;
        char key[];
};

#define OF_TURN(node) CONTAINER_OF(node, struct queue_item, turn)
#define OF_DUE(node)  CONTAINER_OF(node, struct queue_item, due)

void queue_init(struct queue *q, uint32_t seed)
{
        *q = (struct queue){0};
        for (unsigned i = 0; i < QUEUE_CLASSES; i++)
                q->turns[i].random = seed + i + 1;
        q->dues.random = ~seed;
}

void queue_finish(struct queue *q)
{
        for (unsigned i = 0; q->lanes && i < BUCKETS; i++)
                while (q->lanes[i]) {
                        struct queue_lane *lane = q->lanes[i];

                        q->lanes[i] = lane->next;
                        free(lane);
                }
        free(q->lanes);
        *q = (struct queue){0};
}

/* --- lanes ---------------------------------------------------------------------------------------------------------- */

static struct queue_lane *lane_of(struct queue *q, const char *key)
{
        size_t len = strlen(key);
        uint64_t hash = balancer_hash(key, len);
        struct queue_lane **bucket, *lane;

        if (!q->lanes)
                q->lanes = calloc(BUCKETS, sizeof(struct queue_lane *));
        if (!q->lanes)
                return NULL;
        bucket = &q->lanes[hash % BUCKETS];
        for (lane = *bucket; lane; lane = lane->next)
                if (lane->hash == hash && streq(lane->key, key))
                        return lane;
        lane = calloc(1, sizeof *lane + len + 1);
        if (!lane)
                return NULL;
        memcpy(lane->key, key, len);
        lane->hash = hash;
        for (unsigned i = 0; i < QUEUE_CLASSES; i++)
                list_init(&lane->items[i]);
        lane->next = *bucket;
        *bucket = lane;
        return lane;
}

static void leave_lane(struct queue *q, struct queue_item *item)
{
        struct queue_lane *lane = item->lane, **at = &q->lanes[lane->hash % BUCKETS];

        list_remove(&item->in_lane);
        item->lane = NULL;
        if (--lane->waiting > 0)
                return;
        while (*at != lane)
                at = &(*at)->next;
        *at = lane->next;
        free(lane);
}

/* --- coming and going -------------------------------------------------------------------------------------------------- */

bool queue_is_front(const struct queue_item *item)
{
        return item->turn.key == 0;
}

int queue_put(struct queue *q, struct queue_item *item, unsigned class, const char *key, bool front,
              usec_t deadline, unsigned max, usec_t now)
{
        struct queue_lane *lane;
        uint64_t turn = 0;

        if (class >= QUEUE_CLASSES)
                return -EINVAL;
        if (!front && q->count - q->fronts >= max)
                return -ENOSPC;
        lane = lane_of(q, key);
        if (!lane)
                return -ENOMEM;
        if (!front) {
                uint64_t last = list_is_empty(&lane->items[class]) ? 0 : lane->last_turn[class];

                turn = MAX(q->now_turn[class], last) + 1;
                lane->last_turn[class] = turn;
        }
        item->class = class;
        item->since = now;
        item->deadline = deadline;
        item->lane = lane;
        lane->waiting++;
        list_append(&lane->items[class], &item->in_lane);
        q->seq++;
        ranking_put(&q->turns[class], &item->turn, turn, q->seq);
        ranking_put(&q->dues, &item->due, deadline, q->seq);
        q->count++;
        q->fronts += front;
        return 0;
}

static void leave(struct queue *q, struct queue_item *item)
{
        q->fronts -= queue_is_front(item);
        q->count--;
        ranking_take(&q->turns[item->class], &item->turn);
        ranking_take(&q->dues, &item->due);
        leave_lane(q, item);
        if (q->count == 0)
                q->unbroken = false;
}

void queue_drop(struct queue *q, struct queue_item *item)
{
        struct queue_lane *lane = item->lane;
        uint64_t turn = item->turn.key;

        if (!lane)
                return;
        /* The key's last turn was not used: whoever comes next may have it. */
        if (turn && turn == lane->last_turn[item->class])
                lane->last_turn[item->class] = turn - 1;
        leave(q, item);
}

static unsigned waiting_below(const struct queue *q, unsigned class)
{
        size_t n = 0;

        for (unsigned i = class + 1; i < QUEUE_CLASSES; i++)
                n += ranking_count(&q->turns[i]);
        return (unsigned)n;
}

void queue_serve(struct queue *q, struct queue_item *item, usec_t now)
{
        unsigned class = item->class;

        if (!item->lane)
                return;
        q->now_turn[class] = MAX(q->now_turn[class], item->turn.key);
        leave(q, item);
        for (unsigned i = 0; i < QUEUE_CLASSES - 1 && i <= class; i++) {
                if (i < class || waiting_below(q, i) == 0)
                        q->passed[i] = 0;
                else if (q->passed[i] < QUEUE_SHARE)
                        q->passed[i]++;
        }
        if (q->last_served && q->unbroken) {
                usec_t gap = usec_sub(now, q->last_served);

                q->gap = q->gap ? (q->gap * 7 + gap) / 8 : MAX(gap, 1U);
        }
        q->last_served = now;
        q->unbroken = q->count > 0;
}

/* --- order -------------------------------------------------------------------------------------------------------------- */

static bool is_theirs(const struct queue *q, unsigned class)
{
        return q->passed[class] >= QUEUE_SHARE && waiting_below(q, class) > 0;
}

struct queue_item *queue_first(const struct queue *q)
{
        unsigned last = QUEUE_CLASSES;

        if (q->count == 0)
                return NULL;
        for (unsigned i = 0; i < QUEUE_CLASSES; i++) {
                if (ranking_count(&q->turns[i]) == 0)
                        continue;
                last = i;
                if (i == QUEUE_CLASSES - 1 || !is_theirs(q, i))
                        break;
        }
        return OF_TURN(ranking_first(&q->turns[last]));
}

struct queue_item *queue_first_of(const struct queue *q, unsigned class)
{
        struct ranking_node *first = ranking_first(&q->turns[class]);

        return first ? OF_TURN(first) : NULL;
}

struct queue_item *queue_after(const struct queue *q, const struct queue_item *item)
{
        struct ranking_node *next = ranking_next(&item->turn);

        for (unsigned i = item->class + 1; !next && i < QUEUE_CLASSES; i++)
                next = ranking_first(&q->turns[i]);
        return next ? OF_TURN(next) : NULL;
}

/* Two lines that are merged: the upper first, the lower after each QUEUE_SHARE of the upper. `place`: in its own line, from 0. */
static size_t merged_upper(size_t place, size_t lower, unsigned passed)
{
        return place + MIN(lower, (passed + place) / QUEUE_SHARE);
}

static size_t merged_lower(size_t place, size_t upper, unsigned passed)
{
        return place + MIN(upper, (place + 1) * QUEUE_SHARE - passed);
}

unsigned queue_position(const struct queue *q, const struct queue_item *item)
{
        size_t place = ranking_place(&item->turn);

        if (item->class < QUEUE_CLASSES - 1)
                place = merged_upper(place, waiting_below(q, item->class), q->passed[item->class]);
        for (unsigned above = item->class; above-- > 0;)
                place = merged_lower(place, ranking_count(&q->turns[above]), q->passed[above]);
        return (unsigned)place + 1;
}

usec_t queue_estimate(const struct queue *q, unsigned position, usec_t now)
{
        usec_t gap = q->gap;

        if (!gap)
                return 0;
        if (q->unbroken)
                gap = MAX(gap, usec_sub(now, q->last_served));
        return gap * position;
}

/* --- ends ------------------------------------------------------------------------------------------------------------------ */

usec_t queue_due(const struct queue *q)
{
        const struct ranking_node *first = ranking_first(&q->dues);

        return first ? first->key : USEC_INFINITY;
}

usec_t queue_oldest(const struct queue *q)
{
        const struct ranking_node *first = ranking_first(&q->dues);

        return first ? CONTAINER_OF(first, struct queue_item, due)->since : 0;
}

struct queue_item *queue_expired(const struct queue *q, usec_t now)
{
        struct ranking_node *first = ranking_first(&q->dues);

        return first && first->key <= now ? OF_DUE(first) : NULL;
}

/* The newest item of the key that waits with the most, in the lowest class: the last turn of all. */
static struct queue_item *victim_of(const struct queue *q)
{
        for (unsigned i = QUEUE_CLASSES; i-- > 0;) {
                struct ranking_node *last = ranking_last(&q->turns[i]);

                if (last)
                        return OF_TURN(last);
        }
        return NULL;
}

static const struct queue_item *oldest_beside(const struct queue_item *item)
{
        return LIST_ENTRY(item->lane->items[item->class].next, struct queue_item, in_lane);
}

void queue_calm(struct queue *q)
{
        q->shed.first_above = q->shed.since = 0;
}

static usec_t spacing(const struct queue_shedding *policy, unsigned count)
{
        return (usec_t)((double)policy->interval / sqrt(count));
}

struct queue_item *queue_shed(struct queue *q, const struct queue_shedding *policy, usec_t now)
{
        struct queue_item *victim = victim_of(q);

        if (policy->target == 0 || q->count <= 1 ||
            usec_sub(now, oldest_beside(victim)->since) < policy->target) {
                queue_calm(q);
                return NULL;
        }
        if (q->shed.first_above == 0)
                q->shed.first_above = usec_add(now, policy->interval);
        if (now < q->shed.first_above)
                return NULL;
        if (!q->shed.since) {
                unsigned delta = q->shed.count - q->shed.last_count;

                /* It was as bad a short while ago: it goes on where it was (RFC 8289, the dequeue routine). */
                if (delta <= 1 || now >= usec_add(q->shed.next, 16 * policy->interval))
                        delta = 1;
                q->shed.since = now;
                q->shed.count = q->shed.last_count = delta;
                q->shed.next = usec_add(now, spacing(policy, delta));
                return victim;
        }
        if (now < q->shed.next)
                return NULL;
        q->shed.count++;
        /* A loop that stood still owes nobody the refusals that it missed. */
        q->shed.next =
                usec_add(MAX(q->shed.next, usec_sub(now, policy->interval)), spacing(policy, q->shed.count));
        return victim;
}

usec_t queue_shed_due(const struct queue *q, const struct queue_shedding *policy)
{
        const struct queue_item *victim = victim_of(q);

        if (policy->target == 0 || q->count <= 1)
                return USEC_INFINITY;
        if (q->shed.since)
                return q->shed.next;
        if (q->shed.first_above)
                return q->shed.first_above;
        return usec_add(oldest_beside(victim)->since, policy->target);
}
