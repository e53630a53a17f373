/* demand.c: who wants to be loaded, who makes room for it, who was not used for long enough, and how many replicas there are. */
#include "fleet/demand.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "core/keep_alive.h"
#include "fleet/demand_private.h"
#include "fleet/place_private.h"

/* An idle model that somebody else needs the room of rests so long first: a tenth of its load, at most 2 s. */
#define REST_MAX (2 * USEC_PER_SEC)
const double demand_wait_bounds[DEMAND_WAIT_BUCKETS] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

static const char *const reasons[UNLOAD_REASONS] = {
        [UNLOAD_IDLE] = "idle", [UNLOAD_EVICTED] = "evicted", [UNLOAD_ASKED] = "asked"};

const char *demand_reason_name(enum demand_reason r)
{
        return reasons[r];
}

void demand_look_again(struct demand *d)
{
        d->dirty = true;
        loop_wake(d->fleet->loop);
}

static void on_timer(void *owner, usec_t now)
{
        (void)now;
        demand_look_again(owner);
}

/* The timer is only ever moved forward between two looks. */
static void look_at(struct demand *d, usec_t at)
{
        if (at < timer_due(d->timer))
                timer_set(d->timer, at);
}

/* --- questions -------------------------------------------------------------------------------------------------------- */

static struct demand_model *model_of(const struct fleet *f, const struct config_instance *entry)
{
        return entry ? demand_find(f->demand, entry->name) : NULL;
}

unsigned demand_waiting(const struct demand *d, const struct demand_model *x)
{
        struct dispatch_figures figures;

        return dispatch_figures(d->fleet, x->name, &figures) == 0 ? figures.waiting + figures.shared_waiting
                                                                  : 0;
}

bool demand_is_used(const struct demand *d, const struct demand_model *x)
{
        return x->leases > 0 || demand_waiting(d, x) > 0;
}

/* May not go for another one now. */
bool demand_is_busy(const struct demand *d, const struct demand_model *x)
{
        if (x->yields)
                return x->leases > 0;
        return demand_is_used(d, x) || (x->asked && !x->ready_at);
}

usec_t demand_rested(const struct demand_model *x)
{
        if (x->yields || !x->ready_at)
                return 0;
        return usec_add(x->used_at, MIN(x->load_took / 10, REST_MAX));
}

/* Alone, without the others of its group. USEC_INFINITY: never. */
static usec_t until(const struct demand *d, const struct demand_model *x)
{
        usec_t keep = x->keep_alive;

        if (!x->ready_at || demand_is_used(d, x))
                return USEC_INFINITY;
        if (keep == KEEP_ALIVE_NONE)
                keep = x->entry->idle_timeout ? x->entry->idle_timeout : KEEP_ALIVE_FOREVER;
        return keep == KEEP_ALIVE_FOREVER ? USEC_INFINITY : usec_add(x->used_at, keep);
}

/* With those that it goes together with. */
static usec_t until_of_all(const struct demand *d, const struct demand_model *x)
{
        usec_t last = 0;

        if (!x->group || x->group->exclusive)
                return until(d, x);
        for (size_t i = 0; i < d->n; i++)
                if (demand_is_together(d->models[i], x) && d->models[i]->entry &&
                    demand_is_loaded(d->models[i]))
                        last = MAX(last, until(d, d->models[i]));
        return last;
}

usec_t demand_until_of(const struct fleet *f, const struct demand_model *x)
{
        usec_t at, now = loop_now(f->loop);

        if (!x || !x->entry || !x->entry->on_demand || !x->ready_at)
                return 0;
        at = until_of_all(f->demand, x);
        return at == USEC_INFINITY ? 0 : usec_add(loop_realtime(f->loop), usec_sub(at, now));
}

usec_t demand_until(struct fleet *f, const struct config_instance *entry)
{
        return demand_until_of(f, model_of(f, entry));
}

bool demand_wants_again(const struct member *m)
{
        const struct demand_model *x = m->demand;

        if (!x || !x->entry || !x->entry->on_demand)
                return true;
        return demand_is_used(m->fleet->demand, x) || x->asked || x->up > 0 || x->entry->pinned ||
               x->keep_alive == KEEP_ALIVE_FOREVER;
}

/* --- telling ------------------------------------------------------------------------------------------------------------ */

static struct member *first_member(const struct demand_model *x, const struct demand *d)
{
        for (size_t i = 0; i < d->fleet->n_members; i++)
                if (d->fleet->members[i]->demand == x)
                        return d->fleet->members[i];
        return NULL;
}

