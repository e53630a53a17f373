/* orders.c: start, stop, drain, restart, load, unload, and waiting until what was ordered is so. */
#include <errno.h>
#include <stdio.h>

#include "base/slice.h"
#include "base/text.h"
#include "cli/rows.h"
#include "cli/verb.h"

enum order { ORDER_START, ORDER_STOP, ORDER_RESTART, ORDER_DRAIN, ORDER_LOAD, ORDER_UNLOAD };
static const struct {
        const char *prefix, *suffix;
        bool down; /* done when it is down */
} orders[] = {
        [ORDER_START] = {"/api/v1/instances", "/start", false},
        [ORDER_STOP] = {"/api/v1/instances", "/stop", true},
        [ORDER_RESTART] = {"/api/v1/instances", "/restart", false},
        [ORDER_DRAIN] = {"/api/v1/instances", "/drain", true},
        [ORDER_LOAD] = {"/api/v1/models", "/load", false},
        [ORDER_UNLOAD] = {"/api/v1/models", "/unload", true},
};

#define WAIT_DEFAULT (10 * USEC_PER_MIN) /* as long as a model may load */

enum outcome { OUTCOME_OPEN, OUTCOME_DONE, OUTCOME_FAILED };

/* One instance that is waited for. */
struct target {
        char *name;
        int64_t pid_before;
        enum outcome outcome;
};

struct order_wait {
        struct cli *cli;
        enum order order;
        struct client_stream *stream;
        usec_t began, timeout;
        struct rows rows;
        struct target *targets;
        size_t n_targets;
        struct buffer answers; /* for --json */
        bool created;          /* start --model: the order was given with it */
};

static void order_wait_finish(struct order_wait *w)
{
        client_stream_free(w->stream);
        rows_finish(&w->rows);
        for (size_t i = 0; i < w->n_targets; i++)
                free(w->targets[i].name);
        free(w->targets);
        buffer_finish(&w->answers);
}

/* --- the order itself --------------------------------------------------------------------------------------------------- */

/* One POST; its message is said, or its document kept for --json. */
static int give(struct order_wait *w, const char *name)
{
        const char *limit = w->order == ORDER_DRAIN ? options_get(&w->cli->options, "limit") : NULL;
        bool force = w->order == ORDER_UNLOAD && options_get(&w->cli->options, "force");
        char suffix[64];
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *v = NULL;
        _cleanup_buffer_ struct buffer line = {0};
        _cleanup_free_ char *target = NULL;
        const char *message;
        int r;

        (void)snprintf(suffix, sizeof(suffix), "%s%s%.31s%s", orders[w->order].suffix, limit ? "?limit=" : "",
                       limit ? limit : "", force ? "?force=1" : "");
        target = cli_target(orders[w->order].prefix, name, suffix);
        r = cli_request(w->cli, "POST", target, &answer);
        if (r != CLI_DONE)
                return r;
        if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &v, NULL) < 0)
                return cli_broken(w->cli, -EPROTO);
        if (w->cli->json) {
                _cleanup_free_ char *text = json_print(v, false);

                return buffer_printf(&w->answers, "%s%s", w->answers.len ? "," : "", text ? text : "null") < 0
                               ? cli_fail(w->cli, "not enough memory")
                               : CLI_DONE;
        }
        message = json_get_string(v, "message");
        buffer_init(&line, 0);
        screen_put_text(&line, message ? message : "accepted");
        (void)buffer_putc(&line, '\n');
        return cli_print(w->cli, &line);
}

static int give_all(struct order_wait *w)
{
        const struct options *o = &w->cli->options;
        int worst = CLI_DONE;

        for (size_t i = 0; i < o->n_plain; i++) {
                int r = give(w, o->plain[i]);

                if (r == CLI_DOWN)
                        return r;
                worst = MAX(worst, r);
        }
        return worst;
}

/* --- waiting ---------------------------------------------------------------------------------------------------------- */

static int ask(struct order_wait *w)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        int r = cli_get(w->cli, "/api/v1/instances", &answer, &document);

        if (r != CLI_DONE)
                return r;
        r = rows_fill(&w->rows, document);
        return r < 0 ? cli_broken(w->cli, r == -EBADMSG ? -EPROTO : r) : CLI_DONE;
}

