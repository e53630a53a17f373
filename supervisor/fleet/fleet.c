/* fleet.c: the collection: its birth and end, settling and publishing once a turn, and what it tells. */
#include "fleet/fleet.h"

#include <errno.h>
#include <stdio.h>
#include <sys/sysinfo.h>

#include "base/file.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/secret.h"
#include "base/text.h"
#include "fleet/demand_private.h"
#include "fleet/gpu_care.h"
#include "fleet/library.h"
#include "fleet/place_private.h"
#include "fleet/seat.h"
#include "host/journal.h"
#include "host/record.h"

/* Facts of one turn may make new ones (a spawn that fails at once); more rounds than this wait for the next turn. */
enum { SETTLE_ROUNDS = 8, SEQ_SAVE_EVERY = 500, LOG_MAX = 1024 * 1024 };

/* --- building ------------------------------------------------------------------------------------------------------- */

static int make_dirs(struct fleet *f)
{
        const struct config *c = f->config;
        const struct {
                const char *path;
                mode_t mode;
        } dirs[] = {
                {c->runtime_dir, 0755},   {c->state_dir, 0750},  {c->log_dir, 0750},
                {f->instances_dir, 0700}, {f->counts_dir, 0700}, {f->cache_dir, 0750},
        };

        for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
                int r = file_make_dir(dirs[i].path, dirs[i].mode);

                if (r < 0) {
                        log_err(NULL, "%s: %s", dirs[i].path, strerror(-r));
                        return r;
                }
        }
        return 0;
}

static void on_binary_known(void *owner, usec_t now)
{
        struct fleet *f = owner;

        (void)now;
        gpus_told_devices(f);
        gpu_care_back(f); /* who waits for a program that sees a GPU */
}

static void on_modelfile(void *owner, const char *path)
{
        struct fleet *f = owner;
        const struct modelfile *file = modelfiles_look(f->modelfiles, path, USEC_INFINITY);

        if (file && file->error == -ETIMEDOUT)
                log_warn(NULL, "%s: its file system has not answered for %d s", path,
                         (int)(MODELFILES_PATIENCE / USEC_PER_SEC));
        demand_look_again(f->demand);
        for (size_t i = 0; i < f->n_members; i++)
                if (streq_ptr(f->members[i]->entry->model_path, path))
                        member_learn_file(f->members[i]);
}

static void read_machine(struct fleet *f)
{
        struct sysinfo info;

        fleet_read_gpus(f);
        f->cpus = (unsigned)MAX(get_nprocs(), 1);
        if (sysinfo(&info) == 0)
                f->memory = (uint64_t)info.totalram * info.mem_unit;
}

int fleet_new(struct loop *loop, struct config *config, fleet_load_fn *load, void *owner, struct fleet **ret)
{
        struct fleet *f = calloc(1, sizeof *f);
        int r = -ENOMEM;

        if (!f) {
                config_free(config);
                return -ENOMEM;
        }
        f->loop = loop;
        f->config = config;
        f->load = load;
        f->load_owner = owner;
        list_init(&f->touched);
        list_init(&f->reloads);
        (void)secret_random(&f->phase, sizeof(f->phase));
        f->instances_dir = text_format("%s/instances", config->runtime_dir);
        f->counts_dir = text_format("%s/instances", config->state_dir);
        f->cache_dir = text_format("%s/cache", config->state_dir);
        for (char **e = environ; *e; e++)
                if (text_list_add(&f->own_env, *e) < 0)
                        goto fail;
        if (!f->instances_dir || !f->counts_dir || !f->cache_dir)
                goto fail;
        r = make_dirs(f);
        if (r < 0)
                goto fail;
        r = history_new(loop, config->state_dir, config->history_events, &f->history);
        if (r < 0)
                goto fail;
        r = gpu_care_new(f, &f->gpu_care);
        if (r < 0)
                goto fail;
        read_machine(f);
        r = activity_new(&f->activity);
        if (r < 0)
                goto fail;
        r = relays_new(&f->relays);
        if (r < 0)
                goto fail;
        r = library_new(loop, &f->library);
        if (r < 0)
                goto fail;
        r = modelfiles_new(loop, on_modelfile, f, &f->modelfiles);
        if (r < 0)
                goto fail;
        r = dynamics_new(f, &f->dynamics);
        if (r < 0)
                goto fail;
        dynamics_add(f->dynamics, config, true);
        r = binaries_new(loop, f->own_env, &f->binaries);
        if (r < 0)
                goto fail;
        binaries_on_known(f->binaries, on_binary_known, f);
        r = places_new(f, &f->places);
        if (r < 0)
                goto fail;
        r = dispatch_new(f, &f->dispatch);
        if (r < 0)
                goto fail;
        r = demand_new(f, &f->demand);
        if (r < 0)
                goto fail;
        groups_open(f);
        gpus_ask_for_replicas(f, config, false);
        r = fleet_make_members(f, config);
        if (r < 0)
                goto fail;
        r = loop_add_turn(loop, fleet_settle, f);
        if (r < 0)
                goto fail;
        *ret = f;
        return 0;
fail:
        fleet_free(f);
        return r;
}

