/* test_nats_months.c: results by month over a real nats-server: a job's own month whenever it ends, one result of several attempts, a month that is
 * missing, the way from the one stream of earlier versions, and keys of those. */
#ifdef LSV_HAVE_NATS
#include "nats_scene.h"

#include <sys/uio.h>

#include "hub/nats_admin.h"
#include "hub/nats_private.h"
#include "hub/submit.h"

/* The last nanosecond of October 2026, UTC: as JetStream says it to every attempt. */
#define OCTOBER_ENDS UINT64_C(1793491199999999999)
enum { OCTOBER = 202610, NOVEMBER = 202611 };

static unsigned this_month(void)
{
        return nats_month_of(time_realtime() * 1000);
}

static unsigned messages(struct scene *s, const char *stream)
{
        char subject[NATS_SUBJECT_MAX];
        natsMsg *m = NULL;
        struct json_value *v = NULL;
        unsigned n;

        (void)snprintf(subject, sizeof(subject), "$JS.API.STREAM.INFO.%s", stream);
        assert_int_equal(natsConnection_RequestString(&m, s->admin, subject, "", 20000), NATS_OK);
        assert_int_equal(json_parse(natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m), &v, NULL), 0);
        n = (unsigned)json_get_int(json_get(v, "state"), "messages", 1000);
        (void)json_free(v);
        natsMsg_Destroy(m);
        return n;
}

static void admin_does(struct scene *s, const char *subject, const char *body, int err_code)
{
        struct nats_answer a = {0};
        _cleanup_buffer_ struct buffer b;

        buffer_init(&b, 0);
        (void)buffer_puts(&b, body);
        api(s, subject, &b, &a);
        if (a.err_code != err_code)
                fail_msg("%s: %d %s", subject, a.err_code, a.description);
        nats_answer_finish(&a);
}

static void make_old(struct scene *s)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;

        make_month(s, NATS_MONTH_NONE, &l);
}

/* What "hub init --by-month" does, in its order. */
static void seal_old(struct scene *s)
{
        admin_does(
                s, "$JS.API.STREAM.UPDATE.RESULTS",
                "{\"name\":\"RESULTS\",\"subjects\":[\"llm.res.*\"],\"retention\":\"limits\",\"storage\":"
                "\"file\","
                "\"num_replicas\":1,\"discard\":\"new\",\"max_msgs\":-1,\"max_bytes\":-1,\"max_msg_size\":-1,"
                "\"max_consumers\":-1,\"max_age\":0,\"duplicate_window\":600000000000,\"max_msgs_per_"
                "subject\":1,"
                "\"discard_new_per_subject\":true,\"deny_delete\":true,\"deny_purge\":true,\"allow_direct\":"
                "true,"
                "\"sealed\":true}",
                0);
}

static void begin_without(struct scene *s)
{
        struct nats_layout l = NATS_LAYOUT_DEFAULT;

        scene_begin(s, "", NULL, NULL);
        s->without_months = true;
        provision(s, &l, usual_models);
}

/* The claim of another process's journal: the token says when the job was stored. */
static void adopt(struct worker *w, size_t i, const struct taken *of, unsigned attempt, uint64_t stored_at)
{
        struct taken *t = &w->jobs[i];
        struct nats_ack a;

        *t = *of;
        assert_int_equal(nats_ack_parse(of->token, &a), 0);
        (void)snprintf(t->token, sizeof(t->token), "$JS.ACK.JOBS.%s.%u.%llu.%llu.%llu.0", a.consumer, attempt,
                       (unsigned long long)a.stream_seq, (unsigned long long)a.consumer_seq,
                       (unsigned long long)stored_at);
        t->attempt = attempt;
        t->settled = false;
        t->job = (struct hub_job){.id = t->id, .token = t->token, .attempt = attempt, .run = 1};
        w->n = MAX(w->n, i + 1);
        assert_int_equal(hub_driver_nats.adopt(w->link, &t->job), 0);
}

static void expect(struct scene *s, unsigned month, const char *id, bool is_there)
{
        char *text = result_in(s, month, id);

        assert_int_equal(text != NULL, is_there);
        free(text);
}

