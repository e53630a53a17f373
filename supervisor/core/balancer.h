/* balancer.h: which of several instances of a model gets the next piece of work. Pure.
 *
 * A rule is a const struct; there is one for each name of gateway.balance. The caller keeps an array of candidates, one for each
 * instance of the model, and asks with balancer_pick, which first leaves out who cannot be meant and then lets the rule choose:
 *
 *   ready     not ready: out.
 *   ejected   out, but never all of them: when every ready candidate that this work has not tried is ejected, all are in.
 *   tried     this piece of work failed there already: out.
 *   avoided   out as long as there is another one that is neither tried nor avoided, free or not (members of an ensemble stay apart).
 *   slots     full (leased >= slots): out, unless the work takes no slot.
 *
 * The rules:
 *   least-loaded     who would have the least work, this piece included, for its slots × weight: so shares of the work follow slots
 *                    and weights at every load until somebody is full. `others`, work that came past us, counts as load here, though
 *                    never as a bound: it is known late, and whoever waited for it could wait for ever.
 *   round-robin      smooth weighted round-robin (as nginx describes it: each gains its weight, the richest is chosen and pays the
 *                    sum), so that weights 2:1 give a b a, not a a b.
 *   random           by weight.
 *   prefix-affinity  rendezvous hashing (Thaler and Ravishankar 1998; weighted as in Schindelhauer and Schomaker 2005) with
 *                    bounded loads (Mirrokni, Thorup and Zadimoghaddam 2016): the same conversation meets the same instance, and so
 *                    its KV cache, as long as that one has at most 1.25 times its share of the model's leases; else the next in the
 *                    conversation's own order. Work without an affinity goes to the least loaded.
 *
 * Slow start: for `slow_start` after it became ready, a candidate's weight grows in a straight line from a tenth to the whole.
 * prefix-affinity hashes with the full weight, or conversations would move home while it grows, and bounds with the grown one. */
#ifndef LSV_CORE_BALANCER_H
#define LSV_CORE_BALANCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/time.h"

struct balancer_candidate {
        uint64_t id;   /* a hash of its name: where it lies for affinity */
        double weight; /* > 0 */
        unsigned slots, leased, others;
        usec_t ready_since; /* monotonic */
        bool ready, ejected, tried, avoided;
        double turn;           /* round-robin's own: zero it once, then leave it */
        double share;          /* set by balancer_pick: its weight now */
        bool in_service, open; /* set by balancer_pick: counts for averages; may be chosen */
};

/* What is asked for, and what a rule remembers between two questions. */
struct balancer_ask {
        uint64_t affinity; /* hash of the conversation's head, 0: none */
        bool no_slot;      /* takes no slot: a full candidate will do */
        usec_t slow_start, now;
        uint64_t *random; /* the rule's random state, any number but 0 */
};

#define BALANCER_NONE SIZE_MAX

struct balancer_rule {
        const char *name;
        /* The place of one with `open` set, of which there is at least one. */
        size_t (*choose)(struct balancer_candidate *c, size_t n, const struct balancer_ask *ask);
};
extern const struct balancer_rule *const balancer_rules[]; /* NULL-ended */
const struct balancer_rule *balancer_find(const char *name);

/* The place of the chosen one, or BALANCER_NONE: nobody can take it now. */
size_t balancer_pick(const struct balancer_rule *rule, struct balancer_candidate *c, size_t n,
                     const struct balancer_ask *ask);

/* FNV-1a, mixed (splitmix64's finaliser): for ids and affinities. Not for secrets. Never 0. */
uint64_t balancer_hash(const void *data, size_t len);

#endif
