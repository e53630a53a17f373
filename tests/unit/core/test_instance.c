/* test_instance.c: the table has no blanks, docs/LIFE.md is what it says, and lives go as DESIGN promises.
 * `unit_core_instance --print` prints docs/LIFE.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "base/file.h"
#include "core/instance.h"

#define S USEC_PER_SEC

static struct instance sample(void)
{
        return (struct instance){
                .want_up = true,
                .deadline = USEC_INFINITY,
                .jitter_seed = 7,
                .policy = {.backoff = {.initial = S, .max = 30 * S, .jitter = 0},
                           .max_retries = 5,
                           .reset_after = 60 * S,
                           .load_timeout = 600 * S,
                           .grace = 5 * S,
                           .drain = 30 * S},
        };
}

static void no_cell_is_blank(void **state)
{
        (void)state;
        for (int s = 0; s < INSTANCE_STATES; s++)
                for (int e = 0; e < INSTANCE_EVENTS; e++)
                        if (!instance_cell(s, e)->written)
                                fail_msg("[%s][%s] is blank", instance_state_name(s), instance_event_name(e));
}

static void every_state_has_a_public_word(void **state)
{
        (void)state;
        for (int s = 0; s < INSTANCE_STATES; s++) {
                assert_non_null(instance_state_name(s));
                assert_non_null(instance_status(s));
        }
        for (int e = 0; e < INSTANCE_EVENTS; e++)
                assert_non_null(instance_event_name(e));
}

static void put_orders(struct buffer *b, unsigned orders)
{
        static const struct {
                unsigned bit;
                const char *name;
        } names[] = {{ORDER_SPAWN, "spawn"},
                     {ORDER_TERM, "SIGTERM"},
                     {ORDER_KILL, "SIGKILL"},
                     {ORDER_FORGIVE, "forgive"},
                     {ORDER_LET_GO, "let go"}};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (orders & names[i].bit)
                        (void)buffer_printf(b, " (%s)", names[i].name);
}

static void print_life(struct buffer *b)
{
        (void)buffer_puts(b, "# The life of an instance\n\n"
                             "Printed from the table in `supervisor/core/instance.c` by `unit_core_instance "
                             "--print`; a test compares the two.\n"
                             "Events that change nothing in a state are left out. In parentheses: what the "
                             "fleet's hands do.\n\n"
                             "| state | public word | event | next state |\n|---|---|---|---|\n");
        for (int s = 0; s < INSTANCE_STATES; s++)
                for (int e = 0; e < INSTANCE_EVENTS; e++) {
                        const struct instance_cell *c = instance_cell(s, e);

                        if (c->to == INSTANCE_STATES)
                                continue;
                        (void)buffer_printf(b, "| %s | %s | %s | %s", instance_state_name(s),
                                            instance_status(s), instance_event_name(e),
                                            instance_state_name(c->to));
                        put_orders(b, c->orders);
                        (void)buffer_puts(b, " |\n");
                }
        (void)buffer_puts(b, "\n```mermaid\nstateDiagram-v2\n    [*] --> OFF\n");
        for (int s = 0; s < INSTANCE_STATES; s++)
                for (int e = 0; e < INSTANCE_EVENTS; e++) {
                        const struct instance_cell *c = instance_cell(s, e);

                        if (c->to != INSTANCE_STATES && (int)c->to != s)
                                (void)buffer_printf(b, "    %s --> %s: %s\n", instance_state_name(s),
                                                    instance_state_name(c->to), instance_event_name(e));
                }
        (void)buffer_puts(b, "```\n");
}

static void life_md_is_the_table(void **state)
{
        _cleanup_free_ char *text = NULL;
        struct buffer b;
        size_t len;

        (void)state;
        buffer_init(&b, 0);
        print_life(&b);
        assert_int_equal(file_read(SOURCE_DIR "/docs/LIFE.md", 1 << 20, &text, &len), 0);
        assert_string_equal(text, b.data);
        buffer_finish(&b);
}

/* READY and wanted, since half a second. */
static struct instance ready_one(void)
{
        struct instance in = sample();

