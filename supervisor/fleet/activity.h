/* activity.h: the requests that run and the last ones that ended, for GET /api/v1/requests, the feed's topic and the figures.
 *
 * One record a relay; it holds names and numbers, never a word of a prompt or an answer. Running ones are in the order of their
 * arrival, ended ones in a ring of ACTIVITY_RECENT_MAX. All strings are the record's own (names are cut to bounds). */
#ifndef LSV_FLEET_ACTIVITY_H
#define LSV_FLEET_ACTIVITY_H

#include "base/list.h"
#include "core/config.h"
#include "core/trace.h"
#include "fleet/fleet.h"

enum { ACTIVITY_RECENT_MAX = 500, ACTIVITY_ID_MAX = 24, ACTIVITY_SHOWN_MAX = 1000 };

struct activity;
struct activity_model;
struct activity *fleet_activity(struct fleet *f);

struct activity_record {
        struct list node;
        char id[ACTIVITY_ID_MAX];
        char model[CONFIG_ALIAS_MAX], instance[CONFIG_NAME_MAX], key[CONFIG_NAME_MAX];
        char path[48], peer[48];
        struct trace trace;  /* as its traceparent says */
        const char *source;  /* static */
        const char *state;   /* "waiting", "running", "ended" */
        const char *outcome; /* NULL while it runs; "ok", "cancelled", or an error's code */
        int status;          /* HTTP status told to the client, 0 none yet */
        unsigned
                position; /* in its model's queue, 1 the next; 0: it does not wait. As of relay_note_positions */
        usec_t estimate; /* until it is served, 0 unknown; likewise */
        unsigned tries;
        bool streams;
        bool question; /* takes no slot (/tokenize, /slots): counted, but not in the times */
        usec_t at;     /* realtime of its arrival */
        usec_t arrived, granted, first_byte, ended; /* monotonic, 0: not yet */
        int64_t tokens_in, tokens_out;              /* -1 unknown */
        double tokens_per_second;                   /* 0 unknown */
        struct activity_model *of;                  /* private: where it is counted */
};

int activity_new(struct activity **ret);
struct activity *activity_free(struct activity *a);
/* A new running record of this model (an entry's name, or one that several share) with the next id; owned by a. NULL without memory. */
struct activity_record *activity_begin(struct activity *a, const char *model, usec_t now, usec_t realtime);
/* Moves it to the recent ones and counts it; outcome: static text. The record is a's alone then. */
void activity_end(struct activity *a, struct activity_record *rec, const char *outcome, usec_t now);

/* The record of a running request, by its id; NULL: there is none. */
const struct activity_record *activity_find(const struct activity *a, const char *id);
/* What a line of the log says that it is about: its instance or model, its id, its trace. Valid as long as the record. */
struct log_about;
void activity_about(const struct activity_record *rec, struct log_about *ret);

/* When the oldest of those that run arrived (monotonic); USEC_INFINITY: none runs. */
usec_t activity_oldest(const struct activity *a);
typedef void activity_record_fn(void *arg, const struct activity_record *rec);
void activity_each_running(const struct activity *a, activity_record_fn *fn, void *arg);

/* {"total":N,"running":[…],"recent":[…]}: how many run (the oldest ACTIVITY_SHOWN_MAX of them are listed), the newest of the recent ones
 * first; each: {"id","model","instance","key","path","peer","trace","source",
 * "state","outcome","status","tries","stream","at","wait","timeToFirstToken","duration","tokensIn","tokensOut","tokensPerSecond"}
 * (seconds, null unknown; wait: until it got an instance, and what a running one has waited so far). */
void activity_put(const struct activity *a, struct json_writer *w, usec_t now, unsigned recent_max);

/* --- figures: by entry, and by outcome (names from the configuration and static codes only: bounded labels) ------------
 * At most ACTIVITY_MODELS_MAX entries are kept apart, also those that a reload removed; further ones count in the sum only. */
enum { ACTIVITY_BUCKETS = 14, ACTIVITY_OUTCOMES = 32, ACTIVITY_MODELS_MAX = 2048 };
/* A client that leaves says nothing about how long answers take, and an error comes fast: durations are kept apart. Times are those of
 * requests that take a slot. */
enum activity_result { ACTIVITY_OK, ACTIVITY_CANCELLED, ACTIVITY_FAILED, ACTIVITY_RESULTS };
const char *activity_result_name(enum activity_result r); /* "ok" "cancelled" "failed" */
/* "ok"; "cancelled" and "client_gone"; all else failed. */
enum activity_result activity_result_of(const char *outcome);

extern const double activity_bounds[ACTIVITY_BUCKETS]; /* seconds */
enum { ACTIVITY_TOKEN_BUCKETS = 11 };
extern const double activity_token_bounds[ACTIVITY_TOKEN_BUCKETS];
struct activity_figures {
        unsigned running;
        uint64_t tokens_in, tokens_out;
        uint64_t first_byte[ACTIVITY_BUCKETS +
                            1]; /* from its arrival to its first token, of those that had one */
        uint64_t duration[ACTIVITY_RESULTS][ACTIVITY_BUCKETS + 1]; /* from its arrival to its end */
        /* Of those whose instance told its tokens: from the first to the end, by each further one. */
        uint64_t per_token[ACTIVITY_TOKEN_BUCKETS + 1];
        double first_byte_sum, per_token_sum, duration_sum[ACTIVITY_RESULTS];
        struct {
                const char *outcome; /* NULL ends them */
                uint64_t count;
        } outcomes[ACTIVITY_OUTCOMES];
};
/* Of one entry, or of all (NULL). -ENOENT: nothing was asked of it yet. Buckets are not cumulative, the last is over all bounds. */
int activity_figures(const struct activity *a, const char *entry, struct activity_figures *ret);
/* The names of the entries that have figures, in no order; NULL at the end of them. */
const char *activity_model_at(const struct activity *a, size_t i);

#endif
