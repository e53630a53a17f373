/* main.c: arguments; for `run`, builds the floors bottom-up, runs, and tears down in reverse. Every other verb is the CLI's. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "cli/cli.h"
#include "fleet/fleet.h"
#include "fleet/handover.h"
#include "fleet/summary.h"
#include "host/gpu_watch.h"
#include "host/journal.h"
#include "host/notify.h"
#include "host/process.h"
#include "host/reaper.h"
#include "host/record.h"
#include "host/reexec.h"
#include "http/doors.h"
#include "hub/hubs.h"
#include "net/tls.h"
#include "main_hub.h"
#include "main_plan.h"
#include "main_reap.h"

#define STOP_EXTENSION (30 * USEC_PER_SEC)

struct daemon {
        const char *config_file;
        struct loop *loop;
        struct handover *handover;
        struct fleet *fleet;
        struct hubs *hubs;
        struct doors *doors;
        struct journal *journal; /* NULL: our log is not the journal */
        struct signal_watch *term, *interrupt, *hangup, *upgrade;
        struct timer *watchdog, *patience;
        usec_t watchdog_interval;
        int lock_fd;
        bool stopping, fleet_stopped, hubs_drained;
        bool reloading, reload_again;    /* for SIGHUP */
        char told[SUMMARY_SENTENCE_MAX]; /* the last STATUS= */
};

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

/* All problems, one a line, into out; 0 (then they are warnings) or -EBADMSG. */
static int load_config(const char *file, config_tls_check_fn *check_tls, struct config **ret,
                       struct buffer *out)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        struct config_env env = {.files = &file_ops_real,
                                 .get = get_env,
                                 .is_root = geteuid() == 0,
                                 .cwd = cwd,
                                 .check_tls = check_tls};
        struct config_problems problems;
        int r;

        r = config_load(file, &env, ret, &problems);
        for (size_t i = 0; i < problems.count; i++) {
                _cleanup_free_ char *text = config_problem_text(&problems.list[i]);

                if (text && (r < 0 || problems.list[i].warning))
                        (void)buffer_printf(out, "%s\n", text);
        }
        if (problems.dropped)
                (void)buffer_printf(out, "%s: and %zu more\n", file, problems.dropped);
        config_problems_finish(&problems);
        return r;
}

/* The fleet's way to a new configuration, in a thread of the pool: nothing of the daemon but the file's name is touched. */
static int load_again(void *owner, struct config **ret, struct buffer *ret_words)
{
        const struct daemon *d = owner;

        /* A certificate that is being renewed is no reason to refuse the rest: http/doors_tls keeps the old one, and says so. */
        return load_config(d->config_file, NULL, ret, ret_words);
}

static void on_all_stopped(void *owner)
{
        struct daemon *d = owner;

        d->fleet_stopped = true;
        if (d->hubs_drained)
                loop_stop(d->loop);
}

/* What was claimed is done or given back, and the hubs know; or they had their time. */
static void on_hubs_drained(void *owner)
{
        struct daemon *d = owner;

        d->hubs_drained = true;
        if (d->fleet_stopped)
                loop_stop(d->loop);
}

/* A stop may take longer than the unit's timeout says (stop.drain of an hour); as long as the loop turns, it has its own bounds. */
static void on_patience(void *owner, usec_t now)
{
        struct daemon *d = owner;

        notify_extend_timeout(STOP_EXTENSION);
        timer_set(d->patience, usec_add(now, STOP_EXTENSION / 3));
}

static void on_stop_signal(void *owner, int signo, usec_t now)
{
        struct daemon *d = owner;
        char text[64];

        if (d->stopping) {
                log_info(NULL, "SIG%s again: no more patience", sigabbrev_np(signo));
                hubs_hurry(d->hubs);
                fleet_hurry(d->fleet);
                return;
        }
        d->stopping = true;
        handover_abandon(d->handover);
        (void)snprintf(text, sizeof text, "SIG%s: stopping every instance", sigabbrev_np(signo));
        history_tell(fleet_history(d->fleet), LOG_INFO,
                     &(struct history_event){.kind = "stopping", .text = text});
        notify_stopping();
        if (notify_is_on())
                on_patience(d, now);
        reaper_note_stop(fleet_config(d->fleet)->runtime_dir);
        hubs_drain(d->hubs, on_hubs_drained, d); /* first: what waits for a slot is given back, not refused */
        fleet_stop(d->fleet, on_all_stopped, d);
}

static void begin_reload(struct daemon *d);

static void on_reloaded(void *owner, int r, const struct buffer *answer)
{
        struct daemon *d = owner;

        (void)r; /* the fleet has told it to everybody */
        (void)answer;
        d->reloading = false;
        if (d->reload_again)
                begin_reload(d);
        else
                notify_ready();
}

static void begin_reload(struct daemon *d)
{
        int r = fleet_reload(d->fleet, false, on_reloaded, d, NULL);

        d->reload_again = false;
        d->reloading = r == 0;
        if (r == 0)
                return;
        if (r != -ESHUTDOWN)
                log_err(NULL, "the configuration cannot be read again now: %s", strerror(-r));
        notify_ready();
}

