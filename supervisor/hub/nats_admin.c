/* nats_admin.c: connecting, asking, and what went wrong in words. */
#include "hub/nats_admin.h"

#include <errno.h>
#include <stdio.h>

#include "base/file.h"
#include "base/secret.h"
#include "base/text.h"

static const char *const levels[] = {
        [NATS_FINE] = "ok",      [NATS_DONE] = "done",   [NATS_WOULD] = "would",
        [NATS_WARN] = "warning", [NATS_WRONG] = "wrong",
};

const char *nats_level_name(enum nats_level l)
{
        return levels[l];
}

#ifdef LSV_HAVE_NATS
#include "hub/nats_admin_private.h"
#include "hub/nats_wire_private.h"

enum { SEED_FILE_MAX = 64 * 1024, SLICE_MS = 50 };

/* --- words ---------------------------------------------------------------------------------------------------------------- */

char *nats_admin_words(natsStatus s, const char *doing)
{
        const char *why = NULL, *more = NULL;
        natsStatus last = NATS_OK;

        switch (s) {
        case NATS_NO_SERVER:
                why = "nobody answers there: is nats-server up, and does a firewall let us through?";
                break;
        case NATS_CONNECTION_AUTH_FAILED:
                why = "the server refuses these credentials: \"hub worker list\" on its machine shows whom "
                      "it knows, and it must have "
                      "read users.conf again since";
                break;
        case NATS_SECURE_CONNECTION_REQUIRED:
                why = "the server wants TLS: write the URL as tls://…";
                break;
        case NATS_SECURE_CONNECTION_WANTED:
                why = "the server has no TLS: write the URL as nats://… if the network is yours, or give it "
                      "a certificate";
                break;
        case NATS_SSL_ERROR:
                more = nats_GetLastError(&last);
                why = "the TLS handshake failed: is the server's certificate signed by --tls-ca and made for "
                      "this host name?";
                break;
        case NATS_TIMEOUT:
                why = "no answer in time";
                break;
        case NATS_NO_RESPONDERS:
                why = "nobody serves that: is JetStream on for this account (nats.conf: jetstream: enabled)?";
                break;
        case NATS_NOT_PERMITTED:
                why = "these credentials may not publish to it";
                break;
        case NATS_INVALID_ARG:
        case NATS_ADDRESS_MISSING:
                why = "that is no address of a NATS server";
                break;
        default:
                more = nats_GetLastError(&last);
                why = natsStatus_GetText(s);
        }
        return text_format("%s: %s%s%s%s", doing, why, more && *more ? " (" : "", more && *more ? more : "",
                           more && *more ? ")" : "");
}

/* --- the seed's file ------------------------------------------------------------------------------------------------------ */

static void word_after(const char *text, const char *label, char *buf, size_t size)
{
        const char *at = strstr(text, label);
        size_t n;

        if (!at)
                return;
        at += strlen(label);
        n = strcspn(at, " \t\r\n");
        (void)snprintf(buf, size, "%.*s", (int)MIN(n, size - 1), at);
}

static int read_seed(struct nats_admin *a, const char *file, char public[NKEY_PUBLIC_SIZE], char **ret_why)
{
        _cleanup_free_ char *text = NULL;
        char seed[NKEY_SEED_SIZE], roles[NATS_ROLES_TEXT_MAX] = "";
        size_t len = 0;
        int r = file_read(file, SEED_FILE_MAX, &text, &len);

        if (r < 0) {
                *ret_why = text_format("%s: %s", file, strerror(-r));
                return r;
        }
        word_after(text, "# user: ", a->user, sizeof(a->user));
        word_after(text, "# roles: ", roles, sizeof(roles));
        if (!nats_user_name_is_good(a->user))
                a->user[0] = '\0';
        (void)nats_roles_parse(roles, &a->roles);
        r = nkey_find_seed(text, len, seed);
        if (r == 0)
                r = nkey_public(seed, public);
        secret_forget(seed, sizeof(seed));
        secret_forget(text, len);
        if (r < 0)
                *ret_why = text_format("%s holds no seed of a user (58 letters that begin with SU)", file);
        return r;
}

