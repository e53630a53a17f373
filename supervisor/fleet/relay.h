/* relay.h: the one way from a piece of work to an instance and back: ask for a lease, send the request, stream the answer, give
 * the lease back. Used by the gateway, by ensembles, and later by hubs; nobody else talks to an instance for a client.
 *
 * Exactly one upstream request a try; a further try only while not one byte of an answer has come, at most gateway.retries in all,
 * each on another instance: refused or reset connections, a reused connection that was closed, 500/502/503/429 of the
 * instance itself while others are there ("Loading model", "no slot"). After the first byte never.
 * Deadlines: gateway.timeouts (connect, first_byte, idle, total) and the queue's own; each has its own words and counter.
 * Back-pressure: relay_pause stops reading the instance; the idle deadline rests meanwhile. relay_cancel tells the instance at once.
 *
 * Memory: spec's strings and headers are copied or sent before relay_start returns; the body is not: it stays the caller's, untouched,
 * until on_end or relay_cancel. Callbacks never come from inside the functions below; the relay is gone after on_end and
 * after relay_cancel. */
#ifndef LSV_FLEET_RELAY_H
#define LSV_FLEET_RELAY_H

#include <sys/uio.h>

#include "core/http1.h"
#include "fleet/dispatch.h"

struct relay;

struct relay_spec {
        struct ticket_spec ticket;
        struct slice method, target; /* as they go to the instance: "POST", "/v1/chat/completions" */
        const struct http1_header
                *headers; /* to be forwarded; Host, framing and credentials are the relay's own */
        size_t n_headers;
        const struct iovec *body;
        unsigned n_body;
        usec_t keep_alive; /* the request's own wish for an on-demand model; USEC_INFINITY: none */
        bool streams; /* the client asked for a stream: its first byte is a token, not the whole answer */
        /* For the list of requests; never any text of them. */
        const char *source; /* "http", "ensemble", "hub" */
        const char *path;   /* the route: "/v1/chat/completions" */
        const char *peer;
};

enum relay_result {
        RELAY_OK, /* the answer came whole */
        RELAY_REFUSED, /* never had an answer: status, code, message and retry_after are to be told to the client */
        RELAY_BROKEN,    /* it broke in the middle of the answer */
        RELAY_CANCELLED, /* by somebody else: DELETE /api/v1/requests/ID, a revoked key */
        RELAY_RESULTS,
};

struct relay_end {
        enum relay_result result;
        bool began; /* on_head was called */
        int status; /* an HTTP status fit for the client when nothing was told yet: 429, 502, 503, 504, 499 */
        const char *
                code; /* "queue_full", "upstream_timeout_first_byte", … : the error's code and a metric's label */
        const char *message;  /* plain words */
        unsigned retry_after; /* seconds, 0 none */
        unsigned tries;
};

struct relay_events {
        /* Headers are valid during the call. */
        void (*on_head)(void *owner, struct relay *r, const struct http1_response *head);
        void (*on_data)(void *owner, struct relay *r, const char *data, size_t len);
        void (*on_end)(void *owner, struct relay *r, const struct relay_end *end);
};

/* 0, -ENOENT, -EHOSTDOWN (as dispatch_ask), -ENOMEM, -EINVAL (a header that cannot be sent). */
int relay_start(struct fleet *f, const struct relay_spec *spec, const struct relay_events *events,
                void *owner, struct relay **ret);
void relay_pause(struct relay *r, bool on);
void relay_cancel(struct relay *r); /* the client is gone: no callback, gone */

/* While it waits; false once it has a lease. */
bool relay_progress(const struct relay *r, struct ticket_progress *ret);
const char *relay_id(const struct relay *r);       /* "req-000000000001": X-Request-Id */
const char *relay_instance(const struct relay *r); /* NULL while it waits */
usec_t relay_waited(const struct relay *r);
unsigned relay_tries(const struct relay *r);

/* Cancels a running request by id (its on_end comes with RELAY_CANCELLED). 0 or -ENOENT. */
int relay_cancel_id(struct fleet *f, const char *id, const char *why);

#endif
