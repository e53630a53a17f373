/* exposition.c: a snapshot of figures, and one row per metric family that writes it down.
 * 1,000 instances are about 30,000 lines: numbers and labels are put together by hand, since printf would take ten times as long. */
#include "http/exposition.h"

#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet/summary.h"
#include "http/exposition_demand.h"
#include "http/exposition_gateway.h"
#include "http/exposition_gpus.h"
#include "http/exposition_hubs.h"
#include "http/exposition_part.h"
#include "http/exposition_queue.h"

#define PREFIX EXPOSITION_PREFIX

/* One instance at the moment of the snapshot. */
struct sample {
        struct exposition_sample base; /* instance="…",model="…" */
        size_t deaths; /* first of n_causes deaths in counts[], behind which as many restarts are */
        const char *const *causes; /* static names */
        size_t n_causes;
        size_t status;
        uint64_t uptime, restarts, retries, in_flight, slots, queue, gpu_memory;
        double tokens_per_second, load_seconds, backoff;
        bool want_up;
        struct report_usage usage;
        struct fleet_figures figures; /* its pointers are not used after the snapshot */
};

struct exposition {
        struct exposition_facts facts;
        struct summary summary;
        bool ready, reload_failed;
        struct fleet_load_figures loads;
        struct exposition_part part; /* of instances, and of the daemon itself */
        uint64_t *counts;            /* by cause */
        size_t n_counts, max_counts;
        struct exposition_gateway *gateway;
        struct exposition_queue *queue;
        struct exposition_demand *demand;
        struct exposition_gpus *gpus;
        struct exposition_hubs *hubs;
        enum exposition_format format;
        bool ended;
};

/* --- rows ----------------------------------------------------------------------------------------------------------- */

static const struct exposition *exposition_of(const struct exposition_part *p)
{
        return CONTAINER_OF(p, const struct exposition, part);
}

static void each_state(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                       struct buffer *out)
{
        const struct sample *s = sample;

        for (size_t i = 0; i < SUMMARY_STATUSES; i++)
                exposition_part_put_count(p, row, s, "state", summary_statuses[i], out, i == s->status);
}

/* Only of those that live in a control group which tells it. */
static bool has_memory(const void *sample)
{
        return ((const struct sample *)sample)->usage.has_memory;
}

static bool has_memory_limit(const void *sample)
{
        return ((const struct sample *)sample)->usage.memory_max > 0;
}

static bool has_tasks(const void *sample)
{
        return ((const struct sample *)sample)->usage.has_tasks;
}

static bool has_cpu(const void *sample)
{
        return ((const struct sample *)sample)->usage.has_cpu;
}

/* The first cause ("unknown") is always there, so that every instance has a series before its first death; the others
 * only once they happened: 1,000 instances times all causes would be most of the text. */
static void each_deaths(const struct exposition_part *p, const struct exposition_row *row, const void *sample,
                        struct buffer *out)
{
        const struct sample *s = sample;
        const uint64_t *deaths = exposition_of(p)->counts + s->deaths;

        for (size_t i = 0; i < s->n_causes; i++)
                if (i == 0 || deaths[i])
                        exposition_part_put_count(p, row, s, "cause", s->causes[i], out, deaths[i]);
}

/* What was asked for is always there: by a person, a reload, on demand. */
static void each_restarts(const struct exposition_part *p, const struct exposition_row *row,
                          const void *sample, struct buffer *out)
{
        const struct sample *s = sample;
        const uint64_t *restarts = exposition_of(p)->counts + s->deaths + s->n_causes;
        uint64_t asked = s->restarts;

        for (size_t i = 0; i < s->n_causes; i++)
                asked -= MIN(asked, restarts[i]);
        exposition_part_put_count(p, row, s, "cause", "asked", out, asked);
        for (size_t i = 0; i < s->n_causes; i++)
                if (restarts[i])
                        exposition_part_put_count(p, row, s, "cause", s->causes[i], out, restarts[i]);
}

