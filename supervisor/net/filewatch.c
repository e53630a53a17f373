/* filewatch.c: stat(2) once a second in the pool, and what differs since. */
#include "net/filewatch.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/macros.h"

static const usec_t INTERVAL = USEC_PER_SEC;

/* What tells one content of a name from another: writing, replacing and chmod all move ctime. */
struct look {
        int error;
        dev_t dev;
        ino_t ino;
        off_t size;
        struct timespec changed;
};

struct job {
        struct filewatch *watch; /* NULL: it went while the job ran */
        char paths[FILEWATCH_FILES][FILEWATCH_PATH_MAX];
        struct look looks[FILEWATCH_FILES];
};

struct filewatch {
        struct loop *loop;
        struct timer *timer;
        struct job *job;
        bool running; /* the pool has the job */
        filewatch_fn *on_change;
        void *owner;
        struct look told[FILEWATCH_FILES], last[FILEWATCH_FILES];
};

static bool look_equal(const struct look *a, const struct look *b)
{
        return a->error == b->error && a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
               a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static bool looks_equal(const struct look *a, const struct look *b)
{
        for (unsigned i = 0; i < FILEWATCH_FILES; i++)
                if (!look_equal(a + i, b + i))
                        return false;
        return true;
}

static void look_at(void *owner)
{
        struct job *job = owner;

        for (unsigned i = 0; i < FILEWATCH_FILES; i++) {
                struct stat st;

                job->looks[i] = (struct look){0};
                if (!*job->paths[i])
                        continue;
                if (stat(job->paths[i], &st) < 0)
                        job->looks[i].error = errno;
                else
                        job->looks[i] = (struct look){.dev = st.st_dev,
                                                      .ino = st.st_ino,
                                                      .size = st.st_size,
                                                      .changed = st.st_ctim};
        }
}

static void looked(void *owner)
{
        struct job *job = owner;
        struct filewatch *w = job->watch;
        usec_t now;
        bool settled;

        if (!w) {
                free(job);
                return;
        }
        w->running = false;
        now = loop_now(w->loop);
        timer_set(w->timer, usec_add(now, INTERVAL));
        settled = looks_equal(job->looks, w->last);
        memcpy(w->last, job->looks, sizeof(w->last));
        if (!settled || looks_equal(w->last, w->told))
                return;
        memcpy(w->told, w->last, sizeof(w->told));
        w->on_change(w->owner, now);
}

static void on_timer(void *owner, usec_t now)
{
        struct filewatch *w = owner;

        w->running = loop_work(w->loop, look_at, looked, w->job) == 0;
        if (!w->running)
                timer_set(w->timer, usec_add(now, INTERVAL));
}

int filewatch_new(struct loop *loop, const char *a, const char *b, filewatch_fn *on_change, void *owner,
                  struct filewatch **ret)
{
        struct filewatch *w;
        int r;

        if (strlen(a) >= FILEWATCH_PATH_MAX || (b && strlen(b) >= FILEWATCH_PATH_MAX))
                return -ENAMETOOLONG;
        w = calloc(1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        w->loop = loop;
        w->on_change = on_change;
        w->owner = owner;
        w->job = calloc(1, sizeof(*w->job));
        r = w->job ? timer_new(loop, on_timer, w, &w->timer) : -ENOMEM;
        if (r < 0) {
                (void)filewatch_free(w);
                return r;
        }
        w->job->watch = w;
        (void)snprintf(w->job->paths[0], FILEWATCH_PATH_MAX, "%s", a);
        (void)snprintf(w->job->paths[1], FILEWATCH_PATH_MAX, "%s", b ? b : "");
        look_at(w->job);
        memcpy(w->told, w->job->looks, sizeof(w->told));
        memcpy(w->last, w->job->looks, sizeof(w->last));
        timer_set(w->timer, usec_add(loop_now(loop), INTERVAL));
        *ret = w;
        return 0;
}

struct filewatch *filewatch_free(struct filewatch *w)
{
        if (!w)
                return NULL;
        (void)timer_free(w->timer);
        if (w->running)
                w->job->watch = NULL;
        else
                free(w->job);
        free(w);
        return NULL;
}
