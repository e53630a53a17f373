/* test_report.c: the JSON of a report, byte for byte where it is contract, in its fullest and its emptiest form. */
#include "fleet/report.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static char *gpus[] = {"GPU-1", NULL};
static const struct report_model models[] = {
        {.id = "qwen",
         .name = "Qwen 2.5",
         .type = "completion",
         .size = 4683073184,
         .modified_at = 1758000000},
        {.id = "q\"2", .name = NULL, .type = "embedding"},
};
static const struct report full = {
        .instance = "qwen-0",
        .model = "qwen",
        .status = "ready",
        .seq = 17,
        .models = models,
        .n_models = 2,
        .last_error = NULL,
        .retries = 0,
        .max_retries = 5,
        .uptime = 3600,
        .started_at = UINT64_C(1795168800) * USEC_PER_SEC + 999999,
        .pid = 4242,
        .gpu = gpus,
        .in_flight = 1,
        .slots = 4,
        .tokens_per_second = 41.52,
        .endpoint = "unix:/run/q.sock",
        .model_path = "qwen.gguf",
        .log_path = "/var/log/q.log",
        .want_up = true,
        .weight = 2.5,
        .context = 8192,
        .modalities = REPORT_VISION | REPORT_AUDIO,
        .has_modalities = true,
        .build = "b1",
        .gpu_verified = "ok",
        .gpu_memory = 4711,
        .restarts = 2,
        .load_time = 1234567,
        .state_since = UINT64_C(1795168800) * USEC_PER_SEC + 7000,
        .limits = {.memory = 1 << 20, .cpus = 1.5, .pids = 40, .problem = "limits.cpus is not kept"},
        .usage = {.has_memory = true,
                  .has_cpu = true,
                  .has_tasks = true,
                  .memory = 4096,
                  .memory_max = 1 << 20,
                  .oom_kills = 1,
                  .tasks = 17,
                  .cpu_seconds = 1.5},
};
/* Nothing known but that it died. */
static const struct report down = {
        .weight = 1,
        .instance = "b",
        .model = "b",
        .status = "crashed",
        .seq = 1,
        .last_error = "killed\nby \x1b[31mSIGSEGV",
        .retries = 2,
        .max_retries = -1,
        .next_retry_at = UINT64_C(1795168800) * USEC_PER_SEC + 250999,
        .tokens_per_second = NAN,
};

#define FULL_DATA                                                                                            \
        "\"status\":\"ready\",\"models\":["                                                                  \
        "{\"id\":\"qwen\",\"name\":\"Qwen 2.5\",\"size\":4683073184,\"type\":\"completion\","                \
        "\"modified_at\":1758000000},"                                                                       \
        "{\"id\":\"q\\\"2\",\"name\":null,\"size\":null,\"type\":\"embedding\",\"modified_at\":null}],"      \
        "\"lastError\":null,\"retries\":0,\"uptime\":3600,\"startedAt\":\"2026-11-20T10:00:00Z\","           \
        "\"pid\":4242,\"gpu\":[\"GPU-1\"],\"nextRetryAt\":null,\"inFlight\":1,\"slots\":4,\"queue\":0,"      \
        "\"tokensPerSecond\":41.5"
#define DOWN_DATA                                                                                            \
        "\"status\":\"crashed\",\"models\":[],\"lastError\":\"killed\\nby "                                  \
        "\\u001b[31mSIGSEGV\",\"retries\":2,"                                                                \
        "\"uptime\":0,\"startedAt\":null,\"pid\":null,\"gpu\":[],"                                           \
        "\"nextRetryAt\":\"2026-11-20T10:00:00.250Z\",\"inFlight\":0,\"slots\":0,\"queue\":0,"               \
        "\"tokensPerSecond\":null"

static void put(struct buffer *b, void (*fn)(struct json_writer *w, const struct report *r),
                const struct report *r)
{
        struct json_writer w;

        buffer_init(b, 0);
        json_begin(&w, b);
        fn(&w, r);
        assert_false(b->failed);
        assert_int_equal(json_check(b->data, b->len, NULL), 0);
}

static void data_is_the_contract(void **state)
{
        struct buffer b;

        (void)state;
        put(&b, report_put_data, &full);
        assert_string_equal(b.data, "{" FULL_DATA "}");
        buffer_finish(&b);
        put(&b, report_put_data, &down);
        assert_string_equal(b.data, "{" DOWN_DATA "}");
        buffer_finish(&b);
}

static void message_wraps_the_data(void **state)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        (void)state;
        buffer_init(&b, 0);
        json_begin(&w, &b);
        report_put_message(&w, &full, UINT64_C(1790000000000999));
        assert_string_equal(b.data, "{\"type\":\"llama_status\",\"instance\":\"qwen-0\",\"seq\":17,"
                                    "\"timestamp\":1790000000000,\"data\":{" FULL_DATA "}}");
}

static void instance_tells_everything(void **state)
{
        struct report some = down;
        struct buffer b;

        (void)state;
        put(&b, report_put_instance, &full);
        assert_string_equal(b.data,
                            "{\"name\":\"qwen-0\",\"model\":\"qwen\"," FULL_DATA
                            ",\"seq\":17,\"maxRetries\":5,\"restarts\":2,\"wantUp\":true,\"adopted\":"
                            "false,\"foreign\":false,\"dynamic\":false,\"onDemand\":false,\"until\":null,"
                            "\"stateSince\":\"2026-11-20T10:00:00.007Z\",\"loadTime\":1.235,"
                            "\"endpoint\":\"unix:/run/q.sock\",\"modelPath\":\"qwen.gguf\","
                            "\"logPath\":\"/var/log/q.log\",\"weight\":2.500,\"context\":8192,"
                            "\"modalities\":[\"vision\",\"audio\"],\"build\":\"b1\",\"gpuVerified\":\"ok\","
                            "\"gpuMemory\":4711,"
                            "\"limits\":{\"memory\":1048576,\"cpus\":1.500,\"pids\":40,"
                            "\"problem\":\"limits.cpus is not kept\"},"
                            "\"usage\":{\"memory\":4096,\"memoryMax\":1048576,\"oomKills\":1,"
                            "\"cpuSeconds\":1.500,\"tasks\":17}}");
        buffer_finish(&b);
        put(&b, report_put_instance, &down);
        assert_string_equal(b.data,
                            "{\"name\":\"b\",\"model\":\"b\"," DOWN_DATA
                            ",\"seq\":1,\"maxRetries\":null,\"restarts\":0,\"wantUp\":false,\"adopted\":"
                            "false,\"foreign\":false,\"dynamic\":false,\"onDemand\":false,\"until\":null,"
                            "\"stateSince\":null,\"loadTime\":null,\"endpoint\":null,\"modelPath\":null,"
                            "\"logPath\":null,\"weight\":1.000,\"context\":null,"
                            "\"modalities\":null,\"build\":null,\"gpuVerified\":null,\"gpuMemory\":null,"
                            "\"limits\":{\"memory\":null,\"cpus\":null,\"pids\":null,\"problem\":null},"
                            "\"usage\":null}");
        buffer_finish(&b);
        some.usage.has_cpu = true; /* a group without controllers */
        put(&b, report_put_instance, &some);
        assert_non_null(strstr(b.data, "\"usage\":{\"memory\":null,\"memoryMax\":null,\"oomKills\":null,"
                                       "\"cpuSeconds\":0.000,\"tasks\":null}"));
        buffer_finish(&b);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(data_is_the_contract),
                cmocka_unit_test(message_wraps_the_data),
                cmocka_unit_test(instance_tells_everything),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
