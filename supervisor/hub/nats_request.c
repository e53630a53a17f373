/* nats_request.c: questions to the server, each with a reply subject of its own and a deadline. */
#include "hub/nats_private.h"

#ifdef LSV_HAVE_NATS

#include <errno.h>
#include <stdio.h>

static int place(struct hub_link *l, size_t *ret)
{
        struct request *more;
        size_t cap;

        for (size_t i = 0; i < l->cap_requests && l->n_requests < l->cap_requests; i++)
                if (!l->requests[i].fn) {
                        *ret = i;
                        return 0;
                }
        if (l->cap_requests >= REQUESTS_MAX)
                return -EAGAIN;
        cap = l->cap_requests ? l->cap_requests * 2 : 64;
        more = realloc(l->requests, cap * sizeof(*more));
        if (!more)
                return -ENOMEM;
        memset(more + l->cap_requests, 0, (cap - l->cap_requests) * sizeof(*more));
        l->requests = more;
        *ret = l->cap_requests;
        l->cap_requests = cap;
        return 0;
}

int request(struct hub_link *l, const char *subject, const struct nats_header *headers, size_t n_headers,
            const void *data, size_t len, usec_t timeout, nats_reply_fn *fn, void *arg)
{
        char reply[NATS_SUBJECT_MAX];
        struct request *q;
        size_t i;
        int r = link_is_up(l) ? place(l, &i) : -ENOTCONN;

        if (r < 0)
                return r;
        q = &l->requests[i];
        q->turn++;
        (void)snprintf(reply, sizeof(reply), "%s.r.%zu.%u", l->inbox, i, q->turn);
        r = nats_wire_publish(l->wire, subject, reply, headers, n_headers, data, len);
        if (r < 0)
                return r;
        q->fn = fn;
        q->arg = arg;
        q->deadline = usec_add(loop_now(l->loop), timeout);
        l->n_requests++;
        link_wake(l, q->deadline);
        return 0;
}

static void end(struct hub_link *l, struct request *q, const struct nats_message *m)
{
        nats_reply_fn *fn = q->fn;
        void *arg = q->arg;

        q->fn = NULL;
        q->arg = NULL;
        l->n_requests--;
        fn(l, arg, m);
}

void request_forget(struct hub_link *l, const void *arg)
{
        for (size_t i = 0; i < l->cap_requests; i++)
                if (l->requests[i].fn && l->requests[i].arg == arg) {
                        l->requests[i].fn = NULL;
                        l->requests[i].arg = NULL;
                        l->n_requests--;
                }
}

void request_reply(struct hub_link *l, const struct nats_message *m)
{
        const char *p = m->subject + strlen(l->inbox);
        size_t i = 0;
        unsigned turn = 0;

        if (strlen(m->subject) < strlen(l->inbox) || sscanf(p, ".r.%zu.%u", &i, &turn) != 2)
                return;
        if (i < l->cap_requests && l->requests[i].fn && l->requests[i].turn == turn)
                end(l, &l->requests[i], m);
}

void requests_expire(struct hub_link *l, usec_t now)
{
        usec_t next = USEC_INFINITY;

        /* The array may grow or move meanwhile. */
        for (size_t i = 0; i < l->cap_requests; i++) {
                if (!l->requests[i].fn)
                        continue;
                if (l->requests[i].deadline <= now)
                        end(l, &l->requests[i], NULL);
                else
                        next = MIN(next, l->requests[i].deadline);
        }
        if (now != USEC_INFINITY)
                link_wake(l, next);
}

void requests_finish(struct hub_link *l)
{
        free(l->requests);
        l->requests = NULL;
        l->cap_requests = l->n_requests = 0;
}

int reply_parse(const struct nats_message *m, struct nats_answer *ret)
{
        if (!m)
                return -ETIMEDOUT;
        if (m->status == 503)
                return -EHOSTDOWN;
        return nats_answer_parse(m->data, m->len, ret);
}

#endif
