/* main_hub_users.c: `hub worker` and `hub init --write-config`: the files of a hub, on its machine. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/secret.h"
#include "base/text.h"
#include "cli/wholefile.h"
#include "core/nats_conf.h"
#include "main_hub_private.h"
#include "main_hub_reload.h"

#define USERS_FILE "users.conf"

/* The users file, read, and held while it is being changed. */
struct users_file {
        char *path;
        int lock; /* -1: only for reading */
        bool is_new;
        struct nats_users users;
};

static void finish_file(struct users_file *f)
{
        if (f->lock >= 0)
                (void)close(f->lock);
        nats_users_finish(&f->users);
        free(f->path);
}
#define _cleanup_users_ _cleanup_(finish_file)

static int read_file(struct users_file *f)
{
        struct nats_users_problem problem;
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        int r = file_read(f->path, NATS_USERS_FILE_MAX, &text, &len);

        if (r == -ENOENT) {
                f->is_new = true;
                return CLI_DONE;
        }
        if (r < 0)
                return hub_fail("%s: %s", f->path, strerror(-r));
        r = nats_users_parse(text, len, &f->users, &problem);
        if (r == -EBADMSG)
                return hub_fail("%s:%u: this line %s", f->path, problem.line, problem.message);
        return r < 0 ? hub_fail("not enough memory") : CLI_DONE;
}

static int open_file(struct hub_call *c, bool for_writing, struct users_file *f)
{
        _cleanup_free_ char *dir = NULL, *path = NULL, *error = NULL;
        int r = hub_dir(c, &dir);

        if (r != CLI_DONE)
                return r;
        path = text_format("%s/" USERS_FILE, dir);
        f->path = path ? realpath(path, NULL) : NULL;
        if (!f->path)
                f->path = steal_ptr(path);
        if (!f->path)
                return hub_fail("not enough memory");
        if (for_writing && wholefile_lock(f->path, &f->lock, &error) < 0)
                return hub_fail("%s; --dir names the folder of users.conf, hub init --write-config makes one",
                                error ? error : "not enough memory");
        return read_file(f);
}

static int save_file(struct users_file *f)
{
        /* Public keys and rights only: the server, which runs as a user of its own, must read it. */
        static const struct wholefile_mode as = {.mode = 0644};
        _cleanup_buffer_ struct buffer text = {0};
        _cleanup_free_ char *error = NULL;

        buffer_init(&text, NATS_USERS_FILE_MAX);
        nats_users_print(&f->users, &text);
        if (text.failed)
                return hub_fail("%s would become too long", f->path);
        if (wholefile_write(f->path, f->lock, text.data, text.len, &as, &error) < 0)
                return hub_fail("%s", error ? error : "not enough memory");
        return CLI_DONE;
}

/* --- seeds --------------------------------------------------------------------------------------------------------------- */

static int put_seed(const char *path, const struct nats_user *user, const char *seed)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        char roles[NATS_ROLES_TEXT_MAX];
        bool is_good;

        if (fd < 0)
                return hub_fail("%s: %s%s", path, strerror(errno),
                                errno == EEXIST ? ": a seed is not written over another; name a new file"
                                                : "");
        is_good = dprintf(fd, "# user: %s\n# roles: %s\n%s\n", user->name,
                          nats_roles_text(user->roles, roles), seed) > 0 &&
                  fsync(fd) == 0;
        if (is_good)
                return CLI_DONE;
        (void)hub_fail("%s: %s", path, strerror(errno));
        (void)unlink(path);
        return CLI_FAILED;
}

/* Shown once, here, and stored nowhere. */
static void tell_user(struct hub_call *c, const struct nats_user *user, const char *seed, const char *out)
{
        char roles[NATS_ROLES_TEXT_MAX];

        if (c->json) {
                json_string(&c->w, "name", user->name);
                json_string(&c->w, "roles", nats_roles_text(user->roles, roles));
                json_string(&c->w, "key", user->key);
                json_string(&c->w, "file", out);
                json_string(&c->w, "seed", out ? NULL : seed);
                return;
        }
        if (out) {
                (void)printf("%s: the seed is in %s: take it to the machine of %s, and delete it here\n",
                             user->name, out, user->name);
                return;
        }
        (void)printf("# user: %s\n# roles: %s\n%s\n", user->name, nats_roles_text(user->roles, roles), seed);
        hub_note("this seed is shown once: it belongs into a file of mode 0600 on the machine of %s "
                 "(hubs[].nkey_file)",
                 user->name);
}

/* --- the words of worker ------------------------------------------------------------------------------------------------- */

