/* fuzz_keys.c: what the strict reader of a keys file lets pass is written so that it is read as the same again. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_same(const struct keys *a, const struct keys *b)
{
        if (a->count != b->count)
                abort();
        for (size_t i = 0; i < a->count; i++) {
                const struct key *k = a->list + i, *l = b->list + i;

                if (strcmp(k->name, l->name) != 0 || memcmp(k->hash, l->hash, sizeof(k->hash)) != 0 ||
                    k->scopes != l->scopes || !k->scopes || k->priority != l->priority ||
                    k->rate != l->rate || k->concurrency != l->concurrency ||
                    strcmp(k->created, l->created) != 0 || !k->revoked != !l->revoked ||
                    (k->revoked && strcmp(k->revoked, l->revoked) != 0))
                        abort();
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct keys_problem problem;
        struct keys *k, *again;
        const struct key *found;
        struct buffer text;
        int r = keys_load((const char *)data, size, &k, &problem);

        if (r < 0) {
                if (r == -EBADMSG && (!problem.line || !problem.column || !*problem.message))
                        abort();
                return 0;
        }
        buffer_init(&text, 0);
        keys_put(k, &text);
        if (text.failed || keys_load(text.data, text.len, &again, &problem) < 0)
                abort();
        check_same(k, again);
        (void)keys_find(k, (struct slice){(const char *)data, size}, &found);
        keys_free(again);
        keys_free(k);
        buffer_finish(&text);
        return 0;
}
