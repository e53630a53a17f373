/* demand_models.c: the entries that come on demand or scale, how they are now, and how much room they take. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/keep_alive.h"
#include "fleet/demand_private.h"
#include "fleet/gpu_care.h"
#include "fleet/place_private.h"

struct demand_model *demand_find(struct demand *d, const char *name)
{
        if (d->last && streq(d->last->name, name))
                return d->last;
        d->last = index_get(&d->by_name, name);
        return d->last;
}

static bool is_ours(const struct config_instance *e)
{
        return !e->adopt && (e->on_demand || e->replicas_max);
}

/* Instances beyond min that an earlier daemon left running: the range begins with them. */
static unsigned replicas_left(const struct fleet *f, const struct config_instance *e)
{
        unsigned n = MAX(e->replicas, 1U);

        for (unsigned k = n; k < e->replicas_max; k++) {
                char name[CONFIG_NAME_MAX];
                _cleanup_free_ char *path =
                        text_format("%s/%s.json", f->instances_dir,
                                    config_replica_name(e, k, e->replicas_max, name, sizeof name));

                if (path && access(path, F_OK) == 0)
                        n = k + 1;
        }
        return n;
}

static struct demand_model *add_model(struct demand *d, const struct config_instance *e)
{
        struct demand_model *x;

        if (d->n == d->cap) {
                size_t cap = d->cap ? d->cap * 2 : 16;
                struct demand_model **grown = reallocarray(d->models, cap, sizeof(*grown));

                if (!grown)
                        return NULL;
                d->models = grown;
                d->cap = cap;
        }
        x = calloc(1, sizeof *x);
        if (!x)
                return NULL;
        (void)snprintf(x->name, sizeof x->name, "%s", e->name);
        if (index_put(&d->by_name, x->name, x) < 0) {
                free(x);
                return NULL;
        }
        x->keep_alive = KEEP_ALIVE_NONE;
        x->replicas = d->fleet->started ? MAX(e->replicas, 1U) : replicas_left(d->fleet, e);
        d->models[d->n++] = x;
        return x;
}

int demand_attach(struct demand *d, struct member *m)
{
        const struct config_instance *e = m->entry;
        struct demand_model *x;

        m->demand = NULL;
        if (!is_ours(e))
                return 0;
        x = demand_find(d, e->name);
        if (!x)
                x = add_model(d, e);
        if (!x)
                return -ENOMEM;
        x->entry = e;
        if (!e->replicas_max)
                x->replicas = m->replicas;
        m->demand = x;
        d->dirty = d->stale = true;
        return 0;
}

static bool has_members(const struct demand *d, const struct demand_model *x)
{
        for (size_t i = 0; i < d->fleet->n_members; i++)
                if (d->fleet->members[i]->demand == x)
                        return true;
        return false;
}

void demand_reloaded(struct demand *d)
{
        d->dirty = d->stale = true;
        for (size_t i = 0; i < d->n; i++) { /* the old configuration is about to be freed */
                d->models[i]->entry = NULL;
                d->models[i]->group = NULL;
        }
}

static int by_entry(const void *a, const void *b)
{
        const struct demand_model *x = *(struct demand_model *const *)a,
                                  *y = *(struct demand_model *const *)b;

        if (!x->entry || !y->entry)
                return (x->entry == NULL) - (y->entry == NULL);
        return x->entry < y->entry ? -1 : x->entry > y->entry;
}

static void find_entries(struct demand *d, const struct config *c)
{
        for (size_t i = 0; i < d->n; i++) {
                d->models[i]->entry = NULL;
                d->models[i]->group = NULL;
        }
        for (size_t i = 0; i < c->n_instances; i++) {
                struct demand_model *x =
                        is_ours(&c->instances[i]) ? demand_find(d, c->instances[i].name) : NULL;

                if (x)
                        x->entry = &c->instances[i];
        }
        for (size_t g = 0; g < c->n_groups; g++)
                for (char *const *m = c->groups[g].members; m && *m; m++) {
                        struct demand_model *x = demand_find(d, *m);

                        if (x && x->entry)
                                x->group = &c->groups[g];
                }
}

