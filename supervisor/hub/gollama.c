/* gollama.c: the driver for GoLlama hubs, which dial their workers: off unless it is configured, on a listener of its own, for the peers in
 * `allow` alone. LAN only: that hub has no authentication worth the name, and nothing on the way is encrypted.
 *
 * How such a hub treats its workers decides how we answer:
 * - It has no time limit and drops a worker that is busy or answers anything but 200; so requests are held until a slot is free, never
 *   refused. Who was dropped is never taken back: we look into /stats and register again.
 * - It takes an answer that begins with "Error", "error" or "Worker" for a failure: such a text gets an invisible U+200B in front.
 * - A request that no worker can answer would cost it all its workers, one after the other: what is wrong with the request itself is told as
 *   the answer's text. Only what another worker may do better is a 503, which drops us and moves the job on. */
#include <errno.h>
#include <stdio.h>

#include "base/file.h"
#include "base/list.h"
#include "base/log.h"
#include "base/secret.h"
#include "base/text.h"
#include "core/cidr.h"
#include "core/url.h"
#include "hub/driver.h"
#include "net/fetch.h"
#include "net/server.h"

enum {
        HELD_MAX = 1024,
        SMALL_BODY_MAX = 16 << 10,
        STATS_MAX = 1 << 20,
        CREDENTIALS_MAX = 4096,
        ALLOW_MAX = 64,
};
#define LOOK_EVERY   (10 * USEC_PER_SEC) /* whether the hub still has us */
#define RETRY_MAX    (30 * USEC_PER_SEC)
#define REVOKED_WAIT (2 * USEC_PER_MIN)
#define HOLD_MAX     (10 * USEC_PER_MIN) /* for a slot; then another worker may have more luck */

/* One /execute. */
struct gjob {
        struct list node;
        struct hub_link *link;
        struct request *req; /* NULL: the hub has gone */
        struct hub_job *pub; /* NULL: held */
        char id[HUB_ID_MAX];
        char *path, *model, *body;
        size_t body_len;
        usec_t came;
        bool lost_tell, settled_tell;
        enum hub_settled how;
};

struct hub_link {
        struct loop *loop;
        const struct hub_events *on;
        void *owner;
        char *name, *worker, *base, *ca_file, *key_file, *advertise;
        char *user, *password;
        struct cidr allow[ALLOW_MAX];
        size_t n_allow;
        struct server *server;
        struct listener *listener;
        struct fetcher *fetcher;
        struct timer *timer, *teller;
        struct hub_driver_counts counts;

        enum hub_state state;
        char why[300];
        usec_t retry_at, look_at;
        unsigned failures;
        bool state_tell, draining;

        /* A registration, or a look, on its way. */
        struct fetch *fetch;
        struct request *asked; /* by /connect: who waits for what the hub said */
        char *asked_user, *asked_password;

        unsigned total, slots;
        char model[CONFIG_ALIAS_MAX];
        struct list held, running;
        unsigned n_held;
        uint64_t number;
        uint64_t born;
};

static usec_t now_of(const struct hub_link *l)
{
        return loop_now(l->loop);
}

static void tell_later(struct hub_link *l)
{
        timer_set(l->teller, 0);
}

static void set_state(struct hub_link *l, enum hub_state state, usec_t retry_at, const char *why)
{
        char words[sizeof l->why];

        (void)text_copy(words, sizeof words, why ? why : "");
        (void)text_harmless(words);
        if (l->state == HUB_DRAINED)
                return;
        if (state == l->state && retry_at == l->retry_at && streq(words, l->why))
                return;
        l->state = state;
        l->retry_at = retry_at;
        (void)text_copy(l->why, sizeof l->why, words);
        l->state_tell = true;
        tell_later(l);
}

static void arm(struct hub_link *l)
{
        usec_t at = l->fetch || l->draining ? USEC_INFINITY : l->look_at;

        if (!list_is_empty(&l->held))
                at = MIN(at, usec_add(LIST_ENTRY(l->held.next, struct gjob, node)->came, HOLD_MAX));
        timer_set(l->timer, at);
}

/* --- answering -------------------------------------------------------------------------------------------------- */

