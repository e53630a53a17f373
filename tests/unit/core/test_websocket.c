/* test_websocket.c: the rules of RFC 6455, frame by frame, fed whole, byte by byte and cut at every place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "core/websocket.h"

enum { MAX = 1000 };

/* --- frames of a client -------------------------------------------------------------------------------------------- */

struct bytes {
        unsigned char b[140000];
        size_t n;
};

static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};

static void put(struct bytes *out, const void *data, size_t n)
{
        assert_true(out->n + n <= sizeof(out->b));
        memcpy(out->b + out->n, data, n);
        out->n += n;
}

/* first: the first byte; form: 7, 16 or 64 bits of length, 0 for the shortest. */
static void frame_as(struct bytes *out, unsigned first, const void *data, size_t n, unsigned form)
{
        const unsigned char *p = data;
        unsigned char head[10] = {(unsigned char)first};
        size_t len = 2;

        if (!form)
                form = n < 126 ? 7 : n < 65536 ? 16 : 64;
        head[1] = 0x80 | (form == 7 ? (unsigned char)n : form == 16 ? 126 : 127);
        for (unsigned bits = form == 7 ? 0 : form; bits; bits -= 8)
                head[len++] = (unsigned char)((uint64_t)n >> (bits - 8));
        put(out, head, len);
        put(out, mask, 4);
        for (size_t i = 0; i < n; i++) {
                unsigned char c = p[i] ^ mask[i % 4];

                put(out, &c, 1);
        }
}

static void frame(struct bytes *out, unsigned first, const char *text)
{
        frame_as(out, first, text, strlen(text), 0);
}

/* --- what comes of them, as text: "T5:hello P0: C1000:bye !1002" --------------------------------------------------- */

static const char *letter(enum websocket_opcode opcode)
{
        return opcode == WEBSOCKET_TEXT     ? "T"
               : opcode == WEBSOCKET_BINARY ? "B"
               : opcode == WEBSOCKET_PING   ? "P"
               : opcode == WEBSOCKET_PONG   ? "p"
                                            : "?";
}

static void tell(struct buffer *out, enum websocket_result r, const struct websocket_event *e)
{
        if (r == WEBSOCKET_REFUSED)
                (void)buffer_printf(out, "!%d ", (int)e->code);
        else if (e->opcode == WEBSOCKET_CLOSE)
                (void)buffer_printf(out, "C%d:%.*s ", (int)e->code, (int)e->payload.n, e->payload.p);
        else
                (void)buffer_printf(out, "%s%zu:%.*s ", letter(e->opcode), e->payload.n,
                                    (int)MIN(e->payload.n, (size_t)40), e->payload.p);
}

/* Feeds a piece from memory of its own length, so that one read too far is seen. */
static void feed(struct websocket *w, const unsigned char *from, size_t n, struct buffer *out)
{
        unsigned char *copy = malloc(n ? n : 1);
        enum websocket_result r;
        size_t at = 0;

        assert_non_null(copy);
        memcpy(copy, from, n);
        do {
                struct websocket_event e = {0};
                size_t used = SIZE_MAX;

                r = websocket_feed(w, copy + at, n - at, &used, &e);
                assert_true(used <= n - at);
                at += used;
                assert_true(r != WEBSOCKET_MORE || at == n);
                if (r != WEBSOCKET_MORE) {
                        assert_non_null(e.payload.p);
                        tell(out, r, &e);
                }
        } while (r == WEBSOCKET_EVENT);
        free(copy);
}

static char *run(const struct bytes *in, size_t first, size_t step, size_t max)
{
        struct websocket w;
        struct buffer out;
        size_t n;

        buffer_init(&out, 0);
        websocket_init(&w, max);
        for (size_t at = 0; at < in->n; at += n) {
                n = MIN(at ? step : first, in->n - at);
                feed(&w, in->b + at, n, &out);
        }
        websocket_finish(&w);
        (void)buffer_puts(&out, "");
        return buffer_steal(&out);
}

