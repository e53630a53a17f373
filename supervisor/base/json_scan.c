/* json_scan.c: the strict scanner. One loop over an explicit stack of open containers; what comes next is one of a few
 * `expect` states. */
#include "base/json_scan.h"

#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

enum expect {
        EXPECT_VALUE,
        EXPECT_VALUE_OR_END, /* just behind '[' */
        EXPECT_KEY,
        EXPECT_KEY_OR_END, /* just behind '{' */
        EXPECT_COLON,
        EXPECT_COMMA_OR_END,
        EXPECT_NOTHING, /* the root is complete */
};

struct scanner {
        struct json_scan *scan;
        const char *text;
        size_t len, at, max;
        unsigned flags;
        bool keep; /* false: only keys and open containers are held, for json_check */
        uint32_t stack[JSON_DEPTH_MAX];
        unsigned depth;
        struct json_error error;
};

static int fail(struct scanner *s, size_t offset, const char *message)
{
        s->error = (struct json_error){.offset = offset, .message = message};
        return -EBADMSG;
}

static int push(struct scanner *s, enum json_token_type type, size_t start, size_t end)
{
        struct json_scan *scan = s->scan;

        if (scan->count >= s->max)
                return fail(s, start, "too many values");
        if (scan->count == scan->cap) {
                size_t cap = scan->cap ? scan->cap * 2 : 64;
                struct json_token *grown = reallocarray(scan->tokens, cap, sizeof *grown);

                if (!grown)
                        return -ENOMEM;
                scan->tokens = grown;
                scan->cap = cap;
        }
        scan->tokens[scan->count] = (struct json_token){.type = type,
                                                        .start = (uint32_t)start,
                                                        .end = (uint32_t)end,
                                                        .next = (uint32_t)scan->count + 1};
        scan->count++;
        return 0;
}

/* --- white space and words -------------------------------------------------------------------------------------- */

static int skip_comment(struct scanner *s)
{
        size_t begin = s->at;

        if (s->at + 1 < s->len && s->text[s->at + 1] == '/') {
                while (s->at < s->len && s->text[s->at] != '\n')
                        s->at++;
                return 0;
        }
        if (s->at + 1 < s->len && s->text[s->at + 1] == '*') {
                for (s->at += 2; s->at + 1 < s->len; s->at++)
                        if (s->text[s->at] == '*' && s->text[s->at + 1] == '/') {
                                s->at += 2;
                                return 0;
                        }
                return fail(s, begin, "comment without end");
        }
        return fail(s, begin, "unexpected character");
}

static int skip_space(struct scanner *s)
{
        int r;

        while (s->at < s->len) {
                char c = s->text[s->at];

                if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
                        s->at++;
                } else if (c == '/' && (s->flags & JSON_SCAN_COMMENTS)) {
                        r = skip_comment(s);
                        if (r < 0)
                                return r;
                } else {
                        break;
                }
        }
        return 0;
}

static bool is_word_byte(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static int scan_word(struct scanner *s, enum json_token_type *ret)
{
        static const struct {
                const char *word;
                enum json_token_type type;
        } words[] = {{"true", JSON_TRUE}, {"false", JSON_FALSE}, {"null", JSON_NULL}};
        size_t begin = s->at, n = 0;

        while (begin + n < s->len && is_word_byte(s->text[begin + n]))
                n++;
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strlen(words[i].word) == n && memcmp(s->text + begin, words[i].word, n) == 0) {
                        s->at += n;
                        *ret = words[i].type;
                        return 0;
                }
        if (n)
                return fail(s, begin, "unknown word (strings need double quotes)");
        if (s->text[begin] == '\'')
                return fail(s, begin, "strings need double quotes");
        return fail(s, begin, "expected a value");
}

