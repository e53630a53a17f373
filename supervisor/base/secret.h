/* secret.h: what secrets need: a hash, a comparison that takes as long for every answer, random bytes, base64url, and forgetting.
 * A thin skin over libcrypto, which nothing above sees (base/secret.c alone includes its headers); the CLI makes keys with it. */
#ifndef LSV_BASE_SECRET_H
#define LSV_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>

enum {
        SECRET_HASH_SIZE = 32, /* SHA-256 */
        SECRET_HEX_SIZE = 2 * SECRET_HASH_SIZE + 1,
};

/* 0 or -ENOMEM. */
int secret_sha256(const void *data, size_t len, unsigned char ret[SECRET_HASH_SIZE]);
/* 64 lower-case digits and a NUL into buf; returns buf. */
char *secret_hex(const unsigned char hash[SECRET_HASH_SIZE], char buf[SECRET_HEX_SIZE]);
/* The way back: exactly 64 digits of either case (len says so): 0 or -EINVAL. */
int secret_from_hex(const char *text, size_t len, unsigned char ret[SECRET_HASH_SIZE]);

/* True when the n bytes are alike; the time it takes tells nothing about where they differ. */
bool secret_equal(const void *a, const void *b, size_t n);

/* From the kernel (getrandom), never less than asked for; waits only before the machine has any. 0 or -errno. */
int secret_random(void *buf, size_t n);

/* base64url without padding (RFC 4648 §5). encode: buf needs SECRET_BASE64_SIZE(n) bytes, NUL-terminated, returns buf. */
#define SECRET_BASE64_SIZE(n) (((n)*4 + 2) / 3 + 1)
char *secret_base64url(const void *data, size_t n, char *buf);
/* At most max bytes into buf: their number, or -EINVAL (another alphabet, padding, stray bits, too long). */
int secret_from_base64url(const char *text, size_t len, void *buf, size_t max);

/* Overwrites; the compiler cannot leave it out. */
void secret_forget(void *p, size_t n);

#endif
