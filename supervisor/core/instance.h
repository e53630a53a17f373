/* instance.h: the life of one llama-server as a pure table: (state, event) -> (state, order).
 *
 * The state is written by instance_step() and nowhere else. The wish (want_up) is a second field; a restart is a wish
 * too (want_again). There is one deadline; what it means is the state's business. Nobody here knows a clock or a process:
 * the fleet classifies facts into events, steps, and carries the orders out with its hands.
 * docs/LIFE.md is printed from this table by a test. */
#ifndef LSV_CORE_INSTANCE_H
#define LSV_CORE_INSTANCE_H

#include <stdbool.h>

#include "base/time.h"
#include "core/backoff.h"

enum instance_state {
        INSTANCE_OFF,      /* not running and not wanted, or not looked at yet */
        INSTANCE_PENDING,  /* wanted, waits for its turn to load */
        INSTANCE_SEEKING,  /* a fixed endpoint: does somebody answer there already? */
        INSTANCE_STARTING, /* spawned or taken over, no answer yet */
        INSTANCE_LOADING,  /* answers "loading model" */
        INSTANCE_READY,
        INSTANCE_UNHEALTHY, /* was ready, probes fail, below the limit */
        INSTANCE_DRAINING,  /* no new work, waits for the running one */
        INSTANCE_STOPPING,  /* SIGTERM sent */
        INSTANCE_KILLING,   /* SIGKILL sent */
        INSTANCE_WAITING,   /* died, the next try is scheduled */
        INSTANCE_FAILED,    /* tries used up: needs a person or a changed config */
        INSTANCE_LOST,      /* somebody else's server that does not answer: looked for until it does */
        INSTANCE_IDLE,      /* not running on purpose: comes back on demand */
        INSTANCE_STATES,
};

enum instance_event {
        EV_START,     /* wanted up: at boot, by a person, by a reload */
        EV_STOP,      /* wanted down, or down and up again (want_again) */
        EV_DRAIN,     /* the same, but what runs on it may end, within drain_for */
        EV_GRANTED,   /* its turn to load has come, and it is ours to spawn */
        EV_SEEK,      /* its turn has come, and its endpoint may be answered already */
        EV_ADOPTED,   /* a living process of an earlier daemon was taken over */
        EV_LOADING,   /* the probe was told "loading model" */
        EV_HEALTHY,   /* the probe was answered well; of one that comes up: and it was asked for its models */
        EV_SICK,      /* the probe failed, below the limit */
        EV_DEAD,      /* the probe failed for good, and the process is ours to kill */
        EV_ABSENT,    /* nobody answers at its endpoint, and we know how to start one */
        EV_LOST,      /* nobody answers at its endpoint, and it is not ours to start */
        EV_DRAINED,   /* no work is left on it */
        EV_RESUME,    /* wanted up again while it drains: it stays */
        EV_EXITED,    /* the process is gone (or could not be spawned), wanted, tries left */
        EV_EXHAUSTED, /* the same, no tries left; of one that is not there yet: it does not fit into the GPUs */
        EV_GONE,      /* the process is gone, and it is not wanted */
        EV_AGAIN,     /* the process is gone, and a restart was asked for */
        EV_DEADLINE, /* the state's deadline is over */
        EV_BARRED, /* its turn has come, but it may not run: its GPU is cordoned, say. It comes back when it may */
        EV_REST, /* no process is there (any more), and it comes back on demand */
        INSTANCE_EVENTS,
};

/* What the fleet's hands must do after a step; bits. */
enum instance_order {
        ORDER_SPAWN = 1 << 0,
        ORDER_TERM = 1 << 1,    /* close our own upstream connections, then SIGTERM to the group */
        ORDER_KILL = 1 << 2,    /* SIGKILL to the group */
        ORDER_FORGIVE = 1 << 3, /* retries = 0 (done by the step itself; for the log) */
        ORDER_LET_GO = 1 << 4,  /* somebody else's server: forget it without a signal */
};

struct instance_policy {
        struct backoff_policy backoff;
        unsigned max_retries; /* INSTANCE_RETRIES_FOREVER: never give up */
        usec_t reset_after, load_timeout, grace, drain;
};
#define INSTANCE_RETRIES_FOREVER ((unsigned)-1)

struct instance {
        enum instance_state state;
        bool want_up;
        bool want_again;      /* the running stop is half of a restart */
        bool rests;           /* on demand: when it is down it is IDLE, not OFF */
        unsigned retries;     /* tries since it was last well for reset_after */
        usec_t drain_for;     /* set before EV_DRAIN: how long work may run on; 0: policy.drain */
        usec_t deadline;      /* monotonic, USEC_INFINITY when none */
        usec_t since;         /* when this state began */
        usec_t ready_since;   /* 0 while not up; survives UNHEALTHY and DRAINING */
        unsigned jitter_seed; /* any number; makes back-off of many instances fall apart */
        struct instance_policy policy;
};

/* One cell of the table. */
struct instance_cell {
        bool written; /* the test refuses cells that nobody wrote */
        enum instance_state to;
        unsigned orders;
};
const struct instance_cell *instance_cell(enum instance_state state, enum instance_event event);

/* Moves `in`, sets its deadline, counts retries; returns the orders. */
unsigned instance_step(struct instance *in, enum instance_event event, usec_t now);

/* "The process is gone" said precisely: EV_EXITED, EV_EXHAUSTED, EV_GONE, EV_REST or EV_AGAIN. */
enum instance_event instance_classify_exit(const struct instance *in);

bool instance_is_running(const struct instance *in); /* a process is or may be there */
bool instance_is_up(const struct instance *in); /* READY or UNHEALTHY: may be given work (UNHEALTHY last) */
bool instance_is_probed(const struct instance *in);
bool instance_is_loading(const struct instance *in); /* holds the turn to load: SEEKING, STARTING, LOADING */

const char *instance_state_name(enum instance_state state); /* "LOADING", for logs and LIFE.md */
const char *instance_event_name(enum instance_event event);
/* The public word on every door: initial starting ready unhealthy draining stopping crashed error idle. */
const char *instance_status(enum instance_state state);

#endif
