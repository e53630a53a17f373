/* nats_wire.h: a connection to a NATS server by libnats, which blocks, with a thread of our own around it, so that the loop never waits.
 *
 * Why not on our loop: libnats resolves names, connects, makes its TLS handshake and, when the socket is full, writes, each by blocking calls
 * under one lock that every other call takes, too; its adapter for libuv only moves reading. So all of libnats is called
 * from one thread (and calls us from its own): orders go there by a bounded queue, messages come back by another and an eventfd.
 *
 * Reconnecting is ours as well, not libnats': nothing that was written for one connection is sent on the next by surprise (a pull whose
 * inbox is gone would swallow a job), and a refused key is known as such. A round tries every URL, in an order of chance; between
 * rounds full jitter over 100 ms × 2^n, at most 16 s; 5 s × 2^n ± 20 %, at most 5 min, when the server refused our key (no storm).
 * (Who holds claims hurries it: nats.c.)
 * Credentials are read from their file at every connection: a new key needs no restart.
 *
 * Subscriptions live as long as a connection: on_up says when to make them. All callbacks come from the loop, none from inside the functions
 * here; none comes after nats_wire_free. */
#ifndef LSV_HUB_NATS_WIRE_H
#define LSV_HUB_NATS_WIRE_H

#include "net/loop.h"

enum {
        NATS_WIRE_ORDERS_MAX = 8192, /* waiting for the thread */
        NATS_WIRE_ORDER_BYTES_MAX = 64 << 20,
        NATS_WIRE_EVENTS_MAX =
                8192, /* waiting for the loop; more: libnats' thread waits, then its own bounds hold */
        NATS_WIRE_EVENT_BYTES_MAX = 128 << 20,
        NATS_WIRE_URLS_MAX = 16,
};

struct nats_wire;

struct nats_message {
        uint64_t tag; /* of the subscription */
        const char *subject;
        const char *reply; /* NULL */
        const char *data;
        size_t len;
        int status; /* of a message of the server's own ("NATS/1.0 404 …"): 404, 503 …; 0: none */
        void *own;
};
/* NULL: it has none. Valid during on_message. */
const char *nats_message_header(const struct nats_message *m, const char *name);

struct nats_wire_events {
        void (*on_up)(void *owner, const char *peer, size_t max_payload);
        /* Also when the first round failed. why: plain words, without secrets. */
        void (*on_down)(void *owner, const char *why, bool refused, usec_t retry_at);
        void (*on_message)(void *owner, const struct nats_message *m);
        /* Of nats_wire_drain: nothing comes for the tag any more. */
        void (*on_drained)(void *owner, uint64_t tag);
        /* What the server or libnats complained of while the connection holds ("Permissions Violation for …"). */
        void (*on_complaint)(void *owner, const char *what);
};

struct nats_wire_spec {
        char *const *urls; /* "nats://host[:4222]", "tls://…"; n_urls of them */
        size_t n_urls;
        const char *name; /* we are called so in the server's lists */
        const char *user; /* NULL: none; with it credentials_file holds the password */
        const char *
                credentials_file; /* NULL: none; else a password, an nkey's seed, or a credentials file (JWT and seed) */
        const char *ca_file, *cert_file, *key_file; /* NULL */
        const struct nats_wire_events *events;
        void *owner;
};

struct nats_header {
        const char *name, *value;
};

/* Copies everything; connects in the background. 0, -ENOMEM, -errno of what the kernel refuses; -EINVAL: a URL is none. */
int nats_wire_new(struct loop *loop, const struct nats_wire_spec *spec, struct nats_wire **ret);
/* What was ordered before is still sent, for a second at most; it waits a tenth of that itself, then the process' end does. Always NULL. */
struct nats_wire *nats_wire_free(struct nats_wire *w);
/* The next try is made now. */
void nats_wire_hurry(struct nats_wire *w);

/* 0; -ENOTCONN; -EAGAIN: the queue is full; -EMSGSIZE: over the server's max_payload; -ENOMEM. reply may be NULL. */
int nats_wire_publish(struct nats_wire *w, const char *subject, const char *reply,
                      const struct nats_header *headers, size_t n_headers, const void *data, size_t len);
/* 0, -ENOTCONN, -EAGAIN, -ENOMEM. A tag is one subscription at a time. */
int nats_wire_subscribe(struct nats_wire *w, uint64_t tag, const char *subject);
/* With what is on its way (on_drained), or at once. A tag that is not there is fine, and is not answered. */
int nats_wire_drain(struct nats_wire *w, uint64_t tag);
void nats_wire_unsubscribe(struct nats_wire *w, uint64_t tag);
/* How full the queue of orders is, of 100: who can wait does so beyond 50. */
unsigned nats_wire_fill(const struct nats_wire *w);
uint64_t nats_wire_bytes_in(const struct nats_wire *w);
uint64_t nats_wire_bytes_out(const struct nats_wire *w);

#endif
