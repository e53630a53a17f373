/* password.h: a password that nobody chose, and its bcrypt hash as nats-server compares it (by libcrypt).
 *
 * A password has 256 random bits, so its hash cannot be guessed back however cheap the hash is; it is a cheap one, since a server pays for it at each
 * connection, and for every connected client at each reload. */
#ifndef LSV_BASE_PASSWORD_H
#define LSV_BASE_PASSWORD_H

#include <stdbool.h>

enum {
        PASSWORD_SIZE = 44,      /* 43 characters of base64url, and a NUL */
        PASSWORD_HASH_SIZE = 61, /* "$2a$", cost, salt and hash, and a NUL */
};

/* 0 or -errno. */
int password_generate(char ret[PASSWORD_SIZE]);
/* 0, -ENOMEM, -EIO: libcrypt refuses. */
int password_hash(const char *password, char ret[PASSWORD_HASH_SIZE]);
/* Is it such a hash, of any cost? */
bool password_is_hash(const char *text);

#endif
