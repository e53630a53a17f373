/* test_config_args.c: which arguments are refused in a configuration, and which more when they come over the API. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/config.h"
#include "core/config_internal.h"

static void refused_everywhere(void **state)
{
        static const char *const bad[] = {"--port",    "--port=1",   "-m",
                                          "--api-key", "--api_key",  "--api_key=x",
                                          "--hf_repo", "--log-file", "--models_dir"};
        static const char *const good[] = {
                "-c",      "--ctx-size", "-mm",          "--model-draft", "--portable",
                "api-key", "_m",         "--log_colors", "-a_",           ""};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                if (!config_arg_refused(bad[i]) || !config_arg_refused_remotely(bad[i]))
                        fail_msg("%s passed", bad[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(good); i++)
                if (config_arg_refused(good[i]))
                        fail_msg("%s is refused", good[i]);
}

static void refused_over_the_api(void **state)
{
        static const char *const bad[] = {"--path",
                                          "--PATH",
                                          "--slot-save-path",
                                          "--slot_save_path=/x",
                                          "--tools",
                                          "--tools-runtime",
                                          "--agent",
                                          "--mcp-servers-config",
                                          "--ui-mcp-proxy",
                                          "--chat-template-file",
                                          "--grammar-file",
                                          "-jf",
                                          "--log-prompts-dir",
                                          "--media-path",
                                          "--mmproj-url",
                                          "-mmu",
                                          "--spec-draft-hf",
                                          "-hfd",
                                          "--rpc",
                                          "--lora-scaled",
                                          "--control-vector",
                                          "--lookup-cache-dynamic",
                                          "-lcd",
                                          "--fim-qwen-7b-default",
                                          "--video-ffmpeg-dir",
                                          "--model-vocoder"};
        static const char *const good[] = {
                "-c",          "--ctx-size",      "8192",      "--mmproj",     "-md",
                "--lora",      "--jinja",         "--no-mmap", "-ngl",         "--cache-type-k",
                "--slots",     "--temp",          "/path",     "a file",       "--chat-template",
                "--reasoning", "--log-verbosity", "--pooling", "--embeddings", ""};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                if (config_arg_refused(bad[i]))
                        fail_msg("%s is refused in a configuration", bad[i]);
                if (!config_arg_refused_remotely(bad[i]))
                        fail_msg("%s passed", bad[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(good); i++)
                if (config_arg_refused_remotely(good[i]))
                        fail_msg("%s is refused", good[i]);
        assert_true(config_arg_names_model("--mmproj"));
        assert_true(config_arg_names_model("--model_draft"));
        assert_false(config_arg_names_model("--mmproj-url"));
        assert_false(config_arg_names_model("-c"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {cmocka_unit_test(refused_everywhere),
                                           cmocka_unit_test(refused_over_the_api)};

        return cmocka_run_group_tests(tests, NULL, NULL);
}
