/* config_load.c: files into a struct config: read, scan, walk the rows, inherit. What needs the whole is config_check.c. */
#include "core/config_internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/text.h"

#define TOKENS_MAX   400000U /* values in one file */
#define INCLUDES_MAX 256U

/* --- places and problems ---------------------------------------------------------------------------------------- */

static void position(const struct config_doc *doc, size_t offset, unsigned *ret_line, unsigned *ret_column)
{
        size_t lo = 0, hi = doc->n_lines;
        unsigned unused;

        if (!doc->lines) {
                json_position(doc->text, offset, ret_line, ret_column);
                return;
        }
        while (hi - lo > 1) {
                size_t mid = lo + (hi - lo) / 2;

                if (doc->lines[mid] <= offset)
                        lo = mid;
                else
                        hi = mid;
        }
        json_position(doc->text + doc->lines[lo], offset - doc->lines[lo], &unused, ret_column);
        *ret_line = (unsigned)lo + 1;
}

static size_t offset_of(struct config_spot at)
{
        return at.doc->scan.tokens ? at.doc->scan.tokens[at.token].start : 0;
}

struct config_where config_where_of(const struct config_spot *at)
{
        struct config_where where = {.file = at->doc->file};

        position(at->doc, offset_of(*at), &where.line, &where.column);
        return where;
}

char *config_spot_text(const struct config_spot *at, char *buf, size_t size)
{
        struct config_where where = config_where_of(at);

        (void)snprintf(buf, size, "%s:%u:%u", where.file, where.line, where.column);
        return buf;
}

static void problem_finish(struct config_problem *p)
{
        free(p->file);
        free(p->path);
        free(p->message);
}

/* Room for one more; when all is taken, an error takes the place of the last warning. NULL when there is none. */
static struct config_problem *problem_slot(struct config_problems *p, bool warning)
{
        if (!p->list) {
                p->list = calloc(CONFIG_PROBLEMS_MAX, sizeof *p->list);
                if (!p->list)
                        return NULL;
        }
        if (p->count < CONFIG_PROBLEMS_MAX)
                return p->list + p->count++;
        p->dropped++;
        for (size_t i = p->count; !warning && i-- > 0;)
                if (p->list[i].warning) {
                        problem_finish(p->list + i);
                        return p->list + i;
                }
        return NULL;
}

static void add_problem(struct config_load *l, const char *file, const struct config_doc *doc, size_t offset,
                        bool warning, const char *fmt, va_list ap) PRINTF_LIKE(6, 0);
static void add_problem(struct config_load *l, const char *file, const struct config_doc *doc, size_t offset,
                        bool warning, const char *fmt, va_list ap)
{
        struct config_problem *p;

        if (warning)
                l->problems->warnings++;
        else
                l->problems->errors++;
        p = problem_slot(l->problems, warning);
        if (!p)
                return;
        *p = (struct config_problem){.warning = warning};
        p->file = strdup(file);
        p->path = strdup(l->path.data && l->path.len ? l->path.data : "");
        if (vasprintf(&p->message, fmt, ap) < 0)
                p->message = NULL;
        if (doc)
                position(doc, offset, &p->line, &p->column);
        if (!p->file || !p->path || !p->message)
                l->failed_memory = true;
}

void config_error_at(struct config_load *l, const struct config_doc *doc, size_t offset, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        add_problem(l, doc->file, doc, offset, false, fmt, ap);
        va_end(ap);
}

void config_error(struct config_load *l, struct config_spot at, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        add_problem(l, at.doc ? at.doc->file : l->config->files[0], at.doc, at.doc ? offset_of(at) : 0, false,
                    fmt, ap);
        va_end(ap);
}

void config_warning(struct config_load *l, struct config_spot at, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        add_problem(l, at.doc ? at.doc->file : l->config->files[0], at.doc, at.doc ? offset_of(at) : 0, true,
                    fmt, ap);
        va_end(ap);
}

size_t config_path_add(struct config_load *l, const char *fmt, ...)
{
        size_t len = l->path.len;
        va_list ap;

        va_start(ap, fmt);
        (void)buffer_vprintf(&l->path, fmt, ap);
        va_end(ap);
        return len;
}

