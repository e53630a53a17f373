/* test_doors.c: the doors over real sockets, in front of a fleet of values: gate, routes, orders, bodies, logs that are followed by
 * readers fast and slow, metrics in slices, files that come and go. The client is a thread that blocks; the loop runs in main. */
#include "http/doors.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_feed.h"
#include "fake_fleet.h"
#include "fake_hubs.h"
#include "http/doors_private.h"

enum { PATIENCE = 60 }; /* seconds; a test that waits so long has failed */

/* --- a gateway, likewise -------------------------------------------------------------------------------------------- */

struct gateway {
        struct gateway_counts counts;
};

int gateway_new(struct doors *doors, struct gateway **ret)
{
        (void)doors;
        *ret = calloc(1, sizeof(**ret));
        return *ret ? 0 : -ENOMEM;
}

struct gateway *gateway_free(struct gateway *g)
{
        free(g);
        return NULL;
}

const struct gateway_counts *gateway_counts(const struct gateway *g)
{
        return &g->counts;
}

#define HANDLER(name)                                                                                        \
        void name(struct call *call)                                                                         \
        {                                                                                                    \
                say(call->req, #name);                                                                       \
        }
HANDLER(gateway_generate)
HANDLER(gateway_compute)
HANDLER(gateway_ask)
HANDLER(gateway_look)
HANDLER(gateway_direct)
HANDLER(gateway_chat)
HANDLER(models_handle)
HANDLER(model_handle)
HANDLER(api_models_handle)
HANDLER(stats_handle)
#undef HANDLER

/* --- history, too ---------------------------------------------------------------------------------------------------- */

void history_put(struct history *h, uint64_t since, const char *instance, usec_t realtime,
                 struct json_writer *w)
{
        (void)h;
        (void)realtime;
        json_open_object(w);
        json_uint(w, "since", since);
        json_string(w, "instance", instance);
        json_close_object(w);
}

void history_tell(struct history *h, int level, const struct history_event *event)
{
        (void)level;
        (void)h;
        (void)event;
}

/* --- the world --------------------------------------------------------------------------------------------------------- */

struct world {
        struct loop *loop;
        struct fleet *fleet;
        struct doors *doors;
        char dir[64];
        struct endpoint tcp;
        int commands[2]; /* the client tells the loop's thread what to do */
        struct watch *watch;
        void (*client)(struct world *w);
        void (*on_command)(struct world *w, char c);
};
static struct config_listen listen_on[2];

static void on_command(void *owner, unsigned events, usec_t now)
{
        struct world *w = owner;
        char c;

        (void)events;
        (void)now;
        if (read(w->commands[0], &c, 1) != 1)
                loop_stop(w->loop);
        else
                w->on_command(w, c);
}

static void *run_client(void *owner)
{
        struct world *w = owner;

        w->client(w);
        close(w->commands[1]);
        return NULL;
}

static void command(struct world *w, char c)
{
        assert_int_equal(write(w->commands[1], &c, 1), 1);
}

static struct world *setup(void)
{
        struct world *w = calloc(1, sizeof(*w));
        char *error;

        assert_non_null(w);
        strcpy(w->dir, "/tmp/lsv-doors-XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        w->fleet = calloc(1, sizeof(*w->fleet));
        assert_non_null(w->fleet);
        fake_fleet_add(w->fleet, "one", "ready");
        fake_fleet_add(w->fleet, "two", "crashed");
        w->fleet->log = "a line\n";
        listen_on[0] = (struct config_listen){.address = "127.0.0.1:0"};
        assert_int_equal(endpoint_parse("127.0.0.1:0", &listen_on[0].endpoint), 0);
        w->fleet->config = (struct config){.runtime_dir = w->dir,
                                           .file = "/etc/x.json",
                                           .listen = listen_on,
                                           .n_listen = 1,
                                           .auth_anonymous = CONFIG_SCOPE_READ | CONFIG_SCOPE_ADMIN};
        assert_int_equal(loop_new(&w->loop), 0);
        w->fleet->loop = w->loop;
        if (doors_open(w->loop, w->fleet, NULL, NULL, &w->doors, &error) < 0)
                fail_msg("doors_open: %s", error);
        assert_int_equal(endpoint_parse(w->doors->addresses[0], &w->tcp), 0);
        assert_int_equal(pipe2(w->commands, O_CLOEXEC), 0);
        assert_int_equal(watch_new(w->loop, w->commands[0], WATCH_READ, on_command, w, &w->watch), 0);
        return w;
}

static void run(struct world *w, void (*client)(struct world *w))
{
        pthread_t thread;

        w->client = client;
        assert_int_equal(pthread_create(&thread, NULL, run_client, w), 0);
        loop_run(w->loop);
        assert_int_equal(pthread_join(thread, NULL), 0);
}

static void teardown(struct world *w)
{
        watch_free(w->watch);
        close(w->commands[0]);
        w->doors = doors_close(w->doors);
        assert_int_equal(w->fleet->followers, 0);
        loop_free(w->loop);
        free(w->fleet);
        /* Empty: the doors took their files away. */
        assert_int_equal(rmdir(w->dir), 0);
        free(w);
}

static int dial(const struct endpoint *to)
{
        const struct timeval patience = {.tv_sec = PATIENCE};
        int fd = socket(to->addr.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_true(fd >= 0);
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        assert_int_equal(connect(fd, &to->addr.sa, to->len), 0);
        return fd;
}

static void send_text(int fd, const char *text)
{
        for (size_t n = strlen(text); n;) {
                ssize_t sent = write(fd, text, n);

                assert_true(sent > 0);
                text += sent;
                n -= (size_t)sent;
        }
}

/* All bytes until the server closes. */
static char *read_all(int fd)
{
        struct buffer b;
        char chunk[65536];
        ssize_t n;

        buffer_init(&b, 0);
        while ((n = read(fd, chunk, sizeof(chunk))) > 0)
                assert_int_equal(buffer_append(&b, chunk, (size_t)n), 0);
        assert_int_equal(n, 0);
        close(fd);
        (void)buffer_append(&b, "", 1);
        return buffer_steal(&b);
}

/* One exchange on a connection of its own; the answer with its head. */
static char *ask_at(const struct endpoint *to, const char *request)
{
        int fd = dial(to);

        send_text(fd, request);
        return read_all(fd);
}

static int status_of(const char *answer)
{
        return starts_with(answer, "HTTP/1.1 ") ? atoi(answer + 9) : 0;
}

#define CLOSE "Connection: close\r\n"
static char *ask(struct world *w, const char *method, const char *target, const char *headers,
                 const char *body)
{
        _cleanup_free_ char *text = text_format(
                "%s %s HTTP/1.1\r\nHost: localhost\r\n" CLOSE "%s%s%zu\r\n\r\n%s", method, target,
                headers ? headers : "", "Content-Length: ", body ? strlen(body) : 0, body ? body : "");

        return ask_at(&w->tcp, text);
}

static void expect(struct world *w, int status, const char *method, const char *target, const char *headers,
                   const char *body, const char *part)
{
        _cleanup_free_ char *answer = ask(w, method, target, headers, body);

        if (status_of(answer) != status || (part && !strstr(answer, part)))
                fail_msg("%s %s: expected %d and %s, got:\n%s", method, target, status,
                         part ? part : "anything", answer);
}

#define JSON "Content-Type: application/json\r\n"

/* --- the tests ------------------------------------------------------------------------------------------------------------ */

static void ask_routes(struct world *w)
{
        _cleanup_free_ char *answer = NULL, *shell = NULL;

        expect(w, 200, "GET", "/health", NULL, NULL, "{\"status\":\"ok\"}");
        expect(w, 200, "GET", "/ready", NULL, NULL, "{\"status\":\"ready\",\"ready\":1,\"total\":2}");
        expect(w, 200, "GET", "/", NULL, NULL, "<td class=\"crashed\">crashed</td>");
        expect(w, 200, "GET", "/api/v1/status", NULL, NULL,
               "\"sentence\":\"1 of 2 instances is ready, 1 crashed\"");
        expect(w, 200, "GET", "/api/v1/status", NULL, NULL, "\"config\":\"/etc/x.json\"");
        expect(w, 200, "GET", "/api/v1/instances", NULL, NULL, "{\"instances\":[{\"name\":\"one\"");
        expect(w, 200, "GET", "/api/v1/instances/two", NULL, NULL, "{\"name\":\"two\"");
        expect(w, 200, "GET", "/api/v1/instances/t%77o", NULL, NULL, "{\"name\":\"two\"");
        expect(w, 404, "GET", "/api/v1/instances/tow", NULL, NULL, "did you mean \\\"two\\\"?");
        expect(w, 200, "GET", "/api/v1/instances/one/why", NULL, NULL, "{\"instance\":\"one\"}");
        expect(w, 200, "GET", "/api/v1/instances/one/logs?lines=7", NULL, NULL, "7 lines\na line\n");
        expect(w, 200, "GET", "/api/v1/history?since=5&instance=one", NULL, NULL,
               "{\"since\":5,\"instance\":\"one\"}");
        expect(w, 400, "GET", "/api/v1/instances/one/logs?lines=abc", NULL, NULL, "\"param\":\"lines\"");
        expect(w, 400, "GET", "/api/v1/instances/one/logs?line=1", NULL, NULL, "did you mean \\\"lines\\\"?");
        expect(w, 404, "GET", "/api/v1/helth", NULL, NULL, "not_found_error");
        expect(w, 404, "GET", "/healthz", NULL, NULL, "did you mean /health?");
        expect(w, 405, "DELETE", "/health", NULL, NULL, "Allow: GET, HEAD, OPTIONS\r\n");
        expect(w, 200, "GET", "/web/feed.js", NULL, NULL, "export function createFeed");
        expect(w, 200, "GET", "/web/feed.js", "Accept-Encoding: br, gzip\r\n", NULL,
               "Content-Encoding: gzip\r\n");
        expect(w, 200, "GET", "/web/feed.js", "Accept-Encoding: gzip;q=0, *\r\n", NULL, "export function");
        expect(w, 304, "GET", "/web/feed.js", "If-None-Match: W/\"1\", *\r\n", NULL, "ETag: ");
        expect(w, 404, "GET", "/web/none.js", NULL, NULL, "load the page again");
        /* The page itself is for everybody, what is in it is not. */
        expect(w, 200, "GET", "/", NULL, NULL, "frame-ancestors 'none'");
        w->fleet->config.auth_anonymous = CONFIG_SCOPE_INFER;
        shell = ask(w, "GET", "/", NULL, NULL);
        assert_int_equal(status_of(shell), 200);
        assert_non_null(strstr(shell, "to those who show a key"));
        assert_null(strstr(shell, "crashed"));
        w->fleet->config.auth_anonymous = CONFIG_SCOPE_READ | CONFIG_SCOPE_ADMIN;
        expect(w, 405, "GET", "/api/v1/reload", NULL, NULL, "Allow: POST, OPTIONS\r\n");
        expect(w, 501, "BREW", "/health", NULL, NULL, NULL);
        expect(w, 204, "OPTIONS", "/health", NULL, NULL, "Allow: GET, HEAD, OPTIONS\r\n");
        expect(w, 405, "DELETE", "/api/v1/reload", NULL, NULL, "Allow: POST, OPTIONS\r\n");
        expect(w, 204, "OPTIONS", "*", NULL, NULL, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
        expect(w, 400, "GET", "/api/v1/instances/..%2f..", NULL, NULL, NULL);
        expect(w, 400, "GET", "//health", NULL, NULL, NULL);
        expect(w, 400, "GET", "/%00", NULL, NULL, NULL);
        expect(w, 200, "GET", "/ws", NULL, NULL, "websocket");
        expect(w, 200, "GET", "/api/v1/events", NULL, NULL, "sse");
        expect(w, 200, "POST", "/socket.io/", "Content-Type: text/plain\r\n", "40", "socketio");
        expect(w, 200, "OPTIONS", "/socket.io/", NULL, NULL, "socketio");
        expect(w, 200, "GET", "/openapi.json", NULL, NULL, "\"openapi\": \"3.1.0\"");
        expect(w, 200, "GET", "/asyncapi.json", NULL, NULL, "\"asyncapi\": \"3.0.0\"");
        answer = ask(w, "HEAD", "/health", NULL, NULL);
        assert_int_equal(status_of(answer), 200);
        assert_non_null(strstr(answer, "Content-Length: 16\r\n"));
        assert_true(ends_with(answer, "\r\n\r\n"));
}

static void routes(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_routes);
        teardown(w);
}

static void ask_orders(struct world *w)
{
        struct fleet *f = w->fleet;

        expect(w, 202, "POST", "/api/v1/instances/one/start", NULL, NULL, "{\"message\":\"one: done\"}");
        assert_string_equal(f->last_order, "0 one");
        expect(w, 202, "POST", "/api/v1/instances/one/stop", JSON, "{}", NULL);
        assert_string_equal(f->last_order, "1 one");
        expect(w, 202, "POST", "/api/v1/instances/all/restart", JSON, " {} ", NULL);
        assert_string_equal(f->last_order, "2 all");
        assert_int_equal(f->orders, 3);
        expect(w, 202, "POST", "/api/v1/instances/one/drain", NULL, NULL, "one: done");
        assert_int_equal(w->fleet->last_limit, 0);
        expect(w, 202, "POST", "/api/v1/instances/one/drain?limit=90s", NULL, NULL, "one: done");
        assert_int_equal(w->fleet->last_limit, 90 * USEC_PER_SEC);
        expect(w, 400, "POST", "/api/v1/instances/one/drain?limit=90", NULL, NULL, "limit: a duration");
        expect(w, 400, "POST", "/api/v1/instances/one/drain?limit=0s", NULL, NULL, "limit: a duration");
        expect(w, 400, "POST", "/api/v1/instances/one/drain?limit=25h", NULL, NULL, "limit: a duration");
        expect(w, 404, "POST", "/api/v1/instances/onn/stop", NULL, NULL, "did you mean \\\"one\\\"?");
        expect(w, 409, "POST", "/api/v1/instances/foreign/stop", NULL, NULL, "foreign: refused");
        f->shutting_down = true;
        expect(w, 503, "POST", "/api/v1/instances/one/stop", NULL, NULL, "unavailable_error");
        f->shutting_down = false;
        /* What a foreign page could make a browser send. */
        expect(w, 415, "POST", "/api/v1/instances/one/stop", "Content-Type: text/plain\r\n", "{}", NULL);
        expect(w, 415, "POST", "/api/v1/instances/one/stop", NULL, "{}", NULL);
        expect(w, 415, "POST", "/api/v1/reload", "Content-Type: application/x-www-form-urlencoded\r\n", "a=b",
               NULL);
        expect(w, 403, "POST", "/api/v1/instances/one/stop", "Origin: https://evil.example\r\n", NULL, NULL);
        expect(w, 403, "POST", "/api/v1/instances/one/stop", "Origin: null\r\n", NULL, NULL);
        expect(w, 400, "POST", "/api/v1/instances/one/stop", JSON, "{", "at byte");
        expect(w, 400, "POST", "/api/v1/instances/one/stop", JSON, "null", "must be an object");
        expect(w, 400, "POST", "/api/v1/instances/one/stop", JSON, "{\"force\":1}", "force");
        assert_int_equal(f->orders, 5);

        expect(w, 202, "POST", "/api/v1/models/one/load", NULL, NULL, "{\"message\":\"one: done\"}");
        assert_string_equal(f->last_order, "load one");
        expect(w, 202, "POST", "/api/v1/models/one/unload", JSON, "{}", NULL);
        assert_string_equal(f->last_order, "unload one");
        expect(w, 202, "POST", "/api/v1/models/one/unload?force=1", NULL, NULL, NULL);
        assert_string_equal(f->last_order, "unload with force one");
        assert_int_equal(f->orders, 8);
        expect(w, 404, "POST", "/api/v1/models/none/load", NULL, NULL, "none: refused");
        expect(w, 409, "POST", "/api/v1/models/busy/unload", NULL, NULL, "busy: refused");
        expect(w, 409, "POST", "/api/v1/models/big/load", NULL, NULL, "big: refused");
        expect(w, 409, "POST", "/api/v1/models/usual/load", NULL, NULL, "usual: refused");
        f->last_order[0] = '\0';
        expect(w, 400, "POST", "/api/v1/models/one/unload?force=perhaps", NULL, NULL, "\"param\":\"force\"");
        expect(w, 400, "POST", "/api/v1/models/one/load?force=1", NULL, NULL, "force");
        expect(w, 400, "POST", "/api/v1/models/one/load", JSON, "[]", "must be an object");
        expect(w, 415, "POST", "/api/v1/models/one/load", NULL, "{}", NULL);
        assert_string_equal(f->last_order, "");
        assert_int_equal(f->orders, 8);

        expect(w, 200, "POST", "/api/v1/reload?dry_run=1", NULL, NULL, "{\"applied\":false}");
        expect(w, 200, "POST", "/api/v1/reload", "Origin: http://localhost:3000\r\n", NULL,
               "{\"applied\":true}");
        expect(w, 400, "POST", "/api/v1/reload?dry_run=perhaps", NULL, NULL, "\"param\":\"dry_run\"");
        assert_int_equal(f->reloads, 2);
        assert_int_equal(f->dry_runs, 1);
        f->reload_error = "x.json:1:2: broken";
        expect(w, 422, "POST", "/api/v1/reload", NULL, NULL,
               "\"param\":null},\"errors\":[\"x.json:1:2: broken\"],\"applied\":false}");
        expect(w, 200, "GET", "/api/v1/status", NULL, NULL, "\"reloadError\":\"x.json:1:2: broken\"");
        expect(w, 200, "GET", "/", NULL, NULL, "The last reload failed: x.json:1:2: broken");
        f->config.auth_anonymous = CONFIG_SCOPE_READ;
        expect(w, 403, "POST", "/api/v1/instances/one/stop", NULL, NULL, "\\\"admin\\\"");
        f->config.auth_anonymous = 0;
        expect(w, 403, "GET", "/api/v1/status", NULL, NULL, "\\\"read\\\"");
        expect(w, 200, "GET", "/health", NULL, NULL, NULL);
        assert_int_equal(f->orders, 8);
}

static void orders(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_orders);
        teardown(w);
}

static void ask_large_body(struct world *w)
{
        _cleanup_free_ char *body = malloc(DOORS_BODY_MAX + 16);

        assert_non_null(body);
        memset(body, ' ', DOORS_BODY_MAX + 15);
        memcpy(body + DOORS_BODY_MAX - 2, "{}", 2);
        body[DOORS_BODY_MAX] = '\0';
        expect(w, 202, "POST", "/api/v1/instances/one/stop", JSON, body, NULL);
        memset(body, ' ', DOORS_BODY_MAX + 15);
        body[DOORS_BODY_MAX + 1] = '\0';
        expect(w, 413, "POST", "/api/v1/instances/one/stop", JSON, body, NULL);
        assert_int_equal(w->fleet->orders, 1);
}

/* An order whose client leaves before its body is whole is not given. */
static void ask_half_body(struct world *w)
{
        int fd = dial(&w->tcp);

        send_text(fd, "POST /api/v1/instances/one/stop HTTP/1.1\r\nHost: localhost\r\n" JSON
                      "Content-Length: 2\r\n\r\n{");
        close(fd);
        expect(w, 200, "GET", "/health", NULL, NULL, NULL);
        assert_int_equal(w->fleet->orders, 0);
}

static void bodies(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_half_body);
        teardown(w);
        w = setup();
        run(w, ask_large_body);
        teardown(w);
}

static void ask_gate(struct world *w)
{
        static const char *const refused[] = {
                "GET /health HTTP/1.1\r\nHost: evil.example\r\n" CLOSE "\r\n",
                "GET /health HTTP/1.0\r\n\r\n",
                "GET /nothing HTTP/1.1\r\nHost: evil.example\r\n" CLOSE "\r\n",
                "GET http://evil.example/health HTTP/1.1\r\nHost: evil.example\r\n" CLOSE "\r\n",
                "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: Upgrade, "
                "close\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
                "dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n" CLOSE "\r\n",
                "OPTIONS /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
                "Access-Control-Request-Method: POST\r\n" CLOSE "\r\n",
                "OPTIONS /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:1\r\n"
                "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: "
                "true\r\n" CLOSE "\r\n",
        };

        for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
                _cleanup_free_ char *answer = ask_at(&w->tcp, refused[i]);

                if (status_of(answer) != 403 || !strstr(answer, "permission_error"))
                        fail_msg("let in: %s\n%s", refused[i], answer);
                if (i < 7 && strstr(answer, "Access-Control-Allow-Origin"))
                        fail_msg("shared with a stranger: %s", refused[i]);
        }
        expect(w, 200, "GET", "/metrics", NULL, NULL,
               "llama_supervisor_http_refused_total{reason=\"host\"} 4\n");
        expect(w, 200, "GET", "/metrics", NULL, NULL,
               "llama_supervisor_http_refused_total{reason=\"private_network\"} 1\n");
        expect(w, 200, "GET", "/health", "Origin: http://localhost:3000\r\n", NULL,
               "Access-Control-Allow-Origin: http://localhost:3000\r\nVary: Origin\r\n");
        expect(w, 204, "OPTIONS", "/api/v1/reload",
               "Origin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\n", NULL,
               "Access-Control-Allow-Methods: POST, OPTIONS\r\n");
}

