/* why.c: the story of an instance in plain words. */
#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "cli/rows.h"
#include "cli/verb.h"

struct story {
        struct cli *cli;
        const struct screen *screen;
        struct buffer *out;
        usec_t now;
};

static void put_part(const struct story *s, const char *title, const char *text)
{
        if (!text || !*text)
                return;
        (void)buffer_printf(s->out, "%s%-14s%s ", screen_begin(s->screen, COLOUR_DIM), title,
                            screen_end(s->screen, COLOUR_DIM));
        screen_put_text(s->out, text);
        (void)buffer_putc(s->out, '\n');
}

static char *ago(const struct story *s, usec_t moment, char *buf, size_t size)
{
        char text[TIME_SPAN_MAX];
        usec_t span = usec_sub(s->now, moment) / USEC_PER_SEC * USEC_PER_SEC;

        (void)snprintf(buf, size, "%s%s", span ? time_span(span, text, sizeof(text)) : "just now",
                       span ? " ago" : "");
        return buf;
}

static void put_state(const struct story *s, const struct json_value *why)
{
        const char *status = json_get_string(why, "status"), *next = json_get_string(why, "nextRetryAt");
        const struct look *look = look_of(status);
        struct row row = {.retries = (uint64_t)MAX(json_get_int(why, "retries", 0), (int64_t)0),
                          .max_retries = json_get_int(why, "maxRetries", -1),
                          .next_try = rows_moment(next)};
        char tries[96];

        if (s->screen->terminal)
                (void)buffer_printf(s->out, "%s%s%s ", screen_begin(s->screen, look->colour), look->symbol,
                                    screen_end(s->screen, look->colour));
        (void)buffer_puts(s->out, screen_begin(s->screen, COLOUR_BOLD));
        screen_put_text(s->out, json_get_string(why, "instance"));
        (void)buffer_printf(s->out, "%s is %s", screen_end(s->screen, COLOUR_BOLD),
                            screen_begin(s->screen, look->colour));
        screen_put_text(s->out, words_of(status));
        (void)buffer_puts(s->out, screen_end(s->screen, look->colour));
        if (row.next_try)
                (void)buffer_printf(s->out, " (%s)", row_tries(&row, s->now, tries, sizeof(tries)));
        else if (status && streq(status, "error"))
                (void)buffer_puts(s->out, ": it is not tried again by itself");
        (void)buffer_putc(s->out, '\n');
}

static void put_log(const struct story *s, const struct json_value *why, const struct json_value *log)
{
        const char *path = json_get_string(why, "logPath");

        if (!json_count(log))
                return;
        (void)buffer_printf(s->out, "\n%sthe end of its log", screen_begin(s->screen, COLOUR_DIM));
        if (path) {
                (void)buffer_puts(s->out, ", ");
                screen_put_text(s->out, path);
        }
        (void)buffer_printf(s->out, ":%s\n", screen_end(s->screen, COLOUR_DIM));
        for (size_t i = 0; i < json_count(log); i++) {
                (void)buffer_puts(s->out, "  ");
                screen_put_text(s->out, json_as_string(json_at(log, i)));
                (void)buffer_putc(s->out, '\n');
        }
}

static void put_counts(const struct story *s, const struct json_value *why)
{
        int64_t deaths = json_get_int(why, "deaths", 0), restarts = json_get_int(why, "restarts", 0);
        char text[96];

        if (!deaths && !restarts)
                return;
        (void)snprintf(text, sizeof(text), "died %" PRId64 " time%s, started again %" PRId64 " time%s",
                       deaths, deaths == 1 ? "" : "s", restarts, restarts == 1 ? "" : "s");
        put_part(s, "so far", text);
}

static void put_story(const struct story *s, const struct json_value *why)
{
        const struct json_value *evidence = json_get(why, "evidence");
        const char *error = json_get_string(why, "lastError"), *hint = json_get_string(why, "hint");
        usec_t death = rows_moment(json_get_string(why, "lastDeathAt"));
        char text[64];

        put_state(s, why);
        if (!error && !death) {
                (void)buffer_puts(s->out, "nothing went wrong that is known\n");
        } else {
                put_part(s, error ? "what happened" : "it once died",
                         error ? error : json_get_string(why, "words"));
                if (death)
                        put_part(s, "when", ago(s, death, text, sizeof(text)));
                put_part(s, "what to do", hint);
                put_part(s, "how it ended", json_get_string(evidence, "exit"));
                put_part(s, "evidence", json_get_string(evidence, "detail"));
                put_part(s, "it wrote", json_get_string(evidence, "line"));
        }
        put_counts(s, why);
        put_part(s, "limits", json_get_string(why, "limitsProblem"));
        if (json_is_object(json_get(why, "command"))) {
                _cleanup_free_ char *line =
                        text_format("llama-supervisor why %s --command", json_get_string(why, "instance"));

                put_part(s, "try by hand", line);
        }
        put_log(s, why, json_get(evidence, "log"));
}

/* The line as it is: in a pipe byte for byte; a terminal gets no control bytes but newlines. */
static int print_command(struct cli *cli, const struct json_value *why)
{
        const char *shell = json_get_string(json_get(why, "command"), "shell");
        _cleanup_free_ char *copy = shell ? text_dup(shell) : NULL;
        char *rest;

        if (!shell)
                return cli_fail(cli, "it has no command line (yet): it was never started by this daemon");
        if (!copy)
                return cli_fail(cli, "not enough memory");
        if (cli->json) {
                _cleanup_free_ char *json = json_print(json_get(why, "command"), false);

                (void)printf("%s\n", json ? json : "null");
                return cli_flush(cli);
        }
        rest = copy;
        while (rest) {
                char *line = cli->screen.terminal ? strsep(&rest, "\n") : steal_ptr(rest);

                if (cli->screen.terminal)
                        (void)text_harmless(line);
                (void)printf("%s\n", line);
        }
        return cli_flush(cli);
}

int why_main(struct cli *cli)
{
        _cleanup_free_ char *target = cli_target("/api/v1/instances", cli->options.plain[0], "/why");
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *why = NULL;
        _cleanup_buffer_ struct buffer out = {0};
        const struct story story = {.cli = cli, .screen = &cli->screen, .out = &out, .now = time_realtime()};
        int r;

        buffer_init(&out, 0);
        r = cli_get(cli, target, &answer, &why);
        if (r != CLI_DONE)
                return r;
        if (options_get(&cli->options, "command"))
                return print_command(cli, why);
        if (cli->json)
                return cli_print_answer(cli, &answer);
        put_story(&story, why);
        return cli_print(cli, &out);
}
