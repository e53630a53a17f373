/* json_scan.h: a strict scanner for JSON text (RFC 8259) that gives a flat array of tokens with byte offsets.
 *
 * It is stricter than json-c: one value and nothing behind it, no trailing commas, numbers and escapes as in the grammar,
 * well-formed UTF-8, no lone surrogates, no NUL in keys (C strings would cut them), no byte order mark, depth ≤ JSON_DEPTH_MAX,
 * no duplicate keys (compared as decoded: "a" and "\u0061" are one key). Not recursive; work is O(n log n).
 * Used by json_check, and by the configuration, which needs positions. */
#ifndef LSV_BASE_JSON_SCAN_H
#define LSV_BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

enum json_token_type {
        JSON_OBJECT,
        JSON_ARRAY,
        JSON_STRING,
        JSON_NUMBER,
        JSON_TRUE,
        JSON_FALSE,
        JSON_NULL,
};

struct json_token {
        enum json_token_type type;
        uint32_t start, end; /* bytes; of a string with its quotes */
        uint32_t next;       /* index of the token behind this one and all that is in it */
        uint32_t count; /* elements of an array, members of an object (each is a key token and a value) */
};

enum {
        JSON_SCAN_COMMENTS =
                1, /* "//" to the end of the line and "/" "*" blocks, wherever white space may be */
        JSON_SCAN_DUPLICATES = 2, /* duplicate keys pass; the caller asks json_scan_duplicate */
};

struct json_scan {
        const char *text; /* the caller's; must outlive the scan */
        struct json_token *tokens;
        size_t count, cap;
};

/* tokens[0] is the root. max: tokens at most. 0; -EBADMSG with *ret_error; -ENOMEM. After an error the scan is empty. */
int json_scan(struct json_scan *s, const char *text, size_t len, unsigned flags, size_t max,
              struct json_error *ret_error);
void json_scan_finish(struct json_scan *s);

/* The second one of two like keys in the object at index, and the first; false when all keys differ. */
bool json_scan_duplicate(const struct json_scan *s, size_t object, size_t *ret_first, size_t *ret_second);
/* Decodes a string token into out (token's end - start bytes are enough), NUL-terminated; returns its length, which
 * differs from strlen(out) when the text held \u0000. */
size_t json_scan_string(const struct json_scan *s, size_t token, char *out);
/* Line and column, both from 1; a column is a character (UTF-8 sequence), a tab is one. */
void json_position(const char *text, size_t offset, unsigned *ret_line, unsigned *ret_column);

#endif