static bool digits(struct scanner *s)
{
        size_t begin = s->at;

        while (s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9')
                s->at++;
        return s->at > begin;
}

static int scan_number(struct scanner *s)
{
        size_t begin = s->at;

        if (s->text[s->at] == '-')
                s->at++;
        if (s->at < s->len && s->text[s->at] == '0') {
                s->at++;
                if (s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9')
                        return fail(s, begin, "number with a leading zero");
        } else if (!digits(s)) {
                return fail(s, begin, "malformed number");
        }
        if (s->at < s->len && s->text[s->at] == '.') {
                s->at++;
                if (!digits(s))
                        return fail(s, begin, "malformed number");
        }
        if (s->at < s->len && (s->text[s->at] == 'e' || s->text[s->at] == 'E')) {
                s->at++;
                if (s->at < s->len && (s->text[s->at] == '+' || s->text[s->at] == '-'))
                        s->at++;
                if (!digits(s))
                        return fail(s, begin, "malformed number");
        }
        if (s->at < s->len && (is_word_byte(s->text[s->at]) || s->text[s->at] == '.'))
                return fail(s, begin, "malformed number (durations and sizes are strings: \"5s\", \"24G\")");
        return 0;
}

/* Four hex digits at s; -1 when they are not. */
static int hex4(const char *s, size_t len)
{
        int v = 0;

        if (len < 4)
                return -1;
        for (int i = 0; i < 4; i++) {
                char c = s[i];

                v <<= 4;
                if (c >= '0' && c <= '9')
                        v |= c - '0';
                else if (c >= 'a' && c <= 'f')
                        v |= c - 'a' + 10;
                else if (c >= 'A' && c <= 'F')
                        v |= c - 'A' + 10;
                else
                        return -1;
        }
        return v;
}

/* s->at is at the backslash; behind the whole escape (both halves of a surrogate pair) after. */
static int scan_escape(struct scanner *s, bool key)
{
        const char *p = s->text + s->at;
        size_t left = s->len - s->at;
        int v, w;

        if (left < 2)
                return fail(s, s->at, "string without end");
        if (p[1] != 'u') {
                if (p[1] == '\0' || !strchr("\"\\/bfnrt", p[1]))
                        return fail(s, s->at, "unknown escape");
                s->at += 2;
                return 0;
        }
        v = hex4(p + 2, left - 2);
        if (v < 0)
                return fail(s, s->at, "malformed \\u escape");
        if (v == 0 && key)
                return fail(s, s->at, "NUL in a key");
        if (v >= 0xdc00 && v <= 0xdfff)
                return fail(s, s->at, "lone surrogate");
        if (v < 0xd800 || v > 0xdbff) {
                s->at += 6;
                return 0;
        }
        w = left >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, left - 8) : -1;
        if (w < 0xdc00 || w > 0xdfff)
                return fail(s, s->at, "lone surrogate");
        s->at += 12;
        return 0;
}

static int scan_string(struct scanner *s, bool key)
{
        size_t begin = s->at, n;
        int r;

        s->at++;
        while (s->at < s->len) {
                unsigned char c = (unsigned char)s->text[s->at];

                if (c == '"') {
                        s->at++;
                        return 0;
                }
                if (c == '\n')
                        return fail(s, begin, "string without end on its line");
                if (c < 0x20)
                        return fail(s, s->at, "control character in a string");
                if (c == '\\') {
                        r = scan_escape(s, key);
                        if (r < 0)
                                return r;
                        continue;
                }
                n = text_utf8_sequence((const unsigned char *)s->text + s->at, s->len - s->at);
                if (n == 0)
                        return fail(s, s->at, "broken UTF-8");
                s->at += n;
        }
        return fail(s, begin, "string without end");
}

/* --- keys as decoded -------------------------------------------------------------------------------------------- */

/* The next code point of a checked string, at *p before end. */
static uint32_t next_code_point(const char **p)
{
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char *s = *p;
        uint32_t v, w;
        size_t n;

        if (*s == '\\' && s[1] == 'u') {
                v = (uint32_t)hex4(s + 2, 4);
                *p += 6;
                if (v >= 0xd800 && v <= 0xdbff) {
                        w = (uint32_t)hex4(s + 8, 4);
                        *p += 6;
                        v = 0x10000 + ((v - 0xd800) << 10) + (w - 0xdc00);
                }
                return v;
        }
        if (*s == '\\') {
                *p += 2;
                return (uint32_t)to[strchr(from, s[1]) - from];
        }
        n = text_utf8_sequence((const unsigned char *)s, 4);
        *p += n;
        v = (unsigned char)*s;
        if (n > 1)
                v &= 0xffU >> (n + 1);
        for (size_t i = 1; i < n; i++)
                v = v << 6 | ((unsigned char)s[i] & 0x3f);
        return v;
}

static int compare_keys(const char *text, const struct json_token *a, const struct json_token *b)
{
        const char *p = text + a->start + 1, *q = text + b->start + 1;
        const char *p_end = text + a->end - 1, *q_end = text + b->end - 1;

        while (p < p_end && q < q_end) {
                uint32_t x = next_code_point(&p), y = next_code_point(&q);

                if (x != y)
                        return x < y ? -1 : 1;
        }
        return (p < p_end) - (q < q_end);
}

struct sorting {
        const char *text;
        const struct json_token *tokens;
};

static int compare_indices(const void *a, const void *b, void *arg)
{
        const struct sorting *sorting = arg;
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        int r = compare_keys(sorting->text, sorting->tokens + x, sorting->tokens + y);

        return r ? r : (x > y) - (x < y);
}

/* keys: n token indices, in file order. Few keys are compared each with each, many are sorted. 1 found, 0 not, -ENOMEM. */
static int find_duplicate(const char *text, const struct json_token *tokens, uint32_t *keys, size_t n,
                          size_t *ret_first, size_t *ret_second)
{
        struct sorting sorting = {.text = text, .tokens = tokens};
        size_t best = SIZE_MAX;

        if (n <= 16) {
                for (size_t j = 1; j < n; j++)
                        for (size_t i = 0; i < j; i++)
                                if (compare_keys(text, tokens + keys[i], tokens + keys[j]) == 0) {
                                        *ret_first = keys[i];
                                        *ret_second = keys[j];
                                        return 1;
                                }
                return 0;
        }
        qsort_r(keys, n, sizeof *keys, compare_indices, &sorting);
        for (size_t i = 1; i < n; i++)
                if (keys[i] < best && compare_keys(text, tokens + keys[i - 1], tokens + keys[i]) == 0) {
                        best = keys[i];
                        *ret_first = keys[i - 1];
                        *ret_second = keys[i];
                }
        return best != SIZE_MAX;
}

/* Members are keys with their values behind them (by `next`), or, when values are not kept, keys alone. */
static int object_duplicate(const struct json_scan *scan, size_t object, bool values, size_t *ret_first,
                            size_t *ret_second)
{
        const struct json_token *o = scan->tokens + object;
        _cleanup_free_ uint32_t *many = NULL;
        uint32_t few[16], *keys = few;
        size_t i = object + 1;

        if (o->count > ARRAY_SIZE(few)) {
                many = reallocarray(NULL, o->count, sizeof *many);
                if (!many)
                        return -ENOMEM;
                keys = many;
        }
        for (uint32_t n = 0; n < o->count; n++) {
                keys[n] = (uint32_t)i;
                i = values ? scan->tokens[i + 1].next : i + 1;
        }
        return find_duplicate(scan->text, scan->tokens, keys, o->count, ret_first, ret_second);
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static struct json_token *top(struct scanner *s)
{
        return s->scan->tokens + s->stack[s->depth - 1];
}

static enum expect after_value(const struct scanner *s)
{
        return s->depth ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static int open_container(struct scanner *s, enum json_token_type type)
{
        int r;

        if (s->depth == JSON_DEPTH_MAX)
                return fail(s, s->at, "nested too deeply");
        r = push(s, type, s->at, 0);
        if (r < 0)
                return r;
        s->stack[s->depth++] = (uint32_t)s->scan->count - 1;
        s->at++;
        return 0;
}

static int close_container(struct scanner *s)
{
        size_t index = s->stack[s->depth - 1], first = 0, second = 0;
        struct json_token *t = top(s);
        int r;

        t->end = (uint32_t)++s->at;
        t->next = (uint32_t)s->scan->count;
        if (t->type == JSON_OBJECT && !(s->flags & JSON_SCAN_DUPLICATES)) {
                r = object_duplicate(s->scan, index, s->keep, &first, &second);
                if (r < 0)
                        return r;
                if (r > 0)
                        return fail(s, s->scan->tokens[second].start, "duplicate key");
        }
        if (!s->keep)
                s->scan->count = index; /* its keys are checked, nothing in it is asked for again */
        s->depth--;
        return 0;
}

static int scan_value(struct scanner *s, enum expect *expect)
{
        enum json_token_type type = JSON_NUMBER;
        size_t begin = s->at;
        char c = s->text[s->at];
        int r;

        if (s->depth && top(s)->type == JSON_ARRAY)
                top(s)->count++;
        if (c == '{' || c == '[') {
                *expect = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
                return open_container(s, c == '{' ? JSON_OBJECT : JSON_ARRAY);
        }
        if (c == '"') {
                type = JSON_STRING;
                r = scan_string(s, false);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
                r = scan_number(s);
        } else {
                r = scan_word(s, &type);
        }
        if (r < 0)
                return r;
        *expect = after_value(s);
        return s->keep ? push(s, type, begin, s->at) : 0;
}

static int scan_key(struct scanner *s)
{
        size_t begin = s->at;
        int r;

        if (s->text[s->at] != '"')
                return fail(s, s->at, "expected a key in double quotes");
        r = scan_string(s, true);
        if (r < 0)
                return r;
        top(s)->count++;
        return push(s, JSON_STRING, begin, s->at);
}

static int scan_end_or_comma(struct scanner *s, enum expect *expect)
{
        bool object = top(s)->type == JSON_OBJECT;
        size_t comma = s->at;
        char c = s->text[s->at];
        int r;

        if (c == (object ? '}' : ']')) {
                r = close_container(s);
                *expect = after_value(s);
                return r;
        }
        if (c != ',')
                return fail(s, s->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
        s->at++;
        r = skip_space(s);
        if (r < 0)
                return r;
        if (s->at < s->len && (s->text[s->at] == '}' || s->text[s->at] == ']'))
                return fail(s, comma, "trailing comma");
        *expect = object ? EXPECT_KEY : EXPECT_VALUE;
        return 0;
}

static int one_step(struct scanner *s, enum expect *expect)
{
        char c = s->text[s->at];
        int r;

        switch (*expect) {
        case EXPECT_VALUE_OR_END:
                if (c != ']')
                        return scan_value(s, expect);
                r = close_container(s);
                *expect = after_value(s);
                return r;
        case EXPECT_VALUE:
                return scan_value(s, expect);
        case EXPECT_KEY_OR_END:
                if (c == '}') {
                        r = close_container(s);
                        *expect = after_value(s);
                        return r;
                }
                *expect = EXPECT_COLON;
                return scan_key(s);
        case EXPECT_KEY:
                *expect = EXPECT_COLON;
                return scan_key(s);
        case EXPECT_COLON:
                if (c != ':')
                        return fail(s, s->at, "expected ':'");
                s->at++;
                *expect = EXPECT_VALUE;
                return 0;
        case EXPECT_COMMA_OR_END:
                return scan_end_or_comma(s, expect);
        case EXPECT_NOTHING:
                break;
        }
        return fail(s, s->at, "text behind the end of the value");
}

static int scan_all(struct scanner *s)
{
        enum expect expect = EXPECT_VALUE;
        int r;

        if (s->len > UINT32_MAX - 1)
                return fail(s, 0, "text too long");
        if (s->len >= 3 && memcmp(s->text, "\xef\xbb\xbf", 3) == 0)
                return fail(s, 0, "byte order mark");
        for (;;) {
                r = skip_space(s);
                if (r < 0)
                        return r;
                if (s->at == s->len)
                        break;
                r = one_step(s, &expect);
                if (r < 0)
                        return r;
        }
        if (expect == EXPECT_NOTHING)
                return 0;
        if (s->depth == 0)
                return fail(s, s->at, "expected a value, found the end of the text");
        return fail(s, s->at, top(s)->type == JSON_OBJECT ? "'}' is missing" : "']' is missing");
}

static int run(struct json_scan *scan, const char *text, size_t len, unsigned flags, size_t max, bool keep,
               struct json_error *ret_error)
{
        struct scanner s = {.scan = scan, .text = text, .len = len, .max = max, .flags = flags, .keep = keep};
        int r;

        *scan = (struct json_scan){.text = text};
        r = scan_all(&s);
        if (r < 0)
                json_scan_finish(scan);
        if (r == -EBADMSG && ret_error)
                *ret_error = s.error;
        return r;
}

int json_scan(struct json_scan *s, const char *text, size_t len, unsigned flags, size_t max,
              struct json_error *ret_error)
{
        return run(s, text, len, flags, max, true, ret_error);
}

int json_check(const char *text, size_t len, struct json_error *ret_error)
{
        struct json_scan scan;
        int r;

        r = run(&scan, text, len, 0, SIZE_MAX, false, ret_error);
        if (r < 0)
                return r;
        json_scan_finish(&scan);
        return 0;
}

void json_scan_finish(struct json_scan *s)
{
        free(s->tokens);
        *s = (struct json_scan){0};
}

bool json_scan_duplicate(const struct json_scan *s, size_t object, size_t *ret_first, size_t *ret_second)
{
        size_t first, second;

        if (s->tokens[object].type != JSON_OBJECT || object_duplicate(s, object, true, &first, &second) <= 0)
                return false;
        *ret_first = first;
        *ret_second = second;
        return true;
}

size_t json_scan_string(const struct json_scan *s, size_t token, char *out)
{
        const char *p = s->text + s->tokens[token].start + 1, *end = s->text + s->tokens[token].end - 1;
        char *begin = out;

        while (p < end) {
                uint32_t c = next_code_point(&p);

                if (c < 0x80) {
                        *out++ = (char)c;
                } else if (c < 0x800) {
                        *out++ = (char)(0xc0 | c >> 6);
                        *out++ = (char)(0x80 | (c & 0x3f));
                } else if (c < 0x10000) {
                        *out++ = (char)(0xe0 | c >> 12);
                        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
                        *out++ = (char)(0x80 | (c & 0x3f));
                } else {
                        *out++ = (char)(0xf0 | c >> 18);
                        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
                        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
                        *out++ = (char)(0x80 | (c & 0x3f));
                }
        }
        *out = '\0';
        return (size_t)(out - begin);
}

void json_position(const char *text, size_t offset, unsigned *ret_line, unsigned *ret_column)
{
        unsigned line = 1, column = 1;

        for (size_t i = 0; i < offset; i++) {
                if (text[i] == '\n') {
                        line++;
                        column = 1;
                } else if (((unsigned char)text[i] & 0xc0) != 0x80) {
                        column++;
                }
        }
        *ret_line = line;
        *ret_column = column;
}
