/* spool_work.c: the tasks that the driver begins in the pool, and what becomes of what they bring back: preparing the folder, the survey, reading
 * ahead, taking. */
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

#include "base/log.h"
#include "base/text.h"
#include "hub/spool_link.h"

#define RESCAN    (30 * USEC_PER_SEC)
#define DISTRUST  (10 * USEC_PER_MIN)
#define HELD_LOOK (5 * USEC_PER_SEC)

enum { MERGE_SLICE = 2000, PREPARE_MIN = 1, PREPARE_MAX = 60 };

static void run_prepare(void *owner)
{
        struct spool_prepare_task *x = owner;

        x->r = x->inotify < 0 ? x->inotify
                              : spool_folder_prepare(x->folder, x->inotify, x->wds, x->places, &x->words);
}

static void prepare_done(void *owner)
{
        struct spool_prepare_task *x = owner;
        struct hub_link *l = x->link;

        (void)spool_folder_unref(x->folder);
        if (l && x->r == 0)
                x->r = watch_new(l->loop, x->inotify, WATCH_READ, spool_on_inotify, l, &l->watch);
        if (!l || x->r < 0) {
                close_fd(&x->inotify);
                if (l) {
                        l->preparing = NULL;
                        l->counts.errors++;
                        l->prepare_wait = MIN(l->prepare_wait * 2, PREPARE_MAX);
                        spool_link_state(l, HUB_DOWN, x->words ? x->words : strerror(-x->r),
                                         usec_add(loop_now(l->loop), l->prepare_wait * USEC_PER_SEC));
                }
                free(x->words);
                free(x);
                return;
        }
        l->preparing = NULL;
        l->inotify = x->inotify;
        memcpy(l->wds, x->wds, sizeof(l->wds));
        memcpy(l->places, x->places, sizeof(l->places));
        l->prepare_wait = PREPARE_MIN;
        l->counts.connects++;
        l->survey_at = loop_now(l->loop);
        free(x->words);
        free(x);
        spool_link_pump(l); /* UP when the first survey is over */
}

void spool_begin_prepare(struct hub_link *l)
{
        struct spool_prepare_task *x = calloc(1, sizeof(*x));

        if (!x)
                return;
        x->link = l;
        x->folder = spool_folder_ref(l->folder);
        x->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (x->inotify < 0)
                x->inotify = -errno;
        if (loop_work(l->loop, run_prepare, prepare_done, x) < 0) {
                close_fd(&x->inotify);
                (void)spool_folder_unref(x->folder);
                free(x);
                return;
        }
        l->preparing = x;
}

/* --- the survey ---------------------------------------------------------------------------------------------------------------------- */

static void set_model(struct hub_link *l, struct spool_entry *e, const char *model)
{
        e->model = spool_table_model(&l->table, *model || !l->fallback ? model : l->fallback);
        spool_table_move(&l->table, e, ENTRY_READY);
}

static void merge_one(struct hub_link *l, const struct spool_found *found)
{
        struct spool_entry *e = spool_table_find(&l->table, found->name);

        if (!e)
                e = spool_table_add(&l->table, found->name);
        if (!e) {
                l->more = true;
                return;
        }
        e->generation = l->generation;
        e->closed |= found->closed;
        if (e->state == ENTRY_BUSY || e->state == ENTRY_OURS)
                return;
        e->failures = found->failures;
        e->attempt = found->attempt;
        if (found->verdict == SPOOL_WAITING) {
                usec_t due = spool_link_at(l, found->due);

                if (e->state != ENTRY_WAITING || due > e->due)
                        spool_table_wait(&l->table, e, due);
        } else if (found->model && (e->state == ENTRY_FRESH || e->state == ENTRY_WAITING)) {
                set_model(l, e, found->model);
        } else if (e->state == ENTRY_WAITING && found->closed) {
                spool_table_move(&l->table, e, ENTRY_FRESH);
        }
}