void config_path_back(struct config_load *l, size_t len)
{
        l->path.len = len;
        l->path.failed = false;
        if (l->path.data)
                l->path.data[len] = '\0';
}

static size_t row_index(enum config_place place, const char *path)
{
        const struct config_key *key = config_key_find(place, path);

        return key ? (size_t)(key - config_places[place].keys) : SIZE_MAX;
}

bool config_seen_has(const struct config_seen *seen, enum config_place place, const char *path)
{
        size_t i = row_index(place, path);

        return i != SIZE_MAX && seen->at[i].doc;
}

struct config_spot config_seen_spot(const struct config_seen *seen, enum config_place place, const char *path)
{
        return config_seen_has(seen, place, path) ? seen->at[row_index(place, path)] : seen->self;
}

/* --- unknown keys ----------------------------------------------------------------------------------------------- */

/* The row of `place` whose last part is `key`, for keys that stand in the wrong object. */
static const struct config_key *key_elsewhere(enum config_place place, const char *key)
{
        const struct config_place_info *info = config_places + place;

        for (size_t i = 0; i < info->n_keys; i++) {
                const char *dot = strrchr(info->keys[i].path, '.');

                if (streq(dot ? dot + 1 : info->keys[i].path, key))
                        return info->keys + i;
        }
        return NULL;
}

static void unknown_key(struct config_load *l, struct config_spot at, enum config_place place,
                        const char *prefix, const char *key)
{
        static const enum config_place others[] = {PLACE_TOP, PLACE_INSTANCE, PLACE_LISTEN, PLACE_GROUP,
                                                   PLACE_HUB};
        const struct config_place_info *info = config_places + place;
        const char *names[CONFIG_KEYS_MAX + 1], *near;
        const struct config_key *other;
        size_t n = 0, len = strlen(prefix);
        char path[128];

        for (size_t i = 0; i < info->n_keys; i++)
                if (starts_with(info->keys[i].path, prefix) && !strchr(info->keys[i].path + len, '.'))
                        names[n++] = info->keys[i].path + len;
        names[n] = NULL;
        near = text_nearest(key, names);
        /* "alias" is too far from "aliases" for a typo, but one is the beginning of the other. */
        for (size_t i = 0; !near && i < n && strlen(key) >= 3; i++)
                if (starts_with(names[i], key) || starts_with(key, names[i]))
                        near = names[i];
        if (near) {
                config_error(l, at, "unknown key, did you mean \"%s\"?", near);
                return;
        }
        other = key_elsewhere(place, key);
        if (other && (*prefix || !streq(other->path, key))) {
                config_error(l, at, "unknown key here, did you mean \"%s%s\"?", info->prefix, other->path);
                return;
        }
        (void)snprintf(path, sizeof path, "%s%s", prefix, key);
        for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
                other = others[i] == place ? NULL : config_key_find(others[i], key);
                if (!other &&
                    others[i] != place) /* the same group elsewhere: "on_demand" has other keys in an entry */
                        other = config_key_find(others[i], path);
                if (other) {
                        config_error(l, at, "unknown key here, did you mean \"%s%s\"%s?",
                                     config_places[others[i]].prefix, other->path,
                                     others[i] == PLACE_TOP ? " at the top level" : "");
                        return;
                }
        }
        config_error(l, at, "unknown key");
}

/* --- one object ------------------------------------------------------------------------------------------------- */

/* What is said about a key that does nothing in this version; false when it must not be read at all. */
static bool is_built(struct config_load *l, struct config_spot at, const struct config_key *key)
{
        if (key->flags & KEY_REFUSED) {
                config_error(l, at, "not supported by this version of llama-supervisor");
                return false;
        }
        if (key->flags & KEY_UNBUILT)
                config_warning(l, at, "has no effect in this version of llama-supervisor");
        return true;
}

static void load_object(struct config_load *l, struct config_spot at, enum config_place place,
                        const char *prefix, void *base, struct config_seen *seen);

