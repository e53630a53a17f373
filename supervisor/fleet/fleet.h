/* fleet.h: the conductor: owns every instance, turns facts into events, orders into deeds, and publishes once a turn.
 *
 * Hands (process, probe, log file) report facts by callbacks; at the end of the turn fleet_settle acts on them and calls every
 * subscriber once with what changed. Doors ask for reports and give orders; they never touch a hand. All strings and
 * reports returned are the fleet's, valid until the end of the turn. */
#ifndef LSV_FLEET_FLEET_H
#define LSV_FLEET_FLEET_H

#include "base/buffer.h"
#include "core/config.h"
#include "fleet/history.h"
#include "fleet/report.h"
#include "net/loop.h"

struct fleet;

/* Takes the config over (also on failure it is freed). load: reads the configuration again for a reload, in a thread of the pool; 0 with
 * warnings, or -errno with errors, one a line. */
typedef int fleet_load_fn(void *owner, struct config **ret, struct buffer *ret_words);
int fleet_new(struct loop *loop, struct config *config, fleet_load_fn *load, void *owner, struct fleet **ret);
struct fleet *fleet_free(struct fleet *f); /* children that still run are let go, not stopped */

/* Takes over what an earlier daemon left, then starts what is wanted. */
int fleet_start(struct fleet *f);
/* Stops everything in order; on_stopped is called once, when the last is gone (bounded by grace, drain and kill). */
void fleet_stop(struct fleet *f, void (*on_stopped)(void *owner), void *owner);

/* The line of the history that says a daemon began. */
void fleet_event_started(struct fleet *f);
/* No more patience: what drains is told to end, what was told is killed. */
void fleet_hurry(struct fleet *f);

const struct config *fleet_config(const struct fleet *f);
/* Another one for each configuration that comes into force (their addresses repeat). */
uint64_t fleet_config_number(const struct fleet *f);
struct loop *fleet_loop(const struct fleet *f);

/* --- what is --------------------------------------------------------------------------------------------------- */
size_t fleet_count(const struct fleet *f);
const struct report *fleet_report(struct fleet *f, size_t i);       /* in the order of the config */
const struct report *fleet_find(struct fleet *f, const char *name); /* NULL: no such instance */
/* Who it is and how it is, for those who go through a thousand of them: a report costs microseconds each. */
struct fleet_brief {
        const char *instance, *model, *status;
};
struct fleet_brief fleet_brief(const struct fleet *f, size_t i); /* valid during the turn */
/* The whole fleet as one: ready if any is ready, else starting, else the worst; models united; instance "*". */
const struct report *fleet_aggregate(struct fleet *f);
/* Enough instances ready for /ready (config: ready.min); *ret_ready, *ret_total may be NULL. */
bool fleet_is_ready(struct fleet *f, unsigned *ret_ready, unsigned *ret_total);
unsigned fleet_queued(struct fleet *f); /* requests that wait for any model */
/* The nearest instance name, for "did you mean"; NULL if none is near. */
const char *fleet_nearest(const struct fleet *f, const char *name);

/* Called once a turn with the reports of what changed. figures_only: no state changed, so the feed may hold it back to
 * once a second. Instances that were added or removed by a reload come with `gone` set or a first report. */
struct fleet_change {
        const struct report *report;
        bool figures_only, gone;
};
typedef void fleet_change_fn(void *owner, const struct fleet_change *changes, size_t n, usec_t now);
int fleet_subscribe(struct fleet *f, fleet_change_fn *fn, void *owner); /* at most 8: -ENOSPC */
void fleet_unsubscribe(struct fleet *f, fleet_change_fn *fn, void *owner);

/* --- orders ---------------------------------------------------------------------------------------------------- */
/* START takes back a stop or a drain that is not over. DRAIN: no new work, what runs may end (by default as long as the longest request
 * may last: gateway.timeouts.total, at least stop.drain), then it is stopped; STOP gives it stop.drain only. */
enum fleet_verb { FLEET_START, FLEET_STOP, FLEET_RESTART, FLEET_DRAIN, FLEET_VERBS };
const char *fleet_verb_name(enum fleet_verb verb); /* "start" */
/* name: an instance ("qwen-0"), an entry ("qwen": all its replicas), or "all". 0; -ENOENT; -EPERM for a server that is not
 * ours to start or stop; -ESHUTDOWN while the daemon stops. *ret_message (malloc'd, plain words) is set in every case. */
int fleet_order(struct fleet *f, const char *name, enum fleet_verb verb, char **ret_message);
/* FLEET_DRAIN with a limit of its own; 0: the default. */
int fleet_drain(struct fleet *f, const char *name, usec_t limit, char **ret_message);

