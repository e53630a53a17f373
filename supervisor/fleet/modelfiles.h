/* modelfiles.h: what the model files of the configuration are: size, time, header. Asked in the loop's pool, never in its thread, since
 * they may lie on a network file system that does not answer.
 *
 * At most MODELFILES_JOBS looks run at a time, and one for each folder, so that a file system that hangs holds one thread of the pool and
 * nobody else's files wait for it. A look that is not over after MODELFILES_PATIENCE counts as failed (-ETIMEDOUT, with what was known
 * before); when it ends after all, its answer is taken. At most MODELFILES_MAX paths are remembered; the one that nobody asked for
 * for longest makes room. */
#ifndef LSV_FLEET_MODELFILES_H
#define LSV_FLEET_MODELFILES_H

#include "core/gguf.h"
#include "net/loop.h"

enum { MODELFILES_MAX = 2048, MODELFILES_JOBS = 4, MODELFILES_PARTS_MAX = 1024 };
#define MODELFILES_PATIENCE (5 * USEC_PER_SEC)

struct modelfile {
        int error; /* 0; -errno of the file (-ENOENT …), or -ETIMEDOUT; then the rest is of the last good look, or 0 */
        uint64_t
                size; /* of all parts of a split model ("-00001-of-00004.gguf" names the others); those that are there */
        int64_t mtime;   /* seconds since 1970, of the (first) file */
        bool has_header; /* it could be read */
        struct gguf header;
};

/* Blocks: for who has no loop. */
void modelfile_read(const char *path, struct modelfile *ret);

struct modelfiles;
/* A look at path is over, or its patience; from the loop. It may ask again. */
typedef void modelfiles_fn(void *owner, const char *path);
int modelfiles_new(struct loop *loop, modelfiles_fn *fn, void *owner, struct modelfiles **ret);
struct modelfiles *modelfiles_free(struct modelfiles *mf); /* looks under way are let go */

/* What is known of it and not older than `fresh`, valid until the next turn; else NULL: fn will be called within MODELFILES_PATIENCE, and then
 * asking again gives an answer. Without memory an answer with -ENOMEM. path: absolute. */
const struct modelfile *modelfiles_look(struct modelfiles *mf, const char *path, usec_t fresh);

#endif
