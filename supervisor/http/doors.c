/* doors.c: the listeners, and the way of a request to its handler: gate, path, route, method, scope, parameters. */
#include "http/doors.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "core/trace.h"
#include "base/text.h"
#include "core/http1_uri.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

#define CONTROL_GROUP "llama-supervisor"
enum { PREFLIGHT_HEADERS_MAX = 600 };

/* --- the way of a request ----------------------------------------------------------------------------------------- */

static const usec_t SCRAPE_DEADLINE = 30 * USEC_PER_SEC;

static bool is_control(const struct request *req)
{
        const char *tag = listener_tag(request_listener(req));

        return tag && streq(tag, DOORS_CONTROL);
}

static void refuse_by_gate(struct doors *d, struct request *req, enum gate_verdict v)
{
        const struct http1_request *head = request_head(req);
        struct log_about about = {0};
        struct trace trace;

        d->counts.gate_refused[v]++;
        trace_of(head->headers, head->n_headers, &trace);
        about.trace = trace.id[0] ? trace.id : NULL;
        log_about(LOG_DEBUG, &about, "request of %s refused: %s", request_peer(req), gate_verdict_words(v));
        /* Nothing of the answer is for the stranger's page: no CORS lines, they are only for those that passed. */
        if (v == GATE_HOST || v == GATE_ORIGIN)
                respond_error_bare(req, gate_verdict_status(v), gate_verdict_words(v));
        else
                doors_respond_error(req, gate_verdict_status(v), "%s", gate_verdict_words(v));
}

static bool passes_gate(struct doors *d, struct request *req)
{
        const struct config *config = fleet_config(d->fleet);
        const struct gate gate = {.bound = listener_endpoint(request_listener(req)),
                                  .allowed_hosts = config->gateway.allowed_hosts,
                                  .allowed_origins = config->gateway.allowed_origins};
        enum gate_verdict v = gate_check(&gate, request_head(req));

        if (v != GATE_PASS)
                refuse_by_gate(d, req, v);
        return v == GATE_PASS;
}

static void answer_not_found(struct doors *d, struct request *req, const char *path)
{
        char nearest[DOORS_PATH_MAX];

        d->counts.errors++;
        if (router_nearest(doors_routes, path, nearest, sizeof(nearest)))
                doors_respond_error(req, 404, "there is nothing at %s: did you mean %s?", path, nearest);
        else
                doors_respond_error(req, 404, "there is nothing at %s: GET /openapi.json lists what there is",
                                    path);
}

static void answer_method(struct call *call)
{
        char methods[64], headers[96], message[256];

        call->doors->counts.errors++;
        (void)snprintf(headers, sizeof(headers), "Allow: %s\r\n",
                       route_methods(call->route, methods, sizeof(methods)));
        (void)snprintf(message, sizeof(message), "%.*s is not for %s: use %s",
                       (int)MIN(call->head->method_name.n, 32U), call->head->method_name.p,
                       call->route->pattern, methods);
        respond_error_with(call->req, call->head->method == HTTP1_OTHER ? 501 : 405, NULL, headers, message);
}

/* What a page of ours wants to send (clients of models send a dozen headers of their own), if it is a plain list and no essay. */
static struct slice asked_headers(const struct call *call)
{
        static const struct slice usual = SLICE("Authorization, Content-Type, Last-Event-ID, X-Api-Key");
        struct slice asked = {0}, rest, item;

        if (http1_header_find(call->head->headers, call->head->n_headers, "access-control-request-headers",
                              &asked) != 1 ||
            !asked.n || asked.n > PREFLIGHT_HEADERS_MAX)
                return usual;
        for (rest = asked; http1_list_next(&rest, &item);)
                if (!http1_is_token(item))
                        return usual;
        return asked;
}

