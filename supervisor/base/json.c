/* json.c: JSON in: the strict check, then json-c. The only file that knows json-c. */
/* json-c has a type named json_bool, our writer a function of that name: inside this file the type is renamed. */
#define json_bool json_c_bool
#include <json-c/json.h>
#undef json_bool

#include "base/json.h"

#include <errno.h>
#include <limits.h>
#include <math.h>

#include "base/macros.h"

static struct json_object *as_c(const struct json_value *v)
{
        return (struct json_object *)(uintptr_t)v; /* json-c's getters do not write, but not all say const */
}

static struct json_value *from_c(struct json_object *o)
{
        return (struct json_value *)o;
}

int json_parse(const char *text, size_t len, struct json_value **ret, struct json_error *ret_error)
{
        struct json_tokener *tokener;
        struct json_object *o;
        bool done;
        int r;

        if (len > INT_MAX) {
                if (ret_error)
                        *ret_error = (struct json_error){.message = "text too long"};
                return -EBADMSG;
        }
        r = json_check(text, len, ret_error);
        if (r < 0)
                return r;
        /* json-c counts one level more than there are brackets. */
        tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 2);
        if (!tokener)
                return -ENOMEM;
        /* Not JSON_TOKENER_STRICT: json_check is stricter already, but for one thing: since 0.17 it refuses integers
         * beyond 64 bits, which the grammar allows and json-c otherwise brings to the nearest it has. */
        o = json_tokener_parse_ex(tokener, text, (int)len);
        /* A bare number at the end of the text could go on: json-c wants to hear that it does not. */
        if (json_tokener_get_error(tokener) == json_tokener_continue)
                o = json_tokener_parse_ex(tokener, " ", 1);
        done = json_tokener_get_error(tokener) == json_tokener_success;
        json_tokener_free(tokener);
        if (!done)
                return -ENOMEM; /* the grammar has been checked: nothing else is left to fail */
        /* json-c says NULL for `null`; a root of ours must be told from nothing only by json_parse's 0. */
        *ret = from_c(o);
        return 0;
}

struct json_value *json_free(struct json_value *root)
{
        (void)json_object_put(as_c(root));
        return NULL;
}

struct json_value *json_get(const struct json_value *object, const char *key)
{
        struct json_object *o;

        if (!json_is_object(object) || !json_object_object_get_ex(as_c(object), key, &o))
                return NULL;
        return from_c(o);
}

struct json_value *json_at(const struct json_value *array, size_t i)
{
        if (i >= json_count(array))
                return NULL;
        return from_c(json_object_array_get_idx(as_c(array), i));
}

size_t json_count(const struct json_value *array)
{
        return json_is_array(array) ? json_object_array_length(as_c(array)) : 0;
}

const char *json_get_string(const struct json_value *object, const char *key)
{
        return json_as_string(json_get(object, key));
}

int64_t json_get_int(const struct json_value *object, const char *key, int64_t fallback)
{
        struct json_object *o = as_c(json_get(object, key));
        double d;

        if (json_object_is_type(o, json_type_int))
                return json_object_get_int64(o);
        if (!json_object_is_type(o, json_type_double))
                return fallback;
        d = json_object_get_double(o);
        /* 1e3 and 2.0 are whole numbers too; the bounds are the doubles that int64_t surely holds. */
        return d >= -0x1p62 && d <= 0x1p62 && d == floor(d) ? (int64_t)d : fallback;
}

double json_get_double(const struct json_value *object, const char *key, double fallback)
{
        struct json_object *o = as_c(json_get(object, key));
        double d;

        if (!json_object_is_type(o, json_type_int) && !json_object_is_type(o, json_type_double))
                return fallback;
        d = json_object_get_double(o);
        return isfinite(d) ? d : fallback;
}

bool json_get_bool(const struct json_value *object, const char *key, bool fallback)
{
        struct json_object *o = as_c(json_get(object, key));

        return json_object_is_type(o, json_type_boolean) ? json_object_get_boolean(o) != 0 : fallback;
}

const char *json_as_string(const struct json_value *v)
{
        struct json_object *o = as_c(v);
        const char *s;

        if (!json_object_is_type(o, json_type_string))
                return NULL;
        s = json_object_get_string(o);
        /* A NUL inside would let two readers of one string disagree about it. */
        return s && strlen(s) == (size_t)json_object_get_string_len(o) ? s : NULL;
}

bool json_is_object(const struct json_value *v)
{
        return json_object_is_type(as_c(v), json_type_object) != 0;
}

bool json_is_array(const struct json_value *v)
{
        return json_object_is_type(as_c(v), json_type_array) != 0;
}

bool json_is_null(const struct json_value *v)
{
        return !v;
}

void json_each(const struct json_value *object,
               void (*fn)(void *owner, const char *key, struct json_value *v), void *owner)
{
        if (!json_is_object(object))
                return;
        json_object_object_foreach(as_c(object), key, value) fn(owner, key, from_c(value));
}

char *json_print(const struct json_value *v, bool pretty)
{
        int flags = JSON_C_TO_STRING_NOSLASHESCAPE |
                    (pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED : JSON_C_TO_STRING_PLAIN);

        const char *s = v ? json_object_to_json_string_ext(as_c(v), flags) : "null";

        return s ? strdup(s) : NULL;
}
