/* server.h: the HTTP/1.1 listener: sockets, connections, requests; what a request means is the doors' business.
 *
 * A listener accepts; each connection reads one request at a time (pipelined bytes wait, bounded); each request is handed to
 * on_request once its head is whole and unambiguous. What is ambiguous is answered 400/413/414/431/501/505 and closed
 * before anything is forwarded. The owner answers with request_respond, or request_begin + request_write* + request_end.
 * While a request is being answered the connection goes on reading (bounded), so that the client's EOF is seen within the
 * turn: on_gone. A client that shuts its sending side down before it has its answer counts as gone.
 * Deadlines: the whole head within 10 s of its first byte, idle 75 s between requests, body not slower than 1 KB/s
 * averaged over 10 s windows after a grace of 30 s, a response whose reader takes nothing for 60 s (noticed within another
 * quarter of it) is cut; a TCP peer that answers no keep-alive for two minutes is gone.
 * Caps: connections in all and per remote address (IPv6: per /64; loopback and unix are not capped per address), header
 * 16 KB; and an eighth of the descriptors that the process may have (64 at least, half of them at most) is left to its other work,
 * whoever holds the rest. A client over a cap gets a 503 as far as that goes without waiting. When descriptors run out, accepting pauses
 * 100 ms at a time, and whoever was first in line is told 503.
 * Every refusal of ours is {"error":{"message","type","code","param":null}} with Connection: close. We close in order: FIN,
 * then read and drop for at most 2 s, so that the answer is not lost to a reset. */
#ifndef LSV_NET_SERVER_H
#define LSV_NET_SERVER_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

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
        size_t queued_max; /* bytes queued to all clients before new requests get 503 (not on vital listeners); 64 MB */
        size_t bodies_max; /* bytes of bodies held for all open requests; what does not fit is 503; 256 MB */
        usec_t body_grace, body_window;
        unsigned body_rate; /* bytes per second */
        unsigned
                send_buffer; /* SO_SNDBUF of TCP connections, so that a frozen reader pins little; 0: the system's choice */
};
extern const struct server_limits server_limits_default;

struct server_counts {
        uint64_t accepted, refused_cap, refused_address, refused_queued, refused_bodies, accept_errors,
                requests, bad_requests, timeouts_head, timeouts_idle, timeouts_body, timeouts_write,
                clients_gone, accept_pauses, tls_handshakes, tls_failures, tls_plain;
        unsigned connections;
        size_t queued; /* bytes that wait for readers, of all connections */
        size_t bodies; /* bytes of bodies that open requests hold */
};

typedef void server_request_fn(void *owner, struct request *req);

/* limits: NULL is the default. */
int server_new(struct loop *loop, const struct server_limits *limits, server_request_fn *on_request,
               void *owner, struct server **ret);
struct server *
server_free(struct server *s); /* closes all at once; on_gone is called for open requests first */
const struct server_counts *server_counts(const struct server *s);
void server_set_bodies_max(struct server *s, size_t max);

/* 0, -EADDRINUSE, -EACCES, -EADDRNOTAVAIL …; -EEXIST: the path is there and is no socket. IPv6 addresses take IPv6 alone.
 * at: where. mode: of a unix socket's file (0600, 0660), 0 for TCP. tag: the owner's mark, e.g. "control". A stale socket file
 * that nobody answers on is replaced; one that is answered gives -EADDRINUSE. (Two starters at the same instant are kept apart
 * by the daemon's lock on its runtime directory.) The file is unlinked at the end if it is still ours.
 * Port 0: see listener_endpoint. */
int server_listen(struct server *s, const struct endpoint *at, mode_t mode, const char *tag,
                  struct listener **ret);
/* The same on a socket that is bound and listens already (inherited.h); the descriptor is taken over, also on failure. is_ours: its
 * file gets this mode, and is unlinked at the end, as if we had bound it. */
int server_listen_on(struct server *s, int fd, const struct endpoint *bound, bool is_ours, mode_t mode,
                     const char *tag, struct listener **ret);
