/* auth.h: who is calling, what they may do, and how much of it.
 *
 * auth_identify is asked once for each request, right behind the gate. A key comes as `Authorization: Bearer KEY`, as
 * `x-api-key: KEY`, or, where a browser cannot set headers (WebSocket), as sub-protocol `key.` + base64url of the key beside
 * "llama-status"; never in the URL, which logs and histories keep. Socket.IO's clients show theirs in the CONNECT packet (`auth: {token}`),
 * which the feed hands to auth_judge. All go through one function and one comparison.
 *
 * - The control socket may do everything.
 * - On loopback (and unix sockets) a caller without a key may do what auth.anonymous says. So may one on a listener that other
 *   machines reach when "insecure" says so; without it a key is needed there.
 * - Without auth.keys_file no key means anything: whatever a client sends as one (many insist on sending some) is not looked at.
 * - With it a wrong key is refused, also where none is needed: better a clear 401 than fewer rights than the caller thinks.
 *
 * Accounts: each key in force has one, found again by its hash when the file is read again, so that rates and what runs go on
 * counting. Its number marks requests and feeds (request_set_mark), so that they can be ended when the key is revoked or
 * loses the scope. The file is read at start and reload, and when it changes (looked at each second, off the loop). A file that
 * became wrong changes nothing; it is told in log and history. */
#ifndef LSV_HTTP_AUTH_H
#define LSV_HTTP_AUTH_H

#include "core/config.h"
#include "core/http1.h"
#include "core/keys.h"
#include "net/loop.h"

struct auth;
struct auth_account;

/* Valid during the handler. Whoever keeps one longer copies it and holds it by auth_begin. Zeroed: nobody, who may do nothing. */
struct caller {
        const char *name;             /* of the key; NULL: the control socket, or no key */
        unsigned scopes;              /* bits of enum config_scope */
        enum key_priority priority;   /* normal without a key */
        struct auth_account *account; /* of the key; NULL: nothing is counted */
        uint64_t id; /* of the account, never used again; 1 without a key, 0 for the control socket */
};

enum auth_verdict {
        AUTH_PASS,
        AUTH_MISSING,     /* 401: a key is needed and there is none */
        AUTH_WRONG,       /* 401: nobody's key, or no Bearer */
        AUTH_REVOKED,     /* 401 */
        AUTH_AMBIGUOUS,   /* 400: two keys that differ, or a header twice */
        AUTH_IN_URL,      /* 400: a key in the query */
        AUTH_SCOPE,       /* 403 */
        AUTH_RATE,        /* 429: more requests a minute than the key may send */
        AUTH_CONCURRENCY, /* 429: more at once */
        AUTH_VERDICTS,
};
const char *auth_verdict_name(enum auth_verdict v); /* "wrong_key": a metric's label */
int auth_verdict_status(enum auth_verdict v);

/* on_revoked: open requests and feeds with this mark are to be ended. */
typedef void auth_revoked_fn(void *owner, uint64_t mark);
/* on_event: something about the keys that people should know, for log and history: "keys" (they were read again) or
 * "keys_failed" (the file became wrong). */
typedef void auth_event_fn(void *owner, const char *kind, const char *text);
struct auth_events {
        auth_revoked_fn *on_revoked;
        auth_event_fn *on_event;
};
int auth_new(struct loop *loop, const struct auth_events *events, void *owner, struct auth **ret);
struct auth *auth_free(struct auth *a);
/* Takes over what the configuration says, and reads the keys file again; at start and after each reload. 0, or -errno with
 * *ret_error (malloc'd, may be NULL without memory): then the keys are those of before. A file that is missing has no keys. */
int auth_apply(struct auth *a, const struct config *config, char **ret_error);
size_t auth_keys_in_force(const struct auth *a);

/* needs_key: a listener where what "anonymous" may do (scopes: auth.anonymous) does not hold. *ret is nobody unless AUTH_PASS. */
enum auth_verdict auth_identify(struct auth *a, const struct http1_request *head, bool needs_key,
                                unsigned anonymous, struct caller *ret);
/* The same for a key that did not come in a head (empty: none). */
enum auth_verdict auth_judge(struct auth *a, struct slice key, bool needs_key, unsigned anonymous,
                             struct caller *ret);
bool auth_has_keys(const struct auth *a); /* without a keys file no key means anything */
void auth_control(struct caller *ret);    /* the control socket's */
bool caller_may(const struct caller *c, enum config_scope scope);
/* What marks the requests and feeds of this caller that need this scope; 0 for the control socket, which nobody ends. */
uint64_t caller_mark(const struct caller *c, enum config_scope scope);
/* Counts a refusal; wrong keys are logged, at most one line a second, without the key. */
void auth_refused(struct auth *a, enum auth_verdict v, const char *peer, usec_t now);
/* The sentence for the caller; scope: what the route needs. Returns buf; AUTH_WORDS_MAX bytes are enough. */
enum { AUTH_WORDS_MAX = 320 };
char *auth_verdict_words(enum auth_verdict v, const struct caller *c, const char *scope, char *buf,
                         size_t size);

/* --- how much: for work that reaches a model ------------------------------------------------------------------------- */

/* Takes one request of the caller's rate and one of its concurrency. AUTH_PASS: auth_end must follow, once, with the same caller,
 * whose account and name stay valid until then (copy the struct). AUTH_RATE, AUTH_CONCURRENCY: nothing was taken, and
 * *ret_wait says when to try again (429 with Retry-After). Counted as refused here. */
enum auth_verdict auth_begin(struct auth *a, const struct caller *c, usec_t now, usec_t *ret_wait);
void auth_end(struct auth *a, const struct caller *c);

struct auth_counts {
        uint64_t refused[AUTH_VERDICTS];
        uint64_t reloads, reloads_failed;
};
const struct auth_counts *auth_counts(const struct auth *a);

#endif
