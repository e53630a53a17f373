/* spool_private.h: what the spool's files share. The driver is spool.c: state, credits, what is taken next. What it knows of open jobs
 * is spool_table.c. All that touches the folder blocks, runs in the pool, and is in spool_folder.c (the folder as a whole), spool_take.c
 * (one job is taken), spool_job.c (a job that is ours) and spool_command.c.
 *
 * A task is one piece of work in the pool. It owns what it works with, and the folder (immutable, counted, freed in the loop's thread when nobody
 * has it any more); so a task on a disk that does not answer may outlive the driver. */
#ifndef LSV_HUB_SPOOL_PRIVATE_H
#define LSV_HUB_SPOOL_PRIVATE_H

#include <limits.h>
#include <sys/stat.h>
#include <time.h>

#include "base/json.h"
#include "base/list.h"
#include "core/prompt.h"
#include "core/spool.h"
#include "hub/driver.h"

enum {
        SPOOL_OPEN_MAX = 100000, /* open jobs that are known at a time; the others wait in the folder */
        SPOOL_NEWS_MAX = 4096,   /* names that wait to be looked at; beyond it is a whole survey */
        SPOOL_LOOKS_MAX = 16,    /* job files that are read ahead at a time */
        SPOOL_TAKES_MAX = 2,
        SPOOL_OPS_MAX = 2,
        SPOOL_BEGUN_MAX =
                20, /* attempts whose worker died, since the last failure: then something kills who works on it */
        SPOOL_MODELS_MAX = 1024,
        SPOOL_PARTIAL_MAX = 256 * 1024, /* text that waits to be written */
};
#define SPOOL_SETTLED (10 * USEC_PER_SEC) /* a job file that nobody closed is believed to be whole */
#define SPOOL_LEASE   (60 * USEC_PER_SEC)
#define SPOOL_GRACE   (30 * USEC_PER_SEC) /* a living holder without its lock: an upgrade */

enum spool_dir {
        DIR_JOBS,
        DIR_CLAIMS,
        DIR_PARTIAL,
        DIR_RESULTS,
        DIR_FAILURES,
        DIR_RETRY,
        DIR_TEXTS,
        SPOOL_DIRS
};
extern const char *const spool_dir_names[SPOOL_DIRS];

/* --- the folder ------------------------------------------------------------------------------------------------------ */

struct hub_link;

struct spool_mark { /* of a directory that was walked through */
        struct timespec mtime;
        ino_t ino;
        bool holds;
};

struct spool_folder {
        unsigned refs; /* of the loop's thread */
        char *root, *worker;
        char *dirs[SPOOL_DIRS];
        char boot[40];
        int pid;
        struct spool_policy policy;
        usec_t timeout, command_timeout;
        bool partial, leaves_unknown;
        char **allowed_dirs;
        struct json_value *commands;
        _Atomic usec_t *moved; /* when the disk was last seen to answer in the middle of a long task */
        /* The surveys' alone, of which there is one at a time. */
        struct spool_index *index;
        struct spool_mark marks[SPOOL_DIRS];
        usec_t walked_all; /* when no mark was believed */
};

struct spool_folder *spool_folder_ref(struct spool_folder *f);
struct spool_folder *spool_folder_unref(struct spool_folder *f); /* always NULL */

/* Everything below blocks. */
/* Makes what is missing, proves that locks work. 0; -errno with words (malloc'd). */
struct spool_place { /* a directory as it was found: another one of the same name is another one */
        dev_t dev;
        ino_t ino;
};
int spool_folder_prepare(const struct spool_folder *f, int inotify, int wds[SPOOL_DIRS],
                         struct spool_place places[SPOOL_DIRS], char **ret_words);
/* They are those that are watched. */
bool spool_folder_is(const struct spool_folder *f, const struct spool_place places[SPOOL_DIRS]);
void spool_moved(const struct spool_folder *f); /* the disk answers: a long task says so as it goes on */
/* For tests: a disk that takes so long for each name, and how long one may not answer. */
extern usec_t spool_walk_delay, spool_stuck;
/* Directory entry by entry, without "." and hidden ones. 0, -errno, or what fn returned (not 0: it ends). */
int spool_walk(const struct spool_folder *f, enum spool_dir dir, int (*fn)(void *owner, const char *file),
               void *owner);
