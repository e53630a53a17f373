/* demand_place.c: who wants to be loaded, in the order of asking, and who makes room or yields for it. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "fleet/demand_private.h"

#define YIELD_INTERVAL (500 * USEC_PER_MSEC)

struct look {
        struct demand *d;
        usec_t now, due;
        struct placement_entry *list; /* parallel to d->models */
        bool *evict, *unknown;        /* unknown: what it takes is being looked at */
        uint64_t *memory;
        const struct demand_model *judged; /* asked about, though nobody wants it yet */
        struct placement_room room;
};

static void fill(struct look *l, size_t i)
{
        struct demand *d = l->d;
        const struct demand_model *x = d->models[i];
        size_t n_gpus = l->room.n_gpus;
        bool ours = x->entry && x->entry->on_demand;

        l->list[i] = (struct placement_entry){.name = x->name};
        if (!ours && !(x->holds && !x->entry))
                return; /* it only scales */
        if (x->group) {
                l->list[i].group = (unsigned)(x->group - d->fleet->config->groups) + 1;
                l->list[i].together = !x->group->exclusive;
        }
        l->list[i].loaded = x->holds > 0;
        l->list[i].leaving = demand_is_leaving(x) || !x->entry;
        l->list[i].busy = ours && l->list[i].loaded && !l->list[i].leaving && demand_is_busy(d, x);
        l->list[i].pinned = ours && x->entry->pinned;
        l->list[i].used = x->used_at;
        l->list[i].instances = x->holds ? x->holds : x->replicas;
        /* Nobody looks at the files of those that neither are there nor may come now. */
        l->unknown[i] = false;
        if (l->memory && (x->holds || x->wanted || x == l->judged || l->list[i].together)) {
                l->list[i].memory = l->memory + i * n_gpus;
                l->unknown[i] = !demand_memory(d, x, l->memory + i * n_gpus);
        }
}

static int open_look(struct look *l, struct demand *d, const struct demand_model *judged, usec_t now)
{
        const struct fleet *f = d->fleet;
        const struct config_demand *c = &f->config->demand;

        *l = (struct look){.d = d,
                           .judged = judged,
                           .now = now,
                           .due = USEC_INFINITY,
                           .room = {.max_loaded = c->max_loaded,
                                    .gpu_memory = c->gpu_memory,
                                    .n_gpus = (unsigned)f->n_gpus}};
        l->list = calloc(d->n, sizeof *l->list);
        l->evict = calloc(d->n, sizeof *l->evict);
        l->unknown = calloc(d->n, sizeof *l->unknown);
        if (c->gpu_memory && f->n_gpus)
                l->memory = calloc(d->n * f->n_gpus, sizeof *l->memory);
        else if (c->gpu_memory && !d->told_no_gpu) {
                d->told_no_gpu = true;
                log_warn(NULL, "on_demand.gpu_memory has no effect: no GPU is seen");
        }
        if (!l->list || !l->evict || !l->unknown || (c->gpu_memory && f->n_gpus && !l->memory))
                return -ENOMEM;
        for (size_t i = 0; i < d->n; i++)
                fill(l, i);
        return 0;
}

static void close_look(struct look *l)
{
        free(l->list);
        free(l->evict);
        free(l->unknown);
        free(l->memory);
}

/* Those in the way are told to yield once it was patient for long enough, and once they have served for long enough. */
static void ask_to_yield(struct look *l, const struct demand_model *x)
{
        for (size_t i = 0; i < l->d->n; i++) {
                struct demand_model *y = l->d->models[i];
                usec_t at;

                if (!l->evict[i] || !l->list[i].busy || !y->ready_at)
                        continue;
                at = usec_add(y->ready_at, MAX(DEMAND_FAIR, y->load_took));
                at = MAX(at, usec_add(x->wanted_since, DEMAND_FAIR));
                if (l->now >= at)
                        y->yields_next = true;
                else
                        l->due = MIN(l->due, at);
        }
}

static bool all_rested(struct look *l)
{
        usec_t at = 0;

        for (size_t i = 0; i < l->d->n; i++)
                if (l->evict[i])
                        at = MAX(at, demand_rested(l->d->models[i]));
        if (l->now < at)
                l->due = MIN(l->due, at);
        return l->now >= at;
}

static void evict_for(struct look *l, struct demand_model *x)
{
        char why[CONFIG_NAME_MAX + 32];

        (void)snprintf(why, sizeof why, "evicted for %s", x->name);
        for (size_t i = 0; i < l->d->n; i++)
                if (l->evict[i])
                        demand_drop(l->d, l->d->models[i], UNLOAD_EVICTED, why, l->now);
        for (size_t i = 0; i < l->d->n; i++)
                fill(l, i);
}

static void load_all(struct look *l, size_t wanted)
{
        struct demand *d = l->d;

        for (size_t i = 0; i < d->n; i++)
                if (placement_comes_with(l->list, wanted, i) && !demand_is_loaded(d->models[i])) {
                        demand_begin(d, d->models[i], l->now);
                        fill(l, i);
                }
}

static bool is_weighed(const struct look *l, size_t wanted)
{
        for (size_t i = 0; i < l->d->n; i++)
                if (l->unknown[i] && (l->list[i].loaded || placement_comes_with(l->list, wanted, i)))
                        return false;
        return true;
}

