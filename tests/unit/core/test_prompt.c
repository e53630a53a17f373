/* test_prompt.c: job files and the requests that they become; what is refused, and with which words. */
#include "core/prompt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/text.h"

static int give_file(void *owner, const char *path, struct buffer *out, char *words)
{
        (void)owner;
        if (streq(path, "gone.txt")) {
                (void)snprintf(words, PROMPT_WORDS_SIZE, "the file gone.txt is not there");
                return -ENOENT;
        }
        if (streq(path, "binary"))
                return buffer_append(out, "\xff\xfe", 2);
        if (streq(path, "empty"))
                return 0;
        if (streq(path, "big")) {
                for (int i = 0; i < 5 << 10; i++)
                        (void)buffer_printf(out, "%1024d", i);
                return 0;
        }
        return buffer_printf(out, "<%s>\n", path);
}

static int give_command(void *owner, const char *name, struct buffer *out, char *words)
{
        (void)owner;
        if (streq(name, "fails")) {
                (void)snprintf(words, PROMPT_WORDS_SIZE, "the command fails ended with 1");
                return -EIO;
        }
        if (streq(name, "unknown")) {
                (void)snprintf(words, PROMPT_WORDS_SIZE, "the command unknown is not allowed here");
                return -EBADMSG;
        }
        return buffer_printf(out, "(%s)\n\n", name);
}

static const struct prompt_source source = {.file = give_file, .command = give_command};

/* The request's body, or NULL with *ret_r and words. */
static char *build(const char *job, int *ret_r, char *words)
{
        struct prompt *p = NULL;
        struct buffer out;
        char *body = NULL;

        words[0] = '\0';
        buffer_init(&out, PROMPT_JOB_MAX);
        *ret_r = prompt_read(job, strlen(job), &p, words);
        if (*ret_r == 0)
                *ret_r = prompt_build(p, &source, &out, words);
        if (*ret_r == 0)
                body = buffer_steal(&out);
        buffer_finish(&out);
        prompt_free(p);
        return body;
}

static void jobs_become_requests(void **state)
{
        static const struct {
                const char *job, *body, *model, *path;
        } rows[] = {
                {"{\"prompt\": \"hi\"}", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "",
                 "/v1/chat/completions"},
                {"{\"prompt\": \"hi\", \"configuration\": {\"model\": \"q\", \"seed\": 7, \"temperature\": "
                 "0.2, \"stop\": "
                 "[\"x\"]}}",
                 "{\"model\":\"q\",\"seed\":7,\"temperature\":0.2,\"stop\":[\"x\"],\"messages\":[{\"role\":"
                 "\"user\","
                 "\"content\":\"hi\"}]}",
                 "q", "/v1/chat/completions"},
                {"{\"prompt\": {\"prepend\": [\"one\", {\"text\": \"two\"}], \"base\": \"three\", "
                 "\"append\": {\"file\": "
                 "\"f\"}}}",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"one\\ntwo\\nthree\\n<f>\"}]}", "",
                 "/v1/chat/completions"},
                {"{\"prompt\": {\"base\": {\"command\": \"date\"}, \"append\": [\"\", {\"file\": \"empty\"}, "
                 "\"end\"], "
                 "\"separator\": \" \"}}",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"(date)\\n end\"}]}", "",
                 "/v1/chat/completions"},
                {"{\"prompt\": {\"system\": {\"file\": \"s\"}, \"base\": \"u\"}, \"configuration\": "
                 "{\"stream\": true}}",
                 "{\"messages\":[{\"role\":\"system\",\"content\":\"<s>\"},{\"role\":\"user\",\"content\":"
                 "\"u\"}]}",
                 "", "/v1/chat/completions"},
                {"{\"prompt\": \"once\", \"path\": \"/v1/completions\", \"configuration\": {\"max_tokens\": "
                 "5}}",
                 "{\"max_tokens\":5,\"prompt\":\"once\"}", "", "/v1/completions"},
                {"{\"prompt\": \"v\", \"path\": \"/v1/embeddings\"}", "{\"input\":\"v\"}", "",
                 "/v1/embeddings"},
                {"{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"stream\": "
                 "true, "
                 "\"stream_options\": {}}",
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", "m",
                 "/v1/chat/completions"},
                {"{\"prompt\": \"p\", \"max_tokens\": 3}", "{\"prompt\":\"p\",\"max_tokens\":3}", "",
                 "/v1/completions"},
                {"{\"prompt\": [1, 2], \"n_predict\": 3}", "{\"prompt\":[1,2],\"n_predict\":3}", "",
                 "/v1/completions"},
                {"{\"model\": \"e\", \"input\": [\"a\", \"b\"]}", "{\"model\":\"e\",\"input\":[\"a\",\"b\"]}",
                 "e", "/v1/embeddings"},
        };
        char words[PROMPT_WORDS_SIZE];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct prompt *p = NULL;
                char *body;
                int r;

                assert_int_equal(prompt_read(rows[i].job, strlen(rows[i].job), &p, words), 0);
                assert_string_equal(prompt_model(p), rows[i].model);
                assert_string_equal(prompt_path(p), rows[i].path);
                prompt_free(p);
                body = build(rows[i].job, &r, words);
                if (r < 0)
                        fail_msg("%s: %s", rows[i].job, words);
                assert_string_equal(body, rows[i].body);
                free(body);
        }
}

