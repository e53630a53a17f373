/* config_internal.h: what the config_*.c files share: the rows of the table, and the state of one load. Nobody else
 * includes it. */
#ifndef LSV_CORE_CONFIG_INTERNAL_H
#define LSV_CORE_CONFIG_INTERNAL_H

#include "base/buffer.h"
#include "base/json_scan.h"
#include "core/config.h"

/* --- the table -------------------------------------------------------------------------------------------------- */

/* Where a row's key may stand; each place is one struct that `offset` counts from. */
enum config_place {
        PLACE_TOP,      /* struct config */
        PLACE_LISTEN,   /* struct config_listen */
        PLACE_INSTANCE, /* struct config_instance */
        PLACE_GROUP,    /* struct config_group */
        PLACE_HUB,      /* struct config_hub */
        PLACE_COUNT,
};

enum config_type {
        TYPE_GROUP, /* an object of further rows; with KEY_PRESENT a bool at offset says that it was given */
        TYPE_OBJECTS,     /* an array of objects of `element` */
        TYPE_BOOL,        /* bool */
        TYPE_EITHER,      /* bool: one of the two words of `choices` */
        TYPE_UNSIGNED,    /* unsigned, or one of the words of `choices` */
        TYPE_INT,         /* int */
        TYPE_NUMBER,      /* double */
        TYPE_DURATION,    /* usec_t */
        TYPE_SIZE,        /* uint64_t bytes */
        TYPE_STRING,      /* char *, judged by `check` */
        TYPE_PATH,        /* char *, absolute after loading */
        TYPE_PROGRAM,     /* char *: a bare name (looked up on PATH later) or a path */
        TYPE_SECRET_FILE, /* char * path at offset, content at `content` unless that is 0 */
        TYPE_STRINGS,     /* char **, each judged by `check` */
        TYPE_ENV,         /* char ** of "NAME=value", sorted */
        TYPE_CHOICE,      /* int-sized enum: one word of `choices` */
        TYPE_FLAGS,       /* unsigned: an array of words of `choices`, or-ed */
        TYPE_JSON,        /* char *: an object of the user's, kept as JSON text; `check` judges its keys */
        TYPE_REPLICAS,    /* the replicas fields of an instance */
        TYPE_WEIGHTS,     /* the weights of an instance: one number, or a list */
        TYPE_GPU,         /* the gpu fields of an instance */
};

enum {
        KEY_RESTART =
                1, /* a change needs a new process (instances) or a new daemon (else); without it: reload */
        KEY_REQUIRED = 2,
        KEY_UNBUILT = 4,  /* checked, but a warning says that it does nothing in this version */
        KEY_REFUSED = 8,  /* an error says that this version cannot do it */
        KEY_PRESENT = 16, /* TYPE_GROUP: see there */
        KEY_INHERITED =
                32, /* outside `instances`: every instance takes it over, so a change of it is a change of them */
        KEY_INHERITS = 64, /* in an instance: the default is the key of the same name outside */
        KEY_SPAWN = 128,   /* in an instance: makes sense only for a process of ours, not with `adopt` */
        KEY_NOT_EMPTY = 256,
        KEY_RANGE = 512, /* in an instance: makes sense only with replicas {"min", "max"} */
};

struct config_choice {
        const char *word; /* NULL ends the list */
        int value;
};

/* NULL, or what is wrong with it; static text. */
typedef const char *config_check_fn(const char *s);

struct config_key {
        const char *path; /* within its place: "health.timeout" */
        enum config_type type;
        size_t offset, content;
        const char *
                fallback; /* the default as JSON; NULL: none, or found out by the loader (then `help` says how) */
        double min, max; /* numbers, microseconds, bytes (also of JSON text); lengths of lists */
        const struct config_choice *choices;
        config_check_fn *check;
        enum config_place element;
        unsigned flags;
        const char *help; /* one or two sentences for docs and schema */
};

struct config_place_info {
        const char *prefix; /* how docs write it: "", "instances[]." */
        const struct config_key *keys;
        size_t n_keys;
        size_t size; /* of the struct */
};

#define CONFIG_KEYS_MAX 96 /* rows of one place at most; a test counts them */
extern const struct config_place_info config_places[PLACE_COUNT];

const struct config_key *config_key_find(enum config_place place, const char *path);
const char *config_choice_word(const struct config_choice *choices, int value);

/* --- one load --------------------------------------------------------------------------------------------------- */

struct config_doc {
        const char *file; /* as shown; in config->files */
        char *dir;        /* absolute folder that relative paths start at */
        char *text;
        size_t len;
        struct json_scan scan;
        uint32_t *lines; /* offsets where lines begin */
        size_t n_lines;
};

/* Where a value stands. */
struct config_spot {
        const struct config_doc *doc; /* NULL: it is not there */
        uint32_t token;
};

/* One object that was read: itself, and where each of its rows was set. */
struct config_seen {
        struct config_spot self;
        unsigned index; /* of an array's element, in its file */
        struct config_spot at[CONFIG_KEYS_MAX];
};