void PRINTF_LIKE(4, 5)
        demand_tell(struct demand *d, const struct demand_model *x, const char *kind, const char *fmt, ...)
{
        const struct member *m = first_member(x, d);
        struct history_event e = {.kind = kind, .model = x->name};
        char text[PLACEMENT_WHY_MAX + 64];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        e.instance = m ? m->name : NULL;
        e.text = text;
        history_tell(d->fleet->history, LOG_INFO, &e);
}

/* --- loading and unloading ------------------------------------------------------------------------------------------------ */

void demand_forgive(struct member *m)
{
        m->in.retries = 0;
        member_set_error(m, NULL);
}

void demand_forget_wish(struct demand_model *x)
{
        x->wanted = x->asked = x->preload = false;
        x->wanted_since = 0;
        x->why[0] = '\0';
}

/* The last process on the GPUs that it needs has given its memory back. */
bool demand_memory_is_back(struct demand *d, const struct demand_model *x, usec_t now)
{
        const struct fleet *f = d->fleet;
        uint64_t takes[FLEET_GPUS], mask = 0;

        demand_memory(d, x, takes);
        for (size_t g = 0; g < f->n_gpus; g++)
                if (takes[g])
                        mask |= UINT64_C(1) << g;
        return place_is_back(d->fleet, mask, now);
}

/* Down on purpose: what runs is drained and stopped, what only waits for its next try rests. */
static void rest(struct member *m, usec_t now)
{
        m->in.want_up = m->in.want_again = m->roll = false;
        m->in.rests = !m->held && !m->removed;
        if (m->in.state == INSTANCE_READY)
                demand_forgive(m); /* it was well until it was unloaded */
        if (instance_is_running(&m->in))
                member_stop(m, now);
        else if (m->in.rests)
                member_step(m, EV_REST, now);
        member_changed(m);
        member_touch(m);
}

void demand_drop(struct demand *d, struct demand_model *x, enum demand_reason reason, const char *why,
                 usec_t now)
{
        x->figures.unloads[reason]++;
        demand_tell(d, x, "unload", "unloaded: %s", why);
        for (size_t i = 0; i < d->fleet->n_members; i++) {
                struct member *m = d->fleet->members[i];

                if (m->demand == x && !m->removed && m->in.want_up)
                        rest(m, now);
        }
        x->ready_at = x->load_at = 0;
        x->keep_alive = KEEP_ALIVE_NONE;
        if (x->entry->replicas_max)
                x->replicas = MAX(x->entry->replicas, 1U);
        demand_count(d);
}

void demand_drop_together(struct demand *d, struct demand_model *x, enum demand_reason reason,
                          const char *why, usec_t now)
{
        for (size_t i = 0; i < d->n; i++)
                if (demand_is_together(d->models[i], x) && d->models[i]->entry &&
                    demand_is_loaded(d->models[i]))
                        demand_drop(d, d->models[i], reason, why, now);
}

/* Its place in the range is wanted, and it is not on its way down. */
static bool may_load(const struct demand_model *x, const struct member *m)
{
        return m->demand == x && !m->removed && !m->held && m->replica < x->replicas &&
               (m->in.state == INSTANCE_IDLE || m->in.state == INSTANCE_OFF);
}

void demand_start_member(struct member *m, usec_t now)
{
        m->in.want_up = true;
        m->roll = m->yields = false;
        m->in.rests = true;
        member_step(m, EV_START, now);
        member_changed(m);
        member_touch(m);
}

void demand_begin(struct demand *d, struct demand_model *x, usec_t now)
{
        bool any = false;

        for (size_t i = 0; i < d->fleet->n_members; i++)
                if (may_load(x, d->fleet->members[i])) {
                        demand_start_member(d->fleet->members[i], now);
                        any = true;
                }
        if (!any) {
                demand_forget_wish(x);
                return;
        }
        demand_tell(d, x, "load", "loading: %s",
                    x->preload  ? "on_demand.preload"
                    : x->asked  ? "a person asked for it"
                    : x->wanted ? "a request asked for it"
                                : "it comes with its group");
        if (!x->wanted_since)
                x->wanted_since = now;
        x->wanted = x->yields = x->served = false;
        x->why[0] = '\0';
        x->load_at = now;
        x->restored = false;
        x->kept_at = 0;
        x->ready_at = 0;
        x->keep_alive = KEEP_ALIVE_NONE;
        demand_count(d);
}

