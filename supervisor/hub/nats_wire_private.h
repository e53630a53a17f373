/* nats_wire_private.h: what nats_wire.c (queues, threads) and nats_dial.c (one connection) share. */
#ifndef LSV_HUB_NATS_WIRE_PRIVATE_H
#define LSV_HUB_NATS_WIRE_PRIVATE_H

#ifdef LSV_HAVE_NATS

#include <nats/nats.h>

#include "hub/nats_wire.h"

struct nats_session;

/* What a dialled connection tells; from libnats' threads. */
struct nats_session_events {
        void (*on_closed)(void *owner);
        void (*on_complaint)(void *owner, const char *what);
        void *owner;
};

struct nats_dial {
        const char *url, *name, *user, *credentials_file, *ca_file, *cert_file, *key_file;
};

/* natsConnection_Connect, and once more when we are refused: libnats takes a signature that begins with a zero byte for none (src/conn.c, seen in
 * 3.4.1), and sends none, so that every 256th time a good key is refused. The next connection signs other bytes. */
natsStatus nats_connect(natsConnection **ret, natsOptions *o);

/* Blocks, for some seconds at most. 0 and a connection; -EACCES: the server refuses our key; -EIO: anything else; both with words in why.
 * on_closed comes once for each connection that was made. */
int nats_dial(const struct nats_dial *d, const struct nats_session_events *events, natsConnection **ret,
              char *why, size_t size);

#endif
#endif
