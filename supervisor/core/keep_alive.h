/* keep_alive.h: the member "keep_alive" of a request's body: how long its on-demand model stays loaded after it. Pure.
 *
 * As Ollama reads it (its docs/api.md; time.ParseDuration for the text): a number of seconds, or a text such as "5m", "1h30m", "250ms";
 * 0 unloads right after, anything below zero keeps it loaded. A text that is only a number counts as seconds too. */
#ifndef LSV_CORE_KEEP_ALIVE_H
#define LSV_CORE_KEEP_ALIVE_H

#include "base/slice.h"
#include "base/time.h"

#define KEEP_ALIVE_NONE    USEC_INFINITY       /* not said: the entry's idle_timeout counts */
#define KEEP_ALIVE_FOREVER (USEC_INFINITY - 1) /* until somebody unloads it, or another one needs the room */

/* value: the JSON value as it stands in the body, a text with its quotes. null is KEEP_ALIVE_NONE. 0, or -EINVAL with *ret
 * untouched; KEEP_ALIVE_WORDS says what is right. More than a hundred years is for ever. */
int keep_alive_parse(struct slice value, usec_t *ret);
#define KEEP_ALIVE_WORDS                                                                                     \
        "keep_alive must be a number of seconds or a text like \"5m\"; 0: unload right after, -1: never"

#endif