static void load_member(struct config_load *l, struct config_spot at, const struct config_key *key,
                        enum config_place place, void *base, struct config_seen *seen)
{
        struct config_spot value = {at.doc, at.token + 1};
        struct config_spot *before = seen->at + (key - config_places[place].keys);
        char spot[CONFIG_SPOT_MAX], prefix[64];

        /* Objects and arrays of objects may be spread over files; within one file every key stands once. */
        if (before->doc &&
            (before->doc == at.doc || (key->type != TYPE_GROUP && key->type != TYPE_OBJECTS))) {
                struct config_spot first = {before->doc, before->token - 1};

                config_error(l, at, "is set twice, first at %s", config_spot_text(&first, spot, sizeof spot));
                return;
        }
        *before = value;
        if (!is_built(l, at, key))
                return;
        if (key->type == TYPE_OBJECTS)
                return; /* load_arrays, when the rest is known */
        if (key->type != TYPE_GROUP) {
                (void)config_value_set(l, value, key, base);
                return;
        }
        if (key->flags & KEY_PRESENT)
                *CONFIG_FIELD(bool, base, key->offset) = true;
        if (at.doc->scan.tokens[value.token].type != JSON_OBJECT) {
                config_error(l, value, "expected an object");
                return;
        }
        (void)snprintf(prefix, sizeof prefix, "%s.", key->path);
        load_object(l, value, place, prefix, base, seen);
}

static void load_object(struct config_load *l, struct config_spot at, enum config_place place,
                        const char *prefix, void *base, struct config_seen *seen)
{
        const struct json_token *tokens = at.doc->scan.tokens;
        struct config_spot e = {at.doc, at.token + 1};
        const struct config_key *key;
        char name[64], path[128];
        size_t back;

        for (uint32_t i = 0; i < tokens[at.token].count; i++, e.token = tokens[e.token + 1].next) {
                /* No key of ours is longer; of a longer one the beginning is shown. */
                if (tokens[e.token].end - tokens[e.token].start <= sizeof name)
                        (void)json_scan_string(&e.doc->scan, e.token, name);
                else
                        (void)snprintf(name, sizeof name, "%.40s…", e.doc->text + tokens[e.token].start + 1);
                (void)snprintf(path, sizeof path, "%s%s", prefix, name);
                (void)text_harmless(name);
                key = config_key_find(place, path);
                /* "a.b" as one key is not the key b of a. */
                if (key && strchr(name, '.'))
                        key = NULL;
                back = config_path_add(l, "%s%s", l->path.len ? "." : "", name);
                if (key)
                        load_member(l, e, key, place, base, seen);
                else
                        unknown_key(l, e, place, prefix, name);
                config_path_back(l, back);
        }
}

static void check_required(struct config_load *l, enum config_place place, const struct config_seen *seen)
{
        const struct config_place_info *info = config_places + place;

        for (size_t i = 0; i < info->n_keys; i++)
                if ((info->keys[i].flags & KEY_REQUIRED) && !seen->at[i].doc)
                        config_error(l, seen->self, "\"%s\" is missing", info->keys[i].path);
}

static bool key_is(const struct config_doc *doc, uint32_t token, const char *name)
{
        const struct json_token *t = doc->scan.tokens + token;
        char key[64];

        if (t->end - t->start > sizeof key)
                return false;
        (void)json_scan_string(&doc->scan, token, key);
        return streq(key, name);
}

/* --- files ------------------------------------------------------------------------------------------------------ */

static char *folder_of(const char *cwd, const char *file)
{
        const char *slash = strrchr(file, '/');
        _cleanup_free_ char *dir = text_format("%.*s", slash ? (int)(slash - file) + 1 : 0, file);

        return dir ? config_path_join(cwd, dir) : NULL;
}

static int index_lines(struct config_doc *doc)
{
        size_t n = 1;

        for (size_t i = 0; i < doc->len; i++)
                n += doc->text[i] == '\n';
        doc->lines = reallocarray(NULL, n, sizeof *doc->lines);
        if (!doc->lines)
                return -ENOMEM;
        doc->lines[doc->n_lines++] = 0;
        for (size_t i = 0; i < doc->len; i++)
                if (doc->text[i] == '\n')
                        doc->lines[doc->n_lines++] = (uint32_t)i + 1;
        return 0;
}

