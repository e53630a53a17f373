/* cause.c: the table of known causes of death. */
#include "core/cause.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

enum {
        CAUSE_UNKNOWN,
        CAUSE_EXITED,
        CAUSE_SIGNAL,
        CAUSE_KILLED,
        CAUSE_OOM_KILLED,
        CAUSE_GPU_MEMORY,
        CAUSE_MEMORY,
        CAUSE_GPU_ERROR,
        CAUSE_GPU_MISSING,
        CAUSE_BAD_MODEL,
        CAUSE_MODEL_MISSING,
        CAUSE_MODEL_FORBIDDEN,
        CAUSE_MODEL_READ,
        CAUSE_ENDPOINT_TAKEN,
        CAUSE_ARGUMENT,
        CAUSE_LIBRARY,
        CAUSE_ASSERT,
        CAUSE_DOWNLOAD,
        CAUSE_BINARY_MISSING,
        CAUSE_BINARY_FORBIDDEN,
        CAUSE_BINARY_FORMAT,
        CAUSE_SPAWN,
        CAUSE_UNRESPONSIVE,
        CAUSE_WEDGED,
        CAUSE_LOAD_TIMEOUT,
        CAUSE_GPU_CORDONED,
        CAUSE_CPU_FALLBACK,
};

/* Of the unit: what lies there looks missing or forbidden, and no permission helps. */
#define HIDDEN "; as a systemd service it sees nothing of /home, /root and /run/user (ProtectHome)"

const struct cause causes[] = {
        [CAUSE_UNKNOWN] = {"unknown", "for a reason we could not see", "look at the end of its log"},
        [CAUSE_EXITED] = {"exited", "it ended by itself", "look at the end of its log"},
        [CAUSE_SIGNAL] =
                {"signal", "it crashed",
                 "look at the end of its log; a crash inside llama-server is worth a report upstream"},
        [CAUSE_KILLED] = {"killed", "somebody killed it",
                          "SIGKILL came from outside: a person, a script, or the kernel's out-of-memory "
                          "killer (see dmesg)"},
        [CAUSE_OOM_KILLED] = {"oom_killed", "the kernel killed it: out of memory",
                              "use a smaller model, context (-c) or --cache-ram, or raise limits.memory"},
        [CAUSE_GPU_MEMORY] = {"out_of_gpu_memory", "out of GPU memory",
                              "use a smaller context (-c), fewer GPU layers (-ngl), a smaller quantisation, "
                              "or another GPU"},
        [CAUSE_MEMORY] = {"out_of_memory", "out of memory",
                          "use a smaller model or context (-c), or give the machine or limits.memory more"},
        [CAUSE_GPU_ERROR] =
                {"gpu_error", "the GPU or its driver failed",
                 "`llama-supervisor gpus` and dmesg (Xid lines) tell more; a GPU on which it repeats is "
                 "cordoned"},
        [CAUSE_GPU_MISSING] = {"gpu_missing", "the GPU it was told to use is not there",
                               "compare \"gpu\" and --device with `llama-server --list-devices`"},
        [CAUSE_BAD_MODEL] = {"bad_model", "the model file is damaged or not a GGUF file",
                             "download it again and compare its size and checksum"},
        [CAUSE_MODEL_MISSING] = {"model_missing", "the model file is not there",
                                 "check \"model\" and models_dir" HIDDEN},
        [CAUSE_MODEL_FORBIDDEN] =
                {"model_forbidden", "the model file may not be read",
                 "give the daemon's user read permission on it and on every folder above it" HIDDEN},
        [CAUSE_MODEL_READ] = {"model_unreadable", "the model file could not be loaded",
                              "check that it is a whole GGUF file which the daemon's user may read" HIDDEN},
        [CAUSE_ENDPOINT_TAKEN] = {"endpoint_taken", "its address is taken by another program",
                                  "free the port or the path, or choose another \"endpoint\""},
        [CAUSE_ARGUMENT] = {"bad_argument", "llama-server refused an argument",
                            "compare \"args\" with `llama-server --help` of this binary"},
        [CAUSE_LIBRARY] = {"missing_library", "a shared library is missing",
                           "run ldd on the binary; install what it names, or set LD_LIBRARY_PATH in \"env\""},
        [CAUSE_ASSERT] = {"assertion", "llama-server aborted on an internal check",
                          "worth a report upstream, with the lines before it"},
        [CAUSE_DOWNLOAD] = {"download_failed", "the model could not be downloaded",
                            "check the hf: name, the network, and the token for gated models"},
        [CAUSE_BINARY_MISSING] = {"binary_missing", "the llama-server program was not found",
                                  "set llama_server.binary, or install llama-server on PATH" HIDDEN},
        [CAUSE_BINARY_FORBIDDEN] = {"binary_forbidden", "the llama-server program may not be executed",
                                    "check its permissions, and noexec of its file system" HIDDEN},
        [CAUSE_BINARY_FORMAT] = {"binary_format", "the llama-server program is not for this machine",
                                 "it is built for another architecture, or is not a program"},
        [CAUSE_SPAWN] = {"spawn_failed", "the process could not be started",
                         "the machine refused a new process: look at its limits (pids, files, memory)"},
        [CAUSE_UNRESPONSIVE] = {"unresponsive", "it did not answer any more and was killed", NULL},
        [CAUSE_WEDGED] = {"wedged", "its work stood still although it answered its probes, and it was killed",
                          "if it repeats, try another version of llama-server, look at its GPU, and leave "
                          "away speculative decoding"},
        [CAUSE_LOAD_TIMEOUT] = {"load_timeout", "its model did not load in time and it was killed",
                                "raise health.load_timeout if the model is that big"},
        [CAUSE_GPU_CORDONED] =
                {"gpu_cordoned", "its GPU takes no work",
                 "it comes back by itself when the GPU does (`llama-supervisor gpus` tells why "
                 "it is out of use), or give it another \"gpu\""},
        [CAUSE_CPU_FALLBACK] = {"cpu_fallback", "it would compute on the CPU, though a GPU is there for it",
                                "compare with `llama-server --list-devices`; use a build for this GPU, or "
                                "say that the CPU is "
                                "meant: \"gpu\": \"none\" for one instance, \"gpus\": {\"cpu_fallback\": "
                                "\"allow\"} for all"},
        {NULL, NULL, NULL},
};

