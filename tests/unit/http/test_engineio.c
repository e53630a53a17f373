/* test_engineio.c: Engine.IO and Socket.IO packets, good and bad. */
#include "http/engineio.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void engineio_packets(void **state)
{
        static const struct {
                const char *text;
                int r;
                enum engineio_type type;
                const char *data;
        } rows[] = {
                {"0{\"sid\":1}", 0, ENGINEIO_OPEN, "{\"sid\":1}"},
                {"1", 0, ENGINEIO_CLOSE, ""},
                {"2probe", 0, ENGINEIO_PING, "probe"},
                {"3", 0, ENGINEIO_PONG, ""},
                {"42[\"a\"]", 0, ENGINEIO_MESSAGE, "2[\"a\"]"},
                {"5", 0, ENGINEIO_UPGRADE, ""},
                {"6", 0, ENGINEIO_NOOP, ""},
                {"bAQID", 0, ENGINEIO_BINARY, "AQID"},
                {"", -EBADMSG, 0, ""},
                {"7", -EBADMSG, 0, ""},
                {"x", -EBADMSG, 0, ""},
                {" 4", -EBADMSG, 0, ""},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct engineio_packet p = {.type = ENGINEIO_NOOP};

                assert_int_equal(engineio_parse(slice_str(rows[i].text), &p), rows[i].r);
                if (rows[i].r == 0) {
                        assert_int_equal(p.type, rows[i].type);
                        assert_true(slice_eq_str(p.data, rows[i].data));
                } else {
                        assert_int_equal(p.type, ENGINEIO_NOOP);
                }
        }
}

static void bodies(void **state)
{
        static const struct {
                const char *body;
                const char *packets[4];
        } rows[] = {
                {"40", {"40"}},
                {"40\x1e"
                 "42[\"a\"]\x1e"
                 "3",
                 {"40", "42[\"a\"]", "3"}},
                {"\x1e", {"", ""}},
                {"3\x1e", {"3", ""}},
                {"", {""}},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct slice rest = slice_str(rows[i].body), packet;
                size_t n = 0;

                while (engineio_next(&rest, &packet)) {
                        assert_non_null(rows[i].packets[n]);
                        assert_true(slice_eq_str(packet, rows[i].packets[n++]));
                }
                assert_null(rows[i].packets[n]);
        }
}

static void good_packets(void **state)
{
        static const struct {
                const char *text;
                enum socketio_type type;
                const char *nsp;
                bool has_id;
                uint64_t id;
                const char *data, *event;
                unsigned attachments;
        } rows[] = {
                {"0", SOCKETIO_CONNECT, "/", false, 0, "", "", 0},
                {"0{\"token\":\"1\"}", SOCKETIO_CONNECT, "/", false, 0, "{\"token\":\"1\"}", "", 0},
                {"0/admin,", SOCKETIO_CONNECT, "/admin", false, 0, "", "", 0},
                {"0/admin", SOCKETIO_CONNECT, "/admin", false, 0, "", "", 0},
                {"0/admin?a=1,{}", SOCKETIO_CONNECT, "/admin?a=1", false, 0, "{}", "", 0},
                {"1", SOCKETIO_DISCONNECT, "/", false, 0, "", "", 0},
                {"1/admin,", SOCKETIO_DISCONNECT, "/admin", false, 0, "", "", 0},
                {"2[\"foo\"]", SOCKETIO_EVENT, "/", false, 0, "[\"foo\"]", "foo", 0},
                {"2[ \"foo\", 1]", SOCKETIO_EVENT, "/", false, 0, "[ \"foo\", 1]", "foo", 0},
                {"2[5]", SOCKETIO_EVENT, "/", false, 0, "[5]", "", 0},
                {"2[-1]", SOCKETIO_EVENT, "/", false, 0, "[-1]", "", 0},
                {"212[\"foo\"]", SOCKETIO_EVENT, "/", true, 12, "[\"foo\"]", "foo", 0},
                {"29007199254740991[\"foo\"]", SOCKETIO_EVENT, "/", true, 9007199254740991, "[\"foo\"]",
                 "foo", 0},
                {"2/admin,1[\"foo\"]", SOCKETIO_EVENT, "/admin", true, 1, "[\"foo\"]", "foo", 0},
                {"30[]", SOCKETIO_ACK, "/", true, 0, "[]", "", 0},
                {"3/admin,456[]", SOCKETIO_ACK, "/admin", true, 456, "[]", "", 0},
                {"4{\"message\":\"no\"}", SOCKETIO_CONNECT_ERROR, "/", false, 0, "{\"message\":\"no\"}", "",
                 0},
                {"4\"no\"", SOCKETIO_CONNECT_ERROR, "/", false, 0, "\"no\"", "", 0},
                {"51-[\"foo\",{\"_placeholder\":true,\"num\":0}]", SOCKETIO_BINARY_EVENT, "/", false, 0,
                 "[\"foo\",{\"_placeholder\":true,\"num\":0}]", "foo", 1},
                {"510-/x,7[\"foo\"]", SOCKETIO_BINARY_EVENT, "/x", true, 7, "[\"foo\"]", "foo", 10},
                {"60-[]", SOCKETIO_BINARY_ACK, "/", false, 0, "[]", "", 0},
                {"2[\"0123456789012345678901234567890123456789012345678901234567890123\"]", SOCKETIO_EVENT,
                 "/", false, 0, "[\"0123456789012345678901234567890123456789012345678901234567890123\"]", "",
                 0},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct socketio_packet p;

                if (socketio_parse(slice_str(rows[i].text), &p) != 0)
                        fail_msg("refused: %s", rows[i].text);
                assert_int_equal(p.type, rows[i].type);
                assert_true(slice_eq_str(p.nsp, rows[i].nsp));
                assert_int_equal(p.has_id, rows[i].has_id);
                assert_int_equal(p.id, rows[i].id);
                assert_true(slice_eq_str(p.data, rows[i].data));
                assert_string_equal(p.event, rows[i].event);
                assert_int_equal(p.attachments, rows[i].attachments);
        }
}

static void bad_packets(void **state)
{
        static const char *const rows[] = {
                "",
                "7",
                "a",
                "0[]", /* CONNECT takes an object */
                "0\"x\"",
                "0null",
                "1{}", /* DISCONNECT takes nothing */
                "2",   /* an event has a name */
                "2[]",
                "2{}",
                "2[null]",
                "2[true]",
                "2[{}]",
                "2[[]]",
                "2\"foo\"",
                "2[\"connect\"]", /* the protocol's own names */
                "2[\"disconnect\"]",
                "2[\"newListener\"]",
                "2[\"foo\"",
                "2[\"foo\"]x",
                "2['foo']",
                "2[\"foo\",]",
                "29007199254740992[\"foo\"]",
                "299999999999999999999999999[\"foo\"]",
                "2/admin[\"foo\"]", /* no comma: the namespace eats it all */
                "3",
                "3{}",
                "4",
                "4[]",
                "5[\"foo\"]", /* attachments are told */
                "5-[\"foo\"]",
                "51[\"foo\"]",
                "511-[\"foo\"]",
                "599999999999-[\"foo\"]",
                "6[]",
                "61-{}",
                "2[\"\xff\"]",
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct socketio_packet p = {.type = SOCKETIO_ACK, .id = 77};

                if (socketio_parse(slice_str(rows[i]), &p) != -EBADMSG)
                        fail_msg("not refused: %s", rows[i]);
                assert_int_equal(p.id, 77);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(engineio_packets),
                cmocka_unit_test(bodies),
                cmocka_unit_test(good_packets),
                cmocka_unit_test(bad_packets),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
