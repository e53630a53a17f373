/* cgroup.h: the part of the cgroup tree that systemd has delegated to us: one group for ourselves, one for each instance.
 *
 *     UNIT/                 our unit's own group (Delegate=): holds no process, its controllers are enabled for those below
 *     UNIT/ctl/             the daemon and its helpers. systemd >= 254 starts us there (DelegateSubgroup=ctl), else we move
 *     UNIT/lock/            nobody: flock on its folder keeps a second daemon out. Mode 0700, for on a folder that anybody may
 *                           open, as UNIT is, anybody could take the lock, and so our groups from us
 *     UNIT/instance-NAME/   everything that the instance NAME has started, whatever it does to its session or group
 *
 * Delegated means: the group bears the xattr trusted.delegate or user.delegate = "1" (systemd sets both); or we are not root,
 * INVOCATION_ID is set and the group is writable. Somebody else in UNIT itself, or another daemon of our kind, and it is not
 * used (-EBUSY). In both cases nothing is touched.
 * Only cgroup v2 counts, wherever it is mounted (also the "unified" part of a hybrid machine, which has no controllers).
 *
 * memory and pids are enabled always, for figures and out-of-memory counts; cpu when somebody has limits.cpus, since it changes
 * how the groups share the processors. A kernel that says EBUSY (a process is in UNIT itself) is asked again with every new group.
 * systemd 252 with children alive: ExecStopPost switches the controllers off, so that the restarted daemon may enter; here they are
 * enabled again and cgroup_limit writes the limits anew. What was charged before stays charged to UNIT then.
 *
 * All calls are a few system calls on a memory file system, none waits for others, but cgroup_add, which moves a running process
 * and takes a grace period of the kernel's RCU (10 to 30 ms). A child that comes into a frozen group stands still before its exec, and
 * who forked it with it: so cgroup_make thaws a group that it could not make anew (who freezes one in that very moment is root or
 * ourselves). Names are escaped: what is not a letter, a digit, '.', '_' or '-' becomes %XX.
 * Source: the kernel's Documentation/admin-guide/cgroup-v2.rst; systemd's docs/CGROUP_DELEGATION. */
#ifndef LSV_HOST_CGROUP_H
#define LSV_HOST_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "net/loop.h"

struct cgroups; /* what is delegated to us */
struct cgroup;  /* one instance's group */

enum { CGROUP_MEMORY = 1, CGROUP_CPU = 2, CGROUP_PIDS = 4, CGROUP_ALL = 7 };

/* All NULL or false: found by looking at our own process. */
struct cgroups_spec {
        const char *root;  /* where cgroup v2 is mounted (or a tree of files that looks like it) */
        const char *own;   /* our own group in it, "/system.slice/llama-supervisor.service" */
        bool is_delegated; /* known, not to be found out */
};

/* Moves us into UNIT/ctl and enables memory and pids as far as they are there. `why` gets one sentence when it fails.
 * -ENODEV: nothing is delegated; -EBUSY: not to us alone; -errno: it is, but cannot be used. loop: for groups that are not empty at once, or NULL. */
int cgroups_open(struct loop *loop, const struct cgroups_spec *spec, char *why, size_t size,
                 struct cgroups **ret);
struct cgroups *cgroups_free(struct cgroups *c);   /* the groups stay; takes NULL, always NULL */
const char *cgroups_unit(const struct cgroups *c); /* UNIT as /proc/PID/cgroup tells it */
const char *cgroups_root(const struct cgroups *c); /* where the hierarchy is mounted */
/* Enables these too; returns which of CGROUP_ALL are in force for the instances' groups. */
unsigned cgroups_enable(struct cgroups *c, unsigned controllers);
/* Why this one is not in force: -ENOENT: not delegated, or the machine has it not; -EBUSY: a process lives in UNIT itself. 0: it is. */
int cgroups_error(const struct cgroups *c, unsigned controller);
/* The names of the instances that have a group, sorted; text_list_free. */
int cgroups_list(struct cgroups *c, char ***ret);

