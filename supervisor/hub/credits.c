/* credits.c: how much each hub may send us: the free slots of each model, and with gateway.local_weight the hubs' share of those that become
 * free next, shared by weight among the hubs that have work. */
#include <errno.h>

#include "base/text.h"
#include "core/share.h"
#include "hub/connector.h"

/* One model as clients name it; several names may mean the same slots. */
struct row {
        const char *model, *entry; /* entry: NULL of a name that several share */
        unsigned free, slots, context;
        bool ready, full;
};

static const usec_t LOOK_AHEAD_EVERY = USEC_PER_SEC;

static usec_t withheld_until(const struct hubs *h, const char *entry)
{
        for (size_t i = 0; i < HUBS_WITHHELD_MAX; i++)
                if (streq(h->withheld[i].entry, entry))
                        return h->withheld[i].until;
        return 0;
}

/* The model cannot be had for now: who is asked for it would only have to give it back. */
void credits_withhold(struct hubs *h, const char *entry, usec_t now)
{
        struct withheld *oldest = h->withheld;

        for (size_t i = 0; i < HUBS_WITHHELD_MAX; i++) {
                struct withheld *w = h->withheld + i;

                if (streq(w->entry, entry)) {
                        oldest = w;
                        break;
                }
                if (w->until < oldest->until)
                        oldest = w;
        }
        (void)text_copy(oldest->entry, sizeof(oldest->entry), entry);
        oldest->until = usec_add(now, CONNECTOR_WITHHELD);
        h->dirty = true;
        hubs_wake_at(h, oldest->until);
}

/* The name that several entries share, by which the job may come to any of them; NULL: it is for j->entry alone. */
static const char *shared_name_of(const struct hubs *h, const struct job *j)
{
        return dispatch_shared(h->fleet, j->model && *j->model ? j->model : NULL);
}

static bool has_alias(const struct config_instance *entry, const char *name)
{
        for (char **a = entry->aliases; name && a && *a; a++)
                if (streq(*a, name))
                        return true;
        return false;
}

/* Claimed for this model, or for a name that it shares, and not yet in line. */
static unsigned on_their_way(const struct hubs *h, const struct config_instance *entry)
{
        unsigned n = 0;

        for (size_t i = 0; i < h->n; i++)
                LIST_FOREACH(&h->list[i]->jobs, it)
                {
                        const struct job *j = LIST_ENTRY(it, struct job, node);

                        n += j->state == JOB_NOTING &&
                             (streq(j->entry, entry->name) || has_alias(entry, shared_name_of(h, j)));
                }
        return n;
}

static bool has_jobs(const struct connector *c, const char *entry)
{
        LIST_FOREACH(&c->jobs, it)
        {
                const struct job *j = LIST_ENTRY(it, struct job, node);

                if (entry && j->state <= JOB_RESTING && streq(j->entry, entry))
                        return true;
        }
        return false;
}

static int entry_row(struct hubs *h, const char *name, usec_t now, struct row *ret)
{
        const struct config_instance *entry = config_find(fleet_config(h->fleet), name);
        struct dispatch_figures f;
        unsigned taken;

        if (!entry || dispatch_figures(h->fleet, name, &f) < 0)
                return -ENOENT;
        *ret = (struct row){
                .model = name, .entry = name, .slots = f.slots, .context = f.context, .ready = f.slots > 0};
        taken = f.leased + f.waiting + f.shared_waiting + on_their_way(h, entry);
        if (now < withheld_until(h, name))
                return 0;
        if (ret->ready) {
                unsigned coming = on_their_way(h, entry);

                ret->free = f.slots > taken ? f.slots - taken : 0;
                ret->free = MAX(ret->free, f.ahead > coming ? f.ahead - coming : 0);
                ret->full = f.slots <= taken;
        } else if (entry->on_demand)
                ret->free =
                        taken == 0; /* the one that has it loaded; then it is known how many slots it has */
        return 0;
}

/* --- one table of all names ------------------------------------------------------------------------------------------------- */

static size_t add_aliases(const struct config_instance *entry, const struct row *of, struct row *rows,
                          size_t n)
{
        for (char **a = entry->aliases; a && *a && n < HUB_CREDITS_MAX; a++) {
                size_t i = 0;

                while (i < n && !streq(rows[i].model, *a))
                        i++;
                if (i == n) {
                        rows[n] = *of;
                        rows[n++].model = *a;
                } else if (!streq_ptr(rows[i].entry, of->entry)) {
                        rows[i].entry = NULL;
                        rows[i].free += of->free;
                        rows[i].slots += of->slots;
                        rows[i].ready |= of->ready;
                        rows[i].context = MIN(rows[i].context, of->context);
                }
        }
        return n;
}

