/* jobs.c: `jobs submit|list|wait|show|retry`: on the spool folder itself, whether a daemon runs or not. */
#include "cli/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/publish.h"
#include "base/secret.h"
#include "base/text.h"
#include "cli/table.h"
#include "cli/verb.h"
#include "core/config.h"
#include "core/prompt.h"

#define SYSTEM_CONFIG "/etc/llama-supervisor/llama-supervisor.json"
#define SYSTEM_SPOOL  "/var/lib/llama-supervisor/spool"
#define LOOK_EVERY    (5 * USEC_PER_SEC)

enum { RESULT_MAX = 64 << 20 };

/* --- which folder ---------------------------------------------------------------------------------------------------------- */

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

static int no_memory(struct cli *cli)
{
        return cli_fail(cli, "not enough memory");
}

/* spool.dir of a configuration; NULL: it cannot be read, or is not good. Whatever is wrong with it does not matter here, so it is not told. */
static char *dir_of(const char *file, bool is_root)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        const struct config_env env = {
                .files = &file_ops_real, .get = get_env, .cwd = cwd, .is_root = is_root};
        struct config_problems problems = {0};
        struct config *c = NULL;
        char *dir = NULL;

        if (config_load(file, &env, &c, &problems) == 0)
                dir = text_dup(c->spool.dir);
        config_problems_finish(&problems);
        config_free(c);
        return dir;
}

/* --dir; else what the configuration says: the one that is named, one's own, or the system's. CLI_DONE with *ret malloc'd. */
static int find_dir(struct cli *cli, char **ret)
{
        _cleanup_free_ char *own = cli->config ? NULL : cli_default_config();
        const char *given = options_get(&cli->options, "dir"), *file = cli->config ? cli->config : own;

        *ret = NULL;
        if (given)
                return *given ? (*ret = text_dup(given)) ? CLI_DONE : no_memory(cli)
                              : cli_usage(cli, "--dir needs the path of a folder");
        if (!file)
                return no_memory(cli);
        if (cli->config || access(file, F_OK) == 0) {
                *ret = dir_of(file, geteuid() == 0);
                if (!*ret)
                        return cli_fail(
                                cli,
                                "%s cannot be read or has errors (llama-supervisor check); --dir names the "
                                "folder itself",
                                file);
                return CLI_DONE;
        }
        *ret = dir_of(SYSTEM_CONFIG, true);
        if (!*ret)
                *ret = text_dup(SYSTEM_SPOOL);
        return *ret ? CLI_DONE : no_memory(cli);
}

static int look(struct cli *cli, const char *dir, const char *only, struct jobs_view *ret)
{
        _cleanup_free_ char *error = NULL;
        int r = jobs_look(dir, only, ret, &error);

        if (r == -ENOENT)
                return cli_fail(cli,
                                "%s: there is no such folder. A daemon makes it when it starts "
                                "(spool.enabled); --dir "
                                "names another",
                                dir);
        if (r == -EACCES)
                return cli_fail(cli, "%s. Members of the folder's group may look", error ? error : dir);
        return r < 0 ? cli_fail(cli, "%s", error ? error : strerror(-r)) : CLI_DONE;
}

static int unknown_job(struct cli *cli, const char *dir, const char *name)
{
        return cli_fail(cli, "there is no job \"%s\" in %s", name, dir);
}

/* --- submit --------------------------------------------------------------------------------------------------------------------- */

struct submission {
        char name[SPOOL_NAME_SIZE];
        char *text;
        size_t len;
};

static int check_job(struct cli *cli, const char *what, const struct submission *s)
{
        char words[PROMPT_WORDS_SIZE];
        struct prompt *p = NULL;
        int r = prompt_read(s->text, s->len, &p, words);

        prompt_free(p);
        if (r == -EBADMSG)
                return cli_fail(cli, "%s: the job %s", what, words);
        return r < 0 ? no_memory(cli) : CLI_DONE;
}

