/* fake_options.h: the arguments of the fake llama-server: those of the real one (read from HELP_TEXT) and the fault switches.
 * Included by fake_llama_server.c alone. Errors are the real program's words and exit with 1, as it does. */
#ifndef FAKE_OPTIONS_H
#define FAKE_OPTIONS_H

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>

#include "base/macros.h"
#include "fake_texts.h"

enum { OFF = -1 }; /* a switch that was not given */

/* Times are microseconds, OFF when not given. */
struct faults {
        int64_t load_ms, exit_after, exit_code, crash_starts;
        int64_t crash_after, segv_after, abort_after, kill_after, unlink_after;
        int64_t faults_after, hang_after, wedge_after, silent_idle_after, health_500_after;
        int64_t silent_busy, silent_busy_after, prompt_burn, prompt_ms, tail_ms, term_ms, health_burn;
        int64_t status, cut_after, log_flood, tok_s, tokens, rss_mb, idle_ms, close_reused;
        bool load_503_forever, never_bind, oom_text, ignore_term;
        bool garbage, garbage_json, slow_headers, endless_headers, bad_chunk, short_body, reset, prompt_work;
        bool log_endless_line, log_ansi, log_nul, grandchild, grandchild_session, peer_lie;
        char *die_loading, *print_file, *state_file, *control, *only, *journal;
        int64_t print_code;
};

/* What the real options said. */
struct options {
        const char *host, *model, *alias, *api_keys, *log_file;
        long port, ctx, slots_wanted, threads, ping_s, cache_ram, timeout_s;
        bool metrics, no_slots, props, embeddings, rerank, kv_unified, silent, jsonl, hf;
        const char *prefix, *mmproj; /* with --mmproj it says that it sees */
};

enum kind { FLAG, COUNT, SECONDS, MILLIS, TEXT };

