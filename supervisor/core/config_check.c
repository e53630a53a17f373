/* config_check.c: what only shows when all is read: directories, models, addresses, names that clash, keys that exclude each
 * other. */
#include "core/config_internal.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/text.h"
#include "core/keys.h"
#include "core/spool.h"

#define TLS_FILE_MAX    (1024U * 1024U)
#define SOCKET_PATH_MAX 107 /* bytes of a unix socket's path without its NUL */

static bool had_memory(struct config_load *l, const void *p)
{
        if (!p)
                l->failed_memory = true;
        return p != NULL;
}

/* --- directories ------------------------------------------------------------------------------------------------ */

static const char *variable(struct config_load *l, const char *name)
{
        const char *v = l->env->get ? l->env->get(l->env->owner, name) : NULL;

        return v && v[0] == '/' ? v : NULL;
}

/* systemd gives several directories as "a:b"; ours is the first. */
static char *first_of(const char *list)
{
        return strndup(list, strcspn(list, ":"));
}

static char *xdg(struct config_load *l, const char *name, const char *below_home)
{
        const char *dir = variable(l, name), *home = variable(l, "HOME");

        if (dir)
                return text_format("%s/llama-supervisor", dir);
        return home && below_home ? text_format("%s/%s/llama-supervisor", home, below_home) : NULL;
}

static void default_dir(struct config_load *l, char **dir, const char *key, const char *systemd,
                        const char *root, const char *xdg_name, const char *below_home, const char *in_state)
{
        const char *given = variable(l, systemd);

        if (*dir || config_seen_has(l->top, PLACE_TOP, key))
                return;
        if (given)
                *dir = first_of(given);
        else if (l->env->is_root)
                *dir = strdup(root);
        else if (in_state && l->config->state_dir && !(xdg_name && variable(l, xdg_name)))
                *dir = text_format("%s/%s", l->config->state_dir, in_state);
        else if (xdg_name)
                *dir = xdg(l, xdg_name, below_home);
        if (!*dir)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, key,
                            "has no default here: neither $%s nor $HOME is set", systemd);
}

static void check_dirs(struct config_load *l)
{
        struct config *c = l->config;
        bool own_state = config_seen_has(l->top, PLACE_TOP, "state_dir") || variable(l, "STATE_DIRECTORY") ||
                         l->env->is_root;

        default_dir(l, &c->state_dir, "state_dir", "STATE_DIRECTORY", "/var/lib/llama-supervisor",
                    "XDG_STATE_HOME", ".local/state", NULL);
        default_dir(l, &c->runtime_dir, "runtime_dir", "RUNTIME_DIRECTORY", "/run/llama-supervisor",
                    "XDG_RUNTIME_DIR", NULL, "run");
        default_dir(l, &c->log_dir, "log_dir", "LOGS_DIRECTORY", "/var/log/llama-supervisor", NULL, NULL,
                    "log");
        if (!c->models_dir && !config_seen_has(l->top, PLACE_TOP, "models_dir")) {
                _cleanup_free_ char *data = xdg(l, "XDG_DATA_HOME", ".local/share");
                const char *parent = own_state ? c->state_dir : data;

                c->models_dir = parent ? text_format("%s/models", parent) : NULL;
                if (!c->models_dir && !own_state) /* else state_dir has told it */
                        KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "models_dir",
                                    "has no default here: $HOME is not set");
        }
        if (!c->spool.dir && c->state_dir)
                (void)had_memory(l, c->spool.dir = text_format("%s/spool", c->state_dir));
        if (c->runtime_dir && strlen(c->runtime_dir) + strlen("/control.sock") > SOCKET_PATH_MAX)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "runtime_dir",
                            "is too long: the path of a unix socket may have %d bytes", SOCKET_PATH_MAX);
}

/* --- addresses -------------------------------------------------------------------------------------------------- */

static in_port_t port_of(const struct endpoint *e)
{
        switch (e->addr.sa.sa_family) {
        case AF_INET:
                return ntohs(e->addr.in.sin_port);
        case AF_INET6:
                return ntohs(e->addr.in6.sin6_port);
        default:
                return 1; /* a unix socket needs none */
        }
}