/* Who is meant, and which process each of them is now. */
static int note_targets(struct order_wait *w)
{
        const struct options *o = &w->cli->options;

        w->targets = calloc(MAX(w->rows.n, (size_t)1), sizeof(*w->targets));
        if (!w->targets)
                return cli_fail(w->cli, "not enough memory");
        for (size_t i = 0; i < w->rows.n; i++) {
                const struct row *row = &w->rows.list[i];
                bool meant = false;

                for (size_t k = 0; k < o->n_plain && !meant; k++)
                        meant = !row->foreign && rows_match(&w->rows, row, o->plain[k]);
                if (!meant)
                        continue;
                w->targets[w->n_targets] =
                        (struct target){.name = text_dup(row->name), .pid_before = row->pid};
                if (!w->targets[w->n_targets++].name)
                        return cli_fail(w->cli, "not enough memory");
        }
        return CLI_DONE;
}

static bool goes_down(enum order order)
{
        return orders[order].down;
}

static enum outcome outcome_of(const struct order_wait *w, const struct target *t, const struct row *row)
{
        if (!row) /* a reload took it away */
                return goes_down(w->order) ? OUTCOME_DONE : OUTCOME_FAILED;
        if (goes_down(w->order))
                return streq(row->status, "initial") || streq(row->status, "idle") ? OUTCOME_DONE
                                                                                   : OUTCOME_OPEN;
        if (streq(row->status, "error"))
                return OUTCOME_FAILED;
        if (!streq(row->status, "ready"))
                return OUTCOME_OPEN;
        return w->order != ORDER_RESTART || row->pid != t->pid_before ? OUTCOME_DONE : OUTCOME_OPEN;
}

static void tell(const struct order_wait *w, const char *name, const struct row *row)
{
        _cleanup_buffer_ struct buffer b = {0};

        if (w->cli->json)
                return;
        buffer_init(&b, 0);
        screen_put_text(&b, name);
        (void)buffer_puts(&b, ": ");
        screen_put_text(&b, row ? row->status : "gone");
        if (row && row->last_error) {
                (void)buffer_puts(&b, ": ");
                screen_put_text(&b, row->last_error);
        }
        (void)printf("%s\n", b.data);
        (void)fflush(stdout);
}

/* A replica that did not come back ends a rolling restart: those behind it keep their processes. */
static bool is_left_alone(const struct order_wait *w, const struct target *t, const struct row *row)
{
        if (w->order != ORDER_RESTART || !row || !streq(row->status, "ready"))
                return false;
        for (size_t i = 0; i < w->n_targets; i++) {
                const struct row *other = rows_find(&w->rows, w->targets[i].name);

                if (&w->targets[i] != t && w->targets[i].outcome == OUTCOME_FAILED && other &&
                    streq_ptr(other->entry, row->entry))
                        return true;
        }
        return false;
}

/* True when no target is open any more. */
static bool judge(struct order_wait *w)
{
        bool over = true;

        for (size_t i = 0; i < w->n_targets; i++) {
                struct target *t = &w->targets[i];
                const struct row *row = rows_find(&w->rows, t->name);

                if (t->outcome != OUTCOME_OPEN)
                        continue;
                t->outcome = outcome_of(w, t, row);
                if (t->outcome != OUTCOME_OPEN)
                        tell(w, t->name, row);
        }
        for (size_t i = 0; i < w->n_targets; i++) {
                struct target *t = &w->targets[i];

                if (t->outcome == OUTCOME_OPEN && is_left_alone(w, t, rows_find(&w->rows, t->name)))
                        t->outcome = OUTCOME_FAILED;
                over = over && t->outcome != OUTCOME_OPEN;
        }
        return over;
}

static struct target *open_target(struct order_wait *w, const char *name)
{
        for (size_t i = 0; name && i < w->n_targets; i++)
                if (w->targets[i].outcome == OUTCOME_OPEN && streq(w->targets[i].name, name))
                        return &w->targets[i];
        return NULL;
}

/* A message of the feed; CLI_DONE unless asking again failed. */
static int take_message(struct order_wait *w, char *line, size_t len)
{
        _cleanup_value_ struct json_value *message = cli_feed_message(line, len);
        struct target *t = open_target(w, json_get_string(message, "instance"));
        uint64_t seq = (uint64_t)json_get_int(message, "seq", 0);
        struct row *row = t ? rows_find(&w->rows, t->name) : NULL;
        bool changed = false;

        if (!t)
                return CLI_DONE;
        if (!row || !streq_ptr(json_get_string(message, "type"), "llama_status"))
                return ask(w);
        /* Older than what was asked for after the order was accepted. */
        if (seq <= row->seq)
                return CLI_DONE;
        if (row_update(row, seq, json_get(message, "data"), &changed) == 0 && changed &&
            outcome_of(w, t, row) == OUTCOME_OPEN)
                tell(w, row->name, row);
        return CLI_DONE;
}

