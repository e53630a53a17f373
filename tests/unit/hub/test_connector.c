/* test_connector.c: the life of a job between a scripted hub and a fleet of fake llama-servers. */
#include "hub_world.h"

#define SLOW                                                                                                 \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--tok-s\", \"20\", \"--tokens\", "            \
        "\"100000\", \"-np\", \"2\", \"-c\", \"16384\"]}"
#define ASK(n) "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":" #n "}"
#define LONG   ASK(100000)

static void a_job_is_done_and_told(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j/1", CHAT);
        struct script_order *o;
        struct json_value *v = NULL;
        const struct hub_report *r;

        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(s.script.total, 2);
        assert_string_equal(s.script.models, "q=2 gpt=2");
        s.script.least = 99;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        assert_int_equal(script_deliver(&s.script, &claim), -EALREADY);
        o = wait_orders(&s, 1);
        assert_int_equal(s.script.least, 1); /* told as soon as it was claimed */
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_string_equal(o->id, "j/1");
        assert_string_equal(o->token, "token-of-it");
        assert_string_equal(o->instance, "q");
        assert_true(strlen(o->text) > 5);
        assert_int_equal(o->tokens, 5);
        assert_int_equal(json_parse(o->body, strlen(o->body), &v, NULL), 0);
        assert_string_equal(
                json_get_string(json_get(json_at(json_get(v, "choices"), 0), "message"), "content"), o->text);
        assert_string_equal(json_get_string(v, "object"), "chat.completion");
        assert_int_equal(json_get_int(json_get(v, "usage"), "completion_tokens", 0), 5);
        json_free(v);
        assert_int_equal(s.script.told.len, strlen(o->text));
        assert_memory_equal(s.script.told.data, o->text, s.script.told.len);
        wait_quiet(&s);
        WAIT(&s, s.script.total == 2);
        r = hubs_report(s.hubs, 0);
        assert_int_equal(r->claimed, 1);
        assert_int_equal(r->completed, 1);
        assert_int_equal(r->tokens, 5);
        assert_int_equal(r->refused, 1);
        assert_int_equal(r->state, HUB_UP);
        finish(&s);
}

/* The journal holds the claim before any instance has heard of it. */
static void a_claim_is_noted_before_work(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        unsigned seen = 0;

        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        s.world->until = time_monotonic() + PATIENCE;
        while (s.script.n_orders == 0) {
                struct relay_figures f;

                relay_figures(s.world->fleet, &f);
                if (f.started) {
                        assert_int_equal(count_records(&s, ".claim"), 1);
                        seen++;
                }
                timer_set(s.world->tick, 0);
                loop_run(s.world->loop);
                assert_true(time_monotonic() < s.world->until);
        }
        assert_true(seen > 0);
        wait_quiet(&s);
        finish(&s);
}

static void check_fails(void **state, const char *path, const char *model, const char *body,
                        enum hub_fail how, const char *words)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", body);
        struct script_order *o;

        claim.path = path;
        claim.model = model;
        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_FAIL);
        if (o->fail != how || !strstr(o->why, words))
                fail_msg("%s: %s", hub_fail_name(o->fail), o->why);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->failed[how], 1);
        finish(&s);
}

static void what_is_wrong_fails_for_good(void **state)
{
        check_fails(state, NULL, NULL, "[1]", HUB_FAIL_PERMANENT, "not one JSON object");
        check_fails(state, NULL, NULL, "{\"messages\":", HUB_FAIL_PERMANENT, "not one JSON object");
        check_fails(state, "/slots/0?action=save", NULL, CHAT, HUB_FAIL_PERMANENT,
                    "does not serve that path");
        check_fails(state, NULL, NULL, "{\"n_discard\":-1}", HUB_FAIL_PERMANENT, "n_discard");
        check_fails(state, NULL, NULL, "{\"model\":1}", HUB_FAIL_PERMANENT, "must be a string");
        check_fails(state, NULL, NULL, "{\"max_tokens\":1}", HUB_FAIL_PERMANENT, "messages");
        /* Its own 501: of this model, wherever it runs; nobody else would say otherwise. */
        check_fails(state, "/v1/embeddings", NULL, "{\"input\":\"x\"}", HUB_FAIL_PERMANENT, "embeddings");
}

static void what_we_do_not_have_is_for_others(void **state)
{
        check_fails(state, NULL, "x", CHAT, HUB_FAIL_NO_MODEL, "this worker has no model \"x\"");
        check_fails(state, NULL, NULL, "{\"model\":\"y\",\"messages\":[]}", HUB_FAIL_NO_MODEL,
                    "no model \"y\"");
}

