/* nats_dial.c: one connection to one NATS server: options, credentials, TLS. Blocks; only nats_wire.c's thread comes here. */
#include "hub/nats_wire_private.h"

#ifdef LSV_HAVE_NATS

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/macros.h"
#include "base/nkey.h"
#include "base/secret.h"
#include "base/text.h"

enum {
        CREDENTIALS_MAX = 64 << 10,
        CONNECT_MS = 5000,
        WRITE_MS = 10000,
        PING_MS = 5000, /* twice unanswered: the connection is dead, long before a lease is over */
};

struct secret_text {
        char *p;
        size_t len;
};

static void secret_text_finish(struct secret_text *s)
{
        if (s->p)
                secret_forget(s->p, s->len);
        free(s->p);
}

static void options_finish(natsOptions **o)
{
        natsOptions_Destroy(*o);
}

static natsStatus sign(char **error, unsigned char **signature, int *len, const char *nonce, void *seed)
{
        unsigned char *out = malloc(NKEY_SIGNATURE_SIZE);

        if (!out)
                return NATS_NO_MEMORY;
        if (nkey_sign(seed, nonce, strlen(nonce), out) < 0) {
                free(out);
                *error = text_dup("the seed does not sign");
                return NATS_ERR;
        }
        *signature = out;
        *len = NKEY_SIGNATURE_SIZE;
        return NATS_OK;
}

/* libnats' last words in this thread, which are better than its status' general ones. */
static const char *words(natsStatus s)
{
        natsStatus last = NATS_OK;
        const char *text = nats_GetLastError(&last);

        if (!text || !*text || last != s)
                return natsStatus_GetText(s);
        /* "(conn.c:1905): Authorization Violation": where in libnats is of no use to who reads this. */
        if (*text == '(' && strstr(text, "): "))
                text = strstr(text, "): ") + 3;
        return *text ? text : natsStatus_GetText(s);
}

/* seed must live as long as the options: it signs. */
static int put_credentials(natsOptions *o, const struct nats_dial *d, char seed[NKEY_SEED_SIZE], char *why,
                           size_t size)
{
        _cleanup_(secret_text_finish) struct secret_text s = {0};
        char public[NKEY_PUBLIC_SIZE];
        natsStatus ns;
        int r;

        if (!d->credentials_file)
                return 0;
        r = file_read(d->credentials_file, CREDENTIALS_MAX, &s.p, &s.len);
        if (r < 0) {
                (void)snprintf(why, size, "%s: %s", d->credentials_file, strerror(-r));
                return -EIO;
        }
        if (d->user) {
                s.p[strcspn(s.p, "\r\n")] = '\0';
                ns = natsOptions_SetUserInfo(o, d->user, s.p);
        } else if (strstr(s.p, "-----BEGIN NATS USER JWT-----")) {
                ns = natsOptions_SetUserCredentialsFromFiles(o, d->credentials_file, NULL);
        } else if (nkey_find_seed(s.p, s.len, seed) == 0 && nkey_public(seed, public) == 0) {
                ns = natsOptions_SetNKey(o, public, sign, seed);
        } else {
                (void)snprintf(
                        why, size,
                        "%s holds neither an nkey's seed (\"SU…\") nor a user's JWT; for a password give "
                        "\"user\", too",
                        d->credentials_file);
                return -EIO;
        }
        if (ns != NATS_OK) {
                (void)snprintf(why, size, "%s: %s", d->credentials_file, words(ns));
                return -EIO;
        }
        return 0;
}

static int put_tls(natsOptions *o, const struct nats_dial *d, char *why, size_t size)
{
        const char *host = strstr(d->url, "://") + 3, *file = NULL;
        char name[256];
        natsStatus ns;

        if (!starts_with(d->url, "tls://"))
                return 0;
        /* The name in the certificate is the one of the URL. */
        if (*host == '[')
                (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(host + 1, "]"), host + 1);
        else
                (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(host, ":/"), host);
        ns = natsOptions_SetSecure(o, true);
        if (ns == NATS_OK)
                ns = natsOptions_SetExpectedHostname(o, name);
        if (ns == NATS_OK && d->ca_file) {
                file = d->ca_file;
                ns = natsOptions_LoadCATrustedCertificates(o, d->ca_file);
        }
        if (ns == NATS_OK && d->cert_file) {
                file = d->cert_file;
                ns = natsOptions_LoadCertificatesChain(o, d->cert_file, d->key_file);
        }
        if (ns == NATS_OK)
                return 0;
        (void)snprintf(why, size, "%s%s%s", file ? file : "", file ? ": " : "TLS: ", words(ns));
        return -EIO;
}