/* --- connecting ----------------------------------------------------------------------------------------------------------- */

/* The name that the certificate must have is said, since libnats can be built not to compare it by itself (NATS_BUILD_TLS_FORCE_HOST_VERIFY). */
static natsStatus set_tls(natsOptions *o, const struct nats_admin_spec *spec, const char *url)
{
        bool wants = starts_with(url, "tls://") || spec->tls_ca || spec->tls_cert;
        const char *host = strstr(url, "://");
        natsStatus s = wants ? natsOptions_SetSecure(o, true) : NATS_OK;
        char name[256];

        host = host ? host + 3 : url;
        host += *host == '[';
        (void)snprintf(name, sizeof(name), "%.*s",
                       (int)strcspn(host, host > url && host[-1] == '[' ? "]" : ":/"), host);
        if (spec->any_certificate)
                return s == NATS_OK ? natsOptions_SkipServerVerification(o, true) : s;
        if (s == NATS_OK && wants)
                s = natsOptions_SetExpectedHostname(o, name);
        if (s == NATS_OK && spec->tls_ca)
                s = natsOptions_LoadCATrustedCertificates(o, spec->tls_ca);
        if (s == NATS_OK && spec->tls_cert)
                s = natsOptions_LoadCertificatesChain(o, spec->tls_cert, spec->tls_key);
        return s;
}

static natsStatus sign(char **error, unsigned char **signature, int *len, const char *nonce, void *seed)
{
        unsigned char *out = malloc(NKEY_SIGNATURE_SIZE);

        (void)error;
        if (!out || nkey_sign(seed, nonce, strlen(nonce), out) < 0) {
                free(out);
                return NATS_ERR;
        }
        *signature = out;
        *len = NKEY_SIGNATURE_SIZE;
        return NATS_OK;
}

static natsStatus set_credentials(natsOptions *o, const struct nats_admin_spec *spec, const char *public)
{
        if (spec->nkey_file)
                return natsOptions_SetNKeyFromSeed(o, public, spec->nkey_file);
        if (spec->seed)
                return natsOptions_SetNKey(o, public, sign, (void *)spec->seed);
        if (spec->creds_file)
                return natsOptions_SetUserCredentialsFromFiles(o, spec->creds_file, NULL);
        return spec->user ? natsOptions_SetUserInfo(o, spec->user, spec->password) : NATS_OK;
}

static int make_options(struct nats_admin *a, const struct nats_admin_spec *spec, const char *url,
                        natsOptions *o, char **ret_why)
{
        char public[NKEY_PUBLIC_SIZE] = "", inbox[sizeof("_INBOX.") + NATS_USER_NAME_MAX];
        natsStatus s;
        int r = spec->nkey_file ? read_seed(a, spec->nkey_file, public, ret_why)
                : spec->seed    ? nkey_public(spec->seed, public)
                                : 0;

        if (r < 0)
                return r;
        s = natsOptions_SetURL(o, url);
        if (s == NATS_OK)
                s = natsOptions_SetTimeout(o, nats_ms(spec->timeout));
        if (s == NATS_OK)
                s = natsOptions_SetName(o, "llama-supervisor hub");
        if (s == NATS_OK)
                s = natsOptions_SetAllowReconnect(o, false);
        /* Who the server's friends are is no business of a name that was checked for this one. */
        if (s == NATS_OK)
                s = natsOptions_SetIgnoreDiscoveredServers(o, true);
        if (s == NATS_OK)
                s = set_credentials(o, spec, public);
        if (s != NATS_OK) {
                *ret_why = nats_admin_words(s, url);
                return -EINVAL;
        }
        s = set_tls(o, spec, url);
        if (s != NATS_OK) {
                *ret_why = nats_admin_words(s, "certificates (--tls-ca, --tls-cert, --tls-key)");
                return -EINVAL;
        }
        /* Answers come to an inbox that is ours alone: who may listen to all of them reads everybody's. */
        if (spec->user && nats_user_name_is_good(spec->user))
                (void)text_copy(a->user, sizeof(a->user), spec->user);
        if (*a->user) {
                (void)snprintf(inbox, sizeof(inbox), "_INBOX.%s", a->user);
                s = natsOptions_SetCustomInboxPrefix(o, inbox);
        }
        return s == NATS_OK ? 0 : -ENOMEM;
}

