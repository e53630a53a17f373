/* test_demand.c: models that come when a ticket waits for them and go when nobody does, over real members with fake llama-servers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "core/keep_alive.h"
#include "fleet/demand.h"
#include "fleet/dispatch.h"
#include "fleet/fleet_world.h"
#include "fleet/hanging.h"
#include "fleet/demand_private.h"

struct client {
        struct ticket *ticket;
        unsigned granted, refused;
        enum ticket_refusal why;
        unsigned retry_after;
        char message[256];
        bool ends; /* on_grant gives back at once */
};

static struct world *world;
static bool over;

static void on_grant(void *owner, struct ticket *t)
{
        struct client *c = owner;

        if (!over)
                c->granted++;
        if (over || c->ends) {
                ticket_done(t, OUTCOME_OK, KEEP_ALIVE_NONE);
                c->ticket = NULL;
        }
}

static void on_refuse(void *owner, struct ticket *t, enum ticket_refusal why, const char *message,
                      unsigned retry_after)
{
        struct client *c = owner;

        (void)t;
        if (over)
                return;
        c->refused++;
        c->why = why;
        c->retry_after = retry_after;
        (void)snprintf(c->message, sizeof c->message, "%s", message);
        c->ticket = NULL;
}

static void on_revoke(void *owner, struct ticket *t, const char *why)
{
        struct client *c = owner;

        (void)why;
        ticket_done(t, OUTCOME_FAILED, KEEP_ALIVE_NONE);
        c->ticket = NULL;
}

static const struct ticket_events events = {on_grant, on_refuse, on_revoke};

static int asks_with(struct client *c, const char *model, struct ticket_spec spec)
{
        int r;

        assert_int_equal(dispatch_resolve(world->fleet, model, &spec.entry), 0);
        spec.priority = TICKET_NORMAL;
        c->ticket = NULL;
        r = dispatch_ask(world->fleet, &spec, &events, c, &c->ticket);
        if (r == 1)
                c->granted++;
        if (r == 1 && c->ends) {
                ticket_done(c->ticket, OUTCOME_OK, KEEP_ALIVE_NONE);
                c->ticket = NULL;
        }
        return r;
}

static int asks(struct client *c, const char *model)
{
        return asks_with(c, model, (struct ticket_spec){0});
}

static void ends(struct client *c, usec_t keep_alive)
{
        ticket_done(c->ticket, OUTCOME_OK, keep_alive);
        c->ticket = NULL;
}

static void wait_granted(struct client *c, unsigned n)
{
        world->until = time_monotonic() + PATIENCE;
        while (c->granted < n) {
                if (c->refused)
                        fail_msg("refused: %s", c->message);
                assert_true(turn(world));
        }
}

static void wait_refused(struct client *c)
{
        world->until = time_monotonic() + PATIENCE;
        while (!c->refused)
                assert_true(turn(world));
}

/* Nothing is to happen for a while: of what does not happen there is no sign to wait for. */
static void pass(usec_t span)
{
        usec_t until = time_monotonic() + span;

        world->until = USEC_INFINITY;
        while (time_monotonic() < until)
                (void)turn(world);
}

static void uses(const char *model, usec_t keep_alive)
{
        struct client c = {0};

        if (asks(&c, model) == 0)
                wait_granted(&c, 1);
        ends(&c, keep_alive);
}

static const char *status(const char *name)
{
        const struct report *r = fleet_find(world->fleet, name);

        return r ? r->status : "gone";
}

static void is(const char *name, const char *expected)
{
        if (!streq(status(name), expected))
                fail_msg("%s is %s, not %s", name, status(name), expected);
}

static usec_t until_of(const char *model)
{
        return demand_until(world->fleet, config_find(fleet_config(world->fleet), model));
}

static struct demand_figures figures(const char *model)
{
        struct demand_figures g;

        for (size_t i = 0; demand_figures(world->fleet, i, &g) == 0; i++)
                if (streq(g.model, model))
                        return g;
        fail_msg("%s has no figures", model);
        return g;
}

static unsigned starts(const char *name)
{
        return (unsigned)fleet_find(world->fleet, name)->restarts +
               (fleet_find(world->fleet, name)->pid != 0);
}

static int person(bool load, const char *model, bool force, const char *part)
{
        _cleanup_free_ char *message = NULL;
        int r = load ? demand_load(world->fleet, model, &message)
                     : demand_unload(world->fleet, model, force, &message);

        assert_non_null(message);
        if (part && !strstr(message, part))
                fail_msg("\"%s\" has no \"%s\"", message, part);
        return r;
}

static void orders(const char *name, enum fleet_verb verb)
{
        _cleanup_free_ char *message = NULL;

        assert_int_equal(fleet_order(world->fleet, name, verb, &message), 0);
}

