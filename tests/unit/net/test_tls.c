/* test_tls.c: TLS under a stream: a server's stream on one end of a socketpair, OpenSSL's own blocking client in a thread on the
 * other; and certificates, which are made here. */
#include "net/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "net/stream.h"

enum { PATIENCE = 60 };

/* --- certificates ----------------------------------------------------------------------------------------------------- */

struct files {
        char dir[64], cert[96], key[96];
};

static void write_pair(const struct files *f, const char *name, long from, long until)
{
        EVP_PKEY *key = EVP_EC_gen("P-256");
        X509 *x = X509_new();
        FILE *out;

        assert_non_null(key);
        assert_non_null(x);
        (void)ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
        (void)X509_gmtime_adj(X509_getm_notBefore(x), from);
        (void)X509_gmtime_adj(X509_getm_notAfter(x), until);
        (void)X509_set_pubkey(x, key);
        (void)X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                                         (const unsigned char *)name, -1, -1, 0);
        (void)X509_set_issuer_name(x, X509_get_subject_name(x));
        assert_true(X509_sign(x, key, EVP_sha256()) > 0);
        out = fopen(f->cert, "we");
        assert_non_null(out);
        assert_int_equal(PEM_write_X509(out, x), 1);
        assert_int_equal(fclose(out), 0);
        out = fopen(f->key, "we");
        assert_non_null(out);
        assert_int_equal(PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL), 1);
        assert_int_equal(fclose(out), 0);
        X509_free(x);
        EVP_PKEY_free(key);
}

static struct files make_files(void)
{
        struct files f = {.dir = "/tmp/lsv-tls-XXXXXX"};

        assert_non_null(mkdtemp(f.dir));
        (void)snprintf(f.cert, sizeof(f.cert), "%s/c.pem", f.dir);
        (void)snprintf(f.key, sizeof(f.key), "%s/k.pem", f.dir);
        write_pair(&f, "first", -3600, 3600);
        return f;
}

static void remove_files(const struct files *f)
{
        (void)unlink(f->cert);
        (void)unlink(f->key);
        assert_int_equal(rmdir(f->dir), 0);
}

static void a_certificate_is_read_again_whole_or_not(void **state)
{
        struct files f = make_files();
        struct tls_context *c;
        usec_t now = time_realtime();
        char *error = NULL;
        bool changed = true;
        FILE *out;

        (void)state;
        assert_int_equal(tls_context_new(f.cert, f.key, &c, &error), 0);
        assert_string_equal(tls_context_certificate(c)->subject, "first");
        assert_true(tls_context_certificate(c)->from < now && tls_context_certificate(c)->until > now);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), 0);
        assert_false(changed);
        write_pair(&f, "second", -3600, 7200);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), 0);
        assert_true(changed);
        assert_string_equal(tls_context_certificate(c)->subject, "second");
        /* Out of its time while the old one is not. */
        write_pair(&f, "third", -7200, -3600);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), -EINVAL);
        assert_non_null(strstr(error, "has expired"));
        free(error);
        write_pair(&f, "fourth", 3600, 7200);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), -EINVAL);
        assert_non_null(strstr(error, "not valid yet"));
        free(error);
        out = fopen(f.cert, "we");
        assert_non_null(out);
        (void)fputs("nonsense\n", out);
        (void)fclose(out);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), -EINVAL);
        assert_non_null(strstr(error, "c.pem: holds no certificate"));
        free(error);
        assert_int_equal(unlink(f.cert), 0);
        assert_int_equal(tls_context_reload(c, now, &changed, &error), -ENOENT);
        free(error);
        assert_string_equal(tls_context_certificate(c)->subject, "second");
        c = tls_context_free(c);
        remove_files(&f);
}

/* --- a stream and a client ------------------------------------------------------------------------------------------------ */

struct world {
        struct files files;
        struct tls_context *context;
        struct loop *loop;
        struct stream *stream;
        struct timer *limit;
        int fd; /* the client's end */
        void (*client)(struct world *w, SSL *ssl);
        pthread_t thread;
        struct buffer got;
        bool echo, connected, free_in_read;
        int connect_result, end;
        unsigned ends, drains;
        size_t queued_max;
};

static void on_connect(void *owner, int error)
{
        struct world *w = owner;

        assert_false(w->connected);
        w->connected = true;
        w->connect_result = error;
        if (error)
                loop_stop(w->loop);
}

static void on_read(void *owner, char *data, size_t len)
{
        struct world *w = owner;
        struct iovec iov[2] = {{data, len / 2}, {data + len / 2, len - len / 2}};

        assert_true(w->connected);
        if (w->free_in_read) {
                w->stream = stream_free(w->stream);
                loop_stop(w->loop);
                return;
        }
        assert_int_equal(buffer_append(&w->got, data, len), 0);
        if (w->echo)
                assert_int_equal(stream_write(w->stream, iov, 2), 0);
        w->queued_max = MAX(w->queued_max, stream_queued(w->stream));
        memset(data, 'X', len); /* it may be written over */
}

