/* nats_conf.c: the text of nats.conf. */
#include "core/nats_conf.h"

#include <errno.h>
#include <stdio.h>

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
                "ping_max: 2\n"
                "# How long a connection may take to prove who it is. The server's default, 2 s, refuses "
                "good keys "
                "of machines\n"
                "# that are busy, or far away.\n"
                "authorization { timeout: 10 }\n",
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
                               "# this block with the addresses of all; then \"hub init --replicas 3\". "
                               "Keep its port to those three (firewall), or\n"
                               "# give it TLS: who reaches it is taken for a server, and may do everything.\n"
                               "# cluster {\n"
                               "#   name: llm\n"
                               "#   listen: \"0.0.0.0:6222\"\n"
                               "#   routes: [\"nats-route://hub-1:6222\", \"nats-route://hub-2:6222\", "
                               "\"nats-route://hub-3:6222\"]\n"
                               "# }\n"
                               "\n# Figures of the server itself, for this machine alone.\n"
                               "# http: \"127.0.0.1:8222\"\n");
}

/* --- where such a file says that clients connect ---------------------------------------------------------------------- */

static size_t skip_blank(const char *p, const char *end)
{
        size_t n = 0;

        while (p + n < end && (p[n] == ' ' || p[n] == '\t'))
                n++;
        return n;
}

/* The value of `key` in this line, without quotes; its length, 0: it is another line. */
static size_t value_of(const char *line, size_t len, const char *key, const char **ret)
{
        const char *p = line, *end = line + len;
        size_t n = strlen(key);
        char quote = 0;

        p += skip_blank(p, end);
        if ((size_t)(end - p) <= n || memcmp(p, key, n) != 0 || !strchr(" \t:=", p[n]))
                return 0;
        p += n;
        p += skip_blank(p, end);
        p += p < end && (*p == ':' || *p == '=');
        p += skip_blank(p, end);
        if (p < end && (*p == '"' || *p == '\''))
                quote = *p++;
        *ret = p;
        while (p < end && (quote ? *p != quote : !strchr(" \t,;#\r", *p)))
                p++;
        return (size_t)(p - *ret);
}

/* How much deeper the braces are behind this line; what stands in quotes, or behind '#' or "//", is no brace. */
static int depth_of(const char *line, size_t len)
{
        char quote = 0;
        int depth = 0;

        for (size_t i = 0; i < len; i++) {
                char c = line[i];

                if (quote) {
                        if (c == quote)
                                quote = 0;
                } else if (c == '"' || c == '\'') {
                        quote = c;
                } else if (c == '#' || (c == '/' && i + 1 < len && line[i + 1] == '/')) {
                        break;
                } else {
                        depth += (c == '{') - (c == '}');
                }
        }
        return depth;
}

struct address {
        char host[256], port[8];
        bool is_said;
};

/* "4222", "HOST", "HOST:4222", "[::1]:4222", "::1" */
static void take_address(struct address *a, const char *value, size_t n)
{
        char text[sizeof(a->host) + sizeof(a->port)], *colon;

        (void)snprintf(text, sizeof(text), "%.*s", (int)MIN(n, sizeof(text) - 1), value);
        a->is_said = true;
        if (strspn(text, "0123456789") == strlen(text)) {
                (void)snprintf(a->port, sizeof(a->port), "%.7s", text);
                return;
        }
        colon = *text == '[' ? strstr(text, "]:") : strchr(text, ':');
        if (*text != '[' && colon && strchr(colon + 1, ':')) {
                (void)snprintf(a->host, sizeof(a->host), "[%.250s]", text);
                return;
        }
        if (colon) {
                colon += *text == '[';
                (void)snprintf(a->port, sizeof(a->port), "%.7s", colon + 1);
                *colon = '\0';
        }
        (void)snprintf(a->host, sizeof(a->host), "%.255s", text);
}

int nats_conf_address(const char *text, size_t len, char *buf, size_t size)
{
        static const char *const keys[] = {"listen", "net", "host", "port"};
        struct address a = {.port = "4222"};
        const char *end = text + len;
        int depth = 0;

        for (const char *p = text; p < end;) {
                const char *stop = memchr(p, '\n', (size_t)(end - p)), *value = NULL;
                size_t line = (size_t)((stop ? stop : end) - p);

                for (size_t i = 0; depth == 0 && i < ARRAY_SIZE(keys); i++) {
                        size_t n = value_of(p, line, keys[i], &value);

                        if (n)
                                take_address(&a, value, n);
                }
                depth += depth_of(p, line);
                p += line + 1;
        }
        if (!a.is_said)
                return -ENOENT;
        if (!*a.port || strspn(a.port, "0123456789") != strlen(a.port))
                return -EINVAL;
        if (streq(a.host, "[::]"))
                (void)snprintf(a.host, sizeof(a.host), "[::1]");
        else if (!*a.host || streq(a.host, "0.0.0.0"))
                (void)snprintf(a.host, sizeof(a.host), "127.0.0.1");
        return (size_t)snprintf(buf, size, "%s:%s", a.host, a.port) < size ? 0 : -ENAMETOOLONG;
}
