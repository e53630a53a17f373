/* nats_submit.c: the submitting side of the driver. */
#include "hub/nats_private.h"

#ifdef LSV_HAVE_NATS

#include <errno.h>

int nats_submit(struct hub_link *l, const struct submit_spec *spec, struct hub_submission **ret)
{
        (void)l;
        (void)spec;
        (void)ret;
        return -EOPNOTSUPP;
}

void nats_submit_cancel(struct hub_link *l, struct hub_submission *s)
{
        (void)l;
        (void)s;
}

void submissions_up(struct hub_link *l)
{
        (void)l;
}

void submissions_down(struct hub_link *l)
{
        (void)l;
}

usec_t submissions_tick(struct hub_link *l, usec_t now)
{
        (void)l;
        (void)now;
        return USEC_INFINITY;
}

void submissions_message(struct hub_link *l, enum tag tag, uint64_t number, const struct nats_message *m)
{
        (void)l;
        (void)tag;
        (void)number;
        (void)m;
}

void submissions_finish(struct hub_link *l)
{
        (void)l;
}

#endif
