/* test_assemble.c: captured streams of llama-server put together, cut at every byte, and what is broken in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "core/assemble.h"

#define BOUND (1U << 20)
#define HEAD  "\"created\":1795175834,\"id\":\"chatcmpl-u\",\"model\":\"tiny\",\"system_fingerprint\":\"b1\","
#define CHUNK(delta, finish)                                                                                 \
        "data: {\"choices\":[{\"finish_reason\":" finish ",\"index\":0,\"delta\":" delta "}]," HEAD          \
        "\"object\":\"chat.completion.chunk\"}\n\n"
#define TIMINGS                                                                                              \
        "\"timings\":{\"cache_n\":6,\"prompt_n\":1,\"prompt_ms\":5.244,\"predicted_n\":3,\"predicted_ms\":"  \
        "2.609}"

static const char chat[] = CHUNK("{\"role\":\"assistant\",\"content\":null}", "null") ":\n\n" CHUNK(
        "{\"content\":\" the\"}", "null") CHUNK("{\"content\":\" \\u00e9\\ud83d\\ude00\"}", "null")
        CHUNK("{\"content\":\" f\xc3\xbcr\"}",
              "null") "data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}]," HEAD
                      "\"object\":\"chat.completion.chunk\"," TIMINGS "}\n\ndata: [DONE]\n\n";

struct run {
        struct buffer told, body;
        struct assemble_answer answer;
        char text[256];
        int r;
};

/* step: bytes at a time. */
static struct run put_together(enum assemble_form form, enum assemble_tell tell, const char *text, size_t len,
                               size_t step)
{
        struct assemble *a;
        struct run x = {0};

        buffer_init(&x.told, 0);
        buffer_init(&x.body, 0);
        assert_int_equal(assemble_new(form, tell, BOUND, &a), 0);
        for (size_t at = 0; at < len; at += step)
                (void)assemble_feed(a, text + at, MIN(step, len - at), &x.told);
        x.r = assemble_end(a, &x.body, &x.answer);
        (void)snprintf(x.text, sizeof(x.text), "%s", x.answer.text);
        if (x.r == 0)
                assert_int_equal(json_check(x.body.data, x.body.len, NULL), 0);
        assert_null(assemble_free(a));
        return x;
}

static void finish(struct run *x)
{
        buffer_finish(&x->told);
        buffer_finish(&x->body);
}

static void check(enum assemble_form form, const char *stream, const char *text, const char *body)
{
        for (size_t step = 1; step <= strlen(stream); step = step < 70 ? step + 1 : step * 2) {
                struct run x = put_together(form, ASSEMBLE_TELL_TEXT, stream, strlen(stream), step);

                assert_int_equal(x.r, 0);
                assert_string_equal(x.text, text);
                assert_string_equal(x.told.len ? x.told.data : "", text);
                assert_string_equal(x.body.data, body);
                finish(&x);
        }
}

static void a_chat_is_whole(void **state)
{
        struct run x;

        (void)state;
        check(ASSEMBLE_CHAT, chat, " the \xc3\xa9\xf0\x9f\x98\x80 f\xc3\xbcr",
              "{\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"message\":{\"role\":\"assistant\","
              "\"content\":\" "
              "the \xc3\xa9\xf0\x9f\x98\x80 "
              "f\xc3\xbcr\"}}],\"created\":1795175834,\"model\":\"tiny\",\"system_"
              "fingerprint\":\"b1\",\"object\":\"chat.completion\",\"usage\":{\"completion_tokens\":3,"
              "\"prompt_tokens\":"
              "7,\"total_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":6}},\"id\":\"chatcmpl-"
              "u\"," TIMINGS "}");
        x = put_together(ASSEMBLE_CHAT, ASSEMBLE_TELL_NOTHING, chat, strlen(chat), 10);
        assert_int_equal(x.answer.prompt_tokens, 7);
        assert_int_equal(x.answer.tokens, 3);
        assert_int_equal(x.told.len, 0);
        finish(&x);
}

/* CRLF, several data lines, and no comments among what is told. */
static void events_are_told_whole(void **state)
{
        static const char crlf[] =
                ": ping\r\n\r\nevent: x\r\ndata: {\"choices\":[{\"index\":0,\"delta\":\r\ndata:  "
                "{\"content\":\"a\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n";
        static const char want[] = "event: x\ndata: {\"choices\":[{\"index\":0,\"delta\":\ndata:  "
                                   "{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n";

        (void)state;
        for (size_t step = 1; step < sizeof(crlf); step++) {
                struct run x =
                        put_together(ASSEMBLE_CHAT, ASSEMBLE_TELL_EVENTS, crlf, sizeof(crlf) - 1, step);

                assert_int_equal(x.r, 0);
                assert_string_equal(x.text, "a");
                assert_string_equal(x.told.data, want);
                finish(&x);
        }
}

