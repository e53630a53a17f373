/* feed_socket.c: the door /ws: what its clients may ask for, and the lines of logs that they follow.
 *
 * To the server: the text requestLlamaStatus, or {"type":"requestLlamaStatus"}; {"type":"subscribe","topics":["log:qwen-0"]} for
 * more than the topic "status" that everybody begins with, {"type":"unsubscribe","topics":[…]} for less. Both are answered by
 * {"type":"subscribed","topics":[…]}, all that is subscribed now. What is not understood is answered by
 * {"type":"error","message"}, and the connection is kept.
 * To the client, besides the status: {"type":"log","instance","lines":[…],"skipped":n}: at most every 100 ms an instance and
 * 32 KB; n lines before them were too many. Of the topic "log" (without a name: the supervisor's own log) the instance is null. {"type":"activity","activity":{…}}: see feed_activity.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/text.h"
#include "http/feed_private.h"
#include "http/respond.h"

enum {
        NOTES_MAX = 32,        /* answers that wait for a reader; more are dropped, and counted as refused */
        FOLLOWS_MAX = 16,      /* of a connection */
        FOLLOWS_ALL_MAX = 256, /* each line is handed to every one of them */
        LINES_SIZE_MAX = 32 * 1024,
        LOG_LINE_MAX = 4096,
        TOPIC_MAX = 8 + FEED_NAME_MAX,
};

static const usec_t LOG_INTERVAL = 100 * USEC_PER_MSEC;

/* A message for one client alone. */
struct note {
        struct list node;
        size_t len;
        char data[];
};

struct client;

struct follow {
        struct list node; /* in client.follows */
        struct client *client;
        struct follower *follower;    /* of an instance's log, or … */
        struct ownlog_reader *reader; /* … of our own, whose name is "" */
        struct buffer lines;          /* JSON strings with commas */
        uint64_t skipped;
        usec_t sent_at;
        char name[];
};

struct client {
        struct subscriber sub;
        struct ws_conn *conn;
        struct list notes, follows;
        unsigned n_notes, n_follows;
        struct list logs; /* in feed.logs: some follow has lines */
        struct activity_watch activity;
        struct feed_watch gpus, hubs; /* topics "gpus" and "hub" */
        usec_t paid_until;            /* the clock of its message budget */
};

static struct client *client_of(struct subscriber *sub)
{
        return CONTAINER_OF(sub, struct client, sub);
}

/* --- notes ---------------------------------------------------------------------------------------------------------- */

/* Takes the buffer's content. */
static void add_note(struct client *c, struct buffer *text)
{
        struct note *note;

        if (text->failed || c->n_notes == NOTES_MAX) {
                c->sub.feed->counts.refused++;
                return;
        }
        note = malloc(sizeof(*note) + text->len);
        if (!note)
                return;
        note->len = text->len;
        memcpy(note->data, text->data, text->len);
        list_append(&c->notes, &note->node);
        c->n_notes++;
        if (!c->sub.blocked)
                subscriber_ready(&c->sub);
}

static void note_free(struct client *c, struct note *note)
{
        list_remove(&note->node);
        c->n_notes--;
        free(note);
}

static void say_error(struct client *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say_error(struct client *c, const char *fmt, ...)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;
        char message[512];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "error");
        json_string(&w, "message", message);
        json_close_object(&w);
        add_note(c, &text);
}

/* "log:qwen-0", or "log". */
static char *topic_of(const struct follow *x, char topic[static TOPIC_MAX])
{
        (void)snprintf(topic, TOPIC_MAX, "log%s%s", x->name[0] ? ":" : "", x->name);
        return topic;
}

static void say_topics(struct client *c)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;
        char topic[TOPIC_MAX];

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "subscribed");
        json_key(&w, "topics");
        json_open_array(&w);
        if (c->sub.status)
                json_put_string(&w, "status");
        LIST_FOREACH(&c->follows, it)
        {
                topic_of(LIST_ENTRY(it, struct follow, node), topic);
                json_put_string(&w, topic);
        }
        if (!list_is_empty(&c->activity.watch.node))
                json_put_string(&w, "activity");
        if (!list_is_empty(&c->gpus.node))
                json_put_string(&w, "gpus");
        if (!list_is_empty(&c->hubs.node))
                json_put_string(&w, "hub");
        json_close_array(&w);
        json_close_object(&w);
        add_note(c, &text);
}

/* --- logs ----------------------------------------------------------------------------------------------------------- */

static bool follow_has_news(const struct follow *x)
{
        return x->lines.len || x->skipped;
}

