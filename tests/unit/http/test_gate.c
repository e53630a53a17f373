/* test_gate.c: every reach attack of a foreign page as bytes on the wire, and every friend that must get in. */
#include "http/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/text.h"

static char *hosts[] = {"models.example", "lab.example:8443",   "[2001:db8::7]",
                        "*.lan.example",  "*.tight.example:81", NULL};
static char *origins[] = {"https://app.example", "http://dev.example:3000", "chrome-extension://abcdef",
                          "https://*.pages.example", NULL};

static struct http1_request parse(const char *text)
{
        struct http1_request head;
        struct http1_parser p;

        http1_parser_init(&p);
        if (http1_request_parse(&p, text, strlen(text), NULL, &head) <= 0)
                fail_msg("no request: %s (%s)", text, p.reason);
        return head;
}

static enum gate_verdict check(const char *bound, const char *text)
{
        struct http1_request head = parse(text);
        struct endpoint e;
        struct gate g = {.bound = &e, .allowed_hosts = hosts, .allowed_origins = origins};

        assert_int_equal(endpoint_parse(bound, &e), 0);
        return gate_check(&g, &head);
}

static enum gate_verdict check_headers(const char *bound, const char *host, const char *origin)
{
        _cleanup_free_ char *text =
                text_format("GET /ws HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", host, origin ? "Origin: " : "",
                            origin ? origin : "", origin ? "\r\n" : "");

        return check(bound, text);
}

#define LOOP4 "127.0.0.1:8077"
#define LOOP6 "[::1]:8077"
#define LAN   "192.168.1.5:8077"
#define ANY4  "0.0.0.0:8077"
#define ANY6  "[::]:8077"
#define UNIX  "unix:/run/x.sock"