        in.want_up = true;
        (void)instance_step(&in, EV_START, 0);
        (void)instance_step(&in, EV_GRANTED, 0);
        (void)instance_step(&in, EV_HEALTHY, S / 2);
        assert_int_equal(in.state, INSTANCE_READY);
        return in;
}

static void a_drain_has_a_limit_of_its_own(void **state)
{
        struct instance in = ready_one();

        (void)state;
        in.drain_for = 3600 * S;
        assert_int_equal(instance_step(&in, EV_DRAIN, S), 0);
        assert_int_equal(in.state, INSTANCE_DRAINING);
        assert_int_equal(in.deadline, 3601 * S);
        in.drain_for = 60 * S; /* another one */
        assert_int_equal(instance_step(&in, EV_DRAIN, 2 * S), 0);
        assert_int_equal(in.deadline, 62 * S);
        /* Stopped meanwhile: stop.drain from now on, never more than was left. */
        assert_int_equal(instance_step(&in, EV_STOP, 10 * S), 0);
        assert_int_equal(in.state, INSTANCE_DRAINING);
        assert_int_equal(in.deadline, 40 * S);
        assert_int_equal(instance_step(&in, EV_STOP, 20 * S), 0);
        assert_int_equal(in.deadline, 40 * S);
        assert_int_equal(instance_step(&in, EV_DEADLINE, 40 * S), ORDER_TERM);
        assert_int_equal(in.state, INSTANCE_STOPPING);
}

static void a_drain_can_be_taken_back(void **state)
{
        struct instance in = ready_one();

        (void)state;
        in.want_up = false;
        (void)instance_step(&in, EV_DRAIN, S);
        in.want_up = true;
        assert_int_equal(instance_step(&in, EV_RESUME, 2 * S), 0);
        assert_int_equal(in.state, INSTANCE_READY);
        assert_int_equal(in.deadline, USEC_INFINITY);
        assert_int_equal(in.ready_since, S / 2); /* it never was away */
        /* Told to end already: too late. */
        (void)instance_step(&in, EV_DRAIN, 3 * S);
        (void)instance_step(&in, EV_DRAINED, 4 * S);
        assert_int_equal(instance_step(&in, EV_RESUME, 5 * S), 0);
        assert_int_equal(in.state, INSTANCE_STOPPING);
}

static void a_silent_one_with_work_is_drained(void **state)
{
        struct instance in = ready_one();

        (void)state;
        (void)instance_step(&in, EV_SICK, S);
        assert_int_equal(in.state, INSTANCE_UNHEALTHY);
        assert_int_equal(instance_step(&in, EV_DRAIN, S), 0);
        assert_int_equal(in.state, INSTANCE_DRAINING);
        assert_int_equal(instance_step(&in, EV_DEAD, 2 * S), ORDER_KILL);
}

static void start_ready_stop(void **state)
{
        struct instance in = sample();

        (void)state;
        assert_int_equal(instance_step(&in, EV_START, S), 0);
        assert_int_equal(in.state, INSTANCE_PENDING);
        assert_int_equal(instance_step(&in, EV_GRANTED, S), ORDER_SPAWN);
        assert_int_equal(in.deadline, S + 600 * S);
        (void)instance_step(&in, EV_LOADING, 2 * S);
        assert_int_equal(in.state, INSTANCE_LOADING);
        assert_int_equal(in.deadline, S + 600 * S); /* one load, one deadline */
        (void)instance_step(&in, EV_HEALTHY, 3 * S);
        assert_int_equal(in.state, INSTANCE_READY);
        assert_int_equal(in.ready_since, 3 * S);
        assert_int_equal(in.deadline, USEC_INFINITY);
        in.want_up = false;
        (void)instance_step(&in, EV_STOP, 4 * S);
        assert_int_equal(in.state, INSTANCE_DRAINING);
        assert_int_equal(in.deadline, 34 * S);
        assert_int_equal(in.ready_since, 3 * S);
        assert_int_equal(instance_step(&in, EV_DRAINED, 5 * S), ORDER_TERM);
        assert_int_equal(in.deadline, 10 * S);
        assert_int_equal(instance_step(&in, EV_DEADLINE, 10 * S), ORDER_KILL);
        assert_int_equal(in.state, INSTANCE_KILLING);
        assert_int_equal(instance_step(&in, EV_DEADLINE, 20 * S), ORDER_KILL);
        assert_int_equal(instance_classify_exit(&in), EV_GONE);
        (void)instance_step(&in, EV_GONE, 21 * S);
        assert_int_equal(in.state, INSTANCE_OFF);
        assert_int_equal(in.retries, 0);
}