static void claims_that_cannot_be_taken_are_refused(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("", CHAT);
        char id[HUB_ID_MAX + 1];

        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(script_deliver(&s.script, &claim), -EINVAL);
        memset(id, 'a', HUB_ID_MAX);
        id[HUB_ID_MAX] = '\0';
        claim.id = id;
        assert_int_equal(script_deliver(&s.script, &claim), -EINVAL);
        claim.id = "a";
        claim.body_len = HUB_JOB_BODY_MAX + 1;
        assert_int_equal(script_deliver(&s.script, &claim), -E2BIG);
        claim.body_len = strlen(claim.body);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        claim.id = "b";
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        claim.id = "c";
        assert_int_equal(script_deliver(&s.script, &claim), -EBUSY); /* two slots */
        assert_int_equal(hubs_report(s.hubs, 0)->refused, 4);
        (void)wait_orders(&s, 2);
        wait_quiet(&s);
        finish(&s);
}

static void a_result_waits_until_the_hub_knows(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        struct script_order *o;

        begin_ready(&s, *state, ONE_MODEL);
        s.script.how = HUB_UNKNOWN;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.n_orders > 2);
        WAIT(&s, count_records(&s, ".end") == 1); /* on disk by now */
        assert_int_equal(lab(&s)->outbox, 1);
        script_state(&s.script, HUB_DOWN, "the cable");
        assert_string_equal(hubs_report(s.hubs, 0)->why, "the cable");
        s.script.how = HUB_ALREADY;
        script_state(&s.script, HUB_UP, NULL);
        wait_quiet(&s);
        o = s.script.orders + s.script.n_orders - 1;
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_int_equal(hubs_report(s.hubs, 0)->already, 1);
        assert_int_equal(hubs_report(s.hubs, 0)->completed, 0);
        finish(&s);
}

/* kill -9 with a finished result, and with one under way: the first is handed in, the second given back at once. */
static void after_a_crash_the_journal_is_settled(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("done", CHAT);

        begin_ready(&s, *state, SLOW);
        s.script.silent = true;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".end") == 1);
        claim.id = "running";
        claim.body = LONG;
        claim.body_len = strlen(claim.body);
        claim.attempt = 2;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".claim") == 2);
        drop_hubs(&s);
        assert_int_equal(s.script.closes, 1);
        script_forget(&s.script);
        s.script.silent = false;
        open_hubs(&s, false);
        (void)wait_orders(&s, 4);
        for (unsigned i = 0; i < 4; i++) {
                const struct script_order *o = s.script.orders + i;

                assert_string_equal(o->token, "token-of-it");
                if (streq(o->id, "done"))
                        assert_true(o->kind == DID_ADOPT || o->kind == DID_COMPLETE);
                else
                        assert_true(o->kind == DID_ADOPT || o->kind == DID_RELEASE);
                if (o->kind == DID_COMPLETE) {
                        assert_int_equal(o->tokens, 5);
                        assert_true(strlen(o->text) > 5);
                        assert_string_equal(o->instance, "q");
                }
                if (streq(o->id, "running"))
                        assert_int_equal(o->attempt, 2);
        }
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->adopted, 2);
        finish(&s);
}

/* The next program in the same process does it again under the same claim. */
static void an_upgrade_goes_on(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(7));
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0);
        hubs_cut(s.hubs);
        assert_false(hubs_is_busy(s.hubs));
        assert_int_equal(s.script.n_orders, 0);
        drop_hubs(&s);
        script_forget(&s.script);
        open_hubs(&s, true);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_int_equal(o->run, 2);
        assert_int_equal(o->tokens, 7);
        wait_quiet(&s);
        finish(&s);
}

/* The next program cannot be run: what was cut for it begins anew, and may be told of and stopped meanwhile as anything else. */
static void an_upgrade_that_fails_goes_on(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(20));
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0);
        hubs_hold(s.hubs, true);
        assert_int_equal(hubs_report(s.hubs, 0)->running, 1);
        hubs_cut(s.hubs);
        assert_int_equal(hubs_report(s.hubs, 0)->running, 0);
        assert_int_equal(hubs_report(s.hubs, 0)->waiting, 1);
        script_state(&s.script, HUB_UP, NULL); /* something is told of it */
        rest(&s);
        assert_int_equal(s.script.n_orders, 0);
        hubs_hold(s.hubs, false);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_int_equal(o->run, 2);
        assert_int_equal(o->tokens, 20);
        wait_quiet(&s);
        WAIT(&s, s.script.total == 2);
        claim = script_claim("j2", LONG);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0 && s.script.last_run == 1);
        hubs_cut(s.hubs);
        hubs_drain(s.hubs, NULL, NULL);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_RELEASE);
        wait_quiet(&s);
        finish(&s);
}

