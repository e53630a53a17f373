/* json.h: JSON out by a streaming writer, JSON in by json-c behind a strict check (RFC 8259).
 *
 * Out: struct json_writer puts commas, quotes and escapes; broken UTF-8 and control bytes in strings are made harmless
 * (U+FFFD, \u00XX). Errors of the buffer show in buffer.failed at the end.
 * In: json_check() refuses what json-c would let pass ('a', NaN, trailing commas, duplicate keys, depth above 64,
 * broken UTF-8); json_parse() checks, then gives json-c's value, which only json_*() of this header touch.
 * Source: RFC 8259. */
#ifndef LSV_BASE_JSON_H
#define LSV_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

struct json_writer {
        struct buffer *out;
        bool need_comma;
};

void json_begin(struct json_writer *w, struct buffer *out);
void json_open_object(struct json_writer *w);
void json_close_object(struct json_writer *w);
void json_open_array(struct json_writer *w);
void json_close_array(struct json_writer *w);
void json_key(struct json_writer *w, const char *key);
void json_put_string(struct json_writer *w, const char *s); /* NULL becomes null */
void json_put_string_n(struct json_writer *w, const char *s, size_t len);
void json_put_int(struct json_writer *w, int64_t v);
void json_put_uint(struct json_writer *w, uint64_t v);
void json_put_double(struct json_writer *w, double v, int decimals); /* not finite becomes null */
void json_put_bool(struct json_writer *w, bool v);
void json_put_null(struct json_writer *w);
void json_put_raw(struct json_writer *w, const char *json, size_t len); /* already JSON */

/* One member of an object: key and value. */
void json_string(struct json_writer *w, const char *key, const char *s);
void json_int(struct json_writer *w, const char *key, int64_t v);
void json_uint(struct json_writer *w, const char *key, uint64_t v);
void json_double(struct json_writer *w, const char *key, double v, int decimals);
void json_bool(struct json_writer *w, const char *key, bool v);
void json_null(struct json_writer *w, const char *key);

/* --- in ------------------------------------------------------------------------------------------------------- */

#define JSON_DEPTH_MAX 64

struct json_error {
        size_t offset;       /* byte where it went wrong */
        const char *message; /* static text: "expected ',' or '}'", "duplicate key", … */
};

/* 0, or -EBADMSG with *ret_error filled in (ret_error may be NULL), -ENOMEM. */
int json_check(const char *text, size_t len, struct json_error *ret_error);

struct json_value; /* a json-c object; the root is owned by the caller, children by their parents */
int json_parse(const char *text, size_t len, struct json_value **ret, struct json_error *ret_error);
struct json_value *json_free(struct json_value *root); /* always NULL */

/* Questions take NULL and wrong types gently: NULL, 0, false, or the given fallback. */
struct json_value *json_get(const struct json_value *object, const char *key);
struct json_value *json_at(const struct json_value *array, size_t i);
size_t json_count(const struct json_value *array);
const char *json_get_string(const struct json_value *object, const char *key); /* NULL unless a string */
int64_t json_get_int(const struct json_value *object, const char *key, int64_t fallback);
double json_get_double(const struct json_value *object, const char *key, double fallback);
bool json_get_bool(const struct json_value *object, const char *key, bool fallback);
const char *json_as_string(const struct json_value *v); /* NULL unless a string */
bool json_is_object(const struct json_value *v);
bool json_is_array(const struct json_value *v);
bool json_is_null(const struct json_value *v); /* also true for NULL */
/* Calls fn for each member in file order. */
void json_each(const struct json_value *object,
               void (*fn)(void *owner, const char *key, struct json_value *v), void *owner);
/* The value printed again, compact (or indented); malloc'd, NULL if out of memory. */
char *json_print(const struct json_value *v, bool pretty);

#endif
