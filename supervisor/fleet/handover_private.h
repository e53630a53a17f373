/* handover_private.h: what handover.c (the stages), handover_check.c (is it fit?) and handover_text.c (what is handed on) share. */
#ifndef LSV_FLEET_HANDOVER_PRIVATE_H
#define LSV_FLEET_HANDOVER_PRIVATE_H

#include "fleet/handover.h"
#include "host/process.h"

enum handover_stage {
        STAGE_NONE,
        STAGE_CHECKING, /* `check` of the new program runs, then the configuration is read; again after a long wait */
        STAGE_WAITING, /* for what was asked before */
        STAGE_HOLDING, /* for what came since */
        STAGE_LEAVING, /* feeds end, records are written */
};

struct handover {
        /* What came */
        bool is_next;
        uint64_t generation;            /* how many programs this process has been before */
        uint64_t n_postponed, n_failed; /* upgrades, of all of them */
        char *from;                     /* version of the one before; NULL */
        usec_t came_begun, came_held;
        int lock;                    /* -1: none came, or it was taken */
        int came[HANDOVER_KEPT_MAX]; /* kept by the program before us; -1: taken */
        size_t n_came;
        struct inherited *inherited;
        char *text; /* whole, with the bytes of connections behind it */
        struct handover_connection {
                int fd, listener; /* fd -1: taken */
                const char *bytes;
                size_t len;
        } * connections;
        size_t n_connections, next_connection;

        /* What is */
        struct fleet *fleet;
        struct loop *loop;
        int own_lock, kept[HANDOVER_KEPT_MAX];
        size_t n_kept;
        fleet_load_fn *load;
        void *load_owner;
        const struct handover_doors *doors;
        void *doors_owner;

        /* The upgrade that is under way */
        enum handover_stage stage;
        bool force;
        handover_end_fn *on_end;
        void *end_owner;
        struct process *check;
        int check_output;    /* memfd */
        struct place *place; /* the configuration is being read; that may outlast the upgrade that wants it */
        bool wants_place;
        struct timer *timer;
        usec_t begun, give_up_at, after, held_at, stage_until, checked_at;

        /* The last one */
        const char *state; /* NULL: there was none; "checking" … "done" */
        char *message;
        usec_t at; /* realtime */
        usec_t took, held;
        struct buffer blockers; /* JSON array */
};

/* handover.c */
/* Everything goes on as before; error and message for who asked, state for everybody. */
void handover_give_up(struct handover *h, int error, const char *state, const char *message);
void handover_begin_waiting(struct handover *h, usec_t now); /* or goes on with it */

/* handover_check.c */
/* Ends in handover_give_up or handover_begin_waiting. A SIGKILL to h->check ends it, too; without a child it is the disk that is waited for. 0, or -errno: it cannot even be started. */
int handover_check(struct handover *h);
void handover_stop_check(struct handover *h);   /* nothing is called any more */
void handover_forget_place(struct handover *h); /* h goes away */

/* handover_text.c */
/* Reads what reexec_receive gave; descriptors are taken over. */
int handover_read_text(struct handover *h, const char *text, size_t len);
/* What the next program must know, and the descriptors that live on: *ret_fds is malloc'd. */
int handover_write_text(struct handover *h, struct buffer *out, int **ret_fds, size_t *ret_n);

#endif