/* --- what happened ------------------------------------------------------------------------------------------------------- */

void demand_notice(struct member *m)
{
        struct demand_model *x = m->demand;

        if (!x)
                return;
        m->fleet->demand->dirty = true;
        if (m->load_failed && x->entry && x->entry->on_demand &&
            (m->in.state == INSTANCE_WAITING || m->in.state == INSTANCE_FAILED ||
             m->in.state == INSTANCE_IDLE))
                x->failed = true;
        m->load_failed = false;
}

static void became_ready(struct demand_model *x, usec_t now)
{
        double seconds = (double)usec_sub(now, x->wanted_since) / USEC_PER_SEC;
        unsigned i = 0;

        x->ready_at = now;
        if (!x->restored || x->load_at)
                x->used_at = now;
        x->restored = false;
        if (x->load_at) {
                x->load_took = usec_sub(now, x->load_at);
                x->figures.loads++;
                while (i < DEMAND_WAIT_BUCKETS && seconds > demand_wait_bounds[i])
                        i++;
                x->figures.waits[i]++;
                x->figures.wait_sum += seconds;
        }
        x->load_at = 0;
        demand_forget_wish(x);
}

static void load_failed(struct demand *d, struct demand_model *x)
{
        x->failed = false;
        x->figures.load_failures++;
        if (x->up + x->loading > 0)
                return; /* another replica serves, or may do so in a moment */
        /* A person's order stands until the tries are used up. */
        if (!x->asked || x->wanted_up == 0)
                demand_forget_wish(x);
        x->load_at = 0;
        dispatch_load_failed(d->fleet->dispatch, x->name);
}

/* Facts of its members that only matter to us: at most one step each. */
static void settle_member(struct member *m, usec_t now)
{
        struct demand_model *x = m->demand;

        if (!x || !x->entry || !x->entry->on_demand || m->removed)
                return;
        m->in.rests = !m->held;
        if (m->in.state == INSTANCE_FAILED)
                m->in.want_up = false; /* the next load is a person's */
        if (m->in.state == INSTANCE_OFF && !m->held && !m->in.want_up)
                member_step(m, EV_REST, now);
}

static void settle_model(struct demand *d, struct demand_model *x, usec_t now)
{
        if (x->failed)
                load_failed(d, x);
        if (x->up > 0 && !x->ready_at)
                became_ready(x, now);
        if (x->up == 0)
                x->ready_at = 0;
        /* A replica that was added, or was down when the others were loaded. */
        if (x->entry->on_demand && x->wanted_up > 0 && x->wanted_up < x->replicas)
                for (size_t i = 0; i < d->fleet->n_members; i++)
                        if (may_load(x, d->fleet->members[i]))
                                demand_start_member(d->fleet->members[i], now);
}

/* --- who was not used for long enough ------------------------------------------------------------------------------------- */

static void unload_idle(struct demand *d, usec_t now, usec_t *due)
{
        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];
                char span[TIME_SPAN_MAX], why[64];
                usec_t at;

                if (!x->entry || !x->entry->on_demand || !x->ready_at || !demand_is_loaded(x))
                        continue;
                at = until_of_all(d, x);
                if (now < at) {
                        *due = MIN(*due, at);
                        continue;
                }
                (void)snprintf(why, sizeof why, "not used for %s",
                               time_span(usec_sub(now, x->used_at), span, sizeof span));
                demand_drop_together(d, x, UNLOAD_IDLE, why, now);
        }
}

/* --- one look ---------------------------------------------------------------------------------------------------------------- */

void demand_settle(struct demand *d, usec_t now)
{
        struct fleet *f = d->fleet;
        usec_t due = USEC_INFINITY;

        if (!d->dirty || !f->started)
                return;
        d->dirty = false;
        if (d->stale)
                demand_refresh(d);
        if (d->n == 0 || f->stopping)
                return;
        for (size_t i = 0; i < f->n_members; i++)
                settle_member(f->members[i], now);
        demand_count(d);
        for (size_t i = 0; i < d->n; i++)
                if (d->models[i]->entry)
                        settle_model(d, d->models[i], now);
        demand_count(d);
        demand_place(d, now, &due);
        unload_idle(d, now, &due);
        demand_keep_use(d, now, &due);
        for (size_t i = 0; i < d->n; i++)
                if (d->models[i]->entry && d->models[i]->entry->replicas_max)
                        demand_scale(d, d->models[i], now, &due);
        timer_set(d->timer, due);
}

