/* config_show.c: values of each type printed, compared and freed; the effective configuration and the table as JSON; what
 * differs between two configurations. */
#include "core/config_internal.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/text.h"

#define CONST_FIELD(type, base, offset) ((type const *)(const void *)((const char *)(base) + (offset)))

/* --- one value -------------------------------------------------------------------------------------------------- */

char *config_duration_text(usec_t v, char *buf, size_t size)
{
        static const struct {
                const char *unit;
                usec_t usec;
        } units[] = {{"d", 24 * USEC_PER_HOUR},
                     {"h", USEC_PER_HOUR},
                     {"m", USEC_PER_MIN},
                     {"s", USEC_PER_SEC},
                     {"ms", USEC_PER_MSEC}};

        /* One day is shown as the hours that people write. */
        for (size_t i = 0; i < ARRAY_SIZE(units); i++)
                if (v >= units[i].usec && v % units[i].usec == 0 && (v >= 2 * units[i].usec || i > 0)) {
                        (void)snprintf(buf, size, "%" PRIu64 "%s", v / units[i].usec, units[i].unit);
                        return buf;
                }
        (void)snprintf(buf, size, v ? "%" PRIu64 "us" : "%" PRIu64 "s", v);
        return buf;
}

char *config_size_text(uint64_t v, char *buf, size_t size)
{
        static const char units[] = "TGMK";

        for (size_t i = 0; i < 4; i++) {
                uint64_t unit = UINT64_C(1) << (10 * (4 - i));

                if (v >= unit && v % unit == 0) {
                        (void)snprintf(buf, size, "%" PRIu64 "%c", v / unit, units[i]);
                        return buf;
                }
        }
        (void)snprintf(buf, size, "%" PRIu64, v);
        return buf;
}

static void free_weights(struct config_instance *in)
{
        free(in->weights);
        in->weights = NULL;
        in->n_weights = 0;
}

void config_value_free(const struct config_key *key, void *base)
{
        char **s;

        switch (key->type) {
        case TYPE_SECRET_FILE:
                s = key->content ? CONFIG_FIELD(char *, base, key->content) : NULL;
                if (s && *s) {
                        explicit_bzero(*s, strlen(*s));
                        free(*s);
                        *s = NULL;
                }
                /* fallthrough */
        case TYPE_STRING:
        case TYPE_PATH:
        case TYPE_PROGRAM:
        case TYPE_JSON:
                s = CONFIG_FIELD(char *, base, key->offset);
                free(*s);
                *s = NULL;
                break;
        case TYPE_STRINGS:
        case TYPE_ENV:
        case TYPE_GPU:
                *CONFIG_FIELD(char **, base, key->offset) =
                        text_list_free(*CONFIG_FIELD(char **, base, key->offset));
                break;
        case TYPE_WEIGHTS:
                free_weights(base);
                break;
        default:
                break;
        }
}

static void print_strings(char *const *list, bool numbers, struct json_writer *w)
{
        json_open_array(w);
        for (size_t i = 0; list && list[i]; i++)
                if (numbers)
                        json_put_raw(w, list[i], strlen(list[i]));
                else
                        json_put_string(w, list[i]);
        json_close_array(w);
}

static bool looks_secret(const char *name)
{
        static const char *const parts[] = {"TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL"};

        for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
                if (strcasestr(name, parts[i]))
                        return true;
        return false;
}

static void print_env(char *const *list, struct json_writer *w)
{
        json_open_object(w);
        for (size_t i = 0; list && list[i]; i++) {
                size_t n = strcspn(list[i], "=");
                char name[256]; /* no longer one is accepted */

                (void)snprintf(name, sizeof name, "%.*s", (int)n, list[i]);
                json_string(w, name, looks_secret(name) ? "***" : list[i] + n + 1);
        }
        json_close_object(w);
}

static void print_number(double v, struct json_writer *w)
{
        char buf[CONFIG_NUMBER_MAX];

        (void)snprintf(buf, sizeof buf, "%.12g", v);
        json_put_raw(w, buf, strlen(buf));
}

static bool same_number(double a, double b)
{
        return fabs(a - b) < 1e-12;
}

static bool same_weights(const struct config_instance *a, const struct config_instance *b)
{
        for (unsigned i = 0; i < MAX(a->n_weights, b->n_weights); i++)
                if (!same_number(config_weight(a, i), config_weight(b, i)))
                        return false;
        return true;
}

static void print_replicas(const struct config_instance *in, struct json_writer *w)
{
        if (in->replicas_per_gpu) {
                json_put_string(w, "per-gpu");
        } else if (in->replicas_max) {
                json_open_object(w);
                json_uint(w, "min", in->replicas);
                json_uint(w, "max", in->replicas_max);
                json_close_object(w);
        } else {
                json_put_uint(w, in->replicas);
        }
}

static void print_weights(const struct config_instance *in, struct json_writer *w)
{
        if (in->n_weights <= 1) {
                print_number(config_weight(in, 0), w);
                return;
        }
        json_open_array(w);
        for (unsigned i = 0; i < in->n_weights; i++)
                print_number(in->weights[i], w);
        json_close_array(w);
}

static void print_gpu(const struct config_instance *in, struct json_writer *w)
{
        if (in->gpu_mode == CONFIG_GPU_LIST)
                print_strings(in->gpu, in->gpu && in->gpu[0] && isdigit((unsigned char)in->gpu[0][0]), w);
        else
                json_put_string(w, in->gpu_mode == CONFIG_GPU_NONE ? "none" : "auto");
}

static void print_unsigned(const struct config_key *key, unsigned v, struct json_writer *w)
{
        const char *word = key->choices ? config_choice_word(key->choices, (int)v) : NULL;

        if (word)
                json_put_string(w, word);
        else
                json_put_uint(w, v);
}