static int put_job(struct cli *cli, const char *dir, const struct submission *s)
{
        _cleanup_free_ char *jobs = text_format("%s/jobs", dir);
        char file[SPOOL_FILE_SIZE];
        int r;

        if (!jobs)
                return no_memory(cli);
        r = publish_file(jobs, spool_job_file(s->name, file), 0640, s->text, s->len, true);
        if (r == -EEXIST)
                return cli_fail(cli, "there is a job \"%s\" already, in %s: take another --name", s->name,
                                dir);
        if (r == -EACCES || r == -EPERM)
                return cli_fail(cli, "%s: %s. Members of the folder's group may put jobs there", jobs,
                                strerror(-r));
        return r < 0 ? cli_fail(cli, "%s/%s: %s", jobs, file, strerror(-r)) : CLI_DONE;
}

static int new_name(struct cli *cli, char ret[SPOOL_NAME_SIZE])
{
        uint32_t random;
        int r = secret_random(&random, sizeof(random));

        if (r < 0)
                return cli_fail(cli, "no random bytes: %s", strerror(-r));
        (void)spool_new_name((int64_t)(time_realtime() / USEC_PER_SEC), random, ret);
        return CLI_DONE;
}

static int take_name(struct cli *cli, const char *file, struct submission *s)
{
        const char *given = options_get(&cli->options, "name"), *base, *fault;
        char name[PATH_MAX];

        if (!given && !file)
                return new_name(cli, s->name);
        base = file ? strrchr(file, '/') : NULL;
        base = given ? given : base ? base + 1 : file;
        (void)text_copy(name, sizeof(name), base);
        if (!given && ends_with(name, ".json"))
                name[strlen(name) - strlen(".json")] = '\0';
        fault = spool_name_fault(name);
        if (fault)
                return cli_usage(cli, "the name of a job: \"%s\" %s; --name says another", name, fault);
        (void)text_copy(s->name, sizeof(s->name), name);
        return CLI_DONE;
}

static int read_stdin(struct cli *cli, struct submission *s)
{
        _cleanup_buffer_ struct buffer text = {0};
        char block[32768];
        size_t n;

        buffer_init(&text, PROMPT_JOB_MAX);
        while ((n = fread(block, 1, sizeof(block), stdin)) > 0)
                if (buffer_append(&text, block, n) < 0)
                        return cli_fail(cli, "the job on standard input is longer than 8 MB");
        if (ferror(stdin))
                return cli_fail(cli, "standard input: %s", strerror(errno));
        s->len = text.len;
        s->text = text.len ? buffer_steal(&text) : text_dup("");
        return s->text ? CLI_DONE : no_memory(cli);
}

static int read_submission(struct cli *cli, const char *file, struct submission *s)
{
        bool is_stdin = streq(file, "-");
        int r = take_name(cli, is_stdin ? NULL : file, s);

        if (r != CLI_DONE)
                return r;
        if (is_stdin) {
                r = read_stdin(cli, s);
        } else {
                r = file_read(file, PROMPT_JOB_MAX, &s->text, &s->len);
                r = r == -EFBIG ? cli_fail(cli, "%s: is longer than 8 MB", file)
                    : r < 0     ? cli_fail(cli, "%s: %s", file, strerror(-r))
                                : CLI_DONE;
        }
        return r == CLI_DONE ? check_job(cli, is_stdin ? "standard input" : file, s) : r;
}

static int write_submission(struct cli *cli, const char *prompt, struct submission *s)
{
        const char *model = options_get(&cli->options, "model");
        struct buffer out;
        struct json_writer w;
        int r = take_name(cli, NULL, s);

        if (r != CLI_DONE)
                return r;
        if (!*prompt)
                return cli_usage(cli, "--prompt is empty");
        buffer_init(&out, 0);
        json_begin(&w, &out);
        json_open_object(&w);
        json_string(&w, "prompt", prompt);
        if (model) {
                json_key(&w, "configuration");
                json_open_object(&w);
                json_string(&w, "model", model);
                json_close_object(&w);
        }
        json_close_object(&w);
        (void)buffer_putc(&out, '\n');
        s->len = out.len;
        s->text = buffer_steal(&out);
        return s->text ? CLI_DONE : no_memory(cli);
}

static int wait_for(struct cli *cli, const char *dir, const char *const *names, size_t n, bool print);

