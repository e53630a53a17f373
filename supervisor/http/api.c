/* api.c: the REST handlers that answer at once. */
#include <errno.h>
#include <stdio.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "fleet/summary.h"
#include "http/doors_private.h"
#include "http/params.h"
#include "http/respond.h"

/* --- what is ------------------------------------------------------------------------------------------------------ */

void health_handle(struct call *call)
{
        static const char ok[] = "{\"status\":\"ok\"}\n";

        respond_text(call->req, 200, "application/json", NULL, ok, sizeof(ok) - 1);
}

void ready_handle(struct call *call)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        unsigned ready, total;
        bool enough = fleet_is_ready(call->doors->fleet, &ready, &total);
        char message[96];

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        if (!enough) {
                (void)snprintf(message, sizeof(message), "%u of %u instances %s ready", ready, total,
                               ready == 1 ? "is" : "are");
                respond_put_error(&w, 503, NULL, message);
        }
        json_string(&w, "status", enough ? "ready" : "unavailable");
        json_uint(&w, "ready", ready);
        json_uint(&w, "total", total);
        json_close_object(&w);
        respond_json(call->req, enough ? 200 : 503, enough ? NULL : "Retry-After: 1\r\n", &b);
}

static void put_host(struct json_writer *w)
{
        struct utsname name;
        struct sysinfo info;

        json_key(w, "host");
        json_open_object(w);
        if (uname(&name) == 0) {
                json_string(w, "name", name.nodename);
                json_string(w, "kernel", name.release);
                json_string(w, "machine", name.machine);
        }
        json_int(w, "cpus", sysconf(_SC_NPROCESSORS_ONLN));
        if (sysinfo(&info) == 0) {
                json_uint(w, "memory", (uint64_t)info.totalram * info.mem_unit);
                json_int(w, "uptime", info.uptime);
        }
        json_close_object(w);
}

void status_handle(struct call *call)
{
        struct doors *d = call->doors;
        const struct config *config = fleet_config(d->fleet);
        _cleanup_buffer_ struct buffer b = {0};
        char text[TIME_ISO_MAX];
        struct summary summary;
        struct json_writer w;

        summary_of(d->fleet, &summary);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "version", LSV_VERSION);
        json_int(&w, "pid", getpid());
        json_string(&w, "startedAt", time_iso(d->started_realtime, text, sizeof(text)));
        json_uint(&w, "uptime", usec_sub(loop_now(d->loop), d->started) / USEC_PER_SEC);
        json_string(&w, "sentence", summary.sentence);
        json_uint(&w, "total", summary.total);
        json_key(&w, "counts");
        json_open_object(&w);
        for (size_t i = 0; i < SUMMARY_STATUSES; i++)
                json_uint(&w, summary_statuses[i], summary.counts[i]);
        json_close_object(&w);
        json_bool(&w, "ready", fleet_is_ready(d->fleet, NULL, NULL));
        json_string(&w, "reloadError", fleet_reload_error(d->fleet));
        json_string(&w, "limitsProblem", fleet_limits_problem(d->fleet));
        json_key(&w, "listen");
        json_open_array(&w);
        for (char **a = d->addresses; a && *a; a++)
                json_put_string(&w, *a);
        json_close_array(&w);
        json_string(&w, "control", d->control);
        json_string(&w, "config", config->file);
        handover_put(d->handover, &w);
        json_key(&w, "hubs");
        doors_put_hub_states(d, &w);
        put_host(&w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}

void instances_handle(struct call *call)
{
        struct fleet *f = call->doors->fleet;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        fleet_look(f, NULL);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "instances");
        json_open_array(&w);
        for (size_t i = 0, n = fleet_count(f); i < n; i++)
                report_put_instance(&w, fleet_report(f, i));
        json_close_array(&w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}

void instance_handle(struct call *call)
{
        _cleanup_buffer_ struct buffer b = {0};
        const struct report *r;
        struct json_writer w;

        fleet_look(call->doors->fleet, call->name);
        r = fleet_find(call->doors->fleet, call->name);
        if (!r) {
                call_no_instance(call, call->name);
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        report_put_instance(&w, r);
        respond_json(call->req, 200, NULL, &b);
}

void why_handle(struct call *call)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        r = fleet_put_why(call->doors->fleet, call->name, &w);
        if (r == -ENOENT)
                call_no_instance(call, call->name);
        else if (r < 0)
                doors_respond_error(call->req, 500, "cannot tell why: %s", strerror(-r));
        else
                respond_json(call->req, 200, NULL, &b);
}

void history_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        const char *instance;
        struct json_writer w;
        uint64_t since;
        char buf[ROUTE_NAME_MAX];

        if (!call_get_uint(call, "since", 0, UINT64_MAX, 0, &since) ||
            !call_get_text(call, "instance", buf, sizeof(buf), &instance))
                return;
        buffer_init(&b, 0);
        json_begin(&w, &b);
        history_put(fleet_history(d->fleet), since, instance, loop_realtime(d->loop), &w);
        respond_json(call->req, 200, NULL, &b);
}

/* --- orders --------------------------------------------------------------------------------------------------------- */

/* An order whose body is still being read. Freed when it was answered, or by on_gone. */
struct order {
        struct doors *doors;
        struct request *req;
        struct fleet_reload *waits; /* NULL: it was not given yet */
        bool reload, dry_run;
        enum fleet_verb verb;
        usec_t limit; /* of a drain */
        char name[ROUTE_NAME_MAX];
};

static void order_gone(void *owner, struct request *req)
{
        struct order *o = owner;

        (void)req;
        (void)fleet_reload_forget(o->waits);
        free(o);
}

