/* exposition_demand.h: the part of /metrics about models that come on demand or scale: loads, unloads and why, waits, replicas. Labels are
 * entries of the configuration and static words only. A part of exposition.h. */
#ifndef LSV_HTTP_EXPOSITION_DEMAND_H
#define LSV_HTTP_EXPOSITION_DEMAND_H

#include "base/buffer.h"
#include "fleet/fleet.h"
#include "http/exposition_text.h"

struct exposition_demand;

/* A snapshot, as exposition_new. 0 or -ENOMEM. */
int exposition_demand_new(struct fleet *fleet, struct exposition_demand **ret);
struct exposition_demand *exposition_demand_free(struct exposition_demand *x);
/* As exposition_more. */
bool exposition_demand_more(struct exposition_demand *x, struct buffer *out, size_t enough,
                            enum exposition_format format);

#endif
