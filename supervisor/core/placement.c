/* placement.c: least recently used first, never busy, never pinned, and never more than needed. */
#include "core/placement.h"

#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

struct sum {
        uint64_t instances, memory[PLACEMENT_GPUS];
};

struct plan {
        const struct placement_entry *list;
        size_t n, wanted;
        const struct placement_room *room;
        bool *evict;
        struct sum need; /* of what comes, alone */
};

static bool is_one_group(const struct placement_entry *a, const struct placement_entry *b)
{
        return a->group && a->group == b->group;
}

bool placement_comes_with(const struct placement_entry *list, size_t wanted, size_t i)
{
        return i == wanted || (list[wanted].together && is_one_group(&list[wanted], &list[i]));
}

static bool comes(const struct plan *p, size_t i)
{
        return placement_comes_with(p->list, p->wanted, i);
}

static void add(const struct plan *p, size_t i, struct sum *sum)
{
        const struct placement_entry *e = &p->list[i];

        sum->instances += e->instances;
        for (unsigned g = 0; e->memory && g < p->room->n_gpus; g++)
                sum->memory[g] = sum->memory[g] > UINT64_MAX - e->memory[g] ? UINT64_MAX
                                                                            : sum->memory[g] + e->memory[g];
}

/* What of the room that it needs would be exceeded: GPU g as g, the number of instances as PLACEMENT_GPUS; < 0: nothing. */
static int exceeded_by(const struct plan *p, const struct sum *sum)
{
        if (p->room->max_loaded && p->need.instances && sum->instances > p->room->max_loaded)
                return PLACEMENT_GPUS;
        for (unsigned g = 0; p->room->gpu_memory && g < p->room->n_gpus; g++)
                if (p->need.memory[g] && sum->memory[g] > p->room->gpu_memory)
                        return (int)g;
        return -1;
}

/* With all that holds room and does not go, and all that comes. */
static int exceeded(const struct plan *p, bool count_leaving)
{
        struct sum sum = {0};

        for (size_t i = 0; i < p->n; i++)
                if (comes(p, i) ||
                    (p->list[i].loaded && !p->evict[i] && (count_leaving || !p->list[i].leaving)))
                        add(p, i, &sum);
        return exceeded_by(p, &sum);
}

/* One that goes takes its group along, if that is together. */
static void send_away(const struct plan *p, size_t i, bool away)
{
        for (size_t k = 0; k < p->n; k++)
                if (p->list[k].loaded && !p->list[k].leaving && placement_comes_with(p->list, i, k))
                        p->evict[k] = away;
}

struct unit {
        bool busy, pinned, holds;
        usec_t used;
        size_t first; /* its first member stands for it */
};

/* What goes together with i, and whether that holds some of what is short. */
static struct unit unit_of(const struct plan *p, size_t i, int what)
{
        bool alone = !p->list[i].together || !p->list[i].group;
        struct unit u = {.first = SIZE_MAX};

        for (size_t k = alone ? i : 0; k < (alone ? i + 1 : p->n); k++) {
                const struct placement_entry *e = &p->list[k];

                if (!e->loaded || e->leaving || !placement_comes_with(p->list, i, k))
                        continue;
                u.first = MIN(u.first, k);
                u.busy |= e->busy;
                u.pinned |= e->pinned;
                u.used = MAX(u.used, e->used);
                u.holds |= what == PLACEMENT_GPUS || (what >= 0 && e->memory && e->memory[what] > 0);
        }
        return u;
}

/* It goes before the other: idle ones before busy ones, then the one that was not used for longer. */
static bool goes_before(const struct unit *a, const struct unit *b)
{
        if (a->busy != b->busy)
                return b->busy;
        return a->used != b->used ? a->used < b->used : a->first < b->first;
}

static size_t next_to_go(const struct plan *p, int what, bool busy_too)
{
        struct unit best = {.first = SIZE_MAX};

        for (size_t i = 0; i < p->n; i++) {
                struct unit u;

                if (!p->list[i].loaded || p->list[i].leaving || p->evict[i] || comes(p, i))
                        continue;
                u = unit_of(p, i, what);
                if (u.first != i || !u.holds || u.pinned || (u.busy && !busy_too))
                        continue;
                if (best.first == SIZE_MAX || goes_before(&u, &best))
                        best = u;
        }
        return best.first;
}

static bool must_go(const struct plan *p, size_t i)
{
        const struct placement_entry *w = &p->list[p->wanted], *e = &p->list[i];

        return i != p->wanted && e->loaded && !w->together && is_one_group(w, e);
}

