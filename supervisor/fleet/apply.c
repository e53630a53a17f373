/* apply.c: a new configuration against what runs: what each instance is to do, and doing it. */
#include <errno.h>

#include "base/index.h"
#include "base/log.h"
#include "base/macros.h"
#include "fleet/demand_private.h"
#include "fleet/plan.h"
#include "fleet/seat.h"

/* --- the plan --------------------------------------------------------------------------------------------------------- */

void plan_finish(struct plan *p)
{
        free(p->steps);
        free(p->starts);
        *p = (struct plan){0};
}

static enum plan_kind kind_of(const struct member *m, const struct config_instance *e)
{
        if (!e)
                return PLAN_STOP;
        if (config_instance_needs_restart(m->entry, e))
                return PLAN_RESTART;
        return config_instance_same(m->entry, e) ? PLAN_KEEP : PLAN_UPDATE;
}

static size_t count_names(const struct fleet *f, const struct config *c)
{
        size_t n = 0;

        for (size_t i = 0; i < c->n_instances; i++)
                n += fleet_replicas_now(f, &c->instances[i], true);
        return n;
}

/* Each name that the configuration asks for goes to its member, or to the starts. */
static void find_members(const struct fleet *f, const struct config *c, const struct index *places,
                         struct plan *p)
{
        for (size_t i = 0; i < c->n_instances; i++) {
                unsigned n = fleet_replicas_now(f, &c->instances[i], true);

                for (unsigned k = 0; k < n; k++) {
                        struct plan_start s = {.entry = &c->instances[i], .replica = k, .replicas = n};
                        char name[CONFIG_NAME_MAX];
                        struct plan_step *step;

                        step = index_get(places, config_replica_name(s.entry, k, n, name, sizeof name));
                        if (!step)
                                p->starts[p->n_starts++] = s;
                        else if (!step->to.entry)
                                step->to = s;
                }
        }
}

int plan_make(const struct fleet *f, const struct config *c, struct plan *ret)
{
        _cleanup_index_ struct index places = {0};
        struct plan p = {.n = f->n_members};
        int r = 0;

        p.steps = calloc(p.n + 1, sizeof *p.steps);
        p.starts = calloc(count_names(f, c) + 1, sizeof *p.starts);
        if (!p.steps || !p.starts)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < p.n; i++)
                if (!f->members[i]->removed)
                        r = index_put(&places, f->members[i]->name, p.steps + i);
        if (r < 0) {
                plan_finish(&p);
                return r;
        }
        find_members(f, c, &places, &p);
        for (size_t i = 0; i < p.n; i++)
                p.steps[i].kind = kind_of(f->members[i], p.steps[i].to.entry);
        *ret = p;
        return 0;
}

/* --- doing it ---------------------------------------------------------------------------------------------------------- */

int fleet_remove_member(struct member *m, usec_t now)
{
        struct config_instance *leftover = fleet_leftover_entry(m->fleet, m->name);

        if (!leftover)
                return -ENOMEM;
        leftover->stop = m->entry->stop;
        leftover->dynamic = m->entry->dynamic;
        m->old_entry = leftover;
        member_removed(m);
        member_changed(m);
        member_set_entry(m, leftover, 0, 1);
        m->in.want_up = m->in.want_again = m->in.rests = m->roll = false;
        member_stop(m, now);
        member_touch(m);
        return 0;
}

static void apply_to(struct fleet *f, struct member *m, const struct plan_step *step, usec_t now)
{
        enum plan_kind plan = step->kind;
        const struct config_instance *e = step->to.entry;
        bool was_autostart = m->entry->autostart && !m->entry->on_demand, was_on_demand = m->entry->on_demand;

        if (!e) {
                if (!m->removed)
                        (void)fleet_remove_member(m, now);
                return;
        }
        member_set_entry(m, e, step->to.replica, step->to.replicas);
        if (demand_attach(f->demand, m) < 0)
                log_err(m->name, "out of memory: it is not loaded on demand until the next reload");
        m->rolled = false;
        if (plan != PLAN_KEEP)
                member_changed(m);
        if (was_on_demand != e->on_demand) {
                m->held = m->yields = m->in.rests = false;
                if (!e->on_demand && m->in.state == INSTANCE_IDLE)
                        member_step(m, EV_STOP, now);
        }
        /* What a person or a changed setting took care of may be loaded again. */
        if (e->on_demand && plan == PLAN_RESTART && m->in.state == INSTANCE_FAILED) {
                m->in.retries = 0;
                member_set_error(m, NULL);
                m->in.want_up = false;
                member_step(m, EV_REST, now);
        }
        if (e->autostart && !e->on_demand && !was_autostart && !m->in.want_up) {
                m->in.want_up = true;
                member_step(m, EV_START, now);
                member_touch(m);
                return;
        }
        if (plan != PLAN_RESTART || !m->in.want_up)
                return;
        member_roll_later(
                m); /* rolls with its replicas; a failed one is tried again since its settings changed */
        if (m->in.state == INSTANCE_FAILED || m->in.state == INSTANCE_WAITING)
                member_set_error(m, NULL);
        member_touch(m);
}

