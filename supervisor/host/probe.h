/* probe.h: asks one llama-server "are you well?" at a pace, and fetches what it says about itself.
 *
 * Owned by the fleet. GET /health over one kept-alive connection; the pace is fast while it starts (25 ms growing to the interval),
 * at most 250 ms apart while it loads; when it is up, at moments of its own, an interval apart (core/pace). Callbacks come from the
 * loop, never from inside probe_new, probe_now or probe_free. One health question is under way at a time; a late answer delays the next
 * one.
 * Meaning of /health: 200 well, 503 "Loading model" loading (facts/llama-server §4). */
#ifndef LSV_HOST_PROBE_H
#define LSV_HOST_PROBE_H

#include "core/endpoint.h"
#include "core/liveness.h"
#include "net/upstream.h"

struct probe;

enum probe_pace { PROBE_STOPPED, PROBE_STARTING, PROBE_LOADING_PACE, PROBE_STEADY };

/* Right before each health question, while the server rests from the last one. */
typedef void probe_ask_fn(void *owner, usec_t now);

struct probe_spec {
        struct endpoint endpoint;
        usec_t interval, timeout;
        uint32_t spread;      /* pace_spread */
        const char *api_key;  /* sent as Bearer, copied; may be NULL */
        probe_ask_fn *on_ask; /* may be NULL */
};

struct probe_answer {
        enum probe_kind kind;
        const char *detail; /* plain words when it is not PROBE_WELL: "connection refused", "HTTP 500" */
        pid_t peer_pid;     /* 0 unknown */
        usec_t latency;
};

typedef void probe_answer_fn(void *owner, const struct probe_answer *answer, usec_t now);
/* status: HTTP status, 0 when nothing came; body is NUL-terminated and valid during the call. */
typedef void probe_fetched_fn(void *owner, const char *target, int status, const char *body, size_t len,
                              usec_t now);

int probe_new(struct loop *loop, const struct probe_spec *spec, probe_answer_fn *on_answer,
              probe_fetched_fn *on_fetched, void *owner, struct probe **ret);
struct probe *probe_free(struct probe *probe); /* always NULL */

void probe_set_pace(struct probe *probe, enum probe_pace pace, usec_t now);
void probe_set_times(struct probe *probe, usec_t interval, usec_t timeout);
/* Ask at once (a log line said "listening on"), unless a question is under way. */
void probe_now(struct probe *probe, usec_t now);
/* GET target with the probe's timeout; queued one after the other, at most 8 (-ENOBUFS); bodies up to 1 MB. */
int probe_fetch(struct probe *probe, const char *target);
/* One token of its own inference, asked with a deadline, unless that is under way. The answer comes to on_fetched as PROBE_CANARY. */
#define PROBE_CANARY "canary"
int probe_canary(struct probe *probe, usec_t timeout);
/* Drops the connections and questions under way (before the server is told to stop). The pace becomes PROBE_STOPPED. */
void probe_hang_up(struct probe *probe);
uint64_t probe_bytes(const struct probe *probe); /* bytes that the server ever sent us here */

#endif
