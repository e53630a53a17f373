/* tls_number.c: OpenSSL's own comparison, so that an address may be written in any way. */
#include "net/tls_number.h"

#include <errno.h>
#include <openssl/x509v3.h>

int tls_check_number(void *chain, bool is_good, const char *address, const char **ret_words)
{
        X509_STORE_CTX *c = chain;
        X509 *certificate = X509_STORE_CTX_get_current_cert(c);

        if (!is_good || X509_STORE_CTX_get_error_depth(c) != 0)
                return 0;
        if (certificate && X509_check_ip_asc(certificate, address, 0) == 1)
                return 1;
        X509_STORE_CTX_set_error(c, X509_V_ERR_IP_ADDRESS_MISMATCH);
        *ret_words = X509_verify_cert_error_string(X509_V_ERR_IP_ADDRESS_MISMATCH);
        return -EACCES;
}