static void plain(struct request *req, int status, const char *words)
{
        _cleanup_free_ char *line = text_format("%s\n", words);

        request_respond(req, status, "text/plain; charset=utf-8", "X-Content-Type-Options: nosniff\r\n",
                        line ? line : "", line ? strlen(line) : 0);
}

/* An answer of our own in the form that the hub reads. */
static void answer_text(struct request *req, const char *prefix, const char *text, const struct hub_result *r)
{
        _cleanup_free_ char *content = text_format("%s%s", prefix, text);
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, 0);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "object", "chat.completion");
        json_string(&w, "model", r ? r->model : "");
        json_key(&w, "choices");
        json_open_array(&w);
        json_open_object(&w);
        json_int(&w, "index", 0);
        json_string(&w, "finish_reason", "stop");
        json_key(&w, "message");
        json_open_object(&w);
        json_string(&w, "role", "assistant");
        json_string(&w, "content", content);
        json_close_object(&w);
        json_close_object(&w);
        json_close_array(&w);
        json_key(&w, "usage");
        json_open_object(&w);
        json_uint(&w, "prompt_tokens", r ? r->prompt_tokens : 0);
        json_uint(&w, "completion_tokens", r ? r->tokens : 0);
        json_uint(&w, "total_tokens", r ? r->prompt_tokens + r->tokens : 0);
        json_close_object(&w);
        json_close_object(&w);
        if (!content || b.failed)
                plain(req, 503, "out of memory");
        else
                request_respond(req, 200, "application/json", NULL, b.data, b.len);
}

static bool looks_like_a_failure(const char *text)
{
        return starts_with(text, "Error") || starts_with(text, "error") || starts_with(text, "Worker");
}

/* --- jobs ------------------------------------------------------------------------------------------------------- */

static void free_job(struct gjob *j)
{
        if (j->req)
                request_on_gone(j->req, NULL, NULL);
        list_remove(&j->node);
        free(j->path);
        free(j->model);
        free(j->body);
        free(j);
}

static void settle(struct gjob *j, enum hub_settled how)
{
        j->settled_tell = true;
        j->how = how;
        tell_later(j->link);
}

static void on_job_gone(void *owner, struct request *req)
{
        struct gjob *j = owner;

        (void)req;
        j->req = NULL;
        if (!j->pub) {
                j->link->n_held--;
                free_job(j);
                return;
        }
        if (!j->settled_tell) {
                j->lost_tell = true;
                tell_later(j->link);
        }
}

static void refuse(struct gjob *j, int status, const char *words)
{
        struct request *req = j->req;

        j->link->counts.refused++;
        j->link->n_held--;
        free_job(j);
        if (req)
                plain(req, status, words);
}

/* Hands on what is held, as far as there is room. */
static void start_held(struct hub_link *l)
{
        while (l->total && !list_is_empty(&l->held)) {
                struct gjob *j = LIST_ENTRY(l->held.next, struct gjob, node);
                struct hub_claim claim = {.id = j->id,
                                          .token = j->id,
                                          .attempt = 1,
                                          .lease = USEC_INFINITY,
                                          .deadline = USEC_INFINITY,
                                          .path = j->path,
                                          .model = j->model,
                                          .body = j->body,
                                          .body_len = j->body_len,
                                          .priority = TICKET_LOW};
                int r = l->on->on_job(l->owner, &claim, &j->pub);

                if (r == -EBUSY)
                        return;
                if (r < 0) {
                        j->pub = NULL;
                        refuse(j, 503, "this worker cannot take it");
                        continue;
                }
                l->total--;
                l->n_held--;
                j->pub->mark = j;
                free(j->body);
                j->body = NULL;
                list_remove(&j->node);
                list_append(&l->running, &j->node);
        }
}