static void on_log_timer(void *owner, usec_t now)
{
        struct feed *f = owner;

        (void)now;
        while (!list_is_empty(&f->logs)) {
                struct client *c = LIST_ENTRY(f->logs.next, struct client, logs);

                list_remove(&c->logs);
                if (!c->sub.blocked)
                        subscriber_ready(&c->sub);
        }
}

static void schedule_logs(struct client *c)
{
        struct feed *f = c->sub.feed;
        usec_t due = usec_add(loop_now(f->loop), LOG_INTERVAL);

        if (list_is_empty(&c->logs))
                list_append(&f->logs, &c->logs);
        if (timer_due(f->log_timer) > due)
                timer_set(f->log_timer, due);
}

static void on_line(void *owner, const char *line, size_t len)
{
        struct follow *x = owner;
        struct json_writer w;
        char text[LOG_LINE_MAX];
        size_t before = x->lines.len;

        if (x->skipped) { /* full: a flood must cost next to nothing for each that follows it */
                x->skipped++;
                return;
        }
        len = MIN(len, sizeof(text));
        memcpy(text, line, len);
        len = text_harmless_n(text, len);
        if (before)
                (void)buffer_putc(&x->lines, ',');
        json_begin(&w, &x->lines);
        json_put_string_n(&w, text, len);
        if (x->lines.failed) { /* full: it keeps what it had, and the rest of this interval is only counted */
                x->lines.failed = false;
                x->lines.len = before;
                x->skipped++;
        }
        schedule_logs(x->client);
}

static struct follow *find_follow(struct client *c, const char *name)
{
        LIST_FOREACH(&c->follows, it)
        if (streq(LIST_ENTRY(it, struct follow, node)->name, name))
                return LIST_ENTRY(it, struct follow, node);
        return NULL;
}

static void follow_free(struct follow *x)
{
        fleet_unfollow(x->follower);
        ownlog_unfollow(x->reader);
        x->client->n_follows--;
        x->client->sub.feed->n_follows--;
        list_remove(&x->node);
        buffer_finish(&x->lines);
        free(x);
}

static void unfollow(struct client *c, const char *name)
{
        struct follow *x = find_follow(c, name);

        if (x)
                follow_free(x);
}

static int follow_start(struct feed *f, struct follow *x)
{
        if (x->name[0])
                return fleet_follow_log(f->fleet, x->name, on_line, x, &x->follower);
        return f->ownlog ? ownlog_follow(f->ownlog, on_line, x, &x->reader) : -ENODATA;
}

/* name: "" for our own log. */
static void follow_new(struct client *c, const char *name)
{
        char topic[TOPIC_MAX];
        struct follow *x;
        int r;

        if (find_follow(c, name))
                return;
        x = calloc(1, sizeof(*x) + strlen(name) + 1);
        if (!x)
                return;
        memcpy(x->name, name, strlen(name) + 1);
        x->client = c;
        list_init(&x->node);
        buffer_init(&x->lines, LINES_SIZE_MAX);
        c->n_follows++;
        c->sub.feed->n_follows++;
        if (c->n_follows > FOLLOWS_MAX) {
                say_error(c, "topic %s: at most %d logs a connection", topic_of(x, topic), FOLLOWS_MAX);
                follow_free(x);
                return;
        }
        if (c->sub.feed->n_follows > FOLLOWS_ALL_MAX) {
                c->sub.feed->counts.refused++;
                say_error(c, "topic %s: too many clients follow logs already", topic_of(x, topic));
                follow_free(x);
                return;
        }
        r = follow_start(c->sub.feed, x);
        if (r < 0) {
                say_error(c, "topic %s: %s", topic_of(x, topic),
                          r == -ENODATA ? "this server is not ours, so that we have no log of it"
                                        : strerror(-r));
                follow_free(x);
                return;
        }
        list_append(&c->follows, &x->node);
}

static int send_log(struct client *c, struct follow *x)
{
        _cleanup_buffer_ struct buffer text;
        struct json_writer w;
        int r;

        buffer_init(&text, 0);
        json_begin(&w, &text);
        json_open_object(&w);
        json_string(&w, "type", "log");
        json_string(&w, "instance", x->name[0] ? x->name : NULL);
        json_key(&w, "lines");
        json_open_array(&w);
        if (x->lines.len)
                json_put_raw(&w, x->lines.data, x->lines.len);
        json_close_array(&w);
        json_uint(&w, "skipped", x->skipped);
        json_close_object(&w);
        if (text.failed)
                return -ENOMEM;
        r = ws_send(c->conn, text.data, text.len);
        if (r < 0)
                return r;
        buffer_clear(&x->lines);
        x->skipped = 0;
        x->sent_at = loop_now(c->sub.feed->loop);
        return 0;
}

