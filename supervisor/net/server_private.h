/* server_private.h: what server.c, listener.c, connection.c, request.c and channel.c share: the listener's own types.
 *
 * A connection reads; when a head is whole it makes a request and hands it out; the request writes through the connection.
 * Memory: connections, requests and the server itself are freed by deferred calls at the end of the turn in which they
 * died, in that order, so every frame on the stack may look at `dead` and `ended` after it called out. */
#ifndef LSV_NET_SERVER_PRIVATE_H
#define LSV_NET_SERVER_PRIVATE_H

#include <netinet/in.h>

#include "base/list.h"
#include "net/loop_private.h"
#include "net/server.h"
#include "net/stream.h"

enum {
        ADDRESS_BUCKETS = 256,
        SPARE_REQUESTS_MAX = 256,
        SPARE_BUFFER_MAX = 16 * 1024, /* a spare request keeps no larger buffers */
        INPUT_MAX =
                64 * 1024, /* unread bytes (pipelined, or a body nobody asked for) before reading pauses */
        PIPELINE_QUEUE_MAX = 64 * 1024, /* unsent bytes at which no further pipelined request is begun */
        STEPS_A_TURN =
                100, /* pieces of input (requests, bodies) that one connection may have done at a time */
        DRAIN_MAX = 64 * 1024, /* of an unwanted body, to keep a connection */
        LINGER_BYTES_MAX = 16 * 1024 * 1024,
        VITAL_EXTRA = 64, /* connections of vital listeners beyond the cap */
};

/* Connections from one remote address. */
struct address {
        struct list node; /* in server.addresses[] */
        struct in6_addr key;
        unsigned count, held; /* connections; places by request_hold_address */
};

struct server {
        struct loop *loop;
        struct server_limits limits;
        server_request_fn *on_request;
        void *owner;
        struct server_counts counts;
        struct list listeners, conns, spares;
        unsigned n_spares;
        struct request
                *next; /* heads are parsed into this one; it becomes the request when its head is whole */
        struct list addresses[ADDRESS_BUCKETS];
        struct timer *pause; /* armed while accepting pauses */
        int reserve;         /* a descriptor to give up when there are no others */
        int fd_max;          /* descriptors from this number on are kept for the rest of the program */
        struct deferred later;
        bool stopping, dead;
        bool closing; /* answers say Connection: close */
        bool held;    /* nobody is accepted, no request is begun */
};

struct listener {
        struct list node;
        struct server *server;
        struct endpoint at;
        char *tag;
        bool vital;
        const struct tls_context *tls; /* the owner's; NULL: plain */
        int fd;                        /* -1 once it listens no more */
        struct watch *watch;
        dev_t dev; /* of the socket file, to know whether it is still ours */
        ino_t ino;
};

/* A handshake, the request that it was made for, or a head that is being sent over TLS, where nothing can be handed on, is waited for
 * no longer than that before an upgrade: whoever only connects and says nothing keeps nobody from one. */
#define CONN_TLS_PATIENCE (2 * USEC_PER_SEC)

struct channel {
        const struct channel_events *on; /* NULL: its connection speaks HTTP, or ends */
        void *owner;
};

struct conn {
        struct list node; /* in server.conns */
        struct server *server;
        struct listener *listener;
        struct stream *stream;
        struct timer *timer;
        struct address *address; /* NULL when not capped */
        struct deferred later;   /* goes on with input that waits; frees when dead */
        struct request *req;     /* the one being read or answered */
        struct channel channel;  /* what came after the last one */
        struct buffer in;        /* bytes not yet used */
        const char *view; /* while processing: the bytes not yet used, in `in` or in the loop's read buffer */
        size_t view_len;
        struct http1_parser parser;
        struct http1_body rest; /* while draining: the body that nobody wanted */
        size_t accounted;       /* its part of server.queued */
        uint64_t received, lingered, body_mark, sent_mark;
        usec_t idle_since, head_since, linger_until, body_check, sent_check, sent_at;
        usec_t greeted_until; /* over TLS, before its first request: so long a hold waits for that; else 0 */
        char peer[INET6_ADDRSTRLEN];
        bool dead, processing, paused, peer_eof, draining, more, body_graced, stuck;
        bool closing;   /* sends what is queued, then closes */
        bool lingering; /* has sent FIN, waits for the peer's */
        bool slow;      /* was cut because it read nothing */
        bool doomed;    /* goes at the end of this turn */
};

struct request {
        struct list node; /* in server.spares */
        struct server *server;
        struct conn *conn;
        struct deferred later; /* sends a head that no write took along; recycles when ended */
        struct http1_request head;
        struct buffer raw; /* the head's bytes, which head points into */
        struct buffer body, out;
        size_t held; /* bytes that its owner holds for it, beside the body */
        struct http1_body decoder;
        request_gone_fn *on_gone;
        request_body_fn *on_body;
        request_drain_fn *on_drain;
        void *gone_owner, *body_owner, *drain_owner;
        uint64_t mark;
        uint64_t left; /* of a body whose length was told */
        bool ended, body_asked, body_done, begun, head_waits, chunked, sized, bodyless, close_after, standing;
};

/* listener.c */
struct listener *listener_free(struct listener *l);
void listener_stop(struct listener *l);
void server_resume_accepting(void *owner, usec_t now);
/* Takes the descriptor, within the caps. 0, -EUSERS when it was turned away, -errno. */
int listener_admit(struct listener *l, int fd, const struct endpoint *from, struct conn **ret);

/* connection.c */
int conn_new(struct listener *l, int fd, const struct endpoint *from, struct address *address,
             struct conn **ret);
void conn_kill(struct conn *c);  /* at once; c->req must have been dealt with */
void conn_gone(struct conn *c);  /* tells the open request, then kills */
void conn_close(struct conn *c); /* sends what is queued, then FIN */
/* Answers with an error of our own and closes; an open request is told that it is gone. */
void conn_refuse(struct conn *c, int status, const char *reason);
/* The same with a word as the error's code, where the doors answer the same refusal with it; NULL: the status. */
void conn_refuse_as(struct conn *c, int status, const char *code, const char *reason);
void conn_wrote(struct conn *c);                           /* after each write: deadlines */
void conn_request_ended(struct conn *c, bool close_after); /* c->req has been taken off */
void conn_hold(struct conn *c); /* after server.held changed: reads no more, or goes on */
/* Nothing is under way on it but the beginning of a request. */
bool conn_is_between(const struct conn *c);
void conn_continue(struct conn *c);      /* looks at waiting input at the end of this turn */
void conn_use(struct conn *c, size_t n); /* n bytes of the view are done with */
void conn_begin_body(struct conn *c);    /* the body's deadlines begin */
void address_release(struct address *a);

/* request.c */
struct request *request_new(struct server *s);
struct request *request_free(struct request *req);
void request_retire(struct request *req); /* ended: recycled at the end of the turn */
/* Feeds the connection's view to the body. True if it made progress that may allow more. */
bool request_feed(struct request *req);
/* Writes a whole answer without a request, from what is known of the connection alone. */
int respond_error(struct conn *c, int status, const char *code, const char *reason, bool head_only);

#endif
