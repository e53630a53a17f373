/* learned.h: how much GPU memory instances really took, kept in state_dir/learned.json.
 *
 * A key stands for a model file as it is (path, size, time) and the arguments it runs with; what is kept is the most that was seen, as if
 * on one GPU. At most LEARNED_MAX keys; the one that was learned longest ago makes room. A file that cannot be read is set aside as
 * learned.json.bad and begun anew: estimates are used until the next start has taught. */
#ifndef LSV_FLEET_LEARNED_H
#define LSV_FLEET_LEARNED_H

#include "base/secret.h"
#include "net/loop.h"

enum { LEARNED_MAX = 512, LEARNED_KEY_MAX = SECRET_HEX_SIZE };

struct learned;
/* loop NULL: for reading alone. */
int learned_new(struct loop *loop, const char *state_dir, struct learned **ret);
struct learned *learned_free(struct learned *l); /* always NULL */

uint64_t learned_get(const struct learned *l, const char *key); /* 0: not known */
/* Keeps the larger one; name: of the instance, for who reads the file. True: it is news. */
bool learned_put(struct learned *l, const char *key, const char *name, uint64_t bytes, usec_t realtime);

#endif
