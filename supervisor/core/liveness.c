/* liveness.c: counting what matters. */
#include "core/liveness.h"

#include "base/macros.h"

void liveness_start(struct liveness *l, usec_t now)
{
        *l = (struct liveness){.last_answer = now, .last_fact = now, .last_cpu = USEC_INFINITY};
}

/* One percent of a core is work; less is what an idle or wedged process burns in its timers. */
static bool has_moved(const struct liveness *l, const struct probe_fact *fact, usec_t now)
{
        usec_t spent;

        if (fact->bytes != l->last_bytes)
                return true;
        if (fact->cpu == USEC_INFINITY || l->last_cpu == USEC_INFINITY)
                return false;
        spent = usec_sub(fact->cpu, l->last_cpu);
        return spent > 0 && spent >= usec_sub(now, l->last_fact) / 100;
}

static enum liveness_verdict judge_start(struct liveness *l, const struct liveness_policy *policy)
{
        if (policy->free_start && l->moving) {
                l->attempts = 0;
                return LIVENESS_SICK;
        }
        return ++l->attempts >= policy->start_attempts ? LIVENESS_DEAD : LIVENESS_SICK;
}

enum liveness_verdict liveness_feed(struct liveness *l, const struct liveness_policy *policy,
                                    const struct probe_fact *fact, bool starting, usec_t now)
{
        enum liveness_verdict verdict;
        bool unmeasured;

        if (fact->kind == PROBE_LOCAL)
                return LIVENESS_NONE;
        unmeasured = fact->cpu != USEC_INFINITY && l->last_cpu == USEC_INFINITY;
        l->moving = has_moved(l, fact, now);
        l->last_cpu = fact->cpu;
        l->last_bytes = fact->bytes;
        l->last_fact = now;
        if (fact->kind == PROBE_WELL || fact->kind == PROBE_LOADING) {
                l->bad = l->still = l->attempts = 0;
                l->last_answer = now;
                return fact->kind == PROBE_WELL ? LIVENESS_HEALTHY : LIVENESS_LOADING;
        }
        if (starting)
                return judge_start(l, policy);
        verdict = LIVENESS_SICK;
        if (fact->kind == PROBE_TIMEOUT) {
                l->still = l->moving ? 0 : l->still + 1;
                l->bad = 0;
                /* Whether it stands still is known from the second look at its CPU time on. */
                if (l->still >= policy->failures && !unmeasured)
                        verdict = LIVENESS_DEAD;
        } else {
                l->bad++;
                l->still = 0;
                if (l->bad >= policy->failures)
                        verdict = LIVENESS_DEAD;
        }
        if (usec_sub(now, l->last_answer) >= policy->silence)
                verdict = LIVENESS_DEAD;
        return verdict;
}
