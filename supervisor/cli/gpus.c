/* gpus.c: the GPUs of this machine. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/text.h"
#include "base/time.h"
#include "cli/table.h"
#include "cli/verb.h"

static const struct table_column columns[] = {
        {.title = "GPU"},
        {.title = "NAME", .flexible = true},
        {.title = "UUID", .flexible = true},
        {.title = "STATE"},
        {.title = "MEMORY", .right = true},
        {.title = "USE", .right = true},
        {.title = "TEMP", .right = true},
        {.title = "POWER", .right = true},
        {.title = "INSTANCES", .flexible = true},
};

static double in_gib(const struct json_value *g, const char *key)
{
        return json_get_double(g, key, NAN) / (1 << 30);
}

static void put_memory(struct table *t, const struct json_value *g)
{
        double used = in_gib(g, "memoryUsed"), total = in_gib(g, "memoryTotal");

        if (isnan(total))
                table_put(t, COLOUR_NONE, NULL);
        else if (isnan(used))
                table_printf(t, COLOUR_NONE, "?/%.1f GiB", total);
        else
                table_printf(t, used > 0.97 * total ? COLOUR_AMBER : COLOUR_NONE, "%.1f/%.1f GiB", used,
                             total);
}

static void put_figure(struct table *t, const struct json_value *g, const char *key, const char *format,
                       double factor)
{
        double v = json_get_double(g, key, NAN);

        if (isnan(v))
                table_put(t, COLOUR_NONE, NULL);
        else
                table_printf(t, COLOUR_NONE, format, v * factor);
}

static void put_power(struct table *t, const struct json_value *g)
{
        double power = json_get_double(g, "power", NAN), limit = json_get_double(g, "powerLimit", NAN);

        if (isnan(power))
                table_put(t, COLOUR_NONE, NULL);
        else if (isnan(limit))
                table_printf(t, COLOUR_NONE, "%.0f W", power);
        else
                table_printf(t, COLOUR_NONE, "%.0f/%.0f W", power, limit);
}

static void put_names(struct buffer *out, const struct json_value *list, const char *between)
{
        for (size_t i = 0; i < json_count(list); i++) {
                const char *name = json_as_string(json_at(list, i));

                if (i)
                        (void)buffer_puts(out, between);
                (void)buffer_puts(out, name ? name : "");
        }
}

/* What is not as it should be, in a line beneath. */
static void put_notes(struct table *t, const struct json_value *g)
{
        const struct json_value *error = json_get(g, "lastError"), *throttle = json_get(g, "throttle"),
                                *ecc = json_get(g, "ecc"), *cordon = json_get(g, "cordon");
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        if (json_get(cordon, "why")) {
                (void)buffer_printf(&b, "cordoned (%s) since %s: ", json_get_string(cordon, "by"),
                                    json_get_string(cordon, "since"));
                screen_put_text(&b, json_get_string(cordon, "why"));
        }
        if (json_get(error, "xid"))
                (void)buffer_printf(&b, "%sthe driver reported Xid %" PRId64 " at %s", b.len ? "; " : "",
                                    json_get_int(error, "xid", 0), json_get_string(error, "at"));
        if (json_count(throttle)) {
                (void)buffer_puts(&b, b.len ? "; slowed down by " : "slowed down by ");
                put_names(&b, throttle, ", ");
        }
        if (json_get_int(ecc, "uncorrected", 0) > 0)
                (void)buffer_printf(&b, "%s%" PRId64 " memory errors that could not be corrected",
                                    b.len ? "; " : "", json_get_int(ecc, "uncorrected", 0));
        if (b.len && !b.failed)
                table_note(t, COLOUR_AMBER, b.data);
}

