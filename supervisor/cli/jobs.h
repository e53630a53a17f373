/* jobs.h: a spool folder as `jobs` sees it: with no daemon, from names alone. Reads and locks block. */
#ifndef LSV_CLI_JOBS_H
#define LSV_CLI_JOBS_H

#include "base/index.h"
#include "core/spool.h"

enum job_state {
        JOB_WAITING,  /* nobody has it */
        JOB_RUNNING,  /* its claim is locked */
        JOB_RETRYING, /* it failed, and is tried again */
        JOB_FAILED,   /* until `jobs retry` */
        JOB_DONE,
        JOB_STATES,
};
const char *job_state_name(enum job_state s);

struct job_row {
        enum job_state state;
        bool is_there;           /* its file is in jobs/ */
        unsigned results;        /* files */
        int64_t result, failure; /* epochs of the last ones, 0: none */
        unsigned claimed;        /* its last attempt */
        unsigned failures, failed_attempt, forgiven;
        bool failure_final, given_back;
        char name[];
};

struct jobs_view {
        const char *dir;       /* the caller's */
        struct job_row **rows; /* sorted by name */
        size_t n, cap;
        struct index index;
        size_t counts[JOB_STATES]; /* of those that are there, and of results */
};

/* Of one name, or of all (NULL). 0, -errno with *ret_error (malloc'd) saying where. */
int jobs_look(const char *dir, const char *only, struct jobs_view *ret, char **ret_error);
void jobs_view_finish(struct jobs_view *v);
#define _cleanup_jobs_ _cleanup_(jobs_view_finish)
struct job_row *jobs_find(const struct jobs_view *v, const char *name);

#endif
