/* ranking.c: a treap with subtree sizes. */
#include "core/ranking.h"

static uint32_t size_of(const struct ranking_node *node)
{
        return node ? node->size : 0;
}

static unsigned side_of(const struct ranking_node *node)
{
        return node->parent->child[1] == node;
}

static void replace(struct ranking *r, struct ranking_node *old, struct ranking_node *with)
{
        if (old->parent)
                old->parent->child[side_of(old)] = with;
        else
                r->root = with;
        if (with)
                with->parent = old->parent;
}

/* The node changes places with its parent; the order stays. */
static void rotate_up(struct ranking *r, struct ranking_node *node)
{
        struct ranking_node *parent = node->parent;
        unsigned side = side_of(node);
        struct ranking_node *inner = node->child[!side];

        replace(r, parent, node);
        node->child[!side] = parent;
        parent->parent = node;
        parent->child[side] = inner;
        if (inner)
                inner->parent = parent;
        node->size = parent->size;
        parent->size = size_of(parent->child[0]) + size_of(parent->child[1]) + 1;
}

static bool is_before(const struct ranking_node *a, const struct ranking_node *b)
{
        return a->key != b->key ? a->key < b->key : a->seq < b->seq;
}

/* xorshift32 (Marsaglia 2003). */
static uint32_t next_random(uint32_t x)
{
        x = x ? x : 2463534242U;
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        return x;
}

void ranking_put(struct ranking *r, struct ranking_node *node, uint64_t key, uint64_t seq)
{
        struct ranking_node **at = &r->root, *parent = NULL;

        r->random = next_random(r->random);
        *node = (struct ranking_node){.key = key, .seq = seq, .size = 1, .lift = r->random};
        while (*at) {
                parent = *at;
                parent->size++;
                at = &parent->child[!is_before(node, parent)];
        }
        node->parent = parent;
        *at = node;
        while (node->parent && node->parent->lift < node->lift)
                rotate_up(r, node);
}

void ranking_take(struct ranking *r, struct ranking_node *node)
{
        if (node->size == 0)
                return;
        while (node->child[0] && node->child[1])
                rotate_up(r, node->child[node->child[1]->lift > node->child[0]->lift]);
        for (struct ranking_node *above = node->parent; above; above = above->parent)
                above->size--;
        replace(r, node, node->child[0] ? node->child[0] : node->child[1]);
        *node = (struct ranking_node){0};
}

static struct ranking_node *outermost(struct ranking_node *node, unsigned side)
{
        while (node && node->child[side])
                node = node->child[side];
        return node;
}

struct ranking_node *ranking_first(const struct ranking *r)
{
        return outermost(r->root, 0);
}

struct ranking_node *ranking_last(const struct ranking *r)
{
        return outermost(r->root, 1);
}

struct ranking_node *ranking_next(const struct ranking_node *node)
{
        if (node->child[1])
                return outermost(node->child[1], 0);
        while (node->parent && side_of(node) == 1)
                node = node->parent;
        return node->parent;
}

size_t ranking_count(const struct ranking *r)
{
        return size_of(r->root);
}

size_t ranking_place(const struct ranking_node *node)
{
        size_t place = size_of(node->child[0]);

        for (; node->parent; node = node->parent)
                if (side_of(node) == 1)
                        place += size_of(node->parent->child[0]) + 1;
        return place;
}
