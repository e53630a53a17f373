/* peek.c: one pass over a body: structure, and where the top-level members are that we act on. */
#include "core/peek_internal.h"

#include <errno.h>

#include "base/json_scan.h"

enum {
        HEAD_BYTES_MAX = 32 * 1024,
        HEAD_MESSAGES_MAX = 8,
        PROMPT_BYTES_MAX = 256,
};

static const struct slice names[PEEK_KEYS] = {
        [PEEK_MODEL] = SLICE("model"),
        [PEEK_STREAM] = SLICE("stream"),
        [PEEK_PRIORITY] = SLICE("priority"),
        [PEEK_KEEP_ALIVE] = SLICE("keep_alive"),
        [PEEK_ENSEMBLE] = SLICE("ensemble"),
        [PEEK_MESSAGES] = SLICE("messages"),
        [PEEK_SYSTEM] = SLICE("system"),
        [PEEK_INSTRUCTIONS] = SLICE("instructions"),
        [PEEK_INPUT] = SLICE("input"),
        [PEEK_PROMPT] = SLICE("prompt"),
        [PEEK_INPUT_PREFIX] = SLICE("input_prefix"),
        [PEEK_MESSAGE] = SLICE("message"),
        [PEEK_N] = SLICE("n"),
        [PEEK_COMBINE] = SLICE("combine"),
        [PEEK_MODELS] = SLICE("models"),
        [PEEK_N_DISCARD] = SLICE("n_discard"),
};

const char *peek_key_name(enum peek_key key)
{
        return names[key].p;
}

/* --- the scanner --------------------------------------------------------------------------------------------------- */

static int fail(struct peek_cursor *c, const char *why)
{
        c->error = why;
        return -EBADMSG;
}

/* At the opening quote; ends behind the closing one, which is the first with an even number of backslashes in front. */
static int skip_string(struct peek_cursor *c)
{
        size_t begin = ++c->at;

        for (;;) {
                const char *quote = memchr(c->text + c->at, '"', c->len - c->at);
                size_t end, back;

                if (!quote) {
                        c->at = begin - 1;
                        return fail(c, "a string that does not end");
                }
                end = (size_t)(quote - c->text);
                for (back = end; back > begin && c->text[back - 1] == '\\'; back--)
                        ;
                c->at = end + 1;
                if ((end - back) % 2 == 0)
                        return 0;
        }
}

/* At the opening bracket; ends behind its closing one. Between them only strings and brackets are looked at. */
static int skip_nested(struct peek_cursor *c)
{
        static const bool stops[256] = {['"'] = true, ['{'] = true, ['}'] = true, ['['] = true, [']'] = true};
        uint64_t squares[PEEK_DEPTH_MAX / 64] = {0};
        unsigned depth = 0;
        int r;

        for (;;) {
                bool square;

                while (c->at < c->len && !stops[(unsigned char)c->text[c->at]])
                        c->at++;
                switch (peek_look(c)) {
                case '"':
                        r = skip_string(c);
                        if (r < 0)
                                return r;
                        break;
                case '{':
                case '[':
                        if (depth == PEEK_DEPTH_MAX)
                                return fail(c, "too deeply nested");
                        square = c->text[c->at++] == '[';
                        squares[depth / 64] &= ~(UINT64_C(1) << depth % 64);
                        squares[depth / 64] |= (uint64_t)square << depth % 64;
                        depth++;
                        break;
                case '}':
                case ']':
                        square = c->text[c->at] == ']';
                        depth--;
                        if ((squares[depth / 64] >> depth % 64 & 1) != square)
                                return fail(c, square ? "']' without its '['" : "'}' without its '{'");
                        c->at++;
                        if (depth == 0)
                                return 0;
                        break;
                default:
                        return fail(c, "an object or array that does not end");
                }
        }
}

static void skip_digits(struct peek_cursor *c)
{
        while (peek_look(c) >= '0' && peek_look(c) <= '9')
                c->at++;
}

