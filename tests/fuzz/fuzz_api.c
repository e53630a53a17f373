/* fuzz_api.c: targets and bodies as strangers send them: path, route, query parameters and the body of an order.
 * Input: a target, a newline, a body. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "core/http1_uri.h"
#include "http/params.h"
#include "http/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const params[] = {"lines", "follow", "instance", NULL};
static const struct route table[] = {
        {.pattern = "/", .params = params},
        {.pattern = "/api/v1/instances", .params = params},
        {.pattern = "/api/v1/instances/{name}", .params = params},
        {.pattern = "/api/v1/instances/{name}/logs", .params = params},
        {0},
};

static void check_route(struct slice target)
{
        struct slice path = slice_sub(target, 0, slice_find(target, '?'));
        char normal[512], nearest[512];
        struct route_match m;

        if (http1_path_normal(path, normal, sizeof(normal)) < 0)
                return;
        if (router_find(table, normal, &m) < 0) {
                if (router_nearest(table, normal, nearest, sizeof(nearest)) && nearest[0] != '/')
                        abort();
                return;
        }
        if (strlen(m.name) >= ROUTE_NAME_MAX || strchr(m.name, '/') ||
            (strchr(m.route->pattern, '{') && !m.name[0]))
                abort();
}

static void check_query(struct slice query)
{
        char buf[64], why[PARAM_WHY_MAX] = "";
        const char *text = NULL, *nearest = NULL;
        uint64_t n = 7;
        bool b = false;
        int r;

        r = param_uint(query, "lines", 1, 1000, 100, &n, why, sizeof(why));
        if (r == 0 ? n < 1 || n > 1000 : n != 7 || why[0] == '\0')
                abort();
        (void)param_bool(query, "follow", &b, why, sizeof(why));
        if (param_text(query, "instance", buf, sizeof(buf), &text, why, sizeof(why)) == 0 && text &&
            text != buf)
                abort();
        if (route_unknown_param(table, query, buf, sizeof(buf), &nearest) && strlen(buf) > 64)
                abort();
}

static void check_body(const char *body, size_t len)
{
        char why[PARAM_WHY_MAX] = "";
        int r = order_check_body(body, len, why, sizeof(why));

        if (r < 0 && why[0] == '\0')
                abort();
        /* Whatever passes is nothing, or JSON. */
        if (r == 0 && len && json_check(body, len, NULL) < 0)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct slice all = {(const char *)data, size};
        size_t n = slice_find(all, '\n');
        struct slice target = slice_sub(all, 0, n), body = slice_sub(all, n + 1, size);

        check_route(target);
        check_query(slice_sub(target, slice_find(target, '?') + 1, target.n));
        check_body(body.p, body.n);
        return 0;
}
