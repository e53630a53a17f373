/* test_activity.c: records, their ring, their JSON, and what they add up to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "fleet/activity.h"

static struct json_value *put(const struct activity *a, usec_t now, unsigned recent_max)
{
        struct json_value *root = NULL;
        struct json_writer w;
        struct buffer b;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        activity_put(a, &w, now, recent_max);
        assert_false(b.failed);
        assert_int_equal(json_parse(b.data, b.len, &root, NULL), 0);
        buffer_finish(&b);
        return root;
}

static void test_life_of_a_record(void **state)
{
        struct activity *a;
        struct activity_record *rec;
        struct activity_figures f;
        struct json_value *root, *one;

        (void)state;
        assert_int_equal(activity_new(&a), 0);
        assert_int_equal(activity_figures(a, "qwen", &f), -ENOENT);
        rec = activity_begin(a, "qwen", 1000000, 1790000000250000);
        assert_non_null(rec);
        rec->source = "http";
        (void)snprintf(rec->path, sizeof(rec->path), "/v1/chat/completions");

        root = put(a, 3000000, 10);
        one = json_at(json_get(root, "running"), 0);
        assert_string_equal(json_get_string(one, "id"), "req-000000000001");
        assert_string_equal(json_get_string(one, "state"), "waiting");
        assert_string_equal(json_get_string(one, "at"), "2026-09-21T14:13:20.250Z");
        assert_true(json_is_null(json_get(one, "instance")));
        assert_true(json_is_null(json_get(one, "outcome")));
        assert_true(json_is_null(json_get(one, "status")));
        assert_true(json_is_null(json_get(one, "tokensIn")));
        assert_true(json_is_null(json_get(one, "tokensPerSecond")));
        assert_true(json_is_null(json_get(one, "timeToFirstToken")));
        assert_true(json_get_double(one, "wait", 0) == 2);
        assert_true(json_get_double(one, "duration", 0) == 2);
        assert_int_equal(json_count(json_get(root, "recent")), 0);
        json_free(root);
        assert_int_equal(activity_figures(a, "qwen", &f), 0);
        assert_int_equal(f.running, 1);

        (void)snprintf(rec->instance, sizeof(rec->instance), "qwen-0");
        rec->state = "running";
        rec->granted = 1500000;
        rec->first_byte = 1700000;
        rec->tokens_in = 7;
        rec->tokens_out = 32;
        rec->tokens_per_second = 41.26;
        rec->status = 200;
        rec->tries = 2;
        activity_end(a, rec, "ok", 5000000);
        root = put(a, 9000000, 10);
        assert_int_equal(json_count(json_get(root, "running")), 0);
        one = json_at(json_get(root, "recent"), 0);
        assert_string_equal(json_get_string(one, "state"), "ended");
        assert_string_equal(json_get_string(one, "outcome"), "ok");
        assert_true(json_get_double(one, "wait", 0) == 0.5);
        assert_true(json_get_double(one, "timeToFirstToken", 0) == 0.7);
        assert_true(json_get_double(one, "duration", 0) == 4);
        assert_int_equal(json_get_int(one, "tokensIn", 0), 7);
        assert_int_equal(json_get_int(one, "tokensOut", 0), 32);
        assert_int_equal(json_get_int(one, "tries", 0), 2);
        json_free(root);

        assert_int_equal(activity_figures(a, "qwen", &f), 0);
        assert_int_equal(f.running, 0);
        assert_int_equal(f.tokens_in, 7);
        assert_int_equal(f.tokens_out, 32);
        assert_int_equal(f.first_byte[7], 1); /* 0.5 < 0.7 ≤ 1 */
        assert_int_equal(f.duration[ACTIVITY_OK][9], 1);
        assert_true(f.duration_sum[ACTIVITY_OK] == 4);
        assert_string_equal(f.outcomes[0].outcome, "ok");
        assert_int_equal(f.outcomes[0].count, 1);
        assert_null(f.outcomes[1].outcome);
        assert_string_equal(activity_model_at(a, 0), "qwen");
        assert_null(activity_model_at(a, 1));
        activity_free(a);
}

