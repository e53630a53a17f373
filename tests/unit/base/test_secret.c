/* test_secret.c: hash, comparison, base64url, randomness: against values that others published. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/secret.h"

static void the_hash_is_sha256(void **state)
{
        unsigned char hash[SECRET_HASH_SIZE], back[SECRET_HASH_SIZE];
        char hex[SECRET_HEX_SIZE];

        (void)state;
        /* FIPS 180-2, B.1 */
        assert_int_equal(secret_sha256("abc", 3, hash), 0);
        assert_string_equal(secret_hex(hash, hex),
                            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(secret_from_hex(hex, 64, back), 0);
        assert_memory_equal(hash, back, sizeof(hash));
        assert_int_equal(secret_sha256("", 0, hash), 0);
        assert_string_equal(secret_hex(hash, hex),
                            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        hex[0] = 'E';
        assert_int_equal(secret_from_hex(hex, 64, back), 0);
        assert_memory_equal(hash, back, sizeof(hash));
        assert_int_equal(secret_from_hex(hex, 63, back), -EINVAL);
        hex[63] = 'g';
        assert_int_equal(secret_from_hex(hex, 64, back), -EINVAL);
}

static void comparing_compares_all(void **state)
{
        char a[32] = "0123456789abcdef0123456789abcde", b[32];

        (void)state;
        memcpy(b, a, sizeof(b));
        assert_true(secret_equal(a, b, sizeof(a)));
        for (size_t i = 0; i < sizeof(a); i++) {
                b[i] ^= 1;
                assert_false(secret_equal(a, b, sizeof(a)));
                b[i] ^= 1;
        }
}

static void base64url_goes_both_ways(void **state)
{
        /* RFC 4648 §10, without padding, and two bytes that need '-' and '_' */
        static const char *const pairs[][2] = {
                {"", ""},           {"f", "Zg"},          {"fo", "Zm8"},          {"foo", "Zm9v"},
                {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff", "-_8"}};
        char text[32], back[32];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
                size_t n = strlen(pairs[i][0]);

                assert_string_equal(secret_base64url(pairs[i][0], n, text), pairs[i][1]);
                assert_true(strlen(text) < SECRET_BASE64_SIZE(n));
                assert_int_equal(secret_from_base64url(text, strlen(text), back, sizeof(back)), (int)n);
                assert_memory_equal(back, pairs[i][0], n);
                if (n)
                        assert_int_equal(secret_from_base64url(text, strlen(text), back, n - 1), -EINVAL);
        }
        assert_int_equal(secret_from_base64url("Zg==", 4, back, sizeof(back)), -EINVAL); /* padding */
        assert_int_equal(secret_from_base64url("Zh", 2, back, sizeof(back)), -EINVAL);   /* stray bits */
        assert_int_equal(secret_from_base64url("Z", 1, back, sizeof(back)), -EINVAL);
        assert_int_equal(secret_from_base64url("+/8", 3, back, sizeof(back)), -EINVAL);
        assert_int_equal(secret_from_base64url("Zm\0v", 4, back, sizeof(back)), -EINVAL);
}

static void random_bytes_differ(void **state)
{
        unsigned char a[32] = {0}, b[32] = {0}, zeros[32] = {0};

        (void)state;
        assert_int_equal(secret_random(a, sizeof(a)), 0);
        assert_int_equal(secret_random(b, sizeof(b)), 0);
        assert_memory_not_equal(a, b, sizeof(a));
        assert_memory_not_equal(a, zeros, sizeof(a));
        secret_forget(a, sizeof(a));
        assert_memory_equal(a, zeros, sizeof(a));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_hash_is_sha256),
                cmocka_unit_test(comparing_compares_all),
                cmocka_unit_test(base64url_goes_both_ways),
                cmocka_unit_test(random_bytes_differ),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
