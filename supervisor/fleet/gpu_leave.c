/* gpu_leave.c: who runs on a GPU that takes no work any more, and how it leaves. */
#include "fleet/gpu_care.h"

#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/gpu_hits.h"

/* The driver tells of an error a second after it happened, or two: who died meanwhile was hit by it, not who was started since. */
static const usec_t DEATH_EXPLAINS = 3 * USEC_PER_SEC;

bool gpu_leave_is_on(const struct member *m, uint64_t mask)
{
        return m->process && ((m->gpu_was_seen ? m->gpu_was_seen : m->gpu_mask) & mask);
}

static bool is_going(const struct member *m)
{
        return m->in.state == INSTANCE_STOPPING || m->in.state == INSTANCE_KILLING || m->facts.exited;
}

/* Its process ends; what follows (another GPU, or FAILED) is decided when it would be started again. */
static void take_off(struct member *m, uint64_t mask, bool breaks, const char *why, usec_t now)
{
        char bar[GPU_WHY_MAX];

        if (is_going(m))
                return;
        m->left_gpus |= mask;
        m->left_at = now;
        if (breaks) {
                m->in.want_again = m->in.want_up; /* it is not its fault: no try of its own is used up */
                member_give_up(m, DEATH_GPU, why, now);
        } else if (m->in.want_up && !m->in.want_again &&
                   !(m->adopted && instance_is_loading(&m->in))) { /* it may have work: at its first answer */
                log_info(m->name, "leaves its GPU: %s", why);
                if (!gpu_care_bars(m, bar, sizeof bar)) {
                        member_roll_later(m);
                } else {
                        m->in.want_again = true;
                        member_stop(m, now);
                }
        }
        member_touch(m);
}

void gpu_leave_all(struct fleet *f, size_t place, bool breaks, const char *why, usec_t now)
{
        uint64_t mask = gpus_with_parts(f, place);

        for (size_t i = 0; i < f->n_members; i++)
                if (gpu_leave_is_on(f->members[i], mask))
                        take_off(f->members[i], mask, breaks, why, now);
        gpu_care_back(f); /* for all others: who may come back, and who is still there */
}

static void restart_one(struct member *m, const char *why, usec_t now)
{
        if (is_going(m))
                return;
        member_give_up(m, DEATH_GPU, why, now);
        member_touch(m);
}

/* NULL: that process has ended, and with it what was hit. */
static struct member *who_runs(const struct fleet *f, const struct gpu_hit *hit)
{
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (m->process && !m->facts.exited && process_pid(m->process) == hit->leader &&
                    process_start_time(m->process) == hit->leader_start)
                        return m;
        }
        return NULL;
}

/* False: nobody knows whom it hit. */
static bool restart_the_one(struct fleet *f, size_t place, unsigned xid, const char *why, usec_t now)
{
        struct gpu_hit hit;
        struct member *m;

        if (!gpu_hits_take(f, f->gpus[place].pci, xid, now, &hit))
                return false;
        m = hit.whose == GPU_HIT_OURS ? who_runs(f, &hit) : NULL;
        if (m)
                restart_one(m, why, now);
        else if (hit.whose == GPU_HIT_OURS)
                log_info(hit.name, "has died of that already: %s", why);
        else
                log_info(NULL, "process %d was hit, which %s: %s", (int)hit.pid,
                         hit.whose == GPU_HIT_ENDED ? "has ended" : "is none of ours", why);
        return true;
}

/* Whom it hit, where the kernel names it; else all on that GPU, unless one of them has died of it. */
void gpu_leave_restart(struct fleet *f, size_t place, unsigned xid, const char *why, usec_t now)
{
        usec_t realtime = loop_realtime(f->loop);
        uint64_t mask = gpus_with_parts(f, place);

        if (restart_the_one(f, place, xid, why, now))
                return;
        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (((m->gpu_was_seen ? m->gpu_was_seen : m->gpu_mask) & mask) && m->last_death_at &&
                    usec_sub(realtime, m->last_death_at) < DEATH_EXPLAINS) {
                        log_info(m->name, "has died of that already: %s", why);
                        return;
                }
        }
        for (size_t i = 0; i < f->n_members; i++)
                if (gpu_leave_is_on(f->members[i], mask))
                        restart_one(f->members[i], why, now);
}

