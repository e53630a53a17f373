/* gateway.c: the way in: body, model, edits, and off to the relay. */
#include "http/gateway.h"

#include <errno.h>
#include <stdio.h>

#include "base/json_scan.h"
#include "base/text.h"
#include "core/http1_uri.h"
#include "core/keep_alive.h"
#include "core/multipart.h"
#include "http/gateway_private.h"
#include "http/respond.h"

/* --- life ------------------------------------------------------------------------------------------------------------ */

int gateway_new(struct doors *doors, struct gateway **ret)
{
        struct gateway *g = calloc(1, sizeof(*g));
        int r;

        if (!g)
                return -ENOMEM;
        g->doors = doors;
        list_init(&g->waiting);
        list_init(&g->handed);
        buffer_init(&g->lines, 0);
        r = timer_new(doors->loop, gateway_tick, g, &g->tick);
        if (r < 0) {
                free(g);
                return r;
        }
        *ret = g;
        return 0;
}

struct gateway *gateway_free(struct gateway *g)
{
        if (!g)
                return NULL;
        g->tick = timer_free(g->tick);
        buffer_finish(&g->lines);
        free(g);
        return NULL;
}

const struct gateway_counts *gateway_counts(const struct gateway *g)
{
        return &g->counts;
}

void errand_free(struct errand *e)
{
        list_remove(&e->node);
        submit_free(e);
        if (e->ensemble)
                e->ensemble = ensemble_run_free(e->ensemble);
        else if (e->relay && !e->relay_over)
                relay_cancel(e->relay);
        for (; e->counted; e->counted--)
                auth_end(e->gateway->doors->auth, &e->caller);
        peek_pieces_finish(&e->pieces);
        buffer_finish(&e->made);
        buffer_finish(&e->collect);
        free(e->set);
        e->gateway->counts.open--;
        free(e);
}

static void on_gone(void *owner, struct request *req)
{
        (void)req;
        errand_free(owner);
}

static enum ticket_priority priority_of(enum key_priority p)
{
        switch (p) {
        case KEY_PRIORITY_HIGH:
                return TICKET_HIGH;
        case KEY_PRIORITY_LOW:
                return TICKET_LOW;
        default:
                return TICKET_NORMAL;
        }
}

static struct errand *errand_new(struct call *call, enum errand_kind kind)
{
        struct gateway *g = call->doors->gateway;
        struct errand *e = calloc(1, sizeof(*e));

        if (!e) {
                g->counts.refused[GATEWAY_REFUSED_MEMORY]++;
                doors_respond_error(call->req, 503, "not enough memory");
                return NULL;
        }
        list_init(&e->node);
        e->gateway = g;
        e->req = call->req;
        e->route = call->route;
        e->kind = kind;
        e->anthropic = starts_with(call->route->pattern, "/v1/messages");
        e->caller = call->caller;
        e->priority = priority_of(call->caller.priority);
        e->keep_alive = KEEP_ALIVE_NONE;
        e->began = loop_now(call->doors->loop);
        g->counts.requests++;
        g->counts.open++;
        request_on_gone(call->req, on_gone, e);
        return e;
}

/* --- whose model ------------------------------------------------------------------------------------------------------- */

/* Names and aliases, a bounded text of them, and the one that is nearest to what was asked for. */
static void list_models(struct doors *d, const char *asked, struct buffer *out, const char **ret_nearest)
{
        struct fleet *f = d->fleet;
        const struct config *config = fleet_config(f);
        char **names = NULL;
        size_t shown = 0, more = 0;
        const char *name;

        for (size_t i = 0; (name = dispatch_model_name(f, i)); i++) {
                (void)text_list_add(&names, name);
                if (out->len < 600 && ++shown)
                        (void)buffer_printf(out, "%s%s", i ? ", " : "", name);
                else
                        more++;
        }
        if (more)
                (void)buffer_printf(out, " and %zu more", more);
        for (size_t i = 0; i < config->n_instances; i++)
                for (char **a = config->instances[i].aliases; a && *a; a++)
                        (void)text_list_add(&names, *a);
        submit_list_models(d->hubs, out, &names);
        name = asked[0] && names ? text_nearest(asked, (const char *const *)names) : NULL;
        *ret_nearest = NULL;
        if (name && buffer_putc(out, '\0') == 0 && buffer_puts(out, name) == 0)
                *ret_nearest = out->data + strlen(out->data) + 1;
        (void)text_list_free(names);
}