/* Reads one more file. `from` is where it was named. 0 also when a problem was reported; then the doc has no tokens. */
static int add_doc(struct config_load *l, const char *file, struct config_spot from)
{
        const struct file_ops *files = l->env->files;
        struct json_error error;
        struct config_doc *doc = l->docs + l->n_docs;
        int r;

        r = text_list_add(&l->config->files, file);
        if (r < 0)
                return r;
        *doc = (struct config_doc){.file = l->config->files[l->n_docs], .dir = folder_of(l->env->cwd, file)};
        if (!doc->dir)
                return -ENOMEM;
        l->n_docs++;
        r = files->read(files->owner, file, CONFIG_FILE_MAX, &doc->text, &doc->len);
        if (r < 0) {
                if (from.doc)
                        config_error(l, from, "%s cannot be read: %s", file, strerror(-r));
                else
                        config_error(l, from, "cannot be read: %s",
                                     r == -EFBIG ? "it is larger than a configuration may be (2 MB)"
                                                 : strerror(-r));
                return r == -ENOMEM ? r : 0;
        }
        r = index_lines(doc);
        if (r < 0)
                return r;
        r = json_scan(&doc->scan, doc->text, doc->len, JSON_SCAN_COMMENTS | JSON_SCAN_DUPLICATES, TOKENS_MAX,
                      &error);
        if (r == -EBADMSG) {
                config_error_at(l, doc, error.offset, "%s", error.message);
                return 0;
        }
        if (r == 0 && doc->scan.tokens[0].type != JSON_OBJECT)
                config_error_at(l, doc, doc->scan.tokens[0].start, "the configuration is an object: { … }");
        return r;
}

static int add_includes(struct config_load *l)
{
        const struct config_key *key = config_key_find(PLACE_TOP, "include");
        const struct config_doc *main_doc = l->docs;
        const struct json_token *tokens = main_doc->scan.tokens;
        const struct file_ops *files = l->env->files;
        struct config_spot at = {main_doc, 1};
        char **names = NULL;
        size_t back;
        int r = 0;

        for (uint32_t i = 0; i < tokens[0].count; i++, at.token = tokens[at.token + 1].next)
                if (key_is(main_doc, at.token, "include"))
                        break;
        if (at.token >= tokens[0].next)
                return 0;
        at.token++;
        back = config_path_add(l, "include");
        if (config_value_set(l, at, key, l->config)) {
                r = files->list(files->owner, l->config->include, ".json", INCLUDES_MAX, &names);
                if (r == -E2BIG)
                        config_error(l, at, "%s holds more than %u files", l->config->include, INCLUDES_MAX);
                else if (r < 0)
                        config_error(l, at, "%s cannot be read: %s", l->config->include, strerror(-r));
        }
        config_path_back(l, back);
        for (size_t i = 0; names && names[i]; i++) {
                _cleanup_free_ char *path = text_format("%s/%s", l->config->include, names[i]);

                r = path ? add_doc(l, path, at) : -ENOMEM;
                if (r == -ENOMEM)
                        break;
        }
        text_list_free(names);
        return r == -ENOMEM ? r : 0;
}

/* --- arrays of objects ------------------------------------------------------------------------------------------ */

/* Places with a function for what comes before and after the rows. */
static void start_instance(struct config_load *l, struct config_instance *in)
{
        const struct config *c = l->config;

        in->restart = c->restart;
        in->health = c->health;
        in->stop = c->stop;
        in->binary = text_dup(c->llama_server.binary);
        if (c->llama_server.binary && !in->binary)
                l->failed_memory = true;
}

/* How many elements the array `path` has in all files. */
static size_t count_elements(struct config_load *l, const char *name)
{
        size_t n = 0;

        for (size_t d = 0; d < l->n_docs; d++) {
                const struct json_token *tokens = l->docs[d].scan.tokens;

                for (uint32_t i = 0, t = 1; i < tokens[0].count; i++, t = tokens[t + 1].next)
                        if (key_is(l->docs + d, t, name) && tokens[t + 1].type == JSON_ARRAY)
                                n += tokens[t + 1].count;
        }
        return n;
}

