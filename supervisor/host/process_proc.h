/* process_proc.h: what /proc tells about processes; only process.c, process_kin.c and process_strays.c use it.
 * Source: proc(5), "/proc/pid/stat". */
#ifndef LSV_HOST_PROCESS_PROC_H
#define LSV_HOST_PROCESS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/time.h"

#define PROC_NOBODY SIZE_MAX

struct proc_stat {
        pid_t pid, parent, group, session;
        char state;          /* 'R' 'S' 'D' 'T' 'Z' … */
        uint64_t flags;      /* the kernel's PF_… */
        uint64_t cpu;        /* clock ticks of user and system, all threads */
        uint64_t start_time; /* clock ticks since boot */
        int exit_status;     /* as waitpid tells it; of a zombie, and only to who may ptrace it, else 0 */
        struct {
                dev_t dev;
                ino_t ino;
        } outputs[2]; /* see proc_snapshot_writes_to */
        bool outputs_known;
        size_t up; /* of a snapshot: the place of its parent in it, PROC_NOBODY: not in it */
};

/* 0; -ESRCH: no such process (or hidden from us); -errno. */
int proc_read_stat(pid_t pid, struct proc_stat *ret);
/* One of its threads is in state R or D, of the first few hundred. */
bool proc_has_running_thread(pid_t pid);
/* Resident bytes: 0 or -ESRCH. */
int proc_read_rss(pid_t pid, uint64_t *ret);
/* The owner by effective user: 0 or -ESRCH. */
int proc_read_uid(pid_t pid, uid_t *ret);

/* How old a look at all processes may be for who only weighs what they do, over seconds. */
#define PROC_LOOK_KEPT (USEC_PER_SEC / 2)

/* All processes at one moment, by their pid. A look at the whole of /proc costs 10 to 20 µs a process, so the answer is kept and
 * given again to whom it is young enough for. `now`: the turn's time; age 0: a look of this turn, so a thousand deaths in one turn cost
 * one. The array stays ours and is valid until the next call. 0 or -errno. */
int proc_snapshot(usec_t now, usec_t age, const struct proc_stat **ret, size_t *ret_count);
/* Its place in such an array, or PROC_NOBODY. */
size_t proc_find(const struct proc_stat *all, size_t count, pid_t pid);
/* True when stdout or stderr of a process of the snapshot was this file when it was first asked for in this turn. */
bool proc_snapshot_writes_to(const struct proc_stat *st, dev_t dev, ino_t ino);
/* Frees the kept array (at the end of the daemon and of tests). */
void proc_snapshot_free(void);

/* True when no process, group or session bears this number, zombies included. The kernel keeps a number as long as any
 * of the three uses it. */
bool proc_number_is_free(pid_t number);

#endif
