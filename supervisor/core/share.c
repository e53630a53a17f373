/* share.c: who is offered the next free slot. */
#include "core/share.h"

#include "base/macros.h"

void share_split(unsigned free, struct share_taker *takers, size_t n)
{
        for (size_t i = 0; i < n; i++)
                takers[i].offered = takers[i].idle ? MIN(free, takers[i].most) : 0;
        for (; free; free--) {
                struct share_taker *best = NULL;
                double least = 0;

                for (size_t i = 0; i < n; i++) {
                        struct share_taker *t = takers + i;
                        double at = t->time + t->offered / t->weight;

                        if (t->idle || t->offered >= t->most || (best && at >= least))
                                continue;
                        best = t;
                        least = at;
                }
                if (!best)
                        return;
                best->offered++;
        }
}

double share_least(const struct share_taker *takers, size_t n)
{
        double least = 0;
        bool any = false, busy = false;

        for (size_t i = 0; i < n; i++) {
                const struct share_taker *t = takers + i;

                if (busy && t->idle)
                        continue;
                if (!any || t->time < least || (!busy && !t->idle))
                        least = t->time;
                any = true;
                busy |= !t->idle;
        }
        return least;
}

double share_took(const struct share_taker *t, double least)
{
        return MAX(t->time, t->idle ? least : t->time) + 1 / t->weight;
}
