/* pace.h: when a thousand instances are asked how they are: at moments of their own, so that they do not come at once, and do not stay
 * together after the daemon was busy for a while and asked all of them when it was done. (As Prometheus offsets its scrapes.) Pure. */
#ifndef LSV_CORE_PACE_H
#define LSV_CORE_PACE_H

#include "base/time.h"

/* The part of the interval, 0 to 2^32 - 1, that moves the moments of the n-th. PACE_TOGETHER of them share one, and these lie evenly
 * however many there are, on PACE_MOMENTS of an interval: few questions at a time, so that nobody waits for them, and not each with a
 * wake-up of its own (eight instances at eight moments cost an idle daemon more than twice as much as at one). */
enum { PACE_TOGETHER = 8, PACE_MOMENTS = 32 };
uint32_t pace_spread(uint32_t n);
/* The first of its moments after `after`, an interval (over 0, at most an hour) away at most. */
usec_t pace_next(usec_t after, usec_t interval, uint32_t spread);

#endif
