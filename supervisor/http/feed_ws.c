/* feed_ws.c: WebSocket connections on libwebsockets 4.1 … 4.3, which never listens and shares our libuv loop. */
#include "http/feed_ws.h"

#include <assert.h>
#include <errno.h>
#include <libwebsockets.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/log.h"
#include "base/slice.h"
#include "http/doors.h"
#include "http/respond.h"
#include "net/foreign.h"

#define PROTOCOL_NAME "llama-status"
#define VHOST_NAME    "feed"

static_assert((int)WS_HEADROOM >= (int)LWS_PRE,
              "libwebsockets writes the frame's head in front of the payload");

enum {
        KEY_LENGTH = 24,     /* base64 of 16 bytes */
        RX_SIZE = 512,       /* read at a time; libwebsockets keeps such a buffer for each connection */
        SEND_BUFFER = 65536, /* of the kernel; by default each frozen reader pins 2.7 MB there */
        DESCRIPTORS_MAX = 131072,
};

static const usec_t PING_INTERVAL = 25 * USEC_PER_SEC;

struct ws {
        struct loop *loop;
        struct lws_context *context; /* libwebsockets sets it to NULL when it has freed it */
        struct lws_vhost *vhost;
        struct timer *timer;
        struct list beats; /* of struct ws_conn, by `check`; all wait equally long, so a new one comes last */
        usec_t ping_interval;
        struct ws_conn *accepting; /* the connection that is being made */
        struct ws_counts counts;
        bool closing;
};

struct ws_conn {
        struct ws *ws;
        struct lws *wsi;
        const struct ws_events *events; /* NULL: its owner has let it go */
        void *owner;
        struct list beat;
        usec_t check;
        struct buffer message; /* what has come of a message in several pieces */
        enum ws_code close_code;
        const char *close_reason;
        bool accepted, closing, broken, slow, heard, pinged, blocked, in_message;
};

/* --- libwebsockets talks ------------------------------------------------------------------------------------------- */

static void emit(int level, const char *line)
{
        size_t n = strcspn(line, "\n");

        /* It calls everyday things errors (each adoption, for one), so nothing of it is louder than debug. */
        (void)level;
        log_debug(NULL, "libwebsockets: %.*s", (int)n, line);
}

/* --- one connection ------------------------------------------------------------------------------------------------ */

static void hang_up(struct ws_conn *c)
{
        /* Its poll then finds the end of file, and libwebsockets takes it down. */
        (void)shutdown(lws_get_socket_fd(c->wsi), SHUT_RDWR);
}

static int send_close(struct ws_conn *c)
{
        if (!c->broken)
                lws_close_reason(c->wsi, (enum lws_close_status)c->close_code,
                                 (unsigned char *)(uintptr_t)c->close_reason, strlen(c->close_reason));
        return -1;
}

static void give_up(struct ws_conn *c)
{
        c->closing = c->broken = true;
        hang_up(c);
}

