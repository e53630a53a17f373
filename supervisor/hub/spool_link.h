/* spool_link.h: the driver's own state, and what its files in the loop's thread ask of each other. Its events go to the connector from timers and
 * ended tasks alone, never from inside a function of the seam: those begin nothing but spool_link_pump. */
#ifndef LSV_HUB_SPOOL_LINK_H
#define LSV_HUB_SPOOL_LINK_H

#include "hub/spool_private.h"

/* Tasks in the pool: link is NULL when the driver went meanwhile. */
struct spool_look_task {
        struct hub_link *link;
        struct spool_folder *folder;
        size_t n;
        char *names[SPOOL_LOOKS_MAX], *models[SPOOL_LOOKS_MAX];
};

struct spool_take_task {
        struct list node;
        struct hub_link *link;
        struct spool_folder *folder;
        uint16_t model;
        usec_t begun;
        struct spool_take t;
};

struct spool_survey_task {
        struct hub_link *link;
        struct spool_folder *folder;
        struct spool_survey s;
        usec_t begun;
};

struct spool_prepare_task {
        struct hub_link *link;
        struct spool_folder *folder;
        int inotify, r;
        int wds[SPOOL_DIRS];
        struct spool_place places[SPOOL_DIRS];
        char *words;
};

struct hub_link {
        struct loop *loop;
        char *name, *fallback; /* the model of jobs that name none; NULL: the connector says */
        const struct hub_events *events;
        void *owner;
        struct spool_folder *folder;
        struct spool_table table;
        struct list jobs, takes;

        enum hub_state state;
        char *why;
        usec_t retry_at;
        unsigned prepare_wait;
        struct hub_driver_counts counts;

        int inotify, wds[SPOOL_DIRS];
        struct spool_place places[SPOOL_DIRS];
        bool gone; /* the folder that was watched is there no more */
        struct watch *watch;
        struct timer *tick, *soon;
        struct spool_prepare_task *preparing;
        struct spool_survey_task *surveying, *merging;
        struct spool_look_task *looking;
        unsigned n_takes, n_ops;
        usec_t op_begun; /* of the oldest order that may run; 0: none */

        struct spool_news *news;
        size_t n_news;
        usec_t survey_at; /* the next whole one */
        usec_t distrust_at;
        usec_t held_at;
        size_t merged; /* of merging's */
        unsigned generation;
        size_t sweep; /* entries that the merge has still to look at */
        bool more, draining, heard_credits, overflow_told;
        unsigned total; /* credits */
        size_t failed_jobs, done_jobs;
};

/* --- spool.c */
void spool_link_state(struct hub_link *l, enum hub_state state, const char *why, usec_t retry_at);
int64_t spool_link_seconds(const struct hub_link *l);
usec_t spool_link_at(const struct hub_link *l, int64_t epoch);           /* when the wall clock will say so */
void spool_link_survey_at(struct hub_link *l, usec_t at);                /* a whole one, not later */
void spool_link_news(struct hub_link *l, const struct spool_news *news); /* copied */
void spool_link_look_again(struct hub_link *l, const char *name);
/* The folder was taken away, unmounted, or another one has its name: it is prepared anew. */
void spool_link_gone(struct hub_link *l);
bool spool_link_is_prepared(const struct hub_link *l);
/* Begins what can be begun, at the next turn. */
void spool_link_pump(struct hub_link *l);
watch_fn spool_on_inotify;

struct spool_end {
        enum { END_DONE, END_FAILED, END_BACK, END_UNKNOWN } how; /* UNKNOWN: its names must be looked at */
        unsigned failures, attempt;                               /* FAILED */
        int64_t epoch;                                            /* FAILED: of the last one */
        bool final;
        usec_t wait; /* at least so long until it is tried again */
};
void spool_link_ended(struct hub_link *l, const char *name, const struct spool_end *end);

/* --- spool_work.c */
void spool_begin_prepare(struct hub_link *l);
void spool_begin_survey(struct hub_link *l); /* if one is due */
void spool_merge(struct hub_link *l);        /* the next slice of what it found */
void spool_begin_look(struct hub_link *l);
/* READY jobs of models with a credit, in turns of the models; and those of models that nobody here has. */
bool spool_begin_takes(struct hub_link *l);
/* Somebody could work, and nothing that is READY is for them. */
bool spool_wants_looks(const struct hub_link *l);

#endif
