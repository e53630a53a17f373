/* process.c: spawning, taking over, signalling and burying children. */
#include "host/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/macros.h"
#include "host/process_fork.h"
#include "host/process_proc.h"

enum { PATH_BYTES = 4096 };

struct process {
        struct loop *loop;
        struct watch *watch;
        struct fork_report *report; /* what the child may still have to say before it runs its binary */
        process_exit_fn *on_exit;
        process_outside_fn *on_outside;
        void *owner;
        pid_t pid, group, session;
        uint64_t start_time;
        int pidfd;
        bool spawned;       /* by this object, not taken over */
        bool is_child;      /* of our process, so nobody but us reaps it */
        bool exited;        /* and reaped, if it was our child */
        bool group_gone;    /* nobody is left, or the number belongs to others now */
        const char *output; /* of orphans only: what their stdout or stderr must be */
};

/* linux/pidfd.h of Linux 6.13 and later, which Debian 12 has not; 64 bytes are its first version. exit_code is filled
 * in since 6.15. */
struct lsv_pidfd_info {
        uint64_t mask, cgroupid;
        uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
        int32_t exit_code;
};
#define LSV_PIDFD_GET_INFO  _IOWR(0xFF, 11, struct lsv_pidfd_info)
#define LSV_PIDFD_INFO_EXIT (UINT64_C(1) << 3)

_Static_assert(sizeof(struct lsv_pidfd_info) == 64, "the size is part of the ioctl's number");

/* --- how it ended ---------------------------------------------------------------------------------------------- */

static void exit_from_status(int status, struct process_exit *ret)
{
        if (WIFSIGNALED(status)) {
                ret->kind = EXIT_SIGNAL;
                ret->value = WTERMSIG(status);
                ret->core_dumped = WCOREDUMP(status);
        } else {
                ret->kind = EXIT_CODE;
                ret->value = WEXITSTATUS(status);
        }
}

static uint64_t timeval_usec(const struct timeval *tv)
{
        return (uint64_t)tv->tv_sec * USEC_PER_SEC + (uint64_t)tv->tv_usec;
}

/* 1: reaped, 0: still running, -ECHILD: not our child. */
static int reap(int pidfd, struct process_exit *ret)
{
        struct rusage usage = {0};
        siginfo_t si = {0};

        /* The system call fills in a fifth argument that the C library's waitid does not have. */
        if (syscall(SYS_waitid, P_PIDFD, pidfd, &si, WEXITED | WNOHANG, &usage) < 0)
                return -errno;
        if (si.si_pid == 0)
                return 0;
        ret->kind = si.si_code == CLD_EXITED ? EXIT_CODE : EXIT_SIGNAL;
        ret->value = si.si_status;
        ret->core_dumped = si.si_code == CLD_DUMPED;
        ret->user_usec = timeval_usec(&usage.ru_utime);
        ret->system_usec = timeval_usec(&usage.ru_stime);
        ret->max_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
        return 1;
}

static bool ask_pidfd(int pidfd, struct process_exit *ret)
{
        struct lsv_pidfd_info info = {.mask = LSV_PIDFD_INFO_EXIT};

        if (ioctl(pidfd, LSV_PIDFD_GET_INFO, &info) < 0 || !(info.mask & LSV_PIDFD_INFO_EXIT))
                return false;
        exit_from_status(info.exit_code, ret);
        return true;
}

/* /proc shows a zombie's status to who may look into it; to others it shows 0, which must not pass for "exit code 0". */
static bool ask_zombie(const struct process *p, struct process_exit *ret)
{
        struct proc_stat st;
        uid_t uid;

        if (proc_read_uid(p->pid, &uid) < 0 || (geteuid() != 0 && uid != geteuid()))
                return false;
        if (proc_read_stat(p->pid, &st) < 0 || st.start_time != p->start_time || st.state != 'Z')
                return false;
        exit_from_status(st.exit_status, ret);
        return true;
}

