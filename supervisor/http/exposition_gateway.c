/* exposition_gateway.c: requests in figures: a snapshot, and one row per metric family that writes it down. */
#include "http/exposition_gateway.h"

#include <errno.h>
#include <stdio.h>

#include "fleet/activity.h"
#include "fleet/relay.h"
#include "http/exposition_part.h"

#define PREFIX EXPOSITION_PREFIX

struct sample {
        struct exposition_sample base; /* model="…" */
        struct activity_figures figures;
};

struct exposition_gateway {
        struct exposition_part part;
        struct relay_figures relays;
};

/* "ok" is always there, so that every model has a series before its first request ended; others once they happened. */
static void each_outcome(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, struct buffer *out)
{
        const struct sample *s = sample;
        bool ok = false;

        for (size_t i = 0; i < ACTIVITY_OUTCOMES && s->figures.outcomes[i].outcome; i++) {
                exposition_part_put_count(p, row, s, "outcome", s->figures.outcomes[i].outcome, out,
                                          s->figures.outcomes[i].count);
                ok |= streq(s->figures.outcomes[i].outcome, "ok");
        }
        if (!ok)
                exposition_part_put_count(p, row, s, "outcome", "ok", out, 0);
}

static void each_tokens(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                        struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_count(p, row, s, "direction", "in", out, s->figures.tokens_in);
        exposition_part_put_count(p, row, s, "direction", "out", out, s->figures.tokens_out);
}

static void each_first(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                       struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_histogram(p, row, s, activity_bounds, ACTIVITY_BUCKETS, s->figures.first_byte,
                                      s->figures.first_byte_sum, out);
}

static void each_per_token(const struct exposition_part *p, const struct exposition_row *row,
                           const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_histogram(p, row, s, activity_token_bounds, ACTIVITY_TOKEN_BUCKETS,
                                      s->figures.per_token, s->figures.per_token_sum, out);
}

static bool is_empty(const uint64_t counts[ACTIVITY_BUCKETS + 1])
{
        for (size_t i = 0; i <= ACTIVITY_BUCKETS; i++)
                if (counts[i])
                        return false;
        return true;
}

static void each_duration(const struct exposition_part *p, const struct exposition_row *row,
                          const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        for (enum activity_result r = 0; r < ACTIVITY_RESULTS; r++) {
                char labels[CONFIG_NAME_MAX * 2 + 64];
                int n;

                if (r != ACTIVITY_OK && is_empty(s->figures.duration[r]))
                        continue;
                n = snprintf(labels, sizeof(labels), "%.*s,result=\"%s\"", (int)s->base.labels_len,
                             p->arena.data + s->base.labels, activity_result_name(r));
                exposition_put_histogram(out, row->name, labels, MIN((size_t)n, sizeof(labels) - 1),
                                         activity_bounds, ACTIVITY_BUCKETS, s->figures.duration[r],
                                         s->figures.duration_sum[r]);
        }
}

static const struct relay_figures *relays_of(const struct exposition_part *p)
{
        return &CONTAINER_OF(p, const struct exposition_gateway, part)->relays;
}

static void once_tries(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        exposition_put_plain(out, row->name, NULL, NULL, (double)relays_of(p)->tries);
}

static void once_failures(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        for (enum relay_failure i = 0; i < RELAY_FAILURES; i++)
                exposition_put_plain(out, row->name, "reason", relay_failure_name(i),
                                     (double)relays_of(p)->failures[i]);
}

static void once_left_out(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        exposition_put_plain(out, row->name, NULL, NULL, (double)relays_of(p)->lines_left_out);
}

static const struct exposition_row rows[] = {
        {PREFIX "requests_running", "gauge", "Requests that wait or run, by model.",
         .each = exposition_each_unsigned, .offset = offsetof(struct sample, figures.running)},
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
        {PREFIX "request_lines_left_out_total", "counter",
         "Lines about traced requests that the log was spared, beyond 20 a second.", .once = once_left_out},
};

bool exposition_gateway_more(struct exposition_gateway *g, struct buffer *out, size_t enough,
                             enum exposition_format format)
{
        return exposition_part_more(&g->part, rows, ARRAY_SIZE(rows), out, enough, format);
}

int exposition_gateway_new(struct fleet *fleet, struct exposition_gateway **ret)
{
        struct exposition_gateway *g = calloc(1, sizeof(*g));
        const struct activity *a = fleet_activity(fleet);
        size_t n = 0;

        if (!g)
                return -ENOMEM;
        relay_figures(fleet, &g->relays);
        while (a && activity_model_at(a, n))
                n++;
        (void)exposition_part_init(&g->part, n, sizeof(struct sample));
        for (struct sample *s; (s = exposition_part_add(&g->part));) {
                const char *name = activity_model_at(a, g->part.n - 1);

                (void)activity_figures(a, name, &s->figures);
                exposition_part_label(&g->part, "model", name);
        }
        if (exposition_part_failed(&g->part)) {
                exposition_gateway_free(g);
                return -ENOMEM;
        }
        *ret = g;
        return 0;
}

struct exposition_gateway *exposition_gateway_free(struct exposition_gateway *g)
{
        if (!g)
                return NULL;
        exposition_part_finish(&g->part);
        free(g);
        return NULL;
}