static void a_claim_that_is_surely_lost_is_forgotten(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".claim") == 1);
        drop_hubs(&s);
        script_forget(&s.script);
        s.script.adopt = -ENOENT;
        open_hubs(&s, false);
        wait_quiet(&s);
        assert_int_equal(s.script.n_orders, 1);
        finish(&s);
}

static void a_lost_lease_stops_the_inference(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        struct relay_figures f;
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0);
        s.script.events->on_lost(s.script.owner, &LIST_ENTRY(lab(&s)->jobs.next, struct job, node)->pub,
                                 "too late");
        relay_figures(s.world->fleet, &f);
        assert_int_equal(f.running, 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_RELEASE);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->lost, 1);
        assert_non_null(strstr(hubs_report(s.hubs, 0)->last_error, "too late"));
        finish(&s);
}

static void who_asked_may_cancel(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0);
        s.script.events->on_cancel(s.script.owner, "j2"); /* nobody's */
        s.script.events->on_cancel(s.script.owner, "j1");
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_FAIL);
        assert_int_equal(o->fail, HUB_FAIL_CANCELLED);
        wait_quiet(&s);
        finish(&s);
}

static void deadlines_end_a_job(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        claim.deadline = loop_now(s.world->loop) + 200 * USEC_PER_MSEC;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->fail, HUB_FAIL_EXPIRED);
        wait_quiet(&s);
        claim.id = "j2";
        claim.deadline = USEC_INFINITY;
        claim.timeout = 200 * USEC_PER_MSEC;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 2);
        assert_int_equal(o->fail, HUB_FAIL_RETRY);
        assert_string_equal(o->why, "not done within 200 ms");
        wait_quiet(&s);
        claim.id = "j3";
        claim.deadline = 1; /* long ago */
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 3);
        assert_int_equal(o->fail, HUB_FAIL_EXPIRED);
        wait_quiet(&s);
        finish(&s);
}

static void a_lease_is_renewed(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(&s, *state, SLOW);
        claim.lease = 60 * USEC_PER_MSEC;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.renewals >= 5);
        s.script.events->on_cancel(s.script.owner, "j1");
        wait_quiet(&s);
        finish(&s);
}

/* Renewals of the time without a link came to nothing: the next one in its turn could be too late. */
static void a_lease_is_renewed_at_once_when_the_hub_is_back(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(&s, *state, SLOW);
        claim.lease = USEC_PER_HOUR;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".claim") == 1);
        script_state(&s.script, HUB_DOWN, "the cable");
        assert_int_equal(s.script.renewals, 0);
        script_state(&s.script, HUB_UP, NULL);
        WAIT(&s, s.script.renewals == 1);
        s.script.events->on_cancel(s.script.owner, "j1");
        wait_quiet(&s);
        finish(&s);
}

/* llama-server dies in the middle of the answer: once more, from nothing, with the claim kept. */
static void a_death_is_run_again_once(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(20));
        struct script_order *o;
        pid_t pid;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 0);
        pid = fleet_find(s.world->fleet, "q")->pid;
        assert_int_equal(kill(pid, SIGKILL), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_COMPLETE);
        assert_int_equal(o->run, 2);
        assert_int_equal(o->tokens, 20);
        assert_int_equal(s.script.last_run, 2);
        assert_true(s.script.told.len >
                    strlen(o->text)); /* the first run's words, then all of the second's */
        assert_memory_equal(s.script.told.data + s.script.told.len - strlen(o->text), o->text,
                            strlen(o->text));
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->rerun, 1);
        finish(&s);
}

/* The same at a hub that appends: what it was told stays, and only the rest follows. */
static void a_hub_that_appends_is_told_once(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(20));
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        s.script.driver.caps |= HUB_CAP_APPENDS;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 2);
        assert_int_equal(kill(fleet_find(s.world->fleet, "q")->pid, SIGKILL), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->run, 2);
        assert_int_equal(s.script.told.len, strlen(o->text));
        assert_memory_equal(s.script.told.data, o->text, s.script.told.len);
        wait_quiet(&s);
        finish(&s);
}

