/* freeing.c: patience with a driver. */
#include "core/freeing.h"

void freeing_begin(struct freeing *f, uint64_t before, uint64_t expected, bool is_told, usec_t now)
{
        *f = (struct freeing){.before = before,
                              .expected = expected,
                              .is_told = is_told,
                              .last = before,
                              .last_at = now,
                              .until = before ? usec_add(now, FREEING_PATIENCE) : 0};
}

bool freeing_is_over(struct freeing *f, uint64_t used, usec_t now)
{
        uint64_t enough = f->is_told ? f->expected - f->expected / 8 : f->expected / 2;
        bool back = f->expected && used < f->before && f->before - used >= enough;
        bool still;

        if (!f->until)
                return true;
        if (used != f->last) {
                f->last = used;
                f->last_at = now;
        }
        still = !f->is_told && usec_sub(now, f->last_at) >= FREEING_STEADY;
        if (!used || back || now >= f->until || still) {
                f->is_late = f->is_told && used && !back;
                f->until = 0;
                return true;
        }
        return false;
}
