/* test_convex.c: the sync protocol of Convex: what is said, heard, said again; refusals, pieces of text, patience. */
#include "core/convex.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/macros.h"

#define SESSION "e4a61fc5-8f76-4dbd-a958-7696153fec63"

struct scene {
        struct convex c;
        char said[32][600];
        unsigned n;
        int answer;
};

static int say(void *owner, const char *frame, size_t len)
{
        struct scene *s = owner;

        assert_true(s->n < ARRAY_SIZE(s->said) && len < sizeof s->said[0]);
        memcpy(s->said[s->n], frame, len);
        s->said[s->n++][len] = '\0';
        return s->answer;
}

static void scene_init(struct scene *s)
{
        static const unsigned char random[16];

        *s = (struct scene){0};
        assert_int_equal(convex_init(&s->c, SESSION, random, 0, "k"), 0);
}

static void hear(struct scene *s, const char *frame, struct convex_event *ret)
{
        assert_int_equal(convex_take(&s->c, frame, strlen(frame), ret), 0);
}

static enum convex_kind kind_of(struct scene *s, const char *frame)
{
        struct convex_event e;
        enum convex_kind kind;

        hear(s, frame, &e);
        kind = e.kind;
        convex_event_finish(&e);
        return kind;
}

static void assert_said(const struct scene *s, unsigned i, const char *frame)
{
        assert_true(i < s->n);
        assert_string_equal(s->said[i], frame);
}

#define TS0 "\"ts\":\"AAAAAAAAAAA=\""
#define TS1 "\"ts\":\"AQAAAAAAAAA=\""

static void what_a_connection_begins_with(void **state)
{
        struct convex_mutation *m, *second;
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(convex_mutate(&s.c, "workers:giveMeWork", "", NULL, say, &s, &m), 0);
        assert_int_equal(s.n, 0); /* not connected: later */
        assert_int_equal(convex_ask(&s.c, true, say, &s), 0);
        assert_int_equal(convex_open(&s.c, 1795173308747, say, &s), 0);
        assert_int_equal(s.n, 3);
        assert_said(&s, 0,
                    "{\"type\":\"Connect\",\"sessionId\":\"" SESSION
                    "\",\"connectionCount\":0,\"lastCloseReason\":\"InitialConnect\",\"clientTs\":"
                    "1795173308747}");
        assert_said(&s, 1,
                    "{\"type\":\"ModifyQuerySet\",\"baseVersion\":0,\"newVersion\":1,\"modifications\":["
                    "{\"type\":\"Add\",\"queryId\":0,\"udfPath\":\"workers:isThereWork\",\"args\":[{}]}]}");
        assert_said(&s, 2,
                    "{\"type\":\"Mutation\",\"requestId\":0,\"udfPath\":\"workers:giveMeWork\",\"args\":["
                    "{\"apiKey\":\"k\"}]}");
        /* Gone without an answer: all of it again, in order, under the old numbers. */
        assert_int_equal(convex_mutate(&s.c, "workers:submitWork", "\"jobId\":\"j\"", NULL, say, &s, &second),
                         0);
        assert_said(&s, 3,
                    "{\"type\":\"Mutation\",\"requestId\":1,\"udfPath\":\"workers:submitWork\",\"args\":["
                    "{\"apiKey\":\"k\",\"jobId\":\"j\"}]}");
        convex_closed(&s.c, "SystemTimeoutError");
        assert_int_equal(convex_ask(&s.c, false, say, &s), 0);
        assert_int_equal(s.n, 4);
        assert_int_equal(convex_open(&s.c, 5, say, &s), 0);
        assert_int_equal(s.n, 7);
        assert_said(&s, 4,
                    "{\"type\":\"Connect\",\"sessionId\":\"" SESSION
                    "\",\"connectionCount\":1,\"lastCloseReason\":\"SystemTimeoutError\",\"clientTs\":5}");
        assert_string_equal(s.said[5], s.said[2]);
        assert_string_equal(s.said[6], s.said[3]);
        convex_finish(&s.c);
}

