/* stream.h: one connected byte stream (TCP or unix) on the loop, for the rooms of net/ alone.
 *
 * Writes are tried at once; what the socket does not take is copied and sent as it can be. The stream knows no bound of its
 * own: who writes looks at stream_queued. Callbacks come from the loop, never from inside the functions below, and none after
 * stream_free, which is fine inside any of them. */
#ifndef LSV_NET_STREAM_H
#define LSV_NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "core/endpoint.h"
#include "net/loop.h"

struct stream;
struct tls_context;

struct stream_events {
        /* Once after stream_connect: 0 or -errno. -EAGAIN never: a full backlog is waited for, the deadline is the owner's.
         * Once after stream_serve_tls: 0 when the handshake is done; -EPROTONOSUPPORT when the peer speaks plain text: the
         * stream is plain from then on, so that it can be told; what it said first is lost. */
        void (*on_connect)(void *owner, int error);
        /* The bytes are valid during the call, and may be written over. Reading begins with stream_read. */
        void (*on_read)(void *owner, char *data, size_t len);
        /* 0 for the peer's EOF (writing may go on), -errno when the stream is broken, which may also follow an EOF; each at
         * most once, and nothing is read after. A stream that is not being read is told broken when a write finds out. */
        void (*on_end)(void *owner, int error);
        /* All that was queued has been handed to the kernel. */
        void (*on_drain)(void *owner);
};

/* Takes the connected descriptor over, also when it fails. 0 or -errno. */
int stream_open(struct loop *loop, int fd, bool is_unix, const struct stream_events *events, void *owner,
                struct stream **ret);
int stream_connect(struct loop *loop, const struct endpoint *to, const struct stream_events *events,
                   void *owner, struct stream **ret);
/* TLS from the first byte on, as the server; the deadline of the handshake is the owner's, and so is reading (stream_read).
 * What is written before it is done is refused with -EPIPE, without on_end. on_end(-EPROTO): TLS was broken by the peer. A
 * goodbye of the peer and its bare EOF are the same to the owner. Bytes counted below are those of the wire. 0 or -ENOMEM. */
int stream_serve_tls(struct stream *s, const struct tls_context *context);
bool stream_is_ready(const struct stream *s); /* no handshake is under way */
/* Drops what is queued and closes at once. Takes NULL, always NULL. */
struct stream *stream_free(struct stream *s);

int stream_read(struct stream *s, bool on);
/* What a broken stream (on_end with an error) still holds from its peer: bytes, or <= 0 when there are no more. */
ssize_t stream_take(struct stream *s, char *buf, size_t size);
/* Sends or queues all of it. 0, -EPIPE when the stream is broken (on_end follows), -ENOMEM (nothing was taken). */
int stream_write(struct stream *s, const struct iovec *iov, unsigned n);
size_t stream_queued(const struct stream *s); /* bytes that the kernel has not taken yet */
uint64_t stream_sent(const struct stream *s); /* bytes that it has */
/* A mark that moves whenever the peer takes bytes, also such as the kernel holds for it (SIOCOUTQ): the kernel itself asks
 * for more only after a good part of its buffer is free, too coarse a sign of life for a slow reader. */
uint64_t stream_progress(const struct stream *s);
/* Tells the peer that nothing more comes (over TLS by its goodbye, too); what is queued must have gone. */
void stream_shutdown(struct stream *s);
/* stream_free will reset the connection instead of ending it (TCP alone knows the difference). */
void stream_reset_on_close(struct stream *s);
/* True when the peer has closed its side, though its last bytes were not read yet. */
bool stream_peer_closed(const struct stream *s);
int stream_fd(const struct stream *s);         /* stays the stream's; -1 when it has none */
pid_t stream_peer_pid(const struct stream *s); /* SO_PEERCRED of a unix stream, else 0 */
/* What the kernel holds for a reader that does not read (of the system's choice otherwise). */
void stream_set_send_buffer(struct stream *s, int bytes);

#endif
