/* test_auth.c: who is calling: headers, sub-protocols and URLs against a keys file; accounts over reloads; rate and concurrency. */
#include "http/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/text.h"

/* Keys are any text to the program; the hashes below are of these. */
#define WEB "lsv_web"
#define OPS "lsv_ops"
#define OLD "lsv_old"

struct world {
        struct loop *loop;
        struct auth *auth;
        struct config config;
        char dir[64], path[96];
        uint64_t revoked[16];
        unsigned n_revoked;
        char event[512];
        struct timer *limit;
};

static char *hash_of(const char *key, char hex[SECRET_HEX_SIZE])
{
        unsigned char hash[SECRET_HASH_SIZE];

        assert_int_equal(secret_sha256(key, strlen(key), hash), 0);
        return secret_hex(hash, hex);
}

/* Replaced as the CLI does it. */
static void write_keys(struct world *w, const char *text, mode_t mode)
{
        char new[128];
        int fd;

        (void)snprintf(new, sizeof(new), "%s.new", w->path);
        fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        assert_int_equal(fchmod(fd, mode), 0);
        assert_int_equal(close(fd), 0);
        assert_int_equal(rename(new, w->path), 0);
}

static void write_usual(struct world *w, const char *web_scopes, const char *web_more)
{
        char web[SECRET_HEX_SIZE], ops[SECRET_HEX_SIZE], old[SECRET_HEX_SIZE];
        _cleanup_free_ char *text = text_format(
                "{\"keys\": [{\"name\":\"web\",\"sha256\":\"%s\",\"scopes\":[%s]%s},"
                "{\"name\":\"ops\",\"sha256\":\"%s\",\"scopes\":[\"admin\"],\"priority\":\"high\"},"
                "{\"name\":\"old\",\"sha256\":\"%s\",\"scopes\":[\"read\"],\"revoked\":\"2026-11-21T00:00:"
                "00Z\"}]}",
                hash_of(WEB, web), web_scopes, web_more, hash_of(OPS, ops), hash_of(OLD, old));

        write_keys(w, text, 0600);
}

static void on_revoked(void *owner, uint64_t mark)
{
        struct world *w = owner;

        assert_true(w->n_revoked < ARRAY_SIZE(w->revoked));
        w->revoked[w->n_revoked++] = mark;
}

static void on_event(void *owner, const char *kind, const char *text)
{
        struct world *w = owner;

        (void)snprintf(w->event, sizeof(w->event), "%s: %s", kind, text);
        loop_stop(w->loop);
}

static void on_limit(void *owner, usec_t now)
{
        struct world *w = owner;

        (void)now;
        fail_msg("nothing happened to %s", w->path);
}

static struct world *setup(void)
{
        static const struct auth_events events = {.on_revoked = on_revoked, .on_event = on_event};
        struct world *w = calloc(1, sizeof(*w));
        _cleanup_free_ char *error = NULL;

        assert_non_null(w);
        strcpy(w->dir, "/tmp/lsv-auth-XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        (void)snprintf(w->path, sizeof(w->path), "%s/keys.json", w->dir);
        write_usual(w, "\"read\",\"infer\"", "");
        w->config.auth_keys_file = w->path;
        w->config.auth_anonymous = CONFIG_SCOPE_READ;
        assert_int_equal(loop_new(&w->loop), 0);
        assert_int_equal(auth_new(w->loop, &events, w, &w->auth), 0);
        if (auth_apply(w->auth, &w->config, &error) < 0)
                fail_msg("%s", error);
        assert_int_equal(timer_new(w->loop, on_limit, w, &w->limit), 0);
        return w;
}

static void teardown(struct world *w)
{
        timer_free(w->limit);
        w->auth = auth_free(w->auth);
        loop_free(w->loop);
        (void)unlink(w->path);
        assert_int_equal(rmdir(w->dir), 0);
        free(w);
}

/* Until the file that was changed has been read again. */
static void wait_for_event(struct world *w, const char *begins)
{
        w->event[0] = '\0';
        timer_set(w->limit, loop_now(w->loop) + 60 * USEC_PER_SEC);
        loop_run(w->loop);
        timer_set(w->limit, USEC_INFINITY);
        if (!starts_with(w->event, begins))
                fail_msg("%s", w->event);
}

static enum auth_verdict ask(struct world *w, const char *target, const char *headers, bool needs_key,
                             struct caller *ret)
{
        _cleanup_free_ char *text = text_format("GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", target, headers);
        struct http1_request head;
        struct http1_parser parser;

