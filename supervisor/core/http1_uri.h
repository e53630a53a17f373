/* http1_uri.h: what stands in targets and in Host and Origin (RFC 3986), read strictly: a path that two programs could
 * understand differently is refused, not mended. */
#ifndef LSV_CORE_HTTP1_URI_H
#define LSV_CORE_HTTP1_URI_H

#include "base/slice.h"

/* The decoded path as a C string in buf, for the router. Refused (-EINVAL): a path that does not begin with '/', broken
 * percent escapes, control bytes (%00, %0a), an encoded slash or backslash and a plain backslash, segments that are "." or
 * ".." (encoded or not), empty segments ("//"; one slash at the end is fine), text that is not UTF-8 once decoded.
 * -ENOBUFS: longer than size - 1. Else its length. */
int http1_path_normal(struct slice path, char *buf, size_t size);

/* The value of a query parameter as a C string in buf ("+" is a space). Its length, -ENOENT (not there), -EINVAL (broken
 * escape, control byte, not UTF-8, or the name is there twice), -ENOBUFS. "a&b=" holds a and b with empty values. */
int http1_query_get(struct slice query, const char *name, char *buf, size_t size);

/* Appends the percent-encoded form of one path segment: all but unreserved bytes. Length, or -ENOBUFS; C string in buf. */
int http1_segment_encode(struct slice segment, char *buf, size_t size);

struct http1_authority {
        struct slice host; /* without the brackets */
        bool ipv6;
        int port; /* -1: none given */
};
/* "host", "host:port", "127.0.0.1:80", "[::1]:80". Letters, digits, '-', '.', '_', '~' in names; user info, escapes, zone
 * ids, an empty host or port and port 0 are refused. 0 or -EINVAL. */
int http1_authority_parse(struct slice s, struct http1_authority *ret);
/* Hosts equal without case, and ports equal once default_port stands in for a missing one. */
bool http1_authority_equal(const struct http1_authority *a, const struct http1_authority *b,
                           int default_port);

/* The value of an Origin header: "https://host[:port]" without path, scheme by RFC 3986. 0 or -EINVAL; "null" and lists
 * are -EINVAL: no caller has use for them. */
int http1_origin_parse(struct slice s, struct slice *ret_scheme, struct http1_authority *ret);

#endif
