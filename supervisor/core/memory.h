/* memory.h: how much GPU memory an instance is going to take, out of its model's header and its arguments. Pure.
 *
 *   weights × (layers on the GPU / layers) + KV cache + MEMORY_BESIDE (compute buffers, and what the driver keeps per process)
 *
 *   KV cache = Σ over the layers: cells × heads_kv × (key_length × bytes of cache-type-k + value_length × bytes of cache-type-v)
 *
 * cells: `-c` of them for all slots together (unified, or shared out among `-np`), each slot's part rounded up to 256. Without -c it is the
 * context that the model was trained for, of each slot with an explicit -np that is not unified; with --kv-unified-per-slot N it is N of
 * each slot. A layer with a sliding window has no more than the window (of each slot, when unified) and a batch (-ub). Which layers
 * have one, the header does not tell: it is known by the architecture, and of others all count in full, which is an upper bound.
 * So do the values of models with latent attention (MLA), which store none, and the recurrent state of others is not counted.
 *
 * Without -c the context is not fixed: llama-server (--fit, its default) makes it smaller until it fits, down to --fit-ctx. So there are
 * two figures: what it would like to take, and the least that it needs.
 *
 * Sources: llama.cpp src/llama-kv-cache.cpp (shape of the tensors), src/llama-kv-cache-iswa.cpp (cells of a window), src/models/
 * (set_swa_pattern), ggml's block sizes; measured with build 11669 and `-lv 5` (`llama_kv_cache: size`), see tests/unit/core/test_memory.c. */
#ifndef LSV_CORE_MEMORY_H
#define LSV_CORE_MEMORY_H

#include "core/gguf.h"

#define MEMORY_BESIDE (UINT64_C(512) << 20)

struct memory_need {
        uint64_t wants; /* bytes of all its GPUs together */
        uint64_t least; /* the same as wants when the arguments fix the context */
};

/* args, env ("NAME=value"): the effective ones of the instance, NULL-ended, may be NULL; args win. weights: bytes of all parts.
 * 0; -ENODATA: the header does not tell enough (no layers, heads or context). */
int memory_need(const struct gguf *g, uint64_t weights, char *const *args, char *const *env,
                struct memory_need *ret);
/* For a model of which only the size is known: that, a tenth more, and MEMORY_BESIDE. */
uint64_t memory_guess(uint64_t weights);

#endif
