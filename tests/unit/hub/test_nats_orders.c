/* test_nats_orders.c: a worker that is ordered to drain, over a real nats-server: it stays so over reconnects, restarts of its own and of the server. */
#include "nats_scene.h"

#ifdef LSV_HAVE_NATS

#include "hub/nats_private.h"

static void order(struct scene *s, const char *worker, const char *text)
{
        char subject[NATS_SUBJECT_MAX];
        struct nats_answer a = {0};
        struct buffer b = {.data = (char *)text, .len = strlen(text)};

        api(s, nats_subject(NATS_CTL, worker, subject), &b, &a);
        assert_int_equal(a.code, 0);
}

static bool is_known(const struct worker *w)
{
        return ((const struct hub_link *)w->link)->orders_known;
}

/* It does not claim, though a job waits and slots are free. */
static void assert_drains(struct scene *s, struct worker *w)
{
        credits(w, 2, "tiny", 2);
        WAIT_FOR(s, is_known(w) && status_of(w).paused);
        assert_non_null(strstr(status_of(w).limit, "ordered this worker to drain"));
        run_for(s, 300 * USEC_PER_MSEC);
        assert_int_equal(w->n, 0);
}

static void test_an_order_survives(void **state)
{
        struct scene s;

        (void)state;
        scene_usual(&s, 30 * USEC_PER_SEC);
        (void)hand_in(&s, "tiny", NATS_LO, "o1", "{}", NULL);
        order(&s, "gpu1", "{\"order\":\"resume\"}");
        order(&s, "gpu1", "{\"order\":\"drain\"}");
        /* It was given while nobody heard it. */
        up(&s, &s.a, "gpu1");
        assert_drains(&s, &s.a);
        /* Its restart. */
        worker_close(&s.a);
        up(&s, &s.a, "gpu1");
        assert_drains(&s, &s.a);
        /* The server's, twice: with and without the worker. */
        server_kill(&s, SIGKILL);
        WAIT_FOR(&s, status_of(&s.a).state == HUB_DOWN);
        server_start(&s);
        WAIT_FOR(&s, status_of(&s.a).state == HUB_UP);
        assert_drains(&s, &s.a);
        worker_close(&s.a);
        server_kill(&s, SIGKILL);
        server_start(&s);
        up(&s, &s.a, "gpu1");
        assert_drains(&s, &s.a);
        order(&s, "gpu1", "{\"order\":\"resume\"}");
        WAIT_FOR(&s, s.a.n == 1);
        assert_int_equal(s.a.jobs[0].attempt, 1);
        assert_false(status_of(&s.a).paused);
        /* Ordered while it has a job: it ends that. */
        order(&s, "gpu1", "{\"order\":\"drain\"}");
        WAIT_FOR(&s, status_of(&s.a).paused);
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_STORED);
        /* What the stream does not have is no order. */
        {
                struct nats_answer a = {0};

                api(&s, "$JS.API.STREAM.PURGE.ORDERS", NULL, &a);
                assert_int_equal(a.code, 0);
        }
        worker_close(&s.a);
        (void)hand_in(&s, "tiny", NATS_LO, "o2", "{}", NULL);
        up(&s, &s.a, "gpu1");
        credits(&s.a, 1, "tiny", 1);
        WAIT_FOR(&s, s.a.n == 1);
        scene_end(&s);
}

/* The one who missed a message hears it when it asks again. */
static void test_asked_again(void **state)
{
        struct hub_link *l;
        struct scene s;

        (void)state;
        scene_usual(&s, 30 * USEC_PER_SEC);
        up(&s, &s.a, "gpu1");
        WAIT_FOR(&s, is_known(&s.a));
        l = (struct hub_link *)s.a.link;
        nats_wire_unsubscribe(l->wire, TAG(TAG_CONTROL, 0));
        run_for(&s, 100 * USEC_PER_MSEC);
        order(&s, "gpu1", "{\"order\":\"drain\"}");
        run_for(&s, 200 * USEC_PER_MSEC);
        assert_false(status_of(&s.a).paused);
        assert_true(l->orders_at <= time_monotonic() + ORDERS_EVERY);
        l->orders_at = time_monotonic();
        link_wake(l, l->orders_at);
        WAIT_FOR(&s, status_of(&s.a).paused);
        scene_end(&s);
}

/* The question for orders has waited long enough; the others have not. */
static bool expire(struct hub_link *l)
{
        for (size_t i = 0; i < l->cap_requests; i++)
                if (l->requests[i].fn && l->requests[i].arg == &l->orders_at) {
                        l->requests[i].deadline = 1;
                        requests_expire(l, 1);
                        return true;
                }
        return false;
}

