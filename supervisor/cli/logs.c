/* logs.c: what the llama-servers wrote, of one instance or of several side by side, and what the daemon itself did. */
#include <errno.h>
#include <stdio.h>

#include "base/slice.h"
#include "base/text.h"
#include "cli/rows.h"
#include "cli/tail.h"
#include "cli/verb.h"

/* REOPEN_LINES: how much may be written while a stream is opened anew. */
enum { LINES_DEFAULT = 100, LINES_MAX = 10000, INSTANCES_MAX = 256, REOPEN_LINES = 2000 };

/* The last line of a stream before the daemon is upgraded. Of no concern to who goes on by himself. */
static const char upgrade_note[] = "--- the supervisor is upgraded: ask again to go on";

struct logs {
        struct cli *cli;
        char *names[INSTANCES_MAX];  /* NULL: the daemon's own */
        char *labels[INSTANCES_MAX]; /* the names, harmless */
        struct client_stream *streams[INSTANCES_MAX];
        size_t n, prefix; /* columns of the longest name, 0: one instance, no prefix */
        struct follower { /* with --follow */
                struct tail tail;
                size_t past;   /* so many lines come first that are of the past … */
                size_t silent; /* … and of them so many are not told */
                bool again;    /* opened anew: what of the past is told already is to be found out */
                char **lines;  /* all of the past, until it is whole */
                size_t n_lines;
        } * followers;
};

static void logs_finish(struct logs *l)
{
        for (size_t i = 0; i < l->n; i++) {
                client_stream_free(l->streams[i]);
                free(l->names[i]);
                free(l->labels[i]);
                if (l->followers) {
                        tail_finish(&l->followers[i].tail);
                        text_list_free(l->followers[i].lines);
                }
        }
        free(l->followers);
}

static int add_name(struct logs *l, const char *name)
{
        for (size_t i = 0; i < l->n; i++)
                if (streq_ptr(l->names[i], name))
                        return CLI_DONE;
        if (l->n == INSTANCES_MAX)
                return cli_fail(l->cli, "that are too many logs at once: %d at most", INSTANCES_MAX);
        l->names[l->n] = name ? text_dup(name) : NULL;
        l->labels[l->n] = text_dup(name ? name : "(supervisor)"); /* no instance has such a name */
        l->n++;
        if ((name && !l->names[l->n - 1]) || !l->labels[l->n - 1])
                return cli_fail(l->cli, "not enough memory");
        (void)text_harmless(l->labels[l->n - 1]);
        return CLI_DONE;
}

static int choose(struct logs *l, const struct rows *rows)
{
        const struct options *o = &l->cli->options;
        int r = options_get(o, "supervisor") ? add_name(l, NULL) : CLI_DONE;

        for (size_t k = 0; k < o->n_plain && r == CLI_DONE; k++) {
                size_t before = l->n;
                bool found = false;

                for (size_t i = 0; i < rows->n && r == CLI_DONE; i++)
                        if (rows_match(rows, &rows->list[i], o->plain[k])) {
                                r = add_name(l, rows->list[i].name);
                                found = true;
                        }
                if (r == CLI_DONE && !found && before == l->n)
                        r = add_name(l, o->plain[k]); /* the daemon says what is wrong with it */
        }
        for (size_t i = 0; l->n > 1 && i < l->n; i++)
                l->prefix = MAX(l->prefix, strlen(l->labels[i]));
        return r;
}

/* Names of entries are made into their instances. */
static int find_names(struct logs *l)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        struct rows rows = {0};
        int r = cli_get(l->cli, "/api/v1/instances", &answer, &document);

        if (r != CLI_DONE)
                return r;
        r = rows_fill(&rows, document);
        r = r < 0 ? cli_broken(l->cli, r == -EBADMSG ? -EPROTO : r) : choose(l, &rows);
        rows_finish(&rows);
        return r;
}

static void print_line(const struct logs *l, size_t i, char *line, size_t len)
{
        static const enum colour colours[] = {COLOUR_TEAL, COLOUR_GREEN, COLOUR_AMBER, COLOUR_BLUE};
        const struct screen *s = &l->cli->screen;
        enum colour c = colours[i % ARRAY_SIZE(colours)];

        if (len && line[len - 1] == '\r')
                len--;
        len = text_harmless_n(line, len);
        if (l->cli->json) {
                _cleanup_buffer_ struct buffer b = {0};
                struct json_writer w;

                buffer_init(&b, 0);
                json_begin(&w, &b);
                json_open_object(&w);
                json_string(&w, "instance", l->names[i]);
                json_key(&w, "line");
                json_put_string_n(&w, line, len);
                json_close_object(&w);
                (void)printf("%s\n", b.data ? b.data : "");
                return;
        }
        if (l->prefix)
                (void)printf("%s%-*s%s | ", screen_begin(s, c), (int)l->prefix, l->labels[i],
                             screen_end(s, c));
        (void)fwrite(line, 1, len, stdout);
        (void)putchar('\n');
}

static char *target_of(const struct logs *l, size_t i, const char *query)
{
        return l->names[i] ? cli_target("/api/v1/instances", l->names[i], query)
                           : text_format("/api/v1%s", query);
}

/* One after the other, so that the lines of each stay together. */
static int read_ends(struct logs *l, const char *query)
{
        int r = CLI_DONE;

        for (size_t i = 0; i < l->n && r == CLI_DONE; i++) {
                _cleanup_answer_ struct client_answer answer = {0};
                _cleanup_free_ char *target = target_of(l, i, query);

                r = cli_request(l->cli, "GET", target, &answer);
                for (size_t at = 0; r == CLI_DONE && at < answer.body.len;) {
                        char *line = answer.body.data + at, *end = memchr(line, '\n', answer.body.len - at);
                        size_t len = end ? (size_t)(end - line) : answer.body.len - at;

                        print_line(l, i, line, len);
                        at += len + 1;
                }
        }
        return r == CLI_DONE ? cli_flush(l->cli) : r;
}

