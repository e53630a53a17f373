/* command.c: argv and environment of one llama-server. */
#include "core/command.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#include "base/text.h"

/* What a child may take from the daemon's environment: where things are, how to speak, and how to reach its GPU and
 * a proxy. A name that ends in '*' is a prefix. */
static const char *const inherited[] = {
        "PATH",       "HOME",        "USER",          "LOGNAME",         "LANG",           "LANGUAGE",
        "LC_*",       "TZ",          "TMPDIR",        "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "XDG_DATA_HOME",
        "http_proxy", "https_proxy", "no_proxy",      "all_proxy",       "HTTP_PROXY",     "HTTPS_PROXY",
        "NO_PROXY",   "ALL_PROXY",   "SSL_CERT_FILE", "SSL_CERT_DIR",    "CUDA_*",         "NVIDIA_*",
        "HIP_*",      "ROCR_*",      "ROCM_*",        "HSA_*",           "GPU_*",          "GGML_*",
        "VK_*",       "OMP_*",       "KMP_*",         "GOMP_*",          "ONEAPI_*",       "SYCL_*",
        "ZE_*",       "MKL_*",       "OPENBLAS_*",    "MALLOC_*",
};

static bool is_inherited(const char *entry)
{
        size_t len = strcspn(entry, "=");

        for (size_t i = 0; i < ARRAY_SIZE(inherited); i++) {
                size_t n = strlen(inherited[i]);

                if (inherited[i][n - 1] == '*' ? len >= n - 1 && memcmp(entry, inherited[i], n - 1) == 0
                                               : len == n && memcmp(entry, inherited[i], n) == 0)
                        return true;
        }
        return false;
}

/* Sets "NAME=value" in the list, replacing an earlier NAME. */
static int env_set(char ***env, const char *entry)
{
        size_t len = strcspn(entry, "=");
        char *copy;

        for (char **e = *env; e && *e; e++)
                if (strncmp(*e, entry, len) == 0 && (*e)[len] == '=') {
                        copy = strdup(entry);
                        if (!copy)
                                return -ENOMEM;
                        free(*e);
                        *e = copy;
                        return 0;
                }
        return text_list_add(env, entry);
}

static int env_set_value(char ***env, const char *name, const char *value)
{
        _cleanup_free_ char *entry = text_format("%s=%s", name, value);

        return entry ? env_set(env, entry) : -ENOMEM;
}

static int build_env(const struct config_instance *in, const struct command_facts *facts, char ***env)
{
        int r = 0;

        for (char *const *e = facts->own_env; e && *e && r == 0; e++)
                if (is_inherited(*e) && !command_is_secret(*e))
                        r = env_set(env, *e);
        /* On an abort llama-server forks gdb when it finds one: 236 ms and 40 lines instead of 11 ms. */
        if (r == 0)
                r = env_set_value(env, "GGML_NO_BACKTRACE", "1");
        if (r == 0 && in->model_kind == CONFIG_MODEL_HF && facts->hf_cache)
                r = env_set_value(env, "LLAMA_CACHE", facts->hf_cache);
        if (r == 0 && in->model_kind == CONFIG_MODEL_HF && facts->hf_token)
                r = env_set_value(env, "HF_TOKEN", facts->hf_token);
        /* In the environment, because argv is everybody's to read. */
        if (r == 0 && in->api_key)
                r = env_set_value(env, "LLAMA_API_KEY", in->api_key);
        for (char *const *e = facts->gpu_env; e && *e && r == 0; e++)
                r = env_set(env, *e);
        for (char *const *e = in->env; e && *e && r == 0; e++)
                r = env_set(env, *e);
        if (r == 0 && facts->mark)
                r = env_set_value(env, COMMAND_MARK, facts->mark);
        return r;
}

struct builder {
        const struct help *help;
        char *const *user;
        char **argv;
        int error;
};

static void add(struct builder *b, const char *arg)
{
        if (b->error == 0)
                b->error = text_list_add(&b->argv, arg);
}

static void add_option(struct builder *b, const char *flag, const char *value)
{
        if (!help_knows(b->help, flag) || help_is_given(b->help, b->user, flag))
                return;
        add(b, flag);
        if (value)
                add(b, value);
}

static void add_number(struct builder *b, const char *flag, unsigned value)
{
        char text[16];

        (void)snprintf(text, sizeof text, "%u", value);
        add_option(b, flag, text);
}

