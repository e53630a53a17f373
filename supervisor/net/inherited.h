/* inherited.h: sockets that came with our start: listening ones, and connections on which nothing is under way.
 *
 * They come from ourselves (a re-exec, see host/reexec.h), from systemd's store of descriptors, or from a socket unit. Whoever wants
 * to listen looks here first, and binds only when there is none. A listening socket is found by where it is bound (getsockname), never by its
 * name alone: names are hints that somebody else may have written. An address with port 0 is found by its name and its address
 * together, since nobody can know its port.
 * What nobody took is closed by inherited_free. */
#ifndef LSV_NET_INHERITED_H
#define LSV_NET_INHERITED_H

#include <stdbool.h>
#include <stddef.h>

#include "core/endpoint.h"

enum inherited_from {
        INHERITED_NOT,   /* bound by ourselves */
        INHERITED_EXEC,  /* by the program that we were before, in this process */
        INHERITED_STORE, /* by an earlier process of ours, kept by systemd */
        INHERITED_UNIT,  /* by systemd, for a socket unit: not ours to unlink or to store */
};

enum { INHERITED_MAX = 256, INHERITED_NAME_MAX = 256 };
/* Begins the names of what is ours; the rest of it is the address as configured. */
#define INHERITED_OURS "lsv-"

struct inherited;

struct inherited_socket {
        int fd;
        enum inherited_from from;
        struct endpoint at; /* as bound */
        char name[INHERITED_NAME_MAX];
};

int inherited_new(struct inherited **ret);
struct inherited *inherited_free(struct inherited *in); /* always NULL */

/* The name under which a listener at this configured address is stored and handed on; control bytes, ':' and what else systemd does
 * not take become '_'. Returns buf (INHERITED_NAME_MAX). */
char *inherited_name(const char *address, char *buf, size_t size);

/* Takes the descriptor over, also when it fails: it is closed then. It is made close-on-exec and non-blocking.
 * -EINVAL: not a listening stream socket of a family that we serve; -ENOSPC, -ENOMEM. */
int inherited_add(struct inherited *in, int fd, enum inherited_from from, const char *name);

/* Takes the one out that is bound at `at`: true, and *ret's descriptor is the caller's. name: of inherited_name, for port 0.
 * A unix socket whose file is gone is nobody's door any more: it is closed, and not found. */
bool inherited_take(struct inherited *in, const struct endpoint *at, const char *name,
                    struct inherited_socket *ret);
/* Takes the next one out that a socket unit gave and nobody asked for; false: there is none. */
bool inherited_take_unit(struct inherited *in, struct inherited_socket *ret);
/* Takes any that is left, to be told about and closed. */
bool inherited_take_any(struct inherited *in, struct inherited_socket *ret);

#endif