#define MODEL(name, more) "{\"name\": \"" name "\", \"model\": \"m.gguf\", \"slots\": 2" more "}"
#define DEMAND(name)      MODEL(name, ", \"on_demand\": {}")
#define ABC               DEMAND("a") "," DEMAND("b") "," DEMAND("c")

static void begin(struct world *w, const char *more, const char *instances)
{
        world = w;
        w->more = more;
        w->gateway = NULL;
        write_config(w, instances);
        open_fleet(w);
        over = false;
}

/* --- coming and going ------------------------------------------------------------------------------------------------- */

static void comes_when_asked_for_and_goes_when_idle(void **state)
{
        struct client c = {0};
        struct ticket_progress p;
        unsigned ready, total;

        begin(*state, NULL, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"300ms\"}"));
        wait_status(world, "a", "idle");
        assert_false(fleet_find(world->fleet, "a")->want_up);
        /* It can serve: that is ready enough. */
        assert_true(fleet_is_ready(world->fleet, &ready, &total));
        assert_int_equal(total, 0);
        /* To look at it does not wake it. */
        assert_int_equal(asks_with(&c, "a", (struct ticket_spec){.no_wake = true, .ignores_slots = true}),
                         -EHOSTDOWN);
        assert_int_equal(asks(&c, "a"), 0);
        ticket_progress(c.ticket, &p);
        assert_int_equal(p.position, 1);
        /* Nor is it any less so while it loads, and later while it goes. */
        wait_status(world, "a", "starting");
        assert_true(fleet_is_ready(world->fleet, &ready, &total));
        assert_int_equal(total, 1);
        wait_granted(&c, 1);
        is("a", "ready");
        assert_true(until_of("a") == 0); /* busy: nobody knows */
        pass(600 * USEC_PER_MSEC);
        is("a", "ready");
        ends(&c, KEEP_ALIVE_NONE);
        assert_true(until_of("a") > 0);
        assert_true(fleet_find(world->fleet, "a")->until > 0);
        /* Looks in between are no use: it goes all the same. */
        for (unsigned i = 0; i < 20 && streq(status("a"), "ready"); i++) {
                if (asks_with(&c, "a", (struct ticket_spec){.no_wake = true, .ignores_slots = true}) == 1)
                        ends(&c, KEEP_ALIVE_NONE);
                pass(20 * USEC_PER_MSEC);
        }
        world->until = time_monotonic() + PATIENCE;
        while (!streq(status("a"), "idle")) {
                assert_true(fleet_is_ready(world->fleet, NULL, NULL));
                assert_true(turn(world));
        }
        assert_true(until_of("a") == 0);
        assert_int_equal(figures("a").loads, 1);
        assert_int_equal(figures("a").unloads[UNLOAD_IDLE], 1);
        assert_null(fleet_find(world->fleet, "a")->last_error);
        uses("a", KEEP_ALIVE_NONE);
        assert_int_equal(figures("a").loads, 2);
}

static void a_request_says_how_long(void **state)
{
        begin(*state, NULL, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"400ms\"}") "," DEMAND("b"));
        wait_status(world, "a", "idle");
        uses("b", 0);
        wait_status(world, "b", "idle");
        uses("a", KEEP_ALIVE_FOREVER);
        pass(900 * USEC_PER_MSEC);
        is("a", "ready");
        assert_true(until_of("a") == 0);
        uses("a", 100 * USEC_PER_MSEC);
        wait_status(world, "a", "idle");
        /* What the last life was told does not count for the next. */
        uses("a", KEEP_ALIVE_FOREVER);
        assert_int_equal(person(false, "a", false, "unload: a"), 0);
        wait_status(world, "a", "idle");
        uses("a", KEEP_ALIVE_NONE);
        wait_status(world, "a", "idle");
        assert_int_equal(figures("a").unloads[UNLOAD_IDLE], 2);
}

/* --- room ------------------------------------------------------------------------------------------------------------- */

static unsigned loaded(void)
{
        unsigned n = 0;

        for (size_t i = 0; i < fleet_count(world->fleet); i++)
                n += fleet_report(world->fleet, i)->pid != 0;
        return n;
}

static void one_makes_room_for_the_other(void **state)
{
        begin(*state, "\"on_demand\": {\"max_loaded\": 1},", ABC);
        for (unsigned i = 0; i < 30; i++) {
                struct client c = {0};

                if (asks(&c, i % 2 ? "a" : "b") == 0)
                        wait_granted(&c, 1);
                assert_int_equal(loaded(), 1);
                ends(&c, KEEP_ALIVE_NONE);
        }
        assert_int_equal(figures("a").loads, 15);
        assert_int_equal(figures("b").unloads[UNLOAD_EVICTED], 15);
        assert_int_equal(figures("b").unloads[UNLOAD_IDLE], 0);
}

