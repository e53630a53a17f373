/* exposition_hubs.h: the part of /metrics about hubs: state, credits, jobs by what became of them, the outbox, the link. Labels are names of the
 * configuration (at most 17 hubs) and static words only. A part of exposition.h. */
#ifndef LSV_HTTP_EXPOSITION_HUBS_H
#define LSV_HTTP_EXPOSITION_HUBS_H

#include "base/buffer.h"
#include "http/exposition_text.h"

struct hubs;
struct exposition_hubs;

/* A snapshot, as exposition_new; hubs may be NULL. 0 or -ENOMEM. */
int exposition_hubs_new(struct hubs *hubs, struct exposition_hubs **ret);
struct exposition_hubs *exposition_hubs_free(struct exposition_hubs *x);
/* As exposition_more. */
bool exposition_hubs_more(struct exposition_hubs *x, struct buffer *out, size_t enough,
                          enum exposition_format format);

#endif
