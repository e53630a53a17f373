/* convex.c: the driver for llama-farm hubs on Convex: one WebSocket, one session, one question, and the worker's three mutations.
 *
 * The holes of that worker's functions, and what is done about them:
 * - The end of a job, also its failure, claims the next one in the same call (HUB_CAP_CHAINS). What the connector does not take is failed at
 *   once, which may bring another: at most twice for each job, and CONVEX_CHAIN_REFUSED_MAX in all.
 * - Partial text is appended for good, also over attempts (HUB_CAP_APPENDS): what a job's text the hub has is counted in bytes, kept in the
 *   journal, and never told again; its end carries the rest. A job that fails after text was told gets a line that says so, so that
 *   the next attempt's text can be told from it.
 * - giveMeWork may say null while isThereWork stays true: the next question comes a second or two later.
 * - There is no release, no permanent failure, and no model before the claim. */
#include <errno.h>
#include <stdio.h>

#include "base/file.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/text.h"
#include "core/url.h"
#include "hub/convex_private.h"

enum { KEY_FILE_MAX = 4096 };
#define INTERRUPTED "\n\n[interrupted]\n\n"

static const char *const paths[TASK_KINDS] = {
        [TASK_CLAIM] = "workers:giveMeWork",  [TASK_RENEW] = "workers:imStillWorking",
        [TASK_STREAM] = "workers:submitWork", [TASK_COMPLETE] = "workers:submitWork",
        [TASK_FAIL] = "workers:submitWork",
};

static uint32_t random_number(void)
{
        uint32_t n = UINT32_MAX / 2;

        (void)secret_random(&n, sizeof n);
        return n;
}

static usec_t now_of(const struct hub_link *l)
{
        return loop_now(l->loop);
}

static int say(void *owner, const char *frame, size_t len)
{
        struct hub_link *l = owner;
        int r = wsclient_send(l->ws, frame, len);

        if (r == 0)
                l->counts.bytes_out += len;
        else if (r != -ENOTCONN)
                /* What cannot be said in order is said again from the beginning on the next connection. */
                wsclient_close(l->ws, 1011, "out of room");
        return r;
}

/* --- state and time --------------------------------------------------------------------------------------------- */

static void tell_later(struct hub_link *l)
{
        timer_set(l->teller, 0);
}

void convex_set_state(struct hub_link *l, enum hub_state state, usec_t retry_at, const char *fmt, ...)
{
        char why[sizeof l->why];
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(why, sizeof why, fmt, ap);
        va_end(ap);
        (void)text_harmless(why);
        if (state == l->state && retry_at == l->retry_at && streq(why, l->why))
                return;
        l->state = state;
        l->retry_at = retry_at;
        (void)text_copy(l->why, sizeof l->why, why);
        l->state_tell = true;
        tell_later(l);
}

void convex_arm(struct hub_link *l)
{
        usec_t at = MIN(l->reconnect_at, l->poll_at);

        if (l->total > l->claims && !l->c.asking && l->claim_at != USEC_INFINITY)
                at = MIN(at, l->claim_at);
        LIST_FOREACH(&l->jobs, it)
        {
                const struct cjob *job = LIST_ENTRY(it, struct cjob, node);

                if (job->ordered && !job->tell)
                        at = MIN(at, usec_add(job->ordered_at, CONVEX_ORDER_MAX));
        }
        timer_set(l->timer, at);
}

static void connect_now(struct hub_link *l)
{
        int r;

        if (convex_poll_is_busy(l)) {
                l->reconnect_at = usec_add(now_of(l), USEC_PER_SEC);
                return;
        }
        r = wsclient_connect(l->ws);
        l->reconnect_at = r == 0 || r == -EISCONN ? USEC_INFINITY : usec_add(now_of(l), USEC_PER_SEC);
}

void convex_look(struct hub_link *l)
{
        bool want = l->total > l->claims && !l->draining && l->c.connected && now_of(l) >= l->claim_at &&
                    l->state != HUB_CONNECTING;

        (void)convex_ask(&l->c, want, say, l);
        convex_arm(l);
}

/* --- jobs ------------------------------------------------------------------------------------------------------- */