static bool has_credentials(const struct nats_admin_spec *spec)
{
        return spec->nkey_file || spec->seed || spec->creds_file || spec->user;
}

/* One server, with options of its own: what its certificate must be made for differs. */
static int connect_one(struct nats_admin *a, const struct nats_admin_spec *spec, const char *url,
                       char **ret_why)
{
        natsOptions *o = NULL;
        natsStatus s;
        int r = natsOptions_Create(&o) == NATS_OK ? make_options(a, spec, url, o, ret_why) : -ENOMEM;

        if (r == 0 && (s = nats_connect(&a->link, o)) != NATS_OK) {
                *ret_why = s == NATS_CONNECTION_AUTH_FAILED && !has_credentials(spec)
                                   ? text_format("%s: the server wants to know who we are: name a key "
                                                 "(--nkey FILE), "
                                                 "or a password (--user NAME --password-file FILE)",
                                                 url)
                                   : nats_admin_words(s, url);
                r = s == NATS_CONNECTION_AUTH_FAILED ? -EACCES : s == NATS_SSL_ERROR ? -EPROTO : -ENOTCONN;
        }
        natsOptions_Destroy(o);
        return r;
}

/* The first that lets us in; else why the last one did not. */
static int connect_any(struct nats_admin *a, const struct nats_admin_spec *spec, char **ret_why)
{
        int r = -EINVAL;

        for (const char *p = spec->url; *p && !a->link;) {
                _cleanup_free_ char *url = text_format("%.*s", (int)strcspn(p, ","), p);

                free(steal_ptr(*ret_why));
                if (!url)
                        return -ENOMEM;
                r = connect_one(a, spec, url, ret_why);
                p += strlen(url);
                p += *p == ',';
        }
        if (r == -EINVAL && !*ret_why)
                *ret_why = nats_admin_words(NATS_ADDRESS_MISSING, spec->url);
        return r;
}

int nats_admin_open(const struct nats_admin_spec *spec, struct nats_admin **ret, char **ret_why)
{
        struct nats_admin *a = calloc(1, sizeof(*a));
        int r;

        *ret_why = NULL;
        if (!a)
                return -ENOMEM;
        a->timeout = spec->timeout;
        r = nats_Open(-1) == NATS_OK ? connect_any(a, spec, ret_why) : -ENOMEM;
        if (r < 0) {
                nats_admin_close(a);
                return r;
        }
        *ret = a;
        return 0;
}

/* The library itself stays open until the process ends: once it was closed, its exit handler frees a list of libcrypto's that libcrypto frees
 * itself (src/nats.c: _finalCleanup), and a program that had used TLS died of it after all was done. */
struct nats_admin *nats_admin_close(struct nats_admin *a)
{
        if (!a)
                return NULL;
        natsConnection_Destroy(a->link);
        nats_ReleaseThreadMemory();
        free(a);
        return NULL;
}

const char *nats_admin_user(const struct nats_admin *a)
{
        return *a->user ? a->user : NULL;
}

unsigned nats_admin_roles(const struct nats_admin *a)
{
        return a->roles;
}

/* --- asking --------------------------------------------------------------------------------------------------------------- */

/* The server tells of a refusal by a line of its own, and of nothing else: `Permissions Violation for Publish to "x"`. */
bool nats_admin_was_denied(struct nats_admin *a, const char *subject)
{
        _cleanup_free_ char *quoted = text_format("\"%s\"", subject);
        const char *text = NULL;
        natsStatus s = natsConnection_GetLastError(a->link, &text);

        return s == NATS_NOT_PERMITTED && text && quoted && strstr(text, quoted);
}