static void who_was_not_used_for_longest_goes(void **state)
{
        begin(*state, "\"on_demand\": {\"max_loaded\": 2},", ABC);
        uses("a", KEEP_ALIVE_NONE);
        uses("b", KEEP_ALIVE_NONE);
        is("a", "ready");
        pass(20 * USEC_PER_MSEC); /* the clock is read once a turn */
        uses("a", KEEP_ALIVE_NONE);
        uses("c", KEEP_ALIVE_NONE);
        is("a", "ready");
        wait_status(world, "b", "idle");
}

static void a_busy_one_stays(void **state)
{
        struct client busy = {0}, other = {0}, late = {0};

        begin(*state, "\"on_demand\": {\"max_loaded\": 1},", ABC);
        assert_int_equal(asks(&busy, "a"), 0);
        wait_granted(&busy, 1);
        assert_int_equal(asks(&other, "b"), 0);
        pass(500 * USEC_PER_MSEC);
        is("a", "ready");
        assert_int_equal(other.granted, 0);
        assert_string_equal(demand_words(world->fleet, config_find(fleet_config(world->fleet), "b")),
                            "no room for b: a is busy");
        /* The wait has an end, and says why. */
        assert_int_equal(asks_with(&late, "c", (struct ticket_spec){.timeout = 100 * USEC_PER_MSEC}), 0);
        wait_refused(&late);
        assert_int_equal(late.why, REFUSAL_NO_ROOM);
        assert_non_null(strstr(late.message, "is busy"));
        ends(&busy, KEEP_ALIVE_NONE);
        wait_granted(&other, 1);
        is("b", "ready");
        is("a", "idle");
        ends(&other, KEEP_ALIVE_NONE);
}

/* --- the memory of GPUs ------------------------------------------------------------------------------------------------ */

#define FILE_OF(name, file)                                                                                  \
        "{\"name\": \"" name "\", \"model\": \"" file "\", \"slots\": 2, \"on_demand\": {}}"

/* A header with nothing in it, and room that it does not take. */
static void make_file(const char *name, off_t size)
{
        _cleanup_free_ char *path = text_format("%s/%s", world->dir, name);
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24), 24);
        assert_int_equal(ftruncate(fd, size), 0);
        (void)close(fd);
}

static void begin_gpu(struct world *w, const char *budget, const char *instances)
{
        _cleanup_free_ char *more = text_format("\"on_demand\": {\"gpu_memory\": \"%s\"},", budget),
                            *folder = text_format("%s/hang", w->dir);

        /* The fake sees that one, too. */
        assert_int_equal(setenv("FAKE_DEVICES", "  CUDA0: FAKE (8192 MiB, 8000 MiB free)", 1), 0);
        loop_thread = pthread_self();
        assert_true(mkdir(folder, 0700) == 0);
        begin(w, more, instances);
        w->more = NULL;
        w->fleet->n_gpus = 1;
        (void)snprintf(w->fleet->gpus[0].pci, sizeof w->fleet->gpus[0].pci, "0000:01:00.0");
}

static void models_share_the_memory_of_a_gpu(void **state)
{
        struct client big = {0}, other = {0}, huge = {0};

        /* 2.7G each with a tenth more and 512M, so two do not fit; the small one fits beside either. */
        begin_gpu(*state, "4G",
                  FILE_OF("a", "a.gguf") "," FILE_OF("b", "b-00001-of-00002.gguf") "," FILE_OF(
                          "c", "m.gguf") "," FILE_OF("d", "d.gguf"));
        make_file("a.gguf", 2L << 30);
        make_file("b-00001-of-00002.gguf", 1L << 30);
        make_file("b-00002-of-00002.gguf", 1L << 30);
        make_file("d.gguf", 8L << 30);
        uses("c", KEEP_ALIVE_NONE);
        assert_int_equal(asks(&big, "a"), 0);
        wait_granted(&big, 1);
        is("c", "ready");
        assert_int_equal(asks(&other, "b"), 0);
        pass(500 * USEC_PER_MSEC);
        assert_int_equal(other.granted, 0); /* the one in the way is busy */
        ends(&big, KEEP_ALIVE_NONE);
        wait_granted(&other, 1);
        ends(&other, KEEP_ALIVE_NONE);
        is("a", "idle");
        is("c", "ready");
        /* What never fits is refused as soon as its size is known. */
        assert_int_equal(asks(&huge, "d"), 0);
        wait_refused(&huge);
        assert_int_equal(huge.why, REFUSAL_NO_ROOM);
        assert_non_null(strstr(huge.message, "d cannot be loaded"));
        is("b", "ready");
}