static void on_pidfd(void *owner, unsigned events, usec_t now)
{
        struct process_exit ended = {.kind = EXIT_UNKNOWN};
        struct process *p = owner;
        int r;

        (void)events;
        r = reap(p->pidfd, &ended);
        if (r == 0)
                return;
        /* The kernel tells the status through the pidfd only after the real parent has reaped; until then /proc has it,
         * and the parent may reap between our two questions. */
        if (r < 0 && !ask_pidfd(p->pidfd, &ended) && !ask_zombie(p, &ended))
                (void)ask_pidfd(p->pidfd, &ended);
        fork_report_read(p->report); /* whichever of the two descriptors came first */
        if (fork_report_exec_error(p->report) && r > 0)
                ended = (struct process_exit){.kind = EXIT_NEVER_RAN,
                                              .value = fork_report_exec_error(p->report)};
        p->exited = true;
        p->watch = watch_free(p->watch);
        (void)close(p->pidfd);
        p->pidfd = -1;
        p->on_exit(p->owner, &ended, now); /* p may be gone now */
}

/* --- spawning ------------------------------------------------------------------------------------------------- */

/* posix_spawnp would look relative PATH entries up in the child's directory; this finds them in ours, and tells "found
 * but not allowed" from "not found". */
static int find_binary(const char *name, char *ret, size_t size)
{
        const char *path = getenv("PATH"), *end;
        bool denied = false;
        struct stat st;

        if (name[0] == '/') {
                if ((size_t)snprintf(ret, size, "%s", name) >= size)
                        return -ENAMETOOLONG;
                return 0;
        }
        if (name[0] == '\0' || strchr(name, '/'))
                return name[0] ? -EINVAL : -ENOENT;
        if (!path)
                path = "/usr/local/bin:/usr/bin:/bin";
        for (;; path = end + 1) {
                end = strchrnul(path, ':');
                /* An empty or relative entry means "here", which is no place for a daemon. */
                if (*path == '/' &&
                    (size_t)snprintf(ret, size, "%.*s/%s", (int)(end - path), path, name) < size &&
                    stat(ret, &st) == 0 && S_ISREG(st.st_mode)) {
                        if (access(ret, X_OK) == 0)
                                return 0;
                        denied = true;
                }
                if (!*end)
                        return denied ? -EACCES : -ENOENT;
        }
}

static int set_actions(posix_spawn_file_actions_t *actions, const struct process_spec *spec, int cwd_fd)
{
        int r;

        /* The output first: it may be our own descriptor 0, if that was closed when we started. dup2 onto itself
         * drops close-on-exec (glibc 2.29 and later). */
        r = posix_spawn_file_actions_adddup2(actions, spec->output, STDOUT_FILENO);
        if (r == 0)
                r = posix_spawn_file_actions_adddup2(actions, spec->output, STDERR_FILENO);
        if (r == 0)
                r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (r == 0)
                r = posix_spawn_file_actions_addfchdir_np(actions, cwd_fd);
        /* All of ours are close-on-exec; this is for what we inherited ourselves. */
        if (r == 0)
                r = posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
        return -r;
}

static int set_attributes(posix_spawnattr_t *attr)
{
        sigset_t set;
        int r;

        (void)sigemptyset(&set);
        r = posix_spawnattr_setsigmask(attr, &set);
        (void)sigfillset(&set);
        if (r == 0)
                r = posix_spawnattr_setsigdefault(attr, &set);
        if (r == 0) /* SETSID implies a group of its own */
                r = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                                           POSIX_SPAWN_SETSIGDEF);
        return -r;
}

static int spawn(const char *binary, const struct process_spec *spec, int cwd_fd, pid_t *ret)
{
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attr;
        mode_t old;
        int r;

        r = posix_spawn_file_actions_init(&actions);
        if (r != 0)
                return -r;
        r = posix_spawnattr_init(&attr);
        if (r != 0) {
                (void)posix_spawn_file_actions_destroy(&actions);
                return -r;
        }
        r = set_actions(&actions, spec, cwd_fd);
        if (r == 0)
                r = set_attributes(&attr);
        if (r == 0) {
                /* posix_spawn knows no umask, so ours is changed for these 60 µs. Only libuv's pool threads run
                 * meanwhile, and what they create they create with modes of at most 0640, which no umask widens. */
                old = umask(spec->umask);
                r = -posix_spawn(ret, binary, &actions, &attr, spec->argv, spec->envp);
                (void)umask(old);
        }
        (void)posix_spawnattr_destroy(&attr);
        (void)posix_spawn_file_actions_destroy(&actions);
        return r;
}

