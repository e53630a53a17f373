/* params.h: what stands in a query and in the body of an order, read strictly. Pure.
 * On -EINVAL and -EBADMSG `why` (PARAM_WHY_MAX bytes are enough) says in plain words what is wrong; outputs are untouched then. */
#ifndef LSV_HTTP_PARAMS_H
#define LSV_HTTP_PARAMS_H

#include "base/slice.h"

enum { PARAM_WHY_MAX = 256 };

/* 0 (also when it is absent: *ret is the fallback) or -EINVAL. Digits only. */
int param_uint(struct slice query, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
               uint64_t *ret, char *why, size_t size);
/* "1", "true" and a bare name are true; "0", "false" and absence are false; 0 or -EINVAL. */
int param_bool(struct slice query, const char *name, bool *ret, char *why, size_t size);
/* *ret is buf, or NULL when it is absent; 0 or -EINVAL. */
int param_text(struct slice query, const char *name, char *buf, size_t buf_size, const char **ret, char *why,
               size_t size);

/* The body of an order: nothing, or an object without members. 0, -EBADMSG or -ENOMEM, with `why` in both cases. */
int order_check_body(const char *body, size_t len, char *why, size_t size);

#endif
