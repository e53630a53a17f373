/* memory.c: weights, KV cache and the rest. */
#include "core/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#include "base/macros.h"

enum { CELLS_PAD = 256, SLOTS_AUTO = 4, UBATCH = 512, FIT_CONTEXT = 4096 };
/* Beyond it no figure is believed, and sums cannot overflow. */
#define MOST (UINT64_C(1) << 60)

/* --- arguments -------------------------------------------------------------------------------------------------- */

/* Spellings of one option and its variable; source: llama-server --help (build 11669). */
struct option {
        const char *names[3], *env;
};
static const struct option context_size = {{"-c", "--ctx-size"}, "LLAMA_ARG_CTX_SIZE"},
                           parallel = {{"-np", "--parallel"}, "LLAMA_ARG_N_PARALLEL"},
                           per_slot = {{"--kv-unified-per-slot"}, "LLAMA_ARG_KV_UNIFIED_PER_SLOT"},
                           type_k = {{"-ctk", "--cache-type-k"}, "LLAMA_ARG_CACHE_TYPE_K"},
                           type_v = {{"-ctv", "--cache-type-v"}, "LLAMA_ARG_CACHE_TYPE_V"},
                           gpu_layers = {{"-ngl", "--gpu-layers", "--n-gpu-layers"},
                                         "LLAMA_ARG_N_GPU_LAYERS"},
                           ubatch = {{"-ub", "--ubatch-size"}, "LLAMA_ARG_UBATCH"},
                           device = {{"-dev", "--device"}, "LLAMA_ARG_DEVICE"},
                           fit = {{"-fit", "--fit"}, "LLAMA_ARG_FIT"},
                           fit_context = {{"-fitc", "--fit-ctx"}, "LLAMA_ARG_FIT_CTX"},
                           unified = {{"-kvu", "--kv-unified"}, "LLAMA_ARG_KV_UNIFIED"},
                           not_unified = {{"-no-kvu", "--no-kv-unified"}, "LLAMA_ARG_NO_KV_UNIFIED"},
                           offload = {{"-kvo", "--kv-offload"}, "LLAMA_ARG_KV_OFFLOAD"},
                           no_offload = {{"-nkvo", "--no-kv-offload"}, "LLAMA_ARG_NO_KV_OFFLOAD"},
                           swa_full = {{"--swa-full"}, "LLAMA_ARG_SWA_FULL"};

struct given {
        char *const *args, *const *env;
};

/* llama-server reads "--ctx_size" as "--ctx-size". */
static bool is_spelling(const char *arg, const char *name)
{
        bool is_long = starts_with(name, "--");
        size_t i;

        for (i = 0; name[i]; i++)
                if (arg[i] != name[i] && !(is_long && arg[i] == '_' && name[i] == '-'))
                        return false;
        return arg[i] == '\0';
}

/* The last place of it in args, counted from 1; 0: it is not there. */
static size_t place_of(const struct given *g, const struct option *o)
{
        size_t found = 0;

        for (size_t i = 0; g->args && g->args[i]; i++)
                for (size_t k = 0; k < ARRAY_SIZE(o->names) && o->names[k]; k++)
                        if (is_spelling(g->args[i], o->names[k]))
                                found = i + 1;
        return found;
}

static const char *variable(const struct given *g, const struct option *o)
{
        size_t n = strlen(o->env);

        for (char *const *e = g->env; e && *e; e++)
                if (strncmp(*e, o->env, n) == 0 && (*e)[n] == '=')
                        return *e + n + 1;
        return NULL;
}

static const char *value_of(const struct given *g, const struct option *o)
{
        size_t at = place_of(g, o);

        return at ? g->args[at] : variable(g, o);
}

static int64_t number_of(const struct given *g, const struct option *o, int64_t fallback)
{
        const char *s = value_of(g, o);
        char *end;
        long v;

        if (!s || !*s)
                return fallback;
        errno = 0;
        v = strtol(s, &end, 10);
        return *end || errno ? fallback : MIN((int64_t)v, (int64_t)1 << 40);
}

static bool is_true(const char *s)
{
        return s &&
               (streq(s, "1") || !strcasecmp(s, "on") || !strcasecmp(s, "true") || !strcasecmp(s, "enabled"));
}

/* A switch and its opposite: the last in the arguments, else the variables. */
static bool is_on(const struct given *g, const struct option *yes, const struct option *no, bool fallback)
{
        size_t y = place_of(g, yes), n = no ? place_of(g, no) : 0;

        if (y || n)
                return y > n;
        if (variable(g, yes))
                return is_true(variable(g, yes));
        if (no && variable(g, no))
                return !is_true(variable(g, no));
        return fallback;
}

/* --- figures ---------------------------------------------------------------------------------------------------- */

static uint64_t times(uint64_t a, uint64_t b)
{
        uint64_t r;

        return __builtin_mul_overflow(a, b, &r) ? MOST : MIN(r, MOST);
}

/* Bytes of 32 numbers of that type. */
static uint64_t bytes_of_32(const char *type)
{
        static const struct {
                const char *name;
                uint64_t bytes;
        } types[] = {{"f32", 128}, {"f16", 64},  {"bf16", 64}, {"q8_0", 34},  {"q4_0", 18},
                     {"q4_1", 20}, {"q5_0", 22}, {"q5_1", 24}, {"iq4_nl", 18}};

        for (size_t i = 0; type && i < ARRAY_SIZE(types); i++)
                if (streq(types[i].name, type))
                        return types[i].bytes;
        return 64; /* f16, the default */
}