static void die(struct instance *in, usec_t now)
{
        (void)instance_step(in, instance_classify_exit(in), now);
}

static void tries_are_counted_and_end(void **state)
{
        static const usec_t waits[] = {1, 2, 4, 8, 16};
        struct instance in = sample();
        usec_t now = 0;

        (void)state;
        (void)instance_step(&in, EV_START, now);
        for (unsigned i = 0; i < 5; i++) {
                assert_int_equal(instance_step(&in, EV_GRANTED, now), ORDER_SPAWN);
                die(&in, now);
                assert_int_equal(in.state, INSTANCE_WAITING);
                assert_int_equal(in.retries, i + 1);
                assert_int_equal(in.deadline, now + waits[i] * S);
                now = in.deadline;
                (void)instance_step(&in, EV_DEADLINE, now);
                assert_int_equal(in.state, INSTANCE_PENDING);
        }
        (void)instance_step(&in, EV_GRANTED, now);
        die(&in, now);
        assert_int_equal(in.state, INSTANCE_FAILED);
        assert_int_equal(in.deadline, USEC_INFINITY);
        (void)instance_step(&in, EV_START, now);
        assert_int_equal(in.state, INSTANCE_PENDING);
        assert_int_equal(in.retries, 0);
}

static void forever_never_ends(void **state)
{
        struct instance in = sample();

        (void)state;
        in.policy.max_retries = INSTANCE_RETRIES_FOREVER;
        (void)instance_step(&in, EV_START, 0);
        for (unsigned i = 0; i < 1000; i++) {
                (void)instance_step(&in, EV_GRANTED, 0);
                die(&in, 0);
                assert_int_equal(in.state, INSTANCE_WAITING);
                assert_true(in.deadline <= 30 * S);
                (void)instance_step(&in, EV_DEADLINE, in.deadline);
        }
}

static void ready_for_long_is_forgiven(void **state)
{
        struct instance in = sample();

        (void)state;
        in.retries = 3;
        in.state = INSTANCE_STARTING;
        (void)instance_step(&in, EV_HEALTHY, 10 * S);
        assert_int_equal(in.deadline, 70 * S);
        assert_int_equal(instance_step(&in, EV_DEADLINE, 70 * S), ORDER_FORGIVE);
        assert_int_equal(in.retries, 0);
        assert_int_equal(in.state, INSTANCE_READY);
        assert_int_equal(in.deadline, USEC_INFINITY);
}

static void restart_is_a_wish(void **state)
{
        struct instance in = sample();

        (void)state;
        in.state = INSTANCE_READY;
        in.retries = 5;
        in.want_again = true;
        (void)instance_step(&in, EV_STOP, S);
        (void)instance_step(&in, EV_DRAINED, S);
        assert_int_equal(instance_classify_exit(&in), EV_AGAIN);
        die(&in, 2 * S);
        assert_int_equal(in.state, INSTANCE_PENDING); /* not crashed: a restart uses no try */
        assert_false(in.want_again);
}

