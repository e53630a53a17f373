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

#include "base/buffer.h"
#include "core/http1.h"

/* Keeps those to be forwarded, in their order, in out (room for n, may be `headers` itself); returns how many. */
size_t forward_headers(const struct http1_header *headers, size_t n, struct http1_header *out);

/* Of an answer: between us and the instance, or about its address, which is not the client's to use: challenges (WWW-Authenticate: the
 * client's credentials never go there, and a browser would ask a person for a password), other ways to it (Alt-Svc), where reports
 * of it go, and Refresh, a Location that no proxy can read. */
bool forward_keeps_back(struct slice name);
/* A Location (Content-Location) as a client of ours can follow it, appended to out: a path, or an address at `host` (the Host that the
 * instance was asked with), becomes that path behind `prefix`; a reference without a leading slash stays as it is. False: it leads to
 * another host, or is no address, and is left out. */
bool forward_location(struct slice value, struct slice host, struct slice prefix, struct buffer *out);

#endif
