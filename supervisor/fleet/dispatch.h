/* dispatch.h: promises slots: from "a piece of work for this model" to a lease on one instance, through one honest queue a model.
 *
 * A ticket is one piece of work (an HTTP request, a hub job, a member of an ensemble). It is asked for with dispatch_ask, waits in
 * its model's queue (bounded in length and time, classes of priority, fair between keys), is granted a lease on an instance with a
 * free slot, and ends with ticket_done. In between, a try that failed before its first byte may ask for another instance with
 * ticket_retry: it then waits in front of everybody else of its class, and does not meet the instances that it has tried.
 *
 * Which instance: core/balancer by gateway.balance, over those that are ready, not draining, not ejected, with a free slot.
 * The queue itself: core/queue. Both are pure; this room knows the members.
 *
 * Who owns what: a ticket is the dispatch's; the asker holds a pointer from dispatch_ask until on_refuse, ticket_done or
 * ticket_cancel. Callbacks come from the loop at the end of a turn (before the fleet publishes), never from inside the functions
 * below, so an asker may hold locks on nothing and free itself in any of them.
 *
 * An instance that goes: its leases are told on_revoke when it must be gone (drain deadline over, daemon stops, it died); the
 * holder cancels its upstream leg at once and calls ticket_retry (nothing of the answer had come) or ticket_done. A
 * draining instance gets no new lease; what waits goes elsewhere by itself, since the queue is the model's. */
#ifndef LSV_FLEET_DISPATCH_H
#define LSV_FLEET_DISPATCH_H

#include "core/sides.h"
#include "fleet/fleet.h"
#include "net/upstream.h"

struct dispatch;
struct ticket;

/* The fleet's one. */
struct dispatch *fleet_dispatch(struct fleet *f);

/* --- models ----------------------------------------------------------------------------------------------------- */

/* What a request's model id means: an entry's name, an alias, one that a person started from the library. NULL or "" is
 * gateway.default_model, else the only entry there is. 0; -ENOENT (unknown); -EINVAL (none named, and several to choose from). */
int dispatch_resolve(struct fleet *f, const char *model, const struct config_instance **ret);
/* The same name when it is an alias of several entries (dispatch_resolve tells the first of them; what is changed in a request's body
 * is alike for all), for ticket_spec.shared; else NULL. Valid until the end of the turn. */
const char *dispatch_shared(struct fleet *f, const char *model);

/* --- asking ----------------------------------------------------------------------------------------------------- */

/* Leases without a slot that an instance has at a time: a bound, not a pace, since 32 already turned away who tokenizes much at once. */
enum { DISPATCH_QUESTIONS_MAX = 1024 };

enum ticket_priority { TICKET_HIGH, TICKET_NORMAL, TICKET_LOW, TICKET_PRIORITIES };

/* Why a ticket was not served. Each is a counter in /metrics and has its own words. */
enum ticket_refusal {
        REFUSAL_NONE,
        REFUSAL_QUEUE_FULL, /* gateway.queue.max: 429 */
        REFUSAL_TIMEOUT,    /* gateway.queue.timeout: 503 */
        REFUSAL_SHED,       /* waits stay over gateway.queue.shed_target: 503 */
        REFUSAL_DOWN,       /* no instance is up or on its way: 503, with the last error of the nearest one */
        REFUSAL_LOAD_FAILED, /* it was to be loaded on demand, and that failed: 503 */
        REFUSAL_NO_ROOM,     /* on demand: nothing that could be evicted would make room: 503 */
        REFUSAL_QUESTIONS,   /* DISPATCH_QUESTIONS_MAX are on the way to each that could answer: 429 */
        REFUSAL_TRIES,       /* gateway.retries instances failed before the first byte: 502 */
        REFUSAL_STOPPING,    /* the daemon stops: 503 */
        REFUSAL_REMOVED,     /* the model is not in the configuration any more: 404 */
        TICKET_REFUSALS,
};
const char *
ticket_refusal_name(enum ticket_refusal r); /* "queue_full": a metric's label and the error's code */

