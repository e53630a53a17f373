/* ensemble.c: normalised texts, counting, and when it is decided. */
#include "core/ensemble.h"

#include <errno.h>

#include "base/slice.h"

static const char *const names[ENSEMBLE_COMBINES] = {
        [ENSEMBLE_VOTE] = "vote",
        [ENSEMBLE_WEIGHTED] = "weighted",
        [ENSEMBLE_LONGEST] = "longest",
        [ENSEMBLE_FIRST] = "first",
};

const char *ensemble_combine_name(enum ensemble_combine c)
{
        return names[c];
}

int ensemble_combine_parse(const char *word, enum ensemble_combine *ret)
{
        for (unsigned i = 0; i < ENSEMBLE_COMBINES; i++)
                if (streq(names[i], word)) {
                        *ret = i;
                        return 0;
                }
        return -EINVAL;
}

void ensemble_init(struct ensemble *e, enum ensemble_combine combine, unsigned n, const double *weights)
{
        *e = (struct ensemble){.combine = combine, .n = MIN(n, (unsigned)ENSEMBLE_MAX)};
        for (unsigned i = 0; i < e->n; i++)
                e->weights[i] = weights && combine == ENSEMBLE_WEIGHTED ? weights[i] : 1;
}

void ensemble_finish(struct ensemble *e)
{
        for (unsigned i = 0; i < e->n_answers; i++) {
                free(e->answers[i].text);
                free(e->answers[i].normal);
        }
        *e = (struct ensemble){0};
}

static bool is_space(char c)
{
        return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/* In place, never longer. */
static void normalise(char *text)
{
        char *to = text;

        for (const char *from = text; *from; from++) {
                if (!is_space(*from))
                        *to++ = (char)ascii_lower((unsigned char)*from);
                else if (to > text && to[-1] != ' ')
                        *to++ = ' ';
        }
        while (to > text && (to[-1] == ' ' || to[-1] == '.' || to[-1] == '!' || to[-1] == '?'))
                to--;
        *to = '\0';
}

int ensemble_add(struct ensemble *e, unsigned member, const char *text, int64_t tokens)
{
        struct ensemble_answer a = {
                .member = member, .text = strdup(text), .normal = strdup(text), .tokens = tokens};

        e->over[member] = true;
        if (!a.text || !a.normal) {
                free(a.text);
                free(a.normal);
                return -ENOMEM;
        }
        normalise(a.normal);
        e->answers[e->n_answers++] = a;
        return 0;
}

void ensemble_weigh(struct ensemble *e, unsigned member, double weight)
{
        if (e->combine == ENSEMBLE_WEIGHTED)
                e->weights[member] = MIN(weight, e->weights[member]);
}

void ensemble_fail(struct ensemble *e, unsigned member)
{
        e->over[member] = true;
}

/* --- counting ------------------------------------------------------------------------------------------------------ */

/* Answer i is the first of its text. */
static bool is_first(const struct ensemble *e, unsigned i)
{
        for (unsigned j = 0; j < i; j++)
                if (streq(e->answers[i].normal, e->answers[j].normal))
                        return false;
        return true;
}

static double weight_of(const struct ensemble *e, unsigned i)
{
        double sum = 0;

        for (unsigned j = i; j < e->n_answers; j++)
                if (streq(e->answers[i].normal, e->answers[j].normal))
                        sum += e->weights[e->answers[j].member];
        return sum;
}

/* What those that are not over could still add. */
static double pending(const struct ensemble *e)
{
        double sum = 0;

        for (unsigned i = 0; i < e->n; i++)
                if (!e->over[i])
                        sum += e->weights[i];
        return sum;
}

/* Weights come out of a configuration as decimals: sums of them are equal when nobody could tell them apart. */
static bool is_more(double a, double b)
{
        return a > b + 1e-9;
}

static int winner(const struct ensemble *e)
{
        int best = -1;

        for (unsigned i = 0; i < e->n_answers; i++) {
                const struct ensemble_answer *a = e->answers + i;

                switch (e->combine) {
                case ENSEMBLE_LONGEST:
                        if (best < 0 || a->tokens > e->answers[best].tokens)
                                best = (int)i;
                        break;
                case ENSEMBLE_VOTE:
                case ENSEMBLE_WEIGHTED:
                        if (is_first(e, i) &&
                            (best < 0 || is_more(weight_of(e, i), weight_of(e, (unsigned)best))))
                                best = (int)i;
                        break;
                default:
                        return 0;
                }
        }
        return best;
}

const struct ensemble_answer *ensemble_winner(const struct ensemble *e)
{
        int best = winner(e);

        return best < 0 ? NULL : e->answers + best;
}

bool ensemble_is_decided(const struct ensemble *e)
{
        double rest = pending(e), lead;
        int best = winner(e);

        if (rest <= 0)
                return true;
        if (best < 0 || e->combine == ENSEMBLE_LONGEST)
                return false;
        if (e->combine == ENSEMBLE_FIRST)
                return true;
        /* All that is pending for the next one: equal is enough for who came first. */
        lead = weight_of(e, (unsigned)best);
        for (unsigned i = 0; i < e->n_answers; i++) {
                if (!is_first(e, i) || (int)i == best)
                        continue;
                if (is_more(weight_of(e, i) + rest, lead) ||
                    ((int)i < best && !is_more(lead, weight_of(e, i) + rest)))
                        return false;
        }
        return !is_more(rest, lead);
}

static void put_group(const struct ensemble *e, unsigned i, struct json_writer *w)
{
        unsigned votes = 0;

        json_open_object(w);
        json_string(w, "text", e->answers[i].text);
        for (unsigned j = i; j < e->n_answers; j++)
                votes += streq(e->answers[i].normal, e->answers[j].normal);
        json_uint(w, "votes", votes);
        json_double(w, "weight", weight_of(e, i), 3);
        json_key(w, "members");
        json_open_array(w);
        for (unsigned j = i; j < e->n_answers; j++)
                if (streq(e->answers[i].normal, e->answers[j].normal))
                        json_put_uint(w, e->answers[j].member);
        json_close_array(w);
        json_close_object(w);
}

void ensemble_put_votes(const struct ensemble *e, struct json_writer *w)
{
        int best = winner(e);
        unsigned top = 0;

        json_open_array(w);
        if (best >= 0) {
                /* The group of the winner, by its first answer. */
                while (!streq(e->answers[top].normal, e->answers[best].normal))
                        top++;
                put_group(e, top, w);
                for (unsigned i = 0; i < e->n_answers; i++)
                        if (i != top && is_first(e, i))
                                put_group(e, i, w);
        }
        json_close_array(w);
}
