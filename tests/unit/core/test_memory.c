/* test_memory.c: the cache that llama-server makes (measured with build 11669, `-lv 5`), and models whose cache is known. */
#include "core/memory.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/macros.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* scripts/make-tiny-model's: K and V are 32 numbers a layer. */
static const struct gguf tiny = {.architecture = "llama",
                                 .context = 32768,
                                 .blocks = 2,
                                 .heads = 4,
                                 .heads_kv = 2,
                                 .heads_kv_sum = 4,
                                 .key_length = 16,
                                 .value_length = 16};

static uint64_t cache_of(const struct gguf *g, char *const *args, char *const *env)
{
        struct memory_need need;

        assert_int_equal(memory_need(g, 0, args, env, &need), 0);
        assert_true(need.least <= need.wants);
        return need.wants - MEMORY_BESIDE;
}

#define ARGS(...) ((char *[]){__VA_ARGS__, NULL})

static void as_measured(void **state)
{
        (void)state;
        assert_int_equal(cache_of(&tiny, NULL, NULL), 8 * MIB); /* 32768 cells */
        assert_int_equal(cache_of(&tiny, ARGS("-c", "8192"), NULL), 2 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-c", "8192", "-np", "4"), NULL), 2 * MIB); /* 4 × 2048 */
        assert_int_equal(cache_of(&tiny, ARGS("-np", "2"), NULL), 16 * MIB);              /* 2 × 32768 */
        assert_int_equal(cache_of(&tiny, ARGS("-c", "100"), NULL), 256 * 256);            /* 256 cells */
        assert_int_equal(cache_of(&tiny, ARGS("-c", "65536"), NULL), 16 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-c", "1000", "-np", "3"), NULL), 3 * 512 * 256);
        assert_int_equal(cache_of(&tiny, ARGS("-np", "2", "-kvu"), NULL), 8 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("--kv-unified-per-slot", "1000", "-np", "3"), NULL),
                         3 * 1024 * 256);
}

static void the_last_word_counts(void **state)
{
        char *env[] = {(char *)"LLAMA_ARG_CTX_SIZE=4096", (char *)"LLAMA_ARG_NO_KV_OFFLOAD=0", NULL};

        (void)state;
        assert_int_equal(cache_of(&tiny, ARGS("-c", "8192", "--ctx_size", "16384"), NULL), 4 * MIB);
        assert_int_equal(cache_of(&tiny, NULL, env), MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-c", "8192"), env), 2 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-np", "2", "-kvu", "-no-kvu"), NULL), 16 * MIB);
        /* What makes no sense is llama-server's to refuse. */
        assert_int_equal(cache_of(&tiny, ARGS("-c", "many"), NULL), 8 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-c"), NULL), 8 * MIB);
}

static void smaller_numbers(void **state)
{
        (void)state;
        assert_int_equal(cache_of(&tiny, ARGS("-ctk", "q8_0", "-ctv", "q4_0"), NULL),
                         4 * MIB * 34 / 64 + 4 * MIB * 18 / 64);
        assert_int_equal(cache_of(&tiny, ARGS("-ctk", "f32"), NULL), 12 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-nkvo"), NULL), 0);
        assert_int_equal(cache_of(&tiny, ARGS("-ngl", "0"), NULL), 0);
        assert_int_equal(cache_of(&tiny, ARGS("-ngl", "1"), NULL), 4 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-ngl", "99"), NULL), 8 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-ngl", "all"), NULL), 8 * MIB);
        assert_int_equal(cache_of(&tiny, ARGS("-dev", "none"), NULL), 0);
}

