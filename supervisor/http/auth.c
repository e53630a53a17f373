/* auth.c: keys against requests; accounts; the keys file as it changes. */
#include "http/auth.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/list.h"
#include "base/log.h"
#include "base/text.h"
#include "net/filewatch.h"

enum { ID_CONTROL, ID_ANONYMOUS, ID_FIRST, MARK_SHIFT = 3 };
enum { SCOPES_ALL = CONFIG_SCOPE_READ | CONFIG_SCOPE_INFER | CONFIG_SCOPE_ADMIN };
_Static_assert(SCOPES_ALL < 1 << MARK_SHIFT, "a mark has room for the scope");

static const usec_t LOG_INTERVAL = USEC_PER_SEC;

/* What one key has under way. It outlives the key as long as something of it runs. */
struct auth_account {
        struct list node; /* in auth.accounts, while its key is in force */
        char *name;
        unsigned char hash[SECRET_HASH_SIZE];
        unsigned scopes, rate, concurrency;
        enum key_priority priority;
        uint64_t id;
        struct token_bucket bucket;
        unsigned running;
        bool in_force, seen; /* seen: while the file is compared with the accounts */
};

struct auth {
        struct loop *loop;
        struct auth_events events;
        void *owner;
        char *path;        /* NULL: no keys at all */
        struct keys *keys; /* NULL: the same */
        struct filewatch *watch;
        struct list accounts;
        unsigned anonymous;
        uint64_t next_id;
        struct auth_counts counts;
        usec_t told; /* when wrong keys were last logged */
        uint64_t wrong;
        bool complained;
};

/* --- accounts ------------------------------------------------------------------------------------------------------- */

static void account_release(struct auth_account *c)
{
        if (c->in_force || c->running)
                return;
        free(c->name);
        free(c);
}

static struct auth_account *account_of(struct auth *a, const unsigned char hash[SECRET_HASH_SIZE])
{
        LIST_FOREACH(&a->accounts, it)
        {
                struct auth_account *c = LIST_ENTRY(it, struct auth_account, node);

                if (memcmp(c->hash, hash, SECRET_HASH_SIZE) == 0)
                        return c;
        }
        return NULL;
}

static void tell_lost(struct auth *a, uint64_t id, unsigned lost)
{
        for (unsigned bit = 1; bit <= SCOPES_ALL; bit <<= 1)
                if (lost & bit && a->events.on_revoked)
                        a->events.on_revoked(a->owner, id << MARK_SHIFT | bit);
}

/* Accounts for the keys that have none yet, so that nothing can fail later. */
static int make_accounts(struct auth *a, const struct keys *k)
{
        for (size_t i = 0; i < k->count; i++) {
                const struct key *key = k->list + i;
                struct auth_account *c;

                if (key->revoked || account_of(a, key->hash))
                        continue;
                c = calloc(1, sizeof(*c));
                if (!c)
                        return -ENOMEM;
                c->name = text_dup(key->name);
                if (!c->name) {
                        free(c);
                        return -ENOMEM;
                }
                memcpy(c->hash, key->hash, sizeof(c->hash));
                c->id = a->next_id++;
                c->in_force = true;
                list_append(&a->accounts, &c->node);
        }
        return 0;
}

static void update_account(struct auth *a, struct auth_account *c, const struct key *key)
{
        unsigned lost = c->scopes & ~key->scopes;

        c->seen = true;
        /* A key that was only given another name goes on; a running request keeps the name it began with. */
        if (!streq(c->name, key->name) && !c->running)
                (void)text_set(&c->name, key->name);
        c->scopes = key->scopes;
        c->rate = key->rate;
        c->concurrency = key->concurrency;
        c->priority = key->priority;
        tell_lost(a, c->id, lost);
}

static void drop_account(struct auth *a, struct auth_account *c)
{
        unsigned lost = c->scopes;

        list_remove(&c->node);
        c->scopes = 0;
        tell_lost(a, c->id, lost);
        c->in_force = false;
        account_release(c);
}

