/* feed.h: the status feed on its three carriers: WebSocket /ws, SSE /api/v1/events and Socket.IO v4
 * /socket.io/ (polling and WebSocket). One message per changed instance, the whole set on connect and on request.
 *
 * Changes of state go out at once, figures at most once a second, coalesced to the newest state per subscriber that
 * reads slowly, sliced (about 500 subscribers a turn) when there are many; nobody blocks anybody. */
#ifndef LSV_HTTP_FEED_H
#define LSV_HTTP_FEED_H

#include "fleet/fleet.h"
#include "http/feed_ws.h"
#include "net/server.h"

struct feed;

struct feed_counts {
        unsigned subscribers_ws, subscribers_sse, subscribers_socketio;
        uint64_t messages, coalesced, refused, closed_slow;
        struct ws_counts ws;
};

int feed_new(struct loop *loop, struct fleet *fleet, struct feed **ret);
struct feed *feed_free(struct feed *f);
const struct feed_counts *feed_counts(const struct feed *f);
/* Judges the key of a Socket.IO client's CONNECT (`auth: {token}`). 1: it may read, *ret_mark is for feed_end_marked; 0: keys mean nothing
 * here; -EACCES with words for the client. Without it keys mean nothing. */
typedef int feed_key_fn(void *owner, struct slice key, const char *peer, uint64_t *ret_mark, char *words,
                        size_t size);
enum { FEED_KEY_WORDS_MAX = 320 };
void feed_on_key(struct feed *f, feed_key_fn *fn, void *owner);
/* Whose lines the topic "log" tells; must outlive the feed. Without it the topic is refused. */
struct ownlog;
void feed_set_ownlog(struct feed *f, struct ownlog *ownlog);
/* For the topic "hub"; NULL: none any more (the hubs go after the feed has let go of them). 0 or -ENOSPC. */
struct hubs;
int feed_set_hubs(struct feed *f, struct hubs *hubs);
/* Ends all that began with a request of this mark (request_mark): its key was revoked. Returns how many. */
unsigned feed_end_marked(struct feed *f, uint64_t mark);

/* Ends everybody's, with a word that they may come back at once: another program takes over (1012; SSE: retry). */
void feed_restart(struct feed *f);

/* The router calls these once the gate (Host, Origin) is passed; each answers the request in every case. */
void feed_websocket(struct feed *f, struct request *req); /* GET /ws */
void feed_sse(struct feed *f, struct request *req);       /* GET /api/v1/events */
/* GET, POST, OPTIONS /socket.io/. may_read: its caller may be told; else a session may begin, and its CONNECT must show a key. */
void feed_socketio(struct feed *f, struct request *req, bool may_read);

#endif
