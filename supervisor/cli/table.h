/* table.h: rows of text in aligned columns.
 *
 * On a terminal the table is fitted to its width: columns marked flexible give way first (to FLEXIBLE_MIN), then lines are cut
 * with "…". In a pipe nothing is cut. Cells are made harmless when they are put in. An empty cell prints as "-". */
#ifndef LSV_CLI_TABLE_H
#define LSV_CLI_TABLE_H

#include "cli/screen.h"

struct table_column {
        const char *title;
        bool right;    /* numbers */
        bool flexible; /* may be cut */
};

struct table_cell {
        char *text; /* harmless */
        enum colour colour;
};

struct table_row {
        struct table_cell *cells; /* one a column; text NULL: not put */
        char *note;               /* a line beneath, NULL: none */
        enum colour note_colour;
};

struct table {
        const struct table_column *columns; /* the caller's */
        size_t n_columns, n_rows, cap, at;
        size_t note_indent; /* notes stand beneath the column with this index; 0: two columns in */
        bool untitled;      /* without the line of titles */
        struct table_row *rows;
        bool failed; /* no memory: table_put says nothing, table_print returns -ENOMEM */
};

void table_init(struct table *t, const struct table_column *columns, size_t n_columns);
void table_finish(struct table *t);
/* Begins the next row; its cells are then put from left to right. */
void table_row(struct table *t);
void table_put(struct table *t, enum colour c, const char *text);
void table_printf(struct table *t, enum colour c, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* A line beneath the current row, indented by the width of the first note_indent columns. */
void table_note(struct table *t, enum colour c, const char *text);
/* The whole table, titles first; at most max_lines lines (0: all), the last of them then says how many rows are not
 * shown. 0, -ENOMEM or -ENOBUFS. */
int table_print(const struct table *t, const struct screen *s, size_t max_lines, struct buffer *out);

#endif