/* A slice of what a survey has found, so that a hundred thousand jobs do not hold up the loop. */
void spool_merge(struct hub_link *l)
{
        struct spool_survey_task *x = l->merging;
        size_t end = MIN(l->merged + MERGE_SLICE, x->s.n_found);

        for (; l->merged < end; l->merged++)
                merge_one(l, x->s.found + l->merged);
        if (l->merged < x->s.n_found) {
                timer_set(l->soon, loop_now(l->loop));
                return;
        }
        /* Then those that the survey did not find: done elsewhere, or taken away. */
        if (list_is_empty(&l->table.all))
                l->sweep = 0;
        for (size_t i = 0; i < MERGE_SLICE && l->sweep && !list_is_empty(&l->table.all); i++, l->sweep--) {
                struct spool_entry *e = LIST_ENTRY(l->table.all.next, struct spool_entry, all);

                list_remove(&e->all);
                list_append(&l->table.all, &e->all);
                if (e->generation != l->generation && e->state != ENTRY_BUSY && e->state != ENTRY_OURS)
                        spool_table_remove(&l->table, e);
        }
        if (l->sweep) {
                timer_set(l->soon, loop_now(l->loop));
                return;
        }
        spool_survey_finish(&x->s);
        free(x);
        l->merging = NULL;
}

static void survey_done(void *owner)
{
        struct spool_survey_task *x = owner;
        struct hub_link *l = x->link;

        (void)spool_folder_unref(x->folder);
        if (!l) {
                spool_survey_finish(&x->s);
                free(x);
                return;
        }
        l->surveying = NULL;
        l->counts.refused += x->s.refused;
        if (x->s.r < 0) {
                l->counts.errors++;
                spool_link_survey_at(l, usec_add(loop_now(l->loop), 5 * USEC_PER_SEC));
                spool_link_state(l, HUB_DOWN, x->s.words, l->survey_at);
                spool_survey_finish(&x->s);
                free(x);
                return;
        }
        if (x->s.gone)
                spool_link_gone(l);
        else if (spool_link_is_prepared(l))
                spool_link_state(l, HUB_UP, NULL, USEC_INFINITY);
        if (x->s.whole && !x->s.same && !x->s.gone) {
                l->more = x->s.more;
                l->failed_jobs = x->s.failed;
                l->done_jobs = x->s.done;
                l->generation++;
                l->sweep = l->table.n; /* what is added by the merge is found */
        }
        if (l->more && !l->overflow_told)
                log_warn(l->name, "more than %d jobs wait in %s; the rest is looked at when these are done",
                         SPOOL_OPEN_MAX, l->folder->dirs[DIR_JOBS]);
        l->overflow_told = l->more;
        l->merging = x;
        l->merged = 0;
        spool_merge(l);
        spool_link_pump(l);
}

static void run_survey(void *owner)
{
        struct spool_survey_task *x = owner;

        spool_survey_run(x->folder, &x->s);
}

void spool_begin_survey(struct hub_link *l)
{
        usec_t now = loop_now(l->loop);
        struct spool_survey_task *x;

        if (l->surveying || l->merging || (l->n_news == 0 && now < l->survey_at))
                return;
        x = calloc(1, sizeof(*x));
        if (!x)
                return;
        x->link = l;
        x->begun = now;
        x->s.now = spool_link_seconds(l);
        x->s.news = l->news;
        x->s.n_news = l->n_news;
        x->s.whole = l->n_news == 0; /* the news first: a whole one would not see who closed what */
        x->s.distrust = x->s.whole && now >= l->distrust_at;
        memcpy(x->s.places, l->places, sizeof(l->places));
        x->folder = spool_folder_ref(l->folder);
        if (loop_work(l->loop, run_survey, survey_done, x) < 0) {
                (void)spool_folder_unref(x->folder);
                free(x);
                return;
        }
        l->news = NULL;
        l->n_news = 0;
        l->surveying = x;
        if (!x->s.whole)
                return;
        l->survey_at = usec_add(now, RESCAN);
        if (x->s.distrust)
                l->distrust_at = usec_add(now, DISTRUST);
}

/* --- reading ahead ---------------------------------------------------------------------------------------------------------------------- */

static void free_look(struct spool_look_task *x)
{
        for (size_t i = 0; i < x->n; i++) {
                free(x->names[i]);
                free(x->models[i]);
        }
        free(x);
}

static void run_look(void *owner)
{
        struct spool_look_task *x = owner;

        for (size_t i = 0; i < x->n; i++) {
                spool_moved(x->folder);
                x->models[i] = spool_read_model(x->folder, x->names[i]);
        }
}

static void look_done(void *owner)
{
        struct spool_look_task *x = owner;
        struct hub_link *l = x->link;

        (void)spool_folder_unref(x->folder);
        if (!l) {
                free_look(x);
                return;
        }
        l->looking = NULL;
        for (size_t i = 0; i < x->n; i++) {
                struct spool_entry *e = spool_table_find(&l->table, x->names[i]);

                if (e && e->state == ENTRY_BUSY)
                        set_model(l, e,
                                  x->models[i] ? x->models[i]
                                               : ""); /* taking it says what is wrong with it */
        }
        free_look(x);
        spool_link_pump(l);
}