struct fleet *fleet_free(struct fleet *f)
{
        if (!f)
                return NULL;
        loop_remove_turn(f->loop, fleet_settle, f);
        fleet_reloads_free(f);
        f->relays = relays_free(f->relays); /* before the members, whose connections they use */
        for (size_t i = 0; i < f->n_members; i++) {
                member_save_counts(f->members[i]);
                f->members[i] = member_free(f->members[i]);
        }
        free(f->members);
        index_finish(&f->by_name);
        fleet_forget_gpus(f);
        f->places = places_free(f->places);
        f->gpu_care = gpu_care_free(f->gpu_care);
        f->usage_timer = timer_free(f->usage_timer);
        f->cgroups = cgroups_free(f->cgroups);
        dispatch_free(f->dispatch);
        demand_free(f->demand);
        binaries_free(f->binaries);
        activity_free(f->activity);
        history_free(f->history);
        library_free(f->library);
        modelfiles_free(f->modelfiles);
        dynamics_free(f->dynamics);
        config_free(f->config);
        text_list_free(f->own_env);
        free(f->instances_dir);
        free(f->counts_dir);
        free(f->cache_dir);
        free(f->changes);
        free(f->reload_error);
        free(f->cgroups_why);
        free(f->limits_problem);
        free(f);
        return NULL;
}

struct member *fleet_member(const struct fleet *f, const char *name)
{
        return index_get(&f->by_name, name);
}

int fleet_add_member(struct fleet *f, struct member *m)
{
        if (f->n_members == f->cap_members) {
                size_t cap = f->cap_members ? f->cap_members * 2 : 16;
                struct member **grown = reallocarray(f->members, cap, sizeof *grown);
                struct fleet_change *changes = reallocarray(f->changes, cap, sizeof *changes);

                if (grown)
                        f->members = grown;
                if (changes)
                        f->changes = changes;
                if (!grown || !changes)
                        return -ENOMEM;
                f->cap_members = cap;
        }
        if (index_put(&f->by_name, m->name, m) < 0)
                return -ENOMEM;
        f->members[f->n_members++] = m;
        dispatch_config_changed(f->dispatch);
        return 0;
}

unsigned fleet_replicas_now(const struct fleet *f, const struct config_instance *e, bool anew)
{
        for (size_t i = 0; e->replicas_per_gpu && i < f->n_members; i++) {
                const struct member *m = f->members[i];

                if (m->entry == e && !m->removed && !(anew && m->is_guess && !gpus_are_untold(f, e)))
                        return m->replicas;
        }
        return fleet_replicas(f, e);
}

