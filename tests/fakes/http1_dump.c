/* http1_dump.c: what our HTTP/1.1 codec understands, for comparing it with another one (tests/scenario/test_http1_h11.py).
 * Reads lines "request HEX" or "response METHOD HEX", each a whole connection up to its EOF, and prints one line of JSON for
 * each: the verdict on the head, its parts, and the body. Bytes are printed as hex. */
#include <errno.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/json.h"
#include "core/http1.h"

static void put_hex(struct json_writer *w, const char *key, struct slice s)
{
        _cleanup_buffer_ struct buffer hex;

        buffer_init(&hex, 0);
        for (size_t i = 0; i < s.n; i++)
                buffer_printf(&hex, "%02x", (unsigned char)s.p[i]);
        if (key)
                json_key(w, key);
        json_put_string_n(w, hex.data ? hex.data : "", hex.len);
}

static void put_headers(struct json_writer *w, const struct http1_header *headers, size_t n)
{
        json_key(w, "headers");
        json_open_array(w);
        for (size_t i = 0; i < n; i++) {
                json_open_array(w);
                put_hex(w, NULL, headers[i].name);
                put_hex(w, NULL, headers[i].value);
                json_close_array(w);
        }
        json_close_array(w);
}

/* "done" (also by EOF), "short" (EOF in the middle) or "broken"; `rest` is what the next message begins with. */
static void put_body(struct json_writer *w, struct http1_body *b, const char *in, size_t len)
{
        _cleanup_buffer_ struct buffer payload;
        size_t at = 0;
        int r;

        buffer_init(&payload, 0);
        do {
                struct slice data = {0};
                size_t used = 0;

                r = http1_body_feed(b, in + at, len - at, &used, &data);
                if (r < 0)
                        break;
                buffer_append(&payload, data.p, data.n);
                at += used;
        } while (r == HTTP1_AGAIN);
        if (r == HTTP1_MORE)
                r = http1_body_eof(b) == 0 ? HTTP1_DONE : HTTP1_MORE;
        json_string(w, "end", r < 0 ? "broken" : r == HTTP1_DONE ? "done" : "short");
        json_string(w, "body_reason", b->reason);
        put_hex(w, "body", (struct slice){payload.data, payload.len});
        json_uint(w, "rest", len - at);
}

static void dump_request(struct json_writer *w, const char *in, size_t len)
{
        static struct http1_request req;
        struct http1_parser p;
        struct http1_body body;
        int r;

        http1_parser_init(&p);
        r = http1_request_parse(&p, in, len, NULL, &req);
        json_int(w, "verdict", r);
        json_string(w, "reason", p.reason);
        if (r <= 0)
                return;
        put_hex(w, "method", req.method_name);
        put_hex(w, "target", req.target);
        json_uint(w, "minor", req.minor);
        json_bool(w, "keep_alive", req.keep_alive);
        put_headers(w, req.headers, req.n_headers);
        http1_body_init_request(&body, &req, 0);
        put_body(w, &body, in + r, len - (size_t)r);
}

static void dump_response(struct json_writer *w, struct slice method, const char *in, size_t len)
{
        static struct http1_response res;
        struct http1_parser p;
        struct http1_body body;
        int r;

        http1_parser_init(&p);
        r = http1_response_parse(&p, in, len, NULL, http1_method_of(method), &res);
        json_int(w, "verdict", r);
        json_string(w, "reason", p.reason);
        if (r <= 0)
                return;
        json_int(w, "status", res.status);
        json_uint(w, "minor", res.minor);
        json_bool(w, "keep_alive", res.keep_alive);
        put_headers(w, res.headers, res.n_headers);
        http1_body_init_response(&body, &res, 0);
        put_body(w, &body, in + r, len - (size_t)r);
}

/* In place; the number of bytes. */
static size_t from_hex(char *s)
{
        size_t n = 0;

        for (; s[2 * n] && s[2 * n + 1]; n++) {
                const char pair[] = {s[2 * n], s[2 * n + 1], '\0'};

                s[n] = (char)strtoul(pair, NULL, 16);
        }
        return n;
}

int main(void)
{
        _cleanup_free_ char *line = NULL;
        _cleanup_buffer_ struct buffer out;
        size_t size = 0;
        ssize_t n;

        buffer_init(&out, 0);
        while ((n = getline(&line, &size, stdin)) > 0) {
                struct json_writer w;
                struct slice rest, kind, method;
                char *hex;

                if (line[n - 1] == '\n')
                        line[--n] = '\0';
                hex = strrchr(line, ' ');
                if (!hex)
                        return 2;
                *hex++ = '\0';
                rest = slice_str(line);
                kind = slice_sub(rest, 0, slice_find(rest, ' '));
                method = slice_sub(rest, kind.n + 1, rest.n);
                buffer_clear(&out);
                json_begin(&w, &out);
                json_open_object(&w);
                if (slice_eq_str(kind, "request"))
                        dump_request(&w, hex, from_hex(hex));
                else if (slice_eq_str(kind, "response"))
                        dump_response(&w, method, hex, from_hex(hex));
                else
                        return 2;
                json_close_object(&w);
                if (out.failed)
                        return 1;
                puts(out.data);
        }
        return 0;
}