static void each_latency(const struct exposition_part *p, const struct exposition_row *row,
                         const void *sample, struct buffer *out)
{
        const struct sample *s = sample;

        exposition_part_put_histogram(p, row, s, fleet_latency_bounds, FLEET_LATENCY_BUCKETS,
                                      s->figures.probe_latency, s->figures.probe_latency_sum, out);
}

static void once_u64(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);
        uint64_t v;

        memcpy(&v, (const char *)&x->facts + row->offset, sizeof(v));
        exposition_put_plain(out, row->name, NULL, NULL, (double)v);
}

static void once_unsigned(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        const struct exposition *x = exposition_of(p);
        unsigned v;

        memcpy(&v, (const char *)&x->facts + row->offset, sizeof(v));
        exposition_put_plain(out, row->name, NULL, NULL, v);
}

static void once_seconds(const struct exposition_part *p, const struct exposition_row *row,
                         struct buffer *out)
{
        const struct exposition *x = exposition_of(p);
        usec_t v;

        memcpy(&v, (const char *)&x->facts + row->offset, sizeof(v));
        exposition_put_plain(out, row->name, NULL, NULL, (double)v / (double)USEC_PER_SEC);
}

static void once_loads(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_histogram(out, row->name, "", 0, fleet_load_bounds, FLEET_LOAD_BUCKETS, x->loads.loads,
                                 x->loads.load_sum);
}

static void once_delay(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_histogram(out, row->name, "", 0, loop_delay_bounds, LOOP_DELAY_BUCKETS,
                                 x->facts.loop_delays.counts, x->facts.loop_delays.sum);
}

static void once_build(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        (void)p;
        exposition_put_plain(out, row->name, "version", LSV_VERSION, 1);
}

static void once_states(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        for (size_t i = 0; i < SUMMARY_STATUSES; i++)
                exposition_put_plain(out, row->name, "state", summary_statuses[i], x->summary.counts[i]);
}

static void once_ready(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, NULL, NULL, x->ready);
}

static void once_reload(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, NULL, NULL, !x->reload_failed);
}

static void once_subscribers(const struct exposition_part *p, const struct exposition_row *row,
                             struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "carrier", "websocket", x->facts.feed.subscribers_ws);
        exposition_put_plain(out, row->name, "carrier", "sse", x->facts.feed.subscribers_sse);
        exposition_put_plain(out, row->name, "carrier", "socketio", x->facts.feed.subscribers_socketio);
}

static void once_buffered(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "of", "bodies", (double)x->facts.server.bodies);
        exposition_put_plain(out, row->name, "of", "answers", (double)x->facts.server.queued);
}

static void once_refused(const struct exposition_part *p, const struct exposition_row *row,
                         struct buffer *out)
{
        const struct exposition *x = exposition_of(p);
        const struct server_counts *s = &x->facts.server;

        exposition_put_plain(out, row->name, "reason", "connections", (double)s->refused_cap);
        exposition_put_plain(out, row->name, "reason", "address", (double)s->refused_address);
        exposition_put_plain(out, row->name, "reason", "queued", (double)s->refused_queued);
        exposition_put_plain(out, row->name, "reason", "bodies", (double)s->refused_bodies);
        exposition_put_plain(out, row->name, "reason", "accept", (double)s->accept_errors);
        exposition_put_plain(out, row->name, "reason", "malformed", (double)s->bad_requests);
        exposition_put_plain(out, row->name, "reason", "busy", (double)x->facts.busy);
        for (int v = GATE_PASS + 1; v < GATE_VERDICTS; v++)
                exposition_put_plain(out, row->name, "reason", gate_verdict_name((enum gate_verdict)v),
                                     (double)x->facts.gate_refused[v]);
        for (int v = AUTH_PASS + 1; v < AUTH_VERDICTS; v++)
                exposition_put_plain(out, row->name, "reason", auth_verdict_name((enum auth_verdict)v),
                                     (double)x->facts.auth.refused[v]);
}

