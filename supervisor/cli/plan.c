/* plan.c: on which GPUs instances are or would be started, and what they need. */
#include "cli/plan.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "base/time.h"
#include "cli/table.h"

/* Model files are looked at for so long (5 s); asked again every LOOK_PAUSE. */
enum { LOOKS_MAX = 60 };
#define LOOK_PAUSE (100 * USEC_PER_MSEC)

static const struct table_column of_instances[] = {
        {.title = "INSTANCE", .flexible = true},
        {.title = "STATUS"},
        {.title = "PLAN"},
        {.title = "GPU", .flexible = true},
        {.title = "NEEDS", .right = true},
        {.title = "LEARNED", .right = true},
        {.title = "ESTIMATE", .right = true},
        {.title = "HOLDS", .right = true},
};
static const struct table_column of_gpus[] = {
        {.title = "GPU"},
        {.title = "UUID", .flexible = true},
        {.title = "TOTAL", .right = true},
        {.title = "FREE", .right = true},
        {.title = "LEFT", .right = true},
};

static void put_size(struct table *t, const struct json_value *v, const char *key)
{
        double bytes = json_get_double(v, key, -1);

        if (bytes < 0)
                table_put(t, COLOUR_NONE, NULL);
        else
                table_printf(t, COLOUR_NONE, "%.1fG", bytes / (1 << 30));
}

static bool is_verdict(const struct json_value *x, const char *verdict)
{
        return streq_ptr(json_get_string(x, "verdict"), verdict);
}

static bool is_bad(const struct json_value *x)
{
        return is_verdict(x, "waits") || is_verdict(x, "refused") || is_verdict(x, "tight");
}

/* "GPU 0", as it is called in the plan's list. */
static const char *name_of(const struct json_value *plan, const char *gpu)
{
        const struct json_value *gpus = json_get(plan, "gpus");

        for (size_t i = 0; i < json_count(gpus); i++)
                if (streq_ptr(json_get_string(json_at(gpus, i), "gpu"), gpu))
                        return json_get_string(json_at(gpus, i), "name");
        return gpu;
}

static void put_gpus(struct table *t, const struct json_value *plan, const struct json_value *x)
{
        const struct json_value *list = json_get(x, "gpus");
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        for (size_t i = 0; i < json_count(list); i++)
                (void)buffer_printf(&b, "%s%s", i ? ", " : "",
                                    name_of(plan, json_get_string(json_at(list, i), "gpu")));
        table_put(t, COLOUR_NONE, b.len && !b.failed ? b.data : is_verdict(x, "cpu") ? "CPU" : NULL);
}

static void put_note(struct table *t, const struct json_value *x)
{
        const char *reason = json_get_string(x, "reason"),
                   *sum = json_get_string(json_get(x, "estimate"), "text");

        if (reason)
                table_note(t, is_bad(x) ? COLOUR_RED : COLOUR_DIM, reason);
        else if (sum)
                table_note(t, COLOUR_DIM, sum);
}

static void put_instance(struct table *t, const struct json_value *plan, const struct json_value *x)
{
        table_row(t);
        table_put(t, COLOUR_BOLD, json_get_string(x, "instance"));
        table_put(t, COLOUR_NONE, json_get_string(x, "status"));
        table_put(t,
                  is_verdict(x, "refused")                         ? COLOUR_RED
                  : is_bad(x)                                      ? COLOUR_AMBER
                  : is_verdict(x, "runs") || is_verdict(x, "fits") ? COLOUR_GREEN
                                                                   : COLOUR_DIM,
                  json_get_string(x, "verdict"));
        put_gpus(t, plan, x);
        put_size(t, x, "needs");
        put_size(t, x, "learned");
        put_size(t, json_get(x, "estimate"), "total");
        put_size(t, x, "holds");
        put_note(t, x);
}