static void a_model_file_that_does_not_answer(void **state)
{
        struct client slow = {0}, other = {0};
        usec_t until;

        begin_gpu(*state, "4G", FILE_OF("a", "hang/a.gguf") "," FILE_OF("c", "m.gguf"));
        make_file("hang/a.gguf", 2L << 30);
        in_loop = 0; /* the configuration was read before there was a loop, and that file is ours */
        hanging = true;
        assert_int_equal(asks(&slow, "a"), 0);
        until = time_monotonic() + PATIENCE;
        while (!hung && time_monotonic() < until)
                pass(10 * USEC_PER_MSEC);
        assert_string_equal(demand_words(world->fleet, config_find(fleet_config(world->fleet), "a")),
                            "its model file is being looked at");
        /* It waits in its turn, and is loaded without being known when its file has not answered for long enough. */
        assert_int_equal(asks(&other, "c"), 0);
        wait_granted(&slow, 1);
        wait_granted(&other, 1);
        hanging = false;
        ends(&slow, KEEP_ALIVE_NONE);
        ends(&other, KEEP_ALIVE_NONE);
        assert_int_equal(in_loop, 0);
}

/* Somebody who never pauses does not keep the room for ever. */
static void a_busy_one_yields_in_the_end(void **state)
{
        struct client never[2] = {0}, other = {0};
        usec_t began;
        unsigned served = 0;

        begin(*state, "\"on_demand\": {\"max_loaded\": 1},", ABC);
        assert_int_equal(asks(&never[0], "a"), 0);
        wait_granted(&never[0], 1);
        assert_int_equal(asks(&never[1], "a"), 1);
        assert_int_equal(asks(&other, "b"), 0);
        began = time_monotonic();
        world->until = began + 60 * USEC_PER_SEC;
        while (!other.granted) {
                for (unsigned i = 0; i < 2; i++)
                        if (never[i].granted) {
                                never[i].granted = 0;
                                served++;
                                ends(&never[i], KEEP_ALIVE_NONE);
                                (void)asks(&never[i], "a");
                        }
                assert_true(turn(world));
                assert_int_equal(other.refused, 0);
        }
        assert_true(time_monotonic() - began >= DEMAND_FAIR);
        assert_true(served > 10);
        assert_int_equal(never[0].refused + never[1].refused, 0); /* what waits for it waits its turn */
        ends(&other, KEEP_ALIVE_NONE);
        never[0].granted = never[1].granted = 0;
        wait_granted(&never[0], 1);
        wait_granted(&never[1], 1);
        ends(&never[0], KEEP_ALIVE_NONE);
        ends(&never[1], KEEP_ALIVE_NONE);
}

/* Who it yields to may leave: then it gets work again, although nothing else happens. */
static void it_yields_to_nobody_who_left(void **state)
{
        struct client long_one = {0}, next = {0}, other = {0};

        begin(*state, "\"on_demand\": {\"max_loaded\": 1},", ABC);
        assert_int_equal(asks(&long_one, "a"), 0);
        wait_granted(&long_one, 1);
        assert_int_equal(asks(&other, "b"), 0);
        pass(DEMAND_FAIR + USEC_PER_SEC);
        assert_int_equal(asks(&next, "a"), 0); /* there is a free slot, but it is another one's turn */
        ticket_cancel(other.ticket);
        wait_granted(&next, 1);
        ends(&long_one, KEEP_ALIVE_NONE);
        ends(&next, KEEP_ALIVE_NONE);
        is("a", "ready");
}

static void nobody_takes_the_room_of_who_waits_longer(void **state)
{
        struct client busy = {0}, big = {0}, small[5] = {0};

        begin(*state, "\"on_demand\": {\"max_loaded\": 2},",
              MODEL("big", ", \"replicas\": 2, \"on_demand\": {}") "," ABC);
        assert_int_equal(asks(&busy, "a"), 0);
        wait_granted(&busy, 1);
        assert_int_equal(asks(&big, "big"), 0);
        for (unsigned i = 0; i < 5; i++)
                assert_int_equal(asks(&small[i], i % 2 ? "b" : "c"), 0);
        pass(300 * USEC_PER_MSEC);
        assert_int_equal(loaded(), 1); /* b or c would fit beside a */
        ends(&busy, KEEP_ALIVE_NONE);
        wait_granted(&big, 1);
        assert_int_equal(small[0].granted, 0);
        ends(&big, KEEP_ALIVE_NONE);
        for (unsigned i = 0; i < 5; i++) {
                wait_granted(&small[i], 1);
                ends(&small[i], KEEP_ALIVE_NONE);
        }
}