static const struct fault_switch {
        const char *name;
        enum kind kind;
        size_t offset;
        const char *help;
} SWITCHES[] = {
#define SWITCH(name, kind, field, help)                                                                      \
        {                                                                                                    \
                name, kind, offsetof(struct faults, field), help                                             \
        }
        SWITCH("--load-ms", COUNT, load_ms, "loading takes N ms (default 20)"),
        SWITCH("--load-503-forever", FLAG, load_503_forever, "never done loading: every answer is 503"),
        SWITCH("--never-bind", FLAG, never_bind, "lives, but never listens"),
        SWITCH("--die-loading", TEXT, die_loading,
               "half-way through loading: exit code N, or a signal: SEGV ABRT KILL TERM"),
        SWITCH("--oom-text", FLAG, oom_text, "while loading: the CUDA out-of-memory lines, exit code 1"),
        SWITCH("--exit-after-ms", MILLIS, exit_after,
               "exits N ms after its start, with --exit-code (default 0)"),
        SWITCH("--exit-code", COUNT, exit_code, "for --exit-after-ms and --crash-after"),
        SWITCH("--crash-starts", COUNT, crash_starts,
               "only the first N starts have faults (none given: exit 1 while loading); needs --state-file"),
        SWITCH("--state-file", TEXT, state_file, "counts the starts"),
        SWITCH("--crash-after", SECONDS, crash_after,
               "exits (--exit-code, default 1) S seconds after it is ready"),
        SWITCH("--segv-after", SECONDS, segv_after, "dies of SIGSEGV S seconds after it is ready"),
        SWITCH("--abort-after", SECONDS, abort_after,
               "GGML_ASSERT text and SIGABRT S seconds after it is ready"),
        SWITCH("--kill-after", SECONDS, kill_after,
               "dies of SIGKILL, as from the OOM killer, S seconds after it is ready"),
        SWITCH("--unlink-socket-after", SECONDS, unlink_after,
               "removes its socket file S seconds after it is ready"),
        SWITCH("--faults-after", SECONDS, faults_after,
               "faults of answers begin S seconds after it is ready (default 0)"),
        SWITCH("--hang-after", SECONDS, hang_after,
               "stands still: connects succeed, nothing is read or answered"),
        SWITCH("--silent-idle-after", SECONDS, silent_idle_after,
               "accepts and reads, answers nothing, uses no CPU; SIGTERM works"),
        SWITCH("--silent-busy", SECONDS, silent_busy,
               "burns CPU for S seconds and answers nothing (a long prompt)"),
        SWITCH("--silent-busy-after", SECONDS, silent_busy_after,
               "when --silent-busy begins (default 1 s after ready)"),
        SWITCH("--prompt-burn", SECONDS, prompt_burn,
               "each completion burns CPU for S seconds first, answering nobody"),
        SWITCH("--prompt-ms", COUNT, prompt_ms, "each completion's prompt takes N ms; others are answered"),
        SWITCH("--prompt-work", FLAG, prompt_work,
               "with --prompt-ms: a thread uses a twentieth of a core meanwhile, as a prompt on a GPU does"),
        SWITCH("--tail-ms", COUNT, tail_ms,
               "the slot of a completion is free N ms before its answer's end is sent"),
        SWITCH("--wedge-after", SECONDS, wedge_after,
               "/health is fine, but no token comes, /slots and /metrics hang"),
        SWITCH("--health-burn", COUNT, health_burn,
               "its thread burns CPU for N ms after each answer of /health, as some do that clean up"),
        SWITCH("--health-500-after", SECONDS, health_500_after, "/health answers 500"),
        SWITCH("--only", TEXT, only, "the switches below concern paths that begin with this"),
        SWITCH("--status", COUNT, status, "every answer has this status"),
        SWITCH("--garbage", FLAG, garbage, "rubbish bytes instead of HTTP"),
        SWITCH("--garbage-json", FLAG, garbage_json, "200 with a body that is not JSON"),
        SWITCH("--slow-headers", FLAG, slow_headers, "one byte each 200 ms"),
        SWITCH("--endless-headers", FLAG, endless_headers, "header fields without end"),
        SWITCH("--bad-chunk", FLAG, bad_chunk, "a chunk size that is no number"),
        SWITCH("--short-body", FLAG, short_body, "closes 100 bytes before Content-Length"),
        SWITCH("--reset", FLAG, reset, "closes without an answer"),
        SWITCH("--cut-after", COUNT, cut_after, "drops the connection after N tokens of a stream"),
        SWITCH("--idle-ms", COUNT, idle_ms, "closes idle connections after N ms (it still tells 5 s)"),
        SWITCH("--close-reused", COUNT, close_reused,
               "closes every Nth reused connection as its next request comes, unread: the race with an idle "
               "close"),
        SWITCH("--journal", TEXT, journal,
               "appends a line for each POST that it takes (POST MICROSECONDS PATH X-UNIQUE [conversation]) "
               "and for "
               "each whose client left (GONE MICROSECONDS X-UNIQUE); monotonic clock"),
        SWITCH("--ignore-term", FLAG, ignore_term, "ignores SIGTERM and SIGINT"),
        SWITCH("--term-ms", COUNT, term_ms, "takes N ms to stop"),
        SWITCH("--log-flood", COUNT, log_flood, "writes that many bytes of log per second"),
        SWITCH("--log-endless-line", FLAG, log_endless_line, "the flood (default 1 MB/s) has no newline"),
        SWITCH("--log-ansi", FLAG, log_ansi, "log lines with escape sequences and control bytes"),
        SWITCH("--log-nul", FLAG, log_nul, "log lines with NUL and broken UTF-8"),
        SWITCH("--grandchild", FLAG, grandchild, "leaves a child that ignores SIGTERM, in its process group"),
        SWITCH("--grandchild-session", FLAG, grandchild_session, "the same, in a session of its own"),
        SWITCH("--peer-lie", FLAG, peer_lie, "another process (its child) listens and answers in its place"),
        SWITCH("--rss-mb", COUNT, rss_mb, "touches that much memory while loading"),
        SWITCH("--tok-s", COUNT, tok_s, "tokens per second (default: as fast as it goes)"),
        SWITCH("--tokens", COUNT, tokens, "length of an answer, if max_tokens does not end it (default 32)"),
        SWITCH("--control", TEXT, control,
               "a file of switches, looked at every 20 ms; when it changes they replace those given, times "
               "count anew"),
#undef SWITCH
};

static struct faults fault;
static struct options opt = {.port = 9931,
                             .slots_wanted = -1,
                             .ping_s = 30,
                             .cache_ram = 8192,
                             .timeout_s = 3600,
                             .host = "127.0.0.1",
                             .prefix = ""};

/* Every number to OFF; texts and flags to nothing. */
static void faults_clear(struct faults *f)
{
        size_t i;

        memset(f, 0, sizeof(*f));
        for (i = 0; i < ARRAY_SIZE(SWITCHES); i++)
                if (SWITCHES[i].kind == COUNT || SWITCHES[i].kind == SECONDS || SWITCHES[i].kind == MILLIS)
                        *(int64_t *)(void *)((char *)f + SWITCHES[i].offset) = OFF;
}

