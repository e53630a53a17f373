/* test_config_again.c: a configuration made once more without its files, and entries that no file has. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"

/* --- a world that can go away ---------------------------------------------------------------------------------------- */

struct world {
        bool gone; /* from then on whoever touches a file fails the test */
        unsigned touched;
};

static const char main_text[] =
        "{\"include\": \"more\", \"models_dir\": \"/m\", \"state_dir\": \"/s\",\n"
        "\"llama_server\": {\"args\": [\"-t\", \"${THREADS}\"], \"hf_token_file\": \"token\"},\n"
        "\"restart\": {\"max_retries\": 7},\n"
        "\"instances\": [\n"
        "{\"name\": \"qwen\", \"model\": \"qwen.gguf\", \"replicas\": 3, \"aliases\": [\"gpt\"]},\n"
        "{\"name\": \"lost\", \"model\": \"lost.gguf\"}]}";
static const char more_text[] = "{\"instances\": [{\"name\": \"more\", \"model\": \"more.gguf\"}]}";

static int world_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        struct world *w = owner;
        const char *text = streq(path, "/etc/c.json")           ? main_text
                           : streq(path, "/etc/more/more.json") ? more_text
                           : streq(path, "/etc/token")          ? "s3cret\n"
                                                                : NULL;

        assert_false(w->gone);
        w->touched++;
        if (!text)
                return -ENOENT;
        assert_true(strlen(text) <= max);
        *ret = strdup(text);
        *ret_len = strlen(text);
        return 0;
}

static int world_stat(void *owner, const char *path, struct file_facts *ret)
{
        struct world *w = owner;

        assert_false(w->gone);
        w->touched++;
        if (ends_with(path, "lost.gguf"))
                return -ENOENT;
        *ret = (struct file_facts){.mode = S_IFREG | 0600, .size = 1};
        return 0;
}

static int world_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        struct world *w = owner;

        (void)suffix;
        (void)max;
        assert_false(w->gone);
        w->touched++;
        assert_string_equal(dir, "/etc/more");
        return text_list_add(ret, "more.json");
}

static const char *world_get(void *owner, const char *name)
{
        (void)owner;
        return streq(name, "THREADS") ? "4" : streq(name, "HOME") ? "/home/u" : NULL;
}

static struct config *load(struct world *w)
{
        struct file_ops files = {.read = world_read, .stat = world_stat, .list = world_list, .owner = w};
        struct config_env env = {.files = &files, .get = world_get, .cwd = "/etc", .is_root = true};
        struct config_problems problems;
        struct config *c = NULL;

        if (config_load("/etc/c.json", &env, &c, &problems) < 0)
                fail_msg("%s: %s", problems.list[0].path, problems.list[0].message);
        assert_int_equal(problems.warnings, 1); /* lost.gguf */
        config_problems_finish(&problems);
        w->gone = true;
        return c;
}

static void expect_same(const struct config *a, const struct config *b)
{
        char **changes = NULL;

        assert_int_equal(a->n_instances, b->n_instances);
        for (size_t i = 0; i < a->n_instances; i++) {
                assert_true(config_instance_same(a->instances + i, b->instances + i));
        }
        assert_int_equal(config_changes(a, b, true, &changes), 0);
        assert_int_equal(text_list_count(changes), 0);
        text_list_free(changes);
        changes = NULL;
        assert_int_equal(config_changes(a, b, false, &changes), 0);
        assert_int_equal(text_list_count(changes), 0);
        text_list_free(changes);
}

static struct config *again(const struct config *c)
{
        struct config_problems problems;
        struct config *d = NULL;

        assert_int_equal(config_again(c, &d, &problems), 0);
        assert_int_equal(problems.warnings, 1);
        config_problems_finish(&problems);
        return d;
}

static void the_files_are_not_needed(void **state)
{
        struct world w = {0};
        struct config *c = load(&w), *d, *e;

        (void)state;
        assert_true(w.touched > 5);
        d = again(c);
        expect_same(c, d);
        assert_string_equal(d->llama_server.hf_token, "s3cret");
        assert_string_equal(d->instances[0].args[1], "4");
        assert_string_equal(d->instances[2].name, "more");
        assert_string_equal(d->files[1], "/etc/more/more.json");
        /* And once more out of the second: the first may be gone. */
        config_free(c);
        e = again(d);
        expect_same(d, e);
        config_free(d);
        config_free(e);
}

static void what_was_not_loaded_cannot_be_again(void **state)
{
        struct config made = {0}, *d = NULL;
        const struct config_instance *clash;
        struct config_problems problems;

        (void)state;
        assert_int_equal(config_again(&made, &d, &problems), -ENOTSUP);
        config_problems_finish(&problems);
        assert_int_equal(config_add_entry(&made, "x", "{}", 2, &clash, &problems), -ENOTSUP);
        config_problems_finish(&problems);
        assert_null(d);
}

/* --- entries --------------------------------------------------------------------------------------------------------- */

static int add(struct config *c, const char *text, const struct config_instance **clash, char **ret_problem)
{
        struct config_problems problems;
        int r = config_add_entry(c, "/s/dynamic.json", text, strlen(text), clash, &problems);

        *ret_problem = problems.errors ? config_problem_text(&problems.list[0]) : NULL;
        assert_int_equal(r == -EBADMSG, problems.errors > 0);
        config_problems_finish(&problems);
        return r;
}

