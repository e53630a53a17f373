/* spool_command.c: a command that the administrator named, run for its output: without a shell, without input, in a clean environment, with
 * a deadline, and in a process group of its own, which ends with it. Runs in the pool. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/text.h"
#include "hub/spool_private.h"

enum { COMPLAINT_MAX = 200, LOOK_MS = 20 };

static int allowed_argv(const struct spool_folder *f, const char *name,
                        char *argv[SPOOL_COMMAND_WORDS_MAX + 1])
{
        const struct json_value *list = json_get(f->commands, name);
        size_t n = json_count(list);

        if (n == 0 || n > SPOOL_COMMAND_WORDS_MAX) /* the configuration was not taken with more */
                return -ENOENT;
        for (size_t i = 0; i < n; i++)
                argv[i] = (char *)(uintptr_t)json_as_string(json_at(list, i));
        argv[n] = NULL;
        return 0;
}

static int start(const struct spool_folder *f, char *const *argv, int out, int err, pid_t *ret)
{
        char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             lang[] = "LANG=C.UTF-8";
        char *const env[] = {path, lang, NULL};
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, all;
        int r = posix_spawn_file_actions_init(&actions);

        if (r)
                return -r;
        r = posix_spawnattr_init(&attributes);
        if (r) {
                (void)posix_spawn_file_actions_destroy(&actions);
                return -r;
        }
        (void)sigemptyset(&none);
        (void)sigfillset(&all);
        if (!(r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) &&
            !(r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO)) &&
            !(r = posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO)) &&
            !(r = posix_spawn_file_actions_addchdir_np(&actions, f->root)) &&
            !(r = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1)) &&
            !(r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                                POSIX_SPAWN_SETSIGDEF)) &&
            !(r = posix_spawnattr_setsigmask(&attributes, &none)) &&
            !(r = posix_spawnattr_setsigdefault(&attributes, &all)))
                r = posix_spawn(ret, argv[0], &actions, &attributes, argv, env);
        (void)posix_spawnattr_destroy(&attributes);
        (void)posix_spawn_file_actions_destroy(&actions);
        return -r;
}

/* Both outputs until they end, or the deadline, or the bound of the first. The second is kept as far as it fits. */
static int collect(int out, int err, usec_t deadline, struct buffer *text, struct buffer *complaint)
{
        struct pollfd fds[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
        char block[16384];

        while (fds[0].fd >= 0 || fds[1].fd >= 0) {
                usec_t now = time_monotonic();

                if (now >= deadline)
                        return -ETIMEDOUT;
                if (poll(fds, 2, (int)MIN((deadline - now) / 1000 + 1, 1000)) < 0 && errno != EINTR)
                        return -errno;
                for (size_t i = 0; i < 2; i++) {
                        ssize_t n;

                        if (fds[i].fd < 0 || !fds[i].revents)
                                continue;
                        n = read(fds[i].fd, block, sizeof(block));
                        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                                continue;
                        if (n <= 0)
                                fds[i].fd = -1;
                        else if (i == 0 && buffer_append(text, block, (size_t)n) < 0)
                                return -EFBIG;
                        else if (i == 1)
                                (void)buffer_append(complaint, block,
                                                    MIN((size_t)n, COMPLAINT_MAX - complaint->len));
                }
        }
        return 0;
}

/* Its end, until the deadline; what is then left of its session's group goes with it. */
static int wait_for(pid_t pid, usec_t deadline, bool at_once, int *ret_status)
{
        int r = 0;

        for (;;) {
                siginfo_t info = {0};

                if (at_once || time_monotonic() >= deadline) {
                        r = at_once ? 0 : -ETIMEDOUT;
                        break;
                }
                if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
                        return -errno;
                if (info.si_pid == pid)
                        break;
                (void)poll(NULL, 0, LOOK_MS);
        }
        /* It is not reaped yet, so the number of its group is nobody else's. */
        (void)kill(-pid, SIGKILL);
        while (waitpid(pid, ret_status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return r;
}

static const char *last_line(struct buffer *complaint, char buf[COMPLAINT_MAX + 8])
{
        char *line;

        if (!complaint->len)
                return "";
        while (complaint->len && complaint->data[complaint->len - 1] == '\n')
                complaint->data[--complaint->len] = '\0';
        line = strrchr(complaint->data, '\n');
        (void)snprintf(buf, COMPLAINT_MAX + 8, ": %s", line ? line + 1 : complaint->data);
        (void)text_harmless(buf);
        return buf;
}

static int run(const struct spool_folder *f, char *const *argv, struct buffer *out, struct buffer *complaint,
               int *ret_status)
{
        usec_t deadline = time_monotonic() + f->command_timeout;
        int a[2] = {-1, -1}, b[2] = {-1, -1}, r = 0, waited;
        pid_t pid = 0;

        if (pipe2(a, O_CLOEXEC) < 0 || pipe2(b, O_CLOEXEC) < 0)
                r = -errno;
        if (r == 0)
                r = start(f, argv, a[1], b[1], &pid);
        close_fd(&a[1]);
        close_fd(&b[1]);
        if (r == 0) {
                r = collect(a[0], b[0], deadline, out, complaint);
                waited = wait_for(pid, deadline, r < 0, ret_status);
                r = r < 0 ? r : waited;
        }
        close_fd(&a[0]);
        close_fd(&b[0]);
        return r;
}

int spool_command_run(const struct spool_folder *f, const char *name, struct buffer *out, char *words)
{
        _cleanup_buffer_ struct buffer complaint = {0};
        char *argv[SPOOL_COMMAND_WORDS_MAX + 1], span[TIME_SPAN_MAX], line[COMPLAINT_MAX + 8];
        int status = 0, r;

        buffer_init(&complaint, COMPLAINT_MAX);
        if (allowed_argv(f, name, argv) < 0) {
                (void)snprintf(words, PROMPT_WORDS_SIZE,
                               "needs the command \"%.64s\", which the administrator has not allowed "
                               "(spool.commands)",
                               name);
                return -EBADMSG;
        }
        r = run(f, argv, out, &complaint, &status);
        if (r == -EFBIG) {
                (void)snprintf(words, PROMPT_WORDS_SIZE, "needs the command %s, which gave more than 4 MB",
                               name);
                return -EBADMSG;
        }
        if (r == -ETIMEDOUT)
                (void)snprintf(words, PROMPT_WORDS_SIZE, "needs the command %s, which did not end within %s",
                               name, time_span(f->command_timeout, span, sizeof(span)));
        else if (r < 0)
                (void)snprintf(words, PROMPT_WORDS_SIZE, "needs the command %s, which cannot be run: %s",
                               name, strerror(-r));
        else if (WIFSIGNALED(status))
                (void)snprintf(words, PROMPT_WORDS_SIZE,
                               "needs the command %s, which was ended by signal %d%s", name, WTERMSIG(status),
                               last_line(&complaint, line));
        else if (WEXITSTATUS(status))
                (void)snprintf(words, PROMPT_WORDS_SIZE,
                               "needs the command %s, which ended with exit status %d%s", name,
                               WEXITSTATUS(status), last_line(&complaint, line));
        else
                return 0;
        return -EIO;
}