static void expect_max(const struct bytes *in, const char *want, size_t max)
{
        size_t steps = in->n > 4000 ? 1 : in->n;

        for (size_t first = 1; first <= MAX(steps, 1); first++) {
                char *whole = run(in, first, SIZE_MAX, max), *bytes = run(in, first, 1, max);

                if (!whole || !streq(whole, want) || !streq(bytes, want))
                        fail_msg("cut at %zu: '%s' or '%s' instead of '%s'", first, whole, bytes, want);
                free(whole);
                free(bytes);
        }
}

static void expect(const struct bytes *in, const char *want)
{
        expect_max(in, want, MAX);
}

/* --- rules that are kept -------------------------------------------------------------------------------------------- */

static void whole_messages(void **state)
{
        struct bytes in = {.n = 0};

        (void)state;
        frame(&in, 0x81, "hello");
        frame(&in, 0x81, "");
        frame(&in, 0x82, "\xff\xfe");
        frame(&in, 0x89, "");
        frame(&in, 0x89, "are you there?");
        frame(&in, 0x8a, "nobody asked");
        frame(&in, 0x81, "\xe2\x82\xac \xf0\x9f\x98\x80");
        expect(&in, "T5:hello T0: B2:\xff\xfe P0: P14:are you there? p12:nobody asked "
                    "T8:\xe2\x82\xac \xf0\x9f\x98\x80 ");
}

static void fragments(void **state)
{
        struct bytes in = {.n = 0};

        (void)state;
        frame(&in, 0x01, "one ");
        frame(&in, 0x89, "x");
        frame(&in, 0x00, "");
        frame(&in, 0x00, "tw\xc3");
        frame(&in, 0x8a, "");
        frame(&in, 0x80, "\xb6");
        frame(&in, 0x02, "a");
        frame(&in, 0x80, "");
        frame(&in, 0x81, "again");
        expect(&in, "P1:x p0: T8:one tw\xc3\xb6 B1:a T5:again ");
}

static void lengths(void **state)
{
        static const size_t sizes[] = {1, 124, 125, 126, 127, 128, 65535, 65536, 65537};
        static char text[65537];

        (void)state;
        memset(text, 'x', sizeof(text));
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
                struct bytes in = {.n = 0};
                char want[80];

                frame_as(&in, 0x81, text, sizes[i], 0);
                frame(&in, 0x89, "behind");
                (void)snprintf(want, sizeof(want), "T%zu:%.*s P6:behind ", sizes[i],
                               (int)MIN(sizes[i], (size_t)40), text);
                expect_max(&in, want, 65537);
        }
}

static void closing(void **state)
{
        static const struct {
                const char *payload;
                size_t n;
                const char *want;
        } rows[] = {
                {"", 0, "C1005: "},
                {"\x03\xe8", 2, "C1000: "},
                {"\x03\xe8 bye", 6, "C1000: bye "},
                {"\x03\xe9", 2, "C1001: "},
                {"\x03\xeb", 2, "C1003: "},
                {"\x03\xef", 2, "C1007: "},
                {"\x03\xf3", 2, "C1011: "},
                {"\x03\xf6", 2, "C1014: "},
                {"\x0b\xb8", 2, "C3000: "},
                {"\x0f\xa0", 2, "C4000: "},
                {"\x13\x87", 2, "C4999: "},
                {"\x03\xe8\xc3\xbc", 4, "C1000:\xc3\xbc "},
                /* What may not be sent. */
                {"\x03", 1, "!1002 "},
                {"\x00\x01", 2, "!1002 "},
                {"\x03\xe7", 2, "!1002 "},
                {"\x03\xec", 2, "!1002 "},
                {"\x03\xed", 2, "!1002 "},
                {"\x03\xee", 2, "!1002 "},
                {"\x03\xf7", 2, "!1002 "},
                {"\x04\x00", 2, "!1002 "},
                {"\x0b\xb7", 2, "!1002 "},
                {"\x13\x88", 2, "!1002 "},
                {"\xff\xff", 2, "!1002 "},
                {"\x03\xe8\xc3", 3, "!1007 "},
                {"\x03\xe8\xff", 3, "!1007 "},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct bytes in = {.n = 0};

                frame(&in, 0x01, "never ended");
                frame_as(&in, 0x88, rows[i].payload, rows[i].n, 0);
                frame(&in, 0x81, "nobody reads this");
                expect(&in, rows[i].want);
        }
}