static void tools_and_reasoning_are_one_piece(void **state)
{
        (void)state;
        check(ASSEMBLE_CHAT,
              CHUNK("{\"role\":\"assistant\",\"content\":null}",
                    "null") CHUNK("{\"reasoning_content\":\"hm\"}",
                                  "null") CHUNK("{\"reasoning_content\":\" yes\"}", "null")
                      CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\",\"function\":{"
                            "\"name\":\"get\",\"arguments\":\"{\\\"a\\\"\"}}]}",
                            "null")
                              CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":1}\"}}]}",
                                    "null") CHUNK("{\"tool_calls\":[{\"index\":1,\"id\":\"c2\",\"type\":"
                                                  "\"function\","
                                                  "\"function\":{\"name\":\"put\",\"arguments\":\"{}\"}}]}",
                                                  "null") CHUNK("{}", "\"tool_calls\"") "data: [DONE]\n\n",
              "",
              "{\"choices\":[{\"finish_reason\":\"tool_calls\",\"index\":0,\"message\":{\"role\":"
              "\"assistant\","
              "\"reasoning_content\":\"hm "
              "yes\",\"content\":null,\"tool_calls\":[{\"type\":\"function\",\"function\":{"
              "\"name\":\"get\",\"arguments\":\"{\\\"a\\\":1}\"},\"id\":\"c1\"},{\"type\":\"function\","
              "\"function\":{"
              "\"name\":\"put\",\"arguments\":\"{}\"},\"id\":\"c2\"}]}}],\"created\":1795175834,\"model\":"
              "\"tiny\","
              "\"system_fingerprint\":\"b1\",\"object\":\"chat.completion\",\"id\":\"chatcmpl-u\"}");
}

static void choices_are_apart(void **state)
{
        (void)state;
        check(ASSEMBLE_COMPLETION,
              "data: "
              "{\"choices\":[{\"text\":\"a\",\"index\":0,\"logprobs\":{\"content\":[{\"t\":1}]},\"finish_"
              "reason\":"
              "null}]}\n\n"
              "data: {\"choices\":[{\"text\":\"x\",\"index\":1,\"finish_reason\":null}]}\n\n"
              "data: "
              "{\"choices\":[{\"text\":\"b\",\"index\":0,\"logprobs\":{\"content\":[{\"t\":2}]},\"finish_"
              "reason\":"
              "\"stop\"}]}\n\n"
              "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":1}}\n\ndata: "
              "[DONE]\n\n",
              "ab",
              "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"text\":\"ab\",\"logprobs\":{"
              "\"content\":[{\"t\":1},{"
              "\"t\":2}]}},{\"finish_reason\":null,\"index\":1,\"text\":\"x\",\"logprobs\":null}],\"object\":"
              "\"text_"
              "completion\",\"usage\":{"
              "\"completion_tokens\":2,\"prompt_tokens\":1}}");
}

static const char native[] =
        "data: {\"index\":0,\"content\":\" brown\",\"tokens\":[370],\"stop\":false}\n\n"
        "data: {\"index\":0,\"content\":\" fox\",\"tokens\":[373],\"stop\":false}\n\n"
        "data: {\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":true,\"model\":\"tiny\","
        "\"tokens_predicted\":2,\"tokens_evaluated\":4,\"stop_type\":\"limit\"}\n\n";
#define NATIVE(tokens)                                                                                       \
        "{\"index\":0,\"content\":\" brown fox\",\"tokens\":[" tokens "],\"stop\":true,\"model\":\"tiny\","  \
        "\"tokens_predicted\":2,\"tokens_evaluated\":4,\"stop_type\":\"limit\"}"

/* Numbers of tokens are in it when they were asked for, though a stream has them always. */
static void native_is_its_last_event(void **state)
{
        struct buffer told, body;
        struct assemble_answer answer;
        struct assemble *a;

        (void)state;
        check(ASSEMBLE_NATIVE, native, " brown fox", NATIVE(""));
        buffer_init(&told, 0);
        buffer_init(&body, 0);
        assert_int_equal(assemble_new(ASSEMBLE_NATIVE, ASSEMBLE_TELL_NOTHING, BOUND, &a), 0);
        assemble_keep_tokens(a);
        assert_int_equal(assemble_feed(a, native, sizeof(native) - 1, &told), 0);
        assert_int_equal(assemble_end(a, &body, &answer), 0);
        assert_string_equal(body.data, NATIVE("370,373"));
        assert_null(assemble_free(a));
        buffer_finish(&body);
        buffer_finish(&told);
}

static int end_of(enum assemble_form form, const char *stream, struct run *ret)
{
        struct run x = put_together(form, ASSEMBLE_TELL_TEXT, stream, strlen(stream), 7);
        int r = x.r;

        if (ret)
                *ret = x;
        else
                finish(&x);
        return r;
}