static void drop_unseen(struct auth *a)
{
        struct list *next;

        for (struct list *it = a->accounts.next; it != &a->accounts; it = next) {
                struct auth_account *c = LIST_ENTRY(it, struct auth_account, node);

                next = it->next;
                if (!c->seen)
                        drop_account(a, c);
                else
                        c->seen = false;
        }
}

static int take_keys(struct auth *a, struct keys *k)
{
        int r = k ? make_accounts(a, k) : 0;

        if (r < 0) {
                keys_free(k);
                return r;
        }
        keys_free(a->keys);
        a->keys = k;
        for (size_t i = 0; k && i < k->count; i++)
                if (!k->list[i].revoked)
                        update_account(a, account_of(a, k->list[i].hash), k->list + i);
        drop_unseen(a);
        return 0;
}

/* --- the file --------------------------------------------------------------------------------------------------------- */

static int complain(char **ret_error, int r, const char *path, const char *why)
{
        *ret_error = text_format("%s: %s", path, why);
        return r;
}

static int check_mode(const char *path, char **ret_error)
{
        struct file_facts facts;

        if (file_stat(path, &facts) < 0 || !S_ISREG(facts.mode) || !(facts.mode & 07))
                return 0;
        *ret_error = text_format("%s: everybody on this machine can %s it (mode %04o): chmod 640 it", path,
                                 facts.mode & 02 ? "change" : "read", facts.mode & 07777U);
        return -EPERM;
}

static int read_keys(const char *path, struct keys **ret, char **ret_error)
{
        _cleanup_free_ char *text = NULL;
        struct keys_problem problem;
        size_t len = 0;
        int r = file_read(path, KEYS_FILE_MAX, &text, &len);

        if (r == -ENOENT)
                return keys_new(ret);
        if (r < 0)
                return complain(ret_error, r, path, strerror(-r));
        r = check_mode(path, ret_error);
        if (r < 0)
                return r;
        r = keys_load(text, len, ret, &problem);
        if (r == -EBADMSG)
                *ret_error = text_format("%s:%u:%u: %s", path, problem.line, problem.column, problem.message);
        return r;
}

static void tell(struct auth *a, const char *kind, const char *text)
{
        if (a->events.on_event && text)
                a->events.on_event(a->owner, kind, text);
}

static void on_file_changed(void *owner, usec_t now)
{
        struct auth *a = owner;
        _cleanup_free_ char *error = NULL, *text = NULL;
        struct keys *k = NULL;
        size_t before = auth_keys_in_force(a);
        int r = read_keys(a->path, &k, &error);

        (void)now;
        if (r == 0)
                r = take_keys(a, k);
        a->counts.reloads += r == 0;
        a->counts.reloads_failed += r < 0;
        if (r < 0)
                text = text_format("%s; the %zu keys read before stay in force", error ? error : strerror(-r),
                                   before);
        else
                text = text_format("%s was read again: keys in force: %zu, before: %zu", a->path,
                                   auth_keys_in_force(a), before);
        tell(a, r < 0 ? "keys_failed" : "keys", text);
}

int auth_apply(struct auth *a, const struct config *config, char **ret_error)
{
        const char *file = config->auth_keys_file;
        struct filewatch *watch = NULL;
        struct keys *k = NULL;
        char *path = NULL;
        unsigned lost;
        int r = 0;

        *ret_error = NULL;
        if (file) {
                path = text_dup(file);
                r = path ? filewatch_new(a->loop, path, NULL, on_file_changed, a, &watch) : -ENOMEM;
                if (r == 0)
                        r = read_keys(path, &k, ret_error);
        }
        if (r == 0)
                r = take_keys(a, k);
        if (r < 0) {
                (void)filewatch_free(watch);
                free(path);
                return r;
        }
        (void)filewatch_free(a->watch);
        free(a->path);
        a->watch = watch;
        a->path = path;
        lost = a->anonymous & ~config->auth_anonymous;
        a->anonymous = config->auth_anonymous;
        tell_lost(a, ID_ANONYMOUS, lost);
        return 0;
}

