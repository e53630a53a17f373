/* doors_handover.c: the doors' part in an upgrade: sockets that came with our start, orders of the conductor, and POST /api/v1/upgrade. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "core/http1_uri.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

/* --- listening ------------------------------------------------------------------------------------------------------ */

static int add_doorway(struct doors *d, struct listener *l, const char *name, enum inherited_from from)
{
        struct doorway *grown = reallocarray(d->doorways, d->n_doorways + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        d->doorways = grown;
        grown += d->n_doorways++;
        grown->listener = l;
        grown->from = from;
        (void)text_copy(grown->name, sizeof(grown->name), name);
        return 0;
}

static bool is_named(const struct doors *d, const char *name)
{
        for (size_t i = 0; i < d->n_doorways; i++)
                if (streq(d->doorways[i].name, name))
                        return true;
        return false;
}

/* Two addresses with port 0 are told apart by their order in the configuration. */
static void make_name(const struct doors *d, const char *address, char name[INHERITED_NAME_MAX])
{
        size_t n = strlen(inherited_name(address, name, INHERITED_NAME_MAX - 8));

        for (unsigned i = 2; is_named(d, name) && i < INHERITED_MAX; i++)
                (void)snprintf(name + n, 8, "_%u", i);
}

int doors_listen(struct doors *d, const struct endpoint *at, const char *address, const char *tag,
                 struct listener **ret)
{
        struct inherited *in = d->handover ? handover_inherited(d->handover) : NULL;
        struct inherited_socket s = {.from = INHERITED_NOT};
        char name[INHERITED_NAME_MAX];
        int r;

        make_name(d, address, name);
        if (inherited_take(in, at, name, &s))
                r = server_listen_on(d->server, s.fd, &s.at, s.from != INHERITED_UNIT, 0660, tag, ret);
        else
                r = server_listen(d->server, at, 0660, tag, ret);
        return r < 0 ? r : add_doorway(d, *ret, name, s.from);
}

int doors_listen_on(struct doors *d, const struct inherited_socket *s, struct listener **ret)
{
        int r = server_listen_on(d->server, s->fd, &s->at, false, 0, NULL, ret);

        return r < 0 ? r : add_doorway(d, *ret, s->name, s->from);
}

/* --- what the conductor asks for ---------------------------------------------------------------------------------------- */

static void set_closing(void *owner, bool on)
{
        struct doors *d = owner;

        server_set_closing(d->server, on);
        if (d->hubs)
                hubs_hold(d->hubs, on);
}

static void hold(void *owner, bool on)
{
        struct doors *d = owner;

        server_hold(d->server, on);
}

static unsigned busy(void *owner)
{
        const struct doors *d = owner;

        return server_busy(d->server) + (d->hubs && hubs_is_busy(d->hubs) ? 1U : 0U);
}

struct asking {
        struct doors *doors;
        handover_blocker_fn *fn;
        void *arg;
        usec_t oldest;
};

static void note_age(void *owner, const struct request *req, const char *peer, usec_t age)
{
        struct asking *a = owner;

        (void)req;
        (void)peer;
        a->oldest = MAX(a->oldest, age);
}

static usec_t oldest(void *owner)
{
        struct doors *d = owner;
        struct asking a = {.doors = d};

        server_each_busy(d->server, note_age, &a);
        return server_busy(d->server) ? usec_sub(loop_now(d->loop), a.oldest) : USEC_INFINITY;
}

/* Work for a model is on record as soon as its body is there. */
static bool is_on_record(const struct request *req, const char *path)
{
        struct route_match match;

        return request_body_is_whole(req) && router_find(doors_routes, path, &match) == 0 &&
               match.route->flags & ROUTE_WORK;
}

static void describe(void *owner, const struct request *req, const char *peer, usec_t age)
{
        struct asking *a = owner;
        const struct http1_request *head;
        char path[DOORS_PATH_MAX], what[200];

        if (!req) {
                a->fn(a->arg, "an answer that its reader has not taken", peer, age);
                return;
        }
        head = request_head(req);
        if (http1_path_normal(head->path, path, sizeof(path)) < 0)
                (void)text_copy(path, sizeof(path), "?");
        if (is_on_record(req, path))
                return;
        (void)snprintf(what, sizeof(what), "%.*s %.120s%s", (int)MIN(head->method_name.n, 16U),
                       head->method_name.p, path,
                       request_body_is_whole(req) ? "" : " (its body is still coming)");
        (void)text_harmless(what);
        a->fn(a->arg, what, peer, age);
}

static void each_blocker(void *owner, handover_blocker_fn *fn, void *arg)
{
        struct doors *d = owner;
        struct asking a = {.doors = d, .fn = fn, .arg = arg};

        server_each_busy(d->server, describe, &a);
        if (d->hubs && hubs_is_busy(d->hubs))
                fn(arg, "an order to a hub, or a claim on its way to the disk", NULL, 0);
}

static void leave(void *owner)
{
        struct doors *d = owner;

        feed_restart(d->feed);
        follow_end_all(d);
        server_end_standing(d->server);
}

static bool is_quiet(void *owner)
{
        const struct doors *d = owner;

        return server_is_quiet(d->server) && !(d->hubs && hubs_is_busy(d->hubs));
}

static void cut(void *owner)
{
        struct doors *d = owner;

        server_cut(d->server);
        if (d->hubs)
                hubs_cut(d->hubs);
}

static void each_listener(void *owner, handover_listener_fn *fn, void *arg)
{
        const struct doors *d = owner;

        for (size_t i = 0; i < d->n_doorways; i++) {
                const struct doorway *w = d->doorways + i;

                if (listener_fd(w->listener) >= 0)
                        fn(arg, listener_fd(w->listener), w->name, w->from);
        }
}

struct collecting {
        handover_connection_fn *fn;
        void *arg;
};

static void collect(void *owner, int fd, const struct listener *l, const char *bytes, size_t len)
{
        struct collecting *c = owner;

        c->fn(c->arg, fd, listener_fd(l), bytes, len);
}

static void each_connection(void *owner, handover_connection_fn *fn, void *arg)
{
        struct doors *d = owner;
        struct collecting c = {fn, arg};

        server_each_portable(d->server, collect, &c);
}

static const struct handover_doors hooks = {
        .set_closing = set_closing,
        .hold = hold,
        .busy = busy,
        .each_blocker = each_blocker,
        .oldest = oldest,
        .leave = leave,
        .is_quiet = is_quiet,
        .cut = cut,
        .each_listener = each_listener,
        .each_connection = each_connection,
};

static void adopt(struct doors *d, int fd, int listener, const char *bytes, size_t len)
{
        for (size_t i = 0; i < d->n_doorways; i++)
                if (listener_fd(d->doorways[i].listener) == listener) {
                        /* A client that has gone meanwhile is no loss. */
                        (void)server_adopt(d->server, d->doorways[i].listener, fd, bytes, len);
                        return;
                }
        (void)close(fd); /* nobody listens there any more */
}

void doors_join_handover(struct doors *d)
{
        const char *bytes;
        int fd, listener;
        size_t len;

        if (!d->handover)
                return;
        while (handover_take_connection(d->handover, &fd, &listener, &bytes, &len))
                adopt(d, fd, listener, bytes, len);
        handover_join(d->handover, &hooks, d);
}

void doors_leave_handover(struct doors *d)
{
        if (d->handover)
                handover_leave(d->handover);
}

/* --- POST /api/v1/upgrade ------------------------------------------------------------------------------------------------- */

/* The order, from its body to its answer. */
struct upgrade {
        struct doors *doors;
        struct request *req;
};

static void upgrade_gone(void *owner, struct request *req)
{
        struct upgrade *u = owner;

        (void)req;
        handover_forget(u->doors->handover, u);
        free(u);
}

static int status_of(int r)
{
        switch (r) {
        case -EBADMSG:
                return 422;
        case -EBUSY:
        case -EALREADY:
                return 409;
        case -ESHUTDOWN:
                return 503;
        default:
                return 500;
        }
}

static void answer(struct upgrade *u, int r, const char *message)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        if (r < 0)
                respond_put_error(&w, status_of(r), NULL, message);
        else
                json_string(&w, "message", message);
        json_string(&w, "version", LSV_VERSION);
        handover_put(u->doors->handover, &w);
        json_key(&w, "requests");
        handover_put_blockers(u->doors->handover, &w);
        json_close_object(&w);
        request_on_gone(u->req, NULL, NULL);
        respond_json(u->req, r < 0 ? status_of(r) : 200, NULL, &b);
        free(u);
}