static void what_comes_on_demand_rests(void **state)
{
        struct instance in = sample();

        (void)state;
        in.want_up = false;
        in.rests = true;
        assert_int_equal(instance_step(&in, EV_REST, S), 0);
        assert_int_equal(in.state, INSTANCE_IDLE);
        assert_string_equal(instance_status(in.state), "idle");
        assert_false(instance_is_running(&in));
        assert_false(instance_is_probed(&in));
        in.want_up = true;
        in.retries = 2;
        (void)instance_step(&in, EV_START, S);
        assert_int_equal(in.state, INSTANCE_PENDING);
        assert_int_equal(in.retries, 2); /* a request is no person: earlier failures count */
        in.state = INSTANCE_READY;
        in.want_up = false;
        (void)instance_step(&in, EV_STOP, 2 * S);
        (void)instance_step(&in, EV_DRAINED, 2 * S);
        die(&in, 3 * S);
        assert_int_equal(in.state, INSTANCE_IDLE);
        assert_true(in.deadline == USEC_INFINITY);
        /* A person's stop is more. */
        in.rests = false;
        (void)instance_step(&in, EV_STOP, 4 * S);
        assert_int_equal(in.state, INSTANCE_OFF);
        /* Back-off that nobody waits for any more. */
        in = sample();
        in.rests = true;
        in.state = INSTANCE_STARTING;
        die(&in, S);
        assert_int_equal(in.state, INSTANCE_WAITING);
        in.want_up = false;
        (void)instance_step(&in, EV_REST, 2 * S);
        assert_int_equal(in.state, INSTANCE_IDLE);
        assert_int_equal(in.retries, 1);
}

static void killed_for_silence_counts_as_a_try(void **state)
{
        struct instance in = sample();

        (void)state;
        in.state = INSTANCE_UNHEALTHY;
        assert_int_equal(instance_step(&in, EV_DEAD, S), ORDER_KILL);
        die(&in, 2 * S);
        assert_int_equal(in.state, INSTANCE_WAITING);
        assert_int_equal(in.retries, 1);
}

static void stop_then_start_comes_up_again(void **state)
{
        struct instance in = sample();

        (void)state;
        in.state = INSTANCE_STOPPING;
        in.want_up = true;
        die(&in, S);
        assert_int_equal(in.state, INSTANCE_PENDING);
}

static void backoff_spreads_but_stays_in_bounds(void **state)
{
        const struct backoff_policy p = {.initial = S, .max = 30 * S, .jitter = 0.2};

        (void)state;
        assert_int_equal(backoff_delay(&p, 0, 0), 800000);
        assert_int_equal(backoff_delay(&p, 0, UINT32_MAX), 1200000);
        for (unsigned n = 0; n < 100; n++)
                assert_in_range(backoff_delay(&p, n, n * 2654435761U), 800000, 36 * S);
        assert_int_equal(backoff_delay(&(struct backoff_policy){0, 0, 0.5}, 9, 1), 0);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(no_cell_is_blank),
                cmocka_unit_test(every_state_has_a_public_word),
                cmocka_unit_test(life_md_is_the_table),
                cmocka_unit_test(a_drain_has_a_limit_of_its_own),
                cmocka_unit_test(a_drain_can_be_taken_back),
                cmocka_unit_test(a_silent_one_with_work_is_drained),
                cmocka_unit_test(start_ready_stop),
                cmocka_unit_test(tries_are_counted_and_end),
                cmocka_unit_test(forever_never_ends),
                cmocka_unit_test(ready_for_long_is_forgiven),
                cmocka_unit_test(restart_is_a_wish),
                cmocka_unit_test(what_comes_on_demand_rests),
                cmocka_unit_test(killed_for_silence_counts_as_a_try),
                cmocka_unit_test(stop_then_start_comes_up_again),
                cmocka_unit_test(backoff_spreads_but_stays_in_bounds),
        };

        if (argc > 1 && strcmp(argv[1], "--print") == 0) {
                struct buffer b;

                buffer_init(&b, 0);
                print_life(&b);
                (void)fputs(b.data, stdout);
                buffer_finish(&b);
                return 0;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
