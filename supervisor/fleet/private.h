/* private.h: the fleet's own struct, shared by the files of this room only. */
#ifndef LSV_FLEET_PRIVATE_H
#define LSV_FLEET_PRIVATE_H

#include "base/index.h"
#include "core/gpu_policy.h"
#include "fleet/activity.h"
#include "fleet/member.h"
#include "fleet/modelfiles.h"
#include "host/binary.h"
#include "host/gpu.h"

enum { FLEET_SUBSCRIBERS = 8, FLEET_GPUS = GPUS_MAX, FLEET_UNITED_MODELS = 256 };

/* No instance is started on it. Who: "xid", "lost", "deaths" or "person". */
struct gpu_cordon {
        char gpu[96]; /* its uuid, or the PCI address of one without */
        char pci[16]; /* where it was seen last: until a driver tells its uuid it is known by that; "" of a part */
        usec_t since; /* realtime */
        char by[16], why[256];
        char boot[40]; /* of which boot it is */
};

struct gpu_note {
        const struct gpu_cordon *cordon; /* of gpu_care.c, NULL: it has none */
        uint64_t xids;                   /* errors that were told of */
        usec_t xid_at;                   /* realtime of the last, 0: none */
        bool told_lost;                  /* that it was lost */
        uint64_t memory_total;           /* the last that was told: of one that is lost, nothing is */
        unsigned absent;                 /* in so many snapshots in a row */
        usec_t absent_since;             /* monotonic, the first of them */
        char gone[96];                   /* uuid of the part that had this place, "": it is there */
        usec_t chance_at, lost_at;       /* monotonic: an error, a loss that was taken for chance; 0: none */
        struct gpu_deaths deaths;        /* of instances on it */
};

struct fleet {
        struct loop *loop;
        struct config *config;
        uint64_t config_number;
        fleet_load_fn *load;
        void *load_owner;
        struct member **members;
        size_t n_members, cap_members;
        uint32_t members_ever;
        uint32_t phase;       /* random: of its probes' moments */
        struct index by_name; /* of members */
        struct list touched;
        struct binaries *binaries;
        struct history *history;
        struct library *library;
        struct modelfiles *modelfiles;
        struct dynamics *dynamics;
        struct activity *activity;
        struct demand *demand;
        struct relays *relays;
        struct dispatch *dispatch;
        struct gpu gpus[FLEET_GPUS]; /* their places never change: members remember GPUs by them */
        size_t n_gpus;
        struct gpu_note gpu_notes[FLEET_GPUS]; /* what we know besides, place by place */
        struct fleet_load_figures loads;
        struct {
                bool known;       /* while turns are granted: one look at all for all */
                uint64_t loading; /* GPUs on which somebody loads */
                size_t pending;   /* who waits for a turn: those in PENDING, counted by member_step */
        } turns;
        struct {
                bool changes, rolls, removed;
        } look_for; /* at the end of the turn: whether any of a thousand members has that flag (member_changed …) */
        struct gpus *gpu_facts;    /* gpus_facts.c */
        struct gpu_care *gpu_care; /* gpu_care.c */
        struct gpu_hits *gpu_hits; /* gpu_hits.c; NULL: nobody listens */
        struct places *places;     /* place.c */
        unsigned cpus;
        uint64_t memory;         /* bytes of the machine */
        struct cgroups *cgroups; /* NULL: cgroups_why */
        char *cgroups_why, *limits_problem;
        struct timer *usage_timer;
        usec_t usage_turn;
        unsigned usage_count;
        char *instances_dir, *counts_dir, *cache_dir;
        char **own_env; /* the daemon's environment as it was at start */
        struct {
                fleet_change_fn *fn;
                void *owner;
        } subscribers[FLEET_SUBSCRIBERS];
        struct fleet_change *changes;
        size_t cap_changes;
        char *reload_error;
        struct list reloads; /* in their order; the first is in the pool */
        bool started, stopping;
        void (*on_stopped)(void *owner);
        void *stopped_owner;
        struct report aggregate;
        struct report_model united[FLEET_UNITED_MODELS];
        uint64_t aggregate_seq;
};

/* turns.c: no other instance loads on one of its GPUs. */
bool fleet_may_load(const struct member *m);
/* At the end of a turn of the loop; both walk the members only when somebody waits for it. */
void fleet_grant_turns(struct fleet *f, usec_t now);
void fleet_roll(struct fleet *f, usec_t now);
/* gpus_facts.c: looks for the GPUs (at start and after a reload), and has them watched from then on. */
void fleet_read_gpus(struct fleet *f);
void fleet_forget_gpus(struct fleet *f);
/* The last snapshot is not so old that its figures would be a lie. */
bool fleet_gpus_are_fresh(const struct fleet *f);
/* Monotonic, of the last snapshot; 0: there was none. */
usec_t fleet_gpus_at(const struct fleet *f);
/* Fresh figures of their memory, a moment from now. */
void fleet_ask_gpus(struct fleet *f);
/* gpu_care.c: instances may be placed on it: it is neither lost, nor cordoned, nor divided into parts. g is one of f->gpus. */
bool gpus_takes_work(const struct fleet *f, const struct gpu *g);
/* Its cordon, or that of the GPU that it is a part of; NULL: it has none. */
const struct gpu_cordon *gpus_cordon(const struct fleet *f, const struct gpu *g);
/* gpus.c: it is not only the place of a part (MIG) that is gone: those are divided, and nameless. */
bool gpus_is_there(const struct gpu *g);
/* Both vendors are there, so that a program may not be able to use all. */
bool gpus_are_mixed(const struct gpu *list, size_t n);
/* The entry's program tells of itself what it can use: nothing of its own makes it see others. */
bool gpus_asks(const struct config_instance *e);
/* Bit by place: those that a program can use that told that; all, when it told nothing. */
uint64_t gpus_of_kinds(const struct gpu *list, size_t n, const struct devices *d);
/* Of these, those that get a replica of "per-gpu". */
uint64_t gpus_computing(const struct gpu *list, size_t n, uint64_t among);
/* The place of the one with that uuid or index; n: there is none. Each vendor counts from 0: an index is of those that can be reached, if there is
 * such one. */
