/* resolve.c: getaddrinfo(3) as a job of the pool. */
#include "net/resolve.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"

/* Belongs to the pool until on_done; cancelling only takes the callback away. */
struct resolve {
        resolve_fn *fn;
        void *owner;
        char host[RESOLVE_HOST_MAX];
        char port[8];
        int error;
        unsigned n;
        struct endpoint list[RESOLVE_ADDRESSES_MAX];
};

static void work(void *job)
{
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
        struct resolve *r = job;

        r->error = getaddrinfo(r->host, r->port, &hints, &found);
        for (const struct addrinfo *a = r->error ? NULL : found; a && r->n < RESOLVE_ADDRESSES_MAX;
             a = a->ai_next) {
                struct endpoint *e = r->list + r->n;

                if ((a->ai_family != AF_INET && a->ai_family != AF_INET6) || a->ai_addrlen > sizeof e->addr)
                        continue;
                memcpy(&e->addr, a->ai_addr, a->ai_addrlen);
                e->len = a->ai_addrlen;
                r->n++;
        }
        if (found)
                freeaddrinfo(found);
}

static void on_done(void *job)
{
        struct resolve *r = job;

        if (r->fn)
                r->fn(r->owner, r->list, r->n,
                      r->n       ? NULL
                      : r->error ? gai_strerror(r->error)
                                 : "the name has no address of IPv4 or IPv6");
        free(r);
}

int resolve_start(struct loop *loop, const char *host, unsigned port, resolve_fn *fn, void *owner,
                  struct resolve **ret)
{
        _cleanup_free_ struct resolve *r = NULL;
        size_t n = strlen(host);
        int rc;

        if (!n || n >= RESOLVE_HOST_MAX || !port || port > 65535)
                return -EINVAL;
        r = calloc(1, sizeof *r);
        if (!r)
                return -ENOMEM;
        memcpy(r->host, host, n + 1);
        (void)snprintf(r->port, sizeof r->port, "%u", port);
        r->fn = fn;
        r->owner = owner;
        rc = loop_work(loop, work, on_done, r);
        if (rc < 0)
                return rc;
        *ret = steal_ptr(r);
        return 0;
}

struct resolve *resolve_cancel(struct resolve *r)
{
        if (r)
                r->fn = NULL;
        return NULL;
}
