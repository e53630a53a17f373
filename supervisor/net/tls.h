/* tls.h: TLS 1.2 and 1.3 for the server side: the certificate of a listener, and sessions on memory alone: bytes in, bytes out.
 * Who moves the bytes is net/stream; nobody else uses sessions. OpenSSL is seen by tls.c alone.
 *
 * What is spoken: TLS 1.2 with ECDHE and AEAD ciphers, TLS 1.3; ALPN "http/1.1" (a client that offers other protocols only is
 * refused by no_application_protocol, one that offers none is served); tickets for resumption; no renegotiation, no
 * compression, no early data, no client certificates. */
#ifndef LSV_NET_TLS_H
#define LSV_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/slice.h"
#include "base/time.h"

/* --- the certificate ------------------------------------------------------------------------------------------- */

enum { TLS_FILE_MAX = 1024 * 1024, TLS_NAME_MAX = 128 };

struct tls_context;

struct tls_certificate {
        usec_t from, until;         /* realtime */
        char subject[TLS_NAME_MAX]; /* its common name, or first DNS name; for logs, made harmless */
        unsigned char hash[32];     /* SHA-256 of it */
};

/* Reads chain and key (PEM, the server's own certificate first; the key without a passphrase), blocking. 0, or -errno with
 * *ret_error (malloc'd, may be NULL without memory), which names the file. */
int tls_context_new(const char *cert_file, const char *key_file, struct tls_context **ret, char **ret_error);
/* Whether these texts of two files would do, in the same words: a config_tls_check_fn (core/config.h). */
int tls_check(const char *cert_file, struct slice cert, const char *key_file, struct slice key,
              bool *ret_in_key, char **ret_error);
struct tls_context *tls_context_free(struct tls_context *c); /* sessions go on; NULL is fine, always NULL */
/* Reads the files again; sessions from now on use what they hold. On failure, and when the new certificate is out of its time
 * while the old one is not (now: realtime), all stays as it was. 0: *ret_changed says whether it is another one. */
int tls_context_reload(struct tls_context *c, usec_t now, bool *ret_changed, char **ret_error);
const struct tls_certificate *tls_context_certificate(const struct tls_context *c);

/* --- one session -------------------------------------------------------------------------------------------------- */

struct tls;

int tls_new(const struct tls_context *c, struct tls **ret); /* 0 or -ENOMEM */
struct tls *tls_free(struct tls *t);

/* The order is: feed, read until it gives 0 or an error, send what tls_output has. */
void tls_feed(struct tls *t, const char *data,
              size_t len); /* what came from the peer; valid until it is read */
/* What was said: its length; 0: nothing more for now; -ESHUTDOWN: the peer said goodbye; -EPROTO: it is broken (an alert may wait
 * in tls_output). Drives the handshake, too. */
ssize_t tls_read(struct tls *t, char *buf, size_t size);
bool tls_is_ready(const struct tls *t); /* the handshake is done */
/* Encrypts all of it into tls_output. 0; -EPIPE: not ready, closed or broken; -ENOMEM. */
int tls_write(struct tls *t, const struct iovec *iov, unsigned n);
void tls_close(struct tls *t); /* says goodbye, into tls_output */
/* What is to be sent to the peer, and that it was taken over. */
size_t tls_output(const struct tls *t, const char **ret);
void tls_output_done(struct tls *t);
const char *tls_reason(const struct tls *t); /* why it broke, "" if it did not; static text */

#endif
