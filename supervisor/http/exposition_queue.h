/* exposition_queue.h: the part of /metrics about slots and queues: leases of each instance, the queue of each model. A part of
 * exposition.h. */
#ifndef LSV_HTTP_EXPOSITION_QUEUE_H
#define LSV_HTTP_EXPOSITION_QUEUE_H

#include "fleet/fleet.h"
#include "http/exposition_text.h"

struct exposition_queue;

/* A snapshot, as exposition_new. 0 or -ENOMEM. */
int exposition_queue_new(struct fleet *fleet, struct exposition_queue **ret);
struct exposition_queue *exposition_queue_free(struct exposition_queue *q);
/* As exposition_more. */
bool exposition_queue_more(struct exposition_queue *q, struct buffer *out, size_t enough,
                           enum exposition_format format);

#endif