static int skip_number(struct peek_cursor *c)
{
        size_t from;

        if (peek_look(c) == '-')
                c->at++;
        from = c->at;
        skip_digits(c);
        if (c->at == from || (c->text[from] == '0' && c->at - from > 1))
                return fail(c, "a number that is none");
        if (peek_look(c) == '.') {
                from = ++c->at;
                skip_digits(c);
                if (c->at == from)
                        return fail(c, "a number that is none");
        }
        if (peek_look(c) == 'e' || peek_look(c) == 'E') {
                c->at++;
                if (peek_look(c) == '+' || peek_look(c) == '-')
                        c->at++;
                from = c->at;
                skip_digits(c);
                if (c->at == from)
                        return fail(c, "a number that is none");
        }
        return 0;
}

static int skip_literal(struct peek_cursor *c, struct slice word)
{
        if (!slice_starts_with((struct slice){c->text + c->at, c->len - c->at}, word))
                return fail(c, "expected a value");
        c->at += word.n;
        return 0;
}

static int skip_value(struct peek_cursor *c, struct peek_value *ret)
{
        struct peek_value v = {.begin = c->at};
        int r;

        switch (peek_look(c)) {
        case '"':
                v.type = PEEK_STRING;
                r = skip_string(c);
                break;
        case '{':
                v.type = PEEK_OBJECT;
                r = skip_nested(c);
                break;
        case '[':
                v.type = PEEK_ARRAY;
                r = skip_nested(c);
                break;
        case 't':
                v.type = PEEK_TRUE;
                r = skip_literal(c, SLICE("true"));
                break;
        case 'f':
                v.type = PEEK_FALSE;
                r = skip_literal(c, SLICE("false"));
                break;
        case 'n':
                v.type = PEEK_NULL;
                r = skip_literal(c, SLICE("null"));
                break;
        case '-':
        case '0' ... '9':
                v.type = PEEK_NUMBER;
                r = skip_number(c);
                break;
        default:
                return fail(c, "expected a value");
        }
        if (r < 0)
                return r;
        v.end = c->at;
        *ret = v;
        return 0;
}

/* --- members --------------------------------------------------------------------------------------------------------- */

int peek_next(struct peek_cursor *c, bool first, struct peek_member *ret)
{
        struct peek_member m;
        int r;

        peek_skip_space(c);
        if (peek_look(c) == '}') {
                c->at++;
                return 0;
        }
        if (!first) {
                if (peek_look(c) != ',')
                        return fail(c, "expected ',' or '}'");
                c->at++;
                peek_skip_space(c);
        }
        if (peek_look(c) != '"')
                return fail(c, first ? "expected a key or '}'" : "expected a key");
        m.begin = c->at;
        r = skip_string(c);
        if (r < 0)
                return r;
        m.key = (struct slice){c->text + m.begin + 1, c->at - m.begin - 2};
        peek_skip_space(c);
        if (peek_look(c) != ':')
                return fail(c, "expected ':'");
        c->at++;
        peek_skip_space(c);
        r = skip_value(c, &m.value);
        if (r < 0)
                return r;
        *ret = m;
        return 1;
}

bool peek_has_escape(struct slice s)
{
        return s.n && memchr(s.p, '\\', s.n);
}

int peek_decode(struct slice s, char **ret, size_t *ret_len)
{
        _cleanup_free_ char *out = NULL;
        struct json_scan scan = {0};
        int r;

        if (s.n > UINT32_MAX / 2)
                return -EINVAL;
        r = json_scan(&scan, s.p - 1, s.n + 2, 0, 1, NULL);
        if (r < 0)
                return r == -ENOMEM ? r : -EINVAL;
        out = malloc(s.n + 2);
        if (out) {
                *ret_len = json_scan_string(&scan, 0, out);
                *ret = steal_ptr(out);
        } else {
                r = -ENOMEM;
        }
        json_scan_finish(&scan);
        return r;
}

