/* http1.c: request and response heads.
 * A head is looked at twice, both times once per byte: first for where it ends and for bytes that no head may hold, which
 * can be taken up again after each read, then, when it is whole, for what it says. So a head that comes in a thousand pieces
 * costs what it costs in one, nothing has to be kept between the pieces but offsets, and the verdict is the same. */
#include "core/http1.h"

#include <endian.h>
#include <errno.h>

#include "core/http1_uri.h"

/* What a start line may hold besides its target: method, version, spaces, CRLF. */
enum { START_LINE_EXTRA = 64 };

const struct http1_limits http1_limits_default = {.head_max = 16384, .target_max = 8192};

enum { TOKEN = 1, TARGET = 2 };

#define T (TOKEN | TARGET)
#define G TARGET
/* TOKEN: RFC 9110 §5.6.2. TARGET: printable ASCII but '#', since a fragment is never sent. */
static const unsigned char class[256] = {
        ['!'] = T, ['"'] = G,         ['#'] = TOKEN,     ['$'] = T, ['%'] = T,  ['&'] = T, ['\''] = T,
        ['('] = G, [')'] = G,         ['*'] = T,         ['+'] = T, [','] = G,  ['-'] = T, ['.'] = T,
        ['/'] = G, ['0' ... '9'] = T, [':'] = G,         [';'] = G, ['<'] = G,  ['='] = G, ['>'] = G,
        ['?'] = G, ['@'] = G,         ['A' ... 'Z'] = T, ['['] = G, ['\\'] = G, [']'] = G, ['^'] = T,
        ['_'] = T, ['`'] = T,         ['a' ... 'z'] = T, ['{'] = G, ['|'] = T,  ['}'] = G, ['~'] = T,
};
#undef T
#undef G

static bool all_of(struct slice s, unsigned char what)
{
        const unsigned char *p = (const unsigned char *)s.p;
        size_t i = 0;

        for (; s.n - i >= 4; i += 4)
                if (!(class[p[i]] & class[p[i + 1]] & class[p[i + 2]] & class[p[i + 3]] & what))
                        return false;
        for (; i < s.n; i++)
                if (!(class[p[i]] & what))
                        return false;
        return true;
}

size_t http1_skip_token(const char *buf, size_t from, size_t end)
{
        while (from < end && class[(unsigned char)buf[from]] & TOKEN)
                from++;
        return from;
}

bool http1_is_token(struct slice s)
{
        return s.n > 0 && all_of(s, TOKEN);
}

void http1_parser_init(struct http1_parser *p)
{
        *p = (struct http1_parser){0};
}

static int refuse(struct http1_parser *p, int status, const char *reason)
{
        p->reason = reason;
        return -status;
}

/* --- first look: lines ------------------------------------------------------------------------------------------ */

/* The offset of the first control byte but tab in buf[from, end), end if there is none. Eight bytes a step: heads are
 * mostly text, and most of the time of a first look is spent here. */
size_t http1_skip_text(const char *buf, size_t from, size_t end)
{
        const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
        size_t i = from;

        while (end - i >= 8) {
                uint64_t v, del, found;

                memcpy(&v, buf + i, 8);
                v = le64toh(v); /* a borrow spoils only the bytes behind the first one found */
                del = v ^ (ones * 0x7f);
                found = (((v - ones * 0x20) & ~v) | ((del - ones) & ~del)) & tops;
                if (!found) {
                        i += 8;
                        continue;
                }
                i += (unsigned)__builtin_ctzll(found) / 8;
                if (buf[i] != '\t')
                        return i;
                i++;
        }
        for (; i < end; i++) {
                unsigned char c = (unsigned char)buf[i];

                if ((c < 0x20 && c != '\t') || c == 0x7f)
                        return i;
        }
        return end;
}

enum line { LINE_MORE, LINE_TEXT, LINE_EMPTY };

