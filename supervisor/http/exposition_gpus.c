/* exposition_gpus.c: what GPUs are and do, one sample a GPU. What a driver does not tell has no series. */
#include "http/exposition_gpus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"
#include "fleet/gpus.h"

#define PREFIX EXPOSITION_PREFIX "gpu_"

struct sample {
        size_t labels, labels_len; /* gpu="UUID" in the arena */
        char name[96], vendor[8], index[12];
        struct fleet_gpu gpu;
};

struct exposition_gpus {
        struct sample *samples;
        size_t n_samples;
        struct buffer arena;
        size_t family, at; /* what is written next */
};

struct family {
        const char *name, *type, *help;
        /* False: it has no figure. */
        bool (*figure)(const struct fleet_gpu *g, double *ret);
        void (*each)(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                     struct buffer *out);
};

static void put(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                const char *more, const char *value, struct buffer *out, double v)
{
        exposition_put_series(out, f->name, "", x->arena.data + s->labels, s->labels_len, more, value);
        exposition_put_number(out, v);
        (void)buffer_putc(out, '\n');
}

static void each_info(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                      struct buffer *out)
{
        (void)buffer_printf(out, "%s{%.*s,vendor=\"%s\",index=\"%s\",name=\"", f->name, (int)s->labels_len,
                            x->arena.data + s->labels, s->vendor, s->index);
        exposition_put_label_value(out, s->name);
        (void)buffer_puts(out, "\"} 1\n");
}

static void each_state(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                       struct buffer *out)
{
        for (size_t i = 0; fleet_gpu_states[i]; i++)
                put(x, f, s, "state", fleet_gpu_states[i], out, streq(fleet_gpu_states[i], s->gpu.state));
}

static void each_throttle(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                          struct buffer *out)
{
        for (unsigned i = 0; s->gpu.has_throttle && fleet_gpu_throttle_name(i); i++)
                put(x, f, s, "reason", fleet_gpu_throttle_name(i), out, s->gpu.throttle >> i & 1);
}

static void each_ecc(const struct exposition_gpus *x, const struct family *f, const struct sample *s,
                     struct buffer *out)
{
        if (!s->gpu.has_ecc)
                return;
        put(x, f, s, "kind", "corrected", out, (double)s->gpu.ecc_corrected);
        put(x, f, s, "kind", "uncorrected", out, (double)s->gpu.ecc_uncorrected);
}

static bool is_there(const struct fleet_gpu *g)
{
        return streq(g->state, "ok") || streq(g->state, "cordoned");
}

static bool total(const struct fleet_gpu *g, double *ret)
{
        *ret = (double)g->memory_total;
        return g->memory_total > 0;
}

static bool used(const struct fleet_gpu *g, double *ret)
{
        *ret = (double)g->memory_used;
        return g->memory_total > 0 && is_there(g);
}

static bool use(const struct fleet_gpu *g, double *ret)
{
        *ret = g->use;
        return g->has_use;
}

static bool temperature(const struct fleet_gpu *g, double *ret)
{
        *ret = g->temperature;
        return g->has_temperature;
}

static bool power(const struct fleet_gpu *g, double *ret)
{
        *ret = g->power;
        return g->has_power;
}

static bool power_limit(const struct fleet_gpu *g, double *ret)
{
        *ret = g->power_limit;
        return g->has_power_limit;
}

static bool errors(const struct fleet_gpu *g, double *ret)
{
        *ret = (double)g->errors;
        return true;
}

static bool last_error(const struct fleet_gpu *g, double *ret)
{
        *ret = g->last_error;
        return true;
}

static const struct family families[] = {
        {PREFIX "info", "gauge", "A GPU, always 1.", .each = each_info},
        {PREFIX "state", "gauge", "1 for the state that the GPU is in, 0 for the others.",
         .each = each_state},
        {PREFIX "memory_total_bytes", "gauge", "Memory of the GPU.", .figure = total},
        {PREFIX "memory_used_bytes", "gauge", "Memory of the GPU in use, by all programs.", .figure = used},
        {PREFIX "utilization_ratio", "gauge", "Part of the time in which the GPU computed.", .figure = use},
        {PREFIX "temperature_celsius", "gauge", "Temperature of the GPU.", .figure = temperature},
        {PREFIX "power_watts", "gauge", "Power that the GPU draws.", .figure = power},
        {PREFIX "power_limit_watts", "gauge", "Power that the GPU may draw.", .figure = power_limit},
        {PREFIX "throttled", "gauge", "1 for each reason that makes the GPU slower than it could be.",
         .each = each_throttle},
        {PREFIX "ecc_errors_total", "counter", "Errors of the GPU's memory since its driver was loaded.",
         .each = each_ecc},
        {PREFIX "errors_total", "counter", "Errors that the GPU's driver reported (NVIDIA: Xid).",
         .figure = errors},
        {PREFIX "last_error", "gauge", "The number of the last of them, 0: none.", .figure = last_error},
};

bool exposition_gpus_more(struct exposition_gpus *x, struct buffer *out, size_t enough,
                          enum exposition_format format)
{
        while (x->family < ARRAY_SIZE(families) && out->len < enough) {
                const struct family *f = families + x->family;
                const struct sample *s = x->samples + x->at;
                double v;

                if (x->at == 0)
                        exposition_put_head(out, format, f->name, f->type, f->help);
                if (x->at < x->n_samples) {
                        if (f->each)
                                f->each(x, f, s, out);
                        else if (f->figure(&s->gpu, &v))
                                put(x, f, s, NULL, NULL, out, v);
                }
                if (++x->at >= x->n_samples) {
                        x->family++;
                        x->at = 0;
                }
        }
        return x->family < ARRAY_SIZE(families);
}

int exposition_gpus_new(struct fleet *fleet, struct exposition_gpus **ret)
{
        struct exposition_gpus *x = calloc(1, sizeof(*x));
        size_t n = fleet_gpu_count(fleet);

        if (!x)
                return -ENOMEM;
        buffer_init(&x->arena, 0);
        x->samples = calloc(MAX(n, 1U), sizeof(*x->samples));
        for (size_t i = 0; x->samples && i < n; i++) {
                struct sample *s = x->samples + x->n_samples++;

                fleet_gpu(fleet, i, &s->gpu);
                (void)snprintf(s->name, sizeof(s->name), "%s", s->gpu.name);
                (void)snprintf(s->vendor, sizeof(s->vendor), "%s", s->gpu.vendor);
                (void)snprintf(s->index, sizeof(s->index), "%d", MAX(s->gpu.index, 0));
                if (s->gpu.index < 0)
                        s->index[0] = '\0';
                s->labels = x->arena.len;
                (void)buffer_puts(&x->arena, "gpu=\"");
                exposition_put_label_value(&x->arena, s->gpu.uuid);
                (void)buffer_putc(&x->arena, '"');
                s->labels_len = x->arena.len - s->labels;
        }
        if (!x->samples || x->arena.failed) {
                exposition_gpus_free(x);
                return -ENOMEM;
        }
        *ret = x;
        return 0;
}

struct exposition_gpus *exposition_gpus_free(struct exposition_gpus *x)
{
        if (!x)
                return NULL;
        buffer_finish(&x->arena);
        free(x->samples);
        free(x);
        return NULL;
}