static void questions_and_their_versions(void **state)
{
        struct convex_event e;
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(convex_open(&s.c, 1, say, &s), 0);
        assert_int_equal(convex_ask(&s.c, true, say, &s), 0);
        assert_int_equal(convex_ask(&s.c, true, say, &s), 0);
        assert_int_equal(s.n, 2);
        hear(&s,
             "{\"type\":\"Transition\",\"startVersion\":{\"querySet\":0,\"identity\":0," TS0
             "},\"endVersion\":{\"querySet\":1,\"identity\":0," TS1 "},\"modifications\":["
             "{\"type\":\"QueryUpdated\",\"queryId\":0,\"value\":true,\"logLines\":[],\"journal\":null}]}",
             &e);
        assert_int_equal(e.kind, CONVEX_VALUE);
        assert_true(e.value);
        convex_event_finish(&e);
        assert_int_equal(convex_ask(&s.c, false, say, &s), 0);
        assert_said(&s, 2,
                    "{\"type\":\"ModifyQuerySet\",\"baseVersion\":1,\"newVersion\":2,\"modifications\":["
                    "{\"type\":\"Remove\",\"queryId\":0}]}");
        /* What was on its way is of no interest any more. */
        assert_int_equal(
                kind_of(&s, "{\"type\":\"Transition\",\"startVersion\":{\"querySet\":1,\"identity\":0," TS1
                            "},\"endVersion\":{\"querySet\":1,\"identity\":0," TS1 "},\"modifications\":["
                            "{\"type\":\"QueryUpdated\",\"queryId\":0,\"value\":true}]}"),
                CONVEX_NOTHING);
        assert_int_equal(convex_ask(&s.c, true, say, &s), 0);
        assert_non_null(strstr(s.said[3], "\"baseVersion\":2,\"newVersion\":3"));
        assert_non_null(strstr(s.said[3], "\"queryId\":1"));
        assert_int_equal(
                kind_of(&s, "{\"type\":\"Transition\",\"startVersion\":{\"querySet\":1,\"identity\":0," TS1
                            "},\"endVersion\":{\"querySet\":3,\"identity\":0," TS1 "},\"modifications\":["
                            "{\"type\":\"QueryFailed\",\"queryId\":1,\"errorMessage\":\"no\"}]}"),
                CONVEX_QUERY_FAILED);
        /* Does not begin where the last one ended. */
        assert_int_equal(
                kind_of(&s, "{\"type\":\"Transition\",\"startVersion\":{\"querySet\":1,\"identity\":0," TS1
                            "},\"endVersion\":{\"querySet\":3,\"identity\":0," TS1 "},\"modifications\":[]}"),
                CONVEX_BROKEN);
        convex_finish(&s.c);
}

