/* models.c: which models there are, by which names, with which instances; and their figures. */
#include <errno.h>
#include <stdio.h>

#include "base/macros.h"
#include "fleet/dispatch_private.h"
#include "fleet/seat.h"

/* --- models and names ------------------------------------------------------------------------------------------------------------ */

static size_t bucket_of(const char *name)
{
        return balancer_hash(name, strlen(name)) % DISPATCH_BUCKETS;
}

struct desk *desk_find(const struct dispatch *d, const char *name)
{
        for (struct desk *desk = d->by_name[bucket_of(name)]; desk; desk = desk->next)
                if (streq(desk->name, name))
                        return desk;
        return NULL;
}

static void unlist(struct desk *desk)
{
        struct desk **at = &desk->dispatch->by_name[bucket_of(desk->name)];

        while (*at && *at != desk)
                at = &(*at)->next;
        if (*at)
                *at = desk->next;
        desk_free(desk);
}

/* Makes it where there is none, and puts it into the list of this refresh. NULL without memory. */
static struct desk *make_desk(struct dispatch *d, const char *name)
{
        struct desk *desk = desk_find(d, name);

        if (desk)
                return desk;
        if (d->n_desks == d->cap_desks) {
                size_t cap = d->cap_desks ? d->cap_desks * 2 : 16;
                struct desk **desks = reallocarray(d->desks, cap, sizeof(struct desk *));

                if (!desks)
                        return NULL;
                d->desks = desks;
                d->cap_desks = cap;
        }
        if (desk_new(d, name, &desk) < 0)
                return NULL;
        desk->next = d->by_name[bucket_of(name)];
        d->by_name[bucket_of(name)] = desk;
        d->desks[d->n_desks++] = desk;
        return desk;
}

void dispatch_forget_names(struct dispatch *d)
{
        for (size_t i = 0; i < DISPATCH_BUCKETS; i++)
                while (d->names[i]) {
                        struct dispatch_name *name = d->names[i];

                        d->names[i] = name->next;
                        free(name);
                }
}

static const struct dispatch_name *find_name(const struct dispatch *d, const char *text)
{
        for (const struct dispatch_name *name = d->names[bucket_of(text)]; name; name = name->next)
                if (streq(name->text, text))
                        return name;
        return NULL;
}

static void add_name(struct dispatch *d, const char *text, struct desk *desk)
{
        struct dispatch_name **bucket = &d->names[bucket_of(text)], *name;

        if (find_name(d, text))
                return; /* names go before aliases, and the configuration's before a person's */
        name = malloc(sizeof *name + strlen(text) + 1);
        if (!name)
                return;
        name->next = *bucket;
        name->desk = desk;
        memcpy(name->text, text, strlen(text) + 1);
        *bucket = name;
}

static void add_figures(struct dispatch_figures *sum, const struct dispatch_figures *g)
{
        sum->waiting += g->waiting;
        sum->leased += g->leased;
        sum->slots += g->slots;
        sum->granted += g->granted;
        sum->retried += g->retried;
        for (size_t i = 0; i < TICKET_REFUSALS; i++)
                sum->refused[i] += g->refused[i];
        for (size_t i = 0; i <= DISPATCH_WAIT_BUCKETS; i++)
                sum->waits[i] += g->waits[i];
        sum->wait_sum += g->wait_sum;
        if (g->shedding_since)
                sum->shedding_since =
                        sum->shedding_since ? MIN(sum->shedding_since, g->shedding_since) : g->shedding_since;
}

static void sweep_desks(struct dispatch *d)
{
        size_t n = 0;

        for (size_t i = 0; i < d->n_desks; i++) {
                struct desk *desk = d->desks[i];

                if (!desk->entry && desk->n_seats == 0 && desk->tickets == 0) {
                        add_figures(&d->gone, &desk->figures);
                        unlist(desk);
                        continue;
                }
                if (!desk->entry)
                        desk_touch(desk);
                d->desks[n++] = desk;
        }
        d->n_desks = n;
}

