/* rows.c: instances read, merged, named and drawn. */
#include "cli/rows.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/text.h"
#include "core/command.h"

enum { NAMES_MAX = 2048 };

static const struct look looks[] = {
        {"ready", "●", COLOUR_GREEN},   {"starting", "◐", COLOUR_BLUE}, {"unhealthy", "◆", COLOUR_AMBER},
        {"draining", "◑", COLOUR_TEAL}, {"stopping", "○", COLOUR_GREY}, {"crashed", "▲", COLOUR_ORANGE},
        {"error", "■", COLOUR_RED},     {"initial", "○", COLOUR_GREY},  {"idle", "○", COLOUR_GREY},
};

const struct look *look_of(const char *status)
{
        static const struct look unknown = {"unknown", "?", COLOUR_NONE};

        for (size_t i = 0; i < ARRAY_SIZE(looks); i++)
                if (streq_ptr(looks[i].status, status))
                        return &looks[i];
        return &unknown;
}

const char *words_of(const char *status)
{
        return streq_ptr(status, "error") ? "in error" : status;
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

usec_t rows_moment(const char *iso)
{
        struct tm tm = {0};
        usec_t fraction = 0, unit = USEC_PER_SEC / 10;
        const char *rest = iso ? strptime(iso, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
        time_t seconds;

        if (!rest)
                return 0;
        if (*rest == '.')
                for (rest++; *rest >= '0' && *rest <= '9'; rest++, unit /= 10)
                        fraction += unit * (usec_t)(*rest - '0');
        seconds = timegm(&tm);
        if (!streq(rest, "Z") || seconds <= 0)
                return 0;
        return (usec_t)seconds * USEC_PER_SEC + fraction;
}

const char *row_model(const char *path)
{
        const char *slash = path && *path == '/' ? strrchr(path, '/') : NULL;

        return slash && slash[1] ? slash + 1 : path;
}

static char *joined(const struct json_value *array)
{
        _cleanup_buffer_ struct buffer b = {0};

        buffer_init(&b, 0);
        for (size_t i = 0; i < json_count(array); i++)
                (void)buffer_printf(&b, "%s%s", i ? "," : "", json_as_string(json_at(array, i)));
        return b.len ? buffer_steal(&b) : NULL;
}

static uint64_t count_of(const struct json_value *v, const char *key)
{
        return (uint64_t)MAX(json_get_int(v, key, 0), (int64_t)0);
}

/* What the feed tells, too. */
static int take_data(struct row *row, const struct json_value *v)
{
        const char *status = json_get_string(v, "status");

        if (!status)
                return -EBADMSG;
        if (text_set(&row->status, status) < 0 ||
            text_set(&row->last_error, json_get_string(v, "lastError")) < 0)
                return -ENOMEM;
        free(row->gpu);
        row->gpu = joined(json_get(v, "gpu"));
        row->slots = count_of(v, "slots");
        row->in_flight = count_of(v, "inFlight");
        row->queue = count_of(v, "queue");
        row->retries = count_of(v, "retries");
        row->pid = json_get_int(v, "pid", 0);
        row->started = rows_moment(json_get_string(v, "startedAt"));
        row->next_try = rows_moment(json_get_string(v, "nextRetryAt"));
        row->tokens_per_second = json_get_double(v, "tokensPerSecond", 0);
        return 0;
}

int row_fill(struct row *row, const struct json_value *v)
{
        const char *name = json_get_string(v, "name"), *model = json_get_string(v, "modelPath");
        struct json_value *first = json_at(json_get(v, "models"), 0);
        int r;

        if (!name)
                return -EBADMSG;
        if (!model)
                model = json_get_string(first, "name");
        if (!model)
                model = json_get_string(v, "model");
        if (text_set(&row->name, name) < 0 || text_set(&row->entry, json_get_string(v, "model")) < 0 ||
            text_set(&row->model, row_model(model)) < 0 ||
            text_set(&row->endpoint, json_get_string(v, "endpoint")) < 0)
                return -ENOMEM;
        row->seq = count_of(v, "seq");
        row->max_retries = json_get_int(v, "maxRetries", -1);
        row->since = rows_moment(json_get_string(v, "stateSince"));
        row->adopted = json_get_bool(v, "adopted", false);
        row->want_up = json_get_bool(v, "wantUp", false);
        row->on_demand = json_get_bool(v, "onDemand", false);
        row->until = rows_moment(json_get_string(v, "until"));
        r = take_data(row, v);
        if (r < 0)
                return r;
        row->foreign = json_get_bool(v, "foreign", false);
        return 0;
}

int row_update(struct row *row, uint64_t seq, const struct json_value *data, bool *ret_changed)
{
        const char *status = json_get_string(data, "status"), *error = json_get_string(data, "lastError");
        bool moved = !streq_ptr(status, row->status), changed = moved || !streq_ptr(error, row->last_error);
        int r = take_data(row, data);

        if (r < 0)
                return r;
        if (moved)
                row->since = time_realtime();
        row->seq = seq;
        row->until = 0; /* the feed does not tell */
        *ret_changed = changed;
        return 0;
}

void row_finish(struct row *row)
{
        free(row->name);
        free(row->entry);
        free(row->status);
        free(row->last_error);
        free(row->model);
        free(row->endpoint);
        free(row->gpu);
        *row = (struct row){0};
}

void rows_finish(struct rows *rows)
{
        for (size_t i = 0; i < rows->n; i++)
                row_finish(&rows->list[i]);
        free(rows->list);
        *rows = (struct rows){0};
}

int rows_fill(struct rows *rows, const struct json_value *document)
{
        const struct json_value *list = json_get(document, "instances");
        size_t n = json_count(list);
        int r;

        rows_finish(rows);
        if (!json_is_array(list))
                return -EBADMSG;
        rows->list = calloc(MAX(n, (size_t)1), sizeof(*rows->list));
        if (!rows->list)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                r = row_fill(&rows->list[rows->n++], json_at(list, i));
                if (r < 0)
                        return r;
        }
        return 0;
}

bool *rows_flags(const struct rows *rows)
{
        return calloc(MAX(rows->n, (size_t)1), sizeof(bool));
}

/* --- naming --------------------------------------------------------------------------------------------------------- */

struct row *rows_find(const struct rows *rows, const char *name)
{
        for (size_t i = 0; i < rows->n; i++)
                if (streq(rows->list[i].name, name))
                        return &rows->list[i];
        return NULL;
}

bool rows_match(const struct rows *rows, const struct row *row, const char *name)
{
        if (streq(name, "all") || streq(row->name, name))
                return true;
        return !rows_find(rows, name) && streq_ptr(row->entry, name);
}

const char *rows_nearest(const struct rows *rows, const char *name)
{
        const char *names[NAMES_MAX];
        size_t n = 0;

        for (size_t i = 0; i < rows->n && n + 2 < NAMES_MAX; i++) {
                names[n++] = rows->list[i].name;
                if (rows->list[i].entry)
                        names[n++] = rows->list[i].entry;
        }
        names[n] = NULL;
        return text_nearest(name, names);
}

/* --- drawing -------------------------------------------------------------------------------------------------------- */

char *row_tries(const struct row *row, usec_t realtime, char *buf, size_t size)
{
        char span[TIME_SPAN_MAX], most[24];
        int n;

        if (row->max_retries < 0)
                (void)snprintf(most, sizeof(most), "∞");
        else
                (void)snprintf(most, sizeof(most), "%lld", (long long)row->max_retries);
        if (row->retries == 0 && !row->next_try) {
                (void)snprintf(buf, size, "-");
                return buf;
        }
        n = snprintf(buf, size, "%llu/%s", (unsigned long long)row->retries, most);
        if (row->next_try && n > 0 && (size_t)n < size) {
                /* Whole seconds, upwards: "in 0 s" is over. */
                usec_t left = usec_sub(row->next_try, realtime);

                left = (left + USEC_PER_SEC - 1) / USEC_PER_SEC * USEC_PER_SEC;
                if (left)
                        (void)snprintf(buf + n, size - (size_t)n, ", next try in %s",
                                       time_span(left, span, sizeof(span)));
                else
                        (void)snprintf(buf + n, size - (size_t)n, ", next try now");
        }
        return buf;
}

char *rows_command(const char *cmdline, size_t len)
{
        _cleanup_buffer_ struct buffer b = {0};
        const char *previous = "";

        buffer_init(&b, 0);
        for (const char *p = cmdline; p < cmdline + len; p += strlen(p) + 1) {
                (void)buffer_printf(&b, "%s%s", p == cmdline ? "" : " ",
                                    command_flag_hides(previous) ? "***" : p);
                previous = p;
        }
        return buffer_steal(&b);
}

static bool is_passing(const char *status)
{
        return streq(status, "starting") || streq(status, "draining") || streq(status, "stopping");
}

/* The time between in whole seconds and without a space, "3s", "4h12m": a column for programs is one word. */
static char *short_span(usec_t later, usec_t earlier, char *buf, size_t size)
{
        char text[TIME_SPAN_MAX];
        usec_t span = usec_sub(later, earlier) / USEC_PER_SEC * USEC_PER_SEC;
        size_t n = 0;

        (void)time_span(span, text, sizeof(text));
        for (const char *p = span ? text : "0s"; *p && n + 1 < size; p++)
                if (*p != ' ')
                        buf[n++] = *p;
        buf[n] = '\0';
        return buf;
}

static void put_figures(struct table *t, const struct row *row, usec_t realtime)
{
        char span[TIME_SPAN_MAX];

        table_put(t, COLOUR_NONE, row->started ? short_span(realtime, row->started, span, sizeof(span)) : "");
        table_put(t, COLOUR_NONE, row->model);
        if (row->pid)
                table_printf(t, COLOUR_NONE, "%lld", (long long)row->pid);
        else
                table_put(t, COLOUR_NONE, "");
        if (row->slots)
                table_printf(t, COLOUR_NONE, "%llu/%llu", (unsigned long long)row->in_flight,
                             (unsigned long long)row->slots);
        else
                table_put(t, COLOUR_NONE, "");
}

static void put_until(struct table *t, const struct row *row, usec_t realtime)
{
        char span[TIME_SPAN_MAX];

        table_put(t, COLOUR_NONE,
                  row->until > realtime ? short_span(row->until, realtime, span, sizeof(span)) : "");
}

static void put_for_people(struct table *t, const struct row *row, bool until, usec_t realtime)
{
        const struct look *look = look_of(row->status);
        char text[96], span[TIME_SPAN_MAX];

        table_row(t);
        table_put(t, look->colour, look->symbol);
        table_put(t, COLOUR_BOLD, row->name);
        if (row->since && is_passing(row->status))
                table_printf(t, look->colour, "%s %s", row->status,
                             short_span(realtime, row->since, span, sizeof(span)));
        else
                table_put(t, look->colour, row->status);
        put_figures(t, row, realtime);
        table_put(t, COLOUR_NONE, row_tries(row, realtime, text, sizeof(text)));
        if (until)
                put_until(t, row, realtime);
        if (row->last_error)
                table_note(t, look->colour, row->last_error);
}

static void put_for_programs(struct table *t, const struct row *row, usec_t realtime)
{
        struct row no_next = *row;
        char text[96], span[TIME_SPAN_MAX];

        table_row(t);
        table_put(t, COLOUR_NONE, row->name);
        table_put(t, COLOUR_NONE, row->status);
        put_figures(t, row, realtime);
        no_next.next_try = 0;
        table_put(t, COLOUR_NONE, row_tries(&no_next, realtime, text, sizeof(text)));
        table_put(t, COLOUR_NONE,
                  row->next_try ? short_span(row->next_try + USEC_PER_SEC - 1, realtime, span, sizeof(span))
                                : "");
        put_until(t, row, realtime);
        table_put(t, COLOUR_NONE, row->last_error);
}

int rows_print(const struct rows *rows, const bool *which, const struct screen *s, usec_t realtime,
               size_t max_lines, struct buffer *out)
{
        static const struct table_column for_people[] = {
                {.title = ""},
                {.title = "NAME"},
                {.title = "STATE"},
                {.title = "UPTIME"},
                {.title = "MODEL", .flexible = true},
                {.title = "PID", .right = true},
                {.title = "SLOTS", .right = true},
                {.title = "RETRIES"},
                {.title = "UNTIL", .right = true}, /* the last: only where something comes on demand */
        };
        static const struct table_column for_programs[] = {
                {.title = "NAME"},
                {.title = "STATE"},
                {.title = "UPTIME"},
                {.title = "MODEL"},
                {.title = "PID", .right = true},
                {.title = "SLOTS", .right = true},
                {.title = "RETRIES"},
                {.title = "NEXT"},
                {.title = "UNTIL"},
                {.title = "ERROR"},
        };
        bool until = false;
        struct table t;
        int r;

        for (size_t i = 0; i < rows->n; i++)
                until |= rows->list[i].on_demand;
        if (s->terminal)
                table_init(&t, for_people, ARRAY_SIZE(for_people) - !until);
        else
                table_init(&t, for_programs, ARRAY_SIZE(for_programs));
        t.note_indent = 1;
        for (size_t i = 0; i < rows->n; i++) {
                if (which && !which[i])
                        continue;
                if (s->terminal)
                        put_for_people(&t, &rows->list[i], until, realtime);
                else
                        put_for_programs(&t, &rows->list[i], realtime);
        }
        r = table_print(&t, s, max_lines, out);
        table_finish(&t);
        return r;
}