/* Nobody behind it takes the room that it waits for. */
static void reserve(struct look *l, size_t i)
{
        for (size_t k = 0; k < l->d->n; k++)
                if (placement_comes_with(l->list, i, k) && !l->list[k].leaving)
                        l->list[k].loaded = l->list[k].busy = true;
}

static void try_to_place(struct look *l, size_t i)
{
        struct demand_model *x = l->d->models[i];
        enum placement_verdict v;

        if (!is_weighed(l, i)) {
                (void)snprintf(x->why, sizeof x->why, "its model file is being looked at");
                reserve(l, i);
                return;
        }
        v = placement_decide(l->list, l->d->n, i, &l->room, l->evict, x->why, sizeof x->why);
        if (x->preload && v != PLACEMENT_LOAD) {
                log_info(x->name, "is not preloaded: %s",
                         x->why[0] ? x->why : "what an earlier supervisor left loaded has its room");
                demand_forget_wish(x);
                return;
        }
        switch (v) {
        case PLACEMENT_LOAD:
                if (demand_memory_is_back(l->d, x, l->now)) {
                        load_all(l, i);
                        return;
                }
                (void)snprintf(x->why, sizeof x->why, "the memory of the last one is not free yet");
                l->due = MIN(l->due, l->now + FREEING_INTERVAL);
                break;
        case PLACEMENT_EVICT:
                if (all_rested(l))
                        evict_for(l, x);
                break;
        case PLACEMENT_WAIT:
                ask_to_yield(l, x);
                break;
        case PLACEMENT_LEAVING:
                break;
        case PLACEMENT_PINNED:
        case PLACEMENT_IMPOSSIBLE:
                if (x->asked)
                        log_warn(x->name, "cannot be loaded: %s", x->why);
                demand_forget_wish(x);
                dispatch_wish_dropped(l->d->fleet->dispatch, x->name);
                return;
        }
        reserve(l, i);
}

/* The next in the order of asking, after (since, place); SIZE_MAX: none. */
static size_t next_want(const struct demand *d, usec_t since, size_t place)
{
        size_t best = SIZE_MAX;

        for (size_t i = 0; i < d->n; i++) {
                const struct demand_model *x = d->models[i];

                if (!x->wanted || demand_is_loaded(x) || !x->entry ||
                    (place != SIZE_MAX &&
                     (x->wanted_since < since || (x->wanted_since == since && i <= place))))
                        continue;
                if (best == SIZE_MAX || x->wanted_since < d->models[best]->wanted_since)
                        best = i;
        }
        return best;
}

static void drop_old_wishes(struct demand *d, usec_t now, usec_t *due)
{
        usec_t patience = d->fleet->config->gateway.queue_timeout;

        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];

                if (!x->wanted || demand_is_loaded(x))
                        continue;
                if (!x->asked) {
                        if (demand_waiting(d, x) == 0)
                                demand_forget_wish(x);
                } else if (now >= usec_add(x->wanted_since, patience)) {
                        demand_tell(d, x, "load_given_up", "not loaded: %s", x->why[0] ? x->why : "no room");
                        demand_forget_wish(x);
                } else {
                        *due = MIN(*due, usec_add(x->wanted_since, patience));
                }
        }
}

static void set_yields(struct demand *d, struct demand_model *x)
{
        bool yields = x->yields_next && x->up > 0;

        if (yields == x->yields)
                return;
        log_info(x->name, yields ? "gets no new work: it is another model's turn" : "gets work again");
        x->yields = yields;
        for (size_t i = 0; i < d->fleet->n_members; i++) {
                struct member *m = d->fleet->members[i];

                if (m->demand == x && m->replica < x->replicas && m->yields != yields) {
                        m->yields = yields;
                        seat_changed(m->seat);
                }
        }
}

void demand_place(struct demand *d, usec_t now, usec_t *due)
{
        usec_t since = 0;
        size_t i = SIZE_MAX;
        struct look l;

        drop_old_wishes(d, now, due);
        for (size_t k = 0; k < d->n; k++)
                d->models[k]->yields_next = false;
        if (next_want(d, 0, SIZE_MAX) != SIZE_MAX) {
                if (open_look(&l, d, NULL, now) == 0)
                        while ((i = next_want(d, since, i)) != SIZE_MAX) {
                                since = d->models[i]->wanted_since;
                                try_to_place(&l, i);
                        }
                else
                        l.due = usec_add(now, USEC_PER_SEC); /* out of memory: in a moment */
                *due = MIN(*due, l.due);
                close_look(&l);
        }
        for (size_t k = 0; k < d->n; k++) {
                set_yields(d, d->models[k]);
                /* Who it yields to may leave the queue, of which nobody tells. */
                if (d->models[k]->yields)
                        *due = MIN(*due, now + YIELD_INTERVAL);
        }
}

/* 0, or why it cannot be loaded now and not by waiting either. */
int demand_judge(struct demand *d, struct demand_model *x, usec_t now)
{
        enum placement_verdict v = PLACEMENT_LOAD;
        struct look l;
        int r;

        demand_count(d);
        if (demand_is_loaded(x))
                return 0;
        r = open_look(&l, d, x, now);
        for (size_t i = 0; r == 0 && i < d->n; i++)
                if (d->models[i] == x)
                        v = placement_decide(l.list, d->n, i, &l.room, l.evict, x->why, sizeof x->why);
        close_look(&l);
        if (r < 0)
                return r;
        return v == PLACEMENT_PINNED || v == PLACEMENT_IMPOSSIBLE ? -ENOSPC : 0;
}
