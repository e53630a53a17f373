/* test_demand_room.c: who goes for an instance that has no room on the GPUs, or none to spare, and who stays; and what waiting costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fleet/gpu_world.h"
#include "fleet/gpus.h"
#include "fleet/place_private.h"

#define CUDA "  CUDA0: FAKE (24576 MiB, 24000 MiB free)"
#define MODEL(name, more)                                                                                    \
        "{\"name\": \"" name "\", \"model\": \"" name ".gguf\", \"args\": [\"-c\", \"512\"]" more "}"
#define ASKED(name) MODEL(name, ", \"on_demand\": {\"idle_timeout\": \"1h\"}")

enum { TOTAL = 24 };

/* The driver tells it so: each of them holds so many MiB. */
static void show(struct world *w, const char *const *names, const unsigned *mib, size_t n)
{
        struct buffer text;
        uint64_t used = 0;

        buffer_init(&text, 0);
        for (size_t i = 0; i < n; i++)
                used += (uint64_t)mib[i] << 20;
        (void)buffer_printf(&text, "gpu GPU-aa 00000000:01:00.0 FAKE total=%llu used=%llu\n",
                            (unsigned long long)GIB(TOTAL), (unsigned long long)used);
        for (size_t i = 0; i < n; i++)
                (void)buffer_printf(&text, "process 0 %d %llu\n", (int)find(w, names[i])->pid,
                                    (unsigned long long)mib[i] << 20);
        put_nvidia(w, text.data);
        buffer_finish(&text);
}

static void wait_memory(struct world *w, const char *name)
{
        w->until = time_monotonic() + PATIENCE;
        while (!find(w, name)->gpu_memory) {
                fleet_gpus_hurry(w->fleet);
                assert_true(turn(w));
        }
}

static void order(struct world *w, const char *name)
{
        give_order(w, name, FLEET_START);
}

static struct world *begin(void **state, const char *instances)
{
        struct world *w = *state;

        show(w, NULL, NULL, 0);
        put_card(w, "0000:01:00.0", "GPU-aa");
        put_model(w, "a.gguf", GIB(6));
        put_model(w, "b.gguf", GIB(6));
        put_model(w, "c.gguf", GIB(9));
        begin_gpus(w, CUDA, instances);
        return w;
}

/* a and b are there, and 10.0 GiB are left: enough for c, but not for 1 GiB besides. */
static void load_two(struct world *w)
{
        order(w, "a");
        wait_status(w, "a", "ready");
        show(w, (const char *[]){"a"}, (unsigned[]){7 * 1024}, 1);
        wait_memory(w, "a");
        order(w, "b");
        wait_status(w, "b", "ready");
        show(w, (const char *[]){"a", "b"}, (unsigned[]){7 * 1024, 7 * 1024}, 2);
        wait_memory(w, "b");
}

static void who_is_not_used_goes_before_the_spare_room_does(void **state)
{
        struct world *w = begin(state, ASKED("a") "," ASKED("b") "," ASKED("c"));

        load_two(w);
        order(w, "c");
        wait_status(w, "a", "idle"); /* the one that was used last stays */
        assert_string_not_equal(find(w, "c")->status, "ready");
        show(w, (const char *[]){"b"}, (unsigned[]){7 * 1024}, 1);
        wait_status(w, "c", "ready");
        assert_string_equal(find(w, "b")->status, "ready");
}

/* Nobody may go: then it is started without. */
static void the_spare_room_is_not_waited_for(void **state)
{
        struct world *w =
                begin(state, MODEL("a", "") "," MODEL("b", ", \"autostart\": false") "," ASKED("c"));

        load_two(w);
        order(w, "c");
        wait_status(w, "c", "ready");
        assert_string_equal(find(w, "a")->status, "ready");
        assert_string_equal(find(w, "b")->status, "ready");
}

