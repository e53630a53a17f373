/* report.c: one hub as REST, the feed and the CLI tell of it. */
#include <errno.h>

#include "hub/hubs.h"

static void put_seconds(struct json_writer *w, const char *key, usec_t span)
{
        json_double(w, key, (double)span / (double)USEC_PER_SEC, 3);
}

int hub_report_put(const struct hub_report *r, int64_t now_ms, usec_t now, struct json_writer *w)
{
        uint64_t failed = 0;

        json_open_object(w);
        json_string(w, "name", r->name);
        json_string(w, "driver", r->driver);
        json_string(w, "url", r->url);
        json_string(w, "worker", r->worker);
        json_string(w, "state", hub_state_name(r->state));
        json_string(w, "why", r->why);
        json_int(w, "since", now_ms - (int64_t)(usec_sub(now, r->since) / 1000));
        if (r->retry_at == USEC_INFINITY)
                json_null(w, "retryIn");
        else
                put_seconds(w, "retryIn", usec_sub(r->retry_at, now));
        json_string(w, "lastError", r->last_error);
        if (r->last_error)
                json_int(w, "lastErrorAt", r->last_error_at);
        else
                json_null(w, "lastErrorAt");
        json_bool(w, "inbound", r->inbound);
        json_bool(w, "submit", r->submits);
        json_uint(w, "credits", r->credits);
        json_uint(w, "running", r->running);
        json_uint(w, "waiting", r->waiting);
        json_uint(w, "outbox", r->outbox);
        json_key(w, "jobs");
        json_open_object(w);
        json_uint(w, "claimed", r->claimed);
        json_uint(w, "completed", r->completed);
        for (unsigned i = 0; i < HUB_FAILS; i++)
                failed += r->failed[i];
        json_uint(w, "failed", failed);
        json_key(w, "failures");
        json_open_object(w);
        for (unsigned i = 0; i < HUB_FAILS; i++)
                json_uint(w, hub_fail_name((enum hub_fail)i), r->failed[i]);
        json_close_object(w);
        json_uint(w, "released", r->released);
        json_uint(w, "lost", r->lost);
        json_uint(w, "already", r->already);
        json_uint(w, "rerun", r->rerun);
        json_uint(w, "adopted", r->adopted);
        json_uint(w, "refused", r->refused);
        json_uint(w, "tokens", r->tokens);
        json_close_object(w);
        json_key(w, "submissions");
        json_open_object(w);
        json_uint(w, "submitted", r->submitted);
        json_uint(w, "failed", r->submit_failed);
        json_uint(w, "open", r->submitting);
        json_close_object(w);
        json_key(w, "link");
        json_open_object(w);
        json_uint(w, "connects", r->link.connects);
        json_uint(w, "disconnects", r->link.disconnects);
        json_uint(w, "refused", r->link.refused);
        json_uint(w, "droppedChunks", r->link.dropped_chunks);
        json_uint(w, "errors", r->link.errors);
        json_uint(w, "bytesIn", r->link.bytes_in);
        json_uint(w, "bytesOut", r->link.bytes_out);
        json_close_object(w);
        json_close_object(w);
        return w->out->failed ? -ENOBUFS : 0;
}
