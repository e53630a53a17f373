/* test_router.c: patterns against paths, methods, query names, and the nearest path. */
#include "http/router.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const char *const log_params[] = {"follow", "lines", NULL};
static const char *const no_params[] = {NULL};
static const struct route table[] = {
        {.pattern = "/", .methods = ROUTE_GET},
        {.pattern = "/health", .methods = ROUTE_GET, .scope = ROUTE_OPEN},
        {.pattern = "/api/v1/instances", .methods = ROUTE_GET, .params = no_params},
        {.pattern = "/api/v1/instances/{name}", .methods = ROUTE_GET},
        {.pattern = "/api/v1/instances/{name}/logs", .methods = ROUTE_GET, .params = log_params},
        {.pattern = "/api/v1/instances/{name}/start", .methods = ROUTE_POST},
        {.pattern = "/socket.io/", .methods = ROUTE_GET | ROUTE_POST, .scope = ROUTE_READ},
        {.pattern = "/thing",
         .methods = ROUTE_GET | ROUTE_POST | ROUTE_DELETE,
         .scope = ROUTE_READ,
         .order_scope = ROUTE_ADMIN},
        {.pattern = "/upstream/{name}/{path}", .methods = ROUTE_GET},
        {.pattern = "/models/{path}", .methods = ROUTE_GET},
        {0},
};

static void paths_are_exact(void **state)
{
        static const struct {
                const char *path, *pattern, *name;
        } rows[] = {
                {"/", "/", ""},
                {"/health", "/health", ""},
                {"/api/v1/instances", "/api/v1/instances", ""},
                {"/api/v1/instances/qwen-0", "/api/v1/instances/{name}", "qwen-0"},
                {"/api/v1/instances/logs", "/api/v1/instances/{name}", "logs"},
                {"/api/v1/instances/q/logs", "/api/v1/instances/{name}/logs", "q"},
                {"/api/v1/instances/logs/logs", "/api/v1/instances/{name}/logs", "logs"},
                {"/api/v1/instances/{name}/start", "/api/v1/instances/{name}/start", "{name}"},
                {"/socket.io/", "/socket.io/", ""},
                {"/socket.io", NULL, NULL},
                {"", NULL, NULL},
                {"/Health", NULL, NULL},
                {"/health/", NULL, NULL},
                {"/healthy", NULL, NULL},
                {"/healt", NULL, NULL},
                {"/api/v1/instances/", NULL, NULL},
                {"/api/v1/instances//logs", NULL, NULL},
                {"/api/v1/instances/q/logs/", NULL, NULL},
                {"/api/v1/instances/q/r/logs", NULL, NULL},
        };
        struct route_match m;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int r = router_find(table, rows[i].path, &m);

                if (!rows[i].pattern) {
                        if (r != -ENOENT)
                                fail_msg("%s should not be found", rows[i].path);
                        continue;
                }
                if (r < 0)
                        fail_msg("%s was not found", rows[i].path);
                assert_string_equal(m.route->pattern, rows[i].pattern);
                assert_string_equal(m.name, rows[i].name);
        }
}

static void the_rest_of_a_path(void **state)
{
        static const struct {
                const char *path, *pattern, *name, *rest;
        } rows[] = {
                {"/upstream/q-0/v1/models", "/upstream/{name}/{path}", "q-0", "v1/models"},
                {"/upstream/q-0/", "/upstream/{name}/{path}", "q-0", ""},
                {"/upstream/q-0/slots/", "/upstream/{name}/{path}", "q-0", "slots/"},
                {"/upstream/q-0", NULL, NULL, NULL},
                {"/upstream//slots", NULL, NULL, NULL},
                {"/models/meta/llama-3", "/models/{path}", "", "meta/llama-3"},
                {"/models", NULL, NULL, NULL},
                {"/health", "/health", "", ""},
        };
        struct route_match m;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int r = router_find(table, rows[i].path, &m);

                if ((r == 0) != (rows[i].pattern != NULL))
                        fail_msg("%s: %d", rows[i].path, r);
                if (r < 0)
                        continue;
                assert_string_equal(m.route->pattern, rows[i].pattern);
                assert_string_equal(m.name, rows[i].name);
                assert_string_equal(m.rest, rows[i].rest);
        }
}

static void names_are_bounded(void **state)
{
        char path[ROUTE_NAME_MAX + 64] = "/api/v1/instances/";
        size_t n = strlen(path);
        struct route_match m;

        (void)state;
        memset(path + n, 'a', ROUTE_NAME_MAX - 1);
        assert_int_equal(router_find(table, path, &m), 0);
        assert_int_equal(strlen(m.name), ROUTE_NAME_MAX - 1);
        path[n + ROUTE_NAME_MAX - 1] = 'a';
        assert_int_equal(router_find(table, path, &m), -ENOENT);
}

