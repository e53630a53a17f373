/* socketio.c: Socket.IO v4 clients at /socket.io/: Engine.IO 4 sessions over HTTP long polling and WebSocket, Socket.IO 5 on top
 * (packets: engineio.h). What is refused is refused in the words of the reference server, since clients know them.
 *
 * A session has one transport at a time. It begins with polling (one GET waits for packets, POSTs bring them) or as a WebSocket.
 * A polling session may open a WebSocket beside it, prove it (2probe, 3probe), and move over (5); the GET that waits is answered
 * by a noop, so that the client can let go of it. What waits for the client is bounded: packets of ours in `out`, and the status,
 * which is not queued at all but made when it can be sent.
 * Events: llamaStatus and llamaStatusRemoved to the client, requestLlamaStatus from it; an acknowledgement is answered with the
 * message. ?instance=NAME (query.instance of the client) narrows it to one, else it is the aggregate "*".
 *
 * Source: docs/engine.io-protocol, docs/socket.io-protocol and packages/engine.io of github.com/socketio/socket.io. */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#include "base/text.h"
#include "core/http1_uri.h"
#include "http/engineio.h"
#include "http/feed_private.h"
#include "http/respond.h"

enum {
        SESSIONS_MAX = 8192,
        BUCKETS = 1024,
        SID_LENGTH = 22, /* 128 bits in base64url */
        BODY_MAX = WS_MESSAGE_MAX,
        OUT_MAX = 64 * 1024,
        NAMESPACE_MAX = 256,
};

static const usec_t NOOP_DELAY = 100 * USEC_PER_MSEC;

/* What the reference server answers, by its code. */
enum refusal {
        UNKNOWN_TRANSPORT,
        UNKNOWN_SID,
        BAD_METHOD,
        BAD_REQUEST,
        FORBIDDEN,
        UNSUPPORTED_VERSION,
};
static const char *const refusals[] = {
        "Transport unknown", "Session ID unknown", "Bad handshake method",
        "Bad request",       "Forbidden",          "Unsupported protocol version"};

struct socketio {
        struct feed *feed;
        struct list buckets[BUCKETS];
        unsigned n_sessions;
};

struct session {
        struct subscriber sub; /* wants no status until the client has connected to the namespace */
        struct list node;      /* in a bucket */
        struct socketio *io;
        char sid[SID_LENGTH + 1];
        char *no_instance; /* why ?instance= means nothing, or NULL */
        struct request *poll, *post;
        struct address *address; /* its place there; NULL where there is no cap */
        struct ws_conn *conn, *probe;
        struct buffer out; /* packets for the client, separated as in a body */
        struct timer *timer;
        usec_t ping_at, pong_by, upgrade_by, noop_at, connect_by, paid_until;
        unsigned attachments; /* binary messages that belong to a packet we do not know */
        bool is_connected;
        bool may_read; /* as its first request showed */
        char peer[64];
};

static struct session *session_of(struct subscriber *sub)
{
        return CONTAINER_OF(sub, struct session, sub);
}

/* --- life of a session ------------------------------------------------------------------------------------------------ */

static int make_sid(char ret[SID_LENGTH + 1])
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        unsigned char bytes[17] = {0};

        if (getrandom(bytes, 16, 0) != 16)
                return -EIO;
        for (unsigned i = 0, bit = 0; i < SID_LENGTH; i++, bit += 6) {
                unsigned two = (unsigned)bytes[bit / 8] << 8 | bytes[bit / 8 + 1];

                ret[i] = digits[two >> (10 - bit % 8) & 63];
        }
        ret[SID_LENGTH] = '\0';
        return 0;
}

static struct list *bucket_of(struct socketio *io, const char *sid)
{
        uint32_t h = 2166136261U; /* FNV-1a */

        for (; *sid; sid++)
                h = (h ^ (unsigned char)*sid) * 16777619U;
        return io->buckets + h % BUCKETS;
}