int listener_fd(const struct listener *l); /* -1 once it listens no more */
/* The operator's own: it is served when all others are refused (64 connections beyond the cap, and the descriptors kept free). */
void listener_set_vital(struct listener *l);
/* Speaks TLS with those that connect from now on. The context outlives the listener; it may be reloaded meanwhile. The handshake
 * has the deadline of a head. Who speaks plain HTTP gets a plain 400 that says so. */
struct tls_context;
void listener_set_tls(struct listener *l, const struct tls_context *context);
bool listener_is_tls(const struct listener *l);
const struct endpoint *listener_endpoint(const struct listener *l); /* as bound */
const char *listener_tag(const struct listener *l);
void server_stop_listening(struct server *s); /* existing requests go on, with Connection: close */

/* Ends every open request that bears this mark (request_set_mark), as if its client had gone. Returns how many. */
unsigned server_end_marked(struct server *s, uint64_t mark);

/* --- giving everything to another program (an upgrade) ----------------------------------------------------------------
 * Four steps, each of which can be taken back: closing (answers say Connection: close), held (nobody is accepted and no request
 * is begun; what comes waits in the kernel, and nothing of it is lost), quiet, handed on. */

void server_set_closing(struct server *s, bool on);
/* Idle TLS connections are closed in order: their keys cannot be handed on. */
void server_hold(struct server *s, bool on);
/* Requests that are being read or answered, and answers that were not sent yet; standing ones (request_set_standing) are not counted. */
unsigned server_busy(const struct server *s);
/* Calls fn for each of those. req: NULL where only the end of an answer waits for its reader (or a handshake is under way); age: since
 * the request's first byte, or since its end. */
typedef void server_busy_fn(void *owner, const struct request *req, const char *peer, usec_t age);
void server_each_busy(struct server *s, server_busy_fn *fn, void *owner);
/* Ends standing requests and channels that their owners left open, as if their clients had gone. */
void server_end_standing(struct server *s);
/* Ends all that server_busy counts, likewise. */
void server_cut(struct server *s);
/* Only listeners and connections that can be handed on are left. */
bool server_is_quiet(const struct server *s);
/* Calls fn for each connection that can be handed on, with the bytes that were read of its next request; on a held server. */
typedef void server_portable_fn(void *owner, int fd, const struct listener *l, const char *bytes, size_t len);
void server_each_portable(struct server *s, server_portable_fn *fn, void *owner);
/* Takes such a connection over, as if it had been accepted by l: 0, or -errno; the descriptor is taken also on failure. */
int server_adopt(struct server *s, struct listener *l, int fd, const char *bytes, size_t len);

/* --- one request ------------------------------------------------------------------------------------------------ */

/* A request ends with request_respond, request_end, request_abort, request_upgrade or on_gone; its memory is kept until the end of
 * that turn, and calls on it until then do nothing (-EPIPE), so that two facts of one batch cannot meet in freed memory. */
const struct http1_request *request_head(const struct request *req); /* valid until the request ends */
const struct listener *request_listener(const struct request *req);
const char *request_peer(const struct request *req); /* "127.0.0.1", "unix" */

/* A number of the owner's own on it; 0 until it is set. */
void request_set_mark(struct request *req, uint64_t mark);
uint64_t request_mark(const struct request *req);

/* An answer that has no end of its own (a feed, a log that is followed, a long poll): no upgrade waits for it. */
void request_set_standing(struct request *req);

/* The owner's own pointer on it, and what is called when the client goes before the end (EOF, reset, timeout) or the server is
 * freed, or when the server itself had to refuse the body (413, 400, 408): after on_gone the request must not be touched.
 * Not called from inside the functions below. Without on_gone such a request just ends. */
typedef void request_gone_fn(void *owner, struct request *req);
void request_on_gone(struct request *req, request_gone_fn *fn, void *owner);

/* Collects the body (sends 100-continue when asked for), bounded: over max it is answered 413 by the server itself.
 * on_body is called once, not from inside (an empty body too), with NUL behind the bytes, which stay until the request ends.
 * Call it before answering, or not at all (then up to 64 KB are drained, or the connection is closed).
 * 0, or -EINVAL (called twice, or after the answer began), -ENOBUFS (it would not fit into bodies_max: answer 503), -EPIPE. A body
 * of unknown length that grows over it is refused by the server itself, as one over max. */
