/* tool_orders.h: a tool of the tests that takes orders: options of its command line as name=value, then lines on its standard input, in a loop of
 * ours; the end of the input ends the loop. */
#ifndef LSV_TESTS_TOOL_ORDERS_H
#define LSV_TESTS_TOOL_ORDERS_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "net/loop.h"

struct orders {
        struct loop *loop;
        struct watch *in;
        struct buffer line;
        void (*order)(void *owner, char *line); /* line may be written to */
        void *owner;
};

static inline void orders_read(void *owner, unsigned what, usec_t now)
{
        struct orders *o = owner;
        char bytes[65536];
        ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);

        (void)what;
        (void)now;
        if (n <= 0) {
                if (n < 0 && errno == EAGAIN)
                        return;
                o->in = watch_free(o->in);
                loop_stop(o->loop);
                return;
        }
        (void)buffer_append(&o->line, bytes, (size_t)n);
        for (;;) {
                char *end = o->line.len ? memchr(o->line.data, '\n', o->line.len) : NULL;
                char *line;
                size_t used;

                if (!end)
                        return;
                used = (size_t)(end - o->line.data) + 1;
                line = strndup(o->line.data, used - 1);
                buffer_consume(&o->line, used);
                if (!line)
                        exit(1);
                o->order(o->owner, line);
                free(line);
        }
}

/* Takes orders until there are no more. most: bytes that one of them may have. */
static inline int orders_run(struct orders *o, size_t most)
{
        int r;

        buffer_init(&o->line, most);
        r = watch_new(o->loop, STDIN_FILENO, WATCH_READ, orders_read, o, &o->in);
        if (r == 0)
                loop_run(o->loop);
        o->in = watch_free(o->in);
        buffer_finish(&o->line);
        return r;
}

static inline char *orders_option(int argc, char **argv, const char *name)
{
        size_t n = strlen(name);

        for (int i = 2; i < argc; i++)
                if (strncmp(argv[i], name, n) == 0 && argv[i][n] == '=')
                        return argv[i] + n + 1;
        return NULL;
}

#endif
