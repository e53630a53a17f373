/* verb.h: what the verbs' files share: the table's row, one call of the program, and the ways to ask and to fail.
 * Results of a verb are exit codes (cli.h). Whoever fails has said why on stderr. */
#ifndef LSV_CLI_VERB_H
#define LSV_CLI_VERB_H

#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/options.h"
#include "cli/screen.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_DOWN = 3 };

/* What a plain argument is, for completion. */
enum verb_completes {
        COMPLETES_NOTHING,
        COMPLETES_INSTANCE,
        COMPLETES_FILE,
        COMPLETES_VERB,
        COMPLETES_SHELL,
        COMPLETES_KEY,
        COMPLETES_JOBS,
};

struct cli;
struct verb {
        const char *name;      /* NULL ends the table */
        const char *arguments; /* "NAME [...]", NULL: none */
        const char *doc;       /* one line, no full stop */
        const char *details;   /* further sentences, NULL: none */
        const struct option_spec *options;
        unsigned min, max; /* plain arguments */
        enum verb_completes completes;
        int (*run)(struct cli *cli); /* NULL: main's own (run) */
};
extern const struct verb cli_verbs[];
extern const struct option_spec cli_common_options[]; /* those of every verb */
const struct verb *cli_find_verb(const char *name);

struct cli {
        const struct verb *verb;
        struct options options;
        bool json;
        config_tls_check_fn *check_tls;
        const char *config;   /* --config, NULL: not given */
        char *socket, *note;  /* found when first needed: see where.h */
        struct screen screen; /* stdout */
        /* The daemon answered once: that it is gone now is a broken connection, not "it does not run". */
        bool answered;
        /* What gives the terminal back, NULL: it was not taken. Written before anything is said. */
        const char *farewell;
};

/* --- saying --------------------------------------------------------------------------------------------------------- */

/* "llama-supervisor VERB: …" on stderr, control bytes made harmless; gives CLI_FAILED, CLI_USAGE. */
int cli_fail(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
int cli_usage(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
void cli_say_farewell(struct cli *cli);
/* CLI_DONE, or CLI_FAILED when stdout could not be written (a full disk). */
int cli_print(struct cli *cli, const struct buffer *text);
int cli_flush(struct cli *cli);

/* The fleet's sentence, and the first line of the last reload's errors (NULL: it went well), as `status` begins. Lines. */
unsigned cli_put_sentence(struct cli *cli, struct buffer *out, const char *sentence, const char *reload_error,
                          const char *limits_problem);

/* --- asking ---------------------------------------------------------------------------------------------------------- */

/* "PREFIX/NAME SUFFIX" with the name percent-encoded, malloc'd; NULL without memory or for an impossible name. */
char *cli_target(const char *prefix, const char *name, const char *suffix);

/* GET, POST or DELETE; CLI_DONE and the whole answer when its status is 2xx. Else why is said (with --json the API's error is also
 * printed), and the exit code is given. A zeroed *ret may be finished in every case. */
int cli_request(struct cli *cli, const char *method, const char *target, struct client_answer *ret);
/* The same, with whatever status; only a broken connection fails. */
int cli_request_any(struct cli *cli, const char *method, const char *target, struct client_answer *ret);
/* The same with a body of JSON; NULL: without. */
int cli_send_any(struct cli *cli, const char *method, const char *target, const char *body,
                 struct client_answer *ret);
/* The same for an order that takes its time. */
int cli_send_patiently(struct cli *cli, const char *method, const char *target, const char *body,
                       usec_t timeout, struct client_answer *ret);
/* GET and parse. */
int cli_get(struct cli *cli, const char *target, struct client_answer *ret, struct json_value **ret_value);
/* The answer's document and a newline, for --json. */
int cli_print_answer(struct cli *cli, const struct client_answer *a);
/* The error that an answer holds: said, and CLI_FAILED. */
int cli_refused(struct cli *cli, const struct client_answer *a);

int cli_open_stream(struct cli *cli, const char *target, struct client_stream **ret);
/* The feed has ended (1 of client_stream_pull: in order, as before an upgrade; or an error of it): opened anew, or said why not. */
int cli_reopen_feed(struct cli *cli, int ended, struct client_stream **stream);
/* The same for another stream that has ended in order. *stream is NULL when what it told of is no more, which is no failure. */
int cli_reopen_stream(struct cli *cli, const char *target, struct client_stream **stream);
/* An error of client.h: said, and its exit code. */
int cli_broken(struct cli *cli, int r);
/* The data of the feed's next message ("data: {…}"), parsed; NULL for a line that holds none. The caller frees it. */
struct json_value *cli_feed_message(char *line, size_t len);

static inline void cli_free_value(struct json_value **v)
{
        (void)json_free(*v);
}
#define _cleanup_value_ _cleanup_(cli_free_value)
static inline void cli_free_stream(struct client_stream **s)
{
        (void)client_stream_free(*s);
}
#define _cleanup_stream_ _cleanup_(cli_free_stream)

/* --- the verbs ------------------------------------------------------------------------------------------------------- */

int status_main(struct cli *cli);
int ls_main(struct cli *cli);
int ps_main(struct cli *cli);
int watch_main(struct cli *cli); /* status --watch */
int logs_main(struct cli *cli);
int start_main(struct cli *cli);
int stop_main(struct cli *cli);
int drain_main(struct cli *cli);
int restart_main(struct cli *cli);
int load_main(struct cli *cli);
int unload_main(struct cli *cli);
int reload_main(struct cli *cli);
int why_main(struct cli *cli);
int history_main(struct cli *cli);
int key_main(struct cli *cli);
int jobs_main(struct cli *cli);
int models_main(struct cli *cli);
int remove_main(struct cli *cli);
int requests_main(struct cli *cli);
int gpus_main(struct cli *cli);
int plan_main(struct cli *cli);
int upgrade_main(struct cli *cli);
int version_main(struct cli *cli);
int completion_main(struct cli *cli);
int help_main(struct cli *cli);
void help_print(const struct verb *verb); /* NULL: the program */

#endif
