/* handover_text.c: what one program tells the next in the same process: a line of JSON, and behind it the bytes of requests that had
 * begun to come. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include "base/text.h"
#include "fleet/handover_private.h"
#include "host/reexec.h"

/* --- writing -------------------------------------------------------------------------------------------------------- */

struct writing {
        struct json_writer w;
        struct buffer bytes; /* of connections, one behind the other */
        int *fds;
        size_t n, cap;
        int error;
};

static void keep_fd(struct writing *x, int fd)
{
        if (x->n == x->cap) {
                size_t cap = x->cap ? x->cap * 2 : 64;
                int *grown = reallocarray(x->fds, cap, sizeof(*grown));

                if (!grown) {
                        x->error = -ENOMEM;
                        return;
                }
                x->fds = grown;
                x->cap = cap;
        }
        x->fds[x->n++] = fd;
}

static void put_listener(void *arg, int fd, const char *name, enum inherited_from from)
{
        struct writing *x = arg;

        json_open_object(&x->w);
        json_int(&x->w, "fd", fd);
        json_string(&x->w, "name", name);
        json_bool(&x->w, "unit", from == INHERITED_UNIT);
        json_close_object(&x->w);
        keep_fd(x, fd);
}

static void put_connection(void *arg, int fd, int listener, const char *bytes, size_t len)
{
        struct writing *x = arg;

        json_open_object(&x->w);
        json_int(&x->w, "fd", fd);
        json_int(&x->w, "listener", listener);
        json_uint(&x->w, "bytes", len);
        json_close_object(&x->w);
        (void)buffer_append(&x->bytes, bytes, len);
        keep_fd(x, fd);
}

int handover_write_text(struct handover *h, struct buffer *out, int **ret_fds, size_t *ret_n)
{
        struct writing x = {0};

        buffer_init(&x.bytes, REEXEC_TEXT_MAX / 2);
        json_begin(&x.w, out);
        json_open_object(&x.w);
        json_uint(&x.w, "generation", h->generation + 1);
        json_uint(&x.w, "postponed", h->n_postponed);
        json_uint(&x.w, "failed", h->n_failed);
        json_string(&x.w, "version", LSV_VERSION);
        json_uint(&x.w, "begun", h->begun);
        json_uint(&x.w, "held", h->held_at);
        json_int(&x.w, "lock", h->own_lock);
        keep_fd(&x, h->own_lock);
        json_key(&x.w, "kept");
        json_open_array(&x.w);
        for (size_t i = 0; i < h->n_kept; i++) {
                json_open_object(&x.w);
                json_int(&x.w, "fd", h->kept[i]);
                json_close_object(&x.w);
                keep_fd(&x, h->kept[i]);
        }
        json_close_array(&x.w);
        json_key(&x.w, "listeners");
        json_open_array(&x.w);
        h->doors->each_listener(h->doors_owner, put_listener, &x);
        json_close_array(&x.w);
        json_key(&x.w, "connections");
        json_open_array(&x.w);
        h->doors->each_connection(h->doors_owner, put_connection, &x);
        json_close_array(&x.w);
        json_close_object(&x.w);
        (void)buffer_putc(out, '\n');
        if (x.bytes.len)
                (void)buffer_append(out, x.bytes.data, x.bytes.len);
        if (x.bytes.failed || out->failed)
                x.error = -ENOMEM;
        buffer_finish(&x.bytes);
        if (x.error < 0) {
                free(x.fds);
                return x.error;
        }
        *ret_fds = x.fds;
        *ret_n = x.n;
        return 0;
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

/* Descriptors that came are close-on-exec again at once; -1: there is no such descriptor. */
static int fd_of(const struct json_value *object, const char *key)
{
        int64_t n = json_get_int(object, key, -1);

        return n > STDERR_FILENO && n <= INT_MAX && fcntl((int)n, F_SETFD, FD_CLOEXEC) == 0 ? (int)n : -1;
}

static void read_listeners(struct handover *h, const struct json_value *all)
{
        for (size_t i = 0; i < json_count(all); i++) {
                const struct json_value *one = json_at(all, i);
                int fd = fd_of(one, "fd");

                if (fd >= 0)
                        (void)inherited_add(h->inherited, fd,
                                            json_get_bool(one, "unit", false) ? INHERITED_UNIT
                                                                              : INHERITED_EXEC,
                                            json_get_string(one, "name"));
        }
}

static void read_kept(struct handover *h, const struct json_value *all)
{
        for (size_t i = 0; i < json_count(all); i++) {
                int fd = fd_of(json_at(all, i), "fd");

                if (fd >= 0 && h->n_came < HANDOVER_KEPT_MAX)
                        h->came[h->n_came++] = fd;
                else
                        close_fd(&fd);
        }
}

static int read_connections(struct handover *h, const struct json_value *all, const char *bytes, size_t len)
{
        size_t n = json_count(all);

        h->connections = calloc(MAX(n, (size_t)1), sizeof(*h->connections));
        if (!h->connections)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const struct json_value *one = json_at(all, i);
                uint64_t own = (uint64_t)json_get_int(one, "bytes", 0);
                int fd = fd_of(one, "fd");

                if (own > len)
                        return -EBADMSG;
                h->connections[h->n_connections++] = (struct handover_connection){
                        .fd = fd,
                        .listener = (int)json_get_int(one, "listener", -1),
                        .bytes = bytes,
                        .len = (size_t)own,
                };
                bytes += own;
                len -= (size_t)own;
        }
        return 0;
}

int handover_read_text(struct handover *h, const char *text, size_t len)
{
        const char *end = memchr(text, '\n', len);
        struct json_value *v = NULL;
        int r;

        if (!end)
                return -EBADMSG;
        r = json_parse(text, (size_t)(end - text), &v, NULL);
        if (r < 0)
                return r;
        h->is_next = true;
        h->generation = (uint64_t)json_get_int(v, "generation", 1);
        h->n_postponed = (uint64_t)json_get_int(v, "postponed", 0);
        h->n_failed = (uint64_t)json_get_int(v, "failed", 0);
        h->came_begun = (usec_t)json_get_int(v, "begun", 0);
        h->came_held = (usec_t)json_get_int(v, "held", 0);
        h->from = text_dup(json_get_string(v, "version"));
        h->lock = fd_of(v, "lock");
        read_kept(h, json_get(v, "kept"));
        read_listeners(h, json_get(v, "listeners"));
        r = read_connections(h, json_get(v, "connections"), end + 1, len - (size_t)(end + 1 - text));
        json_free(v);
        return r;
}