/* Best effort: an unprivileged daemon cannot give a better priority than its own. */
static void set_nice(pid_t pid, int nice_value)
{
        char path[48], text[16];
        int n;

        if (nice_value == 0)
                return;
        /* By group, because by process it would reach one thread only, and the child runs already. */
        (void)setpriority(PRIO_PGRP, (id_t)pid, nice_value);
        /* Where autogroups are on (sched(7)), nice counts only inside a session; its own value counts among them. */
        (void)snprintf(path, sizeof path, "/proc/%d/autogroup", (int)pid);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
        /* As for read_fresh_stat: for some µs it is still as undumpable as we are, and its files are root's. */
        for (long wait_ns = 10000; fd < 0 && errno == EACCES && wait_ns < 4000000; wait_ns *= 2) {
                const struct timespec pause = {.tv_nsec = wait_ns};

                (void)nanosleep(&pause, NULL);
                fd = open(path, O_WRONLY | O_CLOEXEC);
        }
        if (fd < 0)
                return;
        n = snprintf(text, sizeof text, "%d", nice_value);
        (void)!write(fd, text, (size_t)n);
}

/* A fresh child that we cannot keep: out of memory right after the spawn. It is unreaped, so its number is safe. */
static void abandon(pid_t pid)
{
        const struct timespec pause = {.tv_nsec = 1000000};

        (void)kill(-pid, SIGKILL);
        (void)kill(pid, SIGKILL); /* it may not have come to its setsid yet */
        for (unsigned i = 0; i < 200; i++) {
                if (waitpid(pid, NULL, WNOHANG) != 0)
                        return;
                (void)nanosleep(&pause, NULL);
        }
}

static void on_refused(void *owner, int error, usec_t now)
{
        struct process *p = owner;

        if (p->on_outside)
                p->on_outside(p->owner, error, now);
}

void process_on_outside(struct process *p, process_outside_fn *fn)
{
        p->on_outside = fn;
}

static int follow(struct process *p)
{
        return watch_new(p->loop, p->pidfd, WATCH_READ, on_pidfd, p, &p->watch);
}

/* Of a fresh child. The kernel lets who spawned it go on a few µs before it makes the child dumpable again, as undumpable as we are
 * until then; where /proc hides other's processes (ProtectProc=invisible) it shows it only afterwards. A zombie is shown. */
static int read_fresh_stat(pid_t pid, struct proc_stat *ret)
{
        int r = proc_read_stat(pid, ret);

        for (long wait_ns = 10000; r == -ESRCH && wait_ns < 500000000; wait_ns *= 2) { /* a second in all */
                const struct timespec pause = {.tv_nsec = wait_ns};

                (void)nanosleep(&pause, NULL);
                r = proc_read_stat(pid, ret);
        }
        return r;
}

/* Fills in p, whose pid is a fresh child. */
static int take_child(struct process *p, const struct process_spec *spec)
{
        struct proc_stat st;
        int r;

        p->group = p->session = p->pid;
        p->spawned = p->is_child = true;
        set_nice(p->pid, spec->nice);
        r = read_fresh_stat(p->pid, &st);
        if (r < 0)
                return r;
        p->start_time = st.start_time;
        p->pidfd = pidfd_open(p->pid, 0); /* not a race: nobody reaps it but us */
        if (p->pidfd < 0)
                return -errno;
        r = follow(p);
        if (r == 0 && p->report)
                r = fork_report_follow(p->report, p->loop, on_refused, p);
        if (r < 0)
                p->watch = watch_free(p->watch);
        if (r < 0)
                close_fd(&p->pidfd);
        return r;
}

int process_spawn(struct loop *loop, const struct process_spec *spec, process_exit_fn *on_exit, void *owner,
                  struct process **ret)
{
        const char *cwd = spec->cwd ? spec->cwd : "/";
        _cleanup_close_ int cwd_fd = -1;
        char binary[PATH_BYTES];
        struct sigaction chld;
        struct process *p;
        int r;

