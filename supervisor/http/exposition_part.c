/* exposition_part.c: rows times samples. */
#include "http/exposition_part.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

int exposition_part_init(struct exposition_part *p, size_t max, size_t size)
{
        *p = (struct exposition_part){.max = max, .size = size};
        buffer_init(&p->arena, 0);
        p->samples = calloc(MAX(max, (size_t)1), size);
        return p->samples ? 0 : -ENOMEM;
}

void exposition_part_finish(struct exposition_part *p)
{
        buffer_finish(&p->arena);
        free(p->samples);
        *p = (struct exposition_part){0};
}

const void *exposition_part_at(const struct exposition_part *p, size_t i)
{
        return p->samples + i * p->size;
}

static struct exposition_sample *sample_at(const struct exposition_part *p, size_t i)
{
        return (struct exposition_sample *)(void *)(p->samples + i * p->size);
}

void *exposition_part_add(struct exposition_part *p)
{
        struct exposition_sample *s;

        if (!p->samples || p->n == p->max)
                return NULL;
        s = sample_at(p, p->n++);
        s->labels = p->arena.len;
        return s;
}

void exposition_part_label(struct exposition_part *p, const char *name, const char *value)
{
        struct exposition_sample *s;

        if (!p->n)
                return;
        s = sample_at(p, p->n - 1);
        if (s->labels_len)
                (void)buffer_putc(&p->arena, ',');
        (void)buffer_puts(&p->arena, name);
        (void)buffer_append(&p->arena, "=\"", 2);
        exposition_put_label_value(&p->arena, value);
        (void)buffer_putc(&p->arena, '"');
        s->labels_len = p->arena.len - s->labels;
}

bool exposition_part_failed(const struct exposition_part *p)
{
        return !p->samples || p->arena.failed;
}

bool exposition_part_more(struct exposition_part *p, const struct exposition_row *rows, size_t n_rows,
                          struct buffer *out, size_t enough, enum exposition_format format)
{
        while (p->row < n_rows && out->len < enough) {
                const struct exposition_row *row = rows + p->row;

                if (p->at == 0)
                        exposition_put_head(out, format, row->name, row->type, row->help);
                if (row->once) {
                        row->once(p, row, out);
                } else if (p->at < p->n) {
                        const void *sample = exposition_part_at(p, p->at);

                        if (!row->is_there || row->is_there(sample))
                                row->each(p, row, sample, out);
                }
                if (row->once || ++p->at >= p->n) {
                        p->row++;
                        p->at = 0;
                }
        }
        return p->row < n_rows;
}

/* --- lines ----------------------------------------------------------------------------------------------------------- */

static void put_series(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                       const char *more, const char *value, struct buffer *out)
{
        const struct exposition_sample *s = sample;

        exposition_put_series(out, row->name, "", p->arena.data + s->labels, s->labels_len, more, value);
}

void exposition_part_put(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, const char *more, const char *value, struct buffer *out,
                         double v)
{
        put_series(p, row, sample, more, value, out);
        exposition_put_number(out, v);
        (void)buffer_putc(out, '\n');
}

void exposition_part_put_count(const struct exposition_part *p, const struct exposition_row *row,
                               const void *sample, const char *more, const char *value, struct buffer *out,
                               uint64_t v)
{
        put_series(p, row, sample, more, value, out);
        exposition_put_u64(out, v);
        (void)buffer_putc(out, '\n');
}

void exposition_part_put_histogram(const struct exposition_part *p, const struct exposition_row *row,
                                   const void *sample, const double *bounds, size_t n, const uint64_t *counts,
                                   double total, struct buffer *out)
{
        const struct exposition_sample *s = sample;

        exposition_put_histogram(out, row->name, p->arena.data + s->labels, s->labels_len, bounds, n, counts,
                                 total);
}

void exposition_each_u64(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, struct buffer *out)
{
        uint64_t v;

        memcpy(&v, (const char *)sample + row->offset, sizeof(v));
        exposition_part_put_count(p, row, sample, NULL, NULL, out, v);
}

void exposition_each_unsigned(const struct exposition_part *p, const struct exposition_row *row,
                              const void *sample, struct buffer *out)
{
        unsigned v;

        memcpy(&v, (const char *)sample + row->offset, sizeof(v));
        exposition_part_put_count(p, row, sample, NULL, NULL, out, v);
}

void exposition_each_bool(const struct exposition_part *p, const struct exposition_row *row,
                          const void *sample, struct buffer *out)
{
        bool v;

        memcpy(&v, (const char *)sample + row->offset, sizeof(v));
        exposition_part_put_count(p, row, sample, NULL, NULL, out, v);
}

void exposition_each_double(const struct exposition_part *p, const struct exposition_row *row,
                            const void *sample, struct buffer *out)
{
        double v;

        memcpy(&v, (const char *)sample + row->offset, sizeof(v));
        exposition_part_put(p, row, sample, NULL, NULL, out, v);
}

void exposition_each_figure(const struct exposition_part *p, const struct exposition_row *row,
                            const void *sample, struct buffer *out)
{
        double v;

        if (row->figure(sample, &v))
                exposition_part_put(p, row, sample, NULL, NULL, out, v);
}