static void refuse_model(struct errand *e, int r)
{
        _cleanup_buffer_ struct buffer list = {0};
        const struct doors *d = e->gateway->doors;
        const char *nearest, *all, *where = "";

        if (d->hubs && hubs_may_submit(d->hubs, e->model))
                where = ", neither here nor at a worker of the hub";
        buffer_init(&list, 0);
        list_models(e->gateway->doors, e->model, &list, &nearest);
        all = list.len ? list.data : "none";
        (void)text_harmless(e->model);
        if (r == -EINVAL)
                errand_refuse(e, GATEWAY_REFUSED_MODEL, 400, "model_missing", "model",
                              "the request names no model, and there is no gateway.default_model: say which "
                              "in \"model\" "
                              "(there are: %s)",
                              all);
        else if (nearest)
                errand_refuse(e, GATEWAY_REFUSED_MODEL, 404, "model_not_found", "model",
                              "the model \"%s\" does not exist: did you mean \"%s\"? (there are: %s)",
                              e->model, nearest, all);
        else
                errand_refuse(e, GATEWAY_REFUSED_MODEL, 404, "model_not_found", "model",
                              "the model \"%s\" does not exist%s (there are: %s)", e->model, where, all);
}

/* "qwen" has no instance of its own when there are "qwen-0" and "qwen-1": those are named. */
static void refuse_instance(struct errand *e)
{
        struct fleet *f = e->gateway->doors->fleet;
        const struct config_instance *entry;
        char all[256] = "";
        size_t len = 0, left = 0;

        for (size_t i = 0; dispatch_resolve(f, e->instance, &entry) == 0 && i < fleet_count(f); i++) {
                const struct fleet_brief r = fleet_brief(f, i);

                if (!streq(r.model, entry->name))
                        continue;
                if (len + strlen(r.instance) + 2 < sizeof(all))
                        len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s", len ? ", " : "",
                                                r.instance);
                else
                        left++;
        }
        if (len == 0)
                errand_refuse(e, GATEWAY_REFUSED_INSTANCE, 404, "instance_not_found", NULL,
                              "there is no instance \"%s\": GET /api/v1/instances lists them", e->instance);
        else if (left)
                errand_refuse(e, GATEWAY_REFUSED_INSTANCE, 404, "instance_not_found", NULL,
                              "\"%s\" is a model, not an instance: its instances are %s and %zu more",
                              e->instance, all, left);
        else
                errand_refuse(e, GATEWAY_REFUSED_INSTANCE, 404, "instance_not_found", NULL,
                              "\"%s\" is a model, not an instance: name one of its instances (%s)",
                              e->instance, all);
}

/* The entry that serves this errand; false: it was refused. */
bool errand_resolve(struct errand *e, const struct config_instance **ret)
{
        struct fleet *f = e->gateway->doors->fleet;
        const struct report *report;
        int r;

        if (e->kind == ERRAND_DIRECT) {
                report = fleet_find(f, e->instance);
                r = report ? dispatch_resolve(f, report->model, ret) : -ENOENT;
                if (r < 0)
                        refuse_instance(e);
                return r >= 0;
        }
        if (e->model[0] == '\0' &&
            http1_query_get(request_head(e->req)->query, "model", e->model, sizeof(e->model)) < 0)
                e->model[0] = '\0';
        r = dispatch_resolve(f, e->model, ret);
        if (r < 0)
                refuse_model(e, r);
        return r >= 0;
}

/* --- what goes to the instance ------------------------------------------------------------------------------------------- */

