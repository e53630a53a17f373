/* assemble.c: events in, text and the whole answer out. */
#include "core/assemble_private.h"

#include <errno.h>

#include "base/text.h"

bool assemble_form_of(const char *path, enum assemble_form *ret)
{
        static const struct {
                const char *path;
                enum assemble_form form;
        } known[] = {
                {"/v1/chat/completions", ASSEMBLE_CHAT},  {"/chat/completions", ASSEMBLE_CHAT},
                {"/v1/completions", ASSEMBLE_COMPLETION}, {"/completions", ASSEMBLE_COMPLETION},
                {"/completion", ASSEMBLE_NATIVE},         {"/infill", ASSEMBLE_NATIVE},
                {"/v1/messages", ASSEMBLE_MESSAGES},      {"/v1/responses", ASSEMBLE_RESPONSES},
                {"/responses", ASSEMBLE_RESPONSES},
        };

        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
                if (streq(known[i].path, path)) {
                        *ret = known[i].form;
                        return true;
                }
        return false;
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

int assemble_new(enum assemble_form form, enum assemble_tell tell, size_t max, struct assemble **ret)
{
        struct assemble *a = calloc(1, sizeof(*a));

        if (!a)
                return -ENOMEM;
        a->form = form;
        a->tell = tell;
        a->max = max;
        buffer_init(&a->line, max);
        buffer_init(&a->data, max);
        buffer_init(&a->event, max);
        buffer_init(&a->text, 0);
        *ret = a;
        return 0;
}

void assemble_keep_tokens(struct assemble *a)
{
        a->keeps_tokens = true;
}

static void choice_finish(struct choice *c)
{
        for (size_t i = 0; i < c->n_calls; i++) {
                free(c->calls[i].id);
                free(c->calls[i].type);
                free(c->calls[i].name);
                buffer_finish(&c->calls[i].arguments);
        }
        free(c->calls);
        buffer_finish(&c->content);
        buffer_finish(&c->reasoning);
        buffer_finish(&c->logprobs);
        buffer_finish(&c->tokens);
        free(c->role);
        free(c->finish);
}

struct assemble *assemble_free(struct assemble *a)
{
        if (!a)
                return NULL;
        for (size_t i = 0; i < a->n_choices; i++)
                choice_finish(a->choices + i);
        free(a->choices);
        buffer_finish(&a->line);
        buffer_finish(&a->data);
        buffer_finish(&a->event);
        free(a->id);
        free(a->model);
        free(a->fingerprint);
        free(a->created);
        free(a->usage);
        free(a->timings);
        free(a->refusal);
        typed_finish(a);
        free(a);
        return NULL;
}

/* --- keeping ----------------------------------------------------------------------------------------------------------- */

static int keep(struct assemble *a, struct buffer *b, const char *p, size_t n)
{
        int r;

        if (n > a->max - a->kept)
                return -EFBIG;
        r = buffer_append(b, p, n);
        if (r < 0)
                return r;
        a->kept += n;
        return 0;
}

int assemble_keep(struct assemble *a, struct buffer *b, const char *s)
{
        return keep(a, b, s, strlen(s));
}

int assemble_keep_value(struct assemble *a, char **at, const struct json_value *v)
{
        char *text;

        if (json_is_null(v))
                return 0;
        text = json_print(v, false);
        if (!text)
                return -ENOMEM;
        if (strlen(text) > a->max) {
                free(text);
                return -EFBIG;
        }
        free(*at);
        *at = text;
        return 0;
}

static int keep_word(char **at, const char *s)
{
        return s && *s ? text_set(at, s) : 0;
}

/* The elements of an array behind those that are there. */
static int keep_elements(struct assemble *a, struct buffer *b, const struct json_value *array)
{
        for (size_t i = 0; i < json_count(array); i++) {
                _cleanup_free_ char *text = json_print(json_at(array, i), false);
                int r;

                if (!text)
                        return -ENOMEM;
                r = b->len ? keep(a, b, ",", 1) : 0;
                if (r == 0)
                        r = assemble_keep(a, b, text);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int find_choice(struct assemble *a, int64_t index, struct choice **ret)
{
        struct choice *more;

        for (size_t i = 0; i < a->n_choices; i++)
                if (a->choices[i].index == index) {
                        *ret = a->choices + i;
                        return 0;
                }
        if (a->n_choices == ASSEMBLE_CHOICES_MAX)
                return -EFBIG;
        more = reallocarray(a->choices, a->n_choices + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        a->choices = more;
        more += a->n_choices++;
        *more = (struct choice){.index = index};
        buffer_init(&more->content, 0);
        buffer_init(&more->reasoning, 0);
        buffer_init(&more->logprobs, 0);
        buffer_init(&more->tokens, 0);
        *ret = more;
        return 0;
}

/* --- one event ------------------------------------------------------------------------------------------------------------ */

static int tell_text(struct assemble *a, const struct choice *c, const char *s, struct buffer *told)
{
        if (a->tell != ASSEMBLE_TELL_TEXT || c->index != 0)
                return 0;
        return buffer_puts(told, s);
}

static int add_content(struct assemble *a, struct choice *c, const char *s, struct buffer *told)
{
        int r;

        if (!s)
                return 0;
        c->has_content = true;
        r = assemble_keep(a, &c->content, s);
        return r < 0 ? r : tell_text(a, c, s, told);
}

static int find_call(struct choice *c, int64_t index, struct call **ret)
{
        struct call *more;

        if (index < 0 || index >= ASSEMBLE_CALLS_MAX)
                return -EFBIG;
        if ((size_t)index >= c->n_calls) {
                more = reallocarray(c->calls, (size_t)index + 1, sizeof(*more));
                if (!more)
                        return -ENOMEM;
                c->calls = more;
                for (; c->n_calls <= (size_t)index; c->n_calls++) {
                        more[c->n_calls] = (struct call){0};
                        buffer_init(&more[c->n_calls].arguments, 0);
                }
        }
        *ret = c->calls + index;
        return 0;
}

static int add_call(struct assemble *a, struct choice *c, const struct json_value *v, size_t place)
{
        const struct json_value *f = json_get(v, "function");
        const char *arguments = json_get_string(f, "arguments");
        struct call *call;
        int r = find_call(c, json_get_int(v, "index", (int64_t)place), &call);

        if (r < 0 || (r = keep_word(&call->id, json_get_string(v, "id"))) < 0 ||
            (r = keep_word(&call->type, json_get_string(v, "type"))) < 0 ||
            (r = keep_word(&call->name, json_get_string(f, "name"))) < 0)
                return r;
        return arguments ? assemble_keep(a, &call->arguments, arguments) : 0;
}

static int add_logprobs(struct assemble *a, struct choice *c, const struct json_value *v)
{
        const struct json_value *content = json_get(v, "content");

        if (!json_is_array(content))
                return 0;
        c->has_logprobs = true;
        return keep_elements(a, &c->logprobs, content);
}

static int add_choice(struct assemble *a, const struct json_value *v, struct buffer *told)
{
        const struct json_value *delta = json_get(v, "delta"), *calls = json_get(delta, "tool_calls");
        const char *reasoning = json_get_string(delta, "reasoning_content");
        struct choice *c;
        int r = find_choice(a, json_get_int(v, "index", 0), &c);

        if (r < 0 || (r = keep_word(&c->role, json_get_string(delta, "role"))) < 0 ||
            (r = add_content(a, c, json_get_string(delta, "content"), told)) < 0 ||
            (r = add_content(a, c, json_get_string(v, "text"), told)) < 0 ||
            (r = assemble_keep_value(a, &c->finish, json_get(v, "finish_reason"))) < 0 ||
            (r = add_logprobs(a, c, json_get(v, "logprobs"))) < 0)
                return r;
        if (reasoning) {
                c->has_reasoning = true;
                r = assemble_keep(a, &c->reasoning, reasoning);
        }
        for (size_t i = 0; r == 0 && i < json_count(calls); i++)
                r = add_call(a, c, json_at(calls, i), i);
        return r;
}

static uint64_t get_uint(const struct json_value *v, const char *key)
{
        int64_t n = json_get_int(v, key, 0);

        return n > 0 ? (uint64_t)n : 0;
}

static void read_numbers(const struct json_value *v, uint64_t *prompt, uint64_t *tokens)
{
        const struct json_value *usage = json_get(v, "usage"), *timings = json_get(v, "timings");

        if (json_is_object(usage)) {
                *prompt = get_uint(usage, "prompt_tokens");
                *tokens = get_uint(usage, "completion_tokens");
        } else if (json_is_object(timings)) {
                *prompt = get_uint(timings, "cache_n") + get_uint(timings, "prompt_n");
                *tokens = get_uint(timings, "predicted_n");
        }
}

static int add_openai(struct assemble *a, const struct json_value *v, struct buffer *told)
{
        const struct json_value *choices = json_get(v, "choices");
        int r;

        if ((r = keep_word(&a->id, json_get_string(v, "id"))) < 0 ||
            (r = keep_word(&a->model, json_get_string(v, "model"))) < 0 ||
            (r = keep_word(&a->fingerprint, json_get_string(v, "system_fingerprint"))) < 0 ||
            (r = assemble_keep_value(a, &a->created, json_get(v, "created"))) < 0 ||
            (r = assemble_keep_value(a, &a->usage, json_get(v, "usage"))) < 0 ||
            (r = assemble_keep_value(a, &a->timings, json_get(v, "timings"))) < 0)
                return r;
        read_numbers(v, &a->prompt_tokens, &a->tokens);
        for (size_t i = 0; r == 0 && i < json_count(choices); i++)
                r = add_choice(a, json_at(choices, i), told);
        return r;
}

static int add_native(struct assemble *a, const struct json_value *v, struct buffer *told)
{
        struct choice *c;
        int r = find_choice(a, json_get_int(v, "index", 0), &c);

        if (r < 0 || (r = add_content(a, c, json_get_string(v, "content"), told)) < 0 ||
            (a->keeps_tokens && (r = keep_elements(a, &c->tokens, json_get(v, "tokens"))) < 0) ||
            (r = keep_elements(a, &c->logprobs, json_get(v, "completion_probabilities"))) < 0)
                return r;
        if (!json_get_bool(v, "stop", false))
                return 0;
        read_numbers(v, &a->prompt_tokens, &a->tokens);
        if (!a->prompt_tokens)
                a->prompt_tokens = get_uint(v, "tokens_evaluated");
        if (!a->tokens)
                a->tokens = get_uint(v, "tokens_predicted");
        a->ended = true; /* each of several prompts ends by itself: see assemble_end */
        return assemble_keep_value(a, &c->finish, v);
}

/* {"error":{"code":500,"message":…}}, or the inner object alone behind "error:". */
int assemble_add_error(struct assemble *a, const struct json_value *v)
{
        const struct json_value *inner = json_get(v, "error");
        _cleanup_free_ char *text = json_print(json_is_object(inner) ? inner : v, false);
        int64_t code = json_get_int(json_is_object(inner) ? inner : v, "code", 500);

        if (!text)
                return -ENOMEM;
        free(a->refusal);
        a->refusal = text_format("{\"error\":%s}", text);
        a->refusal_status = code >= 400 && code <= 599 ? (int)code : 500;
        return a->refusal ? 0 : -ENOMEM;
}

static int take_event(struct assemble *a, struct buffer *told)
{
        struct json_value *v = NULL;
        int r;

        if (!a->is_error && a->data.len == 6 && memcmp(a->data.data, "[DONE]", 6) == 0) {
                a->ended = true;
                return 0;
        }
        r = json_parse(a->data.data, a->data.len, &v, NULL);
        if (r < 0)
                return r;
        if (!json_is_object(v))
                r = -EBADMSG;
        else if (a->is_error || json_is_object(json_get(v, "error")))
                r = assemble_add_error(a, v);
        else
                r = a->form == ASSEMBLE_NATIVE                                      ? add_native(a, v, told)
                    : a->form == ASSEMBLE_MESSAGES || a->form == ASSEMBLE_RESPONSES ? typed_add(a, v, told)
                                                                                    : add_openai(a, v, told);
        json_free(v);
        return r;
}

/* --- lines ------------------------------------------------------------------------------------------------------------------- */

static int add_data(struct assemble *a, const char *p, size_t n)
{
        int r = 0;

        if (n && *p == ' ') {
                p++;
                n--;
        }
        if (a->has_data)
                r = buffer_putc(&a->data, '\n');
        a->has_data = true;
        return r < 0 ? r : buffer_append(&a->data, p, n);
}

static int end_event(struct assemble *a, struct buffer *told)
{
        int r = 0;

        if (a->has_data)
                r = take_event(a, told);
        if (r == 0 && a->tell == ASSEMBLE_TELL_EVENTS && a->event.len) {
                r = buffer_append(told, a->event.data, a->event.len);
                if (r == 0)
                        r = buffer_putc(told, '\n');
        }
        buffer_clear(&a->data);
        buffer_clear(&a->event);
        a->has_data = a->is_error = false;
        return r;
}

static bool has_name(const char *line, size_t n, const char *name, size_t *ret_at)
{
        size_t m = strlen(name);

        *ret_at = m + 1;
        return n > m && memcmp(line, name, m) == 0 && line[m] == ':';
}

static int end_line(struct assemble *a, struct buffer *told)
{
        const char *p = a->line.len ? a->line.data : "";
        size_t n = a->line.len, at;
        int r = 0;

        if (n == 0)
                return end_event(a, told);
        if (a->tell == ASSEMBLE_TELL_EVENTS && *p != ':') {
                r = buffer_append(&a->event, p, n);
                if (r == 0)
                        r = buffer_putc(&a->event, '\n');
        }
        if (r == 0 && has_name(p, n, "data", &at)) {
                r = add_data(a, p + at, n - at);
        } else if (r == 0 && has_name(p, n, "error", &at)) {
                a->is_error = true;
                r = add_data(a, p + at, n - at);
        }
        buffer_clear(&a->line);
        return r;
}

static int feed(struct assemble *a, const char *p, size_t len, struct buffer *told)
{
        const char *end = p + len;
        int r = 0;

        while (r == 0 && p < end) {
                const char *stop = p;

                if (a->after_cr && *p == '\n')
                        p++;
                a->after_cr = false;
                for (stop = p; stop < end && *stop != '\n' && *stop != '\r'; stop++)
                        ;
                r = buffer_append(&a->line, p, (size_t)(stop - p));
                if (r < 0 || stop == end)
                        break;
                a->after_cr = *stop == '\r';
                p = stop + 1;
                r = end_line(a, told);
        }
        return r;
}

int assemble_feed(struct assemble *a, const char *data, size_t len, struct buffer *told)
{
        if (a->error == 0)
                a->error = feed(a, data, len, told);
        if (a->error == -ENOBUFS)
                a->error = -EFBIG;
        return a->error;
}

/* --- the whole ------------------------------------------------------------------------------------------------------------------ */

static void put_raw(struct json_writer *w, const char *key, const char *json)
{
        json_key(w, key);
        json_put_raw(w, json, strlen(json));
}

static void put_list(struct json_writer *w, const char *key, const struct buffer *elements)
{
        json_key(w, key);
        json_open_array(w);
        if (elements->len)
                json_put_raw(w, elements->data, elements->len);
        json_close_array(w);
}

static void put_text(struct json_writer *w, const char *key, const struct buffer *b)
{
        json_key(w, key);
        json_put_string_n(w, b->len ? b->data : "", b->len);
}

static void put_calls(struct json_writer *w, const struct choice *c)
{
        json_key(w, "tool_calls");
        json_open_array(w);
        for (size_t i = 0; i < c->n_calls; i++) {
                const struct call *call = c->calls + i;

                json_open_object(w);
                json_string(w, "type", call->type ? call->type : "function");
                json_key(w, "function");
                json_open_object(w);
                json_string(w, "name", call->name ? call->name : "");
                put_text(w, "arguments", &call->arguments);
                json_close_object(w);
                if (call->id)
                        json_string(w, "id", call->id);
                json_close_object(w);
        }
        json_close_array(w);
}

static void put_choice(struct json_writer *w, const struct assemble *a, const struct choice *c)
{
        json_open_object(w);
        if (c->finish)
                put_raw(w, "finish_reason", c->finish);
        else
                json_null(w, "finish_reason");
        json_int(w, "index", c->index);
        if (a->form == ASSEMBLE_COMPLETION) {
                put_text(w, "text", &c->content);
        } else {
                json_key(w, "message");
                json_open_object(w);
                json_string(w, "role", c->role ? c->role : "assistant");
                if (c->has_reasoning)
                        put_text(w, "reasoning_content", &c->reasoning);
                if (c->has_content || !c->n_calls)
                        put_text(w, "content", &c->content);
                else
                        json_null(w, "content");
                if (c->n_calls)
                        put_calls(w, c);
                json_close_object(w);
        }
        if (c->has_logprobs) {
                json_key(w, "logprobs");
                json_open_object(w);
                put_list(w, "content", &c->logprobs);
                json_close_object(w);
        } else if (a->form == ASSEMBLE_COMPLETION) {
                json_null(w, "logprobs");
        }
        json_close_object(w);
}

static void put_usage(struct json_writer *w, const struct assemble *a)
{
        struct json_value *timings = NULL;

        if (a->usage) {
                put_raw(w, "usage", a->usage);
                return;
        }
        if (!a->timings || json_parse(a->timings, strlen(a->timings), &timings, NULL) < 0)
                return;
        json_key(w, "usage");
        json_open_object(w);
        json_uint(w, "completion_tokens", a->tokens);
        json_uint(w, "prompt_tokens", a->prompt_tokens);
        json_uint(w, "total_tokens", a->tokens + a->prompt_tokens);
        json_key(w, "prompt_tokens_details");
        json_open_object(w);
        json_uint(w, "cached_tokens", get_uint(timings, "cache_n"));
        json_close_object(w);
        json_close_object(w);
        json_free(timings);
}

static void put_openai(struct json_writer *w, const struct assemble *a)
{
        json_open_object(w);
        json_key(w, "choices");
        json_open_array(w);
        for (size_t i = 0; i < a->n_choices; i++)
                put_choice(w, a, a->choices + i);
        json_close_array(w);
        if (a->created)
                put_raw(w, "created", a->created);
        if (a->model)
                json_string(w, "model", a->model);
        if (a->fingerprint)
                json_string(w, "system_fingerprint", a->fingerprint);
        json_string(w, "object", a->form == ASSEMBLE_CHAT ? "chat.completion" : "text_completion");
        put_usage(w, a);
        if (a->id)
                json_string(w, "id", a->id);
        if (a->timings)
                put_raw(w, "timings", a->timings);
        json_close_object(w);
}

struct native {
        struct json_writer *w;
        const struct choice *c;
        bool failed;
};

/* A member of the last event, but for those that had only its own part of the whole. */
static void put_member(void *owner, const char *key, struct json_value *v)
{
        struct native *x = owner;
        _cleanup_free_ char *text = NULL;

        if (streq(key, "content")) {
                put_text(x->w, key, &x->c->content);
        } else if (streq(key, "tokens")) {
                put_list(x->w, key, &x->c->tokens);
        } else if (streq(key, "completion_probabilities")) {
                put_list(x->w, key, &x->c->logprobs);
        } else {
                text = json_print(v, false);
                if (text)
                        put_raw(x->w, key, text);
                else
                        x->failed = true;
        }
}

static int put_native(struct json_writer *w, const struct assemble *a)
{
        struct native x = {.w = w};

        if (a->n_choices > 1)
                json_open_array(w);
        for (size_t i = 0; i < a->n_choices; i++) {
                struct json_value *last = NULL;
                int r;

                x.c = a->choices + i;
                r = json_parse(x.c->finish, strlen(x.c->finish), &last, NULL);
                if (r < 0)
                        return r;
                json_open_object(w);
                json_each(last, put_member, &x);
                if (x.c->logprobs.len && !json_get(last, "completion_probabilities"))
                        put_list(w, "completion_probabilities", &x.c->logprobs);
                json_close_object(w);
                json_free(last);
        }
        if (a->n_choices > 1)
                json_close_array(w);
        return x.failed ? -ENOMEM : 0;
}

/* All that began have ended. */
bool assemble_is_whole(const struct assemble *a)
{
        if (a->form == ASSEMBLE_MESSAGES || a->form == ASSEMBLE_RESPONSES)
                return typed_is_whole(a);
        if (!a->ended || a->n_choices == 0)
                return false;
        for (size_t i = 0; i < a->n_choices; i++)
                if (!a->choices[i].finish && a->form == ASSEMBLE_NATIVE)
                        return false;
        return true;
}

int assemble_end(struct assemble *a, struct buffer *body, struct assemble_answer *ret)
{
        struct json_writer w;
        struct choice *first = NULL;

        *ret = (struct assemble_answer){.text = "",
                                        .prompt_tokens = a->prompt_tokens,
                                        .tokens = a->tokens,
                                        .error_status = a->refusal_status,
                                        .error = a->refusal};
        for (size_t i = 0; i < a->n_choices; i++)
                if (a->choices[i].index == 0)
                        first = a->choices + i;
        if (a->text.len) {
                ret->text = a->text.data;
                ret->text_len = a->text.len;
        } else if (first && first->content.len) {
                ret->text = first->content.data;
                ret->text_len = first->content.len;
        }
        if (a->error < 0)
                return a->error;
        if (a->refusal)
                return -EREMOTEIO;
        if (!assemble_is_whole(a))
                return -ENODATA;
        json_begin(&w, body);
        if (a->form >= ASSEMBLE_NATIVE) {
                int r = a->form == ASSEMBLE_NATIVE ? put_native(&w, a) : typed_put(&w, a);

                if (r < 0)
                        return r;
        } else {
                put_openai(&w, a);
        }
        return body->failed ? -ENOBUFS : 0;
}

void assemble_read(const char *body, size_t len, struct buffer *text, struct assemble_answer *ret)
{
        struct json_value *v = NULL;
        const struct json_value *choice;
        const char *s;
        size_t before;

        *ret = (struct assemble_answer){.text = ""};
        if (json_parse(body, len, &v, NULL) < 0)
                return;
        before = text->len;
        if (typed_read(v, text, &ret->prompt_tokens, &ret->tokens)) {
                ret->text_len = text->len - before;
                ret->text = ret->text_len ? text->data + before : "";
                json_free(v);
                return;
        }
        choice = json_at(json_get(v, "choices"), 0);
        s = json_get_string(json_get(choice, "message"), "content");
        if (!s)
                s = json_get_string(choice, "text");
        if (!s)
                s = json_get_string(v, "content");
        if (s && buffer_puts(text, s) == 0 && text->len) {
                ret->text_len = strlen(s);
                ret->text = text->data + text->len - ret->text_len;
        }
        read_numbers(v, &ret->prompt_tokens, &ret->tokens);
        json_free(v);
}