static bool is_named(const struct cli *cli, const struct json_value *x)
{
        for (size_t i = 0; i < cli->options.n_plain; i++)
                if (streq_ptr(json_get_string(x, "instance"), cli->options.plain[i]) ||
                    streq_ptr(json_get_string(x, "model"), cli->options.plain[i]))
                        return true;
        return cli->options.n_plain == 0;
}

static const char *unknown_name(const struct cli *cli, const struct json_value *list)
{
        for (size_t i = 0; i < cli->options.n_plain; i++) {
                bool found = false;

                for (size_t k = 0; k < json_count(list) && !found; k++)
                        found = streq_ptr(json_get_string(json_at(list, k), "instance"),
                                          cli->options.plain[i]) ||
                                streq_ptr(json_get_string(json_at(list, k), "model"), cli->options.plain[i]);
                if (!found)
                        return cli->options.plain[i];
        }
        return NULL;
}

static int put_tables(struct cli *cli, const struct json_value *plan, struct buffer *out)
{
        const struct json_value *list = json_get(plan, "instances"), *gpus = json_get(plan, "gpus");
        struct table t;
        int r;

        table_init(&t, of_instances, ARRAY_SIZE(of_instances));
        for (size_t i = 0; i < json_count(list); i++)
                if (is_named(cli, json_at(list, i)))
                        put_instance(&t, plan, json_at(list, i));
        r = table_print(&t, &cli->screen, 0, out);
        table_finish(&t);
        if (r < 0 || json_count(gpus) == 0)
                return r;
        (void)buffer_putc(out, '\n');
        table_init(&t, of_gpus, ARRAY_SIZE(of_gpus));
        for (size_t i = 0; i < json_count(gpus); i++) {
                const struct json_value *g = json_at(gpus, i);

                table_row(&t);
                table_put(&t, COLOUR_BOLD, json_get_string(g, "name"));
                table_put(&t, COLOUR_DIM, json_get_string(g, "gpu"));
                put_size(&t, g, "memoryTotal");
                put_size(&t, g, "memoryFree");
                put_size(&t, g, "memoryLeft");
                if (json_get_string(g, "unusable"))
                        table_note(&t, COLOUR_AMBER, json_get_string(g, "unusable"));
        }
        r = table_print(&t, &cli->screen, 0, out);
        table_finish(&t);
        return r;
}

int plan_show(struct cli *cli, const struct json_value *plan)
{
        const struct json_value *list = json_get(plan, "instances");
        const char *unknown = unknown_name(cli, list);
        _cleanup_buffer_ struct buffer out = {0};
        bool fits = true;
        int r;

        if (unknown)
                return cli_fail(cli, "there is no instance \"%s\"", unknown);
        for (size_t i = 0; i < json_count(list); i++) {
                const struct json_value *x = json_at(list, i);

                if (is_named(cli, x) && is_bad(x) &&
                    (json_get_bool(x, "wanted", false) || cli->options.n_plain > 0))
                        fits = false;
        }
        buffer_init(&out, 0);
        if (cli->json) {
                char *text = json_print(plan, false);

                (void)buffer_printf(&out, "%s\n", text ? text : "{}");
                free(text);
        } else {
                if (json_count(json_get(plan, "gpus")) == 0)
                        (void)buffer_puts(&out, "no GPU is seen on this machine\n");
                if (put_tables(cli, plan, &out) < 0)
                        return cli_fail(cli, "not enough memory");
        }
        r = cli_print(cli, &out);
        return r == CLI_DONE && !fits ? CLI_FAILED : r;
}

int plan_main(struct cli *cli)
{
        for (int i = 0;; i++) {
                _cleanup_answer_ struct client_answer answer = {0};
                _cleanup_value_ struct json_value *document = NULL;
                int r = cli_get(cli, "/api/v1/plan", &answer, &document);

                if (r != CLI_DONE)
                        return r;
                if (json_get_bool(document, "complete", true) || i == LOOKS_MAX)
                        return plan_show(cli, document);
                (void)usleep((useconds_t)LOOK_PAUSE);
        }
}