/* The end of a sentence, or NULL when the address is good. */
static const char *parse_address(const char *s, struct endpoint *ret)
{
        switch (endpoint_parse(s, ret)) {
        case 0:
                return NULL;
        case -ENAMETOOLONG:
                return "is too long: the path of a unix socket may have 107 bytes";
        case -EPROTONOSUPPORT:
                return "is https, which this version cannot speak to a server";
        case -EADDRNOTAVAIL:
                return "is a host name; write its IP address (or localhost)";
        default:
                return "is not an address (\"127.0.0.1:8077\", \"[::1]:8077\", \"unix:/path\")";
        }
}

static const char *shown(const char *s, char buf[80])
{
        (void)snprintf(buf, 80, "%s", s);
        (void)text_harmless(buf);
        return buf;
}

struct tls_text {
        char *text; /* may be a secret */
        size_t len;
};

static void tls_text_finish(struct tls_text *t)
{
        if (t->text)
                explicit_bzero(t->text, t->len);
        free(t->text);
}

/* False: it was told what is wrong. */
static bool read_tls_file(struct config_load *l, const struct config_seen *seen, const char *key,
                          const char *path, struct tls_text *ret)
{
        const struct file_ops *files = l->env->files;
        int r;

        if (!path) {
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, "tls", "needs both cert_file and key_file");
                return false;
        }
        r = files->read(files->owner, path, TLS_FILE_MAX, &ret->text, &ret->len);
        if (r < 0)
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, key, "%s cannot be read: %s", path,
                            strerror(-r));
        return r >= 0;
}

static void check_key_mode(struct config_load *l, const struct config_seen *seen, const char *path)
{
        const struct file_ops *files = l->env->files;
        struct file_facts facts;

        if (files->stat(files->owner, path, &facts) >= 0 && S_ISREG(facts.mode) && (facts.mode & 07))
                KEY_PROBLEM(config_warning, l, seen, PLACE_LISTEN, "tls.key_file",
                            "everybody on this machine can %s %s (mode %04o); chmod 600 it",
                            facts.mode & 02 ? "change" : "read", path, facts.mode & 07777U);
}

static void check_tls_texts(struct config_load *l, const struct config_listen *listen,
                            const struct config_seen *seen, const struct tls_text *cert,
                            const struct tls_text *private)
{
        _cleanup_free_ char *words = NULL;
        bool in_key = false;
        int r;

        if (!l->env->check_tls)
                return;
        r = l->env->check_tls(listen->tls_cert_file, (struct slice){cert->text, cert->len},
                              listen->tls_key_file, (struct slice){private->text, private->len}, &in_key,
                              &words);
        if (r == -ENOMEM)
                l->failed_memory = true;
        else if (r < 0)
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, in_key ? "tls.key_file" : "tls.cert_file",
                            "%s", words ? words : strerror(-r));
}

static void check_tls(struct config_load *l, const struct config_listen *listen,
                      const struct config_seen *seen)
{
        _cleanup_(tls_text_finish) struct tls_text cert = {0}, private = {0};
        bool good;

        if (endpoint_is_unix(&listen->endpoint)) {
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, "tls",
                            "has no meaning on a unix socket, which never leaves this machine");
                return;
        }
        good = read_tls_file(l, seen, "tls.cert_file", listen->tls_cert_file, &cert);
        if (!listen->tls_cert_file)
                return; /* said once for both */
        if (!read_tls_file(l, seen, "tls.key_file", listen->tls_key_file, &private))
                return;
        check_key_mode(l, seen, listen->tls_key_file);
        if (good)
                check_tls_texts(l, listen, seen, &cert, &private);
}

static void check_listen(struct config_load *l, size_t i)
{
        struct config_listen *listen = l->config->listen + i;
        const struct config_seen *seen = l->listen + i;
        char buf[80], spot[CONFIG_SPOT_MAX];
        const char *why;

        if (!listen->address)
                return;
        why = parse_address(listen->address, &listen->endpoint);
        if (why) {
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, "address", "\"%s\" %s",
                            shown(listen->address, buf), why);
                return;
        }
        if (!endpoint_is_loopback(&listen->endpoint) && !l->config->insecure && !l->config->auth_keys_file)
                KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, "address",
                            "other machines can reach %s and no keys protect it; set \"auth\": "
                            "{\"keys_file\": …}, listen on loopback, or set \"insecure\": true if that is "
                            "what you want",
                            shown(listen->address, buf));
        if (listen->tls)
                check_tls(l, listen, seen);
        for (size_t j = 0; j < i; j++)
                if (port_of(&listen->endpoint) && l->config->listen[j].endpoint.len &&
                    endpoint_equal(&l->config->listen[j].endpoint, &listen->endpoint)) {
                        KEY_PROBLEM(config_error, l, seen, PLACE_LISTEN, "address",
                                    "is listened on already, see %s",
                                    config_spot_text(&l->listen[j].self, spot, sizeof spot));
                        break;
                }
}