static void once_gateway_refused(const struct exposition_part *p, const struct exposition_row *row,
                                 struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        for (int r = 0; r < GATEWAY_REFUSALS; r++)
                exposition_put_plain(out, row->name, "reason", gateway_refusal_name((enum gateway_refusal)r),
                                     (double)x->facts.gateway.refused[r]);
}

static void once_key_reloads(const struct exposition_part *p, const struct exposition_row *row,
                             struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "result", "ok", (double)x->facts.auth.reloads);
        exposition_put_plain(out, row->name, "result", "failed", (double)x->facts.auth.reloads_failed);
}

static void once_upgrades(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "result", "done", (double)x->facts.upgrades.done);
        exposition_put_plain(out, row->name, "result", "postponed", (double)x->facts.upgrades.postponed);
        exposition_put_plain(out, row->name, "result", "failed", (double)x->facts.upgrades.failed);
}

static void once_handshakes(const struct exposition_part *p, const struct exposition_row *row,
                            struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "result", "ok", (double)x->facts.server.tls_handshakes);
        exposition_put_plain(out, row->name, "result", "failed", (double)x->facts.server.tls_failures);
        exposition_put_plain(out, row->name, "result", "plain_text", (double)x->facts.server.tls_plain);
}

static void once_certificates(const struct exposition_part *p, const struct exposition_row *row,
                              struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        for (size_t i = 0; i < x->facts.n_certificates; i++)
                exposition_put_plain(out, row->name, "listen", x->facts.certificates[i].listen,
                                     (double)x->facts.certificates[i].until / USEC_PER_SEC);
}

static void once_certificate_reloads(const struct exposition_part *p, const struct exposition_row *row,
                                     struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "result", "ok", (double)x->facts.tls_reloads);
        exposition_put_plain(out, row->name, "result", "failed", (double)x->facts.tls_reloads_failed);
}

static void once_timeouts(const struct exposition_part *p, const struct exposition_row *row,
                          struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, "stage", "head", (double)x->facts.server.timeouts_head);
        exposition_put_plain(out, row->name, "stage", "idle", (double)x->facts.server.timeouts_idle);
        exposition_put_plain(out, row->name, "stage", "body", (double)x->facts.server.timeouts_body);
        exposition_put_plain(out, row->name, "stage", "write", (double)x->facts.server.timeouts_write);
        exposition_put_plain(out, row->name, "stage", "scrape", (double)x->facts.scrapes_cut);
}

static void once_cpu(const struct exposition_part *p, const struct exposition_row *row, struct buffer *out)
{
        const struct exposition *x = exposition_of(p);

        exposition_put_plain(out, row->name, NULL, NULL, x->facts.process.cpu_seconds);
}

#define OF_SAMPLE(member) offsetof(struct sample, member)
#define OF_FACTS(member)  offsetof(struct exposition_facts, member)