/* Stored in October, ended later, by two workers that both believe that it is theirs: one result, in October. */
static void test_own_month(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        struct taken first;

        (void)state;
        scene_usual(&s, 10 * USEC_PER_MIN);
        if (this_month() != OCTOBER)
                make_month(&s, OCTOBER, &l);
        up(&s, &s.a, "gpu1");
        up(&s, &s.b, "gpu2");
        credits(&s.a, 1, "tiny", 1);
        (void)hand_in(&s, "tiny", NATS_LO, "edge", "{}", NULL);
        WAIT_FOR(&s, s.a.n == 1);
        first = s.a.jobs[0];
        worker_close(&s.a);
        up(&s, &s.a, "gpu1");
        adopt(&s.a, 0, &first, 1, OCTOBER_ENDS);
        adopt(&s.b, 0, &first, 2, OCTOBER_ENDS);
        complete(&s.a, 0, "{\"from\":1}");
        complete(&s.b, 0, "{\"from\":2}");
        WAIT_FOR(&s, s.a.jobs[0].settled && s.b.jobs[0].settled);
        /* One of each. */
        assert_int_equal((s.a.jobs[0].how == HUB_STORED) + (s.b.jobs[0].how == HUB_STORED), 1);
        assert_int_equal((s.a.jobs[0].how == HUB_ALREADY) + (s.b.jobs[0].how == HUB_ALREADY), 1);
        assert_int_equal(messages(&s, "RESULTS-202610"), 1);
        expect(&s, OCTOBER, "edge", true);
        if (this_month() != OCTOBER)
                expect(&s, this_month(), "edge", false);
        /* A nanosecond later it is November's. */
        (void)hand_in(&s, "tiny", NATS_LO, "next", "{}", NULL);
        credits(&s.a, 1, "tiny", 1);
        WAIT_FOR(&s, s.a.n == 2);
        first = s.a.jobs[1];
        adopt(&s.b, 1, &first, 1, OCTOBER_ENDS + 1);
        if (this_month() > nats_month_add(NOVEMBER, 1) || this_month() < OCTOBER)
                make_month(&s, NOVEMBER, &l);
        complete_until_known(&s.b, 1, "{}");
        assert_int_equal(messages(&s, "RESULTS-202610"), 1);
        expect(&s, NOVEMBER, "next", true);
        scene_end(&s);
}

/* Nobody made the month: nothing is lost, it is said who can help, and it goes on by itself. */
static void test_missing(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;

        (void)state;
        begin_without(&s);
        up(&s, &s.a, "gpu1");
        credits(&s.a, 1, "tiny", 1);
        (void)hand_in(&s, "tiny", NATS_LO, "m1", "{}", NULL);
        WAIT_FOR(&s, s.a.n == 1);
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_UNKNOWN);
        WAIT_FOR(&s, status_of(&s.a).limit);
        assert_non_null(strstr(status_of(&s.a).limit, "has no stream RESULTS-"));
        assert_non_null(strstr(status_of(&s.a).limit, "\"llama-supervisor hub init\" makes it"));
        assert_int_equal(status_of(&s.a).state, HUB_UP);
        assert_int_equal(jobs_left(&s, "tiny_lo"), 1);
        make_months(&s, &l);
        complete_until_known(&s.a, 0, "{}");
        assert_int_equal(s.a.jobs[0].how, HUB_STORED);
        WAIT_FOR(&s, !status_of(&s.a).limit);
        expect(&s, this_month(), "m1", true);
        assert_int_equal(jobs_left(&s, "tiny_lo"), 0);
        scene_end(&s);
}

