/* trace.c: VERSION-TRACE-PARENT-FLAGS, in lower-case hexadecimal digits. */
#include "core/trace.h"

#include <errno.h>
#include <string.h>

enum { ID_AT = 3, ID_LEN = 32, PARENT_AT = 36, PARENT_LEN = 16, FLAGS_AT = 53, WHOLE = 55 };

static bool is_hex(struct slice s)
{
        for (size_t i = 0; i < s.n; i++)
                if (!((s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'a' && s.p[i] <= 'f')))
                        return false;
        return true;
}

static bool is_zero(struct slice s)
{
        for (size_t i = 0; i < s.n; i++)
                if (s.p[i] != '0')
                        return false;
        return true;
}

static bool is_part(struct slice value, size_t at, size_t len)
{
        return is_hex(slice_sub(value, at, at + len));
}

/* A later version may have more behind what we know, after another dash. */
static bool has_form(struct slice v)
{
        bool first = v.n >= 2 && v.p[0] == '0' && v.p[1] == '0';

        return v.n >= WHOLE && (v.n == WHOLE || (!first && v.p[WHOLE] == '-')) && is_part(v, 0, 2) &&
               !(v.p[0] == 'f' && v.p[1] == 'f') && v.p[ID_AT - 1] == '-' && v.p[PARENT_AT - 1] == '-' &&
               v.p[FLAGS_AT - 1] == '-' && is_part(v, ID_AT, ID_LEN) && is_part(v, PARENT_AT, PARENT_LEN) &&
               is_part(v, FLAGS_AT, 2) && !is_zero(slice_sub(v, ID_AT, ID_AT + ID_LEN)) &&
               !is_zero(slice_sub(v, PARENT_AT, PARENT_AT + PARENT_LEN));
}

int trace_parse(struct slice value, struct trace *ret)
{
        char low;

        *ret = (struct trace){0};
        if (!has_form(value))
                return -EINVAL;
        memcpy(ret->id, value.p + ID_AT, ID_LEN);
        memcpy(ret->parent, value.p, WHOLE);
        memcpy(ret->parent, "00", 2);
        low = value.p[FLAGS_AT + 1];
        ret->sampled = ((low <= '9' ? low - '0' : low - 'a' + 10) & 1) != 0;
        return 0;
}

void trace_of(const struct http1_header *headers, size_t n, struct trace *ret)
{
        size_t count = 0;

        *ret = (struct trace){0};
        for (size_t i = 0; i < n; i++)
                if (slice_eq_nocase(headers[i].name, SLICE("traceparent")) && count++ == 0)
                        (void)trace_parse(headers[i].value, ret);
        if (count > 1)
                *ret = (struct trace){0};
}
