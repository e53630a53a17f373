/* test_gguf.c: the header of files made by scripts/make-tiny-model, and of files made byte by byte here, true and lying. */
#include "core/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/text.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

/* --- files in memory ---------------------------------------------------------------------------------------------- */

struct made {
        struct buffer b;
        size_t reads, largest_read;
        uint64_t claimed; /* size that is told, 0: the real one */
        int fails;        /* -errno of every read */
};

static void put(struct made *m, uint64_t v, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                assert_int_equal(buffer_putc(&m->b, (char)(i < 8 ? v >> (8 * i) : 0)), 0);
}

static void put_text(struct made *m, const char *s)
{
        put(m, strlen(s), 8);
        assert_int_equal(buffer_puts(&m->b, s), 0);
}

static void begin(struct made *m, uint32_t version, uint64_t tensors, uint64_t pairs)
{
        *m = (struct made){0};
        buffer_init(&m->b, 0);
        assert_int_equal(buffer_puts(&m->b, "GGUF"), 0);
        put(m, version, 4);
        put(m, tensors, 8);
        put(m, pairs, 8);
}

static void pair_text(struct made *m, const char *key, const char *value)
{
        put_text(m, key);
        put(m, STRING, 4);
        put_text(m, value);
}

static void pair_u32(struct made *m, const char *key, uint32_t value)
{
        put_text(m, key);
        put(m, U32, 4);
        put(m, value, 4);
}

static void tensor(struct made *m, const char *name, unsigned n, const uint64_t *dims, uint32_t type,
                   uint64_t offset)
{
        put_text(m, name);
        put(m, n, 4);
        for (unsigned i = 0; i < n; i++)
                put(m, dims[i], 8);
        put(m, type, 4);
        put(m, offset, 8);
}

static void pad(struct made *m, size_t alignment, size_t data)
{
        while (m->b.len % alignment)
                put(m, 0, 1);
        for (size_t i = 0; i < data; i++)
                put(m, 1, 1);
}

static ssize_t from_memory(void *owner, uint64_t offset, void *buf, size_t len)
{
        struct made *m = owner;
        size_t n;

        m->reads++;
        m->largest_read = MAX(m->largest_read, len);
        if (m->fails)
                return m->fails;
        if (offset >= m->b.len)
                return 0;
        n = MIN(len, m->b.len - (size_t)offset);
        memcpy(buf, m->b.data + offset, n);
        return (ssize_t)n;
}

static int read_made(struct made *m, struct gguf *g, struct gguf_error *e)
{
        const struct gguf_source source = {from_memory, m, m->claimed ? m->claimed : m->b.len};
        char window[GGUF_WINDOW_MIN];

        *e = (struct gguf_error){0};
        return gguf_read(&source, window, sizeof(window), g, e);
}

static void expect_good(struct made *m, struct gguf *g)
{
        struct gguf_error e;

        if (read_made(m, g, &e) < 0)
                fail_msg("refused at %llu: %s", (unsigned long long)e.offset, e.words);
        buffer_finish(&m->b);
}

static void expect_bad(struct made *m, uint64_t offset, const char *words)
{
        struct gguf g = {.version = 77};
        struct gguf_error e;

        assert_int_equal(read_made(m, &g, &e), -EBADMSG);
        assert_int_equal(g.version, 77);
        if (!strstr(e.words, words))
                fail_msg("\"%s\" is not in \"%s\"", words, e.words);
        assert_int_equal(e.offset, offset);
        buffer_finish(&m->b);
}

static const uint64_t one_block[] = {32}, matrix[] = {64, 3};

/* --- whole models ---------------------------------------------------------------------------------------------------- */