struct config_load {
        const struct config_env *env;
        struct config *config;
        struct config_problems *problems;
        struct config_doc *docs;
        size_t n_docs;
        struct config_seen *top, *listen, *instances, *groups, *hubs; /* arrays but for top */
        struct buffer path;                                           /* of the key at work, for messages */
        bool failed_memory;
};

/* A problem at a token, with the path at work; without a spot: of the whole main file. */
void config_error(struct config_load *l, struct config_spot at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void config_warning(struct config_load *l, struct config_spot at, const char *fmt, ...) PRINTF_LIKE(3, 4);
void config_error_at(struct config_load *l, const struct config_doc *doc, size_t offset, const char *fmt, ...)
        PRINTF_LIKE(4, 5);
/* "FILE:LINE:COLUMN" of a spot, into buf; returns buf. */
#define CONFIG_SPOT_MAX 512
char *config_spot_text(const struct config_spot *at, char *buf, size_t size);
struct config_where config_where_of(const struct config_spot *at);
/* Makes the path longer; give the returned length to config_path_back. */
size_t config_path_add(struct config_load *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
void config_path_back(struct config_load *l, size_t len);

/* Where the row `path` of an object was set, or the object itself when it was not. */
struct config_spot config_seen_spot(const struct config_seen *seen, enum config_place place,
                                    const char *path);
bool config_seen_has(const struct config_seen *seen, enum config_place place, const char *path);

/* An error or warning at a key of an object, with the key in the path. */
#define KEY_PROBLEM(report, l, seen, place, key, ...)                                                        \
        do {                                                                                                 \
                size_t _back = config_path_add(l, "%s%s", (l)->path.len ? "." : "", key);                    \
                report(l, config_seen_spot(seen, place, key), __VA_ARGS__);                                  \
                config_path_back(l, _back);                                                                  \
        } while (0)

#define CONFIG_FIELD(type, base, offset) ((type *)(void *)((char *)(base) + (offset)))

/* config_value.c: one value into its place in base; problems are reported. True when it was set. */
bool config_value_set(struct config_load *l, struct config_spot at, const struct config_key *key, void *base);
bool config_value_default(struct config_load *l, const struct config_key *key, void *base);

/* The string at a spot, decoded and expanded (malloc'd), or the number; NULL (INFINITY) when there is no good one; only for
 * strings that is reported. */
char *config_take_string(struct config_load *l, struct config_spot at, const char *expected);
double config_take_number(struct config_spot at);

/* config_json.c: TYPE_JSON */
bool config_json_set(struct config_load *l, struct config_spot at, const struct config_key *key, void *base);

/* config_show.c */
void config_value_free(const struct config_key *key, void *base);
/* The value as JSON, secrets masked; false when there is none (a NULL string without default). */
bool config_value_print(const struct config_key *key, const void *base, struct json_writer *w);
bool config_value_equal(const struct config_key *key, const void *a, const void *b);

/* The shortest exact form that time_parse_span (text_parse_size) reads; buf of CONFIG_NUMBER_MAX. */
#define CONFIG_NUMBER_MAX 40
char *config_duration_text(usec_t v, char *buf, size_t size);
char *config_size_text(uint64_t v, char *buf, size_t size);

/* config_expand.c: ${VAR} and $${; 0 with *ret malloc'd, -ENOMEM, -ENOENT with *ret_name (malloc'd) the unset variable, -EINVAL
 * for "${" without a name and "}". */
int config_expand(const struct config_env *env, const char *s, char **ret, char **ret_name);
/* dir + "/" + path unless path is absolute; "//", "/./" and a slash at the end go away. malloc'd. */
char *config_path_join(const char *dir, const char *path);

/* config_args.c: what is wrong with an argument or variable of the user, NULL when nothing; static text. */
const char *config_arg_refused(const char *arg);
const char *config_env_refused(const char *name);
bool config_env_is_gpu(const char *entry); /* "NAME=value" */

/* config_check.c: what only shows when all is read. */
void config_check_all(struct config_load *l);
/* config_refer.c: keys that name entries, and whether what they ask for can be had. */
void config_check_references(struct config_load *l);
/* config_hubs.c */
void config_check_hubs(struct config_load *l);
/* The same for the instance with index i alone, among others that are good. */
const struct config_instance *config_check_added(struct config_load *l, size_t i);

/* config_keep.c: file_ops that remember what they read in *kept, and file_ops that answer out of it. */
struct config_kept *config_kept_new(const char *file, const struct config_env *env);
struct config_kept *config_kept_free(struct config_kept *kept);
void config_kept_record(struct config_kept *kept, const struct file_ops *real, struct config_env *env);
const char *config_kept_file(const struct config_kept *kept);
/* env and its files answer as those that were recorded; *env holds until the next call on kept. */
void config_kept_replay(struct config_kept *kept, struct config_env *env);
bool config_kept_is_whole(const struct config_kept *kept);

/* config.c */
void config_instance_finish(struct config_instance *in);

#endif