/* --- following ---------------------------------------------------------------------------------------------------------- */

static void tell(const struct logs *l, size_t i, char *line, size_t len)
{
        tail_add(&l->followers[i].tail, line, len);
        print_line(l, i, line, len);
}

/* The past is whole: what of it is new? */
static void tell_rest(const struct logs *l, size_t i)
{
        struct follower *f = &l->followers[i];
        size_t known;

        /* What the daemon itself said begins anew with it. */
        if (!tail_find(&f->tail, f->lines, f->n_lines, &known) && l->names[i])
                (void)fprintf(stderr, "llama-supervisor logs: %s: lines before this one may be missing\n",
                              l->labels[i]);
        for (size_t k = known; k < f->n_lines; k++)
                tell(l, i, f->lines[k], strlen(f->lines[k]));
        f->lines = text_list_free(f->lines);
        f->n_lines = 0;
        f->again = false;
}

static int take_line(const struct logs *l, size_t i, char *line, size_t len)
{
        struct follower *f = &l->followers[i];

        if (f->past > 0 && f->again) {
                f->past--;
                if (text_list_add(&f->lines, line) < 0)
                        return cli_fail(l->cli, "not enough memory");
                f->n_lines++;
                if (f->past == 0)
                        tell_rest(l, i);
        } else if (f->past > 0 && f->silent > 0) {
                f->past--;
                f->silent--;
                tail_add(&f->tail, line, len);
        } else if (!streq(line, upgrade_note)) {
                f->past -= f->past > 0;
                tell(l, i, line, len);
        }
        return CLI_DONE;
}

static int take_lines(const struct logs *l, size_t i)
{
        int r = CLI_DONE;
        size_t len;
        char *line;

        while (r == CLI_DONE && client_stream_line(l->streams[i], &line, &len))
                r = take_line(l, i, line, len);
        return r;
}

/* It ended in order: an upgrade, after which it goes on, or there is no such instance any more. */
static int reopen(struct logs *l, size_t i)
{
        _cleanup_free_ char *query = text_format("/logs?lines=%d&follow=1", REOPEN_LINES), *target = NULL;
        struct follower *f = &l->followers[i];
        int r;

        target = query ? target_of(l, i, query) : NULL;
        r = cli_reopen_stream(l->cli, target, &l->streams[i]);
        if (r != CLI_DONE || !l->streams[i])
                return r;
        f->past = client_stream_past(l->streams[i]);
        f->again = true;
        if (f->past == 0)
                tell_rest(l, i);
        return take_lines(l, i);
}

static int follow_turn(struct logs *l)
{
        size_t which = 0;
        int r = cli_flush(l->cli), ended;

        if (r != CLI_DONE)
                return r;
        r = client_stream_wait(l->streams, l->n, -1, USEC_INFINITY, &which);
        if (r < 0)
                return cli_broken(l->cli, r);
        ended = client_stream_pull(l->streams[which]);
        r = take_lines(l, which);
        if (r != CLI_DONE || ended == 0)
                return r;
        return ended < 0 ? cli_broken(l->cli, ended) : reopen(l, which);
}

static bool is_open(const struct logs *l)
{
        for (size_t i = 0; i < l->n; i++)
                if (l->streams[i])
                        return true;
        return false;
}

static int follow(struct logs *l, size_t lines)
{
        /* Some more than is told, to know the place again. */
        _cleanup_free_ char *query = text_format("/logs?lines=%zu&follow=1", MAX(lines, (size_t)TAIL_KEPT));
        int r = CLI_DONE;

        l->followers = calloc(MAX(l->n, (size_t)1), sizeof(*l->followers));
        if (!l->followers || !query)
                return cli_fail(l->cli, "not enough memory");
        for (size_t i = 0; i < l->n && r == CLI_DONE; i++) {
                _cleanup_free_ char *target = target_of(l, i, query);
                struct follower *f = &l->followers[i];

                r = cli_open_stream(l->cli, target, &l->streams[i]);
                if (r != CLI_DONE)
                        return r;
                f->past = client_stream_past(l->streams[i]);
                f->silent = f->past > lines ? f->past - lines : 0;
        }
        for (size_t i = 0; i < l->n && r == CLI_DONE; i++)
                r = take_lines(l, i);
        while (r == CLI_DONE && is_open(l))
                r = follow_turn(l);
        return r == CLI_DONE ? cli_flush(l->cli) : r;
}

int logs_main(struct cli *cli)
{
        const char *lines = options_get(&cli->options, "lines");
        bool follows = options_get(&cli->options, "follow") != NULL;
        unsigned long n = LINES_DEFAULT;
        struct logs l = {.cli = cli};
        char *end, query[64];
        int r;

        if (!cli->options.n_plain && !options_get(&cli->options, "supervisor"))
                return cli_usage(cli, "something is missing: llama-supervisor logs NAME..., or --supervisor");
        if (lines) {
                n = strtoul(lines, &end, 10);
                if (lines[0] < '0' || lines[0] > '9' || *end || n > LINES_MAX)
                        return cli_usage(cli, "--lines %s: a number from 0 to %d", lines, LINES_MAX);
        }
        (void)snprintf(query, sizeof(query), "/logs?lines=%lu", n);
        r = find_names(&l);
        if (r == CLI_DONE)
                r = follows ? follow(&l, n) : read_ends(&l, query);
        logs_finish(&l);
        return r;
}