static void a_pinned_one_stays(void **state)
{
        struct client c = {0};

        begin(*state, "\"on_demand\": {\"max_loaded\": 1},",
              MODEL("a", ", \"on_demand\": {\"pinned\": true, \"idle_timeout\": \"1s\"}") "," DEMAND("b"));
        uses("a", KEEP_ALIVE_NONE);
        assert_int_equal(asks(&c, "b"), 0);
        wait_refused(&c);
        assert_int_equal(c.why, REFUSAL_NO_ROOM);
        assert_string_equal(c.message, "b cannot be loaded: no room for b: a is pinned");
        assert_int_equal(person(true, "b", false, "a is pinned"), -ENOSPC);
        is("a", "ready");
        /* It goes when it is idle, as every other. */
        wait_status(world, "a", "idle");
        uses("b", KEEP_ALIVE_NONE);
}

static void groups(void **state)
{
        begin(*state,
              "\"groups\": [{\"name\": \"x\", \"members\": [\"a\", \"b\"]},"
              "{\"name\": \"t\", \"mode\": \"together\", \"members\": [\"c\", \"d\"]}],",
              ABC "," MODEL("d", ", \"on_demand\": {\"idle_timeout\": \"500ms\"}"));
        uses("a", KEEP_ALIVE_NONE);
        uses("c", KEEP_ALIVE_NONE);
        wait_status(world, "d", "ready");
        is("a", "ready");
        uses("b", KEEP_ALIVE_NONE);
        is("a", "idle");
        is("c", "ready");
        pass(800 * USEC_PER_MSEC);
        is("d", "ready"); /* c is kept for longer */
        assert_int_equal(person(false, "d", false, "unload: d"), 0);
        wait_status(world, "c", "idle");
        wait_status(world, "d", "idle");
        is("b", "ready");
}

static void preloaded(void **state)
{
        begin(*state, "\"on_demand\": {\"max_loaded\": 2, \"preload\": [\"c\", \"a\"]},", ABC);
        wait_status(world, "a", "ready");
        wait_status(world, "c", "ready");
        is("b", "idle");
        /* What an earlier daemon left loaded keeps its room. */
        uses("b", KEEP_ALIVE_NONE);
        wait_status(world, "b", "ready");
        {
                const char *gone = streq(status("a"), "idle") ? "a" : "c";
                pid_t pid = fleet_find(world->fleet, "b")->pid;

                world->fleet = fleet_free(world->fleet); /* children are let go */
                open_fleet(world);
                wait_status(world, "b", "ready");
                pass(300 * USEC_PER_MSEC);
                assert_int_equal(fleet_find(world->fleet, "b")->pid, pid);
                is(gone, "idle");
        }
}

/* --- trouble ---------------------------------------------------------------------------------------------------------- */

static void a_failed_load_is_told_to_all_at_once(void **state)
{
        struct client c[50] = {0}, next = {0};
        unsigned before;

        begin(*state, NULL,
              MODEL("a", ", \"on_demand\": {}, \"args\": [\"--die-loading\", \"bad-gguf\", \"--load-ms\", "
                         "\"200\"],"
                         "\"restart\": {\"backoff_initial\": \"500ms\", \"backoff_max\": \"500ms\", "
                         "\"jitter\": 0, \"max_retries\": 2}"));
        for (unsigned i = 0; i < 50; i++)
                assert_int_equal(asks(&c[i], "a"), 0);
        wait_refused(&c[0]);
        for (unsigned i = 0; i < 50; i++) {
                assert_int_equal(c[i].refused, 1);
                assert_int_equal(c[i].why, REFUSAL_LOAD_FAILED);
                assert_non_null(strstr(c[i].message, "a could not be loaded: "));
                assert_int_equal(c[i].retry_after, 1);
        }
        is("a", "crashed");
        before = starts("a");
        /* Nobody waits: nothing is tried. */
        wait_status(world, "a", "idle");
        pass(700 * USEC_PER_MSEC);
        assert_int_equal(starts("a"), before);
        assert_non_null(fleet_find(world->fleet, "a")->last_error);
        /* The next one is a try; who asks during the back-off waits for its end. */
        assert_int_equal(asks(&next, "a"), 0);
        wait_refused(&next);
        is("a", "crashed");
        before = starts("a");
        next.refused = 0;
        assert_int_equal(asks(&next, "a"), 0);
        pass(200 * USEC_PER_MSEC);
        assert_int_equal(next.refused, 0);
        assert_int_equal(starts("a"), before);
        wait_refused(&next);
        assert_int_equal(next.why, REFUSAL_LOAD_FAILED);
        /* That was the last. */
        is("a", "error");
        before = starts("a");
        next.refused = 0;
        assert_int_equal(asks(&next, "a"), 0);
        wait_refused(&next);
        assert_int_equal(next.why, REFUSAL_LOAD_FAILED);
        pass(700 * USEC_PER_MSEC);
        assert_int_equal(starts("a"), before);
        is("a", "error");
        assert_int_equal(figures("a").load_failures, 3);
        assert_int_equal(figures("a").loads, 0);
        /* A changed configuration is a new life. */
        write_config(world, DEMAND("a"));
        reload(world);
        wait_status(world, "a", "idle");
        uses("a", KEEP_ALIVE_NONE);
}