/* Whoever turns out not to be needed stays: asked in the reverse order of going. */
static void spare(const struct plan *p)
{
        struct unit last = {.first = SIZE_MAX};

        for (;;) {
                struct unit best = {.first = SIZE_MAX};

                for (size_t i = 0; i < p->n; i++) {
                        struct unit u;

                        if (!p->evict[i] || must_go(p, i))
                                continue;
                        u = unit_of(p, i, -1);
                        if (u.first != i || (last.first != SIZE_MAX && !goes_before(&u, &last)))
                                continue;
                        if (best.first == SIZE_MAX || goes_before(&best, &u))
                                best = u;
                }
                if (best.first == SIZE_MAX)
                        return;
                last = best;
                send_away(p, best.first, false);
                if (exceeded(p, false) >= 0)
                        send_away(p, best.first, true);
        }
}

/* True when it fits once evict[] and what leaves already is gone. */
static bool make_room(const struct plan *p, bool busy_too)
{
        int what;

        memset(p->evict, 0, p->n * sizeof *p->evict);
        for (size_t i = 0; i < p->n; i++) {
                if (!must_go(p, i) || p->list[i].leaving)
                        continue;
                if (p->list[i].pinned || (p->list[i].busy && !busy_too))
                        return false;
                p->evict[i] = true;
        }
        while ((what = exceeded(p, false)) >= 0) {
                size_t i = next_to_go(p, what, busy_too);

                if (i == SIZE_MAX)
                        return false;
                send_away(p, i, true);
        }
        spare(p);
        return true;
}

/* --- words ---------------------------------------------------------------------------------------------------------- */

static void say_impossible(const struct plan *p, int what, char *why, size_t size)
{
        const char *name = p->list[p->wanted].name;
        const char *with = p->list[p->wanted].together ? " with its group" : "";
        char need[16], bound[16];

        if (what == PLACEMENT_GPUS)
                (void)snprintf(why, size, "%s%s is %llu instances, and on_demand.max_loaded is %u", name,
                               with, (unsigned long long)p->need.instances, p->room->max_loaded);
        else
                (void)snprintf(why, size, "%s%s needs %s of GPU %d, and on_demand.gpu_memory is %s", name,
                               with, text_size(p->need.memory[what], need, sizeof need), what,
                               text_size(p->room->gpu_memory, bound, sizeof bound));
}

/* "no room for B: A, C are busy" */
static void say_in_the_way(const struct plan *p, bool busy, char *why, size_t size)
{
        int len = snprintf(why, size, "no room for %s: ", p->list[p->wanted].name);
        size_t at = (size_t)MAX(len, 0), named = 0;

        for (size_t i = 0; i < p->n && at < size; i++) {
                const struct placement_entry *e = &p->list[i];

                if (comes(p, i) || !e->loaded || e->leaving || !(busy ? e->busy && p->evict[i] : e->pinned))
                        continue;
                if (++named > 3) {
                        (void)snprintf(why + at, size - at, ", …");
                        return;
                }
                len = snprintf(why + at, size - at, "%s%s is %s", named > 1 ? ", " : "", e->name,
                               busy ? "busy" : "pinned");
                at += (size_t)MAX(len, 0);
        }
}

static bool waits_for_leaving(const struct plan *p)
{
        for (size_t i = 0; i < p->n; i++)
                if (p->list[i].leaving && (comes(p, i) || must_go(p, i)))
                        return true;
        return exceeded(p, true) >= 0;
}

enum placement_verdict placement_decide(const struct placement_entry *list, size_t n, size_t wanted,
                                        const struct placement_room *room, bool *evict, char *why,
                                        size_t size)
{
        struct plan p = {.list = list, .n = n, .wanted = wanted, .room = room, .evict = evict};
        int what;

        why[0] = '\0';
        memset(evict, 0, n * sizeof *evict);
        for (size_t i = 0; i < n; i++)
                if (comes(&p, i))
                        add(&p, i, &p.need);
        what = exceeded_by(&p, &p.need);
        if (what >= 0) {
                say_impossible(&p, what, why, size);
                return PLACEMENT_IMPOSSIBLE;
        }
        if (make_room(&p, false)) {
                for (size_t i = 0; i < n; i++)
                        if (evict[i])
                                return PLACEMENT_EVICT;
                if (!waits_for_leaving(&p))
                        return PLACEMENT_LOAD;
                (void)snprintf(why, size, "%s waits for the room of what is being unloaded",
                               list[wanted].name);
                return PLACEMENT_LEAVING;
        }
        if (make_room(&p, true)) {
                say_in_the_way(&p, true, why, size);
                return PLACEMENT_WAIT;
        }
        memset(evict, 0, n * sizeof *evict);
        say_in_the_way(&p, false, why, size);
        return PLACEMENT_PINNED;
}
