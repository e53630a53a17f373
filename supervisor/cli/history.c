/* history.c: what happened, as the daemon keeps it; and with --follow what happens. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/text.h"
#include "cli/rows.h"
#include "cli/verb.h"
#include "core/http1_uri.h"

#define LOOK_PAUSE (200 * USEC_PER_MSEC) /* messages of the feed that come together are one question */

struct history_view {
        struct cli *cli;
        const char *instance; /* NULL: all */
        uint64_t since;
        size_t last; /* events at most of the first answer, SIZE_MAX: all */
        bool titled;
        struct client_stream *feed;
};

static char *target_of(const struct history_view *h)
{
        char name[512];

        if (!h->instance)
                return text_format("/api/v1/history?since=%" PRIu64, h->since);
        if (http1_segment_encode(slice_str(h->instance), name, sizeof(name)) < 0)
                return NULL;
        return text_format("/api/v1/history?since=%" PRIu64 "&instance=%s", h->since, name);
}

/* For a person the local time, for programs what the API says. */
static const char *moment_text(const struct history_view *h, const struct json_value *event, char *buf,
                               size_t size)
{
        const char *iso = json_get_string(event, "time");
        time_t seconds = (time_t)(rows_moment(iso) / USEC_PER_SEC);
        struct tm tm;

        if (!h->cli->screen.terminal || !seconds || !localtime_r(&seconds, &tm) ||
            strftime(buf, size, "%Y-%m-%d %H:%M:%S", &tm) == 0)
                return iso;
        return buf;
}