/* However many come while one is under way, one more is enough for what was written meanwhile. */
static void on_reload_signal(void *owner, int signo, usec_t now)
{
        struct daemon *d = owner;

        (void)signo;
        (void)now;
        if (d->stopping)
                return;
        notify_reloading();
        if (d->reloading)
                d->reload_again = true;
        else
                begin_reload(d);
}

static void on_upgrade_signal(void *owner, int signo, usec_t now)
{
        struct daemon *d = owner;
        const char *why;
        int r;

        (void)signo;
        (void)now;
        r = handover_begin(d->handover, false, NULL, NULL, &why);
        if (r < 0)
                log_warn(NULL, "SIGUSR2: no upgrade: %s", why);
}

static void on_watchdog(void *owner, usec_t now)
{
        struct daemon *d = owner;

        notify_watchdog();
        timer_set(d->watchdog, usec_add(now, d->watchdog_interval));
}

static void on_change(void *owner, const struct fleet_change *changes, size_t n, usec_t now)
{
        struct daemon *d = owner;
        struct summary summary;

        (void)changes;
        (void)n;
        (void)now;
        if (!notify_is_on())
                return;
        summary_of(d->fleet, &summary);
        if (!streq(summary.line, d->told))
                notify_status(summary.line);
        (void)snprintf(d->told, sizeof d->told, "%s", summary.line);
}

/* A core of ours would hold prompts, answers, keys and TLS keys of everybody who was being served, so none is written, and no
 * other program of our user reads our memory. The children get their own say back by exec. */
static void keep_memory_private(void)
{
        if (prctl(PR_SET_DUMPABLE, 0) < 0)
                log_warn(NULL, "cannot forbid core dumps: %s", strerror(errno));
}

static void raise_file_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= limit.rlim_max)
                return;
        limit.rlim_cur = MIN(limit.rlim_max, (rlim_t)1 << 20);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* inherited: the lock that the program before us took, or -1. */
static int take_runtime_dir(const struct config *c, int inherited, int *ret_fd)
{
        pid_t holder = 0;
        int r;

        r = file_make_dir(c->runtime_dir, 0755);
        if (r == 0 && inherited >= 0 && lockdir_keep(c->runtime_dir, inherited) == 0) {
                *ret_fd = inherited;
                return 0;
        }
        close_fd(&inherited);
        if (r == 0)
                r = lockdir_take(c->runtime_dir, ret_fd, &holder);
        if (r == -EBUSY)
                log_err(NULL,
                        "%s is held by another llama-supervisor (pid %d): stop that one, or give this one "
                        "another runtime_dir",
                        c->runtime_dir, (int)holder);
        else if (r < 0)
                log_err(NULL, "%s: %s", c->runtime_dir, strerror(-r));
        return r;
}

static int build(struct daemon *d, struct config *config)
{
        _cleanup_free_ char *error = NULL;
        int r;

        r = loop_new(&d->loop);
        if (r < 0) {
                config_free(config);
                return r;
        }
        r = fleet_new(d->loop, config, load_again, d, &d->fleet);
        if (r < 0)
                return r;
        journal_describe(d->journal, fleet_describe, d->fleet);
        r = journal_attach(d->journal, d->loop);
        if (r < 0)
                return r;
        r = handover_attach(d->handover, d->fleet, d->lock_fd, load_again, d);
        if (r < 0)
                return r;
        r = hubs_new(d->loop, d->fleet, &d->hubs);
        if (r < 0)
                return r;
        hubs_hand_on(d->hubs, d->handover);
        r = doors_open(d->loop, d->fleet, d->handover, d->hubs, &d->doors, &error);
        if (r < 0) {
                log_err(NULL, "%s", error ? error : strerror(-r));
                return r;
        }
        if ((r = signal_watch_new(d->loop, SIGTERM, on_stop_signal, d, &d->term)) < 0 ||
            (r = signal_watch_new(d->loop, SIGINT, on_stop_signal, d, &d->interrupt)) < 0 ||
            (r = signal_watch_new(d->loop, SIGHUP, on_reload_signal, d, &d->hangup)) < 0 ||
            (r = signal_watch_new(d->loop, SIGUSR2, on_upgrade_signal, d, &d->upgrade)) < 0 ||
            (r = fleet_subscribe(d->fleet, on_change, d)) < 0)
                return r;
        r = timer_new(d->loop, on_patience, d, &d->patience);
        if (r < 0)
                return r;
        if (notify_is_watchdog_on(&d->watchdog_interval)) {
                d->watchdog_interval /= 2;
                r = timer_new(d->loop, on_watchdog, d, &d->watchdog);
                if (r < 0)
                        return r;
                timer_set(d->watchdog, loop_now(d->loop) + d->watchdog_interval);
        }
        return 0;
}