struct array {
        enum config_place place;
        const char *name;
        void **items;
        size_t *n_items;
        struct config_seen **seen;
        size_t max; /* as counted */
};

static void load_element(struct config_load *l, struct config_spot e, unsigned index, const struct array *a)
{
        const struct config_place_info *info = config_places + a->place;
        struct config_seen *seen = *a->seen + *a->n_items;
        void *item = (char *)*a->items + *a->n_items * info->size;

        if (e.doc->scan.tokens[e.token].type != JSON_OBJECT) {
                config_error(l, e, "expected an object");
                return;
        }
        ++*a->n_items;
        seen->self = e;
        seen->index = index;
        for (size_t i = 0; i < info->n_keys; i++)
                (void)config_value_default(l, info->keys + i, item);
        if (a->place == PLACE_INSTANCE)
                start_instance(l, item);
        load_object(l, e, a->place, "", item, seen);
        check_required(l, a->place, seen);
        if (a->place == PLACE_INSTANCE)
                ((struct config_instance *)item)->where = config_where_of(&e);
        else if (a->place == PLACE_LISTEN)
                ((struct config_listen *)item)->where = config_where_of(&e);
        else if (a->place == PLACE_GROUP)
                ((struct config_group *)item)->where = config_where_of(&e);
        else
                ((struct config_hub *)item)->where = config_where_of(&e);
}

static int load_array(struct config_load *l, const struct array *a)
{
        const struct config_key *key = config_key_find(PLACE_TOP, a->name);
        size_t n = MIN(a->max, (size_t)key->max);
        unsigned index = 0;

        *a->items = calloc(n + 1, config_places[a->place].size);
        *a->seen = calloc(n + 1, sizeof **a->seen);
        if (!*a->items || !*a->seen)
                return -ENOMEM;
        for (size_t d = 0; d < l->n_docs; d++) {
                const struct json_token *tokens = l->docs[d].scan.tokens;
                struct config_spot at = {l->docs + d, 1};

                for (uint32_t i = 0; i < tokens[0].count; i++, at.token = tokens[at.token + 1].next) {
                        struct config_spot array = {at.doc, at.token + 1}, e = {at.doc, at.token + 2};
                        uint32_t end = tokens[array.token].next;
                        unsigned first = index;
                        size_t back;

                        if (!key_is(at.doc, at.token, a->name))
                                continue;
                        back = config_path_add(l, "%s", a->name);
                        if (tokens[array.token].type != JSON_ARRAY)
                                config_error(l, array, "expected an array of objects");
                        else if (index + tokens[array.token].count > n)
                                config_error(l, array, "has more than %.0f elements", key->max);
                        else
                                for (; e.token < end; e.token = tokens[e.token].next) {
                                        size_t deeper = config_path_add(l, "[%u]", index - first);

                                        load_element(l, e, index++ - first, a);
                                        config_path_back(l, deeper);
                                }
                        config_path_back(l, back);
                }
        }
        return 0;
}

/* When no file has a "listen", the default is one element. */
static int default_listen(struct config_load *l)
{
        if (l->config->n_listen || config_seen_has(l->top, PLACE_TOP, "listen"))
                return 0;
        l->config->listen[0].address = strdup("127.0.0.1:8077");
        if (!l->config->listen[0].address)
                return -ENOMEM;
        l->config->listen[0].where = (struct config_where){.file = l->config->files[0]};
        l->config->n_listen = 1;
        return 0;
}

static int load_arrays(struct config_load *l)
{
        struct config *c = l->config;
        const struct array arrays[] = {
                {PLACE_LISTEN, "listen", (void **)&c->listen, &c->n_listen, &l->listen, 0},
                {PLACE_INSTANCE, "instances", (void **)&c->instances, &c->n_instances, &l->instances, 0},
                {PLACE_GROUP, "groups", (void **)&c->groups, &c->n_groups, &l->groups, 0},
                {PLACE_HUB, "hubs", (void **)&c->hubs, &c->n_hubs, &l->hubs, 0},
        };
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
                struct array a = arrays[i];

                a.max = count_elements(l, a.name);
                r = load_array(l, &a);
                if (r < 0)
                        return r;
        }
        return default_listen(l);
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

