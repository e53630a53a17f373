/* freeing.h: is the memory of a GPU back, now that the process is gone that held it? Pure.
 *
 * A driver may give it back a while after the process was reaped. What the driver told that the process held is back when seven eighths
 * of it are free again: somebody else may take a little meanwhile. Of an estimate half is enough, and it is not waited for when the figure
 * has not moved for FREEING_STEADY. After FREEING_PATIENCE the wait ends in any case. Where the driver tells no figure (0), the end of the
 * process is all there is to know. */
#ifndef LSV_CORE_FREEING_H
#define LSV_CORE_FREEING_H

#include <stdbool.h>

#include "base/time.h"

#define FREEING_STEADY   (500 * USEC_PER_MSEC)
#define FREEING_PATIENCE (10 * USEC_PER_SEC)

struct freeing {
        uint64_t before;   /* bytes in use when the unloading began; 0: unknown */
        uint64_t expected; /* bytes that should come back; 0: unknown */
        bool is_told;      /* the driver said that the process held them */
        bool is_late;      /* they were told, and the wait ended without them */
        uint64_t last;
        usec_t last_at, until; /* until 0: nothing is awaited */
};

/* The process is gone. */
void freeing_begin(struct freeing *f, uint64_t before, uint64_t expected, bool is_told, usec_t now);
/* used: what the GPU tells now. True: it is back, or was not awaited. */
bool freeing_is_over(struct freeing *f, uint64_t used, usec_t now);

#endif