static struct session *find_session(struct socketio *io, const char *sid)
{
        LIST_FOREACH(bucket_of(io, sid), it)
        if (streq(LIST_ENTRY(it, struct session, node)->sid, sid))
                return LIST_ENTRY(it, struct session, node);
        return NULL;
}

static void arm(struct session *s)
{
        usec_t at = MIN(MIN(s->ping_at, s->pong_by), MIN(MIN(s->upgrade_by, s->noop_at), s->connect_by));

        timer_set(s->timer, at);
}

static void answer_text(struct request *req, const char *text, size_t len)
{
        respond_text(req, 200, "text/plain; charset=UTF-8", NULL, text, len);
}

/* last: what a GET that waits is told: "1" (close), or "6" (noop) when the client asked for the end itself. */
static void session_end(struct session *s, const char *last, enum websocket_code code)
{
        struct feed *f = s->sub.feed;

        list_remove(&s->node);
        s->io->n_sessions--;
        if (s->poll) {
                request_on_gone(s->poll, NULL, NULL);
                answer_text(s->poll, last, strlen(last));
        }
        if (s->post)
                request_abort(s->post);
        if (s->probe)
                ws_close(s->probe, code, "");
        if (s->conn)
                ws_close(s->conn, code, "");
        subscriber_leave(&s->sub, &f->counts.subscribers_socketio);
        address_let_go(s->address);
        timer_free(s->timer);
        buffer_finish(&s->out);
        free(s->no_instance);
        free(s);
}

static void session_close(struct session *s)
{
        session_end(s, "1", WEBSOCKET_NORMAL);
}

static void put_packet(struct session *s, const char *text)
{
        if (s->out.len)
                (void)buffer_putc(&s->out, ENGINEIO_SEPARATOR);
        (void)buffer_puts(&s->out, text);
        subscriber_ready(&s->sub);
}

static void on_timer(void *owner, usec_t now)
{
        struct session *s = owner;

        if (s->pong_by <= now || s->connect_by <= now) {
                if (s->sub.blocked && s->conn)
                        s->sub.feed->counts.closed_slow++;
                session_close(s);
                return;
        }
        if (s->upgrade_by <= now) {
                s->upgrade_by = USEC_INFINITY;
                s->probe = ws_close(s->probe, WEBSOCKET_NORMAL, "");
        }
        if (s->noop_at <= now) {
                s->noop_at = USEC_INFINITY;
                if (s->poll && s->probe)
                        put_packet(s, "6");
        }
        if (s->ping_at <= now) {
                s->ping_at = USEC_INFINITY;
                s->pong_by = usec_add(now, s->sub.feed->times.socketio_pong);
                put_packet(s, "2");
        }
        arm(s);
}

static const struct carrier session_carrier;

static void put_handshake(struct session *s, bool may_upgrade)
{
        const struct feed_times *t = &s->sub.feed->times;

        (void)buffer_printf(&s->out,
                            "0{\"sid\":\"%s\",\"upgrades\":[%s],\"pingInterval\":%llu,\"pingTimeout\":%llu,"
                            "\"maxPayload\":%d}",
                            s->sid, may_upgrade ? "\"websocket\"" : "",
                            (unsigned long long)(t->socketio_ping / USEC_PER_MSEC),
                            (unsigned long long)(t->socketio_pong / USEC_PER_MSEC), BODY_MAX);
        subscriber_ready(&s->sub);
}

static struct subject *instance_of(struct session *s, struct feed *f, struct request *req)
{
        char name[FEED_NAME_MAX], message[3 * FEED_NAME_MAX];
        struct subject *subject;
        int r = http1_query_get(request_head(req)->query, "instance", name, sizeof(name));

        if (r == -ENOENT)
                return f->aggregate;
        subject = r < 0 ? NULL : feed_find(f, name);
        if (subject)
                return subject;
        s->no_instance = text_dup(r < 0 ? "query parameter \"instance\" is malformed"
                                        : feed_no_instance(f, name, message, sizeof(message)));
        return f->aggregate;
}