/* Who was put there by a person finds no room, and others that nobody uses have it. */
static void they_go_for_a_list_too(void **state)
{
        struct world *w = begin(
                state, ASKED("a") "," ASKED("b") "," MODEL("c", ", \"gpu\": [0], \"autostart\": false"));

        order(w, "a");
        wait_status(w, "a", "ready");
        show(w, (const char *[]){"a"}, (unsigned[]){16 * 1024}, 1);
        wait_memory(w, "a");
        order(w, "c");
        wait_status(w, "a", "idle");
        assert_string_not_equal(find(w, "c")->status, "ready");
        show(w, NULL, NULL, 0);
        wait_status(w, "c", "ready");
}

/* What is promised is a sum over all that is made once; it must not be an old one. */
static void promises_are_counted(void **state)
{
        struct world *w = begin(state, ASKED("a") "," ASKED("b") "," ASKED("c"));
        char names[FLEET_GPUS][PLACE_NAME_MAX];
        struct fit_gpu gpus[FLEET_GPUS];
        const struct member *a;

        place_gpus(w->fleet, NULL, gpus, names);
        assert_int_equal(gpus[0].free, GIB(TOTAL));
        order(w, "a");
        w->until = time_monotonic() + PATIENCE;
        while (!find(w, "a")->pid)
                assert_true(turn(w));
        a = fleet_member(w->fleet, "a");
        place_gpus(w->fleet, NULL, gpus, names);
        if (!a->in.ready_since || fleet_gpus_at(w->fleet) <= a->in.ready_since)
                assert_int_equal(gpus[0].free, GIB(TOTAL) - a->hold->takes[0]);
        place_gpus(w->fleet, a, gpus, names);
        assert_int_equal(gpus[0].free, GIB(TOTAL));
        assert_true(a->hold->takes[0] > GIB(6));
        wait_status(w, "a", "ready");
        w->until = time_monotonic() + PATIENCE;
        while (fleet_gpus_at(w->fleet) <= a->in.ready_since) {
                fleet_gpus_hurry(w->fleet);
                assert_true(turn(w));
        }
        place_gpus(w->fleet, NULL, gpus, names);
        assert_int_equal(gpus[0].free, GIB(TOTAL)); /* what it took is told by the driver from now on */
}

/* A thousand who wait are weighed in turn, not all at each turn of the loop. */
static void many_who_wait_are_weighed_in_turn(void **state)
{
        enum { MANY = 400 };
        struct world *w = *state;
        struct buffer list;

        put_nvidia(w, "gpu GPU-aa 00000000:01:00.0 FAKE total=25769803776 used=21474836480\n");
        put_card(w, "0000:01:00.0", "GPU-aa");
        put_model(w, "c.gguf", GIB(9));
        buffer_init(&list, 0);
        for (unsigned i = 0; i < MANY; i++)
                (void)buffer_printf(
                        &list, "%s{\"name\": \"c%u\", \"model\": \"c.gguf\", \"args\": [\"-c\", \"512\"]}",
                        i ? "," : "", i);
        begin_gpus(w, CUDA, list.data);
        buffer_finish(&list);
        w->until = time_monotonic() + PATIENCE;
        for (unsigned i = 0; i < MANY; i++)
                while (!find(w, "c0")->last_error || !w->fleet->members[i]->hold ||
                       !w->fleet->members[i]->hold->waits_since)
                        assert_true(turn(w));
        /* They came all at once; from then on 32 are weighed in a tenth of a second, so each of them after 1.3 s. */
        for (unsigned i = 0; i < MANY; i++) {
                const struct hold *h = w->fleet->members[i]->hold;

                assert_true(h->waits_since && h->look_at >= h->waits_since + 13 * 100 * USEC_PER_MSEC);
        }
        /* There is room: the first who is weighed has it, and the others still wait. */
        put_nvidia(w, "gpu GPU-aa 00000000:01:00.0 FAKE total=25769803776 used=1000000\n");
        w->until = time_monotonic() + PATIENCE;
        for (unsigned ready = 0; !ready;) {
                for (unsigned i = 0; i < MANY; i++)
                        ready += w->fleet->members[i]->process != NULL;
                assert_true(turn(w));
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(who_is_not_used_goes_before_the_spare_room_does),
                TEST(the_spare_room_is_not_waited_for),
                TEST(they_go_for_a_list_too),
                TEST(promises_are_counted),
                TEST(many_who_wait_are_weighed_in_turn),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