static void fake_help(void)
{
        size_t i;

        printf("fake_llama_server: answers like llama-server and fails as told. Takes the arguments of "
               "llama-server (see --help)\n"
               "and these switches, on the command line or, separated by spaces, in the environment variable "
               "FAKE_LLAMA_ARGS\n"
               "(nothing can be quoted there). \"ready\" is when loading is done; S may be a fraction.\n\n");
        for (i = 0; i < ARRAY_SIZE(SWITCHES); i++)
                printf("%s%-*s%s\n", SWITCHES[i].name, (int)(26 - strlen(SWITCHES[i].name)),
                       SWITCHES[i].kind == FLAG      ? ""
                       : SWITCHES[i].kind == SECONDS ? " S"
                       : SWITCHES[i].kind == TEXT    ? " X"
                                                     : " N",
                       SWITCHES[i].help);
        printf("--print-and-exit FILE N   prints the file on stderr, exits with N at once\n");
}

/* One switch and its values at argv[0..]. Returns how many words it took, 0 if it is none of ours, -EINVAL if a value is
 * missing. Texts are copied: the words may go away. */
static int faults_take(struct faults *f, char *const *argv)
{
        size_t i;

        if (streq(argv[0], "--print-and-exit")) {
                if (!argv[1] || !argv[2])
                        return -EINVAL;
                f->print_file = strdup(argv[1]);
                f->print_code = atoi(argv[2]);
                return 3;
        }
        for (i = 0; i < ARRAY_SIZE(SWITCHES); i++) {
                const struct fault_switch *s = &SWITCHES[i];
                void *field = (char *)f + s->offset;

                if (!streq(argv[0], s->name))
                        continue;
                if (s->kind == FLAG) {
                        *(bool *)field = true;
                        return 1;
                }
                if (!argv[1])
                        return -EINVAL;
                switch (s->kind) {
                case COUNT:
                        *(int64_t *)field = atoll(argv[1]);
                        break;
                case MILLIS:
                        *(int64_t *)field = atoll(argv[1]) * 1000;
                        break;
                case SECONDS:
                        *(int64_t *)field = (int64_t)(strtod(argv[1], NULL) * 1e6);
                        break;
                default:
                        *(char **)field = strdup(argv[1]);
                        break;
                }
                return 2;
        }
        return 0;
}

/* Splits text (changed in place, must outlive the words) at white space. */
static size_t split_words(char *text, char **words, size_t max)
{
        size_t n = 0;
        char *save = NULL, *word;

        for (word = strtok_r(text, " \t\n", &save); word && n + 1 < max;
             word = strtok_r(NULL, " \t\n", &save))
                words[n++] = word;
        words[n] = NULL;
        return n;
}

/* --- the real options, looked up in HELP_TEXT ------------------------------------------------------------------ */

/* The names of the paragraph at p reach to its description: two spaces after the fortieth column, or the line's end. */
static size_t names_length(const char *p)
{
        size_t n = strcspn(p, "\n");

        return n > 40 && p[39] == ' ' ? 40 : n;
}

static const char *next_paragraph(const char *p)
{
        for (p = strchr(p, '\n'); p && p[1] != '-'; p = strchr(p + 1, '\n'))
                ;
        return p ? p + 1 : NULL;
}

/* Whether the paragraph names this option; tells if it wants a value and whether that is an integer. */
static bool paragraph_names(const char *p, const char *name, bool *ret_value, bool *ret_integer)
{
        size_t end = names_length(p), i = 0;
        bool found = false;

        *ret_value = *ret_integer = false;
        while (i < end) {
                size_t n = strcspn(p + i, " ,\n");

                if (n == 0) {
                        i++;
                        continue;
                }
                if (p[i] != '-') {
                        *ret_value = true;
                        *ret_integer = n == 1 || strncmp(p + i, "PORT", 4) == 0;
                        break;
                }
                found |= strlen(name) == n && strncmp(p + i, name, n) == 0;
                i += n;
        }
        return found;
}

static const char *find_paragraph(const char *name, bool *ret_value, bool *ret_integer)
{
        const char *p;

        for (p = next_paragraph(HELP_TEXT); p; p = next_paragraph(p))
                if (!starts_with(p, "-----") && paragraph_names(p, name, ret_value, ret_integer))
                        return p;
        return NULL;
}

