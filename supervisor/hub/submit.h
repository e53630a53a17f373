/* submit.h: the submitting side: a request of our own gateway becomes a job at a hub, and its answer comes back from a worker that nobody
 * can reach from here.
 *
 * The answer comes as events of llama-server's stream (what a worker's hub_chunk.events held) or as one whole body. Order, gaps and further
 * attempts are sorted out below this seam: on_events is called with whole events in their order, on_restart tells that a new
 * attempt (or a new run) begins from nothing, on_end is called once. What was lost on the way is taken from the stored result, if text alone is missing
 * at the end of what was told; else the end says "hub_gap".
 *
 * Who owns what: the submission is the hub's; the asker holds it until on_end or submission_cancel. Callbacks come from the loop,
 * never from inside the functions below. */
#ifndef LSV_HUB_SUBMIT_H
#define LSV_HUB_SUBMIT_H

#include <sys/uio.h>

#include "base/time.h"
#include "fleet/dispatch.h"

struct hubs;
struct hub_submission;

/* What became of them, for figures: a metric's label. */
enum submit_outcome {
        SUBMIT_OK,
        SUBMIT_CLIENT_ERROR, /* what llama-server refuses, 4xx */
        SUBMIT_FULL,
        SUBMIT_DOWN,
        SUBMIT_TIMEOUT,
        SUBMIT_GAP,
        SUBMIT_FAILED,
        SUBMIT_CANCELLED,
        SUBMIT_OUTCOMES,
};
const char *submit_outcome_name(enum submit_outcome o); /* "ok" "client_error" "hub_full" … */

struct submit_end {
        int status; /* fit for the client: 200; 4xx of the worker's llama-server; 429 the hub is full; 502, 503, 504; 499 cancelled */
        const char
                *code; /* "ok", "hub_full", "hub_down", "hub_timeout", "hub_gap", "hub_failed", "cancelled" */
        const char *message;
        const char
                *body; /* the whole answer, where there is one (status 200, or the error of llama-server) */
        size_t body_len;
        unsigned attempts;
        const char *worker; /* who did it; NULL unknown */
        unsigned retry_after;
};

struct submit_events {
        void (*on_accepted)(void *owner, const char *id); /* durable at the hub */
        void (*on_events)(void *owner, const char *events, size_t len, unsigned attempt);
        void (*on_restart)(void *owner, unsigned attempt);
        void (*on_end)(void *owner, const struct submit_end *end);
};

struct submit_spec {
        const char *model;        /* as the client named it */
        const char *path;         /* "/v1/chat/completions" */
        const struct iovec *body; /* copied before it returns */
        unsigned n_body;
        const char *key;         /* whose request */
        const char *traceparent; /* to go with it, core/trace.h; NULL or "": none */
        enum ticket_priority priority;
        bool stream;
        usec_t timeout; /* of the whole */
        const struct submit_events *events;
        void *owner;
};

#endif
