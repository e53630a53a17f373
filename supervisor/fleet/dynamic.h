/* dynamic.h: instances that a person started from the model library: no file of the configuration has them.
 *
 * Such an instance is an entry like every other (core/config's config_add_entry: the same table, the same checks, the same
 * inheritance), kept in state_dir/dynamic.json, so that the next daemon knows it and takes its process over. A reload of the
 * configuration leaves it alone, unless the new configuration has its name, alias or replica name itself: then that one wins, and the
 * history tells it. It is removed by a person only. At most DYNAMIC_MAX.
 *
 * The model must lie in models_dir (its real place: no "..", no symlink that leads out), and be whole. It is looked at in the pool.
 * Arguments are held to more than those of a configuration (config_arg_refused_remotely), since they may come from far away; files
 * that they name must lie in models_dir as well. Variables ("${HOME}") are not expanded. An embedding model gets --embeddings, a
 * reranker --reranking, unless the arguments say something about it. */
#ifndef LSV_FLEET_DYNAMIC_H
#define LSV_FLEET_DYNAMIC_H

#include "fleet/fleet.h"

enum { DYNAMIC_MAX = 64, DYNAMIC_WAITING_MAX = 8, DYNAMIC_ARGS_MAX = 200, DYNAMIC_ARG_BYTES = 4096 };
#define DYNAMIC_PATIENCE (30 * USEC_PER_SEC) /* for the disk */

/* All is copied. */
struct dynamic_spec {
        const char *model;            /* relative to models_dir, or absolute below it */
        const char *name;             /* NULL: made from the file's name, and unique */
        char *const *args;            /* NULL-ended, may be NULL */
        const struct json_value *gpu; /* as the key of the configuration, NULL: auto */
};

/* r: 0 and name is the new instance; else -ENOENT (no such file), -EPERM (outside of models_dir), -EINVAL (the key `param` is wrong),
 * -EBADMSG (the file is broken), -EEXIST (the name is taken), -ENOSPC (too many), -ETIMEDOUT, -ESHUTDOWN, -ENOMEM, -errno.
 * message: plain words in every case. Called once, from the loop. */
typedef void dynamic_done_fn(void *owner, int r, const char *param, const char *message, const char *name);
struct dynamic_start;
/* 0: done will be called, not from inside. */
int dynamic_start(struct fleet *f, const struct dynamic_spec *spec, dynamic_done_fn *done, void *owner,
                  struct dynamic_start **ret);
/* Nobody waits any more: done is not called, and what was not started yet is not. Always NULL. */
struct dynamic_start *dynamic_cancel(struct dynamic_start *s);

/* Stops it and forgets it. 0; -ENOENT; -EPERM (it is configured), -ESHUTDOWN, -ENOMEM, -errno (the state file). *ret_message is malloc'd
 * plain words in every case (NULL without memory). */
int dynamic_remove(struct fleet *f, const char *name, char **ret_message);

#endif
