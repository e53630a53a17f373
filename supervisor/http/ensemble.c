/* ensemble.c: one chat of several instances at once: {"ensemble": {"n": 3, "combine": "vote"}}. Each member is a relay like every
 * other, and they avoid each other's instances as long as there are others. Whole answers are collected, given to core/ensemble, and the
 * winner's goes to the client with the votes in a member "ensemble"; what is decided is not waited for. With "first" and a stream
 * the member whose first token comes first goes on, the others are cancelled. Members that fail are tolerated as long as one does not. */
#include "core/ensemble.h"

#include <errno.h>
#include <stdio.h>

#include "base/text.h"
#include "http/gateway_private.h"
#include "http/respond.h"

enum { ANSWER_MAX = 512 * 1024, MODEL_MAX = 256 };

struct member {
        struct ensemble_run *run;
        unsigned index;
        struct relay *relay;
        bool over; /* its relay has ended */
        char *set; /* as in struct errand */
        struct peek_pieces pieces;
        struct buffer body;
        int status;
        /* How it ended, when it did not win. */
        struct errand_error error;
        char *message;
        char id[32], instance[CONFIG_NAME_MAX];
        usec_t waited;
        int64_t tokens_in, tokens_out;
};

struct ensemble_run {
        struct errand *errand;
        unsigned n;
        struct member members[ENSEMBLE_MAX];
        struct ensemble votes;
        const struct member *failed; /* the first that did, whose error is told when all do */
};

struct ensemble_run *ensemble_run_free(struct ensemble_run *run)
{
        for (unsigned i = 0; i < run->n; i++) {
                struct member *m = run->members + i;

                if (m->relay && !m->over)
                        relay_cancel(m->relay);
                peek_pieces_finish(&m->pieces);
                buffer_finish(&m->body);
                free(m->set);
                free(m->message);
        }
        ensemble_finish(&run->votes);
        free(run);
        return NULL;
}

struct relay *ensemble_run_waiting(const struct ensemble_run *run)
{
        struct ticket_progress p;

        for (unsigned i = 0; i < run->n; i++) {
                const struct member *m = run->members + i;

                if (m->relay && !m->over && relay_progress(m->relay, &p))
                        return m->relay;
        }
        return NULL;
}

/* --- the end of all ------------------------------------------------------------------------------------------------- */

static void put_members(const struct ensemble_run *run, struct json_writer *w)
{
        json_key(w, "members");
        json_open_array(w);
        for (unsigned i = 0; i < run->n; i++) {
                const struct member *m = run->members + i;

                json_open_object(w);
                json_string(w, "instance",
                            m->relay && !m->over ? relay_instance(m->relay)
                            : m->instance[0]     ? m->instance
                                                 : NULL);
                json_string(w, "outcome", m->message ? "failed" : m->over ? "ok" : "cancelled");
                json_string(w, "error", m->message);
                json_close_object(w);
        }
        json_close_array(w);
}

static void put_usage(const struct ensemble_run *run, struct json_writer *w)
{
        int64_t in = 0, out = 0;

        for (unsigned i = 0; i < run->n; i++) {
                in += run->members[i].tokens_in;
                out += run->members[i].tokens_out;
        }
        json_key(w, "usage");
        json_open_object(w);
        json_int(w, "prompt_tokens", in);
        json_int(w, "completion_tokens", out);
        json_close_object(w);
}

/* {"ensemble":{…}}, to be set into the winner's answer. */
static void put_field(const struct ensemble_run *run, const struct ensemble_answer *won, struct buffer *out)
{
        struct json_writer w;

        json_begin(&w, out);
        json_open_object(&w);
        json_key(&w, "ensemble");
        json_open_object(&w);
        json_uint(&w, "n", run->n);
        json_string(&w, "combine", ensemble_combine_name(run->votes.combine));
        json_uint(&w, "answers", run->votes.n_answers);
        json_uint(&w, "winner", won->member);
        json_key(&w, "votes");
        ensemble_put_votes(&run->votes, &w);
        put_members(run, &w);
        put_usage(run, &w);
        json_close_object(&w);
        json_close_object(&w);
}