static void end_one(struct activity *a, const char *model, const char *outcome, usec_t span)
{
        activity_end(a, activity_begin(a, model, 1, 1), outcome, 1 + span);
}

/* Entries and outcomes are kept apart, and the sum holds them all. */
static void test_figures(void **state)
{
        struct activity_record *rec;
        struct activity_figures f;
        struct activity *a;

        (void)state;
        assert_int_equal(activity_new(&a), 0);
        end_one(a, "b", "ok", 5000);               /* on the bound */
        end_one(a, "b", "queue_full", 5001);       /* just over it */
        end_one(a, "a", "client_gone", 400000000); /* over all */
        end_one(a, "a", "cancelled", 0);
        end_one(a, "c", "queue_full", 0);
        assert_int_equal(activity_figures(a, "b", &f), 0);
        assert_int_equal(f.duration[ACTIVITY_OK][0], 1);
        assert_int_equal(f.duration[ACTIVITY_FAILED][1], 1);
        assert_int_equal(activity_figures(a, "a", &f), 0);
        assert_int_equal(f.duration[ACTIVITY_CANCELLED][ACTIVITY_BUCKETS], 1);
        assert_int_equal(f.duration[ACTIVITY_CANCELLED][0], 1);
        /* A question takes no slot: it says nothing about how long answers take. */
        rec = activity_begin(a, "b", 1, 1);
        rec->question = true;
        rec->first_byte = 10;
        activity_end(a, rec, "ok", 20);
        assert_int_equal(activity_figures(a, "b", &f), 0);
        assert_int_equal(f.outcomes[0].count, 2);
        assert_int_equal(f.duration[ACTIVITY_OK][0], 1);
        assert_int_equal(f.first_byte[0], 0);
        assert_int_equal(activity_figures(a, NULL, &f), 0);
        assert_int_equal(f.running, 0);
        assert_string_equal(f.outcomes[1].outcome, "queue_full");
        assert_int_equal(f.outcomes[1].count, 2);
        for (size_t i = 0; i < 3; i++)
                assert_int_equal(activity_model_at(a, i)[0], "abc"[i]);
        activity_free(a);
}

static void test_bounds(void **state)
{
        struct activity_figures f;
        struct activity *a;
        struct json_value *root;
        char name[200];

        (void)state;
        assert_int_equal(activity_new(&a), 0);
        for (unsigned i = 1; i <= ACTIVITY_RECENT_MAX + 10; i++)
                end_one(a, "m", "ok", 0);
        root = put(a, 10, UINT32_MAX);
        assert_int_equal(json_count(json_get(root, "recent")), ACTIVITY_RECENT_MAX);
        /* The newest first. */
        assert_string_equal(json_get_string(json_at(json_get(root, "recent"), 0), "id"), "req-000000000510");
        json_free(root);
        root = put(a, 10, 3);
        assert_int_equal(json_count(json_get(root, "recent")), 3);
        json_free(root);
        /* More models than are kept apart, and names of any length. */
        for (unsigned i = 0; i < ACTIVITY_MODELS_MAX + 5; i++) {
                (void)snprintf(name, sizeof(name), "model-%u", i);
                end_one(a, name, "ok", 0);
        }
        memset(name, 'x', sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        end_one(a, name, "ok", 0);
        assert_int_equal(activity_figures(a, NULL, &f), 0);
        assert_int_equal(f.outcomes[0].count, ACTIVITY_RECENT_MAX + 10 + ACTIVITY_MODELS_MAX + 5 + 1);
        assert_int_equal(activity_figures(a, "model-5", &f), 0);
        assert_int_equal(activity_figures(a, "model-2050", &f), -ENOENT);
        /* Running ones are freed too. */
        (void)activity_begin(a, "m", 1, 1);
        activity_free(a);
        assert_null(activity_free(NULL));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_life_of_a_record),
                cmocka_unit_test(test_figures),
                cmocka_unit_test(test_bounds),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
