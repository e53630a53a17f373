/* scale.h: how many replicas an entry with {"min","max"} should have now. Pure.
 *
 * One more when somebody has waited longer than `wait`, all there are are up, and the last change is older than `cooldown`. One less when for
 * `idle` one replica's worth of slots was free without a break, and the last change is older than `cooldown`. It is counted in slots
 * and not by looking for a replica that nobody used, since a balancer that spreads well uses all of them. */
#ifndef LSV_CORE_SCALE_H
#define LSV_CORE_SCALE_H

#include "base/time.h"

struct scale_policy {
        unsigned min, max;
        usec_t wait, idle, cooldown;
};

struct scale_facts {
        unsigned replicas; /* that are wanted now */
        unsigned up;       /* of them, that may be given work */
        unsigned leased;   /* slots in use, of all of them */
        unsigned slots;    /* of one replica; 0: unknown, counts as 1 */
        usec_t waited;     /* how long the one waits that waits for longest; 0: nobody does */
};

/* Zeroed at first. */
struct scale {
        usec_t spare_since; /* 0: all are needed */
        usec_t changed_at;  /* 0: never */
};

/* +1, 0 or -1; a change counts as done. *ret_due: when to look again although nothing happens, USEC_INFINITY: no need. */
int scale_step(struct scale *s, const struct scale_policy *policy, const struct scale_facts *facts,
               usec_t now, usec_t *ret_due);

#endif
