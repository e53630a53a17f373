/* keep_alive.c: seconds or Go's durations, by hand: strtod would take "0x1p3", "nan" and the locale's comma. */
#include "core/keep_alive.h"

#include <errno.h>

#include "base/macros.h"

#define LONGEST (100 * 365 * 24 * USEC_PER_HOUR)

static const struct {
        const char *name;
        double usec;
} units[] = {
        {"ns", 0.001}, {"us", 1},  {"\xc2\xb5s", 1}, {"\xce\xbcs", 1},
        {"ms", 1e3},   {"s", 1e6}, {"m", 60e6},      {"h", 3600e6},
};

static bool is_digit(struct slice s, size_t i)
{
        return i < s.n && s.p[i] >= '0' && s.p[i] <= '9';
}

/* "12", "1.5", ".5"; with an exponent where JSON allows one. Its length, 0: it is none. */
static size_t number(struct slice s, bool exponent, double *ret)
{
        double v = 0, part = 0.1;
        size_t i = 0, digits = 0;
        int power = 0, sign = 1;

        for (; is_digit(s, i); i++, digits++)
                v = v * 10 + (s.p[i] - '0');
        if (i < s.n && s.p[i] == '.')
                for (i++; is_digit(s, i); i++, digits++, part /= 10)
                        v += part * (s.p[i] - '0');
        if (!digits)
                return 0;
        if (exponent && i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
                i++;
                if (i < s.n && (s.p[i] == '+' || s.p[i] == '-'))
                        sign = s.p[i++] == '-' ? -1 : 1;
                if (!is_digit(s, i))
                        return 0;
                for (; is_digit(s, i); i++)
                        power = MIN(power * 10 + (s.p[i] - '0'), 400);
                for (; power > 0; power--)
                        v = sign > 0 ? v * 10 : v / 10;
        }
        *ret = v;
        return i;
}

static size_t unit(struct slice s, double *ret)
{
        size_t best = 0;

        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
                struct slice name = slice_str(units[i].name);

                if (slice_starts_with(s, name) && name.n > best) {
                        best = name.n;
                        *ret = units[i].usec;
                }
        }
        return best;
}

/* "1h30m" in microseconds. */
static bool duration(struct slice s, double *ret)
{
        double sum = 0, v, each;

        while (s.n) {
                size_t n = number(s, false, &v);

                if (!n)
                        return false;
                s = slice_sub(s, n, s.n);
                n = unit(s, &each);
                if (!n)
                        return false;
                s = slice_sub(s, n, s.n);
                sum += v * each;
        }
        *ret = sum;
        return true;
}

int keep_alive_parse(struct slice value, usec_t *ret)
{
        bool text = value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"', negative;
        struct slice s = text ? slice_sub(value, 1, value.n - 1) : value;
        double usec;
        size_t n;

        if (slice_eq_str(value, "null")) {
                *ret = KEEP_ALIVE_NONE;
                return 0;
        }
        negative = s.n && s.p[0] == '-';
        if (negative || (text && s.n && s.p[0] == '+'))
                s = slice_sub(s, 1, s.n);
        if (!s.n)
                return -EINVAL;
        n = number(s, !text, &usec);
        if (n == s.n)
                usec *= 1e6;
        else if (!text || !duration(s, &usec))
                return -EINVAL;
        if (negative && usec > 0)
                *ret = KEEP_ALIVE_FOREVER;
        else
                *ret = usec > (double)LONGEST ? KEEP_ALIVE_FOREVER : (usec_t)(usec + 0.5);
        return 0;
}
