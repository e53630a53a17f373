/* relay.h: the one way from a piece of work to an instance and back: ask for a lease, send the request, stream the answer, give
 * the lease back. Used by the gateway, by ensembles, and later by hubs; nobody else talks to an instance for a client.
 *
 * Tries. Exactly one upstream request a try; a further try only while not one byte of an answer has come, at most gateway.retries
 * in all, each on another instance: refused, reset or late connections, a reused connection that was closed (then the next try is on a
 * fresh one: the server may have closed all that were kept), an instance that goes,
 * and 500/502/503/429 of the instance itself while others are there to try ("Loading model", "no slot"): without others the
 * instance's own answer is passed on. A try on an instance that was dying and cannot have read the whole request is not counted
 * (dispatch.h, ticket_retry): only what nobody has worked on is sent beyond gateway.retries. After the first byte never, nor after a deadline other than the connection's: the
 * instance may be at work on it.
 *
 * Deadlines (gateway.timeouts), each with its own words, code and counter. connect: until the connection stands. first_byte: until
 * the first sign of life of an answer, which is any byte of it but those of SSE comments: llama-server sends its head and a ping
 * (":") each --sse-ping-interval from its HTTP thread, also when its inference stands still or has not begun. idle: between two
 * signs of life after the first; it rests while the relay is paused. total: from the first lease to the end of the answer. The
 * time in the queue has its own (dispatch.h).
 *
 * Forwarded are the caller's headers as core/forward.h says. Added are Host, Content-Length, the instance's own key, and X-Request-Id
 * where the caller sent none.
 *
 * Back-pressure: relay_pause stops reading the instance. relay_cancel closes its connection at once, by which it notices.
 *
 * Memory: spec's strings and headers are copied before relay_start returns; the body is not: it stays the caller's, untouched, until
 * on_end or relay_cancel. Callbacks never come from inside the functions below, and may call any of them; the relay is gone after
 * on_end and after relay_cancel. */
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
        /* The error's code and a metric's label: those of ticket_refusal_name, "upstream_timeout_connect" (504), "…_first_byte",
         * "…_idle", "…_total", "upstream_broken" (502: closed in the middle), "upstream_malformed" (502), "instance_gone",
         * "local_trouble" (503: descriptors, memory), "cancelled" (499); "ok" of an answer that came whole. */
        const char *code;
        const char *message;  /* plain words, valid during the callback */
        unsigned retry_after; /* seconds, 0 none */
        unsigned tries;
};

struct relay_events {
        /* Headers are valid during the call. */
        void (*on_head)(void *owner, struct relay *r, const struct http1_response *head);
        void (*on_data)(void *owner, struct relay *r, const char *data, size_t len);
        void (*on_end)(void *owner, struct relay *r, const struct relay_end *end);
};

/* 0, -ENOENT, -EHOSTDOWN (as dispatch_ask), -ENOMEM, -EINVAL (a method, target or header that cannot be sent). */
int relay_start(struct fleet *f, const struct relay_spec *spec, const struct relay_events *events,
                void *owner, struct relay **ret);
void relay_pause(struct relay *r, bool on);
void relay_cancel(struct relay *r); /* the client is gone: no callback, gone */

/* While it waits; false once it has a lease. */
bool relay_progress(const struct relay *r, struct ticket_progress *ret);
const char *relay_id(const struct relay *r);       /* "req-000000000001": X-Request-Id */
const char *relay_instance(const struct relay *r); /* NULL while it waits */
/* For a line of the log about it. */
struct log_about;
void relay_about(const struct relay *r, struct log_about *ret);
usec_t relay_waited(const struct relay *r);
unsigned relay_tries(const struct relay *r);

/* The line that the log has of each request once it ended: for debugging (log_level), and of those whose trace the client records (the flag
 * "sampled" of its traceparent), at most 20 a second. Of a record that activity_end was called for; relays do so by themselves. */
struct activity_record;
void relay_log_end(struct fleet *f, const struct activity_record *rec);

/* Writes into the records of those that wait where they stand now: asked for when the list of requests is shown. */
void relay_note_positions(struct fleet *f);

/* Cancels a running request by id (its on_end comes with RELAY_CANCELLED and `why` in its message). 0 or -ENOENT. */
int relay_cancel_id(struct fleet *f, const char *id, const char *why);

/* --- figures -------------------------------------------------------------------------------------------------------- */

/* Why a try failed, whether another one followed or not. */
enum relay_failure {
        RELAY_FAIL_REFUSED,
        RELAY_FAIL_RESET,
        RELAY_FAIL_STALE, /* a kept connection that the server had closed */
        RELAY_FAIL_TIMEOUT_CONNECT,
        RELAY_FAIL_TIMEOUT_FIRST_BYTE,
        RELAY_FAIL_TIMEOUT_IDLE,
        RELAY_FAIL_TIMEOUT_TOTAL,
        RELAY_FAIL_MALFORMED,
        RELAY_FAIL_LOCAL,
        RELAY_FAIL_STATUS, /* 500, 502, 503 or 429, tried elsewhere */
        RELAY_FAIL_GONE,   /* its instance was stopped or died */
        RELAY_FAILURES,
};
const char *
relay_failure_name(enum relay_failure x); /* "refused", "timeout_first_byte", …: a metric's label */
struct relay_figures {
        unsigned running; /* waiting ones too */
        uint64_t started, tries, retried, failures[RELAY_FAILURES];
        uint64_t lines_left_out; /* of relay_log_end, beyond its bound */
};
void relay_figures(struct fleet *f, struct relay_figures *ret);

#endif