size_t auth_keys_in_force(const struct auth *a)
{
        return a->keys ? keys_in_force(a->keys) : 0;
}

/* --- who ---------------------------------------------------------------------------------------------------------------- */

enum { SUBPROTOCOL_KEY_MAX = 512 };

/* The keys that a request shows. */
struct shown {
        struct slice key; /* empty: none */
        char decoded[SUBPROTOCOL_KEY_MAX];
};

/* One more way in which a key was shown: all must show the same. */
static enum auth_verdict show(struct shown *s, struct slice key)
{
        if (key.n == 0)
                return AUTH_PASS; /* "x-api-key:" with nothing in it shows none */
        if (s->key.n && (s->key.n != key.n || !secret_equal(s->key.p, key.p, key.n)))
                return AUTH_AMBIGUOUS;
        s->key = key;
        return AUTH_PASS;
}

static enum auth_verdict show_bearer(const struct http1_request *head, struct shown *s)
{
        static const struct slice bearer = {"bearer", 6};
        struct slice value = {0};
        size_t n = http1_header_find(head->headers, head->n_headers, "authorization", &value), at;

        if (n == 0)
                return AUTH_PASS;
        if (n > 1)
                return AUTH_AMBIGUOUS;
        value = slice_trim(value);
        at = slice_find(value, ' ');
        if (!slice_eq_nocase(slice_sub(value, 0, at), bearer))
                return AUTH_WRONG;
        return show(s, slice_trim(slice_sub(value, at, value.n)));
}

static enum auth_verdict show_api_key(const struct http1_request *head, struct shown *s)
{
        struct slice value = {0};
        size_t n = http1_header_find(head->headers, head->n_headers, "x-api-key", &value);

        if (n > 1)
                return AUTH_AMBIGUOUS;
        return n ? show(s, slice_trim(value)) : AUTH_PASS;
}

/* "key." + base64url, among the sub-protocols that a WebSocket offers. */
static enum auth_verdict show_subprotocol(const struct http1_request *head, struct shown *s)
{
        static const struct slice name = {"sec-websocket-protocol", 22}, prefix = {"key.", 4};
        unsigned found = 0;

        if (!head->upgrade_websocket)
                return AUTH_PASS;
        for (size_t i = 0; i < head->n_headers; i++) {
                struct slice rest = head->headers[i].value, item;

                if (!slice_eq_nocase(head->headers[i].name, name))
                        continue;
                while (http1_list_next(&rest, &item)) {
                        enum auth_verdict v;
                        int n;

                        if (!slice_starts_with(item, prefix))
                                continue;
                        if (found++)
                                return AUTH_AMBIGUOUS;
                        n = secret_from_base64url(item.p + prefix.n, item.n - prefix.n, s->decoded,
                                                  sizeof(s->decoded));
                        if (n <= 0)
                                return AUTH_WRONG;
                        v = show(s, (struct slice){s->decoded, (size_t)n});
                        if (v != AUTH_PASS)
                                return v;
                }
        }
        return AUTH_PASS;
}

/* Names under which people put keys into URLs, and anything that begins like one of ours. */
static bool is_key_in_url(struct slice query)
{
        static const char *const names[] = {"key",   "api_key",      "apikey", "api-key",      "x-api-key",
                                            "token", "access_token", "bearer", "authorization"};

        while (query.n) {
                size_t end = slice_find(query, '&'), eq;
                struct slice pair = slice_sub(query, 0, end), name;

                query = slice_sub(query, end + 1, query.n);
                eq = slice_find(pair, '=');
                name = slice_sub(pair, 0, eq);
                if (slice_starts_with(slice_sub(pair, eq + 1, pair.n), SLICE(KEY_PREFIX)))
                        return true;
                for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                        if (slice_eq_nocase(name, slice_str(names[i])))
                                return true;
        }
        return false;
}

