/* assemble_typed.c: streams whose events say what they are: Anthropic's messages and OpenAI's responses. Events that are not known are left out;
 * in a response the last one has the whole answer, in a message nothing has it. */
#include <errno.h>

#include "base/text.h"
#include "core/assemble_private.h"

void typed_finish(struct assemble *a)
{
        for (size_t i = 0; i < a->n_blocks; i++) {
                free(a->blocks[i].start);
                buffer_finish(&a->blocks[i].text);
                buffer_finish(&a->blocks[i].thinking);
                buffer_finish(&a->blocks[i].signature);
                buffer_finish(&a->blocks[i].input);
        }
        free(a->blocks);
        free(a->head);
        free(a->end);
        buffer_finish(&a->text);
}

static uint64_t get_uint(const struct json_value *v, const char *key)
{
        int64_t n = json_get_int(v, key, 0);

        return n > 0 ? (uint64_t)n : 0;
}

/* What came out of a cache is counted apart in messages, and as a part in responses. */
static void read_usage(const struct json_value *usage, uint64_t *prompt, uint64_t *tokens)
{
        if (json_get(usage, "input_tokens"))
                *prompt = get_uint(usage, "input_tokens") + get_uint(usage, "cache_read_input_tokens");
        if (json_get(usage, "output_tokens"))
                *tokens = get_uint(usage, "output_tokens");
}

static int add_text(struct assemble *a, const char *s, struct buffer *told)
{
        int r = assemble_keep(a, &a->text, s);

        return r == 0 && a->tell == ASSEMBLE_TELL_TEXT ? buffer_puts(told, s) : r;
}

/* --- messages ----------------------------------------------------------------------------------------------------------- */

