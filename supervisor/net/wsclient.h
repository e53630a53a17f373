/* wsclient.h: the WebSocket client (RFC 6455) for hubs, ws:// and wss://, by libwebsockets.
 *
 * One client is one URL; wsclient_connect makes a connection, on_end says that it is over (or never came to be), and then it may be made
 * again. Who reconnects when is the owner's business. Names are resolved in the pool, every address is tried in turn, certificates are
 * verified against the name (wsclient_spec.ca_file alone, where it is given, else the system's), no proxy of the environment is used, no
 * redirect is followed, no extension is offered.
 *
 * Bounds: a message in (message_max, else the connection is closed with 1009), what waits to be sent (queue_max: -ENOBUFS),
 * the way to the open connection (connect_timeout), silence (a ping every ping_interval; nothing at all from the peer for
 * `silence` ends it), and the goodbye (2 s).
 *
 * libwebsockets runs on a loop of its own inside ours: its libuv plug-in is given a foreign loop that never blocks and is turned
 * whenever its descriptor (an epoll inside our epoll) or its next timer says so. So its handles, which it closes in its own time, never
 * lie on our loop, a client is gone when wsclient_free returns, and no callback of ours runs inside the library.
 * The same code runs on 4.1.6 (Debian 12) and 4.3.5 (Debian 13). Source: libwebsockets' headers, its libuv plug-in. */
#ifndef LSV_NET_WSCLIENT_H
#define LSV_NET_WSCLIENT_H

#include <stddef.h>

#include "net/loop.h"

struct wsclient;

enum {
        WSCLIENT_MESSAGE_MAX = 16 << 20, /* the default of message_max */
        WSCLIENT_QUEUE_MAX = 8 << 20,    /* of queue_max */
        WSCLIENT_URL_MAX = 1024,
        WSCLIENT_REASON_MAX = 124, /* of a close frame, with a NUL */
};

struct wsclient_end {
        bool opened;   /* it had been open */
        unsigned code; /* of the peer's close frame; 1006: there was none; of ours, when we closed in order */
        const char *reason; /* of the peer's close frame, made harmless; "" */
        const char
                *why; /* plain words for people, never NULL: "name or service not known", "silent for 60 s" */
};

/* None is called from inside the functions below; each of them may call any of those, wsclient_free too. */
struct wsclient_events {
        void (*on_open)(void *owner);
        void (*on_message)(void *owner, const char *data, size_t len, bool binary); /* NUL behind it */
        void (*on_drain)(void *owner); /* all that was queued has gone to the kernel; may be NULL */
        void (*on_end)(void *owner, const struct wsclient_end *end);
};

struct wsclient_spec {
        const char *url;                                /* "wss://host[:port]/path?query" */
        const char *ca_file;                            /* PEM; NULL: the system's */
        const char *protocol;                           /* Sec-WebSocket-Protocol; NULL: none */
        usec_t connect_timeout, ping_interval, silence; /* 0: 20 s, 20 s, 60 s */
        size_t message_max, queue_max;                  /* 0: the defaults */
};

/* 0; -EINVAL (the URL), -ENOENT, -EACCES … (ca_file), -EBADMSG (ca_file holds no certificate), -ELIBACC (libwebsockets' libuv plug-in is not
 * installed), -ENOMEM. Strings are copied. */
int wsclient_new(struct loop *loop, const struct wsclient_spec *spec, const struct wsclient_events *events,
                 void *owner, struct wsclient **ret);
struct wsclient *wsclient_free(struct wsclient *w); /* at once, without a goodbye; always NULL */

/* on_open or on_end follows. 0, -EISCONN (it is there, or on its way), -ENOMEM, -EAGAIN. */
int wsclient_connect(struct wsclient *w);
bool wsclient_is_open(const struct wsclient *w);
/* A whole text message. 0, -ENOTCONN, -ENOBUFS, -ENOMEM. */
int wsclient_send(struct wsclient *w, const char *text, size_t len);
size_t wsclient_queued(const struct wsclient *w);
/* Says goodbye after what is queued; on_end follows within 2 s. Also ends an attempt. Nothing when there is no connection. */
void wsclient_close(struct wsclient *w, unsigned code, const char *reason);

struct wsclient_counts {
        uint64_t attempts, opened, messages_in, messages_out, bytes_in, bytes_out, refused, too_big;
};
const struct wsclient_counts *wsclient_counts(const struct wsclient *w);

#endif
