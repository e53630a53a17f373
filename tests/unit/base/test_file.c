/* test_file.c: whole small files: bounds, kinds, lists. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/text.h"

static char dir[] = "/tmp/test_file.XXXXXX";

static char *path_of(const char *name)
{
        static char path[128];

        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        return path;
}

static void write_file(const char *name, const void *data, size_t len)
{
        FILE *f = fopen(path_of(name), "we");

        assert_non_null(f);
        assert_int_equal(fwrite(data, 1, len, f), len);
        assert_int_equal(fclose(f), 0);
}

static int set_up(void **state)
{
        (void)state;
        return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
        static const char *const names[] = {"a.json", "b.json", "c.txt", ".hidden.json",
                                            "big",    "empty",  "fifo",  "nul"};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                (void)unlink(path_of(names[i]));
        return rmdir(dir);
}

static void files_are_read_whole_or_not_at_all(void **state)
{
        static char big[10000];
        char *text = NULL;
        size_t len = 7;

        (void)state;
        memset(big, 'x', sizeof big);
        write_file("big", big, sizeof big);
        write_file("empty", "", 0);
        write_file("nul", "a\0b", 3);
        assert_int_equal(file_read(path_of("big"), sizeof big, &text, &len), 0);
        assert_int_equal(len, sizeof big);
        assert_memory_equal(text, big, len);
        assert_int_equal(text[len], 0);
        free(text);
        text = NULL;
        len = 7;
        assert_int_equal(file_read(path_of("big"), sizeof big - 1, &text, &len), -EFBIG);
        assert_null(text);
        assert_int_equal(len, 7);
        assert_int_equal(file_read(path_of("empty"), 10, &text, &len), 0);
        assert_int_equal(len, 0);
        assert_string_equal(text, "");
        free(text);
        assert_int_equal(file_read(path_of("nul"), 10, &text, &len), 0);
        assert_int_equal(len, 3);
        free(text);
        assert_int_equal(file_read(dir, 10, &text, &len), -EISDIR);
        assert_int_equal(file_read(path_of("none"), 10, &text, &len), -ENOENT);
        /* A file of /proc has no size beforehand. */
        assert_int_equal(file_read("/proc/self/status", 1 << 20, &text, &len), 0);
        assert_true(len > 100);
        free(text);
        assert_int_equal(file_read("/proc/self/status", 10, &text, &len), -EFBIG);
        /* A FIFO that nobody writes to holds nobody up. */
        assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
        assert_int_equal(file_read(path_of("fifo"), 10, &text, &len), 0);
        assert_int_equal(len, 0);
        free(text);
}

static void lists_are_sorted_and_bounded(void **state)
{
        char **names = NULL;

        (void)state;
        write_file("b.json", "", 0);
        write_file("a.json", "", 0);
        write_file("c.txt", "", 0);
        write_file(".hidden.json", "", 0);
        assert_int_equal(file_list(dir, ".json", 10, &names), 0);
        assert_int_equal(text_list_count(names), 2);
        assert_string_equal(names[0], "a.json");
        assert_string_equal(names[1], "b.json");
        names = text_list_free(names);
        assert_int_equal(file_list(dir, ".json", 1, &names), -E2BIG);
        assert_null(names);
        assert_int_equal(file_list(dir, ".nothing", 1, &names), 0);
        assert_non_null(names);
        assert_null(names[0]);
        text_list_free(names);
        assert_int_equal(file_list(path_of("none"), "", 1, &names), -ENOENT);
}

static void facts_are_those_of_stat(void **state)
{
        struct file_facts facts;

        (void)state;
        write_file("a.json", "12345", 5);
        assert_int_equal(chmod(path_of("a.json"), 0640), 0);
        assert_int_equal(file_ops_real.stat(NULL, path_of("a.json"), &facts), 0);
        assert_int_equal(facts.size, 5);
        assert_int_equal(facts.mode, S_IFREG | 0640);
        assert_true(facts.mtime > 0);
        assert_int_equal(file_stat(path_of("none"), &facts), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(files_are_read_whole_or_not_at_all),
                cmocka_unit_test(lists_are_sorted_and_bounded),
                cmocka_unit_test(facts_are_those_of_stat),
        };

        return cmocka_run_group_tests(tests, set_up, tear_down);
}
