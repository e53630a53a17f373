/* ejection.c: rows of failures and successes. */
#include "core/ejection.h"

#include <limits.h>

bool ejection_failure(struct ejection *e, const struct ejection_policy *policy, usec_t now)
{
        usec_t span = policy->initial;

        e->succeeded = 0;
        if (e->failed < UINT_MAX)
                e->failed++;
        /* What was under way when it was put out says nothing new. */
        if (policy->failures == 0 || e->failed < policy->failures || ejection_is_out(e, now))
                return false;
        for (unsigned i = 0; i < e->times && span < policy->max; i++)
                span *= 2;
        e->until = usec_add(now, span < policy->max ? span : policy->max);
        if (e->times < UINT_MAX)
                e->times++;
        return true;
}

void ejection_success(struct ejection *e, const struct ejection_policy *policy)
{
        e->failed = 0;
        if (++e->succeeded < policy->failures)
                return;
        e->succeeded = 0;
        if (e->times > 0)
                e->times--;
}

bool ejection_is_out(const struct ejection *e, usec_t now)
{
        return now < e->until;
}
