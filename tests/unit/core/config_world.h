/* config_world.h: files, folders and variables that are only in memory, for the tests of the configuration. */
#ifndef LSV_TESTS_CONFIG_WORLD_H
#define LSV_TESTS_CONFIG_WORLD_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"

#define FILES_MAX 8

struct world {
        struct {
                const char *path, *text;
                size_t len;
                mode_t mode;
        } files[FILES_MAX + 8];
        size_t n;
        bool is_root;
        const char *const *variables; /* NAME, value, …, NULL */
};

static inline void add_file(struct world *w, const char *path, const char *text, size_t len, mode_t mode)
{
        assert_true(w->n < ARRAY_SIZE(w->files));
        w->files[w->n].path = path;
        w->files[w->n].text = text;
        w->files[w->n].len = len;
        w->files[w->n++].mode = mode;
}

static const char *const usual_variables[] = {"HOME", "/home/u", "NAME",    "value", "EMPTY",
                                              "",     "DOTS",    "${NAME}", NULL};

static inline struct world usual_world(void)
{
        struct world w = {.is_root = true, .variables = usual_variables};

        add_file(&w, "/etc/ls/good.key", " s3cret\n", 8, S_IFREG | 0600);
        add_file(&w, "/etc/ls/open.key", "s3cret\nsecond\n", 14, S_IFREG | 0644);
        add_file(&w, "/etc/ls/empty.key", "", 0, S_IFREG | 0600);
        add_file(&w, "/etc/ls/blank.key", " \n\n", 3, S_IFREG | 0600);
        add_file(&w, "/etc/ls/forbidden.key", "x", 1, S_IFREG | 0000);
        add_file(&w, "/srv/folder", "", 0, S_IFDIR | 0755);
        return w;
}

static inline int fake_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        const struct world *w = owner;

        if (path[0] != '/') /* the main file, named from /etc/ls */
                path = streq(path, "c.json") ? "/etc/ls/c.json" : path;
        for (size_t i = 0; i < w->n; i++) {
                if (!streq(w->files[i].path, path))
                        continue;
                if (S_ISDIR(w->files[i].mode))
                        return -EISDIR;
                if (!(w->files[i].mode & 0400))
                        return -EACCES;
                if (w->files[i].len > max)
                        return -EFBIG;
                *ret = malloc(w->files[i].len + 1);
                assert_non_null(*ret);
                memcpy(*ret, w->files[i].text, w->files[i].len);
                (*ret)[w->files[i].len] = '\0';
                *ret_len = w->files[i].len;
                return 0;
        }
        return -ENOENT;
}

/* Every model is there but "missing.gguf". */
static inline int fake_stat(void *owner, const char *path, struct file_facts *ret)
{
        const struct world *w = owner;

        for (size_t i = 0; i < w->n; i++)
                if (streq(w->files[i].path, path)) {
                        *ret = (struct file_facts){.mode = w->files[i].mode, .size = w->files[i].len};
                        return 0;
                }
        if (!ends_with(path, ".gguf") || ends_with(path, "missing.gguf"))
                return -ENOENT;
        *ret = (struct file_facts){.mode = S_IFREG | 0644, .size = 1};
        return 0;
}

/* In the order of their addition, which is the order of their names. */
static inline int fake_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        const struct world *w = owner;
        size_t len = strlen(dir);
        char **names = NULL;

        (void)max;
        for (size_t i = 0; i < w->n; i++)
                if (strncmp(w->files[i].path, dir, len) == 0 && w->files[i].path[len] == '/' &&
                    ends_with(w->files[i].path, suffix))
                        assert_int_equal(text_list_add(&names, w->files[i].path + len + 1), 0);
        if (!names)
                return -ENOENT;
        *ret = names;
        return 0;
}

static const char *fake_get(void *owner, const char *name)
{
        const struct world *w = owner;

        for (size_t i = 0; w->variables[i]; i += 2)
                if (streq(w->variables[i], name))
                        return w->variables[i + 1];
        return NULL;
}

static inline int load_world(struct world *w, struct config **ret, struct config_problems *problems)
{
        const struct file_ops files = {.read = fake_read, .stat = fake_stat, .list = fake_list, .owner = w};
        const struct config_env env = {
                .files = &files, .get = fake_get, .owner = w, .cwd = "/etc/ls", .is_root = w->is_root};

        return config_load("c.json", &env, ret, problems);
}

static inline void print_problems(const struct config_problems *p)
{
        for (size_t i = 0; i < p->count; i++) {
                _cleanup_free_ char *line = config_problem_text(p->list + i);

                print_message("  %s\n", line);
        }
}

/* A configuration without errors; with `warnings` of them. */
static inline struct config *good_with(struct world w, const char *text, size_t warnings)
{
        struct config_problems problems;
        struct config *c = NULL;

        add_file(&w, "/etc/ls/c.json", text, strlen(text), S_IFREG | 0644);
        if (load_world(&w, &c, &problems) != 0 || problems.warnings != warnings) {
                print_problems(&problems);
                fail_msg("%zu errors, %zu warnings in %s", problems.errors, problems.warnings, text);
        }
        config_problems_finish(&problems);
        return c;
}

static inline struct config *good(const char *text)
{
        return good_with(usual_world(), text, 0);
}

#endif
