/* freeing.h: is the memory of a GPU back, now that the process is gone that held it? Pure.
 *
 * A driver may give it back a while after the process was reaped. It counts as back when half of what was expected is free again (what
 * is expected may be an estimate), or when the figure has not moved for FREEING_STEADY, or after FREEING_PATIENCE in any case. Where the
 * driver tells no figure (0), the end of the process is all there is to know. */
#ifndef LSV_CORE_FREEING_H
#define LSV_CORE_FREEING_H

#include <stdbool.h>

#include "base/time.h"

#define FREEING_STEADY   (500 * USEC_PER_MSEC)
#define FREEING_PATIENCE (10 * USEC_PER_SEC)

struct freeing {
        uint64_t before;   /* bytes in use when the unloading began; 0: unknown */
        uint64_t expected; /* bytes that should come back; 0: unknown */
        uint64_t last;
        usec_t last_at, until; /* until 0: nothing is awaited */
};

/* The process is gone. */
void freeing_begin(struct freeing *f, uint64_t before, uint64_t expected, usec_t now);
/* used: what the GPU tells now. True: it is back, or was not awaited. */
bool freeing_is_over(struct freeing *f, uint64_t used, usec_t now);

#endif
