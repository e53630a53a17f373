/* standstill.c: the evidence for core/wedge, gathered at each probe that was answered well. */
#include <stdio.h>

#include "base/macros.h"
#include "fleet/private.h"
#include "fleet/seat.h"

/* A canary must have failed before the limit is over. */
enum { CANARY_PART = 4 };

/* Threads are looked at only when nothing else moves. */
static const usec_t LOOK_CLOSER_AFTER = USEC_PER_SEC;

static void look_at_gpus(const struct member *m, struct wedge_fact *fact)
{
        const struct fleet *f = m->fleet;
        uint64_t mask = m->gpu_seen ? m->gpu_seen : m->gpu_mask;

        if (!mask)
                return;
        fact->uses_gpu = fact->gpu_known = true;
        for (size_t i = 0; i < f->n_gpus; i++) {
                const struct gpu_figures *g = &f->gpus[i].figures;
                bool known = g->known & GPU_KNOWS_USE && fleet_gpus_are_fresh(f);

                if (!(mask >> i & 1))
                        continue;
                fact->gpu_known = fact->gpu_known && known;
                fact->gpu_active = fact->gpu_active || (known && g->use >= 0.01);
        }
}

static void gather(struct member *m, struct wedge_fact *ret, usec_t now)
{
        usec_t fresh = usec_add(m->entry->health.interval * 2, m->entry->health.timeout);
        bool told = m->slots_at && usec_sub(now, m->slots_at) < fresh;

        *ret = (struct wedge_fact){
                .work = MAX(seat_owed(m->seat), told ? m->busy : 0),
                .says_idle = told && m->says_idle && m->slots_at > m->judged_at,
                .bytes = seat_heard(m->seat),
                .tokens = m->slot_progress,
                .decodes = told && m->all_decode,
                .cpu = USEC_INFINITY,
                .slot_free = m->slots > MAX(seat_in_flight(m->seat), m->busy),
                .canary = m->canary,
        };
        if (!ret->work || !m->process)
                return;
        (void)process_cpu_time(m->process, &ret->cpu);
        if (wedge_stands(&m->wedge, now) >= MIN(LOOK_CLOSER_AFTER, m->entry->health.standstill / 4))
                ret->wants_to_run = process_wants_to_run(m->process);
        look_at_gpus(m, ret);
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
