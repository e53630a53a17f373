/* binary.c: finding programs, and reading their --help once. */
#include "host/binary.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "host/process.h"

enum { HELP_MAX = 1024 * 1024, BINARIES_MAX = 64 };

static const usec_t ANSWER_PATIENCE = 15 * USEC_PER_SEC, END_PATIENCE = 2 * USEC_PER_SEC;
static const usec_t DEVICES_AGAIN = 30 * USEC_PER_SEC; /* a program that answered, but sees none */
static const usec_t AGAIN = USEC_PER_MIN; /* one that did not answer, or whose help is of no use */
enum { AGAIN_DOUBLED_MAX = 5 };

struct binary {
        struct binaries *all;
        char *path;
        dev_t dev;
        ino_t ino;
        off_t size;
        struct timespec mtime;
        bool known;
        usec_t asked_at;
        struct help help;
        struct process *process; /* the --help or --list-devices that runs */
        const char *asks;        /* which of them */
        bool is_killed;          /* it has used up its time */
        struct process *stuck;   /* was killed, and does not end */
        unsigned unanswered;     /* questions in a row */
        usec_t silent_at;        /* the last of these */
        struct devices devices;
        usec_t devices_at; /* 0: never asked */
        struct devices
                told; /* the last list that named some; a program that fails to tell is still the same one */
        bool told_by_another; /* the file has changed since */
        struct timer *timer;
        int output;
};

struct binaries {
        struct loop *loop;
        char *const *env;
        struct binary *list[BINARIES_MAX];
        size_t n;
        uint64_t unanswered;
        usec_t answer_patience, end_patience;
        binaries_known_fn *on_known;
        void *owner;
};

static int check_executable(const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EACCES;
        return access(path, X_OK) < 0 ? -errno : 0;
}

int binary_find(const char *name, char **ret)
{
        const char *path = getenv("PATH"), *colon;
        int r = -ENOENT, q;

        if (strchr(name, '/')) {
                r = check_executable(name);
                if (r < 0)
                        return r;
                *ret = strdup(name);
                return *ret ? 0 : -ENOMEM;
        }
        for (path = path ? path : "/usr/local/bin:/usr/bin:/bin"; path; path = colon ? colon + 1 : NULL) {
                _cleanup_free_ char *full = NULL;

                colon = strchrnul(path, ':');
                full = text_format("%.*s/%s", (int)(colon - path), path, name);
                if (!full)
                        return -ENOMEM;
                colon = *colon ? colon : NULL;
                q = full[0] == '/' ? check_executable(full) : -ENOENT;
                if (q == 0) {
                        *ret = steal_ptr(full);
                        return 0;
                }
                if (q == -EACCES)
                        r = q;
        }
        return r;
}

int binaries_new(struct loop *loop, char *const *env, struct binaries **ret)
{
        struct binaries *b = calloc(1, sizeof *b);

        if (!b)
                return -ENOMEM;
        b->loop = loop;
        b->env = env;
        b->answer_patience = ANSWER_PATIENCE;
        b->end_patience = END_PATIENCE;
        *ret = b;
        return 0;
}

static void stop_asking(struct binary *bin)
{
        bin->timer = timer_free(bin->timer);
        if (bin->process && !process_has_exited(bin->process))
                (void)process_signal_group(bin->process, SIGKILL);
        bin->process = process_free(bin->process);
        close_fd(&bin->output);
        bin->output = -1;
}

static struct binary *binary_free(struct binary *bin)
{
        stop_asking(bin);
        bin->stuck = process_free(bin->stuck);
        help_finish(&bin->help);
        free(bin->path);
        free(bin);
        return NULL;
}

struct binaries *binaries_free(struct binaries *b)
{
        if (!b)
                return NULL;
        for (size_t i = 0; i < b->n; i++)
                b->list[i] = binary_free(b->list[i]);
        free(b);
        return NULL;
}

void binaries_on_known(struct binaries *b, binaries_known_fn *fn, void *owner)
{
        b->on_known = fn;
        b->owner = owner;
}

static char *read_output(const struct binary *bin)
{
        char *text = calloc(1, HELP_MAX + 1);
        size_t len = 0;
        ssize_t n;

        while (text && len < HELP_MAX && (n = pread(bin->output, text + len, HELP_MAX - len, (off_t)len)) > 0)
                len += (size_t)n;
        return text;
}