static void on_execute(void *owner, struct request *req, const char *text, size_t len)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;
        const char *endpoint;
        struct gjob *j;

        if (json_parse(text, len, &v, NULL) < 0 || !json_is_object(v)) {
                v = json_free(v);
                plain(req, 400, "Invalid request");
                return;
        }
        endpoint = json_get_string(v, "endpoint");
        if (!endpoint || !json_is_object(json_get(v, "body"))) {
                plain(req, 400, endpoint ? "Missing body" : "Missing endpoint");
                v = json_free(v);
                return;
        }
        j = calloc(1, sizeof *j);
        if (j) {
                list_init(&j->node);
                j->path = text_dup(endpoint);
                j->model = text_dup(json_get_string(json_get(v, "body"), "model"));
                j->body = json_print(json_get(v, "body"), false);
        }
        v = json_free(v);
        if (!j || !j->path || !j->body || l->draining || l->n_held >= HELD_MAX) {
                l->counts.refused++;
                if (j)
                        free_job(j);
                plain(req, 503, l->draining ? "this worker stops" : "too much waits here");
                return;
        }
        (void)snprintf(j->id, sizeof j->id, "%s-%llx-%llu", l->worker, (unsigned long long)l->born,
                       (unsigned long long)++l->number);
        j->link = l;
        j->body_len = strlen(j->body);
        j->came = now_of(l);
        j->req = req;
        request_on_gone(req, on_job_gone, j);
        list_append(&l->held, &j->node);
        l->n_held++;
        start_held(l);
        arm(l);
}

/* --- telling ---------------------------------------------------------------------------------------------------- */

static void on_teller(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        (void)now;
        LIST_FOREACH(&l->running, it)
        {
                struct gjob *j = LIST_ENTRY(it, struct gjob, node);
                struct hub_job *pub = j->pub;
                enum hub_settled how = j->how;

                if (j->settled_tell) {
                        free_job(j);
                        l->on->on_settled(l->owner, pub, how);
                } else if (j->lost_tell) {
                        j->lost_tell = false;
                        l->on->on_lost(l->owner, pub, "the hub closed the connection");
                }
        }
        if (l->draining && l->state != HUB_DRAINED && list_is_empty(&l->running)) {
                l->state = HUB_DRAINED;
                l->retry_at = USEC_INFINITY;
                l->state_tell = true;
        }
        if (l->state_tell) {
                l->state_tell = false;
                l->on->on_state(l->owner);
        }
}

/* --- registering ------------------------------------------------------------------------------------------------ */

static int post(struct hub_link *l, const char *method, const char *path, const char *token, const char *body,
                fetch_done_fn *fn)
{
        _cleanup_free_ char *url = text_format("%s%s", l->base, path);
        _cleanup_free_ char *authorization = token ? text_format("Authorization: Bearer %s", token) : NULL;
        struct fetch_spec spec = {.method = method,
                                  .url = url,
                                  .headers = {"Content-Type: application/json", authorization},
                                  .body = body,
                                  .body_len = body ? strlen(body) : 0,
                                  .ca_file = l->ca_file,
                                  .timeout = 15 * USEC_PER_SEC,
                                  .body_max = STATS_MAX};

        if (!url || (token && !authorization))
                return -ENOMEM;
        return fetch_start(l->fetcher, &spec, fn, l, &l->fetch);
}

static void end_asked(struct hub_link *l, int status, const char *type, const char *body, size_t len)
{
        struct request *req = l->asked;

        free(l->asked_user);
        if (l->asked_password)
                secret_forget(l->asked_password, strlen(l->asked_password));
        free(l->asked_password);
        l->asked_user = l->asked_password = NULL;
        l->asked = NULL;
        if (req)
                request_respond(req, status, type, NULL, body, len);
}