static void host_names_us(void **state)
{
        static const struct {
                const char *bound, *host;
                bool pass;
        } rows[] = {
                {LOOP4, "localhost:8077", true},
                {LOOP4, "LOCALHOST", true},
                {LOOP4, "127.0.0.1:9999", true},
                {LOOP4, "[::1]:8077", true},
                {LOOP6, "127.0.0.1", true},
                {LOOP6, "[0:0:0:0:0:0:0:1]", true},
                {UNIX, "localhost", true},
                {LAN, "192.168.1.5:8077", true},
                {LAN, "192.168.1.5:80", true},
                {ANY4, "10.1.2.3:8077", true},
                {ANY4, "localhost:8077", true},
                {ANY6, "[fe80::1]:8077", true},
                {LOOP4, "models.example", true},
                {LOOP4, "Models.Example:1234", true},
                {LOOP4, "lab.example:8443", true},
                {LAN, "[2001:db8::7]:8077", true},
                {LOOP4, "a.lan.example", true},
                {LOOP4, "a.b.LAN.example:9", true},
                {LOOP4, "a.tight.example:81", true},
                {LOOP4, "a.tight.example:82", false},
                {LOOP4, "lan.example", false},
                {LOOP4, ".lan.example", false},
                {LOOP4, "alan.example", false},
                /* Rebinding: the attacker's name points at us. */
                {LOOP4, "evil.example:8077", false},
                {LOOP4, "evil.example", false},
                {ANY4, "evil.example:8077", false},
                {UNIX, "evil.example", false},
                {LAN, "localhost:8077", false},
                {LAN, "127.0.0.1:8077", false},
                {LAN, "192.168.1.6:8077", false},
                {LOOP4, "10.1.2.3:8077", false},
                {LOOP4, "0.0.0.0:8077", false},
                {LOOP4, "127.0.0.2:8077", false},
                {LOOP4, "localhost.evil.example", false},
                {LOOP4, "127.0.0.1.evil.example", false},
                {LOOP4, "localhost.", false},
                {LOOP4, "127.1", false},
                {LOOP4, "2130706433", false},
                {LOOP4, "0x7f000001", false},
                {LOOP4, "lab.example", false},
                {LOOP4, "lab.example:443", false},
                {LOOP4, "xmodels.example", false},
                {LOOP4, "sub.models.example", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (check_headers(rows[i].bound, rows[i].host, NULL) !=
                    (rows[i].pass ? GATE_PASS : GATE_HOST))
                        fail_msg("Host %s on %s: should %s", rows[i].host, rows[i].bound,
                                 rows[i].pass ? "pass" : "be refused");
        assert_int_equal(check(LOOP4, "GET / HTTP/1.0\r\n\r\n"), GATE_HOST);
}

static void origin_is_a_friend(void **state)
{
        static const struct {
                const char *bound, *host, *origin;
                bool pass;
        } rows[] = {
                {LOOP4, "localhost:8077", "http://localhost:8077", true},
                {LOOP4, "localhost:8077", "http://localhost:3000", true},
                {LOOP4, "127.0.0.1:8077", "http://[::1]:3000", true},
                {LOOP4, "127.0.0.1:8077", "https://localhost", true},
                {LOOP4, "models.example", "https://models.example", true},
                {LOOP4, "models.example:8080", "http://models.example:8080", true},
                {LOOP4, "models.example", "http://models.example:80", true},
                {LOOP4, "localhost", "https://app.example", true},
                {LOOP4, "localhost", "HTTPS://APP.example:443", true},
                {LOOP4, "localhost", "http://dev.example:3000", true},
                {LOOP4, "localhost", "chrome-extension://abcdef", true},
                {LAN, "192.168.1.5:8077", "http://192.168.1.5:3000", true},
                {ANY4, "10.1.2.3:8077", "http://10.1.2.3:8077", true},
                {ANY4, "localhost:8077", "http://localhost:3000", true},

                {LOOP4, "localhost", "https://a.pages.example", true},

                {LOOP4, "localhost", "http://a.pages.example", false},
                {LOOP4, "localhost", "https://pages.example", false},
                {LOOP4, "localhost", "https://a.pages.example:444", false},
                {LOOP4, "localhost", "null", false},
                {LOOP4, "localhost", "https://evil.example", false},
                {LOOP4, "localhost", "http://evil.example:8077", false},
                {LOOP4, "localhost", "http://app.example", false},
                {LOOP4, "localhost", "https://app.example:8443", false},
                {LOOP4, "localhost", "https://app.example.evil.example", false},
                {LOOP4, "localhost", "https://app.example/", false},
                {LOOP4, "localhost", "https://app.example https://evil.example", false},
                {LOOP4, "localhost", "chrome-extension://localhost", false},
                {LOOP4, "localhost", "file://", false},
                {LOOP4, "localhost", "localhost", false},
                {LOOP4, "models.example", "http://models.example:3000", false},
                {LAN, "192.168.1.5:8077", "http://localhost:8077", false},
                /* A numeric stranger is a stranger, although any number is a good Host here. */
                {ANY4, "10.1.2.3:8077", "http://6.6.6.6", false},
                {ANY4, "10.1.2.3:8077", "http://10.1.2.3:3000", false},
                {ANY4, "10.1.2.3:8077", "http://localhost:3000", false},
                {ANY6, "[fe80::1]:8077", "http://[fe80::2]:8077", false},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                if (check_headers(rows[i].bound, rows[i].host, rows[i].origin) !=
                    (rows[i].pass ? GATE_PASS : GATE_ORIGIN))
                        fail_msg("Origin %s, Host %s on %s: should %s", rows[i].origin, rows[i].host,
                                 rows[i].bound, rows[i].pass ? "pass" : "be refused");
        assert_int_equal(check(LOOP4, "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
                                      "Origin: https://evil.example\r\nContent-Length: 0\r\n\r\n"),
                         GATE_ORIGIN);
}

static void stars(void **state)
{
        static char *any[] = {"*", NULL};
        struct endpoint e;
        struct gate g = {.bound = &e, .allowed_hosts = any};
        struct http1_request head;

        (void)state;
        assert_int_equal(endpoint_parse(LOOP4, &e), 0);
        head = parse("GET / HTTP/1.1\r\nHost: whatever.example\r\n\r\n");
        assert_int_equal(gate_check(&g, &head), GATE_PASS);
        head = parse("GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n");
        assert_int_equal(gate_check(&g, &head), GATE_ORIGIN);
        g.allowed_origins = any;
        assert_int_equal(gate_check(&g, &head), GATE_PASS);
        head = parse("GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n");
        assert_int_equal(gate_check(&g, &head), GATE_ORIGIN);
}

static void host_is_asked_before_origin(void **state)
{
        (void)state;
        /* A rebound page is same-origin with itself: equality of Origin and Host must not help it. */
        assert_int_equal(check_headers(LOOP4, "evil.example:8077", "http://evil.example:8077"), GATE_HOST);
}

static void orders_are_no_simple_forms(void **state)
{
        static const struct {
                const char *headers;
                enum gate_verdict verdict;
        } rows[] = {
                {"", GATE_PASS},
                {"Content-Length: 0\r\n", GATE_PASS},
                {"Content-Length: 2\r\nContent-Type: application/json\r\n", GATE_PASS},
                {"Content-Length: 2\r\nContent-Type: Application/JSON ; charset=utf-8\r\n", GATE_PASS},
                {"Content-Length: 0\r\nContent-Type: application/json\r\n", GATE_PASS},
                {"Content-Length: 2\r\n", GATE_CONTENT_TYPE},
                {"Transfer-Encoding: chunked\r\n", GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: text/plain\r\n", GATE_CONTENT_TYPE},
                {"Content-Length: 0\r\nContent-Type: text/plain\r\n", GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: application/x-www-form-urlencoded\r\n",
                 GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: multipart/form-data; boundary=application/json\r\n",
                 GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: text/plain; application/json\r\n", GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: application/jsonp\r\n", GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\n",
                 GATE_CONTENT_TYPE},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_free_ char *text = text_format(
                        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n%s\r\n", rows[i].headers);
                struct http1_request head = parse(text);

                if (gate_check_order(&head) != rows[i].verdict)
                        fail_msg("wrong verdict on %s", rows[i].headers);
        }
}

static void work_of_programs_and_of_pages(void **state)
{
#define JSON "Content-Length: 2\r\nContent-Type: application/json\r\n"
#define FORM "Content-Length: 2\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        static const struct {
                const char *headers;
                enum gate_verdict plain, multipart; /* on routes that take JSON alone; that take forms, too */
        } rows[] = {
                {JSON, GATE_PASS, GATE_PASS},
                {FORM, GATE_PASS, GATE_PASS},
                {"Content-Length: 2\r\n", GATE_PASS, GATE_PASS},
                {"Transfer-Encoding: chunked\r\n", GATE_PASS, GATE_PASS},
                {"Content-Length: 2\r\nContent-Type: application/x-www-form-urlencoded\r\n", GATE_PASS,
                 GATE_PASS},
                {JSON "Origin: http://localhost\r\n", GATE_PASS, GATE_PASS},
                {FORM "Origin: http://localhost\r\n", GATE_CONTENT_TYPE, GATE_PASS},
                {FORM "Referer: http://localhost/\r\n", GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
                {FORM "Sec-Fetch-Site: cross-site\r\n", GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: text/plain\r\nOrigin: http://localhost\r\n",
                 GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nContent-Type: text/plain\r\nSec-Fetch-Mode: no-cors\r\n",
                 GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
                {"Content-Length: 2\r\nOrigin: http://localhost\r\n", GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
                {JSON "Content-Type: multipart/form-data; boundary=x\r\nOrigin: http://localhost\r\n",
                 GATE_CONTENT_TYPE, GATE_CONTENT_TYPE},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                _cleanup_free_ char *text =
                        text_format("POST /v1/x HTTP/1.1\r\nHost: localhost\r\n%s\r\n", rows[i].headers);
                struct http1_request head = parse(text);

                if (gate_check_work(&head, false) != rows[i].plain)
                        fail_msg("wrong verdict on %s", rows[i].headers);
                if (gate_check_work(&head, true) != rows[i].multipart)
                        fail_msg("wrong verdict with forms on %s", rows[i].headers);
        }
#undef JSON
#undef FORM
}

static void preflights(void **state)
{
        struct http1_request head;

        (void)state;
        head = parse("OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n"
                     "Access-Control-Request-Method: POST\r\n\r\n");
        assert_true(gate_is_preflight(&head));
        assert_int_equal(gate_check_preflight(&head), GATE_PASS);
        head = parse("OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n"
                     "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Private-Network: "
                     "true\r\n\r\n");
        assert_int_equal(gate_check_preflight(&head), GATE_PRIVATE_NETWORK);
        head = parse("OPTIONS / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n");
        assert_false(gate_is_preflight(&head));
        head = parse("GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n"
                     "Access-Control-Request-Method: POST\r\n\r\n");
        assert_false(gate_is_preflight(&head));
}

static void cors_echoes_one_origin(void **state)
{
        char buf[GATE_CORS_MAX];
        struct http1_request head;

        (void)state;
        head = parse("GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n");
        assert_string_equal(gate_cors(&head, buf, sizeof(buf)),
                            "Access-Control-Allow-Origin: https://app.example\r\nVary: Origin\r\n");
        head = parse("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_string_equal(gate_cors(&head, buf, sizeof(buf)), "");
}

static void every_verdict_has_words(void **state)
{
        (void)state;
        for (int v = 0; v < GATE_VERDICTS; v++) {
                assert_non_null(gate_verdict_name((enum gate_verdict)v));
                assert_non_null(gate_verdict_words((enum gate_verdict)v));
                assert_int_equal(gate_verdict_status((enum gate_verdict)v) >= 400, v != GATE_PASS);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(host_names_us),
                cmocka_unit_test(origin_is_a_friend),
                cmocka_unit_test(stars),
                cmocka_unit_test(host_is_asked_before_origin),
                cmocka_unit_test(orders_are_no_simple_forms),
                cmocka_unit_test(work_of_programs_and_of_pages),
                cmocka_unit_test(preflights),
                cmocka_unit_test(cors_echoes_one_origin),
                cmocka_unit_test(every_verdict_has_words),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
