/* convex_journal.h: what a Convex session must not forget when the daemon ends: who it is, the numbers it has used, the mutations that
 * nobody has answered yet, and how much of each job's text the hub has been given. One file, dir/session.jsonl, of one JSON
 * object a line; no secret is in it (the key is put into a mutation when it is said).
 *
 * Lines are appended before what they tell of is done, without fsync: a crash of ours loses nothing. A crash of the machine may lose
 * the last ones, so after another boot the numbers go on a million higher: a number is never used for two things. A claim that was lost
 * that way is the hub's to time out. Written again whole when it holds mostly what is over. */
#ifndef LSV_HUB_CONVEX_JOURNAL_H
#define LSV_HUB_CONVEX_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

struct convex_journal;

struct convex_journal_note {
        uint32_t id; /* of a mutation */
        int kind;    /* the driver's */
        const char *path, *args, *job /* NULL: none */;
        uint64_t sent; /* bytes of the job's text that the hub has, this mutation included */
};

struct convex_journal_events {
        void (*on_session)(void *owner, const char *session, uint32_t next);
        void (*on_mutation)(void *owner, const struct convex_journal_note *note);
        void (*on_job)(void *owner, const char *id, uint64_t sent);
};

/* Tells what is there (the session first, then jobs, then mutations in their order), from inside; lines that cannot be read are
 * counted and left out. 0 or -errno. */
int convex_journal_open(const char *dir, const struct convex_journal_events *on, void *owner,
                        struct convex_journal **ret);
struct convex_journal *convex_journal_close(struct convex_journal *j); /* takes NULL, always NULL */

/* Each is one line; 0 or -errno (the disk is full). */
int convex_journal_mutation(struct convex_journal *j, const struct convex_journal_note *note);
/* job: claimed by it, or NULL. */
int convex_journal_answer(struct convex_journal *j, uint32_t id, const char *job);
int convex_journal_gone(struct convex_journal *j, const char *job);

/* Time to write it again: begin, the same lines for what is alive, commit (which takes the place of the old file). */
bool convex_journal_is_stale(const struct convex_journal *j);
int convex_journal_begin(struct convex_journal *j, const char *session, uint32_t next);
int convex_journal_job(struct convex_journal *j, const char *job, uint64_t sent);
int convex_journal_commit(struct convex_journal *j);

#endif
