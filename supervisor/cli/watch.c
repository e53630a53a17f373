/* watch.c: status --watch: the fleet as the feed tells it. A person gets a screen that is drawn again at every message (and once a
 * second, so that times move); a pipe gets a line for each change; --json the feed's messages. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

#include "base/slice.h"
#include "base/text.h"
#include "cli/rows.h"
#include "cli/verb.h"

/* The other screen and no cursor; and back. */
#define SCREEN_TAKE  "\033[?1049h\033[?25l\033[H\033[2J"
#define SCREEN_LEAVE "\033[?25h\033[?1049l"

struct watch {
        struct cli *cli;
        struct client_stream *stream;
        struct rows rows;
        char *sentence, *reload_error, *limits_problem;
        int signals; /* signalfd, -1: not on a terminal */
        bool stale;  /* the list (or the sentence that a person sees) is another one: it is asked for again */
        bool ended;
};

/* --- what is ---------------------------------------------------------------------------------------------------------- */

static void print_change(const struct row *row)
{
        _cleanup_buffer_ struct buffer b = {0};
        char iso[TIME_ISO_MAX], tries[96];

        buffer_init(&b, 0);
        (void)buffer_printf(&b, "%s  ", time_iso(time_realtime(), iso, sizeof(iso)));
        screen_put_text(&b, row->name);
        (void)buffer_puts(&b, "  ");
        screen_put_text(&b, row->status);
        if (row->last_error) {
                (void)buffer_puts(&b, "  ");
                screen_put_text(&b, row->last_error);
        }
        if (row->next_try)
                (void)buffer_printf(&b, "  (%s)", row_tries(row, time_realtime(), tries, sizeof(tries)));
        (void)printf("%s\n", b.data);
}

static bool is_wanted(const struct watch *w, const char *name)
{
        const struct options *o = &w->cli->options;
        const struct row *row = rows_find(&w->rows, name);

        for (size_t i = 0; i < o->n_plain; i++)
                if (row ? rows_match(&w->rows, row, o->plain[i]) : streq(name, o->plain[i]))
                        return true;
        return o->n_plain == 0;
}

/* What a pipe was not told yet: the rows as they were told, against those that were asked for since. */
static void print_differences(const struct watch *w, const struct rows *told)
{
        static char gone_word[] = "gone";

        for (size_t i = 0; i < w->rows.n; i++) {
                const struct row *row = &w->rows.list[i], *old = rows_find(told, row->name);

                if (is_wanted(w, row->name) && (!old || !streq(old->status, row->status) ||
                                                !streq_ptr(old->last_error, row->last_error)))
                        print_change(row);
        }
        for (size_t i = 0; i < told->n; i++) {
                struct row gone = {.name = told->list[i].name, .status = gone_word};

                if (!rows_find(&w->rows, gone.name) && w->cli->options.n_plain == 0)
                        print_change(&gone);
        }
}

static int ask_again(struct watch *w)
{
        _cleanup_answer_ struct client_answer status_answer = {0}, answer = {0};
        _cleanup_value_ struct json_value *status = NULL, *document = NULL;
        /* The sentence last: what changes in between comes by the feed, and is news to the rows, so that all is asked again. */
        int r = cli_get(w->cli, "/api/v1/instances", &answer, &document);

        if (r == CLI_DONE)
                r = cli_get(w->cli, "/api/v1/status", &status_answer, &status);
        if (r != CLI_DONE)
                return r;
        r = rows_fill(&w->rows, document);
        if (r == 0)
                r = text_set(&w->sentence, json_get_string(status, "sentence"));
        if (r == 0)
                r = text_set(&w->reload_error, json_get_string(status, "reloadError"));
        if (r == 0)
                r = text_set(&w->limits_problem, json_get_string(status, "limitsProblem"));
        w->stale = false;
        return r < 0 ? cli_broken(w->cli, r == -EBADMSG ? -EPROTO : r) : CLI_DONE;
}

static int check_names(const struct watch *w)
{
        const struct options *o = &w->cli->options;

        for (size_t k = 0; k < o->n_plain; k++) {
                bool found = false;

                for (size_t i = 0; i < w->rows.n && !found; i++)
                        found = rows_match(&w->rows, &w->rows.list[i], o->plain[k]);
                if (!found)
                        return cli_fail(w->cli, "there is no instance \"%s\"", o->plain[k]);
        }
        return CLI_DONE;
}

/* --- lines for a pipe --------------------------------------------------------------------------------------------------------- */

static void print_message(const char *line, size_t len)
{
        struct slice text = slice_trim(slice_sub((struct slice){line, len}, strlen("data:"), len));

        (void)fwrite(text.p, 1, text.n, stdout);
        (void)putchar('\n');
}

static void take_message(struct watch *w, char *line, size_t len)
{
        _cleanup_value_ struct json_value *message = cli_feed_message(line, len);
        const char *name = json_get_string(message, "instance");
        uint64_t seq = (uint64_t)json_get_int(message, "seq", 0);
        bool changed = false;
        struct row *row;

        if (!message || !name || !is_wanted(w, name))
                return;
        if (w->cli->json) {
                print_message(line, len);
                return;
        }
        row = rows_find(&w->rows, name);
        if (!row || !streq_ptr(json_get_string(message, "type"), "llama_status")) {
                w->stale = true;
                return;
        }
        /* The stream begins with the whole set, which may be older than what was asked for meanwhile. */
        if (seq <= row->seq || row_update(row, seq, json_get(message, "data"), &changed) < 0 || !changed)
                return;
        if (w->cli->screen.terminal)
                w->stale = true; /* the sentence is another one */
        else
                print_change(row);
}

