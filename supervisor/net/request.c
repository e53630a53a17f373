/* request.c: one request as its owner sees it: its body in, its answer out. */
#include "net/server_private.h"

#include <errno.h>
#include <stdlib.h>

#include "base/json.h"
#include "base/log.h"
#include "core/http1_build.h"

/* --- life --------------------------------------------------------------------------------------------------------- */

static void tidy(struct buffer *b)
{
        if (b->cap > SPARE_BUFFER_MAX)
                buffer_finish(b);
        else
                buffer_clear(b);
}

struct request *request_free(struct request *req)
{
        if (!req)
                return NULL;
        list_remove(&req->node);
        deferred_cancel(&req->later);
        buffer_finish(&req->raw);
        buffer_finish(&req->body);
        buffer_finish(&req->out);
        free(req);
        return NULL;
}

static void request_recycle(struct request *req)
{
        struct server *s = req->server;

        if (s->n_spares >= SPARE_REQUESTS_MAX) {
                (void)request_free(req);
                return;
        }
        tidy(&req->raw);
        tidy(&req->body);
        tidy(&req->out);
        list_append(&s->spares, &req->node);
        s->n_spares++;
}

static void flush_head(struct request *req);

static void on_later(struct deferred *d)
{
        struct request *req = CONTAINER_OF(d, struct request, later);

        if (req->ended)
                request_recycle(req);
        else if (req->head_waits)
                flush_head(req);
}

void request_retire(struct request *req)
{
        req->server->counts.bodies -= req->body.len + req->held;
        loop_defer(req->server->loop, &req->later);
}

struct request *request_new(struct server *s)
{
        struct buffer raw, body, out;
        struct request *req;

        if (list_is_empty(&s->spares)) {
                req = calloc(1, sizeof *req);
                if (!req)
                        return NULL;
                buffer_init(&req->raw, 0);
                buffer_init(&req->body, 0);
                buffer_init(&req->out, 0);
        } else {
                req = LIST_ENTRY(s->spares.prev, struct request, node);
                list_remove(&req->node);
                s->n_spares--;
        }
        raw = req->raw;
        body = req->body;
        out = req->out;
        /* All but the parsed head, which is large and written by the parser. */
        memset(&req->raw, 0, sizeof *req - offsetof(struct request, raw));
        req->raw = raw;
        req->body = body;
        req->out = out;
        list_init(&req->node);
        deferred_init(&req->later, on_later);
        req->server = s;
        req->conn = NULL;
        return req;
}

/* The answer is complete: the connection goes on. */
static void request_finish(struct request *req)
{
        struct conn *c = req->conn;

        req->ended = true;
        c->req = NULL;
        request_retire(req);
        if (c->dead)
                return;
        if (!req->close_after && !request_body_is_whole(req)) {
                c->draining = true;
                c->rest = req->decoder;
        }
        conn_wrote(c);
        conn_request_ended(c, req->close_after);
}

const struct http1_request *request_head(const struct request *req)
{
        return &req->head;
}

const struct listener *request_listener(const struct request *req)
{
        return req->conn->listener;
}

const char *request_peer(const struct request *req)
{
        return req->conn->peer;
}

void request_set_mark(struct request *req, uint64_t mark)
{
        req->mark = mark;
}

uint64_t request_mark(const struct request *req)
{
        return req->mark;
}

void request_set_standing(struct request *req)
{
        req->standing = true;
}

void request_on_gone(struct request *req, request_gone_fn *fn, void *owner)
{
        req->on_gone = fn;
        req->gone_owner = owner;
}

void request_on_drain(struct request *req, request_drain_fn *fn, void *owner)
{
        req->on_drain = fn;
        req->drain_owner = owner;
}

/* --- the body ----------------------------------------------------------------------------------------------------- */

bool request_body_is_whole(const struct request *req)
{
        return http1_body_is_done(&req->decoder);
}

static const char *body_error(const struct request *req, int error, int *ret_status)
{
        *ret_status = error == -EMSGSIZE ? 413 : 400;
        if (error == -EMSGSIZE)
                return "the body is larger than allowed here";
        return req->decoder.reason ? req->decoder.reason : "the body is malformed";
}

