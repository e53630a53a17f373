/* main_hub_verify.c: the probe of users.conf knocks at the servers until it is let in. */
#include "main_hub_verify.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "base/file.h"
#include "base/text.h"
#include "core/nats_conf.h"
#include "hub/nats_admin.h"

#define PATIENCE (10 * USEC_PER_SEC)

enum { CONF_MAX = 1 << 20, AGAIN_MS = 50 };

/* The server beside the file: "nats://HOST:PORT"; NULL with why not. It says itself whether it wants TLS. */
static char *local_url(const char *path, char **ret_why)
{
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *conf = text_format("%.*snats.conf", slash ? (int)(slash + 1 - path) : 0, path),
                            *text = NULL;
        char address[300];
        size_t len = 0;
        int r = conf ? file_read(conf, CONF_MAX, &text, &len) : -ENOMEM;

        if (r == 0)
                r = nats_conf_address(text, len, address, sizeof(address));
        if (r == 0)
                return text_format("nats://%s", address);
        *ret_why = text_format("%s does not say where the server is (%s); name it: --url tls://HOST:4222",
                               conf ? conf : "nats.conf", strerror(-r));
        return NULL;
}

/* 0: it has the file; -EACCES: it had not when it was asked last; else it cannot be asked, as *ret_why says. */
static int knock(const struct nats_admin_spec *given, usec_t until, char **ret_why)
{
        struct nats_admin_spec spec = *given;
        struct nats_admin *a = NULL;
        bool was_refused = false;
        int r;

        for (;;) {
                usec_t now = time_monotonic();

                spec.timeout = MAX(until > now ? until - now : 0, USEC_PER_SEC);
                free(steal_ptr(*ret_why));
                r = nats_admin_open(&spec, &a, ret_why);
                if (r == 0)
                        break;
                was_refused |= r == -EACCES;
                if (r != -EACCES && r != -ENOTCONN)
                        return r;
                /* A refusal that was cut short, by the server or by our own deadline, is none of libnats's. */
                if (time_monotonic() >= until)
                        return was_refused ? -EACCES : r;
                (void)poll(NULL, 0, AGAIN_MS);
        }
#ifdef LSV_HAVE_NATS
        nats_admin_close(a);
#endif
        return 0;
}

static void put(struct hub_call *c, const char *url, int result, const char *why)
{
        if (!c->json)
                return;
        json_open_object(&c->w);
        json_string(&c->w, "server", url);
        json_key(&c->w, "holds");
        if (result == 0 || result == -EACCES)
                json_put_bool(&c->w, result == 0);
        else
                json_put_null(&c->w);
        json_string(&c->w, "error", result == 0 ? NULL : why);
        json_close_object(&c->w);
}

static int verify_one(struct hub_call *c, const char *path, struct nats_admin_spec *spec, usec_t until)
{
        _cleanup_free_ char *why = NULL;
        int r = knock(spec, until, &why);

        put(c, spec->url, r, why);
        if (r == 0) {
                if (!c->json)
                        hub_note("%s has read it: the change holds", spec->url);
                return CLI_DONE;
        }
        if (r == -EACCES)
                return hub_fail("%s still goes on with an older file: does its nats.conf include %s "
                                "(nats-server -t -c nats.conf), and what does its log say? Until then the "
                                "change does not hold there",
                                spec->url, path);
        hub_note("it is not verified that the change holds at %s: %s", spec->url, why ? why : strerror(-r));
        return CLI_DONE;
}

/* Keys are proved by a signature, so nothing is given away to whoever answers at our own machine, whatever its certificate is made for. */
static int verify_all(struct hub_call *c, const char *path, const char *seed, const char *urls, bool is_given,
                      usec_t patience)
{
        struct nats_admin_spec spec = {.seed = seed,
                                       .any_certificate = !is_given,
                                       .tls_ca = options_get(&c->options, "tls-ca"),
                                       .tls_cert = options_get(&c->options, "tls-cert"),
                                       .tls_key = options_get(&c->options, "tls-key")};
        usec_t until = usec_add(time_monotonic(), patience);
        int r = CLI_DONE;

        for (const char *p = urls; *p;) {
                _cleanup_free_ char *url = text_format("%.*s", (int)strcspn(p, ","), p);

                if (!url)
                        return hub_fail("not enough memory");
                spec.url = url;
                if (verify_one(c, path, &spec, until) != CLI_DONE)
                        r = CLI_FAILED;
                p += strlen(url);
                p += *p == ',';
        }
        return r;
}

static int take_options(struct hub_call *c, const char **ret_url, usec_t *ret_patience)
{
        int r = hub_url(c, ret_url);

        return r == CLI_DONE ? hub_span(c, "timeout", PATIENCE, ret_patience) : r;
}

int hub_verify_check(struct hub_call *c)
{
        const char *url;
        usec_t patience;

        return take_options(c, &url, &patience);
}

int hub_verify(struct hub_call *c, const char *path, const char *seed, bool was_told)
{
        _cleanup_free_ char *local = NULL, *why = NULL;
        const char *given = NULL;
        usec_t patience;
        int r = take_options(c, &given, &patience);

        if (r != CLI_DONE || (!given && !was_told))
                return r;
        if (!given && !(local = local_url(path, &why))) {
                hub_note("it is not verified that the change holds: %s", why ? why : "not enough memory");
                return CLI_DONE;
        }
        if (c->json) {
                json_key(&c->w, "servers");
                json_open_array(&c->w);
        }
        r = verify_all(c, path, seed, given ? given : local, given, patience);
        if (c->json)
                json_close_array(&c->w);
        return r;
}
