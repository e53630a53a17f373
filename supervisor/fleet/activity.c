/* activity.c: records of requests, and what they add up to. */
#include "fleet/activity.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"

const double activity_bounds[ACTIVITY_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                  1,     2.5,  5,     10,   30,  60,   300};

const double activity_token_bounds[ACTIVITY_TOKEN_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03,
                                                              0.05,  0.1,    0.25,  0.5,  1};

enum { SPARES_MAX = 256 };

struct activity_model {
        char name[CONFIG_ALIAS_MAX]; /* "" of the sum */
        struct activity_figures figures;
};

struct activity {
        struct list running; /* in the order of their arrival */
        struct list recent;  /* the oldest first */
        struct list spares;  /* memory for those that begin */
        unsigned n_recent, n_spares;
        uint64_t next_id;
        struct activity_model sum;
        struct activity_model **models; /* by name */
        size_t n_models, cap_models;
};

int activity_new(struct activity **ret)
{
        struct activity *a = calloc(1, sizeof(*a));

        if (!a)
                return -ENOMEM;
        list_init(&a->running);
        list_init(&a->recent);
        list_init(&a->spares);
        a->next_id = 1;
        *ret = a;
        return 0;
}

static void drop_all(struct list *head)
{
        while (!list_is_empty(head)) {
                struct activity_record *rec = LIST_ENTRY(head->next, struct activity_record, node);

                list_remove(&rec->node);
                free(rec);
        }
}

struct activity *activity_free(struct activity *a)
{
        if (!a)
                return NULL;
        drop_all(&a->running);
        drop_all(&a->recent);
        drop_all(&a->spares);
        for (size_t i = 0; i < a->n_models; i++)
                free(a->models[i]);
        free(a->models);
        free(a);
        return NULL;
}

/* --- figures ------------------------------------------------------------------------------------------------------- */

