/* demand_scale.c: entries with a range of replicas: one more, one less, and what is beyond the range goes when it has no work. */
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "fleet/demand_private.h"

static bool has_room_for_one(struct demand *d, struct demand_model *x, usec_t now)
{
        const struct fleet *f = d->fleet;
        const struct config_demand *c = &f->config->demand;
        uint64_t takes[FLEET_GPUS], sum;
        unsigned holds = 0;

        (void)now;
        if (!x->entry->on_demand)
                return true;
        for (size_t i = 0; i < d->n; i++)
                if (d->models[i]->entry && d->models[i]->entry->on_demand)
                        holds += d->models[i]->holds;
        if (c->max_loaded && holds + 1 > c->max_loaded)
                return false;
        if (!c->gpu_memory)
                return true;
        for (size_t g = 0; g < f->n_gpus; g++) {
                sum = 0;
                for (size_t i = 0; i < d->n; i++) {
                        if (!d->models[i]->holds)
                                continue;
                        demand_memory(d, d->models[i], takes);
                        sum += takes[g];
                        if (d->models[i] == x)
                                sum += takes[g] / x->holds;
                }
                if (sum > c->gpu_memory)
                        return false;
        }
        return true;
}

static void scale_out(struct demand *d, struct demand_model *x, const struct scale_facts *facts, usec_t now)
{
        struct fleet *f = d->fleet;
        size_t before = f->n_members;
        char span[TIME_SPAN_MAX];

        if (!has_room_for_one(d, x, now)) {
                log_info(x->name, "no room for one more replica");
                return;
        }
        x->replicas++;
        if (fleet_make_members(f, f->config) < 0) {
                log_err(x->name, "out of memory: no replica could be added");
                x->replicas--;
                return;
        }
        x->figures.scaled_out++;
        demand_tell(d, x, "scale_out", "scaled out to %u instances: a request waited for %s", x->replicas,
                    time_span(facts->waited, span, sizeof span));
        for (size_t i = before; i < f->n_members; i++)
                if (f->members[i]->demand == x)
                        demand_start_member(f->members[i], now);
        demand_count(d);
}

static void scale_in(struct demand *d, struct demand_model *x)
{
        char span[TIME_SPAN_MAX];

        x->replicas--;
        x->figures.scaled_in++;
        demand_tell(d, x, "scale_in", "scaled in to %u instances: the others were enough for %s", x->replicas,
                    time_span(x->entry->scale.idle, span, sizeof span));
}

/* What is beyond the range gets no new work, and goes when it has none. */
static void retire(struct demand *d, struct demand_model *x, usec_t now)
{
        for (size_t i = 0; i < d->fleet->n_members; i++) {
                struct member *m = d->fleet->members[i];

                if (m->demand != x || m->removed || m->replica < x->replicas)
                        continue;
                if (!m->yields) {
                        m->yields = true;
                        seat_changed(m->seat);
                }
                if (seat_held(m->seat) == 0)
                        (void)fleet_remove_member(m, now);
        }
}

void demand_scale(struct demand *d, struct demand_model *x, usec_t now, usec_t *due)
{
        const struct config_instance *e = x->entry;
        struct scale_policy policy = {.min = MAX(e->replicas, 1U),
                                      .max = e->replicas_max,
                                      .wait = e->scale.wait,
                                      .idle = e->scale.idle,
                                      .cooldown = e->scale.cooldown};
        struct scale_facts facts = {.replicas = x->replicas, .up = x->up, .leased = MAX(x->peak, x->leases)};
        struct dispatch_figures work;
        usec_t next;
        int by;

        if (dispatch_figures(d->fleet, x->name, &work) == 0) {
                facts.slots = x->up ? work.slots / x->up : 0;
                facts.waited = work.oldest ? usec_sub(now, work.oldest) + 1 : 0;
        }
        x->peak = x->leases;
        if (e->on_demand && !demand_is_loaded(x)) {
                retire(d, x, now);
                return;
        }
        by = scale_step(&x->scale, &policy, &facts, now, &next);
        if (by > 0)
                scale_out(d, x, &facts, now);
        else if (by < 0)
                scale_in(d, x);
        retire(d, x, now);
        if (facts.waited || facts.leased || x->replicas > policy.min)
                next = MIN(next, usec_add(now, SCALE_INTERVAL));
        *due = MIN(*due, next);
}