/* Takes its place at the client's address; NULL: the request was answered. */
static struct session *session_new(struct socketio *io, struct request *req, bool may_read, bool may_upgrade)
{
        struct feed *f = io->feed;
        struct session *s = calloc(1, sizeof(*s));
        usec_t now = loop_now(f->loop);

        int r = s ? request_hold_address(req, &s->address) : -ENOMEM;

        if (r == 0 && (make_sid(s->sid) < 0 || timer_new(f->loop, on_timer, s, &s->timer) < 0)) {
                address_let_go(s->address);
                r = -ENOMEM;
        }
        if (r < 0) {
                free(s);
                f->counts.refused++;
                respond_error_with(req, 503, NULL, "Retry-After: 5\r\n",
                                   r == -EUSERS ? "too many Socket.IO sessions of one address"
                                                : "not enough memory");
                return NULL;
        }
        s->io = io;
        s->may_read = may_read;
        (void)text_copy(s->peer, sizeof(s->peer), request_peer(req));
        buffer_init(&s->out, OUT_MAX);
        subscriber_join(&s->sub, f, &session_carrier, instance_of(s, f, req), request_mark(req),
                        &f->counts.subscribers_socketio);
        s->sub.status = false;
        list_init(&s->node);
        list_append(bucket_of(io, s->sid), &s->node);
        io->n_sessions++;
        s->ping_at = usec_add(now, f->times.socketio_ping);
        s->connect_by = usec_add(now, f->times.socketio_connect);
        s->pong_by = s->upgrade_by = s->noop_at = USEC_INFINITY;
        arm(s);
        put_handshake(s, may_upgrade);
        return s;
}

/* --- Socket.IO packets: 0, or -errno when the session must end -------------------------------------------------------- */

static void put_connected(struct session *s)
{
        char sid[SID_LENGTH + 1], packet[SID_LENGTH + 32];

        /* Not the session's own id: that is the key to its requests. */
        if (make_sid(sid) < 0)
                return;
        (void)snprintf(packet, sizeof(packet), "40{\"sid\":\"%s\"}", sid);
        put_packet(s, packet);
        s->is_connected = true;
        s->connect_by = USEC_INFINITY;
        arm(s);
        s->sub.status = true;
        subscriber_refresh(&s->sub);
}

static int put_connect_error(struct session *s, struct slice nsp, const char *message)
{
        _cleanup_buffer_ struct buffer packet;
        struct json_writer w;

        buffer_init(&packet, 0);
        if (nsp.n > NAMESPACE_MAX)
                return -EBADMSG;
        for (size_t i = 0; i < nsp.n; i++)
                if ((unsigned char)nsp.p[i] < 0x20) /* it comes back, and 0x1e would end the packet */
                        return -EBADMSG;
        (void)buffer_puts(&packet, "44");
        if (nsp.n > 1)
                (void)buffer_printf(&packet, "%.*s,", (int)nsp.n, nsp.p);
        json_begin(&w, &packet);
        json_open_object(&w);
        json_string(&w, "message", message);
        json_close_object(&w);
        if (packet.failed)
                return -ENOMEM;
        put_packet(s, packet.data);
        return 0;
}

/* 0: it may be told; -EACCES with words. A wrong key is wrong, also where none is needed. */
static int judge_connect(struct session *s, struct slice data, char *words, size_t size)
{
        struct feed *f = s->sub.feed;
        struct json_value *auth = NULL;
        const char *token;
        uint64_t mark = 0;
        int r = 0;

        if (data.n && json_parse(data.p, data.n, &auth, NULL) < 0)
                auth = NULL;
        token = json_get_string(auth, "token");
        if (token && *token && f->on_key)
                r = f->on_key(f->key_owner, slice_str(token), s->peer, &mark, words, size);
        json_free(auth);
        if (r == 1) {
                s->sub.mark = mark;
                s->may_read = true;
        }
        if (r < 0 || s->may_read)
                return MIN(r, 0);
        (void)snprintf(words, size, "a key is needed here: io(url, {auth: {token: KEY}})");
        return -EACCES;
}