static void half_an_answer_is_none(void **state)
{
        _cleanup_free_ char *half = NULL;

        (void)state;
        for (size_t n = 0; n < sizeof(chat) - 3;
             n++) { /* up to the last newline but one, which ends the event */
                free(half);
                half = strndup(chat, n);
                assert_int_equal(end_of(ASSEMBLE_CHAT, half, NULL), -ENODATA);
        }
        assert_int_equal(end_of(ASSEMBLE_CHAT, "data: [DONE]\n\n", NULL), -ENODATA);
        assert_int_equal(
                end_of(ASSEMBLE_NATIVE,
                       "data: {\"content\":\"a\",\"stop\":true}\n\ndata: {\"index\":1,\"content\":\"b\"}\n\n",
                       NULL),
                -ENODATA);
        assert_int_equal(end_of(ASSEMBLE_CHAT, "data: {\"choices\"\n\ndata: [DONE]\n\n", NULL), -EBADMSG);
        assert_int_equal(end_of(ASSEMBLE_CHAT, "data: 1\n\n", NULL), -EBADMSG);
}

static void errors_in_a_stream_are_errors(void **state)
{
        struct run x;

        (void)state;
        assert_int_equal(end_of(ASSEMBLE_CHAT,
                                CHUNK("{\"content\":\"a\"}",
                                      "null") "data: {\"error\":{\"code\":400,\"message\":\"no\"}}\n\n",
                                &x),
                         -EREMOTEIO);
        assert_int_equal(x.answer.error_status, 400);
        finish(&x);
        assert_int_equal(end_of(ASSEMBLE_NATIVE, "error: {\"code\":7,\"message\":\"no\"}\n\n", &x),
                         -EREMOTEIO);
        assert_int_equal(x.answer.error_status, 500);
        finish(&x);
}

static void what_is_kept_is_bounded(void **state)
{
        static const char event[] =
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"0123456789\"}}]}\n\n";
        static const char far[] =
                "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":1000000}]}}]}\n\n";
        struct buffer told, body;
        struct assemble_answer answer;
        struct assemble *a;
        unsigned n = 0;

        (void)state;
        buffer_init(&told, 0);
        buffer_init(&body, 0);
        assert_int_equal(assemble_new(ASSEMBLE_CHAT, ASSEMBLE_TELL_NOTHING, 100, &a), 0);
        while (assemble_feed(a, event, sizeof(event) - 1, &told) == 0)
                n++;
        assert_int_equal(n, 10);
        assert_int_equal(assemble_end(a, &body, &answer), -EFBIG);
        assemble_free(a);
        assert_int_equal(assemble_new(ASSEMBLE_CHAT, ASSEMBLE_TELL_NOTHING, 100, &a), 0);
        for (n = 0; n < 100; n++)
                assert_int_equal(assemble_feed(a, "x", 1, &told), 0);
        assert_int_equal(assemble_feed(a, "x", 1, &told), -EFBIG);
        assemble_free(a);
        assert_int_equal(assemble_new(ASSEMBLE_CHAT, ASSEMBLE_TELL_NOTHING, BOUND, &a), 0);
        for (n = 0; n < ASSEMBLE_CHOICES_MAX; n++) {
                char one[100];

                (void)snprintf(one, sizeof(one), "data: {\"choices\":[{\"index\":%u,\"delta\":{}}]}\n\n",
                               n + 1);
                assert_int_equal(assemble_feed(a, one, strlen(one), &told), 0);
        }
        assert_int_equal(assemble_feed(a, far, sizeof(far) - 1, &told), -EFBIG);
        assemble_free(a);
        buffer_finish(&told);
        buffer_finish(&body);
}

#define USAGE "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}"

static void what_was_no_stream_is_read(void **state)
{
        static const char *const bodies[] = {
                "{\"choices\":[{\"message\":{\"content\":\"hi\"}}]," USAGE "}",
                "{\"choices\":[{\"text\":\"hi\"}],\"timings\":{\"prompt_n\":3,\"predicted_n\":1}}",
                "{\"content\":\"hi\"," USAGE "}"};
        struct assemble_answer a;
        struct buffer text;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
                buffer_init(&text, 0);
                assemble_read(bodies[i], strlen(bodies[i]), &text, &a);
                assert_string_equal(a.text, "hi");
                assert_int_equal(a.prompt_tokens, 3);
                assert_int_equal(a.tokens, 1);
                buffer_finish(&text);
        }
        buffer_init(&text, 0);
        assemble_read("[", 1, &text, &a);
        assert_string_equal(a.text, "");
        buffer_finish(&text);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_chat_is_whole),
                cmocka_unit_test(events_are_told_whole),
                cmocka_unit_test(tools_and_reasoning_are_one_piece),
                cmocka_unit_test(choices_are_apart),
                cmocka_unit_test(native_is_its_last_event),
                cmocka_unit_test(half_an_answer_is_none),
                cmocka_unit_test(errors_in_a_stream_are_errors),
                cmocka_unit_test(what_is_kept_is_bounded),
                cmocka_unit_test(what_was_no_stream_is_read),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
