/* peek.h: looks into the JSON body of a request without making a tree of it, and edits it without copying it. Pure.
 *
 * One pass over the bytes, memchr over strings: the structure of the whole is checked (one object, brackets that match, strings that
 * end, keys, colons and commas of the top level, numbers and literals there), and of the top-level members the few that the
 * gateway acts on are noted with their offsets. What lies deeper is the model server's to judge; since every valid JSON text
 * has the same top-level members here and there, and everything else is refused there, the two cannot be made to disagree.
 * Keys are compared as decoded ("mod\u0065l" is "model"), and one of ours that is there twice is refused: readers differ on which
 * one counts.
 *
 * peek_splice makes the body to be forwarded: pieces of the text that came, with members taken out or put in. */
#ifndef LSV_CORE_PEEK_H
#define LSV_CORE_PEEK_H

#include <sys/uio.h>

#include "base/slice.h"

enum peek_key {
        PEEK_MODEL,
        PEEK_STREAM,
        /* the gateway's own, never forwarded */
        PEEK_PRIORITY,
        PEEK_KEEP_ALIVE,
        PEEK_ENSEMBLE,
        /* the head of a conversation */
        PEEK_MESSAGES,
        PEEK_SYSTEM,
        PEEK_INSTRUCTIONS,
        PEEK_INPUT,
        PEEK_PROMPT,
        PEEK_INPUT_PREFIX,
        /* of POST /chat */
        PEEK_MESSAGE,
        /* of an ensemble */
        PEEK_N,
        PEEK_COMBINE,
        PEEK_MODELS,
        /* shielded */
        PEEK_N_DISCARD,
        PEEK_KEYS,
};
const char *peek_key_name(enum peek_key key);
#define PEEK_BIT(key) (1U << (key))

enum peek_type {
        PEEK_ABSENT,
        PEEK_STRING,
        PEEK_NUMBER,
        PEEK_TRUE,
        PEEK_FALSE,
        PEEK_NULL,
        PEEK_OBJECT,
        PEEK_ARRAY,
};

struct peek_value {
        enum peek_type type;
        size_t begin, end; /* of the value in the text, a string's quotes included */
};

enum {
        PEEK_DEPTH_MAX = 256,
        PEEK_MEMBERS_MAX = 1024, /* of the top level */
};

struct peek {
        struct slice text; /* the caller's */
        unsigned members;
        struct peek_value values[PEEK_KEYS];
};

struct peek_error {
        size_t offset;       /* byte where it went wrong */
        const char *message; /* static text: "expected ',' or '}'" … */
        const char *param;   /* the member at fault, NULL: none in particular */
};

/* 0, or -EBADMSG with *ret_error: not one JSON object, or broken; *ret holds what was found until then. */
int peek_scan(struct slice text, struct peek *ret, struct peek_error *ret_error);

/* The bytes of the value as they came, empty when it is absent. */
struct slice peek_raw(const struct peek *p, enum peek_key key);
/* A string value, decoded, as a C string in buf: its length. -ENOENT (absent or null), -EINVAL (another type, a broken escape, a NUL
 * in it), -ENOBUFS. */
int peek_string(const struct peek *p, enum peek_key key, char *buf, size_t size);
/* A plain whole number within the range: 0, -ENOENT (absent or null), -EINVAL. */
int peek_uint(const struct peek *p, enum peek_key key, uint64_t max, uint64_t *ret);

/* A hash of the conversation's head, so that its next turn is known again: model, system text, and the messages up to the first of
 * the user; of a plain prompt its first bytes. 0 when there is nothing of that kind. */
uint64_t peek_affinity(const struct peek *p);

/* --- editing ----------------------------------------------------------------------------------------------------- */

struct peek_edit {
        unsigned drop;      /* PEEK_BIT of those taken out */
        char *const *strip; /* names taken out, NULL-ended, may be NULL */
        const char *
                set; /* an object as JSON text whose members are put in, in place of those of the client; NULL: none */
};

struct peek_pieces {
        struct iovec *iov; /* parts of the text, of edit.set, and static bytes: valid as long as those */
        unsigned n;
        size_t len; /* in all */
        struct iovec one;
        void *memory;
};
/* 0, -ENOMEM, -EBADMSG (edit.set is no object). Nothing to be changed: one piece, the text. The pieces point into *ret, which must not
 * move. */
int peek_splice(const struct peek *p, const struct peek_edit *edit, struct peek_pieces *ret);
void peek_pieces_finish(struct peek_pieces *p);
size_t
peek_pieces_copied(const struct peek_pieces *p); /* bytes of the text that were copied: 0, or all of it */

#endif