static void refuse_body(struct request *req, int error)
{
        struct conn *c = req->conn;
        const char *reason;
        int status;

        c->server->counts.bad_requests++;
        reason = body_error(req, error, &status);
        conn_refuse(c, status, reason);
}

static bool fits(const struct server *s, size_t n)
{
        return n <= s->limits.bodies_max && s->counts.bodies <= s->limits.bodies_max - n;
}

static int keep_body(struct request *req, struct slice data)
{
        struct server *s = req->server;
        int r;

        if (!fits(s, data.n))
                return -ENOBUFS;
        r = buffer_append(&req->body, data.p, data.n);
        if (r == 0)
                s->counts.bodies += data.n;
        return r;
}

int request_hold(struct request *req, size_t n)
{
        struct server *s = req->server;

        if (!fits(s, n)) {
                s->counts.refused_bodies++;
                return -ENOBUFS;
        }
        s->counts.bodies += n;
        req->held += n;
        return 0;
}

bool request_feed(struct request *req)
{
        struct conn *c = req->conn;
        int r = HTTP1_AGAIN, kept;

        if (!req->body_asked || req->body_done)
                return false;
        if (http1_body_is_done(&req->decoder))
                r = HTTP1_DONE;
        while (r == HTTP1_AGAIN) {
                struct slice data = {NULL, 0};
                size_t used = 0;

                r = http1_body_feed(&req->decoder, c->view, c->view_len, &used, &data);
                if (r < 0) {
                        refuse_body(req, r);
                        return false;
                }
                kept = keep_body(req, data);
                if (kept < 0) {
                        c->server->counts.refused_bodies += kept == -ENOBUFS;
                        if (kept == -ENOBUFS)
                                conn_refuse_as(c, 503, "too_many_bodies",
                                               "too many large bodies at once: try again later");
                        else
                                conn_refuse(c, 503, "out of memory");
                        return false;
                }
                conn_use(c, used);
        }
        if (r == HTTP1_MORE)
                return false;
        req->body_done = true;
        req->on_body(req->body_owner, req, req->body.data ? req->body.data : "", req->body.len);
        return true;
}

int request_read_body(struct request *req, size_t max, request_body_fn *on_body, void *owner)
{
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        struct server *s = req->server;
        struct conn *c = req->conn;
        struct iovec iov = {.iov_base = (char *)go_on, .iov_len = sizeof go_on - 1};
        bool whole, over, nothing_came;

        if (req->ended)
                return -EPIPE;
        if (req->begun || req->body_asked)
                return -EINVAL;
        over = req->head.framing == HTTP1_LENGTH && req->head.content_length > max;
        if (!over &&
            req->head.content_length > s->limits.bodies_max - MIN(s->counts.bodies, s->limits.bodies_max)) {
                s->counts.refused_bodies++;
                return -ENOBUFS;
        }
        req->on_body = on_body;
        req->body_owner = owner;
        req->decoder.max = max; /* nothing was fed yet */
        req->body_asked = true;
        whole = http1_body_is_done(&req->decoder);
        nothing_came = c->processing ? !c->view_len : !c->in.len;
        if (req->head.expect_continue && req->head.minor > 0 && !whole && !over && nothing_came) {
                int r = stream_write(c->stream, &iov, 1);

                if (r < 0)
                        return r;
                conn_wrote(c);
        }
        if (!whole)
                conn_begin_body(c);
        conn_continue(c);
        return 0;
}

/* --- the answer --------------------------------------------------------------------------------------------------- */

static bool status_has_no_body(int status)
{
        return (status >= 100 && status < 200) || status == 204 || status == 304;
}

/* What is left of the body can be read and dropped, so that the connection may be kept. */
static bool can_drain(const struct request *req)
{
        const struct http1_request *h = &req->head;

        if (request_body_is_whole(req))
                return true;
        /* Nobody knows whether a client that waits for "100 Continue" sends the body now. */
        return h->framing == HTTP1_LENGTH && !h->expect_continue && req->decoder.left <= DRAIN_MAX;
}

static void decide_close(struct request *req)
{
        req->close_after =
                !req->head.keep_alive || req->server->stopping || req->server->closing || !can_drain(req);
}

