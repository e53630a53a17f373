/* fuzz_engineio.c: bodies of Engine.IO and the Socket.IO packets in them: what is parsed lies within the input, and says the same
 * when it is written again. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "http/engineio.h"

/* Not assert: the fuzzers are built with NDEBUG. */
static void check(bool holds)
{
        if (!holds)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(struct slice outer, struct slice inner)
{
        check(inner.n == 0 || (inner.p >= outer.p && inner.p + inner.n <= outer.p + outer.n));
}

static void write_again(const struct socketio_packet *p, struct buffer *out)
{
        (void)buffer_printf(out, "%d", (int)p->type);
        if (p->type == SOCKETIO_BINARY_EVENT || p->type == SOCKETIO_BINARY_ACK)
                (void)buffer_printf(out, "%u-", p->attachments);
        if (!slice_eq(p->nsp, SLICE("/"))) {
                (void)buffer_append(out, p->nsp.p, p->nsp.n);
                (void)buffer_putc(out, ',');
        }
        if (p->has_id)
                (void)buffer_printf(out, "%llu", (unsigned long long)p->id);
        (void)buffer_append(out, p->data.p, p->data.n);
}

static void check_socketio(struct slice text)
{
        struct socketio_packet p, again;
        struct buffer out;

        if (socketio_parse(text, &p) < 0)
                return;
        check_inside(text, p.data);
        if (!slice_eq(p.nsp, SLICE("/")))
                check_inside(text, p.nsp);
        check(p.attachments <= SOCKETIO_ATTACHMENTS_MAX);
        buffer_init(&out, 0);
        write_again(&p, &out);
        check(!out.failed);
        check(socketio_parse((struct slice){out.data, out.len}, &again) == 0);
        check(again.type == p.type && again.id == p.id && again.has_id == p.has_id);
        check(slice_eq(again.nsp, p.nsp) && slice_eq(again.data, p.data));
        buffer_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct slice body = {(const char *)data, size}, rest = body, text;
        size_t seen = 0;

        while (engineio_next(&rest, &text)) {
                struct engineio_packet p;

                seen += text.n + 1;
                if (engineio_parse(text, &p) < 0)
                        continue;
                check(p.data.n == text.n - 1);
                if (p.type == ENGINEIO_MESSAGE)
                        check_socketio(p.data);
        }
        check(size == 0 || seen == size + 1);
        return 0;
}