/* --- settings that belong together ------------------------------------------------------------------------------ */

static void check_backoff(struct config_load *l, const struct config_seen *seen, enum config_place place,
                          const struct config_restart *r)
{
        char a[CONFIG_NUMBER_MAX], b[CONFIG_NUMBER_MAX];
        const char *key = config_seen_has(seen, place, "restart.backoff_initial") ? "restart.backoff_initial"
                                                                                  : "restart.backoff_max";

        if (r->backoff_initial > r->backoff_max)
                KEY_PROBLEM(config_error, l, seen, place, key,
                            "backoff_initial (%s) is longer than backoff_max (%s)",
                            config_duration_text(r->backoff_initial, a, sizeof a),
                            config_duration_text(r->backoff_max, b, sizeof b));
}

static void check_gateway(struct config_load *l)
{
        const struct config_gateway *g = &l->config->gateway;
        const char *key = config_seen_has(l->top, PLACE_TOP, "gateway.eject.initial")
                                  ? "gateway.eject.initial"
                                  : "gateway.eject.max";
        char a[CONFIG_NUMBER_MAX], b[CONFIG_NUMBER_MAX];

        if (g->eject_initial > g->eject_max)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, key, "initial (%s) is longer than max (%s)",
                            config_duration_text(g->eject_initial, a, sizeof a),
                            config_duration_text(g->eject_max, b, sizeof b));
        if (g->shed_target >= g->queue_timeout &&
            config_seen_has(l->top, PLACE_TOP, "gateway.queue.shed_target"))
                KEY_PROBLEM(config_warning, l, l->top, PLACE_TOP, "gateway.queue.shed_target",
                            "is never reached: no request waits longer than queue.timeout (%s)",
                            config_duration_text(g->queue_timeout, a, sizeof a));
}

/* args: those that the row itself holds, not yet merged with the global ones. */
static void check_args(struct config_load *l, const struct config_seen *seen, enum config_place place,
                       const char *key, char *const *args)
{
        struct config_spot at = config_seen_spot(seen, place, key);
        char buf[80];

        if (!config_seen_has(seen, place, key) || at.doc->scan.tokens[at.token].type != JSON_ARRAY)
                return;
        at.token++;
        for (size_t i = 0; args && args[i]; i++, at.token = at.doc->scan.tokens[at.token].next) {
                const char *why = config_arg_refused(args[i]);
                size_t back;

                if (!why)
                        continue;
                back = config_path_add(l, "%s%s[%zu]", l->path.len ? "." : "", key, i);
                config_error(l, at, "%s is refused: %s", shown(args[i], buf), why);
                config_path_back(l, back);
        }
}

/* --- models ----------------------------------------------------------------------------------------------------- */

/* "user/repo" or "user/repo:quant" */
static bool is_hf_repo(const char *s)
{
        static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        size_t n = strspn(s, plain), m;

        if (n == 0 || s[n] != '/')
                return false;
        s += n + 1;
        m = strspn(s, plain);
        if (m == 0)
                return false;
        s += m;
        if (*s == ':') {
                s++;
                m = strspn(s, plain);
                return m > 0 && s[m] == '\0';
        }
        return *s == '\0';
}

/* The part number of a split GGUF ("…-00002-of-00004.gguf"), 0 when it is none. */
static unsigned split_part(const char *path)
{
        size_t n = strlen(path), tail = strlen("-00001-of-00004.gguf");
        unsigned part, parts;
        int used = 0;

        if (n <= tail || sscanf(path + n - tail, "-%5u-of-%5u.gguf%n", &part, &parts, &used) != 2 ||
            (size_t)used != tail)
                return 0;
        return part;
}

