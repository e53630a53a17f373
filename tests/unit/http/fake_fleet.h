/* fake_fleet.h: a fleet of values, for the doors' tests: it defines the functions of fleet.h that the doors call, so that the real
 * conductor is not linked. Include it in one file of a test program. */
#ifndef LSV_TEST_FAKE_FLEET_H
#define LSV_TEST_FAKE_FLEET_H

#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "fleet/demand.h"
#include "fleet/dynamic.h"
#include "fleet/activity.h"
#include "fleet/dispatch.h"
#include "fleet/fleet.h"
#include "fleet/gpus.h"
#include "fleet/place.h"
#include "fleet/handover.h"
#include "fleet/relay.h"

enum { FAKE_MAX = 1100, FAKE_CAUSES = 3 };

struct follower {
        struct fleet *fleet;
        follow_line_fn *on_line;
        void *owner;
        char name[64];
};

struct fleet {
        struct loop *loop;
        struct config config;
        uint64_t config_number;
        struct report reports[FAKE_MAX];
        struct fleet_figures figures[FAKE_MAX];
        uint64_t deaths[FAKE_MAX][FAKE_CAUSES];
        uint64_t restarts[FAKE_MAX][FAKE_CAUSES];
        size_t n;
        void (*on_find)(struct fleet *f);             /* before each fleet_find */
        const char *(*metrics)(const char *instance); /* what an instance tells; NULL: nothing */
        size_t n_models; /* the models of the first reports; 0: there is "tiny" alone */
        unsigned asked;  /* reports that were looked at */
        const char *reload_error;
        const char *limits_problem;
        unsigned queued;
        unsigned looks; /* how often figures were asked for */
        unsigned orders, reloads, dry_runs;
        char last_order[128];
        usec_t last_limit;
        struct follower *follower; /* the last one that is open */
        unsigned followers;
        fleet_change_fn *subscribers[8];
        void *owners[8];
        struct history *history;
        const char *log;
        bool shutting_down;
        struct demand_figures demand[2];
        size_t n_demand;
        struct activity *activity;
        struct relay_figures relays;
        struct dispatch_figures queue; /* of the one model "tiny" */
        struct dispatch_seat seat;     /* of every instance */
        char cancelled[64];            /* the last request */
};

static const char *const fake_causes[] = {"unknown", "oom_killed", "signal", NULL};
const double fleet_latency_bounds[FLEET_LATENCY_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                            0.1,   0.25,   0.5,   1,    2.5,   5};

static inline void fake_fleet_add(struct fleet *f, const char *name, const char *status)
{
        f->reports[f->n] = (struct report){.instance = name,
                                           .model = "tiny",
                                           .status = status,
                                           .want_up = true,
                                           .endpoint = "unix:/run/x.sock",
                                           .max_retries = 5};
        f->figures[f->n] = (struct fleet_figures){.causes = fake_causes,
                                                  .deaths_by_cause = f->deaths[f->n],
                                                  .restarts_by_cause = f->restarts[f->n]};
        f->n++;
}

const struct config *fleet_config(const struct fleet *f)
{
        return &f->config;
}

uint64_t fleet_config_number(const struct fleet *f)
{
        return f->config_number;
}

size_t fleet_count(const struct fleet *f)
{
        return f->n;
}

const struct report *fleet_report(struct fleet *f, size_t i)
{
        f->asked++;
        return f->reports + i;
}

struct fleet_brief fleet_brief(const struct fleet *f, size_t i)
{
        const struct report *r = f->reports + i;

        return (struct fleet_brief){.instance = r->instance, .model = r->model, .status = r->status};
}

const struct report *fleet_find(struct fleet *f, const char *name)
{
        if (f->on_find)
                f->on_find(f);
        for (size_t i = 0; i < f->n; i++)
                if (streq(f->reports[i].instance, name))
                        return f->reports + i;
        return NULL;
}

const char *fleet_nearest(const struct fleet *f, const char *name)
{
        const char *names[FAKE_MAX + 1] = {0};

        for (size_t i = 0; i < f->n; i++)
                names[i] = f->reports[i].instance;
        return text_nearest(name, names);
}

bool fleet_is_ready(struct fleet *f, unsigned *ret_ready, unsigned *ret_total)
{
        unsigned ready = 0;

        for (size_t i = 0; i < f->n; i++)
                ready += streq(f->reports[i].status, "ready");
        if (ret_ready)
                *ret_ready = ready;
        if (ret_total)
                *ret_total = (unsigned)f->n;
        return ready > 0;
}

