/* websocket.c: the frames of RFC 6455, read and judged byte by byte. */
#include "core/websocket.h"

#include "base/text.h"

enum { FIN = 0x80, RESERVED = 0x70, OPCODE = 0x0f, CONTROL = 0x08, MASKED = 0x80, LENGTH = 0x7f };

void websocket_init(struct websocket *w, size_t max)
{
        *w = (struct websocket){.head_need = 2};
        buffer_init(&w->message, max);
}

void websocket_finish(struct websocket *w)
{
        buffer_finish(&w->message);
}

static enum websocket_result refuse(struct websocket *w, struct websocket_event *ret,
                                    enum websocket_code code, const char *why)
{
        w->ended = true;
        *ret = (struct websocket_event){WEBSOCKET_CLOSE, code, slice_str(why)};
        return WEBSOCKET_REFUSED;
}

static enum websocket_result refuse_protocol(struct websocket *w, struct websocket_event *ret,
                                             const char *why)
{
        return refuse(w, ret, WEBSOCKET_PROTOCOL_ERROR, why);
}

/* --- heads -------------------------------------------------------------------------------------------------------- */

static bool is_control(const struct websocket *w)
{
        return w->head[0] & CONTROL;
}

static bool is_known(unsigned opcode)
{
        return opcode <= WEBSOCKET_BINARY || (opcode >= WEBSOCKET_CLOSE && opcode <= WEBSOCKET_PONG);
}

/* The first two bytes, which say how long the head is. */
static enum websocket_result judge_start(struct websocket *w, struct websocket_event *ret)
{
        unsigned opcode = w->head[0] & OPCODE, length = w->head[1] & LENGTH;

        if (w->head[0] & RESERVED)
                return refuse_protocol(w, ret, "reserved bits without an extension");
        if (!is_known(opcode))
                return refuse_protocol(w, ret, "reserved opcode");
        if (!(w->head[1] & MASKED))
                return refuse_protocol(w, ret, "frames of a client must be masked");
        if (is_control(w) && !(w->head[0] & FIN))
                return refuse_protocol(w, ret, "control frames cannot be fragmented");
        if (is_control(w) && length > WEBSOCKET_CONTROL_MAX)
                return refuse_protocol(w, ret, "control frames have at most 125 bytes");
        if (opcode == WEBSOCKET_CONTINUATION && !w->first)
                return refuse_protocol(w, ret, "continuation of nothing");
        if (opcode != WEBSOCKET_CONTINUATION && !is_control(w) && w->first)
                return refuse_protocol(w, ret, "message inside a message");
        w->head_need = (unsigned char)(2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + 4);
        return WEBSOCKET_MORE;
}

static enum websocket_result judge_length(struct websocket *w, struct websocket_event *ret)
{
        unsigned length = w->head[1] & LENGTH, bytes = w->head_need - 6U;
        uint64_t n = bytes ? 0 : length;

        for (unsigned i = 0; i < bytes; i++)
                n = n << 8 | w->head[2 + i];
        if (n >> 63)
                return refuse_protocol(w, ret, "a length has 63 bits");
        if ((bytes == 2 && n < 126) || (bytes == 8 && n <= UINT16_MAX))
                return refuse_protocol(w, ret, "the length is not in its shortest form");
        if (!is_control(w) && n > w->message.max - w->message.len)
                return refuse(w, ret, WEBSOCKET_TOO_BIG, "the message is too long");
        w->left = n;
        return WEBSOCKET_MORE;
}

/* MORE: the head is whole when in_payload is set, else all bytes are used. */
static enum websocket_result take_head(struct websocket *w, const unsigned char *p, size_t len, size_t *at,
                                       struct websocket_event *ret)
{
        enum websocket_result r;

        while (w->head_len < w->head_need) {
                if (*at == len)
                        return WEBSOCKET_MORE;
                w->head[w->head_len++] = p[(*at)++];
                if (w->head_len == 2) {
                        r = judge_start(w, ret);
                        if (r != WEBSOCKET_MORE)
                                return r;
                }
        }
        r = judge_length(w, ret);
        if (r != WEBSOCKET_MORE)
                return r;
        if (!is_control(w) && !w->first)
                w->first = w->head[0] & OPCODE;
        w->control_len = 0;
        w->mask_at = 0;
        w->in_payload = true;
        return WEBSOCKET_MORE;
}

/* --- payloads ------------------------------------------------------------------------------------------------------ */

static void unmask(struct websocket *w, unsigned char *to, const unsigned char *from, size_t n)
{
        const unsigned char *mask = w->head + w->head_need - 4;

        for (size_t i = 0; i < n; i++)
                to[i] = from[i] ^ mask[(w->mask_at + i) & 3];
        w->mask_at = (unsigned char)((w->mask_at + n) & 3);
        w->left -= n;
}

static int take_payload(struct websocket *w, const unsigned char *p, size_t n)
{
        int r;

        if (n == 0)
                return 0;
        if (is_control(w)) {
                unmask(w, w->control + w->control_len, p, n);
                w->control_len = (unsigned char)(w->control_len + n);
                return 0;
        }
        r = buffer_append(&w->message, p, n);
        if (r == 0)
                unmask(w, (unsigned char *)w->message.data + w->message.len - n, p, n);
        return r;
}

