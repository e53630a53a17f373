/* fake_texts.h: what the real llama-server (build 11669) prints, word for word, for the fake one.
 * Taken from runs of the real program; test_fake_is_true.py compares both. */
#ifndef FAKE_TEXTS_H
#define FAKE_TEXTS_H

/* clang-format off */
#define BUILD_INFO "b11669-Debian"

static const char VERSION_TEXT[] =
"version: 0.7.0 (build 11669, commit Debian)\n"
"built with GNU 16.2.0 for Linux x86_64\n";

/* An excerpt of --help: the options that a supervisor and its users are likely to pass. It is also the table from which
 * the fake knows its options: names in the first column, a placeholder means a value, "(env: NAME)" the variable. */
static const char HELP_TEXT[] =
"----- common params -----\n"
"\n"
"-h,    --help, --usage                  print usage and exit\n"
"--version                               show version and build info\n"
"-t,    --threads N                      number of CPU threads to use during generation (default: <num_cpus>)\n"
"                                        (env: LLAMA_ARG_THREADS)\n"
"-tb,   --threads-batch N                number of threads to use during batch and prompt processing (default:\n"
"                                        same as --threads)\n"
"-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)\n"
"                                        (env: LLAMA_ARG_CTX_SIZE)\n"
"-n,    --predict, --n-predict N         number of tokens to predict (default: -1, -1 = infinity)\n"
"                                        (env: LLAMA_ARG_N_PREDICT)\n"
"-b,    --batch-size N                   logical maximum batch size (default: 2048)\n"
"                                        (env: LLAMA_ARG_BATCH)\n"
"-ub,   --ubatch-size N                  physical maximum batch size (default: 512)\n"
"                                        (env: LLAMA_ARG_UBATCH)\n"
"-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')\n"
"                                        (env: LLAMA_ARG_FLASH_ATTN)\n"
"-kvo,  --kv-offload, -nkvo, --no-kv-offload\n"
"                                        whether to enable KV cache offloading (default: enabled)\n"
"                                        (env: LLAMA_ARG_KV_OFFLOAD)\n"
"-ctk,  --cache-type-k TYPE              KV cache data type for K\n"
"                                        allowed values: f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1\n"
"                                        (default: f16)\n"
"                                        (env: LLAMA_ARG_CACHE_TYPE_K)\n"
"-ctv,  --cache-type-v TYPE              KV cache data type for V\n"
"                                        allowed values: f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1\n"
"                                        (default: f16)\n"
"                                        (env: LLAMA_ARG_CACHE_TYPE_V)\n"
"-lm,   --load-mode MODE                 model loading mode (default: auto)\n"
"                                        - auto: mmap, unless a device does not support it\n"
"                                        - none: no special loading mode\n"
"                                        - mmap: memory-map model (if mmap disabled, slower load but may reduce\n"
"                                        pageouts if not using mlock)\n"
"                                        - mlock: force system to keep model in RAM rather than swapping or\n"
"                                        compressing\n"
"                                        - mmap+mlock: mmap + force system to keep model in RAM rather than\n"
"                                        swapping or compressing\n"
"                                        - dio: use DirectIO if available\n"
"                                        \n"
"                                        (env: LLAMA_ARG_LOAD_MODE)\n"
"--numa TYPE                             attempt optimizations that help on some NUMA systems\n"
"                                        - distribute: spread execution evenly over all nodes\n"
"                                        - isolate: only spawn threads on CPUs on the node that execution\n"
"                                        started on\n"
"                                        - numactl: use the CPU map provided by numactl\n"
"                                        if run without this previously, it is recommended to drop the system\n"
"                                        page cache before using this\n"
"                                        see https://github.com/ggml-org/llama.cpp/issues/1437\n"
"                                        (env: LLAMA_ARG_NUMA)\n"
"-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading (none = don't\n"
"                                        offload)\n"
"                                        use --list-devices to see a list of available devices\n"
"                                        (env: LLAMA_ARG_DEVICE)\n"
"--list-devices                          print list of available devices and exit\n"
"-ot,   --override-tensor <tensor name pattern>=<buffer type>,...\n"
"                                        override tensor buffer type\n"
"                                        (env: LLAMA_ARG_OVERRIDE_TENSOR)\n"
"-cmoe, --cpu-moe                        keep all Mixture of Experts (MoE) weights in the CPU\n"
"                                        (env: LLAMA_ARG_CPU_MOE)\n"
"-ncmoe, --n-cpu-moe N                   keep the Mixture of Experts (MoE) weights of the first N layers in the\n"
"                                        CPU\n"
"                                        (env: LLAMA_ARG_N_CPU_MOE)\n"
"-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,\n"
"                                        'auto', or 'all' (default: auto)\n"
"                                        (env: LLAMA_ARG_N_GPU_LAYERS)\n"
"-sm,   --split-mode {none,layer,row,tensor}\n"
"                                        how to split the model across multiple GPUs, one of:\n"
"                                        - none: use one GPU only\n"
"                                        - layer (default): split layers and KV across GPUs (pipelined)\n"
"                                        - row: split weight across GPUs by rows (parallelized)\n"
"                                        - tensor: split weights and KV across GPUs (parallelized,\n"
"                                        EXPERIMENTAL)\n"
"                                        (env: LLAMA_ARG_SPLIT_MODE)\n"
"-ts,   --tensor-split N0,N1,N2,...      fraction of the model to offload to each GPU, comma-separated list of\n"
"                                        proportions, e.g. 3,1\n"
"                                        (env: LLAMA_ARG_TENSOR_SPLIT)\n"
"-mg,   --main-gpu INDEX                 the GPU to use for the model (with split-mode = none), or for\n"
"                                        intermediate results and KV (with split-mode = row) (default: 0)\n"
"                                        (env: LLAMA_ARG_MAIN_GPU)\n"
"-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory ('on' or\n"
"                                        'off', default: 'on')\n"
"                                        (env: LLAMA_ARG_FIT)\n"
"-fitt, --fit-target MiB0,MiB1,MiB2,...\n"
"                                        target margin per device for --fit, comma-separated list of values,\n"
"                                        single value is broadcast across all devices, default: 1024\n"
"                                        (env: LLAMA_ARG_FIT_TARGET)\n"
"-fitc, --fit-ctx N                      minimum ctx size that can be set by --fit option, default: 4096\n"
"                                        (env: LLAMA_ARG_FIT_CTX)\n"
"-m,    --model FNAME                    model path to load\n"
"                                        (env: LLAMA_ARG_MODEL)\n"
"-hf,   -hfr, --hf-repo <user>/<model>[:quant]\n"
"                                        Hugging Face model repository; quant is optional, case-insensitive,\n"
"                                        default to Q4_K_M, or falls back to the first file in the repo if\n"
"                                        Q4_K_M doesn't exist.\n"
"                                        mmproj is also downloaded automatically if available. to disable, add\n"
"                                        --no-mmproj\n"
"                                        example: ggml-org/GLM-4.7-Flash-GGUF:Q4_K_M\n"
"                                        (default: unused)\n"
"                                        (env: LLAMA_ARG_HF_REPO)\n"
"-hft,  --hf-token TOKEN                 Hugging Face access token (default: value from HF_TOKEN environment\n"
"                                        variable)\n"
"                                        (env: HF_TOKEN)\n"
"--log-disable                           Log disable\n"
"--log-file FNAME                        Log to file\n"
"                                        (env: LLAMA_ARG_LOG_FILE)\n"
"--log-jsonl, --no-log-jsonl             Log as JSONL (one JSON object per line) to stdout, this also disables\n"
"                                        colored logging (default: disabled)\n"
"                                        (env: LLAMA_ARG_LOG_JSONL)\n"
"--log-colors [on|off|auto]              Set colored logging ('on', 'off', or 'auto', default: 'auto')\n"
"                                        'auto' enables colors when output is to a terminal\n"
"                                        (env: LLAMA_ARG_LOG_COLORS)\n"
"-v,    --verbose, --log-verbose         Set verbosity level to infinity (i.e. log all messages, useful for\n"
"                                        debugging)\n"
"--offline                               Offline mode: forces use of cache, prevents network access\n"
"                                        (env: LLAMA_ARG_OFFLINE)\n"
"-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold. Messages with a higher verbosity will be\n"
"                                        ignored. Values:\n"
"                                         - 0: generic output\n"
"                                         - 1: error\n"
"                                         - 2: warning\n"
"                                         - 3: info\n"
"                                         - 4: trace (more info)\n"
"                                         - 5: debug\n"
"                                        (default: 3)\n"
"                                        \n"
"                                        (env: LLAMA_ARG_LOG_VERBOSITY)\n"
"--log-prefix, --no-log-prefix           Enable prefix in log messages\n"
"                                        (env: LLAMA_ARG_LOG_PREFIX)\n"
"--log-timestamps, --no-log-timestamps   Enable timestamps in log messages\n"
"                                        (env: LLAMA_ARG_LOG_TIMESTAMPS)\n"
"\n"
"\n"
"----- sampling params -----\n"
"\n"
"-s,    --seed SEED                      RNG seed (default: -1, use random seed for -1)\n"
"--ignore-eos                            ignore end of stream token and continue generating (implies\n"
"                                        --logit-bias EOS-inf)\n"
"--temp, --temperature N                 temperature (default: 0.80)\n"
"                                        (env: LLAMA_ARG_TEMPERATURE)\n"
"\n"
"\n"
"----- speculative params -----\n"
"\n"
"--spec-draft-model, -md, --model-draft FNAME\n"
"                                        draft model for speculative decoding (default: unused)\n"
"                                        (env: LLAMA_ARG_SPEC_DRAFT_MODEL)\n"
"\n"
"\n"
"----- example-specific params -----\n"
"\n"
"-cram, --cache-ram N                    set the maximum cache size in MiB (default: 8192, 0 for decision\n"
"                                        models, -1 - no limit, 0 - disable)[(more\n"
"                                        info)](https://github.com/ggml-org/llama.cpp/pull/16391)\n"
"                                        (env: LLAMA_ARG_CACHE_RAM)\n"
"-kvu,  --kv-unified, -no-kvu, --no-kv-unified\n"
"                                        use single unified KV buffer shared across all sequences (default:\n"
"                                        enabled if number of slots is auto)\n"
"                                        (env: LLAMA_ARG_KV_UNIFIED)\n"
"--context-shift, --no-context-shift     whether to use context shift on infinite text generation (default:\n"
"                                        disabled)\n"
"                                        (env: LLAMA_ARG_CONTEXT_SHIFT)\n"
"--warmup, --no-warmup                   whether to perform warmup with an empty run (default: enabled)\n"
"-np,   --parallel N                     number of server slots (default: -1, -1 = auto)\n"
"                                        (env: LLAMA_ARG_N_PARALLEL)\n"
"-cb,   --cont-batching, -nocb, --no-cont-batching\n"
"                                        whether to enable continuous batching (a.k.a dynamic batching)\n"
"                                        (default: enabled)\n"
"                                        (env: LLAMA_ARG_CONT_BATCHING)\n"
"-mm,   --mmproj FILE                    path to a multimodal projector file. see tools/mtmd/README.md\n"
"                                        note: if -hf is used, this argument can be omitted\n"
"                                        (env: LLAMA_ARG_MMPROJ)\n"
"-a,    --alias STRING                   set model name aliases, comma-separated (to be used by API)\n"
"                                        (env: LLAMA_ARG_ALIAS)\n"
"--host HOST                             IP addresses to listen on, comma-separated, or UNIX socket paths\n"
"                                        ending in .sock; with multiple TCP addresses, :: binds IPv6 only;\n"
"                                        overlapping addresses result in undefined behavior (default:\n"
"                                        127.0.0.1)\n"
"                                        (env: LLAMA_ARG_HOST)\n"
"--port PORT                             port to listen (default: 9931)\n"
"                                        (env: LLAMA_ARG_PORT)\n"
"--reuse-port                            allow multiple sockets to bind to the same port (default: disabled)\n"
"                                        (env: LLAMA_ARG_REUSE_PORT)\n"
"--api-prefix PREFIX                     prefix path the server serves from, without the trailing slash\n"
"                                        (default: )\n"
"                                        (env: LLAMA_ARG_API_PREFIX)\n"
"--ui,  --webui, --no-ui, --no-webui     whether to enable the Web UI (default: enabled)\n"
"                                        (env: LLAMA_ARG_UI)\n"
"--embedding, --embeddings               restrict to only support embedding use case; use only with dedicated\n"
"                                        embedding models (default: disabled)\n"
"                                        (env: LLAMA_ARG_EMBEDDINGS)\n"
"--rerank, --reranking                   enable reranking endpoint on server (default: disabled)\n"
"                                        (env: LLAMA_ARG_RERANKING)\n"
"--api-key KEY                           API key to use for authentication, multiple keys can be provided as a\n"
"                                        comma-separated list (default: none)\n"
"                                        (env: LLAMA_API_KEY)\n"
"--api-key-file FNAME                    path to file containing API keys, one per line; lines starting with a\n"
"                                        hash are treated as comments (default: none)\n"
"                                        (env: LLAMA_ARG_API_KEY_FILE)\n"
"-to,   --timeout N                      server read/write timeout in seconds (default: 3600)\n"
"                                        (env: LLAMA_ARG_TIMEOUT)\n"
"--sse-ping-interval N                   server SSE ping interval in seconds (-1 = disabled, default: 30)\n"
"                                        (env: LLAMA_ARG_SSE_PING_INTERVAL)\n"
"--threads-http N                        number of threads used to process HTTP requests (default: -1)\n"
"                                        (env: LLAMA_ARG_THREADS_HTTP)\n"
"--cache-prompt, --no-cache-prompt       whether to enable prompt caching (default: enabled)\n"
"                                        (env: LLAMA_ARG_CACHE_PROMPT)\n"
"--cache-reuse N                         min chunk size to attempt reusing from the cache via KV shifting,\n"
"                                        requires prompt caching to be enabled (default: 0)\n"
"                                        [(card)](https://ggml.ai/f0.png)\n"
"                                        (env: LLAMA_ARG_CACHE_REUSE)\n"
"--metrics                               enable prometheus compatible metrics endpoint (default: disabled)\n"
"                                        (env: LLAMA_ARG_ENDPOINT_METRICS)\n"
"--props                                 enable changing global properties via POST /props (default: disabled)\n"
"                                        (env: LLAMA_ARG_ENDPOINT_PROPS)\n"
"--slots, --no-slots                     expose slots monitoring endpoint (default: enabled)\n"
"                                        (env: LLAMA_ARG_ENDPOINT_SLOTS)\n"
"--models-dir PATH                       directory containing models for the router server (default: disabled)\n"
"                                        (env: LLAMA_ARG_MODELS_DIR)\n"
"--models-max N                          for router server, maximum number of models to load simultaneously\n"
"                                        (default: 4, 0 = unlimited)\n"
"                                        (env: LLAMA_ARG_MODELS_MAX)\n"
"--jinja, --no-jinja                     whether to use jinja template engine for chat (default: enabled)\n"
"                                        (env: LLAMA_ARG_JINJA)\n"
"--chat-template JINJA_TEMPLATE          set custom jinja chat template (default: template taken from model's\n"
"                                        metadata)\n"
"                                        if suffix/prefix are specified, template will be disabled\n"
"                                        only commonly used templates are accepted (unless --jinja is set\n"
"                                        before this flag):\n"
"                                        list of built-in templates:\n"
"                                        bailing, bailing-think, bailing2, chatglm3, chatglm4, chatml,\n"
"                                        command-r, deepseek, deepseek-ocr, deepseek2, deepseek3, exaone-moe,\n"
"                                        exaone3, exaone4, falcon3, gemma, gigachat, glmedge, gpt-oss, granite,\n"
"                                        granite-4.0, granite-4.1, grok-2, hunyuan-dense, hunyuan-moe,\n"
"                                        hunyuan-vl, kimi-k2, llama2, llama2-sys, llama2-sys-bos,\n"
"                                        llama2-sys-strip, llama3, llama4, megrez, minicpm, mistral-v1,\n"
"                                        mistral-v3, mistral-v3-tekken, mistral-v7, mistral-v7-tekken, monarch,\n"
"                                        openchat, orion, pangu-embedded, phi3, phi4, rwkv-world, seed_oss,\n"
"                                        smolvlm, solar-open, vicuna, vicuna-orca, yandex, zephyr\n"
"                                        (env: LLAMA_ARG_CHAT_TEMPLATE)\n"
"--sleep-idle-seconds SECONDS            number of seconds of idleness after which the server will sleep\n"
"                                        (default: -1; -1 = disabled)\n";

