/* test_keys.c: the keys file, strictly; whose a key is; rates. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/macros.h"
#include "core/config.h"
#include "core/keys.h"

#define ABC  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of "abc" */
#define NONE "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of "" */

static struct keys *load(const char *text)
{
        struct keys_problem problem;
        struct keys *k = NULL;

        if (keys_load(text, strlen(text), &k, &problem) < 0)
                fail_msg("%u:%u: %s", problem.line, problem.column, problem.message);
        return k;
}

static void a_file_is_read_and_written_again(void **state)
{
        struct keys *k =
                load("{\"keys\": [\n"
                     "  {\"name\":\"web\",\"sha256\":\"" ABC
                     "\",\"scopes\":[\"read\",\"infer\"],\"priority\":\"high\",\"rate\":60,"
                     "\"concurrency\":4,\"created\":\"2026-11-20T10:00:00Z\"},\n"
                     "  {\"name\":\"old\",\"sha256\":\"" NONE
                     "\",\"scopes\":[\"admin\"],\"priority\":\"normal\",\"rate\":0,\"concurrency\":0,"
                     "\"created\":\"2026-11-20T10:00:00Z\",\"revoked\":\"2026-11-21T10:00:00Z\"}\n"
                     "]}\n");
        struct buffer out = {0};
        char scopes[24];

        (void)state;
        assert_int_equal(k->count, 2);
        assert_string_equal(k->list[0].name, "web");
        assert_string_equal(key_scopes_text(k->list[0].scopes, scopes, sizeof(scopes)), "read,infer");
        assert_int_equal(k->list[0].priority, KEY_PRIORITY_HIGH);
        assert_int_equal(k->list[0].rate, 60);
        assert_int_equal(k->list[0].concurrency, 4);
        assert_int_equal(k->list[1].line, 3);
        assert_int_equal(keys_in_force(k), 1);
        assert_ptr_equal(keys_by_name(k, "web"), k->list);
        assert_null(keys_by_name(k, "old"));
        buffer_init(&out, 0);
        keys_put(k, &out);
        keys_free(k);
        k = load(out.data);
        assert_int_equal(k->count, 2);
        assert_non_null(strstr(out.data, "\n  {\"name\":\"old\""));
        assert_string_equal(k->list[1].revoked, "2026-11-21T10:00:00Z");
        assert_string_equal(k->list[0].created, "2026-11-20T10:00:00Z");
        assert_int_equal(k->list[0].rate, 60);
        buffer_finish(&out);
        keys_free(k);
}

static void the_least_is_name_hash_and_scopes(void **state)
{
        struct keys *k = load("{\"keys\":[{\"name\":\"a\",\"sha256\":\"" ABC "\",\"scopes\":[\"infer\"]}]}");

        (void)state;
        assert_int_equal(k->list[0].priority, KEY_PRIORITY_NORMAL);
        assert_int_equal(k->list[0].rate, 0);
        assert_string_equal(k->list[0].created, "");
        keys_free(k);
        k = load("{\"keys\": []}");
        assert_int_equal(k->count, 0);
        keys_free(k);
}

#define KEY(more) "{\"keys\": [\n {\"name\":\"a\",\"sha256\":\"" ABC "\",\"scopes\":[\"read\"]" more "}\n]}"

