/* check.c: a configuration judged, shown, and the table of keys. */
#include "cli/check.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"

static const char *real_getenv(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static int load(const char *file, config_tls_check_fn *check_tls, struct config **ret,
                struct config_problems *problems)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        const struct config_env env = {.files = &file_ops_real,
                                       .get = real_getenv,
                                       .cwd = cwd,
                                       .is_root = geteuid() == 0,
                                       .check_tls = check_tls};

        return config_load(file, &env, ret, problems);
}

static void print_text(const struct config_problems *problems)
{
        for (size_t i = 0; i < problems->count; i++) {
                _cleanup_free_ char *line = config_problem_text(problems->list + i);

                if (line)
                        (void)fprintf(stderr, "%s\n", line);
        }
        if (problems->dropped)
                (void)fprintf(stderr, "and %zu more\n", problems->dropped);
}

static void put_problem(struct json_writer *w, const struct config_problem *p)
{
        json_open_object(w);
        json_string(w, "file", p->file);
        json_uint(w, "line", p->line);
        json_uint(w, "column", p->column);
        json_string(w, "key", p->path);
        json_string(w, "level", p->warning ? "warning" : "error");
        json_string(w, "message", p->message);
        json_close_object(w);
}

static void print_json(const char *file, int r, const struct config *c,
                       const struct config_problems *problems)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "file", file);
        json_bool(&w, "ok", r == 0);
        json_uint(&w, "instances", c ? c->n_instances : 0);
        json_uint(&w, "errors", problems->errors);
        json_uint(&w, "warnings", problems->warnings);
        json_uint(&w, "dropped", problems->dropped);
        json_key(&w, "problems");
        json_open_array(&w);
        for (size_t i = 0; i < problems->count; i++)
                put_problem(&w, problems->list + i);
        json_close_array(&w);
        json_close_object(&w);
        if (!b.failed)
                (void)printf("%s\n", b.data);
}

int check_main(const char *file, bool json, config_tls_check_fn *check_tls)
{
        struct config_problems problems = {0};
        struct config *c = NULL;
        int r;

        r = load(file, check_tls, &c, &problems);
        if (json) {
                print_json(file, r, c, &problems);
        } else {
                print_text(&problems);
                if (r == -ENOMEM)
                        (void)fprintf(stderr, "%s: %s\n", file, strerror(-r));
                else if (r == 0)
                        (void)printf("%s: ok, %zu model%s\n", file, c->n_instances,
                                     c->n_instances == 1 ? "" : "s");
        }
        config_problems_finish(&problems);
        config_free(c);
        return r == 0 ? 0 : 1;
}

int check_print(const char *file)
{
        struct config_problems problems = {0};
        _cleanup_free_ char *text = NULL;
        struct config *c = NULL;
        int r;

        r = load(file, NULL, &c, &problems);
        print_text(&problems);
        if (r == 0)
                text = config_print(c);
        if (text)
                (void)printf("%s\n", text);
        config_problems_finish(&problems);
        config_free(c);
        return text ? 0 : 1;
}

int check_print_keys(void)
{
        _cleanup_free_ char *text = config_print_keys();

        if (!text)
                return 1;
        (void)printf("%s\n", text);
        return 0;
}
