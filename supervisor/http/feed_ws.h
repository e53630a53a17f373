/* feed_ws.h: the WebSockets of the feed: libwebsockets without a listener, on our loop.
 *
 * Our server has read and judged the head; ws_accept checks the handshake itself (RFC 6455 §4.2), takes the socket over and gives
 * libwebsockets a plain head of our making, so that nothing of what a client writes into its head is parsed twice. Frames,
 * fragments, control frames and UTF-8 are libwebsockets' business (4.1 to 4.3 also read frames without a mask; later ones
 * refuse them); messages are put together here, bounded.
 *
 * Each connection is asked by a ping whether it is still there once nothing was heard of it for an interval, and is closed when
 * nothing comes for another one: that ends frozen readers, too. */
#ifndef LSV_HTTP_FEED_WS_H
#define LSV_HTTP_FEED_WS_H

#include "net/loop.h"
#include "net/server.h"

enum {
        WS_HEADROOM = 32,           /* bytes in front of what is sent that belong to the frame */
        WS_MESSAGE_MAX = 16 * 1024, /* of a client; a longer one ends it with 1009 */
        WS_CONNECTIONS_MAX = 20000,
};

enum ws_code {                       /* RFC 6455 §7.4 */
               WS_GOING_AWAY = 1001, /* the daemon ends: only before ws_free */
               WS_POLICY = 1008,
               WS_TOO_BIG = 1009,
               WS_NORMAL = 1000,
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
};

int ws_new(struct loop *loop, struct ws **ret);
/* Hangs up on everybody (nothing is called) and goes when its handles are closed, which loop_free waits for. Always NULL. */
struct ws *ws_free(struct ws *ws);
const struct ws_counts *ws_counts(const struct ws *ws);
void ws_set_ping_interval(struct ws *ws, usec_t interval); /* 25 s; for those accepted from now on */

/* True when the request is a WebSocket handshake that ws_accept would take; else it was answered (400, 426, 503). */
bool ws_check(struct ws *ws, struct request *req);
/* Answers 101 and takes the connection over; only after ws_check. The sub-protocol is "llama-status" when the client offers it
 * (among others, such as key.<base64url>), none otherwise. 0, or -errno: the request is gone or was answered, *ret is
 * untouched. */
int ws_accept(struct ws *ws, struct request *req, const struct ws_events *events, void *owner,
              struct ws_conn **ret);
void ws_set_events(struct ws_conn *c, const struct ws_events *events, void *owner);

/* Sends a text message; the WS_HEADROOM bytes in front of it are overwritten. 0: it was sent, or the rest of it waits (at most one
 * message does). -EAGAIN: nothing was taken, an earlier one still waits. -EPIPE: it is broken, on_close follows. */
int ws_send(struct ws_conn *c, char *data, size_t len);
/* True while a message waits for the reader. */
bool ws_is_blocked(const struct ws_conn *c);
/* Says goodbye (a reader that does not read is hung up on). Always NULL. */
struct ws_conn *ws_close(struct ws_conn *c, enum ws_code code, const char *reason);

#endif
