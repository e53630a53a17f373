/* event.h: every kind of event that the history knows, and the MESSAGE_ID that journald finds it by. Pure.
 * The ids are fixed for ever: people's rules and catalogs name them (journalctl MESSAGE_ID=…, docs/API.md lists them all). A new kind
 * gets a new random id (`journalctl --new-id128` or /proc/sys/kernel/random/uuid), an old one is never given to another kind. */
#ifndef LSV_CORE_EVENT_H
#define LSV_CORE_EVENT_H

#include <stddef.h>

struct event_kind {
        const char *name;       /* "died": in the history, on the doors, and EVENT= in the journal */
        const char *message_id; /* 32 hexadecimal digits */
        const char *about;      /* what has happened, in a few words */
};

extern const struct event_kind event_kinds[];               /* ended by a NULL name */
const struct event_kind *event_kind_find(const char *name); /* NULL: no such kind */

#endif
