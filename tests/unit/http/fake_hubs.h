/* fake_hubs.h: hubs for tests of the doors: reports that the test sets, nothing behind them. Include it in one file of a program. */
#ifndef LSV_TESTS_FAKE_HUBS_H
#define LSV_TESTS_FAKE_HUBS_H

#include <errno.h>

#include "http/gateway.h"
#include "hub/hubs.h"

enum { FAKE_HUBS_MAX = 4 };

struct hubs {
        struct hub_report reports[FAKE_HUBS_MAX];
        size_t n;
        bool held, busy;
        unsigned cuts;
        hubs_change_fn *fn;
        void *owner;
};

size_t hubs_count(const struct hubs *h)
{
        return h->n;
}

const struct hub_report *hubs_report(struct hubs *h, size_t i)
{
        return h->reports + i;
}

struct farm *hubs_farm(struct hubs *h, size_t i)
{
        (void)h;
        (void)i;
        return NULL;
}

int hubs_subscribe(struct hubs *h, hubs_change_fn *fn, void *owner)
{
        if (h->fn)
                return -ENOSPC;
        h->fn = fn;
        h->owner = owner;
        return 0;
}

void hubs_unsubscribe(struct hubs *h, hubs_change_fn *fn, void *owner)
{
        if (h->fn == fn && h->owner == owner)
                h->fn = NULL;
}

void hubs_hold(struct hubs *h, bool on)
{
        h->held = on;
}

bool hubs_is_busy(const struct hubs *h)
{
        return h->busy;
}

void hubs_cut(struct hubs *h)
{
        h->cuts++;
}

bool hubs_may_submit(struct hubs *h, const char *model)
{
        (void)h;
        (void)model;
        return false;
}

int hubs_submit(struct hubs *h, const struct submit_spec *spec, struct hub_submission **ret)
{
        (void)h;
        (void)spec;
        (void)ret;
        return -EHOSTDOWN;
}

void submission_cancel(struct hubs *h, struct hub_submission *s)
{
        (void)h;
        (void)s;
}

bool hubs_offer(struct hubs *h, const char *model, struct farm_offer *ret)
{
        (void)h;
        (void)model;
        (void)ret;
        return false;
}

bool hubs_are_unheard(struct hubs *h)
{
        (void)h;
        return false;
}

bool hubs_only_offer(struct hubs *h, struct farm_offer *ret)
{
        (void)h;
        (void)ret;
        return false;
}

size_t hubs_offers(struct hubs *h, const struct farm_offer **ret)
{
        (void)h;
        (void)ret;
        return 0;
}

/* Of the gateway, which a test of the doors has none of, either. */
bool gateway_cancel_submitted(struct gateway *g, const char *id, const char *why)
{
        (void)g;
        (void)id;
        (void)why;
        return false;
}

#endif