static void add_endpoint(struct builder *b, const struct endpoint *e)
{
        char text[INET6_ADDRSTRLEN];
        char port[8];

        add(b, "--host");
        if (e->addr.sa.sa_family == AF_UNIX) {
                add(b, e->addr.un.sun_path);
                return;
        }
        if (e->addr.sa.sa_family == AF_INET6) {
                (void)inet_ntop(AF_INET6, &e->addr.in6.sin6_addr, text, sizeof text);
                (void)snprintf(port, sizeof port, "%u", ntohs(e->addr.in6.sin6_port));
        } else {
                (void)inet_ntop(AF_INET, &e->addr.in.sin_addr, text, sizeof text);
                (void)snprintf(port, sizeof port, "%u", ntohs(e->addr.in.sin_port));
        }
        add(b, text);
        add(b, "--port");
        add(b, port);
}

/* The id that clients use is the entry's name; its aliases answer too. */
static char *alias_list(const struct config_instance *in)
{
        struct buffer b;

        buffer_init(&b, 0);
        (void)buffer_puts(&b, in->name);
        for (char *const *a = in->aliases; a && *a; a++)
                (void)buffer_printf(&b, ",%s", *a);
        return buffer_steal(&b);
}

int command_build(const struct config_instance *in, const struct command_facts *facts, struct command *ret)
{
        struct builder b = {.help = facts->help, .user = in->args};
        _cleanup_free_ char *aliases = NULL;
        char **env = NULL;
        int r;

        if (in->model_kind == CONFIG_MODEL_NONE || !in->model_path || !*in->model_path)
                return -EINVAL;
        aliases = alias_list(in);
        if (!aliases)
                return -ENOMEM;
        add(&b, facts->binary);
        add(&b, in->model_kind == CONFIG_MODEL_HF ? "-hf" : "-m");
        add(&b, in->model_path);
        add_endpoint(&b, facts->endpoint);
        add_option(&b, "--alias", aliases);
        add_option(&b, "--metrics", NULL);
        add_number(&b, "--threads-http", COMMAND_THREADS_HTTP);
        add_number(&b, "--sse-ping-interval", COMMAND_SSE_PING);
        if (facts->cache_ram_mib)
                add_number(&b, "--cache-ram", facts->cache_ram_mib);
        if (facts->threads)
                add_number(&b, "--threads", facts->threads);
        for (char *const *a = in->args; a && *a; a++)
                add(&b, *a);
        r = b.error;
        if (r == 0)
                r = build_env(in, facts, &env);
        if (r < 0) {
                text_list_free(b.argv);
                text_list_free(env);
                return r;
        }
        *ret = (struct command){.argv = b.argv, .env = env};
        return 0;
}

void command_finish(struct command *c)
{
        text_list_free(c->argv);
        text_list_free(c->env);
        *c = (struct command){0};
}

bool command_is_secret(const char *name)
{
        static const char *const words[] = {"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL"};
        char upper[128];
        size_t n = MIN(strcspn(name, "="), sizeof upper - 1);

        for (size_t i = 0; i < n; i++)
                upper[i] = (char)toupper((unsigned char)name[i]);
        upper[n] = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (strstr(upper, words[i]))
                        return true;
        return false;
}

bool command_flag_hides(const char *flag)
{
        static const char *const flags[] = {"--api-key", "-hft", "--hf-token"};

        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (streq(flag, flags[i]))
                        return true;
        return false;
}

static void put_shell_word(struct buffer *out, const char *s)
{
        static const char plain[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:=,+@%";

        if (*s && s[strspn(s, plain)] == '\0') {
                (void)buffer_puts(out, s);
                return;
        }
        (void)buffer_putc(out, '\'');
        for (; *s; s++)
                if (*s == '\'')
                        (void)buffer_puts(out, "'\\''");
                else
                        (void)buffer_putc(out, *s);
        (void)buffer_putc(out, '\'');
}

int command_shell(const struct command *c, const char *cwd, struct buffer *out)
{
        (void)buffer_puts(out, "cd ");
        put_shell_word(out, cwd ? cwd : "/");
        (void)buffer_puts(out, " && env -i");
        for (char *const *e = c->env; e && *e; e++) {
                (void)buffer_putc(out, ' ');
                if (command_is_secret(*e))
                        (void)buffer_printf(out, "%.*s='***'", (int)strcspn(*e, "="), *e);
                else
                        put_shell_word(out, *e);
        }
        for (char *const *a = c->argv; a && *a; a++) {
                (void)buffer_putc(out, ' ');
                if (a > c->argv && command_flag_hides(a[-1]))
                        (void)buffer_puts(out, "'***'");
                else
                        put_shell_word(out, *a);
        }
        return out->failed ? -ENOMEM : 0;
}