/* *ret_free: slots that are free at all, each counted once. */
static size_t fill_rows(struct hubs *h, usec_t now, struct row *rows, unsigned *ret_free)
{
        const char *name;
        size_t n = 0;

        *ret_free = 0;
        for (size_t i = 0; (name = dispatch_model_name(h->fleet, i)) && n < HUB_CREDITS_MAX; i++) {
                struct row row;

                if (entry_row(h, name, now, &row) < 0)
                        continue;
                rows[n++] = row;
                *ret_free += row.free;
                n = add_aliases(config_find(fleet_config(h->fleet), name), rows + n - 1, rows, n);
        }
        return n;
}

/* --- sharing ------------------------------------------------------------------------------------------------------------------- */

/* Aliases are the same slots once more. */
static bool is_own_name(const struct row *row)
{
        return row->entry && streq(row->entry, row->model);
}

static struct offer *find_offer(const struct connector *c, const char *model)
{
        for (size_t i = 0; i < c->n_offers; i++)
                if (streq(c->offers[i].model, model))
                        return c->offers + i;
        return NULL;
}

/* It could have had some for a while, and took none. */
static bool is_idle(const struct connector *c, const char *model, usec_t now)
{
        const struct offer *o = find_offer(c, model);

        return !o || !o->wants ||
               (o->offered_since && usec_sub(now, o->offered_since) >= CONNECTOR_IDLE_AFTER);
}

static unsigned room_of(const struct connector *c)
{
        unsigned most = c->max_jobs ? c->max_jobs : CONNECTOR_JOBS_MAX, held = c->n_jobs - c->outbox;

        if (!c->works || !connector_may_claim(c))
                return 0;
        return most > held ? most - held : 0;
}

static void share_row(struct hubs *h, const struct row *row, usec_t now, struct share_taker takers[HUBS_MAX])
{
        for (size_t i = 0; i < h->n; i++)
                takers[i] = (struct share_taker){.weight = h->list[i]->weight,
                                                 .time = h->list[i]->time,
                                                 .idle = is_idle(h->list[i], row->model, now),
                                                 .most = room_of(h->list[i])};
        share_split(row->free, takers, h->n);
}

/* What all hubs that have work for it weigh together beside local requests; while none is known to have any, the one that might. */
static double weight_of_hubs(const struct hubs *h, const struct row *row, usec_t now)
{
        double busy = 0, most = 0;

        for (size_t i = 0; i < h->n; i++) {
                const struct connector *c = h->list[i];

                if (!c->works || !c->link)
                        continue;
                most = MAX(most, c->weight);
                if (!is_idle(c, row->model, now) || has_jobs(c, row->entry))
                        busy += c->weight;
        }
        return busy > 0 ? busy : most > 0 ? most : 1;
}

static void wants(struct connector *c, const char *name)
{
        struct offer *o = find_offer(c, name);

        if (o) {
                o->wants = true;
                o->offered_since = 0;
        }
}

/* By whatever name it took one: the others mean the same slots. */
static void wants_all_of(struct connector *c, const struct config_instance *entry, const char *shared)
{
        const struct config *config = fleet_config(c->hubs->fleet);

        for (size_t i = 0; i < config->n_instances; i++) {
                const struct config_instance *e = config->instances + i;

                if (!streq(e->name, entry->name) && !has_alias(e, shared))
                        continue;
                wants(c, e->name);
                for (char **a = e->aliases; a && *a; a++)
                        wants(c, *a);
        }
}

void credits_took(struct connector *c, const struct job *j, usec_t now)
{
        struct hubs *h = c->hubs;
        struct share_taker takers[HUBS_MAX];
        const struct config_instance *entry = NULL;
        char model[CONFIG_ALIAS_MAX];
        size_t me = 0;

        c->left -= c->left > 0;
        h->dirty = true;
        (void)text_copy(model, sizeof(model), j->model);
        if (dispatch_resolve(h->fleet, model[0] ? model : NULL, &entry) == 0) {
                (void)text_copy(((struct job *)j)->entry, sizeof(j->entry), entry->name);
        }
        for (size_t i = 0; i < h->n; i++) {
                takers[i] = (struct share_taker){.weight = h->list[i]->weight,
                                                 .time = h->list[i]->time,
                                                 .idle = h->list[i]->n_jobs <= (h->list[i] == c)};
                if (h->list[i] == c)
                        me = i;
        }
        c->time = share_took(takers + me, share_least(takers, h->n));
        /* It has work; whether it has more shows when it is offered more. */
        if (entry)
                wants_all_of(c, entry, shared_name_of(h, j));
        (void)now;
}

/* --- telling --------------------------------------------------------------------------------------------------------------------- */