/* Sampling settings, as members of an object: in /props, /slots and the answers of /completion. */
#define SETTINGS_HEAD \
"\"seed\":4294967295,\"temperature\":0.800000011920929,\"dynatemp_range\":0.0," \
"\"dynatemp_exponent\":1.0,\"top_k\":40,\"top_p\":0.949999988079071," \
"\"min_p\":0.05000000074505806,\"top_n_sigma\":-1.0,\"xtc_probability\":0.0," \
"\"xtc_threshold\":0.10000000149011612,\"typical_p\":1.0,\"repeat_last_n\":64," \
"\"repeat_penalty\":1.0,\"presence_penalty\":0.0,\"frequency_penalty\":0.0," \
"\"dry_multiplier\":0.0,\"dry_base\":1.75,\"dry_allowed_length\":2," \
"\"dry_penalty_last_n\":64,"

#define SETTINGS_BREAKERS "\"dry_sequence_breakers\":[\"\\n\",\":\",\"\\\"\",\"*\"],"

#define SETTINGS_MID \
"\"mirostat\":0,\"mirostat_tau\":5.0,\"mirostat_eta\":0.10000000149011612," \
"\"adaptive_target\":-1.0,\"adaptive_decay\":0.8999999761581421,"

#define SETTINGS_TAIL \
"\"samplers\":[\"penalties\",\"dry\",\"top_n_sigma\",\"top_k\",\"typ_p\",\"top_p\"," \
"\"min_p\",\"xtc\",\"temperature\"],\"speculative.types\":\"none\"," \
"\"timings_per_token\":false,\"post_sampling_probs\":false,\"backend_sampling\":false," \
"\"lora\":[]"