static int load_all(struct config_load *l, const char *file)
{
        const struct config_place_info *top = config_places + PLACE_TOP;
        int r;

        if (!l->env->cwd && file[0] != '/')
                return -EINVAL; /* the caller's mistake: relative paths in it would start anywhere */
        l->config->file = config_path_join(l->env->cwd, file);
        l->docs = calloc(INCLUDES_MAX + 1, sizeof *l->docs);
        l->top = calloc(1, sizeof *l->top);
        if (!l->config->file || !l->docs || !l->top)
                return -ENOMEM;
        /* config->files grows while docs point at its strings, which stay where they are. */
        r = add_doc(l, file, (struct config_spot){0});
        if (r < 0 || l->problems->errors)
                return r;
        r = add_includes(l);
        if (r < 0 || l->problems->errors)
                return r; /* without every file, what is missing here may be there */

        for (size_t i = 0; i < top->n_keys; i++)
                (void)config_value_default(l, top->keys + i, l->config);
        l->top->self = (struct config_spot){l->docs, 0};
        for (size_t d = 0; d < l->n_docs; d++)
                load_object(l, (struct config_spot){l->docs + d, 0}, PLACE_TOP, "", l->config, l->top);
        r = load_arrays(l);
        if (r < 0)
                return r;
        config_check_all(l);
        return l->failed_memory ? -ENOMEM : 0;
}

static size_t doc_rank(const struct config *c, const char *file)
{
        size_t i = 0;

        while (c->files && c->files[i] && file && !streq(c->files[i], file))
                i++;
        return i;
}

static int compare_problems(const void *a, const void *b, void *arg)
{
        const struct config_problem *p = a, *q = b;
        size_t m = doc_rank(arg, p->file), n = doc_rank(arg, q->file);

        if (m != n)
                return m < n ? -1 : 1;
        if (p->line != q->line)
                return p->line < q->line ? -1 : 1;
        if (p->column != q->column)
                return p->column < q->column ? -1 : 1;
        return (int)p->warning - (int)q->warning;
}

static void load_finish(struct config_load *l)
{
        if (l->problems->list)
                qsort_r(l->problems->list, l->problems->count, sizeof *l->problems->list, compare_problems,
                        l->config);
        for (size_t i = 0; l->docs && i < l->n_docs; i++) {
                json_scan_finish(&l->docs[i].scan);
                free(l->docs[i].dir);
                free(l->docs[i].lines);
                free(l->docs[i].text);
        }
        free(l->docs);
        free(l->top);
        free(l->listen);
        free(l->instances);
        free(l->groups);
        free(l->hubs);
        buffer_finish(&l->path);
}

int config_load(const char *file, const struct config_env *env, struct config **ret,
                struct config_problems *problems)
{
        struct config_env recorded = *env;
        struct config_load l = {.env = &recorded, .problems = problems};
        int r;

        *problems = (struct config_problems){0};
        l.config = calloc(1, sizeof *l.config);
        if (!l.config)
                return -ENOMEM;
        buffer_init(&l.path, 4096);
        l.config->kept = config_kept_new(file, env);
        if (l.config->kept)
                config_kept_record(l.config->kept, env->files, &recorded);
        r = l.config->kept ? load_all(&l, file) : -ENOMEM;
        load_finish(&l);
        if (r == 0 && problems->errors)
                r = -EBADMSG;
        if (r < 0) {
                config_free(l.config);
                return r;
        }
        *ret = l.config;
        return 0;
}

int config_again(const struct config *c, struct config **ret, struct config_problems *problems)
{
        struct config_env env;

        *problems = (struct config_problems){0};
        if (!c->kept)
                return -ENOTSUP;
        if (!config_kept_is_whole(c->kept))
                return -ENOMEM;
        config_kept_replay(c->kept, &env);
        return config_load(config_kept_file(c->kept), &env, ret, problems);
}