/* Reads the config again: in the pool, since its files and those that it names may lie on a disk that does not answer. done is called once, from
 * the loop: r 0 with the plan, {"keep":[…],"restart":[…],"start":[…],"stop":[…],"applied":bool}; else nothing was changed, and the answer is
 * {"errors":["file:1:2: …"],"applied":false}: -EINVAL the configuration is wrong, -ETIMEDOUT it could not be read within
 * FLEET_RELOAD_PATIENCE, -ESHUTDOWN, -EAGAIN, -ENOMEM. They go one after the other; at most 16 wait.
 * 0; -EAGAIN, -ENOMEM, -ESHUTDOWN: done is not called. ret may be NULL. */
#define FLEET_RELOAD_PATIENCE (20 * USEC_PER_SEC)
struct fleet_reload;
typedef void fleet_reload_fn(void *owner, int r, const struct buffer *answer);
int fleet_reload(struct fleet *f, bool dry_run, fleet_reload_fn *done, void *owner,
                 struct fleet_reload **ret);
struct fleet_reload *
fleet_reload_forget(struct fleet_reload *x); /* it goes on, but done is not called; always NULL */
/* The errors of the last failed reload, NULL if the last one went well: shown on every door. */
const char *fleet_reload_error(const struct fleet *f);

/* Which limits cannot be kept and why, one line a cause; NULL: all are. Shown on every door. */
const char *fleet_limits_problem(const struct fleet *f);
/* Has the figures of the control groups read again, for the reports that follow: of one instance, or (NULL) of all. At most once a second
 * for each, and of so many in one turn; the others are read in the next turns, and reports tell what is known. */
void fleet_look(struct fleet *f, const char *name);

/* --- evidence -------------------------------------------------------------------------------------------------- */
/* {"instance","status","cause","hint","evidence":{"exit","log":[…],…},"lastDeathAt",
 *  "command":{"argv":[…],"env":{…},"cwd","shell":"one line to paste"}}; secrets masked. -ENOENT. */
int fleet_put_why(struct fleet *f, const char *name, struct json_writer *w);

/* The last lines of an instance's log from disk: malloc'd. -ENOENT, -ENODATA (not our server, no log). told: only those that followers
 * were given already: who begins to follow in the same turn misses none and gets none twice. */
int fleet_read_log(struct fleet *f, const char *name, bool told, unsigned lines, char **ret, size_t *ret_len);
/* Follows: on_line for each new line until fleet_unfollow. The line is valid during the call. */
struct follower;
typedef void follow_line_fn(void *owner, const char *line, size_t len);
int fleet_follow_log(struct fleet *f, const char *name, follow_line_fn *on_line, void *owner,
                     struct follower **ret);
struct follower *fleet_unfollow(struct follower *x); /* always NULL; also needed after the instance is gone */

struct history *fleet_history(struct fleet *f);

/* For the journal: of which model an instance is, and on which GPUs. */
struct journal_subject;
bool fleet_describe(void *owner, const char *subject, struct journal_subject *ret);

/* --- figures for /metrics ---------------------------------------------------------------------------------------- */
enum { FLEET_LATENCY_BUCKETS = 12 };
extern const double
        fleet_latency_bounds[FLEET_LATENCY_BUCKETS]; /* seconds, upper bounds; +Inf is the total */
struct fleet_figures {
        uint64_t restarts, deaths, probes, probe_failures, log_bytes, log_skipped_bytes;
        uint64_t probe_latency[FLEET_LATENCY_BUCKETS +
                               1]; /* counts per bucket (not cumulative), last: over all bounds */
        double probe_latency_sum;
        const char *const *causes; /* names of causes, NULL-ended, and deaths of each */
        const uint64_t *deaths_by_cause;
        const uint64_t *restarts_by_cause; /* the others of restarts were asked for */
};
/* From spawn to ready, of all starts since the daemon's; not cumulative, the last is over all bounds. */
enum { FLEET_LOAD_BUCKETS = 10 };
extern const double fleet_load_bounds[FLEET_LOAD_BUCKETS]; /* seconds */
struct fleet_load_figures {
        uint64_t loads[FLEET_LOAD_BUCKETS + 1];
        double load_sum;
};
void fleet_load_figures(const struct fleet *f, struct fleet_load_figures *ret);
/* Of one instance. */
int fleet_figures(struct fleet *f, size_t i, struct fleet_figures *ret);

/* --- the instances' own metrics ------------------------------------------------------------------------------------ */
enum { FLEET_METRICS_MAX = 256 * 1024, FLEET_METRICS_AT_ONCE = 64 };
/* Asks those that are ready for their /metrics, a few at a time, if they were not asked since then (monotonic). Returns how many have
 * not answered yet: call again until it is 0, or patience ends. No use of the model, and no reason to wake or load one. */
size_t fleet_ask_metrics(struct fleet *f, usec_t since);
/* What instance i answered since then: valid until the end of the turn. -ENOENT no such instance, -ENOTCONN not ready, -ENODATA no answer, or
 * it tells none. */
int fleet_metrics_of(const struct fleet *f, const char *instance, usec_t since, struct slice *ret);

#endif