        r = find_binary(spec->binary, binary, sizeof binary);
        if (r < 0)
                return r;
        cwd_fd = open(cwd, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (cwd_fd < 0)
                return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -errno : -ENOTDIR;
        if (faccessat(AT_FDCWD, cwd, X_OK, AT_EACCESS) < 0)
                return -ENOTDIR;
        /* Whoever started us may have left SIGCHLD ignored, which survives exec: then the kernel would reap for us, and
         * status and number would be lost. */
        if (sigaction(SIGCHLD, NULL, &chld) == 0 && chld.sa_handler == SIG_IGN)
                (void)signal(SIGCHLD, SIG_DFL);

        p = calloc(1, sizeof *p);
        if (!p)
                return -ENOMEM;
        p->loop = loop;
        p->on_exit = on_exit;
        p->owner = owner;
        p->pidfd = -1;
        r = spec->cgroup ? fork_into(binary, spec, cwd_fd, &p->pid, &p->report)
                         : spawn(binary, spec, cwd_fd, &p->pid);
        if (r == 0) {
                /* From here on one descriptor is needed at a time; the directory's was its reservation. */
                (void)close(steal_fd(&cwd_fd));
                r = take_child(p, spec);
                if (r < 0)
                        abandon(p->pid);
        }
        if (r < 0) {
                p->report = fork_report_free(p->report);
                free(p);
                return r;
        }
        *ret = p;
        return 0;
}

int process_adopt(struct loop *loop, pid_t pid, uint64_t start_time, process_exit_fn *on_exit, void *owner,
                  struct process **ret)
{
        _cleanup_close_ int pidfd = -1;
        struct pollfd poll_fd;
        struct proc_stat st;
        struct process *p;
        int r;