/* Goes to the end of the line begun. LINE_TEXT and LINE_EMPTY: p->line was moved behind its CRLF, *ret_end is where the CRLF
 * begins. Errors are -status. Limits are applied before a byte beyond them is looked at, else the verdict would hang on how
 * the bytes were cut. */
static int next_line(struct http1_parser *p, const char *buf, size_t len, const struct http1_limits *limits,
                     size_t *ret_end)
{
        size_t limit = limits->head_max, end, i;
        bool empty;

        if (p->lines == 0)
                limit = MIN(limit, p->line + limits->target_max + START_LINE_EXTRA);
        end = MIN(len, limit);
        if (p->pos == p->line && p->pos < end && (buf[p->pos] == ' ' || buf[p->pos] == '\t'))
                return refuse(p, 400, p->lines ? "folded header line" : "white space before the start line");
        i = http1_skip_text(buf, MIN(p->pos, end), end);
        if (i < end && buf[i] != '\r')
                return refuse(p, 400,
                              buf[i] == '\n' ? "line ended by a bare LF" : "control byte in the head");
        if (i + 1 < end && buf[i + 1] != '\n')
                return refuse(p, 400, "bare CR in the head");
        if (i + 1 >= end) {
                p->pos = i;
                if (end < limit)
                        return LINE_MORE;
                return p->lines == 0 ? refuse(p, 414, "start line too long")
                                     : refuse(p, 431, "head too long");
        }
        *ret_end = i;
        empty = i == p->line;
        p->line = p->pos = i + 2;
        return empty ? LINE_EMPTY : LINE_TEXT;
}

/* --- second look: what the lines say ---------------------------------------------------------------------------- */

/* What the headers together say about framing and connection; slices with p == NULL did not come. */
struct seen {
        struct slice host, length, coding, expect;
        bool close, keep_alive, upgrade, websocket;
};

static int note_once(struct http1_parser *p, struct slice value, const char *twice, struct slice *slot)
{
        if (slot->p)
                return refuse(p, 400, twice);
        *slot = value;
        return 0;
}

static void note_connection(struct slice value, struct seen *s)
{
        struct slice item;

        while (http1_list_next(&value, &item)) {
                if (slice_eq_nocase(item, SLICE("close")))
                        s->close = true;
                else if (slice_eq_nocase(item, SLICE("keep-alive")))
                        s->keep_alive = true;
                else if (slice_eq_nocase(item, SLICE("upgrade")))
                        s->upgrade = true;
        }
}

static int note_header(struct http1_parser *p, const struct http1_header *h, struct seen *s)
{
        struct slice value = h->value, item;

        switch (h->name.n) {
        case 4:
                if (slice_eq_nocase(h->name, SLICE("host")))
                        return note_once(p, value, "more than one Host", &s->host);
                break;
        case 6:
                if (slice_eq_nocase(h->name, SLICE("expect")))
                        return note_once(p, value, "more than one Expect", &s->expect);
                break;
        case 7:
                if (slice_eq_nocase(h->name, SLICE("upgrade")))
                        while (http1_list_next(&value, &item))
                                s->websocket |= slice_eq_nocase(item, SLICE("websocket"));
                break;
        case 10:
                if (slice_eq_nocase(h->name, SLICE("connection")))
                        note_connection(value, s);
                break;
        case 14:
                if (slice_eq_nocase(h->name, SLICE("content-length")))
                        return note_once(p, value, "more than one Content-Length", &s->length);
                break;
        case 17:
                if (slice_eq_nocase(h->name, SLICE("transfer-encoding")))
                        return note_once(p, value, "more than one Transfer-Encoding", &s->coding);
                break;
        default:
                break;
        }
        return 0;
}

/* The header lines of a whole head: from `at` to the empty line before `end`. Bytes were checked by the first look. */
static int parse_headers(struct http1_parser *p, const char *buf, size_t at, size_t end,
                         struct http1_header *headers, size_t *ret_n, struct seen *s)
{
        size_t n = 0;
        int r;