static int connect_namespace(struct session *s, const struct socketio_packet *p)
{
        char words[FEED_KEY_WORDS_MAX];

        if (!slice_eq(p->nsp, SLICE("/")))
                return put_connect_error(s, p->nsp, "Invalid namespace");
        if (s->is_connected)
                return -EPROTO;
        if (judge_connect(s, p->data, words, sizeof(words)) < 0) {
                s->sub.feed->counts.refused++;
                return put_connect_error(s, p->nsp, words);
        }
        if (s->no_instance)
                return put_connect_error(s, p->nsp, s->no_instance);
        put_connected(s);
        return 0;
}

static int put_ack(struct session *s, uint64_t id)
{
        struct frame frame = feed_frame(s->sub.feed, s->sub.only, ENCODING_JSON);

        if (s->out.len)
                (void)buffer_putc(&s->out, ENGINEIO_SEPARATOR);
        (void)buffer_printf(&s->out, "43%llu[%.*s]", (unsigned long long)id, (int)frame.len,
                            frame.len ? frame.data : "");
        subscriber_ready(&s->sub);
        return 0;
}

static int handle_event(struct session *s, const struct socketio_packet *p)
{
        if (!streq(p->event, "requestLlamaStatus"))
                return 0; /* nobody listens to it, as the reference server would say */
        subscriber_refresh(&s->sub);
        return p->has_id ? put_ack(s, p->id) : 0;
}

static int handle_message(struct session *s, struct slice text)
{
        struct socketio_packet p;
        int r;

        if (s->attachments)
                return -EPROTO;
        r = socketio_parse(text, &p);
        if (r < 0)
                return r;
        if (p.type == SOCKETIO_CONNECT)
                return connect_namespace(s, &p);
        if (!s->is_connected || !slice_eq(p.nsp, SLICE("/")))
                return -EPROTO;
        switch (p.type) {
        case SOCKETIO_DISCONNECT:
                s->is_connected = false;
                s->sub.status = false;
                s->connect_by = usec_add(loop_now(s->sub.feed->loop), s->sub.feed->times.socketio_connect);
                arm(s);
                return 0;
        case SOCKETIO_EVENT:
                return handle_event(s, &p);
        case SOCKETIO_BINARY_EVENT:
        case SOCKETIO_BINARY_ACK:
                s->attachments = p.attachments;
                return 0;
        case SOCKETIO_ACK:
                return 0;
        default:
                return -EPROTO;
        }
}

static int handle_binary(struct session *s)
{
        if (!s->attachments)
                return -EPROTO;
        s->attachments--;
        return 0;
}

/* --- Engine.IO packets: false when the session has ended -------------------------------------------------------------- */

static bool handle_packet(struct session *s, const struct engineio_packet *p)
{
        usec_t now = loop_now(s->sub.feed->loop);
        int r = 0;

        if (feed_too_fast(&s->paid_until, now))
                r = -EBUSY;
        else if (p->type == ENGINEIO_CLOSE) {
                session_end(s, "6", WEBSOCKET_NORMAL);
                return false;
        } else if (p->type == ENGINEIO_PONG) {
                s->pong_by = USEC_INFINITY;
                s->ping_at = usec_add(now, s->sub.feed->times.socketio_ping);
                arm(s);
        } else if (p->type == ENGINEIO_PING) {
                r = -EPROTO; /* in this version of the protocol the server asks */
        } else if (p->type == ENGINEIO_MESSAGE) {
                r = handle_message(s, p->data);
        } else if (p->type == ENGINEIO_BINARY) {
                r = handle_binary(s);
        }
        if (r == 0 && !s->out.failed)
                return true;
        if (r == -EBUSY || s->out.failed)
                s->sub.feed->counts.refused++;
        session_close(s);
        return false;
}

