/* usage.c: the few numbers that are wanted of an answer, found without parsing it. */
#include "core/usage.h"

#include <math.h>
#include <stdlib.h>

#include "base/macros.h"
#include "base/slice.h"

enum { TOKENS_MAX = 1000000000 }; /* more is nonsense of somebody else's server */

/* --- numbers out of a piece of JSON ------------------------------------------------------------------------------- */

static bool is_space(char c)
{
        return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_space(const char *p, const char *end)
{
        while (p < end && is_space(*p))
                p++;
        return p;
}

/* Behind the closing quote of the string whose opening one is at p; end when it is cut off. */
static const char *skip_string(const char *p, const char *end)
{
        for (p++; p < end && *p != '"'; p++)
                if (*p == '\\' && p + 1 < end)
                        p++;
        return p < end ? p + 1 : end;
}

/* Behind the value at p, however deep it is. */
static const char *skip_value(const char *p, const char *end)
{
        unsigned depth = 0;

        while (p < end) {
                if (*p == '"') {
                        p = skip_string(p, end);
                } else if (*p == '{' || *p == '[') {
                        depth++;
                        p++;
                } else if (*p == '}' || *p == ']') {
                        if (depth == 0)
                                return p;
                        depth--;
                        p++;
                } else if (*p == ',' && depth == 0) {
                        return p;
                } else {
                        p++;
                }
        }
        return end;
}

struct sought {
        struct slice key;   /* with its quotes */
        const char *object; /* behind the brace of the last `"key":{`; NULL: there is none */
};

/* first: text is not cut at its beginning. From the end, since that is where they nearly always are. */
static void find_objects(const char *text, const char *end, bool first, struct sought *sought, unsigned n)
{
        unsigned missing = n;

        for (const char *at = end; missing && (at = memrchr(text, '"', (size_t)(at - text)));) {
                for (unsigned i = 0; i < n; i++) {
                        const struct slice key = sought[i].key;
                        const char *p;

                        if ((size_t)(end - at) < key.n || at[1] != key.p[1] || sought[i].object ||
                            memcmp(at, key.p, key.n) != 0)
                                continue;
                        if (at == text ? !first : !(is_space(at[-1]) || at[-1] == '{' || at[-1] == ','))
                                continue;
                        p = skip_space(at + key.n, end);
                        if (p == end || *p != ':')
                                continue;
                        p = skip_space(p + 1, end);
                        if (p < end && *p == '{') {
                                sought[i].object = p + 1;
                                missing--;
                        }
                }
        }
}

struct wanted {
        const char *key;
        double value; /* < 0: not told */
};

/* Fills in the numbers among the members of the object behind p. A NUL is at end, for strtod. */
static void read_object(const char *p, const char *end, struct wanted *wanted, size_t n)
{
        while ((p = skip_space(p, end)) < end) {
                struct slice key;
                const char *close;
                char *stop;

                if (*p == ',') {
                        p++;
                        continue;
                }
                if (*p != '"')
                        return;
                close = skip_string(p, end);
                if (close == end)
                        return;
                key = (struct slice){p + 1, (size_t)(close - p) - 2};
                p = skip_space(close, end);
                if (p == end || *p != ':')
                        return;
                p = skip_space(p + 1, end);
                close = skip_value(p, end);
                if (close == end) /* maybe cut in the middle of its digits */
                        return;
                if (*p >= '0' && *p <= '9')
                        for (size_t i = 0; i < n; i++)
                                if (slice_eq_str(key, wanted[i].key)) {
                                        double v = strtod(p, &stop);

                                        if (isfinite(v))
                                                wanted[i].value = v;
                                }
                p = close;
        }
}

static void take_count(double v, int64_t *ret)
{
        if (v >= 0 && v <= TOKENS_MAX)
                *ret = (int64_t)v;
}

/* at: behind the brace of "usage", or NULL. */
static void read_usage(const char *at, const char *end, int64_t *in, int64_t *out)
{
        struct wanted w[] = {{"prompt_tokens", -1},
                             {"completion_tokens", -1},
                             {"input_tokens", -1},
                             {"output_tokens", -1},
                             {"cache_read_input_tokens", -1}};

        if (!at)
                return;
        read_object(at, end, w, ARRAY_SIZE(w));
        if (w[2].value >= 0 && w[4].value >= 0)
                w[2].value += w[4].value;
        take_count(w[0].value >= 0 ? w[0].value : w[2].value, in);
        take_count(w[1].value >= 0 ? w[1].value : w[3].value, out);
}

static void take_usage(const char *text, size_t len, int64_t *in, int64_t *out)
{
        struct sought usage = {.key = SLICE("\"usage\"")};

        find_objects(text, text + len, true, &usage, 1);
        read_usage(usage.object, text + len, in, out);
}

/* --- what passes by ------------------------------------------------------------------------------------------------ */

void usage_init(struct usage *u, bool stream)
{
        u->stream = stream;
        u->token = u->in_line = u->comment = false;
        u->whole = true;
        u->n_head = u->n_tail = 0;
        u->early_in = u->early_out = -1;
}

/* A line of a stream that holds no token yet. */
static bool is_empty_line(const char *line, size_t len)
{
        static const char *const beginnings[] = {
                "\"prompt_progress\"",
                "\"type\":\"message_start\"",
                "\"type\":\"content_block_start\"",
                "\"type\":\"ping\"",
                "\"type\":\"response.created\"",
                "\"type\":\"response.in_progress\"",
                "\"type\":\"response.output_item.added\"",
                "\"type\":\"response.content_part.added\"",
                "\"delta\":{\"role\":\"assistant\",\"content\":null}",
                "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}",
                "\"delta\":{\"role\":\"assistant\"}",
        };

        if (len < 5 || memcmp(line, "data:", 5) != 0)
                return true; /* "event:", "id:", an empty line */
        for (size_t i = 0; i < ARRAY_SIZE(beginnings); i++)
                if (memmem(line, len, beginnings[i], strlen(beginnings[i])))
                        return true;
        return false;
}

/* Gathers lines until one holds a token. A line that is longer than what is kept is no empty one. */
static void look_for_token(struct usage *u, const char *data, size_t len)
{
        while (len && !u->token) {
                const char *newline = memchr(data, '\n', len);
                size_t n = newline ? (size_t)(newline - data) : len;

                if (u->n_head + n > USAGE_KEPT) {
                        u->token = u->head[0] != ':';
                        n = USAGE_KEPT - u->n_head; /* a comment's rest is of no use */
                }
                memcpy(u->head + u->n_head, data, n);
                u->n_head += n;
                if (!newline)
                        return;
                u->head[u->n_head] = '\0';
                if (!is_empty_line(u->head, u->n_head))
                        u->token = true;
                else
                        take_usage(u->head, u->n_head, &u->early_in, &u->early_out);
                u->n_head = 0;
                len -= (size_t)(newline - data) + 1;
                data = newline + 1;
        }
}

static void keep_tail(struct usage *u, const char *data, size_t len)
{
        if (len > USAGE_KEPT) {
                u->whole = false;
                u->n_tail = 0;
                data += len - USAGE_KEPT;
                len = USAGE_KEPT;
        } else if (u->n_tail + len > 2 * USAGE_KEPT) {
                u->whole = false;
                memmove(u->tail, u->tail + u->n_tail - USAGE_KEPT, USAGE_KEPT);
                u->n_tail = USAGE_KEPT;
        }
        memcpy(u->tail + u->n_tail, data, len);
        u->n_tail += len;
}

/* Bytes of lines that are not comments, their line ends counted with them; empty lines are nobody's. */
static size_t count_life(struct usage *u, const char *data, size_t len)
{
        const char *end = data + len;
        size_t life = 0;

        while (data < end) {
                const char *newline;

                if (!u->in_line) {
                        if (*data == '\n' || *data == '\r') {
                                data++;
                                continue;
                        }
                        u->in_line = true;
                        u->comment = *data == ':';
                }
                newline = memchr(data, '\n', (size_t)(end - data));
                if (!u->comment)
                        life += (size_t)((newline ? newline + 1 : end) - data);
                if (!newline)
                        break;
                u->in_line = false;
                data = newline + 1;
        }
        return life;
}

size_t usage_feed(struct usage *u, const char *data, size_t len)
{
        if (len == 0)
                return 0;
        keep_tail(u, data, len);
        if (!u->stream) {
                size_t n = MIN(len, USAGE_KEPT - u->n_head);

                memcpy(u->head + u->n_head, data, n);
                u->n_head += n;
                u->token = true;
                return len;
        }
        if (!u->token)
                look_for_token(u, data, len);
        return count_life(u, data, len);
}

void usage_end(struct usage *u, struct usage_figures *ret)
{
        struct wanted w[] = {
                {"cache_n", -1}, {"prompt_n", -1}, {"predicted_n", -1}, {"predicted_per_second", -1}};
        struct sought at[] = {{.key = SLICE("\"timings\"")}, {.key = SLICE("\"usage\"")}};
        const char *end = u->tail + u->n_tail;

        u->head[u->n_head] = u->tail[u->n_tail] = '\0';
        *ret = (struct usage_figures){.tokens_in = u->early_in, .tokens_out = u->early_out};
        find_objects(u->tail, end, u->whole, at, ARRAY_SIZE(at));
        if (at[0].object) {
                read_object(at[0].object, end, w, ARRAY_SIZE(w));
                if (w[1].value >= 0)
                        take_count(w[1].value + MAX(w[0].value, 0.0), &ret->tokens_in);
                take_count(w[2].value, &ret->tokens_out);
                if (w[3].value > 0 && w[3].value <= TOKENS_MAX)
                        ret->tokens_per_second = w[3].value;
        }
        if (!u->stream && !u->whole)
                take_usage(u->head, u->n_head, &ret->tokens_in, &ret->tokens_out);
        read_usage(at[1].object, end, &ret->tokens_in, &ret->tokens_out);
}
