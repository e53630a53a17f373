/* library.c: the model library over HTTP: what lies in models_dir. */
#include <errno.h>

#include "base/json.h"
#include "fleet/library.h"
#include "http/doors_private.h"
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