/* A hub that could not answer yet, as one that begins together with its farm: who is to drain hears it with the next question, which comes soon and
 * not only with the minute in which all orders are read again. */
static void test_nobody_answered(void **state)
{
        const struct nats_layout layout = NATS_LAYOUT_DEFAULT;
        _cleanup_buffer_ struct buffer b = {0};
        struct nats_answer a = {0};
        struct json_writer w;
        struct hub_link *l;
        struct scene s;

        (void)state;
        scene_usual(&s, 30 * USEC_PER_SEC);
        api(&s, "$JS.API.STREAM.DELETE.ORDERS", NULL, &a);
        assert_int_equal(a.code, 0);
        up(&s, &s.a, "gpu1");
        l = s.a.link;
        /* No word of the order comes but the answer to a question. */
        nats_wire_unsubscribe(l->wire, TAG(TAG_CONTROL, 0));
        run_for(&s, 100 * USEC_PER_MSEC);
        WAIT_FOR(&s, expire(l));
        assert_true(l->orders_known);
        assert_true(l->orders_wait >
                    ORDERS_AGAIN); /* a hub that has no such stream is not asked each second for good */
        assert_true(l->orders_at <= time_monotonic() + ORDERS_EVERY / 2);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        nats_put_stream(&w, NATS_ORDERS, &layout);
        make_stream(&s, nats_stream_name(NATS_ORDERS), &b);
        order(&s, "gpu1", "{\"order\":\"drain\"}");
        assert_false(status_of(&s.a).paused);
        WAIT_FOR(&s, status_of(&s.a).paused);
        assert_int_equal(l->orders_wait, ORDERS_AGAIN);
        assert_true(l->orders_at > time_monotonic() + ORDERS_EVERY / 2);
        scene_end(&s);
}

/* A hub of an earlier version: who is connected obeys, and nobody waits for an answer that never comes. */
static void test_no_stream(void **state)
{
        struct nats_answer a = {0};
        struct scene s;

        (void)state;
        scene_usual(&s, 30 * USEC_PER_SEC);
        api(&s, "$JS.API.STREAM.DELETE.ORDERS", NULL, &a);
        assert_int_equal(a.code, 0);
        (void)hand_in(&s, "tiny", NATS_LO, "n1", "{}", NULL);
        up(&s, &s.a, "gpu1");
        credits(&s.a, 1, "tiny", 1);
        WAIT_FOR(&s, s.a.n == 1);
        assert_int_equal(status_of(&s.a).note_at, 0);
        (void)natsConnection_PublishString(s.admin, "llm.ctl.gpu1", "{\"order\":\"drain\"}");
        WAIT_FOR(&s, status_of(&s.a).paused);
        scene_end(&s);
}

/* A key from before there was the right: said once, and it works all the same. */
static void test_no_right(void **state)
{
        static const char users[] =
                "accounts { A { jetstream: on, users: [ {user: root, password: pw}, "
                "{user: gpu1, password: pw, "
                "permissions: {publish: {deny: [\"$JS.API.DIRECT.GET.ORDERS.>\"]}}} ] } }";
        struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        char path[128];
        FILE *f;

        (void)state;
        scene_begin(&s, users, "root", "pw");
        provision(&s, &l, usual_models);
        (void)snprintf(path, sizeof(path), "%s/password", s.dir);
        f = fopen(path, "we");
        assert_non_null(f);
        (void)fputs("pw\n", f);
        (void)fclose(f);
        (void)hand_in(&s, "tiny", NATS_LO, "n1", "{}", NULL);
        worker_open(&s, &s.a, "gpu1", "gpu1", path);
        WAIT_FOR(&s, status_of(&s.a).state == HUB_UP);
        credits(&s.a, 1, "tiny", 1);
        WAIT_FOR(&s, s.a.n == 1);
        assert_non_null(strstr(status_of(&s.a).note, "hub worker update"));
        order(&s, "gpu1", "{\"order\":\"drain\"}");
        WAIT_FOR(&s, status_of(&s.a).paused);
        scene_end(&s);
}

NATS_MAIN(cmocka_unit_test(test_an_order_survives), cmocka_unit_test(test_asked_again),
          cmocka_unit_test(test_nobody_answered), cmocka_unit_test(test_no_stream),
          cmocka_unit_test(test_no_right))

#endif