struct cjob *convex_find(struct hub_link *l, const char *id)
{
        LIST_FOREACH(&l->jobs, it)
        if (streq(LIST_ENTRY(it, struct cjob, node)->id, id))
                return LIST_ENTRY(it, struct cjob, node);
        return NULL;
}

int convex_add_job(struct hub_link *l, const char *id, struct cjob **ret)
{
        struct cjob *job = calloc(1, sizeof *job);

        if (!job)
                return -ENOMEM;
        (void)text_copy(job->id, sizeof job->id, id);
        buffer_init(&job->tail, 1 << 20);
        job->how = HUB_UNKNOWN;
        list_append(&l->jobs, &job->node);
        *ret = job;
        return 0;
}

static void free_job(struct hub_link *l, struct cjob *job)
{
        LIST_FOREACH(&l->c.mutations, it)
        {
                struct task *t = LIST_ENTRY(it, struct convex_mutation, node)->mark;

                if (t->job == job)
                        t->job = NULL;
        }
        list_remove(&job->node);
        buffer_finish(&job->tail);
        free(job);
}

void convex_drop_job(struct hub_link *l, struct cjob *job)
{
        (void)convex_journal_gone(l->journal, job->id);
        free_job(l, job);
        if (l->draining)
                tell_later(l);
}

void convex_settle(struct hub_link *l, struct cjob *job, enum hub_settled how)
{
        if (!job->ordered) {
                if (how != HUB_UNKNOWN && !job->pub)
                        convex_drop_job(l, job);
                else
                        job->how = how; /* for the order that comes */
                return;
        }
        job->tell = true;
        job->how = how;
        tell_later(l);
}

void convex_lose(struct hub_link *l, struct cjob *job, const char *why)
{
        if (job->lost)
                return;
        job->lost = true;
        log_debug(l->name, "job %s is not ours any more: %s", job->id, why);
        if (!job->pub)
                convex_drop_job(l, job);
        else
                l->on->on_lost(l->owner, job->pub, why);
}

void convex_tell_now(struct hub_link *l)
{
        LIST_FOREACH(&l->jobs, it)
        {
                struct cjob *job = LIST_ENTRY(it, struct cjob, node);
                struct hub_job *pub = job->pub;
                enum hub_settled how = job->how;

                if (!job->tell)
                        continue;
                job->tell = job->ordered = false;
                job->how = HUB_UNKNOWN;
                if (how != HUB_UNKNOWN)
                        convex_drop_job(l, job);
                l->on->on_settled(l->owner, pub, how);
        }
}

/* Each job's end may bring another one, so nothing is over before the last. */
static bool is_idle(const struct hub_link *l)
{
        return !l->claims && list_is_empty(&l->jobs);
}

static void on_teller(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        (void)now;
        convex_tell_now(l);
        if (l->draining && l->state == HUB_UP && is_idle(l)) {
                l->state = HUB_DRAINED;
                l->state_tell = true;
        }
        if (l->state_tell) {
                l->state_tell = false;
                l->on->on_state(l->owner);
        }
}

/* --- mutations -------------------------------------------------------------------------------------------------- */

static void note_of(const struct convex_mutation *m, struct convex_journal_note *ret)
{
        const struct task *t = m->mark;

        *ret = (struct convex_journal_note){.id = m->id,
                                            .kind = (int)t->kind,
                                            .path = m->path,
                                            .args = m->args,
                                            .job = t->job ? t->job->id : NULL,
                                            .sent = t->job ? t->job->sent : 0};
}

static int rewrite_journal(struct hub_link *l)
{
        int r = convex_journal_begin(l->journal, l->c.session, l->c.next_request);

        LIST_FOREACH(&l->jobs, it)
        {
                const struct cjob *job = LIST_ENTRY(it, struct cjob, node);

                if (r == 0)
                        r = convex_journal_job(l->journal, job->id, job->sent);
        }
        LIST_FOREACH(&l->c.mutations, it2)
        {
                struct convex_journal_note note;

                note_of(LIST_ENTRY(it2, struct convex_mutation, node), &note);
                if (r == 0)
                        r = convex_journal_mutation(l->journal, &note);
        }
        return r == 0 ? convex_journal_commit(l->journal) : r;
}

