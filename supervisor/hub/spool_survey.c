/* spool_survey.c: which jobs are open, from names alone. Runs in the pool, one at a time.
 *
 * A directory that was walked through is not walked through again as long as it looks as it did. That a time stamp is coarse, and the
 * disk's clock may be another one than ours, is met by believing it only when it lies a few seconds back, and by a walk through all of them now and then. */
#include <errno.h>
#include <stdio.h>

#include "base/index.h"
#include "base/publish.h"
#include "base/text.h"
#include "hub/spool_private.h"

#define MARK_AGE 3 /* seconds */

struct walk {
        struct spool_folder *folder;
        struct spool_survey *survey;
        char **names; /* of open jobs */
        size_t n, cap;
        int r;
};

static int grow_names(struct walk *w)
{
        size_t cap = w->cap ? w->cap * 2 : 256;
        char **names;

        if (w->n < w->cap)
                return 0;
        names = realloc(w->names, cap * sizeof(*names));
        if (!names)
                return -ENOMEM;
        w->names = names;
        w->cap = cap;
        return 0;
}

static int add_result(void *owner, const char *file)
{
        struct walk *w = owner;
        char name[SPOOL_NAME_SIZE];
        int64_t epoch;

        return spool_read_result(file, name, &epoch) ? spool_index_add_result(w->folder->index, name) : 0;
}

static int add_failure(void *owner, const char *file)
{
        struct walk *w = owner;
        char name[SPOOL_NAME_SIZE];
        unsigned attempt;
        int64_t epoch;
        bool final;

        if (!spool_read_failure(file, name, &epoch, &attempt, &final))
                return 0;
        return spool_index_add_failure(w->folder->index, name, epoch, attempt, final);
}

static int add_retry(void *owner, const char *file)
{
        struct walk *w = owner;
        char name[SPOOL_NAME_SIZE];
        unsigned attempt;

        return spool_read_retry(file, name, &attempt) ? spool_index_add_retry(w->folder->index, name, attempt)
                                                      : 0;
}

/* --- jobs ----------------------------------------------------------------------------------------------------------------- */

static enum spool_verdict judge(const struct walk *w, const char *name, struct spool_found *ret)
{
        ret->verdict = spool_index_judge(w->folder->index, name, &w->folder->policy, w->survey->now,
                                         &ret->due, &ret->failures, &ret->attempt);
        return ret->verdict;
}

/* A file whose name cannot be a job's: said once, under a key. */
static int refuse_name(struct walk *w, const char *name, const char *fault)
{
        struct spool_found found = {0};
        char words[PROMPT_WORDS_SIZE], key[SPOOL_NAME_SIZE], shown[SPOOL_FILE_SIZE];
        struct spool_failure x = {.name = shown,
                                  .attempt = 1,
                                  .final = true,
                                  .kind = "name",
                                  .words = words,
                                  .now = w->survey->now};
        int64_t epoch;
        int r;

        if (judge(w, spool_key(name, key), &found) == SPOOL_FAILED)
                return 0;
        (void)text_copy(shown, sizeof(shown), name);
        (void)text_harmless(shown);
        (void)snprintf(words, sizeof(words), "The name of this job file %s: move it to another one", fault);
        x.attempt = found.attempt + 1;
        x.name = key;
        r = spool_put_failure(w->folder, &x, &epoch);
        if (r < 0)
                return r;
        w->survey->refused++;
        return spool_index_add_failure(w->folder->index, key, epoch, x.attempt, true);
}

static int add_job(void *owner, const char *file)
{
        struct walk *w = owner;
        struct spool_found found = {0};
        char name[SPOOL_FILE_SIZE];
        const char *fault;
        int r;

        if (!spool_read_job(file, name))
                return 0;
        fault = spool_name_fault(name);
        if (fault)
                return refuse_name(w, name, fault);
        switch (judge(w, name, &found)) {
        case SPOOL_DONE:
                w->survey->done++;
                return 0;
        case SPOOL_FAILED:
                w->survey->failed++;
                return 0;
        case SPOOL_OPEN:
        case SPOOL_WAITING:
                break;
        }
        r = grow_names(w);
        if (r == 0 && !(w->names[w->n] = strdup(name)))
                r = -ENOMEM;
        w->n += r == 0;
        return r;
}