int fleet_make_members(struct fleet *f, const struct config *c)
{
        for (size_t i = 0; i < c->n_instances; i++) {
                unsigned n = fleet_replicas_now(f, &c->instances[i], false);

                for (unsigned k = 0; k < n; k++) {
                        char name[CONFIG_NAME_MAX];
                        struct member *m;
                        int r;

                        (void)config_replica_name(&c->instances[i], k, n, name, sizeof name);
                        if (fleet_member(f, name))
                                continue;
                        r = member_new(f, &c->instances[i], name, k, n, &m);
                        if (r < 0)
                                return r;
                        r = fleet_add_member(f, m);
                        if (r < 0) {
                                member_free(m);
                                return r;
                        }
                }
        }
        return 0;
}

struct config_instance *fleet_leftover_entry(const struct fleet *f, const char *name)
{
        struct config_instance *e = calloc(1, sizeof *e);

        if (!e)
                return NULL;
        e->name = strdup(name);
        if (!e->name) {
                free(e);
                return NULL;
        }
        e->restart = f->config->restart;
        e->health = f->config->health;
        e->stop = f->config->stop;
        e->replicas = 1;
        return e;
}

void fleet_tell(struct fleet *f, int level, const char *kind, const char *text)
{
        const struct history_event e = {.kind = kind, .text = text};

        history_tell(f->history, level, &e);
}

void fleet_event_started(struct fleet *f)
{
        char text[64];

        (void)snprintf(text, sizeof text, "version %s, pid %d", LSV_VERSION, (int)getpid());
        fleet_tell(f, LOG_INFO, "daemon_started", text);
}

/* --- starting -------------------------------------------------------------------------------------------------------- */

/* Records of instances that are not in the config (any more): what lives is ours, and is stopped. */
static void take_over_leftovers(struct fleet *f, usec_t now)
{
        char **names = NULL;

        if (file_list(f->instances_dir, ".json", CONFIG_INSTANCES_MAX * 2, &names) < 0)
                return;
        for (char **n = names; n && *n; n++) {
                _cleanup_free_ char *name = strndup(*n, strlen(*n) - strlen(".json"));
                struct config_instance *entry;
                struct member *m;

                if (!name || !text_is_name(name) || fleet_member(f, name))
                        continue;
                entry = fleet_leftover_entry(f, name);
                if (!entry || member_new(f, entry, name, 0, 1, &m) < 0) {
                        if (entry)
                                free(entry->name);
                        free(entry);
                        break;
                }
                m->old_entry = entry;
                member_removed(m);
                if (fleet_add_member(f, m) < 0) {
                        member_free(m);
                        break;
                }
                if (member_take_over(m, now) == 0) {
                        log_info(m->name,
                                 "is not in the configuration any more: stopping what is left of it");
                        m->in.want_up = false;
                        member_step(m, EV_ADOPTED,
                                    now); /* stopped, with its work drained, once it has answered */
                }
                member_touch(m);
        }
        text_list_free(names);
}

int fleet_start(struct fleet *f)
{
        usec_t now = loop_now(f->loop);
        size_t n = f->n_members;

        f->started = true;
        for (size_t i = 0; i < n; i++) {
                struct member *m = f->members[i];
                char digest[CONFIG_DIGEST_MAX];
                int r;

                history_state(f->history, m->name, instance_status(m->in.state), loop_realtime(f->loop));
                r = member_is_foreign_only(m) ? -ESRCH : member_take_over(m, now);
                if (member_is_foreign_only(m))
                        member_warn_of_own(m);
                if (r < 0 && r != -ESRCH) {
                        log_err(m->name,
                                "its process of an earlier supervisor lives, but could not be taken over "
                                "(%s): it is "
                                "left alone; `start %s` would start another one",
                                strerror(-r), m->name);
                        m->in.want_up = false;
                        m->left_alone = true;
                        m->held = m->entry->on_demand;
                }
                if (r < 0) {
                        if (m->entry->on_demand)
                                m->in.want_up = false;
                        if (m->in.want_up)
                                member_step(m, EV_START, now);
                        continue;
                }
                log_info(m->name, "pid %d of an earlier supervisor lives: taking it over",
                         (int)process_pid(m->process));
                member_step(m, EV_ADOPTED, now);
                if (m->in.want_up && !streq(m->digest, config_instance_digest(m->entry, digest))) {
                        log_info(m->name,
                                 "its settings have changed since it was started: restarting it in its turn");
                        member_roll_later(m);
                        member_touch(m);
                }
        }
        take_over_leftovers(f, now);
        groups_sweep(f);
        groups_check(f);
        demand_start(f->demand, now);
        f->aggregate_seq = member_counts_of_others(f);
        loop_wake(f->loop);
        return 0;
}

