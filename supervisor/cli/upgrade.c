/* upgrade.c: the installed program takes the daemon's process over: the order, and the proof that it is the new one that answers. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/text.h"
#include "cli/verb.h"

/* The daemon's own deadlines: its check, and stop.drain, which is a day at most. */
#define ANSWER_TIMEOUT (25 * USEC_PER_HOUR)
/* After it said that the new one comes: the rest of the hold, and its start. */
#define COME_TIMEOUT (60 * USEC_PER_SEC)

static struct json_value *parse(const struct client_answer *a)
{
        struct json_value *v = NULL;

        return json_parse(a->body.data ? a->body.data : "", a->body.len, &v, NULL) < 0 ? NULL : v;
}

/* Who postponed it, one a line. */
static void put_requests(struct buffer *out, const struct json_value *requests)
{
        for (size_t i = 0; i < json_count(requests); i++) {
                const struct json_value *r = json_at(requests, i);
                const char *id = json_get_string(r, "id"), *instance = json_get_string(r, "instance"),
                           *peer = json_get_string(r, "peer");
                double age = json_get_double(r, "age", 0);
                char span[TIME_SPAN_MAX];

                (void)buffer_puts(out, "  ");
                if (id) {
                        screen_put_text(out, id);
                        (void)buffer_puts(out, "  ");
                        screen_put_text(out, json_get_string(r, "model"));
                        (void)buffer_puts(out, " on ");
                        screen_put_text(out, instance ? instance : "no instance yet");
                        (void)buffer_puts(out, "  ");
                }
                screen_put_text(out, json_get_string(r, "what"));
                if (peer) {
                        (void)buffer_puts(out, "  from ");
                        screen_put_text(out, peer);
                }
                (void)buffer_printf(
                        out, "  for %s\n",
                        time_span((usec_t)(MAX(age, 0.0) * (double)USEC_PER_SEC), span, sizeof(span)));
        }
}

static int refused(struct cli *cli, const struct client_answer *a)
{
        _cleanup_value_ struct json_value *v = parse(a);
        const struct json_value *requests = json_get(v, "requests");
        _cleanup_buffer_ struct buffer out = {0};
        int r = cli_refused(cli, a);

        if (!json_count(requests) || cli->json)
                return r;
        buffer_init(&out, 0);
        put_requests(&out, requests);
        (void)buffer_puts(&out, "The upgrade is postponed: try again later, or cut them with --force.\n");
        if (!out.failed)
                (void)fputs(out.data, stderr);
        return r;
}

/* The new one's status; NULL when it did not come, with what is known in *ret_why. */
static struct json_value *await_next(struct cli *cli, int64_t before, char **ret_why)
{
        const struct timespec pause = {.tv_nsec = 20000000};
        usec_t deadline = usec_add(time_monotonic(), COME_TIMEOUT);

        while (time_monotonic() < deadline) {
                _cleanup_answer_ struct client_answer a = {0};
                struct json_value *v = NULL;

                /* It may be between two programs, so a broken connection says nothing yet. */
                if (client_request(cli->socket, "GET", "/api/v1/status", 5 * USEC_PER_SEC, &a) == 0 &&
                    a.status == 200)
                        v = parse(&a);
                if (v && json_get_int(v, "generation", 0) > before)
                        return v;
                if (v && streq_ptr(json_get_string(json_get(v, "upgrade"), "state"), "failed")) {
                        *ret_why = text_dup(json_get_string(json_get(v, "upgrade"), "message"));
                        json_free(v);
                        return NULL;
                }
                json_free(v);
                (void)nanosleep(&pause, NULL);
        }
        return NULL;
}

static int tell(struct cli *cli, const char *from, const struct json_value *status)
{
        const struct json_value *upgrade = json_get(status, "upgrade");
        double took = json_get_double(upgrade, "took", 0), held = json_get_double(upgrade, "held", 0);
        _cleanup_buffer_ struct buffer out = {0};
        struct json_writer w;

        buffer_init(&out, 0);
        if (cli->json) {
                json_begin(&w, &out);
                json_open_object(&w);
                json_string(&w, "from", from);
                json_string(&w, "to", json_get_string(status, "version"));
                json_int(&w, "pid", json_get_int(status, "pid", 0));
                json_int(&w, "generation", json_get_int(status, "generation", 0));
                json_double(&w, "took", took, 3);
                json_double(&w, "held", held, 3);
                json_close_object(&w);
                (void)buffer_putc(&out, '\n');
                return cli_print(cli, &out);
        }
        (void)buffer_puts(&out, "upgraded from ");
        screen_put_text(&out, from);
        (void)buffer_puts(&out, " to ");
        screen_put_text(&out, json_get_string(status, "version"));
        (void)buffer_printf(&out, ", pid %" PRId64 ", in %.0f ms (held for %.0f ms)\n",
                            json_get_int(status, "pid", 0), took * 1000, held * 1000);
        return cli_print(cli, &out);
}

int upgrade_main(struct cli *cli)
{
        bool force = options_get(&cli->options, "force") != NULL;
        _cleanup_value_ struct json_value *said = NULL, *status = NULL;
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_free_ char *why = NULL;
        int r;

        r = cli_send_patiently(cli, "POST", "/api/v1/upgrade", force ? "{\"force\":true}" : "{}",
                               ANSWER_TIMEOUT, &answer);
        if (r != CLI_DONE)
                return r;
        if (answer.status != 200)
                return refused(cli, &answer);
        said = parse(&answer);
        status = await_next(cli, json_get_int(said, "generation", 0), &why);
        if (!status)
                return cli_fail(cli, "the new program did not come: %s",
                                why ? why : "nobody answers; see the daemon's log");
        return tell(cli, json_get_string(said, "version"), status);
}
