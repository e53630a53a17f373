/* client.h: HTTP/1.1 to the daemon over its control socket, blocking, every wait with a deadline.
 *
 * client_request: one question, one whole answer. client_stream: an answer that goes on (the feed, a log), taken line by line.
 * Each has a connection of its own. Errors of all: -ENOENT and -ECONNREFUSED (nobody listens), -EACCES, -ETIMEDOUT,
 * -ECONNRESET (closed in the middle), -EPROTO (not HTTP, or not ours), -EMSGSIZE (over a bound), -ENAMETOOLONG, -ENOMEM. */
#ifndef LSV_CLI_CLIENT_H
#define LSV_CLI_CLIENT_H

#include "base/buffer.h"
#include "base/slice.h"
#include "base/time.h"

enum {
        CLIENT_ANSWER_MAX = 64 * 1024 * 1024,
        CLIENT_LINE_MAX = 1024 * 1024, /* of a stream; a longer one comes in pieces */
};
#define CLIENT_TIMEOUT (30 * USEC_PER_SEC)

struct client_answer {
        int status;
        struct buffer body;
};
void client_answer_finish(struct client_answer *a);
#define _cleanup_answer_ _cleanup_(client_answer_finish)

/* method: "GET", "POST", "DELETE" (sent without a body). *ret is the caller's to finish, also when it was never filled if it is
 * zeroed. */
int client_request(const char *socket_path, const char *method, const char *target, usec_t timeout,
                   struct client_answer *ret);
/* The same with a body of JSON. */
int client_send(const char *socket_path, const char *method, const char *target, struct slice content,
                usec_t timeout, struct client_answer *ret);

struct client_stream;
/* 0 and a stream once a 200 has begun; 1 when the daemon answered something else, which is then in *ret_refusal. */
int client_stream_open(const char *socket_path, const char *target, usec_t timeout,
                       struct client_stream **ret, struct client_answer *ret_refusal);
struct client_stream *client_stream_free(struct client_stream *s); /* always NULL */
/* Of a log: how many lines come first that are of the past (X-Log-Lines); 0 where that is not told. */
size_t client_stream_past(const struct client_stream *s);

/* The next line, without its end and with a NUL behind it, valid until the next call on this stream; false: none is there. */
bool client_stream_line(struct client_stream *s, char **ret, size_t *ret_len);
/* Reads once what has come (take all lines first): 0; 1 when the answer ended as it should (what is left of a line becomes one); or an error. */
int client_stream_pull(struct client_stream *s);
/* Waits until one of the streams (NULLs are skipped) or other_fd (-1: none) can be read, or deadline (monotonic;
 * USEC_INFINITY: none). 0: something is there, and *ret is the stream's index, n for other_fd. -ETIMEDOUT, -errno. */
int client_stream_wait(struct client_stream *const *streams, size_t n, int other_fd, usec_t deadline,
                       size_t *ret);

#endif
