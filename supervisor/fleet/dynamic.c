/* dynamic.c: instances from the model library: made into entries, kept, taken over into each configuration, removed. */
#include "fleet/dynamic.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "fleet/library.h"
#include "fleet/private.h"
#include "host/record.h"

#define STATE_FILE "dynamic.json"
enum { STATE_MAX = 4 << 20, NAME_TRIES = 1000, NAME_MOST = 63 };

struct dynamic {
        char *name;
        char *json; /* its entry, as the state file holds it */
};

struct dynamics {
        struct fleet *fleet;
        char *file; /* path of the state file, for messages */
        struct dynamic *list[DYNAMIC_MAX];
        size_t n;
        struct list starts; /* in the order of their coming; the first may be in the pool */
        unsigned n_starts;
};

struct dynamic_start {
        struct list node;
        struct dynamics *d;    /* NULL: the fleet is gone */
        dynamic_done_fn *done; /* NULL: nobody waits any more */
        void *owner;
        struct timer *patience;
        char *dir, *model, *name, *gpu; /* gpu: JSON text */
        char **args;
        bool in_pool;
        /* What the check or the pool found. */
        int r;
        const char *param; /* the key that is wrong */
        struct library_model found;
};

/* --- keeping ----------------------------------------------------------------------------------------------------- */

static struct dynamic *dynamic_free(struct dynamic *x)
{
        if (x) {
                free(x->name);
                free(x->json);
                free(x);
        }
        return NULL;
}

static size_t find(const struct dynamics *d, const char *name)
{
        for (size_t i = 0; i < d->n; i++)
                if (streq(d->list[i]->name, name))
                        return i;
        return SIZE_MAX;
}

/* Takes it out of the list; the caller has it then. */
static struct dynamic *take(struct dynamics *d, size_t i)
{
        struct dynamic *x = d->list[i];

        d->n--;
        memmove(d->list + i, d->list + i + 1, (d->n - i) * sizeof *d->list);
        return x;
}

/* On record before anything happens that rests on it; the second write makes it last through a power cut. */
static int save(struct dynamics *d)
{
        _cleanup_buffer_ struct buffer b = {0};
        const char *dir = d->fleet->config->state_dir;
        int r;

        buffer_init(&b, 0);
        (void)buffer_puts(&b, "{\"instances\":[");
        for (size_t i = 0; i < d->n; i++)
                (void)buffer_printf(&b, "%s\n%s", i ? "," : "", d->list[i]->json);
        (void)buffer_puts(&b, "\n]}\n");
        if (b.failed)
                return -ENOMEM;
        r = record_save_now(dir, STATE_FILE, b.data, b.len);
        if (r == 0)
                (void)record_save(d->fleet->loop, dir, STATE_FILE, b.data, b.len);
        return r;
}

static int keep(struct dynamics *d, const struct json_value *v)
{
        struct dynamic *x = calloc(1, sizeof *x);

        if (!x)
                return -ENOMEM;
        x->name = text_dup(json_get_string(v, "name"));
        x->json = json_print(v, false);
        if (!x->name || !x->json) {
                (void)dynamic_free(x);
                return json_get_string(v, "name") ? -ENOMEM : -EBADMSG;
        }
        d->list[d->n++] = x;
        return 0;
}

static int load(struct dynamics *d)
{
        const char *dir = d->fleet->config->state_dir;
        _cleanup_free_ char *text = NULL, *why = NULL;
        struct json_value *root = NULL;
        const struct json_value *list;
        struct json_error e = {0};
        size_t len;
        int r;

        r = record_load(dir, STATE_FILE, STATE_MAX, &text, &len);
        if (r == -ENOENT)
                return 0;
        if (r == 0)
                r = json_parse(text, len, &root, &e);
        list = json_get(root, "instances");
        if (r == 0 && !json_is_array(list))
                r = -EBADMSG;
        for (size_t i = 0; r == 0 && i < json_count(list) && d->n < DYNAMIC_MAX; i++)
                r = keep(d, json_at(list, i));
        json_free(root);
        if (r == 0 || r == -ENOMEM)
                return r;
        /* It stays where it is until something else is kept; a copy tells what was in it. */
        why = text_format("%s cannot be read (%s): the instances in it that were started from the model "
                          "library are not known any more",
                          d->file, r == -EBADMSG && e.message ? e.message : strerror(-r));
        fleet_tell(d->fleet, LOG_ERR, "dynamic_lost", why ? why : strerror(ENOMEM));
        if (text)
                (void)record_save_now(dir, STATE_FILE ".bad", text, len);
        while (d->n)
                (void)dynamic_free(take(d, 0));
        return 0;
}

