/* gpus.c: the GPUs of this machine, and whether they take work. */
#include "fleet/gpus.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

enum { REASON_MAX = 200 };

void gpus_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        fleet_gpus_hurry(d->fleet);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        fleet_put_gpus(d->fleet, &w);
        respond_json(call->req, 200, NULL, &b);
}

/* --- cordon, uncordon ------------------------------------------------------------------------------------------------ */

struct gpu_order {
        struct doors *doors;
        bool cordon;
        char name[ROUTE_NAME_MAX];
};

struct reason {
        char text[REASON_MAX + 1], why[PARAM_WHY_MAX];
};

static void read_member(void *owner, const char *key, struct json_value *v)
{
        struct reason *x = owner;
        const char *s = json_as_string(v);

        if (x->why[0])
                return;
        if (!streq(key, "reason"))
                (void)snprintf(x->why, sizeof x->why,
                               "unknown key \"%.64s\" in the body: there is \"reason\"", key);
        else if (!json_is_null(v) && !s)
                (void)snprintf(x->why, sizeof x->why, "\"reason\" must be a text");
        else if (s && strlen(s) > REASON_MAX)
                (void)snprintf(x->why, sizeof x->why, "\"reason\" is longer than %d bytes", REASON_MAX);
        else if (s)
                (void)snprintf(x->text, sizeof x->text, "%s", s);
}

static int read_reason(const char *body, size_t len, struct reason *ret)
{
        struct json_value *v = NULL;
        struct json_error e = {0};
        int r = json_parse(body, len, &v, &e);

        if (r == -EBADMSG)
                (void)snprintf(ret->why, sizeof ret->why, "the body is not JSON: %s at byte %zu", e.message,
                               e.offset);
        else if (r < 0)
                (void)snprintf(ret->why, sizeof ret->why, "not enough memory to read the body");
        else if (!json_is_object(v))
                (void)snprintf(ret->why, sizeof ret->why, "the body must be an object, or nothing");
        else
                json_each(v, read_member, ret);
        json_free(v);
        (void)text_harmless(ret->why);
        return r == -ENOMEM ? r : ret->why[0] ? -EBADMSG : 0;
}

static void do_order(const struct gpu_order *o, struct request *req, const char *reason)
{
        const char *word = o->cordon ? "cordon" : "uncordon";
        _cleanup_free_ char *message = NULL;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r;

        r = o->cordon ? fleet_cordon(o->doors->fleet, o->name, reason, &message)
                      : fleet_uncordon(o->doors->fleet, o->name, &message);
        doors_log_order(o->name, word, req, r, message);
        if (r < 0) {
                o->doors->counts.errors++;
                doors_respond_error(req,
                                    r == -ENOENT                  ? 404
                                    : r == -EPERM || r == -ENOSPC ? 409
                                                                  : 503,
                                    "%s", message ? message : strerror(-r));
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "message", message ? message : word);
        json_close_object(&w);
        respond_json(req, 202, NULL, &b);
}

static void on_gone(void *owner, struct request *req)
{
        (void)req;
        free(owner);
}

static void on_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct gpu_order *o = owner;
        struct reason reason = {0};
        int r = len ? read_reason(body, len, &reason) : 0;

        request_on_gone(req, NULL, NULL);
        if (r == 0 && !o->cordon && reason.text[0]) {
                r = -EBADMSG;
                (void)snprintf(reason.why, sizeof reason.why, "\"reason\" is for cordon");
        }
        if (r < 0) {
                o->doors->counts.errors++;
                doors_respond_error(req, r == -EBADMSG ? 400 : 503, "%s", reason.why);
        } else {
                do_order(o, req, reason.text);
        }
        free(o);
}

static void begin(struct call *call, bool cordon)
{
        struct gpu_order *o = calloc(1, sizeof(*o));
        int r;

        if (!o) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        o->doors = call->doors;
        o->cordon = cordon;
        (void)snprintf(o->name, sizeof(o->name), "%s", call->name);
        request_on_gone(call->req, on_gone, o);
        r = request_read_body(call->req, DOORS_BODY_MAX, on_body, o);
        if (r < 0) {
                request_on_gone(call->req, NULL, NULL);
                free(o);
                doors_respond_error(call->req, 503, "cannot read the body: %s", strerror(-r));
        }
}

void gpu_cordon_handle(struct call *call)
{
        begin(call, true);
}

void gpu_uncordon_handle(struct call *call)
{
        begin(call, false);
}