static void answers(void **state)
{
        struct convex_mutation *a, *b;
        struct convex_event e;
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(convex_open(&s.c, 1, say, &s), 0);
        assert_int_equal(convex_mutate(&s.c, "p:a", "", &s, say, &s, &a), 0);
        assert_int_equal(convex_mutate(&s.c, "p:b", "", NULL, say, &s, &b), 0);
        hear(&s,
             "{\"type\":\"MutationResponse\",\"requestId\":1,\"success\":false,\"result\":\"boom\",\"ts\":"
             "null}",
             &e);
        assert_int_equal(e.kind, CONVEX_ANSWER);
        assert_ptr_equal(e.mutation, b);
        assert_false(e.success);
        assert_string_equal(e.text, "boom");
        convex_event_finish(&e);
        hear(&s,
             "{\"type\":\"MutationResponse\",\"requestId\":0,\"success\":true,\"result\":{\"jobId\":\"j\"}}",
             &e);
        assert_ptr_equal(e.mutation, a);
        assert_ptr_equal(e.mutation->mark, &s);
        assert_true(e.success);
        assert_string_equal(json_get_string(e.result, "jobId"), "j");
        convex_event_finish(&e);
        assert_int_equal(s.c.n_mutations, 0);
        /* Once more, or of another life: nobody waits for it. */
        assert_int_equal(kind_of(&s, "{\"type\":\"MutationResponse\",\"requestId\":0,\"success\":true}"),
                         CONVEX_NOTHING);
        assert_int_equal(kind_of(&s, "{\"type\":\"Ping\"}"), CONVEX_NOTHING);
        assert_int_equal(kind_of(&s, "{\"type\":\"FatalError\",\"error\":\"x\"}"), CONVEX_FATAL);
        assert_int_equal(kind_of(&s, "{\"type\":\"AuthError\",\"error\":\"x\"}"), CONVEX_FATAL);
        assert_int_equal(kind_of(&s, "{\"type\":\"SomethingNew\"}"), CONVEX_NOTHING);
        assert_int_equal(kind_of(&s, "[]"), CONVEX_BROKEN);
        assert_int_equal(kind_of(&s, "{"), CONVEX_BROKEN);
        assert_int_equal(kind_of(&s, "{\"type\":\"Transition\"}"), CONVEX_BROKEN);
        convex_finish(&s.c);
}

#define CHUNK(i, n, id, text)                                                                                \
        "{\"type\":\"TransitionChunk\",\"chunk\":\"" text "\",\"partNumber\":" #i ",\"totalParts\":" #n      \
        ",\"transitionId\":\"" id "\"}"

static void pieces_of_a_transition(void **state)
{
        struct scene s;

        (void)state;
        scene_init(&s);
        assert_int_equal(convex_open(&s.c, 1, say, &s), 0);
        assert_int_equal(convex_ask(&s.c, true, say, &s), 0);
        assert_int_equal(
                kind_of(&s,
                        CHUNK(0, 3, "t",
                              "{\\\"type\\\":\\\"Transition\\\",\\\"startVersion\\\":{\\\"querySet\\\":0,")),
                CONVEX_NOTHING);
        assert_int_equal(kind_of(&s, CHUNK(1, 3, "t",
                                           "\\\"identity\\\":0,\\\"ts\\\":\\\"AAAAAAAAAAA=\\\"},"
                                           "\\\"endVersion\\\":{\\\"querySet\\\":1,\\\"identity\\\":0,")),
                         CONVEX_NOTHING);
        assert_int_equal(
                kind_of(&s, CHUNK(2, 3, "t",
                                  "\\\"ts\\\":\\\"AQAAAAAAAAA=\\\"},\\\"modifications\\\":[{\\\"type\\\":"
                                  "\\\"QueryUpdated\\\",\\\"queryId\\\":0,\\\"value\\\":true}]}")),
                CONVEX_VALUE);
        assert_int_equal(kind_of(&s, CHUNK(0, 2, "t", "a")), CONVEX_NOTHING);
        assert_int_equal(kind_of(&s, CHUNK(1, 2, "u", "b")), CONVEX_BROKEN);
        assert_int_equal(kind_of(&s, CHUNK(1, 2, "t", "b")), CONVEX_BROKEN);
        assert_int_equal(kind_of(&s, CHUNK(0, 0, "t", "b")), CONVEX_BROKEN);
        assert_int_equal(kind_of(&s, CHUNK(2, 2, "t", "b")), CONVEX_BROKEN);
        convex_finish(&s.c);
}