/* --- rules that are broken ------------------------------------------------------------------------------------------ */

static void broken_heads(void **state)
{
        static const struct {
                const char *bytes;
                size_t n;
                const char *want;
        } rows[] = {
                /* The first two bytes are enough to be refused. */
                {"\x81\x05", 2, "!1002 "}, /* no mask */
                {"\x81\x00", 2, "!1002 "},
                {"\x89\x00", 2, "!1002 "},
                {"\x88\x00", 2, "!1002 "},
                {"\x81\x7e", 2, "!1002 "},
                {"\xc1\x81", 2, "!1002 "}, /* reserved bits */
                {"\xa1\x81", 2, "!1002 "},
                {"\x91\x81", 2, "!1002 "},
                {"\x83\x81", 2, "!1002 "}, /* reserved opcodes */
                {"\x87\x81", 2, "!1002 "},
                {"\x8b\x81", 2, "!1002 "},
                {"\x8f\x81", 2, "!1002 "},
                {"\x09\x81", 2, "!1002 "}, /* a control frame in fragments */
                {"\x08\x80", 2, "!1002 "},
                {"\x89\xfe", 2, "!1002 "}, /* or too long */
                {"\x88\xff", 2, "!1002 "},
                {"\x80\x81", 2, "!1002 "}, /* a continuation of nothing */
                {"\x00\x80", 2, "!1002 "},
                /* Lengths, judged when the head is whole. */
                {"\x81\xfe\x00\x7d\x01\x02\x03\x04", 8, "!1002 "},
                {"\x81\xfe\x00\x00\x01\x02\x03\x04", 8, "!1002 "},
                {"\x82\xff\0\0\0\0\0\0\xff\xff\x01\x02\x03\x04", 14, "!1002 "},
                {"\x82\xff\x80\0\0\0\0\0\0\0\x01\x02\x03\x04", 14, "!1002 "},
                {"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", 14, "!1002 "},
                {"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", 14, "!1009 "},
                {"\x82\xff\0\0\0\0\0\x01\0\0\x01\x02\x03\x04", 14, "!1009 "},
                {"\x81\xfe\x03\xe9\x01\x02\x03\x04", 8, "!1009 "},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct bytes in = {.n = 0};
                char want[40];

                frame(&in, 0x89, "before");
                put(&in, rows[i].bytes, rows[i].n);
                (void)snprintf(want, sizeof(want), "P6:before %s", rows[i].want);
                expect(&in, want);
                frame(&in, 0x81, "nobody reads this");
                expect(&in, want);
        }
}

static void messages_in_messages(void **state)
{
        static const unsigned firsts[] = {0x81, 0x82, 0x01, 0x02};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(firsts); i++) {
                struct bytes in = {.n = 0};

                frame(&in, 0x01, "a");
                frame(&in, firsts[i], "b");
                expect(&in, "!1002 ");
        }
}

static void text_that_is_none(void **state)
{
        static const char *const rows[] = {
                "\xff",
                "\xc3\x28",
                "\xe2\x82",         /* cut */
                "\xc0\xaf",         /* too long a form */
                "\xed\xa0\x80",     /* a surrogate */
                "\xf4\x90\x80\x80", /* beyond Unicode */
                "fine until here \x80",
        };
        struct bytes in = {.n = 0};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                in.n = 0;
                frame(&in, 0x81, rows[i]);
                frame(&in, 0x81, "x");
                expect(&in, "!1007 ");
                in.n = 0;
                frame(&in, 0x01, rows[i]);
                frame(&in, 0x80, "");
                expect(&in, "!1007 ");
        }
        in.n = 0;
        frame(&in, 0x01, "\xe2");
        frame(&in, 0x80, "\x28");
        expect(&in, "!1007 ");
}

static void bounds(void **state)
{
        static char text[MAX + 1];
        struct bytes in = {.n = 0};

        (void)state;
        memset(text, 'x', sizeof(text));
        frame_as(&in, 0x01, text, MAX - 1, 0);
        frame_as(&in, 0x00, text, 1, 0);
        frame_as(&in, 0x80, text, 0, 0);
        frame(&in, 0x89, "");
        expect(&in, "T1000:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx P0: ");
        in.n = 0;
        frame_as(&in, 0x01, text, MAX - 1, 0);
        frame_as(&in, 0x89, text, 125, 0);
        frame_as(&in, 0x00, text, 2, 0);
        expect(&in, "P125:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx !1009 ");
}