static const char *member_lines(const struct member *m, char *buf, size_t size)
{
        (void)snprintf(buf, size, "X-Request-Id: %s\r\nX-Queue-Wait: %llu\r\nX-Llama-Instance: %s\r\n", m->id,
                       (unsigned long long)(m->waited / USEC_PER_MSEC), m->instance);
        return buf;
}

static void respond_combined(struct errand *e, const struct ensemble_answer *won)
{
        struct member *m = e->ensemble->members + won->member;
        _cleanup_buffer_ struct buffer field = {0}, all = {0};
        struct peek_edit edit = {0};
        struct peek_pieces pieces = {0};
        struct peek_error error;
        char lines[ERRAND_LINES_MAX];
        struct peek p;
        int r;

        buffer_init(&field, 0);
        buffer_init(&all, 0);
        put_field(e->ensemble, won, &field);
        edit.set = field.failed ? NULL : field.data;
        r = edit.set ? peek_scan((struct slice){m->body.data, m->body.len}, &p, &error) : -ENOMEM;
        if (r == 0)
                r = peek_splice(&p, &edit, &pieces);
        if (r < 0) {
                const struct errand_error broken = {.status = 503, .message = "not enough memory"};

                errand_fail(e, &broken);
                return;
        }
        for (unsigned i = 0; i < pieces.n; i++)
                (void)buffer_append(&all, pieces.iov[i].iov_base, pieces.iov[i].iov_len);
        peek_pieces_finish(&pieces);
        respond_json(e->req, 200, member_lines(m, lines, sizeof(lines)), &all);
        errand_free(e);
}

/* Nobody answered: what the first one said. */
static void respond_failed(struct errand *e)
{
        const struct member *m = e->ensemble->failed;
        char lines[ERRAND_LINES_MAX];

        if (e->told == TOLD_NOTHING && m->status >= 400 && m->body.len) {
                respond_text(e->req, m->status, "application/json", member_lines(m, lines, sizeof(lines)),
                             m->body.data, m->body.len);
                errand_free(e);
        } else {
                errand_fail(e, &m->error);
        }
}

static void settle(struct ensemble_run *run)
{
        const struct ensemble_answer *won;
        struct errand *e = run->errand;

        if (!ensemble_is_decided(&run->votes))
                return;
        won = ensemble_winner(&run->votes);
        if (won)
                respond_combined(e, won);
        else
                respond_failed(e);
}

/* --- one member ------------------------------------------------------------------------------------------------------- */

static void fail_member(struct member *m, int status, const char *code, const char *message,
                        unsigned retry_after)
{
        struct ensemble_run *run = m->run;

        m->over = true;
        m->message = text_dup(message);
        m->error = (struct errand_error){.status = status,
                                         .code = code,
                                         .message = m->message ? m->message : "not enough memory",
                                         .retry_after = retry_after};
        if (!run->failed)
                run->failed = m;
        ensemble_fail(&run->votes, m->index);
}

static void note_relay(struct member *m)
{
        (void)snprintf(m->id, sizeof(m->id), "%s", relay_id(m->relay));
        if (relay_instance(m->relay))
                (void)snprintf(m->instance, sizeof(m->instance), "%s", relay_instance(m->relay));
        m->waited = relay_waited(m->relay);
}

/* What is voted on: the text, or the calls of tools by name and arguments (their ids differ each time). Malloc'd. */
static char *text_of(const struct json_value *v)
{
        const struct json_value *message = json_get(json_at(json_get(v, "choices"), 0), "message");
        const struct json_value *calls = json_get(message, "tool_calls");
        const char *content = json_get_string(message, "content");
        struct buffer b;

        if (!json_count(calls))
                return message ? strdup(content ? content : "") : NULL;
        buffer_init(&b, 0);
        (void)buffer_puts(&b, content ? content : "");
        for (size_t i = 0; i < json_count(calls); i++) {
                const struct json_value *f = json_get(json_at(calls, i), "function");

                (void)buffer_printf(&b, "%s%s(%s)", b.len ? "\n" : "",
                                    json_get_string(f, "name") ? json_get_string(f, "name") : "",
                                    json_get_string(f, "arguments") ? json_get_string(f, "arguments") : "");
        }
        return buffer_steal(&b);
}