void dispatch_refresh(struct dispatch *d)
{
        struct fleet *f = d->fleet;

        if (!d->stale)
                return;
        d->stale = false;
        d->rule = balancer_find(config_balance_name(f->config->gateway.balance));
        dispatch_forget_names(d);
        for (size_t i = 0; i < d->n_desks; i++)
                d->desks[i]->entry = NULL;
        d->n_entries = f->config->n_instances;
        for (size_t i = 0; i < f->config->n_instances; i++) {
                const struct config_instance *e = &f->config->instances[i];
                struct desk *desk = make_desk(d, e->name);

                if (desk)
                        desk->entry = e;
        }
        for (size_t i = 0; i < f->n_members; i++) {
                struct member *m = f->members[i];
                struct desk *desk = m->removed ? NULL : make_desk(d, m->entry->name);

                if (!desk)
                        continue;
                if (!desk->entry) {
                        desk->entry = m->entry; /* a person started it, from no entry of the configuration */
                        d->n_entries++;
                }
                (void)seat_join_desk(m->seat, desk);
                seat_changed(m->seat);
        }
        for (size_t i = 0; i < d->n_desks; i++)
                if (d->desks[i]->entry)
                        add_name(d, d->desks[i]->name, d->desks[i]);
        for (size_t i = 0; i < d->n_desks; i++)
                for (char *const *a = d->desks[i]->entry ? d->desks[i]->entry->aliases : NULL; a && *a; a++)
                        add_name(d, *a, d->desks[i]);
        sweep_desks(d);
}

int dispatch_resolve(struct fleet *f, const char *model, const struct config_instance **ret)
{
        struct dispatch *d = f->dispatch;
        const struct dispatch_name *name;

        dispatch_refresh(d);
        if (!model || !*model)
                model = f->config->gateway.default_model;
        if (!model || !*model) {
                for (size_t i = 0; i < d->n_desks && d->n_entries == 1; i++)
                        if (d->desks[i]->entry) {
                                *ret = d->desks[i]->entry;
                                return 0;
                        }
                return d->n_entries ? -EINVAL : -ENOENT;
        }
        name = find_name(d, model);
        if (!name || !name->desk->entry)
                return -ENOENT;
        *ret = name->desk->entry;
        return 0;
}

/* --- figures ------------------------------------------------------------------------------------------------------------------------ */

const char *dispatch_model_name(struct fleet *f, size_t i)
{
        struct dispatch *d = f->dispatch;

        dispatch_refresh(d);
        if (d->n_entries == d->n_desks) /* all of them are models: no walk for each of a thousand */
                return i < d->n_desks ? d->desks[i]->name : NULL;
        for (size_t k = 0; k < d->n_desks; k++)
                if (d->desks[k]->entry && i-- == 0)
                        return d->desks[k]->name;
        return NULL;
}

static void figures_of(const struct desk *desk, struct dispatch_figures *ret)
{
        *ret = desk->figures;
        ret->waiting = desk_waiting(desk);
        ret->shedding_since = desk->queue.shed.since;
        ret->oldest = queue_oldest(&desk->queue);
        for (size_t i = 0; i < desk->n_seats; i++) {
                ret->leased += desk->seats[i]->leased;
                ret->slots += desk->seats[i]->ready ? desk->seats[i]->slots : 0;
        }
}

int dispatch_figures(struct fleet *f, const char *entry, struct dispatch_figures *ret)
{
        struct dispatch *d = f->dispatch;
        struct dispatch_figures one, sum = d->gone;

        dispatch_refresh(d);
        if (entry) {
                const struct desk *desk = desk_find(d, entry);

                if (!desk)
                        return -ENOENT;
                figures_of(desk, ret);
                return 0;
        }
        for (size_t i = 0; i < d->n_desks; i++) {
                figures_of(d->desks[i], &one);
                add_figures(&sum, &one);
        }
        *ret = sum;
        return 0;
}

void dispatch_load_failed(struct dispatch *d, const char *entry)
{
        struct desk *desk = desk_find(d, entry);

        if (!desk)
                return;
        desk->load_failed = true;
        desk_touch(desk);
}

void dispatch_wish_dropped(struct dispatch *d, const char *entry)
{
        struct desk *desk = desk_find(d, entry);

        if (desk)
                desk_touch(desk);
}

static void seat_of(const struct member *m, struct dispatch_seat *ret)
{
        const struct seat *s = m->seat;

        *ret = (struct dispatch_seat){
                .leased = s->leased,
                .slots = s->ready ? s->slots : 0,
                .ejected_until =
                        ejection_is_out(&s->ejection, loop_now(m->fleet->loop)) ? s->ejection.until : 0,
                .ejections = s->ejections,
                .served = s->served,
                .failed = s->failed,
                .cancelled = s->cancelled,
        };
}

int dispatch_seat(struct fleet *f, const char *instance, struct dispatch_seat *ret)
{
        const struct member *m = fleet_member(f, instance);

        if (!m)
                return -ENOENT;
        seat_of(m, ret);
        return 0;
}

int dispatch_seat_at(struct fleet *f, size_t i, struct dispatch_seat *ret)
{
        if (i >= f->n_members)
                return -ENOENT;
        seat_of(f->members[i], ret);
        return 0;
}
