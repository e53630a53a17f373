/* test_exposition.c: the text is Prometheus 0.0.4 by the rules of its format, in whatever slices it is written; figures arrive
 * where they belong. */
#include "http/exposition.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "fake_fleet.h"
#include "fake_hubs.h"

static struct fleet *make_fleet(size_t n)
{
        struct fleet *f = calloc(1, sizeof(*f));
        static char names[FAKE_MAX][32];

        assert_non_null(f);
        for (size_t i = 0; i < n; i++) {
                (void)snprintf(names[i], sizeof(names[i]), "in-%zu", i);
                fake_fleet_add(f, names[i], i % 4 ? "ready" : "crashed");
        }
        return f;
}

static enum exposition_format format;

static char *render(struct fleet *f, const struct exposition_facts *facts, size_t slice, size_t *ret_slices)
{
        struct exposition *x;
        struct buffer all, part;
        size_t n = 0;
        bool more = true;

        assert_int_equal(exposition_new(f, facts, format, &x), 0);
        assert_int_equal(exposition_gather(x, f), 0);
        buffer_init(&all, 0);
        while (more) {
                buffer_init(&part, 0);
                more = exposition_more(x, &part, slice);
                assert_false(part.failed);
                /* A slice is what was asked for and one row of one instance or model at most. */
                assert_true(part.len < slice + 8192);
                assert_int_equal(buffer_append(&all, part.data, part.len), 0);
                buffer_finish(&part);
                n++;
        }
        exposition_free(x);
        if (ret_slices)
                *ret_slices = n;
        return buffer_steal(&all);
}

static size_t count_of(const char *text, const char *what)
{
        size_t n = 0;

        for (; (text = strstr(text, what)); text += strlen(what))
                n++;
        return n;
}

static void assert_line(const char *text, const char *line)
{
        _cleanup_free_ char *whole = text_format("\n%s\n", line);

        if (!strstr(text, whole))
                fail_msg("missing: %s", line);
}

static const struct exposition_facts facts = {
        .feed = {.subscribers_ws = 3,
                 .subscribers_sse = 2,
                 .subscribers_socketio = 1,
                 .messages = 10,
                 .coalesced = 4},
        .server = {.accepted = 7,
                   .requests = 9,
                   .bad_requests = 2,
                   .connections = 5,
                   .bodies = 1234,
                   .queued = 567,
                   .timeouts_head = 6,
                   .timeouts_body = 3,
                   .accept_pauses = 2},
        .process = {.cpu_seconds = 1.25, .rss = 4096, .open_fds = 12},
        .gate_refused = {[GATE_HOST] = 8, [GATE_ORIGIN] = 1},
        .follow_skipped = 77,
        .uptime = 90500000,
        .started_realtime = UINT64_C(1795168800250000),
        .realtime = UINT64_C(1795168890750000),
        .loop_lag = 1500,
        .loop_turn = 2500,
        .loop_delays = {.counts = {[1] = 1, [2] = 2, [LOOP_DELAY_BUCKETS] = 1}, .sum = 2.5},
};

