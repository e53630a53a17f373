/* demand_orders.c: what a person orders: load, unload, and start, stop and restart of what comes on demand. */
#include <errno.h>

#include "base/macros.h"
#include "base/text.h"
#include "fleet/demand_private.h"

/* A new life: whatever it was, it may be loaded now. */
static void pardon(struct member *m, usec_t now)
{
        m->held = false;
        m->in.rests = true;
        if (m->in.state != INSTANCE_OFF && m->in.state != INSTANCE_FAILED && m->in.state != INSTANCE_WAITING)
                return;
        demand_forgive(m);
        m->bar = BAR_NONE;
        m->in.want_up = false;
        member_step(m, EV_REST, now);
        member_changed(m);
        member_touch(m);
}

static void want(struct demand *d, struct demand_model *x, usec_t now)
{
        x->asked = x->wanted = true;
        x->preload = false;
        if (!x->wanted_since)
                x->wanted_since = now;
        demand_look_again(d);
}

void demand_renew(struct demand *d, usec_t now)
{
        for (size_t i = 0; i < d->n; i++) {
                struct demand_model *x = d->models[i];
                bool renews = x->renews && x->entry && x->entry->on_demand, preload = x->preload;

                x->renews = false;
                for (size_t k = 0; renews && k < d->fleet->n_members; k++) {
                        const struct member *m = d->fleet->members[k];

                        if (m->demand == x && !m->removed && m->in.want_up)
                                renews = false;
                }
                if (!renews)
                        continue;
                want(d, x, now);
                x->preload = preload;
        }
}

bool demand_order(struct member *m, enum fleet_verb verb, bool all, usec_t now)
{
        struct demand_model *x = m->demand;
        struct demand *d = m->fleet->demand;

        if (!x || !x->entry || !x->entry->on_demand || m->removed)
                return false;
        d->dirty = true;
        if (verb == FLEET_STOP || verb == FLEET_DRAIN) {
                /* Down, and no request brings it back: that is a person's to do. */
                m->held = true;
                m->in.rests = false;
                demand_forget_wish(x);
                return false;
        }
        if (m->in.want_up && verb == FLEET_RESTART)
                return false;
        /* A drain that was ordered is taken back; one that makes room for another model is not. */
        if (verb == FLEET_START && m->held && m->in.state == INSTANCE_DRAINING) {
                m->held = false;
                m->in.rests = true;
                return false;
        }
        pardon(m, now);
        if (!m->in.want_up && !all)
                want(d, x, now);
        return true;
}

static const struct config_instance *find_entry(const struct fleet *f, const char *model)
{
        const struct config *c = f->config;
        const struct config_instance *e = config_find(c, model);

        for (size_t i = 0; !e && i < c->n_instances; i++)
                for (char *const *a = c->instances[i].aliases; a && *a; a++)
                        if (streq(*a, model))
                                e = &c->instances[i];
        return e;
}

/* An alias of several stands for none of them here. */
static bool is_shared(const struct fleet *f, const char *model)
{
        const struct config *c = f->config;
        unsigned n = 0;

        for (size_t i = 0; i < c->n_instances && !config_find(c, model); i++)
                for (char *const *a = c->instances[i].aliases; a && *a; a++)
                        n += streq(*a, model);
        return n > 1;
}

static int find_for_order(struct fleet *f, const char *model, const char *word, struct demand_model **ret,
                          char **ret_message)
{
        const struct config_instance *e = find_entry(f, model);
        const char *near;

        *ret_message = NULL;
        if (f->stopping) {
                *ret_message = text_format("the supervisor is stopping");
                return -ESHUTDOWN;
        }
        if (!e) {
                near = fleet_nearest(f, model);
                *ret_message =
                        text_format("there is no model \"%s\"%s%s%s", model, near ? "; did you mean \"" : "",
                                    near ? near : "", near ? "\"?" : "");
                return -ENOENT;
        }
        if (is_shared(f, model)) {
                *ret_message = text_format("\"%s\" is an alias of several models: say which one, such as %s",
                                           model, e->name);
                return -EPERM;
        }
        *ret = e->on_demand ? demand_find(f->demand, e->name) : NULL;
        if (*ret)
                return 0;
        *ret_message = text_format("%s is not on demand (it has no \"on_demand\" in the configuration): use "
                                   "%s %s",
                                   e->name, word, e->name);
        return -EPERM;
}

int demand_load(struct fleet *f, const char *model, char **ret_message)
{
        struct demand *d = f->demand;
        usec_t now = loop_now(f->loop);
        struct demand_model *x;
        int r = find_for_order(f, model, "start", &x, ret_message);

        if (r < 0)
                return r;
        if (d->stale)
                demand_refresh(d);
        for (size_t i = 0; i < f->n_members; i++)
                if (f->members[i]->demand == x && !f->members[i]->removed)
                        pardon(f->members[i], now);
        demand_count(d);
        if (demand_is_loaded(x)) {
                *ret_message = text_format("%s is %s already", x->name, x->up ? "loaded" : "being loaded");
                return 0;
        }
        r = demand_judge(d, x, now);
        if (r < 0) {
                *ret_message =
                        text_format("%s cannot be loaded: %s", x->name, r == -ENOSPC ? x->why : strerror(-r));
                return r;
        }
        *ret_message = text_format("load: %s%s%s", x->name, x->why[0] ? "; it waits: " : "", x->why);
        want(d, x, now);
        return 0;
}

static unsigned busy_of_all(const struct demand *d, const struct demand_model *x, unsigned *ret_waiting)
{
        unsigned leases = 0;

        *ret_waiting = 0;
        for (size_t i = 0; i < d->n; i++)
                if (demand_is_together(d->models[i], x)) {
                        leases += d->models[i]->leases;
                        *ret_waiting += demand_waiting(d, d->models[i]);
                }
        return leases;
}

int demand_unload(struct fleet *f, const char *model, bool force, char **ret_message)
{
        struct demand *d = f->demand;
        usec_t now = loop_now(f->loop);
        unsigned leases, queued;
        struct demand_model *x;
        int r = find_for_order(f, model, "stop", &x, ret_message);

        if (r < 0)
                return r;
        if (d->stale)
                demand_refresh(d);
        demand_count(d);
        leases = busy_of_all(d, x, &queued);
        if (!demand_is_loaded(x)) {
                bool was_asked = x->asked;

                if (was_asked)
                        demand_forget_wish(x);
                *ret_message = text_format(was_asked              ? "%s is not loaded any more"
                                           : demand_is_leaving(x) ? "%s is being unloaded already"
                                                                  : "%s is not loaded",
                                           x->name);
                return 0;
        }
        if ((leases || queued) && !force) {
                *ret_message = text_format(
                        "%s is busy: requests that run: %u, that wait: %u; with force it is unloaded "
                        "nevertheless, and what runs is given stop.drain",
                        x->name, leases, queued);
                return -EBUSY;
        }
        demand_drop_together(d, x, UNLOAD_ASKED,
                             force && leases ? "a person asked, with force" : "a person asked", now);
        demand_forget_wish(x);
        demand_look_again(d);
        *ret_message = text_format("unload: %s", x->name);
        return 0;
}
