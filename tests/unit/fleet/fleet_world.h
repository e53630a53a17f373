/* fleet_world.h: a fleet of fake llama-servers in a folder of its own, for the tests of the conductor and its rooms. */
#ifndef FLEET_WORLD_H
#define FLEET_WORLD_H

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/fleet.h"

#define FAKE     BINARY_DIR "/tests/fakes/fake_llama_server"
#define PATIENCE (60 * USEC_PER_SEC)

struct world {
        char dir[64];
        const char *gateway; /* an object's text, NULL: defaults */
        const char *binary;  /* NULL: FAKE */
        const char *more;    /* further top-level members, each with a comma behind it; NULL: none */
        struct loop *loop;
        struct fleet *fleet;
        struct timer *tick;
        usec_t until;
        bool stopped;
        unsigned changes;
};

static inline const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static inline void write_config(struct world *w, const char *instances)
{
        _cleanup_free_ char *path = text_format("%s/c.json", w->dir);
        FILE *f = fopen(path, "w");

        assert_non_null(f);
        (void)fprintf(f,
                      "{\"runtime_dir\": \"%s/run\", \"state_dir\": \"%s/state\", \"log_dir\": \"%s/log\", "
                      "\"models_dir\": \"%s\",\n"
                      "\"llama_server\": {\"binary\": \"%s\"},\n"
                      "\"restart\": {\"backoff_initial\": \"20ms\", \"backoff_max\": \"100ms\", "
                      "\"max_retries\": 3},\n"
                      "\"health\": {\"interval\": \"50ms\", \"timeout\": \"300ms\"}, \"stop\": {\"grace\": "
                      "\"500ms\"},\n"
                      "%s\"gateway\": %s, \"instances\": [%s]}\n",
                      w->dir, w->dir, w->dir, w->dir, w->binary ? w->binary : FAKE, w->more ? w->more : "",
                      w->gateway ? w->gateway : "{}", instances);
        (void)fclose(f);
}

static inline int load(void *owner, struct config **ret, struct buffer *errors)
{
        struct world *w = owner;
        struct config_env env = {.files = &file_ops_real, .get = get_env};
        struct config_problems problems;
        _cleanup_free_ char *path = text_format("%s/c.json", w->dir);
        int r = config_load(path, &env, ret, &problems);

        for (size_t i = 0; i < problems.count; i++) {
                _cleanup_free_ char *text = config_problem_text(&problems.list[i]);

                if (!problems.list[i].warning)
                        (void)buffer_printf(errors, "%s\n", text);
        }
        config_problems_finish(&problems);
        return r;
}

static inline void on_change(void *owner, const struct fleet_change *changes, size_t n, usec_t now)
{
        struct world *w = owner;

        (void)changes;
        (void)now;
        w->changes += (unsigned)n;
}

static inline void open_fleet(struct world *w)
{
        struct config *config;
        struct buffer errors;

        buffer_init(&errors, 0);
        if (load(w, &config, &errors) < 0)
                fail_msg("%s", errors.data);
        buffer_finish(&errors);
        assert_int_equal(fleet_new(w->loop, config, load, w, &w->fleet), 0);
        assert_int_equal(fleet_subscribe(w->fleet, on_change, w), 0);
        assert_int_equal(fleet_start(w->fleet), 0);
}

/* As a daemon that comes after this one. */
static inline void reopen_fleet(struct world *w)
{
        w->fleet = fleet_free(w->fleet);
        open_fleet(w);
}

static inline void give_order(struct world *w, const char *name, enum fleet_verb verb)
{
        char *message = NULL;

        assert_int_equal(fleet_order(w->fleet, name, verb, &message), 0);
        free(message);
}

/* A script below the world's folder; malloc'd path. */
static inline char *put_script(const struct world *w, const char *name, const char *text)
{
        char *path = text_format("%s/%s", w->dir, name);
        FILE *f = fopen(path, "we");

        assert_non_null(f);
        (void)fprintf(f, "#!/bin/sh\n%s", text);
        assert_int_equal(fclose(f), 0);
        assert_int_equal(chmod(path, 0700), 0);
        return path;
}

static inline void on_tick(void *owner, usec_t now)
{
        struct world *w = owner;

        (void)now;
        loop_stop(w->loop);
}

/* Turns the loop for a moment; false when patience is over. */
static inline bool turn(struct world *w)
{
        timer_set(w->tick, time_monotonic() + 5 * USEC_PER_MSEC);
        loop_run(w->loop);
        return time_monotonic() < w->until;
}

static inline void wait_status(struct world *w, const char *name, const char *status)
{
        w->until = time_monotonic() + PATIENCE;
        for (;;) {
                const struct report *r = fleet_find(w->fleet, name);

                if (r && streq(r->status, status))
                        return;
                if (!turn(w))
                        fail_msg("%s is %s (%s), not %s", name, r ? r->status : "not there",
                                 r && r->last_error ? r->last_error : "-", status);
        }
}

static inline void on_stopped(void *owner)
{
        ((struct world *)owner)->stopped = true;
}

static inline void close_fleet(struct world *w)
{
        w->stopped = false;
        fleet_stop(w->fleet, on_stopped, w);
        w->until = time_monotonic() + PATIENCE;
        while (!w->stopped)
                assert_true(turn(w));
        w->fleet = fleet_free(w->fleet);
}

static inline int set_up(void **state)
{
        struct world *w = calloc(1, sizeof *w);
        _cleanup_free_ char *model = NULL;
        FILE *f;

        (void)snprintf(w->dir, sizeof w->dir, "/tmp/lsv-fleet-XXXXXX");
        if (!mkdtemp(w->dir))
                return -1;
        model = text_format("%s/m.gguf", w->dir);
        f = fopen(model, "w");
        (void)fwrite("GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 1, 24,
                     f); /* version 3, nothing in it: enough for a fake */
        (void)fclose(f);
        log_set_level(getenv("LSV_TEST_LOG") ? LOG_DEBUG : LOG_EMERG);
        *state = w;
        return loop_new(&w->loop) == 0 && timer_new(w->loop, on_tick, w, &w->tick) == 0 ? 0 : -1;
}

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

static inline int tear_down(void **state)
{
        struct world *w = *state;

        if (w->fleet)
                close_fleet(w);
        w->tick = timer_free(w->tick);
        w->loop = loop_free(w->loop);
        (void)nftw(w->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        free(w);
        return 0;
}

/* How a reload ended. */
struct reloaded {
        int r; /* 1: not yet */
        char text[4096];
};

static inline void on_reloaded(void *owner, int r, const struct buffer *answer)
{
        struct reloaded *x = owner;

        assert_int_equal(x->r, 1); /* once */
        x->r = r;
        (void)snprintf(x->text, sizeof x->text, "%.*s", (int)answer->len, answer->data);
}

static inline struct reloaded try_reload(struct world *w, bool dry_run)
{
        struct reloaded x = {.r = 1};

        assert_int_equal(fleet_reload(w->fleet, dry_run, on_reloaded, &x, NULL), 0);
        assert_int_equal(x.r, 1); /* never from inside */
        w->until = time_monotonic() + PATIENCE;
        while (x.r == 1)
                assert_true(turn(w));
        return x;
}

static inline void reload(struct world *w)
{
        struct reloaded x = try_reload(w, false);

        if (x.r < 0)
                fail_msg("%s", x.text);
}

#endif
