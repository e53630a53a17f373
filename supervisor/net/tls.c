/* tls.c: OpenSSL on memory BIOs. */
#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/macros.h"
#include "base/secret.h"
#include "base/slice.h"
#include "base/text.h"

#define CIPHERS_1_2 "ECDHE+AESGCM:ECDHE+CHACHA20"
enum { RECORD_MAX = 16 * 1024, CHAIN_MAX = 16 };

struct tls_context {
        SSL_CTX *ssl;
        char *cert_file, *key_file;
        struct tls_certificate certificate;
};

struct tls {
        SSL *ssl;
        struct slice in;   /* what came and was not read yet; the caller's */
        struct buffer out; /* what is to be sent */
        bool broken, closed;
        const char *reason;
};

/* --- the certificate ------------------------------------------------------------------------------------------- */

static int complain(char **ret_error, int r, const char *file, const char *why)
{
        *ret_error = text_format("%s: %s", file, why);
        return r;
}

static const char *openssl_reason(void)
{
        const char *reason = ERR_reason_error_string(ERR_peek_last_error());

        return reason ? reason : "unknown error";
}

/* A key with a passphrase must not ask for it on our terminal. */
static int no_passphrase(char *buf, int size, int writing, void *owner)
{
        bool *asked = owner;

        (void)buf;
        (void)size;
        (void)writing;
        *asked = true;
        return -1;
}

static BIO *bio_of_file(const char *file, char **ret_text, size_t *ret_len, int *ret_r, char **ret_error)
{
        BIO *bio;

        *ret_r = file_read(file, TLS_FILE_MAX, ret_text, ret_len);
        if (*ret_r < 0) {
                (void)complain(ret_error, *ret_r, file, strerror(-*ret_r));
                return NULL;
        }
        bio = BIO_new_mem_buf(*ret_text, (int)*ret_len);
        *ret_r = bio ? 0 : -ENOMEM;
        return bio;
}

static bool is_at_end(void)
{
        unsigned long e = ERR_peek_last_error();

        return ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
}

static int take_chain(SSL_CTX *ssl, BIO *bio, const char *file, X509 **ret, char **ret_error)
{
        bool asked = false;
        unsigned n = 0;

        for (;;) {
                X509 *one;

                ERR_clear_error();
                one = PEM_read_bio_X509(bio, NULL, no_passphrase, &asked);
                if (!one)
                        break;
                if (n == 0 ? SSL_CTX_use_certificate(ssl, one) != 1
                           : SSL_CTX_add1_chain_cert(ssl, one) != 1) {
                        X509_free(one);
                        return complain(ret_error, -EINVAL, file, openssl_reason());
                }
                if (n == 0)
                        *ret = one;
                else
                        X509_free(one);
                if (++n > CHAIN_MAX)
                        return complain(ret_error, -E2BIG, file, "holds too many certificates");
        }
        if (n == 0)
                return complain(ret_error, -EINVAL, file, "holds no certificate in PEM format");
        if (!is_at_end())
                return complain(ret_error, -EINVAL, file, openssl_reason());
        return 0;
}

static int read_chain(SSL_CTX *ssl, const char *file, X509 **ret, char **ret_error)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        int r;
        BIO *bio = bio_of_file(file, &text, &len, &r, ret_error);

        if (!bio)
                return r;
        r = take_chain(ssl, bio, file, ret, ret_error);
        (void)BIO_free(bio);
        return r;
}

static int take_key(SSL_CTX *ssl, BIO *bio, const char *cert_file, const char *file, char **ret_error)
{
        bool asked = false;
        EVP_PKEY *key;
        int r = 0;

        ERR_clear_error();
        key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
        if (!key)
                return complain(
                        ret_error, -EINVAL, file,
                        asked ? "the key is encrypted with a passphrase, which nobody could type here: "
                                "store it without (openssl pkey -in FILE -out FILE)"
                              : "holds no private key in PEM format");
        if (SSL_CTX_use_PrivateKey(ssl, key) != 1 || SSL_CTX_check_private_key(ssl) != 1) {
                *ret_error =
                        text_format("%s: this key does not belong to the certificate in %s", file, cert_file);
                r = -EINVAL;
        }
        EVP_PKEY_free(key);
        return r;
}