static void facts_of_a_model(void **state)
{
        struct made m;
        struct gguf g;

        (void)state;
        begin(&m, 3, 2, 20);
        pair_u32(&m, "qwen2.expert_used_count", 8);
        pair_u32(&m, "qwen2.expert_feed_forward_length", 768);
        pair_u32(&m, "qwen2.feed_forward_length", 18944);
        pair_u32(&m, "qwen2.full_attention_interval", 4);
        pair_u32(&m, "qwen2.attention.kv_lora_rank", 512);
        pair_text(&m, "general.architecture", "qwen2");
        pair_text(&m, "general.type", "model");
        pair_text(&m, "general.name", "Qwen2.5 7B Instruct");
        pair_text(&m, "general.size_label", "7B");
        pair_u32(&m, "general.file_type", 15);
        pair_u32(&m, "qwen2.context_length", 32768);
        pair_u32(&m, "qwen2.embedding_length", 3584);
        pair_u32(&m, "qwen2.block_count", 28);
        pair_u32(&m, "qwen2.attention.head_count", 28);
        pair_u32(&m, "qwen2.attention.head_count_kv", 4);
        pair_u32(&m, "qwen2.attention.sliding_window", 4096);
        pair_text(&m, "tokenizer.ggml.model", "gpt2");
        put_text(&m, "tokenizer.ggml.tokens");
        put(&m, ARRAY, 4);
        put(&m, STRING, 4);
        put(&m, 3, 8);
        put_text(&m, "a");
        put_text(&m, "");
        put_text(&m, "ccc");
        put_text(&m, "tokenizer.ggml.scores");
        put(&m, ARRAY, 4);
        put(&m, F32, 4);
        put(&m, 3, 8);
        put(&m, 0, 12);
        pair_text(&m, "tokenizer.chat_template", "{{ messages[0].content }}");
        tensor(&m, "token_embd.weight", 2, matrix, 8, 0);
        tensor(&m, "output_norm.weight", 1, one_block, 0, 224);
        pad(&m, 32, 224 + 128);
        expect_good(&m, &g);
        assert_int_equal(g.version, 3);
        assert_int_equal(g.kind, GGUF_COMPLETION);
        assert_string_equal(g.architecture, "qwen2");
        assert_string_equal(g.name, "Qwen2.5 7B Instruct");
        assert_string_equal(g.size_label, "7B");
        assert_string_equal(g.quantization, "Q4_K_M");
        assert_string_equal(g.tokenizer, "gpt2");
        assert_int_equal(g.parameters, 64 * 3 + 32);
        assert_int_equal(g.tensors, 2);
        assert_int_equal(g.context, 32768);
        assert_int_equal(g.embedding, 3584);
        assert_int_equal(g.blocks, 28);
        assert_int_equal(g.heads, 28);
        assert_int_equal(g.heads_kv, 4);
        assert_int_equal(g.heads_kv_sum, 4 * 28);
        assert_int_equal(g.experts_used, 8);
        assert_int_equal(g.expert_feed_forward, 768);
        assert_int_equal(g.feed_forward, 18944);
        assert_int_equal(g.full_attention_interval, 4);
        assert_int_equal(g.latent, 512);
        assert_int_equal(g.input_bytes, 0); /* token_embd.weight is the output, too */
        assert_int_equal(g.key_length, 128);
        assert_int_equal(g.value_length, 128);
        assert_int_equal(g.sliding_window, 4096);
        assert_int_equal(g.vocabulary, 3);
        assert_true(g.has_chat_template);
        assert_int_equal(g.chat_template_length, 25);
        assert_int_equal(g.pooling, GGUF_NO_POOLING);
        assert_int_equal(g.split_count, 0);
        assert_int_equal(g.expected_size, g.header_size + 224 + 128);
        assert_int_equal(g.file_size, g.expected_size);
        assert_false(gguf_is_cut_off(&g));
}

