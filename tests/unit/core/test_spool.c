/* test_spool.c: names of the spool folder read from their ends, keys of bad ones, and the verdict over names alone. */
#include "core/spool.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"

static void names_that_are_good_and_bad(void **state)
{
        static const char *const good[] = {"a",    "a.1",    "1790_a", "a b", "ü",
                                           "日本", "a.json", "-",      "a~",  "a.free"};
        static const char *const bad[] = {"",      ".a",   "~a",   "a/b",      "a\nb",
                                          "a\x7f", "\xff", "\xc3", "\xc2\x85", "a\x1b[1m"};
        char long_name[200], key[SPOOL_NAME_SIZE];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
                assert_null(spool_name_fault(good[i]));
                assert_string_equal(spool_key(good[i], key), good[i]);
        }
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                assert_non_null(spool_name_fault(bad[i]));
                assert_null(spool_name_fault(spool_key(bad[i], key)));
        }
        memset(long_name, 'x', sizeof(long_name));
        long_name[151] = '\0';
        assert_non_null(strstr(spool_name_fault(long_name), "150 bytes"));
        assert_null(spool_name_fault(spool_key(long_name, key)));
        long_name[150] = '\0';
        assert_null(spool_name_fault(long_name));
}

static void keys_of_two_bad_names_differ(void **state)
{
        char a[SPOOL_NAME_SIZE], b[SPOOL_NAME_SIZE];

        (void)state;
        assert_string_not_equal(spool_key("x\001", a), spool_key("x\002", b));
        assert_int_equal(strncmp(a, "x_~", 3), 0);
}

static void every_file_says_what_it_is(void **state)
{
        static const char *const names[] = {"a",        "a.1",      "5_a", "a.2.final", "a.free",
                                            "a.1.free", "a.1.dead", "x y", "a.json"};
        char file[SPOOL_FILE_SIZE], name[SPOOL_NAME_SIZE], job[SPOOL_FILE_SIZE];
        enum spool_claim read;
        int64_t epoch;
        unsigned attempt;
        bool flag;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                const char *n = names[i];

                assert_true(spool_read_job(spool_job_file(n, file), job));
                assert_string_equal(job, n);
                for (enum spool_claim which = SPOOL_CLAIMED; which <= SPOOL_DIED; which++) {
                        attempt = 0;
                        assert_true(spool_read_claim(spool_claim_file(n, 12, which, file), name, &attempt,
                                                     &read));
                        assert_string_equal(name, n);
                        assert_int_equal(attempt, 12);
                        assert_int_equal(read, which);
                }
                assert_true(spool_read_retry(spool_claim_file(n, 7, SPOOL_CLAIMED, file), name, &attempt));
                assert_string_equal(name, n);
                assert_int_equal(attempt, 7);
                assert_true(spool_read_result(spool_result_file(n, 1790000000, file), name, &epoch));
                assert_string_equal(name, n);
                assert_int_equal(epoch, 1790000000);
                for (int final = 0; final < 2; final++) {
                        assert_true(spool_read_failure(spool_failure_file(n, 17, 3, final, file), name,
                                                       &epoch, &attempt, &flag));
                        assert_string_equal(name, n);
                        assert_int_equal(epoch, 17);
                        assert_int_equal(attempt, 3);
                        assert_int_equal(flag, final);
                }
        }
}

static void what_is_nothing_of_that_kind(void **state)
{
        static const char *const no_jobs[] = {"a",       ".json",       ".a.json", "~a.json",
                                              "a.json~", "a.json.part", "a.JSON",  ""};
        static const char *const no_results[] = {
                "a.json",    "_a.json", "1_.json",    "1a.json",
                "-1_a.json", "1_a",     "1_a.json.x", "1234567890123456_a.json",
                "1_.a.json"};
        static const char *const no_claims[] = {
                "a",   "a.",     "a.0",     "a.01",   "a.1000000",      ".1",
                "a.x", "a.free", "a.1.fre", "a.dead", "a.1.free.dead.", "a.-1"};
        enum spool_claim read;
        char name[SPOOL_FILE_SIZE];
        int64_t epoch;
        unsigned attempt;
        bool flag;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(no_jobs); i++)
                assert_false(spool_read_job(no_jobs[i], name));
        for (size_t i = 0; i < ARRAY_SIZE(no_results); i++)
                assert_false(spool_read_result(no_results[i], name, &epoch));
        for (size_t i = 0; i < ARRAY_SIZE(no_claims); i++)
                assert_false(spool_read_claim(no_claims[i], name, &attempt, &read));
        assert_false(spool_read_failure("1_a.json", name, &epoch, &attempt, &flag));
        assert_false(spool_read_failure("1_a.final.json", name, &epoch, &attempt, &flag));
        assert_false(spool_read_failure("a.1.json", name, &epoch, &attempt, &flag));
        assert_false(spool_read_retry("a.1.free", name, &attempt));
}

static void the_longest_name_fits_into_every_file(void **state)
{
        char n[SPOOL_NAME_SIZE], file[SPOOL_FILE_SIZE], name[SPOOL_NAME_SIZE];
        int64_t epoch;
        unsigned attempt;
        bool final;

        (void)state;
        memset(n, 'n', sizeof(n));
        n[sizeof(n) - 1] = '\0';
        (void)spool_failure_file(n, INT64_C(999999999999999), SPOOL_ATTEMPTS_MAX, true, file);
        assert_true(spool_read_failure(file, name, &epoch, &attempt, &final));
        assert_string_equal(name, n);
        assert_true(final);
}

/* --- the index ------------------------------------------------------------------------------------------------------ */

static const struct spool_policy policy = {.tries = 3, .backoff = 10, .backoff_max = 3600};

