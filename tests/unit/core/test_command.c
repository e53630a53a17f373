/* test_command.c: the exact argv and environment of a child, and what --help tells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>

#include "base/text.h"
#include "core/command.h"

/* An excerpt in the form of b11669's help. */
static const char help_text[] =
        "----- common params -----\n\n"
        "-h,    --help, --usage                  print usage and exit\n"
        "-t,    --threads N                      number of CPU threads to use during generation (default: "
        "<num_cpus>)\n"
        "                                        (env: LLAMA_ARG_THREADS)\n"
        "-kvo,  --kv-offload, -nkvo, --no-kv-offload\n"
        "                                        whether to enable KV cache offloading (default: enabled)\n"
        "-cram, --cache-ram N                    set the maximum cache size in MiB (default: 8192)\n"
        "-a,    --alias STRING                   set model name aliases\n"
        "--host HOST                             IP addresses to listen on, comma-separated, or UNIX socket "
        "paths\n"
        "                                        ending in .sock; with multiple TCP addresses, :: binds IPv6 "
        "only\n"
        "--port PORT                             port to listen on\n"
        "--sse-ping-interval N                   server SSE ping interval in seconds (-1 = disabled, "
        "default: 30)\n"
        "--threads-http N                        number of threads used to process HTTP requests (default: "
        "-1)\n"
        "--metrics                               enable prometheus compatible metrics endpoint\n";

static struct help read_help(const char *text)
{
        struct help h;

        assert_int_equal(help_parse(text, &h), 0);
        return h;
}

static void help_is_read(void **state)
{
        struct help h = read_help(help_text);
        char *args[] = {(char *)"-t", (char *)"4", (char *)"--cache-ram=0", NULL};

        (void)state;
        assert_true(help_knows(&h, "--threads"));
        assert_true(help_knows(&h, "-t"));
        assert_true(help_knows(&h, "--usage"));
        assert_true(help_knows(&h, "--no-kv-offload"));
        assert_false(help_knows(&h, "--thread"));
        assert_false(help_knows(&h, "-----"));
        assert_false(help_knows(&h, "N"));
        assert_true(h.unix_sockets);
        assert_true(help_is_given(&h, args, "--threads"));
        assert_true(help_is_given(&h, args, "-cram"));
        assert_false(help_is_given(&h, args, "--threads-http"));
        help_finish(&h);
        assert_int_equal(help_parse("no options here\n", &h), -EINVAL);
        h = read_help("--host HOST    ip address to listen on (default: 127.0.0.1)\n--port PORT   port\n");
        assert_false(h.unix_sockets);
        help_finish(&h);
}

static struct config_instance sample(void)
{
        return (struct config_instance){
                .name = (char *)"qwen", .model_kind = CONFIG_MODEL_FILE, .model_path = (char *)"/m/q.gguf"};
}

static const char *after(char *const *argv, const char *flag)
{
        for (; argv[0]; argv++)
                if (streq(argv[0], flag))
                        return argv[1];
        return NULL;
}

static const char *value(char *const *env, const char *name)
{
        size_t n = strlen(name);

        for (; env && *env; env++)
                if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
                        return *env + n + 1;
        return NULL;
}

static void argv_is_what_we_promise(void **state)
{
        struct help h = read_help(help_text);
        char *aliases[] = {(char *)"gpt-4o-mini", NULL},
             *args[] = {(char *)"-c", (char *)"4096", (char *)"-t", (char *)"9", NULL};
        struct config_instance in = sample();
        struct endpoint at;
        struct command c;
        struct command_facts facts = {.name = "qwen-0",
                                      .binary = "/usr/bin/llama-server",
                                      .endpoint = &at,
                                      .help = &h,
                                      .threads = 2,
                                      .cache_ram_mib = 512};

        (void)state;
        assert_int_equal(endpoint_from_unix("/run/x/qwen-0.sock", &at), 0);
        in.aliases = aliases;
        in.args = args;
        assert_int_equal(command_build(&in, &facts, &c), 0);
        assert_string_equal(c.argv[0], "/usr/bin/llama-server");
        assert_string_equal(after(c.argv, "-m"), "/m/q.gguf");
        assert_string_equal(after(c.argv, "--host"), "/run/x/qwen-0.sock");
        assert_null(after(c.argv, "--port"));
        assert_string_equal(after(c.argv, "--alias"), "qwen,gpt-4o-mini");
        assert_string_equal(after(c.argv, "--threads-http"), "64");
        assert_string_equal(after(c.argv, "--sse-ping-interval"), "5");
        assert_string_equal(after(c.argv, "--cache-ram"), "512");
        assert_null(after(c.argv, "--threads")); /* the user's -t wins */
        assert_string_equal(after(c.argv, "-t"), "9");
        assert_string_equal(after(c.argv, "-c"), "4096");
        command_finish(&c);
        help_finish(&h);
}

static void unknown_flags_are_left_out(void **state)
{
        struct help h = read_help("--host HOST   address\n--port PORT   port\n");
        struct config_instance in = sample();
        struct endpoint at;
        struct command c;
        struct command_facts facts = {
                .name = "qwen", .binary = "/b", .endpoint = &at, .help = &h, .threads = 2};

        (void)state;
        assert_int_equal(endpoint_parse("http://127.0.0.1:8134", &at), 0);
        assert_int_equal(command_build(&in, &facts, &c), 0);
        assert_int_equal(text_list_count(c.argv), 7);
        assert_string_equal(after(c.argv, "--host"), "127.0.0.1");
        assert_string_equal(after(c.argv, "--port"), "8134");
        command_finish(&c);
        help_finish(&h);
}

