/* history.c: events and states, in memory and in one append-only file of JSON lines. */
#include "fleet/history.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "core/event.h"
#include "host/record.h"

enum { STATES_MAX = 1000, STRIPS_MAX = 2048, FILE_LINES_FACTOR = 8, LINE_MAX_BYTES = 2048 };

/* The file is written anew when it is that long; a new one is at most half of it, the oldest events left out. */
#define FILE_BYTES_MAX (16UL * 1024 * 1024)

#define STATES_SPAN (24 * USEC_PER_HOUR)
#define FILE_NAME   "history.jsonl"

struct event {
        uint64_t id;
        usec_t at;
        char *kind, *instance, *model, *gpu, *hub, *cause, *text, *evidence;
};

struct change {
        usec_t since;
        char status[12];
};

struct strip {
        char *instance;
        struct change *changes; /* a ring of STATES_MAX once full */
        size_t first, n, cap;
};

struct history {
        struct loop *loop;
        char *dir;
        struct event *events; /* a ring */
        size_t first, n, max;
        uint64_t last_id;
        struct strip *strips;
        size_t n_strips;
        int fd;
        uint64_t lines, bytes; /* in the file */
        bool failed;           /* said once */
        bool cut_off;          /* the file's last line has no end: a crash in the middle of a write */
};

static void event_finish(struct event *e)
{
        free(e->kind);
        free(e->instance);
        free(e->model);
        free(e->gpu);
        free(e->hub);
        free(e->cause);
        free(e->text);
        free(e->evidence);
        *e = (struct event){0};
}

static struct event *event_at(const struct history *h, size_t i)
{
        return &h->events[(h->first + i) % h->max];
}

static void keep_event(struct history *h, const struct history_event *in)
{
        struct event *e;

        if (h->n == h->max) {
                event_finish(&h->events[h->first]);
                h->first = (h->first + 1) % h->max;
                h->n--;
        }
        e = event_at(h, h->n++);
        *e = (struct event){.id = in->id,
                            .at = in->at,
                            .kind = text_dup(in->kind),
                            .instance = text_dup(in->instance),
                            .model = text_dup(in->model),
                            .gpu = text_dup(in->gpu),
                            .hub = text_dup(in->hub),
                            .cause = text_dup(in->cause),
                            .text = text_dup(in->text),
                            .evidence = text_dup(in->evidence)};
        h->last_id = MAX(h->last_id, in->id);
}

static struct strip *strip_of(struct history *h, const char *instance, bool make)
{
        struct strip *grown;

        for (size_t i = 0; i < h->n_strips; i++)
                if (streq(h->strips[i].instance, instance))
                        return &h->strips[i];
        if (!make || h->n_strips >= STRIPS_MAX)
                return NULL;
        grown = reallocarray(h->strips, h->n_strips + 1, sizeof *grown);
        if (!grown)
                return NULL;
        h->strips = grown;
        grown[h->n_strips] = (struct strip){.instance = text_dup(instance)};
        if (!grown[h->n_strips].instance)
                return NULL;
        return &grown[h->n_strips++];
}

static struct change *change_at(const struct strip *s, size_t i)
{
        return &s->changes[(s->first + i) % s->cap];
}

/* The change before the window's begin is kept: it tells the state at the begin. */
static void forget_old(struct strip *s, usec_t realtime)
{
        while (s->n > 1 && change_at(s, 1)->since + STATES_SPAN <= realtime) {
                s->first = (s->first + 1) % s->cap;
                s->n--;
        }
}

static void keep_state(struct history *h, const char *instance, const char *status, usec_t since)
{
        struct strip *s = strip_of(h, instance, true);
        struct change *c;

        if (!s)
                return;
        if (s->n == s->cap && s->cap < STATES_MAX) {
                size_t cap = MIN(s->cap ? s->cap * 2 : 8, (size_t)STATES_MAX);
                struct change *grown = calloc(cap, sizeof *grown);

                if (!grown)
                        return;
                for (size_t i = 0; i < s->n; i++)
                        grown[i] = *change_at(s, i);
                free(s->changes);
                s->changes = grown;
                s->first = 0;
                s->cap = cap;
        }
        if (s->n == s->cap) {
                s->first = (s->first + 1) % s->cap;
                s->n--;
        }
        c = change_at(s, s->n++);
        c->since = since;
        (void)snprintf(c->status, sizeof c->status, "%s", status);
        forget_old(s, since);
}

/* --- the file ---------------------------------------------------------------------------------------------------- */

static void put_event_members(struct json_writer *w, const struct event *e)
{
        char iso[TIME_ISO_MAX];

        json_uint(w, "id", e->id);
        json_string(w, "time", time_iso(e->at, iso, sizeof iso));
        json_uint(w, "timestamp", e->at / USEC_PER_MSEC);
        json_string(w, "kind", e->kind);
        json_string(w, "instance", e->instance);
        json_string(w, "model", e->model);
        json_string(w, "gpu", e->gpu);
        json_string(w, "hub", e->hub);
        json_string(w, "cause", e->cause);
        json_string(w, "text", e->text);
        json_key(w, "evidence");
        if (e->evidence)
                json_put_raw(w, e->evidence, strlen(e->evidence));
        else
                json_put_null(w);
}

