/* spool.c: the names of a spool folder, read and written. */
#include "core/spool.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/macros.h"
#include "base/text.h"

enum { EPOCH_DIGITS_MAX = 15, ATTEMPT_DIGITS_MAX = 6 };

#define JOB   ".json"
#define FINAL ".final"

static const char *const claim_ends[] = {
        [SPOOL_CLAIMED] = "", [SPOOL_GIVEN_BACK] = ".free", [SPOOL_DIED] = ".dead"};

/* --- one name ------------------------------------------------------------------------------------------------------ */

static bool is_plain(const char *s)
{
        size_t len = strlen(s), n;

        for (const unsigned char *p = (const unsigned char *)s; len; p += n, len -= n) {
                n = text_utf8_sequence(p, len);
                if (n == 0 || *p < 0x20 || *p == 0x7f || *p == '/' || (n == 2 && *p == 0xc2 && p[1] < 0xa0))
                        return false;
        }
        return true;
}

const char *spool_name_fault(const char *name)
{
        if (!*name)
                return "is empty";
        if (*name == '.' || *name == '~')
                return "begins with a dot or a tilde, as hidden files do";
        if (strlen(name) >= SPOOL_NAME_SIZE)
                return "is longer than 150 bytes";
        if (!is_plain(name))
                return "is not UTF-8 text without control characters";
        return NULL;
}

static uint64_t hash_of(const char *s)
{
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        for (; *s; s++)
                h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
        return h;
}

char *spool_key(const char *name, char ret[SPOOL_NAME_SIZE])
{
        char shown[81];

        if (!spool_name_fault(name))
                return text_copy(ret, SPOOL_NAME_SIZE, name);
        (void)text_copy(shown, sizeof(shown), name);
        for (char *p = shown; *p; p++)
                if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '/' ||
                    (p == shown && (*p == '.' || *p == '~')))
                        *p = '_';
        (void)snprintf(ret, SPOOL_NAME_SIZE, "%s~%016" PRIx64, *shown ? shown : "_", hash_of(name));
        return ret;
}

