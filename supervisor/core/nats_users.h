/* nats_users.h: the file of a NATS server's users that `hub worker` writes and nats.conf includes inside its account.
 *
 * Each user is an nkey, of which the server has the public half only, or a name with the bcrypt hash of a password; with the least rights that its
 * roles need. In front of each user a comment of ours ("#: {…}") says who it is; from these comments the file is read, and all of it is written anew
 * from them, so what the rights of a role are is always this program's word. A line that we would not have written is refused, by its number: what a
 * person added must not be lost, and belongs into another file. Pure.
 *
 * A server that was told to read the file again does not say when it has. So each change puts the key of a probe into it ("#? {…}"), a user who may do
 * nothing: whoever is let in by that key knows that the server has this file, or a later one. Probes are dropped soon, and nobody keeps their seeds. */
#ifndef LSV_CORE_NATS_USERS_H
#define LSV_CORE_NATS_USERS_H

#include "base/buffer.h"
#include "base/nkey.h"
#include "base/password.h"
#include "base/time.h"

enum {
        NATS_USERS_MAX = 10000,
        NATS_USERS_FILE_MAX = 64 << 20,
        NATS_RELOADS_MAX = 16,
        NATS_PROBES_MAX = 32,
        NATS_USER_NAME_MAX = 63,
};

/* What somebody may do; several may be one user's. */
enum nats_role {
        NATS_ROLE_WORKER = 1 << 0,  /* takes jobs, sends text, stores results */
        NATS_ROLE_GATEWAY = 1 << 1, /* hands jobs in, reads text and results, sees the farm */
        NATS_ROLE_JANITOR = 1 << 2, /* settles dead letters */
        NATS_ROLE_VIEWER = 1 << 3,  /* sees the farm, and asks how streams and consumers are */
        NATS_ROLE_ADMIN = 1 << 4,   /* everything in the account */
};
/* "worker,gateway": 0 or -EINVAL. */
int nats_roles_parse(const char *list, unsigned *ret);
#define NATS_ROLES_TEXT_MAX 48
char *nats_roles_text(unsigned roles, char buf[NATS_ROLES_TEXT_MAX]);

struct nats_user {
        char name[NATS_USER_NAME_MAX + 1]; /* who it is at the hub: [A-Za-z0-9_-] */
        unsigned roles;
        char key[NKEY_PUBLIC_SIZE];    /* "": it has a password */
        char hash[PASSWORD_HASH_SIZE]; /* "": it has a key */
        char old[NKEY_PUBLIC_SIZE];    /* "": none; the key before, while both are good */
        usec_t added, renewed;         /* wall clock; renewed 0: never */
};
bool nats_user_name_is_good(const char *name);

/* How a server that has the file is told that it changed. */
struct nats_reload {
        bool is_command; /* else a pid file: SIGHUP */
        char *what;
};

struct nats_probe {
        char key[NKEY_PUBLIC_SIZE];
        usec_t added;
};

struct nats_users {
        struct nats_user *list;
        size_t n;
        struct nats_probe probes[NATS_PROBES_MAX];
        size_t n_probes;
        struct nats_reload reloads[NATS_RELOADS_MAX];
        size_t n_reloads;
};

struct nats_users_problem {
        unsigned line;
        const char *message; /* static */
};

/* 0; -EBADMSG with *ret_problem; -ENOMEM. The empty text has no users. */
int nats_users_parse(const char *text, size_t len, struct nats_users *ret,
                     struct nats_users_problem *ret_problem);
void nats_users_print(const struct nats_users *u, struct buffer *out);
void nats_users_finish(struct nats_users *u); /* a zeroed one is fine */

struct nats_user *nats_users_find(const struct nats_users *u, const char *name); /* NULL: none */
/* 0; -EEXIST (name or key), -E2BIG, -ENOMEM. */
int nats_users_add(struct nats_users *u, const struct nats_user *user);
void nats_users_remove(struct nats_users *u, struct nats_user *user);
/* 0 (also when it is there), -E2BIG, -ENOMEM. */
int nats_users_add_reload(struct nats_users *u, bool is_command, const char *what);

/* Those before are dropped after NATS_PROBE_AGE, or when there are too many: a change that goes on at the same time must find its own. */
#define NATS_PROBE_AGE (2 * USEC_PER_MIN)
void nats_users_add_probe(struct nats_users *u, const char key[NKEY_PUBLIC_SIZE], usec_t now);

/* What a user may publish and subscribe to, as the members of a "permissions" object; of admins: nothing, which allows everything. */
void nats_user_put_permissions(const struct nats_user *user, struct buffer *out);

#endif