static void a_person_tries_again(void **state)
{
        begin(*state, NULL,
              MODEL("a", ", \"on_demand\": {}, \"args\": [\"--crash-starts\", \"2\", \"--state-file\", "
                         "\"/dev/null\"],"
                         "\"restart\": {\"max_retries\": 0}"));
        wait_status(world, "a", "idle");
        assert_int_equal(person(true, "a", false, "load: a"), 0);
        wait_status(world, "a", "error");
        orders("a", FLEET_START);
        wait_status(world, "a", "starting");
        wait_status(world, "a", "error");
        /* One that is dead and was asked for by a person is tried again as often as any other. */
        write_config(world, MODEL("a", ", \"on_demand\": {}, \"args\": [\"--die-loading\", \"bad-gguf\"]"));
        reload(world);
        assert_int_equal(person(true, "a", false, NULL), 0);
        wait_status(world, "a", "error");
        assert_int_equal(fleet_find(world->fleet, "a")->retries, 3);
}

static void dies_while_it_is_used(void **state)
{
        struct client c = {0};
        pid_t pid;

        begin(*state, NULL,
              MODEL("a", ", \"on_demand\": {}, \"restart\": {\"backoff_initial\": \"500ms\", "
                         "\"backoff_max\": \"1s\"}"));
        uses("a", KEEP_ALIVE_NONE);
        pid = fleet_find(world->fleet, "a")->pid;
        assert_int_equal(kill(pid, SIGKILL), 0);
        wait_status(world, "a", "crashed");
        /* Nobody needs it now. */
        wait_status(world, "a", "idle");
        assert_int_equal(asks(&c, "a"), 0);
        wait_granted(&c, 1);
        pid = fleet_find(world->fleet, "a")->pid;
        ends(&c, KEEP_ALIVE_FOREVER);
        assert_int_equal(kill(pid, SIGKILL), 0);
        wait_status(world, "a", "crashed");
        wait_status(world, "a", "ready"); /* it was to be kept */
}

/* --- people ----------------------------------------------------------------------------------------------------------- */

static void a_person_has_the_last_word(void **state)
{
        struct client c = {0};

        begin(*state, NULL, MODEL("a", ", \"on_demand\": {}, \"aliases\": [\"gpt\"]") "," MODEL("n", ""));
        wait_status(world, "n", "ready");
        assert_int_equal(person(true, "gpt", false, "load: a"), 0);
        wait_status(world, "a", "ready");
        assert_int_equal(person(true, "a", false, "a is loaded already"), 0);
        assert_int_equal(asks(&c, "a"), 1);
        assert_int_equal(person(false, "a", false, "a is busy: requests that run: 1, that wait: 0"), -EBUSY);
        is("a", "ready");
        ends(&c, KEEP_ALIVE_NONE);
        assert_int_equal(person(false, "a", false, "unload: a"), 0);
        assert_int_equal(person(false, "a", false, "a is being unloaded already"), 0);
        wait_status(world, "a", "idle");
        assert_int_equal(person(false, "a", false, "a is not loaded"), 0);
        assert_int_equal(figures("a").unloads[UNLOAD_ASKED], 1);
        /* Stopped is more than unloaded. */
        orders("a", FLEET_STOP);
        wait_status(world, "a", "initial");
        assert_int_equal(asks(&c, "a"), 0);
        wait_refused(&c);
        assert_int_equal(c.why, REFUSAL_DOWN);
        c = (struct client){0};
        orders("all", FLEET_START); /* back in service, but not loaded */
        wait_status(world, "a", "idle");
        orders("a", FLEET_STOP);
        wait_status(world, "a", "initial");
        {
                /* That outlives us. */
                world->fleet = fleet_free(world->fleet);
                open_fleet(world);
                pass(100 * USEC_PER_MSEC);
                is("a", "initial");
        }
        assert_int_equal(person(true, "a", false, NULL), 0);
        wait_status(world, "a", "ready");
        assert_int_equal(person(true, "nn", false, "there is no model \"nn\"; did you mean \"n\"?"), -ENOENT);
        assert_int_equal(person(true, "n", false, "not on demand"), -EPERM);
        assert_int_equal(person(false, "n", true, "not on demand"), -EPERM);
        /* With force what runs is drained. */
        assert_int_equal(asks(&c, "a"), 1);
        assert_int_equal(person(false, "a", true, "unload: a"), 0);
        wait_status(world, "a", "draining");
        ends(&c, KEEP_ALIVE_NONE);
        wait_status(world, "a", "idle");
}

