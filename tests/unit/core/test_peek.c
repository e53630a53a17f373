/* test_peek.c: what is found in a body, what is refused and where, what the head of a conversation is, and edits. */
#include "core/peek.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/text.h"

static struct peek scan(const char *text)
{
        struct peek_error e = {0};
        struct peek p;

        if (peek_scan(slice_str(text), &p, &e) < 0)
                fail_msg("%s: %s at %zu", text, e.message, e.offset);
        return p;
}

static void keys_are_found(void **state)
{
        static const char text[] =
                " {\"messages\": [{\"role\":\"user\",\"content\":\"{\\\"model\\\":\\\"x\\\"}\"}],\n"
                "\"model\" : \"qwen\", \"stream\":true,\"n_discard\":0,\"x\":{\"model\":\"no\"},"
                "\"temperature\":-0.5e+3, \"tools\":[[],{}] , \"user\":null} \r\n";
        struct peek p = scan(text);
        char buf[16];
        uint64_t n = 7;

        (void)state;
        assert_int_equal(p.members, 8);
        assert_int_equal(peek_string(&p, PEEK_MODEL, buf, sizeof(buf)), 4);
        assert_string_equal(buf, "qwen");
        assert_true(slice_eq(peek_raw(&p, PEEK_MODEL), SLICE("\"qwen\"")));
        assert_int_equal(p.values[PEEK_STREAM].type, PEEK_TRUE);
        assert_int_equal(p.values[PEEK_MESSAGES].type, PEEK_ARRAY);
        assert_int_equal(p.values[PEEK_ENSEMBLE].type, PEEK_ABSENT);
        assert_int_equal(peek_raw(&p, PEEK_ENSEMBLE).n, 0);
        assert_int_equal(peek_uint(&p, PEEK_N_DISCARD, 10, &n), 0);
        assert_int_equal(n, 0);
        assert_int_equal(peek_uint(&p, PEEK_ENSEMBLE, 10, &n), -ENOENT);
        p = scan("{}");
        assert_int_equal(p.members, 0);
}

static void strings_are_decoded(void **state)
{
        static const struct {
                const char *text;
                int r;
                const char *value;
        } rows[] = {
                {"{\"model\":\"\"}", 0, ""},
                {"{\"mod\\u0065l\":\"a\"}", 1, "a"},
                {"{\"\\u006dodel\":\"q\\u0077en\"}", 4, "qwen"},
                {"{\"model\":\"a\\\"b\\\\\"}", 4, "a\"b\\"},
                {"{\"model\":\"\\ud83d\\ude00\"}", 4, "\xf0\x9f\x98\x80"},
                {"{\"model\":\"\xc3\xa4\"}", 2, "\xc3\xa4"},
                {"{}", -ENOENT, NULL},
                {"{\"model\":null}", -ENOENT, NULL},
                {"{\"model\":7}", -EINVAL, NULL},
                {"{\"model\":[\"a\"]}", -EINVAL, NULL},
                {"{\"model\":\"a\\u0000b\"}", -EINVAL, NULL},
                {"{\"model\":\"\\ud83d\"}", -EINVAL, NULL},
                {"{\"model\":\"\\q\"}", -EINVAL, NULL},
                {"{\"model\":\"12345678\"}", -ENOBUFS, NULL},
                {"{\"model\":\"1234567\"}", 7, "1234567"},
        };
        char buf[8];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct peek p = scan(rows[i].text);
                int r = peek_string(&p, PEEK_MODEL, buf, sizeof(buf));

                if (r != rows[i].r)
                        fail_msg("%s: %d", rows[i].text, r);
                if (r >= 0)
                        assert_string_equal(buf, rows[i].value);
        }
}

static void numbers_are_plain(void **state)
{
        static const struct {
                const char *value;
                int r;
        } rows[] = {
                {"0", 0},
                {"2147483647", 0},
                {"2147483648", -EINVAL},
                {"-1", -EINVAL},
                {"-0", -EINVAL},
                {"1.0", -EINVAL},
                {"1e3", -EINVAL},
                {"\"1\"", -EINVAL},
                {"true", -EINVAL},
                {"18446744073709551616", -EINVAL},
                {"4294967295", -EINVAL},
                {"null", -ENOENT},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_free_ char *text = text_format("{\"n_discard\":%s}", rows[i].value);
                struct peek p = scan(text);
                uint64_t n;
                int r = peek_uint(&p, PEEK_N_DISCARD, INT32_MAX, &n);

                if (r != rows[i].r)
                        fail_msg("%s: %d", rows[i].value, r);
        }
}