static int read_key(SSL_CTX *ssl, const char *cert_file, const char *file, char **ret_error)
{
        char *text = NULL;
        size_t len = 0;
        int r;
        BIO *bio = bio_of_file(file, &text, &len, &r, ret_error);

        if (bio)
                r = take_key(ssl, bio, cert_file, file, ret_error);
        (void)BIO_free(bio);
        if (text)
                secret_forget(text, len);
        free(text);
        return r;
}

static usec_t usec_of(const ASN1_TIME *t)
{
        struct tm tm = {0};
        time_t seconds;

        if (ASN1_TIME_to_tm(t, &tm) != 1)
                return 0;
        seconds = timegm(&tm);
        return seconds > 0 ? (usec_t)seconds * USEC_PER_SEC : 0;
}

static void name_certificate(X509 *x, struct tls_certificate *ret)
{
        GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
        char common[TLS_NAME_MAX] = "";

        (void)X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, common, sizeof(common));
        (void)snprintf(ret->subject, sizeof(ret->subject), "%s", common);
        for (int i = 0; !*ret->subject && i < sk_GENERAL_NAME_num(names); i++) {
                const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

                if (name->type == GEN_DNS)
                        (void)snprintf(ret->subject, sizeof(ret->subject), "%.*s",
                                       ASN1_STRING_length(name->d.dNSName),
                                       (const char *)ASN1_STRING_get0_data(name->d.dNSName));
        }
        GENERAL_NAMES_free(names);
        (void)text_harmless(ret->subject);
        if (!*ret->subject)
                (void)snprintf(ret->subject, sizeof(ret->subject), "(no name)");
}

static void describe(X509 *x, struct tls_certificate *ret)
{
        unsigned n = sizeof(ret->hash);

        *ret = (struct tls_certificate){.from = usec_of(X509_get0_notBefore(x)),
                                        .until = usec_of(X509_get0_notAfter(x))};
        name_certificate(x, ret);
        (void)X509_digest(x, EVP_sha256(), ret->hash, &n);
}

