/* config.c: the configuration as a whole: freed, compared, printed, asked for names. */
#include "core/config.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "core/config_internal.h"

/* --- freeing ---------------------------------------------------------------------------------------------------- */

static void free_place(enum config_place place, void *base)
{
        const struct config_place_info *info = config_places + place;

        for (size_t i = 0; i < info->n_keys; i++)
                config_value_free(info->keys + i, base);
}

void config_instance_finish(struct config_instance *in)
{
        free_place(PLACE_INSTANCE, in);
        free(in->model_path);
}

struct config *config_free(struct config *c)
{
        if (!c)
                return NULL;
        for (size_t i = 0; c->listen && i < c->n_listen; i++)
                free_place(PLACE_LISTEN, c->listen + i);
        for (size_t i = 0; c->instances && i < c->n_instances; i++)
                config_instance_finish(c->instances + i);
        for (size_t i = 0; c->groups && i < c->n_groups; i++)
                free_place(PLACE_GROUP, c->groups + i);
        for (size_t i = 0; c->hubs && i < c->n_hubs; i++)
                free_place(PLACE_HUB, c->hubs + i);
        free_place(PLACE_TOP, c);
        free(c->listen);
        free(c->instances);
        free(c->groups);
        free(c->hubs);
        free(c->file);
        text_list_free(c->files);
        config_kept_free(c->kept);
        free(c);
        return NULL;
}

/* --- names ------------------------------------------------------------------------------------------------------ */

char *config_replica_name(const struct config_instance *in, unsigned i, unsigned of, char *buf, size_t size)
{
        /* Of a range the names stay when the second one comes. */
        if (of <= 1 && in->replicas_max <= 1)
                (void)snprintf(buf, size, "%s", in->name);
        else
                (void)snprintf(buf, size, "%s-%u", in->name, i);
        return buf;
}

double config_weight(const struct config_instance *in, unsigned i)
{
        return in->n_weights ? in->weights[MIN(i, in->n_weights - 1)] : 1;
}

double config_weight_most(const struct config_instance *in)
{
        double most = config_weight(in, 0);

        for (unsigned i = 1; i < in->n_weights; i++)
                most = MAX(most, in->weights[i]);
        return most;
}

const struct config_instance *config_find(const struct config *c, const char *name)
{
        for (size_t i = 0; i < c->n_instances; i++)
                if (streq(c->instances[i].name, name))
                        return c->instances + i;
        return NULL;
}

/* "qwen-1" of the entry "qwen", when that may have so many. */
static bool is_replica_name(const struct config_instance *in, const char *name)
{
        unsigned copies = in->replicas_per_gpu ? CONFIG_REPLICAS_MAX : MAX(in->replicas, in->replicas_max);
        char replica[CONFIG_NAME_MAX];

        if (copies <= 1 || !starts_with(name, in->name))
                return false;
        for (unsigned i = 0; i < copies; i++)
                if (streq(config_replica_name(in, i, copies, replica, sizeof replica), name))
                        return true;
        return false;
}

const struct config_instance *config_find_taken(const struct config *c, const char *name)
{
        for (size_t i = 0; i < c->n_instances; i++) {
                const struct config_instance *in = c->instances + i;

                if (streq(in->name, name) || is_replica_name(in, name))
                        return in;
                for (char *const *a = in->aliases; a && *a; a++)
                        if (streq(*a, name))
                                return in;
        }
        return NULL;
}

/* --- comparing -------------------------------------------------------------------------------------------------- */

/* What follows from several keys is compared beside the rows: the same "model" is another file in another models_dir. */
static bool derived_equal(const struct config_instance *a, const struct config_instance *b)
{
        return a->model_kind == b->model_kind && streq_ptr(a->model_path, b->model_path);
}

/* What is inherited is part of an instance's effective values, so its own rows show a change of it. */
static bool rows_equal(const struct config_instance *a, const struct config_instance *b, bool restart_only)
{
        const struct config_place_info *info = config_places + PLACE_INSTANCE;

        for (size_t i = 0; i < info->n_keys; i++)
                if (restart_only && streq(info->keys[i].path, "model"))
                        continue; /* another spelling of one path is no other model */
                else if ((!restart_only || (info->keys[i].flags & KEY_RESTART)) &&
                         !config_value_equal(info->keys + i, a, b))
                        return false;
        return derived_equal(a, b);
}

