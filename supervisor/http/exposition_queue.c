/* exposition_queue.c: slots and queues in figures: a snapshot, and one row per metric family that writes it down. */
#include "http/exposition_queue.h"

#include <errno.h>

#include "base/macros.h"
#include "fleet/dispatch.h"
#include "http/exposition_part.h"

#define PREFIX EXPOSITION_PREFIX

struct seat_sample {
        struct exposition_sample base; /* instance="…",model="…" */
        struct dispatch_seat seat;
};

struct model_sample {
        struct exposition_sample base; /* model="…" */
        struct dispatch_figures figures;
        bool shared; /* a name of several: the slots are theirs */
};

struct exposition_queue {
        struct exposition_part seats, models;
};

/* --- seats ----------------------------------------------------------------------------------------------------------- */

static void seat_requests(const struct exposition_part *p, const struct exposition_row *row,
                          const void *sample, struct buffer *out)
{
        const struct seat_sample *s = sample;

        exposition_part_put_count(p, row, s, "outcome", "ok", out, s->seat.served);
        exposition_part_put_count(p, row, s, "outcome", "failed", out, s->seat.failed);
        exposition_part_put_count(p, row, s, "outcome", "cancelled", out, s->seat.cancelled);
}

static bool seat_ejected(const void *sample, double *ret)
{
        *ret = ((const struct seat_sample *)sample)->seat.ejected_until > 0;
        return true;
}

#define SEAT(member) offsetof(struct seat_sample, seat.member)

static const struct exposition_row seat_rows[] = {
        {PREFIX "instance_leases", "gauge", "Slots of the instance that requests of ours hold.",
         .each = exposition_each_unsigned, .offset = SEAT(leased)},
        {PREFIX "instance_lease_slots", "gauge",
         "Slots that may be given to requests, 0 when it is not ready.", .each = exposition_each_unsigned,
         .offset = SEAT(slots)},
        {PREFIX "instance_questions", "gauge", "Requests on their way to the instance that take no slot.",
         .each = exposition_each_unsigned, .offset = SEAT(questions)},
        {PREFIX "instance_requests_total", "counter", "Tries on the instance that ended, by outcome.",
         .each = seat_requests},
        {PREFIX "instance_ejected", "gauge", "1 while the instance is left alone since it fails requests.",
         .each = exposition_each_figure, .figure = seat_ejected},
        {PREFIX "instance_ejections_total", "counter", "Times that the instance was left alone.",
         .each = exposition_each_u64, .offset = SEAT(ejections)},
};

/* --- models ---------------------------------------------------------------------------------------------------------- */

static void model_waits(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                        struct buffer *out)
{
        const struct model_sample *m = sample;

        exposition_part_put_histogram(p, row, m, dispatch_wait_bounds, DISPATCH_WAIT_BUCKETS,
                                      m->figures.waits, m->figures.wait_sum, out);
}

/* The first reason is always there, so that every model has a series before its first refusal; others once they happened. */
static void model_refused(const struct exposition_part *p, const struct exposition_row *row,
                          const void *sample, struct buffer *out)
{
        const struct model_sample *m = sample;

        for (enum ticket_refusal r = REFUSAL_QUEUE_FULL; r < TICKET_REFUSALS; r++)
                if (r == REFUSAL_QUEUE_FULL || m->figures.refused[r])
                        exposition_part_put_count(p, row, m, "reason", ticket_refusal_name(r), out,
                                                  m->figures.refused[r]);
}

static void model_slot_seconds(const struct exposition_part *p, const struct exposition_row *row,
                               const void *sample, struct buffer *out)
{
        const struct model_sample *m = sample;

        if (m->shared)
                return;
        exposition_part_put(p, row, m, "source", "local", out, m->figures.by[SIDE_LOCAL].seconds);
        exposition_part_put(p, row, m, "source", "hub", out, m->figures.by[SIDE_HUB].seconds);
}

