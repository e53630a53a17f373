/* scale.c: one more, one less, or as it is. */
#include "core/scale.h"

#include <stdbool.h>

#include "base/macros.h"

/* Would one less have been enough for what runs and waits now? */
static bool has_spare(const struct scale_facts *f)
{
        unsigned slots = MAX(f->slots, 1U);

        return f->replicas > 0 && f->waited == 0 &&
               (uint64_t)f->leased <= (uint64_t)(f->replicas - 1) * slots;
}

static int change(struct scale *s, int by, usec_t now, usec_t *ret_due)
{
        s->changed_at = now;
        s->spare_since = 0;
        *ret_due = now;
        return by;
}

int scale_step(struct scale *s, const struct scale_policy *policy, const struct scale_facts *f, usec_t now,
               usec_t *ret_due)
{
        usec_t cool = s->changed_at ? usec_add(s->changed_at, policy->cooldown) : 0;
        usec_t due;

        *ret_due = USEC_INFINITY;
        /* The bounds may have been changed by a reload: they need no reason. */
        if (f->replicas < policy->min)
                return change(s, 1, now, ret_due);
        if (f->replicas > policy->max)
                return change(s, -1, now, ret_due);
        if (!has_spare(f))
                s->spare_since = 0;
        else if (!s->spare_since)
                s->spare_since = now;
        if (f->waited && f->replicas < policy->max && f->up >= f->replicas) {
                if (f->waited > policy->wait && now >= cool)
                        return change(s, 1, now, ret_due);
                due = f->waited > policy->wait ? cool : usec_add(now, policy->wait - f->waited + 1);
                *ret_due = MAX(due, cool);
        }
        if (s->spare_since && f->replicas > policy->min) {
                due = usec_add(s->spare_since, policy->idle);
                due = MAX(due, cool);
                if (now >= due)
                        return change(s, -1, now, ret_due);
                *ret_due = due;
        }
        return 0;
}