/* The query as it came, without "model", which was for us. */
static void put_query(const struct errand *e, struct slice query, struct buffer *out)
{
        char separator = '?', value[2];

        while (query.n) {
                size_t n = slice_find(query, '&');
                struct slice pair = slice_sub(query, 0, n);

                query = slice_sub(query, n + 1, query.n);
                if (!pair.n || (e->kind != ERRAND_DIRECT &&
                                http1_query_get(pair, "model", value, sizeof(value)) != -ENOENT))
                        continue;
                (void)buffer_putc(out, separator);
                (void)buffer_append(out, pair.p, pair.n);
                separator = '&';
        }
}

/* The path behind "/upstream/NAME", as it came. */
static struct slice direct_path(struct slice path)
{
        for (unsigned slashes = 0; path.n; path = slice_sub(path, 1, path.n))
                if (path.p[0] == '/' && ++slashes == 3)
                        break;
        return path;
}

/* What goes straight to an instance may keep it busy as all other work does. POSTs of which we know that they do not are few. */
static bool is_work(const struct errand *e)
{
        static const char *const cheap[] = {"/slots", "/props", "/lora-adapters", "/models"};
        const struct http1_request *head = request_head(e->req);
        struct slice path = direct_path(head->path);

        if (head->method != HTTP1_POST)
                return false;
        for (const struct route *r = doors_routes; r->pattern; r++)
                if (r->handle == gateway_ask && slice_eq_str(path, r->pattern))
                        return false;
        for (size_t i = 0; i < ARRAY_SIZE(cheap); i++) {
                size_t n = strlen(cheap[i]);

                if (slice_starts_with(path, slice_str(cheap[i])) && (path.n == n || path.p[n] == '/'))
                        return false;
        }
        return true;
}

/* Most have no query, and are where they are. */
static struct slice make_target(const struct errand *e, struct buffer *out)
{
        const struct http1_request *head = request_head(e->req);
        struct slice path = slice_str(e->route->pattern);

        if (e->kind == ERRAND_DIRECT)
                path = direct_path(head->path);
        if (e->kind == ERRAND_CHAT)
                path = SLICE("/v1/chat/completions");
        if (!head->query.n)
                return path;
        (void)buffer_append(out, path.p, path.n);
        put_query(e, head->query, out);
        return (struct slice){out->data, out->len};
}

static void refuse_bodies(struct errand *e)
{
        errand_refuse(e, GATEWAY_REFUSED_BODIES, 503, "too_many_bodies", NULL,
                      "too many large bodies at once: try again later");
}

void errand_refuse_start(struct errand *e, int r)
{
        switch (r) {
        case -ENOENT:
                refuse_instance(e);
                break;
        case -EHOSTDOWN:
                errand_refuse(e, GATEWAY_REFUSED_INSTANCE, 503, "not_loaded", NULL,
                              "nothing is up that could answer, and a question like this starts nothing");
                break;
        case -EINVAL:
                errand_refuse(e, GATEWAY_REFUSED_PARAMETER, 400, "invalid_header", NULL,
                              "the target or a header cannot be forwarded");
                break;
        case -ENOBUFS:
                refuse_bodies(e);
                break;
        default:
                errand_refuse(e, GATEWAY_REFUSED_MEMORY, 503, NULL, NULL, "not enough memory");
                break;
        }
}

int errand_fill_spec(const struct errand *e, const char *model, const struct config_instance *entry,
                     struct buffer *target, struct relay_spec *ret)
{
        const struct http1_request *head = request_head(e->req);
        bool direct = e->kind == ERRAND_DIRECT, aside = direct || e->kind == ERRAND_LOOK;
        bool works = direct && is_work(e);
        struct slice where;

        buffer_init(target, ERRAND_TARGET_MAX);
        where = make_target(e, target);
        if (target->failed || where.n > ERRAND_TARGET_MAX)
                return -EINVAL;
        *ret = (struct relay_spec){
                .ticket = {.entry = entry,
                           .shared = direct ? NULL : dispatch_shared(e->gateway->doors->fleet, model),
                           .instance = direct ? e->instance : NULL,
                           .key = e->caller.name ? e->caller.name : "",
                           .priority = e->priority,
                           .affinity = e->affinity,
                           .ignores_slots = (aside && !works) || e->kind == ERRAND_ASK,
                           .overbooks = works,
                           .no_wake = aside},
                .method = head->method_name,
                .target = where,
                .headers = head->headers,
                .n_headers = head->n_headers,
                .keep_alive = e->keep_alive,
                .streams = e->streams,
                .source = "http",
                .path = e->route->pattern,
                .peer = request_peer(e->req)};
        return 0;
}

