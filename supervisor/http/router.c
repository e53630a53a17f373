/* router.c: patterns against paths. */
#include "http/router.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "core/http1_uri.h"

#define NAME_SEGMENT "{name}"
#define REST_SEGMENT "{path}"
enum { TABLE_MAX = 128 };

/* Walks pattern and path together; name: where the segment of {name} goes. */
static bool pattern_matches(const char *pattern, const char *path, char name[ROUTE_NAME_MAX],
                            const char **ret_rest)
{
        name[0] = '\0';
        *ret_rest = "";
        while (*pattern) {
                size_t n;

                if (*pattern != '{') {
                        if (*pattern++ != *path++)
                                return false;
                        continue;
                }
                if (streq(pattern, REST_SEGMENT)) {
                        *ret_rest = path;
                        return true;
                }
                n = strcspn(path, "/");
                if (n == 0 || n >= ROUTE_NAME_MAX)
                        return false;
                memcpy(name, path, n);
                name[n] = '\0';
                path += n;
                pattern += strlen(NAME_SEGMENT);
        }
        return *path == '\0';
}

int router_find(const struct route *table, const char *path, struct route_match *ret)
{
        struct route_match m = {0};

        for (m.route = table; m.route->pattern; m.route++)
                if (pattern_matches(m.route->pattern, path, m.name, &m.rest)) {
                        *ret = m;
                        return 0;
                }
        return -ENOENT;
}

bool route_allows(const struct route *route, enum http1_method method)
{
        switch (method) {
        case HTTP1_GET:
        case HTTP1_HEAD:
                return route->methods & ROUTE_GET;
        case HTTP1_POST:
                return route->methods & ROUTE_POST;
        case HTTP1_DELETE:
                return route->methods & ROUTE_DELETE;
        case HTTP1_PUT:
                return route->methods & ROUTE_PUT;
        case HTTP1_PATCH:
                return route->methods & ROUTE_PATCH;
        case HTTP1_OPTIONS:
                return true;
        default:
                return false;
        }
}

bool route_is_order(enum http1_method method)
{
        return method == HTTP1_POST || method == HTTP1_PUT || method == HTTP1_PATCH || method == HTTP1_DELETE;
}

enum route_scope route_scope_of(const struct route *route, enum http1_method method)
{
        return route_is_order(method) && route->order_scope != ROUTE_OPEN ? route->order_scope : route->scope;
}

char *route_methods(const struct route *route, char *buf, size_t size)
{
        (void)snprintf(buf, size, "%s%s%s%s%sOPTIONS", route->methods & ROUTE_GET ? "GET, HEAD, " : "",
                       route->methods & ROUTE_POST ? "POST, " : "", route->methods & ROUTE_PUT ? "PUT, " : "",
                       route->methods & ROUTE_PATCH ? "PATCH, " : "",
                       route->methods & ROUTE_DELETE ? "DELETE, " : "");
        return buf;
}

/* The pattern with its {name} filled by the same segment of path, so that only what is fixed counts as a difference; and without
 * {path}, which stands for nothing in particular. */
static char *fill_pattern(const char *pattern, const char *path)
{
        const char *at = strstr(pattern, NAME_SEGMENT), *rest = strstr(pattern, REST_SEGMENT);
        size_t n, len = rest ? (size_t)(rest - pattern) : strlen(pattern);

        if (!at)
                return strndup(pattern, len);
        for (const char *p = pattern; p < at; p++)
                if (*p == '/') {
                        path = strchr(path, '/');
                        if (!path)
                                return strndup(pattern, len);
                        path++;
                }
        n = strcspn(path, "/");
        if (n == 0)
                return strndup(pattern, len);
        len -= (size_t)(at - pattern) + strlen(NAME_SEGMENT);
        return text_format("%.*s%.*s%.*s", (int)(at - pattern), pattern, (int)n, path, (int)len,
                           at + strlen(NAME_SEGMENT));
}

const char *router_nearest(const struct route *table, const char *path, char *buf, size_t size)
{
        char *names[TABLE_MAX + 1] = {0};
        const char *nearest = NULL;
        size_t n = 0;

        /* The distance costs length times length: a path that is no typing error is not worth it. */
        if (strlen(path) > 200)
                return NULL;
        for (const struct route *r = table; r->pattern && n < TABLE_MAX; r++) {
                names[n] = fill_pattern(r->pattern, path);
                if (names[n])
                        n++;
        }
        nearest = text_nearest(path, (const char *const *)names);
        if (nearest)
                (void)snprintf(buf, size, "%s", nearest);
        for (size_t i = 0; i < n; i++)
                free(names[i]);
        return nearest ? buf : NULL;
}

static bool is_known(const struct route *route, struct slice pair)
{
        char value[2];

        /* Any other error than -ENOENT is about the value: the name is that one. */
        for (const char *const *p = route->params; *p; p++)
                if (http1_query_get(pair, *p, value, sizeof(value)) != -ENOENT)
                        return true;
        return false;
}

bool route_unknown_param(const struct route *route, struct slice query, char *buf, size_t size,
                         const char **ret_nearest)
{
        if (!route->params)
                return false;
        while (query.n) {
                size_t n = slice_find(query, '&');
                struct slice pair = slice_sub(query, 0, n), name;

                query = slice_sub(query, n + 1, query.n);
                if (pair.n == 0 || is_known(route, pair))
                        continue;
                name = slice_sub(pair, 0, slice_find(pair, '='));
                (void)snprintf(buf, size, "%.*s", (int)MIN(name.n, 64U), name.p);
                (void)text_harmless(buf);
                *ret_nearest = text_nearest(buf, route->params);
                return true;
        }
        return false;
}

const char *route_scope_name(enum route_scope scope)
{
        switch (scope) {
        case ROUTE_READ:
                return "read";
        case ROUTE_INFER:
                return "infer";
        case ROUTE_ADMIN:
                return "admin";
        case ROUTE_OPEN:
                break;
        }
        return "none";
}