static int say_timeout(struct order_wait *w)
{
        char span[TIME_SPAN_MAX];

        for (size_t i = 0; i < w->n_targets; i++) {
                const struct row *row = rows_find(&w->rows, w->targets[i].name);

                if (w->targets[i].outcome == OUTCOME_OPEN)
                        (void)cli_fail(w->cli, "%s is still %s after %s; the order stands",
                                       w->targets[i].name, row ? row->status : "gone",
                                       time_span(w->timeout, span, sizeof(span)));
        }
        return CLI_FAILED;
}

static int follow(struct order_wait *w)
{
        usec_t deadline = usec_add(w->began, w->timeout);
        size_t len, which = 0;
        char *line;
        int r = CLI_DONE;

        for (;;) {
                while (r == CLI_DONE && client_stream_line(w->stream, &line, &len))
                        r = take_message(w, line, len);
                if (r != CLI_DONE || judge(w))
                        return r;
                r = client_stream_wait(&w->stream, 1, -1, deadline, &which);
                if (r == -ETIMEDOUT)
                        return say_timeout(w);
                if (r == 0)
                        r = client_stream_pull(w->stream);
                if (r != 0)
                        r = cli_reopen_feed(w->cli, r, &w->stream);
        }
}

static int result_of(struct order_wait *w)
{
        int r = CLI_DONE;

        for (size_t i = 0; i < w->n_targets; i++) {
                const struct row *row = rows_find(&w->rows, w->targets[i].name);

                if (w->targets[i].outcome != OUTCOME_FAILED)
                        continue;
                if (row && streq(row->status, "ready"))
                        r = cli_fail(w->cli, "%s was not restarted, since another replica did not come back",
                                     row->name);
                else if (row)
                        r = cli_fail(w->cli, "%s ended in error: %s (llama-supervisor why %s tells more)",
                                     row->name, row->last_error ? row->last_error : "no reason is known",
                                     row->name);
                else
                        r = cli_fail(w->cli, "%s is gone from the configuration", w->targets[i].name);
        }
        return r;
}

/* --- the verbs -------------------------------------------------------------------------------------------------------- */

static int print_answers(struct order_wait *w)
{
        bool several = w->cli->options.n_plain > 1;
        _cleanup_buffer_ struct buffer out = {0};

        if (!w->cli->json || !w->answers.len)
                return CLI_DONE;
        buffer_init(&out, 0);
        (void)buffer_printf(&out, "%s%s%s\n", several ? "[" : "", w->answers.data, several ? "]" : "");
        return cli_print(w->cli, &out);
}

static int carry_out(struct order_wait *w, bool wait)
{
        int given, r;

        if (wait) {
                /* The feed first: nothing that follows from the order can be missed then. */
                r = cli_open_stream(w->cli, "/api/v1/events", &w->stream);
                if (r == CLI_DONE)
                        r = ask(w);
                if (r == CLI_DONE)
                        r = note_targets(w);
                if (r != CLI_DONE)
                        return r;
        }
        given = w->created ? CLI_DONE : give_all(w);
        r = print_answers(w);
        if (given != CLI_DONE || !wait)
                return MAX(given, r);
        if (!w->n_targets && (w->order == ORDER_LOAD || w->order == ORDER_UNLOAD))
                return cli_fail(w->cli,
                                "accepted, but --wait needs the name of the entry, not an alias of it");
        r = ask(w);
        if (r == CLI_DONE)
                r = follow(w);
        return r == CLI_DONE ? result_of(w) : r;
}

/* --- start --model ------------------------------------------------------------------------------------------------------ */

/* "0,1" is a list of indices, "GPU-…,GPU-…" one of UUIDs, another word stands for itself. */
static void put_gpu(struct json_writer *w, const char *text)
{
        bool is_list = starts_with(text, "GPU-") || strspn(text, "0123456789,") == strlen(text);

        json_key(w, "gpu");
        if (!is_list) {
                json_put_string(w, text);
                return;
        }
        json_open_array(w);
        while (*text) {
                size_t n = strcspn(text, ",");
                bool is_number = n > 0 && n < 10 && strspn(text, "0123456789") == n;

                if (is_number)
                        json_put_uint(w, strtoul(text, NULL, 10));
                else
                        json_put_string_n(w, text, n);
                text += n + (text[n] == ',');
        }
        json_close_array(w);
}