static void ask_control(struct world *w)
{
        struct endpoint control;
        struct stat st;
        _cleanup_free_ char *answer = NULL, *order = NULL;

        w->fleet->config.auth_anonymous = 0;
        assert_int_equal(endpoint_from_unix(w->doors->control, &control), 0);
        assert_int_equal(stat(w->doors->control, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0660);
        answer = ask_at(&control, "GET /api/v1/status HTTP/1.1\r\nHost: whatever\r\n" CLOSE "\r\n");
        assert_int_equal(status_of(answer), 200);
        order = ask_at(&control,
                       "POST /api/v1/instances/one/stop HTTP/1.1\r\nHost: whatever\r\n" CLOSE "\r\n");
        assert_int_equal(status_of(order), 202);
}

static void gate(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_gate);
        teardown(w);
        w = setup();
        run(w, ask_control);
        teardown(w);
}

/* --- logs ------------------------------------------------------------------------------------------------------------------ */

static void emit(struct follower *x, const char *line)
{
        x->on_line(x->owner, line, strlen(line));
}

enum { FLOOD_LINES = 40000, FLOOD_LINE = 400 }; /* 16 MB: more than all buffers in the kernel and here */

static void log_command(struct world *w, char c)
{
        static char line[FLOOD_LINE + 1];
        struct fleet_change gone = {.report = w->fleet->reports, .gone = true};

        memset(line, 'x', FLOOD_LINE);
        if (c == 'g')
                for (size_t i = 0; i < ARRAY_SIZE(w->fleet->subscribers); i++)
                        if (w->fleet->subscribers[i])
                                w->fleet->subscribers[i](w->fleet->owners[i], &gone, 1, loop_now(w->loop));
        if (!w->fleet->follower)
                return;
        if (c == 'l')
                emit(w->fleet->follower, "a new line");
        for (int i = 0; c == 'f' && i < FLOOD_LINES; i++)
                emit(w->fleet->follower, line);
}