const char *fleet_reload_error(const struct fleet *f)
{
        return f->reload_error;
}

const char *fleet_limits_problem(const struct fleet *f)
{
        return f->limits_problem;
}

unsigned fleet_queued(struct fleet *f)
{
        return f->queued;
}

void fleet_look(struct fleet *f, const char *name)
{
        (void)name;
        f->looks++;
}

int fleet_figures(struct fleet *f, size_t i, struct fleet_figures *ret)
{
        *ret = f->figures[i];
        return 0;
}

int fleet_subscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < ARRAY_SIZE(f->subscribers); i++)
                if (!f->subscribers[i]) {
                        f->subscribers[i] = fn;
                        f->owners[i] = owner;
                        return 0;
                }
        return -ENOSPC;
}

void fleet_unsubscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < ARRAY_SIZE(f->subscribers); i++)
                if (f->subscribers[i] == fn && f->owners[i] == owner)
                        f->subscribers[i] = NULL;
}

int fleet_order(struct fleet *f, const char *name, enum fleet_verb verb, char **ret_message)
{
        int r = 0;

        if (f->shutting_down)
                r = -ESHUTDOWN;
        else if (streq(name, "foreign"))
                r = -EPERM;
        else if (!streq(name, "all") && !fleet_find(f, name))
                r = -ENOENT;
        f->orders += r == 0;
        (void)snprintf(f->last_order, sizeof(f->last_order), "%d %s", verb, name);
        *ret_message = text_format("%s: %s", name, r ? "refused" : "done");
        return r;
}

int fleet_drain(struct fleet *f, const char *name, usec_t limit, char **ret_message)
{
        f->last_limit = limit;
        return fleet_order(f, name, FLEET_DRAIN, ret_message);
}

const char *fleet_verb_name(enum fleet_verb verb)
{
        (void)verb;
        return "order";
}

static int fake_demand(struct fleet *f, const char *what, const char *model, char **ret_message)
{
        int r = f->shutting_down        ? -ESHUTDOWN
                : streq(model, "busy")  ? -EBUSY
                : streq(model, "big")   ? -ENOSPC
                : streq(model, "usual") ? -EPERM
                : streq(model, "one")   ? 0
                                        : -ENOENT;

        f->orders += r == 0;
        (void)snprintf(f->last_order, sizeof(f->last_order), "%s %s", what, model);
        *ret_message = text_format("%s: %s", model, r ? "refused" : "done");
        return r;
}

int demand_load(struct fleet *f, const char *model, char **ret_message)
{
        return fake_demand(f, "load", model, ret_message);
}

int demand_unload(struct fleet *f, const char *model, bool force, char **ret_message)
{
        return fake_demand(f, force ? "unload with force" : "unload", model, ret_message);
}

const double fleet_load_bounds[FLEET_LOAD_BUCKETS] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};
const char *const fleet_gpu_states[] = {"ok", "lost", "unknown", NULL};

void fleet_load_figures(const struct fleet *f, struct fleet_load_figures *ret)
{
        (void)f;
        *ret = (struct fleet_load_figures){.loads = {[3] = 2}, .load_sum = 3.5};
}

size_t fleet_ask_metrics(struct fleet *f, usec_t since)
{
        (void)f;
        (void)since;
        return 0;
}

int fleet_metrics_of(const struct fleet *f, const char *instance, usec_t since, struct slice *ret)
{
        (void)since;
        if (!f->metrics)
                return -ENODATA;
        *ret = slice_str(f->metrics(instance));
        return 0;
}

int fleet_put_plan(struct fleet *f, const char *name, struct json_writer *w)
{
        (void)f;
        json_open_object(w);
        json_string(w, "asked", name);
        json_close_object(w);
        return name && streq(name, "nobody") ? -ENOENT : 0;
}

void fleet_place_figures(const struct fleet *f, struct place_figures *ret)
{
        (void)f;
        *ret = (struct place_figures){
                .placed = 3, .waited = 2, .refused = 1, .memory_waits = 5, .memory_late = 4, .unanswered = 6};
}

void fleet_put_gpus(struct fleet *f, struct json_writer *w)
{
        (void)f;
        json_open_object(w);
        json_key(w, "gpus");
        json_open_array(w);
        json_close_array(w);
        json_close_object(w);
}