void errand_start(struct errand *e, const struct config_instance *entry)
{
        _cleanup_buffer_ struct buffer target = {0};
        struct relay_spec spec;
        int r;

        r = errand_fill_spec(e, e->model, entry, &target, &spec);
        if (r == 0) {
                spec.body = e->pieces.iov;
                spec.n_body = e->pieces.n;
                r = relay_start(e->gateway->doors->fleet, &spec, &errand_events, e, &e->relay);
        }
        if (r < 0)
                errand_refuse_start(e, r);
        else
                errand_wait(e);
}

bool errand_hold(struct errand *e, size_t n)
{
        if (request_hold(e->req, n) == 0)
                return true;
        refuse_bodies(e);
        return false;
}

void errand_go(struct errand *e, struct slice body, const struct peek *p)
{
        const struct config_instance *entry = NULL;
        struct peek_edit edit = {.drop = ERRAND_OWN_MEMBERS};
        const struct peek whole = {.text = body};
        bool only = submit_is_only_way(e, p != NULL);
        int r;

        if (only && submit_is_too_new(e))
                return;
        if (!only && (submit_is_too_early(e, p != NULL) || !errand_resolve(e, &entry)))
                return;
        if (p && entry) {
                edit.strip = entry->request_strip;
                /* A reload may free the entry while we wait. */
                e->set = text_dup(entry->request_set);
                edit.set = e->set;
                if (fleet_config(e->gateway->doors->fleet)->gateway.balance == CONFIG_PREFIX_AFFINITY)
                        e->affinity = peek_affinity(p);
        }
        r = peek_splice(p ? p : &whole, &edit, &e->pieces);
        if (r < 0) {
                errand_refuse(e, GATEWAY_REFUSED_MEMORY, 503, NULL, NULL, "not enough memory");
                return;
        }
        if (!errand_hold(e, peek_pieces_copied(&e->pieces) + (e->set ? strlen(e->set) : 0)))
                return;
        if (!only && !submit_is_better(e, entry, p != NULL))
                errand_start(e, entry);
        else if (!submit_start(e, entry))
                errand_start(e, entry);
}

/* --- JSON bodies ----------------------------------------------------------------------------------------------------------- */

/* A caller may step back behind others, never before them. False: refused. */
static bool lower_priority(struct errand *e, const char *word, const char *param)
{
        static const char *const words[TICKET_PRIORITIES] = {
                [TICKET_HIGH] = "high", [TICKET_NORMAL] = "normal", [TICKET_LOW] = "low"};

        for (unsigned i = 0; i < TICKET_PRIORITIES; i++)
                if (streq(word, words[i])) {
                        e->priority = MAX(e->priority, (enum ticket_priority)i);
                        return true;
                }
        errand_refuse(e, GATEWAY_REFUSED_PARAMETER, 400, "invalid_value", param,
                      "%s must be \"high\", \"normal\" or \"low\"; it can lower the priority of the key, not "
                      "raise it",
                      param);
        return false;
}

static bool header_priority(struct errand *e)
{
        const struct http1_request *head = request_head(e->req);
        struct slice value = {0};
        char word[16];
        size_t n = http1_header_find(head->headers, head->n_headers, "x-priority", &value);

        if (n == 0)
                return true;
        (void)snprintf(word, sizeof(word), "%.*s", n == 1 ? (int)MIN(value.n, sizeof(word)) : 0, value.p);
        return lower_priority(e, word, "X-Priority");
}

static bool refuse_value(struct errand *e, const char *param, const char *why)
{
        errand_refuse(e, GATEWAY_REFUSED_PARAMETER, 400, "invalid_value", param, "%s", why);
        return false;
}