static void on_end(void *owner, int r, const char *message)
{
        answer(owner, r, message);
}

static void refuse_member(struct upgrade *u, const char *why)
{
        request_on_gone(u->req, NULL, NULL);
        doors_respond_error(u->req, 400, "%s", why);
        free(u);
}

static void read_member(void *owner, const char *key, struct json_value *v)
{
        bool *only_force = owner;

        (void)v;
        *only_force = *only_force && streq(key, "force");
}

/* {} or {"force": true}; nothing else. *ret_why: static. */
static int read_order(const char *body, size_t len, bool *ret_force, const char **ret_why)
{
        struct json_value *v = NULL;
        bool is_known = true;
        int r;

        *ret_force = false;
        if (!len)
                return 0;
        *ret_why = "the body must be a JSON object: {\"force\": true}, {}, or nothing";
        r = json_parse(body, len, &v, NULL);
        if (r < 0)
                return r;
        json_each(v, read_member, &is_known);
        /* What answers every fallback with itself is no truth value. */
        if (!json_is_object(v) || !is_known ||
            (json_get(v, "force") && json_get_bool(v, "force", true) != json_get_bool(v, "force", false)))
                r = -EBADMSG;
        else
                *ret_force = json_get_bool(v, "force", false);
        json_free(v);
        return r;
}

static void upgrade_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct upgrade *u = owner;
        const char *why = NULL;
        bool force;
        int r;

        if (read_order(body, len, &force, &why) < 0) {
                refuse_member(u, why);
                return;
        }
        r = handover_begin(u->doors->handover, force, on_end, u, &why);
        doors_log_order(NULL, force ? "upgrade by force" : "upgrade", req, r, why);
        if (r < 0)
                answer(u, r, why);
}

void upgrade_handle(struct call *call)
{
        struct doors *d = call->doors;
        struct upgrade *u;
        int r;

        if (!d->handover) {
                doors_respond_error(call->req, 503, "this supervisor cannot be upgraded in place");
                return;
        }
        u = malloc(sizeof(*u));
        if (!u) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        *u = (struct upgrade){.doors = d, .req = call->req};
        request_on_gone(call->req, upgrade_gone, u);
        request_set_standing(call->req);
        r = request_read_body(call->req, DOORS_BODY_MAX, upgrade_body, u);
        if (r < 0) {
                request_on_gone(call->req, NULL, NULL);
                free(u);
                doors_respond_error(call->req, 503, "cannot read the body: %s", strerror(-r));
        }
}