static void the_next_daemon_goes_on(void **state)
{
        pid_t pid;

        begin(*state, NULL, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"700ms\"}"));
        uses("a", KEEP_ALIVE_NONE);
        pid = fleet_find(world->fleet, "a")->pid;
        world->fleet = fleet_free(world->fleet); /* as kill -9 would */
        open_fleet(world);
        wait_status(world, "a", "ready");
        assert_int_equal(fleet_find(world->fleet, "a")->pid, pid);
        assert_true(until_of("a") > 0);
        wait_status(world, "a", "idle");
        assert_int_equal(figures("a").unloads[UNLOAD_IDLE], 1);
        assert_int_equal(figures("a").loads, 0);
}

static void next_daemon(void)
{
        world->fleet = fleet_free(world->fleet); /* as kill -9 would */
        open_fleet(world);
        wait_status(world, "a", "ready");
}

/* Idle times go on where they were, and what a request said of them still holds. */
static void the_next_daemon_knows_since_when(void **state)
{
        usec_t until;

        begin(*state, NULL, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"1h\"}"));
        uses("a", KEEP_ALIVE_NONE);
        until = until_of("a");
        pass(1500 * USEC_PER_MSEC); /* the end of the use is on record */
        next_daemon();
        assert_true(until_of("a") <= until + 100 * USEC_PER_MSEC &&
                    until_of("a") + 100 * USEC_PER_MSEC >= until);
        /* Again: what was taken over is handed on. */
        next_daemon();
        assert_true(until_of("a") <= until + 200 * USEC_PER_MSEC &&
                    until_of("a") + 200 * USEC_PER_MSEC >= until);
        /* Killed in the midst of a use: idle from now on. */
        {
                struct client c = {0};

                assert_int_equal(asks(&c, "a"), 1);
                pass(200 * USEC_PER_MSEC);
                assert_true(until_of("a") == 0);
        }
        next_daemon();
        assert_true(until_of("a") > until + 1000 * USEC_PER_MSEC);
        uses("a", KEEP_ALIVE_FOREVER);
        pass(1500 * USEC_PER_MSEC);
        next_daemon();
        assert_true(until_of("a") == 0);
        assert_true(demand_wants_again(world->fleet->members[0]));
        uses("a", 3 * USEC_PER_SEC);
        pass(1500 * USEC_PER_MSEC);
        next_daemon();
        wait_status(world, "a", "idle");
        assert_int_equal(figures("a").unloads[UNLOAD_IDLE], 1);
        assert_int_equal(figures("a").loads, 0);
}

static void a_reload_keeps_what_is_loaded(void **state)
{
        pid_t pid;

        begin(*state, NULL, DEMAND("a") "," DEMAND("b"));
        uses("a", KEEP_ALIVE_NONE);
        uses("b", KEEP_ALIVE_NONE);
        pid = fleet_find(world->fleet, "a")->pid;
        write_config(world, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"0\"}") "," MODEL("b", ""));
        reload(world);
        pass(100 * USEC_PER_MSEC);
        is("b", "ready");
        assert_true(until_of("a") == 0);
        assert_int_equal(fleet_find(world->fleet, "a")->pid, pid);
        /* b is not on demand any more, c is new, a goes by the new time. */
        write_config(world, MODEL("a", ", \"on_demand\": {\"idle_timeout\": \"200ms\"}") "," DEMAND(
                                    "c") "," MODEL("b", ""));
        reload(world);
        wait_status(world, "a", "idle");
        is("b", "ready");
        is("c", "idle");
        uses("c", KEEP_ALIVE_NONE);
        write_config(world, MODEL("a", "") "," DEMAND("b"));
        reload(world);
        wait_status(world, "a", "ready"); /* it starts with the daemon now */
        is("b", "ready");
        assert_int_equal(person(false, "b", false, NULL), 0);
        wait_status(world, "b", "idle");
}

/* --- ranges ------------------------------------------------------------------------------------------------------------ */

#define RANGE(demand)                                                                                        \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"slots\": 1, \"replicas\": {\"min\": 1, \"max\": 3}, "    \
        "\"scale\": {\"wait\": \"50ms\", \"idle\": \"1s\", \"cooldown\": \"100ms\"}" demand "}"

