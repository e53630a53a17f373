/* rows.h: instances as the API tells them, kept as values that can be drawn. Pure, but for what the JSON costs in memory. */
#ifndef LSV_CLI_ROWS_H
#define LSV_CLI_ROWS_H

#include "base/json.h"
#include "base/time.h"
#include "cli/table.h"

/* How a status looks. */
struct look {
        const char *status, *symbol;
        enum colour colour;
};
/* The status behind "NAME is …". */
const char *words_of(const char *status);
/* That of an unknown status is a question mark. */
const struct look *look_of(const char *status);

struct row {
        char *name, *entry, *status, *last_error, *model, *endpoint;
        uint64_t seq, slots, in_flight, queue, retries;
        int64_t max_retries; /* -1: forever */
        int64_t pid;         /* 0: none */
        usec_t started, next_try,
                since; /* wall clock, 0: none; of the process, of the next try, of the status */
        double tokens_per_second;
        usec_t until; /* when it will be unloaded, wall clock; 0: never, busy, not loaded, or not known since it changed */
        bool adopted, want_up, on_demand;
        bool foreign; /* somebody else's server: only watched, never started or stopped */
        char *gpu;    /* "GPU-…,GPU-…", NULL: none */
};

struct rows {
        struct row *list;
        size_t n, cap;
};

/* From the document of GET /api/v1/instances; what was there before is dropped. 0 or -ENOMEM, -EBADMSG. */
int rows_fill(struct rows *rows, const struct json_value *document);
/* From one instance object. */
int row_fill(struct row *row, const struct json_value *instance);
/* The feed's newest "data" over it; *ret_changed: the status or its error is another one. */
int row_update(struct row *row, uint64_t seq, const struct json_value *data, bool *ret_changed);
void row_finish(struct row *row);
void rows_finish(struct rows *rows);

struct row *rows_find(const struct rows *rows, const char *name);
/* Does `name` mean this row: "all", its own name, or (when no row is called so) its entry's? */
bool rows_match(const struct rows *rows, const struct row *row, const char *name);
/* The nearest name of an instance or entry, NULL: none. */
const char *rows_nearest(const struct rows *rows, const char *name);

/* One false for each row, malloc'd; NULL without memory. */
bool *rows_flags(const struct rows *rows);

/* "2026-11-20T10:00:00Z", with or without a fraction, as microseconds since 1970; 0 for anything else (and NULL). */
usec_t rows_moment(const char *iso);
/* "2/5, next try in 3 s", "-" when there were none. */
char *row_tries(const struct row *row, usec_t realtime, char *buf, size_t size);
/* The model's name for people: the file without its folders, or what hf: named. */
const char *row_model(const char *path);

/* Arguments as /proc/PID/cmdline has them (each ended by a NUL; a NUL follows the last byte) in one line, the values of secret flags
 * as "***"; malloc'd, NULL without memory. */
char *rows_command(const char *cmdline, size_t len);

/* The fleet as `status` shows it: for people with a symbol and the error beneath; in a pipe every column but the last, the
 * error, is one word. `which` NULL: all rows, else those whose flag is set. 0, -ENOMEM. */
int rows_print(const struct rows *rows, const bool *which, const struct screen *s, usec_t realtime,
               size_t max_lines, struct buffer *out);

#endif