static void read_until(int fd, const char *end, struct buffer *ret)
{
        char c[4096];
        ssize_t n;

        while (!ret->data || !strstr(ret->data, end)) {
                n = read(fd, c, sizeof(c));
                if (n <= 0)
                        fail_msg("no \"%s\" in the last of: %s", end,
                                 ret->data ? ret->data + (ret->len > 500 ? ret->len - 500 : 0) : "");
                assert_int_equal(buffer_append(ret, c, (size_t)n), 0);
                /* Only the end matters, and a long text is slow to search. */
                if (ret->len > 65536)
                        buffer_consume(ret, ret->len - 4096);
        }
}

#define FOLLOW "GET /api/v1/instances/one/logs?follow=1&lines=2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
static void follow_and_leave(struct world *w)
{
        _cleanup_buffer_ struct buffer b = {0};
        int fd = dial(&w->tcp);

        buffer_init(&b, 0);
        send_text(fd, FOLLOW);
        read_until(fd, "2 lines\na line\n", &b);
        assert_non_null(strstr(b.data, "Content-Type: text/plain; charset=utf-8\r\n"));
        command(w, 'l');
        read_until(fd, "a new line\n", &b);
        expect(w, 200, "GET", "/metrics", NULL, NULL, "llama_supervisor_log_followers 1\n");
        close(fd);
        for (int i = 0;; i++) {
                _cleanup_free_ char *metrics = ask(w, "GET", "/metrics", NULL, NULL);

                if (strstr(metrics, "llama_supervisor_log_followers 0\n"))
                        break;
                assert_true(i < 1000);
                usleep(10000);
        }
}