enum peek_key peek_key_of(struct slice name)
{
        for (unsigned i = 0; i < PEEK_KEYS; i++)
                if (slice_eq(name, names[i]))
                        return i;
        return PEEK_KEYS;
}

/* Which of ours a key is, PEEK_KEYS: none; or -EBADMSG. */
static int key_find(struct peek_cursor *c, const struct peek_member *m)
{
        _cleanup_free_ char *name = NULL;
        size_t n = 0;

        if (!peek_has_escape(m->key))
                return (int)peek_key_of(m->key);
        if (peek_decode(m->key, &name, &n) < 0) {
                c->at = m->begin;
                return fail(c, "a key that is no well-formed string");
        }
        return (int)peek_key_of((struct slice){name, n});
}

/* --- peeking --------------------------------------------------------------------------------------------------------- */

static int scan_members(struct peek_cursor *c, struct peek *p, const char **ret_param)
{
        struct peek_member m;
        int r, key;

        if (peek_look(c) != '{')
                return fail(c, "expected '{'");
        c->at++;
        while ((r = peek_next(c, p->members == 0, &m)) > 0) {
                if (++p->members > PEEK_MEMBERS_MAX)
                        return fail(c, "too many members");
                key = key_find(c, &m);
                if (key < 0)
                        return key;
                if (key == PEEK_KEYS)
                        continue;
                if (p->values[key].type != PEEK_ABSENT) {
                        *ret_param = names[key].p;
                        c->at = m.begin;
                        return fail(c, "this key is there twice");
                }
                p->values[key] = m.value;
        }
        return r;
}

int peek_scan(struct slice text, struct peek *ret, struct peek_error *ret_error)
{
        struct peek_cursor c = {.text = text.p, .len = text.n};
        const char *param = NULL;
        int r;

        *ret = (struct peek){.text = text};
        peek_skip_space(&c);
        r = scan_members(&c, ret, &param);
        if (r == 0) {
                peek_skip_space(&c);
                if (c.at < c.len)
                        r = fail(&c, "something follows the object");
        }
        if (r < 0)
                *ret_error = (struct peek_error){.offset = c.at, .message = c.error, .param = param};
        return r;
}

struct slice peek_raw(const struct peek *p, enum peek_key key)
{
        return slice_sub(p->text, p->values[key].begin, p->values[key].end);
}

int peek_string(const struct peek *p, enum peek_key key, char *buf, size_t size)
{
        _cleanup_free_ char *decoded = NULL;
        struct slice s = peek_raw(p, key);
        enum peek_type type = p->values[key].type;
        size_t n;
        int r;

        if (type == PEEK_ABSENT || type == PEEK_NULL)
                return -ENOENT;
        if (type != PEEK_STRING)
                return -EINVAL;
        s = slice_sub(s, 1, s.n - 1);
        if (peek_has_escape(s)) {
                r = peek_decode(s, &decoded, &n);
                if (r < 0)
                        return r;
                s = (struct slice){decoded, n};
        }
        if (s.n && memchr(s.p, '\0', s.n))
                return -EINVAL;
        if (s.n >= size)
                return -ENOBUFS;
        if (s.n)
                memcpy(buf, s.p, s.n);
        buf[s.n] = '\0';
        return (int)s.n;
}

