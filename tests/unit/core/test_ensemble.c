/* test_ensemble.c: who wins, when that is certain, and what is told of it. */
#include "core/ensemble.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Answers in the order in which they come: "text", NULL for a failure. */
struct row {
        enum ensemble_combine combine;
        unsigned n;
        double weights[4];
        const char *answers[5];
        int members[5]; /* who says it; the tokens are ten times the index, from tokens[] */
        int64_t tokens[5];
        unsigned count;
        int winner;       /* member, -1: none */
        unsigned decided; /* after so many, 0: never before all */
};

static void who_wins(void **state)
{
        static const struct row rows[] = {
                {ENSEMBLE_VOTE, 3, {0}, {"a", "b", "b"}, {0, 1, 2}, {0}, 3, 1, 3},
                {ENSEMBLE_VOTE, 3, {0}, {"b", "b"}, {2, 1}, {0}, 2, 2, 2},
                /* A tie goes to who came first. */
                {ENSEMBLE_VOTE, 2, {0}, {"b", "a"}, {1, 0}, {0}, 2, 1, 1},
                {ENSEMBLE_VOTE, 4, {0}, {"a", "b", "b", "a"}, {3, 0, 1, 2}, {0}, 4, 3, 4},
                {ENSEMBLE_VOTE, 4, {0}, {"a", "b", "a"}, {3, 0, 1}, {0}, 3, 3, 3},
                {ENSEMBLE_VOTE, 3, {0}, {"Yes.", "no", " yes \n"}, {0, 1, 2}, {0}, 3, 0, 3},
                {ENSEMBLE_VOTE, 3, {0}, {NULL, "a", NULL}, {0, 1, 2}, {0}, 3, 1, 2},
                {ENSEMBLE_VOTE, 2, {0}, {NULL, NULL}, {0, 1}, {0}, 2, -1, 2},
                {ENSEMBLE_VOTE, 1, {0}, {"a"}, {0}, {0}, 1, 0, 1},
                /* Weights do not count in a vote. */
                {ENSEMBLE_VOTE, 3, {9, 1, 1}, {"a", "b", "b"}, {0, 1, 2}, {0}, 3, 1, 3},
                {ENSEMBLE_WEIGHTED, 3, {3, 1, 1}, {"b", "b", "a"}, {1, 2, 0}, {0}, 3, 0, 3},
                {ENSEMBLE_WEIGHTED, 3, {3, 1, 1}, {"a"}, {0}, {0}, 1, 0, 1},
                {ENSEMBLE_WEIGHTED, 3, {0.1, 0.2, 0.3}, {"b", "a", "a"}, {2, 0, 1}, {0}, 3, 2, 1},
                {ENSEMBLE_LONGEST, 3, {0}, {"aa", "b", "c"}, {0, 1, 2}, {5, 7, 7}, 3, 1, 3},
                {ENSEMBLE_LONGEST, 3, {0}, {"aa", NULL, "c"}, {0, 1, 2}, {5, 0, 4}, 3, 0, 3},
                {ENSEMBLE_FIRST, 3, {0}, {NULL, "b"}, {0, 2}, {0}, 2, 2, 2},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const struct row *row = rows + i;
                const struct ensemble_answer *won;
                struct ensemble e;
                unsigned decided = 0;

                ensemble_init(&e, row->combine, row->n, row->weights[0] > 0 ? row->weights : NULL);
                assert_false(ensemble_is_decided(&e));
                for (unsigned k = 0; k < row->count; k++) {
                        if (row->answers[k])
                                assert_int_equal(ensemble_add(&e, (unsigned)row->members[k], row->answers[k],
                                                              row->tokens[k]),
                                                 0);
                        else
                                ensemble_fail(&e, (unsigned)row->members[k]);
                        if (!decided && ensemble_is_decided(&e))
                                decided = k + 1;
                }
                won = ensemble_winner(&e);
                if ((won ? (int)won->member : -1) != row->winner)
                        fail_msg("row %zu: %d wins, not %d", i, won ? (int)won->member : -1, row->winner);
                if (decided != row->decided)
                        fail_msg("row %zu: decided after %u, not %u", i, decided, row->decided);
                ensemble_finish(&e);
        }
}