static void failed(struct hub_link *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void failed(struct hub_link *l, const char *fmt, ...)
{
        usec_t wait = MIN(USEC_PER_SEC << MIN(l->failures, 5U), RETRY_MAX);
        char words[200];
        uint32_t n = UINT32_MAX / 2;
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(words, sizeof words, fmt, ap);
        va_end(ap);
        (void)secret_random(&n, sizeof n);
        l->failures++;
        l->counts.errors++;
        wait = wait / 2 + (usec_t)((double)wait / 2 * n / UINT32_MAX);
        l->look_at = usec_add(now_of(l), wait);
        if (l->state == HUB_UP)
                l->counts.disconnects++;
        set_state(l, HUB_DOWN, l->look_at, words);
        end_asked(l, 502, "text/plain; charset=utf-8", words, strlen(words));
        arm(l);
}

static int read_credentials(struct hub_link *l, char **ret_why)
{
        _cleanup_free_ char *text = NULL;
        size_t len = 0;
        char *colon;
        int r = l->key_file ? file_read(l->key_file, CREDENTIALS_MAX, &text, &len) : -EINVAL;

        if (r < 0) {
                *ret_why = l->key_file ? text_format("%s: %s", l->key_file, strerror(-r))
                                       : text_dup("a GoLlama hub needs \"credentials_file\": USER:PASSWORD");
                return r;
        }
        text[strcspn(text, "\r\n")] = '\0';
        colon = strchr(text, ':');
        if (!colon || colon == text || !colon[1]) {
                *ret_why = text_format("%s: is not of the form USER:PASSWORD", l->key_file);
                secret_forget(text, len);
                return -EINVAL;
        }
        *colon = '\0';
        r = text_set(&l->user, text);
        if (r == 0)
                r = text_set(&l->password, colon + 1);
        secret_forget(text, len);
        return r;
}

static void refused_credentials(struct hub_link *l)
{
        char words[200], *why = NULL;

        l->counts.errors++;
        l->look_at = usec_add(now_of(l), REVOKED_WAIT);
        (void)snprintf(words, sizeof words, "the hub does not accept user and password of %s", l->key_file);
        set_state(l, HUB_REVOKED, l->look_at, words);
        end_asked(l, 401, "text/plain; charset=utf-8", "Invalid credentials\n", 20);
        if (read_credentials(l, &why) < 0)
                log_warn(l->name, "%s", why ? why : "the credentials cannot be read");
        free(why);
        arm(l);
}

static void on_connected(void *owner, const struct fetch_answer *answer)
{
        struct hub_link *l = owner;

        l->fetch = NULL;
        if (answer->status != 200) {
                failed(l, "%s/connectWorker: %s%.80s", l->base, answer->status ? "" : answer->why,
                       answer->body);
                return;
        }
        l->failures = 0;
        l->counts.connects++;
        l->look_at = usec_add(now_of(l), LOOK_EVERY);
        set_state(l, HUB_UP, USEC_INFINITY, NULL);
        end_asked(l, 200, "application/json", answer->body, answer->body_len);
        arm(l);
}

static void on_token(void *owner, const struct fetch_answer *answer)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;
        const char *token;
        struct buffer b;
        struct json_writer w;

        l->fetch = NULL;
        if (answer->status == 401) {
                refused_credentials(l);
                return;
        }
        if (answer->status != 200 || json_parse(answer->body, answer->body_len, &v, NULL) < 0 ||
            !(token = json_get_string(v, "token")) || strpbrk(token, "\r\n")) {
                v = json_free(v);
                failed(l, "%s/auth/token: %s%.80s", l->base, answer->status ? "" : answer->why, answer->body);
                return;
        }
        buffer_init(&b, SMALL_BODY_MAX);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "url", l->advertise);
        json_string(&w, "model", *l->model ? l->model : l->worker);
        json_close_object(&w);
        if (b.failed || post(l, "POST", "/connectWorker", token, b.data, on_connected) < 0)
                failed(l, "out of memory");
        v = json_free(v);
        buffer_finish(&b);
}

static void do_register(struct hub_link *l)
{
        struct buffer b;
        struct json_writer w;

        buffer_init(&b, SMALL_BODY_MAX);
        json_begin(&w, &b);
        json_open_object(&w);
        json_string(&w, "worker_id", l->worker);
        json_string(&w, "url", l->advertise);
        json_string(&w, "username", l->asked_user ? l->asked_user : l->user);
        json_string(&w, "password", l->asked_password ? l->asked_password : l->password);
        json_close_object(&w);
        if (b.failed || post(l, "POST", "/auth/token", NULL, b.data, on_token) < 0)
                failed(l, "out of memory");
        if (b.data)
                secret_forget(b.data, b.len);
        buffer_finish(&b);
}

static void on_stats(void *owner, const struct fetch_answer *answer)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;

        l->fetch = NULL;
        if (answer->status != 200 || json_parse(answer->body, answer->body_len, &v, NULL) < 0) {
                failed(l, "%s/stats: %s%.80s", l->base, answer->status ? "" : answer->why, answer->body);
                return;
        }
        if (json_get(json_get(v, "workers"), l->advertise)) {
                l->failures = 0;
                l->look_at = usec_add(now_of(l), LOOK_EVERY);
                arm(l);
        } else {
                log_info(l->name, "the hub has dropped us: registering again");
                l->counts.disconnects++;
                do_register(l);
        }
        v = json_free(v);
}

