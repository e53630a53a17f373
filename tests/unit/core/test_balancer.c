/* test_balancer.c: who gets the next one, and who is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#include "base/macros.h"
#include "core/balancer.h"
#include "core/config.h"
#include "core/ejection.h"

#define S USEC_PER_SEC

static uint64_t random_state = 42;

static struct balancer_ask ask(usec_t now)
{
        return (struct balancer_ask){.now = now, .random = &random_state};
}

static struct balancer_candidate seat(const char *name, double weight, unsigned slots)
{
        return (struct balancer_candidate){
                .id = balancer_hash(name, strlen(name)), .weight = weight, .slots = slots, .ready = true};
}

static size_t pick(const char *rule, struct balancer_candidate *c, size_t n)
{
        struct balancer_ask a = ask(1000 * S);

        return balancer_pick(balancer_find(rule), c, n, &a);
}

static void every_name_of_the_configuration_has_a_rule(void **state)
{
        (void)state;
        for (enum config_balance b = CONFIG_LEAST_LOADED; b <= CONFIG_PREFIX_AFFINITY; b++) {
                assert_non_null(balancer_find(config_balance_name(b)));
                assert_ptr_equal(balancer_find(config_balance_name(b)), balancer_rules[b]);
        }
        assert_null(balancer_find("fastest"));
}

static void the_least_loaded_has_most_room(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 4), seat("b", 1, 4), seat("c", 2, 4)};

        (void)state;
        /* A piece more is a quarter of a and of b, an eighth of c; with three leased it is half of c. */
        assert_int_equal(pick("least-loaded", c, 3), 2);
        c[2].leased = 3;
        assert_int_not_equal(pick("least-loaded", c, 3), 2);
        c[0].leased = 1;
        assert_int_equal(pick("least-loaded", c, 3), 1);
        c[1].others = 2; /* busy with what came past us */
        c[2].others = 2;
        assert_int_equal(pick("least-loaded", c, 3), 0);
        c[0].leased = c[1].leased = c[2].leased = 4;
        assert_int_equal(pick("least-loaded", c, 3), BALANCER_NONE);
}

/* Weights are shares of the work also while it lasts: `running` pieces at a time, each ends some time. */
static unsigned share_under_load(const char *rule, unsigned running, unsigned slots)
{
        struct balancer_candidate c[] = {seat("a", 3, slots), seat("b", 1, slots)};
        size_t where[64];
        unsigned first = 0;

        for (unsigned i = 0; i < 8000 + running; i++) {
                struct balancer_ask a = ask(1000 * S);
                unsigned place = i;

                if (i >= running) {
                        random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407U;
                        place = (unsigned)(random_state >> 40) % running;
                        c[where[place]].leased--;
                }
                a.affinity = balancer_hash(&i, sizeof i);
                where[place] = balancer_pick(balancer_find(rule), c, 2, &a);
                assert_int_not_equal(where[place], BALANCER_NONE);
                c[where[place]].leased++;
                first += i >= running && where[place] == 0;
        }
        return first;
}

static void weights_are_shares_under_load(void **state)
{
        (void)state;
        for (size_t i = 0; balancer_rules[i]; i++) {
                for (unsigned running = 4; running <= 16; running += 4) {
                        unsigned got = share_under_load(balancer_rules[i]->name, running, 20);

                        if (got < 5400 || got > 6600)
                                fail_msg("%s with %u running: %u of 8000 for three quarters of the weight",
                                         balancer_rules[i]->name, running, got);
                }
                /* A full one is no reason to wait for it. */
                assert_in_range(share_under_load(balancer_rules[i]->name, 16, 8), 3900, 4100);
        }
}

/* Work that came past us makes an instance less wanted, but closes it to nobody. */
static void others_never_close_an_instance(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 2)};

        (void)state;
        c[0].others = 5;
        assert_int_equal(pick("least-loaded", c, 1), 0);
}

static void equals_share(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 4), seat("b", 1, 4), seat("c", 1, 4)};
        unsigned got[3] = {0};

        (void)state;
        for (unsigned i = 0; i < 3000; i++)
                got[pick("least-loaded", c, 3)]++;
        for (unsigned i = 0; i < 3; i++)
                assert_in_range(got[i], 800, 1200);
}

static void round_robin_is_smooth(void **state)
{
        struct balancer_candidate c[] = {seat("a", 2, 9), seat("b", 1, 9)};
        char order[7] = "";

        (void)state;
        for (unsigned i = 0; i < 6; i++)
                order[i] = "ab"[pick("round-robin", c, 2)];
        assert_string_equal(order, "abaaba");
        c[0].ready = false;
        assert_int_equal(pick("round-robin", c, 2), 1);
}