/* Line patterns, most telling first: the first row that matches any line of the tail wins. `also` must be in the same line. */
static const struct {
        const char *needle, *also;
        int cause;
} patterns[] = {
        {"error while loading shared libraries", NULL, CAUSE_LIBRARY},
        {"symbol lookup error", NULL, CAUSE_LIBRARY},
        {"version `GLIBC", NULL, CAUSE_LIBRARY},
        {"couldn't bind", NULL, CAUSE_ENDPOINT_TAKEN},
        {"exiting due to HTTP server error", NULL, CAUSE_ENDPOINT_TAKEN},
        {"invalid device", NULL, CAUSE_GPU_MISSING},
        {"no CUDA-capable device", NULL, CAUSE_GPU_MISSING},
        {"error: invalid argument", NULL, CAUSE_ARGUMENT},
        {"error while handling argument", NULL, CAUSE_ARGUMENT},
        {"error while handling environment variable", NULL, CAUSE_ARGUMENT},
        {"CUDA error: out of memory", NULL, CAUSE_GPU_MEMORY},
        {"cudaMalloc failed: out of memory", NULL, CAUSE_GPU_MEMORY},
        {"unable to allocate CUDA", NULL, CAUSE_GPU_MEMORY},
        {"ErrorOutOfDeviceMemory", NULL, CAUSE_GPU_MEMORY},
        {"failed to allocate CUDA", NULL, CAUSE_GPU_MEMORY},
        {"failed to allocate ROCm", NULL, CAUSE_GPU_MEMORY},
        {"failed to allocate Vulkan", NULL, CAUSE_GPU_MEMORY},
        {"unable to allocate ROCm", NULL, CAUSE_GPU_MEMORY},
        {"unable to allocate Vulkan", NULL, CAUSE_GPU_MEMORY},
        {"hipMalloc failed: out of memory", NULL, CAUSE_GPU_MEMORY},
        {"CUDA error", NULL, CAUSE_GPU_ERROR},
        {"ROCm error", NULL, CAUSE_GPU_ERROR},
        {"HIP error", NULL, CAUSE_GPU_ERROR},
        {"ErrorDeviceLost", NULL, CAUSE_GPU_ERROR},
        {"ggml_aligned_malloc: insufficient memory", NULL, CAUSE_MEMORY},
        {"std::bad_alloc", NULL, CAUSE_MEMORY},
        {"Cannot allocate memory", NULL, CAUSE_MEMORY},
        {"failed to allocate buffer", NULL, CAUSE_MEMORY},
        {"unable to allocate CPU", NULL, CAUSE_MEMORY},
        {"failed to open GGUF file", "No such file", CAUSE_MODEL_MISSING},
        {"failed to open GGUF file", "Permission denied", CAUSE_MODEL_FORBIDDEN},
        {"No such file or directory", ".gguf", CAUSE_MODEL_MISSING},
        {"invalid magic characters", NULL, CAUSE_BAD_MODEL},
        {"failed to read magic", NULL, CAUSE_BAD_MODEL},
        {"is not within the file bounds", NULL, CAUSE_BAD_MODEL},
        {"model is corrupted", NULL, CAUSE_BAD_MODEL},
        {"gguf_init_from_file", "failed", CAUSE_BAD_MODEL},
        {"gguf_init_from_reader", "failed", CAUSE_BAD_MODEL},
        {"unknown model architecture", NULL, CAUSE_BAD_MODEL},
        {"wrong number of tensors", NULL, CAUSE_BAD_MODEL},
        {"missing tensor", NULL, CAUSE_BAD_MODEL},
        {"failed to download", NULL, CAUSE_DOWNLOAD},
        {"common_download", "failed", CAUSE_DOWNLOAD},
        {"failed to get manifest", NULL, CAUSE_DOWNLOAD},
        {"failed to load model", NULL, CAUSE_MODEL_READ},
        {"exiting due to model loading error", NULL, CAUSE_MODEL_READ},
        {"GGML_ASSERT", NULL, CAUSE_ASSERT},
        {"GGML_ABORT", NULL, CAUSE_ASSERT},
        {"terminate called after throwing", NULL, CAUSE_ASSERT},
        {"no usable GPU found", NULL, CAUSE_GPU_MISSING}, /* a build without GPU only warns so: last */
};