static void a_number_for_each_layer(void **state)
{
        static const uint32_t kv[] = {0, 8, 2, 8};
        struct made m;
        struct gguf g;

        (void)state;
        begin(&m, 2, 1, 5);
        pair_text(&m, "general.architecture", "gemma3n");
        pair_u32(&m, "gemma3n.block_count", 4);
        put_text(&m, "gemma3n.attention.head_count_kv");
        put(&m, ARRAY, 4);
        put(&m, I32, 4);
        put(&m, 4, 8);
        for (size_t i = 0; i < ARRAY_SIZE(kv); i++)
                put(&m, kv[i], 4);
        pair_u32(&m, "gemma3n.attention.key_length", 256);
        pair_u32(&m, "gemma3n.attention.value_length", 64);
        tensor(&m, "w", 1, one_block, 30, 0);
        pad(&m, 32, 64);
        expect_good(&m, &g);
        assert_int_equal(g.version, 2);
        assert_int_equal(g.heads_kv, 8);
        assert_int_equal(g.heads_kv_sum, 18);
        assert_int_equal(g.key_length, 256);
        assert_int_equal(g.value_length, 64);
        assert_false(g.has_chat_template);
        assert_string_equal(g.quantization, "BF16"); /* no file_type: what most weights are */
}

/* Keys may come in any order, and a second model's are not ours. */
static void keys_of_another_family(void **state)
{
        struct made m;
        struct gguf g;

        (void)state;
        begin(&m, 3, 1, 4);
        pair_u32(&m, "llama.context_length", 512);
        pair_text(&m, "general.architecture", "llama");
        pair_u32(&m, "bert.context_length", 77);
        pair_u32(&m, "llama.vision.block_count", 9);
        tensor(&m, "w", 1, one_block, 0, 0);
        pad(&m, 32, 128);
        expect_good(&m, &g);
        assert_int_equal(g.context, 512);
        assert_int_equal(g.blocks, 0);

        begin(&m, 3, 1, 2);
        pair_u32(&m, "bert.pooling_type", 1);
        pair_text(&m, "general.architecture", "llama");
        tensor(&m, "w", 1, one_block, 0, 0);
        pad(&m, 32, 128);
        expect_good(&m, &g);
        assert_int_equal(g.pooling, GGUF_NO_POOLING);
        assert_int_equal(g.kind, GGUF_COMPLETION);
}

static enum gguf_kind kind_of(const char *architecture, const char *type, int pooling, int split_no)
{
        struct made m;
        struct gguf g;
        char key[64];

        begin(&m, 3, 1, 2U + (pooling >= 0) + 2U * (split_no >= 0));
        pair_text(&m, "general.architecture", architecture);
        pair_text(&m, "general.type", type);
        (void)snprintf(key, sizeof(key), "%s.pooling_type", architecture);
        if (pooling >= 0)
                pair_u32(&m, key, (uint32_t)pooling);
        if (split_no >= 0) {
                pair_u32(&m, "split.no", (uint32_t)split_no);
                pair_u32(&m, "split.count", 3);
        }
        tensor(&m, "w", 1, one_block, 0, 0);
        pad(&m, 32, 128);
        expect_good(&m, &g);
        assert_int_equal(g.pooling, pooling);
        if (split_no >= 0)
                assert_int_equal(g.split_no, split_no);
        return g.kind;
}

static void kinds(void **state)
{
        (void)state;
        assert_int_equal(kind_of("llama", "model", -1, -1), GGUF_COMPLETION);
        assert_int_equal(kind_of("llama", "", 0, -1), GGUF_COMPLETION);
        assert_int_equal(kind_of("qwen3", "model", 3, -1), GGUF_EMBEDDING);
        assert_int_equal(kind_of("bert", "model", -1, -1), GGUF_EMBEDDING);
        assert_int_equal(kind_of("bert", "model", 4, -1), GGUF_EMBEDDING);
        assert_int_equal(kind_of("clip", "", -1, -1), GGUF_MMPROJ);
        assert_int_equal(kind_of("qwen2vl", "mmproj", -1, -1), GGUF_MMPROJ);
        assert_int_equal(kind_of("llama", "adapter", -1, -1), GGUF_ADAPTER);
        assert_int_equal(kind_of("llama", "imatrix", -1, -1), GGUF_OTHER);
        assert_int_equal(kind_of("", "model", -1, -1), GGUF_OTHER);
        assert_int_equal(kind_of("llama", "model", -1, 0), GGUF_COMPLETION);
        assert_int_equal(kind_of("", "", -1, 2), GGUF_PART);
        assert_string_equal(gguf_pooling_name(4), "rank");
        assert_null(gguf_pooling_name(GGUF_NO_POOLING));
        assert_null(gguf_pooling_name(5));
}

