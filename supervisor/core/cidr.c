/* cidr.c: addresses and the nets they are in. */
#include "core/cidr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#include "base/macros.h"
#include "base/text.h"

static bool parse_address(const char *text, unsigned char ret[16], unsigned *ret_width)
{
        static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

        if (inet_pton(AF_INET, text, ret + 12) == 1) {
                memcpy(ret, mapped, sizeof mapped);
                *ret_width = 32;
                return true;
        }
        *ret_width = 128;
        return inet_pton(AF_INET6, text, ret) == 1;
}

static bool bit(const unsigned char b[16], unsigned i)
{
        return b[i / 8] >> (7 - i % 8) & 1;
}

int cidr_parse(const char *text, struct cidr *ret)
{
        const char *slash = strchr(text, '/');
        char address[64];
        struct cidr c;
        unsigned width;
        size_t n = slash ? (size_t)(slash - text) : strlen(text);

        if (n >= sizeof address)
                return -EINVAL;
        memcpy(address, text, n);
        address[n] = '\0';
        if (!parse_address(address, c.bytes, &width))
                return -EINVAL;
        c.bits = 128;
        if (slash) {
                size_t digits = strspn(slash + 1, "0123456789");
                unsigned long bits = strtoul(slash + 1, NULL, 10);

                if (!digits || digits > 3 || slash[1 + digits] || bits > width ||
                    (digits > 1 && slash[1] == '0'))
                        return -EINVAL;
                c.bits = 128 - width + (unsigned)bits;
        }
        for (unsigned i = c.bits; i < 128; i++)
                if (bit(c.bytes, i))
                        return -EINVAL;
        *ret = c;
        return 0;
}

bool cidr_has(const struct cidr *c, const char *address)
{
        unsigned char bytes[16];
        unsigned width;

        if (!parse_address(address, bytes, &width))
                return false;
        for (unsigned i = 0; i < c->bits; i++)
                if (bit(bytes, i) != bit(c->bytes, i))
                        return false;
        return true;
}
