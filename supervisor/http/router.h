/* router.h: which handler a path belongs to: a const table of patterns, ended by a row without pattern. Pure.
 *
 * A pattern is a path; a segment "{name}" matches any one segment that is not empty, "{path}" at the end whatever is left, also
 * nothing. Paths are given decoded (http1_path_normal)
 * and are compared exactly: no case folding, no slash more or less. One row per pattern. */
#ifndef LSV_HTTP_ROUTER_H
#define LSV_HTTP_ROUTER_H

#include "core/http1.h"

struct call; /* doors_private.h: one request at its handler */

enum route_method {
        ROUTE_GET = 1 << 0, /* HEAD too */
        ROUTE_POST = 1 << 1,
        ROUTE_DELETE = 1 << 2,
        ROUTE_PUT = 1 << 3,
        ROUTE_PATCH = 1 << 4,
};

/* What a caller must be allowed to do; the words of auth.anonymous. */
enum route_scope {
        ROUTE_OPEN, /* nothing: liveness */
        ROUTE_READ,
        ROUTE_INFER,
        ROUTE_ADMIN,
};

enum route_flag {
        ROUTE_STREAM = 1 << 0, /* the answer does not end by itself: a HEAD is answered without the handler */
        ROUTE_ANY_BODY =
                1 << 1, /* its POSTs are no orders, so that any content type may come (Socket.IO polling) */
        ROUTE_OWN_OPTIONS = 1 << 2, /* the handler answers OPTIONS too, once the gate is passed */
        ROUTE_WORK =
                1 << 3, /* its POSTs are work for a model: programs may send them with any content type */
        ROUTE_MULTIPART = 1 << 4, /* … and pages multipart/form-data, too */
        ROUTE_OR_INFER = 1 << 5,  /* who may infer may this, too: clients of models begin by listing them */
        ROUTE_WHO =
                1 << 6, /* open to all, and the handler looks at who is calling: nobody, or call->caller */
};

struct route {
        const char *pattern;
        unsigned methods, flags;
        enum route_scope scope;
        enum route_scope order_scope; /* of POST and DELETE where GET asks for less; ROUTE_OPEN: scope */
        /* Query parameters that it knows, NULL-ended; others are refused by name. NULL: the handler reads the query itself. */
        const char *const *params;
        void (*handle)(struct call *call);
        void (*handle_order)(struct call *call); /* of POST and DELETE; NULL: handle */
        const char *content_type;                /* of a HEAD on a stream */
        const char *doc; /* one line, for the page; NULL: an alias, which it leaves out */
};

enum { ROUTE_NAME_MAX = 128 };
struct route_match {
        const struct route *route;
        char name[ROUTE_NAME_MAX]; /* what {name} stood for, "" */
        const char *rest;          /* what {path} stood for: the end of the path that was looked up, or "" */
};

/* 0 or -ENOENT. A name that is too long for name[] belongs to nothing: -ENOENT. */
int router_find(const struct route *table, const char *path, struct route_match *ret);
bool route_allows(const struct route *route, enum http1_method method);
bool route_is_order(enum http1_method method); /* POST, PUT, PATCH, DELETE: they change something */
enum route_scope route_scope_of(const struct route *route, enum http1_method method);
/* "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" into buf (56 bytes are enough); returns buf. */
char *route_methods(const struct route *route, char *buf, size_t size);
/* For "did you mean": the nearest path of the table, {name} filled in from `path`; buf or NULL. */
const char *router_nearest(const struct route *table, const char *path, char *buf, size_t size);

/* The first name in the query that the route does not know, as a C string in buf (cut, harmless), and its nearest known one
 * (or NULL). False when all are known, or when the route reads its query itself. */
bool route_unknown_param(const struct route *route, struct slice query, char *buf, size_t size,
                         const char **ret_nearest);

const char *route_scope_name(enum route_scope scope); /* "none" "read" "infer" "admin" */

#endif
