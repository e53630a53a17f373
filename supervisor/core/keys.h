/* keys.h: the API keys as values: the file that holds their hashes, who a presented key belongs to, and the rate of one. Pure.
 *
 * A key is "lsv_" and 256 random bits in base64url. It is shown once, when it is made, and only its SHA-256 is kept: with so
 * many random bits a salt or a slow hash would add nothing. The file (JSON, strict: unknown members, duplicate
 * names and hashes are errors, each with line and column):
 *
 *     {"keys": [
 *       {"name": "web", "sha256": "…64 digits…", "scopes": ["read", "infer"], "priority": "normal",
 *        "rate": 0, "concurrency": 0, "created": "2026-11-20T10:00:00Z"},
 *       {"name": "old", "sha256": "…", "scopes": ["infer"], "created": "…", "revoked": "2026-11-21T09:00:00Z"}
 *     ]}
 *
 * name, sha256 and scopes are needed. Names of keys in force are unique; a revoked one stays listed, and its name may be used
 * again. At most KEYS_MAX entries. */
#ifndef LSV_CORE_KEYS_H
#define LSV_CORE_KEYS_H

#include "base/buffer.h"
#include "base/secret.h"
#include "base/slice.h"
#include "base/time.h"

#define KEY_PREFIX "lsv_"
enum {
        KEY_RANDOM_SIZE = 32,
        KEY_TEXT_SIZE = 4 + 43 + 1, /* with its NUL */
        KEYS_MAX = 1000,
        KEYS_FILE_MAX = 1024 * 1024, /* bytes */
        KEY_RATE_MAX = 1000000,
        KEY_CONCURRENCY_MAX = 100000,
        KEY_WHY_MAX = 256,
};

enum key_priority {
        KEY_PRIORITY_LOW,
        KEY_PRIORITY_NORMAL,
        KEY_PRIORITY_HIGH,
        KEY_PRIORITIES,
};

struct key {
        char *name; /* text_is_name */
        unsigned char hash[SECRET_HASH_SIZE];
        unsigned scopes; /* bits of enum config_scope, at least one */
        enum key_priority priority;
        unsigned rate;         /* requests a minute, 0: no bound */
        unsigned concurrency;  /* requests at once, 0: no bound */
        char *created;         /* as written, "" when it was not */
        char *revoked;         /* as written; NULL: it is in force */
        unsigned line, column; /* where it stands in the file, for messages; 0 when it was just made */
};

struct keys {
        struct key *list;
        size_t count, cap;
};

struct keys_problem {
        unsigned line, column;
        char message[KEY_WHY_MAX];
};

/* 0; -EBADMSG with *ret_problem; -ENOMEM. An empty text is an error: a file without keys says {"keys": []}. */
int keys_load(const char *text, size_t len, struct keys **ret, struct keys_problem *ret_problem);
int keys_new(struct keys **ret);
struct keys *keys_free(struct keys *k); /* NULL is fine, always NULL */
/* The file's text, one key a line. */
void keys_put(const struct keys *k, struct buffer *out);

/* Whose the presented text is. All hashes are compared, whichever is the right one. 0; -EKEYREVOKED (*ret is set, too);
 * -ENOKEY: nobody's; -ENOMEM. */
int keys_find(const struct keys *k, struct slice presented, const struct key **ret);
const struct key *keys_by_name(const struct keys *k, const char *name); /* in force, or NULL */
size_t keys_in_force(const struct keys *k);

/* A copy of `key` (whose strings stay the caller's) comes last. 0; -EEXIST: the name is taken; -E2BIG: KEYS_MAX; -ENOMEM. */
int keys_add(struct keys *k, const struct key *key);
/* when: as it is to be written. 0; -ENOENT; -EALREADY: all of that name are revoked; -ENOMEM. */
int keys_revoke(struct keys *k, const char *name, const char *when);

/* "lsv_…" out of KEY_RANDOM_SIZE random bytes; returns buf. */
char *key_text(const unsigned char random[KEY_RANDOM_SIZE], char buf[KEY_TEXT_SIZE]);
/* Has it the form of a key? (For messages: what has not was never one of ours.) */
bool key_is_text(struct slice s);

/* "read" → the bit, "high" → the value; -EINVAL. "read,infer" → bits, -EINVAL also for an empty list. */
int key_scopes_parse(const char *list, unsigned *ret);
int key_priority_parse(const char *word, enum key_priority *ret);
const char *key_priority_name(enum key_priority p);
/* "read,infer" into buf (24 bytes are enough); returns buf. */
char *key_scopes_text(unsigned scopes, char *buf, size_t size);

/* --- rates ------------------------------------------------------------------------------------------------------ */

/* A bucket of `rate` tokens that refills evenly, `rate` a minute; it begins full. Zeroed is full. */
struct token_bucket {
        usec_t paid_until; /* all taken tokens are paid for at this time (GCRA: ITU-T I.371, "virtual scheduling") */
};
/* Takes one token: 0, or how long to wait until there is one. rate 0: always 0. The rate may change between calls. */
usec_t token_bucket_take(struct token_bucket *b, unsigned rate, usec_t now);

#endif