struct ticket_spec {
        const struct config_instance *entry; /* of dispatch_resolve */
        const char *
                shared; /* of dispatch_shared: any instance of the entries that have this name; NULL: those of `entry` */
        const char *instance; /* only this instance (/upstream/NAME, /slots of one); NULL: any of the entry */
        const char *key; /* whose work it is, for fairness: a key's name, "" for callers without, copied */
        enum ticket_priority priority;
        enum side
                side; /* whose share of the slots it takes: a local request's or a hub job's (gateway.local_weight) */
        uint64_t affinity; /* hash of the conversation's head for prefix-affinity, 0: none */
        const void *
                spread; /* tickets with the same mark avoid each other's instances as long as there are others (ensembles) */
        usec_t timeout; /* of waiting; 0: gateway.queue.timeout */
        bool ignores_slots; /* a question that takes no slot (/props, /tokenize, /slots): leased without waiting for a free one */
        bool overbooks; /* work that does not wait for a free slot, but takes one that others then cannot have (/upstream) */
        bool no_wake; /* does not start an on-demand model: -EHOSTDOWN instead */
};

struct ticket_events {
        /* A lease is held: ticket_instance and ticket_upstream may be used. */
        void (*on_grant)(void *owner, struct ticket *t);
        /* Once; the ticket is gone after. message: plain words for the client; retry_after: seconds, 0 none. */
        void (*on_refuse)(void *owner, struct ticket *t, enum ticket_refusal why, const char *message,
                          unsigned retry_after);
        /* The lease's instance is going: see above. The slot is not counted any more. */
        void (*on_revoke)(void *owner, struct ticket *t, const char *why);
};

/* 1: granted already (no on_grant follows); 0: it waits; -ENOENT (spec.instance is not there), -EHOSTDOWN (no_wake, and nothing is
 * up), -ENOMEM. A full queue and the like come by on_refuse. */
int dispatch_ask(struct fleet *f, const struct ticket_spec *spec, const struct ticket_events *events,
                 void *owner, struct ticket **ret);
void ticket_cancel(struct ticket *t); /* while it waits: it is gone, nothing is called */

/* --- holding a lease ---------------------------------------------------------------------------------------------- */

const char *
ticket_instance(const struct ticket *t); /* "qwen-0"; NULL while it waits; also valid after on_revoke */
struct upstream *ticket_upstream(struct ticket *t); /* its pool of connections; NULL while it waits */
const char *ticket_api_key(const struct ticket *t); /* what this server wants as Bearer, NULL: nothing */
unsigned ticket_tries(const struct ticket *t);      /* leases so far, this one included, counted or not */
usec_t ticket_waited(const struct ticket *t, usec_t now); /* in queues, all tries together */
/* n bytes of its answer came: a sign of life of the instance (but not for ":" pings; see core/liveness). */
void ticket_heard(struct ticket *t, size_t n);
/* Its client takes nothing now: what stands still is no fault of the instance. */
void ticket_pause(struct ticket *t, bool on);

enum ticket_outcome {
        OUTCOME_OK,        /* an answer below 500 came whole */
        OUTCOME_FAILED,    /* 5xx, malformed, deadline: counts towards ejection */
        OUTCOME_BROKEN,    /* the connection ended in the answer: so does this, unless the process is dying */
        OUTCOME_CANCELLED, /* by the client: says nothing about the instance */
};
/* Gives the slot back; the ticket is gone. keep_alive: USEC_INFINITY: the entry's idle_timeout, else this request's own wish. */
void ticket_done(struct ticket *t, enum ticket_outcome outcome, usec_t keep_alive);
/* How a try failed. */
enum {
        TRY_STALE =
                1, /* on a reused connection that the server had closed: the same instance may be tried again */
        TRY_CLOSED = 2, /* the connection was refused, reset or closed: the instance may be dying */
        TRY_UNREAD = 4, /* and the instance cannot have read the whole request */
};
/* This try failed before its first byte: gives the slot back (counted as OUTCOME_FAILED unless TRY_STALE) and asks for another
 * instance; why is kept for the error's message. As dispatch_ask, but for the errors: they come by on_refuse (REFUSAL_TRIES with
 * all reasons).
 * The sockets of a process end before it is told to be dead, and who leased it in that gap did so for nothing: a try with TRY_UNREAD on
 * an instance whose process turns out to have died is none of gateway.retries (nothing can have been done about the request), and
 * no closed connection of a dying process counts towards ejection. When the tries are used up and such a one is still open,
 * the answer waits a moment for the news. Who did read the request whole may have died of it: that try counts. */
