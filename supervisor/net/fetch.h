/* fetch.h: the HTTP(S) client for hubs and other servers somewhere else, by libcurl: whole requests, whole answers. Not for llama-servers
 * (upstream.h), whose requests are many.
 *
 * One fetcher is one libcurl multi handle with its pool of connections; fetch_start is one request, and on_done is called exactly once, never
 * from inside, unless fetch_cancel came first. Every fetch has a deadline for the whole and for connecting, and a bound for its answer.
 * HTTP/1.1, TLS 1.2 or newer verified against ca_file (or the system's), no proxy of the environment, no redirects, no cookies, nothing but
 * http and https. libcurl's resolver has threads of its own. At most FETCH_MAX run at once: -EAGAIN.
 *
 * libcurl's sockets lie in a private epoll, whose descriptor is the one thing that our loop watches: libuv of Debian 12 takes two
 * epoll_ctl for each change of a mask, and libcurl changes them all the time. Source: libcurl-multi(3). */
#ifndef LSV_NET_FETCH_H
#define LSV_NET_FETCH_H

#include <stddef.h>

#include "net/loop.h"

enum {
        FETCH_MAX = 64,
        FETCH_BODY_MAX = 8 << 20, /* the default of body_max */
        FETCH_HEADERS_MAX = 8,
};

struct fetcher;
struct fetch;

/* 0 or -ENOMEM. */
int fetcher_new(struct loop *loop, struct fetcher **ret);
/* Cancels what runs; nothing is called. Always NULL. */
struct fetcher *fetcher_free(struct fetcher *f);

struct fetch_spec {
        const char *method; /* "GET", "POST" */
        const char *url;
        const char *headers
                [FETCH_HEADERS_MAX]; /* "Content-Type: application/json", NULL-ended; checked for CR and LF */
        const char *body;            /* copied; NULL: none */
        size_t body_len;
        const char *ca_file;             /* PEM, instead of the system's */
        usec_t connect_timeout, timeout; /* 0: 10 s, 30 s */
        size_t body_max;                 /* of the answer; more is an error; 0: the default */
};

struct fetch_answer {
        int status;       /* 0: there was no answer */
        const char *why;  /* of 0: plain words; else NULL */
        const char *body; /* NUL-terminated, valid during the call; never NULL */
        size_t body_len;
        unsigned retry_after; /* seconds, of the header; 0: none */
        bool sent;            /* the server may have seen the request */
};
typedef void fetch_done_fn(void *owner, const struct fetch_answer *answer);

/* The fetch is gone when on_done is called. 0, -EINVAL (a URL that is not http or https, a header that cannot be sent), -EAGAIN, -ENOMEM. */
int fetch_start(struct fetcher *f, const struct fetch_spec *spec, fetch_done_fn *on_done, void *owner,
                struct fetch **ret);
struct fetch *fetch_cancel(struct fetch *x); /* takes NULL, always NULL */

struct fetcher_counts {
        uint64_t started, failed, refused;
        unsigned running;
};
const struct fetcher_counts *fetcher_counts(const struct fetcher *f);

#endif