static void free_task(struct hub_link *l, struct convex_mutation *m)
{
        free(m->mark);
        convex_forget(&l->c, m);
}

int convex_order(struct hub_link *l, enum task_kind kind, struct cjob *job, const char *args)
{
        struct convex_journal_note note;
        struct convex_mutation *m;
        struct task *t = calloc(1, sizeof *t);
        int r;

        if (!t)
                return -ENOMEM;
        t->kind = kind;
        t->job = job;
        /* Written before it is said: said by the next statement, on this connection or the next. */
        r = convex_mutate(&l->c, paths[kind], args, t, NULL, NULL, &m);
        if (r < 0) {
                free(t);
                return r;
        }
        note_of(m, &note);
        r = convex_journal_mutation(l->journal, &note);
        if (r < 0) {
                l->counts.errors++;
                free_task(l, m);
                convex_set_state(l, l->state, l->retry_at, "the journal cannot be written: %s", strerror(-r));
                return r;
        }
        if (convex_journal_is_stale(l->journal))
                (void)rewrite_journal(l);
        if (kind == TASK_CLAIM)
                l->claims++;
        else if (kind == TASK_STREAM)
                job->streams++;
        else if (kind == TASK_RENEW)
                job->renewing = true;
        else
                job->final = m;
        if (l->c.connected)
                (void)convex_say(&l->c, m, say, l);
        else if (l->polling)
                l->poll_at = now_of(l);
        convex_arm(l);
        return 0;
}

static char *submit_args(const struct cjob *job, const char *text, size_t len, const char *state)
{
        struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_string(&w, "jobId", job->id);
        json_key(&w, "message");
        json_put_string_n(&w, text, len);
        json_string(&w, "state", state);
        return buffer_steal(&b);
}

void convex_claim(struct hub_link *l)
{
        (void)convex_ask(&l->c, false, say, l);
        if (convex_order(l, TASK_CLAIM, NULL, "") < 0)
                l->claim_at = usec_add(now_of(l), USEC_PER_SEC);
}

static int submit(struct hub_link *l, struct cjob *job, enum task_kind kind, const char *text, size_t len)
{
        static const char *const states[TASK_KINDS] = {
                [TASK_STREAM] = "streaming", [TASK_COMPLETE] = "success", [TASK_FAIL] = "failed"};
        _cleanup_free_ char *args = submit_args(job, text, len, states[kind]);
        int r;

        if (!args)
                return -ENOMEM;
        if (kind == TASK_STREAM)
                job->sent += len;
        r = convex_order(l, kind, job, args);
        if (r < 0 && kind == TASK_STREAM)
                job->sent -= len;
        return r;
}

void convex_give_back(struct hub_link *l, struct cjob *job)
{
        if (submit(l, job, TASK_FAIL, INTERRUPTED, job->sent ? strlen(INTERRUPTED) : 0) < 0)
                convex_drop_job(l, job); /* the hub times it out */
}

/* --- the connection --------------------------------------------------------------------------------------------- */

static void on_open(void *owner)
{
        struct hub_link *l = owner;

        l->counts.connects++;
        l->heard = false;
        l->reconnect_at = USEC_INFINITY;
        convex_poll_stop(l);
        if (convex_open(&l->c, (int64_t)(loop_realtime(l->loop) / 1000), say, l) < 0)
                return;
        if (l->state != HUB_REVOKED)
                convex_set_state(l, HUB_UP, USEC_INFINITY, "%s", "");
        /* Before what may come with the first frames. */
        on_teller(l, now_of(l));
        convex_look(l);
}

static void on_fatal(struct hub_link *l, const char *text)
{
        l->counts.errors++;
        l->fatal = true;
        convex_set_state(l, HUB_DOWN, usec_add(now_of(l), CONVEX_FATAL_WAIT), "the hub ends the session: %s",
                         *text ? text : "it does not say why");
        wsclient_close(l->ws, 1000, "FatalError");
}