static void answer_options(struct call *call)
{
        char methods[64], headers[PREFLIGHT_HEADERS_MAX + 256];
        struct slice asked;
        enum gate_verdict v;

        (void)route_methods(call->route, methods, sizeof(methods));
        if (!gate_is_preflight(call->head)) {
                (void)snprintf(headers, sizeof(headers), "Allow: %s\r\n", methods);
                respond_text(call->req, 204, NULL, headers, NULL, 0);
                return;
        }
        v = gate_check_preflight(call->head);
        if (v != GATE_PASS) {
                refuse_by_gate(call->doors, call->req, v);
                return;
        }
        asked = asked_headers(call);
        (void)snprintf(headers, sizeof(headers),
                       "Allow: %s\r\nAccess-Control-Allow-Methods: %s\r\n"
                       "Access-Control-Allow-Headers: %.*s\r\nAccess-Control-Max-Age: 600\r\n",
                       methods, methods, (int)asked.n, asked.p);
        respond_text(call->req, 204, NULL, headers, NULL, 0);
}

static enum config_scope config_scope_of(enum route_scope scope)
{
        switch (scope) {
        case ROUTE_READ:
                return CONFIG_SCOPE_READ;
        case ROUTE_INFER:
                return CONFIG_SCOPE_INFER;
        case ROUTE_ADMIN:
        case ROUTE_OPEN:
                break;
        }
        return CONFIG_SCOPE_ADMIN;
}

/* Without "insecure" a listener that other machines reach serves nobody without a key. */
static bool needs_key(const struct call *call)
{
        return !endpoint_is_loopback(listener_endpoint(request_listener(call->req))) &&
               !fleet_config(call->doors->fleet)->insecure;
}

static void refuse_by_auth(struct call *call, enum auth_verdict v, const char *scope)
{
        struct doors *d = call->doors;
        char words[AUTH_WORDS_MAX];

        auth_refused(d->auth, v, request_peer(call->req), loop_now(d->loop));
        (void)auth_verdict_words(v, &call->caller, scope, words, sizeof(words));
        if (auth_verdict_status(v) == 401)
                respond_error_coded(call->req, 401, "invalid_api_key",
                                    v == AUTH_MISSING
                                            ? "WWW-Authenticate: Bearer realm=\"llama-supervisor\"\r\n"
                                            : "WWW-Authenticate: Bearer realm=\"llama-supervisor\", "
                                              "error=\"invalid_token\"\r\n",
                                    words);
        else
                doors_respond_error(call->req, auth_verdict_status(v), "%s", words);
}

/* Finds out who is calling, once, and whether they may. */
static bool passes_auth(struct call *call)
{
        enum route_scope scope = route_scope_of(call->route, call->head->method);
        const struct config *config = fleet_config(call->doors->fleet);
        enum auth_verdict v = AUTH_PASS;

        if (scope == ROUTE_OPEN && !(call->route->flags & ROUTE_WHO))
                return true;
        if (call->control)
                auth_control(&call->caller);
        else
                v = auth_identify(call->doors->auth, call->head, needs_key(call), config->auth_anonymous,
                                  &call->caller);
        if (scope == ROUTE_OPEN && (v == AUTH_PASS || v == AUTH_MISSING))
                return true;
        if (v == AUTH_PASS && !caller_may(&call->caller, config_scope_of(scope)) &&
            !(call->route->flags & ROUTE_OR_INFER && caller_may(&call->caller, CONFIG_SCOPE_INFER)))
                v = AUTH_SCOPE;
        if (v != AUTH_PASS) {
                refuse_by_auth(call, v, route_scope_name(scope));
                return false;
        }
        request_set_mark(call->req, caller_mark(&call->caller, config_scope_of(scope)));
        return true;
}

static bool passes_query(struct call *call)
{
        const char *nearest = NULL;
        char name[80];

        if (!route_unknown_param(call->route, call->head->query, name, sizeof(name), &nearest))
                return true;
        call->doors->counts.errors++;
        if (nearest)
                respond_error_param(call->req, 400, name,
                                    "unknown query parameter \"%s\": did you mean \"%s\"?", name, nearest);
        else
                respond_error_param(call->req, 400, name, "unknown query parameter \"%s\"", name);
        return false;
}

