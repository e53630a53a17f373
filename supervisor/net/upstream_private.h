/* upstream_private.h: what upstream.c (the pool), exchange.c (one request) and exchange_answer.c (its answer) share.
 *
 * Memory: an exchange that has ended is recycled at once, also inside its own callbacks; whoever calls out leaves a flag on
 * the stack (`gone`) and looks at it before touching anything again. */
#ifndef LSV_NET_UPSTREAM_PRIVATE_H
#define LSV_NET_UPSTREAM_PRIVATE_H

#include "base/buffer.h"
#include "base/list.h"
#include "net/loop_private.h"
#include "net/stream.h"
#include "net/upstream.h"

/* A connection: idle in the pool, or with one exchange. */
struct leg {
        struct list node; /* in upstream.idle, newest last; in no list while it has an exchange */
        struct upstream *upstream;
        struct exchange *exchange;
        struct stream *stream;
        pid_t peer_pid;
        usec_t until;  /* while idle */
        unsigned left; /* requests that the server still takes */
        bool reused;
};

struct exchange {
        struct list node; /* in upstream.running or upstream.spares */
        struct upstream *upstream;
        struct leg *leg;
        struct timer *timer;
        struct deferred late;             /* tells from outside the owner's own call: a failure, a held end */
        const struct exchange_events *on; /* NULL: collected, for on_done */
        struct deferred send;             /* the request goes out at the end of the turn */
        exchange_done_fn *on_done;
        void *owner;
        bool *gone; /* set while a callback runs: whether it ended the exchange */
        bool *over; /* set while the rest of a broken connection is read: the same */
        enum http1_method method;
        bool fresh, connected, in_body, keep_alive, paused, ending;
        bool held_end; /* the connection ended while paused; `error` says how */
        usec_t start, connect_by, first_by, by, idle, last_byte;
        usec_t connected_after, first_byte_after;
        usec_t keep; /* how long the server keeps the connection */
        unsigned keep_max;
        uint64_t bytes;
        uint64_t sent_before; /* the connection's counter when this exchange got it */
        struct buffer out;    /* the request's head; kept for a second try */
        const struct iovec *body_out;
        unsigned n_body_out;
        uint64_t total, given; /* bytes of the request, and how many of them the stream got */
        size_t body_max;
        struct buffer head, body;
        struct http1_parser parser;
        struct http1_body decoder;
        unsigned interim;
        int status, error;
};

struct upstream {
        struct loop *loop;
        struct endpoint to;
        char host[ENDPOINT_TEXT_MAX + 16]; /* as a header line */
        unsigned max_idle, n_idle, n_running, n_spares;
        struct list idle, running, spares;
        struct timer *idle_timer; /* for the oldest idle connection */
        bool *gone;               /* set while a last callback runs: whether it freed us */
        struct upstream_counts counts;
};

/* upstream.c: connections. Each belongs to the exchange until leg_release. */
int leg_connect(struct upstream *u, struct exchange *x, struct leg **ret);
struct leg *leg_reuse(struct upstream *u, struct exchange *x); /* NULL: none is idle */
/* Back to the pool for at most `keep`, or closed. */
void leg_release(struct leg *l, bool reusable, usec_t keep);

/* exchange.c: what happens on the connection of an exchange. */
void exchange_on_connect(struct exchange *x, int error);
void exchange_on_end(struct exchange *x, int error);
void exchange_on_drain(struct exchange *x);
void exchange_set_timer(struct exchange *x);
/* Gives the connection back, tells the owner, recycles. */
void exchange_finish(struct exchange *x, enum exchange_result result, bool reusable);
struct exchange *exchange_free(struct exchange *x);

/* exchange_answer.c */
void exchange_on_bytes(struct exchange *x, char *data, size_t len);

#endif
