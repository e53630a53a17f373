/* gguf.h: what the header of a GGUF file says about its model. Pure: the file comes through a callback and a window.
 *
 * Read are versions 2 and 3, little endian; version 1 and big-endian files are refused with words. Nothing is believed: counts,
 * lengths, products and offsets are bounded and checked for overflow against the file's real size, so that a header that lies
 * is an error with its offset and never an allocation (there is none), a long walk or a wrong number. The walk reads the header once
 * from its beginning; arrays of numbers and long texts are jumped over, so that a window of a few KB is enough for a tokenizer
 * of megabytes. Texts (a chat template, say) are not kept beyond the arrays below.
 *
 * Source of the format: ggml's docs/gguf.md, gguf-py/gguf/constants.py (numbers of types, sizes of blocks). */
#ifndef LSV_CORE_GGUF_H
#define LSV_CORE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct gguf_source {
        /* Up to len bytes at offset into buf: how many (fewer only at the file's end), or -errno. */
        ssize_t (*read_at)(void *owner, uint64_t offset, void *buf, size_t len);
        void *owner;
        uint64_t size; /* of the whole file */
};

enum {
        GGUF_WINDOW_MIN = 4096,
        GGUF_HEADER_MAX =
                128 << 20, /* bytes before the tensors' data; the largest tokenizers need some 20 MB */
        GGUF_PAIRS_MAX = 65536,
        GGUF_TENSORS_MAX = 65536,
        GGUF_KEY_MAX = 65535,
        GGUF_TENSOR_NAME_MAX = 1023,
        GGUF_ALIGNMENT_MAX = 1 << 20,
        GGUF_LAYERS_MAX = 65536, /* numbers in a per-layer array */
};

enum gguf_kind {
        GGUF_COMPLETION,
        GGUF_EMBEDDING, /* pools its tokens into one vector; pooling "rank": a reranker */
        GGUF_PART,      /* part 2..n of a split model: its facts are in the first */
        GGUF_MMPROJ,    /* the eyes or ears of another model */
        GGUF_ADAPTER,   /* a LoRA for another model */
        GGUF_OTHER,     /* no model: an importance matrix, a bare vocabulary, … */
};

enum { GGUF_NO_POOLING = -1 };

/* Numbers are 0 and texts "" where the header tells nothing. Texts are harmless (text_harmless) and cut to fit. */
struct gguf {
        unsigned version;
        enum gguf_kind kind;
        char architecture[64], name[128], size_label[32], tokenizer[32];
        char type[32]; /* general.type as written: "model", "adapter", "mmproj", … */
        char quantization
                [16];        /* "Q4_K_M"; of the tensors that hold most weights when the header names none */
        uint64_t parameters; /* weights in the tensors of this file */
        uint64_t tensors;
        uint64_t context;   /* tokens that it was trained for */
        uint64_t embedding; /* width */
        uint64_t blocks;    /* layers */
        uint64_t vocabulary;
        /* What the KV cache is made of. Per-layer arrays give their largest and their sum; a scalar counts for each block.
         * Missing heads_kv mean heads, missing lengths mean embedding / heads (llama.cpp does the same, and so does this). */
        uint64_t heads, heads_kv, heads_kv_sum;
        uint64_t key_length, value_length;
        uint64_t sliding_window;          /* tokens; only some layers may have it */
        uint64_t full_attention_interval; /* every how manieth layer has a KV cache at all; 0: all */
        uint64_t latent;                  /* width of latent attention (MLA): keys alone are kept; 0: none */
        uint64_t experts, experts_used;
        uint64_t feed_forward, expert_feed_forward; /* widths inside a layer; per-layer arrays: the largest */
        uint64_t
                input_bytes; /* of token_embd.weight, which stays in the memory of the CPU; 0: unknown, or it is the output as well */
        bool has_chat_template;
        uint64_t chat_template_length;  /* bytes */
        int pooling;                    /* as llama.cpp numbers it: 0 none, 1 mean, 2 cls, 3 last, 4 rank */
        unsigned split_no, split_count; /* split_count 0: not split */

        uint64_t header_size;   /* where the tensors' data begins */
        uint64_t expected_size; /* the least that the file must have; 0: a type of tensor is not known */
        uint64_t file_size;
};

struct gguf_error {
        uint64_t offset; /* the byte where it went wrong */
        char words[160];
};

/* window: at least GGUF_WINDOW_MIN bytes to read through. 0; -EBADMSG: the file is no GGUF or lies; else read_at's -errno. Both
 * with *ret_error, and *ret untouched. A file that is shorter than its tensors is told by gguf_is_cut_off, not here. */
int gguf_read(const struct gguf_source *source, void *window, size_t window_size, struct gguf *ret,
              struct gguf_error *ret_error);

bool gguf_is_cut_off(const struct gguf *g); /* a download that has not ended, say */
const char *gguf_pooling_name(int pooling); /* "mean", NULL for GGUF_NO_POOLING and unknown ones */

#endif
