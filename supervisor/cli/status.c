/* status.c: status, ls and ps: the fleet at this moment. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/file.h"
#include "base/slice.h"
#include "base/text.h"
#include "cli/rows.h"
#include "cli/verb.h"

#define INSTANCES "/api/v1/instances"

/* --- status ----------------------------------------------------------------------------------------------------------- */

/* The API's two documents as one: the status with the instances in it. */
static int print_both(struct cli *cli, const struct client_answer *status,
                      const struct client_answer *instances)
{
        struct slice a = slice_trim((struct slice){status->body.data, status->body.len}),
                     b = slice_trim((struct slice){instances->body.data, instances->body.len});
        _cleanup_buffer_ struct buffer out = {0};

        while (a.n && (a.p[a.n - 1] == '\n' || a.p[a.n - 1] == '\r'))
                a.n--;
        while (b.n && (b.p[b.n - 1] == '\n' || b.p[b.n - 1] == '\r'))
                b.n--;
        if (a.n < 3 || b.n < 3 || a.p[a.n - 1] != '}' || b.p[0] != '{')
                return cli_broken(cli, -EPROTO);
        buffer_init(&out, 0);
        (void)buffer_append(&out, a.p, a.n - 1);
        (void)buffer_putc(&out, ',');
        (void)buffer_append(&out, b.p + 1, b.n - 1);
        (void)buffer_putc(&out, '\n');
        return cli_print(cli, &out);
}

static void put_line(struct cli *cli, struct buffer *out, enum colour c, const char *prefix, const char *text,
                     size_t len)
{
        _cleanup_free_ char *part = text_format("%.*s", (int)len, text);
        _cleanup_buffer_ struct buffer line = {0};

        buffer_init(&line, 0);
        (void)buffer_puts(&line, prefix);
        screen_put_text(&line, part);
        (void)buffer_puts(out, screen_begin(&cli->screen, c));
        (void)screen_put_cut(out, line.data ? line.data : "", cli->screen.width);
        (void)buffer_printf(out, "%s\n", screen_end(&cli->screen, c));
}

unsigned cli_put_sentence(struct cli *cli, struct buffer *out, const char *sentence, const char *reload_error,
                          const char *limits_problem)
{
        if (!sentence)
                sentence = "";
        put_line(cli, out, COLOUR_BOLD, "", sentence, strlen(sentence));
        if (reload_error)
                put_line(cli, out, COLOUR_RED, "the last reload failed: ", reload_error,
                         strcspn(reload_error, "\n"));
        if (limits_problem)
                put_line(cli, out, COLOUR_AMBER, "", limits_problem, strcspn(limits_problem, "\n"));
        return 1 + (reload_error != NULL) + (limits_problem != NULL);
}

static void put_field(struct buffer *out, const struct screen *s, const char *name, const char *value)
{
        if (!value || !*value)
                return;
        (void)buffer_printf(out, "  %s%-10s%s  ", screen_begin(s, COLOUR_DIM), name,
                            screen_end(s, COLOUR_DIM));
        screen_put_text(out, value);
        (void)buffer_putc(out, '\n');
}

/* Whole seconds: nobody reads milliseconds of an uptime. */
static const char *seconds_between(usec_t later, usec_t earlier, char *buf, size_t size)
{
        usec_t span = usec_sub(later, earlier) / USEC_PER_SEC * USEC_PER_SEC;

        return span ? time_span(span, buf, size) : "0 s";
}

static void put_heading(struct buffer *out, const struct screen *s, const struct row *row, usec_t now)
{
        const struct look *look = look_of(row->status);
        char span[TIME_SPAN_MAX];

        if (s->terminal)
                (void)buffer_printf(out, "%s%s%s ", screen_begin(s, look->colour), look->symbol,
                                    screen_end(s, look->colour));
        (void)buffer_puts(out, screen_begin(s, COLOUR_BOLD));
        screen_put_text(out, row->name);
        (void)buffer_printf(out, "%s is %s", screen_end(s, COLOUR_BOLD), screen_begin(s, look->colour));
        screen_put_text(out, words_of(row->status));
        (void)buffer_puts(out, screen_end(s, look->colour));
        if (row->since && row->since <= now)
                (void)buffer_printf(out, " for %s", seconds_between(now, row->since, span, sizeof(span)));
        (void)buffer_putc(out, '\n');
}