        http1_parser_init(&parser);
        assert_true(http1_request_parse(&parser, text, strlen(text), NULL, &head) > 0);
        return auth_identify(w->auth, &head, needs_key, w->config.auth_anonymous, ret);
}

static void expect(struct world *w, const char *headers, enum auth_verdict verdict, const char *name)
{
        struct caller c;
        enum auth_verdict v = ask(w, "/v1/models", headers, false, &c);

        if (v != verdict || !streq_ptr(c.name, name))
                fail_msg("%s: %s, %s", headers, auth_verdict_name(v), c.name ? c.name : "nobody");
        if (v != AUTH_PASS)
                assert_int_equal(c.scopes, 0);
}

#define UPGRADE                                                                                              \
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"                         \
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

static void keys_come_in_three_ways(void **state)
{
        struct world *w = setup();
        struct caller c;

        (void)state;
        expect(w, "Authorization: Bearer " WEB "\r\n", AUTH_PASS, "web");
        expect(w, "authorization: bEARER   " WEB "  \r\n", AUTH_PASS, "web");
        expect(w, "x-api-key: " WEB "\r\n", AUTH_PASS, "web");
        expect(w, "X-Api-Key: " OPS "\r\n", AUTH_PASS, "ops");
        expect(w, "Authorization: Bearer " WEB "\r\nx-api-key: " WEB "\r\n", AUTH_PASS, "web");
        /* base64url of lsv_web */
        expect(w, UPGRADE "Sec-WebSocket-Protocol: llama-status, key.bHN2X3dlYg\r\n", AUTH_PASS, "web");
        expect(w,
               UPGRADE "Sec-WebSocket-Protocol: llama-status\r\nSec-WebSocket-Protocol: key.bHN2X3dlYg\r\n",
               AUTH_PASS, "web");
        /* Without an upgrade it means nothing. */
        expect(w, "Sec-WebSocket-Protocol: key.bHN2X3dlYg\r\n", AUTH_PASS, NULL);
        assert_int_equal(ask(w, "/", "x-api-key: " OPS "\r\n", true, &c), AUTH_PASS);
        assert_int_equal(c.scopes, CONFIG_SCOPE_ADMIN);
        assert_int_equal(c.priority, KEY_PRIORITY_HIGH);
        assert_true(caller_may(&c, CONFIG_SCOPE_ADMIN));
        assert_false(caller_may(&c, CONFIG_SCOPE_READ));
        teardown(w);
}

static void without_a_key(void **state)
{
        struct world *w = setup();
        struct caller c;

        (void)state;
        assert_int_equal(ask(w, "/", "", false, &c), AUTH_PASS);
        assert_int_equal(c.scopes, CONFIG_SCOPE_READ);
        assert_null(c.name);
        assert_int_equal(ask(w, "/", "", true, &c), AUTH_MISSING);
        assert_int_equal(c.scopes, 0);
        /* An empty one is none. */
        assert_int_equal(ask(w, "/", "x-api-key:\r\nAuthorization: Bearer \r\n", true, &c), AUTH_MISSING);
        auth_control(&c);
        assert_true(caller_may(&c, CONFIG_SCOPE_ADMIN) && caller_may(&c, CONFIG_SCOPE_READ));
        assert_int_equal(caller_mark(&c, CONFIG_SCOPE_READ), 0);
        teardown(w);
}

static void wrong_ones_are_refused(void **state)
{
        struct world *w = setup();

        (void)state;
        expect(w, "x-api-key: lsv_wec\r\n", AUTH_WRONG, NULL);
        expect(w, "x-api-key: lsv_we\r\n", AUTH_WRONG, NULL);
        expect(w, "x-api-key: " OLD "\r\n", AUTH_REVOKED, NULL);
        expect(w, "Authorization: Basic dTpw\r\n", AUTH_WRONG, NULL);
        expect(w, "Authorization: " WEB "\r\n", AUTH_WRONG, NULL);
        expect(w, "Authorization: Bearer " WEB " " WEB "\r\n", AUTH_WRONG, NULL);
        expect(w, "Authorization: Bearer " WEB "\r\nAuthorization: Bearer " WEB "\r\n", AUTH_AMBIGUOUS, NULL);
        expect(w, "x-api-key: " WEB "\r\nX-API-Key: " WEB "\r\n", AUTH_AMBIGUOUS, NULL);
        expect(w, "Authorization: Bearer " WEB "\r\nx-api-key: " OPS "\r\n", AUTH_AMBIGUOUS, NULL);
        expect(w, UPGRADE "Sec-WebSocket-Protocol: key.bHN2X3dlYg, key.bHN2X3dlYg\r\n", AUTH_AMBIGUOUS, NULL);
        expect(w, UPGRADE "x-api-key: " OPS "\r\nSec-WebSocket-Protocol: key.bHN2X3dlYg\r\n", AUTH_AMBIGUOUS,
               NULL);
        expect(w, UPGRADE "Sec-WebSocket-Protocol: key.bHN2X3dlYh\r\n", AUTH_WRONG, NULL);
        expect(w, UPGRADE "Sec-WebSocket-Protocol: key.\r\n", AUTH_WRONG, NULL);
        expect(w, UPGRADE "Sec-WebSocket-Protocol: key.lsv_web\r\n", AUTH_WRONG, NULL);
        teardown(w);
}

static void no_key_belongs_into_a_url(void **state)
{
        static const char *const bad[] = {"/ws?key=" WEB, "/ws?instance=a&token=x",
                                          "/?API_KEY=", "/?access_token", "/?x=" WEB};
        struct world *w = setup();
        struct caller c;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_int_equal(ask(w, bad[i], "x-api-key: " WEB "\r\n", false, &c), AUTH_IN_URL);
        assert_int_equal(ask(w, "/?instance=key&keys=1", "x-api-key: " WEB "\r\n", false, &c), AUTH_PASS);
        teardown(w);
}

static void without_a_keys_file_keys_mean_nothing(void **state)
{
        struct world *w = setup();
        char *error;

        (void)state;
        w->config.auth_keys_file = NULL;
        assert_int_equal(auth_apply(w->auth, &w->config, &error), 0);
        expect(w, "Authorization: Bearer sk-no-key-required\r\nx-api-key: other\r\n", AUTH_PASS, NULL);
        assert_int_equal(auth_keys_in_force(w->auth), 0);
        teardown(w);
}

static void a_changed_file_is_read_again(void **state)
{
        struct world *w = setup();
        struct caller before, after, c;

        (void)state;
        assert_int_equal(ask(w, "/", "x-api-key: " WEB "\r\n", false, &before), AUTH_PASS);
        /* It loses one scope: what needs that one ends. */
        write_usual(w, "\"read\"", "");
        wait_for_event(w, "keys: ");
        assert_int_equal(w->n_revoked, 1);
        assert_int_equal(w->revoked[0], caller_mark(&before, CONFIG_SCOPE_INFER));
        assert_int_equal(ask(w, "/", "x-api-key: " WEB "\r\n", false, &after), AUTH_PASS);
        assert_int_equal(after.id, before.id);
        assert_int_equal(after.scopes, CONFIG_SCOPE_READ);
        /* A wrong file, or one for everybody's eyes, changes nothing. */
        write_keys(w, "{\"keys\": [", 0600);
        wait_for_event(w, "keys_failed: ");
        assert_non_null(strstr(w->event, "keys.json:1:11: "));
        assert_non_null(strstr(w->event, "the 2 keys read before stay in force"));
        expect(w, "x-api-key: " WEB "\r\n", AUTH_PASS, "web");
        write_keys(w, "{\"keys\": []}", 0644);
        wait_for_event(w, "keys_failed: ");
        assert_non_null(strstr(w->event, "chmod 640"));
        expect(w, "x-api-key: " WEB "\r\n", AUTH_PASS, "web");
        assert_int_equal(chmod(w->path, 0600), 0);
        wait_for_event(w, "keys: ");
        expect(w, "x-api-key: " WEB "\r\n", AUTH_WRONG, NULL);
        assert_int_equal(w->n_revoked, 3);
        assert_int_equal(auth_counts(w->auth)->reloads, 2);
        assert_int_equal(auth_counts(w->auth)->reloads_failed, 2);
        /* Gone is empty. */
        write_usual(w, "\"read\"", "");
        wait_for_event(w, "keys: ");
        assert_int_equal(ask(w, "/", "x-api-key: " WEB "\r\n", false, &c), AUTH_PASS);
        assert_true(c.id > after.id);
        assert_int_equal(unlink(w->path), 0);
        wait_for_event(w, "keys: ");
        expect(w, "x-api-key: " WEB "\r\n", AUTH_WRONG, NULL);
        teardown(w);
}

static void anonymous_may_lose_a_scope(void **state)
{
        struct world *w = setup();
        struct caller c;
        char *error;

        (void)state;
        assert_int_equal(ask(w, "/", "", false, &c), AUTH_PASS);
        w->config.auth_anonymous = CONFIG_SCOPE_INFER;
        assert_int_equal(auth_apply(w->auth, &w->config, &error), 0);
        assert_int_equal(w->n_revoked, 1);
        assert_int_equal(w->revoked[0], caller_mark(&c, CONFIG_SCOPE_READ));
        teardown(w);
}

static void rate_and_concurrency_are_kept(void **state)
{
        struct world *w = setup();
        struct caller c, other;
        usec_t wait = 0, now = USEC_PER_HOUR;
        char *error;

        (void)state;
        write_usual(w, "\"infer\"", ",\"rate\":3,\"concurrency\":2");
        assert_int_equal(auth_apply(w->auth, &w->config, &error), 0);
        assert_int_equal(ask(w, "/", "x-api-key: " WEB "\r\n", false, &c), AUTH_PASS);
        assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_PASS);
        assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_PASS);
        assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_CONCURRENCY);
        assert_true(wait > 0);
        auth_end(w->auth, &c);
        assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_PASS);
        auth_end(w->auth, &c);
        assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_RATE);
        assert_int_equal(wait, 20 * USEC_PER_SEC);
        /* The same account after another reading, with what runs; also when the key is gone while it runs. */
        assert_int_equal(auth_apply(w->auth, &w->config, &error), 0);
        assert_int_equal(ask(w, "/", "x-api-key: " WEB "\r\n", false, &other), AUTH_PASS);
        assert_ptr_equal(other.account, c.account);
        assert_int_equal(auth_begin(w->auth, &other, now, &wait), AUTH_RATE);
        write_keys(w, "{\"keys\": []}", 0600);
        assert_int_equal(auth_apply(w->auth, &w->config, &error), 0);
        assert_string_equal(c.name, "web");
        auth_end(w->auth, &c);
        assert_int_equal(auth_counts(w->auth)->refused[AUTH_RATE], 2);
        assert_int_equal(auth_counts(w->auth)->refused[AUTH_CONCURRENCY], 1);
        /* Nobody's is not counted. */
        assert_int_equal(ask(w, "/", "", false, &c), AUTH_PASS);
        for (int i = 0; i < 100; i++)
                assert_int_equal(auth_begin(w->auth, &c, now, &wait), AUTH_PASS);
        teardown(w);
}