int ticket_retry(struct ticket *t, const char *why, unsigned how);
/* Whether a retry could be served by an instance that this ticket has not met: one that is up, or on its way. When not, the answer of
 * the instance itself (500, 503, 429) is better passed on than swallowed. */
bool ticket_has_other(const struct ticket *t);

/* --- the truth about waiting ------------------------------------------------------------------------------------------ */

struct ticket_progress {
        unsigned position; /* 1: the next one; 0: it does not wait */
        unsigned waiting;  /* in its model's queue */
        usec_t estimate;   /* until it is served, 0 unknown */
        const char *
                status; /* public word of the instance it hopes for: "ready" (busy), "starting", "crashed", … */
        double loaded; /* 0..1 of the model, < 0 unknown */
};
void ticket_progress(const struct ticket *t, struct ticket_progress *ret);

/* --- figures ------------------------------------------------------------------------------------------------------------- */

enum { DISPATCH_WAIT_BUCKETS = 12 };
extern const double dispatch_wait_bounds[DISPATCH_WAIT_BUCKETS]; /* seconds */
struct dispatch_figures {
        unsigned waiting, leased, slots; /* slots: of instances that may be leased now */
        unsigned context;                /* of one entry: tokens a slot can hold, 0: not known yet */
        uint64_t granted, retried, refused[TICKET_REFUSALS];
        uint64_t waits[DISPATCH_WAIT_BUCKETS + 1];
        double wait_sum;
        usec_t shedding_since;   /* 0: not shedding */
        unsigned shared_waiting; /* of one entry: those who wait for a name that it shares */
        usec_t oldest; /* of one entry: since when the ticket waits whose time is over first; 0: none waits for a slot */
        struct {
                unsigned waiting; /* for any slot */
                unsigned leased;  /* of one entry, like `seconds` */
                double seconds;   /* of slots that it had: a counter */
        } by[SIDES];
        /* Of one entry with gateway.local_weight: jobs of hubs that may be claimed although no slot is free, for their share of who is served
         * next; less those that wait. */
        unsigned ahead;
};
/* The models there are, for /metrics and lists: names in the order of the configuration; NULL beyond the last. */
const char *dispatch_model_name(struct fleet *f, size_t i);
/* Names that several entries share, and those entries; NULL beyond the last. */
const char *dispatch_shared_name(struct fleet *f, size_t i);
const char *dispatch_shared_model(struct fleet *f, size_t i, size_t k);
/* Of one entry or one shared name, or of all (NULL). -ENOENT. */
int dispatch_figures(struct fleet *f, const char *entry, struct dispatch_figures *ret);
int dispatch_figures_at(struct fleet *f, size_t i,
                        struct dispatch_figures *ret); /* i as for dispatch_model_name */
/* The weight of all hubs together that have work for this entry or shared name, beside gateway.local_weight. Over 0. */
void dispatch_weigh_hubs(struct fleet *f, const char *name, double weight);
/* Another one whenever waiting, leased or slots of any model may have changed. */
uint64_t dispatch_number(struct fleet *f);
/* Of one instance: leases now, slots, ejected until (monotonic, 0: no), times ejected. -ENOENT. */
struct dispatch_seat {
        unsigned leased, slots; /* leased may be more: ticket_spec.overbooks */
        unsigned questions;     /* leases that take no slot */
        usec_t ejected_until;
        uint64_t ejections, served, failed, cancelled;
};
int dispatch_seat(struct fleet *f, const char *instance, struct dispatch_seat *ret);
int dispatch_seat_at(struct fleet *f, size_t i, struct dispatch_seat *ret); /* i as for fleet_report */

#endif