static void on_timer(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        while (!list_is_empty(&l->held)) {
                struct gjob *j = LIST_ENTRY(l->held.next, struct gjob, node);

                if (now < usec_add(j->came, HOLD_MAX))
                        break;
                refuse(j, 503, "no slot was free in time");
        }
        if (now >= l->look_at && !l->fetch && !l->draining) {
                l->look_at = usec_add(now, LOOK_EVERY);
                if (!l->slots)
                        set_state(l, HUB_DOWN, l->look_at, "no instance of ours is up");
                else if (l->state != HUB_UP)
                        do_register(l);
                else if (post(l, "GET", "/stats", NULL, NULL, on_stats) < 0)
                        failed(l, "out of memory");
        }
        arm(l);
}

/* --- the listener ----------------------------------------------------------------------------------------------- */

static void on_connect_gone(void *owner, struct request *req)
{
        (void)req;
        ((struct hub_link *)owner)->asked = NULL;
}

static void on_connect(void *owner, struct request *req, const char *text, size_t len)
{
        struct hub_link *l = owner;
        struct json_value *v = NULL;
        const char *user, *password;

        if (json_parse(text, len, &v, NULL) < 0 || !(user = json_get_string(v, "username")) ||
            !(password = json_get_string(v, "password"))) {
                v = json_free(v);
                plain(req, 400, "Invalid request");
                return;
        }
        if (l->fetch || l->draining) {
                v = json_free(v);
                plain(req, 503, "a registration is under way");
                return;
        }
        l->asked_user = text_dup(user);
        l->asked_password = text_dup(password);
        v = json_free(v);
        l->asked = req;
        request_on_gone(req, on_connect_gone, l);
        do_register(l);
        arm(l);
}

static void tell_health(struct hub_link *l, struct request *req)
{
        static const char free_text[] = "{\"busy\":\"false\"}", busy_text[] = "{\"busy\":\"true\"}";
        bool busy = l->total == 0;

        if (!l->slots)
                plain(req, 503, "no llama-server is up");
        else
                request_respond(req, 200, "application/json", NULL, busy ? busy_text : free_text,
                                strlen(busy ? busy_text : free_text));
}

static bool is_allowed(const struct hub_link *l, const char *peer)
{
        for (size_t i = 0; i < l->n_allow; i++)
                if (cidr_has(l->allow + i, peer))
                        return true;
        return false;
}

static void on_request(void *owner, struct request *req)
{
        const struct http1_request *head = request_head(req);
        bool is_post = head->method == HTTP1_POST, is_get = head->method == HTTP1_GET;
        struct hub_link *l = owner;

        if (!is_allowed(l, request_peer(req))) {
                l->counts.refused++;
                log_debug(l->name, "%s is not in `allow`", request_peer(req));
                plain(req, 403, "not for you");
                return;
        }
        if (slice_eq_str(head->path, "/health")) {
                if (is_get)
                        tell_health(l, req);
                else
                        plain(req, 405, "Method not allowed");
        } else if (slice_eq_str(head->path, "/execute") || slice_eq_str(head->path, "/connect")) {
                bool work = slice_eq_str(head->path, "/execute");

                if (!is_post)
                        plain(req, 405, "Method not allowed");
                else if (request_read_body(req, work ? HUB_JOB_BODY_MAX : SMALL_BODY_MAX,
                                           work ? on_execute : on_connect, l) < 0)
                        plain(req, 503, "out of room");
        } else {
                plain(req, 404, "404 page not found");
        }
}

/* --- the driver's functions ------------------------------------------------------------------------------------- */

static void gollama_status(const struct hub_link *l, struct hub_status *ret)
{
        *ret = (struct hub_status){.state = l->state,
                                   .why = *l->why ? l->why : NULL,
                                   .retry_at = l->retry_at,
                                   .peer = l->state == HUB_UP ? l->base : NULL};
}

static const struct hub_driver_counts *gollama_counts(const struct hub_link *l)
{
        return &l->counts;
}