static void a_cut_off_file_is_told(void **state)
{
        struct made m;
        struct gguf g;

        (void)state;
        begin(&m, 3, 2, 1);
        pair_text(&m, "general.architecture", "llama");
        tensor(&m, "later", 1, one_block, 0, 4096);
        tensor(&m, "first", 1, one_block, 0, 0);
        pad(&m, 32, 4096 + 127);
        expect_good(&m, &g);
        assert_int_equal(g.expected_size, g.file_size + 1);
        assert_true(gguf_is_cut_off(&g));

        /* A type that we do not know yet: the file may well be whole. */
        begin(&m, 3, 1, 1);
        pair_text(&m, "general.architecture", "llama");
        tensor(&m, "new", 1, one_block, 99, 0);
        expect_good(&m, &g);
        assert_int_equal(g.expected_size, 0);
        assert_false(gguf_is_cut_off(&g));
        assert_string_equal(g.quantization, "");
}

static void a_foreign_text_is_made_harmless(void **state)
{
        struct made m;
        struct gguf g;
        char name[400];

        (void)state;
        memset(name, 'x', sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        memcpy(name, "\033[31m\xff\n", 7);
        begin(&m, 3, 1, 2);
        pair_text(&m, "general.name", name);
        pair_text(&m, "general.architecture", "llama");
        tensor(&m, "w", 1, one_block, 0, 0);
        pad(&m, 32, 128);
        expect_good(&m, &g);
        assert_true(starts_with(g.name, "??xxx"));
        assert_true(strlen(g.name) < sizeof(g.name));
}

/* A tokenizer of a megabyte is walked through a window of 4 KB, and its numbers are not read at all. */
static void the_window_is_small(void **state)
{
        struct made m;
        struct gguf g;
        size_t before;

        (void)state;
        begin(&m, 3, 1, 3);
        pair_text(&m, "general.architecture", "llama");
        put_text(&m, "tokenizer.ggml.scores");
        put(&m, ARRAY, 4);
        put(&m, F32, 4);
        put(&m, 250000, 8);
        before = m.b.len;
        pad(&m, 1, 1000000);
        assert_int_equal(m.b.len - before, 1000000);
        put_text(&m, "tokenizer.ggml.tokens");
        put(&m, ARRAY, 4);
        put(&m, STRING, 4);
        put(&m, 1000, 8);
        for (int i = 0; i < 1000; i++)
                put_text(&m, "token");
        tensor(&m, "w", 1, one_block, 0, 0);
        pad(&m, 32, 128);
        expect_good(&m, &g);
        assert_int_equal(g.vocabulary, 1000);
        assert_int_equal(m.largest_read, GGUF_WINDOW_MIN);
        assert_in_range(m.reads, 3, 8);
}

/* --- files that lie ---------------------------------------------------------------------------------------------------- */

static void what_is_no_gguf(void **state)
{
        struct made m;

        (void)state;
        m = (struct made){0};
        buffer_init(&m.b, 0);
        expect_bad(&m, 0, "is empty");
        m = (struct made){0};
        buffer_init(&m.b, 0);
        assert_int_equal(buffer_puts(&m.b, "PK\003\004 something else entirely"), 0);
        expect_bad(&m, 0, "does not begin with \"GGUF\"");
        begin(&m, 1, 0, 0);
        expect_bad(&m, 4, "version 1");
        begin(&m, 4, 0, 0);
        expect_bad(&m, 4, "version 4; 2 and 3 are known");
        begin(&m, 0x03000000, 0, 0);
        expect_bad(&m, 4, "big-endian");
        begin(&m, 3, 0, 0);
        m.b.len = 15;
        expect_bad(&m, 15, "ends in the middle of its counts");
}

static void counts_that_lie(void **state)
{
        struct made m;

        (void)state;
        begin(&m, 3, UINT64_MAX, 0);
        expect_bad(&m, 8, "18446744073709551615 tensors");
        begin(&m, 3, 0, GGUF_PAIRS_MAX + 1);
        expect_bad(&m, 16, "65537 metadata pairs");
        begin(&m, 3, 0, 2);
        pair_u32(&m, "a", 1);
        expect_bad(&m, m.b.len, "ends in the middle of a key");
        begin(&m, 3, 1, 0);
        expect_bad(&m, 24, "ends in the middle of a tensor's name");
}

static void lengths_that_lie(void **state)
{
        struct made m;

        (void)state;
        begin(&m, 3, 0, 1);
        put(&m, UINT64_MAX, 8);
        expect_bad(&m, 24, "a key claims to have 18446744073709551615 bytes");
        begin(&m, 3, 0, 1);
        put(&m, 70000, 8);
        pad(&m, 1, 70000);
        expect_bad(&m, 24, "at most 65535");
        begin(&m, 3, 0, 1);
        put_text(&m, "some.text");
        put(&m, STRING, 4);
        put(&m, (uint64_t)INT64_MAX + 5, 8);
        expect_bad(&m, 45, "some.text claims to have");
        begin(&m, 3, 0, 1);
        put_text(&m, "n");
        put(&m, ARRAY, 4);
        put(&m, U64, 4);
        put(&m, UINT64_MAX / 8 + 2, 8); /* times 8 it would be 8 */
        put(&m, 0, 8);
        expect_bad(&m, 37, "n claims to have 2305843009213693953 elements");
        begin(&m, 3, 0, 1);
        put_text(&m, "n");
        put(&m, ARRAY, 4);
        put(&m, ARRAY, 4);
        put(&m, 1, 8);
        expect_bad(&m, 37, "an array of arrays");
        begin(&m, 3, 0, 1);
        put_text(&m, "n");
        put(&m, 13, 4);
        expect_bad(&m, 33, "unknown type 13");
        begin(&m, 3, 1, 0);
        put(&m, GGUF_TENSOR_NAME_MAX + 1, 8);
        pad(&m, 1, 2000);
        expect_bad(&m, 24, "at most 1023");
}

static void values_that_lie(void **state)
{
        struct made m;

        (void)state;
        begin(&m, 3, 0, 2);
        pair_text(&m, "general.architecture", "llama");
        pair_text(&m, "general.architecture", "bert");
        expect_bad(&m, 24 + 8 + 20 + 4 + 8 + 5 + 8 + 20, "is there twice");
        begin(&m, 3, 0, 1);
        pair_u32(&m, "general.architecture", 7);
        expect_bad(&m, 52, "general.architecture is u32, but must be a text");
        begin(&m, 3, 0, 1);
        put_text(&m, "llama.context_length");
        put(&m, F32, 4);
        put(&m, 0, 4);
        expect_bad(&m, 52, "is f32, but must be a whole number");
        begin(&m, 3, 0, 1);
        put_text(&m, "llama.context_length");
        put(&m, I16, 4);
        put(&m, 0x8000, 2);
        expect_bad(&m, 52, "llama.context_length is negative");
        for (uint32_t bad = 0; bad < 4; bad++) {
                static const uint32_t values[] = {0, 3, 48, 1U << 21};

                begin(&m, 3, 0, 1);
                pair_u32(&m, "general.alignment", values[bad]);
                expect_bad(&m, 49, "power of two");
        }
        begin(&m, 3, 0, 1);
        pair_u32(&m, "split.count", 65536);
        expect_bad(&m, 43, "at most 65535 are possible");
}

static void tensors_that_lie(void **state)
{
        static const uint64_t five[] = {1, 1, 1, 1, 1}, square[] = {1ULL << 32, 1ULL << 32},
                              long_row[] = {1ULL << 61}, odd[] = {33}, most[] = {INT64_MAX};
        static const struct {
                unsigned n;
                const uint64_t *dims;
                uint32_t type;
                uint64_t offset;
                const char *words;
        } rows[] = {
                {5, five, 0, 0, "5 dimensions, at most 4"},
                {2, square, 0, 0, "more weights than can be counted"},
                {1, long_row, 0, 0, "more bytes than can be counted"},
                {1, odd, 8, 0, "rows of 33 weights, which Q8_0 cannot hold"},
                {1, one_block, 0, 16, "begins at 16, which is no multiple of 32"},
                {1, one_block, 0, UINT64_MAX - 31, "beyond the end of any file"},
                {1, most, 24, 0, "beyond the end of any file"},
        };
        struct made m;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                begin(&m, 3, 1, 0);
                tensor(&m, "w", rows[i].n, rows[i].dims, rows[i].type, rows[i].offset);
                expect_bad(&m, 24, rows[i].words);
        }
        begin(&m, 3, 2, 0);
        tensor(&m, "a", 1, most, 99, 0);
        tensor(&m, "b", 1, most, 99, 0);
        expect_bad(&m, 24 + 33, "beyond the end of any file"); /* the sum of the weights */
}