static void put_event_line(struct buffer *out, const struct event *e)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        put_event_members(&w, e);
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
}

static void put_state_line(struct buffer *out, const char *instance, const struct change *c)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "state", c->status);
        json_string(&w, "instance", instance);
        json_uint(&w, "timestamp", c->since / USEC_PER_MSEC);
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
}

static void open_file(struct history *h)
{
        _cleanup_free_ char *path = text_format("%s/%s", h->dir, FILE_NAME);

        if (path)
                h->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
}

/* The first event that still fits when the newest ones together take at most `max` bytes. */
static size_t first_that_fits(const struct history *h, size_t max)
{
        size_t i = h->n, bytes = 0;

        while (i > 0) {
                const struct event *e = event_at(h, i - 1);

                bytes += 256 + 2 * (strlen(e->text ? e->text : "") + strlen(e->evidence ? e->evidence : ""));
                if (bytes > max)
                        break;
                i--;
        }
        return i;
}

/* What is kept, written new. */
static void compact(struct history *h)
{
        _cleanup_buffer_ struct buffer b;
        uint64_t lines = 0;

        buffer_init(&b, FILE_BYTES_MAX);
        for (size_t i = 0; i < h->n_strips; i++)
                for (size_t k = 0; k < h->strips[i].n && b.len < FILE_BYTES_MAX / 4; k++, lines++)
                        put_state_line(&b, h->strips[i].instance, change_at(&h->strips[i], k));
        for (size_t i = first_that_fits(h, FILE_BYTES_MAX / 4); i < h->n; i++, lines++)
                put_event_line(&b, event_at(h, i));
        h->lines = lines;
        h->bytes = 0; /* also when it fails: not again at the next line */
        if (b.failed || record_save_now(h->dir, FILE_NAME, b.data, b.len) < 0)
                return;
        h->bytes = b.len;
        close_fd(&h->fd);
        h->fd = -1;
        open_file(h);
}

/* One write(2) into the page cache an event; never fsync here. */
static void append(struct history *h, struct buffer *line)
{
        size_t kept = h->n;
        ssize_t n;

        if (h->fd < 0 || line->failed)
                return;
        n = write(h->fd, line->data, line->len);
        if (n != (ssize_t)line->len) {
                /* Half a write into a file is a full disk, and sets no errno. */
                if (!h->failed)
                        log_warn(NULL, "%s/%s could not be written: %s; history is kept in memory only",
                                 h->dir, FILE_NAME, strerror(n < 0 ? errno : ENOSPC));
                h->failed = true;
                return;
        }
        h->failed = false;
        h->bytes += line->len;
        for (size_t i = 0; i < h->n_strips; i++)
                kept += h->strips[i].n;
        h->lines++;
        if ((h->lines > (uint64_t)h->max * FILE_LINES_FACTOR && h->lines > kept * 2) ||
            h->bytes > FILE_BYTES_MAX)
                compact(h);
}

static void load_line(struct history *h, const char *line, size_t len)
{
        struct json_value *v = NULL;
        struct history_event e;
        const char *state, *instance;
        char *evidence = NULL;
        usec_t at;

        if (json_parse(line, len, &v, NULL) < 0)
                return; /* cut off by a crash in the middle of a write */
        at = (usec_t)json_get_int(v, "timestamp", 0) * USEC_PER_MSEC;
        state = json_get_string(v, "state");
        instance = json_get_string(v, "instance");
        if (state && instance) {
                keep_state(h, instance, state, at);
        } else if (json_get_string(v, "kind")) {
                if (json_is_object(json_get(v, "evidence")))
                        evidence = json_print(json_get(v, "evidence"), false);
                e = (struct history_event){.id = (uint64_t)json_get_int(v, "id", 0),
                                           .at = at,
                                           .kind = json_get_string(v, "kind"),
                                           .instance = instance,
                                           .model = json_get_string(v, "model"),
                                           .gpu = json_get_string(v, "gpu"),
                                           .hub = json_get_string(v, "hub"),
                                           .cause = json_get_string(v, "cause"),
                                           .text = json_get_string(v, "text"),
                                           .evidence = evidence};
                keep_event(h, &e);
                free(evidence);
        }
        json_free(v);
}

static void load(struct history *h)
{
        _cleanup_free_ char *path = text_format("%s/%s", h->dir, FILE_NAME), *text = NULL;
        size_t len;

        if (!path || file_read(path, FILE_BYTES_MAX * 2, &text, &len) < 0)
                return;
        h->bytes = len;
        for (char *line = text, *end = text + len; line < end;) {
                char *nl = memchr(line, '\n', (size_t)(end - line));
                size_t n = (size_t)((nl ? nl : end) - line);

                if (n)
                        load_line(h, line, n);
                h->lines++;
                h->cut_off = nl == NULL;
                line += n + 1;
        }
}

/* --- the door ----------------------------------------------------------------------------------------------------- */