static void put_gpu(struct table *t, const struct json_value *g)
{
        const char *state = json_get_string(g, "state");
        _cleanup_buffer_ struct buffer names = {0};
        int64_t index = json_get_int(g, "index", -1);

        table_row(t);
        if (index >= 0)
                table_printf(t, COLOUR_BOLD, "%" PRId64, index);
        else
                table_put(t, COLOUR_BOLD, "part");
        table_put(t, COLOUR_NONE, json_get_string(g, "name"));
        table_put(t, COLOUR_DIM,
                  json_get_string(g, "uuid") ? json_get_string(g, "uuid") : json_get_string(g, "pci"));
        table_put(t,
                  streq_ptr(state, "ok")        ? COLOUR_GREEN
                  : streq_ptr(state, "unknown") ? COLOUR_DIM
                                                : COLOUR_RED,
                  state);
        put_memory(t, g);
        put_figure(t, g, "utilization", "%.0f %%", 100);
        put_figure(t, g, "temperature", "%.0f °C", 1);
        put_power(t, g);
        buffer_init(&names, 0);
        put_names(&names, json_get(g, "instances"), ",");
        table_put(t, COLOUR_NONE, names.len && !names.failed ? names.data : NULL);
        put_notes(t, g);
}

static int order_main(struct cli *cli, const char *word, const char *gpu)
{
        const char *reason = options_get(&cli->options, "reason");
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *v = NULL;
        _cleanup_free_ char *suffix = text_format("/%s", word), *target = NULL;
        _cleanup_buffer_ struct buffer body, line;
        struct json_writer w;
        int r;

        buffer_init(&body, 0);
        buffer_init(&line, 0);
        target = suffix ? cli_target("/api/v1/gpus", gpu, suffix) : NULL;
        json_begin(&w, &body);
        json_open_object(&w);
        if (reason)
                json_string(&w, "reason", reason);
        json_close_object(&w);
        if (!target || body.failed)
                return cli_fail(cli, "not enough memory, or no name of a GPU: %s", gpu);
        r = cli_send_any(cli, "POST", target, body.data, &answer);
        if (r != CLI_DONE)
                return r;
        if (answer.status < 200 || answer.status > 299)
                return cli_refused(cli, &answer);
        if (cli->json)
                return cli_print_answer(cli, &answer);
        if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &v, NULL) < 0 ||
            !json_get_string(v, "message"))
                return cli_broken(cli, -EPROTO);
        screen_put_text(&line, json_get_string(v, "message"));
        (void)buffer_putc(&line, '\n');
        return cli_print(cli, &line);
}

static int check_words(struct cli *cli)
{
        static const char *const words[] = {"cordon", "uncordon", NULL};
        const char *word = cli->options.n_plain ? cli->options.plain[0] : NULL, *near;

        if (options_get(&cli->options, "reason") && !streq_ptr(word, "cordon"))
                return cli_usage(cli, "--reason is for gpus cordon");
        if (!word)
                return CLI_DONE;
        if (!streq(word, "cordon") && !streq(word, "uncordon")) {
                near = text_nearest(word, words);
                return cli_usage(cli, "gpus %s is nothing%s%s: gpus, gpus cordon GPU, gpus uncordon GPU",
                                 word, near ? "; did you mean " : "", near ? near : "");
        }
        if (cli->options.n_plain < 2)
                return cli_usage(cli, "a GPU is missing: llama-supervisor gpus %s GPU", word);
        return CLI_DONE;
}

int gpus_main(struct cli *cli)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        const struct json_value *gpus;
        const char *problem;
        struct table t;
        int r;

        r = check_words(cli);
        if (r != CLI_DONE)
                return r;
        if (cli->options.n_plain)
                return order_main(cli, cli->options.plain[0], cli->options.plain[1]);
        r = cli_get(cli, "/api/v1/gpus", &answer, &document);
        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return cli_print_answer(cli, &answer);
        gpus = json_get(document, "gpus");
        problem = json_get_string(document, "problem");
        buffer_init(&out, 0);
        if (json_count(gpus) == 0)
                (void)buffer_puts(&out, "no GPU is seen on this machine\n");
        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < json_count(gpus); i++)
                put_gpu(&t, json_at(gpus, i));
        r = json_count(gpus) ? table_print(&t, &cli->screen, 0, &out) : 0;
        table_finish(&t);
        if (r < 0)
                return cli_fail(cli, "not enough memory");
        if (problem) {
                _cleanup_free_ char *harmless = text_dup(problem);

                if (harmless) {
                        (void)text_harmless(harmless);
                        (void)buffer_printf(&out, "figures are missing: %s\n", harmless);
                }
        }
        return cli_print(cli, &out);
}
