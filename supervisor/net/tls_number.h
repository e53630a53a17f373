/* tls_number.h: a certificate's IP address, for a library that can verify names alone. */
#ifndef LSV_NET_TLS_NUMBER_H
#define LSV_NET_TLS_NUMBER_H

#include <stdbool.h>

/* Within the verification of a chain (an X509_STORE_CTX) whose certificate so far is good or not: 1: it is the peer's own, and bears the address;
 * 0: it is not the peer's own, or is refused anyhow; -EACCES: it bears another one, which the chain says from now on, in these words (static). */
int tls_check_number(void *chain, bool is_good, const char *address, const char **ret_words);

#endif
