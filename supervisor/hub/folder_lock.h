/* folder_lock.h: a hub's folder (state_dir/hubs/NAME) is one daemon's alone: what lies there (the journal of claims, a driver's session) means
 * that whoever reads it takes the claims over, and two who did would do every job twice. Who has the lock of DIR/lock has the folder. It goes
 * with the process, however that ends, and lives on in the next program of an upgrade (fleet/handover.h: handover_keep). */
#ifndef LSV_HUB_FOLDER_LOCK_H
#define LSV_HUB_FOLDER_LOCK_H

#include <sys/types.h>

/* `inherited`: the same lock, had by the program before us, or -1; it is taken over or closed. 0 and the descriptor, which is the caller's;
 * -EBUSY: somebody else has it, *ret_holder is their process (0: it does not say); -ENOLCK: there are no locks there; -errno. */
int folder_lock_take(const char *dir, int inherited, int *ret_fd, pid_t *ret_holder);

#endif
