/* backoff.c: exponential back-off with jitter. */
#include "core/backoff.h"

usec_t backoff_delay(const struct backoff_policy *policy, unsigned n, uint32_t random)
{
        usec_t delay = policy->initial;
        double spread;

        while (n-- > 0 && delay < policy->max)
                delay *= 2;
        if (delay > policy->max)
                delay = policy->max;
        spread = ((double)random / UINT32_MAX * 2 - 1) * policy->jitter;
        return (usec_t)((double)delay * (1 + spread));
}