static void follow_too_many(struct world *w)
{
        int fds[DOORS_FOLLOWERS_MAX + DOORS_CONTROL_EXTRA + 1];
        struct endpoint control;

        assert_int_equal(endpoint_from_unix(w->doors->control, &control), 0);
        for (int i = 0; i < (int)ARRAY_SIZE(fds); i++) {
                _cleanup_buffer_ struct buffer b = {0};

                buffer_init(&b, 0);
                if (i == DOORS_FOLLOWERS_MAX) { /* others are refused, the control socket is not */
                        int fd = dial(&w->tcp);

                        send_text(fd, FOLLOW);
                        read_until(fd, "too many readers follow logs already", &b);
                        close(fd);
                        buffer_clear(&b);
                }
                fds[i] = dial(i < DOORS_FOLLOWERS_MAX ? &w->tcp : &control);
                send_text(fds[i], FOLLOW);
                read_until(fds[i], i + 1 < (int)ARRAY_SIZE(fds) ? "2 lines\na line\n" : "too many readers",
                           &b);
        }
        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                close(fds[i]);
}

static void follow_until_gone(struct world *w)
{
        _cleanup_free_ char *all = NULL;
        _cleanup_buffer_ struct buffer b = {0};
        int fd = dial(&w->tcp);

        buffer_init(&b, 0);
        send_text(fd, "GET /api/v1/instances/one/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n" CLOSE "\r\n");
        read_until(fd, "a line\n", &b);
        command(w, 'g');
        all = read_all(fd);
        assert_non_null(strstr(all, "--- this instance is gone\n"));
        assert_true(ends_with(all, "\r\n0\r\n\r\n"));
}

