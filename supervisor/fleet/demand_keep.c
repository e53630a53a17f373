/* demand_keep.c: how a model is used, into the records of its processes, so that the next daemon unloads it when this one would have. */
#include "base/macros.h"
#include "core/keep_alive.h"
#include "fleet/demand_private.h"

void demand_put_use(const struct member *m, struct json_writer *w)
{
        const struct demand_model *x = m->demand;
        struct loop *loop = m->fleet->loop;

        if (!x || !x->entry || !x->entry->on_demand)
                return;
        json_bool(w, "inUse", x->leases > 0);
        if (x->leases == 0 && x->used_at)
                json_uint(w, "usedAt", usec_sub(loop_realtime(loop), usec_sub(loop_now(loop), x->used_at)));
        if (x->keep_alive == KEEP_ALIVE_FOREVER)
                json_int(w, "keepAlive", -1);
        else if (x->keep_alive != KEEP_ALIVE_NONE)
                json_uint(w, "keepAlive", x->keep_alive);
}

void demand_take_use(struct member *m, const struct json_value *record)
{
        usec_t now = loop_now(m->fleet->loop), realtime = loop_realtime(m->fleet->loop), used;
        int64_t at = json_get_int(record, "usedAt", 0), keep = json_get_int(record, "keepAlive", -2);
        struct demand_model *x = m->demand;

        if (!x || !x->entry || !x->entry->on_demand)
                return;
        /* A clock that was set back meanwhile makes it younger, never older than the process. */
        used = at > 0 && !json_get_bool(record, "inUse", false)
                       ? MAX(usec_sub(now, usec_sub(realtime, (usec_t)at)), m->spawned_at)
                       : now;
        x->restored = true;
        if (used < x->used_at)
                return; /* another replica was used later */
        x->used_at = used;
        x->keep_alive = keep == -1 ? KEEP_ALIVE_FOREVER : keep < 0 ? KEEP_ALIVE_NONE : (usec_t)keep;
}

void demand_keep_use(struct demand *d, usec_t now, usec_t *due)
{
        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];
                usec_t at = x->leases > 0 ? USEC_INFINITY : x->used_at;

                if (!x->entry || !x->entry->on_demand || !x->ready_at || at == x->kept_at)
                        continue;
                if (!x->leases && now < usec_add(x->used_at, DEMAND_KEEP_AFTER)) {
                        *due = MIN(*due, usec_add(x->used_at, DEMAND_KEEP_AFTER));
                        continue;
                }
                x->kept_at = at;
                for (size_t k = 0; k < d->fleet->n_members; k++)
                        if (d->fleet->members[k]->demand == x && d->fleet->members[k]->process)
                                member_save_record(d->fleet->members[k]);
        }
}
