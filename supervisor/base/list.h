/* list.h: intrusive doubly linked list; the head is a node. A node that is in no list points to itself. */
#ifndef LSV_BASE_LIST_H
#define LSV_BASE_LIST_H

#include <stdbool.h>

#include "base/macros.h"

struct list {
        struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
        l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *l)
{
        return l->next == l;
}

static inline void list_append(struct list *head, struct list *node)
{
        node->prev = head->prev;
        node->next = head;
        head->prev->next = node;
        head->prev = node;
}

/* Safe on a node that is in no list; afterwards it is in none. */
static inline void list_remove(struct list *node)
{
        node->prev->next = node->next;
        node->next->prev = node->prev;
        list_init(node);
}

#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)

/* `it` may be removed inside the loop; its successor may not. */
#define LIST_FOREACH(head, it)                                                                               \
        for (struct list *it = (head)->next, *it##_next = it->next; it != (head);                            \
             it = it##_next, it##_next = it->next)

#endif