/* Where it is, or where it belongs. */
static size_t find_model(const struct activity *a, const char *name, bool *ret_there)
{
        size_t low = 0, high = a->n_models;

        *ret_there = false;
        while (low < high) {
                size_t middle = (low + high) / 2;
                int order = strcmp(a->models[middle]->name, name);

                if (order == 0) {
                        *ret_there = true;
                        return middle;
                }
                if (order < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

/* NULL when there are too many, or no memory: then it counts in the sum alone. */
static struct activity_model *get_model(struct activity *a, const char *name)
{
        struct activity_model *m;
        bool there;
        size_t at = find_model(a, name, &there);

        if (there)
                return a->models[at];
        if (a->n_models == ACTIVITY_MODELS_MAX || strlen(name) >= sizeof(m->name))
                return NULL;
        if (a->n_models == a->cap_models) {
                size_t cap = MAX(a->cap_models * 2, 8U);
                struct activity_model **more = reallocarray(a->models, cap, sizeof(struct activity_model *));

                if (!more)
                        return NULL;
                a->models = more;
                a->cap_models = cap;
        }
        m = calloc(1, sizeof(*m));
        if (!m)
                return NULL;
        memcpy(m->name, name, strlen(name) + 1);
        memmove(a->models + at + 1, a->models + at, (a->n_models - at) * sizeof(struct activity_model *));
        a->models[at] = m;
        a->n_models++;
        return m;
}

static double seconds(usec_t span)
{
        return (double)span / (double)USEC_PER_SEC;
}

static size_t bucket_in(const double *bounds, size_t n, double v)
{
        size_t i = 0;

        while (i < n && v > bounds[i])
                i++;
        return i;
}

static size_t bucket_of(usec_t span)
{
        return bucket_in(activity_bounds, ACTIVITY_BUCKETS, seconds(span));
}

/* What the instance told of its pace, where it did; a stream's own times include what the client was slow for. */
static void count_per_token(struct activity_figures *f, const struct activity_record *rec)
{
        double span;

        if (rec->tokens_per_second > 0)
                span = 1 / rec->tokens_per_second;
        else if (rec->streams && rec->tokens_out > 1 && rec->first_byte)
                span = seconds(usec_sub(rec->ended, rec->first_byte)) / (double)(rec->tokens_out - 1);
        else
                return;
        f->per_token[bucket_in(activity_token_bounds, ACTIVITY_TOKEN_BUCKETS, span)]++;
        f->per_token_sum += span;
}

const char *activity_result_name(enum activity_result r)
{
        static const char *const names[] = {
                [ACTIVITY_OK] = "ok", [ACTIVITY_CANCELLED] = "cancelled", [ACTIVITY_FAILED] = "failed"};

        return names[r];
}

enum activity_result activity_result_of(const char *outcome)
{
        if (streq(outcome, "ok"))
                return ACTIVITY_OK;
        if (streq(outcome, "cancelled") || streq(outcome, "client_gone"))
                return ACTIVITY_CANCELLED;
        return ACTIVITY_FAILED;
}

static void count(struct activity_figures *f, const struct activity_record *rec)
{
        enum activity_result result = activity_result_of(rec->outcome);
        usec_t whole = usec_sub(rec->ended, rec->arrived);

        f->running--;
        if (rec->tokens_in > 0)
                f->tokens_in += (uint64_t)rec->tokens_in;
        if (rec->tokens_out > 0)
                f->tokens_out += (uint64_t)rec->tokens_out;
        if (rec->first_byte && !rec->question) {
                usec_t first = usec_sub(rec->first_byte, rec->arrived);

                f->first_byte[bucket_of(first)]++;
                f->first_byte_sum += seconds(first);
        }
        if (!rec->question) {
                count_per_token(f, rec);
                f->duration[result][bucket_of(whole)]++;
                f->duration_sum[result] += seconds(whole);
        }
        for (size_t i = 0; i < ACTIVITY_OUTCOMES; i++) {
                if (!f->outcomes[i].outcome)
                        f->outcomes[i].outcome = rec->outcome;
                if (streq(f->outcomes[i].outcome, rec->outcome)) {
                        f->outcomes[i].count++;
                        return;
                }
        }
}

int activity_figures(const struct activity *a, const char *entry, struct activity_figures *ret)
{
        bool there;
        size_t at;

        if (!entry) {
                *ret = a->sum.figures;
                return 0;
        }
        at = find_model(a, entry, &there);
        if (!there)
                return -ENOENT;
        *ret = a->models[at]->figures;
        return 0;
}

const char *activity_model_at(const struct activity *a, size_t i)
{
        return i < a->n_models ? a->models[i]->name : NULL;
}

/* --- records ------------------------------------------------------------------------------------------------------- */

/* "req-000000000001", with more digits once they are needed. */
static void name_record(char id[ACTIVITY_ID_MAX], uint64_t n)
{
        char digits[ACTIVITY_ID_MAX - 5];
        size_t at = sizeof(digits);

        while (at && (n || sizeof(digits) - at < 12)) {
                digits[--at] = (char)('0' + n % 10);
                n /= 10;
        }
        memcpy(id, "req-", 4);
        memcpy(id + 4, digits + at, sizeof(digits) - at);
        id[4 + sizeof(digits) - at] = '\0';
}

struct activity_record *activity_begin(struct activity *a, const char *model, usec_t now, usec_t realtime)
{
        struct activity_record *rec;

        if (a->n_spares) {
                rec = LIST_ENTRY(a->spares.prev, struct activity_record, node);
                list_remove(&rec->node);
                a->n_spares--;
        } else {
                rec = malloc(sizeof(*rec));
                if (!rec)
                        return NULL;
        }
        *rec = (struct activity_record){
                .state = "waiting",
                .source = "",
                .arrived = now,
                .at = realtime,
                .tokens_in = -1,
                .tokens_out = -1,
                .of = get_model(a, model),
        };
        list_init(&rec->node);
        name_record(rec->id, a->next_id++);
        (void)text_copy(rec->model, sizeof(rec->model), model);
        list_append(&a->running, &rec->node);
        a->sum.figures.running++;
        if (rec->of)
                rec->of->figures.running++;
        return rec;
}

void activity_end(struct activity *a, struct activity_record *rec, const char *outcome, usec_t now)
{
        rec->state = "ended";
        rec->outcome = outcome;
        rec->ended = now;
        count(&a->sum.figures, rec);
        if (rec->of)
                count(&rec->of->figures, rec);
        list_remove(&rec->node);
        if (a->n_recent == ACTIVITY_RECENT_MAX) {
                struct activity_record *oldest = LIST_ENTRY(a->recent.next, struct activity_record, node);

                list_remove(&oldest->node);
                a->n_recent--;
                if (a->n_spares == SPARES_MAX) {
                        free(oldest);
                } else {
                        list_append(&a->spares, &oldest->node);
                        a->n_spares++;
                }
        }
        list_append(&a->recent, &rec->node);
        a->n_recent++;
}

const struct activity_record *activity_find(const struct activity *a, const char *id)
{
        for (const struct list *node = a->running.next; node != &a->running; node = node->next) {
                const struct activity_record *rec = LIST_ENTRY(node, struct activity_record, node);

                if (streq(rec->id, id))
                        return rec;
        }
        return NULL;
}

void activity_about(const struct activity_record *rec, struct log_about *ret)
{
        *ret = (struct log_about){.subject = rec->instance[0] ? rec->instance : rec->model,
                                  .request = rec->id,
                                  .trace = rec->trace.id[0] ? rec->trace.id : NULL};
}

usec_t activity_oldest(const struct activity *a)
{
        return list_is_empty(&a->running)
                       ? USEC_INFINITY
                       : LIST_ENTRY(a->running.next, struct activity_record, node)->arrived;
}

void activity_each_running(const struct activity *a, activity_record_fn *fn, void *arg)
{
        for (const struct list *node = a->running.next; node != &a->running; node = node->next)
                fn(arg, LIST_ENTRY(node, struct activity_record, node));
}

static void put_span(struct json_writer *w, const char *key, usec_t from, usec_t to)
{
        if (from && to)
                json_double(w, key, seconds(usec_sub(to, from)), 6);
        else
                json_null(w, key);
}

static void put_count(struct json_writer *w, const char *key, int64_t n)
{
        if (n < 0)
                json_null(w, key);
        else
                json_int(w, key, n);
}

static void put_record(struct json_writer *w, const struct activity_record *rec, usec_t now)
{
        usec_t until = rec->ended ? rec->ended : now;

        json_open_object(w);
        json_string(w, "id", rec->id);
        json_string(w, "model", rec->model);
        json_string(w, "instance", rec->instance[0] ? rec->instance : NULL);
        json_string(w, "key", rec->key[0] ? rec->key : NULL);
        json_string(w, "path", rec->path);
        json_string(w, "peer", rec->peer[0] ? rec->peer : NULL);
        json_string(w, "trace", rec->trace.id[0] ? rec->trace.id : NULL);
        json_string(w, "source", rec->source);
        json_string(w, "state", rec->state);
        json_string(w, "outcome", rec->outcome);
        if (rec->status)
                json_int(w, "status", rec->status);
        else
                json_null(w, "status");
        if (rec->position)
                json_uint(w, "position", rec->position);
        else
                json_null(w, "position");
        if (rec->position && rec->estimate)
                json_double(w, "estimate", seconds(rec->estimate), 3);
        else
                json_null(w, "estimate");
        json_uint(w, "tries", rec->tries);
        json_bool(w, "stream", rec->streams);
        report_put_moment(w, "at", rec->at);
        put_span(w, "wait", rec->arrived, rec->granted ? rec->granted : until);
        put_span(w, "timeToFirstToken", rec->arrived, rec->first_byte);
        put_span(w, "duration", rec->arrived, until);
        put_count(w, "tokensIn", rec->tokens_in);
        put_count(w, "tokensOut", rec->tokens_out);
        if (rec->tokens_per_second > 0)
                json_double(w, "tokensPerSecond", rec->tokens_per_second, 1);
        else
                json_null(w, "tokensPerSecond");
        json_close_object(w);
}

void activity_put(const struct activity *a, struct json_writer *w, usec_t now, unsigned recent_max)
{
        unsigned shown = 0;

        json_open_object(w);
        json_uint(w, "total", a->sum.figures.running);
        json_key(w, "running");
        json_open_array(w);
        for (const struct list *node = a->running.next; node != &a->running && shown < ACTIVITY_SHOWN_MAX;
             node = node->next, shown++)
                put_record(w, LIST_ENTRY(node, struct activity_record, node), now);
        json_close_array(w);
        json_key(w, "recent");
        json_open_array(w);
        for (const struct list *node = a->recent.prev; node != &a->recent && recent_max; node = node->prev) {
                put_record(w, LIST_ENTRY(node, struct activity_record, node), now);
                recent_max--;
        }
        json_close_array(w);
        json_close_object(w);
}
