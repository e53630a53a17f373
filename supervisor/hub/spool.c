/* spool.c: the driver of the job folder: what is known of it, what is taken next, and the seam of hub/driver.h. docs/HUB.md tells what users see.
 *
 * A survey (in the pool, one at a time) walks through the folder: at the start, every half a minute, when the kernel lost track; between them
 * inotify tells single names. What it finds open is in the table: FRESH until its file was read for its model, READY, then BUSY while it is
 * taken, OURS while it runs. Nothing of that needs to be right: what decides is the claim, whose name only one can have. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/inotify.h>

#include "base/file.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/text.h"
#include "hub/spool_link.h"

#define DISTRUST (10 * USEC_PER_MIN)
#define TICK     USEC_PER_SEC
#define DEBOUNCE (100 * USEC_PER_MSEC)

enum { EVENTS_SIZE = 65536, PREPARE_MIN = 1 };

usec_t spool_stuck = 20 * USEC_PER_SEC;

/* --- state ---------------------------------------------------------------------------------------------------------------------- */

void spool_link_state(struct hub_link *l, enum hub_state state, const char *why, usec_t retry_at)
{
        if (l->state == HUB_DRAINED)
                return; /* for good */
        if (l->state == state && streq_ptr(l->why, why) && l->retry_at == retry_at)
                return;
        if (state == HUB_DOWN && l->state != HUB_DOWN)
                l->counts.disconnects++;
        l->state = state;
        (void)text_set(&l->why, why);
        if (!why) {
                free(l->why);
                l->why = NULL;
        }
        l->retry_at = retry_at;
        l->events->on_state(l->owner);
}

bool spool_link_is_prepared(const struct hub_link *l)
{
        return l->inotify >= 0;
}

int64_t spool_link_seconds(const struct hub_link *l)
{
        return (int64_t)(loop_realtime(l->loop) / USEC_PER_SEC);
}

usec_t spool_link_at(const struct hub_link *l, int64_t epoch)
{
        int64_t left = epoch - spool_link_seconds(l);

        return left <= 0 ? loop_now(l->loop) : usec_add(loop_now(l->loop), (usec_t)left * USEC_PER_SEC);
}

/* --- news ------------------------------------------------------------------------------------------------------------------------- */

void spool_link_survey_at(struct hub_link *l, usec_t at)
{
        l->survey_at = MIN(l->survey_at, at);
}

static void clear_news(struct spool_news *news, size_t n)
{
        for (size_t i = 0; i < n; i++)
                free(news[i].name);
        free(news);
}

void spool_link_news(struct hub_link *l, const struct spool_news *news)
{
        if (!l->news)
                l->news = calloc(SPOOL_NEWS_MAX, sizeof(*l->news));
        if (l->news && l->n_news < SPOOL_NEWS_MAX) {
                l->news[l->n_news] = *news;
                l->news[l->n_news].name = text_dup(news->name);
                if (l->news[l->n_news].name) {
                        l->n_news++;
                        return;
                }
        }
        spool_link_survey_at(l, usec_add(loop_now(l->loop), DEBOUNCE));
}

void spool_link_look_again(struct hub_link *l, const char *name)
{
        spool_link_news(l, &(struct spool_news){.name = (char *)(uintptr_t)name});
}

void spool_link_gone(struct hub_link *l)
{
        char words[200];

        l->gone = false;
        if (!spool_link_is_prepared(l))
                return;
        (void)snprintf(words, sizeof(words),
                       "%.100s is not the folder that it was (moved, removed or unmounted)", l->folder->root);
        l->watch = watch_free(l->watch);
        close_fd(&l->inotify);
        l->inotify = -1;
        l->distrust_at = 0;
        l->prepare_wait = PREPARE_MIN;
        spool_link_state(l, HUB_DOWN, words, usec_add(loop_now(l->loop), PREPARE_MIN * USEC_PER_SEC));
        spool_link_pump(l);
}

/* --- what a job has come to -------------------------------------------------------------------------------------------------------- */