static void what_is_wrong_is_said(void **state)
{
        static const struct {
                const char *job;
                int r;
                const char *words;
        } rows[] = {
                {"", -EBADMSG, "is empty"},
                {"{\"prompt\": \"a\"", -EBADMSG, "is no JSON: line 1"},
                {"{\n\"prompt\":\n'a'}", -EBADMSG, "line 3"},
                {"[1]", -EBADMSG, "no object"},
                {"{}", -EBADMSG, "neither \"prompt\" nor"},
                {"{\"prompt\": 5}", -EBADMSG, "neither a string nor an object"},
                {"{\"prompt\": \"a\", \"prompt\": \"b\"}", -EBADMSG, "is no JSON"},
                {"{\"prompt\": \"\"}", -EBADMSG, "empty prompt"},
                {"{\"prompt\": {\"base\": {\"file\": \"empty\"}}}", -EBADMSG, "empty prompt"},
                {"{\"prompt\": {}}", -EBADMSG, "nothing to ask"},
                {"{\"prompt\": {\"bse\": \"a\"}}", -EBADMSG, "did you mean \"base\""},
                {"{\"prompt\": {\"base\": {\"fil\": \"a\"}}}", -EBADMSG, "did you mean \"file\""},
                {"{\"prompt\": {\"base\": {\"file\": \"a\", \"text\": \"b\"}}}", -EBADMSG, "more than one"},
                {"{\"prompt\": {\"base\": {\"file\": 5}}}", -EBADMSG, "\"file\" is no string"},
                {"{\"prompt\": {\"base\": {}}}", -EBADMSG, "prompt.base is empty"},
                {"{\"prompt\": {\"prepend\": [\"a\", 5]}}", -EBADMSG, "prompt.prepend[1]"},
                {"{\"prompt\": {\"base\": \"a\", \"separator\": 1}}", -EBADMSG, "separator"},
                {"{\"prompt\": \"a\", \"configuration\": [], \"path\": \"/v1/completions\"}", -EBADMSG,
                 "configuration is no object"},
                {"{\"prompt\": \"a\", \"configuration\": {\"messages\": []}}", -EBADMSG,
                 "configuration.messages"},
                {"{\"prompt\": \"a\", \"configuration\": {\"model\": 1}}", -EBADMSG, "model is no string"},
                {"{\"prompt\": \"a\", \"configuration\": {}, \"pth\": 1}", -EBADMSG, "did you mean \"path\""},
                {"{\"prompt\": \"a\", \"path\": \"/v1/models\"}", -EBADMSG, "path is none of"},
                {"{\"prompt\": \"a\", \"timeout\": 5}", -EBADMSG, "timeout is no duration"},
                {"{\"prompt\": \"a\", \"timeout\": \"0\"}", -EBADMSG, "timeout is no duration"},
                {"{\"prompt\": {\"system\": \"s\", \"base\": \"a\"}, \"path\": \"/v1/completions\"}",
                 -EBADMSG, "prompt.system"},
                {"{\"messages\": \"a\"}", -EBADMSG, "messages is no array"},
                {"{\"prompt\": {\"base\": {\"file\": \"gone.txt\"}}}", -EBADMSG, "gone.txt is not there"},
                {"{\"prompt\": {\"base\": {\"file\": \"binary\"}}}", -EBADMSG, "is not UTF-8"},
                {"{\"prompt\": {\"base\": {\"file\": \"big\"}}}", -EBADMSG, "more than 4 MB"},
                {"{\"prompt\": {\"base\": {\"command\": \"fails\"}}}", -EAGAIN, "ended with 1"},
                {"{\"prompt\": {\"base\": {\"command\": \"unknown\"}}}", -EBADMSG, "not allowed"},
        };
        char words[PROMPT_WORDS_SIZE];

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int r;
                char *body = build(rows[i].job, &r, words);

                assert_null(body);
                if (r != rows[i].r || !strstr(words, rows[i].words))
                        fail_msg("%s: %d \"%s\"", rows[i].job, r, words);
        }
}

