/* fuzz_prompt.c: any bytes as a job file: it is refused with words, or becomes a request that is a JSON object. Names of the folder, too. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "core/prompt.h"
#include "core/spool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int give(void *owner, const char *name, struct buffer *out, char *words)
{
        (void)owner;
        if (*name == '!') {
                (void)strcpy(words, "refused");
                return -EIO;
        }
        return buffer_puts(out, name);
}

static void must(bool what)
{
        if (!what)
                abort();
}

static void check_names(const char *file)
{
        char name[SPOOL_FILE_SIZE], key[SPOOL_NAME_SIZE], again[SPOOL_FILE_SIZE];
        unsigned attempt;
        int64_t epoch;
        enum spool_claim which;
        bool flag;

        if (strlen(file) >= SPOOL_FILE_SIZE)
                return;
        must(!spool_name_fault(spool_key(file, key)));
        if (spool_read_job(file, name))
                must(strcmp(spool_job_file(name, again), file) == 0);
        if (spool_read_claim(file, key, &attempt, &which))
                must(strcmp(spool_claim_file(key, attempt, which, again), file) == 0);
        if (spool_read_result(file, key, &epoch))
                must(!spool_name_fault(key));
        if (spool_read_failure(file, key, &epoch, &attempt, &flag))
                must(!spool_name_fault(key) && attempt > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        const struct prompt_source source = {.file = give, .command = give};
        char words[PROMPT_WORDS_SIZE] = "", *text = malloc(size + 1);
        struct prompt *p = NULL;
        struct buffer out;

        must(text != NULL);
        memcpy(text, data, size);
        text[size] = '\0';
        check_names(text);
        buffer_init(&out, PROMPT_JOB_MAX);
        if (prompt_read(text, size, &p, words) == 0) {
                int r = prompt_build(p, &source, &out, words);

                must(r == 0 ? json_check(out.data, out.len, NULL) == 0 && *out.data == '{' : *words != '\0');
        } else {
                must(*words != '\0');
        }
        buffer_finish(&out);
        prompt_free(p);
        free(text);
        return 0;
}