static void check_model_file(struct config_load *l, struct config_instance *in,
                             const struct config_seen *seen)
{
        const struct file_ops *files = l->env->files;
        struct file_facts facts;
        int r;

        in->model_kind = CONFIG_MODEL_FILE;
        if (in->model[0] != '/' && !l->config->models_dir)
                return;
        in->model_path = config_path_join(l->config->models_dir, in->model);
        if (!had_memory(l, in->model_path))
                return;
        if (split_part(in->model_path) > 1) {
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model",
                            "is part %u of a split model; name the first part (…-00001-of-…), the others are "
                            "found beside it",
                            split_part(in->model_path));
                return;
        }
        r = files->stat(files->owner, in->model_path, &facts);
        if (r < 0)
                KEY_PROBLEM(config_warning, l, seen, PLACE_INSTANCE, "model", "%s: %s", in->model_path,
                            strerror(-r));
        else if (S_ISDIR(facts.mode))
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model", "%s is a directory",
                            in->model_path);
}

static void check_model(struct config_load *l, struct config_instance *in, const struct config_seen *seen)
{
        char buf[80];

        if (in->adopt_text)
                return;
        if (!in->model) {
                if (!config_seen_has(seen, PLACE_INSTANCE, "model"))
                        config_error(
                                l, seen->self,
                                "\"model\" is missing (or \"adopt\", for a server that somebody else runs)");
                return;
        }
        if (!*in->model) {
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model",
                            "must not be empty: without a model llama-server would start as a router");
        } else if (starts_with(in->model, "hf:")) {
                in->model_kind = CONFIG_MODEL_HF;
                if (is_hf_repo(in->model + 3))
                        (void)had_memory(l, in->model_path = strdup(in->model + 3));
                else
                        KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model",
                                    "\"%s\" is not of the form \"hf:user/repo\" or \"hf:user/repo:quant\"",
                                    shown(in->model, buf));
        } else if (strstr(in->model, "://")) {
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model",
                            "is a URL; a model is a file or \"hf:user/repo:quant\"");
        } else if (starts_with(in->model, "~/")) {
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "model",
                            "\"~\" is not expanded; write ${HOME}");
        } else {
                check_model_file(l, in, seen);
        }
}

/* --- one instance ----------------------------------------------------------------------------------------------- */

/* Rows that make sense only for a process of ours. */
static void check_adopt_excludes(struct config_load *l, const struct config_seen *seen)
{
        const struct config_place_info *info = config_places + PLACE_INSTANCE;

        for (size_t i = 0; i < info->n_keys; i++)
                if ((info->keys[i].flags & KEY_SPAWN) && seen->at[i].doc)
                        KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, info->keys[i].path,
                                    "has no meaning beside \"adopt\": that server is somebody else's");
}

static void check_instance_address(struct config_load *l, struct config_instance *in,
                                   const struct config_seen *seen)
{
        const char *key = in->adopt_text ? "adopt" : "endpoint",
                   *text = in->adopt_text ? in->adopt_text : in->endpoint_text;
        char buf[80], *colon;
        const char *why;

        in->adopt = in->adopt_text != NULL;
        if (!text) {
                if (in->api_key_file)
                        KEY_PROBLEM(config_warning, l, seen, PLACE_INSTANCE, "api_key_file",
                                    "has no effect without \"endpoint\" or \"adopt\": the private socket "
                                    "needs no key");
                return;
        }
        why = parse_address(text, &in->endpoint);
        if (!why && port_of(&in->endpoint) == 0)
                why = "needs a port other than 0";
        if (!why && !in->adopt && endpoint_is_unix(&in->endpoint) &&
            !ends_with(in->endpoint.addr.un.sun_path, ".sock"))
                why = "must end in \".sock\", else llama-server takes it for a host name";
        if (why) {
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, key, "\"%s\" %s", shown(text, buf), why);
                in->endpoint.len = 0;
                return;
        }
        colon = endpoint_is_unix(&in->endpoint) ? NULL : strchr(text, '@');
        if (colon)
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, key,
                            "holds a password; use \"api_key_file\"");
        if (!in->adopt && (in->replicas_per_gpu || in->replicas != 1 || in->replicas_max))
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "replicas",
                            "several replicas cannot share the one address of \"endpoint\"");
}

