/* spool_table.c: the open jobs that are known, by name and by what they wait for. */
#include <errno.h>

#include "base/text.h"
#include "hub/spool_private.h"

enum { BUCKETS = 65536 };

int spool_table_init(struct spool_table *t)
{
        *t = (struct spool_table){.next_due = USEC_INFINITY, .n_buckets = BUCKETS};
        list_init(&t->all);
        list_init(&t->fresh);
        list_init(&t->held);
        list_init(&t->waiting);
        t->buckets = calloc(t->n_buckets, sizeof(struct spool_entry *));
        t->models = calloc(SPOOL_MODELS_MAX, sizeof(*t->models));
        if (!t->buckets || !t->models)
                return -ENOMEM;
        return spool_table_model(t, "") == 0 && t->n_models == 1 ? 0 : -ENOMEM;
}

void spool_table_finish(struct spool_table *t)
{
        if (!t->all.next)
                return;
        LIST_FOREACH(&t->all, it)
        free(LIST_ENTRY(it, struct spool_entry, all));
        for (size_t i = 0; i < t->n_models; i++)
                free(t->models[i].name);
        free(t->models);
        free(t->buckets);
        *t = (struct spool_table){0};
}

static struct spool_entry **bucket_of(const struct spool_table *t, const char *name)
{
        uint32_t h = 2166136261U;

        for (; *name; name++)
                h = (h ^ (unsigned char)*name) * 16777619U;
        return t->buckets + (h ^ h >> 16) % t->n_buckets;
}

struct spool_entry *spool_table_find(const struct spool_table *t, const char *name)
{
        struct spool_entry *e = *bucket_of(t, name);

        while (e && !streq(e->name, name))
                e = e->next;
        return e;
}

struct spool_entry *spool_table_add(struct spool_table *t, const char *name)
{
        struct spool_entry **bucket = bucket_of(t, name), *e;
        size_t len = strlen(name);

        if (t->n >= SPOOL_OPEN_MAX)
                return NULL;
        e = calloc(1, sizeof(*e) + len + 1);
        if (!e)
                return NULL;
        memcpy(e->name, name, len + 1);
        e->next = *bucket;
        *bucket = e;
        list_init(&e->node);
        list_append(&t->all, &e->all);
        list_append(&t->fresh, &e->node);
        t->n++;
        return e;
}

void spool_table_remove(struct spool_table *t, struct spool_entry *e)
{
        struct spool_entry **at = bucket_of(t, e->name);

        while (*at != e)
                at = &(*at)->next;
        *at = e->next;
        list_remove(&e->node);
        list_remove(&e->all);
        free(e);
        t->n--;
}

void spool_table_move(struct spool_table *t, struct spool_entry *e, enum entry_state state)
{
        struct list *to = state == ENTRY_FRESH     ? &t->fresh
                          : state == ENTRY_READY   ? &t->models[e->model].ready
                          : state == ENTRY_HELD    ? &t->held
                          : state == ENTRY_WAITING ? &t->waiting
                                                   : NULL;

        list_remove(&e->node);
        if (to)
                list_append(to, &e->node);
        e->state = state;
}

void spool_table_wait(struct spool_table *t, struct spool_entry *e, usec_t due)
{
        spool_table_move(t, e, ENTRY_WAITING);
        e->due = due;
        t->next_due = MIN(t->next_due, due);
}

void spool_table_wake(struct spool_table *t, usec_t now)
{
        if (now < t->next_due)
                return;
        t->next_due = USEC_INFINITY;
        LIST_FOREACH(&t->waiting, it)
        {
                struct spool_entry *e = LIST_ENTRY(it, struct spool_entry, node);

                if (e->due <= now)
                        spool_table_move(t, e, ENTRY_FRESH);
                else
                        t->next_due = MIN(t->next_due, e->due);
        }
}

uint16_t spool_table_model(struct spool_table *t, const char *name)
{
        struct spool_model *m;

        for (size_t i = 0; i < t->n_models; i++)
                if (streq_ptr(t->models[i].name, name))
                        return (uint16_t)i;
        if (t->n_models == SPOOL_MODELS_MAX)
                return 0;
        m = t->models + t->n_models;
        m->name = text_dup(name);
        if (!m->name)
                return 0;
        list_init(&m->ready);
        return (uint16_t)t->n_models++;
}