int history_new(struct loop *loop, const char *state_dir, unsigned events_max, struct history **ret)
{
        struct history *h = calloc(1, sizeof *h);

        if (!h)
                return -ENOMEM;
        h->loop = loop;
        h->fd = -1;
        h->max = MAX(events_max, 1U);
        h->dir = strdup(state_dir);
        h->events = calloc(h->max, sizeof *h->events);
        if (!h->dir || !h->events) {
                history_free(h);
                return -ENOMEM;
        }
        load(h);
        open_file(h);
        if (h->cut_off && h->fd >= 0)
                (void)!write(h->fd, "\n", 1);
        if (h->fd < 0)
                log_warn(NULL, "%s/%s: %s; history is kept in memory only", h->dir, FILE_NAME,
                         strerror(errno));
        *ret = h;
        return 0;
}

struct history *history_free(struct history *h)
{
        if (!h)
                return NULL;
        for (size_t i = 0; h->events && i < h->n; i++)
                event_finish(event_at(h, i));
        for (size_t i = 0; i < h->n_strips; i++) {
                free(h->strips[i].instance);
                free(h->strips[i].changes);
        }
        free(h->strips);
        free(h->events);
        free(h->dir);
        close_fd(&h->fd);
        free(h);
        return NULL;
}

void history_add(struct history *h, const struct history_event *event)
{
        _cleanup_buffer_ struct buffer line;
        struct history_event copy = *event;

        copy.id = h->last_id + 1;
        keep_event(h, &copy);
        buffer_init(&line, 64 * 1024);
        put_event_line(&line, event_at(h, h->n - 1));
        append(h, &line);
}

/* A line has no line breaks; the history keeps them. */
static const char *one_line(const char *text, char *buf, size_t size)
{
        size_t n = 0;

        for (const char *p = text; *p && n + 3 < size; p++) {
                if (*p == '\n' && p[1])
                        buf[n++] = ';';
                if (*p != '\n')
                        buf[n++] = *p;
                else if (p[1])
                        buf[n++] = ' ';
        }
        buf[n] = '\0';
        return buf;
}

void history_tell(struct history *h, int level, const struct history_event *event)
{
        const struct log_about about = {.subject = event->instance ? event->instance
                                                   : event->hub    ? event->hub
                                                                   : event->model,
                                        .event = event->kind,
                                        .model = event->model,
                                        .gpu = event->gpu,
                                        .hub = event->hub,
                                        .cause = event->cause,
                                        .evidence = event->evidence};
        struct history_event copy = *event;
        char line[LINE_MAX_BYTES];

        assert(event_is_known(event->kind, event->instance, event->model, event->gpu, event->hub,
                              event->cause, event->evidence));
        if (!copy.at)
                copy.at = loop_realtime(h->loop);
        history_add(h, &copy);
        log_about(level, &about, "%s", one_line(event->text ? event->text : event->kind, line, sizeof line));
}

void history_state(struct history *h, const char *instance, const char *status, usec_t realtime)
{
        _cleanup_buffer_ struct buffer line;
        struct change c = {.since = realtime};

        keep_state(h, instance, status, realtime);
        (void)snprintf(c.status, sizeof c.status, "%s", status);
        buffer_init(&line, 4096);
        put_state_line(&line, instance, &c);
        append(h, &line);
}

/* An entry's name stands for its replicas, unless an instance has that name itself. */
static bool is_of(const char *instance, const char *asked, bool entry)
{
        size_t n = strlen(asked);

        if (!entry || !instance || strncmp(instance, asked, n) != 0 || instance[n] != '-')
                return streq_ptr(instance, asked);
        return instance[n + 1] && strspn(instance + n + 1, "0123456789") == strlen(instance + n + 1);
}

void history_put(struct history *h, uint64_t since, const char *instance, usec_t realtime,
                 struct json_writer *w)
{
        bool entry = instance && !strip_of(h, instance, false);

        json_open_object(w);
        json_key(w, "events");
        json_open_array(w);
        for (size_t i = 0; i < h->n; i++) {
                const struct event *e = event_at(h, i);

                if (e->id <= since || (instance && !is_of(e->instance, instance, entry) &&
                                       !(entry && streq_ptr(e->model, instance))))
                        continue;
                json_open_object(w);
                put_event_members(w, e);
                json_close_object(w);
        }
        json_close_array(w);
        json_uint(w, "next", h->last_id);
        json_key(w, "states");
        json_open_object(w);
        for (size_t i = 0; i < h->n_strips; i++) {
                struct strip *s = &h->strips[i];

                if (instance && !is_of(s->instance, instance, entry))
                        continue;
                forget_old(s, realtime);
                json_key(w, s->instance);
                json_open_array(w);
                for (size_t k = 0; k < s->n; k++) {
                        json_open_object(w);
                        json_uint(w, "since", change_at(s, k)->since / USEC_PER_MSEC);
                        json_string(w, "status", change_at(s, k)->status);
                        json_close_object(w);
                }
                json_close_array(w);
        }
        json_close_object(w);
        json_close_object(w);
}

uint64_t history_last_id(const struct history *h)
{
        return h->last_id;
}
