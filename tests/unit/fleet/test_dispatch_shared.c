/* test_dispatch_shared.c: names that several entries have: one line, the instances of all, and turns with the lines of each. */
#include "fleet/dispatch_scene.h"

#define ENTRY(name, more) "{\"name\": \"" name "\", \"model\": \"m.gguf\"" more "}"
#define AND_GPT           ", \"aliases\": [\"gpt\"]"
#define TWO_ENTRIES(more) ENTRY("a", ", \"slots\": 1" AND_GPT) "," ENTRY("b", ", \"slots\": 1" AND_GPT more)

static int asks_name(struct client *c, const char *name)
{
        struct ticket_spec spec = {
                .key = "", .priority = TICKET_NORMAL, .shared = dispatch_shared(fleet, name)};

        return asks_for(c, spec, name);
}

static void wait_all(struct world *w)
{
        wait_status(w, "a", "ready");
        wait_status(w, "b", "ready");
}

static void one_name_means_several(void **state)
{
        struct world *w = *state;
        struct client c[4] = {0};
        struct dispatch_figures g;
        struct ticket_progress p;

        begin(w, "{\"default_model\": \"gpt\"}", TWO_ENTRIES(""));
        wait_all(w);
        assert_string_equal(dispatch_shared(fleet, "gpt"), "gpt");
        assert_string_equal(dispatch_shared(fleet, NULL), "gpt");
        assert_null(dispatch_shared(fleet, "a"));
        assert_null(dispatch_shared(fleet, "gp"));
        assert_string_equal(dispatch_shared_name(fleet, 0), "gpt");
        assert_null(dispatch_shared_name(fleet, 1));
        assert_string_equal(dispatch_shared_model(fleet, 0, 0), "a");
        assert_string_equal(dispatch_shared_model(fleet, 0, 1), "b");
        assert_null(dispatch_shared_model(fleet, 0, 2));

        assert_int_equal(asks_name(&c[0], "gpt"), 1);
        assert_int_equal(asks_name(&c[1], "gpt"), 1);
        assert_string_not_equal(c[0].instance, c[1].instance);
        assert_int_equal(asks_name(&c[2], "gpt"), 0);
        assert_int_equal(asks_name(&c[3], "a"), 0);
        ticket_progress(c[2].ticket, &p);
        assert_int_equal(p.position, 1);
        assert_int_equal(p.waiting, 1);
        assert_int_equal(dispatch_figures(fleet, "gpt", &g), 0);
        assert_int_equal(g.waiting, 1);
        assert_int_equal(g.granted, 2);
        assert_int_equal(dispatch_figures(fleet, "a", &g), 0);
        assert_int_equal(g.waiting, 1);
        assert_int_equal(g.shared_waiting, 1);
        assert_int_equal(g.leased, 1);
        assert_true(g.oldest > 0);
        assert_int_equal(dispatch_figures(fleet, "b", &g), 0);
        assert_int_equal(g.waiting, 0);
        assert_int_equal(g.shared_waiting, 1);
        assert_true(g.oldest > 0); /* a range of replicas grows for it */
        assert_int_equal(dispatch_figures(fleet, NULL, &g), 0);
        assert_int_equal(g.waiting, 2);
        assert_int_equal(g.leased, 2);
        assert_int_equal(g.slots, 2);
        assert_int_equal(fleet_find(fleet, "a")->queue, 2);
        assert_int_equal(fleet_aggregate(fleet)->queue, 2);

        /* The slot of b is of use for the shared line alone. */
        ends(streq(c[0].instance, "b") ? &c[0] : &c[1]);
        wait_for(w, &c[2].granted, 1);
        assert_string_equal(c[2].instance, "b");
        assert_int_equal(c[3].granted, 0);
        ends(streq(c[0].instance, "a") ? &c[0] : &c[1]);
        wait_for(w, &c[3].granted, 1);
        assert_string_equal(c[3].instance, "a");
        ends(&c[2]);
        ends(&c[3]);
}

/* Who waits for one entry does not keep others from the free instance of another. */
static void a_long_line_blocks_no_other(void **state)
{
        struct world *w = *state;
        struct client a[6] = {0}, s = {0};

        begin(w, NULL, TWO_ENTRIES(""));
        wait_all(w);
        assert_int_equal(asks_name(&a[0], "a"), 1);
        for (unsigned i = 1; i < 6; i++)
                assert_int_equal(asks_name(&a[i], "a"), 0);
        if (asks_name(&s, "gpt") == 0)
                wait_for(w, &s.granted, 1);
        assert_string_equal(s.instance, "b");
        ends(&s);
        for (unsigned i = 0; i < 6; i++) {
                wait_for(w, &a[i].granted, 1);
                ends(&a[i]);
        }
}

/* With one instance for all: the lines take turns, however long they are, and a newcomer does not jump them. */
static void lines_take_turns(void **state)
{
        struct world *w = *state;
        struct client first = {0}, a[6] = {0}, s[3] = {0}, late = {0};

        begin(w, NULL, TWO_ENTRIES(", \"autostart\": false"));
        wait_status(w, "a", "ready");
        assert_int_equal(asks_name(&first, "a"), 1);
        for (unsigned i = 0; i < 6; i++) {
                assert_int_equal(asks_name(&a[i], "a"), 0);
                a[i].ends = true;
        }
        for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(asks_name(&s[i], "gpt"), 0);
                s[i].ends = true;
        }
        ends(&first);
        assert_int_equal(asks_name(&late, "gpt"), 0);
        late.ends = true;
        wait_for(w, &a[5].granted, 1);
        wait_for(w, &late.granted, 1);
        for (unsigned i = 0; i < 3; i++) {
                unsigned apart = a[i].place > s[i].place ? a[i].place - s[i].place : s[i].place - a[i].place;

                assert_int_equal(apart, 1);
        }
        assert_true(late.place > s[2].place);
        assert_int_equal(a[5].place, 11);
}