size_t cause_count(void)
{
        return ARRAY_SIZE(causes) - 1;
}

const struct cause *cause_named(const char *name)
{
        const struct cause *c = causes;

        while (c->name && !streq(c->name, name))
                c++;
        return c->name ? c : &causes[CAUSE_UNKNOWN];
}

size_t cause_index(const struct cause *cause)
{
        return (size_t)(cause - causes);
}

static bool line_has(const char *line, size_t len, const char *needle)
{
        return memmem(line, len, needle, strlen(needle)) != NULL;
}

static const struct cause *find_in_log(const char *log, const char **ret_line, size_t *ret_len)
{
        const char *end = log + strlen(log);

        for (size_t i = 0; i < ARRAY_SIZE(patterns); i++)
                for (const char *line = log; line < end;) {
                        const char *nl = memchr(line, '\n', (size_t)(end - line));
                        size_t len = (size_t)((nl ? nl : end) - line);

                        if (line_has(line, len, patterns[i].needle) &&
                            (!patterns[i].also || line_has(line, len, patterns[i].also))) {
                                *ret_line = line;
                                *ret_len = len;
                                return &causes[patterns[i].cause];
                        }
                        line += len + 1;
                }
        return NULL;
}

static const struct cause *spawn_cause(int error)
{
        switch (error) {
        case ENOENT:
        case ENOTDIR:
                return &causes[CAUSE_BINARY_MISSING];
        case EACCES:
        case EPERM:
                return &causes[CAUSE_BINARY_FORBIDDEN];
        case EEXIST:
        case EADDRINUSE:
                return &causes[CAUSE_ENDPOINT_TAKEN];
        case ENODEV:
                return &causes[CAUSE_GPU_MISSING];
        case ENOEXEC:
        case ELIBBAD:
                return &causes[CAUSE_BINARY_FORMAT];
        default:
                return &causes[CAUSE_SPAWN];
        }
}