static void figures_arrive(void **state)
{
        struct fleet *f = make_fleet(2);
        _cleanup_free_ char *text = NULL;

        (void)state;
        f->reports[1].uptime = 3600;
        f->reports[1].restarts = 4;
        f->reports[1].slots = 8;
        f->reports[1].load_time = 1500000;
        f->reports[1].tokens_per_second = 41.5;
        f->deaths[1][2] = 3;
        f->restarts[1][2] = 3;
        f->reports[1].next_retry_at = facts.realtime + 1500000;
        f->figures[1].probes = UINT64_C(9007199254740991);
        f->figures[1].log_skipped_bytes = 55;
        f->figures[1].probe_latency[0] = 5;
        f->figures[1].probe_latency[2] = 2;
        f->figures[1].probe_latency[FLEET_LATENCY_BUCKETS] = 1;
        f->figures[1].probe_latency_sum = 6.0125;
        f->reload_error = "x";
        f->reports[1].usage = (struct report_usage){
                .has_memory = true, .has_cpu = true, .memory = 4096, .oom_kills = 2, .cpu_seconds = 1.5};
        text = render(f, &facts, 1 << 20, NULL);
        assert_int_equal(f->looks, 1);
        assert_line(text, "llama_supervisor_instance_memory_bytes{instance=\"in-1\",model=\"tiny\"} 4096");
        assert_line(text, "llama_supervisor_instance_oom_kills_total{instance=\"in-1\",model=\"tiny\"} 2");
        assert_line(text,
                    "llama_supervisor_instance_cpu_seconds_total{instance=\"in-1\",model=\"tiny\"} 1.5");
        /* What is not known is not told: no limit, no controller for tasks, no group at all. */
        assert_null(strstr(text, "instance_memory_limit_bytes{"));
        assert_null(strstr(text, "instance_tasks{"));
        assert_null(strstr(text, "instance_memory_bytes{instance=\"in-0\""));

        assert_true(starts_with(text, "# HELP "));
        assert_line(text, "llama_supervisor_build_info{version=\"" LSV_VERSION "\"} 1");
        assert_line(text, "llama_supervisor_uptime_seconds 90.5");
        assert_line(text, "llama_supervisor_start_time_seconds 1795168800.25");
        assert_line(text, "llama_supervisor_config_last_reload_successful 0");
        assert_line(text, "llama_supervisor_ready 1");
        assert_line(text, "llama_supervisor_instances{state=\"ready\"} 1");
        assert_line(text, "llama_supervisor_instances{state=\"crashed\"} 1");
        assert_line(text, "llama_supervisor_instances{state=\"idle\"} 0");
        assert_line(text,
                    "llama_supervisor_instance_state{instance=\"in-0\",model=\"tiny\",state=\"crashed\"} 1");
        assert_line(text,
                    "llama_supervisor_instance_state{instance=\"in-0\",model=\"tiny\",state=\"ready\"} 0");
        assert_line(text, "llama_supervisor_instance_uptime_seconds{instance=\"in-1\",model=\"tiny\"} 3600");
        assert_line(text,
                    "llama_supervisor_restarts_total{instance=\"in-1\",model=\"tiny\",cause=\"asked\"} 1");
        assert_line(text,
                    "llama_supervisor_restarts_total{instance=\"in-1\",model=\"tiny\",cause=\"signal\"} 3");
        assert_line(text, "llama_supervisor_instance_backoff_seconds{instance=\"in-1\",model=\"tiny\"} 1.5");
        assert_line(text, "llama_supervisor_instance_backoff_seconds{instance=\"in-0\",model=\"tiny\"} 0");
        assert_line(text,
                    "llama_supervisor_restarts_total{instance=\"in-0\",model=\"tiny\",cause=\"asked\"} 0");
        assert_line(text,
                    "llama_supervisor_deaths_total{instance=\"in-1\",model=\"tiny\",cause=\"signal\"} 3");
        assert_line(text,
                    "llama_supervisor_deaths_total{instance=\"in-1\",model=\"tiny\",cause=\"unknown\"} 0");
        assert_null(strstr(text, "cause=\"oom_killed\""));
        assert_line(text, "llama_supervisor_instance_slots{instance=\"in-1\",model=\"tiny\"} 8");
        assert_line(text, "llama_supervisor_instance_load_seconds{instance=\"in-1\",model=\"tiny\"} 1.5");
        assert_line(text,
                    "llama_supervisor_instance_tokens_per_second{instance=\"in-1\",model=\"tiny\"} 41.5");
        assert_line(text, "llama_supervisor_probes_total{instance=\"in-1\",model=\"tiny\"} 9007199254740991");
        assert_line(text, "llama_supervisor_log_skipped_bytes_total{instance=\"in-1\",model=\"tiny\"} 55");
        assert_line(text, "llama_supervisor_probe_latency_seconds_bucket{instance=\"in-1\",model=\"tiny\",le="
                          "\"0.001\"} 5");
        assert_line(text, "llama_supervisor_probe_latency_seconds_bucket{instance=\"in-1\",model=\"tiny\",le="
                          "\"0.005\"} 7");
        assert_line(text, "llama_supervisor_probe_latency_seconds_bucket{instance=\"in-1\",model=\"tiny\",le="
                          "\"5.0\"} 7");
        assert_line(text, "llama_supervisor_probe_latency_seconds_bucket{instance=\"in-1\",model=\"tiny\",le="
                          "\"+Inf\"} 8");
        assert_line(text,
                    "llama_supervisor_probe_latency_seconds_sum{instance=\"in-1\",model=\"tiny\"} 6.0125");
        assert_line(text, "llama_supervisor_probe_latency_seconds_count{instance=\"in-1\",model=\"tiny\"} 8");
        assert_line(text, "llama_supervisor_feed_subscribers{carrier=\"sse\"} 2");
        assert_line(text, "llama_supervisor_feed_coalesced_total 4");
        assert_line(text, "llama_supervisor_http_connections 5");
        assert_line(text, "llama_supervisor_http_buffered_bytes{of=\"bodies\"} 1234");
        assert_line(text, "llama_supervisor_http_buffered_bytes{of=\"answers\"} 567");
        assert_line(text, "llama_supervisor_http_accepted_total 7");
        assert_line(text, "llama_supervisor_http_refused_total{reason=\"host\"} 8");
        assert_line(text, "llama_supervisor_http_refused_total{reason=\"malformed\"} 2");
        assert_line(text, "llama_supervisor_http_timeouts_total{stage=\"head\"} 6");
        assert_line(text, "llama_supervisor_http_timeouts_total{stage=\"body\"} 3");
        assert_line(text, "llama_supervisor_http_accept_pauses_total 2");
        assert_line(text, "llama_supervisor_log_follow_skipped_bytes_total 77");
        assert_line(text, "llama_supervisor_loop_lag_seconds 0.0015");
        assert_line(text, "llama_supervisor_loop_longest_turn_seconds 0.0025");
        assert_line(text, "process_cpu_seconds_total 1.25");
        assert_line(text, "process_resident_memory_bytes 4096");
        free(f);
}