static int need_name(struct hub_call *c, const char **ret)
{
        const char *name = c->options.n_plain > 2 ? c->options.plain[2] : NULL;

        if (!name)
                return hub_usage("the name is missing: llama-supervisor hub worker %s NAME",
                                 c->options.plain[1]);
        if (!nats_user_name_is_good(name))
                return hub_usage("\"%s\" is no name of a worker: 1 to 63 of letters, digits, '_' and '-'",
                                 name);
        *ret = name;
        return CLI_DONE;
}

static int take_reloads(struct hub_call *c, struct users_file *f)
{
        for (size_t i = 0; i < c->options.n_given; i++) {
                const char *option = c->options.given[i].spec->name, *value = c->options.given[i].value;
                bool is_command = streq(option, "reload-command");
                int r;

                if (!is_command && !streq(option, "reload-pid"))
                        continue;
                if (!*value || strpbrk(value, "\r\n") || (!is_command && value[0] != '/'))
                        return hub_usage("--%s \"%s\": %s", option, value,
                                         is_command ? "is no command of one line"
                                                    : "name the file from / on: it is remembered");
                r = nats_users_add_reload(&f->users, is_command, value);
                if (r < 0)
                        return hub_fail("%s",
                                        r == -E2BIG ? "more than 16 servers: reload the others by one command"
                                                    : "not enough memory");
        }
        return CLI_DONE;
}

/* Everything is written; the servers are told. */
static int save_and_tell(struct hub_call *c, struct users_file *f)
{
        int r = save_file(f);

        if (r != CLI_DONE)
                return r;
        return hub_reload_servers(c, f->path, &f->users);
}

static int no_such_user(const struct users_file *f, const char *name)
{
        const char **names = calloc(f->users.n + 1, sizeof(*names));
        const char *nearest;
        int r;

        for (size_t i = 0; names && i < f->users.n; i++)
                names[i] = f->users.list[i].name;
        nearest = names ? text_nearest(name, names) : NULL;
        r = nearest ? hub_fail("%s knows no \"%s\"; did you mean \"%s\"?", f->path, name, nearest)
                    : hub_fail("%s knows no \"%s\"; hub worker list shows whom it knows", f->path, name);
        free(names);
        return r;
}

static int add_user(struct hub_call *c)
{
        const char *out = options_get(&c->options, "out"), *roles = options_get(&c->options, "role"),
                   *name = NULL;
        _cleanup_users_ struct users_file f = {.lock = -1};
        struct nats_user user = {.added = time_realtime()};
        char seed[NKEY_SEED_SIZE];
        int r = need_name(c, &name);

        if (r == CLI_DONE && nats_roles_parse(roles ? roles : "worker", &user.roles) < 0)
                r = hub_usage("--role is a list of worker, gateway, janitor, viewer and admin, not \"%s\"",
                              roles);
        if (r == CLI_DONE)
                r = open_file(c, true, &f);
        if (r == CLI_DONE)
                r = take_reloads(c, &f);
        if (r != CLI_DONE)
                return r;
        (void)text_copy(user.name, sizeof(user.name), name);
        r = nkey_generate(seed, user.key);
        if (r < 0)
                return hub_fail("no key can be made: %s", strerror(-r));
        r = nats_users_add(&f.users, &user);
        if (r == -EEXIST)
                return hub_fail("there is a \"%s\" already: hub worker refresh %s gives it a new key", name,
                                name);
        if (r < 0)
                return hub_fail("%s", r == -E2BIG ? "there are 10000 users already" : "not enough memory");
        /* First the seed: a user whose seed could not be kept would be of no use. */
        r = out ? put_seed(out, &user, seed) : CLI_DONE;
        if (r == CLI_DONE && (r = save_file(&f)) != CLI_DONE && out)
                (void)unlink(out);
        if (r == CLI_DONE) {
                tell_user(c, &user, seed, out);
                r = hub_reload_servers(c, f.path, &f.users);
        }
        secret_forget(seed, sizeof(seed));
        return r;
}

static int refresh_user(struct hub_call *c)
{
        const char *out = options_get(&c->options, "out"), *name = NULL;
        _cleanup_users_ struct users_file f = {.lock = -1};
        struct nats_user *user = NULL;
        char seed[NKEY_SEED_SIZE], key[NKEY_PUBLIC_SIZE];
        int r = need_name(c, &name);

        if (r == CLI_DONE)
                r = open_file(c, true, &f);
        if (r == CLI_DONE)
                r = take_reloads(c, &f);
        if (r == CLI_DONE && !(user = nats_users_find(&f.users, name)))
                r = no_such_user(&f, name);
        if (r != CLI_DONE || !user)
                return r;
        r = nkey_generate(seed, key);
        if (r < 0)
                return hub_fail("no key can be made: %s", strerror(-r));
        /* A second refresh ends the oldest key: there are never three. */
        (void)text_copy(user->old, sizeof(user->old), options_get(&c->options, "keep-old") ? user->key : "");
        (void)text_copy(user->key, sizeof(user->key), key);
        user->renewed = time_realtime();
        r = out ? put_seed(out, user, seed) : CLI_DONE;
        if (r == CLI_DONE && (r = save_file(&f)) != CLI_DONE && out)
                (void)unlink(out);
        if (r == CLI_DONE) {
                tell_user(c, user, seed, out);
                r = hub_reload_servers(c, f.path, &f.users);
        }
        secret_forget(seed, sizeof(seed));
        return r;
}

