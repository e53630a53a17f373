/* test_where.c: the socket of a configuration that is good, broken, unreadable or not there. */
#include "cli/where.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/macros.h"
#include "cli/cli.h"

static void finds_it_in_the_text(void **state)
{
        static const struct {
                const char *text, *value; /* NULL: not there */
        } rows[] = {
                {"{\"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{ // comment\n \"runtime_dir\" /* x */ : // y\n \"/a\\\"b\", ]", "\"/a\\\"b\""},
                {"{\"x\": {\"runtime_dir\": \"/inner\"}, \"runtime_dir\": \"/a\"", "\"/a\""},
                {"{\"x\": [\"runtime_dir\", \"/inner\"], \"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{\"x\": \"runtime_dir\", \"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{\"bad\": tru, 'x' \"y\", \"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{\"unended\": \"abc\n \"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{// \"runtime_dir\": \"/comment\"\n}", NULL},
                {"{/* \"runtime_dir\": \"/comment\" }", NULL},
                {"{\"runtime_dir\": 5}", NULL},
                {"{\"runtime_dir\": \"/a", NULL},
                {"{\"runtime_dir\"", NULL},
                {"\"runtime_dir\": \"/a\"", NULL},
                {"{\"runtime_dirs\": \"/a\"}", NULL},
                {"", NULL},
                {"}}}}{\"runtime_dir\": \"/a\"}", "\"/a\""},
                {"{\"x\": \"\\", NULL},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const char *value = NULL;
                int len = 0;
                bool found = where_find_runtime_dir(rows[i].text, &value, &len);

                assert_int_equal(found, rows[i].value != NULL);
                if (found) {
                        assert_int_equal(len, strlen(rows[i].value));
                        assert_memory_equal(value, rows[i].value, len);
                }
        }
}

struct world {
        char dir[32], file[64];
};

static void write_file(const struct world *w, const char *text)
{
        FILE *f = fopen(w->file, "w");

        assert_non_null(f);
        assert_int_equal(fputs(text, f) < 0, 0);
        assert_int_equal(fclose(f), 0);
}

static void world_open(struct world *w)
{
        (void)snprintf(w->dir, sizeof(w->dir), "/tmp/lsv-where-XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        (void)snprintf(w->file, sizeof(w->file), "%s/c.json", w->dir);
}

static void world_close(struct world *w)
{
        (void)unlink(w->file);
        (void)rmdir(w->dir);
}

static void assert_socket(const struct world *w, const char *text, const char *expected, bool noted)
{
        char *socket = NULL, *note = NULL;

        if (text)
                write_file(w, text);
        assert_int_equal(where_is_socket(w->file, &socket, &note), 0);
        assert_string_equal(socket, expected);
        assert_int_equal(note != NULL, noted);
        free(socket);
        free(note);
}

static void good_and_broken(void **state)
{
        struct world w;
        char relative[128];

        (void)state;
        world_open(&w);
        (void)setenv("LSV_TEST_DIR", "/from/env", 1);
        (void)snprintf(relative, sizeof(relative), "%s/run/control.sock", w.dir);
        assert_socket(&w, "{\"runtime_dir\": \"/r\", \"instances\": []}", "/r/control.sock", false);
        assert_socket(&w, "{\"runtime_dir\": \"run\"}", relative, false);
        assert_socket(&w, "{\"runtime_dir\": \"${LSV_TEST_DIR}/x\"}", "/from/env/x/control.sock", false);
        /* A reload of these must reach the daemon that runs with them. */
        assert_socket(&w, "{\"runtime_dir\": \"/r\", \"instnces\": []}", "/r/control.sock", false);
        assert_socket(&w, "{\"runtime_dir\": \"run\", \"instances\": [{}]}", relative, false);
        assert_socket(&w, "{\"runtime_dir\": \"/r\", \"instances\": [", "/r/control.sock", false);
        assert_socket(&w, "{\"models_dir\": \"${NOT_SET_HERE}\", \"runtime_dir\": \"${LSV_TEST_DIR}\"}",
                      "/from/env/control.sock", false);
        (void)unsetenv("LSV_TEST_DIR");
        world_close(&w);
}

/* Without a file, and where runtime_dir needs what only the daemon knows, the default counts, and that is said. */
static void falls_back(void **state)
{
        struct world w;
        char *fallback = NULL, *note = NULL;

        (void)state;
        world_open(&w);
        (void)setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
        (void)unsetenv("RUNTIME_DIRECTORY");
        write_file(&w, "{}");
        assert_int_equal(where_is_socket(w.file, &fallback, &note), 0);
        assert_null(note);
        assert_string_equal(fallback, geteuid() == 0 ? "/run/llama-supervisor/control.sock"
                                                     : "/run/user/7/llama-supervisor/control.sock");
        assert_socket(&w, "{\"runtime_dir\": \"${NOT_SET_HERE}/x\"}", fallback, true);
        (void)unlink(w.file);
        assert_socket(&w, NULL, fallback, true);
        assert_int_equal(mkdir(w.file, 0700), 0);
        assert_socket(&w, NULL, fallback, true);
        (void)rmdir(w.file);
        free(fallback);
        world_close(&w);
}

static void default_config(void **state)
{
        char *file;

        (void)state;
        (void)setenv("XDG_CONFIG_HOME", "/x", 1);
        file = cli_default_config();
        assert_string_equal(file, geteuid() == 0 ? "/etc/llama-supervisor/llama-supervisor.json"
                                                 : "/x/llama-supervisor/llama-supervisor.json");
        free(file);
        (void)unsetenv("XDG_CONFIG_HOME");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(finds_it_in_the_text),
                cmocka_unit_test(good_and_broken),
                cmocka_unit_test(falls_back),
                cmocka_unit_test(default_config),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
