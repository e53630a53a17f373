/* params.c: queries and small bodies. */
#include "http/params.h"

#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "base/text.h"
#include "core/http1_uri.h"

int param_text(struct slice query, const char *name, char *buf, size_t buf_size, const char **ret, char *why,
               size_t size)
{
        int r = http1_query_get(query, name, buf, buf_size);

        if (r < 0 && r != -ENOENT) {
                (void)snprintf(why, size, "query parameter \"%s\" %s", name,
                               r == -ENOBUFS ? "is too long" : "is malformed, or there twice");
                return -EINVAL;
        }
        *ret = r == -ENOENT ? NULL : buf;
        return 0;
}

static int parse_uint(const char *text, uint64_t *ret)
{
        uint64_t v = 0;

        if (text[0] == '\0')
                return -EINVAL;
        for (; *text; text++) {
                if (*text < '0' || *text > '9' || __builtin_mul_overflow(v, UINT64_C(10), &v) ||
                    __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
                        return -EINVAL;
        }
        *ret = v;
        return 0;
}

int param_uint(struct slice query, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
               uint64_t *ret, char *why, size_t size)
{
        const char *text;
        uint64_t v;
        char buf[32];
        int r = param_text(query, name, buf, sizeof(buf), &text, why, size);

        if (r < 0)
                return r;
        if (!text) {
                *ret = fallback;
                return 0;
        }
        if (parse_uint(text, &v) < 0 || v < min || v > max) {
                (void)snprintf(why, size, "query parameter \"%s\" must be a number from %llu to %llu", name,
                               (unsigned long long)min, (unsigned long long)max);
                return -EINVAL;
        }
        *ret = v;
        return 0;
}

int param_bool(struct slice query, const char *name, bool *ret, char *why, size_t size)
{
        const char *text;
        char buf[16];
        int r = param_text(query, name, buf, sizeof(buf), &text, why, size);

        if (r < 0)
                return r;
        if (!text || streq(text, "0") || streq(text, "false")) {
                *ret = false;
                return 0;
        }
        if (text[0] == '\0' || streq(text, "1") || streq(text, "true")) {
                *ret = true;
                return 0;
        }
        (void)snprintf(why, size, "query parameter \"%s\" must be 1 or 0", name);
        return -EINVAL;
}

static void note_first_key(void *owner, const char *key, struct json_value *v)
{
        const char **first = owner;

        (void)v;
        if (!*first)
                *first = key;
}

static int check_object(const struct json_value *v, char *why, size_t size)
{
        const char *key = NULL;

        if (!json_is_object(v)) {
                (void)snprintf(why, size, "the body must be an object, or nothing");
                return -EBADMSG;
        }
        json_each(v, note_first_key, &key);
        if (!key)
                return 0;
        (void)snprintf(why, size, "unknown key \"%.64s\" in the body", key);
        return -EBADMSG;
}

int order_check_body(const char *body, size_t len, char *why, size_t size)
{
        struct json_error e = {0};
        struct json_value *v;
        int r;

        if (len == 0)
                return 0;
        r = json_parse(body, len, &v, &e);
        if (r == -EBADMSG)
                (void)snprintf(why, size, "the body is not JSON: %s at byte %zu", e.message, e.offset);
        else if (r < 0)
                (void)snprintf(why, size, "not enough memory to read the body");
        if (r < 0)
                return r;
        r = check_object(v, why, size);
        json_free(v);
        return r;
}