static enum auth_verdict find_account(struct auth *a, struct slice shown, struct caller *ret)
{
        const struct key *key;
        struct auth_account *c;
        int r = keys_find(a->keys, shown, &key);

        if (r == -EKEYREVOKED)
                return AUTH_REVOKED;
        c = r == 0 ? account_of(a, key->hash) : NULL;
        if (!c)
                return AUTH_WRONG;
        *ret = (struct caller){
                .name = c->name, .scopes = c->scopes, .priority = c->priority, .account = c, .id = c->id};
        return AUTH_PASS;
}

bool auth_has_keys(const struct auth *a)
{
        return a->keys != NULL;
}

enum auth_verdict auth_judge(struct auth *a, struct slice key, bool needs_key, unsigned anonymous,
                             struct caller *ret)
{
        *ret = (struct caller){0};
        if (a->keys && key.n)
                return find_account(a, key, ret);
        if (needs_key)
                return AUTH_MISSING;
        *ret = (struct caller){.scopes = anonymous, .priority = KEY_PRIORITY_NORMAL, .id = ID_ANONYMOUS};
        return AUTH_PASS;
}

enum auth_verdict auth_identify(struct auth *a, const struct http1_request *head, bool needs_key,
                                unsigned anonymous, struct caller *ret)
{
        struct shown shown = {0};
        enum auth_verdict v = AUTH_PASS;

        *ret = (struct caller){0};
        if (a->keys) {
                if (is_key_in_url(head->query))
                        return AUTH_IN_URL;
                v = show_bearer(head, &shown);
                if (v == AUTH_PASS)
                        v = show_api_key(head, &shown);
                if (v == AUTH_PASS)
                        v = show_subprotocol(head, &shown);
        }
        if (v == AUTH_PASS)
                v = auth_judge(a, shown.key, needs_key, anonymous, ret);
        secret_forget(shown.decoded, sizeof(shown.decoded));
        return v;
}

void auth_control(struct caller *ret)
{
        *ret = (struct caller){.scopes = SCOPES_ALL, .priority = KEY_PRIORITY_NORMAL, .id = ID_CONTROL};
}

bool caller_may(const struct caller *c, enum config_scope scope)
{
        return c->scopes & scope;
}

uint64_t caller_mark(const struct caller *c, enum config_scope scope)
{
        return c->id == ID_CONTROL ? 0 : c->id << MARK_SHIFT | scope;
}

/* --- refusing ------------------------------------------------------------------------------------------------------------- */

static const struct {
        const char *name;
        int status;
} verdicts[AUTH_VERDICTS] = {
        [AUTH_PASS] = {"pass", 200},
        [AUTH_MISSING] = {"no_key", 401},
        [AUTH_WRONG] = {"wrong_key", 401},
        [AUTH_REVOKED] = {"revoked_key", 401},
        [AUTH_AMBIGUOUS] = {"ambiguous_key", 400},
        [AUTH_IN_URL] = {"key_in_url", 400},
        [AUTH_SCOPE] = {"scope", 403},
        [AUTH_RATE] = {"key_rate", 429},
        [AUTH_CONCURRENCY] = {"key_concurrency", 429},
};

const char *auth_verdict_name(enum auth_verdict v)
{
        return verdicts[v].name;
}

int auth_verdict_status(enum auth_verdict v)
{
        return verdicts[v].status;
}

