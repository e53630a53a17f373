/* models.c: the model library: what lies in models_dir, and who uses it. */
#include <inttypes.h>
#include <stdio.h>

#include "base/text.h"
#include "cli/table.h"
#include "cli/verb.h"

/* "7.6B", "137M": how people speak of weights. */
static const char *weights_text(int64_t n, char *buf, size_t size)
{
        static const struct {
                double unit;
                const char *letter;
        } units[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}};

        if (n <= 0)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(units); i++)
                if ((double)n >= units[i].unit) {
                        (void)snprintf(buf, size, "%.*f%s", (double)n / units[i].unit < 10 ? 1 : 0,
                                       (double)n / units[i].unit, units[i].letter);
                        return buf;
                }
        (void)snprintf(buf, size, "%" PRId64, n);
        return buf;
}

static void put_users(struct table *t, const struct json_value *instances)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        for (size_t i = 0; i < json_count(instances); i++)
                (void)buffer_printf(&b, "%s%s", i ? " " : "", json_as_string(json_at(instances, i)));
        table_put(t, COLOUR_GREEN, b.data ? b.data : "");
}

static void put_model(struct table *t, const struct json_value *m)
{
        const char *error = json_get_string(m, "error"), *type = json_get_string(m, "type");
        int64_t size = json_get_int(m, "size", 0), context = json_get_int(m, "context", 0);
        char text[32];

        table_row(t);
        table_put(t, error ? COLOUR_RED : COLOUR_BOLD, json_get_string(m, "file"));
        table_put(t, COLOUR_NONE, json_get_string(m, "architecture"));
        table_put(t, COLOUR_NONE, weights_text(json_get_int(m, "parameters", 0), text, sizeof(text)));
        table_put(t, COLOUR_NONE, json_get_string(m, "quantization"));
        if (context > 0)
                table_printf(t, COLOUR_NONE, "%" PRId64, context);
        else
                table_put(t, COLOUR_NONE, NULL);
        table_put(t, COLOUR_NONE, text_size((uint64_t)MAX(size, (int64_t)0), text, sizeof(text)));
        table_put(t, COLOUR_NONE, type);
        put_users(t, json_get(m, "instances"));
        if (error)
                table_note(t, COLOUR_RED, error);
}

static int print_library(struct cli *cli, const struct json_value *document)
{
        static const struct table_column columns[] = {{.title = "FILE"},
                                                      {.title = "ARCH"},
                                                      {.title = "WEIGHTS", .right = true},
                                                      {.title = "QUANT"},
                                                      {.title = "CONTEXT", .right = true},
                                                      {.title = "SIZE", .right = true},
                                                      {.title = "TYPE"},
                                                      {.title = "USED BY", .flexible = true}};
        const struct json_value *models = json_get(document, "models"),
                                *warnings = json_get(document, "warnings");
        const char *dir = json_get_string(document, "dir"), *error = json_get_string(document, "error");
        _cleanup_buffer_ struct buffer out = {0};
        struct table t;
        int r;

        if (error)
                return cli_fail(cli, "%s", error);
        buffer_init(&out, 0);
        if (json_count(models) == 0) {
                (void)buffer_puts(&out, "no models in ");
                screen_put_text(&out, dir ? dir : "models_dir");
                (void)buffer_puts(&out, ": put GGUF files there\n");
        }
        table_init(&t, columns, ARRAY_SIZE(columns));
        t.untitled = json_count(models) == 0;
        for (size_t i = 0; i < json_count(models); i++)
                put_model(&t, json_at(models, i));
        r = table_print(&t, &cli->screen, 0, &out);
        table_finish(&t);
        if (r < 0)
                return cli_fail(cli, "not enough memory");
        r = cli_print(cli, &out);
        for (size_t i = 0; i < json_count(warnings); i++)
                (void)cli_fail(cli, "%s", json_as_string(json_at(warnings, i)));
        return r;
}

int models_main(struct cli *cli)
{
        _cleanup_answer_ struct client_answer answer = {0};
        _cleanup_value_ struct json_value *document = NULL;
        bool rescan = options_get(&cli->options, "rescan") != NULL;
        int r = cli_get(cli, rescan ? "/api/v1/library?rescan=1" : "/api/v1/library", &answer, &document);

        if (r != CLI_DONE)
                return r;
        return cli->json ? cli_print_answer(cli, &answer) : print_library(cli, document);
}