static void who_dies_twice_is_given_up(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        for (unsigned run = 1; run <= 2; run++) {
                WAIT(&s, s.script.chunks > 0 && s.script.last_run == run);
                assert_int_equal(kill(fleet_find(s.world->fleet, "q")->pid, SIGKILL), 0);
        }
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_FAIL);
        assert_int_equal(o->fail, HUB_FAIL_RETRY);
        wait_quiet(&s);
        finish(&s);
}

static void chunks_wait_for_a_busy_hub(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(30));
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        s.script.progress_busy = 5;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(s.script.busy_chunks, 5);
        assert_int_equal(s.script.told.len, strlen(o->text)); /* late, and nothing is missing */
        wait_quiet(&s);
        finish(&s);
}

static void events_are_told_one_to_one(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim(
                "j1",
                "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":9}");
        const char *p;
        unsigned n = 0;

        begin_ready(&s, *state, ONE_MODEL);
        claim.wants_text = false;
        claim.wants_events = true;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        (void)wait_orders(&s, 1);
        for (p = s.script.told.data; (p = strstr(p, "data: ")); p++)
                n++;
        assert_int_equal(n, 12); /* the role, nine tokens, the end, [DONE] */
        assert_true(ends_with(s.script.told.data, "data: [DONE]\n\n"));
        assert_null(strstr(s.script.told.data, "\"usage\"")); /* they did not ask for it */
        wait_quiet(&s);
        finish(&s);
}

/* Who waits in vain for a slot is given back without blame; a model that cannot be had is for others, and is not offered for a while. */
static void refusals_are_told_apart(void **state)
{
        struct scene s;
        struct world *w = *state;
        struct hub_claim claim = script_claim("j1", LONG);
        struct script_order *o;

        w->gateway = "{\"queue\": {\"timeout\": \"200ms\"}}";
        begin_ready(&s, w, SLOW);
        s.script.driver.caps |= HUB_CAP_CHAINS; /* more may come than was asked for */
        for (unsigned i = 1; i <= 3; i++) {
                char id[8];

                (void)snprintf(id, sizeof(id), "j%u", i);
                claim.id = id;
                assert_int_equal(script_deliver(&s.script, &claim), 0);
        }
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_RELEASE);
        assert_string_equal(o->id, "j3");
        s.script.events->on_cancel(s.script.owner, "j1");
        s.script.events->on_cancel(s.script.owner, "j2");
        wait_quiet(&s);
        WAIT(&s, s.script.total == 2);
        assert_int_equal(hubs_report(s.hubs, 0)->released, 1);
        finish(&s);
}

static void a_model_that_cannot_be_loaded_is_withdrawn(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        struct script_order *o;

        begin(&s, *state,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--oom-text\"], \"on_demand\": {}}");
        WAIT(&s, s.script.total == 1); /* it would be loaded for a job */
        assert_string_equal(s.script.models, "q=1");
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_FAIL);
        assert_int_equal(o->fail, HUB_FAIL_RETRY);
        assert_true(o->retry_after > 0);
        wait_quiet(&s);
        assert_int_equal(s.script.total, 0);
        assert_string_equal(s.script.models, "q=0");
        finish(&s);
}

static struct job *first_job(const struct scene *s)
{
        assert_false(list_is_empty(&lab(s)->jobs));
        return LIST_ENTRY(lab(s)->jobs.next, struct job, node);
}

