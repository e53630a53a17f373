/* hubs.c: all hubs of the configuration: their turn, their end, and requests that are handed in to them. */
#include "hub/hubs.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/secret.h"
#include "base/text.h"
#include "hub/connector.h"

static const usec_t LOOK_EVERY = USEC_PER_SEC;

static uint32_t random_bits(void)
{
        uint32_t bits = 0;

        (void)secret_random(&bits, sizeof(bits));
        return bits;
}

/* --- the turn ---------------------------------------------------------------------------------------------------------- */

void hubs_wake_at(struct hubs *h, usec_t at)
{
        if (at >= h->tick_at)
                return;
        h->tick_at = at;
        timer_set(h->tick, at);
}

static void on_tick(void *owner, usec_t now)
{
        struct hubs *h = owner;

        (void)now;
        h->tick_at = USEC_INFINITY; /* the turn ends with on_turn */
        h->dirty = true;
}

static void publish(struct hubs *h, usec_t now)
{
        for (size_t i = 0; i < h->n; i++) {
                struct connector *c = h->list[i];
                bool figures_only = !c->changed;

                if (!c->changed && !c->figures_changed)
                        continue;
                c->changed = c->figures_changed = false;
                for (size_t k = 0; k < HUBS_WATCHERS_MAX; k++)
                        if (h->watchers[k].fn)
                                h->watchers[k].fn(h->watchers[k].owner, connector_report(c), figures_only,
                                                  now);
        }
}

static void check_drained(struct hubs *h, usec_t now)
{
        if (!h->draining || h->is_drained)
                return;
        h->is_drained = true;
        for (size_t i = 0; i < h->n; i++) {
                connector_look(h->list[i], now);
                h->is_drained &= h->list[i]->drained;
        }
        if (h->is_drained && h->on_drained)
                h->on_drained(h->drained_owner);
}

/* Those keys of a hub that need no restart. */
static void take_settings(struct hubs *h)
{
        const struct config *config = fleet_config(h->fleet);

        for (size_t i = 0; i < h->n; i++)
                for (size_t k = 0; k < config->n_hubs; k++)
                        if (!h->list[i]->is_spool && streq(config->hubs[k].name, h->list[i]->name))
                                connector_take_settings(h->list[i], config->hubs + k);
}

static void on_turn(void *owner, usec_t now)
{
        struct hubs *h = owner;
        uint64_t seen = dispatch_number(h->fleet), config = fleet_config_number(h->fleet);

        if (!h->started)
                return;
        if (config != h->config_seen) {
                h->config_seen = config;
                h->dirty = true;
                take_settings(h);
        }
        /* Contexts and the like change without a lease. */
        if (seen != h->fleet_seen || now >= usec_add(h->looked_at, LOOK_EVERY))
                h->dirty = true;
        if (h->dirty) {
                h->fleet_seen = seen;
                h->looked_at = now;
                credits_tell(h, now);
        }
        for (size_t i = 0; i < h->n; i++)
                connector_look_again(h->list[i], now);
        check_drained(h, now);
        publish(h, now);
}

/* --- birth and death ------------------------------------------------------------------------------------------------------ */

int hubs_add(struct hubs *h, const struct connector_spec *spec)
{
        struct connector_spec with = *spec;
        int r;

        if (h->n == HUBS_MAX)
                return -ENOSPC;
        with.hubs = h;
        r = connector_new(&with, h->list + h->n);
        if (r == 0)
                h->n++;
        return r;
}

static int add_configured(struct hubs *h)
{
        const struct config *config = fleet_config(h->fleet);
        struct connector_spec spec;
        int r = 0;

        for (size_t i = 0; r == 0 && i < config->n_hubs; i++) {
                const struct config_hub *hub = config->hubs + i;

                spec = (struct connector_spec){.hub = hub, .name = hub->name, .url = hub->url};
                spec.driver = hub_driver_for(hub->driver, &spec.why);
                r = hubs_add(h, &spec);
        }
        spec = (struct connector_spec){.name = "spool", .url = config->spool.dir};
        spec.driver = hub_driver_for_spool(config);
        return r == 0 && spec.driver ? hubs_add(h, &spec) : r;
}