bool config_instance_same(const struct config_instance *a, const struct config_instance *b)
{
        return rows_equal(a, b, false);
}

bool config_instance_needs_restart(const struct config_instance *a, const struct config_instance *b)
{
        return !rows_equal(a, b, true);
}

int config_instance_changes(const struct config_instance *a, const struct config_instance *b, char ***ret)
{
        const struct config_place_info *info = config_places + PLACE_INSTANCE;
        char **list = calloc(1, sizeof *list);
        bool model = false;
        int r = list ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < info->n_keys; i++)
                if (!config_value_equal(info->keys + i, a, b)) {
                        model |= streq(info->keys[i].path, "model");
                        r = text_list_add(&list, info->keys[i].path);
                }
        if (r == 0 && !model && !derived_equal(a, b))
                r = text_list_add(&list, "models_dir");
        if (r < 0) {
                text_list_free(list);
                return r;
        }
        *ret = list;
        return 0;
}

static bool listen_equal(const struct config *a, const struct config *b)
{
        if (a->n_listen != b->n_listen)
                return false;
        for (size_t i = 0; i < a->n_listen; i++)
                if (!streq(a->listen[i].address, b->listen[i].address))
                        return false;
        return true;
}

/* Which rows of an element count. */
enum rows { ROWS_ALL, ROWS_RESTART, ROWS_RELOAD };

static bool elements_equal(enum config_place place, enum rows rows, const void *a, size_t n_a, const void *b,
                           size_t n_b)
{
        const struct config_place_info *info = config_places + place;
        const char *x = a, *y = b;

        if (n_a != n_b)
                return false;
        for (size_t i = 0; i < n_a; i++)
                for (size_t k = 0; k < info->n_keys; k++) {
                        bool restart = info->keys[k].flags & KEY_RESTART;

                        if (rows != ROWS_ALL && restart != (rows == ROWS_RESTART))
                                continue;
                        if (!config_value_equal(info->keys + k, x + i * info->size, y + i * info->size))
                                return false;
                }
        return true;
}

/* Some keys of a hub are taken as they come, as long as it is the same hub. */
static bool hubs_equal(const struct config *a, const struct config *b, enum rows rows)
{
        if (rows == ROWS_RELOAD && !hubs_equal(a, b, ROWS_RESTART))
                return true;
        return elements_equal(PLACE_HUB, rows, a->hubs, a->n_hubs, b->hubs, b->n_hubs);
}

static bool top_equal(const struct config_key *key, const struct config *a, const struct config *b)
{
        if (key->type != TYPE_OBJECTS)
                return config_value_equal(key, a, b);
        switch (key->element) {
        case PLACE_LISTEN:
                return listen_equal(a, b);
        case PLACE_GROUP:
                return elements_equal(PLACE_GROUP, ROWS_ALL, a->groups, a->n_groups, b->groups, b->n_groups);
        default:
                return true; /* instances are compared one by one */
        }
}

int config_changes(const struct config *a, const struct config *b, bool restart, char ***ret)
{
        const struct config_place_info *info = config_places + PLACE_TOP;
        char **list = calloc(1, sizeof *list);
        int r = list ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < info->n_keys; i++) {
                const struct config_key *key = info->keys + i;

                bool is_hubs = key->type == TYPE_OBJECTS && key->element == PLACE_HUB;

                if ((key->flags & KEY_INHERITED) || (!is_hubs && restart != !!(key->flags & KEY_RESTART)))
                        continue;
                if (is_hubs ? !hubs_equal(a, b, restart ? ROWS_RESTART : ROWS_RELOAD) : !top_equal(key, a, b))
                        r = text_list_add(&list, key->path);
        }
        if (r < 0) {
                text_list_free(list);
                return r;
        }
        *ret = list;
        return 0;
}

/* --- digest ----------------------------------------------------------------------------------------------------- */

/* FNV-1a, 64 bit. */
static uint64_t hash(uint64_t h, const char *s)
{
        for (; s && *s; s++)
                h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
        return (h ^ 0xff) * UINT64_C(0x100000001b3); /* so that "a","b" is not "ab","" */
}
#define HASH_START UINT64_C(0xcbf29ce484222325)

