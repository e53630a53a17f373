/* web.h: the files of the page, which are part of the binary: a const table that web/embed.cmake makes at build time.
 *
 * Below /web/VERSION/ they are immutable, since VERSION is a digest of them all; below /web/ the same files are asked for anew
 * each time (ETag), for pages of other people that import feed.js. All addresses in them are relative, so that a proxy may put
 * the whole server below a path of its own. */
#ifndef LSV_HTTP_WEB_H
#define LSV_HTTP_WEB_H

#include <stddef.h>

struct web_file {
        const char *name, *type;
        const char *tag; /* of its content; the ETag is made of it */
        const char *begin, *end;
        const char *gz_begin, *gz_end; /* the same, compressed */
};

extern const struct web_file web_files[]; /* ended by a row without name */
extern const char web_version[];
/* The template of the page itself: the fleet as plain HTML goes where WEB_STATE_MARK stands. Not in web_files. */
extern const struct web_file web_page;
#define WEB_STATE_MARK "<!--state-->"

#endif
