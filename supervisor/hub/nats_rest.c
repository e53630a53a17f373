/* nats_rest.c: the events of an answer from some place of its text on. */
#include "hub/nats_rest.h"

#include <errno.h>

#include "base/json.h"

struct answer {
        const struct json_value *root, *choice;
        const char *text, *finish;
        bool is_chat;
};

static bool is_said(const struct json_value *v)
{
        const char *s = json_as_string(v);

        return s ? *s != '\0' : json_is_array(v) ? json_count(v) > 0 : json_is_object(v);
}

static int understand(const struct json_value *root, struct answer *ret)
{
        const struct json_value *choices = json_get(root, "choices"), *message;

        if (json_count(choices) == 0)
                return -EBADMSG;
        if (json_count(choices) > 1)
                return -ENOTSUP;
        ret->root = root;
        ret->choice = json_at(choices, 0);
        message = json_get(ret->choice, "message");
        ret->is_chat = json_is_object(message);
        if (is_said(json_get(message, "tool_calls")) || is_said(json_get(message, "reasoning_content")) ||
            is_said(json_get(message, "function_call")))
                return -ENOTSUP;
        ret->text = ret->is_chat ? json_get_string(message, "content") : json_get_string(ret->choice, "text");
        if (!ret->text)
                return -ENOTSUP;
        ret->finish = json_get_string(ret->choice, "finish_reason");
        return 0;
}

static int copy(struct json_writer *w, const struct json_value *root, const char *key)
{
        const struct json_value *v = json_get(root, key);
        char *text;

        if (json_is_null(v))
                return 0;
        text = json_print(v, false);
        if (!text)
                return -ENOMEM;
        json_key(w, key);
        json_put_raw(w, text, strlen(text));
        free(text);
        return 0;
}

/* One event: a piece of text, or (text NULL) the end with its figures. */
static int put(const struct answer *a, const char *text, struct buffer *out)
{
        static const char *const heads[] = {"id", "created", "model", "system_fingerprint"},
                                 *const figures[] = {"usage", "timings"};
        struct json_writer w;
        int r = 0;

        (void)buffer_puts(out, "data: ");
        json_begin(&w, out);
        json_open_object(&w);
        json_key(&w, "choices");
        json_open_array(&w);
        json_open_object(&w);
        json_uint(&w, "index", 0);
        if (a->is_chat) {
                json_key(&w, "delta");
                json_open_object(&w);
                if (text)
                        json_string(&w, "content", text);
                json_close_object(&w);
        } else {
                json_string(&w, "text", text ? text : "");
        }
        json_string(&w, "finish_reason", text ? NULL : a->finish ? a->finish : "stop");
        json_close_object(&w);
        json_close_array(&w);
        for (size_t i = 0; i < ARRAY_SIZE(heads) && r >= 0; i++)
                r = copy(&w, a->root, heads[i]);
        json_string(&w, "object", a->is_chat ? "chat.completion.chunk" : "text_completion");
        for (size_t i = 0; i < ARRAY_SIZE(figures) && r >= 0 && !text; i++)
                r = copy(&w, a->root, figures[i]);
        json_close_object(&w);
        (void)buffer_puts(out, "\n\n");
        return r < 0 || out->failed ? -ENOMEM : 0;
}

int nats_rest(const char *answer, size_t len, const char *told, size_t told_len, struct buffer *out)
{
        struct json_value *root = NULL;
        struct answer a = {0};
        int r = json_parse(answer, len, &root, NULL);

        if (r >= 0)
                r = understand(root, &a);
        if (r >= 0 && (strlen(a.text) < told_len || (told_len && memcmp(a.text, told, told_len) != 0)))
                r = -EILSEQ;
        if (r >= 0 && a.text[told_len])
                r = put(&a, a.text + told_len, out);
        if (r >= 0)
                r = put(&a, NULL, out);
        if (r >= 0 && buffer_puts(out, "data: [DONE]\n\n") < 0)
                r = -ENOMEM;
        (void)json_free(root);
        return r;
}