static int compare(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* By their names, which people number. */
static int tell_found(struct walk *w)
{
        struct spool_survey *s = w->survey;

        if (w->n == 0)
                return 0;
        qsort(w->names, w->n, sizeof(*w->names), compare);
        s->more = w->n > SPOOL_OPEN_MAX;
        s->found = calloc(MIN(w->n, SPOOL_OPEN_MAX), sizeof(*s->found));
        if (!s->found)
                return -ENOMEM;
        for (size_t i = 0; i < w->n && i < SPOOL_OPEN_MAX; i++) {
                (void)judge(w, w->names[i], s->found + i);
                s->found[i].name = steal_ptr(w->names[i]);
                s->n_found++;
        }
        return 0;
}

/* --- directories ------------------------------------------------------------------------------------------------------------ */

static bool look(const struct walk *w, enum spool_dir dir, struct spool_mark *ret)
{
        const struct spool_mark *old = w->folder->marks + dir;
        struct stat st;

        *ret = (struct spool_mark){0};
        if (stat(w->folder->dirs[dir], &st) < 0)
                return true; /* the walk says why */
        ret->mtime = st.st_mtim;
        ret->ino = st.st_ino;
        ret->holds = st.st_mtim.tv_sec + MARK_AGE < w->survey->now;
        return w->survey->distrust || !old->holds || old->ino != st.st_ino ||
               old->mtime.tv_sec != st.st_mtim.tv_sec || old->mtime.tv_nsec != st.st_mtim.tv_nsec;
}

static int walk_dir(struct walk *w, enum spool_dir dir, const struct spool_mark *mark,
                    int (*fn)(void *owner, const char *file))
{
        int r = spool_walk(w->folder, dir, fn, w);

        if (r < 0 && !w->survey->words)
                w->survey->words = text_format(
                        "%s: %s", w->folder->dirs[dir],
                        r == -E2BIG ? "holds more names than can be known (8 million results, a million "
                                      "jobs that failed): move some, with their jobs, elsewhere"
                                    : strerror(-r));
        w->folder->marks[dir] = r < 0 ? (struct spool_mark){0} : *mark;
        return r;
}

static int survey_whole(struct walk *w)
{
        struct spool_mark jobs, results, failures, retry;
        bool new_jobs = look(w, DIR_JOBS, &jobs), new_results = look(w, DIR_RESULTS, &results);
        bool new_failures = look(w, DIR_FAILURES, &failures);
        int r = 0;

        w->survey->gone = !spool_folder_is(w->folder, w->survey->places);
        if (w->survey->gone)
                return 0;

        new_failures |= look(w, DIR_RETRY, &retry);
        if (!new_jobs && !new_results && !new_failures) {
                w->survey->same = true;
                return 0;
        }
        if (new_results) {
                spool_index_clear_results(w->folder->index);
                r = walk_dir(w, DIR_RESULTS, &results, add_result);
        }
        if (r == 0 && new_failures) {
                spool_index_clear_failures(w->folder->index);
                r = walk_dir(w, DIR_RETRY, &retry, add_retry);
                if (r == 0)
                        r = walk_dir(w, DIR_FAILURES, &failures, add_failure);
        }
        if (r == 0)
                r = walk_dir(w, DIR_JOBS, &jobs, add_job);
        return r < 0 ? r : tell_found(w);
}

/* --- single names -------------------------------------------------------------------------------------------------------------- */

/* A job that had been given up was written anew: whoever did that wants it tried. */
static int forgive(struct walk *w, const char *name, unsigned attempt)
{
        char file[SPOOL_FILE_SIZE];
        int r = publish_file(w->folder->dirs[DIR_RETRY], spool_claim_file(name, attempt, SPOOL_CLAIMED, file),
                             0440, "", 0, false);

        return r < 0 && r != -EEXIST ? r : spool_index_add_retry(w->folder->index, name, attempt);
}

static int look_at_job(struct walk *w, const struct spool_news *n, struct spool_found *found)
{
        const char *fault = spool_name_fault(n->name);
        char file[SPOOL_FILE_SIZE];
        int r;

        if (!spool_exists(w->folder, DIR_JOBS, spool_job_file(n->name, file)))
                return 0;
        if (fault)
                return refuse_name(w, n->name, fault);
        if (judge(w, n->name, found) == SPOOL_FAILED && n->closed) {
                r = forgive(w, n->name, found->attempt);
                if (r < 0)
                        return r;
                (void)judge(w, n->name, found);
        }
        if (found->verdict == SPOOL_DONE || found->verdict == SPOOL_FAILED)
                return 0;
        found->closed = n->closed;
        found->name = strdup(n->name);
        if (!found->name)
                return -ENOMEM;
        if (found->verdict == SPOOL_OPEN)
                found->model = spool_read_model(w->folder, n->name);
        return 0;
}

static int take_news(struct walk *w)
{
        struct spool_survey *s = w->survey;
        struct spool_index *x = w->folder->index;
        int r = 0;

        for (size_t i = 0; r == 0 && i < s->n_news; i++) {
                const struct spool_news *n = s->news + i;

                if (n->result)
                        r = spool_index_add_result(x, n->name);
                else if (n->failure)
                        r = spool_index_add_failure(x, n->name, n->epoch, n->attempt, n->final);
        }
        if (r < 0 || s->whole || s->n_news == 0)
                return r;
        s->found = calloc(s->n_news, sizeof(*s->found));
        if (!s->found)
                return -ENOMEM;
        for (size_t i = 0; r == 0 && i < s->n_news; i++) {
                const struct spool_news *n = s->news + i;

                if (n->result || n->failure)
                        continue;
                spool_moved(w->folder);
                r = look_at_job(w, n, s->found + s->n_found);
                s->n_found += s->found[s->n_found].name != NULL;
        }
        return r;
}

void spool_survey_run(struct spool_folder *f, struct spool_survey *s)
{
        struct walk w = {.folder = f, .survey = s};

        s->r = take_news(&w);
        if (s->r == 0 && s->whole)
                s->r = survey_whole(&w);
        if (s->r < 0 && !s->words)
                s->words = text_format("%s: %s", f->root, strerror(-s->r));
        if (s->r < 0)
                memset(f->marks, 0, sizeof(f->marks)); /* what was not told is told again */
        for (size_t i = 0; i < w.n; i++)
                free(w.names[i]);
        free(w.names);
}

void spool_survey_finish(struct spool_survey *s)
{
        for (size_t i = 0; i < s->n_news; i++)
                free(s->news[i].name);
        for (size_t i = 0; i < s->n_found; i++) {
                free(s->found[i].name);
                free(s->found[i].model);
        }
        free(s->news);
        free(s->found);
        free(s->words);
        *s = (struct spool_survey){0};
}
