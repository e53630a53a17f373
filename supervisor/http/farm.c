/* farm.c: the workers of the hubs that take requests of ours, as they tell of themselves, and what they offer together. */
#include "core/farm.h"
#include "base/json.h"
#include "http/doors_private.h"
#include "http/respond.h"
#include "hub/hubs.h"

static void put_offers(struct json_writer *w, struct farm *farm, usec_t now)
{
        const struct farm_offer *offers;
        size_t n = farm_offers(farm, now, &offers);

        json_key(w, "models");
        json_open_array(w);
        for (size_t i = 0; i < n; i++) {
                json_open_object(w);
                json_string(w, "model", offers[i].model);
                json_uint(w, "workers", offers[i].workers);
                json_uint(w, "slots", offers[i].slots);
                json_uint(w, "free", offers[i].free);
                json_uint(w, "context", offers[i].context);
                json_bool(w, "ready", offers[i].ready);
                json_close_object(w);
        }
        json_close_array(w);
}

void farm_handle(struct call *call)
{
        struct doors *d = call->doors;
        _cleanup_buffer_ struct buffer b = {0};
        usec_t now = loop_now(d->loop);
        struct json_writer w;
        size_t n = d->hubs ? hubs_count(d->hubs) : 0;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "hubs");
        json_open_array(&w);
        for (size_t i = 0; i < n; i++) {
                struct farm *farm = hubs_farm(d->hubs, i);

                if (!farm)
                        continue;
                json_open_object(&w);
                json_string(&w, "hub", hubs_report(d->hubs, i)->name);
                json_key(&w, "workers");
                json_open_array(&w);
                for (size_t k = 0; k < farm_count(farm); k++)
                        farm_put_worker(&w, farm_at(farm, k), now);
                json_close_array(&w);
                put_offers(&w, farm, now);
                json_uint(&w, "refused", farm_refused(farm));
                json_close_object(&w);
        }
        json_close_array(&w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}