static int revoke_user(struct hub_call *c)
{
        _cleanup_users_ struct users_file f = {.lock = -1};
        bool only_old = options_get(&c->options, "old") != NULL;
        struct nats_user *user = NULL;
        const char *name = NULL;
        int r = need_name(c, &name);

        if (r == CLI_DONE)
                r = open_file(c, true, &f);
        if (r == CLI_DONE)
                r = take_reloads(c, &f);
        if (r == CLI_DONE && !(user = nats_users_find(&f.users, name)))
                r = no_such_user(&f, name);
        if (r != CLI_DONE || !user)
                return r;
        if (only_old && !*user->old)
                return hub_fail("%s has no old key: it was not refreshed with --keep-old", name);
        /* A server without any user asks nobody for a key. */
        if (!only_old && f.users.n == 1)
                return hub_fail("%s is the last user: a nats-server without users serves everybody. Stop the "
                                "server, or add "
                                "another user first",
                                name);
        if (only_old)
                user->old[0] = '\0';
        else
                nats_users_remove(&f.users, user);
        if (c->json) {
                json_string(&c->w, "name", name);
                json_string(&c->w, "revoked", only_old ? "old key" : "user");
        } else {
                (void)printf("%s: %s\n", name, only_old ? "the old key is revoked" : "revoked");
        }
        return save_and_tell(c, &f);
}

static void put_user(struct json_writer *w, const struct nats_user *user)
{
        char roles[NATS_ROLES_TEXT_MAX], iso[TIME_ISO_MAX];

        json_open_object(w);
        json_string(w, "name", user->name);
        json_string(w, "roles", nats_roles_text(user->roles, roles));
        json_string(w, "key", user->key);
        json_string(w, "oldKey", *user->old ? user->old : NULL);
        json_string(w, "addedAt", time_iso(user->added, iso, sizeof(iso)));
        json_string(w, "renewedAt", user->renewed ? time_iso(user->renewed, iso, sizeof(iso)) : NULL);
        json_close_object(w);
}

static int list_users(struct hub_call *c)
{
        _cleanup_users_ struct users_file f = {.lock = -1};
        char roles[NATS_ROLES_TEXT_MAX], iso[TIME_ISO_MAX];
        int r = open_file(c, false, &f);

        if (r != CLI_DONE)
                return r;
        if (f.is_new)
                return hub_fail("there is no %s; --dir names its folder, hub init --write-config makes one",
                                f.path);
        if (c->json) {
                json_string(&c->w, "file", f.path);
                json_key(&c->w, "users");
                json_open_array(&c->w);
                for (size_t i = 0; i < f.users.n; i++)
                        put_user(&c->w, f.users.list + i);
                json_close_array(&c->w);
                return CLI_DONE;
        }
        (void)printf("%-20s  %-24s  %-20s  %-20s  %s\n", "NAME", "ROLES", "ADDED", "RENEWED", "KEY");
        for (size_t i = 0; i < f.users.n; i++) {
                const struct nats_user *u = f.users.list + i;

                (void)printf("%-20s  %-24s  %-20s  ", u->name, nats_roles_text(u->roles, roles),
                             time_iso(u->added, iso, sizeof(iso)));
                (void)printf("%-20s  %.8s…%s\n", u->renewed ? time_iso(u->renewed, iso, sizeof(iso)) : "-",
                             u->key, *u->old ? " (and the old one)" : "");
        }
        return CLI_DONE;
}

int hub_worker(struct hub_call *c)
{
        static const struct {
                const char *word;
                int (*run)(struct hub_call *c);
        } words[] = {
                {"add", add_user}, {"refresh", refresh_user}, {"revoke", revoke_user}, {"list", list_users}};
        const char *word = c->options.plain[1];
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
                if (!streq(words[i].word, word))
                        continue;
                json_open_object(&c->w);
                r = words[i].run(c);
                json_close_object(&c->w);
                if (r != CLI_DONE && c->out.len < 3)
                        buffer_clear(&c->out);
                return r;
        }
        return hub_usage("worker: add, refresh, revoke or list, not \"%s\"", word);
}

/* --- hub init --write-config --------------------------------------------------------------------------------------------- */