int dynamics_new(struct fleet *f, struct dynamics **ret)
{
        struct dynamics *d = calloc(1, sizeof *d);
        int r;

        if (!d)
                return -ENOMEM;
        d->fleet = f;
        list_init(&d->starts);
        d->file = text_format("%s/" STATE_FILE, f->config->state_dir);
        r = d->file ? load(d) : -ENOMEM;
        if (r < 0) {
                (void)dynamics_free(d);
                return r;
        }
        *ret = d;
        return 0;
}

static void start_free(struct dynamic_start *s)
{
        timer_free(s->patience);
        free(s->dir);
        free(s->model);
        free(s->name);
        free(s->gpu);
        text_list_free(s->args);
        free(s->found.path);
        free(s);
}

static void forget_start(struct dynamics *d, struct dynamic_start *s)
{
        list_remove(&s->node);
        d->n_starts--;
        s->d = NULL;
        s->done = NULL;
        s->patience = timer_free(s->patience);
}

struct dynamics *dynamics_free(struct dynamics *d)
{
        if (!d)
                return NULL;
        while (!list_is_empty(&d->starts)) {
                struct dynamic_start *s = LIST_ENTRY(d->starts.next, struct dynamic_start, node);

                forget_start(d, s);
                if (!s->in_pool) /* else start_done frees it */
                        start_free(s);
        }
        while (d->n)
                (void)dynamic_free(take(d, d->n - 1));
        free(d->file);
        free(d);
        return NULL;
}

/* --- into a configuration ------------------------------------------------------------------------------------------ */

/* "args[1]: --port is refused: …" of the first problem; malloc'd. */
static char *first_problem(const struct config_problems *p)
{
        for (size_t i = 0; i < p->count; i++)
                if (!p->list[i].warning)
                        return text_format("%s%s%s", p->list[i].path, *p->list[i].path ? ": " : "",
                                           p->list[i].message);
        return text_format("it cannot be read");
}

static void tell(struct dynamics *d, int level, const char *name, const char *kind, const char *text)
{
        const struct history_event e = {.kind = kind, .instance = name, .model = name, .text = text};

        history_tell(d->fleet->history, level, &e);
}

/* 0: it is in c. -EEXIST: the configuration has it itself. Else it is told why not. */
static int add_one(struct dynamics *d, struct config *c, const struct dynamic *x, bool for_good)
{
        const struct config_instance *clash;
        struct config_problems problems;
        _cleanup_free_ char *why = NULL, *text = NULL;
        int r;

        r = config_add_entry(c, d->file, x->json, strlen(x->json), &clash, &problems);
        if (r < 0 && for_good) {
                why = clash ? text_format("the entry \"%s\" of the configuration (%s:%u) has its name: that "
                                          "one wins, and this "
                                          "instance of the model library is forgotten",
                                          clash->name, clash->where.file, clash->where.line)
                            : first_problem(&problems);
                text = clash ? steal_ptr(why)
                             : text_format("this instance of the model library cannot be had with this "
                                           "configuration: %s",
                                           why ? why : strerror(-r));
                tell(d, LOG_WARNING, x->name, clash ? "dynamic_replaced" : "dynamic_refused",
                     text ? text : strerror(-r));
        }
        config_problems_finish(&problems);
        return clash ? -EEXIST : r;
}

