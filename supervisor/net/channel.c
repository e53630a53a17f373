/* channel.c: connections that went on in another protocol: the server keeps socket, deadlines and counts, the owner the bytes. */
#include <errno.h>

#include "core/http1_build.h"
#include "net/server_private.h"

/* A frozen reader pins as much in the kernel, twice (socket(7)). */
enum { SEND_BUFFER = 64 * 1024 };

static struct conn *conn_of(const struct channel *ch)
{
        return CONTAINER_OF(ch, struct conn, channel);
}

static int send_head(struct conn *c, const char *headers)
{
        _cleanup_buffer_ struct buffer head = {0};
        struct iovec iov;

        buffer_init(&head, 0);
        (void)http1_build_response(&head, 101);
        (void)http1_build_header(&head, "Connection", "Upgrade");
        (void)http1_build_lines(&head, headers);
        (void)http1_build_end(&head);
        if (head.failed)
                return -ENOMEM;
        iov = (struct iovec){head.data, head.len};
        return stream_write(c->stream, &iov, 1);
}

int request_upgrade(struct request *req, const char *headers, const struct channel_events *events,
                    void *owner, struct channel **ret)
{
        struct conn *c = req->conn;
        int r;

        if (req->ended)
                return -EPIPE;
        if (req->begun || !request_body_is_whole(req))
                return -EINVAL;
        r = send_head(c, headers);
        if (r == -ENOMEM)
                return r;
        /* Broken: on_gone follows, as for every later write. */
        req->ended = true;
        c->req = NULL;
        request_retire(req);
        c->channel = (struct channel){events, owner};
        stream_set_send_buffer(c->stream, SEND_BUFFER);
        conn_wrote(c);
        conn_continue(c);
        *ret = &c->channel;
        return 0;
}

int channel_write(struct channel *ch, const struct iovec *iov, unsigned n)
{
        struct conn *c = conn_of(ch);
        int r;

        if (c->dead || c->doomed)
                return -EPIPE;
        r = stream_write(c->stream, iov, n);
        if (r == -ENOMEM) { /* nobody could say when there will be some again */
                c->doomed = true;
                loop_defer(c->server->loop, &c->later);
        }
        if (r < 0)
                return -EPIPE;
        conn_wrote(c);
        return 0;
}

size_t channel_queued(const struct channel *ch)
{
        return stream_queued(conn_of(ch)->stream);
}

struct channel *channel_close(struct channel *ch)
{
        ch->on = NULL;
        conn_close(conn_of(ch));
        return NULL;
}

struct channel *channel_abort(struct channel *ch)
{
        ch->on = NULL;
        conn_kill(conn_of(ch));
        return NULL;
}