/* libwebsockets is about to drop everything without a word, so the frame is written past it. */
static void send_goodbye(struct ws_conn *c)
{
        static const unsigned char frame[] = {0x88, 2, WS_GOING_AWAY >> 8, WS_GOING_AWAY & 0xff};

        if (!lws_partial_buffered(c->wsi))
                (void)send(lws_get_socket_fd(c->wsi), frame, sizeof(frame), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The owner is gone or told to; what libwebsockets does with the rest is its own business. */
static void begin_close(struct ws_conn *c, enum ws_code code, const char *reason)
{
        if (c->closing)
                return;
        c->closing = true;
        c->close_code = code;
        c->close_reason = reason;
        if (c->in_message) /* the callback's return value closes it */
                return;
        if (code == WS_GOING_AWAY) { /* we end, too, and will not come back to it */
                send_goodbye(c);
                return;
        }
        if (lws_partial_buffered(c->wsi))
                give_up(c);
        else
                lws_callback_on_writable(c->wsi);
}

static int on_established(struct ws *ws, struct lws *wsi, struct ws_conn **slot)
{
        struct ws_conn *c = ws->accepting;
        int size = SEND_BUFFER;

        if (!c)
                return -1;
        ws->accepting = NULL;
        *slot = c;
        c->wsi = wsi;
        (void)setsockopt(lws_get_socket_fd(wsi), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        return 0;
}

static void deliver(struct ws_conn *c, const char *data, size_t len, bool is_binary)
{
        c->in_message = true;
        if (c->events && c->events->on_message)
                c->events->on_message(c->owner, data, len, is_binary);
        c->in_message = false;
}

static int on_receive(struct ws_conn *c, const char *data, size_t len)
{
        bool is_last = lws_is_final_fragment(c->wsi);

        c->heard = true;
        if (c->closing)
                return 0;
        if (c->message.len + len + lws_remaining_packet_payload(c->wsi) > WS_MESSAGE_MAX) {
                c->in_message = true;
                begin_close(c, WS_TOO_BIG, "messages have at most 16 KB");
                c->in_message = false;
        } else if (is_last && c->message.len == 0) {
                deliver(c, data, len, lws_frame_is_binary(c->wsi));
        } else if (buffer_append(&c->message, data, len) < 0) {
                give_up(c);
        } else if (is_last) {
                deliver(c, c->message.data, c->message.len, lws_frame_is_binary(c->wsi));
                buffer_finish(&c->message);
                buffer_init(&c->message, WS_MESSAGE_MAX);
        }
        return c->closing ? send_close(c) : 0;
}

static int on_writable(struct ws_conn *c)
{
        if (c->closing)
                return send_close(c);
        c->blocked = false;
        if (c->events && c->events->on_writable)
                c->events->on_writable(c->owner);
        return c->broken ? -1 : 0;
}

static void free_conn(struct ws_conn *c)
{
        list_remove(&c->beat);
        buffer_finish(&c->message);
        c->ws->counts.connections--;
        free(c);
}

static void on_closed(struct ws_conn *c)
{
        if (c->events && c->accepted && !c->ws->closing && c->events->on_close)
                c->events->on_close(c->owner, c->slow);
        if (c->accepted)
                free_conn(c);
        else
                c->wsi = NULL; /* ws_accept is still running, and frees it */
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
        struct ws_conn **slot = user;
        struct lws_context *context = lws_get_context(wsi);
        struct ws *ws = context ? lws_context_user(context) : NULL;

        switch (reason) {
        case LWS_CALLBACK_ESTABLISHED:
                return on_established(ws, wsi, slot);
        case LWS_CALLBACK_RECEIVE:
                return on_receive(*slot, in, len);
        case LWS_CALLBACK_RECEIVE_PONG:
                (*slot)->heard = true;
                return 0;
        case LWS_CALLBACK_SERVER_WRITEABLE:
                return on_writable(*slot);
        case LWS_CALLBACK_CLOSED:
                if (slot && *slot) {
                        on_closed(*slot);
                        *slot = NULL;
                }
                return 0;
        case LWS_CALLBACK_HTTP: /* what is no handshake does not get here, since its head is ours */
                return -1;
        default:
                return 0;
        }
}

/* The first is what a client without a sub-protocol gets, too. */
static const struct lws_protocols protocols[] = {
        {.name = PROTOCOL_NAME,
         .callback = on_event,
         .per_session_data_size = sizeof(struct ws_conn *),
         .rx_buffer_size = RX_SIZE,
         /* One send for any message; what the socket does not take is kept by libwebsockets. */
         .tx_packet_size = 1U << 24},
        {.name = NULL},
};

/* --- heartbeat ------------------------------------------------------------------------------------------------------ */

static void arm(struct ws *ws)
{
        if (!list_is_empty(&ws->beats))
                timer_set(ws->timer, LIST_ENTRY(ws->beats.next, struct ws_conn, beat)->check);
}

static void schedule_beat(struct ws_conn *c, usec_t now)
{
        list_remove(&c->beat);
        c->check = usec_add(now, c->ws->ping_interval);
        list_append(&c->ws->beats, &c->beat);
}

static void beat(struct ws_conn *c, usec_t now)
{
        /* Not empty: libwebsockets tells nobody about a pong without a payload. */
        unsigned char ping[LWS_PRE + 4] = {[LWS_PRE] = 'p', 'i', 'n', 'g'};

        if (!c->heard && c->pinged) {
                c->slow = lws_partial_buffered(c->wsi);
                list_remove(&c->beat);
                give_up(c);
                return;
        }
        /* Also when the ping cannot be sent: a reader that takes nothing for so long is given up as well. */
        c->pinged = !c->heard;
        c->heard = false;
        schedule_beat(c, now);
        if (c->pinged && !c->closing && !lws_partial_buffered(c->wsi) &&
            lws_write(c->wsi, ping + LWS_PRE, 4, LWS_WRITE_PING) < 0)
                give_up(c);
}

static void on_timer(void *owner, usec_t now)
{
        struct ws *ws = owner;

        while (!list_is_empty(&ws->beats)) {
                struct ws_conn *c = LIST_ENTRY(ws->beats.next, struct ws_conn, beat);

                if (c->check > now)
                        break;
                beat(c, now);
        }
        arm(ws);
}

/* --- handshake -------------------------------------------------------------------------------------------------------- */

static bool is_base64_of_16_bytes(struct slice key)
{
        if (key.n != KEY_LENGTH || key.p[22] != '=' || key.p[23] != '=')
                return false;
        for (size_t i = 0; i < 22; i++) {
                char c = key.p[i];

                if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                      c == '+' || c == '/'))
                        return false;
        }
        return true;
}

static bool find_key(const struct http1_request *head, struct slice *ret)
{
        return http1_header_find(head->headers, head->n_headers, "sec-websocket-key", ret) == 1 &&
               is_base64_of_16_bytes(*ret);
}

bool ws_check(struct ws *ws, struct request *req)
{
        const struct http1_request *head = request_head(req);
        struct slice version = {0}, key;

        if (!head->upgrade_websocket) {
                respond_error_with(req, 426, NULL, "Upgrade: websocket\r\n",
                                   "this address speaks WebSocket: connect with \"Upgrade: websocket\"");
        } else if (http1_header_find(head->headers, head->n_headers, "sec-websocket-version", &version) !=
                           1 ||
                   !slice_eq(version, SLICE("13"))) {
                respond_error_with(req, 426, NULL, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                                   "only version 13 of WebSocket is spoken here");
        } else if (!find_key(head, &key)) {
                respond_error_with(req, 400, NULL, NULL,
                                   "Sec-WebSocket-Key must be 16 bytes in base64, once");
        } else if (ws->counts.connections >= WS_CONNECTIONS_MAX || ws->closing) {
                respond_error_with(req, 503, NULL, "Retry-After: 5\r\n", "too many WebSocket connections");
        } else {
                return true;
        }
        ws->counts.refused++;
        return false;
}

/* Appends the head that libwebsockets reads, and what the client sent behind its own. */
static int make_head(const struct http1_request *head, struct buffer *out)
{
        bool offers =
                http1_header_lists(head->headers, head->n_headers, "sec-websocket-protocol", PROTOCOL_NAME);
        struct slice key;

        if (!find_key(head, &key))
                return -EBADMSG;
        return buffer_printf(out,
                             "GET / HTTP/1.1\r\nHost: feed\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %.*s\r\n%s\r\n",
                             (int)key.n, key.p,
                             offers ? "Sec-WebSocket-Protocol: " PROTOCOL_NAME "\r\n" : "");
}

static struct ws_conn *new_conn(struct ws *ws, const struct ws_events *events, void *owner)
{
        struct ws_conn *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        c->ws = ws;
        c->events = events;
        c->owner = owner;
        list_init(&c->beat);
        buffer_init(&c->message, WS_MESSAGE_MAX);
        ws->counts.connections++;
        return c;
}

/* The socket is libwebsockets' from here on, also when it fails. */
static int adopt(struct ws *ws, struct ws_conn *c, int fd, const struct buffer *bytes)
{
        ws->accepting = c;
        (void)lws_adopt_socket_vhost_readbuf(ws->vhost, fd, bytes->data, bytes->len);
        /* The whole head is there, so the handshake is done by now; and the connection may even be closed again. */
        if (ws->accepting == c || !c->wsi) {
                ws->accepting = NULL;
                return -ECONNRESET;
        }
        return 0;
}

int ws_accept(struct ws *ws, struct request *req, const struct ws_events *events, void *owner,
              struct ws_conn **ret)
{
        _cleanup_buffer_ struct buffer bytes, theirs;
        struct ws_conn *c;
        const char *end;
        int fd, r;

        buffer_init(&bytes, 0);
        buffer_init(&theirs, 0);
        c = new_conn(ws, events, owner);
        if (!c || make_head(request_head(req), &bytes) < 0) {
                if (c)
                        free_conn(c);
                doors_respond_error(req, 503, "not enough memory");
                return -ENOMEM;
        }
        r = request_detach(req, &fd, &theirs);
        if (r < 0) {
                free_conn(c);
                /* Out of descriptors, or sent behind requests whose answers the client has not read yet (-EBUSY). */
                doors_respond_error(req, 503, "cannot take this connection over: %s", strerror(-r));
                return r;
        }
        end = memmem(theirs.data, theirs.len, "\r\n\r\n", 4);
        if (end)
                (void)buffer_append(&bytes, end + 4, theirs.len - (size_t)(end + 4 - theirs.data));
        if (!end || bytes.failed) {
                (void)close(fd);
                free_conn(c);
                return -ENOMEM;
        }
        r = adopt(ws, c, fd, &bytes);
        if (r < 0) {
                free_conn(c);
                return r;
        }
        c->accepted = true;
        if (events->pings) {
                schedule_beat(c, loop_now(ws->loop));
                arm(ws);
        }
        *ret = c;
        return 0;
}

void ws_set_events(struct ws_conn *c, const struct ws_events *events, void *owner)
{
        c->events = events;
        c->owner = owner;
}

/* --- sending ------------------------------------------------------------------------------------------------------------ */

bool ws_is_blocked(const struct ws_conn *c)
{
        return c->blocked || lws_partial_buffered(c->wsi);
}

int ws_send(struct ws_conn *c, char *data, size_t len)
{
        if (c->closing)
                return -EPIPE;
        if (lws_partial_buffered(c->wsi)) {
                if (!c->blocked)
                        lws_callback_on_writable(c->wsi);
                c->blocked = true;
                return -EAGAIN;
        }
        if (lws_write(c->wsi, (unsigned char *)data, len, LWS_WRITE_TEXT) < 0) {
                give_up(c);
                return -EPIPE;
        }
        return 0;
}

struct ws_conn *ws_close(struct ws_conn *c, enum ws_code code, const char *reason)
{
        c->events = NULL;
        begin_close(c, code, reason);
        return NULL;
}

/* --- all of them ---------------------------------------------------------------------------------------------------------- */

const struct ws_counts *ws_counts(const struct ws *ws)
{
        return &ws->counts;
}

void ws_set_ping_interval(struct ws *ws, usec_t interval)
{
        ws->ping_interval = interval;
}

/* libwebsockets makes tables as long as the limit of descriptors and fills them with zeros: with a limit of a million that would
 * be 16 MB. It looks at the soft limit once, in lws_create_context. */
static struct lws_context *create_context(const struct lws_context_creation_info *info)
{
        struct rlimit limit, lower;
        struct lws_context *context;
        bool lowered = false;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > DESCRIPTORS_MAX) {
                lower = limit;
                lower.rlim_cur = DESCRIPTORS_MAX;
                lowered = setrlimit(RLIMIT_NOFILE, &lower) == 0;
        }
        context = lws_create_context(info);
        if (lowered)
                (void)setrlimit(RLIMIT_NOFILE, &limit);
        return context;
}

