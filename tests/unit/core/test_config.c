/* test_config.c: good configurations mean what they say, malformed ones (config_bad.txt) are refused at the right place, and
 * what differs is known. Also the table's printer for tests/lint/config.py: `--keys`, and `--check FILE`. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"
#include "core/config_internal.h"
#include "config_world.h"

/* --- meaning ---------------------------------------------------------------------------------------------------- */

static void defaults_are_those_of_the_design(void **state)
{
        struct config *c = good("{}");

        (void)state;
        assert_string_equal(c->file, "/etc/ls/c.json");
        assert_int_equal(c->n_listen, 1);
        assert_string_equal(c->listen[0].address, "127.0.0.1:8077");
        assert_true(endpoint_is_loopback(&c->listen[0].endpoint));
        assert_string_equal(c->runtime_dir, "/run/llama-supervisor");
        assert_string_equal(c->state_dir, "/var/lib/llama-supervisor");
        assert_string_equal(c->log_dir, "/var/log/llama-supervisor");
        assert_string_equal(c->models_dir, "/var/lib/llama-supervisor/models");
        assert_string_equal(c->spool.dir, "/var/lib/llama-supervisor/spool");
        assert_false(c->insecure);
        assert_int_equal(c->log_level, LOG_INFO);
        assert_string_equal(c->llama_server.binary, "llama-server");
        assert_int_equal(c->restart.backoff_initial, USEC_PER_SEC);
        assert_int_equal(c->restart.backoff_max, 30 * USEC_PER_SEC);
        assert_true(c->restart.jitter > 0.19 && c->restart.jitter < 0.21);
        assert_int_equal(c->restart.max_retries, 5);
        assert_int_equal(c->restart.reset_after, 60 * USEC_PER_SEC);
        assert_int_equal(c->health.interval, USEC_PER_SEC);
        assert_int_equal(c->health.timeout, 5 * USEC_PER_SEC);
        assert_int_equal(c->health.failures, 3);
        assert_int_equal(c->health.start_attempts, 60);
        assert_int_equal(c->health.load_timeout, 10 * USEC_PER_MIN);
        assert_int_equal(c->health.silence, 10 * USEC_PER_MIN);
        assert_int_equal(c->stop.grace, 5 * USEC_PER_SEC);
        assert_int_equal(c->stop.drain, 30 * USEC_PER_SEC);
        assert_int_equal(c->n_instances, 0);
        assert_int_equal(c->ready_min, 1);
        assert_int_equal(c->logs_rotate_at, 10U << 20);
        assert_int_equal(c->logs_keep, 3);
        assert_int_equal(c->history_events, 1000);
        assert_int_equal(c->gateway.balance, CONFIG_LEAST_LOADED);
        assert_int_equal(c->gateway.queue_max, 5000);
        assert_int_equal(c->gateway.queue_timeout, 60 * USEC_PER_SEC);
        assert_int_equal(c->gateway.retries, 3);
        assert_null(c->gateway.default_model);
        assert_int_equal(c->gateway.shed_target, 30 * USEC_PER_SEC);
        assert_int_equal(c->gateway.shed_interval, 10 * USEC_PER_SEC);
        assert_int_equal(c->gateway.body_max, 32U << 20);
        assert_int_equal(c->gateway.timeouts.connect, 5 * USEC_PER_SEC);
        assert_int_equal(c->gateway.timeouts.first_byte, 10 * USEC_PER_MIN);
        assert_int_equal(c->gateway.timeouts.idle, 5 * USEC_PER_MIN);
        assert_int_equal(c->gateway.timeouts.total, USEC_PER_HOUR);
        assert_int_equal(c->gateway.slow_start, 10 * USEC_PER_SEC);
        assert_int_equal(c->gateway.eject_failures, 5);
        assert_int_equal(c->gateway.eject_initial, 5 * USEC_PER_SEC);
        assert_int_equal(c->gateway.eject_max, 5 * USEC_PER_MIN);
        assert_int_equal(c->demand.max_loaded, 0);
        assert_int_equal(c->demand.gpu_memory, 0);
        assert_null(c->demand.preload);
        assert_int_equal(c->n_groups, 0);
        assert_int_equal(c->auth_anonymous, CONFIG_SCOPE_READ | CONFIG_SCOPE_INFER);
        assert_int_equal(c->n_hubs, 0);
        config_free(c);
        assert_null(config_free(NULL));
}