/* The group of an instance, made anew if nobody lives in it. */
int cgroup_make(struct cgroups *c, const char *name, struct cgroup **ret);
/* The group that a record tells of, also when nothing is delegated to us now (root: as in the spec). -ENOENT: it is gone; -EINVAL: not a
 * group of ours for that instance; -ESRCH: pid (0: nobody in particular) does not live in it. */
int cgroup_find(struct loop *loop, const char *root, const char *path, const char *name, pid_t pid,
                struct cgroup **ret);
struct cgroup *cgroup_free(struct cgroup *g); /* lets go of it; takes NULL, always NULL */
/* Removes it: at once when it is empty, else when it is, tried for a minute. Takes g over. */
void cgroup_retire(struct cgroups *c, struct cgroup *g);

const char *cgroup_path(const struct cgroup *g); /* as /proc/PID/cgroup tells it */
int cgroup_fd(const struct cgroup *g);           /* its directory, for process_spawn; never 0 */
/* It was there and could not be removed first, since somebody lives in it. Linux 6.14 and later (seen on 6.18) kill whoever is cloned
 * into a group that cgroup.kill was ever written to; who moves there lives. */
bool cgroup_is_used(const struct cgroup *g);
/* A daemon is at work in its unit (which it locks): for who finds a group by a record whose daemon may be an earlier one. */
bool cgroup_is_watched(const struct cgroup *g);
bool cgroup_has(const struct cgroup *g, pid_t pid); /* in it or below it */
int cgroup_add(struct cgroup *g, pid_t pid);

struct cgroup_limits {
        uint64_t memory; /* bytes; each 0: none */
        double cpus;
        unsigned pids;
        int nice; /* of the processes in it: with cpu.max their share must be told to the group, since nice counts only inside */
};
/* Writes all of them, "max" for none. A memory limit below what is in use makes the kernel give pages back, or kill, before the write
 * returns: that is done in libuv's pool, and counts as written. Returns which could not be written; errors[0..2] (memory, cpu, pids) are 0 or -errno. */
unsigned cgroup_limit(struct cgroup *g, const struct cgroup_limits *limits, int errors[3]);

/* SIGKILL to everybody in it and below: cgroup.kill (Linux 5.14), else one by one. 0 or -errno. */
int cgroup_kill(struct cgroup *g);
/* To all in it and below, but the leader of `session` (a pid; 0: nobody) and those in it. Looked at again behind a pidfd. Returns how many. */
int cgroup_signal(struct cgroup *g, int signo, pid_t session);
/* Each process in it and below, zombies left out, as one read of the group's own lists tells it, however many live elsewhere; who moves meanwhile may be
 * missed or told twice. fn: true counts. Returns how many did. */
typedef bool cgroup_pid_fn(void *arg, pid_t pid);
unsigned cgroup_each(const struct cgroup *g, cgroup_pid_fn *fn, void *arg);
/* Living processes in it and below, zombies left out. */
unsigned cgroup_count(const struct cgroup *g);

struct cgroup_usage {
        unsigned known;      /* which of CGROUP_ALL have figures (cpu_usec needs no controller) */
        uint64_t memory;     /* memory.current: bytes, page cache included */
        uint64_t memory_max; /* 0: none */
        uint64_t oom,
                oom_kills; /* memory.events: times at its limit with nothing to give back; processes killed by any OOM killer */
        uint64_t cpu_usec; /* cpu.stat */
        uint64_t pids;     /* pids.current: processes and threads */
};
void cgroup_read_usage(const struct cgroup *g, struct cgroup_usage *ret);
/* memory.events alone; false: not known. Counted since the group was made, or the controller was enabled. */
bool cgroup_read_oom(const struct cgroup *g, uint64_t *ret_oom, uint64_t *ret_kills);

/* --- for tests ------------------------------------------------------------------------------------------------- */
/* "instance-NAME" with everything strange escaped, into buf. -ENAMETOOLONG. */
int cgroup_escape(const char *name, char *buf, size_t size);
/* The other way; -EINVAL: not a name of ours. */
int cgroup_unescape(const char *file, char *buf, size_t size);

#endif