/* Its own pings stay off: their timers lie in a sorted list, so that n connections would cost n² (heartbeat above). */
static const lws_retry_bo_t no_validity = {.secs_since_valid_ping = 1, .secs_since_valid_hangup = 0};

static int open_context(struct ws *ws)
{
        void *loops[1] = {loop_uv(ws->loop)};
        struct lws_context_creation_info info = {
                .port = CONTEXT_PORT_NO_LISTEN,
                .protocols = protocols,
                .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_VALIDATE_UTF8,
                .foreign_loops = loops,
                .vhost_name = VHOST_NAME,
                .user = ws,
                .pcontext = &ws->context,
                .retry_and_idle_policy = &no_validity,
                .gid = (gid_t)-1,
                .uid = (uid_t)-1,
        };

        lws_set_log_level(log_level() >= LOG_DEBUG ? LLL_ERR | LLL_WARN : 0, emit);
        ws->context = create_context(&info);
        if (!ws->context)
                return -ENOTSUP;
        ws->vhost = lws_get_vhost_by_name(ws->context, VHOST_NAME);
        return ws->vhost ? 0 : -ENOTSUP;
}

/* All handles are closed. libwebsockets wants to be told a second time, unless it found that out by itself. */
static void on_all_closed(void *owner)
{
        struct ws *ws = owner;

        if (ws->context)
                lws_context_destroy(ws->context);
        free(ws);
}

struct ws *ws_free(struct ws *ws)
{
        if (!ws)
                return NULL;
        ws->closing = true;
        ws->timer = timer_free(ws->timer);
        if (!ws->context) {
                free(ws);
                return NULL;
        }
        lws_context_destroy(ws->context);
        if (foreign_when_closed(ws->loop, on_all_closed, ws) < 0)
                log_err(NULL, "not enough memory to end libwebsockets in order");
        return NULL;
}

int ws_new(struct loop *loop, struct ws **ret)
{
        struct ws *ws = calloc(1, sizeof(*ws));
        int r;

        if (!ws)
                return -ENOMEM;
        ws->loop = loop;
        ws->ping_interval = PING_INTERVAL;
        list_init(&ws->beats);
        r = timer_new(loop, on_timer, ws, &ws->timer);
        if (r >= 0)
                r = open_context(ws);
        if (r < 0) {
                ws_free(ws);
                return r;
        }
        *ret = ws;
        return 0;
}