static void chance_follows_the_weights(void **state)
{
        struct balancer_candidate c[] = {seat("a", 3, 9), seat("b", 1, 9)};
        unsigned got[2] = {0};

        (void)state;
        for (unsigned i = 0; i < 8000; i++)
                got[pick("random", c, 2)]++;
        assert_in_range(got[0], 5700, 6300);
        assert_int_equal(got[0] + got[1], 8000);
}

static size_t pick_affine(struct balancer_candidate *c, size_t n, uint64_t affinity)
{
        struct balancer_ask a = ask(1000 * S);

        a.affinity = affinity;
        return balancer_pick(balancer_find("prefix-affinity"), c, n, &a);
}

static void a_conversation_meets_its_instance_again(void **state)
{
        struct balancer_candidate c[4] = {seat("a", 1, 64), seat("b", 1, 64), seat("c", 1, 64),
                                          seat("d", 1, 64)};
        size_t home[1000];
        unsigned got[4] = {0}, moved = 0;

        (void)state;
        for (unsigned i = 0; i < 1000; i++) {
                home[i] = pick_affine(c, 4, balancer_hash(&i, sizeof i));
                got[home[i]]++;
                assert_int_equal(pick_affine(c, 4, balancer_hash(&i, sizeof i)), home[i]);
        }
        for (unsigned i = 0; i < 4; i++)
                assert_in_range(got[i], 180, 320);
        /* One goes: only its conversations move. */
        c[1].ready = false;
        for (unsigned i = 0; i < 1000; i++) {
                size_t now = pick_affine(c, 4, balancer_hash(&i, sizeof i));

                assert_int_not_equal(now, 1);
                moved += now != home[i];
        }
        assert_int_equal(moved, got[1]);
}

static void affinity_is_bounded_by_load(void **state)
{
        struct balancer_candidate c[4] = {seat("a", 1, 64), seat("b", 1, 64), seat("c", 1, 64),
                                          seat("d", 1, 64)};
        unsigned most = 0, total = 0;

        (void)state;
        /* One conversation asks 100 times and never ends: nobody has more than 1.25 times the average (rounded up). */
        for (unsigned i = 0; i < 100; i++) {
                size_t at = pick_affine(c, 4, 4711);

                c[at].leased++;
                total++;
                for (unsigned k = 0; k < 4; k++)
                        most = MAX(most, c[k].leased);
                assert_true(most <= (unsigned)(1.25 * total / 4) + 1);
        }
        assert_true(most >= 31); /* but its own has all that it may have */
        /* Work without a conversation goes where there is room. */
        c[2].leased = 0;
        assert_int_equal(pick_affine(c, 4, 0), 2);
}

static void weights_move_conversations(void **state)
{
        struct balancer_candidate c[2] = {seat("a", 3, 1000), seat("b", 1, 1000)};
        unsigned got[2] = {0};

        (void)state;
        for (unsigned i = 0; i < 4000; i++)
                got[pick_affine(c, 2, balancer_hash(&i, sizeof i))]++;
        assert_in_range(got[0], 2800, 3200);
}

static void a_share_grows_after_a_load(void **state)
{
        struct balancer_candidate c[] = {seat("old", 1, 9), seat("new", 1, 9)};
        struct balancer_ask a = ask(1000 * S);

        (void)state;
        a.slow_start = 10 * S;
        c[1].ready_since = 1000 * S;
        (void)balancer_pick(balancer_find("random"), c, 2, &a);
        assert_float_equal(c[1].share, 0.1, 1e-9);
        a.now = 1005 * S;
        (void)balancer_pick(balancer_find("random"), c, 2, &a);
        assert_float_equal(c[1].share, 0.5, 1e-9);
        a.now = 1010 * S;
        (void)balancer_pick(balancer_find("random"), c, 2, &a);
        assert_float_equal(c[1].share, 1, 1e-9);
        /* Full against a tenth of an empty one: nine slots of the old one are used before the new one is asked. */
        a.now = 1000 * S;
        for (c[0].leased = 0; c[0].leased < 8; c[0].leased++)
                assert_int_equal(balancer_pick(balancer_find("least-loaded"), c, 2, &a), 0);
        c[0].leased = 9;
        assert_int_equal(balancer_pick(balancer_find("least-loaded"), c, 2, &a), 1);
}

static void the_last_one_is_never_ejected(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 2), seat("b", 1, 2), seat("c", 1, 2)};

        (void)state;
        c[0].ejected = c[1].ejected = true;
        assert_int_equal(pick("least-loaded", c, 3), 2);
        /* c is full: work waits for it, it does not go to who fails. */
        c[2].leased = 2;
        assert_int_equal(pick("least-loaded", c, 3), BALANCER_NONE);
        c[2].ready = false;
        assert_in_range(pick("least-loaded", c, 3), 0, 1);
        c[2].ready = true;
        c[2].leased = 0;
        c[2].ejected = true;
        assert_in_range(pick("least-loaded", c, 3), 0, 2);
        /* What it has tried is nobody that could be the last one. */
        c[2].ejected = false;
        c[2].tried = true;
        assert_in_range(pick("least-loaded", c, 3), 0, 1);
}

