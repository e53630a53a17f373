/* main_reap.c: `llama-supervisor reap`: without a daemon, so it is no verb of the client: it needs the hands. */
#include "main_reap.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/text.h"
#include "cli/verb.h"
#include "cli/where.h"
#include "core/config.h"
#include "host/manager.h"
#include "host/process.h"
#include "host/reaper.h"
#include "host/record.h"

#define GRACE_DEFAULT (5 * USEC_PER_SEC)

struct reap {
        struct options options;
        struct config *config; /* NULL: it cannot be read; then only the runtime directory is known */
        char *runtime_dir;
        bool json, dry_run, post;
        struct buffer events; /* JSON */
        struct json_writer w;
};

static int fail(const char *fmt, ...) PRINTF_LIKE(1, 2);
static int fail(const char *fmt, ...)
{
        va_list ap;

        (void)fputs("llama-supervisor reap: ", stderr);
        va_start(ap, fmt);
        (void)vfprintf(stderr, fmt, ap);
        va_end(ap);
        (void)fputc('\n', stderr);
        return CLI_FAILED;
}

/* --- where ------------------------------------------------------------------------------------------------------------- */

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static void load_config(struct reap *x, const char *file)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        struct config_env env = {
                .files = &file_ops_real, .get = get_env, .is_root = geteuid() == 0, .cwd = cwd};
        struct config_problems problems;

        if (config_load(file, &env, &x->config, &problems) < 0)
                x->config = NULL;
        config_problems_finish(&problems);
}

/* Also of a configuration that is broken, or gone: children must be found when all else is. */
static int find_place(struct reap *x)
{
        const char *given = options_get(&x->options, "config");
        _cleanup_free_ char *fallback = given ? NULL : cli_default_config(), *socket = NULL, *note = NULL;
        const char *file = given ? given : fallback;
        char *slash;

        if (file)
                load_config(x, file);
        if (x->config) {
                x->runtime_dir = text_dup(x->config->runtime_dir);
                return x->runtime_dir ? CLI_DONE : fail("not enough memory");
        }
        if (where_is_socket(given, &socket, &note) < 0 || !socket)
                return fail("not enough memory");
        slash = strrchr(socket, '/');
        if (!slash || slash == socket)
                return fail("the runtime directory is not known: name a configuration with --config FILE");
        *slash = '\0';
        x->runtime_dir = text_dup(socket);
        (void)fprintf(stderr, "llama-supervisor reap: %s cannot be read: looking into %s\n",
                      file ? file : "the configuration", socket);
        return x->runtime_dir ? CLI_DONE : fail("not enough memory");
}

/* Whose children they are: with that user's rights we can neither meet nor harm anybody else's. */
static int become_owner(const struct reap *x)
{
        const struct passwd *user;
        struct stat st;
        gid_t gid;

        if (geteuid() != 0 || stat(x->runtime_dir, &st) < 0 || st.st_uid == 0)
                return CLI_DONE;
        /* Processes show themselves to those of the same user and group only. */
        user = getpwuid(st.st_uid);
        gid = user ? user->pw_gid : st.st_gid;
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 ||
            setresuid(st.st_uid, st.st_uid, st.st_uid) < 0)
                return fail("cannot become the owner of %s (user %u): %s", x->runtime_dir,
                            (unsigned)st.st_uid, strerror(errno));
        return CLI_DONE;
}

/* --- telling ------------------------------------------------------------------------------------------------------------- */

static const char *const words[] = {
        [REAPER_FOUND] = "found", [REAPER_TERM] = "told to end", [REAPER_KILL] = "killed",
        [REAPER_ENDED] = "ended", [REAPER_LEFT] = "left",        [REAPER_FAILED] = "failed",
};

static void put_json(struct reap *x, enum reaper_event event, const struct reaper_report *r)
{
        json_open_object(&x->w);
        json_string(&x->w, "name", r->name);
        json_string(&x->w, "event", words[event]);
        if (r->pid)
                json_int(&x->w, "pid", r->pid);
        else
                json_null(&x->w, "pid");
        json_uint(&x->w, "others", r->others);
        json_double(&x->w, "after", (double)r->after / (double)USEC_PER_SEC, 3);
        json_string(&x->w, "error", r->error ? strerror(-r->error) : NULL);
        json_close_object(&x->w);
}

static void put_who(const struct reaper_report *r)
{
        (void)printf("%s: ", r->name);
        if (r->pid)
                (void)printf("pid %d%s", (int)r->pid, r->others ? " and " : "");
        if (r->others)
                (void)printf("%u %s", r->others, r->others == 1 ? "process of it" : "processes of it");
}

static void on_event(void *owner, enum reaper_event event, const struct reaper_report *r)
{
        struct reap *x = owner;
        char span[TIME_SPAN_MAX];

        if (x->json) {
                put_json(x, event, r);
                return;
        }
        if (event == REAPER_FOUND && !x->dry_run)
                return; /* told with its SIGTERM */
        if (event == REAPER_ENDED) {
                (void)printf("%s: ended after %s\n", r->name, time_span(r->after, span, sizeof(span)));
                return;
        }
        put_who(r);
        switch (event) {
        case REAPER_FOUND:
                (void)printf(" %s on: would be ended\n", r->pid || r->others == 1 ? "lives" : "live");
                break;
        case REAPER_TERM:
                (void)printf(": SIGTERM\n");
                break;
        case REAPER_KILL:
                (void)printf(": SIGKILL, since it did not end in %s\n",
                             time_span(r->after, span, sizeof(span)));
                break;
        case REAPER_LEFT:
                (void)printf(": still there %s after SIGTERM\n", time_span(r->after, span, sizeof(span)));
                break;
        case REAPER_FAILED:
                (void)printf("cannot be looked at: %s\n", strerror(-r->error));
                break;
        case REAPER_ENDED:
                break;
        }
        (void)fflush(stdout);
}