static void directories_follow_systemd_and_xdg(void **state)
{
        static const char *const systemd[] = {
                "RUNTIME_DIRECTORY", "/run/a:/run/b", "STATE_DIRECTORY", "/var/lib/s", "LOGS_DIRECTORY",
                "/var/log/l",        "HOME",          "/home/u",         NULL};
        static const char *const xdg[] = {
                "XDG_RUNTIME_DIR", "/run/user/7", "XDG_STATE_HOME", "/home/u/.state", "HOME",
                "/home/u",         NULL};
        static const char *const home[] = {"HOME", "/home/u", NULL};
        static const char *const nothing[] = {NULL};
        struct world w = {.variables = systemd};
        struct config_problems problems;
        struct config *c = good_with(w, "{}", 0);

        (void)state;
        assert_string_equal(c->runtime_dir, "/run/a");
        assert_string_equal(c->state_dir, "/var/lib/s");
        assert_string_equal(c->log_dir, "/var/log/l");
        assert_string_equal(c->models_dir, "/var/lib/s/models");
        config_free(c);
        w.variables = xdg;
        c = good_with(w, "{}", 0);
        assert_string_equal(c->runtime_dir, "/run/user/7/llama-supervisor");
        assert_string_equal(c->state_dir, "/home/u/.state/llama-supervisor");
        assert_string_equal(c->log_dir, "/home/u/.state/llama-supervisor/log");
        assert_string_equal(c->models_dir, "/home/u/.local/share/llama-supervisor/models");
        config_free(c);
        w.variables = home;
        c = good_with(w, "{}", 0);
        assert_string_equal(c->state_dir, "/home/u/.local/state/llama-supervisor");
        assert_string_equal(c->runtime_dir, "/home/u/.local/state/llama-supervisor/run");
        config_free(c);
        c = good_with(w, "{\"state_dir\": \"s//x/./y/\", \"log_dir\": \"/logs\"}", 0);
        assert_string_equal(c->state_dir, "/etc/ls/s/x/y");
        assert_string_equal(c->log_dir, "/logs");
        assert_string_equal(c->models_dir, "/etc/ls/s/x/y/models");
        assert_string_equal(c->runtime_dir, "/etc/ls/s/x/y/run");
        config_free(c);
        w.variables = nothing;
        add_file(&w, "/etc/ls/c.json", "{}", 2, S_IFREG | 0644);
        assert_int_equal(load_world(&w, &c, &problems), -EBADMSG);
        assert_int_equal(problems.errors, 4); /* each directory */
        config_problems_finish(&problems);
}

static void the_example_of_the_design_loads(void **state)
{
        struct config *c = good_with(
                usual_world(),
                "{\n"
                "  \"listen\": [{\"address\": \"127.0.0.1:8077\"}, {\"address\": \"unix:/run/x.sock\"}], // "
                "two\n"
                "  \"models_dir\": \"/m\", \"log_level\": \"debug\", \"ready\": {\"min\": \"all\"},\n"
                "  \"llama_server\": {\"binary\": \"bin/llama-server\", \"args\": [\"--no-webui\"], \"env\": "
                "{\"A\": \"1\", "
                "\"C\": \"3\"}, \"hf_token_file\": \"good.key\"},\n"
                "  \"restart\": {\"max_retries\": \"forever\", \"jitter\": 0},\n"
                "  \"instances\": [\n"
                "    {\"name\": \"qwen\", \"model\": \"qwen2.5-7b.gguf\", \"replicas\": \"per-gpu\", "
                "\"gpu\": \"auto\",\n"
                "     \"aliases\": [\"gpt-4o-mini\"], \"args\": [\"-c\", \"16384\"], \"weight\": 0.5,\n"
                "     \"env\": {\"B\": \"${NAME}\", \"A\": \"$${NAME} $HOME\"}, \"cwd\": \"work\", \"nice\": "
                "-5,\n"
                "     \"health\": {\"timeout\": \"2s\"}, \"restart\": {\"max_retries\": 0}},\n"
                "    {\"name\": \"big\", \"model\": \"/big-00001-of-00004.gguf\", \"gpu\": [0, 1], "
                "\"autostart\": false},\n"
                "    {\"name\": \"uuid\", \"model\": \"u.gguf\", \"gpu\": [\"GPU-1a2b-3c\"], \"replicas\": "
                "3},\n"
                "    {\"name\": \"coder\", \"model\": \"hf:ggml-org/gemma-3-4b-it-GGUF:Q4_K_M\"},\n"
                "    {\"name\": \"chat\", \"model\": \"tiny.gguf\", \"endpoint\": "
                "\"http://127.0.0.1:8134\"},\n"
                "    {\"name\": \"old\", \"adopt\": \"http://10.0.0.5:8134\", \"api_key_file\": "
                "\"open.key\"}\n"
                "  ]\n"
                "}\n",
                1);
        const struct config_instance *in;
        char name[CONFIG_NAME_MAX];

        (void)state;
        assert_int_equal(c->n_listen, 2);
        assert_true(endpoint_is_unix(&c->listen[1].endpoint));
        assert_int_equal(c->log_level, LOG_DEBUG);
        assert_int_equal(c->ready_min, CONFIG_ALL);
        assert_int_equal(c->restart.max_retries, CONFIG_FOREVER);
        assert_string_equal(c->llama_server.hf_token, "s3cret");
        assert_int_equal(c->n_instances, 6);

        in = c->instances;
        assert_string_equal(in->model_path, "/m/qwen2.5-7b.gguf");
        assert_int_equal(in->model_kind, CONFIG_MODEL_FILE);
        assert_true(in->replicas_per_gpu);
        assert_string_equal(in->binary, "/etc/ls/bin/llama-server");
        assert_string_equal(in->args[0], "--no-webui");
        assert_string_equal(in->args[2], "16384");
        assert_int_equal(text_list_count(in->env), 3);
        assert_string_equal(in->env[0], "A=${NAME} $HOME");
        assert_string_equal(in->env[1], "B=value");
        assert_string_equal(in->env[2], "C=3");
        assert_string_equal(in->cwd, "/etc/ls/work");
        assert_int_equal(in->nice, -5);
        assert_int_equal(in->health.timeout, 2 * USEC_PER_SEC);
        assert_int_equal(in->health.interval, USEC_PER_SEC);
        assert_int_equal(in->restart.max_retries, 0);
        assert_true(in->restart.jitter < 0.001);
        assert_int_equal(in->where.line, 7);
        assert_int_equal(in->where.column, 5);
        assert_string_equal(in->where.file, "c.json");
        assert_string_equal(config_replica_name(in, 1, 2, name, sizeof name), "qwen-1");
        assert_string_equal(config_replica_name(in, 0, 1, name, sizeof name), "qwen");

        in = config_find(c, "big");
        assert_string_equal(in->model_path, "/big-00001-of-00004.gguf");
        assert_int_equal(in->gpu_mode, CONFIG_GPU_LIST);
        assert_string_equal(in->gpu[1], "1");
        assert_false(in->autostart);
        assert_int_equal(in->restart.max_retries, CONFIG_FOREVER);
        in = config_find(c, "uuid");
        assert_string_equal(in->gpu[0], "GPU-1a2b-3c");
        assert_int_equal(in->replicas, 3);
        assert_true(in->autostart);
        in = config_find(c, "coder");
        assert_int_equal(in->model_kind, CONFIG_MODEL_HF);
        assert_string_equal(in->model_path, "ggml-org/gemma-3-4b-it-GGUF:Q4_K_M");
        in = config_find(c, "chat");
        assert_false(in->adopt);
        assert_true(in->endpoint.len > 0);
        in = config_find(c, "old");
        assert_true(in->adopt);
        assert_null(in->args);
        assert_string_equal(in->api_key, "s3cret");
        assert_int_equal(in->model_kind, CONFIG_MODEL_NONE);
        assert_null(config_find(c, "nobody"));
        config_free(c);
}