int peek_uint(const struct peek *p, enum peek_key key, uint64_t max, uint64_t *ret)
{
        struct slice s = peek_raw(p, key);
        uint64_t v = 0;

        if (p->values[key].type == PEEK_ABSENT || p->values[key].type == PEEK_NULL)
                return -ENOENT;
        if (p->values[key].type != PEEK_NUMBER)
                return -EINVAL;
        for (size_t i = 0; i < s.n; i++)
                if (s.p[i] < '0' || s.p[i] > '9' || __builtin_mul_overflow(v, UINT64_C(10), &v) ||
                    __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
                        return -EINVAL;
        if (v > max)
                return -EINVAL;
        *ret = v;
        return 0;
}

/* --- affinity --------------------------------------------------------------------------------------------------------- */

/* Eight bytes at a time through a multiplication that mixes high and low halves. For spreading work, not against an enemy: the worst
 * that a made-up collision does is that two conversations of its maker meet on one instance. */
static uint64_t mix(uint64_t h, uint64_t v)
{
        unsigned __int128 m =
                (unsigned __int128)(h ^ v ^ UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xd6e8feb86659fd93);

        return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash(uint64_t h, struct slice s)
{
        uint64_t v;

        h = mix(h, s.n);
        for (; s.n >= sizeof(v); s = slice_sub(s, sizeof(v), s.n)) {
                memcpy(&v, s.p, sizeof(v));
                h = mix(h, v);
        }
        v = 0;
        if (s.n)
                memcpy(&v, s.p, s.n);
        return mix(h, v);
}

/* Whether the object (of one message) says "role":"user". */
static bool is_of_user(const struct peek_cursor *c, const struct peek_value *v)
{
        struct peek_cursor in = {.text = c->text, .at = v->begin + 1, .len = v->end};
        struct peek_member m;

        if (v->type != PEEK_OBJECT)
                return false;
        for (bool first = true; peek_next(&in, first, &m) > 0; first = false)
                if (slice_eq(m.key, SLICE("role")))
                        return slice_eq((struct slice){in.text + m.value.begin, m.value.end - m.value.begin},
                                        SLICE("\"user\""));
        return false;
}

/* The messages up to the first of the user, which all turns of a conversation begin with; without one the first alone. */
static struct slice head_of(const struct peek *p, enum peek_key key)
{
        const struct peek_value *array = p->values + key;
        struct peek_cursor c = {.text = p->text.p, .at = array->begin + 1, .len = array->end};
        size_t begin = 0, end = 0;
        struct peek_value v;

        if (array->type == PEEK_STRING)
                return slice_sub(peek_raw(p, key), 0, HEAD_BYTES_MAX);
        if (array->type != PEEK_ARRAY)
                return (struct slice){0};
        for (unsigned i = 0; i < HEAD_MESSAGES_MAX; i++) {
                peek_skip_space(&c);
                if (skip_value(&c, &v) < 0)
                        break;
                if (i == 0) {
                        begin = v.begin;
                        end = v.end;
                }
                if (is_of_user(&c, &v)) {
                        end = v.end;
                        break;
                }
                peek_skip_space(&c);
                if (peek_look(&c) != ',')
                        break;
                c.at++;
        }
        return slice_sub(slice_sub(p->text, begin, end), 0, HEAD_BYTES_MAX);
}

uint64_t peek_affinity(const struct peek *p)
{
        static const enum peek_key heads[] = {PEEK_MESSAGES, PEEK_INPUT};
        static const enum peek_key prompts[] = {PEEK_PROMPT, PEEK_INPUT_PREFIX};
        uint64_t h = hash(0, peek_raw(p, PEEK_MODEL));
        bool any = false;

        h = hash(h, slice_sub(peek_raw(p, PEEK_SYSTEM), 0, HEAD_BYTES_MAX));
        h = hash(h, slice_sub(peek_raw(p, PEEK_INSTRUCTIONS), 0, HEAD_BYTES_MAX));
        for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
                struct slice head = head_of(p, heads[i]);

                any = any || head.n;
                h = hash(h, head);
        }
        for (size_t i = 0; i < ARRAY_SIZE(prompts); i++) {
                struct slice head = slice_sub(peek_raw(p, prompts[i]), 0, PROMPT_BYTES_MAX);

                any = any || head.n;
                h = hash(h, head);
        }
        if (!any)
                return 0;
        return h ? h : 1;
}
