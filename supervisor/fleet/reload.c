/* reload.c: the configuration read again: in its turn, in the pool, then told and taken over. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "fleet/plan.h"

enum { RELOADS_MAX = 16, WORDS_MAX = 256 * 1024 };

/* The pool has load, load_owner, config, words and r to itself while it reads. */
struct fleet_reload {
        struct list node;
        struct fleet *fleet;   /* NULL: it is gone */
        fleet_reload_fn *done; /* NULL: nobody waits (any more) */
        void *owner;
        struct timer *patience;
        bool dry_run, in_pool, late; /* late: it was refused, what it brings is thrown away */
        fleet_load_fn *load;
        void *load_owner;
        struct config *config;
        struct buffer words; /* errors, or warnings */
        int r;
};

/* --- telling ------------------------------------------------------------------------------------------------------------ */

static void put_names(const struct fleet *f, const struct plan *p, enum plan_kind kind, const char *key,
                      struct json_writer *w)
{
        json_key(w, key);
        json_open_array(w);
        for (size_t i = 0; i < p->n; i++)
                if (!f->members[i]->removed && p->steps[i].kind == kind)
                        json_put_string(w, f->members[i]->name);
        json_close_array(w);
}

static void put_restarts(const struct fleet *f, const struct plan *p, struct json_writer *w)
{
        json_key(w, "restart");
        json_open_array(w);
        for (size_t i = 0; i < p->n; i++) {
                const struct member *m = f->members[i];
                char **changes = NULL;

                if (m->removed || p->steps[i].kind != PLAN_RESTART)
                        continue;
                json_open_object(w);
                json_string(w, "name", m->name);
                json_key(w, "because");
                json_open_array(w);
                if (config_instance_changes(m->entry, p->steps[i].to.entry, &changes) == 0)
                        for (char **c = changes; c && *c; c++)
                                json_put_string(w, *c);
                json_close_array(w);
                json_close_object(w);
                text_list_free(changes);
        }
        json_close_array(w);
}

static void put_starts(const struct plan *p, struct json_writer *w)
{
        json_key(w, "start");
        json_open_array(w);
        for (size_t i = 0; i < p->n_starts; i++) {
                const struct plan_start *s = p->starts + i;
                char name[CONFIG_NAME_MAX];

                json_put_string(w, config_replica_name(s->entry, s->replica, s->replicas, name, sizeof name));
        }
        json_close_array(w);
}

static void put_needs_restart(const struct fleet *f, const struct config *c, struct json_writer *w)
{
        char **paths = NULL;

        json_key(w, "needsDaemonRestart");
        json_open_array(w);
        if (config_changes(f->config, c, true, &paths) == 0)
                for (char **p = paths; p && *p; p++)
                        json_put_string(w, *p);
        json_close_array(w);
        text_list_free(paths);
}

static void put_plan(const struct fleet *f, const struct config *c, const struct plan *p, bool applied,
                     struct json_writer *w)
{
        json_open_object(w);
        put_names(f, p, PLAN_KEEP, "keep", w);
        put_names(f, p, PLAN_UPDATE, "update", w);
        put_restarts(f, p, w);
        put_starts(p, w);
        put_names(f, p, PLAN_STOP, "stop", w);
        put_needs_restart(f, c, w);
        json_bool(w, "applied", applied);
        json_close_object(w);
}

static void refuse(struct fleet *f, bool dry_run, const char *errors, struct json_writer *w)
{
        _cleanup_free_ char *text = NULL;

        json_open_object(w);
        json_key(w, "errors");
        json_open_array(w);
        for (const char *p = errors; *p;) {
                size_t len = strcspn(p, "\n");

                if (len)
                        json_put_string_n(w, p, len);
                p += len + (p[len] == '\n');
        }
        json_close_array(w);
        json_bool(w, "applied", false);
        json_close_object(w);
        if (dry_run)
                return;
        (void)text_set(&f->reload_error, errors);
        text = text_format("reload refused, nothing was changed: %s", errors);
        fleet_tell(f, LOG_ERR, "reload_failed", text ? text : errors);
}

static void answer(struct fleet_reload *x, int r, const struct buffer *plan)
{
        fleet_reload_fn *done = x->done;

        x->done = NULL;
        if (done)
                done(x->owner, r, plan);
}

static void answer_refused(struct fleet_reload *x, int r)
{
        const char *words = r == -ESHUTDOWN ? "the supervisor is stopping"
                            : r == -ETIMEDOUT
                                    ? "the configuration, or a file that it names, lies where nothing has "
                                      "answered for 20 s; nothing was changed"
                            : r == -ENOMEM ? "not enough memory"
                            : r == -EAGAIN ? "too much is under way; try again in a moment"
                            : x->words.len ? x->words.data
                                           : "the configuration could not be read";
        _cleanup_buffer_ struct buffer plan;
        struct json_writer w;

        buffer_init(&plan, 0);
        json_begin(&w, &plan);
        refuse(x->fleet, x->dry_run, words, &w);
        answer(x, r, &plan);
}

