/* exposition_demand.c: models on demand and ranges of replicas, one sample a model. */
#include "http/exposition_demand.h"

#include <errno.h>

#include "fleet/demand.h"
#include "http/exposition_text.h"

#define PREFIX EXPOSITION_PREFIX "model_"

struct sample {
        size_t labels, labels_len; /* in the arena */
        struct demand_figures figures;
};

struct exposition_demand {
        struct sample *samples;
        size_t n_samples;
        struct buffer arena;
        size_t family, at; /* what is written next */
};

struct family {
        const char *name, *type, *help;
        void (*each)(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                     struct buffer *out);
        bool scales; /* only of those with a range; else only of those on demand */
};

static void put(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                const char *more, const char *value, struct buffer *out, uint64_t v)
{
        exposition_put_series(out, f->name, "", x->arena.data + s->labels, s->labels_len, more, value);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

static void each_loaded(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                        struct buffer *out)
{
        put(x, f, s, NULL, NULL, out, s->figures.loaded);
}

static void each_loads(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                       struct buffer *out)
{
        put(x, f, s, NULL, NULL, out, s->figures.loads);
}

static void each_failure(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                         struct buffer *out)
{
        put(x, f, s, NULL, NULL, out, s->figures.load_failures);
}

static void each_unload(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                        struct buffer *out)
{
        for (enum demand_reason r = 0; r < UNLOAD_REASONS; r++)
                put(x, f, s, "reason", demand_reason_name(r), out, s->figures.unloads[r]);
}

static void each_wait(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                      struct buffer *out)
{
        exposition_put_histogram(out, f->name, x->arena.data + s->labels, s->labels_len, demand_wait_bounds,
                                 DEMAND_WAIT_BUCKETS, s->figures.waits, s->figures.wait_sum);
}

static void each_replicas(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                          struct buffer *out)
{
        put(x, f, s, NULL, NULL, out, s->figures.replicas);
}

static void each_scaling(const struct exposition_demand *x, const struct family *f, const struct sample *s,
                         struct buffer *out)
{
        put(x, f, s, "direction", "out", out, s->figures.scaled_out);
        put(x, f, s, "direction", "in", out, s->figures.scaled_in);
}

static const struct family families[] = {
        {PREFIX "loaded", "gauge", "1 while a model that comes on demand is loaded and ready.", each_loaded,
         false},
        {PREFIX "loads_total", "counter", "Times it was loaded on demand.", each_loads, false},
        {PREFIX "load_failures_total", "counter", "Loads on demand that failed.", each_failure, false},
        {PREFIX "unloads_total", "counter",
         "Times it was unloaded: idle, evicted (to make room for another one), asked (by a person).",
         each_unload, false},
        {PREFIX "load_wait_seconds", "histogram", "From the wish for it to ready, making room included.",
         each_wait, false},
        {PREFIX "replicas", "gauge", "Replicas wanted now of an entry with a range of them.", each_replicas,
         true},
        {PREFIX "scalings_total", "counter", "Replicas added (out) and taken away (in).", each_scaling, true},
};

bool exposition_demand_more(struct exposition_demand *x, struct buffer *out, size_t enough,
                            enum exposition_format format)
{
        while (x->family < ARRAY_SIZE(families) && out->len < enough) {
                const struct family *f = families + x->family;

                if (x->at == 0)
                        exposition_put_head(out, format, f->name, f->type, f->help);
                if (x->at < x->n_samples) {
                        const struct sample *s = x->samples + x->at;

                        if (f->scales ? s->figures.scales : s->figures.on_demand)
                                f->each(x, f, s, out);
                }
                if (++x->at >= x->n_samples) {
                        x->family++;
                        x->at = 0;
                }
        }
        return x->family < ARRAY_SIZE(families);
}

int exposition_demand_new(struct fleet *fleet, struct exposition_demand **ret)
{
        struct exposition_demand *x = calloc(1, sizeof(*x));
        struct demand_figures figures;
        size_t n = 0;

        if (!x)
                return -ENOMEM;
        buffer_init(&x->arena, 0);
        while (demand_figures(fleet, n, &figures) == 0)
                n++;
        x->samples = calloc(MAX(n, (size_t)1), sizeof(*x->samples));
        for (; x->samples && x->n_samples < n; x->n_samples++) {
                struct sample *s = x->samples + x->n_samples;

                (void)demand_figures(fleet, x->n_samples, &s->figures);
                s->labels = x->arena.len;
                (void)buffer_puts(&x->arena, "model=\"");
                exposition_put_label_value(&x->arena, s->figures.model);
                (void)buffer_putc(&x->arena, '"');
                s->labels_len = x->arena.len - s->labels;
                s->figures.model = NULL; /* the fleet's, and only for this turn */
        }
        if (!x->samples || x->arena.failed) {
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
        buffer_finish(&x->arena);
        free(x->samples);
        free(x);
        return NULL;
}
