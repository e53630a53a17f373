/* spool_index.c: which names are done, and which have failed. */
#include <errno.h>

#include "base/index.h"
#include "base/macros.h"
#include "core/spool.h"

enum {
        DONE_MAX = 8 << 20,
        DONE_FIRST = 1024,
        TROUBLED_MAX = 1 << 20,
};

struct trouble {
        unsigned forgiven, failures, attempt;
        bool final;
        uint64_t counted; /* attempts up to 64, a bit each */
        int64_t last;     /* epoch of the last failure that counts */
        char name[];
};

struct spool_index {
        uint64_t key[2];
        uint64_t *done; /* hashes, 0: free; at most half full */
        size_t done_cap, n_done;
        struct index troubled; /* name → struct trouble */
        size_t bytes;
};

int spool_index_new(uint64_t seed, struct spool_index **ret)
{
        struct spool_index *x = calloc(1, sizeof(*x));

        if (!x)
                return -ENOMEM;
        x->key[0] = seed ^ UINT64_C(0x9e3779b97f4a7c15);
        x->key[1] = (seed << 32 | seed >> 32) ^ UINT64_C(0xd1342543de82ef95);
        *ret = x;
        return 0;
}

struct spool_index *spool_index_free(struct spool_index *x)
{
        if (!x)
                return NULL;
        spool_index_clear_failures(x);
        index_finish(&x->troubled);
        free(x->done);
        free(x);
        return NULL;
}

/* --- done ------------------------------------------------------------------------------------------------------------ */

/* Two words into one, so that every bit of both matters (the 128 bits of a product folded). */
static uint64_t mix(uint64_t a, uint64_t b)
{
        unsigned __int128 p = (unsigned __int128)a * b;

        return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t hash_of(const struct spool_index *x, const char *name)
{
        size_t len = strlen(name);
        uint64_t h = x->key[0] ^ len, word;

        for (; len >= sizeof(word); name += sizeof(word), len -= sizeof(word)) {
                memcpy(&word, name, sizeof(word));
                h = mix(h ^ word, x->key[1] | 1);
        }
        word = 0;
        memcpy(&word, name, len);
        h = mix(h ^ word ^ UINT64_C(0xa0761d6478bd642f), x->key[1] | 1);
        h = mix(h ^ x->key[0], UINT64_C(0xe7037ed1a0b428db));
        return h ? h : 1;
}

static size_t place_of(const struct spool_index *x, uint64_t hash)
{
        size_t i = (size_t)hash & (x->done_cap - 1);

        while (x->done[i] && x->done[i] != hash)
                i = (i + 1) & (x->done_cap - 1);
        return i;
}

static int grow(struct spool_index *x)
{
        struct spool_index larger = {.done_cap = x->done_cap ? x->done_cap * 2 : DONE_FIRST};

        larger.done = calloc(larger.done_cap, sizeof(*larger.done));
        if (!larger.done)
                return -ENOMEM;
        for (size_t i = 0; i < x->done_cap; i++)
                if (x->done[i])
                        larger.done[place_of(&larger, x->done[i])] = x->done[i];
        free(x->done);
        x->done = larger.done;
        x->done_cap = larger.done_cap;
        return 0;
}

void spool_index_clear_results(struct spool_index *x)
{
        free(x->done);
        x->done = NULL;
        x->done_cap = x->n_done = 0;
}

int spool_index_add_result(struct spool_index *x, const char *name)
{
        uint64_t hash = hash_of(x, name);
        size_t i;
        int r;

        if (x->n_done >= DONE_MAX)
                return -E2BIG;
        if ((x->n_done + 1) * 2 > x->done_cap) {
                r = grow(x);
                if (r < 0)
                        return r;
        }
        i = place_of(x, hash);
        x->n_done += !x->done[i];
        x->done[i] = hash;
        return 0;
}

bool spool_index_is_done(const struct spool_index *x, const char *name)
{
        return x->n_done && x->done[place_of(x, hash_of(x, name))];
}

size_t spool_index_done(const struct spool_index *x)
{
        return x->n_done;
}

size_t spool_index_bytes(const struct spool_index *x)
{
        return sizeof(*x) + x->done_cap * sizeof(*x->done) + x->troubled.cap * sizeof(*x->troubled.slots) +
               x->bytes;
}

/* --- failures --------------------------------------------------------------------------------------------------------- */

void spool_index_clear_failures(struct spool_index *x)
{
        for (size_t i = 0; i < x->troubled.cap; i++)
                free(x->troubled.slots[i].key ? x->troubled.slots[i].value : NULL);
        index_clear(&x->troubled);
        x->bytes = 0;
}

static int find_or_add(struct spool_index *x, const char *name, struct trouble **ret)
{
        struct trouble *t = index_get(&x->troubled, name);
        size_t len = strlen(name);
        int r;

        if (!t) {
                if (x->troubled.n >= TROUBLED_MAX)
                        return -E2BIG;
                t = calloc(1, sizeof(*t) + len + 1);
                if (!t)
                        return -ENOMEM;
                memcpy(t->name, name, len + 1);
                r = index_put(&x->troubled, t->name, t);
                if (r < 0) {
                        free(t);
                        return r;
                }
                x->bytes += sizeof(*t) + len + 1;
        }
        *ret = t;
        return 0;
}

int spool_index_add_retry(struct spool_index *x, const char *name, unsigned attempt)
{
        struct trouble *t;
        int r = find_or_add(x, name, &t);

        if (r < 0)
                return r;
        if (attempt > t->forgiven) {
                /* Which of the failures that were counted are forgiven is told by the highest alone: a walk reads retry/ first. */
                if (t->attempt <= attempt) {
                        t->failures = 0;
                        t->final = false;
                }
                t->forgiven = attempt;
        }
        return 0;
}

int spool_index_add_failure(struct spool_index *x, const char *name, int64_t epoch, unsigned attempt,
                            bool final)
{
        struct trouble *t;
        uint64_t bit;
        bool again;
        int r = find_or_add(x, name, &t);

        if (r < 0)
                return r;
        bit = attempt >= 1 && attempt <= 64 ? UINT64_C(1) << (attempt - 1) : 0;
        again = bit ? (t->counted & bit) != 0 : attempt <= t->attempt;
        t->counted |= bit;
        t->attempt = MAX(t->attempt, attempt);
        if (again || attempt <= t->forgiven)
                return 0;
        t->failures++;
        t->final |= final;
        t->last = MAX(t->last, epoch);
        return 0;
}

enum spool_verdict spool_index_judge(const struct spool_index *x, const char *name,
                                     const struct spool_policy *p, int64_t now, int64_t *ret_due,
                                     unsigned *ret_failures, unsigned *ret_attempt)
{
        const struct trouble *t = index_get(&x->troubled, name);
        int64_t due = 0;

        if (t && t->failures)
                due = t->last + (int64_t)spool_backoff(p, t->failures);
        if (ret_due)
                *ret_due = due;
        if (ret_failures)
                *ret_failures = t ? t->failures : 0;
        if (ret_attempt)
                *ret_attempt = t ? t->attempt : 0;
        if (spool_index_is_done(x, name))
                return SPOOL_DONE;
        if (!t || !t->failures)
                return SPOOL_OPEN;
        if (t->final || t->failures >= p->tries)
                return SPOOL_FAILED;
        return due > now ? SPOOL_WAITING : SPOOL_OPEN;
}
