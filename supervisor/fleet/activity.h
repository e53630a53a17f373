/* activity.h: the requests that run and the last ones that ended, for GET /api/v1/requests, the feed's topic and the figures.
 *
 * One record a relay; it holds names and numbers, never a word of a prompt or an answer. Running ones are in the order of their
 * arrival, ended ones in a ring of ACTIVITY_RECENT_MAX. All strings are the record's own (names are cut to bounds). */
#ifndef LSV_FLEET_ACTIVITY_H
#define LSV_FLEET_ACTIVITY_H

#include "base/list.h"
#include "core/config.h"
#include "fleet/fleet.h"

enum { ACTIVITY_RECENT_MAX = 500, ACTIVITY_ID_MAX = 24 };

struct activity;
struct activity *fleet_activity(struct fleet *f);

struct activity_record {
        struct list node;
        char id[ACTIVITY_ID_MAX];
        char model[CONFIG_NAME_MAX], instance[CONFIG_NAME_MAX], key[CONFIG_NAME_MAX];
        char path[48], peer[48];
        const char *source;  /* static */
        const char *state;   /* "waiting", "running", "ended" */
        const char *outcome; /* NULL while it runs; "ok", "cancelled", or an error's code */
        int status;          /* HTTP status told to the client, 0 none yet */
        unsigned tries, retries;
        bool streams;
        usec_t at;                                  /* realtime of its arrival */
        usec_t arrived, granted, first_byte, ended; /* monotonic, 0: not yet */
        int64_t tokens_in, tokens_out;              /* -1 unknown */
        double tokens_per_second;                   /* 0 unknown */
};

int activity_new(struct activity **ret);
struct activity *activity_free(struct activity *a);
/* A new running record with the next id; owned by a. NULL without memory. */
struct activity_record *activity_begin(struct activity *a, usec_t now, usec_t realtime);
/* Moves it to the recent ones; outcome: static text. */
void activity_end(struct activity *a, struct activity_record *rec, const char *outcome, usec_t now);

/* {"running":[…],"recent":[…]}; each: {"id","model","instance","key","path","peer","source","state","outcome","status","tries",
 * "stream","at","wait","timeToFirstToken","duration","tokensIn","tokensOut","tokensPerSecond"} (seconds, null unknown). */
void activity_put(const struct activity *a, struct json_writer *w, usec_t now, unsigned recent_max);

/* --- figures: by entry, and by outcome (names from the configuration and static codes only: bounded labels) --- */
enum { ACTIVITY_BUCKETS = 14, ACTIVITY_OUTCOMES = 24 };
extern const double activity_bounds[ACTIVITY_BUCKETS]; /* seconds */
struct activity_figures {
        unsigned running;
        uint64_t tokens_in, tokens_out;
        uint64_t first_byte[ACTIVITY_BUCKETS + 1], duration[ACTIVITY_BUCKETS + 1];
        double first_byte_sum, duration_sum;
        struct {
                const char *outcome;
                uint64_t count;
        } outcomes[ACTIVITY_OUTCOMES];
};
/* Of one entry, or of all (NULL). -ENOENT. */
int activity_figures(const struct activity *a, const char *entry, struct activity_figures *ret);

#endif