static int find_block(struct assemble *a, int64_t index, struct block **ret)
{
        struct block *more;

        for (size_t i = 0; i < a->n_blocks; i++)
                if (a->blocks[i].index == index) {
                        *ret = a->blocks + i;
                        return 0;
                }
        if (a->n_blocks == ASSEMBLE_BLOCKS_MAX)
                return -EFBIG;
        more = reallocarray(a->blocks, a->n_blocks + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        a->blocks = more;
        more += a->n_blocks++;
        *more = (struct block){.index = index};
        buffer_init(&more->text, 0);
        buffer_init(&more->thinking, 0);
        buffer_init(&more->signature, 0);
        buffer_init(&more->input, 0);
        *ret = more;
        return 0;
}

/* Every member that a delta may bring goes behind what is there of it. */
static int add_delta(struct assemble *a, struct block *b, const struct json_value *delta, struct buffer *told)
{
        const char *text = json_get_string(delta, "text"), *thinking = json_get_string(delta, "thinking");
        const char *signature = json_get_string(delta, "signature"),
                   *input = json_get_string(delta, "partial_json");
        int r = 0;

        if (text && (r = assemble_keep(a, &b->text, text)) == 0)
                r = add_text(a, text, told);
        if (r == 0 && thinking)
                r = assemble_keep(a, &b->thinking, thinking);
        if (r == 0 && signature)
                r = assemble_keep(a, &b->signature, signature);
        if (r == 0 && input)
                r = assemble_keep(a, &b->input, input);
        return r;
}

static int add_message(struct assemble *a, const char *type, const struct json_value *v, struct buffer *told)
{
        struct block *b;
        int r;

        if (streq(type, "message_start")) {
                read_usage(json_get(json_get(v, "message"), "usage"), &a->prompt_tokens, &a->tokens);
                return assemble_keep_value(a, &a->head, json_get(v, "message"));
        }
        if (streq(type, "message_delta")) {
                read_usage(json_get(v, "usage"), &a->prompt_tokens, &a->tokens);
                return assemble_keep_value(a, &a->end, v);
        }
        if (streq(type, "message_stop")) {
                a->ended = true;
                return 0;
        }
        if (!streq(type, "content_block_start") && !streq(type, "content_block_delta"))
                return 0;
        r = find_block(a, json_get_int(v, "index", 0), &b);
        if (r < 0)
                return r;
        if (streq(type, "content_block_delta"))
                return add_delta(a, b, json_get(v, "delta"), told);
        r = assemble_keep_value(a, &b->start, json_get(v, "content_block"));
        return r == 0 ? add_delta(a, b, json_get(v, "content_block"), told) : r;
}

struct putting {
        struct json_writer *w;
        const struct assemble *a;
        const struct block *b;
        const struct json_value *end;
        bool failed;
};

static void put_value(struct putting *x, const char *key, const struct json_value *v)
{
        _cleanup_free_ char *text = json_print(v, false);

        if (!text) {
                x->failed = true;
                return;
        }
        json_key(x->w, key);
        json_put_raw(x->w, text, strlen(text));
}

static void put_buffer(struct putting *x, const char *key, const struct buffer *b)
{
        json_key(x->w, key);
        json_put_string_n(x->w, b->len ? b->data : "", b->len);
}

/* What came in pieces takes the place of what it began with. */
static void put_block_member(void *owner, const char *key, struct json_value *v)
{
        struct putting *x = owner;

        if (streq(key, "text")) {
                put_buffer(x, key, &x->b->text);
        } else if (streq(key, "thinking")) {
                put_buffer(x, key, &x->b->thinking);
        } else if (streq(key, "input") && x->b->input.len) {
                json_key(x->w, key);
                if (json_check(x->b->input.data, x->b->input.len, NULL) == 0)
                        json_put_raw(x->w, x->b->input.data, x->b->input.len);
                else
                        json_put_raw(x->w, "{}", 2);
        } else if (!streq(key, "signature")) {
                put_value(x, key, v);
        }
}

static void put_blocks(struct putting *x)
{
        json_open_array(x->w);
        for (size_t i = 0; i < x->a->n_blocks; i++) {
                struct json_value *start = NULL;

                x->b = x->a->blocks + i;
                if (!x->b->start || json_parse(x->b->start, strlen(x->b->start), &start, NULL) < 0)
                        continue;
                json_open_object(x->w);
                json_each(start, put_block_member, x);
                if (x->b->signature.len || json_get_string(start, "signature"))
                        put_buffer(x, "signature", &x->b->signature);
                json_close_object(x->w);
                json_free(start);
        }
        json_close_array(x->w);
}

/* Also one that is null. */
struct seek {
        const char *key;
        bool found;
};

static void see_member(void *owner, const char *key, struct json_value *v)
{
        struct seek *s = owner;

        (void)v;
        s->found |= streq(key, s->key);
}

static bool has(const struct json_value *object, const char *key)
{
        struct seek s = {.key = key};

        json_each(object, see_member, &s);
        return s.found;
}

static void put_usage_member(void *owner, const char *key, struct json_value *v)
{
        struct putting *x = owner;

        if (!has(json_get(x->end, "usage"), key))
                put_value(x, key, v);
}

static void put_end_member(void *owner, const char *key, struct json_value *v)
{
        put_value(owner, key, v);
}

static void put_head_member(void *owner, const char *key, struct json_value *v)
{
        struct putting *x = owner;

        if (streq(key, "content")) {
                json_key(x->w, key);
                put_blocks(x);
        } else if (streq(key, "usage")) {
                json_key(x->w, key);
                json_open_object(x->w);
                json_each(v, put_usage_member, x);
                json_each(json_get(x->end, "usage"), put_end_member, x);
                json_close_object(x->w);
        } else if (!has(json_get(x->end, "delta"), key)) {
                put_value(x, key, v);
        }
}

/* --- responses ------------------------------------------------------------------------------------------------------------ */

static int add_response(struct assemble *a, const char *type, const struct json_value *v, struct buffer *told)
{
        const struct json_value *whole = json_get(v, "response");
        const char *delta = json_get_string(v, "delta");

        if (streq(type, "response.output_text.delta"))
                return delta ? add_text(a, delta, told) : 0;
        if (streq(type, "response.failed"))
                return assemble_add_error(a, whole ? whole : v);
        if (!streq(type, "response.completed") && !streq(type, "response.incomplete"))
                return 0;
        a->ended = true;
        read_usage(json_get(whole, "usage"), &a->prompt_tokens, &a->tokens);
        return assemble_keep_value(a, &a->head, whole);
}

/* --- both --------------------------------------------------------------------------------------------------------------------- */

int typed_add(struct assemble *a, const struct json_value *v, struct buffer *told)
{
        const char *type = json_get_string(v, "type");

        if (!type)
                return 0;
        return a->form == ASSEMBLE_MESSAGES ? add_message(a, type, v, told) : add_response(a, type, v, told);
}

bool typed_is_whole(const struct assemble *a)
{
        return a->ended && a->head;
}

int typed_put(struct json_writer *w, const struct assemble *a)
{
        struct putting x = {.w = w, .a = a};
        struct json_value *head = NULL, *end = NULL;
        int r = json_parse(a->head, strlen(a->head), &head, NULL);

        if (r == 0 && a->end)
                r = json_parse(a->end, strlen(a->end), &end, NULL);
        if (r == 0) {
                x.end = end;
                json_open_object(w);
                if (a->form == ASSEMBLE_MESSAGES) {
                        json_each(head, put_head_member, &x);
                        json_each(json_get(end, "delta"), put_end_member, &x);
                } else {
                        json_each(head, put_end_member, &x);
                        if (!has(head, "completed_at") && has(head, "created_at"))
                                put_value(&x, "completed_at", json_get(head, "created_at"));
                }
                json_close_object(w);
        }
        json_free(end);
        json_free(head);
        return x.failed ? -ENOMEM : r;
}

static void read_parts(const struct json_value *content, const char *type, struct buffer *text)
{
        for (size_t i = 0; i < json_count(content); i++) {
                const struct json_value *part = json_at(content, i);
                const char *s = json_get_string(part, "text");

                if (s && streq_ptr(json_get_string(part, "type"), type))
                        (void)buffer_puts(text, s);
        }
}

bool typed_read(const struct json_value *v, struct buffer *text, uint64_t *prompt, uint64_t *tokens)
{
        const struct json_value *output = json_get(v, "output");

        if (streq_ptr(json_get_string(v, "type"), "message") && json_is_array(json_get(v, "content"))) {
                read_parts(json_get(v, "content"), "text", text);
        } else if (streq_ptr(json_get_string(v, "object"), "response") && json_is_array(output)) {
                for (size_t i = 0; i < json_count(output); i++)
                        read_parts(json_get(json_at(output, i), "content"), "output_text", text);
        } else {
                return false;
        }
        read_usage(json_get(v, "usage"), prompt, tokens);
        return true;
}