bool spool_exists(const struct spool_folder *f, enum spool_dir dir, const char *file);
/* Has it a result? By a walk through results/, for those who must know it now. */
int spool_has_result(const struct spool_folder *f, const char *name, bool *ret);
int spool_has_failure(const struct spool_folder *f, const char *name, unsigned attempt, bool *ret);
/* -EEXIST is never seen: the next second is taken. ret_epoch may be NULL. */
int spool_put_result(const struct spool_folder *f, const char *name, int64_t epoch, const struct buffer *text,
                     char ret_file[SPOOL_FILE_SIZE]);
struct spool_failure {
        const char *name; /* the job's, good or bad */
        unsigned attempt;
        bool final;
        const char *kind, *words;
        int64_t now;  /* seconds */
        int64_t next; /* when it is tried again, 0: never */
};
int spool_put_failure(const struct spool_folder *f, const struct spool_failure *x, int64_t *ret_epoch);

/* --- the survey ------------------------------------------------------------------------------------------------------- */

struct spool_found {
        char *name;
        enum spool_verdict verdict; /* OPEN or WAITING */
        int64_t due;
        unsigned failures, attempt;
        bool closed;
        char *model; /* NULL: its file was not read */
};

struct spool_news {
        char *name;
        bool result, failure, final; /* neither: a job file */
        bool closed;                 /* … that is whole, its writer is done */
        int64_t epoch;
        unsigned attempt;
};

struct spool_survey {
        bool whole, distrust; /* distrust: also directories that look as they did */
        struct spool_place places[SPOOL_DIRS];
        struct spool_news *news;
        size_t n_news;
        int64_t now;
        usec_t at;
        /* out */
        int r;
        bool gone; /* a whole one: the folder is not the one that is watched */
        bool same; /* a whole one, and nothing has changed: found is empty */
        bool more; /* there are more open jobs than are told */
        struct spool_found *found;
        size_t n_found;
        size_t failed, done; /* whole */
        uint64_t refused;    /* bad names */
        char *words;
};
void spool_survey_run(struct spool_folder *f, struct spool_survey *s);
void spool_survey_finish(struct spool_survey *s);

/* --- one job is taken -------------------------------------------------------------------------------------------------- */

enum spool_took {
        TOOK_IT,
        TOOK_GONE,      /* its file is not there any more */
        TOOK_DONE,      /* it has a result already */
        TOOK_HELD,      /* by somebody who lives, as far as is known */
        TOOK_UNSETTLED, /* somebody may still be writing it */
        TOOK_STALE,     /* what we knew of it is old: look again */
        TOOK_FAILED,    /* it was taken and failed at once */
        TOOK_TROUBLE,   /* the folder: r and words */
};

struct spool_take {
        char name[SPOOL_NAME_SIZE];
        unsigned failures, attempt; /* attempt: the highest that is known to have failed */
        bool closed;
        bool unknown_model; /* take it, to say that it cannot be done here */
        char *known;        /* models, for those words */
        bool free_for_long; /* the claim before it, free_attempt, is without a lock for as long as is needed */
        unsigned free_attempt;
        int64_t now;
        /* out */
        enum spool_took took;
        int r;
        char words[PROMPT_WORDS_SIZE];
        bool is_free;      /* HELD: its claim has no lock, but the holder may come back */
        bool is_elsewhere; /* … or runs on another machine */
        struct timespec claim_mtime;
        bool final; /* FAILED */
        int64_t failed_at;
        int fd; /* TOOK_IT: the claim, locked */
        struct buffer body;
        char *model, *path;
        usec_t timeout;
};
void spool_take_run(const struct spool_folder *f, struct spool_take *t);
void spool_take_finish(struct spool_take *t);
/* The model that a job names, malloc'd; NULL: it cannot be told (then taking it says why). */
char *spool_read_model(const struct spool_folder *f, const char *name);

