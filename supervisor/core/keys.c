/* keys.c: the keys file, strictly read and written again; looking keys up; the token bucket. */
#include "core/keys.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/json_scan.h"
#include "base/text.h"
#include "core/config.h"

enum { TOKENS_MAX = 40 * KEYS_MAX, WORD_MAX = 128, TIME_TEXT_MAX = 40 };

static const char *const priority_words[KEY_PRIORITIES + 1] = {
        [KEY_PRIORITY_LOW] = "low", [KEY_PRIORITY_NORMAL] = "normal", [KEY_PRIORITY_HIGH] = "high"};

static const struct {
        const char *word;
        unsigned bit;
} scope_words[] = {{"read", CONFIG_SCOPE_READ}, {"infer", CONFIG_SCOPE_INFER}, {"admin", CONFIG_SCOPE_ADMIN}};

/* --- words -------------------------------------------------------------------------------------------------------- */

static unsigned scope_of(const char *word, size_t len)
{
        for (size_t i = 0; i < ARRAY_SIZE(scope_words); i++)
                if (strlen(scope_words[i].word) == len && memcmp(scope_words[i].word, word, len) == 0)
                        return scope_words[i].bit;
        return 0;
}

int key_scopes_parse(const char *list, unsigned *ret)
{
        unsigned scopes = 0;

        for (const char *p = list;; p++) {
                size_t n = strcspn(p, ",");
                unsigned bit = scope_of(p, n);

                if (!bit)
                        return -EINVAL;
                scopes |= bit;
                p += n;
                if (!*p)
                        break;
        }
        *ret = scopes;
        return 0;
}

char *key_scopes_text(unsigned scopes, char *buf, size_t size)
{
        size_t n = 0;

        buf[0] = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(scope_words); i++)
                if (scopes & scope_words[i].bit && n < size)
                        n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "," : "", scope_words[i].word);
        return buf;
}

int key_priority_parse(const char *word, enum key_priority *ret)
{
        for (int i = 0; i < KEY_PRIORITIES; i++)
                if (streq(priority_words[i], word)) {
                        *ret = (enum key_priority)i;
                        return 0;
                }
        return -EINVAL;
}

const char *key_priority_name(enum key_priority p)
{
        return priority_words[p];
}

/* --- the values --------------------------------------------------------------------------------------------------- */

static void key_finish(struct key *key)
{
        free(key->name);
        free(key->created);
        free(key->revoked);
}

int keys_new(struct keys **ret)
{
        struct keys *k = calloc(1, sizeof(*k));

        if (!k)
                return -ENOMEM;
        *ret = k;
        return 0;
}

struct keys *keys_free(struct keys *k)
{
        if (!k)
                return NULL;
        for (size_t i = 0; i < k->count; i++)
                key_finish(k->list + i);
        free(k->list);
        free(k);
        return NULL;
}

/* Takes the key's strings over when it succeeds. */
static int append(struct keys *k, const struct key *key)
{
        if (k->count == k->cap) {
                size_t cap = k->cap ? 2 * k->cap : 8;
                struct key *list = reallocarray(k->list, cap, sizeof(*list));

                if (!list)
                        return -ENOMEM;
                k->list = list;
                k->cap = cap;
        }
        k->list[k->count++] = *key;
        return 0;
}

const struct key *keys_by_name(const struct keys *k, const char *name)
{
        for (size_t i = 0; i < k->count; i++)
                if (!k->list[i].revoked && streq(k->list[i].name, name))
                        return k->list + i;
        return NULL;
}

size_t keys_in_force(const struct keys *k)
{
        size_t n = 0;

        for (size_t i = 0; i < k->count; i++)
                n += !k->list[i].revoked;
        return n;
}

int keys_add(struct keys *k, const struct key *key)
{
        struct key copy = *key;
        int r;

        if (keys_by_name(k, key->name))
                return -EEXIST;
        if (k->count >= KEYS_MAX)
                return -E2BIG;
        copy.name = text_dup(key->name);
        copy.created = text_dup(key->created ? key->created : "");
        copy.revoked = text_dup(key->revoked);
        r = !copy.name || !copy.created || (key->revoked && !copy.revoked) ? -ENOMEM : append(k, &copy);
        if (r < 0)
                key_finish(&copy);
        return r;
}

