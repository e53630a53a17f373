/* feed_ws.c: WebSocket connections of the feed: handshake, messages, heartbeat. */
#include "http/feed_ws.h"

#include <errno.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/list.h"
#include "base/slice.h"
#include "http/doors.h"
#include "http/respond.h"

#define PROTOCOL_NAME "llama-status"
#define GUID          "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455 §1.3 */

enum { KEY_LENGTH = 24 /* base64 of 16 bytes */ };

static const usec_t PING_INTERVAL = 25 * USEC_PER_SEC;

struct ws {
        struct loop *loop;
        struct timer *timer;
        struct list conns;
        struct list beats; /* of struct ws_conn, by `check`; all wait equally long, so a new one comes last */
        usec_t ping_interval;
        struct ws_counts *counts;
};

struct ws_conn {
        struct list node; /* in ws.conns */
        struct ws *ws;
        struct channel *channel; /* NULL: it has ended */
        const struct ws_events *events;
        void *owner;
        struct websocket in;
        struct list beat;
        usec_t check;
        struct buffer pong; /* the payload that the last ping wants back */
        bool heard, pinged, blocked, pong_is_due, is_reading;
};

/* --- ends ---------------------------------------------------------------------------------------------------------- */

static void free_conn(struct ws_conn *c)
{
        list_remove(&c->node);
        list_remove(&c->beat);
        websocket_finish(&c->in);
        buffer_finish(&c->pong);
        c->ws->counts->connections--;
        free(c);
}

/* Its channel is gone. While it is being read it is freed at the end of that. */
static void end_conn(struct ws_conn *c)
{
        c->channel = NULL;
        c->events = NULL;
        if (!c->is_reading)
                free_conn(c);
}

static void tell_closed(struct ws_conn *c, bool slow)
{
        if (c->events && c->events->on_close)
                c->events->on_close(c->owner, slow);
}

static void say_goodbye(struct ws_conn *c, enum websocket_code code, struct slice reason)
{
        unsigned char frame[WEBSOCKET_CLOSE_MAX];
        struct iovec iov = {frame, websocket_build_close(frame, code, reason)};

        if (channel_queued(c->channel) || channel_write(c->channel, &iov, 1) < 0)
                channel_abort(c->channel); /* a reader that does not read is hung up on */
        else
                channel_close(c->channel);
}

/* --- sending ------------------------------------------------------------------------------------------------------- */

static int send_frame(struct ws_conn *c, enum websocket_opcode opcode, const void *data, size_t len)
{
        unsigned char head[WEBSOCKET_HEAD_MAX];
        struct iovec iov[2] = {{head, websocket_build_head(head, opcode, len)}, {(void *)data, len}};

        return channel_write(c->channel, iov, len ? 2 : 1);
}

int ws_send(struct ws_conn *c, const char *data, size_t len)
{
        if (channel_queued(c->channel)) {
                c->blocked = true;
                return -EAGAIN;
        }
        return send_frame(c, WEBSOCKET_TEXT, data, len);
}

static void send_pong(struct ws_conn *c)
{
        if (!c->pong_is_due || channel_queued(c->channel))
                return;
        c->pong_is_due = false;
        (void)send_frame(c, WEBSOCKET_PONG, c->pong.data, c->pong.len);
        buffer_finish(&c->pong);
        buffer_init(&c->pong, WEBSOCKET_CONTROL_MAX);
}

struct ws_conn *ws_close(struct ws_conn *c, enum websocket_code code, const char *reason)
{
        say_goodbye(c, code, slice_str(reason));
        end_conn(c);
        return NULL;
}

/* --- what comes ---------------------------------------------------------------------------------------------------- */

/* The client ends it (its code comes back), or has broken a rule. */
static void finish(struct ws_conn *c, const struct websocket_event *event, bool is_refusal)
{
        c->ws->counts->broken += is_refusal;
        tell_closed(c, false);
        say_goodbye(c, event->code, is_refusal ? event->payload : (struct slice){NULL, 0});
        end_conn(c);
}

static void handle_event(struct ws_conn *c, const struct websocket_event *event)
{
        switch (event->opcode) {
        case WEBSOCKET_TEXT:
        case WEBSOCKET_BINARY:
                if (c->events->on_message)
                        c->events->on_message(c->owner, event->payload.p, event->payload.n,
                                              event->opcode == WEBSOCKET_BINARY);
                break;
        case WEBSOCKET_PING:
                buffer_clear(&c->pong);
                c->pong_is_due = buffer_append(&c->pong, event->payload.p, event->payload.n) == 0;
                break;
        case WEBSOCKET_CLOSE:
                finish(c, event, false);
                break;
        default:
                break;
        }
}