/* Rows that make sense only with a range of replicas. One that is malformed was reported. */
static void check_range_rows(struct config_load *l, const struct config_instance *in,
                             const struct config_seen *seen)
{
        const struct config_place_info *info = config_places + PLACE_INSTANCE;
        struct config_spot replicas = config_seen_spot(seen, PLACE_INSTANCE, "replicas");

        if (in->replicas_max || in->adopt_text ||
            (config_seen_has(seen, PLACE_INSTANCE, "replicas") &&
             replicas.doc->scan.tokens[replicas.token].type == JSON_OBJECT))
                return;
        for (size_t i = 0; i < info->n_keys; i++)
                if ((info->keys[i].flags & KEY_RANGE) && seen->at[i].doc)
                        KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, info->keys[i].path,
                                    "has no meaning without \"replicas\": {\"min\": N, \"max\": M}");
}

/* With a fixed number of replicas each has its own; else nobody knows how many there will be. */
static void check_weights(struct config_load *l, const struct config_instance *in,
                          const struct config_seen *seen)
{
        bool is_fixed = !in->replicas_per_gpu && !in->replicas_max;
        const char *bound = is_fixed ? "" : "at most ";
        struct config_spot at = config_seen_spot(seen, PLACE_INSTANCE, "weight");
        unsigned most = in->replicas_per_gpu ? CONFIG_REPLICAS_MAX : MAX(in->replicas, in->replicas_max);

        if (in->n_weights == 0 || !config_seen_has(seen, PLACE_INSTANCE, "weight") ||
            at.doc->scan.tokens[at.token].type != JSON_ARRAY)
                return;
        if (in->n_weights > most)
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "weight",
                            "has %u weights for %s%u replica%s", in->n_weights, bound, most,
                            most == 1 ? "" : "s");
        else if (is_fixed && in->n_weights < most)
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "weight",
                            "has %u weight%s for %u replicas; write one for each, or one number for all",
                            in->n_weights, in->n_weights == 1 ? "" : "s", most);
}

static void check_on_demand(struct config_load *l, const struct config_instance *in,
                            const struct config_seen *seen)
{
        if (in->on_demand && !in->adopt_text && in->autostart &&
            config_seen_has(seen, PLACE_INSTANCE, "autostart"))
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "autostart",
                            "contradicts \"on_demand\"; to load it with the daemon, list it in "
                            "\"on_demand.preload\" at the top level");
}

static void check_gpu(struct config_load *l, const struct config_instance *in, const struct config_seen *seen)
{
        if (in->gpu_mode == CONFIG_GPU_NONE && in->replicas_per_gpu)
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "replicas",
                            "\"per-gpu\" contradicts \"gpu\": \"none\"");
        if (in->gpu_mode == CONFIG_GPU_AUTO)
                return;
        for (size_t i = 0; in->env && in->env[i]; i++)
                if (config_env_is_gpu(in->env[i]))
                        KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "gpu",
                                    "contradicts the variable %.*s in \"env\"", (int)strcspn(in->env[i], "="),
                                    in->env[i]);
}

static int compare_strings(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool sets_same_variable(const char *a, const char *b)
{
        size_t n = strcspn(a, "=") + 1;

        return strncmp(a, b, n) == 0;
}

/* Global args before its own, global env below its own. */
static void inherit_lists(struct config_load *l, struct config_instance *in)
{
        const struct config_llama_server *global = &l->config->llama_server;
        char **args = NULL;
        size_t own = text_list_count(in->env);
        int r = 0;

        for (size_t i = 0; r == 0 && global->args && global->args[i]; i++)
                r = text_list_add(&args, global->args[i]);
        for (size_t i = 0; r == 0 && in->args && in->args[i]; i++)
                r = text_list_add(&args, in->args[i]);
        text_list_free(in->args);
        in->args = args;
        for (size_t i = 0; r == 0 && global->env && global->env[i]; i++) {
                bool overridden = false;

                for (size_t j = 0; j < own; j++)
                        overridden |= sets_same_variable(global->env[i], in->env[j]);
                if (!overridden)
                        r = text_list_add(&in->env, global->env[i]);
        }
        if (in->env)
                qsort(in->env, text_list_count(in->env), sizeof *in->env, compare_strings);
        if (r < 0)
                l->failed_memory = true;
}

static void check_instance(struct config_load *l, size_t i)
{
        struct config_instance *in = l->config->instances + i;
        const struct config_seen *seen = l->instances + i;

        check_args(l, seen, PLACE_INSTANCE, "args", in->args);
        if (in->adopt_text)
                check_adopt_excludes(l, seen);
        else
                inherit_lists(l, in);
        check_model(l, in, seen);
        check_instance_address(l, in, seen);
        check_gpu(l, in, seen);
        check_range_rows(l, in, seen);
        check_weights(l, in, seen);
        check_on_demand(l, in, seen);
        check_backoff(l, seen, PLACE_INSTANCE, &in->restart);
        if (in->name && streq(in->name, "control"))
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "name",
                            "\"control\" is taken: control.sock in runtime_dir is our own socket");
        if (in->name && l->config->runtime_dir &&
            strlen(l->config->runtime_dir) + strlen("/") + strlen(in->name) + strlen("-63.sock") >
                    SOCKET_PATH_MAX)
                KEY_PROBLEM(config_error, l, seen, PLACE_INSTANCE, "name",
                            "with runtime_dir %s the path of its unix socket is longer than %d bytes",
                            l->config->runtime_dir, SOCKET_PATH_MAX);
}