static void handle_call(struct call *call)
{
        enum gate_verdict v;

        if (call->head->method == HTTP1_OPTIONS && !(call->route->flags & ROUTE_OWN_OPTIONS)) {
                answer_options(call);
                return;
        }
        if (!route_allows(call->route, call->head->method)) {
                answer_method(call);
                return;
        }
        if (!passes_auth(call))
                return;
        if (!passes_query(call))
                return;
        if (route_is_order(call->head->method) && !(call->route->flags & ROUTE_ANY_BODY)) {
                v = call->route->flags & ROUTE_WORK
                            ? gate_check_work(call->head, call->route->flags & ROUTE_MULTIPART)
                            : gate_check_order(call->head);
                if (v != GATE_PASS) {
                        refuse_by_gate(call->doors, call->req, v);
                        return;
                }
        }
        if (call->head->method == HTTP1_HEAD && call->route->flags & ROUTE_STREAM) {
                respond_begin(call->req, 200, call->route->content_type, NULL);
                request_end(call->req);
                return;
        }
        if (route_is_order(call->head->method) && call->route->handle_order)
                call->route->handle_order(call);
        else
                call->route->handle(call);
}

static void on_request(void *owner, struct request *req)
{
        struct doors *d = owner;
        struct call call = {.doors = d, .req = req, .head = request_head(req), .control = is_control(req)};
        struct route_match match;
        char path[DOORS_PATH_MAX];
        int r;

        if (!call.control && !passes_gate(d, req))
                return;
        if (slice_eq(call.head->path, SLICE("*"))) {
                respond_text(req, 204, NULL, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", NULL,
                             0);
                return;
        }
        r = http1_path_normal(call.head->path, path, sizeof(path));
        if (r < 0) {
                d->counts.errors++;
                doors_respond_error(req, r == -ENOBUFS ? 414 : 400, "the path is %s",
                                    r == -ENOBUFS ? "too long" : "malformed or not in its normal form");
                return;
        }
        if (router_find(doors_routes, path, &match) < 0) {
                answer_not_found(d, req, path);
                return;
        }
        call.route = match.route;
        call.name = match.name;
        call.rest = match.rest;
        handle_call(&call);
}

/* --- for the handlers ---------------------------------------------------------------------------------------------- */

static bool param_passes(struct call *call, const char *name, int r, const char *why)
{
        if (r == 0)
                return true;
        call->doors->counts.errors++;
        respond_error_param(call->req, 400, name, "%s", why);
        return false;
}

bool call_get_text(struct call *call, const char *name, char *buf, size_t size, const char **ret)
{
        char why[PARAM_WHY_MAX];

        return param_passes(call, name, param_text(call->head->query, name, buf, size, ret, why, sizeof(why)),
                            why);
}

bool call_get_uint(struct call *call, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                   uint64_t *ret)
{
        char why[PARAM_WHY_MAX];

        return param_passes(call, name,
                            param_uint(call->head->query, name, min, max, fallback, ret, why, sizeof(why)),
                            why);
}

bool call_get_bool(struct call *call, const char *name, bool *ret)
{
        char why[PARAM_WHY_MAX];

        return param_passes(call, name, param_bool(call->head->query, name, ret, why, sizeof(why)), why);
}

void doors_no_instance(struct doors *d, struct request *req, const char *name)
{
        const char *nearest = fleet_nearest(d->fleet, name);

        d->counts.errors++;
        if (nearest && streq(nearest, name))
                doors_respond_error(req, 404, "\"%s\" has several instances: say which one, as %s-0", name,
                                    name);
        else if (nearest)
                doors_respond_error(req, 404, "there is no instance \"%s\": did you mean \"%s\"?", name,
                                    nearest);
        else
                doors_respond_error(req, 404, "there is no instance \"%s\"", name);
}

void doors_log_order(const char *subject, const char *order, const struct request *req, int r,
                     const char *message)
{
        const char *peer = request_peer(req);

        if (streq(peer, "unix"))
                peer = "a local user";
        if (r < 0)
                log_info(subject, "%s asked for by %s, refused: %s", order, peer,
                         message ? message : strerror(-r));
        else
                log_info(subject, "%s asked for by %s", order, peer);
}

void call_no_instance(struct call *call, const char *name)
{
        doors_no_instance(call->doors, call->req, name);
}

/* --- opening and closing ------------------------------------------------------------------------------------------- */

static void on_change(void *owner, const struct fleet_change *changes, size_t n, usec_t now)
{
        (void)now;
        for (size_t i = 0; i < n; i++)
                if (changes[i].gone)
                        follow_instance_gone(owner, changes[i].report->instance);
}

