/* nats_places.h: things by the numbers that their subscriptions' tags carry: a number is a place in an array and how often it was given
 * away, so that a message for one that is gone finds nobody. Below 2^56, since a tag has room for no more. */
#ifndef LSV_HUB_NATS_PLACES_H
#define LSV_HUB_NATS_PLACES_H

#include <stddef.h>
#include <stdint.h>

enum { PLACES_MAX = 1 << 16 };

struct places {
        struct place {
                void *what; /* NULL: free */
                uint64_t turn;
                size_t next; /* of a free one: the next free one */
        } * list;
        size_t cap, free; /* free == cap: none */
};

/* {0} is an empty one. 0, -ENOMEM, -ENOBUFS. */
int places_put(struct places *p, void *what, uint64_t *ret);
void *places_get(const struct places *p, uint64_t number); /* NULL: it is gone */
void places_drop(struct places *p, uint64_t number);
void places_finish(struct places *p);

#endif
