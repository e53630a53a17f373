/* test_assemble_typed.c: captured streams of /v1/messages and /v1/responses put together, cut at every byte, and what is broken in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "core/assemble.h"

#define BOUND             (1U << 20)
#define EVENT(type, rest) "event: " type "\ndata: {\"type\":\"" type "\"" rest "}\n\n"
#define DELTA(i, delta)   EVENT("content_block_delta", ",\"index\":" #i ",\"delta\":" delta)

/* As llama-server b11669 streams it. */
#define START                                                                                                \
        EVENT("message_start",                                                                               \
              ",\"message\":{\"id\":\"chatcmpl-v\",\"type\":\"message\",\"role\":\"assistant\","             \
              "\"content\":[],\"model\":\"tiny\",\"stop_reason\":null,\"stop_sequence\":null,"               \
              "\"usage\":{\"cache_read_input_tokens\":1,\"input_tokens\":9,\"output_tokens\":0}}")
#define TEXT_START(i)                                                                                        \
        EVENT("content_block_start", ",\"index\":" #i ",\"content_block\":{\"type\":\"text\",\"text\":"      \
                                     "\"\"}")
#define END                                                                                                  \
        EVENT("message_delta", ",\"delta\":{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null},"         \
                               "\"usage\":{\"output_tokens\":4}")                                            \
        EVENT("message_stop", "")

static const char message[] =
        START TEXT_START(0) DELTA(0, "{\"type\":\"text_delta\",\"text\":\" the\"}") ": ping\n\n" DELTA(
                0, "{\"type\":\"text_delta\",\"text\":\" f\\u00fcr\"}")
                EVENT("content_block_stop", ",\"index\":0") END;

static const char response[] = EVENT("response.created",
                                     ",\"response\":{\"id\":\"resp_I\",\"object\":\"response\","
                                     "\"status\":\"in_progress\"}")
        EVENT("response.output_text.delta", ",\"item_id\":\"msg_H\",\"delta\":\" the\"")
                EVENT("response.output_text.delta", ",\"item_id\":\"msg_H\",\"delta\":\" f\\u00fcr\"") EVENT(
                        "response.output_text.done", ",\"text\":\" the f\\u00fcr\"")
                        EVENT("response.completed",
                              ",\"response\":{\"id\":\"resp_I\",\"object\":\"response\",\"created_at\":17,"
                              "\"status\":\"completed\",\"model\":\"tiny\",\"output\":[{\"type\":\"message\","
                              "\"content\":[{\"type\":\"output_text\",\"text\":\" the f\\u00fcr\"}]}],"
                              "\"usage\":{\"input_tokens\":10,\"output_tokens\":4,\"total_tokens\":14}},"
                              "\"timings\":{\"cache_n\":9}");

struct run {
        struct buffer told, body;
        char text[256];
        uint64_t prompt, tokens;
        int r, status;
        bool whole;
};

static struct run put_together(enum assemble_form form, enum assemble_tell tell, const char *text, size_t len,
                               size_t step)
{
        struct assemble_answer answer;
        struct assemble *a;
        struct run x = {0};

        buffer_init(&x.told, 0);
        buffer_init(&x.body, 0);
        assert_int_equal(assemble_new(form, tell, BOUND, &a), 0);
        for (size_t at = 0; at < len; at += step) {
                assert_false(assemble_is_whole(a) && at + 1 < len - 2);
                (void)assemble_feed(a, text + at, MIN(step, len - at), &x.told);
        }
        x.whole = assemble_is_whole(a);
        x.r = assemble_end(a, &x.body, &answer);
        (void)snprintf(x.text, sizeof(x.text), "%s", answer.text);
        x.prompt = answer.prompt_tokens;
        x.tokens = answer.tokens;
        x.status = answer.error_status;
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
                assert_true(x.whole);
                assert_string_equal(x.text, text);
                assert_string_equal(x.told.len ? x.told.data : "", text);
                assert_string_equal(x.body.data, body);
                assert_int_equal(x.prompt, 10);
                assert_int_equal(x.tokens, 4);
                finish(&x);
        }
}

static void a_message_is_whole(void **state)
{
        (void)state;
        check(ASSEMBLE_MESSAGES, message, " the f\xc3\xbcr",
              "{\"id\":\"chatcmpl-v\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":"
              "\"text\","
              "\"text\":\" the f\xc3\xbcr\"}],\"model\":\"tiny\",\"usage\":{\"cache_read_input_tokens\":1,"
              "\"input_tokens\":9,\"output_tokens\":4},\"stop_reason\":\"max_tokens\",\"stop_sequence\":"
              "null}");
}

static void a_response_is_its_last_event(void **state)
{
        (void)state;
        check(ASSEMBLE_RESPONSES, response, " the f\xc3\xbcr",
              "{\"id\":\"resp_I\",\"object\":\"response\",\"created_at\":17,\"status\":\"completed\","
              "\"model\":"
              "\"tiny\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\" "
              "the "
              "f\xc3\xbcr\"}]}],\"usage\":{\"input_tokens\":10,\"output_tokens\":4,\"total_tokens\":14},"
              "\"completed_at\":17}");
}

/* Whoever streams gets them with their names, and nothing of the pings. */
static void events_are_told_with_their_names(void **state)
{
        struct run x = put_together(ASSEMBLE_MESSAGES, ASSEMBLE_TELL_EVENTS, message, sizeof(message) - 1, 7);
        const char *ping = strstr(message, ": ping\n\n");

        (void)state;
        assert_int_equal(x.told.len, sizeof(message) - 1 - strlen(": ping\n\n"));
        assert_memory_equal(x.told.data, message, (size_t)(ping - message));
        assert_string_equal(x.told.data + (ping - message), ping + strlen(": ping\n\n"));
        finish(&x);
}