uint64_t fleet_gpus_number(const struct fleet *f)
{
        (void)f;
        return 0;
}

static int fake_cordon(const char *id, const char *word, char **ret_message)
{
        bool is_known = strcmp(id, "GPU-1") == 0;

        *ret_message =
                is_known ? text_format("GPU %s: %s", id, word) : text_format("there is no GPU \"%s\"", id);
        return is_known ? 0 : -ENOENT;
}

int fleet_cordon(struct fleet *f, const char *id, const char *reason, char **ret_message)
{
        (void)f;
        return fake_cordon(id, reason && *reason ? reason : "cordon", ret_message);
}

int fleet_uncordon(struct fleet *f, const char *id, char **ret_message)
{
        (void)f;
        return fake_cordon(id, "uncordon", ret_message);
}

void fleet_gpus_hurry(struct fleet *f)
{
        (void)f;
}

size_t fleet_gpu_count(const struct fleet *f)
{
        (void)f;
        return 0;
}

void fleet_gpu(const struct fleet *f, size_t i, struct fleet_gpu *ret)
{
        (void)f;
        (void)i;
        *ret = (struct fleet_gpu){0};
}

const char *fleet_gpu_throttle_name(unsigned bit)
{
        (void)bit;
        return NULL;
}

const double demand_wait_bounds[DEMAND_WAIT_BUCKETS] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

const char *demand_reason_name(enum demand_reason r)
{
        return (const char *const[]){"idle", "evicted", "asked"}[r];
}

int demand_figures(struct fleet *f, size_t i, struct demand_figures *ret)
{
        if (i >= f->n_demand)
                return -ENOENT;
        *ret = f->demand[i];
        return 0;
}

/* The answer comes from the loop. */
struct fleet_reload {
        struct fleet *fleet;
        fleet_reload_fn *done;
        void *owner;
        bool dry_run;
};

static void reload_work(void *job)
{
        (void)job;
}

static void reload_done(void *job)
{
        struct fleet_reload *x = job;
        const char *error = x->fleet->reload_error;
        struct json_writer w;
        struct buffer b;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        if (error) {
                json_key(&w, "errors");
                json_open_array(&w);
                json_put_string(&w, error);
                json_close_array(&w);
        }
        json_bool(&w, "applied", !x->dry_run && !error);
        json_close_object(&w);
        if (x->done)
                x->done(x->owner, error ? -EINVAL : 0, &b);
        buffer_finish(&b);
        free(x);
}

int fleet_reload(struct fleet *f, bool dry_run, fleet_reload_fn *done, void *owner, struct fleet_reload **ret)
{
        struct fleet_reload *x = calloc(1, sizeof *x);

        f->reloads++;
        f->dry_runs += dry_run;
        *x = (struct fleet_reload){.fleet = f, .done = done, .owner = owner, .dry_run = dry_run};
        *ret = x;
        return loop_work(f->loop, reload_work, reload_done, x);
}

struct fleet_reload *fleet_reload_forget(struct fleet_reload *x)
{
        if (x)
                x->done = NULL;
        return NULL;
}

int fleet_put_why(struct fleet *f, const char *name, struct json_writer *w)
{
        if (!fleet_find(f, name))
                return -ENOENT;
        json_open_object(w);
        json_string(w, "instance", name);
        json_close_object(w);
        return 0;
}

int fleet_read_log(struct fleet *f, const char *name, bool told, unsigned lines, char **ret, size_t *ret_len)
{
        (void)told;
        if (!fleet_find(f, name))
                return -ENOENT;
        if (!f->log)
                return -ENODATA;
        *ret = text_format("%u lines\n%s", lines, f->log);
        *ret_len = strlen(*ret);
        return 0;
}

int fleet_follow_log(struct fleet *f, const char *name, follow_line_fn *on_line, void *owner,
                     struct follower **ret)
{
        struct follower *x = calloc(1, sizeof(*x));

        if (!x)
                return -ENOMEM;
        *x = (struct follower){.fleet = f, .on_line = on_line, .owner = owner};
        (void)snprintf(x->name, sizeof(x->name), "%s", name);
        f->followers++;
        f->follower = x;
        *ret = x;
        return 0;
}

struct follower *fleet_unfollow(struct follower *x)
{
        if (x) {
                x->fleet->followers--;
                if (x->fleet->follower == x)
                        x->fleet->follower = NULL;
                free(x);
        }
        return NULL;
}

