/* test_password.c: no two alike; a hash fits its own password alone; what is no hash is seen. */
#include <crypt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/password.h"

static bool fits(const char *password, const char *hash)
{
        struct crypt_data data = {0};
        const char *again = crypt_r(password, hash, &data);

        return again && streq(again, hash);
}

static void a_hash_fits_its_password(void **state)
{
        char one[PASSWORD_SIZE], two[PASSWORD_SIZE], hash[PASSWORD_HASH_SIZE], again[PASSWORD_HASH_SIZE];

        (void)state;
        assert_int_equal(password_generate(one), 0);
        assert_int_equal(password_generate(two), 0);
        assert_int_equal(strlen(one), PASSWORD_SIZE - 1);
        assert_string_not_equal(one, two);
        assert_int_equal(password_hash(one, hash), 0);
        assert_int_equal(password_hash(one, again), 0);
        assert_string_not_equal(hash, again); /* salt */
        assert_true(password_is_hash(hash));
        assert_true(strncmp(hash, "$2a$", 4) == 0);
        assert_true(fits(one, hash));
        assert_true(fits(one, again));
        assert_false(fits(two, hash));
}

static void what_is_no_hash_is_seen(void **state)
{
        static const char *const bad[] = {
                "",
                "hunter22",
                "$2a$05$",
                "$1a$05$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj2",
                "$2c$05$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj2",
                "$2a$5$$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj2",
                "$2a$05$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj",
                "$2a$05$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj2x",
                "$2a$05$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lX\"2",
        };

        (void)state;
        assert_true(password_is_hash("$2b$11$ePFD68cgDm43HqMC.nSGTe8jaIKx3LIJScAMpDpOtGKofH7R6lXj2"));
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_false(password_is_hash(bad[i]));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_hash_fits_its_password),
                cmocka_unit_test(what_is_no_hash_is_seen),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
