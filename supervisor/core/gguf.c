/* gguf.c: one walk over a GGUF header: the preamble, the pairs, the tensors; then what follows from them. */
#include "core/gguf.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/slice.h"
#include "base/text.h"

enum { KEY_KEPT = 128, DIMS_MAX = 4, ALIGNMENT_DEFAULT = 32, FTYPE_GUESSED = 1024 };

/* --- numbers of the format ------------------------------------------------------------------------------------------ */

enum value_type {
        VALUE_U8,
        VALUE_I8,
        VALUE_U16,
        VALUE_I16,
        VALUE_U32,
        VALUE_I32,
        VALUE_F32,
        VALUE_BOOL,
        VALUE_STRING,
        VALUE_ARRAY,
        VALUE_U64,
        VALUE_I64,
        VALUE_F64,
        VALUE_TYPES,
};

static const struct {
        const char *name;
        unsigned size; /* 0: not fixed */
} value_types[VALUE_TYPES] = {
        [VALUE_U8] = {"u8", 1},          [VALUE_I8] = {"i8", 1},     [VALUE_U16] = {"u16", 2},
        [VALUE_I16] = {"i16", 2},        [VALUE_U32] = {"u32", 4},   [VALUE_I32] = {"i32", 4},
        [VALUE_F32] = {"f32", 4},        [VALUE_BOOL] = {"bool", 1}, [VALUE_STRING] = {"a text", 0},
        [VALUE_ARRAY] = {"an array", 0}, [VALUE_U64] = {"u64", 8},   [VALUE_I64] = {"i64", 8},
        [VALUE_F64] = {"f64", 8},
};

