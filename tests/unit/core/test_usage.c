/* test_usage.c: the shapes of llama-server's answers, each cut at every byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "core/usage.h"

#define CHUNK(delta, more)                                                                                   \
        "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":" delta                           \
        "}],\"created\":1795175834,\"id\":\"chatcmpl-uEFT44\",\"model\":\"tiny\",\"object\":"                \
        "\"chat.completion.chunk\"" more "}\n\n"
#define ROLE CHUNK("{\"role\":\"assistant\",\"content\":null}", "")
#define TIMINGS                                                                                              \
        ",\"timings\":{\"cache_n\":6,\"prompt_n\":1,\"prompt_ms\":5.244,\"prompt_per_token_ms\":5.244,"      \
        "\"prompt_per_second\":190.69412662090008,\"predicted_n\":3,\"predicted_ms\":2.609,"                 \
        "\"predicted_per_token_ms\":1.3045,\"predicted_per_second\":766.5}"
#define USAGE                                                                                                \
        ",\"usage\":{\"completion_tokens\":32,\"prompt_tokens\":7,\"total_tokens\":39,"                      \
        "\"prompt_tokens_details\":{\"cached_tokens\":6}}"
#define DONE "data: [DONE]\n\n"

/* The first token: how many bytes must have come for it (a stream's line is whole, or the first byte). */
static const struct shape {
        const char *name;
        bool stream;
        const char *before, *first, *after; /* without tokens, up to the first token, the rest */
        int64_t in, out;
        double pace;
} shapes[] = {
        {"chat stream", true, ROLE, CHUNK("{\"content\":\" the\"}", ""),
         CHUNK("{\"content\":\" quick\"}", "") CHUNK("{}", TIMINGS) DONE, 7, 3, 766.5},
        {"chat stream with usage", true, ": ping\n\n:\n\n" ROLE, CHUNK("{\"content\":\" the\"}", ""),
         ":\n\n" CHUNK("{}", "") CHUNK("{}", USAGE TIMINGS) DONE, 7, 32, 766.5},
        {"progress of the prompt", true,
         CHUNK("{\"role\":\"assistant\",\"content\":null}",
               ",\"timings\":{\"cache_n\":6,\"prompt_n\":0,\"predicted_n\":0,\"predicted_per_second\":0.0},"
               "\"prompt_progress\":{\"total\":7,\"cache\":6,\"processed\":6,\"time_ms\":0}") ROLE,
         CHUNK("{\"content\":\" the\"}", ""), CHUNK("{}", TIMINGS) DONE, 7, 3, 766.5},
        {"reasoning", true, ROLE, CHUNK("{\"reasoning_content\":\"hm\"}", ""), DONE, -1, -1, 0},
        {"messages stream", true,
         "event: message_start\ndata: "
         "{\"type\":\"message_start\",\"message\":{\"id\":\"c\",\"type\":\"message\","
         "\"content\":[],\"usage\":{\"cache_read_input_tokens\":6,\"input_tokens\":1,\"output_tokens\":0}}}"
         "\n\n"
         "event: content_block_start\ndata: "
         "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}"
         "\n\n"
         "event: content_block_delta\n",
         "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" "
         "the\"}}"
         "\n",
         "\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
         "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"max_tokens\"},"
         "\"usage\":{\"output_tokens\":3}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
         7, 3, 0},
        {"responses stream", true,
         "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_o\"}}\n\n"
         "event: response.in_progress\ndata: {\"type\":\"response.in_progress\",\"response\":{}}\n\n"
         "event: response.output_item.added\ndata: "
         "{\"type\":\"response.output_item.added\",\"item\":{\"content\":[]}}\n\n"
         "event: response.content_part.added\ndata: "
         "{\"type\":\"response.content_part.added\",\"part\":{\"text\":\"\"}}\n\nevent: "
         "response.output_text.delta\n",
         "data: {\"type\":\"response.output_text.delta\",\"delta\":\" the\"}\n",
         "\nevent: response.completed\ndata: "
         "{\"type\":\"response.completed\",\"response\":{\"output\":[{\"content\":["
         "{\"text\":\" the quick\"}]}],\"usage\":{\"input_tokens\":7,\"output_tokens\":4,\"total_tokens\":11,"
         "\"input_tokens_details\":{\"cached_tokens\":6}}}" TIMINGS "}\n\n\n",
         7, 4, 766.5},
        {"native stream", true, "",
         "data: {\"index\":0,\"content\":\" brown\",\"tokens\":[370],\"stop\":false,\"id_slot\":-1}\n",
         "\ndata: "
         "{\"index\":0,\"content\":\"\",\"stop\":true,\"generation_settings\":{\"stop\":[],\"samplers\":["
         "\"a\"]},"
         "\"prompt\":\"<s> say \\\"timings\\\":{\\\"predicted_n\\\":99}\",\"stop_type\":\"limit\"" TIMINGS
         "}\n\n",
         7, 3, 766.5},
        {"chat", false, "", "{",
         "\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\","
         "\"content\":\" the "
         "\\\"usage\\\":{\\\"prompt_tokens\\\":99}\"}}],\"created\":1" USAGE ",\"id\":\"c\"" TIMINGS "}",
         7, 32, 766.5},
        {"pretty", false, "", "{",
         "\n \"usage\" : {\n  \"prompt_tokens\" : 7 ,\n  \"completion_tokens\" : 8\n }\n}\n", 7, 8, 0},
        {"messages", false, "", "{",
         "\"id\":\"c\",\"content\":[{\"type\":\"tool_use\",\"input\":{\"usage\":{\"output_tokens\":99}}}],"
         "\"usage\":{"
         "\"cache_read_input_tokens\":6,\"input_tokens\":1,\"output_tokens\":3}}",
         7, 3, 0},
        {"embeddings: no tokens came out", false, "", "{",
         "\"model\":\"tiny\",\"object\":\"list\",\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4},\"data\":"
         "[]}",
         4, -1, 0},
        {"an error", false, "", "{",
         "\"error\":{\"code\":400,\"message\":\"request (40005 tokens) exceeds\",\"n_prompt_tokens\":40005}}",
         -1, -1, 0},
        {"nonsense", false, "", "{",
         "\"usage\":{\"prompt_tokens\":1e99,\"completion_tokens\":-4},\"timings\":{\"predicted_n\":\"x\","
         "\"predicted_per_second\":1e400}}",
         -1, -1, 0},
        {"a key that ends like one", false, "", "{",
         "\"\\\"usage\":{\"prompt_tokens\":99},\"x\\\"timings\":{\"predicted_n\":9}}", -1, -1, 0},
        {"keys without objects", false, "", "\"", "usage\":7,\"usage\":[{\"prompt_tokens\":3}],\"usage\"", -1,
         -1, 0},
};