/* --- names ------------------------------------------------------------------------------------------------------ */

struct name {
        const char *text;
        size_t instance;
        struct config_spot at;
        int alias; /* its index, or -1 for the entry's own name */
};

static int compare_names(const void *a, const void *b)
{
        const struct name *x = a, *y = b;
        int r = strcmp(x->text, y->text);

        if (r)
                return r;
        if (x->instance != y->instance)
                return x->instance < y->instance ? -1 : 1;
        return (x->alias > y->alias) - (x->alias < y->alias);
}

/* Copies that an entry may have: one has no number. */
static unsigned copies(const struct config_instance *in)
{
        return in->replicas_per_gpu ? CONFIG_REPLICAS_MAX : MAX(in->replicas, in->replicas_max);
}

static void name_error(struct config_load *l, const struct name *n, const char *what,
                       const struct config_spot *other)
{
        unsigned index = l->instances[n->instance].index;
        char spot[CONFIG_SPOT_MAX];
        size_t back;

        if (n->alias < 0)
                back = config_path_add(l, "instances[%u].name", index);
        else
                back = config_path_add(l, "instances[%u].aliases[%d]", index, n->alias);
        config_error(l, n->at, "\"%s\" %s %s", n->text, what, config_spot_text(other, spot, sizeof spot));
        config_path_back(l, back);
}

/* "qwen-1" is also a copy of the entry "qwen" when that has several. */
static void check_against_copies(struct config_load *l, const struct name *n, const struct name *names,
                                 size_t count)
{
        const char *dash = strrchr(n->text, '-');
        _cleanup_free_ char *base = NULL;
        size_t digits = dash ? strspn(dash + 1, "0123456789") : 0;
        unsigned number;

        if (!dash || digits == 0 || digits > 2 || dash[1 + digits] || (digits > 1 && dash[1] == '0'))
                return;
        number = (unsigned)strtoul(dash + 1, NULL, 10);
        base = strndup(n->text, (size_t)(dash - n->text));
        if (!had_memory(l, base))
                return;
        for (size_t lo = 0, hi = count; lo < hi;) {
                size_t mid = lo + (hi - lo) / 2;
                int r = strcmp(names[mid].text, base);

                if (r < 0) {
                        lo = mid + 1;
                        continue;
                }
                if (r > 0) {
                        hi = mid;
                        continue;
                }
                while (mid > 0 && streq(names[mid - 1].text, base))
                        mid--;
                for (; mid < count && streq(names[mid].text, base); mid++)
                        if (names[mid].alias < 0 && copies(l->config->instances + names[mid].instance) > 1 &&
                            number < copies(l->config->instances + names[mid].instance)) {
                                name_error(l, n, "is also the name of a replica of the entry at",
                                           &names[mid].at);
                                return;
                        }
                return;
        }
}

static size_t collect_names(struct config_load *l, struct name *names)
{
        size_t count = 0;

        for (size_t i = 0; i < l->config->n_instances; i++) {
                const struct config_instance *in = l->config->instances + i;
                struct config_spot at = config_seen_spot(l->instances + i, PLACE_INSTANCE, "aliases");

                if (in->name)
                        names[count++] = (struct name){
                                in->name, i, config_seen_spot(l->instances + i, PLACE_INSTANCE, "name"), -1};
                at.token++;
                for (int j = 0; in->aliases && in->aliases[j];
                     j++, at.token = at.doc->scan.tokens[at.token].next)
                        names[count++] = (struct name){in->aliases[j], i, at, j};
        }
        return count;
}