/* --- WebSocket transport ------------------------------------------------------------------------------------------------- */

static void on_ws_message(void *owner, const char *data, size_t len, bool is_binary)
{
        struct session *s = owner;
        struct engineio_packet p = {.type = ENGINEIO_BINARY};

        if (!is_binary && engineio_parse((struct slice){data, len}, &p) < 0)
                session_close(s);
        else
                (void)handle_packet(s, &p);
}

static void on_ws_writable(void *owner)
{
        struct session *s = owner;

        subscriber_ready(&s->sub);
}

static void on_ws_close(void *owner, bool slow)
{
        struct session *s = owner;

        (void)slow;
        s->conn = NULL;
        session_close(s);
}

static const struct ws_events session_events = {
        .on_message = on_ws_message, .on_writable = on_ws_writable, .on_close = on_ws_close};

static int flush_to_ws(struct session *s)
{
        while (s->out.len) {
                struct slice rest = {s->out.data, s->out.len}, packet = {0};
                int r;

                if (!engineio_next(&rest, &packet))
                        break;
                r = ws_send(s->conn, packet.p, packet.n);
                if (r < 0)
                        return r;
                buffer_consume(&s->out, MIN(packet.n + 1, s->out.len));
        }
        return 0;
}

/* A WebSocket that wants to become the transport of a polling session. */
static void on_probe_message(void *owner, const char *data, size_t len, bool is_binary)
{
        struct session *s = owner;
        struct slice text = {data, len};

        if (!is_binary && slice_eq(text, SLICE("2probe"))) {
                if (ws_send(s->probe, "3probe", 6) == 0 && s->poll)
                        put_packet(s, "6");
        } else if (!is_binary && slice_eq(text, SLICE("5"))) {
                s->conn = s->probe;
                s->probe = NULL;
                s->upgrade_by = s->noop_at = USEC_INFINITY;
                arm(s);
                ws_set_events(s->conn, &session_events, s);
                if (s->poll) {
                        request_on_gone(s->poll, NULL, NULL);
                        answer_text(s->poll, "6", 1);
                        s->poll = NULL;
                }
                subscriber_ready(&s->sub);
        } else {
                s->upgrade_by = USEC_INFINITY;
                s->probe = ws_close(s->probe, WEBSOCKET_NORMAL, "");
        }
}

static void on_probe_close(void *owner, bool slow)
{
        struct session *s = owner;

        (void)slow;
        s->probe = NULL;
        s->upgrade_by = USEC_INFINITY;
}

static const struct ws_events probe_events = {.on_message = on_probe_message, .on_close = on_probe_close};

/* --- polling transport ----------------------------------------------------------------------------------------------------- */

static void on_poll_gone(void *owner, struct request *req)
{
        struct session *s = owner;

        (void)req;
        s->poll = NULL;
        session_close(s);
}

/* Answers the GET that waits, if there is anything to say. */
static int flush_to_poll(struct session *s)
{
        struct subject *subject = subscriber_next(&s->sub);
        struct frame frame = {0};
        struct request *req = s->poll;

        if (!req)
                return -EAGAIN;
        if (subject)
                frame = feed_frame(s->sub.feed, subject, ENCODING_SOCKETIO);
        if (!s->out.len && !frame.len)
                return 0;
        if (frame.len) {
                s->out.max = OUT_MAX + frame.len + 1;
                if (s->out.len)
                        (void)buffer_putc(&s->out, ENGINEIO_SEPARATOR);
                if (buffer_append(&s->out, frame.data, frame.len) == 0)
                        subscriber_told(&s->sub, subject);
                s->out.max = OUT_MAX;
        }
        s->poll = NULL;
        request_on_gone(req, NULL, NULL);
        answer_text(req, s->out.data, s->out.len);
        buffer_finish(&s->out);
        buffer_init(&s->out, OUT_MAX);
        return -EAGAIN;
}

