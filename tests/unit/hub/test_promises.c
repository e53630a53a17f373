/* test_promises.c: what docs/HUB.md says in numbers: a claim is renewed at a third of its lease, text is told every 25 ms or 512 bytes, and with a
 * full outbox nothing more is claimed. */
#include "hub_world.h"

/* --- renewals ----------------------------------------------------------------------------------------------------------- */

enum { RENEWALS = 6, LEASE_MS = 3000 };

#define SLOW                                                                                                 \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--tok-s\", \"20\", \"--tokens\", "            \
        "\"100000\", \"-np\", \"2\", \"-c\", \"16384\"]}"
#define LONG "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":100000}"

static struct {
        unsigned n;
        usec_t at[RENEWALS];
} renewed;

static void note_renewal(struct hub_link *l, struct hub_job *job)
{
        (void)l;
        (void)job;
        if (renewed.n < RENEWALS)
                renewed.at[renewed.n++] = time_monotonic();
}

/* With room for a machine that is busy elsewhere; but no lease may ever come near its end, and none is renewed all the time. */
static void a_claim_is_renewed_in_good_time(void **state)
{
        const usec_t lease = LEASE_MS * USEC_PER_MSEC;
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        usec_t began;

        begin_ready(&s, *state, SLOW);
        s.script.driver.renew = note_renewal;
        renewed.n = 0;
        claim.lease = lease;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        began = time_monotonic();
        WAIT(&s, renewed.n == RENEWALS);
        for (unsigned i = 0; i < RENEWALS; i++) {
                usec_t gap = renewed.at[i] - (i ? renewed.at[i - 1] : began);

                assert_in_range(gap, lease / 10, lease * 8 / 10);
        }
        /* Two in each lease at least, on the whole. */
        assert_in_range(renewed.at[RENEWALS - 1] - began, 0, RENEWALS * lease / 2);
        s.script.events->on_cancel(s.script.owner, "j1");
        wait_quiet(&s);
        finish(&s);
}

/* --- partial text ------------------------------------------------------------------------------------------------------- */

enum { TOKENS = 2000 };

#define FAST                                                                                                 \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--tok-s\", \"1000\", \"--tokens\", "          \
        "\"100000\", \"-np\", \"2\", \"-c\", \"16384\"]}"

static char *whole;

static void keep_whole(struct hub_link *l, struct hub_job *job, const struct hub_result *result)
{
        whole = text_dup(result->text);
        script_complete(l, job, result);
}

static void text_is_told_in_few_pieces_and_whole(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim(
                "j1", "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":2000}");
        struct script_order *o;
        usec_t began, took;

        begin_ready(&s, *state, FAST);
        s.script.driver.complete = keep_whole;
        began = time_monotonic();
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        took = time_monotonic() - began;
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_int_equal(o->tokens, TOKENS);
        assert_in_range(s.script.told.len, TOKENS, 100 * TOKENS);
        assert_in_range(s.script.chunks, 2, s.script.told.len / 512 + took / (25 * USEC_PER_MSEC) + 2);
        /* And each token of them: it is what the answer says. */
        assert_non_null(whole);
        assert_int_equal(s.script.told.len, strlen(whole));
        assert_memory_equal(s.script.told.data, whole, s.script.told.len);
        free(whole);
        whole = NULL;
        wait_quiet(&s);
        assert_int_equal(lab(&s)->dropped_bytes, 0);
        finish(&s);
}

/* --- the outbox --------------------------------------------------------------------------------------------------------- */

/* A hub that takes results, and does not say what became of them until it may. */
struct box {
        struct scene *scene;
        struct timer *timer;
        struct hub_job *waiting[CONNECTOR_OUTBOX_MAX + 8];
        unsigned n, stored, asked;
        uint64_t bytes; /* of results that are not stored, each counted once */
        bool open;
};

static struct box box;

static void box_answer(void *owner, usec_t now)
{
        struct box *b = owner;

        (void)now;
        while (b->n) {
                struct hub_job *job = b->waiting[--b->n];

                b->stored += b->open;
                b->scene->script.events->on_settled(b->scene->script.owner, job,
                                                    b->open ? HUB_STORED : HUB_UNKNOWN);
        }
}

static void box_complete(struct hub_link *l, struct hub_job *job, const struct hub_result *result)
{
        (void)l;
        assert_true(box.n < ARRAY_SIZE(box.waiting));
        box.waiting[box.n++] = job;
        box.asked++;
        if (!job->mark) {
                job->mark = &box;
                box.bytes += result->body_len;
        }
        timer_set(box.timer, 0);
}

