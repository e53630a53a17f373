/* feed_ws.h: the WebSockets of the feed: handshake, messages and heartbeat; frames are core/websocket's business.
 *
 * Our server has read and judged the head; ws_accept checks what RFC 6455 §4.2 adds, and goes on with the connection (a channel of
 * net/server, so that caps, deadlines and the sum of what waits for slow readers hold as before). No extension is agreed on. What
 * breaks a rule of the protocol is told by a close frame with code and reason, and ends the connection. Of pings that came
 * together only the last is answered, as §5.5.3 allows: a flood of them costs one answer a read.
 *
 * Each connection is asked by a ping whether it is still there once nothing was heard of it for an interval, and is closed when
 * nothing comes for another one: that ends frozen readers, too. */
#ifndef LSV_HTTP_FEED_WS_H
#define LSV_HTTP_FEED_WS_H

#include "core/websocket.h"
#include "net/loop.h"
#include "net/server.h"

enum {
        WS_MESSAGE_MAX = 16 * 1024, /* of a client; a longer one ends it with 1009 */
        WS_CONNECTIONS_MAX = 16384, /* of the server's 20,000 */
};

struct ws;
struct ws_conn;

/* Called from the loop, never from inside ws_accept, ws_send or ws_close. After on_close, or ws_close by the owner, the connection
 * must not be touched, and nothing is called any more. */
struct ws_events {
        void (*on_message)(void *owner, const char *data, size_t len, bool is_binary);
        void (*on_writable)(void *owner);         /* after -EAGAIN of ws_send */
        void (*on_close)(void *owner, bool slow); /* slow: it was given up because it did not read */
        bool pings;                               /* false: the owner has a heartbeat of its own */
};

struct ws_counts {
        unsigned connections;
        uint64_t refused; /* beyond WS_CONNECTIONS_MAX, or handshakes that are none */
        uint64_t broken;  /* closed for breaking a rule of the protocol */
};

/* Counts into *counts, which must live as long. */
int ws_new(struct loop *loop, struct ws_counts *counts, struct ws **ret);
/* Hangs up on everybody; nothing is called. Always NULL. */
struct ws *ws_free(struct ws *ws);
void ws_set_ping_interval(struct ws *ws, usec_t interval); /* 25 s; for those accepted from now on */

/* True when the request is a WebSocket handshake that ws_accept would take; else it was answered (400, 426, 503). */
bool ws_check(struct ws *ws, struct request *req);
/* Answers 101 and takes the connection over; only after ws_check. The sub-protocol is "llama-status" when the client offers it
 * (among others, such as key.<base64url>), none otherwise. 0, or -errno: the request was answered, *ret is untouched. */
int ws_accept(struct ws *ws, struct request *req, const struct ws_events *events, void *owner,
              struct ws_conn **ret);
void ws_set_events(struct ws_conn *c, const struct ws_events *events, void *owner);

/* Sends a text message. 0: it was sent, or the rest of it waits (at most one message does). -EAGAIN: nothing was taken, an earlier
 * one still waits. -EPIPE: it is broken, on_close follows. */
int ws_send(struct ws_conn *c, const char *data, size_t len);
/* Says goodbye (a reader that does not read is hung up on). Always NULL. */
struct ws_conn *ws_close(struct ws_conn *c, enum websocket_code code, const char *reason);

#endif