static void remember(struct connector *c, const struct row *row, unsigned offered, usec_t now, usec_t *next)
{
        struct offer *o = find_offer(c, row->model), *more;

        if (!o) {
                if (c->n_offers >= HUB_CREDITS_MAX)
                        return;
                more = reallocarray(c->offers, c->n_offers + 1, sizeof(*more));
                if (!more)
                        return;
                c->offers = more;
                o = more + c->n_offers++;
                *o = (struct offer){0};
                (void)text_copy(o->model, sizeof(o->model), row->model);
        }
        if (offered == 0)
                o->offered_since = 0; /* busy with what it has: not known to be idle */
        else if (!o->offered_since)
                o->offered_since = now;
        if (o->wants && o->offered_since && usec_sub(now, o->offered_since) >= CONNECTOR_IDLE_AFTER)
                o->wants = false;
        if (o->wants && o->offered_since && c->hubs->n > 1)
                *next = MIN(*next, usec_add(o->offered_since, CONNECTOR_IDLE_AFTER));
}

static void say(struct connector *c, const struct row *rows, const unsigned *offered, size_t n, unsigned free,
                usec_t now)
{
        struct hub_credit credits[HUB_CREDITS_MAX];
        unsigned total = MIN(free, room_of(c));

        buffer_clear(&c->saying);
        (void)buffer_append(&c->saying, &total, sizeof(total));
        for (size_t i = 0; i < n; i++) {
                credits[i] = (struct hub_credit){.model = rows[i].model,
                                                 .entry = rows[i].entry,
                                                 .free = MIN(offered[i], total),
                                                 .slots = rows[i].slots,
                                                 .context = rows[i].context,
                                                 .ready = rows[i].ready};
                (void)buffer_append(&c->saying, rows[i].model, strlen(rows[i].model) + 1);
                (void)buffer_puts(&c->saying, rows[i].entry ? rows[i].entry : "");
                (void)buffer_append(&c->saying, &credits[i].free, sizeof(credits[i].free));
                (void)buffer_append(&c->saying, &credits[i].slots, sizeof(credits[i].slots));
                (void)buffer_append(&c->saying, &credits[i].context, sizeof(credits[i].context));
                (void)buffer_append(&c->saying, &credits[i].ready, sizeof(credits[i].ready));
        }
        if (!c->saying.failed && c->saying.len == c->said.len && c->left == c->total &&
            memcmp(c->saying.data, c->said.data, c->said.len) == 0)
                return;
        if (!c->ended && total >= c->total && now < usec_add(c->said_at, CONNECTOR_CREDIT_EVERY)) {
                /* More of it, that others freed: what comes and goes within a moment is not worth a word. */
                hubs_wake_at(c->hubs, usec_add(c->said_at, CONNECTOR_CREDIT_EVERY));
                c->hubs->dirty = true;
                return;
        }
        struct buffer swap = c->said;

        c->said = c->saying;
        c->saying = swap;
        c->said_at = now;
        c->ended = false;
        c->total = c->left = total;
        c->driver->set_credits(c->link, total, credits, n);
        connector_touch(c, true);
}

void credits_tell(struct hubs *h, usec_t now)
{
        static struct row rows[HUB_CREDITS_MAX];
        static unsigned offered[HUBS_MAX][HUB_CREDITS_MAX];
        struct share_taker takers[HUBS_MAX];
        unsigned free, sums[HUBS_MAX] = {0};
        usec_t next = USEC_INFINITY;
        size_t n;

        h->dirty = false;
        n = fill_rows(h, now, rows, &free);
        for (size_t k = 0; k < n; k++) {
                if (fleet_config(h->fleet)->gateway.local_weight > 0) {
                        if (is_own_name(rows + k) || !rows[k].entry)
                                dispatch_weigh_hubs(h->fleet, rows[k].model,
                                                    weight_of_hubs(h, rows + k, now));
                        /* Whose turn comes next changes with the time that the leases take. */
                        if (rows[k].full)
                                hubs_wake_at(h, usec_add(now, LOOK_AHEAD_EVERY));
                }
                share_row(h, rows + k, now, takers);
                for (size_t i = 0; i < h->n; i++) {
                        offered[i][k] = takers[i].offered;
                        if (is_own_name(rows + k))
                                sums[i] += takers[i].offered;
                        remember(h->list[i], rows + k, takers[i].offered, now, &next);
                }
        }
        for (size_t i = 0; i < h->n; i++)
                if (h->list[i]->link)
                        say(h->list[i], rows, offered[i], h->list[i]->works ? n : 0, MIN(free, sums[i]), now);
        if (next != USEC_INFINITY) {
                h->dirty = true;
                hubs_wake_at(h, next);
        }
}
