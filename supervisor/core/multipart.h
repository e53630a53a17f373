/* multipart.h: walks over the parts of a multipart/form-data body (RFC 7578, RFC 2046 §5.1) without copying; strict and bounded. Pure.
 *
 * What two readers could understand differently is refused: bytes in front of the first delimiter or behind the last one (but one
 * CRLF), a missing closing delimiter, bare line ends, parts without a name or with two, escapes in a name. */
#ifndef LSV_CORE_MULTIPART_H
#define LSV_CORE_MULTIPART_H

#include "base/slice.h"

enum {
        MULTIPART_BOUNDARY_MAX = 70,
        MULTIPART_PARTS_MAX = 64,
        MULTIPART_HEAD_MAX = 8192, /* bytes of the header lines of one part */
};

struct multipart {
        struct slice rest;
        char delimiter[4 + MULTIPART_BOUNDARY_MAX]; /* CRLF "--" boundary */
        size_t delimiter_len;
        unsigned parts;
        bool ended;
        const char *error; /* static text, after -EBADMSG */
};

struct multipart_part {
        struct slice name;
        bool is_file; /* it has a filename */
        struct slice data;
};

/* The boundary out of a Content-Type's value. 0, -ENOENT (not multipart/form-data), -EINVAL (no boundary, or not a good one). */
int multipart_boundary(struct slice content_type, struct slice *ret);

/* boundary: of multipart_boundary. */
void multipart_init(struct multipart *m, struct slice body, struct slice boundary);
/* 1: *ret is the next part; 0: the body has ended well; -EBADMSG: it is broken at the rest's beginning. */
int multipart_next(struct multipart *m, struct multipart_part *ret);

#endif