/* --- settling ------------------------------------------------------------------------------------------------------------ */

static void publish(struct fleet *f, usec_t now)
{
        size_t n = 0;

        if (!f->look_for.changes)
                return;
        f->look_for.changes = false;
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (!m->changed && !m->figures_changed)
                        continue;
                m->seq++;
                member_fill_report(m, &m->report, now);
                f->changes[n++] = (struct fleet_change){.report = &m->report,
                                                        .figures_only = !m->changed,
                                                        .gone = m->removed && !instance_is_running(&m->in)};
                if (m->seq % SEQ_SAVE_EVERY == 0)
                        member_save_counts(m);
                m->changed = m->figures_changed = false;
        }
        for (size_t i = 0; n > 0 && i < FLEET_SUBSCRIBERS; i++)
                if (f->subscribers[i].fn)
                        f->subscribers[i].fn(f->subscribers[i].owner, f->changes, n, now);
}

static void sweep(struct fleet *f, usec_t now)
{
        size_t before = f->n_members, n;
        bool later = false;

        if (!f->look_for.removed)
                return;
        for (size_t i = 0; i < f->n_members;) {
                struct member *m = f->members[i];

                if (!m->removed || instance_is_running(&m->in) || m->in.state == INSTANCE_SEEKING ||
                    m->changed) {
                        later |= m->removed;
                        i++;
                        continue;
                }
                member_forget_record(m);
                member_save_counts(m);
                f->aggregate_seq += m->seq;
                log_info(m->name, "removed");
                index_clear(&f->by_name); /* nobody is found by the name of one that goes; made again below */
                member_free(m);
                f->n_members--;
                memmove(&f->members[i], &f->members[i + 1], (f->n_members - i) * sizeof *f->members);
        }
        f->look_for.removed = later;
        if (f->n_members == before)
                return;
        for (size_t i = 0; i < f->n_members; i++)
                (void)index_put(&f->by_name, f->members[i]->name,
                                f->members[i]); /* in the room that it had */
        if (f->stopping)
                return;
        /* An entry may have come back while the one it replaces was still going down. */
        n = f->n_members;
        (void)fleet_make_members(f, f->config);
        for (; n < f->n_members; n++)
                if (f->members[n]->in.want_up) {
                        member_step(f->members[n], EV_START, now);
                        member_touch(f->members[n]);
                }
}

/* A process in an uninterruptible driver call outlives SIGKILL: the daemon's own end does not wait for it for ever. Its
 * record stays, so that the next daemon finds it. */
#define KILL_PATIENCE (15 * USEC_PER_SEC)

static bool is_still_there(const struct member *m, usec_t now)
{
        if (m->in.state == INSTANCE_KILLING && usec_sub(now, m->in.since) > KILL_PATIENCE)
                return false;
        return m->process || instance_is_running(&m->in);
}

static bool anything_runs(const struct fleet *f, usec_t now)
{
        for (size_t i = 0; i < f->n_members; i++)
                if (is_still_there(f->members[i], now))
                        return true;
        return false;
}