static const struct exposition_row rows[] = {
        {PREFIX "build_info", "gauge", "The version of the daemon, always 1.", .once = once_build},
        {PREFIX "start_time_seconds", "gauge", "When the daemon started, in seconds since 1970.",
         .once = once_seconds, .offset = OF_FACTS(started_realtime)},
        {PREFIX "uptime_seconds", "gauge", "For how long the daemon has been running.", .once = once_seconds,
         .offset = OF_FACTS(uptime)},
        {PREFIX "ready", "gauge", "1 when enough instances are ready (/ready).", .once = once_ready},
        {PREFIX "config_last_reload_successful", "gauge", "0 when the last reload found errors.",
         .once = once_reload},
        {PREFIX "instances", "gauge", "Instances in each state.", .once = once_states},

        {PREFIX "instance_state", "gauge", "1 for the state that the instance is in, 0 for the others.",
         .each = each_state},
        {PREFIX "instance_wanted", "gauge", "1 when the instance is wished up.", .each = exposition_each_bool,
         .offset = OF_SAMPLE(want_up)},
        {PREFIX "instance_uptime_seconds", "gauge", "For how long the instance has been up, 0 when down.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(uptime)},
        {PREFIX "restarts_total", "counter",
         "Times the instance was started again, by what it had died of; asked: it had been stopped.",
         .each = each_restarts},
        {PREFIX "deaths_total", "counter", "Deaths of the instance by cause.", .each = each_deaths},
        {PREFIX "instance_retries", "gauge", "Tries since the instance was last well for long enough.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(retries)},
        {PREFIX "instance_backoff_seconds", "gauge",
         "Time until the instance is tried again, 0: no try is due.", .each = exposition_each_double,
         .offset = OF_SAMPLE(backoff)},
        {PREFIX "instance_load_seconds", "gauge", "From spawn to ready at the last start, 0 unknown.",
         .each = exposition_each_double, .offset = OF_SAMPLE(load_seconds)},
        {PREFIX "load_seconds", "histogram", "From spawn to ready, of all starts.", .once = once_loads},
        {PREFIX "instance_gpu_memory_bytes", "gauge",
         "Memory of GPUs that the instance holds, as the driver tells; 0 where it does not.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(gpu_memory)},
        {PREFIX "instance_slots", "gauge", "Parallel sequences of the instance.", .each = exposition_each_u64,
         .offset = OF_SAMPLE(slots)},
        {PREFIX "instance_in_flight", "gauge", "Requests that run on the instance.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(in_flight)},
        {PREFIX "instance_queue", "gauge", "Requests that wait for the instance's model.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(queue)},
        {PREFIX "instance_tokens_per_second", "gauge", "Tokens that the instance generates per second.",
         .each = exposition_each_double, .offset = OF_SAMPLE(tokens_per_second)},
        {PREFIX "instance_memory_bytes", "gauge",
         "Main memory of all processes of the instance, page cache included (its control group).",
         .each = exposition_each_u64, .is_there = has_memory, .offset = OF_SAMPLE(usage.memory)},
        {PREFIX "instance_memory_limit_bytes", "gauge", "The limit that is in force for it.",
         .each = exposition_each_u64, .is_there = has_memory_limit, .offset = OF_SAMPLE(usage.memory_max)},
        {PREFIX "instance_oom_kills_total", "counter",
         "Processes of the instance that an out-of-memory killer took.", .each = exposition_each_u64,
         .is_there = has_memory, .offset = OF_SAMPLE(usage.oom_kills)},
        {PREFIX "instance_cpu_seconds_total", "counter", "CPU time of all processes of the instance.",
         .each = exposition_each_double, .is_there = has_cpu, .offset = OF_SAMPLE(usage.cpu_seconds)},
        {PREFIX "instance_tasks", "gauge", "Processes and threads of the instance.",
         .each = exposition_each_u64, .is_there = has_tasks, .offset = OF_SAMPLE(usage.tasks)},
        {PREFIX "probes_total", "counter", "Health probes sent.", .each = exposition_each_u64,
         .offset = OF_SAMPLE(figures.probes)},
        {PREFIX "probe_failures_total", "counter", "Health probes that failed.", .each = exposition_each_u64,
         .offset = OF_SAMPLE(figures.probe_failures)},
        {PREFIX "probe_latency_seconds", "histogram", "How long answered health probes took.",
         .each = each_latency},
        {PREFIX "log_bytes_total", "counter", "Bytes that the instance wrote into its log.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(figures.log_bytes)},
        {PREFIX "log_skipped_bytes_total", "counter", "Bytes of the log that came too fast to be read.",
         .each = exposition_each_u64, .offset = OF_SAMPLE(figures.log_skipped_bytes)},

        {PREFIX "feed_subscribers", "gauge", "Subscribers of the status feed.", .once = once_subscribers},
        {PREFIX "feed_messages_total", "counter", "Messages sent to subscribers.", .once = once_u64,
         .offset = OF_FACTS(feed.messages)},
        {PREFIX "feed_coalesced_total", "counter", "Messages that a newer one of the same instance replaced.",
         .once = once_u64, .offset = OF_FACTS(feed.coalesced)},
        {PREFIX "feed_refused_total", "counter", "Subscribers refused.", .once = once_u64,
         .offset = OF_FACTS(feed.refused)},
        {PREFIX "feed_handshakes_refused_total", "counter", "WebSocket handshakes refused.", .once = once_u64,
         .offset = OF_FACTS(feed.ws.refused)},
        {PREFIX "feed_protocol_errors_total", "counter",
         "WebSockets closed because the client broke a rule of the protocol.", .once = once_u64,
         .offset = OF_FACTS(feed.ws.broken)},
        {PREFIX "feed_closed_slow_total", "counter", "Subscribers closed because they read too slowly.",
         .once = once_u64, .offset = OF_FACTS(feed.closed_slow)},

        {PREFIX "http_connections", "gauge", "Open HTTP connections.", .once = once_unsigned,
         .offset = OF_FACTS(server.connections)},
        {PREFIX "http_buffered_bytes", "gauge",
         "Bytes held for others: bodies of open requests, answers that their readers have not taken.",
         .once = once_buffered},
        {PREFIX "http_accepted_total", "counter", "HTTP connections accepted.", .once = once_u64,
         .offset = OF_FACTS(server.accepted)},
        {PREFIX "http_requests_total", "counter", "HTTP requests read.", .once = once_u64,
         .offset = OF_FACTS(server.requests)},
        {PREFIX "http_refused_total", "counter", "Connections and requests refused before any route.",
         .once = once_refused},
        {PREFIX "http_errors_total", "counter", "Requests answered 4xx by the router.", .once = once_u64,
         .offset = OF_FACTS(router_errors)},
        {PREFIX "gateway_refused_total", "counter", "Requests for models refused before any queue.",
         .once = once_gateway_refused},
        {PREFIX "gateway_comments_total", "counter", "Comments told in streams that wait for an instance.",
         .once = once_u64, .offset = OF_FACTS(gateway.comments)},
        {PREFIX "keys", "gauge", "API keys in force.", .once = once_unsigned, .offset = OF_FACTS(keys)},
        {PREFIX "keys_reloads_total", "counter", "Times that the keys file changed and was read again.",
         .once = once_key_reloads},
        {PREFIX "upgrades_total", "counter",
         "Upgrades of the daemon in place, by how they ended, since its process began.",
         .once = once_upgrades},
        {PREFIX "tls_handshakes_total", "counter", "TLS handshakes by how they ended.",
         .once = once_handshakes},
        {PREFIX "tls_certificate_expiry_timestamp_seconds", "gauge",
         "When the certificate of a listener expires, in seconds since 1970.", .once = once_certificates},
        {PREFIX "tls_certificate_reloads_total", "counter",
         "Times that another certificate was read, or the files turned out wrong.",
         .once = once_certificate_reloads},
        {PREFIX "http_timeouts_total", "counter", "Connections closed by a deadline.", .once = once_timeouts},
        {PREFIX "http_accept_pauses_total", "counter", "Times that accepting paused for want of descriptors.",
         .once = once_u64, .offset = OF_FACTS(server.accept_pauses)},
        {PREFIX "http_clients_gone_total", "counter", "Clients that left before their answer was whole.",
         .once = once_u64, .offset = OF_FACTS(server.clients_gone)},
        {PREFIX "log_followers", "gauge", "Clients that follow logs.", .once = once_unsigned,
         .offset = OF_FACTS(followers)},
        {PREFIX "log_follow_skipped_bytes_total", "counter", "Bytes of logs that slow followers did not get.",
         .once = once_u64, .offset = OF_FACTS(follow_skipped)},
        {PREFIX "log_lost_total", "counter", "Lines of the daemon's own log that the journal did not take.",
         .once = once_u64, .offset = OF_FACTS(log_lost)},
        {PREFIX "loop_lag_seconds", "gauge", "The latest that a timer was since the last scrape.",
         .once = once_seconds, .offset = OF_FACTS(loop_lag)},
        {PREFIX "loop_longest_turn_seconds", "gauge",
         "The longest that the loop was busy at a time since the last scrape.", .once = once_seconds,
         .offset = OF_FACTS(loop_turn)},

        {PREFIX "loop_delay_seconds", "histogram", "How late timers were.", .once = once_delay},

        {"process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.",
         .once = once_cpu},
        {"process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", .once = once_u64,
         .offset = OF_FACTS(process.rss)},
        {"process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", .once = once_u64,
         .offset = OF_FACTS(process.virtual_size)},
        {"process_open_fds", "gauge", "Number of open file descriptors.", .once = once_unsigned,
         .offset = OF_FACTS(process.open_fds)},
        {"process_max_fds", "gauge", "Maximum number of open file descriptors.", .once = once_unsigned,
         .offset = OF_FACTS(process.max_fds)},
        {"process_threads", "gauge", "Number of threads.", .once = once_unsigned,
         .offset = OF_FACTS(process.threads)},
        {"process_start_time_seconds", "gauge", "Start time of the process since 1970 in seconds.",
         .once = once_seconds, .offset = OF_FACTS(started_realtime)},
};

bool exposition_more(struct exposition *x, struct buffer *out, size_t enough)
{
        if (exposition_part_more(&x->part, rows, ARRAY_SIZE(rows), out, enough, x->format) ||
            exposition_gateway_more(x->gateway, out, enough, x->format) ||
            exposition_queue_more(x->queue, out, enough, x->format) ||
            exposition_demand_more(x->demand, out, enough, x->format) ||
            exposition_gpus_more(x->gpus, out, enough, x->format) ||
            exposition_hubs_more(x->hubs, out, enough, x->format))
                return true;
        if (x->format == EXPOSITION_OPENMETRICS && !x->ended)
                (void)buffer_puts(out, "# EOF\n");
        x->ended = true;
        return false;
}

/* --- the snapshot --------------------------------------------------------------------------------------------------- */

static int keep_counts(struct exposition *x, struct sample *s)
{
        const struct fleet_figures *g = &s->figures;
        size_t n = 0;

        while (g->causes && g->deaths_by_cause && g->restarts_by_cause && g->causes[n])
                n++;
        if (x->n_counts + 2 * n > x->max_counts) {
                size_t max = MAX(x->max_counts * 2, x->n_counts + 2 * n);
                uint64_t *more = reallocarray(x->counts, max, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                x->counts = more;
                x->max_counts = max;
        }
        if (n) {
                memcpy(x->counts + x->n_counts, g->deaths_by_cause, n * sizeof(*x->counts));
                memcpy(x->counts + x->n_counts + n, g->restarts_by_cause, n * sizeof(*x->counts));
        }
        s->deaths = x->n_counts;
        s->causes = g->causes;
        s->n_causes = n;
        x->n_counts += 2 * n;
        return 0;
}

static int take_sample(struct exposition *x, struct fleet *fleet, size_t i, struct sample *s)
{
        const struct report *r = fleet_report(fleet, i);
        int e;

        e = fleet_figures(fleet, i, &s->figures);
        if (e < 0)
                return e;
        s->status = summary_status_index(r->status);
        s->uptime = r->uptime;
        s->restarts = r->restarts;
        s->retries = r->retries;
        s->in_flight = r->in_flight;
        s->slots = r->slots;
        s->queue = r->queue;
        s->gpu_memory = r->gpu_memory;
        s->tokens_per_second = r->tokens_per_second;
        s->load_seconds = (double)r->load_time / (double)USEC_PER_SEC;
        if (r->next_retry_at > x->facts.realtime)
                s->backoff = (double)(r->next_retry_at - x->facts.realtime) / (double)USEC_PER_SEC;
        s->want_up = r->want_up;
        s->usage = r->usage;
        exposition_part_label(&x->part, "instance", r->instance);
        exposition_part_label(&x->part, "model", r->model);
        return keep_counts(x, s);
}

int exposition_new(struct fleet *fleet, const struct exposition_facts *facts, enum exposition_format format,
                   struct exposition **ret)
{
        struct exposition *x = calloc(1, sizeof(*x));
        struct sample *s;
        int r;

        if (!x)
                return -ENOMEM;
        x->facts = *facts;
        x->format = format;
        r = exposition_part_init(&x->part, fleet_count(fleet), sizeof(struct sample));
        fleet_look(fleet, NULL);
        while (r == 0 && (s = exposition_part_add(&x->part)))
                r = take_sample(x, fleet, x->part.n - 1, s);
        if (r == 0 && exposition_part_failed(&x->part))
                r = -ENOMEM;
        if (r < 0) {
                exposition_free(x);
                return r;
        }
        summary_of(fleet, &x->summary);
        fleet_load_figures(fleet, &x->loads);
        x->ready = fleet_is_ready(fleet, NULL, NULL);
        x->reload_failed = fleet_reload_error(fleet) != NULL;
        *ret = x;
        return 0;
}

int exposition_gather(struct exposition *x, struct fleet *fleet)
{
        int r = exposition_gateway_new(fleet, &x->gateway);

        if (r == 0)
                r = exposition_queue_new(fleet, &x->queue);
        if (r == 0)
                r = exposition_demand_new(fleet, &x->demand);
        if (r == 0)
                r = exposition_gpus_new(fleet, &x->gpus);
        if (r == 0)
                r = exposition_hubs_new(x->facts.hubs, &x->hubs);
        return r;
}

struct exposition *exposition_free(struct exposition *x)
{
        if (!x)
                return NULL;
        x->gateway = exposition_gateway_free(x->gateway);
        x->queue = exposition_queue_free(x->queue);
        x->demand = exposition_demand_free(x->demand);
        x->gpus = exposition_gpus_free(x->gpus);
        x->hubs = exposition_hubs_free(x->hubs);
        exposition_part_finish(&x->part);
        free(x->counts);
        free(x);
        return NULL;
}

/* --- our own process -------------------------------------------------------------------------------------------------- */

/* Linux 6.2 and later tell the number as the folder's size; before, the entries are counted. */
static unsigned count_fds(void)
{
        struct stat st;
        unsigned n = 0;
        DIR *dir;

        if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
                return (unsigned)st.st_size;
        dir = opendir("/proc/self/fd");
        if (!dir)
                return 0;
        for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
                n += e->d_name[0] != '.';
        closedir(dir);
        return n ? n - 1 : 0; /* without the folder itself */
}

void process_facts_read(struct process_facts *ret)
{
        struct process_facts p = {0};
        struct rlimit limit;
        unsigned long long user, system, threads, size, pages;
        const char *at;
        char text[1024];
        ssize_t n = -1;
        int fd;

        fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
                n = read(fd, text, sizeof(text) - 1);
                close(fd);
        }
        text[n > 0 ? n : 0] = '\0';
        /* Behind the name, which may hold anything: state is field 3; utime 14, stime 15, threads 20, vsize 23, rss 24. */
        at = strrchr(text, ')');
        if (at && sscanf(at + 1,
                         " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %*s %*s %*s %*s %llu %*s "
                         "%*s %llu %llu",
                         &user, &system, &threads, &size, &pages) == 5) {
                p.cpu_seconds = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
                p.threads = (unsigned)threads;
                p.virtual_size = size;
                p.rss = pages * (uint64_t)sysconf(_SC_PAGESIZE);
        }
        p.open_fds = count_fds();
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
                p.max_fds = (unsigned)MIN(limit.rlim_cur, (rlim_t)UINT32_MAX);
        *ret = p;
}
