/* process.h: one child: posix_spawn with its own session and process group, a pidfd and a clean environment; or a child
 * of an earlier daemon of ours (or somebody else's server), taken over by pid and start time.
 *
 * A process is {pid, start time, pidfd} and is signalled through the pidfd; its group by kill(-pgid) while the unreaped
 * leader holds the number, or (leader reaped, or taken over) member by member found in /proc with start times checked;
 * a bare pid never. Nobody calls waitpid(-1): waitid(P_PIDFD) alone. on_exit is called once, from the loop, never from
 * inside process_spawn/adopt, and may call process_free; else the object lives on until that.
 *
 * Why a session of its own and not only a group: a member that changes its group keeps the session, so it is still
 * found; and when we die, the kernel would send SIGHUP to a stopped group of our session that lost its last parent.
 * A process taken over that leads neither a group nor a session (a shell script's child) has no group here: only itself
 * is signalled, for the rest belongs to somebody else. */
#ifndef LSV_HOST_PROCESS_H
#define LSV_HOST_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

struct process;

struct process_spec {
        const char *binary; /* absolute path, or a name (no slash) looked up on our own PATH */
        char *const *argv;  /* NULL-ended */
        char *const *envp;  /* the whole environment of the child */
        const char *cwd;    /* NULL: "/" */
        int output;         /* stdout and stderr of the child (an O_APPEND file); stays the caller's */
        int nice; /* 0: unchanged; given just after the start; what we may not give (below ours) is left out */
        mode_t umask;        /* 077 makes llama-server's unix socket 0600 */
        bool cgroup_is_used; /* see there (host/cgroup.h): the child is not born in it, it moves there */
        int cgroup; /* the directory of the control group (v2) that it is born into; 0: ours; stays the caller's */
};

enum exit_kind {
        EXIT_UNKNOWN, /* taken over: not our child, and the kernel does not tell (PIDFD_GET_INFO needs Linux 6.15) */
        EXIT_CODE,
        EXIT_SIGNAL,
        EXIT_NEVER_RAN, /* it could not be executed after all: value is an errno (only with a cgroup, see process_spawn) */
};

struct process_exit {
        enum exit_kind kind;
        int value; /* exit code, signal or errno */
        bool core_dumped;
        uint64_t user_usec, system_usec, max_rss_bytes; /* 0 when unknown */
};

typedef void process_exit_fn(void *owner, const struct process_exit *exit, usec_t now);
/* It runs, but outside of the control group that it was to live in. */
typedef void process_outside_fn(void *owner, int error, usec_t now);

/* Every other descriptor is closed, stdin is /dev/null, all signals are at their defaults and unblocked.
 * 0; -ENOENT, -EACCES, -ENOEXEC … when the binary cannot be run; -ENOTDIR: cwd is not a directory that we may enter;
 * -EINVAL: a relative path as binary; -EAGAIN, -EMFILE, -ENOMEM. On failure nothing is left behind.
 * With spec->cgroup the child is forked and not waited for: where clone3 may not put it into its group (systemd's
 * RestrictNamespaces= forbids clone3 altogether), it moves itself before it runs the binary, and the kernel takes 10 to 30 ms for
 * that. What goes wrong there is told by on_exit, as EXIT_NEVER_RAN; or, when only the group was refused, by process_on_outside. */
int process_spawn(struct loop *loop, const struct process_spec *spec, process_exit_fn *on_exit, void *owner,
                  struct process **ret);
/* -ESRCH: gone, a zombie, or another process by now (its start time differs). A child of our own process (after an upgrade
 * by exec) is reaped by us as before; of others the exit status comes from PIDFD_GET_INFO, or from /proc while it is a
 * zombie, else it is unknown. A zombie that nobody reaps counts as dead at once. */
int process_adopt(struct loop *loop, pid_t pid, uint64_t start_time, process_exit_fn *on_exit, void *owner,
                  struct process **ret);