/* --- one more entry --------------------------------------------------------------------------------------------- */

/* The object as the only document of a load of its own. */
static int add_text(struct config_load *l, const char *file, const char *text, size_t len)
{
        struct config_doc *doc = l->docs;
        struct json_error error;
        char **known = l->config->files;
        int r;

        while (known && *known && !streq(*known, file))
                known++;
        if (!known || !*known) {
                r = text_list_add(&l->config->files, file);
                if (r < 0)
                        return r;
                known = l->config->files + text_list_count(l->config->files) - 1;
        }
        *doc = (struct config_doc){
                .file = *known, .dir = strdup("/"), .text = strndup(text, len), .len = len};
        l->n_docs = 1;
        if (!doc->dir || !doc->text)
                return -ENOMEM;
        r = index_lines(doc);
        if (r < 0)
                return r;
        r = json_scan(&doc->scan, doc->text, doc->len, JSON_SCAN_DUPLICATES, 8192, &error);
        if (r == -EBADMSG)
                config_error_at(l, doc, error.offset, "%s", error.message);
        return r;
}

static int add_entry(struct config_load *l, const struct config_instance **ret_clash)
{
        struct config *c = l->config;
        size_t n = c->n_instances;
        const struct array a = {PLACE_INSTANCE,  "instances",   (void **)&c->instances,
                                &c->n_instances, &l->instances, n + 1};
        struct config_instance *grown = reallocarray(c->instances, n + 2, sizeof *grown);

        if (!grown)
                return -ENOMEM;
        c->instances = grown;
        memset(grown + n, 0, 2 * sizeof *grown);
        l->top = calloc(1, sizeof *l->top);
        l->instances = calloc(n + 2, sizeof *l->instances);
        if (!l->top || !l->instances)
                return -ENOMEM;
        load_element(l, (struct config_spot){l->docs, 0}, 0, &a);
        if (c->n_instances == n)
                return -EBADMSG; /* no object, which was told */
        c->instances[n].dynamic = true;
        if (!l->problems->errors && !l->failed_memory)
                *ret_clash = config_check_added(l, n);
        if (!l->problems->errors && !l->failed_memory)
                return 0;
        config_instance_finish(c->instances + n);
        c->n_instances--;
        return l->failed_memory ? -ENOMEM : -EBADMSG;
}

/* Whether the model is there is the caller's to know: nothing here touches a file. */
static int stat_as_file(void *owner, const char *path, struct file_facts *ret)
{
        (void)owner;
        (void)path;
        *ret = (struct file_facts){.mode = S_IFREG | 0600, .size = 1};
        return 0;
}

int config_add_entry(struct config *c, const char *file, const char *text, size_t len,
                     const struct config_instance **ret_clash, struct config_problems *problems)
{
        struct config_env env;
        struct config_load l = {.env = &env, .config = c, .problems = problems};
        struct file_ops files;
        int r;

        *problems = (struct config_problems){0};
        *ret_clash = NULL;
        if (!c->kept)
                return -ENOTSUP;
        if (c->n_instances >= CONFIG_INSTANCES_MAX)
                return -ENOSPC;
        config_kept_replay(c->kept, &env);
        files = *env.files;
        files.stat = stat_as_file;
        env.files = &files;
        buffer_init(&l.path, 4096);
        l.docs = calloc(1, sizeof *l.docs);
        r = l.docs ? add_text(&l, file, text, len) : -ENOMEM;
        if (r == 0)
                r = add_entry(&l, ret_clash);
        load_finish(&l);
        return r;
}

void config_problems_finish(struct config_problems *p)
{
        for (size_t i = 0; i < p->count; i++)
                problem_finish(p->list + i);
        free(p->list);
        *p = (struct config_problems){0};
}

char *config_problem_text(const struct config_problem *p)
{
        const char *kind = p->warning ? "warning: " : "";
        char at[32] = "";

        if (p->line)
                (void)snprintf(at, sizeof at, ":%u:%u", p->line, p->column);
        return text_format("%s%s: %s%s%s%s", p->file, at, p->path, *p->path ? ": " : "", kind, p->message);
}