static void on_message(void *owner, const char *data, size_t len, bool binary)
{
        struct hub_link *l = owner;
        struct convex_event e;

        l->counts.bytes_in += len;
        if (binary || convex_take(&l->c, data, len, &e) < 0) {
                l->counts.errors++;
                wsclient_close(l->ws, 1003, "not understood");
                return;
        }
        if (!l->heard) {
                l->heard = true;
                l->failures = 0;
        }
        switch (e.kind) {
        case CONVEX_VALUE:
                if (e.value && l->total > l->claims && !l->draining)
                        convex_claim(l);
                break;
        case CONVEX_QUERY_FAILED:
                l->counts.errors++;
                (void)convex_ask(&l->c, false, say, l);
                l->claim_at = usec_add(now_of(l), 10 * USEC_PER_SEC);
                log_debug(l->name, "isThereWork: %s", e.text);
                break;
        case CONVEX_ANSWER:
                convex_answered(l, &e);
                break;
        case CONVEX_FATAL:
                on_fatal(l, e.text);
                break;
        case CONVEX_BROKEN:
                l->counts.errors++;
                log_debug(l->name, "%s", e.text);
                wsclient_close(l->ws, 1002, "BrokenTransition");
                break;
        case CONVEX_NOTHING:
                break;
        }
        convex_event_finish(&e);
        convex_look(l);
}

static void on_end(void *owner, const struct wsclient_end *end)
{
        struct hub_link *l = owner;
        bool fatal = l->fatal;
        const char *reason = *end->reason ? end->reason : end->opened ? "" : NULL;
        usec_t wait = convex_backoff(reason ? reason : "", l->failures, random_number());

        l->counts.disconnects += end->opened;
        if (l->c.connected)
                convex_closed(&l->c, *end->reason ? end->reason : end->why);
        if (!l->heard || !end->opened)
                l->failures++;
        if (fatal)
                wait = CONVEX_FATAL_WAIT;
        else if (l->failures >= CONVEX_SOCKET_FAILURES)
                wait = MAX(wait, CONVEX_SOCKET_AGAIN);
        l->heard = l->fatal = false;
        l->reconnect_at = usec_add(now_of(l), wait);
        LIST_FOREACH(&l->jobs, it)
        {
                struct cjob *job = LIST_ENTRY(it, struct cjob, node);

                /* Its mutation waits for the next connection; whoever ordered it may ask again. */
                if (job->ordered && !job->tell)
                        convex_settle(l, job, HUB_UNKNOWN);
        }
        if (l->failures >= CONVEX_SOCKET_FAILURES && !fatal) {
                if (!l->polling)
                        log_info(l->name, "no WebSocket (%s): HTTP stands in", end->why);
                l->polling = true;
                l->poll_at = now_of(l);
        }
        if (!l->polling && !fatal)
                convex_set_state(l, HUB_DOWN, l->reconnect_at, "%s%s%s", end->why, *end->reason ? ": " : "",
                                 end->reason);
        convex_arm(l);
}

static const struct wsclient_events ws_events = {
        .on_open = on_open, .on_message = on_message, .on_end = on_end};

/* What the journal had and nobody asked for: claimed, and then we died before it was noted above. */
static void give_back_orphans(struct hub_link *l)
{
        LIST_FOREACH(&l->jobs, it)
        {
                struct cjob *job = LIST_ENTRY(it, struct cjob, node);

                if (!job->pub && !job->final)
                        convex_give_back(l, job);
        }
}

static void on_timer(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        if (!l->opened) {
                l->opened = true;
                give_back_orphans(l);
        }
        if (now >= l->reconnect_at)
                connect_now(l);
        LIST_FOREACH(&l->jobs, it)
        {
                struct cjob *job = LIST_ENTRY(it, struct cjob, node);

                if (job->ordered && !job->tell && now >= usec_add(job->ordered_at, CONVEX_ORDER_MAX))
                        convex_settle(l, job, HUB_UNKNOWN);
        }
        if (l->polling)
                convex_poll(l, now);
        convex_look(l);
}

/* --- the driver's functions ------------------------------------------------------------------------------------- */

