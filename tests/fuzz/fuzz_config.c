/* fuzz_config.c: any text as a configuration. What stands behind "\n@@\n" is a file of the include directory. Whatever loads can
 * be printed and compared with itself, and whatever does not has said why. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
        const char *text, *included;
        size_t len, included_len;
};

static int give(const char *text, size_t len, size_t max, char **ret, size_t *ret_len)
{
        char *copy;

        if (len > max)
                return -EFBIG;
        copy = malloc(len + 1);
        if (!copy)
                return -ENOMEM;
        if (len)
                memcpy(copy, text, len);
        copy[len] = '\0';
        *ret = copy;
        *ret_len = len;
        return 0;
}

static int fuzz_read(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        const struct input *in = owner;

        if (streq(path, "main"))
                return give(in->text, in->len, max, ret, ret_len);
        if (ends_with(path, "/more.json"))
                return give(in->included, in->included_len, max, ret, ret_len);
        if (ends_with(path, ".key"))
                return give(" key\n", 5, max, ret, ret_len);
        return -ENOENT;
}

static int fuzz_stat(void *owner, const char *path, struct file_facts *ret)
{
        (void)owner;
        *ret = (struct file_facts){.mode = S_IFREG | 0644, .size = strlen(path)};
        return ends_with(path, "y") ? 0 : -ENOENT;
}

static int fuzz_list(void *owner, const char *dir, const char *suffix, size_t max, char ***ret)
{
        const struct input *in = owner;
        char **names = NULL;

        (void)dir;
        (void)suffix;
        (void)max;
        if (!in->included)
                return -ENOENT;
        if (text_list_add(&names, "more.json") < 0)
                return -ENOMEM;
        *ret = names;
        return 0;
}

static const char *fuzz_get(void *owner, const char *name)
{
        (void)owner;
        return streq(name, "HOME") ? "/home/u" : streq(name, "A") ? "b" : NULL;
}

static void use(const struct config *c)
{
        char digest[CONFIG_DIGEST_MAX], *text = config_print(c);

        if (!text)
                abort();
        free(text);
        for (size_t i = 0; i < c->n_instances; i++) {
                const struct config_instance *in = c->instances + i;

                if (!in->name || !config_find(c, in->name) || !config_instance_same(in, in) ||
                    config_instance_needs_restart(in, in) || strlen(config_instance_digest(in, digest)) != 16)
                        abort();
                if (!in->adopt && !in->model_path)
                        abort();
        }
}

static void check_problems(const struct config_problems *p, int r)
{
        if ((r < 0) != (p->errors > 0) || p->count > CONFIG_PROBLEMS_MAX)
                abort();
        for (size_t i = 0; i < p->count; i++) {
                char *line = config_problem_text(p->list + i);

                if (!line || p->list[i].line == 0 || p->list[i].column == 0)
                        abort();
                free(line);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct input in = {.text = (const char *)data, .len = size};
        const struct file_ops files = {.read = fuzz_read, .stat = fuzz_stat, .list = fuzz_list, .owner = &in};
        const struct config_env env = {.files = &files, .get = fuzz_get, .cwd = "/etc", .is_root = true};
        const char *more = size ? memmem(data, size, "\n@@\n", 4) : NULL;
        struct config_problems problems;
        struct config *c = NULL;
        int r;

        if (more) {
                in.len = (size_t)(more - in.text);
                in.included = more + 4;
                in.included_len = size - in.len - 4;
        }
        r = config_load("main", &env, &c, &problems);
        if (r != 0 && r != -EBADMSG)
                abort();
        check_problems(&problems, r);
        if (r == 0)
                use(c);
        config_problems_finish(&problems);
        config_free(c);
        return 0;
}