#define CHAT_TEMPLATE \
"{%- for message in messages -%}<|{{ message['role'] }}|>{{ message['content'] }}</s>{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"

#define CHAT_TEMPLATE_CAPS \
"{\"supports_object_arguments\":false,\"supports_parallel_tool_calls\":false," \
"\"supports_preserve_reasoning\":false,\"supports_reasoning_effort\":false," \
"\"supports_string_content\":true,\"supports_system_role\":true," \
"\"supports_tool_calls\":false,\"supports_tools\":false,\"supports_typed_content\":false}"

struct metric {
        const char *name, *type, *help;
};

static const struct metric METRICS[] = {
        {"prompt_tokens_total", "counter", "Number of prompt tokens processed, excluding cached tokens"},
        {"prompt_tokens_cached_total", "counter", "Number of prompt tokens reused from the cache"},
        {"prompt_seconds_total", "counter", "Total time spent processing prompts"},
        {"tokens_predicted_total", "counter", "Number of generation tokens processed"},
        {"tokens_predicted_seconds_total", "counter", "Total time spent generating tokens"},
        {"n_decode_total", "counter", "Total number of llama_decode() calls, excluding speculative decoding and multimodal decoding"},
        {"n_tokens_max", "counter", "Largest observed sequence length (prompt + generation)"},
        {"spec_decode_num_draft_tokens_total", "counter", "Speculative: Total draft tokens generated"},
        {"spec_decode_num_accepted_tokens_total", "counter", "Speculative: Total draft tokens accepted by the target model"},
        {"spec_decode_num_drafts_total", "counter", "Speculative: Total speculative decoding verification steps"},
        {"prompt_tokens_seconds", "gauge", "Average prompt throughput in tokens/s"},
        {"predicted_tokens_seconds", "gauge", "Average generation throughput in tokens/s"},
        {"requests_processing", "gauge", "Number of requests processing"},
        {"requests_deferred", "gauge", "Number of requests deferred"},
        {"n_busy_slots_per_decode", "gauge", "Average number of busy slots per llama_decode() call"},
};

/* What the tiny model says to everything. */
static const char *const WORDS[] = {
        " the", " quick", " brown", " fox",   " jumps", " over", " a",     " lazy", " dog",  " while", " our",
        " small", " model", " counts", " one", " two",   " three", " four", " five", " six",  " seven", " eight",
        " nine", " ten",   " and",   " then", " it",    " says", " good",  " bye",  " now",
};
/* clang-format on */

#endif
