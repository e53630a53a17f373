/* process_fork.h: how a child gets into its control group before it runs a single instruction of its binary; process.c's alone.
 *
 * posix_spawn cannot do that before glibc 2.39. clone3 with CLONE_INTO_CGROUP makes a child that was never anywhere else; where it is
 * refused, the forked child writes itself into cgroup.procs. As posix_spawn it returns when the binary runs or the child is gone; a
 * pipe tells what went wrong. Between fork and exec only calls that are safe after fork are made (signal-safety(7)). */
#ifndef LSV_HOST_PROCESS_FORK_H
#define LSV_HOST_PROCESS_FORK_H

#include "host/process.h"

struct fork_report;
typedef void fork_refused_fn(void *owner, int error, usec_t now);

/* spec->cgroup is set. 0; -EAGAIN, -ENOMEM, -EMFILE; -EACCES, -ENOENT …: the binary cannot be run, as far as can be told beforehand. */
int fork_into(const char *binary, const struct process_spec *spec, int cwd_fd, pid_t *ret_pid,
              struct fork_report **ret);
/* on_refused: it goes on outside of its group. */
int fork_report_follow(struct fork_report *r, struct loop *loop, fork_refused_fn *on_refused, void *owner);
/* What is there by now; takes NULL. */
void fork_report_read(struct fork_report *r);
int fork_report_exec_error(const struct fork_report *r); /* errno; 0: none, or NULL */
struct fork_report *fork_report_free(struct fork_report *r);

#endif
