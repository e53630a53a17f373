/* help.c: flags out of a help text. */
#include "core/help.h"

#include <errno.h>

#include "base/macros.h"

enum { FLAGS_MAX = 2048 };

void help_finish(struct help *h)
{
        free(h->flags);
        *h = (struct help){0};
}

static int add_flag(struct help *h, const char *name, size_t len, unsigned group)
{
        struct help_flag *grown;

        if (len >= sizeof h->flags->name || h->n_flags >= FLAGS_MAX)
                return 0; /* not one that we would ever pass */
        if (h->n_flags % 64 == 0) {
                grown = reallocarray(h->flags, h->n_flags + 64, sizeof *grown);
                if (!grown)
                        return -ENOMEM;
                h->flags = grown;
        }
        h->flags[h->n_flags] = (struct help_flag){.group = group};
        memcpy(h->flags[h->n_flags].name, name, len);
        h->n_flags++;
        return 0;
}

/* One option's line: every word that begins with '-', up to the description (two spaces after a word without comma). */
static int parse_line(struct help *h, const char *line, size_t len, unsigned group)
{
        size_t i = 0;
        int r;

        while (i < len) {
                size_t start = i;

                while (i < len && line[i] != ' ' && line[i] != ',' && line[i] != '\t')
                        i++;
                if (line[start] == '-' && i - start > 1) {
                        r = add_flag(h, line + start, i - start, group);
                        if (r < 0)
                                return r;
                }
                if (i < len && line[i] == ',') {
                        i++;
                } else if (i + 1 < len && line[i] == ' ' && line[i + 1] == ' ') {
                        return 0;
                }
                while (i < len && (line[i] == ' ' || line[i] == '\t'))
                        i++;
        }
        return 0;
}

int help_parse(const char *text, struct help *ret)
{
        struct help h = {0};
        unsigned group = 0;
        bool host = false;
        int r;

        for (const char *line = text; *line;) {
                const char *nl = strchr(line, '\n');
                size_t len = nl ? (size_t)(nl - line) : strlen(line);

                if (len > 1 && line[0] == '-' && line[1] != ' ' && !starts_with(line, "-----")) {
                        r = parse_line(&h, line, len, group++);
                        if (r < 0) {
                                help_finish(&h);
                                return r;
                        }
                        host = starts_with(line, "--host ");
                }
                if (host && memmem(line, len, ".sock", 5))
                        h.unix_sockets = true;
                line += len + (nl != NULL);
        }
        if (h.n_flags == 0)
                return -EINVAL;
        *ret = h;
        return 0;
}

static const struct help_flag *find(const struct help *h, const char *flag, size_t len)
{
        for (size_t i = 0; i < h->n_flags; i++)
                if (strlen(h->flags[i].name) == len && memcmp(h->flags[i].name, flag, len) == 0)
                        return &h->flags[i];
        return NULL;
}

bool help_knows(const struct help *h, const char *flag)
{
        return find(h, flag, strlen(flag)) != NULL;
}

bool help_is_given(const struct help *h, char *const *argv, const char *flag)
{
        const struct help_flag *want = find(h, flag, strlen(flag)), *f;

        for (; argv && *argv; argv++) {
                size_t len = strcspn(*argv, "=");

                if (strlen(flag) == len && memcmp(*argv, flag, len) == 0)
                        return true;
                f = (*argv)[0] == '-' ? find(h, *argv, len) : NULL;
                if (f && want && f->group == want->group)
                        return true;
        }
        return false;
}
