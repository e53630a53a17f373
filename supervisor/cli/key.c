/* key.c: `key add`, `key list`, `key revoke`: the keys file of the configuration, with or without a daemon. */
#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "cli/keyfile.h"
#include "cli/table.h"
#include "cli/verb.h"
#include "core/config.h"

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static int no_memory(struct cli *cli)
{
        return cli_fail(cli, "not enough memory");
}

/* Why the keys file of this configuration cannot be known. */
static int say_problems(struct cli *cli, const char *file, const struct config_problems *problems)
{
        for (size_t i = 0; i < problems->count; i++) {
                _cleanup_free_ char *text =
                        problems->list[i].warning ? NULL : config_problem_text(problems->list + i);

                if (text)
                        (void)cli_fail(cli, "%s", text);
        }
        return cli_fail(cli, "%s has errors; --file names the keys file itself", file);
}

/* The keys file: --file, or what the configuration says. CLI_DONE with *ret malloc'd. */
static int find_file(struct cli *cli, char **ret)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0), *fallback = cli->config ? NULL : cli_default_config();
        const char *given = options_get(&cli->options, "file"), *file = cli->config ? cli->config : fallback;
        const struct config_env env = {
                .files = &file_ops_real, .get = get_env, .cwd = cwd, .is_root = geteuid() == 0};
        struct config_problems problems = {0};
        struct config *c = NULL;
        int r;

        if (given) {
                *ret = text_dup(given);
                return *ret ? CLI_DONE : no_memory(cli);
        }
        if (!file)
                return no_memory(cli);
        r = config_load(file, &env, &c, &problems);
        if (r == 0 && !c->auth_keys_file)
                r = cli_fail(cli, "%s names no keys file: say \"auth\": {\"keys_file\": \"keys.json\"} there",
                             file);
        else if (r == 0)
                r = (*ret = text_dup(c->auth_keys_file)) ? CLI_DONE : no_memory(cli);
        else if (r == -EBADMSG)
                r = say_problems(cli, file, &problems);
        else
                r = no_memory(cli);
        config_problems_finish(&problems);
        config_free(c);
        return r;
}

static int open_file(struct cli *cli, bool for_writing, struct keyfile *ret)
{
        _cleanup_free_ char *path = NULL, *error = NULL;
        int r = find_file(cli, &path);

        if (r != CLI_DONE)
                return r;
        r = keyfile_open(path, for_writing, ret, &error);
        return r == 0 ? CLI_DONE : cli_fail(cli, "%s", error ? error : strerror(-r));
}

static int save_file(struct cli *cli, struct keyfile *f)
{
        _cleanup_free_ char *error = NULL;
        int r = keyfile_save(f, &error);

        return r == 0 ? CLI_DONE : cli_fail(cli, "%s", error ? error : strerror(-r));
}

/* --- add ------------------------------------------------------------------------------------------------------------ */

static int take_number(struct cli *cli, const char *option, unsigned max, unsigned *ret)
{
        const char *text = options_get(&cli->options, option);
        size_t n = text ? strlen(text) : 0;

        if (!text)
                return CLI_DONE;
        if (n == 0 || n > 9 || strspn(text, "0123456789") != n || strtoul(text, NULL, 10) > max)
                return cli_usage(cli, "--%s is a whole number from 0 (no bound) to %u, not \"%s\"", option,
                                 max, text);
        *ret = (unsigned)strtoul(text, NULL, 10);
        return CLI_DONE;
}

static int take_options(struct cli *cli, struct key *key)
{
        const char *scopes = options_get(&cli->options, "scope"),
                   *priority = options_get(&cli->options, "priority");
        int r;

        if (key_scopes_parse(scopes ? scopes : "read,infer", &key->scopes) < 0)
                return cli_usage(cli, "--scope is one or more of read, infer and admin: --scope read,infer");
        key->priority = KEY_PRIORITY_NORMAL;
        if (priority && key_priority_parse(priority, &key->priority) < 0)
                return cli_usage(cli, "--priority is low, normal or high, not \"%s\"", priority);
        r = take_number(cli, "rate", KEY_RATE_MAX, &key->rate);
        return r == CLI_DONE ? take_number(cli, "concurrency", KEY_CONCURRENCY_MAX, &key->concurrency) : r;
}

