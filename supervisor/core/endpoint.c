/* endpoint.c: addresses in and out of text. */
#include "core/endpoint.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/macros.h"

int endpoint_from_unix(const char *path, struct endpoint *ret)
{
        struct endpoint e = {0};
        size_t len = strlen(path);

        if (path[0] != '/')
                return -EINVAL;
        if (len >= sizeof e.addr.un.sun_path)
                return -ENAMETOOLONG;
        e.addr.un.sun_family = AF_UNIX;
        memcpy(e.addr.un.sun_path, path, len + 1);
        e.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
        *ret = e;
        return 0;
}

/* Digits only (no sign, no space), 0 to 65535; 0 is for listeners that let the system choose. */
static int parse_port(const char *s, size_t len, in_port_t *ret)
{
        unsigned v = 0;

        if (!len || len > 5)
                return -EINVAL;
        for (size_t i = 0; i < len; i++) {
                if (s[i] < '0' || s[i] > '9')
                        return -EINVAL;
                v = v * 10 + (unsigned)(s[i] - '0');
        }
        if (v > 65535)
                return -EINVAL;
        *ret = htons((in_port_t)v);
        return 0;
}

static bool looks_like_host_name(const char *s)
{
        for (; *s; s++)
                if (!isalnum((unsigned char)*s) && *s != '-' && *s != '.' && *s != '_')
                        return false;
        return true;
}

static void set_v4(struct endpoint *e, struct in_addr addr, in_port_t port)
{
        e->addr.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = addr, .sin_port = port};
        e->len = sizeof e->addr.in;
}

static void set_v6(struct endpoint *e, const struct in6_addr *addr, in_port_t port)
{
        e->addr.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = *addr, .sin6_port = port};
        e->len = sizeof e->addr.in6;
}

/* "HOST:PORT" of len bytes. */
static int parse_authority(const char *s, size_t len, struct endpoint *ret)
{
        struct endpoint e = {0};
        bool brackets = len && s[0] == '[';
        const char *colon, *host_end;
        struct in6_addr v6;
        struct in_addr v4;
        in_port_t port;
        char host[256];
        size_t n;
        int r;

        if (brackets) {
                host_end = memchr(s, ']', len);
                if (!host_end || (size_t)(host_end - s) + 1 >= len || host_end[1] != ':')
                        return -EINVAL;
                s++;
                len--;
                colon = host_end + 1;
        } else {
                host_end = colon = memchr(s, ':', len);
                if (!colon)
                        return -EINVAL;
        }
        n = (size_t)(host_end - s);
        if (!n || n >= sizeof host)
                return -EINVAL;
        memcpy(host, s, n);
        host[n] = '\0';
        r = parse_port(colon + 1, len - (size_t)(colon + 1 - s), &port);
        if (r < 0)
                return r;

        if (brackets) {
                if (inet_pton(AF_INET6, host, &v6) != 1)
                        return -EINVAL;
                set_v6(&e, &v6, port);
        } else if (inet_pton(AF_INET, host, &v4) == 1) {
                set_v4(&e, v4, port);
        } else if (strcasecmp(host, "localhost") == 0) {
                set_v4(&e, (struct in_addr){.s_addr = htonl(INADDR_LOOPBACK)}, port);
        } else {
                return looks_like_host_name(host) ? -EADDRNOTAVAIL : -EINVAL;
        }
        *ret = e;
        return 0;
}

int endpoint_parse(const char *s, struct endpoint *ret)
{
        size_t len;

        if (starts_with(s, "unix:"))
                return endpoint_from_unix(s + strlen("unix:"), ret);
        if (s[0] == '/')
                return endpoint_from_unix(s, ret);
        if (strncasecmp(s, "https://", strlen("https://")) == 0)
                return -EPROTONOSUPPORT;
        len = strlen(s);
        if (strncasecmp(s, "http://", strlen("http://")) == 0) {
                s += strlen("http://");
                len -= strlen("http://");
                if (len && s[len - 1] == '/')
                        len--;
        }
        return parse_authority(s, len, ret);
}

bool endpoint_is_unix(const struct endpoint *e)
{
        return e->len && e->addr.sa.sa_family == AF_UNIX;
}

bool endpoint_is_loopback(const struct endpoint *e)
{
        const struct in6_addr *v6 = &e->addr.in6.sin6_addr;

        if (!e->len)
                return false;
        switch (e->addr.sa.sa_family) {
        case AF_UNIX:
                return true;
        case AF_INET:
                return ntohl(e->addr.in.sin_addr.s_addr) >> 24 == 127;
        case AF_INET6:
                /* An IPv4 client of a dual-stack socket shows as ::ffff:127.0.0.1. */
                return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
        default:
                return false;
        }
}

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b)
{
        if (!a->len || !b->len)
                return a->len == b->len;
        if (a->addr.sa.sa_family != b->addr.sa.sa_family)
                return false;
        switch (a->addr.sa.sa_family) {
        case AF_UNIX:
                return streq(a->addr.un.sun_path, b->addr.un.sun_path);
        case AF_INET:
                return a->addr.in.sin_port == b->addr.in.sin_port &&
                       a->addr.in.sin_addr.s_addr == b->addr.in.sin_addr.s_addr;
        case AF_INET6:
                return a->addr.in6.sin6_port == b->addr.in6.sin6_port &&
                       a->addr.in6.sin6_scope_id == b->addr.in6.sin6_scope_id &&
                       IN6_ARE_ADDR_EQUAL(&a->addr.in6.sin6_addr, &b->addr.in6.sin6_addr);
        default:
                return false;
        }
}

char *endpoint_host(const struct endpoint *e, char *buf, size_t size)
{
        char ip[INET6_ADDRSTRLEN] = "";

        switch (e->len ? e->addr.sa.sa_family : AF_UNSPEC) {
        case AF_UNIX:
                (void)snprintf(buf, size, "localhost");
                break;
        case AF_INET:
                (void)inet_ntop(AF_INET, &e->addr.in.sin_addr, ip, sizeof ip);
                (void)snprintf(buf, size, "%s:%u", ip, ntohs(e->addr.in.sin_port));
                break;
        case AF_INET6:
                (void)inet_ntop(AF_INET6, &e->addr.in6.sin6_addr, ip, sizeof ip);
                (void)snprintf(buf, size, "[%s]:%u", ip, ntohs(e->addr.in6.sin6_port));
                break;
        default:
                (void)snprintf(buf, size, "none");
        }
        return buf;
}

char *endpoint_text(const struct endpoint *e, char *buf, size_t size)
{
        char host[ENDPOINT_TEXT_MAX];

        if (endpoint_is_unix(e))
                (void)snprintf(buf, size, "unix:%s", e->addr.un.sun_path);
        else if (e->len)
                (void)snprintf(buf, size, "http://%s", endpoint_host(e, host, sizeof host));
        else
                (void)snprintf(buf, size, "none");
        return buf;
}