static void tear_down(struct daemon *d)
{
        timer_free(d->watchdog);
        timer_free(d->patience);
        signal_watch_free(d->upgrade);
        signal_watch_free(d->hangup);
        signal_watch_free(d->interrupt);
        signal_watch_free(d->term);
        if (d->fleet)
                fleet_unsubscribe(d->fleet, on_change, d);
        d->doors = doors_close(d->doors);
        d->hubs = hubs_free(d->hubs);
        d->handover = handover_free(d->handover);
        journal_describe(d->journal, NULL, NULL);
        d->fleet = fleet_free(d->fleet);
        (void)journal_attach(d->journal, NULL);
        d->loop = loop_free(d->loop);
        process_finish();
        close_fd(&d->lock_fd);
        d->journal = journal_close(d->journal);
}

static int run_daemon(const char *config_file)
{
        _cleanup_buffer_ struct buffer problems;
        struct daemon d = {.config_file = config_file, .lock_fd = -1};
        struct config *config = NULL;
        int r;

        buffer_init(&problems, 256 * 1024);
        r = load_config(config_file, tls_check, &config, &problems);
        if (problems.len)
                (void)!write(STDERR_FILENO, problems.data, problems.len);
        if (r < 0) {
                if (access(config_file, F_OK) < 0 && errno == ENOENT)
                        (void)fprintf(stderr,
                                      "llama-supervisor: nothing was started: write that configuration "
                                      "(llama-supervisor.json(5)), or name another with --config FILE\n");
                else
                        (void)fprintf(stderr, "llama-supervisor: %s has errors; nothing was started\n",
                                      config_file);
                return EXIT_FAILURE;
        }
        log_set_level(config->log_level);
        if (log_is_journal())
                (void)journal_open(JOURNAL_SOCKET, &d.journal); /* else lines go to stderr, without fields */
        (void)signal(SIGPIPE, SIG_IGN);
        (void)umask(022);
        keep_memory_private();
        raise_file_limit();
        r = handover_new(&d.handover);
        if (r == 0)
                r = take_runtime_dir(config, handover_take_lock(d.handover), &d.lock_fd);
        if (r < 0) {
                config_free(config);
                d.handover = handover_free(d.handover);
                d.journal = journal_close(d.journal);
                return EXIT_FAILURE;
        }
        reaper_note_start(config->runtime_dir, handover_is_next(d.handover));
        r = build(&d, config);
        if (r == 0) {
                if (handover_is_next(d.handover))
                        log_info(NULL, "version %s, pid %d", LSV_VERSION, (int)getpid());
                else
                        fleet_event_started(d.fleet);
                (void)fleet_start(d.fleet);
                hubs_start(d.hubs, handover_is_next(d.handover));
                notify_ready();
                reaper_note_ready(fleet_config(d.fleet)->runtime_dir);
                handover_finish(d.handover);
                reexec_listen();
                loop_run(d.loop);
                log_info(NULL, "stopped");
        }
        tear_down(&d);
        if (loop_left_jobs() || gpu_watch_left_thread()) {
                (void)fflush(NULL);
                _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
        }
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int run_main(int argc, char **argv)
{
        _cleanup_free_ char *fallback = NULL;
        const char *file = NULL;

        for (int i = 1; i < argc; i++) {
                if (streq(argv[i], "--config") && i + 1 < argc) {
                        file = argv[++i];
                } else if (starts_with(argv[i], "--config=")) {
                        file = argv[i] + strlen("--config=");
                } else if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
                        (void)printf("usage: llama-supervisor run [--config FILE]\n\n"
                                     "Runs the daemon in the foreground; SIGTERM or Ctrl-C stops every "
                                     "instance and ends it,\n"
                                     "SIGHUP reads the configuration again. Without --config the file is\n"
                                     "/etc/llama-supervisor/llama-supervisor.json for root, else\n"
                                     "$XDG_CONFIG_HOME/llama-supervisor/llama-supervisor.json.\n");
                        return EXIT_SUCCESS;
                } else {
                        (void)fprintf(stderr,
                                      "llama-supervisor run: unknown argument \"%s\"; see llama-supervisor "
                                      "run --help\n",
                                      argv[i]);
                        return 2;
                }
        }
        if (!file) {
                fallback = cli_default_config();
                file = fallback;
        }
        return file ? run_daemon(file) : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        if (argc > 1 && streq(argv[1], "run")) {
                (void)reexec_init(argc, argv); /* an upgrade says so when it is not known what we are */
                return run_main(argc - 1, argv + 1);
        }
        if (argc > 1 && streq(argv[1], "reap"))
                return reap_main(argc - 1, argv + 1);
        if (argc > 1 && streq(argv[1], "plan") && plan_is_offline(argc - 1, argv + 1))
                return plan_offline(argc - 1, argv + 1);
        if (argc > 1 && streq(argv[1], "hub") && hub_is_offline(argc - 1, argv + 1))
                return hub_main(argc - 1, argv + 1);
        return cli_main(argc, argv, tls_check);
}