static int print_submitted(struct cli *cli, const char *dir, const struct submission *all, size_t n)
{
        _cleanup_buffer_ struct buffer out = {0};
        struct json_writer w;

        buffer_init(&out, 0);
        if (!cli->json) {
                for (size_t i = 0; i < n; i++)
                        (void)buffer_printf(&out, "%s\n", all[i].name);
                return cli_print(cli, &out);
        }
        json_begin(&w, &out);
        json_open_object(&w);
        json_string(&w, "dir", dir);
        json_key(&w, "jobs");
        json_open_array(&w);
        for (size_t i = 0; i < n; i++)
                json_put_string(&w, all[i].name);
        json_close_array(&w);
        json_close_object(&w);
        (void)buffer_putc(&out, '\n');
        return cli_print(cli, &out);
}

static int refuse_done(struct cli *cli, const struct jobs_view *v, const char *name)
{
        const struct job_row *row = jobs_find(v, name);
        char file[SPOOL_FILE_SIZE];

        if (!row || !row->results)
                return CLI_DONE;
        return cli_fail(cli, "\"%s\" has a result already (results/%s): take another --name", name,
                        spool_result_file(name, row->result, file));
}

static int put_all(struct cli *cli, const char *dir, struct submission *all, size_t n)
{
        _cleanup_free_ const char **names = calloc(n, sizeof(char *));
        _cleanup_jobs_ struct jobs_view v = {0};
        size_t done = 0;
        int r = look(cli, dir, n == 1 ? all[0].name : NULL, &v), printed;

        if (!names)
                return no_memory(cli);
        /* Those of whom all is known to be good, or none. */
        for (size_t i = 0; r == CLI_DONE && i < n; i++)
                r = refuse_done(cli, &v, all[i].name);
        for (; r == CLI_DONE && done < n; done += r == CLI_DONE)
                r = put_job(cli, dir, all + done);
        for (size_t i = 0; i < done; i++)
                names[i] = all[i].name;
        if (options_get(&cli->options, "wait"))
                return r == CLI_DONE ? wait_for(cli, dir, names, done, true) : r;
        printed = done ? print_submitted(cli, dir, all, done) : CLI_DONE;
        return r == CLI_DONE ? printed : r;
}

static int submit_main(struct cli *cli, const char *dir)
{
        const char *prompt = options_get(&cli->options, "prompt");
        const char *const *files = cli->options.plain + 1;
        size_t n = prompt ? 1 : cli->options.n_plain - 1;
        struct submission *all;
        int r = CLI_DONE;

        if (prompt && cli->options.n_plain > 1)
                return cli_usage(cli, "either --prompt or files");
        if (!prompt && options_get(&cli->options, "model"))
                return cli_usage(cli, "--model goes with --prompt; a file says its model itself");
        if (n == 0)
                return cli_usage(
                        cli,
                        "what is to be done? llama-supervisor jobs submit FILE..., - (standard input), or "
                        "--prompt TEXT");
        if (n > 1 && options_get(&cli->options, "name"))
                return cli_usage(cli, "--name is for one job");
        all = calloc(n, sizeof(*all));
        if (!all)
                return no_memory(cli);
        for (size_t i = 0; r == CLI_DONE && i < n; i++)
                r = prompt ? write_submission(cli, prompt, all + i) : read_submission(cli, files[i], all + i);
        if (r == CLI_DONE)
                r = put_all(cli, dir, all, n);
        for (size_t i = 0; i < n; i++)
                free(all[i].text);
        free(all);
        return r;
}

/* --- list ----------------------------------------------------------------------------------------------------------------------- */

static const char *ended_at(const struct job_row *row, char buf[TIME_ISO_MAX])
{
        int64_t at = row->results ? row->result : row->failures ? row->failure : 0;

        return at > 0 ? time_iso((usec_t)at * USEC_PER_SEC, buf, TIME_ISO_MAX) : "";
}

static bool is_shown(const struct cli *cli, const struct job_row *row)
{
        const char *state = options_get(&cli->options, "state");

        if (!row->is_there && !row->results)
                return false;
        if (state)
                return streq(state, job_state_name(row->state));
        return row->state != JOB_DONE || options_get(&cli->options, "all");
}

static void put_row(const struct job_row *row, struct json_writer *w)
{
        char file[SPOOL_FILE_SIZE], iso[TIME_ISO_MAX];

        json_open_object(w);
        json_string(w, "name", row->name);
        json_string(w, "state", job_state_name(row->state));
        json_uint(w, "attempts", row->claimed);
        json_uint(w, "failures", row->failures);
        json_string(w, "ended_at", *ended_at(row, iso) ? iso : NULL);
        json_string(w, "result", row->results ? spool_result_file(row->name, row->result, file) : NULL);
        json_string(w, "failure",
                    row->failure ? spool_failure_file(
                                           row->name, row->failure, row->failed_attempt,
                                           row->failure_final && row->failed_attempt > row->forgiven, file)
                                 : NULL);
        json_close_object(w);
}

