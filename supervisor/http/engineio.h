/* engineio.h: the packets of Engine.IO (protocol 4) and of Socket.IO on top of it (protocol 5). Pure.
 *
 * An Engine.IO packet is one digit and its data; over HTTP several travel in one body, separated by 0x1e, over WebSocket each is
 * a text message. A Socket.IO packet is the data of an Engine.IO message: type, number of binary attachments, namespace, id
 * of the acknowledgement, JSON:
 *
 *     <type>[<attachments>-][<namespace>,][<id>][JSON]        2["event",…]    213["event",…]    0/admin,{"token":"…"}
 *
 * Source: https://github.com/socketio/socket.io, docs/engine.io-protocol/v4 and docs/socket.io-protocol/v5. */
#ifndef LSV_HTTP_ENGINEIO_H
#define LSV_HTTP_ENGINEIO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"

#define ENGINEIO_SEPARATOR '\x1e'

enum engineio_type {
        ENGINEIO_OPEN,
        ENGINEIO_CLOSE,
        ENGINEIO_PING,
        ENGINEIO_PONG,
        ENGINEIO_MESSAGE,
        ENGINEIO_UPGRADE,
        ENGINEIO_NOOP,
        ENGINEIO_BINARY, /* 'b': base64 of a binary message, in HTTP bodies only; the data is not decoded */
};

struct engineio_packet {
        enum engineio_type type;
        struct slice data; /* of the caller's bytes */
};

/* One packet: 0 or -EBADMSG (empty, or a type that is none). */
int engineio_parse(struct slice text, struct engineio_packet *ret);
/* Takes the next packet's text off a body; *rest starts as the whole body and is {NULL, 0} after the last. An empty body holds one
 * empty packet, as in the reference implementation. */
bool engineio_next(struct slice *rest, struct slice *ret);

enum socketio_type {
        SOCKETIO_CONNECT,
        SOCKETIO_DISCONNECT,
        SOCKETIO_EVENT,
        SOCKETIO_ACK,
        SOCKETIO_CONNECT_ERROR,
        SOCKETIO_BINARY_EVENT,
        SOCKETIO_BINARY_ACK,
};

enum { SOCKETIO_ATTACHMENTS_MAX = 10, SOCKETIO_EVENT_MAX = 64 };

struct socketio_packet {
        enum socketio_type type;
        unsigned attachments; /* binary messages that follow */
        struct slice nsp;     /* "/" when none is given */
        bool has_id;
        uint64_t id;       /* at most 2^53 - 1, what a JavaScript number holds */
        struct slice data; /* checked JSON, empty when there is none */
        char event
                [SOCKETIO_EVENT_MAX]; /* of an event: its name; "" when it is a number or longer than this */
};

/* 0; -EBADMSG when the reference implementation would refuse it, or when a number is beyond the bounds above; -ENOMEM. */
int socketio_parse(struct slice text, struct socketio_packet *ret);

#endif