static void an_empty_model_is_refused(void **state)
{
        struct help h = read_help(help_text);
        struct config_instance in = sample();
        struct endpoint at;
        struct command c;
        struct command_facts facts = {.name = "q", .binary = "/b", .endpoint = &at, .help = &h};

        (void)state;
        assert_int_equal(endpoint_parse("/x.sock", &at), 0);
        in.model_path = (char *)"";
        assert_int_equal(command_build(&in, &facts, &c), -EINVAL);
        in.model_path = NULL;
        assert_int_equal(command_build(&in, &facts, &c), -EINVAL);
        help_finish(&h);
}

static void the_environment_is_clean(void **state)
{
        struct help h = read_help(help_text);
        char *own[] = {(char *)"PATH=/bin",
                       (char *)"LLAMA_ARG_CTX_SIZE=7",
                       (char *)"AIP_MODE=1",
                       (char *)"HF_TOKEN=ours",
                       (char *)"CUDA_HOME=/cuda",
                       (char *)"NOTIFY_SOCKET=/x",
                       (char *)"LC_ALL=C",
                       (char *)"AWS_SECRET=1",
                       (char *)"LLAMA_SERVER_ROUTER_PORT=1",
                       (char *)"GGML_SECRET_KEY=no",
                       (char *)"LISTEN_FDS=1",
                       NULL};
        char *gpu[] = {(char *)"CUDA_VISIBLE_DEVICES=GPU-1", NULL},
             *user[] = {(char *)"LC_ALL=de_DE", (char *)"LLAMA_ARG_X=1", NULL};
        struct config_instance in = sample();
        struct endpoint at;
        struct command c;
        struct command_facts facts = {.name = "q",
                                      .binary = "/b",
                                      .endpoint = &at,
                                      .help = &h,
                                      .own_env = own,
                                      .gpu_env = gpu,
                                      .hf_token = "hf_secret",
                                      .hf_cache = "/cache"};
        struct buffer shell;

        (void)state;
        assert_int_equal(endpoint_parse("/x.sock", &at), 0);
        in.env = user;
        in.api_key = (char *)"sk-secret";
        assert_int_equal(command_build(&in, &facts, &c), 0);
        assert_string_equal(value(c.env, "PATH"), "/bin");
        assert_string_equal(value(c.env, "CUDA_HOME"), "/cuda");
        assert_string_equal(value(c.env, "CUDA_VISIBLE_DEVICES"), "GPU-1");
        assert_string_equal(value(c.env, "GGML_NO_BACKTRACE"), "1");
        assert_string_equal(value(c.env, "LC_ALL"), "de_DE");
        assert_string_equal(value(c.env, "LLAMA_ARG_X"), "1"); /* said by the user in the config */
        assert_string_equal(value(c.env, "LLAMA_API_KEY"), "sk-secret");
        assert_null(value(c.env, "LLAMA_ARG_CTX_SIZE"));
        assert_null(value(c.env, "AIP_MODE"));
        assert_null(value(c.env, "NOTIFY_SOCKET"));
        assert_null(value(c.env, "AWS_SECRET"));
        assert_null(value(c.env, "LLAMA_SERVER_ROUTER_PORT"));
        assert_null(value(c.env, "GGML_SECRET_KEY"));
        assert_null(value(c.env, "LISTEN_FDS"));
        assert_null(value(c.env, "HF_TOKEN")); /* not an hf: model */
        buffer_init(&shell, 0);
        assert_int_equal(command_shell(&c, NULL, &shell), 0);
        assert_null(strstr(shell.data, "sk-secret"));
        assert_non_null(strstr(shell.data, "LLAMA_API_KEY='***'"));
        buffer_finish(&shell);
        command_finish(&c);
        in.model_kind = CONFIG_MODEL_HF;
        assert_int_equal(command_build(&in, &facts, &c), 0);
        assert_string_equal(value(c.env, "HF_TOKEN"), "hf_secret");
        assert_string_equal(value(c.env, "LLAMA_CACHE"), "/cache");
        assert_string_equal(after(c.argv, "-hf"), "/m/q.gguf");
        command_finish(&c);
        help_finish(&h);
}

static void a_shell_line_can_be_pasted(void **state)
{
        char *argv[] = {(char *)"/b",        (char *)"--prompt", (char *)"it's $HOME; `x`",
                        (char *)"--api-key", (char *)"sk",       NULL};
        struct command c = {.argv = argv};
        struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        assert_int_equal(command_shell(&c, "/tmp", &b), 0);
        assert_string_equal(b.data, "cd /tmp && env -i /b --prompt 'it'\\''s $HOME; `x`' --api-key '***'");
        buffer_finish(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(help_is_read),
                cmocka_unit_test(argv_is_what_we_promise),
                cmocka_unit_test(unknown_flags_are_left_out),
                cmocka_unit_test(an_empty_model_is_refused),
                cmocka_unit_test(the_environment_is_clean),
                cmocka_unit_test(a_shell_line_can_be_pasted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