static void put_list_json(const struct cli *cli, const struct jobs_view *v, struct buffer *out)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "dir", v->dir);
        json_key(&w, "counts");
        json_open_object(&w);
        for (int s = 0; s < JOB_STATES; s++)
                json_uint(&w, job_state_name((enum job_state)s), v->counts[s]);
        json_close_object(&w);
        json_key(&w, "jobs");
        json_open_array(&w);
        for (size_t i = 0; i < v->n; i++)
                if (is_shown(cli, v->rows[i]))
                        put_row(v->rows[i], &w);
        json_close_array(&w);
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
}

static const enum colour colours[JOB_STATES] = {
        [JOB_RUNNING] = COLOUR_BLUE,
        [JOB_RETRYING] = COLOUR_AMBER,
        [JOB_FAILED] = COLOUR_RED,
        [JOB_DONE] = COLOUR_GREEN,
};

static int put_list_table(struct cli *cli, const struct jobs_view *v, struct buffer *out)
{
        static const struct table_column columns[] = {
                {.title = "NAME", .flexible = true},
                {.title = "STATE"},
                {.title = "ATTEMPTS", .right = true},
                {.title = "FAILURES", .right = true},
                {.title = "ENDED"},
        };
        struct table t;
        char iso[TIME_ISO_MAX];
        size_t shown = 0;
        int r = 0;

        table_init(&t, columns, ARRAY_SIZE(columns));
        for (size_t i = 0; i < v->n; i++) {
                const struct job_row *row = v->rows[i];

                if (!is_shown(cli, row))
                        continue;
                shown++;
                table_row(&t);
                table_put(&t, COLOUR_NONE, row->name);
                table_put(&t, colours[row->state], job_state_name(row->state));
                table_printf(&t, COLOUR_NONE, "%u", row->claimed);
                table_printf(&t, COLOUR_NONE, "%u", row->failures);
                table_put(&t, COLOUR_NONE, ended_at(row, iso));
        }
        if (shown)
                r = table_print(&t, &cli->screen, 0, out);
        table_finish(&t);
        for (int s = 0; r == 0 && s < JOB_STATES; s++)
                (void)buffer_printf(out, "%s%zu %s", s ? ", " : "", v->counts[s],
                                    job_state_name((enum job_state)s));
        (void)buffer_printf(out, " in %s\n", v->dir);
        return r;
}

static int list_main(struct cli *cli, const char *dir)
{
        const char *state = options_get(&cli->options, "state");
        _cleanup_jobs_ struct jobs_view v = {0};
        _cleanup_buffer_ struct buffer out = {0};
        bool known = !state;
        int r;

        for (int s = 0; s < JOB_STATES; s++)
                known |= state && streq(state, job_state_name((enum job_state)s));
        if (!known)
                return cli_usage(cli, "--state is waiting, running, retrying, failed or done, not \"%s\"",
                                 state);
        r = look(cli, dir, NULL, &v);
        if (r != CLI_DONE)
                return r;
        buffer_init(&out, 0);
        if (cli->json)
                put_list_json(cli, &v, &out);
        else if (put_list_table(cli, &v, &out) < 0)
                return no_memory(cli);
        return cli_print(cli, &out);
}

/* --- show ------------------------------------------------------------------------------------------------------------------------ */

/* A small file of the folder as a value; NULL: it cannot be read. */
static struct json_value *read_value(const char *dir, const char *below, const char *file)
{
        _cleanup_free_ char *path = text_format("%s/%s/%s", dir, below, file), *text = NULL;
        struct json_value *v = NULL;
        size_t len;

        if (!path || file_read(path, RESULT_MAX, &text, &len) < 0 || json_parse(text, len, &v, NULL) < 0)
                return NULL;
        return v;
}

static struct json_value *read_outcome(const char *dir, const struct job_row *row)
{
        char file[SPOOL_FILE_SIZE];

