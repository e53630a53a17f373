/* help.h: which flags a llama-server binary knows, read out of its `--help`. Pure.
 * Form (measured, b11669): an option's line begins in column 0 with "-", its spellings separated by commas, then two or more
 * spaces before the description; continuation lines are indented. */
#ifndef LSV_CORE_HELP_H
#define LSV_CORE_HELP_H

#include <stdbool.h>
#include <stddef.h>

struct help {
        struct help_flag {
                char name[40];
                unsigned group; /* spellings of one option share it */
        } * flags;
        size_t n_flags;
        bool unix_sockets; /* --host takes a path that ends in .sock */
};

/* 0; -EINVAL when the text holds not one flag; -ENOMEM. */
int help_parse(const char *text, struct help *ret);
void help_finish(struct help *h);

bool help_knows(const struct help *h, const char *flag);
/* True when some element of argv is `flag` or another spelling of it ("-t" for "--threads"; "--x=1" counts as "--x"). */
bool help_is_given(const struct help *h, char *const *argv, const char *flag);

#endif
