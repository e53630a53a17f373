/* http1.h: the strict HTTP/1.1 codec (RFC 9110, RFC 9112), both directions; pure, and it allocates nothing.
 * Heads and bodies are read here; http1_build.h writes heads, http1_uri.h takes targets, queries and authorities apart.
 *
 * It refuses whatever two readers could understand differently: a second Content-Length (even an equal one), one that is
 * not plain digits, Content-Length with Transfer-Encoding, any coding but exactly "chunked", a second Host or none on 1.1,
 * bare CR or LF, folded lines, a space before the colon, control bytes. Bytes ≥ 0x80 are let through in header values only.
 * What a 4xx/501/505 refused must not be answered on a connection that is kept: the place of the next message is unknown.
 *
 * Every slice points into the caller's bytes and lives as long as they do. */
#ifndef LSV_CORE_HTTP1_H
#define LSV_CORE_HTTP1_H

#include "base/slice.h"

enum { HTTP1_HEADERS_MAX = 100 };

enum http1_method {
        HTTP1_GET,
        HTTP1_HEAD,
        HTTP1_POST,
        HTTP1_PUT,
        HTTP1_DELETE,
        HTTP1_PATCH,
        HTTP1_OPTIONS,
        HTTP1_TRACE,
        HTTP1_OTHER, /* a well-formed token that we do not know: the doors answer 501 (CONNECT never gets here) */
};
enum http1_method http1_method_of(struct slice name); /* case matters, as the RFC says */

/* How a body ends. */
enum http1_framing {
        HTTP1_NO_BODY,
        HTTP1_LENGTH, /* content_length bytes; 0 is possible */
        HTTP1_CHUNKED,
        HTTP1_UNTIL_CLOSE, /* answers only: the peer's EOF is the end, and the connection is used up */
};

struct http1_header {
        struct slice name,
                value; /* the value is trimmed; it may hold tabs and bytes ≥ 0x80, never a control byte */
};

struct http1_limits {
        size_t head_max; /* bytes of a head with its empty line; more is 431 (or 414 while in the request line) */
        size_t target_max; /* bytes of a request target; more is 414 */
        uint64_t body_max; /* a longer Content-Length is 413; 0: no bound here */
};
extern const struct http1_limits http1_limits_default; /* 16 KB, 8 KB, no bound */

/* How far a head was looked at, so that a dripped one is not read again from its beginning. One parser per head. */
struct http1_parser {
        size_t pos;         /* bytes that need not be looked at again */
        size_t line;        /* where the line begun last begins */
        size_t first_line;  /* where the start line begins (behind one tolerated CRLF) */
        unsigned lines;     /* whole lines so far, the start line included */
        const char *reason; /* after a refusal: a static text for the error body and the log */
};
void http1_parser_init(struct http1_parser *p);

struct http1_request {
        enum http1_method method;
        struct slice method_name;
        struct slice target; /* as it came, undecoded: for logs and for forwarding */
        struct slice path;   /* of the target, undecoded: begins with '/', or is "*" (OPTIONS only) */
        struct slice query;  /* behind the '?', p is NULL when there is none */
        struct slice
                host; /* the authority as it came ("localhost:8077"); p is NULL on a 1.0 request without one */
        unsigned minor;             /* 0 or 1 */
        enum http1_framing framing; /* HTTP1_NO_BODY, HTTP1_LENGTH or HTTP1_CHUNKED */
        uint64_t content_length;    /* with HTTP1_LENGTH, else 0 */
        bool keep_alive;            /* by version and Connection */
        bool expect_continue;       /* the client waits for "100 Continue" before it sends its body */
        bool upgrade_websocket;     /* GET, 1.1, Connection: upgrade, Upgrade: websocket, no body */
        size_t n_headers;
        struct http1_header headers[HTTP1_HEADERS_MAX];
};

/* Reads a request head from buf, which begins at the same byte at each call (it may have moved in memory) and holds all
 * bytes so far. > 0: the head's length in bytes, *ret is whole, the body (if any) begins behind it. 0: more bytes are
 * needed. < 0: -(HTTP status): 400, 413, 414, 417, 431, 501, 505, and p->reason says why; do not call again.
 * The verdict does not depend on how the bytes were cut. *ret (3 KB) is meaningful only after > 0. limits: NULL is the
 * default. */
int http1_request_parse(struct http1_parser *p, const char *buf, size_t len,
                        const struct http1_limits *limits, struct http1_request *ret);

struct http1_response {
        int status; /* 100 to 999 */
        struct slice reason;
        unsigned minor;
        enum http1_framing framing; /* what really follows: HTTP1_NO_BODY for HEAD, 1xx, 204, 304 */
        bool has_length; /* a Content-Length was there (with HEAD and 304 it is told, but nothing follows) */
        uint64_t content_length;
        bool keep_alive; /* false too when the body ends at EOF, or when a bodyless answer claims a body */
        size_t n_headers;
        struct http1_header headers[HTTP1_HEADERS_MAX];
};

/* The same for an answer. to: the method of the request it answers. A 1xx (but 101) is not the answer: the caller drops its
 * head and parses the next one with a fresh parser. < 0: -EPROTO (malformed) or -EMSGSIZE (over a limit), p->reason. */
int http1_response_parse(struct http1_parser *p, const char *buf, size_t len,
                         const struct http1_limits *limits, enum http1_method to, struct http1_response *ret);

/* --- headers ---------------------------------------------------------------------------------------------------- */