static void read_help(struct binary *bin)
{
        _cleanup_free_ char *text = read_output(bin);

        bin->known = true;
        if (!text || help_parse(text, &bin->help) < 0)
                log_warn(NULL, "%s --help could not be understood: it gets no flags of ours and a TCP port",
                         bin->path);
}

static void keep_told(struct binary *bin)
{
        if (bin->devices.n > 0 || bin->told_by_another)
                bin->told = bin->devices;
        bin->told_by_another = false;
}

static void read_devices(struct binary *bin, const struct process_exit *exit)
{
        _cleanup_free_ char *text = read_output(bin);
        bool ended_well = exit->kind == EXIT_CODE && exit->value == 0;

        bin->devices = (struct devices){.n = -1};
        if (text && ended_well)
                (void)devices_read(text, &bin->devices);
        keep_told(bin);
}

/* What is known is known now, as "nothing" if need be. */
static void answered(struct binary *bin, usec_t now)
{
        struct binaries *b = bin->all;

        if (streq(bin->asks, "--help"))
                bin->known = true;
        else
                bin->devices_at = now;
        stop_asking(bin);
        if (b->on_known)
                b->on_known(b->owner, now);
}

static void on_answer(void *owner, const struct process_exit *exit, usec_t now)
{
        struct binary *bin = owner;

        if (bin->stuck && process_has_exited(bin->stuck)) {
                log_info(NULL, "%s: the process that hung in a driver is gone", bin->path);
                bin->stuck = process_free(bin->stuck);
                return;
        }
        if (!bin->is_killed)
                bin->unanswered = 0;
        if (streq(bin->asks, "--help"))
                read_help(bin);
        else
                read_devices(bin, exit);
        answered(bin, now);
}

/* SIGKILL does not reach who waits inside a driver. */
static void leave(struct binary *bin, usec_t now)
{
        log_warn(NULL,
                 "%s %s (pid %d) does not end, though it was killed: a driver holds it. It is not waited for",
                 bin->path, bin->asks, (int)process_pid(bin->process));
        process_free(bin->stuck); /* of a file that was there before */
        bin->stuck = bin->process;
        bin->process = NULL;
        if (streq(bin->asks, "--list-devices")) {
                bin->devices = (struct devices){.n = -1};
                keep_told(bin);
        }
        answered(bin, now);
}

static void on_timeout(void *owner, usec_t now)
{
        struct binary *bin = owner;
        char span[TIME_SPAN_MAX];

        if (bin->is_killed) {
                leave(bin, now);
                return;
        }
        bin->is_killed = true;
        bin->unanswered++;
        bin->silent_at = now;
        bin->all->unanswered++;
        log_warn(NULL, "%s %s did not end in %s and was killed", bin->path, bin->asks,
                 time_span(bin->all->answer_patience, span, sizeof span));
        (void)process_signal_group(bin->process, SIGKILL); /* on_answer follows, mostly */
        if (bin->all->end_patience)
                timer_set(bin->timer, usec_add(now, bin->all->end_patience));
        else
                leave(bin, now);
}

/* It was silent not long ago, or hangs still: another one would, too. */
static bool is_silent(const struct binary *bin, usec_t now)
{
        unsigned doubled = MIN(bin->unanswered, 1U + AGAIN_DOUBLED_MAX);

        return bin->stuck || (doubled && usec_sub(now, bin->silent_at) < AGAIN << (doubled - 1));
}

static int start_asking(struct binary *bin, const char *option)
{
        struct binaries *b = bin->all;
        char *argv[] = {bin->path, (char *)(uintptr_t)option, NULL};
        struct process_spec spec = {.binary = bin->path, .argv = argv, .envp = b->env, .umask = 077};
        int r;

        bin->asks = option;
        bin->is_killed = false;
        bin->output = memfd_create("help", MFD_CLOEXEC);
        if (bin->output < 0)
                return -errno;
        spec.output = bin->output;
        r = timer_new(b->loop, on_timeout, bin, &bin->timer);
        if (r == 0)
                r = process_spawn(b->loop, &spec, on_answer, bin, &bin->process);
        if (r < 0) {
                stop_asking(bin);
                return r;
        }
        timer_set(bin->timer, usec_add(loop_now(b->loop), b->answer_patience));
        return 0;
}

static struct binary *find_or_add(struct binaries *b, const char *path)
{
        struct binary *bin;

