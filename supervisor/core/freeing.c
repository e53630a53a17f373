/* freeing.c: patience with a driver. */
#include "core/freeing.h"

void freeing_begin(struct freeing *f, uint64_t before, uint64_t expected, usec_t now)
{
        *f = (struct freeing){.before = before,
                              .expected = expected,
                              .last = before,
                              .last_at = now,
                              .until = before ? usec_add(now, FREEING_PATIENCE) : 0};
}

bool freeing_is_over(struct freeing *f, uint64_t used, usec_t now)
{
        bool back = f->expected && used < f->before && f->before - used >= f->expected / 2;

        if (!f->until)
                return true;
        if (used != f->last) {
                f->last = used;
                f->last_at = now;
        }
        if (!used || back || now >= f->until || usec_sub(now, f->last_at) >= FREEING_STEADY) {
                f->until = 0;
                return true;
        }
        return false;
}
