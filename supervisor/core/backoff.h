/* backoff.h: exponential back-off with jitter: delay(n) = min(initial * 2^n, max), spread evenly by ±jitter.
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog (here: equal spread around the mean, so that the
 * documented delay is what people see on average). */
#ifndef LSV_CORE_BACKOFF_H
#define LSV_CORE_BACKOFF_H

#include <stdint.h>

#include "base/time.h"

struct backoff_policy {
        usec_t initial, max;
        double jitter; /* 0 to 1: 0.2 means ±20 % */
};

/* The delay before try n (0 is the first retry). random: any 32 random bits. Never over max * (1 + jitter). */
usec_t backoff_delay(const struct backoff_policy *policy, unsigned n, uint32_t random);

#endif