/* Entries and groups as the configuration has them now; what is gone from it and has no process either is forgotten. */
void demand_refresh(struct demand *d)
{
        size_t kept = 0;

        d->stale = false;
        d->last = NULL;
        find_entries(d, d->fleet->config);
        d->last = NULL;
        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];

                if (!x->entry && !has_members(d, x)) {
                        free(x);
                        continue;
                }
                if (x->entry && x->entry->replicas_max)
                        x->replicas =
                                MIN(MAX(x->replicas, MAX(x->entry->replicas, 1U)), x->entry->replicas_max);
                d->models[kept++] = x;
        }
        if (kept < d->n) {
                index_clear(&d->by_name);
                for (size_t i = 0; i < kept; i++)
                        (void)index_put(&d->by_name, d->models[i]->name, d->models[i]);
        }
        d->n = kept;
        if (kept)
                qsort(d->models, kept, sizeof *d->models, by_entry);
}

unsigned demand_replicas(const struct fleet *f, const struct config_instance *entry)
{
        unsigned least = MAX(entry->replicas, 1U);
        struct demand_model *x;

        if (!entry->replicas_max)
                return least;
        x = f->demand ? demand_find(f->demand, entry->name) : NULL;
        if (!x)
                return f->started ? least : replicas_left(f, entry);
        return MIN(MAX(x->replicas, least), entry->replicas_max);
}

/* --- how they are ---------------------------------------------------------------------------------------------------- */

void demand_count(struct demand *d)
{
        const struct fleet *f = d->fleet;

        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];

                x->members = x->up = x->loading = x->wanted_up = x->failed_members = x->held = x->holds = 0;
        }
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];
                struct demand_model *x = m->demand;
                bool wanted;

                if (!x)
                        continue;
                wanted = m->in.want_up && !m->removed;
                x->holds += wanted || m->process || instance_is_running(&m->in);
                if (m->removed)
                        continue;
                x->members++;
                x->wanted_up += wanted;
                x->up += wanted && instance_is_up(&m->in);
                x->loading += wanted && (m->in.state == INSTANCE_PENDING || instance_is_loading(&m->in));
                x->failed_members += m->in.state == INSTANCE_FAILED;
                x->held += m->held;
        }
}

bool demand_is_loaded(const struct demand_model *x)
{
        return x->wanted_up > 0;
}

bool demand_is_leaving(const struct demand_model *x)
{
        return x->wanted_up == 0 && x->holds > 0;
}

bool demand_is_together(const struct demand_model *a, const struct demand_model *b)
{
        return a == b || (a->group && a->group == b->group && !a->group->exclusive);
}

/* --- room ------------------------------------------------------------------------------------------------------------ */

/* What one instance takes of all its GPUs together; zeros: nobody knows. False: its file is being looked at. */
static bool instance_memory(const struct demand *d, const struct demand_model *x, struct memory_need *ret)
{
        /* What was loaded was loaded as it was then. */
        struct place_files files = place_files_of(d->fleet, x->holds ? USEC_INFINITY : DEMAND_WEIGH_FRESH);
        struct place_need n;

        if (place_find_need(x->entry, &files, d->fleet->places->learned, &n) < 0)
                return false;
        *ret = n.need;
        return true;
}

/* A context that may shrink takes what there is, as llama-server does, but never more than the budget of a GPU. */
static void add_instance(const struct fleet *f, uint64_t mask, const struct memory_need *need, uint64_t *ret)
{
        unsigned gpus = (unsigned)__builtin_popcountll(mask);
        uint64_t budget = f->config->demand.gpu_memory;

        for (size_t g = 0; g < f->n_gpus; g++)
                if (mask >> g & 1)
                        ret[g] += budget ? MAX(need->least / gpus, MIN(need->wants / gpus, budget))
                                         : need->wants / gpus;
}

bool demand_memory(const struct demand *d, const struct demand_model *x, uint64_t *ret)
{
        const struct fleet *f = d->fleet;
        bool holds = x->holds > 0;
        struct memory_need need;

        memset(ret, 0, f->n_gpus * sizeof *ret);
        if (!x->entry)
                return true;
        if (!instance_memory(d, x, &need))
                return false;
        for (size_t i = 0; need.wants && i < f->n_members; i++) {
                struct member *m = f->members[i];
                char **env = NULL, detail[128];

                if (m->demand != x)
                        continue;
                if (m->process || instance_is_running(&m->in)) {
                        add_instance(f, m->gpu_mask, &need, ret);
                } else if (m->removed || (holds && !m->in.want_up) || gpus_uses_none(m)) {
                        continue;
                } else if (m->entry->gpu_mode == CONFIG_GPU_AUTO && !m->entry->replicas_per_gpu) {
                        add_instance(f, place_guess(m, &need), &need, ret);
                } else if (fleet_pin(m, &env, detail, sizeof detail) == 0) {
                        add_instance(f, m->gpu_mask, &need, ret);
                        text_list_free(env);
                }
        }
        return true;
}