static void put_start(struct cli *cli, struct buffer *body)
{
        const struct options *o = &cli->options;
        const char *name = options_get(o, "name"), *context = options_get(o, "context"),
                   *gpu = options_get(o, "gpu");
        struct json_writer w;

        json_begin(&w, body);
        json_open_object(&w);
        json_string(&w, "model", options_get(o, "model"));
        if (name)
                json_string(&w, "name", name);
        if (gpu)
                put_gpu(&w, gpu);
        if (context || o->n_plain) {
                json_key(&w, "args");
                json_open_array(&w);
                if (context) {
                        json_put_string(&w, "--ctx-size");
                        json_put_string(&w, context);
                }
                for (size_t i = 0; i < o->n_plain; i++)
                        json_put_string(&w, o->plain[i]);
                json_close_array(&w);
        }
        json_close_object(&w);
}

/* Makes the instance; from then on it is waited for like one that was started by its name. */
static int create(struct order_wait *w, char name[64])
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *v = NULL;
        _cleanup_buffer_ struct buffer body = {0}, line = {0};
        const char *made;
        int r;

        buffer_init(&body, 0);
        put_start(w->cli, &body);
        if (body.failed)
                return cli_fail(w->cli, "not enough memory");
        r = cli_send_any(w->cli, "POST", "/api/v1/instances", body.data, &answer);
        if (r != CLI_DONE)
                return r;
        if (answer.status < 200 || answer.status > 299)
                return cli_refused(w->cli, &answer);
        if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &v, NULL) < 0 ||
            !(made = json_get_string(v, "name")))
                return cli_broken(w->cli, -EPROTO);
        (void)snprintf(name, 64, "%s", made);
        if (w->cli->json)
                return cli_print_answer(w->cli, &answer);
        buffer_init(&line, 0);
        (void)buffer_puts(&line, "start: ");
        screen_put_text(&line, name);
        (void)buffer_puts(&line, "\n");
        return cli_print(w->cli, &line);
}

static int check_start_options(struct cli *cli, bool from_library)
{
        static const char *const only[] = {"name", "context", "gpu"};
        const struct options *o = &cli->options;
        const char *context = options_get(o, "context");

        for (size_t i = 0; !from_library && i < ARRAY_SIZE(only); i++)
                if (options_get(o, only[i]))
                        return cli_usage(cli, "--%s only makes sense with --model", only[i]);
        if (!from_library)
                return o->n_plain ? CLI_DONE
                                  : cli_usage(cli, "something is missing: llama-supervisor start NAME..., or "
                                                   "--model FILE");
        if (o->n_plain && o->plain[0][0] != '-')
                return cli_usage(cli,
                                 "with --model no instance is named (\"%s\"): --name gives it a name, and "
                                 "arguments of "
                                 "llama-server stand behind --",
                                 o->plain[0]);
        if (context && (!*context || strspn(context, "0123456789") != strlen(context)))
                return cli_usage(cli, "--context %s: a number of tokens", context);
        return CLI_DONE;
}

static int order_main(struct cli *cli, enum order order)
{
        const char *timeout = options_get(&cli->options, "timeout");
        bool wait = options_get(&cli->options, "wait") != NULL;
        struct order_wait w = {
                .cli = cli, .order = order, .began = time_monotonic(), .timeout = WAIT_DEFAULT};
        char made[64];
        int r;

        if (timeout && !wait)
                return cli_usage(cli, "--timeout only makes sense with --wait");
        if (timeout && (time_parse_span(timeout, &w.timeout) < 0 || w.timeout == 0))
                return cli_usage(cli, "--timeout %s: a time as 90s or 5m", timeout);
        buffer_init(&w.answers, 0);
        if (order == ORDER_START && options_get(&cli->options, "model")) {
                r = create(&w, made);
                w.created = true;
                cli->options.plain[0] = made;
                cli->options.n_plain = 1;
                if (r != CLI_DONE || !wait)
                        return r;
        }
        r = carry_out(&w, wait);
        order_wait_finish(&w);
        return r;
}

int start_main(struct cli *cli)
{
        int r = check_start_options(cli, options_get(&cli->options, "model") != NULL);

        return r == CLI_DONE ? order_main(cli, ORDER_START) : r;
}

int remove_main(struct cli *cli)
{
        int worst = CLI_DONE;

        for (size_t i = 0; i < cli->options.n_plain; i++) {
                _cleanup_free_ char *target = cli_target("/api/v1/instances", cli->options.plain[i], "");
                _cleanup_answer_ struct client_answer answer = {0};
                _cleanup_value_ struct json_value *v = NULL;
                _cleanup_buffer_ struct buffer line = {0};
                int r = cli_request(cli, "DELETE", target, &answer);

                if (r == CLI_DONE && cli->json)
                        r = cli_print_answer(cli, &answer);
                else if (r == CLI_DONE) {
                        buffer_init(&line, 0);
                        (void)json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &v, NULL);
                        screen_put_text(&line, json_get_string(v, "message") ? json_get_string(v, "message")
                                                                             : "removed");
                        (void)buffer_putc(&line, '\n');
                        r = cli_print(cli, &line);
                }
                if (r == CLI_DOWN)
                        return r;
                worst = MAX(worst, r);
        }
        return worst;
}

