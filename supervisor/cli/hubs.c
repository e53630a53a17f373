/* hubs.c: the hubs that send this daemon work: `hub status`. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/text.h"
#include "base/time.h"
#include "cli/hub_options.h"
#include "cli/table.h"
#include "cli/verb.h"

static const struct table_column columns[] = {
        {.title = "HUB"},
        {.title = "DRIVER"},
        {.title = "STATE"},
        {.title = "FOR", .right = true},
        {.title = "RUNNING", .right = true},
        {.title = "FREE", .right = true},
        {.title = "DONE", .right = true},
        {.title = "FAILED", .right = true},
        {.title = "GIVEN BACK", .right = true},
        {.title = "UNSENT", .right = true},
        {.title = "WHERE", .flexible = true},
};

/* amiss: something is, though it is up. */
static enum colour colour_of(const char *state, bool amiss)
{
        if (streq_ptr(state, "up"))
                return amiss ? COLOUR_AMBER : COLOUR_GREEN;
        return streq_ptr(state, "connecting") || streq_ptr(state, "drained") ? COLOUR_AMBER : COLOUR_RED;
}

static void put_count(struct table *t, const struct json_value *v, const char *key)
{
        table_printf(t, COLOUR_NONE, "%" PRId64, json_get_int(v, key, 0));
}

/* What is not as it should be, in lines beneath. */
static void put_notes(struct table *t, const struct json_value *h)
{
        const char *why = json_get_string(h, "why"), *error = json_get_string(h, "lastError");
        double retry = json_get_double(h, "retryIn", NAN);
        _cleanup_free_ char *note = NULL;
        char span[TIME_SPAN_MAX];

        if (why && isnan(retry))
                note = text_format("%s", why);
        else if (why)
                note = text_format(
                        "%s; tried again in %s", why,
                        time_span((usec_t)(MAX(retry, 0.0) * (double)USEC_PER_SEC), span, sizeof(span)));
        else if (error)
                note = text_format("last error: %s", error);
        if (!note)
                return;
        (void)text_harmless(note);
        table_note(t, !why ? COLOUR_DIM : colour_of(json_get_string(h, "state"), true), note);
}

static void put_hub(struct table *t, const struct json_value *h, int64_t now_ms)
{
        const struct json_value *jobs = json_get(h, "jobs");
        const char *state = json_get_string(h, "state");
        int64_t since = json_get_int(h, "since", now_ms);
        char span[TIME_SPAN_MAX];

        table_row(t);
        table_put(t, COLOUR_BOLD, json_get_string(h, "name"));
        table_put(t, COLOUR_NONE, json_get_string(h, "driver"));
        table_put(t, colour_of(state, json_get_string(h, "why") != NULL), state);
        table_put(t, COLOUR_NONE,
                  time_span((usec_t)MAX(now_ms - since, 0) / 1000 * USEC_PER_SEC, span, sizeof(span)));
        table_printf(t, COLOUR_NONE, "%" PRId64,
                     json_get_int(h, "running", 0) + json_get_int(h, "waiting", 0));
        put_count(t, h, "credits");
        put_count(t, jobs, "completed");
        put_count(t, jobs, "failed");
        put_count(t, jobs, "released");
        put_count(t, h, "outbox");
        table_put(t, COLOUR_DIM, json_get_string(h, "url"));
        put_notes(t, h);
}

static int print_hubs(struct cli *cli, const struct json_value *list)
{
        _cleanup_buffer_ struct buffer out = {0};
        int64_t now_ms = (int64_t)(time_realtime() / 1000);
        struct table t;
        int r = 0;

        buffer_init(&out, 0);
        if (json_count(list) == 0)
                (void)buffer_puts(&out, "no hub is configured, and the job folder is off\n");
        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < json_count(list); i++)
                put_hub(&t, json_at(list, i), now_ms);
        if (json_count(list))
                r = table_print(&t, &cli->screen, 0, &out);
        table_finish(&t);
        return r < 0 ? cli_fail(cli, "not enough memory") : cli_print(cli, &out);
}

/* {"hub":…,"workers":…} as a list of one. */
static int print_one(struct cli *cli, const struct json_value *document)
{
        _cleanup_free_ char *one = json_print(json_get(document, "hub"), false);
        _cleanup_free_ char *text = one ? text_format("[%s]", one) : NULL;
        _cleanup_value_ struct json_value *list = NULL;

        if (!text || json_parse(text, strlen(text), &list, NULL) < 0)
                return cli_fail(cli, "not enough memory");
        return print_hubs(cli, list);
}

int hub_status_main(struct cli *cli)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        const char *name = cli->options.n_plain > 1 ? cli->options.plain[1] : NULL;
        char target[160];
        int r;

        if (cli->options.n_plain > 2)
                return cli_usage(cli, "hub status takes one name, not %zu", cli->options.n_plain - 1);
        if (name && !text_is_name(name))
                return cli_usage(cli, "\"%s\" is not the name of a hub", name);
        (void)snprintf(target, sizeof(target), "/api/v1/hubs%s%s", name ? "/" : "", name ? name : "");
        r = cli_get(cli, target, &answer, &document);
        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return cli_print_answer(cli, &answer);
        return name ? print_one(cli, document) : print_hubs(cli, json_get(document, "hubs"));
}
