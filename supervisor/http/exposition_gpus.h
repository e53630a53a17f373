/* exposition_gpus.h: the GPUs in figures: a snapshot, and one row per metric family that writes it down. */
#ifndef LSV_HTTP_EXPOSITION_GPUS_H
#define LSV_HTTP_EXPOSITION_GPUS_H

#include "fleet/fleet.h"
#include "http/exposition_text.h"

struct exposition_gpus;
int exposition_gpus_new(struct fleet *fleet, struct exposition_gpus **ret);
struct exposition_gpus *exposition_gpus_free(struct exposition_gpus *x); /* always NULL */
/* As exposition_more. */
bool exposition_gpus_more(struct exposition_gpus *x, struct buffer *out, size_t enough,
                          enum exposition_format format);

#endif