static void a_variable_is_not_expanded_twice(void **state)
{
        struct config *c = good("{\"models_dir\": \"/${DOTS}\"}");

        (void)state;
        assert_string_equal(c->models_dir, "/${NAME}");
        config_free(c);
}

static void included_files_append_and_add(void **state)
{
        static const char one[] =
                "{\"instances\": [{\"name\": \"b\", \"model\": \"sub/b.gguf\", \"cwd\": \"here\"}],"
                " \"stop\": {\"grace\": \"1s\"}}";
        static const char two[] =
                "{\"instances\": [{\"name\": \"c\", \"model\": \"c.gguf\"}], \"stop\": {\"drain\": \"2s\"}}";
        struct world w = usual_world();
        struct config *c;

        (void)state;
        add_file(&w, "/etc/ls/conf.d/10.json", one, sizeof one - 1, S_IFREG | 0644);
        add_file(&w, "/etc/ls/conf.d/20.json", two, sizeof two - 1, S_IFREG | 0644);
        add_file(&w, "/etc/ls/conf.d/readme.txt", "x", 1, S_IFREG | 0644);
        c = good_with(
                w, "{\"include\": \"conf.d\", \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\"}]}", 0);
        assert_int_equal(c->n_instances, 3);
        assert_string_equal(c->instances[0].name, "a");
        assert_string_equal(c->instances[1].name, "b");
        assert_string_equal(c->instances[2].name, "c");
        assert_string_equal(c->instances[1].cwd,
                            "/etc/ls/conf.d/here"); /* a path starts at its own file's folder */
        assert_string_equal(c->instances[1].where.file, "/etc/ls/conf.d/10.json");
        assert_int_equal(c->instances[0].stop.grace, USEC_PER_SEC);
        assert_int_equal(c->stop.drain, 2 * USEC_PER_SEC);
        assert_int_equal(text_list_count(c->files), 3);
        config_free(c);
}

static void what_does_nothing_yet_is_a_warning(void **state)
{
        struct config *c;

        (void)state;
        c = good_with(
                usual_world(),
                "{\"spool\": {\"dir\": \"s\"}, \"hubs\": [{\"driver\": \"nats\", \"url\": \"tls://h:1\"}],\n"
                " \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"limits\": {\"pids\": 5}},"
                " {\"name\": \"b\", \"model\": \"missing.gguf\"}]}",
                1);
        assert_int_equal(c->instances[0].limit_pids, 5);
        assert_string_equal(c->spool.dir, "/etc/ls/s");
        assert_int_equal(c->n_hubs, 1);
        assert_string_equal(config_hub_driver_name(c->hubs[0].driver), "nats");
        assert_string_equal(c->hubs[0].name, "nats");
        assert_null(c->hubs[0].worker);
        assert_int_equal(c->hubs[0].priority, CONFIG_HUB_LOW);
        config_free(c);
}

