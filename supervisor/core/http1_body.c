/* http1_body.c: where a body ends: chunked coding, lengths, and the peer's EOF. */
#include "core/http1.h"

#include <errno.h>

enum chunk_state {
        CHUNK_SIZE, /* hex digits */
        CHUNK_EXT,  /* behind ';', dropped */
        CHUNK_SIZE_LF,
        CHUNK_DATA,
        CHUNK_DATA_CR,
        CHUNK_DATA_LF,
        CHUNK_TRAILER, /* at the beginning of a trailer line, or of the last empty one */
        CHUNK_NAME,
        CHUNK_VALUE,
        CHUNK_VALUE_LF,
        CHUNK_LAST_LF,
        CHUNK_END,
        CHUNK_BROKEN,
};

void http1_chunked_init(struct http1_chunked *c)
{
        *c = (struct http1_chunked){.state = CHUNK_SIZE};
}

static int broken(struct http1_chunked *c, int error, const char *reason)
{
        c->state = CHUNK_BROKEN;
        c->reason = reason;
        return error;
}

static int hex_digit(unsigned char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        c = ascii_lower(c);
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_text(unsigned char c)
{
        return c == '\t' || (c >= 0x20 && c != 0x7f);
}

/* RFC 9110 §6.5.1: a trailer that frames, routes or authenticates is an attack on a reader who merges trailers. */
static bool is_forbidden_trailer(const struct http1_chunked *c)
{
        static const char *const names[] = {"content-length", "transfer-encoding", "host", "authorization"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (slice_eq_nocase((struct slice){c->name, c->name_len}, slice_str(names[i])))
                        return true;
        return false;
}

static int size_byte(struct http1_chunked *c, unsigned char byte)
{
        int digit = hex_digit(byte);

        if (digit >= 0) {
                /* 16 digits are 64 bits: no overflow is possible, leading zeros count too. */
                if (++c->digits > 16)
                        return broken(c, -EPROTO, "chunk size with more than 16 digits");
                c->left = c->left << 4 | (unsigned)digit;
                return 0;
        }
        if (c->digits == 0)
                return broken(c, -EPROTO, "chunk without a hexadecimal size");
        if (byte == ';')
                c->state = CHUNK_EXT;
        else if (byte == '\r')
                c->state = CHUNK_SIZE_LF;
        else
                return broken(c, -EPROTO, "chunk size followed by something else than ';' or CRLF");
        return 0;
}

static int trailer_name_byte(struct http1_chunked *c, unsigned char byte)
{
        const char one = (char)byte;

        if (byte == ':') {
                if (is_forbidden_trailer(c))
                        return broken(c, -EPROTO, "trailer that must not be one");
                c->state = CHUNK_VALUE;
                return 0;
        }
        if (!http1_is_token((struct slice){&one, 1}))
                return broken(c, -EPROTO, "trailer without a valid name and colon");
        if (c->name_len < sizeof(c->name))
                c->name[c->name_len++] = one;
        return 0;
}

/* One byte of framing (everything but payload). */
static int framing_byte(struct http1_chunked *c, unsigned char byte)
{
        switch ((enum chunk_state)c->state) {
        case CHUNK_SIZE:
                return size_byte(c, byte);
        case CHUNK_EXT:
                if (byte == '\r')
                        c->state = CHUNK_SIZE_LF;
                else if (!is_text(byte) || byte >= 0x80)
                        return broken(c, -EPROTO, "invalid byte in a chunk extension");
                else if (++c->extra > HTTP1_CHUNK_EXTRA_MAX)
                        return broken(c, -EMSGSIZE, "too many chunk extensions");
                return 0;
        case CHUNK_SIZE_LF:
                if (byte != '\n')
                        return broken(c, -EPROTO, "chunk size line not ended by CRLF");
                c->line = c->digits = 0;
                c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
                return 0;
        case CHUNK_DATA_CR:
                if (byte != '\r')
                        return broken(c, -EPROTO, "chunk longer than its size");
                c->state = CHUNK_DATA_LF;
                return 0;
        case CHUNK_DATA_LF:
                if (byte != '\n')
                        return broken(c, -EPROTO, "chunk not ended by CRLF");
                c->state = CHUNK_SIZE;
                return 0;
        case CHUNK_TRAILER:
                c->name_len = 0;
                if (byte == '\r') {
                        c->state = CHUNK_LAST_LF;
                        return 0;
                }
                if (byte == ':')
                        return broken(c, -EPROTO, "trailer without a name");
                c->state = CHUNK_NAME;
                return trailer_name_byte(c, byte);
        case CHUNK_NAME:
                return trailer_name_byte(c, byte);
        case CHUNK_VALUE:
                if (byte == '\r')
                        c->state = CHUNK_VALUE_LF;
                else if (!is_text(byte))
                        return broken(c, -EPROTO, "invalid byte in a trailer");
                return 0;
        case CHUNK_VALUE_LF:
                if (byte != '\n')
                        return broken(c, -EPROTO, "trailer not ended by CRLF");
                c->state = CHUNK_TRAILER;
                return 0;
        case CHUNK_LAST_LF:
                if (byte != '\n')
                        return broken(c, -EPROTO, "body not ended by CRLF");
                c->state = CHUNK_END;
                return 0;
        case CHUNK_DATA:
        case CHUNK_END:
        case CHUNK_BROKEN:
                break;
        }
        return -EPROTO;
}

/* Bounds what is read between two pieces of payload. */
static int count_framing(struct http1_chunked *c)
{
        if (c->state <= CHUNK_SIZE_LF && ++c->line > HTTP1_CHUNK_LINE_MAX)
                return broken(c, -EMSGSIZE, "chunk size line too long");
        if (c->state >= CHUNK_TRAILER && c->state <= CHUNK_LAST_LF && ++c->extra > HTTP1_CHUNK_EXTRA_MAX)
                return broken(c, -EMSGSIZE, "trailers too long");
        return 0;
}

/* The framing of nearly every chunk, "CRLF size CRLF" or its two halves, in one piece: how many bytes of `in` it took. Whatever is
 * not as usual is left to framing_byte from its first byte on, the verdict on it too. */
static size_t usual_framing(struct http1_chunked *c, const char *in, size_t len)
{
        uint64_t size = 0;
        size_t i = 0, n = 0;

        if (c->state == CHUNK_DATA_CR && len >= 2 && in[0] == '\r' && in[1] == '\n') {
                c->state = CHUNK_SIZE;
                i = 2;
        }
        if (c->state != CHUNK_SIZE || c->line)
                return i;
        for (; n < 8 && i + n < len; n++) {
                int digit = hex_digit((unsigned char)in[i + n]);

                if (digit < 0)
                        break;
                size = size << 4 | (unsigned)digit;
        }
        if (!size || i + n + 2 > len || in[i + n] != '\r' || in[i + n + 1] != '\n')
                return i;
        c->left = size;
        c->state = CHUNK_DATA;
        return i + n + 2;
}

int http1_chunked_feed(struct http1_chunked *c, const char *in, size_t len, size_t *ret_used,
                       struct slice *ret_data)
{
        size_t i;
        int r;

        if (c->state == CHUNK_BROKEN)
                return -EPROTO;
        i = usual_framing(c, in, len);
        while (i < len && c->state != CHUNK_END) {
                if (c->state == CHUNK_DATA) {
                        size_t n = (size_t)MIN((uint64_t)(len - i), c->left);

                        c->left -= n;
                        if (c->left == 0)
                                c->state = CHUNK_DATA_CR;
                        *ret_data = (struct slice){in + i, n};
                        *ret_used = i + n;
                        return i + n < len ? HTTP1_AGAIN : HTTP1_MORE;
                }
                r = count_framing(c);
                if (r < 0)
                        return r;
                r = framing_byte(c, (unsigned char)in[i]);
                if (r < 0)
                        return r;
                i++;
        }
        *ret_data = (struct slice){0};
        *ret_used = i;
        return c->state == CHUNK_END ? HTTP1_DONE : HTTP1_MORE;
}

size_t http1_chunk_head(char buf[HTTP1_CHUNK_HEAD_MAX], uint64_t n)
{
        static const char digits[] = "0123456789abcdef";
        unsigned bits = 4;
        size_t len = 0;

        if (n == 0)
                return 0;
        while (bits < 64 && n >> bits)
                bits += 4;
        while (bits) {
                bits -= 4;
                buf[len++] = digits[n >> bits & 15];
        }
        buf[len++] = '\r';
        buf[len++] = '\n';
        return len;
}

/* --- any framing ------------------------------------------------------------------------------------------------ */

void http1_body_init(struct http1_body *b, enum http1_framing framing, uint64_t content_length, uint64_t max)
{
        *b = (struct http1_body){.framing = framing, .max = max ? max : UINT64_MAX};
        if (framing == HTTP1_LENGTH)
                b->left = content_length;
        b->done = framing == HTTP1_NO_BODY || (framing == HTTP1_LENGTH && content_length == 0);
        http1_chunked_init(&b->chunked);
}

void http1_body_init_request(struct http1_body *b, const struct http1_request *head, uint64_t max)
{
        http1_body_init(b, head->framing, head->content_length, max);
}

void http1_body_init_response(struct http1_body *b, const struct http1_response *head, uint64_t max)
{
        http1_body_init(b, head->framing, head->content_length, max);
}

bool http1_body_is_done(const struct http1_body *b)
{
        return b->done;
}

static int body_too_long(struct http1_body *b)
{
        b->reason = "body too long";
        return -EMSGSIZE;
}

static int feed_chunked(struct http1_body *b, const char *in, size_t len, size_t *ret_used,
                        struct slice *ret_data)
{
        struct slice data;
        size_t used;
        int r;

        r = http1_chunked_feed(&b->chunked, in, len, &used, &data);
        if (r < 0) {
                b->reason = b->chunked.reason;
                return r;
        }
        /* Told as soon as a chunk that cannot fit is announced: nobody has to wait for the byte too many. Not before its size
         * line is whole, else the verdict on a broken one would hang on how the bytes were cut. */
        if (data.n > b->max - b->total ||
            (b->chunked.state == CHUNK_DATA && b->chunked.left > b->max - b->total - data.n))
                return body_too_long(b);
        b->total += data.n;
        b->done = r == HTTP1_DONE;
        *ret_used = used;
        *ret_data = data;
        return r;
}

int http1_body_feed(struct http1_body *b, const char *in, size_t len, size_t *ret_used,
                    struct slice *ret_data)
{
        size_t n = len;

        if (b->reason)
                return -EPROTO;
        if (b->done) {
                *ret_used = 0;
                *ret_data = (struct slice){0};
                return HTTP1_DONE;
        }
        if (b->framing == HTTP1_CHUNKED)
                return feed_chunked(b, in, len, ret_used, ret_data);
        if (b->framing == HTTP1_LENGTH) {
                n = (size_t)MIN((uint64_t)len, b->left);
                if (b->left > b->max - b->total)
                        return body_too_long(b);
                b->left -= n;
                b->done = b->left == 0;
        } else if (n > b->max - b->total) {
                return body_too_long(b);
        }
        b->total += n;
        *ret_used = n;
        *ret_data = (struct slice){in, n};
        return b->done ? HTTP1_DONE : HTTP1_MORE;
}

int http1_body_eof(struct http1_body *b)
{
        if (b->framing == HTTP1_UNTIL_CLOSE && !b->reason)
                b->done = true;
        return b->done && !b->reason ? 0 : -EPROTO;
}