        if (pid <= 1 || pid == getpid())
                return -ESRCH;
        pidfd = pidfd_open(pid, 0);
        if (pidfd < 0) /* EINVAL: a thread's number */
                return errno == EINVAL ? -ESRCH : -errno;
        /* Read after the pidfd was opened: if this is the right one, then so is what the pidfd stands for, unless the
         * number passed from the right one to another and back; start times never repeat. */
        r = proc_read_stat(pid, &st);
        if (r < 0)
                return r;
        if (st.start_time != start_time)
                return -ESRCH;
        poll_fd = (struct pollfd){.fd = pidfd, .events = POLLIN};
        if (poll(&poll_fd, 1, 0) != 0)
                return -ESRCH; /* a zombie, or gone and replaced since */
        p = malloc(sizeof *p);
        if (!p)
                return -ENOMEM;
        *p = (struct process){
                .loop = loop,
                .on_exit = on_exit,
                .owner = owner,
                .pid = pid,
                .group = st.group,
                .session = st.session,
                .start_time = start_time,
                .is_child = st.parent == getpid(),
                .pidfd = pidfd,
        };
        r = follow(p);
        if (r < 0) {
                free(p);
                return r;
        }
        (void)steal_fd(&pidfd);
        *ret = p;
        return 0;
}

int process_bury(pid_t pid, uint64_t start_time, struct process_exit *ret)
{
        _cleanup_close_ int pidfd = pid > 1 ? pidfd_open(pid, 0) : -1;
        struct process_exit ended = {.kind = EXIT_UNKNOWN};
        struct proc_stat st;

        /* A zombie of ours keeps its number until we reap it. */
        if (pidfd < 0 || proc_read_stat(pid, &st) < 0 || st.start_time != start_time ||
            st.parent != getpid() || reap(pidfd, &ended) != 1)
                return -ESRCH;
        *ret = ended;
        return 0;
}

struct process *process_free(struct process *p)
{
        if (!p)
                return NULL;
        p->report = fork_report_free(p->report);
        (void)watch_free(p->watch);
        close_fd(&p->pidfd);
        free(p);
        return NULL;
}

/* --- signals -------------------------------------------------------------------------------------------------- */

int process_signal(struct process *p, int signo)
{
        if (p->exited)
                return -ESRCH;
        return pidfd_send_signal(p->pidfd, signo, NULL, 0) < 0 ? -errno : 0;
}

bool process_has_group(const struct process *p)
{
        return p->group == p->pid || p->session == p->pid;
}

static bool is_member(const struct process *p, const struct proc_stat *st)
{
        /* Members are descendants of the leader, so none is older. */
        if (st->pid == p->pid || st->start_time < p->start_time)
                return false;
        if (p->session == p->pid)
                return st->session == p->pid;
        return p->group == p->pid && st->group == p->pid && st->session == p->session;
}

static bool is_alive_member(const struct process *p, pid_t pid, uint64_t start_time)
{
        struct proc_stat st;

        return proc_read_stat(pid, &st) == 0 && st.start_time == start_time && st.state != 'Z' &&
               st.state != 'X' && is_member(p, &st);
}

static bool signal_member(const struct process *p, const struct proc_stat *st, int signo)
{
        _cleanup_close_ int fd = pidfd_open(st->pid, 0);

        /* Checked after the pidfd was opened: what it stands for is what was checked. */
        return fd >= 0 && is_alive_member(p, st->pid, st->start_time) &&
               pidfd_send_signal(fd, signo, NULL, 0) == 0;
}

/* Calls nobody when the number is free or was given to a stranger after our leader was reaped: then a process bears it
 * that started at another time (a group's number is never given to a process while the group lasts). */
static int each_member(struct process *p,
                       bool (*fn)(const struct process *p, const struct proc_stat *st, int arg), int arg)
{
        const struct proc_stat *all;
        size_t count;
        int n = 0;

        if (p->group_gone || !process_has_group(p))
                return 0;
        if (p->exited && proc_number_is_free(p->pid)) {
                p->group_gone = true;
                return 0;
        }
        if (proc_snapshot(loop_now(p->loop), 0, &all, &count) < 0)
                return 0;
        for (size_t i = 0; i < count; i++)
                if (all[i].pid == p->pid && all[i].start_time != p->start_time) {
                        p->group_gone = true;
                        return 0;
                }
        for (size_t i = 0; i < count; i++)
                if (is_member(p, &all[i]) && fn(p, &all[i], arg))
                        n++;
        return n;
}

static bool count_member(const struct process *p, const struct proc_stat *st, int arg)
{
        (void)arg;
        return is_alive_member(p, st->pid, st->start_time);
}

/* The group itself was signalled in one go; those who only share the session were not. */
static bool signal_stray(const struct process *p, const struct proc_stat *st, int signo)
{
        if (st->group != p->pid)
                return signal_member(p, st, signo);
        return st->state != 'Z' && st->state != 'X';
}

int process_signal_group(struct process *p, int signo)
{
        if (p->exited)
                return each_member(p, signal_member, signo);
        if (p->is_child && p->group == p->pid) {
                /* Only we can reap the leader and we have not, so the number is its own. A forked one that has not come to
                 * its setsid yet has no group, and nobody in it. */
                if (kill(-p->pid, signo) < 0)
                        return p->report && process_signal(p, signo) == 0;
                return 1 + each_member(p, signal_stray, signo);
        }
        return (process_signal(p, signo) == 0) + each_member(p, signal_member, signo);
}

int process_group_count(struct process *p)
{
        return each_member(p, count_member, 0);
}

static bool writes_to(pid_t pid, const char *output)
{
        char path[48], target[4096];
        ssize_t n;

        for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
                (void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
                n = readlink(path, target, sizeof target - 1);
                target[MAX(n, 0)] = '\0';
                if (n > 0 && streq(target, output))
                        return true;
        }
        return false;
}

static bool signal_orphan(const struct process *p, const struct proc_stat *st, int signo)
{
        return writes_to(st->pid, p->output) && signal_member(p, st, signo);
}

int process_signal_orphans(struct loop *loop, pid_t leader, uint64_t start_time, const char *output,
                           int signo)
{
        struct process gone = {.loop = loop,
                               .pid = leader,
                               .group = leader,
                               .session = leader,
                               .pidfd = -1,
                               .start_time = start_time,
                               .exited = true,
                               .output = output};

        return each_member(&gone, signal_orphan, signo);
}

/* --- facts ---------------------------------------------------------------------------------------------------- */

pid_t process_pid(const struct process *p)
{
        return p->pid;
}

uint64_t process_start_time(const struct process *p)
{
        return p->start_time;
}

usec_t process_age(const struct process *p)
{
        uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);
        struct timespec ts;

