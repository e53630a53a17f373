/* spool_scene.h: the spool driver over a folder of its own, and a core that does what the test says. */
#ifndef LSV_TEST_SPOOL_SCENE_H
#define LSV_TEST_SPOOL_SCENE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/macros.h"
#include "base/publish.h"
#include "base/text.h"
#include "core/spool.h"
#include "hub/driver.h"

enum { SCENE_JOBS = 4096, SCENE_PATIENCE = 60 };

struct given {
        struct hub_job job;
        char id[HUB_ID_MAX], token[HUB_TOKEN_MAX], model[64], path[64];
        char *body;
        usec_t timeout;
        int settled; /* enum hub_settled + 1 */
        bool lost;
};

struct core { /* one daemon */
        struct hub_link *link;
        struct given *given[SCENE_JOBS];
        size_t n;
        int refuse; /* -errno for the next on_job */
        unsigned states;
        unsigned
                auto_credits; /* completes by itself what comes, at the next turn, and says so many credits again */
        size_t auto_done;
};

struct scene {
        char root[64];
        struct loop *loop;
        struct config config;
        struct timer *timer;
        struct core *core; /* the first */
        struct core cores[2];
        bool (*question)(struct scene *s);
        bool answer;
        usec_t deadline;
};

static void scene_on_state(void *owner)
{
        ((struct core *)owner)->states++;
}

static int scene_on_job(void *owner, const struct hub_claim *claim, struct hub_job **ret)
{
        struct core *c = owner;
        struct given *g;
        int r = c->refuse;

        c->refuse = 0;
        if (r < 0)
                return r;
        assert_true(c->n < SCENE_JOBS);
        g = calloc(1, sizeof(*g));
        assert_non_null(g);
        (void)text_copy(g->id, sizeof(g->id), claim->id);
        (void)text_copy(g->token, sizeof(g->token), claim->token);
        (void)text_copy(g->model, sizeof(g->model), claim->model);
        (void)text_copy(g->path, sizeof(g->path), claim->path);
        g->body = strndup(claim->body, claim->body_len);
        g->timeout = claim->timeout;
        g->job = (struct hub_job){.id = g->id, .token = g->token, .attempt = claim->attempt, .run = 1};
        c->given[c->n++] = g;
        *ret = &g->job;
        return 0;
}

static void scene_on_settled(void *owner, struct hub_job *job, enum hub_settled how)
{
        struct given *g = CONTAINER_OF(job, struct given, job);

        (void)owner;
        assert_int_equal(g->settled, 0);
        g->settled = (int)how + 1;
}

static void scene_on_lost(void *owner, struct hub_job *job, const char *why)
{
        (void)owner;
        assert_non_null(why);
        CONTAINER_OF(job, struct given, job)->lost = true;
}

static void scene_on_cancel(void *owner, const char *id)
{
        (void)owner;
        (void)id;
        fail_msg("nobody cancels in a spool");
}

static const struct hub_events scene_events = {
        .on_state = scene_on_state,
        .on_job = scene_on_job,
        .on_settled = scene_on_settled,
        .on_lost = scene_on_lost,
        .on_cancel = scene_on_cancel,
};

static inline void scene_complete(struct core *c, struct given *g, const char *text)
{
        _cleanup_free_ char *body =
                text_format("{\"choices\": [{\"message\": {\"content\": \"%s\"}}]}", text);
        const struct hub_result result = {.status = 200,
                                          .body = body,
                                          .body_len = strlen(body),
                                          .text = text,
                                          .instance = "q-0",
                                          .model = "q",
                                          .prompt_tokens = 3,
                                          .tokens = 5,
                                          .waited = 1000,
                                          .ran = 2000000,
                                          .finished_at = INT64_C(1790000000123)};

        g->settled = 0;
        hub_driver_spool.complete(c->link, &g->job, &result);
}

static inline void scene_credits(struct core *c, unsigned total, unsigned q)
{
        const struct hub_credit credit = {.model = "q", .free = q, .slots = 4, .ready = true};

        hub_driver_spool.set_credits(c->link, total, &credit, 1);
}

static void scene_on_timer(void *owner, usec_t now)
{
        struct scene *s = owner;

        for (size_t k = 0; k < ARRAY_SIZE(s->cores); k++) {
                struct core *c = s->cores + k;

                if (!c->link || !c->auto_credits || c->auto_done == c->n)
                        continue;
                for (; c->auto_done < c->n; c->auto_done++)
                        scene_complete(c, c->given[c->auto_done], "done");
                scene_credits(c, c->auto_credits, c->auto_credits);
        }
        s->answer = s->question(s);
        if (s->answer || now > s->deadline)
                loop_stop(s->loop);
        else
                timer_set(s->timer, now + 2000);
}