static bool has_ensemble(const struct peek *p)
{
        return p->values[PEEK_ENSEMBLE].type != PEEK_ABSENT && p->values[PEEK_ENSEMBLE].type != PEEK_NULL;
}

/* Members that we act on. False: refused. */
static bool read_members(struct errand *e, const struct peek *p)
{
        char word[16] = "";
        uint64_t n;
        int r;

        r = peek_string(p, PEEK_MODEL, e->model, sizeof(e->model));
        if (r == -EINVAL)
                return refuse_value(e, "model", "\"model\" must be a string");
        if (r == -ENOBUFS)
                /* Nobody's name; the first bytes of it are enough for the answer. */
                (void)snprintf(e->model, sizeof(e->model), "%.*s…", 60, peek_raw(p, PEEK_MODEL).p + 1);
        e->streams = e->kind == ERRAND_GENERATE && p->values[PEEK_STREAM].type == PEEK_TRUE;
        r = peek_string(p, PEEK_PRIORITY, word, sizeof(word));
        if (r != -ENOENT && !lower_priority(e, r < 0 ? "" : word, "priority"))
                return false;
        if (p->values[PEEK_KEEP_ALIVE].type != PEEK_ABSENT &&
            keep_alive_parse(peek_raw(p, PEEK_KEEP_ALIVE), &e->keep_alive) < 0)
                return refuse_value(e, "keep_alive", KEEP_ALIVE_WORDS);
        /* CVE-2026-21869: llama-server takes it into an int and shifts its memory by it. */
        if (p->values[PEEK_N_DISCARD].type == PEEK_NUMBER && peek_uint(p, PEEK_N_DISCARD, INT32_MAX, &n) < 0)
                return refuse_value(e, "n_discard", "\"n_discard\" must be a whole number, not negative");
        if (has_ensemble(p) && !streq(e->route->pattern, "/v1/chat/completions") &&
            !streq(e->route->pattern, "/chat/completions"))
                return refuse_value(e, "ensemble",
                                    "only chat completions can be asked of several instances at once");
        return true;
}

static void refuse_json(struct errand *e, struct slice body, const struct peek_error *error)
{
        unsigned line, column;

        json_position(body.p, error->offset, &line, &column);
        if (error->param)
                errand_refuse(e, GATEWAY_REFUSED_BODY, 400, "duplicate_key", error->param,
                              "the key \"%s\" is in the body twice (again at line %u, column %u): nobody can "
                              "tell which one counts",
                              error->param, line, column);
        else
                errand_refuse(e, GATEWAY_REFUSED_BODY, 400, "invalid_json", NULL,
                              "the body must be one JSON object: %s at line %u, column %u", error->message,
                              line, column);
}

static void read_json(struct errand *e, struct slice body)
{
        struct peek_error error = {0};
        struct peek p;

        if (peek_scan(body, &p, &error) < 0) {
                refuse_json(e, body, &error);
                return;
        }
        if (!read_members(e, &p))
                return;
        if (e->kind == ERRAND_CHAT && !chat_make_body(e, &p))
                return;
        if (has_ensemble(&p))
                ensemble_run_begin(e, &p);
        else
                errand_go(e, p.text, &p);
}

/* --- forms ------------------------------------------------------------------------------------------------------------------- */

static void read_form(struct errand *e, struct slice body, struct slice boundary)
{
        struct multipart_part part;
        struct multipart m;
        bool named = false;
        int r;

        multipart_init(&m, body, boundary);
        while ((r = multipart_next(&m, &part)) > 0) {
                if (slice_eq(part.name, SLICE("stream")))
                        e->streams = slice_eq(part.data, SLICE("true"));
                if (!slice_eq(part.name, SLICE("model")))
                        continue;
                if (named) {
                        errand_refuse(e, GATEWAY_REFUSED_BODY, 400, "duplicate_key", "model",
                                      "the form has two parts \"model\": nobody can tell which one counts");
                        return;
                }
                named = true;
                (void)snprintf(e->model, sizeof(e->model), "%.*s",
                               (int)MIN(part.data.n, sizeof(e->model) - 1), part.data.p);
        }
        if (r < 0)
                errand_refuse(e, GATEWAY_REFUSED_BODY, 400, "invalid_form", NULL,
                              "the form is broken: %s at byte %zu", m.error, body.n - m.rest.n);
        else
                errand_go(e, body, NULL);
}