char *auth_verdict_words(enum auth_verdict v, const struct caller *c, const char *scope, char *buf,
                         size_t size)
{
        switch (v) {
        case AUTH_MISSING:
                (void)snprintf(buf, size,
                               "an API key is needed here: send it as \"Authorization: Bearer KEY\" or "
                               "\"x-api-key: KEY\" (llama-supervisor key add NAME makes one)");
                break;
        case AUTH_WRONG:
                (void)snprintf(buf, size,
                               "this API key is none of ours (llama-supervisor key list shows which there "
                               "are); it is sent as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"");
                break;
        case AUTH_REVOKED:
                (void)snprintf(buf, size, "this API key was revoked");
                break;
        case AUTH_AMBIGUOUS:
                (void)snprintf(buf, size, "two API keys, or the same header twice: send one key, once");
                break;
        case AUTH_IN_URL:
                (void)snprintf(buf, size,
                               "a key does not belong into a URL, which logs and histories keep: send it as "
                               "\"Authorization: Bearer KEY\" or \"x-api-key: KEY\", and a WebSocket of a "
                               "browser as sub-protocol \"key.\" + base64url of the key");
                break;
        case AUTH_SCOPE:
                if (c->name)
                        (void)snprintf(buf, size,
                                       "this needs the scope \"%s\", which the key \"%s\" does not have",
                                       scope, c->name);
                else
                        (void)snprintf(buf, size,
                                       "this needs the scope \"%s\", which a caller without a key does not "
                                       "have (auth.anonymous); the local control socket may do everything",
                                       scope);
                break;
        case AUTH_RATE:
                (void)snprintf(buf, size, "the key \"%s\" may send %u requests a minute", c->name,
                               c->account->rate);
                break;
        case AUTH_CONCURRENCY:
                (void)snprintf(buf, size, "the key \"%s\" may have %u requests at once, and has", c->name,
                               c->account->concurrency);
                break;
        case AUTH_PASS:
        case AUTH_VERDICTS:
                buf[0] = '\0';
        }
        return buf;
}

void auth_refused(struct auth *a, enum auth_verdict v, const char *peer, usec_t now)
{
        a->counts.refused[v]++;
        if (v != AUTH_WRONG && v != AUTH_REVOKED)
                return;
        a->wrong++;
        if (a->complained && now - a->told < LOG_INTERVAL)
                return;
        log_warn(NULL, "%" PRIu64 " %s with a wrong or revoked API key, the last of them from %s", a->wrong,
                 a->wrong == 1 ? "request" : "requests", peer);
        a->complained = true;
        a->told = now;
        a->wrong = 0;
}

const struct auth_counts *auth_counts(const struct auth *a)
{
        return &a->counts;
}

/* --- how much --------------------------------------------------------------------------------------------------------------- */

enum auth_verdict auth_begin(struct auth *a, const struct caller *c, usec_t now, usec_t *ret_wait)
{
        struct auth_account *account = c->account;
        enum auth_verdict v = AUTH_PASS;
        usec_t wait = USEC_PER_SEC;

        if (!account)
                return AUTH_PASS;
        if (account->concurrency && account->running >= account->concurrency) {
                v = AUTH_CONCURRENCY;
        } else {
                wait = token_bucket_take(&account->bucket, account->rate, now);
                if (wait)
                        v = AUTH_RATE;
        }
        if (v == AUTH_PASS) {
                account->running++;
                return v;
        }
        a->counts.refused[v]++;
        *ret_wait = wait;
        return v;
}

void auth_end(struct auth *a, const struct caller *c)
{
        (void)a;
        if (!c->account)
                return;
        c->account->running--;
        account_release(c->account);
}

/* --- life --------------------------------------------------------------------------------------------------------------------- */

int auth_new(struct loop *loop, const struct auth_events *events, void *owner, struct auth **ret)
{
        struct auth *a = calloc(1, sizeof(*a));

        if (!a)
                return -ENOMEM;
        a->loop = loop;
        a->events = *events;
        a->owner = owner;
        a->next_id = ID_FIRST;
        list_init(&a->accounts);
        *ret = a;
        return 0;
}

struct auth *auth_free(struct auth *a)
{
        if (!a)
                return NULL;
        a->events = (struct auth_events){0};
        (void)filewatch_free(a->watch);
        drop_unseen(a);
        keys_free(a->keys);
        free(a->path);
        free(a);
        return NULL;
}