/* A month that was removed is named by its number, since plain "hub init" does not make it again. */
static void test_removed(void **state)
{
        struct scene s;
        struct taken first;

        (void)state;
        scene_usual(&s, 10 * USEC_PER_MIN);
        up(&s, &s.a, "gpu1");
        up(&s, &s.b, "gpu2");
        credits(&s.a, 1, "tiny", 1);
        (void)hand_in(&s, "tiny", NATS_LO, "late", "{}", NULL);
        WAIT_FOR(&s, s.a.n == 1);
        first = s.a.jobs[0];
        adopt(&s.b, 0, &first, 1, UINT64_C(1700000000000000000)); /* 2023-11 */
        complete(&s.b, 0, "{}");
        SETTLED(&s, &s.b, 0, HUB_UNKNOWN);
        WAIT_FOR(&s, status_of(&s.b).limit);
        assert_non_null(strstr(status_of(&s.b).limit, "RESULTS-202311"));
        assert_non_null(strstr(status_of(&s.b).limit, "hub init --month 202311"));
        /* Others are not held up. */
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_STORED);
        scene_end(&s);
}

/* The next month is missing: said before it begins. */
static void test_short(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        char next[NATS_MONTH_STREAM_MAX];

        (void)state;
        begin_without(&s);
        make_month(&s, this_month(), &l);
        up(&s, &s.a, "gpu1");
        WAIT_FOR(&s, status_of(&s.a).limit);
        assert_non_null(
                strstr(status_of(&s.a).limit, nats_results_stream(nats_month_add(this_month(), 1), next)));
        scene_end(&s);
}

/* The hub is as an earlier version made it; then it is switched over, and what is under way, done, or late stays one result. */
static void test_upgrade(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        struct taken done;

        (void)state;
        begin_without(&s);
        make_old(&s);
        up(&s, &s.a, "gpu1");
        for (unsigned i = 0; i < 3; i++)
                (void)hand_in(&s, "tiny", NATS_LO, i == 0 ? "u0" : i == 1 ? "u1" : "u2", "{}", NULL);
        credits(&s.a, 3, "tiny", 3);
        WAIT_FOR(&s, s.a.n == 3);
        /* As before, as workers of before do. */
        assert_string_equal(s.a.jobs[0].id, "u0");
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_STORED);
        expect(&s, NATS_MONTH_NONE, "u0", true);
        assert_null(status_of(&s.a).limit);
        /* A worker of before has stored u1, and died before it acknowledged it. */
        assert_int_equal(natsConnection_PublishString(s.admin, "llm.res.u1", "{\"old\":1}"), NATS_OK);
        assert_int_equal(natsConnection_Flush(s.admin), NATS_OK);
        seal_old(&s);
        make_months(&s, &l);
        admin_does(&s, "llm.res.u2", "{\"late\":1}", NATS_ERR_SEALED);
        /* It is in the old stream: done. */
        assert_string_equal(s.a.jobs[1].id, "u1");
        done = s.a.jobs[1];
        complete_until_known(&s.a, 1, "{\"new\":1}");
        assert_int_equal(s.a.jobs[1].how, HUB_ALREADY);
        expect(&s, this_month(), "u1", false);
        /* So for whoever restarts with it in its journal. */
        up(&s, &s.b, "gpu2");
        adopt(&s.b, 0, &done, 2, time_realtime() * 1000);
        complete(&s.b, 0, "{\"new\":2}");
        SETTLED(&s, &s.b, 0, HUB_ALREADY);
        expect(&s, this_month(), "u1", false);
        /* What was under way when the hub was switched over. */
        assert_string_equal(s.a.jobs[2].id, "u2");
        complete(&s.a, 2, "{}");
        SETTLED(&s, &s.a, 2, HUB_STORED);
        expect(&s, this_month(), "u2", true);
        expect(&s, NATS_MONTH_NONE, "u2", false);
        assert_int_equal(jobs_left(&s, "tiny_lo"), 0);
        scene_end(&s);
}

/* A worker that was told nothing of the switch: its first order finds the old stream closed, the second the new one open. */
static void test_switched_under_way(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;

        (void)state;
        begin_without(&s);
        make_old(&s);
        up(&s, &s.a, "gpu1");
        credits(&s.a, 1, "tiny", 1);
        (void)hand_in(&s, "tiny", NATS_LO, "w1", "{}", NULL);
        WAIT_FOR(&s, s.a.n == 1);
        run_for(&s, 1100 * USEC_PER_MSEC);
        seal_old(&s);
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_UNKNOWN);
        /* Sealed, and no month yet: the same as a missing month. */
        WAIT_FOR(&s, status_of(&s.a).limit);
        assert_non_null(strstr(status_of(&s.a).limit, "hub init"));
        make_months(&s, &l);
        complete_until_known(&s.a, 0, "{}");
        assert_int_equal(s.a.jobs[0].how, HUB_STORED);
        expect(&s, this_month(), "w1", true);
        expect(&s, NATS_MONTH_NONE, "w1", false);
        scene_end(&s);
}

