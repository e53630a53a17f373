/* wedge.c: evidence of progress, weighed. */
#include "core/wedge.h"

#include "base/macros.h"

/* CPU time is weighed over so long: shorter, and the probes' own work would count. */
static const usec_t WINDOW = 2 * USEC_PER_SEC;

void wedge_start(struct wedge *w)
{
        *w = (struct wedge){0};
}

/* A machine that slept, or was frozen with all that is on it, comes back with hours in which nothing could have happened; and of what was not
 * looked at nothing is known. So of the time between two looks no more than `most` counts. */
static void forgive_gap(struct wedge *w, usec_t most, usec_t now)
{
        usec_t gap = usec_sub(now, w->looked_at), lost = gap - MIN(gap, most);

        w->active_at = usec_add(w->active_at, lost);
        w->progress_at = usec_add(w->progress_at, lost);
}

static void note_activity(struct wedge *w, usec_t now)
{
        w->active_at = now;
        w->looks = w->running = 0;
}

static void begin_window(struct wedge *w, const struct wedge_fact *fact, usec_t now)
{
        w->window_at = now;
        w->cpu = fact->cpu;
}

static void note_progress(struct wedge *w, const struct wedge_fact *fact, usec_t now)
{
        if (w->judging && fact->tokens != w->tokens && fact->decodes)
                w->slowest = MAX(w->slowest, usec_sub(now, w->progress_at));
        w->judging = true;
        w->asked = false;
        w->progress_at = now;
        w->bytes = fact->bytes;
        w->tokens = fact->tokens;
        note_activity(w, now);
        begin_window(w, fact, now);
}

/* One percent of a core is work; less is what probes cost. */
static void weigh_activity(struct wedge *w, const struct wedge_fact *fact, usec_t window, usec_t now)
{
        usec_t span = usec_sub(now, w->window_at);

        w->looks++;
        w->running += fact->wants_to_run;
        if (fact->gpu_active)
                note_activity(w, now);
        if (span < window)
                return;
        if (w->cpu != USEC_INFINITY && usec_sub(fact->cpu, w->cpu) >= span / 100)
                note_activity(w, now);
        begin_window(w, fact, now);
}

/* A machine that is full gives it less than it wants: then a thread of it waits to run, whenever one looks. Now and then one does anyway,
 * whatever woke it. */
static bool is_starved(const struct wedge *w)
{
        return w->looks && 3 * w->running >= 2 * w->looks;
}

enum wedge_verdict wedge_feed(struct wedge *w, const struct wedge_policy *policy,
                              const struct wedge_fact *fact, usec_t now)
{
        bool blind = fact->uses_gpu && !fact->gpu_known;
        usec_t limit = blind ? MAX(policy->blind_limit, policy->limit) : policy->limit, quiet, still;

        if (!policy->limit || !fact->work || fact->says_idle || fact->cpu == USEC_INFINITY) {
                w->judging = false;
                return WEDGE_NONE;
        }
        if (w->judging)
                forgive_gap(w, limit / 4, now);
        w->looked_at = now;
        if (!w->judging || fact->bytes != w->bytes || fact->tokens != w->tokens ||
            fact->canary == CANARY_ALIVE) {
                note_progress(w, fact, now);
                return WEDGE_NONE;
        }
        weigh_activity(w, fact, MIN(WINDOW, limit / 4), now);
        if (usec_sub(now, w->active_at) >= limit && is_starved(w))
                note_activity(w, now);
        quiet = usec_sub(now, w->active_at);
        still = usec_sub(now, w->progress_at);
        if (fact->decodes && w->slowest && still >= MAX(policy->limit, 10 * w->slowest) && quiet < limit)
                return WEDGE_SPINNING;
        if (quiet >= limit && fact->canary != CANARY_ASKED)
                return WEDGE_STUCK;
        if (fact->slot_free && !w->asked && quiet >= limit / 2) {
                w->asked = true;
                return WEDGE_ASK;
        }
        return WEDGE_NONE;
}

usec_t wedge_rests(const struct wedge *w, usec_t now)
{
        return w->judging ? usec_sub(now, w->active_at) : 0;
}

usec_t wedge_stands(const struct wedge *w, usec_t now)
{
        return w->judging ? usec_sub(now, w->progress_at) : 0;
}