/* Who is told, with on_exit's owner; at most once, before on_exit. */
void process_on_outside(struct process *p, process_outside_fn *fn);
/* A child of our own process that died before anybody took it over (between two programs in one process): reaps it and tells how it
 * ended. 0, or -ESRCH: there is no such zombie of ours. */
int process_bury(pid_t pid, uint64_t start_time, struct process_exit *ret);
/* Lets go of it without touching it. Always NULL. */
struct process *process_free(struct process *p);

pid_t process_pid(const struct process *p);
uint64_t process_start_time(const struct process *p); /* field 22 of /proc/pid/stat, clock ticks since boot */
usec_t
process_age(const struct process *p); /* since it was started, whatever the wall clock did; 10 ms steps */
bool process_is_ours(const struct process *p);   /* spawned by us, not taken over */
bool process_has_group(const struct process *p); /* leads its group, so that the group is signalled with it */
bool process_has_exited(const struct process *p);
/* It is on its way out or gone, though on_exit may not have told it yet: the kernel closes the sockets of a process well before its
 * pidfd tells (with a GPU's memory to be freed, by far). One look at /proc, about 20 µs: for those who saw a connection end. */
bool process_is_dying(const struct process *p);

/* To the leader alone. 0, -ESRCH, or -EPERM (taken over from another user). */
int process_signal(struct process *p, int signo);
/* To every member of the group or session, the leader included; works also after the leader's death. Those that left by
 * setsid are process_signal_strays' business. Members are looked for once a turn of the loop. Returns how many were signalled. */
int process_signal_group(struct process *p, int signo);
/* Members of the group or session that live (zombies do not), besides the leader. */
int process_group_count(struct process *p);

/* A leader of an earlier daemon is dead, its session may not be (a wrapper script died, the server that it started lives):
 * signals those of its session that are not older than it and write to `output`, its log file. Returns how many. */
int process_signal_orphans(struct loop *loop, pid_t leader, uint64_t start_time, const char *output,
                           int signo);

/* To those that left the session of a leader by setsid, dead or alive: of our user, not older than it, their stdout or stderr is
 * `output` (the instance's log file), and `mark` ("NAME=value", unique to this instance of this daemon) is in the environment
 * that they were started with. All of it is looked at again behind an open pidfd, so that no stranger is met who came by the
 * number; who writes to our log from a shell has not the mark. What closed its output or cleaned its environment as well
 * cannot be told from strangers without a cgroup (packages give one). Returns how many were signalled. */
int process_signal_strays(struct loop *loop, pid_t leader, uint64_t start_time, const char *output,
                          const char *mark, int signo);

/* A thread of it runs, could run, or waits for a disk (states R and D of proc(5)). */
bool process_wants_to_run(const struct process *p);
/* CPU time of the process so far (user + system, all threads): progress of a silent server. 0 or -ESRCH. */
int process_cpu_time(const struct process *p, usec_t *ret);
/* Both of those, of all that live in its group or session: a server may stand behind a wrapper, which does nothing itself. It is a look at the
 * whole of /proc, half a second old at most. What ended takes its share along, so the time may also shrink. ret_wants_to_run may be NULL.
 * 0 or -errno. */
int process_look_at_all(const struct process *p, usec_t *ret_cpu, bool *ret_wants_to_run);
int process_rss(const struct process *p, uint64_t *ret_bytes);

/* Facts about any pid, for state files. 0 or -ESRCH. */
int process_read_start_time(pid_t pid, uint64_t *ret);
/* The boot id (/proc/sys/kernel/random/boot_id), "" if unreadable; static storage. */
const char *process_boot_id(void);
/* Is what a record tells a process of this boot? Its boot id says so. Where /proc shows us another one than it showed to who wrote the
 * record (systemd-nspawn lays its own over it, and a unit with ProtectProc= sees what lies below), the process says it: it has that
 * start time and bears `mark`, as in process_signal_strays. */
bool process_is_of_this_boot(const char *boot_id, pid_t pid, uint64_t start_time, const char *mark);
/* Frees what the room keeps between calls; at the end of the program, so that leak checkers stay quiet. */
void process_finish(void);

#endif
