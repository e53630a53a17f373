/* exposition_queue.c: slots and queues in figures: a snapshot, and one row per metric family that writes it down. */
#include "http/exposition_queue.h"

#include <errno.h>

#include "fleet/dispatch.h"
#include "http/exposition_text.h"

#define PREFIX EXPOSITION_PREFIX

/* Labels lie in the arena. */
struct seat_sample {
        size_t labels, labels_len; /* instance="…",model="…" */
        struct dispatch_seat seat;
};

struct model_sample {
        size_t labels, labels_len; /* model="…" */
        struct dispatch_figures figures;
};

struct exposition_queue {
        struct seat_sample *seats;
        struct model_sample *models;
        size_t n_seats, n_models;
        struct buffer arena;
        size_t family, at; /* what is written next */
};

/* One of the two functions is there. */
struct family {
        const char *name, *type, *help;
        void (*seat)(const struct exposition_queue *q, const struct family *f, const struct seat_sample *s,
                     struct buffer *out);
        void (*model)(const struct exposition_queue *q, const struct family *f, const struct model_sample *m,
                      struct buffer *out);
};

static void put_seat(const struct exposition_queue *q, const struct family *f, const struct seat_sample *s,
                     const char *outcome, struct buffer *out, uint64_t v)
{
        exposition_put_series(out, f->name, "", q->arena.data + s->labels, s->labels_len,
                              outcome ? "outcome" : NULL, outcome);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

static void put_model(const struct exposition_queue *q, const struct family *f, const struct model_sample *m,
                      const char *reason, struct buffer *out, uint64_t v)
{
        exposition_put_series(out, f->name, "", q->arena.data + m->labels, m->labels_len,
                              reason ? "reason" : NULL, reason);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

static void seat_leases(const struct exposition_queue *q, const struct family *f, const struct seat_sample *s,
                        struct buffer *out)
{
        put_seat(q, f, s, NULL, out, s->seat.leased);
}

static void seat_slots(const struct exposition_queue *q, const struct family *f, const struct seat_sample *s,
                       struct buffer *out)
{
        put_seat(q, f, s, NULL, out, s->seat.slots);
}

static void seat_questions(const struct exposition_queue *q, const struct family *f,
                           const struct seat_sample *s, struct buffer *out)
{
        put_seat(q, f, s, NULL, out, s->seat.questions);
}

static void seat_requests(const struct exposition_queue *q, const struct family *f,
                          const struct seat_sample *s, struct buffer *out)
{
        put_seat(q, f, s, "ok", out, s->seat.served);
        put_seat(q, f, s, "failed", out, s->seat.failed);
        put_seat(q, f, s, "cancelled", out, s->seat.cancelled);
}

static void seat_ejected(const struct exposition_queue *q, const struct family *f,
                         const struct seat_sample *s, struct buffer *out)
{
        put_seat(q, f, s, NULL, out, s->seat.ejected_until > 0);
}

static void seat_ejections(const struct exposition_queue *q, const struct family *f,
                           const struct seat_sample *s, struct buffer *out)
{
        put_seat(q, f, s, NULL, out, s->seat.ejections);
}

static void model_queue(const struct exposition_queue *q, const struct family *f,
                        const struct model_sample *m, struct buffer *out)
{
        put_model(q, f, m, NULL, out, m->figures.waiting);
}

static void model_waits(const struct exposition_queue *q, const struct family *f,
                        const struct model_sample *m, struct buffer *out)
{
        exposition_put_histogram(out, f->name, q->arena.data + m->labels, m->labels_len, dispatch_wait_bounds,
                                 DISPATCH_WAIT_BUCKETS, m->figures.waits, m->figures.wait_sum);
}

/* The first reason is always there, so that every model has a series before its first refusal; others once they happened. */
static void model_refused(const struct exposition_queue *q, const struct family *f,
                          const struct model_sample *m, struct buffer *out)
{
        for (enum ticket_refusal r = REFUSAL_QUEUE_FULL; r < TICKET_REFUSALS; r++)
                if (r == REFUSAL_QUEUE_FULL || m->figures.refused[r])
                        put_model(q, f, m, ticket_refusal_name(r), out, m->figures.refused[r]);
}

static void model_retries(const struct exposition_queue *q, const struct family *f,
                          const struct model_sample *m, struct buffer *out)
{
        put_model(q, f, m, NULL, out, m->figures.retried);
}

static void model_shedding(const struct exposition_queue *q, const struct family *f,
                           const struct model_sample *m, struct buffer *out)
{
        put_model(q, f, m, NULL, out, m->figures.shedding_since > 0);
}

static const struct family families[] = {
        {PREFIX "instance_leases", "gauge", "Slots of the instance that requests of ours hold.",
         .seat = seat_leases},
        {PREFIX "instance_lease_slots", "gauge",
         "Slots that may be given to requests, 0 when it is not ready.", .seat = seat_slots},
        {PREFIX "instance_questions", "gauge", "Requests on their way to the instance that take no slot.",
         .seat = seat_questions},
        {PREFIX "instance_requests_total", "counter", "Tries on the instance that ended, by outcome.",
         .seat = seat_requests},
        {PREFIX "instance_ejected", "gauge", "1 while the instance is left alone since it fails requests.",
         .seat = seat_ejected},
        {PREFIX "instance_ejections_total", "counter", "Times that the instance was left alone.",
         .seat = seat_ejections},
        {PREFIX "model_queue", "gauge", "Requests that wait for an instance of the model.",
         .model = model_queue},
        {PREFIX "model_queue_wait_seconds", "histogram", "How long requests waited that got an instance.",
         .model = model_waits},
        {PREFIX "model_refused_total", "counter", "Requests that got no instance, by reason.",
         .model = model_refused},
        {PREFIX "model_retries_total", "counter", "Times that a request asked for another instance.",
         .model = model_retries},
        {PREFIX "model_shedding", "gauge", "1 while requests are turned away since waits stay too long.",
         .model = model_shedding},
};

bool exposition_queue_more(struct exposition_queue *q, struct buffer *out, size_t enough,
                           enum exposition_format format)
{
        while (q->family < ARRAY_SIZE(families) && out->len < enough) {
                const struct family *f = families + q->family;
                size_t n = f->seat ? q->n_seats : q->n_models;

                if (q->at == 0)
                        exposition_put_head(out, format, f->name, f->type, f->help);
                if (q->at < n) {
                        if (f->seat)
                                f->seat(q, f, q->seats + q->at, out);
                        else
                                f->model(q, f, q->models + q->at, out);
                }
                if (++q->at >= n) {
                        q->family++;
                        q->at = 0;
                }
        }
        return q->family < ARRAY_SIZE(families);
}

static void put_label(struct exposition_queue *q, const char *key, const char *value)
{
        (void)buffer_puts(&q->arena, key);
        (void)buffer_puts(&q->arena, "=\"");
        exposition_put_label_value(&q->arena, value);
        (void)buffer_putc(&q->arena, '"');
}

/* Of a model, or of a name that several share. */
static void take_model(struct exposition_queue *q, struct fleet *fleet, const char *name)
{
        struct model_sample *m = q->models + q->n_models++;

        (void)dispatch_figures(fleet, name, &m->figures);
        m->labels = q->arena.len;
        put_label(q, "model", name);
        m->labels_len = q->arena.len - m->labels;
}

static int take_samples(struct exposition_queue *q, struct fleet *fleet)
{
        size_t instances = fleet_count(fleet), models = 0, shared = 0;
        const char *name;

        while (dispatch_model_name(fleet, models))
                models++;
        while (dispatch_shared_name(fleet, shared))
                shared++;
        q->seats = calloc(MAX(instances, 1U), sizeof(*q->seats));
        q->models = calloc(MAX(models + shared, 1U), sizeof(*q->models));
        if (!q->seats || !q->models)
                return -ENOMEM;
        for (; q->n_seats < instances; q->n_seats++) {
                struct seat_sample *s = q->seats + q->n_seats;
                const struct report *r = fleet_report(fleet, q->n_seats);

                (void)dispatch_seat_at(fleet, q->n_seats, &s->seat);
                s->labels = q->arena.len;
                put_label(q, "instance", r->instance);
                (void)buffer_putc(&q->arena, ',');
                put_label(q, "model", r->model);
                s->labels_len = q->arena.len - s->labels;
        }
        for (size_t i = 0; i < models && (name = dispatch_model_name(fleet, i)); i++)
                take_model(q, fleet, name);
        for (size_t i = 0; i < shared && (name = dispatch_shared_name(fleet, i)); i++)
                take_model(q, fleet, name);
        return q->arena.failed ? -ENOMEM : 0;
}

int exposition_queue_new(struct fleet *fleet, struct exposition_queue **ret)
{
        struct exposition_queue *q = calloc(1, sizeof(*q));
        int r;

        if (!q)
                return -ENOMEM;
        buffer_init(&q->arena, 0);
        r = take_samples(q, fleet);
        if (r < 0) {
                exposition_queue_free(q);
                return r;
        }
        *ret = q;
        return 0;
}

struct exposition_queue *exposition_queue_free(struct exposition_queue *q)
{
        if (!q)
                return NULL;
        buffer_finish(&q->arena);
        free(q->seats);
        free(q->models);
        free(q);
        return NULL;
}
