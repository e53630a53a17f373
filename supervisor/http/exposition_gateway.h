/* exposition_gateway.h: the part of /metrics about requests: by model and outcome, tokens, times, and the tries on instances.
 * Labels are names from the configuration and static codes only; see fleet/activity.h for the bounds. A part of exposition.h. */
#ifndef LSV_HTTP_EXPOSITION_GATEWAY_H
#define LSV_HTTP_EXPOSITION_GATEWAY_H

#include "fleet/fleet.h"
#include "http/exposition_text.h"

struct exposition_gateway;

/* A snapshot, as exposition_new. 0 or -ENOMEM. */
int exposition_gateway_new(struct fleet *fleet, struct exposition_gateway **ret);
struct exposition_gateway *exposition_gateway_free(struct exposition_gateway *g);
/* As exposition_more. */
bool exposition_gateway_more(struct exposition_gateway *g, struct buffer *out, size_t enough,
                             enum exposition_format format);

#endif