static void parts_and_times_are_told(void **state)
{
        static const char with[] =
                "{\"prompt\": {\"base\": \"a\", \"append\": [\"b\", {\"command\": \"c\"}]}, \"timeout\": "
                "\"90s\"}";
        static const char without[] = "{\"prompt\": {\"base\": {\"text\": \"a\"}}}";
        char words[PROMPT_WORDS_SIZE];
        struct prompt *p;

        (void)state;
        assert_int_equal(prompt_read(with, strlen(with), &p, words), 0);
        assert_true(prompt_asks_for_parts(p));
        assert_int_equal(prompt_timeout(p), 90 * USEC_PER_SEC);
        prompt_free(p);
        assert_int_equal(prompt_read(without, strlen(without), &p, words), 0);
        assert_false(prompt_asks_for_parts(p));
        assert_int_equal(prompt_timeout(p), 0);
        prompt_free(p);
}

static void too_many_parts(void **state)
{
        char words[PROMPT_WORDS_SIZE], *body;
        struct buffer job;
        int r;

        (void)state;
        buffer_init(&job, 0);
        (void)buffer_puts(&job, "{\"prompt\": {\"base\": \"x\", \"append\": [\"a\"");
        for (int i = 0; i < PROMPT_PARTS_MAX; i++)
                (void)buffer_puts(&job, ", \"a\"");
        (void)buffer_puts(&job, "]}}");
        body = build(job.data, &r, words);
        assert_null(body);
        assert_int_equal(r, -EBADMSG);
        assert_non_null(strstr(words, "more than 64 parts"));
        buffer_finish(&job);
}

static void what_grows_too_long_is_refused(void **state)
{
        static const char one[] = "{\"file\": \"f\"}";
        char words[PROMPT_WORDS_SIZE], *body;
        struct buffer job;
        int r;

        (void)state;
        buffer_init(&job, 0);
        (void)buffer_puts(&job, "{\"prompt\": {\"base\": \"");
        for (int i = 0; i < 3 << 10; i++)
                (void)buffer_printf(&job, "%01024d", i);
        (void)buffer_printf(&job, "\", \"prepend\": [%s], \"append\": [\"", one);
        for (int i = 0; i < 3 << 10; i++)
                (void)buffer_printf(&job, "%01024d", i);
        (void)buffer_puts(&job, "\", \"");
        for (int i = 0; i < 3 << 10; i++)
                (void)buffer_printf(&job, "%01024d", i);
        (void)buffer_puts(&job, "\"]}}");
        body = build(job.data, &r, words);
        assert_null(body);
        assert_int_equal(r, -EBADMSG);
        assert_non_null(strstr(words, "longer than 8 MB"));
        buffer_finish(&job);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(jobs_become_requests),           cmocka_unit_test(what_is_wrong_is_said),
                cmocka_unit_test(parts_and_times_are_told),       cmocka_unit_test(too_many_parts),
                cmocka_unit_test(what_grows_too_long_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