static int session_flush(struct subscriber *sub)
{
        struct session *s = session_of(sub);

        return s->conn ? flush_to_ws(s) : flush_to_poll(s);
}

static int session_send(struct subscriber *sub, const struct frame *frame)
{
        struct session *s = session_of(sub);

        return s->conn ? ws_send(s->conn, frame->data, frame->len) : -EAGAIN;
}

static void session_bye(struct subscriber *sub, enum websocket_code code)
{
        session_end(session_of(sub), "1", code);
}

static const struct carrier session_carrier = {
        .encoding = ENCODING_SOCKETIO, .flush = session_flush, .send = session_send, .end = session_bye};

static void handle_poll(struct session *s, struct request *req)
{
        if (s->poll) { /* two at once: the client has lost its way */
                session_close(s);
                respond_text(req, 400, NULL, NULL, NULL, 0);
                return;
        }
        s->poll = req;
        request_on_gone(req, on_poll_gone, s);
        request_set_standing(req);
        if (s->probe) {
                s->noop_at = usec_add(loop_now(s->sub.feed->loop), NOOP_DELAY);
                arm(s);
        }
        subscriber_ready(&s->sub);
}

static void on_post_gone(void *owner, struct request *req)
{
        struct session *s = owner;

        (void)req;
        s->post = NULL;
        session_close(s);
}

static void on_post_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct session *s = owner;
        struct slice rest = {body, len}, text;
        bool alive = true;

        s->post = NULL;
        request_on_gone(req, NULL, NULL);
        while (alive && engineio_next(&rest, &text)) {
                struct engineio_packet p;

                if (engineio_parse(text, &p) < 0) {
                        session_close(s);
                        break;
                }
                alive = handle_packet(s, &p);
        }
        respond_text(req, 200, "text/html", NULL, "ok", 2);
}

static void handle_post(struct session *s, struct request *req)
{
        const struct http1_request *head = request_head(req);
        struct slice type = {0};

        (void)http1_header_find(head->headers, head->n_headers, "content-type", &type);
        if (s->post || slice_eq_nocase(type, SLICE("application/octet-stream"))) {
                session_close(s);
                respond_text(req, 400, NULL, NULL, NULL, 0);
                return;
        }
        s->post = req;
        request_on_gone(req, on_post_gone, s);
        if (request_read_body(req, BODY_MAX, on_post_body, s) < 0) {
                s->post = NULL;
                request_on_gone(req, NULL, NULL);
                session_close(s);
                request_abort(req);
        }
}

/* --- requests --------------------------------------------------------------------------------------------------------------- */

static void refuse(struct feed *f, struct request *req, enum refusal why)
{
        char body[80];
        int n;

        f->counts.refused++;
        if (request_head(req)->upgrade_websocket) {
                respond_text(req, 400, "text/html", NULL, refusals[why], strlen(refusals[why]));
                return;
        }
        n = snprintf(body, sizeof(body), "{\"code\":%d,\"message\":\"%s\"}", (int)why, refusals[why]);
        respond_text(req, why == FORBIDDEN ? 403 : 400, "application/json", NULL, body, (size_t)n);
}

struct query {
        char transport[16], sid[64], eio[8];
};

/* A parameter that is missing or makes no sense is "", which is nobody's name. */
static void read_query(struct slice query, struct query *q)
{
        memset(q, 0, sizeof(*q));
        if (http1_query_get(query, "transport", q->transport, sizeof(q->transport)) < 0)
                q->transport[0] = '\0';
        if (http1_query_get(query, "EIO", q->eio, sizeof(q->eio)) < 0)
                q->eio[0] = '\0';
        if (http1_query_get(query, "sid", q->sid, sizeof(q->sid)) == -ENOBUFS)
                memcpy(q->sid, "?", 2); /* there, but nobody's */
}

