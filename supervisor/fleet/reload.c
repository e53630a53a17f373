/* reload.c: a new configuration against what runs: keep, restart, start, stop. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/private.h"
#include "fleet/seat.h"

enum plan { PLAN_KEEP, PLAN_UPDATE, PLAN_RESTART, PLAN_STOP };

/* The entry of the new config that this member belongs to, and which replica it is. */
static const struct config_instance *new_entry(const struct fleet *f, const struct config *c,
                                               const struct member *m, unsigned *ret_replica,
                                               unsigned *ret_replicas)
{
        for (size_t i = 0; i < c->n_instances; i++) {
                unsigned n;

                /* A thousand members ask for each of a thousand entries. */
                if (!starts_with(m->name, c->instances[i].name))
                        continue;
                n = fleet_replicas(f, &c->instances[i]);
                for (unsigned k = 0; k < n; k++) {
                        char name[CONFIG_NAME_MAX];

                        if (streq(config_replica_name(&c->instances[i], k, n, name, sizeof name), m->name)) {
                                *ret_replica = k;
                                *ret_replicas = n;
                                return &c->instances[i];
                        }
                }
        }
        return NULL;
}

static enum plan plan_of(const struct fleet *f, const struct config *c, const struct member *m)
{
        unsigned replica, replicas;
        const struct config_instance *e = m->removed ? NULL : new_entry(f, c, m, &replica, &replicas);

        if (!e)
                return PLAN_STOP;
        if (config_instance_needs_restart(m->entry, e))
                return PLAN_RESTART;
        return config_instance_same(m->entry, e) ? PLAN_KEEP : PLAN_UPDATE;
}

static void put_names(const struct fleet *f, const struct config *c, enum plan plan, const char *key,
                      struct json_writer *w)
{
        json_key(w, key);
        json_open_array(w);
        for (size_t i = 0; i < f->n_members; i++)
                if (!f->members[i]->removed && plan_of(f, c, f->members[i]) == plan)
                        json_put_string(w, f->members[i]->name);
        json_close_array(w);
}

static void put_restarts(const struct fleet *f, const struct config *c, struct json_writer *w)
{
        json_key(w, "restart");
        json_open_array(w);
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];
                unsigned replica, replicas;
                char **changes = NULL;

                if (m->removed || plan_of(f, c, m) != PLAN_RESTART)
                        continue;
                json_open_object(w);
                json_string(w, "name", m->name);
                json_key(w, "because");
                json_open_array(w);
                if (config_instance_changes(m->entry, new_entry(f, c, m, &replica, &replicas), &changes) == 0)
                        for (char **p = changes; p && *p; p++)
                                json_put_string(w, *p);
                json_close_array(w);
                json_close_object(w);
                text_list_free(changes);
        }
        json_close_array(w);
}

static void put_starts(const struct fleet *f, const struct config *c, struct json_writer *w)
{
        json_key(w, "start");
        json_open_array(w);
        for (size_t i = 0; i < c->n_instances; i++) {
                unsigned n = fleet_replicas(f, &c->instances[i]);

                for (unsigned k = 0; k < n; k++) {
                        char name[CONFIG_NAME_MAX];

                        (void)config_replica_name(&c->instances[i], k, n, name, sizeof name);
                        if (!fleet_member(f, name) || fleet_member(f, name)->removed)
                                json_put_string(w, name);
                }
        }
        json_close_array(w);
}

static void put_needs_restart(const struct fleet *f, const struct config *c, struct json_writer *w)
{
        char **paths = NULL;

        json_key(w, "needsDaemonRestart");
        json_open_array(w);
        if (config_changes(f->config, c, true, &paths) == 0)
                for (char **p = paths; p && *p; p++)
                        json_put_string(w, *p);
        json_close_array(w);
        text_list_free(paths);
}

int fleet_remove_member(struct member *m, usec_t now)
{
        struct config_instance *leftover = fleet_leftover_entry(m->fleet, m->name);

        if (!leftover)
                return -ENOMEM;
        leftover->stop = m->entry->stop;
        leftover->dynamic = m->entry->dynamic;
        m->old_entry = leftover;
        m->removed = true;
        m->changed = true;
        member_set_entry(m, leftover, 0, 1);
        m->in.want_up = m->in.want_again = m->in.rests = m->roll = false;
        member_stop(m, now);
        member_touch(m);
        return 0;
}