/* The output of an administrator's command. As prompt_source.command. */
int spool_command_run(const struct spool_folder *f, const char *name, struct buffer *out, char *words);

/* --- open jobs --------------------------------------------------------------------------------------------------------- */

enum entry_state {
        ENTRY_FRESH,   /* its file was not read */
        ENTRY_READY,   /* its model is known */
        ENTRY_BUSY,    /* a task has it */
        ENTRY_OURS,    /* a job */
        ENTRY_HELD,    /* somebody else's */
        ENTRY_WAITING, /* for its time */
};

struct spool_entry {
        struct list node; /* of the list of its state (READY: its model's) */
        struct list all;
        struct spool_entry *next; /* of its bucket */
        enum entry_state state;
        uint16_t model;
        bool closed;
        unsigned failures, attempt, generation;
        usec_t due; /* WAITING */
        usec_t free_since; /* HELD: when its claim was first seen without a lock, and unchanged since; 0: it was not */
        struct timespec free_mtime;
        unsigned free_attempt;
        bool is_elsewhere;
        char name[];
};

struct spool_model {
        char *name;
        unsigned free, slots, taking;
        bool known;
        struct list ready;
};

struct spool_table {
        struct spool_entry **buckets;
        size_t n_buckets, n;
        struct list all, fresh, held, waiting;
        struct spool_model *models; /* [0] is "" */
        size_t n_models;
        usec_t next_due; /* of WAITING; USEC_INFINITY */
};

int spool_table_init(struct spool_table *t);
void spool_table_finish(struct spool_table *t);
struct spool_entry *spool_table_find(const struct spool_table *t, const char *name);
/* FRESH; NULL without memory or over SPOOL_OPEN_MAX. */
struct spool_entry *spool_table_add(struct spool_table *t, const char *name);
void spool_table_remove(struct spool_table *t, struct spool_entry *e);
void spool_table_move(struct spool_table *t, struct spool_entry *e, enum entry_state state);
void spool_table_wait(struct spool_table *t, struct spool_entry *e, usec_t due);
/* Those whose time has come are FRESH again (READY, where the model is known). */
void spool_table_wake(struct spool_table *t, usec_t now);
/* The model of that name, made when it is new; 0 ("") when there are too many. */
uint16_t spool_table_model(struct spool_table *t, const char *name);

/* --- a job that is ours -------------------------------------------------------------------------------------------------- */

struct spool_job;

struct spool_job *spool_job_new(struct hub_link *l, const char *name, unsigned attempt, unsigned failures,
                                int fd);
int spool_job_adopt(struct hub_link *l, struct hub_job *job, struct spool_job **ret);
/* Frees it as soon as no task has it; its lock goes. Always NULL. */
struct spool_job *spool_job_free(struct spool_job *j);
const char *spool_job_name(const struct spool_job *j);
void spool_job_bind(struct spool_job *j, struct hub_job *job);
char *spool_job_token(const struct spool_job *j, char buf[HUB_TOKEN_MAX]);
int spool_job_progress(struct spool_job *j, const struct hub_chunk *chunk);
void spool_job_complete(struct spool_job *j, const struct hub_result *result, int64_t now);
void spool_job_fail(struct spool_job *j, enum hub_fail how, usec_t retry_after, const char *why, int64_t now);
void spool_job_release(struct spool_job *j);
void spool_job_renew(struct spool_job *j);
/* Begins its next order, if there is one and none is under way. True: a task was begun. */
bool spool_job_pump(struct spool_job *j);
/* An order could not even be kept (memory): it is to be answered with HUB_UNKNOWN. True once for each. */
bool spool_job_take_refusal(struct spool_job *j, struct hub_job **ret);
struct list *spool_job_node(struct spool_job *j); /* in link's `jobs` */
struct spool_job *spool_job_of(struct list *node);

#endif