static void do_order(struct order *o, struct request *req)
{
        _cleanup_free_ char *message = NULL;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        int r;

        r = o->verb == FLEET_DRAIN ? fleet_drain(o->doors->fleet, o->name, o->limit, &message)
                                   : fleet_order(o->doors->fleet, o->name, o->verb, &message);
        doors_log_order(o->name, fleet_verb_name(o->verb), req, r, message);
        if (r == -ENOENT) {
                doors_no_instance(o->doors, req, o->name);
                return;
        }
        if (r < 0) {
                doors_respond_error(req,
                                    r == -EPERM       ? 409
                                    : r == -ESHUTDOWN ? 503
                                                      : 500,
                                    "%s", message ? message : strerror(-r));
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "message", message);
        json_close_object(&w);
        respond_json(req, 202, NULL, &b);
}

static void refuse_reload(struct request *req, bool dry_run, int r)
{
        int status = r == -ETIMEDOUT ? 504 : 503;

        doors_respond_error(
                req, status, "%s%s",
                r == -ESHUTDOWN ? "the supervisor is stopping"
                : r == -ETIMEDOUT
                        ? "the disk of the configuration, or of a file that it names, does not answer"
                : r == -EAGAIN ? "too many reloads are under way; try again in a moment"
                               : strerror(-r),
                dry_run ? "" : ": nothing was changed");
}

static void on_reloaded(void *owner, int r, const struct buffer *plan)
{
        struct order *o = owner;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        request_on_gone(o->req, NULL, NULL);
        if (r == 0) {
                _cleanup_buffer_ struct buffer copy = {0};

                buffer_init(&copy, 0);
                (void)buffer_append(&copy, plan->data, plan->len);
                respond_json(o->req, 200, NULL, &copy);
        } else if (r == -EINVAL) {
                /* The plan is an object with the errors; the error that all doors give goes in front of its members. */
                buffer_init(&b, 0);
                json_begin(&w, &b);
                json_open_object(&w);
                respond_put_error(&w, 422, NULL,
                                  o->dry_run ? "the configuration is wrong: it would change nothing"
                                             : "the configuration is wrong: nothing was changed");
                if (plan->len > 2 && plan->data[1] != '}') {
                        (void)buffer_putc(&b, ',');
                        (void)buffer_append(&b, plan->data + 1, plan->len - 1);
                } else {
                        json_close_object(&w);
                }
                respond_json(o->req, 422, NULL, &b);
        } else {
                refuse_reload(o->req, o->dry_run, r);
        }
        free(o);
}

/* True: it is under way, and o is kept until it is answered. */
static bool do_reload(struct order *o, struct request *req)
{
        int r;

        o->req = req;
        r = fleet_reload(o->doors->fleet, o->dry_run, on_reloaded, o, &o->waits);
        if (r < 0)
                refuse_reload(req, o->dry_run, r);
        else
                request_on_gone(req, order_gone, o);
        return r == 0;
}

static void order_body(void *owner, struct request *req, const char *body, size_t len)
{
        struct order *o = owner;
        char why[PARAM_WHY_MAX];
        int r;

        request_on_gone(req, NULL, NULL);
        r = order_check_body(body, len, why, sizeof(why));
        if (r < 0)
                doors_respond_error(req, r == -EBADMSG ? 400 : 503, "%s", why);
        else if (o->reload && do_reload(o, req))
                return;
        else if (!o->reload)
                do_order(o, req);
        free(o);
}

static void begin_order(struct call *call, struct order order)
{
        struct order *o = malloc(sizeof(*o));
        int r;

        if (!o) {
                doors_respond_error(call->req, 503, "not enough memory");
                return;
        }
        *o = order;
        o->doors = call->doors;
        (void)snprintf(o->name, sizeof(o->name), "%s", call->name);
        request_on_gone(call->req, order_gone, o);
        r = request_read_body(call->req, DOORS_BODY_MAX, order_body, o);
        if (r < 0) {
                request_on_gone(call->req, NULL, NULL);
                free(o);
                doors_respond_error(call->req, 503, "cannot read the body: %s", strerror(-r));
        }
}

void start_handle(struct call *call)
{
        begin_order(call, (struct order){.verb = FLEET_START});
}

void stop_handle(struct call *call)
{
        begin_order(call, (struct order){.verb = FLEET_STOP});
}

void restart_handle(struct call *call)
{
        begin_order(call, (struct order){.verb = FLEET_RESTART});
}

void drain_handle(struct call *call)
{
        struct order order = {.verb = FLEET_DRAIN};
        const char *limit;
        char buf[32];

        if (!call_get_text(call, "limit", buf, sizeof(buf), &limit))
                return;
        if (limit && (time_parse_span(limit, &order.limit) < 0 || order.limit == 0 ||
                      order.limit > 24 * USEC_PER_HOUR)) {
                doors_respond_error(call->req, 400,
                                    "limit: a duration from 1ms to 24h is needed, as 90s or 10m");
                return;
        }
        begin_order(call, order);
}

void reload_handle(struct call *call)
{
        struct order order = {.reload = true};

        if (call_get_bool(call, "dry_run", &order.dry_run))
                begin_order(call, order);
}

/* --- the feed --------------------------------------------------------------------------------------------------------- */

void websocket_handle(struct call *call)
{
        feed_websocket(call->doors->feed, call->req);
}

void events_handle(struct call *call)
{
        feed_sse(call->doors->feed, call->req);
}

void socketio_handle(struct call *call)
{
        bool may_read = caller_may(&call->caller, CONFIG_SCOPE_READ);

        if (may_read)
                request_set_mark(call->req, caller_mark(&call->caller, CONFIG_SCOPE_READ));
        feed_socketio(call->doors->feed, call->req, may_read);
}