static struct spool_index *new_index(void)
{
        struct spool_index *x;

        assert_int_equal(spool_index_new(12345, &x), 0);
        return x;
}

static enum spool_verdict judge(struct spool_index *x, const char *name, int64_t now)
{
        return spool_index_judge(x, name, &policy, now, NULL, NULL, NULL);
}

static void done_is_known_from_names(void **state)
{
        struct spool_index *x = new_index();
        char name[64];

        (void)state;
        assert_false(spool_index_is_done(x, "a"));
        for (int i = 0; i < 100000; i++) {
                (void)snprintf(name, sizeof(name), "job-%d", i);
                assert_int_equal(spool_index_add_result(x, name), 0);
                if (i % 7 == 0)
                        assert_int_equal(spool_index_add_result(x, name), 0);
        }
        assert_int_equal(spool_index_done(x), 100000);
        for (int i = 0; i < 100000; i++) {
                (void)snprintf(name, sizeof(name), "job-%d", i);
                assert_true(spool_index_is_done(x, name));
                (void)snprintf(name, sizeof(name), "job-%d.", i);
                assert_false(spool_index_is_done(x, name));
        }
        assert_true(spool_index_bytes(x) < 5 << 20);
        assert_int_equal(judge(x, "job-5", 0), SPOOL_DONE);
        spool_index_clear_results(x);
        assert_int_equal(judge(x, "job-5", 0), SPOOL_OPEN);
        spool_index_free(x);
}

static void names_that_begin_alike_are_not_alike(void **state)
{
        struct spool_index *x = new_index();

        (void)state;
        assert_int_equal(spool_index_add_result(x, "abcdefgh"), 0);
        assert_false(spool_index_is_done(x, "abcdefg"));
        assert_false(spool_index_is_done(x, "abcdefghi"));
        assert_false(spool_index_is_done(x, "hgfedcba"));
        assert_true(spool_index_is_done(x, "abcdefgh"));
        spool_index_free(x);
}

static void failures_wait_twice_as_long_each(void **state)
{
        struct spool_index *x = new_index();
        unsigned failures, attempt;
        int64_t due;

        (void)state;
        assert_int_equal(spool_index_add_failure(x, "a", 1000, 1, false), 0);
        assert_int_equal(spool_index_judge(x, "a", &policy, 1000, &due, &failures, &attempt), SPOOL_WAITING);
        assert_int_equal(due, 1010);
        assert_int_equal(spool_index_add_failure(x, "a", 1000, 1, false), 0); /* told again */
        assert_int_equal(judge(x, "a", 1009), SPOOL_WAITING);
        assert_int_equal(judge(x, "a", 1010), SPOOL_OPEN);
        assert_int_equal(spool_index_add_failure(x, "a", 1011, 4, false), 0); /* 2 and 3 were given back */
        assert_int_equal(spool_index_judge(x, "a", &policy, 1011, &due, &failures, &attempt), SPOOL_WAITING);
        assert_int_equal(due, 1031);
        assert_int_equal(failures, 2);
        assert_int_equal(attempt, 4);
        assert_int_equal(spool_index_add_failure(x, "a", 1040, 5, false), 0);
        assert_int_equal(judge(x, "a", 9999), SPOOL_FAILED);
        spool_index_free(x);
}

static void a_final_failure_ends_it_until_it_is_forgiven(void **state)
{
        struct spool_index *x = new_index();

        (void)state;
        assert_int_equal(spool_index_add_failure(x, "a", 1000, 1, true), 0);
        assert_int_equal(judge(x, "a", 99999), SPOOL_FAILED);
        spool_index_clear_failures(x);
        assert_int_equal(spool_index_add_retry(x, "a", 1), 0);
        assert_int_equal(spool_index_add_failure(x, "a", 1000, 1, true), 0);
        assert_int_equal(judge(x, "a", 0), SPOOL_OPEN);
        assert_int_equal(spool_index_add_failure(x, "a", 2000, 2, false), 0);
        assert_int_equal(judge(x, "a", 2005), SPOOL_WAITING);
        /* In the order of events: the retry comes when the failures are known. */
        assert_int_equal(spool_index_add_failure(x, "b", 1000, 1, true), 0);
        assert_int_equal(spool_index_add_retry(x, "b", 1), 0);
        assert_int_equal(judge(x, "b", 0), SPOOL_OPEN);
        /* Done is done, whatever failed before. */
        assert_int_equal(spool_index_add_result(x, "b"), 0);
        assert_int_equal(spool_index_add_failure(x, "b", 1000, 3, true), 0);
        assert_int_equal(judge(x, "b", 0), SPOOL_DONE);
        spool_index_free(x);
}

static void the_backoff_has_an_end(void **state)
{
        const struct spool_policy p = {.tries = 100, .backoff = 10, .backoff_max = 60};

        (void)state;
        assert_int_equal(spool_backoff(&p, 1), 10);
        assert_int_equal(spool_backoff(&p, 3), 40);
        assert_int_equal(spool_backoff(&p, 4), 60);
        assert_int_equal(spool_backoff(&p, 99), 60);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_that_are_good_and_bad),
                cmocka_unit_test(keys_of_two_bad_names_differ),
                cmocka_unit_test(every_file_says_what_it_is),
                cmocka_unit_test(what_is_nothing_of_that_kind),
                cmocka_unit_test(the_longest_name_fits_into_every_file),
                cmocka_unit_test(done_is_known_from_names),
                cmocka_unit_test(names_that_begin_alike_are_not_alike),
                cmocka_unit_test(failures_wait_twice_as_long_each),
                cmocka_unit_test(a_final_failure_ends_it_until_it_is_forgiven),
                cmocka_unit_test(the_backoff_has_an_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