void dynamics_add(struct dynamics *d, struct config *c, bool for_good)
{
        bool changed = false;

        for (size_t i = 0; i < d->n;) {
                if (add_one(d, c, d->list[i], for_good) == -EEXIST && for_good) {
                        (void)dynamic_free(take(d, i));
                        changed = true;
                } else {
                        i++;
                }
        }
        if (changed && save(d) < 0)
                log_warn(NULL, "%s cannot be written", d->file);
}

/* --- from a wish to an entry --------------------------------------------------------------------------------------------- */

/* Variables are for who writes the configuration: "${" stands for itself here. */
static void put_plain(struct json_writer *w, const char *s)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        for (; *s; s++) {
                if (s[0] == '$' && s[1] == '{')
                        (void)buffer_putc(&b, '$');
                (void)buffer_putc(&b, *s);
        }
        json_put_string(w, b.data ? b.data : "");
        w->out->failed = w->out->failed || b.failed;
}

static void put_gpu(struct json_writer *w, const struct json_value *v)
{
        const char *s = json_as_string(v);

        if (s) {
                put_plain(w, s);
        } else if (json_is_array(v)) {
                json_open_array(w);
                for (size_t i = 0; i < json_count(v); i++)
                        if (json_is_array(json_at(v, i)) || json_is_object(json_at(v, i)))
                                json_put_null(w); /* which the table refuses by its place */
                        else
                                put_gpu(w, json_at(v, i));
                json_close_array(w);
        } else {
                _cleanup_free_ char *text = json_is_object(v) ? NULL : json_print(v, false);

                json_put_raw(w, text ? text : "null", strlen(text ? text : "null"));
        }
}

static bool says(char *const *args, const char *const *options)
{
        for (; args && *args; args++)
                for (const char *const *o = options; *o; o++)
                        if (streq(*args, *o))
                                return true;
        return false;
}

static void put_entry(struct json_writer *w, const struct dynamic_start *s, const char *name)
{
        static const char *const about[] = {"--embedding", "--embeddings", "--rerank", "--reranking", NULL};
        bool pools = s->found.facts.kind == GGUF_EMBEDDING && !says(s->args, about);

        json_open_object(w);
        json_string(w, "name", name);
        json_key(w, "model");
        put_plain(w, s->found.path);
        if (s->gpu) {
                json_key(w, "gpu");
                json_put_raw(w, s->gpu, strlen(s->gpu));
        }
        if (pools || (s->args && *s->args)) {
                json_key(w, "args");
                json_open_array(w);
                if (pools)
                        json_put_string(w, streq_ptr(gguf_pooling_name(s->found.facts.pooling), "rank")
                                                   ? "--reranking"
                                                   : "--embeddings");
                for (char *const *a = s->args; a && *a; a++)
                        put_plain(w, *a);
                json_close_array(w);
        }
        json_close_object(w);
}

static bool is_taken(const struct fleet *f, const char *name)
{
        return fleet_member(f, name) || config_find_taken(f->config, name) || streq(name, "control");
}

/* "/models/Qwen 2.5 (7B)-00001-of-00002.gguf" is "Qwen-2.5-7B", or with a number behind it when that is taken. buf of
 * CONFIG_NAME_MAX. */