static void put_wish(struct buffer *out, const struct screen *s, const struct row *row)
{
        if (row->adopted)
                put_field(out, s, "taken over",
                          "yes: it ran before this daemon, or somebody else started it");
        if (streq(row->status, "idle"))
                put_field(out, s, "wanted", "on demand: the next request for it loads it");
        else if (!row->want_up)
                put_field(out, s, "wanted", "no: it stays down until somebody starts it");
        if (row->on_demand && row->until) {
                char text[TIME_SPAN_MAX + 24], span[TIME_SPAN_MAX];

                (void)snprintf(text, sizeof(text), "in %s, unless it is used",
                               seconds_between(row->until, time_realtime(), span, sizeof(span)));
                put_field(out, s, "unloaded", text);
        }
}

/* What it uses of what it may, where a control group tells. */
static void put_group(struct buffer *out, const struct screen *s, const struct json_value *v)
{
        const struct json_value *usage = json_get(v, "usage"), *limits = json_get(v, "limits");
        int64_t memory = json_get_int(usage, "memory", -1), max = json_get_int(usage, "memoryMax", 0);
        double cpu = json_get_double(usage, "cpuSeconds", -1);
        char text[64], size[24], most[24], span[TIME_SPAN_MAX];

        if (memory >= 0) {
                (void)snprintf(text, sizeof(text), "%s%s%s", text_size((uint64_t)memory, size, sizeof(size)),
                               max > 0 ? " of " : "",
                               max > 0 ? text_size((uint64_t)max, most, sizeof(most)) : "");
                put_field(out, s, "memory", text);
        }
        if (cpu >= 0)
                put_field(out, s, "cpu time",
                          time_span((usec_t)(cpu * (double)USEC_PER_SEC), span, sizeof(span)));
        put_field(out, s, "limits", json_get_string(limits, "problem"));
}

static void put_one(struct buffer *out, const struct screen *s, const struct json_value *v,
                    const struct row *row)
{
        usec_t now = time_realtime();
        double load = json_get_double(v, "loadTime", 0), weight = json_get_double(v, "weight", 1);
        char text[256], span[TIME_SPAN_MAX];

        put_heading(out, s, row, now);
        put_field(out, s, "error", row->last_error);
        if (row->retries || row->next_try)
                put_field(out, s, "tries", row_tries(row, now, text, sizeof(text)));
        put_wish(out, s, row);
        put_field(out, s, "model",
                  json_get_string(v, "modelPath") ? json_get_string(v, "modelPath") : row->model);
        if (row->pid) {
                (void)snprintf(text, sizeof(text), "%" PRId64 "%s%s", row->pid, row->started ? ", up " : "",
                               row->started ? seconds_between(now, row->started, span, sizeof(span)) : "");
                put_field(out, s, "pid", text);
        }
        put_field(out, s, "endpoint", row->endpoint);
        put_field(out, s, "gpu", row->gpu);
        if (streq_ptr(json_get_string(v, "gpuVerified"), "wrong") ||
            streq_ptr(json_get_string(v, "gpuVerified"), "cpu"))
                put_field(out, s, "runs on",
                          streq(json_get_string(v, "gpuVerified"), "cpu") ? "the CPU"
                                                                          : "other GPUs than those");
        if (fabs(weight - 1) > 1e-6) {
                (void)snprintf(text, sizeof(text), "%g", weight);
                put_field(out, s, "weight", text);
        }
        if (row->slots) {
                (void)snprintf(text, sizeof(text), "%" PRIu64 " of %" PRIu64 " busy, %.1f tokens/s",
                               row->in_flight, row->slots, row->tokens_per_second);
                put_field(out, s, "slots", text);
        }
        if (json_get_int(v, "context", 0) > 0) {
                (void)snprintf(text, sizeof(text), "%" PRId64 " tokens", json_get_int(v, "context", 0));
                put_field(out, s, "context", text);
        }
        put_group(out, s, v);
        if (load > 0)
                put_field(out, s, "last load",
                          time_span((usec_t)(load * (double)USEC_PER_SEC), span, sizeof(span)));
        (void)snprintf(text, sizeof(text), "%" PRId64, json_get_int(v, "restarts", 0));
        put_field(out, s, "restarts", text);
        put_field(out, s, "build", json_get_string(v, "build"));
        put_field(out, s, "log", json_get_string(v, "logPath"));
}

static int no_instance(struct cli *cli, const struct rows *rows, const char *name)
{
        const char *nearest = rows_nearest(rows, name);

        if (nearest)
                return cli_fail(cli, "there is no instance \"%s\"; did you mean \"%s\"?", name, nearest);
        return cli_fail(cli, "there is no instance \"%s\"", name);
}

