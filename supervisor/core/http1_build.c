/* http1_build.c: heads and chunks to send. */
#include "core/http1_build.h"

#include <errno.h>

#include "core/http1.h"

static const struct {
        int status;
        const char *reason;
} reasons[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {103, "Early Hints"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {425, "Too Early"},
        {426, "Upgrade Required"},
        {428, "Precondition Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
};

const char *http1_reason(int status)
{
        for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
                if (reasons[i].status == status)
                        return reasons[i].reason;
        return "Status";
}

bool http1_is_field_value(struct slice value)
{
        return http1_skip_text(value.p, 0, value.n) == value.n && slice_trim(value).n == value.n;
}

static int invalid(struct buffer *b)
{
        b->failed = true;
        return -EINVAL;
}

/* All pieces or none: room is made first, so that a bound never leaves half a line behind. */
static int append_pieces(struct buffer *b, const struct slice *pieces, size_t n)
{
        size_t sum = 0;
        char *p;
        int r;

        for (size_t i = 0; i < n; i++)
                sum += pieces[i].n;
        r = buffer_reserve(b, sum);
        if (r < 0)
                return r;
        p = b->data + b->len;
        for (size_t i = 0; i < n; i++)
                if (pieces[i].n)
                        p = mempcpy(p, pieces[i].p, pieces[i].n);
        *p = '\0';
        b->len += sum;
        return 0;
}

static bool is_target(struct slice s)
{
        for (size_t i = 0; i < s.n; i++)
                if (s.p[i] <= 0x20 || s.p[i] >= 0x7f || s.p[i] == '#')
                        return false;
        return s.n > 0;
}

int http1_build_request(struct buffer *b, struct slice method, struct slice target)
{
        const struct slice pieces[] = {method, SLICE(" "), target, SLICE(" HTTP/1.1\r\n")};

        if (!http1_is_token(method) || !is_target(target))
                return invalid(b);
        return append_pieces(b, pieces, ARRAY_SIZE(pieces));
}

int http1_build_response(struct buffer *b, int status)
{
        const char digits[] = {(char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10),
                               (char)('0' + status % 10)};
        const struct slice pieces[] = {
                SLICE("HTTP/1.1 "), {digits, 3}, SLICE(" "), slice_str(http1_reason(status)), SLICE("\r\n")};

        if (status < 100 || status > 999)
                return invalid(b);
        return append_pieces(b, pieces, ARRAY_SIZE(pieces));
}

/* The value is sound. */
static int append_header(struct buffer *b, struct slice name, struct slice value)
{
        char *p;
        int r;

        if (!http1_is_token(name))
                return invalid(b);
        r = buffer_reserve(b, name.n + value.n + 4);
        if (r < 0)
                return r;
        p = mempcpy(b->data + b->len, name.p, name.n);
        *p++ = ':';
        *p++ = ' ';
        p = value.n ? mempcpy(p, value.p, value.n) : p;
        memcpy(p, "\r\n", 3);
        b->len += name.n + value.n + 4;
        return 0;
}

int http1_build_header_slice(struct buffer *b, struct slice name, struct slice value)
{
        return http1_is_field_value(value) ? append_header(b, name, value) : invalid(b);
}

int http1_build_header(struct buffer *b, const char *name, const char *value)
{
        return http1_build_header_slice(b, slice_str(name), slice_str(value));
}

int http1_build_header_u64(struct buffer *b, const char *name, uint64_t value)
{
        char digits[20];
        size_t at = sizeof(digits);

        do
                digits[--at] = (char)('0' + value % 10);
        while (value /= 10);
        return append_header(b, slice_str(name), (struct slice){digits + at, sizeof(digits) - at});
}

/* "Name: value" and more text up to the CRLF, which is where the first control byte of the rest stands. Its end; 0 for none. */
static size_t skip_line(const char *text, size_t from, size_t end)
{
        size_t colon = http1_skip_token(text, from, end);

        if (colon == from || colon == end || text[colon] != ':')
                return 0;
        colon = http1_skip_text(text, colon, end);
        return end - colon >= 2 && text[colon] == '\r' && text[colon + 1] == '\n' ? colon + 2 : 0;
}

int http1_build_lines(struct buffer *b, const char *lines)
{
        size_t len = lines ? strlen(lines) : 0;

        for (size_t at = 0; at < len;) {
                at = skip_line(lines, at, len);
                if (!at)
                        return invalid(b);
        }
        return lines ? buffer_append(b, lines, len) : 0;
}

int http1_build_end(struct buffer *b)
{
        return buffer_append(b, "\r\n", 2);
}

int http1_build_chunk(struct buffer *b, const void *data, size_t n)
{
        char head[HTTP1_CHUNK_HEAD_MAX];
        const struct slice pieces[] = {{head, http1_chunk_head(head, n)}, {data, n}, SLICE(HTTP1_CHUNK_END)};

        return n ? append_pieces(b, pieces, ARRAY_SIZE(pieces)) : 0;
}

int http1_build_last_chunk(struct buffer *b)
{
        return buffer_puts(b, HTTP1_CHUNK_LAST);
}