static void names_beside_replicas_are_free(void **state)
{
        struct config *c = good(
                "{\"instances\": [{\"name\": \"q\", \"model\": \"a.gguf\", \"replicas\": 2},"
                " {\"name\": \"q-2\", \"model\": \"a.gguf\"}, {\"name\": \"q-00\", \"model\": \"a.gguf\"},"
                " {\"name\": \"q-x\", \"model\": \"a.gguf\"}, {\"name\": \"p\", \"model\": \"a.gguf\"},"
                " {\"name\": \"p-0\", \"model\": \"a.gguf\"}]}");

        (void)state;
        assert_int_equal(c->n_instances, 6);
        config_free(c);
}

static void insecure_opens_the_address(void **state)
{
        struct config *c = good("{\"insecure\": true, \"listen\": [{\"address\": \"0.0.0.0:8077\"}]}");

        (void)state;
        assert_false(endpoint_is_loopback(&c->listen[0].endpoint));
        config_free(c);
        c = good("{\"listen\": []}");
        assert_int_equal(c->n_listen, 0);
        config_free(c);
}

static void problems_are_bounded_and_errors_first(void **state)
{
        struct config_problems problems;
        struct world w = usual_world();
        struct config *c = NULL;
        struct buffer b;

        (void)state;
        buffer_init(&b, 0);
        (void)buffer_puts(&b, "{\"instances\": [");
        for (int i = 0; i < 120; i++) /* each one a warning … */
                (void)buffer_printf(&b, "{\"name\": \"n%d\", \"model\": \"missing.gguf\"},\n", i);
        (void)buffer_puts(&b, "{\"name\": \"\", \"model\": \"a.gguf\"}]}"); /* … and one error at the end */
        add_file(&w, "/etc/ls/c.json", b.data, b.len, S_IFREG | 0644);
        assert_int_equal(load_world(&w, &c, &problems), -EBADMSG);
        assert_null(c);
        assert_int_equal(problems.errors, 1);
        assert_int_equal(problems.warnings, 120);
        assert_int_equal(problems.count, CONFIG_PROBLEMS_MAX);
        assert_int_equal(problems.dropped, 121 - CONFIG_PROBLEMS_MAX);
        assert_false(problems.list[problems.count - 1].warning);
        assert_string_equal(problems.list[problems.count - 1].path, "instances[120].name");
        config_problems_finish(&problems);
        buffer_finish(&b);
}

static void the_number_of_instances_is_bounded(void **state)
{
        struct config_problems problems;
        struct config *c = NULL;

        (void)state;
        for (int entries = 16; entries <= 1025; entries += 1009) {
                struct world w = usual_world();
                struct buffer b;

                buffer_init(&b, 0);
                (void)buffer_puts(&b, "{\"instances\": [");
                for (int i = 0; i < entries; i++)
                        (void)buffer_printf(&b,
                                            "%s{\"name\": \"n%d\", \"model\": \"a.gguf\", \"replicas\": %d}",
                                            i ? "," : "", i, entries == 16 ? i == 0 ? 63 : 64 : 1);
                (void)buffer_puts(&b, "]}");
                add_file(&w, "/etc/ls/c.json", b.data, b.len, S_IFREG | 0644);
                assert_int_equal(load_world(&w, &c, &problems), entries == 16 ? 0 : -EBADMSG);
                if (entries == 16)
                        c = config_free(c);
                else
                        assert_string_equal(problems.list[0].message, "has more than 1024 elements");
                config_problems_finish(&problems);
                buffer_finish(&b);
        }
}

static void a_missing_file_is_told(void **state)
{
        struct config_problems problems;
        struct world w = usual_world();
        _cleanup_free_ char *text = NULL;
        struct config *c;

        (void)state;
        assert_int_equal(load_world(&w, &c, &problems), -EBADMSG);
        text = config_problem_text(problems.list);
        assert_string_equal(text, "c.json: cannot be read: No such file or directory");
        config_problems_finish(&problems);
}

/* --- comparing -------------------------------------------------------------------------------------------------- */

#define ONE(members) "{\"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\"" members "}]}"