void demand_start(struct demand *d, usec_t now)
{
        const struct config *c = d->fleet->config;
        usec_t order = now;

        demand_refresh(d);
        for (char *const *name = c->demand.preload; name && *name; name++) {
                struct demand_model *x = demand_find(d, *name);

                if (!x)
                        continue;
                x->wanted = x->asked = x->preload = true;
                x->wanted_since = order++;
        }
        demand_look_again(d);
}

/* --- from the dispatch ---------------------------------------------------------------------------------------------------------- */

int demand_wake(struct fleet *f, const struct config_instance *entry)
{
        struct demand_model *x = model_of(f, entry);
        struct demand *d = f->demand;
        usec_t now = loop_now(f->loop);
        int r;

        if (!x || !entry->on_demand)
                return -EPERM;
        if (d->stale)
                demand_refresh(d);
        demand_count(d);
        if (demand_is_loaded(x))
                return 0;
        if (x->held == x->members)
                return -EHOSTDOWN;
        if (x->failed_members + x->held == x->members)
                return -EIO;
        if (x->wanted)
                return 0;
        r = demand_judge(d, x, now);
        if (r < 0)
                return r;
        x->wanted = true;
        x->wanted_since = now;
        demand_look_again(d);
        return 0;
}

const char *demand_words(struct fleet *f, const struct config_instance *entry)
{
        const struct demand_model *x = model_of(f, entry);

        return x && x->why[0] ? x->why : NULL;
}

void demand_used(struct fleet *f, const char *entry)
{
        struct demand_model *x = demand_find(f->demand, entry);

        if (!x)
                return;
        x->leases++;
        x->peak = MAX(x->peak, x->leases);
        x->served = true;
        x->used_at = loop_now(f->loop);
        if (x->kept_at != USEC_INFINITY)
                demand_look_again(f->demand); /* it is put on record at the end of the turn */
        if (x->entry && x->entry->replicas_max)
                look_at(f->demand, x->used_at + SCALE_INTERVAL);
}

static bool anybody_wants(const struct demand *d)
{
        for (size_t i = 0; i < d->n; i++)
                if (d->models[i]->wanted)
                        return true;
        return false;
}

void demand_idle(struct fleet *f, const char *entry, usec_t keep_alive)
{
        struct demand_model *x = demand_find(f->demand, entry);
        usec_t at;

        if (!x || x->leases == 0)
                return;
        x->leases--;
        x->used_at = loop_now(f->loop);
        x->keep_alive = keep_alive;
        if (x->leases > 0 || !x->entry)
                return;
        at = x->entry->on_demand ? until(f->demand, x) : USEC_INFINITY;
        if (anybody_wants(f->demand) || at <= x->used_at)
                demand_look_again(f->demand);
        else if (at != USEC_INFINITY)
                look_at(f->demand, at);
        if (x->entry->replicas_max)
                look_at(f->demand, x->used_at + SCALE_INTERVAL);
        if (x->entry->on_demand)
                look_at(f->demand, x->used_at + DEMAND_KEEP_AFTER);
}

/* --- figures, birth ------------------------------------------------------------------------------------------------------------ */

int demand_figures(struct fleet *f, size_t i, struct demand_figures *ret)
{
        struct demand *d = f->demand;
        const struct demand_model *x;

        if (d->stale)
                demand_refresh(d);
        if (i >= d->n || !d->models[i]->entry)
                return -ENOENT; /* those without an entry are the last */
        x = d->models[i];
        *ret = x->figures;
        ret->model = x->name;
        ret->on_demand = x->entry->on_demand;
        ret->scales = x->entry->replicas_max > 0;
        ret->loaded = x->ready_at != 0;
        ret->replicas = x->replicas;
        return 0;
}

int demand_new(struct fleet *f, struct demand **ret)
{
        struct demand *d = calloc(1, sizeof *d);
        int r;

        if (!d)
                return -ENOMEM;
        d->fleet = f;
        r = timer_new(f->loop, on_timer, d, &d->timer);
        if (r < 0) {
                free(d);
                return r;
        }
        *ret = d;
        return 0;
}

struct demand *demand_free(struct demand *d)
{
        if (!d)
                return NULL;
        for (size_t i = 0; i < d->n; i++)
                free(d->models[i]);
        free(d->models);
        index_finish(&d->by_name);
        timer_free(d->timer);
        free(d);
        return NULL;
}