void spool_link_ended(struct hub_link *l, const char *name, const struct spool_end *end)
{
        struct spool_entry *e = spool_table_find(&l->table, name);
        usec_t due;

        switch (end->how) {
        case END_DONE:
                spool_link_news(l, &(struct spool_news){.name = (char *)(uintptr_t)name, .result = true});
                if (e)
                        spool_table_remove(&l->table, e);
                return;
        case END_FAILED:
                spool_link_news(l, &(struct spool_news){.name = (char *)(uintptr_t)name,
                                                        .failure = true,
                                                        .final = end->final,
                                                        .epoch = end->epoch,
                                                        .attempt = end->attempt});
                if (e && end->final) {
                        spool_table_remove(&l->table, e);
                        return;
                }
                if (!e)
                        return;
                e->failures = end->failures;
                e->attempt = end->attempt;
                due = spool_link_at(l,
                                    end->epoch + (int64_t)spool_backoff(&l->folder->policy, end->failures));
                spool_table_wait(&l->table, e, MAX(due, usec_add(loop_now(l->loop), end->wait)));
                return;
        case END_BACK:
                if (e)
                        spool_table_wait(&l->table, e, usec_add(loop_now(l->loop), end->wait));
                return;
        case END_UNKNOWN:
                if (e)
                        spool_table_remove(&l->table, e);
                spool_link_look_again(l, name);
                return;
        }
}

/* --- what is to be done ----------------------------------------------------------------------------------------------------------------- */

static void wake_held(struct hub_link *l, usec_t now)
{
        if (now < l->held_at)
                return;
        l->held_at = USEC_INFINITY;
        LIST_FOREACH(&l->table.held, it)
        spool_table_move(&l->table, LIST_ENTRY(it, struct spool_entry, node), ENTRY_READY);
}

static void pump_ops(struct hub_link *l)
{
        LIST_FOREACH(&l->jobs, it)
        {
                if (l->n_ops >= SPOOL_OPS_MAX)
                        return;
                if (!spool_job_pump(spool_job_of(it)))
                        continue;
                /* In turns, so that nobody waits for one who writes much. */
                list_remove(it);
                list_append(&l->jobs, it);
                if (l->n_ops++ == 0)
                        l->op_begun = loop_now(l->loop);
        }
}

void spool_link_pump(struct hub_link *l)
{
        timer_set(l->soon, loop_now(l->loop));
}

static void pump(struct hub_link *l, usec_t now)
{
        if (l->draining && l->n_takes == 0)
                spool_link_state(l, HUB_DRAINED, NULL, USEC_INFINITY);
        if (l->gone)
                spool_link_gone(l);
        if (!spool_link_is_prepared(l)) {
                if (!l->preparing && now >= l->retry_at)
                        spool_begin_prepare(l);
                return;
        }
        if (l->merging)
                spool_merge(l);
        pump_ops(l);
        if (!l->draining) {
                if (l->more && l->table.n < SPOOL_OPEN_MAX / 2 && !l->merging && !l->surveying) {
                        l->more = false;
                        l->distrust_at = now; /* the folder looks as it did, but not all was told */
                        spool_link_survey_at(l, now);
                }
                spool_begin_survey(l);
                spool_table_wake(&l->table, now);
                wake_held(l, now);
                if (l->heard_credits && l->state == HUB_UP) {
                        while (spool_begin_takes(l))
                                ;
                        if (spool_wants_looks(l))
                                spool_begin_look(l);
                }
        }
}

static void on_soon(void *owner, usec_t now)
{
        struct hub_link *l = owner;
        struct hub_job *job;

        LIST_FOREACH(&l->jobs, it)
        while (spool_job_take_refusal(spool_job_of(it), &job))
                if (job)
                        l->events->on_settled(l->owner, job, HUB_UNKNOWN);
        pump(l, now);
}

/* A disk that does not answer: said, and nothing more is begun than what already waits for it. */
static usec_t oldest_task(const struct hub_link *l)
{
        usec_t oldest = l->n_ops ? l->op_begun : USEC_INFINITY, moved = atomic_load(l->folder->moved);

        if (l->surveying)
                oldest = MIN(oldest, l->surveying->begun);
        LIST_FOREACH(&l->takes, it)
        oldest = MIN(oldest, usec_add(LIST_ENTRY(it, struct spool_take_task, node)->begun,
                                      l->folder->command_timeout));
        /* A hundred thousand names take their time: as long as they come, the disk answers. */
        return oldest == USEC_INFINITY ? oldest : MAX(oldest, moved);
}

