/* relabel.h: the text of somebody else's /metrics, line by line, and its samples with labels of ours in front. Pure.
 *
 * What is not well-formed is passed over: a name that is none, labels that do not end, a value that is no number, bytes that are no text.
 * A sample that has one of our labels itself is passed over, too, since nobody could tell them apart. Timestamps are left out: the sample is of
 * now. Source: the Prometheus documentation, "Exposition formats". */
#ifndef LSV_CORE_RELABEL_H
#define LSV_CORE_RELABEL_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/slice.h"

enum relabel_kind { RELABEL_HELP, RELABEL_TYPE, RELABEL_SAMPLE };

struct relabel_line {
        enum relabel_kind kind;
        struct slice name;   /* of the family, or of the sample */
        struct slice labels; /* a="b",c="d": what stands in the braces */
        struct slice text;   /* the value; of HELP and TYPE what follows */
};

/* Takes the next well-formed line off the text; lines of other kinds are passed over. False at the end. */
bool relabel_next(struct slice *text, struct relabel_line *ret);

/* NAME{ours,labels} VALUE and a newline; ours: escaped already, as a="b",c="d". False: it has one of these labels itself. */
bool relabel_put(struct buffer *out, const struct relabel_line *line, struct slice ours);

/* A sample of that family: by its own name, or with a suffix of histograms and summaries. */
bool relabel_is_of(struct slice sample, struct slice family, struct slice type);

#endif