static void a_header_without_end(void **state)
{
        struct made m;

        (void)state;
        begin(&m, 3, 0, 2);
        put_text(&m, "blob");
        put(&m, STRING, 4);
        put(&m, GGUF_HEADER_MAX, 8);
        m.claimed = (uint64_t)1 << 40;
        expect_bad(&m, 24 + 12 + 4 + 8 + (uint64_t)GGUF_HEADER_MAX, "longer than 128 MB");
}

/* The disk fails, or the file has shrunk since its size was asked for. */
static void reads_that_fail(void **state)
{
        struct gguf_error e;
        struct made m;
        struct gguf g;

        (void)state;
        begin(&m, 3, 0, 1);
        m.fails = -EIO;
        assert_int_equal(read_made(&m, &g, &e), -EIO);
        assert_non_null(strstr(e.words, "cannot be read"));
        m.fails = 0;
        m.claimed = 1000000;
        assert_int_equal(read_made(&m, &g, &e), -EBADMSG);
        assert_non_null(strstr(e.words, "ends in the middle of a key"));
        buffer_finish(&m.b);
}

/* Every file that is cut somewhere in its header is refused, and never read beyond its end. */
static void cut_anywhere(void **state)
{
        struct made m;
        struct gguf g;
        struct gguf_error e;
        size_t whole;

        (void)state;
        begin(&m, 3, 1, 3);
        pair_text(&m, "general.architecture", "llama");
        pair_u32(&m, "llama.block_count", 4);
        put_text(&m, "tokenizer.ggml.tokens");
        put(&m, ARRAY, 4);
        put(&m, STRING, 4);
        put(&m, 2, 8);
        put_text(&m, "a");
        put_text(&m, "b");
        tensor(&m, "w", 1, one_block, 0, 0);
        whole = m.b.len;
        assert_int_equal(read_made(&m, &g, &e), 0);
        assert_true(gguf_is_cut_off(&g));
        for (m.b.len = 0; m.b.len < whole; m.b.len++)
                if (read_made(&m, &g, &e) != -EBADMSG || !e.words[0] || e.offset > m.b.len)
                        fail_msg("cut at %zu: %s at %llu", m.b.len, e.words, (unsigned long long)e.offset);
        buffer_finish(&m.b);
}

