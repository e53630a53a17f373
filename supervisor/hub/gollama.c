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

#include "base/secret.h"
#include "base/text.h"
#include "core/url.h"
#include "hub/gollama_private.h"

static usec_t now_of(const struct hub_link *l)
{
        return loop_now(l->loop);
}

void gollama_tell_later(struct hub_link *l)
{
        timer_set(l->teller, 0);
}

void gollama_set_state(struct hub_link *l, enum hub_state state, usec_t retry_at, const char *why)
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
        gollama_tell_later(l);
}

void gollama_arm(struct hub_link *l)
{
        usec_t at = l->fetch || l->draining ? USEC_INFINITY : l->look_at;

        if (!list_is_empty(&l->held))
                at = MIN(at, usec_add(LIST_ENTRY(l->held.next, struct gjob, node)->came, HOLD_MAX));
        timer_set(l->timer, at);
}

/* --- jobs ------------------------------------------------------------------------------------------------------- */

void gollama_free_job(struct gjob *j)
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
        gollama_tell_later(j->link);
}

void gollama_on_job_gone(void *owner, struct request *req)
{
        struct gjob *j = owner;

        (void)req;
        j->req = NULL;
        if (!j->pub) {
                j->link->n_held--;
                gollama_free_job(j);
                return;
        }
        if (!j->settled_tell) {
                j->lost_tell = true;
                gollama_tell_later(j->link);
        }
}

static void refuse(struct gjob *j, int status, const char *words)
{
        struct request *req = j->req;

        j->link->counts.refused++;
        j->link->n_held--;
        gollama_free_job(j);
        if (req)
                gollama_plain(req, status, words);
}

/* Hands on what is held, as far as there is room. */
void gollama_start_held(struct hub_link *l)
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
                        gollama_free_job(j);
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
                        gollama_set_state(l, HUB_DOWN, l->look_at, "no instance of ours is up");
                else if (l->state != HUB_UP)
                        gollama_register(l);
                else
                        gollama_look(l);
        }
        gollama_arm(l);
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
                gollama_tell_later(l);
        gollama_arm(l);
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

static bool looks_like_a_failure(const char *text)
{
        return starts_with(text, "Error") || starts_with(text, "error") || starts_with(text, "Worker");
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
                gollama_answer_text(req, "\xe2\x80\x8b", result->text, result);
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
                gollama_plain(req, 503,
                              how == HUB_FAIL_RETRY ? "this worker could not do it" : "no such model here");
        else
                gollama_answer_text(req, "The request was not answered: ", why, NULL);
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
        gollama_end_asked(l, 503, "text/plain; charset=utf-8", "this worker stops\n", 18);
        server_stop_listening(l->server);
        while (!list_is_empty(&l->held))
                refuse(LIST_ENTRY(l->held.next, struct gjob, node), 503, "this worker stops");
        gollama_tell_later(l);
        gollama_arm(l);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static struct hub_link *gollama_close(struct hub_link *l)
{
        if (!l)
                return NULL;
        while (!list_is_empty(&l->held))
                gollama_free_job(LIST_ENTRY(l->held.next, struct gjob, node));
        while (!list_is_empty(&l->running))
                gollama_free_job(LIST_ENTRY(l->running.next, struct gjob, node));
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

static void on_work(void *owner, usec_t now)
{
        struct hub_link *l = owner;

        gollama_start_held(l);
        on_teller(l, now);
        gollama_arm(l);
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
        r = gollama_read_credentials(l, ret_why);
        if (r == 0)
                r = server_new(l->loop, NULL, gollama_on_request, l, &l->server);
        if (r == 0)
                r = gollama_listen(l, hub, ret_why);
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
        gollama_arm(l);
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