int stop_main(struct cli *cli)
{
        return order_main(cli, ORDER_STOP);
}

int drain_main(struct cli *cli)
{
        const char *limit = options_get(&cli->options, "limit");
        bool undo = options_get(&cli->options, "undo") != NULL;
        usec_t span;

        if (limit && undo)
                return cli_usage(cli, "--limit and --undo do not go together");
        if (limit && (time_parse_span(limit, &span) < 0 || span == 0 || span > 24 * USEC_PER_HOUR))
                return cli_usage(cli, "--limit %s: a time from 1ms to 24h, as 90s or 10m", limit);
        return order_main(cli, undo ? ORDER_START : ORDER_DRAIN);
}

int restart_main(struct cli *cli)
{
        return order_main(cli, ORDER_RESTART);
}

int load_main(struct cli *cli)
{
        return order_main(cli, ORDER_LOAD);
}

int unload_main(struct cli *cli)
{
        return order_main(cli, ORDER_UNLOAD);
}

/* --- reload ----------------------------------------------------------------------------------------------------------- */

static void put_list(struct buffer *out, const char *title, const struct json_value *list)
{
        if (!json_count(list))
                return;
        (void)buffer_printf(out, "%-8s ", title);
        for (size_t i = 0; i < json_count(list); i++) {
                (void)buffer_puts(out, i ? ", " : "");
                screen_put_text(out, json_as_string(json_at(list, i)));
        }
        (void)buffer_putc(out, '\n');
}

static void put_restarts(struct buffer *out, const struct json_value *list)
{
        for (size_t i = 0; i < json_count(list); i++) {
                const struct json_value *because = json_get(json_at(list, i), "because");

                (void)buffer_puts(out, "restart  ");
                screen_put_text(out, json_get_string(json_at(list, i), "name"));
                for (size_t k = 0; k < json_count(because); k++) {
                        (void)buffer_puts(out, k ? ", " : " because of ");
                        screen_put_text(out, json_as_string(json_at(because, k)));
                }
                (void)buffer_putc(out, '\n');
        }
}

static void put_plan(struct buffer *out, const struct json_value *plan)
{
        const struct json_value *needs = json_get(plan, "needsDaemonRestart");

        put_list(out, "keep", json_get(plan, "keep"));
        put_list(out, "update", json_get(plan, "update"));
        put_restarts(out, json_get(plan, "restart"));
        put_list(out, "start", json_get(plan, "start"));
        put_list(out, "stop", json_get(plan, "stop"));
        if (json_count(needs)) {
                put_list(out, "later", needs);
                (void)buffer_puts(out,
                                  "         (only a restart of llama-supervisor itself takes these over)\n");
        }
        (void)buffer_printf(out, "%s\n",
                            json_get_bool(plan, "applied", false)
                                    ? "the configuration was read again"
                                    : "this was a dry run: nothing was changed");
}

static int say_errors(struct cli *cli, const struct client_answer *answer, const struct json_value *plan)
{
        const struct json_value *errors = json_get(plan, "errors");

        if (!json_count(errors))
                return cli_refused(cli, answer);
        if (cli->json)
                (void)cli_print_answer(cli, answer);
        (void)fflush(stdout);
        for (size_t i = 0; i < json_count(errors); i++) {
                _cleanup_buffer_ struct buffer line = {0};

                buffer_init(&line, 0);
                screen_put_text(&line, json_as_string(json_at(errors, i)));
                (void)fprintf(stderr, "%s\n", line.data ? line.data : "");
        }
        return cli_fail(cli, "nothing was changed");
}

int reload_main(struct cli *cli)
{
        bool dry_run = options_get(&cli->options, "dry-run") != NULL;
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *plan = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        int r = cli_request_any(cli, "POST", dry_run ? "/api/v1/reload?dry_run=1" : "/api/v1/reload",
                                &answer);

        if (r != CLI_DONE)
                return r;
        if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &plan, NULL) < 0)
                return cli_broken(cli, -EPROTO);
        if (answer.status < 200 || answer.status > 299)
                return say_errors(cli, &answer, plan);
        if (cli->json)
                return cli_print_answer(cli, &answer);
        buffer_init(&out, 0);
        put_plan(&out, plan);
        return cli_print(cli, &out);
}