static void open_metrics(void **state)
{
        struct fleet *f = make_fleet(3);
        _cleanup_free_ char *plain = NULL, *open = NULL;

        (void)state;
        plain = render(f, &facts, 1000, NULL);
        format = EXPOSITION_OPENMETRICS;
        open = render(f, &facts, 1000, NULL);
        format = EXPOSITION_TEXT;
        assert_line(plain, "# TYPE llama_supervisor_feed_coalesced_total counter");
        assert_line(open, "# TYPE llama_supervisor_feed_coalesced counter");
        assert_line(open, "llama_supervisor_feed_coalesced_total 4");
        assert_line(open, "llama_supervisor_load_seconds_bucket{le=\"2.5\"} 2");
        assert_line(open, "llama_supervisor_load_seconds_sum 3.5");
        assert_line(open, "llama_supervisor_loop_delay_seconds_bucket{le=\"0.005\"} 3");
        assert_line(open, "llama_supervisor_loop_delay_seconds_bucket{le=\"+Inf\"} 4");
        assert_null(strstr(plain, "# EOF"));
        assert_string_equal(open + strlen(open) - 7, "\n# EOF\n");
        assert_ptr_equal(strstr(open, "# EOF"), open + strlen(open) - 6);
        /* the samples are the same */
        assert_int_equal(strlen(plain) - strlen(open) + strlen("# EOF\n"),
                         2 * 6 * count_of(plain, " counter\n"));
        free(f);
}

