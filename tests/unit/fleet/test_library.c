/* test_library.c: the walk through a folder of models and the look at one of them, without a daemon. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "base/text.h"
#include "fleet/library_private.h"

static char folder[64];

static char *in(const char *name)
{
        static char path[256];

        (void)snprintf(path, sizeof path, "%s/%s", folder, name);
        return path;
}

/* A whole GGUF file of the corpus under another name; its time is long ago, so that it is not taken for one that is being written. */
static void put(const char *name, const char *corpus)
{
        static const struct timespec times[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
        _cleanup_free_ char *command =
                text_format("cp %s/tests/fuzz/corpus/gguf/%s '%s'", SOURCE_DIR, corpus, in(name));

        assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
        assert_int_equal(utimensat(AT_FDCWD, in(name), times, 0), 0);
}

static int set_up(void **state)
{
        (void)state;
        (void)snprintf(folder, sizeof folder, "/tmp/lsv-library-XXXXXX");
        return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
        _cleanup_free_ char *command = text_format("rm -r %s", folder);

        (void)state;
        return system(command); /* NOLINT(cert-env33-c) */
}

static void names_of_parts(void **state)
{
        unsigned part = 0, parts = 0;

        (void)state;
        assert_true(shelf_split_name("a/b-00002-of-00004.gguf", &part, &parts));
        assert_int_equal(part, 2);
        assert_int_equal(parts, 4);
        assert_false(shelf_split_name("b-00005-of-00004.gguf", &part, &parts));
        assert_false(shelf_split_name("b-00000-of-00004.gguf", &part, &parts));
        assert_false(shelf_split_name("-00001-of-00004.gguf", &part, &parts));
        assert_false(shelf_split_name("b-0001-of-00004.gguf", &part, &parts));
        assert_false(shelf_split_name("b-00001-of-00004.gguf.part", &part, &parts));
        assert_false(shelf_split_name("b.gguf", &part, &parts));
}

/* Same size, same time, same inode: the header is not read again. Another time: it is. */
static void headers_are_read_once(void **state)
{
        static const struct timespec later[2] = {{.tv_sec = 1700000001}, {.tv_sec = 1700000001}},
                                     same[2] = {{.tv_sec = 1700000000}, {.tv_sec = 1700000000}};
        struct shelf *a, *b, *c;
        int fd;

        (void)state;
        put("m.gguf", "whole");
        a = shelf_scan(folder, NULL);
        assert_non_null(a);
        assert_int_equal(a->n, 1);
        assert_string_equal(a->files[0].facts.name, "small");
        fd = open(in("m.gguf"), O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "GARBAGE!", 8, 0), 8);
        assert_int_equal(futimens(fd, same), 0);
        b = shelf_scan(folder, a);
        assert_null(b->files[0].error);
        assert_string_equal(b->files[0].facts.name, "small");
        assert_int_equal(futimens(fd, later), 0);
        c = shelf_scan(folder, b);
        assert_non_null(c->files[0].error);
        close_fd(&fd);
        shelf_free(a);
        shelf_free(b);
        shelf_free(c);
}

/* A file that was written a moment ago may change once more within the same tick of the clock. */
static void a_fresh_file_is_not_trusted(void **state)
{
        struct shelf *a;

        (void)state;
        put("m.gguf", "whole");
        assert_int_equal(utimensat(AT_FDCWD, in("m.gguf"), NULL, 0), 0);
        a = shelf_scan(folder, NULL);
        assert_false(a->files[0].read);
        shelf_free(a);
}

static void no_folder(void **state)
{
        struct shelf *a;

        (void)state;
        a = shelf_scan("/nowhere/at/all", NULL);
        assert_non_null(a);
        assert_int_equal(a->n, 0);
        assert_non_null(strstr(a->error, "No such file"));
        shelf_free(a);
}

static void expect(const char *name, int r, const char *words)
{
        struct library_model m;

        assert_int_equal(library_open_model(folder, name, &m), r);
        if (words && !strstr(m.words, words))
                fail_msg("\"%s\" is not in \"%s\"", words, m.words);
        free(m.path);
}

static void one_model(void **state)
{
        _cleanup_free_ char *absolute = NULL;
        struct library_model m;

        (void)state;
        put("m.gguf", "whole");
        put("cut.gguf", "cut_off");
        put("mmproj.gguf", "mmproj");
        put("a-00001-of-00002.gguf", "split_first");
        assert_int_equal(mkdir(in("sub"), 0755), 0);
        assert_int_equal(symlink("../m.gguf", in("sub/link.gguf")), 0);
        assert_int_equal(symlink("../m.gguf", in("sub/blob")), 0);
        assert_int_equal(symlink("/etc/passwd", in("out.gguf")), 0);
        absolute = text_dup(in("m.gguf"));
        assert_int_equal(library_open_model(folder, absolute, &m), 0);
        assert_string_equal(m.path, absolute);
        assert_int_equal(m.parts, 1);
        free(m.path);
        /* The real place, so that a link that is turned later leads nowhere else. */
        assert_int_equal(library_open_model(folder, "sub/link.gguf", &m), 0);
        assert_string_equal(m.path, absolute);
        free(m.path);
        expect("./m.gguf", 0, NULL);
        expect("", -EPERM, "does not name a file");
        expect("sub/../m.gguf", -EPERM, "does not name a file");
        expect("..", -EPERM, "does not name a file");
        expect("/etc/passwd", -EPERM, "outside of models_dir");
        expect("/no/such/thing", -EPERM, "outside of models_dir");
        expect("out.gguf", -EPERM, "outside of models_dir");
        expect("n.gguf", -ENOENT, "did you mean m.gguf?");
        expect("sub", -EINVAL, "is a folder");
        expect("cut.gguf", -EBADMSG, "is cut off");
        expect("mmproj.gguf", -EINVAL, "projector");
        expect("a-00001-of-00002.gguf", -EBADMSG, "part 2 of 2");
        put("a-00002-of-00002.gguf", "split_second");
        expect("a-00001-of-00002.gguf", 0, NULL);
        expect("a-00002-of-00002.gguf", -EINVAL, "name its first part");
        assert_int_equal(library_find_file(folder, "cut.gguf", &m), 0);
        free(m.path);
        assert_int_equal(library_find_file(folder, "out.gguf", &m), -EPERM);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(names_of_parts),
                cmocka_unit_test_setup_teardown(headers_are_read_once, set_up, tear_down),
                cmocka_unit_test_setup_teardown(a_fresh_file_is_not_trusted, set_up, tear_down),
                cmocka_unit_test(no_folder),
                cmocka_unit_test_setup_teardown(one_model, set_up, tear_down),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
