/* trace.h: the trace that a client says its request belongs to: the header "traceparent". Pure.
 *
 * The header itself goes on to the instance as it came (core/forward.h), with tracestate and baggage; we add no span of our own. What is read
 * here is for the log and for the list of requests. Source: W3C Trace Context, Level 1, §3.2. */
#ifndef LSV_CORE_TRACE_H
#define LSV_CORE_TRACE_H

#include "core/http1.h"

enum { TRACE_ID_MAX = 33, TRACE_PARENT_MAX = 56 };

struct trace {
        char id[TRACE_ID_MAX];         /* 32 hexadecimal digits; "": there is none */
        char parent[TRACE_PARENT_MAX]; /* the header in the form of version 00, to be passed on */
        bool sampled;                  /* the caller records this trace */
};

/* 0 or -EINVAL, then ret is empty. */
int trace_parse(struct slice value, struct trace *ret);
/* Of a request's headers. Empty: there is none, or more than one, or it is not well-formed. */
void trace_of(const struct http1_header *headers, size_t n, struct trace *ret);

#endif