/* The hub is switched over while a job is at work: its first order finds the one stream closed, and that is no missing month: nobody is called before it
 * is known what there is instead. */
static void test_closed_is_not_missing(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct hub_link *link;
        struct scene s;

        (void)state;
        begin_without(&s);
        make_old(&s);
        up(&s, &s.a, "gpu1");
        link = s.a.link;
        credits(&s.a, 1, "tiny", 1);
        (void)hand_in(&s, "tiny", NATS_LO, "c1", "{}", NULL);
        WAIT_FOR(&s, s.a.n == 1 && link->months_known && !link->months_asking);
        seal_old(&s);
        make_months(&s, &l);
        /* It asked just now, so that it has to wait for a moment before it can know. */
        link->months_asked = time_monotonic();
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_UNKNOWN);
        complete_until_known(&s.a, 0, "{}");
        assert_int_equal(s.a.jobs[0].how, HUB_STORED);
        expect(&s, this_month(), "c1", true);
        assert_int_equal(s.a.limited, 0);
        assert_null(status_of(&s.a).limit);
        scene_end(&s);
}

/* --- the janitor --------------------------------------------------------------------------------------------------------- */

struct found {
        unsigned done, wrong;
        char what[64];
};

static void on_finding(void *owner, const struct nats_finding *f)
{
        struct found *found = owner;

        found->done += f->level == NATS_DONE;
        found->wrong += f->level == NATS_WRONG;
        (void)text_copy(found->what, sizeof(found->what), f->what);
}

static int round_of(struct nats_admin *a, struct found *ret)
{
        struct nats_janitor_counts counts;

        *ret = (struct found){0};
        return nats_janitor_round(a, false, on_finding, ret, &counts);
}

static bool is_there(struct scene *s, const char *stream)
{
        char subject[NATS_SUBJECT_MAX];
        struct nats_answer a = {0};
        bool yes;

        (void)snprintf(subject, sizeof(subject), "$JS.API.STREAM.INFO.%s", stream);
        api(s, subject, NULL, &a);
        yes = a.code == 0;
        nats_answer_finish(&a);
        return yes;
}

/* A month that cannot be made is told, and is made in the next round; when all are there nobody looks for an hour. */
static void test_janitor_again(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct nats_admin_spec spec = {.timeout = PATIENCE};
        struct nats_admin *a;
        struct found found;
        struct scene s;
        char next[NATS_MONTH_STREAM_MAX], last[NATS_MONTH_STREAM_MAX], text[256];
        char *why = NULL;
        unsigned month = this_month();

        (void)state;
        begin_without(&s);
        make_month(&s, month, &l);
        (void)nats_results_stream(nats_month_add(month, 1), next);
        (void)nats_results_stream(nats_month_add(month, NATS_MONTHS_AHEAD), last);
        /* Somebody else's has its subjects. */
        (void)snprintf(text, sizeof(text), "{\"name\":\"OTHER\",\"subjects\":[\"llm.res.%u.>\"]}",
                       nats_month_add(month, 1));
        admin_does(&s, "$JS.API.STREAM.CREATE.OTHER", text, 0);
        spec.url = s.url;
        if (nats_admin_open(&spec, &a, &why) < 0)
                fail_msg("%s", why);
        assert_int_equal(round_of(a, &found), -EIO);
        assert_int_equal(found.wrong, 1);
        assert_non_null(strstr(found.what, next));
        assert_false(is_there(&s, next));
        admin_does(&s, "$JS.API.STREAM.DELETE.OTHER", "", 0);
        assert_int_equal(round_of(a, &found), 0);
        assert_int_equal(found.wrong, 0);
        assert_int_equal(found.done, 1);
        assert_true(is_there(&s, next));
        assert_true(is_there(&s, last));
        (void)snprintf(text, sizeof(text), "$JS.API.STREAM.DELETE.%s", last);
        admin_does(&s, text, "", 0);
        assert_int_equal(round_of(a, &found), 0);
        assert_int_equal(found.done, 0);
        assert_false(is_there(&s, last));
        (void)nats_admin_close(a);
        scene_end(&s);
}

