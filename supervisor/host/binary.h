/* binary.h: the llama-server programs we are told to run: where they are, what their --help knows, and which devices they see.
 *
 * Each binary's --help is run once (15 s at most, clean environment, output into a memfd) and kept until the file changes
 * (inode, size or mtime). A program whose help cannot be read is not refused: it just gets no flags of ours and a TCP
 * port instead of a unix socket. Callbacks come from the loop, never from inside binary_ask.
 *
 * Whoever asks for devices opens every GPU, so a driver that hangs holds such a process, maybe where no signal reaches it. It is killed
 * after 15 s, and when that does not help within 2 s it is left to itself: the answer is "not told", nobody waits for it, and no other
 * question is put to that program while it is there. What was not answered is asked again, after a minute at first, then twice as long each
 * time, up to 32 minutes. */
#ifndef LSV_HOST_BINARY_H
#define LSV_HOST_BINARY_H

#include "core/devices.h"
#include "core/help.h"
#include "net/loop.h"

struct binaries;

int binaries_new(struct loop *loop, char *const *env, struct binaries **ret);
struct binaries *binaries_free(struct binaries *b); /* kills what still runs; always NULL */

/* name: absolute path, or looked up on our PATH. 0 and *ret_path, *ret_help (both belong to `b`, valid until the next call
 * with another state of the file); -EINPROGRESS: on_known is called later for everybody; -ENOENT, -EACCES, -ENOEXEC:
 * it cannot be run. */
int binaries_ask(struct binaries *b, const char *name, const char **ret_path, const struct help **ret_help);
/* Which devices (GPUs) the program sees, by its --list-devices; n -1: it does not tell. Read once, as --help; "none" and "not told" are asked again
 * after half a minute, since a driver may come later. 0; -EINPROGRESS: on_known follows; else as binaries_ask, which must have been answered before. */
int binaries_devices(struct binaries *b, const char *name, struct devices *ret);
/* The same without asking: the last list that named some, also after a question that was not answered well, and until the next state of the
 * file has been asked; n not over 0: there was none. */
void binaries_devices_told(const struct binaries *b, const char *name, struct devices *ret);
/* It was not asked yet, or is being asked: what was told last may not be the last word. True also when it is
 * not there: it may come. */
bool binaries_devices_awaited(const struct binaries *b, const char *name);
/* They are asked anew when somebody wants to know, since there are other GPUs now: lists that are older than that. */
void binaries_forget_devices(struct binaries *b, usec_t age);
bool binaries_is_asking(const struct binaries *b); /* an answer is waited for */
/* Questions that were not answered in time, since we run. */
uint64_t binaries_unanswered(const struct binaries *b);
/* Called when some help became known (also as "knows nothing"). One callback for all. */
typedef void binaries_known_fn(void *owner, usec_t now);
void binaries_on_known(struct binaries *b, binaries_known_fn *fn, void *owner);

/* How long an answer, and the end of a process that was killed (0: not at all), are waited for; tests have no 15 s. */
void binaries_set_patience(struct binaries *b, usec_t answer, usec_t end);

/* The absolute path of a program: 0, -ENOENT, -EACCES. malloc'd. */
int binary_find(const char *name, char **ret);

#endif