static void convex_status(const struct hub_link *l, struct hub_status *ret)
{
        *ret = (struct hub_status){.state = l->state,
                                   .why = *l->why ? l->why : NULL,
                                   .retry_at = l->retry_at,
                                   .peer = l->state == HUB_UP || l->state == HUB_DRAINED ? l->peer : NULL};
}

static const struct hub_driver_counts *convex_counts(const struct hub_link *l)
{
        return &l->counts;
}

static void convex_set_credits(struct hub_link *l, unsigned total, const struct hub_credit *c, size_t n)
{
        (void)c;
        (void)n;
        l->total = total;
        convex_look(l);
        if (l->polling && total > l->claims)
                convex_arm(l);
}

static void convex_renew(struct hub_link *l, struct hub_job *pub)
{
        struct cjob *job = pub->mark;
        struct buffer b;
        struct json_writer w;

        if (job->renewing || job->lost || (!l->c.connected && !l->polling))
                return;
        buffer_init(&b, 4096);
        json_begin(&w, &b);
        json_string(&w, "jobId", job->id);
        if (!b.failed)
                (void)convex_order(l, TASK_RENEW, job, b.data);
        buffer_finish(&b);
}

static int convex_progress(struct hub_link *l, struct hub_job *pub, const struct hub_chunk *chunk)
{
        struct cjob *job = pub->mark;
        uint64_t taken = job->sent + job->tail.len, end = chunk->offset + chunk->len;
        size_t skip, n;

        if (!chunk->text || job->lost || job->holed || job->final || end <= taken)
                return 0;
        if (!l->c.connected || job->streams >= CONVEX_STREAMS_MAX || l->c.n_mutations >= CONVEX_BUSY ||
            wsclient_queued(l->ws) > CONVEX_QUEUE_BUSY)
                return -EAGAIN;
        if (chunk->offset > taken) {
                job->holed = true;
                l->counts.dropped_chunks++;
                return 0;
        }
        skip = (size_t)(taken - chunk->offset);
        if (buffer_append(&job->tail, chunk->text + skip, chunk->len - skip) < 0) {
                job->tail.failed = false;
                return -EAGAIN;
        }
        while ((n = convex_piece(job->tail.data, job->tail.len)) != 0) {
                if (submit(l, job, TASK_STREAM, job->tail.data, n) < 0)
                        break; /* kept in the tail: its end carries it */
                buffer_consume(&job->tail, n);
        }
        return 0;
}

/* Whether an order needs no new mutation: one is on its way, or has been answered. */
static bool is_under_way(struct hub_link *l, struct cjob *job)
{
        job->ordered = true;
        job->tell = false;
        job->ordered_at = now_of(l);
        if (job->how != HUB_UNKNOWN) {
                convex_settle(l, job, job->how);
                return true;
        }
        if (!job->final) {
                if (!job->lost)
                        return false;
                convex_settle(l, job, HUB_LEASE_LOST);
                return true;
        }
        if (!l->c.connected && !l->polling)
                convex_settle(l, job, HUB_UNKNOWN);
        convex_arm(l);
        return true;
}

static void end_job(struct hub_link *l, struct cjob *job, enum task_kind kind, const char *text, size_t len)
{
        int r = submit(l, job, kind, text, len);

        if (r < 0 || (!l->c.connected && !l->polling))
                convex_settle(l, job, HUB_UNKNOWN);
}

static void convex_complete(struct hub_link *l, struct hub_job *pub, const struct hub_result *result)
{
        struct cjob *job = pub->mark;
        size_t len = strlen(result->text), at = (size_t)MIN(job->sent, len);

        if (is_under_way(l, job))
                return;
        /* A further run may have said it in other words: never begin inside a character. */
        while (at < len && ((unsigned char)result->text[at] & 0xc0) == 0x80)
                at++;
        end_job(l, job, TASK_COMPLETE, result->text + at, len - at);
}

static void convex_fail(struct hub_link *l, struct hub_job *pub, enum hub_fail how, usec_t retry_after,
                        const char *why)
{
        struct cjob *job = pub->mark;

        (void)how;
        (void)retry_after;
        (void)why;
        if (!is_under_way(l, job))
                end_job(l, job, TASK_FAIL, INTERRUPTED, job->sent ? strlen(INTERRUPTED) : 0);
}

