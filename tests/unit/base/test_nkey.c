/* test_nkey.c: the keys of NATS users, against a pair that NATS publishes and a signature of RFC 8032. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/nkey.h"

/* docs.nats.io, "NKeys": the pair of its example. */
#define SEED "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
/* The secret key of RFC 8032 §7.1, test 2, written as seeds of a user and of an account. */
#define RFC_SEED     "SUAEZTIITMUP7FW2TW3MGRXMCFHA6W4KGGPTLK5GETNIZ5XNJ64KN63OVI"
#define ACCOUNT_SEED "SAAEZTIITMUP7FW2TW3MGRXMCFHA6W4KGGPTLK5GETNIZ5XNJ64KN645MY"
#define PUBLIC       "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

static void a_published_pair_belongs_together(void **state)
{
        char public[NKEY_PUBLIC_SIZE];

        (void)state;
        assert_int_equal(nkey_public(SEED, public), 0);
        assert_string_equal(public, PUBLIC);
        assert_true(nkey_is_public(PUBLIC));
}

static void a_mistyped_key_is_refused(void **state)
{
        char seed[] = SEED, public[] = PUBLIC, ret[NKEY_PUBLIC_SIZE];
        unsigned char signature[NKEY_SIGNATURE_SIZE];

        (void)state;
        for (size_t i = 0; i + 1 < sizeof(seed); i++) {
                seed[i] = seed[i] == 'B' ? 'C' : 'B';
                assert_int_equal(nkey_public(seed, ret), -EINVAL);
                seed[i] = SEED[i];
        }
        for (size_t i = 0; i + 1 < sizeof(public); i++) {
                public[i] = public[i] == 'B' ? 'C' : 'B';
                assert_false(nkey_is_public(public));
                public[i] = PUBLIC[i];
        }
        assert_int_equal(nkey_public("", ret), -EINVAL);
        assert_int_equal(nkey_public(PUBLIC, ret), -EINVAL);
        assert_false(nkey_is_public(SEED));
        assert_false(nkey_is_public(""));
        assert_int_equal(nkey_sign("SU", "x", 1, signature), -EINVAL);
        /* An account's seed is one, too, but not a user's. */
        assert_int_equal(nkey_public(ACCOUNT_SEED, ret), -EINVAL);
}

static void new_pairs_are_good_and_differ(void **state)
{
        char seed[2][NKEY_SEED_SIZE], public[2][NKEY_PUBLIC_SIZE], again[NKEY_PUBLIC_SIZE];

        (void)state;
        for (size_t i = 0; i < 2; i++) {
                assert_int_equal(nkey_generate(seed[i], public[i]), 0);
                assert_true(starts_with(seed[i], "SU"));
                assert_true(starts_with(public[i], "U"));
                assert_true(nkey_is_public(public[i]));
                assert_int_equal(nkey_public(seed[i], again), 0);
                assert_string_equal(again, public[i]);
        }
        assert_string_not_equal(seed[0], seed[1]);
        assert_string_not_equal(public[0], public[1]);
}

/* RFC 8032 §7.1, test 2, with its secret key as a seed. */
static void signatures_are_ed25519(void **state)
{
        static const unsigned char expected[NKEY_SIGNATURE_SIZE] = {
                0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8, 0x72, 0x0e, 0x82, 0x0b, 0x5f,
                0x64, 0x25, 0x40, 0xa2, 0xb2, 0x7b, 0x54, 0x16, 0x50, 0x3f, 0x8f, 0xb3, 0x76,
                0x22, 0x23, 0xeb, 0xdb, 0x69, 0xda, 0x08, 0x5a, 0xc1, 0xe4, 0x3e, 0x15, 0x99,
                0x6e, 0x45, 0x8f, 0x36, 0x13, 0xd0, 0xf1, 0x1d, 0x8c, 0x38, 0x7b, 0x2e, 0xae,
                0xb4, 0x30, 0x2a, 0xee, 0xb0, 0x0d, 0x29, 0x16, 0x12, 0xbb, 0x0c, 0x00};
        unsigned char signature[NKEY_SIGNATURE_SIZE];

        (void)state;
        assert_int_equal(nkey_sign(RFC_SEED, "\x72", 1, signature), 0);
        assert_memory_equal(signature, expected, sizeof(expected));
}

static void a_seed_is_found_in_a_file(void **state)
{
        static const char *const files[] = {
                SEED, SEED "\n", "# worker gpu-1\n" SEED "\n",
                "-----BEGIN NATS USER JWT-----\neyJ0eXAiOiJKV1QifQ.SUAB\n------END NATS USER JWT------\n\n"
                "-----BEGIN USER NKEY SEED-----\n" SEED "\n------END USER NKEY SEED------\n"};
        char seed[NKEY_SEED_SIZE];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                memset(seed, 0, sizeof(seed));
                assert_int_equal(nkey_find_seed(files[i], strlen(files[i]), seed), 0);
                assert_string_equal(seed, SEED);
        }
        assert_int_equal(nkey_find_seed("", 0, seed), -ENOENT);
        assert_int_equal(nkey_find_seed(PUBLIC, strlen(PUBLIC), seed), -ENOENT);
        assert_int_equal(nkey_find_seed("A" SEED, strlen(SEED) + 1, seed), -ENOENT);
        assert_int_equal(nkey_find_seed(SEED, strlen(SEED) - 1, seed), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_published_pair_belongs_together),
                cmocka_unit_test(a_mistyped_key_is_refused),
                cmocka_unit_test(new_pairs_are_good_and_differ),
                cmocka_unit_test(signatures_are_ed25519),
                cmocka_unit_test(a_seed_is_found_in_a_file),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