static void check(const struct shape *s, const struct usage_figures *f, const char *how, size_t cut)
{
        if (f->tokens_in != s->in || f->tokens_out != s->out || f->tokens_per_second != s->pace)
                fail_msg("%s, %s %zu: %lld in, %lld out, %g/s", s->name, how, cut, (long long)f->tokens_in,
                         (long long)f->tokens_out, f->tokens_per_second);
}

static void test_cut_at_every_byte(void **state)
{
        static struct usage u;

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
                const struct shape *s = shapes + i;
                struct usage_figures f;
                char text[8192];
                size_t n = (size_t)snprintf(text, sizeof(text), "%s%s%s", s->before, s->first, s->after),
                       token;

                assert_true(n < sizeof(text));
                for (size_t cut = 0; cut <= n; cut++) {
                        usage_init(&u, s->stream);
                        (void)usage_feed(&u, text, cut);
                        (void)usage_feed(&u, text + cut, n - cut);
                        usage_end(&u, &f);
                        check(s, &f, "cut at", cut);
                }
                /* And byte by byte; the first token comes with the right one. */
                token = strlen(s->before) + strlen(s->first);
                if (s->stream && s->first[strlen(s->first) - 2] == '\n')
                        token--; /* its line is whole before the empty line */
                usage_init(&u, s->stream);
                for (size_t k = 0; k < n; k++) {
                        (void)usage_feed(&u, text + k, 1);
                        if (u.token != (k + 1 >= token))
                                fail_msg("%s: first token %s after %zu bytes, not %zu", s->name,
                                         u.token ? "came" : "did not come", k + 1, token);
                }
                usage_end(&u, &f);
                check(s, &f, "in single bytes", 0);
        }
}

