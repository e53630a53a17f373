/* url.c: a hub's URL, taken apart. */
#include "core/url.h"

#include <ctype.h>
#include <errno.h>

#include "core/http1_uri.h"

bool url_is_secure(const struct url *u)
{
        return slice_eq_str(u->scheme, "https") || slice_eq_str(u->scheme, "wss");
}

static unsigned default_port(const struct url *u)
{
        if (url_is_secure(u))
                return 443;
        return slice_eq_str(u->scheme, "http") || slice_eq_str(u->scheme, "ws") ? 80 : 0;
}

int url_parse(const char *text, struct url *ret)
{
        const char *colon = strstr(text, "://");
        struct http1_authority authority;
        struct url u = {0};
        size_t n;

        if (!colon || colon == text)
                return -EINVAL;
        for (const char *p = text; *p; p++)
                if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '#')
                        return -EINVAL;
        for (const char *p = text; p < colon; p++)
                if (!islower((unsigned char)*p) && !(p > text && (isdigit((unsigned char)*p) || *p == '+')))
                        return -EINVAL;
        u.scheme = (struct slice){text, (size_t)(colon - text)};
        u.authority.p = colon + 3;
        u.authority.n = strcspn(u.authority.p, "/?");
        u.path = slice_str(u.authority.p + u.authority.n);
        if (http1_authority_parse(u.authority, &authority) < 0)
                return -EINVAL;
        n = authority.host.n;
        if (n >= sizeof u.host)
                return -EINVAL;
        memcpy(u.host, authority.host.p, n);
        u.ipv6 = authority.ipv6;
        u.port = authority.port >= 0 ? (unsigned)authority.port : default_port(&u);
        *ret = u;
        return 0;
}
