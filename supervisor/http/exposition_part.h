/* exposition_part.h: metric families over samples, which is the shape of each part of /metrics: instances, models, seats, GPUs, hubs.
 *
 * A part holds a snapshot: samples of the owner's own type, which begins with struct exposition_sample, and their labels, written once and
 * kept as text. Its rows are the families: one function writes what a sample (`each`) or the part as a whole (`once`) has in that family.
 * exposition_part_more goes through rows and samples, and stops where enough is written. Errors of memory show in the part (`failed`) and in
 * the buffers. */
#ifndef LSV_HTTP_EXPOSITION_PART_H
#define LSV_HTTP_EXPOSITION_PART_H

#include "http/exposition_text.h"

struct exposition_part;
struct exposition_row;
/* sample: the owner's own. */
typedef void exposition_each_fn(const struct exposition_part *p, const struct exposition_row *row,
                                const void *sample, struct buffer *out);
typedef void exposition_once_fn(const struct exposition_part *p, const struct exposition_row *row,
                                struct buffer *out);

struct exposition_row {
        const char *name, *type, *help;
        exposition_each_fn *each; /* one of the two */
        exposition_once_fn *once;
        size_t offset;                        /* in the sample, of the number for the writers below */
        bool (*is_there)(const void *sample); /* which samples have it; NULL: all */
        bool (*figure)(const void *sample, double *ret); /* for exposition_each_figure; false: it has none */
};

struct exposition_sample {
        size_t labels, labels_len; /* in the arena */
};

struct exposition_part {
        char *samples;
        size_t n, max, size; /* size: of one */
        struct buffer arena;
        size_t row, at; /* what is written next */
};

/* Room for at most max samples of that size. 0 or -ENOMEM; to be finished in both cases. */
int exposition_part_init(struct exposition_part *p, size_t max, size_t size);
void exposition_part_finish(struct exposition_part *p);
/* The next sample, zeroed, without labels; NULL: there are max already. */
void *exposition_part_add(struct exposition_part *p);
/* One more label of the sample that was added last. */
void exposition_part_label(struct exposition_part *p, const char *name, const char *value);
const void *exposition_part_at(const struct exposition_part *p, size_t i);
bool exposition_part_failed(const struct exposition_part *p);

/* As exposition_more. */
bool exposition_part_more(struct exposition_part *p, const struct exposition_row *rows, size_t n_rows,
                          struct buffer *out, size_t enough, enum exposition_format format);

/* One line of this row and sample, with one more label or NULL. */
void exposition_part_put(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, const char *more, const char *value, struct buffer *out,
                         double v);
/* The same for a count, exact up to 64 bits. */
void exposition_part_put_count(const struct exposition_part *p, const struct exposition_row *row,
                               const void *sample, const char *more, const char *value, struct buffer *out,
                               uint64_t v);
/* A histogram of this row and sample, see exposition_put_histogram. */
void exposition_part_put_histogram(const struct exposition_part *p, const struct exposition_row *row,
                                   const void *sample, const double *bounds, size_t n, const uint64_t *counts,
                                   double total, struct buffer *out);

/* Writers of the number at the row's offset in the sample, and of its figure. */
exposition_each_fn exposition_each_u64, exposition_each_unsigned, exposition_each_bool,
        exposition_each_double, exposition_each_figure;

#endif
