/* modelfiles.c: looks at model files in the pool, and what they brought. */
#include "fleet/modelfiles.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/list.h"
#include "base/text.h"
#include "fleet/library_private.h"

enum { BUCKETS = 1024 };

struct look {
        struct list node;    /* in `waiting`, or linked to itself */
        struct look *next;   /* in its bucket */
        struct job *job;     /* under way */
        bool asked, known;   /* somebody waits for an answer; there is one */
        usec_t asked_at, at; /* at: of the answer */
        usec_t used_at;
        struct modelfile file;
        char path[];
};

/* The pool has it to itself until it is done. */
struct job {
        struct list node;
        struct modelfiles *mf; /* NULL: they are gone */
        struct look *look;     /* NULL: it was forgotten */
        struct modelfile file;
        char path[];
};

struct modelfiles {
        struct loop *loop;
        modelfiles_fn *fn;
        void *owner;
        struct timer *patience;
        struct look *buckets[BUCKETS];
        size_t n;
        struct list waiting, jobs;
        unsigned n_jobs;
};

/* --- in the pool ------------------------------------------------------------------------------------------------ */

/* Of parts 2..n, as many as are there. */
static uint64_t size_of_others(const char *path)
{
        unsigned part, parts;
        uint64_t sum = 0;

        if (!shelf_split_name(path, &part, &parts) || part != 1 || parts > MODELFILES_PARTS_MAX)
                return 0;
        for (part = 2; part <= parts; part++) {
                _cleanup_free_ char *other = shelf_part_name(path, part, parts);
                struct stat st;

                if (other && stat(other, &st) == 0 && S_ISREG(st.st_mode))
                        sum += (uint64_t)st.st_size;
        }
        return sum;
}

void modelfile_read(const char *path, struct modelfile *ret)
{
        struct stat st = {0};
        char words[256];
        int r;

        *ret = (struct modelfile){0};
        _cleanup_close_ int fd = shelf_open_file(path, &st);
        if (fd < 0) {
                ret->error = fd;
                return;
        }
        r = shelf_read_header(fd, (uint64_t)st.st_size, &ret->header, words, sizeof words);
        ret->has_header = r == 0;
        ret->size = (uint64_t)st.st_size + size_of_others(path);
        ret->mtime = st.st_mtim.tv_sec;
}

static void look_at(void *owner)
{
        struct job *j = owner;

        modelfile_read(j->path, &j->file);
}

/* --- in the loop ------------------------------------------------------------------------------------------------ */

static struct look **bucket_of(struct modelfiles *mf, const char *path)
{
        uint32_t h = 2166136261U; /* FNV-1a */

        for (; *path; path++)
                h = (h ^ (unsigned char)*path) * 16777619U;
        return &mf->buckets[h % BUCKETS];
}

static struct look *find(struct modelfiles *mf, const char *path)
{
        for (struct look *x = *bucket_of(mf, path); x; x = x->next)
                if (streq(x->path, path))
                        return x;
        return NULL;
}

static void forget(struct modelfiles *mf, struct look *x)
{
        struct look **at = bucket_of(mf, x->path);

        while (*at != x)
                at = &(*at)->next;
        *at = x->next;
        list_remove(&x->node);
        if (x->job)
                x->job->look = NULL;
        free(x);
        mf->n--;
}

static void forget_oldest(struct modelfiles *mf)
{
        struct look *oldest = NULL;

        for (size_t i = 0; i < BUCKETS; i++)
                for (struct look *x = mf->buckets[i]; x; x = x->next)
                        if (!oldest || x->used_at < oldest->used_at)
                                oldest = x;
        if (oldest)
                forget(mf, oldest);
}

static struct look *add(struct modelfiles *mf, const char *path)
{
        struct look *x, **at = bucket_of(mf, path);

        if (mf->n == MODELFILES_MAX)
                forget_oldest(mf);
        x = calloc(1, sizeof *x + strlen(path) + 1);
        if (!x)
                return NULL;
        memcpy(x->path, path, strlen(path) + 1);
        list_init(&x->node);
        x->next = *at;
        *at = x;
        mf->n++;
        return x;
}

static size_t folder_length(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? (size_t)(slash - path) : 0;
}

static bool same_folder(const char *a, const char *b)
{
        size_t n = folder_length(a);

        return n == folder_length(b) && memcmp(a, b, n) == 0;
}

static bool is_folder_busy(const struct modelfiles *mf, const char *path)
{
        for (const struct list *i = mf->jobs.next; i != &mf->jobs; i = i->next)
                if (same_folder(LIST_ENTRY(i, struct job, node)->path, path))
                        return true;
        return false;
}

static work_done_fn looked;

