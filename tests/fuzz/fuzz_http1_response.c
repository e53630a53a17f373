/* fuzz_http1_response.c: bytes that a server answers with, to a GET and to a HEAD: a head, then its body. */
#include "fuzz_http1.h"

static void must_agree(const struct http1_response *a, const struct http1_response *b)
{
        MUST(a->status == b->status && a->minor == b->minor && a->framing == b->framing);
        MUST(a->has_length == b->has_length && a->content_length == b->content_length);
        MUST(a->keep_alive == b->keep_alive);
        MUST(same_headers(a->headers, a->n_headers, b->headers, b->n_headers));
}

static void must_be_sound(const struct http1_response *res, enum http1_method to, const char *buf, size_t len)
{
        bool bodyless = to == HTTP1_HEAD || res->status < 200 || res->status == 204 || res->status == 304;

        must_be_headers(res->headers, res->n_headers, buf, len);
        must_lie_in(res->reason, buf, len);
        MUST(res->status >= 100 && res->status <= 999);
        MUST((res->framing == HTTP1_NO_BODY) == bodyless);
        MUST(res->framing != HTTP1_UNTIL_CLOSE || !res->keep_alive);
        MUST(res->framing != HTTP1_LENGTH || res->has_length);
}

static void must_round_trip(const struct http1_response *res, enum http1_method to)
{
        static struct http1_response again;
        struct http1_parser p;
        struct buffer b;

        buffer_init(&b, 0);
        http1_build_response(&b, res->status);
        b.data[7] = (char)('0' + res->minor); /* The writer only writes 1.1. */
        for (size_t i = 0; i < res->n_headers; i++)
                http1_build_header_slice(&b, res->headers[i].name, res->headers[i].value);
        http1_build_end(&b);
        MUST(!b.failed);
        http1_parser_init(&p);
        if (b.len <= http1_limits_default.head_max) {
                MUST(http1_response_parse(&p, b.data, b.len, NULL, to, &again) == (int)b.len);
                must_agree(res, &again);
        }
        buffer_finish(&b);
}

static void one(const uint8_t *data, size_t size, enum http1_method to)
{
        static struct http1_response whole, cut;
        const char *buf = (const char *)data;
        struct http1_parser p, q;
        struct http1_body body;
        int r, s = 0;

        http1_parser_init(&p);
        http1_parser_init(&q);
        r = http1_response_parse(&p, buf, size, NULL, to, &whole);
        for (size_t n = 0; s == 0; n = next_cut(data, size, n)) {
                char *copy = malloc(n ? n : 1);

                MUST(copy);
                memcpy(copy, buf, n);
                s = http1_response_parse(&q, copy, n, NULL, to, &cut);
                free(copy);
                if (n == size)
                        break;
        }
        MUST(r == s && p.reason == q.reason);
        MUST(r >= 0 || p.reason);
        if (r <= 0)
                return;
        MUST((size_t)r <= size && (size_t)r <= http1_limits_default.head_max);
        must_be_sound(&whole, to, buf, (size_t)r);
        must_round_trip(&whole, to);
        http1_body_init_response(&body, &whole, size % 3 ? 0 : 100);
        must_not_hang_on_cuts(&body, data + r, size - (size_t)r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        one(data, size, HTTP1_GET);
        one(data, size, HTTP1_HEAD);
        return 0;
}
