/* test_cause.c: a row for each known cause, with lines of real llama-servers (b11669 where not said otherwise). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>

#include "base/macros.h"
#include "core/cause.h"

#define LOADING_FAILED                                                                                       \
        "0.00.066.181 E llama_model_load: error loading model: llama_model_loader: failed to load model "    \
        "from nope.gguf\n"                                                                                   \
        "0.00.066.226 E srv    load_model: failed to load model, 'nope.gguf'\n"                              \
        "0.00.066.579 E srv  llama_server: exiting due to model loading error\n"

static const struct row {
        struct death death;
        const char *cause;
} rows[] = {
        {{DEATH_EXIT, 1,
          .log = "0.00.062.523 E gguf_init_from_file: failed to open GGUF file 'nope.gguf' (No such file or "
                 "directory)\n" LOADING_FAILED},
         "model_missing"},
        {{DEATH_EXIT, 1,
          .log = "0.00.042.678 E gguf_init_from_file: failed to open GGUF file '/m/a.gguf' (Permission "
                 "denied)\n" LOADING_FAILED},
         "model_forbidden"},
        {{DEATH_EXIT, 1,
          .log = "0.00.025.733 E gguf_init_from_reader: invalid magic characters: 'junk', expected "
                 "'GGUF'\n" LOADING_FAILED},
         "bad_model"},
        {{DEATH_EXIT, 1,
          .log = "0.00.043.180 E gguf_init_from_reader: failed to read magic\n" LOADING_FAILED},
         "bad_model"},
        {{DEATH_EXIT, 1,
          .log = "0.00.027.760 E llama_model_load: error loading model: tensor 'output.weight' data is not "
                 "within the file bounds, model is corrupted or incomplete\n" LOADING_FAILED},
         "bad_model"},
        {{DEATH_EXIT, 1, .log = LOADING_FAILED}, "model_unreadable"},
        {{DEATH_EXIT, 1,
          .log = "0.00.058.935 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, "
                 "port: 39001\n"
                 "0.00.059.060 E srv  llama_server: exiting due to HTTP server error\n"},
         "endpoint_taken"},
        {{DEATH_EXIT, 1, .log = "error: invalid argument: --bogus-flag\n"}, "bad_argument"},
        {{DEATH_EXIT, 1,
          .log = "error while handling argument \"-c\": stoi\n\nusage:\n-c,    --ctx-size N\n"},
         "bad_argument"},
        {{DEATH_EXIT, 1, .log = "error while handling environment variable \"LLAMA_ARG_CTX_SIZE\": stoi\n"},
         "bad_argument"},
        {{DEATH_EXIT, 1,
          .log = "error while handling argument \"--device\": invalid device: CUDA0\n\nusage:\n"},
         "gpu_missing"},
        {{DEATH_EXIT, 1,
          .log = "0.02.136.586 E llama_init_from_model: failed to initialize the context: std::bad_alloc\n"
                 "0.02.138.081 E srv  llama_server: exiting due to model loading error\n"},
         "out_of_memory"},
        {{DEATH_EXIT, 1,
          .log = "ggml_aligned_malloc: insufficient memory (attempted to allocate  1541.86 MB)\n"},
         "out_of_memory"},
        {{DEATH_EXIT, 1, .log = "mmap failed: Cannot allocate memory\n"}, "out_of_memory"},
        /* [I]: upstream's issue tracker and source; no GPU was at hand when these were collected */
        {{DEATH_EXIT, 1,
          .log = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4096.00 MiB on device 0: cudaMalloc "
                 "failed: out of memory\n" LOADING_FAILED},
         "out_of_gpu_memory"},
        {{DEATH_EXIT, 1, .log = "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory\n"},
         "out_of_gpu_memory"},
        {{DEATH_SIGNAL, SIGABRT,
          .log = "CUDA error: an illegal memory access was encountered\nggml-cuda.cu:83: CUDA error\n"},
         "gpu_error"},
        {{DEATH_SIGNAL, SIGABRT, .log = "/src/ggml.c:1234: GGML_ASSERT(x == y) failed\n"}, "assertion"},
        {{DEATH_EXIT, 127,
          .log = "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared "
                 "object file: No such file or directory\n"},
         "missing_library"},
        {{DEATH_SIGNAL, SIGSEGV, .log = "0.00.1 I srv  nothing of interest\n"}, "signal"},
        {{DEATH_SIGNAL, SIGKILL, .log = "error: invalid argument: --old-line\n"}, "killed"},
        {{DEATH_SIGNAL, SIGKILL, .oom_killed = true, .log = ""}, "oom_killed"},
        {{DEATH_EXIT, 0, .log = ""}, "exited"},
        {{DEATH_UNKNOWN, 0, .log = ""}, "unknown"},
        {{DEATH_UNRESPONSIVE, 0, .detail = "no answer in time", .log = ""}, "unresponsive"},
        {{DEATH_GPU, 9, .detail = "Xid 31: a page fault in GPU memory", .log = ""}, "gpu_error"},
        {{DEATH_WEDGED, 0, .detail = "1 request stood still for 20 s", .log = ""}, "wedged"},
        {{DEATH_LOAD_TIMEOUT, 0, .detail = "not ready within 10m00s", .log = ""}, "load_timeout"},
        {{DEATH_SPAWN, ENOENT, .binary = "llama-server"}, "binary_missing"},
        {{DEATH_SPAWN, EACCES, .binary = "llama-server"}, "binary_forbidden"},
        {{DEATH_SPAWN, ENOEXEC, .binary = "llama-server"}, "binary_format"},
        {{DEATH_SPAWN, EEXIST, .binary = "llama-server"}, "endpoint_taken"},
        {{DEATH_SPAWN, ENODEV, .binary = "llama-server"}, "gpu_missing"},
        {{DEATH_SPAWN, EMFILE, .binary = "llama-server"}, "spawn_failed"},
        {{DEATH_EXIT, 1, .log = "error: failed to download model from Hugging Face\n"}, "download_failed"},
};

