/* net_tool.c: net/wsclient and net/fetch under the hand of a scenario: orders on stdin, one a line, what happened on stdout.
 *
 *     net_tool ws URL [ca=FILE] [protocol=P] [connect=MS] [ping=MS] [silence=MS] [message_max=N] [queue_max=N]
 *             connect | send TEXT | fill N | close CODE REASON | free | counts
 *     net_tool fetch [ca=FILE] [timeout=MS] [body_max=N]
 *             get URL | post URL TEXT | fill URL N | cancel | counts
 * Names are answered by itself: slow.test by nobody, after 3 s ("asleep", "slept"); two.test is 127.0.0.2 and then 127.0.0.1; none.test and
 * some.test begin with addresses to which there is no way, as the kernel says at once.
 * EOF on stdin frees everything and ends. */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/fetch.h"
#include "net/wsclient.h"
#include "tool_orders.h"

struct tool {
        struct loop *loop;
        struct wsclient *ws;
        struct fetcher *fetcher;
        struct fetch *last;
        struct fetch_spec spec;
};

static void say(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void say(const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        (void)vprintf(fmt, ap);
        va_end(ap);
        (void)putchar('\n');
        (void)fflush(stdout);
}

static const struct {
        const char *name, *addresses[4];
} names[] = {
        {"two.test", {"127.0.0.2", "127.0.0.1"}},
        {"some.test", {"255.255.255.255", "255.255.255.255", "127.0.0.1"}},
        {"none.test", {"255.255.255.255", "255.255.255.255"}},
};

/* In the place of the C library's, for libcurl's threads as well. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
        int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
        void *found = dlsym(RTLD_NEXT, "getaddrinfo");
        int r = 0;

        memcpy(&real, &found, sizeof real);
        if (node && streq(node, "slow.test")) {
                say("asleep");
                (void)sleep(3);
                say("slept");
                return EAI_AGAIN;
        }
        for (size_t i = 0; node && i < ARRAY_SIZE(names); i++) {
                if (!streq(node, names[i].name))
                        continue;
                for (size_t k = 0; r == 0 && names[i].addresses[k]; k++, ret = &(*ret)->ai_next)
                        r = real(names[i].addresses[k], service, hints, ret);
                return r;
        }
        return real(node, service, hints, ret);
}

static void on_open(void *owner)
{
        (void)owner;
        say("open");
}

static void on_message(void *owner, const char *data, size_t len, bool binary)
{
        struct tool *t = owner;

        if (len > 100)
                say("message %s %zu bytes", binary ? "binary" : "text", len);
        else
                say("message %s %s", binary ? "binary" : "text", data);
        /* Owners act in their callbacks. */
        if (strcmp(data, "please free") == 0) {
                t->ws = wsclient_free(t->ws);
                say("freed");
        } else if (strcmp(data, "please close") == 0) {
                wsclient_close(t->ws, 1000, "as asked");
        }
}

static void on_drain(void *owner)
{
        (void)owner;
        say("drain");
}

static void on_end(void *owner, const struct wsclient_end *end)
{
        (void)owner;
        say("end %s %u [%s] %s", end->opened ? "opened" : "never", end->code, end->reason, end->why);
}

static void on_answer(void *owner, const struct fetch_answer *a)
{
        struct tool *t = owner;

        t->last = NULL;
        if (!a->status)
                say("failed %s", a->why);
        else if (a->body_len > 100)
                say("answer %d %zu bytes", a->status, a->body_len);
        else
                say("answer %d retry_after=%u %s", a->status, a->retry_after, a->body);
}

static char *filled(size_t n)
{
        char *s = malloc(n + 1);

        if (!s)
                exit(1);
        memset(s, 'x', n);
        s[n] = '\0';
        return s;
}

static void fetch(struct tool *t, const char *method, const char *url, const char *body)
{
        int r;

        t->spec.method = method;
        t->spec.url = url;
        t->spec.body = body;
        t->spec.body_len = body ? strlen(body) : 0;
        t->spec.headers[0] = "X-Tool: yes";
        r = fetch_start(t->fetcher, &t->spec, on_answer, t, &t->last);
        if (r < 0)
                say("fetch: %s", strerror(-r));
}

