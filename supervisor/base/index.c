/* index.c: a hash table of names. */
#include "base/index.h"

#include <errno.h>

#include "base/macros.h"

enum { CAP_FIRST = 64 };

/* Where it is, or the free slot where it belongs; cap is a power of two, and never full. */
static struct index_slot *slot_of(struct index_slot *slots, size_t cap, const char *key)
{
        uint32_t h = 2166136261U;
        size_t i;

        for (const char *p = key; *p; p++)
                h = (h ^ (unsigned char)*p) * 16777619U;
        for (i = h & (cap - 1); slots[i].key && !streq(slots[i].key, key); i = (i + 1) & (cap - 1))
                ;
        return slots + i;
}

static int grow(struct index *x)
{
        size_t cap = x->cap ? x->cap * 2 : CAP_FIRST;
        struct index_slot *slots = calloc(cap, sizeof *slots);

        if (!slots)
                return -ENOMEM;
        for (size_t i = 0; i < x->cap; i++)
                if (x->slots[i].key)
                        *slot_of(slots, cap, x->slots[i].key) = x->slots[i];
        free(x->slots);
        x->slots = slots;
        x->cap = cap;
        return 0;
}

int index_put(struct index *x, const char *key, void *value)
{
        struct index_slot *slot;

        if ((x->n + 1) * 2 > x->cap && grow(x) < 0)
                return -ENOMEM;
        slot = slot_of(x->slots, x->cap, key);
        if (slot->key)
                return -EEXIST;
        *slot = (struct index_slot){.key = key, .value = value};
        x->n++;
        return 0;
}

void *index_get(const struct index *x, const char *key)
{
        return x->cap ? slot_of(x->slots, x->cap, key)->value : NULL;
}

void index_clear(struct index *x)
{
        if (x->cap)
                memset(x->slots, 0, x->cap * sizeof *x->slots);
        x->n = 0;
}

void index_finish(struct index *x)
{
        free(x->slots);
        *x = (struct index){0};
}
