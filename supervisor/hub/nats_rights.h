/* nats_rights.h: may we do what our role needs, and nothing else? */
#ifndef LSV_HUB_NATS_RIGHTS_H
#define LSV_HUB_NATS_RIGHTS_H

#include "hub/nats_admin.h"

/* Tries each right of the roles, and some that they must not have, by messages that change nothing: an empty body, and a header that no stream
 * agrees to. Rights that are missing are wrong, others are warnings. The number of wrong ones, or -errno. */
int nats_rights_check(struct nats_admin *a, unsigned roles, nats_finding_fn *fn, void *owner);

#endif