        while (at + 2 < end) {
                struct http1_header *h = &headers[n];
                const char *line = buf + at, *cr = memchr(line, '\r', end - at);
                size_t len = (size_t)(cr - line), i = 0;

                while (i < len && class[(unsigned char)line[i]] & TOKEN)
                        i++;
                if (i == len || line[i] != ':')
                        return refuse(p, 400,
                                      i < len && (line[i] == ' ' || line[i] == '\t')
                                              ? "white space in a header name or before its colon"
                                              : "header line without a valid name and colon");
                if (i == 0)
                        return refuse(p, 400, "empty header name");
                h->name = (struct slice){line, i};
                h->value = slice_trim((struct slice){line + i + 1, len - i - 1});
                r = note_header(p, h, s);
                if (r < 0)
                        return r;
                n++;
                at += len + 2;
        }
        *ret_n = n;
        return 0;
}

/* 19 digits always fit into 64 bits, and no body is that long. */
static int parse_length(struct slice s, uint64_t *ret)
{
        uint64_t v = 0;

        if (s.n == 0 || s.n > 19)
                return -EINVAL;
        for (size_t i = 0; i < s.n; i++) {
                unsigned digit = (unsigned)s.p[i] - '0';

                if (digit > 9)
                        return -EINVAL;
                v = v * 10 + digit;
        }
        if (v > INT64_MAX)
                return -EINVAL;
        *ret = v;
        return 0;
}

/* What both directions refuse. */
static int check_framing(struct http1_parser *p, const struct seen *s, unsigned minor, uint64_t *ret_length)
{
        if (s->length.p && s->coding.p)
                return refuse(p, 400, "Content-Length with Transfer-Encoding");
        if (s->length.p && parse_length(s->length, ret_length) < 0)
                return refuse(p, 400, "Content-Length is not a plain number");
        if (s->coding.p && minor == 0)
                return refuse(p, 400, "Transfer-Encoding in HTTP/1.0");
        if (s->coding.p && !slice_eq_nocase(s->coding, SLICE("chunked")))
                return refuse(p, 501, "Transfer-Encoding other than chunked");
        return 0;
}

static bool keeps_alive(const struct seen *s, unsigned minor)
{
        return !s->close && (minor == 1 || s->keep_alive);
}

/* --- requests --------------------------------------------------------------------------------------------------- */

enum http1_method http1_method_of(struct slice name)
{
        static const struct {
                struct slice name;
                enum http1_method method;
        } known[] = {
                {{"GET", 3}, HTTP1_GET},         {{"POST", 4}, HTTP1_POST},     {{"HEAD", 4}, HTTP1_HEAD},
                {{"OPTIONS", 7}, HTTP1_OPTIONS}, {{"DELETE", 6}, HTTP1_DELETE}, {{"PUT", 3}, HTTP1_PUT},
                {{"PATCH", 5}, HTTP1_PATCH},     {{"TRACE", 5}, HTTP1_TRACE},
        };

        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
                if (slice_eq(name, known[i].name))
                        return known[i].method;
        return HTTP1_OTHER;
}

/* "http://authority/path?query"; *ret_authority is set for this form only. */
static struct slice split_absolute(struct slice target, struct slice *ret_authority)
{
        size_t scheme = slice_eq_nocase(slice_sub(target, 0, 7), SLICE("http://"))    ? 7
                        : slice_eq_nocase(slice_sub(target, 0, 8), SLICE("https://")) ? 8
                                                                                      : 0;
        struct slice rest = slice_sub(target, scheme, target.n);
        size_t n;

        if (scheme == 0)
                return target;
        n = MIN(slice_find(rest, '/'), slice_find(rest, '?'));
        *ret_authority = slice_sub(rest, 0, n);
        return slice_sub(rest, n, rest.n);
}

static int parse_target(struct http1_parser *p, struct http1_request *req, const struct http1_limits *limits,
                        struct slice *ret_authority)
{
        struct slice local;
        size_t n;

