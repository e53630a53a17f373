/* standstill.c: the evidence for core/wedge, gathered at each probe that was answered well; what its threads do, right before the probe. */
#include <stdio.h>

#include "base/macros.h"
#include "fleet/gpu_care.h"
#include "fleet/gpus.h"
#include "fleet/seat.h"
#include "host/process_kin.h"

/* A canary must have failed before the limit is over. */
enum { CANARY_PART = 4 };

/* Threads are looked at only when nothing else moves. */
static const usec_t LOOK_CLOSER_AFTER = USEC_PER_SEC;

/* Snapshots come every 5 s, or every second, and take a moment themselves. */
static const usec_t GPU_KNOWN_FOR = 7 * USEC_PER_SEC, GPU_ACTIVE_FOR = 2 * USEC_PER_SEC;

/* Those that it was seen on, and those that it is pinned to and whose driver does not tell who is on them (AMD, some containers). */
static uint64_t gpus_of(const struct member *m)
{
        return m->gpu_seen ? m->gpu_seen | (m->gpu_mask & ~gpus_told(m->fleet)) : m->gpu_mask;
}

/* Figures are of the last snapshot: every 5 s, and every second while something stands still. What they say is true for as long as nothing newer
 * could be there; older ones are no evidence. That a GPU computed is told by its snapshot for a moment alone, so that one look at a GPU that
 * worked is not taken for work over and over. */
static void look_at_gpus(const struct member *m, bool stands, struct wedge_fact *fact, usec_t now)
{
        struct fleet *f = m->fleet;
        uint64_t mask = gpus_of(m);
        usec_t at = fleet_gpus_at(f), age = at ? usec_sub(now, at) : USEC_INFINITY;

        if (!mask)
                return;
        if (stands)
                fleet_gpus_hurry(f);
        fact->uses_gpu = fact->gpu_known = true;
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu_figures *g = &f->gpus[i].figures;
                bool known = g->known & GPU_KNOWS_USE && age <= GPU_KNOWN_FOR;

                if (!(mask >> i & 1))
                        continue;
                fact->gpu_known = fact->gpu_known && known;
                fact->gpu_active = fact->gpu_active || (known && age <= GPU_ACTIVE_FOR && g->use >= 0.01);
        }
}

/* `--rpc`: the machines that compute are others, and what they do is seen by nobody here. */
static bool computes_elsewhere(const struct member *m)
{
        for (char *const *a = m->entry->args; a && *a; a++)
                if (streq(*a, "--rpc"))
                        return true;
        for (char *const *e = m->entry->env; e && *e; e++)
                if (starts_with(*e, "LLAMA_ARG_RPC="))
                        return true;
        return false;
}

static int look_far(const struct member *m, usec_t *ret, bool *ret_wants_to_run, size_t *ret_others)
{
        return process_kin_cpu(process_pid(m->process), m->group, loop_now(m->fleet->loop), ret,
                               ret_wants_to_run, ret_others);
}

/* On a socket of TCP nobody says who answers. */
static void look_for_company(struct member *m)
{
        size_t near = (size_t)MAX(process_group_count(m->process), 0), all = 0;
        usec_t cpu;

        m->has_company = near > 0 || (look_far(m, &cpu, NULL, &all) == 0 && all > 0);
        m->has_far_kin = all > near;
}

int member_cpu_time(struct member *m, usec_t *ret, bool *ret_wants_to_run)
{
        size_t n;

        if (m->has_far_kin)
                return look_far(m, ret, ret_wants_to_run, &n);
        if (m->has_company)
                return process_look_at_all(m->process, ret, ret_wants_to_run);
        if (ret_wants_to_run)
                *ret_wants_to_run = process_wants_to_run(m->process);
        return process_cpu_time(m->process, ret);
}

static bool stands_still(const struct member *m, usec_t now)
{
        return wedge_stands(&m->wedge, now) >= MIN(LOOK_CLOSER_AFTER, m->entry->health.standstill / 4);
}

void member_look_at_threads(struct member *m, usec_t now)
{
        usec_t cpu;

        m->wants_to_run = false;
        if (m->in.state == INSTANCE_READY && m->process && stands_still(m, now))
                (void)member_cpu_time(m, &cpu, &m->wants_to_run);
}

static void gather(struct member *m, struct wedge_fact *ret, usec_t now)
{
        usec_t limit = m->entry->health.standstill;
        usec_t fresh = usec_add(m->entry->health.interval * 2, m->entry->health.timeout);
        bool told = m->slots_at && usec_sub(now, m->slots_at) < fresh, stands;

        *ret = (struct wedge_fact){
                .work = MAX(seat_owed(m->seat), told ? m->busy : 0),
                .says_idle = told && m->says_idle && m->slots_at > m->judged_at,
                .bytes = seat_heard(m->seat),
                .tokens = m->slot_progress,
                /* Said while it stood still, not before: now it may be deep in the prompt of the next request. */
                .decodes = told && m->all_decode && usec_sub(now, m->slots_at) < limit / 2,
                .cpu = USEC_INFINITY,
                .slot_free = m->slots > MAX(seat_in_flight(m->seat), m->busy),
                .canary = m->canary,
        };
        if (!ret->work || !m->process)
                return;
        if (!m->has_company && limit && wedge_rests(&m->wedge, now) >= limit / 4)
                look_for_company(m);
        stands = stands_still(m, now);
        ret->wants_to_run = m->wants_to_run;
        (void)member_cpu_time(m, &ret->cpu, NULL);
        look_at_gpus(m, stands, ret, now);
        if (computes_elsewhere(m)) {
                ret->uses_gpu = true;
                ret->gpu_known = false;
        }
}

bool member_judge_work(struct member *m, usec_t now)
{
        const struct config_health *h = &m->entry->health;
        const struct wedge_policy policy = {.limit = h->standstill, .blind_limit = h->silence};
        struct wedge_fact fact;
        enum wedge_verdict verdict;
        char text[256], span[TIME_SPAN_MAX];

        if (m->in.state != INSTANCE_READY || !m->process)
                return false;
        gather(m, &fact, now);
        verdict = wedge_feed(&m->wedge, &policy, &fact, now);
        m->judged_at = now;
        if (m->canary != CANARY_ASKED && !wedge_stands(&m->wedge, now))
                m->canary = CANARY_NONE;
        if (verdict == WEDGE_ASK)
                m->canary =
                        probe_canary(m->probe, policy.limit / CANARY_PART) == 0 ? CANARY_ASKED : CANARY_NONE;
        if (verdict != WEDGE_STUCK && verdict != WEDGE_SPINNING)
                return false;
        (void)snprintf(text, sizeof text,
                       "%u %s under way stood still for %s although /health was answered: no token came%s%s",
                       fact.work, fact.work == 1 ? "request" : "requests",
                       time_span(wedge_stands(&m->wedge, now), span, sizeof span),
                       verdict == WEDGE_SPINNING ? ", it turned in circles" : ", it did nothing",
                       m->canary == CANARY_SILENT ? ", and one token that we asked for did not come either"
                                                  : "");
        member_give_up(m, DEATH_WEDGED, text, now);
        return true;
}