static void on_revoked(void *owner, uint64_t mark)
{
        struct doors *d = owner;
        unsigned n = (d->server ? server_end_marked(d->server, mark) : 0) +
                     (d->feed ? feed_end_marked(d->feed, mark) : 0);

        if (n)
                log_info(NULL, "%u %s of a key that was revoked or lost a scope %s ended", n,
                         n == 1 ? "request" : "requests", n == 1 ? "was" : "were");
}

void doors_tell(struct doors *d, const char *kind, const char *text, bool bad)
{
        const struct history_event event = {.kind = kind, .text = text};

        history_tell(fleet_history(d->fleet), bad ? LOG_ERR : LOG_INFO, &event);
}

static void on_auth_event(void *owner, const char *kind, const char *text)
{
        doors_tell(owner, kind, text, streq(kind, "keys_failed"));
}

static int apply_auth(struct doors *d, char **ret_error)
{
        d->applied = fleet_config_number(d->fleet);
        return auth_apply(d->auth, fleet_config(d->fleet), ret_error);
}

/* After a reload the fleet has another configuration. */
static void on_turn(void *owner, usec_t now)
{
        struct doors *d = owner;
        _cleanup_free_ char *error = NULL;
        int r;

        (void)now;
        if (fleet_config_number(d->fleet) == d->applied)
                return;
        r = apply_auth(d, &error);
        if (r < 0)
                doors_tell(d, "keys_failed", error ? error : strerror(-r), true);
        doors_tls_reload(d);
}

static int on_key(void *owner, struct slice key, const char *peer, uint64_t *ret_mark, char *words,
                  size_t size)
{
        struct doors *d = owner;
        struct caller caller;
        enum auth_verdict v;

        if (!auth_has_keys(d->auth))
                return 0;
        v = auth_judge(d->auth, key, true, 0, &caller);
        if (v == AUTH_PASS && !caller_may(&caller, CONFIG_SCOPE_READ))
                v = AUTH_SCOPE;
        if (v == AUTH_PASS) {
                *ret_mark = caller_mark(&caller, CONFIG_SCOPE_READ);
                return 1;
        }
        auth_refused(d->auth, v, peer, loop_now(d->loop));
        (void)auth_verdict_words(v, &caller, "read", words, size);
        return -EACCES;
}

static int open_auth(struct doors *d, char **ret_error)
{
        static const struct auth_events events = {.on_revoked = on_revoked, .on_event = on_auth_event};
        int r = auth_new(d->loop, &events, d, &d->auth);

        if (r >= 0)
                r = apply_auth(d, ret_error);
        if (r >= 0)
                r = loop_add_turn(d->loop, on_turn, d);
        d->turning = r >= 0;
        if (r >= 0 && fleet_config(d->fleet)->auth_keys_file && !auth_keys_in_force(d->auth))
                log_warn(NULL, "%s holds no key in force: llama-supervisor key add NAME makes one",
                         fleet_config(d->fleet)->auth_keys_file);
        return r;
}

static int complain(char **ret_error, int r, const char *what, const char *why)
{
        *ret_error = text_format("%s: %s", what, why);
        return r;
}

/* As clients write it. */
static int add_address(struct doors *d, const struct listener *l, bool tls)
{
        char text[ENDPOINT_TEXT_MAX], with_tls[ENDPOINT_TEXT_MAX + 1];

        (void)endpoint_text(listener_endpoint(l), text, sizeof(text));
        if (!tls)
                return text_list_add(&d->addresses, text);
        (void)snprintf(with_tls, sizeof(with_tls), "https%s", text + strlen("http"));
        return text_list_add(&d->addresses, with_tls);
}

/* Nobody shall be reached from outside who asks for no key. */
static int check_reach(const struct doors *d, const struct config *config, const struct endpoint *at,
                       const char *address, char **ret_error)
{
        if (!endpoint_is_loopback(at) && !config->insecure && !auth_keys_in_force(d->auth))
                return complain(ret_error, -EPERM, address,
                                config->auth_keys_file
                                        ? "refused: this address can be reached from other machines, and "
                                          "there is no key in force that they could show: make one with "
                                          "llama-supervisor key add NAME"
                                        : "refused: this address can be reached from other machines, and "
                                          "nobody would be asked for a key; set auth.keys_file, use "
                                          "127.0.0.1, or say \"insecure\": true in the configuration");
        return 0;
}

