/* cause.h: why a llama-server died, in plain words: how it ended and the last lines of its log against a table of known
 * causes. Pure. Source of the lines: measured on a real llama-server (facts/llama-server §2) and its issue tracker. */
#ifndef LSV_CORE_CAUSE_H
#define LSV_CORE_CAUSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/time.h"

/* How it ended, without the host's types. */
enum death_kind {
        DEATH_UNKNOWN,      /* taken over and not our child: its exit status is not known */
        DEATH_EXIT,         /* value: exit code */
        DEATH_SIGNAL,       /* value: signal */
        DEATH_SPAWN,        /* could not be started; value: errno */
        DEATH_UNRESPONSIVE, /* killed by us: did not answer */
        DEATH_WEDGED,       /* killed by us: its work stood still */
        DEATH_LOAD_TIMEOUT, /* killed by us: the model never loaded */
        DEATH_GPU,          /* killed by us: the driver reported an error of its GPU */
};

struct death {
        enum death_kind kind;
        int value;
        bool oom_killed; /* the kernel said so (memory.events, /dev/kmsg) */
        bool while_loading;
        usec_t lived;       /* since it was spawned */
        const char *log;    /* the last lines of this process's log, harmless, may be "" */
        const char *detail; /* our own evidence ("no answer for 15 s"), NULL */
        const char *binary; /* for DEATH_SPAWN */
};

struct cause {
        const char *name;  /* "out_of_gpu_memory", short and stable: metric label, history, API */
        const char *words; /* "out of GPU memory" */
        const char *hint;  /* what to do about it, NULL */
};

/* Every cause, ended by a NULL name; [0] is "unknown". */
extern const struct cause causes[];
size_t cause_count(void);

/* The known cause (never NULL). *ret_line: the log line that gave it away (into death->log, not terminated), or NULL. */
const struct cause *cause_find(const struct death *death, const char **ret_line, size_t *ret_line_len);
size_t cause_index(const struct cause *cause);
const struct cause *cause_named(const char *name); /* that of no such name: "unknown" */

/* "died: out of GPU memory (exit code 1 after 3 s)" into buf; CAUSE_TEXT_MAX bytes are enough. Returns buf. */
#define CAUSE_TEXT_MAX 512
char *cause_text(const struct death *death, const struct cause *cause, char *buf, size_t size);
/* "exit code 1", "signal 11 (SIGSEGV)", "exit status unknown". */
char *death_text(const struct death *death, char *buf, size_t size);

#endif