/* Replicas may weigh differently; which of them it is shows now. */
static void weigh(struct member *m)
{
        const struct report *r = fleet_find(m->run->errand->gateway->doors->fleet, m->instance);

        if (r)
                ensemble_weigh(&m->run->votes, m->index, r->weight);
}

static void take_answer(struct member *m)
{
        struct ensemble_run *run = m->run;
        _cleanup_free_ char *text = NULL;
        const struct json_value *usage;
        struct json_value *v = NULL;

        if (m->body.len && json_parse(m->body.data, m->body.len, &v, NULL) == 0)
                text = text_of(v);
        usage = json_get(v, "usage");
        m->tokens_in = json_get_int(usage, "prompt_tokens", 0);
        m->tokens_out = json_get_int(usage, "completion_tokens", 0);
        weigh(m);
        if (!text)
                fail_member(m, 502, "bad_answer", "the instance's answer is no chat completion", 0);
        else if (ensemble_add(&run->votes, m->index, text, m->tokens_out) < 0)
                fail_member(m, 503, NULL, "not enough memory", 0);
        m->over = true;
        (void)json_free(v);
}

static void on_head(void *owner, struct relay *r, const struct http1_response *head)
{
        struct member *m = owner;

        (void)r;
        m->status = head->status;
}

static void on_data(void *owner, struct relay *r, const char *data, size_t len)
{
        struct member *m = owner;

        (void)r;
        if (buffer_append(&m->body, data, len) == 0)
                return;
        note_relay(m);
        relay_cancel(m->relay);
        fail_member(m, 502, "answer_too_long", "the answer is too long to be combined", 0);
        settle(m->run);
}

static void on_end(void *owner, struct relay *r, const struct relay_end *end)
{
        struct member *m = owner;
        char message[80];

        (void)r;
        note_relay(m);
        if (end->result != RELAY_OK)
                fail_member(m, end->status, end->code, end->message, end->retry_after);
        else if (m->status != 200) {
                (void)snprintf(message, sizeof(message), "the instance answered with status %d", m->status);
                fail_member(m, m->status, NULL, message, 0);
        } else
                take_answer(m);
        settle(m->run);
}

static const struct relay_events collecting = {.on_head = on_head, .on_data = on_data, .on_end = on_end};

/* --- "first", streamed -------------------------------------------------------------------------------------------------- */

/* Comments alone are no answer: a server that is stuck sends them, too. */
static bool has_event(const char *data, size_t len)
{
        struct slice rest = {data, len};

        while (rest.n) {
                size_t n = slice_find(rest, '\n');

                if (n > 0 && rest.p[0] != ':' && rest.p[0] != '\r')
                        return true;
                rest = slice_sub(rest, n + 1, rest.n);
        }
        return false;
}

static void win_stream(struct member *m)
{
        struct ensemble_run *run = m->run;
        struct errand *e = run->errand;
        char lines[ERRAND_LINES_MAX], all[ERRAND_LINES_MAX + 64];

        for (unsigned i = 0; i < run->n; i++) {
                struct member *other = run->members + i;

                if (other != m && other->relay && !other->over) {
                        other->over = true;
                        relay_cancel(other->relay);
                }
        }
        list_remove(&e->node);
        e->relay = m->relay;
        if (e->told == TOLD_NOTHING) {
                (void)snprintf(all, sizeof(all), "X-Accel-Buffering: no\r\n%s",
                               errand_lines(e, lines, sizeof(lines)));
                respond_begin(e->req, 200, "text/event-stream", all);
        }
        e->told = TOLD_ANSWER;
        e->events = true;
        memset(e->last, '\n', sizeof(e->last));
}

static void on_stream_data(void *owner, struct relay *r, const char *data, size_t len)
{
        struct member *m = owner;
        struct errand *e = m->run->errand;

        if (e->relay == r) {
                errand_events.on_data(e, r, data, len);
        } else if (m->status != 200) {
                (void)buffer_append(&m->body, data, len);
        } else if (has_event(data, len)) {
                win_stream(m);
                errand_events.on_data(e, r, data, len);
        }
}

