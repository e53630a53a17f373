/* relabel.c: lines of Prometheus text. */
#include "core/relabel.h"

#include <stdlib.h>
#include <string.h>

enum { VALUE_MAX = 40 };

static bool is_name_start(char c, bool colon)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (colon && c == ':');
}

static size_t name_length(struct slice s, bool colon)
{
        size_t n = 0;

        while (n < s.n && (is_name_start(s.p[n], colon) || (n && s.p[n] >= '0' && s.p[n] <= '9')))
                n++;
        return n;
}

static struct slice skip(struct slice s, size_t n)
{
        return slice_sub(s, n, s.n);
}

/* One label of s, with what it is called; false: there is no whole one. */
static bool next_label(struct slice *s, struct slice *ret_name)
{
        size_t n = name_length(*s, false), i;

        if (!n || n + 1 >= s->n || s->p[n] != '=' || s->p[n + 1] != '"')
                return false;
        *ret_name = slice_sub(*s, 0, n);
        for (i = n + 2; i < s->n && s->p[i] != '"'; i++)
                if (s->p[i] == '\\' && (++i == s->n || !strchr("\\\"n", s->p[i])))
                        return false;
        if (i == s->n)
                return false;
        *s = skip(*s, i + 1);
        return true;
}

/* What stands in the braces; *s goes on behind them. */
static bool read_labels(struct slice *s, struct slice *ret)
{
        struct slice at = skip(*s, 1), name;
        const char *begin = at.p;
        size_t len = 0;

        while (at.n && at.p[0] != '}') {
                if (!next_label(&at, &name))
                        return false;
                len = (size_t)(at.p - begin);
                if (at.n && at.p[0] == ',')
                        at = skip(at, 1);
                else if (!at.n || at.p[0] != '}')
                        return false;
        }
        if (!at.n)
                return false;
        *ret = (struct slice){begin, len};
        *s = skip(at, 1);
        return true;
}

static bool is_number(struct slice s)
{
        char text[VALUE_MAX + 1], *end;

        if (!s.n || s.n > VALUE_MAX)
                return false;
        if (slice_eq_str(s, "NaN") || slice_eq_str(s, "+Inf") || slice_eq_str(s, "-Inf"))
                return true;
        for (size_t i = 0; i < s.n; i++)
                if (!strchr("0123456789+-.eE", s.p[i]))
                        return false;
        memcpy(text, s.p, s.n);
        text[s.n] = '\0';
        (void)strtod(text, &end);
        return *end == '\0';
}

static bool read_sample(struct slice s, struct relabel_line *ret)
{
        size_t n = name_length(s, true);

        *ret = (struct relabel_line){.kind = RELABEL_SAMPLE, .name = slice_sub(s, 0, n)};
        s = skip(s, n);
        if (!n || !s.n || (s.p[0] == '{' && !read_labels(&s, &ret->labels)))
                return false;
        if (!s.n || (s.p[0] != ' ' && s.p[0] != '\t'))
                return false;
        s = slice_trim(s);
        ret->text = slice_sub(s, 0, slice_find(s, ' '));
        return is_number(ret->text);
}

static bool read_comment(struct slice s, struct relabel_line *ret)
{
        bool help = slice_starts_with(s, SLICE("# HELP ")), type = slice_starts_with(s, SLICE("# TYPE "));
        size_t n;

        if (!help && !type)
                return false;
        s = slice_trim(skip(s, 7));
        n = name_length(s, true);
        *ret = (struct relabel_line){.kind = help ? RELABEL_HELP : RELABEL_TYPE,
                                     .name = slice_sub(s, 0, n),
                                     .text = slice_trim(skip(s, n))};
        return n > 0 && (n == s.n || s.p[n] == ' ');
}

static bool is_text(struct slice s)
{
        for (size_t i = 0; i < s.n; i++)
                if ((unsigned char)s.p[i] < ' ' && s.p[i] != '\t')
                        return false;
        return true;
}

bool relabel_next(struct slice *text, struct relabel_line *ret)
{
        while (text->n) {
                size_t end = slice_find(*text, '\n');
                struct slice line = slice_trim(slice_sub(*text, 0, end));

                *text = skip(*text, end + 1);
                if (line.n && is_text(line) &&
                    (line.p[0] == '#' ? read_comment(line, ret) : read_sample(line, ret)))
                        return true;
        }
        return false;
}

static bool shares_a_name(struct slice a, struct slice b)
{
        struct slice name, other;

        while (next_label(&a, &name)) {
                struct slice rest = b;

                while (next_label(&rest, &other)) {
                        if (slice_eq(name, other))
                                return true;
                        rest = skip(rest, 1);
                }
                a = skip(a, 1);
        }
        return false;
}

bool relabel_put(struct buffer *out, const struct relabel_line *line, struct slice ours)
{
        if (shares_a_name(line->labels, ours))
                return false;
        (void)buffer_append(out, line->name.p, line->name.n);
        (void)buffer_putc(out, '{');
        (void)buffer_append(out, ours.p, ours.n);
        if (ours.n && line->labels.n)
                (void)buffer_putc(out, ',');
        (void)buffer_append(out, line->labels.p, line->labels.n);
        (void)buffer_append(out, "} ", 2);
        (void)buffer_append(out, line->text.p, line->text.n);
        (void)buffer_putc(out, '\n');
        return true;
}

bool relabel_is_of(struct slice sample, struct slice family, struct slice type)
{
        struct slice suffix;

        if (!slice_starts_with(sample, family))
                return false;
        suffix = skip(sample, family.n);
        if (!slice_eq_str(type, "histogram") && !slice_eq_str(type, "summary"))
                return suffix.n == 0;
        if (slice_eq_str(type, "histogram") && slice_eq_str(suffix, "_bucket"))
                return true;
        return slice_eq_str(suffix, "_sum") || slice_eq_str(suffix, "_count") ||
               (suffix.n == 0 && slice_eq_str(type, "summary"));
}