        if (req->target.n > limits->target_max)
                return refuse(p, 414, "request target too long");
        if (req->target.n == 0 || !all_of(req->target, TARGET))
                return refuse(p, 400, "request target with a byte that must be escaped");
        if (slice_eq(req->target, SLICE("*"))) {
                if (req->method != HTTP1_OPTIONS)
                        return refuse(p, 400, "request target * without OPTIONS");
                req->path = req->target;
                return 0;
        }
        local = split_absolute(req->target, ret_authority);
        n = slice_find(local, '?');
        req->path = slice_sub(local, 0, n);
        if (n < local.n)
                req->query = slice_sub(local, n + 1, local.n);
        if (ret_authority->p && req->path.n == 0)
                req->path = SLICE("/");
        if (req->path.n == 0 || req->path.p[0] != '/')
                return refuse(p, 400, "request target is neither a path nor an http URI");
        return 0;
}

static int parse_request_line(struct http1_parser *p, struct slice line, const struct http1_limits *limits,
                              struct http1_request *req, struct slice *ret_authority)
{
        size_t space = slice_find(line, ' ');
        struct slice version;

        req->method_name = slice_sub(line, 0, space);
        if (!http1_is_token(req->method_name))
                return refuse(p, 400, "method is not a token");
        /* " HTTP/1.1" at the end; "GET /" of HTTP/0.9 has none. */
        if (line.n < space + 10)
                return refuse(p, 400, "request line without target and version");
        version = slice_sub(line, line.n - 9, line.n);
        if (!slice_starts_with(version, SLICE(" HTTP/")) || version.p[6] < '0' || version.p[6] > '9' ||
            version.p[7] != '.' || version.p[8] < '0' || version.p[8] > '9')
                return refuse(p, 400, "request line without an HTTP version at its end");
        if (version.p[6] != '1' || version.p[8] > '1')
                return refuse(p, 505, "HTTP version other than 1.0 and 1.1");
        req->minor = (unsigned)(version.p[8] - '0');
        if (slice_eq(req->method_name, SLICE("CONNECT")))
                return refuse(p, 501, "CONNECT is not served");
        req->method = http1_method_of(req->method_name);
        req->target = slice_sub(line, space + 1, line.n - 9);
        return parse_target(p, req, limits, ret_authority);
}

static int check_host(struct http1_parser *p, struct http1_request *req, const struct seen *s,
                      struct slice authority)
{
        struct http1_authority host, uri;
        int default_port = slice_eq_nocase(slice_sub(req->target, 0, 6), SLICE("https:")) ? 443 : 80;

        if (!s->host.p && req->minor == 1)
                return refuse(p, 400, "no Host");
        if (s->host.p && http1_authority_parse(s->host, &host) < 0)
                return refuse(p, 400, "Host is not a host name with an optional port");
        if (authority.p && http1_authority_parse(authority, &uri) < 0)
                return refuse(p, 400, "the target's authority is not a host name with an optional port");
        if (s->host.p && authority.p && !http1_authority_equal(&host, &uri, default_port))
                return refuse(p, 400, "Host and the target's authority differ");
        req->host = s->host.p ? s->host : authority;
        return 0;
}

static int conclude_request(struct http1_parser *p, struct http1_request *req, const struct seen *s,
                            const struct http1_limits *limits, struct slice authority)
{
        bool has_body;
        int r;

        r = check_framing(p, s, req->minor, &req->content_length);
        if (r < 0)
                return r;
        r = check_host(p, req, s, authority);
        if (r < 0)
                return r;
        req->framing = s->coding.p ? HTTP1_CHUNKED : s->length.p ? HTTP1_LENGTH : HTTP1_NO_BODY;
        has_body = s->coding.p || req->content_length > 0;
        if (s->expect.p && req->minor == 1) {
                if (!slice_eq_nocase(s->expect, SLICE("100-continue")))
                        return refuse(p, 417, "Expect other than 100-continue");
                req->expect_continue = has_body;
        }
        if (limits->body_max && req->content_length > limits->body_max)
                return refuse(p, 413, "body too long");
        req->keep_alive = keeps_alive(s, req->minor);
        req->upgrade_websocket =
                s->upgrade && s->websocket && req->minor == 1 && req->method == HTTP1_GET && !has_body;
        return 0;
}