static void known_models(void **state)
{
        /* Llama 3 8B: 128 KiB a token; 1 GiB at 8192, as everybody's log says. */
        const struct gguf llama3 = {.architecture = "llama",
                                    .context = 8192,
                                    .blocks = 32,
                                    .heads = 32,
                                    .heads_kv = 8,
                                    .heads_kv_sum = 256,
                                    .key_length = 128,
                                    .value_length = 128};
        /* Gemma 3 27B at 32768: 10 of 62 layers see all, the others 1024 tokens of each of 4 slots and a batch: 4608 cells. */
        const struct gguf gemma3 = {.architecture = "gemma3",
                                    .context = 131072,
                                    .blocks = 62,
                                    .heads = 32,
                                    .heads_kv = 16,
                                    .heads_kv_sum = 992,
                                    .key_length = 128,
                                    .value_length = 128,
                                    .sliding_window = 1024};
        const uint64_t cell = 16 * (128 + 128) * 2;

        (void)state;
        assert_int_equal(cache_of(&llama3, NULL, NULL), GIB);
        assert_int_equal(cache_of(&gemma3, ARGS("-c", "32768"), NULL), (10 * 32768 + 52 * 4608) * cell);
        assert_int_equal(cache_of(&gemma3, ARGS("-c", "32768", "-np", "1"), NULL),
                         (10 * 32768 + 52 * 1536) * cell);
        assert_int_equal(cache_of(&gemma3, ARGS("-c", "32768", "--swa-full"), NULL), 62 * 32768 * cell);
}

static void the_context_that_may_shrink(void **state)
{
        struct memory_need need;

        (void)state;
        assert_int_equal(memory_need(&tiny, 300 * MIB, NULL, NULL, &need), 0);
        assert_int_equal(need.wants, 300 * MIB + MEMORY_BESIDE + 8 * MIB);
        assert_int_equal(need.least, 300 * MIB + MEMORY_BESIDE + MIB); /* --fit-ctx 4096 */
        assert_int_equal(memory_need(&tiny, 0, ARGS("--fit-ctx", "8192"), NULL, &need), 0);
        assert_int_equal(need.least, MEMORY_BESIDE + 2 * MIB);
        assert_int_equal(memory_need(&tiny, 0, ARGS("--fit", "off"), NULL, &need), 0);
        assert_int_equal(need.least, need.wants);
        assert_int_equal(memory_need(&tiny, 0, ARGS("-c", "16384"), NULL, &need), 0);
        assert_int_equal(need.least, need.wants);
        /* Layers that are given are weights that stay. */
        assert_int_equal(memory_need(&tiny, 300 * MIB, ARGS("-ngl", "1"), NULL, &need), 0);
        assert_int_equal(need.wants, 100 * MIB + MEMORY_BESIDE + 4 * MIB);
        assert_int_equal(need.least, need.wants);
}

static void headers_that_do_not_tell_or_lie(void **state)
{
        struct gguf g = tiny;
        struct memory_need need;

        (void)state;
        g.blocks = 0;
        assert_int_equal(memory_need(&g, 1, NULL, NULL, &need), -ENODATA);
        g = tiny;
        g.context = 0;
        assert_int_equal(memory_need(&g, 1, NULL, NULL, &need), -ENODATA);
        g = tiny;
        g.heads = 0; /* state space: no cache of keys and values */
        assert_int_equal(memory_need(&g, 1, NULL, NULL, &need), -ENODATA);
        g = (struct gguf){.architecture = "gemma3",
                          .context = UINT64_MAX,
                          .blocks = GGUF_LAYERS_MAX,
                          .heads = UINT64_MAX,
                          .heads_kv_sum = UINT64_MAX,
                          .key_length = UINT64_MAX,
                          .value_length = UINT64_MAX,
                          .sliding_window = UINT64_MAX};
        assert_int_equal(memory_need(&g, UINT64_MAX, ARGS("-np", "999999999999"), NULL, &need), 0);
        assert_true(need.wants < UINT64_C(1) << 62 && need.least <= need.wants);
        assert_int_equal(memory_guess(1000 * MIB), 1100 * MIB + MEMORY_BESIDE);
        assert_true(memory_guess(UINT64_MAX) < UINT64_C(1) << 62);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(as_measured),
                cmocka_unit_test(the_last_word_counts),
                cmocka_unit_test(smaller_numbers),
                cmocka_unit_test(known_models),
                cmocka_unit_test(the_context_that_may_shrink),
                cmocka_unit_test(headers_that_do_not_tell_or_lie),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
