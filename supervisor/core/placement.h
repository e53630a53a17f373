/* placement.h: what has to go so that a model that is asked for fits beside the others. Pure.
 *
 * The room is three things: how many instances may be loaded at a time, the bytes of each GPU that they may take together, and
 * groups (of an exclusive one a single member at a time; one that is together comes, goes and counts as a whole). Only
 * on-demand entries take part, on both sides.
 *
 * Chosen to go are those that were not used for longest, and only such as hold some of what is short; whoever turns out not to have been
 * needed for it stays. Never a busy one, never a pinned one. Who is asked for but waits still (FIFO) is given to those behind it as
 * loaded and busy, so that nobody takes its room meanwhile. */
#ifndef LSV_CORE_PLACEMENT_H
#define LSV_CORE_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/time.h"

enum { PLACEMENT_GPUS = 64, PLACEMENT_WHY_MAX = 256 };

struct placement_entry {
        const char *name; /* for the words */
        unsigned group;   /* 0: in none; else the same number for all of a group */
        bool together;    /* its group is one; else its group is exclusive */
        bool loaded;      /* holds room: is loaded, loads, or is about to be tried again */
        bool leaving;     /* is being unloaded: holds its room until it is gone */
        bool busy, pinned;
        usec_t used;            /* last use */
        unsigned instances;     /* that hold room; of one that is not loaded: that it comes with */
        const uint64_t *memory; /* bytes of each GPU that it takes, n_gpus of them; NULL: none */
};

struct placement_room {
        unsigned max_loaded; /* 0: no bound */
        uint64_t gpu_memory; /* of each GPU, 0: no bound */
        unsigned n_gpus;     /* at most PLACEMENT_GPUS */
};

enum placement_verdict {
        PLACEMENT_LOAD,       /* it fits now */
        PLACEMENT_EVICT,      /* once those in evict[] are gone */
        PLACEMENT_LEAVING,    /* once those are gone that are on their way out already */
        PLACEMENT_WAIT,       /* busy ones are in the way; evict[]: all that would have to go */
        PLACEMENT_PINNED,     /* pinned ones are in the way, for as long as they are loaded */
        PLACEMENT_IMPOSSIBLE, /* it does not fit alone */
};

/* wanted: its place in the list, not loaded. evict: n of them. why (PLACEMENT_WHY_MAX): plain words for all but LOAD and EVICT, else "". */
enum placement_verdict placement_decide(const struct placement_entry *list, size_t n, size_t wanted,
                                        const struct placement_room *room, bool *evict, char *why,
                                        size_t size);
/* Comes with it: itself, and the rest of its group when that is together. */
bool placement_comes_with(const struct placement_entry *list, size_t wanted, size_t i);

#endif