size_t gpus_find(const struct gpu *list, size_t n, uint64_t reach, const char *id);
/* Bit by place: those that the entry's program can use, of both vendors' by what its --list-devices named; all while nobody knows. */
uint64_t gpus_reach(const struct fleet *f, const struct config_instance *e);
/* That is all there are. */
bool gpus_reach_all(const struct fleet *f, const struct config_instance *e);
/* There are GPUs of two vendors, and what the entry's program tells of itself picks among them. */
bool gpus_are_picked(const struct fleet *f, const struct config_instance *e);
/* What must be known before a start: 0; -EINPROGRESS: its program is being asked, or the driver, for the first time, and not yet silent. */
int gpus_ask(const struct member *m);
/* gpus_facts.c: there was no snapshot yet, though there may be GPUs: what is known of them is what the kernel's files show, or nothing. */
bool gpus_are_guessed(const struct fleet *f);
/* The same, and it is still to come: the driver is not silent. */
bool gpus_are_awaited(const struct fleet *f);
/* True once after the first snapshot, when replicas were counted without it, or when a program has told what it can use, and they were counted
 * without that. */
bool gpus_became_known(struct fleet *f);
/* Asks the programs of entries with replicas "per-gpu" which GPUs they can use, where that is to be known and has not been told. anew: and where
 * they told that they cannot use all; a driver may have come meanwhile. */
void gpus_ask_for_replicas(struct fleet *f, const struct config *c, bool anew);
/* gpus.c: its program picks among them, and never told which. */
bool gpus_are_untold(const struct fleet *f, const struct config_instance *e);
/* Its replicas are counted, but a driver or its program has yet to tell of how many. */
bool gpus_replicas_are_guessed(const struct fleet *f, const struct config_instance *e);
/* Some program has answered. */
void gpus_told_devices(struct fleet *f);
/* The last one could not be taken, since we are short of files: what is told of GPUs is of before. */
bool gpus_are_hidden(const struct fleet *f);
struct member *fleet_member(const struct fleet *f, const char *name);
int fleet_add_member(struct fleet *f, struct member *m);
void fleet_settle(void *owner, usec_t now);
void fleet_restart_member(struct member *m, usec_t now);
void fleet_note_load(struct fleet *f, usec_t span);
/* Tells of an event of the daemon itself, in the history and in the log. */
void fleet_tell(struct fleet *f, int level, const char *kind, const char *text);
/* The same of a GPU; g NULL: of all of them. */
void gpus_tell(struct fleet *f, int level, const char *kind, const struct gpu *g, const char *text);
unsigned fleet_replicas(const struct fleet *f, const struct config_instance *entry);
/* As many as were counted when it was configured: what a driver shows from moment to moment makes no member, and ends none. anew: those that
 * were guessed are counted anew, unless the program has failed to tell. */
unsigned fleet_replicas_now(const struct fleet *f, const struct config_instance *e, bool anew);
/* Makes the members that the config asks for and that are not there yet. */
int fleet_make_members(struct fleet *f, const struct config *c);
/* apply.c: the first snapshot of the GPUs came late, or what a program can use of them: replicas "per-gpu" that were counted without it are
 * counted anew. */
void fleet_fit_replicas(struct fleet *f, usec_t now);
/* It is not in the configuration any more, or beyond its range: stopped, then gone. -ENOMEM: it stays. */
int fleet_remove_member(struct member *m, usec_t now);
/* Settings of a member whose entry is gone: only what stopping needs. */
struct config_instance *fleet_leftover_entry(const struct fleet *f, const char *name);

/* relay.c: the fleet's running relays and the spare ones. relays_free ends what still runs, without a callback. */
struct relays;
int relays_new(struct relays **ret);
struct relays *relays_free(struct relays *rs);

/* groups.c: control groups (host/cgroup.h). */
void groups_open(struct fleet *f);
void groups_sweep(struct fleet *f); /* after everybody was taken over */
void groups_check(struct fleet *f); /* tells which limits cannot be kept, when that has changed */

/* apply.c: takes c over as the configuration: restarts, starts and stops what differs. -ENOMEM: c is freed, nothing was changed. */
int fleet_apply(struct fleet *f, struct config *c, usec_t now);
/* reload.c: nobody is answered any more; what is being read is let go. */
void fleet_reloads_free(struct fleet *f);

/* dynamic.c: the instances that were started from the model library. */
int dynamics_new(struct fleet *f, struct dynamics **ret); /* reads state_dir/dynamic.json */
struct dynamics *dynamics_free(struct dynamics *d);
/* Their entries into a configuration that nobody uses yet. for_good: what the configuration has itself now is forgotten, and told. */
void dynamics_add(struct dynamics *d, struct config *c, bool for_good);

/* gpus.c: which GPUs a member is pinned to. 0; -ENODEV with words in detail. */
/* gpu_mask out of m->gpu, for a process that was taken over. */
void fleet_mask_pinned(struct member *m);
int fleet_pin(struct member *m, char ***ret_env, char *detail, size_t size);

#endif
