/* history.h: what happened: the last events with cause and evidence, and each instance's states of the last 24 hours.
 * Both survive a restart of the daemon (state_dir/history.jsonl, state_dir/states/NAME.json). Bounded: events by config
 * (default 1,000), states by 24 h and 1,000 changes an instance. */
#ifndef LSV_FLEET_HISTORY_H
#define LSV_FLEET_HISTORY_H

#include "base/json.h"
#include "base/time.h"
#include "net/loop.h"

struct history;

struct history_event {
        uint64_t id; /* rising, also across restarts */
        usec_t at;   /* realtime */
        const char *
                kind; /* "started" "ready" "died" "unhealthy" "recovered" "gave_up" "stopped" "adopted" "reload" … */
        const char *instance; /* NULL for the daemon itself */
        const char *cause;    /* short name of the known cause, NULL */
        const char *text;     /* plain words */
        const char *evidence; /* JSON object text, NULL */
};

int history_new(struct loop *loop, const char *state_dir, unsigned events_max, struct history **ret);
struct history *history_free(struct history *h); /* writes what is pending */

void history_add(struct history *h,
                 const struct history_event *event); /* id is set here; strings are copied */
/* A new public state of an instance. */
void history_state(struct history *h, const char *instance, const char *status, usec_t realtime);

/* {"events":[{"id","time","kind","instance","cause","text","evidence"}…],"next":id,
 *  "states":{"qwen-0":[{"since":ms,"status":"ready"}…]}}: events with id > since (0: all kept); instance may be NULL for all, or the
 * name of an entry for its replicas. */
void history_put(struct history *h, uint64_t since, const char *instance, usec_t realtime,
                 struct json_writer *w);

/* For doors that push events (the feed's topics later). */
uint64_t history_last_id(const struct history *h);

#endif
