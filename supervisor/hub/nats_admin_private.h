/* nats_admin_private.h: the connection of the administrator's commands; only for hub/nats_*.c with libnats. */
#ifndef LSV_HUB_NATS_ADMIN_PRIVATE_H
#define LSV_HUB_NATS_ADMIN_PRIVATE_H

#include <nats/nats.h>

#include "hub/nats_admin.h"

struct nats_admin {
        natsConnection *link;
        char user[NATS_USER_NAME_MAX + 1]; /* "" unknown */
        unsigned roles;                    /* 0 unknown */
        usec_t timeout;
};

/* Asks: 0 with the parsed answer (which may hold an "error"); else why, in plain words (malloc'd):
 * -EACCES no right, -ENOSYS nobody serves this (JetStream is off), -ETIMEDOUT, -EPIPE, -EBADMSG, -ENOMEM. body NULL: empty. */
int nats_admin_ask(struct nats_admin *a, const char *subject, const char *body, struct json_value **ret,
                   char **ret_why);
/* The same with a message (two headers of it are kept: NATS_HEADER_MSG_ID, NATS_HEADER_EXPECT). NATS_NOT_PERMITTED: no right. */
natsStatus nats_admin_request(struct nats_admin *a, natsMsg *m, natsMsg **ret);
/* The server refused to let us publish to or subscribe this subject (the last thing that it refused). */
bool nats_admin_was_denied(struct nats_admin *a, const char *subject);
/* What this status means, malloc'd. */
char *nats_admin_words(natsStatus s, const char *doing);
/* The error that an answer holds: its err_code with *ret_text; 0: none. */
int nats_admin_error(const struct json_value *answer, const char **ret_text);

static inline void nats_admin_tell(nats_finding_fn *fn, void *owner, enum nats_level level, const char *what,
                                   const char *message, const char *remedy)
{
        const struct nats_finding f = {.level = level, .what = what, .message = message, .remedy = remedy};

        fn(owner, &f);
}

static inline void nats_admin_drop_value(struct json_value **v)
{
        *v = json_free(*v);
}
#define _cleanup_json_ _cleanup_(nats_admin_drop_value)

static inline int nats_ms(usec_t t)
{
        return (int)MIN(t / USEC_PER_MSEC + 1, (usec_t)INT32_MAX);
}

#endif