int hubs_new(struct loop *loop, struct fleet *f, struct hubs **ret)
{
        struct hubs *h = calloc(1, sizeof(*h));
        int r;

        if (!h)
                return -ENOMEM;
        h->loop = loop;
        h->fleet = f;
        h->tick_at = USEC_INFINITY;
        h->config_seen = fleet_config_number(f);
        h->random = random_bits;
        r = timer_new(loop, on_tick, h, &h->tick);
        if (r == 0)
                r = loop_add_turn(loop, on_turn, h);
        if (r < 0) {
                h->tick = timer_free(h->tick);
                free(h);
                return r;
        }
        r = add_configured(h);
        if (r < 0)
                hubs_free(h);
        else
                *ret = h;
        return r;
}

struct hubs *hubs_free(struct hubs *h)
{
        if (!h)
                return NULL;
        for (size_t i = 0; i < h->n; i++)
                h->list[i] = connector_free(h->list[i]);
        loop_remove_turn(h->loop, on_turn, h);
        h->tick = timer_free(h->tick);
        free(h->offers);
        free(h);
        return NULL;
}

void hubs_hand_on(struct hubs *h, struct handover *handover)
{
        h->handover = handover;
}

void hubs_start(struct hubs *h, bool again)
{
        h->started = true;
        for (size_t i = 0; i < h->n; i++)
                connector_start(h->list[i], again);
        h->dirty = true;
        loop_wake(h->loop);
}

/* --- the end ----------------------------------------------------------------------------------------------------------------- */

void hubs_drain(struct hubs *h, void (*on_drained)(void *owner), void *owner)
{
        usec_t now = loop_now(h->loop), until = usec_add(now, fleet_config(h->fleet)->stop.drain);

        h->draining = true;
        h->started = true;
        h->on_drained = on_drained;
        h->drained_owner = owner;
        for (size_t i = 0; i < h->n; i++)
                connector_drain(h->list[i], now, until);
        loop_wake(h->loop);
}

void hubs_hurry(struct hubs *h)
{
        for (size_t i = 0; i < h->n; i++)
                connector_hurry(h->list[i]);
        loop_wake(h->loop);
}

void hubs_hold(struct hubs *h, bool on)
{
        for (size_t i = 0; i < h->n; i++) {
                h->list[i]->held = on;
                if (!on)
                        connector_go_on(h->list[i]);
        }
        h->dirty = true;
        loop_wake(h->loop);
}

bool hubs_is_busy(const struct hubs *h)
{
        for (size_t i = 0; i < h->n; i++)
                if (connector_is_busy(h->list[i]))
                        return true;
        return false;
}

void hubs_cut(struct hubs *h)
{
        for (size_t i = 0; i < h->n; i++)
                connector_cut(h->list[i]);
}

/* --- reports ------------------------------------------------------------------------------------------------------------------ */

size_t hubs_count(const struct hubs *h)
{
        return h->n;
}

const struct hub_report *hubs_report(struct hubs *h, size_t i)
{
        return connector_report(h->list[i]);
}

int hubs_subscribe(struct hubs *h, hubs_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < HUBS_WATCHERS_MAX; i++)
                if (!h->watchers[i].fn) {
                        h->watchers[i].fn = fn;
                        h->watchers[i].owner = owner;
                        return 0;
                }
        return -ENOSPC;
}

void hubs_unsubscribe(struct hubs *h, hubs_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < HUBS_WATCHERS_MAX; i++)
                if (h->watchers[i].fn == fn && h->watchers[i].owner == owner)
                        h->watchers[i].fn = NULL;
}
