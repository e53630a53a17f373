/* nats_places.c: an array with a list of its free places. */
#include "hub/nats_places.h"

#include <errno.h>
#include <stdlib.h>

int places_put(struct places *p, void *what, uint64_t *ret)
{
        struct place *at;

        if (p->free == p->cap) {
                size_t cap = p->cap ? p->cap * 2 : 64;
                struct place *more;

                if (cap > PLACES_MAX)
                        return -ENOBUFS;
                more = realloc(p->list, cap * sizeof(*more));
                if (!more)
                        return -ENOMEM;
                for (size_t i = p->cap; i < cap; i++)
                        more[i] = (struct place){.next = i + 1};
                p->list = more;
                p->cap = cap;
        }
        at = &p->list[p->free];
        *ret = at->turn * PLACES_MAX + p->free;
        p->free = at->next;
        at->what = what;
        return 0;
}

static struct place *find(const struct places *p, uint64_t number)
{
        size_t i = number % PLACES_MAX;

        return i < p->cap && p->list[i].what && p->list[i].turn == number / PLACES_MAX ? &p->list[i] : NULL;
}

void *places_get(const struct places *p, uint64_t number)
{
        const struct place *at = find(p, number);

        return at ? at->what : NULL;
}

void places_drop(struct places *p, uint64_t number)
{
        struct place *at = find(p, number);

        if (!at)
                return;
        at->what = NULL;
        at->turn++;
        at->next = p->free;
        p->free = (size_t)(at - p->list);
}

void places_finish(struct places *p)
{
        free(p->list);
        *p = (struct places){0};
}