static void what_is_wrong_is_told_with_its_place(void **state)
{
        static const struct {
                const char *text;
                unsigned line, column;
                const char *says;
        } cases[] = {
                {"", 1, 1, ""},
                {"[]", 1, 1, "one object"},
                {"{}", 1, 1, "one object"},
                {"{\"keys\": {}}", 1, 1, "one object"},
                {"{\"keyz\": []}", 1, 1, "one object"},
                {"{\"keys\": [], \"x\": 1}", 1, 1, "one object"},
                {"{\"keys\": [1]}", 1, 11, "a key is an object"},
                {"{\"keys\": [], // no\n}", 1, 14, ""},
                {"{\"keys\":[\n{\"sha256\":\"" ABC "\",\"scopes\":[\"read\"]}]}", 2, 1, "no \"name\""},
                {"{\"keys\":[{\"name\":\"a\",\"scopes\":[\"read\"]}]}", 1, 10, "no \"sha256\""},
                {"{\"keys\":[{\"name\":\"a\",\"sha256\":\"" ABC "\"}]}", 1, 10, "no \"scopes\""},
                {"{\"keys\":[{\"name\":\"\"}]}", 1, 18, "name is"},
                {"{\"keys\":[{\"name\":\"a b\"}]}", 1, 18, "name is"},
                {"{\"keys\":[{\"name\":7}]}", 1, 18, "a string"},
                {"{\"keys\":[{\"name\":\"a\\u0000b\"}]}", 1, 18, "NUL"},
                {"{\"keys\":[{\"sha256\":\"abc\"}]}", 1, 20, "64 hexadecimal"},
                {"{\"keys\":[{\"sha256\":\"lsv_x\"}]}", 1, 20, "not the key itself"},
                {"{\"keys\":[{\"scopes\":[]}]}", 1, 20, "one at least"},
                {"{\"keys\":[{\"scopes\":\"read\"}]}", 1, 20, "one at least"},
                {"{\"keys\":[{\"scopes\":[\"read\", \"root\"]}]}", 1, 29, "a scope is"},
                {KEY(",\"rate\":-1"), 2, 115, "rate"},
                {KEY(",\"rate\":1.5"), 2, 115, "rate"},
                {KEY(",\"rate\":\"1\""), 2, 115, "rate"},
                {KEY(",\"rate\":1000001"), 2, 115, "to 1000000"},
                {KEY(",\"rate\":99999999999999999999"), 2, 115, "rate"},
                {KEY(",\"concurrency\":1e3"), 2, 122, "concurrency"},
                {KEY(",\"priority\":\"urgent\""), 2, 119, "\"low\""},
                {KEY(",\"created\":\"yesterday\""), 2, 118, "a time"},
                {KEY(",\"revoked\":true"), 2, 118, "a string"},
                {KEY(",\"revoked\":\"\""), 2, 118, "a time"},
                {KEY(",\"prioritie\":\"low\""), 2, 108, "did you mean \"priority\""},
                {KEY(",\"name\":\"b\""), 2, 108, "duplicate"},
                {"{\"keys\":[{\"name\":\"a\",\"sha256\":\"" ABC "\",\"scopes\":[\"read\"]},\n{\"name\":\"a\","
                 "\"sha256\":\"" NONE "\",\"scopes\":[\"read\"]}]}",
                 2, 1, "a key \"a\" already, in line 1"},
                {"{\"keys\":[{\"name\":\"a\",\"sha256\":\"" ABC "\",\"scopes\":[\"read\"]},\n{\"name\":\"b\","
                 "\"sha256\":\"" ABC "\",\"scopes\":[\"read\"]}]}",
                 2, 1, "the same key as \"a\""},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct keys_problem p;
                struct keys *k = NULL;
                int r = keys_load(cases[i].text, strlen(cases[i].text), &k, &p);

                if (r != -EBADMSG || p.line != cases[i].line || p.column != cases[i].column ||
                    !strstr(p.message, cases[i].says) || !*p.message)
                        fail_msg("case %zu: %d %u:%u: %s\n%s", i, r, p.line, p.column, p.message,
                                 cases[i].text);
        }
}

static void a_key_is_found_by_its_text(void **state)
{
        struct keys *k = load("{\"keys\":[{\"name\":\"a\",\"sha256\":\"" ABC "\",\"scopes\":[\"infer\"]},"
                              "{\"name\":\"b\",\"sha256\":\"" NONE "\",\"scopes\":[\"infer\"]}]}");
        const struct key *key = NULL;

        (void)state;
        assert_int_equal(keys_find(k, SLICE("abc"), &key), 0);
        assert_string_equal(key->name, "a");
        assert_int_equal(keys_find(k, SLICE("abd"), &key), -ENOKEY);
        assert_int_equal(keys_find(k, SLICE("ab"), &key), -ENOKEY);
        assert_int_equal(keys_revoke(k, "a", "2026-11-21T10:00:00Z"), 0);
        assert_int_equal(keys_find(k, SLICE("abc"), &key), -EKEYREVOKED);
        assert_int_equal(keys_revoke(k, "a", "2026-11-21T10:00:00Z"), -EALREADY);
        assert_int_equal(keys_revoke(k, "c", "2026-11-21T10:00:00Z"), -ENOENT);
        keys_free(k);
}

