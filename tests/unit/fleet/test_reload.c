/* test_reload.c: the configuration read again: off the loop, one after the other, and not slower with the square of what there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fleet/fleet_world.h"
#include "fleet/hanging.h"

/* --- comparisons of texts by the loop's own thread ------------------------------------------------------------------ */

static atomic_ulong compared;

static void count(void)
{
        if (pthread_equal(pthread_self(), loop_thread))
                compared++;
}

/* The program's own definitions win over libc's; the functions of the fleet look names up by these. */
int strcmp(const char *a, const char *b)
{
        count();
        while (*a && *a == *b) {
                a++;
                b++;
        }
        return (unsigned char)*a - (unsigned char)*b;
}

int strncmp(const char *a, const char *b, size_t n)
{
        count();
        for (; n && *a && *a == *b; n--) {
                a++;
                b++;
        }
        return n ? (unsigned char)*a - (unsigned char)*b : 0;
}

static int begin(void **state)
{
        loop_thread = pthread_self();
        hanging = false;
        return set_up(state);
}

static int end(void **state)
{
        hanging = false;
        return tear_down(state);
}

/* --- cases ------------------------------------------------------------------------------------------------------------ */

static void many(struct world *w, unsigned n, const char *more, unsigned context)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        for (unsigned i = 0; i < n; i++)
                assert_int_equal(
                        buffer_printf(
                                &b,
                                "%s{\"name\": \"a-long-name-of-%u\", \"model\": \"m.gguf\", \"aliases\": "
                                "[\"alias-%u\"], \"args\": [\"-c\", \"%u\"], %s}\n",
                                i ? "," : "", i, i, context, more),
                        0);
        write_config(w, b.data);
}

static unsigned long cost(void **state, unsigned n, const char *more)
{
        struct world *w = *state;
        unsigned long before;
        struct reloaded x;

        many(w, n, more, 1000);
        open_fleet(w);
        for (unsigned i = 0; i < 10; i++)
                (void)turn(w);
        many(w, n, more, 2000); /* every one of them differs */
        before = compared;
        x = try_reload(w, false);
        assert_int_equal(x.r, 0);
        before = compared - before;
        assert_int_equal(fleet_count(w->fleet), n);
        close_fleet(w);
        return before;
}

/* Four times as many of them cost four times as much, not sixteen. */
static void grows_with_the_fleet_not_with_its_square(void **state)
{
        static const char *const kinds[] = {"\"autostart\": false", "\"on_demand\": {}",
                                            "\"autostart\": false, \"replicas\": {\"min\": 1, \"max\": 2}"};

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                unsigned long few = cost(state, 60, kinds[i]), more = cost(state, 240, kinds[i]);

                if (more > few * 8)
                        fail_msg("%s: %lu comparisons for 60, %lu for 240", kinds[i], few, more);
        }
}

static void goes(struct world *w, bool dry_run, struct reloaded *x)
{
        *x = (struct reloaded){.r = 1};
        assert_int_equal(fleet_reload(w->fleet, dry_run, on_reloaded, x, NULL), 0);
}

#define ONE(more) "{\"name\": \"a\", \"model\": \"hang.gguf\", \"autostart\": false" more "}"

/* A model on a disk that does not answer: the loop goes on, and each reload is answered in its turn, the late ones with words. */
static void a_disk_that_does_not_answer(void **state)
{
        struct world *w = *state;
        struct reloaded first, second, third;

        write_config(w, ONE(", \"slots\": 1"));
        open_fleet(w);
        in_loop = 0; /* the start may wait: nothing is served yet */
        hanging = true;
        goes(w, false, &first);
        goes(w, true, &second);
        w->until = time_monotonic() + PATIENCE;
        while (!hung)
                assert_true(turn(w));
        while (first.r == 1 || second.r == 1)
                assert_true(turn(w));
        assert_int_equal(first.r, -ETIMEDOUT);
        assert_int_equal(second.r, -ETIMEDOUT);
        assert_non_null(strstr(first.text, "nothing was changed"));
        assert_non_null(fleet_reload_error(w->fleet));
        /* The next waits behind what hangs, and then reads what is written now. What came late is thrown away. */
        write_config(w, ONE(", \"slots\": 2"));
        goes(w, false, &third);
        for (unsigned i = 0; i < 10; i++)
                assert_true(turn(w));
        assert_int_equal(third.r, 1);
        assert_true(fleet_config(w->fleet)->instances[0].slots == 1);
        hanging = false;
        while (third.r == 1)
                assert_true(turn(w));
        assert_int_equal(third.r, 0);
        assert_null(fleet_reload_error(w->fleet));
        assert_true(fleet_config(w->fleet)->instances[0].slots == 2);
        assert_int_equal(in_loop, 0);
}

static void in_their_order(void **state)
{
        struct world *w = *state;
        struct reloaded x[17];

        write_config(w, ONE(", \"slots\": 1"));
        open_fleet(w);
        for (unsigned i = 0; i < 16; i++)
                goes(w, i % 2 == 0, x + i);
        assert_int_equal(fleet_reload(w->fleet, false, on_reloaded, x + 16, NULL), -EAGAIN);
        w->until = time_monotonic() + PATIENCE;
        for (unsigned i = 0; i < 16; i++)
                while (x[i].r == 1) {
                        for (unsigned k = i + 1; k < 16; k++)
                                assert_true(x[k].r == 1 || x[i].r != 1);
                        assert_true(turn(w));
                }
        assert_non_null(strstr(x[14].text, "\"applied\":false"));
        assert_non_null(strstr(x[15].text, "\"applied\":true"));
}

static void nobody_waits_any_more(void **state)
{
        struct world *w = *state;
        struct reloaded x = {.r = 1}, y = {.r = 1};
        struct fleet_reload *under_way;

        write_config(w, ONE(", \"slots\": 1"));
        open_fleet(w);
        write_config(w, ONE(", \"slots\": 3"));
        assert_int_equal(fleet_reload(w->fleet, false, on_reloaded, &x, &under_way), 0);
        assert_null(fleet_reload_forget(under_way));
        w->until = time_monotonic() + PATIENCE;
        while (fleet_config(w->fleet)->instances[0].slots != 3) /* an order is an order */
                assert_true(turn(w));
        assert_int_equal(x.r, 1);
        /* The fleet goes while one is read. */
        hanging = true;
        assert_int_equal(fleet_reload(w->fleet, false, on_reloaded, &y, NULL), 0);
        while (!hung)
                assert_true(turn(w));
        close_fleet(w);
        hanging = false;
        for (unsigned i = 0; i < 10; i++)
                (void)turn(w);
        assert_int_equal(y.r, 1);
}

static void none_while_it_stops(void **state)
{
        struct world *w = *state;
        struct reloaded x = {.r = 1};

        write_config(w, ONE(", \"slots\": 1"));
        open_fleet(w);
        hanging = true;
        goes(w, false, &x);
        fleet_stop(w->fleet, on_stopped, w);
        assert_int_equal(fleet_reload(w->fleet, false, on_reloaded, &x, NULL), -ESHUTDOWN);
        hanging = false;
        w->until = time_monotonic() + PATIENCE;
        while (x.r == 1 || !w->stopped)
                assert_true(turn(w));
        assert_int_equal(x.r, -ESHUTDOWN);
        w->fleet = fleet_free(w->fleet);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(grows_with_the_fleet_not_with_its_square),
                TEST(a_disk_that_does_not_answer),
                TEST(in_their_order),
                TEST(nobody_waits_any_more),
                TEST(none_while_it_stops),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