static int deliver(struct scene *s, unsigned number)
{
        char id[16] = "";
        struct hub_claim claim = script_claim(
                id, "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":1}");

        claim.wants_text = false; /* the driver's mark of a job is ours here */
        (void)snprintf(id, sizeof(id), "j%u", number);
        return script_deliver(&s->script, &claim);
}

/* As many finished jobs as there may be whose results the hub has not acknowledged. */
static void a_full_outbox_of_real_jobs_stops_claims(void **state)
{
        struct scene s;
        unsigned given = 0;

        begin_ready(&s, *state, ONE_MODEL);
        box = (struct box){.scene = &s};
        s.script.driver.complete = box_complete;
        assert_int_equal(timer_new(s.world->loop, box_answer, &box, &box.timer), 0);
        while (given < CONNECTOR_OUTBOX_MAX) {
                WAIT(&s, lab(&s)->left > 0);
                assert_true(connector_may_claim(lab(&s)));
                assert_int_equal(deliver(&s, given), 0);
                given++;
        }
        WAIT(&s, lab(&s)->outbox == CONNECTOR_OUTBOX_MAX && lab(&s)->working == 0);
        assert_int_equal(lab(&s)->outbox_bytes, box.bytes);
        assert_true(box.bytes > CONNECTOR_OUTBOX_MAX * 100);
        assert_int_equal(lab(&s)->n_jobs, CONNECTOR_OUTBOX_MAX);
        assert_int_equal(hubs_report(s.hubs, 0)->outbox, CONNECTOR_OUTBOX_MAX);
        /* Both slots are free, and the hub is told of none; what it gives all the same goes back. */
        assert_false(connector_may_claim(lab(&s)));
        WAIT(&s, s.script.total == 0);
        assert_int_equal(deliver(&s, given), -EBUSY);
        /* Their answers are unknown again and again, and are counted once all the same. */
        WAIT(&s, box.asked >= 3 * CONNECTOR_OUTBOX_MAX);
        assert_int_equal(lab(&s)->outbox, CONNECTOR_OUTBOX_MAX);
        assert_int_equal(lab(&s)->outbox_bytes, box.bytes);
        assert_int_equal(box.stored, 0);
        WAIT(&s, count_records(&s, ".end") == CONNECTOR_OUTBOX_MAX); /* none of them is lost with us */

        /* The hub says what became of them. */
        box.open = true;
        script_state(&s.script, HUB_DOWN, "away");
        script_state(&s.script, HUB_UP, NULL);
        WAIT(&s, box.stored == CONNECTOR_OUTBOX_MAX);
        wait_quiet(&s);
        assert_true(connector_may_claim(lab(&s)));
        WAIT(&s, s.script.total == 2);
        assert_int_equal(deliver(&s, given), 0);
        WAIT(&s, box.stored == CONNECTOR_OUTBOX_MAX + 1);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->completed, CONNECTOR_OUTBOX_MAX + 1);
        box.timer = timer_free(box.timer);
        finish(&s);
}

/* Other ways out of the outbox: the hub has another's result; the lease was lost; we end. */
static void whatever_ends_a_result_leaves_the_outbox(void **state)
{
        static const enum hub_settled hows[] = {HUB_STORED, HUB_ALREADY, HUB_LEASE_LOST};
        struct scene s;

        begin_ready(&s, *state, ONE_MODEL);
        for (unsigned i = 0; i < ARRAY_SIZE(hows); i++) {
                struct script_order *o;

                s.script.how = HUB_UNKNOWN;
                s.script.silent = true;
                WAIT(&s, lab(&s)->left > 0);
                assert_int_equal(deliver(&s, i), 0);
                WAIT(&s, s.script.n_orders == 1);
                o = s.script.orders;
                assert_int_equal(lab(&s)->outbox, 1);
                assert_int_equal(lab(&s)->outbox_bytes, strlen(o->body));
                s.script.silent = false;
                timer_set(s.script.timer, 0);
                WAIT(&s, s.script.n_orders > 1);
                assert_int_equal(lab(&s)->outbox, 1);
                s.script.how = hows[i];
                WAIT(&s, lab(&s)->n_jobs == 0);
                wait_quiet(&s);
                script_forget(&s.script);
        }
        finish(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
                T(a_claim_is_renewed_in_good_time),
                T(text_is_told_in_few_pieces_and_whole),
                T(a_full_outbox_of_real_jobs_stops_claims),
                T(whatever_ends_a_result_leaves_the_outbox),
#undef T
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
