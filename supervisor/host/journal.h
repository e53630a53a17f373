/* journal.h: the log's way into journald with fields, so that `journalctl INSTANCE=qwen-0` and `MESSAGE_ID=…` find what they mean.
 *
 * Speaks journald's native protocol: one datagram a line to /run/systemd/journal/socket, with MESSAGE, PRIORITY, SYSLOG_IDENTIFIER,
 * and where they are known INSTANCE, MODEL, GPU_UUID (one for each GPU), HUB, REQUEST_ID, TRACE_ID, and of events EVENT and MESSAGE_ID
 * (core/event.h), CAUSE and EVIDENCE: what the history has of them, in the same words. Never waits: the kernel
 * keeps only some datagrams for a reader (net.unix.max_dgram_qlen: 10, where nobody has raised it), so that the lines of one busy turn
 * of ours are too many already. What does not fit waits here (JOURNAL_WAITING lines, once there is a loop) and is tried again, in order;
 * beyond that a line is lost and counted (log_lost), and the next one that gets through says how many were. When the socket is gone,
 * lines go to stderr as without us.
 * Source: systemd's docs/JOURNAL_NATIVE_PROTOCOL. */
#ifndef LSV_HOST_JOURNAL_H
#define LSV_HOST_JOURNAL_H

#include "base/log.h"
#include "net/loop.h"

#define JOURNAL_SOCKET "/run/systemd/journal/socket"

enum { JOURNAL_WAITING = 512 };

struct journal;

/* What is known of a subject of the log. Strings are valid until the next turn. */
struct journal_subject {
        bool is_instance; /* else it is the name of a model */
        const char *model;
        const char *gpus[16]; /* UUIDs, ended by NULL or by the array's end */
};
/* false: nobody knows it. */
typedef bool journal_describe_fn(void *owner, const char *subject, struct journal_subject *ret);

/* Becomes the log's sink. path: JOURNAL_SOCKET, or another one in tests. 0 or -errno, then nothing has changed. */
int journal_open(const char *path, struct journal **ret);
void journal_describe(struct journal *j, journal_describe_fn *fn, void *owner); /* takes a NULL journal */
/* From now on (until NULL) lines that do not fit wait. 0 or -errno; takes a NULL journal. */
int journal_attach(struct journal *j, struct loop *loop);
/* Our program ends or is replaced: what waits is given a tenth of a second. Of the journal that is the log's sink, if there is one. */
void journal_flush(void);
struct journal *journal_close(struct journal *j); /* lines go to stderr again; takes NULL, always NULL */

#endif