/* The bodies of requests are changed before it is known which entry serves them. */
static bool ask_alike(const struct config_instance *a, const struct config_instance *b)
{
        return streq_ptr(a->request_set, b->request_set) &&
               text_list_equal(a->request_strip, b->request_strip);
}

/* A name that was there before, at `first`: only an alias may be so twice, and only of different entries. */
static void check_name_again(struct config_load *l, const struct name *n, const struct name *first)
{
        const struct config_instance *all = l->config->instances;

        if (n->alias >= 0 && n[-1].instance == n->instance)
                name_error(l, n, "is listed already at", &n[-1].at);
        else if (first->alias < 0 || n->alias < 0)
                name_error(l, n, "is taken already at", &first->at);
        else if (!ask_alike(all + first->instance, all + n->instance))
                name_error(l, n, "is shared with an entry whose \"request\" differs, see", &first->at);
}

static void check_names(struct config_load *l)
{
        _cleanup_free_ struct name *names = NULL;
        size_t count = 0;

        for (size_t i = 0; i < l->config->n_instances; i++)
                count += 1 + text_list_count(l->config->instances[i].aliases);
        names = calloc(count + 1, sizeof *names);
        if (!had_memory(l, names))
                return;
        count = collect_names(l, names);
        qsort(names, count, sizeof *names, compare_names);
        for (size_t i = 1, first = 0; i < count; i++) {
                if (!streq(names[i].text, names[first].text)) {
                        first = i;
                        continue;
                }
                check_name_again(l, names + i, names + first);
        }
        for (size_t i = 0; i < count; i++)
                check_against_copies(l, names + i, names, count);
}

/* --- one that was added ---------------------------------------------------------------------------------------- */

const struct config_instance *config_check_added(struct config_load *l, size_t i)
{
        struct config *c = l->config;
        const struct config_instance *in = c->instances + i, *taker = NULL;
        const char *name = in->name;
        int alias = -1;

        check_instance(l, i);
        c->n_instances--; /* the others; it is the last */
        taker = name ? config_find_taken(c, name) : NULL;
        while (!taker && in->aliases && in->aliases[alias + 1]) {
                name = in->aliases[++alias];
                taker = name && in->name && streq(name, in->name) ? in : config_find_taken(c, name);
        }
        c->n_instances++;
        if (!taker)
                return NULL;
        if (taker == in || !taker->where.file)
                KEY_PROBLEM(config_error, l, l->instances + i, PLACE_INSTANCE, alias < 0 ? "name" : "aliases",
                            "\"%s\" is taken already", name);
        else
                KEY_PROBLEM(config_error, l, l->instances + i, PLACE_INSTANCE, alias < 0 ? "name" : "aliases",
                            "\"%s\" is taken already by the entry \"%s\" (%s:%u)", name, taker->name,
                            taker->where.file, taker->where.line);
        return taker == in ? NULL : taker;
}

/* --- all -------------------------------------------------------------------------------------------------------- */

static void check_endpoints(struct config_load *l)
{
        const struct config *c = l->config;
        char spot[CONFIG_SPOT_MAX];

        for (size_t i = 0; i < c->n_instances; i++) {
                const struct config_instance *in = c->instances + i;
                const char *key = in->adopt ? "adopt" : "endpoint";
                const struct config_spot *other = NULL;
                size_t back;

                if (!in->endpoint.len)
                        continue;
                for (size_t j = 0; !other && j < c->n_listen; j++)
                        if (c->listen[j].endpoint.len &&
                            endpoint_equal(&in->endpoint, &c->listen[j].endpoint))
                                other = &l->listen[j].self;
                for (size_t j = 0; !other && j < i; j++)
                        if (endpoint_equal(&in->endpoint, &c->instances[j].endpoint) &&
                            c->instances[j].endpoint.len)
                                other = &l->instances[j].self;
                if (!other)
                        continue;
                back = config_path_add(l, "instances[%u]", l->instances[i].index);
                KEY_PROBLEM(config_error, l, l->instances + i, PLACE_INSTANCE, key,
                            "is the address of %s, too",
                            other->doc ? config_spot_text(other, spot, sizeof spot) : "our own listener");
                config_path_back(l, back);
        }
}