const struct cause *cause_find(const struct death *death, const char **ret_line, size_t *ret_line_len)
{
        const struct cause *found = NULL;
        const char *line = NULL;
        size_t len = 0;

        if (death->kind == DEATH_SPAWN)
                found = spawn_cause(death->value);
        else if (death->kind == DEATH_UNRESPONSIVE)
                found = &causes[CAUSE_UNRESPONSIVE];
        else if (death->kind == DEATH_WEDGED)
                found = &causes[CAUSE_WEDGED];
        else if (death->kind == DEATH_LOAD_TIMEOUT)
                found = &causes[CAUSE_LOAD_TIMEOUT];
        else if (death->kind == DEATH_GPU)
                found = &causes[CAUSE_GPU_ERROR];
        else if (death->oom_killed)
                found = &causes[CAUSE_OOM_KILLED];
        else if (death->kind == DEATH_SIGNAL && death->value == SIGKILL)
                found = &causes[CAUSE_KILLED]; /* its log cannot know */
        else if (death->log)
                found = find_in_log(death->log, &line, &len);
        if (!found)
                found = death->kind == DEATH_SIGNAL ? &causes[CAUSE_SIGNAL]
                        : death->kind == DEATH_EXIT ? &causes[CAUSE_EXITED]
                                                    : &causes[CAUSE_UNKNOWN];
        if (ret_line)
                *ret_line = line;
        if (ret_line_len)
                *ret_line_len = len;
        return found;
}

char *death_text(const struct death *death, char *buf, size_t size)
{
        switch (death->kind) {
        case DEATH_EXIT:
                (void)snprintf(buf, size, "exit code %d", death->value);
                break;
        case DEATH_SIGNAL:
                (void)snprintf(buf, size, "signal %d, SIG%s", death->value,
                               sigabbrev_np(death->value) ? sigabbrev_np(death->value) : "?");
                break;
        case DEATH_SPAWN:
                if (death->detail && *death->detail)
                        (void)snprintf(buf, size, "%s", death->detail);
                else
                        (void)snprintf(buf, size, "%s: %s", death->binary ? death->binary : "spawn",
                                       strerror(death->value));
                break;
        case DEATH_UNRESPONSIVE:
        case DEATH_WEDGED:
        case DEATH_LOAD_TIMEOUT:
        case DEATH_GPU:
                (void)snprintf(buf, size, "%s", death->detail ? death->detail : "killed by the supervisor");
                break;
        case DEATH_UNKNOWN:
                (void)snprintf(buf, size, "exit status unknown%s%s", death->detail ? ": " : "",
                               death->detail ? death->detail : "");
                break;
        }
        return buf;
}

char *cause_text(const struct death *death, const struct cause *cause, char *buf, size_t size)
{
        char how[256], span[TIME_SPAN_MAX];

        (void)death_text(death, how, sizeof how);
        if (death->kind == DEATH_SPAWN)
                (void)snprintf(buf, size, "could not start: %s (%s)", cause->words, how);
        else
                (void)snprintf(buf, size, "died%s: %s (%s, after %s)",
                               death->while_loading ? " while loading" : "", cause->words, how,
                               time_span(death->lived, span, sizeof span));
        return buf;
}