/* A number that was not given and has no default is 0. */
static bool is_unset(const struct config_key *key, const void *base)
{
        if (key->fallback || (key->flags & KEY_INHERITS))
                return false;
        switch (key->type) {
        case TYPE_UNSIGNED:
                return *CONST_FIELD(unsigned, base, key->offset) == 0;
        case TYPE_NUMBER:
                return *CONST_FIELD(double, base, key->offset) <= 0;
        case TYPE_SIZE:
                return *CONST_FIELD(uint64_t, base, key->offset) == 0;
        case TYPE_STRING:
        case TYPE_PATH:
        case TYPE_PROGRAM:
        case TYPE_SECRET_FILE:
        case TYPE_JSON:
                return !*CONST_FIELD(char *, base, key->offset);
        default:
                return false;
        }
}

bool config_value_print(const struct config_key *key, const void *base, struct json_writer *w)
{
        char buf[CONFIG_NUMBER_MAX];
        unsigned bits;

        if (is_unset(key, base))
                return false;
        switch (key->type) {
        case TYPE_GROUP:
        case TYPE_OBJECTS:
                return false;
        case TYPE_BOOL:
                json_put_bool(w, *CONST_FIELD(bool, base, key->offset));
                break;
        case TYPE_EITHER:
                json_put_string(w, config_choice_word(key->choices, *CONST_FIELD(bool, base, key->offset)));
                break;
        case TYPE_UNSIGNED:
                print_unsigned(key, *CONST_FIELD(unsigned, base, key->offset), w);
                break;
        case TYPE_INT:
                json_put_int(w, *CONST_FIELD(int, base, key->offset));
                break;
        case TYPE_NUMBER:
                print_number(*CONST_FIELD(double, base, key->offset), w);
                break;
        case TYPE_DURATION:
                json_put_string(
                        w, config_duration_text(*CONST_FIELD(usec_t, base, key->offset), buf, sizeof buf));
                break;
        case TYPE_SIZE:
                json_put_string(w,
                                config_size_text(*CONST_FIELD(uint64_t, base, key->offset), buf, sizeof buf));
                break;
        case TYPE_STRING:
        case TYPE_PATH:
        case TYPE_PROGRAM:
        case TYPE_SECRET_FILE:
                json_put_string(w, *CONST_FIELD(char *, base, key->offset));
                break;
        case TYPE_STRINGS:
                print_strings(*CONST_FIELD(char **, base, key->offset), false, w);
                break;
        case TYPE_ENV:
                print_env(*CONST_FIELD(char **, base, key->offset), w);
                break;
        case TYPE_CHOICE:
                json_put_string(w, config_choice_word(key->choices, *CONST_FIELD(int, base, key->offset)));
                break;
        case TYPE_FLAGS:
                bits = *CONST_FIELD(unsigned, base, key->offset);
                json_open_array(w);
                for (const struct config_choice *c = key->choices; c->word; c++)
                        if (bits & (unsigned)c->value)
                                json_put_string(w, c->word);
                json_close_array(w);
                break;
        case TYPE_JSON:
                json_put_raw(w, *CONST_FIELD(char *, base, key->offset),
                             strlen(*CONST_FIELD(char *, base, key->offset)));
                break;
        case TYPE_REPLICAS:
                print_replicas(base, w);
                break;
        case TYPE_WEIGHTS:
                print_weights(base, w);
                break;
        case TYPE_GPU:
                print_gpu(base, w);
                break;
        }
        return true;
}

bool config_value_equal(const struct config_key *key, const void *a, const void *b)
{
        const struct config_instance *x, *y;

        switch (key->type) {
        case TYPE_GROUP:
                return !(key->flags & KEY_PRESENT) ||
                       *CONST_FIELD(bool, a, key->offset) == *CONST_FIELD(bool, b, key->offset);
        case TYPE_OBJECTS:
                return true;
        case TYPE_BOOL:
        case TYPE_EITHER:
                return *CONST_FIELD(bool, a, key->offset) == *CONST_FIELD(bool, b, key->offset);
        case TYPE_UNSIGNED:
        case TYPE_FLAGS:
        case TYPE_INT:
        case TYPE_CHOICE:
                return *CONST_FIELD(int, a, key->offset) == *CONST_FIELD(int, b, key->offset);
        case TYPE_NUMBER:
                return same_number(*CONST_FIELD(double, a, key->offset),
                                   *CONST_FIELD(double, b, key->offset));
        case TYPE_DURATION:
        case TYPE_SIZE:
                return *CONST_FIELD(uint64_t, a, key->offset) == *CONST_FIELD(uint64_t, b, key->offset);
        case TYPE_SECRET_FILE:
                if (key->content &&
                    !streq_ptr(*CONST_FIELD(char *, a, key->content), *CONST_FIELD(char *, b, key->content)))
                        return false;
                /* fallthrough */
        case TYPE_STRING:
        case TYPE_PATH:
        case TYPE_PROGRAM:
        case TYPE_JSON:
                return streq_ptr(*CONST_FIELD(char *, a, key->offset), *CONST_FIELD(char *, b, key->offset));
        case TYPE_STRINGS:
        case TYPE_ENV:
                return text_list_equal(*CONST_FIELD(char **, a, key->offset),
                                       *CONST_FIELD(char **, b, key->offset));
        case TYPE_REPLICAS:
                x = a, y = b;
                return x->replicas == y->replicas && x->replicas_max == y->replicas_max &&
                       x->replicas_per_gpu == y->replicas_per_gpu;
        case TYPE_WEIGHTS:
                return same_weights(a, b);
        case TYPE_GPU:
                x = a, y = b;
                return x->gpu_mode == y->gpu_mode && text_list_equal(x->gpu, y->gpu);
        }
        return false;
}