static const struct {
        const char *before, *after, *changes;
        bool restart;
} differences[] = {
        {ONE(""), ONE(""), "", false},
        {ONE(""), ONE(", \"gpu\": \"auto\", \"nice\": 0, \"args\": [], \"env\": {}"), "", false},
        {ONE(""), ONE(", \"health\": {\"timeout\": \"5000ms\"}"), "", false},
        {ONE(""), ONE(", \"health\": {\"timeout\": \"6s\"}"), "health.timeout", false},
        {ONE(""),
         "{\"health\": {\"timeout\": \"6s\"}, \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\"}]}",
         "health.timeout", false},
        {ONE(""), ONE(", \"restart\": {\"max_retries\": \"forever\"}"), "restart.max_retries", false},
        {ONE(""), ONE(", \"stop\": {\"grace\": \"1s\"}"), "stop.grace", false},
        {ONE(""), ONE(", \"aliases\": [\"x\"]"), "aliases", false},
        {ONE(""), ONE(", \"weight\": 2"), "weight", false},
        {ONE(""), ONE(", \"weight\": [1]"), "", false},
        {ONE(", \"replicas\": 2, \"weight\": 2"), ONE(", \"replicas\": 2, \"weight\": [2, 2]"), "", false},
        {ONE(", \"replicas\": 2, \"weight\": [2, 1]"), ONE(", \"replicas\": 2, \"weight\": [1, 2]"), "weight",
         false},
        {ONE(""), ONE(", \"replicas\": 2"), "replicas", false},
        {ONE(""), ONE(", \"autostart\": false"), "autostart", false},
        {ONE(""), ONE(", \"slots\": 2"), "slots", false},
        {ONE(""), ONE(", \"request\": {\"set\": {}, \"strip\": []}"), "", false},
        {ONE(""), ONE(", \"request\": {\"set\": {\"a\": 1}, \"strip\": [\"b\"]}"),
         "request.set request.strip", false},
        {ONE(", \"request\": {\"set\": {\"a\": 1}}"), ONE(", \"request\": {\"set\":{ \"\\u0061\" :1 }}"), "",
         false},
        {ONE(""), ONE(", \"on_demand\": {}"), "on_demand", false},
        {ONE(", \"on_demand\": {}"),
         ONE(", \"on_demand\": {\"idle_timeout\": \"0\", \"pinned\": true, \"memory\": \"1G\"}"),
         "on_demand.idle_timeout on_demand.pinned on_demand.memory", false},
        {ONE(", \"replicas\": {\"min\": 1, \"max\": 2}"),
         ONE(", \"replicas\": {\"min\": 1, \"max\": 2}, \"scale\": {\"wait\": \"3s\"}"), "scale.wait", false},
        {ONE(""), ONE(", \"args\": [\"-c\"]"), "args", true},
        {ONE(""),
         "{\"llama_server\": {\"args\": [\"-c\"]}, \"instances\": [{\"name\": \"a\", \"model\": "
         "\"a.gguf\"}]}",
         "args", true},
        {"{\"llama_server\": {\"args\": [\"-c\"]}, \"instances\": [{\"name\": \"a\", \"model\": "
         "\"a.gguf\"}]}",
         ONE(", \"args\": [\"-c\"]"), "", false},
        {ONE(", \"env\": {\"A\": \"1\", \"B\": \"2\"}"), ONE(", \"env\": {\"B\": \"2\", \"A\": \"1\"}"), "",
         false},
        {ONE(", \"env\": {\"A\": \"1\"}"), ONE(", \"env\": {\"A\": \"2\"}"), "env", true},
        {ONE(", \"env\": {\"A_KEY\": \"1\"}"), ONE(", \"env\": {\"A_KEY\": \"2\"}"), "env", true},
        {ONE(""), ONE(", \"gpu\": \"none\""), "gpu", true},
        {ONE(", \"gpu\": [0]"), ONE(", \"gpu\": [1]"), "gpu", true},
        {ONE(""), ONE(", \"nice\": 1"), "nice", true},
        {ONE(""), ONE(", \"cwd\": \"/x\""), "cwd", true},
        {ONE(""), ONE(", \"endpoint\": \"127.0.0.1:1\""), "endpoint", true},
        {ONE(""), ONE(", \"llama_server\": {\"binary\": \"/x\"}"), "llama_server.binary", true},
        {ONE(""),
         "{\"llama_server\": {\"binary\": \"other\"}, \"instances\": [{\"name\": \"a\", \"model\": "
         "\"a.gguf\"}]}",
         "llama_server.binary", true},
        {ONE(""), "{\"instances\": [{\"name\": \"a\", \"model\": \"b.gguf\"}]}", "model", true},
        {ONE(""), "{\"instances\": [{\"name\": \"a\", \"model\": \"./a.gguf\"}]}", "model", false},
        {ONE(""), "{\"models_dir\": \"/m\", \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\"}]}",
         "models_dir", true},
};

static char *joined(char **list)
{
        struct buffer b;

        buffer_init(&b, 0);
        (void)buffer_puts(&b, "");
        for (size_t i = 0; list[i]; i++)
                (void)buffer_printf(&b, "%s%s", i ? " " : "", list[i]);
        text_list_free(list);
        return buffer_steal(&b);
}

static void differences_are_known(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(differences); i++) {
                struct config *a = good(differences[i].before), *b = good(differences[i].after);
                const struct config_instance *x = a->instances, *y = b->instances;
                char d[CONFIG_DIGEST_MAX], e[CONFIG_DIGEST_MAX], **list;
                _cleanup_free_ char *changes = NULL;

                assert_int_equal(config_instance_changes(x, y, &list), 0);
                changes = joined(list);
                if (!streq(changes, differences[i].changes) ||
                    config_instance_needs_restart(x, y) != differences[i].restart ||
                    config_instance_same(x, y) != streq(changes, ""))
                        fail_msg("%s -> %s: changes \"%s\", restart %d", differences[i].before,
                                 differences[i].after, changes, config_instance_needs_restart(x, y));
                config_instance_digest(x, d);
                config_instance_digest(y, e);
                assert_int_equal(strlen(d), 16);
                assert_int_equal(!streq(d, e), differences[i].restart);
                config_free(a);
                config_free(b);
        }
}