/* Every how manieth layer sees the whole context; 1: all, as far as is known. */
static uint64_t full_every(const char *architecture)
{
        static const struct {
                const char *name;
                uint64_t n;
        } patterns[] = {{"gemma2", 2},  {"gemma3", 6},  {"gemma3n", 5}, {"gemma-embedding", 6},
                        {"cohere2", 4}, {"exaone4", 4}, {"gpt-oss", 2}};

        for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
                if (streq(patterns[i].name, architecture))
                        return patterns[i].n;
        return 1;
}

struct shape {
        const struct gguf *g;
        uint64_t slots, per_slot, context; /* per_slot, context: 0: not given */
        bool is_unified, is_swa_full;
        uint64_t ubatch, bytes_k, bytes_v;
        uint64_t layers; /* on the GPU, of blocks + 1 */
        bool kv_on_gpu, fits;
        uint64_t fit_context;
};

static uint64_t padded(uint64_t cells)
{
        return (cells + CELLS_PAD - 1) / CELLS_PAD * CELLS_PAD;
}

/* Of one stream, and how many of them there are. */
static uint64_t cells_of(const struct shape *s, uint64_t context, uint64_t *ret_streams)
{
        *ret_streams = s->is_unified ? 1 : s->slots;
        if (s->per_slot && !context)
                return padded(s->is_unified ? times(s->per_slot, s->slots) : s->per_slot);
        if (!context)
                return padded(MIN(s->g->context, MOST));
        return padded(s->is_unified ? context : (context + s->slots - 1) / s->slots);
}

/* context 0: what it would like. */
static uint64_t cache_of(const struct shape *s, uint64_t context)
{
        const struct gguf *g = s->g;
        uint64_t streams, cells = cells_of(s, context, &streams), every = full_every(g->architecture);
        uint64_t window = cells, full = g->blocks / every, numbers, bytes;

        if (!s->kv_on_gpu)
                return 0;
        if (every > 1 && g->sliding_window && !s->is_swa_full)
                window = MIN(cells,
                             padded(times(g->sliding_window, s->is_unified ? s->slots : 1) + s->ubatch));
        /* Cells of all layers; the heads of a layer are their mean. */
        numbers = MIN(times(cells, full) + times(window, g->blocks - full), MOST);
        numbers = times(numbers, streams);
        numbers = times(numbers, g->heads_kv_sum) / g->blocks;
        bytes = (times(times(numbers, g->key_length), s->bytes_k) +
                 times(times(numbers, g->value_length), s->bytes_v)) /
                32;
        return times(bytes, MIN(s->layers, g->blocks)) / g->blocks;
}

static void read_arguments(const struct given *in, struct shape *s)
{
        int64_t slots = number_of(in, &parallel, -1), layers = number_of(in, &gpu_layers, -1);
        const char *on = value_of(in, &device), *fits = value_of(in, &fit);

        s->slots = slots > 0 ? (uint64_t)slots : SLOTS_AUTO;
        s->is_unified = is_on(in, &unified, &not_unified, slots <= 0);
        s->per_slot = (uint64_t)MAX(number_of(in, &per_slot, 0), 0);
        s->context = (uint64_t)MAX(number_of(in, &context_size, 0), 0);
        s->is_swa_full = is_on(in, &swa_full, NULL, false);
        s->ubatch = (uint64_t)MAX(number_of(in, &ubatch, UBATCH), 1);
        s->bytes_k = bytes_of_32(value_of(in, &type_k));
        s->bytes_v = bytes_of_32(value_of(in, &type_v));
        s->layers = s->g->blocks + 1;
        if (layers >= 0)
                s->layers = MIN((uint64_t)layers, s->layers);
        if (on && streq(on, "none"))
                s->layers = 0;
        s->kv_on_gpu = is_on(in, &offload, &no_offload, true);
        /* It gives up fitting when the layers are given (measured). */
        s->fits = !s->context && !s->per_slot && layers < 0 && (!fits || is_true(fits));
        s->fit_context = (uint64_t)MAX(number_of(in, &fit_context, FIT_CONTEXT), 1);
}

uint64_t memory_guess(uint64_t weights)
{
        return MIN(weights, MOST) + MIN(weights, MOST) / 10 + MEMORY_BESIDE;
}

int memory_need(const struct gguf *g, uint64_t weights, char *const *args, char *const *env,
                struct memory_need *ret)
{
        const struct given given = {.args = args, .env = env};
        struct shape s = {.g = g};
        uint64_t fixed;

        if (!g->blocks || g->blocks > GGUF_LAYERS_MAX || !g->context || !g->heads || !g->key_length ||
            !g->value_length)
                return -ENODATA;
        read_arguments(&given, &s);
        fixed = times(weights, s.layers) / (g->blocks + 1) + MEMORY_BESIDE;
        ret->wants = fixed + cache_of(&s, s.context);
        ret->least = s.fits ? fixed + cache_of(&s, MIN(s.fit_context, g->context)) : ret->wants;
        ret->least = MIN(ret->least, ret->wants);
        return 0;
}