/* --- reading and taking over -------------------------------------------------------------------------------------------- */

static void read_again(void *owner)
{
        struct fleet_reload *x = owner;

        x->r = x->load(x->load_owner, &x->config, &x->words);
}

static struct fleet_reload *reload_free(struct fleet_reload *x)
{
        list_remove(&x->node);
        timer_free(x->patience);
        config_free(x->config);
        buffer_finish(&x->words);
        free(x);
        return NULL;
}

static void take_over(struct fleet_reload *x)
{
        _cleanup_buffer_ struct buffer text = {0};
        struct fleet *f = x->fleet;
        struct json_writer w;
        struct plan p;
        int r;

        dynamics_add(f->dynamics, x->config, !x->dry_run);
        r = plan_make(f, x->config, &p);
        if (r < 0) {
                answer_refused(x, r);
                return;
        }
        buffer_init(&text, 0);
        json_begin(&w, &text);
        put_plan(f, x->config, &p, !x->dry_run, &w);
        if (!x->dry_run) {
                (void)text_set(&f->reload_error, NULL);
                if (x->words.len)
                        log_warn(NULL, "%s", x->words.data);
                plan_apply(f, steal_ptr(x->config), &p, loop_now(f->loop));
                fleet_tell(f, LOG_INFO, "reload", "the configuration was read again");
        }
        plan_finish(&p);
        answer(x, 0, &text);
}

static void begin_next(struct fleet *f);

static void on_read(void *owner)
{
        struct fleet_reload *x = owner;
        struct fleet *f = x->fleet;

        x->in_pool = false;
        if (f && !x->late) {
                if (f->stopping)
                        answer_refused(x, -ESHUTDOWN);
                else if (x->r < 0)
                        answer_refused(x, x->r == -ENOMEM ? -ENOMEM : -EINVAL);
                else
                        take_over(x);
        }
        (void)reload_free(x);
        if (f)
                begin_next(f);
}

/* One after the other, so that each reads what was written before it was ordered, and none is overtaken. */
static void begin_next(struct fleet *f)
{
        while (!list_is_empty(&f->reloads)) {
                struct fleet_reload *x = LIST_ENTRY(f->reloads.next, struct fleet_reload, node);
                int r;

                if (x->in_pool)
                        return;
                r = f->stopping ? -ESHUTDOWN : loop_work(f->loop, read_again, on_read, x);
                x->in_pool = r == 0;
                if (r == 0)
                        return;
                answer_refused(x, r);
                (void)reload_free(x);
        }
}

static void on_patience(void *owner, usec_t now)
{
        struct fleet_reload *x = owner;

        (void)now;
        x->late = true;
        answer_refused(x, -ETIMEDOUT);
        if (!x->in_pool)
                (void)reload_free(x);
}

int fleet_reload(struct fleet *f, bool dry_run, fleet_reload_fn *done, void *owner, struct fleet_reload **ret)
{
        struct fleet_reload *x;
        size_t n = 0;
        int r;

        LIST_FOREACH(&f->reloads, it)
        n++;
        if (n >= RELOADS_MAX)
                return -EAGAIN;
        x = calloc(1, sizeof *x);
        if (!x)
                return -ENOMEM;
        list_init(&x->node);
        buffer_init(&x->words, WORDS_MAX);
        x->fleet = f;
        x->dry_run = dry_run;
        x->load = f->load;
        x->load_owner = f->load_owner;
        r = f->stopping ? -ESHUTDOWN : timer_new(f->loop, on_patience, x, &x->patience);
        if (r == 0 && n == 0)
                r = loop_work(f->loop, read_again, on_read, x);
        if (r < 0)
                return reload_free(x), r;
        x->in_pool = n == 0;
        x->done = done;
        x->owner = owner;
        list_append(&f->reloads, &x->node);
        timer_set(x->patience, usec_add(loop_now(f->loop), FLEET_RELOAD_PATIENCE));
        if (ret)
                *ret = x;
        return 0;
}

struct fleet_reload *fleet_reload_forget(struct fleet_reload *x)
{
        if (x)
                x->done = NULL;
        return NULL;
}

void fleet_reloads_free(struct fleet *f)
{
        while (!list_is_empty(&f->reloads)) {
                struct fleet_reload *x = LIST_ENTRY(f->reloads.next, struct fleet_reload, node);

                x->done = NULL;
                x->fleet = NULL;
                x->patience = timer_free(x->patience);
                if (x->in_pool)
                        list_remove(&x->node); /* on_read frees it */
                else
                        (void)reload_free(x);
        }
}

const char *fleet_reload_error(const struct fleet *f)
{
        return f->reload_error;
}
