/* screen.h: what the output is (a terminal, how wide, may it have colour), and text measured in columns.
 * In a pipe everything is plain: no colour, no symbol, nothing cut. */
#ifndef LSV_CLI_SCREEN_H
#define LSV_CLI_SCREEN_H

#include "base/buffer.h"

enum colour {
        COLOUR_NONE,
        COLOUR_BOLD,
        COLOUR_DIM,
        COLOUR_GREEN,
        COLOUR_BLUE,
        COLOUR_AMBER,
        COLOUR_TEAL,
        COLOUR_ORANGE,
        COLOUR_RED,
        COLOUR_GREY,
};

struct screen {
        bool terminal; /* a person looks at it */
        bool colour;   /* terminal, and neither NO_COLOR nor TERM=dumb nor --no-color */
        bool colours256;
        unsigned width, height; /* 0: not a terminal, no bound */
};

/* no_colour: --no-color was given. */
void screen_init(struct screen *s, int fd, bool no_colour);
/* The size again, after SIGWINCH. */
void screen_measure(struct screen *s, int fd);

/* Text that came from elsewhere, in one line: text_harmless, and tabs and newlines become spaces. Truncated at bound. */
void screen_put_text(struct buffer *out, const char *text);
/* Columns that valid UTF-8 takes. */
size_t screen_width(const char *text);
/* Appends text (already harmless), cut to `width` columns with "…" as the last one if it is wider (0: never cut). Returns
 * the columns it took. */
size_t screen_put_cut(struct buffer *out, const char *text, size_t width);
/* The escape sequences, "" where colour is off. */
const char *screen_begin(const struct screen *s, enum colour c);
const char *screen_end(const struct screen *s, enum colour c);

#endif
