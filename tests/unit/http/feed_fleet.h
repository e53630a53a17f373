/* feed_fleet.h: a fleet for the tests of the feed: instances with a state and figures, changed by one line of text each. It stands
 * in for fleet/fleet.c: the linker takes these functions, and never looks into the library for them. */
#ifndef TESTS_FEED_FLEET_H
#define TESTS_FEED_FLEET_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/text.h"
#include "fleet/activity.h"
#include "fleet/fleet.h"
#include "fleet/gpus.h"
#include "fleet/relay.h"
#include "http/fake_hubs.h"

enum { FAKE_MAX = 1100, FAKE_SUBSCRIBERS = 8, FAKE_FOLLOWERS = 300 };

struct fake_instance {
        struct report report;
        char name[64], status[32], error[64];
        bool changed, state_changed, gone, reported_gone;
};

struct follower {
        struct fleet *fleet;
        follow_line_fn *fn;
        void *owner;
        char name[64];
};

struct fleet {
        struct loop *loop;
        struct fake_instance instances[FAKE_MAX];
        size_t n;
        struct report aggregate;
        struct {
                fleet_change_fn *fn;
                void *owner;
        } subscribers[FAKE_SUBSCRIBERS];
        struct follower *followers[FAKE_FOLLOWERS];
        struct activity *activity;
        struct activity_record *running; /* the last that began */
};

static struct fake_instance *fake_find(struct fleet *f, const char *name)
{
        for (size_t i = 0; i < f->n; i++)
                if (streq(f->instances[i].name, name))
                        return f->instances + i;
        return NULL;
}

static struct fake_instance *fake_add(struct fleet *f, const char *name, const char *status)
{
        struct fake_instance *in = fake_find(f, name);

        if (!in) {
                if (f->n == FAKE_MAX)
                        return NULL;
                in = f->instances + f->n++;
        }
        memset(in, 0, sizeof(*in));
        (void)snprintf(in->name, sizeof(in->name), "%s", name);
        (void)snprintf(in->status, sizeof(in->status), "%s", status);
        in->report = (struct report){
                .instance = in->name, .model = in->name, .status = in->status, .seq = 1, .slots = 4};
        in->changed = in->state_changed = true;
        return in;
}

static struct fleet *fake_fleet_new(struct loop *loop)
{
        struct fleet *f = calloc(1, sizeof(*f));

        f->loop = loop;
        if (activity_new(&f->activity) < 0)
                abort();
        return f;
}

static void fake_line(struct fleet *f, const char *name, const char *text)
{
        for (size_t i = 0; i < FAKE_FOLLOWERS; i++)
                if (f->followers[i] && streq(f->followers[i]->name, name))
                        f->followers[i]->fn(f->followers[i]->owner, text, strlen(text));
}

/* "add NAME", "many COUNT", "state NAME WORD", "figures NAME IN_FLIGHT", "remove NAME", "line NAME TEXT", "flood NAME COUNT" */
static void fake_command(struct fleet *f, char *line)
{
        char *verb = strtok(line, " \n"), *name = strtok(NULL, " \n"), *rest = strtok(NULL, "\n");
        struct fake_instance *in = name ? fake_find(f, name) : NULL;

        if (!verb || !name)
                return;
        if (streq(verb, "add")) {
                (void)fake_add(f, name, "initial");
        } else if (streq(verb, "many")) {
                for (int i = 0; i < atoi(name); i++) {
                        char text[32];

                        (void)snprintf(text, sizeof(text), "many-%d", i);
                        (void)fake_add(f, text, "ready");
                }
        } else if (streq(verb, "state") && in && rest) {
                (void)snprintf(in->status, sizeof(in->status), "%s", rest);
                in->changed = in->state_changed = true;
                in->report.seq++;
        } else if (streq(verb, "figures") && in && rest) {
                in->report.in_flight = (unsigned)atoi(rest);
                in->changed = true;
                in->report.seq++;
        } else if (streq(verb, "remove") && in) {
                in->gone = in->changed = true;
        } else if (streq(verb, "line") && rest) {
                fake_line(f, name, rest);
        } else if (streq(verb, "begin")) {
                f->running = activity_begin(f->activity, name, loop_now(f->loop), loop_realtime(f->loop));
        } else if (streq(verb, "end") && f->running) {
                activity_end(f->activity, f->running, "ok", loop_now(f->loop));
                f->running = NULL;
        } else if (streq(verb, "flood") && rest) {
                for (int i = 0; i < atoi(rest); i++)
                        fake_line(f, name, "a line of the flood that is about sixty-four bytes long, or so");
        }
}

