/* reaper.h: finds and ends what a daemon that is gone has left: for `llama-supervisor reap`, and after every end of the unit.
 *
 * Children are found by four ways, each of which may be missing: their records (pid, start time and boot id together, so that whoever has
 * the number by now is never met), what is left of the session of a leader that died, the groups "instance-NAME" of our unit,
 * and the mark in the environment of those that left both (they also write to that instance's log, see process_signal_strays).
 * The caller holds the lock of the runtime directory, so no daemon is at work.
 *
 * Three small files in the runtime directory say what ExecStopPost= cannot know otherwise: "stopping" (a stop had begun, so that an end by
 * timeout or SIGKILL is still a stop), "started" (the doors were open, so that a timeout was not that of the start, after which the next try
 * takes over what runs), and "enters-unit" (systemd started us in the unit's group itself, as before 254 without
 * DelegateSubgroup: then it must find no controllers there when it starts us again). */
#ifndef LSV_HOST_REAPER_H
#define LSV_HOST_REAPER_H

#include <stdbool.h>
#include <stddef.h>

#include "net/loop.h"

/* --- for the daemon --- */
void reaper_note_start(const char *runtime_dir,
                       bool is_next); /* is_next: by a re-exec, which changes no group */
void reaper_note_ready(const char *runtime_dir);
void reaper_note_stop(const char *runtime_dir);

/* --- for ExecStopPost= --- */
bool reaper_is_stopping(const char *runtime_dir);
bool reaper_is_started(const char *runtime_dir);
/* That daemon is gone: what comes now has not started. */
void reaper_forget_start(const char *runtime_dir);
/* Switches the controllers of our unit's group off where the next start needs that: 1: done; 0: not needed; -errno. */
int reaper_open_unit(const char *runtime_dir);

/* --- for reap --- */
enum reaper_event {
        REAPER_FOUND,  /* it lives (with dry_run nothing follows) */
        REAPER_TERM,   /* SIGTERM was sent */
        REAPER_KILL,   /* it took longer than its grace: SIGKILL was sent */
        REAPER_ENDED,  /* after: since its SIGTERM */
        REAPER_LEFT,   /* it outlived SIGKILL (a driver call that does not return) */
        REAPER_FAILED, /* it lives, and could not be taken over: error */
};
struct reaper_report {
        const char *name;
        pid_t pid;       /* of its leader; 0: gone, or not known */
        unsigned others; /* that belong to it, besides the leader */
        usec_t after;
        int error;
};
typedef void reaper_fn(void *owner, enum reaper_event event, const struct reaper_report *report);

struct reaper_spec {
        const char *runtime_dir;
        const char
                *log_dir; /* NULL: not known; those that left everything but their mark are not looked for */
        bool in_unit;     /* the groups of the unit that we run in are looked at, too */
        bool dry_run;
        usec_t (*grace)(void *owner, const char *name);
        reaper_fn *on_event;
        void *owner;
};
/* Ends them all, within the longest grace and a quarter of a minute. How many lived, or -errno; *ret_left: of those that still do. */
int reaper_run(struct loop *loop, const struct reaper_spec *spec, unsigned *ret_left);

#endif