/* State files keep it: a changed digest of an unchanged instance would load every model again at an upgrade. */
static void the_digest_stays_what_it_was(void **state)
{
        struct config *c = good("{\"models_dir\": \"/m\", \"instances\": [{\"name\": \"a\", \"model\": "
                                "\"a.gguf\", \"gpu\": [0, 1],"
                                " \"args\": [\"-c\", \"4096\"], \"env\": {\"A\": \"1\"}, \"nice\": 3}]}");
        char d[CONFIG_DIGEST_MAX];

        (void)state;
        assert_string_equal(config_instance_digest(c->instances, d), "f957f200e79d9f15");
        config_free(c);
}

#define HUB(members) "{\"hubs\": [{\"driver\": \"nats\", \"url\": \"tls://h:1\"" members "}]}"

/* Of a hub some keys are taken over live, as long as it is the same hub. */
static void changes_of_hubs(void **state)
{
        struct config *a = good(HUB("")), *b = good(HUB(", \"weight\": 3, \"max_jobs\": 1")),
                      *c = good(HUB(", \"weight\": 3, \"worker\": \"w\""));
        static const struct {
                bool restart;
                int from;
                const char *want;
        } cases[] = {{false, 0, "hubs"}, {true, 0, ""}, {false, 1, ""}, {true, 1, "hubs"}};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *text = NULL;
                char **list;

                assert_int_equal(
                        config_changes(cases[i].from ? b : a, cases[i].from ? c : b, cases[i].restart, &list),
                        0);
                text = joined(list);
                assert_string_equal(text, cases[i].want);
        }
        config_free(a);
        config_free(b);
        config_free(c);
}

#define PAIR(more)                                                                                           \
        "{\"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"on_demand\": {}}, {\"name\": \"b\", "   \
        "\"model\": \"a.gguf\", \"on_demand\": {}}]" more "}"

static void changes_of_the_daemon_are_known(void **state)
{
        struct config *a = good("{}");
        struct config *b = good("{\"listen\": [{\"address\": \"127.0.0.1:1\"}], \"runtime_dir\": \"/r\", "
                                "\"log_level\": \"error\","
                                " \"health\": {\"timeout\": \"1s\"}, \"ready\": {\"min\": 2},"
                                " \"auth\": {\"anonymous\": [\"admin\"]}}");
        struct config *d = good(PAIR(""));
        struct config *e =
                good(PAIR(", \"groups\": [{\"name\": \"g\", \"members\": [\"a\", \"b\"]}],"
                          " \"on_demand\": {\"max_loaded\": 1, \"preload\": [\"a\"]},"
                          " \"gateway\": {\"default_model\": \"b\", \"eject\": {\"max\": \"1h\"}}"));
        struct config *f = good(PAIR(", \"groups\": [{\"name\": \"g\", \"mode\": \"together\", \"members\": "
                                     "[\"a\", \"b\"]}]"));
        _cleanup_free_ char *restart = NULL, *reload = NULL;
        char **list;

        (void)state;
        assert_int_equal(config_changes(a, b, true, &list), 0);
        restart = joined(list);
        assert_string_equal(restart, "listen runtime_dir");
        assert_int_equal(config_changes(a, b, false, &list), 0);
        reload = joined(list);
        assert_string_equal(reload, "log_level ready.min auth.anonymous");
        free(reload);
        assert_int_equal(config_changes(d, e, false, &list), 0);
        reload = joined(list);
        assert_string_equal(reload, "gateway.default_model gateway.eject.max on_demand.max_loaded "
                                    "on_demand.preload groups");
        assert_int_equal(config_changes(d, e, true, &list), 0); /* all of it is taken over live */
        assert_null(list[0]);
        text_list_free(list);
        free(reload);
        text_list_free(e->demand.preload); /* what is left is the mode of the group */
        e->demand = (struct config_demand){0};
        assert_int_equal(config_changes(e, f, false, &list), 0);
        reload = joined(list);
        assert_string_equal(reload, "gateway.default_model gateway.eject.max groups");
        config_free(a);
        config_free(b);
        config_free(d);
        config_free(e);
        config_free(f);
}

