/* nkey.c: base32, the checksum, and Ed25519. */
#include "base/nkey.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

#include "base/macros.h"
#include "base/secret.h"

enum {
        PREFIX_SEED = 18 << 3, /* 'S' */
        PREFIX_USER = 20 << 3, /* 'U' */
        RAW = 32,
        PUBLIC_BYTES = 1 + RAW + 2,
        SEED_BYTES = 2 + RAW + 2,
};

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

static uint16_t crc16(const unsigned char *p, size_t n)
{
        unsigned crc = 0;

        for (size_t i = 0; i < n; i++) {
                crc ^= (unsigned)p[i] << 8;
                for (int bit = 0; bit < 8; bit++)
                        crc = crc & 0x8000 ? crc << 1 ^ 0x1021 : crc << 1;
        }
        return (uint16_t)crc;
}

/* p has room for two bytes behind its n, which become the checksum. */
static void encode(unsigned char *p, size_t n, char *ret)
{
        uint16_t crc = crc16(p, n);
        unsigned bits = 0, have = 0;

        p[n++] = (unsigned char)crc;
        p[n++] = (unsigned char)(crc >> 8);
        for (size_t i = 0; i < n; i++) {
                bits = (bits << 8 | p[i]) & 0xffff;
                for (have += 8; have >= 5; have -= 5)
                        *ret++ = alphabet[bits >> (have - 5) & 31];
        }
        if (have)
                *ret++ = alphabet[bits << (5 - have) & 31];
        *ret = '\0';
}

/* Exactly n bytes, the last two of them a good checksum of the others. */
static int decode(const char *text, size_t len, unsigned char *ret, size_t n)
{
        unsigned bits = 0, have = 0;
        size_t got = 0;

        if (len != (n * 8 + 4) / 5)
                return -EINVAL;
        for (size_t i = 0; i < len; i++) {
                const char *at = text[i] ? strchr(alphabet, text[i]) : NULL;

                if (!at)
                        return -EINVAL;
                bits = (bits << 5 | (unsigned)(at - alphabet)) & 0xffff;
                have += 5;
                if (have < 8)
                        continue;
                have -= 8;
                ret[got++] = (unsigned char)(bits >> have);
        }
        if (bits & ((1U << have) - 1))
                return -EINVAL;
        return crc16(ret, n - 2) == (ret[n - 2] | ret[n - 1] << 8) ? 0 : -EINVAL;
}

static int decode_seed(const char *seed, size_t len, unsigned char ret[RAW])
{
        unsigned char bytes[SEED_BYTES];
        int r = decode(seed, len, bytes, sizeof(bytes));

        /* The second prefix is spread over two bytes: three bits of it in the first, five in the second. */
        if (r == 0 && (bytes[0] != (PREFIX_SEED | PREFIX_USER >> 5) || bytes[1] != (PREFIX_USER & 31) << 3))
                r = -EINVAL;
        if (r == 0)
                memcpy(ret, bytes + 2, RAW);
        secret_forget(bytes, sizeof(bytes));
        return r;
}

static EVP_PKEY *key_of(const unsigned char raw[RAW])
{
        return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, raw, RAW);
}

static void free_key(EVP_PKEY **key)
{
        EVP_PKEY_free(*key);
}

static int public_of(const unsigned char raw[RAW], char ret[NKEY_PUBLIC_SIZE])
{
        _cleanup_(free_key) EVP_PKEY *key = key_of(raw);
        unsigned char bytes[PUBLIC_BYTES] = {PREFIX_USER};
        size_t n = RAW;

        if (!key || EVP_PKEY_get_raw_public_key(key, bytes + 1, &n) != 1 || n != RAW)
                return -EIO;
        encode(bytes, 1 + RAW, ret);
        return 0;
}

int nkey_generate(char ret_seed[NKEY_SEED_SIZE], char ret_public[NKEY_PUBLIC_SIZE])
{
        unsigned char bytes[SEED_BYTES] = {PREFIX_SEED | PREFIX_USER >> 5, (PREFIX_USER & 31) << 3};
        int r = secret_random(bytes + 2, RAW);

        if (r == 0)
                r = public_of(bytes + 2, ret_public);
        if (r == 0)
                encode(bytes, 2 + RAW, ret_seed);
        secret_forget(bytes, sizeof(bytes));
        return r;
}

int nkey_public(const char *seed, char ret_public[NKEY_PUBLIC_SIZE])
{
        unsigned char raw[RAW];
        int r = decode_seed(seed, strlen(seed), raw);

        if (r == 0)
                r = public_of(raw, ret_public);
        secret_forget(raw, sizeof(raw));
        return r;
}

static int sign_raw(const unsigned char raw[RAW], const void *data, size_t len, unsigned char *ret)
{
        _cleanup_(free_key) EVP_PKEY *key = key_of(raw);
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        size_t n = NKEY_SIGNATURE_SIZE;
        int r = -EIO;

        if (key && ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1 &&
            EVP_DigestSign(ctx, ret, &n, data, len) == 1 && n == NKEY_SIGNATURE_SIZE)
                r = 0;
        EVP_MD_CTX_free(ctx);
        return r;
}

int nkey_sign(const char *seed, const void *data, size_t len, unsigned char ret[NKEY_SIGNATURE_SIZE])
{
        unsigned char raw[RAW];
        int r = decode_seed(seed, strlen(seed), raw);

        if (r == 0)
                r = sign_raw(raw, data, len, ret);
        secret_forget(raw, sizeof(raw));
        return r;
}

bool nkey_is_public(const char *text)
{
        unsigned char bytes[PUBLIC_BYTES];

        return decode(text, strlen(text), bytes, sizeof(bytes)) == 0 && bytes[0] == PREFIX_USER;
}

static bool is_letter(char c)
{
        return c && strchr(alphabet, c);
}

int nkey_find_seed(const char *text, size_t len, char ret_seed[NKEY_SEED_SIZE])
{
        unsigned char raw[RAW];

        for (size_t i = 0, n; i < len; i += n ? n : 1) {
                for (n = 0; i + n < len && is_letter(text[i + n]); n++)
                        ;
                if (n != NKEY_SEED_SIZE - 1 || decode_seed(text + i, n, raw) < 0)
                        continue;
                secret_forget(raw, sizeof(raw));
                memcpy(ret_seed, text + i, n);
                ret_seed[n] = '\0';
                return 0;
        }
        return -ENOENT;
}
