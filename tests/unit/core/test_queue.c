/* test_queue.c: turns, shares, places, deadlines and shedding; the clock is a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/macros.h"
#include "core/queue.h"

#define S USEC_PER_SEC

enum { HIGH, NORMAL, LOW };

struct waiter {
        struct queue_item item;
        char key;
        unsigned n;
};

static struct waiter waiters[6000];
static size_t n_waiters;
static struct queue queue;

static int set_up(void **state)
{
        (void)state;
        memset(waiters, 0, sizeof waiters);
        n_waiters = 0;
        queue_init(&queue, 1);
        return 0;
}

static int tear_down(void **state)
{
        (void)state;
        queue_finish(&queue);
        return 0;
}

static struct waiter *of(struct queue_item *item)
{
        return item ? CONTAINER_OF(item, struct waiter, item) : NULL;
}

static struct waiter *comes_as(unsigned class, char key, bool front, usec_t now)
{
        struct waiter *w = &waiters[n_waiters++];
        char name[2] = {key, '\0'};

        w->key = key;
        assert_int_equal(queue_put(&queue, &w->item, class, name, front, now + 60 * S, 6000, now), 0);
        return w;
}

static struct waiter *comes(unsigned class, char key)
{
        return comes_as(class, key, false, 0);
}

static char served(usec_t now)
{
        struct waiter *w = of(queue_first(&queue));

        assert_non_null(w);
        queue_serve(&queue, &w->item, now);
        assert_false(queue_waits(&w->item));
        return w->key;
}

static void serve_all(char *order)
{
        while (queue.count > 0)
                *order++ = served(0);
        *order = '\0';
}

static void first_come_first_served(void **state)
{
        struct waiter *a, *b;

        (void)state;
        a = comes(NORMAL, 'a');
        b = comes(NORMAL, 'a');
        assert_ptr_equal(of(queue_first(&queue)), a);
        queue_serve(&queue, &a->item, 0);
        assert_ptr_equal(of(queue_first(&queue)), b);
        queue_drop(&queue, &b->item);
        assert_null(queue_first(&queue));
        queue_drop(&queue, &b->item); /* harmless */
        assert_int_equal(queue.count, 0);
}

static void keys_take_turns(void **state)
{
        char order[32];

        (void)state;
        for (unsigned i = 0; i < 6; i++)
                comes(NORMAL, 'a');
        comes(NORMAL, 'b');
        comes(NORMAL, 'b');
        comes(NORMAL, 'c');
        serve_all(order);
        assert_string_equal(order, "abcabaaaa");
}

/* A key that comes late waits for one round, not behind everything that another one has sent. */
static void who_comes_late_is_in_this_round(void **state)
{
        char order[64];
        unsigned b = 0;

        (void)state;
        for (unsigned i = 0; i < 20; i++)
                comes(NORMAL, 'a');
        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(served(0), 'a');
        comes(NORMAL, 'b');
        (void)served(0);
        comes(NORMAL, 'b'); /* and one that always asks again when it was served gets every other turn */
        serve_all(order);
        for (unsigned i = 0; i < 4; i++)
                b += order[i] == 'b';
        assert_int_equal(b, 2);
}

/* A key that cancels all that it has sent has not used up its turns. */
static void who_cancels_keeps_its_turn(void **state)
{
        struct waiter *gone[50];
        char order[64];

        (void)state;
        for (unsigned i = 0; i < 10; i++)
                comes(NORMAL, 'a');
        comes(NORMAL, 'b');
        for (unsigned i = 0; i < 50; i++)
                gone[i] = comes(NORMAL, 'b');
        for (unsigned i = 50; i-- > 0;)
                queue_drop(&queue, &gone[i]->item);
        comes(NORMAL, 'b');
        serve_all(order);
        assert_string_equal(order, "ababaaaaaaaa");
}

