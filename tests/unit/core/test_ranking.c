/* test_ranking.c: the treap against a plain sorted array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/ranking.h"

enum { N = 400, ROUNDS = 20000 };

static bool is_before(const struct ranking_node *a, const struct ranking_node *b)
{
        return a->key != b->key ? a->key < b->key : a->seq < b->seq;
}

static unsigned depth_of(const struct ranking_node *node)
{
        unsigned left, right;

        if (!node)
                return 0;
        left = depth_of(node->child[0]);
        right = depth_of(node->child[1]);
        return MAX(left, right) + 1;
}

/* Every so often the whole is walked: order, places, size. */
static void check_whole(const struct ranking *r, size_t n)
{
        const struct ranking_node *last = NULL;
        size_t place = 0;

        assert_int_equal(ranking_count(r), n);
        for (const struct ranking_node *node = ranking_first(r); node; node = ranking_next(node)) {
                assert_int_equal(ranking_place(node), place++);
                assert_true(!last || is_before(last, node));
                last = node;
        }
        assert_int_equal(place, n);
        assert_ptr_equal(ranking_last(r), last);
}

static void it_agrees_with_a_plain_walk(void **state)
{
        static struct ranking_node nodes[N];
        struct ranking r = {.random = 7};
        uint32_t x = 12345;
        size_t n = 0;

        (void)state;
        for (unsigned i = 0; i < ROUNDS; i++) {
                struct ranking_node *node;

                x = x * 1664525 + 1013904223;
                node = &nodes[(x >> 8) % N];
                if (ranking_has(node)) {
                        ranking_take(&r, node);
                        n--;
                } else {
                        ranking_put(&r, node, (x >> 4) % 50, i);
                        n++;
                }
                if (i % 500 == 0)
                        check_whole(&r, n);
        }
        check_whole(&r, n);
        for (unsigned i = 0; i < N; i++)
                ranking_take(&r, &nodes[i]); /* those that are in none too */
        assert_null(ranking_first(&r));
        assert_null(ranking_last(&r));
}

/* Sorted arrival would make a plain tree a list of 100,000. */
static void sorted_arrival_stays_flat(void **state)
{
        static struct ranking_node nodes[100000];
        struct ranking r = {0};

        (void)state;
        for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++)
                ranking_put(&r, &nodes[i], i, 0);
        assert_true(depth_of(r.root) < 64);
        assert_int_equal(ranking_place(&nodes[99999]), 99999);
        assert_int_equal(ranking_place(&nodes[50000]), 50000);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(it_agrees_with_a_plain_walk),
                cmocka_unit_test(sorted_arrival_stays_flat),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