static void thinking_and_tools_are_one_piece(void **state)
{
        static const char stream[] = START EVENT(
                "content_block_start",
                ",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}")
                DELTA(0, "{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}")
                        DELTA(0, "{\"type\":\"thinking_delta\",\"thinking\":\"m\"}") DELTA(
                                0, "{\"type\":\"signature_delta\",\"signature\":\"s\"}") TEXT_START(1)
                                DELTA(1, "{\"type\":\"text_delta\",\"text\":\"so\"}") EVENT(
                                        "content_block_start",
                                        ",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t1\","
                                        "\"name\":\"f\",\"input\":{}}")
                                        DELTA(2, "{\"type\":\"input_json_delta\",\"partial_json\":\"{"
                                                 "\\\"a\\\":\"}") DELTA(2, "{\"type\":\"input_json_delta\","
                                                                           "\"partial_json\":\"1}\"}") END;
        struct run x = put_together(ASSEMBLE_MESSAGES, ASSEMBLE_TELL_TEXT, stream, sizeof(stream) - 1, 11);

        (void)state;
        assert_int_equal(x.r, 0);
        assert_string_equal(x.text, "so");
        assert_string_equal(x.told.data, "so");
        assert_non_null(
                strstr(x.body.data, "{\"type\":\"thinking\",\"thinking\":\"hmm\",\"signature\":\"s\"}"));
        assert_non_null(strstr(x.body.data, "{\"type\":\"text\",\"text\":\"so\"}"));
        assert_non_null(strstr(x.body.data,
                               "{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"f\",\"input\":{\"a\":1}}"));
        finish(&x);
}

static void half_an_answer_is_none(void **state)
{
        static const char *const ends[] = {"event: message_stop", "event: response.completed"};
        static const char *const streams[] = {message, response};
        static const enum assemble_form forms[] = {ASSEMBLE_MESSAGES, ASSEMBLE_RESPONSES};

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
                size_t n = (size_t)(strstr(streams[i], ends[i]) - streams[i]);
                struct run x = put_together(forms[i], ASSEMBLE_TELL_TEXT, streams[i], n, 5);

                assert_int_equal(x.r, -ENODATA);
                assert_false(x.whole);
                assert_string_equal(x.text, " the f\xc3\xbcr");
                finish(&x);
        }
}

static void errors_in_a_stream_are_errors(void **state)
{
        static const char broken[] =
                START "event: error\ndata: "
                      "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"no\"}}\n\n";
        static const char failed[] =
                EVENT("response.failed", ",\"response\":{\"error\":{\"code\":503,\"message\":\"no\"}}");
        struct run x = put_together(ASSEMBLE_MESSAGES, ASSEMBLE_TELL_TEXT, broken, sizeof(broken) - 1, 3);

        (void)state;
        assert_int_equal(x.r, -EREMOTEIO);
        assert_int_equal(x.status, 500);
        finish(&x);
        x = put_together(ASSEMBLE_RESPONSES, ASSEMBLE_TELL_TEXT, failed, sizeof(failed) - 1, 3);
        assert_int_equal(x.r, -EREMOTEIO);
        assert_int_equal(x.status, 503);
        finish(&x);
}

static void blocks_are_bounded(void **state)
{
        struct assemble *a;
        struct buffer told;
        char event[160];
        int r = 0;

        (void)state;
        buffer_init(&told, 0);
        assert_int_equal(assemble_new(ASSEMBLE_MESSAGES, ASSEMBLE_TELL_TEXT, BOUND, &a), 0);
        for (int i = 0; i <= ASSEMBLE_BLOCKS_MAX; i++) {
                (void)snprintf(
                        event, sizeof(event),
                        "data: {\"type\":\"content_block_start\",\"index\":%d,\"content_block\":{\"type\":"
                        "\"text\",\"text\":\"\"}}\n\n",
                        i);
                assert_int_equal(r, 0);
                r = assemble_feed(a, event, strlen(event), &told);
        }
        assert_int_equal(r, -EFBIG);
        assemble_free(a);
        buffer_finish(&told);
}

static void what_was_no_stream_is_read(void **state)
{
        static const char *const bodies[] = {
                "{\"type\":\"message\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"x\"},{\"type\":"
                "\"text\","
                "\"text\":\"h\"},{\"type\":\"text\",\"text\":\"i\"}],\"usage\":{\"input_tokens\":1,"
                "\"cache_read_input_tokens\":2,\"output_tokens\":1}}",
                "{\"object\":\"response\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_"
                "text\","
                "\"text\":\"hi\"}]}],\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}"};
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
}

static void paths_have_their_forms(void **state)
{
        enum assemble_form form;

        (void)state;
        assert_true(assemble_form_of("/v1/messages", &form) && form == ASSEMBLE_MESSAGES);
        assert_true(assemble_form_of("/responses", &form) && form == ASSEMBLE_RESPONSES);
        assert_true(assemble_form_of("/infill", &form) && form == ASSEMBLE_NATIVE);
        assert_true(assemble_form_of("/completions", &form) && form == ASSEMBLE_COMPLETION);
        assert_true(assemble_form_of("/v1/chat/completions", &form) && form == ASSEMBLE_CHAT);
        assert_false(assemble_form_of("/v1/embeddings", &form));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_message_is_whole),
                cmocka_unit_test(a_response_is_its_last_event),
                cmocka_unit_test(events_are_told_with_their_names),
                cmocka_unit_test(thinking_and_tools_are_one_piece),
                cmocka_unit_test(half_an_answer_is_none),
                cmocka_unit_test(errors_in_a_stream_are_errors),
                cmocka_unit_test(blocks_are_bounded),
                cmocka_unit_test(what_was_no_stream_is_read),
                cmocka_unit_test(paths_have_their_forms),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