/* --- who is still there ---------------------------------------------------------------------------------------------- */

/* What is said of one that serves, or ends its work, on a GPU that takes none any more. NULL: there is nothing to say. */
static void say_stays(struct member *m, const char *text)
{
        if (m->stays && streq_ptr(m->stays, text) && streq_ptr(m->last_error, text))
                return;
        if (m->stays && streq_ptr(m->last_error, m->stays))
                member_set_error(m, NULL);
        free(m->stays);
        m->stays = NULL;
        if (!text || m->last_error)
                return; /* what it has to say itself is more */
        (void)text_set(&m->stays, text);
        member_set_error(m, text);
}

/* A replica of it did not come back from its own restart, so it keeps what it has. */
static const struct member *who_did_not_come_back(const struct member *m)
{
        const struct fleet *f = m->fleet;

        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *o = f->members[i];

                if (o != m && !o->removed && !m->removed && streq(o->entry->name, m->entry->name) &&
                    o->in.state == INSTANCE_FAILED && o->rolled && !o->bar)
                        return o;
        }
        return NULL;
}

static void tell_out(const struct fleet *f, size_t place, char *ret, size_t size)
{
        const struct gpu_cordon *x = gpus_cordon(f, f->gpus + place);

        if (f->gpus[place].figures.is_lost)
                (void)snprintf(ret, size, "GPU %.90s, which is lost", gpus_name(f->gpus + place));
        else
                (void)snprintf(ret, size, "GPU %.90s, which is cordoned (%.120s)", gpus_name(f->gpus + place),
                               x ? x->why : "");
}

static void judge_stay(struct member *m, uint64_t on, usec_t now)
{
        struct fleet *f = m->fleet;
        size_t place = (size_t)__builtin_ctzll(on);
        bool is_lost = f->gpus[place].figures.is_lost;
        char gpu[256], text[GPU_WHY_MAX];
        /* Who has another one takes turns with its replicas; who has none, or lost it, does not. */
        const struct member *o =
                is_lost || gpu_care_bars(m, text, sizeof text) ? NULL : who_did_not_come_back(m);
        /* Its own arguments or variables may put it there again and again: once is enough. */
        bool is_new = (on & ~m->left_gpus) || m->spawned_at <= m->left_at;

        tell_out(f, place, gpu, sizeof gpu);
        if (m->in.want_up && !m->in.want_again && !m->roll && !o && is_new) {
                (void)snprintf(text, sizeof text, "it is on %s", gpu);
                take_off(m, on, is_lost, text, now);
        }
        if (is_going(m) || !is_new)
                text[0] = '\0';
        else if (m->in.state == INSTANCE_DRAINING && m->in.want_again)
                (void)snprintf(text, sizeof text, "leaves %s, when its work has ended", gpu);
        else if (m->roll)
                (void)snprintf(text, sizeof text, "leaves %s, when it is its turn among its replicas", gpu);
        else if (o)
                (void)snprintf(text, sizeof text,
                               "stays on %s: %.64s did not come back from its own restart. Look at "
                               "`llama-supervisor why %.64s`, and start that; or uncordon the GPU",
                               gpu, o->name, o->name);
        else
                text[0] = '\0';
        say_stays(m, text[0] ? text : NULL);
}

/* Nobody was told of those that an earlier daemon left there, or whose GPU was not known by its uuid when they were started. */
void gpu_leave_look_round(struct fleet *f, usec_t now)
{
        uint64_t out = gpu_care_out(f);

        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                uint64_t on;

                m->left_gpus &= out;
                if (m->process && m->gpu && !m->gpu_mask)
                        fleet_mask_pinned(m); /* none of its GPUs was known */
                on = gpu_leave_is_on(m, out) ? (m->gpu_was_seen ? m->gpu_was_seen : m->gpu_mask) & out : 0;
                if (on && m->entry->gpu_mode != CONFIG_GPU_NONE && !m->removed)
                        judge_stay(m, on, now);
                else if (m->stays)
                        say_stays(m, NULL);
        }
}

void gpu_leave_left(struct member *m)
{
        if (m->stays)
                say_stays(m, NULL);
}
