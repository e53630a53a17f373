/* fuzz_websocket.c: frames of a client: what comes of them does not depend on how the bytes were cut, stays within its bounds, and
 * is nothing after a close frame or a refusal; what we write is what the rules say. The input's first byte cuts it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/text.h"
#include "core/websocket.h"

enum { MAX = 300 };

/* Not assert: the fuzzers are built with NDEBUG. */
static void check(bool holds)
{
        if (!holds)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_text(struct slice s)
{
        for (size_t i = 0, n; i < s.n; i += n) {
                n = text_utf8_sequence((const unsigned char *)s.p + i, s.n - i);
                if (!n)
                        return false;
        }
        return true;
}

static void check_event(enum websocket_result r, const struct websocket_event *e)
{
        unsigned char frame[WEBSOCKET_CLOSE_MAX];

        if (r == WEBSOCKET_REFUSED)
                check(e->code == WEBSOCKET_PROTOCOL_ERROR || e->code == WEBSOCKET_NOT_TEXT ||
                      e->code == WEBSOCKET_TOO_BIG);
        else if (e->opcode == WEBSOCKET_TEXT || e->opcode == WEBSOCKET_BINARY)
                check(e->payload.n <= MAX);
        else
                check(e->payload.n <= WEBSOCKET_CONTROL_MAX);
        if (r == WEBSOCKET_REFUSED || e->opcode == WEBSOCKET_TEXT || e->opcode == WEBSOCKET_CLOSE)
                check(is_text(e->payload));
        if (e->opcode == WEBSOCKET_CLOSE) {
                size_t n = websocket_build_close(frame, e->code, e->payload);

                check(n <= sizeof(frame) && frame[0] == 0x88 && frame[1] == n - 2);
        }
}

static void feed_all(const uint8_t *data, size_t size, size_t step, struct buffer *out)
{
        bool ended = false;
        struct websocket w;

        websocket_init(&w, MAX);
        for (size_t at = 0, n; at < size; at += n) {
                enum websocket_result r;
                size_t in_piece = 0;

                n = MIN(step, size - at);
                do {
                        struct websocket_event e = {0};
                        size_t used = SIZE_MAX;

                        r = websocket_feed(&w, data + at + in_piece, n - in_piece, &used, &e);
                        check(used <= n - in_piece);
                        in_piece += used;
                        if (r == WEBSOCKET_MORE) {
                                check(in_piece == n);
                                break;
                        }
                        check(!ended);
                        ended = e.opcode == WEBSOCKET_CLOSE;
                        check_event(r, &e);
                        (void)buffer_printf(out, "%d %d %d ", (int)r, (int)e.opcode, (int)e.code);
                        (void)buffer_append(out, e.payload.p, e.payload.n);
                } while (r == WEBSOCKET_EVENT);
                check(w.message.len <= MAX);
        }
        websocket_finish(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct buffer whole, cut;

        if (size == 0)
                return 0;
        buffer_init(&whole, 0);
        buffer_init(&cut, 0);
        feed_all(data + 1, size - 1, SIZE_MAX, &whole);
        feed_all(data + 1, size - 1, data[0] % 17 + 1, &cut);
        check(!whole.failed && !cut.failed && whole.len == cut.len);
        check(whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0);
        buffer_finish(&whole);
        buffer_finish(&cut);
        return 0;
}
