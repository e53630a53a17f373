/* main_hub_write.c: `hub init --write-config`: the first files of a hub, on its machine. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/secret.h"
#include "base/text.h"
#include "core/nats_conf.h"
#include "main_hub_private.h"

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
        _cleanup_free_ char *path = text_format("%s/" HUB_USERS_FILE, dir),
                            *seed_file = text_format("%s/admin.nk", dir);
        struct nats_user admin = {.name = "admin", .roles = NATS_ROLE_ADMIN, .added = time_realtime()};
        _cleanup_buffer_ struct buffer text = {0};
        struct nats_users users = {0};
        struct hub_secret secret = {0};
        int r;

        buffer_init(&text, 0);
        if (!path || !seed_file || nkey_generate(secret.text, admin.key) < 0 ||
            nats_users_add(&users, &admin) < 0 || nats_users_add_reload(&users, false, pid_file) < 0) {
                nats_users_finish(&users);
                return hub_fail("not enough memory");
        }
        nats_users_print(&users, &text);
        nats_users_finish(&users);
        r = text.failed ? hub_fail("not enough memory") : put_file(path, 0644, &text);
        if (r == CLI_DONE && (r = hub_put_secret(seed_file, &admin, &secret)) != CLI_DONE)
                (void)unlink(path);
        secret_forget(&secret, sizeof(secret));
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
        struct nats_conf conf = {.users_file = HUB_USERS_FILE};
        _cleanup_free_ char *dir = NULL;
        const char *port;
        int r;

        (void)gethostname(host, sizeof(host) - 1);
        conf.server_name = option_or(c, "server-name", *host ? host : "hub");
        conf.listen = option_or(c, "listen", "0.0.0.0:4222");
        port = strrchr(conf.listen, ':');
        conf.store_dir = option_or(c, "store", "/var/lib/nats");
        conf.pid_file = option_or(c, "pid-file", "/run/nats/nats-server.pid");
        conf.tls_cert = options_get(&c->options, "tls-cert");
        conf.tls_key = options_get(&c->options, "tls-key");
        r = check_paths(&conf);
        if (r == CLI_DONE)
                r = hub_dir(c, &dir);
        if (r != CLI_DONE)
                return r;
        if (!conf.tls_cert)
                hub_note(
                        "without --tls-cert and --tls-key everybody on the way can read prompts and answers");
        /* nats-server is another user, whatever our umask: all of this but the seed is for everybody to read. */
        (void)umask(022);
        if ((r = file_make_dir(dir, 0755)) < 0)
                return hub_fail("%s: %s", dir, strerror(-r));
        json_open_object(&c->w);
        r = write_users(c, dir, conf.pid_file);
        if (r == CLI_DONE)
                r = write_conf(c, dir, &conf);
        json_close_object(&c->w);
        if (r != CLI_DONE)
                buffer_clear(&c->out);
        else if (!c->json)
                (void)printf("When it runs: llama-supervisor hub init --url %s://%s:%s --nkey %s/admin.nk "
                             "--models "
                             "NAME,NAME\n",
                             conf.tls_cert ? "tls" : "nats", *host ? host : "HOST", port ? port + 1 : "4222",
                             dir);
        return r;
}