static void what_the_reader_likes(void **state)
{
        static const struct {
                const char *accept;
                enum exposition_format format;
        } cases[] = {
                {"", EXPOSITION_TEXT},
                {"*/*", EXPOSITION_TEXT},
                {"text/html, application/xhtml+xml, */*;q=0.8", EXPOSITION_TEXT},
                {"application/openmetrics-text", EXPOSITION_OPENMETRICS},
                {"application/openmetrics-text;version=1.0.0,application/"
                 "openmetrics-text;version=0.0.1;q=0.75,"
                 "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                 EXPOSITION_OPENMETRICS},
                {"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5",
                 EXPOSITION_OPENMETRICS},
                {"Application/OpenMetrics-Text ; Version=1.0.0 ; q=0.5, text/plain ; q=0.4",
                 EXPOSITION_OPENMETRICS},
                {"application/openmetrics-text;q=0.2, text/plain", EXPOSITION_TEXT},
                {"application/openmetrics-text;q=0", EXPOSITION_TEXT},
                {"application/openmetrics-text;q=7", EXPOSITION_TEXT},
                {"application/openmetrics-text;version=2.0.0", EXPOSITION_TEXT},
                {"application/openmetrics-textual", EXPOSITION_TEXT},
                {",;,;=,q=,application/openmetrics-text;;", EXPOSITION_OPENMETRICS},
        };

        (void)state;
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                if (exposition_format_of(slice_str(cases[i].accept)) != cases[i].format)
                        fail_msg("%s", cases[i].accept);
}

static void slices_make_the_same_text(void **state)
{
        struct fleet *f = make_fleet(1000);
        _cleanup_free_ char *whole = NULL, *bytes = NULL, *pages = NULL;
        size_t slices;

        (void)state;
        whole = render(f, &facts, SIZE_MAX / 2, &slices);
        assert_int_equal(slices, 1);
        bytes = render(f, &facts, 1, NULL);
        pages = render(f, &facts, 32768, &slices);
        assert_true(slices > 20);
        assert_string_equal(whole, bytes);
        assert_string_equal(whole, pages);
        free(f);
}

/* The format's rules: each family has HELP, then TYPE, then all of its lines and never again; each series is there once. */
static void format_rules(void **state)
{
        struct fleet *f = make_fleet(3);
        _cleanup_free_ char *text = NULL;
        char *seen[512] = {0}, *save = NULL;
        const char *family = "", *type;
        size_t n = 0, len = 0;

        (void)state;
        text = render(f, &facts, 4096, NULL);
        assert_int_equal(text[strlen(text) - 1], '\n');
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *name;

                if (starts_with(line, "# HELP ")) {
                        family = line + strlen("# HELP ");
                        len = strcspn(family, " ");
                        assert_true(starts_with(family, "llama_supervisor_") ||
                                    starts_with(family, "process_"));
                        type = strtok_r(NULL, "\n", &save);
                        if (!type || !starts_with(type, "# TYPE ") || strncmp(type + 7, family, len) != 0)
                                fail_msg("no TYPE behind %s", line);
                        /* A counter is called so, and nothing else is. */
                        if ((memcmp(family + len - 6, "_total", 6) == 0) !=
                            ends_with(type ? type : "", " counter"))
                                fail_msg("%s: %s", line, type);
                        name = text_format("# %.*s", (int)len, family);
                } else {
                        assert_int_equal(strncmp(line, family, len), 0);
                        name = text_format("%.*s", (int)(strrchr(line, ' ') - line), line);
                }
                assert_true(name && len > 6 && n < ARRAY_SIZE(seen));
                for (size_t i = 0; i < n; i++)
                        if (streq_ptr(seen[i], name))
                                fail_msg("twice: %s", name);
                seen[n++] = name;
        }
        for (size_t i = 0; i < n; i++)
                free(seen[i]);
        free(f);
}

static void labels_are_escaped(void **state)
{
        struct fleet *f = make_fleet(1);
        _cleanup_free_ char *text = NULL;

        (void)state;
        f->reports[0].model = "a\"b\\c\nd";
        text = render(f, &facts, 4096, NULL);
        assert_line(text, "llama_supervisor_restarts_total{instance=\"in-0\",model=\"a\\\"b\\\\c\\nd\",cause="
                          "\"asked\"} 0");
        free(f);
}

static void an_empty_fleet(void **state)
{
        struct fleet *f = make_fleet(0);
        _cleanup_free_ char *text = render(f, &facts, 100, NULL);

        (void)state;
        assert_line(text, "llama_supervisor_instances{state=\"ready\"} 0");
        assert_line(text, "# TYPE llama_supervisor_restarts_total counter");
        free(f);
}

/* What changes after the snapshot is not in the text: one scrape is of one moment. */
static void a_snapshot_is_of_one_moment(void **state)
{
        struct fleet *f = make_fleet(2);
        struct exposition *x;
        struct buffer b;

        (void)state;
        f->deaths[0][1] = 2;
        assert_int_equal(exposition_new(f, &facts, EXPOSITION_TEXT, &x), 0);
        assert_int_equal(exposition_gather(x, f), 0);
        f->n = 0;
        f->deaths[0][1] = 9;
        f->reports[0].instance = "moved";
        buffer_init(&b, 0);
        while (exposition_more(x, &b, b.len + 100))
                ;
        assert_line(b.data,
                    "llama_supervisor_deaths_total{instance=\"in-0\",model=\"tiny\",cause=\"oom_killed\"} 2");
        assert_null(strstr(b.data, "moved"));
        buffer_finish(&b);
        exposition_free(x);
        free(f);
}