static int send_logs(struct client *c)
{
        usec_t now = loop_now(c->sub.feed->loop);
        int r = 0;

        LIST_FOREACH(&c->follows, it)
        {
                struct follow *x = LIST_ENTRY(it, struct follow, node);

                if (r < 0 || !follow_has_news(x))
                        continue;
                if (usec_sub(now, x->sent_at) < LOG_INTERVAL)
                        schedule_logs(c);
                else
                        r = send_log(c, x);
        }
        return r;
}

/* --- topics that tell a state ---------------------------------------------------------------------------------------- */

static bool watch_is_behind(const struct feed_watch *x)
{
        return ((const struct client *)x->owner)->n_notes > 0;
}

static void watch_tell(struct feed_watch *x, struct buffer *text)
{
        add_note(x->owner, text);
}

static void init_watch(struct client *c, struct feed_watch *x)
{
        *x = (struct feed_watch){.owner = c, .is_behind = watch_is_behind, .tell = watch_tell};
        list_init(&x->node);
}

static void change_state_topic(struct client *c, struct feed_topic *t, struct feed_watch *x, bool on)
{
        if (!on)
                feed_topic_unwatch(x);
        else if (feed_topic_watch(t, x) < 0)
                say_error(c, "topic %s: not enough memory", t->kind->name);
}

static void change_hubs(struct client *c, bool on)
{
        change_state_topic(c, &c->sub.feed->hub_topic, &c->hubs, on);
}

static void change_gpus(struct client *c, bool on)
{
        change_state_topic(c, &c->sub.feed->gpu_topic, &c->gpus, on);
}

static void change_activity(struct client *c, bool on)
{
        if (!on)
                feed_unwatch_activity(&c->activity);
        else if (feed_watch_activity(c->sub.feed, &c->activity) < 0)
                say_error(c, "topic activity: not enough memory");
}

/* --- what clients ask ------------------------------------------------------------------------------------------------ */

static const char *const later_topics[] = {"queue", NULL};

static bool is_one_of(const char *const *names, const char *name)
{
        for (; *names; names++)
                if (streq(*names, name))
                        return true;
        return false;
}

static void subscribe_log(struct client *c, const char *name)
{
        struct subject *s = strlen(name) < FEED_NAME_MAX ? feed_find(c->sub.feed, name) : NULL;
        char message[3 * FEED_NAME_MAX];

        if (s && s != c->sub.feed->aggregate)
                follow_new(c, name);
        else
                say_error(c, "topic log:%.64s: %s", name,
                          strlen(name) < FEED_NAME_MAX
                                  ? feed_no_instance(c->sub.feed, name, message, sizeof(message))
                                  : "there is no instance with so long a name");
}

static void change_topic(struct client *c, const char *topic, bool on)
{
        if (streq(topic, "status")) {
                c->sub.status = on;
                if (on)
                        subscriber_refresh(&c->sub);
        } else if (streq(topic, "log") && on) {
                follow_new(c, "");
        } else if (starts_with(topic, "log:") && on) {
                subscribe_log(c, topic + strlen("log:"));
        } else if (streq(topic, "log")) {
                unfollow(c, "");
        } else if (starts_with(topic, "log:") && topic[strlen("log:")]) {
                unfollow(c, topic + strlen("log:"));
        } else if (streq(topic, "activity")) {
                change_activity(c, on);
        } else if (streq(topic, "gpus")) {
                change_gpus(c, on);
        } else if (streq(topic, "hub")) {
                change_hubs(c, on);
        } else if (is_one_of(later_topics, topic)) {
                say_error(c, "topic %s is not served by this version", topic);
        } else {
                say_error(c,
                          "unknown topic \"%.64s\": there are status, activity, gpus, hub, log and log:NAME",
                          topic);
        }
}

static void change_topics(struct client *c, const struct json_value *message, bool on)
{
        struct json_value *topics = json_get(message, "topics");

        if (!json_is_array(topics)) {
                say_error(c, "topics must be an array of names");
                return;
        }
        for (size_t i = 0; i < MIN(json_count(topics), 64); i++) {
                const char *topic = json_as_string(json_at(topics, i));

                if (topic)
                        change_topic(c, topic, on);
                else
                        say_error(c, "topics[%zu] must be a string", i);
        }
        say_topics(c);
}

static void handle_object(struct client *c, const struct json_value *message)
{
        const char *type = json_get_string(message, "type");

        if (!type)
                say_error(c, "a message must be an object with a \"type\"");
        else if (streq(type, "requestLlamaStatus"))
                subscriber_refresh(&c->sub);
        else if (streq(type, "subscribe"))
                change_topics(c, message, true);
        else if (streq(type, "unsubscribe"))
                change_topics(c, message, false);
        else
                say_error(c,
                          "unknown type \"%.64s\": there are requestLlamaStatus, subscribe and unsubscribe",
                          type);
}

