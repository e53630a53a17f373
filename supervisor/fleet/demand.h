/* demand.h: models that come when they are asked for and go when nobody does: loading, unloading, eviction, groups, scaling.
 *
 * It gives orders to members like a person would (wish up, wish down) and decides by core/placement and core/scale, which are pure.
 * Being asked for is a ticket in the queue; a scrape, a probe or a look at /api is none. A model is busy while a ticket of it waits or
 * holds a lease: then it is never unloaded. */
#ifndef LSV_FLEET_DEMAND_H
#define LSV_FLEET_DEMAND_H

#include "fleet/fleet.h"

struct demand;

/* dispatch → demand: a ticket waits for this entry and no instance of it is up. Idempotent; 0: it will come (or is on its way);
 * -ENOSPC: nothing may be evicted for it now (it is asked again when something becomes idle); -EPERM: not an on-demand entry. */
int demand_wake(struct fleet *f, const struct config_instance *entry);
/* dispatch → demand: a lease began; the last one ended (keep_alive as in ticket_done). */
void demand_used(struct fleet *f, const struct config_instance *entry);
void demand_idle(struct fleet *f, const struct config_instance *entry, usec_t keep_alive);

/* API and CLI: load (as by a request, but asked by a person) and unload (refused while busy unless force). 0, -ENOENT, -EBUSY, -ENOSPC,
 * -EPERM (not on demand); *ret_message is malloc'd plain words in every case. */
int demand_load(struct fleet *f, const char *model, char **ret_message);
int demand_unload(struct fleet *f, const char *model, bool force, char **ret_message);

/* For GET /api/v1/models: when it will be unloaded (realtime, 0: never or not loaded). */
usec_t demand_until(struct fleet *f, const struct config_instance *entry);

#endif