/* --- files of scripts/make-tiny-model --------------------------------------------------------------------------------- */

static ssize_t from_file(void *owner, uint64_t offset, void *buf, size_t len)
{
        ssize_t n = pread(*(int *)owner, buf, len, (off_t)offset);

        return n < 0 ? -errno : n;
}

static void read_tiny(const char *options, const char *file, struct gguf *g)
{
        char folder[] = "/tmp/lsv-gguf-XXXXXX", window[GGUF_WINDOW_MIN];
        _cleanup_free_ char *command = NULL, *path = NULL;
        struct gguf_error e = {0};
        struct stat st;
        int fd, r;

        assert_non_null(mkdtemp(folder));
        path = text_format("%s/%s", folder, file);
        command = text_format("python3 %s/scripts/make-tiny-model %s/tiny.gguf %s > /dev/null", SOURCE_DIR,
                              folder, options);
        assert_non_null(command);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): a test runs the script of the tree */
        fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        r = gguf_read(&(struct gguf_source){from_file, &fd, (uint64_t)st.st_size}, window, sizeof(window), g,
                      &e);
        if (r < 0)
                fail_msg("%s: %s at %llu", file, e.words, (unsigned long long)e.offset);
        close_fd(&fd);
        free(command);
        command = text_format("rm -r %s", folder);
        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
}

