/* pace.c: moments on a grid. */
#include "core/pace.h"

/* 2^32 over the golden ratio: however many multiples of it there are, they lie evenly (Knuth, TAOCP 6.4). */
#define FIBONACCI_32 UINT32_C(2654435769)

uint32_t pace_spread(uint32_t n)
{
        return n / PACE_TOGETHER * FIBONACCI_32 & ~(UINT32_MAX / PACE_MOMENTS);
}

usec_t pace_next(usec_t after, usec_t interval, uint32_t spread)
{
        usec_t offset = interval * spread >> 32, t = after + interval - offset;

        return t - t % interval + offset;
}
