/* ranking.h: an ordered set that knows the place of each of its nodes: who is first, who is last, how many come before this one.
 *
 * Intrusive and without memory of its own: a node lies in the thing that is ranked. It is a treap (Seidel and Aragon, "Randomized
 * Search Trees", 1996) with subtree sizes, so that put, take and place cost O(log n) expected, whatever the order of arrival.
 * Nodes are ordered by key, and by seq among equal keys. Two nodes with the same key and seq have no promised order. */
#ifndef LSV_CORE_RANKING_H
#define LSV_CORE_RANKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ranking_node {
        struct ranking_node *parent, *child[2];
        uint64_t key, seq;
        uint32_t size; /* of its subtree; 0: in no ranking (a zeroed node is in none) */
        uint32_t lift; /* the treap's random priority */
};

struct ranking {
        struct ranking_node *root;
        uint32_t random; /* any seed; advances with every put */
};

void ranking_put(struct ranking *r, struct ranking_node *node, uint64_t key, uint64_t seq);
void ranking_take(struct ranking *r, struct ranking_node *node); /* safe on a node that is in none */
struct ranking_node *ranking_first(const struct ranking *r);     /* NULL when empty */
struct ranking_node *ranking_last(const struct ranking *r);
struct ranking_node *ranking_next(const struct ranking_node *node); /* NULL after the last */
size_t ranking_count(const struct ranking *r);
size_t ranking_place(const struct ranking_node *node); /* 0: the first */

static inline bool ranking_has(const struct ranking_node *node)
{
        return node->size > 0;
}

#endif