static void an_entry_is_like_those_of_the_files(void **state)
{
        static const char text[] = "{\"name\": \"extra\", \"model\": \"/m/extra.gguf\", \"args\": [\"-c\", "
                                   "\"512\"], \"gpu\": [1]}";
        const struct config_instance *in, *clash;
        struct world w = {0};
        struct config *c = load(&w);
        char *problem;

        (void)state;
        assert_int_equal(add(c, text, &clash, &problem), 0);
        assert_int_equal(c->n_instances, 4);
        in = config_find(c, "extra");
        assert_non_null(in);
        assert_true(in->dynamic);
        assert_false(c->instances[0].dynamic);
        assert_string_equal(in->model_path, "/m/extra.gguf");
        assert_int_equal(in->restart.max_retries, 7);
        assert_int_equal(in->replicas, 1);
        assert_true(in->autostart);
        assert_int_equal(text_list_count(in->args), 4); /* the global ones first */
        assert_string_equal(in->args[1], "4");
        assert_string_equal(in->args[3], "512");
        assert_string_equal(in->binary, "llama-server");
        assert_string_equal(in->gpu[0], "1");
        assert_string_equal(in->where.file, "/s/dynamic.json");
        /* A second of the same file knows the first. */
        assert_int_equal(add(c, "{\"name\": \"other\", \"model\": \"o.gguf\"}", &clash, &problem), 0);
        assert_int_equal(c->n_instances, 5);
        assert_int_equal(add(c, text, &clash, &problem), -EBADMSG);
        assert_ptr_equal(clash, config_find(c, "extra"));
        free(problem);
        assert_int_equal(c->n_instances, 5);
        config_free(c);
}

static void names_that_are_taken(void **state)
{
        static const struct {
                const char *text, *by;
        } rows[] = {
                {"{\"name\": \"qwen\", \"model\": \"x.gguf\"}", "qwen"},
                {"{\"name\": \"gpt\", \"model\": \"x.gguf\"}", "qwen"},
                {"{\"name\": \"qwen-2\", \"model\": \"x.gguf\"}", "qwen"},
                {"{\"name\": \"x\", \"aliases\": [\"y\", \"more\"], \"model\": \"x.gguf\"}", "more"},
        };
        const struct config_instance *clash;
        struct world w = {0};
        struct config *c = load(&w);
        char *problem;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                assert_int_equal(add(c, rows[i].text, &clash, &problem), -EBADMSG);
                assert_non_null(clash);
                assert_string_equal(clash->name, rows[i].by);
                assert_non_null(strstr(problem, "is taken already by the entry"));
                free(problem);
                assert_int_equal(c->n_instances, 3);
        }
        assert_int_equal(add(c, "{\"name\": \"qwen-3\", \"model\": \"x.gguf\"}", &clash, &problem), 0);
        assert_int_equal(
                add(c, "{\"name\": \"b\", \"aliases\": [\"b\"], \"model\": \"x.gguf\"}", &clash, &problem),
                -EBADMSG);
        assert_null(clash);
        assert_non_null(strstr(problem, "aliases"));
        free(problem);
        config_free(c);
}

static void entries_that_are_wrong(void **state)
{
        static const struct {
                const char *text, *words;
        } rows[] = {
                {"{\"name\": \"x\", \"model\": \"x.gguf\", \"args\": [\"--port\", \"1\"]}",
                 "args[0]: --port is refused"},
                {"{\"name\": \"x y\", \"model\": \"x.gguf\"}", "name: "},
                {"{\"model\": \"x.gguf\"}", "\"name\" is missing"},
                {"{\"name\": \"x\"}", "\"model\" is missing"},
                {"{\"name\": \"x\", \"model\": \"x.gguf\", \"modle\": 1}", "did you mean \"model\""},
                {"{\"name\": \"x\", \"model\": \"x.gguf\", \"args\": [\"${NOPE}\"]}", "NOPE"},
                {"{\"name\": \"x\", \"model\": \"x-00002-of-00003.gguf\"}", "is part 2"},
                {"{\"name\": \"control\", \"model\": \"x.gguf\"}", "is taken"},
                {"[]", "expected an object"},
                {"{\"name\": ", "/s/dynamic.json:1:10"},
                {"", "/s/dynamic.json:1:1"},
        };
        const struct config_instance *clash;
        struct world w = {0};
        struct config *c = load(&w), *d;
        char *problem;

        (void)state;
        d = again(c);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                assert_int_equal(add(c, rows[i].text, &clash, &problem), -EBADMSG);
                if (!problem || !strstr(problem, rows[i].words))
                        fail_msg("\"%s\" is not in \"%s\"", rows[i].words, problem);
                free(problem);
                expect_same(c, d);
        }
        config_free(c);
        config_free(d);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_files_are_not_needed),
                cmocka_unit_test(what_was_not_loaded_cannot_be_again),
                cmocka_unit_test(an_entry_is_like_those_of_the_files),
                cmocka_unit_test(names_that_are_taken),
                cmocka_unit_test(entries_that_are_wrong),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
