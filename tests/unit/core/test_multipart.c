/* test_multipart.c: boundaries, parts, and every way in which a form may be broken. */
#include "core/multipart.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/buffer.h"

static void boundaries(void **state)
{
        static const struct {
                const char *type;
                int r;
                const char *boundary;
        } rows[] = {
                {"multipart/form-data; boundary=abc", 0, "abc"},
                {"Multipart/Form-Data;charset=utf-8;Boundary=\"a b'c\"", 0, "a b'c"},
                {"multipart/form-data ; boundary=----WebKitFormBoundary7MA4YWxk ", 0,
                 "----WebKitFormBoundary7MA4YWxk"},
                {"application/json", -ENOENT, NULL},
                {"multipart/mixed; boundary=abc", -ENOENT, NULL},
                {"", -ENOENT, NULL},
                {"multipart/form-data", -EINVAL, NULL},
                {"multipart/form-data; boundary=", -EINVAL, NULL},
                {"multipart/form-data; boundary=\"\"", -EINVAL, NULL},
                {"multipart/form-data; boundary=\"a", -EINVAL, NULL},
                {"multipart/form-data; boundary=\"a \"", -EINVAL, NULL},
                {"multipart/form-data; boundary=\"a\\b\"", -EINVAL, NULL},
                {"multipart/form-data; boundary=\"a\x80\"", -EINVAL, NULL},
                {"multipart/form-data; boundary=a; boundary=b", -EINVAL, NULL},
                {"multipart/form-data; boundary=a b", -EINVAL, NULL},
                {"multipart/form-data, boundary=a", -ENOENT, NULL},
                {"multipart/form-data; "
                 "boundary=0123456789012345678901234567890123456789012345678901234567890123456789",
                 0, "0123456789012345678901234567890123456789012345678901234567890123456789"},
                {"multipart/form-data; "
                 "boundary=01234567890123456789012345678901234567890123456789012345678901234567890",
                 -EINVAL, NULL},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct slice boundary;
                int r = multipart_boundary(slice_str(rows[i].type), &boundary);

                if (r != rows[i].r || (r == 0 && !slice_eq_str(boundary, rows[i].boundary)))
                        fail_msg("%s: %d", rows[i].type, r);
        }
}

#define MODEL(name) "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n" name "\r\n"

static void parts(void **state)
{
        static const char form[] =
                MODEL("whisper") "--b\r\ncontent-type: audio/wav\r\nContent-DISPOSITION: form-data; "
                                 "filename=\"a\\\";name=\\\"x.wav\"; "
                                 "name=file\r\n\r\n--bRIFF\r\n--\r\n\0\r\n-b\r\n"
                                 "--b\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--b--\r\n";
        struct multipart m;
        struct multipart_part part;

        (void)state;
        multipart_init(&m, (struct slice){form, sizeof(form) - 1}, SLICE("b"));
        assert_int_equal(multipart_next(&m, &part), 1);
        assert_true(slice_eq_str(part.name, "model"));
        assert_true(slice_eq_str(part.data, "whisper"));
        assert_false(part.is_file);
        assert_int_equal(multipart_next(&m, &part), 1);
        assert_true(slice_eq_str(part.name, "file"));
        assert_true(part.is_file);
        assert_true(slice_eq(part.data, SLICE("--bRIFF\r\n--\r\n\0\r\n-b")));
        assert_int_equal(multipart_next(&m, &part), 1);
        assert_true(slice_eq_str(part.name, "empty"));
        assert_int_equal(part.data.n, 0);
        assert_int_equal(multipart_next(&m, &part), 0);
        assert_int_equal(multipart_next(&m, &part), 0);
        multipart_init(&m, SLICE("--b--"), SLICE("b"));
        assert_int_equal(multipart_next(&m, &part), 0);
}

static int count(const char *body, size_t len)
{
        struct multipart m;
        struct multipart_part part;
        int n = 0, r;

        multipart_init(&m, (struct slice){body, len}, SLICE("b"));
        while ((r = multipart_next(&m, &part)) > 0)
                n++;
        if (r < 0) {
                assert_non_null(m.error);
                assert_int_equal(multipart_next(&m, &part), -EBADMSG);
        }
        return r < 0 ? r : n;
}

static void broken_forms(void **state)
{
        static const char *const rows[] = {
                "",
                "--b",
                "--b\r\n",
                "--b-",
                " " MODEL("x") "--b--",
                "\r\n" MODEL("x") "--b--",
                MODEL("x"),
                MODEL("x") "--b",
                MODEL("x") "--b-",
                MODEL("x") "--b--x",
                MODEL("x") "--b--\r\nepilogue",
                MODEL("x") "--bb--",
                MODEL("x") "--b \r\n",
                "--b\nContent-Disposition: form-data; name=a\n\nx\n--b--",
                "--b\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; filename=x\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\nx\r\n--b--",
                ("--b\r\nContent-Disposition: form-data; name=a\r\nContent-Disposition: form-data; "
                 "name=b\r\n\r\nx\r\n--b--"),
                "--b\r\nContent-Disposition: form-data; name=\"a\\\"b\"\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; name=\"a\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; name*=utf-8''a\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data name=a\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition : form-data; name=a\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; name=a\r\n folded\r\n\r\nx\r\n--b--",
                "--b\r\nContent-Disposition: form-data; name=a\x01\r\n\r\nx\r\n--b--",
        };
        _cleanup_buffer_ struct buffer b = {0};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (count(rows[i], strlen(rows[i])) != -EBADMSG)
                        fail_msg("passed: %s", rows[i]);
        buffer_init(&b, 0);
        for (unsigned n = 0; n <= MULTIPART_PARTS_MAX; n++) {
                (void)buffer_puts(&b, MODEL("x"));
                if (n + 1 >= MULTIPART_PARTS_MAX) {
                        (void)buffer_puts(&b, "--b--");
                        assert_int_equal(count(b.data, b.len),
                                         n == MULTIPART_PARTS_MAX ? -EBADMSG : (int)n + 1);
                        b.len -= 5;
                }
        }
        buffer_clear(&b);
        (void)buffer_puts(&b, "--b\r\nX: ");
        for (unsigned i = 0; i < MULTIPART_HEAD_MAX; i++)
                (void)buffer_putc(&b, 'x');
        (void)buffer_puts(&b, "\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--b--");
        assert_int_equal(count(b.data, b.len), -EBADMSG);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(boundaries),
                cmocka_unit_test(parts),
                cmocka_unit_test(broken_forms),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
