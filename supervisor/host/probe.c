/* probe.c: the health question, its pace, and the fetches beside it. */
#include "host/probe.h"

#include <errno.h>
#include <stdio.h>

#include "base/macros.h"
#include "base/text.h"
#include "core/pace.h"

enum { FETCH_QUEUE = 8, HEALTH_BODY_MAX = 16 * 1024, FETCH_BODY_MAX = 1024 * 1024 };

#define PACE_FIRST   (25 * USEC_PER_MSEC)
#define PACE_LOADING (250 * USEC_PER_MSEC)
#define REST         (50 * USEC_PER_MSEC)

struct probe {
        struct loop *loop;
        struct upstream *upstream;
        struct timer *timer;
        struct exchange *health, *fetch, *canary;
        probe_answer_fn *on_answer;
        probe_fetched_fn *on_fetched;
        probe_ask_fn *on_ask;
        void *owner;
        usec_t interval, timeout;
        uint32_t spread;
        enum probe_pace pace;
        usec_t step;     /* the next gap while starting */
        usec_t asked_at; /* when the health question under way, or the last one, began */
        char *headers;
        char *queue[FETCH_QUEUE];
        size_t n_queue;
        char detail[96];
};

static void ask(struct probe *p, usec_t now);
static void fetch_next(struct probe *p);

static usec_t next_step(struct probe *p, usec_t most)
{
        usec_t step = MIN(p->step, MIN(most, p->interval));

        p->step = p->step * 3 / 2;
        return usec_add(p->asked_at, step);
}

static usec_t next_time(struct probe *p)
{
        switch (p->pace) {
        case PROBE_STARTING:
                return next_step(p, p->interval);
        case PROBE_LOADING_PACE:
                return next_step(p, PACE_LOADING);
        default:
                return pace_next(p->asked_at, p->interval, p->spread);
        }
}

static void plan_next(struct probe *p, usec_t now)
{
        if (p->pace == PROBE_STOPPED || p->health)
                return;
        /* One that takes an interval to answer rests for a moment, too: see probe_ask_fn. */
        timer_set(p->timer, MAX(next_time(p),
                                p->pace == PROBE_STEADY ? usec_add(now, MIN(REST, p->interval / 4)) : now));
}

static enum probe_kind classify(struct probe *p, const struct exchange_answer *a)
{
        p->detail[0] = '\0';
        if (a->result != EXCHANGE_OK)
                (void)snprintf(p->detail, sizeof p->detail, "%s", exchange_result_text(a->result));
        switch (a->result) {
        case EXCHANGE_OK:
                break;
        case EXCHANGE_REFUSED:
                return PROBE_REFUSED;
        case EXCHANGE_RESET:
        case EXCHANGE_STALE:
                return PROBE_RESET;
        case EXCHANGE_TIMEOUT_CONNECT:
        case EXCHANGE_TIMEOUT_FIRST:
        case EXCHANGE_TIMEOUT_IDLE:
        case EXCHANGE_TIMEOUT:
                return PROBE_TIMEOUT;
        case EXCHANGE_MALFORMED:
                return PROBE_WRONG;
        case EXCHANGE_FAILED:
                return PROBE_LOCAL;
        }
        if (a->status == 200)
                return PROBE_WELL;
        if (a->status == 503 && a->body && strstr(a->body, "Loading model")) {
                (void)snprintf(p->detail, sizeof p->detail, "loading its model");
                return PROBE_LOADING;
        }
        /* Builds before 2024-09 said so when every slot was busy. */
        if (a->status == 503 && a->body && strstr(a->body, "no slot available"))
                return PROBE_WELL;
        (void)snprintf(p->detail, sizeof p->detail, "/health answered HTTP %d%s", a->status,
                       a->status == 401 || a->status == 403 ? " (it wants an API key)" : "");
        return PROBE_WRONG;
}

static void on_health(void *owner, const struct exchange_answer *a, usec_t now)
{
        struct probe *p = owner;
        struct probe_answer answer = {.peer_pid = a->peer_pid, .latency = a->done_after};

        p->health = NULL;
        answer.kind = classify(p, a);
        answer.detail = p->detail[0] ? p->detail : NULL;
        plan_next(p, now);
        p->on_answer(p->owner, &answer, now);
}

static void ask(struct probe *p, usec_t now)
{
        struct exchange_spec spec = {
                .method = SLICE("GET"),
                .target = SLICE("/health"),
                .headers = p->headers,
                .connect_timeout = p->timeout,
                .first_timeout = p->timeout,
                .timeout = p->timeout,
                .body_max = HEALTH_BODY_MAX,
        };
        struct probe_answer local = {.kind = PROBE_LOCAL};
        int r;

        if (p->health || p->pace == PROBE_STOPPED)
                return;
        if (p->on_ask)
                p->on_ask(p->owner, now);
        p->asked_at = now;
        timer_set(p->timer, USEC_INFINITY);
        r = upstream_start(p->upstream, &spec, on_health, p, &p->health);
        if (r < 0) {
                p->health = NULL;
                (void)snprintf(p->detail, sizeof p->detail, "could not ask: %s", strerror(-r));
                local.detail = p->detail;
                plan_next(p, now);
                p->on_answer(p->owner, &local, now);
        }
}

static void on_timer(void *owner, usec_t now)
{
        ask(owner, now);
}