static void gollama_set_credits(struct hub_link *l, unsigned total, const struct hub_credit *c, size_t n)
{
        unsigned slots = 0;

        l->total = total;
        l->model[0] = '\0';
        for (size_t i = 0; i < n; i++) {
                slots += MAX(c[i].slots, c[i].free); /* on demand: no slots yet */
                if (!*l->model)
                        (void)text_copy(l->model, sizeof l->model, c[i].model);
        }
        if (slots && !l->slots && l->state != HUB_REVOKED && l->state != HUB_UP)
                l->look_at = MIN(l->look_at, now_of(l));
        l->slots = slots;
        /* Jobs are handed on from the timer: an event must not come from in here. */
        if (total && !list_is_empty(&l->held))
                tell_later(l);
        arm(l);
}

static void gollama_renew(struct hub_link *l, struct hub_job *pub)
{
        (void)l;
        (void)pub;
}

static int gollama_progress(struct hub_link *l, struct hub_job *pub, const struct hub_chunk *chunk)
{
        (void)l;
        (void)pub;
        (void)chunk;
        return 0;
}

/* The request, to be answered now; NULL: the hub has not waited. */
static struct request *take_request(struct gjob *j)
{
        struct request *req = j->req;

        j->req = NULL;
        if (req)
                request_on_gone(req, NULL, NULL);
        return req;
}

static void gollama_complete(struct hub_link *l, struct hub_job *pub, const struct hub_result *result)
{
        struct gjob *j = pub->mark;
        struct request *req = take_request(j);

        (void)l;
        if (!req) {
                settle(j, HUB_LEASE_LOST);
                return;
        }
        if (looks_like_a_failure(result->text))
                answer_text(req, "\xe2\x80\x8b", result->text, result);
        else
                request_respond(req, 200, "application/json", NULL, result->body, result->body_len);
        settle(j, HUB_STORED);
}

static void gollama_fail(struct hub_link *l, struct hub_job *pub, enum hub_fail how, usec_t retry_after,
                         const char *why)
{
        struct gjob *j = pub->mark;
        struct request *req = take_request(j);

        (void)l;
        (void)retry_after;
        if (!req) {
                settle(j, HUB_LEASE_LOST);
                return;
        }
        if (how == HUB_FAIL_RETRY || how == HUB_FAIL_NO_MODEL)
                plain(req, 503, how == HUB_FAIL_RETRY ? "this worker could not do it" : "no such model here");
        else
                answer_text(req, "The request was not answered: ", why, NULL);
        settle(j, HUB_STORED);
}

static void gollama_release(struct hub_link *l, struct hub_job *pub)
{
        gollama_fail(l, pub, HUB_FAIL_RETRY, 0, "");
}

