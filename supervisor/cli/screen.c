/* screen.c: terminals and columns. */
#include "cli/screen.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <wchar.h>

#include "base/text.h"

enum { WIDTH_DEFAULT = 80, HEIGHT_DEFAULT = 24, SIDE_MAX = 10000 };

static unsigned side_of(unsigned told, const char *variable, unsigned fallback)
{
        const char *s = getenv(variable);
        unsigned long n;

        if (told)
                return told;
        n = s ? strtoul(s, NULL, 10) : 0;
        return n >= 1 && n <= SIDE_MAX ? (unsigned)n : fallback;
}

void screen_measure(struct screen *s, int fd)
{
        struct winsize size = {0};

        s->width = s->height = 0;
        if (!s->terminal)
                return;
        (void)ioctl(fd, TIOCGWINSZ, &size);
        s->width = side_of(size.ws_col, "COLUMNS", WIDTH_DEFAULT);
        s->height = side_of(size.ws_row, "LINES", HEIGHT_DEFAULT);
}

void screen_init(struct screen *s, int fd, bool no_colour)
{
        const char *term = getenv("TERM"), *refusal = getenv("NO_COLOR"), *more = getenv("COLORTERM");

        *s = (struct screen){.terminal = isatty(fd)};
        /* https://no-color.org: present and not empty. */
        s->colour =
                s->terminal && !no_colour && !(refusal && *refusal) && term && *term && !streq(term, "dumb");
        s->colours256 = s->colour && ((more && *more) || strstr(term, "256") || strstr(term, "direct"));
        screen_measure(s, fd);
}

void screen_put_text(struct buffer *out, const char *text)
{
        _cleanup_free_ char *copy = text_dup(text ? text : "");

        if (!copy)
                return;
        for (char *p = copy; *p; p++)
                if (*p == '\t' || *p == '\n' || *p == '\r')
                        *p = ' ';
        (void)text_harmless(copy);
        (void)buffer_puts(out, copy);
}

/* One character: its bytes, and its columns. */
static size_t next_character(const char *s, size_t *ret_width)
{
        const unsigned char *u = (const unsigned char *)s;
        size_t n = text_utf8_sequence(u, strlen(s));
        wchar_t c;
        int width;

        if (n <= 1) {
                *ret_width = 1;
                return 1;
        }
        c = u[0] & (n == 2 ? 0x1f : n == 3 ? 0x0f : 0x07);
        for (size_t i = 1; i < n; i++)
                c = (wchar_t)((c << 6) | (u[i] & 0x3f));
        width = wcwidth(c); /* -1 in the C locale: then one column is the best guess */
        *ret_width = width < 0 ? 1 : (size_t)width;
        return n;
}

size_t screen_width(const char *text)
{
        size_t sum = 0, width;

        while (*text) {
                text += next_character(text, &width);
                sum += width;
        }
        return sum;
}

size_t screen_put_cut(struct buffer *out, const char *text, size_t width)
{
        size_t all = screen_width(text), used = 0, w, n;

        if (width == 0 || all <= width) {
                (void)buffer_puts(out, text);
                return all;
        }
        while (*text) {
                n = next_character(text, &w);
                if (used + w > width - 1)
                        break;
                (void)buffer_append(out, text, n);
                text += n;
                used += w;
        }
        (void)buffer_puts(out, "…");
        return used + 1;
}

const char *screen_begin(const struct screen *s, enum colour c)
{
        static const char *const codes[] = {
                [COLOUR_NONE] = "",          [COLOUR_BOLD] = "\033[1m",    [COLOUR_DIM] = "\033[2m",
                [COLOUR_GREEN] = "\033[32m", [COLOUR_BLUE] = "\033[94m",   [COLOUR_AMBER] = "\033[33m",
                [COLOUR_TEAL] = "\033[36m",  [COLOUR_ORANGE] = "\033[93m", [COLOUR_RED] = "\033[31m",
                [COLOUR_GREY] = "\033[90m",
        };

        if (!s->colour)
                return "";
        return c == COLOUR_ORANGE && s->colours256 ? "\033[38;5;208m" : codes[c];
}

const char *screen_end(const struct screen *s, enum colour c)
{
        return s->colour && c != COLOUR_NONE ? "\033[0m" : "";
}
