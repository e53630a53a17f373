/* learned.c: a small table with a file. */
#include "fleet/learned.h"

#include <errno.h>
#include <stdio.h>

#include "base/json.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "core/config.h"
#include "host/record.h"

#define FILE_NAME "learned.json"

enum { FILE_BYTES_MAX = 512 * 1024 };

struct entry {
        char key[LEARNED_KEY_MAX], name[CONFIG_NAME_MAX];
        uint64_t bytes;
        usec_t used_at; /* realtime */
};

struct learned {
        struct loop *loop;
        char *dir;
        struct entry entries[LEARNED_MAX];
        size_t n;
};

static struct entry *find(const struct learned *l, const char *key)
{
        for (size_t i = 0; i < l->n; i++)
                if (streq(l->entries[i].key, key))
                        return (struct entry *)&l->entries[i];
        return NULL;
}

static int take(struct learned *l, const struct json_value *v)
{
        const char *key = json_get_string(v, "key"), *name = json_get_string(v, "instance");
        int64_t bytes = json_get_int(v, "bytes", 0), at = json_get_int(v, "usedAt", 0);
        struct entry *e = &l->entries[l->n];

        if (!key || strlen(key) != LEARNED_KEY_MAX - 1 || bytes <= 0 || at < 0)
                return -EBADMSG;
        if (l->n == LEARNED_MAX || find(l, key))
                return 0;
        *e = (struct entry){.bytes = (uint64_t)bytes, .used_at = (usec_t)at};
        (void)snprintf(e->key, sizeof e->key, "%s", key);
        (void)snprintf(e->name, sizeof e->name, "%s", name ? name : "");
        l->n++;
        return 0;
}

static void load(struct learned *l)
{
        _cleanup_free_ char *text = NULL;
        struct json_value *root = NULL;
        const struct json_value *list;
        size_t len;
        int r = record_load(l->dir, FILE_NAME, FILE_BYTES_MAX, &text, &len);

        if (r == -ENOENT)
                return;
        if (r == 0)
                r = json_parse(text, len, &root, NULL);
        list = json_get(root, "learned");
        if (r == 0 && !json_is_array(list))
                r = -EBADMSG;
        for (size_t i = 0; r == 0 && i < json_count(list); i++)
                r = take(l, json_at(list, i));
        json_free(root);
        if (r == 0)
                return;
        l->n = 0;
        log_warn(NULL,
                 "%s/" FILE_NAME
                 " cannot be read (%s): how much GPU memory instances take is estimated until "
                 "they have run again",
                 l->dir, strerror(-r));
        if (text && l->loop)
                (void)record_save_now(l->dir, FILE_NAME ".bad", text, len);
}

static void save(const struct learned *l)
{
        _cleanup_buffer_ struct buffer b;
        struct json_writer w;

        buffer_init(&b, FILE_BYTES_MAX);
        json_begin(&w, &b);
        json_open_object(&w);
        json_key(&w, "learned");
        json_open_array(&w);
        for (size_t i = 0; i < l->n; i++) {
                const struct entry *e = l->entries + i;

                json_open_object(&w);
                json_string(&w, "key", e->key);
                json_string(&w, "instance", e->name);
                json_uint(&w, "bytes", e->bytes);
                json_uint(&w, "usedAt", e->used_at);
                json_close_object(&w);
        }
        json_close_array(&w);
        json_close_object(&w);
        if (b.failed)
                return;
        if (record_save(l->loop, l->dir, FILE_NAME, b.data, b.len) == -EAGAIN)
                (void)record_save_now(l->dir, FILE_NAME, b.data, b.len);
}

uint64_t learned_get(const struct learned *l, const char *key)
{
        const struct entry *e = l && key[0] ? find(l, key) : NULL;

        return e ? e->bytes : 0;
}

bool learned_put(struct learned *l, const char *key, const char *name, uint64_t bytes, usec_t realtime)
{
        struct entry *e = find(l, key);

        if (!key[0] || !bytes || bytes > INT64_MAX || (e && bytes <= e->bytes))
                return false;
        if (!e && l->n < LEARNED_MAX)
                e = &l->entries[l->n++];
        if (!e) {
                e = l->entries;
                for (size_t i = 1; i < l->n; i++)
                        if (l->entries[i].used_at < e->used_at)
                                e = &l->entries[i];
        }
        *e = (struct entry){.bytes = bytes, .used_at = realtime};
        (void)snprintf(e->key, sizeof e->key, "%s", key);
        (void)snprintf(e->name, sizeof e->name, "%s", name);
        save(l);
        return true;
}

int learned_new(struct loop *loop, const char *state_dir, struct learned **ret)
{
        struct learned *l = calloc(1, sizeof *l);

        if (!l)
                return -ENOMEM;
        l->loop = loop;
        l->dir = strdup(state_dir);
        if (!l->dir) {
                free(l);
                return -ENOMEM;
        }
        load(l);
        *ret = l;
        return 0;
}

struct learned *learned_free(struct learned *l)
{
        if (!l)
                return NULL;
        free(l->dir);
        free(l);
        return NULL;
}
