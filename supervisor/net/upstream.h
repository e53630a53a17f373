/* upstream.h: the HTTP/1.1 client for llama-servers: the probes' questions and the gateway's legs.
 *
 * An upstream is a small pool of connections to one endpoint; an exchange is one request and its answer, either collected
 * (upstream_start) or handed on as it comes (upstream_stream). Its end is told exactly once, unless exchange_cancel came
 * first; no callback comes from inside a function below. Callbacks may start, pause and cancel exchanges and free the
 * upstream; in its last callback the exchange is gone already (cancelling it there is harmless).
 * Spans are from the start of the exchange; USEC_INFINITY is not accepted: every wait has an end. The owner bounds how many
 * exchanges run at once: each has a connection of its own.
 *
 * A reused connection that the server closed before one byte of the answer came is tried again, once, on a fresh one, but
 * only if not one byte of the request was sent or its method is GET, HEAD or OPTIONS. Any other request may have been read:
 * EXCHANGE_STALE, and its owner decides.
 * Kept connections are closed after 4 s, or earlier where the server's Keep-Alive says so (llama-server closes after 5 s and
 * 100 requests). A server that answers more than was asked, or before it read the whole request, loses its connection after
 * the answer; such an early answer is read to its end even when the server reads no more. 1xx are dropped,
 * but for 101, which nobody asked for: EXCHANGE_MALFORMED. After an event stream the connection is never kept: llama-server closes
 * it then without having said so. */
#ifndef LSV_NET_UPSTREAM_H
#define LSV_NET_UPSTREAM_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/endpoint.h"
#include "core/http1.h"
#include "net/loop.h"

struct upstream;
struct exchange;

enum exchange_result {
        EXCHANGE_OK,      /* a whole answer, whatever its status */
        EXCHANGE_REFUSED, /* nobody listens: ECONNREFUSED, ENOENT of the socket file */
        EXCHANGE_RESET,   /* closed or reset before the answer was whole */
        EXCHANGE_STALE, /* a reused connection was closed before the answer began; the request may have been read */
        EXCHANGE_TIMEOUT_CONNECT,
        EXCHANGE_TIMEOUT_FIRST, /* no byte of an answer in time */
        EXCHANGE_TIMEOUT_IDLE,  /* silent for too long in the middle of its answer */
        EXCHANGE_TIMEOUT,       /* the answer did not end in time */
        EXCHANGE_MALFORMED,     /* not HTTP/1.1, or a body over its bound */
        EXCHANGE_FAILED,        /* local trouble: EMFILE, ENOMEM … */
};
enum { EXCHANGE_RESULTS = EXCHANGE_FAILED + 1 };
const char *exchange_result_text(enum exchange_result r); /* "connection refused", "no answer in time", … */

struct upstream_counts {
        uint64_t exchanges, failures, reused, connects, bytes_in, bytes_out;
        uint64_t retried; /* on a fresh connection, by itself */
        uint64_t ended[EXCHANGE_RESULTS];
};

/* max_idle: connections kept open when unused (each pins a thread of llama-server for its 5 s keep-alive); 0 closes. */
int upstream_new(struct loop *loop, const struct endpoint *to, unsigned max_idle, struct upstream **ret);
/* Cancels what runs (no callback is called), closes all connections. Always NULL. */
struct upstream *upstream_free(struct upstream *u);
/* For when it is known later, or changes. What is idle beyond it is closed, the oldest first. */
void upstream_set_max_idle(struct upstream *u, unsigned max_idle);
/* Closes idle connections now (before the server is asked to stop). */
void upstream_close_idle(struct upstream *u);
const struct upstream_counts *upstream_counts(const struct upstream *u);
unsigned upstream_running(const struct upstream *u); /* exchanges under way */

struct exchange_spec {
        struct slice method; /* SLICE("GET") */
        struct slice target; /* SLICE("/health") */
        /* Host, Content-Length and Connection are ours. fields: headers as the codec parsed them, sent as they are, not
         * checked again; the caller left out what must not be forwarded. headers: further lines, each ended by CRLF, checked,
         * or NULL. */
        const struct http1_header *fields;
        size_t n_fields;
        const char *headers;
        /* The body is not copied: array and bytes stay untouched until the exchange has ended or was cancelled. */
        const struct iovec *body;
        unsigned n_body;
        usec_t connect_timeout, first_timeout, timeout; /* the first two may be 0: like timeout */
        usec_t idle_timeout; /* silence between two bytes of the answer; 0: only the whole has its end */
        size_t body_max;     /* upstream_start alone: a longer answer is EXCHANGE_MALFORMED */
        bool fresh;          /* never on a reused connection (also asks the server to close) */
};

struct exchange_answer {
        enum exchange_result result;
        int error;  /* -errno behind REFUSED, RESET, STALE or FAILED where the kernel told one, else 0 */
        int status; /* HTTP status, 0 if no whole head came */
        const char *body; /* upstream_start: NUL-terminated, valid during the callback */
        size_t body_len;
        pid_t peer_pid; /* SO_PEERCRED of a unix connection, 0 if unknown */
        bool reused;    /* ran on a kept connection */
        uint64_t sent;  /* bytes of the request that the kernel took: 0 means that nobody can have read it */
        uint64_t bytes; /* bytes of the answer seen, also when it failed: 0 means that it never began */
        usec_t connected_after, first_byte_after,
                done_after; /* since the start; 0 = did not happen (or was connected already) */
};
typedef void exchange_done_fn(void *owner, const struct exchange_answer *answer, usec_t now);

/* A collected answer. 0, -EINVAL (no deadline, a method, target or header that cannot be sent), -ENOMEM. */
int upstream_start(struct upstream *u, const struct exchange_spec *spec, exchange_done_fn *on_done,
                   void *owner, struct exchange **ret);

struct exchange_events {
        /* The head of the answer, once; its slices live during the call. */
        void (*on_head)(void *owner, const struct http1_response *head);
        /* Payload as it comes, not copied, taken out of its chunks: one call for each read, never empty. */
        void (*on_data)(void *owner, const char *data, size_t len);
        exchange_done_fn *on_end; /* the last call; answer->body is "" */
};
/* A streamed answer of any length; the rest as above. */
int upstream_stream(struct upstream *u, const struct exchange_spec *spec, const struct exchange_events *on,
                    void *owner, struct exchange **ret);
/* Back-pressure: stops or goes on reading. The silence of a paused server is ours and does not count. Paused from inside
 * on_head or on_data, what had been read with that piece (64 KB at most) still comes, maybe its end too. */
void exchange_pause(struct exchange *x, bool pause);
/* Closes its connection at once, so that the server notices; nothing is called any more. Always NULL, takes NULL. */
struct exchange *exchange_cancel(struct exchange *x);

#endif