/* Big answers: only their ends are kept, however they are cut. */
static void test_long_answers(void **state)
{
        static struct usage u;
        static char text[200000];
        static const char end[] = "\"}}],\"x\":1" USAGE TIMINGS "}";
        static const size_t pieces[] = {1, 7, 1000, USAGE_KEPT - 1, USAGE_KEPT, USAGE_KEPT + 1, 65536};
        struct usage_figures f;
        size_t n = sizeof(text) - sizeof(end);

        (void)state;
        memset(text, 'x', sizeof(text));
        memcpy(text, "{\"c\":\"", 6);
        memcpy(text + n, end, sizeof(end) - 1);
        n += sizeof(end) - 1;
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
                usage_init(&u, false);
                for (size_t k = 0; k < n; k += pieces[i])
                        assert_int_equal(usage_feed(&u, text + k, MIN(pieces[i], n - k)),
                                         MIN(pieces[i], n - k));
                usage_end(&u, &f);
                assert_int_equal(f.tokens_in, 7);
                assert_int_equal(f.tokens_out, 32);
                assert_true(f.tokens_per_second == 766.5);
        }
}

/* The kept end may begin in the middle of a text: a quote whose backslash was cut off begins no key. */
static void test_tail_begins_in_a_text(void **state)
{
        static struct usage u;
        static const char trap[] = "\\\"usage\\\":{\\\"prompt_tokens\\\":99}";
        char text[3 * USAGE_KEPT], bare[] = "\"usage\":{\"prompt_tokens\":99}";
        struct usage_figures f;

        (void)state;
        for (size_t shift = 0; shift < sizeof(trap); shift++) {
                memset(text, 'x', sizeof(text));
                memcpy(text + USAGE_KEPT * 2 - shift, trap, sizeof(trap) - 1);
                usage_init(&u, false);
                (void)usage_feed(&u, text, USAGE_KEPT * 2 - shift);
                (void)usage_feed(&u, text + USAGE_KEPT * 2 - shift, USAGE_KEPT + shift);
                usage_end(&u, &f);
                assert_int_equal(f.tokens_in, -1);
        }
        /* Exactly at its beginning, where nothing is known of the byte before. */
        usage_init(&u, false);
        memset(text, 'x', USAGE_KEPT + 1);
        (void)usage_feed(&u, text, USAGE_KEPT + 1);
        memset(text, ' ', USAGE_KEPT);
        memcpy(text, bare, strlen(bare));
        u.n_tail = 0;
        u.whole = false;
        (void)usage_feed(&u, text, USAGE_KEPT);
        usage_end(&u, &f);
        assert_int_equal(f.tokens_in, -1);
}

static size_t feed(struct usage *u, const char *text)
{
        return usage_feed(u, text, strlen(text));
}

static void test_signs_of_life(void **state)
{
        static const char stream[] = ": ping\n\ndata: a\n\n:\n\n: b\n\ndata: :c\n\n\r\n\n: no end";
        static struct usage u;

        (void)state;
        for (size_t cut = 0; cut < sizeof(stream); cut++) {
                usage_init(&u, true);
                assert_int_equal(usage_feed(&u, stream, cut) +
                                         usage_feed(&u, stream + cut, sizeof(stream) - 1 - cut),
                                 strlen("data: a\ndata: :c\n"));
        }
        usage_init(&u, true);
        assert_int_equal(feed(&u, ":"), 0);
        assert_int_equal(feed(&u, " a comment "), 0);
        assert_int_equal(feed(&u, "in pieces\n"), 0);
        assert_int_equal(feed(&u, "\n:\n\n"), 0);
        assert_false(u.token);
        assert_int_equal(feed(&u, "d"), 1);
        /* Of a whole answer every byte. */
        usage_init(&u, false);
        assert_int_equal(feed(&u, ":\n"), 2);
}

/* A line that does not end is a token once it is longer than what is kept; a comment never is. */
static void test_endless_lines(void **state)
{
        static struct usage u;
        char text[USAGE_KEPT];

        (void)state;
        memset(text, 'x', sizeof(text));
        usage_init(&u, true);
        (void)feed(&u, "data: ");
        (void)usage_feed(&u, text, USAGE_KEPT - 6);
        assert_false(u.token);
        (void)usage_feed(&u, text, 1);
        assert_true(u.token);
        usage_init(&u, true);
        (void)feed(&u, ": ");
        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(usage_feed(&u, text, sizeof(text)), 0);
        assert_false(u.token);
        assert_int_equal(feed(&u, "\ndata: x\n"), 8);
        assert_true(u.token);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_cut_at_every_byte),     cmocka_unit_test(test_long_answers),
                cmocka_unit_test(test_tail_begins_in_a_text), cmocka_unit_test(test_signs_of_life),
                cmocka_unit_test(test_endless_lines),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
