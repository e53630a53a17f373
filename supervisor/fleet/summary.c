/* summary.c: counting, and one sentence. */
#include "fleet/summary.h"

#include <stdio.h>

const char *const summary_statuses[SUMMARY_STATUSES] = {
        "initial", "starting", "ready", "unhealthy", "draining", "stopping", "crashed", "error", "idle",
};
enum { READY = 2 };

/* As the sentence says them, worst first after the ready ones. */
static const struct {
        unsigned status;
        const char *words;
} phrases[] = {
        {7, "given up"}, {6, "crashed"},  {3, "unhealthy"}, {1, "starting"},
        {4, "draining"}, {5, "stopping"}, {8, "idle"},      {0, "not running"},
};

size_t summary_status_index(const char *status)
{
        for (size_t i = 0; i < SUMMARY_STATUSES; i++)
                if (streq(summary_statuses[i], status))
                        return i;
        return 0;
}

static void put_sentence(struct fleet *f, struct summary *s)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, SUMMARY_SENTENCE_MAX - 1);
        if (s->total == 0)
                (void)buffer_puts(&b, "no instances are configured");
        else if (s->counts[READY] == s->total && s->total == 1)
                (void)buffer_printf(&b, "%s is ready", fleet_brief(f, 0).instance);
        else if (s->counts[READY] == s->total)
                (void)buffer_printf(&b, "all %zu instances are ready", s->total);
        else
                (void)buffer_printf(&b, "%u of %zu instances %s ready", s->counts[READY], s->total,
                                    s->counts[READY] == 1 ? "is" : "are");
        for (size_t i = 0; i < ARRAY_SIZE(phrases); i++)
                if (s->counts[phrases[i].status])
                        (void)buffer_printf(&b, ", %u %s", s->counts[phrases[i].status], phrases[i].words);
        if (fleet_reload_error(f))
                (void)buffer_puts(&b, "; the last reload failed");
        if (fleet_limits_problem(f))
                (void)buffer_puts(&b, "; limits are not kept");
        (void)snprintf(s->sentence, sizeof(s->sentence), "%s", b.data ? b.data : "");
}

/* What everybody looks for first: how many, and whether somebody waits; then what is wrong. */
static void put_line(struct fleet *f, struct summary *s)
{
        const char *between = "; ";
        struct buffer b = {0};

        buffer_init(&b, SUMMARY_SENTENCE_MAX - 1);
        (void)buffer_printf(&b, "%u/%zu ready", s->counts[READY], s->total);
        if (s->queued)
                (void)buffer_printf(&b, ", %u queued", s->queued);
        for (size_t i = 0; i < ARRAY_SIZE(phrases); i++)
                if (s->counts[phrases[i].status]) {
                        (void)buffer_printf(&b, "%s%u %s", between, s->counts[phrases[i].status],
                                            phrases[i].words);
                        between = ", ";
                }
        if (fleet_reload_error(f))
                (void)buffer_puts(&b, "; the last reload failed");
        if (fleet_limits_problem(f))
                (void)buffer_puts(&b, "; limits are not kept");
        (void)snprintf(s->line, sizeof(s->line), "%s", b.data ? b.data : "");
        buffer_finish(&b);
}

void summary_of(struct fleet *f, struct summary *ret)
{
        *ret = (struct summary){.total = fleet_count(f)};
        for (size_t i = 0; i < ret->total; i++)
                ret->counts[summary_status_index(fleet_brief(f, i).status)]++;
        ret->queued = fleet_queued(f);
        put_sentence(f, ret);
        put_line(f, ret);
}