static void gollama_drain(struct hub_link *l)
{
        l->draining = true;
        l->total = 0;
        l->fetch = fetch_cancel(l->fetch);
        end_asked(l, 503, "text/plain; charset=utf-8", "this worker stops\n", 18);
        server_stop_listening(l->server);
        while (!list_is_empty(&l->held))
                refuse(LIST_ENTRY(l->held.next, struct gjob, node), 503, "this worker stops");
        tell_later(l);
        arm(l);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static struct hub_link *gollama_close(struct hub_link *l)
{
        if (!l)
                return NULL;
        while (!list_is_empty(&l->held))
                free_job(LIST_ENTRY(l->held.next, struct gjob, node));
        while (!list_is_empty(&l->running))
                free_job(LIST_ENTRY(l->running.next, struct gjob, node));
        if (l->asked)
                request_on_gone(l->asked, NULL, NULL);
        l->server = server_free(l->server);
        l->fetcher = fetcher_free(l->fetcher);
        l->timer = timer_free(l->timer);
        l->teller = timer_free(l->teller);
        if (l->password)
                secret_forget(l->password, strlen(l->password));
        if (l->asked_password)
                secret_forget(l->asked_password, strlen(l->asked_password));
        free(l->asked_user);
        free(l->asked_password);
        free(l->user);
        free(l->password);
        free(l->name);
        free(l->worker);
        free(l->base);
        free(l->ca_file);
        free(l->key_file);
        free(l->advertise);
        free(l);
        return NULL;
}

static bool is_any(const struct endpoint *e)
{
        if (e->addr.sa.sa_family == AF_INET6)
                return IN6_IS_ADDR_UNSPECIFIED(&e->addr.in6.sin6_addr);
        return e->addr.in.sin_addr.s_addr == htonl(INADDR_ANY);
}

static int open_listener(struct hub_link *l, const struct config_hub *hub, char **ret_why)
{
        char text[ENDPOINT_TEXT_MAX];
        struct endpoint e;
        int r;

        if (!hub->listen || endpoint_parse(hub->listen, &e) < 0 || endpoint_is_unix(&e)) {
                *ret_why = text_dup(
                        "a GoLlama hub dials its workers: \"listen\" says where (\"10.0.0.7:9001\")");
                return -EINVAL;
        }
        for (char **a = hub->allow; a && *a && l->n_allow < ALLOW_MAX; a++)
                if (cidr_parse(*a, l->allow + l->n_allow) == 0)
                        l->n_allow++;
        if (!l->n_allow) {
                *ret_why = text_dup("a GoLlama hub needs \"allow\": its own address");
                return -EINVAL;
        }
        if (is_any(&e) && !hub->advertise) {
                *ret_why =
                        text_format("listening on %s, a GoLlama hub needs \"advertise\": the URL by which it "
                                    "reaches us",
                                    hub->listen);
                return -EINVAL;
        }
        r = server_listen(l->server, &e, 0, "gollama", &l->listener);
        if (r < 0) {
                *ret_why = text_format("%s: %s", hub->listen, strerror(-r));
                return r;
        }
        l->advertise =
                text_dup(hub->advertise ? hub->advertise
                                        : endpoint_text(listener_endpoint(l->listener), text, sizeof text));
        /* The hub appends "/execute". */
        if (l->advertise && ends_with(l->advertise, "/"))
                l->advertise[strlen(l->advertise) - 1] = '\0';
        return l->advertise ? 0 : -ENOMEM;
}

static void on_work(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        start_held(l);
        on_teller(l, now);
        arm(l);
}

static int open_link(struct hub_link *l, const struct hub_open *with, char **ret_why)
{
        const struct config_hub *hub = with->hub;
        struct url u;
        int r;

        if (!hub || url_parse(hub->url, &u) < 0 ||
            (!slice_eq_str(u.scheme, "http") && !slice_eq_str(u.scheme, "https")) || u.path.n > 1) {
                *ret_why = text_dup("a GoLlama hub's url is of the form http://HOST:9000");
                return -EINVAL;
        }
        l->name = text_dup(with->name);
        l->worker = text_dup(with->worker);
        l->base = text_format("%.*s://%.*s", (int)u.scheme.n, u.scheme.p, (int)u.authority.n, u.authority.p);
        l->key_file = text_dup(hub->credentials_file);
        l->ca_file = text_dup(hub->ca_file);
        if (!l->name || !l->worker || !l->base)
                return -ENOMEM;
        r = read_credentials(l, ret_why);
        if (r == 0)
                r = server_new(l->loop, NULL, on_request, l, &l->server);
        if (r == 0)
                r = open_listener(l, hub, ret_why);
        if (r == 0)
                r = fetcher_new(l->loop, &l->fetcher);
        if (r == 0)
                r = timer_new(l->loop, on_timer, l, &l->timer);
        if (r == 0)
                r = timer_new(l->loop, on_work, l, &l->teller);
        return r;
}

static int gollama_open(const struct hub_open *with, struct hub_link **ret, char **ret_why)
{
        struct hub_link *l = calloc(1, sizeof *l);
        int r;

        *ret_why = NULL;
        if (!l)
                return -ENOMEM;
        l->loop = with->loop;
        l->on = with->events;
        l->owner = with->owner;
        l->retry_at = l->look_at = USEC_INFINITY;
        l->born = loop_realtime(with->loop);
        list_init(&l->held);
        list_init(&l->running);
        r = open_link(l, with, ret_why);
        if (r < 0) {
                (void)gollama_close(l);
                return r;
        }
        l->state = HUB_CONNECTING;
        l->look_at = 0;
        arm(l);
        *ret = l;
        return 0;
}

const struct hub_driver hub_driver_gollama = {
        .name = "gollama",
        .caps = 0,
        .open = gollama_open,
        .status = gollama_status,
        .counts = gollama_counts,
        .set_credits = gollama_set_credits,
        .renew = gollama_renew,
        .progress = gollama_progress,
        .complete = gollama_complete,
        .fail = gollama_fail,
        .release = gollama_release,
        .drain = gollama_drain,
        .close = gollama_close,
};