int keys_revoke(struct keys *k, const char *name, const char *when)
{
        bool seen = false;

        for (size_t i = 0; i < k->count; i++) {
                struct key *key = k->list + i;

                if (!streq(key->name, name))
                        continue;
                seen = true;
                if (!key->revoked)
                        return text_set(&key->revoked, when);
        }
        return seen ? -EALREADY : -ENOENT;
}

int keys_find(const struct keys *k, struct slice presented, const struct key **ret)
{
        unsigned char hash[SECRET_HASH_SIZE];
        const struct key *found = NULL;
        int r = secret_sha256(presented.p, presented.n, hash);

        if (r < 0)
                return r;
        /* No early end: how long it takes tells how many keys there are, and nothing else. */
        for (size_t i = 0; i < k->count; i++)
                found = secret_equal(k->list[i].hash, hash, sizeof(hash)) ? k->list + i : found;
        if (!found)
                return -ENOKEY;
        *ret = found;
        return found->revoked ? -EKEYREVOKED : 0;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct reader {
        struct json_scan scan;
        const char *text;
        struct keys_problem *problem;
};

static int complain(struct reader *r, size_t token, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int complain(struct reader *r, size_t token, const char *fmt, ...)
{
        va_list ap;

        json_position(r->text, r->scan.tokens[token].start, &r->problem->line, &r->problem->column);
        va_start(ap, fmt);
        (void)vsnprintf(r->problem->message, sizeof(r->problem->message), fmt, ap);
        va_end(ap);
        return -EBADMSG;
}

/* A short string; longer ones are no value of ours. */
static int take_word(struct reader *r, size_t token, const char *what, size_t max, char *buf)
{
        const struct json_token *t = r->scan.tokens + token;

        if (t->type != JSON_STRING)
                return complain(r, token, "%s is a string", what);
        if (t->end - t->start > max || t->end - t->start > WORD_MAX)
                return complain(r, token, "%s is too long", what);
        if (json_scan_string(&r->scan, token, buf) != strlen(buf))
                return complain(r, token, "%s holds a NUL", what);
        return 0;
}

static int take_number(struct reader *r, size_t token, const char *what, unsigned max, unsigned *ret)
{
        const struct json_token *t = r->scan.tokens + token;
        uint64_t v = 0;
        uint32_t i = t->start;

        for (; t->type == JSON_NUMBER && i < t->end && i - t->start < 9; i++) {
                if (r->text[i] < '0' || r->text[i] > '9')
                        break;
                v = v * 10 + (unsigned)(r->text[i] - '0');
        }
        if (t->type != JSON_NUMBER || i < t->end || v > max)
                return complain(r, token, "%s is a whole number from 0 (no bound) to %u", what, max);
        *ret = (unsigned)v;
        return 0;
}

static int take_scopes(struct reader *r, size_t token, unsigned *ret)
{
        const struct json_token *t = r->scan.tokens + token;
        char word[WORD_MAX + 1];
        unsigned scopes = 0;
        int e;

        if (t->type != JSON_ARRAY || t->count == 0)
                return complain(r, token,
                                "scopes is a list of \"read\", \"infer\" and \"admin\", one at least");
        for (size_t i = token + 1; i < t->next; i = r->scan.tokens[i].next) {
                unsigned bit;

                e = take_word(r, i, "a scope", WORD_MAX, word);
                if (e < 0)
                        return e;
                bit = scope_of(word, strlen(word));
                if (!bit)
                        return complain(r, i, "a scope is \"read\", \"infer\" or \"admin\"");
                scopes |= bit;
        }
        *ret = scopes;
        return 0;
}

static int take_hash(struct reader *r, size_t token, unsigned char *ret)
{
        const struct json_token *t = r->scan.tokens + token;
        char word[WORD_MAX + 1];
        int e = take_word(r, token, "sha256", WORD_MAX, word);

        if (e < 0)
                return e;
        if (starts_with(word, KEY_PREFIX))
                return complain(r, token,
                                "sha256 is the hash of the key, not the key itself: make a new one with "
                                "`llama-supervisor key add`");
        if (t->end - t->start < 2 || secret_from_hex(word, strlen(word), ret) < 0)
                return complain(r, token, "sha256 is 64 hexadecimal digits");
        return 0;
}

static int take_time(struct reader *r, size_t token, const char *what, char **ret)
{
        char word[WORD_MAX + 1];
        int e = take_word(r, token, what, TIME_TEXT_MAX, word);

        if (e < 0)
                return e;
        if (!*word || strspn(word, "0123456789TZ:.+-") != strlen(word))
                return complain(r, token, "%s is a time: \"2026-11-20T10:00:00Z\"", what);
        return text_set(ret, word);
}

static int take_name(struct reader *r, size_t token, char **ret)
{
        char word[WORD_MAX + 1];
        int e = take_word(r, token, "name", WORD_MAX, word);

        if (e < 0)
                return e;
        if (!text_is_name(word))
                return complain(r, token,
                                "name is 1 to 63 of letters, digits, '.', '_' and '-', beginning with a "
                                "letter or digit");
        return text_set(ret, word);
}

static int take_priority(struct reader *r, size_t token, enum key_priority *ret)
{
        char word[WORD_MAX + 1];
        int e = take_word(r, token, "priority", WORD_MAX, word);

        if (e < 0)
                return e;
        if (key_priority_parse(word, ret) < 0)
                return complain(r, token, "priority is \"low\", \"normal\" or \"high\"");
        return 0;
}

static const char *const members[] = {"name",        "sha256",  "scopes",  "priority", "rate",
                                      "concurrency", "created", "revoked", NULL};
enum { SEEN_NAME = 1, SEEN_HASH = 2, SEEN_SCOPES = 4 };

static int take_member(struct reader *r, size_t at, struct key *key, unsigned *seen)
{
        char name[WORD_MAX + 1];
        const char *nearest;
        size_t value = at + 1;

        if (r->scan.tokens[at].end - r->scan.tokens[at].start > WORD_MAX)
                return complain(r, at, "unknown member");
        (void)json_scan_string(&r->scan, at, name);
        if (streq(name, "name")) {
                *seen |= SEEN_NAME;
                return take_name(r, value, &key->name);
        }
        if (streq(name, "sha256")) {
                *seen |= SEEN_HASH;
                return take_hash(r, value, key->hash);
        }
        if (streq(name, "scopes")) {
                *seen |= SEEN_SCOPES;
                return take_scopes(r, value, &key->scopes);
        }
        if (streq(name, "priority"))
                return take_priority(r, value, &key->priority);
        if (streq(name, "rate"))
                return take_number(r, value, "rate (requests a minute)", KEY_RATE_MAX, &key->rate);
        if (streq(name, "concurrency"))
                return take_number(r, value, "concurrency (requests at once)", KEY_CONCURRENCY_MAX,
                                   &key->concurrency);
        if (streq(name, "created"))
                return take_time(r, value, "created", &key->created);
        if (streq(name, "revoked"))
                return take_time(r, value, "revoked", &key->revoked);
        nearest = text_nearest(name, members);
        (void)text_harmless(name);
        if (nearest)
                return complain(r, at, "unknown member \"%s\": did you mean \"%s\"?", name, nearest);
        return complain(r, at, "unknown member \"%s\"", name);
}

static int check_unique(struct reader *r, const struct keys *k, size_t token, const struct key *key)
{
        for (size_t i = 0; i < k->count; i++) {
                const struct key *other = k->list + i;

                if (!key->revoked && !other->revoked && streq(key->name, other->name))
                        return complain(r, token, "there is a key \"%s\" already, in line %u", key->name,
                                        other->line);
                if (secret_equal(key->hash, other->hash, sizeof(key->hash)))
                        return complain(r, token, "\"%s\" is the same key as \"%s\" in line %u", key->name,
                                        other->name, other->line);
        }
        return 0;
}

static int take_key(struct reader *r, size_t token, struct keys *k)
{
        const struct json_token *t = r->scan.tokens + token;
        struct key key = {.priority = KEY_PRIORITY_NORMAL};
        unsigned seen = 0;
        int e = 0;

        if (t->type != JSON_OBJECT)
                return complain(r, token,
                                "a key is an object: {\"name\": …, \"sha256\": …, \"scopes\": […]}");
        for (size_t i = token + 1; i < t->next && e == 0; i = r->scan.tokens[i + 1].next)
                e = take_member(r, i, &key, &seen);
        if (e == 0 && seen != (SEEN_NAME | SEEN_HASH | SEEN_SCOPES))
                e = complain(r, token, "this key has no \"%s\"",
                             !(seen & SEEN_NAME)   ? "name"
                             : !(seen & SEEN_HASH) ? "sha256"
                                                   : "scopes");
        if (e == 0 && !key.created)
                e = text_set(&key.created, "");
        json_position(r->text, t->start, &key.line, &key.column);
        if (e == 0)
                e = check_unique(r, k, token, &key);
        if (e == 0)
                e = append(k, &key);
        if (e < 0)
                key_finish(&key);
        return e;
}

static int take_all(struct reader *r, struct keys *k)
{
        const struct json_token *t = r->scan.tokens;
        char name[8];
        int e;

        if (t->type != JSON_OBJECT || t->count != 1 || t[1].end - t[1].start != strlen("\"keys\"") ||
            json_scan_string(&r->scan, 1, name) != 4 || !streq(name, "keys") || t[2].type != JSON_ARRAY)
                return complain(r, 0, "a keys file is one object: {\"keys\": […]}");
        if (t[2].count > KEYS_MAX)
                return complain(r, 2, "at most %d keys are kept: remove entries that were revoked", KEYS_MAX);
        for (size_t i = 3; i < t[2].next; i = t[i].next) {
                e = take_key(r, i, k);
                if (e < 0)
                        return e;
        }
        return 0;
}

int keys_load(const char *text, size_t len, struct keys **ret, struct keys_problem *ret_problem)
{
        struct reader r = {.text = text, .problem = ret_problem};
        struct json_error error;
        struct keys *k;
        int e;

        *ret_problem = (struct keys_problem){0};
        e = keys_new(&k);
        if (e < 0)
                return e;
        e = json_scan(&r.scan, text, len, 0, TOKENS_MAX, &error);
        if (e == -EBADMSG) {
                json_position(text, error.offset, &ret_problem->line, &ret_problem->column);
                (void)snprintf(ret_problem->message, sizeof(ret_problem->message), "%s", error.message);
        }
        if (e == 0)
                e = take_all(&r, k);
        json_scan_finish(&r.scan);
        if (e < 0) {
                keys_free(k);
                return e;
        }
        *ret = k;
        return 0;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static void put_key(const struct key *key, struct buffer *out)
{
        char hex[SECRET_HEX_SIZE];
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "name", key->name);
        json_string(&w, "sha256", secret_hex(key->hash, hex));
        json_key(&w, "scopes");
        json_open_array(&w);
        for (size_t i = 0; i < ARRAY_SIZE(scope_words); i++)
                if (key->scopes & scope_words[i].bit)
                        json_put_string(&w, scope_words[i].word);
        json_close_array(&w);
        json_string(&w, "priority", key_priority_name(key->priority));
        json_uint(&w, "rate", key->rate);
        json_uint(&w, "concurrency", key->concurrency);
        if (*key->created)
                json_string(&w, "created", key->created);
        if (key->revoked)
                json_string(&w, "revoked", key->revoked);
        json_close_object(&w);
}

void keys_put(const struct keys *k, struct buffer *out)
{
        (void)buffer_puts(out, "{\"keys\": [");
        for (size_t i = 0; i < k->count; i++) {
                (void)buffer_puts(out, i ? ",\n  " : "\n  ");
                put_key(k->list + i, out);
        }
        (void)buffer_puts(out, k->count ? "\n]}\n" : "]}\n");
}

/* --- keys themselves ---------------------------------------------------------------------------------------------- */

char *key_text(const unsigned char random[KEY_RANDOM_SIZE], char buf[KEY_TEXT_SIZE])
{
        memcpy(buf, KEY_PREFIX, sizeof(KEY_PREFIX));
        (void)secret_base64url(random, KEY_RANDOM_SIZE, buf + strlen(KEY_PREFIX));
        return buf;
}

bool key_is_text(struct slice s)
{
        unsigned char bytes[KEY_RANDOM_SIZE];
        size_t prefix = strlen(KEY_PREFIX);
        bool is = s.n == KEY_TEXT_SIZE - 1 && slice_starts_with(s, SLICE(KEY_PREFIX)) &&
                  secret_from_base64url(s.p + prefix, s.n - prefix, bytes, sizeof(bytes)) == KEY_RANDOM_SIZE;

        secret_forget(bytes, sizeof(bytes));
        return is;
}

/* --- rates -------------------------------------------------------------------------------------------------------- */

usec_t token_bucket_take(struct token_bucket *b, unsigned rate, usec_t now)
{
        usec_t each, paid;

        if (rate == 0)
                return 0;
        each = USEC_PER_MIN / rate;
        paid = MAX(b->paid_until, now);
        /* What is taken ahead is at most a whole bucket, a minute's worth. */
        if (paid + each > now + each * rate)
                return paid + each - (now + each * rate);
        b->paid_until = paid + each;
        return 0;
}