/* Never over a file that is there. */
static int put_file(const char *path, mode_t mode, const struct buffer *text)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

        if (fd < 0)
                return hub_fail("%s: %s%s", path, strerror(errno),
                                errno == EEXIST
                                        ? ": nothing is overwritten; move it away, or name another --dir"
                                        : "");
        if (write(fd, text->data, text->len) != (ssize_t)text->len || fsync(fd) < 0)
                return hub_fail("%s: %s", path, strerror(errno));
        return CLI_DONE;
}

static const char *option_or(struct hub_call *c, const char *option, const char *fallback)
{
        const char *given = options_get(&c->options, option);

        return given ? given : fallback;
}

static int write_users(struct hub_call *c, const char *dir, const char *pid_file)
{
        _cleanup_free_ char *path = text_format("%s/" USERS_FILE, dir),
                            *seed_file = text_format("%s/admin.nk", dir);
        struct nats_user admin = {.name = "admin", .roles = NATS_ROLE_ADMIN, .added = time_realtime()};
        _cleanup_buffer_ struct buffer text = {0};
        struct nats_users users = {0};
        char seed[NKEY_SEED_SIZE];
        int r;

        buffer_init(&text, 0);
        if (!path || !seed_file || nkey_generate(seed, admin.key) < 0 || nats_users_add(&users, &admin) < 0 ||
            nats_users_add_reload(&users, false, pid_file) < 0) {
                nats_users_finish(&users);
                return hub_fail("not enough memory");
        }
        nats_users_print(&users, &text);
        nats_users_finish(&users);
        r = text.failed ? hub_fail("not enough memory") : put_file(path, 0644, &text);
        if (r == CLI_DONE && (r = put_seed(seed_file, &admin, seed)) != CLI_DONE)
                (void)unlink(path);
        secret_forget(seed, sizeof(seed));
        if (r == CLI_DONE && c->json) {
                json_string(&c->w, "users", path);
                json_string(&c->w, "admin", seed_file);
        } else if (r == CLI_DONE) {
                (void)printf("%s: users; \"hub worker\" changes it\n%s: the administrator's seed, for hub "
                             "init, check and "
                             "janitor: nobody else may read it\n",
                             path, seed_file);
        }
        return r;
}

static int write_conf(struct hub_call *c, const char *dir, const struct nats_conf *conf)
{
        _cleanup_free_ char *path = text_format("%s/nats.conf", dir);
        _cleanup_buffer_ struct buffer text = {0};
        int r;

        buffer_init(&text, 0);
        nats_conf_print(conf, &text);
        if (!path || text.failed)
                return hub_fail("not enough memory");
        r = put_file(path, 0644, &text);
        if (r != CLI_DONE)
                return r;
        if (c->json)
                json_string(&c->w, "config", path);
        else
                (void)printf("%s: start it with nats-server -c %s\n", path, path);
        return CLI_DONE;
}

static int check_paths(const struct nats_conf *conf)
{
        const char *const paths[][2] = {{"store", conf->store_dir},
                                        {"pid-file", conf->pid_file},
                                        {"tls-cert", conf->tls_cert},
                                        {"tls-key", conf->tls_key}};

        if (!conf->tls_cert != !conf->tls_key)
                return hub_usage("--tls-cert and --tls-key go together");
        for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
                if (paths[i][1] && paths[i][1][0] != '/')
                        return hub_usage("--%s \"%s\": name it from / on, since the server starts in a "
                                         "folder of its own",
                                         paths[i][0], paths[i][1]);
        return CLI_DONE;
}

int hub_write_config(struct hub_call *c)
{
        char host[HOST_NAME_MAX + 1] = "";
        struct nats_conf conf = {.users_file = USERS_FILE};
        _cleanup_free_ char *dir = NULL;
        int r;

        (void)gethostname(host, sizeof(host) - 1);
        conf.server_name = option_or(c, "server-name", *host ? host : "hub");
        conf.listen = option_or(c, "listen", "0.0.0.0:4222");
        conf.store_dir = option_or(c, "store", "/var/lib/nats");
        conf.pid_file = option_or(c, "pid-file", "/run/nats/nats-server.pid");
        conf.tls_cert = options_get(&c->options, "tls-cert");
        conf.tls_key = options_get(&c->options, "tls-key");
        r = check_paths(&conf);
        if (r == CLI_DONE)
                r = hub_dir(c, &dir);
        if (r != CLI_DONE)
                return r;
        if ((r = file_make_dir(dir, 0755)) < 0)
                return hub_fail("%s: %s", dir, strerror(-r));
        if (!conf.tls_cert)
                hub_note(
                        "without --tls-cert and --tls-key everybody on the way can read prompts and answers");
        json_open_object(&c->w);
        r = write_users(c, dir, conf.pid_file);
        if (r == CLI_DONE)
                r = write_conf(c, dir, &conf);
        json_close_object(&c->w);
        if (r != CLI_DONE)
                buffer_clear(&c->out);
        return r;
}