static void tried_is_out_and_avoided_is_last(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 2), seat("b", 1, 2), seat("c", 1, 2)};

        (void)state;
        c[0].tried = c[1].avoided = true;
        assert_int_equal(pick("least-loaded", c, 3), 2);
        c[2].leased = 2; /* the other one is busy: wait for it */
        assert_int_equal(pick("least-loaded", c, 3), BALANCER_NONE);
        c[2].ready = false; /* there is no other one */
        assert_int_equal(pick("least-loaded", c, 3), 1);
        c[1].tried = true;
        assert_int_equal(pick("least-loaded", c, 3), BALANCER_NONE);
        assert_int_equal(pick("least-loaded", c, 0), BALANCER_NONE);
}

static void questions_take_no_slot(void **state)
{
        struct balancer_candidate c[] = {seat("a", 1, 1), seat("b", 1, 1)};
        struct balancer_ask a = ask(1000 * S);

        (void)state;
        c[0].leased = c[1].leased = 1;
        a.no_slot = true;
        for (size_t i = 0; balancer_rules[i]; i++)
                assert_in_range(balancer_pick(balancer_rules[i], c, 2, &a), 0, 1);
        a.affinity = 99;
        assert_in_range(balancer_pick(balancer_find("prefix-affinity"), c, 2, &a), 0, 1);
}

/* --- ejection -------------------------------------------------------------------------------------------------------- */

static void failures_in_a_row_put_out(void **state)
{
        const struct ejection_policy p = {.failures = 3, .initial = 5 * S, .max = 15 * S};
        struct ejection e = {0};

        (void)state;
        assert_false(ejection_failure(&e, &p, 1 * S));
        assert_false(ejection_failure(&e, &p, 2 * S));
        ejection_success(&e, &p);
        assert_false(ejection_failure(&e, &p, 3 * S));
        assert_false(ejection_failure(&e, &p, 4 * S));
        assert_true(ejection_failure(&e, &p, 5 * S));
        assert_true(ejection_is_out(&e, 5 * S));
        assert_true(ejection_is_out(&e, 10 * S - 1));
        assert_false(ejection_is_out(&e, 10 * S));
        /* What ends meanwhile does not make it longer. */
        assert_false(ejection_failure(&e, &p, 6 * S));
        assert_false(ejection_is_out(&e, 10 * S));
        /* On trial: one more, and it is out for twice as long; then for the most. */
        assert_true(ejection_failure(&e, &p, 10 * S));
        assert_int_equal(e.until, 20 * S);
        assert_true(ejection_failure(&e, &p, 20 * S));
        assert_int_equal(e.until, 35 * S);
}

static void successes_forgive(void **state)
{
        const struct ejection_policy p = {.failures = 2, .initial = 5 * S, .max = 100 * S};
        struct ejection e = {0};

        (void)state;
        (void)ejection_failure(&e, &p, 0);
        assert_true(ejection_failure(&e, &p, 0));
        assert_true(ejection_failure(&e, &p, 5 * S));
        assert_int_equal(e.until, 15 * S);
        for (unsigned i = 0; i < 4; i++)
                ejection_success(&e, &p);
        assert_int_equal(e.times, 0);
        assert_false(ejection_failure(&e, &p, 20 * S)); /* the row begins anew */
        assert_true(ejection_failure(&e, &p, 20 * S));
        assert_int_equal(e.until, 25 * S);
}

static void no_failures_means_never(void **state)
{
        const struct ejection_policy p = {.failures = 0, .initial = S, .max = S};
        struct ejection e = {0};

        (void)state;
        for (unsigned i = 0; i < 100; i++)
                assert_false(ejection_failure(&e, &p, i));
        ejection_success(&e, &p);
        assert_false(ejection_is_out(&e, 0));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(every_name_of_the_configuration_has_a_rule),
                cmocka_unit_test(the_least_loaded_has_most_room),
                cmocka_unit_test(weights_are_shares_under_load),
                cmocka_unit_test(others_never_close_an_instance),
                cmocka_unit_test(equals_share),
                cmocka_unit_test(round_robin_is_smooth),
                cmocka_unit_test(chance_follows_the_weights),
                cmocka_unit_test(a_conversation_meets_its_instance_again),
                cmocka_unit_test(affinity_is_bounded_by_load),
                cmocka_unit_test(weights_move_conversations),
                cmocka_unit_test(a_share_grows_after_a_load),
                cmocka_unit_test(the_last_one_is_never_ejected),
                cmocka_unit_test(tried_is_out_and_avoided_is_last),
                cmocka_unit_test(questions_take_no_slot),
                cmocka_unit_test(failures_in_a_row_put_out),
                cmocka_unit_test(successes_forgive),
                cmocka_unit_test(no_failures_means_never),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