static int make_name(const struct fleet *f, const char *path, char buf[CONFIG_NAME_MAX])
{
        const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
        size_t prefix = strlen(f->config->runtime_dir) + strlen("/-63.sock"), most, n = 0, len = strlen(base);
        char stem[CONFIG_NAME_MAX];
        unsigned part, parts;
        int used = 0;

        if (len > strlen("-00001-of-00001.gguf") &&
            sscanf(base + len - strlen("-00001-of-00001.gguf"), "-%5u-of-%5u.gguf%n", &part, &parts, &used) ==
                    2 &&
            used == (int)strlen("-00001-of-00001.gguf"))
                len -= strlen("-00001-of-00001.gguf");
        else if (len > strlen(".gguf") && strcasecmp(base + len - strlen(".gguf"), ".gguf") == 0)
                len -= strlen(".gguf");
        /* The path of its socket has 107 bytes; "-1000" may come behind it. */
        most = MIN((size_t)NAME_MOST, prefix < 107 ? 107 - prefix : 0);
        most = most > strlen("-1000") ? most - strlen("-1000") : 0;
        for (size_t i = 0; i < len && n < most; i++) {
                bool good = isalnum((unsigned char)base[i]) || (base[i] == '.' || base[i] == '_');

                if (good && (n || isalnum((unsigned char)base[i])))
                        stem[n++] = base[i];
                else if (!good && n && stem[n - 1] != '-')
                        stem[n++] = '-';
        }
        while (n && stem[n - 1] == '-')
                n--;
        if (n == 0)
                n = (size_t)snprintf(stem, sizeof stem, "%s", "model");
        for (unsigned i = 1; i <= NAME_TRIES; i++) {
                if (i == 1)
                        (void)snprintf(buf, CONFIG_NAME_MAX, "%.*s", (int)n, stem);
                else
                        (void)snprintf(buf, CONFIG_NAME_MAX, "%.*s-%u", (int)n, stem, i);
                if (!is_taken(f, buf))
                        return 0;
        }
        return -EEXIST;
}

/* --- starting --------------------------------------------------------------------------------------------------------------- */

/* Tells who waits; s stays. */
static void answer(struct dynamic_start *s, int r, const char *param, const char *message, const char *name)
{
        dynamic_done_fn *done = s->done;

        s->done = NULL;
        if (done)
                done(s->owner, r, param, message, name);
}

/* The configuration that runs, with the entries of d and nothing that meanwhile stands in the files. */
static int config_with(struct dynamics *d, struct config **ret)
{
        struct config_problems problems;
        int r = config_again(d->fleet->config, ret, &problems);

        config_problems_finish(&problems);
        if (r == 0)
                dynamics_add(d, *ret, false);
        return r;
}

/* Into the list, the state file and the fleet; message is malloc'd words of an error. */
static int commit(struct dynamics *d, const char *name, const struct buffer *json, char **ret_words)
{
        const struct config_instance *clash = NULL;
        struct config_problems problems;
        struct json_value *v = NULL;
        struct config *c = NULL;
        int r;

        if (json->failed)
                return -ENOMEM;
        r = config_with(d, &c);
        if (r < 0)
                return r;
        r = config_add_entry(c, d->file, json->data, json->len, &clash, &problems);
        if (r == -EBADMSG) {
                *ret_words = first_problem(&problems);
                r = clash ? -EEXIST : -EINVAL;
        }
        config_problems_finish(&problems);
        if (r == 0)
                r = json_parse(json->data, json->len, &v, NULL);
        if (r == 0)
                r = keep(d, v);
        json_free(v);
        if (r == 0) {
                r = save(d);
                if (r < 0) {
                        *ret_words = text_format("%s cannot be written: %s", d->file, strerror(-r));
                        (void)dynamic_free(take(d, find(d, name)));
                }
        }
        if (r < 0)
                config_free(c);
        else
                fleet_apply(d->fleet, c, loop_now(d->fleet->loop));
        return r;
}

/* The key of the entry that a problem is of: "args[1]: …" is args. */
static const char *param_of(const char *words)
{
        static const char *const params[] = {"name", "args", "gpu", "model"};

        for (size_t i = 0; words && i < ARRAY_SIZE(params); i++)
                if (starts_with(words, params[i]))
                        return params[i];
        return NULL;
}

