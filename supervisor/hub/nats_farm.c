/* nats_farm.c: heartbeats of all workers, the newest of each. */
#include "hub/nats_admin.h"

#ifdef LSV_HAVE_NATS
#include <errno.h>

#include "base/text.h"
#include "hub/nats_admin_private.h"

static void finish_worker(struct nats_farm_worker *w)
{
        json_free(w->root);
        free(w->text);
}

static int keep(struct nats_farm *f, const natsMsg *m)
{
        struct nats_farm_worker w = {0}, *list, *at = NULL;
        const char *id = nats_subject_id(NATS_BEAT, natsMsg_GetSubject(m));

        w.text = text_format("%.*s", natsMsg_GetDataLength(m), natsMsg_GetData(m));
        if (!w.text)
                return -ENOMEM;
        /* Rights are given by the subject: what a message says of its sender is believed only as far as that. */
        if (!id || nats_beat_parse(w.text, strlen(w.text), &w.beat, &w.root) < 0 ||
            !streq(w.beat.worker, id)) {
                finish_worker(&w);
                f->broken++;
                return 0;
        }
        for (size_t i = 0; i < f->n && !at; i++)
                if (streq(f->list[i].beat.worker, id))
                        at = f->list + i;
        if (at) {
                finish_worker(at);
                *at = w;
                return 0;
        }
        list = f->n < NATS_FARM_MAX ? reallocarray(f->list, f->n + 1, sizeof(*list)) : NULL;
        if (!list) {
                finish_worker(&w);
                return f->n < NATS_FARM_MAX ? -ENOMEM : -E2BIG;
        }
        f->list = list;
        f->list[f->n++] = w;
        return 0;
}

static int by_name(const void *a, const void *b)
{
        const struct nats_farm_worker *x = a, *y = b;

        return strcmp(x->beat.worker, y->beat.worker);
}

int nats_farm_listen(struct nats_admin *a, usec_t span, struct nats_farm *ret, char **ret_why)
{
        usec_t until = usec_add(time_monotonic(), span), now;
        natsSubscription *sub = NULL;
        struct nats_farm f = {0};
        natsStatus s = natsConnection_SubscribeSync(&sub, a->link, "llm.hb.*");
        int r = 0;

        *ret_why = NULL;
        if (s == NATS_OK)
                s = natsConnection_FlushTimeout(a->link, nats_ms(a->timeout));
        if (s == NATS_OK && nats_admin_was_denied(a, "llm.hb.*")) {
                *ret_why = text_dup("these credentials may not subscribe to llm.hb.*: use those of a "
                                    "gateway, a viewer or an "
                                    "administrator");
                r = -EACCES;
        }
        while (r == 0 && s == NATS_OK && (now = time_monotonic()) < until) {
                natsMsg *m = NULL;

                s = natsSubscription_NextMsg(&m, sub, nats_ms(until - now));
                if (s == NATS_OK)
                        r = keep(&f, m);
                natsMsg_Destroy(m);
        }
        natsSubscription_Destroy(sub);
        if (r == 0 && s != NATS_OK && s != NATS_TIMEOUT) {
                *ret_why = nats_admin_words(s, "llm.hb.*");
                r = -EPIPE;
        }
        if (r < 0) {
                nats_farm_finish(&f);
                return r;
        }
        if (f.n)
                qsort(f.list, f.n, sizeof(*f.list), by_name);
        *ret = f;
        return 0;
}

void nats_farm_finish(struct nats_farm *f)
{
        for (size_t i = 0; i < f->n; i++)
                finish_worker(f->list + i);
        free(f->list);
        *f = (struct nats_farm){0};
}

#endif