        (void)clock_gettime(CLOCK_BOOTTIME, &ts);
        return usec_sub((usec_t)ts.tv_sec * USEC_PER_SEC + (usec_t)ts.tv_nsec / 1000,
                        p->start_time * USEC_PER_SEC / hz);
}

bool process_is_ours(const struct process *p)
{
        return p->spawned;
}

bool process_has_exited(const struct process *p)
{
        return p->exited;
}

bool process_is_dying(const struct process *p)
{
        struct proc_stat st;
        int r;

        if (p->exited)
                return true;
        r = proc_read_stat(p->pid, &st);
        if (r == -ESRCH)
                return true;
        if (r < 0)
                return false;
        /* PF_EXITING of <linux/sched.h>: do_exit() sets it first of all, before it closes anything. */
        return st.start_time != p->start_time || st.state == 'Z' || st.state == 'X' || (st.flags & 0x4) != 0;
}

/* After a fact was read by number: was the number still this process's? EPERM means yes, and another user's. */
static bool still_holds_number(const struct process *p)
{
        return pidfd_send_signal(p->pidfd, 0, NULL, 0) == 0 || errno == EPERM;
}

int process_cpu_time(const struct process *p, usec_t *ret)
{
        struct timespec ts;
        clockid_t clock;

        if (p->exited)
                return -ESRCH;
        /* The process's CPU clock counts in nanoseconds, /proc/pid/stat in ticks of 10 ms. */
        if (clock_getcpuclockid(p->pid, &clock) != 0 || clock_gettime(clock, &ts) < 0 ||
            !still_holds_number(p))
                return -ESRCH;
        *ret = (usec_t)ts.tv_sec * USEC_PER_SEC + (usec_t)ts.tv_nsec / 1000;
        return 0;
}

bool process_wants_to_run(const struct process *p)
{
        return !p->exited && proc_has_running_thread(p->pid);
}

int process_look_at_all(const struct process *p, usec_t *ret_cpu, bool *ret_wants_to_run)
{
        usec_t now = loop_now(p->loop), tick = USEC_PER_SEC / (usec_t)sysconf(_SC_CLK_TCK), cpu = 0;
        bool wants = ret_wants_to_run && process_wants_to_run(p);
        const struct proc_stat *all;
        size_t count = 0;
        int r = process_cpu_time(p, &cpu);

        if (r == 0)
                r = proc_snapshot(now, PROC_LOOK_KEPT, &all, &count);
        if (r < 0)
                return r;
        for (size_t i = 0; process_has_group(p) && i < count; i++) {
                if (!is_member(p, &all[i]))
                        continue;
                cpu += all[i].cpu * tick;
                wants = wants || (ret_wants_to_run && proc_has_running_thread(all[i].pid));
        }
        *ret_cpu = cpu;
        if (ret_wants_to_run)
                *ret_wants_to_run = wants;
        return 0;
}

int process_rss(const struct process *p, uint64_t *ret_bytes)
{
        uint64_t bytes;
        int r;

        if (p->exited)
                return -ESRCH;
        r = proc_read_rss(p->pid, &bytes);
        if (r < 0)
                return r;
        if (!still_holds_number(p))
                return -ESRCH;
        *ret_bytes = bytes;
        return 0;
}

int process_read_start_time(pid_t pid, uint64_t *ret)
{
        struct proc_stat st;
        int r;

        r = pid > 0 ? proc_read_stat(pid, &st) : -ESRCH;
        if (r < 0)
                return r;
        *ret = st.start_time;
        return 0;
}

const char *process_boot_id(void)
{
        static char id[40];
        ssize_t n;

        if (!id[0]) {
                _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

                n = fd < 0 ? -1 : read(fd, id, sizeof id - 1);
                id[MAX(n, 0)] = '\0';
                id[strcspn(id, "\n")] = '\0';
        }
        return id;
}

void process_finish(void)
{
        proc_snapshot_free();
}
