/* tale.h: a streamed exchange for the tests: what was told is written down, and each callback can be made to act. */
#ifndef LSV_TESTS_NET_TALE_H
#define LSV_TESTS_NET_TALE_H

#include "net/upstream_scene.h"

#include "base/buffer.h"

enum act {
        ACT_NONE,
        ACT_PAUSE,
        ACT_CANCEL,
        ACT_FREE,         /* the upstream, and with it the exchange */
        ACT_CANCEL_START, /* cancels, and starts the next one at once */
};

struct tale {
        struct scene s;
        struct exchange *x;
        struct iovec piece;
        enum act at_head, at_data, at_end;
        unsigned heads, datas, ends;
        int status;
        bool has_length;
        uint64_t length;
        char type[64];
        struct buffer got;
        struct exchange_answer end;
};

static inline void tale_start(struct tale *t, const struct exchange_spec *spec);

static inline void act(struct tale *t, enum act what, bool last)
{
        switch (what) {
        case ACT_NONE:
                break;
        case ACT_PAUSE:
                exchange_pause(t->x, true);
                break;
        case ACT_CANCEL:
                t->x = exchange_cancel(t->x);
                break;
        case ACT_FREE:
                t->s.up = upstream_free(t->s.up);
                t->x = NULL;
                break;
        case ACT_CANCEL_START:
                t->x = exchange_cancel(t->x);
                t->at_head = t->at_data = t->at_end = ACT_NONE;
                tale_start(t, NULL);
                break;
        }
        if (last || what == ACT_CANCEL || what == ACT_FREE)
                loop_stop(t->s.loop);
}

static inline void on_head(void *owner, const struct http1_response *head)
{
        struct tale *t = owner;
        struct slice type = {0};

        assert_int_equal(t->datas, 0);
        t->heads++;
        t->status = head->status;
        t->has_length = head->has_length;
        t->length = head->content_length;
        (void)http1_header_find(head->headers, head->n_headers, "content-type", &type);
        (void)snprintf(t->type, sizeof t->type, "%.*s", (int)type.n, type.n ? type.p : "");
        act(t, t->at_head, false);
}

static inline void on_data(void *owner, const char *data, size_t len)
{
        struct tale *t = owner;

        assert_int_equal(t->heads, 1);
        assert_int_equal(t->ends, 0);
        assert_true(len > 0);
        t->datas++;
        assert_int_equal(buffer_append(&t->got, data, len), 0);
        act(t, t->at_data, false);
}

static inline void on_finish(void *owner, const struct exchange_answer *answer, usec_t now)
{
        struct tale *t = owner;

        assert_true(now == loop_now(t->s.loop));
        assert_string_equal(answer->body, "");
        assert_int_equal(answer->body_len, 0);
        assert_int_equal(answer->status, t->status);
        t->ends++;
        t->end = *answer;
        act(t, t->at_end, true);
        if (t->at_end != ACT_CANCEL_START)
                t->x = NULL;
}

static const struct exchange_events tale_events = {on_head, on_data, on_finish};

static inline void tale_init(struct tale *t, unsigned max_idle)
{
        *t = (struct tale){0};
        scene_init(&t->s, max_idle);
        buffer_init(&t->got, 0);
}

/* The same over TCP. */
static inline void tale_init_tcp(struct tale *t, unsigned max_idle)
{
        struct endpoint at;

        *t = (struct tale){0};
        scene_init_quiet(&t->s, max_idle);
        buffer_init(&t->got, 0);
        t->s.up = upstream_free(t->s.up);
        assert_int_equal(endpoint_parse("127.0.0.1:0", &at), 0);
        t->s.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(t->s.listener, &at.addr.sa, at.len), 0);
        assert_int_equal(listen(t->s.listener, 16), 0);
        assert_int_equal(getsockname(t->s.listener, &at.addr.sa, &at.len), 0);
        assert_int_equal(upstream_new(t->s.loop, &at, max_idle, &t->s.up), 0);
}

static inline void tale_finish(struct tale *t)
{
        buffer_finish(&t->got);
        scene_finish(&t->s);
}

/* Forgets what was told so far. */
static inline void tale_forget(struct tale *t)
{
        t->heads = t->datas = t->ends = 0;
        t->status = 0;
        buffer_clear(&t->got);
}

static inline void tale_start(struct tale *t, const struct exchange_spec *spec)
{
        struct exchange_spec usual = plain();
        unsigned told = t->heads + t->datas + t->ends;

        t->s.began = time_monotonic();
        assert_int_equal(upstream_stream(t->s.up, spec ? spec : &usual, &tale_events, t, &t->x), 0);
        assert_int_equal(t->heads + t->datas + t->ends, told);
}

/* Runs until the end is told. */
static inline void tale_end(struct tale *t, enum exchange_result expected)
{
        unsigned ends = t->ends;

        timer_set(t->s.stop, time_monotonic() + 30 * USEC_PER_SEC);
        while (t->ends == ends && !t->s.hang)
                loop_run(t->s.loop);
        timer_set(t->s.stop, USEC_INFINITY);
        assert_false(t->s.hang);
        if (t->end.result != expected)
                fail_msg("result is '%s', not '%s'", exchange_result_text(t->end.result),
                         exchange_result_text(expected));
}

static inline struct exchange_spec post(struct tale *t, const void *data, size_t len)
{
        struct exchange_spec spec = plain();

        spec.method = SLICE("POST");
        set_body(&spec, &t->piece, data, len);
        return spec;
}

#endif
