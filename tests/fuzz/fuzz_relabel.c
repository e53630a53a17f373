/* fuzz_relabel.c: what a server may say on its /metrics. Whatever it is, what comes out is lines of samples that read back as the same. */
#include <stdlib.h>

#include "core/relabel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t relabel(struct slice text, struct buffer *out, struct slice ours)
{
        struct relabel_line line;
        size_t n = 0;

        while (relabel_next(&text, &line))
                if (line.kind == RELABEL_SAMPLE && relabel_put(out, &line, ours))
                        n++;
        return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct buffer once, twice;
        size_t n;

        buffer_init(&once, 0);
        buffer_init(&twice, 0);
        n = relabel((struct slice){(const char *)data, size}, &once, SLICE("instance=\"a\",model=\"b\""));
        if (once.failed)
                abort();
        /* All of it is well-formed, and is known to have these labels. */
        if (relabel((struct slice){once.data, once.len}, &twice, SLICE("other=\"c\"")) > n)
                abort();
        buffer_clear(&twice);
        if (relabel((struct slice){once.data, once.len}, &twice, SLICE("model=\"c\"")) != 0)
                abort();
        buffer_finish(&once);
        buffer_finish(&twice);
        return 0;
}