int probe_new(struct loop *loop, const struct probe_spec *spec, probe_answer_fn *on_answer,
              probe_fetched_fn *on_fetched, void *owner, struct probe **ret)
{
        struct probe *p = calloc(1, sizeof *p);
        int r = -ENOMEM;

        if (!p)
                return -ENOMEM;
        *p = (struct probe){.loop = loop,
                            .on_answer = on_answer,
                            .on_fetched = on_fetched,
                            .owner = owner,
                            .interval = spec->interval,
                            .timeout = spec->timeout,
                            .spread = spec->spread,
                            .on_ask = spec->on_ask};
        if (spec->api_key) {
                p->headers = text_format("Authorization: Bearer %s\r\n", spec->api_key);
                if (!p->headers)
                        goto fail;
        }
        r = upstream_new(loop, &spec->endpoint, 1, &p->upstream);
        if (r < 0)
                goto fail;
        r = timer_new(loop, on_timer, p, &p->timer);
        if (r < 0)
                goto fail;
        *ret = p;
        return 0;
fail:
        probe_free(p);
        return r;
}

struct probe *probe_free(struct probe *p)
{
        if (!p)
                return NULL;
        probe_hang_up(p);
        upstream_free(p->upstream);
        timer_free(p->timer);
        free(p->headers);
        free(p);
        return NULL;
}

void probe_set_pace(struct probe *p, enum probe_pace pace, usec_t now)
{
        if (p->pace == pace)
                return;
        /* A start begins fast; a load goes on where the start had come to. */
        if (pace == PROBE_STARTING || (pace == PROBE_LOADING_PACE && p->pace != PROBE_STARTING))
                p->step = PACE_FIRST;
        p->pace = pace;
        if (pace == PROBE_STOPPED) {
                timer_set(p->timer, USEC_INFINITY);
                p->health = exchange_cancel(p->health);
        } else if (!p->health) {
                if (pace == PROBE_STARTING)
                        timer_set(p->timer, now);
                else
                        plan_next(p, now);
        }
}

void probe_set_times(struct probe *p, usec_t interval, usec_t timeout)
{
        p->interval = interval;
        p->timeout = timeout;
}

void probe_now(struct probe *p, usec_t now)
{
        if (!p->health && p->pace != PROBE_STOPPED)
                timer_set(p->timer, now);
}

static void on_fetch(void *owner, const struct exchange_answer *a, usec_t now)
{
        struct probe *p = owner;
        char *target = p->queue[0];

        p->fetch = NULL;
        p->n_queue--;
        memmove(p->queue, p->queue + 1, p->n_queue * sizeof p->queue[0]);
        fetch_next(p);
        p->on_fetched(p->owner, target, a->result == EXCHANGE_OK ? a->status : 0, a->body ? a->body : "",
                      a->body_len, now);
        free(target);
}

static void fetch_next(struct probe *p)
{
        struct exchange_spec spec = {
                .method = SLICE("GET"),
                .headers = p->headers,
                .connect_timeout = p->timeout,
                .first_timeout = p->timeout,
                .timeout = p->timeout,
                .body_max = FETCH_BODY_MAX,
        };

        while (!p->fetch && p->n_queue > 0) {
                spec.target = slice_str(p->queue[0]);
                if (upstream_start(p->upstream, &spec, on_fetch, p, &p->fetch) == 0)
                        return;
                p->fetch = NULL;
                free(p->queue[0]);
                p->n_queue--;
                memmove(p->queue, p->queue + 1, p->n_queue * sizeof p->queue[0]);
        }
}

int probe_fetch(struct probe *p, const char *target)
{
        char *copy;

        for (size_t i = 0; i < p->n_queue; i++)
                if (streq(p->queue[i], target))
                        return 0;
        if (p->n_queue >= FETCH_QUEUE)
                return -ENOBUFS;
        copy = strdup(target);
        if (!copy)
                return -ENOMEM;
        p->queue[p->n_queue++] = copy;
        fetch_next(p);
        return 0;
}

static void on_canary(void *owner, const struct exchange_answer *a, usec_t now)
{
        struct probe *p = owner;

        p->canary = NULL;
        p->on_fetched(p->owner, PROBE_CANARY, a->result == EXCHANGE_OK ? a->status : 0, "", 0, now);
}

int probe_canary(struct probe *p, usec_t timeout)
{
        static const char body[] = "{\"prompt\":\"a\",\"n_predict\":1,\"cache_prompt\":false}";
        static const struct iovec iov = {(void *)(uintptr_t)body, sizeof body - 1};
        _cleanup_free_ char *headers =
                text_format("Content-Type: application/json\r\n%s", p->headers ? p->headers : "");
        struct exchange_spec spec = {
                .method = SLICE("POST"),
                .target = SLICE("/completion"),
                .headers = headers,
                .body = &iov,
                .n_body = 1,
                .connect_timeout = timeout,
                .first_timeout = timeout,
                .timeout = timeout,
                .body_max = FETCH_BODY_MAX,
                .fresh = true,
        };

        if (p->canary)
                return 0;
        return headers ? upstream_start(p->upstream, &spec, on_canary, p, &p->canary) : -ENOMEM;
}

void probe_hang_up(struct probe *p)
{
        p->pace = PROBE_STOPPED;
        if (p->timer)
                timer_set(p->timer, USEC_INFINITY);
        p->health = exchange_cancel(p->health);
        p->fetch = exchange_cancel(p->fetch);
        p->canary = exchange_cancel(p->canary);
        for (size_t i = 0; i < p->n_queue; i++)
                free(p->queue[i]);
        p->n_queue = 0;
        if (p->upstream)
                upstream_close_idle(p->upstream);
}

uint64_t probe_bytes(const struct probe *p)
{
        return upstream_counts(p->upstream)->bytes_in;
}