static void on_tick(void *owner, usec_t now)
{
        struct hub_link *l = owner;
        char words[128], span[TIME_SPAN_MAX];
        usec_t oldest = oldest_task(l);

        timer_set(l->tick, usec_add(now, TICK));
        if (spool_link_is_prepared(l) && oldest != USEC_INFINITY && now >= usec_add(oldest, spool_stuck)) {
                (void)snprintf(
                        words, sizeof(words), "%.60s does not answer since %s", l->folder->root,
                        time_span(usec_sub(now, oldest) / spool_stuck * spool_stuck, span, sizeof(span)));
                spool_link_state(l, HUB_DOWN, words, USEC_INFINITY);
        } else if (spool_link_is_prepared(l) && l->state == HUB_DOWN && l->retry_at == USEC_INFINITY) {
                spool_link_state(l, HUB_UP, NULL, USEC_INFINITY); /* it answers again */
        }
        pump(l, now);
}

/* --- inotify ------------------------------------------------------------------------------------------------------------------------------ */

static void see_job(struct hub_link *l, const char *file, uint32_t mask)
{
        char name[SPOOL_FILE_SIZE];

        if (spool_read_job(file, name))
                spool_link_news(l,
                                &(struct spool_news){.name = name,
                                                     .closed = (mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) != 0});
}

static void see_claim(struct hub_link *l, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct spool_entry *e;
        unsigned attempt;
        enum spool_claim which;

        if (!spool_read_claim(file, name, &attempt, &which) || which == SPOOL_CLAIMED)
                return;
        e = spool_table_find(&l->table, name);
        if (e && e->state == ENTRY_HELD)
                spool_table_move(&l->table, e, ENTRY_READY);
}

static void see_result(struct hub_link *l, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct spool_entry *e;
        int64_t epoch;

        if (!spool_read_result(file, name, &epoch))
                return;
        spool_link_news(l, &(struct spool_news){.name = name, .result = true});
        e = spool_table_find(&l->table, name);
        if (e && e->state != ENTRY_BUSY && e->state != ENTRY_OURS)
                spool_table_remove(&l->table, e);
}

static void see_failure(struct hub_link *l, const char *file)
{
        struct spool_news news = {.failure = true};
        char name[SPOOL_NAME_SIZE];
        struct spool_entry *e;

        if (!spool_read_failure(file, name, &news.epoch, &news.attempt, &news.final))
                return;
        news.name = name;
        spool_link_news(l, &news);
        e = spool_table_find(&l->table, name);
        if (!e || e->state == ENTRY_BUSY || e->state == ENTRY_OURS || e->attempt >= news.attempt)
                return;
        spool_table_remove(&l->table, e); /* somebody else's: what it means is judged with all others */
        spool_link_look_again(l, name);
}

static void see(struct hub_link *l, const struct inotify_event *e, usec_t now)
{
        if (e->mask & (IN_IGNORED | IN_UNMOUNT | IN_DELETE_SELF | IN_MOVE_SELF)) {
                l->gone = true;
                return;
        }
        if (e->mask & IN_Q_OVERFLOW) {
                l->counts.dropped_chunks++;
                l->distrust_at = now;
                spool_link_survey_at(l, usec_add(now, DEBOUNCE));
                return;
        }
        if (!e->len || e->name[0] == '.')
                return;
        if (e->wd == l->wds[DIR_JOBS])
                see_job(l, e->name, e->mask);
        else if (e->wd == l->wds[DIR_CLAIMS])
                see_claim(l, e->name);
        else if (e->wd == l->wds[DIR_RESULTS])
                see_result(l, e->name);
        else if (e->wd == l->wds[DIR_FAILURES])
                see_failure(l, e->name);
        else if (e->wd == l->wds[DIR_RETRY])
                spool_link_survey_at(l, usec_add(now, DEBOUNCE));
}

void spool_on_inotify(void *owner, unsigned events, usec_t now)
{
        _Alignas(struct inotify_event) char block[EVENTS_SIZE];
        struct hub_link *l = owner;
        ssize_t n = read(l->inotify, block, sizeof(block));

        (void)events;
        for (ssize_t at = 0; at < n;) {
                const struct inotify_event *e = (const void *)(block + at);

                see(l, e, now);
                at += (ssize_t)(sizeof(*e) + e->len);
        }
        if (l->gone) {
                spool_link_pump(l); /* the watch is not taken away from inside its own call */
                return;
        }
        pump(l, now);
        if (l->survey_at < usec_add(now, TICK) && l->survey_at > now)
                timer_set(l->soon, l->survey_at);
}

