/* demand.c: load and unload a model that comes on demand. */
#include "fleet/demand.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

/* An order whose body is still being read. Freed when it was answered, or by on_gone. */
struct wish {
        struct doors *doors;
        bool load, force;
        char model[ROUTE_NAME_MAX];
};

static void wish_gone(void *owner, struct request *req)
{
        (void)req;
        free(owner);
}

static int status_of(int r)
{
        switch (r) {
        case -ENOENT:
                return 404;
        case -EBUSY:
        case -EPERM:
        case -ENOSPC:
                return 409;
        default:
                return 503;
        }
}

static void do_wish(const struct wish *wish, struct request *req)
{
        struct fleet *f = wish->doors->fleet;
        _cleanup_free_ char *message = NULL;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r;

        r = wish->load ? demand_load(f, wish->model, &message)
                       : demand_unload(f, wish->model, wish->force, &message);
        doors_log_order(wish->model, wish->load ? "load" : "unload", req, r, message);
        if (r < 0) {
                doors_respond_error(req, status_of(r), "%s", message ? message : strerror(-r));
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "message", message);
        json_close_object(&w);
        respond_json(req, 202, NULL, &b);
}

static void wish_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct wish *wish = owner;
        char why[PARAM_WHY_MAX];
        int r;

        request_on_gone(req, NULL, NULL);
        r = order_check_body(body, len, why, sizeof(why));
        if (r < 0)
                doors_respond_error(req, r == -EBADMSG ? 400 : 503, "%s", why);
        else
                do_wish(wish, req);
        free(wish);
}

static void begin(struct call *call, bool load, bool force)
{
        struct wish *wish = malloc(sizeof(*wish));
        int r;

        if (!wish) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        *wish = (struct wish){.doors = call->doors, .load = load, .force = force};
        (void)snprintf(wish->model, sizeof(wish->model), "%s", call->name);
        request_on_gone(call->req, wish_gone, wish);
        r = request_read_body(call->req, DOORS_BODY_MAX, wish_body, wish);
        if (r < 0) {
                request_on_gone(call->req, NULL, NULL);
                free(wish);
                doors_respond_error(call->req, 503, "cannot read the body: %s", strerror(-r));
        }
}

void load_handle(struct call *call)
{
        begin(call, true, false);
}

void unload_handle(struct call *call)
{
        bool force;

        if (call_get_bool(call, "force", &force))
                begin(call, false, force);
}
