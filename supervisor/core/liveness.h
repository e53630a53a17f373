/* liveness.h: from single probe answers to a verdict. Pure.
 *
 * A late answer is not a death: llama-server's HTTP pool can starve for half a minute and a long prompt can silence it.
 * Dead is: refused, reset or wrongly answered `failures` times in a row; or no answer while neither its CPU time nor its
 * bytes to us moved for `failures` probes; or no answer at all for `silence`. While it starts, only `start_attempts` failed
 * probes count, and "loading model" is progress. Source: DESIGN §2 "Life", facts/llama-server §3 "starve". */
#ifndef LSV_CORE_LIVENESS_H
#define LSV_CORE_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/time.h"

enum probe_kind {
        PROBE_WELL,
        PROBE_LOADING,
        PROBE_REFUSED, /* nobody listens */
        PROBE_RESET,   /* closed in the middle */
        PROBE_TIMEOUT,
        PROBE_WRONG, /* an answer, but not a healthy one (500, rubbish, another program) */
        PROBE_LOCAL, /* trouble of our own (no descriptor, no memory): says nothing about the server */
};

struct probe_fact {
        enum probe_kind kind;
        usec_t cpu;     /* CPU time of the process so far; USEC_INFINITY: not known */
        uint64_t bytes; /* bytes it ever sent us */
};

struct liveness_policy {
        unsigned failures, start_attempts;
        usec_t silence;
        bool free_start; /* hf: models: failed start probes do not count while its CPU time moves (it downloads) */
};

enum liveness_verdict { LIVENESS_HEALTHY, LIVENESS_LOADING, LIVENESS_SICK, LIVENESS_DEAD, LIVENESS_NONE };

struct liveness {
        unsigned bad, still, attempts;
        usec_t last_answer, last_cpu, last_fact;
        uint64_t last_bytes;
        bool moving; /* CPU or bytes moved at the last fact */
};

void liveness_start(struct liveness *l, usec_t now);
/* starting: it has not been healthy since it was started. */
enum liveness_verdict liveness_feed(struct liveness *l, const struct liveness_policy *policy,
                                    const struct probe_fact *fact, bool starting, usec_t now);

#endif