int dynamic_start(struct fleet *f, const struct dynamic_spec *spec, dynamic_done_fn *done, void *owner,
                  struct dynamic_start **ret)
{
        (void)spec;
        (void)done;
        (void)owner;
        (void)ret;
        f->orders++;
        return -EAGAIN;
}

struct dynamic_start *dynamic_cancel(struct dynamic_start *s)
{
        (void)s;
        return NULL;
}

int dynamic_remove(struct fleet *f, const char *name, char **ret_message)
{
        int r = streq(name, "foreign") ? -EPERM : fleet_find(f, name) ? 0 : -ENOENT;

        f->orders += r == 0;
        *ret_message = text_format("%s: %s", name, r ? "refused" : "removed");
        return r;
}

struct history *fleet_history(struct fleet *f)
{
        return f->history;
}

const double dispatch_wait_bounds[DISPATCH_WAIT_BUCKETS] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

const char *dispatch_model_name(struct fleet *f, size_t i)
{
        if (f->n_models)
                return i < f->n_models ? f->reports[i].model : NULL;
        return i == 0 ? "tiny" : NULL;
}

const char *dispatch_shared_name(struct fleet *f, size_t i)
{
        (void)f;
        (void)i;
        return NULL;
}

const char *dispatch_shared_model(struct fleet *f, size_t i, size_t k)
{
        (void)f;
        (void)i;
        (void)k;
        return NULL;
}

int dispatch_figures(struct fleet *f, const char *entry, struct dispatch_figures *ret)
{
        (void)entry;
        *ret = f->queue;
        return 0;
}

int dispatch_figures_at(struct fleet *f, size_t i, struct dispatch_figures *ret)
{
        (void)i;
        *ret = f->queue;
        return 0;
}

int dispatch_seat_at(struct fleet *f, size_t i, struct dispatch_seat *ret)
{
        (void)i;
        *ret = f->seat;
        return 0;
}

const char *ticket_refusal_name(enum ticket_refusal r)
{
        static const char *const names[TICKET_REFUSALS] = {
                "none", "queue_full", "queue_timeout", "overloaded", "d", "e", "f", "g", "h", "i"};

        return names[r];
}

struct activity *fleet_activity(struct fleet *f)
{
        return f->activity;
}

void relay_figures(struct fleet *f, struct relay_figures *ret)
{
        *ret = f->relays;
}

const char *relay_failure_name(enum relay_failure x)
{
        static const char *const names[RELAY_FAILURES] = {"a", "b", "c", "d", "e", "f",
                                                          "g", "h", "i", "j", "k"};

        return names[x];
}

/* The only one that runs is req-1. */
void relay_note_positions(struct fleet *f)
{
        (void)f; /* nobody waits here */
}

int relay_cancel_id(struct fleet *f, const char *id, const char *why)
{
        (void)why;
        (void)snprintf(f->cancelled, sizeof(f->cancelled), "%s", id);
        return streq(id, "req-1") ? 0 : -ENOENT;
}

/* --- handover.h: there is none */
struct inherited *handover_inherited(struct handover *h)
{
        (void)h;
        return NULL;
}

bool handover_take_connection(struct handover *h, int *ret_fd, int *ret_listener, const char **ret_bytes,
                              size_t *ret_len)
{
        (void)h;
        (void)ret_fd;
        (void)ret_listener;
        (void)ret_bytes;
        (void)ret_len;
        return false;
}

void handover_join(struct handover *h, const struct handover_doors *doors, void *owner)
{
        (void)h;
        (void)doors;
        (void)owner;
}

void handover_leave(struct handover *h)
{
        (void)h;
}

int handover_begin(struct handover *h, bool force, handover_end_fn *on_end, void *owner, const char **ret_why)
{
        (void)h;
        (void)force;
        (void)on_end;
        (void)owner;
        *ret_why = "there is none";
        return -ENOENT;
}

void handover_forget(struct handover *h, const void *owner)
{
        (void)h;
        (void)owner;
}

void handover_put(const struct handover *h, struct json_writer *w)
{
        (void)h;
        json_uint(w, "generation", 0);
        json_null(w, "upgrade");
}

struct handover_counts handover_counts(const struct handover *h)
{
        (void)h;
        return (struct handover_counts){0};
}

void handover_put_blockers(const struct handover *h, struct json_writer *w)
{
        (void)h;
        json_put_raw(w, "[]", 2);
}

#endif
