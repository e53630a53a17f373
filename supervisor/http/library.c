/* library.c: the model library over HTTP: what lies in models_dir, and instances that are started from it. */
#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "fleet/dynamic.h"
#include "fleet/library.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

/* A question that waits for a walk through models_dir. */
struct library_call {
        struct doors *doors;
        struct request *req;
        struct library_wait *wait;
};

static void answer_library(struct doors *d, struct request *req)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        library_put(d->fleet, &w);
        respond_json(req, 200, NULL, &b);
}

static void on_walked(void *owner, int r)
{
        struct library_call *c = owner;

        request_on_gone(c->req, NULL, NULL);
        if (r == 0)
                answer_library(c->doors, c->req);
        else if (r == -ETIMEDOUT)
                doors_respond_error(c->req, 504, "the disk of models_dir (%s) does not answer",
                                    fleet_config(c->doors->fleet)->models_dir);
        else
                doors_respond_error(c->req, 503, "not enough memory to look through models_dir");
        free(c);
}

static void on_gone(void *owner, struct request *req)
{
        struct library_call *c = owner;

        (void)req;
        (void)library_cancel(c->wait);
        free(c);
}

void library_handle(struct call *call)
{
        struct fleet *f = call->doors->fleet;
        struct library_call *c;
        bool look_again;
        int r;

        if (!call_get_bool(call, "rescan", &look_again))
                return;
        c = malloc(sizeof(*c));
        if (!c) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        *c = (struct library_call){.doors = call->doors, .req = call->req};
        r = library_ask(fleet_library(f), fleet_config(f)->models_dir, look_again, on_walked, c, &c->wait);
        if (r == 0) {
                request_on_gone(call->req, on_gone, c);
                return;
        }
        free(c);
        if (r == 1) {
                answer_library(call->doors, call->req);
                return;
        }
        call->doors->counts.busy++;
        respond_error_with(call->req, 503, NULL, "Retry-After: 1\r\n",
                           r == -EAGAIN ? "too many wait for a walk through models_dir"
                                        : "not enough memory");
}

/* --- instances out of the library ---------------------------------------------------------------------------------------- */

/* A POST that waits first for its body, then for the model to be looked at. */
struct start_call {
        struct doors *doors;
        struct request *req;
        struct dynamic_start *start; /* NULL while the body is read */
};

static void start_gone(void *owner, struct request *req)
{
        struct start_call *c = owner;

        (void)req;
        (void)dynamic_cancel(c->start);
        free(c);
}

static int status_of(int r)
{
        switch (r) {
        case -ENOENT:
                return 404;
        case -EPERM:
                return 403;
        case -EINVAL:
                return 400;
        case -EBADMSG:
                return 422;
        case -EEXIST:
        case -ENOSPC:
                return 409;
        case -EAGAIN:
        case -ENOMEM:
        case -ESHUTDOWN:
                return 503;
        case -ETIMEDOUT:
                return 504;
        default:
                return 500;
        }
}

static void on_started(void *owner, int r, const char *param, const char *message, const char *name)
{
        struct start_call *c = owner;
        const struct report *report = r == 0 ? fleet_find(c->doors->fleet, name) : NULL;
        _cleanup_buffer_ struct buffer b = {0};
        char location[ROUTE_NAME_MAX + 64];
        struct json_writer w;

        request_on_gone(c->req, NULL, NULL);
        doors_log_order(r == 0 ? name : NULL, "start of a model", c->req, r, message);
        if (report) {
                buffer_init(&b, 0);
                json_begin(&w, &b);
                report_put_instance(&w, report);
                (void)snprintf(location, sizeof(location), "Location: /api/v1/instances/%s\r\n", name);
                respond_json(c->req, 201, location, &b);
        } else {
                c->doors->counts.errors++;
                respond_error_with(c->req, status_of(r), param, NULL, message);
        }
        free(c);
}

struct start_body {
        struct dynamic_spec spec;
        char **args;
        const char *param; /* what is wrong */
        char why[PARAM_WHY_MAX];
};

static void wrong(struct start_body *b, const char *param, const char *why)
{
        if (b->why[0])
                return;
        b->param = param;
        (void)snprintf(b->why, sizeof(b->why), "%s", why);
}

