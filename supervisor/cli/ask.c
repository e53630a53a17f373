/* ask.c: asking the daemon, and saying plainly why that did not work. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/slice.h"
#include "base/text.h"
#include "cli/verb.h"
#include "cli/where.h"
#include "core/http1_uri.h"

/* As event streams are told before an upgrade (retry: 200). */
enum { REOPEN_PAUSE_NSEC = 200 * 1000 * 1000 };

/* --- saying --------------------------------------------------------------------------------------------------------- */

void cli_say_farewell(struct cli *cli)
{
        if (cli->farewell)
                (void)fputs(cli->farewell, stdout);
        cli->farewell = NULL;
        (void)fflush(stdout);
}

static void say(struct cli *cli, const char *fmt, va_list ap)
{
        _cleanup_buffer_ struct buffer line = {0};
        char *text = NULL;

        if (vasprintf(&text, fmt, ap) < 0)
                return;
        buffer_init(&line, 0);
        screen_put_text(&line, text);
        cli_say_farewell(cli);
        (void)fprintf(stderr, "llama-supervisor%s%s: %s\n", cli->verb ? " " : "",
                      cli->verb ? cli->verb->name : "", line.data ? line.data : "");
        free(text);
}

int cli_fail(struct cli *cli, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        say(cli, fmt, ap);
        va_end(ap);
        return CLI_FAILED;
}

int cli_usage(struct cli *cli, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        say(cli, fmt, ap);
        va_end(ap);
        (void)fprintf(stderr, "see llama-supervisor help%s%s\n", cli->verb ? " " : "",
                      cli->verb ? cli->verb->name : "");
        return CLI_USAGE;
}

int cli_flush(struct cli *cli)
{
        errno = EIO;
        if (fflush(stdout) == 0 && !ferror(stdout))
                return CLI_DONE;
        return cli_fail(cli, "cannot write the output: %s", strerror(errno));
}

int cli_print(struct cli *cli, const struct buffer *text)
{
        if (text->failed)
                return cli_fail(cli, "not enough memory");
        if (text->len)
                (void)fwrite(text->data, 1, text->len, stdout);
        return cli_flush(cli);
}

/* --- asking ---------------------------------------------------------------------------------------------------------- */

char *cli_target(const char *prefix, const char *name, const char *suffix)
{
        char segment[512];

        if (http1_segment_encode(slice_str(name), segment, sizeof(segment)) < 0)
                return NULL;
        return text_format("%s/%s%s", prefix, segment, suffix);
}

static int find_socket(struct cli *cli)
{
        const char *given = options_get(&cli->options, "socket");

        if (cli->socket)
                return CLI_DONE;
        if (given) {
                cli->socket = text_dup(given);
                return cli->socket ? CLI_DONE : cli_fail(cli, "not enough memory");
        }
        if (where_is_socket(cli->config, &cli->socket, &cli->note) < 0)
                return cli_fail(cli, "not enough memory");
        if (cli->note &&
            cli->config) { /* asked for by name: say it at once, not only when nothing is found there */
                (void)cli_fail(cli, "%s", cli->note);
                free(cli->note);
                cli->note = NULL;
        }
        return CLI_DONE;
}

static int is_down(struct cli *cli, int r)
{
        bool named = cli->config || options_get(&cli->options, "socket");

        if (cli->note)
                (void)cli_fail(cli, "%s", cli->note);
        (void)cli_fail(
                cli,
                "llama-supervisor is not running (%s %s): start it with systemctl start llama-supervisor or "
                "llama-supervisor run%s%s%s",
                r == -ECONNREFUSED ? "nobody listens at" : "no socket at", cli->socket,
                cli->config ? " --config " : "", cli->config ? cli->config : "",
                named ? "" : "; a daemon with another configuration is reached with --config FILE");
        return CLI_DOWN;
}

int cli_broken(struct cli *cli, int r)
{
        if (cli->answered && (r == -ENOENT || r == -ECONNREFUSED))
                r = -ECONNRESET;
        switch (r) {
        case -ENOENT:
        case -ECONNREFUSED:
        case -ENOTDIR:
                return is_down(cli, r);
        case -EACCES:
        case -EPERM:
                return cli_fail(cli,
                                "no permission to use %s: be root, or a member of the group llama-supervisor "
                                "(usermod -aG "
                                "llama-supervisor NAME, then log in again)",
                                cli->socket);
        case -ETIMEDOUT:
                return cli_fail(cli, "llama-supervisor does not answer at %s", cli->socket);
        case -ECONNRESET:
                return cli_fail(cli, "llama-supervisor closed the connection before its answer ended");
        case -EPROTO:
                return cli_fail(cli, "what listens at %s does not speak as llama-supervisor does",
                                cli->socket);
        case -ENAMETOOLONG:
                return cli_fail(cli, "%s: the path of a unix socket may have 107 bytes", cli->socket);
        case -EMSGSIZE:
                return cli_fail(cli, "the answer of llama-supervisor is too long");
        default:
                return cli_fail(cli, "%s: %s", cli->socket, strerror(-r));
        }
}

