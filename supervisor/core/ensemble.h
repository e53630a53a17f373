/* ensemble.h: one answer out of several to the same question. Pure.
 *
 * Answers are added in the order in which they come. Two answers agree when they are the same text once normalised: white space trimmed
 * and each run of it one space, A to Z in lower case, full stops, exclamation and question marks at the end left out.
 *
 *   vote      the text that most agree on; of several such the one that came first
 *   weighted  the same, each vote counting as the weight of its instance
 *   longest   the one with the most tokens; of several the first
 *   first     the first that comes
 *
 * It is decided as soon as nothing that may still come could change it, so that the others need not be waited for. */
#ifndef LSV_CORE_ENSEMBLE_H
#define LSV_CORE_ENSEMBLE_H

#include <stdint.h>

#include "base/json.h"

enum { ENSEMBLE_MAX = 16 };

enum ensemble_combine {
        ENSEMBLE_VOTE,
        ENSEMBLE_WEIGHTED,
        ENSEMBLE_LONGEST,
        ENSEMBLE_FIRST,
        ENSEMBLE_COMBINES,
};
const char *ensemble_combine_name(enum ensemble_combine c);
int ensemble_combine_parse(const char *word, enum ensemble_combine *ret); /* 0 or -EINVAL */

struct ensemble_answer {
        unsigned member;
        char *text, *normal;
        int64_t tokens;
};

struct ensemble {
        enum ensemble_combine combine;
        unsigned n; /* members */
        double weights[ENSEMBLE_MAX];
        bool over[ENSEMBLE_MAX]; /* it answered, or failed */
        struct ensemble_answer answers[ENSEMBLE_MAX];
        unsigned n_answers;
};

/* weights: the most that each member may weigh, above 0; NULL: all 1. n: 1 to ENSEMBLE_MAX. */
void ensemble_init(struct ensemble *e, enum ensemble_combine combine, unsigned n, const double *weights);
void ensemble_finish(struct ensemble *e);

/* What it does weigh, once that is known: before its answer is added, and no more than was said at the beginning. */
void ensemble_weigh(struct ensemble *e, unsigned member, double weight);
/* Each member once. 0 or -ENOMEM (then it counts as failed). */
int ensemble_add(struct ensemble *e, unsigned member, const char *text, int64_t tokens);
void ensemble_fail(struct ensemble *e, unsigned member);

bool ensemble_is_decided(const struct ensemble *e);
/* The answer that wins as things stand; NULL when there is none. */
const struct ensemble_answer *ensemble_winner(const struct ensemble *e);
/* [{"text","votes","weight","members":[0,2]},…], the winner first, then in the order in which they came. */
void ensemble_put_votes(const struct ensemble *e, struct json_writer *w);

#endif
