/* index.h: values by name: a table that grows, for what is looked up a thousand times. Keys are not copied: they must outlive their
 * place in it. Open addressing over FNV-1a, linear probing, at most half full. */
#ifndef LSV_BASE_INDEX_H
#define LSV_BASE_INDEX_H

#include <stddef.h>

struct index {
        struct index_slot {
                const char *key; /* NULL: free */
                void *value;
        } * slots;
        size_t cap, n;
};

/* {0} is an empty one. 0; -EEXIST: the key is there and keeps its value; -ENOMEM: as it was. */
int index_put(struct index *x, const char *key, void *value);
void *index_get(const struct index *x, const char *key); /* NULL: not there */
void index_clear(struct index *x); /* empty, with its room: as many fit without memory */
void index_finish(struct index *x);
#define _cleanup_index_ _cleanup_(index_finish)

#endif