static void restart_with_users(struct scene *s, const char *users)
{
        server_config(s, users);
        server_kill(s, SIGKILL);
        server_start(s);
}

/* A key whose rights an earlier version wrote: it goes on at a hub of before; at one of today it says what it needs, keeps the result, and goes on
 * when it has it. */
static void test_old_key(void **state)
{
        static const char before[] =
                "accounts { A { jetstream: on, users: [ {user: root, password: pw}, {user: gpu1, password: "
                "pw, "
                "permissions: {publish: {allow: [\"$JS.API.CONSUMER.MSG.NEXT.JOBS.*\", "
                "\"$JS.API.CONSUMER.INFO.JOBS.*\", \"$JS.ACK.JOBS.>\", \"$JS.API.STREAM.MSG.GET.RESULTS\", "
                "\"llm.out.>\", \"llm.res.*\", \"llm.back.*.*\", \"$JS.API.STREAM.INFO.RETURNS\", "
                "\"llm.hb.gpu1\", \"llm.cancel.*\"]}, subscribe: {allow: [\"_INBOX.gpu1.>\", "
                "\"llm.cancel.*\", "
                "\"llm.ctl.gpu1\", \"llm.bell.*.*\"]}}} ] } }";
        static const char after[] = "accounts { A { jetstream: on, users: [ {user: root, password: pw}, "
                                    "{user: gpu1, password: pw} ] } }";
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        char path[128];
        FILE *f;

        (void)state;
        scene_begin(&s, before, "root", "pw");
        s.without_months = true;
        provision(&s, &l, usual_models);
        make_old(&s);
        (void)snprintf(path, sizeof(path), "%s/password", s.dir);
        f = fopen(path, "we");
        assert_non_null(f);
        (void)fputs("pw\n", f);
        (void)fclose(f);
        worker_open(&s, &s.a, "gpu1", "gpu1", path);
        WAIT_FOR(&s, status_of(&s.a).state == HUB_UP);
        (void)hand_in(&s, "tiny", NATS_LO, "k1", "{}", NULL);
        (void)hand_in(&s, "tiny", NATS_LO, "k2", "{}", NULL);
        credits(&s.a, 2, "tiny", 2);
        WAIT_FOR(&s, s.a.n == 2);
        complete(&s.a, 0, "{}");
        SETTLED(&s, &s.a, 0, HUB_STORED);
        expect(&s, NATS_MONTH_NONE, "k1", true);
        assert_non_null(strstr(status_of(&s.a).note, "hub worker update"));
        seal_old(&s);
        make_months(&s, &l);
        complete(&s.a, 1, "{}");
        SETTLED(&s, &s.a, 1, HUB_UNKNOWN);
        WAIT_FOR(&s, status_of(&s.a).limit);
        assert_non_null(strstr(status_of(&s.a).limit, "this key may not store them by month"));
        restart_with_users(&s, after);
        complete_until_known(&s.a, 1, "{}");
        assert_int_equal(s.a.jobs[1].how, HUB_STORED);
        expect(&s, this_month(), "k2", true);
        WAIT_FOR(&s, !status_of(&s.a).limit);
        scene_end(&s);
}

/* --- who asks -------------------------------------------------------------------------------------------------------- */

struct asker {
        char id[NATS_ID_MAX], code[32];
        unsigned accepted, ended;
};

static void on_accepted(void *owner, const char *id)
{
        struct asker *a = owner;

        a->accepted++;
        (void)text_copy(a->id, sizeof(a->id), id);
}

static void on_events(void *owner, const char *events, size_t len, unsigned attempt)
{
        (void)owner;
        (void)events;
        (void)len;
        (void)attempt;
}