/* A hub that takes nothing for long: what is kept is bounded, what is left out shows by the offset, and the answer does not wait. */
static void check_overflow(void **state, bool appends)
{
        enum { PIECE = 100 << 10 };
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        char *piece = malloc(PIECE);
        struct job *j;
        uint64_t before;
        unsigned busy;

        memset(piece, 'x', PIECE);
        begin_ready(&s, *state, SLOW);
        if (appends)
                s.script.driver.caps |= HUB_CAP_APPENDS;
        s.script.progress_busy = 1000000;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.busy_chunks > 0);
        j = first_job(&s);
        before = j->made;
        busy = s.script.busy_chunks;
        for (unsigned i = 1; i <= 5; i++) {
                progress_add(j, piece, PIECE);
                assert_true(j->told.len <= CONNECTOR_TOLD_MAX);
                assert_int_equal(j->made, before + i * PIECE);
        }
        assert_int_equal(s.script.busy_chunks,
                         busy); /* who does not take it is not asked again for each word */
        assert_true(lab(&s)->dropped_bytes >= 2 * PIECE);
        assert_int_equal(lab(&s)->dropped_bytes + j->told.len, j->made);
        s.script.progress_busy = 0;
        buffer_clear(&s.script.told);
        before = j->told.len;
        progress_flush(j, loop_now(s.world->loop));
        assert_int_equal(s.script.told.len, before);
        /* Who appends has the beginning without a hole, the others the newest with a hole before it. */
        assert_int_equal(s.script.last_offset, appends ? 0 : j->made - before);
        progress_add(j, piece, PIECE);
        progress_flush(j, loop_now(s.world->loop));
        assert_int_equal(s.script.told.len, appends ? before : before + PIECE);
        s.script.events->on_cancel(s.script.owner, "j1");
        wait_quiet(&s);
        free(piece);
        finish(&s);
}

static void what_is_told_is_bounded(void **state)
{
        check_overflow(state, false);
        check_overflow(state, true);
}

static void a_full_outbox_stops_claims(void **state)
{
        struct scene s;

        begin_ready(&s, *state, ONE_MODEL);
        WAIT(&s, s.script.total == 2);
        lab(&s)->outbox = CONNECTOR_OUTBOX_MAX;
        s.hubs->dirty = true;
        WAIT(&s, s.script.total == 0);
        lab(&s)->outbox = 0;
        lab(&s)->outbox_bytes = CONNECTOR_OUTBOX_BYTES_MAX;
        s.hubs->dirty = true;
        rest(&s);
        assert_int_equal(s.script.total, 0);
        lab(&s)->outbox_bytes = 0;
        s.hubs->dirty = true;
        WAIT(&s, s.script.total == 2);
        finish(&s);
}

/* The journal's folder is gone: nobody works on what would be forgotten. */
static void what_cannot_be_noted_is_given_back(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        _cleanup_free_ char *dir = text_format("%s/state/hubs/lab/claims", ((struct world *)*state)->dir);
        struct relay_figures f;
        struct script_order *o;

        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(rmdir(dir), 0);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        o = wait_orders(&s, 1);
        assert_int_equal(o->kind, DID_RELEASE);
        relay_figures(s.world->fleet, &f);
        assert_int_equal(f.started, 0);
        assert_non_null(strstr(hubs_report(s.hubs, 0)->last_error, "cannot be written"));
        WAIT(&s, s.script.total == 0);
        WAIT(&s, s.script.total == 2); /* tried again after a while */
        finish(&s);
}

/* Nor what might not fit into its line. */
static void what_is_too_long_for_the_journal_is_refused(void **state)
{
        char word[CONNECTOR_WORD_MAX + 1];
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        const char **words[] = {&claim.path, &claim.model, &claim.key};

        begin_ready(&s, *state, ONE_MODEL);
        memset(word, '\x01', sizeof(word) - 1); /* six bytes each in JSON */
        word[CONNECTOR_WORD_MAX] = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
                const char *kept = *words[i];

                *words[i] = word;
                assert_int_equal(script_deliver(&s.script, &claim), -E2BIG);
                *words[i] = kept;
        }
        assert_int_equal(s.script.n_orders, 0);
        /* All three as long as they may be: noted, then judged. */
        word[CONNECTOR_WORD_MAX - 1] = '\0';
        claim.path = claim.model = claim.key = word;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        assert_int_equal(wait_orders(&s, 1)->kind, DID_FAIL);
        wait_quiet(&s);
        finish(&s);
}

/* Torn and foreign files: what can be a claim is one, the rest is set aside or swept away, and nothing of it stops the start. */
static void a_broken_journal_is_set_aside(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        _cleanup_free_ char *dir = text_format("%s/state/hubs/lab/claims", ((struct world *)*state)->dir);
        static const char *const names[] = {"0123456789abcdef0123456789abcdef.claim", ".x.claim",
                                            "fedcba9876543210fedcba9876543210.end", "notes.txt"};

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".claim") == 1);
        drop_hubs(&s);
        script_forget(&s.script);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                _cleanup_free_ char *path = text_format("%s/%s", dir, names[i]);
                FILE *f = fopen(path, "w");

                assert_non_null(f);
                (void)fputs("{\"version\":1,\"id\":\"x\",\"body\":5}\nab", f);
                (void)fclose(f);
        }
        open_hubs(&s, false);
        (void)wait_orders(&s, 2); /* the good one: adopted, and given back */
        WAIT(&s, lab(&s)->n_jobs == 0 && claims_is_quiet(lab(&s)->claims));
        assert_int_equal(count_records(&s, ".claim"), 0);
        assert_int_equal(count_records(&s, ".end"), 0);
        assert_int_equal(count_records(&s, ".bad"), 1);
        assert_int_equal(count_records(&s, ".txt"), 1);
        finish(&s);
}

