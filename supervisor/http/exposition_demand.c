/* exposition_demand.c: models on demand and ranges of replicas, one sample a model. */
#include "http/exposition_demand.h"

#include <errno.h>

#include "fleet/demand.h"
#include "http/exposition_part.h"

#define PREFIX EXPOSITION_PREFIX "model_"

struct sample {
        struct exposition_sample base;
        struct demand_figures figures;
};

struct exposition_demand {
        struct exposition_part part;
};

static bool is_on_demand(const void *sample)
{
        return ((const struct sample *)sample)->figures.on_demand;
}

static bool scales(const void *sample)
{
        return ((const struct sample *)sample)->figures.scales;
}

static void each_unload(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                        struct buffer *out)
{
        const struct sample *s = sample;

        for (enum demand_reason r = 0; r < UNLOAD_REASONS; r++)
                exposition_part_put_count(p, row, s, "reason", demand_reason_name(r), out,
                                          s->figures.unloads[r]);
}

static void each_wait(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                      struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_histogram(p, row, s, demand_wait_bounds, DEMAND_WAIT_BUCKETS, s->figures.waits,
                                      s->figures.wait_sum, out);
}

static void each_scaling(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_count(p, row, s, "direction", "out", out, s->figures.scaled_out);
        exposition_part_put_count(p, row, s, "direction", "in", out, s->figures.scaled_in);
}

#define OF(member) offsetof(struct sample, figures.member)

static const struct exposition_row rows[] = {
        {PREFIX "loaded", "gauge", "1 while a model that comes on demand is loaded and ready.",
         .each = exposition_each_bool, .offset = OF(loaded), .is_there = is_on_demand},
        {PREFIX "loads_total", "counter", "Times it was loaded on demand.", .each = exposition_each_u64,
         .offset = OF(loads), .is_there = is_on_demand},
        {PREFIX "load_failures_total", "counter", "Loads on demand that failed.", .each = exposition_each_u64,
         .offset = OF(load_failures), .is_there = is_on_demand},
        {PREFIX "unloads_total", "counter",
         "Times it was unloaded: idle, evicted (to make room for another one), asked (by a person).",
         .each = each_unload, .is_there = is_on_demand},
        {PREFIX "load_wait_seconds", "histogram", "From the wish for it to ready, making room included.",
         .each = each_wait, .is_there = is_on_demand},
        {PREFIX "replicas", "gauge", "Replicas wanted now of an entry with a range of them.",
         .each = exposition_each_unsigned, .offset = OF(replicas), .is_there = scales},
        {PREFIX "scalings_total", "counter", "Replicas added (out) and taken away (in).",
         .each = each_scaling, .is_there = scales},
};

bool exposition_demand_more(struct exposition_demand *x, struct buffer *out, size_t enough,
                            enum exposition_format format)
{
        return exposition_part_more(&x->part, rows, ARRAY_SIZE(rows), out, enough, format);
}

int exposition_demand_new(struct fleet *fleet, struct exposition_demand **ret)
{
        struct exposition_demand *x = calloc(1, sizeof(*x));
        struct demand_figures figures;
        size_t n = 0;

        if (!x)
                return -ENOMEM;
        while (demand_figures(fleet, n, &figures) == 0)
                n++;
        (void)exposition_part_init(&x->part, n, sizeof(struct sample));
        for (struct sample *s; (s = exposition_part_add(&x->part));) {
                (void)demand_figures(fleet, x->part.n - 1, &s->figures);
                exposition_part_label(&x->part, "model", s->figures.model);
                s->figures.model = NULL; /* the fleet's, and only for this turn */
        }
        if (exposition_part_failed(&x->part)) {
                exposition_demand_free(x);
                return -ENOMEM;
        }
        *ret = x;
        return 0;
}

struct exposition_demand *exposition_demand_free(struct exposition_demand *x)
{
        if (!x)
                return NULL;
        exposition_part_finish(&x->part);
        free(x);
        return NULL;
}