static void our_own_process(void **state)
{
        struct process_facts before, after;
        int fd;

        (void)state;
        process_facts_read(&before);
        fd = dup(2);
        process_facts_read(&after);
        assert_int_equal(after.open_fds, before.open_fds + 1);
        close(fd);
        assert_true(before.rss > 100000 && before.rss < before.virtual_size);
        assert_true(before.threads >= 1 && before.max_fds > before.open_fds);
}

/* Requests by model: counted where they belong, nothing for what never happened. */
static void requests_arrive(void **state)
{
        struct fleet *f = make_fleet(1);
        _cleanup_free_ char *text = NULL;
        struct activity_record *rec;

        (void)state;
        assert_int_equal(activity_new(&f->activity), 0);
        rec = activity_begin(f->activity, "qwen \"7b\"", 1000000, 1);
        rec->first_byte = 1200000;
        rec->tokens_in = 7;
        rec->tokens_out = 32;
        activity_end(f->activity, rec, "ok", 3000000);
        activity_end(f->activity, activity_begin(f->activity, "qwen \"7b\"", 1, 1), "queue_full", 2);
        (void)activity_begin(f->activity, "other", 1, 1);
        f->relays.tries = 9;
        f->relays.failures[RELAY_FAIL_RESET] = 4;
        text = render(f, &facts, 100, NULL);
        assert_line(text, "llama_supervisor_requests_running{model=\"other\"} 1");
        assert_line(text, "llama_supervisor_requests_running{model=\"qwen \\\"7b\\\"\"} 0");
        assert_line(text, "llama_supervisor_requests_total{model=\"other\",outcome=\"ok\"} 0");
        assert_line(text, "llama_supervisor_requests_total{model=\"qwen \\\"7b\\\"\",outcome=\"ok\"} 1");
        assert_line(text,
                    "llama_supervisor_requests_total{model=\"qwen \\\"7b\\\"\",outcome=\"queue_full\"} 1");
        assert_line(text,
                    "llama_supervisor_request_tokens_total{model=\"qwen \\\"7b\\\"\",direction=\"in\"} 7");
        assert_line(text,
                    "llama_supervisor_request_tokens_total{model=\"qwen \\\"7b\\\"\",direction=\"out\"} 32");
        assert_line(text, "llama_supervisor_request_first_token_seconds_bucket{model=\"qwen "
                          "\\\"7b\\\"\",le=\"0.1\"} 0");
        assert_line(text, "llama_supervisor_request_first_token_seconds_bucket{model=\"qwen "
                          "\\\"7b\\\"\",le=\"0.25\"} 1");
        assert_line(text, "llama_supervisor_request_first_token_seconds_sum{model=\"qwen \\\"7b\\\"\"} 0.2");
        assert_line(
                text,
                "llama_supervisor_request_duration_seconds_sum{model=\"qwen \\\"7b\\\"\",result=\"ok\"} 2");
        assert_line(text, "llama_supervisor_request_duration_seconds_count{model=\"qwen "
                          "\\\"7b\\\"\",result=\"failed\"} 1");
        assert_line(text, "llama_supervisor_request_duration_seconds_count{model=\"other\",result=\"ok\"} 0");
        assert_null(strstr(text, "result=\"cancelled\""));
        assert_line(text, "llama_supervisor_upstream_tries_total 9");
        assert_line(text, "llama_supervisor_upstream_failures_total{reason=\"b\"} 4");
        activity_free(f->activity);
        free(f);
}

