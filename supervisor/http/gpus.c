/* gpus.c: the GPUs of this machine. */
#include "fleet/gpus.h"
#include "http/doors_private.h"
#include "http/respond.h"

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