static void the_effective_configuration_is_printed_without_secrets(void **state)
{
        struct config *c =
                good_with(usual_world(),
                          "{\"restart\": {\"max_retries\": \"forever\"}, \"llama_server\": "
                          "{\"hf_token_file\": \"good.key\"},"
                          " \"instances\": [{\"name\": \"a\", \"model\": \"a.gguf\", \"env\": {\"X_TOKEN\": "
                          "\"hidden\", "
                          "\"PLAIN\": \"shown\"}, \"replicas\": {\"min\": 1, \"max\": 2}, \"gpu\": [0, 1]},"
                          " {\"name\": \"b\", \"adopt\": \"127.0.0.1:1\", \"api_key_file\": \"good.key\"}]}",
                          0);
        _cleanup_free_ char *text = config_print(c);
        struct json_value *v, *in;

        (void)state;
        assert_null(strstr(text, "s3cret"));
        assert_null(strstr(text, "hidden"));
        assert_int_equal(json_parse(text, strlen(text), &v, NULL), 0);
        in = json_at(json_get(v, "instances"), 0);
        assert_string_equal(json_get_string(json_get(in, "env"), "X_TOKEN"), "***");
        assert_string_equal(json_get_string(json_get(in, "env"), "PLAIN"), "shown");
        assert_string_equal(json_get_string(json_get(in, "restart"), "max_retries"), "forever");
        assert_int_equal(json_get_int(json_get(in, "replicas"), "max", 0), 2);
        assert_int_equal(json_count(json_get(in, "gpu")), 2);
        assert_string_equal(json_get_string(json_get(v, "stop"), "grace"), "5s");
        assert_string_equal(json_get_string(json_at(json_get(v, "instances"), 1), "api_key_file"),
                            "/etc/ls/good.key");
        assert_null(json_get(json_at(json_get(v, "instances"), 1), "args"));
        json_free(v);
        config_free(c);
}

/* config/llama-supervisor.json is commented and says what an empty object means. */
static void the_sample_is_the_default(void **state)
{
        _cleanup_free_ char *text = NULL, *sample = NULL, *empty = NULL;
        struct config *c;
        size_t len;

        (void)state;
        assert_int_equal(file_read(SOURCE_DIR "/config/llama-supervisor.json", 1U << 16, &text, &len), 0);
        assert_non_null(strstr(text, "//"));
        c = good(text);
        sample = config_print(c);
        config_free(c);
        c = good("{}");
        empty = config_print(c);
        config_free(c);
        assert_string_equal(sample, empty);
}

/* Every default of the table is a value that the table accepts. */
static void defaults_obey_their_own_rows(void **state)
{
        (void)state;
        for (size_t p = 0; p < PLACE_COUNT; p++)
                for (size_t i = 0; i < config_places[p].n_keys; i++) {
                        const struct config_key *key = config_places[p].keys + i;
                        struct config_problems problems = {0};
                        struct world w = usual_world();
                        const struct config_env env = {.get = fake_get, .owner = &w};
                        struct config_load l = {.env = &env, .problems = &problems};
                        void *base = calloc(1, config_places[p].size);

                        buffer_init(&l.path, 100);
                        assert_non_null(key->help);
                        assert_true(key->max >= key->min);
                        if (key->flags & KEY_INHERITS) { /* an override obeys what the global key obeys */
                                const struct config_key *global = config_key_find(PLACE_TOP, key->path);

                                assert_non_null(global);
                                assert_true(global->flags & KEY_INHERITED);
                                assert_int_equal(global->type, key->type);
                                assert_memory_equal(&global->min, &key->min, sizeof key->min);
                                assert_memory_equal(&global->max, &key->max, sizeof key->max);
                                assert_ptr_equal(global->choices, key->choices);
                        }
                        if (!config_value_default(&l, key, base) || problems.count)
                                fail_msg("%s: bad default %s", key->path, key->fallback);
                        config_value_free(key, base);
                        buffer_finish(&l.path);
                        free(base);
                }
}

/* --- malformed ones --------------------------------------------------------------------------------------------- */

#define TABLE SOURCE_DIR "/tests/unit/core/config_bad.txt"

/* "<0xff>" and "<bom>" stand for bytes that a text file should not hold. */
static char *replaced(char *text)
{
        static const char *const from[] = {"<0xff>", "<bom>"}, *const to[] = {"\xff", "\xef\xbb\xbf"};

        for (size_t i = 0; i < ARRAY_SIZE(from); i++)
                for (char *p = strstr(text, from[i]); p; p = strstr(text, from[i])) {
                        memcpy(p, to[i], strlen(to[i]));
                        memmove(p + strlen(to[i]), p + strlen(from[i]), strlen(p + strlen(from[i])) + 1);
                }
        return text;
}

struct expectation {
        char *file, *key, *message;
        unsigned line, column;
        bool warning;
};

static bool matches(const struct expectation *e, const struct config_problem *p)
{
        return p->line == e->line && p->column == e->column && p->warning == e->warning &&
               streq(p->path, e->key) && ends_with(p->file, e->file) && strstr(p->message, e->message);
}

/* "=> FILE:LINE:COLUMN KEY | message", cut up in place. */
static struct expectation parse_expectation(char *line)
{
        struct expectation e = {.warning = line[0] == '~', .file = line + 3};
        char *space = strchr(e.file, ' '), *bar = strstr(line, " | "), *colon;