static void on_drained(void *owner)
{
        ((struct scene *)owner)->drained = true;
}

static void a_stop_gives_back_what_it_cannot_end(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("short", ASK(10));
        unsigned completed = 0, released = 0;

        begin_ready(&s, *state, SLOW);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        claim = script_claim("long", LONG);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.chunks > 2);
        hubs_drain(s.hubs, on_drained, &s);
        WAIT(&s, s.script.total == 0);
        claim.id = "late";
        assert_int_equal(script_deliver(&s.script, &claim), -ESHUTDOWN);
        WAIT(&s, s.script.n_orders == 1);
        assert_false(s.drained);
        hubs_hurry(s.hubs);
        WAIT(&s, s.drained);
        for (unsigned i = 0; i < s.script.n_orders; i++) {
                completed += s.script.orders[i].kind == DID_COMPLETE && streq(s.script.orders[i].id, "short");
                released += s.script.orders[i].kind == DID_RELEASE && streq(s.script.orders[i].id, "long");
        }
        assert_int_equal(completed, 1);
        assert_int_equal(released, 1);
        assert_int_equal(s.script.drains, 1);
        wait_quiet(&s);
        finish(&s);
}

/* A hub that is away is not waited for: the journal holds what it does not know. */
static void a_stop_does_not_wait_for_a_hub_that_is_away(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);

        begin_ready(&s, *state, ONE_MODEL);
        s.script.how = HUB_UNKNOWN;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, count_records(&s, ".end") == 1);
        script_state(&s.script, HUB_DOWN, "gone");
        hubs_drain(s.hubs, on_drained, &s);
        script_state(&s.script, HUB_DOWN, "gone");
        WAIT(&s, s.drained);
        assert_int_equal(count_records(&s, ".end"), 1);
        finish(&s);
}

static void a_revoked_key_is_a_state(void **state)
{
        struct scene s;
        struct buffer b;
        struct json_writer w;

        begin_ready(&s, *state, ONE_MODEL);
        script_state(&s.script, HUB_REVOKED, "authorization violation");
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_REVOKED);
        buffer_init(&b, 0);
        json_begin(&w, &b);
        assert_int_equal(hub_report_put(hubs_report(s.hubs, 0), 1000, loop_now(s.world->loop), &w), 0);
        assert_non_null(strstr(b.data, "\"state\":\"revoked\",\"why\":\"authorization violation\""));
        buffer_finish(&b);
        finish(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
                T(a_job_is_done_and_told),
                T(a_claim_is_noted_before_work),
                T(what_is_wrong_fails_for_good),
                T(what_we_do_not_have_is_for_others),
                T(claims_that_cannot_be_taken_are_refused),
                T(a_result_waits_until_the_hub_knows),
                T(after_a_crash_the_journal_is_settled),
                T(an_upgrade_goes_on),
                T(an_upgrade_that_fails_goes_on),
                T(a_claim_that_is_surely_lost_is_forgotten),
                T(a_lost_lease_stops_the_inference),
                T(who_asked_may_cancel),
                T(deadlines_end_a_job),
                T(a_lease_is_renewed),
                T(a_lease_is_renewed_at_once_when_the_hub_is_back),
                T(a_death_is_run_again_once),
                T(a_hub_that_appends_is_told_once),
                T(who_dies_twice_is_given_up),
                T(chunks_wait_for_a_busy_hub),
                T(events_are_told_one_to_one),
                T(what_is_told_is_bounded),
                T(a_full_outbox_stops_claims),
                T(what_cannot_be_noted_is_given_back),
                T(what_is_too_long_for_the_journal_is_refused),
                T(a_broken_journal_is_set_aside),
                T(refusals_are_told_apart),
                T(a_model_that_cannot_be_loaded_is_withdrawn),
                T(a_stop_gives_back_what_it_cannot_end),
                T(a_stop_does_not_wait_for_a_hub_that_is_away),
                T(a_revoked_key_is_a_state),
#undef T
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
