/* url.h: the URLs of hubs, taken apart (RFC 3986, the part of it that a person writes into a configuration): "scheme://host[:port][/path][?query]".
 * Refused: user info (secrets come from files), fragments, spaces, control bytes, what http1_authority_parse refuses. */
#ifndef LSV_CORE_URL_H
#define LSV_CORE_URL_H

#include "base/slice.h"

enum { URL_HOST_MAX = 254 };

struct url {
        struct slice scheme;
        struct slice authority;  /* "host:port" as written */
        char host[URL_HOST_MAX]; /* without brackets */
        bool ipv6;
        unsigned
                port; /* the scheme's own where none is written: 80 of http and ws, 443 of https and wss; else 0 */
        struct slice path; /* from the first '/' on, with the query; "" when there is none */
};

/* 0 or -EINVAL. Slices are of `text`. */
int url_parse(const char *text, struct url *ret);
bool url_is_secure(const struct url *u); /* https, wss */

#endif
