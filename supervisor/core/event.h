/* event.h: every kind of event that the history knows: the MESSAGE_ID that journald finds it by, and the fields it has. Pure.
 * The ids are fixed for ever: people's rules and catalogs name them (journalctl MESSAGE_ID=…, docs/OPERATIONS.md lists them all). A new kind
 * gets a new random id (`journalctl --new-id128` or /proc/sys/kernel/random/uuid), an old one is never given to another kind. */
#ifndef LSV_CORE_EVENT_H
#define LSV_CORE_EVENT_H

#include <stdbool.h>
#include <stddef.h>

/* What an event may have beside its time, kind and text: a member of the history's event, and a field of the journal's entry. */
enum event_field {
        EVENT_INSTANCE = 1 << 0, /* "instance", INSTANCE= */
        EVENT_MODEL = 1 << 1,    /* "model", MODEL= */
        EVENT_GPU = 1 << 2,      /* "gpu", GPU_UUID= */
        EVENT_HUB = 1 << 3,      /* "hub", HUB= */
        EVENT_CAUSE = 1 << 4,    /* "cause", CAUSE= */
        EVENT_EVIDENCE = 1 << 5, /* "evidence", EVIDENCE= (JSON) */
};

struct event_field_name {
        enum event_field field;
        const char *member, *journal;
};
extern const struct event_field_name event_field_names[]; /* ended by a NULL member */

struct event_kind {
        const char *name;       /* "died": in the history, on the doors, and EVENT= in the journal */
        const char *message_id; /* 32 hexadecimal digits */
        unsigned fields;        /* always there; those of `may` only sometimes */
        unsigned may;
        const char *about; /* what has happened, in a few words */
};

extern const struct event_kind event_kinds[];               /* ended by a NULL name */
const struct event_kind *event_kind_find(const char *name); /* NULL: no such kind */

/* A kind of ours with exactly the fields that it has. */
bool event_is_known(const char *kind, const char *instance, const char *model, const char *gpu,
                    const char *hub, const char *cause, const char *evidence);

#endif