static void on_read(void *owner, const char *data, size_t len)
{
        enum websocket_result r = WEBSOCKET_EVENT;
        struct ws_conn *c = owner;

        c->heard = true;
        c->is_reading = true;
        while (r == WEBSOCKET_EVENT && c->channel) {
                struct websocket_event event;
                size_t used;

                r = websocket_feed(&c->in, data, len, &used, &event);
                data += used;
                len -= used;
                if (r == WEBSOCKET_EVENT)
                        handle_event(c, &event);
                else if (r == WEBSOCKET_REFUSED)
                        finish(c, &event, true);
        }
        c->is_reading = false;
        if (c->channel)
                send_pong(c);
        else
                free_conn(c);
}

static void on_drain(void *owner)
{
        struct ws_conn *c = owner;

        send_pong(c);
        if (!c->blocked || channel_queued(c->channel))
                return;
        c->blocked = false;
        if (c->events->on_writable)
                c->events->on_writable(c->owner);
}

static void on_gone(void *owner, bool slow)
{
        struct ws_conn *c = owner;

        tell_closed(c, slow);
        end_conn(c);
}

static const struct channel_events channel_events = {
        .on_read = on_read, .on_drain = on_drain, .on_gone = on_gone};

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
        if (!c->heard && c->pinged) {
                tell_closed(c, channel_queued(c->channel) > 0);
                channel_abort(c->channel);
                end_conn(c);
                return;
        }
        /* Also when the ping cannot be sent: a reader that takes nothing for so long is given up as well. */
        c->pinged = !c->heard;
        c->heard = false;
        schedule_beat(c, now);
        if (c->pinged && !channel_queued(c->channel))
                (void)send_frame(c, WEBSOCKET_PING, NULL, 0);
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
        } else if (ws->counts->connections >= WS_CONNECTIONS_MAX) {
                respond_error_with(req, 503, NULL, "Retry-After: 5\r\n", "too many WebSocket connections");
        } else {
                return true;
        }
        ws->counts->refused++;
        return false;
}

/* The lines of our answer. */
static int put_answer(const struct http1_request *head, struct buffer *out)
{
        char text[KEY_LENGTH + sizeof(GUID)], accept[DIGEST_SHA1_BASE64_SIZE];
        bool offers =
                http1_header_lists(head->headers, head->n_headers, "sec-websocket-protocol", PROTOCOL_NAME);
        struct slice key;
        int r;

        if (!find_key(head, &key))
                return -EBADMSG;
        (void)snprintf(text, sizeof(text), "%.*s%s", (int)key.n, key.p, GUID);
        r = digest_sha1_base64(text, strlen(text), accept);
        if (r < 0)
                return r;
        return buffer_printf(out, "Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n%s", accept,
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
        list_append(&ws->conns, &c->node);
        websocket_init(&c->in, WS_MESSAGE_MAX);
        buffer_init(&c->pong, WEBSOCKET_CONTROL_MAX);
        ws->counts->connections++;
        return c;
}

int ws_accept(struct ws *ws, struct request *req, const struct ws_events *events, void *owner,
              struct ws_conn **ret)
{
        _cleanup_buffer_ struct buffer answer = {0};
        struct ws_conn *c = new_conn(ws, events, owner);
        int r = -ENOMEM;

        buffer_init(&answer, 0);
        if (c)
                r = put_answer(request_head(req), &answer);
        if (c && r >= 0)
                r = request_upgrade(req, answer.data, &channel_events, c, &c->channel);
        if (r < 0) {
                ws->counts->refused++;
                if (c)
                        free_conn(c);
                if (r == -EINVAL)
                        doors_respond_error(req, 400, "a WebSocket handshake has no body");
                else
                        doors_respond_error(req, 503, "cannot take this connection over: %s", strerror(-r));
                return r;
        }
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

/* --- all of them ---------------------------------------------------------------------------------------------------------- */

void ws_set_ping_interval(struct ws *ws, usec_t interval)
{
        ws->ping_interval = interval;
}

struct ws *ws_free(struct ws *ws)
{
        if (!ws)
                return NULL;
        while (!list_is_empty(&ws->conns)) {
                struct ws_conn *c = LIST_ENTRY(ws->conns.next, struct ws_conn, node);

                channel_abort(c->channel);
                free_conn(c);
        }
        timer_free(ws->timer);
        free(ws);
        return NULL;
}

int ws_new(struct loop *loop, struct ws_counts *counts, struct ws **ret)
{
        struct ws *ws = calloc(1, sizeof(*ws));
        int r;

        if (!ws)
                return -ENOMEM;
        ws->loop = loop;
        ws->counts = counts;
        ws->ping_interval = PING_INTERVAL;
        list_init(&ws->conns);
        list_init(&ws->beats);
        r = timer_new(loop, on_timer, ws, &ws->timer);
        if (r < 0) {
                free(ws);
                return r;
        }
        *ret = ws;
        return 0;
}
