/* models.c: the models there are, as clients of OpenAI's API list them, as our own tools want them, and GET /stats as GoLlama's hub
 * tells of its workers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "fleet/activity.h"
#include "fleet/demand.h"
#include "fleet/dispatch.h"
#include "http/doors_private.h"
#include "http/respond.h"
#include "hub/hubs.h"

/* One model and what its instances are at. */
struct model {
        const struct config_instance *entry;
        const struct report *best; /* the one that tells most of it, NULL: there is none */
        const char *state;         /* the public word of that one */
        size_t first;              /* of its instances in the lineup */
        unsigned instances, ready;
};

/* The further in front, the nearer to an answer. */
static const char *const by_hope[] = {"ready",    "unhealthy", "starting", "draining", "crashed",
                                      "stopping", "idle",      "initial",  "error",    NULL};

static unsigned hope(const char *status)
{
        unsigned i = 0;

        while (by_hope[i] && !streq(by_hope[i], status))
                i++;
        return i;
}

/* All reports by their model, so that a list of a thousand models asks each instance once. */
struct place {
        const struct report *report;
        size_t at; /* in the fleet */
};

struct lineup {
        struct place *places;
        size_t n;
};

static int by_model(const void *a, const void *b)
{
        const struct place *x = a, *y = b;
        int order = strcmp(x->report->model, y->report->model);

        return order ? order : (x->at > y->at) - (x->at < y->at);
}

static void lineup_finish(struct lineup *l)
{
        free(l->places);
}

/* False without memory. */
static bool lineup_take(struct fleet *f, struct lineup *ret)
{
        size_t n = fleet_count(f);

        ret->places = calloc(n + 1, sizeof(*ret->places));
        if (!ret->places)
                return false;
        for (ret->n = 0; ret->n < n; ret->n++)
                ret->places[ret->n] = (struct place){fleet_report(f, ret->n), ret->n};
        qsort(ret->places, n, sizeof(*ret->places), by_model);
        return true;
}

