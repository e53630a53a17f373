/* reexec.h: becoming another program in the same process: pid, children, lock and listeners stay, everything else is made anew.
 *
 * What the next program must know goes with it as a text in a memfd, whose number stands in the environment (LSV_HANDOVER) and which is
 * believed only when it names this very process; it is read once, and both are gone then. Descriptors that are to live on are
 * named; all others are close-on-exec as ever.
 * The signals that mean something to the daemon are blocked around it, so that none of them meets a program that does not handle it
 * yet (the default of most is to die): they wait, and come when reexec_listen is called.
 * The text's own form is its writer's and reader's business (fleet/handover.c). */
#ifndef LSV_HOST_REEXEC_H
#define LSV_HOST_REEXEC_H

#include <stdbool.h>
#include <stddef.h>

struct inherited;

enum { REEXEC_TEXT_MAX = 256 * 1024 * 1024 };

/* First thing in the program: remembers how it was called, and blocks the daemon's signals until reexec_listen. argv must live on.
 * 0, or -errno: it cannot be found out what we are. */
int reexec_init(int argc, char **argv);
void reexec_listen(void);

/* The installed program: where we were started from (the path of argv[0], when it is this program; else /proc/self/exe without its
 * " (deleted)"). NULL when it is unknown. */
const char *reexec_binary(void);

/* Takes out of the environment what came with our start. What a re-exec handed on: its text, malloc'd, NULL if there was none. Listening
 * sockets of systemd (LISTEN_FDS) go into `in`, from its store or from a socket unit; what cannot be listened on is closed, and
 * told in the log. 0 or -ENOMEM. */
int reexec_receive(struct inherited *in, char **ret_text, size_t *ret_len);

/* Becomes the installed program, with our own arguments. Returns only on failure, -errno: then nothing has changed. */
int reexec_now(const char *text, size_t len, const int *fds, size_t n_fds);

#endif