/* The key itself goes to stdout and nowhere else. */
static int print_key(struct cli *cli, const struct keyfile *f, const char *name, const char *text)
{
        _cleanup_buffer_ struct buffer out = {0};
        struct json_writer w;
        int r;

        buffer_init(&out, 0);
        if (cli->json) {
                json_begin(&w, &out);
                json_open_object(&w);
                json_string(&w, "name", name);
                json_string(&w, "key", text);
                json_string(&w, "file", f->path);
                json_close_object(&w);
        } else {
                (void)buffer_puts(&out, text);
        }
        (void)buffer_putc(&out, '\n');
        r = cli_print(cli, &out);
        if (out.data)
                secret_forget(out.data, out.len);
        if (r != CLI_DONE)
                return cli_fail(cli,
                                "the key could not be printed and is lost: llama-supervisor key revoke %s",
                                name);
        if (!cli->json)
                (void)fprintf(
                        stderr,
                        "The key \"%s\" is in %s; a daemon takes it over within seconds. It is shown only "
                        "this once.\n",
                        name, f->path);
        return CLI_DONE;
}

static int add_main(struct cli *cli, const char *name)
{
        unsigned char random[KEY_RANDOM_SIZE];
        char text[KEY_TEXT_SIZE], now[TIME_ISO_MAX];
        _cleanup_keyfile_ struct keyfile f = {0};
        struct key key = {.name = (char *)name};
        int r;

        if (!text_is_name(name))
                return cli_usage(cli,
                                 "\"%s\" is no name for a key: 1 to 63 of letters, digits, '.', '_' and '-', "
                                 "beginning with a letter or digit",
                                 name);
        r = take_options(cli, &key);
        if (r != CLI_DONE)
                return r;
        r = open_file(cli, true, &f);
        if (r != CLI_DONE)
                return r;
        r = secret_random(random, sizeof(random));
        if (r < 0)
                return cli_fail(cli, "no random bytes: %s", strerror(-r));
        (void)key_text(random, text);
        secret_forget(random, sizeof(random));
        key.created = time_iso(time_realtime(), now, sizeof(now));
        r = secret_sha256(text, strlen(text), key.hash);
        if (r == 0)
                r = keys_add(f.keys, &key);
        if (r == -EEXIST)
                r = cli_fail(cli, "%s has a key \"%s\" already: take another name, or revoke that one first",
                             f.path, name);
        else if (r == -E2BIG)
                r = cli_fail(cli, "%s is full (%d keys): remove entries that were revoked", f.path, KEYS_MAX);
        else if (r < 0)
                r = no_memory(cli);
        else
                r = save_file(cli, &f);
        if (r == CLI_DONE)
                r = print_key(cli, &f, name, text);
        secret_forget(text, sizeof(text));
        return r;
}

/* --- revoke --------------------------------------------------------------------------------------------------------- */

static int say_unknown(struct cli *cli, const struct keyfile *f, const char *name)
{
        const char *names[KEYS_MAX + 1], *nearest;
        size_t n = 0;

        for (size_t i = 0; i < f->keys->count; i++)
                if (!f->keys->list[i].revoked)
                        names[n++] = f->keys->list[i].name;
        names[n] = NULL;
        nearest = text_nearest(name, names);
        if (nearest)
                return cli_fail(cli, "%s has no key \"%s\"; did you mean \"%s\"?", f->path, name, nearest);
        return cli_fail(cli, "%s has no key \"%s\"", f->path, name);
}

static int revoke_main(struct cli *cli, const char *name)
{
        _cleanup_keyfile_ struct keyfile f = {0};
        _cleanup_buffer_ struct buffer out = {0};
        char now[TIME_ISO_MAX];
        struct json_writer w;
        int r = open_file(cli, true, &f);

        if (r != CLI_DONE)
                return r;
        (void)time_iso(time_realtime(), now, sizeof(now));
        r = keys_revoke(f.keys, name, now);
        if (r == -ENOENT)
                return say_unknown(cli, &f, name);
        if (r == -EALREADY)
                return cli_fail(cli, "the key \"%s\" in %s was revoked before", name, f.path);
        if (r < 0)
                return no_memory(cli);
        r = save_file(cli, &f);
        if (r != CLI_DONE)
                return r;
        buffer_init(&out, 0);
        if (cli->json) {
                json_begin(&w, &out);
                json_open_object(&w);
                json_string(&w, "name", name);
                json_string(&w, "revoked", now);
                json_string(&w, "file", f.path);
                json_close_object(&w);
                (void)buffer_putc(&out, '\n');
        } else {
                (void)buffer_printf(
                        &out,
                        "The key \"%s\" is revoked; a daemon refuses it, and ends what it has open, "
                        "within seconds.\n",
                        name);
        }
        return cli_print(cli, &out);
}