/* --- beginning ------------------------------------------------------------------------------------------------------------------------------ */

static int make_folder(const struct hub_open *with, struct spool_folder **ret)
{
        const struct config_spool *c = &with->config->spool;
        _cleanup_free_ char *boot = NULL;
        struct spool_folder *f = calloc(1, sizeof(*f));
        uint64_t seed = 0;
        size_t len;
        int r = 0;

        if (!f)
                return -ENOMEM;
        f->refs = 1;
        f->moved = calloc(1, sizeof(*f->moved));
        f->root = text_dup(c->dir);
        f->worker = text_dup(with->worker);
        for (size_t i = 0; i < SPOOL_DIRS; i++)
                f->dirs[i] = text_format("%s/%s", c->dir, spool_dir_names[i]);
        for (char **dir = c->allowed_dirs; r == 0 && dir && *dir; dir++)
                r = text_list_add(&f->allowed_dirs, *dir);
        if (r == 0 && c->commands)
                r = json_parse(c->commands, strlen(c->commands), &f->commands, NULL);
        if (r == 0 && (!f->root || !f->worker || !f->moved || !f->dirs[SPOOL_DIRS - 1]))
                r = -ENOMEM;
        if (file_read("/proc/sys/kernel/random/boot_id", sizeof(f->boot), &boot, &len) == 0)
                (void)text_copy(f->boot, sizeof(f->boot), strtok(boot, "\n"));
        f->pid = (int)getpid();
        f->policy = (struct spool_policy){
                .tries = c->tries, .backoff = c->backoff / USEC_PER_SEC, .backoff_max = 3600};
        f->timeout = c->timeout;
        f->command_timeout = c->command_timeout;
        f->partial = c->partial;
        f->leaves_unknown = c->leaves_unknown;
        (void)secret_random(&seed, sizeof(seed));
        if (r == 0)
                r = spool_index_new(seed, &f->index);
        if (r < 0) {
                (void)spool_folder_unref(f);
                return r;
        }
        *ret = f;
        return 0;
}

static struct hub_link *spool_close(struct hub_link *l);

static int spool_open(const struct hub_open *with, struct hub_link **ret, char **ret_why)
{
        const struct config *c = with->config;
        const char *fallback = c->gateway.default_model ? c->gateway.default_model
                               : c->n_instances == 1    ? c->instances[0].name
                                                        : NULL;
        struct hub_link *l = calloc(1, sizeof(*l));
        int r;

        (void)ret_why;
        if (!l)
                return -ENOMEM;
        l->loop = with->loop;
        l->events = with->events;
        l->owner = with->owner;
        l->inotify = -1;
        l->state = HUB_CONNECTING;
        l->retry_at = 0;
        l->prepare_wait = PREPARE_MIN;
        l->survey_at = l->held_at = USEC_INFINITY;
        l->distrust_at = usec_add(loop_now(l->loop), DISTRUST);
        list_init(&l->jobs);
        list_init(&l->takes);
        l->name = text_dup(with->name);
        l->fallback = text_dup(fallback);
        r = l->name && (l->fallback || !fallback) ? 0 : -ENOMEM;
        if (r == 0)
                r = spool_table_init(&l->table);
        if (r == 0)
                r = make_folder(with, &l->folder);
        if (r == 0)
                r = timer_new(l->loop, on_soon, l, &l->soon);
        if (r == 0)
                r = timer_new(l->loop, on_tick, l, &l->tick);
        if (r < 0) {
                (void)spool_close(l);
                return r;
        }
        timer_set(l->tick, usec_add(loop_now(l->loop), TICK));
        timer_set(l->soon, loop_now(l->loop));
        *ret = l;
        return 0;
}

static struct hub_link *spool_close(struct hub_link *l)
{
        if (!l)
                return NULL;
        timer_free(l->tick);
        timer_free(l->soon);
        watch_free(l->watch);
        close_fd(&l->inotify);
        if (l->preparing)
                l->preparing->link = NULL;
        if (l->surveying)
                l->surveying->link = NULL;
        if (l->looking)
                l->looking->link = NULL;
        if (l->merging) {
                spool_survey_finish(&l->merging->s);
                free(l->merging);
        }
        LIST_FOREACH(&l->takes, it)
        LIST_ENTRY(it, struct spool_take_task, node)->link = NULL;
        LIST_FOREACH(&l->jobs, it)
        (void)spool_job_free(spool_job_of(it));
        clear_news(l->news, l->n_news);
        spool_table_finish(&l->table);
        (void)spool_folder_unref(l->folder);
        free(l->fallback);
        free(l->name);
        free(l->why);
        free(l);
        return NULL;
}