static void on_end(void *owner, int error)
{
        struct world *w = owner;

        w->end = error;
        w->ends++;
        loop_stop(w->loop);
}

static void on_drain(void *owner)
{
        struct world *w = owner;

        w->drains++;
}

static const struct stream_events events = {on_connect, on_read, on_end, on_drain};

static void on_limit(void *owner, usec_t now)
{
        (void)owner;
        (void)now;
        fail_msg("it takes too long");
}

static void *run_client(void *owner)
{
        struct world *w = owner;
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL *ssl = SSL_new(ctx);

        SSL_set_fd(ssl, w->fd);
        w->client(w, ssl);
        SSL_free(ssl);
        SSL_CTX_free(ctx);
        close(w->fd);
        return NULL;
}

static struct world *setup(void)
{
        struct world *w = calloc(1, sizeof(*w));
        char *error = NULL;
        int fds[2];

        assert_non_null(w);
        w->files = make_files();
        buffer_init(&w->got, 0);
        assert_int_equal(tls_context_new(w->files.cert, w->files.key, &w->context, &error), 0);
        assert_int_equal(loop_new(&w->loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        w->fd = fds[0];
        assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
        assert_int_equal(stream_open(w->loop, fds[1], true, &events, w, &w->stream), 0);
        assert_int_equal(stream_serve_tls(w->stream, w->context), 0);
        assert_false(stream_is_ready(w->stream));
        assert_int_equal(stream_read(w->stream, true), 0);
        assert_int_equal(timer_new(w->loop, on_limit, w, &w->limit), 0);
        timer_set(w->limit, usec_add(loop_now(w->loop), PATIENCE * USEC_PER_SEC));
        return w;
}

static void run(struct world *w, void (*client)(struct world *w, SSL *ssl))
{
        w->client = client;
        assert_int_equal(pthread_create(&w->thread, NULL, run_client, w), 0);
        loop_run(w->loop);
}

static void teardown(struct world *w)
{
        w->stream = stream_free(w->stream);
        timer_free(w->limit);
        loop_free(w->loop);
        assert_int_equal(pthread_join(w->thread, NULL), 0);
        (void)tls_context_free(w->context);
        buffer_finish(&w->got);
        remove_files(&w->files);
        free(w);
}

enum { MUCH = 1024 * 1024 };

/* Writes and reads at once, as the echo would stop otherwise when both directions are full. */
static void *write_much(void *owner)
{
        SSL *ssl = owner;
        static char data[MUCH];

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (char)('a' + i % 23);
        for (size_t at = 0; at < sizeof(data); at += 4096)
                if (SSL_write(ssl, data + at, 4096) != 4096)
                        return NULL;
        return owner;
}

static void client_echo(struct world *w, SSL *ssl)
{
        static char back[MUCH];
        size_t n = 0;

        (void)w;
        if (SSL_connect(ssl) != 1 || !write_much(ssl))
                return;
        while (n < sizeof(back)) {
                int r = SSL_read(ssl, back + n, (int)(sizeof(back) - n));

                if (r <= 0)
                        return;
                n += (size_t)r;
        }
        for (size_t i = 0; i < sizeof(back); i++)
                if (back[i] != (char)('a' + i % 23))
                        return;
        (void)SSL_shutdown(ssl);
}

static void much_goes_both_ways(void **state)
{
        struct world *w = setup();

        (void)state;
        w->echo = true;
        run(w, client_echo);
        assert_int_equal(w->connect_result, 0);
        assert_true(stream_is_ready(w->stream));
        assert_int_equal(w->got.len, MUCH);
        /* The goodbye says that the client had it back, letter by letter. */
        assert_int_equal(w->end, 0);
        assert_int_equal(w->ends, 1);
        assert_true(w->queued_max > 0 && w->drains > 0);
        teardown(w);
}

static void client_wants_to_hear_goodbye(struct world *w, SSL *ssl)
{
        char buf[16];

        (void)w;
        if (SSL_connect(ssl) != 1 || SSL_write(ssl, "hello", 5) != 5)
                return;
        if (SSL_read(ssl, buf, sizeof(buf)) == 5 && SSL_read(ssl, buf, sizeof(buf)) == 0 &&
            SSL_get_error(ssl, 0) == SSL_ERROR_ZERO_RETURN)
                (void)SSL_write(ssl, "it was orderly", 14);
}

static void on_read_then_close(void *owner, char *data, size_t len)
{
        struct world *w = owner;
        bool first = w->got.len == 0;

        on_read(owner, data, len);
        w->echo = false;
        if (first)
                stream_shutdown(w->stream);
}

static void the_end_is_told_to_the_peer(void **state)
{
        static const struct stream_events closing = {on_connect, on_read_then_close, on_end, on_drain};
        struct world *w = setup();
        struct iovec iov = {(char *)"x", 1};

        (void)state;
        w->stream = stream_free(w->stream);
        close(w->fd);
        {
                int fds[2];

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                w->fd = fds[0];
                assert_int_equal(fcntl(fds[1], F_SETFL, O_NONBLOCK), 0);
                assert_int_equal(stream_open(w->loop, fds[1], true, &closing, w, &w->stream), 0);
                assert_int_equal(stream_serve_tls(w->stream, w->context), 0);
                assert_int_equal(stream_read(w->stream, true), 0);
        }
        /* Before the handshake there is nobody to say anything to. */
        assert_int_equal(stream_write(w->stream, &iov, 1), -EPIPE);
        w->echo = true;
        run(w, client_wants_to_hear_goodbye);
        assert_int_equal(w->end, 0);
        assert_int_equal(w->got.len, 5 + 14);
        assert_memory_equal(w->got.data, "helloit was orderly", 19);
        teardown(w);
}

static void client_plain(struct world *w, SSL *ssl)
{
        (void)ssl;
        (void)!write(w->fd, "GET / HTTP/1.1\r\n\r\n", 18);
        (void)!read(w->fd, (char[1]){0}, 1);
}

static void plain_text_can_be_answered(void **state)
{
        struct world *w = setup();
        struct iovec iov = {(char *)"no", 2};

        (void)state;
        run(w, client_plain);
        assert_int_equal(w->connect_result, -EPROTONOSUPPORT);
        assert_int_equal(stream_write(w->stream, &iov, 1), 0);
        teardown(w);
}

static void client_rubbish(struct world *w, SSL *ssl)
{
        char alert[16] = {0};

        (void)ssl;
        (void)!write(w->fd, "\x16\x03\x01\x00\x05hello", 10);
        /* A fatal alert comes back. */
        if (read(w->fd, alert, sizeof(alert)) < 7 || alert[0] != 21 || alert[5] != 2)
                abort();
        (void)!read(w->fd, alert, sizeof(alert));
}

static void rubbish_breaks_it(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, client_rubbish);
        assert_int_equal(w->end, -EPROTO);
        assert_int_equal(w->ends, 1);
        assert_false(w->connected);
        teardown(w);
}

static void client_hello(struct world *w, SSL *ssl)
{
        (void)w;
        if (SSL_connect(ssl) == 1) {
                (void)SSL_write(ssl, "one", 3);
                (void)SSL_write(ssl, "two", 3);
                (void)SSL_read(ssl, (char[1]){0}, 1);
        }
}

static void it_may_be_freed_while_it_reads(void **state)
{
        struct world *w = setup();

        (void)state;
        w->free_in_read = true;
        run(w, client_hello);
        assert_null(w->stream);
        teardown(w);
}

/* Asks for new keys again and again and never reads: each wants an answer. */
static void client_asks_and_never_reads(struct world *w, SSL *ssl)
{
        struct pollfd p = {.fd = w->fd, .events = POLLOUT};

        if (SSL_connect(ssl) != 1)
                return;
        for (int i = 0; i < 1000000; i++) {
                if (poll(&p, 1, PATIENCE * 1000) <= 0 || p.revents & (POLLHUP | POLLERR) ||
                    SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) != 1 || SSL_write(ssl, "x", 1) != 1)
                        return;
        }
}

