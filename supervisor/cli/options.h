/* options.h: a verb's arguments taken apart by its table of options; pure.
 *
 * "--name VALUE", "--name=VALUE", "-n VALUE", "-nVALUE", switches in one word ("-fn5"), "--" ends the options; options and
 * plain arguments may be mixed. An option given twice keeps the last value. The strings are argv's. */
#ifndef LSV_CLI_OPTIONS_H
#define LSV_CLI_OPTIONS_H

#include "base/buffer.h"

struct option_spec {
        const char *name;  /* "follow": --follow; NULL ends a table */
        char letter;       /* 'f': -f; 0: none */
        const char *value; /* what stands for its value in the help ("N"); NULL: a switch */
        const char *doc;   /* one line, no full stop */
};

enum { OPTIONS_TABLES = 2, OPTIONS_GIVEN_MAX = 32, OPTIONS_PLAIN_MAX = 1024 };

struct options {
        const struct option_spec
                *tables[OPTIONS_TABLES]; /* the verb's, then those of every verb; either may be NULL */
        struct {
                const struct option_spec *spec;
                const char *value; /* "" for a switch */
        } given[OPTIONS_GIVEN_MAX];
        size_t n_given;
        const char *plain[OPTIONS_PLAIN_MAX]; /* what is no option */
        size_t n_plain;
};

/* Reads args[0..n). stop_at_plain: the first plain argument ends it (it and all behind it are left alone).
 * The number of args used (n, or the index of that plain one), or -EINVAL with a sentence in *error. */
int options_parse(struct options *o, char *const *args, size_t n, bool stop_at_plain, struct buffer *error);
/* The value of an option, "" for a switch, NULL when it was not given. */
const char *options_get(const struct options *o, const char *name);

#endif
