/* time.c: clocks, and spans in the form people write them. */
#include "base/time.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/macros.h"

static usec_t read_clock(clockid_t id)
{
        struct timespec ts;

        (void)clock_gettime(id, &ts);
        return (usec_t)ts.tv_sec * USEC_PER_SEC + (usec_t)ts.tv_nsec / 1000;
}

usec_t time_monotonic(void)
{
        return read_clock(CLOCK_MONOTONIC);
}

usec_t time_realtime(void)
{
        return read_clock(CLOCK_REALTIME);
}

usec_t usec_add(usec_t a, usec_t b)
{
        usec_t r;

        if (__builtin_add_overflow(a, b, &r))
                return USEC_INFINITY;
        return r;
}

usec_t usec_sub(usec_t a, usec_t b)
{
        return a > b ? a - b : 0;
}

char *time_iso(usec_t realtime, char *buf, size_t size)
{
        time_t t = (time_t)(realtime / USEC_PER_SEC);
        struct tm tm;

        (void)gmtime_r(&t, &tm);
        if (strftime(buf, size, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
                buf[0] = '\0';
        return buf;
}

char *time_span(usec_t span, char *buf, size_t size)
{
        uint64_t s = span / USEC_PER_SEC;

        if (span == USEC_INFINITY)
                (void)snprintf(buf, size, "for ever");
        else if (span < USEC_PER_SEC)
                (void)snprintf(buf, size, "%" PRIu64 " ms", span / USEC_PER_MSEC);
        else if (s < 10 && span % USEC_PER_SEC >= USEC_PER_SEC / 10)
                (void)snprintf(buf, size, "%" PRIu64 ".%" PRIu64 " s", s, span % USEC_PER_SEC / 100000);
        else if (s < 60)
                (void)snprintf(buf, size, "%" PRIu64 " s", s);
        else if (s < 3600)
                (void)snprintf(buf, size, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
        else if (s < 86400)
                (void)snprintf(buf, size, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s % 3600 / 60);
        else
                (void)snprintf(buf, size, "%" PRIu64 "d%" PRIu64 "h", s / 86400, s % 86400 / 3600);
        return buf;
}

int time_parse_span(const char *s, usec_t *ret)
{
        static const struct {
                const char *unit;
                usec_t usec;
        } units[] = {
                {"us", 1},           {"ms", USEC_PER_MSEC}, {"s", USEC_PER_SEC},
                {"m", USEC_PER_MIN}, {"h", USEC_PER_HOUR},  {"d", 24 * USEC_PER_HOUR},
        };
        uint64_t whole = 0, frac = 0, scale = 1;
        const char *p = s;
        usec_t unit = 0, r;

        if (!isdigit((unsigned char)*p))
                return -EINVAL;
        for (; isdigit((unsigned char)*p); p++)
                if (__builtin_mul_overflow(whole, 10, &whole) ||
                    __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
                        return -ERANGE;
        if (*p == '.') {
                if (!isdigit((unsigned char)*++p))
                        return -EINVAL;
                for (; isdigit((unsigned char)*p); p++)
                        if (scale < USEC_PER_SEC) {
                                frac = frac * 10 + (uint64_t)(*p - '0');
                                scale *= 10;
                        }
        }
        if (*p == '\0') {
                if (whole || frac)
                        return -EINVAL;
                *ret = 0;
                return 0;
        }
        for (size_t i = 0; i < ARRAY_SIZE(units); i++)
                if (streq(p, units[i].unit))
                        unit = units[i].usec;
        if (!unit)
                return -EINVAL;
        if (__builtin_mul_overflow(whole, unit, &r) || r > (usec_t)INT64_MAX)
                return -ERANGE;
        *ret = r + frac * unit / scale;
        return 0;
}