/* How often the header is there; *ret is the first one's value (untouched when 0). Where a second one would matter
 * (Authorization, Origin), refuse anything but 1. Names compare without case. */
size_t http1_header_find_slice(const struct http1_header *headers, size_t n, struct slice name,
                               struct slice *ret);
static inline size_t http1_header_find(const struct http1_header *headers, size_t n, const char *name,
                                       struct slice *ret)
{
        return http1_header_find_slice(headers, n, slice_str(name), ret);
}
/* Takes the next item off a comma list, trimmed; empty items are skipped. False at the end. */
bool http1_list_next(struct slice *rest, struct slice *ret);
/* True if any header of that name lists the token (without case): Connection: keep-alive, Upgrade. */
bool http1_header_lists(const struct http1_header *headers, size_t n, const char *name, const char *token);
/* Headers that belong to one connection and are never forwarded: Connection, Keep-Alive, Proxy-Connection, TE, Trailer,
 * Transfer-Encoding, Upgrade, Proxy-Authenticate, Proxy-Authorization, HTTP2-Settings; Content-Length, Host and Expect are
 * not among them, but a forwarder writes those itself. Besides, what Connection lists is of that kind. */
bool http1_header_is_hop(struct slice name);
/* The offset of the first control byte but tab in buf[from, end), end if there is none. */
size_t http1_skip_text(const char *buf, size_t from, size_t end);
/* RFC 9110 §5.6.2: one or more of letters, digits and !#$%&'*+-.^_`|~ */
bool http1_is_token(struct slice s);
/* The offset of the first byte that no token holds in buf[from, end), end if there is none. */
size_t http1_skip_token(const char *buf, size_t from, size_t end);

/* --- bodies ----------------------------------------------------------------------------------------------------- */

/* Results of the feeding functions; errors are negative. */
enum {
        HTTP1_MORE,  /* the input is used up, the body goes on */
        HTTP1_AGAIN, /* a piece of data was found: call again with the rest */
        HTTP1_DONE,  /* the body has ended; what is left of the input belongs to the next message */
};

enum {
        HTTP1_CHUNK_LINE_MAX = 256,    /* bytes of a size line, its extensions included */
        HTTP1_CHUNK_EXTRA_MAX = 16384, /* bytes of all extensions of a body, and of its trailers */
};

/* The chunked coding (RFC 9112 §7.1). Extensions and trailers are checked, bounded and dropped. */
struct http1_chunked {
        int state;
        unsigned digits, line, extra;
        uint64_t left; /* of the current chunk */
        char name[20]; /* of a trailer, as much as is needed to know the forbidden ones */
        unsigned name_len;
        const char *reason; /* after an error */
};
void http1_chunked_init(struct http1_chunked *c);
/* Reads at most len bytes: *ret_used of them are done with, *ret_data (maybe empty) is the payload found in them, a slice of
 * `in`. HTTP1_MORE, HTTP1_AGAIN, HTTP1_DONE, or -EPROTO (malformed), -EMSGSIZE (extensions or trailers over the bound). */
int http1_chunked_feed(struct http1_chunked *c, const char *in, size_t len, size_t *ret_used,
                       struct slice *ret_data);

/* A body of any framing, for both sides:
 *
 *     do {
 *             r = http1_body_feed(&body, in, len, &used, &data);
 *             if (r < 0)
 *                     refuse, close;
 *             take(data.p, data.n);
 *             in += used, len -= used;
 *     } while (r == HTTP1_AGAIN);
 *     if (r == HTTP1_DONE)
 *             the rest, in[0..len), is the next message;
 */
struct http1_body {
        enum http1_framing framing;
        uint64_t left;  /* with HTTP1_LENGTH */
        uint64_t total; /* payload bytes so far */
        uint64_t max;   /* payload bytes at most; more is -EMSGSIZE */
        bool done;
        struct http1_chunked chunked;
        const char *reason; /* after an error */
};
/* max: bytes of payload at most, 0 for no bound. A body without bytes is done at once: http1_body_is_done. */
void http1_body_init(struct http1_body *b, enum http1_framing framing, uint64_t content_length, uint64_t max);
void http1_body_init_request(struct http1_body *b, const struct http1_request *head, uint64_t max);
void http1_body_init_response(struct http1_body *b, const struct http1_response *head, uint64_t max);
bool http1_body_is_done(const struct http1_body *b);
/* As http1_chunked_feed. -EMSGSIZE as soon as it is known that the body is too long (a Content-Length over max: at the first
 * call, even with no bytes); a request gets 413 then, and 400 for -EPROTO. */
int http1_body_feed(struct http1_body *b, const char *in, size_t len, size_t *ret_used,
                    struct slice *ret_data);
/* The peer's EOF: 0 if the body is complete now, -EPROTO if it was cut short. */
int http1_body_eof(struct http1_body *b);

/* Chunks to send: the head (size line) in front of n > 0 bytes of payload, then HTTP1_CHUNK_END; HTTP1_CHUNK_LAST ends the
 * body. Returns the length of the head. n == 0 would end the body: it is refused with length 0. */
enum { HTTP1_CHUNK_HEAD_MAX = 18 };
#define HTTP1_CHUNK_END  "\r\n"
#define HTTP1_CHUNK_LAST "0\r\n\r\n"
size_t http1_chunk_head(char buf[HTTP1_CHUNK_HEAD_MAX], uint64_t n);

#endif
