/* exposition_gateway.c: requests in figures: a snapshot, and one row per metric family that writes it down. */
#include "http/exposition_gateway.h"

#include <errno.h>
#include <stdio.h>

#include "fleet/activity.h"
#include "fleet/relay.h"
#include "http/exposition_text.h"

#define PREFIX EXPOSITION_PREFIX

struct sample {
        size_t labels, labels_len; /* model="…" in the arena */
        struct activity_figures figures;
};

struct exposition_gateway {
        struct sample *samples;
        size_t n_samples;
        struct buffer arena;
        struct relay_figures relays;
        size_t family, at; /* what is written next */
};

struct family {
        const char *name, *type, *help;
        void (*once)(const struct exposition_gateway *g, const struct family *f, struct buffer *out);
        void (*each)(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                     struct buffer *out);
};

static void put(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                const char *more, const char *value, struct buffer *out, uint64_t v)
{
        exposition_put_series(out, f->name, "", g->arena.data + s->labels, s->labels_len, more, value);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

static void each_running(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                         struct buffer *out)
{
        put(g, f, s, NULL, NULL, out, s->figures.running);
}

/* "ok" is always there, so that every model has a series before its first request ended; others once they happened. */
static void each_outcome(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                         struct buffer *out)
{
        bool ok = false;

        for (size_t i = 0; i < ACTIVITY_OUTCOMES && s->figures.outcomes[i].outcome; i++) {
                put(g, f, s, "outcome", s->figures.outcomes[i].outcome, out, s->figures.outcomes[i].count);
                ok |= streq(s->figures.outcomes[i].outcome, "ok");
        }
        if (!ok)
                put(g, f, s, "outcome", "ok", out, 0);
}

static void each_tokens(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                        struct buffer *out)
{
        put(g, f, s, "direction", "in", out, s->figures.tokens_in);
        put(g, f, s, "direction", "out", out, s->figures.tokens_out);
}

static void each_first(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                       struct buffer *out)
{
        exposition_put_histogram(out, f->name, g->arena.data + s->labels, s->labels_len, activity_bounds,
                                 ACTIVITY_BUCKETS, s->figures.first_byte, s->figures.first_byte_sum);
}

static void each_per_token(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                           struct buffer *out)
{
        exposition_put_histogram(out, f->name, g->arena.data + s->labels, s->labels_len,
                                 activity_token_bounds, ACTIVITY_TOKEN_BUCKETS, s->figures.per_token,
                                 s->figures.per_token_sum);
}

static bool is_empty(const uint64_t counts[ACTIVITY_BUCKETS + 1])
{
        for (size_t i = 0; i <= ACTIVITY_BUCKETS; i++)
                if (counts[i])
                        return false;
        return true;
}

static void each_duration(const struct exposition_gateway *g, const struct family *f, const struct sample *s,
                          struct buffer *out)
{
        for (enum activity_result r = 0; r < ACTIVITY_RESULTS; r++) {
                char labels[CONFIG_NAME_MAX * 2 + 64];
                int n;

                if (r != ACTIVITY_OK && is_empty(s->figures.duration[r]))
                        continue;
                n = snprintf(labels, sizeof(labels), "%.*s,result=\"%s\"", (int)s->labels_len,
                             g->arena.data + s->labels, activity_result_name(r));
                exposition_put_histogram(out, f->name, labels, MIN((size_t)n, sizeof(labels) - 1),
                                         activity_bounds, ACTIVITY_BUCKETS, s->figures.duration[r],
                                         s->figures.duration_sum[r]);
        }
}

static void once_tries(const struct exposition_gateway *g, const struct family *f, struct buffer *out)
{
        exposition_put_plain(out, f->name, NULL, NULL, (double)g->relays.tries);
}

static void once_failures(const struct exposition_gateway *g, const struct family *f, struct buffer *out)
{
        for (enum relay_failure i = 0; i < RELAY_FAILURES; i++)
                exposition_put_plain(out, f->name, "reason", relay_failure_name(i),
                                     (double)g->relays.failures[i]);
}

static const struct family families[] = {
        {PREFIX "requests_running", "gauge", "Requests that wait or run, by model.", .each = each_running},
        {PREFIX "requests_total", "counter", "Requests that ended, by model and outcome.",
         .each = each_outcome},
        {PREFIX "request_tokens_total", "counter",
         "Tokens of prompts (in) and answers (out), as the instances told.", .each = each_tokens},
        {PREFIX "request_first_token_seconds", "histogram", "From a request's arrival to its first token.",
         .each = each_first},
        {PREFIX "request_time_per_token_seconds", "histogram",
         "Time of each further token of an answer, as its instance told, or by its stream.",
         .each = each_per_token},
        {PREFIX "request_duration_seconds", "histogram", "From a request's arrival to its end.",
         .each = each_duration},
        {PREFIX "upstream_tries_total", "counter", "Requests sent to instances, further tries included.",
         .once = once_tries},
        {PREFIX "upstream_failures_total", "counter", "Tries on an instance that failed.",
         .once = once_failures},
};

bool exposition_gateway_more(struct exposition_gateway *g, struct buffer *out, size_t enough,
                             enum exposition_format format)
{
        while (g->family < ARRAY_SIZE(families) && out->len < enough) {
                const struct family *f = families + g->family;

                if (g->at == 0)
                        exposition_put_head(out, format, f->name, f->type, f->help);
                if (f->once)
                        f->once(g, f, out);
                else if (g->at < g->n_samples)
                        f->each(g, f, g->samples + g->at, out);
                if (f->once || ++g->at >= g->n_samples) {
                        g->family++;
                        g->at = 0;
                }
        }
        return g->family < ARRAY_SIZE(families);
}

static int take_samples(struct exposition_gateway *g, const struct activity *a)
{
        size_t n = 0;

        while (a && activity_model_at(a, n))
                n++;
        g->samples = calloc(MAX(n, 1U), sizeof(*g->samples));
        if (!g->samples)
                return -ENOMEM;
        for (; g->n_samples < n; g->n_samples++) {
                struct sample *s = g->samples + g->n_samples;
                const char *name = activity_model_at(a, g->n_samples);

                (void)activity_figures(a, name, &s->figures);
                s->labels = g->arena.len;
                (void)buffer_puts(&g->arena, "model=\"");
                exposition_put_label_value(&g->arena, name);
                (void)buffer_putc(&g->arena, '"');
                s->labels_len = g->arena.len - s->labels;
        }
        return g->arena.failed ? -ENOMEM : 0;
}

int exposition_gateway_new(struct fleet *fleet, struct exposition_gateway **ret)
{
        struct exposition_gateway *g = calloc(1, sizeof(*g));
        int r;

        if (!g)
                return -ENOMEM;
        buffer_init(&g->arena, 0);
        relay_figures(fleet, &g->relays);
        r = take_samples(g, fleet_activity(fleet));
        if (r < 0) {
                exposition_gateway_free(g);
                return r;
        }
        *ret = g;
        return 0;
}

struct exposition_gateway *exposition_gateway_free(struct exposition_gateway *g)
{
        if (!g)
                return NULL;
        buffer_finish(&g->arena);
        free(g->samples);
        free(g);
        return NULL;
}