void spool_begin_look(struct hub_link *l)
{
        struct spool_look_task *x;

        if (l->looking || list_is_empty(&l->table.fresh))
                return;
        x = calloc(1, sizeof(*x));
        if (!x)
                return;
        LIST_FOREACH(&l->table.fresh, it)
        {
                struct spool_entry *e = LIST_ENTRY(it, struct spool_entry, node);

                if (x->n == SPOOL_LOOKS_MAX || !(x->names[x->n] = text_dup(e->name)))
                        break;
                x->n++;
        }
        x->link = l;
        x->folder = spool_folder_ref(l->folder);
        if (loop_work(l->loop, run_look, look_done, x) < 0) {
                (void)spool_folder_unref(x->folder);
                free_look(x);
                return;
        }
        l->looking = x;
        for (size_t i = 0; i < x->n; i++)
                spool_table_move(&l->table, spool_table_find(&l->table, x->names[i]), ENTRY_BUSY);
}

/* --- taking ---------------------------------------------------------------------------------------------------------------------------------- */

/* It is not taken after all. Nobody waits for the answer of these orders: see spool_link_settled. */
static void give_back(struct hub_link *l, struct spool_job *j, int r)
{
        l->counts.refused++;
        if (r == -EALREADY) /* the connector has it under another claim of ours, whose lock that is */
                (void)spool_job_free(j);
        else if (r == -E2BIG || r == -EINVAL)
                spool_job_fail(j, HUB_FAIL_PERMANENT, 0,
                               r == -E2BIG ? "The request is too long" : "The request is no JSON object",
                               spool_link_seconds(l));
        else
                spool_job_release(j);
}

