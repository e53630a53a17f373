/* exposition_text.c: numbers, labels and lines of the Prometheus text format. */
#include "http/exposition_text.h"

#include <stdio.h>
#include <string.h>

void exposition_put_u64(struct buffer *out, uint64_t v)
{
        char digits[20];
        size_t n = sizeof(digits);

        do {
                digits[--n] = (char)('0' + v % 10);
                v /= 10;
        } while (v);
        (void)buffer_append(out, digits + n, sizeof(digits) - n);
}

/* Whole numbers without a point, others with at most six decimals. */
void exposition_put_number(struct buffer *out, double v)
{
        char text[64];
        size_t n;

        if (v >= 0 && v <= 9007199254740992.0 && v == (double)(uint64_t)v) {
                exposition_put_u64(out, (uint64_t)v);
                return;
        }
        n = (size_t)snprintf(text, sizeof(text), "%.6f", v);
        while (n > 1 && n < sizeof(text) && text[n - 1] == '0' && text[n - 2] != '.')
                n--;
        (void)buffer_append(out, text, MIN(n, sizeof(text) - 1));
}

/* Escaped as a label's value must be. */
void exposition_put_label_value(struct buffer *out, const char *s)
{
        size_t plain;

        for (; s && *s; s += plain) {
                plain = strcspn(s, "\\\"\n");
                (void)buffer_append(out, s, plain);
                if (s[plain] == '\0')
                        return;
                (void)buffer_puts(out, s[plain] == '\n' ? "\\n" : s[plain] == '"' ? "\\\"" : "\\\\");
                plain++;
        }
}

/* name{labels,more="value"} and a space; labels and more may be empty. */
void exposition_put_series(struct buffer *out, const char *name, const char *suffix, const char *labels,
                           size_t labels_len, const char *more, const char *value)
{
        (void)buffer_puts(out, name);
        (void)buffer_puts(out, suffix);
        if (labels_len || more) {
                (void)buffer_putc(out, '{');
                (void)buffer_append(out, labels, labels_len);
                if (more) {
                        if (labels_len)
                                (void)buffer_putc(out, ',');
                        (void)buffer_puts(out, more);
                        (void)buffer_append(out, "=\"", 2);
                        exposition_put_label_value(out, value);
                        (void)buffer_putc(out, '"');
                }
                (void)buffer_putc(out, '}');
        }
        (void)buffer_putc(out, ' ');
}

void exposition_put_plain(struct buffer *out, const char *name, const char *more, const char *value, double v)
{
        exposition_put_series(out, name, "", NULL, 0, more, value);
        exposition_put_number(out, v);
        (void)buffer_putc(out, '\n');
}

void exposition_put_histogram(struct buffer *out, const char *name, const char *labels, size_t labels_len,
                              const double *bounds, size_t n, const uint64_t *counts, double total)
{
        uint64_t sum = 0;
        char bound[32];

        for (size_t i = 0; i <= n; i++) {
                sum += counts[i];
                if (i < n)
                        (void)snprintf(bound, sizeof(bound), "%g", bounds[i]);
                exposition_put_series(out, name, "_bucket", labels, labels_len, "le", i < n ? bound : "+Inf");
                exposition_put_u64(out, sum);
                (void)buffer_putc(out, '\n');
        }
        exposition_put_series(out, name, "_sum", labels, labels_len, NULL, NULL);
        exposition_put_number(out, total);
        (void)buffer_putc(out, '\n');
        exposition_put_series(out, name, "_count", labels, labels_len, NULL, NULL);
        exposition_put_u64(out, sum);
        (void)buffer_putc(out, '\n');
}

void exposition_put_head(struct buffer *out, const char *name, const char *type, const char *help)
{
        (void)buffer_puts(out, "# HELP ");
        (void)buffer_puts(out, name);
        (void)buffer_putc(out, ' ');
        (void)buffer_puts(out, help);
        (void)buffer_puts(out, "\n# TYPE ");
        (void)buffer_puts(out, name);
        (void)buffer_putc(out, ' ');
        (void)buffer_puts(out, type);
        (void)buffer_putc(out, '\n');
}
