/* options.c: argv against tables of options. */
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"

enum { NAMES_MAX = 64 };

static const struct option_spec *find(const struct options *o, const char *name, size_t len, char letter)
{
        for (size_t t = 0; t < OPTIONS_TABLES; t++)
                for (const struct option_spec *s = o->tables[t]; s && s->name; s++)
                        if (letter ? s->letter == letter
                                   : strlen(s->name) == len && memcmp(s->name, name, len) == 0)
                                return s;
        return NULL;
}

static int unknown_long(const struct options *o, const char *name, size_t len, struct buffer *error)
{
        const char *names[NAMES_MAX], *nearest;
        char word[NAMES_MAX];
        size_t n = 0;

        for (size_t t = 0; t < OPTIONS_TABLES; t++)
                for (const struct option_spec *s = o->tables[t]; s && s->name && n < NAMES_MAX - 1; s++)
                        names[n++] = s->name;
        names[n] = NULL;
        (void)snprintf(word, sizeof(word), "%.*s", (int)MIN(len, sizeof(word)), name);
        nearest = text_nearest(word, names);
        (void)buffer_printf(error, "unknown option --%.*s", (int)len, name);
        if (nearest)
                (void)buffer_printf(error, "; did you mean --%s?", nearest);
        return -EINVAL;
}

static int keep(struct options *o, const struct option_spec *spec, const char *value, struct buffer *error)
{
        if (o->n_given == OPTIONS_GIVEN_MAX) {
                (void)buffer_printf(error, "too many options");
                return -EINVAL;
        }
        o->given[o->n_given].spec = spec;
        o->given[o->n_given++].value = value;
        return 0;
}

/* args[i] is "--name" or "--name=value"; returns how many arguments it took. */
static int parse_long(struct options *o, char *const *args, size_t left, struct buffer *error)
{
        const char *name = args[0] + 2, *value = strchr(name, '=');
        size_t len = value ? (size_t)(value - name) : strlen(name);
        const struct option_spec *spec = find(o, name, len, 0);

        if (!spec)
                return unknown_long(o, name, len, error);
        if (!spec->value) {
                if (!value)
                        return keep(o, spec, "", error) < 0 ? -EINVAL : 1;
                (void)buffer_printf(error, "--%s takes no value", spec->name);
                return -EINVAL;
        }
        if (value)
                return keep(o, spec, value + 1, error) < 0 ? -EINVAL : 1;
        if (left < 2) {
                (void)buffer_printf(error, "--%s needs a value: --%s %s", spec->name, spec->name,
                                    spec->value);
                return -EINVAL;
        }
        return keep(o, spec, args[1], error) < 0 ? -EINVAL : 2;
}

/* args[i] is "-abc": switches, and at the end perhaps one with a value. */
static int parse_short(struct options *o, char *const *args, size_t left, struct buffer *error)
{
        for (const char *p = args[0] + 1; *p; p++) {
                const struct option_spec *spec = find(o, NULL, 0, *p);

                if (!spec) {
                        (void)buffer_printf(error, "unknown option -%c", *p);
                        return -EINVAL;
                }
                if (!spec->value) {
                        if (keep(o, spec, "", error) < 0)
                                return -EINVAL;
                        continue;
                }
                if (p[1])
                        return keep(o, spec, p + 1, error) < 0 ? -EINVAL : 1;
                if (left < 2) {
                        (void)buffer_printf(error, "-%c needs a value: -%c %s", *p, *p, spec->value);
                        return -EINVAL;
                }
                return keep(o, spec, args[1], error) < 0 ? -EINVAL : 2;
        }
        return 1;
}

int options_parse(struct options *o, char *const *args, size_t n, bool stop_at_plain, struct buffer *error)
{
        bool ended = false;
        size_t i = 0;
        int r;

        while (i < n) {
                const char *arg = args[i];

                if (!ended && streq(arg, "--")) {
                        ended = true;
                        i++;
                        continue;
                }
                if (ended || arg[0] != '-' || !arg[1]) {
                        if (stop_at_plain)
                                break;
                        if (o->n_plain == OPTIONS_PLAIN_MAX) {
                                (void)buffer_printf(error, "too many arguments");
                                return -EINVAL;
                        }
                        o->plain[o->n_plain++] = arg;
                        i++;
                        continue;
                }
                r = arg[1] == '-' ? parse_long(o, args + i, n - i, error)
                                  : parse_short(o, args + i, n - i, error);
                if (r < 0)
                        return r;
                i += (size_t)r;
        }
        return (int)i;
}

const char *options_get(const struct options *o, const char *name)
{
        for (size_t i = o->n_given; i > 0; i--)
                if (streq(o->given[i - 1].spec->name, name))
                        return o->given[i - 1].value;
        return NULL;
}