/* Waits in slices, since a refusal comes as an error of the connection, not as an answer. */
static natsStatus wait_for_answer(struct nats_admin *a, natsSubscription *sub, const char *subject,
                                  natsMsg **ret)
{
        usec_t until = usec_add(time_monotonic(), a->timeout);
        natsStatus s;

        for (;;) {
                s = natsSubscription_NextMsg(ret, sub, SLICE_MS);
                if (s == NATS_OK && natsMsg_IsNoResponders(*ret)) {
                        natsMsg_Destroy(*ret);
                        *ret = NULL;
                        return NATS_NO_RESPONDERS;
                }
                if (s != NATS_TIMEOUT)
                        return s;
                if (nats_admin_was_denied(a, subject))
                        return NATS_NOT_PERMITTED;
                if (time_monotonic() >= until)
                        return NATS_TIMEOUT;
        }
}

natsStatus nats_admin_request(struct nats_admin *a, natsMsg *m, natsMsg **ret)
{
        natsSubscription *sub = NULL;
        natsInbox *inbox = NULL;
        natsMsg *asked = NULL;
        const char *subject = natsMsg_GetSubject(m), *header = NULL;
        static const char *const headers[] = {NATS_HEADER_MSG_ID, NATS_HEADER_EXPECT};
        natsStatus s = natsInbox_Create(&inbox);

        if (*a->user && s == NATS_OK) {
                _cleanup_free_ char *own = text_format("_INBOX.%s%s", a->user, strchr(inbox, '.'));

                natsInbox_Destroy(inbox);
                inbox = own ? strdup(own) : NULL; /* libnats frees by free() what it has made by malloc() */
                s = inbox ? NATS_OK : NATS_NO_MEMORY;
        }
        if (s == NATS_OK)
                s = natsMsg_Create(&asked, subject, inbox, natsMsg_GetData(m), natsMsg_GetDataLength(m));
        for (size_t i = 0; s == NATS_OK && i < ARRAY_SIZE(headers); i++)
                if (natsMsgHeader_Get(m, headers[i], &header) == NATS_OK)
                        s = natsMsgHeader_Set(asked, headers[i], header);
        if (s == NATS_OK)
                s = natsConnection_SubscribeSync(&sub, a->link, inbox);
        if (s == NATS_OK)
                s = natsConnection_PublishMsg(a->link, asked);
        if (s == NATS_OK)
                s = wait_for_answer(a, sub, subject, ret);
        natsSubscription_Destroy(sub);
        natsMsg_Destroy(asked);
        natsInbox_Destroy(inbox);
        return s;
}

int nats_admin_ask(struct nats_admin *a, const char *subject, const char *body, struct json_value **ret,
                   char **ret_why)
{
        natsMsg *m = NULL, *answer = NULL;
        natsStatus s = natsMsg_Create(&m, subject, NULL, body ? body : "", body ? (int)strlen(body) : 0);
        int r = 0;

        *ret_why = NULL;
        if (s == NATS_OK)
                s = nats_admin_request(a, m, &answer);
        if (s != NATS_OK) {
                r = s == NATS_NO_RESPONDERS   ? -ENOSYS
                    : s == NATS_TIMEOUT       ? -ETIMEDOUT
                    : s == NATS_NOT_PERMITTED ? -EACCES
                    : s == NATS_NO_MEMORY     ? -ENOMEM
                                              : -EPIPE;
                *ret_why = nats_admin_words(s, subject);
        } else {
                r = json_parse(natsMsg_GetData(answer), (size_t)natsMsg_GetDataLength(answer), ret, NULL);
                if (r < 0)
                        *ret_why = text_format("%s: the answer is no JSON", subject);
        }
        natsMsg_Destroy(m);
        natsMsg_Destroy(answer);
        return r;
}

int nats_admin_error(const struct json_value *answer, const char **ret_text)
{
        const struct json_value *error = json_get(answer, "error");
        const char *text = json_get_string(error, "description");
        int code = (int)json_get_int(error, "err_code", 0);

        *ret_text = text ? text : "an error without words";
        return !error ? 0 : code ? code : -1;
}

#else

int nats_admin_open(const struct nats_admin_spec *spec, struct nats_admin **ret, char **ret_why)
{
        (void)spec;
        (void)ret;
        *ret_why = text_dup("this program was built without libnats: build it with -DLSV_NATS=ON, or use a "
                            "package that has it");
        return -ENOSYS;
}

#endif