static int take_messages(struct watch *w)
{
        size_t len;
        char *line;

        while (client_stream_line(w->stream, &line, &len))
                take_message(w, line, len);
        if (!w->cli->screen.terminal || w->cli->json)
                return cli_flush(w->cli);
        return CLI_DONE;
}

/* --- the screen ------------------------------------------------------------------------------------------------------- */

static void draw(const struct watch *w)
{
        const struct screen *s = &w->cli->screen;
        _cleanup_free_ bool *which = rows_flags(&w->rows);
        _cleanup_buffer_ struct buffer text = {0}, out = {0};
        const char *last;
        size_t top;

        buffer_init(&text, 0);
        buffer_init(&out, 0);
        if (!which)
                return;
        for (size_t i = 0; i < w->rows.n; i++)
                which[i] = is_wanted(w, w->rows.list[i].name);
        top = 1 + cli_put_sentence(w->cli, &text, w->sentence, w->reload_error, w->limits_problem);
        (void)buffer_putc(&text, '\n');
        if (w->rows.n)
                (void)rows_print(&w->rows, which, s, time_realtime(),
                                 s->height > top + 3 ? s->height - top : 3, &text);
        if (text.failed || !text.data)
                return;
        /* Over what stands there, line by line: clearing it first would flicker. The last line gets no newline, which would scroll. */
        last = text.data + text.len;
        (void)buffer_puts(&out, "\033[H");
        for (const char *p = text.data; p < last;) {
                size_t n = strcspn(p, "\n");

                (void)buffer_append(&out, p, n);
                (void)buffer_puts(&out, "\033[K");
                p += n + 1;
                if (p < last)
                        (void)buffer_puts(&out, "\r\n");
        }
        (void)buffer_puts(&out, "\033[J");
        if (!out.failed)
                (void)fwrite(out.data, 1, out.len, stdout);
        (void)fflush(stdout);
}

static int take_signals(struct watch *w)
{
        sigset_t set;

        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGINT);
        (void)sigaddset(&set, SIGTERM);
        (void)sigaddset(&set, SIGHUP);
        (void)sigaddset(&set, SIGQUIT);
        (void)sigaddset(&set, SIGWINCH);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        w->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        return w->signals < 0 ? -errno : 0;
}

static void on_signal(struct watch *w)
{
        struct signalfd_siginfo info;

        while (read(w->signals, &info, sizeof(info)) == sizeof(info)) {
                if (info.ssi_signo == SIGWINCH)
                        screen_measure(&w->cli->screen, STDOUT_FILENO);
                else
                        w->ended = true;
        }
}

/* --- the loop --------------------------------------------------------------------------------------------------------- */

/* Asks again; a pipe is told what that brought. */
static int refresh(struct watch *w)
{
        struct rows told = w->rows;
        int r;

        w->rows = (struct rows){0};
        r = ask_again(w);
        if (r == CLI_DONE && !w->cli->screen.terminal) {
                print_differences(w, &told);
                r = cli_flush(w->cli);
        }
        rows_finish(&told);
        return r;
}

static int turn(struct watch *w)
{
        bool person = w->signals >= 0;
        usec_t deadline = person ? time_monotonic() + USEC_PER_SEC : USEC_INFINITY;
        size_t which = 0;
        int r = take_messages(w);

        if (r != CLI_DONE)
                return r;
        if (w->stale && !w->cli->json) {
                r = refresh(w);
                if (r != CLI_DONE)
                        return r;
        }
        if (person)
                draw(w);
        r = client_stream_wait(&w->stream, 1, w->signals, deadline, &which);
        if (r == -ETIMEDOUT)
                return CLI_DONE;
        if (r < 0)
                return cli_broken(w->cli, r);
        if (which == 1) {
                on_signal(w);
                return CLI_DONE;
        }
        r = client_stream_pull(w->stream);
        if (r == 0)
                return CLI_DONE;
        (void)take_messages(w);
        w->stale = true;
        return cli_reopen_feed(w->cli, r, &w->stream);
}

static int run(struct watch *w)
{
        bool person = w->cli->screen.terminal && !w->cli->json;
        int r = cli_open_stream(w->cli, "/api/v1/events", &w->stream);

        if (r == CLI_DONE)
                r = ask_again(w);
        if (r == CLI_DONE)
                r = check_names(w);
        if (r != CLI_DONE)
                return r;
        if (!person && !w->cli->json)
                print_differences(w, &(const struct rows){0});
        if (person) {
                r = take_signals(w);
                if (r < 0)
                        return cli_fail(w->cli, "cannot catch signals: %s", strerror(-r));
                (void)fputs(SCREEN_TAKE, stdout);
                w->cli->farewell = SCREEN_LEAVE;
        }
        while (r == CLI_DONE && !w->ended)
                r = turn(w);
        return r;
}

int watch_main(struct cli *cli)
{
        struct watch w = {.cli = cli, .signals = -1};
        int r = run(&w);

        cli_say_farewell(cli);
        client_stream_free(w.stream);
        rows_finish(&w.rows);
        free(w.sentence);
        free(w.reload_error);
        free(w.limits_problem);
        close_fd(&w.signals);
        return r;
}