/* The first instance of the model, or where it would stand. */
static size_t first_of(const struct lineup *l, const char *model)
{
        size_t low = 0, high = l->n;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (strcmp(l->places[middle].report->model, model) < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

static bool model_look(struct fleet *f, const struct lineup *l, const char *name, struct model *ret)
{
        struct model m = {.state = "initial"};

        if (dispatch_resolve(f, name, &m.entry) < 0)
                return false;
        m.first = first_of(l, m.entry->name);
        for (size_t i = m.first; i < l->n && streq(l->places[i].report->model, m.entry->name); i++) {
                const struct report *r = l->places[i].report;

                m.instances++;
                m.ready += streq(r->status, "ready");
                if (!m.best || hope(r->status) < hope(m.best->status)) {
                        m.best = r;
                        m.state = r->status;
                }
        }
        *ret = m;
        return true;
}

/* As llama-server's router mode calls it. */
static const char *loaded_word(const char *state)
{
        if (streq(state, "ready") || streq(state, "unhealthy") || streq(state, "draining"))
                return "loaded";
        return streq(state, "starting") || streq(state, "crashed") ? "loading" : "unloaded";
}

static void put_aliases(struct json_writer *w, const struct model *m)
{
        json_key(w, "aliases");
        json_open_array(w);
        for (char **a = m->entry->aliases; a && *a; a++)
                json_put_string(w, *a);
        json_close_array(w);
}

static void put_meta(struct json_writer *w, const struct model *m)
{
        const struct report *r = m->best;

        json_key(w, "meta");
        json_open_object(w);
        if (r && r->context)
                json_uint(w, "n_ctx", r->context);
        if (r && r->n_models && r->models[0].size)
                json_uint(w, "size", r->models[0].size);
        if (r && r->n_models && r->models[0].type)
                json_string(w, "type", r->models[0].type);
        json_uint(w, "instances", m->instances);
        json_uint(w, "ready", m->ready);
        json_close_object(w);
}

static void put_openai(struct json_writer *w, const struct doors *d, const struct model *m)
{
        const struct report *r = m->best;
        int64_t created = (int64_t)(d->started_realtime / USEC_PER_SEC);

        if (r && r->n_models && r->models[0].modified_at > 0)
                created = r->models[0].modified_at;
        json_open_object(w);
        json_string(w, "id", m->entry->name);
        json_string(w, "object", "model");
        json_int(w, "created", created);
        json_string(w, "owned_by", "llama-supervisor");
        put_aliases(w, m);
        json_key(w, "status");
        json_open_object(w);
        json_string(w, "value", loaded_word(m->state));
        json_string(w, "state", m->state);
        if (streq(m->state, "error"))
                json_bool(w, "failed", true);
        json_close_object(w);
        put_meta(w, m);
        json_close_object(w);
}

/* A model that only workers of a hub have: they stand for its instances. */
static void put_offered(struct json_writer *w, const struct doors *d, const struct farm_offer *o)
{
        json_open_object(w);
        json_string(w, "id", o->model);
        json_string(w, "object", "model");
        json_int(w, "created", (int64_t)(d->started_realtime / USEC_PER_SEC));
        json_string(w, "owned_by", "hub");
        json_key(w, "aliases");
        json_open_array(w);
        json_close_array(w);
        json_key(w, "status");
        json_open_object(w);
        json_string(w, "value", o->ready ? "loaded" : "unloaded");
        json_string(w, "state", o->ready ? "ready" : o->workers ? "idle" : "initial");
        json_close_object(w);
        json_key(w, "meta");
        json_open_object(w);
        if (o->context)
                json_uint(w, "n_ctx", o->context);
        json_uint(w, "instances", o->workers);
        json_uint(w, "ready", o->ready ? o->workers : 0);
        json_close_object(w);
        json_close_object(w);
}

static void put_all_offered(struct json_writer *w, const struct doors *d)
{
        const struct config_instance *entry;
        const struct farm_offer *offers;
        size_t n = d->hubs ? hubs_offers(d->hubs, &offers) : 0;

        for (size_t i = 0; i < n; i++)
                if (dispatch_resolve(d->fleet, offers[i].model, &entry) < 0)
                        put_offered(w, d, offers + i);
}

void models_handle(struct call *call)
{
        struct fleet *f = call->doors->fleet;
        _cleanup_(lineup_finish) struct lineup l = {0};
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        const char *name;
        struct model m;

        if (!lineup_take(f, &l)) {
                doors_respond_error(call->req, 503, "not enough memory for the answer");
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "object", "list");
        json_key(&w, "data");
        json_open_array(&w);
        for (size_t i = 0; (name = dispatch_model_name(f, i)); i++)
                if (model_look(f, &l, name, &m))
                        put_openai(&w, call->doors, &m);
        put_all_offered(&w, call->doors);
        json_close_array(&w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}

void model_handle(struct call *call)
{
        _cleanup_(lineup_finish) struct lineup l = {0};
        _cleanup_buffer_ struct buffer b = {0};
        char message[512];
        struct farm_offer offer;
        struct json_writer w;
        struct model m;
        bool is_ours;

        if (!lineup_take(call->doors->fleet, &l)) {
                doors_respond_error(call->req, 503, "not enough memory for the answer");
                return;
        }
        is_ours = call->rest[0] && model_look(call->doors->fleet, &l, call->rest, &m);
        if (!is_ours && !(call->doors->hubs && hubs_offer(call->doors->hubs, call->rest, &offer))) {
                (void)snprintf(message, sizeof(message),
                               "the model \"%.200s\" does not exist: GET /v1/models lists those that do",
                               call->rest);
                respond_error_coded(call->req, 404, "model_not_found", NULL, message);
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        if (is_ours)
                put_openai(&w, call->doors, &m);
        else
                put_offered(&w, call->doors, &offer);
        respond_json(call->req, 200, NULL, &b);
}

/* Names that stand for several of them. */
static void put_shared(struct json_writer *w, struct fleet *f)
{
        const char *name, *model;

        json_key(w, "shared");
        json_open_array(w);
        for (size_t i = 0; (name = dispatch_shared_name(f, i)); i++) {
                struct dispatch_figures figures = {0};

                (void)dispatch_figures(f, name, &figures);
                json_open_object(w);
                json_string(w, "name", name);
                json_key(w, "models");
                json_open_array(w);
                for (size_t k = 0; (model = dispatch_shared_model(f, i, k)); k++)
                        json_put_string(w, model);
                json_close_array(w);
                json_uint(w, "queue", figures.waiting);
                json_bool(w, "shedding", figures.shedding_since != 0);
                json_close_object(w);
        }
        json_close_array(w);
}

/* Local requests and jobs of hubs: what they hold, what they wait for, and what they had of the slots so far. */
static void put_sources(struct json_writer *w, const struct dispatch_figures *figures)
{
        static const char *const names[SIDES] = {[SIDE_LOCAL] = "local", [SIDE_HUB] = "hub"};

        json_key(w, "sources");
        json_open_object(w);
        for (enum side i = 0; i < SIDES; i++) {
                json_key(w, names[i]);
                json_open_object(w);
                json_uint(w, "leased", figures->by[i].leased);
                json_uint(w, "queue", figures->by[i].waiting);
                json_double(w, "slotSeconds", figures->by[i].seconds, 3);
                json_close_object(w);
        }
        json_close_object(w);
}

static void put_own(struct json_writer *w, struct fleet *f, const struct lineup *l, const struct model *m)
{
        struct dispatch_figures figures = {0};

        (void)dispatch_figures(f, m->entry->name, &figures);
        json_open_object(w);
        json_string(w, "name", m->entry->name);
        put_aliases(w, m);
        json_string(w, "model", m->entry->model);
        json_string(w, "state", m->state);
        json_key(w, "instances");
        json_open_array(w);
        for (size_t i = 0; i < m->instances; i++)
                json_put_string(w, l->places[m->first + i].report->instance);
        json_close_array(w);
        json_uint(w, "ready", m->ready);
        json_uint(w, "slots", figures.slots);
        json_uint(w, "leased", figures.leased);
        json_uint(w, "queue", figures.waiting);
        put_sources(w, &figures);
        json_bool(w, "shedding", figures.shedding_since != 0);
        json_bool(w, "onDemand", m->entry->on_demand);
        json_bool(w, "pinned", m->entry->pinned);
        report_put_moment(w, "until", m->entry->on_demand ? demand_until(f, m->entry) : 0);
        json_close_object(w);
}

void api_models_handle(struct call *call)
{
        struct fleet *f = call->doors->fleet;
        _cleanup_(lineup_finish) struct lineup l = {0};
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        const char *name;
        struct model m;

        if (!lineup_take(f, &l)) {
                doors_respond_error(call->req, 503, "not enough memory for the answer");
                return;
        }
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "models");
        json_open_array(&w);
        for (size_t i = 0; (name = dispatch_model_name(f, i)); i++)
                if (model_look(f, &l, name, &m))
                        put_own(&w, f, &l, &m);
        json_close_array(&w);
        put_shared(&w, f);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}

/* --- GET /stats ------------------------------------------------------------------------------------------------------ */

/* Their score is a mean time in seconds; ours is that of the model's answers. */
static double mean_seconds(const struct fleet *f, const char *model)
{
        struct activity_figures figures;
        uint64_t n = 0;

        if (activity_figures(fleet_activity((struct fleet *)f), model, &figures) < 0)
                return 0;
        for (size_t i = 0; i <= ACTIVITY_BUCKETS; i++)
                n += figures.duration[ACTIVITY_OK][i];
        return n ? figures.duration_sum[ACTIVITY_OK] / (double)n : 0;
}

/* "4h12m", as Go prints spans: without spaces. */
static void put_span(struct json_writer *w, usec_t span)
{
        char text[TIME_SPAN_MAX], *to = text;

        for (const char *from = time_span(span, text, sizeof(text)); *from; from++)
                if (*from != ' ')
                        *to++ = *from;
        *to = '\0';
        json_string(w, "uptime_pretty", text);
}

static void put_worker(struct json_writer *w, struct fleet *f, const struct report *r)
{
        struct dispatch_seat seat = {0};
        char text[TIME_ISO_MAX];

        (void)dispatch_seat(f, r->instance, &seat);
        json_key(w, r->instance);
        json_open_object(w);
        json_uint(w, "jobs_completed", seat.served);
        json_uint(w, "jobs_failed", seat.failed);
        json_double(w, "score", mean_seconds(f, r->model), 9);
        json_string(w, "start_time", r->started_at ? time_iso(r->started_at, text, sizeof(text)) : NULL);
        put_span(w, r->uptime * USEC_PER_SEC);
        json_uint(w, "uptime_seconds", r->uptime);
        json_close_object(w);
}

/* Workers are the instances that could be given work now, as their hub lists those that answer. */
void stats_handle(struct call *call)
{
        struct fleet *f = call->doors->fleet;
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        unsigned n = 0;

        for (size_t i = 0, count = fleet_count(f); i < count; i++)
                n += streq(fleet_brief(f, i).status, "ready");
        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_uint(&w, "total_workers", n);
        json_key(&w, "workers");
        json_open_object(&w);
        for (size_t i = 0, count = fleet_count(f); i < count; i++)
                if (streq(fleet_brief(f, i).status, "ready"))
                        put_worker(&w, f, fleet_report(f, i));
        json_close_object(&w);
        json_close_object(&w);
        respond_json(call->req, 200, NULL, &b);
}
