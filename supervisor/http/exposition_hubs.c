/* exposition_hubs.c: hubs, one sample a hub. */
#include "http/exposition_hubs.h"

#include <errno.h>

#include "http/exposition_text.h"
#include "hub/hubs.h"

#define PREFIX EXPOSITION_PREFIX "hub_"

struct sample {
        size_t labels, labels_len; /* in the arena */
        struct hub_report report;  /* its numbers; its strings are not valid any more */
};

struct exposition_hubs {
        struct sample *samples;
        size_t n_samples;
        struct buffer arena;
        size_t family, at; /* what is written next */
};

struct family {
        const char *name, *type, *help;
        size_t offset; /* of a number in the report, when there is no function */
        enum { COUNT, GAUGE } kind;
        void (*each)(const struct exposition_hubs *x, const struct family *f, const struct sample *s,
                     struct buffer *out);
};

static void put(const struct exposition_hubs *x, const struct family *f, const struct sample *s,
                const char *more, const char *value, struct buffer *out, uint64_t v)
{
        exposition_put_series(out, f->name, "", x->arena.data + s->labels, s->labels_len, more, value);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

static void each_number(const struct exposition_hubs *x, const struct family *f, const struct sample *s,
                        struct buffer *out)
{
        const char *at = (const char *)&s->report + f->offset;
        uint64_t count;
        unsigned gauge;

        if (f->kind == COUNT) {
                memcpy(&count, at, sizeof(count));
        } else {
                memcpy(&gauge, at, sizeof(gauge));
                count = gauge;
        }
        put(x, f, s, NULL, NULL, out, count);
}

static void each_state(const struct exposition_hubs *x, const struct family *f, const struct sample *s,
                       struct buffer *out)
{
        for (unsigned i = 0; i < HUB_STATES; i++)
                put(x, f, s, "state", hub_state_name((enum hub_state)i), out, s->report.state == i);
}

static void each_end(const struct exposition_hubs *x, const struct family *f, const struct sample *s,
                     struct buffer *out)
{
        const struct hub_report *r = &s->report;

        put(x, f, s, "outcome", "completed", out, r->completed);
        put(x, f, s, "outcome", "already", out, r->already);
        put(x, f, s, "outcome", "released", out, r->released);
        put(x, f, s, "outcome", "lost", out, r->lost);
        for (unsigned i = 0; i < HUB_FAILS; i++)
                put(x, f, s, "outcome", hub_fail_name((enum hub_fail)i), out, r->failed[i]);
}

#define N(m) offsetof(struct hub_report, m)

static const struct family families[] = {
        {PREFIX "state", "gauge", "1 for the state the hub is in, 0 for the others.", 0, GAUGE, each_state},
        {PREFIX "credits", "gauge", "Jobs that the hub may send now.", N(credits), GAUGE, each_number},
        {PREFIX "jobs_running", "gauge", "Its jobs that have a slot.", N(running), GAUGE, each_number},
        {PREFIX "jobs_waiting", "gauge", "Its jobs that are claimed and have no slot yet.", N(waiting), GAUGE,
         each_number},
        {PREFIX "outbox", "gauge", "Finished jobs of which the hub has not said yet that it knows.",
         N(outbox), GAUGE, each_number},
        {PREFIX "claims_total", "counter", "Jobs claimed.", N(claimed), COUNT, each_number},
        {PREFIX "claims_refused_total", "counter", "Claims that were not taken.", N(refused), COUNT,
         each_number},
        {PREFIX "jobs_total", "counter",
         "Claimed jobs by what became of them: completed; already (somebody else's result was there first); "
         "released; lost (the "
         "lease was not ours any more); or why they failed.",
         0, COUNT, each_end},
        {PREFIX "reruns_total", "counter", "Runs once more, since llama-server died.", N(rerun), COUNT,
         each_number},
        {PREFIX "adopted_total", "counter", "Claims of an earlier daemon taken over.", N(adopted), COUNT,
         each_number},
        {PREFIX "tokens_total", "counter", "Tokens generated in completed jobs.", N(tokens), COUNT,
         each_number},
        {PREFIX "submissions_total", "counter", "Requests of our gateway handed in.", N(submitted), COUNT,
         each_number},
        {PREFIX "submissions_failed_total", "counter", "Of these, those that failed.", N(submit_failed),
         COUNT, each_number},
        {PREFIX "submissions_open", "gauge", "Of these, those that are under way.", N(submitting), GAUGE,
         each_number},
        {PREFIX "link_connects_total", "counter", "Connections made.", N(link.connects), COUNT, each_number},
        {PREFIX "link_disconnects_total", "counter", "Connections lost.", N(link.disconnects), COUNT,
         each_number},
        {PREFIX "link_errors_total", "counter", "Errors of the link.", N(link.errors), COUNT, each_number},
        {PREFIX "link_dropped_chunks_total", "counter",
         "Pieces of partial text that were left out; the result has them.", N(link.dropped_chunks), COUNT,
         each_number},
};

bool exposition_hubs_more(struct exposition_hubs *x, struct buffer *out, size_t enough,
                          enum exposition_format format)
{
        while (x->n_samples && x->family < ARRAY_SIZE(families) && out->len < enough) {
                const struct family *f = families + x->family;

                if (x->at == 0)
                        exposition_put_head(out, format, f->name, f->type, f->help);
                f->each(x, f, x->samples + x->at, out);
                if (++x->at >= x->n_samples) {
                        x->family++;
                        x->at = 0;
                }
        }
        return x->n_samples && x->family < ARRAY_SIZE(families);
}

int exposition_hubs_new(struct hubs *hubs, struct exposition_hubs **ret)
{
        struct exposition_hubs *x = calloc(1, sizeof(*x));
        size_t n = hubs ? hubs_count(hubs) : 0;

        if (!x)
                return -ENOMEM;
        buffer_init(&x->arena, 0);
        x->samples = calloc(MAX(n, (size_t)1), sizeof(*x->samples));
        for (; x->samples && x->n_samples < n; x->n_samples++) {
                struct sample *s = x->samples + x->n_samples;

                s->report = *hubs_report(hubs, x->n_samples);
                s->labels = x->arena.len;
                (void)buffer_puts(&x->arena, "hub=\"");
                exposition_put_label_value(&x->arena, s->report.name);
                (void)buffer_puts(&x->arena, "\",driver=\"");
                exposition_put_label_value(&x->arena, s->report.driver);
                (void)buffer_putc(&x->arena, '"');
                s->labels_len = x->arena.len - s->labels;
        }
        if (!x->samples || x->arena.failed) {
                exposition_hubs_free(x);
                return -ENOMEM;
        }
        *ret = x;
        return 0;
}

struct exposition_hubs *exposition_hubs_free(struct exposition_hubs *x)
{
        if (!x)
                return NULL;
        buffer_finish(&x->arena);
        free(x->samples);
        free(x);
        return NULL;
}
