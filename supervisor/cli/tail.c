/* tail.c: where a log that is read again goes on. */
#include "cli/tail.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "base/text.h"

void tail_finish(struct tail *t)
{
        for (size_t i = 0; i < t->n; i++)
                free(t->last[i]);
        t->n = 0;
}

void tail_add(struct tail *t, const char *line, size_t len)
{
        char *copy = strndup(line, len);

        if (!copy) {
                tail_finish(t);
                return;
        }
        if (t->n == TAIL_KEPT) {
                free(t->last[0]);
                memmove(t->last, t->last + 1, (TAIL_KEPT - 1) * sizeof(t->last[0]));
                t->n--;
        }
        t->last[t->n++] = copy;
}

/* Do the last of the first n lines look like the last that were told, as far back as both go? */
static bool ends_here(const struct tail *t, char *const *lines, size_t n)
{
        for (size_t back = 1; back <= MIN(n, t->n); back++)
                if (!streq(lines[n - back], t->last[t->n - back]))
                        return false;
        return true;
}

bool tail_find(const struct tail *t, char *const *lines, size_t n, size_t *ret)
{
        *ret = 0;
        if (t->n == 0)
                return true; /* there was nothing, so all of it is new */
        for (size_t i = n; i > 0; i--)
                if (ends_here(t, lines, i)) {
                        *ret = i;
                        return true;
                }
        return false;
}