static void warn_of_reach(const struct config *config, const struct endpoint *at, const char *address,
                          bool tls)
{
        if (!endpoint_is_loopback(at) && config->insecure)
                log_warn(NULL, "%s can be reached from other machines without a key, as \"insecure\" says",
                         address);
        else if (!endpoint_is_loopback(at) && !tls)
                log_warn(NULL,
                         "%s can be reached from other machines without TLS: keys and answers can be "
                         "read on their way",
                         address);
}

static int open_listener(struct doors *d, const struct config *config, const struct config_listen *at,
                         char **ret_error)
{
        struct listener *l;
        int r;

        r = check_reach(d, config, &at->endpoint, at->address, ret_error);
        if (r < 0)
                return r;
        r = doors_listen(d, &at->endpoint, at->address, NULL, &l);
        if (r == -EADDRINUSE)
                return complain(ret_error, r, at->address,
                                "cannot listen: another program listens there already");
        if (r < 0) {
                *ret_error = text_format("%s: cannot listen: %s", at->address, strerror(-r));
                return r;
        }
        r = add_address(d, l, at->tls);
        if (r >= 0 && at->tls)
                r = doors_tls_open(d, at, l, ret_error);
        if (r < 0)
                return r;
        warn_of_reach(config, &at->endpoint, at->address, at->tls);
        return 0;
}

/* What a socket unit gives beyond the configuration: the same rules as for others hold. */
static int open_further(struct doors *d, const struct config *config, char **ret_error)
{
        struct inherited_socket s;
        char address[ENDPOINT_TEXT_MAX];
        struct listener *l;
        int r = 0;

        while (r >= 0 && d->handover && inherited_take_unit(handover_inherited(d->handover), &s)) {
                (void)endpoint_text(&s.at, address, sizeof(address));
                r = check_reach(d, config, &s.at, address, ret_error);
                if (r < 0) {
                        (void)close(s.fd);
                        return r;
                }
                r = doors_listen_on(d, &s, &l);
                if (r >= 0)
                        r = add_address(d, l, false);
                if (r >= 0)
                        warn_of_reach(config, &s.at, address, false);
        }
        return r;
}

/* Its group may use it; without such a group only its owner can. */
static void give_to_group(const char *path)
{
        const struct group *group = geteuid() == 0 ? getgrnam(CONTROL_GROUP) : NULL;

        if (group && lchown(path, (uid_t)-1, group->gr_gid) < 0)
                log_warn(NULL, "cannot give %s to the group %s: %s", path, CONTROL_GROUP, strerror(errno));
}

static int open_control(struct doors *d, const struct config *config, char **ret_error)
{
        struct endpoint at;
        struct listener *l;
        int r;

        d->control = text_format("%s/control.sock", config->runtime_dir);
        if (!d->control)
                return -ENOMEM;
        r = endpoint_from_unix(d->control, &at);
        if (r == -ENAMETOOLONG)
                return complain(ret_error, r, d->control,
                                "this path is too long for a socket (107 bytes at most): "
                                "choose a shorter runtime_dir");
        if (r >= 0)
                r = doors_listen(d, &at, d->control, DOORS_CONTROL, &l);
        if (r == -EADDRINUSE)
                return complain(ret_error, r, d->control, "another daemon answers there already");
        if (r < 0)
                return complain(ret_error, r, d->control, strerror(-r));
        listener_set_vital(l);
        give_to_group(d->control);
        return 0;
}

/* Whole and at once: readers see the old file, the new one, or none. */
static int write_file(const char *path, const struct buffer *content)
{
        _cleanup_free_ char *temporary = text_format("%s.new", path);
        _cleanup_close_ int fd = -1;
        int r = 0;

        if (!temporary || content->failed)
                return -ENOMEM;
        (void)unlink(temporary);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0)
                return -errno;
        if (write(fd, content->data, content->len) != (ssize_t)content->len)
                r = errno ? -errno : -EIO;
        if (r == 0 && rename(temporary, path) < 0)
                r = -errno;
        if (r < 0)
                (void)unlink(temporary);
        return r;
}