static void make_instance(struct dynamic_start *s)
{
        struct dynamics *d = s->d;
        struct fleet *f = d->fleet;
        _cleanup_free_ char *words = NULL, *event = NULL;
        _cleanup_buffer_ struct buffer json = {0};
        char name[CONFIG_NAME_MAX];
        struct json_writer w;
        struct member *m;
        int r;

        if (f->stopping) {
                answer(s, -ESHUTDOWN, NULL, "the supervisor is stopping", NULL);
                return;
        }
        if (d->n == DYNAMIC_MAX) {
                answer(s, -ENOSPC, NULL,
                       "64 instances were started from the model library already: remove one first", NULL);
                return;
        }
        if (s->name)
                (void)snprintf(name, sizeof name, "%s", s->name);
        r = s->name ? 0 : make_name(f, s->found.path, name);
        m = fleet_member(f, name);
        if (r == 0 && m && m->removed) {
                words = text_format(
                        "the instance \"%s\" that was removed is still stopping: try again in a moment",
                        name);
                r = -EEXIST;
        } else if (r == 0 && find(d, name) != SIZE_MAX) {
                words = text_format("the name \"%s\" is taken by an instance of the model library", name);
                r = -EEXIST;
        }
        if (r == 0) {
                buffer_init(&json, 0);
                json_begin(&w, &json);
                put_entry(&w, s, name);
                r = commit(d, name, &json, &words);
        }
        if (r < 0) {
                answer(s, r, r == -EEXIST ? "name" : param_of(words), words ? words : strerror(-r), NULL);
                return;
        }
        event = text_format("from the model library: %s", s->found.path);
        tell(d, LOG_INFO, name, "created", event ? event : "from the model library");
        answer(s, 0, NULL, event ? event : "from the model library", name);
}

static void start_work(void *job)
{
        struct dynamic_start *s = job;

        if (s->r < 0)
                return; /* refused already, but told from the loop like all others */
        s->param = "model";
        s->r = library_open_model(s->dir, s->model, &s->found);
        for (size_t i = 0; s->r == 0 && s->args && s->args[i] && s->args[i + 1]; i++) {
                struct library_model file = {0};

                if (!config_arg_names_model(s->args[i]))
                        continue;
                s->r = library_find_file(s->dir, s->args[i + 1], &file);
                if (s->r == 0) {
                        free(s->args[i + 1]);
                        s->args[i + 1] = file.path;
                        continue;
                }
                s->param = "args";
                (void)snprintf(s->found.words, sizeof s->found.words, "args: %.300s", file.words);
        }
}

static void start_done(void *job);

/* One at a time: a disk that hangs shall not take all threads of the pool, which also makes records last. */
static void start_next(struct dynamics *d)
{
        while (!list_is_empty(&d->starts)) {
                struct dynamic_start *s = LIST_ENTRY(d->starts.next, struct dynamic_start, node);
                int r = s->in_pool ? 0 : loop_work(d->fleet->loop, start_work, start_done, s);

                if (r == 0) {
                        s->in_pool = true;
                        return;
                }
                answer(s, r, NULL, r == -EAGAIN ? "too much waits for the disk" : strerror(-r), NULL);
                forget_start(s->d, s);
                start_free(s);
        }
}

static void start_done(void *job)
{
        struct dynamic_start *s = job;
        struct dynamics *d = s->d;

        if (d) {
                if (s->done && s->r < 0)
                        answer(s, s->r, s->param, s->found.words, NULL);
                else if (s->done)
                        make_instance(s);
                forget_start(s->d, s);
        }
        start_free(s);
        if (d)
                start_next(d);
}

static void on_patience(void *owner, usec_t now)
{
        struct dynamic_start *s = owner;

        (void)now;
        answer(s, -ETIMEDOUT, "model", "the disk of models_dir does not answer", NULL);
        (void)dynamic_cancel(s);
}

struct dynamic_start *dynamic_cancel(struct dynamic_start *s)
{
        if (!s)
                return NULL;
        s->done = NULL;
        if (!s->in_pool) {
                forget_start(s->d, s);
                start_free(s);
        }
        return NULL;
}

static int copy_spec(struct dynamic_start *s, const struct dynamic_spec *spec, const char *dir)
{
        _cleanup_buffer_ struct buffer gpu = {0};
        struct json_writer w;
        int r = 0;

        s->dir = text_dup(dir);
        s->model = text_dup(spec->model);
        s->name = text_dup(spec->name);
        for (char *const *a = spec->args; r == 0 && a && *a; a++)
                r = text_list_add(&s->args, *a);
        if (spec->gpu) {
                buffer_init(&gpu, 0);
                json_begin(&w, &gpu);
                put_gpu(&w, spec->gpu);
                s->gpu = gpu.failed ? NULL : text_dup(gpu.data);
        }
        return r < 0 || !s->dir || !s->model || (spec->name && !s->name) || (spec->gpu && !s->gpu) ? -ENOMEM
                                                                                                   : 0;
}