/* HTTP/1.1 is what we speak: whoever offers something else only shall know it now, not by nonsense later. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                           const unsigned char *in, unsigned in_len, void *owner)
{
        static const char ours[] = "http/1.1";

        (void)ssl;
        (void)owner;
        for (unsigned i = 0; i < in_len && i + in[i] < in_len; i += 1U + in[i])
                if (in[i] == sizeof(ours) - 1 && memcmp(in + i + 1, ours, sizeof(ours) - 1) == 0) {
                        *out = in + i + 1;
                        *out_len = in[i];
                        return SSL_TLSEXT_ERR_OK;
                }
        return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *make_ssl(void)
{
        SSL_CTX *ssl = SSL_CTX_new(TLS_server_method());

        if (!ssl)
                return NULL;
        (void)SSL_CTX_set_options(ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        (void)SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
        (void)SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, NULL);
        if (SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION) == 1 &&
            SSL_CTX_set_cipher_list(ssl, CIPHERS_1_2) == 1)
                return ssl;
        SSL_CTX_free(ssl);
        return NULL;
}

static int load(const char *cert_file, const char *key_file, SSL_CTX **ret,
                struct tls_certificate *certificate, char **ret_error)
{
        SSL_CTX *ssl = make_ssl();
        X509 *x = NULL;
        int r = ssl ? 0 : -ENOMEM;

        *ret_error = NULL;
        if (r == 0)
                r = read_chain(ssl, cert_file, &x, ret_error);
        if (r == 0)
                r = read_key(ssl, cert_file, key_file, ret_error);
        if (r == 0)
                describe(x, certificate);
        X509_free(x);
        if (r < 0) {
                SSL_CTX_free(ssl);
                return r;
        }
        *ret = ssl;
        return 0;
}

int tls_check(const char *cert_file, struct slice cert, const char *key_file, struct slice key,
              bool *ret_in_key, char **ret_error)
{
        SSL_CTX *ssl = make_ssl();
        BIO *chain = BIO_new_mem_buf(cert.p ? cert.p : "", (int)MIN(cert.n, (size_t)TLS_FILE_MAX)),
            *private = BIO_new_mem_buf(key.p ? key.p : "", (int)MIN(key.n, (size_t)TLS_FILE_MAX));
        X509 *x = NULL;
        int r = ssl && chain && private ? 0 : -ENOMEM;

        *ret_error = NULL;
        *ret_in_key = false;
        if (r == 0)
                r = take_chain(ssl, chain, cert_file, &x, ret_error);
        if (r == 0) {
                r = take_key(ssl, private, cert_file, key_file, ret_error);
                *ret_in_key = r < 0;
        }
        X509_free(x);
        (void)BIO_free(private);
        (void)BIO_free(chain);
        SSL_CTX_free(ssl);
        ERR_clear_error();
        return r;
}

int tls_context_new(const char *cert_file, const char *key_file, struct tls_context **ret, char **ret_error)
{
        struct tls_context *c = calloc(1, sizeof(*c));
        int r = -ENOMEM;

        *ret_error = NULL;
        if (c) {
                c->cert_file = text_dup(cert_file);
                c->key_file = text_dup(key_file);
                if (c->cert_file && c->key_file)
                        r = load(cert_file, key_file, &c->ssl, &c->certificate, ret_error);
        }
        if (r < 0) {
                (void)tls_context_free(c);
                return r;
        }
        *ret = c;
        return 0;
}

struct tls_context *tls_context_free(struct tls_context *c)
{
        if (!c)
                return NULL;
        SSL_CTX_free(c->ssl);
        free(c->cert_file);
        free(c->key_file);
        free(c);
        return NULL;
}

static bool is_in_time(const struct tls_certificate *c, usec_t now)
{
        return c->from <= now && now < c->until;
}

int tls_context_reload(struct tls_context *c, usec_t now, bool *ret_changed, char **ret_error)
{
        struct tls_certificate certificate = {0};
        SSL_CTX *ssl = NULL;
        int r = load(c->cert_file, c->key_file, &ssl, &certificate, ret_error);

        if (r < 0)
                return r;
        if (!is_in_time(&certificate, now) && is_in_time(&c->certificate, now)) {
                SSL_CTX_free(ssl);
                return complain(ret_error, -EINVAL, c->cert_file,
                                certificate.until <= now ? "this certificate has expired"
                                                         : "this certificate is not valid yet");
        }
        *ret_changed = memcmp(certificate.hash, c->certificate.hash, sizeof(certificate.hash)) != 0;
        SSL_CTX_free(c->ssl);
        c->ssl = ssl;
        c->certificate = certificate;
        return 0;
}

const struct tls_certificate *tls_context_certificate(const struct tls_context *c)
{
        return &c->certificate;
}

/* --- bytes in and out ----------------------------------------------------------------------------------------------- */

static int bio_read(BIO *bio, char *buf, size_t size, size_t *ret)
{
        struct tls *t = BIO_get_data(bio);

        BIO_clear_retry_flags(bio);
        if (!t->in.n) {
                BIO_set_retry_read(bio);
                return 0;
        }
        *ret = MIN(size, t->in.n);
        memcpy(buf, t->in.p, *ret);
        t->in = slice_sub(t->in, *ret, t->in.n);
        return 1;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *ret)
{
        struct tls *t = BIO_get_data(bio);

        BIO_clear_retry_flags(bio);
        if (buffer_append(&t->out, data, len) < 0)
                return 0;
        *ret = len;
        return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
        (void)bio;
        (void)number;
        (void)pointer;
        return command == BIO_CTRL_FLUSH;
}

