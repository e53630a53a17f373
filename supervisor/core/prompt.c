/* prompt.c: from a job file to a request body. */
#include "core/prompt.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/json.h"
#include "base/text.h"

enum kind { KIND_CHAT, KIND_PROMPT, KIND_INPUT };

struct prompt {
        struct json_value *root;
        bool plain; /* a request body of its own */
        enum kind kind;
        const char *path;
        usec_t timeout;
};

static const struct {
        const char *path;
        enum kind kind;
} paths[] = {
        {"/v1/chat/completions", KIND_CHAT},
        {"/v1/completions", KIND_PROMPT},
        {"/completion", KIND_PROMPT},
        {"/v1/embeddings", KIND_INPUT},
};

/* Members that are ours; a body that has others beside "prompt" is OpenAI's. */
static const char *const of_job[] = {"prompt", "configuration", "path", "timeout", NULL};
static const char *const of_prompt[] = {"system", "prepend", "base", "append", "separator", NULL};
static const char *const of_part[] = {"text", "file", "command", NULL};

static int refuse(char *words, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int refuse(char *words, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(words, PROMPT_WORDS_SIZE, fmt, ap);
        va_end(ap);
        (void)text_harmless(words);
        return -EBADMSG;
}

static bool is_one_of(const char *const *names, const char *name)
{
        for (; *names; names++)
                if (streq(*names, name))
                        return true;
        return false;
}

/* --- looking at an object's members ---------------------------------------------------------------------------------- */

struct members {
        const char *const *known;
        char unknown[64]; /* the first that is not among them */
        bool any;
};

static void look_at(void *owner, const char *key, struct json_value *v)
{
        struct members *m = owner;

        (void)v;
        if (m->any || is_one_of(m->known, key))
                return;
        m->any = true;
        (void)text_copy(m->unknown, sizeof(m->unknown), key);
        (void)text_harmless(m->unknown);
}

static bool has_others(const struct json_value *object, const char *const *known, struct members *ret)
{
        *ret = (struct members){.known = known};
        json_each(object, look_at, ret);
        return ret->any;
}

static int refuse_member(char *words, const char *where, const struct members *m)
{
        const char *nearest = text_nearest(m->unknown, m->known);

        if (nearest)
                return refuse(words, "%s has a member \"%s\"; did you mean \"%s\"?", where, m->unknown,
                              nearest);
        return refuse(words, "%s has a member \"%s\", which means nothing there", where, m->unknown);
}

/* --- reading --------------------------------------------------------------------------------------------------------- */

static int check_part(const struct json_value *v, const char *where, char *words)
{
        struct members m;

        if (json_as_string(v))
                return 0;
        if (!json_is_object(v))
                return refuse(words,
                              "%s is neither a string nor one of {\"text\": …}, {\"file\": …}, "
                              "{\"command\": …}",
                              where);
        if (has_others(v, of_part, &m))
                return refuse_member(words, where, &m);
        for (size_t i = 0, n = 0; of_part[i]; i++) {
                if (!json_get(v, of_part[i]))
                        continue;
                if (!json_get_string(v, of_part[i]))
                        return refuse(words, "%s: \"%s\" is no string", where, of_part[i]);
                if (++n > 1)
                        return refuse(words, "%s has more than one of text, file and command", where);
        }
        if (!json_get(v, "text") && !json_get(v, "file") && !json_get(v, "command"))
                return refuse(words, "%s is empty: it needs a text, a file or a command", where);
        return 0;
}

static int check_parts(const struct json_value *prompt, const char *key, size_t *n, char *words)
{
        const struct json_value *list = json_get(prompt, key);
        char where[64];
        int r;

        if (!list)
                return 0;
        if (!json_is_array(list)) {
                (void)snprintf(where, sizeof(where), "prompt.%s", key);
                *n += 1;
                return check_part(list, where, words);
        }
        for (size_t i = 0; i < json_count(list); i++) {
                if (++*n > PROMPT_PARTS_MAX)
                        return refuse(words, "prompt has more than %d parts", PROMPT_PARTS_MAX);
                (void)snprintf(where, sizeof(where), "prompt.%s[%zu]", key, i);
                r = check_part(json_at(list, i), where, words);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_prompt(const struct prompt *p, char *words)
{
        const struct json_value *prompt = json_get(p->root, "prompt");
        struct members m;
        size_t n = 0;
        int r;

        if (json_as_string(prompt))
                return 0;
        if (!json_is_object(prompt))
                return refuse(words, "prompt is neither a string nor an object");
        if (has_others(prompt, of_prompt, &m))
                return refuse_member(words, "prompt", &m);
        if (json_get(prompt, "separator") && !json_get_string(prompt, "separator"))
                return refuse(words, "prompt.separator is no string");
        if (json_get(prompt, "system") && p->kind != KIND_CHAT)
                return refuse(words, "prompt.system is for %s alone", paths[0].path);
        for (size_t i = 0; i < 4; i++) {
                r = check_parts(prompt, of_prompt[i], &n, words);
                if (r < 0)
                        return r;
        }
        if (!json_get(prompt, "base") && !json_get(prompt, "prepend") && !json_get(prompt, "append"))
                return refuse(words,
                              "prompt has neither base nor prepend nor append: there is nothing to ask");
        return 0;
}

static int check_configuration(const struct prompt *p, char *words)
{
        static const char *const ours[] = {"messages", "prompt", "input", NULL};
        const struct json_value *c = json_get(p->root, "configuration");

        if (!c)
                return 0;
        if (!json_is_object(c))
                return refuse(words, "configuration is no object");
        for (size_t i = 0; ours[i]; i++)
                if (json_get(c, ours[i]))
                        return refuse(words, "configuration.%s is what the prompt becomes: say one of them",
                                      ours[i]);
        if (json_get(c, "model") && !json_get_string(c, "model"))
                return refuse(words, "configuration.model is no string");
        return 0;
}

static int take_path(struct prompt *p, char *words)
{
        const struct json_value *v = json_get(p->root, "path");
        const char *path = json_as_string(v);

        p->path = paths[0].path;
        if (!v)
                return 0;
        for (size_t i = 0; path && i < ARRAY_SIZE(paths); i++)
                if (streq(paths[i].path, path)) {
                        p->path = paths[i].path;
                        p->kind = paths[i].kind;
                        return 0;
                }
        return refuse(words,
                      "path is none of /v1/chat/completions, /v1/completions, /completion, /v1/embeddings");
}

static int take_timeout(struct prompt *p, char *words)
{
        const struct json_value *v = json_get(p->root, "timeout");
        const char *text = json_as_string(v);

        if (!v)
                return 0;
        if (!text || time_parse_span(text, &p->timeout) < 0 || p->timeout == 0)
                return refuse(words, "timeout is no duration as \"90s\" or \"10m\"");
        return 0;
}

static int take_plain(struct prompt *p, char *words)
{
        p->plain = true;
        if (json_get(p->root, "messages")) {
                p->path = "/v1/chat/completions";
                if (!json_is_array(json_get(p->root, "messages")))
                        return refuse(words, "messages is no array");
        } else if (json_get(p->root, "input")) {
                p->path = "/v1/embeddings";
        } else {
                p->path = "/v1/completions";
        }
        if (json_get(p->root, "model") && !json_get_string(p->root, "model"))
                return refuse(words, "model is no string");
        return 0;
}

static int take_all(struct prompt *p, char *words)
{
        struct members m;
        int r;

        if (!json_is_object(p->root))
                return refuse(words, "is JSON, but no object: {\"prompt\": \"…\"}");
        if (json_get(p->root, "messages") || json_get(p->root, "input"))
                return take_plain(p, words);
        if (!json_get(p->root, "prompt"))
                return refuse(words,
                              "has neither \"prompt\" nor \"messages\" nor \"input\": {\"prompt\": \"…\"}");
        if (has_others(p->root, of_job, &m)) {
                if (!json_get(p->root, "configuration") && !json_is_object(json_get(p->root, "prompt")))
                        return take_plain(p, words);
                return refuse_member(words, "beside the prompt it", &m);
        }
        r = take_path(p, words);
        if (r == 0)
                r = take_timeout(p, words);
        if (r == 0)
                r = check_configuration(p, words);
        return r < 0 ? r : check_prompt(p, words);
}

int prompt_read(const char *text, size_t len, struct prompt **ret, char *words)
{
        struct json_error e = {0};
        struct prompt *p = calloc(1, sizeof(*p));
        unsigned line = 1;
        int r;

        if (!p)
                return -ENOMEM;
        r = json_parse(text, len, &p->root, &e);
        if (r == -EBADMSG) {
                for (size_t i = 0; i < e.offset && i < len; i++)
                        line += text[i] == '\n';
                r = len == 0 ? refuse(words, "is empty")
                             : refuse(words, "is no JSON: line %u (byte %zu): %s", line, e.offset,
                                      e.message ? e.message : "broken");
        } else if (r == 0) {
                r = take_all(p, words);
        }
        if (r < 0) {
                prompt_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

struct prompt *prompt_free(struct prompt *p)
{
        if (p)
                json_free(p->root);
        free(p);
        return NULL;
}

const char *prompt_model(const struct prompt *p)
{
        const char *model = json_get_string(p->plain ? p->root : json_get(p->root, "configuration"), "model");

        return model ? model : "";
}

const char *prompt_path(const struct prompt *p)
{
        return p->path;
}

usec_t prompt_timeout(const struct prompt *p)
{
        return p->timeout;
}

static bool is_asked_for(const struct json_value *v)
{
        if (json_is_array(v)) {
                for (size_t i = 0; i < json_count(v); i++)
                        if (is_asked_for(json_at(v, i)))
                                return true;
                return false;
        }
        return json_get(v, "file") || json_get(v, "command");
}

bool prompt_asks_for_parts(const struct prompt *p)
{
        const struct json_value *prompt = p->plain ? NULL : json_get(p->root, "prompt");

        return is_asked_for(json_get(prompt, "system")) || is_asked_for(json_get(prompt, "prepend")) ||
               is_asked_for(json_get(prompt, "base")) || is_asked_for(json_get(prompt, "append"));
}

/* --- building -------------------------------------------------------------------------------------------------------- */

static int check_text(const char *what, const char *name, const struct buffer *text, char *words)
{
        const unsigned char *p = (const unsigned char *)text->data;
        size_t left = text->len, n;

        if (text->failed)
                return refuse(words, "%s %s gives more than %d MB", what, name, PROMPT_PART_MAX >> 20);
        for (; left; p += n, left -= n) {
                n = text_utf8_sequence(p, left);
                if (n == 0)
                        return refuse(words, "%s %s is not UTF-8 text (byte %zu)", what, name,
                                      text->len - left);
        }
        return 0;
}

/* Of a file or a command, without its last newline. */
static int add_source(const struct prompt_source *source, const char *file, const char *command,
                      struct buffer *out, char *words)
{
        _cleanup_buffer_ struct buffer text = {0};
        int r;

        buffer_init(&text, PROMPT_PART_MAX);
        words[0] = '\0';
        r = file ? source->file(source->owner, file, &text, words)
                 : source->command(source->owner, command, &text, words);
        if (r == -ENOMEM)
                return r;
        if (r < 0 && words[0] == '\0')
                (void)refuse(words, "%s cannot be read: %s", file ? file : command, strerror(-r));
        if (r < 0)
                return command && r != -EBADMSG ? -EAGAIN : -EBADMSG;
        r = check_text(file ? "the file" : "the output of the command", file ? file : command, &text, words);
        if (r < 0)
                return r;
        if (text.len && text.data[text.len - 1] == '\n')
                text.len--;
        return text.len ? buffer_append(out, text.data, text.len) : 0;
}

static int add_part(const struct json_value *v, const struct prompt_source *source, const char *separator,
                    struct buffer *out, char *words)
{
        _cleanup_buffer_ struct buffer part = {0};
        const char *text = json_as_string(v);
        int r = 0;

        if (!text)
                text = json_get_string(v, "text");
        buffer_init(&part, PROMPT_PART_MAX);
        if (text)
                r = buffer_puts(&part, text);
        else
                r = add_source(source, json_get_string(v, "file"), json_get_string(v, "command"), &part,
                               words);
        if (r == -ENOBUFS)
                return refuse(words, "has a text of more than %d MB", PROMPT_PART_MAX >> 20);
        if (r < 0 || part.len == 0)
                return r;
        if (out->len)
                r = buffer_puts(out, separator);
        if (r == 0)
                r = buffer_append(out, part.data, part.len);
        return r == -ENOBUFS ? refuse(words, "becomes longer than %d MB", PROMPT_JOB_MAX >> 20) : r;
}

static int add_parts(const struct json_value *v, const struct prompt_source *source, const char *separator,
                     struct buffer *out, char *words)
{
        int r = 0;

        if (!v)
                return 0;
        if (!json_is_array(v))
                return add_part(v, source, separator, out, words);
        for (size_t i = 0; r == 0 && i < json_count(v); i++)
                r = add_part(json_at(v, i), source, separator, out, words);
        return r;
}

struct copying {
        struct json_writer *w;
        bool no_memory;
};

static void copy_member(void *owner, const char *key, struct json_value *v)
{
        struct copying *c = owner;
        char *text;

        if (streq(key, "stream") || streq(key, "stream_options"))
                return;
        text = json_print(v, false);
        if (!text) {
                c->no_memory = true;
                return;
        }
        json_key(c->w, key);
        json_put_raw(c->w, text, strlen(text));
        free(text);
}

static void put_message(struct json_writer *w, const char *role, const struct buffer *text)
{
        json_open_object(w);
        json_string(w, "role", role);
        json_key(w, "content");
        json_put_string_n(w, text->data ? text->data : "", text->len);
        json_close_object(w);
}

static void put_prompt(const struct prompt *p, const struct buffer *system, const struct buffer *text,
                       struct json_writer *w)
{
        if (p->kind != KIND_CHAT) {
                json_key(w, p->kind == KIND_PROMPT ? "prompt" : "input");
                json_put_string_n(w, text->data ? text->data : "", text->len);
                return;
        }
        json_key(w, "messages");
        json_open_array(w);
        if (system->len)
                put_message(w, "system", system);
        put_message(w, "user", text);
        json_close_array(w);
}

int prompt_build(const struct prompt *p, const struct prompt_source *source, struct buffer *out, char *words)
{
        const struct json_value *prompt = json_get(p->root, "prompt");
        const char *separator = json_get_string(prompt, "separator");
        _cleanup_buffer_ struct buffer system, text;
        struct copying copying;
        struct json_writer w;
        int r = 0;

        buffer_init(&system, PROMPT_JOB_MAX);
        buffer_init(&text, PROMPT_JOB_MAX);
        if (!separator)
                separator = "\n";
        if (!p->plain && json_as_string(prompt)) {
                r = buffer_puts(&text, json_as_string(prompt));
        } else if (!p->plain) {
                r = add_parts(json_get(prompt, "system"), source, separator, &system, words);
                for (size_t i = 1; r == 0 && i < 4; i++)
                        r = add_parts(json_get(prompt, of_prompt[i]), source, separator, &text, words);
        }
        if (r < 0)
                return r;
        if (!p->plain && text.len == 0)
                return refuse(words, "has an empty prompt");
        json_begin(&w, out);
        copying = (struct copying){.w = &w};
        json_open_object(&w);
        json_each(p->plain ? p->root : json_get(p->root, "configuration"), copy_member, &copying);
        if (!p->plain)
                put_prompt(p, &system, &text, &w);
        json_close_object(&w);
        if (copying.no_memory || (out->failed && out->len < PROMPT_JOB_MAX / 2))
                return -ENOMEM;
        return out->failed ? refuse(words, "becomes a request of more than %d MB", PROMPT_JOB_MAX >> 20) : 0;
}
