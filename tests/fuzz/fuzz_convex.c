/* fuzz_convex.c: whatever a Convex backend says, one frame a line: a session stays whole, and says numbers once. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/convex.h"

static void check(bool holds)
{
        if (!holds)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int say(void *owner, const char *frame, size_t len)
{
        (void)owner;
        check(json_check(frame, len, NULL) == 0);
        return 0;
}

static void hear(struct convex *c, const char *line, size_t len)
{
        struct convex_event e;
        char words[80];

        if (convex_take(c, line, len, &e) < 0)
                return;
        check(e.text != NULL);
        check((e.kind == CONVEX_ANSWER) == (e.mutation != NULL));
        (void)convex_refusal_of(e.text);
        check(strlen(convex_words(e.text, words, sizeof words)) < sizeof words);
        if (e.kind == CONVEX_BROKEN || e.kind == CONVEX_FATAL) {
                convex_closed(c, e.text);
                (void)convex_open(c, 1, say, NULL);
        } else if (e.kind == CONVEX_VALUE) {
                (void)convex_ask(c, !e.value, say, NULL);
                (void)convex_ask(c, true, say, NULL);
        }
        convex_event_finish(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const unsigned char random[16] = {1};
        const char *text = (const char *)data;
        struct convex_mutation *m;
        struct convex c;
        size_t n;

        if (convex_init(&c, NULL, random, 0, "k") < 0)
                return 0;
        for (unsigned i = 0; i < 4; i++)
                (void)convex_mutate(&c, "workers:giveMeWork", "", NULL, say, NULL, &m);
        (void)convex_ask(&c, true, say, NULL);
        (void)convex_open(&c, 1, say, NULL);
        for (size_t at = 0; at < size; at += n + 1) {
                const char *end = memchr(text + at, '\n', size - at);

                n = end ? (size_t)(end - text) - at : size - at;
                hear(&c, text + at, n);
        }
        n = convex_piece(text, size);
        check(n <= size);
        check(c.n_mutations <= 4);
        convex_finish(&c);
        return 0;
}