/* The reader sleeps through a flood: the flood costs a bounded queue, and the reader hears what it missed. */
static void follow_slowly(struct world *w)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct endpoint control; /* a unix socket holds little itself, so that the bound seen is ours */
        int fd;

        assert_int_equal(endpoint_from_unix(w->doors->control, &control), 0);
        fd = dial(&control);
        buffer_init(&b, 0);
        send_text(fd, FOLLOW);
        read_until(fd, "a line\n", &b);
        command(w, 'f');
        expect(w, 200, "GET", "/health", NULL, NULL, NULL);
        assert_true(w->doors->counts.follow_skipped > FLOOD_LINES * (FLOOD_LINE + 1) - 900000);
        /* It reads again; no new line comes, and still it is told. */
        read_until(fd, " bytes skipped: this reader is too slow\n", &b);
        assert_non_null(strstr(b.data, "\n--- "));
        assert_int_equal(strtoull(strstr(b.data, "\n--- ") + 5, NULL, 10), w->doors->counts.follow_skipped);
        command(w, 'l');
        read_until(fd, "a new line\n", &b);
        close(fd);
}

static void logs(void **state)
{
        static void (*const clients[])(struct world * w) = {follow_and_leave, follow_too_many,
                                                            follow_until_gone, follow_slowly};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(clients); i++) {
                struct world *w = setup();

                w->on_command = log_command;
                run(w, clients[i]);
                teardown(w);
        }
}

