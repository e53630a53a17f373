/* hubs.c: the hubs that send us work: GET /api/v1/hubs and /api/v1/hubs/{name}. */
#include "hub/hubs.h"
#include "core/farm.h"
#include "http/doors_private.h"
#include "http/respond.h"

static void put_report(struct doors *d, size_t i, struct json_writer *w)
{
        (void)hub_report_put(hubs_report(d->hubs, i), (int64_t)(loop_realtime(d->loop) / 1000),
                             loop_now(d->loop), w);
}

void doors_put_hubs(struct doors *d, struct json_writer *w)
{
        json_open_array(w);
        for (size_t i = 0; d->hubs && i < hubs_count(d->hubs); i++)
                put_report(d, i, w);
        json_close_array(w);
}

void doors_put_hub_states(struct doors *d, struct json_writer *w)
{
        json_open_array(w);
        for (size_t i = 0; d->hubs && i < hubs_count(d->hubs); i++) {
                const struct hub_report *r = hubs_report(d->hubs, i);

                json_open_object(w);
                json_string(w, "name", r->name);
                json_string(w, "driver", r->driver);
                json_string(w, "state", hub_state_name(r->state));
                json_string(w, "why", r->why);
                json_uint(w, "running", r->running + r->waiting);
                json_uint(w, "outbox", r->outbox);
                json_close_object(w);
        }
        json_close_array(w);
}

void hubs_handle(struct call *call)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "hubs");
        doors_put_hubs(call->doors, &w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}

/* {"hub":{…},"workers":[…]}: workers: everybody who works for it, where the hub tells us; else null. */
static void put_hub(struct doors *d, size_t i, struct json_writer *w)
{
        struct farm *farm = hubs_farm(d->hubs, i);
        usec_t now = loop_now(d->loop);

        json_open_object(w);
        json_key(w, "hub");
        put_report(d, i, w);
        json_key(w, "workers");
        if (farm) {
                json_open_array(w);
                for (size_t k = 0; k < farm_count(farm); k++)
                        farm_put_worker(w, farm_at(farm, k), now);
                json_close_array(w);
        } else {
                json_put_null(w);
        }
        json_close_object(w);
}

void hub_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;

        for (size_t i = 0; d->hubs && i < hubs_count(d->hubs); i++) {
                if (!streq(hubs_report(d->hubs, i)->name, call->name))
                        continue;
                buffer_init(&b, 0);
                json_begin(&w, &b);
                put_hub(d, i, &w);
                respond_json(call->req, 200, NULL, &b);
                return;
        }
        d->counts.errors++;
        doors_respond_error(call->req, 404, "there is no hub \"%.64s\": GET /api/v1/hubs lists them",
                            call->name);
}