static bool model_shedding(const void *sample, double *ret)
{
        *ret = ((const struct model_sample *)sample)->figures.shedding_since > 0;
        return true;
}

#define MODEL(member) offsetof(struct model_sample, figures.member)

static const struct exposition_row model_rows[] = {
        {PREFIX "model_queue", "gauge", "Requests that wait for an instance of the model.",
         .each = exposition_each_unsigned, .offset = MODEL(waiting)},
        {PREFIX "model_queue_wait_seconds", "histogram", "How long requests waited that got an instance.",
         .each = model_waits},
        {PREFIX "model_refused_total", "counter", "Requests that got no instance, by reason.",
         .each = model_refused},
        {PREFIX "model_retries_total", "counter", "Times that a request asked for another instance.",
         .each = exposition_each_u64, .offset = MODEL(retried)},
        {PREFIX "model_slot_seconds_total", "counter",
         "Slot-time of the model that went to local requests and to jobs of hubs.",
         .each = model_slot_seconds},
        {PREFIX "model_shedding", "gauge", "1 while requests are turned away since waits stay too long.",
         .each = exposition_each_figure, .figure = model_shedding},
};

bool exposition_queue_more(struct exposition_queue *q, struct buffer *out, size_t enough,
                           enum exposition_format format)
{
        return exposition_part_more(&q->seats, seat_rows, ARRAY_SIZE(seat_rows), out, enough, format) ||
               exposition_part_more(&q->models, model_rows, ARRAY_SIZE(model_rows), out, enough, format);
}

/* --- the snapshot ---------------------------------------------------------------------------------------------------- */

/* Of a model, or of a name that several share. */
static struct model_sample *add_model(struct exposition_queue *q, const char *name, bool is_shared)
{
        struct model_sample *m = exposition_part_add(&q->models);

        if (m) {
                m->shared = is_shared;
                exposition_part_label(&q->models, "model", name);
        }
        return m;
}

static void take_samples(struct exposition_queue *q, struct fleet *fleet)
{
        size_t models = 0, shared = 0;
        struct model_sample *m;
        const char *name;

        while (dispatch_model_name(fleet, models))
                models++;
        while (dispatch_shared_name(fleet, shared))
                shared++;
        (void)exposition_part_init(&q->seats, fleet_count(fleet), sizeof(struct seat_sample));
        (void)exposition_part_init(&q->models, models + shared, sizeof(struct model_sample));
        for (struct seat_sample *s; (s = exposition_part_add(&q->seats));) {
                const struct fleet_brief r = fleet_brief(fleet, q->seats.n - 1);

                (void)dispatch_seat_at(fleet, q->seats.n - 1, &s->seat);
                exposition_part_label(&q->seats, "instance", r.instance);
                exposition_part_label(&q->seats, "model", r.model);
        }
        for (size_t i = 0; i < models && (name = dispatch_model_name(fleet, i)); i++)
                if ((m = add_model(q, name, false)))
                        (void)dispatch_figures_at(fleet, i, &m->figures);
        for (size_t i = 0; i < shared && (name = dispatch_shared_name(fleet, i)); i++)
                if ((m = add_model(q, name, true)))
                        (void)dispatch_figures(fleet, name, &m->figures);
}

int exposition_queue_new(struct fleet *fleet, struct exposition_queue **ret)
{
        struct exposition_queue *q = calloc(1, sizeof(*q));

        if (!q)
                return -ENOMEM;
        take_samples(q, fleet);
        if (exposition_part_failed(&q->seats) || exposition_part_failed(&q->models)) {
                exposition_queue_free(q);
                return -ENOMEM;
        }
        *ret = q;
        return 0;
}

struct exposition_queue *exposition_queue_free(struct exposition_queue *q)
{
        if (!q)
                return NULL;
        exposition_part_finish(&q->seats);
        exposition_part_finish(&q->models);
        free(q);
        return NULL;
}