static void models_on_demand_arrive(void **state)
{
        struct fleet *f = make_fleet(1);
        _cleanup_free_ char *text = NULL;

        (void)state;
        f->demand[0] = (struct demand_figures){.model = "a \"7b\"",
                                               .on_demand = true,
                                               .loaded = true,
                                               .replicas = 1,
                                               .loads = 5,
                                               .load_failures = 2,
                                               .unloads = {[UNLOAD_EVICTED] = 3},
                                               .wait_sum = 7.5};
        f->demand[0].waits[0] = 4;
        f->demand[0].waits[DEMAND_WAIT_BUCKETS] = 1;
        f->demand[1] = (struct demand_figures){
                .model = "b", .scales = true, .replicas = 3, .scaled_out = 4, .scaled_in = 2};
        f->n_demand = 2;
        text = render(f, &facts, 100, NULL);
        assert_line(text, "llama_supervisor_model_loaded{model=\"a \\\"7b\\\"\"} 1");
        assert_line(text, "llama_supervisor_model_loads_total{model=\"a \\\"7b\\\"\"} 5");
        assert_line(text, "llama_supervisor_model_load_failures_total{model=\"a \\\"7b\\\"\"} 2");
        assert_line(text, "llama_supervisor_model_unloads_total{model=\"a \\\"7b\\\"\",reason=\"idle\"} 0");
        assert_line(text,
                    "llama_supervisor_model_unloads_total{model=\"a \\\"7b\\\"\",reason=\"evicted\"} 3");
        assert_line(text,
                    "llama_supervisor_model_load_wait_seconds_bucket{model=\"a \\\"7b\\\"\",le=\"300.0\"} 4");
        assert_line(text, "llama_supervisor_model_load_wait_seconds_count{model=\"a \\\"7b\\\"\"} 5");
        assert_line(text, "llama_supervisor_model_replicas{model=\"b\"} 3");
        assert_line(text, "llama_supervisor_model_scalings_total{model=\"b\",direction=\"out\"} 4");
        assert_null(strstr(text, "model_loaded{model=\"b\""));
        assert_null(strstr(text, "model_replicas{model=\"a"));
        free(f);
}

static void queues_arrive(void **state)
{
        struct fleet *f = make_fleet(2);
        _cleanup_free_ char *text = NULL;

        (void)state;
        f->queue =
                (struct dispatch_figures){.waiting = 17, .retried = 3, .wait_sum = 9.5, .shedding_since = 1};
        f->queue.refused[REFUSAL_SHED] = 2;
        f->queue.by[SIDE_LOCAL].seconds = 12.5;
        f->queue.by[SIDE_HUB].seconds = 4.25;
        f->queue.waits[0] = 4;
        f->queue.waits[2] = 1;
        f->seat = (struct dispatch_seat){.leased = 3,
                                         .slots = 4,
                                         .ejected_until = 99,
                                         .ejections = 5,
                                         .served = 100,
                                         .failed = 7,
                                         .cancelled = 6};
        text = render(f, &facts, 100, NULL);
        assert_line(text, "llama_supervisor_model_queue{model=\"tiny\"} 17");
        assert_line(text, "llama_supervisor_model_queue_wait_seconds_bucket{model=\"tiny\",le=\"2.0\"} 4");
        assert_line(text, "llama_supervisor_model_queue_wait_seconds_bucket{model=\"tiny\",le=\"3.0\"} 5");
        assert_line(text, "llama_supervisor_model_queue_wait_seconds_sum{model=\"tiny\"} 9.5");
        assert_line(text, "llama_supervisor_model_refused_total{model=\"tiny\",reason=\"queue_full\"} 0");
        assert_line(text, "llama_supervisor_model_refused_total{model=\"tiny\",reason=\"overloaded\"} 2");
        assert_null(strstr(text, "reason=\"queue_timeout\""));
        assert_line(text, "llama_supervisor_model_retries_total{model=\"tiny\"} 3");
        assert_line(text, "llama_supervisor_model_shedding{model=\"tiny\"} 1");
        assert_line(text, "llama_supervisor_model_slot_seconds_total{model=\"tiny\",source=\"local\"} 12.5");
        assert_line(text, "llama_supervisor_model_slot_seconds_total{model=\"tiny\",source=\"hub\"} 4.25");
        assert_non_null(strstr(text, "llama_supervisor_instance_leases{instance="));
        assert_non_null(strstr(text, "outcome=\"failed\"} 7\n"));
        assert_non_null(strstr(text, "outcome=\"cancelled\"} 6\n"));
        free(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(figures_arrive),
                cmocka_unit_test(open_metrics),
                cmocka_unit_test(what_the_reader_likes),
                cmocka_unit_test(slices_make_the_same_text),
                cmocka_unit_test(format_rules),
                cmocka_unit_test(labels_are_escaped),
                cmocka_unit_test(an_empty_fleet),
                cmocka_unit_test(a_snapshot_is_of_one_moment),
                cmocka_unit_test(our_own_process),
                cmocka_unit_test(requests_arrive),
                cmocka_unit_test(models_on_demand_arrive),
                cmocka_unit_test(queues_arrive),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
