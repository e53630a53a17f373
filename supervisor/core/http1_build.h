/* http1_build.h: heads to send, written into a buffer. What would let a caller's bytes become another header or another
 * message (CR, LF, NUL and other control bytes, names that are no token) is refused with -EINVAL.
 * Every error also sets b->failed, so that a writer may look once, at the end; nothing is appended after an error. */
#ifndef LSV_CORE_HTTP1_BUILD_H
#define LSV_CORE_HTTP1_BUILD_H

#include "base/buffer.h"
#include "base/slice.h"

/* "METHOD target HTTP/1.1". The target is 0x21 to 0x7e only, without '#'. 0, -EINVAL, -ENOBUFS, -ENOMEM, as all below. */
int http1_build_request(struct buffer *b, struct slice method, struct slice target);
/* "HTTP/1.1 200 OK". status: 100 to 999. */
int http1_build_response(struct buffer *b, int status);
int http1_build_header(struct buffer *b, const char *name, const char *value);
int http1_build_header_slice(struct buffer *b, struct slice name, struct slice value);
int http1_build_header_u64(struct buffer *b, const char *name, uint64_t value);
/* Further header lines in one string, each ended by CRLF ("A: b\r\nC: d\r\n"), checked line by line; NULL and "" add none. */
int http1_build_lines(struct buffer *b, const char *lines);
/* The empty line. */
int http1_build_end(struct buffer *b);
/* One chunk of a chunked body; n == 0 appends nothing. http1_build_last_chunk ends the body. */
int http1_build_chunk(struct buffer *b, const void *data, size_t n);
int http1_build_last_chunk(struct buffer *b);

/* The standard phrase of a status ("Not Found"), "Status" for one that is not registered. */
const char *http1_reason(int status);
/* True if the value may stand in a header: no control bytes but tab, no space or tab at its ends. */
bool http1_is_field_value(struct slice value);

#endif