static void convex_release(struct hub_link *l, struct hub_job *pub)
{
        convex_fail(l, pub, HUB_FAIL_RETRY, 0, "");
}

static int convex_adopt(struct hub_link *l, struct hub_job *pub)
{
        struct cjob *job = convex_find(l, pub->token);

        if (!job && convex_add_job(l, pub->token, &job) < 0)
                return -ENOMEM;
        job->pub = pub;
        pub->mark = job;
        return 0;
}

static void convex_drain(struct hub_link *l)
{
        l->draining = true;
        l->total = 0;
        convex_look(l);
        tell_later(l);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

int convex_read_key(struct hub_link *l, char **ret_why)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0, n;
        int r;

        if (!l->key_file) {
                *ret_why =
                        text_format("%s", "a Convex hub needs \"credentials_file\": a file with the API key");
                return -EINVAL;
        }
        r = file_read(l->key_file, KEY_FILE_MAX, &text, &len);
        if (r < 0) {
                *ret_why = text_format("%s: %s", l->key_file, strerror(-r));
                return r;
        }
        n = strcspn(text, " \t\r\n");
        if (!n || strspn(text + n, " \t\r\n") != len - n) {
                *ret_why = text_format("%s: holds no API key: one line without spaces", l->key_file);
                secret_forget(text, len);
                return -EINVAL;
        }
        text[n] = '\0';
        r = text_set(&l->c.key, text);
        secret_forget(text, len);
        return r;
}

static void on_session(void *owner, const char *session, uint32_t next)
{
        struct hub_link *l = owner;
        unsigned char random[16] = {0};
        _cleanup_free_ char *key = l->c.key;

        (void)secret_random(random, sizeof random);
        if (convex_init(&l->c, session, random, next, key) == -EINVAL) {
                convex_finish(&l->c);
                (void)convex_init(&l->c, NULL, random, next, key);
        }
}

static void on_old_job(void *owner, const char *id, uint64_t sent)
{
        struct cjob *job;

        if (convex_add_job(owner, id, &job) == 0)
                job->sent = sent;
}

static void on_old_mutation(void *owner, const struct convex_journal_note *note)
{
        struct hub_link *l = owner;
        struct cjob *job = note->job ? convex_find(l, note->job) : NULL;
        struct task *t;

        /* Heartbeats are said anew. Who has no job any more has nothing to say. */
        if (note->kind == TASK_RENEW || note->kind < 0 || note->kind >= TASK_KINDS ||
            (note->kind != TASK_CLAIM && !job))
                return;
        t = calloc(1, sizeof *t);
        if (!t)
                return;
        t->kind = (enum task_kind)note->kind;
        t->job = job;
        if (convex_restore(&l->c, note->id, note->path, note->args, t) < 0) {
                free(t);
                return;
        }
        if (t->kind == TASK_CLAIM)
                l->claims++;
        else if (job && t->kind == TASK_STREAM)
                job->streams++;
        else if (job)
                job->final = LIST_ENTRY(l->c.mutations.prev, struct convex_mutation, node);
}

static struct hub_link *convex_close(struct hub_link *l)
{
        if (!l)
                return NULL;
        l->ws = wsclient_free(l->ws);
        l->fetcher = fetcher_free(l->fetcher);
        l->timer = timer_free(l->timer);
        l->teller = timer_free(l->teller);
        while (!list_is_empty(&l->jobs))
                free_job(l, LIST_ENTRY(l->jobs.next, struct cjob, node));
        while (!list_is_empty(&l->c.mutations))
                free_task(l, LIST_ENTRY(l->c.mutations.next, struct convex_mutation, node));
        convex_finish(&l->c);
        l->journal = convex_journal_close(l->journal);
        free(l->name);
        free(l->base);
        free(l->ca_file);
        free(l->key_file);
        free(l);
        return NULL;
}

