/* handover.h: the conductor of an upgrade: the installed program takes this process over, and nobody who asks us notices.
 *
 * The way: the installed program is asked whether it likes the configuration (`check`, a child with a deadline). Then answers say
 * Connection: close, and it is waited until all that was asked before has its answer (if that took long, the new program is asked
 * again). Then *held*: nobody is accepted and no request is begun (what comes waits in the kernel) until those that came meanwhile have
 * their answers, too. If some go on, the hold is lifted and
 * tried again when they are over. What outlasts the drain deadline (stop.drain) postpones the upgrade, by name; with force it is
 * cut. Then feeds are ended with a hint to come back, what is known is written, and the new program runs in our process:
 * same pid, children, lock, listeners, and the connections on which nothing is under way. From the hold to the exec it takes
 * HANDOVER_HOLD at most. When anything fails, everything goes on as before.
 *
 * The new program calls handover_new first thing: what was handed on is in it. handover_join gives it the doors, handover_finish says
 * that they are open. It is also the way of listeners from systemd (socket unit, store of descriptors) into the doors.
 *
 * Down go orders and questions to the doors (struct handover_doors), up comes the end by a callback. */
#ifndef LSV_FLEET_HANDOVER_H
#define LSV_FLEET_HANDOVER_H

#include "base/json.h"
#include "fleet/fleet.h"
#include "net/inherited.h"

struct handover;

#define HANDOVER_CHECK (15 * USEC_PER_SEC) /* for the new program to check the configuration */
#define HANDOVER_HOLD  (5 * USEC_PER_SEC)
enum {
        HANDOVER_BLOCKERS_MAX = 100, /* as many of those that postpone it are named */
        HANDOVER_KEPT_MAX = 32,
};

/* What the doors do for it. All are called from the loop. */
typedef void handover_blocker_fn(void *arg, const char *what, const char *peer, usec_t age);
typedef void handover_listener_fn(void *arg, int fd, const char *name, enum inherited_from from);
typedef void handover_connection_fn(void *arg, int fd, int listener, const char *bytes, size_t len);
struct handover_doors {
        void (*set_closing)(void *owner, bool on);
        void (*hold)(void *owner, bool on);
        unsigned (*busy)(void *owner);
        /* Those that no record of fleet/activity stands for; oldest: also those that it does stand for, their age alone. */
        void (*each_blocker)(void *owner, handover_blocker_fn *fn, void *arg);
        usec_t (*oldest)(void *owner);
        void (*leave)(void *owner); /* feeds, followed logs: ended, with a word that they may come back */
        bool (*is_quiet)(void *owner);
        void (*cut)(void *owner);
        void (*each_listener)(void *owner, handover_listener_fn *fn, void *arg);
        void (*each_connection)(void *owner, handover_connection_fn *fn, void *arg);
};

/* Reads what came with our start. */
int handover_new(struct handover **ret);
/* Closes what nobody took. Always NULL. */
struct handover *handover_free(struct handover *h);

/* --- what came ---------------------------------------------------------------------------------------------------- */
bool handover_is_next(const struct handover *h); /* we are the next program in the same process */
int handover_take_lock(struct handover *h);      /* the runtime directory's lock, or -1; the caller's then */
/* What the program before us kept (handover_keep) and what is the file at `path` still, or -1; the caller's then. */
int handover_take_kept(struct handover *h, const char *path);
struct inherited *handover_inherited(struct handover *h);
/* The next connection that was handed on, and the descriptor of its listener; bytes are valid until handover_free. */
bool handover_take_connection(struct handover *h, int *ret_fd, int *ret_listener, const char **ret_bytes,
                              size_t *ret_len);

/* --- life ------------------------------------------------------------------------------------------------------------ */
/* lock: stays the caller's. load: reads the configuration, as for fleet_new. */
int handover_attach(struct handover *h, struct fleet *f, int lock, fleet_load_fn *load, void *load_owner);
/* A descriptor (a lock) that lives on in the next program, until it is dropped; it stays the caller's. 0; -ENOSPC over HANDOVER_KEPT_MAX. */
int handover_keep(struct handover *h, int fd);
void handover_drop(struct handover *h, int fd);
/* The doors are open. What nobody took is closed (and taken out of systemd's store, where it stood), what is ours is put there. */
void handover_join(struct handover *h, const struct handover_doors *doors, void *owner);
void handover_leave(struct handover *h); /* the doors close */
/* After fleet_start: the last step of an upgrade, told in log and history. */
void handover_finish(struct handover *h);
/* The daemon stops: an upgrade that is under way is given up. */
void handover_abandon(struct handover *h);

/* --- the order ------------------------------------------------------------------------------------------------------- */
/* r: 0: the new program comes now; -EBADMSG: it was refused by `check`; -EBUSY: postponed (handover_put_blockers says by whom);
 * -ESHUTDOWN; -errno. Called from the loop, once, never from inside handover_begin. */
typedef void handover_end_fn(void *owner, int r, const char *message);
/* 0, or -EALREADY (one is under way, or a driver or a disk keeps a thread of ours), -ESHUTDOWN (the daemon stops), -ENOENT (no installed program): with words in *ret_why (static).
 * on_end may be NULL. */
int handover_begin(struct handover *h, bool force, handover_end_fn *on_end, void *owner,
                   const char **ret_why);
void handover_forget(struct handover *h, const void *owner); /* who asked is gone; the upgrade goes on */

/* "generation":N,"upgrade":null or {"state","message","at","from","to","took","held"}, into an open object. */
void handover_put(const struct handover *h, struct json_writer *w);
/* Upgrades of this process since its start, whatever program it was; takes NULL. */
struct handover_counts {
        uint64_t done, postponed, failed;
};
struct handover_counts handover_counts(const struct handover *h);
/* [{"id","model","instance","what","peer","age"}…]: who postponed the last one. */
void handover_put_blockers(const struct handover *h, struct json_writer *w);

#endif