static int begin(struct modelfiles *mf, struct look *x)
{
        struct job *j = calloc(1, sizeof *j + strlen(x->path) + 1);
        int r;

        if (!j)
                return -ENOMEM;
        memcpy(j->path, x->path, strlen(x->path) + 1);
        j->mf = mf;
        j->look = x;
        r = loop_work(mf->loop, look_at, looked, j);
        if (r < 0) {
                free(j);
                return r;
        }
        x->job = j;
        list_append(&mf->jobs, &j->node);
        mf->n_jobs++;
        list_remove(&x->node);
        return 0;
}

static void begin_more(struct modelfiles *mf)
{
        struct list *i = mf->waiting.next;

        while (i != &mf->waiting && mf->n_jobs < MODELFILES_JOBS) {
                struct look *x = LIST_ENTRY(i, struct look, node);

                i = i->next;
                /* A full pool: the patience of those who wait tries again. */
                if (!is_folder_busy(mf, x->path) && begin(mf, x) < 0)
                        return;
        }
}

static void tell(struct modelfiles *mf, struct look *x, int error)
{
        _cleanup_free_ char *path = strdup(x->path);

        x->asked = false;
        x->known = true;
        x->file.error = error;
        x->at = loop_now(mf->loop);
        mf->fn(mf->owner, path ? path : ""); /* x may be gone now */
}

static void looked(void *owner)
{
        struct job *j = owner;
        struct modelfiles *mf = j->mf;
        struct look *x = j->look;

        if (mf) {
                list_remove(&j->node);
                mf->n_jobs--;
        }
        if (x) {
                x->job = NULL;
                if (j->file.error == 0)
                        x->file = j->file;
                tell(mf, x, j->file.error);
        }
        free(j);
        if (mf)
                begin_more(mf);
}

static void on_patience(void *owner, usec_t now)
{
        struct modelfiles *mf = owner;
        usec_t due = USEC_INFINITY;
        bool told;

        begin_more(mf);
        do { /* whoever is told may ask, which moves the lists */
                told = false;
                due = USEC_INFINITY;
                for (size_t i = 0; i < BUCKETS && !told; i++)
                        for (struct look *x = mf->buckets[i]; x && !told; x = x->next) {
                                if (!x->asked)
                                        continue;
                                if (usec_add(x->asked_at, MODELFILES_PATIENCE) <= now) {
                                        list_remove(&x->node); /* out of the line; a look under way goes on */
                                        tell(mf, x, -ETIMEDOUT);
                                        told = true;
                                } else {
                                        due = MIN(due, usec_add(x->asked_at, MODELFILES_PATIENCE));
                                }
                        }
        } while (told);
        timer_set(mf->patience, due);
}

const struct modelfile *modelfiles_look(struct modelfiles *mf, const char *path, usec_t fresh)
{
        static const struct modelfile no_memory = {.error = -ENOMEM};
        struct look *x = find(mf, path);
        usec_t now = loop_now(mf->loop);

        if (!x)
                x = add(mf, path);
        if (!x)
                return &no_memory;
        x->used_at = now;
        if (x->known && usec_sub(now, x->at) <= (x->file.error ? MIN(fresh, MODELFILES_PATIENCE) : fresh))
                return &x->file;
        /* What did not answer in time is not asked twice at once; it is the look under way that tells when it does. */
        if (x->job && x->known && x->file.error == -ETIMEDOUT)
                return &x->file;
        if (x->asked)
                return NULL;
        x->asked = true;
        x->asked_at = now;
        if (!x->job)
                list_append(&mf->waiting, &x->node);
        begin_more(mf);
        if (timer_due(mf->patience) == USEC_INFINITY)
                timer_set(mf->patience, usec_add(now, MODELFILES_PATIENCE));
        return NULL;
}

int modelfiles_new(struct loop *loop, modelfiles_fn *fn, void *owner, struct modelfiles **ret)
{
        struct modelfiles *mf = calloc(1, sizeof *mf);
        int r;

        if (!mf)
                return -ENOMEM;
        mf->loop = loop;
        mf->fn = fn;
        mf->owner = owner;
        list_init(&mf->waiting);
        list_init(&mf->jobs);
        r = timer_new(loop, on_patience, mf, &mf->patience);
        if (r < 0) {
                free(mf);
                return r;
        }
        *ret = mf;
        return 0;
}

struct modelfiles *modelfiles_free(struct modelfiles *mf)
{
        if (!mf)
                return NULL;
        for (struct list *i = mf->jobs.next; i != &mf->jobs; i = i->next)
                LIST_ENTRY(i, struct job, node)->mf = NULL;
        for (size_t i = 0; i < BUCKETS; i++)
                while (mf->buckets[i])
                        forget(mf, mf->buckets[i]);
        timer_free(mf->patience);
        free(mf);
        return NULL;
}
