/* digest.h: digests that protocols ask for, out of OpenSSL's libcrypto. Not for keys: a secret has a room of its own. */
#ifndef LSV_BASE_DIGEST_H
#define LSV_BASE_DIGEST_H

#include <stddef.h>

enum { DIGEST_SHA1_BASE64_SIZE = 29 };

/* SHA-1 as base64 text, which is what a WebSocket handshake wants (RFC 6455 §4.2.2). 0, or -EIO when the library refuses it (a
 * policy of the system may). */
int digest_sha1_base64(const void *data, size_t len, char ret[DIGEST_SHA1_BASE64_SIZE]);

#endif