static int open_socket(struct hub_link *l, const struct url *u, char **ret_why)
{
        _cleanup_free_ char *url = text_format("%s://%.*s" CONVEX_PATH_WS, url_is_secure(u) ? "wss" : "ws",
                                               (int)u->authority.n, u->authority.p);
        struct wsclient_spec spec = {.url = url,
                                     .ca_file = l->ca_file,
                                     .connect_timeout = 10 * USEC_PER_SEC,
                                     .message_max = CONVEX_FRAME_MAX,
                                     .queue_max = CONVEX_QUEUE_MAX};
        int r = url ? wsclient_new(l->loop, &spec, &ws_events, l, &l->ws) : -ENOMEM;

        if (r == -ELIBACC)
                *ret_why = text_dup(
                        "libwebsockets has no plug-in for libuv here: install libwebsockets-evlib-uv");
        else if (r == -EBADMSG)
                *ret_why = text_format("%s holds no certificate (PEM)", l->ca_file);
        else if (r < 0)
                *ret_why = text_format("%s: %s", l->ca_file ? l->ca_file : l->base, strerror(-r));
        return r;
}

static int open_link(struct hub_link *l, const struct hub_open *with, char **ret_why)
{
        static const struct convex_journal_events journal_events = {on_session, on_old_mutation, on_old_job};
        struct url u;
        int r;

        if (!with->hub || url_parse(with->hub->url, &u) < 0 ||
            (!slice_eq_str(u.scheme, "https") && !slice_eq_str(u.scheme, "http")) || u.path.n > 1) {
                *ret_why =
                        text_dup("a Convex hub's url is that of its deployment: https://NAME.convex.cloud");
                return -EINVAL;
        }
        l->name = text_dup(with->name);
        l->base = text_format("%.*s://%.*s", (int)u.scheme.n, u.scheme.p, (int)u.authority.n, u.authority.p);
        l->key_file = text_dup(with->hub->credentials_file);
        l->ca_file = text_dup(with->hub->ca_file);
        if (!l->name || !l->base || (with->hub->credentials_file && !l->key_file) ||
            (with->hub->ca_file && !l->ca_file))
                return -ENOMEM;
        (void)text_copy(l->peer, sizeof l->peer, l->base);
        r = convex_read_key(l, ret_why);
        if (r < 0)
                return r;
        r = convex_journal_open(with->dir, &journal_events, l, &l->journal);
        if (r == 0 && !l->c.key)
                r = -ENOMEM;
        if (r == 0)
                r = rewrite_journal(l);
        if (r < 0) {
                *ret_why = text_format("%s: %s", with->dir, strerror(-r));
                return r;
        }
        r = open_socket(l, &u, ret_why);
        if (r == 0)
                r = fetcher_new(l->loop, &l->fetcher);
        if (r == 0)
                r = timer_new(l->loop, on_timer, l, &l->timer);
        if (r == 0)
                r = timer_new(l->loop, on_teller, l, &l->teller);
        return r;
}

static int convex_open_link(const struct hub_open *with, struct hub_link **ret, char **ret_why)
{
        struct hub_link *l = calloc(1, sizeof *l);
        int r;

        *ret_why = NULL;
        if (!l)
                return -ENOMEM;
        l->loop = with->loop;
        l->on = with->events;
        l->owner = with->owner;
        l->retry_at = l->poll_at = USEC_INFINITY;
        list_init(&l->jobs);
        list_init(&l->c.mutations);
        r = open_link(l, with, ret_why);
        if (r < 0) {
                (void)convex_close(l);
                return r;
        }
        l->state = HUB_CONNECTING;
        l->reconnect_at = 0;
        timer_set(l->timer, 0);
        *ret = l;
        return 0;
}

const struct hub_driver hub_driver_convex = {
        .name = "convex",
        .caps = HUB_CAP_OUTBOUND | HUB_CAP_STREAM | HUB_CAP_RENEW | HUB_CAP_FENCED | HUB_CAP_DURABLE |
                HUB_CAP_ADOPT | HUB_CAP_CHAINS | HUB_CAP_APPENDS,
        .open = convex_open_link,
        .status = convex_status,
        .counts = convex_counts,
        .set_credits = convex_set_credits,
        .renew = convex_renew,
        .progress = convex_progress,
        .complete = convex_complete,
        .fail = convex_fail,
        .release = convex_release,
        .adopt = convex_adopt,
        .drain = convex_drain,
        .close = convex_close,
};