static void every_row_is_known(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const char *line;
                size_t len;
                const struct cause *c = cause_find(&rows[i].death, &line, &len);

                if (strcmp(c->name, rows[i].cause) != 0)
                        fail_msg("row %zu: %s instead of %s", i, c->name, rows[i].cause);
                if (line) {
                        assert_true(line >= rows[i].death.log &&
                                    line + len <= rows[i].death.log + strlen(rows[i].death.log));
                        assert_null(memchr(line, '\n', len));
                }
        }
}

static void every_cause_has_a_row(void **state)
{
        (void)state;
        for (size_t c = 0; c < cause_count(); c++) {
                /* Why one is not started at all: no death shows it. */
                bool found = streq(causes[c].name, "gpu_cordoned") || streq(causes[c].name, "cpu_fallback");

                for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                        found = found || strcmp(rows[i].cause, causes[c].name) == 0;
                if (!found)
                        fail_msg("no row shows %s", causes[c].name);
                assert_int_equal(cause_index(&causes[c]), c);
        }
}

static void words_say_it_plainly(void **state)
{
        char text[CAUSE_TEXT_MAX];
        struct death d = rows[14].death;

        (void)state;
        d.lived = 3 * USEC_PER_SEC;
        d.while_loading = true;
        assert_string_equal(cause_text(&d, cause_find(&d, NULL, NULL), text, sizeof text),
                            "died while loading: out of GPU memory (exit code 1, after 3 s)");
        d = (struct death){DEATH_SIGNAL, SIGSEGV, .lived = USEC_PER_HOUR, .log = ""};
        assert_string_equal(cause_text(&d, cause_find(&d, NULL, NULL), text, sizeof text),
                            "died: it crashed (signal 11, SIGSEGV, after 1h00m)");
        d = (struct death){DEATH_SPAWN, ENOENT, .binary = "/opt/llama-server"};
        assert_string_equal(cause_text(&d, cause_find(&d, NULL, NULL), text, sizeof text),
                            "could not start: the llama-server program was not found (/opt/llama-server: No "
                            "such file or directory)");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_row_is_known),
                cmocka_unit_test(every_cause_has_a_row),
                cmocka_unit_test(words_say_it_plainly),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