static void tiny_models(void **state)
{
        struct gguf g;
        uint64_t parameters;

        (void)state;
        read_tiny("--name a-name --n-ctx 512", "tiny.gguf", &g);
        assert_int_equal(g.kind, GGUF_COMPLETION);
        assert_string_equal(g.architecture, "llama");
        assert_string_equal(g.name, "a-name");
        assert_string_equal(g.quantization, "F16");
        assert_string_equal(g.tokenizer, "llama");
        assert_int_equal(g.context, 512);
        assert_int_equal(g.embedding, 64);
        assert_int_equal(g.blocks, 2);
        assert_int_equal(g.heads, 4);
        assert_int_equal(g.heads_kv, 2);
        assert_int_equal(g.heads_kv_sum, 4);
        assert_int_equal(g.key_length, 16);
        assert_in_range(g.vocabulary, 300, 1000);
        assert_int_equal(g.feed_forward, 128);
        assert_int_equal(g.input_bytes, 2 * 64 * g.vocabulary); /* it has an output of its own */
        assert_true(g.has_chat_template);
        assert_false(gguf_is_cut_off(&g));
        parameters = g.parameters;
        /* Two layers of 64 x (64 + 32 + 32 + 64 + 3 x 128) and two norms, the two big matrices, the last norm. */
        assert_int_equal(parameters,
                         2 * (64 * (64 + 32 + 32 + 64 + 3 * 128) + 128) + 2 * 64 * g.vocabulary + 64);
        read_tiny("--embedding", "tiny.gguf", &g);
        assert_int_equal(g.kind, GGUF_EMBEDDING);
        assert_int_equal(g.pooling, 1);
        read_tiny("--split 2", "tiny-00001-of-00002.gguf", &g);
        assert_int_equal(g.kind, GGUF_COMPLETION);
        assert_int_equal(g.split_count, 2);
        assert_in_range(g.parameters, 1, parameters - 1);
        read_tiny("--split 2", "tiny-00002-of-00002.gguf", &g);
        assert_int_equal(g.kind, GGUF_PART);
        assert_int_equal(g.split_no, 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(facts_of_a_model),       cmocka_unit_test(a_number_for_each_layer),
                cmocka_unit_test(keys_of_another_family), cmocka_unit_test(kinds),
                cmocka_unit_test(a_cut_off_file_is_told), cmocka_unit_test(a_foreign_text_is_made_harmless),
                cmocka_unit_test(the_window_is_small),    cmocka_unit_test(what_is_no_gguf),
                cmocka_unit_test(counts_that_lie),        cmocka_unit_test(lengths_that_lie),
                cmocka_unit_test(values_that_lie),        cmocka_unit_test(tensors_that_lie),
                cmocka_unit_test(a_header_without_end),   cmocka_unit_test(reads_that_fail),
                cmocka_unit_test(cut_anywhere),           cmocka_unit_test(tiny_models),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