static void questions_of_tls_itself_are_bounded(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, client_asks_and_never_reads);
        assert_int_equal(w->connect_result, 0);
        assert_true(w->end == -EPROTO);
        assert_in_range(stream_queued(w->stream), 1, 128 * 1024);
        teardown(w);
}

static void client_goes(struct world *w, SSL *ssl)
{
        (void)w;
        /* Of 1.3 it would leave tickets unread, and a unix socket's end would be a reset. */
        (void)SSL_set_max_proto_version(ssl, TLS1_2_VERSION);
        (void)SSL_connect(ssl);
        (void)SSL_write(ssl, "x", 1);
        SSL_set_quiet_shutdown(ssl, 1);
}

static void a_bare_end_is_an_end(void **state)
{
        struct world *w = setup();

        (void)state;
        run(w, client_goes);
        assert_int_equal(w->got.len, 1);
        assert_int_equal(w->ends, 1);
        assert_int_equal(w->end, 0);
        teardown(w);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_certificate_is_read_again_whole_or_not),
                cmocka_unit_test(much_goes_both_ways),
                cmocka_unit_test(the_end_is_told_to_the_peer),
                cmocka_unit_test(plain_text_can_be_answered),
                cmocka_unit_test(rubbish_breaks_it),
                cmocka_unit_test(it_may_be_freed_while_it_reads),
                cmocka_unit_test(questions_of_tls_itself_are_bounded),
                cmocka_unit_test(a_bare_end_is_an_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