/* Made once; it lives as long as the process. */
static const BIO_METHOD *bio_method(void)
{
        static BIO_METHOD *method;

        if (method)
                return method;
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "llama-supervisor");
        if (method && BIO_meth_set_read_ex(method, bio_read) == 1 &&
            BIO_meth_set_write_ex(method, bio_write) == 1 && BIO_meth_set_ctrl(method, bio_control) == 1)
                return method;
        BIO_meth_free(method);
        method = NULL;
        return NULL;
}

/* --- one session -------------------------------------------------------------------------------------------------- */

int tls_new(const struct tls_context *c, struct tls **ret)
{
        const BIO_METHOD *method = bio_method();
        struct tls *t = calloc(1, sizeof(*t));
        BIO *bio = method ? BIO_new(method) : NULL;

        if (t)
                t->ssl = SSL_new(c->ssl);
        if (!t || !t->ssl || !bio) {
                (void)BIO_free(bio);
                (void)tls_free(t);
                return -ENOMEM;
        }
        t->reason = "";
        buffer_init(&t->out, 0);
        BIO_set_data(bio, t);
        BIO_set_init(bio, 1);
        SSL_set_bio(t->ssl, bio, bio);
        SSL_set_accept_state(t->ssl);
        *ret = t;
        return 0;
}

struct tls *tls_free(struct tls *t)
{
        if (!t)
                return NULL;
        SSL_free(t->ssl);
        buffer_finish(&t->out);
        free(t);
        return NULL;
}

void tls_feed(struct tls *t, const char *data, size_t len)
{
        t->in = (struct slice){data, len};
}

static int break_session(struct tls *t)
{
        if (!t->broken)
                t->reason = openssl_reason();
        t->broken = true;
        return -EPROTO;
}

ssize_t tls_read(struct tls *t, char *buf, size_t size)
{
        size_t n;

        if (t->broken)
                return -EPROTO;
        if (t->closed)
                return -ESHUTDOWN;
        ERR_clear_error();
        if (SSL_read_ex(t->ssl, buf, size, &n) == 1)
                return (ssize_t)n;
        switch (SSL_get_error(t->ssl, 0)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
                return 0;
        case SSL_ERROR_ZERO_RETURN:
                t->closed = true;
                return -ESHUTDOWN;
        default:
                return break_session(t);
        }
}

bool tls_is_ready(const struct tls *t)
{
        return SSL_is_init_finished(t->ssl);
}

static int write_one(struct tls *t, const void *data, size_t len)
{
        size_t written;

        if (!len)
                return 0;
        ERR_clear_error();
        /* The buffer takes everything: what fails here is memory. */
        if (SSL_write_ex(t->ssl, data, len, &written) == 1 && written == len)
                return 0;
        (void)break_session(t);
        return -ENOMEM;
}

int tls_write(struct tls *t, const struct iovec *iov, unsigned n)
{
        char together[RECORD_MAX];
        size_t total = 0, at = 0;
        int r = 0;

        if (t->broken || !tls_is_ready(t) || SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN)
                return -EPIPE;
        for (unsigned i = 0; i < n; i++)
                total += iov[i].iov_len;
        if (n == 1 || total > sizeof(together)) {
                for (unsigned i = 0; i < n && r == 0; i++)
                        r = write_one(t, iov[i].iov_base, iov[i].iov_len);
                return r;
        }
        /* One record instead of one for each of head, size line, payload and end. */
        for (unsigned i = 0; i < n; i++) {
                if (iov[i].iov_len)
                        memcpy(together + at, iov[i].iov_base, iov[i].iov_len);
                at += iov[i].iov_len;
        }
        return write_one(t, together, total);
}

void tls_close(struct tls *t)
{
        if (t->broken || !tls_is_ready(t))
                return;
        ERR_clear_error();
        (void)SSL_shutdown(t->ssl);
}

size_t tls_output(const struct tls *t, const char **ret)
{
        *ret = t->out.data;
        return t->out.len;
}

void tls_output_done(struct tls *t)
{
        buffer_finish(&t->out); /* an idle connection keeps no buffers */
}

const char *tls_reason(const struct tls *t)
{
        return t->reason;
}
