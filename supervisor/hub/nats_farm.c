/* nats_farm.c: the heartbeats of all workers, for who asks once (a daemon hears them in nats.c). */
#include "hub/nats_admin.h"

#ifdef LSV_HAVE_NATS
#include <errno.h>

#include "base/text.h"
#include "core/farm.h"
#include "hub/nats_admin_private.h"

int nats_farm_listen(struct nats_admin *a, usec_t span, struct farm *f, char **ret_why)
{
        usec_t until = usec_add(time_monotonic(), span), now;
        natsSubscription *sub = NULL;
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
                const char *id;

                s = natsSubscription_NextMsg(&m, sub, nats_ms(until - now));
                /* What cannot be taken is counted by the farm. */
                if (s == NATS_OK && (id = nats_subject_id(NATS_BEAT, natsMsg_GetSubject(m))))
                        (void)farm_hear(f, id, natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m),
                                        time_monotonic());
                natsMsg_Destroy(m);
        }
        natsSubscription_Destroy(sub);
        if (r == 0 && s != NATS_OK && s != NATS_TIMEOUT) {
                *ret_why = nats_admin_words(s, "llm.hb.*");
                r = -EPIPE;
        }
        return r;
}

#endif