static void put_head(struct request *req, int status, const char *content_type, const char *headers)
{
        struct buffer *b = &req->out;

        buffer_clear(b);
        (void)http1_build_response(b, status);
        if (content_type)
                (void)http1_build_header(b, "Content-Type", content_type);
        (void)http1_build_lines(b, headers);
}

static void put_connection(struct request *req)
{
        if (req->close_after)
                (void)http1_build_header(&req->out, "Connection", "close");
        else if (req->head.minor == 0)
                (void)http1_build_header(&req->out, "Connection", "keep-alive");
        (void)http1_build_end(&req->out);
}

static void put_error(struct buffer *b, int status, const char *code, const char *message)
{
        struct json_writer w;

        json_begin(&w, b);
        json_open_object(&w);
        json_key(&w, "error");
        json_open_object(&w);
        json_string(&w, "message", message);
        json_string(&w, "type",
                    status == 503   ? "unavailable_error"
                    : status >= 500 ? "server_error"
                                    : "invalid_request_error");
        if (code)
                json_string(&w, "code", code);
        else
                json_int(&w, "code", status);
        json_null(&w, "param");
        json_close_object(&w);
        json_close_object(&w);
}

int respond_error(struct conn *c, int status, const char *code, const char *reason, bool head_only)
{
        _cleanup_buffer_ struct buffer head = {0}, body = {0};
        struct iovec iov[2];

        buffer_init(&head, 0);
        buffer_init(&body, 0);
        put_error(&body, status, code, reason);
        (void)http1_build_response(&head, status);
        (void)http1_build_header(&head, "Content-Type", "application/json");
        (void)http1_build_header_u64(&head, "Content-Length", body.len);
        (void)http1_build_header(&head, "Connection", "close");
        if (status == 503) /* whatever there is too much of: it may be less in a moment */
                (void)http1_build_header(&head, "Retry-After", "1");
        (void)http1_build_end(&head);
        if (head.failed || body.failed)
                return -ENOMEM;
        iov[0] = (struct iovec){head.data, head.len};
        iov[1] = (struct iovec){body.data, head_only ? 0 : body.len};
        return stream_write(c->stream, iov, 2);
}

/* The owner's own head cannot be sent (control bytes in a header, or no memory). */
static void fail_answer(struct request *req)
{
        struct conn *c = req->conn;

        log_err(NULL, "an answer could not be built: a header that cannot be sent, or no memory");
        (void)respond_error(c, 500, NULL, "the answer could not be built", req->head.method == HTTP1_HEAD);
        req->close_after = true;
        request_finish(req);
}

/* The same for an answer in pieces, whose owner goes on writing until it is told. */
static void fail_begun(struct request *req)
{
        struct conn *c = req->conn;

        log_err(NULL, "an answer could not be begun: a header that cannot be sent, or no memory");
        (void)respond_error(c, 500, NULL, "the answer could not be built", req->head.method == HTTP1_HEAD);
        req->bodyless = req->close_after = true;
        req->chunked = req->sized = false;
        req->left = 0;
        c->doomed = true;
        loop_defer(c->server->loop, &c->later);
}

void request_respond(struct request *req, int status, const char *content_type, const char *headers,
                     const void *body, size_t len)
{
        struct iovec iov[2];

        if (req->ended || req->begun)
                return;
        decide_close(req);
        put_head(req, status, content_type, headers);
        if (!status_has_no_body(status))
                (void)http1_build_header_u64(&req->out, "Content-Length", len);
        put_connection(req);
        req->begun = true;
        if (req->out.failed) {
                fail_answer(req);
                return;
        }
        if (req->head.method == HTTP1_HEAD || status_has_no_body(status))
                len = 0;
        iov[0] = (struct iovec){req->out.data, req->out.len};
        iov[1] = (struct iovec){(void *)body, len};
        if (stream_write(req->conn->stream, iov, len ? 2 : 1) < 0) {
                request_abort(req);
                return;
        }
        request_finish(req);
}