int cli_refused(struct cli *cli, const struct client_answer *a)
{
        _cleanup_value_ struct json_value *v = NULL;
        const char *message = NULL;

        if (json_parse(a->body.data ? a->body.data : "", a->body.len, &v, NULL) == 0) {
                message = json_get_string(json_get(v, "error"), "message");
                if (cli->json)
                        (void)cli_print_answer(cli, a);
        }
        return message ? cli_fail(cli, "%s", message)
                       : cli_fail(cli, "llama-supervisor answered with status %d", a->status);
}

int cli_request_any(struct cli *cli, const char *method, const char *target, struct client_answer *ret)
{
        return cli_send_any(cli, method, target, NULL, ret);
}

int cli_send_any(struct cli *cli, const char *method, const char *target, const char *body,
                 struct client_answer *ret)
{
        return cli_send_patiently(cli, method, target, body, CLIENT_TIMEOUT, ret);
}

int cli_send_patiently(struct cli *cli, const char *method, const char *target, const char *body,
                       usec_t timeout, struct client_answer *ret)
{
        int r = find_socket(cli);

        if (r != CLI_DONE)
                return r;
        if (!target)
                return cli_fail(cli, "there can be no such instance");
        r = client_send(cli->socket, method, target, slice_str(body), timeout, ret);
        if (r < 0)
                return cli_broken(cli, r);
        cli->answered = true;
        return CLI_DONE;
}

int cli_request(struct cli *cli, const char *method, const char *target, struct client_answer *ret)
{
        int r = cli_request_any(cli, method, target, ret);

        if (r != CLI_DONE)
                return r;
        return ret->status >= 200 && ret->status < 300 ? CLI_DONE : cli_refused(cli, ret);
}

int cli_get(struct cli *cli, const char *target, struct client_answer *ret, struct json_value **ret_value)
{
        int r = cli_request(cli, "GET", target, ret);

        if (r != CLI_DONE)
                return r;
        if (json_parse(ret->body.data ? ret->body.data : "", ret->body.len, ret_value, NULL) < 0)
                return cli_broken(cli, -EPROTO);
        return CLI_DONE;
}

int cli_print_answer(struct cli *cli, const struct client_answer *a)
{
        struct slice body = {a->body.data ? a->body.data : "", a->body.len};

        while (body.n && (body.p[body.n - 1] == '\n' || body.p[body.n - 1] == '\r'))
                body.n--;
        if (body.n)
                (void)fwrite(body.p, 1, body.n, stdout);
        (void)putchar('\n');
        return cli_flush(cli);
}

int cli_open_stream(struct cli *cli, const char *target, struct client_stream **ret)
{
        _cleanup_answer_ struct client_answer refusal = {0};
        int r = find_socket(cli);

        if (r != CLI_DONE)
                return r;
        if (!target)
                return cli_fail(cli, "there can be no such instance");
        r = client_stream_open(cli->socket, target, CLIENT_TIMEOUT, ret, &refusal);
        if (r < 0)
                return cli_broken(cli, r);
        cli->answered = true;
        return r == 0 ? CLI_DONE : cli_refused(cli, &refusal);
}

int cli_reopen_feed(struct cli *cli, int ended, struct client_stream **stream)
{
        const struct timespec pause = {.tv_nsec = REOPEN_PAUSE_NSEC};

        if (ended < 0)
                return cli_broken(cli, ended);
        *stream = client_stream_free(*stream);
        (void)nanosleep(&pause, NULL);
        return cli_open_stream(cli, "/api/v1/events", stream);
}

int cli_reopen_stream(struct cli *cli, const char *target, struct client_stream **stream)
{
        const struct timespec pause = {.tv_nsec = REOPEN_PAUSE_NSEC};
        _cleanup_answer_ struct client_answer refusal = {0};
        int r;

        *stream = client_stream_free(*stream);
        if (!target)
                return cli_fail(cli, "not enough memory");
        (void)nanosleep(&pause, NULL);
        r = client_stream_open(cli->socket, target, CLIENT_TIMEOUT, stream, &refusal);
        if (r < 0)
                return cli_broken(cli, r);
        return r == 0 || refusal.status == 404 ? CLI_DONE : cli_refused(cli, &refusal);
}

struct json_value *cli_feed_message(char *line, size_t len)
{
        struct slice text = {line, len};
        struct json_value *v = NULL;

        if (!slice_starts_with(text, SLICE("data:")))
                return NULL;
        text = slice_sub(text, strlen("data:"), len);
        if (text.n && text.p[text.n - 1] == '\r')
                text.n--;
        if (json_parse(text.p, text.n, &v, NULL) < 0)
                return NULL;
        return v;
}
