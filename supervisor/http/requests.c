/* requests.c: the requests that run and the last ones that ended, and the order to cancel one. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "fleet/activity.h"
#include "fleet/relay.h"
#include "http/doors_private.h"
#include "http/gateway.h"
#include "http/respond.h"

enum { RECENT_DEFAULT = 50 };

void requests_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        uint64_t recent;

        if (!call_get_uint(call, "recent", 0, ACTIVITY_RECENT_MAX, RECENT_DEFAULT, &recent))
                return;
        relay_note_positions(d->fleet);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        activity_put(fleet_activity(d->fleet), &w, loop_now(d->loop), (unsigned)recent);
        respond_json(call->req, 200, NULL, &b);
}

void request_cancel_handle(struct call *call)
{
        _cleanup_buffer_ struct buffer b = {0};
        char message[ROUTE_NAME_MAX + 32];
        struct json_writer w;

        const struct activity_record *rec = activity_find(fleet_activity(call->doors->fleet), call->name);
        struct log_about about = {.request = call->name};
        struct trace trace;

        static const char why[] = "the request was cancelled (DELETE /api/v1/requests/ID)";

        if (rec) {
                trace = rec->trace; /* the record may be gone when it is cancelled */
                about.trace = trace.id[0] ? trace.id : NULL;
        }
        if (relay_cancel_id(call->doors->fleet, call->name, why) < 0 &&
            !gateway_cancel_submitted(call->doors->gateway, call->name, why)) {
                doors_respond_error(call->req, 404, "no request \"%s\" is running", call->name);
                return;
        }
        log_about(LOG_INFO, &about, "%s cancelled by %s", call->name, request_peer(call->req));
        (void)snprintf(message, sizeof(message), "%s is cancelled", call->name);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "message", message);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}
