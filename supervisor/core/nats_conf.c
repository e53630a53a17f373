/* nats_conf.c: the text of nats.conf. */
#include "core/nats_conf.h"

#include "base/json.h"

/* nats-server reads a quoted string as JSON does. */
static void put(struct buffer *out, const char *indent, const char *key, const char *value)
{
        struct json_writer w;

        (void)buffer_printf(out, "%s%s: ", indent, key);
        json_begin(&w, out);
        json_put_string(&w, value);
        (void)buffer_putc(out, '\n');
}

static void put_tls(const struct nats_conf *c, struct buffer *out)
{
        if (!c->tls_cert) {
                (void)buffer_puts(out, "\n# Without TLS prompts and answers can be read on the way: only for "
                                       "a network that is yours alone.\n"
                                       "# tls {\n"
                                       "#   cert_file: \"/etc/nats/hub.crt\"\n"
                                       "#   key_file: \"/etc/nats/hub.key\"\n"
                                       "# }\n");
                return;
        }
        (void)buffer_puts(
                out, "\n# Nobody is served without TLS. A new certificate is taken by a reload.\ntls {\n");
        put(out, "  ", "cert_file", c->tls_cert);
        put(out, "  ", "key_file", c->tls_key);
        (void)buffer_puts(out, "  timeout: 5\n}\n");
}

void nats_conf_print(const struct nats_conf *c, struct buffer *out)
{
        (void)buffer_puts(out, "# nats.conf: the hub of llama-supervisor workers, for nats-server 2.9 or "
                               "later. It was written once by\n"
                               "# \"llama-supervisor hub init --write-config\" and is yours to change.\n"
                               "# Start: nats-server -c nats.conf     Read again: nats-server --signal "
                               "reload=PID, or SIGHUP\n\n");
        (void)buffer_puts(out, "# Unique among the servers of a cluster.\n");
        put(out, "", "server_name", c->server_name);
        (void)buffer_puts(out,
                          "# Workers and gateways connect to here; nothing else needs to be reachable.\n");
        put(out, "", "listen", c->listen);
        (void)buffer_puts(out, "# \"hub worker\" sends SIGHUP to the process that this file names.\n");
        put(out, "", "pid_file", c->pid_file);
        (void)buffer_printf(
                out,
                "\n# One message is a whole request or a whole answer; more than 8 MB nats-server advises "
                "against.\n"
                "max_payload: %d\n"
                "# Who does not answer for a minute is gone: its jobs go to others after the lease (30 s).\n"
                "ping_interval: \"30s\"\n"
                "ping_max: 2\n",
                NATS_PAYLOAD_MAX);
        (void)buffer_puts(out, "\n# Jobs and results live here. Back it up: results are never deleted by "
                               "us.\njetstream {\n");
        put(out, "  ", "store_dir", c->store_dir);
        (void)buffer_puts(out,
                          "  # max_file_store: 100GB      # default: three quarters of what is free\n}\n");
        put_tls(c, out);
        (void)buffer_puts(out, "\n# One account is one zone of trust: its workers could take each other's "
                               "jobs. Let other people's machines live in\n"
                               "# another account, with a users file of its own.\n"
                               "accounts {\n  " NATS_ACCOUNT " {\n    jetstream: enabled\n"
                               "    # Written by \"llama-supervisor hub worker\". While it is empty, nobody "
                               "can connect.\n    include ");
        {
                struct json_writer w;

                json_begin(&w, out);
                json_put_string(&w, c->users_file);
        }
        (void)buffer_puts(out, "\n  }\n}\n"
                               "\n# Three servers survive the loss of one: give each this file with its own "
                               "server_name, the same users file, and\n"
                               "# this block with the addresses of all; then \"hub init --replicas 3\".\n"
                               "# cluster {\n"
                               "#   name: llm\n"
                               "#   listen: \"0.0.0.0:6222\"\n"
                               "#   routes: [\"nats-route://hub-1:6222\", \"nats-route://hub-2:6222\", "
                               "\"nats-route://hub-3:6222\"]\n"
                               "# }\n"
                               "\n# Figures of the server itself, for this machine alone.\n"
                               "# http: \"127.0.0.1:8222\"\n");
}
