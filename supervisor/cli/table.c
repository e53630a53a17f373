/* table.c: cells kept, columns measured, lines printed. */
#include "cli/table.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"

enum { COLUMNS_MAX = 16, GAP = 2, FLEXIBLE_MIN = 8, NOTE_INDENT = 2 };

void table_init(struct table *t, const struct table_column *columns, size_t n_columns)
{
        *t = (struct table){.columns = columns, .n_columns = MIN(n_columns, (size_t)COLUMNS_MAX)};
}

void table_finish(struct table *t)
{
        for (size_t i = 0; i < t->n_rows; i++) {
                for (size_t k = 0; k < t->n_columns; k++)
                        free(t->rows[i].cells[k].text);
                free(t->rows[i].cells);
                free(t->rows[i].note);
        }
        free(t->rows);
        *t = (struct table){0};
}

void table_row(struct table *t)
{
        struct table_row *grown;

        if (t->n_rows == t->cap) {
                grown = reallocarray(t->rows, t->cap ? t->cap * 2 : 16, sizeof(*grown));
                if (!grown) {
                        t->failed = true;
                        return;
                }
                t->rows = grown;
                t->cap = t->cap ? t->cap * 2 : 16;
        }
        t->rows[t->n_rows] = (struct table_row){.cells = calloc(t->n_columns, sizeof(struct table_cell))};
        if (!t->rows[t->n_rows].cells) {
                t->failed = true;
                return;
        }
        t->n_rows++;
        t->at = 0;
}

static char *one_line(const char *text)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        screen_put_text(&b, text);
        if (!b.data && !b.failed)
                return text_dup("");
        return buffer_steal(&b);
}

void table_put(struct table *t, enum colour c, const char *text)
{
        struct table_cell *cell;

        if (t->failed || t->n_rows == 0 || t->at >= t->n_columns)
                return;
        cell = &t->rows[t->n_rows - 1].cells[t->at++];
        cell->colour = c;
        cell->text = one_line(text);
        t->failed = !cell->text;
}

void table_printf(struct table *t, enum colour c, const char *fmt, ...)
{
        char *text = NULL;
        va_list ap;

        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        if (!text)
                t->failed = true;
        else
                table_put(t, c, text);
        free(text);
}

void table_note(struct table *t, enum colour c, const char *text)
{
        struct table_row *row;

        if (t->failed || t->n_rows == 0)
                return;
        row = &t->rows[t->n_rows - 1];
        free(row->note);
        row->note = one_line(text);
        row->note_colour = c;
        t->failed = !row->note;
}

static const char *text_of(const struct table_cell *cell)
{
        return cell->text && *cell->text ? cell->text : "-";
}

static void measure(const struct table *t, const struct screen *s, size_t *widths)
{
        size_t sum = GAP * (t->n_columns - 1), over;

        for (size_t k = 0; k < t->n_columns; k++) {
                widths[k] = screen_width(t->columns[k].title);
                for (size_t i = 0; i < t->n_rows; i++)
                        widths[k] = MAX(widths[k], screen_width(text_of(&t->rows[i].cells[k])));
                sum += widths[k];
        }
        if (s->width == 0 || sum <= s->width)
                return;
        over = sum - s->width;
        while (over > 0) { /* the widest flexible column gives one, until it fits */
                size_t widest = t->n_columns;

                for (size_t k = 0; k < t->n_columns; k++)
                        if (t->columns[k].flexible && widths[k] > FLEXIBLE_MIN &&
                            (widest == t->n_columns || widths[k] > widths[widest]))
                                widest = k;
                if (widest == t->n_columns)
                        return;
                widths[widest]--;
                over--;
        }
}

struct line {
        const struct table *t;
        const struct screen *s;
        const size_t *widths;
        struct buffer *out;
        size_t used, owed; /* columns printed; blanks that come only if something follows */
};

static void put_cell(struct line *l, size_t k, const char *text, enum colour c)
{
        size_t width = screen_width(text), room = l->widths[k], left;

        left = l->s->width ? (l->used + l->owed < l->s->width ? l->s->width - l->used - l->owed : 0)
                           : SIZE_MAX;
        if (left == 0)
                return;
        if (!*text)
                c = COLOUR_NONE;
        if (l->t->columns[k].right && width < room)
                l->owed += MIN(room - width, left - 1);
        left = l->s->width ? l->s->width - l->used - l->owed : SIZE_MAX;
        (void)buffer_printf(l->out, "%*s%s", (int)l->owed, "", screen_begin(l->s, c));
        width = screen_put_cut(l->out, text, l->s->width ? MIN(room, left) : 0);
        (void)buffer_puts(l->out, screen_end(l->s, c));
        l->used += l->owed + width;
        l->owed = GAP + (!l->t->columns[k].right && width < room ? room - width : 0);
}

static void put_note(struct line *l, const struct table_row *row)
{
        size_t indent = NOTE_INDENT;

        if (l->t->note_indent) {
                indent = 0;
                for (size_t k = 0; k < l->t->note_indent && k < l->t->n_columns; k++)
                        indent += l->widths[k] + GAP;
        }
        if (l->s->width && indent + 20 > l->s->width)
                indent = MIN((size_t)NOTE_INDENT, (size_t)l->s->width - 1);
        (void)buffer_printf(l->out, "%*s%s", (int)indent, "", screen_begin(l->s, row->note_colour));
        (void)screen_put_cut(l->out, row->note, l->s->width ? l->s->width - indent : 0);
        (void)buffer_printf(l->out, "%s\n", screen_end(l->s, row->note_colour));
}

int table_print(const struct table *t, const struct screen *s, size_t max_lines, struct buffer *out)
{
        size_t widths[COLUMNS_MAX], lines = !t->untitled;

        if (t->failed)
                return -ENOMEM;
        measure(t, s, widths);
        for (size_t i = t->untitled; i <= t->n_rows; i++) { /* 0: the titles */
                const struct table_row *row = i ? &t->rows[i - 1] : NULL;
                struct line l = {.t = t, .s = s, .widths = widths, .out = out};
                size_t more = row ? 1 + (row->note != NULL) : 0;

                if (max_lines && i && lines + more + (i < t->n_rows) > max_lines) {
                        (void)buffer_printf(out, "… and %zu more\n", t->n_rows - i + 1);
                        break;
                }
                for (size_t k = 0; k < t->n_columns; k++)
                        put_cell(&l, k, row ? text_of(&row->cells[k]) : t->columns[k].title,
                                 row ? row->cells[k].colour : COLOUR_DIM);
                (void)buffer_putc(out, '\n');
                if (row && row->note)
                        put_note(&l, row);
                lines += more;
        }
        return out->failed ? -ENOBUFS : 0;
}
