/* config_expand.c: ${VAR} in strings, and paths that start somewhere. */
#include "core/config_internal.h"

#include <ctype.h>
#include <errno.h>

#include "base/text.h"

/* The length of a variable's name at s, 0 when there is none. */
static size_t name_length(const char *s)
{
        size_t n = 0;

        if (!isalpha((unsigned char)s[0]) && s[0] != '_')
                return 0;
        while (isalnum((unsigned char)s[n]) || s[n] == '_')
                n++;
        return n;
}

int config_expand(const struct config_env *env, const char *s, char **ret, char **ret_name)
{
        _cleanup_buffer_ struct buffer out;
        const char *value;
        size_t n;

        buffer_init(&out, CONFIG_FILE_MAX);
        (void)buffer_puts(&out, "");
        while (*s) {
                n = strcspn(s, "$");
                (void)buffer_append(&out, s, n);
                s += n;
                if (starts_with(s, "$${")) {
                        (void)buffer_puts(&out, "${");
                        s += 3;
                } else if (starts_with(s, "${")) {
                        _cleanup_free_ char *name = NULL;

                        n = name_length(s + 2);
                        if (n == 0 || s[2 + n] != '}')
                                return -EINVAL;
                        name = strndup(s + 2, n);
                        if (!name)
                                return -ENOMEM;
                        value = env->get ? env->get(env->owner, name) : NULL;
                        if (!value) {
                                *ret_name = steal_ptr(name);
                                return -ENOENT;
                        }
                        (void)buffer_puts(&out, value);
                        s += n + 3;
                } else if (*s) {
                        (void)buffer_putc(&out, *s++);
                }
        }
        if (out.failed)
                return -ENOMEM;
        *ret = buffer_steal(&out);
        return *ret ? 0 : -ENOMEM;
}

char *config_path_join(const char *dir, const char *path)
{
        char *joined = path[0] == '/' ? strdup(path) : text_format("%s/%s", dir, path);
        char *out = joined;

        if (!joined)
                return NULL;
        for (const char *p = joined; *p;) {
                if (p[0] == '/' && p[1] == '/')
                        p++;
                else if (p[0] == '/' && p[1] == '.' && (p[2] == '/' || p[2] == '\0'))
                        p += 2;
                else
                        *out++ = *p++;
        }
        /* "/" itself stays; "/a/" becomes "/a". */
        while (out > joined + 1 && out[-1] == '/')
                out--;
        if (out == joined)
                *out++ = '/';
        *out = '\0';
        return joined;
}
