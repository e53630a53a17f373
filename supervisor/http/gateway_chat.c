/* gateway_chat.c: POST /chat {"message": …} → {"reply": …}: the shortest way to an answer, for people with curl and for clients of
 * GoLlama's hub. It becomes a chat completion; further members (max_tokens, temperature …) go along. */
#include <errno.h>

#include "base/json.h"
#include "http/gateway_private.h"
#include "http/respond.h"

/* The message as it came, since it is a JSON string already. */
static int make(struct errand *e, const struct peek *p)
{
        const struct peek_edit edit = {.drop = PEEK_BIT(PEEK_MESSAGE) | PEEK_BIT(PEEK_STREAM) |
                                               PEEK_BIT(PEEK_MESSAGES)};
        struct slice message = peek_raw(p, PEEK_MESSAGE);
        struct peek_pieces rest;
        int r;

        r = peek_splice(p, &edit, &rest);
        if (r < 0)
                return r;
        buffer_init(&e->made, 0);
        (void)buffer_puts(&e->made, "{\"messages\":[{\"role\":\"user\",\"content\":");
        (void)buffer_append(&e->made, message.p, message.n);
        (void)buffer_puts(&e->made, rest.len > 2 ? "}]," : "}]");
        /* The rest's own opening bracket is ours already. */
        for (unsigned i = 0; i < rest.n; i++)
                (void)buffer_append(&e->made, (char *)rest.iov[i].iov_base + (i == 0),
                                    rest.iov[i].iov_len - (i == 0));
        peek_pieces_finish(&rest);
        return e->made.failed ? -ENOMEM : 0;
}

bool chat_make_body(struct errand *e, struct peek *p)
{
        struct peek_error error;
        int r;

        if (p->values[PEEK_MESSAGE].type != PEEK_STRING) {
                errand_refuse(e, GATEWAY_REFUSED_PARAMETER, 400, "invalid_value", "message",
                              "\"message\" must be there, and be a string");
                return false;
        }
        r = make(e, p);
        if (r == 0)
                r = peek_scan((struct slice){e->made.data, e->made.len}, p, &error);
        if (r < 0)
                errand_refuse(e, GATEWAY_REFUSED_MEMORY, 503, NULL, NULL, "not enough memory");
        return r == 0 && errand_hold(e, e->made.len);
}

void chat_answer(struct errand *e)
{
        struct errand_error error = {
                .status = 502, .code = "bad_answer", .message = "the instance's answer holds no text"};
        _cleanup_buffer_ struct buffer b = {0};
        struct json_value *v = NULL;
        const char *reply = NULL;
        char lines[ERRAND_LINES_MAX];
        struct json_writer w;

        (void)errand_lines(e, lines, sizeof(lines));
        if (e->status != 200) {
                respond_text(e->req, e->status, "application/json", lines, e->collect.data, e->collect.len);
                errand_free(e);
                return;
        }
        if (json_parse(e->collect.data ? e->collect.data : "", e->collect.len, &v, NULL) == 0)
                reply = json_get_string(json_get(json_at(json_get(v, "choices"), 0), "message"), "content");
        if (reply) {
                buffer_init(&b, 0);
                json_begin(&w, &b);
                json_open_object(&w);
                json_string(&w, "reply", reply);
                json_close_object(&w);
                respond_json(e->req, 200, lines, &b);
                errand_free(e);
        } else {
                errand_fail(e, &error);
        }
        (void)json_free(v);
}
