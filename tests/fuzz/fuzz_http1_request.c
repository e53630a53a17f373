/* fuzz_http1_request.c: bytes that a client sends: a head, then its body. */
#include "fuzz_http1.h"

#include "core/http1_uri.h"

static void must_agree(const struct http1_request *a, const struct http1_request *b)
{
        MUST(a->method == b->method && a->minor == b->minor && a->framing == b->framing);
        MUST(a->content_length == b->content_length && a->keep_alive == b->keep_alive);
        MUST(a->expect_continue == b->expect_continue && a->upgrade_websocket == b->upgrade_websocket);
        MUST(slice_eq(a->method_name, b->method_name) && slice_eq(a->target, b->target));
        MUST(slice_eq(a->path, b->path) && slice_eq(a->query, b->query) && slice_eq(a->host, b->host));
        MUST(!a->query.p == !b->query.p && !a->host.p == !b->host.p);
        MUST(same_headers(a->headers, a->n_headers, b->headers, b->n_headers));
}

static void must_be_sound(const struct http1_request *req, const char *buf, size_t len)
{
        struct slice length = {0}, coding = {0}, host = {0};
        size_t lengths = http1_header_find(req->headers, req->n_headers, "content-length", &length);
        size_t codings = http1_header_find(req->headers, req->n_headers, "transfer-encoding", &coding);
        size_t hosts = http1_header_find(req->headers, req->n_headers, "host", &host);
        struct http1_authority authority;
        char text[256];

        must_be_headers(req->headers, req->n_headers, buf, len);
        must_lie_in(req->method_name, buf, len);
        must_lie_in(req->target, buf, len);
        must_lie_in(req->query, buf, len);
        must_lie_in(req->host, buf, len);
        if (!slice_eq(req->path, SLICE("/")))
                must_lie_in(req->path, buf, len);
        MUST(http1_is_token(req->method_name) && req->target.n && req->path.n);
        MUST(req->path.p[0] == '/' || (slice_eq(req->path, SLICE("*")) && req->method == HTTP1_OPTIONS));
        MUST(lengths + codings <= 1 && hosts <= 1 && (hosts == 1 || req->minor == 0));
        MUST((req->framing == HTTP1_LENGTH) == (lengths == 1) &&
             (req->framing == HTTP1_CHUNKED) == (codings == 1));
        if (codings)
                MUST(slice_eq_nocase(coding, SLICE("chunked")) && req->minor == 1);
        if (lengths) {
                int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)req->content_length);

                while (length.n > (size_t)n && length.p[0] == '0')
                        length = slice_sub(length, 1, length.n);
                MUST(slice_eq_str(length, text));
        }
        if (req->host.p)
                MUST(http1_authority_parse(req->host, &authority) == 0 && authority.host.n > 0);
        if (http1_path_normal(req->path, text, sizeof(text)) > 0)
                MUST(text[0] == '/' && !strstr(text, "//") && !strstr(text, "/../") && !strchr(text, '\\') &&
                     strlen(text) <= req->path.n);
        if (req->query.p)
                (void)http1_query_get(req->query, "a", text, 16);
}

/* What was understood can be written down again and is understood alike. */
static void must_round_trip(const struct http1_request *req, const struct http1_limits *limits)
{
        static struct http1_request again;
        struct http1_parser p;
        struct buffer b;

        buffer_init(&b, 0);
        http1_build_request(&b, req->method_name, req->target);
        if (req->minor == 0) /* The writer only writes 1.1. */
                b.data[b.len - 3] = '0';
        for (size_t i = 0; i < req->n_headers; i++)
                http1_build_header_slice(&b, req->headers[i].name, req->headers[i].value);
        http1_build_end(&b);
        MUST(!b.failed);
        /* "A:b" becomes "A: b", so that a head near the limit may grow over it. */
        http1_parser_init(&p);
        if (b.len <= limits->head_max) {
                MUST(http1_request_parse(&p, b.data, b.len, limits, &again) == (int)b.len);
                must_agree(req, &again);
        }
        buffer_finish(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const struct http1_limits small = {.head_max = 600, .target_max = 200, .body_max = 5000};
        static struct http1_request whole, cut;
        const struct http1_limits *limits = size % 2 ? &small : &http1_limits_default;
        const char *buf = (const char *)data;
        struct http1_parser p, q;
        struct http1_body body;
        int r, s = 0;

        http1_parser_init(&p);
        http1_parser_init(&q);
        r = http1_request_parse(&p, buf, size, limits, &whole);
        for (size_t to = 0; s == 0; to = next_cut(data, size, to)) {
                /* A copy of just these bytes: no byte behind them may matter, no pointer may be kept. */
                char *copy = malloc(to ? to : 1);

                MUST(copy);
                memcpy(copy, buf, to);
                s = http1_request_parse(&q, copy, to, limits, &cut);
                free(copy);
                if (to == size)
                        break;
        }
        MUST(r == s && p.reason == q.reason);
        MUST(r >= 0 || p.reason);
        if (r <= 0)
                return 0;
        MUST((size_t)r <= size && (size_t)r <= limits->head_max);
        must_be_sound(&whole, buf, (size_t)r);
        must_round_trip(&whole, limits);
        http1_body_init_request(&body, &whole, size % 3 ? 0 : 100);
        must_not_hang_on_cuts(&body, data + r, size - (size_t)r);
        return 0;
}