static void weights_count_between_entries(void **state)
{
        struct world *w = *state;
        unsigned got_a = 0;

        begin(w, "{\"balance\": \"round-robin\", \"slow_start\": \"0s\"}",
              ENTRY("a", ", \"slots\": 8, \"weight\": 3" AND_GPT) "," ENTRY("b", ", \"slots\": 8" AND_GPT));
        wait_all(w);
        for (unsigned i = 0; i < 16; i++) {
                struct client c = {0};

                assert_int_equal(asks_name(&c, "gpt"), 1);
                got_a += streq(c.instance, "a");
                ends(&c);
        }
        assert_int_equal(got_a, 12);
}

static void reload_to(struct world *w, const char *instances)
{
        write_config(w, instances);
        reload(w);
}

static void order(const char *name, enum fleet_verb verb)
{
        char *message = NULL;

        assert_int_equal(fleet_order(fleet, name, verb, &message), 0);
        free(message);
}

static void a_reload_shares_and_unshares(void **state)
{
        struct world *w = *state;
        struct client busy[2] = {0}, waits[3] = {0}, *on_a, *on_b;

        begin(w, NULL, TWO_ENTRIES(""));
        wait_all(w);
        for (unsigned i = 0; i < 2; i++)
                assert_int_equal(asks_name(&busy[i], "gpt"), 1);
        on_a = streq(busy[0].instance, "a") ? &busy[0] : &busy[1];
        on_b = on_a == &busy[0] ? &busy[1] : &busy[0];
        assert_int_equal(asks_name(&waits[0], "gpt"), 0);
        /* b's alone from now on: who waits is served by it, and what runs on a ends as it would. */
        reload_to(w, ENTRY("a", ", \"slots\": 1") "," ENTRY("b", ", \"slots\": 1" AND_GPT));
        assert_null(dispatch_shared(fleet, "gpt"));
        ends(on_a);
        (void)turn(w);
        assert_int_equal(waits[0].granted, 0);
        ends(on_b);
        wait_for(w, &waits[0].granted, 1);
        assert_string_equal(waits[0].instance, "b");

        /* Shared again, and an entry goes with a lease on it; its other waiters and the name stay. */
        reload_to(w, TWO_ENTRIES(", \"stop\": {\"drain\": \"100ms\"}"));
        assert_non_null(dispatch_shared(fleet, "gpt"));
        assert_int_equal(asks_name(&waits[1], "gpt"), 1);
        assert_string_equal(waits[1].instance, "a");
        assert_int_equal(asks_name(&waits[2], "gpt"), 0);
        reload_to(w, ENTRY("a", ", \"slots\": 1" AND_GPT));
        wait_for(w, &waits[0].revoked, 1); /* its instance goes */
        ends(&waits[1]);
        wait_for(w, &waits[2].granted, 1);
        assert_string_equal(waits[2].instance, "a");

        /* Nobody's any more. */
        waits[0] = (struct client){0};
        reload_to(w, TWO_ENTRIES(", \"autostart\": false"));
        assert_int_equal(asks_name(&waits[0], "gpt"), 0);
        reload_to(w, ENTRY("a", ", \"slots\": 1"));
        wait_for(w, &waits[0].refused, 1);
        assert_int_equal(waits[0].why, REFUSAL_REMOVED);
        ends(&waits[2]);
        (void)turn(w);
        assert_null(dispatch_shared_name(fleet, 0));
}

static void who_is_down_is_said_of_all(void **state)
{
        struct world *w = *state;
        struct client c = {0};

        begin(w, NULL,
              ENTRY("a", ", \"autostart\": false" AND_GPT) "," ENTRY("b", ", \"autostart\": false" AND_GPT));
        assert_int_equal(asks_name(&c, "gpt"), 0);
        wait_for(w, &c.refused, 1);
        assert_int_equal(c.why, REFUSAL_DOWN);
        assert_non_null(strstr(c.message, "no instance of gpt is up"));
        c = (struct client){0};
        order("b", FLEET_START);
        assert_int_equal(asks_name(&c, "gpt"), 0);
        wait_for(w, &c.granted, 1);
        assert_string_equal(c.instance, "b");
        ends(&c);
}

static void the_first_that_may_come_is_loaded(void **state)
{
        struct world *w = *state;
        struct client c = {0}, other = {0};

        begin(w, NULL,
              ENTRY("a", ", \"on_demand\": {}" AND_GPT) "," ENTRY("b", ", \"on_demand\": {}" AND_GPT));
        assert_int_equal(asks_name(&c, "gpt"), 0);
        wait_for(w, &c.granted, 1);
        assert_string_equal(c.instance, "a");
        assert_string_equal(fleet_find(fleet, "b")->status, "idle");
        /* A person stopped it: the other one comes. */
        ends(&c);
        order("a", FLEET_STOP);
        wait_status(w, "a", "initial");
        assert_int_equal(asks_name(&other, "gpt"), 0);
        wait_for(w, &other.granted, 1);
        assert_string_equal(other.instance, "b");
        ends(&other);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(one_name_means_several),
                TEST(a_long_line_blocks_no_other),
                TEST(lines_take_turns),
                TEST(weights_count_between_entries),
                TEST(a_reload_shares_and_unshares),
                TEST(who_is_down_is_said_of_all),
                TEST(the_first_that_may_come_is_loaded),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
