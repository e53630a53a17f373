/* inherited.c: the sockets that came with our start, found by where they are bound. */
#include "net/inherited.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/macros.h"
#include "base/text.h"

struct inherited {
        struct inherited_socket *list;
        size_t n;
};

int inherited_new(struct inherited **ret)
{
        struct inherited *in = calloc(1, sizeof(*in));

        if (!in)
                return -ENOMEM;
        *ret = in;
        return 0;
}

struct inherited *inherited_free(struct inherited *in)
{
        if (!in)
                return NULL;
        for (size_t i = 0; i < in->n; i++)
                (void)close(in->list[i].fd);
        free(in->list);
        free(in);
        return NULL;
}

char *inherited_name(const char *address, char *buf, size_t size)
{
        (void)snprintf(buf, size, INHERITED_OURS "%s", address);
        for (char *p = buf; *p; p++)
                if (*p <= ' ' || *p >= 0x7f || *p == ':' || *p == '/')
                        *p = '_';
        return buf;
}

static int option(int fd, int name)
{
        socklen_t len;
        int value = 0;

        len = sizeof(value);
        return getsockopt(fd, SOL_SOCKET, name, &value, &len) < 0 ? -errno : value;
}

static bool is_listener(int fd, struct endpoint *ret_at)
{
        struct endpoint at = {.len = sizeof(at.addr)};
        char path[sizeof(at.addr.un.sun_path) + 1] = "";

        if (option(fd, SO_TYPE) != SOCK_STREAM || option(fd, SO_ACCEPTCONN) != 1 ||
            getsockname(fd, &at.addr.sa, &at.len) < 0)
                return false;
        switch (at.addr.sa.sa_family) {
        case AF_INET:
        case AF_INET6:
                break;
        case AF_UNIX:
                /* Abstract and unnamed ones have no file whose mode could guard them. */
                if (at.len <= offsetof(struct sockaddr_un, sun_path) || !at.addr.un.sun_path[0])
                        return false;
                /* Some programs count the path's NUL, some do not; we compare by text. */
                memcpy(path, at.addr.un.sun_path, at.len - offsetof(struct sockaddr_un, sun_path));
                if (endpoint_from_unix(path, &at) < 0)
                        return false;
                break;
        default:
                return false;
        }
        *ret_at = at;
        return true;
}

int inherited_add(struct inherited *in, int fd, enum inherited_from from, const char *name)
{
        struct inherited_socket *grown, one = {.fd = fd, .from = from};
        int flags, r = 0;

        if (in->n >= INHERITED_MAX)
                r = -ENOSPC;
        else if (!is_listener(fd, &one.at))
                r = -EINVAL;
        flags = fcntl(fd, F_GETFL);
        if (r == 0 &&
            (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0))
                r = -errno;
        if (r == 0) {
                grown = reallocarray(in->list, in->n + 1, sizeof(*grown));
                if (grown)
                        in->list = grown;
                else
                        r = -ENOMEM;
        }
        if (r < 0) {
                (void)close(fd);
                return r;
        }
        (void)text_copy(one.name, sizeof(one.name), name ? name : "");
        in->list[in->n++] = one;
        return 0;
}

static void take(struct inherited *in, size_t i, struct inherited_socket *ret)
{
        *ret = in->list[i];
        in->n--;
        memmove(in->list + i, in->list + i + 1, (in->n - i) * sizeof(*in->list));
}

static bool port_is_any(const struct endpoint *e)
{
        return (e->addr.sa.sa_family == AF_INET && e->addr.in.sin_port == 0) ||
               (e->addr.sa.sa_family == AF_INET6 && e->addr.in6.sin6_port == 0);
}

static bool is_meant(const struct inherited_socket *s, const struct endpoint *at, const char *name)
{
        struct endpoint bound = s->at;

        if (endpoint_equal(&bound, at))
                return true;
        if (!port_is_any(at) || !streq(s->name, name) || bound.addr.sa.sa_family != at->addr.sa.sa_family)
                return false;
        if (bound.addr.sa.sa_family == AF_INET)
                bound.addr.in.sin_port = 0;
        else
                bound.addr.in6.sin6_port = 0;
        return endpoint_equal(&bound, at);
}

static bool has_its_file(const struct endpoint *at)
{
        struct stat st;

        return !endpoint_is_unix(at) || (lstat(at->addr.un.sun_path, &st) == 0 && S_ISSOCK(st.st_mode));
}

bool inherited_take(struct inherited *in, const struct endpoint *at, const char *name,
                    struct inherited_socket *ret)
{
        for (size_t i = 0; in && i < in->n; i++) {
                if (!is_meant(in->list + i, at, name))
                        continue;
                if (!has_its_file(&in->list[i].at))
                        continue;
                take(in, i, ret);
                return true;
        }
        return false;
}

bool inherited_take_unit(struct inherited *in, struct inherited_socket *ret)
{
        for (size_t i = 0; in && i < in->n; i++)
                if (in->list[i].from == INHERITED_UNIT) {
                        take(in, i, ret);
                        return true;
                }
        return false;
}

bool inherited_take_any(struct inherited *in, struct inherited_socket *ret)
{
        if (!in || !in->n)
                return false;
        take(in, in->n - 1, ret);
        return true;
}