static void on_stream_end(void *owner, struct relay *r, const struct relay_end *end)
{
        struct member *m = owner;
        struct ensemble_run *run = m->run;
        struct errand *e = run->errand;

        if (e->relay == r) {
                m->over = true;
                errand_events.on_end(e, r, end);
                return;
        }
        note_relay(m);
        if (end->result != RELAY_OK)
                fail_member(m, end->status, end->code, end->message, end->retry_after);
        else
                fail_member(m, m->status == 200 ? 502 : m->status, "bad_answer",
                            "the instance answered without a token", 0);
        if (ensemble_is_decided(&run->votes))
                respond_failed(e);
}

static const struct relay_events racing = {
        .on_head = on_head, .on_data = on_stream_data, .on_end = on_stream_end};

/* --- the beginning --------------------------------------------------------------------------------------------------------- */

/* What stands in the member "ensemble". */
struct wish {
        enum ensemble_combine combine;
        unsigned n;
        char models[ENSEMBLE_MAX][MODEL_MAX]; /* asked in turn; none: the request's own */
        unsigned n_models;
};

static bool refuse(struct errand *e, const char *why)
{
        errand_refuse(e, GATEWAY_REFUSED_PARAMETER, 400, "invalid_value", "ensemble", "%s", why);
        return false;
}

static int read_models(const struct peek *p, struct wish *w)
{
        struct slice raw = peek_raw(p, PEEK_MODELS);
        struct json_value *v;
        const char *name = "";
        int r = 0;

        if (json_parse(raw.p, raw.n, &v, NULL) < 0)
                return -EINVAL;
        if (!json_is_array(v) || json_count(v) == 0 || json_count(v) > ENSEMBLE_MAX)
                r = -EINVAL;
        for (size_t i = 0; r == 0 && i < json_count(v); i++) {
                name = json_as_string(json_at(v, i));
                if (!name || strlen(name) >= MODEL_MAX)
                        r = -EINVAL;
                else
                        (void)snprintf(w->models[w->n_models++], MODEL_MAX, "%s", name);
        }
        (void)json_free(v);
        return r;
}

static bool read_wish(struct errand *e, const struct peek *body, struct wish *w)
{
        unsigned known = 0;
        struct peek_error error;
        char word[16] = "vote";
        uint64_t n = 0;
        struct peek p;
        int r;

        *w = (struct wish){0};
        if (peek_scan(peek_raw(body, PEEK_ENSEMBLE), &p, &error) < 0)
                return refuse(e, "\"ensemble\" must be an object: {\"n\": 3, \"combine\": \"vote\"}");
        known += p.values[PEEK_N].type != PEEK_ABSENT;
        known += p.values[PEEK_COMBINE].type != PEEK_ABSENT;
        known += p.values[PEEK_MODELS].type != PEEK_ABSENT;
        if (known != p.members)
                return refuse(e, "\"ensemble\" has a member that is not known: n, combine and models are");
        r = peek_string(&p, PEEK_COMBINE, word, sizeof(word));
        if ((r < 0 && r != -ENOENT) || ensemble_combine_parse(word, &w->combine) < 0)
                return refuse(e, "\"combine\" must be \"vote\", \"weighted\", \"longest\" or \"first\"");
        if (p.values[PEEK_MODELS].type != PEEK_ABSENT && read_models(&p, w) < 0)
                return refuse(e, "\"models\" must be a list of 1 to 16 names");
        r = peek_uint(&p, PEEK_N, ENSEMBLE_MAX, &n);
        if (r == -ENOENT)
                n = w->n_models;
        if ((r < 0 && r != -ENOENT) || n == 0 || n < w->n_models)
                return refuse(e, "\"n\" must be a number from 1 to 16, and not below the number of models");
        w->n = (unsigned)n;
        if (e->streams && w->combine != ENSEMBLE_FIRST)
                return refuse(
                        e, "only \"combine\": \"first\" can stream: the others must have all answers first");
        return true;
}

