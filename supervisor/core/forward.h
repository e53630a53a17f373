/* forward.h: which headers of a client's request go on to an instance. Pure.
 *
 * Left out are those that belong to one connection (http1_header_is_hop, and what Connection lists), those that the relay writes
 * itself (Host, Content-Length, Expect), what is between the client and us (Authorization, X-Api-Key and the other headers in which
 * clients show keys, Cookie, Origin), claims about the way that only we could make (Forwarded, X-Forwarded-*, X-Real-IP: an empty
 * X-Forwarded-For crashed llama-server, CVE-2026-46527), X-Conversation-Id (with it llama-server goes on after a disconnect, which is
 * how we cancel), and Accept-Encoding (tokens are counted in the answer as it passes; on one machine compression costs more than it
 * saves). */
#ifndef LSV_CORE_FORWARD_H
#define LSV_CORE_FORWARD_H

#include "core/http1.h"

/* Keeps those to be forwarded, in their order, in out (room for n, may be `headers` itself); returns how many. */
size_t forward_headers(const struct http1_header *headers, size_t n, struct http1_header *out);

#endif
