/* plan.c: on which GPUs instances are, or would be started. */
#include <errno.h>

#include "fleet/gpus.h"
#include "fleet/place.h"
#include "http/doors_private.h"
#include "http/respond.h"

void plan_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        const char *instance;
        char buf[ROUTE_NAME_MAX];
        int r;

        if (!call_get_text(call, "instance", buf, sizeof(buf), &instance))
                return;
        fleet_gpus_hurry(d->fleet);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        r = fleet_put_plan(d->fleet, instance, &w);
        if (r == -ENOENT)
                doors_no_instance(d, call->req, instance);
        else if (r < 0)
                doors_respond_error(call->req, 503, "not enough memory");
        else
                respond_json(call->req, 200, NULL, &b);
}
