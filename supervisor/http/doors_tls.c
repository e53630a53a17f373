/* doors_tls.c: the certificates of the listeners: read at start, again by a reload and when their files change. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/text.h"
#include "http/doors_private.h"
#include "http/exposition.h"
#include "net/filewatch.h"
#include "net/tls.h"

struct doors_certificate {
        struct doors *doors;
        struct tls_context *context;
        struct filewatch *watch;
        char *file;          /* of the certificate, for messages */
        const char *address; /* in doors.addresses */
};

static void until_text(const struct tls_certificate *c, char *buf, size_t size)
{
        char at[TIME_ISO_MAX];

        (void)snprintf(buf, size, "%s, valid until %s", c->subject, time_iso(c->until, at, sizeof(at)));
}

/* Clients will refuse it; the operator shall know from us, and the fleet behind it is served all the same. */
static void warn_out_of_time(struct doors_certificate *own)
{
        const struct tls_certificate *c = tls_context_certificate(own->context);
        usec_t now = loop_realtime(own->doors->loop);
        _cleanup_free_ char *text = NULL;
        char at[TIME_ISO_MAX];

        if (c->until <= now)
                text = text_format("%s: this certificate (%s) has expired at %s: clients refuse it",
                                   own->file, c->subject, time_iso(c->until, at, sizeof(at)));
        else if (c->from > now)
                text = text_format("%s: this certificate (%s) is not valid before %s: clients refuse it",
                                   own->file, c->subject, time_iso(c->from, at, sizeof(at)));
        if (text)
                doors_tell(own->doors, "certificate_failed", text, true);
}

static void reload(struct doors_certificate *own)
{
        _cleanup_free_ char *error = NULL, *text = NULL;
        char until[TLS_NAME_MAX + 2 * TIME_ISO_MAX];
        bool changed = false;
        int r = tls_context_reload(own->context, loop_realtime(own->doors->loop), &changed, &error);

        until_text(tls_context_certificate(own->context), until, sizeof(until));
        if (r < 0) {
                own->doors->counts.tls_reloads_failed++;
                text = text_format("%s; the certificate read before stays in use (%s)",
                                   error ? error : strerror(-r), until);
        } else if (changed) {
                own->doors->counts.tls_reloads++;
                text = text_format("%s was read again: %s", own->file, until);
        }
        if (text)
                doors_tell(own->doors, r < 0 ? "certificate_failed" : "certificate", text, r < 0);
        if (changed)
                warn_out_of_time(own);
}

static void on_changed(void *owner, usec_t now)
{
        (void)now;
        reload(owner);
}

int doors_tls_open(struct doors *d, const struct config_listen *at, struct listener *l, char **ret_error)
{
        struct doors_certificate *grown, *own;
        int r;

        /* Moved before anything points at its elements: room for all is made at the first. */
        if (!d->certificates) {
                grown = calloc(fleet_config(d->fleet)->n_listen, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                d->certificates = grown;
        }
        own = d->certificates + d->n_certificates++;
        own->doors = d;
        own->address = d->addresses[text_list_count(d->addresses) - 1];
        own->file = text_dup(at->tls_cert_file);
        if (!own->file)
                return -ENOMEM;
        r = filewatch_new(d->loop, at->tls_cert_file, at->tls_key_file, on_changed, own, &own->watch);
        if (r < 0)
                return r;
        r = tls_context_new(at->tls_cert_file, at->tls_key_file, &own->context, ret_error);
        if (r < 0)
                return r;
        warn_out_of_time(own);
        listener_set_tls(l, own->context);
        return 0;
}

void doors_tls_reload(struct doors *d)
{
        for (size_t i = 0; i < d->n_certificates; i++)
                reload(d->certificates + i);
}

size_t doors_tls_certificates(const struct doors *d, struct exposition_certificate *ret, size_t max)
{
        size_t n = MIN(d->n_certificates, max);

        for (size_t i = 0; i < n; i++)
                ret[i] = (struct exposition_certificate){
                        .listen = d->certificates[i].address,
                        .until = tls_context_certificate(d->certificates[i].context)->until};
        return n;
}

void doors_tls_close(struct doors *d)
{
        for (size_t i = 0; i < d->n_certificates; i++) {
                (void)filewatch_free(d->certificates[i].watch);
                (void)tls_context_free(d->certificates[i].context);
                free(d->certificates[i].file);
        }
        free(d->certificates);
        d->certificates = NULL;
        d->n_certificates = 0;
}
