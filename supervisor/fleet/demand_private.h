/* demand_private.h: what is known of each entry that comes on demand or scales; shared by demand*.c, fleet.c, member.c and reload.c. */
#ifndef LSV_FLEET_DEMAND_PRIVATE_H
#define LSV_FLEET_DEMAND_PRIVATE_H

#include "core/placement.h"
#include "core/scale.h"
#include "fleet/demand.h"
#include "fleet/dispatch.h"
#include "fleet/private.h"
#include "fleet/seat.h"

/* How often the memory of a GPU is looked at while it should come back, and the load of a range while it is used. */
#define FREEING_INTERVAL (100 * USEC_PER_MSEC)
#define SCALE_INTERVAL   (250 * USEC_PER_MSEC)
/* The end of a use is written so much later, so that one that is used again and again costs two writes a pause, not one a request. A
 * daemon that is killed meanwhile leaves "in use" behind, and its idle time begins with the next one. */
#define DEMAND_KEEP_AFTER USEC_PER_SEC
/* How old may be what is known of the file of a model that is asked for. */
#define DEMAND_WEIGH_FRESH (10 * USEC_PER_SEC)

/* An entry with on_demand, or with replicas {"min","max"}. It outlives reloads by its name; entry is NULL once the entry is gone, and
 * then it stays only as long as a process of it does. */
struct demand_model {
        char name[CONFIG_NAME_MAX];
        const struct config_instance *entry;
        const struct config_group *group;

        /* Who wants it */
        bool wanted;         /* a ticket waits for it, or a person asked */
        bool asked;          /* by a person, or by preload: until it is ready or its tries are used up */
        bool preload;        /* asked at the start: takes free room only */
        usec_t wanted_since; /* also while it loads; 0 */
        char why[PLACEMENT_WHY_MAX]; /* what it waits for */

        /* How it is used */
        unsigned leases, peak;    /* peak: the most since the last look at the range */
        usec_t used_at, ready_at; /* ready_at 0: not ready */
        usec_t load_took;         /* the last load, from the first spawn to ready */
        usec_t load_at;           /* the load began; 0: it does not load */
        usec_t keep_alive;        /* KEEP_ALIVE_NONE: the entry's idle_timeout */
        bool served;              /* since it was loaded */
        bool restored;            /* an earlier daemon loaded it: used_at and keep_alive are of its record */
        usec_t kept_at;           /* used_at as the records have it; USEC_INFINITY: "in use", 0: not known */
        bool yields, yields_next; /* gets no new work: another one's turn; as the look under way finds */
        bool failed;              /* a load of it failed in this turn */

        /* How it is, counted from its members at the beginning of each look */
        unsigned members, up, loading, wanted_up, failed_members, held;
        unsigned holds; /* instances that hold room, on their way out or not */

        unsigned replicas; /* that are wanted of a range */
        bool renews;       /* instances go that were wanted: see demand_renew */
        struct scale scale;
        struct demand_figures figures;
};

struct demand {
        struct fleet *fleet;
        struct timer *timer;
        bool dirty, stale; /* there is something to look at; the configuration is another one */
        struct demand_model **models;
        size_t n, cap;
        struct index by_name;
        struct demand_model *last; /* found by name the last time */
        bool told_no_gpu;
};

int demand_new(struct fleet *f, struct demand **ret);
struct demand *demand_free(struct demand *d);
void demand_start(struct demand *d, usec_t now);  /* what is not wanted rests; what is preloaded comes */
void demand_settle(struct demand *d, usec_t now); /* in fleet_settle, before turns to load are granted */
void demand_reloaded(struct demand *d); /* the entries are others, before members are given theirs */
/* The member's state or wish changed. */
void demand_notice(struct member *m);
/* Its back-off is over: is it still wanted? */
bool demand_wants_again(const struct member *m);
/* A person's order on one instance. `all`: on the whole fleet, which loads nothing. True: there is nothing more to do. */
bool demand_order(struct member *m, enum fleet_verb verb, bool all, usec_t now);

/* demand.c, for the files beside it */
usec_t demand_until_of(const struct fleet *f, const struct demand_model *x); /* as demand_until; NULL: 0 */
void demand_look_again(struct demand *d);
bool demand_is_used(const struct demand *d,
                    const struct demand_model *x); /* a ticket waits for it or holds a lease */
bool demand_is_busy(const struct demand *d,
                    const struct demand_model *x); /* may not go for another one now */
/* When an idle one may go for another one: a moment after its last use, since a client that never pauses comes back at once. */
usec_t demand_rested(const struct demand_model *x);
void demand_tell(struct demand *d, const struct demand_model *x, const char *kind, const char *fmt, ...)
        PRINTF_LIKE(4, 5);
void demand_forgive(struct member *m);
void demand_forget_wish(struct demand_model *x);
void demand_start_member(struct member *m, usec_t now);
void demand_begin(struct demand *d, struct demand_model *x, usec_t now);
void demand_drop(struct demand *d, struct demand_model *x, enum demand_reason reason, const char *why,
                 usec_t now);
void demand_drop_together(struct demand *d, struct demand_model *x, enum demand_reason reason,
                          const char *why, usec_t now);
/* The last processes on the GPUs that it needs have given their memory back. */
bool demand_memory_is_back(struct demand *d, const struct demand_model *x, usec_t now);

/* demand_place.c */
void demand_place(struct demand *d, usec_t now,
                  usec_t *due); /* those who want room, in the order of asking */
/* 0 (x->why: what it would wait for); -ENOSPC: not even by waiting (x->why); -ENOMEM. */
int demand_judge(struct demand *d, struct demand_model *x, usec_t now);

/* demand_keep.c: members of a record (start.c): "inUse", "usedAt" (realtime, the end of the last use), "keepAlive" (usec, -1: for ever). */
void demand_put_use(const struct member *m, struct json_writer *w);
void demand_take_use(struct member *m, const struct json_value *record);
void demand_keep_use(struct demand *d, usec_t now, usec_t *due); /* writes what has changed */

/* demand_room.c: the member waits for GPU memory, and others that nobody uses hold it: those that were not used for longest go, as far as that helps. They
 * make place for its spare room, too, if they can; with_spare: for less nobody goes. True: some are on their way. */
bool demand_make_room(struct member *m, bool with_spare, usec_t now);

/* demand_scale.c */
void demand_scale(struct demand *d, struct demand_model *x, usec_t now, usec_t *due);

unsigned demand_waiting(const struct demand *d, const struct demand_model *x); /* tickets in its queue */

/* demand_orders.c: where all instances that were wanted went, and others came in their place (`renews`), these are wanted. */
void demand_renew(struct demand *d, usec_t now);

/* demand_models.c */
int demand_attach(struct demand *d, struct member *m); /* finds or makes the model of its entry */
struct demand_model *demand_find(struct demand *d, const char *name);
void demand_refresh(struct demand *d);
void demand_count(struct demand *d);
/* Of a range: how many are wanted now, for an entry of this or a new configuration. */
unsigned demand_replicas(const struct fleet *f, const struct config_instance *entry);
bool demand_is_loaded(const struct demand_model *x);
bool demand_is_leaving(const struct demand_model *x);
bool demand_is_together(const struct demand_model *a, const struct demand_model *b);
/* Bytes of each GPU that its instances take (core/memory.h); n_gpus of them. False: its file is being looked at, demand_look_again follows. */
bool demand_memory(const struct demand *d, const struct demand_model *x, uint64_t *ret);

#endif
