/* process_fork.c: fork, into a control group, and exec. */
#include "host/process_fork.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/sched.h>

#include "base/macros.h"

enum { INHERITED_MAX = 1024 };

/* What the child says through the pipe: at most one of each. */
enum stage { STAGE_CGROUP, STAGE_EXEC };

struct message {
        enum stage stage;
        int error;
};

struct fork_report {
        int fd; /* the pipe's reading end; -1 once it has ended */
        int exec_error;
        struct watch *watch;
        fork_refused_fn *on_refused;
        void *owner;
};

/* --- the child ----------------------------------------------------------------------------------------------------- */

static void say(int pipe_fd, enum stage stage, int error)
{
        struct message m = {stage, error};

        (void)!write(pipe_fd, &m, sizeof m); /* smaller than PIPE_BUF: whole or not at all */
}

/* A handler of ours must not run in the child, so all signals are blocked until none is left. */
static void forget_signals(void)
{
        sigset_t none;

        for (int signo = 1; signo <= SIGRTMAX; signo++)
                (void)signal(signo, SIG_DFL);
        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Ours are all close-on-exec; this is for what we inherited. The pipe is moved out of the way to the first number that counts. */
static int leave_descriptors(int pipe_fd, int output)
{
        int up = fcntl(pipe_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), null;

        if (up < 0)
                return -errno;
        /* The output first: it may be our own descriptor 0, if that was closed when we started. */
        if (output == STDERR_FILENO ? fcntl(STDERR_FILENO, F_SETFD, 0) < 0 : dup2(output, STDERR_FILENO) < 0)
                return -errno;
        if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
                return -errno;
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (null < 0)
                return -errno;
        if (null == STDIN_FILENO ? fcntl(null, F_SETFD, 0) < 0 : dup2(null, STDIN_FILENO) < 0)
                return -errno;
        if (up != STDERR_FILENO + 1) {
                if (dup3(up, STDERR_FILENO + 1, O_CLOEXEC) < 0)
                        return -errno;
                up = STDERR_FILENO + 1;
        }
        if (syscall(SYS_close_range, (unsigned)up + 1, ~0U, 0) < 0)
                for (int fd = up + 1; fd < INHERITED_MAX; fd++) /* Linux 5.8, or forbidden */
                        (void)close(fd);
        return up;
}

__attribute__((noreturn)) static void become(const char *binary, const struct process_spec *spec, int cwd_fd,
                                             int procs_fd, int pipe_fd)
{
        int up;

        (void)setsid();
        forget_signals();
        if (procs_fd >= 0 && write(procs_fd, "0", 1) != 1)
                say(pipe_fd, STAGE_CGROUP, errno);
        (void)umask(spec->umask);
        /* Its autogroup is given its own by who spawned it: until exec we are undumpable, and may not write there. */
        if (spec->nice)
                (void)setpriority(PRIO_PROCESS, 0, spec->nice);
        if (fchdir(cwd_fd) < 0) {
                say(pipe_fd, STAGE_EXEC, errno);
                _exit(127);
        }
        up = leave_descriptors(pipe_fd, spec->output);
        if (up < 0) {
                say(pipe_fd, STAGE_EXEC, -up);
                _exit(127);
        }
        (void)execve(binary, spec->argv, spec->envp);
        say(up, STAGE_EXEC, errno);
        _exit(127);
}

/* --- the parent ---------------------------------------------------------------------------------------------------- */

/* The kernel, seccomp or a container says no to this way; to all others it may say yes. */
static bool is_refusal(int error)
{
        return error == ENOSYS || error == EPERM || error == EACCES || error == EINVAL || error == EBUSY ||
               error == EOPNOTSUPP || error == E2BIG || error == ENODEV || error == ENOENT;
}

/* Bare system calls: the child is one of fork's, but glibc does not know it; see signal-safety above. With CLONE_VFORK they return
 * when the child runs its binary or is gone, as posix_spawn does. Until then it is as undumpable as we are, and where /proc hides
 * processes (ProtectProc=invisible) we could not see when it started. */
static pid_t clone_into(int cgroup)
{
        struct clone_args args = {
                .flags = CLONE_VFORK | CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (unsigned)cgroup};

        return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

/* Not clone3, which RestrictNamespaces= forbids, since no filter can look into its arguments. */
static pid_t clone_here(void)
{
#ifdef __s390__ /* its arguments come in another order */
        return (pid_t)syscall(SYS_clone, NULL, CLONE_VFORK | SIGCHLD, NULL, NULL, 0);
#else
        return (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, 0);
#endif
}

static int make_child(const char *binary, const struct process_spec *spec, int cwd_fd, int pipe_fd,
                      pid_t *ret)
{
        _cleanup_close_ int procs = -1;
        pid_t pid = -1;

        if (!spec->cgroup_is_used)
                pid = clone_into(spec->cgroup);
        if (pid == 0)
                become(binary, spec, cwd_fd, -1, pipe_fd);
        if (pid < 0) {
                if (!spec->cgroup_is_used && !is_refusal(errno))
                        return -errno;
                procs = openat(spec->cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
                if (procs < 0)
                        say(pipe_fd, STAGE_CGROUP, errno);
                pid = clone_here();
                if (pid == 0)
                        become(binary, spec, cwd_fd, procs, pipe_fd);
                if (pid < 0)
                        return -errno;
        }
        *ret = pid;
        return 0;
}

int fork_into(const char *binary, const struct process_spec *spec, int cwd_fd, pid_t *ret_pid,
              struct fork_report **ret)
{
        _cleanup_close_ int reading = -1, writing = -1;
        struct fork_report *report;
        sigset_t all, before;
        int ends[2], r;

        if (faccessat(AT_FDCWD, binary, X_OK, AT_EACCESS) < 0)
                return -errno;
        if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        reading = ends[0];
        writing = ends[1];
        report = calloc(1, sizeof *report);
        if (!report)
                return -ENOMEM;
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        r = make_child(binary, spec, cwd_fd, writing, ret_pid);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r < 0) {
                free(report);
                return r;
        }
        report->fd = steal_fd(&reading);
        *ret = report;
        return 0;
}

static void end_report(struct fork_report *r)
{
        r->watch = watch_free(r->watch);
        close_fd(&r->fd);
        r->fd = -1;
}

static int read_report(struct fork_report *r, bool *ret_refused)
{
        struct message m;
        ssize_t n;

        *ret_refused = false;
        while (r->fd >= 0) {
                n = read(r->fd, &m, sizeof m);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n != (ssize_t)sizeof m) {
                        end_report(r); /* the binary runs, or nothing does */
                        return 0;
                }
                if (m.stage == STAGE_CGROUP) {
                        *ret_refused = true;
                        return m.error;
                }
                r->exec_error = m.error;
        }
        return 0;
}

static void on_pipe(void *owner, unsigned events, usec_t now)
{
        struct fork_report *r = owner;
        bool refused;
        int error;

        (void)events;
        error = read_report(r, &refused);
        if (refused)
                r->on_refused(r->owner, error, now);
}

int fork_report_follow(struct fork_report *r, struct loop *loop, fork_refused_fn *on_refused, void *owner)
{
        r->on_refused = on_refused;
        r->owner = owner;
        return watch_new(loop, r->fd, WATCH_READ, on_pipe, r, &r->watch);
}

void fork_report_read(struct fork_report *r)
{
        bool refused = r != NULL;

        /* Who is dead lives in no group: only the rest counts. */
        while (refused)
                (void)read_report(r, &refused);
}

int fork_report_exec_error(const struct fork_report *r)
{
        return r ? r->exec_error : 0;
}

struct fork_report *fork_report_free(struct fork_report *r)
{
        if (!r)
                return NULL;
        end_report(r);
        free(r);
        return NULL;
}