static void apply_to(struct fleet *f, const struct config *c, struct member *m, usec_t now)
{
        enum plan plan = plan_of(f, c, m);
        unsigned replica = 0, replicas = 1;
        const struct config_instance *e = plan == PLAN_STOP ? NULL : new_entry(f, c, m, &replica, &replicas);
        bool was_autostart = m->entry->autostart && !m->entry->on_demand, was_on_demand = m->entry->on_demand;

        if (!e) {
                if (!m->removed)
                        (void)fleet_remove_member(m, now);
                return;
        }
        member_set_entry(m, e, replica, replicas);
        if (demand_attach(f->demand, m) < 0)
                log_err(m->name, "out of memory: it is not loaded on demand until the next reload");
        m->rolled = false;
        if (plan != PLAN_KEEP)
                m->changed = true;
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
        m->roll = true; /* rolls with its replicas; a failed one is tried again since its settings changed */
        if (m->in.state == INSTANCE_FAILED || m->in.state == INSTANCE_WAITING)
                member_set_error(m, NULL);
        member_touch(m);
}

static void swap(char **a, char **b)
{
        char *t = *a;

        *a = *b;
        *b = t;
}

void fleet_apply(struct fleet *f, struct config *c, usec_t now)
{
        struct config *old = f->config;
        size_t n = f->n_members;

        /* Directories are taken once, at start: what lives in them stays where it is (reported as needsDaemonRestart). */
        swap(&c->runtime_dir, &old->runtime_dir);
        swap(&c->state_dir, &old->state_dir);
        swap(&c->log_dir, &old->log_dir);
        demand_reloaded(f->demand);
        for (size_t i = 0; i < n; i++)
                apply_to(f, c, f->members[i], now);
        f->config = c;
        f->config_number++;
        log_set_level(c->log_level);
        fleet_read_gpus(f);
        if (fleet_make_members(f, c) < 0)
                log_err(NULL, "out of memory: not every new instance could be made");
        for (size_t i = n; i < f->n_members; i++)
                if (f->members[i]->in.want_up) {
                        member_step(f->members[i], EV_START, now);
                        member_touch(f->members[i]);
                }
        for (size_t i = 0; i < n; i++)
                member_limits_changed(f->members[i]);
        groups_check(f);
        dispatch_config_changed(f->dispatch);
        config_free(old);
        loop_wake(f->loop);
}

static void refuse(struct fleet *f, bool dry_run, const char *errors, struct json_writer *w)
{
        json_open_object(w);
        json_key(w, "errors");
        json_open_array(w);
        for (const char *p = errors; *p;) {
                size_t len = strcspn(p, "\n");

                if (len)
                        json_put_string_n(w, p, len);
                p += len + (p[len] == '\n');
        }
        json_close_array(w);
        json_bool(w, "applied", false);
        json_close_object(w);
        if (dry_run)
                return;
        (void)text_set(&f->reload_error, errors);
        log_err(NULL, "reload refused, nothing was changed: %.*s", (int)strcspn(errors, "\n"), errors);
        fleet_event(f, "reload_failed", errors);
}

int fleet_reload(struct fleet *f, bool dry_run, struct json_writer *w)
{
        _cleanup_buffer_ struct buffer errors;
        struct config *c = NULL;
        int r;

        buffer_init(&errors, 256 * 1024);
        r = f->stopping ? -ESHUTDOWN : f->load(f->load_owner, &c, &errors);
        if (r < 0) {
                refuse(f, dry_run,
                       r == -ESHUTDOWN             ? "the supervisor is stopping"
                       : errors.data && errors.len ? errors.data
                                                   : "the configuration could not be read",
                       w);
                return -EINVAL;
        }
        dynamics_add(f->dynamics, c, !dry_run);
        json_open_object(w);
        put_names(f, c, PLAN_KEEP, "keep", w);
        put_names(f, c, PLAN_UPDATE, "update", w);
        put_restarts(f, c, w);
        put_starts(f, c, w);
        put_names(f, c, PLAN_STOP, "stop", w);
        put_needs_restart(f, c, w);
        json_bool(w, "applied", !dry_run);
        json_close_object(w);
        if (dry_run) {
                config_free(c);
                return 0;
        }
        (void)text_set(&f->reload_error, NULL);
        fleet_apply(f, c, loop_now(f->loop));
        fleet_event(f, "reload", "the configuration was read again");
        log_info(NULL, "the configuration was read again");
        return 0;
}

const char *fleet_reload_error(const struct fleet *f)
{
        return f->reload_error;
}