/* Turns the loop until the question is true. */
static inline bool scene_asks(struct scene *s, bool (*question)(struct scene *s), unsigned seconds)
{
        s->question = question;
        s->deadline = time_monotonic() + seconds * USEC_PER_SEC;
        timer_set(s->timer, 0);
        loop_run(s->loop);
        return s->answer;
}

#define scene_wait(s, question)                                                                              \
        do {                                                                                                 \
                if (!scene_asks(s, question, SCENE_PATIENCE))                                                \
                        fail_msg("not in time: %s", #question);                                              \
        } while (0)

static inline char *scene_path(struct scene *s, const char *name)
{
        static char paths[8][512];
        static unsigned at;
        char *path = paths[at++ % 8];

        (void)snprintf(path, 512, "%s/%s", s->root, name);
        return path;
}

static inline void scene_put(struct scene *s, const char *name, const char *text)
{
        int fd = open(scene_path(s, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        (void)close(fd);
}

static inline char *scene_read(struct scene *s, const char *name)
{
        char *text = NULL;
        size_t len;

        assert_int_equal(file_read(scene_path(s, name), 16 << 20, &text, &len), 0);
        return text;
}

/* The names in a folder, sorted, each followed by a blank; valid until the next call. */
static inline const char *scene_list(struct scene *s, const char *dir)
{
        static char text[65536];
        char **names = NULL;

        text[0] = '\0';
        assert_int_equal(file_list(scene_path(s, dir), "", 100000, &names), 0);
        for (char **n = names; n && *n; n++) {
                assert_true(strlen(text) + strlen(*n) + 2 < sizeof(text));
                (void)strcat(strcat(text, *n), " ");
        }
        text_list_free(names);
        return text;
}

static inline size_t scene_count(struct scene *s, const char *dir)
{
        char **names = NULL;
        size_t n;

        assert_int_equal(file_list(scene_path(s, dir), "", 1000000, &names), 0);
        n = text_list_count(names);
        text_list_free(names);
        return n;
}

static inline void scene_open(struct scene *s, struct core *c, const char *worker)
{
        const struct hub_open with = {.loop = s->loop,
                                      .config = &s->config,
                                      .name = "spool",
                                      .worker = worker,
                                      .dir = s->root,
                                      .events = &scene_events,
                                      .owner = c};
        char *why = NULL;

        assert_int_equal(hub_driver_spool.open(&with, &c->link, &why), 0);
        assert_null(why);
}

static inline void scene_close(struct core *c)
{
        c->link = hub_driver_spool.close(c->link);
        for (size_t i = 0; i < c->n; i++) {
                free(c->given[i]->body);
                free(c->given[i]);
        }
        c->n = c->auto_done = 0;
}

static inline enum hub_state scene_state(struct core *c)
{
        struct hub_status status;

        hub_driver_spool.status(c->link, &status);
        return status.state;
}

static inline bool scene_is_up(struct scene *s)
{
        return scene_state(s->core) == HUB_UP;
}

static inline int scene_set_up(void **state)
{
        struct scene *s = calloc(1, sizeof(*s));

        (void)snprintf(s->root, sizeof(s->root), "/tmp/lsv-spool-XXXXXX");
        if (!mkdtemp(s->root))
                return -1;
        s->core = s->cores;
        s->config.spool = (struct config_spool){.dir = s->root,
                                                .timeout = 600 * USEC_PER_SEC,
                                                .command_timeout = 2 * USEC_PER_SEC,
                                                .backoff = 0,
                                                .tries = 3,
                                                .partial = true};
        assert_int_equal(loop_new(&s->loop), 0);
        assert_int_equal(timer_new(s->loop, scene_on_timer, s, &s->timer), 0);
        *state = s;
        return 0;
}

static inline int scene_tear_down(void **state)
{
        struct scene *s = *state;
        char command[128];

        for (size_t i = 0; i < ARRAY_SIZE(s->cores); i++)
                scene_close(s->cores + i);
        timer_free(s->timer);
        loop_free(s->loop);
        (void)snprintf(command, sizeof(command), "rm -rf %s", s->root);
        free(s);
        return system(command); /* NOLINT(cert-env33-c) */
}

#endif