        if (row->results)
                return read_value(dir, "results", spool_result_file(row->name, row->result, file));
        if (!row->failure)
                return NULL;
        return read_value(dir, "failures",
                          spool_failure_file(row->name, row->failure, row->failed_attempt,
                                             row->failure_final && row->failed_attempt > row->forgiven,
                                             file));
}

static void put_show_json(const struct jobs_view *v, const struct job_row *row,
                          const struct json_value *outcome, struct buffer *out)
{
        _cleanup_free_ char *text = outcome ? json_print(outcome, false) : NULL;
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_string(&w, "dir", v->dir);
        json_key(&w, "job");
        put_row(row, &w);
        json_key(&w, row->results ? "result" : "failure");
        if (text)
                json_put_raw(&w, text, strlen(text));
        else
                json_put_null(&w);
        json_close_object(&w);
        (void)buffer_putc(out, '\n');
}

/* An answer is many lines; what a terminal would take for an order is made harmless, in a pipe it is what it is. */
static void put_answer(struct cli *cli, const char *text, struct buffer *out)
{
        for (const char *line = text; text && *line;) {
                size_t n = strcspn(line, "\n");
                char *copy = strndup(line, n);

                if (!copy)
                        return;
                if (cli->screen.terminal)
                        (void)text_harmless(copy);
                (void)buffer_printf(out, "%s\n", copy);
                free(copy);
                line += n + (line[n] == '\n');
        }
}

static void put_show(struct cli *cli, const struct jobs_view *v, const struct job_row *row,
                     const struct json_value *outcome, struct buffer *out)
{
        char iso[TIME_ISO_MAX], file[SPOOL_FILE_SIZE];

        (void)buffer_printf(out, "%s is %s", row->name, job_state_name(row->state));
        if (*ended_at(row, iso))
                (void)buffer_printf(out, ", %s %s", row->results ? "ended" : "failed last", iso);
        (void)buffer_printf(out, "\n  job       %s/jobs/%s%s\n", v->dir, spool_job_file(row->name, file),
                            row->is_there ? "" : " (not there any more)");
        if (row->results)
                (void)buffer_printf(out, "  result    %s/results/%s%s\n", v->dir,
                                    spool_result_file(row->name, row->result, file),
                                    row->results > 1 ? " (the newest of several)" : "");
        (void)buffer_printf(out, "  attempts  %u, %u of them failed%s\n", row->claimed, row->failures,
                            row->forgiven ? " since the last retry" : "");
        if (!outcome)
                return;
        if (!row->results) {
                (void)buffer_puts(out, "  error     ");
                screen_put_text(out,
                                json_get_string(outcome, "error") ? json_get_string(outcome, "error") : "");
                (void)buffer_putc(out, '\n');
                return;
        }
        (void)buffer_printf(out, "  model     %s on %s, %" PRId64 " tokens in %" PRId64 " ms\n\n",
                            json_get_string(outcome, "model") ? json_get_string(outcome, "model") : "?",
                            json_get_string(outcome, "instance") ? json_get_string(outcome, "instance") : "?",
                            json_get_int(outcome, "tokens", 0), json_get_int(outcome, "ran_ms", 0));
        put_answer(cli, json_get_string(outcome, "result"), out);
}

static int show(struct cli *cli, const char *dir, const char *name, bool text_only)
{
        _cleanup_jobs_ struct jobs_view v = {0};
        _cleanup_buffer_ struct buffer out = {0};
        _cleanup_value_ struct json_value *outcome = NULL;
        struct job_row *row;
        int r = look(cli, dir, name, &v);

        if (r != CLI_DONE)
                return r;
        row = jobs_find(&v, name);
        if (!row || (!row->is_there && !row->results && !row->failure))
                return unknown_job(cli, dir, name);
        outcome = read_outcome(dir, row);
        if (!outcome && (row->results || row->failure))
                return cli_fail(cli, "what became of \"%s\" cannot be read in %s", name, dir);
        buffer_init(&out, 0);
        if (text_only && !row->results)
                return cli_fail(cli, "\"%s\" has no result: it is %s%s%s", name, job_state_name(row->state),
                                outcome ? ": " : "",
                                outcome && json_get_string(outcome, "error")
                                        ? json_get_string(outcome, "error")
                                        : "");
        if (cli->json)
                put_show_json(&v, row, outcome, &out);
        else if (text_only)
                put_answer(cli, json_get_string(outcome, "result"), &out);
        else
                put_show(cli, &v, row, outcome, &out);
        return cli_print(cli, &out);
}