static void begin_job(struct hub_link *l, struct spool_entry *e, struct spool_take_task *x)
{
        struct spool_model *m = l->table.models + x->model;
        struct spool_job *j = spool_job_new(l, x->t.name, x->t.attempt, x->t.failures, x->t.fd);
        struct hub_claim claim = {
                .id = x->t.name,
                .attempt = x->t.attempt,
                .lease = SPOOL_LEASE,
                .deadline = USEC_INFINITY,
                .timeout = x->t.timeout,
                .path = x->t.path,
                .model = x->t.model,
                .body = x->t.body.data,
                .body_len = x->t.body.len,
                .priority = TICKET_LOW,
                .wants_text = l->folder->partial,
        };
        char token[HUB_TOKEN_MAX];
        struct hub_job *job = NULL;
        int r;

        if (!j) { /* its lock goes with the task */
                spool_link_ended(l, x->t.name, &(struct spool_end){.how = END_UNKNOWN});
                return;
        }
        x->t.fd = -1;
        list_append(&l->jobs, spool_job_node(j));
        if (e)
                spool_table_move(&l->table, e, ENTRY_OURS);
        claim.token = spool_job_token(j, token);
        r = l->draining || !e ? -ESHUTDOWN : l->events->on_job(l->owner, &claim, &job);
        if (r < 0) {
                give_back(l, j, r);
                return;
        }
        spool_job_bind(j, job);
        l->counts.bytes_in += x->t.body.len;
        l->total -= l->total > 0;
        m->free -= m->free > 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
        return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static void hold(struct hub_link *l, struct spool_entry *e, const struct spool_take *t)
{
        usec_t now = loop_now(l->loop);

        if (!t->is_free || t->free_attempt != e->free_attempt || !same_time(&t->claim_mtime, &e->free_mtime))
                e->free_since = t->is_free ? now : 0;
        e->is_elsewhere = t->is_elsewhere;
        e->free_attempt = t->free_attempt;
        e->free_mtime = t->claim_mtime;
        spool_table_move(&l->table, e, ENTRY_HELD);
        l->held_at = MIN(l->held_at, usec_add(now, HELD_LOOK));
}

static void take_done(void *owner)
{
        struct spool_take_task *x = owner;
        struct hub_link *l = x->link;
        struct spool_entry *e;

        (void)spool_folder_unref(x->folder);
        if (!l) {
                spool_take_finish(&x->t); /* its lock goes: it is free for others, as after a crash */
                free(x);
                return;
        }
        list_remove(&x->node);
        l->n_takes--;
        l->table.models[x->model].taking--;
        e = spool_table_find(&l->table, x->t.name);
        switch (x->t.took) {
        case TOOK_IT:
                begin_job(l, e, x);
                break;
        case TOOK_GONE:
        case TOOK_DONE:
                if (e)
                        spool_table_remove(&l->table, e);
                break;
        case TOOK_HELD:
                if (e)
                        hold(l, e, &x->t);
                break;
        case TOOK_UNSETTLED:
                if (e)
                        spool_table_wait(&l->table, e, usec_add(loop_now(l->loop), USEC_PER_SEC));
                break;
        case TOOK_STALE:
                spool_link_ended(l, x->t.name, &(struct spool_end){.how = END_UNKNOWN});
                spool_link_survey_at(l, usec_add(loop_now(l->loop), USEC_PER_SEC));
                break;
        case TOOK_FAILED:
                spool_link_ended(l, x->t.name,
                                 &(struct spool_end){.how = END_FAILED,
                                                     .failures = x->t.failures,
                                                     .attempt = x->t.attempt,
                                                     .epoch = x->t.failed_at,
                                                     .final = x->t.final});
                break;
        case TOOK_TROUBLE:
                l->counts.errors++;
                log_warn(l->name, "%s: %s", x->t.name, x->t.r < 0 ? strerror(-x->t.r) : "could not be taken");
                if (e)
                        spool_table_wait(&l->table, e, usec_add(loop_now(l->loop), 10 * USEC_PER_SEC));
                break;
        }
        spool_take_finish(&x->t);
        free(x);
        spool_link_pump(l);
}

static void run_take(void *owner)
{
        struct spool_take_task *x = owner;

        spool_take_run(x->folder, &x->t);
}

static char *known_models(const struct hub_link *l)
{
        struct buffer out;

        buffer_init(&out, 256);
        for (size_t i = 1; i < l->table.n_models; i++)
                if (l->table.models[i].known &&
                    buffer_printf(&out, "%s%s", out.len ? ", " : "", l->table.models[i].name) < 0)
                        break;
        out.failed = false;
        return buffer_steal(&out);
}

static bool begin_take(struct hub_link *l, uint16_t model, bool unknown)
{
        struct spool_model *m = l->table.models + model;
        struct spool_entry *e = LIST_ENTRY(m->ready.next, struct spool_entry, node);
        struct spool_take_task *x = calloc(1, sizeof(*x));
        usec_t now = loop_now(l->loop);

        if (!x)
                return false;
        (void)text_copy(x->t.name, sizeof(x->t.name), e->name);
        x->t.failures = e->failures;
        x->t.attempt = e->attempt;
        x->t.closed = e->closed;
        x->t.now = spool_link_seconds(l);
        x->t.fd = -1;
        x->t.unknown_model = unknown;
        x->t.known = unknown ? known_models(l) : NULL;
        x->t.free_attempt = e->free_attempt;
        x->t.free_for_long =
                e->free_since && now >= usec_add(e->free_since, e->is_elsewhere ? SPOOL_LEASE : SPOOL_GRACE);
        x->link = l;
        x->model = model;
        x->begun = now;
        x->folder = spool_folder_ref(l->folder);
        if (loop_work(l->loop, run_take, take_done, x) < 0) {
                (void)spool_folder_unref(x->folder);
                free(x->t.known);
                free(x);
                return false;
        }
        list_append(&l->takes, &x->node);
        spool_table_move(&l->table, e, ENTRY_BUSY);
        m->taking++;
        l->n_takes++;
        return true;
}

bool spool_begin_takes(struct hub_link *l)
{
        bool full = false;

        for (size_t i = 0; i < l->table.n_models && l->n_takes < SPOOL_TAKES_MAX; i++) {
                struct spool_model *m = l->table.models + i;
                bool unknown = i > 0 && !m->known;

                if (list_is_empty(&m->ready))
                        continue;
                if (unknown ? l->folder->leaves_unknown
                            : l->n_takes >= l->total || (i > 0 && m->taking >= m->free))
                        continue;
                if (!begin_take(l, (uint16_t)i, unknown))
                        break;
                full = true;
        }
        return full;
}

bool spool_wants_looks(const struct hub_link *l)
{
        if (l->n_takes >= l->total || l->n_takes >= SPOOL_TAKES_MAX)
                return false;
        for (size_t i = 0; i < l->table.n_models; i++)
                if (!list_is_empty(&l->table.models[i].ready) &&
                    (i == 0 || l->table.models[i].free > l->table.models[i].taking))
                        return false;
        return true;
}