static void classes_go_first_but_nobody_starves(void **state)
{
        char order[256];
        unsigned lower = 0, low = 0;

        (void)state;
        for (unsigned i = 0; i < 100; i++)
                comes(HIGH, 'h');
        for (unsigned i = 0; i < 40; i++)
                comes(NORMAL, 'n');
        for (unsigned i = 0; i < 40; i++)
                comes(LOW, 'l');
        for (unsigned i = 0; i < 81; i++) {
                order[i] = served(0);
                lower += order[i] != 'h';
                low += order[i] == 'l';
        }
        assert_memory_equal(order, "hhhhhhhhnhhhhhhhhn", 18);
        assert_int_equal(lower, 9); /* one in nine */
        assert_int_equal(low, 1);   /* and one in nine of those */
        serve_all(order);
        assert_int_equal(queue.count, 0);
}

static void retries_stand_in_front_of_their_class(void **state)
{
        char order[32];

        (void)state;
        comes(NORMAL, 'a');
        comes(NORMAL, 'b');
        comes_as(NORMAL, 'x', true, 0);
        comes_as(NORMAL, 'y', true, 0);
        comes(HIGH, 'h');
        serve_all(order);
        assert_string_equal(order, "hxyab");
}

static void the_bound_is_kept_and_retries_are_not_counted(void **state)
{
        struct waiter w = {0};

        (void)state;
        comes(NORMAL, 'a');
        comes_as(NORMAL, 'a', true, 0);
        assert_int_equal(queue_put(&queue, &w.item, NORMAL, "a", false, S, 1, 0), -ENOSPC);
        assert_false(queue_waits(&w.item));
        assert_int_equal(queue_put(&queue, &w.item, NORMAL, "a", true, S, 1, 0), 0);
        assert_int_equal(queue.count, 3);
}

/* Whatever waits: the position told is the place at which it is served. */
static void a_position_is_the_truth(void **state)
{
        uint32_t x = 99;

        (void)state;
        for (unsigned round = 0; round < 60; round++) {
                unsigned positions[64];
                size_t first = n_waiters;

                n_waiters = first = 0;
                memset(waiters, 0, sizeof *waiters * 64);
                for (unsigned i = 0; i < 64; i++) {
                        x = x * 1664525 + 1013904223;
                        comes_as((x >> 8) % 3, (char)('a' + (x >> 16) % 5), (x >> 24) % 10 == 0, 0);
                }
                /* Some are served first, so that the shares are somewhere in the middle. */
                for (unsigned i = 0; i < round % 23; i++)
                        (void)served(0);
                for (unsigned i = 0; i < 64; i++)
                        positions[i] =
                                queue_waits(&waiters[i].item) ? queue_position(&queue, &waiters[i].item) : 0;
                for (unsigned at = 1; queue.count > 0; at++) {
                        struct waiter *w = of(queue_first(&queue));

                        assert_int_equal(positions[w - waiters], at);
                        queue_serve(&queue, &w->item, 0);
                }
        }
}

static void a_look_ahead_sees_everybody(void **state)
{
        unsigned n = 0;

        (void)state;
        for (unsigned i = 0; i < 30; i++)
                comes(i % 3, (char)('a' + i % 4));
        for (struct queue_item *item = queue_first(&queue); item; item = queue_after(&queue, item))
                n++;
        assert_int_equal(n, 30);
        /* One from the middle may be served before the others. */
        queue_serve(&queue, queue_after(&queue, queue_after(&queue, queue_first(&queue))), 0);
        assert_int_equal(queue.count, 29);
}

static void deadlines_end_waits(void **state)
{
        struct waiter *a, *b;

        (void)state;
        assert_int_equal(queue_due(&queue), USEC_INFINITY);
        a = comes_as(LOW, 'a', false, 10 * S);
        b = comes_as(HIGH, 'b', false, 5 * S);
        assert_int_equal(queue_due(&queue), 65 * S);
        assert_null(queue_expired(&queue, 65 * S - 1));
        assert_ptr_equal(of(queue_expired(&queue, 65 * S)), b);
        queue_drop(&queue, &b->item);
        assert_null(queue_expired(&queue, 65 * S));
        assert_ptr_equal(of(queue_expired(&queue, 100 * S)), a);
}