/* --- handlers ---------------------------------------------------------------------------------------------------------------- */

static void on_body(void *owner, struct request *req, const char *data, size_t len)
{
        struct slice type = {0}, boundary = {0}, body = {data, len};
        const struct http1_request *head = request_head(req);
        struct errand *e = owner;
        int r = -ENOENT;

        if (e->kind == ERRAND_DIRECT) {
                errand_go(e, body, NULL);
                return;
        }
        if (e->route->flags & ROUTE_MULTIPART &&
            http1_header_find(head->headers, head->n_headers, "content-type", &type) == 1)
                r = multipart_boundary(type, &boundary);
        if (r == 0)
                read_form(e, body, boundary);
        else if (r == -EINVAL)
                errand_refuse(e, GATEWAY_REFUSED_BODY, 400, "invalid_form", NULL,
                              "the Content-Type tells no boundary that a form could have");
        else
                read_json(e, body);
}

bool errand_take_allowance(struct errand *e)
{
        struct doors *d = e->gateway->doors;
        char words[AUTH_WORDS_MAX];
        enum auth_verdict v;
        usec_t wait = 0;

        v = auth_begin(d->auth, &e->caller, loop_now(d->loop), &wait);
        if (v == AUTH_PASS) {
                e->counted++;
        } else {
                const struct errand_error error = {
                        .status = auth_verdict_status(v),
                        .code = auth_verdict_name(v),
                        .message = auth_verdict_words(v, &e->caller, "infer", words, sizeof(words)),
                        .retry_after = (unsigned)MAX((wait + USEC_PER_SEC - 1) / USEC_PER_SEC, UINT64_C(1))};

                errand_fail(e, &error);
        }
        return v == AUTH_PASS;
}

static void begin(struct call *call, enum errand_kind kind)
{
        struct doors *d = call->doors;
        size_t max = fleet_config(d->fleet)->gateway.body_max;
        struct errand *e = errand_new(call, kind);
        int r;

        if (!e)
                return;
        if (kind == ERRAND_DIRECT)
                (void)snprintf(e->instance, sizeof(e->instance), "%.*s", (int)sizeof(e->instance) - 1,
                               call->name);
        if ((kind != ERRAND_LOOK && !errand_take_allowance(e)) || !header_priority(e))
                return;
        if (!route_is_order(call->head->method)) {
                errand_go(e, (struct slice){0}, NULL);
                return;
        }
        if (call->head->content_length > max) {
                errand_refuse(e, GATEWAY_REFUSED_BODY, 413, "body_too_large", NULL,
                              "the body has %llu bytes, gateway.body_max is %zu",
                              (unsigned long long)call->head->content_length, max);
                return;
        }
        server_set_bodies_max(d->server, max * GATEWAY_BODIES);
        r = request_read_body(call->req, max, on_body, e);
        if (r == -ENOBUFS)
                refuse_bodies(e);
        else if (r < 0 && r != -EPIPE)
                errand_refuse(e, GATEWAY_REFUSED_MEMORY, 503, NULL, NULL, "cannot read the body: %s",
                              strerror(-r));
}

void gateway_generate(struct call *call)
{
        begin(call, ERRAND_GENERATE);
}

void gateway_compute(struct call *call)
{
        begin(call, ERRAND_COMPUTE);
}

void gateway_ask(struct call *call)
{
        begin(call, ERRAND_ASK);
}

void gateway_look(struct call *call)
{
        begin(call, ERRAND_LOOK);
}

void gateway_direct(struct call *call)
{
        begin(call, ERRAND_DIRECT);
}

void gateway_chat(struct call *call)
{
        begin(call, ERRAND_CHAT);
}
