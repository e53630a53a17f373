/* jobs_view.c: what the names in a spool folder come to. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#include "base/text.h"
#include "cli/jobs.h"

const char *job_state_name(enum job_state s)
{
        static const char *const names[] = {
                [JOB_WAITING] = "waiting", [JOB_RUNNING] = "running", [JOB_RETRYING] = "retrying",
                [JOB_FAILED] = "failed",   [JOB_DONE] = "done",
        };

        return names[s];
}

struct walk {
        struct jobs_view *view;
        const char *only;
};

static struct job_row *row_of(const struct walk *w, const char *name)
{
        struct jobs_view *v = w->view;
        struct job_row *row = index_get(&v->index, name);
        size_t len = strlen(name);

        if (row)
                return row;
        if (v->n == v->cap) {
                size_t cap = v->cap ? v->cap * 2 : 256;
                struct job_row **rows = realloc(v->rows, cap * sizeof(struct job_row *));

                if (!rows)
                        return NULL;
                v->rows = rows;
                v->cap = cap;
        }
        row = calloc(1, sizeof(*row) + len + 1);
        if (!row)
                return NULL;
        memcpy(row->name, name, len + 1);
        if (index_put(&v->index, row->name, row) < 0) {
                free(row);
                return NULL;
        }
        return v->rows[v->n++] = row;
}

/* The row of a name that was read; NULL with *r when there is none to be had, or it is not asked for. */
static struct job_row *asked_row(const struct walk *w, const char *name, int *r)
{
        struct job_row *row = w->only && !streq(w->only, name) ? NULL : row_of(w, name);

        *r = row || w->only ? 0 : -ENOMEM;
        return row;
}

static int see_job(const struct walk *w, const char *file)
{
        char name[SPOOL_FILE_SIZE], key[SPOOL_NAME_SIZE];
        struct job_row *row;
        int r;

        if (!spool_read_job(file, name))
                return 0;
        row = asked_row(w, spool_key(name, key), &r);
        if (row)
                row->is_there = true;
        return r;
}

static int see_result(const struct walk *w, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct job_row *row;
        int64_t epoch;
        int r;

        if (!spool_read_result(file, name, &epoch))
                return 0;
        row = asked_row(w, name, &r);
        if (row) {
                row->results++;
                row->result = MAX(row->result, epoch);
        }
        return r;
}

static int see_retry(const struct walk *w, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct job_row *row;
        unsigned attempt;
        int r;

        if (!spool_read_retry(file, name, &attempt))
                return 0;
        row = asked_row(w, name, &r);
        if (row)
                row->forgiven = MAX(row->forgiven, attempt);
        return r;
}

static int see_failure(const struct walk *w, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct job_row *row;
        unsigned attempt;
        int64_t epoch;
        bool final;
        int r;

        if (!spool_read_failure(file, name, &epoch, &attempt, &final))
                return 0;
        row = asked_row(w, name, &r);
        if (!row)
                return r;
        if (attempt > row->forgiven) {
                row->failures++;
                row->failure_final |= final;
        }
        if (attempt >= row->failed_attempt) {
                row->failed_attempt = attempt;
                row->failure = epoch;
        }
        return 0;
}

static int see_claim(const struct walk *w, const char *file)
{
        char name[SPOOL_NAME_SIZE];
        struct job_row *row;
        unsigned attempt;
        enum spool_claim which;
        int r;

        if (!spool_read_claim(file, name, &attempt, &which))
                return 0;
        row = asked_row(w, name, &r);
        if (!row || attempt < row->claimed)
                return r;
        row->given_back = which != SPOOL_CLAIMED || (attempt == row->claimed && row->given_back);
        row->claimed = attempt;
        return 0;
}

static int walk_dir(const struct walk *w, const char *name,
                    int (*see)(const struct walk *w, const char *file), char **ret_error)
{
        _cleanup_free_ char *path = text_format("%s/%s", w->view->dir, name);
        DIR *d = path ? opendir(path) : NULL;
        int r = 0;

        if (!d) {
                r = path ? -errno : -ENOMEM;
                *ret_error = text_format("%s: %s", path ? path : name, strerror(-r));
                return r;
        }
        while (r == 0) {
                struct dirent *e;

                errno = 0;
                e = readdir(d);
                if (!e) {
                        r = -errno;
                        break;
                }
                if (e->d_name[0] != '.')
                        r = see(w, e->d_name);
        }
        (void)closedir(d);
        if (r < 0)
                *ret_error = text_format("%s: %s", path, strerror(-r));
        return r;
}

static bool is_locked(const struct jobs_view *v, const struct job_row *row)
{
        char path[PATH_MAX], file[SPOOL_FILE_SIZE];
        _cleanup_close_ int fd = -1;

        if (snprintf(path, sizeof(path), "%s/claims/%s", v->dir,
                     spool_claim_file(row->name, row->claimed, SPOOL_CLAIMED, file)) >= (int)sizeof(path))
                return false;
        fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static void judge(struct jobs_view *v, struct job_row *row)
{
        if (row->results)
                row->state = JOB_DONE;
        else if (row->claimed > row->failed_attempt && !row->given_back && is_locked(v, row))
                row->state = JOB_RUNNING;
        else if (row->failures && row->failure_final)
                row->state = JOB_FAILED;
        else
                row->state = row->failures ? JOB_RETRYING : JOB_WAITING;
        if (row->is_there || row->results)
                v->counts[row->state]++;
}

static int compare(const void *a, const void *b)
{
        return strcmp((*(struct job_row *const *)a)->name, (*(struct job_row *const *)b)->name);
}

int jobs_look(const char *dir, const char *only, struct jobs_view *ret, char **ret_error)
{
        static const struct {
                const char *name;
                int (*see)(const struct walk *w, const char *file);
        } dirs[] = {{"jobs", see_job},
                    {"retry", see_retry},
                    {"failures", see_failure},
                    {"claims", see_claim},
                    {"results", see_result}};
        struct walk w = {.view = ret, .only = only};
        int r = 0;

        *ret = (struct jobs_view){.dir = dir};
        /* The results last: what ends while we look is then told as done, and not as left by whoever had it. */
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(dirs); i++)
                r = walk_dir(&w, dirs[i].name, dirs[i].see, ret_error);
        if (r < 0) {
                jobs_view_finish(ret);
                return r;
        }
        if (ret->n)
                qsort(ret->rows, ret->n, sizeof(struct job_row *), compare);
        for (size_t i = 0; i < ret->n; i++)
                judge(ret, ret->rows[i]);
        return 0;
}

void jobs_view_finish(struct jobs_view *v)
{
        for (size_t i = 0; i < v->n; i++)
                free(v->rows[i]);
        free(v->rows);
        index_finish(&v->index);
        *v = (struct jobs_view){0};
}

struct job_row *jobs_find(const struct jobs_view *v, const char *name)
{
        return index_get(&v->index, name);
}
