/* place_private.h: what the files of this room know of place*.c. */
#ifndef LSV_FLEET_PLACE_PRIVATE_H
#define LSV_FLEET_PLACE_PRIVATE_H

#include "core/fit.h"
#include "core/freeing.h"
#include "fleet/learned.h"
#include "fleet/modelfiles.h"
#include "fleet/place.h"
#include "fleet/private.h"

/* One member's account; NULL as long as there is nothing to tell. */
struct hold {
        uint64_t mask;              /* where "auto" has put it, 0: nowhere */
        uint64_t takes[FLEET_GPUS]; /* promised at its start; zeros: not known */
        uint64_t held[FLEET_GPUS];  /* what its processes hold by the last snapshot */
        uint64_t used
                [FLEET_GPUS]; /* of the GPU, when it held that: not of a moment in which the driver tells of an end by halves */
        uint64_t seen;               /* bit i: one of them is on GPU i by the last snapshot */
        bool is_told;                /* the driver tells how many bytes */
        char key[LEARNED_KEY_MAX];   /* of what it runs with, "": not known */
        struct memory_need estimate; /* as its header and arguments tell it */
        uint64_t context;            /* that its model was trained for */
        uint64_t had[FLEET_GPUS];    /* free when it was started, 0: not known */
        bool told_part;              /* that it may have left something on the CPU */
        usec_t waits_since;          /* for room; 0: it does not */
        usec_t blind_since;          /* for figures that could not be read; 0: it does not */
        usec_t spare_until;          /* it has room, and waits no longer for its spare; 0: it did not yet */
        usec_t look_at;              /* not decided again before, while nothing can have come of it */
        bool waits_for_back;         /* counted: for memory of the last one */
        char *why;                   /* our words in lastError */
        bool warned;                 /* that it may not fit where a person put it, or is not placed */
};

struct places {
        struct learned *learned;
        struct timer *timer;
        struct freeing freeing[FLEET_GPUS];
        usec_t asked_at; /* for a fresh snapshot, 0: not */
        uint64_t number; /* of the last snapshot that was looked at */
        struct place_figures figures;
        /* Of each GPU, what is promised and not held yet: a sum over all members, made once a turn. */
        uint64_t owed[FLEET_GPUS];
        usec_t owed_at;
        bool owed_known;
};

int places_new(struct fleet *f, struct places **ret);
struct places *places_free(struct places *p);

/* Needs (place_need.c). source: where files are looked at. */
struct place_files {
        /* 0; -EINPROGRESS: ask again later; other -errno: it cannot be had. */
        int (*look)(void *owner, const char *path, const struct modelfile **ret);
        void *owner;
};
struct place_need {
        struct memory_need need;
        struct memory_need estimate; /* of need, when nothing is given nor learned; wants 0: there is none */
        uint64_t learned;            /* 0: not known */
        uint64_t context;            /* that the model was trained for */
        char key[LEARNED_KEY_MAX];
        const char *unknown; /* why nothing is known; NULL: it is */
};
/* 0 (also when nothing is known), -EINPROGRESS, -ENOMEM. */
int place_find_need(const struct config_instance *e, const struct place_files *files, const struct learned *l,
                    struct place_need *ret);
/* Its arguments, variables, or those of the daemon say where it goes. */
bool place_is_left_alone(const struct config_instance *e, char *const *own_env);
struct place_files place_files_of(struct fleet *f, usec_t fresh);

/* In fleet_settle. */
enum place_verdict {
        PLACE_GO,
        PLACE_WAIT,    /* it stays PENDING */
        PLACE_STOPPED, /* it was refused, or waited for too long: its state has changed */
};
enum place_verdict place_member(struct member *m, usec_t now);
/* It was weighed a moment ago, and nothing can have come of it yet: nobody need look at anything of it. The loop turns thousands of times a second under
 * load, and there may be a thousand who wait. */
bool place_is_early(struct member *m, usec_t now);
void place_started(struct member *m); /* its process is there */
/* place_learn.c: looks at a new snapshot. */
void place_settle(struct fleet *f, usec_t now);
void place_remember_need(struct hold *h, const struct place_need *n);
/* From the snapshot: nobody is seen any more, then once for each process. memory 0: not told. */
void place_look_begins(struct fleet *f);
void place_saw(struct member *m, size_t gpu, uint64_t memory);
void place_gone(struct member *m, usec_t now); /* its process is gone; before it is forgotten */
void place_calm(struct member *m);             /* it does not want to be started any more */
struct hold *place_forget(struct hold *h);     /* NULL */

/* The memory of the processes that were there last is back, or is not waited for any longer. */
bool place_is_back(struct fleet *f, uint64_t mask, usec_t now);

/* The GPUs as core/fit wants them; names: FLEET_GPUS texts. except: what is promised to that one counts as free. */
enum { PLACE_NAME_MAX = 112 };
void place_gpus(const struct fleet *f, const struct member *except, struct fit_gpu *ret,
                char names[][PLACE_NAME_MAX]);
void place_name_gpu(const struct gpu *g, char ret[PLACE_NAME_MAX]);
/* Bit i: the entry's program can use GPU i, when it is well, and its figures of memory say what they can have. */
uint64_t place_usable(const struct fleet *f, const struct config_instance *e);
/* Figures of memory are known, and not too old. */
bool place_tells_memory(const struct fleet *f);
/* Where a member that is not there would go now; all GPUs when that is not known. */
uint64_t place_guess(struct member *m, const struct memory_need *need);

#define PLACE_SHARES "its GPU shares the memory of the CPU: how much it can have, nobody tells"

/* place_plan.c: the answer of fit_plan as JSON. */
struct place_line {
        const char *instance, *model, *status;
        const char *placement; /* what is configured: "auto", "list", "per-gpu", "none" */
        const char *why;       /* FIT_ITSELF: why nobody is asked */
        struct place_need need;
        uint64_t holds; /* a running one, 0: unknown */
        bool wanted;    /* it shall run */
        bool is_shown;
        struct fit_item item;
};
/* What is configured of it; mask: of a list or a replica of "per-gpu". why: NULL, or why llama-server is left to itself. */
void place_line_init(struct place_line *line, const struct config_instance *e, uint64_t mask,
                     const char *why);
/* complete: false while files are being looked at. */
void place_put_plan(bool complete, const struct gpu *gpus, const struct fit_gpu *before,
                    const struct fit_gpu *after, size_t n_gpus, const struct place_line *lines, size_t n,
                    struct json_writer *w);

#endif