static void begin_websocket(struct socketio *io, struct request *req, bool may_read)
{
        struct session *s;

        if (!ws_check(io->feed->ws, req))
                return;
        s = session_new(io, req, may_read, false);
        if (!s)
                return;
        if (ws_accept(io->feed->ws, req, &session_events, s, &s->conn) < 0)
                session_close(s);
}

static void begin_session(struct socketio *io, struct request *req, const struct query *q, bool is_websocket,
                          bool may_read)
{
        struct session *s;

        if (request_head(req)->method != HTTP1_GET) {
                refuse(io->feed, req, BAD_METHOD);
        } else if (is_websocket && !request_head(req)->upgrade_websocket) {
                refuse(io->feed, req, BAD_REQUEST);
        } else if (!streq(q->eio, "4")) {
                refuse(io->feed, req, UNSUPPORTED_VERSION);
        } else if (io->n_sessions >= SESSIONS_MAX) {
                io->feed->counts.refused++;
                respond_error_with(req, 503, NULL, "Retry-After: 5\r\n", "too many Socket.IO sessions");
        } else if (is_websocket) {
                begin_websocket(io, req, may_read);
        } else {
                s = session_new(io, req, may_read, true);
                if (s)
                        handle_poll(s, req);
        }
}

static void upgrade_session(struct session *s, struct request *req)
{
        struct feed *f = s->sub.feed;

        if (s->conn || s->probe) { /* the reference server accepts, and closes at once */
                refuse(f, req, BAD_REQUEST);
                return;
        }
        if (!ws_check(f->ws, req) || ws_accept(f->ws, req, &probe_events, s, &s->probe) < 0)
                return;
        s->upgrade_by = usec_add(loop_now(f->loop), f->times.socketio_upgrade);
        arm(s);
}

static void continue_session(struct socketio *io, struct request *req, const struct query *q,
                             bool is_websocket)
{
        struct session *s = find_session(io, q->sid);
        bool upgrades = request_head(req)->upgrade_websocket;

        if (!s)
                refuse(io->feed, req, UNKNOWN_SID);
        else if (upgrades && is_websocket)
                upgrade_session(s, req);
        else if (upgrades || is_websocket != (s->conn != NULL) || s->conn)
                refuse(io->feed, req, BAD_REQUEST);
        else if (request_head(req)->method == HTTP1_POST)
                handle_post(s, req);
        else if (request_head(req)->method == HTTP1_GET)
                handle_poll(s, req);
        else /* the answer to a HEAD would take packets along that nobody gets */
                refuse(io->feed, req, BAD_REQUEST);
}

void feed_socketio(struct feed *f, struct request *req, bool may_read)
{
        const struct http1_request *head = request_head(req);
        bool is_websocket;
        struct query q;

        if (head->method == HTTP1_OPTIONS) {
                respond_text(req, 204, NULL,
                             "Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Allow-Headers: "
                             "Content-Type\r\n"
                             "Access-Control-Max-Age: 600\r\n",
                             NULL, 0);
                return;
        }
        read_query(head->query, &q);
        is_websocket = streq(q.transport, "websocket");
        if (!is_websocket && !streq(q.transport, "polling"))
                refuse(f, req, UNKNOWN_TRANSPORT);
        else if (q.sid[0])
                continue_session(f->socketio, req, &q, is_websocket);
        else
                begin_session(f->socketio, req, &q, is_websocket, may_read);
}

/* --- all of them ------------------------------------------------------------------------------------------------------------ */

int socketio_new(struct feed *f, struct socketio **ret)
{
        struct socketio *io = calloc(1, sizeof(*io));

        if (!io)
                return -ENOMEM;
        io->feed = f;
        for (size_t i = 0; i < BUCKETS; i++)
                list_init(io->buckets + i);
        *ret = io;
        return 0;
}

struct socketio *socketio_free(struct socketio *io)
{
        free(io);
        return NULL;
}
