/* balancer.c: four rules, and the one filter before them. */
#include "core/balancer.h"

#include <math.h>

#include "base/macros.h"

#define LOAD_BOUND  1.25
#define FIRST_SHARE 0.1 /* of a weight, at the beginning of a slow start */

/* splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t mix(uint64_t x)
{
        x ^= x >> 30;
        x *= UINT64_C(0xbf58476d1ce4e5b9);
        x ^= x >> 27;
        x *= UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

uint64_t balancer_hash(const void *data, size_t len)
{
        const unsigned char *p = data;
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        for (size_t i = 0; i < len; i++)
                h = (h ^ p[i]) * UINT64_C(0x100000001b3);
        h = mix(h);
        return h ? h : 1;
}

/* Evenly in (0, 1): never 0, whose logarithm is none. */
static double unit(uint64_t x)
{
        return ((double)(x >> 11) + 0.5) / 9007199254740992.0;
}

static double next_random(uint64_t *state)
{
        *state += UINT64_C(0x9e3779b97f4a7c15);
        return unit(mix(*state));
}

/* --- rules ---------------------------------------------------------------------------------------------------------- */

/* How full it would be with this piece of work, for what it is worth. */
static double load(const struct balancer_candidate *c)
{
        return ((double)c->leased + c->others + 1) / (c->share * MAX(c->slots, 1U));
}

static size_t choose_least_loaded(struct balancer_candidate *c, size_t n, const struct balancer_ask *ask)
{
        size_t best = BALANCER_NONE, start = 0;

        /* Equals take turns by chance, or the first would have all the work of a fleet that is hardly used. */
        if (n > 1)
                start = (size_t)(next_random(ask->random) * (double)n);
        for (size_t k = 0; k < n; k++) {
                size_t i = start + k < n ? start + k : start + k - n;

                if (c[i].open && (best == BALANCER_NONE || load(&c[i]) < load(&c[best])))
                        best = i;
        }
        return best;
}

static size_t choose_round_robin(struct balancer_candidate *c, size_t n, const struct balancer_ask *ask)
{
        size_t best = BALANCER_NONE;
        double sum = 0;

        (void)ask;
        for (size_t i = 0; i < n; i++) {
                if (!c[i].open)
                        continue;
                sum += c[i].share;
                c[i].turn += c[i].share;
                if (best == BALANCER_NONE || c[i].turn > c[best].turn)
                        best = i;
        }
        c[best].turn -= sum;
        return best;
}

static size_t choose_random(struct balancer_candidate *c, size_t n, const struct balancer_ask *ask)
{
        size_t last = BALANCER_NONE;
        double sum = 0, at;

        for (size_t i = 0; i < n; i++)
                sum += c[i].open ? c[i].share : 0;
        at = next_random(ask->random) * sum;
        for (size_t i = 0; i < n; i++) {
                if (!c[i].open)
                        continue;
                last = i;
                at -= c[i].share;
                if (at < 0)
                        break;
        }
        return last; /* the last open one when rounding left a rest */
}

/* At most so many leases, the new one included, before the next in the order is asked. */
static double load_bound(const struct balancer_candidate *c, double leases, double capacity)
{
        return ceil(LOAD_BOUND * leases * (c->share * c->slots) / capacity);
}

static size_t choose_affine(struct balancer_candidate *c, size_t n, const struct balancer_ask *ask)
{
        size_t best = BALANCER_NONE;
        double leases = 1, capacity = 0, best_score = 0;

        if (!ask->affinity)
                return choose_least_loaded(c, n, ask);
        for (size_t i = 0; i < n; i++)
                if (c[i].in_service) {
                        leases += c[i].leased;
                        capacity += c[i].share * c[i].slots;
                }
        for (size_t i = 0; i < n; i++) {
                double score;

                if (!c[i].open || (!ask->no_slot && c[i].leased + 1.0 > load_bound(&c[i], leases, capacity)))
                        continue;
                score = -c[i].weight / log(unit(mix(ask->affinity ^ c[i].id)));
                if (best == BALANCER_NONE || score > best_score) {
                        best = i;
                        best_score = score;
                }
        }
        /* All that are open are over their bound, since others stand empty that this work may not use. */
        return best == BALANCER_NONE ? choose_least_loaded(c, n, ask) : best;
}

static const struct balancer_rule least_loaded = {"least-loaded", choose_least_loaded},
                                  round_robin = {"round-robin", choose_round_robin},
                                  by_chance = {"random", choose_random},
                                  affine = {"prefix-affinity", choose_affine};

const struct balancer_rule *const balancer_rules[] = {&least_loaded, &round_robin, &by_chance, &affine, NULL};

const struct balancer_rule *balancer_find(const char *name)
{
        for (size_t i = 0; balancer_rules[i]; i++)
                if (streq(balancer_rules[i]->name, name))
                        return balancer_rules[i];
        return NULL;
}

/* --- the filter ------------------------------------------------------------------------------------------------------- */

static double share_of(const struct balancer_candidate *c, const struct balancer_ask *ask)
{
        usec_t up = usec_sub(ask->now, c->ready_since);

        if (up >= ask->slow_start)
                return c->weight;
        return c->weight * MAX((double)up / (double)ask->slow_start, FIRST_SHARE);
}

size_t balancer_pick(const struct balancer_rule *rule, struct balancer_candidate *c, size_t n,
                     const struct balancer_ask *ask)
{
        bool all_ejected = true, has_others = false, any = false;

        for (size_t i = 0; i < n; i++)
                all_ejected = all_ejected && (!c[i].ready || c[i].tried || c[i].ejected);
        for (size_t i = 0; i < n; i++) {
                c[i].in_service = c[i].ready && (all_ejected || !c[i].ejected);
                has_others = has_others || (c[i].in_service && !c[i].tried && !c[i].avoided);
        }
        for (size_t i = 0; i < n; i++) {
                c[i].share = share_of(&c[i], ask);
                c[i].open = c[i].in_service && !c[i].tried && !(c[i].avoided && has_others) &&
                            (ask->no_slot || c[i].leased < c[i].slots);
                any = any || c[i].open;
        }
        return any ? rule->choose(c, n, ask) : BALANCER_NONE;
}