static void methods_and_allow(void **state)
{
        const struct route *get = table + 1, *post = table + 5, *both = table + 6, *all = table + 7;
        const struct route every = {
                .pattern = "/x", .methods = ROUTE_GET | ROUTE_POST | ROUTE_PUT | ROUTE_PATCH | ROUTE_DELETE};
        char buf[56];

        (void)state;
        assert_false(route_allows(all, HTTP1_PUT));
        assert_false(route_allows(all, HTTP1_PATCH));
        assert_true(route_allows(&every, HTTP1_PUT));
        assert_true(route_allows(&every, HTTP1_PATCH));
        assert_false(route_allows(&every, HTTP1_TRACE));
        assert_string_equal(route_methods(&every, buf, sizeof(buf)),
                            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        assert_true(route_allows(get, HTTP1_GET));
        assert_true(route_allows(get, HTTP1_HEAD));
        assert_true(route_allows(get, HTTP1_OPTIONS));
        assert_false(route_allows(get, HTTP1_POST));
        assert_false(route_allows(get, HTTP1_DELETE));
        assert_false(route_allows(get, HTTP1_TRACE));
        assert_false(route_allows(post, HTTP1_GET));
        assert_false(route_allows(post, HTTP1_HEAD));
        assert_true(route_allows(post, HTTP1_POST));
        assert_true(route_allows(both, HTTP1_POST));
        assert_string_equal(route_methods(get, buf, sizeof(buf)), "GET, HEAD, OPTIONS");
        assert_string_equal(route_methods(post, buf, sizeof(buf)), "POST, OPTIONS");
        assert_string_equal(route_methods(both, buf, sizeof(buf)), "GET, HEAD, POST, OPTIONS");
        assert_false(route_allows(both, HTTP1_DELETE));
        assert_true(route_allows(all, HTTP1_DELETE));
        assert_string_equal(route_methods(all, buf, sizeof(buf)), "GET, HEAD, POST, DELETE, OPTIONS");
}

static void orders_may_need_more(void **state)
{
        const struct route *both = table + 6, *all = table + 7;

        (void)state;
        assert_true(route_is_order(HTTP1_POST));
        assert_true(route_is_order(HTTP1_DELETE));
        assert_true(route_is_order(HTTP1_PUT));
        assert_true(route_is_order(HTTP1_PATCH));
        assert_false(route_is_order(HTTP1_GET));
        assert_false(route_is_order(HTTP1_HEAD));
        assert_false(route_is_order(HTTP1_OPTIONS));
        assert_int_equal(route_scope_of(all, HTTP1_GET), ROUTE_READ);
        assert_int_equal(route_scope_of(all, HTTP1_HEAD), ROUTE_READ);
        assert_int_equal(route_scope_of(all, HTTP1_POST), ROUTE_ADMIN);
        assert_int_equal(route_scope_of(all, HTTP1_DELETE), ROUTE_ADMIN);
        assert_int_equal(route_scope_of(both, HTTP1_POST), ROUTE_READ);
}

static void did_you_mean(void **state)
{
        char buf[256];
        char far[400];

        (void)state;
        assert_string_equal(router_nearest(table, "/helth", buf, sizeof(buf)), "/health");
        assert_string_equal(router_nearest(table, "/health/", buf, sizeof(buf)), "/health");
        assert_string_equal(router_nearest(table, "/api/v1/instance", buf, sizeof(buf)), "/api/v1/instances");
        assert_string_equal(router_nearest(table, "/api/v1/instances/a-long-name-0/log", buf, sizeof(buf)),
                            "/api/v1/instances/a-long-name-0/logs");
        /* What is open has no name to be near to. */
        assert_string_equal(router_nearest(table, "/upstraem/q-0/", buf, sizeof(buf)), "/upstream/q-0/");
        assert_null(router_nearest(table, "/something/else/entirely/different", buf, sizeof(buf)));
        memset(far, 'x', sizeof(far) - 1);
        far[sizeof(far) - 1] = '\0';
        assert_null(router_nearest(table, far, buf, sizeof(buf)));
}

static void query_names_are_known(void **state)
{
        static const struct {
                const char *query, *unknown, *nearest;
        } rows[] = {
                {"lines=3&follow", NULL, NULL},
                {"lines=3&lines=4", NULL, NULL},
                {"%6cines=3", NULL, NULL},
                {"lines=a-very-long-value-that-is-somebody-else's-business", NULL, NULL},
                {"&&", NULL, NULL},
                {"line=3", "line", "lines"},
                {"lines=3&folow=1", "folow", "follow"},
                {"x=\xff", "x", NULL},
                {"zzzzzzzzzz", "zzzzzzzzzz", NULL},
                {"%zz=1", "%zz", NULL},
        };
        const char *nearest;
        char buf[80];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                bool unknown =
                        route_unknown_param(table + 4, slice_str(rows[i].query), buf, sizeof(buf), &nearest);

                if (unknown != (rows[i].unknown != NULL))
                        fail_msg("?%s: %s", rows[i].query, unknown ? buf : "passed");
                if (!unknown)
                        continue;
                assert_string_equal(buf, rows[i].unknown);
                if (rows[i].nearest)
                        assert_string_equal(nearest, rows[i].nearest);
                else
                        assert_null(nearest);
        }
        assert_true(route_unknown_param(table + 2, SLICE("a=1"), buf, sizeof(buf), &nearest));
        assert_false(route_unknown_param(table + 1, SLICE("a=1"), buf, sizeof(buf), &nearest));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(paths_are_exact),       cmocka_unit_test(names_are_bounded),
                cmocka_unit_test(the_rest_of_a_path),    cmocka_unit_test(methods_and_allow),
                cmocka_unit_test(did_you_mean),          cmocka_unit_test(orders_may_need_more),
                cmocka_unit_test(query_names_are_known),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
