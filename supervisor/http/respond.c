/* respond.c: answers that every door gives alike: errors, and the header lines for pages of allowed origins. */
#include "http/respond.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/text.h"
#include "http/gate.h"

static_assert((int)DOORS_CORS_MAX >= (int)GATE_CORS_MAX, "doors_cors hands the gate's lines on");

#define NO_STORE "Cache-Control: no-store\r\n"
enum { MESSAGE_MAX = 2048, HEADERS_MAX = DOORS_CORS_MAX + 1024 };

const char *respond_error_type(int status)
{
        switch (status) {
        case 401:
                return "authentication_error";
        case 403:
                return "permission_error";
        case 404:
                return "not_found_error";
        case 429:
                return "rate_limit_error";
        case 503:
                return "unavailable_error";
        default:
                return status >= 500 ? "server_error" : "invalid_request_error";
        }
}

/* code: NULL for the status itself. */
static void put_error(struct json_writer *w, int status, const char *code, const char *param,
                      const char *message)
{
        json_key(w, "error");
        json_open_object(w);
        json_string(w, "message", message);
        json_string(w, "type", respond_error_type(status));
        if (code)
                json_string(w, "code", code);
        else
                json_int(w, "code", status);
        json_string(w, "param", param);
        json_close_object(w);
}

void respond_put_error(struct json_writer *w, int status, const char *param, const char *message)
{
        put_error(w, status, NULL, param, message);
}

char *doors_cors(const struct request *req, char *buf, size_t size)
{
        return gate_cors(request_head(req), buf, size);
}

void respond_text(struct request *req, int status, const char *content_type, const char *more_headers,
                  const void *body, size_t len)
{
        char cors[DOORS_CORS_MAX], headers[HEADERS_MAX];

        (void)snprintf(headers, sizeof(headers), NO_STORE "X-Content-Type-Options: nosniff\r\n%s%s",
                       doors_cors(req, cors, sizeof(cors)), more_headers ? more_headers : "");
        request_respond(req, status, content_type, headers, body, len);
}

void respond_begin(struct request *req, int status, const char *content_type, const char *more_headers)
{
        char cors[DOORS_CORS_MAX], headers[HEADERS_MAX];

        (void)snprintf(headers, sizeof(headers), NO_STORE "X-Content-Type-Options: nosniff\r\n%s%s",
                       doors_cors(req, cors, sizeof(cors)), more_headers ? more_headers : "");
        request_begin(req, status, content_type, headers);
}

void respond_json(struct request *req, int status, const char *more_headers, struct buffer *body)
{
        (void)buffer_putc(body, '\n');
        if (body->failed) {
                doors_respond_error(req, 503, "not enough memory for the answer");
                return;
        }
        respond_text(req, status, "application/json", more_headers, body->data, body->len);
}

/* Puts the error's text into b; false without memory. */
static bool put_error_body(const struct request *req, struct buffer *b, int status, const char *code,
                           const char *param, const char *message)
{
        struct json_writer w;

        buffer_init(b, 0);
        json_begin(&w, b);
        json_open_object(&w);
        /* Anthropic's clients look for this, too. */
        if (slice_starts_with(request_head(req)->path, SLICE("/v1/messages")))
                json_string(&w, "type", "error");
        put_error(&w, status, code, param, message);
        json_close_object(&w);
        (void)buffer_putc(b, '\n');
        return !b->failed;
}

/* The last resort lies in static memory: an answer is due even when there is no memory for a better one. */
static const char last_resort[] =
        "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"code\":500,\"param\":null}}\n";

static void respond_any_error(struct request *req, int status, const char *code, const char *param,
                              const char *more_headers, const char *message)
{
        _cleanup_buffer_ struct buffer body = {0};

        if (put_error_body(req, &body, status, code, param, message))
                respond_text(req, status, "application/json", more_headers, body.data, body.len);
        else
                respond_text(req, 500, "application/json", NULL, last_resort, sizeof(last_resort) - 1);
}

void respond_error_with(struct request *req, int status, const char *param, const char *more_headers,
                        const char *message)
{
        respond_any_error(req, status, NULL, param, more_headers, message);
}

void respond_error_coded(struct request *req, int status, const char *code, const char *more_headers,
                         const char *message)
{
        respond_any_error(req, status, code, NULL, more_headers, message);
}

void respond_error_bare(struct request *req, int status, const char *message)
{
        _cleanup_buffer_ struct buffer body = {0};

        if (put_error_body(req, &body, status, NULL, NULL, message))
                request_respond(req, status, "application/json", NO_STORE, body.data, body.len);
        else
                request_respond(req, 500, "application/json", NO_STORE, last_resort, sizeof(last_resort) - 1);
}

void respond_error_param(struct request *req, int status, const char *param, const char *fmt, ...)
{
        char message[MESSAGE_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        respond_error_with(req, status, param, NULL, message);
}

void doors_respond_error(struct request *req, int status, const char *fmt, ...)
{
        char message[MESSAGE_MAX];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(message, sizeof(message), fmt, ap);
        va_end(ap);
        respond_error_with(req, status, NULL, NULL, message);
}
