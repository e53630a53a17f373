/* version.c: the version of this program, and of the daemon if one runs: they differ between an upgrade and a restart. */
#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "cli/verb.h"
#include "cli/where.h"

static struct json_value *ask_daemon(struct cli *cli)
{
        const char *given = options_get(&cli->options, "socket");
        _cleanup_answer_ struct client_answer answer = {0};
        struct json_value *status = NULL;

        /* Not cli_request: that there is no daemon is an answer here, not a failure. */
        if (given)
                cli->socket = text_dup(given);
        else if (where_is_socket(cli->config, &cli->socket, &cli->note) < 0)
                return NULL;
        if (!cli->socket ||
            client_request(cli->socket, "GET", "/api/v1/status", 5 * USEC_PER_SEC, &answer) < 0 ||
            answer.status != 200)
                return NULL;
        if (json_parse(answer.body.data ? answer.body.data : "", answer.body.len, &status, NULL) < 0)
                return NULL;
        return status;
}

int version_main(struct cli *cli)
{
        _cleanup_value_ struct json_value *status = ask_daemon(cli);
        const char *daemon = json_get_string(status, "version");
        _cleanup_buffer_ struct buffer out = {0};
        struct json_writer w;
        char span[TIME_SPAN_MAX];

        buffer_init(&out, 0);
        if (cli->json) {
                json_begin(&w, &out);
                json_open_object(&w);
                json_string(&w, "client", LSV_VERSION);
                json_string(&w, "daemon", daemon);
                json_close_object(&w);
                (void)buffer_putc(&out, '\n');
                return cli_print(cli, &out);
        }
        (void)buffer_puts(&out, "llama-supervisor " LSV_VERSION "\n");
        if (daemon) {
                (void)buffer_puts(&out, "the daemon is ");
                screen_put_text(&out, daemon);
                (void)buffer_printf(
                        &out, " (pid %" PRId64 ", up %s)\n", json_get_int(status, "pid", 0),
                        time_span((usec_t)MAX(json_get_int(status, "uptime", 0), (int64_t)0) * USEC_PER_SEC,
                                  span, sizeof(span)));
        } else {
                (void)buffer_printf(&out, "no daemon answers at %s\n",
                                    cli->socket ? cli->socket : "its socket");
        }
        return cli_print(cli, &out);
}