static enum colour colour_of(const char *kind)
{
        static const struct {
                const char *kind;
                enum colour colour;
        } rows[] = {
                {"died", COLOUR_ORANGE},     {"gave_up", COLOUR_RED}, {"reload_failed", COLOUR_RED},
                {"unhealthy", COLOUR_AMBER}, {"ready", COLOUR_GREEN},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (streq_ptr(rows[i].kind, kind))
                        return rows[i].colour;
        return COLOUR_NONE;
}

/* What it is about, in one column. */
static const char *subject_of(const struct json_value *event)
{
        static const char *const members[] = {"instance", "hub", "model", "gpu"};

        for (size_t i = 0; i < ARRAY_SIZE(members); i++)
                if (json_get_string(event, members[i]))
                        return json_get_string(event, members[i]);
        return NULL;
}

static int print_table(struct history_view *h, const struct json_value *events)
{
        static const struct table_column columns[] = {{.title = "ID", .right = true},
                                                      {.title = "TIME"},
                                                      {.title = "ABOUT"},
                                                      {.title = "KIND"},
                                                      {.title = "WHAT"}};
        size_t n = json_count(events), first = n > h->last ? n - h->last : 0;
        _cleanup_buffer_ struct buffer out = {0};
        struct table t;
        int r;

        buffer_init(&out, 0);
        table_init(&t, columns, ARRAY_SIZE(columns));
        t.untitled = h->titled;
        for (size_t i = first; i < n; i++) {
                const struct json_value *event = json_at(events, i);
                const char *kind = json_get_string(event, "kind");
                char text[32];

                table_row(&t);
                table_printf(&t, COLOUR_DIM, "%" PRId64, json_get_int(event, "id", 0));
                table_put(&t, COLOUR_NONE, moment_text(h, event, text, sizeof(text)));
                table_put(&t, COLOUR_BOLD, subject_of(event));
                table_put(&t, colour_of(kind), kind);
                table_put(&t, COLOUR_NONE, json_get_string(event, "text"));
        }
        r = table_print(&t, &h->cli->screen, 0, &out);
        h->titled = true;
        table_finish(&t);
        return r < 0 ? cli_fail(h->cli, "not enough memory") : cli_print(h->cli, &out);
}

/* With --follow --json one event a line. */
static int print_events(struct history_view *h, const struct json_value *events)
{
        size_t n = json_count(events);

        for (size_t i = n > h->last ? n - h->last : 0; i < n; i++) {
                _cleanup_free_ char *text = json_print(json_at(events, i), false);

                (void)printf("%s\n", text ? text : "null");
        }
        return cli_flush(h->cli);
}

/* What the API says, with no more events than were asked for. */
static int print_answer(struct history_view *h, const struct client_answer *answer,
                        const struct json_value *document)
{
        const struct json_value *events = json_get(document, "events");
        _cleanup_free_ char *states = json_print(json_get(document, "states"), false);
        _cleanup_buffer_ struct buffer out = {0};
        size_t n = json_count(events);

        if (n <= h->last)
                return cli_print_answer(h->cli, answer);
        buffer_init(&out, 0);
        (void)buffer_puts(&out, "{\"events\":[");
        for (size_t i = n - h->last; i < n; i++) {
                _cleanup_free_ char *text = json_print(json_at(events, i), false);

                (void)buffer_printf(&out, "%s%s", i > n - h->last ? "," : "", text ? text : "null");
        }
        (void)buffer_printf(&out, "],\"next\":%" PRId64 ",\"states\":%s}\n",
                            json_get_int(document, "next", 0), states ? states : "{}");
        return cli_print(h->cli, &out);
}

static int look(struct history_view *h)
{
        _cleanup_free_ char *target = target_of(h);
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        const struct json_value *events;
        int r = cli_get(h->cli, target, &answer, &document);

        if (r != CLI_DONE)
                return r;
        if (h->cli->json && !h->feed)
                return print_answer(h, &answer, document);
        events = json_get(document, "events");
        h->since = (uint64_t)MAX(json_get_int(document, "next", 0), (int64_t)0);
        if (h->titled && json_count(events) == 0)
                return CLI_DONE;
        r = h->cli->json ? print_events(h, events) : print_table(h, events);
        h->titled = true;
        h->last = SIZE_MAX;
        return r;
}

/* Whatever happens to an instance changes its status, and the feed tells that: then the history is asked what it was. */
static int follow(struct history_view *h)
{
        size_t len, which = 0;
        char *line;
        int r;

        for (;;) {
                bool told = false;

                while (client_stream_line(h->feed, &line, &len))
                        told = told || starts_with(line, "data:");
                if (told) {
                        struct timespec pause = {.tv_nsec = (long)(LOOK_PAUSE * 1000)};

                        (void)nanosleep(&pause, NULL);
                        r = look(h);
                        if (r != CLI_DONE)
                                return r;
                }
                r = client_stream_wait(&h->feed, 1, -1, USEC_INFINITY, &which);
                if (r == 0)
                        r = client_stream_pull(h->feed);
                if (r != 0)
                        r = cli_reopen_feed(h->cli, r, &h->feed);
                if (r != CLI_DONE)
                        return r;
        }
}

static int parse_number(struct cli *cli, const char *name, uint64_t most, uint64_t *ret)
{
        const char *text = options_get(&cli->options, name);
        char *end;
        uint64_t n;

        if (!text)
                return CLI_DONE;
        errno = 0;
        n = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || n > most)
                return cli_usage(cli, "--%s %s: a number", name, text);
        *ret = n;
        return CLI_DONE;
}

int history_main(struct cli *cli)
{
        struct history_view h = {.cli = cli, .instance = cli->options.n_plain ? cli->options.plain[0] : NULL};
        uint64_t last = SIZE_MAX;
        int r;

        r = parse_number(cli, "since", UINT64_MAX, &h.since);
        if (r == CLI_DONE)
                r = parse_number(cli, "lines", SIZE_MAX, &last);
        if (r != CLI_DONE)
                return r;
        h.last = (size_t)last;
        if (options_get(&cli->options, "follow"))
                r = cli_open_stream(cli, "/api/v1/events", &h.feed);
        if (r == CLI_DONE)
                r = look(&h);
        if (r == CLI_DONE && h.feed)
                r = follow(&h);
        client_stream_free(h.feed);
        return r;
}