static int show_main(struct cli *cli, const char *dir)
{
        int r = CLI_DONE;

        if (cli->options.n_plain != 2)
                return cli_usage(cli, "one name: llama-supervisor jobs show NAME");
        r = show(cli, dir, cli->options.plain[1], options_get(&cli->options, "text") != NULL);
        return r;
}

/* --- wait ------------------------------------------------------------------------------------------------------------------------ */

static int take_timeout(struct cli *cli, usec_t *ret_deadline)
{
        const char *text = options_get(&cli->options, "timeout");
        usec_t timeout = 0;

        *ret_deadline = USEC_INFINITY;
        if (!text)
                return CLI_DONE;
        if (time_parse_span(text, &timeout) < 0)
                return cli_usage(cli, "--timeout is a time as 90s or 5m, not \"%s\"", text);
        *ret_deadline = usec_add(time_monotonic(), timeout);
        return CLI_DONE;
}

/* Something was put into results/ or failures/, or it is time to look anyway. */
static void await_news(int inotify, usec_t deadline)
{
        struct pollfd fd = {.fd = inotify, .events = POLLIN};
        usec_t now = time_monotonic(), until = MIN(deadline, usec_add(now, LOOK_EVERY));
        char block[16384];

        if (poll(&fd, inotify >= 0, (int)(usec_sub(until, now) / USEC_PER_MSEC) + 1) > 0)
                (void)!read(inotify, block, sizeof(block));
}

static int watch_ends(const char *dir)
{
        static const char *const below[] = {"results", "failures"};
        int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

        for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(below); i++) {
                _cleanup_free_ char *path = text_format("%s/%s", dir, below[i]);

                if (path)
                        (void)inotify_add_watch(fd, path, IN_CREATE | IN_MOVED_TO);
        }
        return fd; /* without it we look every few seconds */
}

/* How many of the names have not ended; 0: all have. CLI_DONE, or why nobody can know. */
static int count_open(struct cli *cli, const char *dir, const char *const *names, size_t n, size_t *ret_open,
                      const char **ret_first, size_t *ret_failed)
{
        _cleanup_jobs_ struct jobs_view v = {0};
        int r = look(cli, dir, n == 1 ? names[0] : NULL, &v);

        *ret_open = *ret_failed = 0;
        for (size_t i = 0; r == CLI_DONE && i < n; i++) {
                const struct job_row *row = jobs_find(&v, names[i]);

                if (!row || (!row->is_there && !row->results && !row->failure))
                        return unknown_job(cli, dir, names[i]);
                if (row->state == JOB_FAILED) {
                        ++*ret_failed;
                } else if (row->state != JOB_DONE && (*ret_open)++ == 0) {
                        *ret_first = names[i];
                }
        }
        return r;
}

static int wait_for(struct cli *cli, const char *dir, const char *const *names, size_t n, bool print)
{
        _cleanup_close_ int inotify = watch_ends(dir);
        const char *first = NULL;
        size_t open = 0, failed = 0;
        usec_t deadline;
        int r = take_timeout(cli, &deadline), shown;

        while (r == CLI_DONE) {
                r = count_open(cli, dir, names, n, &open, &first, &failed);
                if (r != CLI_DONE || open == 0)
                        break;
                if (time_monotonic() >= deadline)
                        return cli_fail(cli, "not done in time: %s%s", first, open > 1 ? " and others" : "");
                await_news(inotify, deadline);
        }
        for (size_t i = 0; r == CLI_DONE && print && i < n; i++) {
                shown = show(cli, dir, names[i], !cli->json);
                r = shown == CLI_DONE ? r : shown;
        }
        if (r == CLI_DONE && failed && !print)
                return cli_fail(cli, "%zu of %zu failed: llama-supervisor jobs show NAME says why", failed,
                                n);
        return r == CLI_DONE && failed ? CLI_FAILED : r;
}

static int wait_main(struct cli *cli, const char *dir)
{
        if (cli->options.n_plain < 2)
                return cli_usage(cli, "a name is missing: llama-supervisor jobs wait NAME...");
        return wait_for(cli, dir, cli->options.plain + 1, cli->options.n_plain - 1, false);
}