/* Those from the nth on. */
static void start_new(struct fleet *f, size_t n, usec_t now)
{
        for (; n < f->n_members; n++)
                if (f->members[n]->in.want_up) {
                        member_step(f->members[n], EV_START, now);
                        member_touch(f->members[n]);
                }
}

/* By name: who is meant by the same one goes on, whatever he was counted as. */
void fleet_fit_replicas(struct fleet *f, usec_t now)
{
        size_t n = f->n_members;
        struct plan p;

        if (!f->started || f->stopping || !gpus_became_known(f))
                return;
        gpus_ask_for_replicas(f, f->config, false);
        if (plan_make(f, f->config, &p) < 0) {
                log_err(NULL, "out of memory: replicas \"per-gpu\" are as before until the next reload");
                return;
        }
        for (size_t i = 0; i < n; i++) {
                struct member *m = f->members[i];
                const struct plan_start *to = &p.steps[i].to;

                if (m->removed || !m->entry->replicas_per_gpu)
                        continue;
                if (to->entry) {
                        member_set_entry(m, to->entry, to->replica, to->replicas);
                        (void)demand_attach(f->demand, m); /* which counts them, too */
                        continue;
                }
                log_info(
                        m->name,
                        "the GPUs that its program can use are known now, and there is none for it: it goes");
                if (m->demand && m->in.want_up)
                        m->demand->renews = true;
                (void)fleet_remove_member(m, now);
        }
        plan_finish(&p);
        if (fleet_make_members(f, f->config) < 0)
                log_err(NULL, "out of memory: not every GPU has its replica");
        demand_renew(f->demand, now);
        start_new(f, n, now);
}

static void swap(char **a, char **b)
{
        char *t = *a;

        *a = *b;
        *b = t;
}

void plan_apply(struct fleet *f, struct config *c, const struct plan *p, usec_t now)
{
        struct config *old = f->config;
        size_t n = f->n_members;

        /* Directories are taken once, at start: what lives in them stays where it is (reported as needsDaemonRestart). */
        swap(&c->runtime_dir, &old->runtime_dir);
        swap(&c->state_dir, &old->state_dir);
        swap(&c->log_dir, &old->log_dir);
        demand_reloaded(f->demand);
        for (size_t i = 0; i < n; i++)
                apply_to(f, f->members[i], p->steps + i, now);
        f->config = c;
        f->config_number++;
        log_set_level(c->log_level);
        fleet_read_gpus(f);
        /* What was counted for the plan is a guess where that is only being asked now. */
        gpus_ask_for_replicas(f, c, true);
        for (size_t i = 0; i < n; i++)
                f->members[i]->is_guess = gpus_replicas_are_guessed(f, f->members[i]->entry);
        if (fleet_make_members(f, c) < 0)
                log_err(NULL, "out of memory: not every new instance could be made");
        start_new(f, n, now);
        for (size_t i = 0; i < n; i++)
                member_limits_changed(f->members[i]);
        groups_check(f);
        dispatch_config_changed(f->dispatch);
        config_free(old);
        loop_wake(f->loop);
}

int fleet_apply(struct fleet *f, struct config *c, usec_t now)
{
        struct plan p;
        int r = plan_make(f, c, &p);

        if (r < 0) {
                log_err(NULL, "out of memory: the new configuration is not taken over");
                config_free(c);
                return r;
        }
        plan_apply(f, c, &p, now);
        plan_finish(&p);
        return 0;
}
