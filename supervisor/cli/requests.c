/* requests.c: the requests that run and the last ones that ended, and cancelling one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "base/time.h"
#include "cli/table.h"
#include "cli/verb.h"

enum { RECENT_DEFAULT = 20, RECENT_MAX = 500 };

static const struct table_column columns[] = {
        {.title = "ID"},
        {.title = "MODEL"},
        {.title = "INSTANCE"},
        {.title = "KEY"},
        {.title = "PATH", .flexible = true},
        {.title = "STATE"},
        {.title = "WAIT", .right = true},
        {.title = "FIRST", .right = true},
        {.title = "TIME", .right = true},
        {.title = "IN", .right = true},
        {.title = "OUT", .right = true},
        {.title = "TOK/S", .right = true},
};

static void put_span(struct table *t, const struct json_value *r, const char *key)
{
        double seconds = json_get_double(r, key, -1);
        char text[TIME_SPAN_MAX];

        if (seconds < 0)
                table_put(t, COLOUR_NONE, NULL);
        else
                table_put(t, COLOUR_NONE,
                          time_span((usec_t)(seconds * (double)USEC_PER_SEC), text, sizeof(text)));
}

static void put_count(struct table *t, const struct json_value *r, const char *key)
{
        int64_t n = json_get_int(r, key, -1);

        if (n < 0)
                table_put(t, COLOUR_NONE, NULL);
        else
                table_printf(t, COLOUR_NONE, "%" PRId64, n);
}

static enum colour colour_of(const char *state)
{
        if (streq_ptr(state, "running") || streq_ptr(state, "ok"))
                return COLOUR_GREEN;
        if (streq_ptr(state, "waiting"))
                return COLOUR_AMBER;
        if (streq_ptr(state, "cancelled") || streq_ptr(state, "client_gone"))
                return COLOUR_DIM;
        return COLOUR_RED;
}

static void put_request(struct table *t, const struct json_value *r)
{
        const char *outcome = json_get_string(r, "outcome"),
                   *state = outcome ? outcome : json_get_string(r, "state");
        double pace = json_get_double(r, "tokensPerSecond", 0);

        table_row(t);
        table_put(t, COLOUR_BOLD, json_get_string(r, "id"));
        table_put(t, COLOUR_NONE, json_get_string(r, "model"));
        table_put(t, COLOUR_NONE, json_get_string(r, "instance"));
        table_put(t, COLOUR_NONE, json_get_string(r, "key"));
        table_put(t, COLOUR_DIM, json_get_string(r, "path"));
        if (!outcome && json_get_int(r, "position", 0) > 0)
                table_printf(t, colour_of(state), "%s #%" PRId64, state, json_get_int(r, "position", 0));
        else
                table_put(t, colour_of(state), state);
        put_span(t, r, "wait");
        put_span(t, r, "timeToFirstToken");
        put_span(t, r, "duration");
        put_count(t, r, "tokensIn");
        put_count(t, r, "tokensOut");
        if (pace > 0)
                table_printf(t, COLOUR_NONE, "%.1f", pace);
        else
                table_put(t, COLOUR_NONE, NULL);
}

static int print_requests(struct cli *cli, const struct json_value *document)
{
        const struct json_value *running = json_get(document, "running"),
                                *recent = json_get(document, "recent");
        int64_t total = json_get_int(document, "total", 0);
        _cleanup_buffer_ struct buffer out = {0};
        struct table t;
        int r;

        buffer_init(&out, 0);
        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < json_count(running); i++)
                put_request(&t, json_at(running, i));
        for (size_t i = 0; i < json_count(recent); i++)
                put_request(&t, json_at(recent, i));
        r = table_print(&t, &cli->screen, 0, &out);
        table_finish(&t);
        if (r < 0)
                return cli_fail(cli, "not enough memory");
        if (total > (int64_t)json_count(running))
                (void)buffer_printf(&out, "%" PRId64 " run; the oldest %zu of them are shown\n", total,
                                    json_count(running));
        return cli_print(cli, &out);
}

static int cancel(struct cli *cli, const char *id)
{
        _cleanup_free_ char *target = cli_target("/api/v1/requests", id, "");
        _cleanup_answer_ struct client_answer answer = {0};
        int r;

        if (!target)
                return cli_fail(cli, "there can be no request \"%s\"", id);
        r = cli_request(cli, "DELETE", target, &answer);
        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return cli_print_answer(cli, &answer);
        (void)printf("%s is cancelled\n", id);
        return cli_flush(cli);
}

int requests_main(struct cli *cli)
{
        const char *id = options_get(&cli->options, "cancel"), *lines = options_get(&cli->options, "lines");
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        unsigned long n = RECENT_DEFAULT;
        char target[64], *end;
        int r;

        if (lines) {
                errno = 0;
                n = strtoul(lines, &end, 10);
                if (lines[0] < '0' || lines[0] > '9' || *end || errno || n > RECENT_MAX)
                        return cli_usage(cli, "--lines %s: a number from 0 to %d", lines, RECENT_MAX);
        }
        if (id && lines)
                return cli_usage(cli, "--cancel lists nothing: leave --lines away");
        if (id)
                return cancel(cli, id);
        (void)snprintf(target, sizeof(target), "/api/v1/requests?recent=%lu", n);
        r = cli_get(cli, target, &answer, &document);
        if (r != CLI_DONE)
                return r;
        return cli->json ? cli_print_answer(cli, &answer) : print_requests(cli, document);
}