/* What "decided" says stays true, whatever comes: all sequences of up to four answers out of two texts and failure. */
static void decided_is_final(void **state)
{
        static const char *const texts[] = {"a", "b", "c", NULL};

        (void)state;
        for (unsigned code = 0; code < 256; code++) {
                static const double weights[] = {2, 1, 1, 3};

                for (unsigned combine = 0; combine < ENSEMBLE_COMBINES; combine++) {
                        struct ensemble e;
                        int certain = -2;

                        ensemble_init(&e, combine, 4, weights);
                        for (unsigned k = 0; k < 4; k++) {
                                const char *text = texts[code >> 2 * k & 3];

                                if (text)
                                        assert_int_equal(ensemble_add(&e, k, text, 1), 0);
                                else
                                        ensemble_fail(&e, k);
                                if (certain == -2 && ensemble_is_decided(&e))
                                        certain = ensemble_winner(&e) ? (int)ensemble_winner(&e)->member : -1;
                        }
                        assert_true(ensemble_is_decided(&e));
                        assert_int_equal(certain,
                                         ensemble_winner(&e) ? (int)ensemble_winner(&e)->member : -1);
                        ensemble_finish(&e);
                }
        }
}

static void votes_are_told(void **state)
{
        _cleanup_buffer_ struct buffer b = {0};
        struct json_writer w;
        struct ensemble e;

        (void)state;
        ensemble_init(&e, ENSEMBLE_VOTE, 4, NULL);
        assert_int_equal(ensemble_add(&e, 2, "No \"x\"", 1), 0);
        assert_int_equal(ensemble_add(&e, 0, " Yes!", 1), 0);
        ensemble_fail(&e, 1);
        assert_int_equal(ensemble_add(&e, 3, "yes", 1), 0);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        ensemble_put_votes(&e, &w);
        assert_int_equal(json_check(b.data, b.len, NULL), 0);
        assert_string_equal(b.data,
                            "[{\"text\":\" Yes!\",\"votes\":2,\"weight\":2.000,\"members\":[0,3]},"
                            "{\"text\":\"No \\\"x\\\"\",\"votes\":1,\"weight\":1.000,\"members\":[2]}]");
        ensemble_finish(&e);
}

/* Replicas of one model may weigh differently, and which of them answers shows late. */
static void weights_are_known_when_it_answers(void **state)
{
        static const double most[] = {3, 3, 3};
        struct ensemble e;

        (void)state;
        ensemble_init(&e, ENSEMBLE_WEIGHTED, 3, most);
        ensemble_weigh(&e, 1, 3);
        assert_int_equal(ensemble_add(&e, 1, "yes", 1), 0);
        ensemble_weigh(&e, 0, 1);
        assert_int_equal(ensemble_add(&e, 0, "no", 1), 0);
        assert_false(ensemble_is_decided(&e)); /* the last one may weigh 3, too */
        ensemble_weigh(&e, 2, 1);
        assert_int_equal(ensemble_add(&e, 2, "no", 1), 0);
        assert_int_equal(ensemble_winner(&e)->member, 1);
        ensemble_finish(&e);
        ensemble_init(&e, ENSEMBLE_VOTE, 3, NULL);
        ensemble_weigh(&e, 0, 0.1); /* a vote is a vote */
        assert_int_equal(ensemble_add(&e, 0, "yes", 1), 0);
        ensemble_weigh(&e, 1, 0.1);
        assert_int_equal(ensemble_add(&e, 1, "yes", 1), 0);
        assert_true(ensemble_is_decided(&e));
        ensemble_finish(&e);
}

static void words(void **state)
{
        enum ensemble_combine c;

        (void)state;
        for (unsigned i = 0; i < ENSEMBLE_COMBINES; i++) {
                assert_int_equal(ensemble_combine_parse(ensemble_combine_name(i), &c), 0);
                assert_int_equal(c, i);
        }
        assert_int_equal(ensemble_combine_parse("majority", &c), -EINVAL);
        assert_int_equal(ensemble_combine_parse("", &c), -EINVAL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(who_wins),       cmocka_unit_test(decided_is_final),
                cmocka_unit_test(votes_are_told), cmocka_unit_test(weights_are_known_when_it_answers),
                cmocka_unit_test(words),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