/* libnats makes its sockets without close-on-exec (src/comsock.c); children have all closed behind the first, but our own upgrade by exec(2)
 * would carry a connection along that nobody reads, and jobs with it. The socket is known by its peer's port. */
static void close_on_exec(const char *peer)
{
        const char *colon = strrchr(peer, ':');
        unsigned long port = colon ? strtoul(colon + 1, NULL, 10) : 0;
        DIR *dir = port ? opendir("/proc/self/fd") : NULL;
        struct dirent *e;

        if (!dir)
                return;
        while ((e = readdir(dir))) {
                int fd = (int)strtol(e->d_name, NULL, 10), flags;
                union {
                        struct sockaddr sa;
                        struct sockaddr_in in;
                        struct sockaddr_in6 in6;
                        struct sockaddr_storage all;
                } a = {.all = {0}};
                socklen_t len = sizeof(a);

                if (fd <= STDERR_FILENO || getpeername(fd, &a.sa, &len) < 0)
                        continue;
                if ((a.sa.sa_family == AF_INET && ntohs(a.in.sin_port) == port) ||
                    (a.sa.sa_family == AF_INET6 && ntohs(a.in6.sin6_port) == port)) {
                        flags = fcntl(fd, F_GETFD);
                        if (flags >= 0 && !(flags & FD_CLOEXEC))
                                (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
                }
        }
        (void)closedir(dir);
}

static void closed(natsConnection *nc, void *closure)
{
        const struct nats_session_events *e = closure;

        (void)nc;
        e->on_closed(e->owner);
}

static void complained(natsConnection *nc, natsSubscription *sub, natsStatus s, void *closure)
{
        const struct nats_session_events *e = closure;
        const char *text = NULL;

        (void)sub;
        if (natsConnection_GetLastError(nc, &text) != s || !text || !*text)
                text = natsStatus_GetText(s);
        e->on_complaint(e->owner, text);
}

natsStatus nats_connect(natsConnection **ret, natsOptions *o)
{
        natsStatus s = natsConnection_Connect(ret, o);

        return s == NATS_CONNECTION_AUTH_FAILED ? natsConnection_Connect(ret, o) : s;
}

int nats_dial(const struct nats_dial *d, const struct nats_session_events *events, natsConnection **ret,
              char *why, size_t size)
{
        _cleanup_(options_finish) natsOptions *o = NULL;
        natsConnection *nc = NULL;
        char seed[NKEY_SEED_SIZE] = "", peer[256] = "";
        natsStatus ns = natsOptions_Create(&o);
        int r;

#define SET(call) (ns = ns == NATS_OK ? (call) : ns)
        SET(natsOptions_SetURL(o, d->url));
        SET(natsOptions_SetName(o, d->name));
        SET(natsOptions_SetAllowReconnect(o, false));
        SET(natsOptions_SetIgnoreDiscoveredServers(o, true));
        SET(natsOptions_SetTimeout(o, CONNECT_MS));
        SET(natsOptions_SetWriteDeadline(o, WRITE_MS));
        SET(natsOptions_SetPingInterval(o, PING_MS));
        SET(natsOptions_SetMaxPingsOut(o, 2));
        SET(natsOptions_UseGlobalMessageDelivery(o, true));
        SET(natsOptions_SetSendAsap(o, true));
        SET(natsOptions_SetClosedCB(o, closed, (void *)events));
        SET(natsOptions_SetErrorHandler(o, complained, (void *)events));
#undef SET
        if (ns != NATS_OK) {
                (void)snprintf(why, size, "%s: %s", d->url, words(ns));
                return -EIO;
        }
        r = put_credentials(o, d, seed, why, size);
        if (r >= 0)
                r = put_tls(o, d, why, size);
        if (r < 0)
                goto out;
        ns = nats_connect(&nc, o);
        if (ns != NATS_OK) {
                (void)snprintf(why, size, "%s: %s", d->url, words(ns));
                r = ns == NATS_CONNECTION_AUTH_FAILED ? -EACCES : -EIO;
                goto out;
        }
        if (natsConnection_GetConnectedUrl(nc, peer, sizeof(peer)) == NATS_OK)
                close_on_exec(peer);
        *ret = nc;
out:
        secret_forget(seed, sizeof(seed));
        return r;
}

#endif