/* --- list ------------------------------------------------------------------------------------------------------------- */

static void put_json(const struct keyfile *f, struct buffer *out)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "file", f->path);
        json_key(&w, "keys");
        json_open_array(&w);
        for (size_t i = 0; i < f->keys->count; i++) {
                const struct key *key = f->keys->list + i;

                json_open_object(&w);
                json_string(&w, "name", key->name);
                json_key(&w, "scopes");
                json_open_array(&w);
                for (unsigned bit = 1; bit <= CONFIG_SCOPE_ADMIN; bit <<= 1) {
                        char word[24];

                        if (key->scopes & bit)
                                json_put_string(&w, key_scopes_text(bit, word, sizeof(word)));
                }
                json_close_array(&w);
                json_string(&w, "priority", key_priority_name(key->priority));
                json_uint(&w, "rate", key->rate);
                json_uint(&w, "concurrency", key->concurrency);
                json_string(&w, "created", *key->created ? key->created : NULL);
                json_string(&w, "revoked", key->revoked);
                json_close_object(&w);
        }
        json_close_array(&w);
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
}

static int put_table(struct cli *cli, const struct keyfile *f, struct buffer *out)
{
        static const struct table_column columns[] = {
                {.title = "NAME"},
                {.title = "SCOPES"},
                {.title = "PRIORITY"},
                {.title = "RATE", .right = true},
                {.title = "AT ONCE", .right = true},
                {.title = "CREATED"},
                {.title = "REVOKED"},
        };
        struct table t;
        char scopes[24];
        int r;

        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < f->keys->count; i++) {
                const struct key *key = f->keys->list + i;
                enum colour c = key->revoked ? COLOUR_DIM : COLOUR_NONE;

                table_row(&t);
                table_put(&t, c, key->name);
                table_put(&t, c, key_scopes_text(key->scopes, scopes, sizeof(scopes)));
                table_put(&t, c, key_priority_name(key->priority));
                if (key->rate)
                        table_printf(&t, c, "%u/min", key->rate);
                else
                        table_put(&t, c, "");
                if (key->concurrency)
                        table_printf(&t, c, "%u", key->concurrency);
                else
                        table_put(&t, c, "");
                table_put(&t, c, key->created);
                table_put(&t, c, key->revoked ? key->revoked : "");
        }
        r = table_print(&t, &cli->screen, 0, out);
        table_finish(&t);
        return r;
}

static int list_main(struct cli *cli)
{
        _cleanup_keyfile_ struct keyfile f = {0};
        _cleanup_buffer_ struct buffer out = {0};
        int r = open_file(cli, false, &f);

        if (r != CLI_DONE)
                return r;
        buffer_init(&out, 0);
        if (cli->json)
                put_json(&f, &out);
        else if (f.keys->count == 0)
                (void)buffer_printf(&out, "%s holds no keys: llama-supervisor key add NAME makes one\n",
                                    f.path);
        else if (put_table(cli, &f, &out) < 0)
                return no_memory(cli);
        return cli_print(cli, &out);
}

/* --- which ------------------------------------------------------------------------------------------------------------ */

int key_main(struct cli *cli)
{
        static const char *const words[] = {"add", "list", "revoke", NULL};
        const char *word = cli->options.plain[0], *nearest;
        bool named = cli->options.n_plain > 1;

        for (size_t i = 0; cli->options.n_given > i; i++) {
                const char *option = cli->options.given[i].spec->name;

                if (!streq(word, "add") && (streq(option, "scope") || streq(option, "priority") ||
                                            streq(option, "rate") || streq(option, "concurrency")))
                        return cli_usage(cli, "--%s is for key add", option);
        }
        if (streq(word, "list"))
                return named ? cli_usage(cli, "key list takes no name") : list_main(cli);
        if (streq(word, "add") || streq(word, "revoke")) {
                if (!named)
                        return cli_usage(cli, "a name is missing: llama-supervisor key %s NAME", word);
                return streq(word, "add") ? add_main(cli, cli->options.plain[1])
                                          : revoke_main(cli, cli->options.plain[1]);
        }
        nearest = text_nearest(word, words);
        if (nearest)
                return cli_usage(cli, "key %s is nothing; did you mean key %s?", word, nearest);
        return cli_usage(cli, "key %s is nothing: key add NAME, key list, key revoke NAME", word);
}