void fleet_settle(void *owner, usec_t now)
{
        struct fleet *f = owner;

        fleet_fit_replicas(f, now);
        for (unsigned round = 0; round < SETTLE_ROUNDS; round++) {
                struct list now_touched;

                list_init(&now_touched);
                while (!list_is_empty(&f->touched)) {
                        struct list *node = f->touched.next;

                        list_remove(node);
                        list_append(&now_touched, node);
                }
                while (!list_is_empty(&now_touched)) {
                        struct member *m = LIST_ENTRY(now_touched.next, struct member, touched);

                        list_remove(&m->touched);
                        member_settle(m, now);
                }
                place_settle(f, now);
                gpu_care_settle(f, now);
                demand_settle(f->demand, now);
                fleet_grant_turns(f, now);
                fleet_roll(f, now);
                dispatch_settle(f->dispatch, now);
                if (list_is_empty(&f->touched))
                        break;
        }
        if (!list_is_empty(&f->touched))
                loop_wake(f->loop);
        publish(f, now);
        sweep(f, now);
        if (f->stopping && f->on_stopped && !anything_runs(f, now)) {
                void (*fn)(void *) = f->on_stopped;

                f->on_stopped = NULL;
                fn(f->stopped_owner);
        }
}

void fleet_stop(struct fleet *f, void (*on_stopped)(void *owner), void *owner)
{
        usec_t now = loop_now(f->loop);

        f->on_stopped = on_stopped;
        f->stopped_owner = owner;
        if (!f->stopping) {
                f->stopping = true;
                dispatch_stop(f->dispatch);
                for (size_t i = 0; i < f->n_members; i++) {
                        struct member *m = f->members[i];

                        m->in.want_up = m->in.want_again = m->roll = false;
                        member_stop(m, now);
                        member_touch(m);
                }
        }
        loop_wake(f->loop);
}

void fleet_hurry(struct fleet *f)
{
        usec_t now = loop_now(f->loop);

        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];

                if (instance_is_running(&m->in) && m->in.state != INSTANCE_KILLING) {
                        m->in.deadline = now;
                        m->facts.deadline = true;
                        member_touch(m);
                }
        }
}

/* --- questions ------------------------------------------------------------------------------------------------------------- */

const struct config *fleet_config(const struct fleet *f)
{
        return f->config;
}

uint64_t fleet_config_number(const struct fleet *f)
{
        return f->config_number;
}

struct loop *fleet_loop(const struct fleet *f)
{
        return f->loop;
}

struct history *fleet_history(struct fleet *f)
{
        return f->history;
}

struct activity *fleet_activity(struct fleet *f)
{
        return f->activity;
}

size_t fleet_count(const struct fleet *f)
{
        return f->n_members;
}

const struct report *fleet_report(struct fleet *f, size_t i)
{
        struct member *m = f->members[i];

        member_fill_report(m, &m->report, loop_now(f->loop));
        return &m->report;
}

struct fleet_brief fleet_brief(const struct fleet *f, size_t i)
{
        const struct member *m = f->members[i];

        return (struct fleet_brief){
                .instance = m->name, .model = m->entry->name, .status = instance_status(m->in.state)};
}

const struct report *fleet_find(struct fleet *f, const char *name)
{
        struct member *m = fleet_member(f, name);

        if (!m)
                return NULL;
        member_fill_report(m, &m->report, loop_now(f->loop));
        return &m->report;
}

unsigned fleet_queued(struct fleet *f)
{
        return dispatch_waiting(f->dispatch);
}

const char *fleet_nearest(const struct fleet *f, const char *name)
{
        const char **names = calloc(f->n_members + f->config->n_instances + 1, sizeof *names);
        const char *r;
        size_t n = 0;

        if (!names)
                return NULL;
        for (size_t i = 0; i < f->n_members; i++)
                names[n++] = f->members[i]->name;
        for (size_t i = 0; i < f->config->n_instances; i++)
                names[n++] = f->config->instances[i].name;
        r = text_nearest(name, names);
        free(names);
        return r;
}