/* Weights come in blocks of so many, each of so many bytes. */
static const struct {
        const char *name;
        unsigned weights, bytes;
} tensor_types[] = {
        [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
        [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
        [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 40},      [10] = {"Q2_K", 256, 84},
        [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
        [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
        [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
        [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
        [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
        [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
        [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
        [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
        [41] = {"Q1_0", 128, 18},
};

/* general.file_type */
static const char *const file_types[] = {
        [0] = "F32",      [1] = "F16",      [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",
        [8] = "Q5_0",     [9] = "Q5_1",     [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M",
        [13] = "Q3_K_L",  [14] = "Q4_K_S",  [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",
        [18] = "Q6_K",    [19] = "IQ2_XXS", [20] = "IQ2_XS", [21] = "Q2_K_S", [22] = "IQ3_XS",
        [23] = "IQ3_XXS", [24] = "IQ1_S",   [25] = "IQ4_NL", [26] = "IQ3_S",  [27] = "IQ3_M",
        [28] = "IQ2_S",   [29] = "IQ2_M",   [30] = "IQ4_XS", [31] = "IQ1_M",  [32] = "BF16",
        [36] = "TQ1_0",   [37] = "TQ2_0",   [38] = "MXFP4",  [39] = "NVFP4",  [40] = "Q1_0",
};

/* --- the walk ------------------------------------------------------------------------------------------------------- */

struct reader {
        const struct gguf_source *source;
        unsigned char *window;
        size_t window_size;
        uint64_t window_at; /* offset of its first byte in the file */
        size_t window_len;
        uint64_t at; /* the next byte */
        struct gguf_error *error;

        struct gguf *g;
        uint64_t alignment, file_type;
        bool has_file_type, is_not_causal;
        char family[64];                            /* the first part of keys like "llama.context_length" */
        uint64_t weights[ARRAY_SIZE(tensor_types)]; /* per type of tensor */
        uint32_t seen;                              /* bit i: keys[i] was there */
        uint64_t input_bytes;                       /* of token_embd.weight */
        bool has_output; /* output.weight is there: the input is not used for it, too */
};

static int bad(struct reader *r, uint64_t offset, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int bad(struct reader *r, uint64_t offset, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(r->error->words, sizeof(r->error->words), fmt, ap);
        va_end(ap);
        (void)text_harmless(r->error->words);
        r->error->offset = offset;
        return -EBADMSG;
}

static int ends(struct reader *r, const char *what)
{
        return bad(r, r->source->size, "the file ends in the middle of %s", what);
}

/* n bytes at r->at into the window; what: a word for messages. */
static int need(struct reader *r, size_t n, const char *what)
{
        uint64_t left;
        ssize_t got;

        if (r->at > GGUF_HEADER_MAX)
                return bad(r, r->at, "the header is longer than %d MB", GGUF_HEADER_MAX >> 20);
        if (r->at >= r->window_at && r->at - r->window_at <= r->window_len &&
            r->window_len - (r->at - r->window_at) >= n)
                return 0;
        left = r->at <= r->source->size ? r->source->size - r->at : 0;
        if (left < n)
                return ends(r, what);
        r->window_len = 0;
        r->window_at = r->at;
        got = r->source->read_at(r->source->owner, r->at, r->window,
                                 (size_t)MIN(left, (uint64_t)r->window_size));
        if (got < 0) {
                (void)bad(r, r->at, "cannot be read: %s", strerror((int)-got));
                return (int)got;
        }
        r->window_len = (size_t)got;
        return r->window_len < n ? ends(r, what) : 0;
}

static const unsigned char *here(const struct reader *r)
{
        return r->window + (r->at - r->window_at);
}

static int skip(struct reader *r, uint64_t n, const char *what)
{
        if (r->at > r->source->size || n > r->source->size - r->at)
                return ends(r, what);
        r->at += n;
        return r->at > GGUF_HEADER_MAX ? need(r, 0, what) : 0;
}

static int read_bytes(struct reader *r, unsigned n, const char *what, uint64_t *ret)
{
        uint64_t v = 0;
        int e = need(r, n, what);

        if (e < 0)
                return e;
        for (unsigned i = 0; i < n; i++)
                v |= (uint64_t)here(r)[i] << (8 * i);
        r->at += n;
        *ret = v;
        return 0;
}

static int read_u32(struct reader *r, const char *what, uint32_t *ret)
{
        uint64_t v;
        int e = read_bytes(r, 4, what, &v);

        if (e == 0)
                *ret = (uint32_t)v;
        return e;
}

/* The length of a text, which must fit into the file. */
static int read_length(struct reader *r, const char *what, uint64_t *ret)
{
        uint64_t at = r->at, n;
        int e = read_bytes(r, 8, what, &n);

        if (e < 0)
                return e;
        if (n > r->source->size - r->at)
                return bad(r, at, "%s claims to have %llu bytes, the file has only %llu more", what,
                           (unsigned long long)n, (unsigned long long)(r->source->size - r->at));
        *ret = n;
        return 0;
}

/* A text, cut to size - 1 bytes; *ret_len is its real length. */
static int read_text(struct reader *r, const char *what, uint64_t max, char *buf, size_t size,
                     uint64_t *ret_len)
{
        uint64_t at = r->at, n = 0;
        size_t kept;
        int e = read_length(r, what, &n);

        if (e < 0)
                return e;
        if (n > max)
                return bad(r, at, "%s has %llu bytes, at most %llu are allowed", what, (unsigned long long)n,
                           (unsigned long long)max);
        kept = (size_t)MIN(n, (uint64_t)size - 1);
        e = need(r, kept, what);
        if (e < 0)
                return e;
        memcpy(buf, here(r), kept);
        buf[kept] = '\0';
        *ret_len = n;
        return skip(r, n, what);
}

/* --- the keys that matter --------------------------------------------------------------------------------------------- */

enum key_holds {
        HOLDS_TEXT,
        HOLDS_LENGTH_OF_TEXT,
        HOLDS_NUMBER,
        HOLDS_LAYERS,
        HOLDS_LENGTH_OF_ARRAY,
        HOLDS_BOOL
};

struct known_key {
        const char *name; /* of a family's key what follows the architecture: ".context_length" */
        enum key_holds holds;
        size_t offset,
                size; /* in struct gguf; HOLDS_LAYERS: of the largest; UINT64_MAX beyond struct gguf: see keep_number */
};

#define IN_GGUF(member) offsetof(struct gguf, member), sizeof(((struct gguf *)0)->member)
#define ELSEWHERE       SIZE_MAX, 0

enum {
        KEY_ALIGNMENT,
        KEY_FILE_TYPE,
        KEY_SPLIT_NO,
        KEY_SPLIT_COUNT,
        KEY_TEMPLATE,
        KEY_POOLING,
        KEY_CAUSAL,
        KEY_HEADS_KV,
        KEY_HEADS,
};

static const struct known_key keys[] = {
        [KEY_ALIGNMENT] = {"general.alignment", HOLDS_NUMBER, ELSEWHERE},
        [KEY_FILE_TYPE] = {"general.file_type", HOLDS_NUMBER, ELSEWHERE},
        [KEY_SPLIT_NO] = {"split.no", HOLDS_NUMBER, ELSEWHERE},
        [KEY_SPLIT_COUNT] = {"split.count", HOLDS_NUMBER, ELSEWHERE},
        [KEY_TEMPLATE] = {"tokenizer.chat_template", HOLDS_LENGTH_OF_TEXT, IN_GGUF(chat_template_length)},
        [KEY_POOLING] = {".pooling_type", HOLDS_NUMBER, ELSEWHERE},
        [KEY_CAUSAL] = {".attention.causal", HOLDS_BOOL, ELSEWHERE},
        [KEY_HEADS_KV] = {".attention.head_count_kv", HOLDS_LAYERS, IN_GGUF(heads_kv)},
        [KEY_HEADS] = {".attention.head_count", HOLDS_LAYERS, IN_GGUF(heads)},
        {"general.architecture", HOLDS_TEXT, IN_GGUF(architecture)},
        {"general.name", HOLDS_TEXT, IN_GGUF(name)},
        {"general.type", HOLDS_TEXT, IN_GGUF(type)},
        {"general.size_label", HOLDS_TEXT, IN_GGUF(size_label)},
        {"tokenizer.ggml.model", HOLDS_TEXT, IN_GGUF(tokenizer)},
        {"tokenizer.ggml.tokens", HOLDS_LENGTH_OF_ARRAY, IN_GGUF(vocabulary)},
        {".vocab_size", HOLDS_NUMBER, ELSEWHERE}, /* the tokenizer's list is what is loaded */
        {".context_length", HOLDS_NUMBER, IN_GGUF(context)},
        {".embedding_length", HOLDS_NUMBER, IN_GGUF(embedding)},
        {".block_count", HOLDS_NUMBER, IN_GGUF(blocks)},
        {".attention.key_length", HOLDS_NUMBER, IN_GGUF(key_length)},
        {".attention.value_length", HOLDS_NUMBER, IN_GGUF(value_length)},
        {".attention.sliding_window", HOLDS_NUMBER, IN_GGUF(sliding_window)},
        {".expert_count", HOLDS_NUMBER, IN_GGUF(experts)},
        {".expert_used_count", HOLDS_NUMBER, IN_GGUF(experts_used)},
        {".feed_forward_length", HOLDS_LAYERS, IN_GGUF(feed_forward)},
        {".expert_feed_forward_length", HOLDS_NUMBER, IN_GGUF(expert_feed_forward)},
        {".full_attention_interval", HOLDS_NUMBER, IN_GGUF(full_attention_interval)},
        {".attention.kv_lora_rank", HOLDS_NUMBER, IN_GGUF(latent)},
};
static_assert(ARRAY_SIZE(keys) <= 32, "reader.seen has a bit for each");

static uint64_t *number_at(struct gguf *g, const struct known_key *k)
{
        return (uint64_t *)(void *)((char *)g + k->offset);
}

/* "llama.context_length" is a key of the family "llama"; those of other families (a second model's) are not ours. */
static bool is_of_family(struct reader *r, const char *key, size_t n)
{
        if (n == 0 || n >= sizeof(r->family) || memchr(key, '.', n))
                return false;
        if (!r->family[0]) {
                if (r->g->architecture[0] &&
                    (strlen(r->g->architecture) != n || memcmp(r->g->architecture, key, n) != 0))
                        return false;
                memcpy(r->family, key, n);
        }
        return strlen(r->family) == n && memcmp(r->family, key, n) == 0;
}

static const struct known_key *find_key(struct reader *r, const char *key)
{
        size_t n = strlen(key);

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                size_t m = strlen(keys[i].name);

                if (keys[i].name[0] != '.') {
                        if (streq(keys[i].name, key))
                                return keys + i;
                } else if (n > m && streq(key + n - m, keys[i].name) && is_of_family(r, key, n - m)) {
                        return keys + i;
                }
        }
        return NULL;
}

static int wrong_type(struct reader *r, uint64_t at, const char *key, uint32_t type, const char *wanted)
{
        return bad(r, at, "%s is %s, but must be %s", key, value_types[type].name, wanted);
}

/* A number that is not negative and no fraction. */
static int read_number(struct reader *r, uint64_t at, const char *key, uint32_t type, uint64_t *ret)
{
        unsigned n;
        uint64_t v;
        int e;

        if (type == VALUE_F32 || type == VALUE_F64 || value_types[type].size == 0)
                return wrong_type(r, at, key, type, "a whole number");
        n = value_types[type].size;
        e = read_bytes(r, n, key, &v);
        if (e < 0)
                return e;
        if ((type == VALUE_I8 || type == VALUE_I16 || type == VALUE_I32 || type == VALUE_I64) &&
            v >> (8 * n - 1))
                return bad(r, at, "%s is negative", key);
        *ret = v;
        return 0;
}

static int keep_number(struct reader *r, uint64_t at, const struct known_key *k, const char *key, uint64_t v)
{
        struct gguf *g = r->g;

        if (k->offset != SIZE_MAX) {
                *number_at(g, k) = v;
                return 0;
        }
        switch (k - keys) {
        case KEY_ALIGNMENT:
                if (v == 0 || v > GGUF_ALIGNMENT_MAX || (v & (v - 1)))
                        return bad(r, at, "%s is %llu, but must be a power of two", key,
                                   (unsigned long long)v);
                r->alignment = v;
                break;
        case KEY_FILE_TYPE:
                r->file_type = v & ~(uint64_t)FTYPE_GUESSED;
                r->has_file_type = true;
                break;
        case KEY_SPLIT_NO:
        case KEY_SPLIT_COUNT:
                if (v > UINT16_MAX)
                        return bad(r, at, "%s is %llu, at most 65535 are possible", key,
                                   (unsigned long long)v);
                *(k - keys == KEY_SPLIT_NO ? &g->split_no : &g->split_count) = (unsigned)v;
                break;
        case KEY_POOLING:
                g->pooling = v > INT16_MAX ? INT16_MAX : (int)v;
                break;
        default:
                break;
        }
        return 0;
}

/* The head of an array: the type of its elements and how many; they fit into the file. */
static int read_array_head(struct reader *r, const char *key, uint32_t *ret_type, uint64_t *ret_n)
{
        uint64_t at = r->at, n, least;
        uint32_t type = 0;
        int e = read_u32(r, key, &type);

        if (e < 0)
                return e;
        if (type >= VALUE_TYPES || type == VALUE_ARRAY)
                return bad(r, at, "%s is an array of %s, which is not in the format", key,
                           type == VALUE_ARRAY ? "arrays" : "an unknown type");
        e = read_bytes(r, 8, key, &n);
        if (e < 0)
                return e;
        least = type == VALUE_STRING ? 8 : value_types[type].size;
        if (n > (r->source->size - r->at) / least)
                return bad(r, at, "%s claims to have %llu elements, the file has only %llu more bytes", key,
                           (unsigned long long)n, (unsigned long long)(r->source->size - r->at));
        *ret_type = type;
        *ret_n = n;
        return 0;
}

static int skip_elements(struct reader *r, const char *key, uint32_t type, uint64_t n)
{
        uint64_t len = 0;
        int e = 0;

        if (type != VALUE_STRING)
                return skip(r, n * value_types[type].size, key); /* n was checked against the file's size */
        for (uint64_t i = 0; e == 0 && i < n; i++) {
                e = read_length(r, key, &len);
                if (e == 0)
                        e = skip(r, len, key);
        }
        return e;
}

static int skip_value(struct reader *r, uint64_t at, const char *key, uint32_t type)
{
        uint64_t n = 0;
        int e;

        if (type >= VALUE_TYPES)
                return bad(r, at, "%s has the unknown type %u", key, type);
        if (type == VALUE_ARRAY) {
                e = read_array_head(r, key, &type, &n);
                return e < 0 ? e : skip_elements(r, key, type, n);
        }
        if (type != VALUE_STRING)
                return skip(r, value_types[type].size, key);
        e = read_length(r, key, &n);
        return e < 0 ? e : skip(r, n, key);
}

/* One number, or one for each layer: the largest and, for heads_kv, the sum. */
static int read_layers(struct reader *r, uint64_t at, const struct known_key *k, const char *key,
                       uint32_t type)
{
        uint64_t *largest = number_at(r->g, k), n = 0, v = 0;
        uint32_t of = 0;
        int e;

        if (type != VALUE_ARRAY)
                return read_number(r, at, key, type, largest);
        e = read_array_head(r, key, &of, &n);
        if (e < 0)
                return e;
        if (n > GGUF_LAYERS_MAX)
                return bad(r, at, "%s has %llu elements, more than there are layers", key,
                           (unsigned long long)n);
        for (uint64_t i = 0; i < n; i++) {
                e = read_number(r, at, key, of, &v);
                if (e < 0)
                        return e;
                if (v > UINT32_MAX)
                        return bad(r, at, "%s holds the impossible number %llu", key, (unsigned long long)v);
                *largest = MAX(*largest, v);
                if (k - keys == KEY_HEADS_KV)
                        r->g->heads_kv_sum += v;
        }
        return 0;
}

static int read_known(struct reader *r, uint64_t at, const struct known_key *k, const char *key,
                      uint32_t type)
{
        uint64_t n = 0;
        uint32_t of = 0;
        int e;

        switch (k->holds) {
        case HOLDS_TEXT:
                if (type != VALUE_STRING)
                        return wrong_type(r, at, key, type, "a text");
                return read_text(r, key, UINT64_MAX, (char *)r->g + k->offset, k->size, &n);
        case HOLDS_LENGTH_OF_TEXT:
                if (type != VALUE_STRING)
                        return wrong_type(r, at, key, type, "a text");
                e = read_length(r, key, number_at(r->g, k));
                return e < 0 ? e : skip(r, *number_at(r->g, k), key);
        case HOLDS_LENGTH_OF_ARRAY:
                if (type != VALUE_ARRAY)
                        return wrong_type(r, at, key, type, "an array");
                e = read_array_head(r, key, &of, &n);
                if (e < 0)
                        return e;
                *number_at(r->g, k) = n;
                return skip_elements(r, key, of, n);
        case HOLDS_LAYERS:
                return read_layers(r, at, k, key, type);
        case HOLDS_BOOL:
                if (type != VALUE_BOOL)
                        return wrong_type(r, at, key, type, "true or false");
                e = read_bytes(r, 1, key, &n);
                r->is_not_causal = e == 0 && n == 0;
                return e;
        case HOLDS_NUMBER:
                break;
        }
        e = read_number(r, at, key, type, &n);
        return e < 0 ? e : keep_number(r, at, k, key, n);
}

static int read_pair(struct reader *r)
{
        const struct known_key *k = NULL;
        uint64_t at, len = 0;
        char key[KEY_KEPT];
        uint32_t type = 0;
        int e = read_text(r, "a key", GGUF_KEY_MAX, key, sizeof(key), &len);

        if (e < 0)
                return e;
        if (strlen(key) == len)
                k = find_key(r, key);
        (void)text_harmless(key); /* from here on it is only shown */
        at = r->at;
        e = read_u32(r, key, &type);
        if (e < 0)
                return e;
        if (!k)
                return skip_value(r, at, key, type);
        if (type >= VALUE_TYPES)
                return bad(r, at, "%s has the unknown type %u", key, type);
        if (r->seen & 1U << (k - keys))
                return bad(r, at, "%s is there twice", key);
        r->seen |= 1U << (k - keys);
        return read_known(r, at, k, key, type);
}

/* --- tensors ---------------------------------------------------------------------------------------------------------- */

/* Its weights, and whether its bytes are known. */
static int size_tensor(struct reader *r, uint64_t at, const char *name, const uint64_t dims[DIMS_MAX],
                       uint32_t type, uint64_t *ret_weights, uint64_t *ret_bytes)
{
        uint64_t weights = 1, bytes;
        unsigned block;

        for (unsigned i = 0; i < DIMS_MAX; i++)
                if (__builtin_mul_overflow(weights, dims[i], &weights) || weights > INT64_MAX)
                        return bad(r, at, "the tensor %s has more weights than can be counted", name);
        *ret_weights = weights;
        *ret_bytes = UINT64_MAX;
        if (type >= ARRAY_SIZE(tensor_types) || !tensor_types[type].weights)
                return 0;
        block = tensor_types[type].weights;
        if (dims[0] % block)
                return bad(r, at, "the tensor %s has rows of %llu weights, which %s cannot hold", name,
                           (unsigned long long)dims[0], tensor_types[type].name);
        if (__builtin_mul_overflow(weights / block, (uint64_t)tensor_types[type].bytes, &bytes) ||
            bytes > INT64_MAX)
                return bad(r, at, "the tensor %s has more bytes than can be counted", name);
        *ret_bytes = bytes;
        return 0;
}

/* *end: the last byte of all tensors behind the header so far, UINT64_MAX once a type is not known. */
static int read_tensor(struct reader *r, uint64_t *end)
{
        uint64_t at = r->at, dims[DIMS_MAX] = {1, 1, 1, 1}, len, offset = 0, weights = 0, bytes = 0;
        char name[GGUF_TENSOR_NAME_MAX + 1];
        uint32_t n = 0, type = 0;
        int e = read_text(r, "a tensor's name", GGUF_TENSOR_NAME_MAX, name, sizeof(name), &len);

        if (e < 0)
                return e;
        (void)text_harmless(name);
        if (strlen(name) > 64)
                name[64] = '\0';
        e = read_u32(r, "a tensor", &n);
        if (e == 0 && n > DIMS_MAX)
                return bad(r, at, "the tensor %s has %u dimensions, at most %d are possible", name, n,
                           DIMS_MAX);
        for (uint32_t i = 0; e == 0 && i < n; i++)
                e = read_bytes(r, 8, "a tensor", &dims[i]);
        if (e == 0)
                e = read_u32(r, "a tensor", &type);
        if (e == 0)
                e = read_bytes(r, 8, "a tensor", &offset);
        if (e == 0)
                e = size_tensor(r, at, name, dims, type, &weights, &bytes);
        if (e < 0)
                return e;
        if (offset % r->alignment)
                return bad(r, at, "the tensor %s begins at %llu, which is no multiple of %llu", name,
                           (unsigned long long)offset, (unsigned long long)r->alignment);
        if (offset > INT64_MAX - GGUF_HEADER_MAX - GGUF_ALIGNMENT_MAX ||
            __builtin_add_overflow(r->g->parameters, weights, &r->g->parameters) ||
            r->g->parameters > INT64_MAX)
                return bad(r, at, "the tensor %s lies beyond the end of any file", name);
        if (bytes == UINT64_MAX || *end == UINT64_MAX)
                *end = UINT64_MAX;
        else if (bytes > INT64_MAX - GGUF_HEADER_MAX - GGUF_ALIGNMENT_MAX - offset)
                return bad(r, at, "the tensor %s lies beyond the end of any file", name);
        else
                *end = MAX(*end, offset + bytes);
        if (type < ARRAY_SIZE(tensor_types))
                r->weights[type] += weights;
        if (streq(name, "token_embd.weight") && bytes != UINT64_MAX)
                r->input_bytes = bytes;
        r->has_output |= streq(name, "output.weight");
        return 0;
}

static int read_tensors(struct reader *r)
{
        uint64_t end = 0;

        for (uint64_t i = 0; i < r->g->tensors; i++) {
                int e = read_tensor(r, &end);

                if (e < 0)
                        return e;
        }
        r->g->header_size = (r->at + r->alignment - 1) / r->alignment * r->alignment;
        if (end != UINT64_MAX)
                r->g->expected_size = end ? r->g->header_size + end : r->at;
        return 0;
}

/* --- the beginning ------------------------------------------------------------------------------------------------------ */

static int read_preamble(struct reader *r, uint64_t *ret_pairs)
{
        uint32_t magic = 0, version = 0;
        uint64_t at, tensors = 0, pairs = 0;
        int e;

        if (r->source->size < 4)
                return bad(r, 0, "%s", r->source->size ? "is no GGUF file" : "the file is empty");
        e = read_u32(r, "its first bytes", &magic);
        if (e < 0)
                return e;
        if (magic != 0x46554747) /* "GGUF" */
                return bad(r, 0, "is no GGUF file: it does not begin with \"GGUF\"");
        e = read_u32(r, "its version", &version);
        if (e < 0)
                return e;
        if (version && !(version & 0xffff))
                return bad(r, 4, "is a big-endian GGUF file: convert it for little-endian machines");
        if (version == 1)
                return bad(r, 4, "is a GGUF file of version 1: convert it, llama.cpp reads 2 and 3 only");
        if (version != 2 && version != 3)
                return bad(r, 4, "is a GGUF file of version %u; 2 and 3 are known", version);
        at = r->at;
        e = read_bytes(r, 8, "its counts", &tensors);
        if (e == 0 && tensors > GGUF_TENSORS_MAX)
                return bad(r, at, "claims to have %llu tensors, at most %d are believed",
                           (unsigned long long)tensors, GGUF_TENSORS_MAX);
        at = r->at;
        if (e == 0)
                e = read_bytes(r, 8, "its counts", &pairs);
        if (e == 0 && pairs > GGUF_PAIRS_MAX)
                return bad(r, at, "claims to have %llu metadata pairs, at most %d are believed",
                           (unsigned long long)pairs, GGUF_PAIRS_MAX);
        r->g->version = version;
        r->g->tensors = tensors;
        *ret_pairs = pairs;
        return e;
}

/* --- what follows -------------------------------------------------------------------------------------------------------- */

static void name_quantization(struct reader *r)
{
        const char *name = NULL;
        uint64_t most = 0;

        if (r->has_file_type && r->file_type < ARRAY_SIZE(file_types))
                name = file_types[r->file_type];
        for (size_t i = 0;
             !(r->has_file_type && r->file_type < ARRAY_SIZE(file_types) && file_types[r->file_type]) &&
             i < ARRAY_SIZE(tensor_types);
             i++)
                if (r->weights[i] > most) {
                        most = r->weights[i];
                        name = tensor_types[i].name;
                }
        (void)snprintf(r->g->quantization, sizeof(r->g->quantization), "%s", name ? name : "");
}

/* Families that only ever make vectors; some old files of theirs have no pooling_type. */
static bool is_encoder(const char *architecture)
{
        static const char *const names[] = {"bert",         "nomic-bert",      "nomic-bert-moe", "neo-bert",
                                            "jina-bert-v2", "jina-bert-v3",    "modern-bert",    "eurobert",
                                            "t5encoder",    "gemma-embedding", "llama-embed"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(names[i], architecture))
                        return true;
        return false;
}

static enum gguf_kind kind_of(const struct reader *r)
{
        const struct gguf *g = r->g;

        if (streq(g->type, "mmproj") || streq(g->architecture, "clip"))
                return GGUF_MMPROJ;
        if (streq(g->type, "adapter"))
                return GGUF_ADAPTER;
        if (g->split_count > 1 && g->split_no > 0)
                return GGUF_PART;
        /* The first part of a split model may hold no tensors at all. */
        if (!g->architecture[0] || (!g->tensors && g->split_count < 2) ||
            (g->type[0] && !streq(g->type, "model")))
                return GGUF_OTHER;
        return g->pooling > 0 || r->is_not_causal || is_encoder(g->architecture) ? GGUF_EMBEDDING
                                                                                 : GGUF_COMPLETION;
}

/* Numbers of another family than the architecture's are not this model's. */
static void forget_other_family(struct reader *r)
{
        if (streq(r->family, r->g->architecture))
                return;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                if (keys[i].name[0] == '.' && keys[i].offset != SIZE_MAX)
                        *number_at(r->g, keys + i) = 0;
        r->g->heads_kv_sum = 0;
        r->g->pooling = GGUF_NO_POOLING;
        r->is_not_causal = false;
}

static void conclude(struct reader *r)
{
        struct gguf *g = r->g;

        forget_other_family(r);
        (void)text_harmless(g->architecture);
        (void)text_harmless(g->name);
        (void)text_harmless(g->size_label);
        (void)text_harmless(g->tokenizer);
        (void)text_harmless(g->type);
        g->has_chat_template = r->seen & 1U << KEY_TEMPLATE;
        if (!g->heads_kv && !g->heads_kv_sum)
                g->heads_kv = g->heads;
        if (!g->heads_kv_sum && g->heads_kv <= UINT32_MAX && g->blocks <= UINT32_MAX)
                g->heads_kv_sum = g->heads_kv * g->blocks;
        if (!g->key_length && g->heads)
                g->key_length = g->embedding / g->heads;
        if (!g->value_length && g->heads)
                g->value_length = g->embedding / g->heads;
        if (r->has_output)
                g->input_bytes = r->input_bytes;
        name_quantization(r);
        g->kind = kind_of(r);
        g->file_size = r->source->size;
}

int gguf_read(const struct gguf_source *source, void *window, size_t window_size, struct gguf *ret,
              struct gguf_error *ret_error)
{
        struct gguf g = {.pooling = GGUF_NO_POOLING};
        struct reader r = {.source = source,
                           .window = window,
                           .window_size = window_size,
                           .error = ret_error,
                           .g = &g,
                           .alignment = ALIGNMENT_DEFAULT};
        uint64_t pairs = 0;
        int e;

        if (window_size < GGUF_WINDOW_MIN)
                return -EINVAL; /* the caller's mistake */
        e = read_preamble(&r, &pairs);
        for (uint64_t i = 0; e == 0 && i < pairs; i++)
                e = read_pair(&r);
        if (e == 0)
                e = read_tensors(&r);
        if (e < 0)
                return e;
        conclude(&r);
        *ret = g;
        return 0;
}

bool gguf_is_cut_off(const struct gguf *g)
{
        return g->expected_size > g->file_size;
}

const char *gguf_pooling_name(int pooling)
{
        static const char *const names[] = {"none", "mean", "cls", "last", "rank"};

        return pooling >= 0 && (size_t)pooling < ARRAY_SIZE(names) ? names[pooling] : NULL;
}