/* The hash of one row, 0 when it stands at its default: a key that a later version adds changes no digest. */
static uint64_t row_digest(const struct config_key *key, const struct config_instance *in)
{
        char *const *list;
        _cleanup_buffer_ struct buffer value;
        uint64_t h = hash(HASH_START, key->path);
        struct json_writer w;

        buffer_init(&value, 0);
        if (key->type == TYPE_ENV || key->type == TYPE_STRINGS) { /* printing would mask secrets */
                list = *(char **const *)(const void *)((const char *)in + key->offset);
                for (size_t i = 0; list && list[i]; i++)
                        h = hash(h, list[i]);
                return list && list[0] ? h : 0;
        }
        json_begin(&w, &value);
        if (!config_value_print(key, in, &w) || !value.data || streq_ptr(value.data, key->fallback))
                return 0;
        h = hash(h, value.data);
        if (key->type == TYPE_SECRET_FILE && key->content)
                h = hash(h, *(char *const *)(const void *)((const char *)in + key->content));
        return h;
}

char *config_instance_digest(const struct config_instance *in, char buf[CONFIG_DIGEST_MAX])
{
        const struct config_place_info *info = config_places + PLACE_INSTANCE;
        uint64_t sum = hash(hash(HASH_START, "model_path"), in->model_path);

        /* A sum, so that the order of the rows does not matter. */
        for (size_t i = 0; i < info->n_keys; i++)
                if ((info->keys[i].flags & KEY_RESTART) && !streq(info->keys[i].path, "model"))
                        sum += row_digest(info->keys + i, in);
        (void)snprintf(buf, CONFIG_DIGEST_MAX, "%016" PRIx64, sum);
        return buf;
}

/* --- printing --------------------------------------------------------------------------------------------------- */

static void print_place(struct json_writer *w, enum config_place place, const void *base,
                        const struct config *c);

static void print_array(struct json_writer *w, enum config_place place, const struct config *c)
{
        const char *items = place == PLACE_LISTEN  ? (const char *)c->listen
                            : place == PLACE_GROUP ? (const char *)c->groups
                            : place == PLACE_HUB   ? (const char *)c->hubs
                                                   : (const char *)c->instances;
        size_t n = place == PLACE_LISTEN  ? c->n_listen
                   : place == PLACE_GROUP ? c->n_groups
                   : place == PLACE_HUB   ? c->n_hubs
                                          : c->n_instances;

        json_open_array(w);
        for (size_t i = 0; i < n; i++) {
                json_open_object(w);
                print_place(w, place, items + i * config_places[place].size, c);
                json_close_object(w);
        }
        json_close_array(w);
}

static void take_back(struct buffer *b, size_t len)
{
        b->len = len;
        if (b->data)
                b->data[len] = '\0';
}

/* A printed member, or nothing when the value is unset; the key is put first and taken back. */
static bool print_member(struct json_writer *w, const struct config_key *key, const char *name,
                         const void *base)
{
        struct json_writer before = *w;
        size_t len = w->out->len;

        json_key(w, name);
        if (config_value_print(key, base, w))
                return true;
        *w = before;
        take_back(w->out, len);
        return false;
}

/* Whether the key means anything for this instance. */
static bool is_of(const struct config_key *key, const struct config_instance *in)
{
        return !((key->flags & KEY_SPAWN) && in->adopt_text) &&
               !((key->flags & KEY_RANGE) && !in->replicas_max);
}

/* The rows directly below prefix; groups by calling itself. A group without members is left out. */
static void print_rows(struct json_writer *w, enum config_place place, const char *prefix, const void *base,
                       const struct config *c)
{
        const struct config_place_info *info = config_places + place;
        size_t len = strlen(prefix);

        for (size_t i = 0; i < info->n_keys; i++) {
                const struct config_key *key = info->keys + i;
                const char *name = key->path + len;
                char below[64];
                struct json_writer before = *w;
                size_t begin = w->out->len, empty;

                if (!starts_with(key->path, prefix) || strchr(name, '.'))
                        continue;
                if (place == PLACE_INSTANCE && !is_of(key, base))
                        continue;
                if (key->type == TYPE_OBJECTS) {
                        json_key(w, name);
                        print_array(w, key->element, c);
                } else if (key->type != TYPE_GROUP) {
                        (void)print_member(w, key, name, base);
                } else if (!(key->flags & KEY_PRESENT) || *((const bool *)base + key->offset)) {
                        json_key(w, name);
                        json_open_object(w);
                        empty = w->out->len;
                        (void)snprintf(below, sizeof below, "%s.", key->path);
                        print_rows(w, place, below, base, c);
                        json_close_object(w);
                        if (w->out->len == empty + 1) {
                                *w = before;
                                take_back(w->out, begin);
                        }
                }
        }
}