static int write_listen_json(struct doors *d, const struct config *config)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r;

        d->listen_json = text_format("%s/listen.json", config->runtime_dir);
        if (!d->listen_json)
                return -ENOMEM;
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "listen");
        json_open_array(&w);
        for (char **a = d->addresses; a && *a; a++)
                json_put_string(&w, *a);
        json_close_array(&w);
        json_string(&w, "control", d->control);
        json_close_object(&w);
        (void)buffer_putc(&b, '\n');
        r = write_file(d->listen_json, &b);
        if (r < 0) {
                free(d->listen_json);
                d->listen_json = NULL;
        }
        return r;
}

static int open_all(struct doors *d, char **ret_error)
{
        const struct config *config = fleet_config(d->fleet);
        int r;

        r = open_auth(d, ret_error);
        if (r >= 0)
                r = follow_init(d);
        if (r >= 0)
                r = ownlog_new(d->loop, &d->ownlog);
        if (r >= 0)
                r = feed_new(d->loop, d->fleet, &d->feed);
        if (r >= 0)
                feed_on_key(d->feed, on_key, d);
        if (r >= 0)
                feed_set_ownlog(d->feed, d->ownlog);
        if (r >= 0)
                r = feed_set_hubs(d->feed, d->hubs);
        if (r >= 0)
                r = gateway_new(d, &d->gateway);
        if (r >= 0)
                r = server_new(d->loop, &server_limits_default, on_request, d, &d->server);
        if (r >= 0)
                r = fleet_subscribe(d->fleet, on_change, d);
        if (r < 0)
                return r;
        d->subscribed = true;
        /* The control socket first: a second daemon on the same directory shall say so, and not that a port is taken. */
        r = open_control(d, config, ret_error);
        for (size_t i = 0; i < config->n_listen && r >= 0; i++)
                r = open_listener(d, config, config->listen + i, ret_error);
        if (r >= 0)
                r = open_further(d, config, ret_error);
        if (r < 0)
                return r;
        r = write_listen_json(d, config);
        if (r < 0)
                return complain(ret_error, r, "cannot write listen.json into runtime_dir", strerror(-r));
        for (char **a = d->addresses; a && *a; a++)
                log_info(NULL, "listening on %s", *a);
        doors_join_handover(d);
        return 0;
}

int doors_open(struct loop *loop, struct fleet *fleet, struct handover *handover, struct hubs *hubs,
               struct doors **ret, char **ret_error)
{
        struct doors *d = calloc(1, sizeof(*d));
        int r;

        *ret_error = NULL;
        if (!d)
                return -ENOMEM;
        d->loop = loop;
        d->fleet = fleet;
        d->handover = handover;
        d->hubs = hubs;
        d->started = loop_now(loop);
        d->scrape_deadline = SCRAPE_DEADLINE;
        d->started_realtime = loop_realtime(loop);
        r = open_all(d, ret_error);
        if (r < 0) {
                if (!*ret_error)
                        *ret_error = text_dup(strerror(-r));
                doors_close(d);
                return r;
        }
        *ret = d;
        return 0;
}

struct doors *doors_close(struct doors *d)
{
        if (!d)
                return NULL;
        doors_leave_handover(d);
        if (d->subscribed)
                fleet_unsubscribe(d->fleet, on_change, d);
        if (d->listen_json)
                (void)unlink(d->listen_json);
        /* The feed ends its streams itself; the rest is told by on_gone. */
        d->feed = feed_free(d->feed);
        d->server = server_free(d->server);
        d->gateway = gateway_free(d->gateway);
        if (d->turning)
                loop_remove_turn(d->loop, on_turn, d);
        d->auth = auth_free(d->auth);
        doors_tls_close(d);
        d->follow_timer = timer_free(d->follow_timer);
        d->ownlog = ownlog_free(d->ownlog);
        text_list_free(d->addresses);
        free(d->doorways);
        free(d->control);
        free(d->listen_json);
        free(d);
        return NULL;
}