/* The memory of a message does not stay behind. */
static void idle_costs_nothing(void **state)
{
        struct websocket_event e;
        struct bytes in = {.n = 0};
        struct websocket w;
        size_t used;

        (void)state;
        websocket_init(&w, MAX);
        frame(&in, 0x81, "hello");
        assert_int_equal(websocket_feed(&w, in.b, in.n, &used, &e), WEBSOCKET_EVENT);
        assert_int_equal(websocket_feed(&w, in.b + used, 0, &used, &e), WEBSOCKET_MORE);
        assert_null(w.message.data);
        websocket_finish(&w);
}

static void refusals_say_why(void **state)
{
        struct websocket_event e;
        struct websocket w;
        size_t used;

        (void)state;
        websocket_init(&w, MAX);
        assert_int_equal(websocket_feed(&w, "\x81\x01x", 3, &used, &e), WEBSOCKET_REFUSED);
        assert_int_equal(e.code, WEBSOCKET_PROTOCOL_ERROR);
        assert_string_equal(e.payload.p, "frames of a client must be masked");
        assert_int_equal(websocket_feed(&w, "\x81\x81", 2, &used, &e), WEBSOCKET_MORE);
        assert_int_equal(used, 2);
        websocket_finish(&w);
}

/* --- what we send --------------------------------------------------------------------------------------------------- */

static void heads(void **state)
{
        static const struct {
                enum websocket_opcode opcode;
                uint64_t len;
                const char *want;
                size_t n;
        } rows[] = {
                {WEBSOCKET_TEXT, 0, "\x81\x00", 2},
                {WEBSOCKET_TEXT, 125, "\x81\x7d", 2},
                {WEBSOCKET_TEXT, 126, "\x81\x7e\x00\x7e", 4},
                {WEBSOCKET_BINARY, 65535, "\x82\x7e\xff\xff", 4},
                {WEBSOCKET_TEXT, 65536, "\x81\x7f\0\0\0\0\0\1\0\0", 10},
                {WEBSOCKET_PING, 4, "\x89\x04", 2},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                unsigned char head[WEBSOCKET_HEAD_MAX];

                assert_int_equal(websocket_build_head(head, rows[i].opcode, rows[i].len), rows[i].n);
                assert_memory_equal(head, rows[i].want, rows[i].n);
        }
}

static void close_frames(void **state)
{
        unsigned char frame_[WEBSOCKET_CLOSE_MAX];
        char reason[200];

        (void)state;
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_NO_STATUS, SLICE("ignored")), 2);
        assert_memory_equal(frame_, "\x88\x00", 2);
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_NORMAL, (struct slice){NULL, 0}), 4);
        assert_memory_equal(frame_, "\x88\x02\x03\xe8", 4);
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_POLICY, SLICE("slow")), 8);
        assert_memory_equal(frame_, "\x88\x06\x03\xf0slow", 8);
        /* 121 bytes and a character of three: it is left out whole. */
        memset(reason, 'x', sizeof(reason));
        memcpy(reason + 121, "\xe2\x82\xac", 3);
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_POLICY, (struct slice){reason, 150}),
                         4 + 121);
        assert_int_equal(frame_[1], 123);
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_POLICY, (struct slice){reason, 121}),
                         4 + 121);
        memset(reason, 'x', sizeof(reason));
        assert_int_equal(websocket_build_close(frame_, WEBSOCKET_POLICY, (struct slice){reason, 200}),
                         4 + 123);
        assert_int_equal(frame_[1], 125);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(whole_messages),
                cmocka_unit_test(fragments),
                cmocka_unit_test(lengths),
                cmocka_unit_test(closing),
                cmocka_unit_test(broken_heads),
                cmocka_unit_test(messages_in_messages),
                cmocka_unit_test(text_that_is_none),
                cmocka_unit_test(bounds),
                cmocka_unit_test(idle_costs_nothing),
                cmocka_unit_test(refusals_say_why),
                cmocka_unit_test(heads),
                cmocka_unit_test(close_frames),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
