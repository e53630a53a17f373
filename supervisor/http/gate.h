/* gate.h: who may talk to us at all: Host and Origin of every request and every upgrade, before any route is looked up. Pure.
 *
 * What it is against: a page of somebody else's in a browser on this machine. DNS rebinding makes such a page's own name point at
 * us, so a Host that is a name must be one of ours; a cross-origin request tells its Origin, so that must be one of ours;
 * a simple form sends no preflight, so an order (POST, DELETE) must have a content type that no form can send.
 *
 * Host passes when it is localhost, 127.0.0.1 or [::1], any port, on a loopback or unix listener; the listener's own address, any
 * port (a number cannot be rebound, and a forwarded port is a common thing); any numeric address or localhost on a listener on all
 * addresses (0.0.0.0, ::); or in allowed_hosts ("name": any port, "name:port": that one, "*.name": all below
 * it, "*": any, which gives the protection against rebinding up).
 * Origin passes when there is none; when it equals Host; when it is http or https and its host is a loopback name (loopback listeners;
 * on all addresses only if Host is one, too) or the listener's own address, any port; or when it is in allowed_origins (scheme,
 * host as there, and port; "*" is any). "null" never passes.
 * Source: RFC 6454, RFC 9110 §7.2, the Fetch standard. */
#ifndef LSV_HTTP_GATE_H
#define LSV_HTTP_GATE_H

#include "base/buffer.h"
#include "core/endpoint.h"
#include "core/http1.h"

struct gate {
        const struct endpoint *bound; /* the listener's address as bound */
        char *const *allowed_hosts;   /* NULL-ended, may be NULL */
        char *const *allowed_origins;
};

enum gate_verdict {
        GATE_PASS,
        GATE_HOST,
        GATE_ORIGIN,
        GATE_CONTENT_TYPE,
        GATE_PRIVATE_NETWORK,
        GATE_VERDICTS,
};
/* Host and Origin. */
enum gate_verdict gate_check(const struct gate *g, const struct http1_request *head);
/* An order must be application/json, or have neither a body nor a content type: GATE_PASS or GATE_CONTENT_TYPE. */
enum gate_verdict gate_check_order(const struct http1_request *head);
/* Work for a model is an order, too, when a page sends it (it tells an Origin, a Referer or Sec-Fetch-*, as every browser does
 * with a POST), and may then be multipart/form-data where the route knows what to do with it: only behind a preflight or an
 * allowed Origin. A program like curl may send it with whatever content type it has. */
enum gate_verdict gate_check_work(const struct http1_request *head, bool multipart);
/* A preflight (is_preflight) that asks for the private network is refused: GATE_PASS or GATE_PRIVATE_NETWORK. */
enum gate_verdict gate_check_preflight(const struct http1_request *head);
bool gate_is_preflight(
        const struct http1_request *head); /* OPTIONS with Origin and Access-Control-Request-Method */

const char *gate_verdict_name(enum gate_verdict v);  /* "host": a metric's label */
int gate_verdict_status(enum gate_verdict v);        /* 403, 415 */
const char *gate_verdict_words(enum gate_verdict v); /* for the error's message */

/* Header lines that let a page of an allowed origin read the answer; nothing when the request tells no Origin. Only for requests
 * that passed the gate. GATE_CORS_MAX bytes of buf are enough for any head within the codec's limits; returns buf. */
enum { GATE_CORS_MAX = 700 };
char *gate_cors(const struct http1_request *head, char *buf, size_t size);

#endif
