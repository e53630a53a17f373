/* config_args.c: the arguments and variables that would fight ours, and which key says it instead. */
#include "core/config_internal.h"

#include "base/text.h"

#define WHERE  "where it listens is decided by us; use \"endpoint\" for a fixed address"
#define MODEL  "use the key \"model\""
#define ROUTER "router mode would hide its models from us; give each model an instance"
#define KEY    "a key in argv is seen by everybody; use \"api_key_file\""
#define TOKEN  "a token in argv is seen by everybody; use \"llama_server.hf_token_file\""
#define TLS    "we talk to it over a private socket; TLS belongs to \"listen\""
#define ENDS   "it prints something and exits"
#define REMOTE                                                                                               \
        "it concerns files, programs or other machines, so only the configuration may say it (there "        \
        "`instances` has `args`)"

/* Sources: llama-server --help (build 11669) and the older spellings. */
static const struct {
        const char *arg, *env, *why;
} reserved[] = {
        {"--host", "LLAMA_ARG_HOST", WHERE},
        {"--port", "LLAMA_ARG_PORT", WHERE},
        {"--reuse-port", "LLAMA_ARG_REUSE_PORT", "two servers could answer on one port"},
        {"--api-prefix", "LLAMA_ARG_API_PREFIX",
         "its health and model routes must be where we look for them"},
        {"-m", NULL, MODEL},
        {"--model", "LLAMA_ARG_MODEL", MODEL},
        {"-mu", NULL, MODEL},
        {"--model-url", "LLAMA_ARG_MODEL_URL", MODEL},
        {"-dr", NULL, MODEL},
        {"--docker-repo", "LLAMA_ARG_DOCKER_REPO", MODEL},
        {"-hf", NULL, "use the key \"model\" with \"hf:user/repo:quant\""},
        {"-hfr", NULL, "use the key \"model\" with \"hf:user/repo:quant\""},
        {"--hf-repo", "LLAMA_ARG_HF_REPO", "use the key \"model\" with \"hf:user/repo:quant\""},
        {"-hft", NULL, TOKEN},
        {"--hf-token", "HF_TOKEN", TOKEN},
        {"-a", NULL, "use the key \"aliases\""},
        {"--alias", "LLAMA_ARG_ALIAS", "use the key \"aliases\""},
        {"--api-key", "LLAMA_API_KEY", KEY},
        {"--api-key-file", "LLAMA_ARG_API_KEY_FILE", "use the key \"api_key_file\""},
        {"--ssl-key-file", "LLAMA_ARG_SSL_KEY_FILE", TLS},
        {"--ssl-cert-file", "LLAMA_ARG_SSL_CERT_FILE", TLS},
        {"--models-dir", "LLAMA_ARG_MODELS_DIR", ROUTER},
        {"--models-preset", "LLAMA_ARG_MODELS_PRESET", ROUTER},
        {"--models-max", "LLAMA_ARG_MODELS_MAX", ROUTER},
        {"--models-autoload", "LLAMA_ARG_MODELS_AUTOLOAD", ROUTER},
        {"--no-models-autoload", "LLAMA_ARG_NO_MODELS_AUTOLOAD", ROUTER},
        {"--log-file", "LLAMA_ARG_LOG_FILE",
         "its output goes to a file in log_dir, which is rotated and searched for causes"},
        {"--log-disable", "LLAMA_ARG_LOG_DISABLE", "without its output no death can be explained"},
        {"-h", NULL, ENDS},
        {"--help", NULL, ENDS},
        {"--usage", NULL, ENDS},
        {"--version", NULL, ENDS},
        {"-cl", NULL, ENDS},
        {"--cache-list", NULL, ENDS},
        {"--completion-bash", NULL, ENDS},
        {"--list-devices", NULL, ENDS},
        {NULL, "LLAMA_SERVER_ROUTER_PORT", "it would end as soon as its standard input does"},
        {NULL, "LLAMA_SERVER_CHILD_MODE", "it would end as soon as its standard input does"},
        {NULL, "AIP_HTTP_PORT", WHERE},
        {NULL, "AIP_HEALTH_ROUTE", "its health route must be where we look for it"},
        {NULL, "AIP_MODE", "it changes where the server listens"},
};

/* llama-server reads "--api_key" as "--api-key". */
static bool is_option(const char *arg, size_t n, const char *option)
{
        bool is_long = starts_with(arg, "--");

        if (strlen(option) != n)
                return false;
        for (size_t i = 0; i < n; i++)
                if (arg[i] != option[i] && !(is_long && arg[i] == '_' && option[i] == '-'))
                        return false;
        return true;
}

const char *config_arg_refused(const char *arg)
{
        size_t n = strcspn(arg, "=");

        for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
                if (reserved[i].arg && is_option(arg, n, reserved[i].arg))
                        return reserved[i].why;
        return NULL;
}

/* --- arguments that come over the API --------------------------------------------------------------------------- */

/* Whoever may start models need not be who owns the machine: what reads, writes or serves files, downloads, runs programs or talks
 * to others is for the configuration alone. By the words of the option, so that a newer one is met too. */
bool config_arg_names_model(const char *arg)
{
        static const char *const options[] = {"--mmproj",      "-mm", "--lora",
                                              "--model-draft", "-md", "--spec-draft-model"};

        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                if (is_option(arg, strlen(arg), options[i]))
                        return true;
        return false;
}

const char *config_arg_refused_remotely(const char *arg)
{
        static const char *const words[] = {"file", "path",   "dir",    "url",     "repo",  "hf",
                                            "hfr",  "hfd",    "tools",  "agent",   "mcp",   "rpc",
                                            "lora", "vector", "lookup", "default", "model", "vocoder"};
        static const char *const letters[] = {"-mmu", "-hff", "-hfd", "-hfrd", "-hfv", "-hfrv", "-hffv",
                                              "-lcs", "-lcd", "-jf",  "-ag",   "-mv",  "-o"};
        size_t n = strcspn(arg, "=");

        if (config_arg_refused(arg))
                return config_arg_refused(arg);
        if (arg[0] != '-' || config_arg_names_model(arg))
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(letters); i++)
                if (is_option(arg, n, letters[i]))
                        return REMOTE;
        if (!starts_with(arg, "--"))
                return NULL;
        for (size_t at = 2; at < n;) {
                size_t len = MIN(strcspn(arg + at, "-_="), n - at);

                for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                        if (strlen(words[i]) == len && strncasecmp(arg + at, words[i], len) == 0)
                                return REMOTE;
                at += len + 1;
        }
        return NULL;
}

const char *config_env_refused(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
                if (reserved[i].env && streq(reserved[i].env, name))
                        return reserved[i].why;
        return NULL;
}

bool config_env_is_gpu(const char *entry)
{
        static const char *const names[] = {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER",
                                            "HIP_VISIBLE_DEVICES",  "ROCR_VISIBLE_DEVICES",
                                            "GPU_DEVICE_ORDINAL",   "GGML_VK_VISIBLE_DEVICES"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (starts_with(entry, names[i]) && entry[strlen(names[i])] == '=')
                        return true;
        return false;
}
