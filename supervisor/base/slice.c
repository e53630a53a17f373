/* slice.c: comparing bytes without case. */
#include "base/slice.h"

/* Eight bytes at once: a byte's top bit says whether it is an upper case letter, and becomes the bit that makes it a lower case one. */
static uint64_t lower8(uint64_t v)
{
        const uint64_t ones = 0x0101010101010101u, low = v & (ones * 0x7f);
        uint64_t upper = ((low + ones * (0x80 - 'A')) ^ (low + ones * (0x7f - 'Z'))) & ~v & (ones * 0x80);

        return v | upper >> 2;
}

static uint64_t load8(const char *p)
{
        uint64_t v;

        memcpy(&v, p, sizeof(v));
        return v;
}

/* The first and the last four of four to eight bytes; they may overlap. */
static uint64_t load_ends(const char *p, size_t n)
{
        uint32_t first, last;

        memcpy(&first, p, sizeof(first));
        memcpy(&last, p + n - sizeof(last), sizeof(last));
        return (uint64_t)first << 32 | last;
}

bool slice_same_nocase(const char *a, const char *b, size_t n)
{
        for (; n >= 8; a += 8, b += 8, n -= 8)
                if (lower8(load8(a)) != lower8(load8(b)))
                        return false;
        if (n >= 4)
                return lower8(load_ends(a, n)) == lower8(load_ends(b, n));
        for (; n; n--)
                if (ascii_lower((unsigned char)*a++) != ascii_lower((unsigned char)*b++))
                        return false;
        return true;
}