typedef void request_body_fn(void *owner, struct request *req, const char *body, size_t len);
int request_read_body(struct request *req, size_t max, request_body_fn *on_body, void *owner);

/* n bytes more that live as long as this request, such as a copy of its body: they count among the bodies until it ends. 0 or -ENOBUFS (it
 * does not fit into bodies_max, and is counted as refused: answer 503). */
int request_hold(struct request *req, size_t n);

bool request_body_is_whole(const struct request *req); /* all of it has come, whoever has read it */

/* headers: further header lines each ended by CRLF, or NULL. Framing, Date-less, Connection and Content-Length are ours. HEAD is
 * handled here: same head, no body. A whole answer: */
void request_respond(struct request *req, int status, const char *content_type, const char *headers,
                     const void *body, size_t len);
/* A streamed answer (chunked on 1.1, until close on 1.0). The head goes out with the first write, or at the end of this turn.
 * A head that cannot be sent is answered 500, and on_gone follows.
 * write: 0, or -ENOBUFS when the reader is too slow (nothing of it was taken), -EPIPE when it is gone (on_gone follows),
 * -ENOMEM. One write larger than the bound is taken when nothing is queued. */
void request_begin(struct request *req, int status, const char *content_type, const char *headers);
/* The same for a body whose length is known: told as Content-Length. What is written must add up to it: a longer write is -EMSGSIZE,
 * a request_end before it is a request_break. */
void request_begin_sized(struct request *req, int status, const char *content_type, const char *headers,
                         uint64_t length);
int request_write(struct request *req, const void *data, size_t len);
size_t request_queued(const struct request *req); /* bytes that the reader has not taken yet */
/* Called whenever all that was queued has gone, whether a write was refused or the owner stopped by itself at fewer bytes. */
typedef void request_drain_fn(void *owner, struct request *req);
void request_on_drain(struct request *req, request_drain_fn *fn, void *owner);
void request_end(struct request *req);
/* Ends the answer by closing the connection in the middle (the client sees a truncated answer): at once … */
void request_abort(struct request *req);
/* … or when what was written has gone out. */
void request_break(struct request *req);

/* A place at the client's address for what outlives its connection (a session of long polling): counted apart from the
 * connections, with the same cap. 0 (*ret is NULL where addresses are not capped), -EUSERS (counted as refused_address), -EPIPE. Let go
 * of it with address_let_go, which takes NULL, also after the server's end. */
struct address;
int request_hold_address(const struct request *req, struct address **ret);
void address_let_go(struct address *a);

/* --- a connection that goes on in another protocol (WebSocket) ----------------------------------------------------- */

/* It stays in the server's count and in its address's, and a reader that takes nothing for the write timeout is cut as any other. */
struct channel;

struct channel_events {
        /* What came, also what came right behind the request; valid during the call. */
        void (*on_read)(void *owner, const char *data, size_t len);
        /* All that was queued has gone. */
        void (*on_drain)(void *owner);
        /* The peer went or was cut (slow: because it read nothing), or the server is freed: it must not be touched after. */
        void (*on_gone)(void *owner, bool slow);
};

/* Answers 101 with the header lines; the request is gone after, the connection is the owner's. Nothing is called from inside this or
 * the functions below. 0, or -EINVAL (the answer began, or a body is expected), -ENOMEM: then it is still there; -EPIPE. */
int request_upgrade(struct request *req, const char *headers, const struct channel_events *events,
                    void *owner, struct channel **ret);
/* Sends or queues all of it; the bound is the owner's business (channel_queued). 0, or -EPIPE: it is broken, on_gone follows. */
int channel_write(struct channel *ch, const struct iovec *iov, unsigned n);
size_t channel_queued(const struct channel *ch);
/* Closes in order: what is queued, FIN, and 2 s for the peer to do the same. Nothing is called any more. Always NULL. */
struct channel *channel_close(struct channel *ch);
/* The same at once. */
struct channel *channel_abort(struct channel *ch);

#endif
