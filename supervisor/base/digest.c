/* digest.c: digests out of OpenSSL's libcrypto. */
#include "base/digest.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

int digest_sha1_base64(const void *data, size_t len, char ret[DIGEST_SHA1_BASE64_SIZE])
{
        unsigned char digest[SHA_DIGEST_LENGTH];

        if (EVP_Digest(data, len, digest, NULL, EVP_sha1(), NULL) != 1)
                return -EIO;
        (void)EVP_EncodeBlock((unsigned char *)ret, digest, sizeof(digest));
        return 0;
}
