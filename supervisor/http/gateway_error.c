/* gateway_error.c: how the gateway says that something went wrong: as an answer or as an event of a stream that has begun, in the form of
 * OpenAI's API, or of Anthropic's on its routes. */
#include <stdarg.h>
#include <stdio.h>

#include "base/json.h"
#include "http/gateway_private.h"
#include "http/respond.h"

enum { MESSAGE_MAX = 2048 };

static const char *anthropic_type(int status)
{
        switch (status) {
        case 401:
                return "authentication_error";
        case 403:
                return "permission_error";
        case 404:
                return "not_found_error";
        case 413:
                return "request_too_large";
        case 429:
                return "rate_limit_error";
        case 503:
                return "overloaded_error";
        case 504:
                return "timeout_error";
        default:
                return status >= 500 ? "api_error" : "invalid_request_error";
        }
}

static const char *openai_type(const struct errand_error *error)
{
        /* What their servers say for a model that is not there; elsewhere 404 is about a path. */
        if (error->code && streq(error->code, "model_not_found"))
                return "invalid_request_error";
        return respond_error_type(error->status);
}

void errand_put_error(const struct errand *e, const struct errand_error *error, struct buffer *out)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        if (e->anthropic)
                json_string(&w, "type", "error");
        json_key(&w, "error");
        json_open_object(&w);
        json_string(&w, "message", error->message);
        json_string(&w, "type", e->anthropic ? anthropic_type(error->status) : openai_type(error));
        if (error->code)
                json_string(&w, "code", error->code);
        else
                json_int(&w, "code", error->status);
        json_string(&w, "param", error->param);
        json_close_object(&w);
        json_close_object(&w);
}

void errand_put_event(struct errand *e, const char *json, size_t len)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        if (e->told == TOLD_ANSWER && !(e->last[0] == '\n' && e->last[1] == '\n'))
                (void)buffer_puts(&b, "\n\n");
        (void)buffer_puts(&b, e->anthropic ? "event: error\ndata: " : "data: ");
        (void)buffer_append(&b, json, len);
        /* One line: a line end in JSON lies between its tokens, where a space does as well. */
        for (size_t i = 0; i < b.len && len; i++)
                if (i >= b.len - len && (b.data[i] == '\n' || b.data[i] == '\r'))
                        b.data[i] = ' ';
        (void)buffer_puts(&b, "\n\n");
        if (!b.failed)
                (void)request_write(e->req, b.data, b.len);
}

char *errand_lines(const struct errand *e, char *buf, size_t size)
{
        int n = 0;

        buf[0] = '\0';
        if (submit_request_id(e))
                n = snprintf(buf, size, "X-Request-Id: %s\r\n", submit_request_id(e));
        if (e->relay)
                n = snprintf(buf, size, "X-Request-Id: %s\r\nX-Queue-Wait: %llu\r\n", relay_id(e->relay),
                             (unsigned long long)(relay_waited(e->relay) / USEC_PER_MSEC));
        if (e->relay && relay_instance(e->relay))
                (void)snprintf(buf + n, size - (size_t)n, "X-Llama-Instance: %s\r\n",
                               relay_instance(e->relay));
        return buf;
}

static void answer_error(struct errand *e, const struct errand_error *error, const struct buffer *body)
{
        char lines[ERRAND_LINES_MAX], headers[ERRAND_LINES_MAX + 32] = "";
        int n = 0;

        if (error->retry_after)
                n = snprintf(headers, sizeof(headers), "Retry-After: %u\r\n", error->retry_after);
        (void)snprintf(headers + n, sizeof(headers) - (size_t)n, "%s", errand_lines(e, lines, sizeof(lines)));
        respond_text(e->req, error->status, "application/json", headers, body->data, body->len);
}

void errand_fail(struct errand *e, const struct errand_error *error)
{
        _cleanup_buffer_ struct buffer body = {0};

        buffer_init(&body, 0);
        errand_put_error(e, error, &body);
        if (e->told == TOLD_NOTHING) {
                (void)buffer_putc(&body, '\n');
                if (body.failed)
                        doors_respond_error(e->req, 503, "not enough memory for the answer");
                else
                        answer_error(e, error, &body);
        } else {
                if (!body.failed && e->events)
                        errand_put_event(e, body.data, body.len);
                /* An answer that breaks must not look like one that ended; behind comments alone there was none. */
                if (e->told == TOLD_ANSWER)
                        request_break(e->req);
                else
                        request_end(e->req);
        }
        errand_free(e);
}

void errand_refuse(struct errand *e, enum gateway_refusal why, int status, const char *code,
                   const char *param, const char *fmt, ...)
{
        char message[MESSAGE_MAX];
        const struct errand_error error = {.status = status,
                                           .code = code,
                                           .param = param,
                                           .message = message,
                                           .retry_after = status == 503 ? 1 : 0};
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        e->gateway->counts.refused[why]++;
        errand_fail(e, &error);
}