/* Each member takes of the key what a request takes. */
static bool take_allowances(struct errand *e, unsigned n)
{
        while (e->counted < n)
                if (!errand_take_allowance(e))
                        return false;
        return true;
}

static bool find_entries(struct errand *e, const struct wish *w, const struct config_instance **entries)
{
        char own[ERRAND_MODEL_MAX];

        (void)snprintf(own, sizeof(own), "%s", e->model);
        for (unsigned i = 0; i < w->n; i++) {
                if (w->n_models)
                        (void)snprintf(e->model, sizeof(e->model), "%s", w->models[i % w->n_models]);
                if (!errand_resolve(e, entries + i))
                        return false;
        }
        (void)snprintf(e->model, sizeof(e->model), "%s", own);
        return true;
}

static int start_member(struct member *m, const char *model, const struct config_instance *entry,
                        const struct peek *p)
{
        struct peek_edit edit = {.drop = ERRAND_OWN_MEMBERS, .strip = entry->request_strip};
        struct errand *e = m->run->errand;
        _cleanup_buffer_ struct buffer target = {0};
        struct relay_spec spec;
        int r;

        buffer_init(&m->body, ANSWER_MAX);
        m->set = text_dup(entry->request_set);
        edit.set = m->set;
        r = peek_splice(p, &edit, &m->pieces);
        if (r == 0)
                r = request_hold(e->req, peek_pieces_copied(&m->pieces) + (m->set ? strlen(m->set) : 0));
        if (r == 0)
                r = errand_fill_spec(e, model, entry, &target, &spec);
        if (r < 0)
                return r;
        spec.body = m->pieces.iov;
        spec.n_body = m->pieces.n;
        spec.source = "ensemble";
        spec.ticket.spread = m->run;
        return relay_start(e->gateway->doors->fleet, &spec, e->streams ? &racing : &collecting, m, &m->relay);
}

/* The most that any instance weighs which may answer to this name; which of them does shows later. */
static double most_of(const struct errand *e, const char *model, const struct config_instance *entry)
{
        struct fleet *f = e->gateway->doors->fleet;
        const struct config *c = fleet_config(f);
        const char *shared = dispatch_shared(f, model);
        double most = config_weight_most(entry);

        for (size_t i = 0; shared && i < c->n_instances; i++)
                for (char *const *a = c->instances[i].aliases; a && *a; a++)
                        if (streq(*a, shared))
                                most = MAX(most, config_weight_most(c->instances + i));
        return most;
}

void ensemble_run_begin(struct errand *e, const struct peek *p)
{
        const struct config_instance *entries[ENSEMBLE_MAX];
        double weights[ENSEMBLE_MAX];
        struct ensemble_run *run;
        struct wish w;
        unsigned started = 0;
        int r = 0, failure = 0;

        if (!read_wish(e, p, &w) || !take_allowances(e, w.n) || !find_entries(e, &w, entries))
                return;
        run = calloc(1, sizeof(*run));
        if (!run) {
                errand_refuse(e, GATEWAY_REFUSED_MEMORY, 503, NULL, NULL, "not enough memory");
                return;
        }
        e->ensemble = run;
        run->errand = e;
        run->n = w.n;
        for (unsigned i = 0; i < w.n; i++)
                weights[i] = most_of(e, w.n_models ? w.models[i % w.n_models] : e->model, entries[i]);
        ensemble_init(&run->votes, w.combine, w.n, weights);
        for (unsigned i = 0; i < w.n; i++) {
                struct member *m = run->members + i;

                m->run = run;
                m->index = i;
                r = start_member(m, w.n_models ? w.models[i % w.n_models] : e->model, entries[i], p);
                if (r < 0) {
                        failure = r;
                        fail_member(m, 503, r == -ENOBUFS ? "too_many_bodies" : NULL,
                                    r == -ENOBUFS ? "too many large bodies at once: try again later"
                                                  : "it could not be started",
                                    0);
                }
                started += r == 0;
        }
        if (!started)
                errand_refuse_start(e, failure);
        else
                errand_wait(e);
}