/* stop.grace of the entry that the instance is a replica of. */
static usec_t grace_of(void *owner, const char *name)
{
        const struct reap *x = owner;
        usec_t grace = x->config ? x->config->stop.grace : GRACE_DEFAULT;

        for (size_t i = 0; x->config && i < x->config->n_instances; i++) {
                const struct config_instance *in = x->config->instances + i;
                size_t n = strlen(in->name);

                if (strncmp(name, in->name, n) == 0 && (name[n] == '\0' || name[n] == '-'))
                        grace = MAX(grace, in->stop.grace);
        }
        return grace;
}

/* --- doing ----------------------------------------------------------------------------------------------------------------- */

static int hunt(struct reap *x)
{
        const struct reaper_spec spec = {
                .runtime_dir = x->runtime_dir,
                .log_dir = x->config ? x->config->log_dir : NULL,
                .in_unit = x->post,
                .dry_run = x->dry_run,
                .grace = grace_of,
                .on_event = on_event,
                .owner = x,
        };
        struct loop *loop;
        unsigned left = 0;
        int r;

        r = loop_new(&loop);
        if (r < 0)
                return fail("%s", strerror(-r));
        buffer_init(&x->events, 0);
        json_begin(&x->w, &x->events);
        json_open_object(&x->w);
        json_string(&x->w, "runtimeDir", x->runtime_dir);
        json_bool(&x->w, "dryRun", x->dry_run);
        json_key(&x->w, "events");
        json_open_array(&x->w);
        r = reaper_run(loop, &spec, &left);
        json_close_array(&x->w);
        json_int(&x->w, "found", MAX(r, 0));
        json_uint(&x->w, "left", left);
        json_close_object(&x->w);
        loop_free(loop);
        process_finish();
        if (r < 0)
                return fail("%s", strerror(-r));
        if (x->json)
                (void)printf("%s\n", x->events.failed ? "{}" : x->events.data);
        else if (r == 0)
                (void)printf("nothing is left below %s\n", x->runtime_dir);
        return left ? CLI_FAILED : CLI_DONE;
}

/* After an end of the unit's main process: a stop, or a crash after which the next one takes the children over? A timeout is that of
 * the stop, or of a start that hung: then systemd tries again, and only a person's stop meanwhile makes an end of it. */
static bool is_stop(const struct reap *x)
{
        const char *result = getenv("SERVICE_RESULT");

        if (reaper_is_stopping(x->runtime_dir) || (result && streq(result, "success")))
                return true;
        if (!result || !streq(result, "timeout"))
                return false;
        return reaper_is_started(x->runtime_dir) || manager_wants_stop() > 0;
}

static int leave(const struct reap *x)
{
        const char *result = getenv("SERVICE_RESULT");
        int r = reaper_open_unit(x->runtime_dir);

        (void)printf("no stop (%s): what runs is left for the next daemon%s\n",
                     result ? result : "SERVICE_RESULT is not set",
                     r > 0 ? "; the unit's controllers are off until then" : "");
        return r < 0 ? fail("the controllers of the unit's group cannot be switched off, which may keep "
                            "systemd from "
                            "starting it again: %s",
                            strerror(-r))
                     : CLI_DONE;
}

static int reap(struct reap *x)
{
        pid_t holder = 0;
        int lock = -1, r;
        bool is_over;

        r = find_place(x);
        if (r == CLI_DONE)
                r = become_owner(x);
        if (r != CLI_DONE)
                return r;
        is_over = !x->post || is_stop(x);
        r = lockdir_take(x->runtime_dir, &lock, &holder);
        if (x->post && r == 0)
                reaper_forget_start(x->runtime_dir);
        if (!is_over) {
                close_fd(&lock);
                return leave(x);
        }
        if (r == -EBUSY)
                return fail("%s is held by llama-supervisor (pid %d), which looks after its children itself: "
                            "stop it "
                            "first (systemctl stop llama-supervisor)",
                            x->runtime_dir, (int)holder);
        if (r < 0 && r != -ENOENT)
                return fail("%s: %s", x->runtime_dir, strerror(-r));
        r = hunt(x);
        close_fd(&lock);
        return r;
}

int reap_main(int argc, char **argv)
{
        const struct verb *verb = cli_find_verb("reap");
        _cleanup_buffer_ struct buffer error = {0};
        struct reap x = {0};
        int r;

        buffer_init(&error, 0);
        x.options.tables[0] = verb->options;
        x.options.tables[1] = cli_common_options;
        r = options_parse(&x.options, argv + 1, (size_t)argc - 1, false, &error);
        if (r < 0 || x.options.n_plain) {
                (void)fprintf(stderr, "llama-supervisor reap: %s%s\n",
                              r < 0 ? error.data ? error.data : "not enough memory" : "unexpected argument ",
                              r < 0 ? "" : x.options.plain[0]);
                (void)fputs("Try: llama-supervisor help reap\n", stderr);
                return CLI_USAGE;
        }
        if (options_get(&x.options, "help")) {
                help_print(verb);
                return CLI_DONE;
        }
        if (options_get(&x.options, "socket")) {
                (void)fputs("llama-supervisor reap: it asks no daemon, so there is no --socket: name the "
                            "configuration with --config FILE\n",
                            stderr);
                return CLI_USAGE;
        }
        x.json = options_get(&x.options, "json") != NULL;
        x.dry_run = options_get(&x.options, "dry-run") != NULL;
        x.post = options_get(&x.options, "post") != NULL;
        r = reap(&x);
        config_free(x.config);
        buffer_finish(&x.events);
        free(x.runtime_dir);
        return r;
}