/* --- the seam ------------------------------------------------------------------------------------------------------------------------------- */

static void spool_status(const struct hub_link *l, struct hub_status *ret)
{
        *ret = (struct hub_status){.state = l->state,
                                   .why = l->why,
                                   .retry_at = l->retry_at ? l->retry_at : USEC_INFINITY,
                                   .peer = l->folder->root};
}

static const struct hub_driver_counts *spool_counts(const struct hub_link *l)
{
        return &l->counts;
}

static void spool_set_credits(struct hub_link *l, unsigned total, const struct hub_credit *c, size_t n)
{
        for (size_t i = 0; i < l->table.n_models; i++) {
                l->table.models[i].free = 0;
                if (n > 0)
                        l->table.models[i].known =
                                n >= HUB_CREDITS_MAX; /* else there may be more than were told */
        }
        for (size_t i = 0; i < n; i++) {
                uint16_t model = spool_table_model(&l->table, c[i].model);

                l->table.models[model].known = true;
                l->table.models[model].free = c[i].free;
                l->table.models[model].slots = c[i].slots;
        }
        l->total = total;
        l->heard_credits |= n > 0;
        spool_link_pump(l);
}

static void spool_renew(struct hub_link *l, struct hub_job *job)
{
        (void)l;
        spool_job_renew(job->mark);
}

static int spool_progress(struct hub_link *l, struct hub_job *job, const struct hub_chunk *chunk)
{
        int r = spool_job_progress(job->mark, chunk);

        l->counts.dropped_chunks += r < 0;
        l->counts.bytes_out += r == 0 ? chunk->len : 0;
        return r;
}

static void spool_complete(struct hub_link *l, struct hub_job *job, const struct hub_result *result)
{
        l->counts.bytes_out += result->body_len;
        spool_job_complete(job->mark, result, spool_link_seconds(l));
}

static void spool_fail(struct hub_link *l, struct hub_job *job, enum hub_fail how, usec_t retry_after,
                       const char *why)
{
        if (how == HUB_FAIL_NO_MODEL && l->folder->leaves_unknown)
                spool_job_release(job->mark); /* another daemon has it */
        else
                spool_job_fail(job->mark, how, retry_after, why, spool_link_seconds(l));
}

static void spool_release(struct hub_link *l, struct hub_job *job)
{
        (void)l;
        spool_job_release(job->mark);
}

static int spool_adopt(struct hub_link *l, struct hub_job *job)
{
        struct spool_entry *e;
        struct spool_job *j;
        int r = spool_job_adopt(l, job, &j);

        if (r < 0)
                return r;
        list_append(&l->jobs, spool_job_node(j));
        e = spool_table_find(&l->table, spool_job_name(j));
        if (!e)
                e = spool_table_add(&l->table, spool_job_name(j));
        if (e && e->state != ENTRY_BUSY)
                spool_table_move(&l->table, e, ENTRY_OURS);
        spool_link_pump(l);
        return 0;
}

static void spool_drain(struct hub_link *l)
{
        l->draining = true;
        spool_link_pump(l);
}

const struct hub_driver hub_driver_spool = {
        .name = "spool",
        .caps = HUB_CAP_OUTBOUND | HUB_CAP_STREAM | HUB_CAP_RENEW | HUB_CAP_RELEASE | HUB_CAP_FENCED |
                HUB_CAP_DURABLE | HUB_CAP_MODELS | HUB_CAP_ADOPT | HUB_CAP_FINAL | HUB_CAP_COUNTS,
        .open = spool_open,
        .status = spool_status,
        .counts = spool_counts,
        .set_credits = spool_set_credits,
        .renew = spool_renew,
        .progress = spool_progress,
        .complete = spool_complete,
        .fail = spool_fail,
        .release = spool_release,
        .adopt = spool_adopt,
        .drain = spool_drain,
        .close = spool_close,
};