/* Which rows the arguments name; all when there are none. */
static int choose(struct cli *cli, const struct rows *rows, bool *which, size_t *ret_n, size_t *ret_last)
{
        size_t n = 0;

        for (size_t k = 0; k < cli->options.n_plain; k++) {
                size_t found = 0;

                for (size_t i = 0; i < rows->n; i++)
                        if (rows_match(rows, &rows->list[i], cli->options.plain[k])) {
                                which[i] = true;
                                found++;
                        }
                if (!found)
                        return no_instance(cli, rows, cli->options.plain[k]);
        }
        for (size_t i = 0; i < rows->n; i++) {
                which[i] = which[i] || cli->options.n_plain == 0;
                if (which[i]) {
                        *ret_last = i;
                        n++;
                }
        }
        *ret_n = n;
        return CLI_DONE;
}

static int print_chosen_json(struct cli *cli, const struct json_value *list, const bool *which, size_t n,
                             size_t last)
{
        _cleanup_buffer_ struct buffer out = {0};
        _cleanup_free_ char *only = NULL;
        struct json_writer w;

        buffer_init(&out, 0);
        if (n == 1) {
                only = json_print(json_at(list, last), false);
                (void)buffer_puts(&out, only ? only : "null");
        } else {
                json_begin(&w, &out);
                json_open_object(&w);
                json_key(&w, "instances");
                json_open_array(&w);
                for (size_t i = 0; i < json_count(list); i++) {
                        _cleanup_free_ char *one = which[i] ? json_print(json_at(list, i), false) : NULL;

                        if (one)
                                json_put_raw(&w, one, strlen(one));
                }
                json_close_array(&w);
                json_close_object(&w);
        }
        (void)buffer_putc(&out, '\n');
        return cli_print(cli, &out);
}

/* Those that something is wrong with, and those with work. */
static void put_hubs(struct cli *cli, struct buffer *out, const struct json_value *list)
{
        for (size_t i = 0; i < json_count(list); i++) {
                const struct json_value *h = json_at(list, i);
                const char *state = json_get_string(h, "state"), *why = json_get_string(h, "why");
                int64_t running = json_get_int(h, "running", 0), outbox = json_get_int(h, "outbox", 0);
                bool bad = streq_ptr(state, "down") || streq_ptr(state, "revoked");
                char text[400];
                int n;

                if (!bad && !why && !running && !outbox)
                        continue;
                n = snprintf(text, sizeof(text), "hub %s is %s", json_get_string(h, "name"), state);
                if (why)
                        n += snprintf(text + n, sizeof(text) - (size_t)n, ": %.200s", why);
                if (running)
                        n += snprintf(text + n, sizeof(text) - (size_t)n, ", %" PRId64 " of its jobs run%s",
                                      running, running == 1 ? "s" : "");
                if (outbox)
                        (void)snprintf(text + n, sizeof(text) - (size_t)n,
                                       ", %" PRId64 " finished ones that it does not know of yet", outbox);
                put_line(cli, out,
                         bad   ? COLOUR_RED
                         : why ? COLOUR_AMBER
                               : COLOUR_NONE,
                         "", text, strlen(text));
        }
}

static int show(struct cli *cli, const struct json_value *status, const struct json_value *list,
                const struct rows *rows)
{
        _cleanup_free_ bool *which = rows_flags(rows);
        _cleanup_buffer_ struct buffer out = {0};
        size_t n = 0, last = 0;
        int r;

        if (!which)
                return cli_fail(cli, "not enough memory");
        r = choose(cli, rows, which, &n, &last);
        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return print_chosen_json(cli, list, which, n, last);
        buffer_init(&out, 0);
        if (cli->options.n_plain && n == 1) {
                put_one(&out, &cli->screen, json_at(list, last), &rows->list[last]);
                return cli_print(cli, &out);
        }
        if (!cli->options.n_plain) {
                (void)cli_put_sentence(cli, &out, json_get_string(status, "sentence"),
                                       json_get_string(status, "reloadError"),
                                       json_get_string(status, "limitsProblem"));
                put_hubs(cli, &out, json_get(status, "hubs"));
                if (n)
                        (void)buffer_putc(&out, '\n');
        }
        if (n && rows_print(rows, which, &cli->screen, time_realtime(), 0, &out) < 0)
                return cli_fail(cli, "not enough memory");
        return cli_print(cli, &out);
}