static void more_when_they_wait_and_less_when_they_do_not(void **state)
{
        struct client c[12] = {0};
        uint64_t seq;

        begin(*state, NULL, RANGE(""));
        wait_status(world, "q-0", "ready");
        assert_int_equal(fleet_count(world->fleet), 1);
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(asks(&c[i], "q"), i == 0);
        wait_granted(&c[1], 1);
        wait_granted(&c[2], 1);
        assert_int_equal(fleet_count(world->fleet), 3);
        assert_int_equal(asks(&c[3], "q"), 0);
        pass(500 * USEC_PER_MSEC);
        assert_int_equal(fleet_count(world->fleet), 3); /* max */
        ends(&c[0], KEEP_ALIVE_NONE);
        wait_granted(&c[3], 1);
        seq = fleet_find(world->fleet, "q-2")->seq;
        /* A reload takes none of them. */
        write_config(world, RANGE(""));
        reload(world);
        pass(100 * USEC_PER_MSEC);
        assert_int_equal(fleet_count(world->fleet), 3);
        /* Nor does the end of a daemon. */
        for (unsigned i = 1; i < 4; i++)
                ends(&c[i], KEEP_ALIVE_NONE);
        world->fleet = fleet_free(world->fleet);
        open_fleet(world);
        assert_int_equal(fleet_count(world->fleet), 3);
        wait_status(world, "q-2", "ready");
        world->until = time_monotonic() + PATIENCE;
        while (fleet_count(world->fleet) > 1)
                assert_true(turn(world));
        is("q-0", "ready");
        assert_int_equal(figures("q").replicas, 1);
        assert_int_equal(figures("q").scaled_in, 2);
        /* Its number goes on when it comes back. */
        for (unsigned i = 0; i < 3; i++)
                (void)asks(&c[i], "q");
        wait_granted(&c[2], 2);
        assert_true(fleet_find(world->fleet, "q-2")->seq > seq);
        for (unsigned i = 0; i < 3; i++)
                ends(&c[i], KEEP_ALIVE_NONE);
}

/* What is not on demand is started again by itself: who waits for it waits on. */
static void a_range_that_dies_while_it_starts(void **state)
{
        struct client c = {0};
        _cleanup_free_ char *entry = NULL;

        world = *state;
        entry = text_format("{\"name\": \"q\", \"model\": \"m.gguf\", \"replicas\": {\"min\": 1, \"max\": 2},"
                            "\"args\": [\"--crash-starts\", \"2\", \"--state-file\", \"%s/starts\"]}",
                            world->dir);
        begin(*state, NULL, entry);
        assert_int_equal(asks(&c, "q"), 0);
        wait_granted(&c, 1);
        assert_int_equal(fleet_find(world->fleet, "q-0")->retries, 2);
        ends(&c, KEEP_ALIVE_NONE);
}

static void a_range_on_demand(void **state)
{
        struct client c[3] = {0};

        begin(*state, "\"on_demand\": {\"max_loaded\": 2},",
              RANGE(", \"on_demand\": {\"idle_timeout\": \"5s\"}") "," DEMAND("a"));
        wait_status(world, "q-0", "idle");
        for (unsigned i = 0; i < 3; i++)
                assert_int_equal(asks(&c[i], "q"), 0);
        wait_granted(&c[0], 1);
        wait_granted(&c[1], 1);
        pass(500 * USEC_PER_MSEC);
        assert_int_equal(loaded(), 2); /* there is no room for a third */
        ends(&c[0], KEEP_ALIVE_NONE);
        wait_granted(&c[2], 1);
        ends(&c[1], KEEP_ALIVE_NONE);
        ends(&c[2], KEEP_ALIVE_NONE);
        assert_int_equal(person(false, "q", false, "unload: q"), 0);
        wait_status(world, "q-0", "idle");
        world->until = time_monotonic() + PATIENCE;
        while (fleet_find(world->fleet, "q-1"))
                assert_true(turn(world));
        assert_int_equal(fleet_count(world->fleet), 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, end_test)

static int end_test(void **state)
{
        over = true; /* its clients are gone */
        return tear_down(state);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(comes_when_asked_for_and_goes_when_idle),
                TEST(a_request_says_how_long),
                TEST(one_makes_room_for_the_other),
                TEST(who_was_not_used_for_longest_goes),
                TEST(a_busy_one_stays),
                TEST(models_share_the_memory_of_a_gpu),
                TEST(a_model_file_that_does_not_answer),
                TEST(a_busy_one_yields_in_the_end),
                TEST(it_yields_to_nobody_who_left),
                TEST(nobody_takes_the_room_of_who_waits_longer),
                TEST(a_pinned_one_stays),
                TEST(groups),
                TEST(preloaded),
                TEST(a_failed_load_is_told_to_all_at_once),
                TEST(a_person_tries_again),
                TEST(dies_while_it_is_used),
                TEST(a_person_has_the_last_word),
                TEST(the_next_daemon_goes_on),
                TEST(the_next_daemon_knows_since_when),
                TEST(a_reload_keeps_what_is_loaded),
                TEST(more_when_they_wait_and_less_when_they_do_not),
                TEST(a_range_that_dies_while_it_starts),
                TEST(a_range_on_demand),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
