/* server.h: the HTTP/1.1 listener: sockets, connections, requests; what a request means is the doors' business.
 *
 * A listener accepts; each connection reads one request at a time (pipelined bytes wait, bounded); each request is handed to
 * on_request once its head is whole and unambiguous. What is ambiguous is answered 400/413/414/431/501/505 and closed
 * before anything is forwarded. The owner answers with request_respond, or request_begin + request_write* + request_end.
 * While a request is being answered the connection goes on reading (bounded), so that the client's EOF is seen: on_gone.
 * Deadlines: the whole head within 10 s of its first byte, idle 75 s between requests, body not slower than 1 KB/s
 * averaged over 10 s windows after a grace of 30 s, a response whose reader takes nothing for 60 s is cut.
 * Caps: connections in all and per remote address (loopback and unix are not capped per address), header 16 KB. */
#ifndef LSV_NET_SERVER_H
#define LSV_NET_SERVER_H

#include <stddef.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "core/endpoint.h"
#include "core/http1.h"
#include "net/loop.h"

struct server;
struct listener;
struct request;

struct server_limits {
        usec_t head_timeout, idle_timeout, write_timeout;
        unsigned connections_max, per_address_max;
        size_t write_buffer_max; /* bytes queued to one client before request_write says -ENOBUFS; 1 MB */
};
extern const struct server_limits server_limits_default;

struct server_counts {
        uint64_t accepted, refused_cap, refused_address, accept_errors, requests, bad_requests, timeouts_head,
                timeouts_idle, timeouts_write, clients_gone;
        unsigned connections;
};

typedef void server_request_fn(void *owner, struct request *req);

int server_new(struct loop *loop, const struct server_limits *limits, server_request_fn *on_request, void *owner,
               struct server **ret);
struct server *server_free(struct server *s); /* closes all at once; on_gone is called for open requests first */
const struct server_counts *server_counts(const struct server *s);

/* at: where. mode: of a unix socket's file (0600, 0660), 0 for TCP. tag: the owner's mark, e.g. "control". A stale socket file
 * that nobody answers on is replaced; one that is answered gives -EADDRINUSE. Port 0: see listener_endpoint. */
int server_listen(struct server *s, const struct endpoint *at, mode_t mode, const char *tag, struct listener **ret);
const struct endpoint *listener_endpoint(const struct listener *l); /* as bound */
const char *listener_tag(const struct listener *l);
void server_stop_listening(struct server *s); /* existing requests go on, with Connection: close */

/* --- one request ------------------------------------------------------------------------------------------------ */
const struct http1_request *request_head(const struct request *req); /* valid until the request ends */
const struct listener *request_listener(const struct request *req);
const char *request_peer(const struct request *req); /* "127.0.0.1", "unix" */

/* The owner's own pointer on it, and what is called when the client goes before the end (EOF, reset, timeout) or the server is
 * freed: after on_gone the request must not be touched. Without on_gone such a request just ends. */
typedef void request_gone_fn(void *owner, struct request *req);
void request_on_gone(struct request *req, request_gone_fn *fn, void *owner);

/* Collects the body (sends 100-continue when asked for), bounded: over max it is answered 413 by the server itself.
 * on_body is called once, not from inside (an empty body too). Call it before answering, or not at all (then the rest
 * is drained or the connection closed). */
typedef void request_body_fn(void *owner, struct request *req, const char *body, size_t len);
int request_read_body(struct request *req, size_t max, request_body_fn *on_body, void *owner);

/* headers: further header lines each ended by CRLF, or NULL. Framing, Date-less, Connection and Content-Length are ours. HEAD is
 * handled here: same head, no body. A whole answer: */
void request_respond(struct request *req, int status, const char *content_type, const char *headers, const void *body,
                     size_t len);
/* A streamed answer (chunked on 1.1, until close on 1.0). write: 0, or -ENOBUFS when the reader is too slow (nothing of
 * it was taken; on_drain tells when there is room again), -EPIPE when it is gone. */
void request_begin(struct request *req, int status, const char *content_type, const char *headers);
int request_write(struct request *req, const void *data, size_t len);
size_t request_queued(const struct request *req); /* bytes that the reader has not taken yet */
typedef void request_drain_fn(void *owner, struct request *req);
void request_on_drain(struct request *req, request_drain_fn *fn, void *owner);
void request_end(struct request *req);
/* Ends the answer by closing the connection in the middle (the client sees a truncated answer). */
void request_abort(struct request *req);

/* Hands the socket over (WebSocket upgrade): *ret_fd is the caller's, *ret_bytes (appended) begins with the request's head as it
 * came and holds all that was read behind it. The request is gone after. */
int request_detach(struct request *req, int *ret_fd, struct buffer *ret_bytes);

#endif
