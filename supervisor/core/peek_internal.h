/* peek_internal.h: the walk over the members of an object, for peek.c and peek_splice.c alone. */
#ifndef LSV_CORE_PEEK_INTERNAL_H
#define LSV_CORE_PEEK_INTERNAL_H

#include "core/peek.h"

struct peek_cursor {
        const char *text;
        size_t at, len;
        const char *error; /* after -EBADMSG: what is wrong at `at` */
};

struct peek_member {
        size_t begin;     /* the key's quote */
        struct slice key; /* as it stands between its quotes */
        struct peek_value value;
};

/* The byte ahead, NUL at the end. */
static inline char peek_look(const struct peek_cursor *c)
{
        return c->at < c->len ? c->text[c->at] : '\0';
}
static inline void peek_skip_space(struct peek_cursor *c)
{
        while (c->at < c->len && (c->text[c->at] == ' ' || c->text[c->at] == '\n' || c->text[c->at] == '\r' ||
                                  c->text[c->at] == '\t'))
                c->at++;
}
/* Behind the opening bracket or the last member. 1: *ret is the next; 0: the object has ended; -EBADMSG. */
int peek_next(struct peek_cursor *c, bool first, struct peek_member *ret);

bool peek_has_escape(struct slice s);
/* The string whose quotes stand around s, decoded: malloc'd, *ret_len without the NUL. -EINVAL (broken), -ENOMEM. */
int peek_decode(struct slice s, char **ret, size_t *ret_len);
enum peek_key peek_key_of(struct slice decoded); /* PEEK_KEYS: none of ours */

#endif