static void on_restart(void *owner, unsigned attempt)
{
        (void)owner;
        (void)attempt;
}

static void on_end(void *owner, const struct submit_end *end)
{
        struct asker *a = owner;

        a->ended++;
        (void)text_copy(a->code, sizeof(a->code), end->code);
}

static const struct submit_events asker_events = {on_accepted, on_events, on_restart, on_end};
#define RESULT(id)                                                                                           \
        "{\"job\":\"" id                                                                                     \
        "\",\"ok\":true,\"status\":200,\"attempt\":1,\"run\":1,\"worker\":\"w\",\"answer\":{}}"

static void ask(struct scene *s, struct asker *a)
{
        static const struct iovec body = {(void *)"{}", 2};
        const struct submit_spec spec = {.model = "tiny",
                                         .body = &body,
                                         .n_body = 1,
                                         .timeout = 10 * USEC_PER_MIN,
                                         .events = &asker_events,
                                         .owner = a};
        struct hub_submission *submission;

        memset(a, 0, sizeof(*a));
        assert_int_equal(hub_driver_nats.submit(s->a.link, &spec, &submission), 0);
        WAIT_FOR(s, a->accepted);
}

/* Its result comes in a month that nobody would have guessed, in the one of its submission unheard, or as in earlier versions. */
static void test_where_it_is_found(void **state)
{
        const struct nats_layout l = NATS_LAYOUT_DEFAULT;
        struct scene s;
        struct asker a, b, c;
        char subject[NATS_SUBJECT_MAX];

        (void)state;
        scene_usual(&s, 10 * USEC_PER_MIN);
        make_old(&s);
        make_month(&s, 203001, &l);
        up(&s, &s.a, "front");
        ask(&s, &a);
        (void)nats_subject_result(203001, a.id, subject);
        assert_int_equal(natsConnection_PublishString(s.admin, subject, RESULT("a")), NATS_OK);
        WAIT_FOR(&s, a.ended);
        assert_string_equal(a.code, "ok");
        ask(&s, &b);
        (void)nats_subject_result(NATS_MONTH_NONE, b.id, subject);
        assert_int_equal(natsConnection_PublishString(s.admin, subject, RESULT("b")), NATS_OK);
        WAIT_FOR(&s, b.ended);
        assert_string_equal(b.code, "ok");
        /* Nobody hears the ring: the connection is lost, and made again when the loop runs. */
        ask(&s, &a);
        ask(&s, &b);
        ask(&s, &c);
        server_kill(&s, SIGTERM);
        server_start(&s);
        put_result(&s, a.id, RESULT("a"));
        (void)nats_subject_result(NATS_MONTH_NONE, b.id, subject);
        assert_int_equal(natsConnection_PublishString(s.admin, subject, RESULT("b")), NATS_OK);
        assert_int_equal(natsConnection_Flush(s.admin), NATS_OK);
        assert_int_equal(messages(&s, "RESULTS"), 2);
        assert_int_equal(a.ended + b.ended + c.ended, 0);
        WAIT_FOR(&s, a.ended && b.ended);
        assert_string_equal(a.code, "ok");
        assert_string_equal(b.code, "ok");
        assert_int_equal(c.ended, 0);
        put_result(&s, c.id, RESULT("c"));
        WAIT_FOR(&s, c.ended);
        scene_end(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_own_month),
                cmocka_unit_test(test_missing),
                cmocka_unit_test(test_removed),
                cmocka_unit_test(test_short),
                cmocka_unit_test(test_upgrade),
                cmocka_unit_test(test_switched_under_way),
                cmocka_unit_test(test_closed_is_not_missing),
                cmocka_unit_test(test_janitor_again),
                cmocka_unit_test(test_old_key),
                cmocka_unit_test(test_where_it_is_found),
        };

        int r;

        if (!have_server()) {
                (void)fprintf(stderr, "there is no nats-server here\n");
                return 77;
        }
        r = cmocka_run_group_tests(tests, NULL, NULL);
        nats_Close();
        return r;
}
#else
#include <stdio.h>

int main(void)
{
        (void)fprintf(stderr, "this build has no libnats\n");
        return 77;
}
#endif