static void an_estimate_follows_the_pace(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 40; i++)
                comes(NORMAL, 'a');
        assert_int_equal(queue_estimate(&queue, 5, 0), 0); /* nobody was served yet */
        for (unsigned i = 1; i <= 20; i++)
                (void)served(i * 2 * S);
        assert_in_range(queue_estimate(&queue, 5, 41 * S), 10 * S - S / 10, 10 * S + S / 10);
        /* It has stood still for longer than it ever did. */
        assert_in_range(queue_estimate(&queue, 5, 60 * S), 100 * S, 101 * S);
        while (queue.count > 0)
                (void)served(60 * S);
        /* Empty for an hour: that was no gap between two who waited. */
        comes_as(NORMAL, 'a', false, 3600 * S);
        comes_as(NORMAL, 'a', false, 3600 * S);
        (void)served(3600 * S);
        assert_true(queue_estimate(&queue, 1, 3600 * S) < 10 * S);
}

/* --- shedding --------------------------------------------------------------------------------------------------------- */

static const struct queue_shedding codel = {.target = 2 * S, .interval = 10 * S};

static unsigned shed_until(usec_t from, usec_t until, char *keys)
{
        unsigned n = 0;

        for (usec_t now = from; now <= until; now += S / 10)
                for (struct queue_item *item = queue_shed(&queue, &codel, now); item;
                     item = queue_shed(&queue, &codel, now)) {
                        if (keys)
                                keys[n] = of(item)->key;
                        queue_drop(&queue, item);
                        n++;
                }
        return n;
}

static void a_line_that_stands_is_shed_at_a_growing_pace(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 1000; i++)
                comes(NORMAL, 'a');
        assert_int_equal(queue_shed_due(&queue, &codel), 2 * S);
        assert_int_equal(shed_until(0, 11 * S, NULL), 0); /* over the target from 2 s on: bad after 12 s */
        assert_int_equal(queue_shed_due(&queue, &codel), 12 * S);
        assert_int_equal(shed_until(12 * S, 12 * S, NULL), 1);
        assert_int_equal(queue_shed_due(&queue, &codel), 22 * S);
        assert_int_equal(shed_until(12 * S, 22 * S, NULL), 1);
        assert_int_equal(queue_shed_due(&queue, &codel), 22 * S + (usec_t)(10 * S / 1.41421356237));
        /* 10/√2 + 10/√3 + 10/√4 … : five more within 30 s. */
        assert_in_range(shed_until(22 * S, 52 * S, NULL), 4, 7);
}

static void a_burst_is_not_shed(void **state)
{
        (void)state;
        /* 50 at once, two a second: the last waits 25 s, but its key's oldest moves on… */
        for (unsigned i = 0; i < 4; i++)
                comes(NORMAL, 'a');
        for (unsigned i = 1; i < 4; i++) {
                (void)served(i * S);
                assert_int_equal(shed_until(i * S, i * S + S / 2, NULL), 0);
        }
        assert_int_equal(shed_until(4 * S, 100 * S, NULL), 0); /* one alone is never shed */
        assert_int_equal(queue.count, 1);
}

static void a_wait_below_the_target_ends_it(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 10; i++)
                comes(NORMAL, 'a');
        assert_true(shed_until(0, 13 * S, NULL) > 0);
        while (queue.count > 0)
                (void)served(13 * S);
        for (unsigned i = 0; i < 10; i++)
                comes_as(NORMAL, 'a', false, 14 * S);
        assert_int_equal(shed_until(14 * S, 25 * S, NULL), 0); /* a whole interval again */
        assert_int_equal(queue.shed.since, 0);
        assert_true(shed_until(25 * S, 27 * S, NULL) > 0);
        queue_calm(&queue);
        assert_int_equal(shed_until(27 * S, 30 * S, NULL), 0);
}