static void a_wrong_file_is_told_at_start(void **state)
{
        struct world *w = setup();
        _cleanup_free_ char *error = NULL, *second = NULL;

        (void)state;
        write_keys(w, "{\"keys\": [{\"name\": \"a\"}]}", 0600);
        assert_int_equal(auth_apply(w->auth, &w->config, &error), -EBADMSG);
        assert_non_null(strstr(error, "keys.json:1:11: this key has no \"sha256\""));
        expect(w, "x-api-key: " WEB "\r\n", AUTH_PASS, "web");
        write_keys(w, "{\"keys\": []}", 0602);
        assert_int_equal(auth_apply(w->auth, &w->config, &second), -EPERM);
        assert_non_null(strstr(second, "can change it (mode 0602)"));
        teardown(w);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(keys_come_in_three_ways),
                cmocka_unit_test(without_a_key),
                cmocka_unit_test(wrong_ones_are_refused),
                cmocka_unit_test(no_key_belongs_into_a_url),
                cmocka_unit_test(without_a_keys_file_keys_mean_nothing),
                cmocka_unit_test(a_changed_file_is_read_again),
                cmocka_unit_test(anonymous_may_lose_a_scope),
                cmocka_unit_test(rate_and_concurrency_are_kept),
                cmocka_unit_test(a_wrong_file_is_told_at_start),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
