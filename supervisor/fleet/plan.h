/* plan.h: what a new configuration means for each instance; apply.c makes and does it, reload.c tells it. */
#ifndef LSV_FLEET_PLAN_H
#define LSV_FLEET_PLAN_H

#include "fleet/private.h"

enum plan_kind { PLAN_STOP, PLAN_KEEP, PLAN_UPDATE, PLAN_RESTART };

struct plan_start {
        const struct config_instance
                *entry; /* of the new configuration; NULL: it asks for no such instance */
        unsigned replica, replicas;
};

struct plan {
        struct plan_step {
                enum plan_kind kind;
                struct plan_start to;
        } * steps; /* parallel to f->members */
        size_t n;
        struct plan_start *starts; /* those that are not there yet */
        size_t n_starts;
};

/* Linear in members and entries. Good for this turn only. 0, -ENOMEM. */
int plan_make(const struct fleet *f, const struct config *c, struct plan *ret);
void plan_finish(struct plan *p);
/* Takes c over. */
void plan_apply(struct fleet *f, struct config *c, const struct plan *p, usec_t now);

#endif