static void who_floods_pays(void **state)
{
        char keys[16] = "";

        (void)state;
        for (unsigned i = 0; i < 20; i++)
                comes(NORMAL, 'f');
        for (unsigned i = 0; i < 3; i++)
                comes(NORMAL, 'm');
        comes(HIGH, 'h');
        assert_in_range(shed_until(0, 40 * S, keys), 3, 8);
        for (char *k = keys; *k; k++)
                assert_int_equal(*k, 'f');
        /* …and with its newest one. */
        assert_false(queue_waits(&waiters[19].item));
        assert_true(queue_waits(&waiters[0].item));
        comes_as(LOW, 'l', false, 0); /* the lowest class goes first */
        assert_int_equal(of(queue_shed(&queue, &codel, 60 * S))->key, 'l');
}

/* Others that are served at once do not hide that one key's line stands. */
static void a_young_head_hides_nothing(void **state)
{
        unsigned n = 0;

        (void)state;
        for (unsigned i = 0; i < 100; i++)
                comes(LOW, 'a');
        for (usec_t now = 0; now < 30 * S; now += S) {
                (void)comes_as(HIGH, 'h', false, now);
                n += shed_until(now, now, NULL);
                (void)served(now);
        }
        assert_true(n > 1);
}

static void a_loop_that_stood_still_sheds_no_crowd(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 1000; i++)
                comes(NORMAL, 'a');
        assert_true(shed_until(0, 20 * S, NULL) > 0);
        assert_in_range(shed_until(4000 * S, 4000 * S, NULL), 1, 4);
}

static void without_a_target_nobody_is_shed(void **state)
{
        const struct queue_shedding never = {.interval = S};

        (void)state;
        for (unsigned i = 0; i < 10; i++)
                comes(NORMAL, 'a');
        assert_null(queue_shed(&queue, &never, 1000 * S));
        assert_int_equal(queue_shed_due(&queue, &never), USEC_INFINITY);
}

/* 5,000 with as many keys come, look, and go. */
static void many_are_cheap(void **state)
{
        (void)state;
        for (unsigned i = 0; i < 5000; i++) {
                struct waiter *w = &waiters[n_waiters++];
                char key[16];

                (void)snprintf(key, sizeof key, "k%u", i % 2500);
                assert_int_equal(queue_put(&queue, &w->item, i % 3, key, false, S, 5000, 0), 0);
        }
        assert_int_equal(queue_put(&queue, &waiters[5000].item, 0, "k", false, S, 5000, 0), -ENOSPC);
        for (unsigned i = 0; i < 5000; i++)
                assert_in_range(queue_position(&queue, &waiters[i].item), 1, 5000);
        for (unsigned i = 0; i < 5000; i++)
                (void)served(0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
        const struct CMUnitTest tests[] = {
                TEST(first_come_first_served),
                TEST(keys_take_turns),
                TEST(who_comes_late_is_in_this_round),
                TEST(who_cancels_keeps_its_turn),
                TEST(classes_go_first_but_nobody_starves),
                TEST(retries_stand_in_front_of_their_class),
                TEST(the_bound_is_kept_and_retries_are_not_counted),
                TEST(a_position_is_the_truth),
                TEST(a_look_ahead_sees_everybody),
                TEST(deadlines_end_waits),
                TEST(an_estimate_follows_the_pace),
                TEST(a_line_that_stands_is_shed_at_a_growing_pace),
                TEST(a_burst_is_not_shed),
                TEST(a_wait_below_the_target_ends_it),
                TEST(who_floods_pays),
                TEST(a_young_head_hides_nothing),
                TEST(a_loop_that_stood_still_sheds_no_crowd),
                TEST(without_a_target_nobody_is_shed),
                TEST(many_are_cheap),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
