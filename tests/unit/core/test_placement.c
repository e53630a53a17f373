/* test_placement.c: who goes, who stays, who waits, in tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/placement.h"

#define G UINT64_C(1073741824)

enum { GPUS = 2, MOST = 6 };

/* One line of a case: what is known of an entry. The first one is asked for. */
struct row {
        const char *name;
        const char *
                is; /* letters: l loaded, L leaving (and loaded), b busy, p pinned, t its group is together */
        unsigned group, used, instances;
        unsigned gpu[GPUS]; /* GB */
};

struct place_case {
        const char *what;
        unsigned max_loaded, gpu_memory; /* GB */
        struct row rows[MOST];
        enum placement_verdict verdict;
        const char *evict; /* names' first letters, in the order of the rows */
        const char *why;   /* part of the words, NULL: none */
};

static const struct place_case cases[] = {
        {"alone", 1, 0, {{"a", "", 0, 0, 1, {0}}}, PLACEMENT_LOAD, "", NULL},
        {"no bounds at all",
         0,
         0,
         {{"a", "", 0, 0, 9, {99}}, {"b", "lb", 0, 0, 9, {99}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        {"room for two", 2, 0, {{"a", "", 0, 0, 1, {0}}, {"b", "l", 0, 5, 1, {0}}}, PLACEMENT_LOAD, "", NULL},
        {"the oldest goes",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "l", 0, 9, 1, {0}}, {"c", "l", 0, 3, 1, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"as many as needed, oldest first",
         3,
         0,
         {{"a", "", 0, 0, 2, {0}},
          {"b", "l", 0, 1, 1, {0}},
          {"c", "l", 0, 3, 1, {0}},
          {"d", "l", 0, 2, 1, {0}}},
         PLACEMENT_EVICT,
         "bd",
         NULL},
        {"whoever was not needed stays",
         3,
         0,
         {{"a", "", 0, 0, 2, {0}}, {"b", "l", 0, 1, 1, {0}}, {"c", "l", 0, 2, 2, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"a busy one does not go",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lb", 0, 1, 1, {0}}, {"c", "l", 0, 9, 1, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"all are busy: wait for the oldest",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lb", 0, 4, 1, {0}}, {"c", "lb", 0, 2, 1, {0}}},
         PLACEMENT_WAIT,
         "c",
         "no room for a: c is busy"},
        {"an idle one does not go when a busy one is in the way too",
         2,
         0,
         {{"a", "", 0, 0, 2, {0}}, {"b", "lb", 0, 4, 1, {0}}, {"c", "l", 0, 2, 1, {0}}},
         PLACEMENT_WAIT,
         "bc",
         "b is busy"},
        {"of busy ones only those that are needed",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lb", 0, 1, 2, {0}}},
         PLACEMENT_WAIT,
         "b",
         "b is busy"},
        {"a pinned one does not go",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lp", 0, 1, 1, {0}}, {"c", "l", 0, 9, 1, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"only pinned ones",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lp", 0, 1, 1, {0}}, {"c", "lbp", 0, 9, 1, {0}}},
         PLACEMENT_PINNED,
         "",
         "no room for a: b is pinned, c is pinned"},
        {"too many of itself",
         2,
         0,
         {{"a", "", 0, 0, 3, {0}}},
         PLACEMENT_IMPOSSIBLE,
         "",
         "a is 3 instances, and on_demand.max_loaded is 2"},
        {"what leaves is not told again",
         1,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "L", 0, 1, 1, {0}}},
         PLACEMENT_LEAVING,
         "",
         "waits for the room"},
        {"what leaves is enough",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "L", 0, 9, 1, {0}}, {"c", "l", 0, 1, 1, {0}}},
         PLACEMENT_LEAVING,
         "",
         "waits for the room"},
        {"what leaves is not enough",
         2,
         0,
         {{"a", "", 0, 0, 2, {0}}, {"b", "L", 0, 9, 1, {0}}, {"c", "l", 0, 1, 1, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"it leaves itself", 2, 0, {{"a", "L", 0, 0, 1, {0}}}, PLACEMENT_LEAVING, "", "waits"},
        /* memory */
        {"it fits beside",
         0,
         24,
         {{"a", "", 0, 0, 1, {10}}, {"b", "l", 0, 0, 1, {14}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        {"one byte too much",
         0,
         24,
         {{"a", "", 0, 0, 1, {11}}, {"b", "l", 0, 0, 1, {14}}},
         PLACEMENT_EVICT,
         "b",
         NULL},
        {"only on its own GPU",
         0,
         24,
         {{"a", "", 0, 0, 1, {20}}, {"b", "l", 0, 1, 1, {0, 20}}, {"c", "l", 0, 9, 1, {20}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"over two GPUs",
         0,
         24,
         {{"a", "", 0, 0, 1, {20, 20}}, {"b", "l", 0, 1, 1, {0, 20}}, {"c", "lb", 0, 9, 1, {20}}},
         PLACEMENT_WAIT,
         "bc",
         "c is busy"},
        {"the newer one alone is enough",
         0,
         24,
         {{"a", "", 0, 0, 1, {20}}, {"b", "l", 0, 1, 1, {2}}, {"c", "l", 0, 9, 1, {20}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"other GPUs may be crowded",
         0,
         24,
         {{"a", "", 0, 0, 1, {20}}, {"b", "lb", 0, 1, 1, {0, 20}}, {"c", "lb", 0, 9, 1, {0, 20}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        {"too big",
         0,
         24,
         {{"a", "", 0, 0, 1, {0, 25}}},
         PLACEMENT_IMPOSSIBLE,
         "",
         "a needs 25.0 GB of GPU 1, and on_demand.gpu_memory is 24.0 GB"},
        {"no memory is known",
         0,
         24,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lb", 0, 0, 1, {24}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        /* groups */
        {"exclusive: the other goes, room or not",
         0,
         0,
         {{"a", "", 1, 0, 1, {0}}, {"b", "l", 1, 9, 1, {0}}, {"c", "l", 2, 1, 1, {0}}},
         PLACEMENT_EVICT,
         "b",
         NULL},
        {"exclusive: that makes room enough",
         2,
         0,
         {{"a", "", 1, 0, 1, {0}}, {"b", "l", 1, 9, 1, {0}}, {"c", "l", 0, 1, 1, {0}}},
         PLACEMENT_EVICT,
         "b",
         NULL},
        {"exclusive and busy",
         0,
         0,
         {{"a", "", 1, 0, 1, {0}}, {"b", "lb", 1, 9, 1, {0}}},
         PLACEMENT_WAIT,
         "b",
         "b is busy"},
        {"exclusive and pinned",
         0,
         0,
         {{"a", "", 1, 0, 1, {0}}, {"b", "lp", 1, 9, 1, {0}}},
         PLACEMENT_PINNED,
         "",
         "b is pinned"},
        {"exclusive and leaving",
         0,
         0,
         {{"a", "", 1, 0, 1, {0}}, {"b", "L", 1, 9, 1, {0}}},
         PLACEMENT_LEAVING,
         "",
         "waits"},
        {"together: all of it counts",
         2,
         0,
         {{"a", "t", 1, 0, 1, {0}}, {"b", "t", 1, 0, 1, {0}}, {"c", "l", 0, 1, 1, {0}}},
         PLACEMENT_EVICT,
         "c",
         NULL},
        {"together: too many",
         2,
         0,
         {{"a", "t", 1, 0, 1, {0}}, {"b", "t", 1, 0, 2, {0}}},
         PLACEMENT_IMPOSSIBLE,
         "",
         "a with its group is 3 instances"},
        {"together: what is there already stays",
         2,
         0,
         {{"a", "t", 1, 0, 1, {0}}, {"b", "lt", 1, 0, 1, {0}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        {"together: the last use of any of them counts",
         3,
         0,
         {{"a", "", 0, 0, 1, {0}},
          {"b", "lt", 1, 1, 1, {0}},
          {"c", "lt", 1, 9, 1, {0}},
          {"d", "l", 0, 5, 1, {0}}},
         PLACEMENT_EVICT,
         "d",
         NULL},
        {"together: they go as one",
         3,
         0,
         {{"a", "", 0, 0, 1, {0}},
          {"b", "lt", 1, 1, 1, {0}},
          {"c", "lt", 1, 2, 1, {0}},
          {"d", "l", 0, 5, 1, {0}}},
         PLACEMENT_EVICT,
         "bc",
         NULL},
        {"together: one that is busy keeps all",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lt", 1, 1, 1, {0}}, {"c", "ltb", 1, 2, 1, {0}}},
         PLACEMENT_WAIT,
         "bc",
         "c is busy"},
        {"together: one that is pinned keeps all",
         2,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lt", 1, 1, 1, {0}}, {"c", "ltp", 1, 2, 1, {0}}},
         PLACEMENT_PINNED,
         "",
         "c is pinned"},
        {"two groups of the same kind are two",
         2,
         0,
         {{"a", "t", 1, 0, 1, {0}}, {"b", "lt", 2, 1, 1, {0}}},
         PLACEMENT_LOAD,
         "",
         NULL},
        /* Somebody who waits since earlier: loaded and busy for those behind. */
        {"not past one who waits since earlier",
         1,
         0,
         {{"a", "", 0, 0, 1, {0}}, {"b", "lb", 0, 1, 1, {0}}, {"c", "lb", 0, 2, 1, {0}}},
         PLACEMENT_WAIT,
         "bc",
         "busy"},
};

static void the_table(void **state)
{
        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                const struct place_case *c = &cases[i];
                struct placement_entry list[MOST] = {0};
                uint64_t memory[MOST][GPUS];
                struct placement_room room = {
                        .max_loaded = c->max_loaded, .gpu_memory = c->gpu_memory * G, .n_gpus = GPUS};
                char why[PLACEMENT_WHY_MAX] = "?", gone[MOST + 1] = "";
                enum placement_verdict v;
                bool evict[MOST];
                size_t n = 0;

                for (; n < MOST && c->rows[n].name; n++) {
                        const struct row *r = &c->rows[n];

                        for (unsigned g = 0; g < GPUS; g++)
                                memory[n][g] = r->gpu[g] * G;
                        list[n] = (struct placement_entry){
                                .name = r->name,
                                .group = r->group,
                                .together = strchr(r->is, 't') != NULL,
                                .loaded = strchr(r->is, 'l') || strchr(r->is, 'L'),
                                .leaving = strchr(r->is, 'L') != NULL,
                                .busy = strchr(r->is, 'b') != NULL,
                                .pinned = strchr(r->is, 'p') != NULL,
                                .used = r->used,
                                .instances = r->instances,
                                .memory = memory[n],
                        };
                }
                v = placement_decide(list, n, 0, &room, evict, why, sizeof why);
                if (v != c->verdict)
                        fail_msg("%s: verdict %d, not %d (%s)", c->what, v, c->verdict, why);
                for (size_t k = 0; k < n; k++)
                        if (evict[k])
                                (void)strncat(gone, list[k].name, 1);
                if (!streq(gone, c->evict))
                        fail_msg("%s: \"%s\" go, not \"%s\"", c->what, gone, c->evict);
                if (c->why ? !strstr(why, c->why) : why[0] != '\0')
                        fail_msg("%s: \"%s\" has no \"%s\"", c->what, why, c->why ? c->why : "");
        }
}

static unsigned dice(unsigned *seed, unsigned n)
{
        *seed = *seed * 1103515245U + 12345U;
        return (*seed >> 16) % n;
}

/* Whatever the state is: what it says fits does fit, who goes is neither busy nor pinned, and nobody goes in vain. */
static void any_state(void **state)
{
        unsigned seed = 12345;

        (void)state;
        for (unsigned round = 0; round < 20000; round++) {
                struct placement_entry list[MOST] = {0};
                uint64_t memory[MOST][GPUS];
                struct placement_room room = {.n_gpus = GPUS};
                char why[PLACEMENT_WHY_MAX];
                bool evict[MOST], together = false;
                unsigned total = 0;
                enum placement_verdict v;

                room.max_loaded = dice(&seed, 6);
                room.gpu_memory = dice(&seed, 5) * 10;
                together = dice(&seed, 2);
                for (size_t i = 0; i < MOST; i++) {
                        for (unsigned g = 0; g < GPUS; g++)
                                memory[i][g] = dice(&seed, 12);
                        list[i] = (struct placement_entry){.name = "x",
                                                           .group = dice(&seed, 3),
                                                           .loaded = i && dice(&seed, 2),
                                                           .busy = dice(&seed, 4) == 0,
                                                           .pinned = dice(&seed, 6) == 0,
                                                           .used = dice(&seed, 10),
                                                           .instances = 1 + dice(&seed, 2),
                                                           .memory = memory[i]};
                        list[i].together = list[i].group == 1 && together;
                        list[i].leaving = list[i].loaded && dice(&seed, 6) == 0;
                }
                v = placement_decide(list, MOST, 0, &room, evict, why, sizeof why);
                if (v == PLACEMENT_IMPOSSIBLE || v == PLACEMENT_PINNED || v == PLACEMENT_LOAD ||
                    v == PLACEMENT_LEAVING)
                        for (size_t i = 0; i < MOST; i++)
                                assert_false(evict[i]);
                if (v != PLACEMENT_LOAD && v != PLACEMENT_EVICT)
                        continue;
                for (unsigned g = 0; g <= GPUS; g++) {
                        uint64_t sum = 0, bound = g < GPUS ? room.gpu_memory : room.max_loaded, need = 0;

                        for (size_t i = 0; i < MOST; i++) {
                                uint64_t m = g < GPUS ? memory[i][g] : list[i].instances;
                                bool with = placement_comes_with(list, 0, i);

                                if (evict[i]) {
                                        assert_true(list[i].loaded && !list[i].busy && !list[i].pinned &&
                                                    !list[i].leaving && !with);
                                        for (size_t k = 0; k < MOST; k++)
                                                if (placement_comes_with(list, i, k) && list[k].loaded &&
                                                    !list[k].leaving)
                                                        assert_true(evict[k]);
                                        total++;
                                }
                                need += with ? m : 0;
                                if (with || (list[i].loaded && !evict[i] &&
                                             (v == PLACEMENT_LOAD || !list[i].leaving)))
                                        sum += m;
                        }
                        assert_true(!bound || !need || sum <= bound);
                }
                assert_true(v == PLACEMENT_EVICT ? total > 0 : total == 0);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_table),
                cmocka_unit_test(any_state),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
