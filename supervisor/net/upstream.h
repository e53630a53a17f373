/* upstream.h: the HTTP/1.1 client for llama-servers: probes now, the gateway's upstream legs later.
 *
 * An upstream is a small pool of connections to one endpoint; an exchange is one request and its answer. Every exchange has
 * deadlines; on_done is called exactly once (unless exchange_cancel was called first), never from inside upstream_start.
 * A reused connection that was closed by the server before one byte of the answer came is retried once on a fresh
 * connection, but only if the request is a GET or HEAD, or not one byte of it was sent.
 * A server that answers more than was asked, or before it read the whole request, loses its connection after the answer.
 * Spans are from the start of the exchange; USEC_INFINITY is not accepted: every wait has an end. The owner bounds how many
 * exchanges run at once: each has a connection of its own. */
#ifndef LSV_NET_UPSTREAM_H
#define LSV_NET_UPSTREAM_H

#include <stddef.h>
#include <sys/types.h>

#include "core/endpoint.h"
#include "core/http1.h"
#include "net/loop.h"

struct upstream;
struct exchange;

struct upstream_counts {
        uint64_t exchanges, failures, reused, connects, bytes_in, bytes_out;
};

/* max_idle: connections kept open when unused (each pins a thread of llama-server for its 5 s keep-alive); 0 closes. */
int upstream_new(struct loop *loop, const struct endpoint *to, unsigned max_idle, struct upstream **ret);
/* Cancels what runs (no callback is called), closes all connections. Always NULL. */
struct upstream *upstream_free(struct upstream *u);
/* Closes idle connections now (before the server is asked to stop). */
void upstream_close_idle(struct upstream *u);
const struct upstream_counts *upstream_counts(const struct upstream *u);

enum exchange_result {
        EXCHANGE_OK,      /* a whole answer, whatever its status */
        EXCHANGE_REFUSED, /* nobody listens: ECONNREFUSED, ENOENT of the socket file */
        EXCHANGE_RESET,   /* closed or reset before the answer was whole */
        EXCHANGE_TIMEOUT_CONNECT,
        EXCHANGE_TIMEOUT_FIRST, /* no byte of an answer in time */
        EXCHANGE_TIMEOUT,       /* the answer did not end in time */
        EXCHANGE_MALFORMED,     /* not HTTP/1.1, or a body over its bound */
        EXCHANGE_FAILED,        /* local trouble: EMFILE, ENOMEM … */
};
const char *exchange_result_text(enum exchange_result r); /* "connection refused", "no answer in time", … */

struct exchange_spec {
        const char *method; /* "GET" */
        const char *target; /* "/health" */
        const char *
                headers; /* further header lines, each ended by CRLF, or NULL; Host and Content-Length are ours */
        const char *body;
        size_t body_len;
        usec_t connect_timeout, first_timeout, timeout; /* the first two may be 0: like timeout */
        size_t body_max; /* a longer answer is EXCHANGE_MALFORMED; collected and handed to on_done */
        bool fresh;      /* never on a reused connection (also asks the server to close) */
};

struct exchange_answer {
        enum exchange_result result;
        int error;        /* -errno behind REFUSED, RESET or FAILED where the kernel told one, else 0 */
        int status;       /* HTTP status, 0 if none came */
        const char *body; /* NUL-terminated, valid during the callback */
        size_t body_len;
        pid_t peer_pid; /* SO_PEERCRED of a unix connection, 0 if unknown */
        uint64_t bytes; /* bytes of the answer seen, also when it failed */
        usec_t connected_after, first_byte_after,
                done_after; /* since the start; 0 = did not happen (or was connected already) */
};
typedef void exchange_done_fn(void *owner, const struct exchange_answer *answer, usec_t now);

/* 0, -EINVAL (no deadline, a method, target or header that cannot be sent), -ENOMEM. What spec points to is copied. on_done may
 * start, cancel and free anything, the upstream too. */
int upstream_start(struct upstream *u, const struct exchange_spec *spec, exchange_done_fn *on_done,
                   void *owner, struct exchange **ret);
/* Closes its connection at once; on_done is not called. Always NULL, takes NULL. */
struct exchange *exchange_cancel(struct exchange *x);

#endif
