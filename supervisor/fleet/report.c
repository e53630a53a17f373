/* report.c: the one JSON form of an instance. */
#include "fleet/report.h"

#include <stdio.h>

/* "2026-11-20T10:00:00Z", null when it never was. */
static void put_moment(struct json_writer *w, const char *key, usec_t realtime)
{
        char text[TIME_ISO_MAX];

        json_string(w, key, realtime ? time_iso(realtime, text, sizeof(text)) : NULL);
}

/* With milliseconds, for what people count down to: a second is most of a short back-off. */
void report_put_moment(struct json_writer *w, const char *key, usec_t realtime)
{
        char seconds[TIME_ISO_MAX], text[TIME_ISO_MAX + 8];
        size_t n;

        if (!realtime) {
                json_null(w, key);
                return;
        }
        n = strlen(time_iso(realtime, seconds, sizeof(seconds)));
        (void)snprintf(text, sizeof(text), "%.*s.%03uZ", (int)(n ? n - 1 : 0), seconds,
                       (unsigned)(realtime % USEC_PER_SEC / USEC_PER_MSEC));
        json_string(w, key, text);
}

static void put_model(struct json_writer *w, const struct report_model *m)
{
        json_open_object(w);
        json_string(w, "id", m->id);
        json_string(w, "name", m->name);
        if (m->size)
                json_uint(w, "size", m->size);
        else
                json_null(w, "size");
        json_string(w, "type", m->type);
        if (m->modified_at)
                json_int(w, "modified_at", m->modified_at);
        else
                json_null(w, "modified_at");
        json_close_object(w);
}

static void put_members(struct json_writer *w, const struct report *r)
{
        json_string(w, "status", r->status);
        json_key(w, "models");
        json_open_array(w);
        for (size_t i = 0; i < r->n_models; i++)
                put_model(w, r->models + i);
        json_close_array(w);
        json_string(w, "lastError", r->last_error);
        json_uint(w, "retries", r->retries);
        json_uint(w, "uptime", r->uptime);
        put_moment(w, "startedAt", r->started_at);
        if (r->pid > 0)
                json_int(w, "pid", r->pid);
        else
                json_null(w, "pid");
        json_key(w, "gpu");
        json_open_array(w);
        for (char *const *gpu = r->gpu; gpu && *gpu; gpu++)
                json_put_string(w, *gpu);
        json_close_array(w);
        report_put_moment(w, "nextRetryAt", r->next_retry_at);
        json_uint(w, "inFlight", r->in_flight);
        json_uint(w, "slots", r->slots);
        json_uint(w, "queue", r->queue);
        json_double(w, "tokensPerSecond", r->tokens_per_second, 1);
}

void report_put_data(struct json_writer *w, const struct report *r)
{
        json_open_object(w);
        put_members(w, r);
        json_close_object(w);
}

void report_put_message(struct json_writer *w, const struct report *r, usec_t realtime)
{
        json_open_object(w);
        json_string(w, "type", "llama_status");
        json_string(w, "instance", r->instance);
        json_uint(w, "seq", r->seq);
        json_uint(w, "timestamp", realtime / USEC_PER_MSEC);
        json_key(w, "data");
        report_put_data(w, r);
        json_close_object(w);
}

static void put_uint_or_null(struct json_writer *w, const char *key, bool known, uint64_t value)
{
        if (known)
                json_uint(w, key, value);
        else
                json_null(w, key);
}

static void put_limits(struct json_writer *w, const struct report_limits *l)
{
        json_key(w, "limits");
        json_open_object(w);
        put_uint_or_null(w, "memory", l->memory > 0, l->memory);
        if (l->cpus > 0)
                json_double(w, "cpus", l->cpus, 3);
        else
                json_null(w, "cpus");
        put_uint_or_null(w, "pids", l->pids > 0, l->pids);
        json_string(w, "problem", l->problem);
        json_close_object(w);
}

static void put_usage(struct json_writer *w, const struct report_usage *u)
{
        if (!u->has_memory && !u->has_cpu && !u->has_tasks) {
                json_null(w, "usage");
                return;
        }
        json_key(w, "usage");
        json_open_object(w);
        put_uint_or_null(w, "memory", u->has_memory, u->memory);
        put_uint_or_null(w, "memoryMax", u->memory_max > 0, u->memory_max);
        put_uint_or_null(w, "oomKills", u->has_memory, u->oom_kills);
        if (u->has_cpu)
                json_double(w, "cpuSeconds", u->cpu_seconds, 3);
        else
                json_null(w, "cpuSeconds");
        put_uint_or_null(w, "tasks", u->has_tasks, u->tasks);
        json_close_object(w);
}

static void put_modalities(struct json_writer *w, const struct report *r)
{
        if (!r->has_modalities) {
                json_null(w, "modalities");
                return;
        }
        json_key(w, "modalities");
        json_open_array(w);
        if (r->modalities & REPORT_VISION)
                json_put_string(w, "vision");
        if (r->modalities & REPORT_AUDIO)
                json_put_string(w, "audio");
        if (r->modalities & REPORT_VIDEO)
                json_put_string(w, "video");
        json_close_array(w);
}

void report_put_instance(struct json_writer *w, const struct report *r)
{
        json_open_object(w);
        json_string(w, "name", r->instance);
        json_string(w, "model", r->model);
        put_members(w, r);
        json_uint(w, "seq", r->seq);
        if (r->max_retries < 0)
                json_null(w, "maxRetries");
        else
                json_int(w, "maxRetries", r->max_retries);
        json_uint(w, "restarts", r->restarts);
        json_bool(w, "wantUp", r->want_up);
        json_bool(w, "adopted", r->adopted);
        json_bool(w, "foreign", r->foreign);
        json_bool(w, "dynamic", r->dynamic);
        json_bool(w, "onDemand", r->on_demand);
        put_moment(w, "until", r->until);
        report_put_moment(w, "stateSince", r->state_since);
        if (r->load_time)
                json_double(w, "loadTime", (double)r->load_time / (double)USEC_PER_SEC, 3);
        else
                json_null(w, "loadTime");
        json_string(w, "endpoint", r->endpoint);
        json_string(w, "modelPath", r->model_path);
        json_string(w, "logPath", r->log_path);
        json_double(w, "weight", r->weight, 3);
        if (r->context)
                json_uint(w, "context", r->context);
        else
                json_null(w, "context");
        put_modalities(w, r);
        json_string(w, "build", r->build);
        json_string(w, "gpuVerified", r->gpu_verified);
        put_uint_or_null(w, "gpuMemory", r->gpu_memory > 0, r->gpu_memory);
        put_limits(w, &r->limits);
        put_usage(w, &r->usage);
        json_close_object(w);
}
