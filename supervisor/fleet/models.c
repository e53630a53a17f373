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

static struct dispatch_name *find_name(const struct dispatch *d, const char *text)
{
        for (struct dispatch_name *name = d->names[bucket_of(text)]; name; name = name->next)
                if (streq(name->text, text))
                        return name;
        return NULL;
}

static void add_name(struct dispatch *d, const char *text, struct desk *desk, bool is_alias)
{
        struct dispatch_name **bucket = &d->names[bucket_of(text)], *name;

        name = malloc(sizeof *name + strlen(text) + 1);
        if (!name)
                return;
        name->next = *bucket;
        name->desk = desk;
        name->is_alias = is_alias;
        memcpy(name->text, text, strlen(text) + 1);
        *bucket = name;
}

/* The first entry has it alone; with the second it becomes a desk of its own. */
static void add_alias(struct dispatch *d, const char *text, struct desk *desk)
{
        struct dispatch_name *name = find_name(d, text);
        struct desk *shared;

        if (!name) {
                add_name(d, text, desk, true);
                return;
        }
        if (!name->is_alias || name->desk == desk)
                return; /* names go before aliases */
        if (!name->desk->shared) {
                if (shared_make(d, text, &shared) < 0 || shared_add(shared, name->desk) < 0)
                        return;
                name->desk = shared;
        }
        (void)shared_add(name->desk, desk);
}

static void refresh_names(struct dispatch *d)
{
        dispatch_forget_names(d);
        shared_forget(d);
        for (size_t i = 0; i < d->n_desks; i++)
                if (d->desks[i]->entry)
                        add_name(d, d->desks[i]->name, d->desks[i], false);
        for (size_t i = 0; i < d->n_desks; i++)
                for (char *const *a = d->desks[i]->entry ? d->desks[i]->entry->aliases : NULL; a && *a; a++)
                        add_alias(d, *a, d->desks[i]);
        /* Who waits at one that only one entry has now is served by that one. */
        for (size_t i = 0; i < d->n_shared; i++) {
                struct dispatch_name *name = find_name(d, d->shared[i]->name);

                if (d->shared[i]->n_others == 0 && name && !name->desk->shared)
                        (void)shared_add(d->shared[i], name->desk);
        }
        shared_settle_names(d, &d->gone);
}

void dispatch_add_figures(struct dispatch_figures *sum, const struct dispatch_figures *g)
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
        for (enum side i = 0; i < SIDES; i++) {
                sum->by[i].waiting += g->by[i].waiting;
                sum->by[i].leased += g->by[i].leased;
                sum->by[i].seconds += g->by[i].seconds;
        }
        sum->ahead += g->ahead;
        if (g->shedding_since)
                sum->shedding_since =
                        sum->shedding_since ? MIN(sum->shedding_since, g->shedding_since) : g->shedding_since;
}

static void figures_of(const struct desk *desk, struct dispatch_figures *ret)
{
        *ret = desk->figures;
        ret->waiting = desk_waiting(desk);
        ret->shedding_since = desk->queue.shed.since;
        ret->shared_waiting = desk->shared ? 0 : desk_waiting_with_others(desk) - ret->waiting;
        ret->oldest = desk->shared ? desk_oldest(desk) : desk_oldest_with_others(desk);
        for (size_t i = 0; i < desk->n_seats && !desk->shared; i++) {
                ret->leased += desk->seats[i]->leased;
                ret->slots += desk->seats[i]->ready ? desk->seats[i]->slots : 0;
                if (!ret->context)
                        ret->context = desk->seats[i]->member->context;
        }
        desk_tell_sides(desk, ret);
}

static void take_weights(struct dispatch *d)
{
        for (size_t i = 0; i < d->n_desks; i++)
                desk_take_weights(d->desks[i]);
        for (size_t i = 0; i < d->n_shared; i++) {
                desk_take_weights(d->shared[i]);
                desk_recount(d->shared[i], loop_now(d->fleet->loop));
        }
}

static void sweep_desks(struct dispatch *d)
{
        size_t n = 0;

        for (size_t i = 0; i < d->n_desks; i++) {
                struct desk *desk = d->desks[i];

                if (!desk->entry && desk->n_seats == 0 && desk->tickets == 0) {
                        struct dispatch_figures last;

                        figures_of(desk, &last);
                        last.shedding_since = 0;
                        dispatch_add_figures(&d->gone, &last);
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
        refresh_names(d);
        take_weights(d);
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

const char *dispatch_shared(struct fleet *f, const char *model)
{
        const struct dispatch_name *name;

        dispatch_refresh(f->dispatch);
        if (!model || !*model)
                model = f->config->gateway.default_model;
        name = model && *model ? find_name(f->dispatch, model) : NULL;
        return name && name->desk->shared ? name->text : NULL;
}

/* --- figures ------------------------------------------------------------------------------------------------------------------------ */

static const struct desk *desk_at(struct dispatch *d, size_t i)
{
        dispatch_refresh(d);
        if (d->n_entries == d->n_desks) /* all of them are models: no walk for each of a thousand */
                return i < d->n_desks ? d->desks[i] : NULL;
        for (size_t k = 0; k < d->n_desks; k++)
                if (d->desks[k]->entry && i-- == 0)
                        return d->desks[k];
        return NULL;
}

const char *dispatch_model_name(struct fleet *f, size_t i)
{
        const struct desk *desk = desk_at(f->dispatch, i);

        return desk ? desk->name : NULL;
}

int dispatch_figures_at(struct fleet *f, size_t i, struct dispatch_figures *ret)
{
        const struct desk *desk = desk_at(f->dispatch, i);

        if (!desk)
                return -ENOENT;
        figures_of(desk, ret);
        return 0;
}

const char *dispatch_shared_name(struct fleet *f, size_t i)
{
        struct dispatch *d = f->dispatch;

        dispatch_refresh(d);
        return i < d->n_shared ? d->shared[i]->name : NULL;
}

const char *dispatch_shared_model(struct fleet *f, size_t i, size_t k)
{
        const struct desk *desk = i < f->dispatch->n_shared ? f->dispatch->shared[i] : NULL;

        return desk && k < desk->n_others ? desk->others[k]->name : NULL;
}

uint64_t dispatch_number(struct fleet *f)
{
        return f->dispatch->number;
}

int dispatch_figures(struct fleet *f, const char *entry, struct dispatch_figures *ret)
{
        struct dispatch *d = f->dispatch;
        struct dispatch_figures one, sum = d->gone;

        dispatch_refresh(d);
        if (entry) {
                const struct desk *desk = desk_find(d, entry);

                if (!desk)
                        desk = shared_find(d, entry);
                if (!desk)
                        return -ENOENT;
                figures_of(desk, ret);
                return 0;
        }
        for (size_t i = 0; i < d->n_desks; i++) {
                figures_of(d->desks[i], &one);
                dispatch_add_figures(&sum, &one);
        }
        for (size_t i = 0; i < d->n_shared; i++) {
                figures_of(d->shared[i], &one);
                dispatch_add_figures(&sum, &one);
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
        desk_touch_all(desk, false); /* others may come in its place */
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
                .questions = s->held - s->leased,
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