static bool is_text(struct slice text)
{
        const unsigned char *p = (const unsigned char *)text.p;

        for (size_t i = 0, n; i < text.n; i += n) {
                n = p[i] < 0x80 ? 1 : text_utf8_sequence(p + i, text.n - i);
                if (n == 0)
                        return false;
        }
        return true;
}

/* Those of §7.4.1 that may be sent, those registered since, and the ranges of libraries and applications. */
static bool is_close_code(unsigned code)
{
        return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
               (code >= 3000 && code <= 4999);
}

static enum websocket_result finish_close(struct websocket *w, struct websocket_event *ret)
{
        unsigned code = (unsigned)w->control[0] << 8 | w->control[1];

        ret->code = WEBSOCKET_NO_STATUS;
        w->ended = true;
        if (w->control_len == 0)
                return WEBSOCKET_EVENT;
        if (w->control_len == 1 || !is_close_code(code))
                return refuse_protocol(w, ret, "this close code cannot be sent");
        ret->code = (enum websocket_code)code;
        ret->payload = slice_sub(ret->payload, 2, w->control_len);
        if (!is_text(ret->payload))
                return refuse(w, ret, WEBSOCKET_NOT_TEXT, "the reason is not UTF-8");
        return WEBSOCKET_EVENT;
}

static enum websocket_result finish_frame(struct websocket *w, struct websocket_event *ret)
{
        unsigned opcode = w->head[0] & OPCODE;

        w->in_payload = false;
        w->head_len = 0;
        w->head_need = 2;
        if (is_control(w)) {
                *ret = (struct websocket_event){.opcode = (enum websocket_opcode)opcode,
                                                .payload = {(const char *)w->control, w->control_len}};
                return opcode == WEBSOCKET_CLOSE ? finish_close(w, ret) : WEBSOCKET_EVENT;
        }
        if (!(w->head[0] & FIN))
                return WEBSOCKET_MORE;
        *ret = (struct websocket_event){.opcode = (enum websocket_opcode)w->first,
                                        .payload = {w->message.data ? w->message.data : "", w->message.len}};
        w->first = 0;
        w->delivered = true;
        if (ret->opcode == WEBSOCKET_TEXT && !is_text(ret->payload))
                return refuse(w, ret, WEBSOCKET_NOT_TEXT, "text must be UTF-8");
        return WEBSOCKET_EVENT;
}

/* The last message's memory goes when its owner comes back, so that an idle connection keeps none. */
static void forget_message(struct websocket *w)
{
        size_t max = w->message.max;

        if (!w->delivered)
                return;
        w->delivered = false;
        buffer_finish(&w->message);
        buffer_init(&w->message, max);
}

enum websocket_result websocket_feed(struct websocket *w, const void *data, size_t len, size_t *ret_used,
                                     struct websocket_event *ret)
{
        enum websocket_result r = WEBSOCKET_MORE;
        const unsigned char *p = data;
        size_t at = 0;

        forget_message(w);
        while (!w->ended && r == WEBSOCKET_MORE) {
                size_t n;

                if (!w->in_payload)
                        r = take_head(w, p, len, &at, ret);
                if (!w->in_payload || r != WEBSOCKET_MORE)
                        break;
                n = (size_t)MIN(w->left, (uint64_t)(len - at));
                if (take_payload(w, p + at, n) < 0) {
                        r = refuse(w, ret, WEBSOCKET_NO_MEMORY, "out of memory");
                        break;
                }
                at += n;
                if (w->left)
                        break;
                r = finish_frame(w, ret);
        }
        *ret_used = r == WEBSOCKET_MORE ? len : at;
        return r;
}

/* --- what we send ------------------------------------------------------------------------------------------------- */

size_t websocket_build_head(unsigned char ret[WEBSOCKET_HEAD_MAX], enum websocket_opcode opcode, uint64_t len)
{
        size_t bytes = len < 126 ? 0 : len <= UINT16_MAX ? 2 : 8;

        ret[0] = (unsigned char)(FIN | opcode);
        ret[1] = bytes == 0 ? (unsigned char)len : bytes == 2 ? 126 : 127;
        for (size_t i = 0; i < bytes; i++)
                ret[2 + i] = (unsigned char)(len >> (8 * (bytes - 1 - i)));
        return 2 + bytes;
}

size_t websocket_build_close(unsigned char ret[WEBSOCKET_CLOSE_MAX], enum websocket_code code,
                             struct slice reason)
{
        size_t n = MIN(reason.n, (size_t)WEBSOCKET_CONTROL_MAX - 2), head;

        if (code == WEBSOCKET_NO_STATUS)
                return websocket_build_head(ret, WEBSOCKET_CLOSE, 0);
        while (n < reason.n && n > 0 && ((unsigned char)reason.p[n] & 0xc0) == 0x80)
                n--;
        head = websocket_build_head(ret, WEBSOCKET_CLOSE, 2 + n);
        ret[head] = (unsigned char)(code >> 8);
        ret[head + 1] = (unsigned char)code;
        if (n)
                memcpy(ret + head + 2, reason.p, n);
        return head + 2 + n;
}
