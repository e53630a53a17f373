/* spool.h: what the names in a spool folder say. Everything that must be known of a job is known from names alone, so that no file is read to
 * find out what is done; and names only ever come, so that two readers never disagree for long.
 *
 *   jobs/NAME.json                         what is to be done; the user's, never touched by us
 *   claims/NAME.ATTEMPT                    somebody took it; as long as they live they hold its lock (flock)
 *   claims/NAME.ATTEMPT.free               … and gave that attempt back undone, without blame
 *   claims/NAME.ATTEMPT.dead               … or died over it, as their next life says: it is free, too
 *   partial/NAME.ATTEMPT                   the answer as far as it has come, a line of JSON a piece
 *   results/EPOCH_NAME.json                done: EPOCH is the second of its end, or the next one that was free
 *   failures/EPOCH_NAME.ATTEMPT.json       this attempt failed; another one follows
 *   failures/EPOCH_NAME.ATTEMPT.final.json this attempt failed, and no other follows until somebody asks for it:
 *   retry/NAME.ATTEMPT                     failures up to this attempt are forgiven
 *
 * Each form is read from its ends, so that a NAME may hold dots, digits and underscores. A NAME is 1 to 150 bytes of UTF-8 without control
 * characters and without a dot or "~" in front (hidden files and what editors leave are nobody's jobs). A job file with another name is refused once, in
 * failures/, under a key made of what can be shown of it and a hash.
 *
 * struct spool_index is what a walk through the folder found: the names that are done, as hashes of 8 bytes (a hundred thousand results are
 * two megabytes), and those with failures. Pure: times come in as seconds. */
#ifndef LSV_CORE_SPOOL_H
#define LSV_CORE_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
        SPOOL_NAME_SIZE = 151, /* of a job's name, with its NUL */
        SPOOL_FILE_SIZE = 256, /* of any name in the folder, with its NUL */
        SPOOL_ATTEMPTS_MAX = 999999,
        SPOOL_COMMAND_WORDS_MAX = 64, /* of an administrator's command */
};

/* --- names ------------------------------------------------------------------------------------------------------- */

/* NULL, or what is wrong with a job's name, as the end of a sentence. */
const char *spool_name_fault(const char *name);
/* A good name is its own key; else something that is a good name. Returns ret. */
char *spool_key(const char *name, char ret[SPOOL_NAME_SIZE]);
/* For those who want one: "job-EPOCH-" and 8 hex digits. */
char *spool_new_name(int64_t epoch, uint32_t random, char ret[SPOOL_NAME_SIZE]);

/* False: the file is nothing of that kind. Names of jobs may be bad ones, all others are good. */
bool spool_read_job(const char *file, char ret_name[SPOOL_FILE_SIZE]);
enum spool_claim { SPOOL_CLAIMED, SPOOL_GIVEN_BACK, SPOOL_DIED };
bool spool_read_claim(const char *file, char ret_name[SPOOL_NAME_SIZE], unsigned *ret_attempt,
                      enum spool_claim *ret);
bool spool_read_result(const char *file, char ret_name[SPOOL_NAME_SIZE], int64_t *ret_epoch);
bool spool_read_failure(const char *file, char ret_name[SPOOL_NAME_SIZE], int64_t *ret_epoch,
                        unsigned *ret_attempt, bool *ret_final);
bool spool_read_retry(const char *file, char ret_name[SPOOL_NAME_SIZE], unsigned *ret_attempt);

/* All return ret. */
char *spool_job_file(const char *name, char ret[SPOOL_FILE_SIZE]);
char *spool_claim_file(const char *name, unsigned attempt, enum spool_claim which, char ret[SPOOL_FILE_SIZE]);
char *spool_result_file(const char *name, int64_t epoch, char ret[SPOOL_FILE_SIZE]);
char *spool_failure_file(const char *name, int64_t epoch, unsigned attempt, bool final,
                         char ret[SPOOL_FILE_SIZE]);

/* --- what is known of all of them --------------------------------------------------------------------------------- */

enum spool_verdict {
        SPOOL_OPEN,    /* to be done now */
        SPOOL_WAITING, /* it failed, and is tried again at *ret_due */
        SPOOL_FAILED,  /* given up until somebody asks for it */
        SPOOL_DONE,
};
const char *spool_verdict_name(enum spool_verdict v); /* "open", "retrying", "failed", "done" */

struct spool_policy {
        unsigned tries; /* failures after which a job is given up */
        uint64_t backoff,
                backoff_max; /* seconds after the first failure; twice as long after each further one */
};
/* Seconds after the failure with this number (from 1). */
uint64_t spool_backoff(const struct spool_policy *p, unsigned failures);

struct spool_index;

/* seed: any number that others cannot know. */
int spool_index_new(uint64_t seed, struct spool_index **ret);
struct spool_index *spool_index_free(struct spool_index *x); /* always NULL */

/* A walk through results/ begins: what was known of it is forgotten. And one through retry/, which must be followed by one through
 * failures/. */
void spool_index_clear_results(struct spool_index *x);
void spool_index_clear_failures(struct spool_index *x);
/* 0, -ENOMEM, or -E2BIG over the bounds (8 million results, a million names with failures). Again is no harm: an attempt is
 * counted once. */
int spool_index_add_result(struct spool_index *x, const char *name);
int spool_index_add_failure(struct spool_index *x, const char *name, int64_t epoch, unsigned attempt,
                            bool final);
int spool_index_add_retry(struct spool_index *x, const char *name, unsigned attempt);

bool spool_index_is_done(const struct spool_index *x, const char *name);
/* ret_failures: those that count; ret_attempt: the highest that failed, forgiven or not; 0: none. Any may be NULL. */
enum spool_verdict spool_index_judge(const struct spool_index *x, const char *name,
                                     const struct spool_policy *p, int64_t now, int64_t *ret_due,
                                     unsigned *ret_failures, unsigned *ret_attempt);
size_t spool_index_done(const struct spool_index *x);
size_t spool_index_bytes(const struct spool_index *x);

#endif
