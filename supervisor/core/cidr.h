/* cidr.h: lists of peers: "10.0.0.5", "10.0.0.0/24", "fd00::/8". Host bits must be zero, so that nobody allows another net than he thinks. */
#ifndef LSV_CORE_CIDR_H
#define LSV_CORE_CIDR_H

#include <stdbool.h>

struct cidr {
        unsigned char bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
        unsigned bits;           /* of 128 */
};

int cidr_parse(const char *text, struct cidr *ret); /* 0 or -EINVAL */
/* address: "10.0.0.5", "::1", "::ffff:10.0.0.5"; false for what is none ("unix"). */
bool cidr_has(const struct cidr *c, const char *address);

#endif