static void __attribute__((noreturn)) bad_argument(const char *name, const char *paragraph, const char *why)
{
        const char *end = next_paragraph(paragraph);

        fprintf(stderr,
                "error while handling argument \"%s\": %s\n\nusage:\n%.*s\n\nto show complete usage, run "
                "with -h\n",
                name, why, end ? (int)(end - paragraph) : (int)strlen(paragraph), paragraph);
        exit(1);
}

/* std::stoi: white space, a sign and digits; what follows is not looked at. */
static bool parse_int(const char *s, long *ret)
{
        char *end;

        *ret = strtol(s, &end, 10);
        return end != s && *ret >= INT32_MIN && *ret <= INT32_MAX;
}

/* Sets what the fake makes use of; everything else is known, and ignored. on is false for an environment variable that
 * says so. */
static void apply_option(const char *name, const char *value, long number, bool on)
{
        static const struct {
                const char *names; /* separated and enclosed by spaces */
                long *field;
        } numbers[] = {
                {" -c --ctx-size ", &opt.ctx},
                {" -np --parallel ", &opt.slots_wanted},
                {" --port ", &opt.port},
                {" -t --threads ", &opt.threads},
                {" -cram --cache-ram ", &opt.cache_ram},
                {" --sse-ping-interval ", &opt.ping_s},
                {" -to --timeout ", &opt.timeout_s},
        };
        static const struct {
                const char *names;
                const char **field;
        } texts[] = {
                {" -m --model ", &opt.model},    {" -a --alias ", &opt.alias},
                {" --host ", &opt.host},         {" --api-key ", &opt.api_keys},
                {" --api-prefix ", &opt.prefix}, {" --log-file ", &opt.log_file},
                {" -mm --mmproj ", &opt.mmproj},
        };
        static const struct {
                const char *names;
                bool *field, value;
        } flags[] = {
                {" --metrics ", &opt.metrics, true},
                {" --no-slots ", &opt.no_slots, true},
                {" --slots ", &opt.no_slots, false},
                {" --props ", &opt.props, true},
                {" -kvu --kv-unified ", &opt.kv_unified, true},
                {" --log-disable ", &opt.silent, true},
                {" --embedding --embeddings ", &opt.embeddings, true},
                {" --rerank --reranking ", &opt.rerank, true},
                {" -hf -hfr --hf-repo ", &opt.hf, true},
                {" --log-jsonl ", &opt.jsonl, true},
        };
        char needle[80];
        size_t i;

        (void)snprintf(needle, sizeof(needle), " %s ", name);
        for (i = 0; i < ARRAY_SIZE(numbers); i++)
                if (strstr(numbers[i].names, needle))
                        *numbers[i].field = number;
        for (i = 0; i < ARRAY_SIZE(texts); i++)
                if (strstr(texts[i].names, needle))
                        *texts[i].field = value;
        for (i = 0; i < ARRAY_SIZE(flags); i++)
                if (strstr(flags[i].names, needle))
                        *flags[i].field = on ? flags[i].value : !flags[i].value;
        if ((streq(name, "-lv") || streq(name, "--verbosity") || streq(name, "--log-verbosity")) && value)
                opt.silent = atoi(value) <= 1;
}

/* Every LLAMA_ARG_… that the help names: an environment that was not cleaned changes the server, as the real one. */
static void take_environment(int argc, char **argv)
{
        const char *p, *env;

        for (p = next_paragraph(HELP_TEXT); p; p = next_paragraph(p)) {
                const char *end = next_paragraph(p);
                char variable[64], name[64];
                bool has_value, integer;
                const char *value;
                long number = 0;
                size_t skip;
                int i;

                env = strstr(p, "(env: ");
                if (!env || (end && env > end))
                        continue;
                (void)snprintf(variable, sizeof(variable), "%.*s", (int)strcspn(env + 6, ")\n"), env + 6);
                value = getenv(variable);
                if (!value)
                        continue;
                skip = strcspn(p, ", ");
                (void)snprintf(name, sizeof(name), "%.*s", (int)skip, p);
                (void)paragraph_names(p, name, &has_value, &integer);
                if (integer && !parse_int(value, &number) && !streq(name, "-ngl")) {
                        fprintf(stderr, "error while handling environment variable \"%s\": stoi\n\n\n",
                                variable);
                        exit(1);
                }
                for (i = 1; i < argc; i++) {
                        bool v, n;

                        if (argv[i][0] == '-' && paragraph_names(p, argv[i], &v, &n))
                                fprintf(stderr,
                                        "warn: %s environment variable is set, but will be overwritten by "
                                        "command line argument %s\n",
                                        variable, argv[i]);
                }
                apply_option(name, value, number,
                             !(streq(value, "0") || streq(value, "off") || streq(value, "false")));
        }
        if (getenv("LLAMA_API_KEY"))
                opt.api_keys = getenv("LLAMA_API_KEY");
}

