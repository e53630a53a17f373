/* orders.c: start, stop, drain and restart, as a person says them: of an instance, an entry or all. */
#include <errno.h>

#include "base/macros.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/private.h"

/* A person took care of it: a new life. */
static void forgive(struct member *m)
{
        m->in.retries = 0;
        m->bar = BAR_NONE;
        member_set_error(m, NULL);
}

/* It can stay as it is, if it still is what the configuration wants. */
static bool may_resume(const struct member *m)
{
        char digest[CONFIG_DIGEST_MAX];

        return m->in.state == INSTANCE_DRAINING && !m->in.want_again &&
               (!m->digest[0] || streq(m->digest, config_instance_digest(m->entry, digest)));
}

/* As long as the longest request may take, so that none is cut; each of them has its own deadline. */
static usec_t drain_limit(const struct member *m)
{
        return MAX(m->fleet->config->gateway.timeouts.total, m->entry->stop.drain);
}

static void order_one(struct member *m, enum fleet_verb verb, bool in_turn, bool all, usec_t limit,
                      usec_t now)
{
        m->rolled = false;
        if (demand_order(m, verb, all, now))
                return;
        switch (verb) {
        case FLEET_START:
                m->in.want_up = true;
                if (may_resume(m)) {
                        member_step(m, EV_RESUME, now);
                        break;
                }
                /* On its way down: up again when it is down, which is no crash. */
                m->in.want_again = m->in.state >= INSTANCE_DRAINING && m->in.state <= INSTANCE_KILLING &&
                                   m->kill_kind == DEATH_UNKNOWN;
                if (!instance_is_running(&m->in))
                        forgive(m);
                member_step(m, EV_START, now);
                break;
        case FLEET_STOP:
                m->in.want_up = m->in.want_again = m->roll = false;
                member_stop(m, now);
                break;
        case FLEET_DRAIN:
                m->in.want_up = m->in.want_again = m->roll = false;
                m->in.drain_for = limit ? limit : drain_limit(m);
                member_step(m, EV_DRAIN, now);
                break;
        case FLEET_RESTART:
                forgive(m);
                m->in.want_up = true;
                if (in_turn)
                        member_roll_later(m);
                else
                        fleet_restart_member(m, now);
                break;
        case FLEET_VERBS:
                break;
        }
        member_changed(m);
        member_touch(m);
}

const char *fleet_verb_name(enum fleet_verb verb)
{
        static const char *const names[FLEET_VERBS] = {[FLEET_START] = "start",
                                                       [FLEET_STOP] = "stop",
                                                       [FLEET_RESTART] = "restart",
                                                       [FLEET_DRAIN] = "drain"};

        return names[verb];
}

static int give_order(struct fleet *f, const char *name, enum fleet_verb verb, usec_t limit,
                      char **ret_message)
{
        usec_t now = loop_now(f->loop);
        size_t n = 0, foreign = 0;
        bool all = streq(name, "all"), exact = !all && fleet_member(f, name) != NULL;

        *ret_message = NULL;
        if (f->stopping) {
                *ret_message = text_format("the supervisor is stopping");
                return -ESHUTDOWN;
        }
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (m->removed || !(all || (exact ? streq(m->name, name) : streq(m->entry->name, name))))
                        continue;
                if (member_is_foreign_only(m) || m->foreign) {
                        foreign++;
                        continue;
                }
                order_one(m, verb, !exact, all, limit, now);
                n++;
        }
        if (n == 0 && foreign > 0) {
                *ret_message =
                        text_format("%s is somebody else's server: it is only watched; %s it where it runs",
                                    name, fleet_verb_name(verb));
                return -EPERM;
        }
        if (n == 0 && !all) {
                const char *near = fleet_nearest(f, name);

                *ret_message =
                        text_format("there is no instance \"%s\"%s%s%s", name,
                                    near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
                return -ENOENT;
        }
        *ret_message = text_format("%s: %zu instance%s%s", fleet_verb_name(verb), n, n == 1 ? "" : "s",
                                   verb == FLEET_RESTART && n > 1 ? ", one after the other" : "");
        return 0;
}

int fleet_order(struct fleet *f, const char *name, enum fleet_verb verb, char **ret_message)
{
        return give_order(f, name, verb, 0, ret_message);
}

int fleet_drain(struct fleet *f, const char *name, usec_t limit, char **ret_message)
{
        return give_order(f, name, FLEET_DRAIN, limit, ret_message);
}
