/* test_learned.c: what was learned is there again, the largest, within its bound; a broken file is set aside. */
#include "fleet/learned.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/macros.h"
#include "host/record.h"

static struct loop *loop;
static char dir[64];

static const char *key(unsigned n)
{
        static char text[LEARNED_KEY_MAX];

        (void)snprintf(text, sizeof text, "%064x", n);
        return text;
}

static void on_turn(void *owner, usec_t now)
{
        (void)owner;
        (void)now;
        if (!record_is_saving())
                loop_stop(loop);
        else
                loop_wake(loop);
}

/* What record_save has promised is on the disk. */
static void flush(void)
{
        loop_wake(loop);
        loop_run(loop);
}

static struct learned *open_again(struct learned *l)
{
        struct learned *again = NULL;

        flush();
        learned_free(l);
        assert_int_equal(learned_new(loop, dir, &again), 0);
        return again;
}

static void the_largest_survives(void **state)
{
        struct learned *l = NULL;

        (void)state;
        assert_int_equal(learned_new(loop, dir, &l), 0);
        assert_int_equal(learned_get(l, key(1)), 0);
        assert_int_equal(learned_get(l, ""), 0);
        assert_int_equal(learned_get(NULL, key(1)), 0);
        assert_true(learned_put(l, key(1), "qwen", 1000, 5));
        assert_false(learned_put(l, key(1), "qwen", 900, 6));
        assert_true(learned_put(l, key(1), "qwen", 1100, 7));
        assert_false(learned_put(l, "", "qwen", 1, 7));
        assert_false(learned_put(l, key(2), "qwen", 0, 7));
        l = open_again(l);
        assert_int_equal(learned_get(l, key(1)), 1100);
        assert_int_equal(learned_get(l, key(2)), 0);
        learned_free(l);
}

static void there_is_a_bound(void **state)
{
        struct learned *l = NULL;

        (void)state;
        assert_int_equal(learned_new(loop, dir, &l), 0);
        for (unsigned i = 0; i < LEARNED_MAX; i++)
                assert_true(learned_put(l, key(100 + i), "x", 1 + i, i == 7 ? 10 : 1000 + i));
        /* key(1) of the test before was learned at 7 and has gone for the last of them; the next is the one of moment 10. */
        assert_int_equal(learned_get(l, key(1)), 0);
        assert_true(learned_put(l, key(9999), "y", 5, 5000));
        l = open_again(l);
        assert_int_equal(learned_get(l, key(107)), 0);
        assert_int_equal(learned_get(l, key(106)), 7);
        assert_int_equal(learned_get(l, key(108)), 9);
        assert_int_equal(learned_get(l, key(9999)), 5);
        learned_free(l);
}

static void a_broken_file_is_set_aside(void **state)
{
        static const char *const broken[] = {
                "{", "[]", "{\"learned\":[{\"key\":\"short\",\"bytes\":5}]}",
                "{\"learned\":[{\"key\":\"0000000000000000000000000000000000000000000000000000000000000001\","
                "\"bytes\":-5}]}"};
        struct learned *l = NULL;
        struct stat st;
        char path[96];

        (void)state;
        (void)snprintf(path, sizeof path, "%s/learned.json.bad", dir);
        for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
                assert_int_equal(record_save_now(dir, "learned.json", broken[i], strlen(broken[i])), 0);
                /* Without a loop nothing is written. */
                assert_int_equal(learned_new(NULL, dir, &l), 0);
                learned_free(l);
                assert_int_not_equal(stat(path, &st), 0);
                assert_int_equal(learned_new(loop, dir, &l), 0);
                assert_int_equal(learned_get(l, key(1)), 0);
                assert_int_equal(stat(path, &st), 0);
                assert_int_equal(st.st_size, strlen(broken[i]));
                assert_int_equal(record_remove(dir, "learned.json.bad"), 0);
                assert_true(learned_put(l, key(1), "qwen", 7, 1));
                l = open_again(l);
                assert_int_equal(learned_get(l, key(1)), 7);
                learned_free(l);
        }
}

static int begin(void **state)
{
        (void)state;
        (void)snprintf(dir, sizeof dir, "/tmp/lsv-learned-XXXXXX");
        if (!mkdtemp(dir) || loop_new(&loop) < 0)
                return -1;
        return loop_add_turn(loop, on_turn, NULL);
}

static int end(void **state)
{
        (void)state;
        (void)record_remove(dir, "learned.json");
        (void)rmdir(dir);
        loop_remove_turn(loop, on_turn, NULL);
        loop = loop_free(loop);
        return 0;
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_largest_survives),
                cmocka_unit_test(there_is_a_bound),
                cmocka_unit_test(a_broken_file_is_set_aside),
        };

        return cmocka_run_group_tests(tests, begin, end);
}
