/* demand.h: models that come when they are asked for and go when nobody does: loading, unloading, eviction, groups, scaling.
 *
 * It gives orders to members like a person would (wish up, wish down) and decides by core/placement and core/scale, which are pure.
 * Being asked for is a ticket in the queue; a scrape, a probe or a look at /api is none. A model is busy while a ticket of it waits or
 * holds a lease: then it is never unloaded.
 *
 * Fairness. Who wants room gets it in the order of asking; nobody takes what an earlier one waits for. A model in the way that is idle goes
 * once it has rested for a tenth of its load time (at most 2 s), so that a client who asks again and again without a pause does not
 * pay a load each time. One that is busy without an end yields to who has waited for DEMAND_FAIR: once it has served for that long (or as
 * long as it took to load, if that is more), it gets no new work, finishes what it has, and goes. What waits for it waits its turn.
 *
 * A load that fails is told to all who wait at once. The next try comes after the back-off, if somebody asks by then; when the tries are
 * used up, the model is in `error` until a person loads or starts it, or its settings change. */
#ifndef LSV_FLEET_DEMAND_H
#define LSV_FLEET_DEMAND_H

#include "fleet/fleet.h"

#define DEMAND_FAIR (5 * USEC_PER_SEC)

struct demand;

/* dispatch → demand: a ticket waits for this entry and no instance of it is up. Idempotent; 0: it will come (or is on its way, or waits for
 * room that busy ones hold); -ENOSPC: it does not fit whatever goes, or only pinned ones are in the way; -EIO: its tries are used up;
 * -EHOSTDOWN: a person stopped it; -EPERM: not an on-demand entry. */
int demand_wake(struct fleet *f, const struct config_instance *entry);
/* Why the last demand_wake of it said no, or what it waits for; plain words, NULL: nothing to say. Valid until the end of the turn. */
const char *demand_words(struct fleet *f, const struct config_instance *entry);
/* dispatch → demand: a lease began; one ended (keep_alive as in ticket_done). Each one, but for those that only look (no_wake). */
void demand_used(struct fleet *f, const char *entry);
void demand_idle(struct fleet *f, const char *entry, usec_t keep_alive);

/* API and CLI, by the entry's name or an alias: load (as by a request, but asked by a person: also after its tries were used up or
 * somebody stopped it) and unload (refused while busy unless force). 0, -ENOENT, -EBUSY, -ENOSPC, -EPERM (not on demand), -ESHUTDOWN;
 * *ret_message is malloc'd plain words in every case. */
int demand_load(struct fleet *f, const char *model, char **ret_message);
int demand_unload(struct fleet *f, const char *model, bool force, char **ret_message);

/* For GET /api/v1/models: when it will be unloaded (realtime, 0: never, not known while it is busy, or not loaded). */
usec_t demand_until(struct fleet *f, const struct config_instance *entry);

/* --- figures ------------------------------------------------------------------------------------------------------ */

enum demand_reason { UNLOAD_IDLE, UNLOAD_EVICTED, UNLOAD_ASKED, UNLOAD_REASONS };
const char *demand_reason_name(enum demand_reason r); /* "idle" "evicted" "asked" */

enum { DEMAND_WAIT_BUCKETS = 10 };
extern const double demand_wait_bounds[DEMAND_WAIT_BUCKETS]; /* seconds */
struct demand_figures {
        const char *model;
        bool on_demand, scales; /* one of them, or both */
        bool loaded;
        unsigned replicas; /* that are wanted now */
        uint64_t loads, load_failures, unloads[UNLOAD_REASONS], scaled_out, scaled_in;
        uint64_t waits[DEMAND_WAIT_BUCKETS +
                       1]; /* from the wish to ready; not cumulative, the last is over all bounds */
        double wait_sum;
};
/* Of the i-th entry that is on demand or scales, in the order of the configuration. -ENOENT beyond the last. */
int demand_figures(struct fleet *f, size_t i, struct demand_figures *ret);

#endif
