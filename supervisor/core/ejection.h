/* ejection.h: an instance that fails again and again is left alone for a while. Pure.
 *
 * After `failures` failed answers in a row (5xx, reset, malformed, late) it is out for initial × 2ⁿ, at most max; n is how often it
 * was out before. When its time is over it is in again on trial: the next failure puts it out at once, for twice as long, for
 * the row of failures goes on. A success ends the row; `failures` successes in a row forgive one of the n. A new process
 * starts with a clean sheet. Who is out is the balancer's business: never the last one. Source: outlier detection as Envoy
 * documents it ("consecutive 5xx", ejection time growing with the number of ejections), with forgiveness by success. */
#ifndef LSV_CORE_EJECTION_H
#define LSV_CORE_EJECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/time.h"

struct ejection_policy {
        unsigned failures; /* 0: never */
        usec_t initial, max;
};

struct ejection {
        unsigned failed, succeeded; /* in a row */
        unsigned times;             /* n */
        usec_t until;               /* 0: in */
};

/* True when this failure put it out. */
bool ejection_failure(struct ejection *e, const struct ejection_policy *policy, usec_t now);
void ejection_success(struct ejection *e, const struct ejection_policy *policy);
bool ejection_is_out(const struct ejection *e, usec_t now);

#endif