static void broken_bodies(void **state)
{
        static const struct {
                const char *text;
                size_t offset;
                const char *param;
        } rows[] = {
                {"", 0, NULL},
                {"   ", 3, NULL},
                {"[]", 0, NULL},
                {"\"a\"", 0, NULL},
                {"\xef\xbb\xbf{}", 0, NULL},
                {"{", 1, NULL},
                {"{]", 1, NULL},
                {"{}x", 2, NULL},
                {"{} {}", 3, NULL},
                {"{\"a\"}", 4, NULL},
                {"{\"a\":}", 5, NULL},
                {"{\"a\":1", 6, NULL},
                {"{\"a\":1,}", 7, NULL},
                {"{,\"a\":1}", 1, NULL},
                {"{\"a\":1 \"b\":2}", 7, NULL},
                {"{'a':1}", 1, NULL},
                {"{a:1}", 1, NULL},
                {"{\"a\":tru}", 5, NULL},
                {"{\"a\":truex}", 9, NULL},
                {"{\"a\":nul}", 5, NULL},
                {"{\"a\":NaN}", 5, NULL},
                {"{\"a\":01}", 7, NULL},
                {"{\"a\":+1}", 5, NULL},
                {"{\"a\":1.}", 7, NULL},
                {"{\"a\":1e}", 7, NULL},
                {"{\"a\":-}", 6, NULL},
                {"{\"a\":\"b}", 5, NULL},
                {"{\"a\":\"b\\\"}", 5, NULL},
                {"{\"a", 1, NULL},
                {"{\"a\":[1,2}", 9, NULL},
                {"{\"a\":{\"b\":1]}", 11, NULL},
                {"{\"a\":[{\"b\":[}]]}", 12, NULL},
                {"{\"a\":[\"]\"", 9, NULL},
                {"{\"a\":1}//", 7, NULL},
                {"{/**/\"a\":1}", 1, NULL},
                {"{\"\\q\":1}", 1, NULL},
                {"{\"model\":\"a\",\"model\":\"b\"}", 13, "model"},
                {"{\"model\":\"a\",\"mod\\u0065l\":\"b\"}", 13, "model"},
                {"{\"stream\":true, \"x\":1,\"stream\":false}", 22, "stream"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct peek_error e = {0};
                struct peek p;

                if (peek_scan(slice_str(rows[i].text), &p, &e) != -EBADMSG)
                        fail_msg("%s passed", rows[i].text);
                if (e.offset != rows[i].offset)
                        fail_msg("%s: %s at %zu, not %zu", rows[i].text, e.message, e.offset, rows[i].offset);
                assert_non_null(e.message);
                if (rows[i].param)
                        assert_string_equal(e.param, rows[i].param);
                else
                        assert_null(e.param);
        }
        /* A NUL is a byte like every other: it ends nothing. */
        {
                struct peek_error e = {0};
                struct peek p;

                assert_int_equal(peek_scan((struct slice){"{}\0", 3}, &p, &e), -EBADMSG);
                assert_int_equal(e.offset, 2);
                assert_int_equal(peek_scan((struct slice){"{\0}", 3}, &p, &e), -EBADMSG);
                assert_int_equal(e.offset, 1);
        }
}

static void depth_and_members_are_bounded(void **state)
{
        struct peek_error e;
        struct peek p;

        (void)state;
        for (unsigned depth = PEEK_DEPTH_MAX; depth <= PEEK_DEPTH_MAX + 1; depth++) {
                char text[2 * PEEK_DEPTH_MAX + 32] = "{\"a\":";
                size_t n = strlen(text);

                /* In turns, so that the wrong kind of bracket would be seen. */
                for (unsigned i = 0; i < depth; i++)
                        text[n++] = i % 3 ? '[' : '{';
                for (unsigned i = depth; i-- > 0;)
                        text[n++] = i % 3 ? ']' : '}';
                text[n++] = '}';
                assert_int_equal(peek_scan((struct slice){text, n}, &p, &e),
                                 depth > PEEK_DEPTH_MAX ? -EBADMSG : 0);
        }
        for (unsigned members = PEEK_MEMBERS_MAX; members <= PEEK_MEMBERS_MAX + 1; members++) {
                _cleanup_buffer_ struct buffer b = {0};

                buffer_init(&b, 0);
                for (unsigned i = 0; i < members; i++)
                        (void)buffer_printf(&b, "%c\"k%u\":%u", i ? ',' : '{', i, i);
                (void)buffer_putc(&b, '}');
                assert_int_equal(peek_scan((struct slice){b.data, b.len}, &p, &e),
                                 members > PEEK_MEMBERS_MAX ? -EBADMSG : 0);
        }
}

static uint64_t affinity(const char *text)
{
        struct peek p = scan(text);

        return peek_affinity(&p);
}

static void turns_of_a_conversation_are_alike(void **state)
{
#define SYSTEM "{\"role\":\"system\",\"content\":\"be brief\"}"
#define USER   "{\"content\":\"hello [\\\"world\\\"]\",\"role\":\"user\"}"
        uint64_t one = affinity("{\"model\":\"m\",\"messages\":[" SYSTEM "," USER "]}");

        (void)state;
        assert_int_not_equal(one, 0);
        assert_int_equal(one, affinity("{\"messages\":[ " SYSTEM "," USER
                                       ",{\"role\":\"assistant\",\"content\":\"hi\"},{\"role\":\"user\","
                                       "\"content\":\"more\"}],\"temperature\":1,\"model\":\"m\"}"));
        assert_int_not_equal(one, affinity("{\"model\":\"n\",\"messages\":[" SYSTEM "," USER "]}"));
        assert_int_not_equal(one, affinity("{\"model\":\"m\",\"messages\":[" USER "]}"));
        assert_int_not_equal(one, affinity("{\"model\":\"m\",\"messages\":[" SYSTEM
                                           ",{\"role\":\"user\",\"content\":\"other\"}]}"));
        /* Without a system message the first turn has one message, the second has three. */
        assert_int_equal(
                affinity("{\"messages\":[" USER "]}"),
                affinity("{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"x\"}," USER "]}"));
        /* Anthropic's and the newer OpenAI form keep the system text beside the messages. */
        assert_int_not_equal(affinity("{\"system\":\"a\",\"messages\":[" USER "]}"),
                             affinity("{\"system\":\"b\",\"messages\":[" USER "]}"));
        assert_int_not_equal(affinity("{\"instructions\":\"a\",\"input\":\"x\"}"),
                             affinity("{\"instructions\":\"b\",\"input\":\"x\"}"));
        assert_int_equal(affinity("{\"model\":\"m\"}"), 0);
        assert_int_equal(affinity("{\"messages\":7}"), 0);
        assert_int_equal(affinity("{\"messages\":[]}"), 0);
        /* Nobody of the user among them: the first one alone. */
        assert_int_equal(affinity("{\"messages\":[" SYSTEM "]}"),
                         affinity("{\"messages\":[" SYSTEM ",{\"role\":\"assistant\"}]}"));
#undef SYSTEM
#undef USER
}

static void prompts_are_alike_by_their_beginning(void **state)
{
        char a[1024], b[1024];

        (void)state;
        (void)snprintf(a, sizeof(a), "{\"prompt\":\"%0300d tail\"}", 1);
        (void)snprintf(b, sizeof(b), "{\"prompt\":\"%0300d and another tail\"}", 1);
        assert_int_equal(affinity(a), affinity(b));
        assert_int_not_equal(affinity("{\"prompt\":\"ab\"}"), affinity("{\"prompt\":\"ac\"}"));
        assert_int_not_equal(affinity("{\"input_prefix\":\"ab\"}"), affinity("{\"input_prefix\":\"ac\"}"));
}

static char *join(const struct peek_pieces *pieces)
{
        char *all = calloc(1, pieces->len + 1), *at = all;

        assert_non_null(all);
        for (unsigned i = 0; i < pieces->n; i++)
                at = mempcpy(at, pieces->iov[i].iov_base, pieces->iov[i].iov_len);
        assert_int_equal(at - all, pieces->len);
        return all;
}

static void edits(void **state)
{
        static char *none[] = {NULL}, *temp[] = {"temperature", "top_p", NULL}, *a_and_c[] = {"a", "c", NULL};
        static const struct {
                const char *text;
                unsigned drop;
                char **strip;
                const char *set, *result;
        } rows[] = {
                {"{\"a\":1}", 0, NULL, NULL, "{\"a\":1}"},
                {" { \"a\":1 } ", PEEK_BIT(PEEK_ENSEMBLE), none, NULL, " { \"a\":1 } "},
                {"{\"ensemble\":{\"n\":3}}", PEEK_BIT(PEEK_ENSEMBLE), NULL, NULL, "{}"},
                {"{\"a\":1,\"ensemble\":{\"n\":3}}", PEEK_BIT(PEEK_ENSEMBLE), NULL, NULL, "{\"a\":1}"},
                {"{\"ensemble\":{\"n\":3}, \"a\":1}", PEEK_BIT(PEEK_ENSEMBLE), NULL, NULL, "{\"a\":1}"},
                {"{\"a\":1,\"ensemble\":{\"n\":3} ,\"b\" : 2, \"c\":3}", PEEK_BIT(PEEK_ENSEMBLE), NULL, NULL,
                 "{\"a\":1,\"b\" : 2, \"c\":3}"},
                {"{\"keep\\u005falive\":1,\"b\":2,\"priority\":\"low\"}",
                 PEEK_BIT(PEEK_KEEP_ALIVE) | PEEK_BIT(PEEK_PRIORITY), NULL, NULL, "{\"b\":2}"},
                {"{\"temperature\":1,\"b\":2,\"top_p\":3,\"temp\\u0065rature\":4}", 0, temp, NULL,
                 "{\"b\":2}"},
                {"{\"a\":1,\"b\":2,\"c\":3,\"d\":4}", 0, a_and_c, NULL, "{\"b\":2,\"d\":4}"},
                {"{\"b\":2}", 0, NULL, "{\"temperature\":0.1}", "{\"temperature\":0.1,\"b\":2}"},
                {"{}", 0, NULL, " { \"temperature\" : 0.1 , \"x\":[1] } ",
                 "{\"temperature\" : 0.1 , \"x\":[1]}"},
                {"{\"b\":2,\"x\":7}", 0, NULL, "{\"\\u0078\":1}", "{\"\\u0078\":1,\"b\":2}"},
                {"{\"b\":2}", 0, NULL, "{}", "{\"b\":2}"},
                {"{\"a\":0,\"b\":2}", 0, a_and_c, "{\"a\":5}", "{\"a\":5,\"b\":2}"},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const struct peek_edit edit = {rows[i].drop, rows[i].strip, rows[i].set};
                struct peek p = scan(rows[i].text);
                struct peek_pieces pieces;
                _cleanup_free_ char *all = NULL;

                assert_int_equal(peek_splice(&p, &edit, &pieces), 0);
                all = join(&pieces);
                if (!streq(all, rows[i].result))
                        fail_msg("%s became %s, not %s", rows[i].text, all, rows[i].result);
                peek_pieces_finish(&pieces);
        }
        {
                const struct peek_edit bad = {.set = "[]"};
                struct peek p = scan("{}");
                struct peek_pieces pieces;

                assert_int_equal(peek_splice(&p, &bad, &pieces), -EBADMSG);
        }
}

static void many_pieces_become_one(void **state)
{
        static char *strip[] = {"x", NULL};
        const struct peek_edit edit = {.strip = strip};
        _cleanup_buffer_ struct buffer b = {0};
        struct peek_pieces pieces;
        _cleanup_free_ char *all = NULL;
        struct peek p;

        (void)state;
        buffer_init(&b, 0);
        for (unsigned i = 0; i < 300; i++)
                (void)buffer_printf(&b, "%c\"x\":0,\"k%u\":%u", i ? ',' : '{', i, i);
        (void)buffer_putc(&b, '}');
        p = scan(b.data);
        assert_int_equal(peek_splice(&p, &edit, &pieces), 0);
        assert_int_equal(pieces.n, 1);
        all = join(&pieces);
        assert_int_equal(json_check(all, pieces.len, NULL), 0);
        assert_null(strstr(all, "\"x\""));
        assert_non_null(strstr(all, "\"k299\":299}"));
        peek_pieces_finish(&pieces);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(keys_are_found),
                cmocka_unit_test(strings_are_decoded),
                cmocka_unit_test(numbers_are_plain),
                cmocka_unit_test(broken_bodies),
                cmocka_unit_test(depth_and_members_are_bounded),
                cmocka_unit_test(turns_of_a_conversation_are_alike),
                cmocka_unit_test(prompts_are_alike_by_their_beginning),
                cmocka_unit_test(edits),
                cmocka_unit_test(many_pieces_become_one),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
