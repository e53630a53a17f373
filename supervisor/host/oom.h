/* oom.h: did the kernel's out-of-memory killer take this process?
 * Two witnesses: the kernel's log (/dev/kmsg: "Out of memory: Killed process PID (", "Memory cgroup out of memory: Killed
 * process PID (", needs root or dmesg_restrict=0), and the machine's counter of OOM kills (/proc/vmstat oom_kill, Linux 4.13). */
#ifndef LSV_HOST_OOM_H
#define LSV_HOST_OOM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* OOM kills since boot; 0 when it cannot be read. */
uint64_t oom_kills(void);
/* pid was ended by SIGKILL that we did not send; before: oom_kills() when it was started. Reads at most 1 MB. */
bool oom_has_killed(pid_t pid, uint64_t before);

#endif