static void handle_text(struct client *c, const char *data, size_t len)
{
        struct slice text = slice_trim((struct slice){data, len});
        struct json_error e = {0};
        struct json_value *message;
        int r;

        if (slice_eq(text, SLICE("requestLlamaStatus"))) {
                subscriber_refresh(&c->sub);
                return;
        }
        r = json_parse(data, len, &message, &e);
        if (r == -EBADMSG) {
                say_error(c, "not understood: neither requestLlamaStatus nor JSON (byte %zu: %s)", e.offset,
                          e.message ? e.message : "malformed");
                return;
        }
        if (r < 0)
                return;
        handle_object(c, message);
        json_free(message);
}

/* --- the carrier ------------------------------------------------------------------------------------------------------- */

static void client_free(struct client *c)
{
        while (!list_is_empty(&c->notes))
                note_free(c, LIST_ENTRY(c->notes.next, struct note, node));
        while (!list_is_empty(&c->follows))
                follow_free(LIST_ENTRY(c->follows.next, struct follow, node));
        list_remove(&c->logs);
        feed_unwatch_activity(&c->activity);
        feed_topic_unwatch(&c->gpus);
        feed_topic_unwatch(&c->hubs);
        subscriber_leave(&c->sub, &c->sub.feed->counts.subscribers_ws);
        free(c);
}

static int client_flush(struct subscriber *sub)
{
        struct client *c = client_of(sub);

        while (!list_is_empty(&c->notes)) {
                struct note *note = LIST_ENTRY(c->notes.next, struct note, node);
                int r = ws_send(c->conn, note->data, note->len);

                if (r < 0)
                        return r;
                note_free(c, note);
        }
        return send_logs(c);
}

static int client_send(struct subscriber *sub, const struct frame *frame)
{
        return ws_send(client_of(sub)->conn, frame->data, frame->len);
}

static void client_end(struct subscriber *sub, enum websocket_code code)
{
        struct client *c = client_of(sub);

        c->conn = ws_close(c->conn, code, "");
        client_free(c);
}

static void client_gone(struct subscriber *sub, const char *instance)
{
        struct client *c = client_of(sub);
        struct follow *x = find_follow(c, instance);

        if (!x)
                return;
        follow_free(x);
        say_error(c, "topic log:%s ends: the instance is gone", instance);
}

static const struct carrier client_carrier = {
        .encoding = ENCODING_JSON,
        .flush = client_flush,
        .send = client_send,
        .end = client_end,
        .gone = client_gone,
};

static void on_message(void *owner, const char *data, size_t len, bool is_binary)
{
        struct client *c = owner;

        if (feed_too_fast(&c->paid_until, loop_now(c->sub.feed->loop))) {
                c->sub.feed->counts.refused++;
                c->conn = ws_close(c->conn, WEBSOCKET_POLICY, "too many messages");
                client_free(c);
        } else if (is_binary) {
                say_error(c, "binary messages are not understood");
        } else {
                handle_text(c, data, len);
        }
}

static void on_writable(void *owner)
{
        struct client *c = owner;

        subscriber_ready(&c->sub);
}

static void on_close(void *owner, bool slow)
{
        struct client *c = owner;

        if (slow)
                c->sub.feed->counts.closed_slow++;
        client_free(c);
}

static const struct ws_events client_events = {
        .on_message = on_message, .on_writable = on_writable, .on_close = on_close, .pings = true};

void feed_websocket(struct feed *f, struct request *req)
{
        uint64_t mark = request_mark(req);
        struct subject *only;
        struct client *c;

        if (feed_instance_of(f, req, &only) < 0 || !ws_check(f->ws, req))
                return;
        if (!f->log_timer && timer_new(f->loop, on_log_timer, f, &f->log_timer) < 0) {
                doors_respond_error(req, 503, "not enough memory");
                return;
        }
        c = calloc(1, sizeof(*c));
        if (!c) {
                doors_respond_error(req, 503, "not enough memory");
                return;
        }
        list_init(&c->notes);
        list_init(&c->follows);
        list_init(&c->logs);
        init_watch(c, &c->activity.watch);
        init_watch(c, &c->gpus);
        init_watch(c, &c->hubs);
        if (ws_accept(f->ws, req, &client_events, c, &c->conn) < 0) {
                free(c);
                return;
        }
        subscriber_join(&c->sub, f, &client_carrier, only, mark, &f->counts.subscribers_ws);
}
