/* exposition_text.c: numbers, labels and lines of the Prometheus text format. */
#include "http/exposition_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

enum { DIGITS_MAX = 20, DECIMALS = 6, NUMBER_MAX = DIGITS_MAX + 1 + DECIMALS };

static size_t write_u64(char text[static DIGITS_MAX], uint64_t v)
{
        char digits[DIGITS_MAX];
        size_t n = sizeof(digits);

        do {
                digits[--n] = (char)('0' + v % 10);
                v /= 10;
        } while (v);
        memcpy(text, digits + n, sizeof(digits) - n);
        return sizeof(digits) - n;
}

/* With a point, one decimal at least, six at most. */
static size_t write_fixed(char text[static NUMBER_MAX], uint64_t millionths)
{
        size_t n = write_u64(text, millionths / 1000000), end;

        text[n++] = '.';
        millionths %= 1000000;
        for (size_t i = DECIMALS; i-- > 0; millionths /= 10)
                text[n + i] = (char)('0' + millionths % 10);
        for (end = n + DECIMALS; end > n + 1 && text[end - 1] == '0';)
                end--;
        return end;
}

void exposition_put_u64(struct buffer *out, uint64_t v)
{
        char digits[DIGITS_MAX];

        (void)buffer_append(out, digits, write_u64(digits, v));
}

void exposition_put_number(struct buffer *out, double v)
{
        char text[64];
        size_t n;

        if (v >= 0 && v <= 9007199254740992.0 && v == (double)(uint64_t)v) {
                exposition_put_u64(out, (uint64_t)v);
                return;
        }
        if (v >= 0 && v < 1e9) {
                (void)buffer_append(out, text, write_fixed(text, (uint64_t)(v * 1e6 + 0.5)));
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
        char bound[NUMBER_MAX + 1];

        for (size_t i = 0; i <= n; i++) {
                sum += counts[i];
                /* OpenMetrics wants a point; the same in both, or a series would change its name with the format. */
                if (i < n)
                        bound[write_fixed(bound, (uint64_t)(bounds[i] * 1e6 + 0.5))] = '\0';
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

static void put_help(struct buffer *out, const char *help, bool quotes)
{
        for (; *help; help++)
                if (*help == '\n')
                        (void)buffer_puts(out, "\\n");
                else if (*help == '\\' || (*help == '"' && quotes))
                        (void)buffer_append(out, *help == '"' ? "\\\"" : "\\\\", 2);
                else
                        (void)buffer_putc(out, *help);
}

void exposition_put_head(struct buffer *out, enum exposition_format format, const char *name,
                         const char *type, const char *help)
{
        static const char total[] = "_total";
        size_t len = strlen(name);

        /* A family of counters is named without the suffix of its samples. */
        if (format == EXPOSITION_OPENMETRICS && streq(type, "counter")) {
                if (len > sizeof(total) - 1 && streq(name + len - (sizeof(total) - 1), total))
                        len -= sizeof(total) - 1;
                else
                        type = "unknown";
        }
        (void)buffer_puts(out, "# HELP ");
        (void)buffer_append(out, name, len);
        (void)buffer_putc(out, ' ');
        put_help(out, help, format == EXPOSITION_OPENMETRICS);
        (void)buffer_puts(out, "\n# TYPE ");
        (void)buffer_append(out, name, len);
        (void)buffer_putc(out, ' ');
        (void)buffer_puts(out, type);
        (void)buffer_putc(out, '\n');
}

const char *exposition_content_type(enum exposition_format format)
{
        return format == EXPOSITION_OPENMETRICS ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                                : "text/plain; version=0.0.4; charset=utf-8";
}

/* The next piece of the list, without blanks. False: there is none. */
static bool next_piece(struct slice *list, char separator, struct slice *ret)
{
        size_t end;

        if (!list->p)
                return false;
        end = slice_find(*list, separator);
        *ret = slice_trim(slice_sub(*list, 0, end));
        *list = end < list->n ? slice_sub(*list, end + 1, list->n) : (struct slice){0};
        return true;
}

static bool begins_with(struct slice a, const char *prefix)
{
        return slice_eq_nocase(slice_sub(a, 0, strlen(prefix)), slice_str(prefix));
}

static unsigned read_weight(struct slice q)
{
        char text[8];
        size_t n = MIN(q.n, sizeof(text) - 1);
        double v;

        if (n)
                memcpy(text, q.p, n);
        text[n] = '\0';
        v = strtod(text, NULL);
        return v > 0 && v <= 1 ? (unsigned)(v * 1000) : 0;
}

/* One element of Accept: its media type, and how much it is liked, 0 to 1000. A version that we do not speak is no offer. */
static struct slice read_offer(struct slice offer, unsigned *ret_liked)
{
        struct slice type = {0}, part;

        *ret_liked = 1000;
        (void)next_piece(&offer, ';', &type);
        while (next_piece(&offer, ';', &part))
                if (begins_with(part, "q="))
                        *ret_liked = MIN(*ret_liked, read_weight(slice_sub(part, 2, part.n)));
                else if (begins_with(part, "version=") && begins_with(type, "application/openmetrics-text") &&
                         !slice_eq_nocase(part, SLICE("version=1.0.0")) &&
                         !slice_eq_nocase(part, SLICE("version=0.0.1")))
                        *ret_liked = 0;
        return type;
}

enum exposition_format exposition_format_of(struct slice accept)
{
        unsigned open = 0, plain = 0, liked;
        struct slice offer;

        while (next_piece(&accept, ',', &offer)) {
                struct slice type = read_offer(offer, &liked);

                if (slice_eq_nocase(type, SLICE("application/openmetrics-text")))
                        open = MAX(open, liked);
                else if (slice_eq_nocase(type, SLICE("text/plain")))
                        plain = MAX(plain, liked);
        }
        return open && open >= plain ? EXPOSITION_OPENMETRICS : EXPOSITION_TEXT;
}