static void begin(struct request *req, int status, const char *content_type, const char *headers,
                  const uint64_t *length)
{
        if (req->ended || req->begun)
                return;
        decide_close(req);
        req->bodyless = req->head.method == HTTP1_HEAD || status_has_no_body(status);
        req->sized = length && !status_has_no_body(status);
        req->left = req->sized ? *length : 0;
        req->chunked = !req->sized && req->head.minor > 0 && !status_has_no_body(status);
        if (!req->chunked && !req->sized && !status_has_no_body(status))
                req->close_after = true;
        put_head(req, status, content_type, headers);
        if (req->chunked)
                (void)http1_build_header(&req->out, "Transfer-Encoding", "chunked");
        if (req->sized)
                (void)http1_build_header_u64(&req->out, "Content-Length", req->left);
        put_connection(req);
        req->begun = true;
        if (req->out.failed) {
                fail_begun(req);
                return;
        }
        req->head_waits = true;
        loop_defer(req->server->loop, &req->later);
}

void request_begin(struct request *req, int status, const char *content_type, const char *headers)
{
        begin(req, status, content_type, headers, NULL);
}

void request_begin_sized(struct request *req, int status, const char *content_type, const char *headers,
                         uint64_t length)
{
        begin(req, status, content_type, headers, &length);
}

static void flush_head(struct request *req)
{
        struct iovec iov = {req->out.data, req->out.len};

        req->head_waits = false;
        if (stream_write(req->conn->stream, &iov, 1) == 0)
                conn_wrote(req->conn);
}

/* Sends up to one chunk, the head in front if it still waits, the end of the body behind if it is the last. */
static int send_piece(struct request *req, const void *data, size_t len, bool last)
{
        char size_line[HTTP1_CHUNK_HEAD_MAX];
        struct iovec iov[5];
        unsigned n = 0;
        int r;

        if (req->head_waits)
                iov[n++] = (struct iovec){req->out.data, req->out.len};
        if (!req->bodyless) {
                if (len && req->chunked)
                        iov[n++] = (struct iovec){size_line, http1_chunk_head(size_line, len)};
                if (len)
                        iov[n++] = (struct iovec){(void *)data, len};
                if (len && req->chunked)
                        iov[n++] = (struct iovec){(char *)HTTP1_CHUNK_END, strlen(HTTP1_CHUNK_END)};
                if (last && req->chunked)
                        iov[n++] = (struct iovec){(char *)HTTP1_CHUNK_LAST, strlen(HTTP1_CHUNK_LAST)};
        }
        if (!n)
                return 0;
        r = stream_write(req->conn->stream, iov, n);
        if (r < 0)
                return r;
        req->head_waits = false;
        conn_wrote(req->conn);
        return 0;
}

int request_write(struct request *req, const void *data, size_t len)
{
        size_t queued;
        int r;

        if (req->ended)
                return -EPIPE;
        if (!req->begun)
                return -EINVAL;
        if (!len)
                return 0;
        if (req->sized && len > req->left)
                return -EMSGSIZE;
        queued = stream_queued(req->conn->stream);
        if (queued && queued + len > req->server->limits.write_buffer_max)
                return -ENOBUFS;
        r = send_piece(req, data, len, false);
        if (r == 0 && req->sized)
                req->left -= len;
        return r;
}

size_t request_queued(const struct request *req)
{
        return req->ended ? 0 : stream_queued(req->conn->stream);
}

void request_end(struct request *req)
{
        if (req->ended)
                return;
        if (!req->begun) {
                request_respond(req, 500, NULL, NULL, NULL, 0);
                return;
        }
        if (req->left && !req->bodyless)
                request_break(req);
        else if (send_piece(req, NULL, 0, true) < 0)
                request_abort(req);
        else
                request_finish(req);
}

void request_abort(struct request *req)
{
        struct conn *c = req->conn;

        if (req->ended)
                return;
        req->ended = true;
        c->req = NULL;
        request_retire(req);
        /* Without chunks or a length an orderly end would look like the end of the answer. */
        if (req->begun && !req->chunked && !req->sized)
                stream_reset_on_close(c->stream);
        conn_kill(c);
}

void request_break(struct request *req)
{
        if (req->ended)
                return;
        if (!req->begun || (!req->chunked && !req->left)) {
                request_abort(req);
                return;
        }
        if (req->head_waits)
                flush_head(req);
        req->close_after = true;
        request_finish(req);
}