static void check_total(struct config_load *l)
{
        size_t total = 0;

        for (size_t i = 0; i < l->config->n_instances; i++)
                total += MAX(l->config->instances[i].replicas, l->config->instances[i].replicas_max);
        if (total > CONFIG_INSTANCES_MAX)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "instances",
                            "has %zu replicas in all, at most %d are allowed", total, CONFIG_INSTANCES_MAX);
}

/* The daemon reads it itself, again and again; here it is told what is wrong before it does. */
static void check_keys_file(struct config_load *l)
{
        const struct file_ops *files = l->env->files;
        const char *path = l->config->auth_keys_file;
        struct keys_problem problem;
        struct file_facts facts;
        struct keys *keys = NULL;
        char *text = NULL;
        size_t len = 0;
        int r;

        if (!path)
                return;
        r = files->read(files->owner, path, KEYS_FILE_MAX, &text, &len);
        if (r == -ENOENT)
                KEY_PROBLEM(
                        config_warning, l, l->top, PLACE_TOP, "auth.keys_file",
                        "%s is not there yet, so no key is in force: llama-supervisor key add NAME makes it",
                        path);
        else if (r < 0)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "auth.keys_file", "%s cannot be read: %s",
                            path, strerror(-r));
        if (r < 0)
                return;
        if (files->stat(files->owner, path, &facts) >= 0 && S_ISREG(facts.mode) && (facts.mode & 07))
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "auth.keys_file",
                            "everybody on this machine can %s %s (mode %04o); chmod 640 it",
                            facts.mode & 02 ? "change" : "read", path, facts.mode & 07777U);
        r = keys_load(text, len, &keys, &problem);
        if (r == -EBADMSG)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "auth.keys_file",
                            "in the keys file %s:%u:%u: %s", path, problem.line, problem.column,
                            problem.message);
        else if (r < 0)
                l->failed_memory = true;
        keys_free(keys);
        free(text);
}

/* --- the spool --------------------------------------------------------------------------------------------------- */

_Static_assert(SPOOL_COMMAND_WORDS_MAX == 64, "as the words below say");

static void check_command(void *owner, const char *name, struct json_value *argv)
{
        const char *program = json_as_string(json_at(argv, 0)), *wrong = NULL;
        struct config_load *l = owner;
        char buf[80];

        if (!json_is_array(argv) || json_count(argv) == 0)
                wrong = "expected an array of words, the program first";
        for (size_t i = 0; !wrong && i < json_count(argv); i++)
                if (!json_as_string(json_at(argv, i)))
                        wrong = "expected strings";
        if (!wrong && program[0] != '/')
                wrong = "the program must be an absolute path";
        if (!wrong && json_count(argv) > SPOOL_COMMAND_WORDS_MAX)
                wrong = "more than 64 words: put them into a script, and name that";
        if (wrong)
                KEY_PROBLEM(config_error, l, l->top, PLACE_TOP, "spool.commands", "%s: %s", shown(name, buf),
                            wrong);
}

static void check_spool(struct config_load *l)
{
        const char *text = l->config->spool.commands;
        struct json_value *all = NULL;

        if (!text)
                return;
        if (json_parse(text, strlen(text), &all, NULL) < 0)
                l->failed_memory = true; /* it was good JSON when it was read */
        json_each(all, check_command, l);
        json_free(all);
}

void config_check_all(struct config_load *l)
{
        struct config *c = l->config;

        check_dirs(l);
        check_backoff(l, l->top, PLACE_TOP, &c->restart);
        check_args(l, l->top, PLACE_TOP, "llama_server.args", c->llama_server.args);
        check_gateway(l);
        for (size_t i = 0; i < c->n_listen; i++) {
                size_t back = config_path_add(l, "listen[%u]", l->listen[i].index);

                check_listen(l, i);
                config_path_back(l, back);
        }
        for (size_t i = 0; i < c->n_instances; i++) {
                size_t back = config_path_add(l, "instances[%u]", l->instances[i].index);

                check_instance(l, i);
                config_path_back(l, back);
        }
        check_names(l);
        check_endpoints(l);
        check_keys_file(l);
        check_spool(l);
        check_total(l);
        config_check_hubs(l);
        config_check_references(l);
}
