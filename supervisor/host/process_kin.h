/* process_kin.h: whose a process is, among many: a leader itself, one of its group or session, a descendant of it however it left these (setsid), or one
 * that lives in its control group (also when its parent has ended).
 *
 * One table for all, made when it is needed and freed soon, since pids are given anew. What has left all of that (docker exec, systemd-run: another
 * daemon's child) is nobody's. Source: proc(5), cgroups(7). */
#ifndef LSV_HOST_PROCESS_KIN_H
#define LSV_HOST_PROCESS_KIN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/time.h"

#define PROCESS_KIN_NOBODY SIZE_MAX

struct cgroup;
struct process_kin;
int process_kin_new(struct process_kin **ret);
struct process_kin *process_kin_free(struct process_kin *k); /* always NULL */
/* whose: any number of the caller's but PROCESS_KIN_NOBODY. cgroup: its path as /proc/PID/cgroup tells it, NULL: it has none of its own; stays
 * the caller's, as long as the table. Several leaders may be of the same. 0 or -ENOMEM. */
int process_kin_add(struct process_kin *k, pid_t leader, const char *cgroup, size_t whose);

/* Of one process: a few system calls, and a look at its ancestors where its group and session are nobody's. */
size_t process_kin_of(struct process_kin *k, pid_t pid);
/* Of all that live (zombies do not): one look at the whole of /proc in a turn of the loop (`now`). -errno; fn: false ends it. */
typedef bool process_kin_fn(void *arg, pid_t pid, size_t whose);
int process_kin_walk(struct process_kin *k, usec_t now, process_kin_fn *fn, void *arg);

/* CPU time and wish to run (NULL: not asked, which saves a look at each thread) of the leader and all its kin, also of those that have left its session
 * (host/process.h's process_look_at_all does not see these); ret_others: how many there are besides it. For many, every second: who descends from whom is
 * of one look at /proc that all share, half a second old at most, and who lives in `group` (NULL: it has none) is told by the group. 0 or -errno. */
int process_kin_cpu(pid_t leader, const struct cgroup *group, usec_t now, usec_t *ret_cpu,
                    bool *ret_wants_to_run, size_t *ret_others);

/* The program that it runs, "/usr/bin/llama-server"; -errno: it cannot be seen. */
int process_program(pid_t pid, char *ret, size_t size);

#endif
