/* fuzz_gguf.c: any bytes as a GGUF file: what is read does not hang on the size of the window, nothing outside the file is asked
 * for, and whatever is refused has said where and why. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
        const uint8_t *data;
        size_t size;
};

static ssize_t read_at(void *owner, uint64_t offset, void *buf, size_t len)
{
        const struct input *in = owner;
        size_t n;

        if (offset > in->size)
                abort();
        n = MIN(len, in->size - (size_t)offset);
        if (n)
                memcpy(buf, in->data + offset, n);
        return (ssize_t)n;
}

static int read_with(const struct input *in, size_t window_size, uint64_t claimed, struct gguf *g,
                     struct gguf_error *e)
{
        const struct gguf_source source = {
                .read_at = read_at, .owner = (void *)(uintptr_t)in, .size = claimed};
        void *window = malloc(window_size);
        int r;

        if (!window)
                abort();
        r = gguf_read(&source, window, window_size, g, e);
        free(window);
        return r;
}

static void check_text(const char *s, size_t size)
{
        char copy[256];
        size_t n = strnlen(s, size);

        if (n >= size || n >= sizeof(copy))
                abort();
        memcpy(copy, s, n + 1);
        if (text_harmless(copy) != n || !streq(copy, s))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const struct input in = {data, size};
        struct gguf g, h, untouched;
        struct gguf_error e = {0}, f = {0};
        int r, q;

        memset(&g, 0x5a, sizeof(g));
        memset(&h, 0x5a, sizeof(h));
        memset(&untouched, 0x5a, sizeof(untouched));
        r = read_with(&in, GGUF_WINDOW_MIN, size, &g, &e);
        q = read_with(&in, 65536, size, &h, &f);
        if (r != q || (r != 0 && r != -EBADMSG) || e.offset != f.offset || !streq(e.words, f.words))
                abort();
        if (r < 0) {
                if (e.words[0] == '\0' || e.offset > size || memcmp(&g, &untouched, sizeof(g)) != 0)
                        abort();
                check_text(e.words, sizeof(e.words));
                return 0;
        }
        if (g.file_size != size || g.header_size != h.header_size || g.expected_size != h.expected_size ||
            g.parameters != h.parameters || g.kind != h.kind || !streq(g.quantization, h.quantization) ||
            (g.version != 2 && g.version != 3) || g.parameters > INT64_MAX || g.expected_size > INT64_MAX)
                abort();
        check_text(g.architecture, sizeof(g.architecture));
        check_text(g.name, sizeof(g.name));
        check_text(g.size_label, sizeof(g.size_label));
        check_text(g.tokenizer, sizeof(g.tokenizer));
        check_text(g.type, sizeof(g.type));
        check_text(g.quantization, sizeof(g.quantization));
        /* A file that is shorter than it was a moment ago: an error like any other. */
        (void)read_with(&in, GGUF_WINDOW_MIN, size + 100, &h, &f);
        return 0;
}