static void order(void *owner, char *line)
{
        struct tool *t = owner;
        char *rest = strchr(line, ' ');
        int r = 0;

        if (rest)
                *rest++ = '\0';
        else
                rest = line + strlen(line);
        if (t->fetcher) {
                char *body = strchr(rest, ' ');

                if (body)
                        *body++ = '\0';
                if (streq(line, "get")) {
                        fetch(t, "GET", rest, NULL);
                } else if (streq(line, "post")) {
                        fetch(t, "POST", rest, body ? body : "");
                } else if (streq(line, "fill")) {
                        char *s = filled(strtoul(body ? body : "0", NULL, 10));

                        fetch(t, "POST", rest, s);
                        free(s);
                } else if (streq(line, "cancel")) {
                        t->last = fetch_cancel(t->last);
                } else if (streq(line, "counts")) {
                        const struct fetcher_counts *c = fetcher_counts(t->fetcher);

                        say("counts started=%lu failed=%lu running=%u", (unsigned long)c->started,
                            (unsigned long)c->failed, c->running);
                }
                return;
        }
        if (!t->ws) {
                say("there is none");
        } else if (streq(line, "connect")) {
                r = wsclient_connect(t->ws);
        } else if (streq(line, "send")) {
                r = wsclient_send(t->ws, rest, strlen(rest));
        } else if (streq(line, "fill")) {
                size_t n = strtoul(rest, NULL, 10);
                char *s = filled(n);

                r = wsclient_send(t->ws, s, n);
                free(s);
        } else if (streq(line, "close")) {
                char *reason = strchr(rest, ' ');

                wsclient_close(t->ws, (unsigned)strtoul(rest, NULL, 10), reason ? reason + 1 : "");
        } else if (streq(line, "free")) {
                t->ws = wsclient_free(t->ws);
                say("freed");
        } else if (streq(line, "counts")) {
                const struct wsclient_counts *c = wsclient_counts(t->ws);

                say("counts attempts=%lu opened=%lu in=%lu out=%lu refused=%lu too_big=%lu",
                    (unsigned long)c->attempts, (unsigned long)c->opened, (unsigned long)c->messages_in,
                    (unsigned long)c->messages_out, (unsigned long)c->refused, (unsigned long)c->too_big);
        }
        if (r < 0)
                say("%s: %s", line, strerror(-r));
}

static usec_t span(int argc, char **argv, const char *name)
{
        const char *s = orders_option(argc, argv, name);

        return s ? strtoul(s, NULL, 10) * USEC_PER_MSEC : 0;
}

int main(int argc, char **argv)
{
        static const struct wsclient_events events = {on_open, on_message, on_drain, on_end};
        struct tool t = {0};
        const char *s;
        int r;

        if (argc < 2 || loop_new(&t.loop) < 0)
                return 2;
        if (streq(argv[1], "ws") && argc > 2) {
                struct wsclient_spec spec = {
                        .url = argv[2],
                        .ca_file = orders_option(argc, argv, "ca"),
                        .protocol = orders_option(argc, argv, "protocol"),
                        .connect_timeout = span(argc, argv, "connect"),
                        .ping_interval = span(argc, argv, "ping"),
                        .silence = span(argc, argv, "silence"),
                };

                s = orders_option(argc, argv, "message_max");
                spec.message_max = s ? strtoul(s, NULL, 10) : 0;
                s = orders_option(argc, argv, "queue_max");
                spec.queue_max = s ? strtoul(s, NULL, 10) : 0;
                r = wsclient_new(t.loop, &spec, &events, &t, &t.ws);
        } else {
                t.spec.ca_file = orders_option(argc, argv, "ca");
                t.spec.timeout = span(argc, argv, "timeout");
                s = orders_option(argc, argv, "body_max");
                t.spec.body_max = s ? strtoul(s, NULL, 10) : 0;
                r = fetcher_new(t.loop, &t.fetcher);
        }
        if (r < 0) {
                say("new: %s", strerror(-r));
        } else {
                say("ready");
                (void)orders_run(&(struct orders){.loop = t.loop, .order = order, .owner = &t}, 1 << 20);
        }
        t.ws = wsclient_free(t.ws);
        t.fetcher = fetcher_free(t.fetcher);
        (void)loop_free(t.loop);
        say("bye");
        return 0;
}