static void ask_foreign_log(struct world *w)
{
        w->fleet->log = NULL;
        expect(w, 404, "GET", "/api/v1/instances/one/logs", NULL, NULL, "somebody else");
        expect(w, 404, "GET", "/api/v1/instances/nobody/logs?follow=1", NULL, NULL, "no instance");
        w->fleet->log = "x\n";
        expect(w, 200, "HEAD", "/api/v1/instances/one/logs?follow=1", NULL, NULL, NULL);
}

static void no_logs(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_foreign_log);
        teardown(w);
}

/* Doors that are closed while a log is followed and a scrape runs: nothing leaks, nothing is called after. */
static void leave_streams_open(struct world *w)
{
        _cleanup_buffer_ struct buffer b = {0};
        int fd = dial(&w->tcp), scrape = dial(&w->tcp);

        buffer_init(&b, 0);
        send_text(fd, FOLLOW);
        read_until(fd, "a line\n", &b);
        send_text(scrape, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        (void)!read(scrape, (char[1]){0}, 1);
        /* Both stay open; they end with this process's test program. */
        (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void close_under_load(void **state)
{
        static char names[1000][32];
        struct world *w = setup();

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(names[i], sizeof(names[i]), "more-%zu", i);
                fake_fleet_add(w->fleet, names[i], "ready");
        }
        run(w, leave_streams_open);
        teardown(w);
}

static void ask_big_metrics(struct world *w)
{
        _cleanup_free_ char *all = NULL;

        all = ask(w, "GET", "/metrics", NULL, NULL);
        assert_int_equal(status_of(all), 200);
        assert_non_null(strstr(all, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert_true(strlen(all) > 2000000);
        assert_non_null(strstr(all, "process_start_time_seconds"));
        assert_true(ends_with(all, "\r\n0\r\n\r\n"));
        expect(w, 200, "HEAD", "/metrics", NULL, NULL, "version=0.0.4");
}

static void big_metrics(void **state)
{
        static char names[1000][32];
        struct world *w = setup();

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(names[i], sizeof(names[i]), "more-%zu", i);
                fake_fleet_add(w->fleet, names[i], "ready");
        }
        run(w, ask_big_metrics);
        teardown(w);
}

/* Readers that take nothing have all the places; the operator has one of his own, and the others get theirs when time is up. */
static void drip(struct world *w)
{
        _cleanup_free_ char *busy = NULL, *own = NULL, *late = NULL;
        int fds[DOORS_SCRAPES_MAX];
        struct endpoint control;

        for (unsigned i = 0; i < DOORS_SCRAPES_MAX; i++) {
                char head[12];

                fds[i] = dial(&w->tcp);
                send_text(fds[i], "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_int_equal(recv(fds[i], head, sizeof(head), MSG_WAITALL), sizeof(head));
                assert_memory_equal(head, "HTTP/1.1 200", sizeof(head));
        }
        busy = ask(w, "GET", "/metrics", NULL, NULL);
        assert_int_equal(status_of(busy), 503);
        assert_non_null(strstr(busy, "too many scrapes"));
        assert_int_equal(endpoint_from_unix(w->doors->control, &control), 0);
        own = ask_at(&control, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n" CLOSE "\r\n");
        assert_int_equal(status_of(own), 200);
        for (unsigned i = 0; i < 200 && (!late || status_of(late) == 503); i++) {
                (void)usleep(50000);
                free(late);
                late = ask(w, "GET", "/metrics", NULL, NULL);
        }
        assert_int_equal(status_of(late), 200);
        assert_non_null(strstr(late, "timeouts_total{stage=\"scrape\"} "));
        assert_null(strstr(late, "timeouts_total{stage=\"scrape\"} 0\n"));
        for (unsigned i = 0; i < DOORS_SCRAPES_MAX; i++)
                (void)close(fds[i]);
}

static void scrapes_that_drip(void **state)
{
        static char names[1000][32];
        struct world *w = setup();

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(names[i], sizeof(names[i]), "more-%zu", i);
                fake_fleet_add(w->fleet, names[i], "ready");
        }
        w->doors->scrape_deadline = USEC_PER_SEC;
        run(w, drip);
        teardown(w);
}

/* --- opening ------------------------------------------------------------------------------------------------------------------ */

static void refuses(const char *address, bool insecure, const char *part)
{
        struct fleet *f = calloc(1, sizeof(*f));
        char dir[] = "/tmp/lsv-doors-XXXXXX";
        _cleanup_free_ char *error = NULL;
        struct doors *d = NULL;
        struct loop *loop;

        assert_non_null(f);
        assert_non_null(mkdtemp(dir));
        listen_on[0] = (struct config_listen){.address = (char *)address};
        assert_int_equal(endpoint_parse(address, &listen_on[0].endpoint), 0);
        f->config =
                (struct config){.runtime_dir = dir, .listen = listen_on, .n_listen = 1, .insecure = insecure};
        assert_int_equal(loop_new(&loop), 0);
        f->loop = loop;
        if (part) {
                assert_true(doors_open(loop, f, NULL, NULL, &d, &error) < 0);
                assert_null(d);
                if (!error || !strstr(error, part) || !strstr(error, address))
                        fail_msg("%s: %s", address, error ? error : "no words");
        } else {
                assert_int_equal(doors_open(loop, f, NULL, NULL, &d, &error), 0);
                doors_close(d);
        }
        loop_free(loop);
        free(f);
        assert_int_equal(rmdir(dir), 0);
}

static void listeners(void **state)
{
        char taken[64];
        struct world *w = setup();
        char text[ENDPOINT_TEXT_MAX];

        (void)state;
        refuses("0.0.0.0:0", false, "insecure");
        refuses("[::]:0", false, "insecure");
        refuses("0.0.0.0:0", true, NULL);
        (void)snprintf(taken, sizeof(taken), "%s",
                       endpoint_text(&w->tcp, text, sizeof(text)) + strlen("http://"));
        refuses(taken, false, "another program");
        close(w->commands[1]);
        teardown(w);
}

static void listen_json_and_a_second_daemon(void **state)
{
        struct world *w = setup();
        _cleanup_free_ char *path = text_format("%s/listen.json", w->dir), *text = NULL, *wanted = NULL,
                            *error = NULL;
        struct doors *second = NULL;
        size_t len;

        (void)state;
        assert_int_equal(file_read(path, 4096, &text, &len), 0);
        wanted = text_format("{\"listen\":[\"%s\"],\"control\":\"%s/control.sock\"}\n",
                             w->doors->addresses[0], w->dir);
        assert_string_equal(text, wanted);
        assert_true(doors_open(w->loop, w->fleet, NULL, NULL, &second, &error) < 0);
        assert_non_null(strstr(error, "another daemon"));
        /* The second one's failure takes nothing of the first one's away. */
        assert_int_equal(access(path, R_OK), 0);
        assert_int_equal(access(w->doors->control, R_OK), 0);
        close(w->commands[1]);
        teardown(w);
}

/* Two reloads in one turn may leave the new configuration where the one before the last was: its address tells nothing. */
static void ask_after_reload(struct world *w)
{
        static char keys_file[128];

        expect(w, 200, "GET", "/api/v1/status", "Authorization: Bearer nobody's\r\n", NULL, NULL);
        (void)snprintf(keys_file, sizeof(keys_file), "%s/keys.json", w->dir);
        w->fleet->config.auth_keys_file = keys_file;
        w->fleet->config_number += 2;
        expect(w, 200, "GET", "/health", NULL, NULL, NULL); /* it is taken over at the end of this turn */
        expect(w, 401, "GET", "/api/v1/status", "Authorization: Bearer nobody's\r\n", NULL, NULL);
}

static void reloads(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, ask_after_reload);
        teardown(w);
}

static void ask_requests(struct world *w)
{
        expect(w, 200, "GET", "/api/v1/requests", NULL, NULL,
               "{\"total\":1,\"running\":[{\"id\":\"req-000000000003\"");
        expect(w, 200, "GET", "/api/v1/requests?recent=1", NULL, NULL,
               "\"recent\":[{\"id\":\"req-000000000002\"");
        expect(w, 200, "GET", "/api/v1/requests?recent=0", NULL, NULL, "\"recent\":[]}");
        expect(w, 400, "GET", "/api/v1/requests?recent=501", NULL, NULL, "\"param\":\"recent\"");
        expect(w, 200, "DELETE", "/api/v1/requests/req-1", NULL, NULL,
               "{\"message\":\"req-1 is cancelled\"}");
        expect(w, 404, "DELETE", "/api/v1/requests/req-2", NULL, NULL, "no request \\\"req-2\\\" is running");
        assert_string_equal(w->fleet->cancelled, "req-2");
        expect(w, 405, "GET", "/api/v1/requests/req-1", NULL, NULL, "Allow: DELETE, OPTIONS\r\n");
        w->fleet->config.auth_anonymous = CONFIG_SCOPE_READ;
        expect(w, 403, "DELETE", "/api/v1/requests/req-1", NULL, NULL, "admin");
        expect(w, 200, "GET", "/api/v1/requests", NULL, NULL, NULL);
        w->fleet->config.auth_anonymous = CONFIG_SCOPE_ADMIN;
        expect(w, 403, "GET", "/api/v1/requests", NULL, NULL, "read");
}

static void requests(void **state)
{
        struct world *w = setup();

        (void)state;
        assert_int_equal(activity_new(&w->fleet->activity), 0);
        for (unsigned i = 0; i < 2; i++)
                activity_end(w->fleet->activity, activity_begin(w->fleet->activity, "m", 1, 1), "ok", 2);
        (void)activity_begin(w->fleet->activity, "m", 1, 1);
        run(w, ask_requests);
        w->fleet->activity = activity_free(w->fleet->activity);
        teardown(w);
}

/* --- the instances' own metrics, while instances come and go ---------------------------------------------------------- */

enum { MANY_INSTANCES = 160, SHIFT_AT = 50 }; /* more than are taken in one turn */

static unsigned found;
static char told[128];

static const char *tell_name(const char *instance)
{
        (void)snprintf(told, sizeof(told), "# TYPE llamacpp:who gauge\nllamacpp:who{is=\"%s\"} 1\n",
                       instance);
        return told;
}

/* A reload between two turns: the first forty go, ten new ones come in front of the others. Their texts are freed, as a fleet's are. */
static void reload_between(struct fleet *f)
{
        if (++found != SHIFT_AT + 1)
                return;
        for (size_t i = 0; i < 40; i++) {
                free((char *)f->reports[i].instance);
                free((char *)f->reports[i].model);
        }
        memmove(f->reports + 10, f->reports + 40, (f->n - 40) * sizeof(f->reports[0]));
        f->n -= 30;
        for (size_t i = 0; i < 10; i++) {
                f->reports[i] = f->reports[10];
                f->reports[i].instance = text_format("new-%zu", i);
                f->reports[i].model = text_format("of-new-%zu", i);
        }
}

static void ask_children(struct world *w)
{
        _cleanup_free_ char *answer = ask(w, "GET", "/metrics/instances", NULL, NULL);

        assert_int_equal(status_of(answer), 200);
        for (size_t i = 0; i < MANY_INSTANCES; i++) {
                _cleanup_free_ char *line = text_format(
                        "llamacpp:who{instance=\"many-%zu\",model=\"of-many-%zu\",is=\"many-%zu\"} 1\n", i, i,
                        i);
                const char *first = strstr(answer, line);

                /* All that were there at first and stayed, each once and under its own name. */
                if (!first || strstr(first + 1, line))
                        fail_msg("%s: %s", first ? "twice" : "not told", line);
        }
        assert_null(strstr(answer, "new-"));
}

static void children_while_instances_go(void **state)
{
        struct world *w = setup();

        (void)state;
        w->fleet->n = 0;
        for (size_t i = 0; i < MANY_INSTANCES; i++) {
                fake_fleet_add(w->fleet, text_format("many-%zu", i), "ready");
                w->fleet->reports[i].model = text_format("of-many-%zu", i);
        }
        w->fleet->metrics = tell_name;
        w->fleet->on_find = reload_between;
        found = 0;
        run(w, ask_children);
        assert_true(found > SHIFT_AT);
        for (size_t i = 0; i < w->fleet->n; i++) {
                free((char *)w->fleet->reports[i].instance);
                free((char *)w->fleet->reports[i].model);
        }
        teardown(w);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(children_while_instances_go),
                cmocka_unit_test(routes),
                cmocka_unit_test(orders),
                cmocka_unit_test(bodies),
                cmocka_unit_test(gate),
                cmocka_unit_test(requests),
                cmocka_unit_test(reloads),
                cmocka_unit_test(logs),
                cmocka_unit_test(no_logs),
                cmocka_unit_test(close_under_load),
                cmocka_unit_test(big_metrics),
                cmocka_unit_test(scrapes_that_drip),
                cmocka_unit_test(listeners),
                cmocka_unit_test(listen_json_and_a_second_daemon),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
