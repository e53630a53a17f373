/* turns.c: whose turn it is: to load, since a GPU loads one model at a time, and to restart, since the replicas of a model do so one after
 * the other. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/gpu_care.h"
#include "fleet/place_private.h"
#include "fleet/private.h"

/* A start is a millisecond or two of work, and there may be a thousand to do. (One turn of the loop asks up to eight times.) */
static const usec_t STARTS_AT_A_TIME = 5 * USEC_PER_MSEC;

/* --- turns to load ----------------------------------------------------------------------------------------------------- */

/* It binds before it loads: until then an hf: model is being downloaded, for hours maybe. */
static bool loads(const struct member *m)
{
        bool downloads = m->in.state == INSTANCE_STARTING && m->entry->model_kind == CONFIG_MODEL_HF;

        return !downloads && instance_is_loading(&m->in) && m->process;
}

bool fleet_may_load(const struct member *m)
{
        const struct fleet *f = m->fleet;

        if (f->turns.known)
                return !(f->turns.loading & m->gpu_mask);
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *o = f->members[i];

                if (o != m && (o->gpu_mask & m->gpu_mask) && loads(o))
                        return false;
        }
        return true;
}

static void look_at_turns(struct fleet *f)
{
        f->turns.loading = 0;
        for (size_t i = 0; i < f->n_members; i++)
                if (loads(f->members[i]))
                        f->turns.loading |= f->members[i]->gpu_mask;
}

void fleet_grant_turns(struct fleet *f, usec_t now)
{
        usec_t began;
        bool started = false;

        if (!f->started || f->stopping || !f->turns.pending)
                return;
        began = time_monotonic();
        look_at_turns(f);
        f->turns.known = true;
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                const struct help *help;
                const char *path;
                char **env = NULL, detail[GPU_WHY_MAX];
                int r;

                if (m->in.state != INSTANCE_PENDING)
                        continue;
                if (started && time_monotonic() > usec_add(began, STARTS_AT_A_TIME)) {
                        loop_wake(f->loop); /* the others in the next turn */
                        break;
                }
                if (!member_is_foreign_only(m)) {
                        if (place_is_early(m, now))
                                continue;
                        if (binaries_ask(f->binaries, m->entry->binary, &path, &help) == -EINPROGRESS)
                                continue;
                        if (gpus_ask(m) == -EINPROGRESS || !gpu_care_lets(m, now))
                                continue;
                        /* At a fixed address somebody may answer who needs no place: looked for first. */
                        if (!m->entry->endpoint.len && place_member(m, now) != PLACE_GO)
                                continue;
                        r = fleet_pin(m, &env, detail, sizeof detail);
                        text_list_free(env);
                        if (r == 0 && !fleet_may_load(m))
                                continue;
                }
                if (m->entry->endpoint.len) {
                        m->endpoint = m->entry->endpoint;
                        (void)endpoint_text(&m->endpoint, m->endpoint_text, sizeof m->endpoint_text);
                        if (member_probe_at(m, &m->endpoint))
                                member_step(m, EV_SEEK, now);
                        continue;
                }
                member_step(m, EV_GRANTED, now);
                started = true;
                if (loads(m))
                        f->turns.loading |= m->gpu_mask;
        }
        f->turns.known = false;
}

/* --- rolling restarts -------------------------------------------------------------------------------------------------- */

void fleet_restart_member(struct member *m, usec_t now)
{
        m->roll = false;
        m->in.want_up = true;
        if (instance_is_running(&m->in)) {
                m->in.want_again = true;
                member_stop(m, now);
        } else {
                if (m->in.state == INSTANCE_SEEKING || m->in.state == INSTANCE_LOST)
                        member_step(m, EV_STOP, now); /* it may be at another address now */
                member_step(m, EV_START, now);
        }
        member_touch(m);
}

static bool same_entry(const struct member *a, const struct member *b)
{
        return !a->removed && !b->removed && streq(a->entry->name, b->entry->name);
}

/* Somebody of its replicas is on its way: going down for a restart, waiting, loading, or dead and about to be tried. */
static bool is_under_way(const struct member *m)
{
        return m->in.want_up && !m->roll && m->in.state != INSTANCE_READY && m->in.state != INSTANCE_FAILED &&
               m->in.state != INSTANCE_LOST && m->in.state != INSTANCE_OFF;
}

void fleet_roll(struct fleet *f, usec_t now)
{
        char text[CONFIG_NAME_MAX + 64];
        bool later = false;

        if (f->stopping || !f->look_for.rolls)
                return;
        f->look_for.rolls = false;
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                bool wait = false;

                if (!m->roll)
                        continue;
                if (!m->in.want_up) {
                        m->roll = false;
                        continue;
                }
                /* Taken over a moment ago: its first answer tells that it is up, and then it waits for its turn. */
                if (m->adopted && instance_is_loading(&m->in)) {
                        later = true;
                        continue;
                }
                if (!instance_is_up(&m->in)) {
                        fleet_restart_member(m, now); /* takes nothing away from anybody */
                        continue;
                }
                for (size_t k = 0; k < f->n_members; k++) {
                        struct member *o = f->members[k];

                        if (o == m || !same_entry(o, m))
                                continue;
                        wait = wait || is_under_way(o) || (o->roll && !instance_is_up(&o->in));
                        if (o->in.state == INSTANCE_FAILED && o->rolled && !o->bar) {
                                (void)snprintf(text, sizeof text,
                                               "not restarted: %s did not come back from its own restart",
                                               o->name);
                                member_tell(m, LOG_WARNING, "roll_stopped", text);
                                m->roll = false;
                                wait = true;
                        }
                }
                if (!wait) {
                        m->rolled = true;
                        fleet_restart_member(m, now);
                }
                later |= m->roll;
        }
        f->look_for.rolls |= later;
}