/* It serves who asks, though not at once: what comes on demand and rests, loads, or is on its way to rest. */
static bool comes_when_asked(const struct member *m)
{
        return m->in.state == INSTANCE_IDLE ||
               (m->in.rests && m->in.state != INSTANCE_READY && instance_is_running(&m->in));
}

bool fleet_is_ready(struct fleet *f, unsigned *ret_ready, unsigned *ret_total)
{
        unsigned ready = 0, total = 0, coming = 0, missing = 0, need = f->config->ready_min;

        for (size_t i = 0; i < f->n_members; i++) {
                const struct member *m = f->members[i];
                bool is_ready = m->in.state == INSTANCE_READY, comes = comes_when_asked(m);

                total += m->in.want_up;
                ready += is_ready;
                coming += comes;
                missing += m->in.want_up && !is_ready && !comes;
        }
        if (ret_ready)
                *ret_ready = ready;
        if (ret_total)
                *ret_total = total;
        return need == CONFIG_ALL ? !missing && total + coming > 0 : ready + coming >= need;
}

/* Best first: what a front end that knows one server should show for the whole. */
static unsigned rank(enum instance_state state)
{
        static const char *const order[] = {"ready",   "starting", "unhealthy", "draining", "stopping",
                                            "initial", "idle",     "crashed",   "error"};

        for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
                if (streq(order[i], instance_status(state)))
                        return i;
        return ARRAY_SIZE(order);
}

static void unite_models(struct fleet *f, const struct member *m, size_t *n)
{
        for (size_t i = 0; i < m->n_models && *n < FLEET_UNITED_MODELS; i++) {
                bool known = false;

                for (size_t k = 0; k < *n && !known; k++)
                        known = streq(f->united[k].id, m->models[i].id);
                if (!known)
                        f->united[(*n)++] = m->models[i];
        }
}

const struct report *fleet_aggregate(struct fleet *f)
{
        struct report *a = &f->aggregate;
        const struct member *best = NULL;
        size_t n = 0;

        *a = (struct report){.instance = "*",
                             .seq = f->aggregate_seq,
                             .model = "*",
                             .status = "initial",
                             .models = f->united,
                             .max_retries = -1};
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                const struct report *r = fleet_report(f, i);
                unsigned mine = rank(m->in.state), others = best ? rank(best->in.state) : 0;

                a->seq += m->seq;
                a->in_flight += r->in_flight;
                a->slots += r->slots;
                a->tokens_per_second += r->tokens_per_second;
                unite_models(f, m, &n);
                /* ready, else starting, else the worst of the rest. */
                if (!best || (mine <= 1 ? mine < others : others > 1 && mine > others))
                        best = m;
        }
        a->n_models = n;
        a->queue = dispatch_waiting(f->dispatch); /* replicas of a model all tell its one queue */
        if (best) {
                const struct report *r = &best->report;

                a->status = r->status;
                a->last_error = r->last_error;
                a->retries = r->retries;
                a->max_retries = r->max_retries;
                a->uptime = r->uptime;
                a->started_at = r->started_at;
                a->next_retry_at = r->next_retry_at;
                a->pid = r->pid;
                a->gpu = r->gpu;
                a->want_up = r->want_up;
                a->context = r->context;
                a->modalities = r->modalities;
                a->has_modalities = r->has_modalities;
                a->build = r->build;
                a->state_since = r->state_since;
        }
        return a;
}

int fleet_subscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < FLEET_SUBSCRIBERS; i++)
                if (!f->subscribers[i].fn) {
                        f->subscribers[i].fn = fn;
                        f->subscribers[i].owner = owner;
                        return 0;
                }
        return -ENOSPC;
}

void fleet_unsubscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < FLEET_SUBSCRIBERS; i++)
                if (f->subscribers[i].fn == fn && f->subscribers[i].owner == owner)
                        f->subscribers[i].fn = NULL;
}

/* --- evidence ------------------------------------------------------------------------------------------------------------- */

