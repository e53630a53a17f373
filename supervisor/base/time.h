/* time.h: microseconds. The monotonic clock drives everything; the wall clock is only for what people read. */
#ifndef LSV_BASE_TIME_H
#define LSV_BASE_TIME_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t usec_t;

#define USEC_PER_MSEC UINT64_C(1000)
#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_PER_MIN  (60 * USEC_PER_SEC)
#define USEC_PER_HOUR (60 * USEC_PER_MIN)
#define USEC_INFINITY UINT64_MAX

usec_t time_monotonic(
        void); /* CLOCK_MONOTONIC; only the loop, threads of their own and blocking programs (CLI) read it */
usec_t time_realtime(void); /* since 1970 */

/* a + b, USEC_INFINITY when either is infinite or the sum overflows. */
usec_t usec_add(usec_t a, usec_t b);
/* a - b, 0 when b is later. */
usec_t usec_sub(usec_t a, usec_t b);

/* "2026-11-20T10:00:00Z" (UTC) into buf (at least TIME_ISO_MAX bytes); returns buf. */
#define TIME_ISO_MAX 32
char *time_iso(usec_t realtime, char *buf, size_t size);

/* For people: "3 s", "1.5 s", "250 ms", "4h12m", "3d2h". Returns buf; 24 bytes are enough. */
#define TIME_SPAN_MAX 24
char *time_span(usec_t span, char *buf, size_t size);

/* "500ms" "5s" "10m" "2h" "1d", decimals allowed ("1.5s"), a unit needed except for "0". 0 or -EINVAL, -ERANGE. */
int time_parse_span(const char *s, usec_t *ret);

#endif