/* The starts so far, this one included; counted in the file under its lock. */
static long count_start(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        char text[32] = "";
        long n;

        if (fd < 0 || flock(fd, LOCK_EX) < 0 || pread(fd, text, sizeof(text) - 1, 0) < 0) {
                fprintf(stderr, "fake: %s: %s\n", path, strerror(errno));
                exit(1);
        }
        n = atol(text) + 1;
        (void)pwrite(fd, text, (size_t)snprintf(text, sizeof(text), "%ld\n", n), 0);
        return n;
}

/* As on the machine of a fake NVML: $FAKE_DEVICES, a line each, says otherwise. */
static void list_devices(void)
{
        const char *devices = getenv("FAKE_DEVICES");

        if (!devices)
                devices = getenv("FAKE_NVML") ? "  CUDA0: FAKE (81920 MiB, 81000 MiB free)" : "  (none)";
        printf("Available devices:\n%s\n", devices);
        exit(0);
}

static void parse_arguments(int argc, char **argv)
{
        static char env_text[4096];
        static char *words[256];
        const char *extra = getenv("FAKE_LLAMA_ARGS");
        int i, took;

        faults_clear(&fault);
        take_environment(argc, argv);
        for (i = 1; i < argc; i += took) {
                const char *name = argv[i], *paragraph;
                bool has_value, integer;
                long number = 0;

                took = faults_take(&fault, argv + i);
                if (took > 0)
                        continue;
                took = 1;
                if (streq(name, "--fake-help")) {
                        fake_help();
                        exit(0);
                }
                paragraph = find_paragraph(name, &has_value, &integer);
                if (!paragraph) {
                        fprintf(stderr, "error: invalid argument: %s\n", name);
                        exit(1);
                }
                if (has_value) {
                        if (i + 1 >= argc)
                                bad_argument(name, paragraph, "expected value for argument");
                        took = 2;
                        if (integer && !parse_int(argv[i + 1], &number) && !starts_with(paragraph, "-ngl"))
                                bad_argument(name, paragraph, "stoi");
                        if (starts_with(paragraph, "-dev") && !streq(argv[i + 1], "none")) {
                                char why[128];

                                (void)snprintf(why, sizeof(why), "invalid device: %.64s", argv[i + 1]);
                                bad_argument(name, paragraph, why);
                        }
                }
                if (streq(name, "--version")) {
                        fputs(VERSION_TEXT, stderr);
                        exit(0);
                }
                if (streq(name, "--list-devices")) {
                        list_devices();
                }
                if (streq(name, "-h") || streq(name, "--help") || streq(name, "--usage")) {
                        fputs(HELP_TEXT, stdout);
                        exit(0);
                }
                apply_option(name, took == 2 ? argv[i + 1] : NULL, number, true);
        }
        if (extra) {
                char *const *w = words;

                (void)snprintf(env_text, sizeof(env_text), "%s", extra);
                (void)split_words(env_text, words, ARRAY_SIZE(words));
                for (; *w; w += took) {
                        took = faults_take(&fault, w);
                        if (took <= 0) {
                                fprintf(stderr, "fake: FAKE_LLAMA_ARGS: what is %s?\n", *w);
                                exit(1);
                        }
                }
        }
        if (fault.crash_starts != OFF) {
                struct faults given = fault, none;
                bool over = count_start(fault.state_file ? fault.state_file : "/nonexistent") >
                            fault.crash_starts;

                /* The pace of its work is no fault: it stays. */
                faults_clear(&none);
                none.crash_starts = given.crash_starts;
                none.state_file = given.state_file;
                none.load_ms = given.load_ms;
                none.tok_s = given.tok_s;
                none.tokens = given.tokens;
                none.prompt_ms = given.prompt_ms;
                none.prompt_work = given.prompt_work;
                none.control = given.control;
                if (over)
                        fault = none;
                else if (memcmp(&none, &given, sizeof(none)) == 0)
                        fault.die_loading = strdup("1");
        }
}

#endif