char *spool_new_name(int64_t epoch, uint32_t random, char ret[SPOOL_NAME_SIZE])
{
        (void)snprintf(ret, SPOOL_NAME_SIZE, "job-%" PRId64 "-%08" PRIx32, epoch, random);
        return ret;
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

/* A part of a file's name that is still to be read. */
struct part {
        const char *s;
        size_t len;
};

static bool take_end(struct part *p, const char *end)
{
        size_t n = strlen(end);

        if (p->len < n || memcmp(p->s + p->len - n, end, n) != 0)
                return false;
        p->len -= n;
        return true;
}

/* ".12" at the end: 1 or more, without zeros in front. */
static bool take_attempt(struct part *p, unsigned *ret)
{
        size_t n = 0;
        unsigned v = 0;

        while (n < p->len && p->s[p->len - n - 1] >= '0' && p->s[p->len - n - 1] <= '9')
                n++;
        if (n == 0 || n > ATTEMPT_DIGITS_MAX || n + 1 > p->len || p->s[p->len - n] == '0' ||
            p->s[p->len - n - 1] != '.')
                return false;
        for (size_t i = p->len - n; i < p->len; i++)
                v = v * 10 + (unsigned)(p->s[i] - '0');
        p->len -= n + 1;
        *ret = v;
        return true;
}

/* "1790000000_" in front. */
static bool take_epoch(struct part *p, int64_t *ret)
{
        int64_t v = 0;
        size_t n = 0;

        for (; n < p->len && n <= EPOCH_DIGITS_MAX && p->s[n] >= '0' && p->s[n] <= '9'; n++)
                v = v * 10 + (p->s[n] - '0');
        if (n == 0 || n > EPOCH_DIGITS_MAX || n == p->len || p->s[n] != '_')
                return false;
        p->s += n + 1;
        p->len -= n + 1;
        *ret = v;
        return true;
}

static bool take_name(const struct part *p, char ret[SPOOL_NAME_SIZE])
{
        char name[SPOOL_NAME_SIZE];

        if (p->len >= sizeof(name))
                return false;
        memcpy(name, p->s, p->len);
        name[p->len] = '\0';
        if (strlen(name) != p->len || spool_name_fault(name))
                return false;
        memcpy(ret, name, p->len + 1);
        return true;
}

static struct part part_of(const char *file)
{
        return (struct part){file, strlen(file)};
}

bool spool_read_job(const char *file, char ret_name[SPOOL_FILE_SIZE])
{
        struct part p = part_of(file);

        if (*file == '.' || *file == '~' || p.len >= SPOOL_FILE_SIZE || !take_end(&p, JOB) || p.len == 0)
                return false;
        memcpy(ret_name, p.s, p.len);
        ret_name[p.len] = '\0';
        return true;
}

bool spool_read_claim(const char *file, char ret_name[SPOOL_NAME_SIZE], unsigned *ret_attempt,
                      enum spool_claim *ret)
{
        struct part p = part_of(file);
        enum spool_claim which = take_end(&p, claim_ends[SPOOL_GIVEN_BACK]) ? SPOOL_GIVEN_BACK
                                 : take_end(&p, claim_ends[SPOOL_DIED])     ? SPOOL_DIED
                                                                            : SPOOL_CLAIMED;
        unsigned attempt;

        if (!take_attempt(&p, &attempt) || !take_name(&p, ret_name))
                return false;
        *ret_attempt = attempt;
        *ret = which;
        return true;
}

bool spool_read_result(const char *file, char ret_name[SPOOL_NAME_SIZE], int64_t *ret_epoch)
{
        struct part p = part_of(file);
        int64_t epoch;

        if (!take_end(&p, JOB) || !take_epoch(&p, &epoch) || !take_name(&p, ret_name))
                return false;
        *ret_epoch = epoch;
        return true;
}

bool spool_read_failure(const char *file, char ret_name[SPOOL_NAME_SIZE], int64_t *ret_epoch,
                        unsigned *ret_attempt, bool *ret_final)
{
        struct part p = part_of(file);
        bool final;
        unsigned attempt;
        int64_t epoch;

        if (!take_end(&p, JOB))
                return false;
        final = take_end(&p, FINAL);
        if (!take_epoch(&p, &epoch) || !take_attempt(&p, &attempt) || !take_name(&p, ret_name))
                return false;
        *ret_epoch = epoch;
        *ret_attempt = attempt;
        *ret_final = final;
        return true;
}

bool spool_read_retry(const char *file, char ret_name[SPOOL_NAME_SIZE], unsigned *ret_attempt)
{
        struct part p = part_of(file);

        return take_attempt(&p, ret_attempt) && take_name(&p, ret_name);
}

/* --- writing -------------------------------------------------------------------------------------------------------- */

char *spool_job_file(const char *name, char ret[SPOOL_FILE_SIZE])
{
        (void)snprintf(ret, SPOOL_FILE_SIZE, "%s" JOB, name);
        return ret;
}

char *spool_claim_file(const char *name, unsigned attempt, enum spool_claim which, char ret[SPOOL_FILE_SIZE])
{
        (void)snprintf(ret, SPOOL_FILE_SIZE, "%s.%u%s", name, attempt, claim_ends[which]);
        return ret;
}

char *spool_result_file(const char *name, int64_t epoch, char ret[SPOOL_FILE_SIZE])
{
        (void)snprintf(ret, SPOOL_FILE_SIZE, "%" PRId64 "_%s" JOB, epoch, name);
        return ret;
}

char *spool_failure_file(const char *name, int64_t epoch, unsigned attempt, bool final,
                         char ret[SPOOL_FILE_SIZE])
{
        (void)snprintf(ret, SPOOL_FILE_SIZE, "%" PRId64 "_%s.%u%s" JOB, epoch, name, attempt,
                       final ? FINAL : "");
        return ret;
}

/* --- words ---------------------------------------------------------------------------------------------------------- */

const char *spool_verdict_name(enum spool_verdict v)
{
        static const char *const names[] = {
                [SPOOL_OPEN] = "open",
                [SPOOL_WAITING] = "retrying",
                [SPOOL_FAILED] = "failed",
                [SPOOL_DONE] = "done",
        };

        return names[v];
}

uint64_t spool_backoff(const struct spool_policy *p, unsigned failures)
{
        uint64_t wait = p->backoff;

        for (unsigned i = 1; i < failures && wait < p->backoff_max; i++)
                wait *= 2;
        return MIN(wait, p->backoff_max);
}