int status_main(struct cli *cli)
{
        _cleanup_answer_ struct client_answer status_answer = {0}, answer = {0};
        _cleanup_value_ struct json_value *status = NULL, *document = NULL;
        struct rows rows = {0};
        int r;

        if (options_get(&cli->options, "watch"))
                return watch_main(cli);
        r = cli_get(cli, "/api/v1/status", &status_answer, &status);
        if (r == CLI_DONE)
                r = cli_get(cli, INSTANCES, &answer, &document);
        if (r != CLI_DONE)
                return r;
        if (cli->json && cli->options.n_plain == 0)
                return print_both(cli, &status_answer, &answer);
        r = rows_fill(&rows, document);
        r = r < 0 ? cli_broken(cli, r == -EBADMSG ? -EPROTO : r)
                  : show(cli, status, json_get(document, "instances"), &rows);
        rows_finish(&rows);
        return r;
}

/* --- ls --------------------------------------------------------------------------------------------------------------- */

int ls_main(struct cli *cli)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        const struct json_value *list;
        int r = cli_get(cli, INSTANCES, &answer, &document);

        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return cli_print_answer(cli, &answer);
        buffer_init(&out, 0);
        list = json_get(document, "instances");
        for (size_t i = 0; i < json_count(list); i++) {
                screen_put_text(&out, json_get_string(json_at(list, i), "name"));
                (void)buffer_putc(&out, '\n');
        }
        return cli_print(cli, &out);
}

/* --- ps --------------------------------------------------------------------------------------------------------------- */

/* The daemon's processes are this machine's: what it does not tell is read from /proc. 0 when it cannot be read. */
static uint64_t resident_bytes(int64_t pid)
{
        _cleanup_free_ char *text = NULL;
        char path[64];
        unsigned long long pages;
        size_t len;

        (void)snprintf(path, sizeof(path), "/proc/%" PRId64 "/statm", pid);
        if (file_read(path, 4096, &text, &len) < 0 || sscanf(text, "%*u %llu", &pages) != 1)
                return 0;
        return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static char *command_line(int64_t pid)
{
        _cleanup_free_ char *text = NULL;
        char path[64];
        size_t len;

        (void)snprintf(path, sizeof(path), "/proc/%" PRId64 "/cmdline", pid);
        if (file_read(path, 1024 * 1024, &text, &len) < 0 || len == 0)
                return NULL;
        return rows_command(text, len);
}

static void put_process(struct table *t, const struct row *row)
{
        _cleanup_free_ char *command = command_line(row->pid);
        uint64_t resident = resident_bytes(row->pid);
        char text[32], span[TIME_SPAN_MAX];

        table_row(t);
        table_put(t, COLOUR_BOLD, row->name);
        table_printf(t, COLOUR_NONE, "%" PRId64, row->pid);
        table_put(t, COLOUR_NONE, resident ? text_size(resident, text, sizeof(text)) : "");
        table_put(t, COLOUR_NONE, row->gpu);
        table_put(t, COLOUR_NONE, row->endpoint);
        table_put(t, COLOUR_NONE,
                  row->until ? seconds_between(row->until, time_realtime(), span, sizeof(span)) : "");
        table_put(t, COLOUR_NONE, command);
}

int ps_main(struct cli *cli)
{
        static const struct table_column columns[] = {
                {.title = "NAME"},
                {.title = "PID", .right = true},
                {.title = "RSS", .right = true},
                {.title = "GPU", .flexible = true},
                {.title = "ENDPOINT", .flexible = true},
                {.title = "UNTIL"},
                {.title = "COMMAND"},
        };
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        struct rows rows = {0};
        struct table t;
        int r = cli_get(cli, INSTANCES, &answer, &document);

        if (r != CLI_DONE)
                return r;
        if (cli->json)
                return cli_print_answer(cli, &answer);
        r = rows_fill(&rows, document);
        if (r < 0) {
                rows_finish(&rows);
                return cli_broken(cli, r == -EBADMSG ? -EPROTO : r);
        }
        buffer_init(&out, 0);
        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < rows.n; i++)
                if (rows.list[i].pid)
                        put_process(&t, &rows.list[i]);
        r = table_print(&t, &cli->screen, 0, &out);
        table_finish(&t);
        rows_finish(&rows);
        return r < 0 ? cli_fail(cli, "not enough memory") : cli_print(cli, &out);
}