/* The end of a turn, as the real fleet does it. */
static void fake_settle(void *owner, usec_t now)
{
        static struct fleet_change changes[FAKE_MAX];
        struct fleet *f = owner;
        size_t n = 0;

        for (size_t i = 0; i < f->n; i++) {
                struct fake_instance *in = f->instances + i;

                if (!in->changed)
                        continue;
                changes[n++] = (struct fleet_change){&in->report, !in->state_changed && !in->gone, in->gone};
                in->changed = in->state_changed = false;
        }
        f->aggregate.seq += n > 0;
        for (size_t i = 0; n && i < FAKE_SUBSCRIBERS; i++)
                if (f->subscribers[i].fn)
                        f->subscribers[i].fn(f->subscribers[i].owner, changes, n, now);
        for (size_t i = 0; i < f->n;)
                if (f->instances[i].gone) {
                        /* The reports point into themselves: they are made anew in their new place. */
                        for (size_t k = i; k + 1 < f->n; k++) {
                                struct fake_instance *to = f->instances + k;

                                *to = f->instances[k + 1];
                                to->report.instance = to->report.model = to->name;
                                to->report.status = to->status;
                        }
                        f->n--;
                } else {
                        i++;
                }
}

/* --- what the feed calls ------------------------------------------------------------------------------------------------- */

size_t fleet_count(const struct fleet *f)
{
        return f->n;
}

const struct report *fleet_report(struct fleet *f, size_t i)
{
        return &f->instances[i].report;
}

struct fleet_brief fleet_brief(const struct fleet *f, size_t i)
{
        const struct report *r = &f->instances[i].report;

        return (struct fleet_brief){.instance = r->instance, .model = r->model, .status = r->status};
}

const struct report *fleet_find(struct fleet *f, const char *name)
{
        struct fake_instance *in = fake_find(f, name);

        return in ? &in->report : NULL;
}

const struct report *fleet_aggregate(struct fleet *f)
{
        static const char *const order[] = {"ready", "starting", "error", "crashed", "initial"};
        size_t best = ARRAY_SIZE(order) - 1;
        struct report *a = &f->aggregate;

        a->in_flight = 0;
        for (size_t i = 0; i < f->n; i++) {
                for (size_t k = 0; k < best; k++)
                        if (streq(f->instances[i].status, order[k]))
                                best = k;
                a->in_flight += f->instances[i].report.in_flight;
        }
        a->instance = a->model = "*";
        a->status = order[best];
        return a;
}

const char *fleet_nearest(const struct fleet *f, const char *name)
{
        static const char *names[FAKE_MAX + 1];

        for (size_t i = 0; i < f->n; i++)
                names[i] = f->instances[i].name;
        names[f->n] = NULL;
        return text_nearest(name, names);
}

int fleet_subscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < FAKE_SUBSCRIBERS; i++)
                if (!f->subscribers[i].fn) {
                        f->subscribers[i].fn = fn;
                        f->subscribers[i].owner = owner;
                        return 0;
                }
        return -ENOSPC;
}

void fleet_unsubscribe(struct fleet *f, fleet_change_fn *fn, void *owner)
{
        for (size_t i = 0; i < FAKE_SUBSCRIBERS; i++)
                if (f->subscribers[i].fn == fn && f->subscribers[i].owner == owner)
                        f->subscribers[i].fn = NULL;
}

int fleet_follow_log(struct fleet *f, const char *name, follow_line_fn *on_line, void *owner,
                     struct follower **ret)
{
        for (size_t i = 0; i < FAKE_FOLLOWERS; i++)
                if (!f->followers[i]) {
                        struct follower *x = calloc(1, sizeof(*x));

                        x->fleet = f;
                        x->fn = on_line;
                        x->owner = owner;
                        (void)snprintf(x->name, sizeof(x->name), "%s", name);
                        f->followers[i] = x;
                        *ret = x;
                        return 0;
                }
        return -ENOSPC;
}

struct follower *fleet_unfollow(struct follower *x)
{
        for (size_t i = 0; x && i < FAKE_FOLLOWERS; i++)
                if (x->fleet->followers[i] == x)
                        x->fleet->followers[i] = NULL;
        free(x);
        return NULL;
}

void fleet_put_gpus(struct fleet *f, struct json_writer *w)
{
        (void)f;
        json_open_object(w);
        json_key(w, "gpus");
        json_open_array(w);
        json_close_array(w);
        json_close_object(w);
}

uint64_t fleet_gpus_number(const struct fleet *f)
{
        (void)f;
        return 0;
}

void fleet_gpus_hurry(struct fleet *f)
{
        (void)f;
}

struct activity *fleet_activity(struct fleet *f)
{
        return f->activity;
}

void relay_note_positions(struct fleet *f)
{
        (void)f; /* nobody waits here */
}

#endif