int http1_request_parse(struct http1_parser *p, const char *buf, size_t len,
                        const struct http1_limits *limits, struct http1_request *ret)
{
        struct slice authority = {0};
        struct seen seen = {0};
        bool have_line = false;
        size_t first, end = 0;
        int r;

        if (!limits)
                limits = &http1_limits_default;
        memset(ret, 0, offsetof(struct http1_request, headers));
        for (;;) {
                size_t from = p->line;

                r = next_line(p, buf, len, limits, &end);
                if (r <= 0)
                        return r;
                if (r == LINE_EMPTY && p->lines > 0)
                        break;
                if (r == LINE_EMPTY) {
                        /* RFC 9112 §2.2: one empty line before a request line is to be forgiven. */
                        if (from > 0)
                                return refuse(p, 400, "empty request line");
                        p->first_line = p->line;
                        continue;
                }
                if (p->lines == 0) {
                        r = parse_request_line(p, (struct slice){buf + from, end - from}, limits, ret,
                                               &authority);
                        if (r < 0)
                                return r;
                        have_line = true;
                }
                if (p->lines++ > HTTP1_HEADERS_MAX)
                        return refuse(p, 431, "too many header lines");
        }
        first = (size_t)((const char *)memchr(buf + p->first_line, '\r', p->line - p->first_line) - buf);
        if (!have_line) {
                r = parse_request_line(p, (struct slice){buf + p->first_line, first - p->first_line}, limits,
                                       ret, &authority);
                if (r < 0)
                        return r;
        }
        r = parse_headers(p, buf, first + 2, p->line, ret->headers, &ret->n_headers, &seen);
        if (r < 0)
                return r;
        r = conclude_request(p, ret, &seen, limits, authority);
        return r < 0 ? r : (int)p->line;
}

/* --- responses -------------------------------------------------------------------------------------------------- */