        for (size_t i = 0; i < b->n; i++)
                if (streq(b->list[i]->path, path))
                        return b->list[i];
        if (b->n >= BINARIES_MAX)
                return NULL;
        bin = calloc(1, sizeof *bin);
        if (!bin)
                return NULL;
        bin->all = b;
        bin->output = -1;
        bin->devices.n = bin->told.n = -1;
        bin->path = strdup(path);
        if (!bin->path) {
                free(bin);
                return NULL;
        }
        b->list[b->n++] = bin;
        return bin;
}

bool binaries_is_asking(const struct binaries *b)
{
        for (size_t i = 0; i < b->n; i++)
                if (b->list[i]->process)
                        return true;
        return false;
}

uint64_t binaries_unanswered(const struct binaries *b)
{
        return b->unanswered;
}

void binaries_set_patience(struct binaries *b, usec_t answer, usec_t end)
{
        b->answer_patience = answer;
        b->end_patience = end;
}

int binaries_ask(struct binaries *b, const char *name, const char **ret_path, const struct help **ret_help)
{
        _cleanup_free_ char *path = NULL;
        struct binary *bin;
        struct stat st;
        int r;

        r = binary_find(name, &path);
        if (r < 0)
                return r;
        bin = find_or_add(b, path);
        if (!bin)
                return -ENOMEM;
        if (bin->process)
                return -EINPROGRESS;
        if (stat(path, &st) < 0)
                return -errno;
        if (bin->known && bin->help.n_flags == 0 && !is_silent(bin, loop_now(b->loop)) &&
            usec_sub(loop_now(b->loop), bin->asked_at) > AGAIN)
                bin->known = false; /* it failed, or was too slow: a cold GPU driver, say */
        if (bin->known && st.st_dev == bin->dev && st.st_ino == bin->ino && st.st_size == bin->size &&
            st.st_mtim.tv_sec == bin->mtime.tv_sec && st.st_mtim.tv_nsec == bin->mtime.tv_nsec) {
                *ret_path = bin->path;
                *ret_help = &bin->help;
                return 0;
        }
        bin->dev = st.st_dev;
        bin->ino = st.st_ino;
        bin->size = st.st_size;
        bin->mtime = st.st_mtim;
        bin->known = false;
        bin->asked_at = loop_now(b->loop);
        help_finish(&bin->help);
        bin->devices_at = 0;
        bin->told_by_another = true;
        r = start_asking(bin, "--help");
        return r < 0 ? r : -EINPROGRESS;
}

int binaries_devices(struct binaries *b, const char *name, struct devices *ret)
{
        const struct help *help = NULL;
        const char *path = NULL;
        struct binary *bin;
        usec_t now = loop_now(b->loop);
        int r = binaries_ask(b, name, &path, &help);

        if (r < 0)
                return r;
        *ret = (struct devices){.n = -1};
        if (!help || !help_knows(help, "--list-devices"))
                return 0;
        bin = find_or_add(b, path);
        if (!bin)
                return -ENOMEM;
        if ((!bin->devices_at || (bin->devices.n <= 0 && usec_sub(now, bin->devices_at) > DEVICES_AGAIN)) &&
            !is_silent(bin, now)) {
                r = start_asking(bin, "--list-devices");
                if (r == 0)
                        return -EINPROGRESS;
                bin->devices = (struct devices){.n = -1};
                bin->devices_at = now;
        }
        *ret = bin->devices;
        return 0;
}

void binaries_devices_told(const struct binaries *b, const char *name, struct devices *ret)
{
        _cleanup_free_ char *path = NULL;

        *ret = (struct devices){.n = -1};
        if (binary_find(name, &path) < 0)
                return;
        for (size_t i = 0; i < b->n; i++)
                if (streq(b->list[i]->path, path))
                        *ret = b->list[i]->told;
}

bool binaries_devices_awaited(const struct binaries *b, const char *name)
{
        _cleanup_free_ char *path = NULL;

        if (binary_find(name, &path) < 0)
                return true;
        for (size_t i = 0; i < b->n; i++) {
                const struct binary *bin = b->list[i];

                if (streq(bin->path, path))
                        return bin->process || !bin->known ||
                               (!bin->devices_at && help_knows(&bin->help, "--list-devices"));
        }
        return true;
}

void binaries_forget_devices(struct binaries *b, usec_t age)
{
        usec_t now = loop_now(b->loop);

        for (size_t i = 0; i < b->n; i++)
                if (b->list[i]->devices_at && usec_sub(now, b->list[i]->devices_at) >= age)
                        b->list[i]->devices_at = 0;
}
