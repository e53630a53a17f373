/* library.h: the models that lie in models_dir, as their own headers describe them.
 *
 * The folder is walked in the loop's pool, never in its thread: below it, at most LIBRARY_DEPTH_MAX deep, LIBRARY_FILES_MAX model files
 * and LIBRARY_SCAN_MAX of time; hidden names are passed over. A file's header is read again only when its size, time or inode changed. A
 * walk begins when somebody asks and the last one is older than LIBRARY_FRESH (LIBRARY_FRESH_ASKED when a new look is asked for), so
 * that questions, however many, cost one walk at a time. Parts 2..n of a split model count for its first part and are not shown;
 * a projector (mmproj) or an adapter is no model, but a companion of those beside it. What is broken is shown with the reason, and so
 * is a symlink that leads out of models_dir: it is not followed.
 *
 * Models are of core/gguf's facts; `file` is the name that a person starts it by (relative to models_dir). */
#ifndef LSV_FLEET_LIBRARY_H
#define LSV_FLEET_LIBRARY_H

#include "core/gguf.h"
#include "fleet/fleet.h"

enum {
        LIBRARY_DEPTH_MAX = 8,
        LIBRARY_FILES_MAX = 2048,
        LIBRARY_ENTRIES_MAX = 200000,
        LIBRARY_WAITS_MAX = 64
};
#define LIBRARY_SCAN_MAX    (60 * USEC_PER_SEC)
#define LIBRARY_PATIENCE    (30 * USEC_PER_SEC)
#define LIBRARY_FRESH       (10 * USEC_PER_SEC)
#define LIBRARY_FRESH_ASKED USEC_PER_SEC

struct library;
int library_new(struct loop *loop, struct library **ret);
struct library *library_free(struct library *l); /* nobody may wait any more; a walk under way is let go */
struct library *fleet_library(struct fleet *f);

/* r: 0, or -ETIMEDOUT after LIBRARY_PATIENCE (a disk that does not answer). Called once, from the loop. */
typedef void library_done_fn(void *owner, int r);
struct library_wait;
/* 1: what is known is fresh, done is not called; 0: a walk of dir is under way, and done will be called; -EAGAIN (too many wait, or the
 * pool is full), -ENOMEM. */
int library_ask(struct library *l, const char *dir, bool look_again, library_done_fn *done, void *owner,
                struct library_wait **ret);
struct library_wait *library_cancel(struct library_wait *w); /* always NULL; done is not called */

/* {"models":[{"file","path","name","architecture","parameters","quantization","context","size","modifiedAt","type","chatTemplate","parts",
 *  "pooling","companions":[…],"instances":[…],"error"}…],"companions":[{"file","kind","size"}…],"dir","error","warnings":[…],
 *  "scannedAt","scanTime"} of the last walk. */
void library_put(struct fleet *f, struct json_writer *w);

/* --- one model by its name; blocks, for the pool only ----------------------------------------------------------------- */

struct library_model {
        char *path; /* absolute; its real place below the real dir */
        struct gguf facts;
        unsigned parts;
        char words[384]; /* what is wrong, of an error */
};
/* name: relative to dir, or an absolute path below it. 0; with words: -ENOENT, -EPERM (outside of dir), -EINVAL (no model: a part, a
 * projector, a folder, …), -EBADMSG (broken or cut off), -errno. The caller frees path. */
int library_open_model(const char *dir, const char *name, struct library_model *ret);
/* The same for any regular file below dir, of which only path and words are told. */
int library_find_file(const char *dir, const char *name, struct library_model *ret);

#endif
