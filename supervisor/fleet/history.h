/* history.h: what happened: the last events with cause and evidence, and each instance's states of the last 24 hours.
 * Both survive a restart of the daemon (state_dir/history.jsonl, state_dir/states/NAME.json). Bounded: events by config
 * (default 1,000), states by 24 h and 1,000 changes an instance. */
#ifndef LSV_FLEET_HISTORY_H
#define LSV_FLEET_HISTORY_H

#include "base/json.h"
#include "base/time.h"
#include "net/loop.h"

struct history;

/* Which of these an event has is said by its kind (core/event.h); the others are NULL. */
struct history_event {
        uint64_t id;          /* rising, also across restarts */
        usec_t at;            /* realtime; 0 in history_tell: now */
        const char *kind;     /* of core/event.h */
        const char *instance; /* NULL: not about one */
        const char *model;    /* the entry's name */
        const char *gpu;      /* UUID, or where it is plugged in */
        const char *hub;
        const char *cause;    /* short name of the known cause */
        const char *text;     /* plain words */
        const char *evidence; /* JSON object text */
};

int history_new(struct loop *loop, const char *state_dir, unsigned events_max, struct history **ret);
struct history *history_free(struct history *h); /* writes what is pending */

/* The one way to tell of an event: into the history and into the log (so the journal), with the same text and the same fields. id is set
 * here; strings are copied. A kind or a field that core/event.h does not know is a mistake of the caller, which stops a debug build. */
void history_tell(struct history *h, int level, const struct history_event *event);
void history_add(struct history *h, const struct history_event *event); /* without the log: of a test */
/* A new public state of an instance. */
void history_state(struct history *h, const char *instance, const char *status, usec_t realtime);

/* {"events":[{"id","time","kind","instance","model","gpu","hub","cause","text","evidence"}…],"next":id,
 *  "states":{"qwen-0":[{"since":ms,"status":"ready"}…]}}: events with id > since (0: all kept); instance may be NULL for all, or the
 * name of an entry for its replicas. */
void history_put(struct history *h, uint64_t since, const char *instance, usec_t realtime,
                 struct json_writer *w);

/* For doors that push events (the feed's topics later). */
uint64_t history_last_id(const struct history *h);

#endif
