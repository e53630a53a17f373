/* password.c: random bytes and libcrypt's bcrypt. */
#include "base/password.h"

#include <crypt.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/secret.h"

/* nats-server takes a, b, x and y (server/auth.go); "a" is what its own tool writes. */
static const char PREFIX[] = "$2a$";
enum { COST = 5, RANDOM_BYTES = 32, SALT_BYTES = 16 };
_Static_assert(PASSWORD_SIZE == SECRET_BASE64_SIZE(RANDOM_BYTES), "all of the random bytes are written out");

int password_generate(char ret[PASSWORD_SIZE])
{
        unsigned char bytes[RANDOM_BYTES];
        int r = secret_random(bytes, sizeof(bytes));

        if (r == 0)
                (void)secret_base64url(bytes, sizeof(bytes), ret);
        secret_forget(bytes, sizeof(bytes));
        return r;
}

int password_hash(const char *password, char ret[PASSWORD_HASH_SIZE])
{
        struct crypt_data *data = calloc(1, sizeof(*data));
        char salt[SALT_BYTES], setting[CRYPT_GENSALT_OUTPUT_SIZE];
        const char *hash;
        int r = data ? secret_random(salt, sizeof(salt)) : -ENOMEM;

        if (r == 0) {
                hash = crypt_gensalt_rn(PREFIX, COST, salt, sizeof(salt), setting, sizeof(setting))
                               ? crypt_r(password, setting, data)
                               : NULL;
                r = hash && password_is_hash(hash) ? 0 : -EIO;
                if (r == 0)
                        memcpy(ret, hash, PASSWORD_HASH_SIZE);
        }
        if (data)
                secret_forget(data, sizeof(*data));
        free(data);
        return r;
}

bool password_is_hash(const char *text)
{
        static const char alphabet[] = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

        return strlen(text) == PASSWORD_HASH_SIZE - 1 && text[0] == '$' && text[1] == '2' &&
               strchr("abxy", text[2]) && text[3] == '$' && strspn(text + 4, "0123456789") == 2 &&
               text[6] == '$' && strspn(text + 7, alphabet) == PASSWORD_HASH_SIZE - 1 - 7;
}
