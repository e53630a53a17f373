/* exchange_answer.c: reading the answer of an exchange: its head, its payload, and where it ends. */
#include <errno.h>

#include "base/macros.h"
#include "net/upstream_private.h"

enum {
        INTERIM_MAX = 8,          /* 1xx heads before the answer */
        BODY_AT_ONCE = 64 * 1024, /* reserved ahead for a collected answer that tells its length */
};

/* False if the callback ended the exchange. */
static bool tell_head(struct exchange *x, const struct http1_response *head)
{
        bool gone = false;

        x->gone = &gone;
        x->on->on_head(x->owner, head);
        if (gone)
                return false;
        x->gone = NULL;
        return true;
}

static bool tell_data(struct exchange *x, const char *data, size_t len)
{
        bool gone = false;

        x->gone = &gone;
        x->on->on_data(x->owner, data, len);
        if (gone)
                return false;
        x->gone = NULL;
        return true;
}

static unsigned long plain_number(struct slice s)
{
        unsigned long v = 0;

        for (size_t i = 0; i < s.n && i < 6 && s.p[i] >= '0' && s.p[i] <= '9'; i++)
                v = v * 10 + (unsigned long)(s.p[i] - '0');
        return v;
}

/* "Keep-Alive: timeout=5, max=100": how long and for how many more requests the server keeps the connection. Some count down,
 * some always tell the same number: the smaller of what it says and what was left before holds for both. */
static void note_keep_alive(struct exchange *x, const struct http1_response *head)
{
        struct leg *l = x->leg;
        struct slice value, item;

        x->keep = USEC_INFINITY;
        if (l->left != UINT32_MAX)
                l->left--;
        if (!http1_header_find(head->headers, head->n_headers, "keep-alive", &value))
                return;
        while (http1_list_next(&value, &item)) {
                if (slice_starts_with(item, SLICE("timeout=")))
                        /* A fifth earlier, so that our request does not meet the close. */
                        x->keep = plain_number(slice_sub(item, 8, item.n)) * USEC_PER_SEC * 4 / 5;
                else if (slice_starts_with(item, SLICE("max="))) {
                        unsigned long max = plain_number(slice_sub(item, 4, item.n));

                        l->left = (unsigned)MIN(max ? max - 1 : 0, l->left);
                }
        }
}

/* llama-server (b11669) closes the connection a moment after the last chunk of a stream, though it said Keep-Alive: the next
 * request on it would be lost. */
static bool is_stream(const struct http1_response *head)
{
        struct slice type = {0};

        (void)http1_header_find(head->headers, head->n_headers, "content-type", &type);
        return slice_eq_nocase(slice_sub(type, 0, 17), SLICE("text/event-stream"));
}

enum head { HEAD_MORE, HEAD_WHOLE, HEAD_GONE };

/* The head, once it is whole: how its body ends. < 0: malformed. *ret_used of the bytes belonged to heads. */
static int read_head(struct exchange *x, const char *data, size_t len, size_t *ret_used)
{
        struct http1_response head;
        size_t used = 0;
        int n;

        for (;;) {
                n = http1_response_parse(&x->parser, data + used, len - used, NULL, x->method, &head);
                if (n <= 0) {
                        *ret_used = used;
                        return n;
                }
                used += (size_t)n;
                if (head.status >= 200)
                        break;
                /* 101 would end HTTP on this connection, and nobody asked for that. */
                if (head.status == 101 || ++x->interim > INTERIM_MAX)
                        return -EPROTO;
                http1_parser_init(&x->parser);
        }
        x->status = head.status;
        x->keep_alive = head.keep_alive && !is_stream(&head);
        x->in_body = true;
        note_keep_alive(x, &head);
        http1_body_init_response(&x->decoder, &head, 0);
        *ret_used = used;
        if (x->on)
                return tell_head(x, &head) ? HEAD_WHOLE : HEAD_GONE;
        x->decoder.max = x->body_max; /* where 0 means no body */
        if (head.framing == HTTP1_LENGTH && head.content_length <= MIN(x->body_max, BODY_AT_ONCE) &&
            buffer_reserve(&x->body, (size_t)head.content_length) < 0)
                return -ENOMEM;
        return HEAD_WHOLE;
}

/* Reusable only when both sides are at the end of a message. */
static void exchange_complete(struct exchange *x, size_t behind)
{
        bool reusable = x->keep_alive && !x->fresh && !behind && !x->held_end && x->given == x->total &&
                        stream_queued(x->leg->stream) == 0;

        if (reusable && x->paused)
                reusable = stream_read(x->leg->stream, true) == 0;
        exchange_finish(x, EXCHANGE_OK, reusable);
}

/* The payload is moved together over the framing between it, so that however many chunks came with one read, the owner is
 * called once. Nearly always there is one piece, and nothing to move. */
static void exchange_read_body(struct exchange *x, char *data, size_t len)
{
        int r = http1_body_is_done(&x->decoder) ? HTTP1_DONE : HTTP1_AGAIN;
        struct slice whole = {0};

        while (r == HTTP1_AGAIN) {
                struct slice piece = {0};
                size_t used = 0;

                r = http1_body_feed(&x->decoder, data, len, &used, &piece);
                if (r < 0)
                        break;
                if (!whole.n) {
                        whole = piece;
                } else if (piece.n) {
                        memmove((char *)whole.p + whole.n, piece.p, piece.n);
                        whole.n += piece.n;
                }
                data += used;
                len -= used;
        }
        if (whole.n && x->on) {
                if (!tell_data(x, whole.p, whole.n))
                        return;
        } else if (whole.n && buffer_append(&x->body, whole.p, whole.n) < 0) {
                exchange_finish(x, EXCHANGE_FAILED, false);
                return;
        }
        if (r < 0)
                exchange_finish(x, EXCHANGE_MALFORMED, false);
        else if (r == HTTP1_DONE)
                exchange_complete(x, len);
}

void exchange_on_bytes(struct exchange *x, char *data, size_t len)
{
        bool gathered = x->head.len > 0, first = !x->bytes;
        size_t used = 0;
        int r;

        x->bytes += len;
        x->upstream->counts.bytes_in += len;
        x->last_byte = loop_now(x->upstream->loop);
        if (first) {
                x->first_byte_after = MAX(usec_sub(x->last_byte, x->start), 1);
                exchange_set_timer(x);
        }
        if (x->in_body) {
                exchange_read_body(x, data, len);
                return;
        }
        /* Most answers come whole and are read where they lie; a head in pieces is gathered. */
        if (gathered) {
                if (buffer_append(&x->head, data, len) < 0) {
                        exchange_finish(x, EXCHANGE_FAILED, false);
                        return;
                }
                data = x->head.data;
                len = x->head.len;
        }
        r = read_head(x, data, len, &used);
        if (r == HEAD_GONE)
                return;
        if (r < 0) {
                exchange_finish(x, r == -ENOMEM ? EXCHANGE_FAILED : EXCHANGE_MALFORMED, false);
                return;
        }
        if (r == HEAD_MORE) {
                if (gathered)
                        buffer_consume(&x->head, used);
                else if (buffer_append(&x->head, data + used, len - used) < 0)
                        exchange_finish(x, EXCHANGE_FAILED, false);
                return;
        }
        exchange_read_body(x, data + used, len - used);
}