static const char *text_of(struct start_body *b, const char *key, const struct json_value *v)
{
        const char *s = json_as_string(v);

        if (!s || !*s)
                wrong(b, key, "must be a text that is not empty");
        return s;
}

static void read_args(struct start_body *b, const struct json_value *v)
{
        if (!json_is_array(v))
                wrong(b, "args", "\"args\" must be an array of texts");
        for (size_t i = 0; i < json_count(v); i++) {
                const char *s = json_as_string(json_at(v, i));

                if (!s)
                        wrong(b, "args", "\"args\" must be an array of texts");
                else if (text_list_add(&b->args, s) < 0)
                        wrong(b, NULL, "not enough memory");
        }
}

static void read_member(void *owner, const char *key, struct json_value *v)
{
        static const char *const known[] = {"model", "name", "args", "gpu", NULL};
        struct start_body *b = owner;
        const char *near;

        if (streq(key, "model")) {
                b->spec.model = text_of(b, "model", v);
        } else if (streq(key, "name") && !json_is_null(v)) {
                b->spec.name = text_of(b, "name", v);
        } else if (streq(key, "args") && !json_is_null(v)) {
                read_args(b, v);
        } else if (streq(key, "gpu") && !json_is_null(v)) {
                b->spec.gpu = v;
        } else if (!streq(key, "name") && !streq(key, "args") && !streq(key, "gpu") && !b->why[0]) {
                near = text_nearest(key, known);
                (void)snprintf(b->why, sizeof(b->why),
                               "unknown key \"%.48s\" in the body%s%s%s: model, name, args and gpu can be "
                               "given here, "
                               "the others in the configuration",
                               key, near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
                (void)text_harmless(b->why);
        }
}

static void on_start_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct start_call *c = owner;
        struct start_body b = {0};
        struct json_value *root = NULL;
        struct json_error e = {0};
        int r = json_parse(body, len, &root, &e);

        if (r == 0 && json_is_object(root))
                json_each(root, read_member, &b);
        if (r == 0 && !json_is_object(root))
                wrong(&b, NULL, "the body must be an object: {\"model\": \"FILE\"}");
        else if (r == 0 && !b.spec.model)
                wrong(&b, "model", "\"model\" is missing: the file of the model library to start");
        else if (r == -EBADMSG)
                (void)snprintf(b.why, sizeof(b.why), "the body is not JSON: %s at byte %zu", e.message,
                               e.offset);
        else if (r < 0)
                (void)snprintf(b.why, sizeof(b.why), "not enough memory to read the body");
        b.spec.args = b.args;
        if (!b.why[0])
                r = dynamic_start(c->doors->fleet, &b.spec, on_started, c, &c->start);
        json_free(root);
        text_list_free(b.args);
        if (!b.why[0] && r == 0)
                return;
        request_on_gone(req, NULL, NULL);
        c->doors->counts.errors++;
        if (b.why[0])
                respond_error_with(req, 400, b.param, NULL, b.why);
        else
                respond_error_with(req, status_of(r), NULL, "Retry-After: 1\r\n",
                                   r == -EAGAIN ? "too many models are being looked at"
                                                : "not enough memory");
        free(c);
}

void instances_order_handle(struct call *call)
{
        struct start_call *c = malloc(sizeof(*c));
        int r;

        if (!c) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        *c = (struct start_call){.doors = call->doors, .req = call->req};
        request_on_gone(call->req, start_gone, c);
        r = request_read_body(call->req, DOORS_START_BODY_MAX, on_start_body, c);
        if (r < 0) {
                request_on_gone(call->req, NULL, NULL);
                free(c);
                doors_respond_error(call->req, 503, "cannot read the body: %s", strerror(-r));
        }
}

void instance_order_handle(struct call *call)
{
        _cleanup_free_ char *message = NULL;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r = dynamic_remove(call->doors->fleet, call->name, &message);

        doors_log_order(r == 0 ? call->name : NULL, "removal", call->req, r, message);
        if (r == -ENOENT) {
                call_no_instance(call, call->name);
                return;
        }
        if (r < 0) {
                call->doors->counts.errors++;
                doors_respond_error(call->req, r == -EPERM ? 409 : status_of(r), "%s",
                                    message ? message : strerror(-r));
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "message", message);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}