/* --- retry ----------------------------------------------------------------------------------------------------------------------- */

static int retry_one(struct cli *cli, const char *dir, const struct job_row *row)
{
        _cleanup_free_ char *path = text_format("%s/retry", dir);
        char file[SPOOL_FILE_SIZE];
        int r;

        if (!path)
                return no_memory(cli);
        r = publish_file(path, spool_claim_file(row->name, row->failed_attempt, SPOOL_CLAIMED, file), 0440,
                         "", 0, true);
        if (r == -EEXIST)
                return CLI_DONE; /* somebody else asked, too */
        return r < 0 ? cli_fail(cli, "%s: %s", path, strerror(-r)) : CLI_DONE;
}

static int retry_main(struct cli *cli, const char *dir)
{
        const char *const *names = cli->options.plain + 1;
        size_t n = cli->options.n_plain - 1, asked = 0;
        bool all = options_get(&cli->options, "all") != NULL;
        _cleanup_jobs_ struct jobs_view v = {0};
        int r;

        if (all == (n > 0))
                return cli_usage(cli, "llama-supervisor jobs retry NAME..., or jobs retry --all");
        r = look(cli, dir, NULL, &v);
        for (size_t i = 0; r == CLI_DONE && i < n; i++) {
                const struct job_row *row = jobs_find(&v, names[i]);

                if (!row || (!row->is_there && !row->results && !row->failure))
                        r = unknown_job(cli, dir, names[i]);
                else if (row->state != JOB_FAILED)
                        r = cli_fail(cli, "\"%s\" has not failed: it is %s", names[i],
                                     job_state_name(row->state));
        }
        for (size_t i = 0; r == CLI_DONE && i < v.n; i++) {
                bool named = all;

                for (size_t k = 0; !named && k < n; k++)
                        named = streq(names[k], v.rows[i]->name);
                if (!named || v.rows[i]->state != JOB_FAILED || !v.rows[i]->is_there)
                        continue;
                r = retry_one(cli, dir, v.rows[i]);
                asked += r == CLI_DONE;
        }
        if (r == CLI_DONE && !cli->json)
                (void)printf("%zu %s tried again\n", asked, asked == 1 ? "job is" : "jobs are");
        else if (r == CLI_DONE)
                (void)printf("{\"retried\":%zu}\n", asked);
        return r == CLI_DONE ? cli_flush(cli) : r;
}

/* --- which ------------------------------------------------------------------------------------------------------------------------ */

static int check_options(struct cli *cli, const char *word)
{
        static const struct {
                const char *option, *words;
        } rows[] = {
                {"prompt", "submit"},       {"model", "submit"},   {"name", "submit"}, {"wait", "submit"},
                {"timeout", "submit wait"}, {"all", "list retry"}, {"state", "list"},  {"text", "show"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (options_get(&cli->options, rows[i].option) && !strstr(rows[i].words, word))
                        return cli_usage(cli, "--%s is not for jobs %s", rows[i].option, word);
        return CLI_DONE;
}

int jobs_main(struct cli *cli)
{
        static const struct {
                const char *word;
                int (*run)(struct cli *cli, const char *dir);
        } words[] = {{"submit", submit_main},
                     {"list", list_main},
                     {"wait", wait_main},
                     {"show", show_main},
                     {"retry", retry_main}};
        const char *names[ARRAY_SIZE(words) + 1] = {0}, *word = cli->options.plain[0], *nearest;
        _cleanup_free_ char *dir = NULL;
        int r;

        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
                names[i] = words[i].word;
                if (!streq(words[i].word, word))
                        continue;
                r = check_options(cli, word);
                if (r == CLI_DONE && streq(word, "list") && cli->options.n_plain > 1)
                        r = cli_usage(cli, "jobs list takes no name; jobs show NAME does");
                if (r == CLI_DONE)
                        r = find_dir(cli, &dir);
                return r == CLI_DONE ? words[i].run(cli, dir) : r;
        }
        nearest = text_nearest(word, names);
        if (nearest)
                return cli_usage(cli, "jobs %s is nothing; did you mean jobs %s?", word, nearest);
        return cli_usage(cli, "jobs %s is nothing: jobs submit, list, wait, show or retry", word);
}
