/* test_check.c: what `llama-supervisor check` prints and returns. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/macros.h"
#include "base/text.h"
#include "cli/check.h"

static char dir[] = "/tmp/test_check.XXXXXX";
static char config[64], out_path[64], err_path[64];

static int set_up(void **state)
{
        (void)state;
        if (!mkdtemp(dir))
                return -1;
        (void)snprintf(config, sizeof config, "%s/c.json", dir);
        (void)snprintf(out_path, sizeof out_path, "%s/out", dir);
        (void)snprintf(err_path, sizeof err_path, "%s/err", dir);
        return 0;
}

static int tear_down(void **state)
{
        (void)state;
        (void)unlink(config);
        (void)unlink(out_path);
        (void)unlink(err_path);
        return rmdir(dir);
}

/* Files that hold "good" are good; the first that is not is told. */
static int check_tls(const char *cert_file, struct slice cert, const char *key_file, struct slice key,
                     bool *ret_in_key, char **ret_words)
{
        bool good = slice_eq(cert, SLICE("good"));

        *ret_in_key = good;
        if (good && slice_eq(key, SLICE("good")))
                return 0;
        *ret_words = text_format("%s: is no good", good ? key_file : cert_file);
        return -EINVAL;
}

enum verb { CHECK, CHECK_JSON, PRINT };

/* Runs a verb on a configuration with stdout and stderr in files; the texts are malloc'd. */
static int run(const char *text, enum verb verb, char **ret_out, char **ret_err)
{
        int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO), r;
        FILE *f = fopen(config, "we");
        size_t len;

        assert_non_null(f);
        assert_true(fputs(text, f) >= 0);
        assert_int_equal(fclose(f), 0);
        (void)fflush(stdout);
        (void)fflush(stderr);
        assert_non_null(freopen(out_path, "we", stdout));
        assert_non_null(freopen(err_path, "we", stderr));
        r = verb == PRINT ? check_print(config) : check_main(config, verb == CHECK_JSON, check_tls);
        (void)fflush(stdout);
        (void)fflush(stderr);
        assert_true(dup2(out, STDOUT_FILENO) >= 0);
        assert_true(dup2(err, STDERR_FILENO) >= 0);
        (void)close(out);
        (void)close(err);
        assert_int_equal(file_read(out_path, 1 << 20, ret_out, &len), 0);
        assert_int_equal(file_read(err_path, 1 << 20, ret_err, &len), 0);
        return r;
}

static void put_file(const char *name, const char *text)
{
        _cleanup_free_ char *path = text_format("%s/%s", dir, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        (void)close(fd);
}

#define LISTEN(cert, key)                                                                                    \
        "{\"state_dir\": \"/s\", \"listen\": [{\"address\": \"127.0.0.1:1\",\n"                              \
        "  \"tls\": {\"cert_file\": \"" cert "\",\n"                                                         \
        "    \"key_file\": \"" key "\"}}]}"

static void check_listen(const char *text, int status, const char *where)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        _cleanup_free_ char *expected = where ? text_format(where, config, dir) : NULL;

        assert_int_equal(run(text, CHECK, &out, &err), status);
        if (expected && !strstr(err, expected))
                fail_msg("%s is not in %s", expected, err);
        if (!expected)
                assert_string_equal(err, "");
}

static void certificates_are_judged(void **state)
{
        (void)state;
        put_file("good", "good");
        put_file("bad", "bad");
        check_listen(LISTEN("good", "good"), 0, NULL);
        check_listen(LISTEN("bad", "bad"), 1, "%s:2:24: listen[0].tls.cert_file: %s/bad: is no good\n");
        check_listen(LISTEN("good", "bad"), 1, "%s:3:17: listen[0].tls.key_file: %s/bad: is no good\n");
        check_listen(LISTEN("good", "none"), 1,
                     "%s:3:17: listen[0].tls.key_file: %s/none cannot be read: No such file or directory\n");
        check_listen(LISTEN("none", "good"), 1,
                     "%s:2:24: listen[0].tls.cert_file: %s/none cannot be read: No such file or directory\n");
        put_file("good", "");
        check_listen(LISTEN("good", "bad"), 1, "%s:2:24: listen[0].tls.cert_file: %s/good: is no good\n");
        for (const char *const *name = (const char *const[]){"good", "bad", NULL}; *name; name++) {
                _cleanup_free_ char *path = text_format("%s/%s", dir, *name);

                (void)unlink(path);
        }
}

static void a_good_file_is_ok(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL, *expected = NULL;

        (void)state;
        assert_int_equal(
                run("{\"state_dir\": \"/s\", \"instances\": [{\"name\": \"a\", \"adopt\": \"127.0.0.1:1\"}]}",
                    CHECK, &out, &err),
                0);
        assert_true(asprintf(&expected, "%s: ok, 1 model\n", config) > 0);
        assert_string_equal(out, expected);
        assert_string_equal(err, "");
}

static void a_bad_file_is_told_line_by_line(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL, *expected = NULL;

        (void)state;
        assert_int_equal(run("{\n  \"insecure\": 1,\n  \"lisen\": []\n}", CHECK, &out, &err), 1);
        assert_true(asprintf(&expected,
                             "%s:2:15: insecure: expected true or false, found a number\n"
                             "%s:3:3: lisen: unknown key, did you mean \"listen\"?\n",
                             config, config) > 0);
        assert_string_equal(out, "");
        assert_string_equal(err, expected);
}

static void json_says_the_same(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        struct json_value *v, *p;

        (void)state;
        assert_int_equal(
                run("{\n  \"insecure\": 1, \"instances\": [{\"name\": \"a\", \"model\": \"none.gguf\"}]\n}",
                    CHECK_JSON, &out, &err),
                1);
        assert_string_equal(err, "");
        assert_int_equal(json_parse(out, strlen(out), &v, NULL), 0);
        assert_false(json_get_bool(v, "ok", true));
        assert_int_equal(json_get_int(v, "errors", 0), 1);
        assert_int_equal(json_get_int(v, "warnings", 0), 1);
        p = json_at(json_get(v, "problems"), 0);
        assert_string_equal(json_get_string(p, "file"), config);
        assert_int_equal(json_get_int(p, "line", 0), 2);
        assert_int_equal(json_get_int(p, "column", 0), 15);
        assert_string_equal(json_get_string(p, "key"), "insecure");
        assert_string_equal(json_get_string(p, "level"), "error");
        assert_string_equal(json_get_string(json_at(json_get(v, "problems"), 1), "level"), "warning");
        json_free(v);
}

static void the_effective_configuration_is_json(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        struct json_value *v;

        (void)state;
        assert_int_equal(run("{\"stop\": {\"grace\": \"2000ms\"}}", PRINT, &out, &err), 0);
        assert_int_equal(json_parse(out, strlen(out), &v, NULL), 0);
        assert_string_equal(json_get_string(json_get(v, "stop"), "grace"), "2s");
        json_free(v);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_good_file_is_ok),
                cmocka_unit_test(certificates_are_judged),
                cmocka_unit_test(a_bad_file_is_told_line_by_line),
                cmocka_unit_test(json_says_the_same),
                cmocka_unit_test(the_effective_configuration_is_json),
        };

        return cmocka_run_group_tests(tests, set_up, tear_down);
}