/* "HTTP/1.1 200 OK"; the phrase and the space before it may be missing. */
static int parse_status_line(struct http1_parser *p, struct slice line, struct http1_response *ret)
{
        const char *s = line.p;

        if (line.n < 12 || !slice_starts_with(line, SLICE("HTTP/1.")) || (s[7] != '0' && s[7] != '1') ||
            s[8] != ' ')
                return refuse(p, 400, "status line does not begin with HTTP/1.0 or HTTP/1.1");
        if (s[9] < '1' || s[9] > '9' || s[10] < '0' || s[10] > '9' || s[11] < '0' || s[11] > '9' ||
            (line.n > 12 && s[12] != ' '))
                return refuse(p, 400, "status is not a three-digit number");
        ret->minor = (unsigned)(s[7] - '0');
        ret->status = (s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0');
        ret->reason = slice_sub(line, 13, line.n);
        return 0;
}

static int conclude_response(struct http1_parser *p, struct http1_response *ret, const struct seen *s,
                             enum http1_method to)
{
        bool no_content = ret->status < 200 || ret->status == 204;
        int r;

        r = check_framing(p, s, ret->minor, &ret->content_length);
        if (r < 0)
                return r;
        ret->has_length = s->length.p != NULL;
        ret->keep_alive = keeps_alive(s, ret->minor);
        if (no_content || ret->status == 304 || to == HTTP1_HEAD) {
                ret->framing = HTTP1_NO_BODY;
                /* It must not announce a body; one that does may send it too, as the beginning of a forged next answer. */
                if (no_content && (s->coding.p || ret->content_length > 0))
                        ret->keep_alive = false;
        } else if (s->coding.p) {
                ret->framing = HTTP1_CHUNKED;
        } else if (s->length.p) {
                ret->framing = HTTP1_LENGTH;
        } else {
                ret->framing = HTTP1_UNTIL_CLOSE;
                ret->keep_alive = false;
        }
        return 0;
}

static int response_parse(struct http1_parser *p, const char *buf, size_t len,
                          const struct http1_limits *limits, enum http1_method to, struct http1_response *ret)
{
        struct seen seen = {0};
        bool have_line = false;
        size_t first, end = 0;
        int r;

        memset(ret, 0, offsetof(struct http1_response, headers));
        for (;;) {
                size_t from = p->line;

                r = next_line(p, buf, len, limits, &end);
                if (r <= 0)
                        return r;
                if (r == LINE_EMPTY && p->lines > 0)
                        break;
                if (r == LINE_EMPTY)
                        return refuse(p, 400, "empty status line");
                if (p->lines == 0) {
                        r = parse_status_line(p, (struct slice){buf + from, end - from}, ret);
                        if (r < 0)
                                return r;
                        have_line = true;
                }
                if (p->lines++ > HTTP1_HEADERS_MAX)
                        return refuse(p, 431, "too many header lines");
        }
        first = (size_t)((const char *)memchr(buf, '\r', p->line) - buf);
        if (!have_line) {
                r = parse_status_line(p, (struct slice){buf, first}, ret);
                if (r < 0)
                        return r;
        }
        r = parse_headers(p, buf, first + 2, p->line, ret->headers, &ret->n_headers, &seen);
        if (r < 0)
                return r;
        r = conclude_response(p, ret, &seen, to);
        return r < 0 ? r : (int)p->line;
}

int http1_response_parse(struct http1_parser *p, const char *buf, size_t len,
                         const struct http1_limits *limits, enum http1_method to, struct http1_response *ret)
{
        int r = response_parse(p, buf, len, limits ? limits : &http1_limits_default, to, ret);

        if (r >= 0)
                return r;
        return r == -414 || r == -431 ? -EMSGSIZE : -EPROTO;
}

/* --- headers ---------------------------------------------------------------------------------------------------- */

size_t http1_header_find_slice(const struct http1_header *headers, size_t n, struct slice name,
                               struct slice *ret)
{
        size_t found = 0;

        for (size_t i = 0; i < n; i++)
                if (slice_eq_nocase(headers[i].name, name) && found++ == 0)
                        *ret = headers[i].value;
        return found;
}

bool http1_list_next(struct slice *rest, struct slice *ret)
{
        while (rest->n) {
                size_t n = slice_find(*rest, ',');
                struct slice item = slice_trim(slice_sub(*rest, 0, n));

                *rest = slice_sub(*rest, n + 1, rest->n);
                if (item.n) {
                        *ret = item;
                        return true;
                }
        }
        return false;
}

bool http1_header_lists(const struct http1_header *headers, size_t n, const char *name, const char *token)
{
        struct slice wanted = slice_str(name), item;

        for (size_t i = 0; i < n; i++) {
                struct slice rest = headers[i].value;

                if (!slice_eq_nocase(headers[i].name, wanted))
                        continue;
                while (http1_list_next(&rest, &item))
                        if (slice_eq_nocase(item, slice_str(token)))
                                return true;
        }
        return false;
}

bool http1_header_is_hop(struct slice name)
{
        static const struct slice hop[] = {
                SLICE("connection"),
                SLICE("keep-alive"),
                SLICE("transfer-encoding"),
                SLICE("upgrade"),
                SLICE("te"),
                SLICE("trailer"),
                SLICE("proxy-connection"),
                SLICE("proxy-authenticate"),
                SLICE("proxy-authorization"),
                SLICE("http2-settings"),
        };

        for (size_t i = 0; i < ARRAY_SIZE(hop); i++)
                if (slice_eq_nocase(name, hop[i]))
                        return true;
        return false;
}