static void sessions(void **state)
{
        static const unsigned char random[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
        struct convex_mutation *m;
        struct scene s = {0};

        (void)state;
        assert_int_equal(convex_init(&s.c, NULL, random, 7, "k"), 0);
        assert_string_equal(s.c.session, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_int_equal(convex_restore(&s.c, 9, "p:a", "", NULL), 0);
        assert_int_equal(s.c.next_request, 10);
        assert_int_equal(convex_restore(&s.c, 8, "p:b", "", NULL), 0);
        assert_int_equal(s.c.next_request, 10);
        assert_int_equal(convex_open(&s.c, 1, say, &s), 0);
        assert_non_null(strstr(s.said[1], "\"requestId\":9"));
        for (unsigned i = 2; i < CONVEX_PENDING_MAX; i++)
                assert_int_equal(convex_mutate(&s.c, "p:c", "", NULL, NULL, NULL, &m), 0);
        assert_int_equal(convex_mutate(&s.c, "p:c", "", NULL, NULL, NULL, &m), -EAGAIN);
        convex_finish(&s.c);
        assert_int_equal(convex_init(&s.c, "no uuid", random, 0, "k"), -EINVAL);
        convex_finish(&s.c);
}

static void refusals(void **state)
{
        static const struct {
                const char *text, *words;
                enum convex_refusal refusal;
        } rows[] = {
                {"[Request ID: x] Server Error\nUncaught Error: Invalid API key\n  at h", "Invalid API key",
                 CONVEX_KEY},
                {"[Request ID: x] Server Error", "Server Error", CONVEX_HIDDEN},
                {"[Request ID: x] Server Error \n", "Server Error ", CONVEX_HIDDEN},
                {"[Request ID: x] Server Error\nUncaught Error: Job is not assigned to this worker",
                 "Job is not assigned to this worker", CONVEX_NOT_OURS},
                {"Uncaught Error: Job is not in progress: timedOut", "Job is not in progress: timedOut",
                 CONVEX_NOT_RUNNING},
                {"Value is too large", "Value is too large", CONVEX_OTHER},
                {"", "", CONVEX_OTHER},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char words[64];

                assert_int_equal(convex_refusal_of(rows[i].text), rows[i].refusal);
                assert_string_equal(convex_words(rows[i].text, words, sizeof words), rows[i].words);
        }
}

static void pieces_of_text(void **state)
{
        char hundred[102], umlauts[202];

        (void)state;
        memset(hundred, 'x', sizeof hundred);
        for (unsigned i = 0; i < 202; i += 2) {
                umlauts[i] = '\xc3';
                umlauts[i + 1] = '\xa4';
        }
        assert_int_equal(convex_piece("", 0), 0);
        assert_int_equal(convex_piece("Hello", 5), 0);
        assert_int_equal(convex_piece("Hello there. How", 16), 12);
        assert_int_equal(convex_piece("Well... and", 11), 7);
        assert_int_equal(convex_piece("a\nb", 3), 2);
        assert_int_equal(convex_piece("a, b", 4), 2);
        assert_int_equal(convex_piece("What?! No", 9), 6);
        assert_int_equal(convex_piece(hundred, 100), 0);
        assert_int_equal(convex_piece(hundred, 101), 101);
        assert_int_equal(convex_piece(umlauts, 200), 0); /* characters, not bytes */
        assert_int_equal(convex_piece(umlauts, 202), 202);
}

static void patience(void **state)
{
        (void)state;
        assert_true(convex_backoff(NULL, 0, 0) == 50 * USEC_PER_MSEC);
        assert_true(convex_backoff(NULL, 0, UINT32_MAX) == 150 * USEC_PER_MSEC);
        assert_true(convex_backoff("", 0, 0) == USEC_PER_SEC / 2);
        assert_true(convex_backoff("TooManyConcurrentRequests: x", 0, 0) == 3 * USEC_PER_SEC / 2);
        assert_true(convex_backoff("", 2, 0) == 2 * USEC_PER_SEC);
        assert_true(convex_backoff("", 100, UINT32_MAX) == 24 * USEC_PER_SEC);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_a_connection_begins_with),
                cmocka_unit_test(questions_and_their_versions),
                cmocka_unit_test(answers),
                cmocka_unit_test(pieces_of_a_transition),
                cmocka_unit_test(sessions),
                cmocka_unit_test(refusals),
                cmocka_unit_test(pieces_of_text),
                cmocka_unit_test(patience),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