static void adding_keeps_names_unique(void **state)
{
        struct key key = {.name = (char *)"web", .scopes = CONFIG_SCOPE_INFER, .created = (char *)"2026"};
        struct keys *k;

        (void)state;
        assert_int_equal(keys_new(&k), 0);
        assert_int_equal(keys_add(k, &key), 0);
        assert_int_equal(keys_add(k, &key), -EEXIST);
        assert_int_equal(keys_revoke(k, "web", "2026"), 0);
        key.hash[0] = 1;
        assert_int_equal(keys_add(k, &key), 0); /* the name is free again */
        assert_int_equal(keys_in_force(k), 1);
        /* Revoking takes the one in force. */
        assert_int_equal(keys_revoke(k, "web", "2027"), 0);
        assert_string_equal(k->list[0].revoked, "2026");
        assert_string_equal(k->list[1].revoked, "2027");
        while (k->count < KEYS_MAX) {
                key.revoked = (char *)"2026";
                assert_int_equal(keys_add(k, &key), 0);
        }
        assert_int_equal(keys_add(k, &key), -E2BIG);
        keys_free(k);
}

static void a_key_has_a_form(void **state)
{
        unsigned char random[KEY_RANDOM_SIZE] = {0xff, 0xfe};
        char text[KEY_TEXT_SIZE], longer[KEY_TEXT_SIZE + 1];

        (void)state;
        assert_string_equal(key_text(random, text), "lsv___4AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert_true(key_is_text(slice_str(text)));
        (void)snprintf(longer, sizeof(longer), "%sA", text);
        assert_false(key_is_text(slice_str(longer)));
        assert_false(key_is_text(SLICE("lsv_")));
        text[0] = 'L';
        assert_false(key_is_text(slice_str(text)));
}

static void words_are_read_and_written(void **state)
{
        enum key_priority p;
        unsigned scopes;
        char buf[24];

        (void)state;
        assert_int_equal(key_scopes_parse("admin,read", &scopes), 0);
        assert_string_equal(key_scopes_text(scopes, buf, sizeof(buf)), "read,admin");
        assert_int_equal(key_scopes_parse("", &scopes), -EINVAL);
        assert_int_equal(key_scopes_parse("read,", &scopes), -EINVAL);
        assert_int_equal(key_scopes_parse("reads", &scopes), -EINVAL);
        assert_int_equal(key_priority_parse("low", &p), 0);
        assert_int_equal(p, KEY_PRIORITY_LOW);
        assert_int_equal(key_priority_parse("lo", &p), -EINVAL);
}

static void a_bucket_gives_its_rate(void **state)
{
        struct token_bucket b = {0};
        usec_t now = USEC_PER_HOUR, wait;
        unsigned taken = 0;

        (void)state;
        for (int i = 0; i < 1000; i++)
                assert_int_equal(token_bucket_take(&b, 0, now), 0);
        /* A full bucket of 60, then one a second. */
        while (token_bucket_take(&b, 60, now) == 0)
                taken++;
        assert_int_equal(taken, 60);
        wait = token_bucket_take(&b, 60, now);
        assert_int_equal(wait, USEC_PER_SEC);
        assert_int_equal(token_bucket_take(&b, 60, now + USEC_PER_SEC / 2), USEC_PER_SEC / 2);
        assert_int_equal(token_bucket_take(&b, 60, now + wait), 0);
        assert_int_not_equal(token_bucket_take(&b, 60, now + wait), 0);
        /* In ten minutes: what was in it, and ten times sixty. */
        taken = 0;
        for (usec_t t = now + wait; t <= now + 10 * USEC_PER_MIN; t += 100 * USEC_PER_MSEC)
                taken += token_bucket_take(&b, 60, t) == 0;
        assert_in_range(taken, 598, 600);
        /* Idle for long: full, not more. */
        now += USEC_PER_HOUR;
        taken = 0;
        while (token_bucket_take(&b, 60, now) == 0)
                taken++;
        assert_int_equal(taken, 60);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_file_is_read_and_written_again),
                cmocka_unit_test(the_least_is_name_hash_and_scopes),
                cmocka_unit_test(what_is_wrong_is_told_with_its_place),
                cmocka_unit_test(a_key_is_found_by_its_text),
                cmocka_unit_test(adding_keeps_names_unique),
                cmocka_unit_test(a_key_has_a_form),
                cmocka_unit_test(words_are_read_and_written),
                cmocka_unit_test(a_bucket_gives_its_rate),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