        assert_non_null(space);
        assert_non_null(bar);
        *space = '\0';
        *bar = '\0';
        e.key = bar > space ? space + 1 : bar;
        e.message = bar + 3;
        colon = strrchr(e.file, ':');
        assert_non_null(colon);
        e.column = (unsigned)strtoul(colon + 1, NULL, 10);
        *colon = '\0';
        colon = strrchr(e.file, ':');
        assert_non_null(colon);
        e.line = (unsigned)strtoul(colon + 1, NULL, 10);
        *colon = '\0';
        return e;
}

static int run_case(const char *name, char *body, struct expectation *expected, size_t n)
{
        struct config_problems problems;
        struct world w = usual_world();
        struct config *c = NULL;
        bool good_case;
        char *more;
        int r;

        body = replaced(body);
        more = strstr(body, "\n@@ ");
        add_file(&w, "/etc/ls/c.json", body, more ? (size_t)(more - body) : strlen(body), S_IFREG | 0644);
        while (more) {
                char *path = more + strlen("\n@@ "), *text = strchr(path, '\n') + 1;

                text[-1] = '\0';
                more = strstr(text, "\n@@ ");
                add_file(&w, path, text, more ? (size_t)(more - text) : strlen(text), S_IFREG | 0644);
        }
        r = load_world(&w, &c, &problems);
        good_case = r == -EBADMSG && problems.count == n;
        for (size_t i = 0; good_case && i < n; i++)
                good_case = matches(expected + i, problems.list + i);
        if (!good_case) {
                print_message("### %s: returned %d, found\n", name, r);
                print_problems(&problems);
        }
        config_problems_finish(&problems);
        if (r == 0)
                config_free(c);
        return good_case ? 0 : 1;
}

static void malformed_ones_are_refused_at_the_right_place(void **state)
{
        _cleanup_free_ char *text = NULL;
        size_t len, cases = 0, failed = 0;
        char *next;

        (void)state;
        assert_int_equal(file_read(TABLE, 1U << 20, &text, &len), 0);
        for (char *at = strstr(text, "\n### "); at; at = next) {
                struct expectation expected[16];
                char *name = at + strlen("\n### "), *body = strchr(name, '\n') + 1, *line;
                size_t n = 0;

                next = strstr(body - 1, "\n### ");
                if (next)
                        *next = '\0';
                body[-1] = '\0';
                line = body[0] == '=' ? body - 1 : NULL;
                for (char *p = body - 1; !line && (p = strchr(p + 1, '\n'));)
                        if (starts_with(p + 1, "=> ") || starts_with(p + 1, "~> "))
                                line = p;
                assert_non_null(line);
                *line++ = '\0';
                for (char *end; line && *line; line = end) {
                        end = strchr(line, '\n');
                        if (end)
                                *end++ = '\0';
                        assert_true(n < ARRAY_SIZE(expected));
                        expected[n++] = parse_expectation(line);
                }
                failed += (size_t)run_case(name, body, expected, n);
                cases++;
        }
        assert_true(cases >= 200);
        if (failed)
                fail_msg("%zu of %zu malformed configurations were not refused as they should", failed,
                         cases);
}

/* --- for the lint ----------------------------------------------------------------------------------------------- */

static int check_file(const char *file)
{
        static const char *const none[] = {"HOME", "/home/u", NULL};
        struct world w = {.variables = none};
        const struct config_env env = {
                .files = &file_ops_real, .get = fake_get, .owner = &w, .cwd = "/", .is_root = true};
        struct config_problems problems;
        struct config *c = NULL;
        int r = config_load(file, &env, &c, &problems);

        print_problems(&problems);
        config_problems_finish(&problems);
        config_free(c);
        return r == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(defaults_obey_their_own_rows),
                cmocka_unit_test(defaults_are_those_of_the_design),
                cmocka_unit_test(directories_follow_systemd_and_xdg),
                cmocka_unit_test(the_example_of_the_design_loads),
                cmocka_unit_test(a_variable_is_not_expanded_twice),
                cmocka_unit_test(included_files_append_and_add),
                cmocka_unit_test(what_does_nothing_yet_is_a_warning),
                cmocka_unit_test(names_beside_replicas_are_free),
                cmocka_unit_test(insecure_opens_the_address),
                cmocka_unit_test(problems_are_bounded_and_errors_first),
                cmocka_unit_test(the_number_of_instances_is_bounded),
                cmocka_unit_test(a_missing_file_is_told),
                cmocka_unit_test(differences_are_known),
                cmocka_unit_test(the_digest_stays_what_it_was),
                cmocka_unit_test(changes_of_the_daemon_are_known),
                cmocka_unit_test(changes_of_hubs),
                cmocka_unit_test(the_effective_configuration_is_printed_without_secrets),
                cmocka_unit_test(the_sample_is_the_default),
                cmocka_unit_test(malformed_ones_are_refused_at_the_right_place),
        };

        if (argc == 2 && streq(argv[1], "--keys")) {
                _cleanup_free_ char *keys = config_print_keys();

                return !keys || puts(keys) < 0;
        }
        if (argc == 3 && streq(argv[1], "--check"))
                return check_file(argv[2]);
        return cmocka_run_group_tests(tests, NULL, NULL);
}