/* What can be said without a look at the disk. The error is told like all others: by done, not from inside. */
static void check_spec(struct dynamic_start *s)
{
        size_t n = text_list_count(s->args);

        if (s->name && !text_is_name(s->name)) {
                s->r = -EINVAL;
                s->param = "name";
                (void)snprintf(
                        s->found.words, sizeof s->found.words,
                        "name: 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit");
        } else if (n > DYNAMIC_ARGS_MAX) {
                s->r = -EINVAL;
                s->param = "args";
                (void)snprintf(s->found.words, sizeof s->found.words, "args: more than %d", DYNAMIC_ARGS_MAX);
        }
        for (size_t i = 0; s->r == 0 && i < n; i++) {
                const char *why = strlen(s->args[i]) > DYNAMIC_ARG_BYTES
                                          ? "it is too long"
                                          : config_arg_refused_remotely(s->args[i]);

                if (!why)
                        continue;
                s->r = -EINVAL;
                s->param = "args";
                (void)snprintf(s->found.words, sizeof s->found.words, "args[%zu]: %.60s is refused: %s", i,
                               s->args[i], why);
                (void)text_harmless(s->found.words);
        }
}

int dynamic_start(struct fleet *f, const struct dynamic_spec *spec, dynamic_done_fn *done, void *owner,
                  struct dynamic_start **ret)
{
        struct dynamics *d = f->dynamics;
        struct dynamic_start *s;
        int r;

        if (d->n_starts == DYNAMIC_WAITING_MAX)
                return -EAGAIN;
        s = calloc(1, sizeof *s);
        if (!s)
                return -ENOMEM;
        list_init(&s->node);
        r = copy_spec(s, spec, f->config->models_dir);
        if (r == 0)
                r = timer_new(f->loop, on_patience, s, &s->patience);
        if (r < 0) {
                start_free(s);
                return r;
        }
        check_spec(s);
        if (list_is_empty(&d->starts)) {
                r = loop_work(f->loop, start_work, start_done, s);
                if (r < 0) {
                        start_free(s);
                        return r;
                }
                s->in_pool = true;
        }
        s->d = d;
        s->done = done;
        s->owner = owner;
        list_append(&d->starts, &s->node);
        d->n_starts++;
        timer_set(s->patience, usec_add(loop_now(f->loop), DYNAMIC_PATIENCE));
        *ret = s;
        return 0;
}

/* --- removing --------------------------------------------------------------------------------------------------------------- */

int dynamic_remove(struct fleet *f, const char *name, char **ret_message)
{
        struct dynamics *d = f->dynamics;
        const struct config_instance *taker;
        struct config *c = NULL;
        struct dynamic *x;
        size_t i = find(d, name);
        int r;

        *ret_message = NULL;
        if (f->stopping) {
                *ret_message = text_format("the supervisor is stopping");
                return -ESHUTDOWN;
        }
        if (i == SIZE_MAX) {
                taker = config_find_taken(f->config, name);
                if (!taker) {
                        *ret_message = text_format("there is no instance \"%s\"", name);
                        return -ENOENT;
                }
                *ret_message = text_format(
                        "%s is in the configuration (%s:%u): take it out there and reload, or stop it", name,
                        taker->where.file, taker->where.line);
                return -EPERM;
        }
        x = take(d, i);
        r = config_with(d, &c);
        if (r == 0)
                r = save(d);
        if (r < 0) {
                *ret_message = text_format("%s cannot be written: %s", d->file, strerror(-r));
                config_free(c);
                d->list[d->n++] = x;
                return r;
        }
        *ret_message = text_format("%s is stopped and forgotten; its model file stays", name);
        if (fleet_member(f, name))
                member_tell(fleet_member(f, name), LOG_INFO, "removed", "removed by a person");
        (void)dynamic_free(x);
        fleet_apply(f, c, loop_now(f->loop));
        return 0;
}