static void print_place(struct json_writer *w, enum config_place place, const void *base,
                        const struct config *c)
{
        print_rows(w, place, "", base, c);
}

static char *indented(struct buffer *b)
{
        struct json_value *v;
        char *text;

        if (b->failed || json_parse(b->data, b->len, &v, NULL) < 0)
                return NULL;
        text = json_print(v, true);
        json_free(v);
        return text;
}

char *config_print(const struct config *c)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        print_place(&w, PLACE_TOP, c, c);
        json_close_object(&w);
        return indented(&b);
}

static const char *type_name(enum config_type type)
{
        static const char *const names[] = {
                [TYPE_GROUP] = "object",      [TYPE_OBJECTS] = "array of objects",
                [TYPE_BOOL] = "boolean",      [TYPE_UNSIGNED] = "integer",
                [TYPE_INT] = "integer",       [TYPE_NUMBER] = "number",
                [TYPE_DURATION] = "duration", [TYPE_SIZE] = "size",
                [TYPE_STRING] = "string",     [TYPE_PATH] = "path",
                [TYPE_PROGRAM] = "program",   [TYPE_SECRET_FILE] = "secret file",
                [TYPE_STRINGS] = "strings",   [TYPE_ENV] = "environment",
                [TYPE_CHOICE] = "word",       [TYPE_FLAGS] = "words",
                [TYPE_REPLICAS] = "replicas", [TYPE_GPU] = "gpu",
                [TYPE_EITHER] = "word",       [TYPE_JSON] = "json object",
                [TYPE_WEIGHTS] = "weights",
        };

        return names[type];
}

static void print_bound(struct json_writer *w, const struct config_key *key, const char *name, double v)
{
        char buf[CONFIG_NUMBER_MAX];

        json_key(w, name);
        if (key->type == TYPE_DURATION) {
                json_put_string(w, config_duration_text((usec_t)v, buf, sizeof buf));
        } else if (key->type == TYPE_SIZE) {
                json_put_string(w, config_size_text((uint64_t)v, buf, sizeof buf));
        } else {
                (void)snprintf(buf, sizeof buf, "%.12g", v);
                json_put_raw(w, buf, strlen(buf));
        }
}

static void print_key(struct json_writer *w, const struct config_place_info *info,
                      const struct config_key *key)
{
        _cleanup_free_ char *path = text_format("%s%s", info->prefix, key->path);

        json_open_object(w);
        json_string(w, "path", path);
        json_string(w, "type", type_name(key->type));
        json_key(w, "default");
        json_put_raw(w, key->fallback ? key->fallback : "null",
                     strlen(key->fallback ? key->fallback : "null"));
        if (key->max > 0) {
                print_bound(w, key, "min", key->min);
                print_bound(w, key, "max", key->max);
        }
        if (key->choices) {
                json_key(w, "words");
                json_open_array(w);
                for (const struct config_choice *c = key->choices; c->word; c++)
                        json_put_string(w, c->word);
                json_close_array(w);
        }
        json_string(w, "change", key->flags & KEY_RESTART ? "restart" : "reload");
        json_string(w, "built",
                    key->flags & KEY_REFUSED   ? "refused"
                    : key->flags & KEY_UNBUILT ? "no effect"
                                               : "yes");
        json_bool(w, "required", key->flags & KEY_REQUIRED);
        json_bool(w, "inherits", key->flags & KEY_INHERITS);
        json_bool(w, "inherited", key->flags & KEY_INHERITED);
        json_bool(w, "spawn", key->flags & KEY_SPAWN);
        json_string(w, "help", key->help);
        json_close_object(w);
}

char *config_print_keys(void)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_array(&w);
        for (size_t p = 0; p < PLACE_COUNT; p++)
                for (size_t i = 0; i < config_places[p].n_keys; i++)
                        print_key(&w, config_places + p, config_places[p].keys + i);
        json_close_array(&w);
        return indented(&b);
}

bool config_spool_is_on(const struct config *c)
{
        return c->spool.enabled == CONFIG_SPOOL_ON ||
               (c->spool.enabled == CONFIG_SPOOL_AUTO && c->n_hubs == 0);
}