int fleet_put_why(struct fleet *f, const char *name, struct json_writer *w)
{
        struct member *m = fleet_member(f, name);

        if (!m)
                return -ENOENT;
        member_put_why(m, w);
        return 0;
}

int fleet_read_log(struct fleet *f, const char *name, bool told, unsigned lines, char **ret, size_t *ret_len)
{
        struct member *m = fleet_member(f, name);

        if (!m)
                return -ENOENT;
        if (member_is_foreign_only(m) || member_open_log(m) < 0)
                return -ENODATA;
        return told ? logfile_read_told(m->log, lines, LOG_MAX, ret, ret_len)
                    : logfile_read_last(m->log, lines, LOG_MAX, ret, ret_len);
}

int fleet_follow_log(struct fleet *f, const char *name, follow_line_fn *on_line, void *owner,
                     struct follower **ret)
{
        struct member *m = fleet_member(f, name);
        struct follower *x;

        if (!m)
                return -ENOENT;
        if (member_is_foreign_only(m) || member_open_log(m) < 0)
                return -ENODATA;
        x = calloc(1, sizeof *x);
        if (!x)
                return -ENOMEM;
        x->member = m;
        x->on_line = on_line;
        x->owner = owner;
        list_append(&m->followers, &x->node);
        *ret = x;
        return 0;
}

struct follower *fleet_unfollow(struct follower *x)
{
        if (!x)
                return NULL;
        list_remove(&x->node);
        free(x);
        return NULL;
}

bool fleet_describe(void *owner, const char *subject, struct journal_subject *ret)
{
        const struct fleet *f = owner;
        const struct member *m = fleet_member(f, subject);
        size_t n = 0;

        *ret = (struct journal_subject){.is_instance = m != NULL, .model = m ? m->entry->name : subject};
        for (size_t i = 0; m && i < f->n_gpus && n < ARRAY_SIZE(ret->gpus); i++)
                if (i < 64 && (m->gpu_mask >> i & 1) && m->gpu && f->gpus[i].uuid[0])
                        ret->gpus[n++] = f->gpus[i].uuid;
        if (m)
                return true;
        for (size_t i = 0; i < f->config->n_instances; i++)
                if (streq(f->config->instances[i].name, subject))
                        return true;
        return false;
}

int fleet_figures(struct fleet *f, size_t i, struct fleet_figures *ret)
{
        static const char *names[MEMBER_CAUSES_MAX + 1];
        struct member *m;

        if (i >= f->n_members)
                return -ENOENT;
        m = f->members[i];
        for (size_t k = 0; k < cause_count() && k < MEMBER_CAUSES_MAX; k++)
                names[k] = causes[k].name;
        *ret = (struct fleet_figures){.restarts = m->restarts,
                                      .deaths = m->deaths,
                                      .probes = m->probes,
                                      .probe_failures = m->probe_failures,
                                      .probe_latency_sum = m->latency_sum,
                                      .causes = names,
                                      .deaths_by_cause = m->deaths_by_cause,
                                      .restarts_by_cause = m->restarts_by_cause};
        if (m->log) {
                ret->log_bytes = logfile_counts(m->log)->bytes;
                ret->log_skipped_bytes = logfile_counts(m->log)->skipped_bytes;
        }
        memcpy(ret->probe_latency, m->latency, sizeof ret->probe_latency);
        return 0;
}

const double fleet_load_bounds[FLEET_LOAD_BUCKETS] = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

void fleet_note_load(struct fleet *f, usec_t span)
{
        double seconds = (double)span / (double)USEC_PER_SEC;
        size_t i = 0;

        while (i < FLEET_LOAD_BUCKETS && seconds > fleet_load_bounds[i])
                i++;
        f->loads.loads[i]++;
        f->loads.load_sum += seconds;
}

void fleet_load_figures(const struct fleet *f, struct fleet_load_figures *ret)
{
        *ret = f->loads;
}
