/* secret.c: SHA-256 and comparison by libcrypto; random bytes by the kernel. */
#include "base/secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/random.h>

int secret_sha256(const void *data, size_t len, unsigned char ret[SECRET_HASH_SIZE])
{
        return EVP_Digest(data, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

char *secret_hex(const unsigned char hash[SECRET_HASH_SIZE], char buf[SECRET_HEX_SIZE])
{
        static const char digits[] = "0123456789abcdef";

        for (size_t i = 0; i < SECRET_HASH_SIZE; i++) {
                buf[2 * i] = digits[hash[i] >> 4];
                buf[2 * i + 1] = digits[hash[i] & 15];
        }
        buf[SECRET_HEX_SIZE - 1] = '\0';
        return buf;
}

static int digit_of(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int secret_from_hex(const char *text, size_t len, unsigned char ret[SECRET_HASH_SIZE])
{
        if (len != SECRET_HEX_SIZE - 1)
                return -EINVAL;
        for (size_t i = 0; i < len; i++)
                if (digit_of(text[i]) < 0)
                        return -EINVAL;
        for (size_t i = 0; i < SECRET_HASH_SIZE; i++)
                ret[i] = (unsigned char)(digit_of(text[2 * i]) << 4 | digit_of(text[2 * i + 1]));
        return 0;
}

bool secret_equal(const void *a, const void *b, size_t n)
{
        return CRYPTO_memcmp(a, b, n) == 0;
}

int secret_random(void *buf, size_t n)
{
        char *p = buf;

        while (n) {
                ssize_t got = getrandom(p, n, 0);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got < 0)
                        return -errno;
                p += got;
                n -= (size_t)got;
        }
        return 0;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *secret_base64url(const void *data, size_t n, char *buf)
{
        const unsigned char *p = data;
        unsigned bits = 0, have = 0;
        char *out = buf;

        for (size_t i = 0; i < n; i++) {
                bits = bits << 8 | p[i];
                for (have += 8; have >= 6; have -= 6)
                        *out++ = alphabet[bits >> (have - 6) & 63];
        }
        if (have)
                *out++ = alphabet[bits << (6 - have) & 63];
        *out = '\0';
        return buf;
}

int secret_from_base64url(const char *text, size_t len, void *buf, size_t max)
{
        unsigned char *out = buf;
        unsigned bits = 0, have = 0;
        size_t n = 0;

        for (size_t i = 0; i < len; i++) {
                const char *at = text[i] ? strchr(alphabet, text[i]) : NULL;

                if (!at)
                        return -EINVAL;
                bits = (bits << 6 | (unsigned)(at - alphabet)) & 0xffff;
                have += 6;
                if (have < 8)
                        continue;
                if (n == max)
                        return -EINVAL;
                have -= 8;
                out[n++] = (unsigned char)(bits >> have);
        }
        /* One letter alone says nothing, and what the last one says beyond whole bytes must be nothing. */
        if (have == 6 || bits & ((1U << have) - 1))
                return -EINVAL;
        return (int)n;
}

void secret_forget(void *p, size_t n)
{
        OPENSSL_cleanse(p, n);
}
