/* nats_rest.h: what is missing of a stream that was partly told, made of the whole answer that the hub keeps. Pure. */
#ifndef LSV_HUB_NATS_REST_H
#define LSV_HUB_NATS_REST_H

#include "base/buffer.h"

/* Appends events ("data: …\n\n", the last one "[DONE]") that tell of the answer what comes behind the text `told`. 0; -EILSEQ: the answer does
 * not begin so; -ENOTSUP: it holds more than one choice's text (tool calls, reasoning, several choices), which cannot be cut; -EBADMSG: it is no
 * answer; -ENOMEM. */
int nats_rest(const char *answer, size_t len, const char *told, size_t told_len, struct buffer *out);

#endif
