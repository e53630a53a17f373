/* fuzz_assemble.c: streams of any bytes, cut anywhere: never more told than came, and what is called whole is JSON. */
#include <assert.h>
#include <stdlib.h>

#include "base/json.h"
#include "core/assemble.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
        enum assemble_form form = size ? data[0] % 5 : 0;
        enum assemble_tell tell = size ? data[0] / 5 % 3 : 0;
        size_t step = size ? 1 + data[0] / 15 : 1;
        struct assemble_answer answer;
        struct buffer told, body;
        struct assemble *a;
        int r = 0;

        buffer_init(&told, 0);
        buffer_init(&body, 0);
        if (assemble_new(form, tell, 64 * 1024, &a) < 0)
                return 0;
        for (size_t at = 1; at < size; at += step)
                r = assemble_feed(a, (const char *)data + at, MIN(step, size - at), &told);
        /* A told event may have an LF for each CR, and one at its end. */
        assert(told.len <= size);
        assert(tell != ASSEMBLE_TELL_NOTHING || told.len == 0);
        r = r < 0 ? r : assemble_end(a, &body, &answer);
        if (r == 0)
                assert(json_check(body.data, body.len, NULL) == 0);
        assemble_free(a);
        buffer_clear(&body);
        assemble_read((const char *)data, size, &body, &answer);
        buffer_finish(&told);
        buffer_finish(&body);
        return 0;
}
