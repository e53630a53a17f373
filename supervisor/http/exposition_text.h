/* exposition_text.h: numbers, labels and lines of the Prometheus text format, put together by hand, since printf would take ten
 * times as long. Errors show in the buffer. */
#ifndef LSV_HTTP_EXPOSITION_TEXT_H
#define LSV_HTTP_EXPOSITION_TEXT_H

#include "base/buffer.h"
#include "base/slice.h"

/* Prometheus text 0.0.4, or OpenMetrics 1.0. They differ in the names of counters in "# TYPE", in quoting, and in "# EOF". Sources: the
 * Prometheus documentation, "Exposition formats"; the OpenMetrics specification 1.0. */
enum exposition_format { EXPOSITION_TEXT, EXPOSITION_OPENMETRICS };
/* What to answer to this Accept header ({0}: none): OpenMetrics only where it is named and not liked less. */
enum exposition_format exposition_format_of(struct slice accept);
const char *exposition_content_type(enum exposition_format format);

#define EXPOSITION_PREFIX "llama_supervisor_"

void exposition_put_u64(struct buffer *out, uint64_t v);
/* Whole numbers without a point, others with at most six decimals. */
void exposition_put_number(struct buffer *out, double v);
/* Escaped as a label's value must be. */
void exposition_put_label_value(struct buffer *out, const char *s);
/* name{labels,more="value"} and a space; labels (already escaped) and more may be empty. */
void exposition_put_series(struct buffer *out, const char *name, const char *suffix, const char *labels,
                           size_t labels_len, const char *more, const char *value);
/* A whole line with at most one label. */
void exposition_put_plain(struct buffer *out, const char *name, const char *more, const char *value,
                          double v);
/* n bounds in seconds, whole microseconds; n + 1 counts, not cumulative, the last one over all bounds. */
void exposition_put_histogram(struct buffer *out, const char *name, const char *labels, size_t labels_len,
                              const double *bounds, size_t n, const uint64_t *counts, double total);
/* The lines # HELP and # TYPE. */
void exposition_put_head(struct buffer *out, enum exposition_format format, const char *name,
                         const char *type, const char *help);

#endif
