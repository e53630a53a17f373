/* test_publish.c: a file appears whole or not at all, and never over another one; with and without O_TMPFILE. */
#include "base/publish.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/text.h"

static char folder[64];

static int set_up(void **state)
{
        (void)state;
        (void)snprintf(folder, sizeof(folder), "/tmp/lsv-publish-XXXXXX");
        return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
        char command[128];

        (void)state;
        publish_without_tmpfile = false;
        (void)snprintf(command, sizeof(command), "rm -rf %s", folder);
        return system(command); /* NOLINT(cert-env33-c) */
}

/* Hidden ones, too. */
static unsigned count_all(void)
{
        char command[128];
        FILE *out;
        unsigned n = 0;

        (void)snprintf(command, sizeof(command), "ls -A %s | wc -l", folder);
        out = popen(command, "r"); /* NOLINT(cert-env33-c) */
        assert_non_null(out);
        assert_int_equal(fscanf(out, "%u", &n), 1); /* NOLINT(cert-err34-c) */
        (void)pclose(out);
        return n;
}

static void check(void)
{
        char path[128], *text;
        struct publish p;
        struct stat st;
        size_t len;

        assert_int_equal(publish_file(folder, "a", 0444, "first", 5, true), 0);
        assert_int_equal(publish_file(folder, "a", 0444, "second", 6, false), -EEXIST);
        (void)snprintf(path, sizeof(path), "%s/a", folder);
        assert_int_equal(file_read(path, 100, &text, &len), 0);
        assert_string_equal(text, "first");
        free(text);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0444);
        assert_int_equal(st.st_nlink, 1);
        assert_int_equal(count_all(), 1);
        /* Taken: the same content under another name. */
        assert_int_equal(publish_begin(folder, 0600, &p), 0);
        assert_int_equal(publish_write(&p, "third", 5), 0);
        assert_int_equal(publish_link(&p, "a", true), -EEXIST);
        assert_int_equal(publish_link(&p, "b", true), 0);
        publish_end(&p);
        assert_int_equal(count_all(), 2);
        /* Never linked: nothing is left. */
        assert_int_equal(publish_begin(folder, 0600, &p), 0);
        assert_int_equal(publish_write(&p, "fourth", 6), 0);
        publish_end(&p);
        assert_int_equal(count_all(), 2);
        assert_int_equal(publish_sync(folder), 0);
}

static void with_files_without_a_name(void **state)
{
        (void)state;
        check();
}

static void and_without_them(void **state)
{
        (void)state;
        publish_without_tmpfile = true;
        check();
}

static void a_folder_that_is_not_there(void **state)
{
        (void)state;
        assert_int_equal(publish_file("/nonexistent/folder", "a", 0600, "", 0, false), -ENOENT);
        publish_without_tmpfile = true;
        assert_int_equal(publish_file("/nonexistent/folder", "a", 0600, "", 0, false), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(with_files_without_a_name, set_up, tear_down),
                cmocka_unit_test_setup_teardown(and_without_them, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_folder_that_is_not_there, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
