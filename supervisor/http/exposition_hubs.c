/* exposition_hubs.c: hubs, one sample a hub. */
#include "http/exposition_hubs.h"

#include <errno.h>

#include "base/macros.h"
#include "http/exposition_part.h"
#include "hub/hubs.h"

#define PREFIX EXPOSITION_PREFIX "hub_"

struct sample {
        struct exposition_sample base;
        struct hub_report report; /* its numbers; its strings are not valid any more */
};

struct exposition_hubs {
        struct exposition_part part;
};

static void each_state(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                       struct buffer *out)
{
        const struct sample *s = sample;

        for (unsigned i = 0; i < HUB_STATES; i++)
                exposition_part_put_count(p, row, s, "state", hub_state_name((enum hub_state)i), out,
                                          s->report.state == i);
}

static void each_end(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                     struct buffer *out)
{
        const struct sample *s = sample;
        const struct hub_report *r = &s->report;

        exposition_part_put_count(p, row, s, "outcome", "completed", out, r->completed);
        exposition_part_put_count(p, row, s, "outcome", "already", out, r->already);
        exposition_part_put_count(p, row, s, "outcome", "released", out, r->released);
        exposition_part_put_count(p, row, s, "outcome", "lost", out, r->lost);
        for (unsigned i = 0; i < HUB_FAILS; i++)
                exposition_part_put_count(p, row, s, "outcome", hub_fail_name((enum hub_fail)i), out,
                                          r->failed[i]);
}

static void each_submit_end(const struct exposition_part *p, const struct exposition_row *row,
                            const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        for (unsigned i = 0; i < SUBMIT_OUTCOMES; i++)
                exposition_part_put_count(p, row, s, "outcome", submit_outcome_name((enum submit_outcome)i),
                                          out, s->report.submit_ends[i]);
}

static void each_first_text(const struct exposition_part *p, const struct exposition_row *row,
                            const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_histogram(p, row, s, activity_bounds, ACTIVITY_BUCKETS, s->report.submit_first,
                                      s->report.submit_first_sum, out);
}

/* Of a gauge (unsigned) and of a counter (64 bits). */
#define GAUGE(m) .each = exposition_each_unsigned, .offset = offsetof(struct sample, report.m)
#define COUNT(m) .each = exposition_each_u64, .offset = offsetof(struct sample, report.m)

static const struct exposition_row rows[] = {
        {PREFIX "state", "gauge", "1 for the state the hub is in, 0 for the others.", .each = each_state},
        {PREFIX "credits", "gauge", "Jobs that the hub may send now.", GAUGE(credits)},
        {PREFIX "jobs_running", "gauge", "Its jobs that have a slot.", GAUGE(running)},
        {PREFIX "jobs_waiting", "gauge", "Its jobs that are claimed and have no slot yet.", GAUGE(waiting)},
        {PREFIX "outbox", "gauge", "Finished jobs of which the hub has not said yet that it knows.",
         GAUGE(outbox)},
        {PREFIX "claims_total", "counter", "Jobs claimed.", COUNT(claimed)},
        {PREFIX "claims_refused_total", "counter", "Claims that were not taken.", COUNT(refused)},
        {PREFIX "jobs_total", "counter",
         "Claimed jobs by what became of them: completed; already (somebody else's result was there first); "
         "released; lost (the "
         "lease was not ours any more); or why they failed.",
         .each = each_end},
        {PREFIX "reruns_total", "counter", "Runs once more, since llama-server died.", COUNT(rerun)},
        {PREFIX "adopted_total", "counter", "Claims of an earlier daemon taken over.", COUNT(adopted)},
        {PREFIX "tokens_total", "counter", "Tokens generated in completed jobs.", COUNT(tokens)},
        {PREFIX "submissions_total", "counter", "Requests of our gateway handed in.", COUNT(submitted)},
        {PREFIX "submissions_failed_total", "counter", "Of these, those that failed.", COUNT(submit_failed)},
        {PREFIX "submissions_open", "gauge", "Of these, those that are under way.", COUNT(submitting)},
        {PREFIX "submissions_ended_total", "counter", "Requests handed in by what became of them.",
         .each = each_submit_end},
        {PREFIX "submission_restarts_total", "counter",
         "Times that another attempt began behind text of theirs.", COUNT(submit_restarts)},
        {PREFIX "submission_first_text_seconds", "histogram",
         "From the handing in of a request that streams to its first text.", .each = each_first_text},
        {PREFIX "link_connects_total", "counter", "Connections made.", COUNT(link.connects)},
        {PREFIX "link_disconnects_total", "counter", "Connections lost.", COUNT(link.disconnects)},
        {PREFIX "link_errors_total", "counter", "Errors of the link.", COUNT(link.errors)},
        {PREFIX "link_dropped_chunks_total", "counter",
         "Pieces of partial text that were left out; the result has them.", COUNT(link.dropped_chunks)},
};

bool exposition_hubs_more(struct exposition_hubs *x, struct buffer *out, size_t enough,
                          enum exposition_format format)
{
        /* Where there are no hubs, there are no families of theirs. */
        return x->part.n && exposition_part_more(&x->part, rows, ARRAY_SIZE(rows), out, enough, format);
}

int exposition_hubs_new(struct hubs *hubs, struct exposition_hubs **ret)
{
        struct exposition_hubs *x = calloc(1, sizeof(*x));

        if (!x)
                return -ENOMEM;
        (void)exposition_part_init(&x->part, hubs ? hubs_count(hubs) : 0, sizeof(struct sample));
        for (struct sample *s; (s = exposition_part_add(&x->part));) {
                s->report = *hubs_report(hubs, x->part.n - 1);
                exposition_part_label(&x->part, "hub", s->report.name);
                exposition_part_label(&x->part, "driver", s->report.driver);
        }
        if (exposition_part_failed(&x->part)) {
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
        exposition_part_finish(&x->part);
        free(x);
        return NULL;
}
